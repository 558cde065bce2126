"""Measure the mini encoders and write their cards: ``python -m sparc_lib.miniworld.encoders.card``.

Every number is measured on test scenes that no training has seen, beside the same network with random
weights. What was tried and what limits a score stands in ``NOTES.md`` beside the weights and is copied into
the card.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import open_clip
import pandas as pd
import torch
from transformers import AutoTokenizer, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from ...files import aside
from ...paths import WEIGHTS
from . import train_clip, train_dino
from .evaluate import clip_scores, dino_scores

TEST_SCENES, TRAIN_SCENES = 1000, 5000
MODULES = {"clip": train_clip, "dino": train_dino}
# What the encoders are meant to reach; the card says whether they do.
BARS = {
    "clip": {"share_of_bound": 0.65, "probe_map": 0.65, "patch_ap": 0.60, "rank": 30, "text_rank": 30},
    "dino": {"probe_map": 0.50, "probe_map_above_random": 0.25, "patch_ap": 0.60, "rank": 30},
}


def scores(name: str, folder: Path, random_weights: bool = False, split: str = "test") -> dict[str, float]:
    """All scores of the weights in a folder, or of their architecture with random weights, on a split."""
    torch.manual_seed(0)
    if name == "clip":
        given = not random_weights
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=given, require_pretrained=given)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return clip_scores(model.float(), tokenizer, split, TEST_SCENES, TRAIN_SCENES, full=True)
    if random_weights:
        model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig.from_pretrained(folder))
    else:
        model = Dinov2WithRegistersModel.from_pretrained(folder)
    return dino_scores(model.float(), split, TEST_SCENES, TRAIN_SCENES, full=True)


def write_card(name: str, folder: Path) -> dict:
    """Measure the weights in a folder; write ``card.json`` and ``CARD.md`` there.

    Return the former's content.
    """
    shipped, random = scores(name, folder), scores(name, folder, random_weights=True)
    last = pd.read_csv(folder / "training_log.csv").iloc[-1]
    measured = shipped | {"probe_map_above_random": shipped["probe_map"] - random["probe_map"]}
    bars = {
        key: {"bar": bar, "measured": measured[key], "met": measured[key] >= bar}
        for key, bar in BARS[name].items()
    }
    card = {
        "encoder": name,
        "command": f"python -m {MODULES[name].__name__}",
        "steps": int(last["step"]),
        "images": int(last["images"]),
        "minutes": float(last["minutes"]),
        "megabytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6,
        "test_scenes": TEST_SCENES,
        "scores": shipped,
        "scores_random_weights": random,
        "bars": bars,
    }
    notes = folder / "NOTES.md"
    text = _card_text(card) + (notes.read_text() if notes.exists() else "")
    for file_name, content in (("card.json", json.dumps(card, indent=1) + "\n"), ("CARD.md", text)):
        with aside(folder / file_name) as partial:
            partial.write_text(content)
    return card


def _card_text(card: dict) -> str:
    lines = [
        f"# Mini encoder `{card['encoder']}`",
        "",
        MODULES[card["encoder"]].__doc__.strip(),
        "",
        f"Trained for {card['steps']} steps ({card['images']} images, {card['minutes']:.0f} minutes of wall "
        "time) on scenes of the world's `encoder` split, which shares no scene with train, val or test. Log: "
        f"`training_log.csv`. Anew: `{card['command']}`.",
        "",
        f"Measured on {card['test_scenes']} test scenes (`python -m sparc_lib.miniworld.encoders.card`):",
        "",
        "| score | shipped | random weights |",
        "| --- | --- | --- |",
    ]
    for key, value in card["scores"].items():
        lines.append(f"| {key} | {value:.3f} | {card['scores_random_weights'][key]:.3f} |")
    lines += ["", "| aim | bar | measured | met |", "| --- | --- | --- | --- |"]
    for key, bar in card["bars"].items():
        met = "yes" if bar["met"] else "no"
        lines.append(f"| {key} | {bar['bar']:g} | {bar['measured']:.3f} | {met} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=WEIGHTS, help="parent of clip/ and dino/")
    parser.add_argument("--only", choices=MODULES, help="one of the two")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in [options.only] if options.only else MODULES:
        print(json.dumps(write_card(name, options.folder / name), indent=1))


if __name__ == "__main__":
    main()
