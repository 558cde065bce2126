"""Run the parts of the GPU check, each in a process of its own with a time box, and write one report.

A part that fails or is stopped is reported with the last line of its traceback, keeps the rows it had, and
does not stop the others. A part that needs a missing package is skipped with the reason. Exit code 1 if a
part failed, if one without which the check says nothing (`REQUIRED`) was skipped, or if all were.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .report import markdown

PARTS = {  # seconds that each may take; with the imports under 8 minutes
    "checks": 45,
    "train_step": 100,
    "captured_graph": 60,
    "epoch": 75,
    "extraction": 75,
    "evaluation": 45,
}
REQUIRED = ("checks", "train_step")
TOTAL = 470  # seconds for everything
TINY_LIMIT = 600  # seconds of a part at tiny sizes, which a busy machine may need
PACKAGES = (  # that the library imports somewhere
    *("torch", "numpy", "scipy", "pandas", "tqdm", "yaml", "pydantic", "filelock", "joblib", "sklearn"),
    *("networkx", "PIL", "torchvision", "transformers", "open_clip", "safetensors", "h5py", "psutil"),
    *("pycocotools", "skimage", "requests", "pooch", "numba"),
)
RESULTS = Path(__file__).parents[2] / "results" / "gpu"


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/gpu/run.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: does every part run?")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(PARTS),
        default=list(PARTS),
        metavar="PART",
        help=f"run these parts only: {', '.join(PARTS)}",
    )
    parser.add_argument("--out", type=Path, help="folder of the report; default: $OUT, else results/gpu/")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install for this run")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)  # the process of one part
    parser.add_argument("--seconds", type=float, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    if options.part:
        return run_part(options)
    out = options.out or Path(os.environ.get("OUT") or RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        environment = dict(os.environ)
        if options.wheels:
            install(options.wheels, Path(scratch) / "site", environment)
        report = {
            "machine": machine(environment),
            "tiny": options.tiny,
            "device": options.device,
            "parts": [],
        }
        for name in options.only:
            limit = min(PARTS[name], TOTAL - (time.monotonic() - begin))
            if options.tiny:
                limit = TINY_LIMIT
            print(f"{name}: up to {limit:.0f} s", flush=True)
            part = supervised(name, limit, options, environment, Path(scratch) / f"{name}.json")
            report["machine"] |= part.pop("versions", {})
            report["parts"].append(part)
            print(f"{name}: {part['status']}, {part['seconds']:.0f} s {part.get('reason', '')}", flush=True)
            report["seconds"] = time.monotonic() - begin
            (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
            (out / "report.md").write_text(markdown(report))
    print((out / "report.md").read_text())
    fault = what_is_wrong(report["parts"])
    if fault:
        print(f"tests/gpu/run.sh: {fault}", file=sys.stderr)
    return int(bool(fault))


def what_is_wrong(parts: list[dict]) -> str | None:
    """Why these parts are no passed check; None if they are one."""
    failed = [part["part"] for part in parts if part["status"] == "failed"]
    skipped = [part["part"] for part in parts if part["status"] == "skipped"]
    needed = [name for name in skipped if name in REQUIRED]
    if failed:
        return f"failed: {', '.join(failed)}"
    if needed:
        return f"skipped, but nothing is known without: {', '.join(needed)}"
    if len(skipped) == len(parts):
        return "every part was skipped"
    return None


def install(wheels: Path, site: Path, environment: dict[str, str]) -> None:
    """Install all wheels of a folder, and nothing else, where the parts find them first."""
    files = [str(path) for path in sorted(wheels.glob("*.whl"))]
    if not files:
        raise SystemExit(f"--wheels {wheels}: no .whl file there")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
        str(site),
    ]
    subprocess.run([*command, *files], check=True)
    environment["PYTHONPATH"] = os.pathsep.join([environment.get("PYTHONPATH", ""), str(site)])


def machine(environment: dict[str, str]) -> dict:
    """Names and versions, the card with its power limit, and the packages that are missing."""
    probe = (
        "import importlib.util, sys; "
        "print(*(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))"
    )
    command = [sys.executable, "-c", probe, *PACKAGES]
    missing = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    return {
        "torch": "not loaded",
        "cuda": "not loaded",
        "python": platform.python_version(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "card": card(),
        "missing": missing,
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def card() -> dict | str:
    """What nvidia-smi says of the first card."""
    fields = ["name", "power.limit", "memory.total", "driver_version", "clocks.max.sm"]
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {type(error).__name__} from nvidia-smi"
    return dict(zip(fields, (value.strip() for value in answer.split(",")), strict=False))


def supervised(
    name: str, limit: float, options: argparse.Namespace, environment: dict[str, str], result: Path
) -> dict:
    """The result of a part's process; if that is killed or dies, what it had written until then."""
    if limit < 5:
        return {"part": name, "status": "skipped", "reason": "no time left", "seconds": 0.0, "rows": []}
    command = [
        sys.executable,
        "-m",
        "gpu.main",
        "--part",
        name,
        "--out",
        str(result),
        "--device",
        options.device,
    ]
    command += ["--seconds", str(limit), *(["--tiny"] if options.tiny else [])]
    begin = time.monotonic()
    reason = ""
    try:
        code = subprocess.run(command, env=environment, timeout=limit + 15).returncode
        if code:
            reason = f"its process ended with code {code}"
    except subprocess.TimeoutExpired:
        reason = f"stopped after {limit + 15:.0f} s"
    part = {"part": name, "status": "failed", "rows": []}
    if result.exists():
        part = json.loads(result.read_text())
    if reason:
        part |= {"status": "failed", "reason": reason}
    return part | {"seconds": time.monotonic() - begin}


def run_part(options: argparse.Namespace) -> int:
    """In the part's own process: write status and rows to `options.out` after every row."""
    part = {"part": options.part, "status": "failed", "reason": "it did not come to an end", "rows": []}
    begin = time.monotonic()

    def save() -> None:
        aside = options.out.with_suffix(".partial")
        aside.write_text(json.dumps(part))
        aside.replace(options.out)

    try:
        import torch

        from .sizes import TINY, Deadline, Sizes, SkipPart

        part["versions"] = {"torch": torch.__version__, "cuda": torch.version.cuda or "none"}
        device = torch.device(options.device)
        torch.zeros(1, device=device)  # no such device: said once, here
        module = importlib.import_module(f".{options.part}", __package__)
        deadline = Deadline(options.seconds - (time.monotonic() - begin))
        try:
            for row in module.run(TINY if options.tiny else Sizes(), device, deadline):
                part["rows"].append(row)
                save()
            part |= {"status": "ok", "reason": ""}
        except SkipPart as nothing_to_do:
            part |= {"status": "skipped", "reason": str(nothing_to_do)}
    except ModuleNotFoundError as error:
        ours = (error.name or "").partition(".")[0] in ("", "sparc_lib", "gpu")
        status = "failed" if ours else "skipped"
        part |= {"status": status, "reason": f"the package {error.name} is missing"}
    except Exception as error:
        last_line = (str(error).strip().splitlines() or [""])[-1]
        part |= {"status": "failed", "reason": f"{type(error).__name__}: {last_line}"}
    part["peak_rss_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    if options.device.startswith("cuda") and "torch" in sys.modules:
        peaks = [row["peak_gib"] for row in part["rows"] if "peak_gib" in row]
        part["peak_device_gib"] = max([sys.modules["torch"].cuda.max_memory_allocated() / 2**30, *peaks])
    save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
