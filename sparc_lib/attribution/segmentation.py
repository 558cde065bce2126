"""How well heatmaps cover known masks: one interface for the miniature world and for photographs.

Published measures: Otsu's threshold on the heatmap resized to the image, then mask mAP at IoU 0.20
(pycocotools) and mean IoU. Beside them three that need no threshold and are taken on the patches themselves,
each weighted by how much of it the mask covers: the pointing game, pixel average precision, and, for scenes
with two classes, contrast.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as rle

from ..data.instances import outlined
from ..data.knowledge import NO_MASKS
from ..data.pairs import PairedDataset

IOU = 0.2  # of the published mAP
BINS = 512  # roundings apart that heat must be for Otsu's 256-bin histogram


class Region(NamedTuple):
    """One (image, class) pair. instances: run-length encodings, as pycocotools makes them; none where the
    data set says what an image shows but not where."""

    image: int  # number in AnnotatedImages.ids
    concept: int  # column of AnnotatedImages.classes
    instances: tuple[dict, ...]

    def mask(self) -> np.ndarray:
        """Pixels of the class, bool [H, W]."""
        return rle.decode(rle.merge(list(self.instances))).astype(bool)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return tuple(self.instances[0]["size"])


class AnnotatedImages(NamedTuple):
    """Images with the masks of their classes where those are known. image(i): picture of ids[i], RGB."""

    ids: list[str]
    classes: list[str]
    regions: list[Region]
    image: Callable[[int], Image.Image]

    @property
    def lacks(self) -> str:
        """Why nothing can be held against masks; empty where they are known."""
        return "" if all(region.instances for region in self.regions) else NO_MASKS

    def two_class(self) -> list[tuple[int, int]]:
        """Ordered pairs of region numbers (target, other) in images of exactly two classes."""
        numbers_of: dict[int, list[int]] = {}
        for number, region in enumerate(self.regions):
            numbers_of.setdefault(region.image, []).append(number)
        pairs = []
        for numbers in numbers_of.values():
            if len(numbers) == 2:
                pairs += permutations(numbers)
        return pairs

    def cover(self, grid: tuple[int, int]) -> np.ndarray:
        """Share of every patch that lies in the region's mask, [n_regions, rows, columns] for a whole-image
        grid; NaN without masks."""
        if self.lacks:
            return np.full((len(self.regions), *grid), np.nan, np.float32)
        shares = []
        for region in self.regions:
            mask = torch.from_numpy(region.mask()).float()
            shares.append(F.adaptive_avg_pool2d(mask[None], grid)[0].numpy())
        return np.stack(shares)

    def sizes(self) -> np.ndarray:
        """Share of the image that every region's mask covers, [n_regions]; NaN without masks."""
        if self.lacks:
            return np.full(len(self.regions), np.nan)
        return np.array([region.mask().mean() for region in self.regions])

    def outlined(self, region: Region) -> np.ndarray:
        """The region's picture, uint8 [H, W, 3], with the outline of its mask where that is known."""
        picture = np.asarray(self.image(region.image))
        return outlined(picture, region.mask()[None]) if region.instances else picture


def annotated_images(
    data: PairedDataset, n_images: int, readable: Collection[str] | None = None, min_pixels: int = 1
) -> AnnotatedImages:
    """The first images of a split, one region per image and class with its instances apart (no crowds); a
    data set without masks has a region, without instances, for every class that an image is labelled with.

    readable: ids of the images to take (default all), as some may be missing or corrupt. min_pixels: smaller
    instances are left out, those without any pixel always, as no heatmap can be scored on them.
    """
    row_of: dict[str, int] = {}  # the first pair of every image
    for row, identity in enumerate(data.image_ids):
        if readable is None or identity in readable:
            row_of.setdefault(identity, row)
    ids, regions = list(row_of)[:n_images], []
    for number, identity in enumerate(ids):
        row = row_of[identity]
        instances: dict[int, list[dict]] = {}
        if data.knows_masks:
            for one in data.masks(row):
                if not one.crowd and one.mask.sum() >= max(min_pixels, 1):
                    instances.setdefault(one.column, []).append(encode_mask(one.mask))
        else:
            instances = {column: [] for column in data.labels[[row]].indices.tolist()}
        regions += [Region(number, concept, tuple(codes)) for concept, codes in instances.items()]
    return AnnotatedImages(ids, data.classes, regions, lambda i: data.image(row_of[ids[i]]).convert("RGB"))


def encode_mask(mask: np.ndarray) -> dict:
    return rle.encode(np.asfortranarray(mask, np.uint8))


# Threshold-free measures on patches


