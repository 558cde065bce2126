import pandas as pd
import pytest
import yaml
from scipy.optimize import linprog

from sparc_lib import paths
from sparc_lib.claims.declared import read_declared
from sparc_lib.claims.published_numbers import published
from sparc_lib.claims.quantities import RULES, Quantities, Rule, read_quantities
from sparc_lib.claims.scorecard import (
    CLAIMS,
    judge,
    link,
    load_claims,
    markdown,
    number_table,
    published_value,
    save_markdown,
    score_table,
    scorecard,
)
from sparc_lib.claims.verdicts import Sample, decisive, examine
from sparc_lib.notebook import style as plots
from sparc_lib.notebook.scorecard import verdict_chart
from sparc_lib.profiles import Setting

MINI = paths.REPO / "results" / "mini"
STEP = 0.01  # how far from a threshold the made-up numbers lie


def ideal(claim):
    """Made-up numbers under which all conditions and controls of a claim hold, each by STEP."""
    ids = claim.quantities()
    rows, bounds = [], []
    for test in (*claim.conditions, *claim.controls):
        signs = {
            "above": [(-1, -test.margin - STEP)],
            "below": [(1, -test.margin - STEP)],
            "near": [(1, test.margin - STEP / 10), (-1, test.margin - STEP / 10)],
        }[test.relation]
        for sign, bound in signs:
            row = [0.0] * len(ids)
            row[ids.index(test.left)] += sign
            if isinstance(test.right, str):
                row[ids.index(test.right)] -= sign
            else:
                bound += sign * test.right
            rows.append(row)
            bounds.append(bound)
    solved = linprog([0] * len(ids), A_ub=rows, b_ub=bounds, bounds=(-10, 10))
    assert solved.success, f"{claim.id} can never hold: its rules contradict each other"
    return dict(zip(ids, solved.x))


def judged(claim, numbers):
    return judge(claim, Quantities({key: Sample.of([value]) for key, value in numbers.items()}, {}))


@pytest.fixture(params=load_claims(), ids=lambda claim: claim.id)
def claim(request):
    return request.param


def test_a_claim_holds_when_everything_it_asks_for_is_true(claim):
    assert judged(claim, ideal(claim)).verdict == "holds"


def test_each_threshold_has_two_sides(claim):
    for test in (*claim.conditions, *claim.controls):
        numbers = ideal(claim)
        right = numbers[test.right] if isinstance(test.right, str) else test.right
        sign = -1 if test.relation == "below" else 1
        for offset, holds in ((STEP / 2, test.relation != "near"), (-STEP / 2, test.relation == "near")):
            numbers[test.left] = right + sign * (test.margin + offset)
            sample = {key: Sample.of([value]) for key, value in numbers.items()}
            assert (examine(test, sample).result == "shown") is holds
            assert holds or judged(claim, numbers).verdict != "holds"


def test_a_missing_number_makes_it_not_measurable_and_a_missing_control_open(claim):
    for test in claim.conditions:
        numbers = ideal(claim)
        del numbers[test.left]
        lost = judged(claim, numbers)
        assert lost.verdict == "not measurable" and test.left in lost.why
    needed = {side for test in claim.conditions for side in (test.left, test.right)}
    for test in claim.controls:
        numbers = ideal(claim)
        if test.left not in needed:
            del numbers[test.left]
            assert judged(claim, numbers).verdict == "open"


def test_an_absent_table_is_named(claim, tmp_path):
    samples = next(j for j in scorecard(tmp_path).judgements if j.claim.id == claim.id)
    assert samples.verdict == "not measurable"
    assert samples.why == (
        f"Not measurable on this profile (notebook {claim.table[:2]} not run: {claim.table}.csv is missing)."
    )


def test_every_published_number_belongs_to_a_claim():
    covered = {key for claim in load_claims() for key in claim.published_ids()}
    assert covered == set(published())
    names = [claim.id for claim in load_claims()]
    assert len(set(names)) == len(names) and {claim.table for claim in load_claims()} <= {
        rule.table for rule in read_declared(RULES, Rule)
    }


def test_committed_tables_hold_every_number_the_claims_ask_for():
    quantities = read_quantities(MINI)
    present = ("02_scores", "04_jaccard", "04_patterns", "04_retrieval")
    wanted = {
        key
        for claim in load_claims()
        if claim.table in present
        for key in (*claim.quantities(), *claim.show.values(), *claim.control.values())
    }
    elsewhere = ("sweep/", "retrieval/baseline/")  # written by notebooks 03 and 05
    assert {key for key in wanted if not key.startswith(elsewhere)} <= set(quantities.samples)
    for claim in load_claims():
        if claim.table not in quantities.missing:
            assert "#cell-id=" in link(claim.table)


