"""Other ways to a common code, and SPARC with a part of it frozen, all at SPARC's L, k, steps and seeds.

Each is a `SPARC` trained by another loss, so that only the idea differs: batches, learning rate, dead latents
and AuxK are SPARC's. USAE and crosscoder are those of `shared_codes`; the others:

* Group sparsity with cross-modal masking (arXiv:2601.20028): every stream chooses its own latents, out of
  those that one random mask, the same for all streams of a sample, leaves; and the norm of a sample's codes
  over its streams, added up over latents (L2,1), favours codes that fire on the same latents.
* Iso-energy (arXiv:2602.06218): a shared latent carries the same energy, the mean of z², in every stream. The
  assumption itself as a penalty, |E_s - E_t| / (E_s + E_t); the paper's own loss aligns paired codes.
* Shared and private latents (arXiv:2602.07311, 2602.11729): a part of the latents belongs to one stream and
  is chosen by it alone; in the other streams it never fires, and their decoders have no direction for it.
* Even use (after arXiv:2606.27321): the published gate, and a penalty on how unevenly latents are used. Like
  feature choice (arXiv:2411.02124) it lets no few latents do most of the work; unlike a cap it needs no batch
  when codes are used.
* Frozen decoder, frozen encoder (arXiv:2602.14111): SPARC of which one half stays as it was drawn. What they
  reach is no evidence of learned concepts.

The first two were published for one space that two streams share, with one dictionary and no cross-
reconstruction. Streams of different widths have a dictionary each, so both keep SPARC's cross-reconstruction:
they are the local gate of SPARC plus their idea.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..evaluation import Data, as_feed, present
from ..gates import Voters, shared_choice
from ..losses import record_activity, redraw_dead, training_loss
from ..model import SPARC, Coding, Gated
from ..profiles import Gate, Profile, Setting
from ..sparse_rows import top_columns
from ..start import start
from ..store.reader import FeatureStore
from ..training import TrainConfig, make_optimizer
from .parallel import threads_for
from .representations import train_means
from .runs import best_device, run_inputs, train_config, untrained
from .shared_codes import Batch, Crosscoder, crosscoder_loss, unit_latents, unit_rows, usae_loss
from .sources import code_of
from .stages import stage

MASKED = 0.2  # share of the latents that a sample of group-sparse training may not use
GROUP_WEIGHT = 0.05  # of the L2,1 norm beside the sum of the streams' NMSE, as published
ENERGY_WEIGHT = 0.1
EVEN_WEIGHT = 0.1  # chosen on one seed: with it use is even enough that hardly a latent is dead
PRIVATE = 4  # one in so many latents, and of the k active ones, is private


class Step(NamedTuple):
    """What a loss may need beside model and batch. draw: of whatever is random in the step."""

    config: TrainConfig
    draw: torch.Generator


def published_loss(model: SPARC, streams: Batch, step: Step) -> Tensor:
    """SPARC's own loss. Scalar; counts activity, as all losses here do."""
    return _counted_loss(model, model.select(streams), step.config)


def _counted_loss(model: SPARC, gated: Gated, config: TrainConfig) -> Tensor:
    """The published loss of a batch after the gate, with activity counted in METHOD's order."""
    if model.gate == "global":
        record_activity(model, gated)
    terms = training_loss(model, gated, config.cross_weight, config.aux_weight, {})
    if model.gate == "local":
        record_activity(model, gated)
    return terms.total


def any_voice_loss(model: SPARC, streams: Batch, step: Step) -> Tensor:
    """USAE: one stream, drawn for the whole step, codes for all."""
    source = int(torch.randint(len(model.streams), (1,), generator=step.draw))
    return usae_loss(model, streams, model.streams[source], step.config.aux_weight)


def common_code_loss(model: SPARC, streams: Batch, step: Step) -> Tensor:
    """Crosscoder: all streams make one code together."""
    return crosscoder_loss(model, streams, step.config.aux_weight)


def group_sparse_loss(model: SPARC, streams: Batch, step: Step) -> Tensor:
    """Masked choice and L2,1 norm; local gate."""
    gated = mask_latents(model, model.select(streams), step.draw)
    norm = group_norm(model, gated)
    return _counted_loss(model, gated, step.config) + GROUP_WEIGHT / len(gated.streams) * norm


