"""The table of gates: its rows, its numbers by other ways, and its controls, on a small store."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from sparc_lib import SPARC
from sparc_lib.data.knowledge import Vocabulary
from sparc_lib.evaluation import encode_store, evaluate
from sparc_lib.profiles import GatesSpec, ProfileError, Setting, load_profile
from sparc_lib.retrieval import retrieval_metrics
from sparc_lib.store.reader import FeatureStore
from sparc_lib.studies import gate_measures, gates, tables
from sparc_lib.studies.ablations import measure
from sparc_lib.studies.gate_gap import gap_table
from sparc_lib.studies.gate_measures import COLUMNS, trial_of
from sparc_lib.studies.gates import gate_runs, gate_table
from sparc_lib.studies.runs import trained
from sparc_lib.studies.tables import Run, pick

pytestmark = pytest.mark.usefixtures("in_this_process")
DIMS = {"dino": 12, "clip_img": 13, "clip_txt": 13}
ONE_VOTER = Setting("one_voter", "global", 1.0, voters="one")


@pytest.fixture
def stores(tmp_path):
    """Pairs whose three streams show the same eight concepts, with noise; both of CLIP in one space."""
    mix = {s: np.random.default_rng(d).standard_normal((8, d)) for s, d in DIMS.items()}
    made = {}
    for split, n in (("train", 160), ("test", 60)):
        draw = np.random.default_rng(n)
        concepts = draw.random((n, 8)) * (draw.random((n, 8)) < 0.3) + 0.05
        x = {s: concepts @ mix[s] + 0.1 * draw.standard_normal((n, d)) for s, d in DIMS.items()}
        about = dict(
            ids=[f"{split}-{i}" for i in range(n)], classes=[f"class {c}" for c in range(8)], split=split
        )
        made[split] = FeatureStore.create(tmp_path / split, x, labels=concepts > 0.3, **about)
    return made


def of_classes(store):
    """The classes of a store as its vocabulary."""
    return Vocabulary(store.classes, ["class"] * len(store.classes), store.labels, store.ids)


@pytest.fixture
def profile(stores, monkeypatch):
    """smoke, on the small stores; random encoders see the same features."""
    monkeypatch.setattr(tables, "features", lambda profile, split, weights=None: stores[split])
    monkeypatch.setattr(gates, "dataset", lambda profile, split: stores[split])
    monkeypatch.setattr(gates, "vocabulary", of_classes)
    monkeypatch.setattr(gates, "caption_contrast", lambda profile, score, random_weights: 0.5)
    smoke = load_profile("smoke")
    sizes = dict(n_latents=32, k=4, k_aux=4, batch_size=32, epochs=2)
    return dataclasses.replace(
        smoke,
        sparc=dataclasses.replace(smoke.sparc, **sizes),
        settings=smoke.settings[:1],
        gates=GatesSpec((ONE_VOTER,), ("usae", "crosscoder", "matched", "ridge", "raw_clip"), (0, 1)),
    )


@pytest.fixture
def model(stores):
    return SPARC(stores["test"].dims, 32, 4, generator=torch.Generator().manual_seed(3))


def test_a_row_a_method_and_seed_with_the_controls_last(profile):
    rows = gate_table(profile)
    assert list(rows) == ["model", "method", "seed", *COLUMNS]
    names = list(dict.fromkeys(zip(rows.model, rows.method)))
    assert names == [
        ("trained", "global_lambda1"),
        ("trained", "one_voter"),
        ("trained", "usae"),
        ("trained", "crosscoder"),
        ("trained", "matched"),
        ("map", "ridge"),
        ("map", "raw_clip"),
        ("untrained", "global_lambda1"),
        ("random encoders", "global_lambda1"),
        ("random encoders", "one_voter"),
    ]
    maps = rows[rows.model == "map"]
    drawn = rows[rows.model != "map"]
    assert len(maps) == 2 and (drawn.groupby(["model", "method"]).size() == 2).all()
    random = drawn.model == "random encoders"
    assert drawn[~random].notna().all().all() and drawn[random].stability.isna().all()
    assert drawn.drop(columns="stability").notna().all().all()
    ways = [*gate_measures.WAYS, "between_images"]
    assert pick(maps, method="ridge")[[*ways, "cross_fvu_alone", "contrast"]].notna().all().all()
    raw = pick(maps, method="raw_clip").iloc[0]
    assert raw[["text_to_image", "image_to_text"]].notna().all()
    assert raw.drop(["model", "method", "seed", "text_to_image", "image_to_text"]).isna().all()
    together = pick(drawn, method="crosscoder")  # one code for all: self and cross are the same numbers
    assert (together.self_fvu_joint - together.cross_fvu_joint).abs().max() < 1e-6
    apart = pick(drawn, method="usae")  # without a shared gate both codings agree
    assert (apart.cross_fvu_joint == apart.cross_fvu_alone).all() and (
        apart.alive_joint == apart.alive_alone
    ).all()


def test_models_are_those_of_the_other_notebooks(profile, stores):
    gate_table(profile)
    setting = profile.settings[0]
    shared = tables.model_of(profile, Run("trained", setting, 0), stores["train"])
    assert torch.equal(
        shared.encoder["dino"], trained(profile, setting, 0, stores["train"]).model.encoder["dino"]
    )
    longer = dataclasses.replace(
        profile, gates=dataclasses.replace(profile.gates, epochs=3, rivals=(), seeds=(0,))
    )
    rows, usual = gate_table(longer), gate_table(profile)
    name = dict(model="trained", method="global_lambda1", seed=0)
    assert pick(rows, **name).self_fvu_joint.item() != pick(usual, **name).self_fvu_joint.item()
    assert np.isnan(pick(rows, **name).stability.item())  # of one seed


def test_the_numbers_are_those_of_the_sweep(profile, stores, model):
    """Notebook 03 measures the same things of a model by another way."""
    test = stores["test"]
    numbers = gate_measures.measured(trial_of(model, test, None, 3, seed=0))
    rows = pd.DataFrame(measure(model, test.tensors(), test.labels, np.random.default_rng(0), 3))
    sweep = rows.set_index(["coding", "metric"]).value
    for name, coding in (("joint", "joint"), ("alone", "independent")):
        assert numbers[f"self_fvu_{name}"] == pytest.approx(sweep[coding, "self_fvu"])
        assert numbers[f"cross_fvu_{name}"] == pytest.approx(sweep[coding, "cross_fvu"])
    ways = [numbers[way] for way in gate_measures.WAYS] + 2 * [numbers["between_images"]]
    assert np.mean(ways) == pytest.approx(sweep["independent", "recall_1"])
    assert numbers["jaccard"] == pytest.approx(sweep["independent", "jaccard_supported"])
    assert numbers["ceiling"] == pytest.approx(sweep["independent", "jaccard_bound"])
    assert numbers["floor"] < numbers["jaccard"] < numbers["ceiling"] and 0 < numbers["place"] < 1


def test_retrieval_and_life_by_hand(stores, model):
    test = stores["test"]
    trial = trial_of(model, test, 20, 1, seed=0)
    codes = {s: z[:20].toarray() for s, z in encode_store(model, test, "independent").items()}
    unit = {s: z / np.linalg.norm(z, axis=1, keepdims=True) for s, z in codes.items()}
    for way, (query, reference) in gate_measures.WAYS.items():
        first = (unit[query] @ unit[reference].T).argmax(1)
        assert gate_measures.recalls(trial)[way] == pytest.approx((first == np.arange(20)).mean())
    joint = encode_store(model, test, "joint")
    lives = np.all([(z.toarray() > 0).any(0) for z in joint.values()], axis=0)
    assert gate_measures.life(trial)["alive_joint"] == lives.mean()


def test_stability_is_that_of_two_seeds(profile, stores):
    rows = gate_table(profile)
    one, other = (trained(profile, ONE_VOTER, seed, stores["train"]).model for seed in (0, 1))
    found = pick(rows, model="trained", method="one_voter").stability
    assert found.round(9).nunique() == 1 and 0 < found.iloc[0] < 1
    scores = []
    for s in one.streams:
        pair = []
        for model in (one, other):
            fires = encode_store(model, stores["test"], "independent")[s].toarray().any(0)
            pair.append(model.decoder[s].detach().numpy()[fires])
        scores.append(gates.pw_mcc(*pair))
    assert found.iloc[0] == pytest.approx(np.mean(scores), abs=1e-6)


def test_maps_are_fitted_on_train(stores):
    numbers = gates.map_numbers("ridge", stores, None, 4)
    maps = gates.fit_ridge(*(stores["train"].tensors()[s] for s in ("clip_txt", "clip_img")))
    x = stores["test"].tensors()
    expected = retrieval_metrics(maps.query(x["clip_txt"]), maps.reference(x["clip_img"])).recall[1]
    assert numbers["text_to_image"] == expected and 0 < numbers["cross_fvu_alone"] < 1
    few = gates.first_dimensions(gates.fit_cca(x["dino"], x["clip_img"]), 4)
    assert few.query(x["dino"]).shape == few.reference(x["clip_img"]).shape == (60, 4)
    assert gates.map_numbers("cca_k", stores, None, 4) != gates.map_numbers("cca", stores, None, 4)


def test_a_profile_without_the_section_says_so():
    mini = dataclasses.replace(load_profile("smoke"), gates=None)
    with pytest.raises(
        ProfileError, match="profile smoke: it has no section gates; add one, as smoke.yaml has it"
    ):
        gate_table(mini)


def test_maps_have_one_run_and_everything_else_one_a_seed():
    smoke = load_profile("smoke")
    runs = gate_runs(smoke)
    assert len(runs) == len(set(runs))
    assert sum(gates.is_map(run) for run in runs) == 5
    others = [run._replace(seed=0) for run in runs if not gates.is_map(run)]
    assert all(others.count(run) == len(smoke.gates.seeds) for run in others)


def test_joint_reconstruction_is_that_of_evaluate(stores, model):
    scores = evaluate(model, stores["test"])
    numbers = gate_measures.reconstruction(trial_of(model, stores["test"], None, 1, seed=0))
    own = [scores.joint.fvu[s, s] for s in model.streams]
    assert numbers["self_fvu_joint"] == pytest.approx(np.mean(own))


def test_the_gap_is_measured_at_every_length_and_k_and_ends_at_the_models_of_the_table(profile, stores):
    sizes = dataclasses.replace(profile.ablations, k=(2, 4, 8))
    longer = dataclasses.replace(profile, ablations=sizes, sparc=dataclasses.replace(profile.sparc, epochs=4))
    gap, rows = gap_table(longer), gate_table(longer)
    assert set(zip(gap.epochs, gap.k)) == {(1, 4), (2, 4), (4, 4), (4, 2), (4, 8)}
    assert (gap.groupby(["setting", "epochs", "k"]).size() == 2).all()  # seeds
    for setting in ("global_lambda1", "one_voter"):
        here = gap[(gap.setting == setting) & (gap.epochs == 4) & (gap.k == 4)]
        there = pick(rows, model="trained", method=setting)
        for column in ("self_fvu_joint", "cross_fvu_alone"):
            assert here[column].to_numpy() == pytest.approx(there[column].to_numpy())
    short = gap[(gap.epochs == 1) & (gap.k == 4)].cross_fvu_joint.mean()
    assert short > gap[(gap.epochs == 4) & (gap.k == 4)].cross_fvu_joint.mean()
