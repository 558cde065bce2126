"""Downstream classification of a profile: which representation keeps what a 2-layer MLP needs? mAP.

Inputs are asked for a batch at a time, so codes stay sparse and reconstructions unmade outside of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..model import SPARC
from ..profiles import Profile
from .representations import Case, Inputs, Split, code_splits, raw_splits
from .runs import best_device
from .tables import Run, Stores, table

REBUILT = "reconstructions"  # what the first setting and seed are classified by as well
SAMPLE = 8192  # training samples that scale the inputs


def classification_table(profile: Profile, spec: ClassifierSpec | None = None) -> pd.DataFrame:
    """`Case`s with mean_ap and chance, fitted on train and scored on test pairs; computed on first use.

    In front the columns model, setting ("raw" for features) and seed. Independent codes throughout. The codes
    of the first setting have every seed, raw features too (of the classifier). For the first seed there are
    the reconstructions of the first setting, the codes of the other settings, of an untrained model and of
    random-weight encoders, and the raw features of these. spec: without one, the usual, with the profile's
    least number of steps if it names one.
    """
    steps = profile.evaluation.classifier_steps
    if spec is None:
        spec = ClassifierSpec(min_steps=steps) if steps else USUAL
    headline, others = profile.settings[0], profile.settings[1:]
    first = profile.seeds[0]
    runs = [Run("trained", headline, seed, (REBUILT,) if seed == first else ()) for seed in profile.seeds]
    runs += [Run("trained", setting, first) for setting in others]
    runs += [Run("untrained", headline, first), Run("random encoders", headline, first)]
    runs += [Run("trained", None, seed) for seed in profile.seeds]
    runs.append(Run("random encoders", None, first))
    return table("classification", profile, runs, partial(_measure, spec), spec)


def _measure(spec: ClassifierSpec, model: SPARC | None, stores: Stores, run: Run) -> pd.DataFrame:
    cases = raw_splits(stores)
    if model is not None:
        own = [(stream, stream) for stream in model.streams]
        rebuilt = [*own, *permutations(model.streams, 2)] if REBUILT in run.also else ()
        cases = code_splits(model, stores, rebuilt)
    rows = []
    for case, splits in cases:
        result = classify(splits["train"], splits["test"], spec, run.seed, best_device())
        rows.append((*case, result.mean_ap, result.chance))
    return pd.DataFrame(rows, columns=[*Case._fields, "mean_ap", "chance"])


@dataclass(frozen=True)
class ClassifierSpec:
    """Of the MLP dim -> hidden -> classes. It sees train `epochs` times, more often where that makes fewer
    than min_steps steps: sparse codes are learned faster than dense features, and few steps favour them.
    lr: peak of a cosine schedule (Adam with weight decay)."""

    hidden: int = 128
    epochs: int = 6
    min_steps: int = 150
    batch_size: int = 512
    lr: float = 1e-2
    weight_decay: float = 1e-2
    dropout: float = 0.2


USUAL = ClassifierSpec()


class Classified(NamedTuple):
    """average_precision [C] of every class on the test samples, NaN for a class without a positive there;
    mean_ap: their mean (mAP). chance: mAP of scores that know nothing, the mean share of positives."""

    average_precision: np.ndarray
    mean_ap: float
    chance: float


def classify(
    train: Split, test: Split, spec: ClassifierSpec = USUAL, seed: int = 0, device: str = "cpu"
) -> Classified:
    """Fit a 2-layer MLP on train and score it on test.

    Inputs are scaled by the mean and deviation of each dimension over (at most `SAMPLE` of the) train
    samples. seed: of the weights, the order of samples and dropout. Raises ValueError for sizes that disagree
    or no class with both positives and negatives in test.
    """
    sizes = {}
    for name, (inputs, labels) in (("train", train), ("test", test)):
        if len(inputs) != labels.shape[0]:
            raise ValueError(f"{name}: {len(inputs)} samples but {labels.shape[0]} rows of labels")
        sizes[name] = f"{inputs.dim} dimensions and {labels.shape[1]} classes"
    if sizes["train"] != sizes["test"]:
        raise ValueError(f"train has {sizes['train']}, test {sizes['test']}; they must be alike")
    draw = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[device] if "cuda" in str(device) else []):
        torch.manual_seed(seed)
        model = _fit(train, spec, draw, device)
        scores = _scores(model, test.inputs, spec.batch_size, device)
    return _average_precision(scores, test.labels.toarray().astype(bool))


def _fit(split: Split, spec: ClassifierSpec, draw: np.random.Generator, device: str) -> nn.Module:
    train, labels = split
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
        sample = train.batch(np.sort(draw.permutation(len(train))[:SAMPLE]))
        deviation = sample.std(0, correction=0)
        self.register_buffer("mean", sample.mean(0))
        self.register_buffer("factor", torch.where(deviation > 1e-6, 1 / deviation, torch.zeros(())))

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) * self.factor).clamp(-10, 10)  # a rare latent may be hundreds of deviations


@torch.no_grad()
def _scores(model: nn.Module, test: Inputs, batch_size: int, device: str) -> np.ndarray:
    parts = np.array_split(np.arange(len(test)), max(1, len(test) // batch_size))
    return np.concatenate([model(test.batch(rows).to(device)).cpu().numpy() for rows in parts])


def _average_precision(scores: np.ndarray, positive: np.ndarray) -> Classified:
    from sklearn.metrics import average_precision_score  # takes a second to import

    usable = positive.any(0) & ~positive.all(0)
    if not usable.any():
        raise ValueError(f"test_labels: none of {positive.shape[1]} classes has both positives and negatives")
    precisions = np.full(positive.shape[1], np.nan)
    precisions[usable] = average_precision_score(positive[:, usable], scores[:, usable], average=None)
    return Classified(precisions, float(np.nanmean(precisions)), float(positive[:, usable].mean()))
