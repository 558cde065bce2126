"""The heatmap benchmark of a profile: every method's scores, its two-class scores, and what they allow to say."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from ..attribution.methods import (
    CAPTION,
    RANDOM_WEIGHTS,
    RAW,
    SIMILARITY,
    SUM,
    SUPERVISED,
    UNIFORM,
    UNTRAINED,
    WRONG,
    Benchmark,
    Guide,
    Method,
    benchmark_maps,
    guide,
    supervised_maps,
)
from ..attribution.segmentation import (
    MIN_PIXELS,
    AnnotatedImages,
    annotated_images,
    contrast,
    pointing,
    region_scores,
)
from ..data.catalogue import inputs as pairs_of
from ..nulls import Interval, clustered_interval
from ..profiles import Profile
from .runs import RANDOM, best_device, dataset, encoders, features, trained, untrained
from .sources import code_of
from .stages import stage

REFERENCE_IMAGES = 500  # training scenes whose masks the supervised reference learns from
WITHOUT_MASKS = 100  # images whose heatmaps are made although nothing can score them
KEYS = list(Method._fields)
SCORES = ("iou", "precision", "recall", "pixel_ap", "pointing")


class HeatmapReport(NamedTuple):
    """summary: one row a method with its means over regions, and the mask mAP. regions: one row a method and region.
    pairs: one row a method and ordered pair of classes in a two-class image."""

    summary: pd.DataFrame
    regions: pd.DataFrame
    pairs: pd.DataFrame


def annotated(profile: Profile, split: str, n_images: int) -> AnnotatedImages:
    """The first images of a split with their masks: exact in the miniature world, annotated in COCO. Open Images has
    regions without masks, and at most `WITHOUT_MASKS` images, as their heatmaps can be looked at but not scored."""
    data = dataset(profile, split)
    most = n_images if data.knows_masks else min(n_images, WITHOUT_MASKS)
    return annotated_images(data, most, set(features(profile, split).image_ids), data.least_pixels)


def heatmap_report(profile: Profile, progress: bool = True) -> HeatmapReport:
    """Scores of every method on the test split's first `heatmap_images` images, made once and then reused. Without
    masks all scores are NaN but `not_empty`, the share of heatmaps in which anything is lit.

    Settings: those with cross-reconstruction, all seeds; controls with the first of them. Latents are chosen on the
    training split. The encoders with random weights have a SPARC of their own.
    """
    settings = [setting for setting in profile.settings if setting.cross_weight > 0]
    pair, noise_pair = encoders(profile, device=best_device()), encoders(profile, RANDOM, best_device())
    train, noise = (features(profile, "train", weights, progress) for weights in (None, RANDOM))
    inputs = {
        "profile": profile,
        "dino": pair[0].fingerprint,
        "clip": pair[1].fingerprint,
        "train": train.digest,
        "noise": noise.digest,
        "test": pairs_of(profile, "test"),
        "code": code_of("studies"),
    }

    def build(partial: Path) -> None:
        device, headline, first = best_device(), settings[0], profile.seeds[0]
        guides = [
            guide(
                trained(profile, setting, seed, train, progress=False).model.to(device),
                setting.name,
                seed,
                train,
                profile.evaluation.probe_min_positives,
            )
            for setting in settings
            for seed in profile.seeds
        ]
        fresh, on_noise = (
            Guide(model.to(device).requires_grad_(False), headline.name, first, {})
            for model in (
                untrained(profile, headline, first, train),
                trained(profile, headline, first, noise, progress=False).model,
            )
        )
        data = annotated(profile, "test", profile.evaluation.heatmap_images)
        benchmark = Benchmark(data, profile.data.kind, pair, guides, fresh, noise_pair, on_noise)
        maps = benchmark_maps(benchmark, np.random.default_rng(first), progress)
        masked = annotated(profile, "train", REFERENCE_IMAGES)
        for stream, encoder in zip(("dino", "clip_img"), pair):
            maps[Method("reference", SUPERVISED, stream)] = supervised_maps(encoder, masked, data)
        for name, table in zip(HeatmapReport._fields, _score(maps, data, progress)):
            table.to_csv(partial / f"{name}.csv.partial", index=False, na_rep="nan")
            (partial / f"{name}.csv.partial").rename(partial / f"{name}.csv")

    folder = stage("heatmaps", inputs, build)
    return HeatmapReport(
        *(
            pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=["nan"])
            for name in HeatmapReport._fields
        )
    )


def _score(maps: dict[Method, np.ndarray], data: AnnotatedImages, progress: bool) -> HeatmapReport:
    truth = [] if data.lacks else [region.mask() for region in data.regions]
    cover = {grid: data.cover(grid) for grid in {values.shape[1:] for values in maps.values()}}
    two = np.array(data.two_class(), int).reshape(-1, 2)
    image = np.array([region.image for region in data.regions])
    unknown = dict.fromkeys(SCORES, np.full(len(image), np.nan))
    summary, regions, pairs = [], [], []
    for method, values in tqdm(maps.items(), desc="scores", disable=not progress):
        inside = cover[values.shape[1:]]
        scores, mean_ap = region_scores(values, data, truth, cover) if truth else (unknown, np.nan)
        told = {
            "at_target": pointing(values[two[:, 0]], inside[two[:, 0]]),
            "at_other": pointing(values[two[:, 0]], inside[two[:, 1]]),
            "contrast": contrast(values, inside, two),
        }
        lit = (values.reshape(len(values), -1).max(1) > 0).mean()  # where the target moves with any attention
        summary.append(
            (
                *method,
                mean_ap,
                *(scores[name].mean() for name in SCORES),
                *(part.mean() if len(two) else np.nan for part in told.values()),
                lit,
            )
        )
        regions.append(pd.DataFrame([method] * len(image), columns=KEYS).assign(image=image, **scores))
        pairs.append(pd.DataFrame([method] * len(two), columns=KEYS).assign(image=image[two[:, 0]], **told))
    columns = [*KEYS, "map20", *SCORES, "at_target", "at_other", "contrast", "not_empty"]
    return HeatmapReport(
        pd.DataFrame(summary, columns=columns),
        pd.concat(regions, ignore_index=True),
        pd.concat(pairs, ignore_index=True),
    )


UNKNOWN = Interval(np.nan, np.nan, np.nan)


def paired_difference(
    table: pd.DataFrame, column: str, ours: dict, control: dict, generator: np.random.Generator
) -> Interval:
    """Mean of `column` for the rows `ours` minus that for `control`, seeds averaged first, images resampled.

    table: `regions` or `pairs` of a report. Raises KeyError if either has no row.
    """
    both = []
    for where in (ours, control):
        rows = table[(table[list(where)] == pd.Series(where)).all(axis=1)]
        if rows.empty:
            raise KeyError(f"no heatmaps with {where}")
        seeds = rows.groupby(KEYS, sort=False).ngroups
        both.append(
            (rows[column].to_numpy().reshape(seeds, -1).mean(0), rows.image.to_numpy()[: len(rows) // seeds])
        )
    (a, image), (b, _) = both
    return clustered_interval(a - b, image, generator)


def verdicts(report: HeatmapReport, setting: str, generator: np.random.Generator) -> pd.DataFrame:
    """Claims about heatmaps with rule-computed verdicts: "holds" if the 95 % interval of the difference lies above 0,
    "fails" if below, "not measurable" without a number, else "open". Independent coding of `setting`; seeds are averaged, of controls those there are."""
    first = report.summary[report.summary.setting == setting].seed.iloc[0]
    dino = dict(target=CAPTION, stream="dino", setting=setting, coding="independent")
    image, similarity = dict(dino, stream="clip_img"), dict(target=SIMILARITY, stream="clip_img")
    saliency = dict(target=RAW, stream="dino")
    finds = "a caption finds its object in DINO better than "
    claims = [
        ("dino_wrong_caption", finds + "a wrong caption", "pixel_ap", dino, dict(dino, target=WRONG)),
        (
            "dino_random_encoders",
            finds + "with random encoders",
            "pixel_ap",
            dino,
            dict(dino, target=RANDOM_WEIGHTS),
        ),
        ("dino_untrained", finds + "with an untrained SPARC", "pixel_ap", dino, dict(dino, target=UNTRAINED)),
        ("dino_saliency", finds + "DINO's attention without any text", "pixel_ap", dino, saliency),
        (
            "two_saliency",
            "a caption tells two objects apart in DINO, where saliency scores 0",
            "contrast",
            dino,
            saliency,
        ),
        (
            "two_wrong_caption",
            "a caption tells two objects apart in DINO better than a wrong caption",
            "contrast",
            dino,
            dict(dino, target=WRONG),
        ),
        (
            "clip_similarity",
            "SPARC's caption target beats plain CLIP similarity in the CLIP image",
            "pixel_ap",
            image,
            similarity,
        ),
        (
            "caption_sum",
            "the caption target beats the sum of latents in DINO",
            "pixel_ap",
            dino,
            dict(dino, target=SUM),
        ),
        (
            "attention_weights",
            "gradients weighed by attention beat gradients alone in DINO",
            "pixel_ap",
            dict(dino, seed=first),
            dict(dino, target=UNIFORM),
        ),
    ]
    rows = []
    for key, claim, column, ours, control in claims:
        table = report.pairs if column == "contrast" else report.regions
        found = paired_difference(table, column, ours, control, generator) if len(table) else UNKNOWN
        verdict = (
            "not measurable"
            if np.isnan(found.mean)
            else "holds"
            if found.low > 0
            else "fails"
            if found.high < 0
            else "open"
        )
        rows.append((key, claim, column, *found, verdict))
    return pd.DataFrame(rows, columns=["id", "claim", "measure", *("difference", "low", "high"), "verdict"])
