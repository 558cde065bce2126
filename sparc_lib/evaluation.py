"""Batches of a data set, reconstruction scores over it, and its sparse codes; the model is never changed."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

from .inputs import at_least_one, real_numbers
from .model import SPARC, Codes, Coding

Pair = tuple[str, str]  # (source, target)


class Feed:
    """Aligned samples in streams; `FeatureStore` is one. Subclasses give `__len__` and `gather`."""

    def __len__(self) -> int:
        raise NotImplementedError

    def gather(self, rows: Tensor | None, device="cpu") -> dict[str, Tensor]:
        """The samples `rows` (None: all) in every stream, {stream: [len(rows), d]}, on `device`."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the samples lie."""
        return torch.device("cpu")

    def batches(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        shuffle: bool = True,
        device="cpu",
        drop_last: bool = False,
        start: int = 0,
    ) -> Iterator[dict[str, Tensor]]:
        """Batches {stream: [batch, d]}, fully shuffled by `generator` (None: torch's own) or in order.

        start: so many batches are left out and not read, as resuming training does.
        """
        n = len(self)
        at_least_one(batch_size, "batch_size")
        order = torch.randperm(n, generator=generator) if shuffle else torch.arange(n)
        order = order.to(self.device)  # once an epoch: a GPU would be waited for at every batch
        end = n - n % batch_size if drop_last else n
        for begin in range(start * batch_size, end, batch_size):
            yield self.gather(order[begin : begin + batch_size], device)


class TensorFeed(Feed):
    """Streams {name: [n, d]} resident in memory, used as they are (divide rows by their L2 norm first)."""

    def __init__(self, streams: Mapping[str, Tensor]):
        streams = {name: torch.as_tensor(real_numbers(x, f"stream {name!r}")) for name, x in streams.items()}
        lengths = {name: len(x) for name, x in streams.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                f"streams of different length, or none: {lengths}; row i must be one sample in all"
            )
        self.tensors = streams

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    @property
    def device(self) -> torch.device:
        """Where the samples lie."""
        return next(iter(self.tensors.values())).device

    @property
    def digest(self) -> str:
        """Short hash of the content, by which training knows the data that a checkpoint was made with."""
        content = hashlib.sha256()
        for name, x in self.tensors.items():
            content.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
            content.update(x.detach().cpu().contiguous().view(torch.uint8).numpy())
        return content.hexdigest()[:16]

    def gather(self, rows: Tensor | None, device="cpu") -> dict[str, Tensor]:
        """As `Feed.gather`."""
        if rows is None:
            return {name: x.to(device) for name, x in self.tensors.items()}
        return {name: x[rows.to(x.device)].to(device) for name, x in self.tensors.items()}


Data = Feed | Mapping[str, Tensor]


def as_feed(data: Data) -> Feed:
    """`data` itself if it is a feed or has its `batches` and length, else its tensors as a feed."""
    return data if hasattr(data, "batches") else TensorFeed(data)


def present(model: SPARC, batch: Mapping[str, Tensor], every: bool = False) -> dict[str, Tensor]:
    """The model's streams in a batch; other streams of the data are left out.

    Raises ValueError if the batch has none of them, or with `every` if one is missing.
    """
    chosen = {name: batch[name] for name in model.streams if name in batch}
    missing = [name for name in model.streams if name not in batch]
    if not chosen or (every and missing):
        raise ValueError(f"the data have no stream {missing[0]!r} of the model; they have {', '.join(batch)}")
    return chosen


