"""Writing a feature store: preallocated arrays, checks, and a rename when all is whole and on the disk."""

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

from ..files import aside, sha256, sync_file, sync_folder
from ..model import stream_name
from .format import (
    CLASSES,
    FORMAT_VERSION,
    LABELS,
    MANIFEST,
    SAMPLES,
    SMALL,
    UNKNOWN_ENCODER,
    EncoderStamp,
    Manifest,
    Precision,
    Samples,
    Skipped,
    StoreError,
    StreamInfo,
    clean_labels,
    ids_sha256,
)

PACKAGES = ("numpy", "torch", "torchvision", "transformers", "open_clip_torch", "pillow")


class StoreWriter:
    """`<stream>.npy` arrays of one row per id, written in any order, whole or in blocks.

    Whatever `directory` held is deleted. dims: {stream: d}. precisions: {stream: "float16" or "float32"},
    float16 where nothing is said. Rows are written to files, not through a memory map: on a full disk a map
    kills the process, where a write raises OSError.
    """

    def __init__(
        self,
        directory: Path,
        ids: Sequence[str],
        dims: Mapping[str, int],
        precisions: Mapping[str, Precision] | None = None,
    ):
        self.directory, self.ids, self.dims = Path(directory), ids, dict(dims)
        self.precisions = {name: (precisions or {}).get(name, "float16") for name in dims}
        for name in dims:
            stream_name(name)
        shutil.rmtree(directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        self._files = {}
        for name, dim in self.dims.items():
            path = self.directory / f"{name}.npy"
            _allocate(path, (len(ids), dim), self.precisions[name])
            self._files[name] = open(path, "r+b")  # noqa: SIM115 (closed by `close`)

    def write(self, stream: str, rows: Sequence[int], values) -> None:
        """Store `values` [len(rows), dim]. StoreError for another shape, NaN, infinite and all-zero rows."""
        dim, precision = self.dims[stream], self.precisions[stream]
        if np.shape(values) != (len(rows), dim):
            raise StoreError(
                f"stream '{stream}': got features of shape {np.shape(values)}, "
                f"expected ({len(rows)}, {dim}); use the encoder the store was begun with"
            )
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(values, dtype=np.float32).astype(_little_endian(precision))
        bad = ~np.isfinite(stored).all(1) | ~stored.any(1)
        if bad.any():
            names = [self.ids[row] for row in np.asarray(rows)[bad][:5]]
            raise StoreError(
                f"{self.directory / stream}.npy: {int(bad.sum())} rows are NaN, infinite, beyond {precision} "
                f"or all zero, first ids {names}; check the weights and the precision of the encoder"
            )
        file = self._files[stream]
        row_bytes = dim * stored.itemsize
        header = os.path.getsize(file.name) - len(self.ids) * row_bytes
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # runs of neighbouring rows: one write each
        for start, stop in zip(starts, [*starts[1:], len(rows)]):
            file.seek(header + int(rows[start]) * row_bytes)
            file.write(stored[start:stop].data)

    def close(self) -> None:
        """Let go of the files; what was written is flushed to them, but not yet to the disk."""
        while self._files:
            self._files.popitem()[1].close()

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
        overwrite: bool = False,
    ) -> None:
        """Write samples, labels and manifest, then rename the directory to `out`."""
        samples.check(str(out))
        self.close()
        for name in self.dims:
            sync_file(self.directory / f"{name}.npy")
        _write_samples(self.directory, samples)
        order = ids_sha256(samples.ids)
        streams = []
        for name, dim in self.dims.items():
            content = sha256(self.directory / f"{name}.npy")
            stamp = encoders.get(name, UNKNOWN_ENCODER)
            streams.append(StreamInfo(name, dim, self.precisions[name], content, order, stamp))
        manifest = Manifest(
            version=FORMAT_VERSION,
            dataset=dataset,
            split=split,
            n_pairs=len(samples.ids),
            fingerprint=fingerprint,
            streams=tuple(streams),
            sha256={name: sha256(self.directory / name) for name in SMALL},
            skipped=tuple(skipped),
            created_by={package: _version(package) for package in PACKAGES},
        )
        with aside(self.directory / MANIFEST) as partial:
            partial.write_text(manifest.to_json())
        _publish(self.directory, Path(out), overwrite)


def _write_samples(directory: Path, samples: Samples) -> None:
    """Ids, captions, labels and classes of a store."""
    with aside(directory / SAMPLES) as partial, open(partial, "w", encoding="ascii") as file:
        for name, image, caption in zip(samples.ids, samples.image_ids, samples.captions, strict=True):
            file.write(json.dumps({"id": name, "image_id": image, "caption": caption}) + "\n")
    with aside(directory / LABELS) as partial, open(partial, "wb") as file:
        sp.save_npz(file, clean_labels(samples.labels))
    with aside(directory / CLASSES) as partial:
        partial.write_text(json.dumps(samples.classes))


def _publish(directory: Path, out: Path, overwrite: bool) -> None:
    """Rename a whole store to its place; the store that was there, if any, is deleted after that."""
    old = out.with_name(out.name + ".old")
    if out.exists():
        if not overwrite:
            raise FileExistsError(f"{out}: exists already; delete it, choose another or pass overwrite=True")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(out, old)
    os.rename(directory, out)
    sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _little_endian(precision: Precision) -> np.dtype:
    return np.dtype(precision).newbyteorder("<")


def _allocate(path: Path, shape: tuple[int, int], precision: Precision) -> None:
    """An array of zeros. Its space is claimed now, so that a disk too small is noticed now."""
    np.lib.format.open_memmap(path, mode="w+", dtype=_little_endian(precision), shape=shape)
    if not hasattr(os, "posix_fallocate"):
        return
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems that cannot reserve
                raise


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
