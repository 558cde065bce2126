"""Exercises of notebook 00: the vote, the gate, what noise scores, what training has to do."""

import torch

from sparc_lib import SPARC
from sparc_lib.notebook.exercises import Exercise, choice, number


def judge_gate(answer):
    """Compare the student's gate with the library's on random pre-activations."""
    draw = torch.Generator().manual_seed(0)
    for k in (1, 3):
        h = {name: torch.randn(5, 8, generator=draw).double() for name in ("one", "two", "three")}
        model = SPARC(dict.fromkeys(h, 8), n_latents=8, k=k, k_aux=0).double()
        for weights in model.encoder.values():
            weights.data = torch.eye(8, dtype=torch.float64)
        codes = answer({name: x.clone() for name, x in h.items()}, k)
        if set(codes) != set(h):
            return "Return a dict with the same streams as h."
        for name, code in model.encode(h, "joint").items():
            theirs, mine = torch.as_tensor(codes[name]).double(), code.dense().detach()
            if theirs.shape != mine.shape:
                return "Every code has the shape of its pre-activations, [batch, L]."
            if (theirs < 0).any():
                return "A code is never negative: what does the formula do with the chosen pre-activations?"
            if ((theirs > 0).sum(1) > k).any():
                return "More than k latents are active in a row."
            if not torch.allclose(theirs, mine):
                return "Other values than the library's. Who chooses the latents, and whose values are kept?"
    return None


def judge_pair(answer):
    """The two shares, as a pair of numbers."""
    apart, copied = (float(value) for value in answer)
    if abs(copied - 1) > 0.02:
        return "With equal encoders, how can the codes of the two streams differ?"
    if apart > 0.01:
        return "Look at the first number: did you copy the encoder too early, or code the streams jointly?"
    return None


EXERCISES = {
    1: Exercise(
        judge=number(
            0.1,
            1e-6,
            "Add the two rows. Two latents are active: which sum must latent 4 exceed to be one of them?",
            {
                0.2: "It need not become the first of the two, the second is enough.",
                -0.1: "Look at the sign.",
            },
        ),
        solution="""
            image = [0.9, 0.5, 0.1, -0.2, 0.7, 0.0]
            text = [-0.1, 0.4, 0.6, 0.3, -0.9, 0.2]
            sums = sorted(i + t for i, t in zip(image, text))
            answer = sums[-2] - image[4]
        """,
        wrong=("answer = 0.2", "answer = -0.1", "answer = 0.9"),
        remark="Latent 0 leaves, although no value of the image is larger than its 0.9.",
    ),
    2: Exercise(
        judge=judge_gate,
        solution="""
            import torch

            def answer(h, k):
                chosen = sum(h.values()).topk(k, dim=1).indices
                values = {s: x.gather(1, chosen).relu() for s, x in h.items()}
                return {s: torch.zeros_like(h[s]).scatter(1, chosen, values[s]) for s in h}
        """,
        wrong=(
            """
            import torch

            def answer(h, k):
                codes = {}
                for s, x in h.items():
                    best = x.topk(k, dim=1)
                    codes[s] = torch.zeros_like(x).scatter(1, best.indices, best.values.relu())
                return codes
            """,
            """
            import torch

            def answer(h, k):
                chosen = sum(h.values()).topk(k, dim=1).indices
                return {s: torch.zeros_like(x).scatter(1, chosen, x.gather(1, chosen)) for s, x in h.items()}
            """,
            """
            import torch

            def answer(h, k):
                vote = sum(h.values())
                best = vote.topk(k, dim=1)
                code = torch.zeros_like(vote).scatter(1, best.indices, best.values.relu())
                return dict.fromkeys(h, code)
            """,
        ),
        remark="That is the paper's idea, in two lines.",
    ),
    3: Exercise(
        judge=choice(
            "rarer",
            {
                "equal": "Measure it: equal frequencies change little. What else can make two counts alike?",
                "seed": "Another seed is another draw of the same thing. Compare its change with the others.",
            },
        ),
        solution="""
            import numpy as np
            import torch
            from sparc_lib import SPARC
            from sparc_lib.alignment import jaccard_per_latent, label_counts
            from sparc_lib.evaluation import encode_store

            draw = np.random.default_rng(0)
            x = {s: torch.from_numpy(draw.standard_normal((2000, 64), np.float32)) for s in ("image", "text")}
            x = {s: torch.nn.functional.normalize(noise) for s, noise in x.items()}
            start = torch.Generator().manual_seed(0)
            model = SPARC(dict.fromkeys(x, 64), n_latents=512, k=16, generator=start)
            codes = encode_store(model, x, "independent")

            old, luck = 0.3 / np.arange(1, 61) ** 0.7, draw.random((2000, 60))
            other = np.random.default_rng(1).random((2000, 60))
            labels = {"old": luck < old, "equal": luck < old.mean(), "rarer": luck < old / 10}
            labels["seed"] = other < old
            jaccard = {}
            for name, true in labels.items():
                jaccard[name] = jaccard_per_latent(label_counts(codes, true)).mean()
            answer = max(("equal", "rarer", "seed"), key=lambda name: abs(jaccard[name] - jaccard["old"]))
        """,
        wrong=('answer = "equal"', 'answer = "seed"'),
        remark="The number of labelled samples behind a latent makes the value; random partners follow it.",
    ),
    4: Exercise(
        judge=judge_pair,
        solution="""
            import numpy as np
            import torch
            from sparc_lib import SPARC
            from sparc_lib.evaluation import encode_store
            from sparc_lib.retrieval import retrieval_metrics

            noise = np.random.default_rng(0).standard_normal((2000, 64), np.float32)
            same = torch.nn.functional.normalize(torch.from_numpy(noise))
            x = {"image": same, "text": same}
            start = torch.Generator().manual_seed(0)
            model = SPARC(dict.fromkeys(x, 64), n_latents=512, k=16, generator=start)
            codes = encode_store(model, x, "independent")
            apart = retrieval_metrics(codes["text"], codes["image"]).recall[1]
            model.encoder["text"].data = model.encoder["image"].data.clone()
            codes = encode_store(model, x, "independent")
            answer = apart, retrieval_metrics(codes["text"], codes["image"]).recall[1]
        """,
        wrong=("answer = (0.99, 1.0)", "answer = (0.0005, 0.0005)", "answer = (1.0, 1.0)"),
        remark="Equal information is not an equal dictionary.",
    ),
}
