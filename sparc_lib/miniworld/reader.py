"""The reader's bound: how well anybody could match captions and scenes of the miniature world.

A Bayes reader sees every scene without error and knows how describers talk (:class:`Habits`). For him a
caption is evidence not only by what it states but also by what it leaves out. P(caption | scene) is computed
exactly, summed over what a caption does not show: which object a mention is of, and whether an object's part
was thought of in vain. Words that only vary the wording are equally likely for all scenes and cancel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from math import factorial
from typing import NamedTuple

import numpy as np
from scipy.sparse import block_array, csr_array
from scipy.sparse.csgraph import connected_components

from .captions import Caption, Mention, PartMention
from .describer import can_stand
from .glyphs import Feature, glyphs
from .habits import HABITS, Habits
from .words import generic_nouns

EXACT = 12  # rows of the largest group whose matchings are enumerated
Outcomes = dict[tuple[PartMention, ...], float]


def _part_outcomes(feature: Feature, shown: dict[str, PartMention], main: bool, habits: Habits) -> Outcomes:
    """What is said of a feature that is thought of, with probabilities; () if the object lacks it."""
    full = shown.get(feature.part)
    if full is None:
        return {(): 1.0}
    if feature.chance < 1:
        if not full.colour:
            return {(full,): 1.0}
        return {(full,): habits.extra_colour, (full._replace(colour=""),): 1 - habits.extra_colour}
    if not (full.kind and full.colour):
        return {(full,): 1.0}
    said = {"both": full, "kind": full._replace(colour=""), "colour": full._replace(kind="")}
    chances = habits.aspect_main if main else habits.aspect_other
    return {(said[aspect],): chance for aspect, chance in chances.items()}


@cache
def _parts_said(name: str, shown: tuple[PartMention, ...], main: bool, habits: Habits) -> Outcomes:
    """Distribution of what is said of an object's parts by a describer who thinks of one part, or of two."""
    by_part = {part.part: part for part in shown}
    single = [_part_outcomes(feature, by_part, main, habits) for feature in glyphs()[name].features]
    total: Outcomes = defaultdict(float)
    n = len(single)
    second = habits.second_part_main if main and n > 1 else 0.0
    for i, first in enumerate(single):
        for said, chance in first.items():
            total[said] += (1 - second) * chance / n
            for j, other in enumerate(single):
                if j != i and second:
                    for more, its_chance in other.items():
                        total[said + more] += second * chance * its_chance / (n * (n - 1))
    return total


def _stated(value: str | None, truth: str, chance: float) -> float:
    """Probability that a describer who states ``truth`` with ``chance`` says ``value`` (None: nothing)."""
    if value is None:
        return 1 - chance
    return chance if value == truth else 0.0


def _noun_probability(mention: Mention, obj, vague: float) -> float:
    if mention.noun == obj.name:
        return 1 - vague
    groups = generic_nouns(obj.name)
    return vague / len(groups) if mention.noun in groups else 0.0


def mention_probability(mention: Mention, obj, habits: Habits = HABITS) -> float:
    """P(mention | the describer tells ``obj``)."""
    main = obj.key == 0
    p = _noun_probability(mention, obj, habits.vague_main if main else habits.vague_other)
    p *= _stated(mention.colour, obj.colour, habits.colour_main if main else habits.colour_other)
    if p == 0:
        return 0.0
    shown = tuple(PartMention(look.part, look.kind, look.colour) for look in obj.looks)
    said = _parts_said(obj.name, shown, main, habits)
    textured = obj.texture != "plain"
    if main:
        p *= _stated(mention.texture, obj.texture, habits.texture_main if textured else 0.0)
        p *= _stated(mention.size, obj.size, habits.size_main)
        p *= _stated(mention.side, obj.side, habits.side_main)
        thought = habits.part_main * said.get(mention.parts, 0.0)
        return p * (thought + (0.0 if mention.parts else 1 - habits.part_main))
    return p * _detail_probability(mention, obj, said, habits)


def _detail_probability(mention: Mention, obj, said: Outcomes, habits: Habits) -> float:
    """P(texture, side and parts said | another object than the main one is told)."""
    chance = habits.detail_other
    n_details = sum(bool(detail) for detail in (mention.texture, mention.side, mention.parts))
    if mention.size or n_details > 1:
        return 0.0
    if mention.texture:
        return chance["texture"] * (mention.texture == obj.texture)
    if mention.side:
        return chance["side"] * (mention.side == obj.side)
    nothing = 0.0 if mention.parts else chance[""]
    if not mention.parts and obj.texture == "plain":
        nothing += chance["texture"]
    return nothing + chance["part"] * said.get(mention.parts, 0.0)


def caption_probability(caption: Caption, scene, habits: Habits = HABITS) -> float:
    """P(what ``caption`` says | ``scene``), but for the choice of words; the main object must be there."""
    p = _stated(caption.time, scene.time, habits.time[scene.time])
    p *= _stated(caption.weather, scene.weather, habits.weather[scene.weather])
    p *= _stated(caption.background, scene.background, habits.background)
    n_told, n_others = len(caption.mentions) - 1, len(scene.objects) - 1
    if p == 0 or n_told > n_others:
        return 0.0
    p *= habits.tell_other**n_told * (1 - habits.tell_other) ** (n_others - n_told) / factorial(n_told)
    table = [[mention_probability(m, obj, habits) for obj in scene.objects] for m in caption.mentions]
    total = 0.0
    for place in range(min(2, n_told + 1)):
        order = 1.0
        if n_told:
            order = habits.main_first if place == 0 else 1 - habits.main_first
        for first, chance in _assignments(table, place, scene.main):
            total += order * chance * _standing(caption, scene, scene.objects[first], habits)
    return p * total


