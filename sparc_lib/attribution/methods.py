"""Every kind of heatmap that is scored: of SPARC, of CLIP, controls, and a supervised reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..concepts import class_latents, concept_names
from ..evaluation import encode_store
from ..model import SPARC, Coding
from ..store.reader import FeatureStore
from .attention import Trace, trace_image, trace_text
from .relevance import (
    Pair,
    Traces,
    encode_traces,
    grad_cam,
    heatmap,
    latent_target,
    match_target,
    raw_attention,
    similarity_target,
    square_pixels,
    trace_pairs,
)
from .segmentation import AnnotatedImages

if TYPE_CHECKING:
    from ..features.encoders import ClipEncoder, DinoEncoder

# Names of targets, of controls and of the reference, as tables and figures show them.
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
    """What made a heatmap. group: "SPARC", "baseline", "control" or "reference". stream: whose patches it is
    on, "" where it reads no image. setting, coding: of the SPARC behind it, "" where there is none."""

    group: str
    target: str
    stream: str = ""
    setting: str = ""
    coding: str = ""
    seed: int = 0


Maps = dict[Method, Tensor]  # [B, rows, columns] each


class Guide(NamedTuple):
    """A SPARC that makes heatmaps. latents: {target: {stream: bool [n_classes, n_latents]}}, to be summed."""

    model: SPARC
    setting: str
    seed: int
    latents: dict[str, dict[str, np.ndarray]]

    def method(self, group: str, target: str, stream: str, coding: Coding = "independent") -> Method:
        return Method(group, target, stream, self.setting, coding, self.seed)


@dataclass(frozen=True)
class Benchmark:
    """What is compared on every region of `data`.

    kind: the data set's, for the prompts. guides: trained models, those of one setting one after the other,
    the headline setting first. untrained: the headline setting as initialised. random_pair, random_guide:
    encoders with random weights and the SPARC trained on them.
    """

    data: AnnotatedImages
    kind: str
    pair: Pair
    guides: Sequence[Guide]
    untrained: Guide
    random_pair: Pair
    random_guide: Guide


def guide(model: SPARC, setting: str, seed: int, store: FeatureStore, more_than: int) -> Guide:
    """Choose every class's latents on `store` (training data): by the published rule, active in more than
    `more_than` of the class's samples, and by name, for each stream alone."""
    codes = encode_store(model, store, "independent")
    names = concept_names(codes, store.labels, store.classes)
    latents = {
        SUM: {stream: class_latents(codes[stream], store.labels, more_than) for stream in STREAMS},
        NAMED: {stream: names.table(stream) for stream in STREAMS},
    }
    return Guide(model.requires_grad_(False), setting, seed, latents)


def prompt(name: str, kind: str) -> str:
    """The guiding caption of a class in the style of its data set ("miniworld", "coco", ...)."""
    noun = name.lower()
    article = "an" if noun[0] in "aeiou" else "a"
    return PROMPTS.get(kind, PHOTO).format(f"{article} {noun}")


def absent_classes(data: AnnotatedImages, generator: np.random.Generator) -> list[int]:
    """For every region a class that its image does not show, drawn among those that occur in the data."""
    shown: dict[int, set[int]] = {}
    for region in data.regions:
        shown.setdefault(region.image, set()).add(region.concept)
    occurring = sorted(set().union(*shown.values()))
    absent = []
    for region in data.regions:
        candidates = [concept for concept in occurring if concept not in shown[region.image]]
        absent.append(int(generator.choice(candidates)))
    return absent


def centred_gaussian(grid: tuple[int, int], width: float = 0.25) -> np.ndarray:
    """[rows, columns]: a bell in the middle of the image whose standard deviation is `width` of its sides."""
    y, x = ((np.arange(n) + 0.5) / n - 0.5 for n in grid)
    return np.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * width**2)).astype(np.float32)


