"""SPARC (arXiv:2507.06265, section 3): a sparse autoencoder per stream, a TopK gate shared or not."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from . import sparse_ops as ops
from .gates import Voters, shared_choice
from .inputs import real_numbers, whole_number
from .published import KEYS, read_checkpoint, read_run_config, stream_names, tensor
from .sparse_rows import Pattern, normalise_rows_, top_columns

Gate = Literal["global", "local"]
Coding = Literal["joint", "independent"]
Streams = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Code:
    """TopK code of one stream. indices [batch, k] long, values [batch, k] >= 0 (0 where ReLU cut)."""

    indices: Tensor
    values: Tensor
    n_latents: int

    def __len__(self) -> int:
        return len(self.indices)

    def dense(self) -> Tensor:
        """[batch, n_latents]; for looking at a batch, never for a data set."""
        return self.values.new_zeros(len(self), self.n_latents).scatter(1, self.indices, self.values)

    def to_csr(self) -> sp.csr_matrix:
        """SciPy CSR [batch, n_latents] with the entries z > 0 only, columns sorted."""
        values = self.values.detach()
        if values.dtype == torch.bfloat16:  # numpy has none
            values = values.float()
        values, indices = values.cpu().numpy(), self.indices.cpu().numpy()
        active = values > 0
        crow = np.concatenate([[0], active.sum(1).cumsum()])
        matrix = sp.csr_matrix((values[active], indices[active], crow), shape=(len(self), self.n_latents))
        matrix.sort_indices()
        return matrix


Codes = dict[str, Code]  # of a batch, by stream in the model's order


class Gated(NamedTuple):
    """A batch after the gate: x [batch, d], h [batch, n_latents] without gradient, indices [batch, k]."""

    streams: dict[str, Tensor]
    preactivations: dict[str, Tensor]
    indices: dict[str, Tensor]


class Counters(nn.Module):
    """A long buffer [n_latents] per stream, read by its name."""

    def __init__(self, names: tuple[str, ...], n_latents: int):
        super().__init__()
        for name in names:
            self.register_buffer(name, torch.zeros(n_latents, dtype=torch.long))

    def __getitem__(self, name: str) -> Tensor:
        return self._buffers[name]


def stream_name(name: str) -> str:
    """`name`, if it can name a stream: it becomes a file and a parameter. Raises ValueError."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name):
        raise ValueError(f"stream name {name!r}: use up to 60 letters, digits, '_' and '-'")
    if hasattr(nn.ParameterDict, name) or name == "training":
        raise ValueError(f"stream name {name!r} means something to torch.nn; choose another")
    return str(name)


