"""Train the mini DINOv2 from scratch: ``python -m sparc_lib.miniworld.encoders.train_dino``.

A Dinov2WithRegisters network that never sees a label or a caption. It is taught by a slow copy of itself,
whose weights are a moving average of the student's. The teacher sees a whole scene, zoomed, mirrored and
recoloured at
random; the student sees only a window of patches, once of the same view with some patches masked, once of a
second
view. From either window its CLS token must find the teacher's CLS token of the same scene among all scenes
of the
batch, and its masked patches the teacher's patch at the same place among all masked patches: a contrastive
form of
local-to-global self-distillation, which cannot collapse and learns within the compute of a laptop. Resumes
from its last checkpoint; writes a ``from_pretrained`` folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from ...paths import WEIGHTS, data_root
from .evaluate import image_features, probe_map, split_labels
from .loop import append_log, batch_rows, pixels, rendered, save_checkpoint, schedule, trim_log

log = logging.getLogger(__name__)
SEED, BATCH, LEARNING_RATE, WARMUP = 0, 128, 1.0e-3, 200
CLS_TEMPERATURE, PATCH_TEMPERATURE, MASKED = (
    0.1,
    0.2,
    0.35,
)  # of the contrasts; share of a window's patches masked
GRID, REGISTERS = 12, 4  # patches a side of a scene; register tokens
WINDOW, WINDOW_DECAY = 6, 9  # patches a side of the student's window, before and in the decay
CONFIG = dict(
    hidden_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    mlp_ratio=4,
    image_size=96,
    patch_size=8,
    num_register_tokens=REGISTERS,
    layerscale_value=1.0,
    drop_path_rate=0.0,
    attn_implementation="sdpa",
)
MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]


def normalise(x: Tensor) -> Tensor:
    """Pixels in [0, 1] -> what the network sees."""
    return (x - torch.tensor(MEAN, device=x.device).view(1, 3, 1, 1)) / torch.tensor(
        STD, device=x.device
    ).view(1, 3, 1, 1)


def view(x: Tensor, generator: torch.Generator) -> Tensor:
    """A random view of each scene, [B, 3, 96, 96] -> same: zoom 1 to 1.4, shift, mirror, recolour."""
    b = len(x)
    u = torch.rand(b, 8, generator=generator)
    zoom = 1 / (1 + 0.4 * u[:, 0])
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0] = zoom * torch.where(u[:, 1] < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = zoom
    theta[:, :, 2] = (1 - zoom)[:, None] * (2 * u[:, 2:4] - 1)
    x = F.grid_sample(
        x,
        F.affine_grid(theta, list(x.shape), align_corners=False),
        align_corners=False,
        padding_mode="reflection",
    )
    gain = 0.7 + 0.6 * torch.rand(b, 3, generator=generator)
    mix = torch.eye(3).repeat(b, 1, 1)
    swap = u[:, 4] < 0.5  # colours may trade places: shape must be learned
    order = torch.rand(b, 3, generator=generator).argsort(1)
    mix[swap] = F.one_hot(order[swap], 3).float()
    mix[u[:, 5] < 0.15] = 1 / 3  # now and then no colour at all
    x = torch.einsum("bij,bjhw->bihw", mix * gain[:, :, None], x) + (0.3 * u[:, 6] - 0.15).view(b, 1, 1, 1)
    return x.clamp(0, 1)


def window(b: int, side: int, generator: torch.Generator) -> Tensor:
    """For each view the patch numbers of a random square of side x side patches, [B, side**2]."""
    corner = torch.randint(0, GRID - side + 1, (b, 2), generator=generator)
    square = (torch.arange(side)[:, None] * GRID + torch.arange(side)).flatten()
    return (corner[:, 0] * GRID + corner[:, 1])[:, None] + square


class Learner(nn.Module):
    """The network with the heads that training needs; the heads are not shipped."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**CONFIG))
        head = lambda: nn.Sequential(nn.Linear(128, 512), nn.LayerNorm(512), nn.GELU(), nn.Linear(512, 128))  # noqa: E731
        self.cls_head, self.patch_head = head(), head()

    def tokens(
        self, x: Tensor, rows: Tensor | None = None, masked: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """CLS [B, 128] and patches [B, n, 128] of views that show only the patches ``rows`` [B, n] (None:
        all)."""
        full = None
        if masked is not None:
            full = torch.zeros(len(x), GRID * GRID, dtype=torch.bool).scatter_(1, rows, masked)
        embedded = self.backbone.embeddings(x, full)
        fixed, patches = embedded[:, : 1 + REGISTERS], embedded[:, 1 + REGISTERS :]
        if rows is not None:
            patches = patches.gather(1, rows[..., None].expand(-1, -1, patches.shape[-1]))
        out = self.backbone.encoder(torch.cat([fixed, patches], 1), attention_mask=None).last_hidden_state
        out = self.backbone.layernorm(out)
        return out[:, 0], out[:, 1 + REGISTERS :]


def contrast(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding row i of the teacher [n, d] from row i of the student [n, d], by cosine."""
    logits = F.normalize(student, dim=1) @ F.normalize(teacher, dim=1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(logits)))


def loss_terms(
    student: Learner, predictor: nn.Module, teacher: Learner, x: Tensor, side: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The CLS and the patch loss of one batch of scenes [B, 3, 96, 96], the student seeing side x side
    patches."""
    b = len(x)
    views = normalise(torch.cat([view(x, generator), view(x, generator)]))
    rows = window(2 * b, side, generator)
    masked = torch.rand(rows.shape, generator=generator).argsort(1) < int(MASKED * rows.shape[1])
    masked[b:] = False
    with torch.no_grad():
        target_cls, target_patch = teacher.tokens(views[:b])
        target_cls = teacher.cls_head(target_cls)
        scene, place = masked[:b].nonzero(as_tuple=True)
        some = torch.randperm(len(scene), generator=generator)[:1024]
        scene, place = scene[some], place[some]
        target = teacher.patch_head(target_patch[scene, rows[scene, place]])
    cls, patch = student.tokens(views, rows, masked)
    cls = predictor(student.cls_head(cls))
    cls_loss = sum(contrast(half, target_cls, CLS_TEMPERATURE) for half in (cls[:b], cls[b:])) / 2
    return cls_loss, contrast(student.patch_head(patch[scene, place]), target, PATCH_TEMPERATURE)


def scores(
    model: Dinov2WithRegistersModel, split: str, n: int = 1000, n_train: int = 5000
) -> dict[str, float]:
    """The card's number: probe mAP on scenes 0..n-1 of a split, fitted on n_train training scenes."""
    model.eval()
    encode = lambda x: model(normalise(x)).pooler_output  # noqa: E731
    truth, seen = split_labels(split, n), split_labels("train", n_train)
    return {
        "probe_map": probe_map(
            image_features(encode, "train", n_train),
            seen.labels,
            image_features(encode, split, n),
            truth.labels,
        )
    }


def write_folder(model: Dinov2WithRegistersModel, folder: Path) -> None:
    """Weights in half precision, configuration and preprocessing, as ``from_pretrained`` reads them."""
    deepcopy(model).half().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "BitImageProcessor",
                "do_resize": True,
                "size": {"height": 96, "width": 96},
                "do_center_crop": False,
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                "image_mean": MEAN,
                "image_std": STD,
                "resample": 3,
                "do_convert_rgb": True,
            },
            indent=1,
        )
    )


