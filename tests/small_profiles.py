"""Fixtures: the paper's profiles with their architectures shrunk, on stand-ins of their data."""

import pytest
import standins
import yaml
from test_encoders import MEAN, STD, write_clip, write_dino

from sparc_lib import paths
from sparc_lib.profiles import read_profile

PROCESSOR = {
    "do_resize": True,
    "size": {"shortest_edge": 32},
    "do_center_crop": True,
    "resample": 3,
    "crop_size": {"height": 28, "width": 28},
    "image_mean": MEAN,
    "image_std": STD,
}


@pytest.fixture(scope="module")
def encoder_dirs(tmp_path_factory):
    """The paper's architectures, shrunk, as files."""
    folder = tmp_path_factory.mktemp("encoders")
    (folder / "dino").mkdir()
    return write_dino(folder / "dino", PROCESSOR), write_clip(folder / "clip")


def lay_out(name, root, **sizes):
    """The stand-in of a paper profile's data under root."""
    if name == "coco":
        standins.coco(root / "coco", **sizes)
    else:
        standins.describe(root / "open_images", standins.open_images(root / "open_images", **sizes))


def shrunk_yaml(name, encoder_dirs):
    """A paper profile as a dict, with small encoders and a small SPARC."""
    raw = yaml.safe_load((paths.PROFILES / f"{name}.yaml").read_text())
    raw["encoders"]["dino"] = {
        "source": str(encoder_dirs[0]),
        "revision": None,
        "resize": 32,
        "image_size": 28,
    }
    raw["encoders"]["clip"] = {
        "model": f"local-dir:{encoder_dirs[1]}",
        "pretrained": None,
        "revision": None,
        "image_size": 32,
    }
    raw["encoders"] |= {"batch_size": 5, "precision": "float32"}
    raw["sparc"] |= {"n_latents": 32, "k": 4, "k_aux": 4, "batch_size": 6, "epochs": 1}
    raw["evaluation"] |= {"null_repeats": 1, "top_n": 5, "taxonomy_depths": [1, 5]}
    raw["ablations"] |= {"k": [2, 4, 8], "n_latents": [16, 32, 64]}
    return raw


@pytest.fixture
def shrunk(tmp_path, encoder_dirs, monkeypatch):
    """A function that gives a paper profile with small encoders and a small SPARC, and its data set as a
    stand-in."""
    monkeypatch.setenv("SPARC_DATASETS", str(tmp_path / "sets"))

    def make(name, **data):
        lay_out(name, tmp_path / "sets")
        raw = shrunk_yaml(name, encoder_dirs)
        raw["data"] |= data
        raw["settings"] = raw["settings"][:1]
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(raw))
        return read_profile(tmp_path / f"{name}.yaml")

    return make


# For the notebooks: enough images that every class has some, and every table a row.
ENOUGH = {"coco": {"n_train": 160, "n_val": 80, "varied": True}, "openimages": {"n": 80, "varied": True}}


def for_notebooks(raw):
    """The settings and sizes that the notebooks ask for, as small as they can be."""
    raw["sparc"] |= {"batch_size": 64, "epochs": 3, "learning_rate": 1e-3}
    raw["evaluation"] |= {
        "probe_min_positives": 5,
        "heatmap_images": 12,
        "taxonomy_depths": [0, 1, 2, 5],
        "classifier_steps": 20,
    }
    raw["ablations"] |= {
        "epochs": 1,
        "cross_weights": [0.0, 0.1, 1.0],
        "k": [2, 4, 8],
        "n_latents": [16, 32, 64],
        "seeds": [0],
    }
    raw["gates"] = {
        "settings": [{"name": "one_voter", "gate": "global", "cross_weight": 1.0, "voters": "one"}],
        "rivals": ["usae", "shared_private", "matched", "ridge", "raw_clip", "frozen_decoder"],
        "seeds": [0],
    }
    return raw | {"notebooks_at_once": 2, "drafts": True}
