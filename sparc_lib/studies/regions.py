"""A SPARC of regions: its samples are parts and whole objects of training scenes, not scenes.

A region's feature in an image stream is the mean of its patch tokens, in the text stream the caption that
names it; the three are coupled as scene and caption are in the paper. Each is later read alone (patches by
their own code, captions by theirs), so one voter a sample chooses in training, as notebook 08 advises.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution.methods import IMAGE_STREAMS
from ..attribution.parts import PartImages, part_images
from ..attribution.patches import BATCH, patch_features, region_features
from ..data.catalogue import inputs as pairs_of
from ..model import SPARC
from ..profiles import Profile, Setting
from ..store.reader import FeatureStore
from .parallel import each
from .runs import PARALLEL_FROM, RANDOM, best_device, dataset, encoders, has_trained, trained
from .sources import code_of
from .stages import stage

SCENES = 1200  # training scenes whose regions are the samples
SETTING = Setting("regions", "global", 1.0, voters="one")
TRUE, NOISE, SHUFFLED = "regions", "regions, random encoders", "regions, shuffled captions"


def first_scenes(profile: Profile, n: int) -> Profile:
    """The profile with its first `n` training scenes alone, if it has more."""
    data = dataclasses.replace(profile.data, train=min(n, profile.data.train), control_train=None)
    return dataclasses.replace(profile, data=data)


def region_scenes(profile: Profile, n: int) -> PartImages:
    """Regions of the first `n` training scenes of a profile, parts and whole objects."""
    return part_images(dataset(first_scenes(profile, n), "train"), n, wholes=True)


def region_stores(profile: Profile) -> dict[str, FeatureStore]:
    """Regions with their captions; the same by random encoders; and with shuffled captions."""
    n_jobs = 1 if min(SCENES, profile.data.train) < PARALLEL_FROM else None
    each(_make, [(profile, None), (profile, RANDOM)], "regions", n_jobs)
    return {
        TRUE: region_store(profile),
        NOISE: region_store(profile, RANDOM),
        SHUFFLED: region_store(profile, shuffled=True),
    }


def _make(profile: Profile, random_weights: int | None) -> None:
    region_store(profile, random_weights)


def region_store(profile: Profile, random_weights: int | None = None, shuffled: bool = False) -> FeatureStore:
    """Features of the regions of the first `SCENES` training scenes, a pair a region, made on first use.

    random_weights: seed of encoders with random weights, None for the profile's. shuffled: every region has
    the caption of another region, drawn by chance; a control of what is learned from their coupling.
    """
    pair = encoders(profile, random_weights, best_device())
    inputs = {
        "data": pairs_of(first_scenes(profile, SCENES), "train"),
        "dino": pair[0].fingerprint,
        "clip": pair[1].fingerprint,
        "shuffled": shuffled,
        "code": code_of("attribution"),
    }

    def build(partial: Path) -> None:
        scenes = region_scenes(profile, SCENES)
        if shuffled:
            features = region_store(profile, random_weights).tensors()
            order = np.random.default_rng(profile.data.seed).permutation(len(scenes.captions))
            features["clip_txt"] = features["clip_txt"][order]
        else:
            features = region_streams(pair, scenes)
        ids = [f"region/{number:06d}" for number in range(len(scenes.captions))]
        about = dict(captions=scenes.captions, dataset="regions", split="train", overwrite=True)
        FeatureStore.create(partial / "store", features, ids=ids, **about)

    return FeatureStore.open(stage("regions", inputs, build) / "store")


def region_streams(pair, scenes: PartImages) -> dict[str, Tensor]:
    """{stream: [n_regions, dim]} of unit norm, by a pair of encoders."""
    data = scenes.data
    image_of = np.array([region.image for region in data.regions])
    covers = {encoder.patch_grid: data.cover(encoder.patch_grid) for encoder in pair}
    parts: dict[str, list[Tensor]] = {stream: [] for stream in IMAGE_STREAMS}
    for start in range(0, len(data.ids), BATCH):
        end = min(start + BATCH, len(data.ids))
        pictures = [data.image(number) for number in range(start, end)]
        rows = np.flatnonzero((image_of >= start) & (image_of < end))
        for stream, encoder in zip(IMAGE_STREAMS, pair):
            patches = patch_features(encoder, pictures)[image_of[rows] - start]
            parts[stream].append(region_features(patches, covers[encoder.patch_grid][rows]))
    features = {stream: torch.cat(own) for stream, own in parts.items()}
    return features | {"clip_txt": text_features(pair[1], scenes.captions)}


def text_features(clip, texts: list[str]) -> Tensor:
    """Features of texts, unit norm, [n, dim], on the CPU."""
    chunks = [texts[start : start + 256] for start in range(0, len(texts), 256)]
    with torch.no_grad():
        return F.normalize(torch.cat([clip.text_features(chunk).cpu() for chunk in chunks]), dim=1)


def region_models(profile: Profile, stores: Mapping[str, FeatureStore]) -> dict[str, list[SPARC]]:
    """SPARCs of each store, one a seed of the profile, trained side by side on first use.

    Sizes are the profile's. Regions are fewer than pairs, so batches are half as large and epochs twice as
    many.
    """
    spec = profile.sparc
    sparc = dataclasses.replace(spec, batch_size=-(-spec.batch_size // 2), epochs=2 * spec.epochs)
    own = dataclasses.replace(profile, sparc=sparc)
    missing = [
        (own, seed, store.directory)
        for store in stores.values()
        for seed in profile.seeds
        if not has_trained(own, SETTING, seed, store)
    ]
    each(_train, missing, "SPARCs of regions")
    models = {}
    for name, store in stores.items():
        made = [trained(own, SETTING, seed, store).model for seed in profile.seeds]
        models[name] = [model.to(best_device()).requires_grad_(False) for model in made]
    return models


def _train(profile: Profile, seed: int, store: Path) -> None:
    trained(profile, SETTING, seed, FeatureStore.open(store), progress=False)
