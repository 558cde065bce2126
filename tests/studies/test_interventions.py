"""What moves when one fact changes: the measures by hand, and the table of a small world."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from sparc_lib import SPARC
from sparc_lib.concepts import NO_NAME
from sparc_lib.model import Code
from sparc_lib.profiles import load_profile
from sparc_lib.studies import intervention_measures as measures
from sparc_lib.studies import interventions as iv
from sparc_lib.studies.edited import KINDS, changes_of
from sparc_lib.studies.intervention_measures import ANOTHER_SCENE, COLUMNS, InterventionRow, Moves, Pairs
from sparc_lib.studies.tables import Run, pick

STREAMS = ("dino", "clip_txt")
FACTS = ("cat", "dog", "night", "day")


def pairs_from(kinds, before, after, true_before, true_after):
    streams = [{s: torch.tensor(x, dtype=torch.float32) for s in STREAMS} for x in (before, after)]
    return Pairs(np.array(kinds), *streams, np.array(true_before, bool), np.array(true_after, bool))


@pytest.fixture
def pairs():
    """cat → dog, dog → cat, night → day, and two other scenes twice."""
    true = [[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 1, 0], [1, 0, 1, 0], [0, 1, 0, 1]]
    then = [[0, 1, 1, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 0, 1], [1, 0, 1, 0]]
    kinds = ["replaced", "replaced", "time", ANOTHER_SCENE, ANOTHER_SCENE]
    x = np.random.default_rng(0).standard_normal((2, 5, 3))
    return pairs_from(kinds, x[0], x[1], true, then)


def values(rows, **where):
    return pick(pd.DataFrame(rows, columns=InterventionRow._fields), **where).set_index("kind")


def test_a_partner_changes_none_of_the_same_facts(pairs):
    chosen = iv.partners(pairs, np.random.default_rng(0))
    assert chosen.tolist()[:2] == [2, 2]  # the other replaced one touches the same facts
    assert chosen[2] in (0, 1) and chosen.tolist()[3:] == [4, 3]


def test_partners_are_of_the_same_kind_where_they_can():
    true = np.eye(6, dtype=bool)[:3]
    then = np.eye(6, dtype=bool)[3:]
    pairs = pairs_from(["replaced", "replaced", "time"], np.ones((3, 2)), np.ones((3, 2)), true, then)
    for seed in range(5):
        assert iv.partners(pairs, np.random.default_rng(seed)).tolist()[:2] == [1, 0]


def coded(before, after, names):
    """The same codes and names in every stream."""
    both = [{s: np.array(z, float) for s in STREAMS} for z in (before, after)]
    return Moves(*both, {s: np.array(names) for s in STREAMS})


def test_agreement_of_equal_opposite_and_unrelated_changes(pairs):
    moved = coded(np.zeros((5, 6)), np.zeros((5, 6)), [NO_NAME] * 6)
    moved.after["dino"][:3] = [[3, 2, 1, 0, 0, 0], [3, 2, 1, 0, 0, 0], [3, 2, 1, 0, 0, 0]]
    moved.after["clip_txt"][:3] = [[3, 2, 1, 0, 0, 0], [0, 0, 0, 1, 2, 3], [3, 2, 0, 0, 0, 1]]
    rows = measures.agreement_rows(pairs, np.array([1, 0, 0, 4, 3]), moved)
    cosine = values(rows, measure="cosine")
    assert cosine.value["replaced"] == pytest.approx(0.5) and cosine.chance["replaced"] == pytest.approx(0.5)
    assert cosine.value["time"] == pytest.approx(13 / 14) and cosine.value[ANOTHER_SCENE] == 0
    overlap = values(rows, measure="overlap")
    assert overlap.value["replaced"] == 0.5 and overlap.value["time"] == pytest.approx(2 / 3)
    assert moved.agreement()[:3] == pytest.approx([1, 0, 13 / 14])
    assert set(pd.DataFrame(rows).source) == {"dino"}  # each pair of streams once


def test_strongest_are_three_with_their_signs():
    assert measures.strongest(np.array([[0.1, -5, 0, 2, 3.0], [0, 0, 0, 0, -1.0]])).tolist() == [
        [0, -1, 0, 1, 1],
        [0, 0, 0, 0, -1],
    ]


def test_selectivity_by_hand(pairs):
    # latents: cat, dog, night, one without a name; cat falls by 1, dog rises by 2, night by 1, nobody by 4
    moved = coded(np.zeros((5, 4)), np.zeros((5, 4)), [0, 1, 2, NO_NAME])
    for stream in STREAMS:
        moved.before[stream][0, 0] = 1
        moved.after[stream][0] = [0, 2, 1, 4]
        moved.after[stream][1] = [0, 2, 0, 0]  # dog rises where dog was taken away
    rows = measures.selectivity_rows(pairs, np.array([2, 2, 0, 4, 3]), moved)
    on = values(rows, measure="on the fact", source="dino")
    assert on.value["replaced"] == pytest.approx((3 / 8 + 1) / 2)
    assert on.chance["time"] == pytest.approx(1 / 8)  # what replacing moves of night
    other = values(rows, measure="on other facts", source="dino")
    assert other.value["replaced"] == pytest.approx((1 / 8 + 0) / 2)
    right = values(rows, measure="right way", source="dino")
    assert right.value["replaced"] == pytest.approx((1 + 0) / 2) and np.isnan(right.value["time"])
    assert values(rows, measure="has a latent", source="clip_txt").value["time"] == 1


def test_adding_the_streams_own_change_decodes_what_it_codes_afterwards(pairs):
    model = SPARC(dict.fromkeys(STREAMS, 3), 8, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.pre_bias["dino"][:] = torch.tensor([0.1, 0.2, 0.3])
    draw = np.random.default_rng(1)
    moved = coded(draw.random((5, 8)), draw.random((5, 8)), [NO_NAME] * 8)
    rows = measures.reconstruction_rows(pairs, np.array([1, 0, 0, 4, 3]), moved, model)
    every = torch.arange(8).expand(5, 8)
    start, end = (
        model.decode(Code(every, torch.tensor(z["dino"], dtype=torch.float32), 8), "dino").detach().numpy()
        for z in (moved.before, moved.after)
    )
    x, y = pairs.before["dino"].numpy(), pairs.after["dino"].numpy()
    own = dict(source="dino", target="dino")
    direction = measures.cosines(end - start, y - x)
    nearer = np.linalg.norm(end - y, axis=1) < np.linalg.norm(end - x, axis=1)
    assert values(rows, measure="direction", **own).value["time"] == pytest.approx(direction[2], abs=1e-5)
    assert values(rows, measure="nearer", **own).value["replaced"] == nearer[:2].mean()
    step = ((end - start) * (y - x)).sum(1) / ((y - x) ** 2).sum(1)
    assert values(rows, measure="step", **own).value["replaced"] == pytest.approx(step[:2].mean(), abs=1e-5)


def test_a_latent_that_is_not_there_cannot_be_taken_away(pairs):
    model = SPARC(dict.fromkeys(STREAMS, 3), 8, 2, generator=torch.Generator().manual_seed(0))
    moved = coded(np.zeros((5, 8)), np.zeros((5, 8)), [NO_NAME] * 8)
    moved.before["clip_txt"][:, 0] = 1  # falls in the text, is zero in the picture
    rows = measures.reconstruction_rows(pairs, np.array([1, 0, 0, 4, 3]), moved, model)
    assert (values(rows, measure="step", source="clip_txt", target="dino").value == 0).all()


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARC_DATA", str(tmp_path))
    smoke = load_profile("smoke")
    return dataclasses.replace(
        smoke,
        data=dataclasses.replace(smoke.data, train=64, val=16, test=24),
        sparc=dataclasses.replace(smoke.sparc, n_latents=32, k=4, k_aux=4, batch_size=32, epochs=1),
        settings=smoke.settings[:1],
        gates=dataclasses.replace(smoke.gates, seeds=(0,)),
    )


@pytest.mark.usefixtures("in_this_process")
def test_the_table_of_a_small_world(profile):
    rows = iv.intervention_table(profile)
    assert list(rows) == ["model", "setting", "seed", *InterventionRow._fields]
    assert set(zip(rows.model, rows.setting)) == {
        ("trained", "global_lambda1"),
        ("trained", "one_voter"),
        ("untrained", "global_lambda1"),
        ("random encoders", "global_lambda1"),
        ("random encoders", "one_voter"),
        ("raw", "raw"),
    }
    assert set(rows.kind) == {*KINDS, ANOTHER_SCENE} and set(rows.measure) == set(COLUMNS)
    assert set(pick(rows, model="raw").measure) == {"direction", "step", "nearer"}
    assert (rows[rows.kind != ANOTHER_SCENE].n == 6).all()
    assert rows[rows.measure != "right way"].value.notna().all()
    made = changes_of(profile)
    setting = next(setting for setting in profile.gates.settings if setting.voters == "one")
    moves = iv.moves_of(profile, made, Run("trained", setting, 0))
    agreed = pd.Series(moves.agreement()).groupby([change.kind for change in made]).mean()
    table = pick(rows, model="trained", setting="one_voter", measure="cosine").groupby("kind").value.mean()
    for kind in KINDS:
        assert agreed[kind] == pytest.approx(table[kind], abs=1e-6)


def test_runs_are_gates_controls_and_ridge():
    runs = iv.intervention_runs(load_profile("mini"))
    assert len(runs) == len(set(runs)) == 3 * (5 + 1 + 2) + 1
    assert runs[-1].also == (iv.RIDGE,) and runs[-1].setting is None


def test_photographs_have_an_empty_table(monkeypatch):
    monkeypatch.setattr(iv, "changes_of", lambda profile: [])
    rows = iv.intervention_table(load_profile("mini"))
    assert rows.empty and "measure" in rows