def _standing(caption: Caption, scene, first, habits: Habits) -> float:
    """P(how the background is told | it is told, and which object is told first)."""
    if caption.background is None:
        return 1.0
    chance = habits.standing if can_stand(scene, first) else 0.0
    return chance if caption.standing else 1 - chance


def _assignments(table: list[list[float]], place: int, main: int) -> Iterator[tuple[int, float]]:
    """Ways to give each mention an object, the main one to mention ``place``: (first one, probability)."""

    def extend(used: tuple[int, ...], chance: float) -> Iterator[tuple[int, float]]:
        if len(used) == len(table):
            yield used[0], chance
            return
        row = table[len(used)]
        candidates = [main] if len(used) == place else [n for n in range(len(row)) if n != main]
        for number in candidates:
            if row[number] > 0 and number not in used:
                yield from extend((*used, number), chance * row[number])

    return extend((), 1.0)


def likelihood(captions: Sequence[Caption], scenes: Sequence, habits: Habits = HABITS) -> csr_array:
    """P(caption | scene) up to the choice of words, sparse [n_captions, n_scenes]."""
    shows: dict[str, set[int]] = defaultdict(set)
    for number, scene in enumerate(scenes):
        for obj in scene.objects:
            for noun in (obj.name, *generic_nouns(obj.name)):
                shows[noun].add(number)
    rows, columns, values = [], [], []
    for row, caption in enumerate(captions):
        for column in sorted(set.intersection(*(shows[mention.noun] for mention in caption.mentions))):
            p = caption_probability(caption, scenes[column], habits)
            if p > 0:
                rows.append(row)
                columns.append(column)
                values.append(p)
    return csr_array((values, (rows, columns)), shape=(len(captions), len(scenes)))


class ReadersBound(NamedTuple):
    """Expected R@1 that no reader can exceed: for captions as queries, and for scenes as queries."""

    text_to_image: float
    image_to_text: float


def readers_bound(scenes: Sequence, captions: Sequence[Caption], habits: Habits = HABITS) -> ReadersBound:
    """The best retrieval possible between ``scenes`` [n] and one caption of each, ``captions`` [n].

    The reader sees all scenes and all captions at once and knows that each belongs to one: his belief that
    caption j is of scene i is the share of i ~ j among all matchings, each weighed by the product of its
    P(caption | scene). He answers with the likeliest partner, and is right as often as he believes to be.
    """
    belief = matching_belief(likelihood(captions, scenes, habits))
    return ReadersBound(float(belief.max(axis=1).mean()), float(belief.max(axis=0).mean()))


def matching_belief(weights: csr_array) -> csr_array:
    """P(row j belongs to column i) if rows and columns [n, n] belong together in pairs.

    A matching's probability is proportional to the product of its ``weights``. Exact, except in groups of
    more than ``EXACT`` rows that could all stand for one another: these count as told apart (the pairs on the
    diagonal), so that maxima of beliefs remain upper bounds.
    """
    edges = weights.tocoo()
    rows, columns = edges.coords
    belief, open_ = _forced(rows, columns, weights.shape[0])
    core = csr_array((edges.data[open_], (rows[open_], columns[open_])), shape=weights.shape)
    both_ways = block_array([[None, core], [core.T, None]])
    group_of = connected_components(both_ways, directed=False)[1][rows]
    for group in np.unique(group_of[open_]):
        members = np.flatnonzero(open_ & (group_of == group))
        own_rows, i = np.unique(rows[members], return_inverse=True)
        own_columns, j = np.unique(columns[members], return_inverse=True)
        if len(own_rows) > EXACT:
            belief[members] = rows[members] == columns[members]
            continue
        block = np.zeros((len(own_rows), len(own_columns)))
        block[i, j] = edges.data[members]
        belief[members] = _block_belief(block)[i, j]
    return csr_array((belief, (rows, columns)), shape=weights.shape)


def _forced(rows: np.ndarray, columns: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Beliefs of 1 where a row or column has one partner left, again and again; and which edges stay open."""
    belief = np.zeros(len(rows))
    open_ = np.ones(len(rows), bool)
    while True:
        row_degree = np.bincount(rows[open_], minlength=size)
        column_degree = np.bincount(columns[open_], minlength=size)
        sure = open_ & ((row_degree[rows] == 1) | (column_degree[columns] == 1))
        if not sure.any():
            return belief, open_
        belief[sure] = 1.0
        open_ &= ~(np.isin(rows, rows[sure]) | np.isin(columns, columns[sure]))


def _block_belief(block: np.ndarray) -> np.ndarray:
    """Exact matching beliefs of a small block [m, m]: permanents, row by row over sets of used columns."""
    m = len(block)
    block = block / block.max(1, keepdims=True)
    ways_in, ways_out = np.zeros(1 << m), np.zeros(1 << m)
    ways_in[0] = ways_out[-1] = 1.0
    sets = sorted(range(1 << m), key=int.bit_count)
    for used in sets:
        for j in range(m):
            if not used >> j & 1:
                ways_in[used | 1 << j] += ways_in[used] * block[used.bit_count(), j]
    for used in reversed(sets):
        for j in range(m):
            if used >> j & 1:
                ways_out[used ^ 1 << j] += ways_out[used] * block[used.bit_count() - 1, j]
    belief = np.zeros_like(block)
    for used in sets[:-1]:
        i = used.bit_count()
        for j in range(m):
            if not used >> j & 1:
                belief[i, j] += ways_in[used] * block[i, j] * ways_out[used | 1 << j]
    return belief / ways_out[0]
