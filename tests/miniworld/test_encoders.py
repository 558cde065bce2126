"""The shipped encoders are what their cards say; a killed training goes on as if nothing had happened."""

import json
import math
import pickle
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file
from transformers import Dinov2WithRegistersModel

from sparc_lib.miniworld.encoders import card, evaluate, loop, pictures, train_clip, train_dino
from sparc_lib.miniworld.encoders.train_clip import Clip
from sparc_lib.miniworld.encoders.train_dino import Dino
from sparc_lib.miniworld.scenes import make_scene
from sparc_lib.paths import WEIGHTS

RECIPES = {"clip": Clip, "dino": Dino}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Training on 64 scenes in batches of 16, its data in a temporary folder, no evaluation.

    Gives the options.
    """
    monkeypatch.setenv("SPARC_DATA", str(tmp_path / "data"))
    for recipe in RECIPES.values():
        monkeypatch.setattr(recipe, "batch", 16)
        monkeypatch.setattr(recipe, "scores", lambda self, average: {"probe_map": 0.5})

    def options(run: str, **changes) -> loop.Options:
        settings = {"steps": 4, "scenes": 64, "threads": 1} | changes
        return loop.Options(folder=tmp_path / run / "weights", checkpoint=tmp_path / run, **settings)

    return options


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


def test_shipped_size():
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) < 12e6


@pytest.mark.parametrize("name", RECIPES)
def test_weights_reproduce_their_card(name):
    written = json.loads((WEIGHTS / name / "card.json").read_text())
    measured = card.scores(name, WEIGHTS / name)
    assert measured.keys() == written["scores"].keys()
    for key, value in measured.items():
        assert value == pytest.approx(written["scores"][key], abs=0.006, rel=0.01), key
    # Trained, not merely loaded: far above the same network with random weights.
    assert written["scores"]["probe_map"] > written["scores_random_weights"]["probe_map"] + 0.05


@pytest.mark.parametrize("name", RECIPES)
def test_training_resumes_bit_for_bit(name, small, monkeypatch):
    """Four steps at once, or three, a kill, and the rest from the checkpoint: the same weights and log."""
    loop.train(RECIPES[name](), small("whole"))

    calls = []
    losses = RECIPES[name].losses

    def killed(self, *args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return losses(self, *args)

    monkeypatch.setattr(RECIPES[name], "losses", killed)
    with pytest.raises(KeyboardInterrupt):
        loop.train(RECIPES[name](), small("cut"))
    loop.train(RECIPES[name](), small("cut"))
    whole, resumed = weights(small("whole").folder), weights(small("cut").folder)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert all(value.dtype == torch.float16 for value in whole.values() if value.is_floating_point())
    log = (small("cut").folder / "training_log.csv").read_text().splitlines()
    assert log[0].startswith("step,images,minutes") and len(log) == 5


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_weights_start_another_training(name, small):
    """`--init` begins with the weights of a folder.

    A budget of no minutes writes them out again unchanged.
    """
    loop.train(RECIPES[name](), small("first"))
    again = small("second", steps=None, minutes=0.0, init=small("first").folder)
    loop.train(RECIPES[name](), again)
    first, second = weights(small("first").folder), weights(again.folder)
    assert all(torch.equal(first[key], second[key]) for key in first)


class Planted:
    """What pickle would build by calling a function of the attacker's choice."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_planted_checkpoint_runs_no_code(small, tmp_path):
    options = small("planted")
    options.checkpoint.mkdir()
    trace = tmp_path / "code-was-run"
    torch.save({"step": Planted(trace)}, options.checkpoint / "mini_dino.pt")
    with pytest.raises(ValueError, match=r"mini_dino\.pt is no checkpoint of this training"):
        loop.train(Dino(), options)
    assert not trace.exists()
    with open(options.checkpoint / "mini_dino.pt", "wb") as file:
        pickle.dump(Planted(trace), file)
    with pytest.raises(ValueError, match="remove it to start from the beginning"):
        loop.train(Dino(), options)
    assert not trace.exists()


