"""Attention probabilities of DINOv2 and of both CLIP towers as part of the graph, for attribution.

A traced pass is the stock model's own forward with hooks that live for that pass only, so its features are the
stock model's (to rounding). The graph begins at the first block asked for; everything before it runs without one.
DINO: transformers' eager attention hands its probabilities out. CLIP: `nn.MultiheadAttention` gives a copy outside
the graph, so the attention of these blocks is computed again from its weights and takes the place of the stock one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..features.encoders import ClipEncoder, DinoEncoder


class Trace(NamedTuple):
    """One pass through a tower of depth n, with the graph from block n - len(attention) on.

    features [B, dim]: what the encoder returns. attention: per traced block the probabilities [B, heads, T, T].
    norm [B, T, width]: the last block after its first layer norm, where Grad-CAM looks. tokens [B, T, width]: the
    last block's output. query [B]: the token that features are read from (CLS, or a text's end token).
    patches: number of the first patch token, grid: rows and columns of patches; both 0 for texts.
    ids [B, T]: tokens of the texts, None for images.
    """

    features: Tensor
    attention: tuple[Tensor, ...]
    norm: Tensor
    tokens: Tensor
    query: Tensor
    patches: int = 0
    grid: tuple[int, int] = (0, 0)
    ids: Tensor | None = None

    @property
    def unit(self) -> Tensor:
        """Features divided by their L2 norm, [B, dim], as SPARC takes them; in the graph."""
        return F.normalize(self.features, dim=1)


def trace_image(encoder: DinoEncoder | ClipEncoder, pixels: Tensor, start_block: int = -1) -> Trace:
    """Pixels [B, 3, H, W] (see `preprocess_square`) -> Trace with every block from `start_block` on (-1: the last).

    Raises IndexError for a block the tower does not have, TypeError for a tower that is not a plain ViT.
    """
    if isinstance(encoder, DinoEncoder):
        return _trace_dino(encoder, pixels, start_block)
    visual = encoder.model.visual
    if getattr(visual, "attn_pool", None) is not None or getattr(visual, "pool_type", "tok") != "tok":
        raise TypeError(
            f"{encoder.name}: heatmaps read the CLS token's attention, but this tower pools otherwise"
        )
    with _traced_clip(encoder, visual, start_block) as seen:
        features = encoder.image_features(pixels)
    return seen.trace(features, features.new_zeros(len(features), dtype=torch.long), 1, encoder.patch_grid)


def trace_text(clip: ClipEncoder, texts: Sequence[str], start_block: int = -1) -> Trace:
    """B texts -> Trace of the text tower; the arguments and errors are those of `trace_image`."""
    ids = clip.tokenize(texts)
    text = getattr(clip.model, "text", clip.model)
    with _traced_clip(clip, text, start_block) as seen:
        features = clip.text_features(texts)
    return seen.trace(features, _end_tokens(clip, ids).to(features.device), ids=ids)


def explicit_attention(
    attention: nn.MultiheadAttention, x: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Self-attention of x [B, T, width] by its formula: output [B, T, width] and probabilities [B, heads, T, T].

    mask: added to the scores, [T, T] or [B * heads, T, T]. Both results are differentiable.
    """
    q, k, v = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for part in F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
    )
    scores = q @ k.mT * attention.head_dim**-0.5
    if mask is not None:
        scores = scores + (mask if mask.ndim == 2 else mask.unflatten(0, (-1, attention.num_heads)))
    probabilities = scores.softmax(dim=-1)
    mixed = (probabilities @ v).transpose(1, 2).flatten(2)
    return F.linear(mixed, attention.out_proj.weight, attention.out_proj.bias), probabilities


class _Seen:
    """What the hooks of one pass saw."""

    def __init__(self) -> None:
        self.attention: list[Tensor] = []
        self.norm = self.tokens = torch.empty(0)

    def trace(
        self,
        features: Tensor,
        query: Tensor,
        patches: int = 0,
        grid: tuple[int, int] = (0, 0),
        ids: Tensor | None = None,
    ) -> Trace:
        return Trace(features, tuple(self.attention), self.norm, self.tokens, query, patches, grid, ids)


