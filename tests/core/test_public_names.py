"""Every name that DESIGN promises, called as it is written there."""

import json

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import torch

DIMS = {"dino": 10, "clip_img": 8, "clip_txt": 6}


@pytest.fixture
def model():
    from sparc_lib import SPARC

    return SPARC(DIMS, n_latents=32, k=4, gate="global", k_aux=4, dead_after=1000)


@pytest.fixture
def streams():
    generator = torch.Generator().manual_seed(0)
    return {
        s: torch.nn.functional.normalize(torch.randn(12, d, generator=generator)) for s, d in DIMS.items()
    }


def test_the_model_and_its_parts(model):
    assert model.encoder["dino"].shape == model.decoder["dino"].shape == (32, 10)
    assert model.latent_bias["dino"].shape == (32,) and model.pre_bias["dino"].shape == (10,)
    assert model.steps_since_active["dino"].shape == (32,)
    assert model.steps_since_active["dino"].dtype == torch.long


def test_encode_and_decode(model, streams):
    codes = model.encode(streams, coding="joint")
    alone = model.encode({"dino": streams["dino"]}, coding="independent")
    assert list(alone) == ["dino"]
    assert codes["dino"].indices.shape == codes["dino"].values.shape == (12, 4)
    assert codes["dino"].dense().shape == (12, 32)
    assert sp.issparse(codes["dino"].to_csr()) and codes["dino"].to_csr().shape == (12, 32)
    assert model.decode(codes["dino"], "clip_img").shape == (12, 8)


def test_losses_and_a_step(model, streams):
    from sparc_lib import sparc_loss, train_step
    from sparc_lib.training import make_optimizer

    terms = sparc_loss(model, streams, cross_weight=1.0, aux_weight=1 / 32)
    parts = [terms.total, terms.nmse["dino"], terms.cross["dino", "clip_img"], terms.auxk["dino"]]
    assert all(part.ndim == 0 and part.isfinite() for part in parts)
    before = model.encoder["dino"].detach().clone()
    terms = train_step(model, make_optimizer(model), streams, cross_weight=1.0, aux_weight=1 / 32)
    torch.testing.assert_close(terms.total, parts[0].detach())
    assert not torch.equal(model.encoder["dino"], before)
    assert (model.steps_since_active["dino"] <= 1).all() and (model.steps_since_active["dino"] == 1).any()


def test_a_published_checkpoint(model, tmp_path):
    from sparc_lib import SPARC

    state = {}
    for s in DIMS:
        state[f"encoders.{s}.weight"] = model.encoder[s].detach()
        state[f"decoders.{s}.weight"] = model.decoder[s].detach().T
        state[f"pre_biases.{s}"] = model.pre_bias[s].detach()
        state[f"latent_biases.{s}"] = model.latent_bias[s].detach()
        state[f"stats_last_nonzero_{s}"] = model.steps_since_active[s]
    torch.save(state, tmp_path / "msae_checkpoint.pth")
    arguments = {"n_latents": 32, "k": 4, "topk_type": "global", "auxk": 4, "dead_steps_threshold": 1000}
    (tmp_path / "run_config.json").write_text(json.dumps({"args": arguments}))
    found = SPARC.from_published(tmp_path / "msae_checkpoint.pth", tmp_path / "run_config.json")
    assert found.config == model.config and torch.equal(found.decoder["dino"], model.decoder["dino"])


def test_measures(model, streams):
    from sparc_lib.alignment import activation_patterns, jaccard_per_latent, label_counts
    from sparc_lib.probing import probe_losses
    from sparc_lib.retrieval import retrieval_metrics
    from sparc_lib.taxonomy import Taxonomy

    tree = {"LabelName": "root", "Subcategory": [{"LabelName": "a"}, {"LabelName": "b"}]}
    taxonomy = Taxonomy.from_open_images(tree, ["a", "b"])
    assert taxonomy.max_depth == 1
    codes = {s: code.to_csr() for s, code in model.encode(streams, coding="independent").items()}
    labels = np.arange(24).reshape(12, 2) % 5 == 0
    counts = label_counts(codes, labels)
    assert jaccard_per_latent(counts, taxonomy, 1).shape == (32,)
    patterns = activation_patterns(counts)
    assert patterns.all_alive + patterns.all_dead + sum(patterns.mixed.values()) == 32
    draw = np.random.default_rng(0)
    for select_on in ("all", "train"):
        losses = probe_losses(draw.random((200, 32)), draw.random((200, 2)) < 0.4, select_on=select_on)
        assert losses.shape == (2,) and np.isfinite(losses).all()
    found = retrieval_metrics(streams["dino"], streams["dino"].flip(0))
    assert found.ranks.shape == (12,) and set(found.recall) == {1, 5, 10}
    assert found.median_rank >= 1 and 0 < found.mrr <= 1


def test_features_and_published_features(streams, tmp_path):
    from sparc_lib import FeatureStore as FromTop
    from sparc_lib.store import FeatureStore, import_hdf5

    assert FromTop is FeatureStore
    files = {}
    for s, x in streams.items():
        files[s] = tmp_path / f"{s}.h5"
        with h5py.File(files[s], "w") as file:
            file["features"] = x.numpy()
    store = import_hdf5(tmp_path / "store", files)
    assert isinstance(store, FeatureStore) and store.streams == tuple(DIMS)


def test_codes_of_imported_features_meet_those_of_the_source(model, streams, tmp_path):
    """float32 features stay float32, so codes meet the authors' to 1e-6; float16 would miss them by 1e-4."""
    from sparc_lib.evaluation import encode_store
    from sparc_lib.store import FeatureStore, import_hdf5

    files = {}
    for s, x in streams.items():
        files[s] = tmp_path / f"{s}.h5"
        with h5py.File(files[s], "w") as file:
            file.create_dataset("features", data=7 * x.numpy(), compression="gzip")
    import_hdf5(tmp_path / "store", files)
    found = encode_store(model, FeatureStore.open(tmp_path / "store"), "joint")
    with torch.no_grad():
        for s, code in model.encode(streams, coding="joint").items():
            np.testing.assert_allclose(found[s].toarray(), code.dense().numpy(), rtol=0, atol=1e-6)
