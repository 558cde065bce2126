import json
from pathlib import Path

import numpy as np
import pytest

from sparc_lib.taxonomy import Taxonomy, read_class_descriptions

META = Path(__file__).parents[2] / "sparc_lib" / "data" / "openimages_meta"
TREE = {
    "LabelName": "root",
    "Subcategory": [
        {"LabelName": "toy", "Subcategory": [{"LabelName": "teddy"}]},
        {
            "LabelName": "animal",
            "Subcategory": [
                {"LabelName": "cat", "Part": [{"LabelName": "tail"}]},
                {"LabelName": "bearlike", "Subcategory": [{"LabelName": "teddy"}, {"LabelName": "bear"}]},
            ],
        },
    ],
}


@pytest.fixture(scope="module")
def names():
    return read_class_descriptions(META / "oidv7-class-descriptions-boxable.csv")


@pytest.fixture(scope="module")
def open_images_tree():
    return json.loads((META / "bbox_labels_600_hierarchy.json").read_text(encoding="utf-8"))


def test_deepest_occurrence_wins():
    taxonomy = Taxonomy.from_open_images(TREE, ["cat", "teddy", "toy"])
    assert taxonomy.max_depth == 3
    assert taxonomy.path("teddy") == ("root", "animal", "bearlike", "teddy")
    assert list(taxonomy.graph.predecessors("teddy")) == ["bearlike"]
    assert set(taxonomy.graph) == {"root", "toy", "teddy", "animal", "cat", "bearlike", "bear"}


def test_lift():
    taxonomy = Taxonomy.from_open_images(TREE, ["cat", "teddy", "toy", "bear"])
    assert taxonomy.buckets(0) == ("root",)
    assert taxonomy.buckets(1) == ("animal", "toy")
    np.testing.assert_array_equal(taxonomy.lift(1).toarray(), [[1, 0], [1, 0], [0, 1], [1, 0]])
    assert taxonomy.ancestors(2) == ("cat", "bearlike", "toy", "bearlike")
    for depth in (3, 9):
        np.testing.assert_array_equal(taxonomy.lift(depth).toarray(), np.eye(4))


def test_parts_are_not_kinds():
    with pytest.raises(ValueError, match="not in the tree, first \\['tail'\\].*names="):
        Taxonomy.from_open_images(TREE, ["cat", "tail"])


def test_open_images_files(names, open_images_tree):
    displays = sorted(names.values())
    taxonomy = Taxonomy.from_open_images(open_images_tree, displays, names)
    assert len(names) == 601 and taxonomy.max_depth == 5
    assert taxonomy.classes == tuple(displays)
    assert [names[label] for label in taxonomy.path("Magpie")[1:]] == ["Animal", "Bird", "Magpie"]
    assert len(taxonomy.buckets(5)) == 601
    assert all(len(taxonomy.buckets(d)) < len(taxonomy.buckets(d + 1)) for d in range(5))


def test_published_column_order_is_mismatched(names, open_images_tree):
    """Finding F1, on the real files."""
    displays = sorted(names.values())
    right = Taxonomy.from_open_images(open_images_tree, displays, names)
    published = Taxonomy.from_open_images(open_images_tree, displays, names, column_order="as_published")
    differ = [
        sum(a != b for a, b in zip(right.ancestors(depth), published.ancestors(depth), strict=True))
        for depth in range(6)
    ]
    assert differ[5] == 600
    assert differ[1] == 564
    assert differ[0] == 0
    # At leaf depth every column still has a bucket of its own, so the published leaf figures stand.
    assert sorted(published.labels) == sorted(right.labels)


def test_published_order_follows_the_display_names_of_the_columns(names, open_images_tree):
    """The wrong code depends on the class, not on the position of its column."""
    displays = list(names.values())
    backwards = Taxonomy.from_open_images(
        open_images_tree, displays[::-1], names, column_order="as_published"
    )
    ordered = Taxonomy.from_open_images(
        open_images_tree, sorted(displays), names, column_order="as_published"
    )
    assert dict(zip(backwards.classes, backwards.labels, strict=True)) == dict(
        zip(ordered.classes, ordered.labels, strict=True)
    )
    assert ordered.labels == tuple(names)


