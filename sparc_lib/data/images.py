"""Many images at once, over many connections: resumable, patient, and honest about what could not be had.

An image is decoded, written aside and renamed, so whatever lies under its final name is a whole image and is
neither asked for nor read again. What is present is found by listing the folders.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import Timeout
from PIL import Image
from tqdm import tqdm

from .. import files
from .pairs import UNREADABLE
from .web import FAILED, Client, GoneError

HOPELESS = 200  # failures in a row after which there is no point in going on
REPEATED = 5  # addresses that answer with the very same bytes: a placeholder, not photographs


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
    images: Iterable[RemoteImage], client: Client | None = None, progress: bool = True
) -> DownloadReport:
    """Fetch what is absent; safe to kill and to repeat.

    Images that cannot be had are counted and returned, not raised. Raises DiskFullError when the disk fills
    up, ConnectionError when the server seems to be out of reach, RuntimeError when another
    download is at work; what was fetched stays.
    """
    client = client or Client()
    images = list(dict.fromkeys(images))
    with _alone(sorted({image.path.parent for image in images})):
        wanted = absent(images)
        present, n_bytes, streak = len(images) - len(wanted), 0, 0
        missing: list[Missing] = []
        same: dict[str, list[RemoteImage]] = defaultdict(list)  # hash of the content -> images
        with tqdm(total=len(images), initial=present, unit=" images", disable=not progress) as bar:
            for image, result in _fetch_all(wanted, client):
                if isinstance(result, Missing):
                    missing.append(result)
                    streak = 0 if result.gone else streak + 1
                    if streak == HOPELESS:
                        raise ConnectionError(
                            f"{image.url}: {result.reason}; {HOPELESS} images failed in a row. Check the "
                            "connection and run again: what was fetched is kept"
                        )
                    continue
                streak = 0
                n_bytes += len(result)
                bar.update()
                group = same[hashlib.sha256(result).hexdigest()]
                group.append(image)
                if len(group) >= REPEATED:
                    missing += _discard(group)
    missing = list(dict.fromkeys(missing))
    return DownloadReport(len(images), present, len(wanted) - len(missing), n_bytes, tuple(missing))


def save_missing(report: DownloadReport, file: Path) -> None:
    """Write the images that could not be had as CSV (image, url, gone, reason); an empty table if there are
    none.
    """
    with files.aside(file) as partial, open(partial, "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(["image", "url", "gone", "reason"])
        table.writerows([item.path.name, item.url, item.gone, item.reason] for item in report.missing)


def _fetch_all(
    wanted: Sequence[RemoteImage], client: Client
) -> Iterator[tuple[RemoteImage, bytes | Missing]]:
    """Every image with its content, once that is on the disk, in order; an error ends all threads."""
    stop = threading.Event()

    def fetch(image: RemoteImage) -> bytes | Missing:
        if stop.is_set():
            return Missing(*image, False, "stopped")
        try:
            return _fetch(image, client)
        except BaseException:
            stop.set()  # there will be no room for the others either
            raise

    with ThreadPoolExecutor(client.threads) as pool:
        try:
            for start in range(0, len(wanted), 64 * client.threads):  # bounds the memory of the futures
                some = wanted[start : start + 64 * client.threads]
                yield from zip(some, pool.map(fetch, some))
        finally:
            stop.set()


def _fetch(image: RemoteImage, client: Client) -> bytes | Missing:
    """Servers answer pages with status 200, too, so what is no image is not written."""
    content = io.BytesIO()
    try:
        content_type = client.get(image.url, content)
    except FAILED as error:
        return Missing(*image, isinstance(error, GoneError), str(error))
    if content_type.startswith("text/"):
        return Missing(*image, False, f"a page ({content_type}), not an image")
    try:
        with Image.open(content) as picture:
            picture.load()
    except UNREADABLE as error:
        return Missing(*image, False, f"not an image ({type(error).__name__})")
    with files.aside(image.path) as partial:
        partial.write_bytes(content.getvalue())
    return content.getvalue()


def _discard(placeholders: Sequence[RemoteImage]) -> list[Missing]:
    """Remove files that all hold the same bytes: what a server shows in place of photographs it lacks."""
    reason = f"the same picture as {REPEATED - 1} other images or more, a placeholder"
    for image in placeholders:
        image.path.unlink(missing_ok=True)
    return [Missing(*image, False, reason) for image in placeholders]


@contextmanager
def _alone(folders: Sequence[Path]) -> Iterator[None]:
    """One download at a time per folder; the system frees the locks when the process ends."""
    with ExitStack() as locks:
        for folder in folders:
            files.made_folder(folder)
            try:
                locks.enter_context(files.locked(folder / ".download", wait=False))
            except Timeout:
                raise RuntimeError(f"{folder}: another download is at work here; wait for it") from None
        yield
