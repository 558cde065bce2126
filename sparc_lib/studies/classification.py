"""Downstream classification of a profile: which representation keeps what a classifier needs? As a tidy table."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..evaluation import encode_store
from ..profiles import Profile, Setting
from ..store.reader import FeatureStore
from .classifier import ClassifierSpec, classify
from .parallel import each
from .representations import Features, Inputs, Reconstruction, SparseCodes
from .retrieval import CODES, CROSS, OWN, RAW
from .runs import RANDOM, best_device, features, trained, untrained
from .sources import code_of
from .stages import table_stage


class Case(NamedTuple):
    """One classifier. model, setting, seed: of the codes. kind: RAW, CODES, OWN or CROSS. source: stream that is seen;
    target: stream that is rebuilt from its code, else the source itself."""

    model: str
    setting: str
    seed: int
    kind: str
    source: str
    target: str


def classification_table(
    profile: Profile, spec: ClassifierSpec | None = None, progress: bool = True, n_jobs: int | None = None
) -> pd.DataFrame:
    """`Case`s with mean_ap and chance, fitted on train and scored on test pairs; computed on first use.

    Independent codes throughout. The codes of the first setting have every seed, raw features too (of the classifier).
    For the first seed there are the reconstructions of the first setting, the codes of the other settings, of an
    untrained model and of random-weight encoders, and the raw features of these. spec: without one, the usual, with
    the profile's least number of steps if it names one. n_jobs: as in `parallel.each`.
    """
    steps = profile.evaluation.classifier_steps
    spec = spec or (ClassifierSpec(min_steps=steps) if steps else ClassifierSpec())
    stores = {
        (weights, split): features(profile, split, weights, progress)
        for weights in (None, RANDOM)
        for split in ("train", "test")
    }

    def make() -> pd.DataFrame:
        tasks = [
            (profile, spec, source, *(stores[source.weights, split].directory for split in ("train", "test")))
            for source in _sources(profile)
        ]
        rows = [row for found in each(_rows, tasks, "classifiers", n_jobs, progress) for row in found]
        return pd.DataFrame(rows, columns=[*Case._fields, "mean_ap", "chance"])

    inputs = {
        "stores": [store.digest for store in stores.values()],
        "sparc": profile.sparc,
        "seeds": profile.seeds,
        "settings": profile.settings,
        "classifier": spec,
        "code": code_of("studies"),
    }
    return table_stage("classification", inputs, make)


class _Source(NamedTuple):
    """What the inputs of some classifiers are made with; setting None: nothing, they are raw features."""

    model: str
    setting: Setting | None
    seed: int
    weights: int | None


def _sources(profile: Profile) -> list[_Source]:
    first, headline = profile.seeds[0], profile.settings[0]
    return [
        *(_Source("trained", headline, seed, None) for seed in profile.seeds),
        *(_Source("trained", setting, first, None) for setting in profile.settings[1:]),
        _Source("untrained", headline, first, None),
        _Source("random encoders", headline, first, RANDOM),
        *(_Source("trained", None, seed, None) for seed in profile.seeds),
        _Source("random encoders", None, first, RANDOM),
    ]


def _rows(profile: Profile, spec: ClassifierSpec, source: _Source, train: Path, test: Path) -> list[tuple]:
    known, asked = FeatureStore.open(train), FeatureStore.open(test)
    rows = []
    for case, *inputs in _cases(profile, source, known, asked):
        found = classify(inputs[0], known.labels, inputs[1], asked.labels, spec, source.seed, best_device())
        rows.append((*case, found.mean_ap, found.chance))
    return rows


def _cases(
    profile: Profile, source: _Source, train: FeatureStore, test: FeatureStore
) -> Iterator[tuple[Case, Inputs, Inputs]]:
    model, setting, seed, _ = source
    if setting is None:
        for s in train.streams:
            yield Case(model, "raw", seed, RAW, s, s), Features(train, s), Features(test, s)
        return
    sparc = (
        untrained(profile, setting, seed, train)
        if model == "untrained"
        else trained(profile, setting, seed, train, progress=False).model
    ).to(best_device())
    learned, asked = (encode_store(sparc, store, "independent") for store in (train, test))
    for s in train.streams:
        yield Case(model, setting.name, seed, CODES, s, s), SparseCodes(learned[s]), SparseCodes(asked[s])
    if (model, setting, seed) == ("trained", profile.settings[0], profile.seeds[0]):
        for s, t in [*zip(train.streams, train.streams), *permutations(train.streams, 2)]:
            both = (Reconstruction(sparc, codes[s], t) for codes in (learned, asked))
            yield Case(model, setting.name, seed, OWN if s == t else CROSS, s, t), *both