def mask_latents(model: SPARC, gated: Gated, draw: torch.Generator) -> Gated:
    """The batch with every stream's own top k of the latents that one mask, alike for all streams, leaves."""
    first = next(iter(gated.preactivations.values()))
    masked = (torch.rand(first.shape, generator=draw) < MASKED).to(first.device)
    indices = {}
    for stream, h in gated.preactivations.items():
        indices[stream] = top_columns(h.masked_fill(masked, -torch.inf), model.k)
    return gated._replace(indices=indices)


def group_norm(model: SPARC, gated: Gated) -> Tensor:
    """Mean over samples of the sum over latents of the norm of (z_s) over streams s. Scalar."""
    codes = torch.stack([code.dense() for code in model.codes(gated).values()])  # [streams, batch, n_latents]
    energy = codes.square().sum(0)
    return (energy + torch.finfo(energy.dtype).tiny).sqrt().sum(1).mean()  # at 0 the root has no gradient


def iso_energy_loss(model: SPARC, streams: Batch, step: Step) -> Tensor:
    """Equal energy of every latent in all streams; local gate."""
    gated = model.select(streams)
    gap = energy_gap(model, gated)
    return _counted_loss(model, gated, step.config) + ENERGY_WEIGHT * gap


def energy_gap(model: SPARC, gated: Gated) -> Tensor:
    """Mean over pairs of streams, and over latents that fire in one of them, of |E_s - E_t| / (E_s + E_t).

    E: mean of z² over the batch. Scalar, 0 (equal energies) to 1 (no latent fires in both).
    """
    energy = {stream: code.dense().square().mean(0) for stream, code in model.codes(gated).items()}
    gaps = []
    for one, other in combinations(energy.values(), 2):
        total = one + other
        fires = total > 0
        gaps.append(((one - other).abs()[fires] / total[fires]).mean())
    return torch.stack(gaps).mean()


def even_use_loss(model: SPARC, streams: Batch, step: Step) -> Tensor:
    """The published gate and loss, and a penalty on uneven use of the latents."""
    gated = model.select(streams)
    uneven = unevenness(model, gated)
    return _counted_loss(model, gated, step.config) + EVEN_WEIGHT * uneven


def unevenness(model: SPARC, gated: Gated) -> Tensor:
    """Mean over streams of 1 - |m|_1 / (sqrt(L) |m|_2), where m [n_latents] is the mean code of the batch.

    Scalar: 0 when every latent carries as much as any other, 1 - 1 / sqrt(L) when one carries all.
    """
    parts = []
    for code in model.codes(gated).values():
        use = code.dense().mean(0)
        parts.append(1 - use.sum() / (use.norm() * len(use) ** 0.5).clamp_min(torch.finfo(use.dtype).tiny))
    return torch.stack(parts).mean()


class SharedPrivate(SPARC):
    """SPARC of which one latent in `PRIVATE` belongs to a single stream, and as many of the k active ones.

    The first latents are shared and chosen together; then comes a block of private ones for each stream, in
    the model's order. Raises ValueError if the sizes leave a stream without enough.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.k_private = self.k // PRIVATE
        self.n_private = self.n_latents // PRIVATE // len(self.streams)
        if not 1 <= self.k_private <= self.n_private:
            sizes = f"k = {self.k} and n_latents = {self.n_latents} with {len(self.streams)} streams"
            raise ValueError(f"{sizes} leave no private latents; choose k >= {PRIVATE}, and more latents")
        with torch.no_grad():
            self.close_foreign()

    @property
    def n_shared(self) -> int:
        return self.n_latents - self.n_private * len(self.streams)

    def private(self, stream: str) -> slice:
        """The latents that belong to a stream."""
        start = self.n_shared + self.streams.index(stream) * self.n_private
        return slice(start, start + self.n_private)

    def regate(self, gated: Gated, coding: Coding, voters: Voters | None = None) -> Gated:
        """The shared latents by the global gate, the private ones by each stream's own pre-activations."""
        shared = {stream: h[:, : self.n_shared] for stream, h in gated.preactivations.items()}
        together = shared_choice(shared, self.k - self.k_private, voters)
        indices = {}
        for stream, h in gated.preactivations.items():
            common = together
            if coding == "independent":
                common = shared_choice({stream: shared[stream]}, self.k - self.k_private)
            block = self.private(stream)
            own = top_columns(h[:, block], self.k_private) + block.start
            indices[stream] = torch.cat([common, own], dim=1)
        return gated._replace(indices=indices)

    def close_foreign(self) -> None:
        """No stream has a direction, a gradient or a death for latents that belong to another."""
        for stream, owner in ((s, o) for s in self.streams for o in self.streams if s != o):
            block, rows = self.private(owner), self.decoder[stream]
            rows.data[block] = 0
            self.steps_since_active[stream][block] = 0
            if rows.grad is not None:
                rows.grad[block] = 0


