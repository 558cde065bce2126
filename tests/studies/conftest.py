"""Shared by the tests of studies."""

import joblib
import pytest


@pytest.fixture
def in_this_process():
    """Runs of a table are measured here, one after the other, so that tests can replace what they call."""
    with joblib.parallel_config(n_jobs=1):
        yield


@pytest.fixture
def forbid(monkeypatch):
    """forbid(module, name): a measure fails from now on. It counts as the same code: finished rows stay."""

    def put(module, name):
        def measured_again(*_):
            pytest.fail("measured again")

        measured_again.__module__ = module.__name__
        monkeypatch.setattr(module, name, measured_again)

    return put
