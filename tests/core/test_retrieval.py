import tracemalloc

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR

from sparc_lib.retrieval import nearest, retrieval_metrics


def features(n=60, d=8, noise=1.0, seed=0):
    draw = np.random.default_rng(seed)
    query = draw.normal(size=(n, d))
    return query, query + noise * draw.normal(size=(n, d))


def sparse_codes(n=50, n_latents=40, seed=0):
    draw = np.random.default_rng(seed)
    query = draw.random((n, n_latents)) * (draw.random((n, n_latents)) < 0.2)
    reference = query * (draw.random((n, n_latents)) < 0.7) + draw.random((n, n_latents)) * (
        draw.random((n, n_latents)) < 0.1
    )
    reference[:3] = 0
    return sp.csr_array(query), sp.csr_array(reference)


def cosine(query, reference):
    return (query / np.linalg.norm(query, axis=1, keepdims=True)) @ (
        reference / np.linalg.norm(reference, axis=1, keepdims=True)
    ).T


@pytest.mark.parametrize("several", [False, True])
def test_against_torchmetrics(several):
    query, reference = features()
    relevant = np.eye(60, dtype=bool)
    if several:
        relevant |= np.roll(np.eye(60, dtype=bool), 3, axis=1)
    scores = torch.from_numpy(cosine(query, reference)).ravel()
    target = torch.from_numpy(relevant).ravel()
    queries = torch.arange(60).repeat_interleave(60)
    found = retrieval_metrics(
        query, reference, positives=sp.csr_array(relevant) if several else None, batch_size=7
    )
    assert found.mrr == pytest.approx(RetrievalMRR()(scores, target, indexes=queries).item(), abs=1e-6)
    if several:  # one hit among the first k and R@k of the best positive differ: other positives step aside
        assert found.recall[1] == pytest.approx(
            RetrievalHitRate(top_k=1)(scores, target, indexes=queries).item()
        )
    else:
        for k in (1, 5, 10):
            expected = RetrievalHitRate(top_k=k)(scores, target, indexes=queries).item()
            assert found.recall[k] == pytest.approx(expected, abs=1e-6)
    assert 0 < found.recall[1] < found.recall[5] < found.recall[10] <= 1
    assert found.n_reference == 60


def test_multi_positive_ranks_the_best_and_the_others_step_aside():
    reference = np.array([[1, 0.0], [1, 0.1], [1, 0.5], [0, 1]])
    query = np.array([[1, 0.2]])
    order = np.argsort(-cosine(query, reference)[0])
    assert order.tolist() == [1, 0, 2, 3]
    assert retrieval_metrics(query, reference, positives=[[2]]).ranks.tolist() == [3]
    assert retrieval_metrics(query, reference, positives=[[2, 0]]).ranks.tolist() == [2]
    assert retrieval_metrics(query, reference, positives=[[1, 0]]).ranks.tolist() == [1]
    assert retrieval_metrics(query, reference, positives=[[3, 2]]).ranks.tolist() == [3]


def test_positives_as_lists_and_as_csr_agree_for_any_numbers_of_rows():
    query, reference = features()
    lists = [[i, (i + 5) % 40] if i % 2 else [i] for i in range(20)]
    matrix = sp.lil_array((20, 40))
    for row, columns in enumerate(lists):
        matrix[row, columns] = 1
    found = [
        retrieval_metrics(query[:20], reference[:40], positives=positives, batch_size=6)
        for positives in (lists, matrix.tocsr())
    ]
    np.testing.assert_array_equal(found[0].ranks, found[1].ranks)
    assert found[0].n_reference == 40


def test_a_boolean_matrix_marks_positives_and_fractions_are_refused():
    """A dense boolean [n, m] is a matrix and not the row numbers 0 and 1; .7 is no row number."""
    query, reference = features()
    relevant = np.eye(60, k=3, dtype=bool) | np.eye(60, k=-57, dtype=bool)
    expected = retrieval_metrics(query, reference, positives=sp.csr_array(relevant)).ranks
    for same in (relevant, torch.from_numpy(relevant), relevant.tolist(), np.argmax(relevant, axis=1)):
        np.testing.assert_array_equal(retrieval_metrics(query, reference, positives=same).ranks, expected)
    rows = np.argmax(relevant, axis=1)
    for wrong in (rows + 0.7, rows.astype(float).tolist(), relevant[:, :50], [[str(row)] for row in rows]):
        with pytest.raises(ValueError, match="positives: entry 0 holds .*row numbers as integers"):
            retrieval_metrics(query, reference, positives=wrong)


