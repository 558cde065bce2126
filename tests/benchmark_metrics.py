"""Time and peak memory of the metrics at the paper's size:

python tests/benchmark_metrics.py [--samples 126020] [--only codes] [--queries 4096]

126,020 samples x 8,192 latents x 3 streams, k 64, 601 classes, random codes. Goals on two quiet cores:
alignment within 2 s, retrieval by codes within 30 s, each part under 6 GB. Each part runs in a process of its
own, so that its peak is its own. --queries asks only the first queries of the whole gallery: time is in
proportion to them.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from sparc_lib.alignment import activation_patterns, jaccard_per_latent, label_counts
from sparc_lib.retrieval import retrieval_metrics

STREAMS = ("dino", "clip_img", "clip_txt")


@dataclass(frozen=True)
class Task:
    """What one process measures. Defaults: the paper's test set and model."""

    samples: int = 126_020
    n_latents: int = 8_192
    k: int = 64
    n_classes: int = 601
    n_streams: int = 3
    queries: int | None = None
    n_jobs: int = 2
    top_n: int | None = None
    dim: int = 768
    clock: Callable[[], float] = time.perf_counter


def random_codes(draw: np.random.Generator, task: Task) -> sp.csr_array:
    """Codes [samples, n_latents] with about k latents drawn at random in each row."""
    shape = (task.samples, task.k)
    indices = np.sort(draw.integers(0, task.n_latents, shape, dtype=np.int32), axis=1)
    values = draw.random(shape, dtype=np.float32) + 0.01
    starts = np.arange(0, values.size + 1, task.k)
    codes = sp.csr_array((values.ravel(), indices.ravel(), starts), shape=(task.samples, task.n_latents))
    codes.sum_duplicates()
    return codes


def alignment(task: Task) -> tuple[float, str]:
    """Seconds of counting labels, Jaccard and patterns, and figures to see that work was done."""
    draw = np.random.default_rng(0)
    codes = {f"stream {number}": random_codes(draw, task) for number in range(task.n_streams)}
    density = min(1.0, 5 / task.n_classes)
    labels = sp.random_array((task.samples, task.n_classes), density=density, format="csr", rng=draw)
    begin = task.clock()
    counts = label_counts(codes, labels, task.top_n)
    score = jaccard_per_latent(counts).mean()
    patterns = activation_patterns(counts)
    return task.clock() - begin, f"mean Jaccard {score:.3f}, all alive {patterns.all_alive}"


def retrieval_by_codes(task: Task) -> tuple[float, str]:
    draw = np.random.default_rng(0)
    return retrieval(task, random_codes(draw, task), random_codes(draw, task))


def retrieval_by_features(task: Task) -> tuple[float, str]:
    draw = np.random.default_rng(0)
    shape = (task.samples, task.dim)
    query = draw.standard_normal(shape, dtype=np.float32)
    return retrieval(task, query, draw.standard_normal(shape, dtype=np.float32))


def retrieval(task: Task, query, reference) -> tuple[float, str]:
    """Seconds for the queries, and figures."""
    n_queries = min(task.queries or task.samples, task.samples)
    positives = sp.eye_array(n_queries, task.samples, format="csr")
    begin = task.clock()
    result = retrieval_metrics(query[:n_queries], reference, positives=positives, n_jobs=task.n_jobs)
    figures = f"{n_queries} queries, R@10 {result.recall[10]:.5f}, MedR {result.median_rank:.0f}"
    return task.clock() - begin, figures


PARTS = {"alignment": alignment, "codes": retrieval_by_codes, "features": retrieval_by_features}


def in_own_process(part: str, task: Task) -> tuple[float, str, float]:
    """(seconds, figures, peak memory in GiB) of a part."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (part, task))


def measured(part: str, task: Task) -> tuple[float, str, float]:
    spent, figures = PARTS[part](task)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts KiB
    return spent, figures, peak


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=Task.samples)
    parser.add_argument("--queries", type=int, help="default: all samples")
    parser.add_argument("--jobs", type=int, default=2, help="threads for retrieval by codes; default: 2")
    parser.add_argument("--only", choices=list(PARTS), help="run one part")
    options = parser.parse_args()
    task = Task(samples=options.samples, queries=options.queries, n_jobs=options.jobs)
    for part in [options.only] if options.only else PARTS:
        spent, figures, peak = in_own_process(part, task)
        print(f"{part:10s} n {task.samples:7d}  {spent:7.1f} s  peak {peak:4.2f} GiB  {figures}", flush=True)


if __name__ == "__main__":
    main()