def test_the_card_as_tables_page_and_figure():
    card = scorecard(MINI)
    table, numbers = score_table(card), number_table(card)
    assert len(table) == len(load_claims()) and sum(card.counts().values()) == len(table)
    mixed = numbers.set_index("id").loc["patterns/local_lambda1/mixed_2_of_3"]
    assert mixed["authors' notebooks"] == pytest.approx(3995 / 8192) and mixed.low <= mixed.here <= mixed.high
    assert numbers.claim.notna().all() and len(numbers) == len(published())
    page = markdown(card, "mini")
    assert page.count("\n| ") == len(table) + table.group.nunique() and all(
        name in page for name in table.group
    )
    file = save_markdown(page, "mini")
    assert file.name == "scorecard.md" and file.read_text() == page and len(list(file.parent.iterdir())) == 1
    ax = verdict_chart(plots.plt.figure().subplots(), card)
    assert [label.get_text() for label in ax.get_yticklabels()] == [claim.name for claim in load_claims()]
    first = str(decisive(card.judgements[0].conditions, card.judgements[0].controls))
    assert first in page and first in [text.get_text().replace("\n", " ") for text in ax.texts]


def test_a_line_of_the_page_shows_the_published_number_in_brackets():
    page = markdown(scorecard(MINI), "mini")
    (line,) = [line for line in page.splitlines() if "| The shared gate aligns concepts |" in line]
    assert "[0.80]" in line and " to " not in line


def test_published_counts_become_shares_and_other_numbers_stay():
    assert published_value("patterns/global_lambda1/dead/dino") == 1280 / 8192
    assert published_value("patterns/global_lambda0/mixed_1_of_3") == 2 / 8192
    assert published_value("patterns/local_lambda1/mixed_share") == 0.488
    assert published_value("retrieval/open_images/raw_clip/img_to_txt/MedR") == 79


def test_link_without_notebook_or_cell(monkeypatch, tmp_path):
    monkeypatch.setenv("SPARC_NOTEBOOKS", str(tmp_path))
    assert link("06_segmentation") == "notebook 06"


FAULTS = {
    "unknown field": ({"verdict": "holds"}, "entry 'jaccard_order', field verdict: Unexpected"),
    "no text": ({"control": {"a": None}}, "field control.a: Input should be a valid string"),
    "no condition": ({"conditions": []}, "field conditions: List should have at least 1 item"),
    "other condition": (
        {"conditions": [{"left": "a", "is": "above"}]},
        "field conditions.0.relation: Field required",
    ),
    "relation": (
        {"controls": [{"left": "a", "relation": "over", "right": 0, "says": "", "fails": ""}]},
        "field controls.0.relation: Input should be 'above', 'below' or 'near'",
    ),
    "not a number": (
        {"controls": [{"left": "a", "relation": "above", "right": float("nan"), "says": "", "fails": ""}]},
        "field controls.0.right",
    ),
    "pattern": ({"published": ["jaccard/typo"]}, "field published: 'jaccard/typo' matches no id"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_the_claims_file_are_named(tmp_path, fault):
    change, message = FAULTS[fault]
    raw = yaml.safe_load(CLAIMS.read_text("utf-8"))[:1]
    raw[0].update(change)
    file = tmp_path / "claims.yaml"
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(ValueError, match=message) as error:
        load_claims(file)
    assert str(file) in str(error.value)


def test_all_faults_of_a_file_are_named_at_once(tmp_path):
    raw = yaml.safe_load(CLAIMS.read_text("utf-8"))[:2]
    raw[0]["name"] = 3
    del raw[1]["note"]
    file = tmp_path / "claims.yaml"
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(
        ValueError, match="'jaccard_order', field name: .*'jaccard_depth', field note: Field required"
    ):
        load_claims(file)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"version https://git-lfs.github.com/spec/v1", "cannot be read"),
        (b'[{"id": "a", "value": 0.5', "cannot be read"),
        (b"\xff\xfe[]", "cannot be read"),
        (b"{}", "no list of entries"),
        (
            b'[{"id": "a", "value": "0.5"}]',
            "entry 'a', field group: Field required; .*entry 'a', field value",
        ),
        (b'["a"]', "entry number 1: "),
    ],
)
def test_broken_published_numbers_are_named_with_their_file(tmp_path, content, message):
    file = tmp_path / "published_results.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        published(file)
    assert str(file) in str(error.value)


def test_an_id_that_is_declared_twice_is_refused(tmp_path):
    raw = yaml.safe_load(CLAIMS.read_text("utf-8"))[:1]
    file = tmp_path / "claims.yaml"
    file.write_text(yaml.safe_dump(raw + raw))
    with pytest.raises(ValueError, match="jaccard_order: declared twice"):
        load_claims(file)


