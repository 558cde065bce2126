"""From a folder of photographs to features, models and taxonomies as in the miniature world."""

# ruff: noqa: F811 (fixtures are imported, and are arguments of tests)

import dataclasses
import shutil

import nbformat
import numpy as np
import pytest
import standins
import torch
from PIL import Image
from small_profiles import PROCESSOR, encoder_dirs, shrunk  # noqa: F401 (fixtures)
from test_encoders import MEAN, STD, write_dino
from test_run_all import run_all

from sparc_lib.data import catalogue as data_sets
from sparc_lib.data.photographs import DataError
from sparc_lib.features.encoders import DinoEncoder, demand_input_sizes
from sparc_lib.profiles import load_profile
from sparc_lib.run.fetching import RunError, fetch, use_data_root
from sparc_lib.studies import runs as workflow
from sparc_lib.studies.alignment import report_with_controls


@pytest.mark.parametrize("name, pairs", [("coco", (12, 12, 8)), ("openimages", (15, 15, 15))])
def test_features_of_photographs_and_what_is_made_of_them(shrunk, name, pairs):
    profile = shrunk(name)
    stores = [workflow.features(profile, split, progress=False) for split in workflow.SPLITS]
    assert tuple(map(len, stores)) == pairs and all(
        store.dims == {"dino": 32, "clip_img": 24, "clip_txt": 24} for store in stores
    )
    data, dino = workflow.dataset(profile, "test"), workflow.encoders(profile)[0]
    expected = dino.image_features(dino.preprocess(data.image(3))[None])[0]
    np.testing.assert_allclose(stores[2]["dino"][3], expected, rtol=2e-3, atol=2e-3)
    taxonomy, names = workflow.concepts(profile, stores[2].classes)
    assert taxonomy.classes == tuple(data.classes) and set(names) >= set(taxonomy.labels)
    if name == "openimages":
        return  # the same from here on, and it takes its time
    report = report_with_controls(profile, taxonomy)
    assert set(report.jaccard.depth) == set(profile.evaluation.taxonomy_depths) and len(report.retrieval)


def test_features_follow_the_files_and_not_the_place(shrunk, tmp_path, monkeypatch):
    profile = shrunk("coco", max_samples=4)
    first = workflow.features(profile, "test", progress=False).directory
    shutil.copytree(tmp_path / "sets", tmp_path / "moved")
    monkeypatch.setenv("SPARC_DATASETS", str(tmp_path / "moved"))
    assert workflow.features(profile, "test", progress=False).directory == first
    path = tmp_path / "moved/coco/annotations/captions_val2017.json"
    path.write_text(path.read_text().replace("brown dog", "black dog"))
    (tmp_path / "moved/coco/hashes.json").unlink()
    workflow.dataset.cache_clear()
    again = workflow.features(profile, "test", progress=False)
    assert again.directory != first and len(again) == 4


def test_a_mended_image_is_taken_up_by_the_next_run(shrunk, monkeypatch):
    monkeypatch.setattr("sparc_lib.features.extraction.TOLERATED", 0.2)
    monkeypatch.setattr("sparc_lib.features.blocks.BATCHES", 1)
    profile = shrunk("coco")
    path = data_sets.load(profile, "test").paths[2]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert len(workflow.features(profile, "test", progress=False)) == 7
    assert len(workflow.features(profile, "test", progress=False)) == 7
    path.write_bytes(whole)
    mended = workflow.features(profile, "test", progress=False)
    assert len(mended) == 8 and mended.ids == data_sets.load(profile, "test").ids
    shutil.rmtree(mended.directory.parent)
    again = workflow.features(profile, "test", progress=False)
    for stream in again.streams:
        np.testing.assert_array_equal(again[stream], mended[stream])


