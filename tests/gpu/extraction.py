"""Feature extraction with the paper's encoders at random weights, from JPEG files, and what bounds it."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
from PIL import Image

from .sizes import Deadline, Sizes, milliseconds

# facebook/dinov2-with-registers-large and its preprocessing, as published.
DINO_LARGE = {
    "model_type": "dinov2_with_registers",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "mlp_ratio": 4,
    "image_size": 518,
    "patch_size": 14,
    "num_register_tokens": 4,
}
DINO_PREPROCESSING = {
    "size": {"shortest_edge": 256},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


class GeneratedPhotos:
    """Pairs of an image and a caption over a few JPEG files, in the interface that extraction expects."""

    name, split = "generated", "all"

    def __init__(self, paths: list[Path], n: int):
        self.paths = paths
        self.ids = [str(i) for i in range(n)]
        self.image_ids = self.ids
        self.captions = [f"In this image there is a picture with the number {i}." for i in range(n)]
        self.classes = ["picture"]
        self.labels = sp.csr_array(np.ones((n, 1), bool))

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, i: int) -> Image.Image:
        return Image.open(self.paths[i % len(self.paths)])


def write_jpegs(folder: Path, size: Sizes) -> list[Path]:
    """Smooth random pictures with some grain: they decode about as fast as photographs of their size."""
    generator = np.random.default_rng(0)
    paths = []
    width, height = size.image_size
    for number in range(size.image_files):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        grain = generator.integers(-12, 13, (height, width, 1))
        path = folder / f"{number}.jpg"
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(path, quality=88)
        paths.append(path)
    return paths


def encoders(folder: Path, size: Sizes, device: torch.device, precision: str):
    """DINOv2-with-registers ViT-L/14 and CLIP ViT-L/14 with random weights; tiny: those of the miniature
    world."""
    from sparc_lib.features.encoders import ClipEncoder, DinoEncoder
    from sparc_lib.paths import WEIGHTS

    options = {"random_weights": 0, "device": device, "precision": precision}
    if size.tiny:
        return DinoEncoder(WEIGHTS / "dino", **options), ClipEncoder(
            f"local-dir:{WEIGHTS / 'clip'}", **options
        )
    (folder / "config.json").write_text(json.dumps(DINO_LARGE))
    (folder / "preprocessor_config.json").write_text(json.dumps(DINO_PREPROCESSING))
    return DinoEncoder(folder, **options), ClipEncoder("ViT-L-14", **options)


def loading_rate(task, limit: float) -> float:
    """Images a second that the task's workers read, decode, preprocess for both encoders, and tokenise.

    Their start counts: of few images this is a lower bound.
    """
    from sparc_lib.features.loading import Batches, load_ahead

    size = task.batch_size
    groups = [task.images[start : start + size] for start in range(0, len(task.images), size)]
    dino, clip = task.dino, task.clip
    batches = Batches(task.dataset, dino.preprocess, clip.preprocess, clip.tokenizer, size, groups)
    begin, done = time.perf_counter(), 0
    for batch in load_ahead(batches, task.workers, pinned=dino.device.type == "cuda"):
        done += len(batch.readable)
        if time.perf_counter() - begin > limit:
            break
    return done / (time.perf_counter() - begin)


@torch.inference_mode()
def encoding_rate(features: Callable, inputs, device: torch.device, repeats: int) -> float:
    """Inputs a second of one tower, without reading them."""
    return 1e3 * len(inputs) / milliseconds(lambda: features(inputs), device, repeats, warm_up=2)


def run(size: Sizes, device: torch.device, deadline: Deadline) -> Iterator[dict]:
    """Images a second of loading, of each encoder and of the whole extraction, and which of them is the
    slowest."""
    from sparc_lib.features.extraction import Extraction, extract

    workers = min(16, os.cpu_count() or 1)
    repeats = size.timed_steps // 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = GeneratedPhotos(write_jpegs(folder, size), size.images)
        begin = time.perf_counter()
        pair = encoders(folder, size, device, "bfloat16")
        yield {"what": "encoders with random weights made", "s": time.perf_counter() - begin}
        task = Extraction(data, *pair, batch_size=size.encoder_batch, workers=workers, progress=False)
        loaded = loading_rate(task, 0.2 * deadline.left)
        yield {"what": f"JPEGs read and preprocessed, {workers} workers and their start", "per_s": loaded}
        image_rates = {}
        pixels = [torch.randn(size.encoder_batch, 3, *_side(one), device=device) for one in pair]
        for precision in ("float32", "bfloat16"):
            for one, x in zip(pair, pixels, strict=True):
                one.precision = precision
                kind = type(one).__name__
                rate = encoding_rate(one.image_features, x, device, repeats)
                image_rates[kind, precision] = rate
                yield {"what": f"{kind}, images on the device", "precision": precision, "per_s": rate}
        captions = data.captions[: size.encoder_batch]
        rate = encoding_rate(pair[1].text_features, captions, device, repeats)
        yield {"what": "ClipEncoder, captions, tokenizer included", "precision": "bfloat16", "per_s": rate}
        begin = time.perf_counter()
        extract(task, folder / "store")
        whole = len(data) / (time.perf_counter() - begin)
        yield {
            "what": "extract: JPEGs and captions to a store, with the workers' start",
            "precision": "bfloat16",
            "per_s": whole,
        }
        both = 1 / sum(1 / image_rates[kind, "bfloat16"] for kind in ("DinoEncoder", "ClipEncoder"))
        bounds = {"reading JPEGs": loaded, "the two image encoders": both}
        slowest = min(bounds, key=bounds.get)
        yield {
            "what": f"bound: {slowest}",
            "per_s": bounds[slowest],
            "share_reached": whole / bounds[slowest],
        }


def _side(encoder) -> tuple[int, int]:
    return tuple(encoder.preprocess(Image.new("RGB", (640, 480))).shape[1:])
