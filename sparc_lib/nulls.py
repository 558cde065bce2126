"""What a Jaccard would be if something were not so: two nulls and a bound.

They answer different questions. **Permuted labels**: would the streams agree if the labels meant nothing? For
joint codes they would, which unmasks the gate (F3). As a floor for independent codes this null is of no use:
permuted counts are all proportional to the class frequencies, n_s[c] ~ N_s f_c, so it comes close to min(N_s,
N_t) / max(N_s, N_t), which no Jaccard can exceed (`activity_bound`). **Shuffled latents**: would a latent
agree as well with any other latent of the other stream? That is the floor for the claim that *this* latent
means the same in both.
"""

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from .alignment import LabelCounts, checked, count, firing, jaccard_per_latent
from .inputs import at_least_one
from .taxonomy import Taxonomy

RESAMPLES = 2000  # of a bootstrap interval


def permutation_null(
    codes_by_stream: Mapping,
    labels,
    generator: np.random.Generator,
    repeats: int = 10,
    *,
    taxonomy: Taxonomy | None = None,
    depth: int | None = None,
    top_n: int | None = None,
    min_samples: int = 1,
) -> np.ndarray:
    """Permuted labels: the Jaccard that co-firing and class frequencies alone give, float64 [repeats, L].

    Rows of labels are permuted among the labelled samples, alike for all streams: which samples a latent
    fires on, hence which latents are alive, stays; what they show becomes random. Errors as in
    `label_counts` and `jaccard_per_latent`; ValueError if repeats < 1.
    """
    at_least_one(repeats, "repeats")
    codes, labels = checked(codes_by_stream, labels)
    fires = {stream: firing(matrix, top_n) for stream, matrix in codes.items()}
    labelled = np.flatnonzero(np.diff(labels.indptr))
    null = []
    for _ in range(repeats):
        order = np.arange(labels.shape[0])
        order[labelled] = generator.permutation(labelled)
        null.append(jaccard_per_latent(count(fires, labels[order]), taxonomy, depth, min_samples=min_samples))
    return np.stack(null)


def shuffled_latents_null(
    counts: LabelCounts,
    generator: np.random.Generator,
    repeats: int = 10,
    *,
    taxonomy: Taxonomy | None = None,
    depth: int | None = None,
    min_samples: int = 1,
) -> np.ndarray:
    """Jaccard of every latent with random partners, float64 [repeats, L].

    In each pair of streams (s, t) latent l of s meets a random latent of t instead of its namesake; the alive
    ones change places among themselves, so the same latents count as alive. A latent that fires on nearly
    everything agrees with any partner, and so it does not stand out. Arguments and errors as in
    `jaccard_per_latent`; ValueError if repeats < 1.
    """
    at_least_one(repeats, "repeats")
    alive = {stream: counts.alive(stream, min_samples) for stream in counts.streams}
    pairs = list(combinations(counts.streams, 2))
    n_pairs = sum((alive[s] & alive[t]).astype(int) for s, t in pairs)
    null = []
    for _ in range(repeats):
        total = 0.0
        for s, t in pairs:
            partner = np.arange(len(alive[t]))
            partner[alive[t]] = generator.permutation(np.flatnonzero(alive[t]))
            mixed = LabelCounts(
                {s: counts[s], t: counts[t][partner]}, {s: counts.support[s], t: counts.support[t][partner]}
            )
            score = jaccard_per_latent(mixed, taxonomy, depth, min_samples=min_samples)
            total = total + (alive[s] & alive[t]) * score
        null.append(total / np.maximum(n_pairs, 1))
    return np.stack(null)


def activity_bound(counts: LabelCounts, *, min_samples: int = 1) -> np.ndarray:
    """The highest Jaccard that the firing rates allow, float64 [L]: mean over pairs of alive streams of
    min(N_s, N_t) / max(N_s, N_t), with N_s = sum_c n_{l,s}[c]. For sum_c min(a, b) <= min(sum a, sum b), and
    likewise for max. Lifting classes changes no sum, so it holds at every depth."""
    one_class = LabelCounts({s: counts[s].sum(1, keepdims=True) for s in counts.streams}, counts.support)
    return jaccard_per_latent(one_class, min_samples=min_samples)


def chance_corrected(jaccard, null):
    """(J - J_null) / (1 - J_null): 0 at chance, 1 at best; NaN where the null leaves no room (J_null = 1)."""
    jaccard, null = np.asarray(jaccard, dtype=float), np.asarray(null, dtype=float)
    room = np.where(null < 1, 1 - null, np.nan)
    return (jaccard - null) / room


def rescaled(jaccard, shuffled, bound):
    """(J - J_shuffled) / (J_bound - J_shuffled): 0 for unrelated latents, 1 at the bound, else NaN."""
    jaccard, shuffled, bound = (np.asarray(x, dtype=float) for x in (jaccard, shuffled, bound))
    return (jaccard - shuffled) / np.where(bound > shuffled, bound - shuffled, np.nan)


class Interval(NamedTuple):
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def clustered_interval(values: np.ndarray, cluster: np.ndarray, generator: np.random.Generator) -> Interval:
    """Mean of `values` [n] with its interval over resampled clusters: all values of one cluster (say, of an
    image) are drawn together. cluster [n]: which one each value belongs to. NaN without values and
    where one is not finite. Raises ValueError unless every value has a cluster."""
    values, cluster = np.asarray(values, dtype=float), np.asarray(cluster)
    if values.ndim != 1 or cluster.shape != values.shape or pd.isna(cluster).any():
        shapes = f"values {values.shape}, cluster {cluster.shape}, {pd.isna(cluster).sum()} of them missing"
        raise ValueError(f"{shapes}: give every value its cluster, [n]")
    sums = pd.DataFrame({"sum": values, "n": 1.0}).groupby(cluster).sum().to_numpy()  # [n_clusters, 2]
    drawn = sums[generator.integers(len(sums), size=(RESAMPLES, len(sums)))].sum(1)
    if not len(values) or not np.isfinite(values).all():  # the sums of pandas pass over NaN
        return Interval(float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))
