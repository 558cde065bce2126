"""The heatmap benchmark on a handful of scenes: complete, comparable, repeatable, with rules that hold."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from sparc_lib import SPARC, FeatureStore
from sparc_lib.attribution.methods import (
    CAPTION,
    CAPTION_SUM,
    GAUSSIAN,
    NAMED,
    RANDOM_WEIGHTS,
    RAW,
    SIMILARITY,
    STREAMS,
    SUM,
    UNIFORM,
    UNTRAINED,
    WHOLE,
    WRONG,
    Benchmark,
    Guide,
    Method,
    absent_classes,
    blind_maps,
    centred_gaussian,
    guide,
    prompt,
    region_maps,
    sparc_maps,
    supervised_maps,
)
from sparc_lib.attribution.relevance import encode_traces, heatmap, trace_pairs
from sparc_lib.attribution.segmentation import annotated_images, pixel_ap
from sparc_lib.attribution.words import hit_difference, word_scores
from sparc_lib.data.drawn import DrawnDataset
from sparc_lib.features.encoders import ClipEncoder, DinoEncoder
from sparc_lib.paths import WEIGHTS
from sparc_lib.profiles import load_profile
from sparc_lib.studies.heatmaps import (
    KEYS,
    SCORES,
    HeatmapReport,
    heatmap_report,
    paired_difference,
    score,
    verdicts,
)


@pytest.fixture(scope="module")
def pair():
    return DinoEncoder(WEIGHTS / "dino"), ClipEncoder(f"local-dir:{WEIGHTS / 'clip'}")


@pytest.fixture(scope="module")
def data():
    return annotated_images(DrawnDataset("test", 12), 12, min_pixels=40)


def a_guide(pair, data, gate, seed, setting):
    dims = {"dino": pair[0].dim, "clip_img": pair[1].dim, "clip_txt": pair[1].dim}
    model = SPARC(dims, 128, 16, gate, generator=torch.Generator().manual_seed(seed)).requires_grad_(False)
    table = np.random.default_rng(seed).random((len(data.classes), 128)) < 0.3
    return Guide(model, setting, seed, {target: dict.fromkeys(STREAMS, table) for target in (SUM, NAMED)})


@pytest.fixture(scope="module")
def benchmark(pair, data):
    guides = [
        a_guide(pair, data, gate, seed, f"{gate}_lambda1") for gate in ("global", "local") for seed in (0, 1)
    ]
    random_pair = (
        DinoEncoder(WEIGHTS / "dino", random_weights=1),
        ClipEncoder(f"local-dir:{WEIGHTS / 'clip'}", random_weights=1),
    )
    return Benchmark(data, "miniworld", pair, guides, guides[0], random_pair, guides[0])


@pytest.fixture(scope="module")
def maps(benchmark, data):
    absent = absent_classes(data, np.random.default_rng(0))
    maps = region_maps(benchmark, range(len(data.regions)), absent)
    return maps | blind_maps(benchmark.pair[0].patch_grid, len(data.regions))


@pytest.fixture(scope="module")
def report(maps, data):
    return score(maps, data)


def test_maps_do_not_depend_on_batches_or_shares(benchmark, maps, data, monkeypatch):
    absent = absent_classes(data, np.random.default_rng(0))
    monkeypatch.setattr("sparc_lib.attribution.methods.BATCH", 8)
    shares = [
        region_maps(benchmark, numbers.tolist(), absent)
        for numbers in np.array_split(np.arange(len(data.regions)), 2)
    ]
    for method, one in shares[0].items():
        np.testing.assert_allclose(
            np.concatenate([one, shares[1][method]]), maps[method], rtol=1e-3, atol=1e-6
        )


def test_every_method_covers_every_region(maps, data):
    assert all(
        values.shape == (len(data.regions), 12, 12) and np.isfinite(values).all() for values in maps.values()
    )
    have = lambda **where: [m for m in maps if all(getattr(m, k) == v for k, v in where.items())]  # noqa: E731
    for gate, codings in (("global", 2), ("local", 1)):  # codings differ for one gate only
        assert len(have(group="SPARC", target=CAPTION, setting=f"{gate}_lambda1")) == codings * 2 * 2
        assert len(have(group="SPARC", target=NAMED, setting=f"{gate}_lambda1")) == 2 * 2
    assert len(have(target=WRONG)) == 2 * 2 and len(have(target=SIMILARITY)) == 1
    assert len(have(target=RANDOM_WEIGHTS)) == 2
    joint, alone = (
        maps[Method("SPARC", CAPTION, "dino", "global_lambda1", coding, 0)]
        for coding in ("joint", "independent")
    )
    assert not np.allclose(joint, alone)


def test_the_latents_of_a_caption_are_those_its_code_holds_whatever_their_strength(pair, data):
    one, region = a_guide(pair, data, "local", 0, "local_lambda1"), data.regions[0]
    traces = trace_pairs(
        *pair, [data.image(region.image)], [prompt(data.classes[region.concept], "miniworld")]
    )
    made = sparc_maps(one, traces, torch.tensor([region.concept]), "independent", (CAPTION_SUM,))
    codes = encode_traces(one.model, traces, "independent")
    told = codes["clip_txt"].indices[0][codes["clip_txt"].values[0] > 0]
    for stream in ("dino", "clip_img"):
        target = codes[stream].dense()[:, told].sum(1)
        assert target > 0
        by_hand = heatmap(traces[stream], target)
        assert torch.allclose(
            made[Method("SPARC", CAPTION_SUM, stream, "local_lambda1", "independent", 0)], by_hand, atol=1e-6
        )


def test_raw_attention_knows_no_class(maps, data, report):
    """Two regions of one image get the same saliency, so it cannot tell them apart."""
    values = maps[Method("control", RAW, "dino")]
    for a, b in data.two_class():
        np.testing.assert_allclose(values[a], values[b], atol=1e-5)
    rows = report.summary.set_index("target").loc[[RAW, GAUSSIAN, WHOLE]]
    assert (rows.contrast.abs() < 0.02).all() and np.allclose(rows.at_target, rows.at_other, atol=0.02)


def test_summary_is_the_mean_of_the_regions(report, data):
    assert len(report.regions) == len(report.summary) * len(data.regions)
    means = report.regions.groupby(KEYS, sort=False)[list(SCORES)].mean().reset_index()
    pd.testing.assert_frame_equal(means[list(SCORES)], report.summary[list(SCORES)])
    assert report.summary.map20.between(0, 1).all()


def test_without_masks_only_emptiness_is_measured(maps, data):
    """Every method has its row, and no score in it."""
    bare = data._replace(regions=[region._replace(instances=()) for region in data.regions])
    found = score(maps, bare)
    numbers = found.summary.drop(columns=KEYS)
    assert numbers.drop(columns="not_empty").isna().all(axis=None) and numbers.not_empty.between(0, 1).all()
    assert len(found.regions) == len(found.summary) * len(data.regions) and len(found.pairs)


def test_absent_classes_are_absent(data):
    for region, other in zip(data.regions, absent_classes(data, np.random.default_rng(3))):
        assert other not in {r.concept for r in data.regions if r.image == region.image}


def test_supervised_reference_learns_from_masks(pair, data):
    """On its own training scenes it beats a bell in the middle by far; a class it never saw gets nothing."""
    values = supervised_maps(pair[1], data, data)
    cover = data.cover((12, 12))
    assert values.shape == cover.shape and values.min() >= 0 and values.max() <= 1
    bell = np.broadcast_to(centred_gaussian((12, 12)), cover.shape)
    assert pixel_ap(values, cover).mean() > pixel_ap(bell, cover).mean() + 0.2
    classes = {region.concept for region in data.regions if region.image > 0}
    alone = [i for i, region in enumerate(data.regions) if region.concept not in classes]
    rest = data._replace(regions=[region for region in data.regions if region.image > 0])
    assert alone and not supervised_maps(pair[1], rest, data)[alone].any()


def test_supervised_reference_without_masks_is_empty(pair, data):
    bare = data._replace(regions=[region._replace(instances=()) for region in data.regions])
    assert supervised_maps(pair[1], bare, bare).shape == (len(data.regions), 12, 12)
    assert not supervised_maps(pair[1], bare, bare).any()


def test_guide_chooses_latents_on_the_store_it_is_given(tmp_path):
    """More than 5 of a class's samples must activate a latent; every stream has its own choice."""
    rng, labels = np.random.default_rng(0), np.zeros((60, 2), bool)
    labels[:20, 0] = labels[20:24, 1] = True
    features = {s: rng.normal(size=(60, d)).astype(np.float32) for s, d in zip(STREAMS, (6, 5, 5))}
    store = FeatureStore.create(
        tmp_path / "s", features, ids=[str(i) for i in range(60)], labels=labels, classes=["A", "B"]
    )
    model = SPARC(store.dims, 16, 4, generator=torch.Generator().manual_seed(0))
    made = guide(model, "g", 0, store, 5)
    active = {
        s: (code.dense() > 0).numpy() for s, code in model.encode(store.tensors(), "independent").items()
    }
    for stream in STREAMS:
        wanted = np.array([(active[stream] & labels[:, [c]]).sum(0) > 5 for c in range(2)])
        assert np.array_equal(made.latents[SUM][stream], wanted) and not wanted[1].any() and wanted[0].any()
        assert made.latents[NAMED][stream].sum(0).max() <= 1  # a latent has one name at most
    assert not any(p.requires_grad for p in made.model.parameters())


