"""How good an encoder is, in the numbers of its card: probes, retrieval beside the best reader, spread."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from torch import Tensor
from transformers import Dinov2WithRegistersModel, PreTrainedTokenizerBase

from ..drawing import SIZE
from ..glyphs import glyphs
from ..reader import readers_bound
from ..scenes import make_scene
from ..words import nouns
from .loop import autocast
from .pictures import GRID, MEAN, PATCH, STD, WORLD_SEED, rendered

PATCH_SCENES = 1500  # scenes on which the patch classifier is fitted


class Encoded(NamedTuple):
    """Features of n scenes: CLS [n, d] and patch tokens [min(n, PATCH_SCENES), 144, d]."""

    cls: Tensor
    tokens: Tensor


class SplitLabels(NamedTuple):
    """Leaf classes of the first n scenes of a split: bool [n, C] and the class names."""

    labels: np.ndarray
    names: list[str]


def split_labels(split: str, n: int) -> SplitLabels:
    """Ground truth of scenes 0..n-1, one row a scene."""
    names = sorted(glyphs())
    column = {name: i for i, name in enumerate(names)}
    labels = np.zeros((n, len(names)), bool)
    for i in range(n):
        labels[i, [column[o.name] for o in make_scene(WORLD_SEED, split, i).objects]] = True
    return SplitLabels(labels, names)


@torch.no_grad()
def encode_scenes(encode: Callable[[Tensor], tuple[Tensor, Tensor]], split: str, n: int) -> Encoded:
    """Features of scenes 0..n-1.

    `encode` takes normalised pixels [B, 3, 96, 96], gives CLS and patch tokens.
    """
    images, cls, tokens = rendered(split, n), [], []
    for i in range(0, n, 250):
        pixels = torch.from_numpy(np.array(images[i : i + 250])).permute(0, 3, 1, 2)
        some_cls, some_tokens = encode((pixels.float() / 255 - MEAN) / STD)
        cls.append(some_cls.float().cpu())
        if i < PATCH_SCENES:
            tokens.append(some_tokens.float().cpu())
    return Encoded(torch.cat(cls), torch.cat(tokens))


def fit_probe(x: Tensor, labels: np.ndarray, penalty: float = 1e-3) -> Callable[[Tensor], Tensor]:
    """One-vs-rest logistic regressions on standardised features [n, d], fitted together with an L2 penalty.

    Returns the function from features [m, d] to scores [m, C].
    """
    mean, std = x.mean(0), x.std(0) + 1e-6
    x = (x - mean) / std
    y = torch.from_numpy(labels).float()
    rate = y.mean(0).clamp(1e-4, 1 - 1e-4)
    weight = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    bias = torch.log(rate / (1 - rate)).requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        fit = F.binary_cross_entropy_with_logits(x @ weight + bias, y) * y.shape[1]
        loss = fit + penalty * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda z: ((z - mean) / std) @ weight.detach() + bias.detach()


def probe_map(train: Tensor, train_labels: np.ndarray, test: Tensor, test_labels: np.ndarray) -> float:
    """Mean average precision of a linear probe, over the classes that occur in the test set."""
    return mean_ap(test_labels, fit_probe(train, train_labels)(test).numpy())


def mean_ap(labels: np.ndarray, scores: np.ndarray) -> float:
    """Mean average precision over the classes that occur in `labels` [n, C]."""
    present = labels.any(0)
    return float(average_precision_score(labels[:, present], scores[:, present], average="macro"))


def class_masks(split: str, index: int, names: list[str]) -> dict[int, np.ndarray]:
    """Class number -> visible pixels, bool [96, 96], for the classes of a scene that can be seen."""
    scene = make_scene(WORLD_SEED, split, index)
    masks = dict.fromkeys((names.index(obj.name) for obj in scene.objects), False)
    for obj, mask in zip(scene.objects, scene.masks().instances):
        masks[names.index(obj.name)] |= mask
    return {number: mask for number, mask in masks.items() if mask.any()}


def patch_ap(train: Tensor, test: Tensor, split: str, names: list[str]) -> float:
    """Mean pixel AP of a linear patch classifier, over all classes of all test scenes.

    It learns from patch tokens [n, 144, d] of training scenes which leaf class covers most of a patch. In a
    test scene the map of its scores for a class, 12 x 12 made 96 x 96, is held against that class's visible
    pixels. (Maps of the true cover of each patch would score .94.)
    """
    cover = np.zeros((len(train), GRID * GRID, len(names)), bool)
    for i in range(len(train)):
        for number, mask in class_masks("train", i, names).items():
            cover[i, :, number] = mask.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3)).ravel() >= 0.5
    cover = cover.reshape(-1, len(names))
    used = cover.any(1) | (np.arange(len(cover)) % 4 == 0)  # of the empty patches every fourth
    classify = fit_probe(train.flatten(0, 1)[torch.from_numpy(used)], cover[used])
    scores = []
    for i, tokens in enumerate(test):
        maps = classify(tokens).T.reshape(1, len(names), GRID, GRID)
        for number, mask in class_masks(split, i, names).items():
            heat = F.interpolate(maps[:, [number]], size=SIZE, mode="bilinear", align_corners=False)
            scores.append(average_precision_score(mask.ravel(), heat.numpy().ravel()))
    return float(np.mean(scores))


class Spread(NamedTuple):
    """How a cloud of features lies: directions in use, and the length of its mean over its deviation."""

    effective_rank: float  # exp of the entropy of the covariance's normalised spectrum
    mean_over_deviation: float


def spread(features: Tensor) -> Spread:
    """Spread of features [n, d], each scaled to length 1."""
    unit = F.normalize(features.double(), dim=1)
    centred = unit - unit.mean(0)
    shares = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=1e-12)
    shares = shares / shares.sum()
    deviation = centred.square().sum(1).mean().sqrt()
    return Spread(float((-shares * shares.log()).sum().exp()), float(unit.mean(0).norm() / deviation))


def retrieval_scores(image: Tensor, text: Tensor, split: str) -> dict[str, float]:
    """R@1 of images [n, d] and first captions [n, d] of the same scenes; what the best reader could get."""
    similarity = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    own = similarity.diagonal()
    scenes = [make_scene(WORLD_SEED, split, i) for i in range(len(image))]
    bound = readers_bound(scenes, [scene.captions()[0] for scene in scenes])
    image_to_text = float(((similarity >= own[:, None]).sum(1) == 1).float().mean())
    return {
        "image_to_text_r1": image_to_text,
        "text_to_image_r1": float(((similarity >= own[None, :]).sum(0) == 1).float().mean()),
        "bound_image_to_text_r1": bound.image_to_text,
        "bound_text_to_image_r1": bound.text_to_image,
        "share_of_bound": image_to_text / bound.image_to_text,
    }


def vision_scores(train: Encoded, test: Encoded, split: str, full: bool) -> dict[str, float]:
    """Scores of an image encoder; `full`: the patch classifier too, which takes a minute."""
    truth, seen = split_labels(split, len(test.cls)), split_labels("train", len(train.cls))
    scores = {"probe_map": probe_map(train.cls, seen.labels, test.cls, truth.labels)}
    if full:
        scores["patch_ap"] = patch_ap(train.tokens, test.tokens, split, truth.names)
    shape = spread(train.cls)
    return scores | {"rank": shape.effective_rank, "mean_over_deviation": shape.mean_over_deviation}


@torch.no_grad()
def clip_scores(
    model: open_clip.CLIP, tokenizer: PreTrainedTokenizerBase, split: str, n: int, n_train: int, full: bool
) -> dict[str, float]:
    """The card's numbers for a CLIP on scenes 0..n-1 of a split.

    Probes are fitted on n_train training scenes.

    Not `full`: quick, for the log; in bfloat16, without the patch classifier.
    """
    model.eval()
    device = model.logit_scale.device
    precision = nullcontext if full else partial(autocast, device)

    def encode(pixels: Tensor) -> tuple[Tensor, Tensor]:
        settings = {"indices": 1, "normalize_intermediates": True, "output_fmt": "NLC"}
        with precision():
            out = model.visual.forward_intermediates(pixels.to(device), **settings)
        return out["image_features"], out["image_intermediates"][0]

    def encode_text(texts: list[str]) -> Tensor:
        length = model.context_length
        ids = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        with precision():
            chunks = [
                model.encode_text(some.to(device)).float().cpu() for some in ids["input_ids"].split(250)
            ]
        return torch.cat(chunks)

    def captions(of_split: str, count: int) -> list[str]:
        return [make_scene(WORLD_SEED, of_split, i).captions()[0].text for i in range(count)]

    train, test = encode_scenes(encode, "train", n_train), encode_scenes(encode, split, n)
    truth = split_labels(split, n)
    prompts = encode_text([f"In this image there is a {nouns()[name]}." for name in truth.names])
    zero_shot = F.normalize(test.cls, dim=1) @ F.normalize(prompts, dim=1).T
    text_shape = spread(encode_text(captions("train", n_train)))
    return {
        **retrieval_scores(test.cls, encode_text(captions(split, n)), split),
        "zero_shot_map": mean_ap(truth.labels, zero_shot.numpy()),
        **vision_scores(train, test, split, full),
        "text_rank": text_shape.effective_rank,
        "text_mean_over_deviation": text_shape.mean_over_deviation,
    }


@torch.no_grad()
def dino_scores(
    model: Dinov2WithRegistersModel, split: str, n: int, n_train: int, full: bool
) -> dict[str, float]:
    """The card's numbers for a DINO, as `clip_scores` gives them for a CLIP."""
    model.eval()

    def encode(pixels: Tensor) -> tuple[Tensor, Tensor]:
        with nullcontext() if full else autocast(model.device):
            hidden = model(pixels.to(model.device)).last_hidden_state
        return hidden[:, 0], hidden[:, -GRID * GRID :]

    train, test = encode_scenes(encode, "train", n_train), encode_scenes(encode, split, n)
    return vision_scores(train, test, split, full)
