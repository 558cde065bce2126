"""Exercises of notebook 05: hubs, common latents, and a chain of two searches."""

import numpy as np
import scipy.sparse as sp

from sparc_lib.notebook.exercises import Exercise, number

EXERCISES: dict[int, Exercise] = {}


def _judge_hubs(function):
    draw = np.random.default_rng(1)
    for n_queries, n_references in ((40, 30), (25, 60)):
        scores = draw.normal(size=(n_queries, n_references)) + 2 * draw.normal(size=n_references)
        times = np.bincount(scores.argmax(1), minlength=n_references)
        most, never = function(scores)
        if most != times.max():
            by_query = np.bincount(scores.argmax(0), minlength=n_queries)
            if most == by_query.max():
                return "You counted queries. A row of the scores is a query; whose first answer is it?"
            return "The first number is how often the most popular reference is a query's first answer."
        if abs(never - (times == 0).mean()) > 1e-9:
            return "The second number is a share of the references: those that are nobody's first answer."
    return None


EXERCISES[1] = Exercise(
    judge=_judge_hubs,
    solution="""
        import numpy as np

        def answer(scores):
            times = np.bincount(scores.argmax(1), minlength=scores.shape[1])
            return times.max(), (times == 0).mean()
    """,
    wrong=(
        """
        import numpy as np

        def answer(scores):
            times = np.bincount(scores.argmax(0), minlength=scores.shape[0])
            return times.max(), (times == 0).mean()
        """,
        """
        import numpy as np

        def answer(scores):
            times = np.bincount(scores.argmax(1))
            return times.max(), (times == 0).sum()
        """,
    ),
    remark="Try it on the `scores` of section 1: 300 captions share few favourite pictures.",
)


def _judge_weights(function):
    draw = np.random.default_rng(2)
    dense = draw.random((50, 12)) * (draw.random((50, 12)) < np.linspace(0.04, 0.9, 12))
    dense[:, 3], dense[:, 5] = 0, 0.3 + dense[:, 5]
    codes = sp.csr_array(dense)
    fires = (dense > 0).sum(0)
    wanted = np.log(50 / np.maximum(fires, 1)) * (fires > 0)
    given = np.asarray(function(codes), float).ravel()
    if given.shape != wanted.shape:
        return f"A weight for each of the {len(wanted)} latents is wanted; you gave {given.shape}."
    if not np.isfinite(given).all():
        return "One latent never fires. What weight can it have without a division by zero?"
    if np.abs(given - wanted).max() < 1e-6:
        return None
    if abs(given[5]) > 1e-6:
        return "A latent that fires on every sample has weight 0. Count samples, not activations."
    return "Weigh by the logarithm of n over the samples on which the latent fires; 0 where it never does."


EXERCISES[2] = Exercise(
    judge=_judge_weights,
    solution="""
        import numpy as np

        def answer(codes):
            n, n_latents = codes.shape
            fires = np.bincount(codes.nonzero()[1], minlength=n_latents)
            return np.where(fires > 0, np.log(n / np.maximum(fires, 1)), 0.0)
    """,
    wrong=(
        """
        import numpy as np

        def answer(codes):
            return np.log(codes.shape[0] / np.asarray(codes.sum(0)).ravel().clip(1e-9))
        """,
        """
        import numpy as np

        def answer(codes):
            fires = np.bincount(codes.nonzero()[1], minlength=codes.shape[1])
            with np.errstate(divide="ignore"):
                return np.log(codes.shape[0] / fires)
        """,
        """
        import numpy as np

        def answer(codes):
            return (codes.toarray() > 0).mean(0)
        """,
    ),
    remark="Counted on train and multiplied into the test codes, they are a fair change: does R@1 rise?",
)

EXERCISES[3] = Exercise(
    judge=number(
        1.27,
        0.12,
        "Take three R@1 (codes, pairs, independent, Global λ=1; means over seeds): direct over product.",
        {
            0.81: "That is the chain over the direct search; turn it round.",
            0.070: "That is the direct search itself. Divide it by the product of the two steps.",
        },
    ),
    solution="""
        import pandas as pd
        from sparc_lib.paths import REPO

        table = pd.read_csv(REPO / "results/mini/05_retrieval.csv")
        codes = table[(table.model == "trained") & (table.setting == "global_lambda1")]
        codes = codes[(codes.kind == "codes") & (codes.protocol == "pairs") & (codes.coding == "independent")]
        recall = codes.groupby(["query", "reference"]).recall_1.mean()
        chain = recall["clip_txt", "clip_img"] * recall["clip_img", "dino"]
        answer = recall["clip_txt", "dino"] / chain
    """,
    wrong=(
        """
        import pandas as pd
        from sparc_lib.paths import REPO

        table = pd.read_csv(REPO / "results/mini/05_retrieval.csv")
        codes = table[(table.model == "trained") & (table.setting == "global_lambda1")]
        codes = codes[(codes.kind == "codes") & (codes.protocol == "pairs")]
        recall = codes.groupby(["query", "reference"]).recall_1.mean()
        answer = recall["clip_txt", "dino"] / (recall["clip_txt", "clip_img"] * recall["clip_img", "dino"])
        """,
        """
        import pandas as pd
        from sparc_lib.paths import REPO

        table = pd.read_csv(REPO / "results/mini/05_retrieval.csv")
        codes = table[(table.model == "trained") & (table.setting == "global_lambda1")]
        codes = codes[(codes.kind == "codes") & (codes.protocol == "pairs") & (codes.coding == "independent")]
        recall = codes.groupby(["query", "reference"]).recall_1.mean()
        answer = recall["clip_txt", "clip_img"] * recall["clip_img", "dino"] / recall["clip_txt", "dino"]
        """,
        "answer = 1.0",
    ),
    remark="The direct search beats two that know nothing of each other.",
)
