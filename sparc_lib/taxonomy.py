"""Class hierarchies in the Open Images file format.

A class is lifted to its ancestor at depth <= D before concepts are compared (hierarchical Jaccard,
arXiv:2507.06265). The root has depth 0. Only `Subcategory` edges count: a wheel is `Part` of a car, not a
kind.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import numpy as np
import scipy.sparse as sp


def read_class_descriptions(path: str | Path) -> dict[str, str]:
    """Read `LabelName,DisplayName` rows; returns {label name: display name} in file order.

    Raises ValueError for a row without two fields or a repeated label name, and for what is no CSV in UTF-8.
    """
    try:
        return _class_rows(path)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({error}); download the file again") from error


def _class_rows(path: str | Path) -> dict[str, str]:
    names: dict[str, str] = {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.reader(file, strict=True), start=1):  # strict: quotes must end
            if not row or (number == 1 and row[0] == "LabelName"):
                continue
            if len(row) != 2 or row[0] in names or not all(field.strip() for field in row):
                wish = "expected a new 'LabelName,DisplayName' pair"
                raise ValueError(f"{path}, line {number}: {wish}, got {row!r}; download the file again")
            names[row[0]] = row[1]
    return names


def _deepest_paths(tree: Mapping) -> dict[str, tuple[str, ...]]:
    """{label name: (root, ..., it)} at its deepest occurrence, the first in the file of equally deep ones."""
    paths: dict[str, tuple[str, ...]] = {}
    waiting = [(tree, ())]  # a stack, for files may be nested more deeply than Python calls
    while waiting:
        node, above = waiting.pop()
        name = node.get("LabelName") if isinstance(node, Mapping) else None
        children = (node.get("Subcategory") or []) if name else []  # null is as good as none
        if not isinstance(name, str) or not isinstance(children, Sequence) or isinstance(children, str):
            fault = "has no 'LabelName', or no list of nodes as 'Subcategory'; use the Open Images format"
            raise ValueError(f"taxonomy: a node below {'/'.join(above[-5:]) or 'the top'} {fault}")
        if name in above:
            cycle = "/".join(above[-5:])
            raise ValueError(f"taxonomy: {name!r} is its own ancestor ({cycle}/{name}); remove the cycle")
        path = (*above, name)
        if len(path) > len(paths.get(name, ())):
            paths[name] = path
        waiting += [(child, path) for child in reversed(children)]
    return paths


@dataclass(frozen=True)
class Taxonomy:
    """C classes (label columns) placed in a hierarchy.

    classes: the C columns as the caller names them. labels: the label name each column lifts through, [C].
    graph: networkx.DiGraph of the deepest placements, edges parent -> child.
    """

    classes: tuple[str, ...]
    labels: tuple[str, ...]
    graph: nx.DiGraph

    @classmethod
    def from_open_images(
        cls,
        tree: Mapping,
        classes: Sequence[str],
        names: Mapping[str, str] | None = None,
        column_order: str = "right",
    ) -> "Taxonomy":
        """Place `classes` in an Open Images hierarchy.

        tree: {"LabelName": ..., "Subcategory": [...]}. A node with several parents keeps its deepest
        occurrence (the first in file order among equally deep ones). classes: label names that occur in the
        tree, or, with `names` = {label name: display name} in file order (`read_class_descriptions`), display
        names. column_order: "as_published" reproduces finding F1 for comparison: columns are sorted by
        display name but lifted through codes in file order, so nearly every column carries the code of
        another class. Needs `names`.

        Raises ValueError for a malformed tree, empty, repeated, unknown or ambiguous classes.
        """
        if column_order not in ("right", "as_published"):
            raise ValueError(f"column_order={column_order!r}: choose 'right' or 'as_published'")
        if column_order == "as_published" and names is None:
            raise ValueError("column_order='as_published' needs names={label name: display name}")
        classes = tuple(classes)
        if not classes:
            raise ValueError("taxonomy: classes is empty; pass the label columns' names")
        paths = _deepest_paths(tree)
        labels = _resolve(classes, paths, names or {})
        if column_order == "as_published":
            labels = _misplaced(labels, names)
        graph = nx.DiGraph()
        for name, path in paths.items():
            graph.add_node(name, path=path, depth=len(path) - 1)
            if len(path) > 1:
                graph.add_edge(path[-2], name)
        return cls(classes, labels, graph)

    @property
    def max_depth(self) -> int:
        """Depth of the deepest node; the root has depth 0. Lifting to it changes nothing."""
        return max(depth for _, depth in self.graph.nodes(data="depth"))

    def path(self, name: str) -> tuple[str, ...]:
        """(root, ..., name) for a class or a label name of the tree. Raises KeyError if unknown."""
        label = self.labels[self.classes.index(name)] if name in self.classes else name
        if label not in self.graph:
            raise KeyError(f"{name!r} is neither a class nor a label name of this taxonomy")
        return self.graph.nodes[label]["path"]

    def ancestors(self, depth: int) -> tuple[str, ...]:
        """Label name of each column's ancestor at depth <= `depth`, [C]. Raises ValueError if depth < 0."""
        if depth < 0:
            raise ValueError(f"depth={depth}: the root has depth 0, choose 0 to {self.max_depth}")
        paths = (self.graph.nodes[label]["path"] for label in self.labels)
        return tuple(path[min(depth, len(path) - 1)] for path in paths)

    def buckets(self, depth: int) -> tuple[str, ...]:
        """Distinct ancestors in order of first appearance: the columns of `lift(depth)`."""
        return tuple(dict.fromkeys(self.ancestors(depth)))

    def lift(self, depth: int) -> sp.csr_array:
        """0/1 matrix [C, buckets]; `counts [L, C] @ lift(depth)` gives counts per bucket."""
        position = {name: column for column, name in enumerate(self.buckets(depth))}
        columns = np.array([position[name] for name in self.ancestors(depth)])
        ones = np.ones(len(columns), dtype=np.int64)
        return sp.csr_array((ones, (np.arange(len(columns)), columns)), shape=(len(columns), len(position)))


