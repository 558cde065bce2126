"""Find the files of a pretrained model: a local directory, a hub repository or an open_clip tag."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
import open_clip

from ..paths import offline


class ModelFiles(NamedTuple):
    """File names of a kind of model. weights: the first that is there is taken. extras: patterns, taken if
    there.
    """

    needed: tuple[str, ...]
    weights: tuple[str, ...]
    extras: tuple[str, ...] = ()


DINO_FILES = ModelFiles(
    ("config.json", "preprocessor_config.json"), ("model.safetensors", "pytorch_model.bin")
)
CLIP_FILES = ModelFiles(
    ("open_clip_config.json",),
    ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    ("tokenizer*.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
)


class Found(NamedTuple):
    """Where a model lies. directory: None for an open_clip name. weights: None if none are needed. commit: of
    the hub, None for local files. config: stands for all that shapes the features besides the weights.
    """

    directory: Path | None
    weights: Path | None
    commit: str | None
    config: str


def locate(place: str, files: ModelFiles, revision: str | None, need_weights: bool) -> Found:
    """The files of a local directory or a hub name; with `--offline` of the hub's cache alone.

    Raises FileNotFoundError that names what is missing and how to get it.
    """
    directory = Path(place).expanduser()
    if directory.is_dir():
        for name in files.needed:
            if not (directory / name).exists():
                raise FileNotFoundError(
                    f"{directory / name}: missing; the directory must hold "
                    f"{[*files.needed, files.weights[0]]}"
                )
        weights = [directory / name for name in files.weights if (directory / name).exists()]
        if need_weights and not weights:
            raise FileNotFoundError(
                f"{directory}: no weights, expected one of {list(files.weights)}; copy them there, or pass "
                "random_weights=SEED for a control"
            )
        return Found(directory, weights[0] if need_weights else None, None, _config_hash(directory, files))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", place):
        raise FileNotFoundError(f"{place}: no such directory (and no hub name like 'org/name')")
    patterns = [*files.needed, *files.extras]
    try:
        snapshot = huggingface_hub.snapshot_download(
            place, revision=revision, local_files_only=offline(), allow_patterns=patterns
        )
    except (OSError, ValueError) as error:
        raise _unavailable(place, files.needed, revision, error) from error
    directory = Path(snapshot)
    commit = directory.name  # .../snapshots/<commit>
    for name in files.needed:
        if not (directory / name).exists():
            raise _unavailable(place, (name,), revision, None)
    weights = _hub_file(place, files.weights, commit) if need_weights else None
    return Found(directory, weights, commit, commit)


def _config_hash(directory: Path, files: ModelFiles) -> str:
    """Hash of what lies beside local weights and shapes the features: configuration, preprocessing,
    tokenizer.
    """
    patterns = files.needed + files.extras
    paths = sorted({path for pattern in patterns for path in directory.glob(pattern)})
    text = json.dumps([[path.name, path.read_text()] for path in paths])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _hub_file(repo: str, names: Sequence[str], revision: str | None) -> Path:
    """The first of `names` that the hub repository (or its local cache) has."""
    for name in names:
        try:
            return Path(
                huggingface_hub.hf_hub_download(repo, name, revision=revision, local_files_only=offline())
            )
        except (OSError, ValueError) as error:  # not there under this name: try the next
            last = error
    raise _unavailable(repo, names, revision, last) from last


def _unavailable(repo: str, names: Sequence[str], revision: str | None, error) -> FileNotFoundError:
    model = f"hub model '{repo}'" + (f" revision {revision}" if revision else "")
    if offline():
        trouble = "is not in the local cache (offline mode)"
    else:
        trouble = f"could not be fetched ({type(error).__name__})"
    return FileNotFoundError(
        f"{model}: {' or '.join(names)} {trouble}. With a connection run once: hf download {repo}; or give a "
        "local directory instead"
    )


def tagged(model: str, pretrained: str | None, revision: str | None) -> tuple[Found, dict]:
    """An open_clip model name and what `create_model_and_transforms` must be told besides it.

    pretrained: a tag, or "TAG:FILE" for weights that are on this machine: a file alone does not say its
    activation, mean and resizing. A file that has the name of one published tag needs no TAG.
    """
    architecture = open_clip.get_model_config(model)
    if architecture is None:
        raise ValueError(
            f"{model!r} is neither a directory nor an open_clip model name (open_clip.list_models())"
        )
    config = hashlib.sha256(json.dumps(architecture).encode()).hexdigest()[:16]
    if pretrained is None:
        return Found(None, None, None, config), {}
    name, file = _tag_and_file(model, pretrained)
    tag = open_clip.get_pretrained_cfg(model, name)
    settings = {
        "force_quick_gelu": bool(tag.get("quick_gelu")),
        "image_mean": tag["mean"],
        "image_std": tag["std"],
        "image_interpolation": tag["interpolation"],
        "image_resize_mode": tag["resize_mode"],
    }
    if file is not None:
        return Found(None, file, None, config), settings
    if tag["hf_hub"]:
        repo, _, published = tag["hf_hub"].rpartition("/")
        names = (Path(published).stem + ".safetensors", published) if published else CLIP_FILES.weights
        path = _hub_file(repo, names, revision)
        return Found(None, path, path.parent.name, config), settings  # .../snapshots/<commit>/<file>
    if offline():
        raise FileNotFoundError(
            f"open_clip tag '{name}' of '{model}' is a download from {tag['url']}: fetch it once with a "
            f"connection and give it as '{name}:FILE'"
        )
    return Found(None, Path(open_clip.download_pretrained(tag)), None, config), settings


def _tag_and_file(model: str, pretrained: str) -> tuple[str, Path | None]:
    """(tag, file or None). Raises ValueError for a tag that the model has not and a file without a tag."""
    tags = open_clip.list_pretrained_tags_by_model(model)
    name, separator, file = pretrained.partition(":")
    if name in tags:
        if separator and not Path(file).is_file():
            raise FileNotFoundError(f"{file}: no such file; mend the path after '{name}:'")
        return name, Path(file) if separator else None
    if not Path(pretrained).is_file():
        raise ValueError(f"{pretrained!r} is neither a tag of {model!r} nor TAG:FILE; tags: {tags}")
    published = {tag: open_clip.get_pretrained_cfg(model, tag)["url"] for tag in tags}
    named = [tag for tag, url in published.items() if Path(url).name == Path(pretrained).name]
    if len(named) != 1:
        raise ValueError(
            f"{pretrained}: the file does not say with which activation, mean and resizing it was trained; "
            f"write TAG:{pretrained} with the tag it is published under, or one with the same settings: "
            f"{tags}"
        )
    return named[0], Path(pretrained)
