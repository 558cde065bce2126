"""How maps of parts are scored, and what the scores allow to say.

Every ordered pair of visible parts of one object (target, other) has three numbers. `contrast`: do the maps
of the two captions, less one another, tell the pixels of the two parts apart (-1..1, 0 for a map that does
not depend on the caption)? `right`: is the target's map brighter on the target than on the other (1, or 1/2
where equal; 1/2 on average for a map that does not depend on the caption)? `pixel_ap`: of the target;
`ap_ahead`: the same less the other's, both in the target's map.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from ..attribution.parts import PartImages
from ..attribution.patches import lifted
from ..attribution.segmentation import contrast, pixel_ap
from ..nulls import clustered_interval

# What is asked of a map: all that the caption says, or what it says beyond a caption of the object alone; the
# latter also of captions that name no colour, and of these on pictures whose objects have one colour each.
CAPTION, PART, MASKS = "caption", "part less object", "masks"
NO_COLOUR, ONE_COLOUR = "no colour named", "one colour"
RIGHT = 0.7  # share of pairs from which on a method separates parts
SCORES = ["contrast", "right", "pixel_ap", "ap_ahead"]
BOUNDED = ["contrast", "right"]
BOUNDS = ["contrast_low", "contrast_high", "right_low", "right_high"]


class Reading(NamedTuple):
    """What made a map. group: "published", "baseline", "attempt", "control" or "reference". stream: whose
    patches it is on. seed: of the SPARC behind it, 0 where there is none."""

    group: str
    method: str
    question: str
    stream: str
    seed: int = 0


KEYS = list(Reading._fields)
COLUMNS = [*KEYS, "image", "part", "other", *SCORES]


def scored(reading: Reading, maps: np.ndarray, scenes: PartImages, cover: np.ndarray) -> pd.DataFrame:
    """A row an ordered pair of parts. maps, cover [n_regions, rows, columns]: heat of either sign, and the
    share of every patch in the region."""
    regions, names = scenes.data.regions, scenes.data.classes
    target, other = np.array(scenes.pairs).T
    on_target, on_other = _mean_on(maps[target], cover[target]), _mean_on(maps[target], cover[other])
    own_ap = pixel_ap(maps, cover)[target]
    columns = {
        "image": [regions[number].image for number in target],
        "part": [names[regions[number].concept] for number in target],
        "other": [names[regions[number].concept] for number in other],
        "contrast": _contrasts(maps, cover, scenes.pairs),
        "right": (np.sign(on_target - on_other) + 1) / 2,
        "pixel_ap": own_ap,
        "ap_ahead": own_ap - pixel_ap(maps[target], cover[other]),
    }
    rows = pd.DataFrame([reading] * len(target), columns=KEYS)
    return rows.assign(**columns)


def _contrasts(maps: np.ndarray, cover: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
    """Contrast of every pair, [n]; it is the same for (a, b) and (b, a), so each is computed once."""
    once = sorted({(min(pair), max(pair)) for pair in pairs})
    values = dict(zip(once, contrast(lifted(maps), cover, once)))
    return np.array([values[min(pair), max(pair)] for pair in pairs])


def _mean_on(maps: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Mean heat of every map on its region's pixels, [n]."""
    return (maps * cover).sum((1, 2), dtype=float) / cover.sum((1, 2), dtype=float)


def summary(report: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """A row a method, question and stream: means of the scores, of `contrast` and `right` with the 95 %
    interval over images (columns *_low and *_high); seeds are averaged first."""
    rows = []
    keys = [key for key in KEYS if key != "seed"]
    for values, own in report.groupby(keys, sort=False):
        n_seeds = own.seed.nunique()
        image = own.image.to_numpy()[: len(own) // n_seeds]
        row = dict(zip(keys, values))
        for score in SCORES:
            means = own[score].to_numpy().reshape(n_seeds, -1).mean(0)
            row[score] = means.mean()
            if score in BOUNDED:
                _, row[f"{score}_low"], row[f"{score}_high"] = clustered_interval(means, image, generator)
        rows.append(row)
    return pd.DataFrame(rows, columns=[*keys, *SCORES, *BOUNDS])


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Which attempts of a `summary` separate parts, a row each: "separates" if the interval of its contrast
    lies above those of all controls, baselines and published readings in its stream with colours to the same
    extent, and it is right in `RIGHT` of the pairs at least; "in part" if only one of the two holds; else
    "does not"."""
    table = table.assign(plain=table.question.where(table.question.isin([NO_COLOUR, ONE_COLOUR]), ""))
    against = table[table.group.isin(["control", "baseline", "published"])]
    attempts = table[table.group == "attempt"]
    bars = against.groupby(["stream", "plain"]).contrast_high.max()
    rows = []
    for attempt in attempts.itertuples():
        bar = bars.get((attempt.stream, attempt.plain), np.nan)
        clear, often = attempt.contrast_low > bar, attempt.right >= RIGHT
        verdict = "does not"
        if clear and often:
            verdict = "separates"
        elif clear or often:
            verdict = "in part"
        rows.append((bar, verdict))
    columns = ["method", "question", "stream", "contrast", "contrast_low", "right"]
    judged = attempts[columns].reset_index(drop=True)
    return judged.assign(highest_control=[bar for bar, _ in rows], verdict=[verdict for _, verdict in rows])
