"""Notebook 07: maps of parts, by every reading: SPARC's as published, attempts, controls, references.

A map is a number a patch, of either sign; `part_scores` says how they are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..attribution import methods
from ..attribution.attention import Trace, trace_image
from ..attribution.methods import IMAGE_STREAMS
from ..attribution.parts import PartImages
from ..attribution.patches import BATCH, activation_maps, patch_codes, patch_features, similarity_maps
from ..attribution.relevance import grad_cam, heatmap, square_pixels, weighted_target
from ..model import SPARC
from . import regions
from .baselines import fit_ridge
from .part_scores import CAPTION, MASKS, PART, Reading

GRADIENTS, CAM = "SPARC as published, gradients", "SPARC as published, Grad-CAM"
AT_PATCHES, REGIONS = "SPARC as published, at patches", "SPARC of regions"
DECODED = "SPARC of regions, decoded"
SIMILARITY, CLIP_PATCHES = "CLIP similarity, gradients", "CLIP similarity, at patches"
NOISE = "SPARC as published, random encoders"
REGION_NOISE, DECODED_NOISE = f"{REGIONS}, random encoders", f"{DECODED}, random encoders"
SHUFFLED, DECODED_SHUFFLED = f"{REGIONS}, shuffled captions", f"{DECODED}, shuffled captions"
RIDGE, RIDGE_NOISE = "ridge of regions", "ridge of regions, random encoders"
CLASSIFIER, MASK = "patch classifier (masks)", "the mask itself, at patches"
REGION_METHODS = {  # of the SPARCs of regions: group, read at patches, decoded, ridge on the same regions
    regions.TRUE: ("attempt", REGIONS, DECODED, RIDGE),
    regions.NOISE: ("control", REGION_NOISE, DECODED_NOISE, RIDGE_NOISE),
    regions.SHUFFLED: ("control", SHUFFLED, DECODED_SHUFFLED, ""),
}
LEAST_COVER = 0.25  # of a patch, from which on the reference learns it as the part's
Maps = Iterator[tuple[Reading, np.ndarray]]  # [n_regions, rows, columns] each


class Prompts(NamedTuple):
    """Text features of captions that name a part, and of their objects alone; unit norm, [n, dim] each."""

    parts: Tensor
    wholes: Tensor

    @classmethod
    def of(cls, clip, scenes: PartImages) -> Prompts:
        return cls(regions.text_features(clip, scenes.captions), regions.text_features(clip, scenes.wholes))

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
    prompts: Prompts
    patches: Mapping[str, Tensor]
    image: np.ndarray

    @classmethod
    def of(cls, pair, scenes: PartImages) -> View:
        numbers, image = np.unique([region.image for region in scenes.data.regions], return_inverse=True)
        pictures = [scenes.data.image(number) for number in numbers]
        patches = {stream: patch_features(encoder, pictures) for stream, encoder in zip(IMAGE_STREAMS, pair)}
        return cls(pair, scenes, Prompts.of(pair[1], scenes), patches, image)

    def with_prompts_of(self, scenes: PartImages) -> View:
        """The same pictures, with the captions of `scenes`, whose regions are the same."""
        return self._replace(prompts=Prompts.of(self.pair[1], scenes))

    def grid(self, stream: str) -> tuple[int, int]:
        return self.pair[IMAGE_STREAMS.index(stream)].patch_grid


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


def sparc_targets(prompts: Prompts, models: list[SPARC], group: str, method: str) -> list[Target]:
    """The match of a caption's code with the image's, by attention relevance as notebook 06 has it.

    To ask for a part less its object is an attempt of ours, unless it is a control. Of published models also
    Grad-CAM.
    """
    targets = []
    for stream in IMAGE_STREAMS:
        for seed, model in enumerate(models):
            weights = prompts.weights(model)
            ours = "control" if group == "control" else "attempt"
            caption = Reading(group, method, CAPTION, stream, seed)
            targets.append(Target(caption, heatmap, weights[CAPTION], model))
            targets.append(Target(caption._replace(group=ours, question=PART), heatmap, weights[PART], model))
            if group == "published":
                targets.append(Target(caption._replace(method=CAM), grad_cam, weights[CAPTION], model))
    return targets


def similarity_targets(prompts: Prompts) -> list[Target]:
    """CLIP's cosine, no SPARC, and the CLIP image only."""
    return [
        Target(Reading("baseline", SIMILARITY, name, "clip_img"), heatmap, direction)
        for name, direction in prompts.directions().items()
    ]


