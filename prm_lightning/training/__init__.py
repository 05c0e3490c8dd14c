"""The loop: module, callbacks, loggers and the command line of Lightning's verbs."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prm_lightning.training.wait_for_gpu import WaitForGPU

__all__ = ["WaitForGPU"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from prm_lightning.training.wait_for_gpu import WaitForGPU

    return WaitForGPU
