"""Masks of instances behind one call for all data sets."""

import numpy as np
import pytest
import standins

from sparc_lib.data import coco, open_images
from sparc_lib.data.drawn import DrawnDataset
from sparc_lib.data.instances import class_mask


@pytest.fixture
def sets(tmp_path):
    standins.coco(tmp_path / "coco")
    standins.describe(tmp_path / "oi", standins.open_images(tmp_path / "oi"))
    return {
        "world": DrawnDataset("test", 8),
        "coco": coco.load(tmp_path / "coco", "test"),
        "open_images": open_images.load(tmp_path / "oi", "test"),
    }


@pytest.mark.parametrize("name", ["world", "coco"])
def test_masks_agree_with_labels_and_with_the_picture(sets, name):
    data = sets[name]
    for i in range(len(data)):
        found = data.masks(i)
        assert sorted({one.column for one in found}) == sorted(data.labels[[i]].indices)
        assert all(one.mask.shape == data.image(i).size[::-1] and one.mask.dtype == bool for one in found)
        for column in data.labels[[i]].indices:
            assert (
                class_mask(data, i, column).sum()
                == np.any([one.mask for one in found if one.column == column], axis=0).sum()
            )
    assert (
        class_mask(data, 0, next(c for c in range(len(data.classes)) if c not in data.labels[[0]].indices))
        is None
    )


def test_open_images_has_no_masks(sets):
    assert sets["open_images"].masks(0) == []
