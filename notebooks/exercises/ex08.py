"""Exercises of notebook 08: voters by chance, the gap against k, a silent voter, a fact changed by hand."""

import pandas as pd
import torch

from sparc_lib import SPARC, gates
from sparc_lib.notebook.exercises import Exercise
from sparc_lib.paths import REPO


def judge_shares(answer):
    """(share of samples with exactly one voter, share with all three)."""
    one, three = (float(value) for value in answer)
    if abs(one - 3 / 8) < 0.01:
        return "Right for three coins. But what happens to the samples in which no coin falls on the vote?"
    if abs(one - 0.5) > 0.01:
        return (
            "List the eight outcomes of three coins; the one without any voter is given a voter afterwards."
        )
    if abs(three - 1 / 8) > 0.01:
        return "The first number is right. In how many of the eight outcomes do all three vote?"
    return None


def judge_gap(answer):
    """By how much the gap between independent and joint cross-FVU is wider at the largest k."""
    runs = pd.read_csv(REPO / "results/mini/03_runs.csv")
    here = (runs.model == "trained") & (runs.gate == "global") & (runs.cross_weight == 1)
    rows = runs[here & (runs.n_latents == 512) & (runs.metric == "cross_fvu")]
    means = rows.groupby(["k", "coding"]).value.mean().unstack()
    gap = means.independent - means.joint
    value = float(answer)
    if abs(value - (gap.iloc[-1] - gap.iloc[0])) <= 0.01:
        return None
    if abs(value + (gap.iloc[-1] - gap.iloc[0])) <= 0.01:
        return "Look at the sign: independent minus joint, and then the largest k minus the smallest."
    if abs(value - gap.iloc[-1]) <= 0.01:
        return "That is the gap itself at the largest k. How much wider is it than at the smallest?"
    return "Take trained Global λ=1 with 512 latents, the mean over seeds, and only the metric cross_fvu."


def judge_silent(answer):
    """Compare the student's choice with the library's on random pre-activations."""
    draw = torch.Generator().manual_seed(0)
    for k in (1, 4):
        h = {stream: torch.randn(6, 16, generator=draw) for stream in ("dino", "clip_img", "clip_txt")}
        for silent in h:
            voters = {stream: torch.full((6,), stream != silent) for stream in h}
            wanted = gates.shared_choice(h, k, voters).sort(1).values
            chosen = torch.as_tensor(answer({stream: x.clone() for stream, x in h.items()}, k, silent))
            if chosen.shape != wanted.shape:
                return "Return one choice for all streams: the numbers of k latents a sample, [batch, k]."
            if not torch.equal(chosen.sort(1).values, wanted):
                return "Other latents than the library chooses. Whose pre-activations are added up, and how?"
    return None


def judge_edit(answer):
    """Compare the student's edited reconstruction with one by hand, on random small models."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        model = SPARC({"dino": 5, "clip_txt": 6}, 12, 3, generator=draw).double()
        model.pre_bias["dino"].data = torch.randn(5, generator=draw).double()
        picture, old, new = (torch.randn(4, d, generator=draw).double() for d in (5, 6, 6))
        z, before, after = (
            model.encode({stream: x}, "independent")[stream].dense()
            for stream, x in (("dino", picture), ("clip_txt", old), ("clip_txt", new))
        )
        wanted = (z + after - before).relu() @ model.decoder["dino"] + model.pre_bias["dino"]
        made = answer(model, picture, old, new)
        if made.shape != wanted.shape:
            return "Return what the picture's decoder makes of the edited code, [batch, d]."
        if torch.allclose(made, wanted - model.pre_bias["dino"]):
            return "The decoder is more than its rows: what does `model.decode` add at the end?"
        unclipped = (z + after - before) @ model.decoder["dino"] + model.pre_bias["dino"]
        if torch.allclose(made, unclipped):
            return (
                "Some values of your edited code are negative. Can a latent that is not there be taken away?"
            )
        if not torch.allclose(made, wanted):
            return "Another reconstruction. To the picture's code add the caption's, after minus before."
    return None


EXERCISES = {
    1: Exercise(
        judge=judge_shares,
        solution="""
            import torch
            from sparc_lib import gates

            x = {stream: torch.zeros(100_000, 1) for stream in ("dino", "clip_img", "clip_txt")}
            voters = gates.draw_voters(x, 0.5, torch.Generator().manual_seed(1))
            votes = torch.stack(list(voters.values())).sum(0)
            answer = (votes == 1).double().mean(), (votes == 3).double().mean()
        """,
        wrong=("answer = 3 / 8, 1 / 8", "answer = 1 / 3, 1 / 3", "answer = 1 / 2, 1 / 2"),
        remark="Nobody votes in one sample of eight; there one voter is drawn.",
    ),
    2: Exercise(
        judge=judge_gap,
        solution="""
            import pandas as pd
            from sparc_lib.paths import REPO

            runs = pd.read_csv(REPO / "results/mini/03_runs.csv")
            here = (runs.model == "trained") & (runs.gate == "global") & (runs.cross_weight == 1)
            rows = runs[here & (runs.n_latents == 512) & (runs.metric == "cross_fvu")]
            means = rows.groupby(["k", "coding"]).value.mean().unstack()
            gap = means.independent - means.joint
            answer = gap.iloc[-1] - gap.iloc[0]
        """,
        wrong=("answer = 0.2495", "answer = -0.103", "answer = 0"),
        remark="Every further latent is one more that the partners help to choose.",
    ),
    3: Exercise(
        judge=judge_silent,
        solution="""
            def answer(h, k, silent):
                return sum(x for stream, x in h.items() if stream != silent).topk(k, dim=1).indices
        """,
        wrong=(
            """
            def answer(h, k, silent):
                return sum(h.values()).topk(k, dim=1).indices
            """,
            """
            def answer(h, k, silent):
                return sum(x.relu() for stream, x in h.items() if stream != silent).topk(k, dim=1).indices
            """,
            """
            def answer(h, k, silent):
                return {s: x.topk(k, dim=1).indices for s, x in h.items() if s != silent}["dino"]
            """,
        ),
        remark="The silent stream is coded on these latents all the same.",
    ),
    4: Exercise(
        judge=judge_edit,
        solution="""
            def answer(model, picture, old, new):
                z = model.encode({"dino": picture}, "independent")["dino"].dense()
                before = model.encode({"clip_txt": old}, "independent")["clip_txt"].dense()
                after = model.encode({"clip_txt": new}, "independent")["clip_txt"].dense()
                return (z + after - before).relu() @ model.decoder["dino"] + model.pre_bias["dino"]
        """,
        wrong=(
            """
            def answer(model, picture, old, new):
                return model.decode(model.encode({"clip_txt": new}, "independent")["clip_txt"], "dino")
            """,
            """
            def answer(model, picture, old, new):
                z, before, after = (
                    model.encode({stream: x}, "independent")[stream].dense()
                    for stream, x in (("dino", picture), ("clip_txt", old), ("clip_txt", new))
                )
                return (z + after - before) @ model.decoder["dino"] + model.pre_bias["dino"]
            """,
            """
            def answer(model, picture, old, new):
                z, before, after = (
                    model.encode({stream: x}, "independent")[stream].dense()
                    for stream, x in (("dino", picture), ("clip_txt", old), ("clip_txt", new))
                )
                return (z + after - before).relu() @ model.decoder["dino"]
            """,
        ),
        remark="You have changed a picture's code by two sentences.",
    ),
}
