"""The loop: module, callbacks, loggers and the command line of Lightning's verbs."""

from prm_lightning.training.guards import WaitForGPU

__all__ = ["WaitForGPU"]
