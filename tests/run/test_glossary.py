"""The glossary: every finding that a notebook mentions is explained, and every link to it or from it leads
somewhere."""

import re

import nbformat
import pytest

from sparc_lib import paths

FOLDER = paths.REPO / "notebooks"
GLOSSARY = FOLDER / "GLOSSARY.md"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
TEXT = GLOSSARY.read_text(encoding="utf-8")
ANCHORS = re.findall(r'<a id="([^"]+)"></a>', TEXT)
LINK = re.compile(r"GLOSSARY\.md#([\w-]+)")
FINDING = re.compile(r"\bF(\d+)\b")  # the score is written $F_1$


def words(notebook):
    """Text of the Markdown cells and of printed Markdown."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown":
            yield cell.source
        for output in cell.get("outputs", ()):
            yield output.get("data", {}).get("text/markdown", "")


def slug(heading):
    """The anchor that a page of Markdown gives a heading."""
    return re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-")


HEADINGS = {slug(heading) for heading in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)}


def test_every_anchor_is_there_once():
    assert len(ANCHORS) == len(set(ANCHORS)) and len(ANCHORS) > 80


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[file.stem for file in NOTEBOOKS])
def test_what_a_notebook_refers_to_is_explained(notebook):
    text = "\n".join(words(notebook))
    assert {f"f{number}" for number in FINDING.findall(text)} <= set(ANCHORS)
    assert set(LINK.findall(text)) <= set(ANCHORS) | HEADINGS


def test_the_pages_beside_the_notebooks_refer_to_what_is_explained():
    for file in (paths.REPO / "README.md", paths.REPO / "sparc_lib/claims/claims.yaml"):
        text = file.read_text(encoding="utf-8")
        assert {f"f{number}" for number in FINDING.findall(text)} <= set(ANCHORS)
        assert set(LINK.findall(text)) <= set(ANCHORS) | HEADINGS


def test_the_glossarys_own_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in HEADINGS | set(ANCHORS), target
        else:
            assert (FOLDER / target).is_file(), target


def test_every_entry_says_where_it_comes_from():
    for line in TEXT.splitlines():
        if line.startswith("- <a id="):
            assert re.search(r"\(.*\[\d\d\]\(\d\d_\w+\.ipynb\).*\)$", line), line
