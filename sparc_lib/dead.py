"""Dead latents (METHOD, "Dead"): counting, reviving by AuxK, re-drawing. Counters change in training only (F10)."""

import torch
from torch import Tensor

from .model import SPARC, Gated

ACTIVE = 1e-3  # a code above this resets a latent's counter


@torch.no_grad()
def record_activity(model: SPARC, gated: Gated) -> None:
    """One training step: per stream reset the counters of latents with some z > 1e-3 in the batch, then add 1 to all."""
    for name, indices in gated.indices.items():
        counter = model.steps_since_active[name]
        counter[indices[gated.preactivations[name].gather(1, indices) > ACTIVE]] = 0
        counter += 1


@torch.no_grad()
def auxk_indices(model: SPARC, gated: Gated, stream: str) -> Tensor | None:
    """The top k_aux dead latents per sample, [batch, min(k_aux, number of dead)], or None where no latent is dead.

    With fewer dead latents than k_aux, METHOD fills up with zeros, which decode to nothing: they are left out.
    """
    dead = model.dead(stream)
    count = min(model.k_aux, int(dead.sum()))
    if not count:
        return None
    return gated.preactivations[stream].masked_fill(~dead, -torch.inf).topk(count, dim=1).indices


@torch.no_grad()
def redraw_dead(model: SPARC, generator: torch.Generator) -> dict[str, int]:
    """Re-draw the latents dead in a stream there: encoder row ~ N(0, 0.01²), latent bias 0, counter 0.

    The decoder row and the optimizer's moments stay. `generator`: a CPU generator. Returns how many per stream.
    """
    counts = {}
    for name in model.streams:
        dead, weight = model.dead(name).nonzero().squeeze(1), model.encoder[name]
        rows = torch.randn(len(dead), weight.shape[1], generator=generator, dtype=weight.dtype) * 0.01
        weight[dead] = rows.to(weight.device)
        model.latent_bias[name][dead] = 0
        model.steps_since_active[name][dead] = 0
        counts[name] = len(dead)
    return counts
