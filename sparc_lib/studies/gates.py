"""Notebook 08: every way to a common code at the same L, k, steps and seeds, by the same measures.

A row is a method and a seed; its numbers are those of `gate_measures`, and the stability over seeds.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import permutations

import numpy as np
import pandas as pd
import torch

from ..alignment import pw_mcc
from ..concepts import lift_names
from ..data.catalogue import inputs as pairs_of
from ..data.knowledge import Vocabulary, vocabulary
from ..evaluation import encode_store
from ..losses import fvu
from ..model import SPARC
from ..profiles import GatesSpec, Profile, ProfileError
from ..retrieval import retrieval_metrics
from ..store.reader import FeatureStore
from .baselines import APART, Affine, PairMap, fit_cca, fit_procrustes, fit_ridge, match_latents
from .facts import ALL, agreement, recovery_rows, supported_names
from .gate_contrast import caption_contrast, code_score, map_score
from .gate_measures import (
    AGREE,
    COLUMNS,
    CONTRAST,
    MEASURED_APART,
    RECOVERED,
    STABILITY,
    Numbers,
    by_way,
    fired,
    measured,
    trial_of,
)
from .retrieval import CLIP
from .rivals import trained_rival
from .runs import best_device, dataset, fingerprints, trained
from .tables import Run, Stores, model_of, table

MATCHED, RAW_CLIP = "matched", "raw_clip"
HUB = "clip_img"  # the stream whose names the latents of autoencoders trained apart are given
FITS = {"ridge": fit_ridge, "procrustes": fit_procrustes, "cca": fit_cca, "cca_k": fit_cca}


def gate_table(profile: Profile) -> pd.DataFrame:
    """All methods and seeds of a profile's section `gates`; columns model, method, seed and `COLUMNS`.

    model: "trained", the controls "untrained" and "random encoders", which have as many seeds, or "map" for
    what needs no autoencoder; maps draw nothing and have one row. Random encoders have no stability: with
    every seed they are other networks. Raises ProfileError without that section.
    """
    spec = section(profile)
    if spec.epochs is not None:
        profile = dataclasses.replace(profile, sparc=dataclasses.replace(profile.sparc, epochs=spec.epochs))
    runs = gate_runs(profile)
    inputs = {
        "sparc": profile.sparc,
        "pool": profile.evaluation.retrieval_pool,
        "null_repeats": profile.evaluation.null_repeats,
    }
    rows = table("gates", profile, runs, partial(_measured, profile), inputs)
    seeded = [run for run in runs if not is_map(run) and run.model != "random encoders"]
    stability = table(
        STABILITY, profile, seeded, partial(_stability, profile), inputs | {"seeds": spec.seeds}
    )
    known = {split: vocabulary(dataset(profile, split)) for split in ("train", "test")}
    coders = [run for run in runs if not is_map(run)]
    facts = table("gate_facts", profile, coders, partial(_facts, profile, known), profile.sparc)
    drawing = {
        "sparc": profile.sparc,
        "encoders": [profile.encoders, *fingerprints(profile)],
        "images": profile.evaluation.heatmap_images,
        "test": pairs_of(profile, "test"),
    }
    seeing = [run for run in runs if method_of(run) != RAW_CLIP]  # CLIP alone has nothing to say of DINO
    contrasts = table("gate_contrast", profile, seeing, partial(_contrast, profile), drawing)
    keys = ["model", "method", "seed"]
    rows = rows.merge(contrasts[[*keys, CONTRAST]], "left", keys)
    rows = rows.merge(stability[[*keys, STABILITY]], "left", keys)
    rows = rows.merge(facts[[*keys, AGREE, RECOVERED]], "left", keys)
    rows.loc[(rows.model == "raw") & ~rows.method.isin([*FITS, RAW_CLIP]), "model"] = "trained"
    return rows.replace({"model": {"raw": "map"}})[[*keys, *COLUMNS]]


def section(profile: Profile) -> GatesSpec:
    """The profile's section `gates`. Raises ProfileError if it has none."""
    if profile.gates is None:
        raise ProfileError(f"profile {profile.name}: it has no section gates; add one, as smoke.yaml has it")
    return profile.gates


def gate_runs(profile: Profile) -> list[Run]:
    """Every run of the table: settings, rivals, then controls.

    Random encoders stand beside the first headline setting and the gates beyond the headline.
    """
    spec = section(profile)
    first = spec.seeds[0]
    runs = []
    for setting in (*profile.settings, *spec.settings):
        runs += [Run("trained", setting, seed) for seed in spec.seeds]
    for rival in spec.rivals:
        once = rival in FITS or rival == RAW_CLIP
        runs += [Run("raw", None, seed, (rival,)) for seed in ((first,) if once else spec.seeds)]
    runs += [Run("untrained", profile.settings[0], seed) for seed in spec.seeds]
    for setting in (profile.settings[0], *spec.settings):
        runs += [Run("random encoders", setting, seed) for seed in spec.seeds]
    return runs


def is_map(run: Run) -> bool:
    """Whether the run is no autoencoder but a map between features, or the features themselves."""
    return bool(run.also) and (run.also[0] in FITS or run.also[0] == RAW_CLIP)


def method_of(run: Run) -> str:
    return run.also[0] if run.also else run.setting.name


