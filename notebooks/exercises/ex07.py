"""Exercises of notebook 07: contrast by hand, what the absolute threshold lets pass, weights by lift."""

import numpy as np
import scipy.sparse as sp

from sparc_lib.attribution.segmentation import contrast
from sparc_lib.notebook.exercises import Exercise, number
from sparc_lib.studies.monopoly import capped


def judge_contrast(answer):
    """Compare the student's contrast with the library's on random maps and parts."""
    draw = np.random.default_rng(0)
    for _ in range(5):
        heat = draw.random((2, 4, 4)) * np.array([1.0, 5.0])[:, None, None]
        where = draw.integers(0, 3, (4, 4))
        masks = np.stack([where == 0, where == 1])
        (wanted,) = contrast(heat, masks.astype(float), [(0, 1)])
        value = float(answer(heat[0].copy(), heat[1].copy(), masks[0], masks[1]))
        if abs(value - wanted) < 1e-9:
            continue
        if abs(value - (wanted + 1) / 2) < 1e-9:
            return "That is the chance to be right, between 0 and 1. On which scale is 0 blind?"
        if abs(value + wanted) < 1e-9:
            return "Look at the sign: the first caption's map should win on the first part."
        (undivided,) = contrast(_equal_sums(heat), masks.astype(float), [(0, 1)])
        if abs(value - undivided) < 1e-9:
            return "One of my two maps is five times as bright as the other. Should that count?"
        return "Compare every pixel of a with every pixel of b, in the difference of the two maps."
    return None


def _equal_sums(heat):
    """Maps whose difference is that of `heat` as it is, though each is divided by its sum."""
    return heat + ((heat.sum((1, 2)).max() - heat.sum((1, 2))) / heat[0].size)[:, None, None]


def judge_lift(answer):
    """Compare the student's weights with those of `capped` without a cap."""
    draw = np.random.default_rng(0)
    for _ in range(3):
        shows = draw.random((300, 4)) < np.array([0.5, 0.2, 0.1, 0.05])
        fires = draw.random((300, 6)) < np.where(shows[:, [0, 1, 2, 3, 0, 1]], 0.6, 0.2)
        wanted = capped(sp.csr_matrix(fires * 1.0), sp.csr_array(shows), 6)
        weights = np.asarray(answer(fires.copy(), shows.copy()), float)
        if weights.shape != wanted.shape:
            return "Return a weight for every class and latent, [n_classes, n_latents]."
        if np.allclose(weights, wanted):
            continue
        if np.allclose(weights, wanted * np.log(2)):
            return "The natural logarithm counts in nats. The weights of section 5 are in bits."
        if np.allclose(weights, -wanted):
            return "Look at the sign: a latent that speaks for a class weighs more than 0."
        both = shows.T.astype(float) @ fires
        base = shows.mean(0)[:, None]
        raw = np.log2(np.maximum(both / fires.sum(0) / base, 1e-12))
        if np.allclose(weights, raw):
            return (
                "Right for very many samples. Add the prior: ten firings more, at the base rate of the class."
            )
        return "Divide the share of the class among the samples that a latent fires on by its base rate."
    return None


EXERCISES = {
    1: Exercise(
        judge=judge_contrast,
        solution="""
            import numpy as np

            def answer(heat_a, heat_b, a, b):
                difference = heat_a / heat_a.sum() - heat_b / heat_b.sum()
                return np.sign(difference[a][:, None] - difference[b][None]).mean()
        """,
        wrong=(
            """
            import numpy as np

            def answer(heat_a, heat_b, a, b):
                difference = heat_a - heat_b
                return np.sign(difference[a][:, None] - difference[b][None]).mean()
            """,
            """
            import numpy as np

            def answer(heat_a, heat_b, a, b):
                difference = heat_a / heat_a.sum() - heat_b / heat_b.sum()
                return (difference[a][:, None] > difference[b][None]).mean()
            """,
            """
            import numpy as np

            def answer(heat_a, heat_b, a, b):
                return np.sign(heat_a[a][:, None] - heat_a[b][None]).mean()
            """,
        ),
        remark="A map that is blind to the caption leaves no difference, and so a contrast of 0.",
    ),
    2: Exercise(
        judge=number(
            1000,
            1,
            "How many of the class's samples does a latent fire on that knows nothing of the class?",
            {50: "That is the threshold, in firings. How many samples does it take to collect as many?"},
        ),
        solution="answer = 50 / 0.05",
        wrong=("answer = 50 * 0.05", "answer = 50", "answer = 50 / 0.95"),
        remark="Every class with more samples gets this latent, whatever the latent means.",
    ),
    3: Exercise(
        judge=judge_lift,
        solution="""
            import numpy as np

            def answer(fires, shows):
                both = shows.T.astype(float) @ fires
                base = shows.mean(0)[:, None]
                share = (both + 10 * base) / (fires.sum(0) + 10)
                return np.log2(share / base)
        """,
        wrong=(
            """
            import numpy as np

            def answer(fires, shows):
                both = shows.T.astype(float) @ fires
                return np.log2(np.maximum(both / fires.sum(0) / shows.mean(0)[:, None], 1e-12))
            """,
            """
            import numpy as np

            def answer(fires, shows):
                both = shows.T.astype(float) @ fires
                base = shows.mean(0)[:, None]
                return np.log((both + 10 * base) / (fires.sum(0) + 10) / base)
            """,
            """
            def answer(fires, shows):
                return shows.T.astype(float) @ fires
            """,
        ),
        remark="Counting firings favours common classes; dividing by the base rate takes that away.",
    ),
}
