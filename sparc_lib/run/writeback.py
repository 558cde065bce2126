"""Committing executed notebooks: outputs only, without what differs from run to run or machine to machine."""

import json
import os
import re
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from .. import paths

_TABLE = re.compile(r"\bT_([0-9a-f]{5})(?![0-9a-f])")  # pandas' Styler: T_bf723, T_bf723_row0_col1
_ADDRESS = re.compile(r" at 0x[0-9a-f]{6,}")  # <pandas.io.formats.style.Styler at 0x7fab74125f50>


class WriteBackError(ValueError):
    """Outputs that do not belong to the notebook they were meant for."""


def write_back(notebook: Path, executed: Path) -> None:
    """Put the outputs of `executed` into `notebook`; its sources and cell metadata stay as they are.

    Raises WriteBackError if the two are not the same notebook.
    """
    target = merged(
        nbformat.read(notebook, as_version=4), nbformat.read(executed, as_version=4), notebook.name
    )
    aside = notebook.with_name(notebook.name + ".partial")
    nbformat.write(target, aside)
    os.replace(aside, notebook)


def merged(source: NotebookNode, executed: NotebookNode, name: str) -> NotebookNode:
    """`source` with the outputs of `executed`, counted 1, 2, ... and free of machine paths."""
    ran = [cell for cell in executed.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    if [cell.source for cell in ran] != [cell.source for cell in source.cells]:
        raise WriteBackError(f"{name}: the notebook was edited while it ran; run it again")
    count, tables = 0, {}
    for cell, twin in zip(source.cells, ran):
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type != "code":
            continue
        # Progress bars and warnings go to stderr; they tell of the machine and its speed, not of the result.
        cell.outputs = [_portable(out, tables) for out in twin.outputs if out.get("name") != "stderr"]
        cell.execution_count = None
        if cell.source.strip():
            count += 1
            cell.execution_count = count
        for out in cell.outputs:
            if out.output_type == "execute_result":
                out.execution_count = cell.execution_count
    source.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return source


def _portable(out: NotebookNode, tables: dict[str, int]) -> NotebookNode:
    """Replace what differs elsewhere in an output's text: this machine's folders by names that mean something, the
    random ids of styled tables by their numbers in the notebook, which `tables` keeps, and addresses by nothing."""
    if "text" in out:
        out.text = _without_paths(out.text)
    for mime, value in out.get("data", {}).items():
        if mime.startswith("text/") and isinstance(value, str):
            value = _TABLE.sub(
                lambda found: f"T_{tables.setdefault(found[1], len(tables) + 1)}", _without_paths(value)
            )
            out.data[mime] = _ADDRESS.sub("", value)
    out.get("metadata", {}).pop("execution", None)
    return out


def _without_paths(text: str) -> str:
    named = {
        paths.output_root(): "",
        paths.notebooks_dir(): "notebooks",
        paths.data_root(): "$SPARC_DATA",
        Path(sys.prefix): "$ENV",
        paths.REPO: "",
        Path.home(): "~",
    }
    for folder, name in sorted(named.items(), key=lambda item: -len(str(item[0]))):  # inner folders first
        if folder == Path(folder.anchor):  # a home of "/" would match every path
            continue
        whole = rf"(?<![\w.-]){re.escape(str(folder))}(?:(/)|(?![\w.-]))"
        text = re.sub(whole, lambda found: (f"{name}/" if name else "") if found[1] else name or ".", text)
    return text


_TIMES = re.compile(r"(<!-- run-times: begin.*?-->\n).*?(<!-- run-times: end -->)", re.DOTALL)


def write_run_times(readme: Path, results: Path) -> None:
    """Fill the README's table of run times from `results/*_provenance.json`; raises WriteBackError without its markers."""
    stamps = {
        file.name[:2]: json.loads(file.read_text())
        for file in sorted(results.glob("[0-9][0-9]_provenance.json"))
    }
    rows = [
        f"| {number} | {made['wall_seconds']:.0f} | {made['peak_memory_mb']:.0f} |"
        for number, made in stamps.items()
    ]
    total = sum(made["wall_seconds"] for made in stamps.values())
    table = [
        "| notebook | seconds | peak memory, MiB |",
        "|---|---|---|",
        *rows,
        f"| together | {total:.0f} | |",
    ]
    text = readme.read_text(encoding="utf-8")
    if not _TIMES.search(text):
        raise WriteBackError(
            f"{readme}: no '<!-- run-times: begin -->' ... '<!-- run-times: end -->'; restore the markers"
        )
    aside = readme.with_name(readme.name + ".partial")
    aside.write_text(
        _TIMES.sub(lambda found: found[1] + "\n".join(table) + "\n" + found[2], text), encoding="utf-8"
    )
    os.replace(aside, readme)