def _block_number(blocks: Sequence[nn.Module], start_block: int) -> int:
    if not -len(blocks) <= start_block < len(blocks):
        raise IndexError(f"start_block: got {start_block}, but this tower has {len(blocks)} blocks")
    return start_block % len(blocks)


def _watch(
    stack: ExitStack, seen: _Seen, first: nn.Module, last: nn.Module, norm: nn.Module, batch_first: bool
) -> None:
    """Begin the graph at block `first` and note what the last block makes; the hooks go with `stack`."""
    turned = (lambda x: x) if batch_first else (lambda x: x.transpose(0, 1))

    def begin(_, args):
        return args[0].detach().requires_grad_(), *args[1:]

    def note_norm(_, args, output):
        seen.norm = turned(output)

    def note_tokens(_, args, output):
        seen.tokens = turned(output[0] if isinstance(output, tuple) else output)

    stack.enter_context(first.register_forward_pre_hook(begin))
    stack.enter_context(norm.register_forward_hook(note_norm))
    stack.enter_context(last.register_forward_hook(note_tokens))


def _trace_dino(encoder: DinoEncoder, pixels: Tensor, start_block: int) -> Trace:
    model = encoder.model
    blocks = model.encoder.layer
    start, seen = _block_number(blocks, start_block), _Seen()
    with ExitStack() as stack, torch.enable_grad():
        _watch(stack, seen, blocks[start], blocks[-1], blocks[-1].norm1, True)
        stack.enter_context(_eager(model))
        stack.enter_context(encoder._autocast())
        output = model(pixels.to(encoder.device, non_blocking=True), output_attentions=True)
    found = output.attentions or ()
    if len(found) != len(blocks) or any(a is None for a in found):
        raise RuntimeError(
            f"{encoder.name}: transformers gave {len(found)} attentions for {len(blocks)} blocks; "
            "attribution needs its eager attention"
        )
    seen.attention = list(found[start:])
    features = output.pooler_output.float()
    return seen.trace(
        features,
        features.new_zeros(len(features), dtype=torch.long),
        1 + model.config.num_register_tokens,
        encoder.patch_grid,
    )


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    """transformers' eager attention for this model inside the block; the default one returns no probabilities."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def _traced_clip(clip: ClipEncoder, tower: nn.Module, start_block: int) -> Iterator[_Seen]:
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    if not blocks or not isinstance(getattr(blocks[-1], "attn", None), nn.MultiheadAttention):
        raise TypeError(
            f"{clip.name}: {type(tower).__name__} is no plain open_clip transformer; its attention is unknown"
        )
    start, seen = _block_number(blocks, start_block), _Seen()

    def explicit(module: nn.MultiheadAttention, args, kwargs, _):
        x, mask = args[0], kwargs.get("attn_mask")
        if not module.batch_first:
            x = x.transpose(0, 1)
        out, probabilities = explicit_attention(module, x, mask)
        seen.attention.append(probabilities)
        return out if module.batch_first else out.transpose(0, 1), None

    with ExitStack() as stack, torch.enable_grad():
        _watch(stack, seen, blocks[start], blocks[-1], blocks[-1].ln_1, blocks[-1].attn.batch_first)
        for block in blocks[start:]:
            stack.enter_context(block.attn.register_forward_hook(explicit, with_kwargs=True))
        yield seen


def _end_tokens(clip: ClipEncoder, ids: Tensor) -> Tensor:
    """[B]: the position that the text tower reads its feature from."""
    text = getattr(clip.model, "text", clip.model)
    pool = getattr(text, "pool_type", None) or getattr(clip.model, "text_pool_type", "argmax")
    if pool == "argmax":
        return ids.argmax(dim=1)
    if pool == "eos":
        end = getattr(text, "eos_id", None) or clip.model.text_eos_id
        return (ids == end).int().argmax(dim=1)
    raise TypeError(
        f"{clip.name}: text attribution reads the end token's attention, but this tower pools by {pool!r}"
    )
