"""Ablations: λ, k and L swept one at a time around a profile's setting, under both gates, over seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from scipy.stats import spearmanr

from ..alignment import jaccard_per_latent, label_counts, mean_jaccard
from ..concepts import fact_scores
from ..evaluation import TensorFeed, encode_store, evaluate
from ..model import SPARC
from ..nulls import activity_bound, shuffled_latents_null
from ..profiles import Gate, Profile, Setting
from ..retrieval import retrieval_metrics
from .alignment import CODINGS, SUPPORT
from .tables import Run, Stores, pick, table

GATES: tuple[Gate, ...] = ("global", "local")
TEXT = "clip_txt"
PARAMETERS = ("cross_weight", "k", "n_latents")  # what is swept: λ, k, L


class Measure(NamedTuple):
    """One number of a run under one coding.

    Averaged over streams (self_*, dead_share, l0, `collisions`), ordered pairs of streams (cross_*),
    directions (recall_1; recall_1_text: those from or to text), or latents (jaccard_*: alive ones; supported
    ones; the same with random partners; the most their firing rates allow).
    """

    coding: str
    metric: str
    value: float


POINT = ["model", "gate", "cross_weight", "k", "n_latents", "seed"]  # columns that name a run of the sweep
COLUMNS = [*POINT, *Measure._fields]


def values(profile: Profile, parameter: str) -> list[float]:
    """The values of `parameter`, ascending, the profile's own among them. KeyError for another one."""
    field = {"cross_weight": "cross_weights", "k": "k", "n_latents": "n_latents"}[parameter]
    return sorted({*getattr(profile.ablations, field), getattr(profile.sparc, parameter)})


def sweep_runs(profile: Profile) -> list[Run]:
    """Every run once, the costliest first. Headline settings take the profile's seeds, other points the
    sweep's; each size has an untrained control with the first seed and the profile's λ, which does not
    count."""
    base = {parameter: getattr(profile.sparc, parameter) for parameter in PARAMETERS}
    headline = {(setting.gate, setting.cross_weight) for setting in profile.settings}
    runs = set()
    for gate in GATES:
        for parameter in PARAMETERS:
            for value in values(profile, parameter):
                point = {**base, parameter: value}
                control = {**point, "cross_weight": base["cross_weight"]}
                runs.add(run_of(profile, "untrained", gate, profile.seeds[0], control))
                usual = control == base and (gate, point["cross_weight"]) in headline
                for seed in profile.seeds if usual else profile.ablations.seeds:
                    runs.add(run_of(profile, "trained", gate, seed, point))
    return sorted(runs, key=lambda run: (run.model, -run.sparc.n_latents * run.sparc.k, str(run)))


def run_of(profile: Profile, model: str, gate: Gate, seed: int, point: Mapping[str, float]) -> Run:
    """The run at one point {parameter: value} of the sweep. model: "trained" or "untrained"."""
    sizes = {"k": point["k"], "n_latents": point["n_latents"]}
    sparc = dataclasses.replace(profile.sparc, epochs=profile.ablations.epochs, **sizes)
    return Run(model, Setting("ablation", gate, point["cross_weight"]), seed, sparc=sparc)


def sweep(profile: Profile) -> pd.DataFrame:
    """All runs of a profile as a tidy table with the columns `COLUMNS`, built where they are missing."""
    samples, repeats = profile.ablations.test_samples, profile.evaluation.null_repeats
    inputs = {"test_samples": samples, "null_repeats": repeats}
    rows = table("ablation", profile, sweep_runs(profile), partial(_measured, samples, repeats), inputs)
    return rows[COLUMNS].sort_values([*POINT[:-1], "coding", "metric", "seed"], ignore_index=True)


def _measured(samples: int | None, null_repeats: int, model: SPARC, stores: Stores, run: Run) -> pd.DataFrame:
    test, rows = stores["test"], slice(samples)
    draw = np.random.default_rng(run.seed)
    measures = measure(model, test.tensors(rows), test.labels[rows], draw, null_repeats)
    point = {"cross_weight": run.setting.cross_weight, "k": run.sparc.k, "n_latents": run.sparc.n_latents}
    return pd.DataFrame(measures, columns=Measure._fields).assign(gate=run.setting.gate, **point)


def measure(
    model: SPARC,
    streams: Mapping[str, torch.Tensor],
    labels: sp.csr_array,
    generator: np.random.Generator,
    null_repeats: int,
) -> list[Measure]:
    """Every measure of one model under both codings.

    streams {name: [n, d]}, unit rows; labels [n, C]. Jaccard at the classes as they are, over all
    activations. Retrieval with independent codes only: joint ones carry the partner (F3).
    """
    scores, measures = evaluate(model, streams), []
    for coding in CODINGS:
        part = getattr(scores, coding)
        for metric in ("nmse", "fvu"):
            pairs = getattr(part, metric)
            own = [value for (source, target), value in pairs.items() if source == target]
            cross = [value for (source, target), value in pairs.items() if source != target]
            measures.append(Measure(coding, f"self_{metric}", _mean(own)))
            measures.append(Measure(coding, f"cross_{metric}", _mean(cross)))
        for metric in ("dead_share", "l0"):
            measures.append(Measure(coding, metric, _mean(getattr(part, metric).values())))
        codes = encode_store(model, TensorFeed(streams), coding)
        counts = label_counts(codes, labels)
        for name, support in (("alive", 1), ("supported", SUPPORT)):
            means = mean_jaccard(jaccard_per_latent(counts, min_samples=support), counts, min_samples=support)
            measures.append(Measure(coding, f"jaccard_{name}", means.alive))
        shuffled = shuffled_latents_null(counts, generator, null_repeats, min_samples=SUPPORT).mean(0)
        bound = activity_bound(counts, min_samples=SUPPORT)
        for name, per_latent in (("shuffled", shuffled), ("bound", bound)):
            means = mean_jaccard(per_latent, counts, min_samples=SUPPORT)
            measures.append(Measure(coding, f"jaccard_{name}", means.alive))
        if coding == "independent":
            ways = permutations(codes, 2)
            recalls = {(q, r): retrieval_metrics(codes[q], codes[r], n_jobs=1).recall[1] for q, r in ways}
            with_text = [value for pair, value in recalls.items() if TEXT in pair]
            measures.append(Measure(coding, "recall_1", _mean(recalls.values())))
            measures.append(Measure(coding, "recall_1_text", _mean(with_text) if with_text else np.nan))
        measures.append(Measure(coding, "collisions", _mean(collisions(z, labels) for z in codes.values())))
    return measures


