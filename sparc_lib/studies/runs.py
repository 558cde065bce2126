"""What the notebooks share: a profile's data, features and trained models, each built once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from joblib import cpu_count

from .. import paths
from ..data import catalogue as data_sets
from ..data.pairs import PairedDataset
from ..features.extraction import Extraction, encode_blocks, extract, keep_blocks
from ..model import SPARC
from ..profiles import Profile, Setting
from ..store.reader import FeatureStore
from ..training import TrainConfig, TrainResult, train
from .announced import Announced
from .parallel import each, threads_for
from .sources import code_of
from .stages import is_finished, stage

if TYPE_CHECKING:  # importing transformers and open_clip takes seconds
    from ..features.encoders import ClipEncoder, DinoEncoder

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
RANDOM = 0  # first seed of the random-weight encoders, the control of every result
PARALLEL_FROM = 1000  # images from which a process a core pays for its start
STEPS_TO_LOSE = 200  # to a kill, about: checkpoints of every short epoch took a tenth of the time


def best_device() -> str:
    """The name of the GPU device where there is one, else of the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@lru_cache(maxsize=6)
def dataset(profile: Profile, split: str, single_captions: bool = False) -> PairedDataset:
    """The image-caption pairs of a split. Raises DataError when its images are missing. single_captions: for
    COCO a pair per caption, not one per image (F15)."""
    return data_sets.load_whole(profile, split, single_captions)


def concepts(profile: Profile, classes: Sequence[str]) -> data_sets.Concepts:
    """(taxonomy, names): the hierarchy above the label columns `classes`, and its display names."""
    return data_sets.concepts(profile, classes)


def loaders(profile: Profile) -> int:
    """Processes that read and resize images while the encoders work; none for scenes on a CPU, where every
    core encodes and drawing is fast. Processes that torchrun started share the cores of their machine."""
    if profile.data.kind == "miniworld" and not torch.cuda.is_available():
        return 0
    share = cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, share - 1)


def control(profile: Profile) -> Profile:
    """The profile as `features` and `trained` have it for random-weight encoders: fewer training scenes where
    `data.control_train` says so, and as many training steps, so that only the encoders differ."""
    full, fewer = profile.data.train, profile.data.control_train
    if fewer is None:
        return profile
    epochs = round(profile.sparc.epochs * full / fewer)
    return dataclasses.replace(
        profile,
        data=dataclasses.replace(profile.data, train=fewer, control_train=None),
        sparc=dataclasses.replace(profile.sparc, epochs=epochs),
    )


def is_control(store: FeatureStore) -> bool:
    """Whether the features come from encoders with random weights."""
    return any(stream.encoder.revision.startswith("random-") for stream in store.manifest.streams)


def encoders(
    profile: Profile, random_weights: int | None = None, device: str = "cpu"
) -> tuple[DinoEncoder, ClipEncoder]:
    """The profile's two frozen encoders; with a seed as `random_weights` the same networks, untrained."""
    from ..features.encoders import ClipEncoder, DinoEncoder, demand_input_sizes

    spec = profile.encoders
    common = dict(random_weights=random_weights, device=device, precision=spec.precision)
    dino = DinoEncoder(spec.dino.location, revision=spec.dino.revision, **common)
    clip = ClipEncoder(spec.clip.location, spec.clip.pretrained, revision=spec.clip.revision, **common)
    demand_input_sizes(dino, clip, (spec.dino.resize, spec.dino.image_size), spec.clip.image_size)
    return dino, clip


class Fingerprints(NamedTuple):  # what tells each encoder's weights from all others
    dino: str
    clip: str


@lru_cache(maxsize=16)
def fingerprints(profile: Profile, random_weights: int | None = None) -> Fingerprints:
    """Those of `encoders`. Building both takes a second or two, and every table asks for its features."""
    dino, clip = encoders(profile, random_weights)
    return Fingerprints(dino.fingerprint, clip.fingerprint)


def features(
    profile: Profile,
    split: str,
    random_weights: int | None = None,
    progress: bool = True,
    single_captions: bool = False,
) -> FeatureStore:
    """Features of a split under the profile's encoders, extracted on first use. Images that could not be read
    then and can be now are taken up: their blocks are computed anew. single_captions: as for `dataset`."""
    if random_weights is not None:
        profile = control(profile)
    marks = fingerprints(profile, random_weights)
    inputs = _feature_inputs(profile, split, marks, single_captions)

    def task() -> Extraction:
        dino, clip = encoders(profile, random_weights, best_device())
        data, workers = dataset(profile, split, single_captions), loaders(profile)
        return Extraction(data, dino, clip, profile.encoders.batch_size, workers, progress)

    def build(partial: Path) -> None:
        world = processes(profile, dataset(profile, split, single_captions))
        if world > 1:
            shares = [(profile, split, random_weights, Share(rank, world), progress) for rank in range(world)]
            each(encode_share, shares, f"features of {split}", world, progress=False)
        extract(task(), partial / "store", _blocks_folder(split, inputs))

    expected = {"dino": marks.dino, "clip_img": marks.clip}
    folder = stage(f"features-{split}", inputs, build)
    store = FeatureStore.open(folder / "store", expected)
    if store.manifest.skipped and keep_blocks(task(), store, _blocks_folder(split, inputs)):
        shutil.rmtree(folder)
        folder = stage(f"features-{split}", inputs, build)
        store = FeatureStore.open(folder / "store", expected)
    return store


def processes(profile: Profile, data: PairedDataset) -> int:
    """How many processes extract side by side: one a core for enough drawn scenes, as small networks on a CPU
    gain little from several threads; one alone for photographs, which load elsewhere, and on a GPU."""
    few = len(set(data.image_ids)) < PARALLEL_FROM
    if few or profile.data.kind != "miniworld" or torch.cuda.is_available():
        return 1
    return min(cpu_count(), 8)


