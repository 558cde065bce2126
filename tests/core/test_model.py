"""SPARC: gates, codings, typed codes, errors, state, import of published checkpoints."""

import dataclasses
import json

import pytest
import torch

from sparc_lib import SPARC
from sparc_lib.model import Code

DIMS = {"dino": 12, "clip_img": 10, "clip_txt": 8}


def build(**options):
    return SPARC(DIMS, **{"n_latents": 40, "k": 5, "generator": torch.Generator().manual_seed(0), **options})


def sample(n=7, seed=1, names=tuple(DIMS)):
    generator = torch.Generator().manual_seed(seed)
    full = {s: torch.nn.functional.normalize(torch.randn(n, d, generator=generator)) for s, d in DIMS.items()}
    return {s: full[s] for s in names}


def dense_codes(model, x, groups):
    """METHOD by the letter: h, one TopK per group of streams, ReLU."""
    h = {s: (x[s] - model.pre_bias[s]) @ model.encoder[s].T + model.latent_bias[s] for s in x}
    codes = {}
    for group in groups:
        chosen = sum(h[s] for s in group).topk(model.k, dim=1).indices
        for s in group:
            codes[s] = torch.zeros_like(h[s]).scatter(1, chosen, h[s].gather(1, chosen).relu())
    return codes


def test_parameters_and_start():
    model = build()
    for s, d in DIMS.items():
        assert model.encoder[s].shape == model.decoder[s].shape == (40, d)
        assert model.encoder[s].abs().max() <= d**-0.5 and model.encoder[s].std().item() == pytest.approx(
            d**-0.5 / 3**0.5, rel=0.1
        )
        torch.testing.assert_close(
            model.decoder[s], model.encoder[s] / model.encoder[s].norm(dim=1, keepdim=True)
        )
        assert not model.latent_bias[s].any() and not model.pre_bias[s].any()
        assert model.steps_since_active[s].dtype == torch.long and not model.steps_since_active[s].any()
    assert torch.equal(build().encoder["dino"], model.encoder["dino"])
    paper = SPARC({"a": 2}, n_latents=128, k=64)
    assert (paper.gate, paper.k_aux, paper.dead_after) == ("global", 64, 1000)


@pytest.mark.parametrize("names", [tuple(DIMS), ("dino", "clip_txt"), ("clip_img",)])
@pytest.mark.parametrize(
    "gate, coding, together",
    [
        ("global", "joint", True),
        ("global", "independent", False),
        ("local", "joint", False),
        ("local", "independent", False),
    ],
)
def test_codes_are_the_method(gate, coding, together, names):
    model, x = build(gate=gate), sample(names=names)
    with torch.no_grad():
        for s in DIMS:
            model.latent_bias[s].uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(2))
            model.pre_bias[s].uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(3))
    codes = model.encode(x, coding)
    expected = dense_codes(model, x, [names] if together else [(s,) for s in names])
    assert all(isinstance(code, Code) for code in codes.values()) and tuple(codes) == names
    for s in names:
        assert (
            codes[s].indices.shape == codes[s].values.shape == (7, 5) and codes[s].indices.dtype == torch.long
        )
        torch.testing.assert_close(codes[s].dense(), expected[s])
        for t in DIMS:
            torch.testing.assert_close(
                model.decode(codes[s], t), expected[s] @ model.decoder[t] + model.pre_bias[t]
            )
    shared = [torch.equal(codes[names[0]].indices, codes[s].indices) for s in names]
    assert all(shared) if together else sum(shared) == 1


def test_order_of_the_argument_does_not_matter():
    model, x = build(), sample()
    turned = model.encode(dict(reversed(x.items())))
    assert list(turned) == list(DIMS)
    assert all(torch.equal(turned[s].values, code.values) for s, code in model.encode(x).items())


def test_csr_keeps_only_what_is_active():
    model = build(k=40)  # every latent selected, so ReLU cuts about half
    code = model.encode(sample())["dino"]
    matrix = code.to_csr()
    assert matrix.shape == (7, 40) and matrix.has_sorted_indices
    assert (matrix.data > 0).all() and matrix.nnz == (code.values > 0).sum() < code.values.numel()
    assert (matrix.toarray() == code.dense().detach().numpy()).all()


def test_codes_are_differentiable_in_the_features():
    model, x = build().double(), {s: v.double().requires_grad_() for s, v in sample().items()}
    codes = model.encode(x)
    found = torch.autograd.grad(sum(c.values.square().sum() for c in codes.values()), list(x.values()))
    expected = torch.autograd.grad(
        sum(z.square().sum() for z in dense_codes(model, x, [tuple(x)]).values()), list(x.values())
    )
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b)


