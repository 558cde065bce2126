"""The SPARC objective (METHOD; section 3.3 of arXiv:2507.06265) and the two reconstruction metrics, as pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor

from .dead import auxk_indices
from .model import SPARC, Code, Gated, Streams
from .sparse_ops import Pattern, decode_rows

ENCODER, DECODER = "encoder", "decoder"
Buffers = dict[tuple[str, str], Tensor]  # (ENCODER or DECODER, stream) -> where its gradient may be written


@dataclass(frozen=True, eq=False)
class LossTerms:
    """Scalars of one batch. total = mean nmse + cross_weight * mean cross + aux_weight * mean auxk.

    nmse {stream}, cross {(source, target)}, auxk {stream} (empty without AuxK); l0 {stream}: mean number of
    latents with z > 0 per sample (F9), not part of the loss.
    """

    total: Tensor
    nmse: dict[str, Tensor]
    cross: dict[tuple[str, str], Tensor]
    auxk: dict[str, Tensor]
    l0: dict[str, Tensor]

    def detach(self) -> "LossTerms":
        cut = [
            {key: value.detach() for key, value in part.items()}
            for part in (self.nmse, self.cross, self.auxk, self.l0)
        ]
        return LossTerms(self.total.detach(), *cut)


def nmse(reconstruction: Tensor, x: Tensor) -> Tensor:
    """Mean over samples of mean_d (x̂ - x)² / mean_d x²; both [batch, d], or x̂ [d]. Scalar."""
    return ((reconstruction - x).square().mean(1) / x.square().mean(1)).mean()


def fvu(reconstruction: Tensor, x: Tensor) -> Tensor:
    """Fraction of variance unexplained: Σ ||x̂ - x||² / Σ ||x - mean(x)||² over all samples, both [n, d]. Scalar.

    1 is what predicting the mean scores; NMSE credits the mean itself (F13). Raises ValueError if x does not vary.
    """
    variance = (x - x.mean(0)).square().sum()
    if not variance > 0:
        raise ValueError(
            f"x: {len(x)} samples without variance have no FVU; pass at least two different samples"
        )
    return (reconstruction - x).square().sum() / variance


def sparc_loss(
    model: SPARC, streams: Streams, cross_weight: float = 1.0, aux_weight: float = 1 / 32
) -> LossTerms:
    """All terms of the loss for one batch, streams {name: [batch, d]}, with the gate's joint coding.

    Dead latents are those of the counters as they stand; nothing is changed. Raises what `SPARC.encode` raises.
    """
    return gated_loss(model, model.select(streams), cross_weight, aux_weight, {})


def gated_loss(
    model: SPARC, gated: Gated, cross_weight: float, aux_weight: float, buffers: Buffers
) -> LossTerms:
    """`sparc_loss` after the gate. `buffers` are consumed: the backward pass writes gradients into them."""
    names, patterns = list(gated.streams), {}

    def pattern(*indices: Tensor) -> Pattern:  # the global gate's one pattern is sorted once, not per stream
        key = tuple(map(id, indices))
        if key not in patterns:
            patterns[key] = (
                Pattern.stack(indices, model.n_latents),
                indices,
            )  # kept alive, for ids are re-used
        return patterns[key][0]

    use_aux = bool(aux_weight and model.k_aux)
    aux_indices = {s: auxk_indices(model, gated, s) if use_aux else None for s in names}
    codes, aux_codes = {}, {}
    for s in names:  # one differentiable gather per stream, so the encoder's gradient is written once
        own, extra = gated.indices[s], aux_indices[s]
        both = own if extra is None else torch.cat([own, extra], dim=1)
        code = model.code(gated, s, both, pattern(both), buffers.pop((ENCODER, s), None))
        codes[s] = Code(own, code.values[:, : model.k], model.n_latents)
        if extra is not None:
            aux_codes[s] = Code(extra, code.values[:, model.k :], model.n_latents)

    def reconstruct(target: str, parts: list[Code], buffer: Tensor | None = None) -> list[Tensor]:
        rows = decode_rows(
            torch.cat([p.values.reshape(-1) for p in parts]),
            model.decoder[target],
            pattern(*(p.indices for p in parts)),
            buffer,
        )
        return [*(rows + model.pre_bias[target]).split([len(p) for p in parts])]

    own_nmse, cross, auxk = {}, {}, {}
    for t in names:  # one decode per target for all sources and AuxK, so its gradient too is written once
        x, sources = gated.streams[t], [s for s in names if s != t]
        parts = (
            [codes[t]]
            + ([codes[s] for s in sources] if cross_weight else [])
            + ([aux_codes[t]] if t in aux_codes else [])
        )
        rebuilt = reconstruct(t, parts, buffers.pop((DECODER, t), None))
        own_nmse[t] = nmse(rebuilt[0], x)
        if use_aux:
            residual = x - (rebuilt[0] - model.pre_bias[t]).detach()
            auxk[t] = nmse(
                rebuilt[-1] if t in aux_codes else model.pre_bias[t], residual
            )  # else codes are 0 (F6)
        if sources and not cross_weight:  # still reported
            with torch.no_grad():
                rebuilt[1:] = reconstruct(t, [codes[s] for s in sources])
        cross |= {(s, t): nmse(x_hat, x) for s, x_hat in zip(sources, rebuilt[1:])}

    cross = {pair: cross[pair] for pair in permutations(names, 2)}
    total = _mean(own_nmse)
    if cross and cross_weight:
        total = total + cross_weight * _mean(cross)
    if auxk:
        total = total + aux_weight * _mean(auxk)
    l0 = {s: (code.values > 0).sum(1).to(total.dtype).mean() for s, code in codes.items()}
    return LossTerms(total, own_nmse, cross, auxk, l0)


def _mean(terms: Mapping) -> Tensor:
    return torch.stack(list(terms.values())).mean()
