"""One of several processes that run command lines of `fit` in turn, and what they record of it.

    RANK=0 WORLD_SIZE=2 ... python tests/two_processes.py runs.json

runs.json holds a list of ``{"arguments": [...], "dies_at": null or an optimizer step}``. Starting a
process costs more than a run of a tiny model, so all runs share one.
"""

import json
import sys
from pathlib import Path

import torch
from lightning import Callback

DIES_AT = {"step": None}


class DiedError(Exception):
    """Stands for a process that dies."""


class Dying(Callback):
    """Raises at the optimizer step that `DIES_AT` says."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == DIES_AT["step"]:
            raise DiedError


class Recorder(Callback):
    """Writes ``rank-N.pt``: what each batch held, first gradients, weights after each step.

    Args:
        folder: to write to.
        double: compute in float64 throughout.
    """

    def __init__(self, folder: str, double: bool = False) -> None:
        self.folder = Path(folder)
        self.double = double
        self.record = {"batches": [], "validated": [], "gradients": [], "weights": []}

    def setup(self, trainer, pl_module, stage):
        if self.double:
            pl_module.configure_model()
            pl_module.prm.double()
            for module in pl_module.prm.modules():
                if type(module).__name__.endswith("RMSNorm"):  # transformers rounds to float32
                    module.forward = exact_norm(module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.record["batches"].append((trainer.current_epoch, batch.solution_ids.tolist()))
        if len(self.record["weights"]) < trainer.global_step:
            self.record["weights"].append(flat(trained(pl_module)))

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if not trainer.sanity_checking:
            self.record["validated"].append((trainer.current_epoch, batch.solution_ids.tolist()))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.record["gradients"].append(flat([p.grad for p in trained(pl_module)]))

    def on_fit_end(self, trainer, pl_module):
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.record, self.folder / f"rank-{trainer.global_rank}.pt")


def exact_norm(module):
    def forward(hidden):
        scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
        return module.weight * hidden * scale

    return forward


def trained(pl_module):
    return [p for p in pl_module.prm.parameters() if p.requires_grad]


def flat(tensors):
    """All numbers of some tensors, whole also where they are sharded."""
    whole = [t.full_tensor() if hasattr(t, "full_tensor") else t for t in tensors]
    return torch.cat([t.detach().flatten().clone() for t in whole])


def main(runs):
    from prm_lightning.training.cli import main as run_cli

    torch.set_num_threads(1)
    for run in runs:
        DIES_AT["step"] = run["dies_at"]
        try:
            run_cli(["fit", *run["arguments"]])
        except DiedError:
            if run["dies_at"] is None:
                raise


if __name__ == "__main__":
    sys.modules["two_processes"] = sys.modules["__main__"]  # callbacks are named by this module
    main(json.loads(Path(sys.argv[1]).read_text()))
