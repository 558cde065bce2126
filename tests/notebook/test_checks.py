import re

import numpy as np
import pytest

from sparc_lib.notebook.checks import above, check


def test_line_names_the_expectation_and_not_the_measurement(capsys):
    check("R@1", 0.3123, 0.31, 0.02)
    check("R@1", 0.2988, 0.31, 0.02)
    assert capsys.readouterr().out == "ok  R@1 within 0.3100 ± 0.0200\n" * 2


def test_outside_the_tolerance_fails_with_the_measured_value(capsys):
    with pytest.raises(AssertionError, match=r"R@1: measured 0\.3312, expected 0\.3100 ± 0\.0200"):
        check("R@1", 0.3312, 0.31, 0.02)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_nan_and_infinity_fail(value):
    with pytest.raises(AssertionError, match="measured (nan|inf)"):
        check("loss", value, 1.0, 1e9)


def test_the_edge_of_the_tolerance_is_inside(capsys):
    check("edge", 0.1 + 0.2, 0.3, 0.0)
    check("edge", 0.33, 0.31, 0.02)
    assert capsys.readouterr().out.count("ok") == 2


def test_other_profiles_report_and_never_fail(capsys):
    check("R@1", np.array(0.9), 0.31, 0.02, profile="coco")
    assert capsys.readouterr().out == "--  R@1 is 0.9000 on coco (mini: 0.3100 ± 0.0200)\n"
    check("R@1", float("nan"), 0.31, 0.02, profile="smoke")
    assert capsys.readouterr().out == "--  R@1 is not measurable on smoke (mini: 0.3100 ± 0.0200)\n"


def test_small_numbers_stay_legible(capsys):
    check("error", 2e-7, 0, 1e-6)
    assert re.fullmatch(r"ok  error within 0\.0000 ± 1e-06\n", capsys.readouterr().out)


@pytest.mark.parametrize("expected, tolerance", [(float("nan"), 0.1), (0.3, -0.1), (0.3, float("inf"))])
def test_impossible_ranges_are_refused(expected, tolerance):
    with pytest.raises(ValueError, match="is no range"):
        check("R@1", 0.3, expected, tolerance)


def test_an_order_is_stated_and_fails_when_seeds_overlap(capsys):
    above("trained beats untrained", [0.3, 0.4], 0.29)
    assert capsys.readouterr().out == "ok  trained beats untrained\n"
    for low, margin in (([0.1, 0.35], 0.0), (0.1, 0.3), (float("nan"), 0.0)):
        with pytest.raises(AssertionError, match="write the reading"):
            above("trained beats untrained", [0.3, 0.4], low, margin=margin)
    above("trained beats untrained", 0.1, 0.2, "coco")
    assert capsys.readouterr().out == "--  trained beats untrained: not so on coco\n"
