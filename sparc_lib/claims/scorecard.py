"""The scorecard: every claim beside the authors' notebooks, what is measured here, and controls.

Claims and rules lie in claims.yaml, the rules' meaning in verdicts.py, the numbers in results/<profile>/.
Nothing here is a matter of opinion: change a number, and the verdict follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, NamedTuple

import nbformat
import pandas as pd
from pydantic import Field
from pydantic.dataclasses import dataclass

from .. import paths
from ..files import aside
from ..profiles import Setting
from .declared import STRICT, read_declared
from .published_numbers import NUMBERS, published
from .quantities import Quantities, read_quantities
from .verdicts import (
    VERDICTS,
    Condition,
    Outcome,
    Sample,
    Verdict,
    because,
    decide,
    decisive,
    examine,
    number,
)

CLAIMS = Path(__file__).parent / "claims.yaml"
PUBLISHED_LATENTS = 8192  # activation patterns are published as numbers of latents
SYMBOLS: dict[Verdict, str] = {
    "holds": "●",
    "forced": "◆",
    "in part": "◐",
    "open": "○",
    "does not hold": "✖",
    "not measurable": "–",
}


@dataclass(frozen=True, config=STRICT)
class Claim:
    """One row; the fields are explained at the top of claims.yaml."""

    id: str
    name: str
    group: str
    claim: str
    published: list[str]
    note: str
    table: str
    show: dict[str, str]
    control: dict[str, str]
    conditions: Annotated[list[Condition], Field(min_length=1)]
    controls: list[Condition]

    def published_ids(self) -> list[str]:
        """Ids of the published numbers that state this claim."""
        return [key for key in published() if any(fnmatchcase(key, pattern) for pattern in self.published)]

    def quantities(self) -> list[str]:
        """Ids of all quantities that its conditions and controls need."""
        sides = [side for test in (*self.conditions, *self.controls) for side in (test.left, test.right)]
        return list(dict.fromkeys(side for side in sides if isinstance(side, str)))


class Judgement(NamedTuple):
    """A claim with its verdict, the outcome of every condition and control, and a sentence on why."""

    claim: Claim
    verdict: Verdict
    conditions: list[Outcome]
    controls: list[Outcome]
    why: str


def load_claims(file: Path = CLAIMS) -> list[Claim]:
    """Read and check claims.yaml. Raises ValueError that names claim and field of what does not fit."""
    claims = read_declared(file, Claim)
    for claim in claims:
        for pattern in claim.published:
            if not any(fnmatchcase(key, pattern) for key in published()):
                where = f"{file}: entry {claim.id!r}, field published"
                raise ValueError(f"{where}: {pattern!r} matches no id of {NUMBERS.name}")
    return claims


def judge(claim: Claim, quantities: Quantities) -> Judgement:
    """Apply the claim's rules to the numbers."""
    conditions = [examine(test, quantities.samples) for test in claim.conditions]
    controls = [examine(test, quantities.samples) for test in claim.controls]
    verdict = decide(conditions, controls)
    why = because(conditions, controls)
    if verdict == "not measurable":
        absent = [key for key in claim.quantities() if key not in quantities.samples]
        reason = quantities.missing.get(claim.table, f"no number for {absent[0]}")
        why = f"Not measurable on this profile ({reason})."
    return Judgement(claim, verdict, conditions, controls, why)


class Scorecard(NamedTuple):
    """All judgements, and the numbers they rest on."""

    judgements: list[Judgement]
    quantities: Quantities

    def counts(self) -> dict[Verdict, int]:
        """How many claims got which verdict."""
        return {verdict: sum(j.verdict == verdict for j in self.judgements) for verdict in VERDICTS}


def scorecard(folder: Path, settings: Sequence[Setting] = ()) -> Scorecard:
    """All claims judged by the tables in results/<profile>/; settings: the profile's (`read_quantities`)."""
    quantities = read_quantities(folder, settings)
    return Scorecard([judge(claim, quantities) for claim in load_claims()], quantities)


def counterpart(published_id: str) -> str:
    """The quantity of this project that stands beside a published number: the same id, whatever the
    photographs. On COCO the paper joins all captions of an image into one text (F15)."""
    if published_id.startswith("retrieval/coco/"):
        return published_id.replace("/coco/", "/").replace("/R@1", "/joined/R@1")
    return published_id.replace("/open_images/", "/")


def published_value(published_id: str) -> float:
    """The published number, in the unit used here: numbers of latents as shares."""
    row = published()[published_id]
    counted = row.metric in ("number of latents of 8192", "dead latents of 8192 in this stream")
    return row.value / PUBLISHED_LATENTS if counted else row.value


def score_table(card: Scorecard) -> pd.DataFrame:
    """One row a claim: what is published, here, control, verdict, why, and a link to the cell behind it."""
    samples = card.quantities.samples
    published_id = {counterpart(key): key for key in published()}
    rows = []
    for claim, verdict, _, _, why in card.judgements:
        texts: dict[str, list[str]] = {"paper": [], "authors' notebooks": []}
        for label, key in claim.show.items():
            if key in published_id:
                source = _source(published_id[key])
                texts[source].append(f"{label}: {number(published_value(published_id[key]))}")
        rows.append(
            {
                "id": claim.id,
                "group": claim.group,
                "claim": claim.claim,
                **{source: "; ".join(parts) for source, parts in texts.items()},
                "here": _listed(claim.show, samples),
                "control": _listed(claim.control, samples),
                "verdict": verdict,
                "why": why,
                "note": claim.note,
                "where": link(claim.table),
            }
        )
    return pd.DataFrame(rows)


