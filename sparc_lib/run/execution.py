"""Notebooks in processes of their own, one after the other or a few side by side.

A notebook counts as finished when papermill exits with 0 and every code cell ran without an error. Neither is
enough alone: papermill marks cells as completed after a timeout, and takes `sys.exit(0)` in the middle for
success.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from .. import paths
from ..files import sync_file, sync_folder
from ..notebook.results import maxrss_mb, times_file
from .failures import explained, no_kernel, unfinished

# Other C libraries and thread pools do not know these names. What is set already stays.
TUNED = {
    # glibc gives freed megabytes back to the system and faults them in again: a tenth of a training step. Old
    # ones refuse a first number above this.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    # torch's threads spin for milliseconds when done, on cores that the next kernel wants: a tenth, too.
    "GOMP_SPINCOUNT": "10000",
}
MARK = "SPARC_NOTEBOOK_RUN"  # in the environment of all processes of a notebook's run: the file it writes


@dataclass(frozen=True)
class Outcome:
    """How a notebook ended. peak_mb: memory of its largest process, its kernel included, MiB."""

    notebook: Path
    ok: bool
    seconds: float
    peak_mb: float


def execute(notebooks: Sequence[Path], profile: str, done_dir: Path, at_once: int = 1) -> list[Outcome]:
    """Run notebooks in order; after a failure no other one begins. Outcomes come as they ended.

    at_once: so many side by side, each with its share of the cores. They lock the stages they build, so one
    waits for what another is making; the last notebook reads what the others have written and begins after
    them.
    """
    waiting = list(notebooks)
    running: dict[int, _Run] = {}
    outcomes: list[Outcome] = []
    try:
        while waiting or running:
            failed = any(not outcome.ok for outcome in outcomes)
            is_last = len(waiting) == 1
            if waiting and not failed and (not running or (len(running) < at_once and not is_last)):
                run = _Run(waiting.pop(0), profile, done_dir, at_once)
                running[run.process.pid] = run
            elif running:
                outcomes.append(_wait_for_one(running))
            else:
                break
        return outcomes
    finally:
        for run in running.values():  # stopped by a signal
            run.cut()


def _wait_for_one(running: dict[int, "_Run"]) -> Outcome:
    """Wait until one of the runs has ended. As process 1 of a container we get the ends of orphans as
    well."""
    while True:
        pid, status, usage = os.wait4(-1, 0)
        if pid not in running:
            continue
        run = running[pid]
        code = os.waitstatus_to_exitcode(status)
        if run.starts_again(code):
            running[run.process.pid] = run
            del running[pid]
            continue
        outcome = run.end(code, maxrss_mb(usage.ru_maxrss))
        del running[pid]
        return outcome


class _Run:
    """One notebook at work. `done_dir/<name>` exists afterwards only if every cell ran."""

    def __init__(self, notebook: Path, profile: str, done_dir: Path, at_once: int):
        self.notebook, self.profile, self.alone = notebook, profile, at_once == 1
        self.final = done_dir / notebook.name
        self.partial = done_dir / (notebook.name + ".partial")
        self.failed = done_dir / (notebook.name + ".failed")
        self.log = self.final.with_suffix(".log")
        for stale in (self.final, self.failed, self.partial, *made_by(notebook, profile)):
            stale.unlink(missing_ok=True)
        self.partial.touch()  # from here on this file tells of a killed run
        self.command = [sys.executable, "-P", "-m", "papermill", str(notebook), str(self.partial)]
        self.command += ["-k", "python3", "--language", "python", "--cwd", str(notebook.parent)]
        self.command += ["-p", "profile", profile]
        self.command += ["--start-timeout", "240", "--no-progress-bar", "--log-output"]
        self.environment = TUNED | os.environ | _share(at_once) | {MARK: str(self.partial)}
        if self.alone:
            print(f"{notebook.stem:<28}", end=" ", flush=True)
        self.tries = 0
        self.started = time.monotonic()
        self._start()

    def _start(self) -> None:
        self.tries += 1
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(
                self.command,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self.environment,
            )

    def starts_again(self, code: int) -> bool:
        """After papermill ended with `code`: whether it was started a second time, for its kernel never was
        ready.

        Jupyter chooses free ports, closes them, and the kernel opens them a second later: kernels that start
        side by side may be given the same one, and then one dies. Nothing has run yet, so nothing is lost.
        """
        if code == 0 or self.tries == 2:
            return False
        reason = no_kernel(self.partial, self.log)
        if reason is None:
            return False
        print(f"{self.notebook.stem}: its kernel did not start ({reason}); trying again", file=sys.stderr)
        self.process.returncode = code
        end_processes(self.partial)
        self._start()
        return True

    def end(self, code: int, peak_mb: float) -> Outcome:
        """Keep or discard what the ended process made; say how it went."""
        self.process.returncode = code
        seconds = time.monotonic() - self.started
        end_processes(self.partial)  # the kernel of a papermill that was killed
        fault = unfinished(self.partial) if code == 0 else f"papermill ended with code {code}"
        name = "" if self.alone else f"{self.notebook.stem:<28} "
        word = "FAILED" if fault else "ok"
        if fault:
            self._discard()
        else:
            sync_file(self.partial)
            os.replace(self.partial, self.final)
            sync_folder(self.final.parent)
        print(f"{name}{word:<6} {seconds:7.1f} s   peak {peak_mb / 1024:.2f} GiB", flush=True)
        if fault:
            print(explained(fault, self.failed, self.log, peak_mb), file=sys.stderr, flush=True)
        return Outcome(self.notebook, not fault, seconds, peak_mb)

    def cut(self) -> None:
        """End the processes of the run, wherever they are, and leave nothing that looks finished."""
        end_processes(self.partial)
        if self.process.returncode is None:
            self.process.wait()
        if self.partial.exists():
            self._discard()

    def _discard(self) -> None:
        for file in made_by(self.notebook, self.profile):
            file.unlink(missing_ok=True)
        os.replace(self.partial, self.failed)


def _share(at_once: int) -> dict[str, str]:
    """Environment of one of several notebooks side by side: its threads and worker processes."""
    if at_once == 1:
        return {}
    cores = str(max(1, (os.cpu_count() or 1) // at_once))
    return {"OMP_NUM_THREADS": cores, "LOKY_MAX_CPU_COUNT": cores}


def made_by(notebook: Path, profile: str) -> list[Path]:
    """Figures and tables that carry the notebook's two digits, and what it wrote of its times."""
    number = notebook.name[:2]
    files = [times_file(profile, number)]
    for folder in (paths.figures_dir(profile), paths.results_dir(profile)):
        files += sorted(folder.glob(f"{number}_*"))
    return [file for file in files if file.is_file()]


def clear_killed(done_dir: Path, profile: str) -> None:
    """Remove what a run that was killed outright (kill -9, power) could not remove itself."""
    for partial in done_dir.glob("*.ipynb.partial"):
        end_processes(partial)  # its papermill or kernel may have outlived it
        for file in made_by(partial, profile):
            file.unlink()
        os.replace(partial, partial.with_suffix(".failed"))


def end_processes(partial: Path) -> None:
    """Kill papermill, kernel and workers of the run that writes `partial`, in whatever session they are."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        family = []
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get(MARK) == str(partial):
                family.append(process)
        if not family:
            return
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.05)  # until they are gone, and whatever they started meanwhile
