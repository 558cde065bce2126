"""Where in the image, which words: relevance, heatmaps, their segmentation, and how they are scored."""

from .relevance import attention_relevance

__all__ = ["attention_relevance"]
