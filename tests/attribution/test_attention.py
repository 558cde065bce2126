"""Traced passes leave the encoders' output alone, and their gradients are those of attention written out by
hand."""

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from test_encoders import picture, write_clip, write_dino
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from sparc_lib.attribution.attention import Trace, explicit_attention, trace_image, trace_text
from sparc_lib.features.encoders import ClipEncoder, DinoEncoder
from sparc_lib.paths import WEIGHTS

TEXTS = ["a brown dog on the grass", "the cat"]


@pytest.fixture(scope="module")
def pair():
    """The shipped mini encoders."""
    return DinoEncoder(WEIGHTS / "dino"), ClipEncoder(f"local-dir:{WEIGHTS / 'clip'}")


def full_size(kind, tmp_path):
    """The real architectures at full width with two blocks and random weights."""
    if kind == "dino":
        dino = DinoEncoder(write_dino(tmp_path / "dino"))
        config = Dinov2WithRegistersConfig(
            hidden_size=1024,
            num_attention_heads=16,
            num_hidden_layers=2,
            image_size=518,
            patch_size=14,
            num_register_tokens=4,
        )
        torch.manual_seed(0)
        dino.model, dino.patch_grid = Dinov2WithRegistersModel(config).eval().requires_grad_(False), (4, 4)
        return dino, torch.randn(1, 3, 56, 56)
    config = open_clip.get_model_config(kind)
    for tower in ("vision_cfg", "text_cfg"):
        config[tower]["layers"] = 2
    clip = ClipEncoder(f"local-dir:{write_clip(tmp_path / 'clip')}")
    torch.manual_seed(0)
    clip.model = open_clip.CLIP(**config).eval().requires_grad_(False)
    clip.tokenizer = open_clip.SimpleTokenizer()
    clip.patch_grid = tuple(clip.model.visual.grid_size)
    return clip, torch.randn(1, 3, 224, 224)


def check_image(encoder, pixels, start):
    with torch.no_grad():
        stock = encoder.image_features(pixels)
    trace = trace_image(encoder, pixels, start)
    assert (trace.features - stock).abs().max() < 1e-5
    check_graph(trace, -start)
    assert trace.tokens.shape[1] == trace.patches + trace.grid[0] * trace.grid[1] == trace.norm.shape[1]
    with torch.no_grad():  # nothing stays behind on the model
        assert torch.equal(encoder.image_features(pixels), stock)
    return trace


def check_graph(trace: Trace, n_blocks: int):
    assert len(trace.attention) == n_blocks
    for a in trace.attention:
        torch.testing.assert_close(a.sum(-1), torch.ones_like(a.sum(-1)))
    inner = [*trace.attention, trace.norm]
    for gradient in torch.autograd.grad(trace.features.square().sum(), inner, retain_graph=True):
        assert gradient.abs().max() > 0  # unlike the copies that nn.MultiheadAttention returns


@pytest.mark.parametrize("start", [-1, -3])
def test_mini_encoders_image(pair, start):
    for encoder in pair:
        pixels = torch.stack([encoder.preprocess_square(picture(96, 96, s)) for s in range(3)])
        check_image(encoder, pixels, start)


def test_mini_clip_text(pair):
    clip = pair[1]
    with torch.no_grad():
        stock = clip.text_features(TEXTS)
    trace = trace_text(clip, TEXTS, -2)
    assert (trace.features - stock).abs().max() < 1e-5
    check_graph(trace, 2)
    assert trace.query.tolist() == [7, 3] and trace.grid == (0, 0)
    assert all((a.triu(1) == 0).all() for a in trace.attention)  # the causal mask is kept


@pytest.mark.parametrize("kind", ["dino", "ViT-B-16", "ViT-L-14"])
def test_full_size_architectures(kind, tmp_path):
    encoder, pixels = full_size(kind, tmp_path)
    trace = check_image(encoder, pixels, -2)
    assert trace.patches == (5 if kind == "dino" else 1)
    if kind != "dino":
        with torch.no_grad():
            stock = encoder.text_features(TEXTS)
        text = trace_text(encoder, TEXTS)
        assert (text.features - stock).abs().max() < 1e-5
        check_graph(text, 1)
        assert text.query.tolist() == [7, 3]


def by_hand(x, attention_input, project, rest, nudge):
    """A block's output with its probabilities moved by `nudge`, everything written out."""
    q, k, v, heads = attention_input(x)
    split = lambda t: t.unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
    q, k, v = split(q), split(k), split(v)
    p = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1) + nudge
    return rest(x, project((p @ v).transpose(1, 2).flatten(2))), p


def dino_by_hand(model, pixels, nudge):
    *early, block = model.encoder.layer
    x = model.embeddings(pixels)
    for layer in early:
        x = layer(x)
    x = x[0] if isinstance(x, tuple) else x
    a = block.attention

    def rest(x, mixed):
        x = x + block.layer_scale1(mixed)
        return model.layernorm(x + block.layer_scale2(block.mlp(block.norm2(x))))[:, 0]

    def inputs(x):
        n = block.norm1(x)
        return a.q_proj(n), a.k_proj(n), a.v_proj(n), model.config.num_attention_heads

    return by_hand(x, inputs, a.o_proj, rest, nudge)[0]


