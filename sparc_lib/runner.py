"""The part of run_all.sh that runs in the project's environment: `python -m sparc_lib.runner`.

Notebooks run one after the other, each in a process of its own. A notebook
counts as finished when papermill exits with 0 and not before: what the file
says about its cells is no evidence, since papermill marks a cell as completed
after a timeout or a killed kernel as well.
"""

import argparse
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil

from . import paths, suite, writeback
from .fetching import RunError, fetch, use_data_root
from .profile_files import ProfileError, named, option
from .profiles import load_profile
from .provenance import maxrss_mb
from .stages import REBUILD_BEFORE

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "SPARC_OFFLINE": "1"}


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived."""


@dataclass(frozen=True)
class Outcome:
    notebook: Path
    ok: bool
    seconds: float
    peak_mb: float      # largest process of the notebook, its kernel included


def main(arguments: list[str]) -> int:
    """Parse the options of run_all.sh and do what they ask; returns the exit code."""
    options = _parse(arguments)
    os.environ.update(OFFLINE if options.offline else {})
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"     # the kernel of this environment, not one in the home folder
    os.environ.pop("JUPYTER_PATH", None)
    os.environ.pop("MPLBACKEND", None)              # the kernel chooses its inline backend itself
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        use_data_root(options.data_root)
        options.profile = named(options.profile or os.environ.get("SPARC_PROFILE"))
        return suite.run_tests() if options.test else fetch(options.profile) if options.fetch else run_notebooks(options)
    except (RunError, ProfileError, writeback.WriteBackError) as error:
        print(f"run_all: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"\nrun_all: stopped by {signal.Signals(stopped.args[0]).name}; nothing half-made was kept as finished",
              file=sys.stderr)
        return 128 + stopped.args[0]


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run_all.sh", add_help=False, allow_abbrev=False)
    parser.add_argument("--profile", default=None)
    parser.add_argument("--from", dest="start", default=None)
    parser.add_argument("--only", default=None)
    parser.add_argument("--data-root", default=None)
    for flag in ("--fetch", "--force", "--offline", "--update-notebooks", "--test"):
        parser.add_argument(flag, action="store_true")
    return parser.parse_args(arguments)


def _stop(number: int, _frame: object) -> None:
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_IGN)        # an impatient second Ctrl-C must not cut the cleaning short
    raise Stopped(number)


def run_notebooks(options: argparse.Namespace) -> int:
    """Execute the chosen notebooks in order, stop at the first failure, print a summary."""
    profile = load_profile(options.profile).name
    if options.update_notebooks and option(profile) != "mini":
        raise RunError(f"--update-notebooks writes the committed notebooks, which show the mini profile, not {profile}")
    chosen = select(options.only, options.start)
    if options.force:
        os.environ[REBUILD_BEFORE] = repr(time.time())      # each stage is rebuilt once in this run, not per notebook
    os.environ["SPARC_PROFILE"] = profile
    done_dir = paths.results_dir(profile) / "notebooks"
    done_dir.mkdir(exist_ok=True)
    outcomes, started = [], time.monotonic()
    with _exclusive(done_dir):
        _clear_killed(done_dir, profile)
        for notebook in chosen:
            outcomes.append(execute(notebook, profile, done_dir))
            if not outcomes[-1].ok:
                break
        ok = outcomes[-1].ok
        if ok and options.update_notebooks:
            for notebook in chosen:
                writeback.write_back(notebook, done_dir / notebook.name)
            if options.force and chosen == select() and paths.notebooks_dir() == paths.REPO / "notebooks":
                writeback.write_run_times(paths.REPO / "README.md", paths.results_dir(profile))    # nothing was cached
    _summary(outcomes, chosen, profile, time.monotonic() - started, ok and options.update_notebooks)
    return 0 if ok else 1


def select(only: str | None = None, start: str | None = None) -> list[Path]:
    """The notebooks NN_*.ipynb to run, in order. Raises RunError if there are none."""
    folder = paths.notebooks_dir()
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise RunError(f"{folder}: no notebook NN_name.ipynb here; restore notebooks/ or correct $SPARC_NOTEBOOKS")
    if only and start:
        raise RunError("--only and --from exclude each other; give one of them")
    numbers = [path.name[:2] for path in found]
    for option, wanted in (("--only", only), ("--from", start)):
        if wanted is not None and wanted.zfill(2) not in numbers:
            raise RunError(f"{option} {wanted}: no such notebook; choose one of {', '.join(numbers)}")
    if only:
        return [path for path in found if path.name[:2] == only.zfill(2)]
    return [path for path in found if path.name[:2] >= (start or "00").zfill(2)]


def execute(notebook: Path, profile: str, done_dir: Path) -> Outcome:
    """Run one notebook. `done_dir/<name>` exists afterwards only if every cell ran."""
    final = done_dir / notebook.name
    partial, failed = (final.with_name(final.name + suffix) for suffix in (".partial", ".failed"))
    log = final.with_suffix(".log")
    for stale in (final, failed, partial, *made_by(notebook, profile)):
        stale.unlink(missing_ok=True)
    partial.touch()                     # from here on a killed run can be told by this file
    command = [sys.executable, "-m", "papermill", str(notebook), str(partial), "-k", "python3",
               "--language", "python", "--cwd", str(notebook.parent), "-p", "profile", profile,
               "--start-timeout", "240", "--no-progress-bar", "--log-output"]
    print(f"{notebook.stem:<28}", end=" ", flush=True)
    started, code, peak = time.monotonic(), None, 0.0
    try:
        with open(log, "wb") as output:
            code, peak = _run_child(command, output)
    finally:                            # also when stopped by a signal
        if code != 0:
            for unfinished in made_by(notebook, profile):
                unfinished.unlink()
            os.replace(partial, failed)
    seconds = time.monotonic() - started
    if code == 0:
        os.replace(partial, final)
    print(f"{'ok' if code == 0 else 'FAILED':<6} {seconds:7.1f} s   peak {peak / 1024:.2f} GiB", flush=True)
    if code != 0:
        print(_failure(failed, log, code), file=sys.stderr, flush=True)
    return Outcome(notebook, code == 0, seconds, peak)


def made_by(notebook: Path, profile: str) -> list[Path]:
    """Figures and tables that carry the notebook's two digits."""
    pattern = f"{notebook.name[:2]}_*"
    return sorted(file for folder in (paths.figures_dir(profile), paths.results_dir(profile))
                  for file in folder.glob(pattern) if file.is_file())


