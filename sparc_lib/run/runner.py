"""The part of run_all.sh that runs in the project's environment: `python -m sparc_lib.run.runner`.

It chooses the notebooks, has them executed (`execution.py`) and sums up. Nothing here imports torch.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from filelock import Timeout

from .. import paths
from ..files import DiskFullError, locked
from ..profiles import Profile, ProfileError, option
from . import pages, suite, writeback
from .execution import Outcome, clear_killed, execute, made_by
from .failures import parameters_fault, weights_fault
from .fetching import RunError, fetch
from .options import Options, make_folders, parse, set_up

REBUILD_BEFORE = "SPARC_REBUILD_BEFORE"  # as studies.stages reads it, whose import would take a second
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """One of `SIGNALS` arrived."""


def main(arguments: list[str]) -> int:
    """Parse the options of run_all.sh and do what they ask; returns the exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a parent may have had it ignored: children would get lost
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _stop)
    try:
        options = parse(arguments)
        profile = set_up(options)
        if options.test:
            return suite.run_tests()
        if options.verify:
            return verify_stages()
        if options.fetch:
            return fetch(profile.name)
        return run_notebooks(options, profile)
    except (RunError, ProfileError, writeback.WriteBackError, DiskFullError) as error:
        text, code = getattr(error, "strerror", None) or str(error), 2
    except Stopped as stopped:
        number = stopped.args[0]
        name = signal.Signals(number).name
        text, code = f"stopped by {name}; nothing half-made was kept as finished", 128 + number
    with suppress(OSError):  # the terminal may be gone
        print(f"run_all: {text}", file=sys.stderr)
    return code


def _stop(number: int, _frame: object) -> None:
    for again in SIGNALS:
        signal.signal(again, signal.SIG_IGN)  # an impatient second Ctrl-C must not cut the cleaning short
    raise Stopped(number)


def run_notebooks(options: Options, profile: Profile) -> int:
    """Execute the chosen notebooks in order, stop at the first failure, print a summary; returns the exit
    code.

    Raises RunError before any notebook begins, WriteBackError.
    """
    if options.update_notebooks and option(profile.name) != "mini":
        raise RunError(
            "--update-notebooks writes the committed notebooks, which show the mini profile, "
            f"not {profile.name}; leave it out, or take --profile mini"
        )
    chosen = select(options.only, options.start)
    for notebook in chosen:
        fault = parameters_fault(notebook)
        if fault:
            raise RunError(f"{notebook}: {fault}")
    for location in (profile.encoders.dino.location, profile.encoders.clip.location):
        fault = weights_fault(Path(location.removeprefix("local-dir:")))
        if fault:
            raise RunError(fault)
    done_dir = make_folders(profile.name)
    if options.force:
        os.environ[REBUILD_BEFORE] = repr(
            time.time()
        )  # each stage is built anew once a run, not per notebook
    started = time.monotonic()
    try:
        with locked(done_dir / "run", wait=False):
            clear_killed(done_dir, profile.name)
            outcomes = execute(chosen, profile.name, done_dir, profile.notebooks_at_once)
            finished = all(outcome.ok for outcome in outcomes)
            if finished and options.update_notebooks:
                _update(chosen, done_dir, profile.name, nothing_was_cached=options.force)
            wanted = pages_of(options) if finished else []
            failed_pages = [one for one in wanted if not pages.write(one, profile.name, done_dir)]
    except Timeout:
        raise RunError(
            f"{done_dir}: another run_all.sh writes here; wait for it, or set $SPARC_OUTPUT"
        ) from None
    written = [one for one in wanted if one not in failed_pages]
    _summary(outcomes, len(chosen), profile.name, time.monotonic() - started, written)
    if not finished:
        failed = min(outcome.notebook.name for outcome in outcomes if not outcome.ok)
        print(f"FAILED in {failed}; once mended, go on with {options.to_go_on_with(failed[:2])}")
        return 1
    if failed_pages:
        names = " and ".join(one.name for one in failed_pages)
        print(f"FAILED: all notebooks are done, but the {names} could not be written; see above")
        return 1
    return 0


