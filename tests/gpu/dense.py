"""SPARC's training step as published: dense codes, dense products, plain autograd. What train_step is held
against.

METHOD's formulas written out over codes [batch, n_latents]; every (source, target) pair is a product of its
own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sparc_lib import SPARC
from sparc_lib.losses import nmse

Streams = Mapping[str, Tensor]
ACTIVE = 1e-3  # a code above this counts as activity


def dense_codes(model: SPARC, streams: Streams) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Pre-activations h and codes z, {stream: [batch, n_latents]} each, with the joint gate."""
    h, z = {}, {}
    for name, x in streams.items():
        h[name] = (x - model.pre_bias[name]) @ model.encoder[name].T + model.latent_bias[name]
    shared = sum(h.values()).topk(model.k, dim=1).indices if model.gate == "global" else None
    for name, one in h.items():
        chosen = one.topk(model.k, dim=1).indices if shared is None else shared
        z[name] = torch.zeros_like(one).scatter(1, chosen, one.gather(1, chosen).relu())
    return h, z


@torch.no_grad()
def count_activity(model: SPARC, z: Mapping[str, Tensor]) -> None:
    """Reset the counters of latents active in the batch, then add one to all."""
    for name, code in z.items():
        silent = (code <= ACTIVE).all(0)
        model.steps_since_active[name].mul_(silent).add_(1)


def dense_loss(
    model: SPARC,
    streams: Streams,
    with_auxk: bool = True,
    cross_weight: float = 1.0,
    aux_weight: float = 1 / 32,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, and its codes z. The global gate counts activity before AuxK's mask is taken.

    with_auxk: off where no latent is dead, as codes are 0 then (F6) and the products would be for nothing.
    """
    h, z = dense_codes(model, streams)
    if model.gate == "global":
        count_activity(model, z)
    own, cross, auxk = [], [], []
    for target, x in streams.items():
        decoder, pre_bias = model.decoder[target], model.pre_bias[target]
        rebuilt = {source: code @ decoder + pre_bias for source, code in z.items()}
        own.append(nmse(rebuilt[target], x))
        cross += [nmse(rebuilt[source], x) for source in z if source != target]
        residual = x - rebuilt[target].detach() + pre_bias.detach()
        aux = pre_bias.expand_as(x)
        if with_auxk:
            masked = h[target] * model.dead(target)
            top = masked.topk(model.k_aux, dim=1)
            aux = torch.zeros_like(masked).scatter(1, top.indices, top.values.relu()) @ decoder + pre_bias
        auxk.append(nmse(aux, residual))
    loss = torch.stack(own).mean() + aux_weight * torch.stack(auxk).mean()
    return loss + cross_weight * torch.stack(cross).mean(), z


def dense_step(
    model: SPARC,
    optimizer: torch.optim.Optimizer,
    streams: Streams,
    with_auxk: bool = True,
    loss_of: Callable = dense_loss,
) -> Tensor:
    """One whole step in METHOD's order; returns the loss. loss_of: `dense_loss`, or what a compiler made of
    it."""
    optimizer.zero_grad()
    loss, z = loss_of(model, streams, with_auxk)
    loss.backward()
    if model.gate == "local":
        count_activity(model, z)
    with torch.no_grad():
        for rows in model.decoder.values():
            rows /= rows.norm(dim=1, keepdim=True) + 1e-8
            rows.grad -= (rows.grad * rows).sum(1, keepdim=True) * rows
    optimizer.step()
    return loss.detach()
