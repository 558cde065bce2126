"""What notebook 08 measures of changed facts: functions from pairs, their partners and codes to rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations, product
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from ..concepts import NO_NAME
from ..model import SPARC
from ..store.reader import FeatureStore
from .baselines import fit_ridge

ANOTHER_SCENE = "another scene"  # pairs of two scenes that have nothing to do with each other
EVERY = 3  # of the training samples, one in so many fits ridge
TOP = 3  # latents of a stream that move most

COLUMNS = {  # what `InterventionRow.measure` says; means over the changes of a kind
    "cosine": "of the changes of two streams' codes",
    "overlap": f"of the {TOP} latents that move most in one stream, share that move most in the other, alike",
    "on the fact": "share of a code's change on latents named after the fact that changed, old or new",
    "on other facts": "share on latents named after anything that did not change",
    "right way": "of the change on the fact's latents, share that falls for the old or rises for the new",
    "has a latent": "share of the pairs with a latent named after a fact that changed",
    "direction": "cosine of a reconstruction's move with that of the features, when a code's change is added",
    "step": "length of that move along the features', as a share of it",
    "nearer": "share of edited reconstructions nearer to the features after than to those before",
}


class InterventionRow(NamedTuple):
    """A number of one model: `measure`, of `COLUMNS`, over the n changes of a kind.

    source, target: two streams, the same twice where one is asked about; the change of the source's code is
    added to the target's. chance: the same with the source's change taken from another pair (`partners`).
    """

    kind: str
    measure: str
    source: str
    target: str
    value: float
    chance: float
    n: int


class Pairs(NamedTuple):
    """n pairs: their kinds [n], features {stream: [n, d]} and facts bool [n, n_facts], before and after."""

    kinds: np.ndarray
    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    true_before: np.ndarray
    true_after: np.ndarray

    @property
    def changed(self) -> np.ndarray:
        return self.true_before != self.true_after


class Moves(NamedTuple):
    """What a model makes of pairs: codes before and after {stream: [n, n_latents]}, coded alone, and the
    names of its latents {stream: [n_latents]}, numbers of facts or NO_NAME, given on the training split.
    """

    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]
    names: dict[str, np.ndarray]

    def change(self, stream: str) -> np.ndarray:
        return self.after[stream] - self.before[stream]

    def agreement(self) -> np.ndarray:
        """Cosine of the changes in two streams, mean over all pairs of streams, [n]."""
        pairs = combinations(self.before, 2)
        return np.mean([cosines(self.change(a), self.change(b)) for a, b in pairs], axis=0)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of every row of a with that of b, [n]; 0 where one of them is all zero."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(1) / np.where(lengths > 0, lengths, 1)


def agreement_rows(pairs: Pairs, other: np.ndarray, moved: Moves) -> list[InterventionRow]:
    """Do two streams move the same latents in the same direction?"""
    rows = []
    for source, target in combinations(moved.before, 2):
        a, b = moved.change(source), moved.change(target)
        most = strongest(a), strongest(b)
        values = {
            "cosine": (cosines(a, b), cosines(a[other], b)),
            "overlap": tuple((one * most[1] > 0).sum(1) / TOP for one in (most[0], most[0][other])),
        }
        rows += _rows(pairs, source, target, values)
    return rows


def strongest(change: np.ndarray) -> np.ndarray:
    """+1 or -1 for the TOP latents that move most, else 0, [n, n_latents]."""
    least = np.partition(np.abs(change), -TOP, axis=1)[:, [-TOP]]
    return np.sign(change) * (np.abs(change) >= least)


def selectivity_rows(pairs: Pairs, other: np.ndarray, moved: Moves) -> list[InterventionRow]:
    """Does a code change on the latents of the fact that changed, and there in the right direction?"""
    gone, come = pairs.true_before & ~pairs.true_after, pairs.true_after & ~pairs.true_before
    rows = []
    for stream, names in moved.names.items():
        named = np.flatnonzero(names != NO_NAME)
        fact_of = sp.csr_array((np.ones(len(named)), (named, names[named])), (len(names), gone.shape[1]))
        change = moved.change(stream)
        rising, falling = (np.maximum(sign * change, 0) @ fact_of for sign in (1, -1))  # [n, n_facts]
        total = np.maximum(np.abs(change).sum(1), 1e-12)
        measures = ("on the fact", "on other facts", "right way", "has a latent")
        values: dict[str, list[np.ndarray]] = {measure: [] for measure in measures}
        for who in (slice(None), other):
            up, down = rising[who], falling[who]
            on = ((up + down) * pairs.changed).sum(1)
            right = (up * come + down * gone).sum(1)
            values["on the fact"].append(on / total[who])
            values["on other facts"].append(((up + down).sum(1) - on) / total[who])
            values["right way"].append(right / np.where(on > 0, on, np.nan))
            has = pairs.changed[:, names[named]].any(1)
            values["has a latent"].append(has[who].astype(float))
        rows += _rows(pairs, stream, stream, values)
    return rows


@torch.no_grad()
def reconstruction_rows(pairs: Pairs, other: np.ndarray, moved: Moves, model: SPARC) -> list[InterventionRow]:
    """Does adding the change of one stream's code to another's code move what that decodes to as the picture
    or caption moved? Codes stay non-negative: what is not there cannot be taken away.
    """
    rows = []
    for source, target in product(moved.before, repeat=2):
        decoder = model.decoder[target].detach().cpu().double().numpy()
        bias = model.pre_bias[target].detach().cpu().double().numpy()
        before, change = moved.before[target], moved.change(source)
        values: dict[str, list[np.ndarray]] = {"direction": [], "step": [], "nearer": []}
        for who in (slice(None), other):
            edited = np.maximum(before + change[who], 0)
            start, end = before @ decoder + bias, edited @ decoder + bias
            _add(values, pairs, target, end - start, end)
        rows += _rows(pairs, source, target, values)
    return rows


def ridge_rows(pairs: Pairs, other: np.ndarray, train: FeatureStore) -> list[InterventionRow]:
    """The same move by a linear map from one stream's features to another's, without any code."""
    x = train.tensors()
    rows = []
    for source, target in permutations(x, 2):
        maps = fit_ridge(x[source][::EVERY], x[target][::EVERY])
        moved = maps.query(pairs.after[source]) - maps.query(pairs.before[source])
        moved = moved.double().numpy() @ np.linalg.pinv(maps.reference.weight.double().numpy())
        values: dict[str, list[np.ndarray]] = {"direction": [], "step": [], "nearer": []}
        for who in (slice(None), other):
            _add(values, pairs, target, moved[who], pairs.before[target].double().numpy() + moved[who])
        rows += _rows(pairs, source, target, values)
    return rows


def _add(
    values: dict[str, list[np.ndarray]], pairs: Pairs, target: str, move: np.ndarray, end: np.ndarray
) -> None:
    """Append to `values` how a move [n, d] that led to `end` [n, d] compares with that of the features."""
    before, after = (x[target].double().numpy() for x in (pairs.before, pairs.after))
    difference = after - before
    values["direction"].append(cosines(move, difference))
    values["step"].append((move * difference).sum(1) / np.square(difference).sum(1))
    nearer = np.linalg.norm(end - after, axis=1) < np.linalg.norm(end - before, axis=1)
    values["nearer"].append(nearer.astype(float))


def _rows(
    pairs: Pairs, source: str, target: str, values: Mapping[str, Sequence[np.ndarray]]
) -> list[InterventionRow]:
    """Rows of means by kind; values {measure: (of each pair, the same by chance)}, NaN where undefined."""
    by_kind = pd.Series(pairs.kinds).groupby(pairs.kinds, sort=False).groups
    rows = []
    for measure, both in values.items():
        for kind, members in by_kind.items():
            own, chance = (pd.Series(per_pair[members]).mean() for per_pair in both)
            rows.append(InterventionRow(kind, measure, source, target, own, chance, len(members)))
    return rows
