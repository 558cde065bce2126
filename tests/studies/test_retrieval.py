import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from sparc_lib.evaluation import encode_store
from sparc_lib.model import SPARC
from sparc_lib.profiles import load_profile
from sparc_lib.retrieval import retrieval_metrics
from sparc_lib.store.reader import FeatureStore
from sparc_lib.studies import baselines, tables
from sparc_lib.studies import retrieval as rr
from sparc_lib.studies.representations import train_means

pytestmark = pytest.mark.usefixtures("in_this_process")

IMAGES = [i for i in range(60) for _ in range(2 if i % 3 == 0 else 1)]  # every third image has two captions
N = len(IMAGES)
DIMS = {"dino": 12, "clip_img": 10, "clip_txt": 10}


def make_store(folder, seed=0, n=N):
    """Streams that are noisy views of the same factors; both rows of an image are alike but for the text."""
    draw, images = np.random.default_rng(seed), np.array(IMAGES[:n])
    factors = draw.normal(size=(60, 5))
    x = {}
    for name, d in DIMS.items():
        noise = draw.normal(size=(n, d)) if name == "clip_txt" else draw.normal(size=(60, d))[images]
        x[name] = factors[images] @ np.random.default_rng(9).normal(size=(5, d)) + 0.3 * noise + 1
    return FeatureStore.create(
        folder,
        x,
        ids=[f"{i}" for i in range(n)],
        image_ids=[f"im{i}" for i in images],
        captions=[f"a {i}" for i in range(n)],
    )


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


def sparc(store, gate="global"):
    return SPARC(store.dims, 24, 3, gate, generator=torch.Generator().manual_seed(1))


def test_every_caption_has_its_image_once(store):
    pool = rr.captions_pool(store)
    assert {s: len(x) for s, x in pool.features.items()} == {"dino": 60, "clip_img": 60, "clip_txt": N}
    to_image, to_text = pool.positives("clip_txt", "clip_img"), pool.positives("clip_img", "clip_txt")
    np.testing.assert_array_equal(to_image.indices, IMAGES)
    np.testing.assert_array_equal(to_text.toarray(), to_image.toarray().T)
    assert to_text.toarray()[:2].nonzero()[1].tolist() == [0, 1, 2]
    torch.testing.assert_close(pool.features["clip_img"][3], store.tensors()["clip_img"][IMAGES.index(3)])


def test_images_keep_their_order_of_appearance_whatever_they_are_called(store):
    order = [10, 9, 2, 1]  # as text "im10" < "im9"
    first, number = rr.distinct_images(
        dataclass_like(image_ids=[f"im{i}" for i in np.repeat(order, 2)]), None
    )
    assert first.tolist() == [0, 2, 4, 6] and number.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def dataclass_like(**fields):
    return dataclasses.make_dataclass("Stub", fields)(**fields)


def test_joined_captions_are_encoded_together(store):
    asked = []

    def text_features(texts):
        asked.extend(texts)
        return torch.tensor([[float(len(t)), 1.0] + [0.0] * 8 for t in texts])

    pool = rr.joined_pool(store, text_features, batch_size=7)
    assert asked[:4] == ["a 0 a 1", "a 2", "a 3", "a 4 a 5"] and len(asked) == 60
    torch.testing.assert_close(pool.features["clip_txt"][0], torch.tensor([7.0, 1.0] + [0.0] * 8) / 50**0.5)
    np.testing.assert_array_equal(pool.positives("clip_txt", "dino").toarray(), np.eye(60))


def test_rows_are_the_librarys_metrics_of_all_kinds_and_pairs(store):
    model, pool = sparc(store), rr.pairs_pool(store)
    means = train_means(store)
    torch.testing.assert_close(means["dino"], store.tensors()["dino"].mean(0))
    kinds = (rr.CODES, rr.OWN, rr.CROSS, rr.CENTRED)
    rows = pd.DataFrame(rr.model_rows(model, pool, kinds, means=means), columns=rr.Row._fields)
    assert rows.groupby("kind").size().to_dict() == {rr.CODES: 6, rr.CROSS: 6, rr.CENTRED: 6, rr.OWN: 3}
    x, code = store.tensors(), model.encode(store.tensors(), "independent")
    q, r = "dino", "clip_txt"
    with torch.no_grad():
        rebuilt, own = model.decode(code[q], r), model.decode(code[q], q)
    expected = {
        (rr.CODES, r): (code[q].to_csr(), code[r].to_csr()),
        (rr.CROSS, r): (rebuilt, x[r]),
        (rr.OWN, q): (own, x[q]),
        (rr.CENTRED, r): (rebuilt - means[r], x[r] - means[r]),
    }
    for (kind, reference), sides in expected.items():
        found = tables.pick(rows, kind=kind, query=q, reference=reference).iloc[0]
        want = retrieval_metrics(*sides)
        assert (found.recall_1, found.recall_5, found.recall_10, found.median_rank) == pytest.approx(
            (*want.recall.values(), want.median_rank), abs=1e-6
        )
        assert found.mrr == pytest.approx(want.mrr, abs=1e-6) and found.n_reference == N


