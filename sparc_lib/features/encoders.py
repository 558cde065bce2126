"""The two frozen encoders of the paper behind one interface.

`DinoEncoder`: DINOv2 with registers through transformers. `ClipEncoder`: CLIP through open_clip. Both
load a local directory or a hub name with the same calls, never without weights unless a seed for random
weights is given, and say exactly what they are (`revision`, `fingerprint`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import open_clip
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms as T
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from ..store.format import EncoderStamp
from .hub import CLIP_WEIGHTS, locate, tagged

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
DINO_FILES = ("config.json", "preprocessor_config.json")
DINO_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CLIP_FILES = ("open_clip_config.json",)
CLIP_EXTRAS = ("tokenizer*.json", "special_tokens_map.json", "vocab.json", "merges.txt")


class _FrozenEncoder:
    """What both encoders share. `preprocess`: as for extraction; `preprocess_square`: the whole image squashed to
    the input square, for heatmaps. `patch_grid`: (rows, columns) of patches at the input size."""

    model: nn.Module
    preprocess: T.Compose
    preprocess_square: T.Compose
    dim: int
    patch_grid: tuple[int, int]

    def _freeze(self, name: str, revision: str, config: str, precision: str, device) -> None:
        if precision not in DTYPES:
            raise ValueError(f"precision must be one of {list(DTYPES)}, got {precision!r}")
        self.name, self.revision, self.precision = name, revision, precision
        self.model.eval().requires_grad_(False)
        spec = [
            type(self).__name__,
            revision,
            config,
            re.sub(r" at 0x\w+", "", repr(self.preprocess)),
            precision,
        ]
        self.fingerprint = _short_hash(json.dumps(spec).encode())
        self.to(device)

    @property
    def stamp(self) -> EncoderStamp:
        return EncoderStamp(self.name, self.revision, self.fingerprint)

    def to(self, device) -> _FrozenEncoder:
        self.device = torch.device(device)
        self.model.to(self.device, memory_format=self._layout)
        return self

    @property
    def _layout(self) -> torch.memory_format:
        """Tensor cores want the channels last; on a CPU the order in memory could change last digits for no gain."""
        return torch.channels_last if self.device.type == "cuda" else torch.preserve_format

    def _pixels(self, pixels: Tensor) -> Tensor:
        return pixels.to(self.device, non_blocking=True, memory_format=self._layout)

    def _autocast(self):
        dtype = DTYPES[self.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)


class DinoEncoder(_FrozenEncoder):
    """DINOv2 with registers. Feature: the CLS token after the final layer norm, [B, dim].

    `source`: a local directory or a hub name such as "facebook/dinov2-with-registers-large". `random_weights`: a
    seed; the same architecture with fresh weights, as a control. `precision`: "float32", or autocast to "bfloat16"
    or "float16". Raises FileNotFoundError if files are missing or the hub is out of reach, ValueError for weights
    that do not fit.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        revision: str | None = None,
        offline: bool = False,
        random_weights: int | None = None,
        device="cpu",
        precision: str = "float32",
        cache_dir=None,
    ):
        directory, weights, commit = locate(
            str(source),
            DINO_FILES,
            DINO_WEIGHTS,
            (),
            revision,
            offline,
            cache_dir,
            need_weights=random_weights is None,
        )
        if random_weights is None:
            # Weights may be stored in half precision; on a CPU arithmetic in it is many times slower.
            self.model, report = Dinov2WithRegistersModel.from_pretrained(
                directory, dtype=torch.float32, output_loading_info=True
            )
            if report["missing_keys"]:
                raise ValueError(
                    f"{weights}: no weights for {sorted(report['missing_keys'])[:5]}; this is no complete "
                    "DINOv2-with-registers checkpoint"
                )
        else:
            with _seeded(random_weights):
                self.model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig.from_pretrained(directory))
        spec = _json(directory / "preprocessor_config.json")
        try:
            crop = spec.get("crop_size") if spec.get("do_center_crop", "crop_size" in spec) else None
            size = spec["size"]
            square = crop or size  # what the network sees
            side = (square["height"], square["width"])
            # PIL's bicubic resize is a no-op on an image that has the size already, as in the miniature world.
            resize = T.Resize(
                size.get("shortest_edge") or (size["height"], size["width"]), T.InterpolationMode.BICUBIC
            )
            normalise = T.Normalize(spec["image_mean"], spec["image_std"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{directory / 'preprocessor_config.json'}: field {error} is missing or malformed; "
                "expected 'size', 'crop_size' (if cropped), 'image_mean', 'image_std'"
            ) from error
        self.preprocess = T.Compose(
            [_rgb, resize, *([T.CenterCrop(side)] if crop else []), T.ToTensor(), normalise]
        )
        self.preprocess_square = T.Compose(
            [_rgb, T.Resize(side, T.InterpolationMode.BICUBIC), T.ToTensor(), normalise]
        )
        config = self.model.config
        self.dim, self.patch_grid = (
            config.hidden_size,
            (side[0] // config.patch_size, side[1] // config.patch_size),
        )
        self._freeze(
            _name(source),
            _revision(weights, commit, random_weights),
            commit or _config_hash(directory, DINO_FILES),
            precision,
            device,
        )

    def image_features(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, dim]."""
        with self._autocast():
            return self.model(self._pixels(pixels)).pooler_output.float()


class ClipEncoder(_FrozenEncoder):
    """CLIP. Features: projected image and text embeddings, not normalised, [B, dim].

    `source`: "local-dir:/path" (or a directory), "hf-hub:org/name", or an open_clip model name together with
    `pretrained`, one of its tags or a file. The other arguments and errors are those of `DinoEncoder`;
    without weights and without `random_weights` it raises ValueError, where open_clip only warns.
    """

    def __init__(
        self,
        source: str | Path,
        pretrained: str | None = None,
        *,
        revision: str | None = None,
        offline: bool = False,
        random_weights: int | None = None,
        device="cpu",
        precision: str = "float32",
        cache_dir=None,
    ):
        schema, place = open_clip.factory.parse_model_name(str(source))
        extra: dict = {}
        if schema or Path(place).is_dir():
            directory, weights, commit = locate(
                place,
                CLIP_FILES,
                CLIP_WEIGHTS,
                CLIP_EXTRAS,
                revision,
                offline,
                cache_dir,
                need_weights=random_weights is None,
            )
            model_name, checkpoint = f"local-dir:{directory}", None
            config = commit or _config_hash(directory, CLIP_FILES + CLIP_EXTRAS)
        else:
            if pretrained is None and random_weights is None:
                raise ValueError(
                    f"no weights given for {place!r}, open_clip would make them up: pass pretrained=TAG (one of "
                    f"{open_clip.list_pretrained_tags_by_model(place)}), or random_weights=SEED for a control"
                )
            model_name = place
            weights, commit, extra = tagged(
                place, None if random_weights is not None else pretrained, revision, offline, cache_dir
            )
            checkpoint = None if weights is None else str(weights)
            config = _short_hash(json.dumps(open_clip.get_model_config(place)).encode())
        with _seeded(random_weights or 0):
            self.model, _, self.preprocess = open_clip.create_model_and_transforms(
                model_name,
                pretrained=checkpoint,
                load_weights=random_weights is None,
                pretrained_text=False,
                require_pretrained=random_weights is None,
                **extra,
            )
        self.tokenizer = open_clip.get_tokenizer(model_name)
        spec, side = self.model.visual.preprocess_cfg, self.model.visual.image_size
        side = (side, side) if isinstance(side, int) else tuple(side)
        self.preprocess_square = T.Compose(
            [
                _rgb,
                T.Resize(side, T.InterpolationMode(spec["interpolation"])),
                T.ToTensor(),
                T.Normalize(spec["mean"], spec["std"]),
            ]
        )
        self.dim, self.patch_grid = self.model.visual.output_dim, tuple(self.model.visual.grid_size)
        self._freeze(
            _name(place) + (f" {pretrained}" if pretrained and not schema else ""),
            _revision(weights, commit, random_weights),
            config,
            precision,
            device,
        )

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """B texts -> token ids [B, context_length], long."""
        return self.tokenizer(list(texts))

    def image_features(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, dim]."""
        with self._autocast():
            return self.model.encode_image(self._pixels(pixels)).float()

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """B texts -> [B, dim]."""
        with self._autocast():
            return self.model.encode_text(self.tokenize(texts).to(self.device)).float()


def demand_input_sizes(
    dino: DinoEncoder, clip: ClipEncoder, dino_sizes: tuple[int, int], clip_size: int
) -> None:
    """Raise ValueError unless the encoders preprocess as the profile says: `dino_sizes` (resize, crop) and `clip_size`, px."""
    resize = next(step.size for step in dino.preprocess.transforms if isinstance(step, T.Resize))
    probe = Image.new("RGB", (640, 480))
    found = {
        "dino.resize": resize if isinstance(resize, int) else min(resize),
        "dino.image_size": dino.preprocess(probe).shape[-1],
        "clip.image_size": clip.preprocess(probe).shape[-1],
    }
    for (field, size), wanted in zip(found.items(), (*dino_sizes, clip_size)):
        if size != wanted:
            raise ValueError(
                f"profile field encoders.{field} is {wanted}, but the encoder preprocesses to {size} px; correct "
                "the profile, or load the encoder it was written for"
            )


def _rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); download it again") from error


def _short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _config_hash(directory: Path, patterns: Sequence[str]) -> str:
    """Hash of what lies beside local weights and shapes the features: configuration, preprocessing, tokenizer."""
    paths = sorted({path for pattern in patterns for path in directory.glob(pattern)})
    return _short_hash(json.dumps([[path.name, path.read_text()] for path in paths]).encode())


def _name(source: str | Path) -> str:
    """Hub name, or the last part of a local path (a manifest should not hold machine paths)."""
    return Path(source).name if Path(source).is_dir() else str(source)


def _revision(weights: Path | None, commit: str | None, seed: int | None) -> str:
    if seed is not None:
        return f"random-{seed}"
    if commit:
        return commit
    with open(weights, "rb") as file:
        return "sha256-" + hashlib.file_digest(file, "sha256").hexdigest()[:16]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's CPU generator, from which networks initialise, seeded inside the block and restored after it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
