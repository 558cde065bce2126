"""The files of a data set: downloaded once, verified by hash, and not read again while they stay as they are.

A file with a published hash is held against it. Of any other file the hash is recorded when it is first seen, in
`hashes.json` beside it, and it must not change from then on.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pooch

from .. import paths
from ..files import sha256 as file_sha256

log = logging.getLogger(__name__)
RECORD = "hashes.json"
RETRIES = 3  # after a download that failed or has the wrong hash
TIMEOUT = 60  # seconds without a byte
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class HashError(ValueError):
    """A file is not the one that was published or first downloaded."""


class RemoteFile(NamedTuple):
    """name: path inside the data set's folder. known_hash: as pooch writes it, e.g. "md5:..."; None if unpublished."""

    name: str
    url: str
    known_hash: str | None = None


class KnownFile(NamedTuple):
    """A file that is there and verified."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class _Entry:
    """What the record knows of a file; while size and time (ns since the epoch) are these, it need not be read."""

    sha256: str
    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, sha256: str) -> _Entry:
        status = path.stat()
        return cls(sha256, status.st_size, status.st_mtime_ns)


def obtain(folder: str | Path, file: RemoteFile, offline: bool | None = None) -> KnownFile:
    """`folder/file.name`, downloaded if it is not there, and verified.

    offline: default `paths.offline()`. Raises FileNotFoundError if the file is missing and cannot be had, HashError
    if it is not what it should be, OSError (ENOSPC) when the disk is full; none of them leaves a half-written file.
    """
    folder = Path(folder)
    path = folder / file.name
    with _locked(folder):
        known = _read_record(folder).get(file.name)
        if not path.exists():
            if paths.offline() if offline is None else offline:
                raise FileNotFoundError(
                    f"{path}: missing, and the network is not to be used (offline). Copy it there "
                    f"from "
                    f"{file.url}, or run once without --offline"
                )
            _download(folder, file, known)
        elif known is not None and _Entry.of(path, known.sha256) == known:
            return KnownFile(path, known.sha256)
        algorithm, _, published = (file.known_hash or "").partition(":")
        if published and pooch.file_hash(str(path), algorithm) != published:
            raise HashError(
                f"{path}: its hash is not the published {file.known_hash} (truncated or replaced); delete "
                f"it "
                "and run again"
            )
        sha256 = file_sha256(path)
        if known is not None and known.sha256 != sha256:
            raise HashError(
                f"{path}: its sha256 is {sha256}, but {folder / RECORD} recorded {known.sha256} when it "
                f"was first "
                "seen. Delete the file to download it again, or its entry there if the change is meant"
            )
        _write_record(folder, file.name, _Entry.of(path, sha256))
        return KnownFile(path, sha256)


def _download(folder: Path, file: RemoteFile, known: _Entry | None) -> None:
    """pooch writes aside, checks the hash and renames. A recorded hash counts like a published one."""
    wanted = file.known_hash or (None if known is None else f"sha256:{known.sha256}")
    store = pooch.create(
        folder, base_url="", registry={file.name: wanted}, urls={file.name: file.url}, retry_if_failed=RETRIES
    )
    (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
    log.info("downloading %s", file.url)
    try:
        store.fetch(file.name, downloader=pooch.HTTPDownloader(timeout=TIMEOUT))
    except ValueError as error:
        raise HashError(
            f"{file.url}: what was downloaded has not the hash {wanted} ({error}); the file there has "
            f"changed or "
            f"a proxy alters it. Put the right file at {folder / file.name}"
        ) from error
    except OSError as error:  # requests' errors are OSErrors too
        if error.errno in FULL:
            raise OSError(
                errno.ENOSPC,
                f"{folder / file.name}: disk full while downloading. Free space, or move the "
                f"data "
                "sets with --data-root (SPARC_DATASETS), and run again",
            ) from error
        raise FileNotFoundError(
            f"{folder / file.name}: missing, and {file.url} could not be fetched ({error}). Check "
            f"the "
            "connection and run again, or copy the file there"
        ) from error


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
    known = {**_read_record(folder), name: entry}
    aside = folder / (RECORD + ".tmp")
    try:
        aside.write_text(json.dumps({key: asdict(known[key]) for key in sorted(known)}, indent=1) + "\n")
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        log.info("%s is read-only: the hash of %s is not recorded", folder, name)
        return
    aside.rename(folder / RECORD)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time looks after a folder; a read-only one needs no lock, for nobody changes it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / (RECORD + ".lock"), "w")
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        yield
        return
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
