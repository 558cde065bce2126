"""FeatureStore: aligned, memory-mapped feature streams with ids, captions, labels and a manifest.

A store is a directory:

    manifest.json     who made it, from what, with which encoders; hashes of all files
    <stream>.npy      float16 or float32 [n, d], one row per (image, caption) pair, as the encoder gave it
    samples.jsonl     id, image id and caption per pair
    labels.npz        CSR bool [n, n_classes];  classes.json their display names

Rows are divided by their L2 norm when read, in float32. Uncompressed rows in the page cache (or on the GPU,
`resident`) make fully shuffled batches as cheap as contiguous ones.
"""

from __future__ import annotations

import copy
import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil
import scipy.sparse as sp
import torch
from torch import Tensor

from ..evaluation import Feed
from ..files import disk_full_explained, sha256
from ..inputs import real_numbers
from . import format as form
from .format import EncoderStamp, Manifest, Samples, StoreError, StreamInfo
from .writer import StoreWriter

BLOCK = 8192  # rows at a time


class FeatureStore(Feed):
    """Features [n, d_s] of n (image, caption) pairs in every stream s. Use `open` or `create`.

    streams: their names in order, dims {stream: d}; ids, image_ids, captions: text, one a pair; labels: CSR
    bool [n, n_classes] with the names `classes`.
    """

    def __init__(self, directory: Path, manifest: Manifest, samples: Samples):
        self.directory, self.manifest, self.samples = directory, manifest, samples
        self.streams = tuple(stream.name for stream in manifest.streams)
        self.dims = {stream.name: stream.dim for stream in manifest.streams}
        self.ids, self.image_ids, self.captions = samples.ids, samples.image_ids, samples.captions
        self.labels, self.classes = samples.labels, samples.classes
        self._arrays: dict[str, np.memmap] = {}
        self._source: dict[str, Tensor] = {}
        for stream in manifest.streams:
            array = _array(directory, stream, manifest.n_pairs)
            self._source[stream.name] = torch.from_numpy(array)
            array.flags.writeable = False
            self._arrays[stream.name] = array

    @classmethod
    def open(cls, directory: str | Path, expect: Mapping[str, str] | None = None) -> FeatureStore:
        """Open a finished store after checking manifest, samples, labels, shapes and the order of ids.

        What is small is compared with its hash; features are by `verify`. `expect`: stream -> revision (or
        fingerprint) of the encoder the caller is going to use with it. Raises FileNotFoundError for a missing
        file and StoreError for everything else.
        """
        directory = Path(directory)
        manifest = _read_manifest(directory / form.MANIFEST)
        samples = _read_samples(directory, manifest)
        order = form.ids_sha256(samples.ids)
        for stream in manifest.streams:
            if stream.ids_sha256 != order:
                raise StoreError(
                    f"{directory / stream.name}.npy: is of another order of ids than samples.jsonl: "
                    "streams of different stores do not mix; extract again"
                )
        store = cls(directory, manifest, samples)
        for name, wanted in (expect or {}).items():
            made_by = store.stream(name).encoder
            if wanted not in (made_by.revision, made_by.fingerprint):
                made_with = f"revision '{made_by.revision}' (fingerprint '{made_by.fingerprint}')"
                raise StoreError(
                    f"{directory / form.MANIFEST}: stream '{name}' comes from {made_by.name} {made_with}, "
                    f"expected '{wanted}'; load that revision of the encoder or extract again"
                )
        return store

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
        overwrite: bool = False,
    ) -> FeatureStore:
        """Write a store from arrays or tensors `features[stream]` [n, d_s] and open it.

        float16 stays float16; other features are kept as float32. `labels`: [n, len(classes)], sparse or
        dense. Raises StoreError on any disagreement, DiskFullError.
        """
        directory = Path(directory)
        try:
            samples = Samples.of(ids, image_ids, captions, labels, classes)
            features = {
                name: real_numbers(x if hasattr(x, "dtype") else np.asarray(x), f"stream '{name}'")
                for name, x in features.items()
            }
        except ValueError as error:
            raise StoreError(f"{directory}: {error}") from error
        samples.check(str(directory))
        for name, array in features.items():
            if np.ndim(array) != 2 or len(array) != len(samples.ids):
                shape = f"{tuple(np.shape(array))} for {len(samples.ids)} ids"
                raise StoreError(f"{directory}: stream '{name}' has shape {shape}; give one row per pair")
        with disk_full_explained(directory):
            writer = StoreWriter(
                directory.with_name(directory.name + ".writing"),
                samples.ids,
                {name: int(array.shape[1]) for name, array in features.items()},
                {name: precision_of(array.dtype) for name, array in features.items()},
            )
            for name, array in features.items():
                for start in range(0, len(samples.ids), BLOCK):
                    block = torch.as_tensor(array[start : start + BLOCK]).detach().float().cpu().numpy()
                    writer.write(name, np.arange(start, start + len(block)), block)
            writer.finish(
                directory, samples, encoders or {}, dataset=dataset, split=split, overwrite=overwrite
            )
        return cls.open(directory)

    def __len__(self) -> int:
        return self.manifest.n_pairs

    def __getitem__(self, stream: str) -> np.memmap:
        """The stored features [n, d], not normalised, read-only."""
        return self._arrays[self.stream(stream).name]

    def stream(self, name: str) -> StreamInfo:
        """What the manifest says of a stream. Raises KeyError."""
        for stream in self.manifest.streams:
            if stream.name == name:
                return stream
        raise KeyError(f"{self.directory}: no stream '{name}'; this store has {list(self.streams)}")

    @property
    def digest(self) -> str:
        """Short hash of the content (the manifest holds the hash of every file), to key caches with."""
        return hashlib.sha256(self.manifest.to_json().encode()).hexdigest()[:16]

    def tensors(self, rows=None, device="cpu", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Features of `rows` (default all) per stream, [len(rows), d], divided by their L2 norm."""
        if rows is not None:
            rows = torch.from_numpy(np.arange(len(self))[rows])
        return self.gather(rows, device, dtype)

    def gather(
        self, rows: Tensor | None, device="cpu", dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """As `tensors`, for row numbers as a long tensor."""
        work = torch.float64 if dtype == torch.float64 else torch.float32
        gathered = {}
        for name, source in self._source.items():
            picked = source if rows is None else source.index_select(0, rows.to(source.device))
            picked = picked.to(device, non_blocking=True).to(work)
            gathered[name] = (picked / torch.linalg.vector_norm(picked, dim=1, keepdim=True)).to(dtype)
        return gathered

    @property
    def device(self) -> torch.device:
        """Where the samples lie: "cpu" for a memory-mapped store."""
        return next(iter(self._source.values())).device

    def resident(self, device="cpu") -> FeatureStore:
        """The same store with its streams held in memory on `device`; same batches, bit for bit.

        Raises MemoryError when they do not fit.
        """
        need, free = sum(array.nbytes for array in self._arrays.values()), free_bytes(torch.device(device))
        if need > free:
            raise MemoryError(
                f"{self.directory}: {need / 2**30:.1f} GiB of features do not fit into "
                f"{free / 2**30:.1f} GiB free on {device}; keep the memory-mapped store"
            )
        held = copy.copy(self)
        held._source = {
            name: torch.from_numpy(np.array(array)).to(device) for name, array in self._arrays.items()
        }
        return held

    def verify(self) -> None:
        """Read everything: hashes of all files, NaN/inf and zero rows. Raises StoreError."""
        _read_samples(self.directory, self.manifest)
        for stream in self.manifest.streams:
            path, array = self.directory / f"{stream.name}.npy", self._arrays[stream.name]
            for start in range(0, len(self), BLOCK):
                block = array[start : start + BLOCK]
                bad = np.flatnonzero(~np.isfinite(block).all(1) | ~block.any(1))
                if len(bad):
                    raise StoreError(
                        f"{path}: row {start + bad[0]} (id {self.ids[start + bad[0]]!r}) is NaN, infinite or "
                        f"all zero; delete {self.directory} and extract again"
                    )
            _demand_hash(path, stream.sha256)


def precision_of(dtype) -> form.Precision:
    """How features of a NumPy or torch type are stored. Raises StoreError for what are no real numbers."""
    name = str(getattr(dtype, "name", dtype)).removeprefix("torch.")  # a NumPy name holds no byte order
    if not name.startswith(("float", "bfloat", "int", "uint")):
        raise StoreError(f"features of type {name}: give real numbers, as float16 or float32")
    return "float16" if name == "float16" else "float32"


def _array(directory: Path, stream: StreamInfo, n_pairs: int) -> np.memmap:
    """A stream's features [n, d], mapped copy-on-write: torch wants writable memory, the file stays."""
    path = directory / f"{stream.name}.npy"
    try:
        array = np.load(path, mmap_mode="c")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: missing; delete {directory} and extract again") from error
    except (ValueError, EOFError) as error:
        raise StoreError(f"{path}: no whole array ({error}); delete {directory} and extract again") from error
    if array.shape != (n_pairs, stream.dim) or array.dtype != np.dtype(stream.dtype):
        raise StoreError(
            f"{path}: {array.dtype} {array.shape}, the manifest says {stream.dtype} "
            f"({n_pairs}, {stream.dim}); streams must have one row per pair. Extract again"
        )
    return array


def _read_manifest(path: Path) -> Manifest:
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: missing; {path.parent} is no finished feature store. Run the extraction "
            "(notebook 01), which resumes unfinished work"
        )
    try:
        return Manifest.from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(
            f"{path}: not a valid manifest ({error}); delete {path.parent} and extract again"
        ) from error