class SPARC(nn.Module):
    """Encoder, decoder and biases per stream under one gate.

    dims: {stream: d}; their order is the streams' order. n_latents L; k active latents per sample.
    gate: "global" sums pre-activations over the streams present and selects once; "local" selects per stream.
    k_aux: latents revived by AuxK per sample (0 or None: no AuxK). dead_after: steps without z > 1e-3.
    generator: CPU generator of the initial weights (None: torch's default one, as for any torch module).

    Parameters: encoder, decoder [n_latents, d], latent_bias [n_latents], pre_bias [d] per stream; buffers:
    steps_since_active [n_latents] per stream. Raises ValueError for impossible sizes.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        n_latents: int = 8192,
        k: int = 64,
        gate: Gate = "global",
        k_aux: int | None = 64,
        dead_after: int = 1000,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if not isinstance(dims, Mapping):
            raise ValueError(f"dims: got {dims!r}; give a mapping, as in {{'dino': 1024}}")
        dims = {
            stream_name(name): whole_number(size, f"dims: stream {name!r}") for name, size in dims.items()
        }
        if not dims or any(size < 1 for size in dims.values()):
            raise ValueError(f"dims: got {dims}; give at least one stream, and sizes of at least 1")
        n_latents, k = whole_number(n_latents, "n_latents"), whole_number(k, "k")
        k_aux, dead_after = whole_number(k_aux or 0, "k_aux"), whole_number(dead_after, "dead_after")
        if not 1 <= k <= n_latents:
            raise ValueError(f"k: got k = {k} with n_latents = {n_latents}; choose 1 <= k <= n_latents")
        if gate not in ("global", "local"):
            raise ValueError(f"gate: got {gate!r}; choose 'global' or 'local'")
        if k_aux < 0 or dead_after < 0:
            raise ValueError(f"k_aux and dead_after: got {k_aux} and {dead_after}; neither may be negative")
        self.dims, self.n_latents, self.k, self.gate = dims, n_latents, k, gate
        self.k_aux, self.dead_after = k_aux, dead_after
        self.encoder, self.decoder = nn.ParameterDict(), nn.ParameterDict()
        for name, d in dims.items():  # the range torch.nn.Linear draws from
            weight = torch.empty(n_latents, d).uniform_(-(d**-0.5), d**-0.5, generator=generator)
            self.encoder[name], self.decoder[name] = weight, weight.clone()
            normalise_rows_(self.decoder[name].data)
        self.latent_bias = nn.ParameterDict({name: torch.zeros(n_latents) for name in dims})
        self.pre_bias = nn.ParameterDict({name: torch.zeros(d) for name, d in dims.items()})
        self.steps_since_active = Counters(self.streams, n_latents)

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(self.dims)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this model, without the generator."""
        fields = ("n_latents", "k", "gate", "k_aux", "dead_after")
        return {"dims": dict(self.dims), **{field: getattr(self, field) for field in fields}}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.config.items())

    def dead(self, stream: str) -> Tensor:
        """Bool [n_latents]: latents without z > 1e-3 in the stream for more than dead_after steps."""
        return self.steps_since_active[self._checked_name(stream)] > self.dead_after

    def encode(self, streams: Streams, coding: Coding = "joint") -> Codes:
        """Codes of a batch, streams {name: [batch, d]}, any subset of the model's streams.

        coding: "joint" lets the global gate see all streams given (I from the sum over them, as in training);
        "independent" codes each stream as if it were alone, so a code carries nothing of its partners (F3).
        Under the local gate both agree. Raises ValueError for unknown names, unequal lengths, wrong sizes and
        NaN, infinite or zero rows. Differentiable in parameters and inputs; never changes the counters.
        """
        return self.codes(self.select(streams, coding))

    def decode(self, code: Code, target: str) -> Tensor:
        """z D_t + p_t, [batch, d_t]: self-reconstruction, or cross- from the code of another stream."""
        if not isinstance(code, Code):
            raise ValueError(f"code: got a {type(code).__name__}; pass a stream's code from `encode`")
        if code.n_latents != self.n_latents:
            latents = f"{code.n_latents} latents, the model {self.n_latents}"
            raise ValueError(f"code: it has {latents}; encode with this model")
        table = self.decoder[self._checked_name(target)]
        if code.indices.numel() and not 0 <= code.indices.min() <= code.indices.max() < self.n_latents:
            raise ValueError(f"code: indices beyond 0 ... {self.n_latents - 1}; they are numbers of latents")
        if code.indices.shape != code.values.shape:
            shapes = f"{list(code.indices.shape)} and {list(code.values.shape)}"
            raise ValueError(f"code: indices and values have shapes {shapes}; both must be [batch, k]")
        pattern = Pattern.stack([code.indices], self.n_latents)
        return ops.decode_rows(code.values.reshape(-1), table, pattern)[0] + self.pre_bias[target]

    def select(self, streams: Streams, coding: Coding = "joint", voters: Voters | None = None) -> Gated:
        """Check a batch, compute pre-activations and apply the gate (equations of section 3.2).

        voters {stream: bool [batch]}: in training, who has a say in the global gate's choice; None: all.
        """
        if coding not in ("joint", "independent"):
            raise ValueError(f"coding: got {coding!r}; choose 'joint' or 'independent'")
        if voters is not None and (self.gate == "local" or coding == "independent"):
            choice = f"gate {self.gate!r} with {coding} codes makes no shared choice to vote on"
            raise ValueError(f"voters: {choice}; use gate='global', joint codes, or no stream_dropout")
        streams = self._checked(streams)
        h = {
            name: ops.preactivations(x, self.encoder[name], self.latent_bias[name], self.pre_bias[name])
            for name, x in streams.items()
        }
        return self.regate(Gated(streams, h, {}), coding, voters)

    def regate(self, gated: Gated, coding: Coding, voters: Voters | None = None) -> Gated:
        """The same batch and pre-activations under another coding, or chosen by other voters."""
        h = gated.preactivations
        if self.gate == "global" and coding == "joint":
            indices = dict.fromkeys(h, shared_choice(h, self.k, voters))
        else:
            indices = {name: top_columns(own, self.k) for name, own in h.items()}
        return gated._replace(indices=indices)

    def codes(self, gated: Gated) -> Codes:
        """The codes that a gate selected; differentiable."""
        codes = {}
        for name, indices in gated.indices.items():
            codes[name] = self.code(gated, name, indices, Pattern.stack([indices], self.n_latents))
        return codes

    def code(
        self,
        gated: Gated,
        stream: str,
        indices: Tensor,
        pattern: Pattern,
        grad_buffer: Tensor | None = None,
    ) -> Code:
        """ReLU of a stream's h at `indices` [batch, k], which `pattern` stacks; differentiable."""
        x, h = gated.streams[stream], gated.preactivations[stream]
        weight, bias, pre_bias = self.encoder[stream], self.latent_bias[stream], self.pre_bias[stream]
        values, _ = ops.gather_codes(x, weight, bias, pre_bias, h, pattern, grad_buffer)
        return Code(indices, torch.relu(values).view(indices.shape), self.n_latents)

    def demand_finite(self) -> None:
        """Raise ValueError if a weight is NaN or infinite: codes of such a model are empty without a word."""
        for name, weights in self.named_parameters():
            if not weights.isfinite().all():
                raise ValueError(f"model: {name} holds NaN or infinite values; train anew with a lower lr")

    def _checked_name(self, stream: str) -> str:
        if stream not in self.dims:
            raise ValueError(f"unknown stream {stream!r}; this model has {', '.join(self.dims)}")
        return stream

    def _checked(self, streams: Streams) -> dict[str, Tensor]:
        """The batch in the model's order, type and device. Raises ValueError as `encode` says."""
        if not isinstance(streams, Mapping):
            kind = type(streams).__name__
            raise ValueError(f"streams: got a {kind}; give a mapping, {{stream: [batch, d]}}")
        if not streams:
            raise ValueError(f"no stream given; pass at least one of {', '.join(self.dims)}")
        for name in streams:
            self._checked_name(name)
        checked = {}
        for name in (name for name in self.dims if name in streams):
            like = self.encoder[name]
            x = real_numbers(streams[name], f"stream {name!r}")
            x = torch.as_tensor(x, dtype=like.dtype, device=like.device)
            if x.ndim != 2 or x.shape[1] != self.dims[name]:
                shape = list(x.shape)
                raise ValueError(f"stream {name!r}: got shape {shape}, expected [batch, {self.dims[name]}]")
            checked[name] = x
        if len({len(x) for x in checked.values()}) > 1:
            lengths = ", ".join(f"{name} {len(x)}" for name, x in checked.items())
            raise ValueError(f"streams of different length ({lengths}); row i must be one sample in all")
        if x.is_cuda and torch.cuda.is_current_stream_capturing():  # a graph cannot raise: the loss turns NaN
            return checked
        sizes = torch.stack([torch.linalg.vector_norm(x.detach(), dim=1) for x in checked.values()])
        good = sizes.isfinite() & (sizes > 0)
        if not good.all():
            which, row = (~good).nonzero()[0].tolist()
            kind = "all zero" if sizes[which, row] == 0 else "not finite (NaN or infinite)"
            where = f"stream {list(checked)[which]!r}: row {row} of the batch is {kind}"
            raise ValueError(
                f"{where} ({int((~good).sum())} bad rows in all); drop them or extract them again"
            )
        return checked

    @classmethod
    def from_published(
        cls,
        checkpoint: Mapping[str, Tensor] | str | Path,
        run_config: Mapping[str, Any] | str | Path,
        gate: Gate | None = None,
    ) -> "SPARC":
        """A model from the authors' `msae_checkpoint.pth` and `run_config.json`, as paths or contents.

        gate: for a run_config without 'topk_type'. Raises ValueError that names the key a file lacks, has in
        a wrong shape, or with NaN or infinite values.
        """
        checkpoint, run = read_checkpoint(checkpoint), read_run_config(run_config, gate)
        names = stream_names(checkpoint, run["order"])
        dims = {name: tensor(checkpoint, "encoder", name).shape[1] for name in names}
        model = cls(
            dims, run["n_latents"], run["k"], run["topk_type"], run["auxk"], run["dead_steps_threshold"]
        )
        state = model.state_dict()
        for name, field in product(names, KEYS):
            value = tensor(checkpoint, field, name)
            if value.shape != state[f"{field}.{name}"].shape:
                key = KEYS[field].format(name)
                shape = f"{list(checkpoint[key].shape)}, unlike n_latents of run_config.json"
                raise ValueError(f"checkpoint: {key!r} has shape {shape}")
            state[f"{field}.{name}"] = value
        model.load_state_dict(state)
        model.demand_finite()
        return model
