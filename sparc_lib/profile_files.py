"""Which profiles there are: those in notebooks/profiles/ and the reader's own."""

import os
from pathlib import Path

from . import paths


class ProfileError(ValueError):
    """A profile that cannot be used; the message names the file, the field and the remedy."""


def available() -> list[str]:
    """Names that `load_profile` takes."""
    return sorted({path.stem for folder in paths.profile_folders() for path in folder.glob("*.yaml")})


def file_of(name: str) -> Path:
    """The YAML file of a profile that is there."""
    return next(file for folder in paths.profile_folders() if (file := folder / f"{name}.yaml").exists())


def named(given: str | None) -> str | None:
    """The name of a profile that is given by name or by the path of its YAML file, as options are.

    A path's folder becomes $SPARC_PROFILES, so that this process and those it starts find the profile by its name.
    Raises ProfileError if there is no such file.
    """
    if given is None or not given.endswith(".yaml"):
        return given
    file = Path(given).expanduser().resolve()
    if not file.is_file():
        raise ProfileError(f"{file}: there is no such profile; mend the path")
    os.environ["SPARC_PROFILES"] = str(file.parent)
    return file.stem


def option(name: str) -> str:
    """What `--profile` takes for a profile: its name, or the path of one that is not in notebooks/profiles/."""
    own = paths.profile_folders()[0] / f"{name}.yaml"
    return str(own) if own.parent != paths.PROFILES and own.exists() else name
