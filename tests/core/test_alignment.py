from itertools import combinations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.metrics import jaccard_score

from sparc_lib.alignment import (
    activation_patterns,
    as_csr,
    jaccard_per_latent,
    label_counts,
    mean_jaccard,
    pw_mcc,
)
from sparc_lib.taxonomy import Taxonomy

TREE = {
    "LabelName": "root",
    "Subcategory": [
        {"LabelName": "left", "Subcategory": [{"LabelName": "a"}, {"LabelName": "b"}]},
        {"LabelName": "right", "Subcategory": [{"LabelName": "c"}, {"LabelName": "d"}, {"LabelName": "e"}]},
    ],
}
TAXONOMY = Taxonomy.from_open_images(TREE, list("abcde"))


def problem(seed=0, n=80, n_latents=12, streams=("dino", "clip_img", "clip_txt")):
    """Random codes with dead latents (0: everywhere, 1: all but the first stream), labels with empty rows."""
    draw = np.random.default_rng(seed)
    codes = {stream: draw.random((n, n_latents)) * (draw.random((n, n_latents)) < 0.2) for stream in streams}
    for position, matrix in enumerate(codes.values()):
        matrix[:, : 1 if position == 0 else 2] = 0
    labels = (draw.random((n, 5)) < 0.25).astype(float)
    labels[::7] = 0
    return codes, labels


def naive_counts(z, labels, latent, top_n):
    order = sorted(np.flatnonzero(z[:, latent] > 0), key=lambda i: -z[i, latent])[:top_n]
    chosen = [i for i in order if labels[i].any()]
    return np.array([sum(labels[i, c] for i in chosen) for c in range(labels.shape[1])]), len(chosen)


def naive_jaccard(codes, labels, groups, top_n=None, min_samples=1):
    """Loops over latents, pairs and classes, straight from the definition."""
    result = []
    for latent in range(next(iter(codes.values())).shape[1]):
        counted = [naive_counts(z, labels, latent, top_n) for z in codes.values()]
        scores = []
        for (n_s, support_s), (n_t, support_t) in combinations(counted, 2):
            if min(support_s, support_t) >= min_samples:
                s, t = ([sum(n[c] for c in group) for group in groups] for n in (n_s, n_t))
                scores.append(sum(map(min, s, t)) / sum(map(max, s, t)))
        result.append(np.mean(scores) if scores else 0)
    return np.array(result)


@pytest.mark.parametrize("top_n", [None, 5])
@pytest.mark.parametrize("min_samples", [1, 6])
@pytest.mark.parametrize(
    "depth, groups", [(0, [range(5)]), (1, [[0, 1], [2, 3, 4]]), (2, [[0], [1], [2], [3], [4]])]
)
def test_against_a_naive_implementation(top_n, min_samples, depth, groups):
    codes, labels = problem()
    counts = label_counts(codes, labels, top_n)
    expected = naive_jaccard(codes, labels, groups, top_n, min_samples)
    found = jaccard_per_latent(counts, TAXONOMY, depth, min_samples=min_samples)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found[0] == found[1] == 0
    if (top_n, min_samples) == (5, 6):  # five samples never support six
        assert not found.any()
    else:
        assert found.max() > 0


