"""How well namesakes agree: all alignment numbers of a profile's models and their controls, as tables."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..alignment import LabelCounts, activation_patterns, jaccard_per_latent, label_counts, mean_jaccard
from ..evaluation import encode_store
from ..model import SPARC, Coding
from ..nulls import activity_bound, chance_corrected, permutation_null, rescaled, shuffled_latents_null
from ..profiles import EvaluationSpec, Profile
from ..store.reader import FeatureStore
from ..taxonomy import Taxonomy
from .retrieval import code_table
from .tables import KINDS, Run, Stores, by_gate, table

CODINGS: tuple[Coding, ...] = ("joint", "independent")
SUPPORT = 5  # samples in a stream below which a latent's label counts are mostly noise
PERMUTED = "permuted labels"  # what runs of the first seed are measured against as well


class JaccardRow(NamedTuple):
    """Mean hierarchical Jaccard of one model under one reading.

    activations: "all", or the "top" n of each latent. min_samples: a latent with less support counts as dead.
    depth: of the taxonomy. latents: the mean runs over "all" of them, dead ones as 0 (the paper's headline),
    or over the n_latents "alive" in at least two streams (F4). null: the same mean under permuted labels;
    corrected: (jaccard - null) / (1 - null). shuffled: the mean with random partners instead of namesakes;
    bound: the most that the firing rates allow; rescaled: (jaccard - shuffled) / (bound - shuffled). Nulls
    and what is made of them stand at the leaves only, NaN elsewhere; permuted labels only where asked for.
    """

    coding: str
    activations: str
    min_samples: int
    depth: int
    latents: str
    n_latents: int
    jaccard: float
    null: float
    corrected: float
    shuffled: float
    bound: float
    rescaled: float


class PatternRow(NamedTuple):
    """pattern: "all alive", "2 of 3", "1 of 3", "all dead" (they add up to all latents), or "dead in
    <stream>"."""

    coding: str
    pattern: str
    n_latents: int
    share: float


class AlignmentReport(NamedTuple):
    """jaccard: of `JaccardRow`s; patterns: of `PatternRow`s; retrieval: `studies.retrieval.code_table`. All
    with the columns model, setting and seed in front."""

    jaccard: pd.DataFrame
    patterns: pd.DataFrame
    retrieval: pd.DataFrame


def report_with_controls(profile: Profile, taxonomy: Taxonomy) -> AlignmentReport:
    """All alignment numbers of a profile's settings and seeds on the test split; computed on first use.

    Beside the trained models stand controls with the same seeds: SPARC untrained, which λ does not reach, and
    SPARC on encoders with random weights. Labels are permuted for the first seed, latents shuffled for all.
    """
    runs = []
    for seed in profile.seeds:
        also = (PERMUTED,) if seed == profile.seeds[0] else ()
        runs += [Run("trained", setting, seed, also) for setting in profile.settings]
        runs += [Run("untrained", setting, seed, also) for setting in by_gate(profile)]
        runs += [Run("random encoders", setting, seed, also) for setting in profile.settings]
    runs.sort(key=lambda run: KINDS.index(run.model))
    tree = [taxonomy.classes, taxonomy.labels, sorted(taxonomy.graph.edges)]
    jaccard = partial(_jaccard, taxonomy, profile.evaluation)
    return AlignmentReport(
        table("jaccard", profile, runs, jaccard, {"evaluation": profile.evaluation, "taxonomy": tree}),
        table("patterns", profile, [run._replace(also=()) for run in runs], _patterns),
        code_table(profile),
    )


def _jaccard(
    taxonomy: Taxonomy, spec: EvaluationSpec, model: SPARC, stores: Stores, run: Run
) -> pd.DataFrame:
    generator = np.random.default_rng(run.seed)
    return jaccard_table(model, stores["test"], taxonomy, spec, generator, PERMUTED in run.also)


def _patterns(model: SPARC, stores: Stores, run: Run) -> pd.DataFrame:
    return pattern_table(model, stores["test"])


def jaccard_table(
    model: SPARC,
    store: FeatureStore,
    taxonomy: Taxonomy,
    spec: EvaluationSpec,
    generator: np.random.Generator,
    permute: bool = False,
) -> pd.DataFrame:
    """`JaccardRow`s of one model on one labelled store, under every reading.

    generator: draws the nulls, spec.null_repeats each at the deepest of spec.taxonomy_depths. permute: with
    permuted labels too, which take most of the time. Raises ValueError where labels and taxonomy disagree, or
    for a model and a store of other streams.
    """
    shuffle = generator.spawn(1)[0]  # of its own, so that `permute` changes none of its draws
    rows: list[JaccardRow] = []
    for coding in CODINGS:
        codes = encode_store(model, store, coding)
        for activations, top_n in (("all", None), ("top", spec.top_n)):
            counts = label_counts(codes, store.labels, top_n)
            for min_samples in (1, SUPPORT):
                for depth in spec.taxonomy_depths:
                    where = dict(taxonomy=taxonomy, depth=depth, min_samples=min_samples)
                    per_latent = {"jaccard": jaccard_per_latent(counts, **where)}
                    if depth == max(spec.taxonomy_depths):
                        per_latent["shuffled"] = shuffled_latents_null(
                            counts, shuffle, spec.null_repeats, **where
                        ).mean(0)
                        per_latent["bound"] = activity_bound(counts, min_samples=min_samples)
                        if permute:
                            per_latent["null"] = permutation_null(
                                codes, store.labels, generator, spec.null_repeats, top_n=top_n, **where
                            ).mean(0)
                    rows += _both_means((coding, activations, min_samples, depth), counts, per_latent)
    return pd.DataFrame(rows, columns=JaccardRow._fields)


def _both_means(
    reading: tuple[str, str, int, int], counts: LabelCounts, per_latent: dict[str, np.ndarray]
) -> list[JaccardRow]:
    """The row over all latents and that over alive ones. per_latent {column: [n_latents]}; else NaN."""
    means = {
        column: mean_jaccard(values, counts, min_samples=reading[2]) for column, values in per_latent.items()
    }
    n_alive = means["jaccard"].n_alive
    rows = []
    for latents, size in (("all", len(per_latent["jaccard"])), ("alive", n_alive)):
        mean = dict.fromkeys(("jaccard", "null", "shuffled", "bound"), np.nan)
        for column, both in means.items():
            mean[column] = both.all_latents if latents == "all" else both.alive
        corrected = float(chance_corrected(mean["jaccard"], mean["null"]))
        place = float(rescaled(mean["jaccard"], mean["shuffled"], mean["bound"]))
        rows.append(JaccardRow(*reading, latents, size, corrected=corrected, rescaled=place, **mean))
    return rows


def pattern_table(model: SPARC, store: FeatureStore) -> pd.DataFrame:
    """`PatternRow`s of one model: in how many streams its latents are alive, under both codings."""
    rows = []
    for coding in CODINGS:
        counts = label_counts(encode_store(model, store, coding), store.labels)
        patterns, n_streams = activation_patterns(counts), len(counts.streams)
        n_latents = patterns.all_alive + patterns.all_dead + patterns.mixed_total
        sizes = {"all alive": patterns.all_alive, "all dead": patterns.all_dead}
        for n_alive, size in sorted(patterns.mixed.items(), reverse=True):
            sizes[f"{n_alive} of {n_streams}"] = size
        for stream, size in patterns.dead.items():
            sizes[f"dead in {stream}"] = size
        rows += [PatternRow(coding, pattern, size, size / n_latents) for pattern, size in sizes.items()]
    return pd.DataFrame(rows, columns=PatternRow._fields)
