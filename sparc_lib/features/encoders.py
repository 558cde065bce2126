"""The two frozen encoders of the paper behind one interface.

`DinoEncoder`: DINOv2 with registers through transformers. `ClipEncoder`: CLIP through open_clip. Both load a
local directory or a hub name with the same calls, never without weights unless a seed for random weights is
given, and say exactly what they are (`revision`, `fingerprint`).
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

from ..files import sha256
from ..store.format import EncoderStamp
from .hub import CLIP_FILES, DINO_FILES, Found, locate, tagged

DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class _FrozenEncoder:
    """What both encoders share. `preprocess`: as for extraction; `preprocess_square`: the whole image
    squashed to the input square, for heatmaps. `patch_grid`: (rows, columns) of patches at the input size.
    """

    model: nn.Module
    preprocess: T.Compose
    preprocess_square: T.Compose
    dim: int
    patch_grid: tuple[int, int]

    def _freeze(self, name: str, files: Found, seed: int | None, precision: str, device) -> None:
        if precision not in DTYPES:
            raise ValueError(f"precision must be one of {list(DTYPES)}, got {precision!r}")
        self.name, self.revision, self.precision = name, _revision(files, seed), precision
        self.model.eval().requires_grad_(False)
        preprocess = re.sub(r" at 0x\w+", "", repr(self.preprocess))
        spec = [type(self).__name__, self.revision, files.config, preprocess, precision]
        self.fingerprint = hashlib.sha256(json.dumps(spec).encode()).hexdigest()[:16]
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
        """Tensor cores want the channels last; on a CPU that could change last digits for no gain."""
        return torch.channels_last if self.device.type == "cuda" else torch.preserve_format

    def _pixels(self, pixels: Tensor) -> Tensor:
        return pixels.to(self.device, non_blocking=True, memory_format=self._layout)

    def _autocast(self):
        dtype = DTYPES[self.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)


class DinoEncoder(_FrozenEncoder):
    """DINOv2 with registers. Feature: the CLS token after the final layer norm, [B, dim].

    `source`: a local directory or a hub name such as "facebook/dinov2-with-registers-large".
    `random_weights`: a seed; the same architecture with fresh weights, as a control. `precision`: "float32",
    or autocast to "bfloat16" or "float16". Raises FileNotFoundError if files are missing or the hub is out of
    reach, ValueError for weights that do not fit.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        revision: str | None = None,
        random_weights: int | None = None,
        device="cpu",
        precision: str = "float32",
    ):
        files = locate(str(source), DINO_FILES, revision, need_weights=random_weights is None)
        if random_weights is None:
            # Weights may be stored in half precision; on a CPU arithmetic in it is many times slower.
            self.model, report = Dinov2WithRegistersModel.from_pretrained(
                files.directory, dtype=torch.float32, output_loading_info=True
            )
            if report["missing_keys"]:
                raise ValueError(
                    f"{files.weights}: no weights for {sorted(report['missing_keys'])[:5]}; this is no "
                    "complete DINOv2-with-registers checkpoint"
                )
        else:
            config = Dinov2WithRegistersConfig.from_pretrained(files.directory)
            with _seeded(random_weights):
                self.model = Dinov2WithRegistersModel(config)
        side = self._read_preprocessing(files.directory / "preprocessor_config.json")
        self.dim, patch = self.model.config.hidden_size, self.model.config.patch_size
        self.patch_grid = (side[0] // patch, side[1] // patch)
        self._freeze(_name(source), files, random_weights, precision, device)

    def _read_preprocessing(self, path: Path) -> tuple[int, int]:
        """Set both preprocessings from the file; return (height, width) of what the network sees."""
        try:
            spec = json.loads(path.read_text())
            size = spec["size"]
            crop = spec.get("crop_size") if spec.get("do_center_crop", "crop_size" in spec) else None
            square = crop or size
            side = (square["height"], square["width"])
            shorter = size.get("shortest_edge") or (size["height"], size["width"])
            normalise = T.Normalize(spec["image_mean"], spec["image_std"])
        except KeyError as error:
            raise ValueError(
                f"{path}: field {error} is missing; expected 'size', 'crop_size' (if cropped), 'image_mean', "
                "'image_std'"
            ) from error
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a preprocessing file ({error}); download it again") from error
        # PIL's bicubic resize is a no-op on an image that has the size already, as in the miniature world.
        steps = [_rgb, T.Resize(shorter, T.InterpolationMode.BICUBIC)]
        if crop:
            steps.append(T.CenterCrop(side))
        self.preprocess = T.Compose([*steps, T.ToTensor(), normalise])
        squash = T.Resize(side, T.InterpolationMode.BICUBIC)
        self.preprocess_square = T.Compose([_rgb, squash, T.ToTensor(), normalise])
        return side

    def image_features(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, dim]."""
        with self._autocast():
            return self.model(self._pixels(pixels)).pooler_output.float()


class ClipEncoder(_FrozenEncoder):
    """CLIP. Features: projected image and text embeddings, not normalised, [B, dim].

    `source`: "local-dir:/path" (or a directory), "hf-hub:org/name", or an open_clip model name together with
    `pretrained`: one of its tags, or a file that is published under one of them (see `hub.tagged`). The other
    arguments and errors are those of `DinoEncoder`; without weights and without `random_weights` it raises
    ValueError, where open_clip only warns.
    """

    def __init__(
        self,
        source: str | Path,
        pretrained: str | None = None,
        *,
        revision: str | None = None,
        random_weights: int | None = None,
        device="cpu",
        precision: str = "float32",
    ):
        schema, place = open_clip.factory.parse_model_name(str(source))
        name, settings, checkpoint = _name(place), {}, None
        if schema or Path(place).is_dir():
            files = locate(place, CLIP_FILES, revision, need_weights=random_weights is None)
            model_name = f"local-dir:{files.directory}"
        else:
            if pretrained is None and random_weights is None:
                raise ValueError(
                    f"no weights given for {place!r}, open_clip would make them up: pass pretrained=TAG (one "
                    f"of {open_clip.list_pretrained_tags_by_model(place)}), or random_weights=SEED for a "
                    "control"
                )
            files, settings = tagged(place, pretrained if random_weights is None else None, revision)
            model_name = place
            if pretrained:
                name = f"{name} {pretrained}"
            if files.weights is not None:
                checkpoint = str(files.weights)
        with _seeded(random_weights or 0):
            self.model, _, self.preprocess = open_clip.create_model_and_transforms(
                model_name,
                pretrained=checkpoint,
                load_weights=random_weights is None,
                pretrained_text=False,
                require_pretrained=random_weights is None,
                **settings,
            )
        self.tokenizer = open_clip.get_tokenizer(model_name)
        visual = self.model.visual
        spec, side = visual.preprocess_cfg, visual.image_size
        side = (side, side) if isinstance(side, int) else tuple(side)
        squash = T.Resize(side, T.InterpolationMode(spec["interpolation"]))
        normalise = T.Normalize(spec["mean"], spec["std"])
        self.preprocess_square = T.Compose([_rgb, squash, T.ToTensor(), normalise])
        self.dim, self.patch_grid = visual.output_dim, tuple(visual.grid_size)
        self._freeze(name, files, random_weights, precision, device)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """B texts -> token ids [B, context_length], long."""
        return self.tokenizer(list(texts))

    def image_features(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, dim]."""
        with self._autocast():
            return self.model.encode_image(self._pixels(pixels)).float()

    def token_features(self, tokens: Tensor) -> Tensor:
        """Token ids [B, context_length] -> [B, dim]."""
        with self._autocast():
            return self.model.encode_text(tokens.to(self.device, non_blocking=True)).float()

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """B texts -> [B, dim]."""
        return self.token_features(self.tokenize(texts))


def demand_input_sizes(
    dino: DinoEncoder, clip: ClipEncoder, dino_sizes: tuple[int, int], clip_size: int
) -> None:
    """Raise ValueError unless the encoders preprocess as the profile says: `dino_sizes` (resize, crop) and
    `clip_size`, px.
    """
    resize = next(step.size for step in dino.preprocess.transforms if isinstance(step, T.Resize))
    probe = Image.new("RGB", (640, 480))
    sizes = {
        "dino.resize": (resize if isinstance(resize, int) else min(resize), dino_sizes[0]),
        "dino.image_size": (dino.preprocess(probe).shape[-1], dino_sizes[1]),
        "clip.image_size": (clip.preprocess(probe).shape[-1], clip_size),
    }
    for field, (size, wanted) in sizes.items():
        if size != wanted:
            raise ValueError(
                f"profile field encoders.{field} is {wanted}, but the encoder preprocesses to {size} px; "
                "correct the profile, or load the encoder it was written for"
            )


def _rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _name(source: str | Path) -> str:
    """Hub name, or the last part of a local path (a manifest should not hold machine paths)."""
    return Path(source).name if Path(source).is_dir() else str(source)


def _revision(files: Found, seed: int | None) -> str:
    """A seed, a commit of the hub, or the hash of local weights."""
    if seed is not None:
        return f"random-{seed}"
    return files.commit or f"sha256-{sha256(files.weights)[:16]}"


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's CPU generator, from which networks initialise, seeded in the block and restored after it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
