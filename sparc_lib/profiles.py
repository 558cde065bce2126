"""Profiles: one YAML file per experiment size, read strictly into frozen dataclasses."""

import dataclasses
import difflib
import os
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from . import paths
from .profile_files import ProfileError, available, file_of

Gate = Literal["global", "local"]


@dataclass(frozen=True)
class DataSpec:
    kind: Literal["miniworld", "coco", "open_images"]
    train: int | None  # scenes (miniworld) or images per split; null takes the whole split
    val: int | None
    test: int | None
    seed: int  # of the miniature world; a subsample of a real data set uses it too
    max_samples: int | None  # cap on the pairs of each split; null keeps all
    control_train: int | None  # training scenes of the random-weight control; null takes as many as `train`


@dataclass(frozen=True)
class DinoSpec:
    source: str  # Hugging Face id, or a folder inside the repository
    revision: str | None  # commit, tag or branch on the hub; null for a folder
    resize: int  # shorter side before the centre crop, pixels
    image_size: int  # side of the centre crop, pixels

    @property
    def location(self) -> str:
        """What `from_pretrained` takes: an absolute folder for shipped weights, else the hub id."""
        return str(paths.REPO / self.source) if self.source.startswith("sparc_lib/") else self.source


@dataclass(frozen=True)
class ClipSpec:
    model: str  # open_clip name, or `local-dir:` and a folder inside the repository
    pretrained: str | None  # open_clip tag; null for a folder
    revision: str | None
    image_size: int

    @property
    def location(self) -> str:
        """What `open_clip.create_model_and_transforms` takes as its model name."""
        scheme, _, folder = self.model.partition(":")
        return f"{scheme}:{paths.REPO / folder}" if scheme == "local-dir" else self.model


@dataclass(frozen=True)
class EncoderSpec:
    dino: DinoSpec
    clip: ClipSpec
    batch_size: int  # images per forward pass
    precision: Literal[
        "float32", "bfloat16", "float16"
    ]  # of the forward pass; features are stored as float16


@dataclass(frozen=True)
class SparcSpec:
    n_latents: int  # L
    k: int
    k_aux: int
    gate: Gate
    cross_weight: float  # λ
    aux_weight: float  # α
    batch_size: int
    epochs: int
    learning_rate: float
    schedule: Literal["constant", "cosine"]
    dead_after: int  # steps without z > 1e-3
    redraw_every: int | None  # steps; null never re-draws dead latents
    precision: Literal["float32", "bfloat16"] = (
        "float32"  # of the dense product in training; weights stay float32
    )


@dataclass(frozen=True)
class Setting:
    name: str
    gate: Gate
    cross_weight: float


@dataclass(frozen=True)
class EvaluationSpec:
    retrieval_pool: int | None  # test pairs searched; null takes all
    top_n: int  # activations per latent in the top-n readings
    taxonomy_depths: tuple[int, ...]
    probe_min_positives: int  # a class needs more than this many
    null_repeats: int  # label permutations behind every chance level
    heatmap_images: int
    classifier_steps: int | None = None  # the least that a downstream classifier is trained; null: as usual


@dataclass(frozen=True)
class AblationSpec:
    """Values swept one at a time around the profile's own, which is always among them."""

    epochs: int  # of every run of the sweep, the headline settings' included
    test_samples: int | None  # test pairs that are measured; null takes all
    cross_weights: tuple[float, ...]  # λ
    k: tuple[int, ...]
    n_latents: tuple[int, ...]  # L
    seeds: tuple[int, ...]  # the headline settings take the profile's seeds instead


@dataclass(frozen=True)
class Profile:
    name: str
    description: str
    data: DataSpec
    encoders: EncoderSpec
    sparc: SparcSpec
    settings: tuple[Setting, ...]  # the headline comparison: gate x λ
    seeds: tuple[int, ...]
    evaluation: EvaluationSpec
    ablations: AblationSpec
    notebooks_at_once: int = 1  # that run_all.sh runs side by side
    drafts: bool = False  # figures to look at, not to print: their PDFs are made faster

    def sparc_for(self, setting: Setting | str) -> SparcSpec:
        """The training specification of one headline setting, given itself or its name."""
        if isinstance(setting, str):
            known = {s.name: s for s in self.settings}
            if setting not in known:
                raise ProfileError(
                    f"profile {self.name}: no setting {setting!r}; choose one of {', '.join(known)}"
                )
            setting = known[setting]
        return dataclasses.replace(self.sparc, gate=setting.gate, cross_weight=setting.cross_weight)


def load_profile(name: str | None = None) -> Profile:
    """The profile called `name`, else the one $SPARC_PROFILE names, else `mini`. Raises ProfileError."""
    name = name or os.environ.get("SPARC_PROFILE") or "mini"
    if name not in available():
        raise ProfileError(
            f"{paths.PROFILES}: there is no profile {name!r}; choose one of {', '.join(available())}, or "
            "give run_all.sh the path of a YAML file"
        )
    return read_profile(file_of(name))


def read_profile(file: Path) -> Profile:
    """Read and validate one YAML file. Raises ProfileError."""
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ProfileError(
            f"{file}: cannot be read as YAML ({error}); restore it from version control"
        ) from error
    try:
        profile = _build(Profile, raw, "")
        _validate(profile, file.stem)
    except ProfileError as error:
        raise ProfileError(f"{file}: {error}") from None
    return profile


