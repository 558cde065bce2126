"""Measure the shipped mini encoders and write their cards: ``python -m sparc_lib.miniworld.encoders.card``.

Every number is measured on test scenes that no training has seen, beside the same network with random
weights.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import open_clip
import torch
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from ...paths import WEIGHTS
from . import train_clip, train_dino

TEST_SCENES = 1000
# What the encoders are meant to reach (None: no bar); the card says whether they do.
BARS = {
    "clip": {"image_to_text_r1": 0.30, "oracle_share": 0.50, "probe_map": 0.45},
    "dino": {"probe_map": 0.35, "probe_map_above_random": 0.15},
}


def clip_scores(
    folder: Path = WEIGHTS / "clip", random_weights: bool = False, split: str = "test"
) -> dict[str, float]:
    """Scores of the shipped CLIP, or of its architecture with random weights, on 1,000 scenes of a split."""
    torch.manual_seed(0)
    model = open_clip.create_model(
        f"local-dir:{folder}", load_weights=not random_weights, require_pretrained=not random_weights
    )
    return train_clip.scores(model, open_clip.get_tokenizer(f"local-dir:{folder}"), split, TEST_SCENES)


def dino_scores(
    folder: Path = WEIGHTS / "dino", random_weights: bool = False, split: str = "test"
) -> dict[str, float]:
    """Scores of the shipped DINO, or of its architecture with random weights, on 1,000 scenes of a split."""
    torch.manual_seed(0)
    model = (
        Dinov2WithRegistersModel(Dinov2WithRegistersConfig.from_pretrained(folder))
        if random_weights
        else Dinov2WithRegistersModel.from_pretrained(folder)
    )
    return train_dino.scores(model.float(), split, TEST_SCENES)


def write_card(name: str, shipped: dict[str, float], random: dict[str, float], folder: Path) -> dict:
    """Write ``card.json`` and ``CARD.md`` into ``folder`` and return the former's content."""
    with open(folder / "training_log.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    module = {"clip": train_clip, "dino": train_dino}[name]
    measured = shipped | ({"probe_map_above_random": shipped["probe_map"] - random["probe_map"]})
    bars = {
        key: {"bar": bar, "measured": measured[key], "met": measured[key] >= bar}
        for key, bar in BARS[name].items()
    }
    card = {
        "encoder": name,
        "command": f"python -m {module.__name__}",
        "seed": module.SEED,
        "steps": int(last["step"]),
        "images": int(last["images"]),
        "minutes": float(last["minutes"]),
        "megabytes": sum(f.stat().st_size for f in folder.glob("*.safetensors")) / 1e6,
        "test_scenes": TEST_SCENES,
        "scores": shipped,
        "scores_random_weights": random,
        "bars": bars,
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    lines = [
        f"# Mini encoder `{name}`",
        "",
        module.__doc__.strip(),
        "",
        f"Trained for {card['steps']} steps ({card['images']} images, {card['minutes']:.0f} minutes of wall "
        f"time on a shared CPU) with seed {card['seed']} on scenes of the world's `encoder` split, which "
        "shares no scene with train, val or test. Log: `training_log.csv`. "
        f"Anew: `{card['command']}`.",
        "",
        f"Measured on {TEST_SCENES} test scenes (`python -m sparc_lib.miniworld.encoders.card`):",
        "",
        "| score | shipped | random weights |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {key} | {value:.3f} | {random[key]:.3f} |" for key, value in shipped.items()]
    lines += ["", "| aim | bar | measured | met |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {key} | {b['bar']:.2f} | {b['measured']:.3f} | {'yes' if b['met'] else 'no'} |"
        for key, b in bars.items()
    ]
    (folder / "CARD.md").write_text("\n".join(lines) + "\n")
    return card


def main() -> None:
    for name, scores in (("clip", clip_scores), ("dino", dino_scores)):
        print(json.dumps(write_card(name, scores(), scores(random_weights=True), WEIGHTS / name), indent=1))


if __name__ == "__main__":
    main()
