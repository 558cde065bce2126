"""Sparse codes that several streams share by other means than SPARC's: USAE and crosscoder.

Both are `SPARC` modules (an encoder, a decoder and biases per stream) trained by another objective, with
SPARC's L, k, epochs, batches, learning rate, dead latents and AuxK, so that only the idea differs:

* USAE (Thasarathan et al., 2025): every step one stream, drawn at random, is coded alone, and its code must
  reconstruct all streams. One code, several entrances.
* Crosscoder (Lindsey et al., 2024): the pre-activations of all streams are added up *and so are the values*;
  one code per sample reconstructs all streams. SPARC's global gate shares the choice of latents only.

What a crosscoder does with one stream alone is not part of its definition: see `single_stream`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..evaluation import Data, as_feed, present
from ..losses import auxk_indices, nmse, record_activity, redraw_dead
from ..model import SPARC, Code, Gated
from ..profiles import Gate, Profile, Setting
from ..sparse_ops import Pattern, gather_codes, normalise_rows_
from ..store.reader import FeatureStore
from ..training import TrainConfig, make_optimizer
from .representations import train_means
from .runs import best_device, run_inputs, train_config, untrained
from .sources import code_of
from .stages import stage

Kind = Literal["usae", "crosscoder"]
GATES: dict[Kind, Gate] = {"usae": "local", "crosscoder": "global"}
Batch = Mapping[str, Tensor]


def usae_loss(model: SPARC, streams: Batch, source: str, aux_weight: float = 1 / 32) -> Tensor:
    """Mean NMSE of all streams from the code of `source` alone, plus AuxK in that stream. Scalar.

    streams {name: [batch, d]}. Counts the source's activity, as a training step does.
    """
    gated = model.select({source: streams[source]}, "independent")
    code = model.codes(gated)[source]
    dead = auxk_indices(model, gated, source) if aux_weight and model.k_aux else None
    record_activity(model, gated)
    aux = None if dead is None else model.code(gated, source, dead, Pattern.stack([dead], model.n_latents))
    return _objective(model, streams, code, aux, [source], aux_weight)


def crosscoder_loss(model: SPARC, streams: Batch, aux_weight: float = 1 / 32) -> Tensor:
    """Mean NMSE of all streams from their common code, plus AuxK with the latents dead in it. Scalar.

    streams {name: [batch, d]}, all of the model's. Counts activity, as a training step does.
    """
    gated, total = _summed(model, streams)
    code = _common_code(model, gated, next(iter(total.indices.values())))
    record_activity(model, total)
    dead = auxk_indices(model, total, model.streams[0]) if aux_weight and model.k_aux else None
    aux = None if dead is None else _common_code(model, gated, dead)
    return _objective(model, gated.streams, code, aux, list(gated.streams), aux_weight)


def crosscoder_code(model: SPARC, streams: Batch) -> Code:
    """The common code of samples: ReLU of the summed pre-activations of the streams given, at their top k."""
    gated, total = _summed(model, streams)
    return _common_code(model, gated, next(iter(total.indices.values())))


def _summed(model: SPARC, streams: Batch) -> tuple[Gated, Gated]:
    """The batch after the global gate, and the same with every stream's pre-activations summed."""
    gated = model.select(streams, "joint")
    total = dict.fromkeys(gated.streams, sum(gated.preactivations.values()))
    return gated, gated._replace(preactivations=total)


def _common_code(model: SPARC, gated: Gated, indices: Tensor) -> Code:
    pattern = Pattern.stack([indices], model.n_latents)
    values = 0
    for s, x in gated.streams.items():
        weights = model.encoder[s], model.latent_bias[s], model.pre_bias[s]
        values = values + gather_codes(x, *weights, gated.preactivations[s], pattern)
    return Code(indices, torch.relu(values).view(indices.shape), model.n_latents)


def _objective(
    model: SPARC, streams: Batch, code: Code, aux: Code | None, aux_streams: list[str], aux_weight: float
) -> Tensor:
    rebuilt = {t: model.decode(code, t) for t in model.streams}
    loss = torch.stack([nmse(rebuilt[t], streams[t]) for t in model.streams]).mean()
    if aux is None:
        return loss
    residuals = {t: streams[t] - (rebuilt[t] - model.pre_bias[t]).detach() for t in aux_streams}
    auxk = torch.stack([nmse(model.decode(aux, t), residual) for t, residual in residuals.items()]).mean()
    return loss + aux_weight * auxk


