"""The latent browser: the page holds what codes and attribution say, and works in a real browser."""

import base64
import dataclasses
import json
import re
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
from chromium import browser  # noqa: F401 (a fixture)
from PIL import Image
from small_profiles import encoder_dirs, shrunk  # noqa: F401 (fixtures)

from sparc_lib.attribution.relevance import explain, word_relevance, words_of
from sparc_lib.concepts import NO_NAME, fact_scores
from sparc_lib.data.knowledge import Vocabulary, vocabulary
from sparc_lib.evaluation import encode_store
from sparc_lib.miniworld.facts import all_facts
from sparc_lib.miniworld.names import display_names
from sparc_lib.notebook.browser import build, maps, page
from sparc_lib.notebook.browser.latents import LEAST, Reading, names_of
from sparc_lib.profiles import load_profile
from sparc_lib.studies import runs

STREAMS = ("dino", "clip_img", "clip_txt")
BLOCK = re.compile(r'<script type="application/json" id="([^"]+)">(.*?)</script>', re.DOTALL)


def blocks_of(text):
    return {name: json.loads(block) for name, block in BLOCK.findall(text)}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The page of a shrunk smoke profile, with the store and the first model behind it."""
    root = tmp_path_factory.mktemp("browser")
    smoke = load_profile("smoke")
    profile = dataclasses.replace(
        smoke,
        data=dataclasses.replace(smoke.data, train=160, test=80),
        sparc=dataclasses.replace(smoke.sparc, n_latents=64, epochs=8),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARC_DATA", str(root / "data"))
        patch.setenv("SPARC_OUTPUT", str(root / "output"))
        file = build(profile)
        store = runs.features(profile, "test")
        model = runs.trained(profile, profile.settings[0], 0, runs.features(profile, "train")).model
    text = file.read_text(encoding="utf-8")
    return SimpleNamespace(
        profile=profile, file=file, text=text, blocks=blocks_of(text), store=store, model=model
    )


def test_the_page_is_small_and_loads_nothing(built):
    assert built.file.parts[-4:] == ("results", "smoke", "browser", "index.html")
    assert len(built.text) < 5e6
    frame = BLOCK.sub("", built.text)
    assert page.PLACE not in frame
    for sign in (
        "http:",
        "https:",
        "//cdn",
        "url(",
        "@import",
        "fetch(",
        "import(",
        " src=",
        "XMLHttpRequest",
    ):
        assert sign not in frame
    assert re.findall(r"<link[^>]*>", frame) == ['<link rel="icon" href="data:,">']


def test_every_setting_and_coding_has_its_latents(built):
    meta = built.blocks["meta"]
    counts = {(one["key"], coding) for one in meta["settings"] for coding in one["counts"]}
    assert {f"{setting}.{coding}" for setting, coding in counts} <= built.blocks.keys()
    assert ("global_lambda1", "joint") in counts and ("local_lambda1", "joint") not in counts
    pairs, pictures = built.blocks["pairs"], built.blocks["pictures"]
    assert {image for image, _, _ in pairs} == set(range(len(pictures)))
    for picture in pictures:
        assert Image.open(BytesIO(base64.b64decode(picture))).size == (96, 96)


def test_facts_and_scenes_are_those_of_the_codes(built):
    codes = encode_store(built.model, built.store, "independent")
    latents = built.blocks["global_lambda1.independent"]
    pairs = built.blocks["pairs"]
    fires = {stream: np.asarray((codes[stream] > 0).sum(0)).ravel() for stream in STREAMS}
    assert {one["n"] for one in latents} == set(np.flatnonzero(np.max([*fires.values()], axis=0) >= LEAST))
    assert [one["a"] for one in latents] == sorted((one["a"] for one in latents), reverse=True)
    for one in latents:
        for stream, facts in zip(STREAMS, one["s"]):
            column = codes[stream][:, one["n"]].toarray().ravel()
            assert facts["f"] == (column > 0).sum() == fires[stream][one["n"]]
            assert facts["z"] == pytest.approx(column.max(), abs=1e-3)
            assert facts["v"] == sorted(facts["v"], reverse=True)
            if facts["f"]:
                best = int(column.argmax())
                _, terms, caption = pairs[facts["k"][0]]
                assert caption.replace("\t", "") == built.store.captions[best]
                classes = [all_facts()[term].value for term in terms if all_facts()[term].kind == "class"]
                labelled = built.store.labels[[best]].indices
                names = {display_names()[f"/w/{name}"] for name in classes}
                assert names == {built.store.classes[column] for column in labelled}
        shares = one["b"][1::2]
        assert shares == sorted(shares, reverse=True) and latents[one["b"][0]]["n"] != one["n"]


def test_the_latents_that_tell_a_fact_best_are_those_of_the_highest_f1(built):
    codes = encode_store(built.model, built.store, "independent")
    shown = [one["n"] for one in built.blocks["global_lambda1.independent"]]
    data = runs.dataset(built.profile, "test")
    true = vocabulary(data).of(built.store.ids).true
    scores = np.array([fact_scores(codes[stream], true)[:, shown] for stream in STREAMS])
    best = built.blocks["global_lambda1.independent.best"]
    assert len(best) == len(built.blocks["meta"]["terms"]) == true.shape[1]
    for term, entry in enumerate(best):
        rows = [entry[start : start + 4] for start in range(0, len(entry), 4)]
        means = [scores[:, term, place].mean() for place, *_ in rows]
        assert means == sorted(means, reverse=True)
        assert not rows or means[0] == scores[:, term].mean(0).max() > 0
        for place, *percent in rows:
            np.testing.assert_allclose(percent, 100 * scores[:, term, place], atol=0.5)


def test_maps_are_the_attention_relevance_of_the_latent(built):
    dino, clip = runs.encoders(built.profile)
    data = runs.dataset(built.profile, "test")
    checked = 0
    for one in built.blocks["global_lambda1.independent"][:6]:
        for stream, facts in zip(STREAMS, one["s"]):
            for pair, text in list(zip(facts["k"], facts["m"]))[:2]:
                caption = built.blocks["pairs"][pair][2].replace("\t", "")
                row = built.store.captions.index(caption)
                image = data.image(data.ids.index(built.store.ids[row]))
                explained = explain(built.model, (dino, clip), [image], [caption])
                values = explained.concept(stream, [one["n"]])[0]
                if stream == "clip_txt":
                    values = word_relevance(words_of(clip, caption), values)
                    levels = [int(digit, 16) for digit in text]
                    expected = 15 * values / values.max()
                else:
                    packed = np.frombuffer(base64.b64decode(text), np.uint8)
                    levels = np.stack([packed >> 4, packed & 15], axis=1).ravel()
                    top = np.quantile(values, 1 - maps.CUT)
                    expected = 15 * np.sqrt(np.clip(values.ravel() / top, 0, 1))
                np.testing.assert_allclose(levels, expected, atol=0.52)  # rounding, and float32
                checked += 1
    assert checked > 20


def test_captions_are_cut_behind_words():
    clip = runs.encoders(load_profile("smoke"))[1]
    caption = "In this image there is a Cat, beside a red ball."
    pieces = maps.caption_pieces(clip, caption)
    assert "".join(pieces) == caption and " Cat" in pieces
    assert len(pieces) == len(words_of(clip, caption)) + 1


def test_a_stream_names_nothing_after_a_few_samples():
    labels = sp.csr_array(np.repeat(np.eye(8, dtype=bool), 10, axis=0))
    codes = np.zeros((80, 2), np.float32)
    codes[:LEAST, 0], codes[: LEAST - 1, 1] = 1, 1
    names = names_of({"dino": sp.csr_matrix(codes)}, Vocabulary(list("abcdefgh"), ["class"] * 8, labels, []))
    assert names.named["dino"].tolist() == [0, NO_NAME]


def test_half_of_the_latents_shown_agree_best_and_the_others_are_spread():
    reading = Reading(*[None] * 7, ranked=np.arange(100))
    assert reading.chosen(100) == list(range(100))
    chosen = reading.chosen(10)
    assert chosen[:5] == [0, 1, 2, 3, 4] and chosen[5] == 5 and chosen[-1] == 99 and len(set(chosen)) == 10


def test_photographs_are_cropped_as_the_encoders_see_them_and_fewer_latents_shown_where_space_is_short(
    shrunk,  # noqa: F811
    monkeypatch,
):
    monkeypatch.setattr(page, "MOST_BYTES", 30_000)
    profile = shrunk("coco")
    text = build(profile).read_text(encoding="utf-8")
    blocks = blocks_of(text)
    setting = blocks["meta"]["settings"][0]["key"]
    alive = runs.trained(profile, profile.settings[0], 0, runs.features(profile, "train")).model.n_latents
    assert 0 < len(blocks[f"{setting}.independent"]) < alive
    assert not blocks["meta"]["drawn"]
    assert [one["crop"] for one in blocks["meta"]["streams"]] == [28 / 32, 1, 1]
    for picture in blocks["pictures"]:
        width, height = Image.open(BytesIO(base64.b64decode(picture))).size
        assert width == height <= page.SIDE


def test_in_a_browser(built, browser):  # noqa: F811
    browser.call("Page.navigate", url=built.file.as_uri())
    browser.until("document.querySelectorAll('main .card').length > 0")
    assert browser.js("document.querySelectorAll('a.census').length") == 6
    title = "document.querySelector('main h1').textContent"

    # search by typing: a term that names a latent
    first = built.blocks["global_lambda1.independent"][0]
    term = built.blocks["meta"]["terms"][first["t"]]
    browser.key("/")
    browser.call("Input.insertText", text=term.lower())
    browser.until("document.querySelector('main h2').textContent.includes('for “')")
    assert browser.js("document.querySelector('.card h3').textContent") == term
    tells = "[...document.querySelectorAll('h2')].filter(head => head.textContent.startsWith('Whose firing'))"
    assert term in browser.js(f"{tells}[0].textContent")
    assert browser.js(f"{tells}[0].parentElement.querySelectorAll('.card').length") > 0
    browser.js("document.querySelector('.card').click()")
    browser.until("document.querySelector('article.latent') !== null")
    assert browser.js(title) == term
    assert browser.js("document.querySelectorAll('section.stream').length") == 3
    assert browser.js("[...document.images].every(image => image.alt && image.src.startsWith('data:'))")
    browser.until("[...document.images].every(image => image.complete && image.naturalWidth > 0)")

    # the map of a scene is there to be switched on: more than one darkness of patch
    opacity = "getComputedStyle(document.querySelector('.scene canvas')).opacity"
    assert browser.js(opacity) == "0"
    browser.js("document.getElementById('maps').click()")
    browser.until(f"{opacity} === '1'")
    seen = "document.querySelector('.scene canvas').getContext('2d').getImageData(0, 0, 99, 99).data"
    assert browser.js(f"new Set({seen}.filter((_, i) => i % 4 === 3)).size") > 1
    assert browser.js("document.querySelectorAll('.caption span').length") > 0

    # a scene enlarged, closed with Escape
    browser.js("document.querySelector('button.scene').click()")
    assert browser.js("document.getElementById('zoom').open")
    browser.key("Escape")
    browser.until("!document.getElementById('zoom').open")

    # the other coding and another setting beside
    browser.js("location.hash = link({ s: 'global_lambda1', beside: 'local_lambda0.independent' })")
    browser.until("document.querySelectorAll('article.latent').length === 2")
    browser.key("Escape")
    browser.until("document.querySelectorAll('article.latent').length === 1")

    # arrows walk, r takes a random latent, Escape leads back
    here = browser.js("location.hash")
    browser.js("document.activeElement.blur()")
    browser.key("Escape")
    browser.until("document.querySelector('article.latent') === null")
    browser.key("Escape")
    browser.until("document.querySelector('.hero') !== null")
    browser.js("Math.random = () => 0.99")
    browser.key("r")
    browser.until("document.querySelector('article.latent') !== null")
    last = built.blocks["global_lambda1.independent"][-1]["n"]
    assert browser.js("new URLSearchParams(location.hash.slice(1)).get('l')") == str(last)
    browser.key("ArrowRight")
    browser.until(f"new URLSearchParams(location.hash.slice(1)).get('l') === '{first['n']}'")

    # a shared link shows the same latent, also on a phone, where nothing is wider than the screen
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True
    )
    browser.call("Page.navigate", url="about:blank")
    browser.call("Page.navigate", url=built.file.as_uri() + here)
    browser.until(f"document.querySelector('main h1') !== null && {title} === {json.dumps(term)}")
    assert browser.js("document.documentElement.scrollWidth") <= 390
    assert browser.complaints == []


def test_a_broken_link_shows_the_landing_view(built, browser):  # noqa: F811
    browser.call("Page.navigate", url=built.file.as_uri() + "#s=nothing&c=none&l=-5&beside=x")
    browser.until("document.querySelector('.hero') !== null")
    assert browser.complaints == []
