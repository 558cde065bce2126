"""Train the mini CLIP from scratch: ``python -m sparc_lib.miniworld.encoders.train_clip``.

An open_clip CLIP on scenes and captions of the world's "encoder" split, with the symmetric contrastive loss
of the original. At first two thirds of the patches are dropped (as FLIP does), so that a step costs a
quarter; in the end one. Every scene is told by several describers. A term on both embeddings keeps their
variance spread over many directions. What is shipped is the moving average of the weights, as an open_clip
``local-dir:`` folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from ..habits import MAX_TOKENS
from ..scenes import make_scene
from .evaluate import clip_scores
from .loop import Options, Recipe, attend, autocast, command_line, log_participation, train
from .pictures import GRID, MEAN, STD, WORLD_SEED, on_all_cores, patches, pick

CONTEXT = MAX_TOKENS + 2  # of the longest caption, with start and end
DESCRIBERS = 4  # captions of a scene to train on
WORDS_FROM = 25_000  # scenes whose captions' words are the vocabulary
# From this share of the budget on: patches that the network sees. With CLS they make a multiple of 16 tokens,
# which AMX multiplies twice as fast as other numbers.
KEPT = ((0.0, 47), (0.7, 79), (0.92, 143))
LENGTHS = (24, 40)  # captions are encoded by length: up to these numbers of tokens, and the rest
SPREAD = 0.05  # weight of the term on the embeddings' covariance
MODEL = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 96, "patch_size": 8, "layers": 4, "width": 128, "head_width": 32},
    "text_cfg": {"hf_tokenizer_name": "local", "width": 128, "heads": 4, "layers": 3},
}
PREPROCESS = {
    "size": [96, 96],
    "mode": "RGB",
    "mean": [MEAN] * 3,
    "std": [STD] * 3,
    "interpolation": "bicubic",
    "resize_mode": "squash",
    "fill_color": 0,
}


def captions_of(index: int) -> list[str]:
    """What `DESCRIBERS` people say of scene `index` of the encoder split."""
    scene = make_scene(WORLD_SEED, "encoder", index)
    seeds = [scene.caption_seed, *range(index * DESCRIBERS + 1, (index + 1) * DESCRIBERS)]
    return [replace(scene, caption_seed=seed).captions()[0].text for seed in seeds]


def captions_of_block(first: int, end: int) -> list[str]:
    """Captions of scenes first to end - 1, scene by scene."""
    return [text for index in range(first, end) for text in captions_of(index)]


def tokens_of_block(first: int, end: int, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Their token ids, int16 [end - first, DESCRIBERS, CONTEXT]."""
    texts = captions_of_block(first, end)
    ids = tokenizer(texts, padding="max_length", max_length=CONTEXT)["input_ids"]
    return np.array(ids, np.int16).reshape(-1, DESCRIBERS, CONTEXT)


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, those of the texts; the end has the highest id, as CLIP's pooling wants."""
    splitter = pre_tokenizers.Whitespace()
    words = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text.lower())})
    vocabulary = ["<pad>", "<unk>", "<start>", *words, "<end>"]
    ids = {word: i for i, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = splitter
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


class Network(nn.Module):
    """open_clip's CLIP, shown only some patches of each scene."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.clip = open_clip.CLIP(**config)
        for tower in (self.clip.visual.transformer, self.clip.transformer):
            for block in tower.resblocks:
                block.attn.forward = partial(_attention, block.attn)

    def forward(self, tiles: Tensor, places: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Patches [B, n, 192] at places [B, n], token ids [B, T] -> unit embeddings [B, 128] of both."""
        vision = self.clip.visual
        x = F.linear(tiles, vision.conv1.weight.flatten(1)) + vision.positional_embedding[1:][places]
        first = (vision.class_embedding + vision.positional_embedding[0]).expand(len(x), 1, -1)
        x = vision.transformer(vision.ln_pre(torch.cat([first.to(x.dtype), x], 1)))
        image = vision.ln_post(x[:, 0]) @ vision.proj
        return F.normalize(image.float(), dim=1), F.normalize(self.words(text).float(), dim=1)

    def words(self, text: Tensor) -> Tensor:
        """Token ids [B, T], padded with 0 -> embeddings [B, 128], short captions apart from long ones.

        On a GPU all are encoded together: sorting them would wait for it.
        """
        if text.is_cuda:
            return self._pooled(text)
        lengths = (text > 0).sum(1)
        longer = torch.bucketize(lengths, torch.tensor(LENGTHS, device=text.device))
        out, order = [], []
        for number, limit in enumerate((*LENGTHS, text.shape[1])):
            rows = (longer == number).nonzero()[:, 0]
            out.append(self._pooled(text[rows, :limit]))
            order.append(rows)
        return torch.cat(out)[torch.cat(order).argsort()]

    def _pooled(self, text: Tensor) -> Tensor:
        length = text.shape[1]
        x = self.clip.token_embedding(text) + self.clip.positional_embedding[:length]
        x = self.clip.transformer(x, attn_mask=self.clip.attn_mask[:length, :length])
        x = x[torch.arange(len(text), device=text.device), text.argmax(1)]  # the end has the highest id
        return self.clip.ln_final(x) @ self.clip.text_projection


def _attention(attention: nn.MultiheadAttention, x: Tensor, *_, attn_mask: Tensor | None = None, **__):
    """The same as the module's own forward, batch first and without its copies."""
    b, t, width = x.shape
    heads = attention.num_heads
    projected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = projected.view(b, t, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    mixed = attend(query, key, value, None if attn_mask is None else attn_mask.to(query.dtype))
    return attention.out_proj(mixed.transpose(1, 2).reshape(b, t, width)), None


class Clip(Recipe):
    """Contrastive training on pairs of a scene and one of its captions."""

    name = "clip"
    batch = 256
    learning_rate = 1.5e-3
    averaging = 0.998

    def prepare(self, options: Options) -> None:
        self.device = options.device
        texts = chain(*on_all_cores(captions_of_block, min(options.scenes, WORDS_FROM)))
        self.tokenizer = build_tokenizer(texts)
        blocks = on_all_cores(tokens_of_block, options.scenes, self.tokenizer)
        self.tokens = torch.from_numpy(np.concatenate(blocks)).to(options.device)
        text = MODEL["text_cfg"] | {"context_length": CONTEXT, "vocab_size": len(self.tokenizer)}
        self.config = MODEL | {"text_cfg": text}
        self.model = Network(self.config)

    def losses(
        self, images: Tensor, rows: Tensor, average: nn.Module, progress: float, draw: torch.Generator
    ) -> dict[str, Tensor]:
        kept = [n for start, n in KEPT if progress >= start][-1]
        b, device = len(images), images.device
        places = torch.rand(b, GRID * GRID, generator=draw, device=device).argsort(1)[:, :kept]
        describer = torch.randint(DESCRIBERS, (b,), generator=draw, device=device)
        tiles = (pick(patches(images[:, 0]), places).float() / 255 - MEAN) / STD
        with autocast(self.device):
            image, text = self.model(tiles, places, self.tokens[rows, describer].long())
        scale = self.model.clip.logit_scale.clamp(max=math.log(100)).exp()
        logits = scale * image @ text.T
        target = torch.arange(len(logits), device=logits.device)
        match = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        spread = log_participation(image) + log_participation(text)
        return {"match": match, "spread": SPREAD * spread}

    def scores(self, average: nn.Module) -> dict[str, float]:
        return clip_scores(average.clip, self.tokenizer, "val", 1000, 2000, full=False)

    def export(self, average: nn.Module, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        config = {"model_cfg": self.config, "preprocess_cfg": PREPROCESS}
        (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1))
        weights = {name: value.half().contiguous() for name, value in average.clip.state_dict().items()}
        save_file(weights, folder / "open_clip_model.safetensors")

    def load(self, folder: Path) -> None:
        self.model.clip.load_state_dict(load_file(folder / "open_clip_model.safetensors"))


if __name__ == "__main__":
    train(Clip(), command_line("clip", __doc__))
