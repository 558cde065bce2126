"""Exercises of notebook 01: a ceiling by counting, the effective rank, a fair chance level for a probe."""

import torch

from sparc_lib.notebook.exercises import Exercise, number
from sparc_lib.notebook.features import effective_rank


def judge_rank(answer):
    """Compare the student's effective rank with the library's on random features that share a mean."""
    draw = torch.Generator().manual_seed(0)
    for scales in (torch.ones(6), torch.tensor([3.0, 1.0, 1.0, 0.3, 0.1, 0.1])):
        x = (torch.randn(400, 6, generator=draw) * scales).double() + 2.0
        variances = torch.linalg.svdvals(x - x.mean(0)).square()
        expected = effective_rank((variances / variances.sum()).numpy())
        value = float(answer(x.clone()))
        if not 1 - 1e-9 <= value <= 6 + 1e-9:
            return "An effective rank lies between 1 and the number of dimensions."
        if abs(value - expected) > 1e-3:
            return "Not the library's value. Are the features centred? Are these variances? Which logarithm?"
    return None


EXERCISES = {
    1: Exercise(
        judge=number(
            (2814 + 1186) / 5186,
            0.003,
            "Count pairs, not scenes: how many pairs have a rival, and how often are they found first?",
            {
                0.5: "That is for a scene with two captions; most scenes have one.",
                (2814 + 593) / 4000: "That is per scene. Every pair is a query of its own.",
            },
        ),
        solution="""
            alone, rivals = 4000 - 1186, 2 * 1186      # pairs of scenes with one caption, and with two
            answer = (alone * 1 + rivals * 0.5) / 5186
        """,
        wrong=("answer = 0.5", "answer = (2814 + 1186 * 0.5) / 4000", "answer = 1.0"),
        remark="Two captions of one scene cost an encoder that cannot tell them apart .23 of its R@1.",
    ),
    2: Exercise(
        judge=judge_rank,
        solution="""
            import torch

            def answer(x):
                variance = torch.linalg.svdvals(x - x.mean(0)).square()
                p = variance / variance.sum()
                return torch.exp(-(p * p.log()).sum())
        """,
        wrong=(
            """
            import torch

            def answer(x):
                variance = torch.linalg.svdvals(x).square()
                p = variance / variance.sum()
                return torch.exp(-(p * p.log()).sum())
            """,
            """
            import torch

            def answer(x):
                p = torch.linalg.svdvals(x - x.mean(0))
                p = p / p.sum()
                return torch.exp(-(p * p.log()).sum())
            """,
            """
            import torch

            def answer(x):
                variance = torch.linalg.svdvals(x - x.mean(0)).square()
                p = variance / variance.sum()
                return -(p * p.log()).sum()
            """,
        ),
    ),
    3: Exercise(
        judge=number(
            0.0599,
            0.004,
            "Not what the background tells. Are frequencies those of training pairs, and is the score the "
            "mean of average precisions over the classes that occur?",
            {0.016: "That is the mean class frequency: the background has told you nothing yet."},
        ),
        solution="""
            import numpy as np
            from sklearn.metrics import average_precision_score
            from sparc_lib.data.drawn import DrawnDataset

            train, test = DrawnDataset("train", 1500), DrawnDataset("test", 500)
            where = {}
            for name, data in (("train", train), ("test", test)):
                where[name] = np.array([data.facts(row).scene.background for row in range(len(data))])
            labels, truth = train.labels.toarray(), test.labels.toarray()
            frequency = {place: labels[where["train"] == place].mean(0) for place in set(where["train"])}
            scores = np.stack([frequency[place] for place in where["test"]])
            occurs = truth.any(0)
            answer = average_precision_score(truth[:, occurs], scores[:, occurs], average="macro")
        """,
        wrong=("answer = 0.016", "answer = 0.47", "answer = 0.155"),
        remark="Nearly four times the dashed line, without a look at any object.",
    ),
}
