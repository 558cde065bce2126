"""Every alignment and retrieval number of a model on a test store, and of its controls, as tidy tables.

Three kinds of model stand side by side. "trained": SPARC on the profile's encoders. "untrained": SPARC as
initialised, on the same features. "random encoders": SPARC trained on features of the same networks with random
weights. What an untrained or a random model scores too is no evidence of shared concepts (F3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ..alignment import LabelCounts, activation_patterns, jaccard_per_latent, label_counts, mean_jaccard
from ..evaluation import encode_store
from ..model import SPARC, Coding
from ..nulls import activity_bound, chance_corrected, permutation_null, rescaled, shuffled_latents_null
from ..profiles import EvaluationSpec, Profile, Setting
from ..retrieval import RetrievalMetrics, retrieval_metrics
from ..store.reader import FeatureStore
from ..taxonomy import Taxonomy
from .parallel import each
from .runs import RANDOM, best_device, features, trained, untrained

CODINGS: tuple[Coding, ...] = ("joint", "independent")
SUPPORT = 5  # samples in a stream below which a latent's label counts are mostly noise
KINDS = ("trained", "untrained", "random encoders")


class JaccardRow(NamedTuple):
    """Mean hierarchical Jaccard of one model under one reading.

    activations: "all", or the "top" n of each latent. min_samples: support below which a latent counts as dead.
    depth: of the taxonomy. latents: the mean runs over "all" of them, dead ones as 0 (the paper's headline), or
    over the n_latents "alive" in at least two streams (F4). null: the same mean under permuted labels; corrected:
    (jaccard - null) / (1 - null). shuffled: the mean with random partners instead of namesakes; bound: the most that
    the firing rates allow; rescaled: (jaccard - shuffled) / (bound - shuffled). Nulls and what is made of them stand at
    the leaves only, NaN elsewhere; permuted labels only where asked for.
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
    """pattern: "all alive", "2 of 3", "1 of 3", "all dead" (they add up to all latents), or "dead in <stream>"."""

    coding: str
    pattern: str
    n_latents: int
    share: float


class RetrievalRow(NamedTuple):
    """One direction of retrieval. coding: "joint", "independent", or "features" for the encoders' own."""

    coding: str
    query: str
    reference: str
    recall_1: float
    recall_5: float
    recall_10: float
    median_rank: float
    mrr: float
    n_reference: int


class AlignmentReport(NamedTuple):
    """Tidy tables with one `JaccardRow`, `PatternRow`, `RetrievalRow` a line."""

    jaccard: pd.DataFrame
    patterns: pd.DataFrame
    retrieval: pd.DataFrame


def alignment_report(
    model: SPARC,
    store: FeatureStore,
    taxonomy: Taxonomy,
    spec: EvaluationSpec,
    generator: np.random.Generator,
    permute: bool = False,
    retrieval: Sequence[Coding] = ("independent",),
) -> AlignmentReport:
    """All alignment numbers of one model on one labelled store.

    generator: draws the nulls, spec.null_repeats each at the deepest of spec.taxonomy_depths. permute: with permuted
    labels too, which take most of the time. retrieval: codings whose codes are searched, in all directions among the
    first spec.retrieval_pool pairs. Raises ValueError where labels and taxonomy disagree, or for a model and a store of
    other streams.
    """
    shuffle = generator.spawn(1)[0]  # of its own, so that `permute` changes none of its draws
    jaccard: list[JaccardRow] = []
    patterns: list[PatternRow] = []
    found: list[RetrievalRow] = []
    for coding in CODINGS:
        codes = encode_store(model, store, coding)
        for activations, top_n in (("all", None), ("top", spec.top_n)):
            counts = label_counts(codes, store.labels, top_n)
            if top_n is None:
                patterns += _pattern_rows(coding, counts)
            for min_samples in (1, SUPPORT):
                for depth in spec.taxonomy_depths:
                    where = dict(taxonomy=taxonomy, depth=depth, min_samples=min_samples)
                    permuted = shuffled = None
                    if depth == max(spec.taxonomy_depths):
                        shuffled = shuffled_latents_null(counts, shuffle, spec.null_repeats, **where).mean(0)
                        if permute:
                            permuted = permutation_null(
                                codes, store.labels, generator, spec.null_repeats, top_n=top_n, **where
                            ).mean(0)
                    reading = (coding, activations, min_samples, depth)
                    jaccard += _jaccard_rows(reading, counts, taxonomy, permuted, shuffled)
        if coding in retrieval:
            found += _retrieval_rows(coding, codes, spec.retrieval_pool)
    return AlignmentReport(
        pd.DataFrame(jaccard, columns=JaccardRow._fields),
        pd.DataFrame(patterns, columns=PatternRow._fields),
        pd.DataFrame(found, columns=RetrievalRow._fields),
    )


def _jaccard_rows(
    reading: tuple[str, str, int, int],
    counts: LabelCounts,
    taxonomy: Taxonomy,
    permuted: np.ndarray | None,
    shuffled: np.ndarray | None,
) -> list[JaccardRow]:
    min_samples, depth = reading[2:]

    def both_means(per_latent: np.ndarray | None) -> tuple[float, float]:  # over all latents, over alive ones
        return (
            (np.nan, np.nan)
            if per_latent is None
            else mean_jaccard(per_latent, counts, min_samples=min_samples)[:2]
        )

    per_latent = jaccard_per_latent(counts, taxonomy, depth, min_samples=min_samples)
    bound = None if shuffled is None else activity_bound(counts, min_samples=min_samples)
    sizes = {
        "all": len(per_latent),
        "alive": mean_jaccard(per_latent, counts, min_samples=min_samples).n_alive,
    }
    rows = zip(sizes.items(), *map(both_means, (per_latent, permuted, shuffled, bound)))
    return [
        JaccardRow(
            *reading,
            latents,
            size,
            value,
            null,
            float(chance_corrected(value, null)),
            mixed,
            most,
            float(rescaled(value, mixed, most)),
        )
        for (latents, size), value, null, mixed, most in rows
    ]


def _pattern_rows(coding: str, counts: LabelCounts) -> list[PatternRow]:
    found, streams = activation_patterns(counts), len(counts.streams)
    sizes = {"all alive": found.all_alive, "all dead": found.all_dead}
    sizes |= {f"{j} of {streams}": size for j, size in sorted(found.mixed.items(), reverse=True)}
    sizes |= {f"dead in {stream}": size for stream, size in found.dead.items()}
    n_latents = found.all_alive + found.all_dead + found.mixed_total
    return [PatternRow(coding, pattern, size, size / n_latents) for pattern, size in sizes.items()]


def _retrieval_rows(coding: str, codes: Mapping[str, sp.csr_matrix], pool: int | None) -> list[RetrievalRow]:
    return [
        _retrieval_row(
            coding, query, reference, retrieval_metrics(codes[query][:pool], codes[reference][:pool])
        )
        for query, reference in permutations(codes, 2)
    ]


def _retrieval_row(coding: str, query: str, reference: str, found: RetrievalMetrics) -> RetrievalRow:
    return RetrievalRow(
        coding,
        query,
        reference,
        *(found.recall[k] for k in (1, 5, 10)),
        found.median_rank,
        found.mrr,
        found.n_reference,
    )


def raw_clip_retrieval(store: FeatureStore, pool: int | None = None) -> pd.DataFrame:
    """`RetrievalRow`s of the CLIP features themselves, image to text and back, the reference for codes made of them."""
    x = store.tensors(slice(pool))
    return pd.DataFrame(
        [
            _retrieval_row("features", query, reference, retrieval_metrics(x[query], x[reference]))
            for query, reference in permutations(("clip_img", "clip_txt"))
        ],
        columns=RetrievalRow._fields,
    )


def report_with_controls(
    profile: Profile, taxonomy: Taxonomy, progress: bool = True, n_jobs: int | None = None
) -> AlignmentReport:
    """`alignment_report` of every setting and seed of a profile, its controls beside it, on the test split.

    Adds the columns model (one of KINDS; "raw" for raw CLIP), setting and seed. Controls and permuted labels are made
    for the first seed only, shuffled latents for all. λ does not reach an untrained model, so settings of one gate share that control. Joint codes are
    searched for the first seed only: enough to show what they leak. n_jobs: as in `parallel.each`.
    """
    first = profile.seeds[0]
    stores = {
        weights: {split: features(profile, split, weights, progress) for split in ("train", "test")}
        for weights in (None, RANDOM)
    }
    of_gate = {
        setting.gate: setting for setting in reversed(profile.settings)
    }  # the first setting of each gate
    cases = [
        Case("trained", profile, setting, seed, None)
        for setting in profile.settings
        for seed in profile.seeds
    ]
    cases += [Case("untrained", profile, setting, first, None) for setting in of_gate.values()]
    cases += [Case("random encoders", profile, setting, first, RANDOM) for setting in profile.settings]
    found = each(
        _report,
        [
            (case, taxonomy, *(stores[case.weights][split].directory for split in ("train", "test")))
            for case in cases
        ],
        "alignment",
        n_jobs,
        progress,
    )
    tables = [
        AlignmentReport(*(_labelled(table, case.kind, setting.name, case.seed) for table in report))
        for case, report in zip(cases, found)
        for setting in profile.settings
        if setting == case.setting or case.kind == "untrained" and setting.gate == case.setting.gate
    ]
    clip = raw_clip_retrieval(stores[None]["test"], profile.evaluation.retrieval_pool)
    jaccard, patterns, retrieval = (pd.concat(parts, ignore_index=True) for parts in zip(*tables))
    return AlignmentReport(
        jaccard,
        patterns,
        pd.concat([retrieval, _labelled(clip, "raw", "raw_clip", first)], ignore_index=True),
    )


class Case(NamedTuple):
    """A model to measure: its kind, how it was trained, and on which encoders (weights: None, or the random seed)."""

    kind: str
    profile: Profile
    setting: Setting
    seed: int
    weights: int | None


def _report(case: Case, taxonomy: Taxonomy, train: Path, test: Path) -> AlignmentReport:
    _, profile, setting, seed, _ = case
    known, asked = FeatureStore.open(train), FeatureStore.open(test)
    model = (
        untrained(profile, setting, seed, known)
        if case.kind == "untrained"
        else trained(profile, setting, seed, known, progress=False).model
    )
    first = seed == profile.seeds[0]
    return alignment_report(
        model.to(best_device()),
        asked,
        taxonomy,
        profile.evaluation,
        np.random.default_rng(seed),
        first,
        CODINGS if first else CODINGS[1:],
    )


def _labelled(table: pd.DataFrame, kind: str, setting: str, seed: int) -> pd.DataFrame:
    out = table.copy()
    for place, (column, value) in enumerate({"model": kind, "setting": setting, "seed": seed}.items()):
        out.insert(place, column, value)
    return out


def pick(table: pd.DataFrame, **where) -> pd.DataFrame:
    """Rows in which every named column has the given value. Raises KeyError if there is no such column or row."""
    for column, value in where.items():
        if column not in table:
            raise KeyError(f"no column {column!r}; this table has {', '.join(table)}")
        rows = table[table[column] == value]
        if rows.empty:
            raise KeyError(
                f"no row with {column} = {value!r}; it takes {', '.join(map(str, table[column].unique()))}"
            )
        table = rows
    return table


def by_setting(table: pd.DataFrame, column: str, **where) -> dict[str, list[float]]:
    """{setting: values of `column`, one a seed} among the rows `where` holds; settings in the table's order."""
    return {
        setting: rows[column].tolist()
        for setting, rows in pick(table, **where).groupby("setting", sort=False)
    }


def controls(table: pd.DataFrame, column: str, **where) -> dict[str, dict[str, float]]:
    """{control: {setting: value}} of the rows `where` holds; for the Jaccard also the nulls of the trained models."""
    found = {
        kind: {
            setting: values[0] for setting, values in by_setting(table, column, model=kind, **where).items()
        }
        for kind in KINDS[1:]
    }
    for name, null in (
        {"shuffled latents": "shuffled", "permuted labels": "null"}.items() if column == "jaccard" else ()
    ):
        drawn = by_setting(table, null, model="trained", **where)
        found[name] = {setting: values[0] for setting, values in drawn.items()}
    return found
