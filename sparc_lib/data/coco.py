"""MS-COCO 2017: photographs, five captions each, and the instances that give labels and masks.

A folder laid out as the publisher's archives unpack needs no network:

    annotations/{captions,instances}_{train,val}2017.json
    {train,val}2017/<12-digit image id>.jpg

The 5,000 images of val2017 are the test split, as in the paper. Nothing may be tuned on them, so 5,000 images of
train2017, always the same, are set aside as the validation split and do not occur in training.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from pycocotools.coco import COCO

from .download import FULL, KnownFile, RemoteFile, obtain
from .photographs import DataError, InstanceMask, Limits, Pairs, PhotoDataset, chosen, label_matrix, limited

log = logging.getLogger(__name__)
ARCHIVE = RemoteFile(
    "annotations_trainval2017.zip",
    "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
    "md5:f4bbac642086de4f52a3fdda2de5fa2c",
)
IMAGES = "http://images.cocodataset.org"
HALVES = {"train": "train2017", "val": "train2017", "test": "val2017"}  # our split -> theirs
SET_ASIDE = 5_000  # images of train2017 that are the validation split
ROOT = "/coco"  # label name of the taxonomy's root


class Files(NamedTuple):
    """The two verified files behind one split."""

    captions: KnownFile
    instances: KnownFile


class CocoDataset(PhotoDataset):
    """A split of COCO. A label says that an instance of the class (crowds included) is annotated in the image."""

    instances_file: Path
    column_of: dict[int, int]  # category id -> column

    @cached_property
    def _instances(self) -> COCO:
        return _quiet(self.instances_file)

    def regions(self, i: int) -> dict[int, list[dict]]:
        """{column: run-length encodings of its instances, crowds left out} of pair i's photograph."""
        found: dict[int, list[dict]] = {}
        for item in sorted(
            self._instances.imgToAnns.get(int(self.image_ids[i]), []), key=lambda item: item["id"]
        ):
            if not item["iscrowd"]:
                found.setdefault(self.column_of[item["category_id"]], []).append(
                    self._instances.annToRLE(item)
                )
        return found

    def masks(self, i: int) -> list[InstanceMask]:
        """The instances of pair i's photograph, in the order of their annotation ids."""
        found = sorted(self._instances.imgToAnns.get(int(self.image_ids[i]), []), key=lambda item: item["id"])
        return [
            InstanceMask(
                self.column_of[item["category_id"]],
                self._instances.annToMask(item).astype(bool),
                bool(item["iscrowd"]),
            )
            for item in found
        ]


def files(folder: str | Path, split: str) -> Files:
    """Verify a split's annotations, unpacking or downloading the published archive if they are not there.

    Raises FileNotFoundError, HashError, OSError (ENOSPC).
    """
    folder = Path(folder)
    if split not in HALVES:
        raise ValueError(f"split {split!r}: choose one of {', '.join(HALVES)}")
    names = [f"annotations/{kind}_{HALVES[split]}.json" for kind in Files._fields]
    if not all((folder / name).exists() for name in names):
        _unpack(obtain(folder, ARCHIVE).path, folder)
    return Files(*(obtain(folder, RemoteFile(name, ARCHIVE.url), offline=True) for name in names))


