"""The typed contents of a feature store: manifest, samples, and what makes them consistent."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import scipy.sparse as sp
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ..alignment import as_csr
from ..inputs import listed
from ..model import stream_name
from ..profiles import STRICT

FORMAT_VERSION = 2
MANIFEST, SAMPLES, LABELS, CLASSES = "manifest.json", "samples.jsonl", "labels.npz", "classes.json"
SMALL = (SAMPLES, LABELS, CLASSES)  # files that are hashed when a store is opened
Precision = Literal["float16", "float32"]
StreamName = Annotated[str, AfterValidator(stream_name)]
Count = Annotated[int, Field(ge=1)]


class StoreError(ValueError):
    """A feature store (or what should become one) is inconsistent; the message says what to do."""


@dataclass(frozen=True, config=STRICT)
class EncoderStamp:
    """Who made a stream: name, revision (hub commit or hash of the weights), fingerprint of all settings."""

    name: str
    revision: str
    fingerprint: str = ""


UNKNOWN_ENCODER = EncoderStamp("unknown", "unknown")


@dataclass(frozen=True, config=STRICT)
class StreamInfo:
    """One stream: `<name>.npy`, [n_pairs, dim]; `ids_sha256` ties its rows to the order of the ids."""

    name: StreamName
    dim: Count
    dtype: Precision
    sha256: str
    ids_sha256: str
    encoder: EncoderStamp


@dataclass(frozen=True, config=STRICT)
class Skipped:
    """An image that could not be read, the pairs lost with it, and why."""

    image_id: str
    ids: tuple[str, ...]
    reason: str


@dataclass(frozen=True, config=STRICT)
class Manifest:
    """Everything needed to trust a store without reading it all. sha256: of samples, labels and classes."""

    version: Literal[2]
    dataset: str
    split: str
    n_pairs: Count
    fingerprint: str
    streams: Annotated[tuple[StreamInfo, ...], Field(min_length=1)]
    sha256: dict[Literal["samples.jsonl", "labels.npz", "classes.json"], str]
    skipped: tuple[Skipped, ...]
    created_by: dict[str, str]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises StoreError when the text is no manifest of this version."""
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            faults = [f"field {'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
            raise StoreError("; ".join(faults[:5])) from error


@dataclasses.dataclass(frozen=True)
class Samples:
    """What is known about the n pairs besides their features. `labels`: CSR bool [n, n_classes]."""

    ids: list[str]
    image_ids: list[str]
    captions: list[str]
    labels: sp.csr_array
    classes: list[str]

    @classmethod
    def of(cls, ids, image_ids=None, captions=None, labels=None, classes=()) -> Samples:
        """Samples of ids [n]. None: image ids are the ids, captions and labels are empty."""
        ids, classes = listed(ids, "field 'ids'"), listed(classes, "field 'classes'")
        n = len(ids)
        labels = sp.csr_array((n, len(classes))) if labels is None else labels
        image_ids = ids if image_ids is None else listed(image_ids, "field 'image_ids'")
        captions = [""] * n if captions is None else listed(captions, "field 'captions'")
        return cls(ids, image_ids, captions, clean_labels(labels), classes)

    def check(self, where: str = "samples") -> None:
        """Raise StoreError where lengths disagree, text is no text, or ids repeat."""
        n = len(self.ids)
        if not n:
            raise StoreError(f"{where}: a feature store needs at least one pair")
        for field in ("ids", "image_ids", "captions", "classes"):
            column = getattr(self, field)
            if field != "classes" and len(column) != n:
                raise StoreError(
                    f"{where}: field '{field}' has {len(column)} entries for {n} ids; give one each"
                )
            kinds = sorted({type(entry).__name__ for entry in column if not isinstance(entry, str)})
            if kinds:
                raise StoreError(f"{where}: field '{field}' holds {', '.join(kinds)}; give text (str)")
        shape = n, len(self.classes)
        if self.labels.shape != shape:
            raise StoreError(
                f"{where}: field 'labels' has shape {self.labels.shape}, not [ids, classes] = {shape}"
            )
        repeated, times = Counter(self.ids).most_common(1)[0]
        if times > 1:
            raise StoreError(f"{where}: id {repeated!r} occurs more than once; ids must be unique per pair")

    def take(self, rows: np.ndarray) -> Samples:
        """The pairs `rows` in their order."""
        columns = [[column[row] for row in rows] for column in (self.ids, self.image_ids, self.captions)]
        return Samples(*columns, self.labels[rows], self.classes)


def clean_labels(labels) -> sp.csr_array:
    """Any matrix [n, C] as boolean CSR with sorted, unique, explicit-True entries. ValueError for NaN."""
    return as_csr(labels, "labels").astype(bool)


def ids_sha256(ids: Sequence[str]) -> str:
    """Hash of the ids in their order."""
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()
