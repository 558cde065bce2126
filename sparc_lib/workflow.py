"""The steps the notebooks share: a profile's data, features and trained models, each built once and then reused."""
from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from . import paths
from .encoders import ClipEncoder, DinoEncoder
from .extraction import PairedDataset, extract
from .model import SPARC
from .parallel import each
from .profiles import Profile, Setting
from .scenes import MiniWorldDataset
from .stages import stage
from .store import FeatureStore
from .training import TrainConfig, train

SPLITS = ("train", "val", "test")
RANDOM = 0                                       # seed of the random-weight encoders, the control of every result
_WORLD = ("scenes", "drawing", "backdrops", "captions", "taxonomy_file")


def best_device() -> str:
    """"cuda" if there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@lru_cache(maxsize=6)
def dataset(profile: Profile, split: str) -> PairedDataset:
    """The image-caption pairs of a split. Raises NotImplementedError for data this version cannot read yet."""
    if profile.data.kind == "miniworld":
        return MiniWorldDataset(split, getattr(profile.data, split), profile.data.seed)
    raise NotImplementedError(f"profile {profile.name}: no loader for {profile.data.kind!r} data; use mini or smoke")


def control(profile: Profile) -> Profile:
    """The profile of the random-weight control: fewer training scenes where `data.control_train` says so, all else
    equal, and as many training steps, so that only the encoders differ."""
    full, fewer = profile.data.train, profile.data.control_train
    if fewer is None:
        return profile
    epochs = round(profile.sparc.epochs * full / fewer)
    return dataclasses.replace(profile, data=dataclasses.replace(profile.data, train=fewer),
                               sparc=dataclasses.replace(profile.sparc, epochs=epochs))


def encoders(profile: Profile, random_weights: int | None = None, device: str = "cpu",
             offline: bool = False) -> tuple[DinoEncoder, ClipEncoder]:
    """The profile's two frozen encoders; with a seed in ``random_weights`` the same networks, never trained."""
    dino, clip = profile.encoders.dino, profile.encoders.clip
    common = dict(offline=offline, random_weights=random_weights, device=device)
    return (DinoEncoder(dino.location, revision=dino.revision, **common),
            ClipEncoder(clip.location, clip.pretrained, revision=clip.revision, **common))


def features(profile: Profile, split: str, random_weights: int | None = None, progress: bool = True) -> FeatureStore:
    """Features of a split under the profile's encoders, extracted on first use."""
    dino, clip = encoders(profile, random_weights, best_device())
    here = Path(__file__).parent
    inputs = {"split": split, "n": getattr(profile.data, split), "kind": profile.data.kind, "seed": profile.data.seed,
              "max_samples": profile.data.max_samples, "dino": dino.fingerprint, "clip": clip.fingerprint}
    if profile.data.kind == "miniworld":
        inputs["world"] = [here / f"{name}.py" for name in _WORLD] + [here / "world"]
    folder = stage(f"features-{split}", inputs, lambda partial: extract(
        dataset(profile, split), dino, clip, partial / "store", batch_size=profile.encoders.batch_size,
        progress=progress))
    return FeatureStore.open(folder / "store", expect={"dino": dino.fingerprint, "clip_img": clip.fingerprint})


class Run(NamedTuple):
    """A SPARC with how it came about: ``history`` is tidy (step, epoch, term, source, target, value)."""
    model: SPARC
    history: pd.DataFrame


def untrained(profile: Profile, setting: Setting, seed: int, store: FeatureStore) -> SPARC:
    """SPARC as initialised for this setting and seed: the control of every alignment number."""
    spec = profile.sparc
    return SPARC(store.dims, spec.n_latents, spec.k, setting.gate, spec.k_aux, spec.dead_after,
                 generator=torch.Generator().manual_seed(seed))


def trained(profile: Profile, setting: Setting, seed: int, store: FeatureStore, progress: bool = True) -> Run:
    """SPARC trained on ``store`` under this setting and seed, on first use; resumes after a kill."""
    config = TrainConfig.from_spec(profile.sparc, cross_weight=setting.cross_weight, seed=seed)

    def build(partial: Path) -> None:
        model = untrained(profile, setting, seed, store).to(best_device())
        result = train(model, store.resident(best_device()), config, partial / "checkpoint.pt", progress)
        torch.save(result.model.cpu().state_dict(), partial / "model.pt.partial")
        (partial / "model.pt.partial").rename(partial / "model.pt")
        result.history.to_csv(partial / "history.csv", index=False)
        (partial / "checkpoint.pt").unlink()

    model = untrained(profile, setting, seed, store)
    inputs = {"store": store.digest, "model": model.config, "training": config, "init": seed,
              "code": [Path(__file__).parent / f"{name}.py" for name in ("model", "losses", "training", "dead")]}
    folder = stage("sparc", inputs, build)
    model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    return Run(model.eval(), pd.read_csv(folder / "history.csv"))


def trained_all(profile: Profile, store: FeatureStore, seeds: Sequence[int] | None = None,
                progress: bool = True) -> dict[tuple[str, int], Run]:
    """{(setting, seed): run} of every headline setting of the profile and its seeds, trained side by side."""
    jobs = [(setting, seed) for setting in profile.settings for seed in (profile.seeds if seeds is None else seeds)]
    each(_train_one, [(profile, *job, store.directory) for job in jobs], "training", progress=progress)
    return {(setting.name, seed): trained(profile, setting, seed, store) for setting, seed in jobs}


def _train_one(profile: Profile, setting: Setting, seed: int, store: Path) -> None:
    trained(profile, setting, seed, FeatureStore.open(store), progress=False)
