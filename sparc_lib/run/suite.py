"""The project's tests, `./run_all.sh --test`: formatting, lint, layers, pytest, and nbval over the
notebooks."""

import os
import subprocess
import sys
import tempfile

from .. import paths
from .execution import TUNED

CELL_TIMEOUT = 1500  # seconds nbval waits for one cell
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"
PYTEST = ("-m", "pytest", "-c", str(paths.REPO / "pyproject.toml"), f"--rootdir={paths.REPO}")


def steps() -> dict[str, list[str]]:
    """{what is tested: arguments for this environment's Python}, in order; nbval only where there are
    notebooks."""
    notebooks = sorted(paths.notebooks_dir().glob("[0-9][0-9]_*.ipynb"))
    commands = {
        "ruff format": ["-m", "ruff", "format", "--check", "--no-cache", "."],
        "ruff check": ["-m", "ruff", "check", "--no-cache", "."],
        "import-linter": ["-c", LINT_IMPORTS, "--no-cache"],
        "pytest": [*PYTEST, "tests"],
    }
    if notebooks:
        options = [
            "--nbval-lax",
            "--nbval-current-env",
            f"--nbval-cell-timeout={CELL_TIMEOUT}",
            "-o",
            "timeout=0",
        ]
        commands["nbval"] = [*PYTEST, *options, *map(str, notebooks)]
    return commands


def run_tests() -> int:
    """Run every step, whatever the ones before it say; the exit code is 0 if all passed, else 1."""
    failed = []
    for name, arguments in steps().items():
        print(f"== {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="sparc-tests-") as scratch:
            # The notebooks' committed figures and tables stay as they are.
            redirected = {"SPARC_OUTPUT": scratch, "SPARC_PROFILE": "mini"} if name == "nbval" else {}
            if run_python(arguments, **redirected) != 0:
                failed.append(name)
    if failed:
        print(f"== FAILED: {', '.join(failed)}", flush=True)
        return 1
    print("== all passed", flush=True)
    return 0


def run_python(arguments: list[str], **environment: str) -> int:
    """Run this environment's Python in the repository; returns its exit code."""
    child = subprocess.Popen(
        [sys.executable, *arguments], cwd=paths.REPO, env=TUNED | os.environ | environment
    )
    try:
        return child.wait()
    except BaseException:  # stopped by a signal: the child ends first, so that its kernels end with it
        child.terminate()
        child.wait()
        raise
