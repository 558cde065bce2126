import dataclasses

import joblib
import numpy as np
import pandas as pd
import pytest
import torch

from sparc_lib.alignment import jaccard_per_latent, label_counts
from sparc_lib.evaluation import encode_store
from sparc_lib.losses import nmse
from sparc_lib.profiles import load_profile
from sparc_lib.studies import ablations
from sparc_lib.studies.ablations import (
    PARAMETERS,
    Job,
    along,
    course,
    curve,
    jobs,
    measure,
    reached,
    run,
    sweep,
    trends,
    values,
)
from sparc_lib.studies.runs import untrained


@pytest.fixture
def tiny():
    """The smoke profile with sizes that train in a blink: λ 0, 1; k 2, 4; L 16, 32."""
    smoke = load_profile("smoke")
    sweep_ = dataclasses.replace(
        smoke.ablations, epochs=1, cross_weights=(0.0,), k=(2,), n_latents=(32,), seeds=(0,)
    )
    sparc = dataclasses.replace(smoke.sparc, n_latents=16, k=4, k_aux=4, batch_size=32)
    return dataclasses.replace(smoke, sparc=sparc, ablations=sweep_)


def test_each_run_once_headline_with_all_seeds_and_one_control_a_size(tiny):
    found = jobs(tiny)
    assert len(found) == len(set(found)) == 18
    count = pd.DataFrame(found).groupby(["model", "gate", "cross_weight", "k", "n_latents"]).size()
    assert count.trained.loc[:, :, 4, 16].tolist() == [2, 2, 2, 2]  # gate x λ of the headline: seeds 0, 1
    assert (
        count.trained.drop(index=[(g, w, 4, 16) for g in ("global", "local") for w in (0.0, 1.0)]).tolist()
        == [1] * 4
    )
    assert count.untrained.to_dict() == {
        (g, 1.0, k, size): 1 for g in ("global", "local") for k, size in ((4, 16), (2, 16), (4, 32))
    }
    cost = [job.n_latents * job.k for job in found if job.model == "trained"]
    assert cost == sorted(cost, reverse=True)


def test_the_profiles_own_value_is_always_swept(tiny):
    assert [values(tiny, p) for p in PARAMETERS] == [[0.0, 1.0], [2, 4], [16, 32]]
    with pytest.raises(KeyError):
        values(tiny, "depth")


def test_shipped_sweeps_have_the_values_of_the_paper_and_at_least_three_of_k_and_L():
    for name in ("mini", "coco", "openimages"):
        profile = load_profile(name)
        assert values(profile, "cross_weight") == [0.0, 0.03, 0.1, 0.3, 1.0, 3.0]
        assert min(len(values(profile, "k")), len(values(profile, "n_latents"))) >= 3
        assert len(profile.ablations.seeds) >= 2
    assert len(load_profile("mini").seeds) == 3


def test_a_sweep_is_cached_and_the_same_in_every_backend(tiny, small_store, monkeypatch):
    train, test = small_store("train"), small_store("test", 40)
    first = sweep(tiny, train, test, progress=False)
    assert tuple(first.columns) == ablations.COLUMNS and len(first) == 18 * 21
    assert np.isfinite(first[first.metric.str.contains("nmse|fvu|dead|l0|recall")].value).all()

    def refuse(*_, **__):
        raise AssertionError("a finished run was built again")

    monkeypatch.setattr(ablations, "measure", refuse)
    with joblib.parallel_config(backend="threading", n_jobs=2):
        pd.testing.assert_frame_equal(sweep(tiny, train, test, progress=False), first)
    longer = dataclasses.replace(tiny, ablations=dataclasses.replace(tiny.ablations, test_samples=30))
    with pytest.raises(AssertionError, match="built again"):  # other test pairs are another result
        sweep(longer, train, test, progress=False)


def test_two_processes_that_want_one_stage_build_it_once(tiny, small_store, tmp_path):
    train, test = small_store("train"), small_store("test", 40)
    job = Job("trained", "global", 1.0, 4, 16, 0)
    with joblib.parallel_config(backend="loky", n_jobs=2, inner_max_num_threads=1):
        one, two = joblib.Parallel()(
            joblib.delayed(run)(tiny, job, train.directory, test.directory) for _ in range(2)
        )
    pd.testing.assert_frame_equal(one, two)
    stages = [path.name for path in (tmp_path / "data" / "stages").iterdir() if path.is_dir()]
    assert sorted(name.split("-")[0] for name in stages) == ["ablation", "sparc"]


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
    counts = label_counts(alone, store.labels)
    alive = sum(counts.alive(s).astype(int) for s in alone) >= 2
    assert found["independent", "jaccard_alive"] == pytest.approx(jaccard_per_latent(counts)[alive].mean())
    dead = [1 - len(set(z.indices)) / 16 for z in alone.values()]
    assert found["independent", "dead_share"] == pytest.approx(np.mean(dead))
    assert ("joint", "recall_1") not in found


def test_local_codes_do_not_depend_on_the_coding_and_threads_are_given_back(tiny, small_store):
    train, test = small_store("train"), small_store("test", 40)
    before = torch.get_num_threads()
    table = run(tiny, Job("trained", "local", 0.0, 4, 16, 0), train.directory, test.directory)
    assert torch.get_num_threads() == before
    by = table.pivot(index="metric", columns="coding", values="value").dropna()
    same = by.drop(index="jaccard_shuffled")  # drawn anew for each coding
    np.testing.assert_allclose(same.joint, same.independent, rtol=1e-5)


def test_curves_hold_the_other_parameters_still(tiny):
    rows = [
        (*job, "joint", "cross_nmse", job.k + 100 * job.n_latents + job.cross_weight) for job in jobs(tiny)
    ]
    table = pd.DataFrame(rows, columns=ablations.COLUMNS)
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
    rows = [
        (*job, "joint", "cross_nmse", (1 if job.gate == "global" else -1) * job.k - 0.2 * job.cross_weight)
        for job in jobs(wider)
    ]
    found = trends(pd.DataFrame(rows, columns=ablations.COLUMNS), wider)
    assert course(found, "k", "cross_nmse", "joint", "global") == "rises"
    assert course(found, "k", "cross_nmse", "joint", "local") == "falls"
    assert course(found, "n_latents", "cross_nmse", "joint", "local") == "has no clear direction"
    assert reached(found, 0.1, "cross_nmse", "joint", "global") == pytest.approx([0.1])
    assert reached(found, 1.0, "cross_nmse", "joint", "global") == pytest.approx([1])
    assert set(found.seed) == {0}  # seed 1 ran at the headline only
    with pytest.raises(KeyError, match="no row with metric"):
        course(found, "k", "self_nmse", "joint", "global")
