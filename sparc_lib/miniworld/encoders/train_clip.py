"""Train the mini CLIP from scratch: ``python -m sparc_lib.miniworld.encoders.train_clip``.

An open_clip CLIP on scenes and captions of the world's "encoder" split, with the symmetric contrastive loss
of the
original. Until the learning rate decays two thirds of the patches are dropped (as FLIP does), so that a
step costs a third; in the decay one third. Resumes from its last checkpoint; writes an open_clip
``local-dir:`` folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ...paths import WEIGHTS, data_root
from ..scenes import make_scene
from .evaluate import clip_retrieval, first_captions, image_features, probe_map, split_labels, zero_shot_map
from .loop import WORLD_SEED, append_log, batch_rows, pixels, rendered, save_checkpoint, schedule, trim_log

log = logging.getLogger(__name__)
SEED, BATCH, LEARNING_RATE, WARMUP = 0, 128, 1.2e-3, 200
CONTEXT, DROPOUT, DROPOUT_DECAY = (
    32,
    0.67,
    0.33,
)  # words of a caption; share of patches dropped before and in the decay
MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 96, "patch_size": 8, "layers": 4, "width": 128, "head_width": 32},
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": 0,
        "hf_tokenizer_name": "local",
        "width": 128,
        "heads": 4,
        "layers": 2,
    },
}
PREPROCESS = {
    "size": [96, 96],
    "mode": "RGB",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "squash",
    "fill_color": 0,
}


def build_tokenizer(n_scenes: int = 20_000) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over the words of the captions; the end token has the highest id, as CLIP's
    pooling wants."""
    texts = (c.text for i in range(n_scenes) for c in make_scene(WORLD_SEED, "encoder", i).captions())
    words = sorted({word for text in texts for word in text.lower().replace(".", " .").split()})
    vocabulary = ["<pad>", "<unk>", "<start>", *words, "<end>"]
    ids = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", ids["<start>"]), ("<end>", ids["<end>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
    )


def write_folder(folder: Path, tokenizer: PreTrainedTokenizerFast) -> dict:
    """Everything of the ``local-dir:`` folder but the weights; returns the model configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model = MODEL | {"text_cfg": MODEL["text_cfg"] | {"vocab_size": len(tokenizer)}}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model, "preprocess_cfg": PREPROCESS}, indent=1)
    )
    return model


def scores(
    model: open_clip.CLIP, tokenize, split: str, n: int = 1000, n_train: int = 5000
) -> dict[str, float]:
    """The card's numbers for a model on scenes 0..n-1 of a split; the probe is fitted on n_train training
    scenes."""
    model.eval()
    mean, std = (torch.tensor(PREPROCESS[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    encode = lambda x: model.encode_image((x - mean) / std)  # noqa: E731
    encode_text = lambda texts: model.encode_text(tokenize(texts))  # noqa: E731
    with torch.no_grad():
        image, train = image_features(encode, split, n), image_features(encode, "train", n_train)
        text = torch.cat(
            [
                encode_text(part)
                for part in np.array_split(first_captions(split, n), 8)
                for part in [list(part)]
            ]
        )
        truth, seen = split_labels(split, n), split_labels("train", n_train)
        retrieval = clip_retrieval(image, text, split)
        return {
            "image_to_text_r1": retrieval.image_to_text,
            "text_to_image_r1": retrieval.text_to_image,
            "oracle_image_to_text_r1": retrieval.oracle_image_to_text,
            "oracle_text_to_image_r1": retrieval.oracle_text_to_image,
            "oracle_share": retrieval.share,
            "zero_shot_map": zero_shot_map(image, encode_text, truth),
            "probe_map": probe_map(train, seen.labels, image, truth.labels),
        }


def train(steps: int, decay_from: int, n_scenes: int, folder: Path, threads: int, every: int = 300) -> None:
    """Train for ``steps`` batches, resuming if there is a checkpoint; writes weights and log into
    ``folder``."""
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    config = write_folder(folder, tokenizer)
    model = open_clip.CLIP(**config)
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    images = rendered("encoder", n_scenes)
    said = [[c.text for c in make_scene(WORLD_SEED, "encoder", i).captions()] for i in range(n_scenes)]
    flat = tokenize([text for texts in said for text in texts]).to(torch.int16)
    first = np.cumsum([0] + [len(texts) for texts in said])

    decays = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decays, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
        fused=True,
    )
    checkpoint, step, spent = data_root() / "training" / "mini_clip.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
        log.info("resumed at step %d", step)
    trim_log(folder / "training_log.csv", step)
    mean, std = (torch.tensor(PREPROCESS[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    started, running = time.time() - spent, []
    while step < steps:
        rate = LEARNING_RATE * schedule(step, WARMUP, decay_from, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        model.visual.patch_dropout = open_clip.transformer.PatchDropout(
            DROPOUT if step < decay_from else DROPOUT_DECAY
        )
        model.train()
        torch.manual_seed(SEED * 1_000_003 + step)  # patch dropout, same after a resume
        pick = np.random.default_rng([SEED, 1, step])
        rows = batch_rows(step, n_scenes, BATCH, SEED)
        text = flat[first[rows] + pick.integers(0, first[rows + 1] - first[rows])].long()
        image = model.encode_image((pixels(images[rows]) - mean) / std, normalize=True)
        logits = model.logit_scale.exp() * image @ model.encode_text(text, normalize=True).T
        target = torch.arange(BATCH)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, float(np.log(100)))
        running.append(loss.item())
        step += 1
        if step % every == 0 or step == steps:
            spent = time.time() - started
            save_checkpoint(
                checkpoint,
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "spent": spent,
                },
            )
            model.visual.patch_dropout = torch.nn.Identity()
            row = {
                "step": step,
                "images": step * BATCH,
                "minutes": spent / 60,
                "learning_rate": rate,
                "loss": float(np.mean(running)),
                **scores(model, tokenize, "val", n_train=3000),
            }
            append_log(folder / "training_log.csv", row)
            log.info("%s", row)
            started, running = time.time() - spent, []
    model.visual.patch_dropout = torch.nn.Identity()
    save_file(
        {k: v.half().contiguous() for k, v in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--decay-from", type=int, default=1850)
    parser.add_argument("--scenes", type=int, default=120_000)
    parser.add_argument("--folder", type=Path, default=WEIGHTS / "clip")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    train(options.steps, options.decay_from, options.scenes, options.folder, options.threads)


if __name__ == "__main__":
    main()
