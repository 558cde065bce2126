"""What a run writes when its notebooks are done: the latent browser, and with --html the site. Each in a
process of its own."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .. import paths
from ..notebook.results import maxrss_mb
from .execution import MARK, end_processes
from .failures import advice


class Pages(NamedTuple):
    """name: for the reader. module: writes them, given --profile. file: where they begin, in the results."""

    name: str
    module: str
    file: str


BROWSER = Pages("latent browser", "sparc_lib.notebook.browser", "browser/index.html")
SITE = Pages("site", "sparc_lib.run.site", "site/index.html")


def write(pages: Pages, profile: str, log_dir: Path) -> bool:
    """Write pages anew and say how it went, as a notebook's line does; returns whether they are there."""
    log = log_dir / f"{pages.name.replace(' ', '-')}.log"
    file = paths.results_dir(profile) / pages.file
    with suppress(OSError):
        file.unlink()  # of an earlier run, which must not pass for this one's
    arguments = ["-m", pages.module, "--profile", profile]
    print(f"{pages.name:<28}", end=" ", flush=True)
    started = time.monotonic()
    with open(log, "wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-P", *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {MARK: str(log)},
        )
    try:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    finally:
        end_processes(log)  # after a signal the child itself, and always workers that outlived it
        if child.returncode is None:
            child.wait()
    peak_mb = maxrss_mb(usage.ru_maxrss)
    done = child.returncode == 0 and file.is_file()
    word = "ok" if done else "FAILED"
    print(f"{word:<6} {time.monotonic() - started:7.1f} s   peak {peak_mb / 1024:.2f} GiB", flush=True)
    if not done:
        printed = log.read_text(errors="replace").strip()
        lines = [f"it ended with code {child.returncode}; the end of {log}:", *printed.splitlines()[-6:]]
        lines += advice(lines, printed, log_dir, peak_mb)
        lines.append(f"to write it alone: {sys.executable} {' '.join(arguments)}")
        print("\n".join("    " + line for line in lines), file=sys.stderr, flush=True)
    return done
