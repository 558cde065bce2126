"""Does relevance find the word that names a class? Scores on captions that say the word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..nulls import Interval, clustered_interval
from .methods import BATCH, CAPTION, RAW, SIMILARITY, SUM, Guide
from .relevance import (
    Pair,
    Traces,
    Word,
    before_end,
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

MATCH_DINO = f"{CAPTION} · DINO"
MATCH_CLIP = f"{CAPTION} · CLIP image"


class WordRow(NamedTuple):
    """One caption and class. target: what the relevance is for. hit: whether the most relevant word is the
    class's name (ties shared). share: of all words' relevance that the name has. chance: 1 / number of words.
    """

    target: str
    image: int
    concept: int
    hit: float
    share: float
    chance: float


def name_positions(words: Sequence[Word], name: str) -> list[int]:
    """Where a class's name of one or more words stands in a text; empty if nowhere."""
    text = [word.text.lower() for word in words]
    wanted = name.lower().split()
    positions = []
    for start in range(len(text)):
        stop = start + len(wanted)
        if text[start:stop] == wanted:
            positions += range(start, stop)
    return positions


def hit_and_share(weights: np.ndarray, places: Sequence[int]) -> tuple[float, float]:
    """`hit` and `share` of a `WordRow` from the words' relevance [n_words] and the places of the name."""
    best = weights == weights.max()
    hit = best[places].sum() / best.sum()
    total = weights.sum()
    share = weights[places].sum() / total if total > 0 else 0.0
    return float(hit), float(share)


def word_scores(data: AnnotatedImages, captions: Sequence[str], pair: Pair, guide: Guide) -> pd.DataFrame:
    """A `WordRow` a line for every region whose class its image's caption names, under independent coding.

    captions: one an image of `data`. Targets: the class's latents in the text stream; the match of the
    caption's code with either image's; CLIP similarity; the end token's attention without a target.
    """
    words = [words_of(pair[1], caption) for caption in captions]
    named = []
    for region in data.regions:
        places = name_positions(words[region.image], data.classes[region.concept])
        if places:
            named.append((region, places))
    rows = []
    for start in range(0, len(named), BATCH):
        batch = named[start : start + BATCH]
        images = [data.image(region.image) for region, _ in batch]
        traces = trace_pairs(*pair, images, [captions[region.image] for region, _ in batch])
        concepts = torch.tensor([region.concept for region, _ in batch])
        for target, tokens in _relevances(guide, traces, concepts).items():
            for (region, places), row in zip(batch, tokens.cpu()):
                weights = word_relevance(words[region.image], row)
                hit, share = hit_and_share(weights, places)
                rows.append(WordRow(target, region.image, region.concept, hit, share, 1 / len(weights)))
    return pd.DataFrame(rows, columns=WordRow._fields)


def hit_difference(table: pd.DataFrame, ours: str, control: str, generator: np.random.Generator) -> Interval:
    """Share of hits for the target `ours` minus that for `control`, with its interval over resampled
    captions.

    table: of `word_scores`. A caption that names several classes is drawn with all of them.
    """
    rows = table[table.target == ours]
    control_hits = table[table.target == control].hit.to_numpy()
    return clustered_interval(rows.hit.to_numpy() - control_hits, rows.image.to_numpy(), generator)


def _relevances(guide: Guide, traces: Traces, concepts: Tensor) -> dict[str, Tensor]:
    """{target: relevance of the texts' tokens [B, T]}."""
    text = traces["clip_txt"]
    codes = encode_traces(guide.model, traces, "independent")
    latents = torch.from_numpy(guide.latents[SUM]["clip_txt"])[concepts].to(text.features.device)
    targets = {
        SUM: latent_target(codes["clip_txt"], latents),
        MATCH_DINO: match_target(codes["dino"], codes["clip_txt"]),
        MATCH_CLIP: match_target(codes["clip_img"], codes["clip_txt"]),
        SIMILARITY: similarity_target(traces["clip_img"], text),
    }
    relevances = {name: text_relevance(text, target) for name, target in targets.items()}
    attention = text.attention[-1].detach().mean(1)  # [B, T, T]
    end_rows = attention[torch.arange(len(attention)), text.query]
    return relevances | {RAW: before_end(text, end_rows)}
