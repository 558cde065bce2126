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
from ..profiles import Profile
from . import regions
from .heatmaps import REFERENCE_IMAGES
from .part_maps import (
    AT_PATCHES,
    GRADIENTS,
    NOISE,
    REGIONS,
    View,
    clip_patch_maps,
    gradient_maps,
    in_one_colour,
    patch_maps,
    reference_maps,
    region_maps,
    similarity_targets,
    sparc_targets,
)
from .part_scores import COLUMNS, scored
from .runs import RANDOM, best_device, dataset, encoders, features
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
    pair, noise_pair = encoders(profile, device=best_device()), encoders(profile, RANDOM, best_device())
    train, noise_train = features(profile, "train"), features(profile, "train", RANDOM)
    inputs = {
        "profile": profile,
        "dino": pair[0].fingerprint,
        "clip": pair[1].fingerprint,
        "train": train.digest,
        "noise": noise_train.digest,
        "test": pairs_of(profile, "test"),
        "regions": regions.SCENES,
        "code": code_of("studies"),
    }

    def make() -> pd.DataFrame:
        view, noise = View.of(pair, scenes), View.of(noise_pair, scenes)
        published = published_models(profile, "trained", train)
        on_noise = published_models(profile, "random encoders", noise_train)
        targets = sparc_targets(view.asked, published, "published", GRADIENTS)
        targets += similarity_targets(view.asked)
        stores = regions.region_stores(profile)
        models = regions.region_models(profile, stores)
        readings = [
            *gradient_maps(view, targets),
            *gradient_maps(noise, sparc_targets(noise.asked, on_noise, "control", NOISE)),
            *clip_patch_maps(view),
            *patch_maps(view, published, "attempt", AT_PATCHES),
            *reference_maps(view, regions.region_scenes(profile, REFERENCE_IMAGES)),
        ]
        views = {regions.TRUE: view, regions.NOISE: noise, regions.SHUFFLED: view}
        for name, own in views.items():
            readings += region_maps(own, models, stores, name)
        plain = part_images(test, n_images, one_colour=True)
        view, noise = View.of(pair, plain), View.of(noise_pair, plain)
        views = {regions.TRUE: view, regions.NOISE: noise, regions.SHUFFLED: view}
        readings += in_one_colour(gradient_maps(view, similarity_targets(view.asked)))
        readings += in_one_colour(clip_patch_maps(view))
        for name, own in views.items():
            readings += in_one_colour(region_maps(own, models, stores, name))
        cover = {grid: scenes.data.cover(grid) for grid in {maps.shape[1:] for _, maps in readings}}
        rows = [scored(reading, maps, scenes, cover[maps.shape[1:]]) for reading, maps in readings]
        return pd.concat(rows, ignore_index=True)[COLUMNS]

    return table_stage("parts", inputs, make)


class Exhibit(NamedTuple):
    """Pairs of parts to look at, and their maps {(method, asked, stream): [n_regions, rows, columns]}."""

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
    readings = [*gradient_maps(view, sparc_targets(view.asked, published, "published", GRADIENTS))]
    readings += patch_maps(view, own, "attempt", REGIONS)
    return Exhibit(chosen, {(one.method, one.asked, one.stream): maps for one, maps in readings})


def one_seed(profile: Profile) -> Profile:
    """The profile with its first seed alone."""
    return dataclasses.replace(profile, seeds=profile.seeds[:1])


def published_models(profile: Profile, kind: str, store) -> list[SPARC]:
    """SPARCs of the first setting with cross-reconstruction, one a seed. Raises ValueError without one."""
    setting = next((setting for setting in profile.settings if setting.cross_weight > 0), None)
    if setting is None:
        raise ValueError(f"profile {profile.name}: no setting has cross_weight above 0; captions need one")
    runs = [Run(kind, setting, seed) for seed in profile.seeds]
    return [model_of(profile, run, store).to(best_device()).requires_grad_(False) for run in runs]
