"""One training step in METHOD's order, and on a GPU the same as a CUDA graph.

On a GPU the host needs several times as long to start the kernels of one step as the card to run them. A
graph starts them all at once, if nothing in the step asks the card for a number. The one such number of
SPARC's step, how many latents are dead, is asked for only when some may have died since it was last known.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from .gates import Voters
from .inputs import demand_weights
from .losses import DECODER, ENCODER, AuxK, LossTerms, record_activity, training_loss
from .model import SPARC, Streams
from .sparse_rows import normalise_rows_

Precision = Literal["float32", "bfloat16"]
EAGER_STEPS = 3  # before a graph is recorded: libraries set themselves up
LOOK_EVERY = 50  # steps between looks for dead latents while there are some


def make_optimizer(model: SPARC, lr: float = 1e-4) -> torch.optim.Adam:
    """Adam as METHOD has it (default betas, eps 1e-8), in one fused pass where torch has that."""
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.Adam(model.parameters(), lr=lr, eps=1e-8, fused=fused)


def train_step(
    model: SPARC,
    optimizer: torch.optim.Optimizer,
    streams: Streams,
    cross_weight: float = 1.0,
    aux_weight: float = 1 / 32,
    precision: Precision = "float32",
    voters: Voters | None = None,
    auxk: AuxK = "sparse",
) -> LossTerms:
    """One whole step: gradients, dead counters, unit decoder rows, their gradients projected, optimizer.

    streams {name: [batch, d]}. Returns the detached terms of the loss before the update. The global gate
    counts activity before the AuxK mask is taken, the local gate after (METHOD, "Dead"). voters: those of
    `draw_voters`, for the global gate alone; None: every stream votes. auxk: how AuxK's codes are computed,
    with the same numbers; "none" is for models without a dead latent.

    precision "bfloat16": the pre-activations, the one dense product, under autocast; parameters, gate, sparse
    products, losses, gradients and optimizer stay in float32. Rounded to 8 bits, near-ties of the gate may
    fall the other way, so other latents may be chosen; encoding and evaluation always use float32.
    """
    demand_weights(cross_weight=cross_weight, aux_weight=aux_weight)
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision: got {precision!r}; choose 'float32' or 'bfloat16'")
    buffers = {}
    for kind in (ENCODER, DECODER):  # last step's gradients are written over: no new pages, no zeroing
        for name, parameter in getattr(model, kind).items():
            if parameter.grad is not None:
                buffers[kind, name] = parameter.grad
                parameter.grad = None
    optimizer.zero_grad()
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        gated = model.select(streams, voters=voters)
    if model.gate == "global":
        record_activity(model, gated)
    terms = training_loss(model, gated, cross_weight, aux_weight, buffers, auxk)
    terms.total.backward()
    if model.gate == "local":
        record_activity(model, gated)
    for rows in model.decoder.values():
        normalise_rows_(rows.data, rows.grad)
    optimizer.step()
    return terms.detach()


def make_step(
    model: SPARC,
    optimizer: torch.optim.Adam,
    cross_weight: float = 1.0,
    aux_weight: float = 1 / 32,
    precision: Precision = "float32",
) -> Callable[[Streams, Voters | None], LossTerms]:
    """`train_step` with these weights, as a function of a batch and its voters.

    On a GPU as CUDA graphs. The learning rate stays the optimizer's.
    """
    weights = cross_weight, aux_weight, precision

    def step(streams: Streams, voters: Voters | None = None, auxk: AuxK = "sparse") -> LossTerms:
        return train_step(model, optimizer, streams, *weights, voters, auxk)

    on_gpu = next(model.parameters()).is_cuda
    return CapturedSteps(model, optimizer, step) if on_gpu else step


def set_lr(optimizer: torch.optim.Adam, lr: float) -> None:
    """Set the learning rate of the next steps, captured ones too."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):  # of captured steps
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


class Step(Protocol):
    """One whole training step whose AuxK term is computed as `auxk` says."""

    def __call__(self, streams: Streams, voters: Voters | None, auxk: AuxK) -> LossTerms: ...


