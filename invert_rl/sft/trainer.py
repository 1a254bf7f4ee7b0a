"""`SFTTrainer` for chats with a video: one task per batch, labels on the answer only, exact resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import torch
from peft import PeftConfig, PeftModel
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback
from trl import SFTTrainer

from data_prep.errors import DataError
from data_prep.rows import Row
from invert_rl.checkpoints import WholeCheckpoints
from invert_rl.determinism import deterministic_on_cpu
from invert_rl.encoding import EncodedPrompt, PromptEncoder, PromptLimit, prompt_limit, video_inputs
from invert_rl.evaluation.runs.validation import Validating
from invert_rl.policy import name_base_absolutely
from invert_rl.precision import keep_trained_in_float32, without_autocast_in_float32
from invert_rl.schedule import Draw, TaskSampler, TaskSchedule, replacement
from invert_rl.sft.config import InvertSFTConfig
from invert_rl.sft.muon import MuonWithAdamW
from invert_rl.task_data import Lookahead, TaskDataset, rows_in_this_process
from invert_rl.tasks import Preset, video_of
from invert_rl.video.errors import VideoError
from invert_rl.video.prefetch import Prefetcher
from invert_rl.video.quarantine import Quarantine
from invert_rl.video.store import FrameStore

IGNORED = -100
"""Label of tokens that carry no loss."""

MAX_REPLACEMENTS = 100
"""Give up when this many rows in a row have no usable video."""

Target = Callable[[Draw, Row], str]
"""Gives the answer to teach for a draw of a row."""


class AnswerCollator:
    """Turns draws into padded model inputs whose labels are the tokens of the answer."""

    def __init__(
        self,
        data: TaskDataset,
        schedule: TaskSchedule,
        processor: ProcessorMixin,
        clips: Prefetcher,
        target: Target,
        quarantine: Quarantine,
        limit: PromptLimit,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self.data = data
        self.schedule = schedule
        self.tokenizer = processor.tokenizer
        self.encoder = PromptEncoder(processor, chat_template_kwargs)
        self.clips = clips
        self.target = target
        self.quarantine = quarantine
        self.limit = limit
        self.lookahead: Lookahead | None = None
        """Set by the trainer, which knows the sampler."""

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Inputs of one batch, right-padded: ids, mask, labels and types ``(batch, longest)``, and the videos."""
        prompts, answers = [], []
        upcoming = self.lookahead.after(items[0]["draw"].round) if self.lookahead else []
        refs = [*(video_of(item["prompt"]) for item in items), *upcoming]
        self.clips.want(ref for ref in refs if ref.path not in self.quarantine)
        for item in items:
            prompt, answer = self._encode(item)
            prompts.append(prompt)
            answers.append(answer)
        longest = max(len(p.input_ids) + len(a) for p, a in zip(prompts, answers, strict=True))

        def pad(values: list[int], padding: int) -> list[int]:
            return values + [padding] * (longest - len(values))

        pairs = list(zip(prompts, answers, strict=True))
        inputs = {
            "input_ids": [pad(p.input_ids + a, self.tokenizer.pad_token_id) for p, a in pairs],
            "attention_mask": [pad([1] * (len(p.input_ids) + len(a)), 0) for p, a in pairs],
            "mm_token_type_ids": [pad(list(p.mm_token_type_ids), 0) for p, a in pairs],
            "labels": [pad([IGNORED] * len(p.input_ids) + a, IGNORED) for p, a in pairs],
        }
        return {**{name: torch.tensor(values) for name, values in inputs.items()}, **video_inputs(prompts)}

    def _encode(self, item: dict[str, Any]) -> tuple[EncodedPrompt, list[int]]:
        """Prompt and answer of an item, or of one that takes its place where its video or length cannot be used."""
        draw = item["draw"]
        for attempt in range(MAX_REPLACEMENTS):
            ref = video_of(item["prompt"])
            try:
                if ref.path in self.quarantine:
                    raise VideoError(ref.path, self.quarantine.videos[ref.path])
                prompt = self.encoder(item["prompt"], self.clips.clip(ref))
                answer = self._answer(item["draw"])
                self.limit.check(len(prompt.input_ids) + len(answer), self.data.rows[item["draw"].row], draw.task)
                return prompt, answer
            except VideoError as error:
                self.quarantine.add(error)
                item = self.data[replacement(self.schedule, self.data.usable_rows[draw.task], draw, attempt)]
        raise DataError(f"no usable video after {MAX_REPLACEMENTS} replacements; {self.quarantine.summary()}")

    def _answer(self, draw: Draw) -> list[int]:
        text = self.target(draw, self.data.rows[draw.row])
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, self.tokenizer.convert_tokens_to_ids("<|im_end|>")]


class InvertSFTTrainer(Validating, WholeCheckpoints, SFTTrainer):
    """Supervised fine-tuning on the answers of TVG, VC, AR and VD.

    Args:
        model: from `invert_rl.models.load_model`.
        rows: the data.
        target: the completion to teach for a draw of a row.
        args, processing_class, store, quarantine, preset: as for `InvertGRPOTrainer`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rows: Sequence[Row],
        target: Target,
        args: InvertSFTConfig,
        processing_class: ProcessorMixin,
        store: FrameStore,
        quarantine: Quarantine | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        preset: Preset | None = None,
    ) -> None:
        self.preset = args.preset() if preset is None else preset
        data = TaskDataset(rows, {name: self.preset.tasks[name] for name in args.schedule().possible})
        if peft_config is None and not isinstance(model, PeftModel):
            without_autocast_in_float32(model, args)
        self.schedule = args.schedule()
        self.store = store
        self.quarantine = Quarantine() if quarantine is None else quarantine
        self.clips = Prefetcher(store, args.dataloader_num_workers)
        kwargs = self.preset.chat_template_kwargs
        limit = prompt_limit(model.config, 0)  # of prompt and answer together
        collator = AnswerCollator(
            data, self.schedule, processing_class, self.clips, target, self.quarantine, limit, kwargs
        )
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=datasets.Dataset.from_dict({"messages": [[] for _ in data.rows]}),
            eval_dataset=None if args.eval_strategy == "no" else datasets.Dataset.from_dict({"messages": [[]]}),
            processing_class=processing_class,
            peft_config=peft_config,
            callbacks=callbacks,
        )
        keep_trained_in_float32(self)
        name_base_absolutely(self.model)
        self.train_dataset = data  # TRL insists on a `Dataset` above; this one is indexed by the sampler's draws
        collator.lookahead = Lookahead(
            data, self._get_train_sampler(), self.accelerator.process_index, self.accelerator.num_processes
        )

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        args = self.args
        if args.muon_learning_rate is not None and self.optimizer is None:  # type: ignore[has-type]
            self.optimizer = MuonWithAdamW(
                self.model if model is None else model,
                args.learning_rate,
                args.muon_learning_rate,
                args.weight_decay,
                (args.adam_beta1, args.adam_beta2),
                args.adam_epsilon,
            )
        return super().create_optimizer(model)

    def get_train_dataloader(self) -> DataLoader:
        with rows_in_this_process(self.args):
            return super().get_train_dataloader()

    def _get_train_sampler(self, dataset: datasets.Dataset | None = None) -> TaskSampler:
        data = self.train_dataset if dataset is None else dataset
        prompts = self.args.per_device_train_batch_size * self.accelerator.num_processes
        return TaskSampler(self.schedule, data.usable_rows, prompts, num_generations=1, repeats=1)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with deterministic_on_cpu(self.args.device), self.clips:
            return super().train(*args, **kwargs)