def test_a_checkpoint_of_another_network_is_refused(small):
    loop.train(Dino(), small("run"))
    path = small("run").checkpoint / "mini_dino.pt"
    path.rename(path.with_name("mini_clip.pt"))
    with pytest.raises(ValueError, match="mini_clip"):
        loop.train(Clip(), small("run"))


def test_divergence_keeps_the_good_checkpoint(small, monkeypatch):
    loop.train(Dino(), small("run"))
    path = small("run").checkpoint / "mini_dino.pt"
    before = path.read_bytes()
    monkeypatch.setattr(train_dino, "MASKED", 0.5)
    monkeypatch.setattr(train_dino, "SPREAD", math.nan)
    with pytest.raises(FloatingPointError, match="holds the state before"):
        loop.train(Dino(), small("run", steps=8))
    assert path.read_bytes() == before


def test_budget_in_minutes_ends_and_is_counted_over_sittings(small, monkeypatch):
    minutes = iter(range(0, 10_000, 15))  # a clock that moves a quarter of a minute at every look
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(minutes)))
    options = small("run", steps=None, minutes=2.0)
    loop.train(Dino(), options)
    state = torch.load(options.checkpoint / "mini_dino.pt", weights_only=True)
    assert state["minutes"] >= 2 and state["step"] <= 8
    loop.train(Dino(), options)  # the budget is used up: nothing is trained
    assert torch.load(options.checkpoint / "mini_dino.pt", weights_only=True)["step"] == state["step"]
    loop.train(Dino(), small("run", steps=None, minutes=4.0))
    assert torch.load(options.checkpoint / "mini_dino.pt", weights_only=True)["step"] > state["step"]


def test_schedule_and_order():
    rates = [loop.schedule(progress) for progress in np.linspace(0, 1, 101)]
    assert 0 < rates[0] < 0.1 and max(rates) == rates[3] == 1.0
    assert all(a > b for a, b in zip(rates[3:], rates[4:])) and rates[-1] == pytest.approx(0)
    rows = np.concatenate([pictures.batch_rows(step, 64, 8, 0) for step in range(8)])
    assert sorted(rows) == list(range(64))  # an epoch shows every scene once
    assert not np.array_equal(pictures.batch_rows(0, 64, 8, 0), pictures.batch_rows(8, 64, 8, 0))


