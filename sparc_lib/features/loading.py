"""Images decoded and resized, captions tokenised: ahead of the encoders, by processes of their own if told
so.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.pairs import PairedDataset, UnreadableImageError, read_image

if TYPE_CHECKING:  # importing transformers and open_clip takes seconds
    from .encoders import ClipEncoder, DinoEncoder


class Batch(NamedTuple):
    """readable: the images that could be read, each as the rows of its pairs. dino, clip: their pixels,
    [batch_size, 3, H, W], filled up by repeating the last one; None if there is none. tokens: of the
    captions of each image, [n_captions, context]. skipped: {first row: why} of the other images.
    """

    readable: list[Sequence[int]]
    dino: Tensor | None
    clip: Tensor | None
    tokens: list[Tensor]
    skipped: dict[int, str]


@dataclass(frozen=True)
class Batches(Dataset):
    """Item n: the n-th batch of images, each of which is given by the rows of its pairs."""

    dataset: PairedDataset
    dino: DinoEncoder
    clip: ClipEncoder
    batch_size: int
    images: Sequence[Sequence[Sequence[int]]]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, n: int) -> Batch:
        batch = Batch([], None, None, [], {})
        dino, clip = [], []
        for rows in self.images[n]:
            try:
                image = read_image(self.dataset, rows[0])
            except UnreadableImageError as error:
                batch.skipped[rows[0]] = str(error)
                continue
            except OSError as error:
                raise _explained(error) from error
            batch.readable.append(rows)
            batch.tokens.append(self.clip.tokenize([self.dataset.captions[row] for row in rows]))
            dino.append(self.dino.preprocess(image))
            clip.append(self.clip.preprocess(image))
        if not batch.readable:
            return batch
        dino, clip = torch.stack(dino), torch.stack(clip)
        return batch._replace(dino=filled(dino, self.batch_size), clip=filled(clip, self.batch_size))


def filled(batch: Tensor, size: int) -> Tensor:
    """[b, ...] -> [size, ...] by repeating the last item. Arithmetic rounds differently in batches of another
    size; so what an encoder says of an item does not depend on how many others came with it.
    """
    return torch.cat([batch, batch[-1:].expand(size - len(batch), *batch.shape[1:])])


def load_ahead(batches: Batches, workers: int) -> Iterator[Batch]:
    """The batches in their order. workers: processes that load them; 0 loads here. For a GPU they are pinned,
    so that it copies them by itself.
    """
    pin = batches.dino.device.type == "cuda"
    return iter(DataLoader(batches, batch_size=None, num_workers=workers, pin_memory=pin))


def _explained(error: OSError) -> OSError:
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return error
    return OSError(
        error.errno, "too many open files while images are read; allow more (ulimit -n 4096) and run again"
    )
