"""What linear maps reach in reconstruction: PCA with as many numbers as SPARC has latents active, and ridge.

They say how much a sparse code has to explain: a stream that PCA describes with k numbers as well as SPARC
does with k of L latents is too simple for the comparison of gates (its effective rank is near k).
"""

from __future__ import annotations

from itertools import permutations

import pandas as pd
import torch

from ..losses import fvu
from ..store.reader import FeatureStore
from .baselines import fit_ridge

COLUMNS = ["method", "source", "target", "fvu"]


def linear_table(train: FeatureStore, test: FeatureStore, k: int) -> pd.DataFrame:
    """FVU on the test split of maps fitted on the training split, one row a method and pair of streams.

    "PCA": a stream from its own k largest principal components. "ridge": a stream from another, all of its
    dimensions. (The mean has FVU 1 up to the difference of the two splits' means.)
    """
    from sklearn.decomposition import PCA  # slow to import

    x, y = train.tensors(), test.tensors()
    rows = []
    for stream in train.streams:
        pca = PCA(k, svd_solver="full").fit(x[stream].numpy())
        rebuilt = pca.inverse_transform(pca.transform(y[stream].numpy()))
        error = fvu(torch.from_numpy(rebuilt).double(), y[stream].double())
        rows.append(("PCA", stream, stream, float(error)))
    for source, target in permutations(train.streams, 2):
        maps = fit_ridge(x[source], x[target])
        rebuilt, centred = maps.query(y[source]), maps.reference(y[target])
        rows.append(("ridge", source, target, float(fvu(rebuilt.double(), centred.double()))))
    return pd.DataFrame(rows, columns=COLUMNS)
