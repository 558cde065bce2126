"""A trained SPARC as one safetensors file that says how to build it, and the card beside it.

    python -m sparc_lib.notebook.checkpoints

writes the model that ships in `notebooks/models/` anew, from mini's first setting and seed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from .. import paths
from ..evaluation import Evaluation, evaluate
from ..files import aside
from ..model import SPARC
from ..profiles import Profile, load_profile
from ..store.reader import FeatureStore
from ..studies import runs

log = logging.getLogger(__name__)
FOLDER = paths.REPO / "notebooks" / "models"
CARD = """# {name}

A SPARC of the `{profile}` profile: gate {gate}, λ = {cross_weight:g}, {n_latents} latents of which {k} may be
active, seed {seed}, trained for {epochs} epochs on {n_train:,} pairs of the miniature world. One file,
{megabytes:.1f} MB, float32. It reads the features of the encoders that ship with the project, and of no
others:

{encoders}

```python
from sparc_lib.notebook.checkpoints import load
model = load("notebooks/models/{name}.safetensors")
codes = model.encode(streams, coding="independent")   # {{stream: [batch, {dims}]}}, rows of norm 1
```

Without this library: `safetensors.safe_open(file, "pt")` gives the weights by name, its
`metadata()["config"]` the sizes as JSON, and notebook 02 writes the method out in plain PyTorch.

| {n_test:,} test pairs | NMSE, joint | NMSE, independent | FVU, joint | FVU, independent |
|---|---|---|---|---|
{scores}

The first {n_streams} rows are each stream from its own code, the others one stream from another's. Made by
`python -m sparc_lib.notebook.checkpoints`; what its latents mean, the latent browser shows. It describes
drawn scenes as small encoders see them, and is of no use for photographs. MIT licence, as the whole project.
"""


def save(model: SPARC, file: Path, about: Mapping[str, str] | None = None) -> Path:
    """Write a model; about: further texts for the file's metadata. Returns the file. Raises DiskFullError."""
    metadata = {"format": "pt", "config": json.dumps(model.config), **(about or {})}
    with aside(file) as partial:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, partial, metadata)
    return file


def load(file: str | Path) -> SPARC:
    """The model that `save` wrote, on the CPU. Raises FileNotFoundError, ValueError for other files."""
    with safe_open(file, "pt") as opened:
        config = (opened.metadata() or {}).get("config")
        if config is None:
            raise ValueError(f"{file}: says nothing of a SPARC's sizes; give a file that `save` wrote")
    model = SPARC(**json.loads(config))
    model.load_state_dict(load_file(file))
    return model.eval()


def publish(profile: Profile, folder: Path = FOLDER) -> Path:
    """Write model and card of the profile's first setting and seed, trained on first use; returns the
    model's file."""
    setting, seed = profile.settings[0], profile.seeds[0]
    train_store, test_store = (runs.features(profile, split) for split in ("train", "test"))
    model = runs.trained(profile, setting, seed, train_store).model
    about = {"profile": profile.name, "setting": setting.name, "seed": str(seed)}
    file = save(model, folder / f"{setting.name}.safetensors", about)
    text = CARD.format(
        name=setting.name,
        profile=profile.name,
        gate=model.gate,
        cross_weight=setting.cross_weight,
        n_latents=model.n_latents,
        k=model.k,
        seed=seed,
        epochs=profile.sparc_for(setting).epochs,
        n_train=len(train_store),
        n_test=len(test_store),
        megabytes=file.stat().st_size / 1e6,
        encoders=_encoders(test_store),
        dims=" or ".join(map(str, sorted(set(model.dims.values())))),
        n_streams=len(model.streams),
        scores=_scores(evaluate(model, test_store)),
    )
    with aside(folder / "CARD.md") as partial:
        partial.write_text(text, encoding="utf-8")
    return file


def _encoders(store: FeatureStore) -> str:
    lines = []
    for stream in store.manifest.streams:
        lines.append(f"- `{stream.name}`: {stream.encoder.name}, weights `{stream.encoder.revision[:19]}`")
    return "\n".join(lines)


def _scores(evaluation: Evaluation) -> str:
    table = evaluation.to_frame().pivot(
        index=["source", "target"], columns=["metric", "coding"], values="value"
    )
    own_first = sorted(table.index, key=lambda pair: pair[0] != pair[1])
    columns = [(metric, coding) for metric in ("nmse", "fvu") for coding in ("joint", "independent")]
    lines = []
    for source, target in own_first:
        numbers = " | ".join(f"{table.loc[(source, target), column]:.3f}" for column in columns)
        lines.append(f"| {source} → {target} | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    log.info("%s", publish(load_profile("mini")))
