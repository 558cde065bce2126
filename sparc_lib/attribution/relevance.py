"""Where a target looks: heatmaps over image patches and over the words of a caption (section "Attribution").

A target is one number a sample, [B], differentiable in the features: the activation of latents, the match of
a caption's code with an image's, or CLIP's cosine. Attention relevance (Chefer et al.) and Grad-CAM ask how
the attention of the traced blocks and their input move it. Samples of a batch do not touch each other, so one
backward pass of the summed target serves the whole batch, and one traced pass serves any number of targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..model import SPARC, Code, Codes, Coding
from .attention import Trace, trace_image, trace_text

if TYPE_CHECKING:
    from ..features.encoders import ClipEncoder, DinoEncoder

Pair: TypeAlias = "tuple[DinoEncoder, ClipEncoder]"
Traces = dict[str, Trace]  # by stream


def attention_relevance(
    attention: Tensor | np.ndarray, gradient: Tensor | np.ndarray, start_block: int = 0
) -> Tensor | np.ndarray:
    """R [T, T] from attention probabilities and their gradients, both [blocks, heads, T, T].

    R starts as the identity; every block from `start_block` on adds mean_heads(ReLU(gradient * attention)) R.
    Row i tells what token i draws on. Arrays give an array, tensors a tensor. Other shapes: ValueError.
    """
    a = torch.as_tensor(attention)
    g = torch.as_tensor(gradient)
    square = a.ndim == 4 and a.shape == g.shape and a.shape[-1] == a.shape[-2]
    if not square or not 0 <= start_block <= len(a):
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

    attention: probabilities to weigh the gradients with instead of the trace's own (for controls). The graph
    stays usable for further targets.
    """
    gradient = torch.autograd.grad(target.sum(), trace.attention, retain_graph=True)
    weights = attention or trace.attention
    with torch.no_grad():
        return relevance_row(weights, gradient, trace.query)


def heatmap(trace: Trace, target: Tensor, attention: Sequence[Tensor] | None = None) -> Tensor:
    """Attention relevance of the image patches for `target` [B]: [B, rows, columns], >= 0."""
    return patch_map(trace, token_relevance(trace, target, attention))


def patch_map(trace: Trace, tokens: Tensor) -> Tensor:
    """Values of tokens [B, T] -> those of the image patches as [B, rows, columns]."""
    return tokens[:, trace.patches :].unflatten(1, trace.grid)


def raw_attention(trace: Trace) -> Tensor:
    """The CLS token's mean attention in the last block, [B, rows, columns]: saliency without a target."""
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
    """Relevance of texts' tokens for `target` [B]: [B, T], >= 0; 0 for the end token itself and padding."""
    return before_end(trace, token_relevance(trace, target))


def before_end(trace: Trace, tokens: Tensor) -> Tensor:
    """Values of text tokens [B, T] with the end token's and the padding's set to 0."""
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    return tokens * (positions < trace.query.unsqueeze(1))


# Targets


def latent_target(code: Code, latents: Sequence[int] | Tensor) -> Tensor:
    """Sum of the codes of some latents, [B]. latents: numbers, or a set a sample, bool [B, n_latents]."""
    wanted = torch.as_tensor(latents, device=code.indices.device)
    if wanted.dtype == torch.bool and wanted.ndim == 2:
        chosen = wanted.gather(1, code.indices)
    else:
        chosen = torch.isin(code.indices, wanted.long())
    return (code.values * chosen).sum(1)


def match_target(image: Code, text: Code) -> Tensor:
    """z_text · z_image of every sample, [B]: how well a caption's code fits an image's of any encoder."""
    same = image.indices.unsqueeze(2) == text.indices.unsqueeze(1)
    return (image.values.unsqueeze(2) * text.values.unsqueeze(1) * same).sum((1, 2))


def weighted_target(code: Code, weights: Tensor) -> Tensor:
    """sum_l w_l z_l of every sample, [B]. weights [B, n_latents], of either sign."""
    return (code.values * weights.gather(1, code.indices)).sum(1)


def similarity_target(image: Trace, text: Trace) -> Tensor:
    """CLIP's cosine of image and text, [B]: the baseline."""
    return (image.unit * text.unit).sum(1)


# Passes


def square_pixels(encoder: DinoEncoder | ClipEncoder, images: Sequence[Image.Image]) -> Tensor:
    """[B, 3, H, W]: whole images, squashed to this encoder's square and normalised as it wants them (F16)."""
    return torch.stack([encoder.preprocess_square(image) for image in images])


def trace_pairs(
    dino: DinoEncoder,
    clip: ClipEncoder,
    images: Sequence[Image.Image],
    texts: Sequence[str],
    start_block: int = -1,
) -> Traces:
    """Traced passes of B (image, text) pairs in all three streams."""
    return {
        "dino": trace_image(dino, square_pixels(dino, images), start_block),
        "clip_img": trace_image(clip, square_pixels(clip, images), start_block),
        "clip_txt": trace_text(clip, texts, start_block),
    }


def encode_traces(model: SPARC, traces: Mapping[str, Trace], coding: Coding) -> Codes:
    """Codes of traced samples, differentiable down to their attention. Joint: texts take part in the gate."""
    return model.encode({stream: trace.unit for stream, trace in traces.items()}, coding)


class Explained(NamedTuple):
    """B traced (image, text) pairs with their codes. Gives relevance in any stream: [B, rows, columns] of
    patches for an image stream, [B, T] of tokens for the text stream."""

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
    pair: Pair,
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
    """The words of a text in order, as far as the tokenizer keeps them, and their tokens' positions."""
    if hasattr(clip.tokenizer, "tokenizer"):
        return _words_of_hub_tokenizer(clip.tokenizer, text)
    return _words_of_byte_pairs(clip.tokenizer, clip.tokenize([text])[0].tolist())


def _words_of_hub_tokenizer(tokenizer, text: str) -> list[Word]:
    """open_clip's HFTokenizer: the tokenizer inside it says which word a token belongs to."""
    clean = tokenizer.clean_fn(text)
    coded = tokenizer.tokenizer(clean, max_length=tokenizer.context_length, truncation=True)
    tokens_of: dict[int, list[int]] = {}
    for position, word in enumerate(coded.word_ids()):
        if word is not None:
            tokens_of.setdefault(word, []).append(position)
    return [Word(clean[slice(*coded.word_to_chars(word))], tuple(own)) for word, own in tokens_of.items()]


def _words_of_byte_pairs(tokenizer, ids: Sequence[int]) -> list[Word]:
    """open_clip's SimpleTokenizer: a word's last piece ends with `</w>`; the context may cut the last one."""
    end = ids.index(max(ids))
    words: list[Word] = []
    pieces: list[int] = []
    for position in range(1, end):  # 0 is the start token
        pieces.append(position)
        word_ends = tokenizer.decoder[ids[position]].endswith("</w>")
        if word_ends or position == end - 1:
            text = tokenizer.decode([ids[piece] for piece in pieces]).strip()
            words.append(Word(text, tuple(pieces)))
            pieces = []
    return words


def word_relevance(words: Sequence[Word], tokens: Tensor | np.ndarray) -> np.ndarray:
    """Relevance of words, [n_words], from that of one text's tokens [T]: the sum over a word's tokens."""
    return np.array([float(sum(tokens[position] for position in word.tokens)) for word in words])
