"""The paper's retrieval tables with every control: four kinds, all pairs of streams, three protocols.

Kinds (METHOD, "Retrieval"): "codes" of one stream against codes of another; a stream's "reconstruction"
against its own features; a "cross-reconstruction" of a stream from another's code against that stream's
features; "raw" features of CLIP image against CLIP text. Codes are always independent ones
(`encode_store(..., "independent")`), but for rows that show what joint codes leak (F3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

from ..evaluation import Pair, encode_store
from ..model import SPARC, Coding
from ..profiles import Profile
from ..retrieval import retrieval_metrics
from ..store.reader import FeatureStore
from .representations import CODES, CROSS, OWN, RAW, Reconstruction, train_means
from .runs import best_device, encoders, features
from .tables import Run, Stores, by_gate, table

CENTRED = "cross-reconstruction, centred"
CLIP = ("clip_img", "clip_txt")
LEAK, PROTOCOLS = "joint codes", "other protocols"  # what some runs are searched by as well, beside CENTRED
RECALLS = ["recall_1", "recall_5", "recall_10", "median_rank", "mrr", "n_reference"]
CODE_COLUMNS = ["model", "setting", "seed", "coding", "query", "reference", *RECALLS]


class Row(NamedTuple):
    """One search. kind: see above. coding: "independent", "joint" or "features". protocol: of `Pool`.
    n_reference: size of the gallery; recall_k, median_rank and mrr are those of `retrieval_metrics`."""

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
    """What is searched. features[stream] [n_s, d]: rows of norm 1; numbers[stream] int [n_s]: what each row
    belongs to. The positives of a query are all references of its number."""

    protocol: str
    features: Mapping[str, Tensor]
    numbers: Mapping[str, np.ndarray]

    def positives(self, query: str, reference: str) -> sp.csr_array:
        """Bool CSR [n_query, n_reference]."""
        size = max(int(self.numbers[stream].max()) for stream in (query, reference)) + 1
        return sp.csr_array(_members(self.numbers[query], size) @ _members(self.numbers[reference], size).T)


def _members(numbers: np.ndarray, size: int) -> sp.csr_array:
    """Bool CSR [n, size]: which number each row belongs to."""
    entries = (np.ones(len(numbers), bool), numbers, np.arange(len(numbers) + 1))
    return sp.csr_array(entries, shape=(len(numbers), size))


def pairs_pool(store: FeatureStore, size: int | None = None, device: str = "cpu") -> Pool:
    """As published: every (image, caption) pair is a row of every stream, with one positive, itself.

    An image with two captions is there twice. size: the first so many pairs; None: all.
    """
    x = store.tensors(slice(size), device)
    return Pool("pairs", x, {stream: np.arange(len(rows)) for stream, rows in x.items()})


def captions_pool(store: FeatureStore, size: int | None = None, device: str = "cpu") -> Pool:
    """Every image once, every caption; an image has as many positives as captions (F5)."""
    x = dict(store.tensors(slice(size), device))
    first, image_of = distinct_images(store, size)
    numbers = {}
    for stream in x:
        if stream == "clip_txt":
            numbers[stream] = image_of
        else:
            x[stream] = x[stream][first]
            numbers[stream] = np.arange(len(first))
    return Pool("captions", x, numbers)


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
    x = store.tensors(slice(size), device)
    first, image_of = distinct_images(store, size)
    texts = [""] * len(first)
    for image, caption in zip(image_of, store.captions):
        texts[image] = f"{texts[image]} {caption}".strip()
    with torch.no_grad():
        starts = range(0, len(texts), batch_size)
        joined = torch.cat([text_features(texts[start : start + batch_size]).to(device) for start in starts])
    kept = {stream: rows[first] for stream, rows in x.items()}
    kept["clip_txt"] = torch.nn.functional.normalize(joined, dim=1)
    return Pool("joined", kept, {stream: np.arange(len(first)) for stream in x})


def distinct_images(store: FeatureStore, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """First row of every distinct image by appearance [n_images], and every row's image number [n]."""
    _, first, number = np.unique(store.image_ids[:size], return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[number]


def search(pool: Pool, kind: str, pair: Pair, queries, references, coding: str = "independent") -> Row:
    """One `Row`. pair: (query, reference), the streams of the pool whose rows are given as embeddings
    `queries` [n, d] and `references` [m, d], both dense or both sparse."""
    query, reference = pair
    result = retrieval_metrics(queries, references, positives=pool.positives(query, reference))
    quality = (result.recall[1], result.recall[5], result.recall[10], result.median_rank, result.mrr)
    return Row(kind, coding, pool.protocol, query, reference, *quality, len(result.ranks), result.n_reference)


def pool_codes(model: SPARC, pool: Pool) -> dict[str, sp.csr_matrix]:
    """Independent codes {stream: CSR [n_s, n_latents]}: every stream is coded alone, whatever rows it has."""
    return {s: encode_store(model, {s: x}, "independent")[s] for s, x in pool.features.items()}


def model_rows(
    model: SPARC,
    pool: Pool,
    kinds: Sequence[str] = (CODES, OWN, CROSS),
    pairs: Iterable[Pair] | None = None,
    means: Mapping[str, Tensor] | None = None,
) -> Iterator[Row]:
    """Searches of one model. pairs: (query, reference); None: all ordered pairs of streams. means: train
    means {stream: [d]}, which CENTRED takes off both sides as the linear baselines do."""
    codes = pool_codes(model, pool)
    for pair in pairs or permutations(codes, 2):
        query, reference = pair
        target = pool.features[reference]
        if CODES in kinds:
            yield search(pool, CODES, pair, codes[query], codes[reference])
        if CROSS in kinds:
            yield search(pool, CROSS, pair, _rebuilt(model, codes[query], reference), target)
        if CENTRED in kinds:
            rebuilt = _rebuilt(model, codes[query], reference)
            yield search(pool, CENTRED, pair, rebuilt - means[reference], target - means[reference])
    if OWN in kinds:
        for stream, target in pool.features.items():
            yield search(pool, OWN, (stream, stream), _rebuilt(model, codes[stream], stream), target)


def _rebuilt(model: SPARC, codes: sp.csr_matrix, target: str) -> Tensor:
    return Reconstruction(model, codes, target).batch(slice(None)).to(model.decoder[target].device)


def code_rows(model: SPARC, pool: Pool, coding: Coding) -> Iterator[Row]:
    """Searches by codes in all directions, as pairs; joint ones show what the global gate leaks (F3)."""
    codes = encode_store(model, pool.features, coding)
    for query, reference in permutations(codes, 2):
        yield search(pool, CODES, (query, reference), codes[query], codes[reference], coding)


def raw_rows(pool: Pool) -> Iterator[Row]:
    """CLIP's own features, both directions."""
    for query, reference in permutations(CLIP):
        yield search(
            pool, RAW, (query, reference), pool.features[query], pool.features[reference], "features"
        )


def retrieval_table(profile: Profile) -> pd.DataFrame:
    """All searches of a profile's settings and seeds among its test pairs, with controls.

    `Row`s with the columns model ("trained", "untrained", "random encoders", "raw"), setting and seed in
    front. Every trained model is searched by every kind and pair; the first setting also as CENTRED, and
    under the protocols "captions" (between text and images; COCO's pairs are joined already, here they are
    apart) and "joined" (within CLIP). For the first seed there are joint codes of captions among images under
    the first setting. Controls of every seed are models of random-weight encoders for every setting, and one
    untrained model, for neither λ nor, with independent codes, the gate reaches a model that was never
    trained.
    """
    rows = _searches(profile)
    headline = rows.setting == profile.settings[0].name
    leak = headline & (rows["query"] == "clip_txt") & (rows.reference == "clip_img")
    kept = (rows.model != "untrained") | headline
    kept &= (rows.coding != "joint") | leak
    return rows[kept].reset_index(drop=True)


def code_table(profile: Profile) -> pd.DataFrame:
    """The searches by codes, as pairs, of the same models and one untrained a setting; then raw CLIP.

    `CODE_COLUMNS`. Independent codes of every setting and seed; before the first seed's, joint ones.
    """
    rows = _searches(profile)
    codes = rows[(rows.protocol == "pairs") & (rows.kind == CODES)]
    parts = []
    for _, of_model in codes.groupby(["model", "setting", "seed"], sort=False):
        parts += [of_model[of_model.coding == "joint"], of_model[of_model.coding == "independent"]]
    raw = rows[(rows.protocol == "pairs") & (rows.model == "raw")]
    return pd.concat([*parts, raw], ignore_index=True)[CODE_COLUMNS]


def _searches(profile: Profile) -> pd.DataFrame:
    """Every search of both tables."""
    first, headline = profile.seeds[0], profile.settings[0]
    runs = [Run("raw", None, first, (PROTOCOLS,)), Run("random encoders", None, first)]
    for setting in profile.settings:
        for seed in profile.seeds:
            also = (CENTRED, PROTOCOLS) if setting == headline else ()
            runs.append(Run("trained", setting, seed, (*also, LEAK) if seed == first else also))
    for seed in profile.seeds:
        also = (LEAK,) if seed == first else ()
        runs += [Run("untrained", setting, seed, also) for setting in by_gate(profile)]
        runs += [Run("random encoders", setting, seed, also) for setting in profile.settings]
    single = features(profile, "test", single_captions=True)
    rows = table(
        "retrieval",
        profile,
        runs,
        partial(_measure, profile, single.directory),
        {"pool": profile.evaluation.retrieval_pool, "single": single.digest},
    )
    rows.loc[rows.kind == RAW, "setting"] = "raw_clip"
    return rows


def _measure(profile: Profile, single: Path, model: SPARC | None, stores: Stores, run: Run) -> pd.DataFrame:
    """All searches of one model, or of the features themselves. single: the test pairs with a row a caption,
    which are other rows than the test split's in COCO only (F15)."""
    device = best_device()
    pool = pairs_pool(stores["test"], profile.evaluation.retrieval_pool, device)
    captions = joined = None
    if PROTOCOLS in run.also:
        captions, joined = _other_pools(profile, stores["test"], FeatureStore.open(single), device)
    if model is None:
        pools = [pool] if captions is None else [pool, captions, joined]
        return pd.DataFrame([row for one in pools for row in raw_rows(one)], columns=Row._fields)
    means = None
    kinds = [CODES, OWN, CROSS]
    if CENTRED in run.also:
        means = {stream: mean.to(device) for stream, mean in train_means(stores["train"]).items()}
        kinds.append(CENTRED)
    rows = list(model_rows(model, pool, kinds, means=means))
    if captions is not None:
        with_text = [pair for pair in permutations(stores["test"].streams, 2) if "clip_txt" in pair]
        rows += model_rows(model, captions, (CODES, CROSS), with_text)
        rows += model_rows(model, joined, (CODES, CROSS), permutations(CLIP))
    if LEAK in run.also:
        rows += code_rows(model, pool, "joint")
    return pd.DataFrame(rows, columns=Row._fields)


def _other_pools(
    profile: Profile, test: FeatureStore, single: FeatureStore, device: str
) -> tuple[Pool, Pool]:
    """The pools of captions apart and of captions joined, over the same images as the pairs."""
    _, clip = encoders(profile, device=device)
    size = profile.evaluation.retrieval_pool
    single_size = size
    if single.digest != test.digest:
        single_size = int(np.isin(single.image_ids, test.image_ids[:size]).sum())
    captions = captions_pool(single, single_size, device)
    return captions, joined_pool(test, clip.text_features, size, device)
