"""Notebook 07: does the map of a caption that names one part of an object lie on that part?

Every reading, SPARC's as published, controls and attempts, makes a map for every part (`part_maps`), and
`part_scores` says how they are scored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..attribution.parts import PartImages, part_images
from ..data.catalogue import inputs as pairs_of
from ..model import SPARC
from ..profiles import Profile, Setting
from . import regions
from .heatmaps import REFERENCE_IMAGES
from .part_maps import (
    AT_PATCHES,
    DECODED,
    GRADIENTS,
    NOISE,
    View,
    clip_patch_maps,
    decoded_maps,
    gradient_maps,
    patch_maps,
    reference_maps,
    region_maps,
    renamed,
    similarity_targets,
    sparc_targets,
)
from .part_scores import COLUMNS, NO_COLOUR, ONE_COLOUR, PART, scored
from .runs import RANDOM, best_device, dataset, encoders, features, fingerprints
from .sources import code_of
from .stages import table_stage
from .tables import Run, model_of


def part_report(profile: Profile) -> pd.DataFrame:
    """A row a reading and ordered pair of parts in the first `heatmap_images` test images, `COLUMNS`; without
    rows where the data do not say where parts are.

    SPARC as published: the first setting with cross-reconstruction, trained on scenes. Controls with random
    encoders are trained as what they control, on features of the same networks, untrained. All that is
    trained has the profile's seeds.
    """
    test, n_images = dataset(profile, "test"), profile.evaluation.heatmap_images
    scenes = part_images(test, n_images)
    if scenes.lacks:
        return pd.DataFrame(columns=COLUMNS)
    marks = fingerprints(profile)
    train, noise_train = features(profile, "train"), features(profile, "train", RANDOM)
    inputs = {
        "n_images": n_images,
        "seeds": profile.seeds,
        "sparc": profile.sparc,
        "setting": cross_setting(profile),
        "dino": marks.dino,
        "clip": marks.clip,
        "train": train.digest,
        "noise": noise_train.digest,
        "test": pairs_of(profile, "test"),
        "regions": regions.SCENES,
        "code": code_of("studies/parts"),
    }

    def make() -> pd.DataFrame:
        pair = encoders(profile, device=best_device())
        noise_pair = encoders(profile, RANDOM, best_device())
        view, noise = View.of(pair, scenes), View.of(noise_pair, scenes)
        published = published_models(profile, "trained", train)
        on_noise = published_models(profile, "random encoders", noise_train)
        targets = sparc_targets(view.prompts, published, "published", GRADIENTS)
        targets += similarity_targets(view.prompts)
        stores = regions.region_stores(profile)
        models = regions.region_models(profile, stores)
        readings = [
            *gradient_maps(view, targets),
            *gradient_maps(noise, sparc_targets(noise.prompts, on_noise, "control", NOISE)),
            *patch_maps(view, published, "attempt", AT_PATCHES),
            *reference_maps(view, regions.region_scenes(profile, REFERENCE_IMAGES)),
        ]
        plain = part_images(test, n_images, one_colour=True)
        views = {
            PART: (view, noise),
            NO_COLOUR: (view.with_prompts_of(plain), noise.with_prompts_of(plain)),
            ONE_COLOUR: (View.of(pair, plain), View.of(noise_pair, plain)),
        }
        for question, (own, own_noise) in views.items():
            maps = [*clip_patch_maps(own)]
            if question == ONE_COLOUR:
                maps += gradient_maps(own, similarity_targets(own.prompts))
            for name in (regions.TRUE, regions.NOISE, regions.SHUFFLED):
                maps += region_maps(own_noise if name == regions.NOISE else own, models, stores, name)
            readings += maps if question == PART else renamed(maps, question)
        cover = {grid: scenes.data.cover(grid) for grid in {maps.shape[1:] for _, maps in readings}}
        rows = [scored(reading, maps, scenes, cover[maps.shape[1:]]) for reading, maps in readings]
        return pd.concat(rows, ignore_index=True)[COLUMNS]

    return table_stage("parts", inputs, make)


class Exhibit(NamedTuple):
    """Pairs of parts to look at, and their maps {(method, question, stream): [n_regions, rows, columns]}."""

    scenes: PartImages
    maps: Mapping[tuple[str, str, str], np.ndarray]


def exhibit(profile: Profile, parts: Sequence[str]) -> Exhibit:
    """Maps of the first seed for `PartImages.exhibits`: SPARC as published, and the SPARC of regions."""
    scenes = part_images(dataset(profile, "test"), profile.evaluation.heatmap_images)
    chosen = scenes.only(scenes.exhibits(parts))
    if chosen.lacks:
        return Exhibit(chosen, {})
    view = View.of(encoders(profile, device=best_device()), chosen)
    published = published_models(one_seed(profile), "trained", features(profile, "train"))
    store = regions.region_store(profile)
    (own,) = regions.region_models(one_seed(profile), {regions.TRUE: store}).values()
    readings = [*gradient_maps(view, sparc_targets(view.prompts, published, "published", GRADIENTS))]
    readings += decoded_maps(view, own, "attempt", DECODED)
    return Exhibit(chosen, {(one.method, one.question, one.stream): maps for one, maps in readings})


def one_seed(profile: Profile) -> Profile:
    """The profile with its first seed alone."""
    return dataclasses.replace(profile, seeds=profile.seeds[:1])


def cross_setting(profile: Profile) -> Setting:
    """The first setting with cross-reconstruction. Raises ValueError without one."""
    for setting in profile.settings:
        if setting.cross_weight > 0:
            return setting
    raise ValueError(f"profile {profile.name}: no setting has cross_weight above 0; captions need one")


def published_models(profile: Profile, kind: str, store) -> list[SPARC]:
    """SPARCs of the first setting with cross-reconstruction, one a seed."""
    runs = [Run(kind, cross_setting(profile), seed) for seed in profile.seeds]
    return [model_of(profile, run, store).to(best_device()).requires_grad_(False) for run in runs]
