"""What is known of drawn scenes and of photographs, and how it is said."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import standins

from sparc_lib.data import coco, open_images
from sparc_lib.data.drawn import DrawnDataset
from sparc_lib.data.instances import exhibit
from sparc_lib.data.knowledge import caption_facts, known_oracle, known_scenes, objects_per_image
from sparc_lib.miniworld.reader import readers_bound
from sparc_lib.miniworld.scenes import make_scene
from sparc_lib.notebook import overview as plots_overview
from sparc_lib.notebook.features import best_possible


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    standins.coco(root / "coco", varied=True)
    standins.describe(root / "oi", standins.open_images(root / "oi", varied=True))
    return {
        "world": DrawnDataset("test", 20),
        "coco": coco.load(root / "coco", "test"),
        "open_images": open_images.load(root / "oi", "test"),
    }


def test_scenes_are_facts_and_photographs_are_not(sets):
    scenes, said = known_scenes(sets["world"], 9)
    assert scenes == [make_scene(0, "test", i) for i in range(9)]
    assert known_oracle(scenes, said) == readers_bound(scenes, said)
    assert all(caption.true_of(scene) for scene, caption in zip(scenes, said))
    for name in ("coco", "open_images"):
        assert known_scenes(sets[name]) == ([], []) and np.isnan(known_oracle([], [])).all()
    fig, ax = plt.subplots()
    best_possible(ax, known_oracle([], []).text_to_image)
    assert not ax.lines  # no star for an oracle that is not known
    best_possible(ax, 0.9)
    assert len(ax.lines) == 1
    plt.close(fig)


def test_objects_are_counted_per_image(sets):
    assert objects_per_image(sets["world"]).tolist() == [
        len(make_scene(0, "test", i).objects) for i in range(20)
    ]
    assert objects_per_image(sets["open_images"]).tolist() == [2] * 12  # though every fourth has two captions
    assert len(objects_per_image(sets["coco"])) == 8


def test_captions_name_the_classes_of_photographs(sets):
    assert caption_facts(sets["world"])["its colour"] > 0.3 and len(caption_facts(sets["world"])) > 4
    data = sets["open_images"]
    named = [
        name.lower() in caption.lower()
        for caption, row in zip(data.captions, data.labels)
        for name in np.array(data.classes)[row.indices]
    ]
    assert caption_facts(data).tolist() == [np.mean(named)] and 0 < np.mean(named) < 1


def test_the_image_shown_has_three_objects_or_as_many_as_there_are(sets):
    for name, data in sets.items():
        row = exhibit(data)
        counts = [len(data.masks(i)) for i in range(len(data))]
        wanted = counts.index(3) if 3 in counts else int(np.argmax(counts))
        assert row == wanted and data.knows_masks == (name != "open_images")


@pytest.mark.parametrize(
    "name, drawn", [("world", [1, 1, 1]), ("coco", [1, 1, 1]), ("open_images", [1, 0, 0])]
)
def test_masks_are_drawn_where_they_are_known(sets, name, drawn):
    data, (fig, axes) = sets[name], plt.subplots(1, 3)
    plots_overview.known_masks(axes, data, exhibit(data))
    assert [len(ax.images) for ax in axes] == drawn
    plt.close(fig)
