"""Tasks in worker processes give what they give here, in order, and an error of one reaches the caller."""

import operator
import os
import time

import pytest
import torch

from sparc_lib.studies.parallel import each, one_thread


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


def test_thread_count_is_given_back():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before
