"""What latents stand for: how many facts of the data have a latent, and whether the streams agree on names.

In the miniature world a fact is anything true of a scene: a dog, a red roof, night, on the left. Photographs
have the classes they are labelled with.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ..concepts import NO_NAME, ConceptNames, concept_names, fact_scores, lift_names
from ..data.knowledge import Vocabulary, vocabulary
from ..evaluation import encode_store
from ..model import SPARC
from ..profiles import Profile
from .alignment import CODINGS, SUPPORT
from .runs import dataset
from .tables import Run, Stores, by_gate, table

RARE, COMMON = 0.005, 0.5  # base rates between which a fact can be recovered
RECOVERED = 0.5  # F1 from which a latent stands for a fact
ALL = "all"  # one latent in all streams at once; facts of every kind
RULES = ("lift", "purity")  # of naming: over facts by what they tell, and over classes as published


class FactRow(NamedTuple):
    """A number of one model. share: n / out_of.

    what: "recovered": facts whose best latent, chosen on the training split, has F1 >= RECOVERED on the
    test split; in the stream `all` one latent must do so in every stream. "named (rule)": latents with a name
    in a stream, of all L. "agreed (rule)": of the pairs (latent, name) found in any stream, those found in
    all. "agreed by chance (rule)": the same with latents of the other streams shuffled. kind: of facts.
    """

    coding: str
    what: str
    stream: str
    kind: str
    n: float
    out_of: int
    share: float


def fact_table(profile: Profile) -> pd.DataFrame:
    """`FactRow`s of every setting and seed, of SPARC untrained and of SPARC on random encoders.

    In front the columns model, setting and seed. Built on first use.
    """
    runs = [Run("trained", setting, seed) for setting in profile.settings for seed in profile.seeds]
    runs += [Run("untrained", setting, seed) for setting in by_gate(profile) for seed in profile.seeds]
    runs += [Run("random encoders", setting, seed) for setting in profile.settings for seed in profile.seeds]
    known = {split: vocabulary(dataset(profile, split)) for split in ("train", "test")}
    return table("facts", profile, runs, partial(_measure, known))


def _measure(known: dict[str, Vocabulary], model: SPARC, stores: Stores, run: Run) -> pd.DataFrame:
    true = {split: known[split].of(store.ids).true for split, store in stores.items()}
    rows: list[FactRow] = []
    for coding in CODINGS:
        codes = {split: encode_store(model, store, coding) for split, store in stores.items()}
        rows += recovery_rows(coding, codes, true, known["train"].kinds)
        names = {
            "lift": lift_names(codes["test"], true["test"], known["test"].terms),
            "purity": concept_names(codes["test"], stores["test"].labels, stores["test"].classes),
        }
        for rule, names_of_rule in names.items():
            rows += agreement_rows(coding, rule, names_of_rule, np.random.default_rng(run.seed))
    return pd.DataFrame(rows, columns=FactRow._fields)


def recovery_rows(
    coding: str,
    codes: dict[str, dict[str, sp.csr_matrix]],
    true: dict[str, sp.csr_array],
    kinds: list[str],
) -> list[FactRow]:
    """Recovered facts by stream and kind. codes {split: {stream: [n, L]}}, true {split: [n, n_facts]}."""
    rate = np.asarray(true["train"].mean(0)).ravel()
    kept = np.flatnonzero((rate >= RARE) & (rate <= COMMON))
    kept = kept[np.asarray(true["test"][:, kept].sum(0)).ravel() > 0]
    scores = {
        split: {stream: fact_scores(z, true[split][:, kept]) for stream, z in by_stream.items()}
        for split, by_stream in codes.items()
    }  # [n_kept, L]
    for by_stream in scores.values():
        by_stream[ALL] = np.min(list(by_stream.values()), axis=0)
    kind = np.array(kinds)[kept]
    rows = []
    for stream in scores["train"]:
        best = scores["train"][stream].argmax(1)
        recovered = np.take_along_axis(scores["test"][stream], best[:, None], 1)[:, 0] >= RECOVERED
        for name in (ALL, *dict.fromkeys(kind)):
            chosen = recovered if name == ALL else recovered[kind == name]
            rows.append(
                FactRow(coding, "recovered", stream, name, int(chosen.sum()), len(chosen), chosen.mean())
            )
    return rows


def agreement_rows(
    coding: str, rule: str, names: ConceptNames, generator: np.random.Generator, repeats: int = 20
) -> list[FactRow]:
    """How many latents have a name in each stream, and how many of the names the streams share."""
    named = supported_names(names)
    rows = []
    for stream, column in zip(names.named, named):
        count = int((column != NO_NAME).sum())
        rows.append(FactRow(coding, f"named ({rule})", stream, ALL, count, len(column), count / len(column)))
    numbers = agreement(named)
    rows.append(FactRow(coding, f"agreed ({rule})", ALL, ALL, *numbers))
    first, *others = named
    shuffled = []
    for _ in range(repeats):
        shuffled.append(agreement([first, *(generator.permutation(column) for column in others)]))
    n, out_of, share = np.mean(shuffled, axis=0)
    rows.append(FactRow(coding, f"agreed by chance ({rule})", ALL, ALL, n, round(out_of), share))
    return rows


def supported_names(names: ConceptNames) -> list[np.ndarray]:
    """The names of every stream, [L] each, of latents that fire on enough samples there; else NO_NAME."""
    return [np.where(names.support[s] >= SUPPORT, names.named[s], NO_NAME) for s in names.named]


class Agreement(NamedTuple):
    """Pairs (latent, name) that all streams have, and those that any has."""

    n: int
    out_of: int
    share: float


def agreement(named: list[np.ndarray]) -> Agreement:
    """Agreement of several streams' names [L], NO_NAME where a latent has none; share 0 without any name."""
    stacked = np.stack(named)
    together = (stacked == stacked[0]).all(0) & (stacked[0] != NO_NAME)
    pairs = {(int(latent), int(stacked[s, latent])) for s, latent in np.argwhere(stacked != NO_NAME)}
    count = int(together.sum())
    return Agreement(count, len(pairs), count / len(pairs) if pairs else 0.0)
