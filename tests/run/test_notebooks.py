"""The committed notebooks: whole, in order, legible and free of this or that machine.

nbval alone is not enough: it ignores images, and a checked cell that was
committed without outputs passes silently.
"""

import ast
import re
import statistics

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from sparc_lib import paths

NOTEBOOKS = sorted((paths.REPO / "notebooks").glob("[0-9][0-9]_*.ipynb"))
COMPUTED = re.compile(r"\breading\(|Reading\.|Markdown\(f")
GUARD = re.compile(r"^(check|above|assert)\b", re.MULTILINE)
MACHINE_PATH = re.compile(
    r"(?<![\w.~/$-])/(?:home|Users|root|work|tmp|mnt|opt|private|var/folders)/\w|[A-Z]:\\Users"
)
MAX_MEDIAN_LINES, MAX_LINES = 6, 15


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def has_tag(cell, tag):
    return tag in cell.metadata.get("tags", [])


def checked_without_output(notebook):
    return [
        cell.source
        for cell in code_cells(notebook)
        if has_tag(cell, "nbval-check-output")
        and not any(out.get("name") == "stdout" and out.text.strip() for out in cell.outputs)
    ]


def error_outputs(notebook):
    return [out.ename for cell in code_cells(notebook) for out in cell.outputs if out.output_type == "error"]


def counts_are_in_order(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook) if cell.source.strip()]
    return counts == list(range(1, len(counts) + 1))


def machine_paths(notebook):
    """Searches all text, outputs and metadata included; pictures are no text."""
    texts = [cell.source for cell in notebook.cells] + [str(notebook.metadata)]
    for cell in code_cells(notebook):
        for out in cell.outputs:
            texts += [out.get("text", ""), *out.get("traceback", [])]
            texts += [
                str(value) for mime, value in out.get("data", {}).items() if not mime.startswith("image/")
            ]
    return [found for text in texts for found in MACHINE_PATH.findall(text)]


def parameters_are_literals(notebook):
    """One cell tagged `parameters`, made of `name = literal` lines, `profile` among them."""
    tagged = [cell for cell in code_cells(notebook) if has_tag(cell, "parameters")]
    if len(tagged) != 1:
        return False
    names = []
    for line in ast.parse(tagged[0].source).body:
        if not isinstance(line, ast.Assign) or not all(
            isinstance(target, ast.Name) for target in line.targets
        ):
            return False
        try:
            ast.literal_eval(line.value)
        except ValueError:
            return False
        names += [target.id for target in line.targets]
    return "profile" in names


def defines_a_class(notebook):
    return any(
        isinstance(node, ast.ClassDef)
        for cell in code_cells(notebook)
        for node in ast.walk(ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.M)))
    )


def lines_of(notebook):
    """Lines of each code cell that does something; what it imports does not count."""
    counts = []
    for cell in code_cells(notebook):
        source = re.sub(r"^(from \S+ )?import (\([^)]*\)|.*)$", "", cell.source, flags=re.M)
        lines = [line for line in source.splitlines() if line.strip()]
        if lines:
            counts.append(len(lines))
    return counts


def median_lines(notebook):
    return statistics.median(lines_of(notebook))


def unguarded_readings(notebook):
    """Readings in Markdown whose next cell does not check what they say."""
    unguarded = []
    for cell, after in zip(notebook.cells, [*notebook.cells[1:], None]):
        a_reading = cell.cell_type == "markdown" and cell.source.startswith("**Reading.**")
        guarded = after is not None and after.cell_type == "code" and GUARD.search(after.source)
        if a_reading and not guarded:
            unguarded.append(cell.source)
    return unguarded


def computed_prose(notebook):
    """Cells that put sentences together: a reading is written by a person."""
    return [cell.source for cell in code_cells(notebook) if COMPUTED.search(cell.source)]