def test_against_scikit_learn():
    """With one sample per class, counts are 0 or 1 and the Jaccard is that of two sets."""
    draw = np.random.default_rng(1)
    codes = {stream: (draw.random((30, 8)) < 0.4).astype(float) for stream in ("dino", "clip_txt")}
    found = jaccard_per_latent(label_counts(codes, np.eye(30)))
    expected = [jaccard_score(codes["dino"][:, latent], codes["clip_txt"][:, latent]) for latent in range(8)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_kinds_of_input_agree_and_stay_untouched():
    codes, labels = problem()
    stored = {stream: sp.csr_matrix(z) for stream, z in codes.items()}
    stored["dino"].data[0] = 0  # an explicit zero is no activation
    dense = {stream: z.toarray() for stream, z in stored.items()}
    tensors = {stream: torch.from_numpy(z) for stream, z in dense.items()}
    labels_bool = sp.csr_matrix(labels.astype(bool))
    expected = label_counts(dense, labels)
    nnz = stored["dino"].nnz
    for variant in (stored, tensors):
        found = label_counts(variant, labels_bool)
        for stream in codes:
            np.testing.assert_array_equal(found[stream], expected[stream])
            np.testing.assert_array_equal(found.support[stream], expected.support[stream])
    assert stored["dino"].nnz == nnz and labels_bool.dtype == bool


def test_unsorted_repeated_entries_are_summed():
    repeated = sp.csr_matrix(
        (np.array([1.0, 2.0, -1.0]), np.array([2, 0, 2]), np.array([0, 3])), shape=(1, 3)
    )
    np.testing.assert_array_equal(as_csr(repeated, "codes").toarray(), [[2, 0, 0]])
    assert as_csr(repeated, "codes").nnz == 1


def test_many_repeated_entries_of_a_small_type_do_not_overflow():
    """256 entries of uint8 at one place add up to 0 in their own type."""
    place = np.zeros(256, int)
    labels = sp.coo_matrix((np.ones(256, np.uint8), (place, place)), shape=(1, 2))
    assert label_counts({"dino": np.ones((1, 1))}, labels)["dino"].tolist() == [[1, 0]]


def test_unlabelled_samples_count_nowhere_but_take_places_in_the_top():
    z = np.array([[3.0], [2.0], [1.0]])
    labels = np.array([[0, 0], [1, 1], [1, 0]])
    counts = label_counts({"dino": z, "clip_img": z}, labels)
    np.testing.assert_array_equal(counts["dino"], [[2, 1]])
    assert counts.support["dino"].tolist() == [2]
    np.testing.assert_array_equal(label_counts({"dino": z}, labels, top_n=2)["dino"], [[1, 1]])
    assert not label_counts({"dino": z}, labels, top_n=1).alive("dino").any()


def test_patterns_and_means():
    codes, labels = problem()
    counts = label_counts(codes, labels)
    patterns = activation_patterns(counts)
    assert (patterns.all_alive, patterns.all_dead, patterns.mixed) == (10, 1, {1: 1, 2: 0})
    assert patterns.dead == {"dino": 1, "clip_img": 2, "clip_txt": 2}
    assert patterns.mixed_total == 1
    per_latent = jaccard_per_latent(counts)
    means = mean_jaccard(per_latent, counts)
    assert means.n_alive == 10
    assert means.all_latents == pytest.approx(per_latent.mean())
    assert means.alive == pytest.approx(means.all_latents * 12 / 10)
    strict = activation_patterns(counts, min_samples=10**6)
    assert strict.all_dead == 12
    assert np.isnan(mean_jaccard(per_latent, counts, min_samples=10**6).alive)


def test_clear_errors():
    codes, labels = problem()
    counts = label_counts(codes, labels)
    with pytest.raises(ValueError, match="different length.*'dino': 79.*same order"):
        label_counts({**codes, "dino": codes["dino"][:-1]}, labels)
    with pytest.raises(ValueError, match="different numbers of latents"):
        label_counts({**codes, "dino": codes["dino"][:, :-1]}, labels)
    with pytest.raises(ValueError, match="no classes"):
        label_counts(codes, np.zeros((80, 0)))
    with pytest.raises(ValueError, match="codes_by_stream is empty"):
        label_counts({}, labels)
    with pytest.raises(ValueError, match="stream 'dino'.*NaN"):
        label_counts({"dino": np.full((80, 3), np.nan)}, labels)
    with pytest.raises(ValueError, match="labels: expected a matrix"):
        label_counts(codes, labels[:, 0])
    with pytest.raises(ValueError, match="top_n=0"):
        label_counts(codes, labels, top_n=0)
    with pytest.raises(KeyError, match="unknown stream 'audio'.*'dino'"):
        counts["audio"]
    with pytest.raises(KeyError, match="unknown stream 'audio'"):
        counts.alive("audio")
    with pytest.raises(ValueError, match="at least two"):
        jaccard_per_latent(label_counts({"dino": codes["dino"]}, labels))
    with pytest.raises(ValueError, match="depth=1 without a taxonomy"):
        jaccard_per_latent(counts, depth=1)
    with pytest.raises(ValueError, match="taxonomy has 4 classes, labels have 5"):
        jaccard_per_latent(counts, Taxonomy.from_open_images(TREE, list("abcd")), 1)
    with pytest.raises(ValueError, match="min_samples=0"):
        activation_patterns(counts, min_samples=0)
    with pytest.raises(ValueError, match="shape \\(3,\\)"):
        mean_jaccard(np.zeros(3), counts)


def test_pw_mcc_matches_directions_whatever_their_order_sign_and_length():
    draw = np.random.default_rng(0)
    first = draw.normal(size=(12, 30))
    order = draw.permutation(12)
    assert pw_mcc(first, -3 * first[order]) == pytest.approx(1)
    assert pw_mcc(first, first[order[:5]]) == pytest.approx(1)  # every row of the smaller one is found
    assert pw_mcc(np.eye(3), np.eye(3)[:, [1, 0, 2]] * 0.5) == pytest.approx(1)
    half = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert pw_mcc(np.eye(2), half) == pytest.approx((1 + 0.5**0.5) / 2)  # one to one
    assert pw_mcc(first, draw.normal(size=(12, 30))) < 0.5
    assert np.isnan(pw_mcc(first, first[:0]))
    with pytest.raises(ValueError, match="pass two of one space"):
        pw_mcc(first, first[:, 1:])
    with pytest.raises(ValueError, match="length 0"):
        pw_mcc(first, np.zeros((2, 30)))