def load(folder: str | Path, split: str, limits: Limits = Limits(), joined: bool = True) -> CocoDataset:
    """The pairs of a split, in the order of the image ids; classes are the 80 categories, sorted.

    joined: one pair per image, its captions (in the order of their ids) joined by spaces, as in the paper; id
    `split/image`. Otherwise one pair per caption (F15); id `split/image/number`. Raises what `files` raises, and
    DataError for a file of another shape.
    """
    folder, found = Path(folder), files(folder, split)
    captions = _document(found.captions.path, ("images", "annotations"))
    with _fields_of(found.captions.path):
        told: dict[int, list[tuple[int, str]]] = {image["id"]: [] for image in captions["images"]}
        for item in captions["annotations"]:
            told[item["image_id"]].append((item["id"], " ".join(item["caption"].split())))
    silent = [image for image, texts in told.items() if not texts]
    if silent or not told:
        raise DataError(
            f"{found.captions.path}: "
            + (f"image {silent[0]} and {len(silent) - 1} others have no caption" if silent else "no images")
            + "; the file is incomplete, delete it and run again"
        )
    pairs = Pairs([], [], [])
    for number in _half(sorted(told), split):
        texts = [text for _, text in sorted(told[number])]
        for k, text in enumerate([" ".join(texts)] if joined else texts):
            pairs.ids.append(f"{split}/{number:012d}" + ("" if joined else f"/{k}"))
            pairs.image_ids.append(f"{number:012d}")
            pairs.captions.append(text)
    pairs = limited(pairs, limits)
    instances = _document(found.instances.path, ("annotations", "categories"))
    with _fields_of(found.instances.path):
        kinds = sorted(instances["categories"], key=lambda kind: kind["name"])
        column = {kind["id"]: place for place, kind in enumerate(kinds)}
        kept = set(pairs.image_ids)
        carried = [
            (f"{item['image_id']:012d}", column[item["category_id"]]) for item in instances["annotations"]
        ]
        carried = [item for item in carried if item[0] in kept]
    labels = label_matrix(
        pairs.image_ids, ([image for image, _ in carried], [c for _, c in carried]), len(kinds)
    )
    places = [f"{HALVES[split]}/{image}.jpg" for image in pairs.image_ids]
    data = CocoDataset(
        "coco2017" if joined else "coco2017-captions",
        split,
        pairs,
        labels,
        [kind["name"] for kind in kinds],
        [folder / place for place in places],
        [f"{IMAGES}/{place}" for place in places],
    )
    data.instances_file, data.column_of = found.instances.path, column
    return data


def class_tree(folder: str | Path, split: str = "test") -> tuple[dict, dict[str, str]]:
    """(tree, {LabelName: DisplayName}): root, 12 supercategories, 80 categories, in the Open Images format.

    Label names are paths, for "person" is a category and a supercategory; display names of categories come first.
    """
    kinds = _document(files(folder, split).instances.path, ("categories",))["categories"]
    above = sorted({kind["supercategory"] for kind in kinds})
    code = {kind["name"]: f"{ROOT}/{kind['supercategory']}/{kind['name']}" for kind in kinds}
    names = {code[name]: name for name in sorted(code)}
    names |= {f"{ROOT}/{group}": f"{group} (all)" if group in code else group for group in above} | {
        ROOT: "Entity"
    }
    below = {
        group: [
            {"LabelName": code[kind["name"]]}
            for kind in sorted(kinds, key=lambda kind: kind["name"])
            if kind["supercategory"] == group
        ]
        for group in above
    }
    return {
        "LabelName": ROOT,
        "Subcategory": [{"LabelName": f"{ROOT}/{group}", "Subcategory": below[group]} for group in above],
    }, names


def _half(numbers: list[int], split: str) -> list[int]:
    """The images of a split among those of its file; at most half of them are set aside."""
    if split == "test":
        return numbers
    aside = set(chosen([f"{number:012d}" for number in numbers], min(SET_ASIDE, len(numbers) // 2), seed=0))
    return [number for row, number in enumerate(numbers) if (row in aside) == (split == "val")]


def _document(path: Path, needed: tuple[str, ...]) -> Mapping:
    try:
        document = json.loads(path.read_bytes())
        missing = [field for field in needed if not isinstance(document[field], list)]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a COCO annotation file ({type(error).__name__}: {error}); truncated? Delete it "
            f"and run "
            "again"
        ) from error
    if missing:
        raise DataError(
            f"{path}: field {missing[0]!r} is not a list; this is no COCO annotation file, delete it and "
            f"run again"
        )
    return document


@contextlib.contextmanager
def _fields_of(path: Path) -> Iterator[None]:
    """Entries that lack a field, or name an image or a category that is not there, are the file's fault: say so."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: an entry lacks or misuses a field ({type(error).__name__}: {error}); this is not "
            f"the published "
            "file, delete it and run again"
        ) from error


def _unpack(archive: Path, folder: Path) -> None:
    """The annotation files, each written aside and renamed."""
    (folder / "annotations").mkdir(exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            for name in sorted(
                {f"annotations/{kind}_{half}.json" for kind in Files._fields for half in HALVES.values()}
            ):
                aside = folder / (name + ".tmp")
                with packed.open(name) as source, open(aside, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                aside.rename(folder / name)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(
            f"{archive}: not the archive of the COCO annotations ({error}); delete it and run again"
        ) from error
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(
            errno.ENOSPC,
            f"{folder / 'annotations'}: disk full while unpacking. Free space, or move the data "
            "sets with --data-root (SPARC_DATASETS), and run again",
        ) from error


def _quiet(path: Path) -> COCO:
    """pycocotools reports to stdout, where a notebook's results belong."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))