def test_word_scores_count_captions_that_name_the_class(pair, data):
    captions = [
        "In this image there is a "
        + " and a ".join(data.classes[r.concept].lower() for r in data.regions if r.image == i)
        + "."
        for i in range(len(data.ids))
    ]
    captions[0] = "There is a wall."  # names nothing: its regions do not count
    rows = word_scores(data, captions, pair, a_guide(pair, data, "global", 0, "g"))
    per_target = rows.groupby("target")
    assert per_target.size().nunique() == 1 and set(rows.image) == {r.image for r in data.regions} - {0}
    assert rows[["hit", "share"]].stack().between(0, 1).all() and (rows.share[rows.target == RAW] > 0).all()
    one = rows[rows.target == SIMILARITY].iloc[0]
    assert one.chance == pytest.approx(1 / (len(captions[one.image].split()) + 1))  # the full stop is a word


def test_hits_are_compared_caption_by_caption():
    """Better by one hit in each of ten captions, one of which names two classes."""
    image = [*range(10), 9]
    table = pd.concat(
        [
            pd.DataFrame({"target": target, "image": image, "hit": hit})
            for target, hit in (("a", 1.0), ("b", 0.0))
        ]
    )
    assert hit_difference(table, "a", "b", np.random.default_rng(0)) == (1, 1, 1)
    table.loc[(table.target == "b") & (table.image < 5), "hit"] = 1.0
    mean, low, high = hit_difference(table, "a", "b", np.random.default_rng(0))
    assert mean == pytest.approx(6 / 11) and 0 < low < mean < high < 1


