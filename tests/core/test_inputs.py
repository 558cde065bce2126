import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from sparc_lib import SPARC
from sparc_lib.alignment import as_csr, label_counts
from sparc_lib.inputs import listed, real_numbers, whole_number
from sparc_lib.retrieval import retrieval_metrics

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


@pytest.mark.parametrize(
    "same", [np.asfortranarray(X), X.astype(">f4"), pd.DataFrame(X), X.astype(np.longdouble)]
)
def test_every_layout_of_the_same_numbers_is_read(same):
    model = SPARC({"dino": 4}, 8, 2)
    expected = model.encode({"dino": torch.from_numpy(X)})["dino"].values
    torch.testing.assert_close(model.encode({"dino": same})["dino"].values, expected)
    assert retrieval_metrics(same, X).recall[1] == 1
    backwards = model.encode({"dino": X[::-1]})["dino"].values
    torch.testing.assert_close(backwards, expected.flip(0))


@pytest.mark.parametrize(
    "values, words",
    [
        (np.ma.masked_array(X, mask=X > 0), "a masked array"),
        (X * 1j, "complex"),
        (torch.from_numpy(X * 1j), "complex"),
        (X.astype(object), "object"),
        (X.astype(str), "<U"),
        (torch.from_numpy(X).to_sparse(), "a sparse tensor"),
    ],
)
def test_what_would_lose_its_meaning_is_refused(values, words):
    """Masks and imaginary parts were dropped without a word."""
    for use in (
        lambda: retrieval_metrics(values, X),
        lambda: label_counts({"dino": values}, np.eye(6)),
        lambda: SPARC({"dino": 4}, 8, 2).encode({"dino": values}),
    ):
        with pytest.raises(ValueError, match=f"(query|dino).*{words}"):
            use()


def test_complex_sparse_codes_are_refused_and_half_precision_is_read():
    with pytest.raises(ValueError, match="codes: holds complex128; give real numbers"):
        as_csr(sp.csr_array(np.eye(3) * 1j), "codes")
    for half in (np.eye(3, dtype=np.float16), torch.eye(3).bfloat16()):
        np.testing.assert_array_equal(as_csr(half, "codes").toarray(), np.eye(3))


def test_columns_are_lists_and_counts_are_whole():
    assert listed(pd.Series(["a", "b"], index=[1, 0]), "ids") == ["a", "b"]
    for wrong in ("ab", {"a", "b"}, {"a": 1}, 3):
        with pytest.raises(ValueError, match="ids: got a .*give a list"):
            listed(wrong, "ids")
    assert type(whole_number(np.int64(3), "k")) is int
    for wrong in (2.5, True, "3", float("nan"), None):
        with pytest.raises(ValueError, match="k: got .*; give a whole number"):
            whole_number(wrong, "k")
    assert real_numbers([[1.0]], "x") == [[1.0]]
    with pytest.raises(ValueError, match="x: a sparse matrix; give it dense"):
        real_numbers(sp.eye_array(3), "x")
