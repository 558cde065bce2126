"""Open Images with Localized Narratives, from small files of the same formats and a local server."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.sparse as sp
import standins

from sparc_lib.data import open_images
from sparc_lib.data.download import HashError
from sparc_lib.data.images import fetch_images
from sparc_lib.data.open_images import Source, load
from sparc_lib.data.photographs import DataError, Limits, Pairs, chosen, label_matrix
from sparc_lib.data.web import Client
from sparc_lib.store.format import Samples
from sparc_lib.taxonomy import Taxonomy


@pytest.fixture
def folder(tmp_path):
    """An excerpt on disk: 12 images and 15 captions a split."""
    standins.describe(tmp_path / "oi", standins.open_images(tmp_path / "oi"))
    return tmp_path / "oi"


def test_the_published_counts_and_addresses():
    source = Source("open_images")
    assert (source.train, source.val, source.test) == (507_444, 41_691, 126_020)
    assert source.images == "https://open-images-dataset.s3.amazonaws.com"


def test_pairs_images_captions_and_labels_belong_together(folder):
    data = load(folder, "val")
    assert (
        len(data) == 15 and len(set(data.image_ids)) == 12 and (data.name, data.split) == ("excerpt", "val")
    )
    assert data.ids[0] == f"val/{data.image_ids[0]}/0" and data.ids[12] == f"val/{data.image_ids[0]}/1"
    assert data.captions[0] == "In this image we can see a brown dog on the grass."
    assert len(data.classes) == 601 and data.classes == sorted(data.classes)
    carried = [{data.classes[c] for c in data.labels[[i]].indices} for i in range(15)]
    assert carried[0] == carried[12] == {"Dog", "Person"} and carried[1] == {
        "Cat",
        "Person",
    }  # Confidence 0 is left out
    assert data.labels.dtype == bool and data.labels.sum() == 30  # confirmed twice, counted once
    assert data.image(0).size == (40, 30) and data.paths[0].parent.name == "validation"
    Samples(data.ids, data.image_ids, data.captions, data.labels, data.classes).check()


def test_classes_hang_in_the_published_hierarchy(folder):
    data, names = load(folder, "test"), open_images.class_names(folder)
    taxonomy = Taxonomy.from_open_images(open_images.hierarchy(folder), data.classes, names)
    assert [names.get(label, "Entity") for label in taxonomy.path("Dog")] == [
        "Entity",
        "Animal",
        "Mammal",
        "Carnivore",
        "Dog",
    ]


def test_without_a_description_the_published_counts_are_demanded(folder):
    (folder / "source.json").unlink()
    with pytest.raises(
        DataError,
        match=r"open_images_test_captions.jsonl: 15 captions, 126,020 expected; the file is truncated",
    ):
        load(folder, "test")


def test_everything_is_fetched_from_the_source(folder, tmp_path):
    with standins.served(folder) as (url, web):
        mine = tmp_path / "mine"
        standins.describe(mine, 15, url)
        data = load(mine, "train")
        with pytest.raises(DataError, match=r"12 of 12 images are missing.*Get them with: this command"):
            data.demand_images("this command")
        report = fetch_images(data.remote_images(), Client(2), progress=False)
        assert report.n_fetched == 12 and set(web.asked.values()) == {1}
        data.demand_images("this command")
        again = load(mine, "train")
    assert set(web.asked.values()) == {1}  # nothing was asked for twice
    assert (again.ids, again.captions) == (data.ids, data.captions)
    assert all(path.read_bytes() == (folder / "train" / path.name).read_bytes() for path in data.paths)


def test_a_few_missing_images_are_tolerated_and_told(tmp_path, caplog):
    standins.describe(tmp_path, standins.open_images(tmp_path, n=120, splits=["test"]))
    data = load(tmp_path, "test")
    data.paths[7].unlink()
    data.demand_images("fetch")
    assert f"1 of 120 images are missing, the first is {data.paths[7].name}" in caplog.text


def test_a_replaced_file_is_refused(folder):
    load(folder, "test")
    table = folder / "test-annotations-human-imagelabels-boxable.csv"
    table.write_text(table.read_text()[:-1])
    with pytest.raises(HashError, match="test-annotations-human-imagelabels-boxable.csv: its sha256 is"):
        load(folder, "test")


@pytest.mark.parametrize(
    "cut, message",
    [
        (lambda text: text[:-40], "15 captions, 15 expected, the last one is cut off"),
        (lambda text: text[: text.rindex("{")], "14 captions, 15 expected; the file is truncated"),
        (lambda text: text + text.splitlines()[-1] + "\n", "16 captions, 15 expected"),
        (lambda text: "", "0 captions, 15 expected"),
    ],
)
def test_truncated_captions_are_refused(folder, cut, message):
    path = folder / "open_images_test_captions.jsonl"
    path.write_text(cut(path.read_text()))
    with pytest.raises(
        DataError, match=f"open_images_test_captions.jsonl: {message}.*Delete it and run again"
    ):
        load(folder, "test")


def test_corrupt_lines_are_skipped_counted_and_listed(folder, caplog):
    path = folder / "open_images_test_captions.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1], lines[5], lines[9] = (
        b'{"image_id": "x", "capt\n',
        b'{"image_id": 7, "caption": "a"}\n',
        b"\xff\xfe\n",
    )
    path.write_bytes(b"".join(lines))
    data = load(folder, "test")
    assert len(data) == 12 and [line.split(":")[0] for line in data.skipped] == [
        "line 2",
        "line 6",
        "line 10",
    ]
    assert "3 of 15 lines could not be read, first line 2: JSONDecodeError" in caplog.text


@pytest.mark.parametrize("image", ["../../../x", "/etc/x", "a/b", "..", "", ".hidden", "a\\b", "x\0"])
def test_an_image_id_that_leaves_its_folder_is_skipped_and_never_written(folder, tmp_path, image):
    path = folder / "open_images_test_captions.jsonl"
    lines = path.read_text().splitlines()
    lines[4] = json.dumps({"image_id": image, "caption": "a cat"})
    path.write_text("\n".join(lines) + "\n")
    data = load(folder, "test")
    assert len(data) == 14 and data.skipped[0].startswith("line 5: ValueError: image_id ")
    assert {one.path.parent for one in data.remote_images()} == {folder / "test"}
    with pytest.raises(DataError, match="is no plain file name"):
        dataclasses.replace(data, pairs=Pairs(["a"], [image], ["a cat"]))


@pytest.mark.parametrize(
    "text, message",
    [
        ("ImageID,LabelName\na,b\n", "needs the columns"),
        (
            "ImageID,Source,LabelName,Confidence\n200000000000000,v,/m/0bt9lr,yes\n",
            "needs the columns ImageID, LabelName and a numeric",
        ),
        (
            "ImageID,Source,LabelName,Confidence\n2000000000000000,v,/m/nobody,1\n",
            "class '/m/nobody' is not in oidv7",
        ),
        ("", "not a label table"),
        ("ImageID,LabelName,Confidence\n2000000000000000,/m/0bt9lr,100\n", "Confidence 100 of image '2"),
        ("ImageID,LabelName,Confidence\n2000000000000000,/m/0bt9lr,-1\n", "Confidence -1 of image"),
        ("ImageID,LabelName,Confidence\n2000000000000000,/m/0bt9lr\n", "Confidence nan of image"),
        ("ImageID,LabelName,Confidence\n2000000000000000.jpg,/m/0bt9lr,1\n", "no confirmed label of the"),
    ],
)
def test_a_table_of_another_shape_is_refused(folder, text, message):
    (folder / "test-annotations-human-imagelabels-boxable.csv").write_text(text)
    with pytest.raises(DataError, match=f"test-annotations-human-imagelabels-boxable.csv: .*{message}"):
        load(folder, "test")


@pytest.mark.parametrize(
    "raw, message",
    [
        ('{"name": "x", "rows": 3}', "field rows: .*known fields: name, classes"),
        ("[]", "field -: Input should be"),
        ('{"test": 3}', "field name: "),
        ('{"name": "x", "images": "www.example.org"}', "field images: String should match pattern"),
        ('{"name": "x", "test": "3"}', "field test: Input should be a valid integer"),
    ],
)
def test_a_wrong_description_is_refused(folder, raw, message):
    (folder / "source.json").write_text(raw)
    with pytest.raises(DataError, match=f"source.json: {message}"):
        load(folder, "test")


def test_an_unknown_split_lists_the_known(folder):
    with pytest.raises(ValueError, match="'validation': choose one of train, val, test"):
        load(folder, "validation")


def test_subsets_are_the_same_everywhere_and_nested(folder):
    names = [f"{i:016x}" for i in range(1000)]
    few, more = ({names[row] for row in chosen(names, n, 0)} for n in (10, 100))
    assert few < more and len(more) == 100
    assert sorted(few)[:3] == [
        "0000000000000043",
        "000000000000004c",
        "0000000000000144",
    ]  # as sha256sum says
    backwards = names[::-1]
    assert {backwards[row] for row in chosen(backwards, 10, 0)} == few
    assert {names[row] for row in chosen(names, 10, 1)} != few
    whole = load(folder, "test")
    part = load(folder, "test", Limits(images=6, pairs=5))
    assert len(part) == 5 and set(part.ids) < set(whole.ids)
    for i, name in enumerate(part.ids):
        j = whole.ids.index(name)
        assert (part.captions[i], part.paths[i]) == (whole.captions[j], whole.paths[j])
        np.testing.assert_array_equal(part.labels[[i]].indices, whole.labels[[j]].indices)


def test_labels_of_images_go_to_all_their_pairs():
    matrix = label_matrix(["b", "a", "b", "c"], (["a", "b", "b"], [2, 0, 0]), 3)
    np.testing.assert_array_equal(matrix.toarray(), [[1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]])
    assert sp.issparse(label_matrix(["a"], ([], []), 2))


def test_corrupt_and_missing_images_are_skipped_counted_and_listed_by_extraction(tmp_path):
    from test_extraction import run

    standins.describe(tmp_path / "oi", standins.open_images(tmp_path / "oi", n=200, splits=["test"]))
    data = load(tmp_path / "oi", "test")
    data.paths[0].write_bytes(data.paths[0].read_bytes()[:200])  # two captions
    data.paths[3].unlink()
    store = run(tmp_path / "store", data)
    assert len(store) == 247
    assert [(s.image_id, len(s.ids), s.reason.split(":")[0]) for s in store.manifest.skipped] == [
        (data.image_ids[0], 2, "OSError"),
        (data.image_ids[3], 1, "FileNotFoundError"),
    ]
    assert str(tmp_path) not in store.manifest.to_json()
    for row, name in enumerate(store.ids):
        assert store.captions[row] == data.captions[data.ids.index(name)]