class Share(NamedTuple):
    """Every `world`-th block from number `rank` on."""

    rank: int
    world: int


def encode_share(
    profile: Profile, split: str, random_weights: int | None, share: Share, progress: bool = True
) -> None:
    """One process's part of `features`: blocks of the profile's split, left where it looks for them."""
    if random_weights is not None:
        profile = control(profile)
    inputs = _feature_inputs(profile, split, fingerprints(profile, random_weights))
    if is_finished(f"features-{split}", inputs):
        return
    dino, clip = encoders(profile, random_weights, best_device())
    shown = progress and share.rank == 0
    batch_size, workers = profile.encoders.batch_size, loaders(profile)
    task = Extraction(dataset(profile, split), dino, clip, batch_size, workers, shown)
    encode_blocks(task, _blocks_folder(split, inputs), share.rank, share.world)


def _blocks_folder(split: str, inputs: dict) -> Path:
    """Where all processes that extract together leave their blocks until the store is whole."""
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
    return paths.data_root() / "blocks" / f"{split}-{digest}"


def _feature_inputs(profile: Profile, split: str, marks: Fingerprints, single_captions: bool = False) -> dict:
    return data_sets.inputs(profile, split, single_captions) | {
        "dino": marks.dino,
        "clip": marks.clip,
        "batch_size": profile.encoders.batch_size,
        "code": code_of("features"),
    }


class TrainedRun(NamedTuple):
    """A SPARC with how it came about: ``history`` is tidy (step, epoch, term, source, target, value)."""

    model: SPARC
    history: pd.DataFrame


def untrained(profile: Profile, setting: Setting, seed: int, store: FeatureStore) -> SPARC:
    """SPARC as initialised for this setting and seed: the control of every alignment number."""
    spec = profile.sparc
    return SPARC(
        store.dims,
        spec.n_latents,
        spec.k,
        setting.gate,
        spec.k_aux,
        spec.dead_after,
        generator=torch.Generator().manual_seed(seed),
    )


def trained(
    profile: Profile, setting: Setting, seed: int, store: FeatureStore, progress: bool = True
) -> TrainedRun:
    """SPARC trained on ``store`` under this setting and seed, on first use; resumes after a kill."""

    def build(partial: Path) -> None:
        result = fit(profile, setting, seed, store, partial / "checkpoint.pt", progress)
        torch.save(result.model.cpu().state_dict(), partial / "model.pt")
        result.history.to_csv(partial / "history.csv", index=False)
        (partial / "checkpoint.pt").unlink()

    folder = stage("sparc", run_inputs(profile, setting, seed, store), build)
    model = untrained(profile, setting, seed, store)
    model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    return TrainedRun(model.eval(), pd.read_csv(folder / "history.csv"))


def trained_all(
    profile: Profile, store: FeatureStore, seeds: Sequence[int] | None = None
) -> dict[tuple[str, int], TrainedRun]:
    """{(setting, seed): run} of every headline setting of the profile and its seeds, trained side by side."""
    runs = [(setting, seed) for setting in profile.settings for seed in seeds or profile.seeds]
    missing = [
        (profile, setting, seed, store.directory)
        for setting, seed in runs
        if not has_trained(profile, setting, seed, store)
    ]
    each(_train_one, missing, "training")
    return {(setting.name, seed): trained(profile, setting, seed, store) for setting, seed in runs}


def _train_one(profile: Profile, setting: Setting, seed: int, store: Path) -> None:
    trained(profile, setting, seed, FeatureStore.open(store), progress=False)


def has_trained(profile: Profile, setting: Setting, seed: int, store: FeatureStore) -> bool:
    """Whether `trained` would find this run finished."""
    return is_finished("sparc", run_inputs(profile, setting, seed, store))


def fit(
    profile: Profile, setting: Setting, seed: int, store: FeatureStore, checkpoint: Path, progress: bool
) -> TrainResult:
    """Train from the start or from `checkpoint`, features on the device if they fit, else streamed: the same
    model bit for bit. A long training says so once, after a few steps."""
    config, device = train_config(profile, setting, seed, store), best_device()
    often = max(1, STEPS_TO_LOSE // config.steps_per_epoch(len(store)))
    config = dataclasses.replace(config, checkpoint_epochs=often)  # not part of what decides a run
    label = f"gate {setting.gate}, λ {setting.cross_weight:g}, seed {seed}"

    def run(features: FeatureStore) -> TrainResult:
        model = untrained(profile, setting, seed, store).to(device)
        with threads_for(model, config.batch_size):
            return train(model, Announced(features, config, label), config, checkpoint, progress)

    try:
        return run(store.resident(device))
    except (MemoryError, torch.cuda.OutOfMemoryError) as error:
        log.warning("%s: features are streamed from %s (%s)", label, store.directory, error)
    return run(store)


def train_config(profile: Profile, setting: Setting, seed: int, store: FeatureStore) -> TrainConfig:
    """How a run under this setting and seed on `store` is trained."""
    profile = control(profile) if is_control(store) else profile
    return TrainConfig.from_spec(profile.sparc_for(setting), seed=seed)


def run_inputs(profile: Profile, setting: Setting, seed: int, store: FeatureStore) -> dict:
    """What decides a trained model, as inputs of a stage; the setting's name is not among it."""
    spec = profile.sparc
    return {
        "store": store.digest,
        "dims": store.dims,
        "n_latents": spec.n_latents,
        "k": spec.k,
        "k_aux": spec.k_aux,
        "dead_after": spec.dead_after,
        "gate": setting.gate,
        "training": train_config(profile, setting, seed, store),
        "init": seed,
        "code": code_of("training", "store"),
    }
