import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from sparc_lib.alignment import jaccard_per_latent, label_counts, mean_jaccard
from sparc_lib.data.knowledge import Vocabulary
from sparc_lib.evaluation import encode_store
from sparc_lib.model import SPARC
from sparc_lib.notebook.gallery import exhibits
from sparc_lib.nulls import permutation_null, shuffled_latents_null
from sparc_lib.profiles import load_profile
from sparc_lib.store.reader import FeatureStore
from sparc_lib.studies import alignment as ar
from sparc_lib.studies import retrieval, tables
from sparc_lib.studies.tables import by_setting, pick
from sparc_lib.taxonomy import Taxonomy

pytestmark = pytest.mark.usefixtures("in_this_process")

TREE = {
    "LabelName": "root",
    "Subcategory": [
        {"LabelName": "left", "Subcategory": [{"LabelName": "a"}, {"LabelName": "b"}]},
        {"LabelName": "right", "Subcategory": [{"LabelName": "c"}, {"LabelName": "d"}, {"LabelName": "e"}]},
    ],
}
TAXONOMY = Taxonomy.from_open_images(TREE, list("abcde"))
SPEC = load_profile("smoke").evaluation
N = 90


@pytest.fixture
def store(tmp_path):
    """Streams that are noisy views of the same five classes."""
    draw = np.random.default_rng(0)
    labels = np.eye(5, dtype=bool)[draw.integers(5, size=N)] | (draw.random((N, 5)) < 0.1)
    x = {
        name: labels @ draw.normal(size=(5, d)) + 0.4 * draw.normal(size=(N, d))
        for name, d in {"dino": 12, "clip_img": 10, "clip_txt": 10}.items()
    }
    return FeatureStore.create(
        tmp_path / "store", x, ids=[f"{i}" for i in range(N)], labels=labels, classes=list("abcde")
    )


def sparc(store, gate="global"):
    return SPARC(store.dims, 24, 3, gate, generator=torch.Generator().manual_seed(1))


def test_rows_are_the_metrics_of_the_library(store):
    model = sparc(store)
    jaccard = ar.jaccard_table(model, store, TAXONOMY, SPEC, np.random.default_rng(0))
    for coding in ar.CODINGS:
        codes = encode_store(model, store, coding)
        for activations, top_n in (("all", None), ("top", SPEC.top_n)):
            counts = label_counts(codes, store.labels, top_n)
            for depth in (1, 2):
                per_latent = jaccard_per_latent(counts, TAXONOMY, depth, min_samples=ar.SUPPORT)
                rows = pick(
                    jaccard, coding=coding, activations=activations, min_samples=ar.SUPPORT, depth=depth
                ).set_index("latents")
                means = mean_jaccard(per_latent, counts, min_samples=ar.SUPPORT)
                assert rows.jaccard["all"] == means.all_latents > 0
                assert rows.jaccard["alive"] == means.alive
                assert rows.n_latents.to_dict() == {"all": 24, "alive": means.n_alive}
    assert len(jaccard) == 2 * 2 * 2 * len(SPEC.taxonomy_depths) * 2
    assert jaccard.null.isna().all()


def test_joint_codes_of_an_untrained_model_leak(store):
    """F3: random weights, yet the partner is found under joint coding and not under independent coding."""
    model, recalls = sparc(store), []
    for coding in ar.CODINGS:
        rows = list(retrieval.code_rows(model, retrieval.pairs_pool(store), coding))
        recalls.append(np.mean([row.recall_1 for row in rows]))
    assert recalls[0] > 5 * recalls[1]
    found = ar.jaccard_table(model, store, TAXONOMY, SPEC, np.random.default_rng(0))
    where = dict(depth=2, min_samples=1, activations="all", latents="alive")
    joint, alone = (pick(found, coding=coding, **where).jaccard.item() for coding in ar.CODINGS)
    assert joint > 1.5 * alone


def test_codings_agree_under_the_local_gate(store):
    found = ar.jaccard_table(sparc(store, "local"), store, TAXONOMY, SPEC, np.random.default_rng(0))
    joint, alone = (
        pick(found, coding=coding)
        .drop(columns=["coding", "shuffled", "rescaled"])  # drawn anew
        .reset_index(drop=True)
        for coding in ar.CODINGS
    )
    pd.testing.assert_frame_equal(joint, alone)


def test_null_stands_at_the_leaves_and_is_reproducible(store):
    model = sparc(store)
    first, again = (
        ar.jaccard_table(model, store, TAXONOMY, SPEC, np.random.default_rng(3), True) for _ in range(2)
    )
    pd.testing.assert_frame_equal(first, again)
    with_null = first[first.null.notna()]
    assert set(with_null.depth) == {max(SPEC.taxonomy_depths)}
    expected = (with_null.jaccard - with_null.null) / (1 - with_null.null)
    np.testing.assert_allclose(with_null.corrected, expected)
    codes = encode_store(model, store, "joint")  # its null is the first to be drawn
    null = permutation_null(
        codes, store.labels, np.random.default_rng(3), SPEC.null_repeats, taxonomy=TAXONOMY
    )
    row = pick(with_null, coding="joint", activations="all", min_samples=1, latents="all").iloc[0]
    assert row.null == pytest.approx(null.mean()) and row.null > 0
    unpermuted = ar.jaccard_table(model, store, TAXONOMY, SPEC, np.random.default_rng(3))
    pd.testing.assert_frame_equal(
        unpermuted.drop(columns=["null", "corrected"]), first.drop(columns=["null", "corrected"])
    )
    counts = label_counts(codes, store.labels)
    shuffled = shuffled_latents_null(
        counts, np.random.default_rng(3).spawn(1)[0], SPEC.null_repeats, taxonomy=TAXONOMY
    )
    assert row.shuffled == pytest.approx(shuffled.mean()) and 0 < row.shuffled < row.jaccard <= row.bound
    assert row.rescaled == pytest.approx((row.jaccard - row.shuffled) / (row.bound - row.shuffled))


