"""Where a target looks: heatmaps over image patches and over the words of a caption (section "Attribution").

A target is one number a sample, [B], differentiable in the features: the activation of latents, the match of a
caption's code with an image's, or CLIP's cosine. Attention relevance (Chefer et al.) and Grad-CAM ask how the
attention of the traced blocks and their input move it. Samples of a batch do not touch each other, so one backward
pass of the summed target serves the whole batch, and one traced pass serves any number of targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..features.encoders import ClipEncoder, DinoEncoder
from ..model import SPARC, Code, Codes, Coding
from .attention import Trace, trace_image, trace_text

Traces = dict[str, Trace]  # by stream


def attention_relevance(
    attention: Tensor | np.ndarray, gradient: Tensor | np.ndarray, start_block: int = 0
) -> Tensor | np.ndarray:
    """R [T, T] from attention probabilities and their gradients, both [blocks, heads, T, T].

    R starts as the identity; every block from `start_block` on adds mean_heads(ReLU(gradient * attention)) R. Row i
    tells what token i draws on. Arrays give an array, tensors a tensor. Raises ValueError for other shapes.
    """
    a, g = torch.as_tensor(attention), torch.as_tensor(gradient)
    if a.ndim != 4 or a.shape != g.shape or a.shape[-1] != a.shape[-2] or not 0 <= start_block <= len(a):
        raise ValueError(
            f"attention {list(a.shape)}, gradient {list(g.shape)}, start_block {start_block}: expected "
            "twice [blocks, heads, T, T] and 0 <= start_block <= blocks"
        )
    relevance = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    for step in (g * a).relu().mean(1)[start_block:]:
        relevance = relevance + step @ relevance
    return relevance.numpy() if isinstance(attention, np.ndarray) else relevance


def relevance_row(attention: Sequence[Tensor], gradient: Sequence[Tensor], query: Tensor) -> Tensor:
    """Row `query[i]` of sample i's R, [B, T], for blocks of [B, heads, T, T]; B [B] of token numbers.

    R = (1 + M_n) ... (1 + M_1), so one row needs vector-matrix products only, taken from the last block down.
    """
    row = F.one_hot(query, attention[0].shape[-1]).to(attention[0].dtype)
    for a, g in zip(reversed(attention), reversed(gradient)):
        row = row + (row.unsqueeze(1) @ (g * a).relu().mean(1)).squeeze(1)
    return row


def token_relevance(trace: Trace, target: Tensor, attention: Sequence[Tensor] | None = None) -> Tensor:
    """What the pooled token draws on for `target` [B]: [B, T], the query token itself included.

    attention: probabilities to weigh the gradients with instead of the trace's own (for controls). The graph stays
    usable for further targets.
    """
    gradient = torch.autograd.grad(target.sum(), trace.attention, retain_graph=True)
    with torch.no_grad():
        return relevance_row([a.detach() for a in attention or trace.attention], gradient, trace.query)


def heatmap(trace: Trace, target: Tensor, attention: Sequence[Tensor] | None = None) -> Tensor:
    """Attention relevance of the image patches for `target` [B]: [B, rows, columns], >= 0."""
    return patch_map(trace, token_relevance(trace, target, attention))


def patch_map(trace: Trace, tokens: Tensor) -> Tensor:
    """Values of tokens [B, T] -> those of the image patches as [B, rows, columns]."""
    return tokens[:, trace.patches :].unflatten(1, trace.grid)


def raw_attention(trace: Trace) -> Tensor:
    """The CLS token's attention in the last block, mean over heads, [B, rows, columns]: saliency without a target."""
    return patch_map(trace, trace.attention[-1].detach().mean(1)[:, 0])


def grad_cam(trace: Trace, target: Tensor) -> Tensor:
    """Grad-CAM at the last block's first layer norm for `target` [B]: [B, rows, columns], >= 0.

    Channels weigh by their gradient's mean over patches; what speaks against the target is cut off.
    """
    (gradient,) = torch.autograd.grad(target.sum(), trace.norm, retain_graph=True)
    with torch.no_grad():
        weight = gradient[:, trace.patches :].mean(1, keepdim=True)
        return patch_map(trace, (trace.norm.detach() * weight).sum(-1).relu())


def text_relevance(trace: Trace, target: Tensor) -> Tensor:
    """Relevance of every token of the texts for `target` [B]: [B, T], >= 0; the end token itself and padding are 0."""
    tokens = token_relevance(trace, target)
    before_end = torch.arange(tokens.shape[1], device=tokens.device) < trace.query.unsqueeze(1)
    return tokens * before_end


# Targets


def latent_target(code: Code, latents: Sequence[int] | Tensor) -> Tensor:
    """Sum of the codes of some latents, [B]. latents: their numbers, or a bool table [B, n_latents], a set a sample."""
    wanted = torch.as_tensor(latents, device=code.indices.device)
    if wanted.dtype == torch.bool and wanted.ndim == 2:
        chosen = wanted.gather(1, code.indices)
    else:
        chosen = torch.isin(code.indices, wanted.long())
    return (code.values * chosen).sum(1)


