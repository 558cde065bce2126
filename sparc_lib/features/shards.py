"""Extraction in shards: each process makes a store of its share of the images; merging puts every row in its place.

A shard is a whole store of its own, so it resumes after a kill and is checked like any other. Shards cut between
images, never between the captions of one.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.pairs import PairedDataset
from ..store.format import Samples, StoreError, clean_labels
from ..store.reader import FeatureStore
from ..store.writer import StoreWriter
from .encoders import ClipEncoder, DinoEncoder
from .extraction import extract, identify

log = logging.getLogger(__name__)
BLOCK = 8192  # rows per read when merging


class Shard:
    """The pairs of a data set whose images fall to one of `world` processes; rank 0 has the first images."""

    def __init__(self, dataset: PairedDataset, rank: int, world: int):
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}: ranks run from 0 to {world - 1}")
        number = {image: k for k, image in enumerate(dict.fromkeys(dataset.image_ids))}
        if len(number) < world:
            raise ValueError(
                f"{dataset.name}/{dataset.split} has {len(number)} images for {world} processes; use fewer"
            )
        first, last = len(number) * rank // world, len(number) * (rank + 1) // world
        self.rows = [row for row, image in enumerate(dataset.image_ids) if first <= number[image] < last]
        self.whole, self.classes = dataset, dataset.classes
        self.name, self.split = dataset.name, f"{dataset.split}, shard {rank} of {world}"
        self.fingerprint = getattr(dataset, "fingerprint", "")
        self.ids, self.image_ids, self.captions = (
            [column[row] for row in self.rows]
            for column in (dataset.ids, dataset.image_ids, dataset.captions)
        )
        self.labels = dataset.labels[np.array(self.rows)]

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, i: int) -> Image.Image:
        """Picture of the shard's pair i."""
        return self.whole.image(self.rows[i])


def place(root: Path, dataset: PairedDataset, dino: DinoEncoder, clip: ClipEncoder) -> Path:
    """The folder for the shards of these pairs under these encoders."""
    return root / f"{dataset.split}-{identify(dataset, dino, clip)}"


def extract_shard(
    dataset: PairedDataset,
    dino: DinoEncoder,
    clip: ClipEncoder,
    folder: Path,
    rank: int,
    world: int,
    **options,
) -> FeatureStore:
    """Features of one shard, under `folder`; options and errors are those of `extract`."""
    return extract(Shard(dataset, rank, world), dino, clip, folder / f"{rank:04d}-of-{world:04d}", **options)


def merge(
    dataset: PairedDataset, dino: DinoEncoder, clip: ClipEncoder, folder: Path, out: Path
) -> FeatureStore:
    """The store `out` that one process would have made, from all shards in `folder`, row by row bit for bit theirs.

    Raises StoreError when shards are missing, come from runs with different numbers of processes, or do not fit.
    """
    expected = {"dino": dino.fingerprint, "clip_img": clip.fingerprint, "clip_txt": clip.fingerprint}
    stores = [FeatureStore.open(path, expected) for path in _complete(folder)]
    samples = Samples(
        list(dataset.ids),
        list(dataset.image_ids),
        list(dataset.captions),
        clean_labels(dataset.labels),
        list(dataset.classes),
    )
    row_of = {name: row for row, name in enumerate(samples.ids)}
    skipped = [item for store in stores for item in store.manifest.skipped]
    there = [name for store in stores for name in store.ids] + [name for item in skipped for name in item.ids]
    if len(there) != len(row_of) or set(there) != set(row_of):
        raise StoreError(
            f"{folder}: the shards hold {len(there)} pairs, {dataset.name}/{dataset.split} has "
            f"{len(row_of)}; delete "
            "the folder and extract again"
        )
    keep = np.sort([row_of[name] for store in stores for name in store.ids])
    new_row = {samples.ids[row]: place for place, row in enumerate(keep)}
    writer = StoreWriter.fresh(
        out.with_name(out.name + ".merging"), [samples.ids[row] for row in keep], stores[0].dims
    )
    for store in stores:
        rows = np.array([new_row[name] for name in store.ids])
        for name in store.streams:
            for start in range(0, len(rows), BLOCK):
                writer.write(name, rows[start : start + BLOCK], store[name][start : start + BLOCK])
    writer.finish(
        out,
        samples.take(keep),
        {s.name: s.encoder for s in stores[0].manifest.streams},
        dataset=dataset.name,
        split=dataset.split,
        fingerprint=identify(dataset, dino, clip),
        skipped=skipped,
    )
    log.info("%s: merged %d shards, %d pairs", out, len(stores), len(keep))
    return FeatureStore.open(out)


def _complete(folder: Path) -> list[Path]:
    """All shards of one run, in order of rank."""
    found = {path: re.fullmatch(r"(\d{4})-of-(\d{4})", path.name) for path in sorted(folder.iterdir())}
    ranks = {path: (int(match[1]), int(match[2])) for path, match in found.items() if match}
    worlds = {world for _, world in ranks.values()}
    if len(worlds) > 1:
        raise StoreError(
            f"{folder}: shards of runs with {' and '.join(map(str, sorted(worlds)))} processes; delete "
            f"those of one"
        )
    world = worlds.pop() if worlds else 0
    missing = sorted(set(range(world)) - {rank for rank, _ in ranks.values()})
    if missing or not world:
        raise StoreError(
            f"{folder}: "
            + (f"shards {missing} of {world} are not finished" if world else "no finished shard")
            + "; run the sharded extraction again, it goes on where it was, or delete the folder"
        )
    return sorted(ranks)
