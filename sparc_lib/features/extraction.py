"""Images and captions to a FeatureStore, resumable after a kill at any moment.

Work goes to `<out>.partial/`: preallocated arrays and an append-only journal. A journal line is written
only after the rows it speaks of are on disk, so whatever the journal says is true; everything else is
computed again. The finished directory is renamed to `<out>`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..data.pairs import PairedDataset
from ..store.format import Samples, Skipped, StoreError, clean_labels
from ..store.reader import FeatureStore
from ..store.writer import StoreWriter
from .journal import Journal
from .loading import Images, collate, one_ahead, to_host

if TYPE_CHECKING:  # importing transformers and open_clip takes seconds
    from .encoders import ClipEncoder, DinoEncoder

log = logging.getLogger(__name__)


def extract(
    dataset: PairedDataset,
    dino: DinoEncoder,
    clip: ClipEncoder,
    out_dir: str | Path,
    batch_size: int = 64,
    device=None,
    *,
    workers: int = 0,
    commit_every: int = 16,
    overwrite: bool = False,
    progress: bool = True,
) -> FeatureStore:
    """Streams dino [n, dino.dim], clip_img and clip_txt [n, clip.dim] of every pair, as float16 under `out_dir`.

    Each distinct image is encoded once. A finished store of the same data and encoders is opened as it is; an
    unfinished one is continued, bit for bit if `batch_size` is the same. `device` moves the encoders first; `workers`: processes that load
    images; `commit_every`: batches between two journal lines, the most that a kill can cost.

    Raises OSError (ENOSPC) when the disk is too small or fills up, FileExistsError when `out_dir` holds something else
    and `overwrite` is off, StoreError for NaN or zero features or when no image can be read.
    """
    out = Path(out_dir)
    partial = out.with_name(out.name + ".partial")
    if device is not None:
        dino.to(device), clip.to(device)
    samples = Samples(
        list(dataset.ids),
        list(dataset.image_ids),
        list(dataset.captions),
        clean_labels(dataset.labels),
        list(dataset.classes),
    )
    samples.check(f"data set {dataset.name}/{dataset.split}")
    fingerprint = identify(dataset, dino, clip)
    if out.exists() and not overwrite:
        store = FeatureStore.open(out)
        if store.manifest.fingerprint != fingerprint:
            raise FileExistsError(
                f"{out}: holds features of another data set or encoder "
                f"({store.manifest.dataset}/{store.manifest.split}, fingerprint "
                f"{store.manifest.fingerprint}, wanted {fingerprint}); pass overwrite=True or choose another directory"
            )
        shutil.rmtree(partial, ignore_errors=True)
        return store
    try:
        dims = {"dino": dino.dim, "clip_img": clip.dim, "clip_txt": clip.dim}
        writer, journal = _begin(partial, fingerprint, samples, dims)
        try:
            rows = range(len(dataset))
            groups = _rows_by_image(dataset.image_ids, rows)
            _encode_images(
                dataset, groups, dino, clip, writer, journal, batch_size, workers, commit_every, progress
            )
            _encode_captions(dataset, rows, clip, writer, journal, batch_size, commit_every, progress)
            skipped = [
                Skipped(dataset.image_ids[groups[g][0]], tuple(dataset.ids[r] for r in groups[g]), reason)
                for g, reason in sorted(journal.skipped.items())
            ]
            lost = [r for g in journal.skipped for r in groups[g]]
            keep = np.setdiff1d(np.arange(len(dataset)), lost)
            if len(keep) == 0:
                raise StoreError(
                    f"{out}: none of the {len(groups)} images could be read, first reason: "
                    f"{skipped[0].reason}; check the image directory, delete {partial} and run again"
                )
            if skipped:
                log.warning(
                    "%s: skipped %d unreadable images (%d pairs), listed in manifest.json under 'skipped'",
                    out,
                    len(skipped),
                    len(lost),
                )
            writer.finish(
                out,
                samples.take(keep),
                {"dino": dino.stamp, "clip_img": clip.stamp, "clip_txt": clip.stamp},
                dataset=dataset.name,
                split=dataset.split,
                fingerprint=fingerprint,
                skipped=skipped,
                keep=keep,
                overwrite=overwrite,
            )
        finally:
            writer.close()
            journal.close()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            errno.ENOSPC,
            f"{out}: disk full ({error.strerror}). Free space and run the same call again: it "
            f"continues with what {partial} holds; or choose another directory",
        ) from error
    shutil.rmtree(partial, ignore_errors=True)
    return FeatureStore.open(out)


def _encode_images(
    dataset,
    groups: list[list[int]],
    dino,
    clip,
    writer: StoreWriter,
    journal: Journal,
    batch_size: int,
    workers: int,
    commit_every: int,
    progress: bool,
) -> None:
    todo = range(journal.done["images"], len(groups))
    loader = DataLoader(
        Images(dataset, [g[0] for g in groups], dino.preprocess, clip.preprocess),
        batch_sampler=[todo[i : i + batch_size] for i in range(0, len(todo), batch_size)],
        num_workers=workers,
        collate_fn=collate,
        pin_memory=dino.device.type == "cuda",
    )

    def encode(batch) -> Callable[[], int]:
        numbers, dino_pixels, clip_pixels, skipped = batch
        features = (
            {
                "dino": to_host(dino.image_features(dino_pixels)),
                "clip_img": to_host(clip.image_features(clip_pixels)),
            }
            if numbers
            else {}
        )

        def write() -> int:
            journal.skipped.update(skipped)
            repeat = [position for position, g in enumerate(numbers) for _ in groups[g]]
            rows = [row for g in numbers for row in groups[g]]
            for stream, arrived in features.items():
                writer.write(stream, rows, arrived()[repeat])
            return len(numbers) + len(skipped)

        return write

    _run("images", loader, encode, len(groups), writer, journal, commit_every, progress)


def _encode_captions(
    dataset,
    rows: range,
    clip,
    writer: StoreWriter,
    journal: Journal,
    batch_size: int,
    commit_every: int,
    progress: bool,
) -> None:
    todo = rows[journal.done["captions"] :]

    def encode(batch: range) -> Callable[[], int]:
        arrived = to_host(clip.text_features([dataset.captions[row] for row in batch]))

        def write() -> int:
            writer.write("clip_txt", list(batch), arrived())
            return len(batch)

        return write

    batches = (todo[i : i + batch_size] for i in range(0, len(todo), batch_size))
    _run("captions", batches, encode, len(rows), writer, journal, commit_every, progress)


@torch.inference_mode()
def _run(
    stage: str,
    batches: Iterable,
    encode: Callable[..., Callable[[], int]],
    total: int,
    writer: StoreWriter,
    journal: Journal,
    commit_every: int,
    progress: bool,
) -> None:
    """Encode batch after batch; every `commit_every` of them flush the rows, then say so in the journal.

    `encode` starts a batch and returns what writes it. On a GPU that is called when the next batch is under way, so that the
    GPU does not wait for the disk.
    """
    done = journal.done[stage]
    with tqdm(total=total, initial=done, unit=f" {stage}", desc=f"{stage:8}", disable=not progress) as bar:
        for number, write in enumerate(one_ahead(map(encode, batches)), 1):
            count = write()
            done += count
            bar.update(count)
            if number % commit_every == 0 or done == total:
                writer.sync()
                journal.commit(stage, done)


def _rows_by_image(image_ids: Sequence[str], rows: range) -> list[list[int]]:
    """The rows of each distinct image, in order of first appearance."""
    groups: dict[str, list[int]] = {}
    for row in rows:
        groups.setdefault(image_ids[row], []).append(row)
    return list(groups.values())


def identify(dataset: PairedDataset, dino, clip) -> str:
    """Hash of everything the store of these pairs under these encoders depends on."""
    labels = clean_labels(dataset.labels)
    digest = hashlib.sha256(
        json.dumps(
            [
                dataset.name,
                dataset.split,
                list(dataset.ids),
                list(dataset.image_ids),
                list(dataset.captions),
                list(dataset.classes),
                getattr(dataset, "fingerprint", ""),
                dino.fingerprint,
                clip.fingerprint,
            ]
        ).encode()
    )
    digest.update(labels.indptr.astype("<i8").tobytes() + labels.indices.astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def _begin(
    partial: Path, fingerprint: str, samples: Samples, dims: dict[str, int]
) -> tuple[StoreWriter, Journal]:
    """Continue the work in `partial`, or start over if there is none or it belongs to other data."""
    path = partial / "journal.jsonl"
    journal = Journal.resume(path, fingerprint)
    if journal is not None:
        log.info("%s: resuming at %s", partial, journal.done)
        return StoreWriter(partial / "arrays", samples.ids, dims), journal
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    text = sum(
        len(i) + len(m) + len(c) + 48 for i, m, c in zip(samples.ids, samples.image_ids, samples.captions)
    )
    need = int(1.05 * (len(samples.ids) * sum(dims.values()) * 2 + text)) + 2**20
    free = shutil.disk_usage(partial.parent).free
    if free < need:
        raise OSError(errno.ENOSPC, f"{need / 2**30:.2f} GiB are needed, {free / 2**30:.2f} GiB are free")
    writer = StoreWriter(partial / "arrays", samples.ids, dims)
    writer.sync()
    return writer, Journal.begin(path, fingerprint)
