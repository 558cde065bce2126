"""Attention probabilities of DINOv2 and of both CLIP towers as part of the graph, for attribution.

A traced pass is the stock model's own forward with hooks that live for that pass only, so its features are
the stock model's (to rounding). The graph begins at the first block asked for; everything before it runs
without one. DINO: transformers' eager attention hands its probabilities out. CLIP: `nn.MultiheadAttention`
gives a copy outside the graph, so the attention of these blocks is computed again from its weights and takes
the place of the stock one.

Tracing runs in float32, whatever precision the encoder extracts features in: relevance is a product of small
probabilities and small gradients, which half precision rounds to 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:  # importing transformers and open_clip takes seconds
    from transformers import PreTrainedModel

    from ..features.encoders import ClipEncoder, DinoEncoder


class Trace(NamedTuple):
    """One pass through a tower of depth n, with the graph from block n - len(attention) on; all in float32.

    features [B, dim]: what the encoder returns. attention: per traced block the probabilities [B, heads, T,
    T]. norm [B, T, width]: the last block after its first layer norm, where Grad-CAM looks. tokens [B, T,
    width]: the last block's output. query [B]: the token that features are read from (CLS, or a text's end
    token). patches: number of the first patch token, grid: rows and columns of patches; both 0 for texts.
    """

    features: Tensor
    attention: tuple[Tensor, ...]
    norm: Tensor
    tokens: Tensor
    query: Tensor
    patches: int = 0
    grid: tuple[int, int] = (0, 0)

    @property
    def unit(self) -> Tensor:
        """Features divided by their L2 norm, [B, dim], as SPARC takes them; in the graph."""
        return F.normalize(self.features, dim=1)


def trace_image(encoder: DinoEncoder | ClipEncoder, pixels: Tensor, start_block: int = -1) -> Trace:
    """Pixels [B, 3, H, W] (see `preprocess_square`) -> Trace with every block from `start_block` on (-1: the
    last).

    Raises IndexError for a block the tower does not have, TypeError for a tower that is not a plain ViT.
    """
    from ..features.encoders import DinoEncoder

    pixels = pixels.to(encoder.device, torch.float32, non_blocking=True)
    cls_token = torch.zeros(len(pixels), dtype=torch.long, device=encoder.device)
    if isinstance(encoder, DinoEncoder):
        features, seen = _trace_dino(encoder, pixels, start_block)
        first_patch = 1 + encoder.model.config.num_register_tokens
    else:
        features, seen = _trace_clip_image(encoder, pixels, start_block)
        first_patch = 1
    return seen.trace(features, cls_token)._replace(patches=first_patch, grid=encoder.patch_grid)


def trace_text(clip: ClipEncoder, texts: Sequence[str], start_block: int = -1) -> Trace:
    """B texts -> Trace of the text tower; the arguments and errors are those of `trace_image`."""
    ids = clip.tokenize(texts)
    tower = getattr(clip.model, "text", clip.model)
    with _traced_clip(clip, tower, start_block) as seen:
        features = clip.model.encode_text(ids.to(clip.device)).float()
    return seen.trace(features, _end_tokens(clip, ids).to(clip.device))


def explicit_attention(
    attention: nn.MultiheadAttention, x: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Self-attention of x [B, T, width] by its formula: output [B, T, width] and probabilities [B, heads, T,
    T].

    mask: added to the scores, [T, T] or [B * heads, T, T]. Both results are differentiable.
    """
    heads = attention.num_heads
    projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1))
    scores = q @ k.mT * attention.head_dim**-0.5
    if mask is not None:
        scores = scores + (mask if mask.ndim == 2 else mask.unflatten(0, (-1, heads)))
    probabilities = scores.softmax(dim=-1)
    mixed = (probabilities @ v).transpose(1, 2).flatten(2)
    return F.linear(mixed, attention.out_proj.weight, attention.out_proj.bias), probabilities


class _Seen:
    """What the hooks of one pass saw."""

    def __init__(self) -> None:
        self.attention: list[Tensor] = []
        self.norm = self.tokens = torch.empty(0)

    def begin(self, module: nn.Module, args: tuple) -> tuple:
        return args[0].detach().requires_grad_(), *args[1:]

    def note_norm(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        self.norm = output

    def note_tokens(self, module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
        self.tokens = output[0] if isinstance(output, tuple) else output

    def attend(self, module: nn.MultiheadAttention, args: tuple, kwargs: dict, output: tuple) -> tuple:
        mixed, probabilities = explicit_attention(module, args[0], kwargs.get("attn_mask"))
        self.attention.append(probabilities)
        return mixed, None

    def trace(self, features: Tensor, query: Tensor) -> Trace:
        return Trace(features, tuple(self.attention), self.norm, self.tokens, query)


@contextmanager
def _watched(first: nn.Module, last: nn.Module, norm: nn.Module) -> Iterator[_Seen]:
    """Begin the graph at block `first` and note what the last block makes, in float32, for one pass."""
    seen = _Seen()
    device_type = next(last.parameters()).device.type
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(first.register_forward_pre_hook(seen.begin))
        stack.enter_context(norm.register_forward_hook(seen.note_norm))
        stack.enter_context(last.register_forward_hook(seen.note_tokens))
        yield seen


def _block_number(blocks: Sequence[nn.Module], start_block: int) -> int:
    if not -len(blocks) <= start_block < len(blocks):
        raise IndexError(f"start_block: got {start_block}, but this tower has {len(blocks)} blocks")
    return start_block % len(blocks)


def _trace_dino(encoder: DinoEncoder, pixels: Tensor, start_block: int) -> tuple[Tensor, _Seen]:
    model = encoder.model
    blocks = model.encoder.layer
    start = _block_number(blocks, start_block)
    with _watched(blocks[start], blocks[-1], blocks[-1].norm1) as seen, _eager(model):
        output = model(pixels, output_attentions=True)
    attention = output.attentions or ()
    if len(attention) != len(blocks) or any(block is None for block in attention):
        raise RuntimeError(
            f"{encoder.name}: transformers gave {len(attention)} attentions for {len(blocks)} blocks; "
            "attribution needs its eager attention"
        )
    seen.attention = list(attention[start:])
    return output.pooler_output.float(), seen


@contextmanager
def _eager(model: PreTrainedModel) -> Iterator[None]:
    """transformers' eager attention for this model inside the block; the default one returns no
    probabilities."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _trace_clip_image(clip: ClipEncoder, pixels: Tensor, start_block: int) -> tuple[Tensor, _Seen]:
    visual = clip.model.visual
    pools_by_attention = getattr(visual, "attn_pool", None) is not None
    if pools_by_attention or getattr(visual, "pool_type", "tok") != "tok":
        raise TypeError(
            f"{clip.name}: heatmaps read the CLS token's attention, but this tower pools otherwise"
        )
    with _traced_clip(clip, visual, start_block) as seen:
        features = clip.model.encode_image(pixels).float()
    return features, seen


@contextmanager
def _traced_clip(clip: ClipEncoder, tower: nn.Module, start_block: int) -> Iterator[_Seen]:
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    attention = getattr(blocks[-1], "attn", None) if blocks else None
    if not isinstance(attention, nn.MultiheadAttention) or not attention.batch_first:
        raise TypeError(
            f"{clip.name}: {type(tower).__name__} is no plain open_clip transformer; its attention is unknown"
        )
    start = _block_number(blocks, start_block)
    with _watched(blocks[start], blocks[-1], blocks[-1].ln_1) as seen, ExitStack() as stack:
        for block in blocks[start:]:
            stack.enter_context(block.attn.register_forward_hook(seen.attend, with_kwargs=True))
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
