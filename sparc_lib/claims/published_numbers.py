"""What a notebook says in words and tables: computed sentences, and the paper's numbers beside ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from IPython.display import Markdown, display


class PublishedValue(NamedTuple):
    """A number of the paper or of the authors' public notebooks, with where it comes from."""

    id: str
    metric: str
    value: float
    setting: str
    source: str
    note: str


@cache
def published() -> dict[str, PublishedValue]:
    """All published numbers by id, e.g. ``jaccard/global_lambda1/depth5``."""
    rows = json.loads((Path(__file__).parent / "published_results.json").read_text())
    return {row["id"]: PublishedValue(*(row[field] for field in PublishedValue._fields)) for row in rows}


def reading(text: str, lacks: str = "") -> None:
    """Show what a result says. Pass an f-string: every number in it is computed, none is typed.

    lacks: why the numbers cannot be had from this profile's data, which is then shown in place of the text.
    """
    display(Markdown(f"**Reading.** {f'Not measurable on this profile: {lacks}.' if lacks else text}"))


def beside_paper(here: Mapping[str, float | str], ids: Mapping[str, str]) -> pd.DataFrame:
    """A table "quantity, paper, authors' notebooks, here". ``ids``: quantity -> id of the published
    number."""
    rows = []
    for quantity, value in here.items():
        known = published().get(ids.get(quantity, ""))
        paper = known is not None and known.source.startswith("paper")
        rows.append(
            {
                "quantity": quantity,
                "paper": known.value if paper else None,
                "authors' notebooks": known.value if known and not paper else None,
                "here": value,
            }
        )
    return pd.DataFrame(rows)
