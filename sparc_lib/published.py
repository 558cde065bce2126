"""What the authors publish of a trained model: `msae_checkpoint.pth` and `run_config.json`, checked."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .inputs import real_numbers, whole_number

KEYS = {  # ours -> the authors', of one stream
    "encoder": "encoders.{}.weight",
    "decoder": "decoders.{}.weight",
    "pre_bias": "pre_biases.{}",
    "latent_bias": "latent_biases.{}",
    "steps_since_active": "stats_last_nonzero_{}",
}


def read_checkpoint(source: Mapping[str, Tensor] | str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, a path or its contents; no code is run. ValueError for anything else."""
    where = "checkpoint"
    if isinstance(source, str | Path):
        where = f"checkpoint {source}"
        try:
            source = torch.load(source, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise
        except Exception as error:  # a cut file, a pointer of Git LFS, objects that are no tensors
            kind = type(error).__name__
            raise ValueError(
                f"{where}: no tensors can be read from it ({kind}); download it again"
            ) from error
    if not isinstance(source, Mapping):
        raise ValueError(f"{where}: holds a {type(source).__name__}; pass that of msae_checkpoint.pth")
    return dict(source)


def read_run_config(source: Mapping[str, Any] | str | Path, gate: str | None) -> dict[str, Any]:
    """The settings of a run, a path or its contents, with the gate under 'topk_type' and the order of the
    streams, where it is known, under 'order'. Raises ValueError that names the key at fault.
    """
    where = "run_config.json"
    if isinstance(source, str | Path):
        where = str(source)
        try:
            source = json.loads(Path(source).read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not valid JSON ({error}); pass the authors' file") from error
    run = source.get("args", source) if isinstance(source, Mapping) else source
    if not isinstance(run, Mapping):
        raise ValueError(f"{where}: holds no mapping of settings; pass the authors' file")
    run = dict(run)
    if gate is not None and run.setdefault("topk_type", gate) != gate:
        raise ValueError(f"{where}: 'topk_type' is {run['topk_type']!r}, not {gate!r}; omit gate")
    for key in ("n_latents", "k", "topk_type"):
        if key not in run:
            remedy = "pass gate='global' or 'local'" if key == "topk_type" else "pass the authors' file"
            raise ValueError(f"{where}: no {key!r}; {remedy}")
    run = {"auxk": 64, "dead_steps_threshold": 1000} | run
    for key in ("n_latents", "k", "auxk", "dead_steps_threshold"):
        if (key, run[key]) != ("auxk", None):  # null switches AuxK off
            whole_number(run[key], f"{where}: {key!r}")
    files = (source.get("config_file_content") or {}).get("train_stream_feature_files")
    return run | {"order": list(files or ())}


def stream_names(checkpoint: Mapping[str, Tensor], order: list[str]) -> list[str]:
    """The streams of a checkpoint, those of `order` first. Raises ValueError if there is none."""
    matches = (re.fullmatch(r"encoders\.(.+)\.weight", str(key)) for key in checkpoint)
    names = [match[1] for match in matches if match]
    if not names:
        raise ValueError("checkpoint: no 'encoders.<stream>.weight'; pass that of msae_checkpoint.pth")
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def tensor(checkpoint: Mapping[str, Tensor], field: str, name: str) -> Tensor:
    """A stream's tensor `field`, laid out as ours. ValueError if it is missing or cannot be that."""
    key = KEYS[field].format(name)
    if checkpoint.get(key) is None:
        raise ValueError(f"checkpoint: no {key!r}; it is incomplete or not one of the authors'")
    value = torch.as_tensor(real_numbers(checkpoint[key], f"checkpoint: {key!r}"))
    dimensions = 2 if field in ("encoder", "decoder") else 1
    if value.ndim != dimensions:
        raise ValueError(f"checkpoint: {key!r} has shape {list(value.shape)}, not {dimensions} dimensions")
    if field == "steps_since_active" and not torch.equal(value.long().to(value.dtype), value):
        raise ValueError(
            f"checkpoint: {key!r} holds fractions or NaN, not numbers of steps; download it again"
        )
    return value.T if field == "decoder" else value  # theirs is [d, L]