def unit_or_foreign_rows(model: SharedPrivate) -> None:
    """`unit_rows`, but for the rows of foreign private latents, which stay zero."""
    unit_rows(model)
    model.close_foreign()


class Rival(NamedTuple):
    """How a method differs from SPARC. settle: what is done to the decoder before the optimizer's step.
    frozen: the part that stays as it was drawn."""

    gate: Gate
    loss: Callable[[SPARC, Batch, Step], Tensor] = published_loss
    model: type[SPARC] = SPARC
    settle: Callable[[SPARC], None] = unit_rows
    frozen: Literal["encoder", "decoder"] | None = None


RIVALS = {
    "usae": Rival("local", any_voice_loss),
    "crosscoder": Rival("global", common_code_loss, settle=unit_latents),
    "group_sparse": Rival("local", group_sparse_loss),
    "iso_energy": Rival("local", iso_energy_loss),
    "even_use": Rival("global", even_use_loss),
    "shared_private": Rival("global", model=SharedPrivate, settle=unit_or_foreign_rows),
    "frozen_decoder": Rival("global", frozen="decoder"),
    "frozen_encoder": Rival("global", frozen="encoder"),
}


def train_rival(name: str, model: SPARC, data: Data, config: TrainConfig) -> SPARC:
    """Train `model` in place over the streams of `data`, in the order of steps of `train_step`; returns it.

    name: of RIVALS, whose gate and class the model must have. config: its checkpoints, log, precision and
    stream_dropout are not used. Raises ValueError for another model, FloatingPointError when the loss
    diverges.
    """
    rival = RIVALS[name]
    if model.gate != rival.gate or not isinstance(model, rival.model):
        wanted = f"a {rival.model.__name__} with the {rival.gate} gate"
        raise ValueError(f"{name!r}: got a {type(model).__name__} with gate {model.gate!r}; pass {wanted}")
    if rival.frozen:
        getattr(model, rival.frozen).requires_grad_(False)
    feed, device, step = as_feed(data), next(model.parameters()).device, 0
    optimizer, draw = make_optimizer(model, config.lr), torch.Generator().manual_seed(config.seed)
    start(model, feed, config.pre_bias, config.rows, draw)
    if isinstance(model, SharedPrivate):
        model.close_foreign()
    redraws = config.redraw_every if rival.frozen != "encoder" else None
    n_steps = -(-len(feed) // config.batch_size) * config.epochs
    for _ in range(config.epochs):
        for batch in feed.batches(config.batch_size, generator=draw, shuffle=True, device=device):
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = config.lr_at(step, n_steps)
            optimizer.zero_grad()
            loss = rival.loss(model, present(model, batch, every=True), Step(config, draw))
            loss.backward()
            rival.settle(model)
            optimizer.step()
            if redraws and step % redraws == 0:
                redraw_dead(model, draw)
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"{name}: the loss is {loss.item()} after step {step}; lower the learning rate"
        )
    return model


def trained_rival(profile: Profile, name: str, seed: int, store: FeatureStore) -> SPARC:
    """A rival with a profile's L, k, epochs, batch and learning rate, trained on first use.

    A crosscoder comes as `Crosscoder`, ready to code streams alone.
    """
    rival, device = RIVALS[name], best_device()
    setting = Setting(name, rival.gate, profile.sparc.cross_weight)
    sizes = untrained(profile, setting, seed, store).config
    model = rival.model(**sizes, generator=torch.Generator().manual_seed(seed))

    def build(partial: Path) -> None:
        config = train_config(profile, setting, seed, store)
        with threads_for(model, config.batch_size):
            fitted = train_rival(name, model.to(device), store.resident(device), config)
        torch.save(fitted.cpu().state_dict(), partial / "model.pt")

    inputs = run_inputs(profile, setting, seed, store) | {"kind": name, "code": code_of("studies/rivals")}
    folder = stage("baseline", inputs, build)
    model.load_state_dict(torch.load(folder / "model.pt", weights_only=True))
    if name == "crosscoder":
        return Crosscoder(model, train_means(store)).eval()
    return model.eval()
