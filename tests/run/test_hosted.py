"""Hosted machines keep the torch they have."""

import subprocess
import sys

import pytest

from sparc_lib import paths
from sparc_lib.run import hosted
from sparc_lib.run.hosted import plan


def test_what_is_usable_stays_and_the_rest_is_installed_as_pinned():
    pins = ["torch==2.14.1", "transformers==5.23.0", "nbval==0.11.0"]
    todo = plan(pins, {"torch": "2.9.0+cu126", "transformers": "4.57.1"})
    assert todo.keep == ["torch==2.9.0+cu126"]
    assert todo.install == ["transformers==5.23.0", "nbval==0.11.0"]


def test_it_runs_in_a_bare_python_from_a_clone():
    """Isolated from site-packages: only the standard library, as on a machine where nothing is installed."""
    command = [sys.executable, "-S", "-m", "sparc_lib.run.hosted", "--dry-run"]
    done = subprocess.run(command, cwd=paths.REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "stay: none" in done.stdout and "torch==" in done.stdout.split("install:")[1]


def test_here_nothing_would_be_exchanged():
    command = [sys.executable, "-m", "sparc_lib.run.hosted", "--dry-run"]
    done = subprocess.run(command, cwd=paths.REPO, capture_output=True, text=True)
    assert "torch==" in done.stdout.split("install:")[0]


def test_binder_finds_an_environment_that_installs_the_clone():
    """repo2docker reads environment.yml at the top, and copies the clone first where pip installs "."."""
    lines = (paths.REPO / "environment.yml").read_text().splitlines()
    assert "      - -e ." in lines and "      - -c constraints.txt" in lines


@pytest.mark.parametrize("argument, code", [("--help", 0), ("--dryrun", 2), ("--dry", 2)])
def test_what_is_not_an_option_installs_nothing(argument, code, monkeypatch):
    monkeypatch.setattr(hosted.subprocess, "run", lambda *_: pytest.fail("pip was run"))
    with pytest.raises(SystemExit) as ended:
        hosted.main([argument])
    assert ended.value.code == code
