"""Where a latent looks in the scenes that are shown: relevance of patches and words, quantised to 4 bits.

The map is the attention relevance of the attribution room for one latent's activation. Where the latent
fires, that is its encoder row times the unit feature plus a constant, so one traced pass of a scene serves
every latent of every setting that shows it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...attribution.attention import Trace, trace_image, trace_text
from ...attribution.relevance import patch_map, text_relevance, word_relevance, words_of
from ...data.pairs import PairedDataset
from ...features.encoders import ClipEncoder, DinoEncoder

BATCH = 32  # scenes a traced pass
LEVELS = 15  # the highest quantised value
CUT = (
    0.02  # share of patches that may exceed the top of an image's scale: single patches often tower above all
)


class Requests(NamedTuple):
    """n maps of a stream: store rows [n], and latents [n], the rows of `directions` [m, d] (encoder rows)."""

    rows: list[int]
    latents: list[int]
    directions: Tensor


def patch_maps(
    encoder: DinoEncoder | ClipEncoder, data: PairedDataset, places: Sequence[int], requests: Requests
) -> list[str]:
    """Relevance of patches, a text a request: levels [rows x columns of patches], two a byte, base64.

    places: of the store's rows in `data`. An encoder sees what it saw for its features: a photograph's crop.
    """

    def trace(rows: Sequence[int]) -> Trace:
        pixels = [encoder.preprocess(data.image(places[row])) for row in rows]
        return trace_image(encoder, torch.stack(pixels))

    # Behind the last attention only the CLS token is read; without the rest the same maps take half the time.
    hook = _last_norm(encoder).register_forward_pre_hook(lambda _, inputs: inputs[0][:, :1])
    try:
        maps = _relevance(trace, _patch_relevance, requests)
    finally:
        hook.remove()
    texts = []
    for values in maps:
        levels = _levels(np.sqrt(values.ravel() / max(np.quantile(values, 1 - CUT), 1e-30)))
        even = np.append(levels, np.zeros(len(levels) % 2, np.uint8))
        texts.append(base64.b64encode(even[::2] << 4 | even[1::2]).decode())
    return texts


def word_maps(clip: ClipEncoder, captions: Sequence[str], requests: Requests) -> list[str]:
    """Relevance of the words of captions, a text a request: a hexadecimal digit a word of `words_of`."""
    words = {row: words_of(clip, captions[row]) for row in set(requests.rows)}

    def trace(rows: Sequence[int]) -> Trace:
        return trace_text(clip, [captions[row] for row in rows])

    texts = []
    for row, tokens in zip(requests.rows, _relevance(trace, text_relevance, requests)):
        values = word_relevance(words[row], tokens)
        levels = _levels(values / max(values.max(initial=0), 1e-30))
        texts.append("".join(f"{level:x}" for level in levels))
    return texts


def caption_pieces(clip: ClipEncoder, caption: str) -> list[str]:
    """The caption cut behind every word of `words_of`, and the rest, which the encoder may not have read.

    The words alone, if cleaning changed the text so that one of them is not found in it.
    """
    words = [word.text for word in words_of(clip, caption)]
    pieces, start = [], 0
    for word in words:
        position = caption.lower().find(word.lower(), start)
        if position < 0:
            return [f" {word}" for word in words]
        pieces.append(caption[start : position + len(word)])
        start = position + len(word)
    return [*pieces, caption[start:]]


def _last_norm(encoder: DinoEncoder | ClipEncoder) -> nn.Module:
    if isinstance(encoder, DinoEncoder):
        return encoder.model.encoder.layer[-1].norm2
    return encoder.model.visual.transformer.resblocks[-1].ln_2


def _patch_relevance(trace: Trace, target: Tensor) -> Tensor:
    """`attribution.relevance.heatmap` of one traced block, of which one row is enough."""
    (gradient,) = torch.autograd.grad(target.sum(), trace.attention, retain_graph=True)
    row = (gradient[:, :, 0] * trace.attention[0].detach()[:, :, 0]).relu().mean(1)
    return patch_map(trace, row)


def _relevance(
    trace: Callable[[Sequence[int]], Trace], read: Callable[[Trace, Tensor], Tensor], requests: Requests
) -> list[np.ndarray]:
    """What `read` gives for every request, in their order; the rows asked for most often share batches."""
    numbers_of: dict[int, list[int]] = {}
    for number, row in enumerate(requests.rows):
        numbers_of.setdefault(row, []).append(number)
    busiest_first = sorted(numbers_of, key=lambda row: -len(numbers_of[row]))
    latents = torch.tensor(requests.latents)
    results: list[np.ndarray] = [np.empty(0)] * len(requests.rows)
    for start in range(0, len(busiest_first), BATCH):
        rows = busiest_first[start : start + BATCH]
        traced = trace(rows)
        for turn in range(len(numbers_of[rows[0]])):
            # a row without a further request repeats its last one
            numbers = [numbers_of[row][min(turn, len(numbers_of[row]) - 1)] for row in rows]
            directions = requests.directions[latents[numbers]].to(traced.unit)
            activation = (traced.unit * directions).sum(1)
            for number, values in zip(numbers, read(traced, activation).cpu().numpy()):
                results[number] = values
    return results


def _levels(share: np.ndarray) -> np.ndarray:
    return np.round(LEVELS * np.clip(share, 0, 1)).astype(np.uint8)
