"""Open Images V7 with Localized Narratives, the data of the paper: 507,444 + 41,691 + 126,020 captioned images.

Labels are the human-verified ones of the 601 boxable classes (Confidence 1). A folder laid out as here needs no
network:

    oidv7-class-descriptions-boxable.csv   bbox_labels_600_hierarchy.json
    {train,validation,test}-annotations-human-imagelabels-boxable.csv
    open_images_{train_v6,validation,test}_captions.jsonl
    {train,validation,test}/<image id>.jpg

A mirror or an excerpt is described by `source.json` in that folder, with any fields of `Source`.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..taxonomy import Taxonomy, read_class_descriptions
from .download import KnownFile, RemoteFile, obtain
from .photographs import DataError, Limits, Pairs, PhotoDataset, label_matrix, limited

log = logging.getLogger(__name__)
CLASSES, HIERARCHY, SOURCE = (
    "oidv7-class-descriptions-boxable.csv",
    "bbox_labels_600_hierarchy.json",
    "source.json",
)
FOLDERS = {"train": "train", "val": "validation", "test": "test"}  # our split -> theirs
CAPTIONS = {
    "train": "open_images_train_v6_captions.jsonl",
    "val": "open_images_validation_captions.jsonl",
    "test": "open_images_test_captions.jsonl",
}
GOOGLE = "https://storage.googleapis.com"
CHUNK = 1_000_000  # rows of the label table in memory at a time


@dataclass(frozen=True)
class Source:
    """Where the data set is published, and the captions each split has. The defaults are Open Images itself."""

    name: str = "open_images"
    classes: str = f"{GOOGLE}/openimages/v7/{CLASSES}"
    hierarchy: str = f"{GOOGLE}/openimages/2018_04/{HIERARCHY}"
    labels: str = f"{GOOGLE}/openimages/v5"
    captions: str = f"{GOOGLE}/localized-narratives/annotations"
    images: str = "https://open-images-dataset.s3.amazonaws.com"
    train: int = 507_444
    val: int = 41_691
    test: int = 126_020

    @classmethod
    def of(cls, folder: Path) -> Source:
        """The source that `source.json` in the folder describes, else the published one. Raises DataError."""
        path = folder / SOURCE
        if not path.exists():
            return cls()
        kinds = {field.name: type(field.default) for field in fields(cls)}
        try:
            raw = json.loads(path.read_text())
            wrong = [name for name, value in raw.items() if type(value) is not kinds.get(name)]
        except (ValueError, AttributeError) as error:
            raise DataError(f"{path}: not a JSON object ({error}); mend or delete it") from error
        if wrong or "name" not in raw:
            raise DataError(
                f"{path}: field {', '.join(wrong) or 'name'} is unknown, missing or of the wrong type; "
                f"known are "
                f"{', '.join(f'{name} ({kind.__name__})' for name, kind in kinds.items())}, and name is a "
                f"must"
            )
        log.warning("%s: this is %r, not the published data set", path, raw["name"])
        return cls(**raw)


class Files(NamedTuple):
    """The four verified files behind one split."""

    classes: KnownFile
    hierarchy: KnownFile
    labels: KnownFile
    captions: KnownFile


def files(folder: str | Path, split: str) -> Files:
    """Get and verify what a split needs besides its images. Raises FileNotFoundError, HashError, OSError (ENOSPC)."""
    folder, source = Path(folder), Source.of(Path(folder))
    table = f"{_folder(split)}-annotations-human-imagelabels-boxable.csv"
    return Files(
        *(
            obtain(folder, file)
            for file in (
                RemoteFile(CLASSES, source.classes),
                RemoteFile(HIERARCHY, source.hierarchy),
                RemoteFile(table, f"{source.labels}/{table}"),
                RemoteFile(CAPTIONS[split], f"{source.captions}/{CAPTIONS[split]}"),
            )
        )
    )


def load(folder: str | Path, split: str, limits: Limits = Limits()) -> PhotoDataset:
    """The pairs of a split; the id of a pair is `split/image/number of the caption among the image's`.

    Classes are display names, sorted. Raises what `files` raises, and DataError for a file of another shape.
    """
    folder, found, source = Path(folder), files(folder, split), Source.of(Path(folder))
    names = class_names(folder)
    pairs, skipped = read_captions(found.captions.path, getattr(source, split), split)
    pairs = limited(pairs, limits)
    codes = sorted(names, key=names.get)
    labels = label_matrix(
        pairs.image_ids, read_labels(found.labels.path, set(pairs.image_ids), codes), len(codes)
    )
    places = [f"{_folder(split)}/{image}.jpg" for image in pairs.image_ids]
    return PhotoDataset(
        source.name,
        split,
        pairs,
        labels,
        [names[code] for code in codes],
        [folder / place for place in places],
        [f"{source.images}/{place}" for place in places],
        skipped,
    )


def class_names(folder: str | Path) -> dict[str, str]:
    """{LabelName: DisplayName} of the boxable classes, in file order. Raises DataError if two share a display name."""
    source = Source.of(Path(folder))
    path = obtain(folder, RemoteFile(CLASSES, source.classes)).path
    names = read_class_descriptions(path)
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice or not names:
        reason = f"display name {twice[0]!r} belongs to several classes" if twice else "no classes"
        raise DataError(f"{path}: {reason}; download the file again")
    return names


def hierarchy(folder: str | Path) -> dict:
    """The class tree as published: LabelName, Subcategory, Part."""
    path = obtain(folder, RemoteFile(HIERARCHY, Source.of(Path(folder)).hierarchy)).path
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); delete it and run again") from error


def read_captions(path: Path, rows: int, split: str) -> tuple[Pairs, list[str]]:
    """The captions of a Localized Narratives file, and the lines that could not be read ("line 7: reason").

    rows: how many the file must have. Raises DataError when it has another number or ends in the middle of a line.
    """
    pairs, skipped, seen, count, line = Pairs([], [], []), [], Counter(), 0, b""
    with open(path, "rb") as file:
        for line in file:
            count += 1
            try:
                record = json.loads(line)
                image, caption = record["image_id"], record["caption"]
                if not (isinstance(image, str) and image and isinstance(caption, str)):
                    raise TypeError("image_id and caption must be text")
            except (ValueError, KeyError, TypeError) as error:
                skipped.append(f"line {count}: {type(error).__name__}: {error}")
                continue
            pairs.ids.append(f"{split}/{image}/{seen[image]}")
            pairs.image_ids.append(image)
            pairs.captions.append(caption.strip())
            seen[image] += 1
    torn = bool(skipped) and skipped[-1].startswith(f"line {count}:") and not line.endswith(b"\n")
    if count != rows or torn:
        raise DataError(
            f"{path}: {count:,} captions, {rows:,} expected"
            + (", the last one is cut off" if torn else "")
            + "; the file is truncated or another version. Delete it and run again"
        )
    if skipped:
        log.warning("%s: %d of %d lines could not be read, first %s", path, len(skipped), count, skipped[0])
    return pairs, skipped


def read_labels(path: Path, images: set[str], codes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(image ids [m], class columns [m]) of the labels that people confirmed, for the given images.

    Raises DataError for missing columns and for a class that is not among `codes`.
    """
    column = {code: number for number, code in enumerate(codes)}
    found: list[tuple[np.ndarray, np.ndarray]] = []
    try:
        for part in pd.read_csv(
            path,
            usecols=["ImageID", "LabelName", "Confidence"],
            chunksize=CHUNK,
            dtype={"ImageID": str, "LabelName": str, "Confidence": float},
        ):
            part = part[(part.Confidence == 1) & part.ImageID.isin(images)]
            columns = part.LabelName.map(column)
            if columns.isna().any():
                raise DataError(
                    f"{path}: class {part.LabelName[columns.isna()].iloc[0]!r} is not in {CLASSES}; the "
                    f"two files are "
                    "of different versions, download both again"
                )
            found.append((part.ImageID.to_numpy(), columns.to_numpy(np.int64)))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a label table ({error}); delete it and run again") from error
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: not the expected label table ({error}); it needs the columns ImageID, LabelName and "
            f"a "
            "numeric Confidence. Delete it and run again"
        ) from error
    if not found:
        return np.array([], str), np.array([], np.int64)
    return np.concatenate([ids for ids, _ in found]), np.concatenate([columns for _, columns in found])


def _folder(split: str) -> str:
    if split not in FOLDERS:
        raise ValueError(f"split {split!r}: choose one of {', '.join(FOLDERS)}")
    return FOLDERS[split]


def published_taxonomy(column_order: str = "right") -> Taxonomy:
    """The hierarchy over the 601 real Open Images classes, sorted by display name as label columns are.

    column_order: "right" or "as_published" (F1). Reads the public metadata that ships in `openimages_meta/`.
    """
    folder = Path(__file__).parent / "openimages_meta"
    tree = json.loads((folder / "bbox_labels_600_hierarchy.json").read_text())
    names = read_class_descriptions(folder / "oidv7-class-descriptions-boxable.csv")
    return Taxonomy.from_open_images(tree, sorted(names.values()), names, column_order)
