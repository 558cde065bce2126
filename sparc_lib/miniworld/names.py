"""Class hierarchies and names in the file format of Open Images: the miniature world's, and the real one."""

from __future__ import annotations

import csv
import json
from functools import cache

from .drawing import WORLD


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
def _branches() -> dict[str, str]:
    def leaves(node: dict) -> list[str]:
        below = node.get("Subcategory", [])
        return [leaf for child in below for leaf in leaves(child)] if below else [node["LabelName"][3:]]

    branches = {node["LabelName"][3:]: node for node in hierarchy()["Subcategory"]}
    return {leaf: name for name, node in branches.items() for leaf in [name, *leaves(node)]}


def branch_of(name: str) -> str:
    """The main branch of the taxonomy a class belongs to: ``dog`` -> ``animal``."""
    return _branches()[name]
