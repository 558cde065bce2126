"""The two encoders, loaded from tiny random checkpoints through the same calls as the real ones."""

import json
import os

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, PreTrainedTokenizerFast

from sparc_lib.features.encoders import ClipEncoder, DinoEncoder
from sparc_lib.features.hub import _tag_and_file

WORDS = ["<pad>", "<unk>", "<start>", "a", "brown", "dog", "cat", "on", "the", "grass", "<end>"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def write_dino(directory, processor=None, seed=0):
    """A 2-layer Dinov2WithRegisters for 28 px input, as `save_pretrained` leaves it."""
    config = Dinov2WithRegistersConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=28,
        patch_size=7,
        num_register_tokens=4,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Dinov2WithRegistersModel(config).save_pretrained(directory)
    spec = {"size": {"height": 28, "width": 28}, "image_mean": MEAN, "image_std": STD}
    (directory / "preprocessor_config.json").write_text(json.dumps(spec if processor is None else processor))
    return directory


def write_clip(directory, seed=0):
    """A 2-layer open_clip CLIP with a word-level tokenizer, in the layout of `local-dir:`."""
    directory.mkdir(exist_ok=True)
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {
            "context_length": 12,
            "vocab_size": len(WORDS),
            "width": 32,
            "heads": 2,
            "layers": 2,
            "hf_tokenizer_name": "tokenizer",
        },
    }
    (directory / "open_clip_config.json").write_text(
        json.dumps(
            {
                "model_cfg": config,
                "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"},
            }
        )
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_file(open_clip.CLIP(**config).state_dict(), directory / "open_clip_model.safetensors")
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 2), ("<end>", len(WORDS) - 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<start>", eos_token="<end>"
    ).save_pretrained(directory)
    return directory


def as_hub_cache(cache, repo, directory):
    """What a download leaves in the hub's cache."""
    place = cache / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    (place / "snapshots").mkdir()
    os.symlink(directory, place / "snapshots" / COMMIT)
    return cache


@pytest.fixture(scope="module")
def dino_dir(tmp_path_factory):
    return write_dino(tmp_path_factory.mktemp("dino"))


