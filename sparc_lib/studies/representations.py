"""What a sample looks like to a classifier or a probe: its features, its code, its reconstructions.

Nothing is held that is larger than its source: codes stay sparse, reconstructions are made on demand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from ..alignment import as_csr
from ..evaluation import Pair, encode_store
from ..model import SPARC
from ..store.reader import FeatureStore

CODES, OWN, CROSS, RAW = "codes", "reconstruction", "cross-reconstruction", "raw"
Rows = np.ndarray | slice


class Inputs(Protocol):
    """Samples: how many, how wide, and any of them as rows.

    batch: m row numbers -> dense float32 tensor [m, dim]. block: the same as an array or, for codes, as CSR.
    """

    dim: int

    def __len__(self) -> int: ...

    def batch(self, rows: Rows) -> Tensor: ...

    def block(self, rows: Rows) -> np.ndarray | sp.csr_array: ...


class Split(NamedTuple):
    """What is read of one split of the data: samples [n, d], and their labels, bool CSR [n, C]."""

    inputs: Inputs
    labels: sp.csr_array


class Features:
    """A store's stream; rows have norm 1."""

    def __init__(self, store: FeatureStore, stream: str):
        self._array, self.dim = store[stream], store.dims[stream]

    def __len__(self) -> int:
        return len(self._array)

    def batch(self, rows: Rows) -> Tensor:
        return nn.functional.normalize(torch.from_numpy(np.asarray(self._array[rows], np.float32)), dim=1)

    def block(self, rows: Rows) -> np.ndarray:
        return self.batch(rows).numpy()


class SparseCodes:
    """Codes [n, L]."""

    def __init__(self, codes):
        self._codes = as_csr(codes, "codes").astype(np.float32)
        self.dim = self._codes.shape[1]

    def __len__(self) -> int:
        return self._codes.shape[0]

    def batch(self, rows: Rows) -> Tensor:
        return torch.from_numpy(self._codes[rows].toarray())

    def block(self, rows: Rows) -> sp.csr_array:
        return self._codes[rows]


class Reconstruction:
    """x̂ = z D_t + p_t of codes [n, L] in the stream `target`; of another's codes, cross-reconstruction."""

    def __init__(self, model: SPARC, codes, target: str):
        self._codes = as_csr(codes, "codes").astype(np.float32)
        self._decoder = model.decoder[target].detach().float().cpu().numpy()
        self._bias = model.pre_bias[target].detach().float().cpu().numpy()
        self.dim = self._decoder.shape[1]

    def __len__(self) -> int:
        return self._codes.shape[0]

    def batch(self, rows: Rows) -> Tensor:
        return torch.from_numpy(self.block(rows))

    def block(self, rows: Rows) -> np.ndarray:
        return self._codes[rows] @ self._decoder + self._bias


class Case(NamedTuple):
    """One representation. kind: RAW, CODES, OWN or CROSS. source: stream that is seen; target: stream that is
    rebuilt from its code, else the source itself."""

    kind: str
    source: str
    target: str


def raw_splits(stores: Mapping[str, FeatureStore]) -> Iterator[tuple[Case, dict[str, Split]]]:
    """Every stream's features, with the labels, by split."""
    for stream in next(iter(stores.values())).streams:
        splits = {split: Split(Features(store, stream), store.labels) for split, store in stores.items()}
        yield Case(RAW, stream, stream), splits


def code_splits(
    model: SPARC, stores: Mapping[str, FeatureStore], rebuilt: Sequence[Pair] = ()
) -> Iterator[tuple[Case, dict[str, Split]]]:
    """Every stream's independent codes, then the reconstructions `rebuilt` (source, target), by split."""
    codes = {split: encode_store(model, store, "independent") for split, store in stores.items()}
    for stream in model.streams:
        inputs = {split: SparseCodes(codes[split][stream]) for split in stores}
        yield Case(CODES, stream, stream), _with_labels(inputs, stores)
    for source, target in rebuilt:
        inputs = {split: Reconstruction(model, codes[split][source], target) for split in stores}
        yield Case(OWN if source == target else CROSS, source, target), _with_labels(inputs, stores)


def _with_labels(inputs: Mapping[str, Inputs], stores: Mapping[str, FeatureStore]) -> dict[str, Split]:
    return {split: Split(inputs[split], store.labels) for split, store in stores.items()}


def train_means(store: FeatureStore) -> dict[str, Tensor]:
    """Mean of the unit-norm features {stream: [d]}, float32."""
    sums = {stream: torch.zeros(width, dtype=torch.float64) for stream, width in store.dims.items()}
    for batch in store.batches(8192, shuffle=False):
        for stream, x in batch.items():
            sums[stream] += x.double().sum(0)
    return {stream: (total / len(store)).float() for stream, total in sums.items()}
