"""Where training starts, beyond the published start (all pre-biases 0, all rows random)."""

import torch
import torch.nn.functional as F

from .evaluation import Data, as_feed, present
from .model import SPARC
from .profiles import PreBias, StartRows


def start(model: SPARC, data: Data, pre_bias: PreBias, rows: StartRows, generator: torch.Generator) -> None:
    """Put pre-biases and rows of a new model where a profile wants them; see the functions below."""
    if pre_bias == "mean":
        centre_pre_bias(model, data)
    if rows == "data":
        rows_at_data(model, data, generator)


@torch.no_grad()
def centre_pre_bias(model: SPARC, data: Data) -> None:
    """Set the pre-bias of every stream to the mean of its features in `data`, before training.

    The published training starts from 0. With a mean large beside the spread, as in features of CLIP, many
    latents are then born dead; centring removes that (arXiv:2605.31518). An option of ours, off by default.
    """
    feed, device = as_feed(data), next(model.parameters()).device
    totals: dict[str, torch.Tensor] = {}
    for batch in feed.batches(1024, shuffle=False, device=device):
        for name, x in present(model, batch, every=True).items():
            totals[name] = totals.get(name, 0) + x.double().sum(0)
    for name, total in totals.items():
        model.pre_bias[name].copy_(total / len(feed))


@torch.no_grad()
def rows_at_data(model: SPARC, data: Data, generator: torch.Generator) -> None:
    """Set encoder and decoder row l of every stream to the direction from the pre-bias to one sample.

    The sample is the same in all streams, and another one for every latent. The published rows are random
    directions, and where features crowd into few directions (an effective rank far below d) most of them
    never win a place among the k. Atoms taken from the data are born alive (compare k-means seeding and
    archetypal SAEs, arXiv:2502.12892). An option of ours, off by default: the streams start with namesakes
    that agree, under both gates. Raises ValueError for fewer samples than latents.
    """
    feed, device = as_feed(data), next(model.parameters()).device
    if len(feed) < model.n_latents:
        raise ValueError(
            f"rows: 'data' needs {model.n_latents} samples, one a latent, and there are {len(feed)}; "
            "choose 'random' or fewer latents"
        )
    chosen = torch.randperm(len(feed), generator=generator)[: model.n_latents]
    for name, x in present(model, feed.gather(chosen, device), every=True).items():
        directions = F.normalize(x.to(model.pre_bias[name].dtype) - model.pre_bias[name], dim=1)
        model.decoder[name].copy_(directions)
        model.encoder[name].copy_(directions)
