"""The training loop: step, schedule, history, checkpoints, exact resumption, evaluation, codes of a store."""

import dataclasses
import errno
import math
import shutil

import numpy as np
import pytest
import torch

from sparc_lib import SPARC, files, sparc_loss, train_step, training
from sparc_lib.evaluation import TensorFeed, encode_store, evaluate
from sparc_lib.losses import fvu, nmse
from sparc_lib.profiles import load_profile
from sparc_lib.start import centre_pre_bias, rows_at_data
from sparc_lib.training import TrainConfig, make_optimizer, train

DIMS = {"dino": 12, "clip_img": 10, "clip_txt": 8}
CONFIG = TrainConfig(epochs=3, batch_size=32, lr=3e-3, schedule="cosine", redraw_every=4, log_every=1, seed=7)


def build(**options):
    return SPARC(
        DIMS,
        **{
            "n_latents": 48,
            "k": 4,
            "k_aux": 3,
            "dead_after": 2,
            "generator": torch.Generator().manual_seed(0),
            **options,
        },
    )


def sample(n=150, seed=1):
    """Three views of a shared sparse cause, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    cause = torch.randn(n, 6, generator=generator).relu()
    return {
        s: torch.nn.functional.normalize(
            cause @ torch.randn(6, d, generator=torch.Generator().manual_seed(d))
            + 0.05 * torch.randn(n, d, generator=generator)
        )
        for s, d in DIMS.items()
    }


class Faulty(TensorFeed):
    """Fails in the middle of an epoch, as a disk does."""

    def __init__(self, streams, after):
        super().__init__(streams)
        self.left = after

    def batches(self, *args, **kwargs):
        for batch in super().batches(*args, **kwargs):
            if not self.left:
                raise OSError("the disk went away")
            self.left -= 1
            yield batch


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def test_step_by_hand():
    """zero gradients, backward, unit rows, projection, Adam: each written out."""
    model, by_hand, x = build().double(), build().double(), {s: v[:32].double() for s, v in sample().items()}
    optimizer, adam = make_optimizer(model, 1e-2), torch.optim.Adam(by_hand.parameters(), lr=1e-2)
    for _ in range(2):
        terms = train_step(model, optimizer, x, cross_weight=0.5, aux_weight=0)
        adam.zero_grad()
        expected = sparc_loss(by_hand, x, 0.5, 0)
        expected.total.backward()
        with torch.no_grad():
            for rows in by_hand.decoder.values():
                rows /= rows.norm(dim=1, keepdim=True) + 1e-8
                rows.grad -= (rows.grad * rows).sum(1, keepdim=True) * rows
        adam.step()
        torch.testing.assert_close(terms.total, expected.total.detach())
        assert not terms.total.requires_grad
    for a, b in zip(model.parameters(), by_hand.parameters()):
        torch.testing.assert_close(a, b)


def test_gradient_memory_is_reused():
    """The promise behind the speed: the large gradients of a step are written over those of the last."""
    model, x = build(), {s: v[:32] for s, v in sample().items()}
    optimizer = make_optimizer(model)
    places = []
    for _ in range(5):  # dead latents appear on the way (dead_after 2), so AuxK takes part
        train_step(model, optimizer, x)
        places.append([p.grad.data_ptr() for part in (model.encoder, model.decoder) for p in part.values()])
    assert any(model.dead(s).any() for s in DIMS) and all(place == places[0] for place in places)


def test_a_refused_batch_leaves_model_and_counters_alone():
    model, x = build(), {s: v[:32].clone() for s, v in sample().items()}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x["dino"][3] = torch.nan
    with pytest.raises(ValueError, match="row 3"):
        train_step(model, make_optimizer(model), x)
    assert_same(model.state_dict(), before)


@pytest.mark.parametrize("gate", ["global", "local"])
def test_training_learns_and_keeps_a_tidy_history(gate):
    data = sample()
    result = train(build(gate=gate), data, CONFIG, progress=False)
    history = result.history
    assert list(history) == ["step", "epoch", "term", "source", "target", "value"]
    assert result.steps == 15 and sorted(history.step.unique()) == list(range(1, 16))
    assert (history.epoch == (history.step - 1) // 5).all() and history.value.notna().all()
    per_step = history[history.step == 3].groupby("term").size()
    assert per_step.to_dict() == {"total": 1, "nmse": 3, "cross": 6, "auxk": 3, "l0": 3, "alive": 3, "lr": 1}
    total = history[history.term == "total"].set_index("step").value
    assert total.loc[15] < 0.8 * total.loc[1]
    assert (history[history.term == "l0"].value <= 4).all() and (
        history[history.term == "alive"].value <= 48
    ).all()
    redrawn = history[history.term == "redrawn"]
    assert sorted(redrawn.step.unique()) == [4, 8, 12] and redrawn.value.sum() > 0
    cross = history[(history.term == "cross") & (history.step == 1)]
    assert set(zip(cross.source, cross.target)) == {(s, t) for s in DIMS for t in DIMS if s != t}
    lr = history[history.term == "lr"].set_index("step").value
    assert lr.loc[1] == CONFIG.lr and lr.is_monotonic_decreasing and lr.loc[15] < 0.05 * CONFIG.lr


def test_runs_differ_by_seed_only():
    data = sample()
    one, two = (train(build(), data, CONFIG, progress=False) for _ in range(2))
    assert_same(one.model.state_dict(), two.model.state_dict())
    other = train(build(), data, TrainConfig(**{**CONFIG.__dict__, "seed": 8}), progress=False)
    assert not torch.equal(other.model.encoder["dino"], one.model.encoder["dino"])
    never = train(build(), data, TrainConfig(**{**CONFIG.__dict__, "redraw_every": None}), progress=False)
    assert "redrawn" not in set(never.history.term)


@pytest.mark.parametrize("gate", ["global", "local"])
def test_bfloat16_trains_float32_weights(gate, tmp_path):
    """One step is that of float32 but for rounding and near-ties; a run learns as much, and resumes
    exactly."""
    data, half = sample(), TrainConfig(**{**CONFIG.__dict__, "precision": "bfloat16", "checkpoint_steps": 3})
    one, other = build(gate=gate), build(gate=gate)
    terms = [
        train_step(model, make_optimizer(model), data, precision=precision)
        for model, precision in ((one, "float32"), (other, "bfloat16"))
    ]
    assert (
        float(terms[1].total) == pytest.approx(float(terms[0].total), rel=0.01)
        and terms[1].total != terms[0].total
    )
    full, low = (train(build(gate=gate), data, config, progress=False) for config in (CONFIG, half))
    losses = [result.history[result.history.term == "total"].value.iloc[-1] for result in (full, low)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    state = low.optimizer.state_dict()["state"]
    assert {v.dtype for s in state.values() for k, v in s.items() if k != "step"} == {torch.float32}
    assert {p.dtype for p in low.model.parameters()} == {torch.float32} and low.optimizer.defaults["fused"]
    with pytest.raises(OSError, match="the disk went away"):
        train(build(gate=gate), Faulty(data, 8), half, tmp_path / "run.pt", progress=False)
    assert_same(
        train(build(gate=gate), data, half, tmp_path / "run.pt", progress=False).model.state_dict(),
        low.model.state_dict(),
    )
    with pytest.raises(ValueError, match="precision = 'bfloat16', this run has 'float32'"):
        train(build(gate=gate), data, CONFIG, tmp_path / "run.pt", progress=False)
    assert low.model.encode(data)["dino"].values.dtype == torch.float32


@pytest.mark.parametrize("gate", ["global", "local"])
@pytest.mark.parametrize("after", [3, 8, 10])  # before any save of the epoch; in mid-epoch; at an epoch's end
def test_resuming_after_a_fault_is_exact(gate, after, tmp_path):
    data, path = sample(), tmp_path / "deep" / "run.pt"
    config = TrainConfig(**{**CONFIG.__dict__, "checkpoint_steps": 3, "checkpoint_epochs": None})
    whole = train(build(gate=gate), data, config, progress=False)
    with pytest.raises(OSError, match="the disk went away"):
        train(build(gate=gate), Faulty(data, after), config, path, progress=False)
    assert torch.load(path, weights_only=True)["step"] == after // 3 * 3
    resumed = train(build(gate=gate, generator=None), data, config, path, progress=False)
    assert_same(resumed.model.state_dict(), whole.model.state_dict())
    for a, b in zip(
        resumed.optimizer.state_dict()["state"].values(),
        whole.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert_same(a, b)
    assert resumed.history.equals(whole.history) and resumed.steps == whole.steps
    again = train(
        build(gate=gate), Faulty(data, 0), config, path, progress=False
    )  # finished: no batch is asked for
    assert_same(again.model.state_dict(), whole.model.state_dict())
    assert again.history.equals(whole.history)


def test_a_failed_save_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    path, data = tmp_path / "run.pt", sample()
    with pytest.raises(OSError, match="went away"):
        train(build(), Faulty(data, 8), CONFIG, path, progress=False)
    earlier = path.read_bytes()
    real = torch.save

    def full(state, file):
        real(state, file)
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(training.torch, "save", full)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(files.DiskFullError, match="run.pt: the disk is full.*SPARC_DATA.*run again"):
        train(build(), data, CONFIG, path, progress=False)
    assert path.read_bytes() == earlier and list(tmp_path.glob("*.partial")) == []


def test_foreign_checkpoints_are_refused(tmp_path):
    path, data = tmp_path / "run.pt", sample()
    train(build(), data, CONFIG, path, progress=False)
    for model, samples, config, words in [
        (build(k=3), data, CONFIG, "k = 4, this run has 3"),
        (build(gate="local"), data, CONFIG, "gate = 'global'"),
        (build(), sample(140), CONFIG, "samples = 150, this run has 140"),
        (build().double(), data, CONFIG, "dtype"),
        (build(), data, TrainConfig(**{**CONFIG.__dict__, "lr": 1.0}), "lr = 0.003"),
    ]:
        with pytest.raises(ValueError, match=f"run.pt: made with {words}"):
            train(model, samples, config, path, progress=False)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="run.pt: not a readable checkpoint.*delete it"):
        train(build(), data, CONFIG, path, progress=False)


def test_bad_requests():
    bad = [("epochs", 0), ("epochs", None), ("batch_size", 0), ("batch_size", True), ("redraw_every", 0)]
    bad += [("schedule", "linear"), ("lr", math.inf), ("lr", 0.0), ("aux_weight", math.nan), ("seed", -1)]
    for field, value in bad:
        with pytest.raises(ValueError, match=rf"for TrainConfig\n{field}\n.*input_value={value!r}"):
            TrainConfig(**{field: value})
    data = sample()
    with pytest.raises(ValueError, match="different length"):
        train(build(), {**data, "dino": data["dino"][:9]}, CONFIG, progress=False)
    with pytest.raises(ValueError, match="no stream 'clip_txt'"):
        train(build(), {s: data[s] for s in ("dino", "clip_img")}, CONFIG, progress=False)
    with pytest.raises(ValueError, match="make no batch of 256"):
        train(build(), data, TrainConfig(batch_size=256, drop_last=True), progress=False)
    for precision in ("float16", "double", None):
        with pytest.raises(ValueError, match=f"precision: got {precision!r}"):
            train_step(build(), make_optimizer(build()), data, precision=precision)


class Poisoned(TensorFeed):
    """Spoils a weight of the model before one step, as a learning rate too high does."""

    def __init__(self, streams, step, model):
        super().__init__(streams)
        self.step, self.model, self.count = step, model, 0

    def gather(self, rows, device="cpu"):
        self.count += 1
        if self.count == self.step:
            self.model.encoder["dino"].data[0] = torch.inf
        return super().gather(rows, device)


@pytest.mark.parametrize("step", [1, 2, 4, 5, 6, 13])
def test_divergence_is_caught_at_its_step_and_keeps_the_good_checkpoint(step, tmp_path):
    """Log every 10 steps, save every 3 and at the ends of epochs (5, 10, 15): whatever the file holds is
    finite."""
    data, path = sample(), tmp_path / "run.pt"
    config = TrainConfig(**{**CONFIG.__dict__, "log_every": 10, "checkpoint_steps": 3})
    with pytest.raises(
        FloatingPointError, match=f"not finite at step {step} .*run.pt.*; train with lr below"
    ):
        model = build()
        train(model, Poisoned(data, step, model), config, path, progress=False)
    earlier = max((saved for saved in (3, 5, 6, 9, 10, 12) if saved < step), default=None)
    assert path.exists() == (earlier is not None)
    if earlier:
        saved = torch.load(path, weights_only=True)
        assert saved["step"] == earlier and all(v.isfinite().all() for v in saved["model"].values())
    whole = train(build(), data, config, progress=False)  # and it can be gone on from
    resumed = train(build(), data, config, path, progress=False)
    assert_same(resumed.model.state_dict(), whole.model.state_dict())


def test_weights_that_diverged_after_a_finite_loss_are_not_saved(tmp_path, monkeypatch):
    """The update of the last step before a save can spoil the weights when its loss is still finite."""
    path, data = tmp_path / "run.pt", sample()
    real = training.make_step

    def spoiling(model, *arguments):
        step = real(model, *arguments)

        def spoilt(streams, voters):
            terms = step(streams, voters)
            with torch.no_grad():
                model.encoder["dino"][0] = torch.inf
            return terms

        return spoilt

    config = TrainConfig(**{**CONFIG.__dict__, "checkpoint_steps": 1})
    monkeypatch.setattr(training, "make_step", spoiling)
    with pytest.raises(ValueError, match="model: encoder.dino holds NaN or infinite"):
        train(build(), data, config, path, progress=False)
    assert not path.exists()


def test_a_loss_on_a_device_that_is_not_waited_for_is_asked_before_a_save(tmp_path, monkeypatch):
    """As on a GPU: nothing is raised at the step itself, and the step named is the first that diverged."""
    path, model, watched = tmp_path / "run.pt", build(), []
    real_watch, real_demand = training._Run.watch, training._Run.demand_finite

    def watch(run, loss):
        monkeypatch.setattr(training._Run, "demand_finite", lambda run: watched.append(run.step))
        real_watch(run, loss)
        monkeypatch.setattr(training._Run, "demand_finite", real_demand)

    monkeypatch.setattr(training._Run, "watch", watch)
    config = TrainConfig(**{**CONFIG.__dict__, "log_every": 50})
    with pytest.raises(FloatingPointError, match="not finite at step 3"):
        train(model, Poisoned(sample(), 3, model), config, path, progress=False)
    assert watched == [1, 2, 3, 4, 5] and not path.exists()


def test_a_model_that_diverged_gives_no_empty_codes():
    model = build()
    with torch.no_grad():
        model.latent_bias["dino"][7] = torch.nan
    for use in (evaluate, lambda model, data: encode_store(model, data, "independent")):
        with pytest.raises(ValueError, match="latent_bias.dino holds NaN"):
            use(model, sample())


def test_a_pre_bias_may_start_at_the_mean():
    """A named option (arXiv:2605.31518); at 0, the published start, nothing changes."""
    data = {s: torch.nn.functional.normalize(x + 0.5) for s, x in sample().items()}
    model = build()
    centre_pre_bias(model, data)
    for s, x in data.items():
        torch.testing.assert_close(model.pre_bias[s].detach(), x.mean(0))
    one_step = {**CONFIG.__dict__, "epochs": 1, "batch_size": 150, "redraw_every": None}
    for start, mean in (("zero", False), ("mean", True)):
        result = train(build(), data, TrainConfig(**{**one_step, "pre_bias": start}), progress=False)
        by_hand = build()
        if mean:
            centre_pre_bias(by_hand, data)
        order = torch.cat([b["dino"] for b in TensorFeed(data).batches(150, training._generator(7, 0, 0))])
        assert order.shape == (150, 12)
        shuffled = next(TensorFeed(data).batches(150, training._generator(7, 0, 0)))
        train_step(by_hand, make_optimizer(by_hand, 3e-3), shuffled)
        assert_same(result.model.state_dict(), by_hand.state_dict())
    profile = load_profile("smoke")
    assert profile.sparc.pre_bias == "zero" and profile.sparc.rows == "random"
    assert TrainConfig.from_spec(dataclasses.replace(profile.sparc, pre_bias="mean")).pre_bias == "mean"


def test_rows_may_start_at_samples():
    """Row l of every stream is the direction to the same sample, and every latent has another one."""
    data, model = sample(), build()
    centre_pre_bias(model, data)
    rows_at_data(model, data, torch.Generator().manual_seed(3))
    chosen = torch.randperm(len(data["dino"]), generator=torch.Generator().manual_seed(3))[: model.n_latents]
    for s, x in data.items():
        directions = torch.nn.functional.normalize(x[chosen] - x.mean(0), dim=1)
        torch.testing.assert_close(model.decoder[s].detach(), directions)
        torch.testing.assert_close(model.encoder[s].detach(), directions)
    few = {s: x[: model.n_latents - 1] for s, x in data.items()}
    with pytest.raises(ValueError, match="'data' needs"):
        rows_at_data(model, few, torch.Generator())
    config = TrainConfig(epochs=1, batch_size=len(data["dino"]), lr=1e-12, rows="data", pre_bias="mean")
    begun = train(build(), data, config, progress=False).model
    assert (begun.decoder["dino"] - begun.encoder["dino"]).abs().max() < 1e-6


def test_a_disk_that_fills_up_while_a_model_is_saved_is_named(tmp_path, monkeypatch):
    """torch hides the system's error behind "unexpected pos"."""

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self): ...

    real = torch.save
    monkeypatch.setattr(training.torch, "save", lambda state, file: real(state, Full()))
    with pytest.raises(files.DiskFullError, match="run.pt: the disk is full"):
        train(build(), sample(), CONFIG, tmp_path / "run.pt", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_profile_decides_the_configuration():
    profile = load_profile("mini")
    config = TrainConfig.from_spec(profile.sparc_for("local_lambda0"), seed=3)
    assert (config.lr, config.cross_weight, config.seed) == (profile.sparc.learning_rate, 0.0, 3)
    assert (config.epochs, config.batch_size, config.redraw_every) == (
        profile.sparc.epochs,
        profile.sparc.batch_size,
        profile.sparc.redraw_every,
    )


def test_a_model_may_use_some_of_the_streams():
    model = SPARC({"dino": 12}, n_latents=48, k=4, generator=torch.Generator().manual_seed(0))
    result = train(model, sample(), CONFIG, progress=False)
    assert "cross" not in set(result.history.term) and set(evaluate(model, sample()).joint.nmse) == {
        ("dino", "dino")
    }


@pytest.mark.parametrize("gate", ["global", "local"])
def test_evaluation_is_the_metrics_over_all_samples(gate):
    data = sample()
    model = train(build(gate=gate), data, CONFIG, progress=False).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = evaluate(model, data, batch_size=64)  # the last batch is smaller
    assert_same(model.state_dict(), before)  # F10
    assert found.n_samples == 150
    for coding in ("joint", "independent"):
        scores = getattr(found, coding)
        with torch.no_grad():
            codes = model.encode(data, coding)
            for s in DIMS:
                z = codes[s].dense()
                assert scores.l0[s] == pytest.approx((z > 0).sum(1).double().mean().item())
                assert scores.dead_share[s] == pytest.approx((~(z > 0).any(0)).double().mean().item())
                for t in DIMS:
                    rebuilt = model.decode(codes[s], t)
                    assert scores.nmse[s, t] == pytest.approx(nmse(rebuilt, data[t]).item(), rel=1e-5)
                    assert scores.fvu[s, t] == pytest.approx(fvu(rebuilt, data[t]).item(), rel=1e-5)
    assert (found.joint == found.independent) == (gate == "local")
    frame = found.to_frame()
    assert len(frame) == 2 * (9 + 9 + 3 + 3) and list(frame) == [
        "coding",
        "metric",
        "source",
        "target",
        "value",
    ]
    with pytest.raises(ValueError, match="all equal"):
        evaluate(model, {s: x[:1].expand(4, -1) for s, x in data.items()})
    with pytest.raises(ValueError, match="no samples"):
        evaluate(model, {s: x[:0] for s, x in data.items()})


@pytest.mark.parametrize("coding", ["joint", "independent"])
def test_codes_of_a_store_stay_sparse_and_in_order(coding):
    model, data = build(), sample()
    found = encode_store(model, data, coding, batch_size=64)
    assert list(found) == list(DIMS)
    with torch.no_grad():
        for s, code in model.encode(data, coding).items():
            assert found[s].shape == (150, 48) and found[s].dtype == np.float32 and (found[s].data > 0).all()
            np.testing.assert_allclose(found[s].toarray(), code.dense().numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="no samples"):
        encode_store(model, {s: x[:0] for s, x in data.items()}, coding)


def test_training_over_a_feature_store_is_training_over_its_tensors(tmp_path):
    from sparc_lib import FeatureStore

    n = 70
    store = FeatureStore.create(
        tmp_path / "store",
        {s: x[:n].numpy() for s, x in sample().items()},
        ids=[f"pair{i}" for i in range(n)],
    )
    one, two = (
        train(build(), store, CONFIG, progress=False),
        train(build(), store.tensors(), CONFIG, progress=False),
    )
    assert_same(one.model.state_dict(), two.model.state_dict())
    assert evaluate(one.model, store) == evaluate(one.model, store.tensors())
    codes = encode_store(one.model, store, "independent")
    assert all(matrix.shape == (n, 48) for matrix in codes.values())


def test_numpy_sizes_make_a_checkpoint_that_can_be_resumed(tmp_path):
    """torch reads no NumPy numbers back: such a checkpoint could only be deleted."""
    config = dataclasses.replace(CONFIG, epochs=1)
    for _ in range(2):
        model = SPARC({np.str_(name): np.int64(d) for name, d in DIMS.items()}, np.int64(48), np.int32(4))
        result = train(model, sample(), config, tmp_path / "model.pt", progress=False)
    assert result.steps == 5 and {type(d) for d in model.dims.values()} == {int}


def test_a_checkpoint_of_other_tensors_is_refused(tmp_path):
    """As many samples, other numbers: the finished run was returned as if it were of these."""
    config = dataclasses.replace(CONFIG, epochs=1)
    train(build(), sample(), config, tmp_path / "model.pt", progress=False)
    with pytest.raises(ValueError, match="model.pt: made with data = .*use another checkpoint file"):
        train(build(), sample(seed=2), config, tmp_path / "model.pt", progress=False)
    arrays = {name: x.numpy() for name, x in sample().items()}
    assert train(build(), arrays, config, tmp_path / "model.pt", progress=False).steps == 5


@pytest.mark.parametrize("harm", ["identity", "model", "step", "rows", "weights"])
def test_a_checkpoint_that_is_not_whole_is_named(tmp_path, harm):
    config, path = dataclasses.replace(CONFIG, epochs=1), tmp_path / "model.pt"
    train(build(), sample(), config, path, progress=False)
    saved = torch.load(path, weights_only=True)
    if harm == "model":
        del saved["model"]
    elif harm == "weights":
        saved["model"]["encoder.dino"][0, 0] = torch.nan
    else:
        saved[harm] = None
    torch.save(saved, path)
    with pytest.raises(ValueError, match="model.pt: not a (whole|readable) checkpoint .*delete it"):
        train(build(), sample(), config, path, progress=False)


@pytest.mark.parametrize("weight", [math.nan, math.inf, -1.0, "1"])
def test_weights_of_a_loss_that_spoil_the_model_are_refused(weight):
    model = build()
    for name in ("cross_weight", "aux_weight"):
        with pytest.raises(ValueError, match=f"{name}: got {weight!r}"):
            train_step(model, make_optimizer(model), sample(), **{name: weight})
    for size in (0, -1, 2.5):
        with pytest.raises(ValueError, match="batch_size"):
            encode_store(model, sample(), "joint", size)
