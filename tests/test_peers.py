"""Two processes on gloo take the steps that one process takes."""
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sparc_lib import training
from sparc_lib.peers import ALONE
from test_training import CONFIG, build, sample

N = {"global": 129, "local": 135}       # samples; of 32 a batch, so the last batch has 1 or 7, which two cannot share equally
RUN = textwrap.dedent("""
    import dataclasses, sys
    from pathlib import Path
    import torch, torch.distributed as dist
    torch.set_num_threads(1)
    from sparc_lib.peers import Peers
    from sparc_lib.training import train
    from test_training import CONFIG, Faulty, build, sample
    from sparc_lib.feeds import TensorFeed
    from test_peers import N
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo")
    for gate in N:
        data = {s: x.double() for s, x in sample(n=N[gate]).items()}
        model, checkpoint = build(gate=gate).double(), folder / f"{gate}.pt"
        config = dataclasses.replace(CONFIG, checkpoint_steps=2)
        if gate == "global":                                       # fails in the second epoch, is resumed
            try:
                train(model, Faulty(data, 8), config, checkpoint, False, Peers())
            except OSError:
                pass
            model = build(gate=gate).double()
        result = train(model, TensorFeed(data), config, checkpoint, False, Peers())
        torch.save(model.state_dict(), folder / f"{gate}-{dist.get_rank()}.pt")
        result.history.to_csv(folder / f"{gate}-{dist.get_rank()}.csv", index=False)
    dist.destroy_process_group()
""")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers")
    (folder / "run.py").write_text(RUN)
    search = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                           str(folder / "run.py"), str(folder)], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["global", "local"])
def test_two_processes_equal_one(pair, gate):
    """Dead latents, AuxK and re-drawing included; the global one was interrupted and resumed as well."""
    model = build(gate=gate).double()
    alone = training.train(model, {s: x.double() for s, x in sample(n=N[gate]).items()}, CONFIG, progress=False)
    ours = [torch.load(pair / f"{gate}-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for key, value in model.state_dict().items():
        assert torch.equal(ours[0][key], ours[1][key]), key
        torch.testing.assert_close(ours[0][key], value, rtol=1e-6, atol=1e-9, msg=key)
    told = pd.read_csv(pair / f"{gate}-1.csv")
    assert (alone.history.value[alone.history.term == "redrawn"] > 0).any()            # the interesting paths were taken
    assert told.drop(columns="value").fillna("").equals(alone.history.drop(columns="value").fillna("")) and len(told) > 100
    np.testing.assert_allclose(told.value, alone.history.value, rtol=1e-6, atol=1e-9)


def test_alone_changes_nothing():
    batch = sample(8)
    assert ALONE.share(batch) == (batch, 1.0) and (ALONE.rank, ALONE.world) == (0, 1)
