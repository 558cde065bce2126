"""Time of one whole training step at the paper's size, sparse against dense, in one run:

    python tests/benchmark_train_step.py [--device cuda] [--threads 2] [--gate local] [--dead 0.2]

The dense step is plain PyTorch autograd: codes scattered into [batch, n_latents], z @ D for self- and
cross-reconstruction (also with the sources stacked into one product per target), the same fused Adam. Both start
from the same weights; after the first step losses and parameters are compared. Not collected by pytest.
"""

import argparse
import copy
import statistics
import time

import torch

from sparc_lib import SPARC, train_step
from sparc_lib.losses import nmse
from sparc_lib.training import make_optimizer

DIMS = {"dino": 1024, "clip_img": 768, "clip_txt": 768}


def dense_step(model, optimizer, streams, stacked, cross_weight=1.0, aux_weight=1 / 32):
    """METHOD's step, every product dense."""
    optimizer.zero_grad()
    h = {s: (x - model.pre_bias[s]) @ model.encoder[s].T + model.latent_bias[s] for s, x in streams.items()}
    if model.gate == "global":
        shared = sum(h.values()).topk(model.k, dim=1).indices
        chosen = dict.fromkeys(h, shared)
    else:
        chosen = {s: one.topk(model.k, dim=1).indices for s, one in h.items()}
    z = {s: torch.zeros_like(h[s]).scatter(1, chosen[s], h[s].gather(1, chosen[s]).relu()) for s in h}

    def count():
        for s in h:
            counter = model.steps_since_active[s]
            counter.mul_((z[s] <= 1e-3).all(0)).add_(1)

    if model.gate == "global":
        count()
    own, cross, auxk = [], [], []
    for t, x in streams.items():
        if stacked:
            rebuilt = dict(
                zip(z, (torch.cat(list(z.values())) @ model.decoder[t] + model.pre_bias[t]).chunk(len(z)))
            )
        else:
            rebuilt = {s: z[s] @ model.decoder[t] + model.pre_bias[t] for s in z}
        own.append(nmse(rebuilt[t], x))
        cross += [nmse(rebuilt[s], x) for s in z if s != t]
        target, dead = x - rebuilt[t].detach() + model.pre_bias[t].detach(), model.dead(t)
        if dead.any():
            masked = h[t] * dead
            top = masked.topk(model.k_aux, dim=1)
            aux = (
                torch.zeros_like(masked).scatter(1, top.indices, top.values.relu()) @ model.decoder[t]
                + model.pre_bias[t]
            )
        else:
            aux = model.pre_bias[t].expand_as(x)
        auxk.append(nmse(aux, target))
    loss = (
        torch.stack(own).mean()
        + cross_weight * torch.stack(cross).mean()
        + aux_weight * torch.stack(auxk).mean()
    )
    loss.backward()
    if model.gate == "local":
        count()
    with torch.no_grad():
        for rows in model.decoder.values():
            rows /= rows.norm(dim=1, keepdim=True) + 1e-8
            rows.grad -= (rows.grad * rows).sum(1, keepdim=True) * rows
    optimizer.step()
    return loss.detach()


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--device", default="cpu")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--gate", default="global", choices=["global", "local"])
    options.add_argument("--dead", type=float, default=0.0, help="share of latents that start dead")
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--latents", type=int, default=8192)
    options.add_argument("--k", type=int, default=64)
    options.add_argument(
        "--steps", type=int, default=7, help="timed steps each, interleaved; medians are compared"
    )
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(0)
    start = SPARC(DIMS, args.latents, args.k, args.gate, generator=generator)
    for counter in start.steps_since_active.buffers():
        counter[torch.rand(args.latents, generator=generator) < args.dead] = 10**6
    streams = {
        s: torch.nn.functional.normalize(torch.randn(args.batch, d, generator=generator)).to(args.device)
        for s, d in DIMS.items()
    }
    steps = {
        "sparse": lambda m, o: train_step(m, o, streams).total,
        "dense": lambda m, o: dense_step(m, o, streams, stacked=False),
        "dense, stacked": lambda m, o: dense_step(m, o, streams, stacked=True),
    }
    models = {name: copy.deepcopy(start).to(args.device) for name in steps}
    optimizers = {name: make_optimizer(model) for name, model in models.items()}
    times, busy = {name: [] for name in steps}, {name: [] for name in steps}
    for turn in range(args.steps + 2):  # the first two turns check and warm up
        losses = {}
        for name, step in steps.items():
            if args.device != "cpu":
                torch.cuda.synchronize()
            begin, begin_busy = time.perf_counter(), time.process_time()
            losses[name] = step(models[name], optimizers[name])
            if args.device != "cpu":
                torch.cuda.synchronize()
            if turn > 1:
                times[name].append((time.perf_counter() - begin) * 1e3)
                busy[name].append((time.process_time() - begin_busy) * 1e3)
        if turn == 0:
            for name in ("dense", "dense, stacked"):
                torch.testing.assert_close(losses["sparse"], losses[name], rtol=1e-5, atol=0)
                # Adam's first step is lr * sign(gradient): a tie at rounding level may flip it, so count differences.
                far = [
                    ((a - b).abs() > 1e-5).double().mean().item()
                    for a, b in zip(models["sparse"].parameters(), models[name].parameters())
                ]
                assert max(far) < 1e-3, f"{name}: {max(far):.1%} of a parameter differs after one step"
                for s in DIMS:
                    same = models["sparse"].steps_since_active[s] == models[name].steps_since_active[s]
                    assert same.double().mean() > 0.999
            print(
                f"agree after one step: loss {losses['sparse']:.6f} and {losses['dense']:.6f}, "
                f"parameters apart in at most {max(far):.1e} of the entries"
            )
    wall, cpu = ({name: statistics.median(v) for name, v in part.items()} for part in (times, busy))
    for name in steps:  # on a machine that others use, CPU time (all threads) is the one to trust
        print(
            f"{name:15s} {wall[name]:8.1f} ms  {wall[name] / wall['sparse']:5.2f}x   "
            f"CPU {cpu[name]:8.1f} ms  {cpu[name] / cpu['sparse']:5.2f}x"
        )


if __name__ == "__main__":
    main()
