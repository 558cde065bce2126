"""`./run_all.sh --html`: executed notebooks as pages that need no server and load nothing, formulas included.

    python -m sparc_lib.run.site --profile mini

writes them from the last run alone. Of a notebook that was not run here, the committed outputs serve (mini).
"""

from __future__ import annotations

import argparse
import base64
import binascii
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from bs4 import BeautifulSoup
from jinja2 import Environment, pass_context
from nbconvert.exporters.html import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from PIL import Image
from pygments.formatters import HtmlFormatter

from .. import paths
from ..files import aside
from .fetching import RunError
from .writeback import without_paths

TEMPLATE = Path(__file__).with_name("site.html")
CODE = HtmlFormatter(style="default").get_style_defs(".highlight")
NOTEBOOK = re.compile(r"^(?:[\w./-]*/)?(\d\d_\w+)\.ipynb(#.*)?$")
TEXTS = {"GLOSSARY.md": "Words and findings", "scorecard.md": "Scorecard"}  # pages besides the notebooks
FIGURE = re.compile(r'save_figure\([^"]*"\d\d_(\w+)"')
NORM = "<mo>&#x02016;</mo>"  # the double bar of a norm, which would grow with what stands beside it
LONG = 40  # characters of a formula within a text that may be wider than a phone
SMALL = 640  # pixels: width of a notebook's first figure on the index page


class Page(NamedTuple):
    """file: its name in the site. title, summary: plain text. body: HTML. picture: data URI, or empty.

    parts: (tag, id, text) of its headings, for the list of contents.
    """

    file: str
    title: str
    summary: str
    body: str
    parts: tuple[tuple[str, str, str], ...]
    picture: str = ""


class Places(NamedTuple):
    """The folder that a Markdown text's links start from, and that of the site."""

    text: Path
    site: Path


class Renderer(IPythonRenderer):
    """Markdown as HTML: formulas become MathML, links between notebooks links between pages."""

    def __init__(self, places: Places):
        super().__init__(escape=False, exclude_anchor_links=True)
        self.places = places

    def block_math(self, body: str) -> str:
        return mathml(body, "block")

    def inline_math(self, body: str) -> str:
        formula = mathml(body, "inline")
        return f'<span class="long">{formula}</span>' if len(body) > LONG else formula

    def link(self, text: str, url: str, title: str | None = None) -> str:
        return super().link(text, page_of(url, self.places), title)


class Exporter(HTMLExporter):
    """Cells of a notebook as HTML, without a page around them."""

    template_name = "basic"
    places: Places

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """Overrides nbconvert's, which leaves formulas to a script from the network."""
        return html_of(source, self.places)


def html_of(markdown: str, places: Places) -> str:
    """Markdown as HTML."""
    return MarkdownWithMath(renderer=Renderer(places)).render(markdown)


def mathml(formula: str, display: str) -> str:
    """MathML of a LaTeX formula; display: "block" or "inline". What cannot be converted stays as it is."""
    from latex2mathml.converter import convert  # a tenth of a second

    plain = re.sub(r"\\operatorname\*?", r"\\mathrm", formula.strip())  # the converter has no operatorname
    try:
        return convert(plain, display=display).replace(NORM, NORM.replace("<mo", '<mo stretchy="false"'))
    except Exception:  # the converter raises what it likes; a formula in LaTeX can still be read
        return f"<code>{formula.replace('&', '&amp;').replace('<', '&lt;')}</code>"


def page_of(url: str, places: Places) -> str:
    """The page that a link means, or the same file seen from the site; links elsewhere stay as they are."""
    if ":" in url or url.startswith("#"):
        return url
    name, sign, part = url.partition("#")
    if Path(name).name in TEXTS:
        return Path(name).stem + ".html" + sign + part
    if NOTEBOOK.match(url):
        return NOTEBOOK.sub(lambda match: f"{match[1]}.html{match[2] or ''}", url)
    if (places.text / name).exists():
        return os.path.relpath((places.text / name).resolve(), places.site) + sign + part
    return url


