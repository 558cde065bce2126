"""Saving figures and tables, and the stamps beside them that say what made them.

Figures, tables and provenance hold nothing that changes from run to run on one machine, so that a repeated
run leaves no difference. What the clock changes is kept apart, in `results/<profile>/times/`,
which is ignored.
"""

import dataclasses
import json
import platform
import re
import resource
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from .. import paths
from ..files import aside
from ..profiles import load_profile

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure, FigureBase

PACKAGES = ("torch", "torchvision", "transformers", "open_clip_torch")
PACKAGES += ("numpy", "scipy", "pandas", "scikit-learn", "matplotlib")
DPI = 150


@dataclass(frozen=True)
class Provenance:
    """What made the results of a notebook."""

    profile: str
    seed: int
    device: str  # "cpu", or the kind and the name of the accelerator
    python: str
    platform: str
    packages: dict[str, str]


def stamp(profile: str, seed: int, device: Any = "cpu") -> Provenance:
    """What made the results of this process."""
    return Provenance(
        profile=profile,
        seed=seed,
        device=_device_name(str(device)),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        packages={package: metadata.version(package) for package in PACKAGES},
    )


def times_so_far() -> dict[str, float]:
    """What this process, in a notebook its kernel, has taken since it started: seconds and MiB."""
    return {
        "wall_seconds": round(time.time() - psutil.Process().create_time(), 1),
        "peak_memory_mb": round(maxrss_mb(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss), 1),
        "peak_gpu_memory_mb": round(_gpu_peak_mb(), 1),  # 0 on the CPU
    }


def save_stamp(provenance: Provenance, notebook: str) -> Path:
    """Write `results/<profile>/NN_provenance.json`, which is returned, and `times/NN.json` beside it.

    notebook: "02" or "02_training_sparc". Raises ValueError for a name without its two digits.
    """
    if not re.match(r"\d\d(_|$)", notebook):
        raise ValueError(f"notebook {notebook!r}: give its two digits, as in '02' or '02_training_sparc'")
    folder, number = paths.results_dir(provenance.profile), notebook[:2]
    _save_json(times_file(provenance.profile, number), times_so_far())
    return _save_json(folder / f"{number}_provenance.json", dataclasses.asdict(provenance))


def times_file(profile: str, number: str) -> Path:
    """Where the notebook of these two digits writes what it took."""
    return paths.results_dir(profile) / "times" / f"{number}.json"


def _save_json(file: Path, content: dict[str, Any]) -> Path:
    with aside(file) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return file


def save_figure(fig: "Figure", profile: str, name: str) -> Path:
    """Write `figures/<profile>/<name>.png` and `.pdf`; returns the PNG. name: "02_loss_curves".

    The layout is solved once and kept: what is shown of the figure afterwards is laid out like its files.
    Letters in the PDF are TrueType, as publishers want them; drafts (a field of profiles) have Type 3, which
    is faster. Raises ValueError for a name without the notebook's two digits, DiskFullError.
    """
    from matplotlib import rc_context

    _check_name(name)
    png = paths.figures_dir(profile) / f"{name}.png"
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    _settle(fig)
    whole = fig.get_tightbbox().padded(0.1)  # inches; "tight" would compute it again for every format
    whole.set_points(whole.get_points().round(6))
    fonts = 3 if load_profile(profile).drafts else 42
    dateless = {"CreationDate": None, "Creator": None, "Producer": None}
    with rc_context({"pdf.fonttype": fonts}):
        with aside(png.with_suffix(".pdf")) as partial:
            fig.savefig(partial, format="pdf", bbox_inches=whole, metadata=dateless)
        with aside(png) as partial:
            fig.savefig(partial, format="png", bbox_inches=whole, dpi=DPI, metadata={"Software": None})
    fig.stale = False  # drawn already: else pyplot would draw it for nothing before a notebook shows it
    return png


def _settle(part: "FigureBase") -> None:
    """Round the places of all Axes and subfigures to 1e-9 of the figure.

    The layout's solver sums in the order of memory addresses, so places differ by 1e-16 from run to run, and
    digits of the PDF with them.
    """
    for subfigure in part.subfigs:
        subfigure.bbox_relative.set_points(subfigure.bbox_relative.get_points().round(9))
        _settle(subfigure)
    for ax in part.axes:
        counts = ax.get_in_layout()  # set_position takes an Axes out of it
        ax.set_position([round(value, 9) for value in ax.get_position(original=True).bounds], "original")
        ax.set_in_layout(counts)


def save_table(table: "pandas.DataFrame | pandas.Series", profile: str, name: str) -> Path:
    """Write a tidy CSV under `results/<profile>/`, six significant digits; a named index becomes columns.

    Raises ValueError for a name without the notebook's two digits, DiskFullError.
    """
    _check_name(name)
    file = paths.results_dir(profile) / f"{name}.csv"
    if any(table.index.names):
        table = table.reset_index()
    with aside(file) as partial:
        table.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")
    return file


def maxrss_mb(ru_maxrss: int) -> float:
    """`ru_maxrss` in MiB; the system counts it in KiB on Linux, in bytes on macOS."""
    return ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\d\d_[A-Za-z0-9_-]+", name):
        raise ValueError(
            f"result name {name!r}: start it with the notebook's two digits, as in '02_loss_curves'; "
            "letters, digits, '_' and '-' may follow"
        )


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return f"cuda ({torch.cuda.get_device_name(device)})"


def _gpu_peak_mb() -> float:
    torch = sys.modules.get("torch")  # if nobody imported torch, no GPU was used
    if torch is None or not torch.cuda.is_initialized():
        return 0.0
    return sum(torch.cuda.max_memory_allocated(i) for i in range(torch.cuda.device_count())) / 2**20
