"""Profiles: one YAML file per experiment size, read into frozen dataclasses whose types hold the bounds."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from . import paths
from .yaml_files import fault_sentence, read_yaml

Gate = Literal["global", "local"]
PreBias = Literal["zero", "mean"]
StartRows = Literal["random", "data"]
Rival = Literal[  # what `studies.rivals` trains by other objectives, and what `studies.gates` fits
    "usae", "crosscoder", "group_sparse", "iso_energy", "even_use", "shared_private",
    "frozen_decoder", "frozen_encoder", "matched", "ridge", "procrustes", "cca", "cca_k", "raw_clip",
]  # fmt: skip
# Text stays text and true is no number; floats are finite.
Scenes = Annotated[int, Field(strict=True, ge=16, le=10**7)]
Images = Annotated[int, Field(strict=True, ge=2, le=10**7)]
Steps = Annotated[int, Field(strict=True, ge=1, le=10**8)]
Size = Annotated[int, Field(strict=True, ge=1, le=2**20)]
SizeOrZero = Annotated[int, Field(strict=True, ge=0, le=2**20)]
Few = Annotated[int, Field(strict=True, ge=1, le=1000)]
Depth = Annotated[int, Field(strict=True, ge=0, le=100)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
Weight = Annotated[float, Field(strict=True, ge=0, le=10**6)]
Rate = Annotated[float, Field(strict=True, gt=0)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Text = Annotated[str, Field(strict=True, min_length=1)]
Switch = Annotated[bool, Field(strict=True)]
SomeOf = Field(min_length=1)
# A name becomes a folder and a cell of CSV files, where 007, 1e3 and None would come back as something else.
Name = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=60)]
READ_AS_VALUES = {"na", "nan", "null", "none", "true", "false", "inf", "infinity"}
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


class ProfileError(ValueError):
    """A profile that cannot be used; the message names the file, every faulty field and the remedy."""


@dataclass(frozen=True, config=STRICT)
class DataSpec:
    kind: Literal["miniworld", "coco", "open_images"]
    train: Scenes | None  # scenes (miniworld) or images per split; null takes the whole split
    val: Images | None
    test: Images | None
    seed: Seed  # of the miniature world; a subsample of a real data set uses it too
    max_samples: Images | None  # cap on the pairs of each split of a real data set; null keeps all
    control_train: Scenes | None  # training scenes of the random-weight control; null takes `train`


@dataclass(frozen=True, config=STRICT)
class DinoSpec:
    source: Text  # Hugging Face id, or a folder inside the repository
    revision: Text | None  # commit, tag or branch on the hub; null for a folder
    resize: Size  # shorter side before the centre crop, pixels
    image_size: Size  # side of the centre crop, pixels

    @property
    def location(self) -> str:
        """What `from_pretrained` takes: an absolute folder for shipped weights, else the hub id."""
        return str(paths.REPO / self.source) if self.source.startswith("sparc_lib/") else self.source


@dataclass(frozen=True, config=STRICT)
class ClipSpec:
    model: Text  # open_clip name, or `local-dir:` and a folder inside the repository
    pretrained: Text | None  # open_clip tag; null for a folder
    revision: Text | None
    image_size: Size

    @property
    def location(self) -> str:
        """What `open_clip.create_model_and_transforms` takes as its model name."""
        scheme, _, folder = self.model.partition(":")
        return f"{scheme}:{paths.REPO / folder}" if scheme == "local-dir" else self.model


@dataclass(frozen=True, config=STRICT)
class EncoderSpec:
    dino: DinoSpec
    clip: ClipSpec
    batch_size: Size  # images per forward pass
    precision: Literal["float32", "bfloat16", "float16"]  # of the pass; features are stored as float16


@dataclass(frozen=True, config=STRICT)
class SparcSpec:
    n_latents: Size  # L
    k: Size
    k_aux: SizeOrZero
    gate: Gate
    cross_weight: Weight  # λ
    aux_weight: Weight  # α
    batch_size: Size
    epochs: Steps
    learning_rate: Rate
    schedule: Literal["constant", "cosine"]
    dead_after: Steps  # steps without z > 1e-3
    redraw_every: Steps | None  # steps; null never re-draws dead latents
    precision: Literal["float32", "bfloat16"] = "float32"  # of the dense product in training
    pre_bias: PreBias = "zero"  # before training; "mean" of the train features, see `start.py`
    rows: StartRows = "random"  # before training; "data": directions of train samples
    stream_dropout: Share = 0.0  # of the global gate's voters in training, see `gates.draw_voters`


@dataclass(frozen=True, config=STRICT)
class Setting:
    name: Name
    gate: Gate
    cross_weight: Weight
    stream_dropout: Share = 0.0  # chance that a stream has no vote on a training sample; global gate only
    voters: Literal["all", "one"] = "all"  # "one", drawn for each training sample, is stream dropout 1

    @property
    def dropout(self) -> float:
        """The stream dropout of training, however it was given."""
        return 1.0 if self.voters == "one" else self.stream_dropout


@dataclass(frozen=True, config=STRICT)
class EvaluationSpec:
    retrieval_pool: Images | None  # test pairs searched; null takes all
    top_n: Size  # activations per latent in the top-n readings
    taxonomy_depths: Annotated[tuple[Depth, ...], SomeOf]
    probe_min_positives: Size  # a class needs more than this many
    null_repeats: Few  # label permutations behind every chance level
    heatmap_images: Images
    classifier_steps: Steps | None = None  # the least that a downstream classifier is trained; null: as usual


@dataclass(frozen=True, config=STRICT)
class AblationSpec:
    """Values swept one at a time around the profile's own, which is always among them."""

    epochs: Steps  # of every run of the sweep, the headline settings' included
    test_samples: Images | None  # test pairs that are measured; null takes all
    cross_weights: Annotated[tuple[Weight, ...], SomeOf]  # λ
    k: Annotated[tuple[Size, ...], SomeOf]
    n_latents: Annotated[tuple[Size, ...], SomeOf]  # L
    seeds: Annotated[tuple[Seed, ...], SomeOf]  # the headline settings take the profile's instead