def sparc_maps(
    guide: Guide, traces: Traces, concepts: Tensor, coding: Coding, targets: Sequence[str]
) -> Maps:
    """Heatmaps of one batch in both image streams. `targets` among SUM and NAMED (the class's latents),
    CAPTION_SUM (latents its prompt activates, unweighted), CAPTION (weighted by the prompt's code), GRAD_CAM.

    concepts [B]: the class asked for. The text stream of `traces` holds its prompt, part of a joint gate.
    """
    codes = encode_traces(guide.model, traces, coding)
    text = codes["clip_txt"]
    maps = {}
    for stream in IMAGE_STREAMS:
        trace, code = traces[stream], codes[stream]
        for target in targets:
            if target in guide.latents:
                table = torch.from_numpy(guide.latents[target][stream]).to(concepts.device)
                score = latent_target(code, table[concepts])
            elif target == CAPTION_SUM:
                score = latent_target(code, text.dense().detach() > 0)
            else:
                score = match_target(code, text)
            make_map = grad_cam if target == GRAD_CAM else heatmap
            maps[guide.method("SPARC", target, stream, coding)] = make_map(trace, score)
    return maps


def control_maps(guide: Guide, traces: Traces, wrong: Trace, first: bool) -> Maps:
    """Independent coding: a caption of an absent class; with `first` also the last block's attention without
    any target, and, a variant of the rule rather than a control, gradients weighed by uniform attention."""
    maps = {}
    wrong_codes = encode_traces(guide.model, {**traces, "clip_txt": wrong}, "independent")
    codes = encode_traces(guide.model, traces, "independent")
    for stream in IMAGE_STREAMS:
        trace = traces[stream]
        wrong_match = match_target(wrong_codes[stream], wrong_codes["clip_txt"])
        maps[guide.method("control", WRONG, stream)] = heatmap(trace, wrong_match)
        if first:
            uniform = [torch.full_like(block, 1 / block.shape[-1]) for block in trace.attention]
            match = match_target(codes[stream], codes["clip_txt"])
            maps[guide.method("SPARC", UNIFORM, stream)] = heatmap(trace, match, uniform)
            maps[Method("control", RAW, stream)] = raw_attention(trace)
    return maps


def region_maps(
    benchmark: Benchmark, numbers: Sequence[int], absent: Sequence[int]
) -> dict[Method, np.ndarray]:
    """Every heatmap of the regions with these numbers: {method: float32 [n, rows, columns]}.

    Joint coding is made for global gates only, where it differs. absent: of `absent_classes`.
    """
    parts: dict[Method, list[np.ndarray]] = {}
    for start in range(0, len(numbers), BATCH):
        for maps in _batch_maps(benchmark, numbers[start : start + BATCH], absent):
            for method, values in maps.items():
                parts.setdefault(method, []).append(values.cpu().numpy())
    return {method: np.concatenate(values) for method, values in parts.items()}


def blind_maps(grid: tuple[int, int], n_regions: int) -> dict[Method, np.ndarray]:
    """Controls that never see a picture: a bell in its middle, and the whole of it."""
    maps = {GAUSSIAN: centred_gaussian(grid), WHOLE: np.ones(grid, np.float32)}
    return {Method("control", name): np.broadcast_to(one, (n_regions, *grid)) for name, one in maps.items()}