def _demand_hash(path: Path, expected: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: missing; delete {path.parent} and extract again")
    if sha256(path) != expected:
        raise StoreError(
            f"{path}: its sha256 is not the manifest's (cut, altered or swapped); delete {path.parent} and "
            "extract again"
        )


def _read_samples(directory: Path, manifest: Manifest) -> Samples:
    """Samples, labels and classes, if they are those of the manifest."""
    for name in form.SMALL:
        _demand_hash(directory / name, manifest.sha256.get(name, "none"))
    try:
        with open(directory / form.SAMPLES, encoding="ascii", newline="\n") as file:
            lines = [json.loads(line) for line in file]
        columns = [[line[key] for line in lines] for key in ("id", "image_id", "caption")]
        labels = sp.csr_array(sp.load_npz(directory / form.LABELS))
        labels.check_format(full_check=True)
        samples = Samples(*columns, labels, json.loads((directory / form.CLASSES).read_text()))
        samples.check(str(directory / form.SAMPLES))
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise StoreError(
            f"{directory}: samples, labels or classes are unreadable ({error}); extract again"
        ) from error
    if len(samples.ids) != manifest.n_pairs:
        raise StoreError(
            f"{directory / form.SAMPLES}: {len(samples.ids)} pairs, the manifest says {manifest.n_pairs}; "
            "extract again"
        )
    return samples


def free_bytes(device: torch.device) -> int:
    """Free memory in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