@dataclass(frozen=True, config=STRICT)
class GatesSpec:
    """Notebook 08: what stands beside the headline settings, at the L and k of the section sparc."""

    settings: tuple[Setting, ...]  # gates beyond the headline ones
    rivals: tuple[Rival, ...]
    seeds: Annotated[tuple[Seed, ...], SomeOf]
    epochs: Steps | None = None  # null: those of sparc, so that models are shared with the other notebooks


@dataclass(frozen=True, config=STRICT)
class Profile:
    name: Name
    description: Text
    data: DataSpec
    encoders: EncoderSpec
    sparc: SparcSpec
    settings: Annotated[tuple[Setting, ...], SomeOf]  # the headline comparison: gate x λ
    seeds: Annotated[tuple[Seed, ...], SomeOf]
    evaluation: EvaluationSpec
    ablations: AblationSpec
    gates: GatesSpec | None = None  # null: notebook 08 has nothing to compare
    notebooks_at_once: Few = 1  # that run_all.sh runs side by side
    drafts: Switch = False  # figures to look at, not to print: their PDFs are made faster

    def sparc_for(self, setting: Setting | str) -> SparcSpec:
        """The training part for a headline setting, given itself or by its name. Raises ProfileError."""
        if isinstance(setting, str):
            by_name = {each.name: each for each in self.settings}
            if setting not in by_name:
                choice = ", ".join(by_name)
                raise ProfileError(f"profile {self.name}: no setting {setting!r}; choose one of {choice}")
            setting = by_name[setting]
        changes = {"cross_weight": setting.cross_weight, "stream_dropout": setting.dropout}
        return replace(self.sparc, gate=setting.gate, **changes)


PROFILE = TypeAdapter(Profile)


def available() -> list[str]:
    """Names that `load_profile` takes."""
    return sorted({path.stem for folder in paths.profile_folders() for path in folder.glob("*.yaml")})


def named(given: str | None) -> str | None:
    """The name of a profile that is given by name or by the path of its YAML file, as options are.

    A path's folder becomes $SPARC_PROFILES, so that this process and those it starts find the profile by its
    name. Raises ProfileError if there is no such file, or if it has the name of a shipped profile, whose
    results lie where its own would go.
    """
    if given is None or not (given.endswith((".yaml", ".yml")) or "/" in given):
        return given
    if not given.endswith(".yaml"):
        raise ProfileError(f"{given}: the file of a profile ends in .yaml; give its path, or rename it")
    try:
        file = Path(given).expanduser().resolve()
    except RuntimeError as error:  # a home that is not there, links that run in a circle
        raise ProfileError(f"{given}: there is no such profile ({error}); mend the path") from None
    if not file.is_file():
        raise ProfileError(f"{file}: there is no such profile; mend the path")
    shipped = file.parent != paths.PROFILES.resolve() and (paths.PROFILES / file.name).exists()
    if shipped and paths.output_root() == paths.REPO:
        raise ProfileError(
            f"{file}: {file.stem!r} is a shipped profile, whose figures and tables this one would replace; "
            "give the file, and its field name, another name, or set $SPARC_OUTPUT"
        )
    os.environ["SPARC_PROFILES"] = str(file.parent)
    return file.stem