def test_both_caption_protocols_of_coco(shrunk):
    """F15: one text of five captions an image, or five texts; the images are the same."""
    profile = shrunk("coco")
    joined, single = (
        workflow.features(profile, "test", progress=False, single_captions=one) for one in (False, True)
    )
    assert (len(joined), len(single)) == (8, 40) and joined.directory != single.directory
    for stream in ("dino", "clip_img"):
        np.testing.assert_allclose(single[stream][::5], joined[stream], rtol=2e-3, atol=1e-3)
        np.testing.assert_array_equal(single[stream][::5], single[stream][4::5])
    assert not np.allclose(single["clip_txt"][::5], joined["clip_txt"])
    other = shrunk("openimages")
    assert data_sets.inputs(other, "test") == data_sets.inputs(other, "test", single_captions=True)


@pytest.mark.parametrize("name, kind", [("coco", "coco"), ("openimages", "open_images")])
def test_missing_images_name_the_folder_and_the_command(shrunk, name, kind, tmp_path):
    profile = shrunk(name)
    for image in (tmp_path / "sets" / kind).rglob("*.jpg"):
        image.unlink()
    with pytest.raises(
        DataError, match=rf"images are missing.*\./run_all\.sh --fetch --profile {name}; or point --data-root"
    ):
        workflow.dataset(profile, "test")


def test_limits_of_a_profile(shrunk):
    profile = shrunk("openimages")
    part = dataclasses.replace(profile, data=dataclasses.replace(profile.data, test=6, max_samples=5))
    other = dataclasses.replace(
        profile, data=dataclasses.replace(profile.data, test=6, max_samples=5, seed=1)
    )
    assert len(data_sets.load(part, "test")) == 5 and len(data_sets.load(part, "val")) == 5
    assert data_sets.load(part, "test").ids != data_sets.load(other, "test").ids
    assert data_sets.inputs(part, "test") != data_sets.inputs(profile, "test")


def test_max_samples_holds_for_the_miniature_world_too():
    profile = load_profile("smoke")
    part = dataclasses.replace(profile, data=dataclasses.replace(profile.data, max_samples=30))
    whole, few = data_sets.load(profile, "test"), data_sets.load(part, "test")
    assert len(few) == 30 and set(few.ids) < set(whole.ids)
    for row, name in enumerate(few.ids):
        same = whole.ids.index(name)
        assert few.captions[row] == whole.captions[same] and few.facts(row) == whole.facts(same)
        np.testing.assert_array_equal(few.labels[[row]].indices, whole.labels[[same]].indices)
    assert data_sets.inputs(part, "test") != data_sets.inputs(profile, "test")


def test_the_miniature_world_has_nothing_to_fetch():
    with pytest.raises(ValueError, match="profile mini: its scenes are drawn"):
        data_sets.folder(load_profile("mini"))


def test_the_miniature_worlds_concepts_are_those_of_its_files():
    profile = load_profile("smoke")
    data = workflow.dataset(profile, "test")
    taxonomy, names = workflow.concepts(profile, data.classes)
    assert [names[label] for label in taxonomy.path("Dog")][-1] == "Dog" and taxonomy.max_depth >= 4


# -------------------------------------------------------------- preprocessing


def test_dino_input_is_resize_256_bicubic_crop_224(tmp_path):
    """METHOD's input, computed by hand; the square variant keeps the whole photograph."""
    folder = write_dino(
        tmp_path, {**PROCESSOR, "size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    )
    dino = DinoEncoder(folder)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 641, 3), np.uint8))
    resized = photo.resize((341, 256), Image.Resampling.BICUBIC)  # 641 * 256 / 480 = 341.9, cut off
    left = round((341 - 224) / 2)
    by_hand = (np.asarray(resized)[16:240, left : left + 224] / 255 - MEAN) / STD
    np.testing.assert_allclose(dino.preprocess(photo), by_hand.transpose(2, 0, 1), atol=1e-6)
    square = (np.asarray(photo.resize((224, 224), Image.Resampling.BICUBIC)) / 255 - MEAN) / STD
    np.testing.assert_allclose(dino.preprocess_square(photo), square.transpose(2, 0, 1), atol=1e-6)


