"""Puts the page together: reads every setting, chooses what fits, explains it, fills the template."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

from ... import paths
from ...concepts import CaptionWords
from ...data.knowledge import Vocabulary, vocabulary
from ...data.pairs import PairedDataset
from ...evaluation import encode_store
from ...features.encoders import ClipEncoder, DinoEncoder
from ...files import aside
from ...model import SPARC
from ...profiles import Profile, Setting
from ...store.reader import FeatureStore
from ...studies import runs
from ..style import setting_colour, setting_name, stream_colour, stream_name
from .latents import (
    LEAST,
    SCENES,
    Reading,
    described,
    neighbours,
    read_latents,
    tellers,
)
from .maps import Requests, caption_pieces, patch_maps, word_maps

log = logging.getLogger(__name__)
TEMPLATE = Path(__file__).with_name("template.html")
PLACE = "<!-- DATA -->"  # in the template
MOST_LATENTS = 1024  # of a setting under a coding
MOST_BYTES = 26_000_000  # of pictures and maps; the whole page stays under 30 MB
WORD_BYTES = 30  # about, of a caption's map
SIDE, QUALITY = 128, 55  # pixels of a thumbnail (fewer where the image has fewer) and quality of its WebP


@dataclass
class Part:
    """A setting under a coding. scenes, of what is shown: {latent: {stream: store rows, strongest first}}."""

    setting: Setting
    coding: str
    model: SPARC
    reading: Reading
    scenes: dict[int, dict[str, np.ndarray]] = field(default_factory=dict)

    def shown(self, stream: str) -> list[tuple[int, int]]:
        """(latent, store row) of every scene shown in a stream."""
        return [(latent, int(row)) for latent, rows in self.scenes.items() for row in rows[stream]]


class Sources(NamedTuple):
    """Where scenes come from. places: of the store's rows in the data set. towers: encoders by stream."""

    store: FeatureStore
    words: Vocabulary
    data: PairedDataset
    places: list[int]
    towers: dict[str, DinoEncoder | ClipEncoder]


def build(profile: Profile) -> Path:
    """Write `results/<profile>/browser/index.html` and return its path.

    Features and models are the notebooks' (first seed), built on first use. The page loads nothing: it opens
    from a disk, offline. Where more latents are alive than fit, half of those shown are the ones whose
    streams agree best, and half are spread evenly over the others.
    """
    train_store = runs.features(profile, "train")
    store = runs.features(profile, "test")
    data = runs.dataset(profile, "test")
    dino, clip = runs.encoders(profile, device=runs.best_device())
    place = {identity: number for number, identity in enumerate(data.ids)}
    towers = {"dino": dino, "clip_img": clip, "clip_txt": clip}
    words = vocabulary(data).of(store.ids)
    sources = Sources(store, words, data, [place[identity] for identity in store.ids], towers)
    parts = _read(profile, train_store, sources)
    pictures = _choose(parts, sources)
    rows = _rows(parts)
    blocks: dict[str, object] = {"meta": _meta(profile, parts, sources), "pictures": list(pictures.values())}
    blocks["pairs"] = _pairs(rows, list(pictures), sources)
    blocks |= _latent_blocks(parts, rows, sources)
    return _write(profile, blocks)


def _read(profile: Profile, train_store: FeatureStore, sources: Sources) -> list[Part]:
    parts = []
    for setting in profile.settings:
        model = runs.trained(profile, setting, profile.seeds[0], train_store).model.requires_grad_(False)
        # under the local gate both codings are the same
        for coding in ("independent", "joint") if setting.gate == "global" else ("independent",):
            reading = read_latents(
                encode_store(model, sources.store, coding), sources.words, sources.store.labels
            )
            parts.append(Part(setting, coding, model, reading))
    return parts


