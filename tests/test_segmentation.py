"""Scores of heatmaps against scikit-learn, against counting by hand, and on masks that give the answer away."""
import contextlib
import io

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from sklearn.metrics import average_precision_score, roc_auc_score

from sparc_lib.scenes import MiniWorldDataset
from sparc_lib.segmentation import (AnnotatedImages, Region, _encode, coco_regions, contrast, mask_map,
                                    miniworld_regions, otsu_masks, overlap, pixel_ap, pointing, region_scores)
from sparc_lib.taxonomy_file import display_names

GRID = (12, 12)


@pytest.fixture(scope="module")
def world():
    return miniworld_regions(MiniWorldDataset("test", 40), 30)


@pytest.fixture(scope="module")
def maps(world):
    """Random heatmaps with many ties, as ReLU leaves them."""
    rng = np.random.default_rng(0)
    shape = (len(world.regions), *GRID)
    return (rng.integers(0, 5, shape) * (rng.random(shape) < .6)).astype(np.float32)


def blow_up(maps, side=96):
    return maps.repeat(side // maps.shape[1], 1).repeat(side // maps.shape[2], 2)


def test_regions_are_the_scenes_objects(world):
    data = MiniWorldDataset("test", 40)
    assert world.ids == [f"test/{i:06d}" for i in range(30)] and len(world.regions) >= 30
    for region in world.regions[:10]:
        scene = data.scenes[region.image]
        present = {display_names()[f"/w/{thing.name}"] for thing in scene.objects}
        assert data.classes[region.concept] in present and 40 <= region.mask().sum() < 96 * 96
        assert np.array_equal(np.asarray(world.image(region.image)), scene.image())
    assert all(r.image == s.image and r.concept != s.concept for r, s in
               ((world.regions[a], world.regions[b]) for a, b in world.two_class()))


def test_pixel_ap_is_scikit_learns(world, maps):
    wanted = [average_precision_score(region.mask().ravel(), heat.ravel())
              for region, heat in zip(world.regions, blow_up(maps))]
    np.testing.assert_allclose(pixel_ap(maps, world.cover(GRID)), wanted, atol=1e-6)
    share = [region.mask().mean() for region in world.regions]
    np.testing.assert_allclose(pixel_ap(np.ones_like(maps), world.cover(GRID)), share, rtol=1e-5)


def test_pointing_shares_ties(world, maps):
    found = pointing(maps, world.cover(GRID))
    for region, heat, value in zip(world.regions, blow_up(maps), found):
        assert value == pytest.approx(region.mask()[heat == heat.max()].mean(), abs=1e-6)


def test_contrast_is_the_auc_of_the_difference_and_zero_for_saliency(world, maps):
    pairs = world.two_class()
    assert len(pairs) >= 10
    cover, found = world.cover(GRID), contrast(maps + .1, world.cover(GRID), pairs)
    heat = blow_up((maps + .1).astype(np.float64))
    heat /= heat.sum((1, 2), keepdims=True)
    for (a, b), value in zip(pairs, found):
        inside, other = world.regions[a].mask(), world.regions[b].mask()
        difference = np.round(heat[a] - heat[b], 9)
        labels = np.r_[np.ones(inside.sum()), np.zeros(other.sum())]
        auc = roc_auc_score(labels, np.r_[difference[inside], difference[other]])
        assert value == pytest.approx(2 * auc - 1, abs=1e-3)
    saliency = maps.copy()
    for a, b in pairs:
        saliency[a] = saliency[b] = maps[min(a, b)] + 1
    assert not contrast(saliency, cover, pairs).any()
    np.testing.assert_allclose(contrast(cover, cover, pairs), 1, atol=.3)


def test_true_masks_score_best_and_constant_maps_give_the_whole_image(world):
    cover = {GRID: world.cover(GRID)}
    truth = [region.mask() for region in world.regions]
    good, good_map = region_scores(cover[GRID].astype(np.float32), world, truth, cover)
    assert good["iou"].mean() > .6 and good["pixel_ap"].mean() > .85 and good["pointing"].mean() > .9
    assert good_map > .9
    masks, scores = otsu_masks(np.ones((len(truth), *GRID)), world)
    assert all(mask.all() for mask in masks) and (scores == 1).all()
    whole = overlap(masks, truth)
    np.testing.assert_allclose(whole["iou"], [t.mean() for t in truth])
    np.testing.assert_allclose(whole["precision"], whole["iou"])
    assert (whole["recall"] == 1).all()


def test_mask_map_by_hand():
    """One class, three images: hits and misses in order of score give a precision envelope that one can draw."""
    size = np.zeros((10, 10), bool)
    box = lambda a, b: np.logical_or(size, (np.arange(10)[:, None] >= a) & (np.arange(10)[:, None] < b))   # noqa: E731
    regions = [Region(i, 0, (_encode(box(0, 5)),)) for i in range(3)]
    data = AnnotatedImages(list("abc"), ["x"], regions, lambda i: None)
    assert mask_map([box(0, 5)] * 3, np.array([.9, .8, .7]), data) == pytest.approx(1)
    miss_first = mask_map([box(8, 10), box(0, 5), box(0, 5)], np.array([.9, .8, .7]), data)
    envelope = [2 / 3 if recall <= 2 / 3 else 0 for recall in np.linspace(0, 1, 101)]
    assert miss_first == pytest.approx(np.mean(envelope), abs=.01)
    just = [box(0, 1)] * 3                                               # IoU 0.2 exactly counts, less does not
    assert mask_map(just, np.ones(3), data) == pytest.approx(1) and mask_map(just, np.ones(3), data, .21) == 0


def test_coco_annotations_fill_the_same_interface(tmp_path):
    truth = COCO()
    def square(n, i, c, x, crowd=0):
        return {"id": n, "image_id": i, "category_id": c, "iscrowd": crowd, "area": 100,
                "segmentation": [[x, 5, x + 10, 5, x + 10, 15, x, 15]]}

    truth.dataset = {"images": [{"id": 7, "height": 20, "width": 40, "file_name": "7.png"},
                                {"id": 3, "height": 30, "width": 40, "file_name": "3.png"}],
                     "categories": [{"id": 90, "name": "cat"}, {"id": 2, "name": "dog"}],
                     "annotations": [square(1, 7, 2, 0), square(2, 7, 2, 20), square(3, 7, 90, 10), square(4, 3, 90, 0),
                                     {**square(5, 3, 2, 0, 1), "segmentation": {"counts": [1200], "size": [30, 40]}}]}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    Image.new("RGB", (40, 20)).save(tmp_path / "7.png")
    data = coco_regions(truth, tmp_path)
    assert data.ids == ["3", "7"] and data.classes == ["dog", "cat"]
    assert [(r.image, r.concept, len(r.instances), int(r.mask().sum())) for r in data.regions] == \
        [(0, 1, 1, 100), (1, 0, 2, 200), (1, 1, 1, 100)]                 # the crowd is left out
    assert data.two_class() == [(1, 2), (2, 1)] and data.image(1).size == (40, 20)
    with pytest.raises(FileNotFoundError, match="3.png"):
        data.image(0)
    cover = data.cover((2, 4))
    masks, scores = otsu_masks(cover, data)
    assert [m.shape for m in masks] == [(30, 40), (20, 40), (20, 40)]
    # One detection a region can meet one of two dogs only: recall 1/2 at best for this class.
    assert mask_map([r.mask() for r in data.regions], scores, data) == pytest.approx((.5 + 1) / 2, abs=.01)
