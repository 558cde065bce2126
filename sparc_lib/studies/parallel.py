"""Independent tasks side by side: in processes of one torch thread each, or one a GPU.

Small problems gain more from many processes than from many threads. `joblib.parallel_config` around a call
names another backend (threads, a Dask or Ray cluster whose workers see the same $SPARC_DATA) or another
number of jobs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import joblib.parallel
import torch
from filelock import FileLock, Timeout
from joblib import Parallel, cpu_count, delayed, effective_n_jobs
from tqdm import tqdm

from ..model import SPARC

SMALL = 2**30  # multiplications of a step's dense product


def each(
    function: Callable, tasks: Sequence[tuple], label: str, n_jobs: int | None = None, progress: bool = True
) -> list[Any]:
    """Return [function(*task) for task in tasks], in that order, with a bar.

    n_jobs: how many run at a time. None: as many as the surrounding `joblib.parallel_config` says, without
    one `usual_jobs()`. A single one runs in this process. Function, tasks and results must pickle. Raises
    what a task raises.
    """
    if not tasks:
        return []
    unnamed = joblib.parallel.default_parallel_config
    config = getattr(joblib.parallel._backend, "config", unnamed)  # joblib's record of a parallel_config
    if n_jobs is None and config["n_jobs"] is unnamed["n_jobs"]:
        n_jobs = usual_jobs()
    if n_jobs is not None:
        n_jobs = min(n_jobs, len(tasks))
    several = effective_n_jobs(n_jobs) > 1
    backend, _ = joblib.parallel.get_active_backend()
    results = Parallel(
        n_jobs=n_jobs,
        return_as="generator" if backend.supports_return_generator else "list",  # Ray's gives a list only
    )(delayed(_alone)(function, task, several) for task in tasks)
    return list(tqdm(results, total=len(tasks), desc=label, disable=not progress))


def usual_jobs() -> int:
    """One job a GPU, or without any one a core."""
    return torch.cuda.device_count() if torch.cuda.is_available() else cpu_count()


def _alone(function: Callable, task: tuple, several: bool) -> Any:
    """One task, on a GPU that no other task of this machine uses, if there is one."""
    if not several:
        return function(*task)
    with one_thread():
        if torch.cuda.device_count() < 2:
            return function(*task)
        with leased(torch.cuda.device_count()) as device, torch.cuda.device(device):
            return function(*task)


@contextmanager
def one_thread() -> Iterator[None]:
    """Workers share the cores among themselves, so each one computes with a single torch thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_for(model: SPARC, batch_size: int) -> AbstractContextManager[None]:
    """One thread to train a model whose steps gain little from more.

    Sums split among threads round in other ways, and training carries that on: the model would depend on the
    number of cores.
    """
    multiplications = batch_size * sum(model.dims.values()) * model.n_latents  # of a dense product
    return one_thread() if multiplications < SMALL else nullcontext()


@contextmanager
def leased(n_devices: int) -> Iterator[int]:
    """Yield the number of a device that no other task on this machine has leased, 0 if all are taken."""
    folder = Path(tempfile.gettempdir())
    for device in range(n_devices):
        lock = FileLock(folder / f"sparc-{os.getuid()}-device-{device}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        try:
            yield device
        finally:
            lock.release()
        return
    yield 0