def test_prompts():
    assert prompt("Dog", "miniworld") == "In this image there is a dog."
    assert prompt("Owl", "coco") == "a photo of an owl"


def planted(gap):
    """A report of 40 images, two regions each, in which ours exceeds the controls by `gap` ± noise."""
    rng, rows = np.random.default_rng(0), []
    controls = [dict(target=t, stream="dino") for t in (WRONG, RAW, UNIFORM, UNTRAINED, RANDOM_WEIGHTS, SUM)]
    controls += [dict(target=CAPTION, stream="clip_img"), dict(target=SIMILARITY, stream="clip_img")]
    for where, shift in [(dict(target=CAPTION, stream="dino"), gap)] + [(c, 0.0) for c in controls]:
        for seed in (0, 1):
            bare = where["target"] in (RAW, SIMILARITY)
            key = dict(
                group="x",
                setting="" if bare else "g",
                coding="" if bare else "independent",
                seed=seed,
                **where,
            )
            if bare and seed:
                continue
            rows.append(
                pd.DataFrame(
                    {
                        "image": np.repeat(np.arange(40), 2),
                        "pixel_ap": shift + 0.05 * rng.random(80),
                        "contrast": shift + 0.05 * rng.random(80),
                    }
                ).assign(**key)
            )
    table = pd.concat(rows, ignore_index=True)
    return HeatmapReport(table, table, table)


@pytest.mark.parametrize("gap, verdict", [(0.2, "holds"), (-0.2, "fails"), (0.0, "open")])
def test_verdicts_follow_the_interval(gap, verdict):
    found = verdicts(planted(gap), "g", np.random.default_rng(0)).set_index("claim")
    ours = found[~found.index.str.contains("CLIP image")]
    assert (ours.verdict == verdict).all() or gap == 0 and (ours.verdict == verdict).sum() >= 6
    assert ((ours.low <= ours.difference) & (ours.difference <= ours.high)).all()
    assert ours.difference.to_numpy() == pytest.approx(gap, abs=0.02)


def test_no_verdict_without_numbers():
    table = planted(0.2).regions.assign(pixel_ap=np.nan)
    for pairs in (table.assign(contrast=np.nan), table[:0]):  # no masks; no image of two classes
        found = verdicts(HeatmapReport(table, table, pairs), "g", np.random.default_rng(0))
        assert set(found.verdict) == {"not measurable"} and found.difference.isna().all()


def test_missing_heatmaps_are_named():
    with pytest.raises(KeyError, match="nothing"):
        paired_difference(
            planted(0).regions, "pixel_ap", dict(target="nothing"), dict(target=RAW), np.random.default_rng(0)
        )


def test_empty_methods_are_told_apart(data):
    """A map without any relevance scores as the whole image and is counted as empty."""
    empty = {
        Method("SPARC", SUM): np.zeros((len(data.regions), 12, 12), np.float32),
        Method("control", WHOLE): np.ones((len(data.regions), 12, 12), np.float32),
    }
    summary = score(empty, data).summary
    assert summary.not_empty.tolist() == [0, 1] and summary.iou[0] == summary.iou[1]


def test_a_profile_without_cross_reconstruction_is_refused():
    smoke = load_profile("smoke")
    apart = [setting for setting in smoke.settings if setting.cross_weight == 0]
    with pytest.raises(ValueError, match="profile smoke: no setting has cross_weight above 0"):
        heatmap_report(dataclasses.replace(smoke, settings=tuple(apart)))
