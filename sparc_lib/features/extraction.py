"""Images and captions to a FeatureStore, by one process or several, resumable after a kill at any moment."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm import tqdm

from ..data.pairs import PairedDataset, UnreadableImageError, read_image
from ..data.photographs import TOLERATED
from ..files import disk_full_explained
from ..store.format import Samples, Skipped, StoreError, clean_labels
from ..store.reader import FeatureStore
from ..store.writer import StoreWriter
from . import blocks
from .blocks import STREAMS, Block, BlockFeatures
from .loading import Batches, filled, load_ahead

if TYPE_CHECKING:  # importing transformers and open_clip takes seconds
    from .encoders import ClipEncoder, DinoEncoder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """What is to be extracted. batch_size: images, and captions, per forward pass. workers: processes that
    load images. The features depend neither on `workers` nor on who computes which block.
    """

    dataset: PairedDataset
    dino: DinoEncoder
    clip: ClipEncoder
    batch_size: int = 64
    workers: int = 0
    progress: bool = True

    @property
    def name(self) -> str:
        return f"{self.dataset.name}/{self.dataset.split}"

    @property
    def dims(self) -> dict[str, int]:
        return {"dino": self.dino.dim, "clip_img": self.clip.dim, "clip_txt": self.clip.dim}

    @cached_property
    def images(self) -> list[list[int]]:
        """For each distinct image, in order of first appearance, the rows of its pairs."""
        rows_of: dict[str, list[int]] = {}
        for row, image in enumerate(self.dataset.image_ids):
            rows_of.setdefault(image, []).append(row)
        return list(rows_of.values())

    @cached_property
    def blocks(self) -> list[Block]:
        size = blocks.BATCHES * self.batch_size
        starts = range(0, len(self.images), size)
        return [Block(number, self.images[start : start + size]) for number, start in enumerate(starts)]

    @cached_property
    def samples(self) -> Samples:
        """What is known of the pairs besides features. Raises StoreError where these disagree."""
        data = self.dataset
        labels = clean_labels(data.labels)
        samples = Samples(
            list(data.ids), list(data.image_ids), list(data.captions), labels, list(data.classes)
        )
        samples.check(f"data set {self.name}")
        return samples

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that the store of these pairs under these encoders depends on."""
        samples = self.samples
        texts = [samples.ids, samples.image_ids, samples.captions, samples.classes]
        encoders = [self.dino.fingerprint, self.clip.fingerprint, self.batch_size]
        text = json.dumps([self.dataset.name, self.dataset.split, *texts, *encoders])
        digest = hashlib.sha256(text.encode())
        digest.update(samples.labels.indptr.astype("<i8").tobytes())
        digest.update(samples.labels.indices.astype("<i8").tobytes())
        return digest.hexdigest()[:16]


def extract(task: Extraction, out_dir: str | Path, folder: Path | None = None) -> FeatureStore:
    """Streams dino, clip_img, clip_txt of every pair, float16, under `out_dir`; each image is encoded once.

    folder: of the blocks, which other processes may fill, too (`encode_blocks`); default `<out_dir>.blocks`.
    Blocks that are there are not computed again; when the store is whole, they are removed. A finished store
    of the same data and encoders is opened as it is.

    Raises DiskFullError, FileExistsError when `out_dir` holds something else, StoreError for NaN or zero
    features or when more than 1 % of the images cannot be read.
    """
    out = Path(out_dir)
    folder = Path(folder or out.with_name(out.name + ".blocks"))
    if out.exists():
        store = FeatureStore.open(out)
        made = store.manifest
        if made.fingerprint != task.fingerprint:
            raise FileExistsError(
                f"{out}: holds features of another data set or encoder ({made.dataset}/{made.split}, "
                f"fingerprint {made.fingerprint}, wanted {task.fingerprint}); choose another directory or "
                "delete it"
            )
    else:
        encode_blocks(task, folder)
        with disk_full_explained(out):
            store = _finish(task, folder, out)
    shutil.rmtree(folder, ignore_errors=True)
    return store


def encode_blocks(task: Extraction, folder: Path, rank: int = 0, world: int = 1) -> None:
    """Compute what is missing in `folder` of every `world`-th block, from number `rank` on.

    Raises DiskFullError, and StoreError for NaN or zero features.
    """
    mine = task.blocks[rank::world]
    missing = [block for block in mine if _is_missing(task, folder, block)]
    total = sum(len(block.images) for block in mine)
    done = total - sum(len(block.images) for block in missing)
    with tqdm(total=total, initial=done, unit=" images", desc=task.name, disable=not task.progress) as bar:
        for block, content in _encode(task, missing):
            blocks.save(folder, block, task.fingerprint, content)
            bar.update(len(block.images))


def mended(dataset: PairedDataset, rows: Sequence[int]) -> list[int]:
    """Those of `rows`, whose images could not be read once, that can be read by now."""
    readable = []
    for row in rows:
        try:
            read_image(dataset, row)
        except UnreadableImageError:
            continue
        readable.append(row)
    return readable


def keep_blocks(task: Extraction, store: FeatureStore, folder: Path) -> bool:
    """Whether images that a finished store left out can be read by now. If so, all blocks without such an
    image are put back into `folder` from the store, so that extracting again computes the others only.
    """
    reasons = {skipped.image_id: skipped.reason for skipped in store.manifest.skipped}
    left_out = [rows[0] for rows in task.images if task.dataset.image_ids[rows[0]] in reasons]
    readable = set(mended(task.dataset, left_out))
    if not readable:
        return False
    row_of = {name: row for row, name in enumerate(store.ids)}
    for block in task.blocks:
        if any(image[0] in readable for image in block.images):
            continue
        ids = task.dataset.ids
        rows = [row for image in block.images for row in image if ids[row] in row_of]
        stored = np.array([row_of[ids[row]] for row in rows], np.int64)
        features = {stream: np.array(store[stream][stored]) for stream in STREAMS}
        firsts = [image[0] for image in block.images if ids[image[0]] not in row_of]
        skipped = {row: reasons[task.dataset.image_ids[row]] for row in firsts}
        content = BlockFeatures(np.array(rows, np.int64), features, skipped)
        blocks.save(folder, block, task.fingerprint, content)
    return True


