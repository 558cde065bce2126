"""Notebook 07: does the map of a caption that names one part of an object lie on that part?

Every reading, SPARC's as published, controls and attempts, makes a map for every part; `part_scores` says how
they are scored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..attribution import methods
from ..attribution.attention import Trace, trace_image
from ..attribution.methods import IMAGE_STREAMS
from ..attribution.parts import PartImages, part_images
from ..attribution.patches import BATCH, activation_maps, patch_codes, patch_features, similarity_maps
from ..attribution.relevance import grad_cam, heatmap, square_pixels, weighted_target
from ..data.catalogue import inputs as pairs_of
from ..model import SPARC
from ..profiles import Profile
from . import regions
from .baselines import fit_ridge
from .heatmaps import REFERENCE_IMAGES
from .part_scores import COLUMNS, Reading, scored
from .regions import region_scenes, text_features
from .runs import RANDOM, best_device, dataset, encoders, features
from .sources import code_of
from .stages import table_stage
from .tables import Run, model_of

# What is asked of a map: all that the caption says, or what it says beyond a caption of the object alone.
CAPTION, PART, MASKS = "caption", "part less object", "masks"
GRADIENTS, CAM = "SPARC as published, gradients", "SPARC as published, Grad-CAM"
AT_PATCHES, REGIONS = "SPARC as published, at patches", "SPARC of regions"
SIMILARITY, CLIP_PATCHES = "CLIP similarity, gradients", "CLIP similarity, at patches"
NOISE, REGION_NOISE = "SPARC as published, random encoders", "SPARC of regions, random encoders"
SHUFFLED = "SPARC of regions, shuffled captions"
RIDGE, RIDGE_NOISE = "ridge of regions", "ridge of regions, random encoders"
CLASSIFIER, MASK = "patch classifier (masks)", "the mask itself, at patches"
LEAST_COVER = 0.25  # of a patch, from which on the reference learns it as the part's
Maps = Iterator[tuple[Reading, np.ndarray]]  # [n_regions, rows, columns] each


class Asked(NamedTuple):
    """Text features of captions that name a part, and of their objects alone; unit norm, [n, dim] each."""

    parts: Tensor
    wholes: Tensor

    @classmethod
    def of(cls, clip, scenes: PartImages) -> Asked:
        return cls(text_features(clip, scenes.captions), text_features(clip, scenes.wholes))

    def directions(self) -> dict[str, Tensor]:
        """What to multiply CLIP's image features with, [n, dim], by what is asked."""
        return {CAPTION: self.parts, PART: self.parts - self.wholes}

    def weights(self, model: SPARC) -> dict[str, Tensor]:
        """What to multiply codes of an image with, [n, n_latents]: z_caption, or z_caption - z_object."""
        device = next(model.parameters()).device
        with torch.no_grad():
            part, whole = (
                model.encode({"clip_txt": text.to(device)}, "independent")["clip_txt"] for text in self
            )
        return {CAPTION: part.dense(), PART: part.dense() - whole.dense()}


class View(NamedTuple):
    """The pictures of `scenes` as one pair of encoders sees them.

    patches {stream: [n_images, n_patches, dim]}. image [n_regions]: the row there of every region's image.
    """

    pair: tuple
    scenes: PartImages
    asked: Asked
    patches: Mapping[str, Tensor]
    image: np.ndarray

    @classmethod
    def of(cls, pair, scenes: PartImages) -> View:
        numbers, image = np.unique([region.image for region in scenes.data.regions], return_inverse=True)
        pictures = [scenes.data.image(number) for number in numbers]
        patches = {stream: patch_features(encoder, pictures) for stream, encoder in zip(IMAGE_STREAMS, pair)}
        return cls(pair, scenes, Asked.of(pair[1], scenes), patches, image)

    def grid(self, stream: str) -> tuple[int, int]:
        return self.pair[IMAGE_STREAMS.index(stream)].patch_grid


def part_report(profile: Profile) -> pd.DataFrame:
    """A row a reading and ordered pair of parts in the first `heatmap_images` test images, `COLUMNS`; without
    rows where the data do not say where parts are.

    SPARC as published: the first setting with cross-reconstruction, trained on scenes, all seeds. Controls
    with random encoders are trained as what they control, on features of the same networks, untrained; of
    the published one the first seed, as in notebook 06.
    """
    scenes = part_images(dataset(profile, "test"), profile.evaluation.heatmap_images)
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
        on_noise = published_models(one_seed(profile), "random encoders", noise_train)
        targets = sparc_targets(view.asked, published, "published", GRADIENTS)
        targets += similarity_targets(view.asked)
        stores = regions.region_stores(profile)
        models = regions.region_models(profile, stores)
        readings = [
            *gradient_maps(view, targets),
            *gradient_maps(noise, sparc_targets(noise.asked, on_noise, "control", NOISE)),
            *clip_patch_maps(view),
            *patch_maps(view, published, "attempt", AT_PATCHES),
            *patch_maps(view, models[regions.TRUE], "attempt", REGIONS),
            *patch_maps(noise, models[regions.NOISE], "control", REGION_NOISE),
            *patch_maps(view, models[regions.SHUFFLED], "control", SHUFFLED),
            *ridge_maps(view, stores[regions.TRUE], "attempt", RIDGE),
            *ridge_maps(noise, stores[regions.NOISE], "control", RIDGE_NOISE),
            *reference_maps(view, region_scenes(profile, REFERENCE_IMAGES)),
        ]
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