def train(steps: int, decay_from: int, n_scenes: int, folder: Path, threads: int, every: int = 200) -> None:
    """Train for ``steps`` batches, resuming if there is a checkpoint; writes weights and log into
    ``folder``."""
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    student = Learner()
    predictor = nn.Sequential(nn.Linear(128, 512), nn.LayerNorm(512), nn.GELU(), nn.Linear(512, 128))
    teacher = deepcopy(student).requires_grad_(False)
    folder.mkdir(parents=True, exist_ok=True)
    images = rendered("encoder", n_scenes)
    parameters = [*student.parameters(), *predictor.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.05},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
        fused=True,
    )
    checkpoint, step, spent = data_root() / "training" / "mini_dino.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        for module, name in (
            (student, "student"),
            (predictor, "predictor"),
            (teacher, "teacher"),
            (optimizer, "optimizer"),
        ):
            module.load_state_dict(state[name])
        step, spent = state["step"], state["spent"]
        log.info("resumed at step %d", step)
    trim_log(folder / "training_log.csv", step)
    started, running = time.time() - spent, []
    while step < steps:
        rate = LEARNING_RATE * schedule(step, WARMUP, decay_from, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        generator = torch.Generator().manual_seed(SEED * 1_000_003 + step)
        side = WINDOW if step < decay_from else WINDOW_DECAY
        x = pixels(images[batch_rows(step, n_scenes, BATCH, SEED)])
        terms = loss_terms(student, predictor, teacher, x, side, generator)
        optimizer.zero_grad()
        sum(terms).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        momentum = min(0.99, 1 - 1 / (step + 2))
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters()):
                slow.lerp_(fast, 1 - momentum)
        running.append([t.item() for t in terms])
        step += 1
        if step % every == 0 or step == steps:
            spent = time.time() - started
            save_checkpoint(
                checkpoint,
                {
                    "student": student.state_dict(),
                    "predictor": predictor.state_dict(),
                    "teacher": teacher.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "spent": spent,
                },
            )
            cls_loss, patch_loss = np.mean(running, 0)
            row = {
                "step": step,
                "images": step * BATCH,
                "minutes": spent / 60,
                "learning_rate": rate,
                "cls_loss": float(cls_loss),
                "patch_loss": float(patch_loss),
                **scores(teacher.backbone, "val", n_train=3000),
            }
            append_log(folder / "training_log.csv", row)
            log.info("%s", row)
            started, running = time.time() - spent, []
    write_folder(teacher.backbone, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--decay-from", type=int, default=2000)
    parser.add_argument("--scenes", type=int, default=120_000)
    parser.add_argument("--folder", type=Path, default=WEIGHTS / "dino")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train(options.steps, options.decay_from, options.scenes, options.folder, options.threads)


if __name__ == "__main__":
    main()
