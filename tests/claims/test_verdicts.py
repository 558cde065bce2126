import math

import pytest

from sparc_lib.claims.verdicts import (
    Condition,
    Outcome,
    Sample,
    because,
    compare,
    decide,
    decisive,
    examine,
    number,
)

S, C, U = "shown", "contrary", "open"


def outcome(result):
    condition = Condition("a", "above", 0.5, "a is large", "a is small")
    return Outcome(condition, Sample.of([0.7]), Sample.of([0.5]), result)


def test_above_counts_the_spread_of_the_seeds_and_the_margin():
    left, right = Sample.of([0.5, 0.6]), Sample.of([0.3, 0.4])
    assert compare(left, "above", right) == S and compare(right, "below", left) == S
    assert compare(right, "above", left) == C and compare(left, "below", right) == C
    assert compare(left, "above", right, 0.0999) == S and compare(left, "above", right, 0.1001) == U
    assert compare(left, "above", right, 0.31) == C  # not even the best seed is so far ahead
    assert compare(Sample.of([0.39, 0.9]), "above", right) == U  # higher mean, but one seed lies inside
    assert compare(left, "above", left) == U and compare(Sample.of([1]), "above", Sample.of([1])) == C


def test_near_asks_every_seed():
    assert compare(Sample.of([0.1, 0.3]), "near", Sample.of([0.25]), 0.15) == S
    assert compare(Sample.of([0.1, 0.3]), "near", Sample.of([0.25]), 0.1499) == U  # the mean alone would pass
    assert compare(Sample.of([0.5, 0.6]), "near", Sample.of([0.1]), 0.15) == C
    assert compare(Sample.of([-0.5, 0.6]), "near", Sample.of([0.1]), 0.15) == U  # on both sides
    with pytest.raises(ValueError, match="relation 'beside'"):
        compare(Sample.of([0]), "beside", Sample.of([0]))


@pytest.mark.parametrize(
    "conditions, controls, verdict",
    [
        ([S], [], "holds"),
        ([S, S], [S], "holds"),
        ([S], [C], "forced"),
        ([S], [S, C], "forced"),
        ([S], [U, C], "forced"),
        ([S], [None], "open"),
        ([S], [S, U], "open"),
        ([S, C], [], "in part"),
        ([S, U], [S], "in part"),
        ([S, C], [S, C], "in part"),
        ([C], [], "does not hold"),
        ([C, U], [S], "does not hold"),
        ([U], [S], "open"),
        ([U, U], [C], "open"),
        ([None], [S], "not measurable"),
        ([S, None], [], "not measurable"),
        ([C, None], [], "not measurable"),
    ],
)
def test_every_verdict_follows_from_the_outcomes(conditions, controls, verdict):
    assert decide([outcome(result) for result in conditions], [outcome(r) for r in controls]) == verdict


def test_where_the_conditions_carry_the_claim_a_control_decides():
    passed = [outcome(S)]
    controls = [outcome(S), outcome(U), outcome(C), outcome(None)]
    assert decisive(passed, controls) is controls[2]
    assert decisive(passed, controls[:2]) is controls[1]
    assert decisive(passed, controls[:1]) is controls[0]
    assert decisive(passed) is passed[0]


def test_where_they_do_not_the_condition_that_fails_decides():
    conditions = [outcome(S), outcome(U), outcome(C)]
    assert decisive(conditions, [outcome(C)]) is conditions[2]
    assert decisive(conditions[:2], [outcome(C)]) is conditions[1]


def test_a_claim_without_conditions_is_refused():
    with pytest.raises(ValueError, match="cannot be judged"):
        decide([], [outcome(S)])


def test_examine_takes_quantities_or_plain_numbers_and_notices_missing_ones():
    numbers = {"a": Sample.of([0.6, 0.7]), "b": Sample.of([0.4])}
    assert examine(Condition("a", "above", "b", "", ""), numbers).result == S
    assert examine(Condition("a", "above", 0.6, "", ""), numbers).result == U
    assert examine(Condition("a", "above", 0, "", ""), numbers).result == S
    assert examine(Condition("c", "above", "b", "", ""), numbers).result is None
    assert examine(Condition("a", "above", "c", "", ""), numbers).result is None


def test_the_sentence_says_what_came_true_with_its_numbers():
    numbers = {"a": Sample.of([0.6]), "b": Sample.of([0.4])}
    good = examine(Condition("a", "above", "b", "a exceeds b", "a does not exceed b"), numbers)
    bad = examine(Condition("b", "above", 0.5, "b is large", "b is small"), numbers)
    assert because([good]) == "A exceeds b (0.600 against 0.400)."
    assert because([good], [bad]) == "A exceeds b (0.600 against 0.400); but b is small (0.400 against 0.5)."
    assert because([bad], [good]).endswith("; control: a exceeds b (0.600 against 0.400).")
    lost = examine(Condition("z", "above", 0.5, "z is large", "z is small"), numbers)
    assert "but not measured: whether z is large" in because([good], [lost])


def test_overlapping_seeds_leave_a_question_open_and_do_not_prove_the_contrary():
    numbers = {"a": Sample.of([0.5, 0.7]), "b": Sample.of([0.55])}
    rises, falls = (
        examine(Condition("a", relation, "b", "a is ahead", "a is not ahead"), numbers)
        for relation in ("above", "below")
    )
    assert rises.result == falls.result == U
    assert str(rises) == "seeds overlap, so it is open whether a is ahead (0.600 against 0.550)"


def test_samples_show_their_spread_and_refuse_nan():
    assert str(Sample.of([0.5, 0.6])) == "0.550 (0.500 to 0.600)"
    assert str(Sample.of([0.5])) == str(Sample.of([0.5, 0.5])) == "0.500"
    for values in ([], [math.nan], [1, math.inf]):
        with pytest.raises(ValueError, match="one finite number"):
            Sample.of(values)


@pytest.mark.parametrize(
    "x, text",
    [
        (0, "0"),
        (0.12345, "0.123"),
        (0.000123, "0.0001"),
        (12.34, "12.3"),
        (1234.5, "1234"),
        (-0.25, "-0.250"),
        (-1e-9, "0.0000"),
        (6.0, "6.00"),
    ],
)
def test_numbers_have_three_digits(x, text):
    assert number(x) == text
