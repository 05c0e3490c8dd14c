"""What libraries print about everything but this run."""

from __future__ import annotations

import logging
import sys
import warnings


def quieten_libraries() -> None:
    """Hide what libraries tell everybody; progress bars only where somebody watches."""
    import transformers

    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    tips = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    tips.addFilter(lambda record: "Tip:" not in record.getMessage())
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    for message in (
        ".*LeafSpec",
        ".*is_gradient_checkpointing",
        ".*checkpointing_enable",
        ".*FSDP2-wrapped module .* returned a view",  # in which nothing is written
        ".*recommended to use `self.log.*sync_dist",  # metrics gather before they are computed
    ):
        warnings.filterwarnings("ignore", message=message)
