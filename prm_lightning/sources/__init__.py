"""Raw rows to `Solution`: sources, rewards and splits."""

from prm_lightning.sources.corrupted import Corrupted
from prm_lightning.sources.labelled import Labelled
from prm_lightning.sources.layouts import Gsm8k, Prm800k, ProcessBench, open_source
from prm_lightning.sources.marked_text import MathShepherd, OpenRlhf, RlhFlow
from prm_lightning.sources.mixture import SourceSpec
from prm_lightning.sources.rows import FileSource
from prm_lightning.sources.stepwise import Stepwise
from prm_lightning.sources.synthetic import Synthetic

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
