"""Train, use and judge process reward models: models that score each step of a solution."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prm_lightning.modeling.prm import PRM as PRM
    from prm_lightning.scoring.reward import PRMReward as PRMReward
    from prm_lightning.scoring.scorers import load_scorer as load_scorer
    from prm_lightning.searching.search import best_of_n as best_of_n
    from prm_lightning.sources.formatting import format_stepwise as format_stepwise
    from prm_lightning.training.train import train as train
    from prm_lightning.types import Solution as Solution
    from prm_lightning.types import Step as Step

__version__ = "0.1.0"
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
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
