"""The part of run_all.sh that runs in the project's environment: `python -m sparc_lib.run.runner`.

It parses the options, chooses the notebooks, has them executed (`execution.py`) and sums up.
"""

import argparse
import fcntl
import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from .. import paths
from ..profiles import ProfileError, load_profile, named, option
from ..studies.stages import REBUILD_BEFORE
from . import suite, writeback
from .execution import Outcome, clear_killed, execute, made_by
from .fetching import RunError, fetch, use_data_root

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "SPARC_OFFLINE": "1",
}


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived."""


def main(arguments: list[str]) -> int:
    """Parse the options of run_all.sh and do what they ask; returns the exit code."""
    options = _parse(arguments)
    os.environ.update(OFFLINE if options.offline else {})
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the kernel of this environment, not one in the home folder
    os.environ.pop("JUPYTER_PATH", None)
    os.environ.pop("MPLBACKEND", None)  # the kernel chooses its inline backend itself
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        use_data_root(options.data_root)
        options.profile = named(options.profile or os.environ.get("SPARC_PROFILE"))
        return (
            suite.run_tests()
            if options.test
            else fetch(options.profile)
            if options.fetch
            else run_notebooks(options)
        )
    except (RunError, ProfileError, writeback.WriteBackError) as error:
        print(f"run_all: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(
            f"\nrun_all: stopped by {signal.Signals(stopped.args[0]).name}; nothing half-made was kept as finished",
            file=sys.stderr,
        )
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
        signal.signal(again, signal.SIG_IGN)  # an impatient second Ctrl-C must not cut the cleaning short
    raise Stopped(number)


def run_notebooks(options: argparse.Namespace) -> int:
    """Execute the chosen notebooks in order, stop at the first failure, print a summary."""
    spec = load_profile(options.profile)
    profile, at_once = spec.name, spec.notebooks_at_once
    if options.update_notebooks and option(profile) != "mini":
        raise RunError(
            f"--update-notebooks writes the committed notebooks, which show the mini profile, not {profile}"
        )
    chosen = select(options.only, options.start)
    if options.force:
        os.environ[REBUILD_BEFORE] = repr(
            time.time()
        )  # each stage is rebuilt once in this run, not per notebook
    os.environ["SPARC_PROFILE"] = profile
    done_dir = paths.results_dir(profile) / "notebooks"
    done_dir.mkdir(exist_ok=True)
    started = time.monotonic()
    with _exclusive(done_dir):
        clear_killed(done_dir, profile)
        outcomes = execute(chosen, profile, done_dir, at_once)
        ok = all(outcome.ok for outcome in outcomes)
        if ok and options.update_notebooks:
            for notebook in chosen:
                writeback.write_back(notebook, done_dir / notebook.name)
            if options.force and chosen == select() and paths.notebooks_dir() == paths.REPO / "notebooks":
                writeback.write_run_times(
                    paths.REPO / "README.md", paths.results_dir(profile)
                )  # nothing was cached
    _summary(outcomes, chosen, profile, time.monotonic() - started, ok and options.update_notebooks)
    return 0 if ok else 1


def select(only: str | None = None, start: str | None = None) -> list[Path]:
    """The notebooks NN_*.ipynb to run, in order. Raises RunError if there are none."""
    folder = paths.notebooks_dir()
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise RunError(
            f"{folder}: no notebook NN_name.ipynb here; restore notebooks/ or correct $SPARC_NOTEBOOKS"
        )
    if only and start:
        raise RunError("--only and --from exclude each other; give one of them")
    numbers = [path.name[:2] for path in found]
    for option, wanted in (("--only", only), ("--from", start)):
        if wanted is not None and wanted.zfill(2) not in numbers:
            raise RunError(f"{option} {wanted}: no such notebook; choose one of {', '.join(numbers)}")
    if only:
        return [path for path in found if path.name[:2] == only.zfill(2)]
    return [path for path in found if path.name[:2] >= (start or "00").zfill(2)]


def _summary(
    outcomes: list[Outcome], chosen: list[Path], profile: str, seconds: float, updated: bool
) -> None:
    figures, results = paths.figures_dir(profile), paths.results_dir(profile)
    made = [file for outcome in outcomes if outcome.ok for file in made_by(outcome.notebook, profile)]
    n_figures = len({file.stem for file in made if file.parent == figures})
    n_tables = sum(file.parent == results and not file.name.endswith("_provenance.json") for file in made)
    n_ok = sum(outcome.ok for outcome in outcomes)
    print(
        f"\n{n_ok} of {len(chosen)} notebooks finished in {seconds / 60:.1f} min, peak memory "
        f"{max(outcome.peak_mb for outcome in outcomes) / 1024:.2f} GiB, profile {profile}\n"
        f"  figures    {n_figures:3d}  {figures}\n  tables     {n_tables:3d}  {results}\n"
        f"  notebooks  {n_ok:3d}  {results / 'notebooks'}"
    )
    if updated:
        print(f"  written back into {paths.notebooks_dir()}")
    if n_ok < len(chosen):
        failed = min(outcome.notebook.name for outcome in outcomes if not outcome.ok)
        print(
            f"FAILED in {failed}; once mended, go on with "
            f"./run_all.sh --profile {option(profile)} --from {failed[:2]}"
        )


@contextmanager
def _exclusive(folder: Path):
    """One run at a time per results folder; the system frees the lock when the process ends."""
    with open(folder / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{folder}: another run_all.sh writes here; wait for it, or set $SPARC_OUTPUT"
            ) from None
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