def test_sparse_codes_equal_dense_codes():
    query, reference = sparse_codes()
    found = retrieval_metrics(query, reference)
    dense = retrieval_metrics(query.toarray(), reference.toarray(), batch_size=50)
    np.testing.assert_array_equal(found.ranks, dense.ranks)
    assert found.recall == dense.recall and found.mrr == dense.mrr
    assert 1 < found.ranks.mean() < 50


@pytest.mark.parametrize("several", [False, True])
def test_blocks_and_inverted_lists_agree(several, monkeypatch):
    """1,500 queries make two blocks; one of them has a code of zeros, which ties with everything."""
    query, reference = sparse_codes(1500)
    query = query.tolil()
    query[7] = 0
    query, positives = query.tocsr(), sp.eye_array(1500, format="csr")
    if several:
        positives = positives + sp.eye_array(1500, k=2, format="csr")
    blocks = retrieval_metrics(query, reference, positives=positives)
    monkeypatch.setattr("sparc_lib.retrieval.BLOCKS_BELOW", 0)
    for n_jobs in (1, 2):
        lists = retrieval_metrics(query, reference, positives=positives, n_jobs=n_jobs)
        np.testing.assert_array_equal(lists.ranks, blocks.ranks)
    dense = retrieval_metrics(query.toarray(), reference.toarray(), positives=positives)
    np.testing.assert_array_equal(blocks.ranks, dense.ranks)
    assert blocks.ranks[7] == (1500 - several + 1) / 2


@pytest.mark.parametrize("entries", [0, 10**9])
def test_scores_of_a_whole_data_set_never_exist(entries, monkeypatch):
    """800 x 5,000 scores are 16 MB in float32; the codes themselves and 64 rows of scores are some 4 MB."""
    monkeypatch.setattr("sparc_lib.retrieval.BLOCKS_BELOW", entries)
    codes = sp.random_array(
        (5000, 500), density=0.03, format="csr", rng=np.random.default_rng(0), dtype=np.float32
    )
    tracemalloc.start()
    retrieval_metrics(codes[:800], codes, positives=sp.eye_array(800, 5000, format="csr"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


def test_batch_size_kind_and_scale_do_not_matter():
    query, reference = features()
    expected = retrieval_metrics(query, reference).ranks
    for batch_size in (1, 13, 1000):
        np.testing.assert_array_equal(
            retrieval_metrics(query * 5, reference / 3, batch_size=batch_size).ranks, expected
        )
    single = retrieval_metrics(torch.from_numpy(query).float(), torch.from_numpy(reference))
    np.testing.assert_array_equal(single.ranks, expected)
    half = retrieval_metrics(query.astype(np.float16), reference.astype(np.float16))
    assert half.recall[10] == pytest.approx(retrieval_metrics(query, reference).recall[10], abs=0.05)


def test_inputs_stay_untouched():
    query, reference = features()
    codes, other = sparse_codes()
    before = query.copy(), codes.toarray()
    retrieval_metrics(query, reference)
    retrieval_metrics(codes, other)
    np.testing.assert_array_equal(query, before[0])
    np.testing.assert_array_equal(codes.toarray(), before[1])


@pytest.mark.parametrize("collapsed", [np.ones((20, 3)), np.zeros((20, 3))])
@pytest.mark.parametrize("kind", [np.asarray, sp.csr_array])
def test_collapsed_codes_are_at_chance(collapsed, kind):
    found = retrieval_metrics(kind(collapsed), kind(collapsed))
    assert found.recall == pytest.approx({1: 1 / 20, 5: 5 / 20, 10: 10 / 20})
    assert found.median_rank == (20 + 1) / 2
    assert found.mrr == pytest.approx(np.mean(1 / np.arange(1, 21)))


def test_copies_of_the_positive_share_its_hits():
    """An image with two captions occurs twice: either copy comes first as often as the other."""
    reference = np.array([[1.0, 0], [1.0, 0], [0, 1.0]])
    found = retrieval_metrics(np.array([[1, 0.1], [1, 0.1], [0.1, 1]]), reference, ks=(1, 2))
    assert found.ranks.tolist() == [1.5, 1.5, 1]
    assert found.recall == pytest.approx({1: 2 / 3, 2: 1})
    assert found.mrr == pytest.approx((0.75 + 0.75 + 1) / 3)
    both = retrieval_metrics(np.array([[1, 0.1]]), reference, positives=[[0, 1]])
    assert both.ranks.tolist() == [1]


def test_random_order_of_ties_averages_to_the_reported_figures():
    draw = np.random.default_rng(3)
    query, reference = draw.integers(0, 2, (30, 3)) + 1.0, draw.integers(0, 2, (30, 3)) + 1.0
    found = retrieval_metrics(query, reference)
    scores = cosine(query, reference).round(9)
    recall, reciprocal = [], []
    for _ in range(3000):
        order = np.lexsort((draw.random((30, 30)), -scores))
        rank = np.argmax(order == np.arange(30)[:, None], axis=1) + 1
        recall.append((rank <= 5).mean())
        reciprocal.append((1 / rank).mean())
    assert found.recall[5] == pytest.approx(np.mean(recall), abs=0.005)
    assert found.mrr == pytest.approx(np.mean(reciprocal), abs=0.005)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"reference": np.ones((5, 3))}, "expected \\[n, d\\]"),
        ({"reference": np.ones((6, 2))}, "5 queries but 6 references.*pass positives"),
        ({"reference": np.ones(5)}, "reference: expected \\[n, d\\]"),
        ({"reference": sp.csr_array(np.ones((5, 2)))}, "both be dense or both sparse"),
        ({"query": np.full((5, 2), np.nan)}, "query: contains NaN"),
        ({"query": np.ones((0, 2))}, "n, m, d > 0"),
        ({"positives": [[0]] * 4}, "got 4 lists"),
        ({"positives": [[0]] * 4 + [[5]]}, "rows in 0 ... 4"),
        ({"positives": [[0]] * 4 + [[]]}, "1 queries have none, first \\[4\\]"),
        ({"positives": sp.eye_array(5, 6)}, "expected \\[queries, references\\]"),
        ({"ks": (0, 1)}, "at least 1"),
        ({"batch_size": 0}, "at least 1"),
    ],
)
def test_clear_errors(change, message):
    arguments = {"query": np.ones((5, 2)), "reference": np.ones((5, 2)), **change}
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(**arguments)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, sp.csr_array])
def test_nearest_are_those_of_highest_cosine(kind):
    query, reference = features()
    found = nearest(kind(query[:4]), kind(reference), 7)
    np.testing.assert_array_equal(found, np.argsort(-cosine(query[:4], reference), axis=1)[:, :7])
    with pytest.raises(ValueError, match=r"expected \[n, d\] and \[m, d\]"):
        nearest(kind(query), kind(reference[:, :3]))


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_rows_whose_norm_leaves_float32_do_not_tie_with_everything(kind, scale):
    query, reference = (x.astype(np.float32) for x in features())
    with pytest.raises(ValueError, match="query: 60 rows are too short or too long.*scale them"):
        retrieval_metrics(kind(query * np.float32(scale)), kind(reference))
    short = retrieval_metrics(kind(query * np.float32(1e-15)), kind(reference))
    np.testing.assert_array_equal(short.ranks, retrieval_metrics(query, reference).ranks)