# ------------------------------------------------- tables to quantities


def write(folder, name, columns, rows):
    pd.DataFrame(rows, columns=columns.split()).to_csv(folder / f"{name}.csv", index=False)


def test_tradeoff_takes_extremes_over_streams_and_pairs_by_seed(tmp_path):
    rows = [
        ("trained", setting, seed, coding, "nmse", kind, source, target, base + 0.1 * seed + step)
        for setting, base in (("global_lambda1", 0.5), ("local_lambda1", 0.3))
        for seed in (0, 1)
        for coding in ("joint", "independent")
        for kind, source, target, step in (
            ("self", "a", "a", 0),
            ("self", "b", "b", 0.05 * (base == 0.5)),
            ("cross", "a", "b", -0.4 * (base == 0.5)),
            ("cross", "b", "a", 0),
        )
    ]
    write(tmp_path, "02_scores", "run setting seed coding metric kind source target value", rows)
    samples = read_quantities(tmp_path).samples
    assert samples["tradeoff/self_nmse_penalty_low"].values == pytest.approx((0.2, 0.2))
    assert samples["tradeoff/self_nmse_penalty_high"].values == pytest.approx((0.25, 0.25))
    assert samples["tradeoff/cross_nmse_gain_low"].values == pytest.approx((-0.2, -0.2))
    assert samples["tradeoff/cross_nmse_gain_high/independent"].values == pytest.approx((0.2, 0.2))


def test_sweeps_probes_and_protocols(tmp_path):
    write(
        tmp_path,
        "03_trends",
        "statistic parameter metric coding gate seed value",
        [("trend", "k", "cross_nmse", "joint", "global", s, -1 + 0.2 * s) for s in (0, 1)]
        + [("share reached at 1", "cross_weight", "cross_nmse", "joint", "local", 0, 0.95)],
    )
    write(
        tmp_path,
        "03_runs",
        "model gate cross_weight k n_latents seed coding metric value",
        [
            ("trained", g, w, 4, 16, 0, "joint", "self_nmse", v)
            for w in (0, 1)
            for g, v in (("global", 0.5 + w), ("local", 0.4))
        ],
    )
    write(
        tmp_path,
        "04_latent_probes",
        "model setting seed stream coding select_on loss n_classes",
        [
            ("trained", "global_lambda1", seed, stream, coding, on, 0.5 + 0.1 * seed, 9)
            for seed in (0, 1)
            for stream in ("dino", "clip_txt")
            for coding, on in (("joint", "all"), ("joint", "train"), ("independent", "train"))
        ],
    )
    write(
        tmp_path,
        "05_retrieval",
        "model setting seed kind coding protocol query reference recall_1",
        [
            ("trained", "global_lambda1", 0, "codes", coding, "joined", *pair, r)
            for coding, extra in (("independent", 0), ("joint", 0.9))
            for pair, r in (
                (("clip_txt", "clip_img"), 0.2 + extra),
                (("clip_img", "clip_txt"), 0.4 + extra),
                (("dino", "clip_txt"), 0),
            )
        ],
    )
    write(
        tmp_path,
        "05_baselines",
        "model seed kind query reference recall_1",
        [
            ("trained", 0, "ridge", "clip_txt", "clip_img", 0.2),
            ("trained", 0, "ridge", "clip_img", "clip_txt", 0.4),
            ("trained", 0, "ridge", "dino", "clip_img", 0.9),
            ("random encoders", 0, "ridge", "clip_img", "clip_txt", 0.9),
        ],
    )
    samples = read_quantities(tmp_path).samples
    assert samples["retrieval/baseline/ridge/R@1"].values == pytest.approx((0.3,))
    assert samples["sweep/trend/k/cross_nmse/joint/global"].values == pytest.approx((-1, -0.8))
    assert samples["sweep/share_reached_at_1/cross_weight/cross_nmse/joint/local"].values == (0.95,)
    assert samples["sweep/self_nmse_penalty_low"].values == pytest.approx((0.1,))
    assert samples["probe/global_lambda1/dino"].values == pytest.approx((0.5, 0.6))
    assert {f"probe/global_lambda1/mean{end}" for end in ("", "/train", "/independent")} <= set(samples)
    assert samples["retrieval/global_lambda1/joined/R@1"].values == pytest.approx((0.2,))  # captions ask


