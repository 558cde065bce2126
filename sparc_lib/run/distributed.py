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
from collections.abc import Sequence
from datetime import timedelta
from itertools import product

import torch
import torch.distributed as dist

from ..profiles import Profile, ProfileError, load_profile, named
from ..studies import runs as workflow
from ..studies.runs import Share

PATIENCE = timedelta(days=7)  # processes need not end together


def extract_all(
    profile: Profile,
    me: Share,
    splits: Sequence[str] = workflow.SPLITS,
    progress: bool = True,
) -> None:
    """This process's part in extracting `splits`, under the trained encoders and the random controls."""
    for split, random_weights in product(splits, (None, *profile.seeds)):
        if me.world > 1:
            workflow.encode_share(profile, split, random_weights, me, progress)
            _wait_for_all()  # every block is there
        if me.rank == 0:
            workflow.features(profile, split, random_weights, progress)
        _wait_for_all()  # no process looks for features while the first one still joins them


def _wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()


def train_all(profile: Profile, me: Share, progress: bool = True) -> None:
    """This process's share of every run the notebooks ask for, one run a process at a time: settings x seeds,
    and the random-encoder control of each. Every rank takes each `world`-th run.
    """
    headline = [(setting, seed) for setting in profile.settings for seed in profile.seeds]
    runs = [(None, setting, seed) for setting, seed in headline]
    runs += [(seed, setting, seed) for setting, seed in headline]
    stores = {
        weights: workflow.features(profile, "train", weights, progress) for weights in (None, *profile.seeds)
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
    try:
        profile = load_profile(named(options.profile or os.environ.get("SPARC_PROFILE")))
    except ProfileError as error:
        parser.error(str(error))
    me = Share(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))  # as torchrun says
    if me.world > 1:
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, timeout=PATIENCE)
    try:
        extract_all(profile, me, tuple(options.split or workflow.SPLITS))
        if not options.no_training and not options.split:
            train_all(profile, me)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
