"""Scores of heatmaps against scikit-learn, counting by hand, and masks that give the answer away."""

import numpy as np
import pytest
import standins
from sklearn.metrics import average_precision_score, roc_auc_score

from sparc_lib.attribution.segmentation import (
    AnnotatedImages,
    Region,
    annotated_images,
    contrast,
    encode_mask,
    mask_map,
    otsu_masks,
    overlap,
    pixel_ap,
    pointing,
    region_scores,
)
from sparc_lib.data import coco, open_images
from sparc_lib.data.drawn import DrawnDataset
from sparc_lib.data.pairs import InstanceMask
from sparc_lib.miniworld.names import display_names

GRID = (12, 12)


@pytest.fixture(scope="module")
def world():
    return annotated_images(DrawnDataset("test", 40), 30, min_pixels=40)


@pytest.fixture(scope="module")
def maps(world):
    """Random heatmaps with many ties, as ReLU leaves them."""
    rng = np.random.default_rng(0)
    shape = (len(world.regions), *GRID)
    return (rng.integers(0, 5, shape) * (rng.random(shape) < 0.6)).astype(np.float32)


def blow_up(maps, side=96):
    return maps.repeat(side // maps.shape[1], 1).repeat(side // maps.shape[2], 2)


def test_regions_are_the_scenes_objects(world):
    data = DrawnDataset("test", 40)
    assert world.ids == [f"test/{i:06d}" for i in range(30)] and len(world.regions) >= 30
    for region in world.regions[:10]:
        scene = data.facts(data.image_ids.index(world.ids[region.image])).scene
        present = {display_names()[f"/w/{thing.name}"] for thing in scene.objects}
        assert data.classes[region.concept] in present and 40 <= region.mask().sum() < 96 * 96
        assert np.array_equal(np.asarray(world.image(region.image)), scene.image())
    assert all(
        r.image == s.image and r.concept != s.concept
        for r, s in ((world.regions[a], world.regions[b]) for a, b in world.two_class())
    )


def test_pixel_ap_is_scikit_learns(world, maps):
    wanted = [
        average_precision_score(region.mask().ravel(), heat.ravel())
        for region, heat in zip(world.regions, blow_up(maps))
    ]
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
    # Maps of different sums: with equal ones, differences tie but for the last bit of a float.
    shifted = maps + 0.1 + 0.01 * np.arange(len(maps), dtype=np.float32)[:, None, None]
    cover, found = world.cover(GRID), contrast(shifted, world.cover(GRID), pairs)
    heat = blow_up(shifted.astype(np.float64))
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
    np.testing.assert_allclose(contrast(cover, cover, pairs), 1, atol=0.3)


def test_true_masks_score_best_and_constant_maps_give_the_whole_image(world):
    cover = {GRID: world.cover(GRID)}
    truth = [region.mask() for region in world.regions]
    good, good_map = region_scores(cover[GRID].astype(np.float32), world, truth, cover)
    assert good["iou"].mean() > 0.6 and good["pixel_ap"].mean() > 0.8 and good["pointing"].mean() > 0.9
    assert good_map > 0.9
    masks, scores = otsu_masks(np.ones((len(truth), *GRID)), world)
    assert all(mask.all() for mask in masks) and (scores == 1).all()
    whole = overlap(masks, truth)
    np.testing.assert_allclose(whole["iou"], [t.mean() for t in truth])
    np.testing.assert_allclose(whole["precision"], whole["iou"])
    assert (whole["recall"] == 1).all()


def test_mask_map_by_hand():
    """One class, three images: hits and misses in order of score give a precision envelope to draw."""
    size = np.zeros((10, 10), bool)
    box = lambda a, b: np.logical_or(size, (np.arange(10)[:, None] >= a) & (np.arange(10)[:, None] < b))  # noqa: E731
    regions = [Region(i, 0, (encode_mask(box(0, 5)),)) for i in range(3)]
    data = AnnotatedImages(list("abc"), ["x"], regions, lambda i: None)
    assert mask_map([box(0, 5)] * 3, np.array([0.9, 0.8, 0.7]), data) == pytest.approx(1)
    miss_first = mask_map([box(8, 10), box(0, 5), box(0, 5)], np.array([0.9, 0.8, 0.7]), data)
    envelope = [2 / 3 if recall <= 2 / 3 else 0 for recall in np.linspace(0, 1, 101)]
    assert miss_first == pytest.approx(np.mean(envelope), abs=0.01)
    just = [box(0, 1)] * 3  # IoU 0.2 exactly counts, less does not
    assert (
        mask_map(just, np.ones(3), data) == pytest.approx(1) and mask_map(just, np.ones(3), data, 0.21) == 0
    )


@pytest.fixture
def photographs(tmp_path):
    standins.coco(tmp_path / "coco", varied=True)
    standins.describe(tmp_path / "oi", standins.open_images(tmp_path / "oi", varied=True))
    return coco.load(tmp_path / "coco", "test"), open_images.load(tmp_path / "oi", "test")


class Masked:
    """Two images with the masks that a test gives them: {image: [(class, pixels of a 4 x 4 mask), ...]}."""

    image_ids, classes, knows_masks = ["a", "b"], ["dog", "cat"], True

    def __init__(self, instances):
        self.instances = instances

    def masks(self, row):
        found = []
        for column, pixels in self.instances[self.image_ids[row]]:
            mask = np.arange(16).reshape(4, 4) < pixels
            found.append(InstanceMask(column, mask, False))
        return found


def test_masks_without_pixels_leave_no_region_and_spoil_no_mean():
    """COCO has annotations that are smaller than a pixel."""
    data = annotated_images(Masked({"a": [(0, 0), (0, 3), (1, 0)], "b": [(1, 5)]}), 2)
    assert [(region.image, region.concept) for region in data.regions] == [(0, 0), (1, 1)]
    assert [len(region.instances) for region in data.regions] == [1, 1] and not data.lacks
    cover = {(2, 2): data.cover((2, 2))}
    truth = [region.mask() for region in data.regions]
    maps = np.random.default_rng(0).random((2, 2, 2)).astype(np.float32)
    scores, mean_ap = region_scores(maps, data, truth, cover)
    assert all(np.isfinite(values).all() for values in scores.values()) and np.isfinite(mean_ap)
    larger = annotated_images(Masked({"a": [(0, 2), (0, 3)], "b": [(1, 5)]}), 2, min_pixels=3)
    assert [int(region.mask().sum()) for region in larger.regions] == [3, 5]


def test_a_mask_that_covers_nothing_is_refused_not_averaged():
    maps, cover = np.ones((2, 2, 2), np.float32), np.ones((2, 2, 2), np.float32)
    cover[1] = 0
    with pytest.raises(ValueError, match="region 1"):
        pixel_ap(maps, cover)
    with pytest.raises(ValueError, match="region 1"):
        contrast(maps, cover, [(0, 1)])
    unknown = np.full_like(cover, np.nan)  # a data set without masks: no score, and no error
    assert np.isnan(pixel_ap(maps, unknown)).all() and np.isnan(contrast(maps, unknown, [(0, 1)])).all()


def test_coco_fills_the_same_interface(photographs):
    data, _ = photographs
    found = annotated_images(data, 6, set(data.image_ids[1:]))  # the first one cannot be read
    assert found.ids == data.image_ids[1:7] and found.classes == data.classes and not found.lacks
    for region in found.regions:
        row, masks = region.image + 1, data.masks(region.image + 1)
        own = [one.mask for one in masks if one.column == region.concept and not one.crowd]
        assert len(own) == len(region.instances) and np.array_equal(region.mask(), np.logical_or.reduce(own))
        assert found.image(region.image).mode == "RGB" and region.size == data.image(row).size[::-1]
    last = data.image_ids[-1]  # its crowd is no object to point at
    assert any(one.crowd for one in data.masks(len(data) - 1))
    assert {r.concept for r in annotated_images(data, 99).regions if r.image == len(data) - 1} == {
        one.column for one in data.masks(len(data) - 1) if not one.crowd
    } and last == annotated_images(data, 99).ids[-1]
    cover = found.cover((2, 4))
    masks, scores = otsu_masks(cover, found)
    assert [m.shape for m in masks] == [r.size for r in found.regions]
    np.testing.assert_allclose(found.sizes(), [r.mask().mean() for r in found.regions])
    assert mask_map([r.mask() for r in found.regions], scores, found) == pytest.approx(1, abs=0.01)


def test_several_instances_of_a_class_are_one_region():
    """One detection a region can meet one of two objects only: recall 1/2 at best for this class."""
    left, right = np.zeros((2, 20, 40), bool)
    left[5:15, :10] = right[5:15, 20:30] = True
    regions = [Region(0, 0, (encode_mask(left), encode_mask(right))), Region(0, 1, (encode_mask(left),))]
    data = AnnotatedImages(["a"], ["dog", "cat"], regions, lambda i: None)
    assert mask_map([r.mask() for r in regions], np.ones(2), data) == pytest.approx((0.5 + 1) / 2, abs=0.01)


def test_without_masks_there_are_regions_that_nothing_can_be_held_against(photographs):
    _, data = photographs
    found = annotated_images(data, 5)
    assert [(r.image, data.classes[r.concept]) for r in found.regions[:2]] == [(0, "Dog"), (0, "Person")]
    assert len(found.ids) == len(set(found.ids)) == 5 and "not where" in found.lacks
    assert (
        np.isnan(found.cover((2, 3))).all() and np.isnan(found.sizes()).all() and len(found.two_class()) == 10
    )
    assert np.array_equal(found.outlined(found.regions[0]), np.asarray(found.image(0)))


def test_a_map_that_is_flat_up_to_rounding_gives_the_whole_image(world):
    flat = np.full((len(world.regions), *GRID), 0.1, np.float32)
    flat[:, 0, 0] = np.nextafter(np.float32(0.1), np.float32(1))
    assert all(mask.all() for mask in otsu_masks(flat, world)[0])
