"""The latent browser: `results/<profile>/browser/index.html`, every latent in every stream on one page."""

from .page import build

__all__ = ["build"]
