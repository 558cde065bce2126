"""COCO from small files of the same format; masks against pycocotools' own reading of the annotations."""

import hashlib
import json

import numpy as np
import pytest
import standins

from sparc_lib.data import coco
from sparc_lib.data.download import HashError
from sparc_lib.data.photographs import DataError, Limits
from sparc_lib.store.format import Samples
from sparc_lib.taxonomy import Taxonomy


@pytest.fixture
def folder(tmp_path):
    standins.coco(tmp_path / "coco")
    return tmp_path / "coco"


def test_one_pair_per_image_with_all_five_captions(folder):
    data = coco.load(folder, "test")
    assert len(data) == 8 and data.image_ids == sorted(data.image_ids) and data.ids[0] == "test/000000000500"
    told = standins.TOLD[0]  # in the order of their ids, line ends gone
    assert data.captions[0] == " ".join(f"{told}, told {k}." for k in range(5))
    assert data.classes == ["banana", "bicycle", "cat", "dog", "person"]
    carried = [{data.classes[c] for c in data.labels[[i]].indices} for i in range(8)]
    assert carried[:3] == [{"person"}, {"bicycle", "dog"}, {"dog"}] and carried[6] == set()
    assert carried[7] == {"dog", "cat", "person"}  # the person is a crowd
    assert (
        data.image(0).size == (40, 30)
        and data.urls[0] == "http://images.cocodataset.org/val2017/000000000500.jpg"
    )
    Samples(data.ids, data.image_ids, data.captions, data.labels, data.classes).check()


def test_captions_one_by_one_for_the_usual_protocol(folder):
    data, joined = coco.load(folder, "test", joined=False), coco.load(folder, "test")
    assert len(data) == 40 and data.ids[:2] == ["test/000000000500/0", "test/000000000500/1"]
    assert " ".join(data.captions[5:10]) == joined.captions[1] and data.name != joined.name
    np.testing.assert_array_equal(data.labels[[0, 5, 10]].toarray(), joined.labels[:3].toarray())


