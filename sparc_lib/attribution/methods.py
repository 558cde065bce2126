"""Every kind of heatmap that is scored: SPARC's targets, CLIP similarity, controls, and a supervised reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor
from tqdm import tqdm

from ..concepts import class_latents, concept_names
from ..evaluation import encode_store
from ..features.encoders import ClipEncoder, DinoEncoder
from ..model import SPARC, Coding
from ..store.reader import FeatureStore
from .attention import Trace, trace_image, trace_text
from .relevance import (
    Traces,
    encode_traces,
    grad_cam,
    heatmap,
    latent_target,
    match_target,
    raw_attention,
    similarity_target,
    trace_pairs,
)
from .segmentation import AnnotatedImages

SUM, NAMED, CAPTION, CAPTION_SUM = "sum of latents", "named latents", "caption", "latents of the caption"
GRAD_CAM, UNIFORM = "caption, Grad-CAM", "caption, uniform attention"
WRONG, RAW = "wrong caption", "attention alone"
UNTRAINED, RANDOM_WEIGHTS = "caption, untrained SPARC", "caption, random encoders"
SIMILARITY, SIMILARITY_WRONG = "CLIP similarity", "CLIP similarity, wrong caption"
SIMILARITY_RANDOM = "CLIP similarity, random encoders"
GAUSSIAN, WHOLE, SUPERVISED = "centred Gaussian", "whole image", "patch classifier (masks)"
IMAGE_STREAMS = ("dino", "clip_img")
STREAMS = (*IMAGE_STREAMS, "clip_txt")
PROMPTS = {"miniworld": "In this image there is {}."}
PHOTO = "a photo of {}"  # where a data set has no captions of its own style
BATCH = 64  # regions a traced pass


class Method(NamedTuple):
    """What made a heatmap. group: "SPARC", "baseline", "control" or "reference". stream: whose patches it is on, ""
    where it reads no image. setting, coding: of the SPARC behind it, "" where there is none."""

    group: str
    target: str
    stream: str = ""
    setting: str = ""
    coding: str = ""
    seed: int = 0


class Guide(NamedTuple):
    """A SPARC that makes heatmaps. latents {target: {stream: bool [n_classes, n_latents]}}: whose codes are summed."""

    model: SPARC
    setting: str
    seed: int
    latents: dict[str, dict[str, np.ndarray]]


def guide(model: SPARC, setting: str, seed: int, store: FeatureStore, more_than: int) -> Guide:
    """Choose every class's latents on `store` (training data): by the published rule, active in more than `more_than`
    of the class's samples, and by name, for each stream alone."""
    codes = encode_store(model, store, "independent")
    names = concept_names(codes, store.labels, store.classes)
    return Guide(
        model.requires_grad_(False),
        setting,
        seed,
        {
            SUM: {stream: class_latents(codes[stream], store.labels, more_than) for stream in STREAMS},
            NAMED: {stream: names.table(stream) for stream in STREAMS},
        },
    )


def prompt(name: str, kind: str) -> str:
    """The guiding caption of a class in the style of its data set ("miniworld", "coco", ...)."""
    noun = name.lower()
    return PROMPTS.get(kind, PHOTO).format(("an " if noun[0] in "aeiou" else "a ") + noun)


def absent_classes(data: AnnotatedImages, generator: np.random.Generator) -> list[int]:
    """For every region a class that its image does not show, drawn at random among those that occur in the data."""
    shown: dict[int, set[int]] = {}
    for region in data.regions:
        shown.setdefault(region.image, set()).add(region.concept)
    occurring = sorted(set().union(*shown.values()))
    return [
        int(generator.choice([c for c in occurring if c not in shown[region.image]]))
        for region in data.regions
    ]


def centred_gaussian(grid: tuple[int, int], width: float = 0.25) -> np.ndarray:
    """[rows, columns]: a bell in the middle of the image whose standard deviation is `width` of its sides."""
    y, x = ((np.arange(n) + 0.5) / n - 0.5 for n in grid)
    return np.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * width**2)).astype(np.float32)