@pytest.fixture(scope="module")
def clip_dir(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and a run that may not use the network."""
    monkeypatch.setenv("SPARC_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_dino_feature_is_the_normed_cls_token(dino_dir):
    dino = DinoEncoder(dino_dir)
    pixels = torch.stack([dino.preprocess(picture(28, 28, s)) for s in range(3)])
    features = dino.image_features(pixels)
    reference = Dinov2WithRegistersModel.from_pretrained(dino_dir).eval()
    with torch.no_grad():
        torch.testing.assert_close(features, reference(pixels).last_hidden_state[:, 0])
    assert (dino.dim, dino.patch_grid, features.shape) == (32, (4, 4), (3, 32))
    assert not features.requires_grad and not dino.model.training


def test_dino_gradients_reach_the_pixels(dino_dir):
    """Attribution needs gradients through the frozen network."""
    pixels = torch.randn(1, 3, 28, 28, requires_grad=True)
    DinoEncoder(dino_dir).image_features(pixels)[0, 0].backward()  # (the sum of a layer norm is constant)
    assert pixels.grad.abs().sum() > 0


def test_mini_input_is_used_as_it_is(dino_dir):
    image = picture(28, 28)
    expected = (
        torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - torch.tensor(MEAN).view(3, 1, 1)
    ) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(DinoEncoder(dino_dir).preprocess(image), expected)


def test_weights_stored_in_half_precision_are_computed_in_single(tmp_path):
    write_dino(tmp_path)
    Dinov2WithRegistersModel.from_pretrained(tmp_path).half().save_pretrained(tmp_path)
    assert {p.dtype for p in DinoEncoder(tmp_path).model.parameters()} == {torch.float32}


def test_paper_preprocessing(tmp_path):
    """Resize the shorter side to 256 bicubic, crop the centre 224, ImageNet mean and std."""
    spec = {
        "do_resize": True,
        "size": {"shortest_edge": 256},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
        "image_mean": MEAN,
        "image_std": STD,
    }
    dino = DinoEncoder(write_dino(tmp_path, spec))
    image = picture(640, 512)
    small = image.resize((320, 256), Image.Resampling.BICUBIC).crop((48, 16, 272, 240))
    expected = (
        torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255 - torch.tensor(MEAN).view(3, 1, 1)
    ) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(dino.preprocess(image), expected)
    assert dino.preprocess_square(image).shape == (3, 224, 224) and dino.patch_grid == (32, 32)


@pytest.mark.parametrize("prefix", ["local-dir:", ""])
def test_clip_features_are_projected_and_not_normalised(clip_dir, prefix):
    clip = ClipEncoder(f"{prefix}{clip_dir}")
    reference, _, _ = open_clip.create_model_and_transforms(f"local-dir:{clip_dir}")
    pixels = torch.stack([clip.preprocess(picture(32, 32, s)) for s in range(3)])
    texts = ["a brown dog on the grass", "a cat"]
    with torch.no_grad():
        torch.testing.assert_close(clip.image_features(pixels), reference.eval().encode_image(pixels))
        torch.testing.assert_close(clip.text_features(texts), reference.encode_text(clip.tokenize(texts)))
    assert (clip.dim, clip.patch_grid) == (24, (4, 4))
    assert not torch.allclose(clip.image_features(pixels).norm(dim=1), torch.ones(3))
    assert clip.tokenize(texts).tolist()[1] == [2, 3, 6, 10] + [0] * 8
    assert clip.tokenize(["dog " * 40]).shape == (1, 12) and clip.tokenize(["dog " * 40])[0, -1] == 10
    assert clip.preprocess_square(picture(50, 20)).shape == (3, 32, 32)


def test_local_revision_follows_the_weights_and_fingerprint_the_settings(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir(), (tmp_path / "c").mkdir()
    spec = {"size": {"height": 28, "width": 28}, "image_mean": [0.5] * 3, "image_std": STD}
    one, other = DinoEncoder(write_dino(tmp_path / "a")), DinoEncoder(write_dino(tmp_path / "b", seed=1))
    shifted = DinoEncoder(write_dino(tmp_path / "c", spec))
    again, half = DinoEncoder(tmp_path / "a"), DinoEncoder(tmp_path / "a", precision="bfloat16")
    assert one.revision.startswith("sha256-") and one.revision != other.revision
    assert one.revision == shifted.revision and one.fingerprint != shifted.fingerprint
    assert one.fingerprint == again.fingerprint != half.fingerprint
    assert str(tmp_path) not in json.dumps([one.name, one.revision])


def test_clip_fingerprint_follows_the_tokenizer(tmp_path):
    before = ClipEncoder(write_clip(tmp_path / "clip")).fingerprint
    assert before == ClipEncoder(tmp_path / "clip").fingerprint
    path = tmp_path / "clip" / "tokenizer.json"
    path.write_text(path.read_text().replace('"dog"', '"hound"'))
    assert ClipEncoder(tmp_path / "clip").fingerprint != before


def test_random_weights_keep_the_architecture_and_are_deterministic(dino_dir, clip_dir):
    pixels = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    a, b, c = (DinoEncoder(dino_dir, random_weights=seed) for seed in (5, 5, 6))
    x, y, z = (ClipEncoder(clip_dir, random_weights=seed) for seed in (5, 5, 6))
    assert torch.equal(state, torch.get_rng_state())
    trained = DinoEncoder(dino_dir)
    assert torch.equal(a.image_features(pixels), b.image_features(pixels))
    assert not torch.allclose(a.image_features(pixels), c.image_features(pixels))
    assert not torch.allclose(a.image_features(pixels), trained.image_features(pixels))
    assert [p.shape for p in a.model.parameters()] == [p.shape for p in trained.model.parameters()]
    assert torch.equal(x.text_features(["a dog"]), y.text_features(["a dog"]))
    assert not torch.allclose(x.text_features(["a dog"]), z.text_features(["a dog"]))
    assert a.revision == "random-5" and len({a.fingerprint, c.fingerprint, trained.fingerprint}) == 3


@pytest.mark.parametrize("precision", ["bfloat16"])
def test_autocast_stays_close(dino_dir, clip_dir, precision):
    for encoder, size in ((DinoEncoder, 28), (ClipEncoder, 32)):
        directory = dino_dir if encoder is DinoEncoder else clip_dir
        pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        exact = encoder(directory).image_features(pixels)
        quick = encoder(directory, precision=precision).image_features(pixels)
        assert quick.dtype == torch.float32 and not torch.equal(quick, exact)
        assert torch.cosine_similarity(quick, exact).min() > 0.99
    with pytest.raises(ValueError, match="precision"):
        DinoEncoder(dino_dir, precision="int8")


def test_hub_names_load_from_the_cache_with_their_commit(hub_cache, dino_dir, clip_dir):
    as_hub_cache(as_hub_cache(hub_cache, "org/dino", dino_dir), "org/clip", clip_dir)
    dino = DinoEncoder("org/dino")
    clip = ClipEncoder("hf-hub:org/clip")
    assert (dino.name, dino.revision) == ("org/dino", COMMIT) and (clip.name, clip.revision) == (
        "org/clip",
        COMMIT,
    )
    pixels = torch.randn(1, 3, 28, 28)
    assert torch.equal(dino.image_features(pixels), DinoEncoder(dino_dir).image_features(pixels))
    assert torch.equal(clip.text_features(["a cat"]), ClipEncoder(clip_dir).text_features(["a cat"]))
    assert DinoEncoder("org/dino", revision=COMMIT).revision == COMMIT
    with pytest.raises(FileNotFoundError, match="org/dino.*revision other"):
        DinoEncoder("org/dino", revision="other")


@pytest.mark.parametrize(
    "load, words",
    [
        (
            lambda: DinoEncoder("org/absent"),
            "org/absent.*config.json.*hf download org/absent",
        ),
        (
            lambda: ClipEncoder("hf-hub:org/absent"),
            "org/absent.*hf download",
        ),
        (
            lambda: ClipEncoder("ViT-B-16", "datacomp_xl_s13b_b90k"),
            "laion/CLIP-ViT-B-16-DataComp.XL.*open_clip_model.safetensors.*hf download",
        ),
        (
            lambda: ClipEncoder("RN50", "yfcc15m"),
            "hub model|fetch it once",
        ),
        (lambda: DinoEncoder("/some/nowhere"), "nowhere: no such directory"),
    ],
)
def test_missing_models_are_named_with_a_remedy(hub_cache, load, words):
    with pytest.raises(FileNotFoundError, match=words):
        load()


def test_half_a_hub_download_is_named(hub_cache, tmp_path, dino_dir):
    part = tmp_path / "part"
    part.mkdir()
    (part / "config.json").write_text((dino_dir / "config.json").read_text())
    as_hub_cache(hub_cache, "org/dino", part)
    with pytest.raises(FileNotFoundError, match="preprocessor_config.json"):
        DinoEncoder("org/dino")
    (part / "preprocessor_config.json").write_text((dino_dir / "preprocessor_config.json").read_text())
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        DinoEncoder("org/dino")
    assert DinoEncoder("org/dino", random_weights=0).revision == "random-0"


def test_clip_without_weights_is_an_error(tmp_path, clip_dir):
    with pytest.raises(ValueError, match="no weights.*pretrained.*random_weights"):
        ClipEncoder("ViT-B-16")
    with pytest.raises(ValueError, match="neither a tag of 'ViT-B-16' nor TAG:FILE"):
        ClipEncoder("ViT-B-16", "no_such_tag")
    with pytest.raises(ValueError, match="neither a directory nor an open_clip model"):
        ClipEncoder("ViT-Z-99", "datacomp_xl_s13b_b90k")
    write_clip(tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights.*open_clip_model.safetensors"):
        ClipEncoder(f"local-dir:{tmp_path}")
    assert ClipEncoder(f"local-dir:{tmp_path}", random_weights=1).dim == 24


@pytest.fixture
def tagged_model(tmp_path, monkeypatch):
    """A small open_clip model with two published tags of other settings, and the file of its weights."""
    write_clip(tmp_path / "clip")
    config = json.loads((tmp_path / "clip/open_clip_config.json").read_text())["model_cfg"]
    config["text_cfg"]["hf_tokenizer_name"] = str(tmp_path / "clip")
    (tmp_path / "small-test-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "small-test-clip.json")
    common = {"hf_hub": "", "std": [0.3] * 3, "resize_mode": "squash"}
    tags = {
        "quick": common
        | {"url": "http://x/quick.pt", "mean": [0.1] * 3, "interpolation": "bilinear", "quick_gelu": True},
        "plain": common | {"url": "http://x/plain.pt", "mean": [0.2] * 3, "interpolation": "bicubic"},
    }
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda model: list(tags))
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: tags.get(tag))
    return tmp_path / "clip/open_clip_model.safetensors"


def test_weights_given_as_a_file_keep_the_settings_of_their_tag(tagged_model, tmp_path):
    """Activation, mean, deviation and resizing: nothing of it is in the file."""
    quick = ClipEncoder("small-test-clip", f"quick:{tagged_model}")
    plain = ClipEncoder("small-test-clip", f"plain:{tagged_model}")
    activations = [
        {type(block.mlp.gelu).__name__ for block in clip.model.visual.transformer.resblocks}
        for clip in (quick, plain)
    ]
    assert activations == [{"QuickGELU"}, {"GELU"}]
    normalise = [clip.preprocess.transforms[-1] for clip in (quick, plain)]
    assert [(step.mean[0], step.std[0]) for step in normalise] == [(0.1, 0.3), (0.2, 0.3)]
    assert quick.preprocess(picture(50, 20)).shape == (3, 32, 32) and "bilinear" in repr(quick.preprocess)
    assert quick.fingerprint != plain.fingerprint and quick.revision == plain.revision
    named = tmp_path / "quick.pt"
    named.write_bytes(b"not read")
    assert _tag_and_file("small-test-clip", str(named)) == ("quick", named)


def test_a_file_without_its_tag_is_refused(tagged_model):
    with pytest.raises(ValueError, match="does not say with which activation.*write TAG:.*quick.*plain"):
        ClipEncoder("small-test-clip", str(tagged_model))
    with pytest.raises(FileNotFoundError, match="/nowhere.pt: no such file; mend the path after 'quick:'"):
        ClipEncoder("small-test-clip", "quick:/nowhere.pt")


def test_incomplete_dino_weights_are_an_error(tmp_path):
    """transformers fills missing weights with random ones and a warning."""
    write_dino(tmp_path)
    model = Dinov2WithRegistersModel.from_pretrained(tmp_path)
    kept = {k: v for k, v in model.state_dict().items() if "register_tokens" not in k}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="register_tokens"):
        DinoEncoder(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ValueError, match="preprocessor_config.json.*size"):
        DinoEncoder(tmp_path, random_weights=0)