def test_encoding_leaves_counters_alone_and_state_travels():
    model = build(gate="local")
    model.steps_since_active["dino"][3] = 1234
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train().encode(sample())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.dead("dino").nonzero().tolist() == [[3]]
    twin = SPARC(**model.config)
    twin.load_state_dict(model.state_dict())
    assert twin.steps_since_active["dino"][3] == 1234 and twin.dead("dino")[3]
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters()))
    assert twin.config == model.config and twin.gate == "local"


@pytest.mark.parametrize(
    "options, words",
    [
        ({"k": 41}, "k = 41 with n_latents = 40"),
        ({"k": 0}, "choose 1 <= k"),
        ({"gate": "both"}, "'global' or 'local'"),
        ({"k_aux": -1}, "negative"),
        ({"dims": {}}, "at least one stream"),
        ({"dims": {"a.b": 3}}, "stream name 'a.b'"),
        ({"dims": {"../up": 3}}, "stream name"),
        ({"dims": {"items": 3}}, "means something to torch.nn"),
        ({"dims": {"keys": 3}}, "means something to torch.nn"),
        ({"dims": {"train": 3, "training": 3}}, "means something to torch.nn"),
        ({"dims": {"dino": 0}}, "sizes of at least 1"),
    ],
)
def test_impossible_sizes(options, words):
    with pytest.raises(ValueError, match=words):
        SPARC(**{"dims": DIMS, "n_latents": 40, "k": 5, **options})


def spoil(value):
    x = sample()
    x["clip_img"][4, 2:] = value
    x["clip_img"][4, :2] = value
    return x


@pytest.mark.parametrize(
    "streams, words",
    [
        ({}, "no stream given"),
        ({"sound": torch.ones(2, 3)}, "unknown stream 'sound'.*dino, clip_img, clip_txt"),
        ({**sample(), "dino": sample(6)["dino"]}, "different length.*dino 6, clip_img 7"),
        ({"dino": torch.ones(2, 11)}, r"'dino'.*\[2, 11\].*\[batch, 12\]"),
        ({"dino": torch.ones(12)}, r"expected \[batch, 12\]"),
        (spoil(float("nan")), "'clip_img': row 4.*not finite"),
        (spoil(float("inf")), "'clip_img': row 4.*not finite"),
        (spoil(0.0), "'clip_img': row 4.*all zero"),
    ],
)
def test_bad_batches(streams, words):
    with pytest.raises(ValueError, match=words):
        build().encode(streams)


def test_bad_arguments():
    model, codes = build(), build().encode(sample())
    with pytest.raises(ValueError, match="coding: got 'both'"):
        model.encode(sample(), "both")
    with pytest.raises(ValueError, match="unknown stream 'sound'"):
        model.decode(codes["dino"], "sound")
    with pytest.raises(ValueError, match="unknown stream 'sound'"):
        model.dead("sound")
    with pytest.raises(ValueError, match="40 latents, the model 41"):
        build(n_latents=41).decode(codes["dino"], "dino")


def published(model):
    """A state dict as in the authors' checkpoints: nn.Linear weights, flat names, another order."""
    state = {}
    for s in sorted(DIMS):
        state |= {
            f"encoders.{s}.weight": model.encoder[s].detach().clone(),
            f"decoders.{s}.weight": model.decoder[s].detach().T.clone(),
            f"pre_biases.{s}": model.pre_bias[s].detach(),
            f"latent_biases.{s}": model.latent_bias[s].detach(),
            f"stats_last_nonzero_{s}": model.steps_since_active[s].clone(),
        }
    config = {
        "args": {"n_latents": 40, "k": 5, "topk_type": model.gate, "auxk": 9, "dead_steps_threshold": 70},
        "config_file_content": {"train_stream_feature_files": {s: f"{s}.h5" for s in DIMS}},
    }
    return state, config


@pytest.mark.parametrize("gate", ["global", "local"])
def test_published_checkpoint(gate, tmp_path):
    model = build(gate=gate, k_aux=9, dead_after=70)
    with torch.no_grad():
        for s in DIMS:
            model.latent_bias[s].uniform_(-0.1, 0.1)
            model.pre_bias[s].uniform_(-0.1, 0.1)
            model.steps_since_active[s].random_(0, 200)
    state, config = published(model)
    torch.save(state, tmp_path / "msae_checkpoint.pth")
    (tmp_path / "run_config.json").write_text(json.dumps(config))
    found = SPARC.from_published(tmp_path / "msae_checkpoint.pth", tmp_path / "run_config.json")
    assert found.config == model.config and found.streams == tuple(DIMS)
    assert found.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in model.state_dict().items())
    flat = SPARC.from_published(
        state, config["args"]
    )  # without the file's outer layer the checkpoint's order holds
    assert flat.streams == tuple(sorted(DIMS)) and torch.equal(flat.decoder["dino"], model.decoder["dino"])