def test_positives_are_read_as_meant():
    """Of a DataFrame the column names were read, of a dict the keys, of a 0/1 matrix the rows 0 and 1."""
    query, reference = features()
    relevant = np.roll(np.eye(60, dtype=bool), -1, axis=1)
    expected = retrieval_metrics(query, reference, positives=sp.csr_array(relevant)).ranks
    frame = retrieval_metrics(query, reference, positives=pd.DataFrame(relevant)).ranks
    np.testing.assert_array_equal(frame, expected)
    with pytest.raises(ValueError, match="names a row twice.*astype\\(bool\\)"):
        retrieval_metrics(query, reference, positives=relevant.astype(int))
    for wrong in ({59 - i: [i] for i in range(60)}, set(range(60))):
        with pytest.raises(ValueError, match="positives: got a (dict|set)"):
            retrieval_metrics(query, reference, positives=wrong)


@pytest.mark.parametrize(
    "options, words",
    [({"ks": (1.5,)}, "ks: an entry"), ({"ks": ()}, "ks is empty"), ({"ks": "15"}, "ks: an entry"),
     ({"batch_size": 1.5}, "batch_size: got 1.5")],
)  # fmt: skip
def test_ranks_and_sizes_are_whole_numbers(options, words):
    query, reference = features()
    with pytest.raises(ValueError, match=words):
        retrieval_metrics(query, reference, **options)
    assert retrieval_metrics(query, reference, ks=np.array([1, 5])).recall.keys() == {1, 5}
    with pytest.raises(ValueError, match="n=-1: must be at least 1"):
        nearest(query, reference, -1)
