"""The retrieval tables of the paper with every control: four kinds, all ordered pairs of streams, three protocols.

Kinds (METHOD, "Retrieval"): "codes" of one stream against codes of another; a stream's "reconstruction" against its
own features; a "cross-reconstruction" of a stream from another's code against that stream's features; "raw" features
of CLIP image against CLIP text. Codes are always independent ones (`encode_store(..., "independent")`), but for one
row per model that shows what joint codes leak (F3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

from ..evaluation import encode_store
from ..model import SPARC
from ..profiles import Profile, Setting
from ..retrieval import retrieval_metrics
from ..store.reader import FeatureStore
from .parallel import each
from .representations import Reconstruction, train_means
from .runs import RANDOM, best_device, encoders, features, trained, untrained
from .sources import code_of
from .stages import table_stage

CODES, OWN, CROSS, RAW = "codes", "reconstruction", "cross-reconstruction", "raw"
CENTRED = "cross-reconstruction, centred"
CLIP = ("clip_img", "clip_txt")


class Row(NamedTuple):
    """One search. kind: see above. coding: "independent", "joint" or "features". protocol: of `Pool`. n_reference:
    size of the gallery; recall_k, median_rank and mrr are those of `retrieval_metrics`."""

    kind: str
    coding: str
    protocol: str
    query: str
    reference: str
    recall_1: float
    recall_5: float
    recall_10: float
    median_rank: float
    mrr: float
    n_query: int
    n_reference: int


class Pool(NamedTuple):
    """What is searched. features[stream] [n_s, d]: rows of norm 1; numbers[stream] int [n_s]: what each row belongs
    to. The positives of a query are all references of the same number. Features lie on the device of the models."""

    protocol: str
    features: Mapping[str, Tensor]
    numbers: Mapping[str, np.ndarray]

    def positives(self, query: str, reference: str) -> sp.csr_array:
        """Bool CSR [n_query, n_reference]."""
        size = max(int(self.numbers[s].max()) for s in (query, reference)) + 1
        left, right = (
            sp.csr_array((np.ones(len(of), bool), of, np.arange(len(of) + 1)), shape=(len(of), size))
            for of in (self.numbers[query], self.numbers[reference])
        )
        return sp.csr_array(left @ right.T)


def pairs_pool(store: FeatureStore, size: int | None = None, device: str = "cpu") -> Pool:
    """As published: every (image, caption) pair is one row in every stream, with one positive, the row itself.

    An image with two captions is there twice. size: the first so many pairs; None: all. device: where features go.
    """
    x = store.tensors(slice(size), device)
    return Pool("pairs", x, {stream: np.arange(len(rows)) for stream, rows in x.items()})


def captions_pool(store: FeatureStore, size: int | None = None, device: str = "cpu") -> Pool:
    """Every image once, every caption; an image has as many positives as captions (F5). Of the first `size` pairs."""
    x, (first, number) = store.tensors(slice(size), device), distinct_images(store, size)
    return Pool(
        "captions",
        {s: rows if s == "clip_txt" else rows[first] for s, rows in x.items()},
        {s: number if s == "clip_txt" else np.arange(len(first)) for s in x},
    )


def joined_pool(
    store: FeatureStore,
    text_features: Callable[[Sequence[str]], Tensor],
    size: int | None = None,
    device: str = "cpu",
    batch_size: int = 256,
) -> Pool:
    """Every image once, with one text made of all its captions, as COCO is searched in the paper (F15).

    text_features: list of B texts -> [B, d], as `ClipEncoder.text_features`.
    """
    x, (first, number) = store.tensors(slice(size), device), distinct_images(store, size)
    texts = [""] * len(first)
    for image, caption in zip(number, store.captions):
        texts[image] = f"{texts[image]} {caption}".strip()
    with torch.no_grad():
        starts = range(0, len(texts), batch_size)
        joined = torch.cat([text_features(texts[start : start + batch_size]).to(device) for start in starts])
    kept = {s: rows[first] for s, rows in x.items()} | {
        "clip_txt": torch.nn.functional.normalize(joined, dim=1)
    }
    return Pool("joined", kept, {s: np.arange(len(first)) for s in x})


def distinct_images(store: FeatureStore, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """First row of every distinct image in order of appearance [n_images], and every row's image number [n]."""
    _, first, number = np.unique(store.image_ids[:size], return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[number]


def search(
    pool: Pool, kind: str, query: str, reference: str, queries, references, coding: str = "independent"
) -> Row:
    """One `Row`: embeddings `queries` of the pool's rows in stream `query` among `references` of stream `reference`."""
    found = retrieval_metrics(queries, references, positives=pool.positives(query, reference))
    return Row(
        kind,
        coding,
        pool.protocol,
        query,
        reference,
        *(found.recall[k] for k in (1, 5, 10)),
        found.median_rank,
        found.mrr,
        len(found.ranks),
        found.n_reference,
    )


def pool_codes(model: SPARC, pool: Pool) -> dict[str, sp.csr_matrix]:
    """Independent codes {stream: CSR [n_s, n_latents]}: every stream is coded alone, whatever rows it has."""
    return {s: encode_store(model, {s: x}, "independent")[s] for s, x in pool.features.items()}


def model_rows(
    model: SPARC,
    pool: Pool,
    kinds: Sequence[str] = (CODES, OWN, CROSS),
    pairs: Sequence[tuple[str, str]] | None = None,
    means: Mapping[str, Tensor] | None = None,
) -> Iterator[Row]:
    """Searches of one model. pairs: (query, reference); None: all ordered pairs of streams. means: train means
    {stream: [d]}, for CENTRED, which takes them off reconstructions and targets as the linear baselines do."""
    codes = pool_codes(model, pool)
    for query, reference in pairs or permutations(codes, 2):
        target = pool.features[reference]
        if CODES in kinds:
            yield search(pool, CODES, query, reference, codes[query], codes[reference])
        if CROSS in kinds:
            yield search(pool, CROSS, query, reference, _rebuilt(model, codes[query], reference), target)
        if CENTRED in kinds:
            mean = means[reference]
            rebuilt = _rebuilt(model, codes[query], reference) - mean
            yield search(pool, CENTRED, query, reference, rebuilt, target - mean)
    if OWN in kinds:
        for stream, target in pool.features.items():
            yield search(pool, OWN, stream, stream, _rebuilt(model, codes[stream], stream), target)


def _rebuilt(model: SPARC, codes: sp.csr_matrix, target: str) -> Tensor:
    return Reconstruction(model, codes, target).batch(slice(None)).to(model.decoder[target].device)


def joint_row(model: SPARC, pool: Pool) -> Row:
    """Captions searched among images by joint codes: what the global gate gives away (F3). For the "pairs" protocol."""
    codes = encode_store(model, pool.features, "joint")
    return search(pool, CODES, "clip_txt", "clip_img", codes["clip_txt"], codes["clip_img"], "joint")


def raw_rows(pool: Pool) -> list[Row]:
    """CLIP's own features, both directions."""
    return [
        search(pool, RAW, q, r, pool.features[q], pool.features[r], "features") for q, r in permutations(CLIP)
    ]


def retrieval_table(profile: Profile, progress: bool = True, n_jobs: int | None = None) -> pd.DataFrame:
    """All searches of a profile's settings and seeds among its test pairs, with controls; computed on first use.

    `Row`s with the columns model ("trained", "untrained", "random encoders", "raw"), setting and seed in front.
    Every trained model is searched by every kind and pair; the first setting also as CENTRED, and under the protocols
    "captions" (between text and images; COCO's pairs are joined already, here they are apart) and "joined" (within
    CLIP). For the first seed there are joint codes of the first setting, models of random-weight encoders for every
    setting, and one untrained model, for neither λ nor, with independent codes, the gate reaches a model that was never
    trained. n_jobs: as in `parallel.each`.
    """
    stores = {
        (weights, split): features(profile, split, weights, progress)
        for weights in (None, RANDOM)
        for split in ("train", "test")
    }
    told = features(profile, "test", progress=progress, single_captions=True)

    inputs = {
        "stores": [store.digest for store in (*stores.values(), told)],
        "sparc": profile.sparc,
        "seeds": profile.seeds,
        "settings": profile.settings,
        "pool": profile.evaluation.retrieval_pool,
        "code": code_of("studies"),
    }
    return table_stage(
        "retrieval",
        inputs,
        lambda: pd.concat(_tables(profile, stores, told, n_jobs, progress), ignore_index=True),
    )


def _tables(
    profile: Profile, stores: Mapping, told: FeatureStore, n_jobs: int | None, progress: bool
) -> list[pd.DataFrame]:
    first, headline = profile.seeds[0], profile.settings[0]
    cases = [("raw", None, first), ("random encoders", None, first)]
    cases += [("trained", setting, seed) for setting in profile.settings for seed in profile.seeds]
    cases += [
        ("untrained", headline, first),
        *(("random encoders", setting, first) for setting in profile.settings),
    ]
    return each(
        _table,
        [
            (
                profile,
                *case,
                *(
                    stores[RANDOM if case[0] == "random encoders" else None, split].directory
                    for split in ("train", "test")
                ),
                told.directory,
            )
            for case in cases
        ],
        "retrieval",
        n_jobs,
        progress,
    )


def _table(
    profile: Profile, kind: str, setting: Setting | None, seed: int, train: Path, test: Path, single: Path
) -> pd.DataFrame:
    """All searches of one model, or with setting None of the raw features. single: the test pairs with a row a caption,
    which are other rows than `test` in COCO only (F15)."""
    known, asked, told, device = (
        *(FeatureStore.open(folder) for folder in (train, test, single)),
        best_device(),
    )
    size, headline = profile.evaluation.retrieval_pool, profile.settings[0]
    pool = pairs_pool(asked, size, device)

    def by_captions() -> tuple[Pool, Pool]:
        text = encoders(profile, device=device)[1].text_features
        rows = (
            size
            if told.digest == asked.digest
            else int(np.isin(told.image_ids, asked.image_ids[:size]).sum())
        )
        return captions_pool(told, rows, device), joined_pool(asked, text, size, device)

    if setting is None:
        rows = [
            row
            for each_pool in (pool, *(by_captions() if kind == "raw" else ()))
            for row in raw_rows(each_pool)
        ]
        return labelled(rows, model=kind, setting="raw_clip", seed=seed)
    means = {s: mean.to(device) for s, mean in train_means(known).items()}
    model = (
        untrained(profile, setting, seed, known)
        if kind == "untrained"
        else trained(profile, setting, seed, known, progress=False).model
    ).to(device)
    main = kind == "trained" and setting == headline
    rows = list(model_rows(model, pool, (CODES, OWN, CROSS, *([CENTRED] if main else [])), means=means))
    if main:
        captions, joined = by_captions()
        with_text = [pair for pair in permutations(known.streams, 2) if "clip_txt" in pair]
        rows += model_rows(model, captions, (CODES, CROSS), with_text)
        rows += model_rows(model, joined, (CODES, CROSS), list(permutations(CLIP)))
    if setting == headline and seed == profile.seeds[0]:
        rows.append(joint_row(model, pool))
    return labelled(rows, model=kind, setting=setting.name, seed=seed)


def labelled(rows: Sequence[Row], **labels) -> pd.DataFrame:
    """The rows as a table, with constant columns in front."""
    table = pd.DataFrame(rows, columns=Row._fields)
    for place, (column, value) in enumerate(labels.items()):
        table.insert(place, column, value)
    return table
