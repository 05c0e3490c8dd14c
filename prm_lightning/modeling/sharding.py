"""Spread a PRM's weights over processes with FSDP2, and gather them again to save it."""

from __future__ import annotations

from typing import Any

from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard

from prm_lightning.modeling.prm import PRM


def shard(prm: PRM, mesh: Any) -> None:
    """Give each process of a mesh its part of every weight.

    A decoder layer's weights are together only while that layer computes. What is outside of the
    layers, the float32 head included, is one more such group. Trained and frozen weights may be of
    different dtypes.

    Args:
        prm: whole, the same in every process; its parameters are shards afterwards.
        mesh: of one dimension, a `torch.distributed` device mesh.

    Raises:
        ValueError: the backbone is quantized.
    """
    config = prm.backbone.config
    if config.quantize != "none":
        raise ValueError(
            f"sharding: model.backbone.quantize is {config.quantize!r}, but quantized weights "
            "cannot be sharded. Set it to none, or give every device the whole model with "
            "--trainer.strategy ddp."
        )
    layers = set(prm.backbone.causal_lm._no_split_modules or ())
    for module in list(prm.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    fully_shard(prm, mesh=mesh)


def gather_weights(prm: PRM) -> dict[str, Any] | None:
    """What `PRM.save_pretrained` needs of a sharded model; every process takes part.

    Returns:
        Whole weights on the CPU in process 0, of a model with adapters the trained ones alone, and
        nothing in the others; None for a model that is not sharded.
    """
    if not isinstance(prm, FSDPModule):
        return None
    options = StateDictOptions(
        full_state_dict=True,
        cpu_offload=True,
        ignore_frozen_params=prm.manifest.backbone.lora is not None,
    )
    return get_model_state_dict(prm, options=options)
