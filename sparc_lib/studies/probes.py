"""The probes of a profile as tidy tables: single latents as published and with honest selection, and full linear ones.

Read beside each other: a single latent says how concentrated a concept is, a full linear probe how much of it is there
at all, and the raw features how much there was to keep.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..evaluation import encode_store
from ..model import SPARC
from ..probing import probe_losses
from ..profiles import Profile, Setting
from ..store.reader import FeatureStore
from .linear_probes import LinearProbe, probe_features, probe_representations
from .parallel import each
from .runs import SPLITS, best_device, features, trained, untrained
from .sources import code_of
from .stages import table_stage

# (coding, select_on): as published, where candidates are chosen on all samples; chosen on train (F7); and with the
# codes of a user who has one stream only.
READINGS = (("joint", "all"), ("joint", "train"), ("independent", "train"))


class LatentProbeRow(NamedTuple):
    """loss: test cross-entropy (nats) of the best single latent, mean over n_classes classes; chance is log 2."""

    model: str
    setting: str
    seed: int
    stream: str
    coding: str
    select_on: str
    loss: float
    n_classes: int


class LinearProbeRow(NamedTuple):
    """mean_ap: of a linear probe on one representation of a stream, "raw", "codes" or "reconstruction", the latter two
    from independent codes. chance: of a probe that knows nothing. model "raw" stands for the features themselves."""

    model: str
    setting: str
    seed: int
    representation: str
    stream: str
    mean_ap: float
    chance: float


def latent_probe_table(profile: Profile, progress: bool = True, n_jobs: int | None = None) -> pd.DataFrame:
    """1-D probes on the test split: `LatentProbeRow`s of every setting and seed, and of each setting untrained with the
    first seed, under each of `READINGS`. Each model is a cached stage. n_jobs: as in `parallel.each`, over models."""
    return _table(
        profile, LatentProbeRow, {"test": features(profile, "test", progress=progress)}, n_jobs, progress
    )


def linear_probe_table(profile: Profile, progress: bool = True, n_jobs: int | None = None) -> pd.DataFrame:
    """Full linear probes: `LinearProbeRow`s of the raw features, then of the models of `latent_probe_table`."""
    stores = {split: features(profile, split, progress=progress) for split in SPLITS}
    raw = pd.DataFrame(
        [("raw", "raw", profile.seeds[0], *row) for row in _plain(probe_features(stores))],
        columns=LinearProbeRow._fields,
    )
    return pd.concat([raw, _table(profile, LinearProbeRow, stores, n_jobs, progress)], ignore_index=True)


def _latent_rows(profile: Profile, model: SPARC, stores: dict[str, FeatureStore]) -> list[tuple]:
    test, found, losses = stores["test"], [], {}
    for coding, select_on in READINGS:
        if model.gate == "local" and ("joint", select_on) in losses:  # both codings are the same codes
            losses[coding, select_on] = losses["joint", select_on]
        else:
            codes = encode_store(model, test, coding)
            losses[coding, select_on] = {
                stream: probe_losses(
                    z,
                    test.labels,
                    select_on,
                    solver="newton",
                    min_positives=profile.evaluation.probe_min_positives,
                )
                for stream, z in codes.items()
            }
        found += [
            (stream, coding, select_on, float(np.mean(loss)), len(loss))
            for stream, loss in losses[coding, select_on].items()
        ]
    return found


def _linear_rows(profile: Profile, model: SPARC, stores: dict[str, FeatureStore]) -> list[tuple]:
    return _plain(probe_representations(model, stores))


def _plain(probes: dict[tuple[str, str], LinearProbe]) -> list[tuple]:
    return [(*key, probe.mean_ap, probe.chance) for key, probe in probes.items()]


ROWS_OF = {LatentProbeRow: _latent_rows, LinearProbeRow: _linear_rows}


def _table(
    profile: Profile, row: type, stores: dict[str, FeatureStore], n_jobs: int | None, progress: bool
) -> pd.DataFrame:
    """The rows of every model of the profile."""
    train = features(profile, "train", progress=False).directory
    folders = {split: store.directory for split, store in stores.items()}
    tasks = [(profile, row, *model, train, folders) for model in _models(profile)]
    return pd.concat(each(_of_model, tasks, row.__name__[:-3], n_jobs, progress), ignore_index=True)


def _of_model(
    profile: Profile, row: type, kind: str, setting: Setting, seed: int, train: Path, folders: dict[str, Path]
) -> pd.DataFrame:
    """The rows of one model, a stage keyed by where its weights come from and the data."""
    store, data = (
        FeatureStore.open(train),
        {split: FeatureStore.open(folder) for split, folder in folders.items()},
    )

    def make() -> pd.DataFrame:
        model = (
            untrained(profile, setting, seed, store)
            if kind == "untrained"
            else trained(profile, setting, seed, store, progress=False).model
        )
        return pd.DataFrame(ROWS_OF[row](profile, model.to(best_device()), data), columns=row._fields[3:])

    told = setting.gate if kind == "untrained" else setting  # λ does not reach an untrained model
    inputs = {
        "table": row.__name__,
        "model": kind,
        "setting": told,
        "seed": seed,
        "train": store.digest,
        "data": {split: part.digest for split, part in data.items()},
        "sparc": profile.sparc,
        "min_positives": profile.evaluation.probe_min_positives,
        "code": code_of("studies"),
    }
    table = table_stage("probes", inputs, make)
    return table.assign(model=kind, setting=setting.name, seed=seed)[list(row._fields)]


def _models(profile: Profile) -> Iterator[tuple[str, Setting, int]]:
    for setting in profile.settings:
        for seed in profile.seeds:
            yield "trained", setting, seed
    for setting in profile.settings:
        yield "untrained", setting, profile.seeds[0]
