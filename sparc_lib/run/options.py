"""What run_all.sh was asked to do: its options, checked before anything is done, and the folders it works
in."""

import argparse
import os
import re
import resource
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from .. import paths
from ..profiles import Profile, load_profile, named
from .fetching import RunError, use_data_root

FOLDERS = ("SPARC_DATA", "SPARC_DATASETS", "SPARC_OUTPUT", "SPARC_NOTEBOOKS", "SPARC_PROFILES")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "SPARC_OFFLINE")
OPEN_FILES = 256  # a kernel with its workers and memory-mapped arrays needs about half of it


@dataclass(frozen=True)
class Options:
    """The options of run_all.sh, by their names there, and the command line as it was given."""

    profile: str | None = None  # a name, or the path of a YAML file
    data_root: str | None = None
    start: str | None = None  # --from
    only: str | None = None
    fetch: bool = False
    force: bool = False
    html: bool = False
    offline: bool = False
    update_notebooks: bool = False
    test: bool = False
    verify: bool = False
    words: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()  # NAME=value of those that may have been set for this one command

    def to_go_on_with(self, number: str) -> str:
        """The same command line, but that it goes on with the notebook of these digits."""
        words = list(self.words)
        if "--from" in words:
            place = words.index("--from")
            del words[place : place + 2]
        if "--only" not in words:
            words += ["--from", number]
        return " ".join([*self.variables, "./run_all.sh", shlex.join(words)])


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as the rest of the runner does, without argparse's usage."""

    def error(self, message: str) -> NoReturn:
        raise RunError(f"{message}; see --help")


def parse(arguments: list[str]) -> Options:
    """Read the command line. Raises RunError for values or combinations that cannot be meant."""
    parser = _Parser(prog="./run_all.sh", add_help=False, allow_abbrev=False)
    for name in ("--profile", "--data-root", "--only"):
        parser.add_argument(name)
    parser.add_argument("--from", dest="start")
    for name in ("--fetch", "--force", "--html", "--offline", "--update-notebooks", "--test", "--verify"):
        parser.add_argument(name, action="store_true")
    values = vars(parser.parse_args(arguments))
    given = [word for word in arguments if word.startswith("--")]
    for name in given:
        field = "start" if name == "--from" else name[2:].replace("-", "_")
        if given.count(name) > 1:
            raise RunError(f"{name} is given twice; say once what you mean")
        if isinstance(values[field], str) and not values[field].strip():
            raise RunError(f"{name} is empty; is the variable unset? Give a value, or leave the option out")
    alone = {"--test": ["--offline"], "--verify": ["--offline"], "--fetch": ["--profile", "--data-root"]}
    for name, allowed in alone.items():
        others = [other for other in given if other not in (name, *allowed)]
        if name in given and others:
            raise RunError(f"{name} does not go with {', '.join(others)}; leave one or the other out")
    if "--only" in given and "--from" in given:
        raise RunError("--only and --from exclude each other; give one of them")
    names = [name for name in (*FOLDERS, "SPARC_PROFILE") if os.environ.get(name)]
    variables = tuple(f"{name}={shlex.quote(os.environ[name])}" for name in names)
    return Options(**values, words=tuple(arguments), variables=variables)


def set_up(options: Options) -> Profile | None:
    """Prepare this process and those it starts; returns the profile, None for `--test` and `--verify`.

    Folders in variables are taken from where run_all.sh was called, once: kernels run elsewhere.
    Raises RunError, ProfileError.
    """
    for name in FOLDERS:
        folder = os.environ.pop(name, "")
        if folder:
            os.environ[name] = _whole_path(name, folder)
    profiles = os.environ.get("SPARC_PROFILES")
    if profiles and not Path(profiles).is_dir():
        raise RunError(f"$SPARC_PROFILES: {profiles} is no folder; mend the path, or unset the variable")
    chosen = options.profile or os.environ.pop("SPARC_PROFILE", None)
    if options.offline:
        os.environ.update(dict.fromkeys(OFFLINE, "1"))
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the kernel of this environment, not one in the home folder
    os.environ.pop("JUPYTER_PATH", None)
    os.environ.pop("MPLBACKEND", None)  # the kernel chooses its inline backend itself
    _allow_open_files()
    use_data_root(options.data_root)
    if options.test or options.verify:
        return None
    profile = load_profile(named(chosen or None))
    os.environ["SPARC_PROFILE"] = profile.name
    return profile


def _whole_path(variable: str, folder: str) -> str:
    """The folder that a variable means, from the root on. Raises RunError if there can be no such folder."""
    try:
        path = str(Path(folder).expanduser().resolve())
        path.encode()  # notebooks hold it as UTF-8
    except UnicodeEncodeError:
        raise RunError(
            f"${variable}: {folder!r} is not UTF-8, as notebooks are; take another, or set LANG=C.UTF-8"
        ) from None
    except (OSError, RuntimeError) as error:  # a home that is not there, links that run in a circle
        raise RunError(f"${variable}: {folder} cannot be found ({error}); mend the path") from None
    return path


def make_folders(profile: str) -> Path:
    """Make the folders that notebooks write to; returns that of the executed ones. Raises RunError."""
    if not re.fullmatch(r"\w[\w.-]*", profile):
        raise RunError(
            f"profile {profile!r}: its name must be one of a folder: letters, digits, '_', '-' and '.'"
        )
    root = paths.output_root()
    done_dir = root / "results" / profile / "notebooks"
    needed = {
        done_dir: "SPARC_OUTPUT",
        root / "figures" / profile: "SPARC_OUTPUT",
        paths.data_root(): "SPARC_DATA",
    }
    for folder, variable in needed.items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            reason = error.strerror
            raise RunError(
                f"{folder}: cannot write there ({reason}); make it writable, or set ${variable}"
            ) from None
    return done_dir


def _allow_open_files() -> None:
    """Raise the limit of open files as far as the system lets us. Raises RunError if that is not enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= 16 * OPEN_FILES:
        return
    wanted = 16 * OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, 16 * OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < OPEN_FILES:
        raise RunError(f"only {wanted} files may be open at once; raise the limit: ulimit -n {OPEN_FILES}")
