"""Train the mini DINOv2 from scratch: ``python -m sparc_lib.miniworld.encoders.train_dino``.

A Dinov2WithRegisters network that never sees a label or a caption. It is taught by a slow copy of itself,
whose weights are a moving average of the student's. Of every scene there are two pictures, as from a film: a
while later the same things have moved, and the camera too. The teacher sees one of them, zoomed, mirrored and
recoloured at random; the student sees only a window of patches, once of the teacher's view with some patches
masked, once of the other. Three losses: its CLS token must find the teacher's CLS token of the same scene
among all scenes of the batch; its masked patches must find the teacher's patch at the same place; and from
its CLS token it must tell the bag of visual words of the whole scene, words being teacher's patches of recent
batches (as OBoW, arXiv:2012.11552). A term on the CLS tokens keeps their variance spread over many
directions. What is shipped is the teacher, as a ``from_pretrained`` folder.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from .evaluate import dino_scores
from .loop import Options, Recipe, attend, autocast, command_line, log_participation, train
from .pictures import GRID, MEAN, STD, patches, pick

CLS_TEMPERATURE, PATCH_TEMPERATURE, WORD_TEMPERATURE = 0.1, 0.2, 0.05  # of the contrasts
MASKED = 0.35  # share of a window's patches that are masked
MASKED_COMPARED = 1024  # of them, at most so many are compared in a step
REGISTERS, HEADS = 4, 4
# From this share of the budget on: patches that the teacher sees, patches a side of the student's window, and
# how many of those it sees. With CLS and registers they make a multiple of 16 tokens, which AMX multiplies
# far faster than other numbers.
SEEN = ((0.0, 91, 7, 43), (0.85, 139, 9, 75))
WORDS, NEW_WORDS = 1024, 16  # visual words, and how many are replaced at every step
BAG, SPREAD = 1.0, 0.2  # weights of the bag of words and of the term on the covariance
CONFIG = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": HEADS,
    "mlp_ratio": 4,
    "image_size": 96,
    "patch_size": 8,
    "num_register_tokens": REGISTERS,
    "layerscale_value": 1.0,
    "drop_path_rate": 0.0,
}
PREPROCESS = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"height": 96, "width": 96},
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [MEAN] * 3,
    "image_std": [STD] * 3,
    "resample": 3,
    "do_convert_rgb": True,
}


def view(x: Tensor, generator: torch.Generator) -> Tensor:
    """A random view of each scene, [B, 3, 96, 96] -> same: zoom 1 to 1.4, shift, mirror, recolour."""
    b, device = len(x), x.device
    u = torch.rand(b, 8, generator=generator, device=device)
    zoom = 1 / (1 + 0.4 * u[:, 0])
    theta = torch.zeros(b, 2, 3, device=device)
    theta[:, 0, 0] = zoom * torch.where(u[:, 1] < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = zoom
    theta[:, :, 2] = (1 - zoom)[:, None] * (2 * u[:, 2:4] - 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, align_corners=False, padding_mode="reflection")
    gain = 0.7 + 0.6 * torch.rand(b, 3, generator=generator, device=device)
    same = torch.eye(3, device=device)
    order = torch.rand(b, 3, generator=generator, device=device).argsort(1)
    swap = u[:, 4, None, None] < 0.5  # colours may trade places: shape must be learned
    mix = torch.where(swap, same[order], same)
    mix = mix.masked_fill(u[:, 5, None, None] < 0.15, 1 / 3)  # now and then no colour at all
    mix = mix * gain[:, :, None]
    light = (0.3 * u[:, 6] - 0.15).view(b, 1, 1)
    return torch.baddbmm(light, mix, x.flatten(2)).view_as(x).clamp(0, 1)


def window(b: int, side: int, n: int, generator: torch.Generator) -> Tensor:
    """For each view the numbers of n patches of a random square of side x side patches, [B, n]."""
    device = generator.device
    corner = torch.randint(0, GRID - side + 1, (b, 2), generator=generator, device=device)
    steps = torch.arange(side, device=device)
    square = (steps[:, None] * GRID + steps).flatten()
    some = torch.rand(b, side * side, generator=generator, device=device).argsort(1)[:, :n]
    return (corner[:, 0] * GRID + corner[:, 1])[:, None] + square[some]


def head() -> nn.Sequential:
    """What stands between a token and the space in which it is compared; not shipped."""
    return nn.Sequential(nn.Linear(128, 512), nn.LayerNorm(512), nn.GELU(), nn.Linear(512, 128))


class Network(nn.Module):
    """The backbone with the heads that training needs, shown only some patches of each scene."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**CONFIG))
        self.cls_head, self.patch_head, self.bag_head, self.word_head = head(), head(), head(), head()
        self.predictor = head()

    def forward(self, tiles: Tensor, places: Tensor, masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Patches [B, n, 192] at places [B, n] -> CLS [B, 128] and patch tokens [B, n, 128].

        `masked`, bool [B, n]: patches whose content is hidden.
        """
        embeddings = self.backbone.embeddings
        projection = embeddings.patch_embeddings.projection
        x = F.linear(tiles, projection.weight.flatten(1), projection.bias)
        if masked is not None:
            x = torch.where(masked[..., None], embeddings.mask_token.to(x.dtype), x)
        x = x + embeddings.position_embeddings[0, 1:][places]
        first = embeddings.cls_token + embeddings.position_embeddings[:, :1]
        first = torch.cat([first, embeddings.register_tokens], 1).expand(len(x), -1, -1)
        x = torch.cat([first.to(x.dtype), x], 1)
        for layer in self.backbone.encoder.layer:
            x = _run(layer, x)
        x = self.backbone.layernorm(x)
        return x[:, 0], x[:, 1 + REGISTERS :]


def _run(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's own forward with one product for query, key, value and without its scales, which stay 1."""
    b, t, width = x.shape
    attention = layer.attention
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
    projected = F.linear(layer.norm1(x), weight, bias)
    query, key, value = projected.view(b, t, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
    mixed = attend(query, key, value).transpose(1, 2).reshape(b, t, width)
    x = x + attention.o_proj(mixed)
    return x + layer.mlp(layer.norm2(x))


def contrast(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding row i of the teacher [n, d] from row i of the student [n, d], by cosine."""
    logits = cosine(student, teacher) / temperature
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of rows [n, d] and [m, d], float32 [n, m]."""
    return F.normalize(a.float(), dim=1) @ F.normalize(b.float(), dim=1).T


class Dino(Recipe):
    """Self-distillation from windows to whole scenes."""

    name = "dino"
    batch = 128
    frames = 2
    learning_rate = 1.0e-3
    averaging = 0.99

    def prepare(self, options: Options) -> None:
        self.device = options.device
        self.model = Network()
        self.model.register_buffer("words", F.normalize(torch.randn(WORDS, 128), dim=1))

    def losses(
        self, images: Tensor, rows: Tensor, average: nn.Module, progress: float, draw: torch.Generator
    ) -> dict[str, Tensor]:
        b, device = len(images), images.device
        images = images.expand(-1, 2, -1, -1, -1)  # of one frame alone two views are made
        n_teacher, side, n_student = [numbers for start, *numbers in SEEN if progress >= start][-1]
        turned = torch.rand(b, 1, 1, 1, 1, generator=draw, device=device) < 0.5
        images = torch.where(turned, images.flip(1), images)
        views = (torch.cat([view(frame.float() / 255, draw) for frame in images.unbind(1)]) - MEAN) / STD
        seen = window(b, GRID, n_teacher, draw)
        places = window(2 * b, side, n_student, draw)
        masked = torch.rand(places.shape, generator=draw, device=device) < MASKED
        masked[b:] = False
        numbers = torch.arange(n_teacher, device=device).expand(b, -1)
        where = torch.full((b, GRID * GRID), -1, device=device).scatter(1, seen, numbers)
        in_teacher = where.gather(1, places[:b])  # number of the patch among those the teacher sees, or -1
        scene, place = (masked[:b] & (in_teacher >= 0)).nonzero(as_tuple=True)
        some = torch.randperm(len(scene), generator=draw, device=device)[:MASKED_COMPARED]
        scene, place = scene[some], place[some]
        twin = in_teacher[scene, place]
        tiles = patches(views)
        with autocast(self.device):
            with torch.no_grad():
                whole_cls, whole = average(pick(tiles[:b], seen), seen)
                target_cls = average.cls_head(whole_cls)
                target_patch = average.patch_head(whole[scene, twin])
            cls, patch = self.model(pick(tiles, places), places, masked)
            student_cls = self.model.predictor(self.model.cls_head(cls))
            student_patch = self.model.patch_head(patch[scene, place])
            guessed = self.model.bag_head(cls)
            words = self.model.word_head(
                self.model.words.clone()
            )  # the buffer is renewed before the backward
        bag = self.bag_of_words(whole.float(), seen, draw).repeat(2, 1)
        guessed = F.log_softmax(cosine(guessed, words) / CLS_TEMPERATURE, 1)
        return {
            "cls": sum(contrast(half, target_cls, CLS_TEMPERATURE) for half in student_cls.split(b)) / 2,
            "patch": contrast(student_patch, target_patch, PATCH_TEMPERATURE),
            "bag": -BAG * (bag * guessed).sum(1).mean(),
            "spread": SPREAD * log_participation(cls.float()),
        }

    @torch.no_grad()
    def bag_of_words(self, tokens: Tensor, places: Tensor, draw: torch.Generator) -> Tensor:
        """How strongly each visual word occurs anywhere in a scene, [B, words], rows of sum 1.

        Renew some words.

        What all scenes have at a place is taken off the tokens [B, n, 128] first: it says nothing of a scene.
        """
        b, tokens, places = len(tokens), tokens.flatten(0, 1), places.flatten()
        sums = tokens.new_zeros(GRID * GRID, tokens.shape[1]).index_add_(0, places, tokens)
        counts = tokens.new_zeros(GRID * GRID).index_add_(0, places, tokens.new_ones(len(places)))
        means = sums / counts[:, None].clamp(min=1)
        tokens = F.normalize(tokens - means[places], dim=1)
        with autocast(self.device):
            closeness = tokens @ self.model.words.T
        shares = (closeness / WORD_TEMPERATURE).softmax(1)
        bag = shares.view(b, -1, WORDS).amax(1).float()
        new = torch.randint(len(tokens), (NEW_WORDS,), generator=draw, device=tokens.device)
        self.model.words.copy_(torch.cat([self.model.words[NEW_WORDS:], tokens[new]]))
        return bag / bag.sum(1, keepdim=True)

    def scores(self, average: nn.Module) -> dict[str, float]:
        return dino_scores(average.backbone, "val", 1000, 2000, full=False)

    def export(self, average: nn.Module, folder: Path) -> None:
        deepcopy(average.backbone).half().save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESS, indent=1))

    def load(self, folder: Path) -> None:
        weights = Dinov2WithRegistersModel.from_pretrained(folder, dtype=torch.float32)
        self.model.backbone.load_state_dict(weights.state_dict())


if __name__ == "__main__":
    train(Dino(), command_line("dino", __doc__))
