"""How good an encoder is, in the numbers its card quotes: linear probe, retrieval against the oracle, zero-shot."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from torch import Tensor

from ..glyphs import glyphs
from ..reader import readers_bound
from ..scenes import make_scene
from ..words import nouns
from .loop import WORLD_SEED, pixels, rendered


class SplitLabels(NamedTuple):
    """Leaf classes of the first n scenes of a split: bool [n, C] and the class names."""

    labels: np.ndarray
    names: list[str]


def split_labels(split: str, n: int) -> SplitLabels:
    """Ground truth of scenes 0..n-1, one row a scene."""
    names = sorted(nouns_of_leaves())
    column = {name: i for i, name in enumerate(names)}
    labels = np.zeros((n, len(names)), bool)
    for i in range(n):
        labels[i, [column[o.name] for o in make_scene(WORLD_SEED, split, i).objects]] = True
    return SplitLabels(labels, names)


def nouns_of_leaves() -> list[str]:
    """Names of the leaf classes."""
    return list(glyphs())


@torch.no_grad()
def image_features(encode: Callable[[Tensor], Tensor], split: str, n: int, batch: int = 250) -> Tensor:
    """Features [n, d] of scenes 0..n-1 under ``encode``: pixels [B, 3, 96, 96] in [0, 1] -> [B, d]."""
    images = rendered(split, n)
    return torch.cat([encode(pixels(images[i : i + batch])).float().cpu() for i in range(0, n, batch)])


def probe_map(
    train: Tensor,
    train_labels: np.ndarray,
    test: Tensor,
    test_labels: np.ndarray,
    penalty: float = 1e-3,
    steps: int = 60,
) -> float:
    """Mean average precision of a linear probe, over the classes that occur in the test set.

    One-vs-rest logistic regressions on standardised features [n, d], fitted together by L-BFGS with an L2 penalty.
    """
    mean, std = train.mean(0), train.std(0) + 1e-6
    x, z = (train - mean) / std, (test - mean) / std
    y = torch.from_numpy(train_labels).float()
    rate = y.mean(0).clamp(1e-4, 1 - 1e-4)
    weight = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    bias = torch.log(rate / (1 - rate)).requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (
            F.binary_cross_entropy_with_logits(x @ weight + bias, y) * y.shape[1]
            + penalty * weight.square().sum()
        )
        loss.backward()
        return loss

    optimizer.step(closure)
    scores = (z @ weight + bias).detach().numpy()
    present = test_labels.any(0)
    return float(average_precision_score(test_labels[:, present], scores[:, present], average="macro"))


class ClipScores(NamedTuple):
    """R@1 over n test scenes, each with its first caption; ``share`` is R@1 over the oracle's."""

    image_to_text: float
    text_to_image: float
    oracle_image_to_text: float
    oracle_text_to_image: float

    @property
    def share(self) -> float:
        return self.image_to_text / self.oracle_image_to_text


def clip_retrieval(image: Tensor, text: Tensor, split: str) -> ClipScores:
    """R@1 of image features [n, d] against caption features [n, d] of the same scenes, and what a perfect reader gets."""
    similarity = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    own = similarity.diagonal()
    scenes = [make_scene(WORLD_SEED, split, i) for i in range(len(image))]
    oracle = readers_bound(scenes, [s.captions()[0] for s in scenes])
    return ClipScores(
        float(((similarity >= own[:, None]).sum(1) == 1).float().mean()),
        float(((similarity >= own[None, :]).sum(0) == 1).float().mean()),
        oracle.image_to_text,
        oracle.text_to_image,
    )


def first_captions(split: str, n: int) -> list[str]:
    """The first caption of each of the scenes 0..n-1."""
    return [make_scene(WORLD_SEED, split, i).captions()[0].text for i in range(n)]


def zero_shot_map(image: Tensor, encode_text: Callable[[list[str]], Tensor], truth: SplitLabels) -> float:
    """mAP of ranking images [n, d] by their similarity to "In this image there is a CLASS."."""
    prompts = [f"In this image there is a {nouns()[name]}." for name in truth.names]
    scores = (F.normalize(image, dim=1) @ F.normalize(encode_text(prompts).float().cpu(), dim=1).T).numpy()
    present = truth.labels.any(0)
    return float(average_precision_score(truth.labels[:, present], scores[:, present], average="macro"))