def _choose(parts: Sequence[Part], sources: Sources) -> dict[str, str]:
    """Choose latents and their scenes, half as many until they fit; returns {image id: thumbnail}."""
    store, pictures, most = sources.store, {}, MOST_LATENTS
    while True:
        for part in parts:
            latents = part.reading.chosen(most)
            part.scenes = {latent: part.reading.strongest(latent, store.image_ids) for latent in latents}
        shown = {store.image_ids[row]: row for row in _rows(parts)}
        for image, row in shown.items():
            if image not in pictures:
                pictures[image] = _thumbnail(sources.data.image(sources.places[row]))
        size = sum(len(pictures[image]) for image in shown)
        for stream, tower in sources.towers.items():
            rows, columns = tower.patch_grid
            map_bytes = WORD_BYTES if stream == "clip_txt" else 4 * -(-rows * columns // 6)
            size += map_bytes * sum(len(part.shown(stream)) for part in parts)
        if size <= MOST_BYTES:
            return {image: pictures[image] for image in shown}
        log.info("%d latents a setting make %.0f MB: half as many are shown", most, size / 1e6)
        most //= 2


def _rows(parts: Sequence[Part]) -> list[int]:
    """All store rows that are shown, ascending."""
    return sorted({row for part in parts for stream in part.reading.codes for _, row in part.shown(stream)})


def _thumbnail(picture: Image.Image) -> str:
    """The square in the middle, as high or wide as the image, small; base64 of a WebP."""
    side = min(SIDE, *picture.size)
    file = BytesIO()
    ImageOps.fit(picture.convert("RGB"), (side, side)).save(file, "WEBP", quality=QUALITY)
    return base64.b64encode(file.getvalue()).decode()


def _pairs(rows: Sequence[int], images: Sequence[str], sources: Sources) -> list[list]:
    """[number of the image, terms that are true of it, caption with a tab behind every word] of every row."""
    store, clip = sources.store, sources.towers["clip_txt"]
    number = {image: place for place, image in enumerate(images)}
    pairs = []
    for row in rows:
        caption = "\t".join(caption_pieces(clip, store.captions[row]))
        pairs.append([number[store.image_ids[row]], sources.words.true[[row]].indices.tolist(), caption])
    return pairs


def _latent_blocks(parts: Sequence[Part], rows: Sequence[int], sources: Sources) -> dict[str, list]:
    """{"setting.coding": latents with facts, scenes and maps, "setting.coding.best": who tells what best}."""
    store, maps = sources.store, _explain(parts, sources)
    captions = CaptionWords.of(store.captions)
    number = {row: place for place, row in enumerate(rows)}
    blocks = {}
    for part in parts:
        entries = []
        for (latent, by_stream), near in zip(part.scenes.items(), neighbours(part.reading, [*part.scenes])):
            entry = described(part.reading, latent, captions) | {"b": near}
            for (stream, shown), facts in zip(by_stream.items(), entry["s"]):
                values = part.reading.codes[stream][:, [latent]].tocsr()[shown].toarray().ravel()
                facts["k"] = [number[row] for row in shown.tolist()]
                facts["m"] = [maps[stream, part.setting.name, latent, row] for row in shown.tolist()]
                facts["v"] = np.round(100 * values / max(values.max(initial=0), 1e-30)).astype(int).tolist()
            entries.append(entry)
        name = f"{part.setting.name}.{part.coding}"
        blocks[name] = entries
        blocks[f"{name}.best"] = tellers(part.reading, [*part.scenes], sources.words)
    return blocks


def _explain(parts: Sequence[Part], sources: Sources) -> dict[tuple[str, str, int, int], str]:
    """{(stream, setting, latent, store row): map} of every scene shown; codings share theirs."""
    models = {part.setting.name: part.model for part in parts}
    maps = {}
    for stream, tower in sources.towers.items():
        wanted = sorted({(part.setting.name, *scene) for part in parts for scene in part.shown(stream)})
        first = {name: number * model.n_latents for number, (name, model) in enumerate(models.items())}
        latents = [first[name] + latent for name, latent, _ in wanted]
        directions = torch.cat([model.encoder[stream] for model in models.values()])
        requests = Requests([row for _, _, row in wanted], latents, directions)
        if stream == "clip_txt":
            texts = word_maps(tower, sources.store.captions, requests)
        else:
            texts = patch_maps(tower, sources.data, sources.places, requests)
        maps |= {(stream, *key): text for key, text in zip(wanted, texts)}
    return maps


def _meta(profile: Profile, parts: Sequence[Part], sources: Sources) -> dict:
    """What the page says before a latent is chosen."""
    words, sizes = sources.words, profile.encoders.dino
    streams, settings = [], {}
    for stream, tower in sources.towers.items():
        facts = {"key": stream, "name": stream_name(stream), "colour": stream_colour(stream)}
        facts["grid"] = [] if stream == "clip_txt" else list(tower.patch_grid)
        facts["crop"] = sizes.image_size / sizes.resize if stream == "dino" else 1
        streams.append(facts)
    for part in parts:
        name = part.setting.name
        look = {"name": setting_name(name), "colour": setting_colour(name)}
        settings.setdefault(name, {"key": name, "gate": part.setting.gate, "counts": {}} | look)
        settings[name]["counts"][part.coding] = part.reading.counts()
    return {
        "profile": profile.name,
        "drawn": profile.data.kind == "miniworld",
        "samples": len(sources.store),
        "seed": profile.seeds[0],
        "least": LEAST,
        "scenes": SCENES,
        "terms": words.terms,
        "kinds": words.kinds,
        "base": [round(100 * float(share), 1) for share in np.asarray(words.true.mean(0)).ravel()],
        "streams": streams,
        "settings": list(settings.values()),
    }


def _write(profile: Profile, blocks: dict[str, object]) -> Path:
    """The template with every block as a JSON script element."""
    scripts = []
    for name, block in blocks.items():
        text = json.dumps(block, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
        scripts.append(f'<script type="application/json" id="{name}">{text}</script>')
    file = paths.results_dir(profile.name) / "browser" / "index.html"
    with aside(file) as partial:
        page = TEMPLATE.read_text(encoding="utf-8").replace(PLACE, "\n".join(scripts))
        partial.write_text(page, encoding="utf-8")
    log.info("%s  %.1f MB", file, file.stat().st_size / 1e6)
    return file