def pointing(maps: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Chance that a pixel of the brightest patch lies in the mask, [n]; equally bright patches share the
    vote.

    maps, cover [n, rows, columns]: heatmaps and the share of each patch in the mask.
    """
    heat = maps.reshape(len(maps), -1)
    inside = cover.reshape(len(cover), -1)
    best = heat == heat.max(1, keepdims=True)
    return (best * inside).sum(1) / best.sum(1)


def pixel_ap(maps: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Average precision of the mask's pixels when every pixel scores as its patch does, [n]; arguments as
    above.

    The same as scikit-learn's average_precision_score over all pixels, ties included. A constant map scores
    the mask's share of the image. Raises ValueError for a mask that covers nothing.
    """
    heat = maps.reshape(len(maps), -1)
    inside = cover.reshape(len(cover), -1).astype(np.float64)
    _demand_pixels(inside)
    order = np.argsort(-heat, axis=1, kind="stable")
    heat = np.take_along_axis(heat, order, 1)
    inside = np.take_along_axis(inside, order, 1)
    n_patches = heat.shape[1]
    last_of_ties = np.ones(heat.shape, bool)
    last_of_ties[:, :-1] = heat[:, 1:] != heat[:, :-1]
    place = np.where(last_of_ties, np.arange(n_patches), n_patches)
    place = np.minimum.accumulate(place[:, ::-1], axis=1)[:, ::-1]
    precision = np.take_along_axis(inside.cumsum(1), place, 1) / (place + 1)
    return (precision * inside).sum(1) / inside.sum(1)


def contrast(maps: np.ndarray, cover: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Target minus other, [len(pairs)] in -1..1: does the difference of two regions' heatmaps tell their
    pixels apart?

    Each map is divided by its sum, the other's is subtracted, and the result is 2 AUC - 1 of the difference
    on the target's pixels against the other's. A map that is the same for both targets (saliency) scores 0.
    Raises ValueError for a mask that covers nothing.
    """
    heat = maps.reshape(len(maps), -1).astype(np.float64)
    inside = cover.reshape(len(cover), -1)
    _demand_pixels(inside)
    total = heat.sum(1, keepdims=True)
    heat = np.divide(heat, total, out=np.zeros_like(heat), where=total > 0)
    scores = []
    for target, other in pairs:
        difference = heat[target] - heat[other]
        sign = np.sign(difference[:, None] - difference[None])
        wins = inside[target] @ sign @ inside[other]
        scores.append(wins / (inside[target].sum() * inside[other].sum()))
    return np.array(scores)


def _demand_pixels(inside: np.ndarray) -> None:
    """inside [n, n_patches]: share of each patch in the mask; NaN, where masks are not known, passes."""
    empty = np.flatnonzero(inside.sum(1) == 0)
    if len(empty):
        raise ValueError(f"region {empty[0]}: its mask has no pixel; leave it out, as annotated_images does")


# Published measures


def otsu_masks(maps: np.ndarray, data: AnnotatedImages) -> tuple[list[np.ndarray], np.ndarray]:
    """Every region's heatmap [rows, columns], resized to its image and cut at Otsu's threshold: masks, bool
    [H, W], and their mean heat, the detection's score. A map constant up to rounding gives the whole image.
    """
    from skimage.filters import threshold_otsu  # takes a second to import

    masks, scores = [], []
    for small, region in zip(torch.as_tensor(maps, dtype=torch.float32), data.regions):
        heat = F.interpolate(small[None, None], size=region.size, mode="bilinear")[0, 0].numpy()
        if np.ptp(heat) <= BINS * np.spacing(np.abs(heat).max()):
            mask = np.ones_like(heat, bool)
        else:
            mask = heat > threshold_otsu(heat)
        masks.append(mask)
        scores.append(heat[mask].mean())
    return masks, np.array(scores)


def overlap(masks: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Masks against true masks, bool [H, W] each: "iou", "precision" (share of the mask inside the truth) and
    "recall" (share of the truth that the mask covers), [n] each."""
    both = np.array([(mask & true).sum() for mask, true in zip(masks, truth)], float)
    ours = np.array([mask.sum() for mask in masks], float)
    theirs = np.array([true.sum() for true in truth], float)
    return {
        "iou": both / np.maximum(ours + theirs - both, 1),
        "precision": both / np.maximum(ours, 1),
        "recall": both / np.maximum(theirs, 1),
    }


def mask_map(
    masks: Sequence[np.ndarray], scores: np.ndarray, data: AnnotatedImages, threshold: float = IOU
) -> float:
    """COCO mask mAP at one IoU threshold: one detection a region, average precision averaged over classes."""
    from pycocotools.coco import COCO  # which imports matplotlib
    from pycocotools.cocoeval import COCOeval

    # Matching is per (image, class) and precision per class, so the n-th region of every class may share one
    # image number: the same result from far fewer (image, class) combinations, most of which are empty.
    regions_of_class: Counter[int] = Counter()
    annotations, detections = [], []
    for region, mask, score in zip(data.regions, masks, scores):
        regions_of_class[region.concept] += 1
        key = {"image_id": regions_of_class[region.concept], "category_id": region.concept}
        detections.append(key | {"segmentation": encode_mask(mask), "score": float(score)})
        for code in region.instances:
            extent = {"segmentation": code, "iscrowd": 0, "area": float(rle.area(code))}
            annotations.append(key | extent | {"id": len(annotations) + 1})
    n_images = max(regions_of_class.values())
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i, "height": 0, "width": 0} for i in range(1, n_images + 1)],
        "categories": [{"id": concept} for concept in sorted(regions_of_class)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth.createIndex()
        task = COCOeval(truth, truth.loadRes(detections), "segm")
        task.params.iouThrs = np.array([threshold])
        task.params.maxDets = [100]
        task.params.areaRng = [[0, 1e10]]
        task.params.areaRngLbl = ["all"]
        task.evaluate()
        task.accumulate()
    precision = task.eval["precision"][0, :, :, 0, 0]  # [recall, class], -1 where a class is absent
    return float(precision[precision > -1].mean())


def region_scores(
    maps: np.ndarray,
    data: AnnotatedImages,
    truth: Sequence[np.ndarray],
    cover: Mapping[tuple[int, int], np.ndarray],
) -> tuple[dict[str, np.ndarray], float]:
    """All scores of one kind of heatmap [n_regions, rows, columns]: {measure: [n_regions]} and the mask mAP.

    truth: the regions' masks; cover: `data.cover` of every grid in use.
    """
    inside = cover[maps.shape[1:]]
    masks, scores = otsu_masks(maps, data)
    measures = overlap(masks, truth)
    measures["pixel_ap"] = pixel_ap(maps, inside)
    measures["pointing"] = pointing(maps, inside)
    return measures, mask_map(masks, scores, data)
