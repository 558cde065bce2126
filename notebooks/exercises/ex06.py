"""Exercises of notebook 06: what a heatmap owes to the text, relevance through several blocks, contrast."""

import numpy as np
import torch

from sparc_lib.attribution.relevance import attention_relevance
from sparc_lib.attribution.segmentation import contrast
from sparc_lib.notebook.exercises import Exercise, number

EXERCISES: dict[int, Exercise] = {}

EXERCISES[1] = Exercise(
    judge=number(
        0.147,
        0.03,
        "Take the pointing at the other object off that at the named one: what is left is the text's.",
        {
            0.269: "That is the pointing at the named object; a map without text has some of it too.",
            0.134 - 0.269: "The named object first, the other one taken off it.",
        },
    ),
    solution="""
        import pandas as pd
        from sparc_lib.paths import REPO

        table = pd.read_csv(REPO / "results/mini/06_segmentation.csv")
        caption = table[(table.target == "caption") & (table.stream == "clip_img")]
        caption = caption[(caption.coding == "independent") & (caption.setting == "global_lambda1")]
        answer = (caption.at_target - caption.at_other).mean()
    """,
    wrong=(
        """
        import pandas as pd
        from sparc_lib.paths import REPO

        table = pd.read_csv(REPO / "results/mini/06_segmentation.csv")
        caption = table[(table.target == "caption") & (table.stream == "clip_img")]
        caption = caption[(caption.coding == "independent") & (caption.setting == "global_lambda1")]
        answer = caption.at_target.mean()
        """,
        """
        import pandas as pd
        from sparc_lib.paths import REPO

        table = pd.read_csv(REPO / "results/mini/06_segmentation.csv")
        caption = table[(table.target == "caption") & (table.stream == "clip_img")]
        caption = caption[(caption.coding == "independent") & (caption.setting == "global_lambda1")]
        answer = (caption.at_other - caption.at_target).mean()
        """,
    ),
    remark="For attention alone the same difference is 0, however high it scores on images with one object.",
)


def _judge_relevance(function):
    draw = torch.Generator().manual_seed(3)
    for blocks, start in ((1, 0), (3, 0), (3, 1), (4, 3)):
        attention = torch.rand(blocks, 2, 6, 6, generator=draw).softmax(-1)
        gradient = torch.randn(blocks, 2, 6, 6, generator=draw)
        wanted = attention_relevance(attention, gradient, start)[0]
        given = torch.as_tensor(function(attention, gradient, start))
        if given.shape != wanted.shape:
            return f"The row of token 0 is wanted, shape {list(wanted.shape)}; yours is {list(given.shape)}."
        if not torch.allclose(given, wanted, atol=1e-5):
            if blocks == 1:
                return "Not right for one block yet. ReLU, then mean over heads; R starts as the identity."
            return (
                f"Right for one block, not for {blocks} from block {start} on. Which block's step comes last?"
            )
    return None


EXERCISES[2] = Exercise(
    judge=_judge_relevance,
    solution="""
        import torch

        def answer(attention, gradient, start):
            R = torch.eye(attention.shape[-1])
            for A, G in zip(attention[start:], gradient[start:]):
                R = R + (G * A).relu().mean(0) @ R
            return R[0]
    """,
    wrong=(
        """
        import torch

        def answer(attention, gradient, start):
            R = torch.eye(attention.shape[-1])
            for A, G in zip(attention[start:], gradient[start:]):
                R = R + (G * A).mean(0).relu() @ R
            return R[0]
        """,
        """
        import torch

        def answer(attention, gradient, start):
            R = torch.eye(attention.shape[-1])
            for A, G in zip(attention[start:], gradient[start:]):
                R = R + R @ (G * A).relu().mean(0)
            return R[0]
        """,
        """
        import torch

        def answer(attention, gradient, start):
            return (gradient[-1] * attention[-1]).relu().mean(0)[0]
        """,
    ),
    remark="`start_block=-2` in `relevance.explain` shows what an earlier block adds to section 5.",
)


def _judge_contrast(function):
    draw = np.random.default_rng(5)
    for side in (3, 5):
        maps, cover = draw.random((2, side, side)), draw.random((2, side, side)) ** 4
        wanted = float(contrast(maps, cover, [(0, 1)])[0])
        given = float(function(*maps, *cover))
        if abs(given - wanted) < 1e-6:
            continue
        if abs(2 * given - 1 - wanted) < 1e-6:
            return "That is the AUC. Equal maps should score 0, not one half."
        if abs(given + wanted) < 1e-6:
            return "The sign is turned: perfect guidance scores 1."
        return (
            "Divide each map by its own sum, take the difference, and compare every patch of one object with "
            "every patch of the other, weighted by how much of the patch is the object's."
        )
    return None


EXERCISES[3] = Exercise(
    judge=_judge_contrast,
    solution="""
        import numpy as np

        def answer(map_a, map_b, cover_a, cover_b):
            difference = (map_a / map_a.sum() - map_b / map_b.sum()).ravel()
            a, b = cover_a.ravel(), cover_b.ravel()
            wins = np.sign(difference[:, None] - difference[None])
            return a @ wins @ b / (a.sum() * b.sum())
    """,
    wrong=(
        """
        import numpy as np

        def answer(map_a, map_b, cover_a, cover_b):
            difference = (map_a - map_b).ravel()
            a, b = cover_a.ravel(), cover_b.ravel()
            wins = np.sign(difference[:, None] - difference[None])
            return a @ wins @ b / (a.sum() * b.sum())
        """,
        """
        import numpy as np

        def answer(map_a, map_b, cover_a, cover_b):
            difference = (map_a / map_a.sum() - map_b / map_b.sum()).ravel()
            a, b = cover_a.ravel(), cover_b.ravel()
            wins = difference[:, None] > difference[None]
            return a @ wins @ b / (a.sum() * b.sum())
        """,
        """
        import numpy as np

        def answer(map_a, map_b, cover_a, cover_b):
            return (map_a * cover_a).sum() / cover_a.sum() - (map_a * cover_b).sum() / cover_b.sum()
        """,
    ),
    remark="Every wrong-caption control of section 8 goes through these four lines.",
)
