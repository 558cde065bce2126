"""Facts that have a latent, and names that the streams share."""

import numpy as np
import pytest
import scipy.sparse as sp

from sparc_lib.concepts import NO_NAME, fact_scores, lift_names
from sparc_lib.data.drawn import DrawnDataset
from sparc_lib.data.knowledge import vocabulary
from sparc_lib.studies.facts import agreement, agreement_rows, recovery_rows

N = 400


@pytest.fixture
def world():
    """Latent l fires where fact l is true in stream "a"; in "b" only latent 0 does; fact 3 is common."""
    draw = np.random.default_rng(0)
    facts = draw.random((N, 4)) < [0.1, 0.2, 0.1, 0.95]
    value = 1 + draw.random((N, 4))
    codes = {"a": facts * value, "b": facts * value}
    codes["b"][:, 1] = codes["b"][:, 0]
    codes["b"][:, 2] = 0
    codes["a"][:, 3] = codes["b"][:, 3] = value[:, 3]  # always on
    return {s: sp.csr_matrix(z) for s, z in codes.items()}, sp.csr_array(facts)


def test_f1_is_that_of_scikit_learn(world):
    from sklearn.metrics import f1_score

    codes, facts = world
    scores = fact_scores(codes["b"], facts)
    for fact in range(4):
        for latent in range(4):
            fired = codes["b"][:, [latent]].toarray().ravel() > 0
            expected = f1_score(facts[:, [fact]].toarray().ravel(), fired, zero_division=0)
            assert scores[fact, latent] == pytest.approx(expected)


def test_names_by_lift_leave_out_what_is_always_true(world):
    codes, facts = world
    names = lift_names(codes, facts, ["red", "dog", "night", "sky"], top=50)
    assert names.named["a"].tolist() == [0, 1, 2, NO_NAME]  # "sky" is true of nearly all samples
    assert names.named["b"].tolist() == [0, 0, NO_NAME, NO_NAME]
    assert names.purity["a"][0] == 1.0 and names.support["b"][2] == 0
    with pytest.raises(ValueError, match="do not fit together"):
        lift_names(codes, facts[:10], ["red", "dog", "night", "sky"])


def test_a_lucky_latent_has_no_name(world):
    """One sample with a rare fact is weighed against samples at the base rate."""
    codes, facts = world
    once = sp.csr_matrix(([1.0], ([int(facts[:, [0]].toarray().argmax())], [0])), shape=(N, 1))
    assert lift_names({"a": once}, facts, ["red", "dog", "night", "sky"]).named["a"].tolist() == [NO_NAME]


def test_recovery_needs_the_same_latent_in_every_stream(world):
    codes, facts = world
    split = {"train": codes, "test": codes}
    rows = recovery_rows("joint", split, {"train": facts, "test": facts}, ["colour", "class", "time", "sky"])
    count = {(row.stream, row.kind): (row.n, row.out_of) for row in rows}
    assert count["a", "all"] == (3, 3)  # "sky" is too common to count
    assert count["b", "all"] == (1, 3) and count["all", "all"] == (1, 3)
    assert count["all", "colour"] == (1, 1) and count["all", "class"] == (0, 1)


def test_the_latent_is_chosen_on_the_training_split(world):
    codes, facts = world
    backwards = {s: z[:, ::-1] for s, z in codes.items()}
    rows = recovery_rows(
        "joint", {"train": codes, "test": backwards}, {"train": facts, "test": facts}, list("abcd")
    )
    assert next(row for row in rows if row.stream == "all").n == 0


def test_agreement_counts_names_that_all_streams_have():
    named = [np.array([0, 1, NO_NAME, 2]), np.array([0, 2, NO_NAME, NO_NAME])]
    assert agreement(named) == (1, 4, 0.25)
    assert agreement([np.array([NO_NAME]), np.array([NO_NAME])]) == (0, 0, 0.0)


def test_chance_agreement_is_that_of_shuffled_latents(world):
    codes, facts = world
    names = lift_names(codes, facts, ["red", "dog", "night", "sky"])
    rows = agreement_rows("joint", "lift", names, np.random.default_rng(0), repeats=400)
    share = {(row.measure, row.stream): row.share for row in rows}
    assert share["named (lift)", "a"] == 0.75 and share["named (lift)", "b"] == 0.5
    assert share["agreed (lift)", "all"] == pytest.approx(1 / 4)
    # Two of b's four places are "red"; one of a's is. Hit with probability 1/2: 1 of 4 pairs, else 0 of 5.
    assert share["agreed by chance (lift)", "all"] == pytest.approx(1 / 2 * 1 / 4, abs=0.03)


def test_the_vocabulary_of_drawn_scenes_are_their_facts():
    data = DrawnDataset("val", 30)
    words = vocabulary(data)
    assert words.true.shape == (len(data), len(words.terms)) and len(set(words.terms)) == len(words.terms)
    some = data.ids[7]
    assert (words.of([some]).true.toarray() == words.true[[7]].toarray()).all()
    with pytest.raises(KeyError):
        words.of(["nowhere"])
