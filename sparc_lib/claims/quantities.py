"""Every number the scorecard may use, by id, read from the tables that the notebooks wrote to results/<profile>/.

Ids follow those of `published_results.json` where the paper's reading has a counterpart here, so that both stand beside
each other: "jaccard/global_lambda1/depth5". Other readings and controls add parts: ".../independent", ".../untrained".
A quantity is a `Sample`, one value a seed. `TABLES` is the one place that knows the notebooks' tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from .verdicts import Sample

Quantity = tuple[str, list[float]]  # id, one value a seed
PUBLISHED_DEPTHS = range(6)  # Open Images: 0 (root) to 5 (leaves)


class Quantities(NamedTuple):
    """found: samples by id. missing: what is wrong with a table, by its name, for those that could not be read."""

    found: dict[str, Sample]
    missing: dict[str, str]


def read_quantities(folder: Path) -> Quantities:
    """Read all `TABLES` in results/<profile>/. An absent table is noted, not an error; values that are not finite are
    left out. Raises ValueError, naming file and column, for a table of another shape."""
    found: dict[str, Sample] = {}
    missing: dict[str, str] = {}
    for name, reader in TABLES.items():
        file = folder / f"{name}.csv"
        if not file.exists():
            missing[name] = f"notebook {name[:2]} not run: {name}.csv is missing"
            continue
        try:
            quantities = list(reader(pd.read_csv(file, keep_default_na=False, na_values=["", "nan"])))
        except (KeyError, AttributeError) as error:
            raise ValueError(
                f"{file}: column or row {error} is missing; run notebook {name[:2]} of this version again"
            ) from error
        for key, values in quantities:
            finite = [value for value in values if pd.notna(value)]
            if finite:
                found[key] = Sample.of(finite)
    return Quantities(found, missing)


def _seeds(rows: pd.DataFrame, column: str) -> list[float]:
    """One value a seed: the mean of the seed's rows."""
    return rows.groupby("seed", sort=True)[column].mean().tolist()


def _suffix(model: str) -> str:
    return "" if model == "trained" else f"/{model.replace(' ', '_')}"


def _tradeoff(table: pd.DataFrame) -> Iterator[Quantity]:
    """02_scores: what the global gate costs and gains in NMSE at λ = 1, lowest and highest over streams or pairs."""
    rows = table[(table.run == "trained") & (table.metric == "nmse")]
    wide = rows.pivot_table(
        index=["coding", "kind", "seed", "source", "target"], columns="setting", values="value"
    )
    gap = wide["global_lambda1"] - wide["local_lambda1"]
    for coding in ("joint", "independent"):
        end = "" if coding == "joint" else "/independent"
        for kind, name, sign in (("self", "self_nmse_penalty", 1), ("cross", "cross_nmse_gain", -1)):
            by_seed = (sign * gap.loc[coding, kind]).groupby("seed")
            yield f"tradeoff/{name}_low{end}", by_seed.min().tolist()
            yield f"tradeoff/{name}_high{end}", by_seed.max().tolist()
            yield f"tradeoff/{name}{end}", by_seed.mean().tolist()


def _trends(table: pd.DataFrame) -> Iterator[Quantity]:
    """03_trends: rank correlations with the swept parameter, and shares reached along λ."""
    for (statistic, *key), rows in table.groupby(["statistic", "parameter", "metric", "coding", "gate"]):
        yield "/".join(["sweep", statistic.replace(" ", "_"), *key]), _seeds(rows, "value")


def _sweep_cost(table: pd.DataFrame) -> Iterator[Quantity]:
    """03_runs: Global minus Local in self-NMSE, lowest over all points of the sweep, by seed; joint codes."""
    rows = table[(table.model == "trained") & (table.coding == "joint") & (table.metric == "self_nmse")]
    wide = rows.pivot_table(
        index=["cross_weight", "k", "n_latents", "seed"], columns="gate", values="value"
    ).dropna()
    by_seed = (wide["global"] - wide["local"]).groupby("seed")
    yield "sweep/self_nmse_penalty_low", by_seed.min().tolist()
    yield "sweep/self_nmse_penalty_high", by_seed.max().tolist()


