"""Open Images V7 with Localized Narratives, the data of the paper: 507,444 + 41,691 + 126,020 captioned
images.

Labels are the human-verified ones of the 601 boxable classes (Confidence 1). A folder laid out as here needs
no network:

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
from dataclasses import fields
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import pandas as pd
from pydantic import ConfigDict, PositiveInt, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ..taxonomy import Taxonomy, read_class_descriptions
from .download import KnownFile, RemoteFile, obtain
from .photographs import EVERYTHING, PLAIN_NAME, DataError, Limits, Pairs, PhotoDataset, label_matrix, limited

log = logging.getLogger(__name__)
CLASSES, HIERARCHY = "oidv7-class-descriptions-boxable.csv", "bbox_labels_600_hierarchy.json"
SOURCE = "source.json"
FOLDERS = {"train": "train", "val": "validation", "test": "test"}  # our split -> theirs
CAPTIONS = {
    "train": "open_images_train_v6_captions.jsonl",
    "val": "open_images_validation_captions.jsonl",
    "test": "open_images_test_captions.jsonl",
}
GOOGLE = "https://storage.googleapis.com"
CHUNK = 1_000_000  # rows of the label table in memory at a time


Address = Annotated[str, StringConstraints(pattern="^https?://")]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class Source:
    """Where a data set like this one is published, and how many captions each split has."""

    name: str
    classes: Address = f"{GOOGLE}/openimages/v7/{CLASSES}"
    hierarchy: Address = f"{GOOGLE}/openimages/2018_04/{HIERARCHY}"
    labels: Address = f"{GOOGLE}/openimages/v5"
    captions: Address = f"{GOOGLE}/localized-narratives/annotations"
    images: Address = "https://open-images-dataset.s3.amazonaws.com"
    train: PositiveInt = 507_444
    val: PositiveInt = 41_691
    test: PositiveInt = 126_020

    @classmethod
    def of(cls, folder: Path) -> Source:
        """The source that `source.json` in the folder describes, else Open Images. Raises DataError."""
        path = folder / SOURCE
        if not path.exists():
            return cls("open_images")
        try:
            source = TypeAdapter(cls).validate_json(path.read_bytes())
        except ValidationError as errors:
            faults = [f"field {'.'.join(map(str, e['loc'])) or '-'}: {e['msg']}" for e in errors.errors()]
            known = ", ".join(field.name for field in fields(cls))
            raise DataError(
                f"{path}: {'; '.join(faults)}. Mend or delete it; known fields: {known}"
            ) from errors
        log.warning("%s: this is %r, not the published data set", path, source.name)
        return source


class Files(NamedTuple):
    """The four verified files behind one split."""

    classes: KnownFile
    hierarchy: KnownFile
    labels: KnownFile
    captions: KnownFile


def files(folder: str | Path, split: str) -> Files:
    """Get and verify what a split needs besides its images. Raises FileNotFoundError, HashError,
    DiskFullError.
    """
    folder, source = Path(folder), Source.of(Path(folder))
    table = f"{_folder(split)}-annotations-human-imagelabels-boxable.csv"
    return Files(
        classes=obtain(folder, RemoteFile(CLASSES, source.classes)),
        hierarchy=obtain(folder, RemoteFile(HIERARCHY, source.hierarchy)),
        labels=obtain(folder, RemoteFile(table, f"{source.labels}/{table}")),
        captions=obtain(folder, RemoteFile(CAPTIONS[split], f"{source.captions}/{CAPTIONS[split]}")),
    )


def load(folder: str | Path, split: str, limits: Limits = EVERYTHING) -> PhotoDataset:
    """The pairs of a split; the id of a pair is `split/image/number of the caption among the image's`.

    Classes are display names, sorted. Raises what `files` raises, and DataError for a file of another shape.
    """
    folder, verified, source = Path(folder), files(folder, split), Source.of(Path(folder))
    names = class_names(folder)
    pairs, skipped = read_captions(verified.captions.path, getattr(source, split), split)
    pairs = limited(pairs, limits)
    codes = sorted(names, key=names.get)
    carried = read_labels(verified.labels.path, set(pairs.image_ids), codes)
    return PhotoDataset(
        name=source.name,
        split=split,
        pairs=pairs,
        labels=label_matrix(pairs.image_ids, carried, len(codes)),
        classes=[names[code] for code in codes],
        folder=folder,
        subfolder=_folder(split),
        address=source.images,
        skipped=skipped,
    )


def class_names(folder: str | Path) -> dict[str, str]:
    """{LabelName: DisplayName} of the boxable classes, in file order. Raises DataError if two share a display
    name.
    """
    source = Source.of(Path(folder))
    path = obtain(folder, RemoteFile(CLASSES, source.classes)).path
    try:
        names = read_class_descriptions(path)
    except ValueError as error:  # names the file, and the line if there is one
        raise DataError(str(error)) from error
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise DataError(
            f"{path}: display name {twice[0]!r} belongs to several classes; download the file again"
        )
    if not names:
        raise DataError(f"{path}: no classes; download the file again")
    return names


def hierarchy(folder: str | Path) -> dict:
    """The class tree as published: LabelName, Subcategory, Part."""
    path = obtain(folder, RemoteFile(HIERARCHY, Source.of(Path(folder)).hierarchy)).path
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); delete it and run again") from error


def read_captions(path: Path, rows: int, split: str) -> tuple[Pairs, list[str]]:
    """The captions of a Localized Narratives file, and the lines that could not be read ("line 7: reason").

    rows: how many the file must have. Raises DataError when it has another number or ends in the middle of a
    line.
    """
    pairs, skipped, torn = Pairs([], [], []), [], False
    captions_of: Counter[str] = Counter()
    count = 0
    with open(path, "rb") as file:
        for line in file:
            count += 1
            try:
                image, caption = _caption(line)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                skipped.append(f"line {count}: {type(error).__name__}: {error}")
                torn = not line.endswith(b"\n")
                continue
            pairs.ids.append(f"{split}/{image}/{captions_of[image]}")
            pairs.image_ids.append(image)
            pairs.captions.append(caption.strip())
            captions_of[image] += 1
    if count != rows or torn:
        cut_off = ", the last one is cut off" if torn else ""
        raise DataError(
            f"{path}: {count:,} captions, {rows:,} expected{cut_off}; the file is truncated or another "
            "version. Delete it and run again"
        )
    if skipped:
        log.warning("%s: %d of %d lines could not be read, first %s", path, len(skipped), count, skipped[0])
    return pairs, skipped


def _caption(line: bytes) -> tuple[str, str]:
    """(image id, caption) of one line. Raises ValueError, KeyError or TypeError for anything else."""
    record = json.loads(line)
    image, caption = record["image_id"], record["caption"]
    if not (isinstance(image, str) and isinstance(caption, str)):
        raise TypeError("image_id and caption must be text")
    if not PLAIN_NAME.fullmatch(image):
        raise ValueError(f"image_id {image!r} is no plain file name")
    return image, caption


def read_labels(path: Path, images: set[str], codes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(image ids [m], class columns [m]) of the labels that people confirmed, for the given images.

    Raises DataError for missing columns, a class that is not among `codes`, a confidence that is none, and
    where none of the images has a label.
    """
    column = {code: number for number, code in enumerate(codes)}
    ids, columns = [np.array([], str)], [np.array([], np.int64)]
    types = {"ImageID": str, "LabelName": str, "Confidence": float}
    try:
        for part in pd.read_csv(path, usecols=list(types), chunksize=CHUNK, dtype=types):
            unclear = ~part.Confidence.between(0, 1)  # empty ones too, as in a line that is cut off
            if unclear.any():
                wrong = part[unclear].iloc[0]
                raise DataError(
                    f"{path}: Confidence {wrong.Confidence:g} of image {wrong.ImageID!r}; a label is "
                    "confirmed (1) or denied (0). Delete it and run again"
                )
            part = part[(part.Confidence == 1) & part.ImageID.isin(images)]
            places = part.LabelName.map(column)
            if places.isna().any():
                raise DataError(
                    f"{path}: class {part.LabelName[places.isna()].iloc[0]!r} is not in {CLASSES}; the two "
                    "files are of different versions, download both again"
                )
            ids.append(part.ImageID.to_numpy())
            columns.append(places.to_numpy(np.int64))
    except DataError:
        raise
    except ValueError as error:  # pandas' errors and those of decoding are ValueErrors
        raise DataError(
            f"{path}: not a label table ({error}); it needs the columns ImageID, LabelName and a numeric "
            "Confidence. Delete it and run again"
        ) from error
    if images and not any(map(len, ids)):
        raise DataError(
            f"{path}: no confirmed label of the {len(images):,} images with captions; their ids are of "
            "another split or version. Delete both files and run again"
        )
    return np.concatenate(ids), np.concatenate(columns)


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