def collisions(codes: sp.csr_matrix, labels: sp.csr_array, least: int = 10) -> float:
    """Share of the classes that share their best latent with another class.

    codes [n, n_latents] of one stream, labels bool [n, n_classes]; classes with at least `least` samples
    count. The best latent is the one whose firing has the highest F1. 0 without two such classes.
    """
    often = np.flatnonzero(np.asarray(labels.sum(0)).ravel() >= least)
    best = fact_scores(codes, sp.csr_array(labels)[:, often]).argmax(1)
    latents, sizes = np.unique(best, return_counts=True)
    return float(sizes[sizes > 1].sum() / len(best)) if len(best) > 1 else 0.0


def _mean(numbers: Iterable[float]) -> float:
    return float(np.mean(list(numbers)))


def along(table: pd.DataFrame, profile: Profile, parameter: str, metric: str, coding: str) -> pd.DataFrame:
    """Rows of one curve family: `parameter` varies, the other two stay at the profile's values.

    Columns gate, model, seed, x (the parameter's value) and value, ascending in x. Raises KeyError if no run
    of the table fits.
    """
    fits = (table.metric == metric) & (table.coding == coding)
    for other in PARAMETERS:
        if other != parameter:
            fits &= table[other] == getattr(profile.sparc, other)
    rows = table[fits].rename(columns={parameter: "x"})[["gate", "model", "seed", "x", "value"]]
    if rows.empty:
        raise KeyError(
            f"no runs along {parameter!r} with metric {metric!r} and coding {coding!r}; metrics: "
            f"{', '.join(sorted(table.metric.unique()))}"
        )
    return rows.sort_values(["gate", "model", "x", "seed"], ignore_index=True)


def curve(
    table: pd.DataFrame, profile: Profile, parameter: str, metric: str, coding: str, gate: Gate
) -> pd.DataFrame:
    """The trained runs of one gate, [values of the parameter, seeds]; NaN where a seed was not run."""
    rows = along(table, profile, parameter, metric, coding)
    rows = rows[(rows.gate == gate) & (rows.model == "trained")]
    return rows.pivot(index="x", columns="seed", values="value")


class Trend(NamedTuple):
    """How a trained curve runs, for one seed. statistic: "trend" (rank correlation with the parameter, -1 to
    1), or "share reached at <λ>" (of the best improvement over the smallest λ)."""

    statistic: str
    parameter: str
    metric: str
    coding: str
    gate: str
    seed: int
    value: float


def trends(table: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """`Trend`s of every curve and seed that covers the whole sweep; shares of NMSE and FVU along λ only."""
    rows = []
    for parameter in PARAMETERS:
        for (metric, coding), _ in table.groupby(["metric", "coding"]):
            for gate in GATES:
                curves = curve(table, profile, parameter, metric, coding, gate).dropna(axis=1)
                for seed, y in curves.items():
                    key = parameter, metric, coding, gate, seed
                    rows.append(Trend("trend", *key, trend(y.index, y)))
                    if parameter != "cross_weight" or not metric.endswith(("nmse", "fvu")):
                        continue
                    for x in y.index:
                        rows.append(Trend(f"share reached at {x:g}", *key, share_reached(y.index, y, x)))
    return pd.DataFrame(rows, columns=Trend._fields)


def reached(table: pd.DataFrame, at: float, metric: str, coding: str, gate: Gate) -> np.ndarray:
    """From `trends`: the share of the best improvement over the smallest λ reached at λ = `at`, by seed."""
    where = dict(metric=metric, coding=coding, gate=gate)
    return pick(table, statistic=f"share reached at {at:g}", **where).value.to_numpy()


def trend(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation of y with x, -1 (y always falls as x grows) to 1; ties share their rank.

    A constant y has no direction and gives 0. Raises ValueError for fewer than three points.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 3:
        raise ValueError(
            f"x {x.shape} and y {y.shape}: a trend needs at least three points, one y for each x"
        )
    return 0.0 if np.ptp(y) == 0 else float(spearmanr(x, y).statistic)


def share_reached(x: Sequence[float], y: Sequence[float], at: float) -> float:
    """The share of the improvement from the smallest x to the best y that x = `at` reaches; low y is good.

    (y at min x - y at `at`) / (y at min x - best y): 1 where nothing better lies elsewhere. 0 when y never
    improves. Raises ValueError if `at` is not among x.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if not np.isclose(x, at).any():
        raise ValueError(f"{at} is not among the swept values {x.tolist()}")
    first, there = y[x.argmin()], y[np.isclose(x, at).argmax()]
    return 0.0 if first <= y.min() else float((first - there) / (first - y.min()))


def saturation(x: Sequence[float], y: Sequence[float], share: float = 0.9) -> float:
    """The smallest x at which `share` of the best improvement over the smallest x is reached; low y is good.

    NaN where y never improves.
    """
    enough = [float(at) for at in x if share_reached(x, y, at) >= share]
    return min(enough, default=float("nan"))
