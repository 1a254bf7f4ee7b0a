"""``rounds_ahead``: the rounds to come are completed by a server while this one is trained on.

With ``rounds_ahead`` n the server gets the weights at the start of round 0, n, 2n, … and completes the n rounds that
follow with them, one after the other, while the trainer scores and updates. So round k > 0 is made by the weights from
before the update of round n * floor((k - 1) / n): by those of one round ago with 1, of one or two rounds ago with 2.
Round 0 is made by the weights that it trains. Of a round that has to be made again (its server was lost, one of its
rewards raised) the weights are gone: it is made by the trainer's own of that moment. The log and ``rounds.jsonl`` say
which they were, round by round.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from data_prep.errors import DataError
from data_prep.files import atomic_write, read_object
from invert_rl.encoding import EncodedPrompt
from invert_rl.grpo.reward_faults import Prompt
from invert_rl.grpo.rollout_trainer import RolloutTrainer
from invert_rl.grpo.rounds_ahead import AheadRound, Completion, RoundsAhead
from invert_rl.grpo.vllm_rollout import complete_by_server
from invert_rl.grpo.vllm_server import ServerLostError
from invert_rl.schedule import Draw
from invert_rl.video.errors import VideoError

logger = logging.getLogger(__name__)

SAVED = "rounds_ahead_{rank}.json"
"""File of a checkpoint: what a rank's part of the rounds ahead was completed with."""

ROUNDS = "rounds.jsonl"
"""File of a run folder: a line for each round, with the step of the weights that made it."""


