"""What run_all.sh takes, what it refuses and in which words, and where it works."""

import os
import re
import resource
import subprocess
import sys

import pytest
from test_run_all import SCRIPT, environment, left, run_all

from sparc_lib import paths
from sparc_lib.run import options, runner
from sparc_lib.run.fetching import RunError
from sparc_lib.run.options import Options, parse, set_up
from sparc_lib.studies import stages
from sparc_lib.studies.stages import REBUILD_BEFORE, stage

OPTIONS = ("--profile", "--data-root", "--fetch", "--from", "--only", "--force", "--offline")
OPTIONS += ("--html", "--update-notebooks", "--verify", "--test", "--help")


@pytest.fixture
def said(monkeypatch, capsys):
    """Calls the runner in this process as from a terminal; returns (exit code, what it said on stderr)."""
    monkeypatch.setattr(runner.signal, "signal", lambda *_: None)  # pytest's own handlers stay
    for name in (*options.OFFLINE, *options.FOLDERS, "SPARC_PROFILE", "JUPYTER_PREFER_ENV_PATH"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back what the runner changes

    def call(*arguments):
        code = runner.main(list(arguments))
        return code, capsys.readouterr().err

    return call


def test_help_lists_every_option():
    done = run_all("--help")
    assert done.returncode == 0
    for option in OPTIONS:
        assert re.search(rf"^  {option}\b", done.stdout, re.MULTILINE), option


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--frobnicate"], "unknown option --frobnicate; see --help"),
        (["--profile"], "--profile needs a value"),
        (["--only", "--force"], "--only needs a value"),
        (["--profile", ""], "--profile is empty; is the variable unset"),
        (["--only", ""], "--only is empty"),
        (["--profile=smoke"], "--profile=smoke: write --profile and its value as two words"),
        (["--offline", ""], "an option is empty; is a variable unset?"),
    ],
)
def test_the_script_refuses_before_it_sets_anything_up(arguments, message, scratch):
    done = run_all(*arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert left(scratch)[1] == set()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--profile", " "], "--profile is empty"),
        (["--from", ""], "--from is empty"),
        (["--data-root", ""], "--data-root is empty"),
        (["--only", "0", "--from", "3"], "exclude each other"),
        (["--only", "00", "--only", "03"], "--only is given twice"),
        (["--test", "--only", "03"], "--test does not go with --only"),
        (["--test", "--profile", "smoke", "--force"], "--test does not go with --profile, --force"),
        (["--verify", "--profile", "smoke"], "--verify does not go with --profile"),
        (["--fetch", "--update-notebooks"], "--fetch does not go with --update-notebooks"),
        (["--fetch", "--offline"], "--fetch does not go with --offline"),
        (["--fetch"], "profile mini draws its pictures and downloads nothing"),
        (["--fetch", "--profile", "smoke"], "profile smoke draws its pictures"),
        (["--profile", "huge"], "no profile 'huge'; choose one of coco, mini, openimages, smoke"),
        (["--profile", "none/there.yaml"], "there is no such profile"),
        (["--profile", "none/there.yml"], "the file of a profile ends in .yaml"),
        (["--profile", "~nobody-at-all/x.yaml"], "there is no such profile"),
        (["--profile", "-smoke"], "argument --profile: expected one argument; see --help"),
        (["--data-root", "/no/such/folder"], "--data-root /no/such/folder: no such folder"),
        (["--only", "07"], "--only 07: no such notebook; choose one of 00, 03"),
        (["--from", "99"], "--from 99: no such notebook"),
        (["--update-notebooks", "--profile", "smoke"], "show the mini profile, not smoke"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(arguments, message, notebooks, scratch, said):
    notebooks(n00_a=[], n03_b=[])
    code, text = said(*arguments)
    assert code == 2 and message in text and len(text.splitlines()) == 1
    assert left(scratch)[1] == set()


def test_tests_may_run_offline():
    given = parse(["--test", "--offline"])
    assert given.test and given.offline and not given.fetch


def test_verify_names_what_a_disk_has_changed_and_what_to_do(said, scratch, monkeypatch, capsys):
    """A large file of the same size and time, which a run would take as it is."""
    monkeypatch.setattr(stages, "HASHED_BELOW", 2)
    sound, damaged = (stage(name, {}, lambda folder: (folder / "x").write_text("done")) for name in "ab")
    assert runner.main(["--verify"]) == 0
    assert "2 of 2 stages" in capsys.readouterr().out
    file = damaged / "x"
    written = file.stat().st_mtime_ns
    file.write_text("DONE")
    os.utime(file, ns=(written, written))
    (sound.parent / "c-0.partial").mkdir()  # a run at work, or one that was killed
    code, errors = said("--verify")
    assert code == 1 and f"{file}: its content is not what was written; delete {damaged}" in errors


def test_verify_without_anything_cached(said, scratch):
    (scratch / "data").mkdir()
    assert said("--verify") == (0, "")


@pytest.mark.parametrize("place", ["not/there", "a file"])
def test_verify_does_not_call_a_mistyped_folder_sound(place, said, scratch, monkeypatch):
    (scratch / "a file").write_text("")
    monkeypatch.setenv("SPARC_DATA", str(scratch / place))
    code, text = said("--verify")
    assert code == 2 and "$SPARC_DATA" in text and "is no folder, so nothing was read" in text


def test_an_empty_notebooks_folder_is_an_error(notebooks):
    notebooks()
    with pytest.raises(RunError, match="no notebook NN_name.ipynb here"):
        runner.select()


def test_two_notebooks_of_one_number_are_refused(notebooks, said):
    """The second would run in the place of the first, and its tables would replace that one's."""
    notebooks(n00_a=[], n00_a_mine=[], n03_b=[])
    code, text = said("--profile", "smoke", "--only", "03")
    assert code == 2 and "00_a.ipynb and 00_a_mine.ipynb have the same number" in text


def test_only_and_from_choose(notebooks):
    notebooks(n00_a=[], n03_b=[], n07_c=[])
    (paths.notebooks_dir() / "scratch.ipynb").write_text("{}")
    assert [path.stem for path in runner.select()] == ["00_a", "03_b", "07_c"]
    assert [path.stem for path in runner.select(only="3")] == ["03_b"]
    assert [path.stem for path in runner.select(start="03")] == ["03_b", "07_c"]


@pytest.mark.parametrize("name", ["..", "...", ".hidden", "-x"])
def test_a_profile_cannot_name_another_folder(name, notebooks, scratch, said, tmp_path):
    """A file called `...yaml` is the profile `..`: its results would lie in the root of $SPARC_OUTPUT."""
    notebooks(n00_a=[])
    text = (paths.PROFILES / "smoke.yaml").read_text().replace("name: smoke", f"name: '{name}'")
    (tmp_path / f"{name}.yaml").write_text(text)
    code, message = said("--profile", str(tmp_path / f"{name}.yaml"))
    assert code == 2 and "Traceback" not in message and name in message
    assert not (scratch / "output").exists() or left(scratch)[0] == set()


@pytest.mark.parametrize("name", ["..", "", "a/b", "/absolute"])
def test_folders_of_results_stay_below_the_output(name):
    for folder in (paths.results_dir, paths.figures_dir):
        with pytest.raises(ValueError, match="profile"):
            folder(name)


def test_relative_folders_are_taken_from_where_the_command_was_given(tmp_path, monkeypatch, said):
    monkeypatch.chdir(tmp_path)
    for name in options.FOLDERS:
        monkeypatch.setenv(name, "here")
    (tmp_path / "here").mkdir()
    set_up(Options(test=True))
    for name in options.FOLDERS:
        assert os.environ[name] == str(tmp_path / "here")


@pytest.mark.parametrize("variable", options.FOLDERS)
@pytest.mark.parametrize(
    "folder, words",
    [
        ("~nobody-at-all/x", "cannot be found (Could not determine home directory.)"),
        ("results\udcff", "is not UTF-8, as notebooks are"),
    ],
)
def test_a_folder_that_cannot_be_is_refused(folder, words, variable, notebooks, said, monkeypatch):
    notebooks(n00_a=[])
    monkeypatch.setenv(variable, folder)
    code, text = said("--profile", "smoke")
    assert code == 2 and f"${variable}: " in text and words in text and len(text.splitlines()) == 1


def test_links_that_run_in_a_circle_are_refused(notebooks, said, monkeypatch, tmp_path):
    notebooks(n00_a=[])
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    monkeypatch.setenv("SPARC_OUTPUT", str(tmp_path / "circle"))
    code, text = said("--profile", "smoke")
    assert code == 2 and "$SPARC_OUTPUT" in text and str(tmp_path / "circle") in text
    code, text = said("--profile", str(tmp_path / "circle/x.yaml"))
    assert code == 2 and "circle" in text and "Traceback" not in text


def test_a_mistyped_folder_of_profiles_is_not_passed_over(said, monkeypatch):
    """The reader's own mini would be looked for there, and the project's would run."""
    monkeypatch.setenv("SPARC_PROFILES", "/not/there")
    code, text = said("--profile", "mini", "--only", "99")
    assert code == 2 and "$SPARC_PROFILES: /not/there is no folder; mend the path" in text


@pytest.mark.parametrize("place", ["a file", "below a file", "unwritable"])
@pytest.mark.parametrize("variable", ["SPARC_OUTPUT", "SPARC_DATA"])
def test_a_folder_that_cannot_be_written_is_named(variable, place, notebooks, said, monkeypatch, tmp_path):
    notebooks(n00_a=[])
    (tmp_path / "occupied").write_text("a file")
    folders = {
        "a file": tmp_path / "occupied",
        "below a file": tmp_path / "occupied/x",
        "unwritable": "/proc/x",
    }
    monkeypatch.setenv(variable, str(folders[place]))
    code, text = said("--profile", "smoke")
    assert code == 2 and "cannot write there" in text and f"${variable}" in text and "Traceback" not in text


def test_a_run_beside_another_one_is_refused(notebooks, said):
    from sparc_lib.files import locked

    notebooks(n00_a=[])
    folder = options.make_folders("smoke")
    with locked(folder / "run"):
        code, text = said("--profile", "smoke")
    assert code == 2 and "another run_all.sh writes here" in text


def test_the_command_to_go_on_keeps_everything_that_was_given(monkeypatch):
    for name in (*options.FOLDERS, "SPARC_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    given = parse(["--profile", "my own.yaml", "--data-root", "sets", "--offline", "--from", "02", "--force"])
    assert given.to_go_on_with("04") == (
        "./run_all.sh --profile 'my own.yaml' --data-root sets --offline --force --from 04"
    )
    monkeypatch.setenv("SPARC_OUTPUT", "my results")  # perhaps for that one command only
    assert parse([]).to_go_on_with("04") == "SPARC_OUTPUT='my results' ./run_all.sh --from 04"
    assert parse(["--only", "4"]).to_go_on_with("04") == "SPARC_OUTPUT='my results' ./run_all.sh --only 4"


def test_the_limit_of_open_files_is_raised_or_refused(monkeypatch):
    limits = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 1024))
    options._allow_open_files()
    assert limits == [(1024, 1024)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    with pytest.raises(RunError, match="only 64 files may be open at once; raise the limit: ulimit -n 256"):
        options._allow_open_files()


def test_force_uses_the_variable_that_stages_read():
    assert runner.REBUILD_BEFORE == REBUILD_BEFORE


def test_the_runner_starts_without_the_heavy_packages():
    heavy = ("torch", "pandas", "matplotlib", "sklearn", "scipy")
    code = f"import sys, sparc_lib.run.runner; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_another_library_in_the_current_folder_is_not_run(tmp_path):
    """`python -m` looks in the current folder first; run_all.sh is often called from another clone's."""
    (tmp_path / "sparc_lib").mkdir()
    (tmp_path / "sparc_lib/__init__.py").write_text("raise SystemExit('the wrong library')")
    (tmp_path / "yaml.py").write_text("raise SystemExit('the wrong module')")
    done = subprocess.run(
        [str(SCRIPT), "--only", "99"], env=environment(), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2 and "--only 99: no such notebook" in done.stderr


def test_another_library_on_the_path_is_not_run(tmp_path):
    """What PYTHONPATH names comes before the environment's packages."""
    (tmp_path / "sparc_lib").mkdir()
    (tmp_path / "sparc_lib/__init__.py").write_text("raise SystemExit('the wrong library')")
    done = run_all("--offline", "--only", "99", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and f"PYTHONPATH: {tmp_path} holds another sparc_lib" in done.stderr
    ours_first = f"{paths.REPO}{os.pathsep}{tmp_path}"
    done = run_all("--offline", "--only", "99", PYTHONPATH=ours_first)
    assert done.returncode == 2 and "--only 99: no such notebook" in done.stderr
