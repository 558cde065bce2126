"""A fixture for all tests of run_all.sh: notebooks of a few cells in a folder of their own."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """Writes tiny notebooks NN_name.ipynb from lists of cells, and names where results go."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setenv("SPARC_NOTEBOOKS", str(folder))

    def write(**cells):
        for name, sources in cells.items():
            head = new_code_cell('profile = "mini"', metadata={"tags": ["parameters"]})
            notebook = new_notebook(cells=[head, *map(new_code_cell, sources)])
            nbformat.write(notebook, folder / f"{name.lstrip('n')}.ipynb")
        return folder

    return write