def sparc_maps(
    guide: Guide, traces: Traces, concepts: Tensor, coding: Coding, targets: Sequence[str]
) -> dict[Method, Tensor]:
    """Heatmaps of one batch in both image streams, [B, rows, columns]. `targets` among SUM and NAMED (the class's
    latents), CAPTION_SUM (those its prompt activates, unweighted), CAPTION (weighted by the prompt's code) and GRAD_CAM.

    concepts [B]: the class asked for; the text stream of `traces` holds its prompt, and takes part in a joint gate.
    """
    codes, out = encode_traces(guide.model, traces, coding), {}
    told = codes["clip_txt"].dense().detach() > 0  # [B, n_latents]
    for stream in IMAGE_STREAMS:
        for target in targets:
            method = Method("SPARC", target, stream, guide.setting, coding, guide.seed)
            if target in guide.latents or target == CAPTION_SUM:
                wanted = (
                    told
                    if target == CAPTION_SUM
                    else torch.from_numpy(guide.latents[target][stream]).to(concepts.device)[concepts]
                )
                out[method] = heatmap(traces[stream], latent_target(codes[stream], wanted))
            else:
                make = grad_cam if target == GRAD_CAM else heatmap
                out[method] = make(traces[stream], match_target(codes[stream], codes["clip_txt"]))
    return out


def control_maps(guide: Guide, traces: Traces, wrong: Trace, first: bool) -> dict[Method, Tensor]:
    """Independent coding: a caption of an absent class; with `first` also the last block's attention without any
    target, and, a variant of the rule rather than a control, gradients weighed by uniform attention."""
    out = {}
    astray = encode_traces(guide.model, {**traces, "clip_txt": wrong}, "independent")
    codes = encode_traces(guide.model, traces, "independent")
    for stream in IMAGE_STREAMS:
        key = (stream, guide.setting, "independent", guide.seed)
        out[Method("control", WRONG, *key)] = heatmap(
            traces[stream], match_target(astray[stream], astray["clip_txt"])
        )
        if first:
            even = [torch.full_like(a, 1 / a.shape[-1]) for a in traces[stream].attention]
            match = match_target(codes[stream], codes["clip_txt"])
            out[Method("SPARC", UNIFORM, *key)] = heatmap(traces[stream], match, even)
            out[Method("control", RAW, stream)] = raw_attention(traces[stream])
    return out


