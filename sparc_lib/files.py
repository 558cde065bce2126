"""Files that are whole or not there: written aside, made durable, renamed; with locks and full disks."""

import errno
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)
PARTIAL = ".partial"  # suffix of what is being written
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_BELOW = 2**20  # bytes: a disk with less free space than this counts as full


class DiskFullError(OSError):
    """No space left; the message names the file and says what to do."""


def sha256(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal. Raises FileNotFoundError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Return when the file's contents are on the disk and not merely in its cache."""
    _sync(path, os.O_RDWR)


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are on the disk: a rename is durable only after this."""
    _sync(path, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def made_folder(path: Path) -> Path:
    """The folder, made if missing. Raises NotADirectoryError that names a file which stands in its place."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        place = next(place for place in (path, *path.parents) if os.path.lexists(place))
        kind = "a link to nothing" if place.is_symlink() and not place.exists() else "a file"
        reason = f"{place} is {kind} where a folder must be; move it away and run again"
        raise NotADirectoryError(errno.ENOTDIR, reason) from error
    return path


def _demand_no_folder(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            reason = f"{path} is a folder where a file must be; move it away and run again"
            raise IsADirectoryError(errno.EISDIR, reason)


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Yield `<path>.partial` to write to; on success it is made durable and renamed to `path`, else removed.

    The folder is made if missing. Raises DiskFullError when the disk is full, NotADirectoryError or
    IsADirectoryError for a file in the folder's place or a folder in its own; what the block raises passes.
    """
    path = Path(path)
    partial = path.with_name(path.name + PARTIAL)
    with disk_full_explained(path):
        made_folder(path.parent)
        _demand_no_folder(path, partial)
        try:
            yield partial
            sync_file(partial)
            os.replace(partial, path)
            sync_folder(path.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def disk_full_explained(path: Path) -> Iterator[None]:
    """Turn any error of a full disk while `path` is written into a DiskFullError that says what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, DiskFullError) or not is_disk_full(error, path):
            raise
        raise DiskFullError(
            errno.ENOSPC,
            f"{path}: the disk is full. Free space there, or point $SPARC_DATA (heavy artefacts) or "
            "$SPARC_OUTPUT (figures and results) elsewhere, then run again: finished parts are kept",
        ) from error


def is_disk_full(error: BaseException, path: Path) -> bool:
    """Whether `error`, raised while `path` was written, says that the disk is full.

    torch wraps the system's error in a RuntimeError without a number, or makes one of its own: so what caused
    an error is looked at, and then the free space.
    """
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:  # causes and contexts together can run in a circle
        if isinstance(cause, OSError) and cause.errno in FULL:
            return True
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    folder = next(parent for parent in Path(path).absolute().parents if parent.exists())
    return isinstance(error, RuntimeError) and shutil.disk_usage(folder).free < FULL_BELOW


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock `<path>.lock`; the system lets go of it when the process ends, however it ends.

    wait: False raises filelock.Timeout at once when another process holds the lock; True waits and says so.
    """
    file = Path(path).with_name(Path(path).name + ".lock")
    _demand_no_folder(file)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise
        log.warning("waiting for another process that works on %s", path)
        started = time.monotonic()
        lock.acquire()
        log.warning("waited %.0f s for %s", time.monotonic() - started, path)
    try:
        yield
    finally:
        lock.release()
