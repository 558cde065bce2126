"""Ablations: λ, k and L swept one at a time around a profile's setting, under both gates, over seeds.

Every run is a cached stage and a joblib task. `joblib.parallel_config(backend=...)` around `sweep` says where the tasks
run: processes of this machine ("loky"), or a Dask or Ray cluster whose workers see the same $SPARC_DATA.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from joblib import Parallel, delayed
from joblib.parallel import get_active_backend
from tqdm import tqdm

from ..alignment import jaccard_per_latent, label_counts, mean_jaccard
from ..claims.verdicts import direction, share_reached, trend
from ..evaluation import TensorFeed, encode_store, evaluate
from ..model import SPARC
from ..nulls import activity_bound, shuffled_latents_null
from ..profiles import Gate, Profile, Setting
from ..retrieval import retrieval_metrics
from ..store.reader import FeatureStore
from ..training import TrainConfig
from .alignment import CODINGS, SUPPORT, pick
from .parallel import one_thread
from .runs import best_device, trained, untrained
from .sources import code_of
from .stages import table_stage

GATES: tuple[Gate, ...] = ("global", "local")
PARAMETERS = ("cross_weight", "k", "n_latents")  # what is swept: λ, k, L


class Job(NamedTuple):
    """One run: a point of the sweep and a seed. model: "trained", or "untrained" for the control."""

    model: str
    gate: Gate
    cross_weight: float
    k: int
    n_latents: int
    seed: int


class Measure(NamedTuple):
    """One number of a run under one coding, averaged over streams (self_*, dead_share, l0), ordered pairs of streams
    (cross_*), directions (recall_1), or latents (jaccard_*: alive ones; supported ones; the
    same with random partners; the most their firing rates allow)."""

    coding: str
    metric: str
    value: float


COLUMNS = (*Job._fields, *Measure._fields)


def values(profile: Profile, parameter: str) -> list[float]:
    """The values that `parameter` takes, ascending, the profile's own among them. KeyError for another parameter."""
    field = {"cross_weight": "cross_weights", "k": "k", "n_latents": "n_latents"}[parameter]
    return sorted({*getattr(profile.ablations, field), getattr(profile.sparc, parameter)})


def jobs(profile: Profile) -> list[Job]:
    """Every run once, the costliest first. Headline settings take the profile's seeds, other points the sweep's; each
    size also has an untrained control, with the first seed and the profile's λ, which does not reach it."""
    base = {parameter: getattr(profile.sparc, parameter) for parameter in PARAMETERS}
    weight = {"cross_weight": profile.sparc.cross_weight}
    headline = {(s.gate, s.cross_weight) for s in profile.settings}
    found = set()
    for gate in GATES:
        for parameter in PARAMETERS:
            for value in values(profile, parameter):
                point = {**base, parameter: value}
                usual = (gate, point["cross_weight"]) in headline and {**point, **weight} == base
                seeds = profile.seeds if usual else profile.ablations.seeds
                found |= {Job("trained", gate, **point, seed=seed) for seed in seeds}
                found.add(Job("untrained", gate, **{**point, **weight}, seed=profile.seeds[0]))
    return sorted(found, key=lambda job: (job.model, -job.n_latents * job.k, job))


def sweep(profile: Profile, train: FeatureStore, test: FeatureStore, progress: bool = True) -> pd.DataFrame:
    """All runs of a profile as a tidy table with the columns `COLUMNS`, built where they are missing.

    Runs in the joblib backend of the surrounding `joblib.parallel_config` (without one: here, one after the other).
    Finished runs are kept, so a killed sweep goes on where it was; two workers that want one stage build it once.
    """
    tasks = [delayed(run)(profile, job, train.directory, test.directory) for job in jobs(profile)]
    backend, _ = get_active_backend()
    streaming = backend.supports_return_generator  # Ray's backend hands results back at the end only
    results = Parallel(return_as="generator_unordered" if streaming else "list")(tasks)
    tables = list(tqdm(results, total=len(tasks), desc="ablations", unit="run", disable=not progress))
    return pd.concat(tables).sort_values([*Job._fields[:-1], "coding", "metric", "seed"], ignore_index=True)


def run(profile: Profile, job: Job, train: Path, test: Path) -> pd.DataFrame:
    """One run on the stores in these folders, with one torch thread: trained if need be, measured, cached."""
    data, held_out = _opened(train), _opened(test)
    sparc = _variant(profile, job).sparc

    def make() -> pd.DataFrame:
        rows = slice(profile.ablations.test_samples)
        found = measure(
            model_of(profile, job, data).to(best_device()),
            held_out.tensors(rows),
            held_out.labels[rows],
            np.random.default_rng(job.seed),
            profile.evaluation.null_repeats,
        )
        return pd.DataFrame([(*job, *row) for row in found], columns=COLUMNS)

    inputs = {
        "job": list(job),
        "training": TrainConfig.from_spec(sparc),
        "sparc": sparc,
        "train": data.digest,
        "test": held_out.digest,
        "test_samples": profile.ablations.test_samples,
        "null_repeats": profile.evaluation.null_repeats,
        "code": code_of("studies"),
    }
    with one_thread():
        return table_stage("ablation", inputs, make)