def _jaccard(table: pd.DataFrame) -> Iterator[Quantity]:
    """04_jaccard. Paper's reading: joint codes, all activations, all latents; leaves stand for deeper published depths.
    "alive": the same over alive latents. Fair reading ("independent"): alive latents with enough support, independent
    codes; "independent_all": over all latents; "place": between random partners (0) and what firing rates allow (1)."""
    leaf, support = table.depth.max(), table.min_samples.max()
    table = table[table.activations == "all"]
    paper = table[(table.coding == "joint") & (table.min_samples == 1) & (table.latents == "all")]
    alone = table[(table.coding == "independent") & (table.min_samples == support)]
    fair = alone[alone.latents == "alive"]
    for (model, setting), rows in paper.groupby(["model", "setting"]):
        start = f"jaccard/{setting}"
        by_depth = rows.pivot_table(index="seed", columns="depth", values="jaccard")
        for depth in PUBLISHED_DEPTHS:
            if min(depth, leaf) in by_depth:
                yield f"{start}/depth{depth}{_suffix(model)}", by_depth[min(depth, leaf)].tolist()
        yield (
            f"{start}/lost{_suffix(model)}",
            (1 - by_depth[leaf] / by_depth[by_depth.columns.min()]).tolist(),
        )
    joint = table[(table.coding == "joint") & (table.min_samples == 1) & (table.latents == "alive")]
    for name, part in (("alive", joint), ("independent_all", alone[alone.latents == "all"])):
        for (model, setting), rows in part[part.depth == leaf].groupby(["model", "setting"]):
            yield f"jaccard/{setting}/{name}{_suffix(model)}", _seeds(rows, "jaccard")
    for (model, setting), rows in fair.groupby(["model", "setting"]):
        start, rows_leaf = f"jaccard/{setting}", rows[rows.depth == leaf]
        by_depth = rows.pivot_table(index="seed", columns="depth", values="jaccard")
        yield f"{start}/independent{_suffix(model)}", _seeds(rows_leaf, "jaccard")
        yield f"{start}/permuted_labels{_suffix(model)}", _seeds(rows_leaf, "null")
        yield f"{start}/shuffled_latents{_suffix(model)}", _seeds(rows_leaf, "shuffled")
        yield f"{start}/place{_suffix(model)}", _seeds(rows_leaf, "rescaled")
        lost = 1 - by_depth[leaf] / by_depth[by_depth.columns.min()]
        yield f"{start}/lost/independent{_suffix(model)}", lost.tolist()


def _patterns(table: pd.DataFrame) -> Iterator[Quantity]:
    """04_patterns: shares of latents, under joint codes as published, and under independent ones."""
    names = {
        "all alive": "all_alive",
        "all dead": "all_dead",
        "2 of 3": "mixed_2_of_3",
        "1 of 3": "mixed_1_of_3",
    }
    for (model, setting, coding), rows in table.groupby(["model", "setting", "coding"]):
        end = ("" if coding == "joint" else "/independent") + _suffix(model)
        share = rows.pivot_table(index="seed", columns="pattern", values="share")
        for pattern, name in names.items():
            yield f"patterns/{setting}/{name}{end}", share[pattern].tolist()
        mixed = share["1 of 3"] + share["2 of 3"]
        yield f"patterns/{setting}/mixed{end}", mixed.tolist()
        yield (
            f"patterns/{setting}/mixed_share{end}",
            share["2 of 3"].tolist(),
        )  # what the paper calls mixed (F2)
        dead = share[[pattern for pattern in share if pattern.startswith("dead in ")]]
        for pattern in dead:
            yield f"patterns/{setting}/dead/{pattern.removeprefix('dead in ')}{end}", dead[pattern].tolist()
        yield f"patterns/{setting}/dead_range{end}", (dead.max(axis=1) - dead.min(axis=1)).tolist()


def _probes(table: pd.DataFrame) -> Iterator[Quantity]:
    """04_latent_probes (`probe_report.latent_probe_table`): loss per stream as published, and means over streams."""
    for (model, setting, coding, select_on), rows in table.groupby(
        ["model", "setting", "coding", "select_on"]
    ):
        end = {
            ("joint", "all"): "",
            ("joint", "train"): "/train",
            ("independent", "train"): "/independent",
        }.get((coding, select_on))
        if end is not None:
            for stream, of_stream in rows.groupby("stream"):
                yield f"probe/{setting}/{stream}{end}{_suffix(model)}", _seeds(of_stream, "loss")
            yield f"probe/{setting}/mean{end}{_suffix(model)}", _seeds(rows, "loss")


