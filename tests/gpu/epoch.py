"""An epoch of training at the paper's size: features on the card, features streamed, and the published
loader."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from sparc_lib import FeatureStore
from sparc_lib.steps import make_optimizer, make_step

from .dense import dense_step
from .sizes import Deadline, Sizes, seconds, synchronise

RESIDENT, STREAMED = "our steps, features on the device", "our steps, features streamed from the store"
DENSE_RESIDENT, PUBLISHED = (
    "dense step, features on the device",
    "published: dense step, gzip HDF5 read in blocks",
)


def epoch_row(
    name: str,
    batches: Iterable[dict[str, torch.Tensor]],
    step: Callable[[dict], object],
    size: Sizes,
    device: torch.device,
    limit: float,
) -> dict:
    """Seconds of an epoch, in proportion if `limit` seconds or the batches do not reach to its end."""
    n_batches = -(-size.train_samples // size.batch)
    iterator = iter(batches)
    for _ in range(5):  # the first steps allocate, and record graphs
        step(next(iterator))
    synchronise(device)
    begin = time.perf_counter()
    done = 0
    for batch in iterator:
        step(batch)
        done += 1
        if done % 50 == 0:
            synchronise(device)
            if time.perf_counter() - begin > limit:
                break
    synchronise(device)
    spent = time.perf_counter() - begin
    return {
        "what": name,
        "epoch_s": spent / done * n_batches,
        "ms_per_step": spent / done * 1e3,
        "steps_timed": done,
        "steps_in_epoch": n_batches,
    }


def write_store(folder: Path, size: Sizes, device: torch.device) -> FeatureStore:
    features = {}
    generator = torch.Generator(device).manual_seed(0)
    for name, dim in size.dims.items():
        x = torch.randn(size.train_samples, dim, generator=generator, device=device, dtype=torch.float16)
        features[name] = x.cpu().numpy()
    return FeatureStore.create(folder, features, ids=[str(i) for i in range(size.train_samples)])


def write_hdf5(path: Path, store: FeatureStore, n: int) -> None:
    """The published format: float32, compressed by gzip, a data set a stream."""
    import h5py

    with h5py.File(path, "w") as file:
        for name in store.streams:
            file.create_dataset(name, data=np.asarray(store[name][:n], np.float32), compression="gzip")


def hdf5_blocks(path: Path, batch: int, device: torch.device, shuffled: bool = True) -> Iterator[dict]:
    """Contiguous blocks in random order (F11), read by the training process, divided by their L2 norm."""
    import h5py

    with h5py.File(path, "r") as file:
        n = len(next(iter(file.values())))
        generator = torch.Generator().manual_seed(0)
        for block in torch.randperm(n // batch, generator=generator).tolist():
            streams = {}
            for name, data in file.items():
                x = torch.from_numpy(data[block * batch : (block + 1) * batch]).to(device)
                streams[name] = torch.nn.functional.normalize(x)
            yield streams


def run(size: Sizes, device: torch.device, deadline: Deadline) -> Iterator[dict]:
    """A row a way to feed a training run, and the gain over the published way (goal: at least 10 times)."""
    available = deadline.left
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        store = write_store(Path(folder) / "store", size, device)
        yield {"what": "random features written as a store", "s": time.perf_counter() - begin}

        def library() -> Callable[[dict], object]:
            model = size.model(device)
            return make_step(model, make_optimizer(model))

        def published() -> Callable[[dict], object]:
            model = size.model(device)
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, eps=1e-8)
            return lambda batch: dense_step(model, optimizer, batch, with_auxk=False)

        def shuffled(source: FeatureStore) -> Iterator[dict]:
            return source.batches(size.batch, generator=torch.Generator().manual_seed(0), device=device)

        begin = time.perf_counter()
        resident = store.resident(device)
        synchronise(device)
        yield {"what": "store moved to the device", "s": time.perf_counter() - begin}
        limit = 0.2 * available
        ours = epoch_row(RESIDENT, shuffled(resident), library(), size, device, limit)
        yield ours
        yield epoch_row(STREAMED, shuffled(store), library(), size, device, limit)
        yield epoch_row(DENSE_RESIDENT, shuffled(resident), published(), size, device, limit / 2)
        try:
            import h5py  # noqa: F401
        except ModuleNotFoundError:
            yield {"what": PUBLISHED, "note": "not run: h5py is missing"}
            return
        path = Path(folder) / "features.h5"
        write_seconds = seconds(lambda: write_hdf5(path, store, size.hdf5_samples), device)
        yield {"what": f"{size.hdf5_samples} samples written as gzip HDF5", "s": write_seconds}
        blocks = hdf5_blocks(path, size.batch, device)
        theirs = epoch_row(PUBLISHED, blocks, published(), size, device, limit)
        yield theirs
        gain = theirs["epoch_s"] / ours["epoch_s"]
        yield {"what": "published epoch over ours", "ratio": gain, "goal": "at least 10"}
