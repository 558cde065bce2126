"""The SPARC that ships: its file can be loaded, and does on new scenes what its card says."""

import dataclasses
import re

import pytest
import torch
from safetensors.torch import save_file

from sparc_lib import SPARC
from sparc_lib.evaluation import evaluate
from sparc_lib.notebook import checkpoints
from sparc_lib.profiles import load_profile
from sparc_lib.studies import runs

FILE = checkpoints.FOLDER / "global_lambda1.safetensors"


def test_the_shipped_model_does_what_its_card_says():
    mini = load_profile("mini")
    few = dataclasses.replace(mini, data=dataclasses.replace(mini.data, test=200))
    store = runs.features(few, "test")
    model = checkpoints.load(FILE)
    assert not model.training and model.dims == store.dims and model.n_latents == mini.sparc.n_latents
    card = (checkpoints.FOLDER / "CARD.md").read_text(encoding="utf-8")
    for stream in store.manifest.streams:  # the encoders that ship are those it was trained on
        assert f"`{stream.name}`: {stream.encoder.name}, weights `{stream.encoder.revision[:19]}`" in card
    table = evaluate(model, store).to_frame()
    rows = re.findall(r"^\| (\w+) → (\w+) \| (\S+) \| (\S+) \|", card, re.MULTILINE)
    assert len(rows) == len(store.dims) ** 2
    for source, target, *printed in rows:
        pair = table[(table.source == source) & (table.target == target) & (table.metric == "nmse")]
        measured = pair.set_index("coding").value.loc[["joint", "independent"]]
        assert measured.tolist() == pytest.approx([float(text) for text in printed], rel=0.25, abs=0.02)


def test_what_is_saved_is_loaded(tmp_path):
    model = SPARC({"a": 4, "b": 3}, n_latents=8, k=2, gate="local")
    model.steps_since_active["a"].add_(7)
    again = checkpoints.load(checkpoints.save(model, tmp_path / "model.safetensors", {"seed": "0"}))
    assert again.config == model.config
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    assert again.steps_since_active["a"].tolist() == [7] * 8


def test_other_files_are_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="says nothing of a SPARC's sizes"):
        checkpoints.load(tmp_path / "other.safetensors")
