"""Every number the scorecard may use, by id, read from the tables in results/<profile>/ by the rules of
quantities.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from string import Formatter
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic.dataclasses import dataclass

from ..profiles import Setting
from .declared import STRICT, read_declared
from .verdicts import Sample

RULES = Path(__file__).parent / "quantities.yaml"


@dataclass(frozen=True, config=STRICT)
class Rule:
    """How some quantities are read; the fields are explained at the top of quantities.yaml."""

    id: str
    table: str
    value: str | dict[str, str]
    rows: list[str] = field(default_factory=list)
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    across: str = ""
    within: list[str] = field(default_factory=list)
    formula: str = ""
    of: Literal["mean", "min", "max"] = "mean"

    def columns(self) -> list[str]:
        """The columns whose values stand in the id."""
        parts = [column for _, column, _, _ in Formatter().parse(self.id) if column]
        return [column for column in parts if column != "measure"]


class Quantities(NamedTuple):
    """samples: samples by id. missing: what is wrong with the tables that could not be read, by name."""

    samples: dict[str, Sample]
    missing: dict[str, str]


def read_quantities(folder: Path, settings: Sequence[Setting] = ()) -> Quantities:
    """Read all quantities from results/<profile>/.

    settings: those of the profile, which are then known by gate and λ; without them names must be as
    published. An absent table is noted, not an error; values that are not finite are left out. Raises
    ValueError, naming file and rule, for a table of another shape.
    """
    names = {setting.name: f"{setting.gate}_lambda{setting.cross_weight:g}" for setting in settings}
    samples: dict[str, Sample] = {}
    missing: dict[str, str] = {}
    tables: dict[str, pd.DataFrame] = {}
    for rule in read_declared(RULES, Rule):
        file = folder / f"{rule.table}.csv"
        if not file.exists():
            missing[rule.table] = f"notebook {rule.table[:2]} not run: {file.name} is missing"
            continue
        if rule.table not in tables:
            tables[rule.table] = _read(file, names)
        try:
            quantities = dict(read(rule, tables[rule.table]))
        except (KeyError, AttributeError, NameError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file}: it lacks what {rule.id!r} is read from ({error}); run notebook {rule.table[:2]} of "
                "this version again"
            ) from error
        for key, values in quantities.items():
            finite = [value for value in values if np.isfinite(value)]
            if finite:
                samples[key] = Sample.of(finite)
    return Quantities(samples, missing)


def _read(file: Path, names: Mapping[str, str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, keep_default_na=False, na_values=["", "nan"])
    except ValueError as error:  # pandas' errors and those of decoding are ValueErrors
        raise ValueError(f"{file}: no table ({error}); run notebook {file.name[:2]} again") from error
    texts = table.select_dtypes(exclude="number").columns
    table[texts] = table[texts].fillna("")
    if "setting" in table:
        table["setting"] = table.setting.replace(names)
    return table


def read(rule: Rule, table: pd.DataFrame) -> Iterator[tuple[str, list[float]]]:
    """(id, one value a seed) of a rule's quantities. Raises KeyError or NameError for a missing column."""
    for condition in rule.rows:
        table = table[table.eval(condition, engine="python")]
    for column, names in rule.names.items():
        table = table[table[column].isin(list(names))]
        table = table.assign(**{column: table[column].map(names)})
    columns = rule.columns()
    measures = {"": rule.value} if isinstance(rule.value, str) else rule.value
    for measure, column in measures.items():
        values = _values(rule, table, column)
        by_seed = values.groupby([*columns, "seed"]).agg(rule.of).rename("value").reset_index()
        groups = by_seed.groupby(columns) if columns else [((), by_seed)]
        for key, rows in groups:
            parts = {name: str(part).replace(" ", "_") for name, part in zip(columns, key)}
            yield rule.id.format(**parts, measure=measure), rows.value.tolist()


def _values(rule: Rule, rows: pd.DataFrame, column: str) -> pd.Series:
    """The values that make a rule's quantities, indexed by the columns of its id, the seed, and `within`."""
    index = [*rule.columns(), "seed", *rule.within]
    if not rule.formula:
        return rows.set_index(index)[column]
    if not rule.across:
        return rows.set_index(index).eval(rule.formula, engine="python")
    wide = rows.pivot_table(index=index, columns=rule.across, values=column)
    extremes = {
        "first": wide.iloc[:, 0],
        "last": wide.iloc[:, -1],
        "lowest": wide.min(axis=1),
        "highest": wide.max(axis=1),
    }
    return wide.eval(rule.formula, engine="python", local_dict=extremes).dropna()
