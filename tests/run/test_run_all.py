"""run_all.sh from the outside: options, failures, kills, the set-up of an environment."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from sparc_lib import paths
from sparc_lib.profiles import load_profile

SCRIPT = paths.REPO / "run_all.sh"
OPTIONS = [
    "--profile",
    "--data-root",
    "--fetch",
    "--from",
    "--only",
    "--force",
    "--offline",
    "--update-notebooks",
    "--test",
    "--help",
]
SAVE = "from sparc_lib.notebook.results import save_table; save_table({'x': 1}, profile, '%s_table')"


def environment(**extra):
    """This interpreter is the active environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(paths.REPO), "OMP_NUM_THREADS": "1", **extra}


def run_all(*options, **extra):
    return subprocess.run(
        [str(SCRIPT), *options], env=environment(**extra), capture_output=True, text=True, timeout=540
    )


@pytest.fixture
def notebooks(tmp_path, monkeypatch):
    """Writes tiny notebooks NN_name.ipynb from lists of cells, and names where results go."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setenv("SPARC_NOTEBOOKS", str(folder))

    def write(**cells):
        for name, sources in cells.items():
            head = new_code_cell('profile = "mini"', metadata={"tags": ["parameters"]})
            notebook = new_notebook(cells=[head, *map(new_code_cell, sources)])
            nbformat.write(notebook, folder / f"{name.lstrip('n')}.ipynb")
        return folder

    return write


def left(scratch, profile="smoke"):
    """Every file a run left, and those that look finished."""
    files = {str(p.relative_to(scratch / "output")) for p in (scratch / "output").rglob("*") if p.is_file()}
    finished = {f for f in files if not f.endswith((".failed", ".log", ".lock", ".partial"))}
    return files, finished


# ------------------------------------------------------------------ options


def test_help_lists_every_option():
    done = run_all("--help")
    assert done.returncode == 0 and all(re.search(rf"^  {option}\b", done.stdout, re.M) for option in OPTIONS)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--frobnicate"], "unknown option --frobnicate; see --help"),
        (["--profile"], "--profile needs a value"),
        (["--only", "--force"], "--only needs a value"),
        (["--profile", "huge"], "no profile 'huge'; choose one of coco, mini, openimages, smoke"),
    ],
)
def test_wrong_use_is_explained(options, message, notebooks, scratch):
    notebooks(n00_a=[], n03_b=[])
    done = run_all(*options)
    assert done.returncode == 2 and re.search(message, done.stderr) and "Traceback" not in done.stderr
    assert left(scratch)[1] == set()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--only", "07"], "--only 07: no such notebook; choose one of 00, 03"),
        (["--only", "0", "--from", "3"], "exclude each other"),
        (["--update-notebooks", "--profile", "smoke"], "show the mini profile, not smoke"),
    ],
)
def test_impossible_choices_are_explained(options, message, notebooks, scratch):
    from sparc_lib.run.runner import RunError, _parse, run_notebooks

    notebooks(n00_a=[], n03_b=[])
    with pytest.raises(RunError, match=message):
        run_notebooks(_parse(options))
    assert left(scratch)[1] == set()


def test_an_empty_notebooks_folder_is_an_error(notebooks):
    from sparc_lib.run.runner import RunError, select

    notebooks()
    with pytest.raises(RunError, match="no notebook NN_name.ipynb here"):
        select()


def test_only_and_from_choose(notebooks, monkeypatch):
    from sparc_lib.run.runner import select

    notebooks(n00_a=[], n03_b=[], n07_c=[])
    (paths.notebooks_dir() / "scratch.ipynb").write_text("{}")
    assert [p.stem for p in select()] == ["00_a", "03_b", "07_c"]
    assert [p.stem for p in select(only="3")] == ["03_b"]
    assert [p.stem for p in select(start="03")] == ["03_b", "07_c"]


# ---------------------------------------------------------------- notebooks


@pytest.mark.slow
def test_a_run_reports_its_notebooks_and_what_it_made(notebooks, scratch):
    notebooks(
        n00_a=["import sys, os; print(profile, os.getcwd(), sys.prefix)"],
        n01_b=[SAVE % "01"],
        n02_c=["large = b'x' * (600 << 20)"],
    )
    done = run_all("--profile", "smoke", "--offline")
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^(\w+) +ok +\d+\.\d s +peak (\d\.\d\d) GiB$", done.stdout, re.M)
    peak = {name: float(gib) for name, gib in lines}
    assert sorted(peak) == ["00_a", "01_b", "02_c"]
    assert peak["01_b"] < 0.5 < peak["02_c"]  # the kernel's memory counts, notebook by notebook
    assert re.search(
        r"3 of 3 notebooks finished in .* min, peak memory \d\.\d\d GiB, profile smoke", done.stdout
    )
    assert re.search(r"figures +0 ", done.stdout) and re.search(r"tables +1 ", done.stdout)
    assert left(scratch)[1] == {
        f"results/smoke/{f}"
        for f in ("notebooks/00_a.ipynb", "notebooks/01_b.ipynb", "notebooks/02_c.ipynb", "01_table.json")
    }
    executed = nbformat.read(scratch / "output/results/smoke/notebooks/00_a.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text.split() == ["smoke", str(scratch / "notebooks"), sys.prefix]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fatal, shown",
    [
        ("raise ValueError('the encoder is missing')", "ValueError: the encoder is missing"),
        ("import os; os.kill(os.getpid(), 9)", "Kernel died"),
    ],
)
def test_a_failed_or_killed_notebook_leaves_nothing_that_looks_finished(notebooks, scratch, fatal, shown):
    notebooks(n00_a=[SAVE % "00", fatal], n01_b=["1"])
    stale = [
        scratch / "output/results/smoke" / f for f in ("notebooks/00_a.ipynb", "00_old.json", "01_other.json")
    ]
    stale[0].parent.mkdir(parents=True)
    for file in stale:
        file.write_text("{}")
    done = run_all("--profile", "smoke")
    assert done.returncode == 1
    assert shown in done.stderr and "FAILED in 00_a.ipynb" in done.stdout and "01_b  " not in done.stdout
    files, finished = left(scratch)
    assert finished == {"results/smoke/01_other.json"}  # another notebook's table is none of its business
    assert "results/smoke/notebooks/00_a.ipynb.failed" in files


@pytest.mark.slow
def test_notebooks_side_by_side_and_the_last_one_after_them(notebooks, scratch):
    """smoke runs some at once: 00 ends only because 01 runs beside it, and 02 finds what both have written."""
    wait = "import pathlib, time; end = time.monotonic() + 120\nwhile not pathlib.Path('%s').exists(): assert time.monotonic() < end"
    shares = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['LOKY_MAX_CPU_COUNT'])"
    notebooks(
        n00_a=[wait % (scratch / "beside"), SAVE % "00", shares],
        n01_b=[f"open({str(scratch / 'beside')!r}, 'w').close()", SAVE % "01"],
        n02_c=[
            "from sparc_lib import paths; print(len(list(paths.results_dir(profile).glob('*_table.json'))))"
        ],
    )
    done = run_all("--profile", "smoke")
    assert done.returncode == 0, done.stderr
    ended = re.findall(r"^(\d\d_\w)", done.stdout, re.M)
    assert set(ended[:2]) == {"00_a", "01_b"} and ended[2:] == ["02_c"]
    text = [
        nbformat.read(scratch / f"output/results/smoke/notebooks/{name}.ipynb", as_version=4)
        .cells[-1]
        .outputs[0]
        .text
        for name in ("00_a", "02_c")
    ]
    share = max(1, os.cpu_count() // load_profile("smoke").notebooks_at_once)
    assert text == [f"{share} {share}\n", "2\n"]


@pytest.mark.slow
def test_a_failure_lets_the_others_end_and_no_more_begin(notebooks, scratch):
    at_once = load_profile("smoke").notebooks_at_once
    notebooks(
        **{
            f"n{i:02d}_a": ["raise ValueError('broken')"] if i == 1 else [SAVE % f"{i:02d}"]
            for i in range(at_once + 4)
        }
    )
    done = run_all("--profile", "smoke")
    assert done.returncode == 1 and "ValueError: broken" in done.stderr
    assert re.search(r"FAILED in 01_a.ipynb; once mended, .* --from 01", done.stdout)
    files, finished = left(scratch)
    ended = re.findall(r"^(\d\d)_a +ok", done.stdout, re.M)
    assert "00" in ended and f"{at_once + 3:02d}" not in ended
    assert finished == {
        f"results/smoke/{f}" for i in ended for f in (f"{i}_table.json", f"notebooks/{i}_a.ipynb")
    }
    assert "results/smoke/notebooks/01_a.ipynb.failed" in files


def start_and_wait_for_kernel(scratch, notebooks):
    """A run in the middle of a long cell, and the process id of its kernel."""
    pid_file = scratch / "pid"
    notebooks(
        n00_a=[
            SAVE % "00",
            f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid()))",
            "time.sleep(300)",
        ]
    )
    run = subprocess.Popen(
        [str(SCRIPT), "--profile", "smoke"],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not (pid_file.exists() and pid_file.read_text()):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    return run, int(pid_file.read_text())


def has_ended(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_terminated_run_ends_its_kernel_and_leaves_nothing_finished(notebooks, scratch):
    run, kernel = start_and_wait_for_kernel(scratch, notebooks)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM and "stopped by SIGTERM" in errors
    assert left(scratch)[1] == set() and has_ended(kernel)


@pytest.mark.slow
def test_after_kill_9_the_next_run_ends_the_orphan_and_starts_clean(notebooks, scratch):
    run, kernel = start_and_wait_for_kernel(scratch, notebooks)
    run.kill()
    run.communicate(timeout=60)
    assert not (scratch / "output/results/smoke/notebooks/00_a.ipynb").exists() and not has_ended(kernel)
    notebooks(n01_b=["1"])
    done = run_all("--profile", "smoke", "--only", "01")
    assert done.returncode == 0, done.stderr
    assert left(scratch)[1] == {"results/smoke/notebooks/01_b.ipynb"} and has_ended(kernel)


def test_leftovers_of_a_run_killed_outright_are_removed(notebooks, scratch):
    from sparc_lib.run.execution import clear_killed

    done_dir = paths.results_dir("smoke") / "notebooks"
    done_dir.mkdir()
    (done_dir / "02_x.ipynb.partial").write_text("")
    for file in (
        paths.results_dir("smoke") / "02_a.csv",
        paths.figures_dir("smoke") / "02_a.png",
        paths.results_dir("smoke") / "03_b.csv",
    ):
        file.write_text("")
    clear_killed(done_dir, "smoke")
    assert left(scratch)[1] == {"results/smoke/03_b.csv"}
    assert (done_dir / "02_x.ipynb.failed").exists()


@pytest.mark.slow
def test_update_notebooks_commits_outputs_and_nothing_else(notebooks, scratch):
    folder = notebooks(
        n00_a=[
            "import sys; print('to stderr', file=sys.stderr); print(sys.prefix + '/lib')",
            "1 + 1",
            "import pandas; pandas.DataFrame({'x': [1]}).style",
        ]
    )
    before = nbformat.read(folder / "00_a.ipynb", as_version=4)
    done = run_all("--update-notebooks")
    assert done.returncode == 0, done.stderr
    first = (folder / "00_a.ipynb").read_text()
    after = nbformat.reads(first, as_version=4)
    assert [c.source for c in after.cells] == [c.source for c in before.cells]
    assert [c.execution_count for c in after.cells] == [1, 2, 3, 4]
    assert [c.metadata for c in after.cells] == [c.metadata for c in before.cells]
    assert [[out.get("text") or out.data["text/plain"] for out in c.outputs] for c in after.cells[:3]] == [
        [],
        ["$ENV/lib\n"],
        ["2"],
    ]
    assert 'id="T_1_row0_col0"' in after.cells[3].outputs[0].data["text/html"]
    assert after.cells[2].outputs[0].execution_count == 3
    assert set(after.metadata) == {"kernelspec", "language_info"}
    assert run_all("--update-notebooks").returncode == 0
    assert (folder / "00_a.ipynb").read_text() == first  # a second run leaves no difference


def test_only_whole_paths_of_this_machine_are_renamed(monkeypatch):
    from sparc_lib.run.writeback import _without_paths

    monkeypatch.setenv("HOME", "/home/ada")
    inside = f"{paths.output_root()}/figures/mini/a.png {paths.data_root()} {paths.REPO}/sparc_lib/x.py {paths.REPO}"
    assert _without_paths(inside) == "figures/mini/a.png $SPARC_DATA sparc_lib/x.py ."
    assert _without_paths("/home/ada/x /home/adam/x data/home/ada/x") == "~/x /home/adam/x data/home/ada/x"
    monkeypatch.setenv("HOME", "/")
    assert _without_paths("a / b and /usr/bin") == "a / b and /usr/bin"


def test_run_times_in_the_readme_come_from_the_provenance(tmp_path):
    from sparc_lib.run.writeback import WriteBackError, write_run_times

    for number, seconds in (("00", 12.4), ("01", 100.0)):
        (tmp_path / f"{number}_provenance.json").write_text(
            json.dumps({"wall_seconds": seconds, "peak_memory_mb": 512.3})
        )
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- run-times: begin; x -->\nold\n<!-- run-times: end -->\nafter\n")
    for _ in range(2):  # a second time changes nothing
        write_run_times(readme, tmp_path)
    assert readme.read_text() == (
        "before\n<!-- run-times: begin; x -->\n| notebook | seconds | peak memory, MiB |\n|---|---|---|\n"
        "| 00 | 12 | 512 |\n| 01 | 100 | 512 |\n| together | 112 | |\n<!-- run-times: end -->\nafter\n"
    )
    readme.write_text("no markers")
    with pytest.raises(WriteBackError, match="markers"):
        write_run_times(readme, tmp_path)


def test_an_edited_notebook_is_not_overwritten(notebooks, scratch):
    from sparc_lib.run.writeback import WriteBackError, write_back

    folder = notebooks(n00_a=["1"])
    shutil.copy(folder / "00_a.ipynb", scratch / "executed.ipynb")
    notebooks(n00_a=["2"])
    with pytest.raises(WriteBackError, match="00_a.ipynb: the notebook was edited while it ran"):
        write_back(folder / "00_a.ipynb", scratch / "executed.ipynb")


@pytest.mark.slow
def test_the_real_notebooks_run_on_the_smoke_profile(scratch):
    done = run_all("--profile", "smoke", "--offline")
    assert done.returncode == 0, done.stdout + done.stderr
    made = {path.stem for path in (scratch / "output/results/smoke/notebooks").glob("*.ipynb")}
    assert made == {path.stem for path in (paths.REPO / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    stamps = (scratch / "output/results/smoke").glob("*_provenance.json")
    assert {json.loads(file.read_text())["profile"] for file in stamps} == {"smoke"}


# -------------------------------------------------------------- environment

FAKE_PYTHON = r"""#!/bin/sh
# Stands in for python3: `-m venv DIR` copies itself, pip notes its call, and code "runs" if the environment is whole.
log="{log}"
case "$*" in
  "-c import sys"*) exit {version_ok} ;;
  "-m venv "*) echo "venv $3" >>"$log"; mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  "-m pip --version") [ -x "$0" ] ;;
  "-m pip install "*) echo "pip $0" >>"$log"; {pip} ;;
  "-m sparc_lib.run.runner"*) echo "ran $0 $*" ;;
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

    def run(*options, pip=":", version_ok=0, python=True):
        if python:
            (tools / "python3").write_text(FAKE_PYTHON.format(log=log, pip=pip, version_ok=version_ok))
            (tools / "python3").chmod(0o755)
            for copy in repo.glob(".venv/bin/python"):
                shutil.copy(tools / "python3", copy)
        log.write_text("")
        done = subprocess.run(
            [str(repo / "run_all.sh"), *options],
            env={"PATH": str(tools)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done, log.read_text().replace(str(repo), "REPO").splitlines()

    return repo, tools, run


FRESH = ["venv REPO/.venv", "pip REPO/.venv/bin/python"]


def test_a_bare_machine_gets_a_venv_once(bare):
    repo, _, run = bare
    done, calls = run("--only", "02", "--force")
    assert done.returncode == 0, done.stderr
    assert calls == FRESH
    assert f"ran {repo}/.venv/bin/python -m sparc_lib.run.runner --only 02 --force" in done.stdout
    done, calls = run()
    assert done.returncode == 0 and calls == []


def test_changed_pins_are_installed_into_the_same_venv(bare):
    repo, _, run = bare
    run()
    with open(repo / "constraints.txt", "a") as handle:
        handle.write("# changed\n")
    done, calls = run()
    assert done.returncode == 0 and calls == FRESH[1:]


def test_a_venv_whose_set_up_was_killed_is_built_anew(bare):
    repo, _, run = bare
    done, calls = run(pip="kill -9 $PPID")
    assert done.returncode != 0 and calls == FRESH and not (repo / ".venv/.sparc-ready").exists()
    (repo / ".venv/half-a-package").write_text("")
    done, calls = run()
    assert done.returncode == 0 and "was interrupted; starting over" in done.stderr
    assert calls == FRESH and not (repo / ".venv/half-a-package").exists()


def test_a_venv_without_stamp_is_completed_and_kept(bare):
    repo, _, run = bare
    run()
    (repo / ".venv/.sparc-ready").unlink()
    (repo / ".venv/mine").write_text("")
    done, calls = run()
    assert done.returncode == 0 and calls == FRESH[1:] and (repo / ".venv/mine").exists()


def test_a_failed_installation_says_so_and_is_completed_later(bare):
    repo, _, run = bare
    done, calls = run(pip="exit 1")
    assert done.returncode == 2 and "pip could not install" in done.stderr and "ran" not in done.stdout
    done, calls = run()
    assert done.returncode == 0 and calls == FRESH[1:]


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
    assert f"ran {repo}/.conda/bin/python -m sparc_lib.run.runner" in done.stdout and calls == []


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


# -------------------------------------------------------------------- tests


def test_the_test_command_says_when_there_are_no_notebooks_and_fails_when_either_part_fails(
    notebooks, monkeypatch, capsys
):
    from sparc_lib.run import suite

    codes, calls = {"tests": 0, "--nbval-lax": 0}, []
    monkeypatch.setattr(
        suite, "_pytest", lambda *arguments, **_: calls.append(arguments) or codes[arguments[0]]
    )
    notebooks()
    assert suite.run_tests() == 0 and len(calls) == 1 and "no notebooks yet" in capsys.readouterr().out
    folder = notebooks(n00_a=[])
    for tests, nbval, expected in ((0, 0, 0), (1, 0, 1), (0, 1, 1)):
        codes.update({"tests": tests, "--nbval-lax": nbval})
        assert suite.run_tests() == expected
    assert calls[-1][-1] == str(folder / "00_a.ipynb")


@pytest.mark.slow
def test_nbval_compares_the_checked_cells(notebooks, scratch):
    from sparc_lib.run.suite import _pytest

    folder = notebooks(n00_a=["import sys; print('noise', file=sys.stderr); print('ok')", "print(1)"])
    file = folder / "00_a.ipynb"
    shutil.copy(paths.REPO / "notebooks/conftest.py", folder)
    notebook = nbformat.read(file, as_version=4)
    for count, (cell, text) in enumerate(zip(notebook.cells[1:], ("ok\n", "2\n")), start=2):
        cell.execution_count = count
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
    notebook.cells[1].metadata.tags = ["nbval-check-output"]
    nbformat.write(notebook, file)
    arguments = ("--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", str(file))
    assert _pytest(*arguments) == 0  # the unchecked cell may differ, and stderr may
    notebook.cells[2].metadata.tags = ["nbval-check-output"]
    nbformat.write(notebook, file)
    assert _pytest(*arguments) == 1