def test_published_checkpoint_errors():
    state, config = published(build())
    for key, ours in (("encoders.dino.weight", "encoder.dino"), ("pre_biases.clip_txt", "pre_bias.clip_txt")):
        bad = state[key].clone()
        bad.view(-1)[3] = torch.nan
        with pytest.raises(ValueError, match=f"model: {ours} holds NaN"):
            SPARC.from_published(state | {key: bad}, config)
    with pytest.raises(ValueError, match="no 'latent_biases.dino'"):
        SPARC.from_published({k: v for k, v in state.items() if k != "latent_biases.dino"}, config)
    with pytest.raises(ValueError, match="run_config.json: no 'n_latents'"):
        SPARC.from_published(state, {"args": {"k": 5}})
    with pytest.raises(ValueError, match="msae_checkpoint.pth"):
        SPARC.from_published({"weight": torch.ones(1)}, config)
    with pytest.raises(ValueError, match=r"'decoders.dino.weight' has shape \[40, 12\]"):
        SPARC.from_published(state | {"decoders.dino.weight": torch.ones(40, 12)}, config)


def test_a_run_config_without_its_gate_is_asked_not_guessed():
    model = build(gate="local", k_aux=9, dead_after=70)
    state, config = published(model)
    del config["args"]["topk_type"]
    with pytest.raises(ValueError, match="run_config.json: no 'topk_type'; pass gate="):
        SPARC.from_published(state, config)
    assert SPARC.from_published(state, config, gate="local").config == model.config
    config["args"]["topk_type"] = "global"
    with pytest.raises(ValueError, match="'topk_type' is 'global', not 'local'; omit gate"):
        SPARC.from_published(state, config, gate="local")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"dims": {"dino": 4.0}}, "dims: stream 'dino': got 4.0; give a whole number"),
        ({"dims": [("dino", 4)]}, "dims: got .*give a mapping"),
        ({"k": 2.5}, "k: got 2.5"),
        ({"k_aux": 2.5}, "k_aux: got 2.5"),
        ({"dead_after": float("nan")}, "dead_after: got nan"),
        ({"n_latents": "40"}, "n_latents: got '40'"),
    ],
)
def test_sizes_are_whole_numbers(options, words):
    with pytest.raises(ValueError, match=words):
        SPARC(**{"dims": {"dino": 4}, "n_latents": 40, "k": 5, **options})


def test_a_code_that_points_beyond_the_latents_is_refused():
    """On a CPU its rows were read from foreign memory."""
    model = build()
    code = model.encode(sample())["dino"]
    for far in (40, -40):
        with pytest.raises(ValueError, match="indices beyond 0 ... 39"):
            model.decode(dataclasses.replace(code, indices=code.indices + far), "dino")
    with pytest.raises(ValueError, match=r"have shapes \[7, 1\] and \[7, 5\]"):
        model.decode(dataclasses.replace(code, indices=code.indices[:, :1]), "dino")
    with pytest.raises(ValueError, match="code: got a csr_matrix"):
        model.decode(code.to_csr(), "dino")
    with pytest.raises(ValueError, match="streams: got a Tensor; give a mapping"):
        model.encode(sample()["dino"])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"k": "5"}, "run_config.json: 'k': got '5'"),
        ({"n_latents": 40.0}, "run_config.json: 'n_latents': got 40.0"),
        ({"dead_steps_threshold": None}, "'dead_steps_threshold': got None"),
    ],
)
def test_a_run_config_of_other_kinds_is_named(change, words):
    state, config = published(build())
    with pytest.raises(ValueError, match=words):
        SPARC.from_published(state, config["args"] | change)
    assert SPARC.from_published(state, config["args"] | {"config_file_content": None}).k == 5


def test_published_tensors_of_other_kinds_are_named():
    state, config = published(build())
    fractions = torch.full((40,), 0.5)
    for key, value, words in (
        ("encoders.dino.weight", state["encoders.dino.weight"] * 1j, "complex numbers"),
        ("encoders.dino.weight", torch.ones(40), r"has shape \[40\], not 2 dimensions"),
        ("stats_last_nonzero_dino", fractions, "fractions or NaN"),
        ("stats_last_nonzero_dino", fractions * torch.nan, "fractions or NaN"),
    ):
        with pytest.raises(ValueError, match=f"checkpoint: '{key}'.*{words}"):
            SPARC.from_published(state | {key: value}, config)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04cut"])
def test_broken_published_files_are_named(tmp_path, content):
    state, config = published(build())
    (tmp_path / "msae_checkpoint.pth").write_bytes(content)
    with pytest.raises(ValueError, match="msae_checkpoint.pth: no tensors can be read.*download it again"):
        SPARC.from_published(tmp_path / "msae_checkpoint.pth", config)
    (tmp_path / "run_config.json").write_bytes(b"{" + content)
    with pytest.raises(ValueError, match="run_config.json: not valid JSON"):
        SPARC.from_published(state, tmp_path / "run_config.json")
    (tmp_path / "run_config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(config).encode())
    assert SPARC.from_published(state, tmp_path / "run_config.json").k == 5
