"""Change one fact, picture and caption together: which latents move, in which streams, and what they move.

After TAPAScore (arXiv:2606.24716), which generates pairs that differ in one concept, and InterVenchA
(arXiv:2606.09653), which scores concepts by intervention. Here the pairs are exact. Every stream of a pair is
coded alone, before and after; what is studied is the change of its code, after minus before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations, permutations, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from ..concepts import NO_NAME, lift_names
from ..data.knowledge import Vocabulary, vocabulary
from ..evaluation import encode_store
from ..miniworld.facts import scene_facts
from ..model import SPARC
from ..profiles import Profile
from ..store.reader import FeatureStore
from .baselines import fit_ridge
from .edited import Change, all_edited_features, changes_of, edited_features
from .facts import supported_names
from .gates import section
from .runs import dataset, features
from .tables import Run, Stores, model_of, table

ANOTHER_SCENE = "another scene"  # pairs of two scenes that have nothing to do with each other
RIDGE = "ridge"
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


def intervention_runs(profile: Profile) -> list[Run]:
    """Published gates and those of one voter, controls with as many seeds, and ridge."""
    spec = section(profile)
    better = [setting for setting in spec.settings if setting.voters == "one"]
    runs = [Run("trained", setting, seed) for setting in (*profile.settings, *better) for seed in spec.seeds]
    runs += [Run("untrained", profile.settings[0], seed) for seed in spec.seeds]
    for setting in (profile.settings[0], *better):
        runs += [Run("random encoders", setting, seed) for seed in spec.seeds]
    return [*runs, Run("raw", None, spec.seeds[0], (RIDGE,))]


def intervention_table(profile: Profile) -> pd.DataFrame:
    """`InterventionRow`s of every run, in front the columns model, setting and seed; empty for photographs."""
    made, profile = changes_of(profile), _as_long_as_gates(profile)
    if not made:
        return pd.DataFrame(columns=["model", "setting", "seed", *InterventionRow._fields])
    runs = intervention_runs(profile)
    weights = list(dict.fromkeys(run.random_weights for run in runs))
    folders = all_edited_features(profile, made, weights)
    digests = {str(seed): FeatureStore.open(folder).digest for seed, folder in folders.items()}
    known = {split: vocabulary(dataset(profile, split)) for split in ("train", "test")}
    measure = partial(_measure, made, known, folders)
    return table("interventions", profile, runs, measure, {"sparc": profile.sparc, "edits": digests})


def moves_of(profile: Profile, made: Sequence[Change], run: Run) -> Moves:
    """What the model of a run makes of changes, for looking at them one by one."""
    profile = _as_long_as_gates(profile)
    train = features(profile, "train", run.random_weights)
    pairs = pairs_of(made, edited_features(profile, made, run.random_weights))
    return moves(model_of(profile, run, train), pairs, train, vocabulary(dataset(profile, "train")))


def _as_long_as_gates(profile: Profile) -> Profile:
    """The profile with models trained for as many epochs as in the table of gates."""
    epochs = section(profile).epochs or profile.sparc.epochs
    return dataclasses.replace(profile, sparc=dataclasses.replace(profile.sparc, epochs=epochs))


def _measure(
    made: Sequence[Change],
    known: Mapping[str, Vocabulary],
    folders: Mapping[int | None, Path],
    model: SPARC | None,
    stores: Stores,
    run: Run,
) -> pd.DataFrame:
    edited, test = FeatureStore.open(folders[run.random_weights]), stores["test"]
    pairs = joined(pairs_of(made, edited), other_scenes(test, known["test"], len(made)))
    other = partners(pairs, np.random.default_rng(run.seed))
    if model is None:
        rows = ridge_rows(pairs, other, stores["train"])
    else:
        moved = moves(model, pairs, stores["train"], known["train"])
        rows = [*agreement_rows(pairs, other, moved), *selectivity_rows(pairs, other, moved)]
        rows += reconstruction_rows(pairs, other, moved, model)
    return pd.DataFrame(rows, columns=InterventionRow._fields)


def pairs_of(made: Sequence[Change], store: FeatureStore) -> Pairs:
    """Changes as pairs; `store` holds the features of their `EditedPairs`."""
    x = store.tensors()
    before, after = ({stream: rows[first::2] for stream, rows in x.items()} for first in (0, 1))
    true_before = scene_facts([change.before for change in made]).matrix.toarray()
    true_after = scene_facts([change.after for change in made]).matrix.toarray()
    return Pairs(np.array([change.kind for change in made]), before, after, true_before, true_after)


def other_scenes(test: FeatureStore, known: Vocabulary, most: int) -> Pairs:
    """Pairs of two test samples of different images: what changes when everything does."""
    rows = np.unique(test.image_ids, return_index=True)[1][: min(most, len(test) // 4) + 1]
    x, true = test.tensors(rows), known.of([test.ids[row] for row in rows]).true.toarray()
    before, after = ({s: values[part] for s, values in x.items()} for part in (slice(-1), slice(1, None)))
    return Pairs(np.array([ANOTHER_SCENE] * (len(rows) - 1)), before, after, true[:-1], true[1:])


def joined(first: Pairs, second: Pairs) -> Pairs:
    """Both lists of pairs as one."""
    before = {s: torch.cat([x, second.before[s]]) for s, x in first.before.items()}
    after = {s: torch.cat([x, second.after[s]]) for s, x in first.after.items()}
    rest = (np.concatenate([getattr(one, field) for one in (first, second)]) for field in Pairs._fields[3:])
    return Pairs(np.concatenate([first.kinds, second.kinds]), before, after, *rest)


def partners(pairs: Pairs, draw: np.random.Generator) -> np.ndarray:
    """For every pair another one that changes none of the same facts, [n]: of its kind, or where that has
    none, of another kind of change. Two other scenes are the partner of two scenes.
    """
    changed = pairs.changed.astype(np.float32)
    apart = changed @ changed.T == 0
    scenes, chosen = pairs.kinds == ANOTHER_SCENE, []
    for i, kind in enumerate(pairs.kinds):
        alike = pairs.kinds == kind
        alike[i] = False
        options = [alike] if scenes[i] else [alike & apart[i], ~scenes & apart[i], alike]
        chosen.append(draw.choice(next(np.flatnonzero(option) for option in options if option.any())))
    return np.array(chosen)


@torch.no_grad()
def moves(model: SPARC, pairs: Pairs, train: FeatureStore, known: Vocabulary) -> Moves:
    """Codes of the pairs, every stream alone, and names of the latents from the facts of the train store."""
    codes = {}
    for when, streams in (("before", pairs.before), ("after", pairs.after)):
        coded = encode_store(model, streams, "independent")
        codes[when] = {stream: z.toarray() for stream, z in coded.items()}
    known = known.of(train.ids)
    names = lift_names(encode_store(model, train, "independent"), known.true, known.terms)
    return Moves(**codes, names=dict(zip(names.named, supported_names(names))))


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
def reconstruction_rows(
    pairs: Pairs, other: np.ndarray, moved: Moves, model: SPARC
) -> list[InterventionRow]:
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
