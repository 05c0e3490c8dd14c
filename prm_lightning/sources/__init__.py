"""Raw rows to `Solution`: sources, rewards and splits."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prm_lightning.sources.corrupted import Corrupted
    from prm_lightning.sources.file_source import FileSource
    from prm_lightning.sources.labelled import Labelled
    from prm_lightning.sources.layouts import Gsm8k, Prm800k, ProcessBench, open_source
    from prm_lightning.sources.marked_text import MathShepherd, OpenRlhf, RlhFlow
    from prm_lightning.sources.mixture import SourceSpec
    from prm_lightning.sources.stepwise import Stepwise
    from prm_lightning.sources.synthetic import Synthetic

_MODULES = {
    "Corrupted": "corrupted",
    "FileSource": "file_source",
    "Gsm8k": "layouts",
    "Labelled": "labelled",
    "MathShepherd": "marked_text",
    "OpenRlhf": "marked_text",
    "Prm800k": "layouts",
    "ProcessBench": "layouts",
    "RlhFlow": "marked_text",
    "SourceSpec": "mixture",
    "Stepwise": "stepwise",
    "Synthetic": "synthetic",
    "open_source": "layouts",
}

__all__ = [
    "Corrupted",
    "FileSource",
    "Gsm8k",
    "Labelled",
    "MathShepherd",
    "OpenRlhf",
    "Prm800k",
    "ProcessBench",
    "RlhFlow",
    "SourceSpec",
    "Stepwise",
    "Synthetic",
    "open_source",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