def pages_of(options: Options) -> list[pages.Pages]:
    """What to write besides: the latent browser once the project's own notebooks are all done, and with
    --html the site."""
    whole = options.only is None and paths.notebooks_dir() == paths.REPO / "notebooks"
    chosen = []
    if whole:
        chosen.append(pages.BROWSER)
    if options.html:
        chosen.append(pages.SITE)
    return chosen


def verify_stages() -> int:
    """Read every file of all finished stages and compare its hash; returns 1 if one is not as it was written.

    A run takes large files by their size and time: this finds what a disk or a copy has changed in them.
    Raises RunError for a folder that was named and is not there.
    """
    if os.environ.get("SPARC_DATA") and not paths.data_root().is_dir():
        raise RunError(f"$SPARC_DATA: {paths.data_root()} is no folder, so nothing was read; mend the path")
    from ..studies.stages import StageError, finished_stages, verify  # pandas takes half a second

    folders = finished_stages()
    faults = []
    for folder in folders:
        try:
            verify(folder)
        except StageError as error:
            faults.append(str(error))
    for fault in faults:
        print(fault, file=sys.stderr)
    n_sound = len(folders) - len(faults)
    print(f"{n_sound} of {len(folders)} stages in {paths.data_root()} are as they were written")
    return int(bool(faults))


def select(only: str | None = None, start: str | None = None) -> list[Path]:
    """The notebooks NN_*.ipynb to run, in order. Raises RunError if there are none, or two of a number."""
    folder = paths.notebooks_dir()
    notebooks: dict[str, Path] = {}
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        other = notebooks.setdefault(path.name[:2], path)
        if other != path:  # each would remove the other's tables
            raise RunError(
                f"{folder}: {other.name} and {path.name} have the same number; rename or move one of them"
            )
    if not notebooks:
        raise RunError(
            f"{folder}: no notebook NN_name.ipynb here; restore notebooks/ or correct $SPARC_NOTEBOOKS"
        )
    for name, number in (("--only", only), ("--from", start)):
        if number is not None and number.zfill(2) not in notebooks:
            raise RunError(f"{name} {number}: no such notebook; choose one of {', '.join(notebooks)}")
    if only is not None:
        return [notebooks[only.zfill(2)]]
    return [path for number, path in notebooks.items() if number >= (start or "00").zfill(2)]


def _update(chosen: list[Path], done_dir: Path, profile: str, nothing_was_cached: bool) -> None:
    """Write the executed outputs back, and after a whole run from nothing the README's run times."""
    for notebook in chosen:
        writeback.write_back(notebook, done_dir / notebook.name)
    if nothing_was_cached and chosen == select() and paths.notebooks_dir() == paths.REPO / "notebooks":
        writeback.write_run_times(paths.REPO / "README.md", paths.results_dir(profile) / "times")
    print(f"written back into {paths.notebooks_dir()}")


def _summary(
    outcomes: list[Outcome], n_chosen: int, profile: str, seconds: float, written: list[pages.Pages]
) -> None:
    figures, results = paths.figures_dir(profile), paths.results_dir(profile)
    done = [outcome for outcome in outcomes if outcome.ok]
    made = [file for outcome in done for file in made_by(outcome.notebook, profile)]
    n_figures = len({file.stem for file in made if file.parent == figures})
    n_tables = sum(file.suffix == ".csv" for file in made)
    peak = max(outcome.peak_mb for outcome in outcomes) / 1024
    print(
        f"\n{len(done)} of {n_chosen} notebooks finished in {seconds / 60:.1f} min, "
        f"peak memory {peak:.2f} GiB, profile {profile}\n"
        f"  figures    {n_figures:3d}  {figures}\n"
        f"  tables     {n_tables:3d}  {results}\n"
        f"  notebooks  {len(done):3d}  {results / 'notebooks'}"
    )
    for one in written:
        print(f"  {one.name:<14}  {results / one.file}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
