"""Images decoded and resized, captions tokenised: ahead of the encoders, by processes of their own if told
so.
"""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..data.pairs import PairedDataset, UnreadableImageError, read_image

MORE_FILES = "allow more (ulimit -n 4096) and run again"


class Batch(NamedTuple):
    """readable: the images that could be read, each as the rows of its pairs. dino, clip: their pixels,
    [batch_size, 3, H, W], filled up by repeating the last one; None if there is none. tokens: of the
    captions of each image, [n_captions, context]. skipped: {first row: why} of the other images.
    """

    readable: list[Sequence[int]]
    dino: Tensor | None
    clip: Tensor | None
    tokens: Tensor | None
    skipped: dict[int, str]


@dataclass(frozen=True)
class Batches(Dataset):
    """Item n: the n-th batch of images, each of which is given by the rows of its pairs."""

    dataset: PairedDataset
    dino: Callable[[Image.Image], Tensor]  # preprocessing
    clip: Callable[[Image.Image], Tensor]
    tokenizer: Callable[[list[str]], Tensor]
    batch_size: int
    images: Sequence[Sequence[Sequence[int]]]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, n: int) -> Batch:
        batch = Batch([], None, None, None, {})
        dino, clip, tokens = [], [], []
        for rows in self.images[n]:
            try:
                image = read_image(self.dataset, rows[0])
            except UnreadableImageError as error:
                batch.skipped[rows[0]] = str(error)
                continue
            except OSError as error:
                raise _explained(error) from error
            batch.readable.append(rows)
            tokens.append(self.tokenizer([self.dataset.captions[row] for row in rows]))
            dino.append(self.dino(image))
            clip.append(self.clip(image))
        if not batch.readable:
            return batch
        dino, clip = torch.stack(dino), torch.stack(clip)
        return batch._replace(
            dino=filled(dino, self.batch_size), clip=filled(clip, self.batch_size), tokens=torch.cat(tokens)
        )


def filled(batch: Tensor, size: int) -> Tensor:
    """[b, ...] -> [size, ...] by repeating the last item. Arithmetic rounds differently in batches of another
    size; so what an encoder says of an item does not depend on how many others came with it.
    """
    return torch.cat([batch, batch[-1:].expand(size - len(batch), *batch.shape[1:])])


def load_ahead(batches: Batches, workers: int, pinned: bool) -> Iterator[Batch]:
    """The batches in their order. workers: processes that load them; 0 loads here. pinned: in memory from
    which a GPU copies by itself. Raises OSError when too few files may be open.
    """
    if workers:
        _demand_files(64 + 16 * workers)
    return iter(DataLoader(batches, batch_size=None, num_workers=workers, pin_memory=pinned))


def _demand_files(n: int) -> None:
    """Allow this process `n` open files: loaders hand each tensor over as one. Raises OSError if it may not
    have them: without them loaders stop answering.
    """
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY or allowed >= n:
        return
    if most != resource.RLIM_INFINITY and most < n:
        raise OSError(errno.EMFILE, f"{most} files may be open, loading images takes {n}; {MORE_FILES}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (n, most))


def _explained(error: OSError) -> OSError:
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return error
    return OSError(error.errno, f"too many open files while images are read; {MORE_FILES}")
