"""Extraction by several processes: the same store as by one, whatever happens on the way."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from small_profiles import encoder_dirs, shrunk  # noqa: F401 (fixtures)
from test_extraction import LinearEncoder, Pictures, contents

from sparc_lib.features.extraction import extract
from sparc_lib.features.loading import one_ahead, to_host
from sparc_lib.features.shards import Shard, extract_shard, merge, place
from sparc_lib.store.reader import StoreError


class RowByRow(LinearEncoder):
    """Features of a sample do not depend on its batch, so that shards can be compared bit for bit."""

    def image_features(self, pixels):
        return torch.cat([super(RowByRow, self).image_features(row[None]) for row in pixels])

    def text_features(self, texts):
        return torch.cat([super(RowByRow, self).text_features([text]) for text in texts])


def scattered(broken=()):
    """Pairs of one image lie apart, as in the file of the Localized Narratives."""
    data = Pictures(40, broken=broken)
    order = np.random.default_rng(0).permutation(40)
    for field in ("ids", "image_ids", "captions"):
        setattr(data, field, [getattr(data, field)[i] for i in order])
    data.labels = data.labels[order]
    data.broken = {
        place for place, i in enumerate(order) if data.image_ids[place] in {f"image-{b}" for b in broken}
    }
    return data


def encoders():
    return RowByRow(6), RowByRow(5)


def shard(data, folder, rank, world):
    return extract_shard(data, *encoders(), folder, rank, world, batch_size=4, progress=False)


@pytest.mark.parametrize("world", [1, 2, 5])
def test_merged_shards_are_the_store_of_one_process(tmp_path, world):
    data = scattered(broken={9, 10})
    whole = extract(data, *encoders(), tmp_path / "whole", 4, progress=False)
    parts = [shard(data, tmp_path / "shards", rank, world) for rank in range(world)]
    assert sum(map(len, parts)) == len(whole) == 37 and len(whole.manifest.skipped) == 2
    merge(data, *encoders(), tmp_path / "shards", tmp_path / "merged")
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")
    assert (
        extract(data, *encoders(), tmp_path / "merged", 4, progress=False).ids == whole.ids
    )  # taken for its own work


def test_shards_cut_between_images_and_are_of_like_size():
    data = scattered()
    shards = [Shard(data, rank, 4) for rank in range(4)]
    images = [set(part.image_ids) for part in shards]
    assert [len(one) for one in images] == [6, 7, 7, 7] and len(set().union(*images)) == 27
    assert sorted(row for part in shards for row in part.rows) == list(range(40))
    for rank, world, message in ((4, 4, "ranks run from 0 to 3"), (0, 28, "27 images for 28 processes")):
        with pytest.raises(ValueError, match=message):
            Shard(data, rank, world)


def test_missing_mixed_and_foreign_shards_are_refused(tmp_path):
    data, folder = scattered(), tmp_path / "shards"
    folder.mkdir()
    with pytest.raises(StoreError, match="no finished shard"):
        merge(data, *encoders(), folder, tmp_path / "out")
    shard(data, folder, 0, 3), shard(data, folder, 2, 3)
    with pytest.raises(
        StoreError, match=r"shards \[1\] of 3 are not finished; run the sharded extraction again"
    ):
        merge(data, *encoders(), folder, tmp_path / "out")
    shard(data, folder, 1, 3)
    with pytest.raises(StoreError, match="fingerprint"):
        merge(data, RowByRow(6, "2"), RowByRow(5), folder, tmp_path / "out")
    with pytest.raises(StoreError, match="the shards hold 40 pairs, pictures/test has 30"):
        merge(Pictures(30), *encoders(), folder, tmp_path / "out")
    shard(data, folder, 0, 2)
    with pytest.raises(StoreError, match="shards of runs with 2 and 3 processes"):
        merge(data, *encoders(), folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_place_of_shards_follows_data_and_encoders(tmp_path):
    data = scattered()
    first = place(tmp_path, data, *encoders())
    assert place(tmp_path, data, RowByRow(6, "2"), RowByRow(5)) != first
    data.captions[3] = "another"
    assert place(tmp_path, data, *encoders()) != first


def test_one_batch_is_always_under_way():
    started = []

    def start(n):
        started.append(n)
        return n

    seen = [(item, list(started)) for item in one_ahead(map(start, range(3)))]
    assert seen == [(0, [0, 1]), (1, [0, 1, 2]), (2, [0, 1, 2])] and list(one_ahead([])) == []


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))],
)
def test_features_arrive_on_the_host_as_they_were(device):
    batches = [torch.full((64, 32), float(i), device=device) for i in range(5)]
    waiting = [to_host(batch * 2) for batch in batches]
    assert all((arrived() == 2 * i).all() for i, arrived in enumerate(waiting))


RUN = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from sparc_lib import paths, profiles
    from sparc_lib.run import distributed
    paths.PROFILES = Path(sys.argv[1])
    if os.environ.get("DIE") == os.environ["RANK"]:                  # killed when it writes its second stream
        real, count = os.pwrite, iter(range(99))
        os.pwrite = lambda *args: os.kill(os.getpid(), signal.SIGKILL) if next(count) == 1 else real(*args)
    sys.exit(distributed.main(["--profile", "coco"]))
""")


@pytest.mark.slow
def test_torchrun_with_two_processes_one_of_them_killed(shrunk, tmp_path, monkeypatch):
    """Under torchrun and gloo on the CPU: killed, repeated, merged, trained; then the notebooks' calls find it all."""
    from sparc_lib.studies import runs as workflow

    profile = shrunk("coco")
    (tmp_path / "run.py").write_text(RUN)

    def torchrun(**extra):
        paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc_per_node",
                "2",
                str(tmp_path / "run.py"),
                str(tmp_path),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **extra},
        )

    killed = torchrun(DIE="1")
    assert killed.returncode != 0 and "Signal 9" in killed.stderr
    assert not list((tmp_path / "data").glob("stages/features-train-*[0-9a-f]"))
    done = torchrun()
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list((tmp_path / "data/shards").iterdir())
    monkeypatch.setattr("sparc_lib.studies.runs.dataset", lambda *_: pytest.fail("features were not found"))
    together = {split: workflow.features(profile, split, progress=False) for split in workflow.SPLITS}
    runs = {
        weights: (
            profile,
            profile.settings[0],
            0,
            workflow.features(profile, "train", weights, progress=False),
        )
        for weights in (None, workflow.RANDOM)
    }
    assert all(workflow.has_trained(*run) for run in runs.values())
    model = workflow.trained(*runs[None]).model
    alone = workflow.fit(*runs[None], tmp_path / "checkpoint.pt", progress=False).model
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)
    monkeypatch.undo()
    monkeypatch.setenv("SPARC_DATASETS", str(tmp_path / "sets"))
    monkeypatch.setenv("SPARC_DATA", str(tmp_path / "alone"))
    together["test"].verify()
    single = workflow.features(profile, "test", progress=False)
    assert (single.ids, single.captions) == (together["test"].ids, together["test"].captions)
    for stream in single.streams:  # batches differ, so the last bit may
        np.testing.assert_allclose(together["test"][stream], single[stream], rtol=2e-3, atol=1e-3)