@pytest.mark.parametrize(
    "classes, keywords, message",
    [
        ([], {}, "classes is empty"),
        (["cat", "cat"], {}, "repeat \\['cat'\\]"),
        (["cat"], {"column_order": "sorted"}, "choose 'right' or 'as_published'"),
        (["cat"], {"column_order": "as_published"}, "needs names"),
        (["cat"], {"column_order": "as_published", "names": {"bear": "Bear"}}, "names lacks \\['cat'\\]"),
        (["Cat"], {"names": {"cat": "Cat", "toy": "Cat"}}, "display name of \\['cat', 'toy'\\]"),
    ],
)
def test_bad_classes(classes, keywords, message):
    with pytest.raises(ValueError, match=message):
        Taxonomy.from_open_images(TREE, classes, **keywords)


def test_bad_trees_and_depths():
    for children in ([{}], [None], ["cat"], [{"LabelName": 5}], [[]]):
        with pytest.raises(ValueError, match="below root has no 'LabelName'"):
            Taxonomy.from_open_images({"LabelName": "root", "Subcategory": children}, ["root"])
    for children in ("cat", {"LabelName": "cat"}, 3):
        with pytest.raises(ValueError, match="below the top has .*no list of nodes as 'Subcategory'"):
            Taxonomy.from_open_images({"LabelName": "root", "Subcategory": children}, ["root"])
    with pytest.raises(ValueError, match="its own ancestor"):
        Taxonomy.from_open_images({"LabelName": "a", "Subcategory": [{"LabelName": "a"}]}, ["a"])
    taxonomy = Taxonomy.from_open_images(TREE, ["cat"])
    with pytest.raises(ValueError, match="choose 0 to 3"):
        taxonomy.lift(-1)
    with pytest.raises(KeyError, match="dragon"):
        taxonomy.path("dragon")


def test_null_is_no_subcategory_and_depth_is_no_matter():
    assert Taxonomy.from_open_images({"LabelName": "a", "Subcategory": None}, ["a"]).max_depth == 0
    tree = {"LabelName": "3000"}
    for depth in reversed(range(3000)):
        tree = {"LabelName": str(depth), "Subcategory": [tree]}
    taxonomy = Taxonomy.from_open_images(tree, ["3000", "7"])
    assert taxonomy.max_depth == 3000 and taxonomy.ancestors(5) == ("5", "5")


def test_class_descriptions_name_the_bad_line(tmp_path):
    for bad in ("/m/2\n", "/m/1,Again\n"):
        file = tmp_path / "classes.csv"
        file.write_text("LabelName,DisplayName\n/m/1,One\n" + bad)
        with pytest.raises(ValueError, match="classes.csv, line 3"):
            read_class_descriptions(file)


@pytest.mark.parametrize(
    "content, words",
    [
        (b'/m/1,"A\n/m/2,B\n/m/3,C\n', "not a CSV file.*unexpected end of data"),
        (b"/m/1,\n", "line 1: expected a new"),
        ("/m/1,A\n".encode("utf-16"), "not a CSV file in UTF-8"),
        (b"/m/1," + b"x" * 200_000, "not a CSV file.*field larger"),
    ],
)
def test_class_descriptions_that_would_be_misread_are_refused(tmp_path, content, words):
    """A quote that is not closed made one class of all lines after it."""
    (tmp_path / "classes.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"classes.csv.*{words}"):
        read_class_descriptions(tmp_path / "classes.csv")


def test_a_mark_of_the_byte_order_is_no_class(tmp_path):
    (tmp_path / "classes.csv").write_text("\ufeffLabelName,DisplayName\n/m/1,A\n", encoding="utf-8")
    assert read_class_descriptions(tmp_path / "classes.csv") == {"/m/1": "A"}
