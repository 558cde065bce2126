"""Aligned, memory-mapped features of image-caption pairs, and the import of published ones."""

from .published import import_hdf5
from .reader import FeatureStore

__all__ = ["FeatureStore", "import_hdf5"]
