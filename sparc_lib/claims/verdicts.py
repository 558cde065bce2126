"""How a claim is judged: stated rules over numbers and their spread over seeds; nothing is read here.

A comparison has three results: *shown*, *contrary* (the contrary is shown), and *open* (the seeds overlap). A
claim has conditions, and controls: conditions that a result must also pass to be evidence (the other coding,
an untrained model, random encoders ...). `decide`:

    not measurable   a condition lacks a number
    does not hold    no condition is shown, and the contrary of some is
    open             no condition is shown and no contrary; or all are, but a control is open or not measured
    in part          some conditions are shown
    forced           all conditions are shown, but so is the contrary of a control: the claim is true of what
                     cannot have the property too, or only while the gate sees all streams, which forces it
    holds            all conditions and all controls are shown
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

import numpy as np
from pydantic.dataclasses import dataclass

from .declared import STRICT

Relation = Literal["above", "below", "near"]
Result = Literal["shown", "contrary", "open"]
Verdict = Literal["holds", "forced", "in part", "open", "does not hold", "not measurable"]
VERDICTS: tuple[Verdict, ...] = ("holds", "forced", "in part", "open", "does not hold", "not measurable")


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


def number(x: float, digits: int = 3) -> str:
    """So many significant digits, at most one decimal more than digits, for tables and sentences."""
    if x == 0 or abs(x) >= 1000:
        return f"{x:.0f}"
    decimals = int(np.clip(digits - 1 - np.floor(np.log10(abs(x))), 0, digits + 1))
    text = f"{x:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text


def compare(left: Sample, relation: Relation, right: Sample, margin: float = 0.0) -> Result:
    """How `left` stands to `right`.

    above: shown if even the lowest seed of left exceeds the highest seed of right by more than the margin;
    the contrary is shown if not even the highest seed of left exceeds the lowest of right by more than that.
    below: the mirror image. near: shown if every seed of left lies within the margin of right's mean; the
    contrary if all lie beyond it on one side. Raises ValueError for another relation.
    """
    if relation == "below":
        return compare(right, "above", left, margin)
    if relation == "above":
        least, most = left.low - right.high, left.high - right.low
        if least > margin:
            return "shown"
        return "contrary" if most <= margin else "open"
    if relation == "near":
        apart = [value - right.mean for value in left.values]
        if max(map(abs, apart)) <= margin:
            return "shown"
        return "contrary" if min(apart) > margin or max(apart) < -margin else "open"
    raise ValueError(f"relation {relation!r}: choose 'above', 'below' or 'near'")


@dataclass(frozen=True, config=STRICT)
class Condition:
    """left stands in a relation to right. left, right: quantities by id; right may be a plain number.

    says: the condition as a clause that is true when it is shown ("no latent is mixed"); fails: the clause
    for the contrary. margin: see `compare`.
    """

    left: str
    relation: Relation
    right: str | int | float
    says: str
    fails: str
    margin: float = 0.0


class Outcome(NamedTuple):
    """A condition with the numbers it met; result is None where a number is missing."""

    condition: Condition
    left: Sample | None
    right: Sample | None
    result: Result | None

    def __str__(self) -> str:
        """The clause that came true, with both means."""
        if self.result is None:
            return f"not measured: whether {self.condition.says}"
        clauses = {
            "shown": self.condition.says,
            "contrary": self.condition.fails,
            "open": f"seeds overlap, so it is open whether {self.condition.says}",
        }
        bound = self.condition.right
        right = number(self.right.mean) if isinstance(bound, str) else f"{bound:g}"
        return f"{clauses[self.result]} ({number(self.left.mean)} against {right})"


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
    results = [outcome.result for outcome in conditions]
    if None in results:
        return "not measurable"
    if "shown" not in results:
        return "does not hold" if "contrary" in results else "open"
    if set(results) != {"shown"}:
        return "in part"
    of_controls = {outcome.result for outcome in controls}
    if "contrary" in of_controls:
        return "forced"
    return "holds" if of_controls <= {"shown"} else "open"


def decisive(conditions: Sequence[Outcome], controls: Sequence[Outcome] = ()) -> Outcome:
    """The test that decides a verdict, to be shown in its line.

    Where the conditions do not carry the claim: the first of them that fails, else the first that is open or
    was not measured. Otherwise the first control whose contrary is shown, else the first that is open or was
    not measured, else the first control, which passed; without controls the first condition.
    """
    order: tuple[Result | None, ...] = ("contrary", "open", None, "shown")
    carried = all(outcome.result == "shown" for outcome in conditions)
    candidates = (controls or conditions) if carried else conditions
    return min(candidates, key=lambda outcome: order.index(outcome.result))


def because(conditions: Sequence[Outcome], controls: Sequence[Outcome] = ()) -> str:
    """One sentence: what came true of the conditions, then of the controls that did not pass, else of all."""
    failed = [outcome for outcome in controls if outcome.result != "shown"]
    text = "; ".join(map(str, conditions))
    if failed:
        text += "; but " + "; ".join(map(str, failed))
    elif controls:
        text += "; control: " + "; ".join(map(str, controls))
    return text[:1].upper() + text[1:] + "."