def benchmark_maps(
    data: AnnotatedImages,
    kind: str,
    pair: tuple[DinoEncoder, ClipEncoder],
    guides: Sequence[Guide],
    untrained: Guide,
    generator: np.random.Generator,
    random_pair: tuple[DinoEncoder, ClipEncoder] | None = None,
    random_guide: Guide | None = None,
    progress: bool = True,
) -> dict[Method, np.ndarray]:
    """Every heatmap of every region: {method: float32 [n_regions, rows, columns]}.

    guides: trained models, those of one setting one after the other, the headline setting first. Joint coding is made
    for global gates only, where it differs. untrained: the headline setting as initialised. random_pair and
    random_guide: encoders with random weights and the SPARC trained on them. kind: the data set's, for the prompts.
    """
    found: dict[Method, list[np.ndarray]] = {}
    wrong_concepts = absent_classes(data, generator)
    texts = [prompt(name, kind) for name in data.classes]
    headline = guides[0].setting

    def keep(maps: Mapping[Method, Tensor]) -> None:
        for method, values in maps.items():
            found.setdefault(method, []).append(values.float().cpu().numpy())

    for start in tqdm(range(0, len(data.regions), BATCH), desc="heatmaps", disable=not progress):
        rows = range(start, min(start + BATCH, len(data.regions)))
        images = [data.image(data.regions[i].image) for i in rows]
        asked, astray = [data.regions[i].concept for i in rows], [wrong_concepts[i] for i in rows]
        traces = trace_pairs(*pair, images, [texts[c] for c in asked])
        wrong = trace_text(pair[1], [texts[c] for c in astray])
        concepts = torch.tensor(asked, device=traces["dino"].features.device)
        image, text = traces["clip_img"], traces["clip_txt"]
        keep(
            {
                Method("baseline", SIMILARITY, "clip_img"): heatmap(image, similarity_target(image, text)),
                Method("control", SIMILARITY_WRONG, "clip_img"): heatmap(
                    image, similarity_target(image, wrong)
                ),
            }
        )
        for guide in guides:
            first = guide is guides[0]
            keep(
                sparc_maps(
                    guide,
                    traces,
                    concepts,
                    "independent",
                    (SUM, NAMED, CAPTION, CAPTION_SUM, *[GRAD_CAM] * first),
                )
            )
            if guide.model.gate == "global":
                keep(sparc_maps(guide, traces, concepts, "joint", (SUM, CAPTION)))
            if guide.setting == headline:
                keep(control_maps(guide, traces, wrong, first))
        keep(_as_control(sparc_maps(untrained, traces, concepts, "independent", (CAPTION,)), UNTRAINED))
        if random_pair is not None:
            noise = trace_pairs(*random_pair, images, [texts[c] for c in asked])
            keep(
                _as_control(
                    sparc_maps(random_guide, noise, concepts, "independent", (CAPTION,)), RANDOM_WEIGHTS
                )
            )
            keep(
                {
                    Method("control", SIMILARITY_RANDOM, "clip_img"): heatmap(
                        noise["clip_img"], similarity_target(noise["clip_img"], noise["clip_txt"])
                    )
                }
            )
    out = {method: np.concatenate(parts) for method, parts in found.items()}
    bell, flat = (
        np.broadcast_to(one, (len(data.regions), *one.shape)).astype(np.float32)
        for one in (centred_gaussian(pair[0].patch_grid), np.ones(pair[0].patch_grid))
    )
    return out | {Method("control", GAUSSIAN): bell, Method("control", WHOLE): flat}


def _as_control(maps: Mapping[Method, Tensor], name: str) -> dict[Method, Tensor]:
    return {method._replace(group="control", target=name): values for method, values in maps.items()}


def supervised_maps(
    encoder: DinoEncoder | ClipEncoder, train: AnnotatedImages, data: AnnotatedImages
) -> np.ndarray:
    """What patch tokens allow when masks may be learned from: [n_regions, rows, columns], probabilities; all 0 if
    there are no masks.

    Linear discriminant analysis of the last block's patch tokens into classes and background, fitted on the masks of
    `train`; a patch belongs to the class that covers at least half of it. A class without a patch there gets 0.
    """
    grid = encoder.patch_grid
    if train.lacks:
        return np.zeros((len(data.regions), *grid), np.float32)
    truth = np.full((len(train.ids), *grid), -1)
    for region, cover in zip(train.regions, train.cover(grid)):
        truth[region.image][cover >= 0.5] = region.concept
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1e-3)
    model.fit(_patch_tokens(encoder, train).reshape(truth.size, -1), truth.ravel())
    images = sorted({region.image for region in data.regions})
    place, column = ({key: i for i, key in enumerate(keys)} for keys in (images, model.classes_.tolist()))
    tokens = _patch_tokens(encoder, data, images)
    likely = model.predict_proba(tokens.reshape(-1, tokens.shape[-1])).reshape(len(images), *grid, -1)
    return np.stack(
        [
            likely[place[region.image], :, :, column[region.concept]]
            if region.concept in column
            else np.zeros(grid)
            for region in data.regions
        ]
    ).astype(np.float32)


def _patch_tokens(
    encoder: DinoEncoder | ClipEncoder, data: AnnotatedImages, images: Sequence[int] | None = None
) -> np.ndarray:
    """[n_images, n_patches, width] of the last block."""
    images = range(len(data.ids)) if images is None else images
    parts = []
    for start in range(0, len(images), BATCH):
        pixels = torch.stack(
            [encoder.preprocess_square(data.image(i)) for i in images[start : start + BATCH]]
        )
        trace = trace_image(encoder, pixels)
        parts.append(trace.tokens[:, trace.patches :].detach().float().cpu().numpy())
    return np.concatenate(parts)
