import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from sparc_lib.probing import _fit, probe_losses, probed_classes


def problem(seed=0, n=600, n_latents=30):
    """Class 0 has a latent of its own, class 1 is noise, class 2 is too rare."""
    draw = np.random.default_rng(seed)
    codes = draw.random((n, n_latents)) * (draw.random((n, n_latents)) < 0.15)
    labels = (draw.random((n, 3)) < [0.3, 0.3, 0.02]).astype(float)
    codes[:, 7] = np.where(labels[:, 0] > 0, 1 + draw.random(n), 0) * (draw.random(n) < 0.95)
    return codes, labels


def test_finds_the_latent_of_a_class():
    codes, labels = problem()
    losses = probe_losses(codes, labels)
    assert probed_classes(labels).tolist() == [0, 1]
    assert losses.shape == (2,)
    assert losses[0] < 0.25 < 0.6 < losses[1] < 0.85


@pytest.mark.parametrize("seed", range(6))
def test_the_fit_is_scikit_learns(seed):
    draw = np.random.default_rng(seed)
    activation = 3 * draw.random(300) * (draw.random(300) < draw.choice([0.02, 0.2, 1]))
    target = draw.random(300) < 0.3 + 0.4 * (activation > 0)
    (weight, bias), full = _fit(activation, target, "newton"), LogisticRegression(max_iter=10_000, tol=1e-12)
    full.fit(activation[:, None], target)
    early = _fit(activation, target, "lbfgs")
    assert early == pytest.approx((weight, bias), abs=2e-2)  # as published: stops before the optimum
    assert weight == pytest.approx(full.coef_[0, 0], abs=1e-4) and bias == pytest.approx(
        full.intercept_[0], abs=1e-4
    )


def test_the_fit_is_finite_where_the_classes_are_separate():
    always = np.random.default_rng(0).random(100) + 0.1
    weight, bias = _fit(always, always > 0.5, "newton")  # no silent rows at all
    assert 0 < weight < 100 and bias < 0
    fires = np.arange(100) < 40
    weight, bias = _fit(1000.0 * fires, fires, "newton")  # large activations, told apart by firing alone
    loss = log_loss(fires, 1 / (1 + np.exp(-np.clip(weight * 1000.0 * fires + bias, -30, 30))))
    assert loss < 1e-3


def test_both_solvers_give_the_same_losses():
    codes, labels = problem()
    np.testing.assert_allclose(
        probe_losses(codes, labels, solver="newton"), probe_losses(codes, labels), atol=2e-4
    )


def test_kinds_of_input_and_jobs_agree():
    codes, labels = problem()
    expected = probe_losses(codes, labels)
    np.testing.assert_array_equal(
        probe_losses(sp.csr_matrix(codes), sp.csr_matrix(labels.astype(bool))), expected
    )
    np.testing.assert_array_equal(probe_losses(codes, labels, n_jobs=2), expected)


def test_selection_on_all_samples_sees_the_test_split():
    """F7: a latent that fires on the class only outside its training rows wins by count over all."""
    codes, labels = problem()
    both = [probe_losses(codes, labels, select_on=way, n_candidates=1) for way in ("all", "train")]
    assert both[0][0] == both[1][0]  # the own latent leads either count
    assert both[0][1] != both[1][1]  # among noise the leader differs


def test_a_class_without_active_candidates_scores_chance():
    labels = np.zeros((300, 1))
    labels[:100] = 1
    assert probe_losses(np.zeros((300, 4)), labels).tolist() == [np.log(2)]


def test_frequent_classes_are_balanced_too():
    draw = np.random.default_rng(0)
    labels = (draw.random((400, 1)) < 0.7).astype(float)
    codes = np.where(labels > 0, 1.0, 0.0) + 0.01
    assert 0 < probe_losses(codes, labels)[0] < 0.4
    assert probe_losses(np.ones((400, 1)), labels)[0] == pytest.approx(np.log(2), abs=0.01)


def test_a_class_on_nearly_every_sample_cannot_be_balanced():
    labels = np.ones((400, 2))
    labels[:200, 0] = labels[:40, 1] = 0
    assert probed_classes(labels).tolist() == [0] and probed_classes(labels, 30).tolist() == [0, 1]


def test_clear_errors():
    codes, labels = problem()
    with pytest.raises(ValueError, match="select_on='test'"):
        probe_losses(codes, labels, select_on="test")
    with pytest.raises(ValueError, match="solver='adam'"):
        probe_losses(codes, labels, solver="adam")
    with pytest.raises(ValueError, match="600 samples, labels 599"):
        probe_losses(codes, labels[:-1])
    with pytest.raises(ValueError, match="no class of 3 has more than 500"):
        probe_losses(codes, labels, min_positives=500)
    with pytest.raises(ValueError, match="labels: expected a matrix"):
        probe_losses(codes, labels[:, 0])


def test_classes_too_small_to_split_and_no_candidates_are_named():
    codes, labels = np.random.default_rng(0).random((40, 5)), np.eye(40)[:, :4].sum(1, keepdims=True)
    with pytest.raises(ValueError, match="class 0 has 4 positives and 36 negatives, too few"):
        probe_losses(codes, labels, min_positives=2)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"n_candidates={wrong}"):
            probe_losses(codes, labels, n_candidates=wrong)