def write_site(profile: str) -> Path:
    """Write `results/<profile>/site/` and return its `index.html`. Raises RunError if nothing was run."""
    folder = paths.results_dir(profile) / "site"
    notebooks = Places(paths.REPO / "notebooks", folder)
    pages = [notebook_page(file, notebooks) for file in executed(profile)]
    if not pages:
        raise RunError(f"profile {profile}: no notebook was run yet; ./run_all.sh --profile {profile} does")
    for name, title in TEXTS.items():
        file = (notebooks.text if name == "GLOSSARY.md" else paths.results_dir(profile)) / name
        if file.is_file():
            html = html_of(file.read_text(encoding="utf-8"), Places(file.parent, folder))
            soup = BeautifulSoup(html, "html.parser")
            parts = arranged(soup)
            pages.append(Page(name.replace(".md", ".html"), title, "", str(soup), parts))
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("*.html"):
        stale.unlink()
    template = Environment(autoescape=False).from_string(TEMPLATE.read_text(encoding="utf-8"))
    browser = "../browser/index.html"
    common = {"pages": pages, "code": CODE, "profile": profile}
    common["browser"] = browser if (folder / browser).resolve().is_file() else ""
    for number, page in enumerate(pages):
        around = [pages[place] if 0 <= place < len(pages) else None for place in (number - 1, number + 1)]
        _write(folder / page.file, template.render(common, page=page, around=around))
    return _write(folder / "index.html", template.render(common, page=None, around=[None, None]))


def executed(profile: str) -> list[Path]:
    """The notebooks to show, in order: as the last run left them, else as committed."""
    ran = {file.name: file for file in (paths.results_dir(profile) / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    if profile == "mini":
        committed = {file.name: file for file in paths.notebooks_dir().glob("[0-9][0-9]_*.ipynb")}
        ran = committed | ran
    return [ran[name] for name in sorted(ran)]


def notebook_page(file: Path, places: Places) -> Page:
    """The page of one executed notebook."""
    notebook = nbformat.read(file, as_version=4)
    prepare(notebook)
    exporter = Exporter()
    exporter.places = places
    html, _ = exporter.from_notebook_node(notebook)
    soup = BeautifulSoup(html, "html.parser")
    heading, first = soup.find("h1"), soup.find("p")
    title = heading.get_text() if heading else file.stem
    picture = soup.find("img", src=re.compile("^data:image/png"))
    summary = first.get_text() if first else ""
    small = thumbnail(picture["src"]) if picture else ""
    parts = arranged(soup)
    return Page(f"{file.stem}.html", title, summary, str(soup), parts, small)


def arranged(soup: BeautifulSoup) -> tuple[tuple[str, str, str], ...]:
    """Give headings the ids that links in Markdown mean, let wide tables scroll; returns `Page.parts`."""
    for table in soup.find_all("table"):
        table.wrap(soup.new_tag("div", attrs={"class": "wide", "tabindex": "0"}))
    parts, seen = [], Counter()
    for head in soup.find_all(["h2", "h3"]):
        text = head.get_text()
        slug = re.sub(r"[^\w\s-]", "", text.lower()).strip().replace(" ", "-")
        head["id"] = f"{slug}-{seen[slug]}" if seen[slug] else slug
        seen[slug] += 1
        parts.append((head.name, head["id"], text))
    return tuple(parts)


def thumbnail(uri: str) -> str:
    """A PNG's data URI as that of a small WebP; empty if it is no picture."""
    try:
        with Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
            small = picture.convert("RGB")
    except (OSError, binascii.Error):
        return ""
    small.thumbnail((SMALL, SMALL))
    file = BytesIO()
    small.save(file, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def prepare(notebook: NotebookNode) -> None:
    """Leave out what tells of the machine, and say what every figure is, for those who cannot see it."""
    heading = ""
    defaults = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    notebook.cells = [cell for cell in notebook.cells if not _repeats(cell, defaults)]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for line in re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE):
                heading = line.replace("*", "").replace("$", "")
            continue
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        names = FIGURE.findall(cell.source)
        for output in cell.outputs:
            if "text" in output:
                output.text = without_paths(output.text)
            if "image/png" in output.get("data", {}):
                what = f"Figure {names.pop(0).replace('_', ' ')}" if names else "Figure"
                output.metadata["image/png"] = {"alt": f"{what}, section {heading}"}


def _repeats(cell: NotebookNode, defaults: Sequence[str]) -> bool:
    """Whether a cell is one that papermill put in and sets what the defaults have set already."""
    if "injected-parameters" not in cell.metadata.get("tags", []):
        return False
    lines = [line for line in cell.source.splitlines() if line and not line.startswith("#")]
    return all(line in source.splitlines() for line in lines for source in defaults)


def _write(file: Path, text: str) -> Path:
    with aside(file) as partial:
        partial.write_text(text, encoding="utf-8")
    return file


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m sparc_lib.run.site", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="mini", help="name of a profile that was run; default mini")
    try:
        index = write_site(parser.parse_args(arguments).profile)
    except (RunError, OSError, ValueError) as error:  # ValueError: a name that leads out of the results
        print(f"site: {error}", file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in index.parent.iterdir())
    print(f"{index}  {len(list(index.parent.glob('*.html')))} pages, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
