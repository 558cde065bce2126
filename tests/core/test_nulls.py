"""The nulls of the Jaccard take away what they say and keep the rest; the bound is a bound."""

import numpy as np
import pytest
from test_alignment import TAXONOMY, problem

from sparc_lib.alignment import LabelCounts, jaccard_per_latent, label_counts, mean_jaccard
from sparc_lib.nulls import (
    activity_bound,
    chance_corrected,
    clustered_interval,
    permutation_null,
    rescaled,
    shuffled_latents_null,
)


def test_permutation_null_removes_what_latents_show_and_keeps_who_fires():
    """Two streams fire on different samples of the same class: true Jaccard 1, the null well below."""
    n, classes = 400, 5
    labels = np.eye(classes)[np.arange(n) % classes]
    labels[-50:] = 0
    codes = {stream: np.zeros((n, classes)) for stream in ("dino", "clip_img")}
    for sample in range(n):
        codes["dino" if (sample // classes) % 2 else "clip_img"][sample, sample % classes] = 1.0
    observed = jaccard_per_latent(label_counts(codes, labels))
    null = permutation_null(codes, labels, np.random.default_rng(0), repeats=20)
    assert null.shape == (20, classes)
    assert observed.min() == 1.0 and null.mean() < 0.75
    np.testing.assert_array_equal(null, permutation_null(codes, labels, np.random.default_rng(0), repeats=20))
    assert len(np.unique(null.mean(1))) > 1
    assert (
        permutation_null(codes, labels, np.random.default_rng(0), repeats=2, min_samples=10**6).max() == 0
    )  # the support threshold reaches the null


def test_permutation_null_shows_that_joint_codes_agree_by_construction():
    """F3: the same samples fire in both streams, so permuted labels score as high as true ones."""
    codes, labels = problem()
    codes = {"dino": codes["dino"], "clip_img": 2 * codes["dino"]}
    null = permutation_null(codes, labels, np.random.default_rng(0), repeats=3, taxonomy=TAXONOMY, depth=1)
    np.testing.assert_array_equal(
        null, np.broadcast_to(jaccard_per_latent(label_counts(codes, labels)), null.shape)
    )


def test_chance_corrected():
    np.testing.assert_allclose(chance_corrected([1.0, 0.4, 0.7], [0.4, 0.4, 0.4]), [1, 0, 0.5])
    assert np.isnan(chance_corrected(1.0, 1.0))


def test_permuted_labels_lie_near_the_bound_and_so_above_perfectly_aligned_latents():
    """Latent l fires on class l alone, in the text on three quarters of it: nothing could be better aligned.
    As samples carry several labels, permuted counts still overlap more than the true ones."""
    draw = np.random.default_rng(0)
    n, classes = 6000, 8
    labels = draw.random((n, classes)) < 0.12
    labels[np.arange(n), np.arange(n) % classes] = True
    own = labels.astype(float) * (np.arange(classes) == np.arange(n)[:, None] % classes)
    codes = {
        "clip_img": own * (draw.random(own.shape) < 0.8),
        "clip_txt": own * (draw.random(own.shape) < 0.6),
    }
    counts = label_counts(codes, labels)
    observed, bound = jaccard_per_latent(counts), activity_bound(counts)
    permuted = permutation_null(codes, labels, np.random.default_rng(0), repeats=5)
    shuffled = shuffled_latents_null(counts, np.random.default_rng(0), repeats=50)
    assert permuted.mean() > 0.95 * bound.mean() and permuted.mean() > observed.mean() - 0.02
    others = shuffled[shuffled != np.broadcast_to(observed, shuffled.shape)]  # a partner may be the namesake
    assert others.max() < observed.min() - 0.1
    assert rescaled(observed.mean(), shuffled.mean(), bound.mean()) > 0.8


def test_shuffled_latents_are_the_mean_over_all_partners():
    """The mean over many shuffles is that over all pairs of alive latents of two streams."""
    codes, labels = problem(n=200)
    codes = {stream: codes[stream] for stream in ("dino", "clip_txt")}
    counts = label_counts(codes, labels)
    latent, alive = 5, np.flatnonzero(counts.alive("clip_txt"))
    a, others = counts["dino"][latent], counts["clip_txt"][alive]
    every = np.minimum(a, others).sum(1) / np.maximum(a, others).sum(1)
    null = shuffled_latents_null(counts, np.random.default_rng(0), repeats=600)
    assert null[:, latent].mean() == pytest.approx(every.mean(), abs=0.02)
    assert set(np.round(null[:, latent], 9)) <= set(np.round(every, 9))
    np.testing.assert_array_equal(
        null[:3], shuffled_latents_null(counts, np.random.default_rng(0), repeats=3)
    )


def test_shuffling_keeps_who_is_alive():
    codes, labels = problem()
    counts = label_counts(codes, labels)
    null = shuffled_latents_null(counts, np.random.default_rng(0), repeats=20, taxonomy=TAXONOMY, depth=0)
    assert not null[:, :2].any()  # alive in one stream at most: no pair to compare
    assert (null[:, 2:] > 0).all()  # at the root any two alive latents overlap
    assert mean_jaccard(null[0], counts).n_alive == 10
    assert not shuffled_latents_null(counts, np.random.default_rng(0), repeats=2, min_samples=10**6).any()


def test_no_jaccard_exceeds_the_bound_and_at_the_root_it_is_met():
    codes, labels = problem()
    counts = label_counts(codes, labels)
    for depth in range(3):
        assert (jaccard_per_latent(counts, TAXONOMY, depth) <= activity_bound(counts) + 1e-12).all()
    np.testing.assert_allclose(jaccard_per_latent(counts, TAXONOMY, 0), activity_bound(counts))
    by_hand = LabelCounts(
        {"a": np.array([[3, 1]]), "b": np.array([[0, 2]])}, {"a": np.array([4]), "b": np.array([2])}
    )
    assert activity_bound(by_hand) == [0.5]
    assert activity_bound(counts, min_samples=10**6).max() == 0


def test_rescaled_runs_from_unrelated_to_the_most_that_is_possible():
    np.testing.assert_allclose(rescaled([0.2, 0.5, 0.8], 0.2, 0.8), [0, 0.5, 1])
    assert np.isnan(rescaled(0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    "null",
    [
        lambda codes, labels, rng: permutation_null(codes, labels, rng, repeats=0),
        lambda codes, labels, rng: shuffled_latents_null(label_counts(codes, labels), rng, 0),
    ],
)
def test_a_null_needs_a_repeat(null):
    with pytest.raises(ValueError, match="repeats=0"):
        null(*problem(), np.random.default_rng(0))


def test_an_interval_does_not_pass_over_missing_values():
    """Sums of pandas leave NaN out: the mean was NaN, its interval 0 to 3; without cluster one was lost."""
    draw = np.random.default_rng(0)
    assert np.isnan(clustered_interval(np.array([1, np.nan, 3]), np.array([0, 1, 2]), draw)).all()
    for cluster in (np.array([0, np.nan, 2]), np.array(["a", None, "b"]), np.array([0, 1])):
        with pytest.raises(ValueError, match="give every value its cluster"):
            clustered_interval(np.array([1.0, 100, 3]), cluster, draw)
