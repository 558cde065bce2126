"""Features by several processes are those of one; how models are trained, kept, and healed."""

import dataclasses
import logging
import shutil

import numpy as np
import pytest
import scipy.sparse
import torch

from sparc_lib import paths
from sparc_lib.profiles import load_profile
from sparc_lib.studies import announced, parallel
from sparc_lib.studies import runs as workflow


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARC_DATA", str(tmp_path))
    smoke = load_profile("smoke")
    return dataclasses.replace(
        smoke, data=dataclasses.replace(smoke.data, train=48, val=6, test=6, control_train=24)
    )


def test_processes_side_by_side_make_the_same_store(profile, monkeypatch):
    monkeypatch.setattr(workflow, "PARALLEL_FROM", 10**9)
    alone = workflow.features(profile, "test", progress=False)
    ids, alone = alone.ids, {s: np.array(alone[s], np.float32) for s in alone.streams}
    monkeypatch.setattr(workflow, "PARALLEL_FROM", 2)
    monkeypatch.setattr(workflow, "cpu_count", lambda: 3)
    monkeypatch.setenv("SPARC_REBUILD_BEFORE", "9e9")  # as --force: build anew
    together = workflow.features(profile, "test", progress=False)
    assert together.ids == ids and together.directory.parent.parent == workflow.paths.data_root() / "stages"
    assert not list(together.directory.parent.glob("parts*"))
    for stream, x in alone.items():
        np.testing.assert_allclose(np.array(together[stream], np.float32), x, atol=2e-3)


def test_the_control_sees_fewer_scenes_for_as_many_steps(profile):
    main, noise = (
        workflow.features(profile, "train", weights, progress=False) for weights in (None, workflow.RANDOM)
    )
    assert not workflow.is_control(main) and workflow.is_control(noise)
    assert len(set(main.image_ids)) == 48 and len(set(noise.image_ids)) == 24
    epochs = [workflow.train_config(profile, profile.settings[0], 0, store).epochs for store in (main, noise)]
    assert epochs == [profile.sparc.epochs, 2 * profile.sparc.epochs]
    same = dataclasses.replace(profile, data=dataclasses.replace(profile.data, control_train=None))
    assert workflow.control(same) is same


@pytest.mark.parametrize("damage", ["deleted", "captions", "labels"])
def test_damaged_features_are_extracted_again(profile, damage, caplog):
    """The remedy works: a store that is deleted, or whose captions or labels were changed, is made anew."""
    first = workflow.features(profile, "test", progress=False)
    captions, labels = first.captions, first.labels.toarray()
    if damage == "deleted":
        shutil.rmtree(first.directory)
    elif damage == "captions":
        file = first.directory / "samples.jsonl"
        file.write_text(file.read_text().replace(" a ", " an ", 1))
    else:
        scipy.sparse.save_npz(first.directory / "labels.npz", first.labels[::-1])
    with caplog.at_level(logging.WARNING):
        again = workflow.features(profile, "test", progress=False)
    assert str(first.directory) in caplog.text and "the stage is built again" in caplog.text
    assert again.captions == captions and (again.labels.toarray() == labels).all()


def test_swapped_stores_are_noticed(profile):
    """The test pairs in the place of the validation pairs: nobody measures on them."""
    val, test = (workflow.features(profile, split, progress=False) for split in ("val", "test"))
    ids = val.ids
    shutil.rmtree(val.directory)
    shutil.copytree(test.directory, val.directory)
    assert workflow.features(profile, "val", progress=False).ids == ids


@pytest.fixture
def store(small_store):
    return small_store("train")


def test_streamed_and_resident_features_train_the_same_model(profile, store, tmp_path, monkeypatch, caplog):
    """What does not fit is read from the memory-mapped store: slower, and bit for bit the same."""
    setting = profile.settings[0]
    resident = workflow.fit(profile, setting, 0, store, tmp_path / "a.pt", progress=False).model
    monkeypatch.setattr("sparc_lib.store.reader.free_bytes", lambda device: 1000)
    with caplog.at_level(logging.WARNING):
        streamed = workflow.fit(profile, setting, 0, store, tmp_path / "b.pt", progress=False).model
    assert "features are streamed from" in caplog.text and "do not fit" in caplog.text
    for name, value in streamed.state_dict().items():
        assert torch.equal(value, resident.state_dict()[name]), name


