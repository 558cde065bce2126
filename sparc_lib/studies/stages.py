"""Stages: folders that are built once per set of inputs and resume after a kill."""

import dataclasses
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from .. import paths

log = logging.getLogger(__name__)
CARD = "stage.json"  # what a stage folder was made from
REBUILD_BEFORE = (
    "SPARC_REBUILD_BEFORE"  # seconds since the epoch; older stages are built anew (run_all.sh --force)
)


class StageError(RuntimeError):
    """A stage that could not be finished; the message says what to do."""


def stage(
    name: str, inputs: Any, build: Callable[[Path], None], root: Path | None = None, force: bool = False
) -> Path:
    """The finished folder `<root>/<name>-<hash of inputs>`, built first if need be.

    inputs: whatever decides the result, as (nested) dicts, lists, dataclasses,
        numbers and text; a Path stands for the contents of that file or folder.
    build: fills the folder it is given, `<folder>.partial`. After a kill it is
        called again with what the killed call left there and may go on from it,
        so it must write each of its own files aside and rename it.
    root: default `<data root>/stages`.
    force: build anew, discarding a finished or a partial folder. Partial work
        of a forced build that was killed counts as partial work like any other.

    The partial folder is renamed only when `build` has returned, so a folder
    under the final name is whole. A lock lets one process build; others wait.
    Raises StageError when the disk is full, and whatever `build` raises.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise ValueError(f"stage name {name!r}: use lower-case letters, digits, '_', '.' and '-'")
    described = _describe(inputs)
    final = _place(name, described, root)
    partial = final.with_name(final.name + ".partial")
    if not force and _is_current(final):
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with lock(final):
        if not force and _is_current(final):  # another process built it while this one waited
            return final
        if force or not _is_current(partial):
            shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(exist_ok=True)
            card = partial / CARD
            if not card.exists():
                aside = card.with_name(CARD + ".tmp")
                aside.write_text(json.dumps({"stage": name, "inputs": described}, indent=1) + "\n")
                aside.rename(card)
            build(partial)
            os.utime(card)  # its time says when the stage was finished
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StageError(
                    f"{partial}: the disk is full. Free space there or point $SPARC_DATA elsewhere, "
                    "then run again: finished parts are kept"
                ) from error
            raise
        _replace(partial, final)
    return final


def table_stage(name: str, inputs: Any, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The table that `make` returns, kept as a stage of its own and read back from it, also the first time."""
    folder = stage(name, inputs, lambda partial: make().to_csv(partial / "table.csv", index=False))
    return pd.read_csv(folder / "table.csv")


def is_finished(name: str, inputs: Any, root: Path | None = None) -> bool:
    """Whether `stage` would return what is there, without building."""
    return _is_current(_place(name, _describe(inputs), root))


def _place(name: str, described: Any, root: Path | None) -> Path:
    return (root or paths.data_root() / "stages") / f"{name}-{_digest(described)}"


def _is_current(folder: Path) -> bool:
    card = folder / CARD
    return card.is_file() and card.stat().st_mtime >= float(os.environ.get(REBUILD_BEFORE, 0))


def _replace(partial: Path, final: Path) -> None:
    """Put `partial` in the place of `final`; a non-empty folder cannot be renamed over."""
    old = final.with_name(final.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def lock(final: Path) -> Iterator[None]:
    """Hold the lock on what is to become `final`; the system lets go of it when the process ends, however it ends."""
    with open(final.with_name(final.name + ".lock"), "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("waiting for another process that builds %s", final.name)
            started = time.monotonic()
            fcntl.flock(handle, fcntl.LOCK_EX)
            log.warning("waited %.0f s for %s", time.monotonic() - started, final.name)
        yield


def _digest(described: Any) -> str:
    text = json.dumps(described, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _describe(value: Any) -> Any:
    """`value` as plain JSON, files by their contents. Raises TypeError for what has no stable text."""
    if isinstance(value, Path):
        return {"sha256": hash_path(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"stage inputs: dict keys must be text, got {list(value)}")
        return {key: _describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_describe(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"stage inputs: {type(value).__name__} has no stable text; use text, numbers, Paths, dataclasses"
    )


def hash_path(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in a folder."""
    total = hashlib.sha256()
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            total.update(f"{file.relative_to(path).as_posix()}\0{hash_path(file)}\n".encode())
        return total.hexdigest()
    try:
        with open(path, "rb") as handle:
            while chunk := handle.read(1 << 20):
                total.update(chunk)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}: an input of a stage is missing; build or download it first"
        ) from error
    return total.hexdigest()
