"""The SPARC objective (section 3.3 of arXiv:2507.06265), two reconstruction metrics, and dead latents."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .fused import DECODER, ENCODER, fused_loss, fusible
from .model import SPARC, Code, Gated, Streams
from .sparse_ops import decode_rows, gather_codes
from .sparse_rows import COLUMNS_UP_TO, Pattern, top_columns, top_relu

ACTIVE = 1e-3  # a code above this resets a latent's counter
Buffers = dict[tuple[str, str], Tensor]  # (ENCODER or DECODER, stream) -> where its gradient may be written
# How AuxK's codes are computed. "sparse": the dead latents are looked up. Without waiting for a GPU: "none",
# if it is known that no latent is dead; "dense", over all latents, of which the live ones are masked.
AuxK = Literal["sparse", "none", "dense"]


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
        """The same numbers without their graph."""
        parts = [
            {key: value.detach() for key, value in part.items()}
            for part in (self.nmse, self.cross, self.auxk, self.l0)
        ]
        return LossTerms(self.total.detach(), *parts)


def nmse(reconstruction: Tensor, x: Tensor) -> Tensor:
    """Mean over samples of mean_d (x̂ - x)² / mean_d x²; both [batch, d], or x̂ [d]. Scalar."""
    return ((reconstruction - x).square().mean(1) / x.square().mean(1)).mean()


def fvu(reconstruction: Tensor, x: Tensor) -> Tensor:
    """Fraction of variance unexplained: Σ ||x̂ - x||² / Σ ||x - mean(x)||² over samples, both [n, d]. Scalar.

    1 is what predicting the mean scores; NMSE credits the mean itself (F13). ValueError if x does not vary.
    """
    variance = (x - x.mean(0)).square().sum()
    if not variance > 0:
        raise ValueError(
            f"x: {len(x)} samples without variance have no FVU; pass two different samples or more"
        )
    return (reconstruction - x).square().sum() / variance


def sparc_loss(
    model: SPARC, streams: Streams, cross_weight: float = 1.0, aux_weight: float = 1 / 32
) -> LossTerms:
    """All terms of the loss for one batch, streams {name: [batch, d]}, with the gate's joint coding.

    Dead latents are those of the counters as they stand; nothing is changed. Errors as in `encode`.
    """
    return gated_loss(model, model.select(streams), cross_weight, aux_weight, {})


@torch.no_grad()
def auxk_indices(model: SPARC, gated: Gated, stream: str) -> Tensor | None:
    """The top k_aux dead latents per sample, [batch, min(k_aux, number of dead)], or None where none is dead.

    With fewer dead latents than k_aux, METHOD fills up with zeros, which decode to nothing: left out here.
    """
    dead = model.dead(stream).nonzero().squeeze(1)
    if not len(dead) or not model.k_aux:
        return None
    candidates = gated.preactivations[stream].index_select(1, dead)
    return dead[top_columns(candidates, min(model.k_aux, len(dead)))]


@torch.no_grad()
def record_activity(model: SPARC, gated: Gated) -> None:
    """One step of the dead counters (METHOD, "Dead"), which change in training only (F10).

    Per stream: reset the counters of latents with some z > 1e-3 in the batch, then add 1 to all.
    """
    for name, indices in gated.indices.items():
        counter = model.steps_since_active[name]
        fires = gated.preactivations[name].gather(1, indices) > ACTIVE
        silent = (~fires).to(counter.dtype)
        still_silent = torch.ones_like(counter)  # 0 where some sample fires; no mask whose size is waited for
        still_silent.scatter_reduce_(0, indices.reshape(-1), silent.reshape(-1), "amin")
        counter.mul_(still_silent).add_(1)


@torch.no_grad()
def redraw_dead(model: SPARC, generator: torch.Generator) -> dict[str, int]:
    """Re-draw the latents dead in a stream there: encoder row ~ N(0, 0.01²), latent bias 0, counter 0.

    The decoder row and the optimizer's moments stay. `generator`: of the CPU. Returns how many.
    """
    counts = {}
    for name in model.streams:
        dead = model.dead(name).nonzero().squeeze(1)
        weight = model.encoder[name]
        rows = torch.randn(len(dead), weight.shape[1], generator=generator, dtype=weight.dtype) * 0.01
        weight[dead] = rows.to(weight.device)
        model.latent_bias[name][dead] = 0
        model.steps_since_active[name][dead] = 0
        counts[name] = len(dead)
    return counts


class _Patterns:
    """The patterns of one batch: streams that share their latents share the sorted pattern too."""

    def __init__(self, n_latents: int):
        self.n_latents = n_latents
        self._made: dict[tuple[int, ...], tuple[Pattern, tuple[Tensor, ...]]] = {}

    def of(self, *indices: Tensor) -> Pattern:
        key = tuple(id(tensor) for tensor in indices)
        if key not in self._made:  # the tensors are kept alive, for ids are re-used
            self._made[key] = Pattern.stack(indices, self.n_latents), indices
        return self._made[key][0]


def gated_loss(
    model: SPARC,
    gated: Gated,
    cross_weight: float,
    aux_weight: float,
    buffers: Buffers,
    auxk_codes: AuxK = "sparse",
) -> LossTerms:
    """`sparc_loss` after the gate. `buffers` are consumed: the backward pass writes gradients into them."""
    use_aux = bool(aux_weight and model.k_aux)
    patterns = _Patterns(model.n_latents)
    codes, aux_codes = _codes(model, gated, auxk_codes if use_aux else "none", patterns, buffers)
    own_nmse, cross, auxk = {}, {}, {}
    for target, x in gated.streams.items():  # one decode per target, so its gradient too is written once
        sources = [name for name in gated.streams if name != target]
        parts = [codes[target]]
        if cross_weight:
            parts += [codes[source] for source in sources]
        buffer = buffers.pop((DECODER, target), None)
        rebuilt, revived = _decode(model, target, parts, patterns, aux_codes.get(target), buffer)
        if use_aux:
            residual = x - (rebuilt[:, 0] - model.pre_bias[target]).detach()
            auxk[target] = _auxk_nmse(revived, residual, x)
        power = x.square().mean(1)
        scores = _each_nmse(rebuilt, x, power)
        if sources and not cross_weight:  # still reported
            with torch.no_grad():
                crossed, _ = _decode(model, target, [codes[source] for source in sources], patterns)
                scores += _each_nmse(crossed, x, power)
        own_nmse[target] = scores[0]
        cross |= {(source, target): score for source, score in zip(sources, scores[1:])}

    cross = {pair: cross[pair] for pair in permutations(gated.streams, 2)}
    total = _mean(own_nmse)
    if cross and cross_weight:
        total = total + cross_weight * _mean(cross)
    if auxk:
        total = total + aux_weight * _mean(auxk)
    l0 = {name: _active(code.values) for name, code in codes.items()}
    return LossTerms(total, own_nmse, cross, auxk, l0)


def training_loss(
    model: SPARC,
    gated: Gated,
    cross_weight: float,
    aux_weight: float,
    buffers: Buffers,
    auxk_codes: AuxK = "sparse",
) -> LossTerms:
    """`gated_loss` of which only the total has a gradient: on a CPU `fused_loss` brings it along."""
    if auxk_codes != "sparse" or not fusible(gated):
        return gated_loss(model, gated, cross_weight, aux_weight, buffers, auxk_codes)
    total, scores, auxk = fused_loss(model, gated, cross_weight, aux_weight if model.k_aux else 0, buffers)
    names = list(gated.streams)
    own_nmse = dict(zip(names, scores.diagonal()))
    cross = {pair: scores[names.index(pair[1]), names.index(pair[0])] for pair in permutations(names, 2)}
    chosen = {name: gated.preactivations[name].gather(1, indices) for name, indices in gated.indices.items()}
    l0 = {name: _active(values) for name, values in chosen.items()}
    return LossTerms(total, own_nmse, cross, dict(zip(names, auxk)), l0)


class _Columns(NamedTuple):
    """AuxK codes of a stream as whole columns: dead latents [n], codes [batch, n], 0 beyond the top k_aux."""

    latents: Tensor
    values: Tensor


def _codes(
    model: SPARC, gated: Gated, auxk: AuxK, patterns: _Patterns, buffers: Buffers
) -> tuple[dict[str, Code], dict[str, Code | _Columns]]:
    """Codes of all streams, and AuxK codes of those with dead latents: whole columns while these are few.

    One differentiable gather per stream fetches both, so the encoder's gradient is written once.
    """
    codes, aux_codes = {}, {}
    for stream, chosen in gated.indices.items():
        buffer = buffers.pop((ENCODER, stream), None)
        if auxk == "dense":
            dead = torch.arange(model.n_latents, device=chosen.device)
        else:
            dead = model.dead(stream).nonzero().squeeze(1) if auxk == "sparse" else ()
        if not len(dead):
            codes[stream] = model.code(gated, stream, chosen, patterns.of(chosen), buffer)
            continue
        if auxk == "dense" or len(dead) <= COLUMNS_UP_TO * model.k_aux:
            x, h = gated.streams[stream], gated.preactivations[stream]
            weights = model.encoder[stream], model.latent_bias[stream], model.pre_bias[stream]
            values, silent = gather_codes(x, *weights, h, patterns.of(chosen), buffer, dead)
            codes[stream] = Code(chosen, torch.relu(values).view(chosen.shape), model.n_latents)
            if auxk == "dense":
                silent = silent.masked_fill(~model.dead(stream), -torch.inf)
            aux_codes[stream] = _Columns(dead, top_relu(silent, model.k_aux))
            continue
        aux = auxk_indices(model, gated, stream)
        both = torch.cat([chosen, aux], dim=1)
        code = model.code(gated, stream, both, patterns.of(both), buffer)
        codes[stream] = Code(chosen, code.values[:, : model.k], model.n_latents)
        aux_codes[stream] = Code(aux, code.values[:, model.k :], model.n_latents)
    return codes, aux_codes


def _decode(
    model: SPARC,
    target: str,
    parts: list[Code],
    patterns: _Patterns,
    aux: Code | _Columns | None = None,
    buffer: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Reconstructions of `target`, [batch, codes, d], from one sparse product, and that of AuxK, [batch, d].

    Where no latent is dead the latter is the pre-bias [d]: codes of 0 (F6).
    """
    columns = aux if isinstance(aux, _Columns) else ()
    parts = [*parts, aux] if isinstance(aux, Code) else parts
    values = torch.cat([part.values for part in parts], dim=1).reshape(-1)
    pattern, pre_bias = patterns.of(*(part.indices for part in parts)), model.pre_bias[target]
    rows, revived = decode_rows(values, model.decoder[target], pattern, buffer, *columns)
    rebuilt = (rows + pre_bias).view(-1, len(parts), rows.shape[1])
    if isinstance(aux, Code):
        return rebuilt[:, :-1], rebuilt[:, -1]
    return rebuilt, pre_bias if revived is None else revived + pre_bias


def _each_nmse(rebuilt: Tensor, x: Tensor, power: Tensor) -> list[Tensor]:
    """`nmse` of every reconstruction in [batch, codes, d], with power = mean_d x², [batch]."""
    wanted = x[:, None].expand_as(rebuilt)
    errors = F.mse_loss(rebuilt, wanted, reduction="none").mean(2)
    return list((errors / power[:, None]).mean(0).unbind())


def _auxk_nmse(revived: Tensor, residual: Tensor, x: Tensor) -> Tensor:
    """`nmse(revived, residual)`, in which a sample counts 0 if its residual is mere rounding of x: nothing is
    left to explain there, and dividing by it would make every weight NaN."""
    power, rounding = residual.square().mean(1), 4 * torch.finfo(x.dtype).eps
    power = power.masked_fill(power <= rounding**2 * x.square().mean(1), torch.inf)
    return ((revived - residual).square().mean(1) / power).mean()


def _active(values: Tensor) -> Tensor:
    """Mean number of values > 0 a sample."""
    return (values.detach() > 0).sum(1).to(values.dtype).mean()


def _mean(terms: Mapping) -> Tensor:
    return torch.stack(list(terms.values())).mean()
