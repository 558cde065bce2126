"""MS-COCO 2017: photographs, five captions each, and the instances that give labels and masks.

A folder laid out as the publisher's archives unpack needs no network:

    annotations/{captions,instances}_{train,val}2017.json
    {train,val}2017/<12-digit image id>.jpg

The 5,000 images of val2017 are the test split, as in the paper. Nothing may be tuned on them, so 5,000 images
of train2017, always the same, are set aside as the validation split and do not occur in training.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..files import aside
from .download import KnownFile, RemoteFile, obtain
from .pairs import InstanceMask
from .photographs import EVERYTHING, DataError, Limits, Pairs, PhotoDataset, chosen, label_matrix, limited

if TYPE_CHECKING:  # pycocotools.coco imports matplotlib
    from pycocotools.coco import COCO

ARCHIVE = RemoteFile(
    "annotations_trainval2017.zip",
    "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
    "md5:f4bbac642086de4f52a3fdda2de5fa2c",
)
IMAGES = "http://images.cocodataset.org"
HALVES = {"train": "train2017", "val": "train2017", "test": "val2017"}  # our split -> theirs
SET_ASIDE = 5_000  # images of train2017 that are the validation split
ROOT = "/coco"  # label name of the taxonomy's root
ALONE = "other"  # supercategory of a category that has none


class Files(NamedTuple):
    """The two verified files behind one split."""

    captions: KnownFile
    instances: KnownFile


@dataclass(eq=False)
class CocoDataset(PhotoDataset):
    """A split of COCO. A label says that an instance of the class (crowds included) is annotated in the
    image.
    """

    instances_file: Path
    column_of: dict[int, int]  # category id -> column

    knows_masks = True

    @cached_property
    def _instances(self) -> COCO:
        from pycocotools.coco import COCO

        with contextlib.redirect_stdout(
            io.StringIO()
        ):  # pycocotools reports where a notebook's results belong
            return COCO(str(self.instances_file))

    def masks(self, i: int) -> list[InstanceMask]:
        """The instances of pair i's photograph, in the order of their annotation ids, less those without a
        pixel.
        """
        annotations = self._instances.imgToAnns.get(int(self.image_ids[i]), [])
        masks = []
        for annotation in annotations:
            try:
                outline, size = annotation["segmentation"], self._instances.imgs[annotation["image_id"]]
                number, column = _number(annotation["id"]), self.column_of[annotation["category_id"]]
                if not any(outline):  # no polygon, or none with a corner
                    continue
                _demand_drawable(outline, _number(size["height"]), _number(size["width"]))
                mask, crowd = self._instances.annToMask(annotation).astype(bool), bool(annotation["iscrowd"])
            except Exception as error:  # pycocotools raises bare Exceptions
                raise DataError(
                    f"{self.instances_file}: annotation {annotation.get('id')} has no outline that can be "
                    f"drawn ({type(error).__name__}: {error}); this is not the published file, delete it and "
                    "run again"
                ) from error
            if mask.any():
                masks.append((number, InstanceMask(column, mask, crowd)))
        return [mask for _, mask in sorted(masks, key=lambda pair: pair[0])]


def files(folder: str | Path, split: str) -> Files:
    """Verify a split's annotations, unpacking or downloading the published archive if they are not there.

    Raises FileNotFoundError, HashError, DataError, DiskFullError.
    """
    folder = Path(folder)
    if split not in HALVES:
        raise ValueError(f"split {split!r}: choose one of {', '.join(HALVES)}")
    names = [f"annotations/{kind}_{HALVES[split]}.json" for kind in Files._fields]
    if not all((folder / name).exists() for name in names):
        _unpack(obtain(folder, ARCHIVE).path, folder)
    return Files(*(obtain(folder, RemoteFile(name, ARCHIVE.url), offline=True) for name in names))


def load(folder: str | Path, split: str, limits: Limits = EVERYTHING, joined: bool = True) -> CocoDataset:
    """The pairs of a split, in the order of the image ids; classes are the 80 categories, sorted.

    joined: one pair per image, its captions (in the order of their ids) joined by spaces, as in the paper; id
    `split/image`. Otherwise one pair per caption (F15); id `split/image/number`. Raises what `files` raises,
    and DataError for a file of another shape.
    """
    folder, verified = Path(folder), files(folder, split)
    captions = _captions(verified.captions.path)
    pairs = Pairs([], [], [])
    for number in _half(sorted(captions), split):
        texts = [" ".join(captions[number])] if joined else captions[number]
        for place, text in enumerate(texts):
            image = f"{number:012d}"
            pairs.ids.append(f"{split}/{image}" if joined else f"{split}/{image}/{place}")
            pairs.image_ids.append(image)
            pairs.captions.append(text)
    pairs = limited(pairs, limits)
    kept = set(pairs.image_ids)
    images, columns = [], []
    with _annotations(verified.instances.path) as instances:
        categories = sorted(instances["categories"], key=lambda category: category["name"])
        column_of = {category["id"]: column for column, category in enumerate(categories)}
        if len(column_of) < len(categories) or len({each["name"] for each in categories}) < len(categories):
            raise ValueError("an id or a name of two categories")
        for annotation in instances["annotations"]:
            image, column = f"{annotation['image_id']:012d}", column_of[annotation["category_id"]]
            if image in kept:
                images.append(image)
                columns.append(column)
    return CocoDataset(
        name="coco2017" if joined else "coco2017-captions",
        split=split,
        pairs=pairs,
        labels=label_matrix(pairs.image_ids, (images, columns), len(categories)),
        classes=[category["name"] for category in categories],
        folder=folder,
        subfolder=HALVES[split],
        address=IMAGES,
        skipped=[],
        instances_file=verified.instances.path,
        column_of=column_of,
    )


def _number(value: Any) -> int:
    """`value`, if it is a whole number from 0 on. Raises ValueError: 1.7 is no image."""
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no whole number from 0 on")
    return value


def _demand_drawable(outline: list | dict, height: int, width: int) -> None:
    """Raise ValueError for an outline whose mask would be of another size, or would take all the memory."""
    if isinstance(outline, dict):
        if outline["size"] != [height, width]:
            raise ValueError(f"its runs are not of an image of {height} x {width} pixels")
        return
    corners = [float(value) for polygon in outline for value in polygon]
    far = 2 * max(height, width)
    if not all(-far <= corner <= 2 * far for corner in corners):
        raise ValueError(f"a corner is NaN or far outside of the image of {height} x {width} pixels")
    if any(len(polygon) % 2 for polygon in outline):
        raise ValueError("a polygon has a corner with one coordinate")


def _captions(path: Path) -> dict[int, list[str]]:
    """{image id: its captions in the order of their ids}. Raises DataError for an image without one."""
    with _annotations(path) as document:
        captions: dict[int, list[tuple[int, str]]] = {
            _number(image["id"]): [] for image in document["images"]
        }
        for annotation in document["annotations"]:
            text = " ".join(annotation["caption"].split())
            captions[annotation["image_id"]].append((_number(annotation["id"]), text))
    silent = [image for image, texts in captions.items() if not texts]
    if silent or not captions:
        raise DataError(
            f"{path}: {len(silent)} of {len(captions)} images have no caption ({silent[:3]}); the file is "
            "incomplete, delete it and run again"
        )
    return {image: [text for _, text in sorted(texts)] for image, texts in captions.items()}


def class_tree(folder: str | Path, split: str = "test") -> tuple[dict, dict[str, str]]:
    """(tree, {LabelName: DisplayName}): root, 12 supercategories, 80 categories, in the Open Images format.

    Label names are paths, for "person" is a category and a supercategory; display names of categories come
    first.
    """
    path = files(folder, split).instances.path
    with _annotations(path) as document:
        categories = {
            category["name"]: category.get("supercategory") or ALONE for category in document["categories"]
        }
        members: dict[str, list[str]] = {group: [] for group in sorted(categories.values())}
        for name in sorted(categories):
            members[categories[name]].append(name)
    codes = {name: f"{ROOT}/{group}/{name}" for name, group in categories.items()}
    display_names = {codes[name]: name for name in sorted(codes)}
    groups = []
    for group in members:
        label = f"{ROOT}/{group}"
        display_names[label] = f"{group} (all)" if group in codes else group
        leaves = [{"LabelName": codes[name]} for name in members[group]]
        groups.append({"LabelName": label, "Subcategory": leaves})
    display_names[ROOT] = "Entity"
    return {"LabelName": ROOT, "Subcategory": groups}, display_names


def _half(numbers: list[int], split: str) -> list[int]:
    """The images of a split among those of its file; at most half of them are set aside."""
    if split == "test":
        return numbers
    names = [f"{number:012d}" for number in numbers]
    set_aside = set(chosen(names, min(SET_ASIDE, len(numbers) // 2), seed=0))
    return [number for row, number in enumerate(numbers) if (row in set_aside) == (split == "val")]


@contextlib.contextmanager
def _annotations(path: Path) -> Iterator[dict]:
    """The document in a file. Entries that lack a field, or name an image or a category that is not there,
    are the file's fault as well: DataError says so.
    """
    try:
        yield json.loads(path.read_bytes())
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: not the published COCO annotations ({type(error).__name__}: {error}); truncated? "
            "Delete it and run again"
        ) from error


def _unpack(archive: Path, folder: Path) -> None:
    """Write the annotation files aside and rename them; of the archive only these names are read."""
    halves = sorted(set(HALVES.values()))
    try:
        with zipfile.ZipFile(archive) as packed:
            for name in [f"annotations/{kind}_{half}.json" for kind in Files._fields for half in halves]:
                with (
                    packed.open(name) as source,
                    aside(folder / name) as partial,
                    open(partial, "wb") as target,
                ):
                    shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, KeyError, RuntimeError, NotImplementedError) as error:  # Runtime: encrypted
        raise DataError(
            f"{archive}: not the archive of the COCO annotations ({error}); delete it and run again"
        ) from error
