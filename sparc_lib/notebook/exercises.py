"""Exercises that answer: a student sets `answer`, one line says whether it is right or what to look at.

Each notebook has a file of its own, notebooks/exercises/exNN.py, with `EXERCISES = {1: Exercise(...), ...}`.
The notebook calls `grade = grader("NN")` once, and after every question `grade(1, answer)`.
"""

import importlib.util
import math
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import paths

Judge = Callable[[Any], str | None]


class ExerciseError(ValueError):
    """A notebook or a question that has no exercise."""


@dataclass(frozen=True)
class Exercise:
    """One question.

    judge: takes an answer and returns None if it is right, otherwise a hint that does not tell the answer.
    solution: code that sets `answer`, the same as in the notebook's fold.
    wrong: codes that set `answer` to what students take for right; the tests see each of them refused.
    remark: what a right answer is told.
    """

    judge: Judge
    solution: str
    wrong: tuple[str, ...]
    remark: str = ""

    def run(self, code: str) -> Any:
        """What `code` leaves in `answer`."""
        names: dict[str, Any] = {}
        exec(
            compile(textwrap.dedent(code), "<exercise>", "exec"), names
        )  # our own file's code, never a reader's
        return names["answer"]


def load(notebook: str) -> dict[int, Exercise]:
    """The exercises of notebook "05". Raises ExerciseError if it has none."""
    file = paths.REPO / "notebooks" / "exercises" / f"ex{notebook}.py"
    if not file.is_file():
        raise ExerciseError(f"notebook {notebook!r} has no exercises: {file.name} is missing")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EXERCISES


def grader(notebook: str) -> Callable[[int, Any], None]:
    """The `grade` of notebook "05": grade(1, answer) prints what it thinks of the answer to exercise 1."""
    exercises = load(notebook)

    def grade(number: int, answer: Any = ...) -> None:
        if number not in exercises:
            raise ExerciseError(
                f"notebook {notebook} has no exercise {number}; it has {', '.join(map(str, exercises))}"
            )
        print(f"exercise {number}: {verdict(exercises[number], answer)}")

    return grade


def verdict(exercise: Exercise, answer: Any) -> str:
    """One line about an answer. `...` is none yet; an answer that the judge cannot take is not yet right."""
    if answer is ...:
        return "no answer yet; put yours in place of the three dots"
    try:
        hint = exercise.judge(answer)
    except Exception as error:  # a student's function may raise anything; say what it was
        return f"not yet. Your answer raised {type(error).__name__}: {error}"
    if hint is None:
        return f"right. {exercise.remark}".strip()
    return f"not yet. {hint}"


def number(expected: float, tolerance: float, hint: str, hints: Mapping[float, str] | None = None) -> Judge:
    """Judge a number, within a tolerance. hints {wrong number that betrays a known mistake: its own hint}."""

    def judge(answer: Any) -> str | None:
        try:
            value = float(answer)
        except (TypeError, ValueError):
            return "A number is wanted."
        if math.isfinite(value) and abs(value - expected) <= tolerance:
            return None
        for mistake, advice in (hints or {}).items():
            if math.isfinite(value) and abs(value - mistake) <= tolerance:
                return advice
        return hint

    return judge


def choice(expected: str, others: Mapping[str, str]) -> Judge:
    """Judge one of several words. others {wrong word: its hint}; upper and lower case are the same."""
    advice = {word.casefold(): hint for word, hint in others.items()}

    def judge(answer: Any) -> str | None:
        word = str(answer).strip().casefold()
        if word == expected.casefold():
            return None
        if word in advice:
            return advice[word]
        return "Choose one of: " + ", ".join(sorted([expected, *others])) + "."

    return judge
