"""Exercises of notebook 09."""

import numpy as np

from sparc_lib.claims.verdicts import Sample, compare
from sparc_lib.notebook.exercises import Exercise, choice, number


def _judge_chance(answer):
    return number(
        0.10,
        0.005,
        "List the 20 ways in which six values, three of each kind, can be ordered, and count those in which "
        "all of one kind stand above all of the other.",
        {0.05: "That is one direction. Two equal quantities can be told apart either way."},
    )(answer)


def _judge_rule(answer):
    draw = np.random.default_rng(0)
    for _ in range(200):
        left, right, margin = draw.random(3), draw.random(3) + 0.3 * draw.standard_normal(), draw.random() / 5
        wanted = compare(Sample.of(list(left)), "above", Sample.of(list(right)), margin)
        got = answer(list(left), list(right), margin)
        if got not in ("shown", "contrary", "open"):
            return f"It returned {got!r}; return 'shown', 'contrary' or 'open'."
        if got != wanted:
            side = {"shown": "even its lowest seed", "contrary": "not even its highest seed"}.get(wanted)
            if side:
                return f"It said {got!r} where, by the rule, {side} is above the other sample by the margin."
            return f"It said {got!r} where the seeds overlap."
    return None


EXERCISES = {
    1: Exercise(
        judge=_judge_chance,
        solution="""
        from itertools import combinations

        places = list(combinations(range(6), 3))  # where the three seeds of one quantity may stand
        apart = [own for own in places if own in ((0, 1, 2), (3, 4, 5))]
        answer = len(apart) / len(places)
        """,
        wrong=("answer = 0.05", "answer = 1 / 4", "answer = 0.5"),
        remark="One test in ten errs on equal quantities: of a hundred tests, expect some.",
    ),
    2: Exercise(
        judge=_judge_rule,
        solution="""
        def answer(left, right, margin):
            if min(left) - max(right) > margin:
                return "shown"
            if max(left) - min(right) <= margin:
                return "contrary"
            return "open"
        """,
        wrong=(
            """
            def answer(left, right, margin):
                return "shown" if sum(left) / 3 - sum(right) / 3 > margin else "contrary"
            """,
            """
            def answer(left, right, margin):
                if min(left) > max(right):
                    return "shown"
                return "contrary" if max(left) < min(right) else "open"
            """,
            "answer = lambda left, right, margin: True",
        ),
    ),
    3: Exercise(
        judge=choice(
            "forced",
            {
                "holds": "The conditions are met, but look at what the untrained model does.",
                "in part": "That is for claims of which some condition fails. Here all conditions are met.",
                "open": "Nothing overlaps here: the control's contrary is shown.",
                "does not hold": "The sentence is true as it stands.",
            },
        ),
        solution='answer = "forced"',
        wrong=('answer = "holds"', 'answer = "in part"', 'answer = "does not hold"'),
        remark="A model that learned nothing has the property too, so having it is no evidence of learning.",
    ),
}
