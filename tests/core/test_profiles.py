import dataclasses
from pathlib import Path

import pytest
import yaml

from sparc_lib import paths
from sparc_lib.profiles import ProfileError, available, load_profile, named, option, read_profile


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


def test_a_copy_that_kept_a_shipped_name_is_refused(mini, tmp_path, monkeypatch):
    """Its figures and tables would be written over the shipped profile's without a word."""
    monkeypatch.setenv("SPARC_PROFILES", "")
    monkeypatch.delenv("SPARC_OUTPUT", raising=False)
    (tmp_path / "mini.yaml").write_text(yaml.safe_dump(mini[0]))
    with pytest.raises(ProfileError, match=r"mini\.yaml: 'mini' is a shipped profile.*another name"):
        named(str(tmp_path / "mini.yaml"))
    assert named(str(paths.PROFILES / "mini.yaml")) == "mini"
    monkeypatch.setenv("SPARC_OUTPUT", str(tmp_path / "elsewhere"))
    assert named(str(tmp_path / "mini.yaml")) == "mini"


def test_precision_of_training_may_be_left_out(mini):
    raw, read = mini
    assert "precision" not in raw["sparc"] and read().sparc.precision == "float32"
    raw["sparc"]["precision"] = "bfloat16"
    assert read().sparc.precision == "bfloat16"
    raw["sparc"]["precision"] = "float16"
    with pytest.raises(ProfileError, match="sparc.precision must be 'float32' or 'bfloat16', got 'float16'"):
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
        ProfileError, match=r"mini\.yaml: (.|\n)*unknown field sparc\.n_latent; did you mean n_latents"
    ):
        read()


def test_missing_field_names_it(mini):
    raw, read = mini
    del raw["data"]["seed"]
    with pytest.raises(ProfileError, match=r"field data\.seed is missing; add it, as mini.yaml has it"):
        read()


@pytest.mark.parametrize(
    "section, key, value, message",
    [
        ("sparc", "k", "16", r"sparc\.k must be a valid integer, got '16'"),
        ("sparc", "k", True, r"sparc\.k must be a valid integer, got True"),
        ("sparc", "k", 600, r"sparc\.k must be at most sparc\.n_latents \(512\), got 600"),
        ("sparc", "n_latents", 10**15, r"sparc\.n_latents must be less than or equal to 1048576"),
        ("sparc", "k_aux", -1, r"sparc\.k_aux must be greater than or equal to 0"),
        ("sparc", "k_aux", 513, r"sparc\.k_aux must be at most sparc\.n_latents"),
        ("sparc", "gate", "both", r"sparc\.gate must be 'global' or 'local', got 'both'"),
        ("sparc", "learning_rate", "1e-3", r"write 1\.0e-4"),
        ("sparc", "learning_rate", float("inf"), r"sparc\.learning_rate must be a finite number, got inf"),
        ("sparc", "learning_rate", float("nan"), r"sparc\.learning_rate must be a finite number, got nan"),
        ("sparc", "learning_rate", 0, r"sparc\.learning_rate must be greater than 0"),
        ("sparc", "epochs", 0, r"sparc\.epochs must be greater than or equal to 1, got 0"),
        ("sparc", "aux_weight", -1.0, r"sparc\.aux_weight must be greater than or equal to 0"),
        ("sparc", "cross_weight", float("inf"), r"sparc\.cross_weight must be a finite number"),
        ("data", "train", None, r"the miniature world is endless"),
        ("data", "train", 1, r"data\.train must be greater than or equal to 16, got 1"),
        ("data", "train", 10**12, r"data\.train must be less than or equal to 10000000"),
        ("data", "test", 1, r"data\.test must be greater than or equal to 2"),
        ("data", "seed", -1, r"data\.seed must be greater than or equal to 0"),
        ("data", "max_samples", 100, r"data\.max_samples must be null"),
        ("data", "control_train", 20_001, r"data\.control_train must be null or at most data\.train"),
        ("data", "kind", "imagenet", r"data\.kind must be 'miniworld', 'coco' or 'open_images'"),
        ("encoders", "batch_size", 0, r"encoders\.batch_size must be greater than or equal to 1"),
        ("encoders", "dino", {"source": "x"}, r"encoders\.dino\.resize is missing"),
        ("evaluation", "heatmap_images", 1, r"evaluation\.heatmap_images must be greater than or equal to 2"),
        ("evaluation", "retrieval_pool", 1, r"evaluation\.retrieval_pool must be greater than or equal to 2"),
        ("evaluation", "null_repeats", 0, r"evaluation\.null_repeats must be greater than or equal to 1"),
        (
            "evaluation",
            "taxonomy_depths",
            [0, -1],
            r"taxonomy_depths\[1\] must be greater than or equal to 0",
        ),
        ("evaluation", "taxonomy_depths", [1, "2"], r"taxonomy_depths\[1\] must be a valid integer"),
        ("evaluation", "taxonomy_depths", 3, r"taxonomy_depths must be a list, got 3"),
        ("ablations", "k", [16, 999], r"every k must be at most every number of latents"),
        ("ablations", "cross_weights", [-1.0], r"cross_weights\[0\] must be greater than or equal to 0"),
        ("ablations", "cross_weights", [float("nan"), 1.0], r"cross_weights\[0\] must be a finite number"),
        ("ablations", "n_latents", [512, 256], r"ablations\.n_latents needs three values"),
        ("ablations", "seeds", [1, 1], r"ablations\.seeds has a value twice"),
        ("ablations", "epochs", 0, r"ablations\.epochs must be greater than or equal to 1"),
    ],
)
def test_bad_values_are_refused(mini, section, key, value, message):
    raw, read = mini
    raw[section][key] = value
    with pytest.raises(ProfileError, match=rf"mini\.yaml: (.|\n)*{message}"):
        read()


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("seeds", [], r"seeds must be a list with an entry that holds, got \[\]"),
        ("seeds", [1, 1], "seeds has a value twice: 1, 1"),
        (
            "seeds",
            [-1, 2**70],
            r"seeds\[0\] must be greater than or equal to 0(.|\n)*seeds\[1\] must be less",
        ),
        ("sparc", None, "sparc must be a mapping, as in mini.yaml, got None"),
        ("name", "maxi", "field name must be 'mini'"),
        ("name", "..", "field name must begin with a letter"),
        ("drafts", "yes", "drafts must be a valid boolean"),
        ("notebooks_at_once", 0, "notebooks_at_once must be greater than or equal to 1"),
    ],
)
def test_bad_top_level_values_are_refused(mini, key, value, message):
    raw, read = mini
    raw[key] = value
    with pytest.raises(ProfileError, match=message):
        read()


