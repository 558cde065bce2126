"""How far the hierarchical Jaccard hangs on the taxonomy: other trees over the same leaves, every depth."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..alignment import LabelCounts, jaccard_per_latent, label_counts, mean_jaccard
from ..evaluation import encode_store
from ..model import SPARC
from ..nulls import activity_bound, rescaled, shuffled_latents_null
from ..profiles import Profile
from ..taxonomy import Taxonomy
from .alignment import CODINGS, SUPPORT
from .tables import Run, Stores, table

Tree = Mapping[str, Any]  # {"LabelName": ..., "Subcategory": [...]}, the Open Images format


class TreeRow(NamedTuple):
    """Mean Jaccard of one model over its supported latents, lifted in one tree to one depth.

    tree: "own", "coarser" or "finer". half: of the test split, 0 or 1. shuffled: the floor, with random
    partners; bound: the ceiling that the firing rates allow; place: 0 at the floor, 1 at the ceiling.
    """

    coding: str
    tree: str
    depth: int
    half: int
    jaccard: float
    shuffled: float
    bound: float
    place: float


def coarser(tree: Tree, classes: Collection[str] = ()) -> Tree:
    """The tree without the groups right above its leaves: a leaf hangs from the group above its own.

    A group that is one of `classes` itself stays, as a leaf beside what hung from it.
    """
    children = tree.get("Subcategory") or []
    kept = []
    for child in children:
        grandchildren = child.get("Subcategory") or []
        if any(node.get("Subcategory") for node in grandchildren):
            kept.append(coarser(child, classes))
        else:
            if not grandchildren or child["LabelName"] in classes:
                kept.append({**child, "Subcategory": []})
            kept += grandchildren
    return {**tree, "Subcategory": kept}


def finer(tree: Tree) -> Tree:
    """The tree with the leaves of every group, in their order, in groups of two of their own."""
    children = tree.get("Subcategory") or []
    leaves = [child for child in children if not child.get("Subcategory")]
    groups = [finer(child) for child in children if child.get("Subcategory")]
    for start in range(0, len(leaves), 2):
        pair = leaves[start : start + 2]
        name = " or ".join(leaf["LabelName"] for leaf in pair)
        groups.append({"LabelName": name, "Subcategory": pair} if len(pair) == 2 else pair[0])
    return {**tree, "Subcategory": groups}


def as_tree(taxonomy: Taxonomy, name: str | None = None) -> Tree:
    """The Open Images tree below a node (None: the root) of a taxonomy, every class at its deepest place."""
    if name is None:
        name = taxonomy.path(taxonomy.labels[0])[0]
    children = [as_tree(taxonomy, child) for child in taxonomy.graph.successors(name)]
    return {"LabelName": name, "Subcategory": children}


def tree_table(profile: Profile, own: Taxonomy) -> pd.DataFrame:
    """`TreeRow`s of the settings with cross-reconstruction, every seed, and of untrained models.

    own: the profile's taxonomy. In front the columns model, setting and seed. Built on first use.
    """
    trees = {"own": own}
    tree = as_tree(own)
    for name, changed in (("coarser", coarser(tree, own.labels)), ("finer", finer(tree))):
        trees[name] = Taxonomy.from_open_images(changed, own.labels)
    settings = [setting for setting in profile.settings if setting.cross_weight > 0]
    runs = [Run("trained", setting, seed) for setting in settings for seed in profile.seeds]
    runs += [Run("untrained", setting, seed) for setting in settings[:1] for seed in profile.seeds]
    edges = {name: sorted(each.graph.edges) for name, each in trees.items()}
    repeats = profile.evaluation.null_repeats
    return table("trees", profile, runs, partial(_measure, trees, repeats), [edges, repeats])


def _measure(
    trees: Mapping[str, Taxonomy], repeats: int, model: SPARC, stores: Stores, run: Run
) -> pd.DataFrame:
    store, generator = stores["test"], np.random.default_rng(run.seed)
    middle = len(store) // 2
    halves = [slice(0, middle), slice(middle, None)]
    rows = []
    for coding in CODINGS:
        codes = encode_store(model, store, coding)
        for half, part in enumerate(halves):
            counts = label_counts({s: z[part] for s, z in codes.items()}, store.labels[part])
            for name, taxonomy in trees.items():
                for depth in range(taxonomy.max_depth + 1):
                    scores = _scores(counts, taxonomy, depth, repeats, generator)
                    rows.append(TreeRow(coding, name, depth, half, *scores))
    return pd.DataFrame(rows, columns=TreeRow._fields)


def _scores(
    counts: LabelCounts, taxonomy: Taxonomy, depth: int, repeats: int, generator: np.random.Generator
) -> tuple[float, float, float, float]:
    where = dict(taxonomy=taxonomy, depth=depth, min_samples=SUPPORT)
    per_latent = (
        jaccard_per_latent(counts, **where),
        shuffled_latents_null(counts, generator, repeats, **where).mean(0),
        activity_bound(counts, min_samples=SUPPORT),
    )
    jaccard, shuffled, bound = (
        mean_jaccard(scores, counts, min_samples=SUPPORT).alive for scores in per_latent
    )
    return jaccard, shuffled, bound, float(rescaled(jaccard, shuffled, bound))
