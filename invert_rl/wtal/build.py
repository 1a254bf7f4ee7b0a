"""Data, texts, model and batches as the settings say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from invert_rl.evaluation.detection.ambiguous import read_ambiguous
from invert_rl.tal.planted import PlantedWorld
from invert_rl.wtal.completeness import SemanticReconstruction
from invert_rl.wtal.config import BASES, PLANTED, PLANTED_VIDEOS, WtalArguments
from invert_rl.wtal.data import (
    WeakData,
    draw_videos,
    from_joint_file,
    from_planted,
    from_video_files,
    stratified_rows,
)
from invert_rl.wtal.delu import TwoStreamAttention
from invert_rl.wtal.descriptions import Descriptions, from_class_names, read_descriptions
from invert_rl.wtal.evaluate import EvaluationRules
from invert_rl.wtal.localizer import Localizer
from invert_rl.wtal.matching import SemanticMatching
from invert_rl.wtal.model import SemanticLocalizer
from invert_rl.wtal.planted import WORLD, object_world, video_texts
from invert_rl.wtal.reconstructor import Reconstructor
from invert_rl.wtal.text import encode_texts
from invert_rl.wtal.words import Vocabulary, choose_masked, pad_words

PLANTED_DESCRIPTIONS = Path(__file__).with_name("planted_descriptions.json")


def planted_world(args: WtalArguments) -> PlantedWorld:
    """The generated world of ``planted_seed``, the same for every ``seed`` of a run."""
    return object_world(
        replace(
            WORLD,
            train_videos=args.planted_train,
            test_videos=args.planted_test,
            width=args.rgb_width,
            second_width=args.flow_width,
            seed=args.planted_seed,
        )
    )


def load_data(args: WtalArguments) -> WeakData:
    """The data that the settings name; raises `DataError` where it cannot be used."""
    if args.joint_features is not None:
        return from_joint_file(
            Path(args.joint_features),
            args.allow_pickle,
            args.train_subset,
            args.test_subset,
            args.rgb_width + args.flow_width,
            args.joint_name,
            args.bad_features,
        )
    if args.annotations is not None and args.features is not None:
        return from_video_files(args, Path(args.annotations), args.rgb_width + args.flow_width)
    return from_planted(planted_world(args))


def load_descriptions(args: WtalArguments, data: WeakData) -> Descriptions:
    """The descriptions that the settings name, or class names."""
    if args.descriptions is None:
        return from_class_names(data.classes)
    if args.descriptions == PLANTED:
        return replace(read_descriptions(PLANTED_DESCRIPTIONS, data.classes), source=PLANTED)
    if args.descriptions == PLANTED_VIDEOS:
        whole = read_descriptions(PLANTED_DESCRIPTIONS, data.classes)
        return Descriptions(whole.classes, video_texts(planted_world(args), whole.classes), PLANTED_VIDEOS)
    return read_descriptions(Path(args.descriptions), data.classes)


def evaluation_rules(args: WtalArguments) -> EvaluationRules:
    """What the evaluation counts."""
    ambiguous = None if args.ambiguous is None else read_ambiguous(Path(args.ambiguous))
    return EvaluationRules(tuple(args.thresholds), args.protocol, ambiguous)


@dataclass(frozen=True)
class Semantics:
    """Texts as numbers."""

    classes: Tensor
    """Sentence vectors of the key descriptions, ``(C, E)``."""
    vocabulary: Vocabulary
    """Words of the complete descriptions."""
    words: Tensor
    """Their vectors, ``(V, E)``, padding first; each is encoded alone."""
    sentences: list[list[int]]
    """Word ids of each training video's complete description."""


def encode_semantics(args: WtalArguments, data: WeakData, descriptions: Descriptions) -> Semantics:
    """Encode key descriptions as sentences, and the complete ones of the training videos as words."""
    names = {
        video.video: [data.classes[index] for index in torch.nonzero(video.labels)[:, 0].tolist()]
        for video in data.train
    }
    keys = descriptions.key_texts(data.classes, names)
    vectors = iter(encode_texts([text for texts in keys for text in texts], args.text_encoder))
    classes = torch.stack([F.normalize(sum(next(vectors) for _ in texts), dim=0) for texts in keys])
    texts = [descriptions.complete_text(video, labels) for video, labels in names.items()]
    vocabulary = Vocabulary.of(texts)
    words = encode_texts(vocabulary.words, args.text_encoder)
    words = torch.cat([torch.zeros(1, words.shape[1]), words])
    return Semantics(classes, vocabulary, words, [vocabulary.ids(text) for text in texts])


def build_model(args: WtalArguments, semantics: Semantics, base: Localizer | None = None) -> SemanticLocalizer:
    """The model with the branches that the settings switch on; ``base`` takes the place of the settings' own.

    A seed set before decides all weights.
    """
    base = base if base is not None else BASES[args.base](args.delu(len(semantics.classes)))
    matching = None
    if args.matching:
        matching = SemanticMatching(semantics.classes, base.width, args.prompts, args.text_heads)
    reconstruction = None
    if args.reconstruction:
        reconstructor = Reconstructor(
            semantics.words,
            args.rgb_width + args.flow_width,
            args.reconstruction_width,
            args.reconstruction_heads,
            args.reconstruction_layers,
        )
        attention = TwoStreamAttention(args.rgb_width, args.flow_width, args.attention_width, args.gate_dropout)
        reconstruction = SemanticReconstruction(attention, reconstructor, args.counted_words == "all")
    return SemanticLocalizer(base, matching, reconstruction, args.semantic_weights())


def batch_drawer(args: WtalArguments, data: WeakData, semantics: Semantics) -> Callable[[int, int], Mapping[str, Any]]:
    """Gives the batch of a step and part, from the seed and these numbers alone (see `SemanticLocalizer.forward`)."""
    labels = torch.stack([video.labels for video in data.train])

    def draw(step: int, part: int) -> Mapping[str, Any]:
        generator = np.random.default_rng([args.seed, step, part])
        chosen, pairs = draw_videos(labels, args.per_device_train_batch_size, args.pairs, generator)
        rows = [data.train[index].features for index in chosen]
        features = [part[:][stratified_rows(len(part), args.snippets, generator)] for part in rows]
        batch: dict[str, Any] = {
            "features": torch.stack(features),
            "labels": labels[chosen],
            "pairs": torch.tensor(pairs, dtype=torch.long).view(-1, 2),
            "progress": torch.tensor(step / args.max_steps),
        }
        if args.reconstruction:
            words = pad_words([semantics.sentences[index] for index in chosen], args.max_words)
            masked = choose_masked(words, generator) if args.mask_words else torch.zeros_like(words, dtype=torch.bool)
            batch |= {"words": words, "masked": masked}
        return batch

    return draw
