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
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class _Entry:
    """What the record knows of a file; while size and time (ns since the epoch) are these, it need not be
    read.
    """

    sha256: str
    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, sha256: str) -> _Entry:
        status = path.stat()
        return cls(sha256, status.st_size, status.st_mtime_ns)


def obtain(folder: str | Path, file: RemoteFile, offline: bool | None = None) -> KnownFile:
    """`folder/file.name`, downloaded if it is not there, and verified.

    offline: default `paths.offline()`. Raises FileNotFoundError if the file is missing and cannot be had,
    HashError if it is not what it should be, DiskFullError; none of them leaves a half-written file.
    """
    folder = Path(folder)
    path = folder / file.name
    with _locked(folder):
        recorded = _read_record(folder).get(file.name)
        if not path.exists():
            if paths.offline() if offline is None else offline:
                raise FileNotFoundError(
                    f"{path}: missing, and the network is not to be used (offline). Copy it there from "
                    f"{file.url}, or run once without --offline"
                )
            _download(path, file, recorded)
        elif recorded is not None and _Entry.of(path, recorded.sha256) == recorded:
            return KnownFile(path, recorded.sha256)
        elif file.known_hash and not _has_hash(path, file.known_hash):
            raise HashError(
                f"{path}: its hash is not the published {file.known_hash} (truncated or replaced); delete it "
                "and run again"
            )
        sha256 = files.sha256(path)
        if recorded is not None and recorded.sha256 != sha256:
            raise HashError(
                f"{path}: its sha256 is {sha256}, but {folder / RECORD} recorded {recorded.sha256} when it "
                "was first seen. Delete the file to download it again, or its entry there if the change is "
                "meant"
            )
        _write_record(folder, file.name, _Entry.of(path, sha256))
        return KnownFile(path, sha256)


def _download(path: Path, file: RemoteFile, recorded: _Entry | None) -> None:
    """A recorded hash counts like a published one."""
    wanted = file.known_hash
    if wanted is None and recorded is not None:
        wanted = f"sha256:{recorded.sha256}"
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
        if content_type.startswith("text/html"):
            raise FileNotFoundError(
                f"{path}: missing, and {file.url} answers with a web page. Mend the address (of a mirror: "
                f"source.json in {path.parent}), or copy the file there"
            )
        if wanted is not None and not _has_hash(partial, wanted):
            raise HashError(
                f"{file.url}: what was downloaded has not the hash {wanted}; the file there has changed or a "
                f"proxy alters it. Put the right file at {path}"
            )


def _has_hash(path: Path, known_hash: str) -> bool:
    """known_hash: algorithm:hexadecimal."""
    algorithm, _, wanted = known_hash.partition(":")
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, algorithm).hexdigest() == wanted


def _read_record(folder: Path) -> dict[str, _Entry]:
    path = folder / RECORD
    try:
        return {name: _Entry(**entry) for name, entry in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise HashError(
            f"{path}: unreadable ({error}); delete it, and the files are recorded anew"
        ) from error


def _write_record(folder: Path, name: str, entry: _Entry) -> None:
    entries = {**_read_record(folder), name: entry}
    text = json.dumps({key: asdict(entries[key]) for key in sorted(entries)}, indent=1) + "\n"
    try:
        with files.aside(folder / RECORD) as partial:
            partial.write_text(text)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        log.info("%s is read-only: the hash of %s is not recorded", folder, name)


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
