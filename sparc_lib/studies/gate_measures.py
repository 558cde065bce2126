"""What notebook 08 measures of a method: functions from a `Trial` to numbers by column, in `MEASURES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from ..alignment import jaccard_per_latent, label_counts, mean_jaccard
from ..evaluation import Pair, encode_store, evaluate
from ..model import SPARC
from ..nulls import activity_bound, rescaled, shuffled_latents_null
from ..retrieval import retrieval_metrics
from ..store.reader import FeatureStore
from .alignment import CODINGS, SUPPORT

WAYS: dict[str, Pair] = {  # retrieval with text: (query, reference)
    "text_to_image": ("clip_txt", "clip_img"),
    "image_to_text": ("clip_img", "clip_txt"),
    "text_to_dino": ("clip_txt", "dino"),
    "dino_to_text": ("dino", "clip_txt"),
}
PICTURES: tuple[Pair, ...] = (("dino", "clip_img"), ("clip_img", "dino"))
STABILITY = "stability"
AGREE, RECOVERED = "names_agree", "facts_recovered"
CONTRAST = "contrast"
MEASURED_APART = (STABILITY, AGREE, RECOVERED, CONTRAST)  # measured in tables of their own

COLUMNS = {  # what the numbers of a row say; NaN where a method has no such thing
    **{
        way: f"R@1 of {query} among {reference}, independent codes"
        for way, (query, reference) in WAYS.items()
    },
    "between_images": "R@1 between the two image encoders, mean of both ways, independent codes",
    "jaccard": f"mean Jaccard of independent codes over latents with {SUPPORT} samples in two streams",
    "floor": "the same with random partners instead of namesakes",
    "ceiling": "the most that the firing rates allow",
    "place": "(jaccard - floor) / (ceiling - floor)",
    "self_fvu_joint": "self-reconstruction, mean over streams, joint codes",
    "self_fvu_alone": "the same, independent codes",
    "cross_fvu_joint": "cross-reconstruction, mean over ordered pairs of streams, joint codes",
    "cross_fvu_alone": "the same, independent codes",
    "alive_joint": "share of latents that fire in every stream on some test pair, joint codes",
    "alive_alone": "the same, independent codes",
    AGREE: "share of the names of latents that all streams give, over facts, independent codes",
    RECOVERED: "share of the facts that one latent tells in every stream, independent codes",
    CONTRAST: "contrast of captions' heatmaps in DINO between two objects (notebook 06), independent codes",
    STABILITY: "PW-MCC of the decoder directions of live latents with those of the other seeds",
}


class Trial(NamedTuple):
    """What a method makes of the test pairs.

    codes {coding: {stream: CSR [n, n_latents]}}. pool: how many pairs retrieval searches; None: all.
    null_repeats: shuffles behind the floor of the Jaccard. seed: of what is drawn.
    """

    model: SPARC
    test: FeatureStore
    codes: Mapping[str, Mapping[str, sp.csr_matrix]]
    pool: int | None
    null_repeats: int
    seed: int


Numbers = dict[str, float]  # by column


def trial_of(model: SPARC, test: FeatureStore, pool: int | None, null_repeats: int, seed: int) -> Trial:
    """The trial of a model: its codes of the test pairs, in both codings."""
    codes = {coding: encode_store(model, test, coding) for coding in CODINGS}
    return Trial(model, test, codes, pool, null_repeats, seed)


def recalls(trial: Trial) -> Numbers:
    """R@1 of independent codes."""
    recall = {}
    codes = {stream: z[: trial.pool] for stream, z in trial.codes["independent"].items()}
    for query, reference in (*WAYS.values(), *PICTURES):
        if query in codes and reference in codes:
            recall[query, reference] = retrieval_metrics(codes[query], codes[reference], n_jobs=1).recall[1]
    return by_way(recall)


def by_way(recall: Mapping[Pair, float]) -> Numbers:
    """The columns of retrieval from R@1 by (query, reference); NaN for ways that were not searched."""
    numbers = {way: recall.get(pair, np.nan) for way, pair in WAYS.items()}
    pictures = [recall.get(pair, np.nan) for pair in PICTURES]
    return numbers | {"between_images": float(np.mean(pictures))}


def agreement(trial: Trial) -> Numbers:
    """Jaccard of independent codes between its floor and its ceiling, at the classes as they are."""
    counts = label_counts(trial.codes["independent"], trial.test.labels)
    shuffle = np.random.default_rng(trial.seed)
    per_latent = {
        "jaccard": jaccard_per_latent(counts, min_samples=SUPPORT),
        "floor": shuffled_latents_null(counts, shuffle, trial.null_repeats, min_samples=SUPPORT).mean(0),
        "ceiling": activity_bound(counts, min_samples=SUPPORT),
    }
    numbers = {}
    for column, values in per_latent.items():
        numbers[column] = mean_jaccard(values, counts, min_samples=SUPPORT).alive
    place = rescaled(numbers["jaccard"], numbers["floor"], numbers["ceiling"])
    return numbers | {"place": float(place)}


def reconstruction(trial: Trial) -> Numbers:
    """FVU of a stream from its own code and from another's, in both codings."""
    scores = evaluate(trial.model, trial.test)
    numbers = {}
    for name, part in (("joint", scores.joint), ("alone", scores.independent)):
        own = [value for (source, target), value in part.fvu.items() if source == target]
        cross = [value for (source, target), value in part.fvu.items() if source != target]
        numbers[f"self_fvu_{name}"] = float(np.mean(own))
        numbers[f"cross_fvu_{name}"] = float(np.mean(cross))
    return numbers


def life(trial: Trial) -> Numbers:
    """Share of latents that fire at least once in every stream."""
    numbers = {}
    for name, coding in (("joint", "joint"), ("alone", "independent")):
        fires = [fired(codes) for codes in trial.codes[coding].values()]
        numbers[f"alive_{name}"] = float(np.all(fires, axis=0).mean())
    return numbers


def fired(codes: sp.csr_matrix) -> np.ndarray:
    """Bool [n_latents]: which latents fire on some sample."""
    return np.bincount(codes.indices[codes.data > 0], minlength=codes.shape[1]) > 0


MEASURES: tuple[Callable[[Trial], Numbers], ...] = (recalls, agreement, reconstruction, life)


def measured(trial: Trial) -> Numbers:
    """All numbers of a trial."""
    numbers: Numbers = {}
    for measure in MEASURES:
        numbers |= measure(trial)
    return numbers