def test_networks_in_training_are_those_that_are_shipped(small):
    """Shown all patches and whole captions, the fast paths give what open_clip and transformers give."""
    pixels = torch.randn(6, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    everywhere = torch.arange(144).expand(6, -1)
    clip = Clip()
    clip.prepare(small("run"))
    reference = open_clip.CLIP(**clip.config)
    reference.load_state_dict(clip.model.clip.state_dict())
    text = clip.tokens[:6, 0].long()
    with torch.no_grad():
        image, words = clip.model(pictures.patches(pixels), everywhere, text)
        torch.testing.assert_close(image, reference.encode_image(pixels, normalize=True), atol=1e-5, rtol=0)
        torch.testing.assert_close(words, reference.encode_text(text, normalize=True), atol=1e-5, rtol=0)
    dino = Dino()
    dino.prepare(small("run"))
    with torch.no_grad():
        cls, tokens = dino.model(pictures.patches(pixels), everywhere)
        hidden = dino.model.backbone(pixels).last_hidden_state
    torch.testing.assert_close(
        torch.cat([cls[:, None], tokens], 1), hidden[:, [0, *range(5, 149)]], atol=1e-4, rtol=0
    )


def test_without_a_film_two_views_are_of_one_picture(small, monkeypatch):
    """As the card says: `frames = 1` turns the film off."""
    monkeypatch.setattr(Dino, "frames", 1)
    loop.train(Dino(), small("run", steps=2))
    assert all(value.isfinite().all() for value in weights(small("run").folder).values())


def test_a_later_picture_shows_the_same_things():
    for index in range(20):
        scene = make_scene(pictures.WORLD_SEED, "encoder", index)
        moved = pictures.later(scene)
        assert [obj.name for obj in moved.objects] == [obj.name for obj in scene.objects]
        assert moved.background == scene.background and moved == pictures.later(scene)
        assert not np.array_equal(moved.image(), scene.image())


def test_exported_weights_load_in_transformers(small):
    loop.train(Dino(), small("run"))
    _, report = Dinov2WithRegistersModel.from_pretrained(small("run").folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]


def test_tokenizer_says_every_word_and_ends_with_the_highest_id(small):
    clip = Clip()
    clip.prepare(small("run"))
    told = [text for i in range(64) for text in train_clip.captions_of(i)]
    ids = clip.tokenizer(told)["input_ids"]
    unknown = clip.tokenizer.convert_tokens_to_ids("<unk>")
    assert all(unknown not in row and row.index(max(row)) == len(row) - 1 for row in ids)
    assert len(set(told)) > 64 * 3  # the describers of a scene do not all say the same


def test_bag_of_words_tells_what_is_anywhere_in_a_scene(small):
    dino = Dino()
    dino.prepare(small("run"))
    tokens = torch.randn(16, 90, 128, generator=torch.Generator().manual_seed(0))
    tokens[3, 17] = 20 * dino.model.words[500]
    places = torch.rand(16, 144, generator=torch.Generator().manual_seed(1)).argsort(1)[:, :90]
    bag = dino.bag_of_words(tokens, places, torch.Generator().manual_seed(2))
    torch.testing.assert_close(bag.sum(1), torch.ones(16))
    assert bag[:, 500].argmax() == 3 and bag[3].argmax() == 500


def test_probe_finds_what_is_linear_and_nothing_in_noise():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 10, generator=generator)
    labels = np.stack([(x[:, 0] > 0.5).numpy(), (x[:, 1] + x[:, 2] > 1).numpy()], 1)
    assert evaluate.probe_map(x[:400], labels[:400], x[400:], labels[400:]) > 0.95
    noise = torch.randn(600, 10, generator=generator)
    assert evaluate.probe_map(noise[:400], labels[:400], noise[400:], labels[400:]) < 0.5


def test_patch_classifier_is_as_good_as_the_patches():
    """Tokens that hold the classes' share of the patch are classified; tokens of noise are not."""
    names = evaluate.split_labels("val", 1).names

    def cover(split: str, n: int) -> torch.Tensor:
        tokens = torch.zeros(n, 144, len(names))
        for i in range(n):
            for number, mask in evaluate.class_masks(split, i, names).items():
                tokens[i, :, number] = torch.from_numpy(mask.reshape(12, 8, 12, 8).mean((1, 3)).ravel())
        return tokens

    train, test = cover("train", 120), cover("val", 10)
    assert evaluate.patch_ap(train, test, "val", names) > 0.7
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(n, 144, 8, generator=generator) for n in (120, 10)]
    assert evaluate.patch_ap(*noise, "val", names) < 0.35


def test_spread_counts_directions_and_measures_the_mean():
    x = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    assert evaluate.spread(x).effective_rank == pytest.approx(16, abs=0.3)
    assert evaluate.spread(x).mean_over_deviation < 0.1
    assert evaluate.spread(x[:, :3]).effective_rank == pytest.approx(3, abs=0.1)
    shifted = evaluate.spread(x + 10)
    assert shifted.mean_over_deviation > 5
    for n in (4, 16):  # what training minimises: 0 for an isotropic cloud, log d for a line
        assert float(loop.log_participation(x[:, :n])) == pytest.approx(0, abs=0.02)
    line = torch.randn(4000, 1) * torch.ones(16)
    assert float(loop.log_participation(line)) == pytest.approx(math.log(16), abs=1e-3)


def test_commands_explain_themselves():
    for module in ("train_clip", "train_dino", "card"):
        command = [sys.executable, "-m", f"sparc_lib.miniworld.encoders.{module}", "--help"]
        out = subprocess.run(command, capture_output=True, text=True)
        assert out.returncode == 0 and "--threads" in out.stdout
