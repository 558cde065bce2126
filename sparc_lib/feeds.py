"""Batches for training and evaluation, from a FeatureStore, from any object like it, or from tensors in memory."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .model import SPARC


class Feed(Protocol):
    """What training needs of its data; `FeatureStore` is one."""

    def __len__(self) -> int: ...

    def batches(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        shuffle: bool = True,
        device="cpu",
        drop_last: bool = False,
    ) -> Iterator[dict[str, Tensor]]: ...


class Captioned(Protocol):
    """What a search for latents shows of its data; `FeatureStore` is one. image_ids, captions: one a sample."""

    image_ids: Sequence[str]
    captions: Sequence[str]


Data = Feed | Mapping[str, Tensor]


class TensorFeed:
    """Streams {name: [n, d]} resident in memory, used as they are (divide rows by their L2 norm first)."""

    def __init__(self, streams: Mapping[str, Tensor]):
        lengths = {name: len(x) for name, x in streams.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                f"streams of different length or none at all: {lengths}; row i must be the same sample in each"
            )
        self.tensors = dict(streams)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def batches(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        shuffle: bool = True,
        device="cpu",
        drop_last: bool = False,
    ) -> Iterator[dict[str, Tensor]]:
        """Batches {stream: [batch, d]}, fully shuffled by `generator` or in order."""
        order = torch.randperm(len(self), generator=generator) if shuffle else torch.arange(len(self))
        end = len(self) - len(self) % batch_size if drop_last else len(self)
        for begin in range(0, end, batch_size):
            rows = order[begin : min(begin + batch_size, end)]
            yield {name: x[rows.to(x.device)].to(device) for name, x in self.tensors.items()}


def as_feed(data: Data) -> Feed:
    """`data` itself if it has `batches`, else its tensors as a feed."""
    return data if hasattr(data, "batches") else TensorFeed(data)


def present(model: SPARC, batch: Mapping[str, Tensor], every: bool = False) -> dict[str, Tensor]:
    """The model's streams in a batch; other streams of the data are left out (a model may use some of a store's).

    Raises ValueError if the batch has none of them, or with `every` if one is missing.
    """
    found = {name: batch[name] for name in model.streams if name in batch}
    missing = [name for name in model.streams if name not in found]
    if not found or (every and missing):
        raise ValueError(
            f"the data have no stream {missing[0]!r}, which the model needs; they have {', '.join(batch)}"
        )
    return found
