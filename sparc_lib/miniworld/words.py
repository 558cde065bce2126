"""The words that describers use: openings, places, parts, weather."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TypeVar

from .glyphs import glyphs
from .names import ancestors, branch_of, display_names

T = TypeVar("T")

OPENINGS = (
    "In this image there is",
    "In this image we can see",
    "In this picture there is",
    "Here we can see",
    "In the picture I can see",
    "There is",
)
MORE = ("there is", "we can see", "I can see")
SEE = ("we can see", "I can see", "we see")
NEXT = ("Beside it is", "Next to it is", "We also see", "There is also")
SIDES = {"left": "on the left", "centre": "in the centre", "right": "on the right"}
STANDING = {
    "meadow": "on the grass",
    "forest": "on the forest floor",
    "beach": "on the sand",
    "sea": "on the waves",
    "lake": "on the lake",
    "desert": "on the dry ground",
    "snow": "on the snow",
    "mountains": "on the rocks",
    "street": "on the road",
    "harbour": "on the wooden planks",
    "farm": "on the field",
    "garden": "on the lawn",
    "room": "on the floor",
    "kitchen": "on the tiles",
}
BEHIND = {
    "meadow": ("hills", "green hills"),
    "forest": ("trees", "a forest"),
    "beach": ("a beach", "water and sand"),
    "sea": ("the open sea", "the sea"),
    "lake": ("a lake", "the shore of a lake"),
    "desert": ("sand hills", "a desert"),
    "snow": ("snowy mountains", "snowy ground"),
    "mountains": ("mountains", "high mountains"),
    "street": ("buildings", "houses of a city"),
    "harbour": ("a harbour", "harbour cranes"),
    "farm": ("a field", "a farm with a fence"),
    "garden": ("a hedge", "a garden with a white fence"),
    "room": ("a wall with a picture", "a room"),
    "kitchen": ("a kitchen", "a wall with a shelf"),
    "underwater": ("bubbles under water", "plants under water"),
}
_GENERIC = {
    "animal": "animal",
    "bird": "bird",
    "insect": "insect",
    "vehicle": "vehicle",
    "boat": "boat",
    "aircraft": "aircraft",
    "plant": "plant",
    "flowering_plant": "flower",
    "food": "food item",
    "fruit": "fruit",
    "vegetable": "vegetable",
    "dessert": "dessert",
    "household_item": "household item",
    "furniture": "piece of furniture",
    "toy": "toy",
    "instrument": "instrument",
    "person": "person",
    "child": "child",
    "building": "building",
}  # groups of the taxonomy that people use as nouns
_COUNTED = {"corn": "corn cob", "grapes": "bunch of grapes"}  # what one of these is called
_PLURAL = {
    "arm": "arms",
    "book": "books",
    "candle": "candles",
    "claw": "claws",
    "coconut": "coconuts",
    "ear": "ears",
    "eye": "eyes",
    "fin": "fins",
    "flower": "flowers",
    "foot": "feet",
    "horn": "horns",
    "leaf": "leaves",
    "leg": "legs",
    "oar": "oars",
    "petal": "petals",
    "sail": "sails",
    "seed": "seeds",
    "shoe": "shoes",
    "spot": "spots",
    "stick": "sticks",
    "tooth": "teeth",
    "tusk": "tusks",
    "wheel": "wheels",
    "window": "windows",
    "wing": "wings",
}
_MASS = ("cheese", "dough", "fruit", "glasses", "hair", "steam", "topping", "trousers")
_TIMES = {
    "day": ("It is daytime", "day"),
    "dusk": ("It is evening", "evening"),
    "night": ("It is night", "night"),
}
_WEATHERS = {
    "clear": ("The sky is clear", "clear"),
    "cloudy": ("The sky is cloudy", "cloudy"),
    "rain": ("It is raining", "rainy"),
    "snow": ("It is snowing", "snowy"),
    "rainbow": ("There is a rainbow", ""),
}


def chosen(options: Sequence[T], u: float) -> T:
    """The option that a uniform number ``u`` in [0, 1) picks, all being equally likely."""
    return options[int(u * len(options))]


@cache
def nouns() -> dict[str, str]:
    """Class or group name -> the words used for it."""
    return {label[3:]: name.lower() for label, name in display_names().items()} | _GENERIC | _COUNTED


@cache
def generic_nouns(name: str) -> tuple[str, ...]:
    """Groups that a vague describer may name instead of class ``name``, from the broadest."""
    return tuple(group for group in ancestors(name) if group in _GENERIC)


@cache
def garment(noun: str) -> str:
    """What of a person has the colour that is told; "" for what is no person."""
    if noun in glyphs():
        return glyphs()[noun].wears
    return "clothes" if branch_of(noun) == "person" else ""


def article(text: str) -> str:
    """``text`` with "a" or "an" before it."""
    return ("an " if text[0] in "aeiou" else "a ") + text


@cache
def part_words(part: str, look: str = "", article_needed: bool = True) -> str:
    """A part as one says it: "long brown ears", "a white roof"; ``look`` is its kind and colour."""
    text = " ".join(word for word in (look, _PLURAL.get(part, part)) if word)
    one_of_many = article_needed and part not in _PLURAL and part not in _MASS
    return article(text) if one_of_many else text


def weather_sentence(time: str | None, weather: str | None) -> str:
    """One sentence on the time of day, the weather, or both."""
    if not weather:
        return _TIMES[time][0] + "."
    if not time:
        return _WEATHERS[weather][0] + "."
    if weather == "rainbow":
        return f"{_TIMES[time][0]} with a rainbow."
    return article(f"{_WEATHERS[weather][1]} {_TIMES[time][1]}").join(("It is ", "."))
