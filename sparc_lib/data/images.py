"""Many images at once, over many connections: resumable, patient, and honest about what could not be had.

An image is written aside and renamed, so whatever lies under its final name is whole and is neither asked for nor
read again. What is present is found by listing the folders.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import logging
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import requests
from tqdm import tqdm

from .download import FULL

log = logging.getLogger(__name__)
GONE = (403, 404, 410)  # the public bucket answers 403 for a key that is not there
PART = ".part"
LOCK = ".download.lock"
SAMPLED = 16  # images asked for their size before anything is fetched
HOPELESS = 200  # failures in a row after which there is no point in going on


class RemoteImage(NamedTuple):
    path: Path
    url: str


class Missing(NamedTuple):
    """gone: the server says that it has no such image; else it could not be fetched and another run may."""

    path: Path
    url: str
    gone: bool
    reason: str


class DownloadReport(NamedTuple):
    """n_wanted = n_present + n_fetched + len(missing). n_bytes: fetched."""

    n_wanted: int
    n_present: int
    n_fetched: int
    n_bytes: int
    missing: tuple[Missing, ...]


def absent(images: Sequence[RemoteImage]) -> list[RemoteImage]:
    """Those that are not there, in order; one listing per folder, no file is touched."""
    present: dict[Path, set[str]] = {}
    for folder in {image.path.parent for image in images}:
        present[folder] = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    return [image for image in images if image.path.name not in present[image.path.parent]]


def fetch_images(
    images: Iterable[RemoteImage],
    threads: int = 16,
    attempts: int = 4,
    timeout: float = 30,
    pause: float = 1.0,
    progress: bool = True,
) -> DownloadReport:
    """Fetch what is absent; safe to kill and to repeat.

    timeout: seconds without an answer. pause: seconds before the second attempt, doubled from one to the next. Images
    that cannot be had are counted and returned, not raised. Raises OSError (ENOSPC) when the disk is too small or
    fills up, ConnectionError when the server seems to be out of reach; what was fetched stays.
    """
    images = list(dict.fromkeys(images))
    folders = sorted({image.path.parent for image in images})
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(folders):
        for folder in folders:
            for leftover in folder.glob(f"*{PART}"):  # of a killed run
                leftover.unlink()
        wanted = absent(images)
        fetcher = _Fetcher(attempts, timeout, pause)
        missing: list[Missing] = []
        n_bytes, streak = 0, 0
        if wanted:
            _demand_space(wanted, fetcher)
        with (
            tqdm(
                total=len(images), initial=len(images) - len(wanted), unit=" images", disable=not progress
            ) as bar,
            ThreadPoolExecutor(threads) as pool,
        ):
            try:
                for block in range(0, len(wanted), 64 * threads):  # blocks bound the memory of the futures
                    for result in pool.map(fetcher.fetch, wanted[block : block + 64 * threads]):
                        failed = isinstance(result, Missing)
                        streak = streak + 1 if failed and not result.gone else 0
                        missing += [result] if failed else []
                        n_bytes += 0 if failed else result
                        bar.update(not failed)
                        if streak == HOPELESS:
                            raise ConnectionError(
                                f"{result.url}: {result.reason}; {HOPELESS} images failed in a row. "
                                f"Check the "
                                "connection and run again: what was fetched is kept"
                            )
            except BaseException:
                fetcher.stop.set()
                pool.shutdown(cancel_futures=True)
                raise
    return DownloadReport(
        len(images), len(images) - len(wanted), len(wanted) - len(missing), n_bytes, tuple(missing)
    )


def save_missing(report: DownloadReport, file: Path) -> None:
    """The images that could not be had, as CSV (image, url, gone, reason); an empty table if there are none."""
    aside = file.with_name(file.name + ".tmp")
    with open(aside, "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(["image", "url", "gone", "reason"])
        table.writerows([item.path.name, item.url, item.gone, item.reason] for item in report.missing)
    aside.rename(file)


class _Fetcher:
    """Fetches one image; every thread has its own connection, which is kept open."""

    def __init__(self, attempts: int, timeout: float, pause: float):
        self.attempts, self.timeout, self.pause = attempts, timeout, pause
        self.stop, self._local = threading.Event(), threading.local()

    @property
    def session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.headers["Accept-Encoding"] = "identity"  # Content-Length of the image itself
        return self._local.session

    def fetch(self, image: RemoteImage) -> int | Missing:
        """Bytes written, or why there are none. Raises OSError for the disk's errors."""
        reason = "stopped"
        for attempt in range(self.attempts):
            if self.stop.is_set() or (attempt and self.stop.wait(self.pause * 2 ** (attempt - 1))):
                break
            try:
                answer = self.session.get(image.url, timeout=self.timeout)
            except requests.RequestException as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            if answer.status_code in GONE:
                return Missing(image.path, image.url, True, f"HTTP {answer.status_code}")
            announced = int(answer.headers.get("Content-Length", len(answer.content)))
            if answer.status_code != 200:
                reason = f"HTTP {answer.status_code}"
            elif not answer.content or len(answer.content) != announced:
                reason = f"{len(answer.content)} of {announced} bytes arrived"
            else:
                self._write(image.path, answer.content)
                return len(answer.content)
        return Missing(image.path, image.url, False, reason)

    def _write(self, path: Path, content: bytes) -> None:
        part = path.with_name(path.name + PART)
        try:
            part.write_bytes(content)
            part.rename(path)
        except OSError as error:
            self.stop.set()  # nor will there be room for the others
            part.unlink(missing_ok=True)
            if error.errno in FULL:
                raise OSError(
                    errno.ENOSPC,
                    f"{path}: disk full ({error.strerror}). Free space, or move the data sets "
                    f"with "
                    "--data-root (SPARC_DATASETS), and run again: what was fetched is "
                    "kept",
                ) from error
            raise


def _demand_space(wanted: Sequence[RemoteImage], fetcher: _Fetcher) -> None:
    """Raise OSError (ENOSPC) if the images, from the sizes of a few, will not fit."""
    sizes = []
    for image in wanted[:: max(1, len(wanted) // SAMPLED)][:SAMPLED]:
        try:
            answer = fetcher.session.head(image.url, timeout=fetcher.timeout, allow_redirects=True)
        except requests.RequestException as error:
            log.info("%s: no size to be had (%s)", image.url, error)
            break
        if answer.status_code == 200 and "Content-Length" in answer.headers:
            sizes.append(int(answer.headers["Content-Length"]))
    if not sizes:
        return
    need = int(1.05 * len(wanted) * sum(sizes) / len(sizes))
    free = shutil.disk_usage(wanted[0].path.parent).free
    log.info("%d images, about %.1f GiB; %.1f GiB are free", len(wanted), need / 2**30, free / 2**30)
    if need > free:
        raise OSError(
            errno.ENOSPC,
            f"{wanted[0].path.parent}: {len(wanted)} images need about {need / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free. Free space, move the data sets with "
            f"--data-root, or set "
            "max_samples in the profile",
        )


@contextmanager
def _alone(folders: Sequence[Path]) -> Iterator[None]:
    """One download at a time per folder; the system frees the locks when the process ends."""
    handles = [open(folder / LOCK, "w") for folder in folders]
    try:
        for handle in handles:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError(f"{handle.name}: another download is at work here; wait for it") from None
        yield
    finally:
        for handle in handles:
            handle.close()
