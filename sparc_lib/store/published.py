"""Imports of what the authors publish: feature files in HDF5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import scipy.sparse as sp

from .format import EncoderStamp, Samples, StoreError
from .reader import FeatureStore
from .writer import StoreWriter

BLOCK = 8192  # rows per read: the files are compressed in chunks


class _Features(NamedTuple):
    path: Path
    dim: int
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

    Rows are aligned by `indices`, the number of the sample (without them: the row number), in ascending order. `ids`,
    `image_ids`, `captions` and `labels` [n_samples, n_classes] are looked up by that number. `only_common`: keep the
    samples that all files have, instead of raising StoreError where they differ.
    """
    sources = {name: _inspect(Path(path), name) for name, path in files.items()}
    if not sources:
        raise StoreError(f"{directory}: no files to import; pass one HDF5 file per stream")
    common = None
    for source in sources.values():
        common = source.indices if common is None else np.intersect1d(common, source.indices)
    for name, source in sources.items():
        extra = np.setdiff1d(source.indices, common)
        if len(extra) and not only_common:
            raise StoreError(
                f"{source.path}: stream '{name}' has {len(extra)} of {len(source.indices)} samples that other streams "
                f"lack (first: {extra[:5].tolist()}); give files of the same split, or only_common=True"
            )
    common = np.sort(common)
    if not len(common):
        raise StoreError(f"{directory}: the files have no sample in common; give files of the same split")
    columns = {"ids": ids, "image_ids": image_ids, "captions": captions}
    for field, column in [*columns.items(), ("labels", labels)]:
        size = None if column is None else column.shape[0] if field == "labels" else len(column)
        if size is not None and size <= common[-1]:
            raise StoreError(
                f"{directory}: '{field}' has {size} entries but the files name sample {common[-1]}; give one "
                "entry per sample number"
            )
    picked = {
        field: None if column is None else [column[i] for i in common] for field, column in columns.items()
    }
    names = picked["ids"] or [str(i) for i in common]
    samples = Samples(
        names,
        picked["image_ids"] or names,
        picked["captions"] or [""] * len(common),
        sp.csr_array((len(common), len(classes)) if labels is None else sp.csr_array(labels)[common]),
        list(classes),
    )
    samples.check(str(directory))
    directory = Path(directory)
    writer = StoreWriter.fresh(
        directory.with_name(directory.name + ".writing"),
        names,
        {name: source.dim for name, source in sources.items()},
    )
    for name, source in sources.items():
        with h5py.File(source.path, "r") as file:
            for start in range(0, len(source.indices), BLOCK):
                sample = source.indices[start : start + BLOCK]
                wanted = np.isin(sample, common)
                if wanted.any():
                    block = file["features"][start : start + len(sample)]
                    writer.write(name, np.searchsorted(common, sample[wanted]), block[wanted])
    writer.finish(directory, samples, encoders or {}, dataset=dataset, split=split, overwrite=overwrite)
    return FeatureStore.open(directory)


def _inspect(path: Path, stream: str) -> _Features:
    if not path.exists():
        raise FileNotFoundError(f"{path}: missing; the HDF5 file of stream '{stream}'")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise StoreError(f"{path}: not a readable HDF5 file ({error}); download it again") from error
    with file:
        if "features" not in file or file["features"].ndim != 2:
            raise StoreError(
                f"{path}: no two-dimensional dataset 'features' (found {list(file)}); is this a feature file?"
            )
        n, dim = file["features"].shape
        indices = file["indices"][:].astype(np.int64) if "indices" in file else np.arange(n)
    if indices.shape != (n,):
        raise StoreError(
            f"{path}: 'indices' has shape {indices.shape} for {n} rows of 'features'; download it again"
        )
    if len(np.unique(indices)) != n:
        raise StoreError(f"{path}: 'indices' names some samples twice; a stream needs one row per sample")
    return _Features(path, dim, indices)
