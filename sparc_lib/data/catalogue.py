"""The data of a profile: its pairs, the files they come from, its classes in their taxonomy, and its images
fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .. import paths
from ..miniworld import names as taxonomy_file
from ..profiles import Profile, option
from ..taxonomy import Taxonomy
from . import coco, open_images
from .drawn import DrawnDataset
from .images import DownloadReport, fetch_images, save_missing
from .pairs import PairedDataset
from .photographs import Limits

PUBLISHED = {"coco": coco, "open_images": open_images}


class Concepts(NamedTuple):
    """The classes of a data set in their hierarchy. names: {LabelName: DisplayName} of classes and their
    groups.
    """

    taxonomy: Taxonomy
    names: dict[str, str]


def folder(profile: Profile) -> Path:
    """Where the profile's photographs and annotations lie. Raises ValueError for the miniature world."""
    if profile.data.kind not in PUBLISHED:
        raise ValueError(
            f"profile {profile.name}: its scenes are drawn on demand, there is nothing to download"
        )
    return paths.datasets_root() / profile.data.kind


def load(profile: Profile, split: str, single_captions: bool = False) -> PairedDataset:
    """The image-caption pairs of a split. Photographs may still be missing: see `PhotoDataset.demand_images`.

    single_captions: a pair per caption also in COCO, where an image has one pair of all its captions
    otherwise (F15).
    """
    data = profile.data
    if data.kind == "miniworld":
        return DrawnDataset(split, getattr(data, split), data.seed, data.max_samples)
    limits = Limits(getattr(data, split), data.max_samples, data.seed)
    if data.kind == "coco":
        return coco.load(folder(profile), split, limits, joined=not single_captions)
    return open_images.load(folder(profile), split, limits)


def load_whole(profile: Profile, split: str, single_captions: bool = False) -> PairedDataset:
    """As `load`, but raises DataError when more than a few images are missing."""
    data = load(profile, split, single_captions)
    if profile.data.kind in PUBLISHED:
        data.demand_images(f"./run_all.sh --fetch --profile {option(profile.name)}")
    return data


def inputs(profile: Profile, split: str, single_captions: bool = False) -> dict:
    """What decides the pairs of a split, as inputs of a stage: what the profile chooses, and the hashes of
    downloaded files.
    """
    data = profile.data
    chosen = {
        "split": split,
        "n": getattr(data, split),
        "kind": data.kind,
        "seed": data.seed,
        "max_samples": data.max_samples,
    }
    if data.kind == "miniworld":
        return chosen
    if single_captions and data.kind == "coco":
        chosen["captions"] = "single"
    return chosen | {"files": [file.sha256 for file in PUBLISHED[data.kind].files(folder(profile), split)]}


def concepts(profile: Profile, classes: Sequence[str]) -> Concepts:
    """The hierarchy above `classes`, the label columns of the profile's stores."""
    if profile.data.kind == "miniworld":
        tree, names = taxonomy_file.hierarchy(), taxonomy_file.display_names()
    elif profile.data.kind == "coco":
        tree, names = coco.class_tree(folder(profile))
    else:
        tree, names = open_images.hierarchy(folder(profile)), open_images.class_names(folder(profile))
    return Concepts(Taxonomy.from_open_images(tree, classes, names), names)


def fetch(profile: Profile, split: str) -> DownloadReport:
    """Download what is missing of a split; `missing-<split>.csv` beside the images lists what could not be
    had.
    """
    report = fetch_images(load(profile, split).remote_images())
    save_missing(report, folder(profile) / f"missing-{split}.csv")
    return report
