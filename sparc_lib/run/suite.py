"""The project's tests: pytest over tests/, then nbval over the notebooks (`./run_all.sh --test`)."""

import os
import subprocess
import sys
import tempfile

from .. import paths

CELL_TIMEOUT = 1500  # seconds nbval waits for one cell


def run_tests() -> int:
    """Run both parts, whatever the first one says; the exit code is 0 if both passed."""
    print("== pytest: unit, golden and fault tests", flush=True)
    code = _pytest("tests")
    notebooks = sorted(paths.notebooks_dir().glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        print("== nbval: no notebooks yet, nothing to compare", flush=True)
        return code
    print("== nbval: the notebooks again, comparing the checked cells", flush=True)
    with tempfile.TemporaryDirectory(prefix="sparc-nbval-") as scratch:
        redirected = {"SPARC_OUTPUT": scratch, "SPARC_PROFILE": "mini"}  # committed figures stay as they are
        nbval = _pytest(
            "--nbval-lax",
            "--nbval-current-env",
            f"--nbval-cell-timeout={CELL_TIMEOUT}",
            "-o",
            "timeout=0",
            *map(str, notebooks),
            **redirected,
        )
    return code or nbval


def _pytest(*arguments: str, **environment: str) -> int:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(paths.REPO / "pyproject.toml"),
        f"--rootdir={paths.REPO}",
    ]
    child = subprocess.Popen([*command, *arguments], cwd=paths.REPO, env={**os.environ, **environment})
    try:
        return child.wait()
    except BaseException:  # stopped by a signal: pytest ends first, so that its kernels end with it
        child.terminate()
        child.wait()
        raise
