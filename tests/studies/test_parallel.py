"""Tasks in worker processes give what they give here, in order, and an error of one reaches the caller."""

import operator
import os
import time

import joblib
import pytest
import torch

from sparc_lib.studies import parallel
from sparc_lib.studies.parallel import each, leased, one_thread


def who(delay, number):
    time.sleep(delay)
    return number, os.getpid(), torch.get_num_threads()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_results_come_in_the_order_of_the_tasks(n_jobs):
    found = each(who, [(0.2, 0), (0, 1), (0, 2)], "numbers", n_jobs, progress=False)
    assert [number for number, _, _ in found] == [0, 1, 2]
    here = {pid for _, pid, _ in found} == {os.getpid()}
    assert here == (n_jobs == 1)
    if n_jobs > 1:
        assert {threads for _, _, threads in found} == {1}


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_error_in_a_task_is_raised(n_jobs):
    with pytest.raises(ZeroDivisionError):
        each(operator.truediv, [(1, 1), (1, 0)], "ratios", n_jobs, progress=False)


def test_no_tasks_no_results():
    assert each(who, [], "nothing", progress=False) == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_jobs_are_those_that_the_user_names(monkeypatch, jobs):
    """One as well: a user who asks for one job gets one, whatever is usual."""
    monkeypatch.setattr(parallel, "usual_jobs", lambda: 3)
    with joblib.parallel_config(backend="loky", n_jobs=jobs):
        found = each(who, [(0.3, number) for number in range(4)], "numbers", progress=False)
    pids = {pid for _, pid, _ in found}
    assert len(pids) <= jobs and (os.getpid() in pids) == (jobs == 1)


def test_without_a_word_there_are_as_many_jobs_as_usual(monkeypatch):
    """Also after a `parallel_config` that is over."""
    monkeypatch.setattr(parallel, "usual_jobs", lambda: 2)
    with joblib.parallel_config(n_jobs=1):
        pass
    found = each(who, [(0.3, number) for number in range(4)], "numbers", progress=False)
    assert os.getpid() not in {pid for _, pid, _ in found}


def test_the_backend_is_the_one_that_the_user_names():
    with joblib.parallel_config(backend="threading", n_jobs=2):
        found = each(who, [(0, 0), (0, 1)], "numbers", progress=False)
    assert {pid for _, pid, _ in found} == {os.getpid()}


def test_thread_count_is_given_back():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_every_task_has_a_device_of_its_own_while_there_are_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel.tempfile, "gettempdir", lambda: str(tmp_path))
    with leased(2) as first, leased(2) as second, leased(2) as third:
        assert {first, second} == {0, 1} and third == 0  # a third task has to share
    with leased(2) as again:
        assert again == 0


def test_tasks_are_sent_to_the_leased_devices(monkeypatch):
    used = []

    class Device:
        def __init__(self, number):
            used.append(number)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", Device)
    assert (
        parallel._alone(operator.add, (1, 2), True) == 3 and parallel._alone(operator.add, (1, 2), False) == 3
    )
    assert used == [0]
