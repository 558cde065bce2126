"""Notebook 07: does a gate cost separability, and where does the loss go?

A probe reads a fact from a code: from one latent, from the best 2 to 16, or from all. All are the same least
squares, chosen and fitted on training pairs, scored on test pairs by their separation, 2 AUC - 1. Beside the
scores stands what could explain them: live latents, reconstruction, directions, absorption.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ..data.knowledge import Vocabulary, vocabulary
from ..evaluation import encode_store
from ..model import SPARC
from ..profiles import Profile, Setting
from ..taxonomy import Taxonomy
from .facts import ALL
from .representations import Features
from .runs import concepts, dataset
from .separation_measures import (
    Absorption,
    Coherence,
    Moments,
    Samples,
    absorption,
    choose,
    coherence,
    cut,
    effective_rank,
    full_weights,
    moments,
    separations,
    sparse_weights,
)
from .tables import Run, Stores, table

SIZES = (1, 2, 4, 8, 16)  # latents of a sparse probe
PROBES = [*map(str, SIZES), ALL]  # columns: separation by the size of the probe
RARE = 0.01  # share of the training samples that a fact is true of, and false of, at least
CUTS = (0.8, 0.6, 0.4)  # of the k entries of a code, the shares that are kept where it is cut
FEWER = (0.5,)  # of all latents, the shares that a probe may choose among
WHICH = ["stream", "coding", "kept", "among", "kind", "n_facts"]
MADE = ["live", "l0", "fvu"]
COLUMNS = [*WHICH, *PROBES, *MADE, *Coherence._fields, "rank", *Absorption._fields]
GAP = ["stream", "setting", "seed", "condition", *PROBES]
AS_TRAINED, FEWER_LATENTS, EQUAL_FVU, JOINT = (
    "as trained",
    "among equally many",
    "at equal FVU",
    "joint codes",
)


def settings(profile: Profile) -> list[Setting]:
    """The headline settings, then the gates of notebook 08 that train with one voter."""
    more = profile.gates.settings if profile.gates else ()
    return [*profile.settings, *(setting for setting in more if setting.dropout == 1)]


def references(profile: Profile) -> dict[str, str]:
    """{setting with a shared gate: the local setting with the same λ}, by name; others have none."""
    local = {each.cross_weight: each.name for each in profile.settings if each.gate == "local"}
    shared = [each for each in settings(profile) if each.gate == "global" and each.cross_weight in local]
    return {each.name: local[each.cross_weight] for each in shared}


def separability_table(profile: Profile) -> pd.DataFrame:
    """A row a model, stream, variant of its code and kind of fact; model, setting, seed, then `COLUMNS`.

    Columns of `PROBES`: the mean over the n_facts facts of a kind of what `separations` gives on test
    samples. A fact is left out that is true, or false, of less than the share `RARE` of the training samples.
    coding, kept, among: the code, how many of its entries are kept on a sample, and how many latents, those
    that fire most in training, a probe may read. Whole independent codes have a row a kind; of trained models
    there are also joint codes, if the gate is shared, codes with fewer entries (`CUTS`) and probes among
    fewer latents (`FEWER`), with facts of all kinds. The rows of raw features, whose single inputs are
    neurons of the encoders, have the coding "raw".

    Only in rows of all kinds: live, latents that fire on some test sample, and l0, on one; fvu, of the
    stream's own reconstruction; and, only of whole independent codes, `Coherence` of live latents, rank (see
    `effective_rank`) and `Absorption`.
    """
    runs = [Run("raw", None, profile.seeds[0])]
    runs += [Run("trained", setting, seed) for setting in settings(profile) for seed in profile.seeds]
    runs += [Run("untrained", profile.settings[0], seed) for seed in profile.seeds]
    return table("separability", profile, runs, partial(_measured, profile))


class Facts(NamedTuple):
    """What probes read: the kinds [F], and by split what is true, bool CSR [n, F]."""

    kinds: np.ndarray
    true: Mapping[str, sp.csr_array]


@lru_cache(maxsize=1)
def _vocabularies(profile: Profile) -> dict[str, Vocabulary]:
    return {split: vocabulary(dataset(profile, split)) for split in ("train", "test")}


def frequent_facts(words: Mapping[str, Vocabulary]) -> Facts:
    """The facts that occur often enough, and on the test samples at all."""
    rate = np.asarray(words["train"].true.mean(0)).ravel()
    n_true = np.asarray(words["test"].true.sum(0)).ravel()
    common = (np.minimum(rate, 1 - rate) >= RARE) & (n_true > 0) & (n_true < len(words["test"].ids))
    kept = np.flatnonzero(common)
    true = {split: own.true[:, kept] for split, own in words.items()}
    return Facts(np.array(words["train"].kinds)[kept], true)


class Code(NamedTuple):
    """A stream's code: train, test CSR [n, L]; features [n, d] of the test samples, which decoder [L, d] and
    bias [d] rebuild."""

    train: sp.csr_matrix
    test: sp.csr_matrix
    features: np.ndarray
    decoder: np.ndarray
    bias: np.ndarray

    def alive(self) -> np.ndarray:
        """Whether a latent fires on a test sample, [L]."""
        return np.bincount(self.test.indices, minlength=self.test.shape[1]) > 0

    def most_active(self, n: int) -> np.ndarray:
        """Whether a latent is one of the n that fire most on training samples, [L]; ties go to the first."""
        counts = np.bincount(self.train.indices, minlength=self.train.shape[1])
        chosen = np.zeros(len(counts), bool)
        chosen[np.argsort(-counts, kind="stable")[:n]] = True
        return chosen

    def cut(self, k: int) -> Code:
        """The same with the k largest entries of every sample."""
        return self._replace(train=cut(self.train, k), test=cut(self.test, k))

    def made(self) -> dict[str, float]:
        """The columns `MADE`."""
        error = np.square(self.test @ self.decoder + self.bias - self.features).sum()
        fvu = error / np.square(self.features - self.features.mean(0)).sum()
        return dict(zip(MADE, (int(self.alive().sum()), self.test.nnz / self.test.shape[0], fvu)))


def _measured(profile: Profile, model: SPARC | None, stores: Stores, run: Run) -> pd.DataFrame:
    words = {split: own.of(stores[split].ids) for split, own in _vocabularies(profile).items()}
    facts = frequent_facts(words)
    rows = []
    if model is None:
        for stream in stores["test"].streams:
            train, test = (Features(stores[split], stream) for split in ("train", "test"))
            rows += rows_by_kind({"stream": stream, "coding": "raw"}, facts, read(train, test, facts.true))
        return pd.DataFrame(rows, columns=COLUMNS)
    labels = {split: store.labels for split, store in stores.items()}
    below = groups(concepts(profile, stores["train"].classes)[0])
    trained = run.model == "trained"
    for stream, code in _codes(model, stores, "independent"):
        which = {"stream": stream, "coding": "independent", "kept": model.k, "among": model.n_latents}
        whole, *by_kind = rows_by_kind(which, facts, read(code.train, code.test, facts.true))
        rows += [whole | code.made() | described(code, labels, below), *by_kind]
        for kept in below_whole(model.k, CUTS) if trained else ():
            rows.append(_variant(which | {"kept": kept}, code.cut(kept), facts))
        for among in below_whole(model.n_latents, FEWER) if trained else ():
            rows.append(_variant(which | {"among": among}, code, facts, code.most_active(among)))
    if trained and model.gate == "global":
        for stream, code in _codes(model, stores, "joint"):
            which = {"stream": stream, "coding": "joint", "kept": model.k, "among": model.n_latents}
            rows.append(_variant(which, code, facts))
    return pd.DataFrame(rows, columns=COLUMNS)


def _codes(model: SPARC, stores: Stores, coding: str) -> Iterator[tuple[str, Code]]:
    """(stream, its code) of every stream of the model."""
    codes = {split: encode_store(model, store, coding) for split, store in stores.items()}
    features = stores["test"].tensors()
    for stream in model.streams:
        parts = (part[stream].detach().float().cpu().numpy() for part in (model.decoder, model.pre_bias))
        yield stream, Code(codes["train"][stream], codes["test"][stream], features[stream].numpy(), *parts)


def _variant(which: dict, code: Code, facts: Facts, allowed: np.ndarray | None = None) -> dict:
    scores = read(code.train, code.test, facts.true, allowed, (1, SIZES[-1]))
    return rows_by_kind(which, facts, scores)[0] | code.made()


def read(
    train: Samples,
    test: Samples,
    true: Mapping[str, sp.csr_array],
    allowed: np.ndarray | None = None,
    sizes: Sequence[int] = SIZES,
) -> dict[str, np.ndarray]:
    """Separation of every fact [F] by probes on the best of so many inputs, then by one on all, by `PROBES`.

    train, test [n, d]; true by split, bool CSR [n, F]; allowed bool [d]: inputs that may be read, None for
    all.
    """
    own = moments(train, true["train"])
    chosen = choose(own, max(sizes), allowed)
    scores = {str(m): separations(test, sparse_weights(own, chosen, m), true["test"]) for m in sizes}
    if allowed is None:
        weights = full_weights(own)
    else:
        weights = np.zeros_like(own.cross)
        weights[allowed] = full_weights(Moments(own.gram[np.ix_(allowed, allowed)], own.cross[allowed]))
    return scores | {ALL: separations(test, weights, true["test"])}


def rows_by_kind(which: dict, facts: Facts, scores: Mapping[str, np.ndarray]) -> list[dict]:
    """Means of `scores` [F] over facts of all kinds, then over those of each."""
    rows = []
    for kind in (ALL, *dict.fromkeys(facts.kinds.tolist())):
        chosen = np.ones(len(facts.kinds), bool) if kind == ALL else facts.kinds == kind
        means = {size: values[chosen].mean() for size, values in scores.items()}
        rows.append(which | {"kind": kind, "n_facts": int(chosen.sum())} | means)
    return rows


def below_whole(whole: int, shares: Sequence[float]) -> list[int]:
    """Shares of `whole` as whole numbers of at least 1 and below it, without repetition."""
    numbers = (max(1, round(share * whole)) for share in shares)
    return [number for number in dict.fromkeys(numbers) if number < whole]


def described(code: Code, labels: Mapping[str, sp.csr_array], below: sp.csr_array) -> dict[str, float]:
    """Coherence, rank and absorption of a whole code. labels by split; below: see `absorption`."""
    numbers = coherence(code.decoder[code.alive()])._asdict() | {"rank": effective_rank(code.test)}
    pairs = ((code.train, labels["train"]), (code.test, labels["test"]))
    return numbers | absorption(*pairs, below)._asdict()


def groups(taxonomy: Taxonomy) -> sp.csr_array:
    """Bool [G, C]: the classes below every node of the tree but the root that has two or more of them."""
    columns: dict[str, list[int]] = {}
    for column, label in enumerate(taxonomy.labels):
        for node in taxonomy.path(label)[1:-1]:
            columns.setdefault(node, []).append(column)
    kept = [own for own in columns.values() if len(own) > 1]
    row = np.repeat(np.arange(len(kept)), [len(own) for own in kept])
    flat = np.array([column for own in kept for column in own], int)
    return sp.csr_array((np.ones(len(flat), bool), (row, flat)), shape=(len(kept), len(taxonomy.classes)))


def gaps(rows: pd.DataFrame, reference: Mapping[str, str]) -> pd.DataFrame:
    """Separation under a shared gate less that of its local setting (`references`), columns `GAP`; a row a
    setting, seed, stream and condition.

    AS_TRAINED: whole independent codes, which have the same k. FEWER_LATENTS: both probes may choose among
    the same number of latents. EQUAL_FVU: of the code that reconstructs better entries are left out until it
    does no more (interpolated between `CUTS`; NaN beyond them). JOINT: joint codes of the shared gate, which
    hold what the other streams say as well.
    """
    trained = rows[(rows.model == "trained") & (rows.kind == ALL)]
    differences = []
    for (setting, seed, stream), own in trained.groupby(["setting", "seed", "stream"], sort=False):
        if setting in reference:
            same = (trained.setting == reference[setting]) & (trained.seed == seed)
            other = trained[same & (trained.stream == stream)]
            for condition, gap in _gap(own, other).items():
                differences.append((stream, setting, seed, condition, *gap))
    return pd.DataFrame(differences, columns=GAP)


def _gap(own: pd.DataFrame, other: pd.DataFrame) -> dict[str, np.ndarray]:
    """{condition: difference by `PROBES`} of the rows of one model and stream and those of its reference."""
    joint = own[own.coding == "joint"]
    own = own[own.coding == "independent"]
    (whole, fewer), (theirs, their_fewer) = _whole_and_fewer(own), _whole_and_fewer(other)
    level = max(whole.fvu, theirs.fvu)
    gap = {AS_TRAINED: whole[PROBES] - theirs[PROBES], FEWER_LATENTS: fewer[PROBES] - their_fewer[PROBES]}
    gap[EQUAL_FVU] = _at(own, level) - _at(other, level)
    gap[JOINT] = joint.iloc[0][PROBES] - theirs[PROBES]
    return {condition: np.asarray(values, float) for condition, values in gap.items()}


def _whole_and_fewer(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """The row of the whole code, and that of probes among the fewest latents."""
    return rows.iloc[0], rows.loc[rows.among.astype(float).idxmin()]


def _at(rows: pd.DataFrame, fvu: float) -> np.ndarray:
    """Separation by `PROBES` of a code that is cut until its FVU is `fvu`."""
    cuts = rows[rows.among == rows.among.max()].sort_values("kept", ascending=False)
    levels = np.maximum.accumulate(cuts.fvu.to_numpy())  # fewer of badly chosen entries may rebuild more
    if fvu <= levels[0]:
        return np.asarray(cuts.iloc[0][PROBES], float)
    return np.array([np.interp(fvu, levels, cuts[probe], right=np.nan) for probe in PROBES])
