"""What the data sets of photographs share: image files on disk, subsets, and labels per pair."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from PIL import Image

from .images import RemoteImage, absent
from .pairs import InstanceMask

log = logging.getLogger(__name__)
TOLERATED = (
    0.01  # share of a split's images that may be missing or unreadable: extraction skips and lists them
)
PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # a file name that cannot lead out of its folder


class DataError(ValueError):
    """A data set that cannot be used as it is; the message names the file and the remedy."""


class Limits(NamedTuple):
    """How much of a split to take: images, then pairs of those; None takes all."""

    images: int | None = None
    pairs: int | None = None
    seed: int = 0


EVERYTHING = Limits()


class Pairs(NamedTuple):
    """Columns of n (image, caption) pairs in the order of the publisher's file."""

    ids: list[str]
    image_ids: list[str]
    captions: list[str]

    def take(self, rows: Sequence[int]) -> Pairs:
        return Pairs(*([column[row] for row in rows] for column in self))


def chosen(names: Sequence[str], n: int | None, seed: int) -> list[int]:
    """Rows of `n` of the names, ascending: those with the smallest SHA-256 of (seed, name).

    The same on every machine and in every order of the names, and nested: the choice of a smaller n is
    contained in that of a larger one.
    """
    if n is None or n >= len(names):
        return list(range(len(names)))

    def rank(row: int) -> bytes:
        return hashlib.sha256(f"{seed}/{names[row]}".encode()).digest()

    return sorted(sorted(range(len(names)), key=rank)[:n])


def limited(pairs: Pairs, limits: Limits) -> Pairs:
    """The pairs of the chosen images, and of those the chosen pairs."""
    images = list(dict.fromkeys(pairs.image_ids))
    kept = {images[row] for row in chosen(images, limits.images, limits.seed)}
    pairs = pairs.take([row for row, image in enumerate(pairs.image_ids) if image in kept])
    return pairs.take(chosen(pairs.ids, limits.pairs, limits.seed))


def label_matrix(
    image_ids: Sequence[str], carried: tuple[Sequence[str], Sequence[int]], n_classes: int
) -> sp.csr_array:
    """Boolean CSR [n_pairs, n_classes] from (image ids [m], columns [m]); a label repeated for an image
    counts once.
    """
    images, columns = carried
    number = {image: row for row, image in enumerate(dict.fromkeys(image_ids))}
    rows = np.fromiter((number[image] for image in images), np.int64, len(images))
    ones = np.ones(len(rows), bool)
    per_image = sp.csr_array(
        (ones, (rows, np.asarray(columns, np.int64))), shape=(len(number), n_classes), dtype=bool
    )
    per_image.sum_duplicates()
    return per_image[np.fromiter((number[image] for image in image_ids), np.int64, len(image_ids))]


@dataclass(eq=False)
class PhotoDataset:
    """Pairs whose images are files, `<folder>/<subfolder>/<image id>.jpg`, published below `address` alike.

    labels: boolean CSR [n_pairs, n_classes] over `classes`. skipped: lines of the caption file that could not
    be read. `paths` and `urls`: of every pair's image. Raises DataError for an image id that is no plain file
    name, as it could lead out of the folder.
    """

    name: str
    split: str
    pairs: Pairs
    labels: sp.csr_array
    classes: list[str]
    folder: Path
    subfolder: str
    address: str
    skipped: list[str]

    knows_masks = False
    least_pixels = 1

    def __post_init__(self):
        self.ids, self.image_ids, self.captions = self.pairs
        for image in self.image_ids:
            if not PLAIN_NAME.fullmatch(image):
                raise DataError(f"{self.folder}: image id {image!r} is no plain file name; mend the captions")
        places = [f"{self.subfolder}/{image}.jpg" for image in self.image_ids]
        self.paths = [self.folder / place for place in places]
        self.urls = [f"{self.address}/{place}" for place in places]

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, i: int) -> Image.Image:
        """Photograph of pair i as it is stored, of any size and mode; not decoded yet. Raises OSError if
        unreadable.
        """
        return Image.open(self.paths[i])

    def masks(self, i: int) -> list[InstanceMask]:
        """Not known of photographs in general."""
        return []

    def facts(self, i: int) -> None:
        """Nobody has listed all that is true of a photograph."""
        return None

    def remote_images(self) -> list[RemoteImage]:
        """Every distinct image with its address, for `fetch_images`."""
        return list(dict.fromkeys(map(RemoteImage, self.paths, self.urls)))

    def demand_images(self, command: str) -> None:
        """Raise DataError when more than 1 % of the images are missing; fewer are named in the log, and
        skipped later.

        command: what the reader should run to get them.
        """
        images = self.remote_images()
        missing = absent(images)
        if not missing:
            return
        place, first = missing[0].path.parent, missing[0].path.name
        summary = f"{place}: {len(missing)} of {len(images)} images are missing, the first is {first}"
        if len(missing) > TOLERATED * len(images):
            raise DataError(
                f"{summary}. Get them with: {command}; or point --data-root (SPARC_DATASETS) to where they "
                "are"
            )
        log.warning("%s; extraction skips and lists them. To get them: %s", summary, command)
