"""What a stage's key holds of the code: everything that can change a result, and nothing else."""

import shutil

import pytest

from sparc_lib.studies import sources
from sparc_lib.studies.sources import LIBRARY, code_of


@pytest.fixture
def copy(tmp_path):
    """A copy of the library's sources that a test may change."""
    target = tmp_path / "sparc_lib"
    shutil.copytree(LIBRARY, target, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    return target


def change(library, file, old, new):
    path = library / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    sources._read.cache_clear()


def codes(library, *names):
    sources._read.cache_clear()
    return code_of(*names, library=library)


def test_a_constant_of_sparse_ops_changes_the_key_of_trained_models(copy):
    """`training` imports `losses`, which imports `sparse_ops`: no list has to name it."""
    before = codes(copy, "training", "store")
    assert before == codes(LIBRARY, "training", "store")
    change(copy, "sparse_ops.py", "rows_per_block: int = 256", "rows_per_block: int = 128")
    after = codes(copy, "training", "store")
    assert [file for file in before if before[file] != after[file]] == ["sparse_ops.py"]


def test_comments_docstrings_and_layout_do_not_count(copy):
    before = codes(copy, "training")
    change(copy, "sparse_ops.py", '"""Products with TopK', '"""Quick products with TopK')
    change(copy, "sparse_ops.py", "import warnings", "# why\n\nimport warnings")
    assert codes(copy, "training") == before


def test_rooms_bring_what_they_import_and_nothing_above_them(copy):
    studies = codes(copy, "studies")
    for file in ("studies/tables.py", "attribution/methods.py", "features/encoders.py", "model.py"):
        assert file in studies
    assert not any(file.startswith(("notebook/", "run/")) for file in studies)
    training = codes(copy, "training", "store")
    assert not any(file.startswith(("studies/", "features/")) for file in training)


def test_data_files_of_a_room_count_with_any_of_its_files(copy):
    before = codes(copy, "claims")
    assert {"claims/claims.yaml", "claims/quantities.yaml", "claims/published_results.json"} <= set(before)
    change(copy, "claims/claims.yaml", "right: 0.01", "right: 0.02")
    after = codes(copy, "claims")
    assert [file for file in before if before[file] != after[file]] == ["claims/claims.yaml"]


def test_unknown_names_are_refused():
    with pytest.raises(FileNotFoundError, match="'trainig' is neither a file nor a room"):
        code_of("trainig")
