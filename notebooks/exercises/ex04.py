"""Exercises of notebook 04: the leak on noise, a class out of place, agreement without firing rates."""

import numpy as np

from sparc_lib.notebook.exercises import Exercise, number


def judge_leak(answer) -> str | None:
    joint, independent = (float(value) for value in answer)
    if joint < 0.5 <= independent:
        return "Which of the two codings lets the caption's gate see the image? Give that one first."
    if independent > 0.02:
        return "With independent codes noise has nothing in common with noise: what does guessing score?"
    if joint < 0.9:
        return "With joint codes caption and image use the same latents. Were both encoded in one call?"
    return None


def judge_profile(jaccard) -> str | None:
    draw = np.random.default_rng(0)
    for _ in range(5):
        a = draw.integers(1, 50, 8)
        if not np.isclose(jaccard(a, 3 * a), 1):
            return "The same profile, three times as often: that ought to be full agreement."
        b = draw.integers(1, 50, 8)
        one, other = a / a.sum(), b / b.sum()
        if not np.isclose(jaccard(a, b), np.minimum(one, other).sum() / np.maximum(one, other).sum()):
            return "Divide the counts before you compare them, not the score afterwards."
    return None


EXERCISES = {
    1: Exercise(
        judge_leak,
        """
import torch
from sparc_lib import SPARC
from sparc_lib.evaluation import encode_store
from sparc_lib.retrieval import retrieval_metrics

draw = torch.Generator().manual_seed(0)
dims = {"dino": 128, "clip_img": 128, "clip_txt": 128}
noise = {s: torch.randn(1000, d, generator=draw) for s, d in dims.items()}
model = SPARC(dims, 1024, 16, generator=draw)
recall = {}
for coding in ("joint", "independent"):
    z = encode_store(model, noise, coding)
    recall[coding] = retrieval_metrics(z["clip_txt"], z["clip_img"]).recall[1]
answer = recall["joint"], recall["independent"]
""",
        ("answer = 0.001, 0.98", "answer = 0.98, 0.95", "answer = 0.001, 0.001"),
        "Nothing was learned and nothing is shared, and yet nearly every partner is found by joint codes.",
    ),
    2: Exercise(
        number(
            601,
            0,
            "Write down three names and their file order: which columns keep their own code?",
            {
                1: "That class is only the first. What happens to the place of all others?",
                2: "No two classes change places: one goes to the end, and the others move up.",
            },
        ),
        """
by_name = list(range(601))
in_file = by_name[1:] + by_name[:1]
answer = sum(column != code for column, code in zip(by_name, in_file))
""",
        ("answer = 1", "answer = 2", "answer = 600"),
        "One class out of place, and every column is wrong; with the real file 600 of 601 are.",
    ),
    3: Exercise(
        judge_profile,
        """
import numpy as np

def profile_jaccard(a, b):
    a, b = a / a.sum(), b / b.sum()
    return np.minimum(a, b).sum() / np.maximum(a, b).sum()

answer = profile_jaccard
""",
        (
            """
import numpy as np

def answer(a, b):
    return np.minimum(a, b).sum() / np.maximum(a, b).sum()
""",
            """
import numpy as np

def answer(a, b):
    ceiling = min(a.sum(), b.sum()) / max(a.sum(), b.sum())
    return np.minimum(a, b).sum() / np.maximum(a, b).sum() / ceiling
""",
        ),
        "Only what a latent fires on counts now, not how often.",
    ),
}
