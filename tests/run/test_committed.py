"""What is committed for `mini` agrees with itself: tables, scorecard, the notebooks' printed tables, README.

A number that somebody changes by hand in one of them is found, for the others still say what was measured.
"""

import re
from html.parser import HTMLParser
from itertools import chain

import nbformat
import numpy as np
import pandas as pd
import pytest

from sparc_lib import paths
from sparc_lib.claims.published_numbers import published
from sparc_lib.claims.scorecard import markdown, number_table, score_table, scorecard
from sparc_lib.miniworld.facts import all_facts
from sparc_lib.notebook.results import save_table
from sparc_lib.notebook.separability import code_numbers
from sparc_lib.profiles import load_profile
from sparc_lib.studies.ablations import trends
from sparc_lib.studies.part_scores import NO_COLOUR, ONE_COLOUR
from sparc_lib.studies.retrieval import CODE_COLUMNS

RESULTS = paths.REPO / "results" / "mini"
NOTEBOOKS = sorted((paths.REPO / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SIX_DIGITS = 5e-6  # relative error of what the tables keep


def result(name):
    """A committed table; the empty text stays text where the column has any."""
    return pd.read_csv(RESULTS / f"{name}.csv")


# ------------------------------------------------- printed tables


class Cells(HTMLParser):
    """Texts of the body cells of an HTML table, row by row."""

    def __init__(self):
        super().__init__()
        self.rows, self.inside = [], False

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.inside = True
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag == "td":
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def printed_tables(notebook):
    """(source of the cell, rows of texts) of every table in a notebook's outputs."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", ()):
            html = output.get("data", {}).get("text/html", "")
            if "<td" in html:
                parser = Cells()
                parser.feed(html)
                yield cell.source, [row for row in parser.rows if row]


def number_of(text):
    """(value, half a unit of its last digit) of a printed number; None for a text."""
    match = re.fullmatch(r"\s*(-?[\d,]*\.?(\d*)(?:e[-+]\d+)?)(%?)\s*", text)
    if not match or not re.search(r"\d", text):
        return None
    scale = 0.01 if match[3] else 1.0
    exponent = re.search(r"e([-+]\d+)", text)
    scale_digits = 10.0 ** int(exponent[1]) if exponent else 1.0
    return float(match[1].replace(",", "")) * scale, 0.5 * 10.0 ** -len(match[2]) * scale * scale_digits


def agrees(text, value):
    """Whether a printed number is `value`, rounded as it is printed."""
    number, half = number_of(text)
    return bool(np.isfinite(value)) and abs(number - value) <= half * 1.001 + SIX_DIGITS * abs(value)


def holds(row, values):
    """Whether the printed numbers of a row occur among `values`, in their order."""
    left = iter(values)
    return all(any(agrees(text, value) for value in left) for text in row if number_of(text))


def numeric_rows(table):
    return table.select_dtypes("number").to_numpy(float).tolist()


def settings_by(table, index, columns, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    value = "recall_1" if "recall_1" in table else "value" if "value" in table else "share"
    return table.pivot_table(index=index, columns=columns, values=value, sort=False)


def codes_that_leak():
    table = result("04_retrieval")
    table = table[(table["query"] == "clip_txt") & (table.reference == "clip_img") & (table.seed == 0)]
    table = table[table.setting == "global_lambda1"].pivot(index="model", columns="coding", values="recall_1")
    return table.loc[["trained", "untrained", "random encoders"]]


def jaccard_at_leaves(**where):
    table = result("04_jaccard")
    table = table[(table.activations == "all") & (table.depth == table.depth.max())]
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def both_means():
    table = jaccard_at_leaves(model="trained")
    columns = ["latents", "min_samples"]
    return table.pivot_table(index=["coding", "setting"], columns=columns, values="jaccard", sort=False)


def places():
    table = jaccard_at_leaves(coding="independent", latents="alive", min_samples=5)
    columns = ["jaccard", "shuffled", "bound", "rescaled", "null", "n_latents"]
    return table.groupby(["model", "setting"], sort=False)[columns].mean()


def strongest_places():
    """Place of the Jaccard over each latent's strongest activations: mean, lowest and highest seed."""
    table = result("04_jaccard")
    table = table[(table.activations == "top") & (table.depth == table.depth.max())]
    table = table[(table.coding == "independent") & (table.latents == "alive") & (table.min_samples == 5)]
    return table.groupby(["model", "setting"], sort=False).rescaled.agg(["mean", "min", "max"])


def nearer_by_kind():
    """Share of edits by a caption that end nearer to the edited picture; last another pair's change."""
    table = result("08_interventions").query("question == 'nearer' and model == 'trained'")
    means = table.groupby(["kind", "setting"], sort=False)[["value", "chance"]].mean().unstack("setting")
    shown = means["value"][["global_lambda1", "local_lambda1", "one_voter"]]
    return shown.assign(chance=means["chance"]["one_voter"])


def l0_and_dead():
    index, columns = ["setting", "coding"], ["metric", "source"]
    return settings_by(result("02_l0_and_dead"), index, columns)


def numbers_by_claim():
    grouped = result("09_numbers").groupby("claim", sort=False)
    return grouped.agg(published=("id", "size"), measured_here=("here", "count"))


def gates():
    return result("08_gates").drop(columns="seed").groupby(["model", "method"], sort=False).mean()


def parts_without_colour():
    table = result("07_parts")
    table = table[table.question.isin([NO_COLOUR, ONE_COLOUR]) & (table.group != "control")]
    return table[["contrast", "right"]]


def whole_codes():
    return code_numbers(result("07_separability"))


# Printed tables that are made of a saved one: a piece of the cell's last line -> how.
DERIVED = {
    "means.rename(index=show.method_name)": gates,
    "life.round(3)": l0_and_dead,
    "means.rename(index=setting_name)": both_means,
    'rescaled="place"': places,
    "strongest.rename": strongest_places,
    "another pair's, one voter": nearer_by_kind,
    "leak.round(3)": codes_that_leak,
    'numbers.groupby("claim"': numbers_by_claim,
    'less[less.group != "control"]': parts_without_colour,
    'subset=["live", "l0", "rank"]': whole_codes,
}
NO_RESULT = (  # what was used, not what was found
    "pd.Series(versions",
    "choices",
    'name="claims").to_frame()',  # verdicts, which are words; the scorecard's own tests recompute them
    'index=["swept", "held at"]',
)


def expected(notebook, source):
    """Numbers of the rows that a cell's printed table may show; None if it shows no result."""
    end = source.strip().splitlines()[-1]
    if any(piece in end for piece in NO_RESULT):
        return None
    for piece, make in DERIVED.items():
        if piece in end:
            return numeric_rows(make())
    saved = re.findall(r'save_table\(.*?, profile, "(\w+)"\)', source)
    assert saved, f"{notebook.name}: a printed table is neither saved nor DERIVED from a saved one: {end}"
    return list(chain.from_iterable(numeric_rows(result(name)) for name in saved))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name[:2])
def test_printed_tables_are_those_of_the_results(notebook):
    for source, rows in printed_tables(notebook):
        allowed = expected(notebook, source)
        if allowed is None:
            continue
        for place, row in enumerate(rows):
            same_place = allowed[place : place + 1] if len(allowed) == len(rows) else allowed
            assert any(holds(row, values) for values in same_place), (
                f"{notebook.name}: the results have no such row as {row}, printed by\n{source}"
            )


def test_a_digit_changed_by_hand_in_a_printed_table_is_noticed():
    changed = checked = 0
    for notebook in NOTEBOOKS:
        for source, rows in printed_tables(notebook):
            allowed = expected(notebook, source)
            if not allowed or len(allowed) != len(rows):
                continue
            for row, values in zip(rows, allowed):
                for column, text in enumerate(row):
                    if number_of(text) and "." in text:
                        other = text.replace(".", "9.", 1)
                        checked += 1
                        changed += not holds([*row[:column], other, *row[column + 1 :]], values)
    assert checked > 100 and changed == checked


# ------------------------------------------------- tables among themselves


def saved_again(table, name):
    """The text of a table as a notebook would save it."""
    return save_table(table, "mini", name).read_text()


def committed(name):
    return (RESULTS / f"{name}.csv").read_text()


def test_the_scorecard_follows_from_the_tables():
    card = scorecard(RESULTS, load_profile("mini").settings)
    assert markdown(card, "mini") == (RESULTS / "scorecard.md").read_text()
    assert saved_again(score_table(card), "09_scorecard") == committed("09_scorecard")
    assert saved_again(number_table(card), "09_numbers") == committed("09_numbers")
    outcomes = []
    for judged in card.judgements:
        for kind in ("conditions", "controls"):
            for outcome in getattr(judged, kind):
                test = outcome.condition
                sides = (test.left, test.relation, test.right, test.margin)
                outcomes.append((judged.claim.id, kind, *sides, outcome.result))
    columns = ["claim", "kind", "left", "relation", "right", "margin", "result"]
    assert saved_again(pd.DataFrame(outcomes, columns=columns), "09_outcomes") == committed("09_outcomes")


def test_the_scorecard_is_printed_as_it_is_saved():
    notebook = next(path for path in NOTEBOOKS if path.name.endswith("claims_scorecard.ipynb"))
    printed = [
        output.data["text/markdown"]
        for cell in nbformat.read(notebook, as_version=4).cells
        for output in cell.get("outputs", ())
        if output.get("data", {}).get("text/markdown", "").startswith("# Scorecard")
    ]
    page = (RESULTS / "scorecard.md").read_text().replace("../../notebooks/", "")
    assert [text.strip() for text in printed] == [page.strip()]


def test_trends_follow_from_the_runs():
    """But for rank correlations, in which values may tie that differ beyond the six digits of the tables."""
    again = trends(result("03_runs"), load_profile("mini"))
    saved = result("03_trends")
    ranks = saved.statistic == "trend"
    names = [column for column in saved if column != "value"]
    assert again[names].equals(saved[names])
    pd.testing.assert_frame_equal(again[~ranks], saved[~ranks], check_exact=False, rtol=1e-3, atol=1e-3)
    assert (again.value[ranks] - saved.value[ranks]).abs().max() < 0.2


def test_both_retrieval_tables_agree():
    codes, searches = result("04_retrieval"), result("05_retrieval")
    searches = searches[(searches.protocol == "pairs") & searches.kind.isin(["codes", "raw"])]
    both = codes.merge(searches[CODE_COLUMNS], on=CODE_COLUMNS[:6], suffixes=("", " of 05"))
    assert len(both) > 100
    for column in CODE_COLUMNS[6:]:
        assert both[column].equals(both[f"{column} of 05"]), column


def test_means_over_seeds_follow_from_the_seeds():
    table = result("06_segmentation")
    own = table[(table.group == "SPARC") & (table.coding == "independent")]
    mean = own.groupby(["setting", "target", "stream"], sort=False)[["map20", "iou", "contrast"]].mean()
    saved = result("06_seeds").set_index(["setting", "target", "stream"])[["map20", "iou", "contrast"]]
    np.testing.assert_allclose(mean.loc[saved.index], saved, rtol=1e-5)
    kinds = result("05_baselines").groupby(["model", "kind"]).recall_1.mean()
    ways = result("05_baselines_mean").groupby(["model", "kind"]).recall_1.mean()
    np.testing.assert_allclose(kinds, ways[kinds.index], rtol=1e-4)


def test_every_number_beside_the_paper_is_published():
    values = {row.value for row in published().values()}
    values |= {row.value / 8192 for row in published().values()}
    files = sorted(RESULTS.glob("*_beside_paper.csv"))
    assert len(files) >= 6
    for file in files:
        table = pd.read_csv(file)
        theirs = pd.concat([table["paper"], table["authors' notebooks"]]).dropna().astype(float)
        for value in theirs:
            assert any(np.isclose(value, one, rtol=SIX_DIGITS) for one in values), f"{file.name}: {value}"


def test_run_times_in_the_readme_add_up():
    """What they are made from is not committed, for it changes with every run."""
    readme = (paths.REPO / "README.md").read_text()
    rows = re.findall(r"^\| (\d\d) \| (\d+) \| (\d+) \|$", readme, re.M)
    assert len(rows) == len(NOTEBOOKS)
    (together,) = re.findall(r"^\| together \| (\d+) \|", readme, re.M)
    assert abs(int(together) - sum(int(seconds) for _, seconds, _ in rows)) <= len(rows) / 2


# ------------------------------------------------- README

README_ROWS = {
    "captions that find their image first (by codes, among 5,186; chance .0002)": "R@1, text → image",
    "images that find their caption first": "R@1, image → text",
    "names of latents that all streams give": "names that all streams give",
    "Jaccard between random partners (0) and the ceiling (1)": "Jaccard, place (0: random partners)",
    "variance left unexplained, own stream": "self-FVU (lower is better)",
    "variance left unexplained, other streams": "cross-FVU (lower is better)",
}


def test_the_table_of_the_readme_is_that_of_notebook_04():
    measured = result("04_all_measures").set_index("measure")
    columns = ["global_lambda1", "local_lambda1", "one_voter", "untrained"]
    lines = (paths.REPO / "README.md").read_text(encoding="utf-8").splitlines()
    for name, measure in README_ROWS.items():
        (line,) = [line for line in lines if line.startswith(f"| {name} |")]
        shown = [cell.strip() for cell in line.strip("| ").split("|")[1:]]
        assert len(shown) == len(columns)
        for text, column in zip(shown, columns):
            assert agrees(text, measured.loc[measure, column]), f"README: {name}, {column}: {text}"


def test_the_sentence_of_the_readme_on_joint_codes_is_that_of_notebook_04():
    text = (paths.REPO / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"the Jaccard is (\.\d+) against (\.\d+) \(paper", text)
    joint = jaccard_at_leaves(model="trained", coding="joint", latents="all", min_samples=1)
    means = joint.groupby("setting").jaccard.mean()
    for printed, setting in zip(shown.groups(), ("global_lambda1", "local_lambda1")):
        assert agrees(printed, means[setting])
    theirs = re.search(r"\(paper: (\.\d+) and (\.\d+)\)", text)
    for printed, setting in zip(theirs.groups(), ("global_lambda1", "local_lambda1")):
        assert agrees(printed, published()[f"jaccard/{setting}/depth5"].value)
    (untrained,) = re.findall(r"an untrained model has more of both, a Jaccard of (\.\d+)", text)
    control = jaccard_at_leaves(model="untrained", coding="joint", latents="all", min_samples=1)
    assert agrees(untrained, control[control.setting == "global_lambda1"].jaccard.mean())


def test_the_sentence_of_the_readme_on_changed_facts_is_that_of_notebook_08():
    text = (paths.REPO / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"in (\d+ %) of the changes, against (\d+ %) and (\d+ %) under", text)
    table = result("08_interventions")
    nearer = table[
        (table.question == "nearer") & (table.model == "trained") & (table.kind != "another scene")
    ]
    means = nearer.groupby("setting").value.mean()
    for printed, setting in zip(shown.groups(), ("one_voter", "global_lambda1", "local_lambda1")):
        assert agrees(printed.replace(" ", ""), means[setting])


def test_the_size_of_the_world_in_the_readme_is_that_of_mini():
    text = (paths.REPO / "README.md").read_text(encoding="utf-8")
    scenes, n_classes, n_facts = re.search(
        r"([\d,]+) drawn scenes of (\d+) classes with (\d+) facts", text
    ).groups()
    data = load_profile("mini").data
    assert int(scenes.replace(",", "")) == data.train + data.val + data.test
    assert int(n_classes) == len(result("01_class_frequencies"))
    assert int(n_facts) == len(all_facts())


# ------------------------------------------------- notebook 00

WHAT_HOLDS = {  # claim as notebook 00 has it: its id in the scorecard
    "Coded alone, Global TopK with $\\lambda = 1$ finds most partners": "retrieval_best",
    "Without shared gate and cross-reconstruction, nothing is found": "local0_nothing",
    "The shared gate costs some self-reconstruction": "self_cost",
    "A latent is alive in all streams or in none": "none_mixed",
    "The shared gate rebuilds other streams better": "cross_gain",
    "The shared gate aligns concepts (Jaccard, joint codes)": "jaccard_order",
    "A caption points at its object in DINO's picture": "segmentation_dino",
    "Its heatmaps are better than those of Local TopK": "segmentation_gate",
}


def test_the_verdicts_in_notebook_00_are_those_of_the_scorecard():
    verdicts = result("09_scorecard").set_index("id").verdict
    cells = nbformat.read(NOTEBOOKS[0], as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for claim, name in WHAT_HOLDS.items():
        assert f"| {claim} | {verdicts[name]} |" in text, f"00: {claim}: {verdicts[name]}"
    (table,) = re.findall(r"\| claim of the paper \| here \|\n\|---\|---\|\n((?:\|.*\n?)+)", text)
    assert len(table.strip().splitlines()) == len(WHAT_HOLDS)
