"""Raw rows to `Solution`: sources, rewards and splits."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prm_lightning.sources.corrupted import Corrupted
    from prm_lightning.sources.gsm8k import Gsm8k
    from prm_lightning.sources.labelled import Labelled
    from prm_lightning.sources.math_shepherd import MathShepherd
    from prm_lightning.sources.mixture import SourceSpec
    from prm_lightning.sources.openrlhf import OpenRlhf
    from prm_lightning.sources.prm800k import Prm800k
    from prm_lightning.sources.processbench import ProcessBench
    from prm_lightning.sources.rlhflow import RlhFlow
    from prm_lightning.sources.stepwise import Stepwise
    from prm_lightning.sources.synthetic import Synthetic

_MODULES = {
    "Corrupted": "corrupted",
    "Gsm8k": "gsm8k",
    "Labelled": "labelled",
    "MathShepherd": "math_shepherd",
    "OpenRlhf": "openrlhf",
    "Prm800k": "prm800k",
    "ProcessBench": "processbench",
    "RlhFlow": "rlhflow",
    "SourceSpec": "mixture",
    "Stepwise": "stepwise",
    "Synthetic": "synthetic",
}

__all__ = [
    "Corrupted",
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
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
