"""What the model is asked (paper, appendices B and C); words are the paper's unless marked."""

from __future__ import annotations

from collections.abc import Sequence

from invert_rl.llavaction.mqa import options_text

PERSPECTIVES = {
    "egocentric": "You are seeing this video from egocentric view and you are the person. Your hands are sometimes "
    "interacting with objects. What action are you doing?",
    "allocentric": "The video is taken from egocentric view. The person's hands are sometimes interacting with "
    "objects. What action is the person doing?",
    "none": "",  # [C]: the options alone
}
"""Appendix C.2."""
BRIEFLY = "Given multiple choices, format your answer briefly such as 'A. move knife'."
"""[R]"""
TIME = "The provided video lasts for {seconds:.2f} seconds, and {frames} frames are uniformly sampled from it. "
"""[R], in front of a task's text where ``time_instruction`` is on."""
PRIORS = (
    "{two:.2f} seconds ago, you started an action {two_text}. {one:.2f} seconds ago, you started an action {one_text}."
)
"""Appendix C.5."""
CURRENTLY = "What action are you currently performing? Here are the options of actions you can select:"
"""Appendix C.5."""
DETECTION = (
    "The provided video contains an action {narration} that lasts {length:.2f} seconds. What is the relative start and "
    "end time of the action in seconds? Format it as 'start_timestamp: end_timestamp' and round to 2 decimal places."
)
"""Appendix C.3."""
DIRECT = "What action are you performing? Give a short sentence such as 'move knife'."
"""Appendix C.4."""
CAPTION = "Describe in details what you see from the video frames. Try to focus on what you are doing."
"""Appendix C.1."""


def time_instruction(seconds: float, frames: int) -> str:
    """How long the clip is (seconds) and how many frames of it are shown."""
    return TIME.format(seconds=seconds, frames=frames)


def choice_prompt(
    options: Sequence[str],
    perspective: str = "egocentric",
    priors: Sequence[tuple[float, str]] = (),
) -> str:
    """The multiple-choice question, options as ``A. …`` lines.

    With the perspective "none" the options stand alone. ``priors`` are the two actions before, each with how
    many seconds ago it started, the earlier first; with them the question is that of appendix C.5.
    """
    if perspective == "none" and not priors:
        return options_text(options)
    if not priors:
        return "\n".join((PERSPECTIVES[perspective], BRIEFLY, options_text(options)))
    (two, two_text), (one, one_text) = priors
    before = PRIORS.format(two=two, two_text=two_text, one=one, one_text=one_text)
    return "\n".join((f"{before} {CURRENTLY}", BRIEFLY, options_text(options)))


def detection_prompt(narration: str, length: float) -> str:
    """The question for the borders of an action that lasts ``length`` seconds inside the clip."""
    return DETECTION.format(narration=narration, length=length)


def caption_request(narration: str, start: float, end: float) -> str:
    """What to ask another model for the caption of a clip (appendix B.1); this library asks nobody.

    The answer is to be an object with ``caption`` and ``disagree_with_human_annotation``.
    """
    return (
        "You are viewing video frames from an egocentric perspective and you are the person. Describe the video frames "
        "in detail and reason about the actions you are performing. You will be provided with the human-annotated "
        "ground-truth for the action, but you should independently come to your own conclusion.\n"
        'If you disagree with the human annotation, indicate "true" in the "disagree_with_human_annotation" field of '
        "your response, and provide your reasoning without mentioning the ground-truth answer. This will keep your "
        'reasoning clean. If you agree with the human annotation, indicate "false" in the '
        '"disagree_with_human_annotation" field and provide your reasoning without referencing the ground-truth to '
        f"maintain a clean description. The true ground-truth action is {narration}. Your reasoning steps should "
        "include supporting evidence for the action, such as the duration of the video, the sequence of actions the "
        "person performs, the objects they interact with, and the overall context of the video.\n"
        "As a general guideline, for videos longer than 3 seconds, provide detailed reasoning steps, and for videos "
        "shorter than 3 seconds, generate less detailed reasoning. The video duration is "
        f"{end - start:.3f} seconds. Make sure you use the first-person perspective in your reasoning."
    )


def question_request(caption: str) -> str:
    """What to ask another model for three questions and answers about a caption (appendix B.2)."""
    return (
        "Your job is to create 3 question-answer pairs based on the text below. The text contains a first-person "
        "narrative of video frames from an egocentric perspective of a person interacting with objects in a kitchen. "
        "You can ask questions such as: What object am I interacting with? What objects are visible in the video? What "
        "is the sequence of the atomic actions I am performing? Make sure your questions can be answered based on the "
        "information provided in the text. Do not ask questions that require additional context or information beyond "
        f"what is given.\n{caption}"
    )
