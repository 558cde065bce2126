"""How time grows with samples N, latents L, active latents k and streams M, as one tidy CSV:

python tests/benchmark_growth.py [--out results/benchmarks/growth.csv] [--repeats 3] [--sizes tiny]

One size is varied at a time about a base; columns: part, variable, value, seconds (the median; of a step, of
N samples, or of 256 queries among N), and the exponent of the power law between the two largest values.
Seconds are those of one core, whoever else uses the machine. `sparc_lib.notebook.training.growth` draws the
table. Under two minutes on a quiet core.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from benchmark_metrics import Task, alignment, retrieval_by_codes

from sparc_lib import SPARC, train_step
from sparc_lib.training import make_optimizer

QUERIES = 256


@dataclass(frozen=True)
class Point:
    """Sizes of one measurement: N samples, L latents, k active ones, M streams."""

    N: int = 8_000
    L: int = 2048
    k: int = 32
    M: int = 3

    def task(self) -> Task:
        return Task(
            self.N,
            self.L,
            self.k,
            n_classes=200,
            n_streams=self.M,
            queries=QUERIES,
            n_jobs=1,
            clock=time.process_time,
        )


BASES = {"small": Point(), "tiny": Point(N=512, L=128, k=8, M=2)}
FACTORS = {"N": (0.25, 0.5, 1, 2, 4), "L": (0.25, 0.5, 1, 2, 4), "k": (0.25, 0.5, 1, 2, 4)}
STREAM_COUNTS = (2, 3, 4, 6)
BATCH, WIDTH = 256, 256


def model_and_batch(point: Point, n: int) -> tuple[SPARC, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    dims = {f"stream{number}": WIDTH for number in range(point.M)}
    model = SPARC(dims, point.L, point.k, generator=generator)
    batch = {}
    for name in dims:
        x = torch.randn(n, WIDTH, generator=generator)
        batch[name] = torch.nn.functional.normalize(x)
    return model, batch


def timed(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def step_seconds(point: Point) -> float:
    """One training step of 256 samples."""
    model, batch = model_and_batch(point, BATCH)
    optimizer = make_optimizer(model)
    for _ in range(2):
        train_step(model, optimizer, batch)
    return timed(lambda: train_step(model, optimizer, batch))


@torch.no_grad()
def encode_seconds(point: Point) -> float:
    """Independent codes of N samples, in batches of 256."""
    model, batch = model_and_batch(point, BATCH)
    model.encode(batch, "independent")
    n_batches = -(-point.N // BATCH)

    def work() -> None:
        for _ in range(n_batches):
            model.encode(batch, "independent")

    return timed(work)


PARTS = {
    "training step": (step_seconds, ("L", "k", "M")),
    "encoding": (encode_seconds, ("N", "L", "k", "M")),
    "alignment": (lambda point: alignment(point.task())[0], ("N", "L", "k", "M")),
    "retrieval by codes": (lambda point: retrieval_by_codes(point.task())[0], ("N", "L", "k")),
}


def values(base: Point, variable: str) -> list[int]:
    if variable == "M":
        return list(STREAM_COUNTS)
    return [int(getattr(base, variable) * factor) for factor in FACTORS[variable]]


def measurements(base: Point, repeats: int) -> Iterator[dict]:
    for part, (seconds_of, variables) in PARTS.items():
        for variable in variables:
            for value in values(base, variable):
                point = replace(base, **{variable: value})
                spent = statistics.median(seconds_of(point) for _ in range(repeats))
                yield {"part": part, "variable": variable, "value": value, "seconds": spent}


def with_exponents(rows: list[dict]) -> pd.DataFrame:
    """exponent: slope on logarithmic axes between the two largest values of a part and variable."""
    table = pd.DataFrame(rows)
    for _, group in table.groupby(["part", "variable"]):
        last_two = group.sort_values("value").tail(2)
        steps = np.log(last_two[["value", "seconds"]].to_numpy())
        rise = steps[1] - steps[0]
        table.loc[group.index, "exponent"] = rise[1] / rise[0]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="CSV file; default: standard output")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", choices=list(BASES), default="small")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = with_exponents(list(measurements(BASES[options.sizes], options.repeats)))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out or sys.stdout, index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
