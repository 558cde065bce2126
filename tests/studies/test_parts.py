"""Scores of maps of parts: by hand, planted so that a method must succeed, shuffled so that it must fail."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from sparc_lib.attribution.parts import PartImages, part_images
from sparc_lib.attribution.patches import region_features
from sparc_lib.attribution.segmentation import AnnotatedImages, Region, encode_mask
from sparc_lib.data.drawn import DrawnDataset
from sparc_lib.profiles import load_profile
from sparc_lib.store.reader import FeatureStore
from sparc_lib.studies import parts as study
from sparc_lib.studies import regions
from sparc_lib.studies.part_maps import (
    MASK,
    REGIONS,
    Prompts,
    View,
    decoded_maps,
    patch_maps,
    renamed,
)
from sparc_lib.studies.part_scores import (
    CAPTION,
    COLUMNS,
    NO_COLOUR,
    ONE_COLOUR,
    PART,
    Reading,
    scored,
    summary,
    verdicts,
)
from sparc_lib.studies.parts import part_report
from sparc_lib.studies.regions import region_models

pytestmark = pytest.mark.usefixtures("in_this_process")
READING = Reading("attempt", REGIONS, PART, "dino")


def box(rows, columns):
    mask = np.zeros((8, 8), bool)
    mask[rows, columns] = True
    return mask


@pytest.fixture
def two_parts():
    """One object whose upper left is its ear and whose upper right is its tail."""
    masks = [box(slice(0, 4), slice(0, 4)), box(slice(0, 4), slice(4, 8))]
    made = [Region(0, number + 1, (encode_mask(mask),)) for number, mask in enumerate(masks)]
    data = AnnotatedImages(["a"], ["object", "ear", "tail"], made, None)
    return PartImages(data, ["ear", "tail"], ["dog", "dog"], [(0, 1), (1, 0)])


def test_scores_by_hand(two_parts):
    cover = two_parts.data.cover((2, 2))
    right = scored(READING, np.array([[[2.0, 1], [0, 0]], [[1, 2], [0, 0]]]), two_parts, cover)
    assert list(right) == COLUMNS and right.part.tolist() == ["ear", "tail"]
    assert right.contrast.tolist() == right.right.tolist() == right.pixel_ap.tolist() == [1, 1]
    assert right.ap_ahead.tolist() == pytest.approx([1 - 1 / 2] * 2)  # the other's pixels come second
    swapped = scored(READING, np.array([[[1.0, 2], [0, 0]], [[2, 1], [0, 0]]]), two_parts, cover)
    assert swapped.contrast.tolist() == [-1, -1] and swapped.right.tolist() == [0, 0]


def test_a_map_that_is_blind_to_the_caption_has_no_contrast_and_is_right_by_halves(two_parts):
    saliency = np.array([[[2.0, 1], [0, 0]]] * 2)
    rows = scored(READING, saliency, two_parts, two_parts.data.cover((2, 2)))
    assert rows.contrast.tolist() == [0, 0] and rows.right.mean() == 0.5
    flat = scored(READING, np.zeros((2, 2, 2)), two_parts, two_parts.data.cover((2, 2)))
    assert flat.right.tolist() == [0.5, 0.5]


def test_heat_below_zero_is_as_good_as_above(two_parts):
    maps = np.array([[[2.0, 1], [0, 0]], [[1, 2], [0, 0]]])
    cover = two_parts.data.cover((2, 2))
    assert scored(READING, maps - 5, two_parts, cover).equals(scored(READING, maps, two_parts, cover))


def rows_of(group, method, stream, values, seed=0):
    own = pd.DataFrame([Reading(group, method, PART, stream, seed)] * len(values))
    return own.assign(
        image=range(len(values)), contrast=values, right=np.array(values) > 0.2, pixel_ap=0.1, ap_ahead=0.0
    )


def test_the_rule_wants_contrast_above_every_control_and_seven_of_ten_right():
    high, low = [0.6, 0.7, 0.8, 0.7] * 10, [0.0, 0.1, 0.3, 0.0] * 10
    report = pd.concat(
        [
            rows_of("attempt", "good", "dino", high),
            rows_of("attempt", "good", "dino", high, seed=1),
            rows_of("attempt", "bad", "dino", low),
            rows_of("control", "noise", "dino", low),
            rows_of("attempt", "good", "clip_img", high),
            rows_of("control", "noise", "clip_img", high),
        ]
    )
    table = summary(report, np.random.default_rng(0))
    assert table.contrast.tolist()[:2] == pytest.approx([0.7, 0.1])
    assert (table.contrast_low < table.contrast).all() and (table.contrast < table.contrast_high).all()
    judged = verdicts(table).set_index(["method", "stream"]).verdict
    assert judged["good", "dino"] == "separates" and judged["bad", "dino"] == "does not"
    assert judged["good", "clip_img"] == "in part"


def test_pictures_in_one_colour_are_judged_among_themselves():
    high, low = [0.6, 0.7, 0.8, 0.7] * 10, [0.0, 0.1, 0.3, 0.0] * 10
    plain = [rows_of("attempt", "a", "dino", high), rows_of("control", "b", "dino", low)]
    report = pd.concat(
        [rows_of("control", "c", "dino", high), *(one.assign(question=ONE_COLOUR) for one in plain)]
    )
    (judged,) = verdicts(summary(report, np.random.default_rng(0))).itertuples()
    assert judged.verdict == "separates" and judged.highest_control < 0.3


class Planted:
    """An encoder whose patches hold, in one direction each, which part of which object they show."""

    patch_grid = (12, 12)


def planted(n, width=64, seed=0):
    """Scenes with features that give the parts away, and texts that name them in other directions."""
    scenes = part_images(DrawnDataset("train", n, seed), n, wholes=True)
    names = {text: place for place, text in enumerate(dict.fromkeys(scenes.data.classes))}
    cover = scenes.data.cover((12, 12))
    draw = torch.Generator().manual_seed(0)
    pictures, texts = (torch.randn(len(names), width, generator=draw) for _ in range(2))
    patches = torch.zeros(len(scenes.data.ids), 144, width)
    concepts = torch.tensor([names[scenes.data.classes[one.concept]] for one in scenes.data.regions])
    for region, own, concept in zip(scenes.data.regions, cover, concepts):
        patches[region.image] += torch.from_numpy(own).flatten()[:, None] * pictures[concept]
    patches += 0.05 * torch.randn(patches.shape, generator=draw)
    image = np.array([one.image for one in scenes.data.regions])
    unit = torch.nn.functional.normalize
    return (
        scenes,
        unit(patches, dim=-1),
        unit(texts[concepts], dim=1),
        unit(texts[[0] * len(concepts)], dim=1),
        image,
        cover,
    )


def test_a_sparc_of_regions_finds_planted_parts_and_with_shuffled_captions_it_does_not(tmp_path):
    scenes, patches, texts, wholes, image, cover = planted(60)
    own = region_features(patches[image], cover)
    smoke = load_profile("smoke")
    sparc = dataclasses.replace(smoke.sparc, n_latents=64, k=4, batch_size=64, epochs=60, learning_rate=3e-3)
    profile = dataclasses.replace(smoke, sparc=sparc, seeds=(0,))
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(1))
    right = {}
    for name, coupled in (("true", texts), ("shuffled", texts[order])):
        features = {"dino": own, "clip_img": own, "clip_txt": coupled}
        ids = [f"{name}-{number}" for number in range(len(own))]
        store = FeatureStore.create(tmp_path / name, features, ids=ids)
        both = {"dino": patches, "clip_img": patches}
        view = View((Planted(), Planted()), scenes, Prompts(texts, wholes), both, image)
        models = region_models(profile, {name: store})[name]
        for make in (patch_maps, decoded_maps):
            maps = {(one.question, one.stream): heat for one, heat in make(view, models, "", "")}
            rows = scored(READING, maps[PART, "dino"], scenes, cover)
            right[name, make] = rows[["contrast", "right"]].mean()
            assert len(list(renamed(make(view, models, "", ""), ONE_COLOUR))) == len(maps) / 2
    for make in (patch_maps, decoded_maps):
        assert right["true", make].contrast > 0.8 and right["true", make].right > 0.9
        assert abs(right["shuffled", make].contrast) < 0.3 and right["shuffled", make].right < 0.7


def test_without_parts_the_report_is_empty(monkeypatch):
    monkeypatch.setattr(
        study, "part_images", lambda data, n: PartImages(AnnotatedImages([], [], [], None), [], [], [])
    )
    report = part_report(load_profile("smoke"))
    assert report.empty and list(report) == COLUMNS
    assert summary(report, np.random.default_rng(0)).empty


def test_the_report_has_every_reading_and_pair_and_is_the_same_again(monkeypatch):
    smoke = load_profile("smoke")
    sizes = dataclasses.replace(smoke.data, train=40, val=16, test=16)
    profile = dataclasses.replace(smoke, data=sizes, seeds=(0,))
    report = part_report(profile)
    keys = ["group", "method", "question", "stream", "seed"]
    counts = report.groupby(keys).size()
    assert counts.nunique() == 1, counts
    assert set(report.stream) == {"dino", "clip_img"}
    methods = report.groupby("method").question.agg(set)
    assert methods[REGIONS] == {CAPTION, PART, NO_COLOUR, ONE_COLOUR} and len(methods) == 16
    mask = report[report.method == MASK]
    assert (mask.right == 1).all() and (mask.contrast > 0.5).all()
    monkeypatch.setattr(study, "View", None)  # not made again
    pd.testing.assert_frame_equal(part_report(profile), report)
    assert regions.SCENES > 40
