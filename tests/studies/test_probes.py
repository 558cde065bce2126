import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score

from sparc_lib.evaluation import encode_store
from sparc_lib.profiles import load_profile
from sparc_lib.studies import probes, tables
from sparc_lib.studies.probes import linear_probe
from sparc_lib.studies.representations import Reconstruction, SparseCodes, Split
from sparc_lib.studies.runs import untrained

pytestmark = pytest.mark.usefixtures("in_this_process")


class Rows:
    """Samples as an array."""

    def __init__(self, x):
        self.x, self.dim = x, x.shape[1]

    def __len__(self):
        return len(self.x)

    def block(self, rows):
        return self.x[rows]


def split_of(x, labels):
    return Split(SparseCodes(x) if sp.issparse(x) else Rows(x), sp.csr_array(labels))


def problem(seed, n=400, d=12):
    """Class 0 is linearly readable, class 1 is noise."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((n, d)) + 3
    readable = x @ np.linspace(-1, 1, d) + 0.3 * draw.standard_normal(n) > 0.5
    return x, np.stack([readable, draw.random(n) < 0.3], axis=1)


def test_equals_scikit_learns_ridge():
    (x, y), (v, w), (t, u) = (problem(seed) for seed in range(3))
    found = linear_probe(split_of(x, y), split_of(v, w), split_of(t, u), penalties=[0.1])
    centred = x - x.mean(0)
    alpha = 0.1 * len(x) * (centred**2).sum() / centred.size
    scores = Ridge(alpha=alpha, solver="cholesky").fit(x, 2.0 * y - 1).predict(t)
    expected = [average_precision_score(u[:, c], scores[:, c]) for c in range(2)]
    np.testing.assert_allclose(found.average_precision, expected, rtol=1e-9)
    assert found.mean_ap == pytest.approx(np.mean(expected)) and found.penalty == 0.1
    assert found.chance == pytest.approx(u.mean())
    assert found.average_precision[0] > 0.9 and abs(found.average_precision[1] - 0.3) < 0.15


def test_blocks_and_sparse_codes_change_nothing(monkeypatch):
    splits = [problem(seed) for seed in range(3)]
    codes = [(np.where(x > 3.5, x, 0), y) for x, y in splits]
    whole = linear_probe(*(split_of(x, y) for x, y in codes))
    monkeypatch.setattr(probes, "BLOCK", 64)
    blocks = linear_probe(*(split_of(x, y) for x, y in codes))
    np.testing.assert_allclose(blocks.average_precision, whole.average_precision, rtol=1e-9)
    sparse = linear_probe(*(split_of(sp.csr_matrix(x), y) for x, y in codes))
    np.testing.assert_allclose(
        sparse.average_precision, whole.average_precision, rtol=1e-4
    )  # codes are float32


def test_the_penalty_is_chosen_on_validation_not_on_test():
    (x, y), (v, w), (t, u) = (problem(seed, n=40, d=25) for seed in range(3))
    grid = [1e-8, 1e-2, 1.0, 100.0]

    def error(a):
        alpha = a * ((x - x.mean(0)) ** 2).sum() / 25
        return np.square(
            Ridge(alpha=alpha, solver="cholesky").fit(x, 2.0 * y - 1).predict(v) - 2.0 * w + 1
        ).sum()

    chosen = linear_probe(split_of(x, y), split_of(v, w), split_of(t, ~u), grid)  # test labels turned around
    assert chosen.penalty == min(grid, key=error) and grid[0] < chosen.penalty < grid[-1]


def test_classes_that_cannot_be_scored_are_left_out():
    (x, y), (v, w), (t, u) = (problem(seed) for seed in range(3))
    never = np.zeros((400, 1), bool)
    found = linear_probe(*(split_of(a, np.hstack([b, never])) for a, b in ((x, y), (v, w), (t, u))))
    assert np.isnan(found.average_precision[2]) and found.chance == pytest.approx(u.mean())
    with pytest.raises(
        ValueError, match="no class has both positives and negatives among the training and the test"
    ):
        linear_probe(split_of(x, y), split_of(v, w), split_of(t, np.zeros((400, 2))))


def test_disagreeing_sizes_and_constant_inputs_are_refused():
    x, y = problem(0)
    with pytest.raises(ValueError, match="400 samples but 399 rows of labels"):
        linear_probe(split_of(x, y[:-1]), split_of(x, y), split_of(x, y))
    with pytest.raises(ValueError, match="400 samples but 399 rows"):
        linear_probe(split_of(x, y), split_of(x, y), split_of(x, y[:-1]))
    with pytest.raises(ValueError, match="inputs are all equal"):
        linear_probe(split_of(np.ones_like(x), y), split_of(x, y), split_of(x, y))


def test_reconstructions_are_the_models(small_store):
    store = small_store("test", 40)
    profile = load_profile("smoke")
    model = untrained(profile, profile.settings[0], 0, store)
    codes = encode_store(model, store, "joint")  # some rows have fewer than k entries
    assert len(set(np.diff(codes["dino"].indptr))) > 1
    with torch.no_grad():
        expected = model.decode(model.encode(store.tensors(), "joint")["dino"], "clip_img").numpy()
    made = Reconstruction(model, codes["dino"], "clip_img").block(slice(None))
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_tables_hold_every_model_and_are_cached(small_store, monkeypatch, forbid):
    profile = load_profile("smoke")
    profile = dataclasses.replace(
        profile,
        seeds=(0,),
        sparc=dataclasses.replace(profile.sparc, n_latents=24, k=4),
        evaluation=dataclasses.replace(profile.evaluation, probe_min_positives=3),
    )
    stores = {split: small_store(split, 80) for split in ("train", "val", "test")}
    monkeypatch.setattr(tables, "features", lambda profile, split, weights=None: stores[split])
    latents = probes.latent_probe_table(profile)
    columns = ("model", "setting", "seed", *probes.LatentProbeRow._fields)
    assert len(latents) == 8 * 3 * 3 and tuple(latents) == columns
    local = latents[latents.setting.eq("local_lambda1") & latents.select_on.eq("train")]
    assert local.groupby(["model", "stream"]).loss.nunique().eq(1).all()  # one coding, one number
    assert latents.loss.between(0, 3).all() and latents.n_classes.eq(8).all()
    linear = probes.linear_probe_table(profile)
    assert len(linear) == 3 + 8 * 2 * 3 and linear.mean_ap.gt(0).all()
    raw = linear[linear.model == "raw"]
    assert (raw.representation == "raw").all() and (
        raw.mean_ap - raw.chance
    ).min() > 0.3  # concepts are linear
    assert set(linear.stream) == {"dino", "clip_img", "clip_txt"}
    for name in ("_latent_rows", "_linear_rows"):
        forbid(probes, name)
    assert probes.latent_probe_table(profile).equals(latents)
    assert probes.linear_probe_table(profile).equals(linear)