def test_settings_are_named_freely_but_not_like_values(mini):
    """A name is a folder and a cell of a table: 7, "007", "1e3", "None" would come back as something else."""
    raw, read = mini
    raw["settings"] = [{"name": f"mine-{i}", "gate": "local", "cross_weight": i} for i in range(5)]
    assert [setting.name for setting in read().settings] == ["mine-0", "mine-1", "mine-2", "mine-3", "mine-4"]
    for name in (123, "007", "1e3", "../up", "a b", "", "x" * 61):
        raw["settings"][2]["name"] = name
        with pytest.raises(ProfileError, match=r"field settings\[2\]\.name"):
            read()
    for name in ("None", "nan", "NA", "true", "Infinity"):
        raw["settings"][2]["name"] = name
        with pytest.raises(ProfileError, match=f"name '{name}' would be read as a value"):
            read()
    raw["settings"][2]["name"] = "mine-1"
    with pytest.raises(ProfileError, match="settings has a value twice"):
        read()


def test_all_that_is_wrong_is_said_at_once(mini):
    raw, read = mini
    raw["sparc"]["k"] = "many"
    del raw["data"]["seed"]
    raw["evaluation"]["top_m"] = raw["evaluation"].pop("top_n")
    with pytest.raises(ProfileError) as error:
        read()
    assert len(str(error.value).splitlines()) == 4  # the missing top_n too
    for words in ("field sparc.k must be", "field data.seed is missing", "did you mean top_n?"):
        assert words in str(error.value)
    raw["data"]["seed"], raw["sparc"]["k"], raw["evaluation"]["top_n"] = 0, 600, 5
    del raw["evaluation"]["top_m"]
    raw["seeds"] = [1, 1]
    with pytest.raises(ProfileError, match=r"sparc\.k must be at most(.|\n)*seeds has a value twice"):
        read()


