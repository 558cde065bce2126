"""README's recipe for the reader's own models runs as it is printed, and finds something."""

import re
import runpy

import matplotlib.pyplot as plt
import pytest
import torch

from sparc_lib import SPARC, paths
from sparc_lib.evaluation import encode_store
from sparc_lib.retrieval import retrieval_metrics
from sparc_lib.store.reader import FeatureStore

SECTION = re.compile(
    r"<!-- own-models: begin.*?-->\n```python\n(.*?)```\n<!-- own-models: end -->", re.DOTALL
)


@pytest.fixture
def recipe(tmp_path):
    """README's code as a file."""
    (code,) = SECTION.findall((paths.REPO / "README.md").read_text(encoding="utf-8"))
    file = tmp_path / "recipe.py"
    file.write_text(code, encoding="utf-8")
    return file


def test_the_recipe_of_the_readme_runs_as_printed(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = runpy.run_path(str(recipe))
    plt.close("all")
    assert (tmp_path / "data/digits/latents.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    jaccard, floor = map(float, re.search(r"Jaccard (\S+) with random partners (\S+)", printed).groups())
    assert 0.25 < jaccard < 0.9 and floor < jaccard - 0.1
    # what it prints for R@k is that of independent codes, far above an untrained model's
    test = FeatureStore.open(tmp_path / "data/digits/test")
    assert test.streams == ("pixels", "edges") and test.captions is None or not any(test.captions)
    recall = retrieval_metrics(names["codes"]["edges"], names["codes"]["pixels"]).recall
    assert str(recall) in printed
    untrained = encode_store(SPARC(test.dims, n_latents=128, k=8), test, "independent")
    assert recall[10] > 0.25 > 0.15 > retrieval_metrics(untrained["edges"], untrained["pixels"]).recall[10]
    assert len(names["best"]) == 5