def test_the_splits_share_no_image_and_lose_none(folder):
    train, val, test = (set(coco.load(folder, split).image_ids) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (12, 12, 8) and not (
        train & val or train & test or val & test
    )
    assert train | val == {f"{100 + 7 * i:012d}" for i in range(24)}


def test_set_aside_is_five_thousand_and_fixed():
    numbers = list(range(1, 20_001))
    val = coco._half(numbers, "val")
    ranked = sorted(numbers, key=lambda number: hashlib.sha256(f"0/{number:012d}".encode()).digest())
    assert val == sorted(ranked[:5000]) and sorted(val + coco._half(numbers, "train")) == numbers


def test_masks_are_where_the_instances_are(folder, capsys):
    data = coco.load(folder, "test")
    first, second = data.masks(1)
    assert (data.classes[first.column], data.classes[second.column]) == ("bicycle", "dog") and not first.crowd
    assert first.mask.shape == (30, 40) and first.mask[6:14, 3:11].all() and first.mask.sum() <= 121
    crowd = data.masks(7)[0]
    assert crowd.crowd and crowd.mask[:, :2].all() and crowd.mask.sum() == 60
    assert data.masks(6) == []
    for i in range(8):  # labels and masks tell the same
        assert sorted({m.column for m in data.masks(i)}) == sorted(data.labels[[i]].indices)
    assert capsys.readouterr().out == ""


def test_categories_hang_below_their_supercategories(folder):
    tree, names = coco.class_tree(folder)
    taxonomy = Taxonomy.from_open_images(tree, coco.load(folder, "test").classes, names)
    assert taxonomy.max_depth == 2 and [names[label] for label in taxonomy.path("dog")] == [
        "Entity",
        "animal",
        "dog",
    ]
    assert [names[label] for label in taxonomy.path("person")] == ["Entity", "person (all)", "person"]
    assert len(taxonomy.buckets(1)) == 4 and len(taxonomy.buckets(5)) == 5


def test_the_published_archive_is_unpacked_once(tmp_path, monkeypatch):
    standins.coco(tmp_path / "web", zipped=True)
    archive = tmp_path / "web/annotations_trainval2017.zip"
    with standins.served(tmp_path / "web") as (url, web):
        remote = coco.ARCHIVE._replace(
            url=f"{url}/{archive.name}", known_hash=f"md5:{hashlib.md5(archive.read_bytes()).hexdigest()}"
        )
        monkeypatch.setattr(coco, "ARCHIVE", remote)
        data = coco.load(tmp_path / "mine", "train")
        coco.load(tmp_path / "mine", "test")
        assert len(data) == 12 and web.asked == {f"/{archive.name}": 1}
        assert not list((tmp_path / "mine").rglob("*.tmp"))


def test_another_archive_than_the_published_is_refused(tmp_path):
    standins.coco(tmp_path / "coco", zipped=True)
    with pytest.raises(
        HashError, match="annotations_trainval2017.zip: its hash is not the published md5:f4bbac"
    ):
        coco.load(tmp_path / "coco", "test")
    assert not (tmp_path / "coco/annotations").exists()


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("captions", lambda text: text[:-30], "not the published COCO annotations .*truncated"),
        ("instances", lambda text: text[:100], "not the published COCO annotations"),
        ("captions", lambda text: "{}", "not the published COCO annotations .*KeyError"),
        (
            "instances",
            lambda text: json.dumps({"annotations": 3, "categories": []}),
            "not the published COCO annotations .*TypeError",
        ),
        (
            "captions",
            lambda text: json.dumps({**json.loads(text), "annotations": []}),
            r"8 of 8 images have no caption \(\[549",
        ),
        (
            "captions",
            lambda text: text.replace('"caption"', '"title"'),
            r"not the published COCO annotations \(KeyError: 'caption'",
        ),
        (
            "instances",
            lambda text: text.replace('"category_id": 18', '"category_id": 99'),
            r"not the published COCO annotations \(KeyError: 99",
        ),
    ],
)
def test_broken_annotations_are_refused(folder, name, change, message):
    path = folder / f"annotations/{name}_val2017.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(DataError, match=f"{name}_val2017.json: {message}"):
        coco.load(folder, "test")


def test_offline_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARC_OFFLINE", "1")
    with pytest.raises(
        FileNotFoundError, match="annotations_trainval2017.zip: missing, and the network is not to be used"
    ):
        coco.load(tmp_path, "test")


def test_subsets_keep_captions_and_labels_together(folder):
    whole, part = coco.load(folder, "test"), coco.load(folder, "test", Limits(images=3))
    assert len(part) == 3 and set(part.ids) < set(whole.ids)
    for i, name in enumerate(part.ids):
        j = whole.ids.index(name)
        assert part.captions[i] == whole.captions[j] and part.paths[i] == whole.paths[j]
        np.testing.assert_array_equal(part.labels[[i]].indices, whole.labels[[j]].indices)


@pytest.mark.parametrize("field", ["../../../x", "12/../../x", None, [1]])
def test_an_image_id_that_leaves_its_folder_is_refused(folder, field):
    path = folder / "annotations/captions_val2017.json"
    document = json.loads(path.read_text())
    document["images"][0]["id"] = field
    for annotation in document["annotations"]:
        if annotation["image_id"] == 549:
            annotation["image_id"] = field
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="captions_val2017.json: not the published COCO annotations"):
        coco.load(folder, "test")


def test_a_category_without_supercategory_hangs_below_other(folder):
    path = folder / "annotations/instances_val2017.json"
    document = json.loads(path.read_text())
    del document["categories"][0]["supercategory"]
    document["categories"][1]["supercategory"] = None
    path.write_text(json.dumps(document))
    tree, names = coco.class_tree(folder)
    taxonomy = Taxonomy.from_open_images(tree, coco.load(folder, "test").classes, names)
    assert [names[label] for label in taxonomy.path("person")] == ["Entity", "other", "person"]
    assert [names[label] for label in taxonomy.path("dog")] == ["Entity", "animal", "dog"]


