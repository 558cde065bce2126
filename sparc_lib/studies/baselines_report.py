"""Baselines in SPARC's retrieval task: the same features, pairs, splits and measures, and random-weight encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, permutations
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from ..evaluation import encode_store
from ..profiles import Profile, Setting
from ..store.reader import FeatureStore
from .baselines import (
    PairMap,
    fit_cca,
    fit_centred,
    fit_procrustes,
    fit_relative,
    fit_ridge,
    match_latents,
    rename_latents,
)
from .parallel import each
from .retrieval import CLIP, CODES, CROSS, Pool, Row, labelled, model_rows, pairs_pool, pool_codes, search
from .runs import RANDOM, best_device, features, trained
from .shared_codes import trained_baseline
from .sources import code_of
from .stages import table_stage

CENTRED_CLIP, MATCHED = "CLIP, centred", "SAE + Hungarian"
MAPS: dict[str, Callable[[Tensor, Tensor], PairMap]] = {
    "ridge": fit_ridge,
    "Procrustes": fit_procrustes,
    "CCA": fit_cca,
}
SEEDED = (
    "relative",
    MATCHED,
    "USAE",
    f"USAE, {CROSS}",
    "crosscoder",
    f"crosscoder, {CROSS}",
)  # draw something
METHODS = (CENTRED_CLIP, *MAPS, *SEEDED)


def baseline_table(profile: Profile, progress: bool = True, n_jobs: int | None = None) -> pd.DataFrame:
    """All baselines between all ordered pairs of streams among the test pairs; computed on first use.

    `Row`s whose kind is one of METHODS, protocol "pairs", with the columns model ("trained", "random encoders") and
    seed. Fits see the train split only. Methods that draw something have a row per seed; on random-weight encoders
    the first seed stands for all. Relative representations use L anchors, so that all codes have L entries.
    n_jobs: as in `parallel.each`.
    """
    stores = {
        (weights, split): features(profile, split, weights, progress)
        for weights in (None, RANDOM)
        for split in ("train", "test")
    }

    inputs = {
        "stores": [store.digest for store in stores.values()],
        "sparc": profile.sparc,
        "seeds": profile.seeds,
        "pool": profile.evaluation.retrieval_pool,
        "code": code_of("studies"),
    }
    return table_stage(
        "baselines", inputs, lambda: pd.concat(_tables(profile, stores, n_jobs, progress), ignore_index=True)
    )


def _tables(profile: Profile, stores: dict, n_jobs: int | None, progress: bool) -> list[pd.DataFrame]:
    jobs = [(None, seed) for seed in profile.seeds] + [(RANDOM, profile.seeds[0])]
    return each(
        _table,
        [
            (profile, weights, seed, *(stores[weights, split].directory for split in ("train", "test")))
            for weights, seed in jobs
        ],
        "baselines",
        n_jobs,
        progress,
    )


def _table(profile: Profile, weights: int | None, seed: int, train: Path, test: Path) -> pd.DataFrame:
    """All baselines with one seed; those that draw nothing with the first one only."""
    known, asked = FeatureStore.open(train), FeatureStore.open(test)
    pool = pairs_pool(asked, profile.evaluation.retrieval_pool, best_device())
    rows = list(seeded_rows(profile, known, pool, seed))
    if seed == profile.seeds[0]:
        rows += map_rows(known, pool)
    return labelled(rows, model="trained" if weights is None else "random encoders", seed=seed)


def map_rows(train: FeatureStore, pool: Pool) -> Iterator[Row]:
    """Searches by maps that draw nothing."""
    known = train.tensors()
    for query, reference in permutations(train.streams, 2):
        for name, fit in MAPS.items():
            yield _mapped(pool, name, query, reference, fit(known[query], known[reference]))
        if {query, reference} == set(CLIP):
            yield _mapped(pool, CENTRED_CLIP, query, reference, fit_centred(known[query], known[reference]))


def _mapped(pool: Pool, name: str, query: str, reference: str, pair: PairMap) -> Row:
    return search(
        pool,
        name,
        query,
        reference,
        pair.query(pool.features[query]),
        pair.reference(pool.features[reference]),
        "features",
    )


def seeded_rows(profile: Profile, train: FeatureStore, pool: Pool, seed: int) -> Iterator[Row]:
    """Searches by methods that draw something: relative representations, and sparse codes by other means."""
    known, streams, device = train.tensors(), train.streams, best_device()
    for query, reference in permutations(streams, 2):
        draw = torch.Generator().manual_seed(seed)
        pair = fit_relative(known[query], known[reference], profile.sparc.n_latents, draw)
        yield _mapped(pool, "relative", query, reference, pair)
    for name in ("USAE", "crosscoder"):
        model = trained_baseline(profile, name.lower(), seed, train, device).to(device)
        for row in model_rows(model, pool, (CODES, CROSS)):
            yield row._replace(kind=name if row.kind == CODES else f"{name}, {CROSS}")
    apart = trained(profile, Setting("local_lambda0", "local", 0.0), seed, train, progress=False).model.to(
        device
    )
    learned, codes = encode_store(apart, train, "independent"), pool_codes(apart, pool)
    for one, other in combinations(streams, 2):
        matching = match_latents(learned[one], learned[other])
        renamed = rename_latents(codes[one], matching)
        yield search(pool, MATCHED, one, other, renamed, codes[other])
        yield search(pool, MATCHED, other, one, codes[other], renamed)