def test_training_that_runs_out_of_memory_on_a_gpu_begins_anew_from_the_disk(
    profile, store, tmp_path, monkeypatch, caplog
):
    expected = workflow.fit(profile, profile.settings[0], 0, store, tmp_path / "a.pt", progress=False).model
    real, feeds = workflow.train, []

    def train(model, feed, *options):
        feeds.append(feed.store)
        if len(feeds) == 1:
            for weights in model.parameters():
                weights.data += 1  # a step was made
            raise torch.cuda.OutOfMemoryError("no memory")
        return real(model, feed, *options)

    monkeypatch.setattr(workflow, "train", train)
    with caplog.at_level(logging.WARNING):
        found = workflow.fit(profile, profile.settings[0], 0, store, tmp_path / "b.pt", progress=False).model
    assert feeds[1] is store and feeds[0] is not store
    assert "gate global, λ 1, seed 0: features are streamed from" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), expected.parameters()))


def test_a_long_training_says_so_once(profile, store, tmp_path, monkeypatch, caplog):
    longer = dataclasses.replace(
        profile, sparc=dataclasses.replace(profile.sparc, epochs=10, batch_size=32, k_aux=4)
    )
    with caplog.at_level(logging.WARNING):
        workflow.fit(longer, longer.settings[0], 0, store, tmp_path / "a.pt", progress=False)
        assert not caplog.text  # seconds are not worth a word
        monkeypatch.setattr(announced, "LONG", 0)
        workflow.fit(longer, longer.settings[0], 0, store, tmp_path / "b.pt", progress=False)
    assert caplog.text.count("30 steps of") == 1 and "about 0.0 h" in caplog.text


def test_a_small_model_does_not_hang_on_the_number_of_cores(profile, store, tmp_path, monkeypatch):
    """Sums split among threads round in other ways, and 600 steps later tables differ in the second digit."""
    threads, real = [], workflow.train

    def noting(*args):
        threads.append(torch.get_num_threads())
        return real(*args)

    monkeypatch.setattr(workflow, "train", noting)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        workflow.fit(profile, profile.settings[0], 0, store, tmp_path / "small.pt", progress=False)
        monkeypatch.setattr(parallel, "SMALL", 0)
        workflow.fit(profile, profile.settings[0], 0, store, tmp_path / "large.pt", progress=False)
    finally:
        torch.set_num_threads(before)
    assert threads == [1, 3]


def test_a_trained_model_is_built_again_when_its_files_are_damaged(profile, store, caplog):
    setting = profile.settings[0]
    first = workflow.trained(profile, setting, 0, store, progress=False)
    (folder,) = (paths.data_root() / "stages").glob("sparc-*[0-9a-f]")
    for file, damage in (("model.pt", b"PK"), ("history.csv", b"")):
        (folder / file).write_bytes(damage)
        assert not workflow.has_trained(profile, setting, 0, store)
        with caplog.at_level(logging.WARNING):
            again = workflow.trained(profile, setting, 0, store, progress=False)
        assert f"{folder / file}: it has {len(damage)} bytes" in caplog.text
        assert torch.equal(again.model.decoder["dino"], first.model.decoder["dino"])
        assert again.history.equals(first.history)


def test_models_are_trained_again_when_the_code_below_them_changes(profile, store, monkeypatch):
    """The key of a model holds the hashes of the code: another one, another model."""
    setting = profile.settings[0]
    workflow.trained(profile, setting, 0, store, progress=False)
    assert workflow.has_trained(profile, setting, 0, store)
    real = workflow.code_of("training", "store")
    assert "sparse_ops.py" in real
    monkeypatch.setattr(workflow, "code_of", lambda *_: {**real, "sparse_ops.py": "another hash"})
    assert not workflow.has_trained(profile, setting, 0, store)


def test_the_name_of_a_setting_decides_nothing(profile, store):
    setting = profile.settings[0]
    renamed = dataclasses.replace(setting, name="shared")
    workflow.trained(profile, setting, 0, store, progress=False)
    assert workflow.has_trained(profile, renamed, 0, store)


def test_encoders_are_not_built_to_find_features_that_are_there(profile, monkeypatch):
    """Every table asks for features; building two networks each time took a third of a notebook's time."""
    first = workflow.features(profile, "test", progress=False)
    monkeypatch.setattr(workflow, "encoders", lambda *a, **k: pytest.fail("encoders were built"))
    assert workflow.features(profile, "test", progress=False).directory == first.directory


def test_fingerprints_are_those_of_the_encoders(profile):
    for weights in (None, 1):
        dino, clip = workflow.encoders(profile, weights)
        assert workflow.fingerprints(profile, weights) == (dino.fingerprint, clip.fingerprint)
