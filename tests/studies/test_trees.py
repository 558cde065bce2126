"""Other trees over the same leaves, and the Jaccard on them."""

import numpy as np
import pytest
import torch

from sparc_lib.model import SPARC
from sparc_lib.profiles import Setting
from sparc_lib.studies.tables import Run
from sparc_lib.studies.trees import _measure, as_tree, coarser, finer
from sparc_lib.taxonomy import Taxonomy


def node(name, *children):
    return {"LabelName": name, "Subcategory": list(children)}


TREE = node(
    "thing",
    node("animal", node("pet", node("cat"), node("dog"), node("hamster")), node("cow")),
    node("vehicle", node("car"), node("bus")),
)
LEAVES = ["cat", "dog", "hamster", "cow", "car", "bus"]


def paths(tree):
    taxonomy = Taxonomy.from_open_images(tree, LEAVES)
    return {leaf: "/".join(taxonomy.path(leaf)[1:]) for leaf in LEAVES}


def test_a_coarser_tree_hangs_leaves_one_group_higher():
    assert paths(coarser(TREE)) == {
        "cat": "animal/cat",
        "dog": "animal/dog",
        "hamster": "animal/hamster",
        "cow": "animal/cow",
        "car": "car",
        "bus": "bus",
    }


def test_a_group_that_is_a_class_stays_in_a_coarser_tree():
    classes = [*LEAVES, "pet", "vehicle"]
    taxonomy = Taxonomy.from_open_images(coarser(TREE, classes), classes)
    assert taxonomy.path("pet") == ("thing", "animal", "pet") and taxonomy.path("cat")[-2] == "animal"
    assert taxonomy.path("vehicle") == ("thing", "vehicle") and taxonomy.path("car") == ("thing", "car")


def test_a_finer_tree_pairs_the_leaves_of_a_group():
    assert paths(finer(TREE)) == {
        "cat": "animal/pet/cat or dog/cat",
        "dog": "animal/pet/cat or dog/dog",
        "hamster": "animal/pet/hamster",
        "cow": "animal/cow",
        "car": "vehicle/car or bus/car",
        "bus": "vehicle/car or bus/bus",
    }


def test_a_taxonomy_gives_its_tree_back():
    assert as_tree(Taxonomy.from_open_images(TREE, LEAVES)) == TREE


def test_every_tree_agrees_at_its_root_and_at_its_leaves(small_store):
    store = small_store("test")
    leaves = [f"l{i}" for i in range(store.labels.shape[1])]
    middle = len(leaves) // 2
    tree = node("thing", node("a", *map(node, leaves[:middle])), node("b", *map(node, leaves[middle:])))
    grown = {"own": tree, "coarser": coarser(tree), "finer": finer(tree)}
    placed = {name: Taxonomy.from_open_images(each, leaves) for name, each in grown.items()}
    model = SPARC(store.dims, 16, 3, generator=torch.Generator().manual_seed(0))
    run = Run("trained", Setting("s", "global", 1.0), 0)
    scores = _measure(placed, 2, model, {"test": store}, run)
    assert set(scores.tree) == set(placed) and set(scores.half) == {0, 1}
    for _, rows in scores.groupby(["coding", "half"]):
        at_leaves = rows[rows.depth == rows.groupby("tree").depth.transform("max")]
        assert np.ptp(at_leaves.jaccard) < 1e-12  # whatever the tree, its leaves are the classes
        root = rows[rows.depth == 0]
        assert root.jaccard.to_numpy() == pytest.approx(root.bound.to_numpy())
        for _, of_tree in rows.groupby("tree"):
            assert of_tree.sort_values("depth").jaccard.is_monotonic_decreasing