def _batch_maps(benchmark: Benchmark, numbers: Sequence[int], absent: Sequence[int]) -> Iterator[Maps]:
    """Heatmaps of the regions with these numbers; absent: of `absent_classes`."""
    data, guides = benchmark.data, benchmark.guides
    regions = [data.regions[number] for number in numbers]
    images = [data.image(region.image) for region in regions]
    prompts = [prompt(data.classes[region.concept], benchmark.kind) for region in regions]
    wrong_prompts = [prompt(data.classes[absent[number]], benchmark.kind) for number in numbers]
    traces = trace_pairs(*benchmark.pair, images, prompts)
    wrong = trace_text(benchmark.pair[1], wrong_prompts)
    image = traces["clip_img"]
    concepts = torch.tensor([region.concept for region in regions], device=image.features.device)
    yield {
        Method("baseline", SIMILARITY, "clip_img"): _similarity_map(image, traces["clip_txt"]),
        Method("control", SIMILARITY_WRONG, "clip_img"): _similarity_map(image, wrong),
    }
    for guide in guides:
        targets = (SUM, NAMED, CAPTION, CAPTION_SUM)
        if guide is guides[0]:
            targets += (GRAD_CAM,)
        yield sparc_maps(guide, traces, concepts, "independent", targets)
        if guide.model.gate == "global":
            yield sparc_maps(guide, traces, concepts, "joint", (SUM, CAPTION))
        if guide.setting == guides[0].setting:
            yield control_maps(guide, traces, wrong, first=guide is guides[0])
    untrained = sparc_maps(benchmark.untrained, traces, concepts, "independent", (CAPTION,))
    yield _as_control(untrained, UNTRAINED)
    noise = trace_pairs(*benchmark.random_pair, images, prompts)
    on_noise = sparc_maps(benchmark.random_guide, noise, concepts, "independent", (CAPTION,))
    yield _as_control(on_noise, RANDOM_WEIGHTS)
    similarity = _similarity_map(noise["clip_img"], noise["clip_txt"])
    yield {Method("control", SIMILARITY_RANDOM, "clip_img"): similarity}


def _similarity_map(image: Trace, text: Trace) -> Tensor:
    return heatmap(image, similarity_target(image, text))


def _as_control(maps: Maps, name: str) -> Maps:
    return {method._replace(group="control", target=name): values for method, values in maps.items()}


def supervised_maps(
    encoder: DinoEncoder | ClipEncoder,
    train: AnnotatedImages,
    data: AnnotatedImages,
    least_cover: float = 0.5,
) -> np.ndarray:
    """What patch tokens allow when masks may be learned from: probabilities, [n_regions, rows, columns].

    Linear discriminant analysis of the last block's patch tokens into classes and background, fitted on the
    masks of `train`; a patch belongs to the class that covers at least `least_cover` of it, the last of them
    if there are several. A class without a patch there gets 0, as all do without masks.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # takes a second to import

    grid = encoder.patch_grid
    maps = np.zeros((len(data.regions), *grid), np.float32)
    if train.lacks:
        return maps
    truth = np.full((len(train.ids), *grid), -1)
    for region, cover in zip(train.regions, train.cover(grid)):
        truth[region.image][cover >= least_cover] = region.concept
    tokens = _patch_tokens(encoder, train, range(len(train.ids)))
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1e-3)
    model.fit(tokens.reshape(truth.size, -1), truth.ravel())
    images = sorted({region.image for region in data.regions})
    tokens = _patch_tokens(encoder, data, images)
    likely = model.predict_proba(tokens.reshape(-1, tokens.shape[-1])).reshape(len(images), *grid, -1)
    place_of = {image: place for place, image in enumerate(images)}
    column_of = {concept: column for column, concept in enumerate(model.classes_.tolist())}
    for number, region in enumerate(data.regions):
        if region.concept in column_of:
            maps[number] = likely[place_of[region.image], :, :, column_of[region.concept]]
    return maps


def _patch_tokens(
    encoder: DinoEncoder | ClipEncoder, data: AnnotatedImages, images: Sequence[int]
) -> np.ndarray:
    """[n_images, n_patches, width] of the last block."""
    parts = []
    for start in range(0, len(images), BATCH):
        batch = [data.image(number) for number in images[start : start + BATCH]]
        trace = trace_image(encoder, square_pixels(encoder, batch))
        parts.append(trace.tokens[:, trace.patches :].detach().cpu().numpy())
    return np.concatenate(parts)
