"""Downstream classification of a profile: which representation keeps what a classifier needs? As a tidy table."""
from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Iterator, NamedTuple

import pandas as pd
from tqdm import tqdm

from .classification import ClassifierSpec, classify
from .evaluation import encode_store
from .profiles import Profile
from .representations import Features, Inputs, Reconstruction, SparseCodes
from .retrieval_report import CODES, CROSS, OWN, RAW, code_of
from .stages import stage
from .workflow import RANDOM, best_device, features, trained, untrained


class Case(NamedTuple):
    """One classifier. model, setting, seed: of the codes. kind: RAW, CODES, OWN or CROSS. source: stream that is seen;
    target: stream that is rebuilt from its code, else the source itself."""
    model: str
    setting: str
    seed: int
    kind: str
    source: str
    target: str


def classification_table(profile: Profile, spec: ClassifierSpec = ClassifierSpec(),
                         progress: bool = True) -> pd.DataFrame:
    """`Case`s with mean_ap and chance, fitted on train and scored on test pairs; computed on first use.

    Independent codes throughout. The codes of the first setting have every seed, raw features too (of the classifier).
    For the first seed there are the reconstructions of the first setting, the codes of the other settings, of an
    untrained model and of random-weight encoders, and the raw features of these.
    """
    stores = {(weights, split): features(profile, split, weights, progress)
              for weights in (None, RANDOM) for split in ("train", "test")}

    def build(partial: Path) -> None:
        rows = []
        for case, train, test, store in tqdm(_cases(profile, stores), desc="classifiers", disable=not progress):
            found = classify(train, stores[store, "train"].labels, test, stores[store, "test"].labels, spec, case.seed,
                             best_device())
            rows.append((*case, found.mean_ap, found.chance))
        table = pd.DataFrame(rows, columns=[*Case._fields, "mean_ap", "chance"])
        table.to_csv(partial / "table.csv.partial", index=False)
        (partial / "table.csv.partial").rename(partial / "table.csv")

    inputs = {"stores": [store.digest for store in stores.values()], "sparc": profile.sparc, "seeds": profile.seeds,
              "settings": profile.settings, "classifier": spec, "code": code_of(
                  "classification_report", "classification", "representations", "evaluation", "model", "losses",
                  "training", "dead")}
    return pd.read_csv(stage("classification", inputs, build) / "table.csv")


def _cases(profile: Profile, stores: dict) -> Iterator[tuple[Case, Inputs, Inputs, int | None]]:
    first, headline = profile.seeds[0], profile.settings[0]
    for weights, model, seeds in ((None, "trained", profile.seeds), (RANDOM, "random encoders", profile.seeds[:1])):
        train, test = stores[weights, "train"], stores[weights, "test"]
        for seed in seeds:
            for s in train.streams:
                yield Case(model, "raw", seed, RAW, s, s), Features(train, s), Features(test, s), weights
    for model, setting, seed in [("trained", headline, seed) for seed in profile.seeds] + [
            ("trained", setting, first) for setting in profile.settings[1:]] + [
            ("untrained", headline, first), ("random encoders", headline, first)]:
        weights = RANDOM if model == "random encoders" else None
        train, test = stores[weights, "train"], stores[weights, "test"]
        sparc = (untrained(profile, setting, seed, train) if model == "untrained"
                 else trained(profile, setting, seed, train, progress=False).model).to(best_device())
        learned, asked = (encode_store(sparc, store, "independent") for store in (train, test))
        for s in train.streams:
            yield Case(model, setting.name, seed, CODES, s, s), SparseCodes(learned[s]), SparseCodes(asked[s]), weights
        if model == "trained" and setting == headline and seed == first:
            for s, t in [*zip(train.streams, train.streams), *permutations(train.streams, 2)]:
                both = (Reconstruction(sparc, codes[s], t) for codes in (learned, asked))
                yield Case(model, setting.name, seed, OWN if s == t else CROSS, s, t), *both, weights
