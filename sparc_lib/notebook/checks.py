"""Tolerance checks whose printed line is the same on every machine."""

import math
from collections.abc import Sequence

import numpy as np

Numbers = float | Sequence[float]


def check(name: str, value: float, expected: float, tolerance: float, profile: str = "mini") -> None:
    """Assert |value - expected| <= tolerance and print a line that can be compared between runs.

    The line names the expectation, not the measurement: the measurement differs in the last digits from
    machine to machine, and nbval compares text. Committed expectations come from `mini`; on any other profile
    the measured value is printed beside them and nothing fails.

    value: a number, or anything `float()` takes (a 0-d array or tensor). Raises AssertionError outside the
    tolerance and for NaN, ValueError for a tolerance or an expectation that could never be met.
    """
    value, expected, tolerance = float(value), float(expected), float(tolerance)
    if not (math.isfinite(expected) and math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(
            f"check {name!r}: expected {expected} ± {tolerance} is no range; give finite numbers, "
            "tolerance >= 0"
        )
    allowed = f"{_number(expected)} ± {_number(tolerance)}"
    if profile != "mini":
        measured = "not measurable" if math.isnan(value) else _number(value)
        print(f"--  {name} is {measured} on {profile} (mini: {allowed})")
        return
    # Written as `not <=` so that NaN fails; the relative slack forgives 0.1 + 0.2.
    if not abs(value - expected) <= tolerance + 1e-12 * abs(expected):
        raise AssertionError(
            f"{name}: measured {value:.6g}, expected {allowed}. If the change is meant, measure "
            "again and change the expectation in this cell"
        )
    print(f"ok  {name} within {allowed}")


def above(statement: str, high: Numbers, low: Numbers, profile: str = "mini", margin: float = 0.0) -> None:
    """Assert that every value of `high` exceeds every value of `low` by more than the margin.

    high, low: one number, or one a seed. Prints the statement, which the reading above the cell makes. As
    with `check`, nothing fails on other profiles: there the line says whether it is so.
    """
    lowest, highest = float(np.min(high)), float(np.max(low))
    holds = lowest - highest > margin
    if profile != "mini":
        outcome = "so" if holds else "not so"
        if math.isnan(lowest - highest):
            outcome = "not measurable"
        print(f"--  {statement}: {outcome} on {profile}")
        return
    if not holds:
        raise AssertionError(
            f"{statement}: the lowest of {high} does not exceed the highest of {low} by more than {margin}. "
            "If the change is meant, write the reading above anew"
        )
    print(f"ok  {statement}")


def _number(x: float) -> str:
    """Four decimals when they say it all, otherwise six significant digits."""
    text = f"{x:.4f}"
    return text if math.isclose(float(text), x, rel_tol=1e-9, abs_tol=1e-15) else f"{x:.6g}"
