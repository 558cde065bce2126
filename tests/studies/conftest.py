"""Shared by the tests of studies."""

import joblib
import pytest


@pytest.fixture
def in_this_process():
    """Runs of a table are measured here, one after the other, so that tests can replace what they call."""
    with joblib.parallel_config(n_jobs=1):
        yield
