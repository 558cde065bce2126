"""Blocks: what extraction works in.

A block is a fixed number of images with their captions. It is computed whole, written aside and renamed, so a
block that is there is true and is never computed again. Which images form a block, and which of them go
through an encoder together, depends on the data and the batch size alone, not on the number of processes.
"""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import files

log = logging.getLogger(__name__)
STREAMS = ("dino", "clip_img", "clip_txt")
BATCHES = 16  # batches of images in a block


class Block(NamedTuple):
    """images: the rows of each image's pairs, in order of first appearance."""

    number: int
    images: list[list[int]]

    def file(self, folder: Path) -> Path:
        return folder / f"{self.number:06d}.npz"


class BlockFeatures(NamedTuple):
    """rows [m]: of the pairs whose image could be read, ascending. features: {stream: float16 [m, d]} of
    these. skipped: {first row of an image that could not be read: why}.
    """

    rows: np.ndarray
    features: dict[str, np.ndarray]
    skipped: dict[int, str]


def save(folder: Path, block: Block, fingerprint: str, content: BlockFeatures) -> None:
    """Write a block; a process that has written the same one meanwhile wins."""
    path = block.file(folder)
    files.made_folder(folder)
    with files.locked(path):
        if path.exists():
            return
        with files.aside(path) as partial, open(partial, "wb") as file:
            np.savez(
                file,
                fingerprint=fingerprint,
                rows=content.rows,
                skipped_rows=np.array(list(content.skipped), np.int64),
                skipped_reasons=np.array(list(content.skipped.values()), str),
                **content.features,
            )


def load(folder: Path, block: Block, fingerprint: str) -> BlockFeatures | None:
    """A block that is there; None if there is none, or one that is damaged or of other data, which goes."""
    path = block.file(folder)
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as saved:
            if str(saved["fingerprint"]) != fingerprint:
                raise ValueError("of other data or encoders")
            reasons = [str(reason) for reason in saved["skipped_reasons"]]
            skipped = dict(zip(saved["skipped_rows"].tolist(), reasons, strict=True))
            features = {stream: saved[stream] for stream in STREAMS}  # reading them checks their sums
            return BlockFeatures(saved["rows"], features, skipped)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s: cannot be used (%s) and is computed again", path, error)
        path.unlink()
        return None
