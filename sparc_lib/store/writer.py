"""Writing a feature store: preallocated float16 arrays, checks, atomic finish.

A store is written beside its final place and renamed when complete, so it is never half-written.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from ..files import sha256 as file_sha256
from ..files import sync_folder as fsync_dir
from .format import (
    CLASSES,
    FORMAT_VERSION,
    LABELS,
    MANIFEST,
    SAMPLES,
    UNKNOWN_ENCODER,
    EncoderStamp,
    Manifest,
    Samples,
    Skipped,
    StoreError,
    StreamInfo,
    clean_labels,
    ids_sha256,
)


class _durable:
    """A binary file that is on disk, not just in the cache, when the `with` block ends."""

    def __init__(self, path: Path):
        self.file = open(path, "wb")

    def __enter__(self):
        return self.file

    def __exit__(self, *exception):
        with self.file:
            if exception[0] is None:
                self.file.flush()
                os.fsync(self.file.fileno())


class StoreWriter:
    """Preallocated `<stream>.npy` arrays of one row per id, written in any order.

    Rows go out with `pwrite`, not through a memory map: on a full disk a map kills the process with
    SIGBUS where a write raises OSError.
    """

    def __init__(self, directory: Path, ids: Sequence[str], dims: Mapping[str, int]):
        if not ids:
            raise StoreError(f"{directory}: a feature store needs at least one pair")
        self.directory, self.ids, self.dims = Path(directory), ids, dict(dims)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._fd: dict[str, int] = {}
        self._offset: dict[str, int] = {}
        for name, dim in self.dims.items():
            path = self.directory / f"{name}.npy"
            if not path.exists():
                _allocate(path, (len(ids), dim))
            self._offset[name] = np.load(path, mmap_mode="r").offset
            self._fd[name] = os.open(path, os.O_RDWR)

    @classmethod
    def fresh(cls, directory: Path, ids: Sequence[str], dims: Mapping[str, int]) -> StoreWriter:
        """A writer on empty arrays; whatever `directory` held is deleted."""
        shutil.rmtree(directory, ignore_errors=True)
        return cls(directory, ids, dims)

    def write(self, stream: str, rows: Sequence[int], values) -> None:
        """Store `values` [len(rows), dim] as float16. Raises StoreError on NaN, inf (after rounding) or zero rows."""
        dim = self.dims[stream]
        if np.shape(values) != (len(rows), dim):
            raise StoreError(
                f"stream '{stream}': got features of shape {np.shape(values)}, "
                f"expected ({len(rows)}, {dim}); use the encoder the store was begun with"
            )
        with np.errstate(over="ignore"):
            half = np.ascontiguousarray(values, dtype=np.float32).astype("<f2")
        bad = ~np.isfinite(half).all(1) | ~half.any(1)
        if bad.any():
            names = [self.ids[r] for r in np.asarray(rows)[bad][:5]]
            raise StoreError(
                f"{self.directory / stream}.npy: {int(bad.sum())} rows are NaN, infinite, beyond float16 or "
                f"all zero, first ids {names}; check the weights and the precision of the encoder"
            )
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # runs of neighbouring rows: one write each
        for start, stop in zip(starts, [*starts[1:], len(rows)]):
            _pwrite_all(
                self._fd[stream],
                memoryview(half[start:stop]).cast("B"),
                self._offset[stream] + int(rows[start]) * dim * 2,
            )

    def sync(self) -> None:
        """Return when everything written is on disk."""
        for fd in self._fd.values():
            os.fsync(fd)

    def close(self) -> None:
        while self._fd:
            os.close(self._fd.popitem()[1])

    def finish(
        self,
        out: Path,
        samples: Samples,
        encoders: Mapping[str, EncoderStamp],
        *,
        dataset: str,
        split: str,
        fingerprint: str = "",
        skipped: Iterable[Skipped] = (),
        keep: np.ndarray | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write samples, labels and manifest, then rename the directory to `out`. Safe to repeat after a kill.

        `samples` describe the kept rows; `keep` [n_kept]: row numbers to copy when some were skipped.
        """
        samples.check()
        self.sync()
        self.close()
        final = self.directory
        if keep is not None and len(keep) < len(self.ids):  # copied whole, so a kill needs no bookkeeping
            final = self.directory.with_name(self.directory.name + "-compact")
            compact = StoreWriter.fresh(final, samples.ids, self.dims)
            for name in self.dims:
                array = np.load(self.directory / f"{name}.npy", mmap_mode="r")
                for start in range(0, len(keep), 8192):
                    rows = keep[start : start + 8192]
                    compact.write(name, np.arange(start, start + len(rows)), array[rows])
            compact.sync()
            compact.close()
        write_samples(final, samples)
        order = ids_sha256(samples.ids)
        streams = tuple(
            StreamInfo(
                name,
                dim,
                "float16",
                file_sha256(final / f"{name}.npy"),
                order,
                encoders.get(name, UNKNOWN_ENCODER),
            )
            for name, dim in self.dims.items()
        )
        others = [f"{name}.npy" for name in self.dims] + [SAMPLES, LABELS, CLASSES]
        manifest = Manifest(
            FORMAT_VERSION,
            dataset,
            split,
            len(samples.ids),
            fingerprint,
            streams,
            {name: os.path.getsize(final / name) for name in others},
            tuple(skipped),
            _versions(),
        )
        with _durable(final / MANIFEST) as file:
            file.write(manifest.to_json().encode())
        fsync_dir(final)
        _publish(final, Path(out), overwrite)


def write_samples(directory: Path, samples: Samples) -> None:
    with _durable(directory / SAMPLES) as file:
        for sample, image, caption in zip(samples.ids, samples.image_ids, samples.captions, strict=True):
            file.write(json.dumps({"id": sample, "image_id": image, "caption": caption}).encode() + b"\n")
    with _durable(directory / LABELS) as file:
        sp.save_npz(file, clean_labels(samples.labels))
    with _durable(directory / CLASSES) as file:
        file.write(json.dumps(samples.classes).encode())


def _publish(directory: Path, out: Path, overwrite: bool) -> None:
    old = out.with_name(out.name + ".old")
    if out.exists():
        if not overwrite:
            raise FileExistsError(
                f"{out}: exists already; delete it, choose another directory or pass overwrite=True"
            )
        shutil.rmtree(old, ignore_errors=True)
        os.rename(out, old)
    os.rename(directory, out)
    fsync_dir(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _allocate(path: Path, shape: tuple[int, int]) -> None:
    np.lib.format.open_memmap(path, mode="w+", dtype="<f2", shape=shape)
    if hasattr(os, "posix_fallocate"):  # claim the space now, fail now if there is none
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems that cannot reserve
                    raise


def _pwrite_all(fd: int, data: memoryview, offset: int) -> None:
    while data:  # a single call may write less than asked
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def _versions() -> dict[str, str]:
    found = {}
    for package in ("numpy", "torch", "torchvision", "transformers", "open_clip_torch", "pillow"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
