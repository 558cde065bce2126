"""One function for every table: load or train the models, measure each once, label the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from ..model import SPARC
from ..profiles import Profile, Setting, SparcSpec
from ..store.reader import FeatureStore
from .parallel import each
from .runs import best_device, features, run_inputs, trained, untrained
from .sources import code_of, home
from .stages import is_finished, table_stage

KINDS = ("trained", "untrained", "random encoders")
Stores = Mapping[str, FeatureStore]  # by split


class Run(NamedTuple):
    """A model to measure, and what is asked of it.

    model: "trained"; "untrained": SPARC as initialised, on the same features; "random encoders": SPARC
        trained on features of the same networks with random weights, drawn by the run's seed. What the latter
        two score too is no evidence of shared concepts (F3). "raw" goes with setting None.
    setting: None for the features themselves, without any SPARC.
    also: what is measured of this run beyond what is measured of every one, by names that the measure knows.
    sparc: sizes and epochs; None takes the profile's.
    """

    model: Literal["trained", "untrained", "random encoders", "raw"]
    setting: Setting | None
    seed: int
    also: tuple[str, ...] = ()
    sparc: SparcSpec | None = None

    @property
    def random_weights(self) -> int | None:
        """Seed of the encoders' random weights; None for the profile's encoders."""
        return self.seed if self.model == "random encoders" else None


Measure = Callable[[SPARC | None, Stores, Run], pd.DataFrame]


def table(
    name: str,
    profile: Profile,
    runs: Sequence[Run],
    measure: Measure,
    inputs: Any = None,
    splits: Sequence[str] = ("train", "test"),
) -> pd.DataFrame:
    """Measure every run; return all rows, run by run, with model, setting and seed as first columns.

    measure(model, stores, run) -> table: gets the run's SPARC in evaluation mode on the best device (None for
        setting None) and the features of the `splits`. It must pickle: a function, or a `partial` of one.
    inputs: whatever decides the numbers besides runs, features and code (see `stages.stage`); code is that of
        this file, of the file that defines the measure, and of all that they import.

    Each run is a stage: a killed table goes on where it was, and runs that differ in nothing that decides (an
    untrained SPARC does not depend on λ) are measured once. Runs work side by side as `parallel.each` says.
    """
    folders = {}
    for weights in {run.random_weights for run in runs}:
        folders[weights] = {split: features(profile, split, weights).directory for split in splits}
    tasks = [_task(name, profile, run, measure, inputs, folders[run.random_weights]) for run in runs]
    missing = {str(task.key): task for task in tasks if not is_finished(name, task.key)}
    each(_rows, [(task,) for task in missing.values()], name)
    return pd.concat([_labelled(_rows(task), task.run) for task in tasks], ignore_index=True)


def model_of(profile: Profile, run: Run, train_store: FeatureStore) -> SPARC:
    """The SPARC of a run, trained on `train_store` on first use."""
    if run.sparc is not None:
        profile = dataclasses.replace(profile, sparc=run.sparc)
    if run.model == "untrained":
        return untrained(profile, run.setting, run.seed, train_store)
    return trained(profile, run.setting, run.seed, train_store, progress=False).model


class _Task(NamedTuple):
    """One run of a table for a worker. folders: of the features, by split. key: inputs of its stage."""

    name: str
    profile: Profile
    run: Run
    measure: Measure
    folders: Mapping[str, Path]
    key: dict


def _task(
    name: str, profile: Profile, run: Run, measure: Measure, inputs: Any, folders: Mapping[str, Path]
) -> _Task:
    """A task with the key of all that decides its rows; names do not, nor λ where nothing is trained."""
    stores = {split: _opened(folder) for split, folder in folders.items()}
    model = None
    if run.setting is not None:
        variant = dataclasses.replace(profile, sparc=run.sparc or profile.sparc)
        model = run_inputs(variant, run.setting, run.seed, stores["train"])
        if run.model == "untrained":
            model["training"] = None
    key = {
        "model": model,
        "seed": run.seed,
        "also": run.also,
        "stores": {split: store.digest for split, store in stores.items()},
        "inputs": inputs,
        "code": code_of("studies/tables", *home(measure)),
    }
    return _Task(name, profile, run, measure, folders, key)


def _rows(task: _Task) -> pd.DataFrame:
    """The rows of one run, measured if they are not there yet."""

    def make() -> pd.DataFrame:
        stores = {split: _opened(folder) for split, folder in task.folders.items()}
        model = None
        if task.run.setting is not None:
            model = model_of(task.profile, task.run, stores["train"]).to(best_device())
        return task.measure(model, stores, task.run)

    return table_stage(task.name, task.key, make)


def _labelled(rows: pd.DataFrame, run: Run) -> pd.DataFrame:
    rows.insert(0, "model", run.model)
    rows.insert(1, "setting", run.setting.name if run.setting else "raw")
    rows.insert(2, "seed", run.seed)
    return rows


@lru_cache(maxsize=8)
def _opened(folder: Path) -> FeatureStore:
    return FeatureStore.open(folder)


def by_gate(profile: Profile) -> list[Setting]:
    """The profile's settings, those of one gate one after the other: untrained, they are one model."""
    gates = dict.fromkeys(setting.gate for setting in reversed(profile.settings))
    return [setting for gate in gates for setting in profile.settings if setting.gate == gate]


def pick(table: pd.DataFrame, **where) -> pd.DataFrame:
    """Rows in which every named column has the given value. Raises KeyError for no such column or row."""
    for column, value in where.items():
        if column not in table:
            raise KeyError(f"no column {column!r}; this table has {', '.join(table)}")
        rows = table[table[column] == value]
        if rows.empty:
            takes = ", ".join(map(str, table[column].unique()))
            raise KeyError(f"no row with {column} = {value!r}; it takes {takes}")
        table = rows
    return table


def by_setting(table: pd.DataFrame, column: str, **where) -> dict[str, list[float]]:
    """{setting: values of `column`, one a seed} of the rows `where` holds; settings in the table's order."""
    groups = pick(table, **where).groupby("setting", sort=False)
    return {setting: rows[column].tolist() for setting, rows in groups}


def controls(table: pd.DataFrame, column: str, **where) -> dict[str, dict[str, list[float]]]:
    """{control: {setting: values}}, one a seed, of the rows `where` holds; for the Jaccard also the trained
    models' nulls."""
    lists = {kind: by_setting(table, column, model=kind, **where) for kind in KINDS[1:]}
    if column == "jaccard":
        lists["shuffled latents"] = by_setting(table, "shuffled", model="trained", **where)
        permuted = by_setting(table, "null", model="trained", **where)
        lists["permuted labels"] = {setting: values[:1] for setting, values in permuted.items()}
    return lists


def control_means(table: pd.DataFrame, column: str, **where) -> dict[str, dict[str, float]]:
    """{control: {setting: mean over seeds}} of what `controls` gives."""
    lists = controls(table, column, **where)
    return {
        name: {setting: float(np.mean(values)) for setting, values in by_setting.items()}
        for name, by_setting in lists.items()
    }
