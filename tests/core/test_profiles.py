import dataclasses
from pathlib import Path

import pytest
import yaml

from sparc_lib import paths
from sparc_lib.profile_files import named, option
from sparc_lib.profiles import ProfileError, available, load_profile, read_profile


@pytest.fixture
def mini(tmp_path):
    """mini.yaml as a dict, and a function that reads back an edited copy."""
    raw = yaml.safe_load((paths.PROFILES / "mini.yaml").read_text())

    def read():
        file = tmp_path / "mini.yaml"
        file.write_text(yaml.safe_dump(raw))
        return read_profile(file)

    return raw, read


@pytest.mark.parametrize("name", ["smoke", "mini", "coco", "openimages"])
def test_shipped_profiles_load(name):
    profile = load_profile(name)
    assert profile.name == name and len(profile.settings) == 4
    assert {(s.gate, s.cross_weight) for s in profile.settings} == {
        ("global", 1.0),
        ("global", 0.0),
        ("local", 1.0),
        ("local", 0.0),
    }
    assert name in available()


def test_paper_profiles_follow_the_paper():
    for name in ("coco", "openimages"):
        sparc = load_profile(name).sparc
        assert (sparc.n_latents, sparc.k, sparc.k_aux, sparc.batch_size, sparc.epochs) == (
            8192,
            64,
            64,
            256,
            50,
        )
        assert (sparc.learning_rate, sparc.aux_weight, sparc.cross_weight) == (1e-4, 1 / 32, 1.0)
        assert (sparc.dead_after, sparc.redraw_every, sparc.schedule) == (1000, 100, "constant")
    data = load_profile("mini").data
    assert (data.train, data.val, data.test) == (20_000, 2_000, 4_000)
    smoke = load_profile("smoke").data
    assert smoke.train + smoke.val + smoke.test == 400


def test_name_comes_from_argument_then_environment_then_mini(monkeypatch):
    assert load_profile().name == "mini"
    monkeypatch.setenv("SPARC_PROFILE", "coco")
    assert load_profile().name == "coco"
    assert load_profile("smoke").name == "smoke"


def test_unknown_profile_lists_the_known_ones():
    with pytest.raises(ProfileError, match="no profile 'huge'; choose one of coco, mini, openimages, smoke"):
        load_profile("huge")


def test_a_profile_of_ones_own_is_given_by_its_path(mini, tmp_path, monkeypatch):
    """It is found by its name from then on, before a shipped one of that name, and commands name its path."""
    raw, _ = mini
    monkeypatch.setenv("SPARC_PROFILES", "")
    (tmp_path / "ours.yaml").write_text(yaml.safe_dump(raw | {"name": "ours"}))
    (tmp_path / "coco.yaml").write_text(yaml.safe_dump(raw | {"name": "coco"}))
    assert named("coco") == "coco" and option("coco") == "coco" and load_profile("coco").data.kind == "coco"
    assert named(None) is None and named(str(tmp_path / "ours.yaml")) == "ours"
    assert load_profile("ours").name == "ours" and option("ours") == str(tmp_path / "ours.yaml")
    assert (
        load_profile("coco").data.kind == "miniworld"
        and load_profile("smoke").name == "smoke"
        and option("smoke") == "smoke"
    )
    with pytest.raises(ProfileError, match="theirs.yaml: there is no such profile"):
        named("theirs.yaml")


def test_precision_of_training_may_be_left_out(mini):
    raw, read = mini
    assert "precision" not in raw["sparc"] and read().sparc.precision == "float32"
    raw["sparc"]["precision"] = "bfloat16"
    assert read().sparc.precision == "bfloat16"
    raw["sparc"]["precision"] = "float16"
    with pytest.raises(ProfileError, match="sparc.precision must be one of float32, bfloat16"):
        read()


