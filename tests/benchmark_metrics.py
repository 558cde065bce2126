"""Time and peak memory of the metrics at the paper's size. Run: python tests/benchmark_metrics.py [--help]

126,020 samples x 8,192 latents x 3 streams, k 64, 601 classes, random codes. Bounds on 2 cores: alignment
under 20 s, each part under 6 GB. Each part runs in a process of its own, so that its peak is its own.
--queries asks only the first queries of the whole gallery: time grows in proportion to them. Code retrieval
takes time in proportion to samples squared (inverted lists) and memory in proportion to samples.
"""

import argparse
import multiprocessing
import resource
import time

import numpy as np
import scipy.sparse as sp

from sparc_lib.alignment import activation_patterns, jaccard_per_latent, label_counts
from sparc_lib.retrieval import retrieval_metrics

N_SAMPLES, N_LATENTS, K, N_CLASSES = 126_020, 8_192, 64, 601


def random_codes(draw, n):
    indices = np.sort(draw.integers(0, N_LATENTS, (n, K), dtype=np.int32), axis=1)
    values = draw.random((n, K), dtype=np.float32) + 0.01
    codes = sp.csr_array((values.ravel(), indices.ravel(), np.arange(0, n * K + 1, K)), shape=(n, N_LATENTS))
    codes.sum_duplicates()
    return codes


def alignment(n, queue, top_n=None):
    draw = np.random.default_rng(0)
    codes = {stream: random_codes(draw, n) for stream in ("dino", "clip_img", "clip_txt")}
    labels = sp.random_array((n, N_CLASSES), density=5 / N_CLASSES, format="csr", rng=draw)
    start = time.perf_counter()
    counts = label_counts(codes, labels, top_n)
    score = jaccard_per_latent(counts).mean()
    patterns = activation_patterns(counts)
    queue.put(
        (time.perf_counter() - start, f"mean Jaccard {score:.3f}, all alive {patterns.all_alive}", peak())
    )


def retrieval(n, queue, kind, batch_size, queries, n_jobs, dim=768):
    draw = np.random.default_rng(0)
    if kind == "codes":
        query, reference = random_codes(draw, n), random_codes(draw, n)
    else:
        query, reference = (draw.standard_normal((n, dim), dtype=np.float32) for _ in range(2))
    start = time.perf_counter()
    asked = sp.eye_array(min(queries or n, n), n, format="csr")
    found = retrieval_metrics(
        query[: asked.shape[0]], reference, positives=asked, batch_size=batch_size, n_jobs=n_jobs
    )
    figures = f"{asked.shape[0]} queries, R@10 {found.recall[10]:.5f}, MedR {found.median_rank:.0f}"
    queue.put((time.perf_counter() - start, figures, peak()))


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # GiB; Linux counts KiB


def report(name, part, *arguments):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=part, args=(arguments[0], queue, *arguments[1:]))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{name} failed with exit code {process.exitcode}")
    seconds, figures, memory = queue.get()
    print(f"{name:34s} n {arguments[0]:7d}  {seconds:7.1f} s  peak {memory:4.2f} GiB  {figures}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=N_SAMPLES)
    parser.add_argument("--batch-size", type=int, help="dense queries at a time; default: the library's")
    parser.add_argument("--queries", type=int, help="default: all samples")
    parser.add_argument("--jobs", type=int, default=2, help="threads for code retrieval; default: 2")
    parser.add_argument("--only", choices=["alignment", "codes", "dense"], help="run one part")
    chosen = parser.parse_args()
    if chosen.only in (None, "alignment"):
        report("alignment, all activations", alignment, chosen.samples)
        report("alignment, top 25", alignment, chosen.samples, 25)
    for kind in ("codes", "dense"):
        if chosen.only in (None, kind):
            report(
                f"retrieval, {kind}",
                retrieval,
                chosen.samples,
                kind,
                chosen.batch_size,
                chosen.queries,
                chosen.jobs,
            )
