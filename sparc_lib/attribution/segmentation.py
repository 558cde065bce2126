"""How well heatmaps cover known masks: one interface for the miniature world and for photographs.

Published measures: Otsu's threshold on the heatmap resized to the image, then mask mAP at IoU 0.20 (pycocotools) and
mean IoU. Beside them three that need no threshold and are taken on the patches themselves, each weighted by how much
of it the mask covers: the pointing game, pixel average precision, and, for scenes with two classes, contrast.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from skimage.filters import threshold_otsu

from ..data.instances import outlined
from ..data.knowledge import NO_MASKS
from ..data.pairs import PairedDataset

IOU = 0.2  # of the published mAP
BINS = 512  # roundings apart that heat must be for Otsu's 256-bin histogram


class Region(NamedTuple):
    """One (image, class) pair. instances: run-length encodings, as pycocotools makes them; none where the data set
    says what an image shows but not where."""

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
    """Images with the masks of their classes where those are known. image(i) gives the picture of ids[i]."""

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
        of_image: dict[int, list[int]] = {}
        for number, region in enumerate(self.regions):
            of_image.setdefault(region.image, []).append(number)
        return [
            pair
            for found in of_image.values()
            if len(found) == 2
            for pair in (tuple(found), tuple(found[::-1]))
        ]

    def cover(self, grid: tuple[int, int]) -> np.ndarray:
        """Share of every patch that lies in the region's mask, [n_regions, rows, columns] for a whole-image grid; NaN
        without masks."""
        if self.lacks:
            return np.full((len(self.regions), *grid), np.nan, np.float32)
        return np.stack(
            [
                F.adaptive_avg_pool2d(torch.from_numpy(region.mask())[None].float(), grid)[0].numpy()
                for region in self.regions
            ]
        )

    def sizes(self) -> np.ndarray:
        """Share of the image that every region's mask covers, [n_regions]; NaN without masks."""
        return np.array([np.nan if self.lacks else region.mask().mean() for region in self.regions])

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
                    instances.setdefault(one.column, []).append(_encode(one.mask))
        else:
            instances = {column: [] for column in data.labels[[row]].indices.tolist()}
        regions += [Region(number, concept, tuple(codes)) for concept, codes in instances.items()]
    return AnnotatedImages(ids, data.classes, regions, lambda i: data.image(row_of[ids[i]]).convert("RGB"))


def _encode(mask: np.ndarray) -> dict:
    return rle.encode(np.asfortranarray(mask, np.uint8))


# Threshold-free measures on patches


