"""What a sample looks like after a model: its features, its code, its reconstructions, as dense rows of a batch.

Nothing is held that is larger than what it was made from: codes stay sparse, reconstructions are made on demand.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..alignment import as_csr
from ..model import SPARC
from ..store.reader import FeatureStore

Rows = np.ndarray | slice


class Inputs(Protocol):
    """Samples: how many, how wide, and any of them as dense rows."""

    dim: int

    def __len__(self) -> int: ...

    def batch(self, rows: Rows) -> Tensor: ...  # m row numbers -> float32 [m, dim]


class Features:
    """A store's stream; rows have norm 1."""

    def __init__(self, store: FeatureStore, stream: str):
        self._array, self.dim = store[stream], store.dims[stream]

    def __len__(self) -> int:
        return len(self._array)

    def batch(self, rows: Rows) -> Tensor:
        return nn.functional.normalize(torch.from_numpy(np.asarray(self._array[rows], np.float32)), dim=1)


class SparseCodes:
    """Codes [n, L]."""

    def __init__(self, codes):
        self._codes = as_csr(codes, "codes").astype(np.float32)
        self.dim = self._codes.shape[1]

    def __len__(self) -> int:
        return self._codes.shape[0]

    def batch(self, rows: Rows) -> Tensor:
        return torch.from_numpy(self._codes[rows].toarray())


class Reconstruction:
    """x̂ = z D_t + p_t of codes [n, L] in the stream `target`: cross-reconstruction if they are another stream's."""

    def __init__(self, model: SPARC, codes, target: str):
        self._codes = as_csr(codes, "codes").astype(np.float32)
        self._decoder, self._bias = (
            p[target].detach().float().cpu().numpy() for p in (model.decoder, model.pre_bias)
        )
        self.dim = self._decoder.shape[1]

    def __len__(self) -> int:
        return self._codes.shape[0]

    def batch(self, rows: Rows) -> Tensor:
        return torch.from_numpy(self._codes[rows] @ self._decoder + self._bias)


def train_means(store: FeatureStore) -> dict[str, Tensor]:
    """Mean of the unit-norm features {stream: [d]}, float32."""
    sums = {s: torch.zeros(d, dtype=torch.float64) for s, d in store.dims.items()}
    for batch in store.batches(8192, shuffle=False):
        sums = {s: sums[s] + x.double().sum(0) for s, x in batch.items()}
    return {s: (total / len(store)).float() for s, total in sums.items()}
