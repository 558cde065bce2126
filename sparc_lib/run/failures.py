"""What is wrong with a notebook: before it runs, after it has run, and what to do about it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nbformat
import psutil

from .. import paths
from ..files import is_disk_full

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
UNREADABLE = (
    OSError,
    ValueError,
    nbformat.reader.NotJSONError,
)  # an empty notebook, or one cut by a full disk
ASSIGNMENT = re.compile(r"^profile\s*=(?!=)", re.MULTILINE)
FULL = "No space left on device"
NO_KERNEL = "Kernel died before replying|Kernel didn't respond"  # jupyter_client's words: it never was ready


class Remedy(NamedTuple):
    """Words that a failure's text holds, what they mean, and what to do."""

    pattern: str
    text: str


REMEDIES = (
    Remedy(
        NO_KERNEL,
        "no kernel could be started, at the second try neither: the log has the kernel's own last words (a "
        "port in use, no memory, a package that cannot be imported); mend that and run again",
    ),
    Remedy(
        "DeadKernelError|Kernel died(?! before)",
        "the kernel was killed or crashed; most often memory has run out ({peak:.1f} of {memory:.1f} GiB "
        "used): close other programs, lower notebooks_at_once in the profile, or take a larger machine",
    ),
    Remedy(
        "MemoryError|OutOfMemoryError|not enough memory|can't allocate",
        "memory has run out ({peak:.1f} of {memory:.1f} GiB used): close other programs, lower the batch "
        "sizes in the profile, or take a larger machine",
    ),
    Remedy(
        "Too many open files", "too many files are open; raise the limit with ulimit -n 4096 and run again"
    ),
    Remedy(
        f"{FULL}|disk is full|quota exceeded",
        "the disk is full: free space, or point $SPARC_OUTPUT (figures and results) or $SPARC_DATA (heavy "
        "artefacts) elsewhere; finished parts are kept",
    ),
)


def parameters_fault(notebook: Path) -> str | None:
    """What is wrong with a notebook's parameters cell, through which it learns its profile; None if nothing
    is."""
    try:
        read = json.loads(notebook.read_text(encoding="utf-8"))
        read["nbformat"], read["metadata"]  # papermill fails without them, in words of its own
        sources: dict[str, list[str]] = {"parameters": [], "injected-parameters": [], "code": []}
        for cell in read["cells"]:
            kinds = [*cell.get("metadata", {}).get("tags", []), cell["cell_type"]]
            kind = next((kind for kind in kinds if kind in sources), None)
            if kind:
                sources[kind].append("".join(cell["source"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "is no notebook; restore it from version control"
    if len(sources["parameters"]) != 1 or not ASSIGNMENT.search(sources["parameters"][0]):
        return 'needs one cell tagged "parameters" with a line such as: profile = "mini"'
    if any(ASSIGNMENT.search(source) for source in sources["code"]):
        return "sets profile outside its parameters cell, too, whatever it is run with; remove that line"
    return None


def weights_fault(folder: Path) -> str | None:
    """Which weights in an encoder's folder are not whole, by their size; None if all are."""
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with open(file, "rb") as stream:
            head = stream.read(8)
            if head == b"version ":
                return f"{file}: a pointer of Git LFS in the place of the weights; fetch them: git lfs pull"
            try:
                header = json.loads(stream.read(min(int.from_bytes(head, "little"), size)))
                ends = [
                    tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"
                ]
                whole = size == stream.tell() + max(ends)
            except (ValueError, KeyError, TypeError, AttributeError):
                whole = False
        if not whole:
            return f"{file}: cut or damaged; restore it: git checkout -- {file}"
    return None


def unfinished(executed: Path) -> str | None:
    """Which code cell of an executed notebook did not run to its end; None if all did."""
    try:
        cells = nbformat.read(executed, as_version=4).cells
    except UNREADABLE as error:
        return f"what papermill wrote cannot be read ({error})"
    for cell in cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        failed = any(output.output_type == "error" for output in cell.outputs)
        if failed or cell.execution_count is None:
            return (
                f"the cell that begins {_first_line(cell)!r} did not run to its end; does one call sys.exit?"
            )
    return None


def no_kernel(executed: Path, log: Path) -> str | None:
    """Why a notebook's kernel ended or hung before it ran anything; None if a cell has begun or a kernel was
    ready.

    executed: what papermill wrote. log: what it and the kernel printed; the kernel's error comes first.
    """
    printed = log.read_text(errors="replace")
    reason = re.search(NO_KERNEL, printed)
    if reason is None or _has_begun(executed):
        return None
    own_error = re.search(r"^[\w.]+Error: .+", printed[: reason.start()], re.MULTILINE)
    return own_error[0] if own_error else "it printed no error"


def _has_begun(executed: Path) -> bool:
    try:
        cells = nbformat.read(executed, as_version=4).cells
    except UNREADABLE:
        return False  # papermill had not written a line
    return any(cell.get("execution_count") is not None or cell.get("outputs") for cell in cells)


def explained(fault: str, failed: Path, log: Path, peak_mb: float) -> str:
    """The lines that explain a failure: the failing cell's error, else the end of the log, and the remedy.

    failed: what papermill wrote. log: what it printed. peak_mb: memory of its largest process, MiB.
    """
    printed = log.read_text(errors="replace").strip()
    lines = _last_error(failed) or [f"{fault}; the end of {log}:", *printed.splitlines()[-6:]]
    lines += advice(lines, printed, failed.parent, peak_mb)
    lines += [f"what ran is in {failed}", f"the log is {log}"]
    return "\n".join("    " + line for line in lines)


def advice(lines: Sequence[str], printed: str, folder: Path, peak_mb: float) -> list[str]:
    """What to do about an error, where that is known. lines: of the error; printed: by the process that
    failed; folder: where it wrote; peak_mb: its memory, MiB."""
    # Excerpts of source are indented or numbered; an "except MemoryError" in one of them is no error.
    said = [line for line in [*lines, *printed[-4000:].splitlines()] if re.match(r"[^\s\d\-|]", line)]
    text = "\n".join(said)
    if any(is_disk_full(RuntimeError(), place / "x") for place in (folder, paths.data_root())):
        text += FULL
    memory = psutil.virtual_memory().total / 2**30
    fitting = [remedy for remedy in REMEDIES if re.search(remedy.pattern, text)]
    return [remedy.text.format(peak=peak_mb / 1024, memory=memory) for remedy in fitting]


def _last_error(executed: Path) -> list[str]:
    """The last error in an executed notebook and the cell it is in; [] if there is none or it cannot be
    read."""
    lines: list[str] = []
    try:
        cells = nbformat.read(executed, as_version=4).cells
    except UNREADABLE:
        return lines
    for cell in cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                trace = ANSI.sub("", "\n".join(output.traceback)).splitlines()
                lines = [f"in the cell that begins {_first_line(cell)!r}:", *trace[-12:]]
    return lines


def _first_line(cell: nbformat.NotebookNode) -> str:
    return cell.source.strip().splitlines()[0]
