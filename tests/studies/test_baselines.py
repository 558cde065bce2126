import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import Ridge

from sparc_lib.retrieval import retrieval_metrics
from sparc_lib.studies import baselines
from sparc_lib.studies.baselines import (
    fit_cca,
    fit_centred,
    fit_procrustes,
    fit_relative,
    fit_ridge,
    latent_correlation,
    match_latents,
    rename_latents,
)


def views(n=300, shared=4, dims=(7, 5), noise=0.1, seed=0):
    """Two noisy linear views of the same factors, off centre."""
    draw = np.random.default_rng(seed)
    factors = draw.normal(size=(n, shared))
    return [
        torch.from_numpy(
            factors @ draw.normal(size=(shared, d)) + noise * draw.normal(size=(n, d)) + 3
        ).float()
        for d in dims
    ]


def rotation(d, seed=0):
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]).float()


@pytest.mark.parametrize(
    "fit",
    [
        fit_ridge,
        fit_procrustes,
        fit_cca,
        lambda q, r: fit_relative(q, r, 50, torch.Generator().manual_seed(0)),
    ],
)
def test_a_map_fitted_on_train_finds_test_partners(fit):
    query, reference = views()
    pair = fit(query[:200], reference[:200])
    found = retrieval_metrics(pair.query(query[200:]), pair.reference(reference[200:])).recall[1]
    shuffled = fit(query[:200], reference[:200].flip(0))
    chance = retrieval_metrics(shuffled.query(query[200:]), shuffled.reference(reference[200:])).recall[1]
    assert chance < 0.15 < found > 2 * chance
    if fit in (fit_ridge, fit_cca):
        assert found > 0.8


def test_ridge_is_scikit_learns():
    query, reference = views()
    pair = fit_ridge(query, reference, alphas=(0.7,))
    expected = Ridge(alpha=0.7).fit(query.double(), reference.double()).predict(query[:9].double())
    np.testing.assert_allclose(
        pair.query(query[:9]), expected - reference.double().mean(0).numpy(), atol=1e-5
    )
    np.testing.assert_allclose(pair.reference(reference), reference - reference.mean(0), atol=1e-5)


def test_ridge_chooses_a_penalty_that_suits_the_data():
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(40, 30, generator=draw), torch.randn(40, 3, generator=draw)
    tame, free = (
        fit_ridge(*noise, alphas=alphas).query.weight.norm() for alphas in (baselines.ALPHAS, (1e-3,))
    )
    assert tame < free / 2


def test_procrustes_recovers_a_rotation():
    query, _ = views(dims=(6, 6), noise=1)
    turn = rotation(6)
    pair = fit_procrustes(query, query @ turn + 5)
    torch.testing.assert_close(pair.query.weight, turn, atol=1e-4, rtol=0)
    torch.testing.assert_close(pair.query(query), pair.reference(query @ turn + 5), atol=1e-3, rtol=0)


@pytest.mark.parametrize("dims", [(7, 5), (5, 7)])
def test_procrustes_of_unequal_widths_keeps_lengths_or_projects(dims):
    """The optimum of tr(W^T Q^T R) over orthogonal W has the value of the nuclear norm of Q^T R."""
    query, reference = views(dims=dims, noise=1)
    pair = fit_procrustes(query, reference)
    q, r = pair.query(query), pair.reference(reference)
    assert q.shape[1] == r.shape[1] == 7
    centred = [(x - x.mean(0)).double() for x in (query, reference)]
    nuclear = torch.linalg.svdvals(centred[0].T @ centred[1]).sum()
    assert (q * r).sum().item() == pytest.approx(nuclear.item(), rel=1e-4)
    torch.testing.assert_close(q.norm(dim=1).double(), centred[0].norm(dim=1), atol=1e-4, rtol=0)


