"""What a data set knows about its images besides labels: all of it in the miniature world, less of
photographs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from ..miniworld.captions import Caption
from ..miniworld.facts import scene_facts
from ..miniworld.reader import ReadersBound, readers_bound
from ..miniworld.scenes import Scene
from .pairs import PairedDataset

NO_MASKS = "the files of this data set that are loaded say which classes an image shows, not where"
AN_OBJECT, A_LABEL = "an object of the scene at all", "a labelled class, by its own name"


def first_rows(data: PairedDataset) -> list[int]:
    """The first pair of every image, in order of first appearance."""
    rows: dict[str, int] = {}
    for row, image in enumerate(data.image_ids):
        rows.setdefault(image, row)
    return list(rows.values())


def known_scenes(data: PairedDataset, n: int | None = None) -> tuple[list[Scene], list[Caption]]:
    """The first n scenes and the first caption of each. Both empty for photographs: nobody has listed all
    that is true of them.
    """
    facts = [data.facts(row) for row in first_rows(data)[:n]]
    known = [fact for fact in facts if fact is not None]
    return [fact.scene for fact in known], [fact.caption for fact in known]


def known_oracle(scenes: Sequence[Scene], captions: Sequence[Caption]) -> ReadersBound:
    """`readers_bound`, which needs facts: NaN where there are none."""
    return readers_bound(scenes, captions) if len(scenes) else ReadersBound(float("nan"), float("nan"))


class Vocabulary(NamedTuple):
    """What is true of the n samples of a data set, in words.

    terms, kinds [n_terms]: "red roof" is a "part colour". true: bool CSR [n, n_terms]. ids [n]: of the
    samples.
    """

    terms: list[str]
    kinds: list[str]
    true: sp.csr_array
    ids: list[str]

    def of(self, ids: Sequence[str]) -> Vocabulary:
        """The same for the samples `ids` alone. Raises KeyError for one that is not in the data set."""
        row = {name: number for number, name in enumerate(self.ids)}
        return self._replace(true=self.true[[row[name] for name in ids]], ids=list(ids))


def vocabulary(data: PairedDataset) -> Vocabulary:
    """All facts of drawn scenes; of photographs the classes that they are labelled with."""
    first = data.facts(0)
    if first is None:
        return Vocabulary(data.classes, ["class"] * len(data.classes), data.labels, data.ids)
    scenes = [data.facts(row).scene for row in range(len(data))]
    facts = scene_facts(scenes)
    return Vocabulary(list(facts.names), list(facts.kinds), facts.matrix, data.ids)


def objects_per_image(data: PairedDataset) -> np.ndarray:
    """[n_images]: objects in every drawn scene; of a photograph the labelled classes."""
    scenes, _ = known_scenes(data)
    if scenes:
        return np.array([len(scene.objects) for scene in scenes])
    return np.asarray(data.labels[first_rows(data)].sum(1)).ravel()


def caption_facts(data: PairedDataset) -> pd.Series:
    """Share of the times that a caption tells what it could, by kind of fact, highest first.

    Drawn scenes: every attribute of the objects that a caption names, the objects, the background.
    Photographs: one row, how often the caption has the name (or its plural with s) of a class that its image
    is labelled with.
    """
    facts = [data.facts(i) for i in range(len(data))]
    if None not in facts:
        captions = [fact.caption for fact in facts]
        mentions = pd.DataFrame([mention for caption in captions for mention in caption.mentions])
        told = mentions.rename(columns={"parts": "part"})
        told["part"] = told["part"].map(lambda parts: parts or None)
        shares = told.notna().mean().drop("noun").rename(lambda name: f"its {name}")
        shares = shares.sort_values(ascending=False)
        shares[AN_OBJECT] = len(mentions) / sum(len(fact.scene.objects) for fact in facts)
        for kind in ("background", "time", "weather"):
            shares[f"the {kind}"] = np.mean([getattr(caption, kind) is not None for caption in captions])
        return shares
    names = [_words(name) for name in data.classes]
    named = [_says(_words(data.captions[row]), names[column]) for row, column in zip(*data.labels.nonzero())]
    return pd.Series({A_LABEL: np.mean(named) if named else np.nan})


def _words(text: str) -> str:
    return " " + re.sub(r"[^a-z0-9]+", " ", text.lower()).strip() + " "


def _says(caption: str, name: str) -> bool:
    return name in caption or f"{name[:-1]}s " in caption
