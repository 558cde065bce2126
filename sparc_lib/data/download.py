"""The files of a data set: downloaded once, verified by hash, and not read again while they stay as they are.

A file with a published hash is held against it. Of any other file the hash is recorded when it is first seen,
in `hashes.json` beside it, and it must not change from then on.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .. import files, paths
from .web import FAILED, Client

log = logging.getLogger(__name__)
RECORD = "hashes.json"
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class HashError(ValueError):
    """A file is not the one that was published or first downloaded."""


class RemoteFile(NamedTuple):
    """name: path inside the data set's folder. known_hash: "md5:..." or "sha256:..."; None if unpublished."""

    name: str
    url: str
    known_hash: str | None = None


class KnownFile(NamedTuple):
    """A file that is there and verified."""

    path: Path
    sha256: str


def obtain(folder: str | Path, file: RemoteFile, offline: bool | None = None) -> KnownFile:
    """`folder/file.name`, downloaded if it is not there, and verified.

    offline: default `paths.offline()`. Raises FileNotFoundError if the file is missing and cannot be had,
    HashError if it is not what it should be, DiskFullError; none of them leaves a half-written file.
    """
    folder = Path(folder)
    path = folder / file.name
    with _locked(folder):
        record = _read_record(folder)
        recorded = record.get(file.name, {}).get("sha256")
        if not path.exists():
            if paths.offline() if offline is None else offline:
                raise FileNotFoundError(
                    f"{path}: missing, and the network is not to be used (offline). Copy it there from "
                    f"{file.url}, or run once without --offline"
                )
            _download(path, file, recorded)
        elif recorded is not None and _entry(path, recorded) == record[file.name]:
            return KnownFile(path, recorded)
        elif file.known_hash and not _has_hash(path, file.known_hash):
            raise HashError(
                f"{path}: its hash is not the published {file.known_hash} (truncated or replaced); delete it "
                "and run again"
            )
        sha256 = files.sha256(path)
        if recorded is not None and recorded != sha256:
            raise HashError(
                f"{path}: its sha256 is {sha256}, but {folder / RECORD} recorded {recorded} when it "
                "was first seen. Delete the file to download it again, or its entry there if the change is "
                "meant"
            )
        _write_record(folder, record | {file.name: _entry(path, sha256)})
        return KnownFile(path, sha256)


def _download(path: Path, file: RemoteFile, recorded: str | None) -> None:
    """A recorded hash counts like a published one."""
    wanted = file.known_hash or (recorded and f"sha256:{recorded}")
    log.info("downloading %s", file.url)
    with files.aside(path) as partial:
        try:
            with open(partial, "wb") as target:
                content_type = Client(threads=1).get(file.url, target)
        except FAILED as error:
            raise FileNotFoundError(
                f"{path}: missing, and {file.url} could not be fetched ({error}). Check the connection and "
                f"the address (of a mirror: source.json in {path.parent}) and run again, or copy the file "
                "there"
            ) from error
        if _is_page(content_type, partial):
            raise FileNotFoundError(
                f"{path}: missing, and {file.url} answers with a web page. Mend the address (of a mirror: "
                f"source.json in {path.parent}), or copy the file there"
            )
        if wanted and not _has_hash(partial, wanted):
            raise HashError(
                f"{file.url}: what was downloaded has not the hash {wanted}; the file there has changed or a "
                f"proxy alters it. Put the right file at {path}"
            )


def _is_page(content_type: str, path: Path) -> bool:
    """Whether a server sent a web page, a login for instance, whatever it calls it."""
    with open(path, "rb") as handle:
        begin = handle.read(100).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return content_type.lower().startswith("text/html") or begin.startswith((b"<!doctype html", b"<html"))


def _has_hash(path: Path, known_hash: str) -> bool:
    """known_hash: algorithm:hexadecimal."""
    algorithm, _, wanted = known_hash.partition(":")
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, algorithm).hexdigest() == wanted


def _entry(path: Path, sha256: str) -> dict[str, str | int]:
    """What the record holds of a file; while size and time (ns since the epoch) are these, it need not be
    read.
    """
    status = path.stat()
    return {"sha256": sha256, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _read_record(folder: Path) -> dict[str, dict]:
    path = folder / RECORD
    try:
        record = json.loads(path.read_text())
        return {name: dict(entry) for name, entry in record.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise HashError(
            f"{path}: unreadable ({error}); delete it, and the files are recorded anew"
        ) from error


def _write_record(folder: Path, record: dict[str, dict]) -> None:
    try:
        with files.aside(folder / RECORD) as partial:
            partial.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        log.info("%s is read-only: hashes are not recorded", folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time looks after a folder; a read-only one needs no lock, for nobody changes it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / (RECORD + ".lock")).touch()
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        yield
        return
    with files.locked(folder / RECORD):
        yield
