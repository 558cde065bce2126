"""Imports of what the authors publish: feature files in HDF5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from ..files import disk_full_explained
from ..inputs import listed
from .format import EncoderStamp, Precision, Samples, StoreError, clean_labels
from .reader import BLOCK, FeatureStore, precision_of
from .writer import StoreWriter


class _Source(NamedTuple):
    path: Path
    dim: int
    precision: Precision
    indices: np.ndarray  # [N] sample number of every row


def import_hdf5(
    directory: str | Path,
    files: Mapping[str, str | Path],
    *,
    ids: Sequence[str] | None = None,
    image_ids: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    labels=None,
    classes: Sequence[str] = (),
    dataset: str = "published",
    split: str = "all",
    encoders: Mapping[str, EncoderStamp] | None = None,
    only_common: bool = False,
    overwrite: bool = False,
) -> FeatureStore:
    """A FeatureStore from one HDF5 file per stream: dataset `features` [N, d] and, optionally, `indices` [N].

    Features keep their precision. Rows are aligned by `indices`, the number of the sample (without them: the
    row number), in ascending order. `ids`, `image_ids`, `captions` and `labels` [n_samples, n_classes] are
    looked up by that number. `only_common`: keep the samples that all files have, instead of raising
    StoreError where they differ.
    """
    directory = Path(directory)
    sources = {name: _inspect(Path(path), name) for name, path in files.items()}
    common = _common_samples(directory, sources, only_common)
    columns = {"ids": ids, "image_ids": image_ids, "captions": captions}
    for field, column in columns.items():
        if column is not None:
            column = listed(column, f"field '{field}'")  # a Series would be looked up by its index
            columns[field] = [column[i] for i in _covered(field, len(column), common)]
    if labels is not None:
        labels = clean_labels(labels)
        labels = labels[_covered("labels", labels.shape[0], common)]
    columns["ids"] = columns["ids"] or [str(i) for i in common]
    samples = Samples.of(**columns, labels=labels, classes=classes)
    samples.check(str(directory))
    with disk_full_explained(directory):
        writer = StoreWriter(
            directory.with_name(directory.name + ".writing"),
            samples.ids,
            {name: source.dim for name, source in sources.items()},
            {name: source.precision for name, source in sources.items()},
        )
        for name, source in sources.items():
            _copy(source, name, common, writer)
        writer.finish(directory, samples, encoders or {}, dataset=dataset, split=split, overwrite=overwrite)
    return FeatureStore.open(directory)


def _inspect(path: Path, stream: str) -> _Source:
    """Size, precision and sample numbers of one file. Raises FileNotFoundError, StoreError."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: missing; the HDF5 file of stream '{stream}'")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise StoreError(f"{path}: not a readable HDF5 file ({error}); download it again") from error
    with file:
        if not isinstance(file.get("features"), h5py.Dataset) or file["features"].ndim != 2:
            raise StoreError(
                f"{path}: no two-dimensional dataset 'features' (found {list(file)}); is this a feature file?"
            )
        n, dim = file["features"].shape
        try:
            precision = precision_of(file["features"].dtype)
            stored = file["indices"][()] if "indices" in file else np.arange(n)
        except (StoreError, OSError, TypeError) as error:
            raise StoreError(f"{path}: {error}; is this a feature file?") from error
    if stored.shape != (n,):
        raise StoreError(
            f"{path}: 'indices' has shape {stored.shape} for {n} rows of 'features'; download it again"
        )
    if stored.dtype.kind not in "iu" or (n and not 0 <= int(stored.min()) <= int(stored.max()) < 2**62):
        raise StoreError(f"{path}: 'indices' ({stored.dtype}) must be whole numbers of samples, from 0 on")
    indices = stored.astype(np.int64)
    if len(np.unique(indices)) != n:
        raise StoreError(f"{path}: 'indices' names some samples twice; a stream needs one row per sample")
    return _Source(path, dim, precision, indices)


def _common_samples(directory: Path, sources: Mapping[str, _Source], only_common: bool) -> np.ndarray:
    """Numbers of the samples that all files have, ascending. Raises StoreError."""
    if not sources:
        raise StoreError(f"{directory}: no files to import; pass one HDF5 file per stream")
    common = None
    for source in sources.values():
        common = source.indices if common is None else np.intersect1d(common, source.indices)
    for name, source in sources.items():
        extra = np.setdiff1d(source.indices, common)
        if len(extra) and not only_common:
            raise StoreError(
                f"{source.path}: stream '{name}' has {len(extra)} of {len(source.indices)} samples "
                f"that others lack, first {extra[:5].tolist()}; give files of one split, or only_common=True"
            )
    if not len(common):
        raise StoreError(f"{directory}: the files have no sample in common; give files of the same split")
    return np.sort(common)


def _covered(field: str, size: int, common: np.ndarray) -> np.ndarray:
    """`common`, if a column of this size covers it. Raises StoreError."""
    if size <= common[-1]:
        raise StoreError(
            f"'{field}' has {size} entries but the files name sample {common[-1]}; give one each"
        )
    return common


def _copy(source: _Source, stream: str, common: np.ndarray, writer: StoreWriter) -> None:
    """The rows of the samples in `common`, in their order, read in blocks as the files are compressed."""
    with h5py.File(source.path, "r") as file:
        for start in range(0, len(source.indices), BLOCK):
            numbers = source.indices[start : start + BLOCK]
            wanted = np.isin(numbers, common)
            if wanted.any():
                try:
                    block = file["features"][start : start + len(numbers)]
                except OSError as error:
                    raise StoreError(f"{source.path}: damaged ({error}); download it again") from error
                writer.write(stream, np.searchsorted(common, numbers[wanted]), block[wanted])
