"""Figures of changed facts: which change is shown, its colours, and the summary's lines."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sparc_lib.concepts import NO_NAME
from sparc_lib.miniworld.scenes import make_scene
from sparc_lib.notebook import interventions as show
from sparc_lib.studies.edited import KINDS, NO_EDITS, changes
from sparc_lib.studies.intervention_measures import ANOTHER_SCENE, InterventionRow, Moves

STREAMS = ("dino", "clip_img", "clip_txt")
TERMS = [f"fact {n}" for n in range(12)]


@pytest.fixture(scope="module")
def made():
    scenes = [make_scene(0, "test", i) for i in range(40)]
    return [change for kind in KINDS for change in changes(kind, scenes, 5)]


@pytest.fixture
def moves(made):
    draw = np.random.default_rng(0)
    before, after = ({s: draw.random((len(made), 12)) for s in STREAMS} for _ in range(2))
    names = np.arange(12)
    names[3] = NO_NAME
    return Moves(before, after, dict.fromkeys(STREAMS, names))


def test_one_change_a_kind_at_the_percentile_of_its_agreement(made, moves):
    chosen = show.typical(made, moves, TERMS, 50)
    assert {one.change.kind for one in chosen} == set(KINDS) and len(chosen) == len(KINDS)
    agreement = pd.Series(moves.agreement()).groupby([change.kind for change in made])
    for one in chosen:
        assert one.agreement == pytest.approx(agreement.median()[one.change.kind])
    order = agreement.mean().sort_values(ascending=False).index
    assert [one.change.kind for one in chosen] == list(order)
    best = {one.change.kind: one.agreement for one in show.typical(made, moves, TERMS, 100)}
    assert best == pytest.approx(agreement.max().to_dict())


def test_an_exhibit_has_the_latents_that_move_most(made, moves):
    one = show.exhibit(made, moves, TERMS, 4)
    change = moves.change("dino")[4]
    latents = [latent for latent, _, _ in one.moved["dino"]]
    assert latents == np.argsort(-np.abs(change))[: show.BARS].tolist()
    for latent, name, by in one.moved["dino"]:
        assert name == ("" if latent == 3 else f"fact {latent}") and by == change[latent]
    moves.after["dino"][4] = moves.before["dino"][4]
    assert show.exhibit(made, moves, TERMS, 4).moved["dino"] == []


def test_latents_of_several_streams_have_a_colour(made):
    moved = {
        "dino": [(1, "a", 2.0), (2, "b", 1.0)],
        "clip_txt": [(1, "a", -1.0), (4, "", 9.0), (2, "b", 3.0)],
    }
    colours = show.latent_colours(show.Exhibit(made[0], 0.5, moved))
    assert colours == {2: show.COMMON[0], 1: show.COMMON[1], 4: show.ALONE}


def test_the_pictures_are_drawn_with_their_latents(made, moves):
    fig = show.exhibits_figure(plt.figure(), show.typical(made, moves, TERMS, 50))
    titles = [cell.get_suptitle() for cell in fig.subfigs]
    assert sum("→" in title for title in titles) == len(KINDS)
    axes = fig.subfigs[0].axes
    assert [len(ax.patches) for ax in axes[2:]] == [show.BARS] * 3 and len(axes[0].images) == 1
    plt.close(fig)


def made_up():
    """A table with one gate, two seeds."""
    rows = []
    for kind in (*KINDS, ANOTHER_SCENE):
        for question in show.QUESTIONS:
            for source, target in question.ways:
                rows.append(InterventionRow(kind, question.measure, source, target, 0.4, 0.1, 5))
    one = pd.DataFrame(rows, columns=InterventionRow._fields)
    both = [
        one.assign(model="trained", setting="one_voter", seed=seed, value=0.4 + 0.2 * seed) for seed in (0, 1)
    ]
    ridge = one[one.measure == "direction"].assign(model="raw", setting="raw", seed=0)
    return pd.concat([*both, ridge], ignore_index=True)


def test_answers_are_means_over_their_streams_and_leave_other_scenes_out():
    table = made_up()
    question = show.QUESTIONS[3]
    table.loc[table.source == "clip_txt", "value"] = table.target.map({"dino": 0.2, "clip_img": 0.6})
    table.loc[table.kind == ANOTHER_SCENE, "value"] = 100
    means = show.over_kinds(show.answers(table, question))
    assert means.value.tolist() == pytest.approx([0.4, 0.4, 0.4]) and means.chance.tolist() == pytest.approx(
        [0.1] * 3
    )


def test_scores_are_one_a_seed():
    table = made_up()
    assert show.scores(table, "alike", "one_voter") == pytest.approx([0.4, 0.6])
    assert show.scores(table, "across", "raw", "raw", "time") == pytest.approx([0.4])
    assert np.isnan(show.scores(table, "alike", "raw", "raw")).all()


def test_the_summary_has_a_line_a_gate_and_a_line_a_kind():
    fig = show.summary_figure(plt.figure(), made_up(), ["one_voter"], "one_voter")
    above, below = fig.axes[:4], fig.axes[4:]
    assert [label.get_text() for label in above[0].get_yticklabels()] == ["Global, one voter", "Ridge"]
    assert [label.get_text() for label in below[0].get_yticklabels()] == [*KINDS, ANOTHER_SCENE]
    assert len(above[0].collections) == 1 and len(above[3].collections) == 2  # ridge has no codes
    plt.close(fig)


def test_photographs_have_no_exhibits(monkeypatch):
    monkeypatch.setattr(show, "changes_of", lambda profile: [])
    assert show.exhibits(None, None) == []


def test_without_changes_the_figures_say_what_is_missing():
    empty = pd.DataFrame(columns=["model", "setting", "seed", *InterventionRow._fields])
    for fig in (
        show.exhibits_figure(plt.figure(), []),
        show.summary_figure(plt.figure(), empty, [], "one_voter"),
    ):
        assert NO_EDITS in fig.axes[0].texts[0].get_text()
        plt.close(fig)
    assert show.answers(empty, show.QUESTIONS[0]).empty
    assert np.isnan(show.scores(empty, "alike", "one_voter")).all()
