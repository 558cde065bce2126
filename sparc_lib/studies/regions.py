"""A SPARC of regions: its samples are parts and whole objects of training scenes, not scenes.

A region's feature in an image stream is the mean of its patch tokens, in the text stream the caption that
names it; the three are coupled as scene and caption are in the paper. Each is later read alone (patches by
their own code, captions by theirs), so one voter a sample chooses in training, as notebook 08 advises.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution.parts import PartImages, part_images
from ..attribution.patches import BATCH, patch_features, region_features
from ..data.catalogue import inputs as pairs_of
from ..model import SPARC
from ..profiles import Profile, Setting
from ..store.reader import FeatureStore
from .parallel import each
from .runs import best_device, dataset, encoders, trained
from .sources import code_of
from .stages import stage

SCENES = 1500  # training scenes whose regions are the samples
SETTING = Setting("regions", "global", 1.0, voters="one")
IMAGE_STREAMS = ("dino", "clip_img")


def region_scenes(profile: Profile) -> PartImages:
    """Regions of the first training scenes of a profile, parts and whole objects."""
    return part_images(dataset(profile, "train"), SCENES, wholes=True)


def region_store(profile: Profile, random_weights: int | None = None, shuffled: bool = False) -> FeatureStore:
    """Features of the `region_scenes`, a pair a region, made on first use.

    random_weights: seed of encoders with random weights, None for the profile's. shuffled: every region has
    the caption of another region, drawn by chance; a control of what is learned from their coupling.
    """
    pair = encoders(profile, random_weights, best_device())
    inputs = {
        "scenes": SCENES,
        "data": pairs_of(profile, "train"),
        "dino": pair[0].fingerprint,
        "clip": pair[1].fingerprint,
        "shuffled": shuffled,
        "code": code_of("attribution"),
    }

    def build(partial: Path) -> None:
        scenes = region_scenes(profile)
        features = region_streams(pair, scenes)
        if shuffled:
            order = np.random.default_rng(profile.data.seed).permutation(len(scenes.captions))
            features["clip_txt"] = features["clip_txt"][order]
        ids = [f"region/{number:06d}" for number in range(len(scenes.captions))]
        about = dict(captions=scenes.captions, dataset="regions", split="train", overwrite=True)
        FeatureStore.create(partial / "store", features, ids=ids, **about)

    return FeatureStore.open(stage("regions", inputs, build) / "store")


def region_streams(pair, scenes: PartImages) -> dict[str, Tensor]:
    """{stream: [n_regions, dim]} of unit norm, by a pair of encoders."""
    data = scenes.data
    image_of = np.array([region.image for region in data.regions])
    features = {}
    for stream, encoder in zip(IMAGE_STREAMS, pair):
        cover = data.cover(encoder.patch_grid)
        parts = []
        for start in range(0, len(data.ids), BATCH):
            numbers = range(start, min(start + BATCH, len(data.ids)))
            rows = np.flatnonzero((image_of >= start) & (image_of < start + BATCH))
            patches = patch_features(encoder, [data.image(number) for number in numbers])
            parts.append(region_features(patches[image_of[rows] - start], cover[rows]))
        features[stream] = torch.cat(parts)
    return features | {"clip_txt": text_features(pair[1], scenes.captions)}


def text_features(clip, texts: list[str]) -> Tensor:
    """Features of texts, unit norm, [n, dim], on the CPU."""
    chunks = [texts[start : start + 256] for start in range(0, len(texts), 256)]
    with torch.no_grad():
        return F.normalize(torch.cat([clip.text_features(chunk).cpu() for chunk in chunks]), dim=1)


def region_models(profile: Profile, store: FeatureStore) -> list[SPARC]:
    """SPARCs of a `region_store`, one a seed of the profile, trained side by side on first use.

    Sizes and epochs are the profile's; batches are half as large, as there are fewer samples.
    """
    sparc = dataclasses.replace(profile.sparc, batch_size=-(-profile.sparc.batch_size // 2))
    own = dataclasses.replace(profile, sparc=sparc)
    each(_train, [(own, seed, store.directory) for seed in profile.seeds], "SPARCs of regions")
    models = [trained(own, SETTING, seed, store).model for seed in profile.seeds]
    return [model.to(best_device()).requires_grad_(False) for model in models]


def _train(profile: Profile, seed: int, store: Path) -> None:
    trained(profile, SETTING, seed, FeatureStore.open(store), progress=False)