def _resolve(classes: tuple[str, ...], paths: Mapping, names: Mapping[str, str]) -> tuple[str, ...]:
    """Label name of each class, [C]. ValueError for classes that have none, several or a shared one."""
    codes: dict[str, list[str]] = {}
    for code, display in names.items():
        if code in paths:
            codes.setdefault(display, []).append(code)
    labels, unknown = [], []
    for name in classes:
        candidates = [name] if name in paths else codes.get(name, [])
        if len(candidates) > 1:
            raise ValueError(f"class {name!r} is the display name of {candidates}; pass label names instead")
        if not candidates:
            unknown.append(name)
        labels += candidates
    if unknown:
        fault = f"{len(unknown)} of {len(classes)} classes are not in the tree, first {unknown[:5]}"
        raise ValueError(f"taxonomy: {fault}; pass its label names, or names={{label name: display name}}")
    if len(set(labels)) != len(labels):
        repeated = sorted({name for name, label in zip(classes, labels) if labels.count(label) > 1})
        raise ValueError(f"taxonomy: classes repeat {repeated[:5]}; every label column needs its own class")
    return tuple(labels)


def _misplaced(labels: tuple[str, ...], names: Mapping[str, str]) -> tuple[str, ...]:
    """The labels that the published evaluation gives to the same columns (F1), [C]."""
    in_file_order = [code for code in names if code in set(labels)]
    missing = sorted(set(labels) - set(names))
    if missing:
        raise ValueError(f"names lacks {missing[:5]}: 'as_published' needs every class in it")
    by_display = sorted(labels, key=lambda label: names[label])
    published = dict(zip(by_display, in_file_order, strict=True))
    return tuple(published[label] for label in labels)
