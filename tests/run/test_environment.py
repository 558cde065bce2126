"""run_all.sh sets up an environment where there is none, once, and says what it needs."""

import os
import shutil
import subprocess
from importlib import metadata

import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from sparc_lib import paths

FAKE_PYTHON = r"""#!/bin/sh
# Stands in for python3: `-m venv DIR` copies itself, pip notes its call, and code "runs" if the environment
# is whole.
log="{log}"
case "$*" in
  "-c import sys"*) exit {version_ok} ;;
  "-m venv "*) echo "venv $3" >>"$log"; mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  "-m pip --version") [ -x "$0" ] ;;
  "-m pip install "*) echo "pip $0" >>"$log"; {pip} ;;
  "-P -m sparc_lib.run.runner"*) echo "ran $0 $*" ;;
  *) [ -f "$(dirname "$0")/../.sparc-ready" ] ;;
esac
"""


@pytest.fixture
def bare(tmp_path):
    """A copy of the checkout's top level on a machine that has only a python3, which is a fake."""
    repo, tools, log = tmp_path / "repo", tmp_path / "tools", tmp_path / "log"
    repo.mkdir(), tools.mkdir()
    for name in ("run_all.sh", "pyproject.toml", "constraints.txt", "environment.yml"):
        shutil.copy(paths.REPO / name, repo)
    for name in ("bash", "sh", "cat", "cksum", "cp", "dirname", "env", "mkdir", "rm", "sleep"):
        (tools / name).symlink_to(shutil.which(name))

    def run(*options, pip=":", version_ok=0, python=True, uname=None, **variables):
        if uname is not None:
            (tools / "uname").write_text(f"#!/bin/sh\necho {uname}\n")
            (tools / "uname").chmod(0o755)
        if python:
            (tools / "python3").write_text(FAKE_PYTHON.format(log=log, pip=pip, version_ok=version_ok))
            (tools / "python3").chmod(0o755)
            for copy in repo.glob(".venv/bin/python"):
                shutil.copy(tools / "python3", copy)
        log.write_text("")
        done = subprocess.run(
            [str(repo / "run_all.sh"), *options],
            env={"PATH": str(tools), **variables},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done, log.read_text().replace(str(repo), "REPO").splitlines()

    return repo, tools, run


FIRST_SET_UP = ["venv REPO/.venv", "pip REPO/.venv/bin/python"]


def test_a_bare_machine_gets_a_venv_once(bare):
    repo, _, run = bare
    done, calls = run("--only", "02", "--force")
    assert done.returncode == 0, done.stderr
    assert calls == FIRST_SET_UP
    assert f"ran {repo}/.venv/bin/python -P -m sparc_lib.run.runner --only 02 --force" in done.stdout
    done, calls = run()
    assert done.returncode == 0 and calls == []


def test_changed_pins_are_installed_into_the_same_venv(bare):
    repo, _, run = bare
    run()
    with open(repo / "constraints.txt", "a") as handle:
        handle.write("# changed\n")
    done, calls = run()
    assert done.returncode == 0 and calls == FIRST_SET_UP[1:]


def test_a_venv_whose_set_up_was_killed_is_built_anew(bare):
    repo, _, run = bare
    done, calls = run(pip="kill -9 $PPID")
    assert done.returncode != 0 and calls == FIRST_SET_UP and not (repo / ".venv/.sparc-ready").exists()
    (repo / ".venv/half-a-package").write_text("")
    done, calls = run()
    assert done.returncode == 0 and "was interrupted; starting over" in done.stderr
    assert calls == FIRST_SET_UP and not (repo / ".venv/half-a-package").exists()


def test_a_venv_without_stamp_is_completed_and_kept(bare):
    repo, _, run = bare
    run()
    (repo / ".venv/.sparc-ready").unlink()
    (repo / ".venv/mine").write_text("")
    done, calls = run()
    assert done.returncode == 0 and calls == FIRST_SET_UP[1:] and (repo / ".venv/mine").exists()


def test_a_failed_installation_says_so_and_is_completed_later(bare):
    repo, _, run = bare
    done, calls = run(pip="exit 1")
    assert done.returncode == 2 and "pip could not install" in done.stderr and "ran" not in done.stdout
    done, calls = run()
    assert done.returncode == 0 and calls == FIRST_SET_UP[1:]


def test_a_set_up_in_progress_is_not_disturbed(bare):
    repo, _, run = bare
    (repo / ".venv.installing").write_text(str(os.getpid()))
    done, calls = run()
    assert done.returncode == 2 and f"process {os.getpid()} is setting up" in done.stderr and calls == []


@pytest.mark.parametrize("case", [{"version_ok": 1}, {"python": False}])
def test_without_a_recent_python_the_error_says_what_to_install(bare, case):
    done, calls = bare[2](**case)
    assert done.returncode == 2 and "no Python 3.11 or later; install Python or micromamba" in done.stderr


def test_offline_without_an_environment_is_refused(bare):
    done, calls = bare[2]("--offline")
    assert done.returncode == 2 and "--offline forbids installing" in done.stderr and calls == []


def test_micromamba_is_preferred_to_a_new_venv(bare):
    repo, tools, run = bare
    (tools / "micromamba").write_text(
        '#!/bin/sh\necho "$*"\nmkdir -p "$4/bin"\n'
        'printf "#!/bin/sh\\necho ran \\$0 \\$*\\n" >"$4/bin/python"; /bin/chmod +x "$4/bin/python"\n'
    )
    (tools / "micromamba").chmod(0o755)
    done, calls = run()
    assert done.returncode == 0, done.stderr
    assert f"env create --prefix {repo}/.conda --file environment.yml" in done.stderr
    assert f"ran {repo}/.conda/bin/python -P -m sparc_lib.run.runner" in done.stdout and calls == []


def test_every_package_takes_the_oldest_python_promised():
    """The README and pyproject.toml say 3.11; Debian 12 has 3.11.2."""
    pinned = {
        line.split("==")[0]
        for line in (paths.REPO / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    needs = {
        found.metadata["Name"]: found.metadata["Requires-Python"]
        for found in metadata.distributions()
        if canonicalize_name(found.metadata["Name"]) in pinned
    }
    assert len(needs) > 100
    assert {
        name: need for name, need in needs.items() if need and not SpecifierSet(need).contains("3.11.0")
    } == {}


# ------------------------------------------------------------------ systems


def test_native_windows_is_refused_and_says_what_to_take(bare):
    done, calls = bare[2](uname="MINGW64_NT-10.0")
    assert done.returncode == 2 and calls == []
    assert "native Windows is not supported; install WSL" in done.stderr


def test_macos_says_where_the_notebooks_run(bare):
    done, calls = bare[2](uname="Darwin")
    assert done.returncode == 0 and calls == FIRST_SET_UP
    assert "macOS: notebooks run on the CPU" in done.stderr


def test_wsl_warns_of_a_clone_on_a_windows_drive_only(bare):
    done, _ = bare[2](uname="Linux", WSL_DISTRO_NAME="Ubuntu")
    assert done.returncode == 0 and "Windows drive" not in done.stderr
    text = (paths.REPO / "run_all.sh").read_text().replace('REPO="$(cd', 'REPO="/mnt/c/sparc" #')
    (bare[0] / "run_all.sh").write_text(text)
    done, _ = bare[2](uname="Linux", WSL_DISTRO_NAME="Ubuntu", python=False)
    assert "this clone lies on a Windows drive" in done.stderr


def test_help_tells_windows_and_macos_users_how_to_begin():
    shown = subprocess.run([paths.REPO / "run_all.sh", "--help"], capture_output=True, text=True, check=True)
    assert "wsl --install" in shown.stdout and "brew install python" in shown.stdout
