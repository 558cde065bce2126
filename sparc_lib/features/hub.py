"""Find the files of a pretrained model: a local directory, a hub repository or an open_clip tag."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
import open_clip

CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def locate(
    place: str,
    files: tuple[str, ...],
    weights: tuple[str, ...],
    extras: tuple[str, ...],
    revision: str | None,
    offline: bool,
    cache_dir,
    need_weights: bool,
) -> tuple[Path, Path | None, str | None]:
    """(directory with the files, weight file, hub commit or None) of a local directory or a hub name."""
    commit, directory = None, Path(place).expanduser()
    if not directory.is_dir():
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", place):
            raise FileNotFoundError(f"{place}: no such directory (and no hub name like 'org/name')")
        try:
            directory = Path(
                huggingface_hub.snapshot_download(
                    place,
                    revision=revision,
                    cache_dir=cache_dir,
                    local_files_only=offline,
                    allow_patterns=[*files, *extras],
                )
            )
        except (OSError, ValueError) as error:
            raise _unavailable(place, files, revision, offline, error) from error
        commit = directory.name
    for name in files:
        if not (directory / name).exists():
            raise (
                FileNotFoundError(
                    f"{directory / name}: missing; the directory must hold {[*files, weights[0]]}"
                )
                if commit is None
                else _unavailable(place, (name,), revision, offline, None)
            )
    if not need_weights:
        return directory, None, commit
    if commit is not None:
        return directory, _hub_file(place, weights, commit, offline, cache_dir), commit
    found = [directory / name for name in weights if (directory / name).exists()]
    if not found:
        raise FileNotFoundError(
            f"{directory}: no weights, expected one of {list(weights)}; copy them there, or pass "
            "random_weights=SEED for a control"
        )
    return directory, found[0], None


def _hub_file(repo: str, names: Sequence[str], revision: str | None, offline: bool, cache_dir) -> Path:
    """The first of `names` that the hub repository (or its local cache) has."""
    for name in names:
        try:
            return Path(
                huggingface_hub.hf_hub_download(
                    repo, name, revision=revision, cache_dir=cache_dir, local_files_only=offline
                )
            )
        except (OSError, ValueError) as error:  # not there under this name: try the next
            last = error
    raise _unavailable(repo, names, revision, offline, last) from last


def _unavailable(
    repo: str, names: Sequence[str], revision: str | None, offline: bool, error
) -> FileNotFoundError:
    where = (
        "is not in the local cache (offline mode)"
        if offline
        else f"could not be fetched ({type(error).__name__})"
    )
    return FileNotFoundError(
        f"hub model '{repo}'{f' revision {revision}' if revision else ''}: {' or '.join(names)} {where}. "
        f"With a connection run once: hf download {repo}; or give a local directory instead"
    )


def tagged(
    model: str, pretrained: str | None, revision: str | None, offline: bool, cache_dir
) -> tuple[Path | None, str | None, dict]:
    """(weight file, hub commit or None, settings of the tag) of an open_clip model name and tag or file."""
    if open_clip.get_model_config(model) is None:
        raise ValueError(
            f"{model!r} is neither a directory nor an open_clip model name (open_clip.list_models())"
        )
    if pretrained is None:
        return None, None, {}
    if Path(pretrained).is_file():
        return Path(pretrained), None, {}
    tag = open_clip.get_pretrained_cfg(model, pretrained)
    if not tag:
        raise ValueError(
            f"{pretrained!r} is neither a file nor a tag of {model!r}; tags: "
            f"{open_clip.list_pretrained_tags_by_model(model)}"
        )
    settings = {
        "force_quick_gelu": bool(tag.get("quick_gelu")),
        "image_mean": tag["mean"],
        "image_std": tag["std"],
        "image_interpolation": tag["interpolation"],
        "image_resize_mode": tag["resize_mode"],
    }
    if tag["hf_hub"]:
        repo, _, file = tag["hf_hub"].rpartition("/")
        names = (Path(file).stem + ".safetensors", file) if file else CLIP_WEIGHTS
        path = _hub_file(repo, names, revision, offline, cache_dir)
        return path, path.parent.name, settings  # .../snapshots/<commit>/<file>
    if offline:
        raise FileNotFoundError(
            f"open_clip tag '{pretrained}' of '{model}' is a download from {tag['url']}: fetch it once with "
            "a connection and pass the file as `pretrained`"
        )
    return Path(open_clip.download_pretrained(tag, cache_dir=cache_dir)), None, settings