def pointing(maps: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Chance that a pixel of the brightest patch lies in the mask, [n]; equally bright patches share the vote.

    maps, cover [n, rows, columns]: heatmaps and the share of each patch in the mask.
    """
    heat, inside = maps.reshape(len(maps), -1), cover.reshape(len(cover), -1)
    best = heat == heat.max(1, keepdims=True)
    return (best * inside).sum(1) / best.sum(1)


def pixel_ap(maps: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Average precision of the mask's pixels when every pixel scores as its patch does, [n]; arguments as above.

    The same as scikit-learn's average_precision_score over all pixels, ties included. A constant map scores the
    mask's share of the image.
    """
    heat, inside = maps.reshape(len(maps), -1), cover.reshape(len(cover), -1).astype(np.float64)
    order = np.argsort(-heat, axis=1, kind="stable")
    heat, inside = np.take_along_axis(heat, order, 1), np.take_along_axis(inside, order, 1)
    last = np.append(
        heat[:, 1:] != heat[:, :-1], np.ones((len(heat), 1), bool), 1
    )  # of equally bright patches
    place = np.where(last, np.arange(heat.shape[1]), heat.shape[1])
    place = np.minimum.accumulate(place[:, ::-1], axis=1)[:, ::-1]
    precision = np.take_along_axis(inside.cumsum(1), place, 1) / (place + 1)
    return (precision * inside).sum(1) / inside.sum(1)


def contrast(maps: np.ndarray, cover: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Target minus other, [len(pairs)] in -1..1: does the difference of two regions' heatmaps tell their pixels apart?

    Each map is divided by its sum, the other's is subtracted, and the result is 2 AUC - 1 of the difference on the
    target's pixels against the other's. A map that is the same for both targets (saliency) scores 0.
    """
    heat = maps.reshape(len(maps), -1).astype(np.float64)
    total = heat.sum(1, keepdims=True)
    heat, inside = (
        np.divide(heat, total, out=np.zeros_like(heat), where=total > 0),
        cover.reshape(len(cover), -1),
    )
    out = []
    for target, other in pairs:
        difference = heat[target] - heat[other]
        sign = np.sign(difference[:, None] - difference[None])
        out.append((inside[target] @ sign @ inside[other]) / (inside[target].sum() * inside[other].sum()))
    return np.array(out)


# Published measures


def otsu_masks(maps: np.ndarray, data: AnnotatedImages) -> tuple[list[np.ndarray], np.ndarray]:
    """Every region's heatmap [rows, columns], resized to its image and cut at Otsu's threshold: masks bool [H, W] and
    their mean heat inside, the detection's score. A constant map, up to rounding, gives the whole image."""
    masks, scores = [], []
    for heat, region in zip(torch.as_tensor(maps, dtype=torch.float32), data.regions):
        heat = F.interpolate(heat[None, None], size=region.size, mode="bilinear")[0, 0].numpy()
        flat = np.ptp(heat) <= BINS * np.spacing(np.abs(heat).max())
        masks.append(np.ones_like(heat, bool) if flat else heat > threshold_otsu(heat))
        scores.append(heat[masks[-1]].mean())
    return masks, np.array(scores)


def overlap(masks: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Masks against true masks, bool [H, W] each: "iou", "precision" (share of the mask inside the truth) and
    "recall" (share of the truth that the mask covers), [n] each."""
    both, a, b = np.array([((x & y).sum(), x.sum(), y.sum()) for x, y in zip(masks, truth)], float).T
    return {
        "iou": both / np.maximum(a + b - both, 1),
        "precision": both / np.maximum(a, 1),
        "recall": both / np.maximum(b, 1),
    }


def mask_map(
    masks: Sequence[np.ndarray], scores: np.ndarray, data: AnnotatedImages, threshold: float = IOU
) -> float:
    """COCO mask mAP at one IoU threshold: one detection a region, the mean over classes of average precision."""
    truth, found, seen = COCO(), [], Counter()
    # Matching is per (image, class) and precision per class, so the n-th region of every class may share one image
    # number: the same result from far fewer (image, class) combinations, most of which are empty.
    slot = [seen.update([region.concept]) or seen[region.concept] for region in data.regions]
    entries = [
        (i, region.concept, instance)
        for i, region in zip(slot, data.regions)
        for instance in region.instances
    ]
    truth.dataset = {
        "info": {},
        "images": [{"id": i, "height": 0, "width": 0} for i in sorted(set(slot))],
        "categories": [{"id": c} for c in sorted({region.concept for region in data.regions})],
        "annotations": [
            {
                "id": n + 1,
                "image_id": i,
                "category_id": c,
                "segmentation": code,
                "iscrowd": 0,
                "area": float(rle.area(code)),
            }
            for n, (i, c, code) in enumerate(entries)
        ],
    }
    for i, region, mask, score in zip(slot, data.regions, masks, scores):
        found.append(
            {
                "image_id": i,
                "category_id": region.concept,
                "segmentation": _encode(mask),
                "score": float(score),
            }
        )
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth.createIndex()
        task = COCOeval(truth, truth.loadRes(found), "segm")
        task.params.iouThrs, task.params.maxDets = np.array([threshold]), [100]
        task.params.areaRng, task.params.areaRngLbl = [[0, 1e10]], ["all"]
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
    return {
        **overlap(masks, truth),
        "pixel_ap": pixel_ap(maps, inside),
        "pointing": pointing(maps, inside),
    }, mask_map(masks, scores, data)