def test_long_values_are_shortened(mini, tmp_path):
    raw, read = mini
    raw["data"]["train"] = "x" * 10_000
    raw["sparc"]["k"] = [[1] * 100 for _ in range(100)]
    with pytest.raises(ProfileError, match="data.train must be(.|\n)*sparc.k must be") as error:
        read()
    assert len(str(error.value)) < 500
    whole = (paths.PROFILES / "mini.yaml").read_text().replace("seed: 0", "seed: 0x" + "f" * 5000)
    (tmp_path / "mini.yaml").write_text(whole)
    with pytest.raises(ProfileError, match="data.seed must be less.*got a number of 20000 bits"):
        read_profile(tmp_path / "mini.yaml")


@pytest.mark.parametrize(
    "text, message",
    [
        (b"name: [", "cannot be read as YAML"),
        (b"\xff\xfe\x00z", "cannot be read as YAML.*utf-8"),
        (b"a: " + b"[" * 3000, "cannot be read as YAML.*recursion"),
        (b"a: 2001-99-99", "cannot be read as YAML.*month"),
        (b"seeds: [0]\nseeds: [1]", "field seeds is given twice"),
        (b"sparc: {k: 1, k: 2}", "field k is given twice"),
        (b"sparc: {k: 024}", "024 would be read as another number"),
        (b"sparc: {epochs: 1:30}", "1:30 would be read as another number"),
        (b"a: &a [1, 2]\nb: [*a, *a]", "aliases .* are not read"),
        (b"? [1, 2]\n: 3", "cannot be read as YAML"),
        (b"k: 010", "010 would be read as another number; write it without leading 0"),
        (b"seeds: [0, 1:30]", "1:30 would be read as another number"),
        (b"1: 2", r"field \[1\] Keys should be strings"),
        (b"", "of the whole file must be a mapping.*got None"),
        (b"- 1", r"of the whole file must be a mapping.*got \[1\]"),
    ],
)
def test_files_that_are_no_profile(tmp_path, text, message):
    (tmp_path / "mini.yaml").write_bytes(text)
    with pytest.raises(ProfileError, match=rf"mini\.yaml: (.|\n)*{message}"):
        read_profile(tmp_path / "mini.yaml")


def test_a_yaml_bomb_is_refused_at_once(tmp_path):
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (tmp_path / "mini.yaml").write_text("\n".join(levels))
    with pytest.raises(ProfileError, match="aliases") as error:
        read_profile(tmp_path / "mini.yaml")
    assert len(str(error.value)) < 1000


def test_whole_numbers_pass_for_floats(mini):
    raw, read = mini
    raw["sparc"]["cross_weight"] = 1
    assert read().sparc.cross_weight == 1.0 and isinstance(read().sparc.cross_weight, float)


def test_an_empty_name_is_no_name():
    """`--profile "$UNSET"` must not start mini."""
    with pytest.raises(ProfileError, match="no profile ''"):
        load_profile("")


def test_who_votes_is_said_by_a_setting(mini):
    raw, read = mini
    del raw["gates"]  # the same settings would have their names twice
    raw["settings"] = [
        {"name": "global_lambda1", "gate": "global", "cross_weight": 1.0},
        {"name": "one_voter", "gate": "global", "cross_weight": 1.0, "voters": "one"},
        {"name": "dropout_05", "gate": "global", "cross_weight": 1.0, "stream_dropout": 0.5},
    ]
    profile = read()
    assert [setting.dropout for setting in profile.settings] == [0.0, 1.0, 0.5]
    assert profile.sparc_for("one_voter").stream_dropout == 1.0
    assert profile.sparc_for("global_lambda1") == profile.sparc
    for change, words in (
        ({"gate": "local"}, "setting dropout_05: stream_dropout and voters need gate: global"),
        ({"voters": "one"}, "setting dropout_05: voters: one is stream_dropout: 1.0 already"),
        ({"stream_dropout": 1.5}, r"settings\[2\]\.stream_dropout must be less than or equal to 1"),
        ({"voters": "two"}, r"settings\[2\]\.voters must be 'all' or 'one'"),
    ):
        kept = dict(raw["settings"][2])
        raw["settings"][2] |= change
        with pytest.raises(ProfileError, match=words):
            read()
        raw["settings"][2] = kept
    raw["sparc"]["stream_dropout"] = 0.5
    with pytest.raises(
        ProfileError, match=r"sparc\.stream_dropout must be left out: it is given to a setting"
    ):
        read()
