"""What must hold on a device: the same numbers as float64 on the CPU and as the published dense form."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from sparc_lib import SPARC, FeatureStore, sparc_loss, train_step
from sparc_lib.evaluation import TensorFeed
from sparc_lib.gates import draw_voters
from sparc_lib.retrieval import retrieval_metrics
from sparc_lib.steps import make_optimizer, make_step, set_lr
from sparc_lib.training import TrainConfig, train

from .dense import dense_loss, dense_step
from .sizes import Deadline, Sizes

DIMS = {"dino": 24, "clip_img": 16, "clip_txt": 16}
GATES = ("global", "local")


def small_model(gate: str, device="cpu", dtype=torch.float64, dead: float = 0.3) -> SPARC:
    """128 latents, k 8, of which a share starts dead; the same on every device."""
    generator = torch.Generator().manual_seed(0)
    model = SPARC(DIMS, 128, 8, gate, k_aux=8, generator=generator)
    for name in DIMS:
        model.steps_since_active[name][torch.rand(128, generator=generator) < dead] = 10**6
    return model.to(device, dtype)


def small_batch(seed: int, device="cpu", dtype=torch.float64, n: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch = {}
    for name, dim in DIMS.items():
        x = torch.randn(n, dim, generator=generator, dtype=torch.float64)
        batch[name] = torch.nn.functional.normalize(x).to(device, dtype)
    return batch


def losses_of_steps(model: SPARC, step: Callable, n_steps: int = 3) -> torch.Tensor:
    """Losses [n_steps] on the CPU in float64; the model is trained."""
    like = next(model.parameters())
    optimizer = make_optimizer(model, lr=1e-3)
    losses = [step(model, optimizer, small_batch(i, like.device, like.dtype)) for i in range(n_steps)]
    return torch.stack(losses).double().cpu()


def sparse_step(model: SPARC, optimizer: torch.optim.Optimizer, batch: dict) -> torch.Tensor:
    return train_step(model, optimizer, batch).total


def assert_same_parameters(ours: SPARC, wanted: SPARC, atol: float) -> None:
    for (name, a), (_, b) in zip(ours.state_dict().items(), wanted.state_dict().items(), strict=True):
        torch.testing.assert_close(
            a.double().cpu(), b.double().cpu(), atol=atol, rtol=0, msg=f"{name} differs"
        )


def train_step_is_the_cpus_in_float64(device: torch.device) -> None:
    for gate in GATES:
        wanted, ours, single = (
            small_model(gate),
            small_model(gate, device),
            small_model(gate, device, torch.float32),
        )
        losses = losses_of_steps(wanted, sparse_step)
        torch.testing.assert_close(losses_of_steps(ours, sparse_step), losses, rtol=1e-9, atol=0)
        assert_same_parameters(ours, wanted, 1e-7)
        torch.testing.assert_close(losses_of_steps(single, sparse_step), losses, rtol=1e-3, atol=0)


def train_step_is_the_published_dense_step(device: torch.device) -> None:
    for gate in GATES:
        sparse, dense = small_model(gate, device), small_model(gate, device)
        losses = losses_of_steps(sparse, sparse_step)
        torch.testing.assert_close(losses_of_steps(dense, dense_step), losses, rtol=1e-9, atol=0)
        assert_same_parameters(sparse, dense, 1e-7)


def encoding_is_the_cpus(device: torch.device) -> None:
    for gate in GATES:
        wanted, ours = small_model(gate), small_model(gate, device)
        for coding in ("joint", "independent"):
            for name, code in ours.encode(small_batch(0, device), coding).items():
                dense = wanted.encode(small_batch(0), coding)[name].dense()
                torch.testing.assert_close(code.dense().detach().cpu(), dense.detach(), rtol=1e-9, atol=1e-12)


def decoding_is_the_dense_product(device: torch.device) -> None:
    model = small_model("global", device)
    for code in model.encode(small_batch(0, device), "joint").values():
        for target in DIMS:
            wanted = code.dense() @ model.decoder[target] + model.pre_bias[target]
            torch.testing.assert_close(model.decode(code, target), wanted, rtol=1e-9, atol=1e-12)


def losses_and_gradients_are_the_dense_ones(device: torch.device) -> None:
    """The local gate, as the global one counts activity inside the dense form."""
    sparse, dense = small_model("local", device), small_model("local", device)
    ours = sparc_loss(sparse, small_batch(0, device)).total
    wanted, _ = dense_loss(dense, small_batch(0, device))
    torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=0)
    ours.backward()
    wanted.backward()
    for (name, a), b in zip(sparse.named_parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-7, atol=1e-10, msg=f"gradient of {name} differs")


def a_resumed_run_is_the_uninterrupted_one(device: torch.device) -> None:
    """Bit for bit, from a checkpoint in the middle of an epoch."""
    data = TensorFeed(small_batch(5, device, torch.float32, n=160))
    config = TrainConfig(epochs=2, batch_size=32, checkpoint_steps=3, redraw_every=4)
    whole, cut = (small_model("global", device, torch.float32) for _ in range(2))
    train(whole, data, config, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint.pt"
        try:
            train(cut, StopsAfter(data, 8), config, checkpoint, progress=False)
            raise AssertionError("the run was not interrupted")
        except KeyboardInterrupt:
            assert checkpoint.exists()
        resumed = small_model("global", device, torch.float32)
        train(resumed, data, config, checkpoint, progress=False)
    for (name, a), (_, b) in zip(resumed.state_dict().items(), whole.state_dict().items(), strict=True):
        assert torch.equal(a, b), f"{name} differs after resuming"


class StopsAfter:
    """A feed that is interrupted after some batches."""

    def __init__(self, feed: TensorFeed, n_batches: int):
        self.feed, self.left, self.digest = feed, n_batches, feed.digest

    def __len__(self) -> int:
        return len(self.feed)

    def batches(self, *args, **kwargs) -> Iterator[dict[str, torch.Tensor]]:
        for batch in self.feed.batches(*args, **kwargs):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield batch


def bfloat16_steps_stay_close(device: torch.device) -> None:
    """Only the pre-activations are in half precision; parameters, gradients and optimizer stay in float32."""
    for gate in GATES:
        full, half = (small_model(gate, device, torch.float32) for _ in range(2))

        def half_step(model: SPARC, optimizer: torch.optim.Optimizer, batch: dict) -> torch.Tensor:
            return train_step(model, optimizer, batch, precision="bfloat16").total

        losses = losses_of_steps(full, sparse_step)
        torch.testing.assert_close(losses_of_steps(half, half_step), losses, rtol=0.05, atol=0)
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in half.parameters())
        assert all(p.isfinite().all() for p in half.parameters())


def ties_of_the_gate_give_k_different_latents(device: torch.device) -> None:
    """All pre-activations equal: any k latents are right, none may come twice, and their codes are exact."""
    for gate in GATES:
        model = small_model(gate, device, torch.float32)
        with torch.no_grad():
            for name in DIMS:
                model.encoder[name].zero_()
                model.latent_bias[name].fill_(0.5)
        for code in model.encode(small_batch(0, device, torch.float32), "joint").values():
            ordered = code.indices.sort(dim=1).values
            assert (ordered.diff(dim=1) > 0).all() and ordered.min() >= 0 and ordered.max() < 128
            assert (code.values == 0.5).all()
        terms = train_step(model, make_optimizer(model), small_batch(0, device, torch.float32))
        assert torch.isfinite(terms.total)


def steps_of_a_training_run_are_the_eager_ones(device: torch.device) -> None:
    """With learning rate and voters changing, with dead latents and without, and with a smaller batch: what
    `train` does on the device (on a GPU, CUDA graphs) gives the losses and parameters of `train_step`."""
    for gate, dead in itertools.product(GATES, (0.0, 0.3)):
        wanted, ours = (small_model(gate, device, dead=dead) for _ in range(2))
        for model in (wanted, ours):
            model.dead_after = 6  # so latents die, and come back, on the way
        optimizers = [make_optimizer(model, lr=1e-3) for model in (wanted, ours)]
        step = make_step(ours, optimizers[1])
        for i in range(40):
            batch = small_batch(i, device, n=20 if i % 3 == 0 else 32)
            voters = draw_voters(batch, 0.5, torch.Generator().manual_seed(i)) if gate == "global" else None
            for optimizer in optimizers:
                set_lr(optimizer, 1e-3 / (1 + i))
            loss = train_step(wanted, optimizers[0], batch, voters=voters).total
            torch.testing.assert_close(step(batch, voters).total, loss, rtol=1e-9, atol=0)
        assert_same_parameters(ours, wanted, 1e-7)
        assert device.type != "cuda" or len(step.recorded) >= 2


def a_resident_store_gives_the_streamed_batches(device: torch.device) -> None:
    features = {name: x.numpy() for name, x in small_batch(1, n=50).items()}
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore.create(Path(folder) / "store", features, ids=[str(i) for i in range(50)])
        batches = []
        for source in (store, store.resident(device)):
            generator = torch.Generator().manual_seed(3)
            batches.append(list(source.batches(16, generator=generator, device=device)))
        for ours, wanted in zip(*batches, strict=True):
            for name in DIMS:
                assert ours[name].device.type == device.type
                torch.testing.assert_close(ours[name], wanted[name], rtol=1e-6, atol=1e-7)


def dense_retrieval_is_the_cpus(device: torch.device) -> None:
    batch = small_batch(2, n=200)
    noisy = batch["clip_img"] + 0.3 * small_batch(7, n=200)["clip_img"]
    wanted = retrieval_metrics(batch["clip_img"], noisy)
    ours = retrieval_metrics(batch["clip_img"].to(device), noisy.to(device))
    assert np.array_equal(ours.ranks, wanted.ranks) and ours.recall == wanted.recall


CHECKS = (
    train_step_is_the_cpus_in_float64,
    train_step_is_the_published_dense_step,
    encoding_is_the_cpus,
    decoding_is_the_dense_product,
    losses_and_gradients_are_the_dense_ones,
    a_resumed_run_is_the_uninterrupted_one,
    bfloat16_steps_stay_close,
    ties_of_the_gate_give_k_different_latents,
    steps_of_a_training_run_are_the_eager_ones,
    a_resident_store_gives_the_streamed_batches,
    dense_retrieval_is_the_cpus,
)


def run(size: Sizes, device: torch.device, deadline: Deadline) -> Iterator[dict]:
    """A row a check. Raises AssertionError at the end if any failed."""
    failed = []
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        try:
            check(device)
            yield {"check": name, "result": "ok"}
        except Exception as error:
            failed.append(name)
            yield {"check": name, "result": f"{type(error).__name__}: {error}".strip()[:300]}
    if failed:
        raise AssertionError(f"{len(failed)} of {len(CHECKS)} checks failed: {'; '.join(failed)}")
