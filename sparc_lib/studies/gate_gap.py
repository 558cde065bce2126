"""What a stream loses without its partners, against training time and k: notebook 08.

A gate that is trained with all votes rebuilds a stream from joint codes; a user with one stream has one vote.
"""

from __future__ import annotations

import dataclasses

import pandas as pd

from ..model import SPARC
from ..profiles import Profile, Setting, SparcSpec
from .gate_measures import reconstruction, trial_of
from .gates import section
from .tables import Run, Stores, table

HALVINGS = 4  # of the training time, down from the profile's


def gap_table(profile: Profile) -> pd.DataFrame:
    """Reconstruction in both codings of the first setting and of the one with one voter, if there is one.

    Columns: model, setting, seed, epochs, k, then {self, cross}_fvu_{joint, alone}. Every row is a training
    of its own, whose schedule ends where it ends. Raises ProfileError without the section `gates`.
    """
    settings = [profile.settings[0]]
    settings += [setting for setting in section(profile).settings if setting.voters == "one"][:1]
    runs = [Run("trained", *key) for key in _keys(profile, settings)]
    return table("gate_gap", profile, runs, _measured)


def _keys(profile: Profile, settings: list[Setting]) -> list[tuple]:
    """(setting, seed, (), sizes) of every run: shorter trainings, then other numbers of active latents."""
    home = dataclasses.replace(profile.sparc, epochs=section(profile).epochs or profile.sparc.epochs)
    lengths = {max(1, home.epochs // 2**halvings) for halvings in range(HALVINGS, -1, -1)}
    variants = [dataclasses.replace(home, epochs=epochs) for epochs in sorted(lengths)]
    for k in sorted(set(profile.ablations.k[::2]) - {home.k}):
        variants.append(dataclasses.replace(home, k=k))
    seeds = section(profile).seeds
    return [(setting, seed, (), sizes) for setting in settings for sizes in variants for seed in seeds]


def _measured(model: SPARC, stores: Stores, run: Run) -> pd.DataFrame:
    sizes: SparcSpec = run.sparc
    numbers = reconstruction(trial_of(model, stores["test"], None, 1, run.seed))
    return pd.DataFrame([{"epochs": sizes.epochs, "k": sizes.k, **numbers}])