def test_a_profile_for_other_sizes_is_refused(shrunk):
    profile = shrunk("coco")
    dino, clip = workflow.encoders(profile)
    demand_input_sizes(dino, clip, (32, 28), 32)
    for sizes, field in (
        (((256, 28), 32), "dino.resize"),
        (((32, 224), 32), "dino.image_size"),
        (((32, 28), 224), "clip.image_size"),
    ):
        with pytest.raises(ValueError, match=f"field encoders.{field} is 2"):
            demand_input_sizes(dino, clip, *sizes)


def test_half_precision_stays_close_and_counts_as_another_encoder(shrunk):
    profile = shrunk("coco")
    half = dataclasses.replace(profile, encoders=dataclasses.replace(profile.encoders, precision="bfloat16"))
    (full, _), (low, _) = workflow.encoders(profile), workflow.encoders(half)
    assert full.fingerprint != low.fingerprint
    pixels = torch.stack(
        [full.preprocess(Image.open(path)) for path in data_sets.load(profile, "test").paths[:4]]
    )
    a, b = full.image_features(pixels), low.image_features(pixels)
    assert b.dtype == torch.float32 and torch.nn.functional.cosine_similarity(a, b).min() > 0.999


# -------------------------------------------------------------- the two commands


def test_fetching_says_what_is_there_and_lists_what_is_not(tmp_path, monkeypatch, capsys):
    captions, folder = standins.open_images(tmp_path / "web"), tmp_path / "sets/open_images"
    monkeypatch.setenv("SPARC_DATASETS", "nowhere")  # put back after the test
    folder.mkdir(parents=True)
    use_data_root(str(tmp_path / "sets"))
    lost = next((tmp_path / "web/test").iterdir()).rename(tmp_path / "lost.jpg")
    with standins.served(tmp_path / "web") as (url, _):
        standins.describe(folder, captions, url)
        assert fetch("openimages") == 1
        told = capsys.readouterr().out
        assert "train  12 of 12 images are there, 12 (0.00 GiB) fetched now, 0 missing" in told
        assert "test   11 of 12 images are there" in told and "missing-test.csv lists them" in told
        assert len((folder / "missing-test.csv").read_text().splitlines()) == 2
        image = (folder / "missing-test.csv").read_text().splitlines()[1].split(",")[0]
        lost.rename(tmp_path / "web/test" / image)
        assert fetch("openimages") == 0
    assert "test   12 of 12 images are there, 1 (0.00 GiB) fetched now, 0 missing" in capsys.readouterr().out


@pytest.mark.slow
def test_a_notebook_finds_the_data_root(tmp_path, monkeypatch):
    """`./run_all.sh --profile openimages --data-root DIR --offline` on an excerpt, with our own profile."""
    standins.describe(tmp_path / "sets/open_images", standins.open_images(tmp_path / "sets/open_images"))
    (tmp_path / "notebooks").mkdir()
    book = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(cell)
            for cell in (
                'profile = "mini"',
                "from sparc_lib import profiles; from sparc_lib.studies import runs",
                "print(len(runs.dataset(profiles.load_profile(profile), 'test')), 'pairs')",
            )
        ]
    )
    book.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(book, tmp_path / "notebooks/00_pairs.ipynb")
    monkeypatch.setenv("SPARC_NOTEBOOKS", str(tmp_path / "notebooks"))
    done = run_all("--profile", "openimages", "--data-root", str(tmp_path / "sets"), "--offline")
    assert done.returncode == 0, done.stderr
    executed = nbformat.read(tmp_path / "output/results/openimages/notebooks/00_pairs.ipynb", as_version=4)
    assert executed.cells[-1].outputs[-1].text == "15 pairs\n"


def test_a_data_root_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RunError, match="--data-root .*nowhere: no such folder"):
        use_data_root(str(tmp_path / "nowhere"))


def test_fetching_offline_is_refused(monkeypatch):
    monkeypatch.setenv("SPARC_OFFLINE", "1")
    with pytest.raises(RunError, match="--fetch needs the network"):
        fetch("coco")
