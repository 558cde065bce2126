"""One estimate before a long training: how many steps, how long each, how long all."""

import logging
import time
from collections.abc import Iterator

import torch

from ..store.reader import FeatureStore
from ..training import TrainConfig

log = logging.getLogger(__name__)
LONG = 600  # seconds of training from which on an estimate is logged
WARM_UP, TIMED = 3, 10  # steps before those that are timed, and how many are


class Announced:
    """A store whose batches say once how long the training will take, if that is long."""

    def __init__(self, store: FeatureStore, config: TrainConfig, label: str):
        self.store, self.digest, self.label = store, store.digest, label
        self.n_steps = config.epochs * -(-len(store) // config.batch_size)
        self.served = 0

    def __len__(self) -> int:
        return len(self.store)

    def gather(self, rows: torch.Tensor | None, device="cpu") -> dict[str, torch.Tensor]:
        """As `FeatureStore.gather`."""
        return self.store.gather(rows, device)

    def batches(self, *args, **options) -> Iterator[dict[str, torch.Tensor]]:
        """As `FeatureStore.batches`."""
        for batch in self.store.batches(*args, **options):
            if self.served == WARM_UP:
                self.started = time.perf_counter()
            if self.served == WARM_UP + TIMED:
                seconds = (time.perf_counter() - self.started) / TIMED
                if seconds * self.n_steps > LONG:
                    hours = seconds * self.n_steps / 3600
                    message = "%s: %d steps of %.1f ms, about %.1f h"
                    log.warning(message, self.label, self.n_steps, 1000 * seconds, hours)
            self.served += 1
            yield batch