@dataclass(eq=False)
class _Recorded:
    """A graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    streams: dict[str, Tensor]
    voters: Voters | None
    terms: LossTerms
    gradients: list[Tensor]  # of before and after: the graph writes into them


class CapturedSteps:
    """Call it as `Step`, without `auxk`: the same numbers, from a graph a kind of batch.

    One for an optimizer, whose state is loaded before. The terms that it returns are overwritten by the next
    call. Rows of NaN or zeros are not refused as on a CPU, for a graph cannot raise: the loss is not finite.
    """

    def __init__(self, model: SPARC, optimizer: torch.optim.Adam, step: Step):
        self.model, self.step = model, step
        self.device = next(model.parameters()).device
        self.side = torch.cuda.Stream(self.device)
        self.dead_latents = DeadLatents(model)
        self.eager: dict[tuple, int] = {}  # kind of batch -> steps done so far
        self.recorded: dict[tuple, _Recorded] = {}
        for group in optimizer.param_groups:  # a graph would keep a plain number as it is now
            group["capturable"] = True
            if not isinstance(group["lr"], Tensor):
                group["lr"] = torch.tensor(float(group["lr"]), device=self.device)

    def __call__(self, streams: Streams, voters: Voters | None = None) -> LossTerms:
        auxk: AuxK = "dense" if self.dead_latents.possible() else "none"
        like = next(self.model.parameters())
        streams = {
            name: torch.as_tensor(x, dtype=like.dtype, device=like.device) for name, x in streams.items()
        }
        kind = (auxk, voters is None, tuple((name, x.shape) for name, x in streams.items()))
        if kind in self.recorded:
            return self._replayed(self.recorded[kind], streams, voters)
        current = torch.cuda.current_stream(self.device)
        if self.eager.get(kind, 0) < EAGER_STEPS:
            self.eager[kind] = self.eager.get(kind, 0) + 1
            self.side.wait_stream(current)
            with torch.cuda.stream(self.side), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
                terms = self.step(streams, voters, auxk)
            current.wait_stream(self.side)
            return terms
        self.recorded[kind] = self._record(streams, voters, auxk)
        return self._replayed(self.recorded[kind], streams, voters)

    def _record(self, streams: Streams, voters: Voters | None, auxk: AuxK) -> _Recorded:
        streams, voters = _copies(streams), None if voters is None else _copies(voters)
        gradients = self._gradients()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.side):  # the step is recorded, and not run
            terms = self.step(streams, voters, auxk)
        return _Recorded(graph, streams, voters, terms, gradients + self._gradients())

    def _gradients(self) -> list[Tensor]:
        return [weights.grad for weights in self.model.parameters() if weights.grad is not None]

    def _replayed(self, recorded: _Recorded, streams: Streams, voters: Voters | None) -> LossTerms:
        _copy_into(recorded.streams, streams)
        if voters is not None:
            _copy_into(recorded.voters, voters)
        recorded.graph.replay()
        return recorded.terms


class DeadLatents:
    """Whether some latent may be dead in the next step, asking the card as seldom as can be.

    A counter grows by at most one a step, so none can pass `dead_after` before the largest one could have.
    """

    def __init__(self, model: SPARC, look: Callable[[SPARC], int] | None = None):
        self.model, self.look = model, look or largest_counter
        self.safe_steps = 0  # for so many steps the answer stands
        self.answer = False

    def possible(self) -> bool:
        """The answer for the next step; to be asked once a step."""
        if self.safe_steps <= 0:
            slack = self.model.dead_after - self.look(self.model)
            self.answer = slack < 1  # the global gate counts before it asks who is dead
            self.safe_steps = LOOK_EVERY if self.answer else slack
        self.safe_steps -= 1
        return self.answer


def largest_counter(model: SPARC) -> int:
    """The most steps that a latent has been silent in a stream; waits for the card."""
    return int(torch.stack([model.steps_since_active[name].max() for name in model.streams]).max())


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _copy_into(targets: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> None:
    for name, target in targets.items():
        target.copy_(sources[name])
