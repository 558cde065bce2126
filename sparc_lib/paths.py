"""Where things are. Each root can be moved by one environment variable:

SPARC_DATA       heavy artefacts (features, checkpoints, data sets); default data/
SPARC_DATASETS   the photographs and annotations of coco and openimages; default datasets/ in SPARC_DATA
SPARC_OUTPUT     parent of figures/ and results/; default the repository
SPARC_NOTEBOOKS  the notebooks that run_all.sh executes; default notebooks/
SPARC_PROFILES   a folder of the reader's own profiles, which come before those in notebooks/profiles/
"""

import os
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
WEIGHTS = REPO / "sparc_lib" / "miniworld" / "weights"  # the mini encoders that ship with the project
PROFILES = REPO / "notebooks" / "profiles"


def _root(variable: str, default: Path) -> Path:
    return Path(os.environ.get(variable) or default).expanduser().resolve()


def data_root() -> Path:
    """Heavy artefacts, never committed."""
    return _root("SPARC_DATA", REPO / "data")


def datasets_root() -> Path:
    """Data sets as their publishers give them, in `coco/` and `open_images/`; only downloads write here."""
    return _root("SPARC_DATASETS", data_root() / "datasets")


def offline() -> bool:
    """Whether `run_all.sh --offline` forbids the network."""
    return os.environ.get("SPARC_OFFLINE", "") not in ("", "0")


def output_root() -> Path:
    """Parent of `figures/` and `results/`."""
    return _root("SPARC_OUTPUT", REPO)


def notebooks_dir() -> Path:
    """The notebooks that run_all.sh executes."""
    return _root("SPARC_NOTEBOOKS", REPO / "notebooks")


def profile_folders() -> list[Path]:
    """Where profiles are looked for, in order."""
    own = os.environ.get("SPARC_PROFILES")
    return [Path(own).expanduser().resolve(), PROFILES] if own else [PROFILES]


def figures_dir(profile: str) -> Path:
    """`figures/<profile>/`, made if missing."""
    return _made("figures", profile)


def results_dir(profile: str) -> Path:
    """`results/<profile>/`, made if missing."""
    return _made("results", profile)


def _made(kind: str, profile: str) -> Path:
    """`<output>/<kind>/<profile>/`, made if missing. Raises ValueError where that leads elsewhere."""
    if Path(profile).name != profile or profile in ("", ".."):
        raise ValueError(f"profile {profile!r}: name it like a folder, as in my-photos")
    directory = output_root() / kind / profile
    directory.mkdir(parents=True, exist_ok=True)
    return directory
