"""Writing a feature store: preallocated arrays, checks, and a rename when all is whole and on the disk."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from ..files import aside, sha256, sync_file, sync_folder
from ..model import stream_name
from . import format as form
from .format import EncoderStamp, Manifest, Precision, Samples, StoreError, StreamInfo

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
        if not dims:
            raise StoreError(f"{directory}: no streams; give at least one, {{name: features [n, d]}}")
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
            shapes = f"got features of shape {np.shape(values)}, expected ({len(rows)}, {dim})"
            raise StoreError(f"stream '{stream}': {shapes}; use the encoder the store was begun with")
        with np.errstate(over="ignore", under="ignore"):
            stored = np.ascontiguousarray(values, dtype=np.float32).astype(_little_endian(precision))
            power = np.square(stored, dtype=np.float32).sum(1)  # readers divide by its root
        bad = ~(np.isfinite(power) & (power >= np.finfo(np.float32).tiny))
        if bad.any():
            names = [self.ids[row] for row in np.asarray(rows)[bad][:5]]
            raise StoreError(
                f"{self.directory / stream}.npy: {int(bad.sum())} rows are NaN, infinite, all zero or of a "
                f"norm beyond {precision}, first ids {names}; check the weights and the precision of the "
                "encoder"
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
        skipped: Iterable[form.Skipped] = (),
        overwrite: bool = False,
    ) -> None:
        """Write samples, labels and manifest, then rename the directory to `out`."""
        samples.check(str(out))
        unknown = sorted(set(encoders) - set(self.dims))
        if unknown:
            raise StoreError(
                f"{out}: encoders names {unknown}, the streams are {list(self.dims)}; mend the names"
            )
        self.close()
        for name in self.dims:
            sync_file(self.directory / f"{name}.npy")
        _write_samples(self.directory, samples)
        order = form.ids_sha256(samples.ids)
        streams = []
        for name, dim in self.dims.items():
            content = sha256(self.directory / f"{name}.npy")
            stamp = encoders.get(name, form.UNKNOWN_ENCODER)
            streams.append(StreamInfo(name, dim, self.precisions[name], content, order, stamp))
        manifest = Manifest(
            version=form.FORMAT_VERSION,
            dataset=dataset,
            split=split,
            n_pairs=len(samples.ids),
            fingerprint=fingerprint,
            streams=tuple(streams),
            sha256={name: sha256(self.directory / name) for name in form.SMALL},
            skipped=tuple(skipped),
            created_by={package: _version(package) for package in PACKAGES},
        )
        with aside(self.directory / form.MANIFEST) as partial:
            partial.write_text(manifest.to_json())
        _publish(self.directory, Path(out), overwrite)


def _write_samples(directory: Path, samples: Samples) -> None:
    """Ids, captions, labels and classes of a store."""
    with aside(directory / form.SAMPLES) as partial, open(partial, "w", encoding="ascii") as file:
        for name, image, caption in zip(samples.ids, samples.image_ids, samples.captions, strict=True):
            file.write(json.dumps({"id": name, "image_id": image, "caption": caption}) + "\n")
    with aside(directory / form.LABELS) as partial, open(partial, "wb") as file:
        sp.save_npz(file, form.clean_labels(samples.labels))
    with aside(directory / form.CLASSES) as partial:
        partial.write_text(json.dumps(samples.classes))


def _publish(directory: Path, out: Path, overwrite: bool) -> None:
    """Rename a whole store to its place; the store that was there, if any, is deleted after that."""
    old = None
    if out.exists():
        _demand_replaceable(out, overwrite)
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))  # nobody else's
        os.rename(out, old)
    os.rename(directory, out)
    sync_folder(out.parent)
    if old:
        shutil.rmtree(old, ignore_errors=True)


def _demand_replaceable(out: Path, overwrite: bool) -> None:
    """Raise FileExistsError unless `out` is an empty folder or a store, and may be overwritten."""
    if not overwrite:
        raise FileExistsError(f"{out}: exists already; delete it, choose another or pass overwrite=True")
    if not out.is_dir() or (any(out.iterdir()) and not (out / form.MANIFEST).exists()):
        raise FileExistsError(
            f"{out}: is no feature store, so it is not overwritten; delete it or choose another"
        )


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
