"""Train, use and judge process reward models: models that score each step of a solution."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prm_lightning.modeling.prm import PRM
    from prm_lightning.scoring.reward import PRMReward
    from prm_lightning.scoring.scorers import load_scorer
    from prm_lightning.searching.search import best_of_n
    from prm_lightning.sources.formatting import format_stepwise
    from prm_lightning.training.train import train
    from prm_lightning.types import Solution, Step

__version__ = "0.1.0"
__all__ = [
    "PRM",
    "PRMReward",
    "Solution",
    "Step",
    "best_of_n",
    "format_stepwise",
    "load_scorer",
    "train",
]

_MODULES = {
    "PRM": "modeling.prm",
    "PRMReward": "scoring.reward",
    "Solution": "types",
    "Step": "types",
    "best_of_n": "searching.search",
    "format_stepwise": "sources.formatting",
    "train": "training.train",
    "load_scorer": "scoring.scorers",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
