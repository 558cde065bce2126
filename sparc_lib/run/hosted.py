"""On a hosted machine that brings its own torch (Colab, Kaggle): install what is missing, leave the rest.

    python -m sparc_lib.run.hosted [--dry-run]

`pip install -e .` would exchange that machine's torch, several GB built for its GPU, for the pinned one. Here
a package whose major version is the pinned one's stays as it is; others are installed as pinned. Needs
nothing but Python. Results may differ from the committed ones in the last digits.
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from .. import paths


class Plan(NamedTuple):
    """install: requirements "name==version". keep: the same of what is there and must not be exchanged."""

    install: list[str]
    keep: list[str]


def plan(pins: Sequence[str], installed: Mapping[str, str]) -> Plan:
    """What to install of the pins "name==version", given {name: version} of what is there."""
    install, keep = [], []
    for pin in pins:
        name, _, version = pin.partition("==")
        there = installed.get(name)
        if there is not None and there.split(".")[0] == version.split(".")[0]:
            keep.append(f"{name}=={there}")
        else:
            install.append(pin)
    return Plan(install, keep)


def installed_of(pins: Sequence[str]) -> dict[str, str]:
    """{name: version} of the pinned packages that this Python has."""
    versions = {}
    for pin in pins:
        name = pin.partition("==")[0]
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m sparc_lib.run.hosted", allow_abbrev=False)
    parser.add_argument("--dry-run", action="store_true", help="say what would be installed, and stop")
    options = parser.parse_args(arguments)
    pins = tomllib.loads((paths.REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "dependencies"
    ]
    todo = plan(pins, installed_of(pins))
    sys.stdout.write(
        f"stay: {', '.join(todo.keep) or 'none'}\ninstall: {', '.join(todo.install) or 'none'}\n"
    )
    sys.stdout.flush()
    if options.dry_run:
        return 0
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "keep.txt"
        kept.write_text("\n".join(todo.keep), encoding="utf-8")
        commands = [[*pip, "--no-deps", "-e", str(paths.REPO)]]
        if todo.install:
            commands.insert(0, [*pip, "-c", str(kept), *todo.install])
        for command in commands:
            code = subprocess.run(command).returncode
            if code != 0:
                sys.stderr.write("pip could not install that; ./run_all.sh makes an environment of its own\n")
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
