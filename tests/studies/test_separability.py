"""Probes of codes: planted so that the right latents and scores are known, and against scikit-learn."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sparc_lib.data.knowledge import Vocabulary
from sparc_lib.profiles import load_profile
from sparc_lib.studies import separability, tables
from sparc_lib.studies.facts import ALL
from sparc_lib.studies.separability import (
    AS_TRAINED,
    COLUMNS,
    EQUAL_FVU,
    FEWER_LATENTS,
    JOINT,
    PROBES,
    gaps,
    groups,
    read,
    references,
    separability_table,
)
from sparc_lib.studies.separation_measures import (
    absorption,
    choose,
    coherence,
    cut,
    effective_rank,
    moments,
    separations,
    sparse_weights,
)
from sparc_lib.taxonomy import Taxonomy

pytestmark = pytest.mark.usefixtures("in_this_process")


def planted(n=3000, seed=0):
    """Codes and facts: fact 0 is latent 2; fact 1 is latents 4, 5, 6 and 7, a quarter each; 8 others fire on
    anything."""
    draw = np.random.default_rng(seed)
    facts = draw.random((n, 2)) < [0.2, 0.3]
    fires = draw.random((n, 16)) < 0.3
    fires[:, 2] = facts[:, 0]
    which = draw.integers(4, 8, n)
    fires[:, 4:8] = facts[:, [1]] & (np.arange(4, 8) == which[:, None])
    return sp.csr_matrix(fires * (0.5 + draw.random(fires.shape))), sp.csr_array(facts)


def test_separation_is_two_auc_less_one_with_ties_shared():
    from sklearn.metrics import roc_auc_score

    draw = np.random.default_rng(0)
    x = sp.csr_array(np.maximum(draw.integers(-3, 4, (300, 5)), 0).astype(float))  # many ties, many zeros
    true = sp.csr_array(draw.random((300, 3)) < [0.1, 0.4, 0.7])
    weights = draw.integers(-1, 2, (5, 3)).astype(float)
    scores = x @ weights
    expected = [2 * roc_auc_score(true.toarray()[:, f], scores[:, f]) - 1 for f in range(3)]
    assert separations(x, weights, true) == pytest.approx(expected)
    assert separations(x, sp.csc_array(weights), true) == pytest.approx(expected)
    never = sp.csr_array((300, 1), dtype=bool)
    assert np.isnan(separations(x, weights[:, :1], never)).all()


def test_probes_read_planted_facts_from_as_many_latents_as_they_have():
    codes, facts = planted()
    test_codes, test_facts = planted(seed=1)
    scores = read(codes, test_codes, {"train": facts, "test": test_facts})
    assert scores["1"] == pytest.approx([1.0, 0.25], abs=0.03)
    assert scores["4"] == pytest.approx([1.0, 1.0], abs=0.01) and scores[ALL] == pytest.approx(
        [1, 1], abs=0.01
    )
    assert list(scores) == PROBES
    without = np.arange(16) != 2
    assert abs(read(codes, test_codes, {"train": facts, "test": test_facts}, without)[ALL][0]) < 0.1


def test_facts_of_other_samples_cannot_be_read():
    codes, facts = planted()
    test_codes, test_facts = planted(seed=1)
    order = np.random.default_rng(5).permutation(3000)
    scores = read(codes, test_codes, {"train": facts[order], "test": test_facts[order]})
    assert max(abs(values).max() for values in scores.values()) < 0.1


def test_latents_are_chosen_as_by_trying_each_in_turn():
    draw = np.random.default_rng(3)
    x = draw.standard_normal((400, 9)) @ draw.standard_normal((9, 9))
    true = sp.csr_array(x @ draw.standard_normal((9, 4)) > 1)
    own = moments(x, true)
    chosen = choose(own, 5)
    for fact in range(4):
        taken = []
        for _ in range(5):
            errors = {}
            for latent in set(range(9)) - set(taken):
                columns = [*taken, latent]
                cross = own.cross[columns, fact]
                errors[latent] = -cross @ np.linalg.solve(own.gram[np.ix_(columns, columns)], cross)
            taken.append(min(errors, key=errors.get))
        assert chosen.inputs[fact].tolist() == taken
    weights = sparse_weights(own, chosen, 3).toarray()
    columns = chosen.inputs[0, :3]
    expected = np.linalg.solve(own.gram[np.ix_(columns, columns)], own.cross[columns, 0])
    assert weights[columns, 0] == pytest.approx(expected) and (weights[:, 0] != 0).sum() == 3


def test_a_dead_or_barred_latent_is_never_read():
    codes, facts = planted(n=500)
    dense = codes.toarray()
    dense[:, 3:] = 0
    own = moments(sp.csr_array(dense), facts)
    chosen = choose(own, 4, np.arange(16) != 0)
    assert chosen.usable.sum(1).tolist() == [2, 2]
    assert set(chosen.inputs[chosen.usable]) == {1, 2}
    assert np.isfinite(sparse_weights(own, chosen, 4).toarray()).all()
    with pytest.raises(ValueError, match="nothing to read"):
        moments(sp.csr_array((500, 16)), facts)


def test_blocks_change_nothing(monkeypatch):
    codes, facts = planted(n=500)
    true = {"train": facts, "test": facts}
    whole = read(codes, codes, true)
    monkeypatch.setattr("sparc_lib.studies.separation_measures.NUMBERS", 1)
    monkeypatch.setattr("sparc_lib.studies.separation_measures.ROWS", 100)
    for size, values in read(codes, codes, true).items():
        assert values == pytest.approx(whole[size])
    assert effective_rank(codes) == pytest.approx(effective_rank(codes.toarray()))


def test_cut_keeps_the_largest_of_every_row():
    codes = sp.csr_array(np.array([[0, 3, 1, 2], [5, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]], float))
    assert cut(codes, 2).toarray().tolist() == [[0, 3, 0, 2], [5, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]
    assert (cut(codes, 4) != codes).nnz == 0


def test_coherence_of_three_directions_of_a_plane_is_welch_s_bound():
    angles = np.arange(3) * np.pi / 3
    found = coherence(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert found == pytest.approx((0.5, 0.5, 0.5))
    apart = coherence(3 * np.eye(4))
    assert apart == (0, 0, 0)
    assert np.isnan(coherence(np.eye(4)[:1]).highest)


def test_effective_rank_counts_equal_directions():
    x = np.concatenate([np.eye(4), -np.eye(4)])
    assert effective_rank(x) == pytest.approx(4) == effective_rank(sp.csr_array(x))
    assert effective_rank(x * [1, 1, 0, 0]) == pytest.approx(2)


def animals(absorbs, n=6000, seed=0):
    """Latent 0 fires on animals, 1 on dogs, 2 on cats, 3 on cows, half of the time; with `absorbs` 0 is
    silent where 1 fires."""
    draw = np.random.default_rng(seed)
    labels = np.eye(4, dtype=bool)[draw.integers(0, 4, n)]  # dog, cat, cow, car
    own = labels[:, :3] & (draw.random((n, 3)) < 0.5)
    animal = labels[:, :3].any(1) & (~own[:, 0] if absorbs else draw.random(n) < 0.9)
    return sp.csr_array(np.column_stack([animal, own]).astype(float)), sp.csr_array(labels)


ANIMALS = sp.csr_array(np.array([[True, True, True, False]]))


def test_a_class_that_fires_in_place_of_its_group_has_absorbed_it():
    found = absorption(animals(True), animals(True, seed=1), ANIMALS)
    assert found.n_pairs == 3
    assert found.caught == pytest.approx(2.5 / 3, abs=0.02)
    assert found.absorbed == pytest.approx(0.5 / 3, abs=0.02)  # half of the dogs, no cats, no cows
    assert found.chance == pytest.approx(0.25 / 3, abs=0.02)
    without = absorption(animals(False), animals(False, seed=1), ANIMALS)
    assert without.absorbed == pytest.approx(without.chance, abs=0.01)


def test_absorption_needs_groups_and_two_latents():
    codes, labels = animals(False)
    none = absorption((codes, labels), (codes, labels), ANIMALS[[]])
    assert none.n_pairs == 0 and np.isnan(none.absorbed)
    same = codes[:, [0, 0, 0, 0]]
    assert absorption((same, labels), (same, labels), ANIMALS).n_pairs == 0


def test_groups_have_two_classes_or_more_and_are_not_the_root():
    tree = {
        "LabelName": "all",
        "Subcategory": [
            {"LabelName": "animal", "Subcategory": [{"LabelName": name} for name in ("dog", "cat")]},
            {"LabelName": "vehicle", "Subcategory": [{"LabelName": "car"}]},
        ],
    }
    taxonomy = Taxonomy.from_open_images(tree, ["cat", "car", "dog"])
    assert groups(taxonomy).toarray().tolist() == [[True, False, True]]


def row(setting, coding, kept, among, score, fvu):
    base = dict(model="trained", setting=setting, seed=0, stream="dino", kind=ALL)
    return base | dict(coding=coding, kept=kept, among=among, fvu=fvu) | dict.fromkeys(PROBES, score)


def test_gaps_by_hand():
    rows = [
        row("global_lambda1", "independent", 10, 512, 0.5, 0.2),
        row("global_lambda1", "independent", 5, 512, 0.4, 0.4),
        row("global_lambda1", "independent", 10, 256, 0.45, 0.2),
        row("global_lambda1", "joint", 10, 512, 0.7, 0.1),
        row("local_lambda1", "independent", 10, 512, 0.6, 0.1),
        row("local_lambda1", "independent", 5, 512, 0.4, 0.3),
        row("local_lambda1", "independent", 10, 256, 0.6, 0.1),
    ]
    found = gaps(pd.DataFrame(rows), {"global_lambda1": "local_lambda1"}).set_index("condition")
    assert found.loc[AS_TRAINED, "1"] == pytest.approx(-0.1)
    assert found.loc[FEWER_LATENTS, ALL] == pytest.approx(-0.15)
    assert found.loc[EQUAL_FVU, "1"] == pytest.approx(0.5 - 0.5)  # halfway between the local code and its cut
    assert found.loc[JOINT, "1"] == pytest.approx(0.1)
    far = pd.DataFrame(rows).assign(fvu=lambda t: t.fvu.where(t.setting == "local_lambda1", 0.9))
    beyond = gaps(far, {"global_lambda1": "local_lambda1"}).set_index("condition")
    assert np.isnan(beyond.loc[EQUAL_FVU, "1"])


def test_a_shared_gate_is_compared_with_the_local_one_of_its_lambda():
    assert references(load_profile("smoke")) == {
        "global_lambda1": "local_lambda1",
        "global_lambda0": "local_lambda0",
        "one_voter": "local_lambda1",
    }


def test_the_table_has_every_model_stream_variant_and_kind(two_stores, monkeypatch):
    stores = two_stores
    words = {
        split: Vocabulary(own.classes, ["class"] * 4 + ["part"] * 4, own.labels, list(own.ids))
        for split, own in stores.items()
    }
    tree = {"LabelName": "all", "Subcategory": [{"LabelName": "group", "Subcategory": []}]}
    tree["Subcategory"][0]["Subcategory"] = [{"LabelName": name} for name in stores["train"].classes]
    taxonomy = Taxonomy.from_open_images(tree, stores["train"].classes)
    monkeypatch.setattr(tables, "features", lambda profile, split, weights=None: stores[split])
    monkeypatch.setattr(separability, "_vocabularies", lambda profile: words)
    monkeypatch.setattr(separability, "concepts", lambda profile, classes: (taxonomy, {}))
    smoke = load_profile("smoke")
    sparc = dataclasses.replace(smoke.sparc, n_latents=32, k=4, k_aux=4, batch_size=32)
    chosen = (smoke.settings[0], smoke.settings[2])
    profile = dataclasses.replace(smoke, sparc=sparc, seeds=(0,), settings=chosen)
    rows = separability_table(profile)
    assert list(rows) == ["model", "setting", "seed", *COLUMNS]
    per_code, cuts = 3, 2  # kinds: all, class, part; of 4 entries 3 and 2 are kept
    expected = per_code * 2  # raw
    expected += 2 * (2 * (per_code + cuts + 1 + 1) + (per_code + cuts + 1) + per_code)
    assert len(rows) == expected
    whole = rows[(rows.kind == ALL) & (rows.coding == "independent") & (rows.kept == 4) & (rows.among == 32)]
    assert whole[["fvu", "live", "rank", "highest", "absorbed"]].notna().all(axis=None)
    assert rows[rows.kind != ALL].fvu.isna().all()
    assert rows[ALL].between(-1, 1).all()
    assert len(gaps(rows, references(profile))) == 2 * 2 * 4
