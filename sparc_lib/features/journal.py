"""Append-only progress journal of an extraction."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from ..files import sync_folder as fsync_dir

log = logging.getLogger(__name__)


class Journal:
    """Append-only progress. First line: the fingerprint; then one line per commit: stage, items done, the images skipped
    since the line before. `skipped`: image number -> reason."""

    def __init__(self, path: Path):
        self.done = {"images": 0, "captions": 0}
        self.skipped: dict[int, str] = {}
        self._told: set[int] = set()
        self._file = open(path, "ab")

    @classmethod
    def begin(cls, path: Path, fingerprint: str) -> Journal:
        journal = cls(path)
        journal._append({"fingerprint": fingerprint})
        fsync_dir(path.parent)
        return journal

    @classmethod
    def resume(cls, path: Path, fingerprint: str) -> Journal | None:
        """The journal of the same work, less a line torn by a kill; None if there is none to continue."""
        if not path.exists():
            return None
        lines, good = [], 0
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
            if not line.endswith(b"\n"):
                lines.pop()
                break
            good += len(line)
        if not lines or lines[0].get("fingerprint") != fingerprint:
            log.warning("%s: belongs to other data or another encoder, starting over", path)
            return None
        os.truncate(path, good)
        journal = cls(path)
        for line in lines[1:]:
            journal.done[line["stage"]] = line["done"]
            journal.skipped.update({int(g): reason for g, reason in line["skipped"].items()})
        journal._told = set(journal.skipped)
        return journal

    def commit(self, stage: str, done: int) -> None:
        news = {g: reason for g, reason in self.skipped.items() if g not in self._told}
        self._append({"stage": stage, "done": done, "skipped": news})
        self.done[stage] = done
        self._told.update(news)

    def _append(self, line: dict) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