def _clear_killed(done_dir: Path, profile: str) -> None:
    """Remove what a run that was killed outright (kill -9, power) could not remove itself."""
    for partial in done_dir.glob("*.ipynb.partial"):
        for process in psutil.process_iter(["cmdline"]):        # its papermill may have outlived it
            command = process.info["cmdline"] or []
            if "papermill" in command and str(partial) in command:
                _end_family(process.pid)
        for file in made_by(partial, profile):
            file.unlink()
        os.replace(partial, partial.with_suffix(".failed"))


def _run_child(command: list[str], output: object) -> tuple[int, float]:
    """Exit code and peak MiB of a command; on a signal, end it and its kernel first."""
    child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _, status, usage = os.wait4(child.pid, 0)
    except Stopped:
        _end_family(child.pid)
        os.waitpid(child.pid, 0)
        raise
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, maxrss_mb(usage.ru_maxrss)


def _end_family(pid: int) -> None:
    """Kill a process and its descendants; the kernel has a session of its own, so a group signal would miss it."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return                          # it ended by itself, which is what was wanted
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
                    lines = [f"in the cell that begins {cell.source.strip().splitlines()[0]!r}:", *trace[-12:]]
    if not lines:
        text = log.read_text(errors="replace").strip().splitlines()
        lines = [f"papermill ended with code {code}; the end of {log}:", *text[-6:]]
    return "\n".join("    " + line for line in [*lines, f"what ran is in {failed}", f"the log is {log}"])


def _summary(outcomes: list[Outcome], chosen: list[Path], profile: str, seconds: float, updated: bool) -> None:
    figures, results = paths.figures_dir(profile), paths.results_dir(profile)
    made = [file for outcome in outcomes if outcome.ok for file in made_by(outcome.notebook, profile)]
    n_figures = len({file.stem for file in made if file.parent == figures})
    n_tables = sum(file.parent == results and not file.name.endswith("_provenance.json") for file in made)
    n_ok = sum(outcome.ok for outcome in outcomes)
    print(f"\n{n_ok} of {len(chosen)} notebooks finished in {seconds / 60:.1f} min, peak memory "
          f"{max(outcome.peak_mb for outcome in outcomes) / 1024:.2f} GiB, profile {profile}\n"
          f"  figures    {n_figures:3d}  {figures}\n  tables     {n_tables:3d}  {results}\n"
          f"  notebooks  {n_ok:3d}  {results / 'notebooks'}")
    if updated:
        print(f"  written back into {paths.notebooks_dir()}")
    if n_ok < len(chosen):
        number = outcomes[-1].notebook.name[:2]
        print(f"FAILED in {outcomes[-1].notebook.name}; once mended, go on with "
              f"./run_all.sh --profile {option(profile)} --from {number}")


@contextmanager
def _exclusive(folder: Path):
    """One run at a time per results folder; the system frees the lock when the process ends."""
    with open(folder / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder}: another run_all.sh writes here; wait for it, or set $SPARC_OUTPUT") from None
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
