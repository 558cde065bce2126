"""What a search shows says how much stands behind a name."""

import matplotlib.pyplot as plt
import numpy as np

from sparc_lib.concepts import FoundLatent
from sparc_lib.notebook import gallery


class Pictures:
    def __init__(self, store, data):
        pass

    def thumbnail(self, row):
        return np.zeros((gallery.SIDE, gallery.SIDE, 3), np.uint8)


def test_a_purity_of_few_pictures_says_of_how_many(monkeypatch):
    monkeypatch.setattr(gallery, "StorePictures", Pictures)
    often = FoundLatent(7, "Cat", {"dino": 0.8}, {"dino": [1, 2, 3], "clip_img": [4], "clip_txt": []}, [])
    rare = FoundLatent(
        9, "Cat", {"clip_img": 1.0}, {"dino": [], "clip_img": [5], "clip_txt": [6, 7]}, ["cat"]
    )
    fig = gallery.found_latents(plt.figure(), [often, rare], None, None)
    titles = [ax.get_title() for ax in fig.axes]
    assert titles == [
        "DINO, cat, purity 80%",
        "CLIP image, no name here",
        "DINO, no name here",
        "CLIP image, cat, purity 100% of 1 picture",
    ]
    never = [text.get_text() for text in fig.axes[2].texts]
    assert "never fires in this stream" in never and "Latent 9" in never