def _measured(profile: Profile, model: SPARC | None, stores: Stores, run: Run) -> pd.DataFrame:
    """The row of one run."""
    test, pool = stores["test"], profile.evaluation.retrieval_pool
    if is_map(run):
        numbers = map_numbers(run.also[0], stores, pool, profile.sparc.k)
    else:
        if model is None:
            model = autoencoder(profile, run, stores["train"])
        numbers = measured(trial_of(model, test, pool, profile.evaluation.null_repeats, run.seed))
    columns = [column for column in COLUMNS if column not in MEASURED_APART]
    return pd.DataFrame([{"method": method_of(run), **numbers}], columns=["method", *columns])


def autoencoder(profile: Profile, run: Run, train: FeatureStore) -> SPARC:
    """The model of a run that is no map, trained on first use, on the best device."""
    if not run.also:
        return model_of(profile, run, train).to(best_device())
    if run.also == (MATCHED,):
        apart = trained(profile, APART, run.seed, train, progress=False).model
        return matched(apart, train).to(best_device())
    return trained_rival(profile, run.also[0], run.seed, train).to(best_device())


@torch.no_grad()
def matched(apart: SPARC, train: FeatureStore) -> SPARC:
    """Autoencoders trained apart, given common names in place, as arXiv:2606.29888 and others do.

    Every stream's latents are put in the order of those of HUB that they match best on train.
    """
    codes = encode_store(apart, train, "independent")
    hub = HUB if HUB in codes else apart.streams[0]
    for stream in apart.streams:
        if stream != hub:
            order = np.argsort(match_latents(codes[stream], codes[hub]))
            for table_of in (apart.encoder, apart.decoder, apart.latent_bias):
                table_of[stream].copy_(table_of[stream][order])
    return apart


def map_numbers(name: str, stores: Stores, pool: int | None, k: int) -> Numbers:
    """The row of a map of FITS, fitted on train, or of raw CLIP: R@1, and of ridge what it reconstructs."""
    train, test = stores["train"].tensors(), stores["test"].tensors()
    ways = permutations(train, 2) if name in FITS else permutations(CLIP)
    recall, errors = {}, []
    for query, reference in ways:
        queries, references = test[query], test[reference]
        if name in FITS:
            maps = FITS[name](train[query], train[reference])
            if name == "cca_k":
                maps = first_dimensions(maps, k)
            queries, references = maps.query(queries), maps.reference(references)
        recall[query, reference] = retrieval_metrics(queries[:pool], references[:pool], n_jobs=1).recall[1]
        errors.append(fvu(queries, references).item())
    numbers = by_way(recall)
    if name == "ridge":
        numbers["cross_fvu_alone"] = float(np.mean(errors))
    return numbers


def first_dimensions(maps: PairMap, k: int) -> PairMap:
    """Both sides cut to their first k dimensions, of CCA the most correlated ones."""
    query, reference = (Affine(side.mean, side.weight[:, :k]) for side in maps)
    return PairMap(query, reference)


def _stability(profile: Profile, model: SPARC | None, stores: Stores, run: Run) -> pd.DataFrame:
    """PW-MCC of a run with the other seeds of its method, mean over them and over streams; NaN alone."""
    others = [seed for seed in section(profile).seeds if seed != run.seed]
    train, test = stores["train"], stores["test"]
    own = directions(model or autoencoder(profile, run, train), test)
    scores = []
    for seed in others:
        theirs = directions(autoencoder(profile, run._replace(seed=seed), train), test)
        scores += [pw_mcc(rows, theirs[stream]) for stream, rows in own.items()]
    value = float(np.mean(scores)) if scores else np.nan
    return pd.DataFrame([{"method": method_of(run), STABILITY: value}])


def _facts(
    profile: Profile, known: dict[str, Vocabulary], model: SPARC | None, stores: Stores, run: Run
) -> pd.DataFrame:
    """Name agreement and recovered facts of a run, as `studies.facts` has them, with independent codes."""
    model = model or autoencoder(profile, run, stores["train"])
    true = {split: known[split].of(store.ids).true for split, store in stores.items()}
    codes = {split: encode_store(model, store, "independent") for split, store in stores.items()}
    recovered = recovery_rows("independent", codes, true, known["train"].kinds)
    of_all = next(row for row in recovered if row.stream == row.kind == ALL)
    names = lift_names(codes["test"], true["test"], known["test"].terms)
    agreed = agreement(supported_names(names))
    return pd.DataFrame([{"method": method_of(run), AGREE: agreed.share, RECOVERED: of_all.share}])


def _contrast(profile: Profile, model: SPARC | None, stores: Stores, run: Run) -> pd.DataFrame:
    """How well captions tell two objects apart in DINO by what a run says of caption and picture."""
    if is_map(run):
        train = stores["train"].tensors()
        maps = FITS[run.also[0]](train["clip_txt"], train["dino"])
        score = map_score(first_dimensions(maps, profile.sparc.k) if run.also[0] == "cca_k" else maps)
    else:
        model = model or autoencoder(profile, run, stores["train"])
        score = code_score(model.requires_grad_(False))
    value = caption_contrast(profile, score, run.random_weights)
    return pd.DataFrame([{"method": method_of(run), CONTRAST: value}])


def directions(model: SPARC, test: FeatureStore) -> dict[str, np.ndarray]:
    """{stream: decoder rows [n, d] of the latents that fire in it on some test pair, coded alone}."""
    live_rows = {}
    for stream, codes in encode_store(model, test, "independent").items():
        rows = model.decoder[stream].detach().double().cpu().numpy()
        live_rows[stream] = rows[fired(codes)]
    return live_rows