def _build(kind: typing.Any, raw: typing.Any, field: str) -> typing.Any:
    """Turn plain YAML into `kind`, refusing what does not fit exactly."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(raw, dict):
            raise ProfileError(f"{field or 'the file'} must be a mapping, got {raw!r}; see mini.yaml")
        hints, prefix = typing.get_type_hints(kind), f"{field}." if field else ""
        for key in raw:
            if key not in hints:
                close = difflib.get_close_matches(str(key), hints, 1)
                raise ProfileError(
                    f"unknown field {prefix}{key}; "
                    + (f"did you mean {close[0]}?" if close else f"known: {', '.join(hints)}")
                )
        for key, hint in hints.items():
            if key not in raw and not hasattr(kind, key):  # a default is an attribute of the class
                raise ProfileError(
                    f"field {prefix}{key} is missing; add it ({_describe(hint)}), as mini.yaml has it"
                )
        return kind(
            **{key: _build(hint, raw[key], prefix + key) for key, hint in hints.items() if key in raw}
        )
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:  # the only unions are `X | None`
        return None if raw is None else _build(arguments[0], raw, field)
    if origin is tuple:
        if not isinstance(raw, list) or not raw:
            raise ProfileError(f"field {field} must be a non-empty list, got {raw!r}")
        return tuple(_build(arguments[0], item, f"{field}[{i}]") for i, item in enumerate(raw))
    if origin is Literal:
        fits = raw in arguments
    elif kind is float:
        fits = type(raw) in (int, float)
    else:
        fits = type(raw) is kind  # `type`, because True is an int to isinstance
    if not fits:
        hint = " (YAML reads 1e-4 as text: write 1.0e-4)" if kind is float and isinstance(raw, str) else ""
        raise ProfileError(f"field {field} must be {_describe(kind)}, got {raw!r}{hint}")
    return float(raw) if kind is float else raw


def _describe(kind: typing.Any) -> str:
    if dataclasses.is_dataclass(kind):
        return "a mapping"
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return f"{_describe(arguments[0])} or null"
    if origin is Literal:
        return "one of " + ", ".join(arguments)
    if origin is tuple:
        return "a list"
    return {int: "an integer", float: "a number", str: "text", bool: "true or false"}[kind]


def _validate(profile: Profile, stem: str) -> None:
    data, sparc, evaluation, sweep = profile.data, profile.sparc, profile.evaluation, profile.ablations
    names = [setting.name for setting in profile.settings]
    positive = {
        "data.train": data.train,
        "data.val": data.val,
        "data.test": data.test,
        "data.max_samples": data.max_samples,
        "encoders.batch_size": profile.encoders.batch_size,
        "sparc.n_latents": sparc.n_latents,
        "sparc.k": sparc.k,
        "sparc.batch_size": sparc.batch_size,
        "sparc.epochs": sparc.epochs,
        "sparc.learning_rate": sparc.learning_rate,
        "sparc.dead_after": sparc.dead_after,
        "sparc.redraw_every": sparc.redraw_every,
        "evaluation.retrieval_pool": evaluation.retrieval_pool,
        "evaluation.top_n": evaluation.top_n,
        "evaluation.heatmap_images": evaluation.heatmap_images,
        "evaluation.classifier_steps": evaluation.classifier_steps,
        "notebooks_at_once": profile.notebooks_at_once,
        "ablations.epochs": sweep.epochs,
        "ablations.test_samples": sweep.test_samples,
        "ablations.k": min(sweep.k),
    }
    for field, value in positive.items():
        if value is not None and not value > 0:
            raise ProfileError(f"field {field} must be above 0, got {value}")
    demands = [
        (profile.name == stem, f"field name must be {stem!r}, as the file is called, got {profile.name!r}"),
        (
            sparc.k <= sparc.n_latents,
            f"field sparc.k must be at most sparc.n_latents ({sparc.n_latents}), got {sparc.k}",
        ),
        (
            0 <= sparc.k_aux <= sparc.n_latents,
            f"field sparc.k_aux must lie in 0 .. {sparc.n_latents}, got {sparc.k_aux}",
        ),
        (
            sparc.aux_weight >= 0
            and sparc.cross_weight >= 0
            and all(s.cross_weight >= 0 for s in profile.settings),
            "fields aux_weight and cross_weight must not be negative",
        ),
        (
            min(sweep.cross_weights) >= 0,
            f"field ablations.cross_weights must not be negative: {sweep.cross_weights}",
        ),
        (
            max(*sweep.k, sparc.k) <= min(*sweep.n_latents, sparc.n_latents),
            f"every k ({max(*sweep.k, sparc.k)}) must be at most every number of latents "
            f"({min(*sweep.n_latents, sparc.n_latents)}); see fields ablations.k and ablations.n_latents",
        ),
        (
            min(
                len({*sweep.cross_weights, sparc.cross_weight}),
                len({*sweep.k, sparc.k}),
                len({*sweep.n_latents, sparc.n_latents}),
            )
            >= 3,
            "fields ablations.cross_weights, k and n_latents need three values each, the section sparc's included",
        ),
        (len(set(sweep.seeds)) == len(sweep.seeds), f"field ablations.seeds has a seed twice: {sweep.seeds}"),
        (len(set(names)) == len(names), f"field settings has a name twice: {', '.join(names)}"),
        (len(set(profile.seeds)) == len(profile.seeds), f"field seeds has a seed twice: {profile.seeds}"),
        (
            data.kind != "miniworld" or None not in (data.train, data.val, data.test),
            "fields data.train, data.val and data.test need numbers: the miniature world is endless",
        ),
        (
            data.control_train is None or 0 < data.control_train <= (data.train or 0),
            f"field data.control_train must be null or a number up to data.train, got {data.control_train}",
        ),
    ]
    for holds, message in demands:
        if not holds:
            raise ProfileError(message)