class Target(NamedTuple):
    """A score whose gradient makes a map: the code of each region's image, or without a model its feature,
    times `weights` [n_regions, n_latents or dim]."""

    reading: Reading
    make_map: Callable[[Trace, Tensor], Tensor]
    weights: Tensor
    model: SPARC | None = None

    def score(self, trace: Trace, rows: slice) -> Tensor:
        """Of the regions `rows`, whose images were traced, [B]."""
        weights = self.weights[rows].to(trace.unit.device)
        if self.model is None:
            return (trace.unit * weights).sum(1)
        stream = self.reading.stream
        return weighted_target(self.model.encode({stream: trace.unit}, "independent")[stream], weights)


def sparc_targets(asked: Asked, models: list[SPARC], group: str, method: str) -> list[Target]:
    """The match of a caption's code with the image's, by attention relevance as notebook 06 has it.

    To ask for a part less its object is an attempt of ours, unless it is a control. Of published models also
    Grad-CAM.
    """
    targets = []
    for stream in IMAGE_STREAMS:
        for seed, model in enumerate(models):
            weights = asked.weights(model)
            ours = "control" if group == "control" else "attempt"
            caption = Reading(group, method, CAPTION, stream, seed)
            targets.append(Target(caption, heatmap, weights[CAPTION], model))
            targets.append(Target(caption._replace(group=ours, asked=PART), heatmap, weights[PART], model))
            if group == "published":
                targets.append(Target(caption._replace(method=CAM), grad_cam, weights[CAPTION], model))
    return targets


def similarity_targets(asked: Asked) -> list[Target]:
    """CLIP's cosine, no SPARC, and the CLIP image only."""
    return [
        Target(Reading("baseline", SIMILARITY, name, "clip_img"), heatmap, direction)
        for name, direction in asked.directions().items()
    ]


def gradient_maps(view: View, targets: Sequence[Target]) -> Maps:
    """Maps of all regions for every target; every image is traced once a stream."""
    data = view.scenes.data
    parts: dict[Reading, list[np.ndarray]] = {target.reading: [] for target in targets}
    for start in range(0, len(data.regions), BATCH):
        rows = slice(start, start + BATCH)
        pictures = [data.image(region.image) for region in data.regions[rows]]
        for stream, encoder in zip(IMAGE_STREAMS, view.pair):
            trace = trace_image(encoder, square_pixels(encoder, pictures))
            for target in targets:
                if target.reading.stream == stream:
                    maps = target.make_map(trace, target.score(trace, rows))
                    parts[target.reading].append(maps.cpu().numpy())
    yield from ((reading, np.concatenate(maps)) for reading, maps in parts.items())


def clip_patch_maps(view: View) -> Maps:
    """CLIP's similarity of texts and patches."""
    patches = view.patches["clip_img"][view.image]
    for asked, direction in view.asked.directions().items():
        maps = similarity_maps(patches, direction, view.grid("clip_img"))
        yield Reading("baseline", CLIP_PATCHES, asked, "clip_img"), maps


def patch_maps(view: View, models: list[SPARC], group: str, method: str) -> Maps:
    """Codes of patches times the weights of what is asked."""
    for stream in IMAGE_STREAMS:
        for seed, model in enumerate(models):
            device = next(model.parameters()).device
            codes = patch_codes(model, stream, view.patches[stream].to(device))
            own = [codes[image] for image in view.image]
            for asked, weights in view.asked.weights(model).items():
                maps = activation_maps(own, weights, view.grid(stream))
                yield Reading(group, method, asked, stream, seed), maps


def ridge_maps(view: View, store, group: str, method: str) -> Maps:
    """No code: captions carried into an image stream by ridge regression on regions, times patches."""
    train = store.tensors()
    for stream in IMAGE_STREAMS:
        text, image = fit_ridge(train["clip_txt"], train[stream])
        part, whole = (text(features) for features in view.asked)
        patches = image(view.patches[stream])[view.image]
        for asked, direction in {CAPTION: part, PART: part - whole}.items():
            yield (
                Reading(group, method, asked, stream),
                similarity_maps(patches, direction, view.grid(stream)),
            )


def reference_maps(view: View, train: PartImages) -> Maps:
    """What masks allow: a linear classifier of patches, and the masks at the size of patches."""
    data = view.scenes.data
    for stream, encoder in zip(IMAGE_STREAMS, view.pair):
        maps = methods.supervised_maps(encoder, train.data, data, LEAST_COVER)
        yield Reading("reference", CLASSIFIER, MASKS, stream), maps
        yield Reading("reference", MASK, MASKS, stream), data.cover(encoder.patch_grid)