@dataclass(frozen=True)
class CodingScores:
    """Scores under one coding. nmse and fvu {(source, target)}: source == target is self-reconstruction.

    l0 {stream}: mean number of latents with z > 0 per sample. dead_share {stream}: share of all latents that
    are z > 0 in no sample of the data (this is about the data, not about the training counters).
    """

    nmse: Mapping[Pair, float]
    fvu: Mapping[Pair, float]
    l0: Mapping[str, float]
    dead_share: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Both codings of the same samples. Under the local gate they agree."""

    joint: CodingScores
    independent: CodingScores
    n_samples: int

    def to_frame(self) -> pd.DataFrame:
        """Tidy: coding, metric, source, target, value."""
        rows = []
        for coding in ("joint", "independent"):
            scores = getattr(self, coding)
            for field in fields(scores):
                for key, value in getattr(scores, field.name).items():
                    source, target = (key, key) if isinstance(key, str) else key
                    rows.append((coding, field.name, source, target, value))
        return pd.DataFrame(rows, columns=["coding", "metric", "source", "target", "value"])


class _Sums:
    """Running sums of one coding, in float64."""

    def __init__(self) -> None:
        self.nmse: dict[Pair, float] = {}
        self.error: dict[Pair, float] = {}
        self.active: dict[str, Tensor] = {}  # samples with z > 0, per latent

    def add(self, model: SPARC, streams: Mapping[str, Tensor], codes: Codes) -> None:
        for source, code in codes.items():
            fired = torch.bincount(code.indices[code.values > 0], minlength=model.n_latents)
            self.active[source] = self.active.get(source, 0) + fired
            for target, x in streams.items():
                x, pair = x.double(), (source, target)
                error = (model.decode(code, target).double() - x).square().sum(1)
                self.error[pair] = self.error.get(pair, 0.0) + error.sum().item()
                self.nmse[pair] = self.nmse.get(pair, 0.0) + (error / x.square().sum(1)).sum().item()

    def scores(self, n: int, variance: Mapping[str, float]) -> CodingScores:
        return CodingScores(
            nmse={pair: value / n for pair, value in self.nmse.items()},
            fvu={pair: value / variance[pair[1]] for pair, value in self.error.items()},
            l0={s: count.sum().item() / n for s, count in self.active.items()},
            dead_share={s: (count == 0).double().mean().item() for s, count in self.active.items()},
        )


@torch.no_grad()
def evaluate(model: SPARC, data: Data, batch_size: int = 1024) -> Evaluation:
    """NMSE and FVU of self- and cross-reconstruction, dead share and L0, for joint and independent coding.

    data: a FeatureStore, anything with its `batches`, or {stream: [n, d]}, of which all samples and the
    model's streams are used. Raises ValueError for data without samples or whose samples are all equal.
    """
    model.demand_finite()
    feed, device = as_feed(data), next(model.parameters()).device
    n, joint, independent = 0, _Sums(), _Sums()
    first: dict[str, Tensor] = {}  # sums are taken about the first sample, against cancellation
    total: dict[str, Tensor] = {}
    squares: dict[str, float] = {}
    for batch in feed.batches(batch_size, shuffle=False, device=device):
        gated = model.select(present(model, batch), "joint")
        joint.add(model, gated.streams, model.codes(gated))
        independent.add(model, gated.streams, model.codes(model.regate(gated, "independent")))
        for name, x in gated.streams.items():
            x = x.double() - first.setdefault(name, x[0].double())
            total[name] = total.get(name, 0) + x.sum(0)
            squares[name] = squares.get(name, 0.0) + x.square().sum().item()
        n += len(x)
    if not n:
        raise ValueError("the data hold no samples; nothing to evaluate")
    variance = {name: squares[name] - (total[name].square().sum() / n).item() for name in total}
    flat = [name for name, value in variance.items() if value <= 1e-12 * n]
    if flat:
        raise ValueError(
            f"stream {flat[0]!r}: its {n} samples are all equal and have no FVU; pass more samples"
        )
    return Evaluation(joint.scores(n, variance), independent.scores(n, variance), n)


@torch.no_grad()
def encode_store(
    model: SPARC, store: Data, coding: Coding, batch_size: int = 1024
) -> dict[str, sp.csr_matrix]:
    """Codes of all samples in order: {stream: CSR float32 [n, n_latents]} with the entries z > 0 only.

    coding: "joint" or "independent", as in `SPARC.encode`; say which, for joint codes carry the partner's
    information (F3). store: a FeatureStore, anything with its `batches`, or {stream: [n, d]}.
    """
    model.demand_finite()
    parts: dict[str, list[sp.csr_matrix]] = {}
    for batch in as_feed(store).batches(batch_size, shuffle=False, device=next(model.parameters()).device):
        for name, code in model.encode(present(model, batch), coding).items():
            parts.setdefault(name, []).append(code.to_csr().astype(np.float32))
    if not parts:
        raise ValueError("the store holds no samples; nothing to encode")
    return {name: sp.vstack(blocks, format="csr") for name, blocks in parts.items()}
