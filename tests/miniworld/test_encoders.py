"""The shipped encoders are what their cards say; a killed training goes on as if nothing had happened."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sparc_lib.miniworld.encoders import card, train_clip, train_dino
from sparc_lib.miniworld.encoders.evaluate import probe_map
from sparc_lib.miniworld.encoders.loop import append_log, batch_rows, schedule, trim_log
from sparc_lib.paths import WEIGHTS


def test_shipped_size():
    assert sum(f.stat().st_size for f in WEIGHTS.rglob("*") if f.is_file()) < 12e6


@pytest.mark.parametrize("name", ["clip", "dino"])
def test_weights_reproduce_their_card(name):
    written = json.loads((WEIGHTS / name / "card.json").read_text())
    measured = {"clip": card.clip_scores, "dino": card.dino_scores}[name]()
    assert measured.keys() == written["scores"].keys()
    for key, value in measured.items():
        assert value == pytest.approx(written["scores"][key], abs=0.006), key
    # Trained, not merely loaded: far above the same network with random weights.
    assert written["scores"]["probe_map"] > written["scores_random_weights"]["probe_map"] + 0.05


@pytest.mark.parametrize("module, name", [(train_clip, "mini_clip.pt"), (train_dino, "mini_dino.pt")])
def test_training_resumes_bit_for_bit(module, name, tmp_path, monkeypatch):
    """Four steps at once, and two steps, a new process's worth of state, two more: the same weights."""
    monkeypatch.setattr(module, "BATCH", 8)
    monkeypatch.setattr(module, "scores", lambda *args, **kwargs: {"probe_map": 0.0})
    monkeypatch.setattr(module, "WARMUP", 2)
    if module is train_clip:
        tokenizer = module.build_tokenizer(300)
        monkeypatch.setattr(module, "build_tokenizer", lambda: tokenizer)
    weights = {}
    for run, pieces in (("whole", [4]), ("resumed", [2, 4])):
        monkeypatch.setenv("SPARC_DATA", str(tmp_path / run))
        for steps in pieces:
            module.train(steps, 3, 64, tmp_path / run / "out", threads=1, every=2)
        state = torch.load(tmp_path / run / "training" / name, weights_only=False)
        weights[run] = state["model" if module is train_clip else "teacher"]
    assert weights["whole"].keys() == weights["resumed"].keys()
    assert all(torch.equal(weights["whole"][key], weights["resumed"][key]) for key in weights["whole"])
    shipped = load_file(next((tmp_path / "whole" / "out").glob("*.safetensors")))
    assert all(v.dtype == torch.float16 for v in shipped.values())


def test_log_is_cut_back_to_the_checkpoint(tmp_path):
    log = tmp_path / "log.csv"
    for step in (1, 2, 3):
        append_log(log, {"step": step, "loss": 1.0 / step})
    trim_log(log, 2)
    assert log.read_text().splitlines() == ["step,loss", "1,1", "2,0.5"]


def test_schedule_and_order():
    rates = [schedule(s, 4, 8, 12) for s in range(13)]
    assert (
        rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0] and rates[8] == 1.0 and rates[10] == 0.5 and rates[12] == 0.0
    )
    rows = np.concatenate([batch_rows(s, 64, 8, 0) for s in range(8)])
    assert sorted(rows) == list(range(64))  # an epoch shows every scene once
    assert not np.array_equal(batch_rows(0, 64, 8, 0), batch_rows(8, 64, 8, 0))


def test_probe_finds_what_is_linear_and_nothing_in_noise():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 10, generator=generator)
    labels = np.stack([(x[:, 0] > 0.5).numpy(), (x[:, 1] + x[:, 2] > 1).numpy()], 1)
    assert probe_map(x[:400], labels[:400], x[400:], labels[400:]) > 0.95
    noise = torch.randn(600, 10, generator=generator)
    assert probe_map(noise[:400], labels[:400], noise[400:], labels[400:]) < 0.5


def test_commands_explain_themselves():
    for module in ("train_clip", "train_dino"):
        out = subprocess.run(
            [sys.executable, "-m", f"sparc_lib.miniworld.encoders.{module}", "--help"],
            capture_output=True,
            text=True,
        )
        assert out.returncode == 0 and "--steps" in out.stdout
