"""Sparse codes that several streams share by other means than SPARC's: USAE and crosscoder.

Both are `SPARC` modules (an encoder, a decoder and biases per stream) trained by another objective, with
SPARC's L, k, epochs, batches, learning rate, dead latents and AuxK, so that only the idea differs:

* USAE (Thasarathan et al., 2025): every step one stream, drawn at random, is coded alone, and its code must
  reconstruct all streams. One code, several entrances.
* Crosscoder (Lindsey et al., 2024): the pre-activations of all streams are added up *and so are the values*;
  one code per sample reconstructs all streams. SPARC's global gate shares the choice of latents only.

What a crosscoder does with one stream alone is not part of its definition: see `Crosscoder`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..gates import Voters
from ..losses import auxk_indices, nmse, record_activity
from ..model import SPARC, Code, Coding, Gated
from ..sparse_ops import gather_codes, preactivations
from ..sparse_rows import Pattern, normalise_rows_, top_columns

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
        values = values + gather_codes(x, *weights, gated.preactivations[s], pattern)[0]
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


def unit_rows(model: SPARC) -> None:
    """Divide every decoder row by its norm and take its gradient's component along it off, as SPARC does."""
    for rows in model.decoder.values():
        normalise_rows_(rows.data, rows.grad)


def unit_latents(model: SPARC) -> None:
    """A crosscoder's latent may weigh more in one stream than another: its whole row has a fixed length."""
    tables, scale = list(model.decoder.values()), len(model.decoder) ** 0.5
    rows, grad = torch.cat([t.data for t in tables], 1), torch.cat([t.grad for t in tables], 1)
    normalise_rows_(rows, grad)
    widths = [t.shape[1] for t in tables]
    for table, row, part in zip(tables, rows.split(widths, 1), grad.split(widths, 1)):
        table.data.copy_(row * scale)
        table.grad.copy_(part)


class Crosscoder(SPARC):
    """A trained crosscoder at work: one code a sample, from the pre-activations of all streams added up.

    A stream that is not there is set to its train mean, means[t] [d_t]: it adds W_t (mean_t - p_t) + b_t, the
    same for every sample. "independent" coding does so with all streams but one. (Leaving them out of the
    sum, or stretching the deviation from the mean 2 to 5 times as they would, finds as few partners on
    train.) Frozen: it is trained as a plain SPARC, by `crosscoder_loss`.
    """

    def __init__(self, trained: SPARC, means: Mapping[str, Tensor]):
        super().__init__(**trained.config, generator=torch.Generator())
        self.to(trained.pre_bias[self.streams[0]])  # its type and device
        self.load_state_dict(trained.state_dict())
        self.absent = nn.ParameterDict()
        for stream, mean in means.items():
            self.absent[stream] = self._preactivations(stream, mean.to(self.pre_bias[stream])[None])[0]
        self.requires_grad_(False)

    def _preactivations(self, stream: str, x: Tensor) -> Tensor:
        weights = self.encoder[stream], self.latent_bias[stream], self.pre_bias[stream]
        return preactivations(x, *weights)

    def regate(self, gated: Gated, coding: Coding, voters: Voters | None = None) -> Gated:
        """The batch with summed pre-activations, which are the values of the code too, and its top k."""
        present = {stream: self._preactivations(stream, x) for stream, x in gated.streams.items()}
        sums = {}
        for stream, own in present.items():
            others = [name for name in self.streams if name != stream]
            sums[stream] = own
            for name in others:
                seen = coding == "joint" and name in present
                sums[stream] = sums[stream] + (present[name] if seen else self.absent[name])
        indices = {stream: top_columns(total, self.k) for stream, total in sums.items()}
        return Gated(gated.streams, sums, indices)
