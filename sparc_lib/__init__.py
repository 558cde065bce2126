"""SPARC companion: concept-aligned sparse autoencoders across models and modalities.

The four names below load on first use, so that `import sparc_lib` costs
nothing and needs no torch (run_all.sh looks for the package that way).
"""

import atexit
import gc
from importlib import import_module

_EXPORTS = {"SPARC": "model", "sparc_loss": "losses", "train_step": "steps", "FeatureStore": "store"}
__all__ = list(_EXPORTS)
__version__ = "0.1.0"

# At its end Python would search all objects of torch and transformers for cycles once more, in every kernel,
# for memory that the process gives back anyway.
atexit.register(gc.freeze)


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'sparc_lib' has no attribute {name!r}")
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