def _retrieval(table: pd.DataFrame) -> Iterator[Quantity]:
    """04_retrieval: independent codes; each direction, the mean of CLIP image to text and back, as raw CLIP has them, and
    that of all directions into or out of text. DINO and CLIP image see the same pixels: no evidence of concepts."""
    metrics = {"R@1": "recall_1", "R@5": "recall_5", "R@10": "recall_10", "MedR": "median_rank", "MRR": "mrr"}
    streams = {"clip_img": "img", "clip_txt": "txt", "dino": "dino"}
    for (model, setting, query, reference), rows in table[table.coding != "joint"].groupby(
        ["model", "setting", "query", "reference"]
    ):
        for metric, column in metrics.items():
            yield (
                f"retrieval/{setting}/{streams[query]}_to_{streams[reference]}/{metric}{_suffix(model)}".removesuffix(
                    "/raw"
                ),
                _seeds(rows, column),
            )
    codes = table[(table.coding == "independent") & (table.model != "raw")]
    text = codes[(codes["query"] == "clip_txt") | (codes.reference == "clip_txt")]
    for name, part in (("R@1", _clip_pair(codes)), ("text/R@1", text)):
        for (model, setting), rows in part.groupby(["model", "setting"]):
            yield f"retrieval/{setting}/{name}{_suffix(model)}", _seeds(rows, "recall_1")
    yield "retrieval/chance", [1 / codes.n_reference.iloc[0]]


def _clip_pair(table: pd.DataFrame) -> pd.DataFrame:
    return table[
        table["query"].isin(["clip_img", "clip_txt"]) & table.reference.isin(["clip_img", "clip_txt"])
    ]


def _protocols(table: pd.DataFrame) -> Iterator[Quantity]:
    """05_retrieval: independent codes, images asked for by captions, under each protocol."""
    rows = _clip_pair(
        table[(table.model == "trained") & (table.kind == "codes") & (table.coding == "independent")]
    )
    for (setting, protocol), found in rows.groupby(["setting", "protocol"]):
        yield f"retrieval/{setting}/{protocol}/R@1", _seeds(found[found["query"] == "clip_txt"], "recall_1")


def _baselines(table: pd.DataFrame) -> Iterator[Quantity]:
    """05_baselines: every other method in the same task, mean of CLIP image to text and back."""
    for kind, rows in _clip_pair(table[table.model == "trained"]).groupby("kind"):
        yield f"retrieval/baseline/{kind}/R@1", _seeds(rows, "recall_1")


def _segmentation(table: pd.DataFrame) -> Iterator[Quantity]:
    """06_segmentation: mask mAP at IoU 0.20, mean IoU and target-minus-other contrast of every kind of heatmap; SPARC
    with independent codes. The cross-modal targets of the published table are caption targets here."""
    targets = {
        "sum of latents": "latents/{}_sum",
        "caption": "latents/{}_cross",
        "latents of the caption": "caption/{}_sum",
    }
    measures = {"mAP20": "map20", "mIoU": "iou", "contrast": "contrast"}
    streams = {"dino": "dino", "clip_img": "clip"}
    table = table.fillna({"stream": "", "setting": "", "coding": ""})
    rows = table[(table.coding == "independent") & table.target.isin(targets) & table.stream.isin(streams)]
    for (target, stream, setting), found in rows.groupby(["target", "stream", "setting"]):
        for measure, column in measures.items():
            yield (
                f"segmentation/{setting}/{targets[target].format(streams[stream])}/{measure}",
                _seeds(found, column),
            )
    other = {
        "CLIP similarity": "baseline/clip_similarity",
        "centred Gaussian": "control/gaussian",
        "wrong caption": "control/wrong",
        "attention alone": "control/attention",
        "caption, untrained SPARC": "control/untrained",
        "caption, random encoders": "control/random_encoders",
    }
    kind = table.target.map(other).where(
        table.group != "reference", "baseline/detr"
    )  # what stands in for DETR here
    for (name, stream), found in table[table.setting.isin(["", "global_lambda1"])].groupby([kind, "stream"]):
        for measure, column in measures.items():
            yield f"segmentation/{name}/{streams.get(stream, 'none')}/{measure}", _seeds(found, column)
            if stream == "clip_img":
                yield f"segmentation/{name}/{measure}", _seeds(found, column)


TABLES: dict[str, Callable[[pd.DataFrame], Iterator[Quantity]]] = {
    "02_scores": _tradeoff,
    "03_trends": _trends,
    "03_runs": _sweep_cost,
    "04_jaccard": _jaccard,
    "04_patterns": _patterns,
    "04_latent_probes": _probes,
    "04_retrieval": _retrieval,
    "05_retrieval": _protocols,
    "05_baselines": _baselines,
    "06_segmentation": _segmentation,
}
