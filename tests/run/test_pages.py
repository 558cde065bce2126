"""What a run writes besides: pages of its notebooks that load nothing, and the latent browser."""

import re
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from bs4 import BeautifulSoup
from chromium import browser  # noqa: F401 (a fixture)
from test_run_all import run_all

from sparc_lib import paths
from sparc_lib.run import pages, runner, site
from sparc_lib.run.options import Options

NOTEBOOKS = sorted((paths.REPO / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The site of the committed notebooks, as a process of its own writes it."""
    root = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARC_OUTPUT", str(root))
        results = paths.results_dir("mini")
        (results / "scorecard.md").write_bytes((paths.REPO / "results/mini/scorecard.md").read_bytes())
        assert pages.write(pages.SITE, "mini", root), (root / "site.log").read_text()
    files = {file.name: file for file in (results / "site").iterdir()}
    soups = {
        name: BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser") for name, file in files.items()
    }
    return SimpleNamespace(folder=results / "site", soups=soups)


def test_every_notebook_has_a_page_and_the_index_leads_to_all(committed):
    expected = {file.stem + ".html" for file in NOTEBOOKS} | {"GLOSSARY.html", "scorecard.html", "index.html"}
    assert committed.soups.keys() == expected
    linked = {link["href"] for link in committed.soups["index.html"].find_all("a")}
    assert expected <= linked
    for name, soup in committed.soups.items():
        assert soup.find("h1") and soup.title.get_text(), name
        assert soup.find("meta", attrs={"name": "viewport"}) and soup.html["lang"] == "en"


def test_pages_load_nothing(committed):
    for name, soup in committed.soups.items():
        assert soup.find_all("script") == [], name
        assert [link["href"] for link in soup.find_all("link")] == ["data:,"]
        sources = [tag["src"] for tag in soup.find_all(src=True)]
        assert all(source.startswith("data:") for source in sources), name
        assert "@import" not in str(soup.style) and "url(" not in str(soup.style)


def test_links_within_the_site_lead_somewhere(committed):
    ids = {name: {tag["id"] for tag in soup.find_all(id=True)} for name, soup in committed.soups.items()}
    for name, soup in committed.soups.items():
        for link in soup.find_all("a", href=True):
            target, _, part = link["href"].partition("#")
            if ":" in target or target.startswith("../browser"):
                continue
            target = target or name
            if target not in ids and (committed.folder / target).exists():
                continue  # a file of the project
            assert target in ids, (name, link["href"])
            assert not part or part in ids[target], (name, link["href"])


def test_formulas_are_mathml_and_none_is_left_in_latex(committed):
    assert sum(len(soup.find_all("math")) for soup in committed.soups.values()) > 200
    for name, soup in committed.soups.items():
        for tag in soup.find_all(["code", "pre", "script", "style"]):
            tag.decompose()
        text = soup.get_text()
        assert not re.search(r"\\(frac|sum|text|hat|lVert|operatorname|mathrm|lambda)|\$", text), name


def test_figures_have_texts_solutions_are_folded_and_nothing_tells_of_the_machine(committed):
    for name, soup in committed.soups.items():
        for image in soup.find_all("img"):
            assert image.has_attr("alt") and "No description" not in image["alt"]
            assert image["alt"] or name == "index.html"  # beside a notebook's title, where it would repeat it
        assert not any(fold.has_attr("open") for fold in soup.find_all("details"))
        assert str(Path.home()) + "/" not in soup.get_text() and str(paths.REPO) not in soup.get_text()
    assert all(committed.soups[file.stem + ".html"].find("details") for file in NOTEBOOKS)


def test_pages_in_a_browser(committed, browser):  # noqa: F811
    for name in committed.soups:
        for width in (1280, 390):
            browser.call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=844,
                deviceScaleFactor=1,
                mobile=width < 600,
            )
            browser.call("Page.navigate", url=(committed.folder / name).as_uri())
            browser.until("document.readyState === 'complete'")
            assert browser.js("document.documentElement.scrollWidth") <= width, name
    assert browser.complaints == []


@pytest.mark.parametrize(
    "formula, expected",
    [
        (r"\operatorname{mean}", '<mi mathvariant="normal">m</mi>'),
        (r"\lVert x \rVert^2", '<mo stretchy="false">&#x02016;</mo>'),
        (r"\left( a < b", r"<code>\left( a &lt; b</code>"),  # cannot be converted
    ],
)
def test_a_formula_becomes_mathml(formula, expected):
    assert expected in site.mathml(formula, "inline")


def test_links_between_notebooks_become_links_between_pages():
    places = site.Places(paths.REPO / "notebooks", paths.REPO / "results/mini/site")
    expected = {
        "04_concept_alignment.ipynb#cell-id=c1": "04_concept_alignment.html#cell-id=c1",
        "../../notebooks/04_concept_alignment.ipynb": "04_concept_alignment.html",
        "GLOSSARY.md#nmse": "GLOSSARY.html#nmse",
        "../results/mini/scorecard.md": "scorecard.html",
        "profiles/mini.yaml": "../../../notebooks/profiles/mini.yaml",
        "https://host/GLOSSARY.md": "https://host/GLOSSARY.md",
        "#part": "#part",
        "not/there.py": "not/there.py",
    }
    assert {url: site.page_of(url, places) for url in expected} == expected


def test_a_profile_that_leads_elsewhere_is_refused_in_a_sentence(capsys):
    assert site.main(["--profile", "../x"]) == 1
    assert "site: profile '../x': name it like a folder" in capsys.readouterr().err


def test_which_pages_a_run_writes(tmp_path, monkeypatch):
    assert runner.pages_of(Options()) == [pages.BROWSER]
    assert runner.pages_of(Options(start="05", html=True)) == [pages.BROWSER, pages.SITE]
    assert runner.pages_of(Options(only="05")) == []
    assert runner.pages_of(Options(only="05", html=True)) == [pages.SITE]
    monkeypatch.setenv("SPARC_NOTEBOOKS", str(tmp_path))
    assert runner.pages_of(Options()) == []


def test_pages_that_cannot_be_written_say_why_and_leave_none_of_before(tmp_path, capsys):
    old = paths.results_dir("smoke") / "site/index.html"
    old.parent.mkdir()
    old.touch()
    assert not pages.write(pages.SITE, "smoke", tmp_path)
    printed = capsys.readouterr()
    assert re.search(r"^site +FAILED +\d", printed.out)
    assert "profile smoke: no notebook was run yet; ./run_all.sh --profile smoke does" in printed.err
    assert "to write it alone:" in printed.err and "-m sparc_lib.run.site --profile smoke" in printed.err
    assert not old.exists()


def test_a_stop_takes_the_process_along(tmp_path, monkeypatch):
    (tmp_path / "slow_pages.py").write_text("import time; time.sleep(120)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started = []

    def stopped(pid, _):
        started.append(pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(pages.os, "wait4", stopped)
    with pytest.raises(KeyboardInterrupt):
        pages.write(pages.Pages("slow", "slow_pages", "slow.html"), "smoke", tmp_path)
    assert not psutil.pid_exists(started[0])


@pytest.mark.slow
def test_html_shows_what_was_run_under_its_profile(notebooks, scratch):
    notebooks(n00_a=["print('here'); import sys; print('away', file=sys.stderr)"])
    done = run_all("--profile", "smoke", "--html")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^site +ok ", done.stdout, re.MULTILINE)
    text = (scratch / "output/results/smoke/site/00_a.html").read_text(encoding="utf-8")
    text = BeautifulSoup(text, "html.parser").get_text()
    assert 'profile = "smoke"' in text and "here" in text and "away" not in text.split("file=sys.stderr")[1]
    assert not (scratch / "output/results/smoke/browser").exists()


@pytest.mark.slow
def test_a_run_whose_pages_fail_has_failed(notebooks, scratch, monkeypatch):
    notebooks(n00_a=["pass"])
    (scratch / "output/results/smoke").mkdir(parents=True)
    (scratch / "output/results/smoke/site").touch()  # a file where the folder would be
    done = run_all("--profile", "smoke", "--html")
    assert done.returncode == 1
    assert "FAILED: all notebooks are done, but the site could not be written; see above" in done.stdout
