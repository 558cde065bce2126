"""Encoding, alignment and retrieval over the paper's test set: 126,020 samples."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch

from sparc_lib.alignment import activation_patterns, jaccard_per_latent, label_counts
from sparc_lib.evaluation import encode_store, evaluate
from sparc_lib.retrieval import retrieval_metrics

from .sizes import Deadline, Sizes, synchronise


class Clock:
    """Seconds since it was last asked."""

    def __init__(self, device: torch.device):
        self.device, self.begin = device, time.perf_counter()

    def lap(self) -> float:
        synchronise(self.device)
        now = time.perf_counter()
        spent, self.begin = now - self.begin, now
        return spent


def run(size: Sizes, device: torch.device, deadline: Deadline) -> Iterator[dict]:
    """A row a step of the evaluation, in seconds for all test samples."""
    n = size.test_samples
    generator = np.random.default_rng(0)
    density = min(1.0, 5 / size.n_classes)
    labels = sp.random_array((n, size.n_classes), density=density, format="csr", rng=generator)
    features = size.streams(device, n)
    model = size.model(device).requires_grad_(False)
    clock = Clock(device)
    evaluate(model, features)
    yield {"what": "reconstruction scores, both codings", "samples": n, "s": clock.lap()}
    codes = encode_store(model, features, "independent")
    yield {"what": "encoded to sparse codes, three streams", "samples": n, "s": clock.lap()}
    counts = label_counts(codes, labels)
    score = jaccard_per_latent(counts).mean()
    patterns = activation_patterns(counts)
    yield {
        "what": "alignment, all activations",
        "samples": n,
        "s": clock.lap(),
        "note": f"Jaccard {score:.3f}, {patterns.all_alive} latents alive in all streams",
    }
    label_counts(codes, labels, 25)
    yield {"what": "counts of the top 25 activations", "samples": n, "s": clock.lap()}
    dense = retrieval_metrics(features["clip_img"], features["clip_txt"])
    yield {"what": "retrieval by features", "samples": n, "s": clock.lap(), "note": f"MRR {dense.mrr:.2e}"}
    yield retrieval_by_codes(codes, size, clock)


def retrieval_by_codes(codes: dict[str, sp.csr_matrix], size: Sizes, clock: Clock) -> dict:
    """On the CPU, with all cores; timed on the first queries, as time is in proportion to them."""
    n = size.test_samples
    queries = min(size.retrieval_queries, n)
    jobs = os.cpu_count() or 1
    positives = sp.eye_array(queries, n, format="csr")
    clock.lap()
    result = retrieval_metrics(codes["clip_txt"][:queries], codes["dino"], positives=positives, n_jobs=jobs)
    spent = clock.lap()
    return {
        "what": f"retrieval by codes, {jobs} threads",
        "samples": n,
        "queries_timed": queries,
        "s": spent / queries * n,
        "note": f"MRR {result.mrr:.2e}",
    }