@pytest.fixture(params=NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def notebook(request):
    loaded = nbformat.read(request.param, as_version=4)
    nbformat.validate(loaded)
    return loaded


def test_checked_cells_were_committed_with_their_outputs(notebook):
    assert checked_without_output(notebook) == []


def test_no_cell_ended_in_an_error(notebook):
    assert error_outputs(notebook) == []


def test_cells_were_run_once_from_top_to_bottom(notebook):
    assert counts_are_in_order(notebook)


def test_no_path_of_a_machine(notebook):
    assert machine_paths(notebook) == []


def test_parameters_cell_holds_literals(notebook):
    assert parameters_are_literals(notebook)


def test_no_papermill_leftovers(notebook):
    assert "papermill" not in notebook.metadata
    assert not [
        cell
        for cell in notebook.cells
        if "papermill" in cell.metadata or has_tag(cell, "injected-parameters")
    ]


def test_code_stays_short_and_without_classes(notebook):
    assert not defines_a_class(notebook)
    assert median_lines(notebook) <= MAX_MEDIAN_LINES
    assert max(lines_of(notebook)) <= MAX_LINES


def test_readings_are_written_by_hand_and_guarded(notebook):
    assert unguarded_readings(notebook) == []
    assert computed_prose(notebook) == []
    assert any(cell.source.startswith("**Reading.**") for cell in notebook.cells)


# ------------------------------------------------- the guards above do guard


def sound():
    printed = [new_output("stream", name="stdout", text="ok  R@1 within 0.3100 ± 0.0200\n")]
    return new_notebook(
        cells=[
            new_markdown_cell("# Does it work?"),
            new_code_cell('profile = "mini"\nseed = 0', execution_count=1, metadata={"tags": ["parameters"]}),
            new_code_cell(
                "check()", execution_count=2, outputs=printed, metadata={"tags": ["nbval-check-output"]}
            ),
        ]
    )


def test_a_sound_notebook_passes_every_guard():
    good = sound()
    assert checked_without_output(good) == error_outputs(good) == machine_paths(good) == []
    assert counts_are_in_order(good) and parameters_are_literals(good) and not defines_a_class(good)


def test_each_fault_is_seen():
    bad = sound()
    bad.cells[2].outputs = []
    assert checked_without_output(bad) == ["check()"]
    bad.cells[2].outputs = [new_output("error", ename="ValueError", evalue="", traceback=[])]
    assert error_outputs(bad) == ["ValueError"] and checked_without_output(bad) == ["check()"]
    for count in (1, 3, None):
        bad.cells[2].execution_count = count
        assert not counts_are_in_order(bad)
    for source in ("import os", "profile = str('mini')", "seed = 0", "profile, seed = 'mini', 0"):
        bad.cells[1].source = source
        assert not parameters_are_literals(bad)
    bad.cells[1].metadata.tags = []
    assert not parameters_are_literals(bad)
    bad.cells[1].source = "%matplotlib inline\nif True:\n    class Helper:\n        pass"
    assert defines_a_class(bad)
    bad.cells[1].source = "\n".join(f"x{i} = {i}" for i in range(20))
    assert median_lines(bad) > MAX_MEDIAN_LINES
    bad.cells[1].source = "from x import (\n    a,\n    b,\n)\nimport c\n\ny = 1"
    assert lines_of(bad)[0] == 1


def test_a_reading_needs_its_guard_and_an_author():
    notebook = sound()
    notebook.cells.insert(1, new_markdown_cell("**Reading.** It works."))
    assert unguarded_readings(notebook) == ["**Reading.** It works."]
    notebook.cells.insert(2, new_code_cell('check("it works", 1, 1, 0, profile)'))
    assert unguarded_readings(notebook) == [] == computed_prose(notebook)
    notebook.cells[2].source = 'display(Markdown(f"It has {x}."))'
    assert computed_prose(notebook) == [notebook.cells[2].source]


@pytest.mark.parametrize(
    "text, found",
    [
        ("saved /home/ada/sparc/x.png", True),
        ("/Users/ada/x", True),
        ("'/tmp/ipykernel_1/2.py'", True),
        ("figures/mini/x.png", False),
        ("https://example.org/home/x", False),
        ("$SPARC_DATA/tmp/x", False),
    ],
)
def test_machine_paths_are_told_from_others(text, found):
    for place in range(3):
        notebook = sound()
        if place == 0:
            notebook.cells[0].source = text
        elif place == 1:
            notebook.cells[2].outputs[0].text = f"first line\n{text}"
        else:
            notebook.cells[2].outputs.append(new_output("display_data", data={"text/html": f"<b>{text}</b>"}))
        assert bool(machine_paths(notebook)) == found
