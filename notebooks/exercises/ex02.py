"""Exercises of notebook 02: the gate, NMSE beside FVU, a vote that nobody can shout down."""

import numpy as np
import pandas as pd
import torch

from sparc_lib import paths
from sparc_lib.gates import shared_choice
from sparc_lib.notebook.exercises import Exercise

STREAMS = ("dino", "clip_img", "clip_txt")


def drawn(seed: int, scale: tuple[float, float, float] = (1, 1, 1)) -> dict[str, torch.Tensor]:
    """Pre-activations of 16 samples and 40 latents, {stream: [16, 40]}."""
    draw = torch.Generator().manual_seed(seed)
    return {stream: size * torch.randn(16, 40, generator=draw) for stream, size in zip(STREAMS, scale)}


def judge_codes(codes) -> str | None:
    for seed in range(3):
        h = drawn(seed)
        results = codes({stream: v.clone() for stream, v in h.items()}, 5)
        chosen = shared_choice(h, 5)
        for stream, v in h.items():
            got = results[stream]
            if got.shape != v.shape:
                return f"The code of {stream} has shape {tuple(got.shape)}, not that of its pre-activations."
            if (got < 0).any():
                return "A code is never negative: what does ReLU do with a chosen latent below 0?"
            expected = torch.zeros_like(v).scatter(1, chosen, v.gather(1, chosen).relu())
            if not torch.equal(got > 0, expected > 0):
                return "Other latents are active than those the streams elect together by their summed votes."
            if not torch.allclose(got, expected):
                return "The right latents, but other values: each stream keeps its own pre-activations."
    return None


def judge_length(answer) -> str | None:
    scores = pd.read_csv(paths.REPO / "results/mini/02_scores.csv")
    rows = scores[(scores.run == "trained") & (scores.target == "dino")]
    means = rows.groupby("metric").value.mean()
    ratio = means["nmse"] / means["fvu"]
    value = float(answer)
    if abs(value - np.sqrt(1 - ratio)) < 0.01:
        return None
    if abs(value - ratio) < 0.01:
        return "That is what NMSE and FVU differ by. How does the mean's length enter it?"
    if abs(value - (1 - ratio)) < 0.01:
        return "Nearly: is that a length or a squared length?"
    return (
        "Divide the NMSE by the FVU, for the trained runs whose target is DINO. What is left of the length?"
    )


def judge_vote(vote) -> str | None:
    for seed in range(3):
        plain = drawn(seed)
        plain = {stream: (v - v.mean()) / v.std() for stream, v in plain.items()}
        if not same(vote(plain, 5), shared_choice(plain, 5)):
            return "Where all streams are equally loud, the outcome must be that of the plain vote."
        loud = {stream: size * v for (stream, v), size in zip(plain.items(), (10, 1, 0.1))}
        if not same(vote(loud, 5), shared_choice(plain, 5)):
            return "One stream made ten times as loud, and another outcome: its scale still counts."
    return None


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether both choose the same latents for every sample, in any order."""
    return one.shape == other.shape and torch.equal(one.sort(1).values, other.sort(1).values)


EXERCISES = {
    1: Exercise(
        judge_codes,
        """
import torch

def codes(h, k):
    chosen = sum(h.values()).topk(k, dim=1).indices
    return {s: torch.zeros_like(v).scatter(1, chosen, v.gather(1, chosen).relu()) for s, v in h.items()}

answer = codes
""",
        (
            """
import torch

def answer(h, k):
    chosen = sum(h.values()).topk(k, dim=1).indices
    return {s: torch.zeros_like(v).scatter(1, chosen, v.gather(1, chosen)) for s, v in h.items()}
""",
            """
import torch

def answer(h, k):
    return {s: torch.zeros_like(v).scatter(1, *reversed(v.topk(k, dim=1))).relu() for s, v in h.items()}
""",
            """
import torch

def answer(h, k):
    chosen = sum(v.relu() for v in h.values()).topk(k, dim=1).indices
    return {s: torch.zeros_like(v).scatter(1, chosen, v.gather(1, chosen).relu()) for s, v in h.items()}
""",
        ),
        "One vote, and a ReLU for each stream.",
    ),
    2: Exercise(
        judge_length,
        """
import pandas as pd
from sparc_lib import paths

scores = pd.read_csv(paths.REPO / "results/mini/02_scores.csv")
rows = scores[(scores.run == "trained") & (scores.target == "dino")]
means = rows.groupby("metric").value.mean()
answer = (1 - means["nmse"] / means["fvu"]) ** 0.5
""",
        (
            """
import pandas as pd
from sparc_lib import paths

scores = pd.read_csv(paths.REPO / "results/mini/02_scores.csv")
means = scores[(scores.run == "trained") & (scores.target == "dino")].groupby("metric").value.mean()
answer = means["nmse"] / means["fvu"]
""",
            """
import pandas as pd
from sparc_lib import paths

scores = pd.read_csv(paths.REPO / "results/mini/02_scores.csv")
means = scores[(scores.run == "trained") & (scores.target == "dino")].groupby("metric").value.mean()
answer = 1 - means["nmse"] / means["fvu"]
""",
            "answer = 1.0",
        ),
        "The longer the mean, the cheaper a low NMSE.",
    ),
    3: Exercise(
        judge_vote,
        """
def fair_vote(h, k):
    equal = {s: (v - v.mean()) / v.std() for s, v in h.items()}
    return sum(equal.values()).topk(k, dim=1).indices

answer = fair_vote
""",
        (
            """
def answer(h, k):
    return sum(h.values()).topk(k, dim=1).indices
""",
            """
def answer(h, k):
    return sum(v - v.mean() for v in h.values()).topk(k, dim=1).indices
""",
            """
def answer(h, k):
    return sum((v > 0).double() for v in h.values()).topk(k, dim=1).indices
""",
        ),
        "Every stream has one vote of the same weight.",
    ),
}
