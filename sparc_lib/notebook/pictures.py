"""Pictures without axes: sheets and strips of thumbnails, frames, and captions below or beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import fill
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from PIL import Image, ImageOps

from ..data.pairs import PairedDataset
from ..store.reader import FeatureStore
from .style import literal

SIDE, FRAME = 96, 5  # pixels of a thumbnail and of the frame around it


def show(ax: Axes, picture: np.ndarray) -> Axes:
    """A picture [H, W, 3] without ticks, spines or grid."""
    ax.imshow(picture, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def thumbnail(image: Image.Image, frame: str | None = None) -> np.ndarray:
    """A square of the picture's middle, uint8 [SIDE, SIDE, 3]; with a frame of that colour around it, each
    side is 2 FRAME pixels longer."""
    square = ImageOps.fit(image.convert("RGB"), (SIDE, SIDE))
    if frame is not None:
        square = ImageOps.expand(square, FRAME, tuple(round(255 * channel) for channel in to_rgb(frame)))
    return np.asarray(square)


class StorePictures:
    """The pictures of a store's rows, taken from the data set that the store was made from."""

    def __init__(self, store: FeatureStore, data: PairedDataset):
        self.store, self.data = store, data
        self._places = {identity: i for i, identity in enumerate(data.ids)}

    def thumbnail(self, row: int, frame: str | None = None) -> np.ndarray:
        """The picture of a store's row as `thumbnail` gives it."""
        return thumbnail(self.data.image(self._places[self.store.ids[row]]), frame)


def sheet(
    ax: Axes, rows: Sequence[Sequence[np.ndarray]], columns: int, gap: int = 4, side: int = SIDE
) -> Axes:
    """Rows of pictures uint8 [side, side, 3] on white paper that has room for `columns` of them in each
    row."""
    step = side + gap
    paper = np.full((len(rows) * step - gap, columns * step - gap, 3), 255, np.uint8)
    for line, row in enumerate(rows):
        for column, picture in enumerate(row):
            y, x = line * step, column * step
            paper[y : y + side, x : x + side] = picture
    ax.imshow(paper, interpolation="nearest")
    ax.set_axis_off()
    return ax


def captioned(
    axes: Iterable[Axes], pictures: Iterable[np.ndarray], captions: Iterable[str], width: int = 40
) -> None:
    """Pictures, each in its Axes with its caption below in lines of `width` letters, nine lines at most."""
    for ax, picture, caption in zip(axes, pictures, captions, strict=True):
        lines = fill(caption, width, max_lines=9, placeholder=" ...")
        show(ax, picture).set_xlabel(literal(lines), fontsize=8, loc="left", labelpad=6)


class Line(NamedTuple):
    """A caption in a list, with what stands before it."""

    text: str
    colour: str = "black"
    weight: str = "normal"
    bullet: str = "•"
    bullet_colour: str = "black"


def caption_list(ax: Axes, lines: Sequence[Line], width: int, size: float, room: int = 5) -> Axes:
    """Captions one below the other, each in at most two lines of `width` letters; the Axes has room for
    `room`."""
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_axis_off()
    for i, line in enumerate(lines):
        y = 0.97 - i / room
        text = fill(line.text, width, max_lines=2, placeholder=" ...")
        ax.text(0, y, line.bullet, color=line.bullet_colour, fontsize=size + 2, va="top")
        look = dict(color=line.colour, fontweight=line.weight, fontsize=size, va="top")
        ax.text(0.03, y, literal(text), **look)
    return ax
