"""Which latents stand for which classes: by hand, and planted so that the right ones are known."""

import dataclasses

import numpy as np
import pytest
import scipy.sparse as sp

from sparc_lib.profiles import load_profile
from sparc_lib.studies import tables
from sparc_lib.studies.monopoly import (
    CAPPED,
    COLUMNS,
    EVEN_USE,
    LINEAR,
    ONE_VOTER,
    PUBLISHED,
    Assignment,
    assignments,
    best_linear,
    capped,
    class_agreement,
    class_rows,
    false_positives,
    firing_shares,
    gini,
    monopoly_table,
    summary,
)

pytestmark = pytest.mark.usefixtures("in_this_process")


def planted(n=2000, n_classes=4, seed=0):
    """Codes and labels: latent c fires on class c alone, but for 1 % mistakes; 8 more fire on anything."""
    draw = np.random.default_rng(seed)
    labels = draw.random((n, n_classes)) < np.array([0.5, 0.2, 0.1, 0.1])
    own = np.where(draw.random(labels.shape) < 0.01, ~labels, labels)
    others = draw.random((n, 8)) < 0.6
    fires = np.concatenate([own, others], axis=1)
    return sp.csr_matrix(fires * (0.5 + draw.random(fires.shape))), sp.csr_array(labels)


def test_capped_keeps_the_latent_that_tells_most_and_weighs_its_lift():
    codes, labels = planted()
    weights = capped(codes, labels, 1)
    assert (weights != 0).sum(1).tolist() == [1, 1, 1, 1]
    assert weights.argmax(1).tolist() == [0, 1, 2, 3]
    shows, fires = labels.toarray()[:, 2], codes.toarray()[:, 2] > 0
    base = shows.mean()
    lift = ((shows & fires).sum() + 10 * base) / (fires.sum() + 10) / base
    assert weights[2, 2] == pytest.approx(np.log2(lift))


def test_capped_weighs_a_latent_that_speaks_against_a_class_below_zero():
    labels = sp.csr_array(np.array([[True]] * 50 + [[False]] * 50))
    fires = np.zeros((100, 2))
    fires[:50, 0] = fires[50:, 1] = 1.0
    weights = capped(sp.csr_matrix(fires), labels, 2)
    assert weights[0, 0] > 0 > weights[0, 1]


def test_a_class_that_nothing_shows_has_no_latent():
    codes, labels = planted()
    wider = sp.csr_array(sp.hstack([labels, sp.csr_array((2000, 1), dtype=bool)]))
    assert not capped(codes, wider, 4)[4].any() and not best_linear(codes, wider)[4].any()


def test_false_positives_by_hand():
    inside, outside = np.array([4.0, 3.0, 2.0, 1.0]), np.array([5.0, 2.0, 2.0, 0.0])
    assert false_positives(inside, outside, 0.5) == 0.25  # threshold 3
    assert false_positives(inside, outside, 0.75) == 0.75  # threshold 2: all that equal it are needed
    tied = np.zeros(10)
    assert false_positives(tied, np.zeros(7), 0.8) == pytest.approx(0.8)  # a score that tells nothing


def test_planted_latents_halve_the_false_positives_and_labels_of_other_samples_do_not():
    codes, labels = planted()
    test_codes, test_labels = planted(seed=1)
    classes = list("abcd")

    def by_rule(train_labels):
        made = {one.name: one for one in assignments({"dino": codes}, train_labels, 50)}
        rows = {
            name: class_rows(one, {"dino": test_codes}, test_labels, classes) for name, one in made.items()
        }
        return {name: own.false_positives.mean() for name, own in rows.items()}

    right = by_rule(labels)
    assert right["at most 4"] < right[PUBLISHED] / 2 and right[LINEAR] < 0.05
    shuffled = by_rule(labels[np.random.default_rng(2).permutation(2000)])
    assert shuffled["at most 4"] > 0.4 and shuffled[LINEAR] > 0.4


def test_the_published_rule_gives_common_classes_more_latents():
    codes, labels = planted()
    (published, *_) = assignments({"dino": codes}, labels, 110)
    latents = (published.weights["dino"] > 0).sum(1)
    assert latents[0] == 11 and latents[0] > latents[3]


def test_firing_is_shared_among_the_classes_of_a_latent():
    stands = np.array([[True, True, False], [False, True, False]])
    shares = firing_shares(stands, np.array([10, 20, 70]))
    assert shares.tolist() == pytest.approx([20 / 30, 10 / 30])
    assert not firing_shares(np.zeros((2, 3), bool), np.ones(3)).any()


def test_agreement_by_hand():
    first = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    second = np.array([[0.0, 1.0, 1.0], [0.0, 0.0, 2.0]])
    agreement, chance = class_agreement({"dino": first, "clip_img": second}, np.arange(2))
    assert agreement["dino"].tolist() == pytest.approx([1 / 3, 1.0])
    assert chance["dino"].tolist() == pytest.approx([0.0, 0.5])
    assert chance["clip_img"].tolist() == pytest.approx([0.5, 0.0])


def test_gini_by_hand():
    assert gini([1, 1, 1, 1]) == 0 and gini([0, 0, 0, 1]) == pytest.approx(3 / 4)
    assert gini([1, 3]) == pytest.approx(1 / 4) and np.isnan(gini([0, 0]))


def test_a_class_with_too_few_samples_is_not_measured():
    codes, labels = planted(n=40)
    few = labels.toarray()
    few[:, 3] = False
    few[:2, 3] = True
    one = Assignment(PUBLISHED, {"dino": np.ones((4, 12))})
    rows = class_rows(one, {"dino": codes}, sp.csr_array(few), list("abcd"))
    assert rows["class"].tolist() == list("abc") and list(rows) == COLUMNS


def test_the_table_has_every_model_assignment_and_class(two_stores, monkeypatch):
    stores = two_stores
    monkeypatch.setattr(tables, "features", lambda profile, split, weights=None: stores[split])
    smoke = load_profile("smoke")
    sparc = dataclasses.replace(smoke.sparc, n_latents=32, k=4, k_aux=4, batch_size=32)
    profile = dataclasses.replace(smoke, sparc=sparc, seeds=(0,))
    table = monopoly_table(profile)
    assert set(table.model) == {"trained", "untrained", "random encoders"}
    assert len(table) == 6 * 2 * 6 * 8
    assert set(table[table.setting == ONE_VOTER].model) == {"trained", "random encoders"}
    assert set(table[table.setting == EVEN_USE].model) == {"trained"}
    means = summary(table)
    assert len(means) == 6 * 2 * 6
    assert means.false_positives.between(0, 1).all()
    most = means[means.assignment == CAPPED].latents
    assert (most <= 16).all()
