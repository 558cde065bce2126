"""Latents read at patches instead of explained by gradients: every patch is coded as if it were a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..model import SPARC, Code
from .relevance import square_pixels

if TYPE_CHECKING:
    from ..features.encoders import ClipEncoder, DinoEncoder

BATCH = 64  # images a pass


@torch.no_grad()
def patch_features(encoder: DinoEncoder | ClipEncoder, images: Sequence[Image.Image]) -> Tensor:
    """Patch tokens of the last block, made as the features are made from its CLS token: unit norm, [n,
    n_patches, dim], on the CPU. DINO's after its final layer norm, CLIP's after that and its projection."""
    parts = []
    for start in range(0, len(images), BATCH):
        pixels = square_pixels(encoder, images[start : start + BATCH]).to(encoder.device)
        parts.append(F.normalize(_tokens(encoder, pixels).float(), dim=-1).cpu())
    return torch.cat(parts)


def _tokens(encoder: DinoEncoder | ClipEncoder, pixels: Tensor) -> Tensor:
    from ..features.encoders import DinoEncoder  # which imports transformers and open_clip

    if isinstance(encoder, DinoEncoder):
        first_patch = 1 + encoder.model.config.num_register_tokens
        return encoder.model(pixels).last_hidden_state[:, first_patch:]
    visual = encoder.model.visual
    last = {"indices": 1, "normalize_intermediates": True, "output_fmt": "NLC"}
    tokens = visual.forward_intermediates(pixels, **last)["image_intermediates"][0]
    return tokens @ visual.proj


def region_features(patches: Tensor, cover: np.ndarray) -> Tensor:
    """A feature a region, unit norm, [n, dim]: the mean of its patches, each weighed by how much it covers.

    patches [n, n_patches, dim]: of each region's image. cover [n, rows, columns]: as `AnnotatedImages.cover`
    gives it.
    """
    weight = torch.from_numpy(cover).flatten(1).to(patches.dtype)
    return F.normalize((patches * weight[:, :, None]).sum(1), dim=1)


@torch.no_grad()
def patch_codes(model: SPARC, stream: str, patches: Tensor) -> list[Code]:
    """Codes of the patches of every image, [n_patches, k] each, every patch coded alone.

    patches [n_images, n_patches, dim], unit norm.
    """
    return [model.encode({stream: own}, "independent")[stream] for own in patches]


def activation_maps(codes: Sequence[Code], weights: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """sum_l w_l z_l at every patch: float32 [n, rows, columns], of either sign.

    codes: of n images (see `patch_codes`). weights [n, n_latents]: what is asked of each.
    """
    maps = [(code.values * own[code.indices]).sum(1) for code, own in zip(codes, weights, strict=True)]
    return torch.stack(maps).view(len(maps), *grid).cpu().numpy()


def similarity_maps(patches: Tensor, texts: Tensor, grid: tuple[int, int]) -> np.ndarray:
    """Product of every patch [n, n_patches, dim] with its image's text feature [n, dim], float32 [n, rows,
    columns]: CLIP's similarity read at patches."""
    return torch.einsum("npd,nd->np", patches, texts).view(len(patches), *grid).cpu().numpy()


def lifted(maps: np.ndarray) -> np.ndarray:
    """Maps [n, rows, columns] with the least value of each taken off, so that none is below 0."""
    return maps - maps.min(axis=(1, 2), keepdims=True)
