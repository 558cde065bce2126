"""Who made a result: figures, tables and the stamp that lies beside them.

Figures and tables hold nothing that changes from run to run on one machine (no
dates, no versions), so that a repeated run leaves no difference; what does
change, wall time and peak memory, is kept to the provenance file.
"""

import dataclasses
import json
import math
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from .. import paths
from ..profiles import load_profile

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "open_clip_torch",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "matplotlib",
)
DPI = 150


@dataclass(frozen=True)
class Provenance:
    profile: str
    seed: int
    device: str
    git_commit: str | None  # None outside a git checkout
    git_dirty: bool  # uncommitted changes to anything but figures/ and results/
    python: str
    platform: str
    packages: dict[str, str]
    wall_seconds: float  # since this process (in a notebook: its kernel) started
    peak_memory_mb: float  # of this process
    peak_gpu_memory_mb: float  # 0 on the CPU


def stamp(profile: str, seed: int, device: Any = "cpu") -> Provenance:
    """What made the results of this process so far; take it at the end of a notebook."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!figures", ":!results")
    return Provenance(
        profile=profile,
        seed=seed,
        device=_device_name(str(device)),
        git_commit=commit,
        git_dirty=bool(changes),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages={name: version for name in PACKAGES if (version := _version(name))},
        wall_seconds=round(_process_age(), 1),
        peak_memory_mb=round(peak_memory_mb(), 1),
        peak_gpu_memory_mb=round(_gpu_peak_mb(), 1),
    )


def save_stamp(provenance: Provenance, notebook: str) -> Path:
    """Write `results/<profile>/NN_provenance.json`; notebook: "02" or "02_training_sparc"."""
    if not re.match(r"\d\d(_|$)", notebook):
        raise ValueError(f"notebook {notebook!r}: give its two digits, as in '02' or '02_training_sparc'")
    file = paths.results_dir(provenance.profile) / f"{notebook[:2]}_provenance.json"
    return _aside(
        file, lambda aside: aside.write_text(json.dumps(dataclasses.asdict(provenance), indent=1) + "\n")
    )


def save_figure(fig: "Figure", profile: str, name: str) -> Path:
    """Write `figures/<profile>/<name>.png` and `.pdf`; returns the PNG. name: "02_loss_curves".

    The layout is solved once and kept: what is shown of the figure afterwards is laid out like its files. Letters in
    the PDF are TrueType, as publishers want them; drafts (a field of profiles) have Type 3, which is faster.
    """
    from matplotlib import rc_context

    folder = paths.figures_dir(profile)
    _check_name(name)
    pdf, png = folder / f"{name}.pdf", folder / f"{name}.png"
    fig.draw_without_rendering()
    whole = fig.get_tightbbox().padded(0.1)  # inches; "tight" would find it again for every format
    with rc_context(
        {"pdf.fonttype": 3 if load_profile(profile).drafts else 42, "figure.constrained_layout.use": False}
    ):
        fig.set_layout_engine(None)
        _aside(
            pdf,
            lambda aside: fig.savefig(
                aside,
                format="pdf",
                bbox_inches=whole,
                metadata={"CreationDate": None, "Creator": None, "Producer": None},
            ),
        )
    _aside(
        png,
        lambda aside: fig.savefig(
            aside, format="png", bbox_inches=whole, dpi=DPI, metadata={"Software": None}
        ),
    )
    fig.stale = False  # drawn already: else pyplot would draw it for nothing before a notebook shows it
    return png


def save_table(table: "pandas.DataFrame | Mapping[str, Any]", profile: str, name: str) -> Path:
    """Write a tidy CSV (DataFrame) or a JSON (mapping) under `results/<profile>/`; six significant digits.

    A named index becomes columns, an unnamed one is left out. In JSON, NaN
    becomes null, and infinity raises ValueError.
    """
    folder = paths.results_dir(profile)
    _check_name(name)
    if isinstance(table, Mapping):
        text = json.dumps(_plain(table), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        return _aside(folder / f"{name}.json", lambda aside: aside.write_text(text, encoding="utf-8"))
    if any(table.index.names):
        table = table.reset_index()
    return _aside(
        folder / f"{name}.csv",
        lambda aside: table.to_csv(
            aside, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8"
        ),
    )


def peak_memory_mb(who: int = resource.RUSAGE_SELF) -> float:
    """Largest resident size so far, MiB."""
    return maxrss_mb(resource.getrusage(who).ru_maxrss)


def maxrss_mb(ru_maxrss: int) -> float:
    """`ru_maxrss` in MiB; the system counts it in KiB on Linux, in bytes on macOS."""
    return ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\d\d_[A-Za-z0-9_-]+", name):
        raise ValueError(
            f"result name {name!r}: start it with the notebook's two digits, as in '02_loss_curves'; "
            "letters, digits, '_' and '-' may follow"
        )


def _aside(file: Path, write: Callable[[Path], Any]) -> Path:
    """Write `<file>.partial`, then rename it: under its own name a file is always whole."""
    aside = file.with_name(file.name + ".partial")
    try:
        write(aside)
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)
    return file


def _plain(value: Any) -> Any:
    """JSON types with floats at six significant digits; takes dataclasses, NamedTuples and numpy or torch values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    return value


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(paths.REPO), *arguments], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _process_age() -> float:
    return time.time() - psutil.Process().create_time()


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return f"{device} ({torch.cuda.get_device_name(device)})"
    return device


def _gpu_peak_mb() -> float:
    torch = sys.modules.get("torch")  # if nobody imported torch, no GPU was used
    if torch is None or not torch.cuda.is_initialized():
        return 0.0
    return sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())) / 2**20
