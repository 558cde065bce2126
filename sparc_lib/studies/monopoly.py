"""Notebook 07: do common classes take most latents, and do their latents glow where the class is not?

An assignment says with what weight a latent stands for a class in a stream; a class's score on an image is
the weighted sum of the image's code, the target of its attribution map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ..concepts import class_latents
from ..evaluation import encode_store
from ..model import SPARC
from ..profiles import Profile
from .rivals import trained_rival
from .runs import best_device
from .tables import Run, Stores, table

PUBLISHED, CAPPED, LINEAR = "published", "at most 16", "best linear reading"
ONE_VOTER = "one_voter"  # the setting that is trained the way codes are used here, one stream at a time
EVEN_USE = "even_use"  # the published setting with the penalty of `rivals` on uneven use of latents
CAPS = (4, 8, 16, 32)  # latents a class, at most
RECALL = 0.8  # at which false positives are compared
PRIOR = 10  # samples at the base rate, added to those that a latent fires on
LEAST = 3  # test samples that a class needs to be measured
COLUMNS = ["stream", "assignment", "class", "frequency", "latents", "firing"]
COLUMNS += ["recall", "glows", "heat", "false_positives", "agreement", "chance"]
MEANS = ["latents", "recall", "glows", "heat", "false_positives", "agreement", "chance"]


class Assignment(NamedTuple):
    """How latents stand for classes. weights {stream: float [n_classes, n_latents]}, 0 for most."""

    name: str
    weights: Mapping[str, np.ndarray]


def capped(codes: sp.csr_matrix, labels: sp.csr_array, most: int) -> np.ndarray:
    """At most `most` latents a class, weighed by what their firing tells: float64 [n_classes, n_latents].

    Those whose firing rate on the class differs most from that at large are kept. A latent weighs log2 of its
    lift, the share of the class among the samples that it fires on (with `PRIOR` samples more at the base
    rate) over the base rate: below 0 if it speaks against the class. Ties go to the first. codes CSR [n,
    n_latents], labels CSR [n, n_classes].
    """
    fires = (sp.csr_array(codes) > 0).astype(np.float64)
    shows = sp.csr_array(labels).astype(np.float64)
    both = (shows.T @ fires).toarray()  # [n_classes, n_latents]
    n_class = np.asarray(shows.sum(0)).ravel()[:, None]
    n_fired = np.asarray(fires.sum(0)).ravel()[None]
    base = np.maximum(n_class / shows.shape[0], 1e-12)
    lift = (both + PRIOR * base) / (n_fired + PRIOR) / base
    difference = np.abs(both / np.maximum(n_class, 1) - n_fired / fires.shape[0])
    order = np.argsort(-difference, axis=1, kind="stable")
    place = np.argsort(order, axis=1, kind="stable")
    return np.where((place < most) & (n_class > 0), np.log2(np.maximum(lift, 1e-12)), 0.0)


def best_linear(codes: sp.csr_matrix, labels: sp.csr_array, shrinkage: float = 1e-2) -> np.ndarray:
    """All latents, weighed by linear discriminant analysis of a class against the rest: C^-1 (mean of the
    class - mean), float64 [n_classes, n_latents].

    C is the covariance of the codes with `shrinkage` times its mean variance on the diagonal. A bound: what
    weights for sums of latents can reach. Arguments as for `capped`.
    """
    z = sp.csr_array(codes).astype(np.float64)
    shows = sp.csr_array(labels).astype(np.float64)
    mean = np.asarray(z.mean(0)).ravel()
    covariance = (z.T @ z).toarray() / z.shape[0] - np.outer(mean, mean)
    covariance += shrinkage * np.trace(covariance) / len(mean) * np.eye(len(mean))
    n_class = np.asarray(shows.sum(0)).ravel()[:, None]
    difference = (shows.T @ z).toarray() / np.maximum(n_class, 1) - mean
    return np.linalg.solve(covariance, np.where(n_class > 0, difference, 0.0).T).T


def assignments(codes: Mapping[str, sp.csr_matrix], labels: sp.csr_array, more_than: int) -> list[Assignment]:
    """By the published rule, active in more than `more_than` of the class's samples; `capped` at each of
    `CAPS`; and by the `best_linear` weights."""
    rules = {PUBLISHED: partial(class_latents, more_than=more_than)}
    rules |= {f"at most {most}": partial(capped, most=most) for most in CAPS}
    rules[LINEAR] = best_linear
    made = []
    for name, rule in rules.items():
        weights = {stream: np.asarray(rule(own, labels), float) for stream, own in codes.items()}
        made.append(Assignment(name, weights))
    return made


def monopoly_table(profile: Profile) -> pd.DataFrame:
    """A row a model, setting, seed, stream, assignment and class; model, setting, seed, then `COLUMNS`.

    Settings: the first with cross-reconstruction, as published, with all its controls; the same trained with
    one voter a sample, trained and on random encoders; and trained for even use of the latents. Assignments
    are made on the training split and measured on the test split, with independent codes.

    frequency: share of test samples that show the class. latents: how many stand for it, with a weight above
    0. firing: share of all firings of latents that stand for some class, a latent's being shared among its
    classes. recall, glows: share of the images with, and without, the class on which its score is above 0.
    heat: mean score of the latter over that of the former, scores below 0 counted as 0. false_positives:
    share of the images without the class whose score is as high as that of `RECALL` of those with it, ties
    shared by chance. agreement: Jaccard of the latents that stand for the class in this stream and in
    another, mean over the others; chance: the same with all other classes there.
    """
    published = next(setting for setting in profile.settings if setting.cross_weight > 0)
    one_voter = dataclasses.replace(published, name=ONE_VOTER, gate="global", voters="one")
    kinds = {
        published: ("trained", "untrained", "random encoders"),
        one_voter: ("trained", "random encoders"),
    }
    runs = [Run(kind, one, seed) for one, own in kinds.items() for kind in own for seed in profile.seeds]
    runs += [Run("raw", None, seed, (EVEN_USE,)) for seed in profile.seeds]
    more_than = profile.evaluation.probe_min_positives
    inputs = {"more_than": more_than, "sparc": profile.sparc}
    rows = table("monopoly", profile, runs, partial(_measured, profile), inputs)
    return rows.replace({"model": {"raw": "trained"}, "setting": {"raw": EVEN_USE}})


def _measured(profile: Profile, model: SPARC | None, stores: Stores, run: Run) -> pd.DataFrame:
    train, test = stores["train"], stores["test"]
    if model is None:
        model = trained_rival(profile, EVEN_USE, run.seed, train).to(best_device())
    more_than = profile.evaluation.probe_min_positives
    codes = encode_store(model, test, "independent")
    made = assignments(encode_store(model, train, "independent"), train.labels, more_than)
    rows = [class_rows(one, codes, test.labels, test.classes) for one in made]
    return pd.concat(rows, ignore_index=True)


def class_rows(
    assignment: Assignment, codes: Mapping[str, sp.csr_matrix], labels: sp.csr_array, classes: list[str]
) -> pd.DataFrame:
    """The `COLUMNS` of every class that at least `LEAST` samples show."""
    shown = np.asarray(sp.csr_array(labels).todense(), bool)
    measured = np.flatnonzero(shown.sum(0) >= LEAST)
    agreement, chance = class_agreement(assignment.weights, measured)
    rows = []
    for stream, own in codes.items():
        weights = assignment.weights[stream]
        scores = np.asarray(sp.csr_array(own) @ weights.T)  # [n, n_classes]
        fired = np.asarray((sp.csr_array(own) > 0).sum(0)).ravel()
        share = firing_shares(weights > 0, fired)
        for place, column in enumerate(measured):
            present = shown[:, column]
            inside, outside = scores[present, column], scores[~present, column]
            lit, stray = np.maximum(inside, 0).mean(), np.maximum(outside, 0).mean()
            heat = stray / lit if lit > 0 else np.nan
            row = (stream, assignment.name, classes[column], present.mean())
            row += ((weights[column] > 0).sum(), share[column], (inside > 0).mean(), (outside > 0).mean())
            row += (heat, false_positives(inside, outside, RECALL))
            rows.append((*row, agreement[stream][place], chance[stream][place]))
    return pd.DataFrame(rows, columns=COLUMNS)


def firing_shares(stands: np.ndarray, fired: np.ndarray) -> np.ndarray:
    """Share of firings per class, [n_classes], of latents that stand for any class; 0 without such firings.

    stands bool [n_classes, n_latents]; fired [n_latents]: samples that a latent fires on.
    """
    per_class = (stands / np.maximum(stands.sum(0), 1)) @ fired
    return per_class / max(per_class.sum(), 1)


def false_positives(inside: np.ndarray, outside: np.ndarray, recall: float) -> float:
    """Share of scores `outside` that are accepted when a share `recall` of scores `inside` is.

    Of scores equal to the threshold as many are accepted, by chance, as the recall needs.
    """
    wanted = recall * len(inside)
    threshold = np.sort(inside)[::-1][int(np.ceil(wanted)) - 1]
    above, equal = (inside > threshold).sum(), (inside == threshold).sum()
    accepted = (wanted - above) / equal
    return float(((outside > threshold).sum() + accepted * (outside == threshold).sum()) / len(outside))


def class_agreement(
    weights: Mapping[str, np.ndarray], columns: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(agreement, chance) of the classes `columns`, {stream: [n]} each; see `monopoly_table`. Two empty sets
    agree with 0."""
    agreement = {stream: np.zeros(len(columns)) for stream in weights}
    chance = {stream: np.zeros(len(columns)) for stream in weights}
    n_others = len(weights) - 1
    for s, t in combinations(weights, 2):
        ours, theirs = ((weights[stream][columns] > 0).astype(float) for stream in (s, t))
        both = ours @ theirs.T
        either = ours.sum(1)[:, None] + theirs.sum(1)[None] - both
        jaccard = both / np.maximum(either, 1)
        own = np.diag(jaccard)
        for stream, axis in ((s, 1), (t, 0)):
            agreement[stream] += own / n_others
            chance[stream] += (jaccard.sum(axis) - own) / max(len(columns) - 1, 1) / n_others
    return agreement, chance


def gini(values: np.ndarray) -> float:
    """Gini coefficient of values >= 0, [n]: 0 if all are equal, (n - 1) / n if one has everything."""
    values = np.sort(np.asarray(values, float))
    n = len(values)
    if not values.sum() > 0:
        return float("nan")
    ranks = np.arange(1, n + 1)
    return float((2 * ranks - n - 1) @ values / (n * values.sum()))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row a model, seed, stream and assignment: means over classes, Gini coefficients over classes.

    In `place` the agreement is on the scale from chance (0) to 1.
    """
    keys = ["model", "setting", "seed", "stream", "assignment"]
    ginis = ["gini_latents", "gini_firing", "gini_frequency"]
    rows = []
    for values, own in table.groupby(keys, sort=False):
        means = own[MEANS].mean()
        row = dict(zip(keys, values)) | means.to_dict()
        for column in ("latents", "firing", "frequency"):
            row[f"gini_{column}"] = gini(own[column].to_numpy())
        row["place"] = (means.agreement - means.chance) / (1 - means.chance) if means.chance < 1 else np.nan
        rows.append(row)
    return pd.DataFrame(rows, columns=[*keys, *MEANS, *ginis, "place"])
