"""The global gate's choice of latents (section 3.2), and which streams have a vote on it in training.

As published every stream votes in training, while a user who has one stream codes with that one's vote alone.
Stream dropout trains the gate the way it is used: nothing changes but who votes, and only in training.
"""

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from .sparse_rows import top_columns

Voters = Mapping[str, Tensor]  # {stream: bool [batch]}: whether it votes on a sample's latents


def shared_choice(preactivations: Mapping[str, Tensor], k: int, voters: Voters | None = None) -> Tensor:
    """Global TopK, [batch, k] long: the k largest sums of pre-activations over the streams that vote.

    preactivations {stream: [batch, n_latents]}. voters: None lets all vote, as published. A stream without a
    vote is coded on the chosen latents all the same.
    """
    votes = preactivations
    if voters is not None:
        votes = {stream: h * voters[stream].unsqueeze(1) for stream, h in preactivations.items()}
    first, *others = votes.values()
    total = functools.reduce(Tensor.add_, others, first.clone())
    return top_columns(total, k)


def draw_voters(streams: Mapping[str, Tensor], dropout: float, generator: torch.Generator) -> Voters | None:
    """Who votes on the samples of a batch, streams {name: [batch, d]}; None, for all, without dropout.

    Per sample each stream votes with probability 1 - dropout; where none would, one drawn uniformly does.
    With dropout 1 that is always so: one voter a sample. generator: of the CPU.
    """
    if not dropout:
        return None
    first = next(iter(streams.values()))
    luck = torch.rand(len(first), len(streams), generator=generator)
    voting = luck >= dropout
    voting.scatter_(1, luck.argmax(1, keepdim=True), True)
    return dict(zip(streams, voting.to(first.device).unbind(1)))
