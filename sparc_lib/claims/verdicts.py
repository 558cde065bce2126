"""How a claim is judged: stated rules over numbers and their spread over seeds; nothing is read here.

A claim has conditions, and controls: conditions that a result must also pass to be evidence (other coding,
untrained model, random encoders ...). `decide`:

    not measurable   a condition lacks a number
    does not hold    no condition holds; or some fail, and of the controls, if there are any, none holds
    holds in part    some conditions hold, and not all controls fail; or all do, but a control fails or is not
                     measured
    holds            all conditions and all controls hold
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np
from pydantic.dataclasses import dataclass

from .declared import STRICT

Relation = Literal["above", "below", "near"]
Verdict = Literal["holds", "holds in part", "does not hold", "not measurable"]
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

    above: even the lowest seed of left exceeds the highest seed of right by more than the margin; below: the
    mirror image; near: every seed of left lies within the margin of right's mean. Raises ValueError for
    another relation.
    """
    if relation == "above":
        return left.low - right.high > margin
    if relation == "below":
        return right.low - left.high > margin
    if relation == "near":
        return max(abs(value - right.mean) for value in left.values) <= margin
    raise ValueError(f"relation {relation!r}: choose 'above', 'below' or 'near'")


@dataclass(frozen=True, config=STRICT)
class Condition:
    """left stands in a relation to right. left, right: quantities by id; right may be a plain number.

    says: the condition as a clause that is true when it holds ("no latent is mixed"); fails: the clause for
    the contrary. margin: see `compare`.
    """

    left: str
    relation: Relation
    right: str | int | float
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
        """The means differ as the condition says, but the seeds overlap: neither it nor its contrary is
        shown."""
        if self.holds is not False or self.condition.relation == "near":
            return False
        left, right = Sample((self.left.mean,)), Sample((self.right.mean,))
        return compare(left, self.condition.relation, right, self.condition.margin)

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
    n_passed = sum(outcome.holds for outcome in conditions)
    controls_passed = [outcome.holds is True for outcome in controls]
    if n_passed == 0:
        return "does not hold"
    if n_passed == len(conditions):
        return "holds" if all(controls_passed) else "holds in part"
    if controls and not any(controls_passed):
        return "does not hold"
    return "holds in part"


def because(conditions: Sequence[Outcome], controls: Sequence[Outcome] = ()) -> str:
    """One sentence: what came true of the conditions, then of the controls that did not pass, else of all."""
    failed = [outcome for outcome in controls if not outcome.holds]
    text = "; ".join(map(str, conditions))
    if failed:
        text += "; but " + "; ".join(map(str, failed))
    elif controls:
        text += "; control: " + "; ".join(map(str, controls))
    return text[:1].upper() + text[1:] + "."