def test_cca_has_the_correlations_of_scikit_learn():
    query, reference = views(noise=2)
    pair = fit_cca(query, reference, shrinkage=0, power=0)
    q, r = pair.query(query).numpy(), pair.reference(reference).numpy()
    assert q.shape == r.shape == (300, 5)
    np.testing.assert_allclose(np.cov(q.T, bias=True), np.eye(5), atol=1e-3)
    ours = [np.corrcoef(q[:, i], r[:, i])[0, 1] for i in range(5)]
    theirs = CCA(5, max_iter=5000, tol=1e-9).fit(query.numpy(), reference.numpy())
    scores = theirs.transform(query.numpy(), reference.numpy())
    expected = [np.corrcoef(scores[0][:, i], scores[1][:, i])[0, 1] for i in range(5)]
    np.testing.assert_allclose(ours, expected, atol=1e-3)
    assert np.all(np.diff(ours) < 0)
    weighted = fit_cca(query, reference, shrinkage=0).query(query).numpy()
    np.testing.assert_allclose(weighted, q * ours, atol=1e-3)


def test_flat_directions_do_not_blow_cca_up():
    query, reference = views()
    flat = torch.cat([query, query[:, :1]], 1)  # rank deficient
    pair = fit_cca(flat, reference)
    assert torch.isfinite(pair.query(flat)).all() and pair.query.weight.abs().max() < 1e3


def test_relative_representations_are_cosines_to_the_same_anchors():
    query, reference = views(dims=(6, 6))
    pair = fit_relative(query, reference, 20, torch.Generator().manual_seed(3))
    rows = torch.randperm(300, generator=torch.Generator().manual_seed(3))[:20]
    for side, x in ((pair.query, query), (pair.reference, reference)):
        centred = x - x.mean(0)
        expected = torch.nn.functional.cosine_similarity(centred[:, None], centred[rows][None], dim=2)
        torch.testing.assert_close(side(x) / centred.norm(dim=1, keepdim=True), expected, atol=1e-5, rtol=0)
    turned = fit_relative(query, query @ rotation(6) * 2, 20, torch.Generator().manual_seed(3))
    assert retrieval_metrics(turned.query(query), turned.reference(query @ rotation(6) * 2)).recall[1] == 1


def test_taking_the_mean_off_helps_only_in_a_shared_space():
    query, reference = views(dims=(6, 6))
    pair = fit_centred(query, reference)
    torch.testing.assert_close(pair.query(query), query - query.mean(0), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="share no space"):
        fit_centred(*views())
    with pytest.raises(ValueError, match="same samples"):
        fit_ridge(query, reference[1:])


def codes(n=200, n_latents=12, seed=0):
    draw = np.random.default_rng(seed)
    dense = draw.random((n, n_latents)) * (draw.random((n, n_latents)) < draw.uniform(0.05, 0.5, n_latents))
    dense[:, 3] = 0  # a dead latent
    return dense


def test_latent_correlation_is_numpys():
    query, reference = codes(), codes(seed=1) + codes() * 0.5
    found = latent_correlation(sp.csr_array(query), sp.csr_array(reference), block=5)
    with np.errstate(all="ignore"):
        expected = np.nan_to_num(np.corrcoef(query.T, reference.T)[:12, 12:])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not found[3].any() and found.dtype == np.float32
    with pytest.raises(ValueError, match="same samples and latents"):
        latent_correlation(sp.csr_array(query), sp.csr_array(reference[1:]))


def test_hungarian_matching_undoes_a_shuffle():
    query, order = codes(), np.random.default_rng(5).permutation(12)
    shuffled = query[:, order] + 0.05 * codes(seed=2)  # latent order[j] is called j there
    matching = match_latents(sp.csr_array(query), sp.csr_array(shuffled))
    assert sorted(matching) == list(range(12))
    alive = [j for j in range(12) if order[j] != 3]
    assert all(matching[order[j]] == j for j in alive)
    renamed = rename_latents(sp.csr_array(query), matching)
    np.testing.assert_array_equal(renamed.toarray()[:, matching], query)
    assert renamed.has_sorted_indices
    alone, matched = (
        retrieval_metrics(z, sp.csr_array(shuffled)).recall[1] for z in (sp.csr_array(query), renamed)
    )
    assert matched > 0.75 > 0.2 > alone
