"""The files that declare claims, quantities and published numbers, read and checked field by field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..yaml_files import OnceLoader, once

STRICT = ConfigDict(
    extra="forbid", strict=True, allow_inf_nan=False
)  # of the dataclasses that entries become
Entry = TypeVar("Entry")


def read_declared(file: Path, kind: type[Entry]) -> list[Entry]:
    """The entries of a YAML or JSON file as `kind`, a pydantic dataclass whose field `id` names each of them.

    Raises ValueError that names file, entry and field for everything that does not fit, all of it at once.
    """
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            raw = json.loads(text, object_pairs_hook=once)
        else:
            raw = yaml.load(text, OnceLoader)  # noqa: S506 (a SafeLoader)
        plain = json.dumps(raw)
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: it cannot be read ({error}); restore it from version control") from error
    try:
        entries = TypeAdapter(list[kind]).validate_json(plain)
    except ValidationError as error:
        faults = [_described(raw, fault["loc"], fault["msg"]) for fault in error.errors()]
        raise ValueError(f"{file}: {'; '.join(faults)}") from error
    ids = [entry.id for entry in entries]
    twice = sorted({entry for entry in ids if ids.count(entry) > 1})
    if twice:
        raise ValueError(f"{file}: {', '.join(twice)}: declared twice; each id may stand there once")
    return entries


def _described(raw: Any, place: tuple[str | int, ...], message: str) -> str:
    """A fault with the entry and the field it lies in. place: (number of the entry, field, ...)."""
    if not place:
        return f"the file is no list of entries ({message.lower()}); restore it from version control"
    number, field = place[0], ".".join(map(str, place[1:]))
    entry = raw[number]
    name = entry.get("id") if isinstance(entry, dict) else None
    where = f"entry {name!r}" if name else f"entry number {number + 1}"
    return f"{where}, field {field}: {message}" if field else f"{where}: {message}"