def _is_missing(task: Extraction, folder: Path, block: Block) -> bool:
    content = blocks.load(folder, block, task.fingerprint)
    if content is not None and not mended(task.dataset, list(content.skipped)):
        return False
    block.file(folder).unlink(missing_ok=True)
    return True


@torch.inference_mode()
def _encode(task: Extraction, missing: Sequence[Block]) -> Iterator[tuple[Block, BlockFeatures]]:
    """Block after block. The features stay on the device until the block is whole: within it a GPU is not
    waited for, and the loaders go on while it is written.
    """
    size = task.batch_size
    images = [
        block.images[start : start + size] for block in missing for start in range(0, len(block.images), size)
    ]
    dino, clip = task.dino, task.clip
    batches = Batches(task.dataset, dino.preprocess, clip.preprocess, clip.tokenizer, size, images)
    arriving = load_ahead(batches, task.workers, pinned=dino.device.type == "cuda")
    for block in missing:
        readable: list[Sequence[int]] = []
        skipped: dict[int, str] = {}
        dino_parts, clip_parts, text_parts, tokens = [], [], [], []
        for _ in range(0, len(block.images), size):
            batch = next(arriving)
            n = len(batch.readable)
            readable += batch.readable
            skipped |= batch.skipped
            if n:
                tokens.append(batch.tokens)
                dino_parts.append(dino.image_features(batch.dino)[:n])
                clip_parts.append(clip.image_features(batch.clip)[:n])
        if tokens:
            for part in torch.cat(tokens).split(size):
                text_parts.append(clip.token_features(filled(part, size))[: len(part)])
        rows = [row for image in readable for row in image]
        of_image = [place for place, image in enumerate(readable) for _ in image]
        firsts = [image[0] for image in readable]
        features = {
            "dino": _on_host(task, "dino", dino_parts, firsts)[of_image],
            "clip_img": _on_host(task, "clip_img", clip_parts, firsts)[of_image],
            "clip_txt": _on_host(task, "clip_txt", text_parts, rows),
        }
        yield block, BlockFeatures(np.array(rows, np.int64), features, skipped)


def _on_host(task: Extraction, stream: str, parts: list[torch.Tensor], rows: Sequence[int]) -> np.ndarray:
    """Batches of features as float16 [len(rows), d]. Raises StoreError for NaN, infinity and zero rows."""
    if not parts:
        return np.zeros((0, task.dims[stream]), "<f2")
    with np.errstate(over="ignore"):
        half = torch.cat(parts).cpu().numpy().astype("<f2")
    bad = ~np.isfinite(half).all(1) | ~half.any(1)
    if bad.any():
        first = [task.dataset.ids[rows[i]] for i in np.flatnonzero(bad)[:5]]
        raise StoreError(
            f"{task.name}, stream {stream!r}: {int(bad.sum())} rows are NaN, infinite, beyond float16 or all "
            f"zero, first ids {first}; check the weights and the precision of the encoder"
        )
    return half


def _finish(task: Extraction, folder: Path, out: Path) -> FeatureStore:
    """The store of all blocks, every row in its place. Raises StoreError when blocks are missing."""
    skipped, kept = {}, []
    for content in _all_blocks(task, folder):
        kept.append(content.rows)
        skipped |= content.skipped
    listed = _listed(task, skipped)
    rows = np.sort(np.concatenate(kept))
    position = np.full(len(task.samples.ids), -1)
    position[rows] = np.arange(len(rows))
    whole = task.samples.take(rows)
    with closing(StoreWriter(out.with_name(out.name + ".writing"), whole.ids, task.dims)) as writer:
        for content in _all_blocks(task, folder):
            for stream, values in content.features.items():
                writer.write(stream, position[content.rows], values)
        writer.finish(
            out,
            whole,
            {"dino": task.dino.stamp, "clip_img": task.clip.stamp, "clip_txt": task.clip.stamp},
            dataset=task.dataset.name,
            split=task.dataset.split,
            fingerprint=task.fingerprint,
            skipped=listed,
        )
    return FeatureStore.open(out)


def _all_blocks(task: Extraction, folder: Path) -> Iterator[BlockFeatures]:
    for block in task.blocks:
        content = blocks.load(folder, block, task.fingerprint)
        if content is None:
            raise StoreError(
                f"{block.file(folder)}: missing; run the same extraction again, it computes this block only"
            )
        yield content


def _listed(task: Extraction, skipped: dict[int, str]) -> list[Skipped]:
    """What the manifest says of unreadable images. Raises StoreError when they are more than 1 %."""
    if not skipped:
        return []
    listed = []
    for rows in task.images:
        if rows[0] in skipped:
            ids = tuple(task.dataset.ids[row] for row in rows)
            listed.append(Skipped(task.dataset.image_ids[rows[0]], ids, skipped[rows[0]]))
    if len(listed) > TOLERATED * len(task.images):
        raise StoreError(
            f"{task.name}: {len(listed)} of {len(task.images)} images cannot be read, the first is "
            f"{listed[0].image_id} ({listed[0].reason}). Delete such files, get them again (./run_all.sh "
            "--fetch) and run again: the features of the others are kept"
        )
    log.warning("%s: %d unreadable images are left out; manifest.json lists them", task.name, len(listed))
    return listed
