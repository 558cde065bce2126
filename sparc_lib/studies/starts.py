"""What keeps latents alive: the published recipe and named options, under both gates."""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import permutations

import numpy as np
import pandas as pd

from ..alignment import activation_patterns, label_counts
from ..evaluation import encode_store, evaluate
from ..model import SPARC
from ..profiles import Profile, SparcSpec
from ..retrieval import retrieval_metrics
from .tables import Run, Stores, table

WAYS = "text → image", "image → text"
COLUMNS = ["option", "gate", "measure", "value"]


def options(spec: SparcSpec) -> dict[str, SparcSpec]:
    """The recipes compared, each one change away from the published one or from the one before."""
    published = dataclasses.replace(spec, pre_bias="zero", rows="random")
    centred = dataclasses.replace(published, pre_bias="mean")
    return {
        "published recipe": published,
        "no re-drawing": dataclasses.replace(published, redraw_every=None),
        "AuxK x 4": dataclasses.replace(published, k_aux=4 * spec.k_aux),
        "pre-bias at the mean": centred,
        "and rows at samples": dataclasses.replace(centred, rows="data"),
    }


def start_table(profile: Profile) -> pd.DataFrame:
    """`COLUMNS` for the settings with λ > 0, as long and with the seeds of the profile's ablations."""
    settings = [setting for setting in profile.settings if setting.cross_weight > 0]
    runs = []
    for name, spec in options(profile.sparc).items():
        short = dataclasses.replace(spec, epochs=profile.ablations.epochs)
        for setting in settings:
            runs += [Run("trained", setting, seed, (name,), short) for seed in profile.ablations.seeds]
    samples = profile.ablations.test_samples
    return table("starts", profile, runs, partial(_measure, samples), samples)


def _measure(samples: int | None, model: SPARC, stores: Stores, run: Run) -> pd.DataFrame:
    streams, labels = stores["test"].tensors(slice(samples)), stores["test"].labels[slice(samples)]
    scores = evaluate(model, streams).independent
    values = {}
    for coding in ("joint", "independent"):
        codes = encode_store(model, streams, coding)
        patterns = activation_patterns(label_counts(codes, labels))
        values[f"alive in all streams, {coding}"] = patterns.all_alive / model.n_latents
        values[f"alive in none, {coding}"] = patterns.all_dead / model.n_latents
    values[f"R@1 {WAYS[0]}"] = retrieval_metrics(codes["clip_txt"], codes["clip_img"], n_jobs=1).recall[1]
    values[f"R@1 {WAYS[1]}"] = retrieval_metrics(codes["clip_img"], codes["clip_txt"], n_jobs=1).recall[1]
    values["cross-FVU, independent"] = np.mean([scores.fvu[pair] for pair in permutations(codes, 2)])
    rows = [(run.also[0], run.setting.gate, measure, value) for measure, value in values.items()]
    return pd.DataFrame(rows, columns=COLUMNS)
