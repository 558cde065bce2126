"""FeatureStore: aligned, memory-mapped feature streams with ids, captions, labels and a manifest.

A store is a directory:

    manifest.json     who made it, from what, with which encoders; sizes and hashes
    <stream>.npy      float16 [n, d], one row per (image, caption) pair, as the encoder gave it
    samples.jsonl     id, image id and caption per pair
    labels.npz        CSR bool [n, n_classes];  classes.json their display names

Rows are divided by their L2 norm when read, in float32. Uncompressed rows in the page cache (or on
the GPU, `resident`) make fully shuffled batches as cheap as contiguous ones.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ..files import sha256 as file_sha256
from .format import (
    CLASSES,
    LABELS,
    MANIFEST,
    SAMPLES,
    EncoderStamp,
    Manifest,
    Samples,
    StoreError,
    StreamInfo,
    ids_sha256,
)
from .writer import StoreWriter

__all__ = ["FeatureStore", "StoreError", "EncoderStamp", "Manifest", "Samples", "epoch_permutation"]


def epoch_permutation(n: int, seed: int, epoch: int) -> Tensor:
    """The order of epoch `epoch`: a permutation [n] fixed by (n, seed, epoch), so training can resume in mid-epoch."""
    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
    return torch.randperm(n, generator=torch.Generator().manual_seed(mixed))


class FeatureStore:
    """Features [n, d_s] of n (image, caption) pairs in every stream s. Use `open` or `create`."""

    def __init__(self, directory: Path, manifest: Manifest, samples: Samples):
        self.directory, self.manifest, self.samples = directory, manifest, samples
        self._arrays = {s.name: np.load(directory / f"{s.name}.npy", mmap_mode="r") for s in manifest.streams}
        # A copy-on-write map: torch wants writable memory, the file stays untouched.
        self._source = {
            s.name: torch.from_numpy(np.load(directory / f"{s.name}.npy", mmap_mode="c"))
            for s in manifest.streams
        }

    @classmethod
    def open(cls, directory: str | Path, expect: Mapping[str, str] | None = None) -> FeatureStore:
        """Open a finished store after checking manifest, file sizes, shapes and the order of ids.

        `expect`: stream -> revision (or fingerprint) of the encoder the caller is going to use with it.
        Raises FileNotFoundError for a missing file and StoreError for everything else.
        """
        directory = Path(directory)
        manifest = _read_manifest(directory / MANIFEST)
        for name, size in manifest.file_bytes.items():
            path = directory / name
            if not path.exists():
                raise FileNotFoundError(
                    f"{path}: missing; the manifest lists it. Delete {directory} and extract again"
                )
            if path.stat().st_size != size:
                raise StoreError(
                    f"{path}: {path.stat().st_size} bytes, the manifest says {size} (truncated or replaced);"
                    f" delete {directory} and extract again"
                )
        samples = _read_samples(directory, manifest)
        order = ids_sha256(samples.ids)
        for stream in manifest.streams:
            path = directory / f"{stream.name}.npy"
            try:
                array = np.load(path, mmap_mode="r")
            except ValueError as error:
                raise StoreError(
                    f"{path}: no array ({error}); delete {directory} and extract again"
                ) from error
            if array.shape != (manifest.n_pairs, stream.dim) or array.dtype != np.dtype(stream.dtype):
                raise StoreError(
                    f"{path}: {array.dtype} {array.shape}, the manifest says {stream.dtype} "
                    f"({manifest.n_pairs}, {stream.dim}); streams must have one row per pair. Extract again"
                )
            if stream.ids_sha256 != order:
                raise StoreError(
                    f"{path}: was written for another order of ids than {directory / SAMPLES}; "
                    "streams of different stores cannot be mixed. Extract again"
                )
        for name, wanted in (expect or {}).items():
            found = _stream(manifest, name, directory).encoder
            if wanted not in (found.revision, found.fingerprint):
                raise StoreError(
                    f"{directory / MANIFEST}: stream '{name}' comes from {found.name} revision "
                    f"'{found.revision}' (fingerprint '{found.fingerprint}'), expected '{wanted}'; load that "
                    "revision of the encoder or extract again"
                )
        return cls(directory, manifest, samples)

    @classmethod
    def create(
        cls,
        directory: str | Path,
        features: Mapping[str, np.ndarray | Tensor],
        *,
        ids: Sequence[str],
        image_ids: Sequence[str] | None = None,
        captions: Sequence[str] | None = None,
        labels=None,
        classes: Sequence[str] = (),
        dataset: str = "unnamed",
        split: str = "all",
        encoders: Mapping[str, EncoderStamp] | None = None,
        stream_ids: Mapping[str, Sequence[str]] | None = None,
        overwrite: bool = False,
    ) -> FeatureStore:
        """Write a store from arrays `features[stream]` [n, d_s] and open it.

        `labels`: [n, len(classes)], sparse or dense. `stream_ids`: the ids each array was computed for, if
        known; they must equal `ids` in length and order. Raises StoreError on any disagreement.
        """
        directory = Path(directory)
        samples = Samples(
            list(ids),
            list(ids if image_ids is None else image_ids),
            [""] * len(ids) if captions is None else list(captions),
            sp.csr_array((len(ids), len(classes)) if labels is None else labels),
            list(classes),
        )
        samples.check(str(directory))
        for name, array in features.items():
            if np.ndim(array) != 2 or len(array) != len(ids):
                raise StoreError(
                    f"{directory}: stream '{name}' has shape {tuple(np.shape(array))} for {len(ids)} ids; "
                    "every stream needs one row per pair"
                )
            if stream_ids and name in stream_ids and list(stream_ids[name]) != samples.ids:
                raise StoreError(
                    f"{directory}: stream '{name}' has its rows in another order than 'ids'; "
                    "reorder its rows, or import with sparc_lib.store.published.import_hdf5"
                )
        writer = StoreWriter.fresh(
            directory.with_name(directory.name + ".writing"),
            samples.ids,
            {name: int(np.shape(array)[1]) for name, array in features.items()},
        )
        for name, array in features.items():
            for start in range(0, len(ids), 8192):
                block = np.asarray(array[start : start + 8192], dtype=np.float32)
                writer.write(name, np.arange(start, start + len(block)), block)
        writer.finish(directory, samples, encoders or {}, dataset=dataset, split=split, overwrite=overwrite)
        return cls.open(directory)

    def __len__(self) -> int:
        return self.manifest.n_pairs

    def __getitem__(self, stream: str) -> np.memmap:
        """The stored features [n, d], float16, not normalised, read-only."""
        _stream(self.manifest, stream, self.directory)
        return self._arrays[stream]

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.manifest.streams)

    @property
    def dims(self) -> dict[str, int]:
        return {s.name: s.dim for s in self.manifest.streams}

    @property
    def ids(self) -> list[str]:
        return self.samples.ids

    @property
    def image_ids(self) -> list[str]:
        return self.samples.image_ids

    @property
    def captions(self) -> list[str]:
        return self.samples.captions

    @property
    def labels(self) -> sp.csr_array:
        return self.samples.labels

    @property
    def classes(self) -> list[str]:
        return self.samples.classes

    @property
    def digest(self) -> str:
        """Short hash of the content (the manifest holds the hash of every array), to key caches with."""
        return hashlib.sha256(self.manifest.to_json().encode()).hexdigest()[:16]

    def tensors(self, rows=None, device="cpu", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Features of `rows` (default all) per stream, [len(rows), d], divided by their L2 norm."""
        if rows is not None:
            rows = torch.from_numpy(np.arange(len(self))[rows])
        return {name: self._gather(source, rows, device, dtype) for name, source in self._source.items()}

    def batches(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        shuffle: bool = True,
        device="cpu",
        drop_last: bool = False,
        order: Tensor | None = None,
        start: int = 0,
    ) -> Iterator[dict[str, Tensor]]:
        """Batches {stream: [batch, d]}, float32, divided by their L2 norm; fully shuffled over the store.

        `generator`: seeds the shuffle (None: torch's default generator, as in DataLoader). `order`: row numbers
        to walk instead, for example `epoch_permutation(...)`. `start`: number of batches to leave out, to resume.
        """
        if order is None:
            order = torch.randperm(len(self), generator=generator) if shuffle else torch.arange(len(self))
        end = len(order) - len(order) % batch_size if drop_last else len(order)
        for begin in range(start * batch_size, end, batch_size):
            rows = order[begin : begin + batch_size]
            yield {
                name: self._gather(source, rows, device, torch.float32)
                for name, source in self._source.items()
            }

    def resident(self, device="cpu", dtype: torch.dtype = torch.float16) -> FeatureStore:
        """The same store with its streams held in memory on `device`, as float16 or float32; same batches, bit for bit.

        Raises MemoryError when they do not fit.
        """
        if dtype not in (torch.float16, torch.float32):
            raise ValueError(f"dtype must be torch.float16 or torch.float32, got {dtype}")
        need, free = len(self) * sum(self.dims.values()) * dtype.itemsize, free_bytes(torch.device(device))
        if free is not None and need > free:
            raise MemoryError(
                f"{self.directory}: {need / 2**30:.1f} GiB of features do not fit into "
                f"{free / 2**30:.1f} GiB free on {device}; keep the memory-mapped store, or use float16"
            )
        twin = copy.copy(self)
        twin._source = {
            name: torch.from_numpy(np.array(array)).to(device, dtype) for name, array in self._arrays.items()
        }
        return twin

    def verify(self) -> None:
        """Read everything: hashes of all arrays, NaN/inf and zero rows. Raises StoreError."""
        for stream in self.manifest.streams:
            path, array = self.directory / f"{stream.name}.npy", self._arrays[stream.name]
            for start in range(0, len(self), 8192):
                block = array[start : start + 8192]
                bad = np.flatnonzero(~np.isfinite(block).all(1) | ~block.any(1))
                if len(bad):
                    raise StoreError(
                        f"{path}: row {start + bad[0]} (id {self.ids[start + bad[0]]!r}) is NaN, infinite or "
                        f"all zero; delete {self.directory} and extract again"
                    )
            if file_sha256(path) != stream.sha256:
                raise StoreError(
                    f"{path}: its sha256 is not the manifest's; delete {self.directory} and extract again"
                )

    @staticmethod
    def _gather(source: Tensor, rows: Tensor | None, device, dtype: torch.dtype) -> Tensor:
        picked = source if rows is None else source.index_select(0, rows.to(source.device))
        work = torch.float64 if dtype == torch.float64 else torch.float32
        picked = picked.to(device, non_blocking=True).to(work)
        return (picked / torch.linalg.vector_norm(picked, dim=1, keepdim=True)).to(dtype)


