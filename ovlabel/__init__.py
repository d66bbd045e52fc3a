"""ovlabel: open-vocabulary semantic segmentation of whole folders, without training.

The public names below are loaded on first use, so that importing ovlabel costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovlabel.errors import OvlabelError
    from ovlabel.evaluation.scores import Scores
    from ovlabel.evaluation.scoring import score
    from ovlabel.formats import export
    from ovlabel.run.job import annotate
    from ovlabel.run.listing import Selection
    from ovlabel.run.options import RunOptions
    from ovlabel.settings.keys import Config
    from ovlabel.settings.reading import load_config
    from ovlabel.spine.build import build
    from ovlabel.spine.segmenter import Segmenter
    from ovlabel.stages import Stage
    from ovlabel.store.read import Store, StoredImage, open_store
    from ovlabel.store.verify import verify
    from ovlabel.types import ChunkReport, Prediction, TextBank

__version__ = "0.1.0"

_HOMES = {
    "ChunkReport": "types",
    "Config": "settings.keys",
    "OvlabelError": "errors",
    "Prediction": "types",
    "RunOptions": "run.options",
    "Scores": "evaluation.scores",
    "Segmenter": "spine.segmenter",
    "Selection": "run.listing",
    "Stage": "stages",
    "Store": "store.read",
    "StoredImage": "store.read",
    "TextBank": "types",
    "annotate": "run.job",
    "build": "spine.build",
    "export": "formats",
    "load_config": "settings.reading",
    "open_store": "store.read",
    "score": "evaluation.scoring",
    "verify": "store.verify",
}

__all__ = [
    "ChunkReport",
    "Config",
    "OvlabelError",
    "Prediction",
    "RunOptions",
    "Scores",
    "Segmenter",
    "Selection",
    "Stage",
    "Store",
    "StoredImage",
    "TextBank",
    "annotate",
    "build",
    "export",
    "load_config",
    "open_store",
    "score",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ovlabel' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(f"ovlabel.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
