"""Relevance meets the published code's numbers; targets, codes and words are what they say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from test_encoders import picture

from sparc_lib import SPARC
from sparc_lib.attribution.relevance import (
    attention_relevance,
    encode_traces,
    grad_cam,
    heatmap,
    latent_target,
    match_target,
    raw_attention,
    relevance_row,
    similarity_target,
    text_relevance,
    token_relevance,
    trace_pairs,
    word_relevance,
    words_of,
)
from sparc_lib.features.encoders import ClipEncoder, DinoEncoder
from sparc_lib.paths import WEIGHTS

TEXTS = ["In this image there is a brown dog on the grass.", "There is a cat."]
SEED = torch.Generator().manual_seed


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parents[1] / "golden" / "metrics.npz") as arrays:
        return {key.split("/")[1]: arrays[key] for key in arrays if key.startswith("relevance/")}


@pytest.fixture(scope="module")
def pair():
    return DinoEncoder(WEIGHTS / "dino"), ClipEncoder(f"local-dir:{WEIGHTS / 'clip'}")


@pytest.fixture(scope="module")
def traces(pair):
    return trace_pairs(*pair, [picture(96, 96, s) for s in range(2)], TEXTS)


@pytest.fixture(scope="module", params=["global", "local"])
def model(request, pair):
    dims = {"dino": pair[0].dim, "clip_img": pair[1].dim, "clip_txt": pair[1].dim}
    return SPARC(dims, 64, 8, request.param, generator=SEED(0)).requires_grad_(False)


@pytest.mark.parametrize("start", [0, 2])
def test_relevance_is_the_published_codes(golden, start):
    wanted = golden[f"start{start}"]
    found = attention_relevance(golden["attention"], golden["gradient"], start)
    assert isinstance(found, np.ndarray) and np.abs(found - wanted).max() < 1e-6
    blocks = [[torch.as_tensor(x)[None] for x in golden[name][start:]] for name in ("attention", "gradient")]
    for token in range(len(wanted)):  # one row at a time, without the matrix
        assert np.abs(relevance_row(*blocks, torch.tensor([token]))[0].numpy() - wanted[token]).max() < 1e-6


def test_relevance_refuses_other_shapes(golden):
    with pytest.raises(ValueError, match="blocks, heads, T, T"):
        attention_relevance(golden["attention"], golden["gradient"][:, :, :, :-1])


def test_codes_are_differentiable_in_the_streams(model):
    """Against central differences in float64, at a point where the gate does not change."""
    in_float64 = SPARC(model.dims, 64, 8, model.gate, generator=SEED(0)).double().requires_grad_(False)
    x = {
        s: torch.randn(3, d, generator=SEED(i), dtype=torch.float64)
        for i, (s, d) in enumerate(model.dims.items())
    }
    for coding in ("joint", "independent"):

        def target(y, coding=coding):
            codes = in_float64.encode({**x, "dino": y}, coding)
            return match_target(codes["dino"], codes["clip_txt"]).sum()

        start = x["dino"].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(target(start), start)
        direction = torch.randn(gradient.shape, generator=SEED(9), dtype=torch.float64)
        step = 1e-6
        numeric = (target(x["dino"] + step * direction) - target(x["dino"] - step * direction)) / (2 * step)
        slope = (gradient * direction).sum().item()
        assert gradient.abs().max() > 0 and slope == pytest.approx(numeric.item(), rel=1e-4, abs=1e-7)


def test_targets_by_hand(model, traces):
    for coding in ("joint", "independent"):
        codes = encode_traces(model, traces, coding)
        dense = {stream: code.dense() for stream, code in codes.items()}
        torch.testing.assert_close(
            match_target(codes["dino"], codes["clip_txt"]), (dense["dino"] * dense["clip_txt"]).sum(1)
        )
        torch.testing.assert_close(
            latent_target(codes["dino"], [1, 5, 9]), dense["dino"][:, [1, 5, 9]].sum(1)
        )
        table = torch.rand(2, 64, generator=SEED(1)) < 0.5
        torch.testing.assert_close(latent_target(codes["dino"], table), (dense["dino"] * table).sum(1))


def test_a_batch_gives_what_its_samples_give_alone(pair, model, traces):
    """Samples do not touch each other, and one pass serves several targets."""

    def maps(traces):
        codes = encode_traces(model, traces, "joint")
        match = match_target(codes["dino"], codes["clip_txt"])
        return [
            heatmap(traces["dino"], match),
            heatmap(traces["clip_img"], similarity_target(traces["clip_img"], traces["clip_txt"])),
            grad_cam(traces["dino"], match),
            heatmap(traces["dino"], match),
        ]

    together = maps(traces)
    assert torch.equal(together[0], together[3])
    for i in range(2):
        alone = maps(trace_pairs(*pair, [picture(96, 96, i)], TEXTS[i : i + 1]))
        for a, b in zip(alone, together):
            assert b.shape == (2, 12, 12) and (b >= 0).all()
            torch.testing.assert_close(a[0], b[i], atol=1e-5, rtol=1e-3)


def test_heatmap_is_the_cls_row_of_relevance(traces):
    """A traced pass and the public formula agree; without gradient-positive attention nothing is left."""
    trace = traces["clip_img"]
    target = similarity_target(trace, traces["clip_txt"])
    (gradient,) = torch.autograd.grad(target.sum(), trace.attention, retain_graph=True)
    for i in range(2):
        whole = attention_relevance(trace.attention[0][i : i + 1].detach(), gradient[i : i + 1])
        torch.testing.assert_close(heatmap(trace, target)[i].flatten(), whole[0, 1:])
    assert torch.allclose(
        raw_attention(trace).sum((1, 2)) + trace.attention[0][:, :, 0, 0].mean(1), torch.ones(2)
    )
    nothing = token_relevance(trace, target, [torch.zeros_like(trace.attention[0])])
    assert torch.equal(nothing, torch.nn.functional.one_hot(trace.query, nothing.shape[1]).float())


def test_deeper_start_blocks(pair):
    traces = trace_pairs(*pair, [picture(96, 96)], TEXTS[:1], start_block=-2)
    target = similarity_target(traces["clip_img"], traces["clip_txt"])
    gradient = torch.autograd.grad(target.sum(), traces["clip_img"].attention, retain_graph=True)
    stacked = [torch.stack([x[0].detach() for x in xs]) for xs in (traces["clip_img"].attention, gradient)]
    whole = attention_relevance(*stacked)
    torch.testing.assert_close(
        heatmap(traces["clip_img"], target)[0].flatten(), whole[0, 1:], atol=1e-7, rtol=1e-4
    )


def test_text_relevance_covers_words_only(pair, model, traces):
    tokens = text_relevance(traces["clip_txt"], similarity_target(traces["clip_img"], traces["clip_txt"]))
    ends = traces["clip_txt"].query
    assert (tokens >= 0).all() and tokens.max() > 0
    assert all((tokens[i, end:] == 0).all() for i, end in enumerate(ends))
    words = words_of(pair[1], TEXTS[0])
    assert " ".join(w.text for w in words) == "In this image there is a brown dog on the grass ."
    shares = word_relevance(words, tokens[0])
    assert shares.sum() == pytest.approx(tokens[0, 1:].sum().item(), rel=1e-5)  # all but the start token


def test_words_of_byte_pairs(pair):
    """open_clip's own tokenizer splits words; their pieces are joined again."""
    clip = ClipEncoder(f"local-dir:{WEIGHTS / 'clip'}")
    clip.tokenizer = open_clip.SimpleTokenizer()
    words = words_of(clip, "A pterodactyl, unbelievably!")
    assert [w.text for w in words] == ["a", "pterodactyl", ",", "unbelievably", "!"]
    assert len(words[1].tokens) > 1 and [p for w in words for p in w.tokens] == list(
        range(1, words[-1].tokens[-1] + 1)
    )
    tokens = torch.arange(77.0)
    assert word_relevance(words, tokens)[1] == sum(words[1].tokens)


def test_long_texts_are_cut_at_the_context(pair):
    words = words_of(pair[1], "dog " * 50)
    assert max(p for w in words for p in w.tokens) < pair[1].tokenize(["dog"]).shape[1]


def test_heatmaps_can_be_scored_without_importing_an_encoder():
    """transformers, open_clip and torchvision take seconds; notebooks import this before they need any."""
    modules = "attention, methods, relevance, segmentation, words"
    heavy = {"transformers", "open_clip", "torchvision", "skimage"}
    code = (
        f"import sys; from sparc_lib.attribution import {modules}; print(*(set({heavy}) & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []
