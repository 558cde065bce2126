import dataclasses

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from sparc_lib.alignment import jaccard_per_latent, label_counts
from sparc_lib.evaluation import encode_store
from sparc_lib.losses import nmse
from sparc_lib.profiles import load_profile
from sparc_lib.studies import ablations, tables
from sparc_lib.studies.ablations import (
    PARAMETERS,
    POINT,
    along,
    curve,
    measure,
    reached,
    run_of,
    share_reached,
    sweep,
    sweep_runs,
    trend,
    trends,
    values,
)
from sparc_lib.studies.runs import untrained

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture
def tiny():
    """The smoke profile with sizes that train in a blink: λ 0, 1; k 2, 4; L 16, 32."""
    smoke = load_profile("smoke")
    sweep_ = dataclasses.replace(
        smoke.ablations, epochs=1, cross_weights=(0.0,), k=(2,), n_latents=(32,), seeds=(0,)
    )
    sparc = dataclasses.replace(smoke.sparc, n_latents=16, k=4, k_aux=4, batch_size=32)
    return dataclasses.replace(smoke, sparc=sparc, ablations=sweep_)


def points(profile):
    """The runs of a sweep as a table with the columns POINT."""
    return pd.DataFrame(
        [
            (
                run.model,
                run.setting.gate,
                run.setting.cross_weight,
                run.sparc.k,
                run.sparc.n_latents,
                run.seed,
            )
            for run in sweep_runs(profile)
        ],
        columns=POINT,
    )


def test_each_run_once_headline_with_all_seeds_and_one_control_a_size(tiny):
    found = points(tiny)
    assert len(found) == len(found.drop_duplicates()) == 18
    count = found.groupby(["model", "gate", "cross_weight", "k", "n_latents"]).size()
    assert count.trained.loc[:, :, 4, 16].tolist() == [2, 2, 2, 2]  # gate x λ of the headline: seeds 0, 1
    assert (
        count.trained.drop(index=[(g, w, 4, 16) for g in ("global", "local") for w in (0.0, 1.0)]).tolist()
        == [1] * 4
    )
    assert count.untrained.to_dict() == {
        (g, 1.0, k, size): 1 for g in ("global", "local") for k, size in ((4, 16), (2, 16), (4, 32))
    }
    cost = (found.n_latents * found.k)[found.model == "trained"]
    assert cost.is_monotonic_decreasing


def test_the_profiles_own_value_is_always_swept(tiny):
    assert [values(tiny, p) for p in PARAMETERS] == [[0.0, 1.0], [2, 4], [16, 32]]
    with pytest.raises(KeyError):
        values(tiny, "depth")


def test_shipped_sweeps_have_the_values_of_the_paper_and_at_least_three_of_k_and_L():
    for name in ("coco", "openimages"):
        profile = load_profile(name)
        assert values(profile, "cross_weight") == [0.0, 0.03, 0.1, 0.3, 1.0, 3.0]
        assert min(len(values(profile, "k")), len(values(profile, "n_latents"))) >= 3
        assert len(profile.ablations.seeds) >= 2
    mini = load_profile("mini")
    assert len(mini.seeds) == len(mini.ablations.seeds) == 3
    assert max(values(mini, "cross_weight")) > 3  # beyond the paper's, to see what too much does
    assert min(len(values(mini, "k")), len(values(mini, "n_latents"))) >= 5
    assert values(mini, "n_latents")[0] == 128 and values(mini, "n_latents")[-1] == 16 * 128  # L / d


def test_a_sweep_is_cached_and_the_same_in_every_backend(tiny, small_store, monkeypatch):
    stores = {"train": small_store("train"), "test": small_store("test", 40)}
    monkeypatch.setattr(tables, "features", lambda profile, split, weights=None: stores[split])
    first = sweep(tiny)
    assert list(first.columns) == ablations.COLUMNS and len(first) == 18 * 24
    assert np.isfinite(first[first.metric.str.contains("nmse|fvu|dead|l0|recall")].value).all()

    def refuse(*_, **__):
        raise AssertionError("a finished run was built again")

    monkeypatch.setattr(ablations, "measure", refuse)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        pd.testing.assert_frame_equal(sweep(tiny), first)
    longer = dataclasses.replace(tiny, ablations=dataclasses.replace(tiny.ablations, test_samples=30))
    with pytest.raises(AssertionError, match="built again"):  # other test pairs are another result
        sweep(longer)


def test_a_run_is_the_profiles_with_the_sizes_of_its_point(tiny):
    run = run_of(tiny, "untrained", "local", 7, {"cross_weight": 0.5, "k": 2, "n_latents": 32})
    assert (run.model, run.seed, run.setting.gate, run.setting.cross_weight) == ("untrained", 7, "local", 0.5)
    assert (run.sparc.k, run.sparc.n_latents, run.sparc.epochs) == (2, 32, tiny.ablations.epochs)
    assert run.sparc.batch_size == tiny.sparc.batch_size


