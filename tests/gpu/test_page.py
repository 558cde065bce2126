"""The results in the table of results/gpu/README.md are typed by hand; here they meet the reports."""

import json
import re

import pytest

from sparc_lib import paths

FOLDER = paths.REPO / "results" / "gpu"


def part_of(report, name):
    parts = json.loads((FOLDER / report / "report.json").read_text(encoding="utf-8"))["parts"]
    return next(part for part in parts if part["part"] == name)


def rows(report, part):
    return part_of(report, part)["rows"]


def row(report, part, **wanted):
    (only,) = (one for one in rows(report, part) if wanted.items() <= one.items())
    return only


def plain(**wanted):
    return row("kernel_by_kernel", "train_step", gate="global", precision="float32", **wanted)


def epoch(what, key="epoch_s"):
    return row("kernel_by_kernel", "epoch", what=what)[key]


def images(encoder, precision):
    what = f"{encoder}, images on the device"
    return row("kernel_by_kernel", "extraction", what=what, precision=precision)["per_s"]


def seconds(what):
    return row("kernel_by_kernel", "evaluation", what=what)["s"]


def graph(**wanted):
    return row("as_graphs", "captured_graph", precision="float32", **wanted)


def expected():
    """{how the row's first cell begins: the numbers of its two result cells, in order}."""
    none_dead, some_dead = (graph(form="train_step", gate="global", dead=share) for share in (0.0, 0.16))
    least = plain(form="encoder products and Adam alone", compiled=False)["ms"]
    dense, published = "dense, fused Adam", "dense, plain Adam (published)"
    syncs = [one["synchronisations"] for one in rows("kernel_by_kernel", "captured_graph")]
    ours = epoch("train_step, features on the device")
    return {
        "times that the host waits": [min(syncs), max(syncs), none_dead["synchronisations"]],
        "a step, global gate": [
            plain(form="train_step", compiled=False)["ms"],
            plain(form="train_step over the least")["ratio"],
            least,
            none_dead["graph_ms"],
            none_dead["over_the_least"],
            graph(form="encoder products and Adam alone")["graph_ms"],
            100 * some_dead["dead"],
            some_dead["graph_ms"],
            some_dead["over_the_least"],
        ],
        "the published dense step": [
            plain(form=published, compiled=False)["ms"],
            plain(form=dense, compiled=False)["ms"],
            plain(form=dense, compiled=True)["ms"],
        ],
        "an epoch, features on the card": [
            ours,
            epoch("published epoch over ours", "ratio"),
            epoch("train_step, features on the device", "steps_in_epoch"),
            none_dead["graph_ms"],
            epoch("train_step, features on the device", "steps_in_epoch") * none_dead["graph_ms"] / 1000,
        ],
        "an epoch, features streamed": [epoch("train_step, features streamed from the store")],
        "peak memory of training": [part_of("kernel_by_kernel", "epoch")["peak_device_gib"]],
        "the two ViT-L": [
            images("DinoEncoder", "bfloat16"),
            images("ClipEncoder", "bfloat16"),
            images("DinoEncoder", "float32"),
            images("ClipEncoder", "float32"),
        ],
        "126,020 samples": [
            seconds("encoded to sparse codes, three streams"),
            seconds("alignment, all activations"),
            seconds("retrieval by features"),
            seconds("retrieval by codes, 16 threads"),
        ],
    }


def printed(start):
    """The numbers, as they are typed, of the results of the row whose first cell starts so."""
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if line.startswith(f"| {start}"))
    cells = " ".join(line.split("|")[3:])
    cells = re.sub(r"bfloat16|float32", "", cells)
    return [number.replace(",", "") for number in re.findall(r"(?<![\w])(?:\d[\d,]*)?\.?\d+", cells)]


@pytest.mark.parametrize("start", list(expected()))
def test_a_row_of_the_page_says_what_the_reports_say(start):
    typed, measured = printed(start), expected()[start]
    assert len(typed) == len(measured)
    for text, value in zip(typed, measured):
        digits = len(text.partition(".")[2])
        assert float(text) == pytest.approx(value, abs=0.51 * 10**-digits), f"{start}: {text} for {value}"


def test_all_checks_held_and_the_page_says_how_many():
    counts = {"kernel_by_kernel": "all ten checks", "as_graphs": "all eleven"}
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    for report, words in counts.items():
        checks = rows(report, "checks")
        assert all(check["result"] == "ok" for check in checks) and words in page
        assert len(checks) == {"all ten checks": 10, "all eleven": 11}[words]
