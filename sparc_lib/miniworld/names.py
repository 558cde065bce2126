"""Class hierarchies and names in the file format of Open Images: the miniature world's, and the real one."""

from __future__ import annotations

import csv
import json
from functools import cache

from .glyphs import WORLD


@cache
def hierarchy() -> dict:
    """The tree as read from ``world/hierarchy.json``: LabelName, Subcategory, Part."""
    return json.loads((WORLD / "hierarchy.json").read_text())


@cache
def display_names() -> dict[str, str]:
    """LabelName (``/w/dog``) -> DisplayName (``Dog``)."""
    with open(WORLD / "class-descriptions.csv", newline="") as file:
        return {row["LabelName"]: row["DisplayName"] for row in csv.DictReader(file)}


@cache
def _ancestors() -> dict[str, tuple[str, ...]]:
    out: dict[str, tuple[str, ...]] = {}

    def visit(node: dict, above: tuple[str, ...]) -> None:
        name = node["LabelName"][3:]
        out[name] = tuple(dict.fromkeys(out.get(name, ()) + above))
        for child in node.get("Subcategory", []):
            visit(child, above + (name,))

    for branch in hierarchy()["Subcategory"]:
        visit(branch, ())
    return out


def ancestors(name: str) -> tuple[str, ...]:
    """The groups that a class belongs to, from the broadest: ``tulip`` -> ``plant``, ``flowering_plant``."""
    return _ancestors()[name]


def branch_of(name: str) -> str:
    """The main branch of the taxonomy a class or group belongs to: ``dog`` -> ``animal``."""
    return (*ancestors(name), name)[0]
