"""Exercises of notebook 03: what NMSE hides, trends by chance, latents that three gates use together."""

from itertools import permutations

import numpy as np
import pandas as pd

from sparc_lib import paths
from sparc_lib.notebook.exercises import Exercise, number
from sparc_lib.studies.ablations import trend


def judge_untrained(answer):
    """Compare with the committed table of the sweep."""
    runs = pd.read_csv(paths.REPO / "results/mini/03_runs.csv")
    runs = runs.query("model == 'untrained' and gate == 'global' and coding == 'joint' and k == 10")
    means = runs[runs.n_latents == 512].groupby("metric").value.mean()
    hints = {
        means.cross_nmse: "That is the NMSE, which credits the mean. Take the FVU.",
        means.self_fvu: "That is a stream rebuilt from its own code. Take the other streams.",
    }
    hint = "Which rows? model, gate, coding, k, n_latents, metric: six choices, then the mean over pairs."
    return number(means.cross_fvu, 0.005, hint, hints)(answer)


def by_chance():
    """Share of all orders of five values whose rank correlation with 1 ... 5 is at least 0.7 in size."""
    return np.mean([abs(trend(range(5), order)) >= 0.7 - 1e-9 for order in permutations(range(5))])


def judge_distinct(answer):
    """Compare the student's expectation with draws."""
    draw = np.random.default_rng(0)
    for n_latents, k, streams in ((8, 4, 3), (40, 10, 2), (20, 1, 5)):
        distinct = []
        for _ in range(4000):
            chosen = [draw.choice(n_latents, k, replace=False) for _ in range(streams)]
            distinct.append(len(np.unique(chosen)))
        expected, value = np.mean(distinct), float(answer(n_latents, k, streams))
        if value > n_latents:
            return "There are not so many latents. What if two streams choose the same one?"
        if abs(value - expected) > 0.1:
            return f"For L = {n_latents}, k = {k} and {streams} streams it is not what draws give."
    return None


EXERCISES = {
    1: Exercise(
        judge=judge_untrained,
        solution="""
            import pandas as pd
            from sparc_lib import paths

            runs = pd.read_csv(paths.REPO / "results/mini/03_runs.csv")
            runs = runs.query("model == 'untrained' and gate == 'global' and coding == 'joint'")
            runs = runs.query("k == 10 and n_latents == 512 and metric == 'cross_fvu'")
            answer = runs.value.mean()
        """,
        wrong=("answer = 0.924017", "answer = 1.057", "answer = 1.45331"),
        remark="Better than nothing by NMSE, worse than the mean by FVU.",
    ),
    2: Exercise(
        judge=number(
            by_chance(),
            0.005,
            "Go through all orders of five values. Does a falling trend count as well?",
            {
                2
                / 120: "Only two orders rise or fall all the way. A correlation of 0.7 allows some disorder.",
                by_chance() / 2: "A trend that falls is a trend as well.",
            },
        ),
        solution="""
            from itertools import permutations
            from sparc_lib.studies.ablations import trend

            orders = list(permutations(range(5)))
            answer = sum(abs(trend(range(5), order)) >= 0.7 - 1e-9 for order in orders) / len(orders)
        """,
        wrong=("answer = 2 / 120", "answer = 14 / 120", "answer = 0.05"),
        remark="With three seeds that must agree in sign it is 1 in 315.",
    ),
    3: Exercise(
        judge=judge_distinct,
        solution="""
            def answer(n_latents, k, streams):
                chosen_by_none = (1 - k / n_latents) ** streams
                return n_latents * (1 - chosen_by_none)
        """,
        wrong=(
            """
            def answer(n_latents, k, streams):
                return k * streams
            """,
            """
            def answer(n_latents, k, streams):
                return min(k * streams, n_latents)
            """,
            """
            def answer(n_latents, k, streams):
                return k
            """,
        ),
        remark="With L = 512, k = 10 and three streams: 29.4 latents a sample, where the shared gate has 10.",
    ),
}
