"""Stages: folders built once per set of inputs; they resume after a kill and are known by content."""

import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .. import paths
from ..files import aside, disk_full_explained, locked, made_folder, sha256, sync_file, sync_folder

log = logging.getLogger(__name__)
CARD = "stage.json"  # in every stage folder: what it was made from, and what its files hold
HASHED_BELOW = 64 * 2**20  # bytes: larger files are known by size and time, and by hash in `verify`
NO_CARD = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
)  # of what reads another file as one
REBUILD_BEFORE = "SPARC_REBUILD_BEFORE"  # seconds since 1970; older stages are built anew (--force)


class StageError(RuntimeError):
    """A finished stage that no longer holds what was written; the message names the file and the remedy."""


class _Written(NamedTuple):
    """A file of a finished stage as its card has it."""

    bytes: int
    modified_ns: int
    sha256: str


def stage(name: str, inputs: Any, build: Callable[[Path], None]) -> Path:
    """Return the finished folder `<data root>/stages/<name>-<hash of inputs>`; build it first if need be.

    inputs: whatever decides the result: (nested) dicts, lists, dataclasses, pydantic models, numbers, text.
    build: fills the folder that it is given, `<folder>.partial`. After a kill it is called again with what
        the killed call left there and may go on from it.

    A folder under the final name is whole: files are on the disk before it gets that name. Its card holds the
    hashes of its files, and a stage whose files are missing, unreadable or changed is built again; the log
    names the file. One process builds, others wait. Raises ValueError for a name that is no file name,
    TypeError for inputs without a stable text, DiskFullError when the disk is full, and whatever `build`
    raises.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise ValueError(f"stage name {name!r}: use lower-case letters, digits, '_', '.' and '-'")
    described = _describe(inputs)
    final = _place(name, described)
    if _is_current(final):
        return final
    partial = final.with_name(final.name + ".partial")
    made_folder(final.parent)
    with locked(final), disk_full_explained(partial):
        if _is_current(final):  # another process built it while this one waited
            return final
        if final.exists() and _fault(final):
            log.warning("%s; the stage is built again", _fault(final))
        _begin(partial, {"stage": name, "inputs": described})
        build(partial)
        _finish(partial, final)
    return final


def table_stage(name: str, inputs: Any, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Return the table that `make` returns, kept as a stage and read back from it, also the first time."""
    return tables_stage(name, inputs, lambda: {"table": make()})["table"]


def tables_stage(
    name: str, inputs: Any, make: Callable[[], Mapping[str, pd.DataFrame]]
) -> dict[str, pd.DataFrame]:
    """Return the tables {file name: table} that `make` returns, kept as one stage and read back from it."""

    def build(partial: Path) -> None:
        for file, frame in make().items():
            frame.to_csv(partial / f"{file}.csv", index=False, na_rep="nan")

    folder = stage(name, inputs, build)
    return {
        file.stem: pd.read_csv(file, keep_default_na=False, na_values=["nan"])
        for file in (folder / name for name in _read_card(folder)["files"])
    }


def is_finished(name: str, inputs: Any) -> bool:
    """Whether `stage` would return what is there, without building."""
    return _is_current(_place(name, _describe(inputs)))


def verify(folder: Path) -> None:
    """Compare the hashes of all files of a finished stage. Raises StageError for the first that differs."""
    fault = _fault(folder, thorough=True)
    if fault:
        raise StageError(f"{fault}; delete {folder} and run again")


def finished_stages() -> list[Path]:
    """Folders of all stages in the data root that were ever finished, whatever they hold now."""
    folders = (paths.data_root() / "stages").glob("*")
    return sorted(
        folder for folder in folders if folder.is_dir() and folder.suffix not in (".partial", ".old")
    )


def _place(name: str, described: Any) -> Path:
    return paths.data_root() / "stages" / f"{name}-{_digest(described)}"


def _is_current(folder: Path) -> bool:
    if not folder.exists() or _fault(folder):
        return False
    return _read_card(folder)["finished"] >= float(os.environ.get(REBUILD_BEFORE, 0))


def _fault(folder: Path, thorough: bool = False) -> str | None:
    """What is wrong with a finished stage, with the file's name; None if it is as it was written.

    A large file with another time (of a copied folder) is hashed once and then given its time back.
    """
    try:
        card = _read_card(folder)
        digest = _digest(card["inputs"])
        written = {name: _Written(**entry) for name, entry in card["files"].items()}
        float(card["finished"])
    except (OSError, *NO_CARD) as error:
        return f"{folder / CARD}: it is no card of a finished stage ({error})"
    if not folder.name.endswith(digest):
        return f"{folder / CARD}: it belongs to another stage"
    for name, file in written.items():
        path = folder / name
        if not path.is_file():
            return f"{path}: it is missing"
        status = path.stat()
        if status.st_size != file.bytes:
            return f"{path}: it has {status.st_size} bytes, {file.bytes} were written"
        large = status.st_size > HASHED_BELOW
        same_time = status.st_mtime_ns == file.modified_ns
        if large and same_time and not thorough:
            continue
        if sha256(path) != file.sha256:
            return f"{path}: its content is not what was written"
        if large and not same_time:
            os.utime(path, ns=(status.st_atime_ns, file.modified_ns))
    return None


def _read_card(folder: Path) -> dict:
    return json.loads((folder / CARD).read_text(encoding="utf-8"))


def _write_card(folder: Path, card: Mapping) -> None:
    with aside(folder / CARD) as partial:
        partial.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def _begin(partial: Path, card: Mapping) -> None:
    """Keep the partial work of a killed build if it is recent enough, else start from nothing."""
    try:
        recent = _read_card(partial)["begun"] >= float(os.environ.get(REBUILD_BEFORE, 0))
    except (OSError, *NO_CARD):
        recent = False
    if not recent:
        _remove(partial)
        partial.mkdir()
        _write_card(partial, {**card, "begun": time.time()})


def _finish(partial: Path, final: Path) -> None:
    """Sync the files of `partial` and write their hashes on its card; then put it in `final`'s place."""
    written = {}
    for path in sorted(partial.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        elif path != partial / CARD:
            sync_file(path)
            status = path.stat()
            file = _Written(status.st_size, status.st_mtime_ns, sha256(path))
            written[path.relative_to(partial).as_posix()] = file._asdict()
    card = _read_card(partial)
    _write_card(partial, {**card, "finished": time.time(), "files": written})
    old = final.with_name(final.name + ".old")
    _remove(old)
    if os.path.lexists(final):  # a folder that is not empty cannot be renamed over
        final.rename(old)
    partial.rename(final)
    sync_folder(final.parent)
    _remove(old)


def _remove(path: Path) -> None:
    """Delete what has this name, be it a folder, a file or a link that leads nowhere."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _digest(described: Any) -> str:
    text = json.dumps(described, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _describe(value: Any) -> Any:
    """`value` as plain JSON, dataclasses and pydantic models by field. Raises TypeError for all else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(type(value), "model_fields"):
        return {name: _describe(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"stage inputs: dict keys must be text, got {list(value)}")
        return {key: _describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_describe(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"stage inputs: {type(value).__name__} has no stable text; use text, numbers, dataclasses"
    )
