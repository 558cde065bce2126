"""SPARC (arXiv:2507.06265, section 3): one sparse autoencoder per stream, a TopK gate that they share or not."""

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from . import sparse_ops as ops

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
        values = self.values.detach().float() if self.values.dtype == torch.bfloat16 else self.values.detach()
        values, indices = values.cpu().numpy(), self.indices.cpu().numpy()
        active = values > 0
        crow = np.concatenate([[0], active.sum(1).cumsum()])
        matrix = sp.csr_matrix((values[active], indices[active], crow), shape=(len(self), self.n_latents))
        matrix.sort_indices()
        return matrix


class Codes(dict[str, Code]):
    """The codes of a batch by stream name, in the model's order."""


class Gated(NamedTuple):
    """A batch after the gate: checked streams [batch, d], h [batch, n_latents] (no gradient), indices [batch, k]."""

    streams: dict[str, Tensor]
    preactivations: dict[str, Tensor]
    indices: dict[str, Tensor]


class Counters(nn.Module):
    """A long buffer [n_latents] per stream, read like a dict."""

    def __init__(self, names: tuple[str, ...], n_latents: int):
        super().__init__()
        for name in names:
            self.register_buffer(name, torch.zeros(n_latents, dtype=torch.long))

    def __getitem__(self, name: str) -> Tensor:
        return self._buffers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._buffers)

    def keys(self) -> list[str]:
        return list(self._buffers)


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
        if not dims or any(not name or "." in name or size < 1 for name, size in dims.items()):
            raise ValueError(
                f"dims: got {dict(dims)}; give at least one stream, names without dots, sizes of at least 1"
            )
        if not 1 <= k <= n_latents:
            raise ValueError(f"k: got k = {k} with n_latents = {n_latents}; choose 1 <= k <= n_latents")
        if gate not in ("global", "local"):
            raise ValueError(f"gate: got {gate!r}; choose 'global' or 'local'")
        if (k_aux or 0) < 0 or dead_after < 0:
            raise ValueError(f"k_aux and dead_after: got {k_aux} and {dead_after}; neither may be negative")
        self.dims, self.n_latents, self.k, self.gate = dict(dims), n_latents, k, gate
        self.k_aux, self.dead_after = k_aux or 0, dead_after
        weights = {}
        for name, d in dims.items():  # the range torch.nn.Linear draws from
            weights[name] = torch.empty(n_latents, d).uniform_(-(d**-0.5), d**-0.5, generator=generator)
        self.encoder = nn.ParameterDict(weights)
        self.decoder = nn.ParameterDict({name: weight.clone() for name, weight in weights.items()})
        for rows in self.decoder.values():
            ops.normalise_rows_(rows.data)
        self.latent_bias = nn.ParameterDict({name: torch.zeros(n_latents) for name in dims})
        self.pre_bias = nn.ParameterDict({name: torch.zeros(d) for name, d in dims.items()})
        self.steps_since_active = Counters(self.streams, n_latents)

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(self.dims)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this model, without the generator."""
        return {
            "dims": dict(self.dims),
            "n_latents": self.n_latents,
            "k": self.k,
            "gate": self.gate,
            "k_aux": self.k_aux,
            "dead_after": self.dead_after,
        }

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.config.items())

    def dead(self, stream: str) -> Tensor:
        """Bool [n_latents]: latents without z > 1e-3 in this stream for more than dead_after training steps."""
        return self.steps_since_active[self._known(stream)] > self.dead_after

    def encode(self, streams: Streams, coding: Coding = "joint") -> Codes:
        """Codes of a batch, streams {name: [batch, d]}, any subset of the model's streams.

        coding: "joint" lets the global gate see all streams given (I from the sum over them, as in training);
        "independent" codes each stream as if it were alone, so a code carries nothing of its partners (F3).
        Under the local gate both agree. Raises ValueError for unknown names, unequal lengths, wrong sizes and
        NaN, infinite or zero rows. Differentiable in parameters and inputs; never changes the counters.
        """
        return self.codes(self.select(streams, coding))

    def decode(self, code: Code, target: str) -> Tensor:
        """z D_t + p_t, [batch, d_t]: the self-reconstruction of `target`, or a cross-reconstruction from another code."""
        if code.n_latents != self.n_latents:
            raise ValueError(
                f"code: it has {code.n_latents} latents, the model {self.n_latents}; encode with this model"
            )
        pattern = ops.Pattern.stack([code.indices], self.n_latents)
        return (
            ops.decode_rows(code.values.reshape(-1), self.decoder[self._known(target)], pattern)
            + self.pre_bias[target]
        )

    def select(self, streams: Streams, coding: Coding = "joint") -> Gated:
        """Check a batch, compute pre-activations and apply the gate (equations of section 3.2)."""
        if coding not in ("joint", "independent"):
            raise ValueError(f"coding: got {coding!r}; choose 'joint' or 'independent'")
        streams = self._checked(streams)
        h = {
            name: ops.preactivations(x, self.encoder[name], self.latent_bias[name], self.pre_bias[name])
            for name, x in streams.items()
        }
        return self.regate(Gated(streams, h, {}), coding)

    def regate(self, gated: Gated, coding: Coding) -> Gated:
        """The same batch and pre-activations under another coding."""
        h = gated.preactivations
        if self.gate == "global" and coding == "joint":
            indices = dict.fromkeys(h, functools.reduce(torch.add, h.values()).topk(self.k, dim=1).indices)
        else:
            indices = {name: one.topk(self.k, dim=1).indices for name, one in h.items()}
        return gated._replace(indices=indices)

    def codes(self, gated: Gated) -> Codes:
        """The codes that a gate selected; differentiable."""
        patterns = {id(i): ops.Pattern.stack([i], self.n_latents) for i in gated.indices.values()}
        return Codes(
            {
                name: self.code(gated, name, indices, patterns[id(indices)])
                for name, indices in gated.indices.items()
            }
        )

    def code(
        self,
        gated: Gated,
        stream: str,
        indices: Tensor,
        pattern: ops.Pattern,
        grad_buffer: Tensor | None = None,
    ) -> Code:
        """ReLU of a stream's pre-activations at `indices` [batch, k] (`pattern` stacks just these); differentiable."""
        values = ops.gather_codes(
            gated.streams[stream],
            self.encoder[stream],
            self.latent_bias[stream],
            self.pre_bias[stream],
            gated.preactivations[stream],
            pattern,
            grad_buffer,
        )
        return Code(indices, torch.relu(values).view(indices.shape), self.n_latents)

    def _known(self, stream: str) -> str:
        if stream not in self.dims:
            raise ValueError(f"unknown stream {stream!r}; this model has {', '.join(self.dims)}")
        return stream

    def _checked(self, streams: Streams) -> dict[str, Tensor]:
        if not streams:
            raise ValueError(f"no stream given; pass at least one of {', '.join(self.dims)}")
        for name in streams:
            self._known(name)
        checked = {}
        for name in (name for name in self.dims if name in streams):
            like = self.encoder[name]
            x = torch.as_tensor(streams[name], dtype=like.dtype, device=like.device)
            if x.ndim != 2 or x.shape[1] != self.dims[name]:
                raise ValueError(
                    f"stream {name!r}: got shape {list(x.shape)}, expected [batch, {self.dims[name]}]"
                )
            checked[name] = x
        if len({len(x) for x in checked.values()}) > 1:
            lengths = ", ".join(f"{name} {len(x)}" for name, x in checked.items())
            raise ValueError(
                f"streams of different length ({lengths}); row i of every stream must be the same sample"
            )
        sizes = torch.stack([torch.linalg.vector_norm(x.detach(), dim=1) for x in checked.values()])
        good = sizes.isfinite() & (sizes > 0)
        if not good.all():
            which, row = (~good).nonzero()[0].tolist()
            kind = "all zero" if sizes[which, row] == 0 else "not finite (NaN or infinite)"
            raise ValueError(
                f"stream {list(checked)[which]!r}: row {row} of the batch is {kind} ({int((~good).sum())} bad "
                "rows in all); drop these samples or extract their features again"
            )
        return checked

    @classmethod
    def from_published(
        cls, state_dict: Mapping[str, Tensor] | str | Path, config: Mapping[str, Any] | str | Path
    ) -> "SPARC":
        """A model from the authors' checkpoint (`msae_checkpoint.pth`) and `run_config.json`, given as such or as paths.

        Raises ValueError that names the key a file lacks or has in a wrong shape.
        """
        if isinstance(state_dict, str | Path):
            state_dict = torch.load(state_dict, map_location="cpu", weights_only=True)
        if isinstance(config, str | Path):
            config = json.loads(Path(config).read_text(encoding="utf-8"))
        run = config.get("args", config)
        missing = [key for key in ("n_latents", "k") if key not in run]
        names = [
            key.split(".")[1] for key in state_dict if key.startswith("encoders.") and key.endswith(".weight")
        ]
        if missing or not names:
            raise ValueError(
                f"run_config.json: no {missing[0]!r}"
                if missing
                else "checkpoint: no 'encoders.<stream>.weight'; pass the state_dict of msae_checkpoint.pth"
            )
        order = list(config.get("config_file_content", {}).get("train_stream_feature_files", names))
        names.sort(key=lambda name: order.index(name) if name in order else len(order))
        for key in (key for name in names for key in _published_keys(name).values()):
            if key not in state_dict:
                raise ValueError(f"checkpoint: no {key!r}; it is incomplete or not one of the authors'")
        model = cls(
            {name: state_dict[f"encoders.{name}.weight"].shape[1] for name in names},
            run["n_latents"],
            run["k"],
            run.get("topk_type", "global"),
            run.get("auxk", 64),
            run.get("dead_steps_threshold", 1000),
        )
        with torch.no_grad():
            for name in names:
                for field, key in _published_keys(name).items():
                    value = (
                        state_dict[key].T if field == "decoder" else state_dict[key]
                    )  # theirs is nn.Linear's [d, L]
                    target = getattr(model, field)[name]
                    if value.shape != target.shape:
                        raise ValueError(
                            f"checkpoint: {key!r} has shape {list(state_dict[key].shape)}, which does not fit "
                            f"n_latents = {run['n_latents']} of run_config.json"
                        )
                    target.copy_(value)
        return model


def _published_keys(stream: str) -> dict[str, str]:
    return {
        "encoder": f"encoders.{stream}.weight",
        "decoder": f"decoders.{stream}.weight",
        "pre_bias": f"pre_biases.{stream}",
        "latent_bias": f"latent_biases.{stream}",
        "steps_since_active": f"stats_last_nonzero_{stream}",
    }
