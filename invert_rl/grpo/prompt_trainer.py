"""Which prompts a round of GRPO has: decoded and encoded, and others in the place of those that cannot be used."""

from __future__ import annotations

from typing import Any

from accelerate.utils import gather_object

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.encoding import EncodedPrompt, PromptEncoder, PromptLimit
from invert_rl.grpo.reward_faults import Prompt
from invert_rl.grpo.scoring_trainer import ScoringTrainer
from invert_rl.schedule import TaskSchedule, replacement
from invert_rl.task_data import Lookahead, TaskDataset
from invert_rl.tasks import video_of
from invert_rl.video.errors import VideoError
from invert_rl.video.prefetch import Prefetcher
from invert_rl.video.quarantine import Quarantine

MAX_REPLACEMENTS = 100
"""Give up when this many rows in a row have no usable video."""


class PromptTrainer(ScoringTrainer):
    """Draws and encodes the prompts of a round, all ranks alike."""

    train_dataset: TaskDataset
    schedule: TaskSchedule
    encoder: PromptEncoder
    prompt_limit: PromptLimit
    clips: Prefetcher
    lookahead: Lookahead
    quarantine: Quarantine

    def _load_prompts(
        self, inputs: list[dict[str, Any]], failed: dict[Prompt, VideoError]
    ) -> tuple[list[dict[str, Any]], list[EncodedPrompt]]:
        """Decode and encode the prompts of a round, putting other rows in the place of those that cannot be used.

        ``failed``, the same on all ranks, has those that are known to be such and gets the others. All ranks learn of
        each other's failures and draw the same replacement, so that a group which is spread over ranks stays one group.
        """
        encoded: dict[Prompt, EncodedPrompt] = {}
        upcoming = self.lookahead.after(inputs[0]["draw"].round)
        self.clips.asked = self.clips.waited = 0
        for attempt in range(MAX_REPLACEMENTS):
            refs = [video_of(item["prompt"]) for item in inputs if item["draw"][:2] not in encoded]
            self.clips.want(ref for ref in [*refs, *upcoming] if ref.path not in self.quarantine)
            broken: dict[Prompt, VideoError] = {}
            for item in inputs:
                task, row, *_ = item["draw"]
                if (task, row) in failed:
                    broken[task, row] = failed[task, row]
                elif (task, row) not in encoded and (task, row) not in broken:
                    try:
                        encoded[task, row] = self._encode(task, self.train_dataset.rows[row], item["prompt"])
                    except VideoError as error:
                        broken[task, row] = error
            self._wait_for_ranks()
            everywhere = gather_object(list(broken.items()))
            if not everywhere:
                self._metrics["train"]["data/waited"].append(self.clips.waited / max(1, self.clips.asked))
                return inputs, [encoded[item["draw"].task, item["draw"].row] for item in inputs]
            for key, trouble in everywhere:
                failed[key] = trouble
                self.quarantine.add(trouble)
            inputs = [self._replace(item, attempt) if item["draw"][:2] in failed else item for item in inputs]
        raise DataError(
            f"no usable video after {MAX_REPLACEMENTS} replacements in one generation round; "
            f"{self.quarantine.summary()}; run `invert-rl check-videos` on the data"
        )

    def _replace(self, item: dict[str, Any], attempt: int) -> dict[str, Any]:
        draw = item["draw"]
        return self.train_dataset[replacement(self.schedule, self.train_dataset.usable_rows[draw.task], draw, attempt)]

    def _encode(self, task: str, row: Row, chat: list[dict[str, Any]]) -> EncodedPrompt:
        """One prompt with its video; raises `VideoError` for a video or a row that is to be left out."""
        if row.video in self.quarantine:
            raise VideoError(row.video, self.quarantine.videos[row.video])
        with self._part("decode"):
            clip = self.clips.clip(video_of(chat))
        with self._part("encode"):
            prompt = self.encoder(chat, clip)
        self.prompt_limit.check(len(prompt.input_ids), row, task)
        return prompt
