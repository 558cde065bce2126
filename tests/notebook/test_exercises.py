"""Exercises that answer: every committed solution is right, every committed mistake is not."""

import textwrap

import nbformat
import pytest

from sparc_lib import paths
from sparc_lib.notebook import exercises
from sparc_lib.notebook.exercises import Exercise, ExerciseError, choice, grader, load, number, verdict

NOTEBOOKS = sorted((paths.REPO / "notebooks").glob("[0-9][0-9]_*.ipynb"))
WITH = sorted(
    file.stem.removeprefix("ex") for file in (paths.REPO / "notebooks" / "exercises").glob("ex*.py")
)
COMMITTED = [(name, n) for name in WITH for n in load(name)]


def test_every_notebook_has_three_exercises():
    few = [file.name for file in NOTEBOOKS if file.name[:2] not in WITH or len(load(file.name[:2])) < 3]
    assert not few


@pytest.mark.parametrize("notebook, n", COMMITTED)
def test_a_solution_is_right(notebook, n):
    exercise = load(notebook)[n]
    assert verdict(exercise, exercise.run(exercise.solution)).startswith("right.")


@pytest.mark.parametrize("notebook, n", COMMITTED)
def test_every_mistake_gets_a_hint_that_does_not_tell_the_answer(notebook, n):
    exercise = load(notebook)[n]
    assert len(exercise.wrong) >= 2
    for code in exercise.wrong:
        told = verdict(exercise, exercise.run(code))
        assert told.startswith("not yet. ") and len(told) > len("not yet. ") + 10, code


@pytest.mark.parametrize("notebook, n", COMMITTED)
def test_the_notebook_asks_grades_and_folds_the_solution(notebook, n):
    (file,) = [file for file in NOTEBOOKS if file.name.startswith(notebook)]
    cells = nbformat.read(file, as_version=4).cells
    asking = [cell for cell in cells if cell.cell_type == "code" and f"grade({n}, answer)" in cell.source]
    assert len(asking) == 1 and "answer = ..." in asking[0].source
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    solution = textwrap.dedent(load(notebook)[n].solution).strip()
    assert f"```python\n{solution}\n```" in text and "<details>" in text


def test_no_answer_is_asked_for_one(monkeypatch, capsys):
    made = Exercise(number(4, 0.1, "Count the corners."), "answer = 4", ("answer = 3",), "A square has four.")
    monkeypatch.setattr(exercises, "load", lambda notebook: {1: made})
    grade = grader("00")
    grade(1)
    grade(1, ...)
    grade(1, 3)
    grade(1, "four")
    grade(1, 4.05)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["exercise 1: no answer yet; put yours in place of the three dots"] * 2
    assert lines[2:] == [
        "exercise 1: not yet. Count the corners.",
        "exercise 1: not yet. A number is wanted.",
        "exercise 1: right. A square has four.",
    ]


def test_an_unknown_exercise_or_notebook_is_an_error(monkeypatch):
    monkeypatch.setattr(exercises, "load", lambda notebook: {})
    with pytest.raises(ExerciseError, match="no exercise 7"):
        grader("00")(7, 1)
    monkeypatch.undo()
    with pytest.raises(ExerciseError, match="has no exercises"):
        load("77")


def test_a_known_mistake_has_its_own_hint_and_nan_is_wrong():
    judge = number(2.0, 0.1, "Look again.", {4.0: "You squared it."})
    assert judge(2.05) is None
    assert judge(4.0) == "You squared it."
    assert judge(float("nan")) == "Look again."


def test_a_choice_ignores_case_and_lists_the_words():
    judge = choice("Global", {"local": "Which one shares?"})
    assert judge(" global ") is None
    assert judge("Local") == "Which one shares?"
    assert judge("both") == "Choose one of: Global, local."


def test_a_function_that_fails_is_told_why():
    def judge(function):
        return None if function(1) == 2 else "Add one."

    made = Exercise(judge, "answer = lambda x: x + 1", ("answer = lambda x: x", "answer = lambda: 1"))
    assert verdict(made, lambda x: x + 1) == "right."
    assert verdict(made, lambda x: x) == "not yet. Add one."
    assert "raised TypeError" in verdict(made, lambda: 1)