class AheadTrainer(RolloutTrainer):
    """Begins each round with completions that were made ahead, and has the next ones made."""

    ahead: RoundsAhead
    _round_seconds: float | None
    """That it took to make the completions of this round ahead; None for one that was not."""

    def _begin_round(
        self, inputs: list[dict[str, Any]], failed: dict[Prompt, VideoError]
    ) -> tuple[list[dict[str, Any]], list[EncodedPrompt]]:
        """The prompts of a round, as `_load_prompts` gives them; with ``rounds_ahead`` completed."""
        self._round_seconds = None
        if not self.args.rounds_ahead:
            return self._load_prompts(inputs, failed)
        number = inputs[0]["draw"].round
        following: list[AheadRound] = []
        if number in self.ahead.rounds:  # its completions may be under way still
            following = self._load_following(number)
        held = self._take(inputs)
        if held is not None and held.prompts:
            inputs, prompts = held.items, held.prompts
            failed.update(held.failed)
        else:
            inputs, prompts = self._load_prompts(inputs, failed)
        if held is not None and self._fits(held, inputs):
            self._policy_step, self._round_seconds = held.policy_step, held.seconds
            completions = held.completions or []
        else:
            completions = self._complete_now(inputs, prompts)
            following = following or self._load_following(number)
        self._finished = dict(enumerate(completions))
        if following:
            self.load_weights_into_engine()
            for round_ in following:
                round_.policy_step = self._last_loaded_step
            self.ahead.start(following, self._complete_ahead)
        return inputs, prompts

    def _load_following(self, number: int) -> list[AheadRound]:
        """The rounds to be started in round ``number``, without their weights' step; none while others are ahead."""
        if any(later > number for later in self.ahead.rounds):
            return []
        last = (self.state.max_steps - 1) // self.args.steps_per_round
        rounds = []
        for later in range(number + 1, min(number + self.args.rounds_ahead, last) + 1):
            asked = self.lookahead.part(later)
            failed: dict[Prompt, VideoError] = {}
            items, prompts = self._load_prompts([self.train_dataset[draw] for draw in asked], failed)
            rounds.append(AheadRound(later, -1, asked, [item["draw"] for item in items], items, prompts, failed))
        return rounds

    def _take(self, inputs: list[dict[str, Any]]) -> AheadRound | None:
        """The round of these inputs, completed; None, on all ranks, if it was not started or the server was lost.

        Raises what else ended its completion.
        """
        with self._part("rollout"):
            held = self.ahead.take(inputs[0]["draw"].round)
        if held is not None and held.asked != [item["draw"] for item in inputs]:
            raise RuntimeError(f"round {held.number}: what was completed ahead is not what the loader gives")
        trouble = None if held is None else held.error
        if trouble is not None and not isinstance(trouble, ServerLostError):
            raise trouble
        missing = [str(trouble or "") if held is None or trouble is not None else None]
        lost = [text for text in gather_object(missing) if text is not None]
        if lost:
            if any(lost):
                logger.warning("%s; the round is made again by the weights of now", next(filter(None, lost)))
            self.ahead.wait()
            self.ahead.forget()
            return None
        return held

    def _fits(self, held: AheadRound, inputs: list[dict[str, Any]]) -> bool:
        """Whether the completions are of these prompts: after a resume a video may be gone; the same on all ranks."""
        odd = held.draws != [item["draw"] for item in inputs]
        if any(gather_object([odd])):
            logger.warning("round %d: other videos can be used than when it was completed; made again", held.number)
            return False
        return True

    def _complete_now(self, inputs: list[dict[str, Any]], prompts: list[EncodedPrompt]) -> list[Completion]:
        """The completions of a round by the weights of this step, while nothing else is done."""
        self._draws = [item["draw"] for item in inputs]
        ids, logps = self._complete(prompts, range(len(prompts)))
        assert logps is not None
        return list(zip(ids, logps, strict=True))

    def _complete_ahead(self, round_: AheadRound) -> list[Completion]:
        """The same in the thread of `RoundsAhead`, where nothing may be collective."""
        unique, index = self._unique(round_.prompts)
        seeds = self._seeds(round_.draws, index)
        return complete_by_server(self.vllm_generation, unique, index, self.banned_ids, self.eos_token_ids, seeds)

    def load_weights_into_engine(self) -> None:
        """Give vLLM the weights of this step, if it has older ones, once no rank has a request with it."""
        if self.args.rounds_ahead:
            self.ahead.wait()
            self.accelerator.wait_for_everyone()
        super().load_weights_into_engine()

    def _log_weights(self) -> None:
        """Log which weights made this round; one of a serial run is made by those that it trains."""
        if not self.args.rounds_ahead:
            return
        step, draw = self.state.global_step, self._draws[0]
        staleness = (step - self._policy_step) / self.args.steps_per_round
        self._metrics["train"]["rollout/policy_step"].append(float(self._policy_step))
        self._metrics["train"]["rollout/staleness"].append(staleness)
        if self.accelerator.is_main_process:
            told = {"step": step + 1, "round": draw.round, "task": draw.task, "policy_step": self._policy_step}
            with (Path(str(self.args.output_dir)) / ROUNDS).open("a", encoding="utf-8") as out:
                out.write(json.dumps({**told, "staleness": staleness}) + "\n")

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def save_rounds_ahead(self, checkpoint: Path) -> None:
        """Wait for the rounds ahead and write their completions into a checkpoint: their weights will be gone.

        One that could not be completed is left out; it is told of, or made again, where it is taken.
        """
        self.ahead.wait()
        rounds = [
            {
                "round": round_.number,
                "policy_step": round_.policy_step,
                "asked": round_.asked,
                "draws": round_.draws,
                "seconds": round_.seconds,
                "completions": round_.completions,
            }
            for round_ in self.ahead.rounds.values()
            if round_.completions is not None
        ]
        with atomic_write(checkpoint / SAVED.format(rank=self.accelerator.process_index)) as out:
            json.dump({"rounds": rounds}, out)

    def load_rounds_ahead(self, checkpoint: Path) -> None:
        """Take them up again; raises `DataError` for a file that does not hold them.

        Without a file, as from a run that made no rounds ahead, the next round is made by the weights of now; so it is
        where a rank has another round than the others, because its file is gone or its request had failed.
        """
        path = checkpoint / SAVED.format(rank=self.accelerator.process_index)
        self.ahead.forget()
        if path.is_file():
            self._read_rounds_ahead(path)
        held = gather_object([sorted(self.ahead.rounds)])
        if any(numbers != held[0] for numbers in held):
            logger.warning("%s: not every rank has its part of the rounds made ahead; they are made again", checkpoint)
            self.ahead.forget()

    def _read_rounds_ahead(self, path: Path) -> None:
        try:
            for told in read_object(path)["rounds"]:
                asked, draws = ([Draw(*draw) for draw in told[name]] for name in ("asked", "draws"))
                completions = [(list(ids), list(logps)) for ids, logps in told["completions"]]
                if not len(asked) == len(draws) == len(completions):
                    raise ValueError(f"{len(completions)} completions for {len(draws)} draws")
                round_ = AheadRound(int(told["round"]), int(told["policy_step"]), asked, draws)
                round_.completions, round_.seconds = completions, float(told["seconds"])
                self.ahead.rounds[round_.number] = round_
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: holds no rounds made ahead ({error!r}); resume from another one") from error
