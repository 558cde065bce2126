"""Notebooks in processes of their own, one after the other or a few side by side.

A notebook counts as finished when papermill exits with 0 and not before: what the file says about its cells is no
evidence, since papermill marks a cell as completed after a timeout or a killed kernel as well.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil

from .. import paths
from ..notebook.results import maxrss_mb

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Outcome:
    notebook: Path
    ok: bool
    seconds: float
    peak_mb: float  # largest process of the notebook, its kernel included


def execute(notebooks: Sequence[Path], profile: str, done_dir: Path, at_once: int = 1) -> list[Outcome]:
    """Run notebooks in order; after a failure no other one begins. Outcomes come as they ended.

    at_once: so many side by side, each with its share of the cores. They lock the stages they build, so one waits for
    what another is making; the last notebook reads what the others have written and begins after them.
    """
    waiting, running, outcomes = list(notebooks), [], []
    try:
        while True:
            turn = len(running) < at_once and (len(waiting) > 1 or not running)
            if waiting and turn and all(outcome.ok for outcome in outcomes):
                running.append(_Run(waiting.pop(0), profile, done_dir))
                running[-1].start(at_once)
            elif running:
                pid, status, usage = os.wait4(-1, 0)
                run = next(run for run in running if run.process.pid == pid)
                outcomes.append(run.end(os.waitstatus_to_exitcode(status), maxrss_mb(usage.ru_maxrss)))
                running.remove(run)
            else:
                return outcomes
    finally:
        for run in running:  # stopped by a signal
            run.cut()


class _Run:
    """One notebook at work. `done_dir/<name>` exists afterwards only if every cell ran."""

    def __init__(self, notebook: Path, profile: str, done_dir: Path):
        self.notebook, self.profile, self.final = notebook, profile, done_dir / notebook.name
        self.partial, self.failed = (
            self.final.with_name(notebook.name + suffix) for suffix in (".partial", ".failed")
        )
        self.log = self.final.with_suffix(".log")
        self.process: subprocess.Popen | None = None
        for stale in (self.final, self.failed, self.partial, *made_by(notebook, profile)):
            stale.unlink(missing_ok=True)
        self.partial.touch()  # from here on a killed run can be told by this file

    def start(self, at_once: int) -> None:
        command = [
            sys.executable,
            "-m",
            "papermill",
            str(self.notebook),
            str(self.partial),
            "-k",
            "python3",
            "--language",
            "python",
            "--cwd",
            str(self.notebook.parent),
            "-p",
            "profile",
            self.profile,
            "--start-timeout",
            "240",
            "--no-progress-bar",
            "--log-output",
        ]
        self.alone, self.started = at_once == 1, time.monotonic()
        if self.alone:
            print(f"{self.notebook.stem:<28}", end=" ", flush=True)
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **_share(at_once)},
            )

    def end(self, code: int, peak_mb: float) -> Outcome:
        """Keep or discard what the ended process made; say how it went."""
        self.process.returncode = code
        seconds = time.monotonic() - self.started
        if code == 0:
            os.replace(self.partial, self.final)
        else:
            self._discard()
        name = "" if self.alone else f"{self.notebook.stem:<28} "
        print(
            f"{name}{'ok' if code == 0 else 'FAILED':<6} {seconds:7.1f} s   peak {peak_mb / 1024:.2f} GiB",
            flush=True,
        )
        if code != 0:
            print(_failure(self.failed, self.log, code), file=sys.stderr, flush=True)
        return Outcome(self.notebook, code == 0, seconds, peak_mb)

    def cut(self) -> None:
        """End the process and its kernel, wherever they are, and leave nothing that looks finished."""
        if self.process is not None and self.process.returncode is None:
            _end_family(self.process.pid)
            self.process.wait()
        if self.partial.exists():
            self._discard()

    def _discard(self) -> None:
        for unfinished in made_by(self.notebook, self.profile):
            unfinished.unlink()
        os.replace(self.partial, self.failed)


def _share(at_once: int) -> dict[str, str]:
    """Environment of one of several notebooks side by side: its threads and worker processes."""
    if at_once == 1:
        return {}
    cores = str(max(1, (os.cpu_count() or 1) // at_once))
    return {"OMP_NUM_THREADS": cores, "LOKY_MAX_CPU_COUNT": cores}


def made_by(notebook: Path, profile: str) -> list[Path]:
    """Figures and tables that carry the notebook's two digits."""
    pattern = f"{notebook.name[:2]}_*"
    return sorted(
        file
        for folder in (paths.figures_dir(profile), paths.results_dir(profile))
        for file in folder.glob(pattern)
        if file.is_file()
    )


def clear_killed(done_dir: Path, profile: str) -> None:
    """Remove what a run that was killed outright (kill -9, power) could not remove itself."""
    for partial in done_dir.glob("*.ipynb.partial"):
        for process in psutil.process_iter(["cmdline"]):  # its papermill may have outlived it
            command = process.info["cmdline"] or []
            if "papermill" in command and str(partial) in command:
                _end_family(process.pid)
        for file in made_by(partial, profile):
            file.unlink()
        os.replace(partial, partial.with_suffix(".failed"))


def _end_family(pid: int) -> None:
    """Kill a process and its descendants; the kernel has a session of its own, so a group signal would miss it."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return  # it ended by itself, which is what was wanted
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _failure(failed: Path, log: Path, code: int) -> str:
    """The last lines that explain a failure: the failing cell's error, else the end of the log."""
    lines: list[str] = []
    if failed.stat().st_size:
        for cell in nbformat.read(failed, as_version=4).cells:
            for out in cell.get("outputs", []):
                if out.output_type == "error":
                    trace = ANSI.sub("", "\n".join(out.traceback)).splitlines()
                    lines = [
                        f"in the cell that begins {cell.source.strip().splitlines()[0]!r}:",
                        *trace[-12:],
                    ]
    if not lines:
        text = log.read_text(errors="replace").strip().splitlines()
        lines = [f"papermill ended with code {code}; the end of {log}:", *text[-6:]]
    return "\n".join("    " + line for line in [*lines, f"what ran is in {failed}", f"the log is {log}"])