def model_of(profile: Profile, job: Job, train: FeatureStore) -> SPARC:
    """The SPARC of a run, trained on first use."""
    variant, setting = _variant(profile, job), Setting("ablation", job.gate, job.cross_weight)
    if job.model == "untrained":
        return untrained(variant, setting, job.seed, train)
    return trained(variant, setting, job.seed, train, progress=False).model


def _variant(profile: Profile, job: Job) -> Profile:
    return dataclasses.replace(
        profile,
        sparc=dataclasses.replace(
            profile.sparc, epochs=profile.ablations.epochs, k=job.k, n_latents=job.n_latents
        ),
    )


def measure(
    model: SPARC,
    streams: Mapping[str, torch.Tensor],
    labels: sp.csr_array,
    generator: np.random.Generator,
    null_repeats: int,
) -> list[Measure]:
    """Every measure of one model under both codings.

    streams {name: [n, d]}, unit rows; labels [n, C]. Jaccard at the classes as they are, over all activations.
    Retrieval with independent codes only: joint ones carry the partner (F3).
    """
    scores, found = evaluate(model, streams), []
    for coding in CODINGS:
        part = getattr(scores, coding)
        for metric in ("nmse", "fvu"):
            pairs = getattr(part, metric)
            found.append(Measure(coding, f"self_{metric}", _mean(v for (s, t), v in pairs.items() if s == t)))
            found.append(
                Measure(coding, f"cross_{metric}", _mean(v for (s, t), v in pairs.items() if s != t))
            )
        found += [Measure(coding, name, _mean(getattr(part, name).values())) for name in ("dead_share", "l0")]
        codes = encode_store(model, TensorFeed(streams), coding)
        counts = label_counts(codes, labels)
        for name, support in (("alive", 1), ("supported", SUPPORT)):
            means = mean_jaccard(jaccard_per_latent(counts, min_samples=support), counts, min_samples=support)
            found.append(Measure(coding, f"jaccard_{name}", means.alive))
        for name, per_latent in (
            ("shuffled", shuffled_latents_null(counts, generator, null_repeats, min_samples=SUPPORT).mean(0)),
            ("bound", activity_bound(counts, min_samples=SUPPORT)),
        ):
            found.append(
                Measure(
                    coding, f"jaccard_{name}", mean_jaccard(per_latent, counts, min_samples=SUPPORT).alive
                )
            )
        if coding == "independent":
            recall = {
                pair: retrieval_metrics(codes[pair[0]], codes[pair[1]], n_jobs=1).recall[1]
                for pair in permutations(codes, 2)
            }
            found.append(Measure(coding, "recall_1", _mean(recall.values())))
    return found


def along(table: pd.DataFrame, profile: Profile, parameter: str, metric: str, coding: str) -> pd.DataFrame:
    """Rows of one curve family: `parameter` varies, the other two stay at the profile's values.

    Columns gate, model, seed, x (the parameter's value) and value, ascending in x. Raises KeyError if no run of
    the table fits.
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
    """How a trained curve runs, for one seed. statistic: "trend" (rank correlation with the parameter, -1 to 1), or
    "share reached at <λ>" (of the best improvement over the smallest λ)."""

    statistic: str
    parameter: str
    metric: str
    coding: str
    gate: str
    seed: int
    value: float


def trends(table: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """`Trend`s of every curve and seed that covers the whole sweep; shares of NMSE and FVU along λ only."""
    found = []
    for parameter in PARAMETERS:
        for (metric, coding), _ in table.groupby(["metric", "coding"]):
            for gate in GATES:
                for seed, y in curve(table, profile, parameter, metric, coding, gate).dropna(axis=1).items():
                    key = parameter, metric, coding, gate, seed
                    found.append(Trend("trend", *key, trend(y.index, y)))
                    if parameter == "cross_weight" and metric.endswith(("nmse", "fvu")):
                        found += [
                            Trend(f"share reached at {x:g}", *key, share_reached(y.index, y, x))
                            for x in y.index
                        ]
    return pd.DataFrame(found, columns=Trend._fields)


def reached(table: pd.DataFrame, at: float, metric: str, coding: str, gate: Gate) -> np.ndarray:
    """From `trends`: the share of the best improvement over the smallest λ that λ = `at` brings, one a seed."""
    return pick(
        table, statistic=f"share reached at {at:g}", metric=metric, coding=coding, gate=gate
    ).value.to_numpy()


def course(table: pd.DataFrame, parameter: str, metric: str, coding: str, gate: Gate) -> str:
    """From `trends`: whether a curve "falls", "rises" or "has no clear direction" as the parameter grows."""
    return direction(
        pick(table, statistic="trend", parameter=parameter, metric=metric, coding=coding, gate=gate).value
    )


def _mean(numbers) -> float:
    return float(np.mean(list(numbers)))


@lru_cache(maxsize=4)
def _opened(directory: Path) -> FeatureStore:
    return FeatureStore.open(directory)
