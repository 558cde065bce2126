"""Extraction by several processes: the same store as by one, whatever happens on the way."""

# ruff: noqa: F811 (fixtures are imported, and are arguments of tests)

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

from sparc_lib.data.drawn import DrawnDataset
from sparc_lib.features import blocks
from sparc_lib.features.encoders import ClipEncoder, DinoEncoder
from sparc_lib.features.extraction import Extraction, encode_blocks, extract
from sparc_lib.paths import WEIGHTS


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


def the_task(data):
    return Extraction(data, LinearEncoder(6), LinearEncoder(5), 4, progress=False)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "BATCHES", 1)  # the 27 pictures make seven blocks


@pytest.mark.parametrize("world", [1, 2, 5, 9])
def test_blocks_of_several_processes_are_the_store_of_one(tmp_path, monkeypatch, world):
    monkeypatch.setattr("sparc_lib.features.extraction.TOLERATED", 0.5)
    broken = {int(image.split("-")[1]) for image in list(dict.fromkeys(scattered().image_ids))[8:12]}
    data = scattered(broken)  # all of one block
    whole = extract(the_task(data), tmp_path / "whole")
    assert 30 < len(whole) < 37 and len(whole.manifest.skipped) == 4
    for rank in range(world):
        encode_blocks(the_task(data), tmp_path / "blocks", rank, world)
    last = the_task(data)
    extract(last, tmp_path / "joined", tmp_path / "blocks")
    assert last.dino.calls == 0 and not (tmp_path / "blocks").exists()
    assert contents(tmp_path / "joined") == contents(tmp_path / "whole")


def test_another_number_of_processes_goes_on_where_one_stopped(tmp_path):
    data = scattered()
    encode_blocks(the_task(data), tmp_path / "blocks", 0, 3)
    second = the_task(data)
    encode_blocks(second, tmp_path / "blocks", 1, 2)  # blocks 1, 3, 5; of which 3 is there
    assert second.dino.calls == 2
    last = the_task(data)
    extract(last, tmp_path / "out", tmp_path / "blocks")
    assert last.dino.calls == 2  # blocks 2 and 4
    extract(the_task(data), tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_blocks_cut_between_images(tmp_path):
    data = scattered()
    task = the_task(data)
    assert [len(block.images) for block in task.blocks] == [4, 4, 4, 4, 4, 4, 3]
    assert sorted(row for block in task.blocks for image in block.images for row in image) == list(range(40))
    for block in task.blocks:
        for image in block.images:
            assert len({data.image_ids[row] for row in image}) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_features_of_a_gpu_are_those_of_the_cpu(tmp_path):
    stores = []
    for device in ("cpu", "cuda"):
        dino = DinoEncoder(WEIGHTS / "dino", device=device)
        clip = ClipEncoder(f"local-dir:{WEIGHTS / 'clip'}", device=device)
        task = Extraction(DrawnDataset("test", 20), dino, clip, 8, workers=2, progress=False)
        stores.append(extract(task, tmp_path / device))
    for stream in stores[0].streams:
        np.testing.assert_allclose(stores[0][stream], stores[1][stream], rtol=5e-3, atol=5e-3)


RUN = textwrap.dedent("""
    import os, signal, sys
    import torch
    torch.set_num_threads(1)
    from sparc_lib.features import blocks
    from sparc_lib.run import distributed
    blocks.BATCHES = 1                                               # of five images: three blocks a split
    if os.environ.get("DIE") == os.environ["RANK"]:                  # killed when it has written a block
        real = blocks.save
        def save(*args):
            real(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        blocks.save = save
    sys.exit(distributed.main(["--profile", sys.argv[1] + "/coco.yaml"]))
""")


@pytest.mark.slow
def test_torchrun_with_two_processes_one_of_them_killed(shrunk, tmp_path, monkeypatch):
    """Under torchrun and gloo: killed, repeated, joined, trained; then the notebooks' calls find it all."""
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
            env={
                **os.environ,
                "PYTHONPATH": paths,
                "OMP_NUM_THREADS": "1",
                "SPARC_OUTPUT": str(tmp_path),
                **extra,
            },
        )

    killed = torchrun(DIE="1")
    assert killed.returncode != 0 and "Signal 9" in killed.stderr
    assert not list((tmp_path / "data").glob("stages/features-train-*[0-9a-f]"))
    done = torchrun()
    assert done.returncode == 0, done.stderr[-2000:]
    assert not list((tmp_path / "data/blocks").iterdir())
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
    for stream in single.streams:
        np.testing.assert_array_equal(together["test"][stream], single[stream])


def test_a_profile_that_is_not_there_ends_every_process_with_a_sentence(capsys):
    from sparc_lib.run import distributed

    with pytest.raises(SystemExit) as ended:
        distributed.main(["--profile", "huge"])
    assert ended.value.code == 2 and "there is no profile 'huge'" in capsys.readouterr().err
