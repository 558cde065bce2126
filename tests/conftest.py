"""Shared by all tests: results and data go to a temporary folder, figures are drawn off screen."""

import os

os.environ["MPLBACKEND"] = "Agg"

import pytest


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """A test never touches the committed figures and results or the reader's data."""
    monkeypatch.setenv("SPARC_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("SPARC_DATA", str(tmp_path / "data"))
    for variable in ("SPARC_PROFILE", "SPARC_NOTEBOOKS", "SPARC_REBUILD_BEFORE"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path