def test_measures_are_what_they_say(tiny, small_store):
    store = small_store("test", 40)
    model = untrained(tiny, tiny.settings[0], 0, store)
    streams = store.tensors()
    found = {
        (m.coding, m.metric): m.value
        for m in measure(model, streams, store.labels, np.random.default_rng(0), 2)
    }
    with torch.no_grad():
        joint = model.encode(streams, "joint")
        cross = [float(nmse(model.decode(joint[s], t), streams[t])) for s in joint for t in joint if s != t]
    assert found["joint", "cross_nmse"] == pytest.approx(np.mean(cross), rel=1e-5)
    alone = encode_store(model, streams, "independent")
    dense = {s: z.toarray() / np.linalg.norm(z.toarray(), axis=1, keepdims=True) for s, z in alone.items()}
    hits = [(dense[q] @ dense[r].T).argmax(1) == np.arange(40) for q in dense for r in dense if q != r]
    assert found["independent", "recall_1"] == pytest.approx(
        np.mean(hits), abs=0.02
    )  # argmax breaks ties otherwise
    ways = [(q, r) for q in dense for r in dense if q != r]
    with_text = [hit for hit, way in zip(hits, ways) if "clip_txt" in way]
    assert len(with_text) == 4
    assert found["independent", "recall_1_text"] == pytest.approx(np.mean(with_text), abs=0.02)
    counts = label_counts(alone, store.labels)
    alive = sum(counts.alive(s).astype(int) for s in alone) >= 2
    assert found["independent", "jaccard_alive"] == pytest.approx(jaccard_per_latent(counts)[alive].mean())
    dead = [1 - len(set(z.indices)) / 16 for z in alone.values()]
    assert found["independent", "dead_share"] == pytest.approx(np.mean(dead))
    assert ("joint", "recall_1") not in found


def test_local_codes_do_not_depend_on_the_coding(tiny, small_store):
    store = small_store("test", 40)
    run = run_of(tiny, "trained", "local", 0, {"cross_weight": 0.0, "k": 4, "n_latents": 16})
    model = tables.model_of(tiny, run, store)
    found = measure(model, store.tensors(), store.labels, np.random.default_rng(0), 2)
    table = pd.DataFrame(found)
    by = table.pivot(index="metric", columns="coding", values="value").dropna()
    same = by.drop(index="jaccard_shuffled")  # drawn anew for each coding
    np.testing.assert_allclose(same.joint, same.independent, rtol=1e-5)


def test_curves_hold_the_other_parameters_still(tiny):
    table = points(tiny).assign(coding="joint", metric="cross_nmse")
    table["value"] = table.k + 100 * table.n_latents + table.cross_weight
    by_k = curve(table, tiny, "k", "cross_nmse", "joint", "global")
    assert by_k.index.tolist() == [2, 4] and by_k[0].tolist() == [1603.0, 1605.0]
    assert np.isnan(by_k[1][2]) and by_k[1][4] == 1605.0  # seed 1 ran at the headline only
    assert set(along(table, tiny, "k", "cross_nmse", "joint").model) == {"trained", "untrained"}
    with pytest.raises(KeyError, match="metrics: cross_nmse"):
        along(table, tiny, "k", "recall", "joint")


def test_trends_and_shares_are_taken_for_every_seed_that_covers_the_sweep(tiny):
    wider = dataclasses.replace(
        tiny,
        ablations=dataclasses.replace(
            tiny.ablations, cross_weights=(0.0, 0.1), k=(2, 3), n_latents=(32, 64), seeds=(0,)
        ),
    )
    table = points(wider).assign(coding="joint", metric="cross_nmse")
    sign = table.gate.map({"global": 1, "local": -1})
    table["value"] = sign * table.k - 0.2 * table.cross_weight
    found = trends(table, wider)
    along_k = found[(found.statistic == "trend") & (found.parameter == "k")].set_index("gate").value
    assert along_k.to_dict() == {"global": 1.0, "local": -1.0}
    assert reached(found, 0.1, "cross_nmse", "joint", "global") == pytest.approx([0.1])
    assert reached(found, 1.0, "cross_nmse", "joint", "global") == pytest.approx([1])
    assert set(found.seed) == {0}  # seed 1 ran at the headline only
    with pytest.raises(KeyError, match="no row with metric"):
        reached(found, 1.0, "self_nmse", "joint", "global")


def test_trend_is_a_rank_correlation():
    assert trend([8, 16, 32, 64], [0.4, 0.3, 0.2, 0.1]) == pytest.approx(-1)
    assert trend([8, 16, 32, 64], [0.1, 0.2, 0.3, 0.25]) == pytest.approx(0.8)
    assert trend([1, 2, 3], [5, 5, 5]) == 0
    with pytest.raises(ValueError, match="at least three points"):
        trend([1, 2], [1, 2])


def test_share_reached_of_the_best_improvement():
    x, y = [0, 0.1, 1, 3], [1.0, 0.6, 0.2, 0.0]
    assert [share_reached(x, y, at) for at in x] == pytest.approx([0, 0.4, 0.8, 1])
    assert share_reached([0, 1, 3], [0.5, 0.1, 0.3], 1) == 1  # best in the middle
    assert share_reached([0, 1, 3], [0.1, 0.2, 0.3], 1) == 0  # never improves
    with pytest.raises(ValueError, match="0.3 is not among"):
        share_reached(x, y, 0.3)


def test_colliding_classes_share_their_best_latent():
    labels = np.zeros((60, 4), bool)
    for number in range(4):
        labels[number * 15 : (number + 1) * 15, number] = True
    codes = np.zeros((60, 3))
    codes[:30, 0] = 1.0  # classes 0 and 1
    codes[30:45, 1] = 1.0
    codes[45:, 2] = 1.0
    args = sp.csr_matrix(codes), sp.csr_array(labels)
    assert ablations.collisions(*args) == 0.5
    assert ablations.collisions(*args, least=16) == 0.0  # no class is left


def test_saturation_is_the_first_value_that_brings_nearly_all():
    assert ablations.saturation([2, 4, 8, 16], [1.0, 0.5, 0.08, 0.0]) == 8
    assert ablations.saturation([2, 4, 8], [1.0, 0.0, 0.5]) == 4
    assert np.isnan(ablations.saturation([2, 4, 8], [0.0, 0.5, 1.0]))
