"""The numbers of the paper and of the authors' notebooks, and tables that put ours beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pydantic.dataclasses import dataclass

from .declared import STRICT, read_declared

NUMBERS = Path(__file__).parent / "published_results.json"


class PublishedValue(NamedTuple):
    """A number of the paper or of the authors' public notebooks, with where it comes from."""

    id: str
    metric: str
    value: float
    setting: str
    source: str
    note: str


@dataclass(frozen=True, config=STRICT)
class _Entry:
    """A published number as the file has it; group: for people who read the file."""

    id: str
    group: str
    metric: str
    value: int | float
    setting: str
    source: str
    note: str


@cache
def published(file: Path = NUMBERS) -> dict[str, PublishedValue]:
    """All published numbers by id, like ``jaccard/global_lambda1/depth5``. ValueError for a broken file."""
    rows = [asdict(entry) for entry in read_declared(file, _Entry)]
    return {row["id"]: PublishedValue(*map(row.get, PublishedValue._fields)) for row in rows}


def beside_paper(here: Mapping[str, float | str], ids: Mapping[str, str]) -> pd.DataFrame:
    """A table "quantity, paper, authors' notebooks, here". ids: quantity -> id of the published number."""
    rows = []
    for quantity, value in here.items():
        row = {"quantity": quantity, "paper": None, "authors' notebooks": None, "here": value}
        number = published().get(ids.get(quantity, ""))
        if number is not None:
            row["paper" if number.source.startswith("paper") else "authors' notebooks"] = number.value
        rows.append(row)
    return pd.DataFrame(rows)
