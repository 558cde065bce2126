"""Independent tasks side by side in processes of one torch thread each: on small problems that beats many threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from joblib import Parallel, cpu_count, delayed
from tqdm import tqdm


def each(
    function: Callable, tasks: Iterable[tuple], label: str, n_jobs: int | None = None, progress: bool = True
) -> list[Any]:
    """[function(*task) for task in tasks], in that order, with a bar.

    n_jobs: processes; None takes `usual_jobs`. With 1 the tasks run here. `function`, tasks and results must pickle.
    """
    tasks = list(tasks)
    n_jobs = min(n_jobs or usual_jobs(), len(tasks)) or 1
    results = Parallel(n_jobs, return_as="generator")(
        delayed(_alone)(function, task, n_jobs > 1) for task in tasks
    )
    return list(tqdm(results, total=len(tasks), desc=label, disable=not progress))


def usual_jobs() -> int:
    """One process a core, or one alone where there is a GPU for the tasks to use."""
    return 1 if torch.cuda.is_available() else cpu_count()


def _alone(function: Callable, task: tuple, in_a_worker: bool) -> Any:
    if not in_a_worker:
        return function(*task)
    with one_thread():
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
