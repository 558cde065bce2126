"""Downstream multi-label classification: a 2-layer MLP on features, codes or reconstructions; mAP.

Inputs are asked for a batch at a time, so codes stay sparse and reconstructions unmade outside of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from ..alignment import as_csr
from .representations import Inputs


@dataclass(frozen=True)
class ClassifierSpec:
    """Of the MLP dim -> hidden -> classes. It sees train `epochs` times, more often where that makes fewer than
    min_steps steps: sparse codes are learned faster than dense features, so too few steps would favour them.
    lr: peak of a cosine schedule (Adam with weight decay)."""

    hidden: int = 128
    epochs: int = 6
    min_steps: int = 150
    batch_size: int = 512
    lr: float = 1e-2
    weight_decay: float = 1e-2
    dropout: float = 0.2


class Classified(NamedTuple):
    """average_precision [C] of every class on the test samples, NaN for a class without a positive there; mean_ap:
    their mean (mAP). chance: mAP of scores that know nothing, the mean share of positives."""

    average_precision: np.ndarray
    mean_ap: float
    chance: float


def classify(
    train: Inputs,
    train_labels,
    test: Inputs,
    test_labels,
    spec: ClassifierSpec = ClassifierSpec(),
    seed: int = 0,
    device: str = "cpu",
) -> Classified:
    """Fit a 2-layer MLP on train and score it on test.

    labels: bool [n, C], sparse or dense. Inputs are scaled by the mean and deviation of each dimension over (at
    most 8,192 of the) train samples. seed: of the weights, the order of samples and dropout.
    Raises ValueError for sizes that disagree or no class with both positives and negatives in test.
    """
    train_labels, test_labels = as_csr(train_labels, "train_labels"), as_csr(test_labels, "test_labels")
    for name, inputs, labels in (("train", train, train_labels), ("test", test, test_labels)):
        if len(inputs) != labels.shape[0]:
            raise ValueError(f"{name}: {len(inputs)} samples but {labels.shape[0]} rows of labels")
    if train.dim != test.dim or train_labels.shape[1] != test_labels.shape[1]:
        raise ValueError(
            f"train has {train.dim} dimensions and {train_labels.shape[1]} classes, test {test.dim} and "
            f"{test_labels.shape[1]}; they must be alike"
        )
    draw = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[device] if "cuda" in str(device) else []):
        torch.manual_seed(seed)
        model = _fit(train, train_labels, spec, draw, device)
        scores = _scores(model, test, spec.batch_size, device)
    return _average_precision(scores, test_labels.toarray().astype(bool))


def _fit(
    train: Inputs, labels: sp.csr_array, spec: ClassifierSpec, draw: np.random.Generator, device
) -> nn.Module:
    model = nn.Sequential(
        _Scaled(train, draw),
        nn.Linear(train.dim, spec.hidden),
        nn.ReLU(),
        nn.Dropout(spec.dropout),
        nn.Linear(spec.hidden, labels.shape[1]),
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)
    per_epoch = -(-len(train) // spec.batch_size)
    epochs = max(spec.epochs, -(-spec.min_steps // per_epoch))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * per_epoch)
    for _ in range(epochs):
        order = draw.permutation(len(train))
        for start in range(0, len(train), spec.batch_size):
            rows = np.sort(order[start : start + spec.batch_size])  # sorted: kinder to a memory map
            target = torch.from_numpy(labels[rows].toarray().astype(np.float32)).to(device)
            loss = nn.functional.binary_cross_entropy_with_logits(model(train.batch(rows).to(device)), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


class _Scaled(nn.Module):
    """Every dimension to mean 0 and deviation 1; those that never vary to 0."""

    def __init__(self, train: Inputs, draw: np.random.Generator):
        super().__init__()
        sample = train.batch(np.sort(draw.permutation(len(train))[:8192]))
        deviation = sample.std(0, correction=0)
        self.register_buffer("mean", sample.mean(0))
        self.register_buffer("factor", torch.where(deviation > 1e-6, 1 / deviation, torch.zeros(())))

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) * self.factor).clamp(-10, 10)  # a rare latent may be hundreds of deviations


@torch.no_grad()
def _scores(model: nn.Module, test: Inputs, batch_size: int, device) -> np.ndarray:
    parts = np.array_split(np.arange(len(test)), max(1, len(test) // batch_size))
    return np.concatenate([model(test.batch(rows).to(device)).cpu().numpy() for rows in parts])


def _average_precision(scores: np.ndarray, positive: np.ndarray) -> Classified:
    usable = positive.any(0) & ~positive.all(0)
    if not usable.any():
        raise ValueError(f"test_labels: none of {positive.shape[1]} classes has both positives and negatives")
    found = np.full(positive.shape[1], np.nan)
    found[usable] = average_precision_score(positive[:, usable], scores[:, usable], average=None)
    return Classified(found, float(np.nanmean(found)), float(positive[:, usable].mean()))