def train_shared_code(kind: Kind, model: SPARC, data: Data, config: TrainConfig) -> SPARC:
    """Train `model` in place over the streams of `data`, in the order of steps of `train_step`; returns it.

    kind "usae" needs a model with the local gate, "crosscoder" one with the global gate. config: epochs,
    batch_size, lr, schedule, aux_weight, redraw_every and seed are used.
    """
    if model.gate != GATES.get(kind):
        wanted = "choose 'usae' with 'local' or 'crosscoder' with 'global'"
        raise ValueError(f"kind {kind!r} with gate {model.gate!r}: {wanted}")
    feed, device, step = as_feed(data), next(model.parameters()).device, 0
    optimizer, draw = make_optimizer(model, config.lr), torch.Generator().manual_seed(config.seed)
    normalise = _normalise_each if kind == "usae" else _normalise_together
    n_steps = -(-len(feed) // config.batch_size) * config.epochs
    for _ in range(config.epochs):
        for batch in feed.batches(config.batch_size, generator=draw, shuffle=True, device=device):
            step += 1
            streams = present(model, batch, every=True)
            for group in optimizer.param_groups:
                group["lr"] = config.lr_at(step, n_steps)
            optimizer.zero_grad()
            if kind == "usae":
                source = model.streams[int(torch.randint(len(model.streams), (1,), generator=draw))]
                loss = usae_loss(model, streams, source, config.aux_weight)
            else:
                loss = crosscoder_loss(model, streams, config.aux_weight)
            loss.backward()
            normalise(model)
            optimizer.step()
            if config.redraw_every and step % config.redraw_every == 0:
                redraw_dead(model, draw)
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"{kind}: the loss is {loss.item()} after step {step}; lower the learning rate"
        )
    return model


def _normalise_each(model: SPARC) -> None:
    for rows in model.decoder.values():
        normalise_rows_(rows.data, rows.grad)


def _normalise_together(model: SPARC) -> None:
    """A crosscoder's latent may weigh more in one stream than another: its whole row has a fixed length."""
    tables, scale = list(model.decoder.values()), len(model.decoder) ** 0.5
    rows, grad = torch.cat([t.data for t in tables], 1), torch.cat([t.grad for t in tables], 1)
    normalise_rows_(rows, grad)
    widths = [t.shape[1] for t in tables]
    for table, row, part in zip(tables, rows.split(widths, 1), grad.split(widths, 1)):
        table.data.copy_(row * scale)
        table.grad.copy_(part)


@torch.no_grad()
def single_stream(crosscoder: SPARC, means: Mapping[str, Tensor]) -> SPARC:
    """A copy that codes one stream, "independent", as the crosscoder does if the others are unknown.

    A missing stream t is set to its train mean, means[t] [d_t]: it adds W_t (mean_t - p_t) + b_t to every
    sample's pre-activations, here folded into the latent biases of the stream that is there. (Leaving the
    others out of the sum, or stretching the deviation from the mean 2 to 5 times as they would, finds as few
    partners on train.)
    """
    alone = copy.deepcopy(crosscoder)
    adds = {
        t: crosscoder.encoder[t] @ (means[t].to(crosscoder.pre_bias[t]) - crosscoder.pre_bias[t])
        + crosscoder.latent_bias[t]
        for t in crosscoder.streams
    }
    for s in alone.streams:
        alone.latent_bias[s] += sum(add for t, add in adds.items() if t != s)
    return alone


def trained_baseline(profile: Profile, kind: Kind, seed: int, store: FeatureStore) -> SPARC:
    """USAE or crosscoder with a profile's L, k, epochs, batch and learning rate, trained on first use.

    The crosscoder comes as `single_stream` reads it, ready for `encode_store(..., "independent")`.
    """
    setting, device = Setting(kind, GATES[kind], 1.0), best_device()
    model = untrained(profile, setting, seed, store)

    def build(partial: Path) -> None:
        config = train_config(profile, setting, seed, store)
        trained = train_shared_code(kind, copy.deepcopy(model).to(device), store.resident(device), config)
        if kind == "crosscoder":
            trained = single_stream(trained, train_means(store))
        torch.save(trained.cpu().state_dict(), partial / "model.pt")

    inputs = run_inputs(profile, setting, seed, store) | {"kind": kind, "code": code_of("studies")}
    folder = stage("baseline", inputs, build)
    model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    return model.eval()