def test_independent_codes_of_one_stream_do_not_see_the_others(store):
    """Replacing the captions changes no image code, although the joint gate would."""
    model, pool = sparc(store), rr.pairs_pool(store)
    other = pool._replace(features=dict(pool.features, clip_txt=pool.features["clip_txt"].flip(0)))
    codes, changed = rr.pool_codes(model, pool), rr.pool_codes(model, other)
    assert (codes["dino"] != changed["dino"]).nnz == 0 < (codes["clip_txt"] != changed["clip_txt"]).nnz
    joint, apart = (
        encode_store(model, features, "joint")["dino"] for features in (pool.features, other.features)
    )
    assert (joint != apart).nnz > 0
    pair = ("clip_txt", "clip_img")
    joint, alone = (
        {(row.query, row.reference): row for row in rr.code_rows(model, pool, coding)}
        for coding in ("joint", "independent")
    )
    assert joint[pair].coding == "joint" and joint[pair].recall_5 > 3 * alone[pair].recall_5
    assert alone[pair] == rr.search(pool, rr.CODES, pair, codes["clip_txt"], codes["clip_img"])


def test_tables_hold_every_model_and_are_kept(tmp_path, monkeypatch, forbid):
    """Whole tables on a small world of two encoders' worth of stores; the second call computes nothing."""
    folders = {
        (w, split): make_store(tmp_path / f"{w}{split}", seed, n)
        for (w, split, seed, n) in (
            (None, "train", 0, 80),
            (None, "test", 1, 70),
            (0, "train", 2, 80),
            (0, "test", 3, 70),
            (1, "train", 4, 80),
            (1, "test", 5, 70),
        )
    }

    class Text:
        def text_features(self, texts):
            return torch.ones(len(texts), 10)

    profile = load_profile("smoke")
    profile = dataclasses.replace(
        profile, sparc=dataclasses.replace(profile.sparc, n_latents=24, k=3, epochs=1)
    )
    for module in (rr, tables):
        monkeypatch.setattr(module, "features", lambda p, split, weights=None, **_: folders[weights, split])
    monkeypatch.setattr(rr, "encoders", lambda *a, **k: (None, Text()))
    table = rr.retrieval_table(profile)
    per_model = table[table.protocol == "pairs"].groupby(["model", "setting", "seed", "coding"]).size()
    assert len(per_model["trained"].index) == 2 * 4 + 1  # settings x seeds, and one joint row
    assert per_model["trained", "global_lambda1", 1, "independent"] == 6 + 6 + 6 + 3
    assert per_model["trained", "local_lambda0", 0, "independent"] == 6 + 6 + 3
    assert per_model["untrained", "global_lambda1", 0].to_dict() == {"independent": 6 + 6 + 3, "joint": 1}
    assert set(per_model["random encoders"].index.get_level_values(0)) == {
        *setting_names(profile),
        "raw_clip",
    }
    others = table[(table.protocol != "pairs") & (table.model == "trained")]
    assert set(zip(others.protocol, others.n_query)) == {("captions", 52), ("captions", 70), ("joined", 52)}
    base = baselines.baseline_table(profile)
    seeds = base[base.model == "trained"].groupby("kind").seed.nunique().to_dict()
    assert seeds == {m: 2 if m in baselines.SEEDED else 1 for m in baselines.METHODS}
    assert set(base.groupby("kind").size()) == {2 * 2, 2 * 6, 3 * 6}  # CLIP only; without and with a seed
    for module in (rr, baselines):
        forbid(module, "_measure")
    assert rr.retrieval_table(profile).equals(table) and baselines.baseline_table(profile).equals(base)
    codes = rr.code_table(profile)
    groups = codes.groupby(["model", "setting", "seed", "coding"], sort=False).size()
    for setting in profile.settings:
        for model in ("trained", "untrained", "random encoders"):  # controls have as many seeds
            assert groups[model, setting.name].to_dict() == {
                (0, "joint"): 6,
                (0, "independent"): 6,
                (1, "independent"): 6,
            }
    assert groups["raw"].to_dict() == {("raw_clip", 0, "features"): 2} and len(codes) == sum(groups)
    alone = tables.pick(table, kind=rr.CODES, coding="independent", protocol="pairs", model="trained")
    again = tables.pick(codes, coding="independent", model="trained")
    assert alone[rr.CODE_COLUMNS].reset_index(drop=True).equals(again.reset_index(drop=True))


def setting_names(profile):
    return [setting.name for setting in profile.settings]
