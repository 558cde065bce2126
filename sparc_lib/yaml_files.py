"""YAML files read strictly, and sentences that say what is wrong with them."""

import difflib
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

WISHES = {  # for kinds of faults that pydantic words for programmers
    "dataclass_type": "must be a mapping, as in mini.yaml",
    "tuple_type": "must be a list",
    "too_short": "must be a list with an entry that holds",
    "string_pattern_mismatch": "must begin with a letter and hold letters, digits, '-' and '_' alone",
}


def read_yaml(file: Path) -> Any:
    """What a YAML file says.

    Raises OSError, ValueError, RecursionError or yaml.YAMLError if it cannot be read, gives a key twice or
    holds an alias.
    """
    return yaml.load(file.read_text(encoding="utf-8"), _PlainLoader)  # noqa: S506 (a SafeLoader)


def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The entries of a JSON object, for `object_pairs_hook`. ValueError for a key given twice."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice} is given twice; keep one")
    return entries


class OnceLoader(yaml.SafeLoader):
    """Refuses a key given twice, of which YAML keeps the last, and numbers that mean others than they show:
    YAML reads 010 as 8 and 1:30 as 90.
    """

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"field {key.value} is given twice; keep one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(str(key.value))
        return node

    def compose_scalar_node(self, anchor: str | None) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if number and re.match(r"[-+]?0[0-7_]|.*:", node.value):
            problem = f"{node.value} would be read as another number; write it without leading 0 and ':'"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return node


class _PlainLoader(OnceLoader):
    """Refuses aliases as well, which grow without bound."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not read; write it out", problem_mark=mark
            )
        return super().compose_node(parent, index)


def fault_sentence(fault: dict, fields: Sequence[str]) -> str:
    """What pydantic found wrong with one field, with its value in short and the remedy.

    fields: all names there are, of which a wrong one may mean one.
    """
    field = ""
    for part in fault["loc"]:
        field += f"[{part}]" if isinstance(part, int) else f".{part}"
    field = field.lstrip(".") or "of the whole file"
    if fault["type"] == "missing":
        return f"field {field} is missing; add it, as mini.yaml has it"
    if fault["type"] == "unexpected_keyword_argument":
        near = difflib.get_close_matches(field.rpartition(".")[2], fields, 1)
        return f"unknown field {field}; " + (f"did you mean {near[0]}?" if near else "remove it")
    wish = WISHES.get(fault["type"]) or fault["msg"].replace("Input should be", "must be")
    if fault["type"] == "float_type" and isinstance(fault["input"], str):
        wish += " (YAML reads 1e-4 as text: write 1.0e-4)"
    value = fault["input"]
    if isinstance(value, int) and abs(value) >= 2**64:  # Python refuses to print the longest
        return f"field {field} {wish}, got a number of {value.bit_length()} bits"
    return f"field {field} {wish}, got {reprlib.repr(value)}"
