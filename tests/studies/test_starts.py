"""The recipes that notebook 02 compares."""

import dataclasses

import pytest
import torch

from sparc_lib.model import SPARC
from sparc_lib.profiles import Setting, load_profile
from sparc_lib.studies.starts import COLUMNS, _measure, options
from sparc_lib.studies.tables import Run


def test_every_option_is_one_change_from_another():
    spec = dataclasses.replace(load_profile("smoke").sparc, pre_bias="mean", rows="data")
    recipes = options(spec)
    published = recipes["published recipe"]
    assert published.pre_bias == "zero" and published.rows == "random"  # whatever the profile has
    changes = {
        name: {
            field.name
            for field in dataclasses.fields(spec)
            if getattr(recipe, field.name) != getattr(published, field.name)
        }
        for name, recipe in recipes.items()
    }
    assert changes == {
        "published recipe": set(),
        "no re-drawing": {"redraw_every"},
        "AuxK x 4": {"k_aux"},
        "pre-bias at the mean": {"pre_bias"},
        "and rows at samples": {"pre_bias", "rows"},
    }


def test_measures_of_a_model(small_store):
    store = small_store("test")
    model = SPARC(store.dims, 16, 3, generator=torch.Generator().manual_seed(0))
    run = Run("trained", Setting("s", "global", 1.0), 0, ("published recipe",))
    table = _measure(40, model, {"test": store}, run)
    assert list(table) == COLUMNS and set(table.gate) == {"global"}
    value = table.set_index("measure").value
    assert 0 < value["alive in all streams, joint"] <= 1 - value["alive in none, joint"]
    with torch.no_grad():
        fires = {s: code.dense() > 0 for s, code in model.encode(store.tensors(slice(40)), "joint").items()}
    labelled = torch.tensor(store.labels[:40].toarray().any(1))
    alive = torch.stack([fired[labelled].any(0) for fired in fires.values()]).all(0)
    assert value["alive in all streams, joint"] == pytest.approx(alive.double().mean().item())
