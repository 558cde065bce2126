import math

import pytest

from sparc_lib.claims.verdicts import Condition, Outcome, Sample, because, compare, decide, examine, number


def outcome(holds):
    return Outcome(
        Condition("a", "above", 0.5, "a is large", "a is small"), Sample.of([0.7]), Sample.of([0.5]), holds
    )


def test_above_counts_the_spread_of_the_seeds_and_the_margin():
    left, right = Sample.of([0.5, 0.6]), Sample.of([0.3, 0.4])
    assert compare(left, "above", right) and compare(right, "below", left)
    assert compare(left, "above", right, 0.0999) and not compare(left, "above", right, 0.1001)
    assert not compare(Sample.of([0.39, 0.9]), "above", right)  # higher mean, but one seed lies inside
    assert not compare(left, "above", left) and not compare(left, "below", left)


def test_near_asks_every_seed():
    assert compare(Sample.of([0.1, 0.3]), "near", Sample.of([0.25]), 0.15)
    assert not compare(Sample.of([0.1, 0.3]), "near", Sample.of([0.25]), 0.1499)  # the mean alone would pass
    assert not compare(Sample.of([0.1, 0.3]), "near", Sample.of([0.1]), 0.15)
    with pytest.raises(ValueError, match="relation 'beside'"):
        compare(Sample.of([0]), "beside", Sample.of([0]))


@pytest.mark.parametrize(
    "conditions, controls, verdict",
    [
        ([True], [], "holds"),
        ([True, True], [True], "holds"),
        ([True], [False], "holds in part"),
        ([True], [True, False], "holds in part"),
        ([True], [None], "holds in part"),
        ([True, False], [], "holds in part"),
        ([True, False], [True], "holds in part"),
        ([True, False], [True, False], "holds in part"),
        ([True, False], [False], "does not hold"),
        ([True, False], [False, None], "does not hold"),
        ([False], [], "does not hold"),
        ([False, False], [True], "does not hold"),
        ([None], [True], "not measurable"),
        ([True, None], [], "not measurable"),
        ([False, None], [], "not measurable"),
    ],
)
def test_every_verdict_follows_from_the_outcomes(conditions, controls, verdict):
    assert decide([outcome(holds) for holds in conditions], [outcome(holds) for holds in controls]) == verdict


def test_a_claim_without_conditions_is_refused():
    with pytest.raises(ValueError, match="cannot be judged"):
        decide([], [outcome(True)])


def test_examine_takes_quantities_or_plain_numbers_and_notices_missing_ones():
    numbers = {"a": Sample.of([0.6, 0.7]), "b": Sample.of([0.4])}
    assert examine(Condition("a", "above", "b", "", ""), numbers).holds is True
    assert examine(Condition("a", "above", 0.6, "", ""), numbers).holds is False
    assert examine(Condition("a", "above", 0, "", ""), numbers).holds is True
    assert examine(Condition("c", "above", "b", "", ""), numbers).holds is None
    assert examine(Condition("a", "above", "c", "", ""), numbers).holds is None


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
    assert rises.holds is False and rises.undecided and not falls.undecided
    assert str(rises) == "seeds overlap, so it is open whether a is ahead (0.600 against 0.550)"
    assert str(falls).startswith("a is not ahead")
    assert not examine(
        Condition("a", "above", "b", "", "", 0.06), numbers
    ).undecided  # the means miss the margin too


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