def test_heatmaps_by_target_stream_and_control(tmp_path):
    write(
        tmp_path,
        "06_segmentation",
        "group target stream setting coding seed map20 iou contrast",
        [
            ("SPARC", "sum of latents", "dino", "global_lambda1", "independent", 0, 0.2, 0.1, 0.01),
            ("SPARC", "caption", "clip_img", "global_lambda1", "independent", 0, 0.3, 0.1, 0.02),
            ("SPARC", "caption", "clip_img", "global_lambda1", "joint", 0, 0.9, 0.9, 0.9),
            ("baseline", "CLIP similarity", "clip_img", "", "", 0, 0.4, 0.15, 0.03),
            ("control", "centred Gaussian", "", "", "", 0, 0.1, 0.05, None),
            ("control", "wrong caption", "dino", "global_lambda1", "independent", 0, 0.1, 0.1, 0),
            ("control", "wrong caption", "dino", "local_lambda1", "independent", 0, 0.9, 0.9, 0.9),
            ("reference", "patch classifier", "clip_img", "", "", 0, 0.6, 0.5, 0.4),
        ],
    )
    samples = {key: sample.mean for key, sample in read_quantities(tmp_path).samples.items()}
    assert samples == pytest.approx(
        {
            **{
                f"segmentation/global_lambda1/latents/{target}/{measure}": value
                for target, values in (("dino_sum", (0.2, 0.1, 0.01)), ("clip_cross", (0.3, 0.1, 0.02)))
                for measure, value in zip(("mAP20", "mIoU", "contrast"), values)
            },
            **{
                f"segmentation/baseline/{name}/{part}{measure}": value
                for part in ("", "clip/")
                for name, values in (("clip_similarity", (0.4, 0.15, 0.03)), ("detr", (0.6, 0.5, 0.4)))
                for measure, value in zip(("mAP20", "mIoU", "contrast"), values)
            },
            **{
                f"segmentation/control/wrong/dino/{measure}": value
                for measure, value in (("mAP20", 0.1), ("mIoU", 0.1), ("contrast", 0))
            },
            "segmentation/control/gaussian/none/mAP20": 0.1,
            "segmentation/control/gaussian/none/mIoU": 0.05,
        }
    )


def test_a_table_of_another_shape_is_named(tmp_path):
    write(tmp_path, "04_patterns", "model setting share", [("trained", "global_lambda1", 0.5)])
    with pytest.raises(ValueError, match=r"04_patterns\.csv: it lacks .*'coding'.*; run notebook 04"):
        read_quantities(tmp_path)


def test_settings_are_known_by_gate_and_weight(tmp_path):
    """A profile may call its settings anything."""
    columns = "model setting seed coding pattern n_latents share"
    patterns = ("all alive", "all dead", "1 of 3", "2 of 3", "dead in dino", "dead in clip_txt")
    rows = [("trained", "mine", seed, "joint", name, 1, 0.1) for seed in (0, 1) for name in patterns]
    write(tmp_path, "04_patterns", columns, rows)
    settings = [Setting("mine", "local", 0.5), Setting("other", "global", 1.0)]
    samples = read_quantities(tmp_path, settings).samples
    assert samples["patterns/local_lambda0.5/all_alive"].values == (0.1, 0.1)
    assert samples["patterns/local_lambda0.5/mixed"].values == (0.2, 0.2)
    assert samples["patterns/local_lambda0.5/dead_range"].values == (0, 0)
    assert not any("mine" in key for key in samples)


def test_rules_of_quantities_are_checked_field_by_field(tmp_path):
    file = tmp_path / "quantities.yaml"
    file.write_text("- {id: a, table: b, value: c, filter: d, of: median}")
    with pytest.raises(
        ValueError, match="quantities.yaml: .*'a', field of: .*'mean'.*'a', field filter: Unexpected"
    ):
        read_declared(file, Rule)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("q.yaml", "- {id: a, table: x, table: y, value: z}", "field table is given twice"),
        ("q.json", '[{"id": "a", "table": "x", "table": "y", "value": "z"}]', "field table is given twice"),
        ("q.yaml", "[" * 3000, "recursion"),
        ("q.yaml", "&a [*a]", "ircular"),
        ("q.yaml", "- {id: a, table: 2020-01-01, value: z}", "date"),
    ],
)
def test_declarations_that_would_be_misread_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name}: it cannot be read .*{message}"):
        read_declared(tmp_path / name, Rule)


@pytest.mark.parametrize("content", ["", 'a,b\n"1'])
def test_an_unreadable_table_is_named(tmp_path, content):
    table = read_declared(RULES, Rule)[0].table
    (tmp_path / f"{table}.csv").write_text(content)
    with pytest.raises(ValueError, match=f"{table}.csv: no table .*run notebook {table[:2]} again"):
        read_quantities(tmp_path)
