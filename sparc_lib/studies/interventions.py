"""Change one fact, picture and caption together: which latents move, in which streams, and what they move.

After TAPAScore (arXiv:2606.24716), which generates pairs that differ in one concept, and InterVenchA
(arXiv:2606.09653), which scores concepts by intervention. Here the pairs are exact. Every stream of a pair is
coded alone, before and after; what is studied is the change of its code, after minus before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..concepts import lift_names
from ..data.knowledge import Vocabulary, vocabulary
from ..evaluation import encode_store
from ..miniworld.facts import scene_facts
from ..model import SPARC
from ..profiles import Profile
from ..store.reader import FeatureStore
from .edited import Change, all_edited_features, changes_of, edited_features
from .facts import supported_names
from .gates import section
from .intervention_measures import (
    ANOTHER_SCENE,
    InterventionRow,
    Moves,
    Pairs,
    agreement_rows,
    reconstruction_rows,
    ridge_rows,
    selectivity_rows,
)
from .runs import dataset, features
from .tables import Run, Stores, model_of, table

RIDGE = "ridge"


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
    """`InterventionRow`s of every run, in front model, setting and seed; no row for photographs."""
    made, profile = changes_of(profile), _as_long_as_gates(profile)
    if not made:
        return pd.DataFrame(columns=["model", "setting", "seed", *InterventionRow._fields])
    runs = intervention_runs(profile)
    weights = list(dict.fromkeys(run.random_weights for run in runs))
    folders = all_edited_features(profile, made, weights)
    digests = {str(seed): FeatureStore.open(folder).digest for seed, folder in folders.items()}
    words = {split: vocabulary(dataset(profile, split)) for split in ("train", "test")}
    measure = partial(_measure, made, words, folders)
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
    words: Mapping[str, Vocabulary],
    folders: Mapping[int | None, Path],
    model: SPARC | None,
    stores: Stores,
    run: Run,
) -> pd.DataFrame:
    edited, test = FeatureStore.open(folders[run.random_weights]), stores["test"]
    pairs = joined(pairs_of(made, edited), other_scenes(test, words["test"], len(made)))
    other = partners(pairs, np.random.default_rng(run.seed))
    if model is None:
        rows = ridge_rows(pairs, other, stores["train"])
    else:
        moved = moves(model, pairs, stores["train"], words["train"])
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


def other_scenes(test: FeatureStore, words: Vocabulary, most: int) -> Pairs:
    """Pairs of two test samples of different images: what changes when everything does."""
    rows = np.unique(test.image_ids, return_index=True)[1][: min(most, len(test) // 4) + 1]
    x, true = test.tensors(rows), words.of([test.ids[row] for row in rows]).true.toarray()
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
def moves(model: SPARC, pairs: Pairs, train: FeatureStore, words: Vocabulary) -> Moves:
    """Codes of the pairs, every stream alone, and names of the latents from the facts of the train store."""
    codes = {}
    for when, streams in (("before", pairs.before), ("after", pairs.after)):
        coded = encode_store(model, streams, "independent")
        codes[when] = {stream: z.toarray() for stream, z in coded.items()}
    words = words.of(train.ids)
    names = lift_names(encode_store(model, train, "independent"), words.true, words.terms)
    return Moves(**codes, names=dict(zip(names.named, supported_names(names))))
