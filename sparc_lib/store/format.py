"""The typed contents of a feature store: manifest, samples, and what makes them consistent."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

FORMAT_VERSION = 1
MANIFEST, SAMPLES, LABELS, CLASSES = "manifest.json", "samples.jsonl", "labels.npz", "classes.json"


class StoreError(ValueError):
    """A feature store (or what should become one) is inconsistent; the message says what to do."""


@dataclass(frozen=True)
class EncoderStamp:
    """Who made a stream: name, revision (hub commit or hash of the weights), fingerprint of all settings."""

    name: str
    revision: str
    fingerprint: str = ""


UNKNOWN_ENCODER = EncoderStamp("unknown", "unknown")


@dataclass(frozen=True)
class StreamInfo:
    """One stream: `<name>.npy`, [n_pairs, dim]; `ids_sha256` ties its rows to the order of the ids."""

    name: str
    dim: int
    dtype: str
    sha256: str
    ids_sha256: str
    encoder: EncoderStamp


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, the pairs lost with it, and why."""

    image_id: str
    ids: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Manifest:
    """Everything needed to trust a store without reading it all. `file_bytes`: size of every other file."""

    version: int
    dataset: str
    split: str
    n_pairs: int
    fingerprint: str
    streams: tuple[StreamInfo, ...]
    file_bytes: dict[str, int]
    skipped: tuple[Skipped, ...]
    created_by: dict[str, str]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises StoreError, KeyError or TypeError when the text is no manifest of this version."""
        raw = json.loads(text)
        if raw["version"] != FORMAT_VERSION:
            raise StoreError(f"field 'version' is {raw['version']}, this library reads {FORMAT_VERSION}")
        raw["streams"] = tuple(
            StreamInfo(**{**s, "encoder": EncoderStamp(**s["encoder"])}) for s in raw["streams"]
        )
        raw["skipped"] = tuple(Skipped(s["image_id"], tuple(s["ids"]), s["reason"]) for s in raw["skipped"])
        return cls(**raw)


@dataclass(frozen=True)
class Samples:
    """What is known about the n pairs besides their features. `labels`: CSR bool [n, n_classes]."""

    ids: list[str]
    image_ids: list[str]
    captions: list[str]
    labels: sp.csr_array
    classes: list[str]

    def check(self, where: str = "samples") -> None:
        """Raise StoreError where lengths disagree or ids repeat."""
        n = len(self.ids)
        for field in ("image_ids", "captions"):
            if len(getattr(self, field)) != n:
                raise StoreError(
                    f"{where}: field '{field}' has {len(getattr(self, field))} entries for {n} ids; "
                    "give one per pair, in the order of the ids"
                )
        if self.labels.shape != (n, len(self.classes)):
            raise StoreError(
                f"{where}: field 'labels' has shape {self.labels.shape}, expected "
                f"({n}, {len(self.classes)}): one row per pair, one column per class"
            )
        if len(set(self.ids)) != n:
            repeated = Counter(self.ids).most_common(1)[0][0]
            raise StoreError(f"{where}: id {repeated!r} occurs more than once; ids must be unique per pair")

    def take(self, rows: np.ndarray) -> Samples:
        return Samples(
            [self.ids[r] for r in rows],
            [self.image_ids[r] for r in rows],
            [self.captions[r] for r in rows],
            self.labels[rows],
            self.classes,
        )


def clean_labels(labels) -> sp.csr_array:
    """Any matrix [n, C] as boolean CSR with sorted, unique, explicit-True entries."""
    csr = sp.csr_array(labels, copy=True).astype(bool)
    csr.sum_duplicates()
    csr.eliminate_zeros()
    csr.sort_indices()
    return csr


def ids_sha256(ids: Sequence[str]) -> str:
    """Hash of the ids in their order."""
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()
