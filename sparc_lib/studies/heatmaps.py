"""The heatmap benchmark of a profile: every method's scores, and what they allow to say."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from ..attribution import methods
from ..attribution import segmentation as masks
from ..attribution.methods import CAPTION, RAW, Guide, Method
from ..attribution.segmentation import AnnotatedImages
from ..data.catalogue import inputs as pairs_of
from ..nulls import Interval, clustered_interval
from ..profiles import Profile
from .parallel import each
from .runs import RANDOM, best_device, dataset, encoders, features, fingerprints, processes
from .sources import code_of
from .stages import tables_stage
from .tables import Run, model_of

REFERENCE_IMAGES = 500  # training scenes whose masks the supervised reference learns from
WITHOUT_MASKS = 100  # images whose heatmaps are made although nothing can score them
KEYS = list(Method._fields)
SCORES = ("iou", "precision", "recall", "pixel_ap", "pointing")


class HeatmapReport(NamedTuple):
    """summary: a row a method, with its means over regions and the mask mAP. regions: a row a method and
    region. pairs: a row a method and ordered pair of classes in a two-class image."""

    summary: pd.DataFrame
    regions: pd.DataFrame
    pairs: pd.DataFrame


def annotated(profile: Profile, split: str, n_images: int) -> AnnotatedImages:
    """The first images of a split with their masks: exact in the miniature world, annotated in COCO. Open
    Images has regions without masks, and at most `WITHOUT_MASKS` images, as their heatmaps can be looked at
    but not scored."""
    data = dataset(profile, split)
    most = n_images if data.knows_masks else min(n_images, WITHOUT_MASKS)
    readable = set(features(profile, split).image_ids)
    return masks.annotated_images(data, most, readable, data.least_pixels)


def heatmap_report(profile: Profile) -> HeatmapReport:
    """Scores of every method on the test split's first `heatmap_images` images, made once and then reused.
    Without masks all scores are NaN but `not_empty`, the share of heatmaps in which anything is lit.

    Settings: those with cross-reconstruction, all seeds; controls with the first of them. Latents are chosen
    on the training split. The encoders with random weights have a SPARC of their own. Raises ValueError for a
    profile without cross-reconstruction.
    """
    settings = [setting for setting in profile.settings if setting.cross_weight > 0]
    if not settings:
        raise ValueError(f"profile {profile.name}: no setting has cross_weight above 0; heatmaps need one")
    first = profile.seeds[0]
    runs = [Run("trained", setting, seed) for setting in settings for seed in profile.seeds]
    controls = [Run(model, settings[0], first) for model in ("untrained", "random encoders")]
    marks = fingerprints(profile)
    train, noise = features(profile, "train"), features(profile, "train", RANDOM)
    inputs = {
        "profile": dataclasses.replace(profile, name="any", description="any"),
        "dino": marks.dino,
        "clip": marks.clip,
        "train": train.digest,
        "noise": noise.digest,
        "test": pairs_of(profile, "test"),
        "code": code_of("studies/heatmaps"),
    }

    def make() -> dict[str, pd.DataFrame]:
        data = annotated(profile, "test", profile.evaluation.heatmap_images)
        absent = methods.absent_classes(data, np.random.default_rng(first))
        world = min(processes(profile, dataset(profile, "test")), max(1, len(data.regions)))
        shares = np.array_split(np.arange(len(data.regions)), world)
        tasks = [(profile, runs, controls, numbers.tolist(), absent) for numbers in shares]
        parts = each(_maps, tasks, "heatmaps", world)
        maps = {method: np.concatenate([part[method] for part in parts]) for method in parts[0]}
        pair = encoders(profile, device=best_device())
        maps |= methods.blind_maps(pair[0].patch_grid, len(data.regions))
        masked = annotated(profile, "train", REFERENCE_IMAGES)
        for stream, encoder in zip(("dino", "clip_img"), pair):
            reference = Method("reference", methods.SUPERVISED, stream)
            maps[reference] = methods.supervised_maps(encoder, masked, data)
        return score(maps, data)._asdict()

    return HeatmapReport(**tables_stage("heatmaps", inputs, make))


def _maps(
    profile: Profile, runs: list[Run], controls: list[Run], numbers: list[int], absent: list[int]
) -> dict[Method, np.ndarray]:
    """The heatmaps of some regions. Networks are built here, in the process and on the device at work."""
    device = best_device()
    train, noise = features(profile, "train"), features(profile, "train", RANDOM)
    guides = []
    for run in runs:
        model = model_of(profile, run, train).to(device)
        more_than = profile.evaluation.probe_min_positives
        guides.append(methods.guide(model, run.setting.name, run.seed, train, more_than))
    untrained, on_noise = (
        Guide(model_of(profile, run, store).to(device).requires_grad_(False), run.setting.name, run.seed, {})
        for run, store in zip(controls, (train, noise))
    )
    benchmark = methods.Benchmark(
        annotated(profile, "test", profile.evaluation.heatmap_images),
        profile.data.kind,
        encoders(profile, device=device),
        guides,
        untrained,
        encoders(profile, RANDOM, device),
        on_noise,
    )
    return methods.region_maps(benchmark, numbers, absent)


def score(maps: dict[Method, np.ndarray], data: AnnotatedImages) -> HeatmapReport:
    """Score the heatmaps {method: [n_regions, rows, columns]}; NaN where the data have no masks."""
    truth = [] if data.lacks else [region.mask() for region in data.regions]
    cover = {grid: data.cover(grid) for grid in {values.shape[1:] for values in maps.values()}}
    two = np.array(data.two_class(), int).reshape(-1, 2)
    image = np.array([region.image for region in data.regions])
    unknown = dict.fromkeys(SCORES, np.full(len(image), np.nan))
    summary, regions, pairs = [], [], []
    for method, values in tqdm(maps.items(), desc="scores"):
        inside = cover[values.shape[1:]]
        scores, mean_ap = masks.region_scores(values, data, truth, cover) if truth else (unknown, np.nan)
        named, other = two[:, 0], two[:, 1]
        both = {
            "at_target": masks.pointing(values[named], inside[named]),
            "at_other": masks.pointing(values[named], inside[other]),
            "contrast": masks.contrast(values, inside, two),
        }
        row = {**method._asdict(), "map20": mean_ap}
        row |= {name: part.mean() for name, part in scores.items()}
        row |= {name: part.mean() if len(two) else np.nan for name, part in both.items()}
        row["not_empty"] = (values.reshape(len(values), -1).max(1) > 0).mean()  # else attention moves nothing
        summary.append(row)
        regions.append(pd.DataFrame([method] * len(image), columns=KEYS).assign(image=image, **scores))
        pairs.append(pd.DataFrame([method] * len(two), columns=KEYS).assign(image=image[named], **both))
    return HeatmapReport(
        pd.DataFrame(summary), pd.concat(regions, ignore_index=True), pd.concat(pairs, ignore_index=True)
    )


UNKNOWN = Interval(np.nan, np.nan, np.nan)


def paired_difference(
    table: pd.DataFrame, column: str, ours: dict, control: dict, generator: np.random.Generator
) -> Interval:
    """Mean of `column` for the rows `ours` minus that for `control`, seeds averaged first, images resampled.

    table: `regions` or `pairs` of a report. Raises KeyError if either has no row.
    """
    values, image = _seed_means(table, column, ours)
    control_values, _ = _seed_means(table, column, control)
    return clustered_interval(values - control_values, image, generator)


def _seed_means(table: pd.DataFrame, column: str, where: dict) -> tuple[np.ndarray, np.ndarray]:
    """(`column` of the rows `where` holds, mean over seeds, [n]; the image of each, [n])."""
    rows = table[(table[list(where)] == pd.Series(where)).all(axis=1)]
    if rows.empty:
        raise KeyError(f"no heatmaps with {where}")
    n_seeds = rows.groupby(KEYS, sort=False).ngroups
    means = rows[column].to_numpy().reshape(n_seeds, -1).mean(0)
    return means, rows.image.to_numpy()[: len(means)]


class Comparison(NamedTuple):
    """A claim: `ours` has a higher `measure` than `control`; both are values of columns that choose rows."""

    id: str
    claim: str
    measure: str
    ours: dict
    control: dict


def comparisons(setting: str, first_seed: int) -> list[Comparison]:
    """The claims about heatmaps with independent codes of `setting`."""
    dino = dict(target=CAPTION, stream="dino", setting=setting, coding="independent")
    wrong = dict(dino, target=methods.WRONG)
    saliency = dict(target=RAW, stream="dino")
    image, similarity = dict(dino, stream="clip_img"), dict(target=methods.SIMILARITY, stream="clip_img")
    noise, untrained = dict(dino, target=methods.RANDOM_WEIGHTS), dict(dino, target=methods.UNTRAINED)
    finds = "a caption finds its object in DINO better than "
    tells = "a caption tells two objects apart in DINO"
    plain = "SPARC's caption target beats plain CLIP similarity in the CLIP image"
    latents = "the caption target beats the sum of latents in DINO"
    weighed = "gradients weighed by attention beat gradients alone in DINO"
    one_seed = dict(dino, seed=first_seed)
    return [
        Comparison("dino_wrong_caption", finds + "a wrong caption", "pixel_ap", dino, wrong),
        Comparison("dino_random_encoders", finds + "with random encoders", "pixel_ap", dino, noise),
        Comparison("dino_untrained", finds + "with an untrained SPARC", "pixel_ap", dino, untrained),
        Comparison("dino_saliency", finds + "DINO's attention without any text", "pixel_ap", dino, saliency),
        Comparison("two_saliency", tells + ", where saliency scores 0", "contrast", dino, saliency),
        Comparison("two_wrong_caption", tells + " better than a wrong caption", "contrast", dino, wrong),
        Comparison("clip_similarity", plain, "pixel_ap", image, similarity),
        Comparison("caption_sum", latents, "pixel_ap", dino, dict(dino, target=methods.SUM)),
        Comparison("attention_weights", weighed, "pixel_ap", one_seed, dict(dino, target=methods.UNIFORM)),
    ]


def verdicts(report: HeatmapReport, setting: str, generator: np.random.Generator) -> pd.DataFrame:
    """Judge the `comparisons`: id, claim, measure, difference and its 95 % interval over images, verdict.

    "holds" if the interval of the difference lies above 0, "fails" if below, "not measurable" without a
    number, else "open". Seeds are averaged, of controls those there are.
    """
    first = report.summary[report.summary.setting == setting].seed.iloc[0]
    rows = []
    for one in comparisons(setting, first):
        table = report.pairs if one.measure == "contrast" else report.regions
        interval = UNKNOWN
        if len(table):
            interval = paired_difference(table, one.measure, one.ours, one.control, generator)
        rows.append((one.id, one.claim, one.measure, *interval, _verdict(interval)))
    return pd.DataFrame(rows, columns=["id", "claim", "measure", "difference", "low", "high", "verdict"])


def _verdict(difference: Interval) -> str:
    if np.isnan(difference.mean):
        return "not measurable"
    if difference.low > 0:
        return "holds"
    return "fails" if difference.high < 0 else "open"
