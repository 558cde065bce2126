"""Captions: what they state, and how it is put into words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from . import words
from .words import article, chosen, generic_nouns


class PartMention(NamedTuple):
    """What a caption says of one varying part; "" where it says nothing."""

    part: str
    kind: str
    colour: str

    def true_of(self, obj) -> bool:
        """Whether ``obj`` (a SceneObject) has such a part."""
        return any(
            look.part == self.part and self.kind in ("", look.kind) and self.colour in ("", look.colour)
            for look in obj.looks
        )


class Mention(NamedTuple):
    """What a caption says of one object; None where it says nothing."""

    noun: str  # a leaf class, or a group of the taxonomy ("animal") when the describer is vague
    colour: str | None = None
    texture: str | None = None
    size: str | None = None
    side: str | None = None
    parts: tuple[PartMention, ...] = ()

    def true_of(self, obj) -> bool:
        """Whether ``obj`` (a SceneObject) is as the mention says."""
        return (
            (self.noun == obj.name or self.noun in generic_nouns(obj.name))
            and self.colour in (None, obj.colour)
            and self.texture in (None, obj.texture)
            and self.size in (None, obj.size)
            and self.side in (None, obj.side)
            and all(part.true_of(obj) for part in self.parts)
        )


class Caption(NamedTuple):
    """A text and what it states; None where it says nothing."""

    text: str
    mentions: tuple[Mention, ...]
    background: str | None = None
    time: str | None = None
    weather: str | None = None
    standing: bool = False  # the background is told by what the first object stands on

    def true_of(self, scene) -> bool:
        """Whether every stated fact holds in ``scene``."""
        return (
            self.background in (None, scene.background)
            and self.time in (None, scene.time)
            and self.weather in (None, scene.weather)
            and all(any(mention.true_of(obj) for obj in scene.objects) for mention in self.mentions)
        )


class Wording(NamedTuple):
    """Uniform random numbers that choose words and change nothing of what is said."""

    opening: float
    behind: float
    see: float
    joins: Sequence[
        bool
    ]  # for every mention: whether it is joined to the first sentence, if it is the second
    verbs: Sequence[float]  # for every mention


def put_into_words(caption: Caption, wording: Wording) -> Caption:
    """``caption`` with its text."""
    return caption._replace(text=" ".join(_sentences(caption, wording)))


def n_tokens(text: str) -> int:
    """Words and full stops of a caption."""
    return text.count(" ") + 1 + text.count(".")


def _sentences(caption: Caption, wording: Wording) -> Iterator[str]:
    first, *rest = caption.mentions
    verbs = list(wording.verbs[1:])
    text = f"{chosen(words.OPENINGS, wording.opening)} {_phrase(first)}"
    if first.side:
        text += f" {words.SIDES[first.side]}"
    if caption.standing:
        text += f" {words.STANDING[caption.background]}"
    if rest and not rest[0].side and wording.joins[1]:
        text += f" and {_phrase(rest[0])}"
        rest, verbs = rest[1:], verbs[1:]
    yield text + "."
    for mention, verb in zip(rest, verbs):
        if mention.side:
            side = words.SIDES[mention.side].capitalize()
            yield f"{side} {chosen(words.MORE, verb)} {_phrase(mention)}."
        else:
            yield f"{chosen(words.NEXT, verb)} {_phrase(mention)}."
    if caption.background and not caption.standing:
        behind = chosen(words.BEHIND[caption.background], wording.behind)
        yield f"In the background {chosen(words.SEE, wording.see)} {behind}."
    if caption.time or caption.weather:
        yield words.weather_sentence(caption.time, caption.weather)


def _phrase(mention: Mention) -> str:
    """An object as one says it: "a large spotted dog with long ears", "a man in a red shirt with a hat"."""
    look = [word for word in (mention.texture, mention.colour) if word]
    size = [mention.size] if mention.size else []
    noun = words.nouns()[mention.noun]
    clothes = words.garment(mention.noun)
    if not clothes:
        text = " ".join([*size, *look, noun])
    else:
        text = " ".join([*size, noun])
        if look:
            worn = " ".join([*look, clothes])
            text += " in " + (worn if clothes == "clothes" else article(worn))
    parts = [words.part_words(p.part, f"{p.kind} {p.colour}".strip()) for p in mention.parts]
    with_parts = " with " + " and ".join(parts) if parts else ""
    return article(text) + with_parts
