import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torchmetrics.functional.classification import multilabel_average_precision

from sparc_lib.evaluation import encode_store
from sparc_lib.model import SPARC
from sparc_lib.profiles import load_profile
from sparc_lib.store.reader import FeatureStore
from sparc_lib.studies import classification, tables
from sparc_lib.studies.classification import ClassifierSpec, _average_precision
from sparc_lib.studies.representations import Features, Reconstruction, SparseCodes, Split

pytestmark = pytest.mark.usefixtures("in_this_process")

FAST = ClassifierSpec(hidden=32, epochs=15, min_steps=1, batch_size=64)


class Rows:
    """Dense inputs that note the largest batch they were asked for."""

    def __init__(self, x):
        self.x, self.dim, self.largest = torch.as_tensor(x, dtype=torch.float32), x.shape[1], 0

    def __len__(self):
        return len(self.x)

    def batch(self, rows):
        found = self.x[rows]
        self.largest = max(self.largest, len(found))
        return found


def fit(train, train_labels, test, test_labels, *options, **more):
    splits = Split(train, sp.csr_array(train_labels)), Split(test, sp.csr_array(test_labels))
    return classification.classify(*splits, *options, **more)


def data(n=400, classes=4, seed=0):
    """Labels that need a hidden layer: class c is the sign of a product of two dimensions."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, 6))
    return x, np.stack([x[:, c] * x[:, c + 1] > 0.8 for c in range(classes)], 1)


def test_learns_what_no_linear_probe_can():
    (x, y), (x_test, y_test) = data(2000), data(500, seed=1)
    found = fit(
        Rows(x * [100, 1, 1, 0.01, 1, 1] + 7), y, Rows(x_test * [100, 1, 1, 0.01, 1, 1] + 7), y_test, FAST
    )
    assert found.mean_ap > 0.85 and 0.1 < found.chance < 0.3
    assert found.mean_ap == pytest.approx(
        found.average_precision.mean()
    ) and found.average_precision.shape == (4,)


def test_unrelated_labels_score_chance():
    (x, _), (x_test, y_test) = data(600), data(3000, seed=1)
    _, y = data(600, seed=2)
    found = fit(Rows(x), y, Rows(x_test), y_test, ClassifierSpec(epochs=2, min_steps=1))
    assert found.mean_ap == pytest.approx(found.chance, abs=0.06)


def test_sparse_codes_equal_the_same_rows_dense_and_stay_sparse_outside_a_batch():
    draw = np.random.default_rng(0)
    dense = draw.random((300, 40)) * (draw.random((300, 40)) < 0.1)
    labels = sp.csr_array(dense[:, :5] > 0)
    both = Rows(dense), SparseCodes(sp.csr_array(dense))
    found = [fit(inputs, labels, inputs, labels, FAST, seed=3) for inputs in both]
    np.testing.assert_allclose(found[0].average_precision, found[1].average_precision, atol=1e-4)
    assert found[0].mean_ap > 0.95
    big = SparseCodes(sp.csr_array((10**6, 10**6)))  # dense it would need 4 TB
    assert big.batch(np.array([0, 5])).shape == (2, 10**6)


def test_seeds_decide_everything_and_leave_the_global_generator_alone():
    (x, y), state = data(), torch.get_rng_state()
    short = ClassifierSpec(epochs=2, min_steps=1)
    first, again, other = (fit(Rows(x), y, Rows(x), y, short, seed).mean_ap for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state())


def test_average_precision_is_torchmetrics_and_skips_empty_classes():
    draw = np.random.default_rng(0)
    scores, positive = draw.normal(size=(80, 3)), draw.random((80, 3)) < 0.2
    expected = multilabel_average_precision(
        torch.from_numpy(scores), torch.from_numpy(positive).long(), 3, average=None
    )
    positive = np.column_stack([positive, np.zeros(80, bool)])
    found = _average_precision(np.column_stack([scores, scores[:, 0]]), positive)
    np.testing.assert_allclose(found.average_precision[:3], expected, atol=1e-6)
    assert np.isnan(found.average_precision[3]) and found.mean_ap == pytest.approx(
        expected.mean().item(), abs=1e-6
    )


def test_representations_are_the_models(tmp_path):
    draw = torch.Generator().manual_seed(0)
    x = {s: torch.randn(30, d, generator=draw) for s, d in {"dino": 6, "clip_img": 5}.items()}
    store = FeatureStore.create(tmp_path / "store", x, ids=[str(i) for i in range(30)])
    model, known, rows = SPARC(store.dims, 16, 3, generator=draw), store.tensors(), np.array([4, 20])
    codes, z = encode_store(model, store, "independent"), model.encode(known, "independent")["dino"]
    inputs = Features(store, "dino")
    torch.testing.assert_close(inputs.batch(rows), known["dino"][rows])
    assert (len(inputs), inputs.dim) == (30, 6)
    torch.testing.assert_close(SparseCodes(codes["dino"]).batch(rows), z.dense()[rows].detach())
    rebuilt = Reconstruction(model, codes["dino"], "clip_img")
    torch.testing.assert_close(rebuilt.batch(rows), model.decode(z, "clip_img")[rows].detach())
    assert rebuilt.batch(slice(None)).shape == (30, 5) and (len(rebuilt), rebuilt.dim) == (30, 5)


def labelled_store(folder, seed, n=60):
    """Streams whose first dimensions tell the label; the random-weight stores (seed 0) are noise."""
    draw = np.random.default_rng(seed + 1)
    labels = draw.random((n, 3)) < 0.4
    x = {s: draw.normal(size=(n, d)) for s, d in {"dino": 6, "clip_img": 5, "clip_txt": 5}.items()}
    for features in x.values():
        features[:, :3] += 4 * labels * (seed > 0)
    return FeatureStore.create(folder, x, ids=[str(i) for i in range(n)], labels=labels, classes=list("abc"))


def test_table_holds_every_representation_and_is_kept(tmp_path, monkeypatch, forbid):
    stores = {
        (w, split): labelled_store(tmp_path / f"{w}{split}", seed, n)
        for (w, split, seed, n) in (
            (None, "train", 1, 300),
            (None, "test", 2, 200),
            (0, "train", 0, 300),
            (0, "test", 0, 200),
        )
    }
    monkeypatch.setattr(tables, "features", lambda p, split, weights=None: stores[weights, split])
    profile = load_profile("smoke")
    profile = dataclasses.replace(
        profile, sparc=dataclasses.replace(profile.sparc, n_latents=24, k=3, epochs=1)
    )
    spec = ClassifierSpec(hidden=16, epochs=10, min_steps=1, batch_size=64)
    table = classification.classification_table(profile, spec)
    first = table[(table.setting == "global_lambda1") & (table.model == "trained")]
    assert first.groupby(["kind", "seed"]).size().to_dict() == {
        ("codes", 0): 3,
        ("codes", 1): 3,
        ("reconstruction", 0): 3,
        ("cross-reconstruction", 0): 6,
    }
    assert table.groupby(["model", "kind"]).size().drop("trained").to_dict() == {
        ("random encoders", "codes"): 3,
        ("random encoders", "raw"): 3,
        ("untrained", "codes"): 3,
    }
    raw = table[table.kind == "raw"].groupby("model").mean_ap.mean()
    assert raw["trained"] > 0.9 > raw["random encoders"] + 0.2
    forbid(classification, "_measure")
    assert classification.classification_table(profile, spec).equals(table)


def test_clear_errors():
    x, y = data(50)
    with pytest.raises(ValueError, match="train: 50 samples but 49 rows"):
        fit(Rows(x), y[1:], Rows(x), y)
    with pytest.raises(ValueError, match="test 5 dimensions and 4 classes"):
        fit(Rows(x), y, Rows(x[:, 1:]), y)
    with pytest.raises(ValueError, match="none of 4 classes"):
        fit(Rows(x), y, Rows(x), np.zeros_like(y), FAST)
