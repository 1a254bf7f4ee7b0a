"""What the model is asked (paper, appendices B and C); words are the paper's unless marked."""

from __future__ import annotations

from collections.abc import Sequence

from invert_rl.llavaction.questions.mqa import options_text

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
SEVERAL = "More than one of the options can be right. Name all that are, such as 'A. move knife, C. open door'."
"""[C]: clips in which several things are done (Table 6)."""
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


STYLES = ("paper", "released")
"""The paper's wording, or that of the released code, for the weights that were trained with it [R]."""
RELEASED_PERSPECTIVES = {
    "egocentric": PERSPECTIVES["egocentric"] + " ",
    "allocentric": PERSPECTIVES["allocentric"],
    "none": "",
}
"""[R]: with its spaces."""
RELEASED_TIME = "The provided video lasts for {seconds:.3f} seconds, and {frames} frames are uniformly sampled from it."
"""[R]: nothing stands between it and the task's text."""
RELEASED_OPTIONS = "Here are the options of actions you are selecting:\n"
"""[R]"""
RELEASED_CAPTION = (
    " Describe in details what you see from the video frames. You must talk in the first person perspective. Try to "
    "focus on what you are doing. "
)
"""[R], after the perspective."""
RELEASED_OPEN = "You are seeing this video from egocentric view and you are the person. {question}"
"""[R]"""


def time_instruction(seconds: float, frames: int, style: str = "paper") -> str:
    """How long the clip is (seconds) and how many frames of it are shown."""
    return (TIME if style == "paper" else RELEASED_TIME).format(seconds=seconds, frames=frames)


def direct_prompt(perspective: str = "egocentric", style: str = "paper") -> str:
    """The question for the action without options."""
    return DIRECT if style == "paper" else f"{RELEASED_PERSPECTIVES[perspective]} {DIRECT}"


def caption_prompt(perspective: str = "egocentric", style: str = "paper") -> str:
    """The request for a caption."""
    return CAPTION if style == "paper" else RELEASED_PERSPECTIVES[perspective] + RELEASED_CAPTION


def open_prompt(question: str, style: str = "paper") -> str:
    """An open question."""
    return question if style == "paper" else RELEASED_OPEN.format(question=question)


def released_choice_prompt(
    options: Sequence[str], perspective: str = "egocentric", priors: Sequence[tuple[float, str]] = ()
) -> str:
    """The multiple-choice question as the released code writes it, options in one line [R].

    With ``priors`` nothing asks for a brief answer. How many digits their seconds have is not in that code; here 2 [C].
    """
    listed = ", ".join(options_text(options).splitlines())
    prefix = RELEASED_PERSPECTIVES[perspective]
    if not priors:
        return f"{prefix}{BRIEFLY} \n{RELEASED_OPTIONS}{listed}"
    return f"{prefix}\n{_before(priors)} {CURRENTLY}\n{listed}"


def choice_prompt(
    options: Sequence[str],
    perspective: str = "egocentric",
    priors: Sequence[tuple[float, str]] = (),
    style: str = "paper",
    several: bool = False,
) -> str:
    """The multiple-choice question, options as ``A. …`` lines; ``several``: more than one can be right.

    With the perspective "none" the options stand alone. ``priors`` are the two actions before, each with how
    many seconds ago it started, the earlier first; with them the question is that of appendix C.5. ``style`` is one of
    `STYLES`.
    """
    if several:
        return "\n".join(filter(None, (PERSPECTIVES[perspective], SEVERAL, options_text(options))))
    if style == "released":
        return released_choice_prompt(options, perspective, priors)
    if perspective == "none" and not priors:
        return options_text(options)
    if not priors:
        return "\n".join((PERSPECTIVES[perspective], BRIEFLY, options_text(options)))
    return "\n".join((f"{_before(priors)} {CURRENTLY}", BRIEFLY, options_text(options)))


def _before(priors: Sequence[tuple[float, str]]) -> str:
    (two, two_text), (one, one_text) = priors
    return PRIORS.format(two=two, two_text=two_text, one=one, one_text=one_text)


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


def difficulty_request(truth: str, options: Sequence[str]) -> str:
    """What to ask another model for how hard a question's options are to tell apart, 1 to 4 (appendix C.6, Table 8)."""
    return (
        "You are analyzing a multiple-choice question for fine-grained action recognition. Your task is to rate the "
        "difficulty of distinguishing between the options based on how similar they are to each other and the ground "
        f"truth answer.\nGround Truth Answer: {truth}\nOptions: {', '.join(options)}\nPlease analyze the semantic "
        "similarity between the options and rate the difficulty on a scale of 1-4:\n"
        "- 1 (Very Easy): Options are very different from each other and the correct answer is obvious\n"
        "- 2 (Easy): Options have clear differences, correct answer is fairly obvious\n"
        "- 3 (Medium): Options have moderate similarity, requires some careful consideration\n"
        "- 4 (Hard): Options are quite similar, subtle differences make it challenging\n"
        "Consider factors like:\n"
        "- Semantic similarity between action descriptions\n"
        "- Specificity vs generality of actions\n"
        "- Whether options describe similar but distinct actions\n"
        "- How confusable the distractors are with the ground truth\n"
        "Respond with only a single number (1-4) representing the difficulty score."
    )
