"""How a claim is judged: stated rules over numbers and their spread over seeds. Pure functions, nothing is read here.

A claim has conditions, and controls: conditions that a result must also pass to be evidence (other coding, untrained
model, random encoders ...). `decide`:

    not measurable   a condition lacks a number
    does not hold    no condition holds; or some fail, and of the controls, if there are any, none holds either
    holds in part    some conditions hold, and not all controls fail; or all do, but a control fails or is not measured
    holds            all conditions and all controls hold
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import spearmanr

Relation = Literal["above", "below", "near"]
Verdict = Literal["holds", "holds in part", "does not hold", "not measurable"]
TREND = 0.7  # rank correlation from which on a curve counts as rising or falling
VERDICTS: tuple[Verdict, ...] = ("holds", "holds in part", "does not hold", "not measurable")


class Sample(NamedTuple):
    """One quantity, measured with every seed."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Raises ValueError for no values or a NaN: a quantity without a number is left out, not guessed."""
        sample = cls(tuple(float(value) for value in values))
        if not sample.values or not np.isfinite(sample.values).all():
            raise ValueError(f"values {sample.values}: a sample needs at least one finite number a seed")
        return sample

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    def __str__(self) -> str:
        """The mean, with the lowest and the highest seed if there are several."""
        if len(self.values) == 1 or number(self.low) == number(self.high):
            return number(self.mean)
        return f"{number(self.mean)} ({number(self.low)} to {number(self.high)})"


def number(x: float) -> str:
    """Three significant digits, at most four decimals, for tables and sentences."""
    if x == 0 or abs(x) >= 1000:
        return f"{x:.0f}"
    decimals = int(np.clip(2 - np.floor(np.log10(abs(x))), 0, 4))
    text = f"{x:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text


def compare(left: Sample, relation: Relation, right: Sample, margin: float = 0.0) -> bool:
    """Does `left` stand in `relation` to `right`?

    above: even the lowest seed of left exceeds the highest seed of right by more than the margin; below: the mirror
    image; near: every seed of left lies within the margin of right's mean. Raises ValueError for another relation.
    """
    if relation == "above":
        return left.low - right.high > margin
    if relation == "below":
        return right.low - left.high > margin
    if relation == "near":
        return max(abs(value - right.mean) for value in left.values) <= margin
    raise ValueError(f"relation {relation!r}: choose 'above', 'below' or 'near'")


@dataclass(frozen=True)
class Condition:
    """left stands in a relation to right. left, right: quantities by id; right may be a plain number.

    says: the condition as a clause that is true when it holds ("no latent is mixed"); fails: the clause for the
    contrary. margin: see `compare`.
    """

    left: str
    relation: Relation
    right: str | float
    says: str
    fails: str
    margin: float = 0.0


class Outcome(NamedTuple):
    """A condition with the numbers it met; holds is None where a number is missing."""

    condition: Condition
    left: Sample | None
    right: Sample | None
    holds: bool | None

    @property
    def undecided(self) -> bool:
        """The means differ as the condition says, but the seeds overlap: neither it nor its contrary is shown."""
        means = (Sample((side.mean,)) for side in (self.left, self.right))
        return (
            self.holds is False
            and self.condition.relation != "near"
            and compare(next(means), self.condition.relation, next(means), self.condition.margin)
        )

    def __str__(self) -> str:
        """The clause that came true, with both means."""
        if self.holds is None:
            return f"not measured: whether {self.condition.says}"
        clause = self.condition.says if self.holds else self.condition.fails
        if self.undecided:
            clause = f"seeds overlap, so it is open whether {self.condition.says}"
        bound = self.condition.right
        right = number(self.right.mean) if isinstance(bound, str) else f"{bound:g}"
        return f"{clause} ({number(self.left.mean)} against {right})"


def examine(condition: Condition, quantities: Mapping[str, Sample]) -> Outcome:
    """Put the numbers into a condition."""
    left = quantities.get(condition.left)
    plain = isinstance(condition.right, (int, float))
    right = Sample.of([condition.right]) if plain else quantities.get(condition.right)
    if left is None or right is None:
        return Outcome(condition, left, right, None)
    return Outcome(condition, left, right, compare(left, condition.relation, right, condition.margin))


def decide(conditions: Sequence[Outcome], controls: Sequence[Outcome] = ()) -> Verdict:
    """The verdict, by the rules at the top of this file. Raises ValueError without conditions."""
    if not conditions:
        raise ValueError("a claim without conditions cannot be judged; give at least one")
    if any(outcome.holds is None for outcome in conditions):
        return "not measurable"
    passed = [outcome.holds for outcome in conditions]
    unsupported = bool(controls) and not any(outcome.holds for outcome in controls)
    if not any(passed) or (not all(passed) and unsupported):
        return "does not hold"
    return "holds" if all(passed) and all(outcome.holds for outcome in controls) else "holds in part"


def because(conditions: Sequence[Outcome], controls: Sequence[Outcome] = ()) -> str:
    """One sentence: what came true of the conditions, then of the controls that did not pass, else of all."""
    failed = [outcome for outcome in controls if not outcome.holds]
    text = "; ".join(map(str, conditions))
    if failed:
        text += "; but " + "; ".join(map(str, failed))
    elif controls:
        text += "; control: " + "; ".join(map(str, controls))
    return text[:1].upper() + text[1:] + "."


def trend(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation of y with x, -1 (y always falls as x grows) to 1; ties in y share their rank.

    A constant y has no direction and gives 0. Raises ValueError for fewer than three points.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 3:
        raise ValueError(
            f"x {x.shape} and y {y.shape}: a trend needs at least three points, one y for each x"
        )
    return 0.0 if np.ptp(y) == 0 else float(spearmanr(x, y).statistic)


def share_reached(x: Sequence[float], y: Sequence[float], at: float) -> float:
    """How much of the improvement from the smallest x to the best y is reached at x = `at`; lower y is better.

    (y at min x - y at `at`) / (y at min x - best y): 1 where nothing better lies elsewhere. 0 when y never improves.
    Raises ValueError if `at` is not among x.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if not np.isclose(x, at).any():
        raise ValueError(f"{at} is not among the swept values {x.tolist()}")
    first, reached = y[x.argmin()], y[np.isclose(x, at).argmax()]
    return 0.0 if first <= y.min() else float((first - reached) / (first - y.min()))


def direction(trends: Sequence[float], least: float = TREND) -> str:
    """ "falls" or "rises" if every seed's `trend` says so at least that clearly, else "has no clear direction"."""
    if max(trends) <= -least:
        return "falls"
    return "rises" if min(trends) >= least else "has no clear direction"
