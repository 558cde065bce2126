"""How much the GPU check does: the paper's sizes, and tiny ones that run anywhere."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from sparc_lib import SPARC


@dataclass(frozen=True)
class Sizes:
    """Defaults: the paper's model and Open Images (METHOD, "Paper setting" and "Notation")."""

    tiny: bool = False
    dims: dict[str, int] = field(default_factory=lambda: {"dino": 1024, "clip_img": 768, "clip_txt": 768})
    n_latents: int = 8192
    k: int = 64
    batch: int = 256
    train_samples: int = 507_444
    test_samples: int = 126_020
    n_classes: int = 601
    hdf5_samples: int = 12_288  # written as gzip HDF5; gzip is too slow for the whole training set
    retrieval_queries: int = 8_192  # timed among all test samples
    images: int = 3_072
    image_files: int = 256  # distinct JPEGs that the images are read from
    image_size: tuple[int, int] = (1024, 768)  # about that of Open Images
    encoder_batch: int = 128
    timed_steps: int = 20
    compile_backend: str = "inductor"

    def model(self, device: torch.device, gate: str = "global") -> SPARC:
        """An untrained model, the same on every device."""
        generator = torch.Generator().manual_seed(0)
        return SPARC(self.dims, self.n_latents, self.k, gate, generator=generator).to(device)

    def streams(self, device: torch.device, n: int | None = None) -> dict[str, torch.Tensor]:
        """Random unit rows {stream: [n, d]}, float32, drawn on the device; n defaults to the batch size."""
        generator = torch.Generator(device).manual_seed(0)
        streams = {}
        for name, dim in self.dims.items():
            x = torch.randn(n or self.batch, dim, generator=generator, device=device)
            streams[name] = torch.nn.functional.normalize(x)
        return streams


TINY = Sizes(
    tiny=True,
    dims={"dino": 32, "clip_img": 24, "clip_txt": 24},
    n_latents=256,
    k=8,
    batch=32,
    train_samples=640,
    test_samples=500,
    n_classes=20,
    hdf5_samples=320,
    retrieval_queries=100,
    images=24,
    image_files=6,
    image_size=(120, 100),
    encoder_batch=8,
    timed_steps=2,
    compile_backend="aot_eager",
)


class SkipPart(Exception):
    """A part that has nothing to do on this machine, with the reason."""


class Deadline:
    """Seconds that a part has from now on."""

    def __init__(self, seconds: float):
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def synchronise(device: torch.device) -> None:
    """Wait for all that was started on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of one call, finished on the device."""
    synchronise(device)
    begin = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - begin


def milliseconds(work: Callable[[], object], device: torch.device, repeats: int, warm_up: int = 3) -> float:
    """Median time of a call after `warm_up` of them."""
    for _ in range(warm_up):
        work()
    return 1e3 * statistics.median(seconds(work, device) for _ in range(repeats))