def test_patterns_add_up(store):
    patterns = ar.pattern_table(sparc(store), store)
    for coding in ar.CODINGS:
        rows = pick(patterns, coding=coding).set_index("pattern").n_latents
        assert rows[["all alive", "2 of 3", "1 of 3", "all dead"]].sum() == 24
        dead_somewhere = 3 * rows["all dead"] + 2 * rows["1 of 3"] + rows["2 of 3"]
        assert sum(rows[f"dead in {stream}"] for stream in store.streams) == dead_somewhere > 0


def test_all_settings_with_their_controls(store, monkeypatch):
    """Which model is measured on which features, and what is asked for the first seed only."""
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # in this process, which sees what is put in place below
    asked, made = set(), []
    profile = load_profile("smoke")

    def features(profile, split, random_weights=None):
        asked.add((split, random_weights))
        return store

    class Trained:
        def __init__(self, profile, setting, seed, store, progress):
            self.model = sparc(store, setting.gate)

    def untrained(profile, setting, seed, store):
        made.append(setting.gate)
        return sparc(store, setting.gate)

    monkeypatch.setattr(tables, "features", features)
    monkeypatch.setattr(tables, "trained", Trained)
    monkeypatch.setattr(tables, "untrained", untrained)
    monkeypatch.setattr(ar, "code_table", lambda profile: None)
    report = ar.report_with_controls(profile, TAXONOMY)
    assert asked == {(split, weights) for split in ("train", "test") for weights in (None, *profile.seeds)}
    assert made == 2 * len(profile.seeds) * [
        "local",
        "global",
    ]  # of two tables: λ does not reach an untrained model
    for table in (report.jaccard, report.patterns):
        seeds = table.groupby(["model", "setting"]).seed.unique().map(list)
        for setting in profile.settings:
            assert seeds["trained", setting.name] == list(profile.seeds)
            for control in ("untrained", "random encoders"):
                assert seeds[control, setting.name] == list(profile.seeds)
    with_null = report.jaccard[report.jaccard.null.notna()]
    assert set(with_null.seed) == {profile.seeds[0]} and set(with_null.model) == set(tables.KINDS)
    leaf = dict(latents="all", activations="all", min_samples=1, depth=max(SPEC.taxonomy_depths))
    values = by_setting(report.jaccard, "jaccard", model="trained", coding="independent", **leaf)
    assert list(values) == [setting.name for setting in profile.settings]
    assert {len(seeds) for seeds in values.values()} == {len(profile.seeds)}
    nulls = tables.controls(report.jaccard, "jaccard", coding="independent", **leaf)
    assert list(nulls) == ["untrained", "random encoders", "shuffled latents", "permuted labels"]
    assert all(list(of) for of in nulls.values())


def test_settings_may_be_called_anything(store, monkeypatch):
    """Nothing hangs on the four names: the same numbers under other ones."""
    smoke = load_profile("smoke")
    renamed = dataclasses.replace(
        smoke, settings=tuple(dataclasses.replace(s, name=f"my-{i}") for i, s in enumerate(smoke.settings))
    )
    monkeypatch.setattr(tables, "features", lambda profile, split, weights=None: store)
    monkeypatch.setattr(ar, "code_table", lambda profile: None)
    first, second = (ar.report_with_controls(profile, TAXONOMY) for profile in (smoke, renamed))
    names = {old.name: new.name for old, new in zip(smoke.settings, renamed.settings)}
    pd.testing.assert_frame_equal(first.jaccard.replace({"setting": names}), second.jaccard)


def test_pick_says_what_there_is():
    table = pd.DataFrame({"coding": ["joint"], "value": [1.0]})
    assert pick(table, coding="joint").value.item() == 1
    with pytest.raises(KeyError, match="no row with coding = 'both'; it takes joint"):
        pick(table, coding="both")
    with pytest.raises(KeyError, match="no column 'gate'; this table has coding, value"):
        pick(table, gate="global")


def test_gallery_shows_what_fires_strongest_and_no_image_twice(store):
    """Latent 0 fires on half of class a in every stream, latent 1 on anything; rows 0 and 1 are one image."""
    draw = np.random.default_rng(0)
    carries = store.labels[:, [0]].toarray()[:, 0]
    carries[:2] = True
    some = {s: draw.random((N, 2)) * (draw.random((N, 2)) < 0.5) for s in store.streams}
    for half in some.values():
        half[:, 0] *= carries
    some["dino"][:2, 0] = 2, 3
    z = {s: sp.csr_matrix(half) for s, half in some.items()}
    counts = label_counts(z, store.labels)
    per_latent = jaccard_per_latent(counts)
    null = np.broadcast_to(per_latent.mean(), (5, 2))
    store.samples.image_ids[1] = store.samples.image_ids[0]
    words = Vocabulary(store.classes, ["class"] * 5, store.labels, store.ids)
    best, other = exhibits(z, store, words, per_latent, null, np.random.default_rng(0), n_best=1, n_random=5)
    assert (best.latent, best.why, best.concept) == (0, "best", 0) and (other.latent, other.why) == (
        1,
        "random",
    )
    assert best.jaccard == per_latent[0] and best.share > 0.9
    top = best.top["dino"]
    assert top[0] == 1 and 0 not in top and len(top) == 5
    strength = z["dino"][:, [0]].toarray()[top, 0]
    assert (np.diff(strength) <= 0).all() and strength[1] == np.sort(
        np.delete(z["dino"].toarray()[:, 0], [0, 1])
    )[-1]
