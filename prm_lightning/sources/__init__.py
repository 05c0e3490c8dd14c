"""Raw rows to `Solution`: sources, rewards and splits."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prm_lightning.sources.mixture import SourceSpec
    from prm_lightning.sources.stepwise import Stepwise
    from prm_lightning.sources.synthetic import Synthetic

__all__ = ["SourceSpec", "Stepwise", "Synthetic"]

_MODULES = {"SourceSpec": "mixture", "Stepwise": "stepwise", "Synthetic": "synthetic"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
