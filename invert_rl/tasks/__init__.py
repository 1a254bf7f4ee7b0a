"""Tasks made from one annotation, one file each: TVG, its inversions VC, AR and VD (paper, section 2), and refusal.

A task says what is asked, which part of the video is shown, how an answer is read, scored and counted, and what
supervised fine-tuning teaches. Everything else asks the task; `register_task` adds one (docs/extending.md).
"""

from invert_rl.tasks.ar import AR
from invert_rl.tasks.base import WINDOW_MODES, Task, normalise_query
from invert_rl.tasks.presets import DEFAULT_PRESET, Preset, load_preset, preset_names
from invert_rl.tasks.refuse import REFUSE
from invert_rl.tasks.registry import TASKS, get_task, register_task
from invert_rl.tasks.tvg import TVG
from invert_rl.tasks.vc import VC
from invert_rl.tasks.vd import VD
from invert_rl.tasks.video import messages, video_of

for _task in (TVG, VC, AR, VD, REFUSE):
    register_task(_task)

DEFAULT_TASKS = (TVG.name, VC.name, AR.name, VD.name)
"""The paper's four; refusal and tasks of plugins are trained on where they are named."""
DEFAULT_TASK = TVG.name
"""What a prediction answers that does not say."""

__all__ = [
    "DEFAULT_PRESET",
    "DEFAULT_TASK",
    "DEFAULT_TASKS",
    "Preset",
    "TASKS",
    "Task",
    "WINDOW_MODES",
    "get_task",
    "load_preset",
    "messages",
    "normalise_query",
    "preset_names",
    "register_task",
    "video_of",
]
