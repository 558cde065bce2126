"""SPARC's objective and its gradient in one pass on a CPU: what `losses.gated_loss` and autograd come to.

Every term is a sum of squared errors, sum_b w_b ||e_b||² with e = z D + p - x, so while an error lies in the
cache its gradient is at hand: 2 w e for z D and p, 2 w e . D_l for the value of latent l, and from there that
of the encoder. Autograd goes over whole batches instead, once for each of some two hundred small operations,
which for a small model takes longer than the arithmetic.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .model import SPARC, Gated
from .sparse_rows import COLUMNS_UP_TO, compiled, kernels, top_columns, top_relu

ENCODER, DECODER, PRE_BIAS, LATENT_BIAS = KINDS = ("encoder", "decoder", "pre_bias", "latent_bias")


def fusible(gated: Gated) -> bool:
    """Whether `fused_loss` takes this batch: on a CPU, with gradients, which inputs do not ask for."""
    plain = all(compiled(x) and not x.requires_grad for x in gated.streams.values())
    return plain and torch.is_grad_enabled()


def fused_loss(
    model: SPARC, gated: Gated, cross_weight: float, aux_weight: float, buffers: dict
) -> tuple[Tensor, Tensor, Tensor]:
    """(total, differentiable in the parameters; NMSE [targets, sources]; AuxK [targets], or [0] without it).

    buffers {(kind, stream): a tensor like the parameter} are consumed: the gradient is written into them.
    """
    parameters = [getattr(model, kind)[name] for kind in KINDS for name in gated.streams]
    return _FusedLoss.apply(model, gated, cross_weight, aux_weight, buffers, *parameters)


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, model, gated, cross_weight, aux_weight, buffers, *parameters):
        batch = _Batch(model, gated, cross_weight, aux_weight, buffers)
        with (
            torch.autocast("cpu", enabled=False),
            np.errstate(all="ignore"),
        ):  # train refuses infinite losses
            for name in batch.names:
                batch.decode(name)
            for name in batch.names:
                batch.encode(name)
        wanted = zip(((kind, name) for kind in KINDS for name in batch.names), ctx.needs_input_grad[5:])
        ctx.gradients = [batch.gradients[key] if needed else None for key, needed in wanted]
        scores, auxk = torch.from_numpy(batch.scores), torch.from_numpy(batch.auxk)
        ctx.mark_non_differentiable(scores, auxk)
        graded = batch.weights > 0  # others are reported only, and may be infinite
        total = (batch.weights[graded] * batch.scores[graded]).sum()
        if len(auxk):
            total += aux_weight * auxk.mean().item()
        return scores.new_tensor(total), scores, auxk

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, *_):
        gradients, ctx.gradients = ctx.gradients, None  # given away, so that they become .grad without a copy
        if gradients is None:
            raise RuntimeError("the gradient of a fused loss is handed out once; compute the loss again")
        if grad != 1:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(grad)
        return None, None, None, None, None, *gradients


class _Revived(NamedTuple):
    """AuxK codes of a stream, latents and values [batch, k_aux], or if not sparse the whole columns of dead
    latents [n], [batch, n]; and the gradient of the values before their ReLU."""

    latents: Tensor
    values: Tensor
    grads: Tensor

    @property
    def sparse(self) -> bool:
        return self.latents.ndim == 2


class _Batch:
    """The work on one batch. `decode` all targets, then `encode` all sources; gradients {(kind, stream)}."""

    def __init__(self, model: SPARC, gated: Gated, cross_weight: float, aux_weight: float, buffers: dict):
        self.model, self.h, self.buffers = model, gated.preactivations, buffers
        self.aux_weight, self.names = aux_weight, list(gated.streams)
        n = len(self.names)
        self.x = {name: x.numpy() for name, x in gated.streams.items()}
        self.pre_bias = {name: model.pre_bias[name].detach().numpy() for name in self.names}
        self.power = {name: _squares(x) for name, x in self.x.items()}
        self.base = {name: self.pre_bias[name] - self.x[name] for name in self.names}
        values = [self.h[name].gather(1, gated.indices[name]).relu_() for name in self.names]
        self.values = torch.stack(values).numpy()  # [streams, batch, k]
        self.latents = torch.stack([gated.indices[name] for name in self.names]).numpy()
        self.value_grads = np.zeros_like(self.values)
        self.weights = np.full((n, n), cross_weight / max(1, n * (n - 1)), self.values.dtype)
        np.fill_diagonal(self.weights, 1 / n)  # of [target, source] in the total
        self.scores = np.empty_like(self.weights)
        self.auxk = np.zeros(n if aux_weight else 0, self.values.dtype)
        self.revived: dict[str, _Revived] = {}
        self.gradients: dict[tuple[str, str], Tensor] = {}

    @property
    def batch_size(self) -> int:
        return self.values.shape[1]

    def decode(self, name: str) -> None:
        """All terms of one target, and the gradients of its decoder, its pre-bias there, and all codes."""
        target = self.names.index(name)
        sources = np.array([target, *(s for s in range(len(self.names)) if s != target)])
        n_graded = len(sources) if self.weights[target, sources[-1]] else 1
        power = self.power[name]
        factors = 2 / self.batch_size * self.weights[target, sources[:n_graded], None] / power
        scaled = np.empty((n_graded + bool(self.aux_weight), *self.x[name].shape), power.dtype)
        coded = self.values, self.latents, self.value_grads
        own, squares = self._errors(name, sources, coded, self.base[name], factors, scaled)
        self.scores[target, sources] = (squares / power).mean(1)
        entries = [(self.latents[s], self.values[s]) for s in sources[:n_graded]]
        if self.aux_weight:
            self._revive(name, own, squares[0], scaled[-1])
        revived = self.revived.get(name)
        if revived is not None and revived.sparse:
            entries.append((revived.latents, revived.values))
        d_decoder = self._row_sums(DECODER, name, entries, scaled.reshape(-1, scaled.shape[2]))
        if revived is not None and not revived.sparse:
            _add_columns(d_decoder, revived.latents, revived.values, scaled[-1])
        self.gradients[DECODER, name] = d_decoder
        self.gradients[PRE_BIAS, name] = torch.from_numpy(scaled.reshape(-1, scaled.shape[2]).sum(0))

    def _errors(self, name, which, coded, base, factors, scaled) -> tuple[np.ndarray, np.ndarray]:
        """`errors_of_codes` for a target: the first code's errors [batch, d]; all squares [codes, batch]."""
        (values, latents, grads), factors = coded, factors.astype(base.dtype)
        own, squares = np.empty_like(base), np.empty((len(which), len(base)), base.dtype)
        inputs = which, values, latents, self.model.decoder[name].detach().numpy(), base, factors
        work = 2 * len(which) * values[0].size * base.shape[1]
        kernel, outputs = kernels().errors_of_codes, (own, scaled, squares, grads)
        kernels().over_rows(kernel, len(base), work, *inputs, *outputs)
        return own, squares

    def _revive(self, name: str, own: np.ndarray, own_squares: np.ndarray, scaled: np.ndarray) -> None:
        """AuxK's term of a target whose own code leaves the errors `own`; fills `scaled`, both [batch, d].

        AuxK's codes a, of dead latents, are to explain what is left, e = x - z D, which has no gradient:
        their error is a D + p - e = a D + own. As in `losses`, a sample whose e is mere rounding counts 0.
        """
        power = _squares(self.pre_bias[name] - own)
        power[power <= (4 * np.finfo(power.dtype).eps) ** 2 * self.power[name]] = np.inf
        factor = (2 * self.aux_weight / (len(self.names) * self.batch_size) / power).astype(power.dtype)
        dead = self.model.dead(name).nonzero().squeeze(1)
        if not len(dead):  # codes of 0 (F6)
            squares, scaled[:] = own_squares, factor[:, None] * own
        elif len(dead) <= COLUMNS_UP_TO * self.model.k_aux:
            rows = self.model.decoder[name].detach()[dead]
            values = top_relu(self.h[name].index_select(1, dead), self.model.k_aux)
            error = torch.addmm(torch.from_numpy(own), values, rows).numpy()
            squares, scaled[:] = _squares(error), factor[:, None] * error
            grads = (torch.from_numpy(scaled) @ rows.T) * (values > 0)
            self.revived[name] = _Revived(dead, values, grads)
        else:
            candidates = self.h[name].index_select(1, dead)
            best = top_columns(candidates, self.model.k_aux)
            values, latents = candidates.gather(1, best).relu_(), dead[best]
            grads = torch.zeros_like(values)
            coded = [part.numpy()[None] for part in (values, latents, grads)]
            _, (squares,) = self._errors(name, np.array([0]), coded, own, factor[None], scaled[None])
            self.revived[name] = _Revived(latents, values, grads * (values > 0))
        self.auxk[self.names.index(name)] = (squares / power).mean()

    def encode(self, name: str) -> None:
        """Gradients of one stream's encoder, latent bias and, as far as it enters there, pre-bias."""
        source, base, revived = self.names.index(name), self.base[name], self.revived.get(name)
        entries = [(self.latents[source], self.value_grads[source] * (self.values[source] > 0))]
        if revived is not None and revived.sparse:
            entries.append((revived.latents, revived.grads))
        d_encoder = self._row_sums(ENCODER, name, entries, -base, one_row_a_sample=True)
        latents, grads = (np.concatenate([np.ravel(part) for part in parts]) for parts in zip(*entries))
        d_bias = torch.from_numpy(np.bincount(latents, grads, self.model.n_latents).astype(grads.dtype))
        if revived is not None and not revived.sparse:
            _add_columns(d_encoder, revived.latents, revived.grads, -base)
            d_bias.index_add_(0, revived.latents, revived.grads.sum(0))
        self.gradients[ENCODER, name], self.gradients[LATENT_BIAS, name] = d_encoder, d_bias
        self.gradients[PRE_BIAS, name] -= d_bias @ self.model.encoder[name].detach()

    def _row_sums(self, kind, name, entries, table, one_row_a_sample=False) -> Tensor:
        """[n_latents, d]: for each latent the sum of value * row over the entries that name it, in pairs of
        latents and values, each [batch, k]. table: a row for each sample of the first pair, then of the next
        and so on, or one_row_a_sample for all pairs alike.
        """
        samples = np.arange(self.batch_size)
        starts = [0 if one_row_a_sample else i * self.batch_size for i in range(len(entries))]
        widths = [part.shape[1] for part, _ in entries]
        row = np.concatenate([np.repeat(samples + at, width) for at, width in zip(starts, widths)])
        latents, values = (np.concatenate([np.ravel(part) for part in parts]) for parts in zip(*entries))
        bounds, sorted_row, order = kernels().transpose(row, latents, self.model.n_latents)
        out = self.buffers.pop((kind, name), None)
        if out is None:
            out = torch.empty_like(getattr(self.model, kind)[name])
        arguments = bounds, sorted_row, values[order], table, out.numpy()
        work = len(values) * table.shape[1]
        kernels().over_rows(kernels().row_sums, len(out), work, *arguments, crow=bounds)
        return out


def _squares(rows: np.ndarray) -> np.ndarray:
    return np.einsum("bd,bd->b", rows, rows)


def _add_columns(gradient: Tensor, latents: Tensor, values: Tensor, rows: np.ndarray) -> None:
    gradient.index_add_(0, latents, values.T @ torch.from_numpy(rows))