def _source(published_id: str) -> str:
    """The column of a published number."""
    return "paper" if published()[published_id].source.startswith("paper") else "authors' notebooks"


def _listed(labels: Mapping[str, str], samples: Mapping[str, Sample]) -> str:
    return "; ".join(f"{label}: {samples[key]}" for label, key in labels.items() if key in samples)


def number_table(card: Scorecard) -> pd.DataFrame:
    """One row a published number: id, claim, paper, authors' notebooks, here (mean, low, high over n seeds).
    Activation patterns are shares of all latents. Empty where this profile measures no counterpart."""
    claims = {key: judged.claim.id for judged in card.judgements for key in judged.claim.published_ids()}
    rows = []
    for key in published():
        row = {"id": key, "claim": claims.get(key), "paper": None, "authors' notebooks": None}
        row[_source(key)] = published_value(key)
        sample = card.quantities.samples.get(counterpart(key))
        row |= {"here": None, "low": None, "high": None, "seeds": 0}
        if sample:
            row |= {"here": sample.mean, "low": sample.low, "high": sample.high, "seeds": len(sample.values)}
        rows.append(row)
    return pd.DataFrame(rows)


def link(table: str) -> str:
    """Link from results/<profile>/ to the cell that writes a table; plain text without a notebook."""
    notebooks = sorted(paths.notebooks_dir().glob(f"{table[:2]}_*.ipynb"))
    if not notebooks:
        return f"notebook {table[:2]}"
    cells = nbformat.read(notebooks[0], as_version=4).cells
    wanted = [cell.get("id") for cell in cells if cell.cell_type == "code" and f'"{table}"' in cell.source]
    anchor = f"#cell-id={wanted[0]}" if wanted and wanted[0] else ""
    return f"[{table}](../../notebooks/{notebooks[0].name}{anchor})"


def markdown(card: Scorecard, profile: str) -> str:
    """The scorecard as a page: totals, one short table a group, and a fold a claim with all its tests."""
    table = score_table(card).set_index("id")
    total = ", ".join(f"{verdict}: {n}" for verdict, n in card.counts().items() if n)
    lines = [
        f"# Scorecard, profile `{profile}`",
        "",
        f"{len(table)} claims; {total}.",
        "",
        "*Holds*: in order and sign, not in size. *Forced*: true as stated, but a control speaks against it: "
        "what cannot have the property has it too, or it is gone when streams are coded alone. *Open*: the "
        "seeds overlap. Verdicts follow by rule (`sparc_lib/claims/verdicts.py`, `claims.yaml`) from the "
        "tables in this folder. Sizes differ from the paper's, so rules ask for order, sign and shares. "
        "Numbers are means over seeds, published ones stand in brackets; each fold has ranges, notes and "
        "every test.",
        "",
    ]
    for group in dict.fromkeys(table.group):
        judged = [one for one in card.judgements if one.claim.group == group]
        lines += [
            f"## {group}",
            "",
            "| verdict | claim | here [published] | what decides |",
            "|---|---|---|---|",
        ]
        for one in judged:
            cells = (
                f"{SYMBOLS[one.verdict]} {one.verdict}",
                one.claim.name,
                _brief(one.claim.show, card.quantities.samples),
                str(decisive(one.conditions, one.controls)),
            )
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
        for one in judged:
            lines += _fold(one, table.loc[one.claim.id])
    return "\n".join(lines)


def _brief(labels: Mapping[str, str], samples: Mapping[str, Sample], most: int = 4) -> str:
    """Means of the first quantities shown, two digits each, with the published number in brackets."""
    published_id = {counterpart(key): key for key in published()}
    parts = []
    for label, key in list(labels.items())[:most]:
        if key not in samples:
            continue
        text = f"{label}: {number(samples[key].mean, digits=2)}"
        if key in published_id:
            text += f" [{number(published_value(published_id[key]), digits=2)}]"
        parts.append(text)
    return "; ".join(parts)


def _fold(judged: Judgement, row: pd.Series) -> list[str]:
    """All there is to say of one claim, folded."""
    parts = [f"<details><summary>{judged.claim.name}: {judged.verdict}</summary>", "", judged.claim.claim, ""]
    for source in ("paper", "authors' notebooks", "here", "control", "note", "where"):
        if row[source]:
            parts.append(f"- {source}: {row[source]}")
    for kind, outcomes in (("condition", judged.conditions), ("control", judged.controls)):
        parts += [f"- {kind}, {outcome.result or 'not measured'}: {outcome}" for outcome in outcomes]
    return [*parts, "", "</details>", ""]


def save_markdown(text: str, profile: str) -> Path:
    """Write results/<profile>/scorecard.md, aside first."""
    file = paths.results_dir(profile) / "scorecard.md"
    with aside(file) as partial:
        partial.write_text(text, encoding="utf-8")
    return file