@pytest.mark.parametrize(
    "outline",
    [[], [[]], [[3, 3, 3, 3, 3, 3]], {"counts": [1200], "size": [30, 40]}],
    ids=["no polygon", "no corner", "no area", "no pixel"],
)
def test_outlines_without_a_pixel_are_no_objects(folder, outline):
    path = folder / "annotations/instances_val2017.json"
    document = json.loads(path.read_text())
    annotation = next(item for item in document["annotations"] if item["image_id"] == 507)
    annotation["segmentation"] = outline
    path.write_text(json.dumps(document))
    before = len([item for item in document["annotations"] if item["image_id"] == 507])
    masks = coco.load(folder, "test").masks(1)
    assert len(masks) == before - 1 and all(one.mask.any() for one in masks)


def test_a_broken_outline_is_named(folder):
    path = folder / "annotations/instances_val2017.json"
    document = json.loads(path.read_text())
    annotation = next(item for item in document["annotations"] if item["image_id"] == 507)
    annotation["segmentation"] = "somewhere"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=f"annotation {annotation['id']} has no outline that can be drawn"):
        coco.load(folder, "test").masks(1)


@pytest.mark.parametrize("harm", ["encrypted", "no member", "no archive"])
def test_an_archive_that_cannot_be_unpacked_is_named(tmp_path, monkeypatch, harm):
    standins.coco(tmp_path / "coco", zipped=True)
    archive = tmp_path / "coco/annotations_trainval2017.zip"
    content = bytearray(archive.read_bytes())
    if harm == "encrypted":  # the bit that says so, in the directory and in every member's head
        for head, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
            start = content.find(head)
            while start >= 0:
                content[start + offset] |= 1
                start = content.find(head, start + 4)
    if harm == "no member":
        content = content.replace(b"annotations/captions_train", b"annotations/../../../train")
    archive.write_bytes(content[:100] if harm == "no archive" else content)
    digest = f"md5:{hashlib.md5(archive.read_bytes()).hexdigest()}"
    monkeypatch.setattr(coco, "ARCHIVE", coco.ARCHIVE._replace(known_hash=digest))
    with pytest.raises(
        DataError, match="annotations_trainval2017.zip: not the archive of the COCO annotations"
    ):
        coco.load(tmp_path / "coco", "train")
    assert [path.name for path in tmp_path.rglob("*.json")] == ["hashes.json"]


@pytest.mark.parametrize(
    "change",
    [
        {"segmentation": [[0, 0, float("nan"), 0, 3, 3]]},
        {"segmentation": [[0, 0, 1e300, 0, 3, 3]]},
        {"segmentation": [[0, 0, 3, 0, 3]]},
        {"segmentation": {"size": [30, 40], "counts": [3, 40_000, 7]}},
        {"segmentation": {"size": [9, 9], "counts": [40, 41]}},
        {"segmentation": {"size": [30, 40], "counts": [1300, -100]}},
        {"segmentation": None},
        {"iscrowd": "missing"},
        {"id": "seven"},
    ],
)
def test_outlines_that_would_take_all_memory_or_make_another_size_are_named(folder, change):
    """A corner that is NaN made pycocotools ask for memory without end; runs of 9 x 9 a mask of 9 x 9."""
    path = folder / "annotations/instances_val2017.json"
    document = json.loads(path.read_text())
    annotation = next(item for item in document["annotations"] if item["image_id"] == 507)
    annotation |= change
    if annotation["iscrowd"] == "missing":
        del annotation["iscrowd"]
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="instances_val2017.json: annotation .* has no outline"):
        coco.load(folder, "test").masks(1)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("captions", lambda document: document["images"][0].update(id=549.7), "549.7 is no whole number"),
        ("captions", lambda document: document["annotations"][0].update(id="x"), "'x' is no whole number"),
        ("instances", lambda document: document["categories"].append(document["categories"][0]), "of two"),
    ],
)
def test_numbers_are_not_cut_and_categories_not_merged(folder, name, change, message):
    path = folder / f"annotations/{name}_val2017.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=f"{name}_val2017.json: not the published .*{message}"):
        coco.load(folder, "test")
