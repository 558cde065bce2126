"""Committing executed notebooks: outputs only, without what differs from run to run or machine to machine."""

import json
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from .. import paths
from ..files import aside

TABLE = re.compile(r"\bT_([0-9a-f]{5})(?![0-9a-f])")  # pandas' Styler: T_bf723, T_bf723_row0_col1
ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")  # <pandas.io.formats.style.Styler at 0x7fab74125f50>
TIMES = re.compile(r"(<!-- run-times: begin.*?-->\n).*?(<!-- run-times: end -->)", re.DOTALL)
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class WriteBackError(ValueError):
    """Outputs that do not belong to the notebook they were meant for."""


def write_back(notebook: Path, executed: Path) -> None:
    """Put the outputs of `executed` into `notebook`; its sources and cell metadata stay as they are.

    Raises WriteBackError if the two are not the same notebook.
    """
    source, ran = (nbformat.read(file, as_version=4) for file in (notebook, executed))
    merge_outputs(source, ran, notebook.name)
    with aside(notebook) as partial:
        nbformat.write(source, partial)


def merge_outputs(source: NotebookNode, executed: NotebookNode, name: str) -> None:
    """Give `source` the outputs of `executed`, counted 1, 2, ... and free of machine paths. Raises
    WriteBackError."""
    ran = [cell for cell in executed.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    if [cell.source for cell in ran] != [cell.source for cell in source.cells]:
        raise WriteBackError(f"{name}: the notebook was edited while it ran; run it again")
    count = 0
    tables: dict[str, int] = {}
    for cell, executed_cell in zip(source.cells, ran):
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type != "code":
            continue
        # Progress bars and warnings go to stderr; they tell of the machine and its speed, not of the result.
        outputs = [output for output in executed_cell.outputs if output.get("name") != "stderr"]
        cell.outputs = [_portable(output, tables) for output in outputs]
        cell.execution_count = None
        if cell.source.strip():
            count += 1
            cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
    source.metadata = nbformat.from_dict(METADATA)


def _portable(output: NotebookNode, tables: dict[str, int]) -> NotebookNode:
    """Replace what differs elsewhere in an output's text: this machine's folders by names that mean
    something, the random ids of styled tables by their numbers in the notebook, which `tables` keeps, and
    addresses by nothing."""

    def numbered(match: re.Match) -> str:
        return f"T_{tables.setdefault(match[1], len(tables) + 1)}"

    if "text" in output:
        output.text = without_paths(output.text)
    for mime, value in output.get("data", {}).items():
        if mime.startswith("text/") and isinstance(value, str):
            output.data[mime] = ADDRESS.sub("", TABLE.sub(numbered, without_paths(value)))
    output.get("metadata", {}).pop("execution", None)
    return output


def without_paths(text: str) -> str:
    """The text with this machine's folders replaced by names that mean something elsewhere."""
    names = {
        paths.output_root(): "",
        paths.notebooks_dir(): "notebooks",
        paths.data_root(): "$SPARC_DATA",
        Path(sys.prefix): "$ENV",
        paths.REPO: "",
        Path.home(): "~",
    }
    for folder in sorted(names, key=lambda path: -len(str(path))):  # inner folders first
        if folder == Path(folder.anchor):  # a home of "/" would match every path
            continue
        name = names[folder]
        whole = rf"(?<![\w.-]){re.escape(str(folder))}"
        text = re.sub(whole + "/", lambda _, name=name: f"{name}/" if name else "", text)
        text = re.sub(whole + r"(?![\w.-])", lambda _, name=name: name or ".", text)
    return text


def write_run_times(readme: Path, times: Path) -> None:
    """Fill the README's table of run times from the files of the folder `times`. Raises WriteBackError
    without its markers."""
    table = ["| notebook | seconds | peak memory, MiB |", "|---|---|---|"]
    total = 0.0
    for file in sorted(times.glob("[0-9][0-9].json")):
        taken = json.loads(file.read_text(encoding="utf-8"))
        table.append(f"| {file.stem} | {taken['wall_seconds']:.0f} | {taken['peak_memory_mb']:.0f} |")
        total += taken["wall_seconds"]
    table.append(f"| together | {total:.0f} | |")
    text = readme.read_text(encoding="utf-8")
    if not TIMES.search(text):
        raise WriteBackError(
            f"{readme}: no '<!-- run-times: begin -->' ... '<!-- run-times: end -->'; restore the markers"
        )
    filled = TIMES.sub(lambda match: match[1] + "\n".join(table) + "\n" + match[2], text)
    with aside(readme) as partial:
        partial.write_text(filled, encoding="utf-8")
