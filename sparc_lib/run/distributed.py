"""Extraction and training on several GPUs or machines that share a disk, under torchrun:

    torchrun --nproc_per_node 8 -m sparc_lib.run.distributed --profile openimages

Each process computes its share of the blocks of every split; when all are done, the first one joins them in
the very stage that the notebooks look for. Then each process trains its share of the models, one at a time on
its own device. After a kill the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
from datetime import timedelta
from itertools import product
from typing import NamedTuple

import torch
import torch.distributed as dist

from ..profile_files import named
from ..profiles import Profile, load_profile
from ..studies import runs as workflow

PATIENCE = timedelta(days=7)  # processes need not end together


class Rank(NamedTuple):
    """This process among all: number, how many there are, and number on its machine."""

    rank: int
    world: int
    local: int

    @classmethod
    def of_environment(cls) -> Rank:
        """As torchrun says; a process of its own without it."""
        defaults = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
        return cls(*(int(os.environ.get(name, default)) for name, default in defaults.items()))


def extract_all(
    profile: Profile,
    me: Rank,
    splits: tuple[str, ...] = workflow.SPLITS,
    controls: tuple[int | None, ...] = (None, workflow.RANDOM),
    progress: bool = True,
) -> None:
    """This process's part in extracting `splits`, under the trained encoders and the random controls.

    Needs torch.distributed to be initialised when there are several processes.
    """
    for split, random_weights in product(splits, controls):
        if me.world > 1:
            share = workflow.Share(me.rank, me.world)
            workflow.encode_share(profile, split, random_weights, share, progress)
            dist.barrier()  # every block is there
        if me.rank == 0:
            workflow.features(profile, split, random_weights, progress)
        if me.world > 1:
            dist.barrier()  # no process looks for features while the first one still makes them


def train_all(profile: Profile, me: Rank, progress: bool = True) -> None:
    """This process's share of every run the notebooks ask for, one run a process at a time: settings x seeds,
    and the random-encoder control of each setting, first seed. Every rank takes each `world`-th run.
    """
    runs = [(None, setting, seed) for setting in profile.settings for seed in profile.seeds]
    runs += [(workflow.RANDOM, setting, profile.seeds[0]) for setting in profile.settings]
    stores = {
        weights: workflow.features(profile, "train", weights, progress) for weights in (None, workflow.RANDOM)
    }
    for weights, setting, seed in runs[me.rank :: me.world]:
        workflow.trained(profile, setting, seed, stores[weights], progress=progress and me.rank == 0)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="torchrun -m sparc_lib.run.distributed", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--profile", default=None)
    parser.add_argument("--data-root", default=None, help="the data sets coco/ and open_images/")
    parser.add_argument(
        "--split", action="append", choices=workflow.SPLITS, help="extract only this one; may be repeated"
    )
    parser.add_argument("--no-training", action="store_true", help="extract only")
    options = parser.parse_args(arguments)
    if options.data_root:
        os.environ["SPARC_DATASETS"] = os.path.abspath(options.data_root)
    me = Rank.of_environment()
    if me.world > 1:
        if torch.cuda.is_available():
            torch.cuda.set_device(me.local)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE
        )
    profile = load_profile(named(options.profile or os.environ.get("SPARC_PROFILE")))
    try:
        extract_all(profile, me, tuple(options.split or workflow.SPLITS))
        if not options.no_training and not options.split:
            train_all(profile, me)
    finally:
        if me.world > 1:
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
