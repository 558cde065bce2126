"""Names of latents against a direct reading of the definition; the search finds planted concepts."""

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp

from sparc_lib import FeatureStore
from sparc_lib.concepts import (
    NO_NAME,
    CaptionWords,
    class_latents,
    concept_names,
    exhibit_concept,
    search,
    telling_words,
)

CLASSES = ["Cat", "Dog", "Tree"]


@pytest.fixture(scope="module")
def world():
    """300 samples: latent 0 is Cat in both streams, 1 Dog in dino, Tree in text, 2 noise, 3 never fires."""
    rng = np.random.default_rng(0)
    labels = rng.random((300, 3)) < [0.3, 0.3, 0.15]
    noise = lambda: rng.random(300) * (rng.random(300) < 0.2)  # noqa: E731
    z = {
        s: np.stack([labels[:, 0] * (1 + rng.random(300)), noise(), noise(), np.zeros(300)], 1)
        for s in ("dino", "clip_txt")
    }
    z["dino"][:, 1], z["clip_txt"][:, 1] = (labels[:, c] * (1 + rng.random(300)) for c in (1, 2))
    return {s: sp.csr_matrix(x) for s, x in z.items()}, sp.csr_array(labels), labels


def test_names_follow_the_definition(world):
    codes, labels, dense = world
    names = concept_names(codes, labels, CLASSES, top=20, purity=0.4)
    for stream, matrix in codes.items():
        for latent, values in enumerate(matrix.toarray().T):
            rows = [i for i in np.argsort(-values, kind="stable") if values[i] > 0 and dense[i].any()][:20]
            share = dense[rows].mean(0) if rows else np.zeros(3)
            assert names.purity[stream][latent] == pytest.approx(share.max())
            assert names.named[stream][latent] == (share.argmax() if share.max() >= 0.4 else NO_NAME)
    assert names.named["dino"][:2].tolist() == [0, 1] and names.named["dino"][3] == NO_NAME
    assert (
        0 in names.latents("cat") and 1 not in names.latents("dog") and 1 in names.latents("Dog", every=False)
    )
    assert 1 in names.latents("dog", ["dino"])
    counts = names.counts()
    assert (counts.every <= counts[["dino", "clip_txt"]].min(axis=1)).all() and counts.any(axis=None)
    assert counts.dino.sum() == (names.named["dino"] != NO_NAME).sum()


def test_unlabelled_samples_do_not_count():
    """The strongest sample has no label: it neither names the latent nor dilutes the purity."""
    codes = {"dino": sp.csr_matrix(np.array([[9.0], [1.0], [2.0]]))}
    names = concept_names(codes, sp.csr_array(np.array([[0, 0, 0], [1, 0, 0], [1, 0, 1]])), CLASSES)
    assert names.named["dino"][0] == 0 and names.purity["dino"][0] == 1


def test_class_latents_counts_active_samples(world):
    codes, labels, dense = world
    table = class_latents(codes["dino"], labels, 30)
    active = codes["dino"].toarray() > 0
    wanted = [[(active[:, latent] & dense[:, c]).sum() > 30 for latent in range(4)] for c in range(3)]
    assert np.array_equal(table, wanted)


def test_search_finds_what_was_planted(world, tmp_path):
    codes, labels, dense = world
    captions = ["There is a " + ("cat." if row[0] else "stone.") for row in dense]
    store = FeatureStore.create(
        tmp_path / "s",
        {"dino": np.ones((300, 2), np.float32)},
        ids=[str(i) for i in range(300)],
        captions=captions,
        labels=labels,
        classes=CLASSES,
    )
    names = concept_names(codes, labels, CLASSES)
    found = search(names, "cat", codes, store)
    assert found[0].latent == 0 and set(found[0].purity) == {"dino", "clip_txt"} and found[0].words == ["cat"]
    strongest = codes["dino"][:, [0]].toarray().ravel()
    assert found[0].top["dino"][0] == strongest.argmax() and len(found[0].top["dino"]) == 5
    with pytest.raises(KeyError, match="did you mean cat"):
        search(names, "cats", codes, store)
    assert telling_words(codes["clip_txt"][:, [3]], CaptionWords.of(captions)) == []


def test_exhibit_is_the_purest_class_that_occurs(world):
    codes, labels, _ = world
    names = concept_names(codes, labels, CLASSES)
    assert exhibit_concept(names, [1, 1, 1, 0, 0, 0, 2]) == 0 and exhibit_concept(names, [0, 1, 1, 1]) == 1
    assert exhibit_concept(names, [0, 1]) == 0


def test_one_lucky_sample_is_no_firm_name():
    """Latent 0 fires once, on a cat; latent 1 on 40 samples of which 36 are cats: the second comes first."""
    labels = np.zeros((41, 3), bool)
    labels[:37, 0] = labels[37:, 1] = True
    z = np.zeros((41, 2))
    z[0, 0], z[1:, 1] = 1, 1
    names = concept_names({"dino": sp.csr_matrix(z)}, sp.csr_array(labels), CLASSES)
    assert names.purity["dino"].tolist() == [1, 0.9] and names.support["dino"].tolist() == [1, 40]
    assert names.latents("cat").tolist() == [1, 0] and names.firm("dino")[1] == pytest.approx(0.9 * 40 / 50)


def test_sizes_must_fit(world):
    codes, labels, _ = world
    with pytest.raises(ValueError, match="do not fit"):
        concept_names(codes, labels[:10], CLASSES)


def test_stop_words_tell_nothing():
    """Said only where the latent fires: "cat", and "with", an empty word; said everywhere: "picture"."""
    captions = ["a picture with a cat"] * 20 + ["a picture of a dog"] * 20 + ["a dog"] * 10
    column = sp.csr_matrix((np.arange(50) < 20)[:, None].astype(float))
    assert telling_words(column, CaptionWords.of(captions)) == ["cat"]
    assert telling_words(column, CaptionWords.of([""] * 50)) == []


def test_words_that_tie_come_in_the_same_order_in_every_process():
    """Sets of words are walked in an order that differs between processes; the result must not."""
    code = (
        "import scipy.sparse as sp; from sparc_lib.concepts import CaptionWords, telling_words;"
        "captions = ['ox ant elk bee'] * 20 + ['river stone'] * 60;"
        "print(telling_words(sp.csc_matrix([[1.]] * 20 + [[0.]] * 60), CaptionWords.of(captions)))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            text=True,
            capture_output=True,
            check=True,
        ).stdout
        for seed in range(3)
    }
    assert said == {"['ant', 'bee', 'elk', 'ox']\n"}
