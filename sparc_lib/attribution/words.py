"""Does relevance find the word that names a class? Scores of text attribution on captions that say the word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..features.encoders import ClipEncoder, DinoEncoder
from ..nulls import Interval, clustered_interval
from .methods import BATCH, CAPTION, RAW, SIMILARITY, SUM, Guide
from .relevance import (
    Word,
    encode_traces,
    latent_target,
    match_target,
    similarity_target,
    text_relevance,
    trace_pairs,
    word_relevance,
    words_of,
)
from .segmentation import AnnotatedImages

MATCH_DINO, MATCH_CLIP = f"{CAPTION} · DINO", f"{CAPTION} · CLIP image"


class WordRow(NamedTuple):
    """One caption and class. target: what the relevance is for. hit: whether the most relevant word is the class's
    name (ties shared). share: of all words' relevance that the name has. chance: 1 / number of words."""

    target: str
    image: int
    concept: int
    hit: float
    share: float
    chance: float


def name_positions(words: Sequence[Word], name: str) -> list[int]:
    """Where a class's name of one or more words stands in a text; empty if nowhere."""
    text, wanted = [word.text.lower() for word in words], name.lower().split()
    starts = [i for i in range(len(text)) if text[i : i + len(wanted)] == wanted]
    return [start + i for start in starts for i in range(len(wanted))]


def word_scores(
    data: AnnotatedImages, captions: Sequence[str], pair: tuple[DinoEncoder, ClipEncoder], guide: Guide
) -> pd.DataFrame:
    """A `WordRow` a line for every region whose class its image's caption names, under independent coding.

    captions: one an image of `data`. Targets: the class's latents in the text stream; the match of the caption's code
    with either image's; CLIP similarity; the end token's attention without a target.
    """
    words = [words_of(pair[1], caption) for caption in captions]
    named = [
        (region, places)
        for region in data.regions
        if (places := name_positions(words[region.image], data.classes[region.concept]))
    ]
    rows = []
    for start in range(0, len(named), BATCH):
        part = named[start : start + BATCH]
        traces = trace_pairs(
            *pair, [data.image(r.image) for r, _ in part], [captions[r.image] for r, _ in part]
        )
        for target, tokens in _relevances(guide, traces, torch.tensor([r.concept for r, _ in part])).items():
            for (region, places), row in zip(part, tokens.cpu()):
                weights = word_relevance(words[region.image], row)
                rows.append(
                    WordRow(target, region.image, region.concept, *_found(weights, places), 1 / len(weights))
                )
    return pd.DataFrame(rows, columns=WordRow._fields)


def hit_difference(table: pd.DataFrame, ours: str, control: str, generator: np.random.Generator) -> Interval:
    """Share of hits for the target `ours` minus that for `control`, with its interval over resampled captions.

    table: of `word_scores`. A caption that names several classes is drawn with all of them.
    """
    hits = [table[table.target == target].hit.to_numpy() for target in (ours, control)]
    image = table[table.target == ours].image.to_numpy()
    return clustered_interval(hits[0] - hits[1], image, generator)


def _relevances(guide: Guide, traces, concepts: Tensor) -> dict[str, Tensor]:
    text, codes = traces["clip_txt"], encode_traces(guide.model, traces, "independent")
    table = torch.from_numpy(guide.latents[SUM]["clip_txt"])[concepts].to(text.features.device)
    targets = {
        SUM: latent_target(codes["clip_txt"], table),
        MATCH_DINO: match_target(codes["dino"], codes["clip_txt"]),
        MATCH_CLIP: match_target(codes["clip_img"], codes["clip_txt"]),
        SIMILARITY: similarity_target(traces["clip_img"], text),
    }
    attention = text.attention[-1].detach().mean(1)  # [B, T, T]
    raw = attention[torch.arange(len(attention)), text.query]
    before_end = torch.arange(raw.shape[1], device=raw.device) < text.query.unsqueeze(1)
    return {name: text_relevance(text, target) for name, target in targets.items()} | {RAW: raw * before_end}


def _found(weights: np.ndarray, places: Sequence[int]) -> tuple[float, float]:
    best = weights == weights.max()
    total = weights.sum()
    return float(best[places].sum() / best.sum()), float(weights[places].sum() / total) if total > 0 else 0.0