def _read_manifest(path: Path) -> Manifest:
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: missing; {path.parent} is no finished feature store. Run the extraction "
            "(notebook 01), which resumes unfinished work"
        )
    try:
        return Manifest.from_json(path.read_text())
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path}: not a valid manifest ({error}); delete {path.parent} and extract again"
        ) from error


def _read_samples(directory: Path, manifest: Manifest) -> Samples:
    try:
        with open(directory / SAMPLES, encoding="utf-8", newline="\n") as file:
            lines = [json.loads(line) for line in file]
        columns = [[line[key] for line in lines] for key in ("id", "image_id", "caption")]
        labels, classes = sp.load_npz(directory / LABELS), json.loads((directory / CLASSES).read_text())
        samples = Samples(*columns, sp.csr_array(labels), classes)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{directory}: samples, labels or classes are unreadable ({error}); extract again"
        ) from error
    if len(samples.ids) != manifest.n_pairs:
        raise StoreError(
            f"{directory / SAMPLES}: {len(samples.ids)} pairs, the manifest says {manifest.n_pairs}; "
            "extract again"
        )
    samples.check(str(directory / SAMPLES))
    return samples


def _stream(manifest: Manifest, name: str, directory: Path) -> StreamInfo:
    for stream in manifest.streams:
        if stream.name == name:
            return stream
    raise KeyError(f"{directory}: no stream '{name}'; this store has {[s.name for s in manifest.streams]}")


def free_bytes(device: torch.device) -> int | None:
    """Free memory in bytes; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    return None