def option(name: str) -> str:
    """What `--profile` takes for a profile: its name, or the path if it is not in notebooks/profiles/."""
    own = paths.profile_folders()[0] / f"{name}.yaml"
    return str(own) if own.parent != paths.PROFILES and own.exists() else name


def load_profile(name: str | None = None) -> Profile:
    """The profile called `name`; None: the one $SPARC_PROFILE names, else `mini`. Raises ProfileError."""
    if name is None:
        name = os.environ.get("SPARC_PROFILE") or "mini"
    if name not in available():
        choice = f"{', '.join(available())}, or give run_all.sh the path of a YAML file"
        raise ProfileError(f"{paths.PROFILES}: there is no profile {name!r}; choose one of {choice}")
    files = [folder / f"{name}.yaml" for folder in paths.profile_folders()]
    return read_profile(next(file for file in files if file.exists()))


def read_profile(file: Path) -> Profile:
    """Read and validate one YAML file. Raises ProfileError, which lists all that is wrong with it."""
    try:
        raw = read_yaml(file)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ProfileError(f"{file}: cannot be read as YAML ({error}); restore or mend it") from error
    try:
        profile = PROFILE.validate_python(raw)
        faults = list(_contradictions(profile, file.stem))
    except ValidationError as error:
        sections = PROFILE.json_schema()["$defs"].values()
        fields = [name for section in sections for name in section["properties"]]
        faults = [fault_sentence(fault, fields) for fault in error.errors()]
    if faults:
        raise ProfileError(f"{file}: " + ";\n".join(faults))
    return profile


def _contradictions(profile: Profile, stem: str) -> Iterator[str]:
    """What fits field by field but not together."""
    data, sparc, sweep = profile.data, profile.sparc, profile.ablations
    settings = [*profile.settings, *(profile.gates.settings if profile.gates else ())]
    names = [setting.name for setting in settings]
    for setting in settings:
        if setting.dropout and setting.gate == "local":
            yield f"setting {setting.name}: stream_dropout and voters need gate: global, which has votes"
        if setting.stream_dropout and setting.voters == "one":
            yield f"setting {setting.name}: voters: one is stream_dropout: 1.0 already; give one of the two"
    if profile.name != stem:
        yield f"field name must be {stem!r}, as the file is called, got {profile.name!r}"
    for name in (profile.name, *names):
        if name.lower() in READ_AS_VALUES:
            yield f"name {name!r} would be read as a value in tables; choose another"
    if sparc.stream_dropout:
        yield "field sparc.stream_dropout must be left out: it is given to a setting"
    if sparc.k > sparc.n_latents:
        yield f"field sparc.k must be at most sparc.n_latents ({sparc.n_latents}), got {sparc.k}"
    if sparc.k_aux > sparc.n_latents:
        yield f"field sparc.k_aux must be at most sparc.n_latents ({sparc.n_latents}), got {sparc.k_aux}"
    if max(*sweep.k, sparc.k) > min(*sweep.n_latents, sparc.n_latents):
        yield "fields ablations.k and ablations.n_latents: every k must be at most every number of latents"
    for field, own in (("cross_weights", "cross_weight"), ("k", "k"), ("n_latents", "n_latents")):
        if len({*getattr(sweep, field), getattr(sparc, own)}) < 3:
            yield f"field ablations.{field} needs three values, that of the section sparc included"
    for field, values in {"ablations.seeds": sweep.seeds, "seeds": profile.seeds, "settings": names}.items():
        if len(set(values)) < len(values):
            yield f"field {field} has a value twice: {', '.join(map(str, values))}"
    if data.kind == "miniworld" and None in (data.train, data.val, data.test):
        yield "fields data.train, data.val and data.test need numbers: the miniature world is endless"
    if data.kind == "miniworld" and data.max_samples is not None:
        yield "field data.max_samples must be null: train, val and test size the miniature world"
    if data.control_train is not None and data.control_train > (data.train or 0):
        yield f"field data.control_train must be null or at most data.train, got {data.control_train}"
    if profile.encoders.dino.image_size > profile.encoders.dino.resize:
        yield "field encoders.dino.image_size must be at most encoders.dino.resize, which is cropped to it"