def test_setting_changes_gate_and_cross_weight_only():
    profile = load_profile("mini")
    local = profile.sparc_for("local_lambda0")
    assert local == dataclasses.replace(profile.sparc, gate="local", cross_weight=0.0)
    with pytest.raises(ProfileError, match="no setting 'lokal'"):
        profile.sparc_for("lokal")


def test_shipped_encoders_resolve_inside_the_repository_and_hub_ids_stay():
    mini, paper = load_profile("mini").encoders, load_profile("openimages").encoders
    assert Path(mini.dino.location) == paths.WEIGHTS / "dino"
    assert mini.clip.location == f"local-dir:{paths.WEIGHTS / 'clip'}"
    assert paper.dino.location == "facebook/dinov2-with-registers-large" and paper.clip.location == "ViT-L-14"


def test_unknown_field_names_file_field_and_nearest(mini, tmp_path):
    raw, read = mini
    raw["sparc"]["n_latent"] = 5
    with pytest.raises(
        ProfileError, match=r"mini\.yaml: unknown field sparc\.n_latent; did you mean n_latents"
    ):
        read()


def test_missing_field_names_it_and_its_type(mini):
    raw, read = mini
    del raw["data"]["seed"]
    with pytest.raises(ProfileError, match=r"field data\.seed is missing; add it \(an integer\)"):
        read()


@pytest.mark.parametrize(
    "section, key, value, message",
    [
        ("sparc", "k", "16", r"sparc\.k must be an integer, got '16'"),
        ("sparc", "k", True, r"sparc\.k must be an integer, got True"),
        ("sparc", "k", 2000, r"sparc\.k must be at most sparc\.n_latents \(256\), got 2000"),
        ("sparc", "gate", "both", r"sparc\.gate must be one of global, local, got 'both'"),
        ("sparc", "learning_rate", "1e-3", r"write 1\.0e-4"),
        ("sparc", "epochs", 0, r"sparc\.epochs must be above 0, got 0"),
        ("sparc", "learning_rate", float("nan"), r"sparc\.learning_rate must be above 0"),
        ("sparc", "aux_weight", -1.0, r"must not be negative"),
        ("data", "train", None, r"the miniature world is endless"),
        ("data", "kind", "imagenet", r"data\.kind must be one of miniworld, coco, open_images"),
        ("ablations", "k", [16, 999], r"every k \(999\) must be at most every number of latents \(128\)"),
        ("ablations", "cross_weights", [-1.0], r"ablations\.cross_weights must not be negative"),
        ("ablations", "n_latents", [512, 256], r"need three values each"),
        ("ablations", "seeds", [1, 1], r"ablations\.seeds has a seed twice"),
        ("ablations", "epochs", 0, r"ablations\.epochs must be above 0"),
        ("evaluation", "taxonomy_depths", [1, "2"], r"evaluation\.taxonomy_depths\[1\] must be an integer"),
    ],
)
def test_bad_values_are_refused(mini, section, key, value, message):
    raw, read = mini
    raw[section][key] = value
    with pytest.raises(ProfileError, match=message):
        read()


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("seeds", [], "seeds must be a non-empty list"),
        ("seeds", [1, 1], "seeds has a seed twice"),
        ("sparc", None, "sparc must be a mapping, got None"),
        ("name", "maxi", "field name must be 'mini'"),
    ],
)
def test_bad_top_level_values_are_refused(mini, key, value, message):
    raw, read = mini
    raw[key] = value
    with pytest.raises(ProfileError, match=message):
        read()


def test_whole_numbers_pass_for_floats_and_broken_yaml_is_named(mini, tmp_path):
    raw, read = mini
    raw["sparc"]["cross_weight"] = 1
    assert read().sparc.cross_weight == 1.0 and isinstance(read().sparc.cross_weight, float)
    (tmp_path / "mini.yaml").write_text("name: [")
    with pytest.raises(ProfileError, match="mini.yaml: cannot be read as YAML"):
        read_profile(tmp_path / "mini.yaml")