def match_target(image: Code, text: Code) -> Tensor:
    """z_text · z_image of every sample, [B]: how well a caption's code fits an image's, whatever encoder made it."""
    same = image.indices.unsqueeze(2) == text.indices.unsqueeze(1)
    return (image.values.unsqueeze(2) * text.values.unsqueeze(1) * same).sum((1, 2))


def similarity_target(image: Trace, text: Trace) -> Tensor:
    """CLIP's cosine of image and text, [B]: the baseline."""
    return (image.unit * text.unit).sum(1)


# Passes


def trace_pairs(
    dino: DinoEncoder,
    clip: ClipEncoder,
    images: Sequence[Image.Image],
    texts: Sequence[str],
    start_block: int = -1,
) -> Traces:
    """Traced passes of B (image, text) pairs in all three streams; every encoder gets its own preprocessing (F16)."""

    def pixels(encoder: DinoEncoder | ClipEncoder) -> Tensor:
        return torch.stack([encoder.preprocess_square(image) for image in images])

    return {
        "dino": trace_image(dino, pixels(dino), start_block),
        "clip_img": trace_image(clip, pixels(clip), start_block),
        "clip_txt": trace_text(clip, texts, start_block),
    }


def encode_traces(model: SPARC, traces: Mapping[str, Trace], coding: Coding) -> Codes:
    """Codes of traced samples, differentiable down to their attention. Joint: the texts take part in the gate."""
    return model.encode({stream: trace.unit for stream, trace in traces.items()}, coding)


class Explained(NamedTuple):
    """B traced (image, text) pairs with their codes; asks for relevance in any stream: [B, rows, columns] for an image
    stream, [B, T] (tokens) for the text stream."""

    traces: Traces
    codes: Codes

    def concept(self, stream: str, latents: Sequence[int] | Tensor) -> np.ndarray:
        """Where the stream's codes of these latents come from; see `latent_target`."""
        return self.of(stream, latent_target(self.codes[stream], latents))

    def caption(self, stream: str, other: str = "clip_img") -> np.ndarray:
        """What makes an image stream's code fit its caption's; for the text stream, the code of `other`."""
        image = other if stream == "clip_txt" else stream
        return self.of(stream, match_target(self.codes[image], self.codes["clip_txt"]))

    def similarity(self) -> np.ndarray:
        """CLIP's own cosine on the CLIP image, without SPARC."""
        return self.of("clip_img", similarity_target(self.traces["clip_img"], self.traces["clip_txt"]))

    def of(self, stream: str, target: Tensor) -> np.ndarray:
        """Relevance for any target [B] made of these traces."""
        relevance = text_relevance if stream == "clip_txt" else heatmap
        return relevance(self.traces[stream], target).cpu().numpy()


def explain(
    model: SPARC,
    pair: tuple[DinoEncoder, ClipEncoder],
    images: Sequence[Image.Image],
    texts: Sequence[str],
    coding: Coding = "independent",
    start_block: int = -1,
) -> Explained:
    """Trace and encode B (image, text) pairs. Under joint coding the texts take part in the gate."""
    traces = trace_pairs(*pair, images, texts, start_block)
    return Explained(traces, encode_traces(model, traces, coding))


# Words


class Word(NamedTuple):
    """A word of a text and the tokens it is made of."""

    text: str
    tokens: tuple[int, ...]


def words_of(clip: ClipEncoder, text: str) -> list[Word]:
    """The words of a text in order, as far as the tokenizer keeps them, with their positions among the tokens."""
    tokenizer = clip.tokenizer
    groups: dict[int, list[int]] = {}
    if (
        hasattr(tokenizer, "clean_fn")
        and hasattr(tokenizer, "context_length")
        and hasattr(tokenizer, "tokenizer")
    ):
        clean = tokenizer.clean_fn(text)
        coded = tokenizer.tokenizer(clean, max_length=tokenizer.context_length, truncation=True)
        for position, word in enumerate(coded.word_ids()):
            if word is not None:
                groups.setdefault(word, []).append(position)
        return [
            Word(clean[slice(*coded.word_to_chars(word))], tuple(places)) for word, places in groups.items()
        ]
    ids = clip.tokenize([text])[0].tolist()
    words, open_tokens = [], []
    for position in range(1, ids.index(max(ids))):  # between start and end token
        open_tokens.append(position)
        if tokenizer.decoder[ids[position]].endswith("</w>"):
            words.append(Word(tokenizer.decode([ids[p] for p in open_tokens]).strip(), tuple(open_tokens)))
            open_tokens = []
    if open_tokens:  # a word that the context cut
        words.append(Word(tokenizer.decode([ids[p] for p in open_tokens]).strip(), tuple(open_tokens)))
    return words


def word_relevance(words: Sequence[Word], tokens: Tensor | np.ndarray) -> np.ndarray:
    """Relevance of words, [n_words], from that of one text's tokens [T]: the sum over a word's tokens."""
    return np.array([float(sum(tokens[position] for position in word.tokens)) for word in words])
