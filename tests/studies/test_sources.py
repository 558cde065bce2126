"""What a stage's key holds of the code: everything that can change a result, and nothing else."""

import functools
import os
import shutil
import subprocess
import sys

import pytest

from sparc_lib import paths
from sparc_lib.studies import ablations, sources, trees
from sparc_lib.studies.sources import LIBRARY, code_of, home


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


def test_a_constant_of_the_kernels_changes_the_key_of_trained_models(copy):
    """`training` imports `losses`, and so on down to a function's own import: no list has to name it."""
    before = codes(copy, "training", "store")
    assert before == codes(LIBRARY, "training", "store")
    change(copy, "cpu_kernels.py", "GROUP = 16", "GROUP = 8")
    after = codes(copy, "training", "store")
    assert [file for file in before if before[file] != after[file]] == ["cpu_kernels.py"]


TRAIN = """
import sys
from sparc_lib.profiles import load_profile
from sparc_lib.store.reader import FeatureStore
from sparc_lib.studies.runs import trained
profile = load_profile("smoke")
trained(profile, profile.settings[0], 0, FeatureStore.open(sys.argv[1]), progress=False)
"""


def test_models_are_trained_again_when_the_kernels_change(copy, small_store, tmp_path):
    """The same command on a warm data root, with other sources: a new model beside the old one."""
    store = small_store("train").directory
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy.parent),
        "SPARC_PROFILES": str(paths.REPO / "notebooks" / "profiles"),
        "SPARC_DATA": str(tmp_path / "warm"),
    }
    models = []
    for constant in (16, 8):
        change(copy, "cpu_kernels.py", "GROUP = 16", f"GROUP = {constant}")
        command = [sys.executable, "-c", TRAIN, str(store)]
        subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True)
        models.append(len(list((tmp_path / "warm" / "stages").glob("sparc-*[0-9a-f]"))))
    assert models == [1, 2]


def test_comments_docstrings_and_layout_do_not_count(copy):
    before = codes(copy, "training")
    change(copy, "sparse_ops.py", '"""Products with TopK', '"""Quick products with TopK')
    change(copy, "sparse_rows.py", "import numpy as np", "# why\n\nimport numpy as np")
    assert codes(copy, "training") == before


def test_rooms_bring_what_they_import_and_nothing_above_them(copy):
    studies = codes(copy, "studies")
    for file in ("studies/tables.py", "attribution/methods.py", "features/encoders.py", "model.py"):
        assert file in studies
    assert not any(file.startswith(("notebook/", "run/")) for file in studies)
    training = codes(copy, "training", "store")
    assert not any(file.startswith(("studies/", "features/")) for file in training)


def test_imports_inside_functions_count(tmp_path):
    """What is slow to import is imported where it is used, and decides results all the same."""
    (tmp_path / "rows.py").write_text("def f():\n    from .lists import g\n\n    return g()\n")
    (tmp_path / "lists.py").write_text("def g():\n    return 1\n")
    assert set(codes(tmp_path, "rows")) == {"rows.py", "lists.py"}
    assert "features/hub.py" in codes(LIBRARY, "studies")  # by way of runs.encoders


def test_data_files_of_a_room_count_with_any_of_its_files(copy):
    before = codes(copy, "claims")
    assert {"claims/claims.yaml", "claims/quantities.yaml", "claims/published_results.json"} <= set(before)
    change(copy, "claims/claims.yaml", "right: 0.01", "right: 0.02")
    after = codes(copy, "claims")
    assert [file for file in before if before[file] != after[file]] == ["claims/claims.yaml"]


def test_unknown_names_are_refused():
    with pytest.raises(FileNotFoundError, match="'trainig' is neither a file nor a room"):
        code_of("trainig")


def test_a_table_hangs_on_the_file_of_its_measure_and_not_on_other_tables(copy):
    (measure,) = home(functools.partial(trees._measure, [], 3), LIBRARY)
    assert measure == "studies/trees"
    before = codes(copy, "studies/tables", measure)
    assert {"studies/trees.py", "studies/tables.py", "nulls.py", "model.py"} <= set(before)
    assert not {"studies/starts.py", "studies/rivals.py", "studies/ablations.py"} & set(before)
    (copy / "studies" / "another.py").write_text("X = 1\n")
    assert codes(copy, "studies/tables", measure) == before


def test_functions_handed_to_a_measure_count():
    both = functools.partial(trees._measure, ablations.values)
    assert home(both) == ("studies/trees", "studies/ablations")
    assert home(lambda: None) == () and home(functools.partial(print, 3)) == ()