def gradient_maps(view: View, targets: Sequence[Target]) -> Maps:
    """Maps of all regions for every target; every image is traced once a stream that has targets."""
    data = view.scenes.data
    for stream, encoder in zip(IMAGE_STREAMS, view.pair):
        own = [target for target in targets if target.reading.stream == stream]
        maps: list[list[np.ndarray]] = [[] for _ in own]
        for start in range(0, len(data.regions) if own else 0, BATCH):
            rows = slice(start, start + BATCH)
            pictures = [data.image(region.image) for region in data.regions[rows]]
            trace = trace_image(encoder, square_pixels(encoder, pictures))
            for kept, target in zip(maps, own):
                kept.append(target.make_map(trace, target.score(trace, rows)).cpu().numpy())
        yield from ((target.reading, np.concatenate(kept)) for target, kept in zip(own, maps))


def clip_patch_maps(view: View) -> Maps:
    """CLIP's similarity of texts and patches."""
    patches = view.patches["clip_img"][view.image]
    for question, direction in view.prompts.directions().items():
        maps = similarity_maps(patches, direction, view.grid("clip_img"))
        yield Reading("baseline", CLIP_PATCHES, question, "clip_img"), maps


def patch_maps(view: View, models: list[SPARC], group: str, method: str) -> Maps:
    """Codes of patches times the weights of what is asked."""
    for stream in IMAGE_STREAMS:
        for seed, model in enumerate(models):
            device = next(model.parameters()).device
            codes = patch_codes(model, stream, view.patches[stream].to(device))
            own = [codes[image] for image in view.image]
            for question, weights in view.prompts.weights(model).items():
                maps = activation_maps(own, weights, view.grid(stream))
                yield Reading(group, method, question, stream, seed), maps


def decoded_maps(view: View, models: list[SPARC], group: str, method: str) -> Maps:
    """What is asked, decoded into an image stream, times patches: patches need no code of their own."""
    for stream in IMAGE_STREAMS:
        patches = view.patches[stream][view.image]
        for seed, model in enumerate(models):
            for question, weights in view.prompts.weights(model).items():
                direction = (weights @ model.decoder[stream]).cpu()
                yield (
                    Reading(group, method, question, stream, seed),
                    similarity_maps(patches, direction, view.grid(stream)),
                )


def region_maps(view: View, models: Mapping[str, list[SPARC]], stores: Mapping, name: str) -> Maps:
    """Both readings of the SPARCs of regions `name` of `regions`, and ridge on the same regions."""
    group, at_patches, decoded, ridge = REGION_METHODS[name]
    yield from patch_maps(view, models[name], group, at_patches)
    yield from decoded_maps(view, models[name], group, decoded)
    if ridge:
        yield from ridge_maps(view, stores[name], group, ridge)


def renamed(maps: Maps, question: str) -> Maps:
    """Maps of the part less the object, as answers to another question; no others."""
    for reading, heat in maps:
        if reading.question == PART:
            yield reading._replace(question=question), heat


def ridge_maps(view: View, store, group: str, method: str) -> Maps:
    """No code: captions carried into an image stream by ridge regression on regions, times patches."""
    train = store.tensors()
    for stream in IMAGE_STREAMS:
        text, image = fit_ridge(train["clip_txt"], train[stream])
        part, whole = (text(features) for features in view.prompts)
        patches = image(view.patches[stream])[view.image]
        for question, direction in {CAPTION: part, PART: part - whole}.items():
            yield (
                Reading(group, method, question, stream),
                similarity_maps(patches, direction, view.grid(stream)),
            )


def reference_maps(view: View, train: PartImages) -> Maps:
    """What masks allow: a linear classifier of patches, and the masks at the size of patches."""
    data = view.scenes.data
    for stream, encoder in zip(IMAGE_STREAMS, view.pair):
        maps = methods.supervised_maps(encoder, train.data, data, LEAST_COVER)
        yield Reading("reference", CLASSIFIER, MASKS, stream), maps
        yield Reading("reference", MASK, MASKS, stream), data.cover(encoder.patch_grid)