def clip_by_hand(visual, pixels, nudge):
    *early, block = visual.transformer.resblocks
    x = visual._embeds(pixels)
    for layer in early:
        x = layer(x)
    w, b = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)

    def rest(x, mixed):
        x = x + mixed
        return visual.ln_post(x + block.mlp(block.ln_2(x)))[:, 0] @ visual.proj

    def inputs(x):
        n = block.ln_1(x)
        return *(F.linear(n, wi, bi) for wi, bi in zip(w, b)), block.attn.num_heads

    return by_hand(x, inputs, block.attn.out_proj, rest, nudge)[0]


def test_gradients_equal_attention_written_out(pair):
    """d target / d A, by adding a free perturbation to the probabilities of a hand-written last block."""
    for encoder, hand in (
        (pair[0], lambda p, e: dino_by_hand(pair[0].model, p, e)),
        (pair[1], lambda p, e: clip_by_hand(pair[1].model.visual, p, e)),
    ):
        pixels = torch.stack([encoder.preprocess_square(picture(96, 96, s)) for s in range(2)])
        direction = torch.randn(encoder.dim, generator=torch.Generator().manual_seed(0))
        trace = trace_image(encoder, pixels)
        (ours,) = torch.autograd.grad((trace.features @ direction).sum(), trace.attention)
        nudge = torch.zeros_like(trace.attention[0], requires_grad=True)
        features = hand(pixels, nudge)
        torch.testing.assert_close(features, trace.features, atol=1e-5, rtol=1e-5)
        (theirs,) = torch.autograd.grad((features @ direction).sum(), nudge)
        assert (ours - theirs).abs().max() < 1e-5 and theirs.abs().max() > 1e-4


def test_explicit_attention_is_multihead_attention():
    """Against torch's own, with and without a causal mask; both layouts of masks."""
    attention = torch.nn.MultiheadAttention(12, 3, batch_first=True).eval()
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    causal = torch.full((5, 5), -torch.inf).triu(1)
    for mask in (None, causal, causal.expand(6, 5, 5)):
        wanted, weights = attention(x, x, x, attn_mask=mask, average_attn_weights=False)
        out, probabilities = explicit_attention(attention, x, mask)
        torch.testing.assert_close(out, wanted)
        torch.testing.assert_close(probabilities, weights)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_tracing_is_float32_whatever_the_precision_of_extraction(pair, precision):
    """Relevance is a product of small numbers: in half precision much of it rounds to 0, and NumPy has no
    bfloat16."""
    dino, clip = pair
    half_dino = DinoEncoder(WEIGHTS / "dino", precision=precision)
    half_clip = ClipEncoder(f"local-dir:{WEIGHTS / 'clip'}", precision=precision)
    pixels = torch.stack([dino.preprocess_square(picture(96, 96, s)) for s in range(2)])
    for full, half in ((dino, half_dino), (clip, half_clip)):
        assert not torch.equal(half.image_features(pixels), full.image_features(pixels))  # it does extract so
        check_equal(trace_image(half, pixels), trace_image(full, pixels))
    check_equal(trace_text(half_clip, TEXTS), trace_text(clip, TEXTS))
    with torch.autocast("cpu", dtype=torch.bfloat16):  # of a caller
        check_equal(trace_image(half_dino, pixels), trace_image(dino, pixels))
        check_equal(trace_text(half_clip, TEXTS), trace_text(clip, TEXTS))


def check_equal(ours: Trace, wanted: Trace):
    (ours_gradient,) = torch.autograd.grad(ours.features.square().sum(), ours.attention)
    (gradient,) = torch.autograd.grad(wanted.features.square().sum(), wanted.attention)
    assert torch.equal(ours_gradient, gradient)
    for name in ("features", "norm", "tokens"):
        ours_values, values = getattr(ours, name), getattr(wanted, name)
        assert ours_values.dtype == torch.float32 and torch.equal(ours_values, values)
    assert torch.equal(ours.attention[0], wanted.attention[0])


def test_faults_are_named(pair):
    pixels = torch.stack([pair[0].preprocess_square(picture(96, 96))])
    with pytest.raises(IndexError, match="4 blocks"):
        trace_image(pair[0], pixels, 7)
    with pytest.raises(IndexError, match="3 blocks"):
        trace_text(pair[1], TEXTS, -4)
    before = pair[0].model.config._attn_implementation
    with pytest.raises(ValueError, match="channel"):
        trace_image(pair[0], pixels[:, :1])  # one channel: the pass fails, the model is as before
    assert pair[0].model.config._attn_implementation == before
    assert np.isfinite(pair[0].image_features(pixels).numpy(force=True)).all()
