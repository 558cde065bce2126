"""Whether captions tell two objects apart in DINO, for any method that says how well the two fit.

The measure of notebook 06, contrast, on the same images; here for every method of notebook 08 by one rule.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..attribution import segmentation as masks
from ..attribution.attention import Trace, trace_image, trace_text
from ..attribution.methods import BATCH, prompt
from ..attribution.relevance import encode_traces, heatmap, match_target, square_pixels
from ..model import SPARC
from ..profiles import Profile
from .baselines import PairMap
from .heatmaps import annotated
from .runs import best_device, encoders

Score = Callable[[Trace, Trace], Tensor]  # traced pictures and captions -> how well each pair fits, [B]


def code_score(model: SPARC) -> Score:
    """z_text · z_dino, each stream coded alone: the target of the published heatmaps."""

    def score(image: Trace, text: Trace) -> Tensor:
        codes = encode_traces(model, {"dino": image, "clip_txt": text}, "independent")
        return match_target(codes["dino"], codes["clip_txt"])

    return score


def map_score(maps: PairMap) -> Score:
    """Cosine of caption and picture where a map from text to DINO makes them meet."""

    def score(image: Trace, text: Trace) -> Tensor:
        return F.cosine_similarity(maps.query(text.unit), maps.reference(image.unit), dim=1)

    return score


def caption_contrast(profile: Profile, score: Score, random_weights: int | None = None) -> float:
    """Mean contrast in DINO over the ordered pairs of classes in two-class images of the test split.

    random_weights: seed of the encoders' random weights; None for the profile's encoders. NaN where the data
    have no masks or no image of two classes.
    """
    data = annotated(profile, "test", profile.evaluation.heatmap_images)
    pairs = [] if data.lacks else data.two_class()
    if not pairs:
        return float("nan")
    dino, clip = encoders(profile, random_weights, best_device())
    targets = sorted({number for pair in pairs for number in pair})
    maps = np.zeros((len(data.regions), *dino.patch_grid), np.float32)
    for start in range(0, len(targets), BATCH):
        numbers = targets[start : start + BATCH]
        regions = [data.regions[number] for number in numbers]
        pictures = [data.image(region.image) for region in regions]
        captions = [prompt(data.classes[region.concept], profile.data.kind) for region in regions]
        image = trace_image(dino, square_pixels(dino, pictures), start_block=-1)
        text = trace_text(clip, captions, start_block=-1)
        maps[numbers] = heatmap(image, score(image, text)).cpu().numpy()
    return float(masks.contrast(maps, data.cover(dino.patch_grid), pairs).mean())
