"""Load a causal language model, quantize it, add LoRA, and run it over token trees.

In: the rows of a `StepBatch`. Out: hidden states, which `heads.py` reads. Next: `attention.py` for
the masks, `locate.py` for where a model is, and `step_model.py`, which puts the parts together.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prm_lightning.modeling import attention
from prm_lightning.modeling.cpu import speed_up
from prm_lightning.modeling.locate import explained as explained  # others import them from here
from prm_lightning.modeling.locate import hub_token as hub_token
from prm_lightning.modeling.locate import load_tokenizer as load_tokenizer
from prm_lightning.modeling.locate import locate as locate
from prm_lightning.terminal import quiet_libraries

Quantize = Literal["none", "int8", "nf4"]
Dtype = Literal["float32", "bfloat16"]
AnyDtype = Literal["auto", "float32", "bfloat16"]
Attention = Literal["sdpa", "flex"]
Kernels = Literal["auto", "plain", "liger", "compiled"]

# Settings by which some models change logits after the LM head.
LOGIT_CHANGES = ("final_logit_softcapping", "logits_scaling", "logit_scale")


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685).

    Args:
        r: rank of the low-rank products, >= 1.
        alpha: scale; an adapter's output is multiplied by ``alpha / r``.
        dropout: in [0, 1), on an adapter's input.
        target_modules: names of the layers that get one; `all-linear` is every linear layer
            but the LM head.
        train_step_end: also train the embedding of the step end, for a spare token that the
            model has never seen.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"
    train_step_end: bool = False


@dataclass(frozen=True)
class Backbone:
    """Which language model reads the solution, and how it is held in memory.

    Args:
        name: a Hub id, a folder, a ``.gguf`` file, or ``package://PACKAGE/FILE.gguf`` for a file
            inside an installed Python package. It names the tokenizer too.
        revision: branch, tag or commit on the Hub.
        quantize: `nf4` and `int8` through bitsandbytes; `none`. A GGUF file is dequantized first.
        dtype: of the frozen weights and of the computation; `auto` is `native_dtype`. Trained
            weights are float32.
        lora: null trains all weights.
        attention: `sdpa` with a dense mask; `flex` with FlexAttention's block mask, on CUDA.
        gradient_checkpointing: recompute activations in the backward pass: less memory, a third
            more time.
        kernels: what decoder layers are computed by in training: `plain` PyTorch, the kernels of
            `liger`, or layers `compiled` by `torch.compile`. `auto` is `liger` on a GPU where
            it is installed, else `plain`. See docs/performance.md.
        trust_remote_code: run Python code that comes with the model.
    """

    name: str
    revision: str | None = None
    quantize: Quantize = "none"
    dtype: AnyDtype = "auto"
    lora: Lora | None = field(default_factory=Lora)
    attention: Attention = "sdpa"
    gradient_checkpointing: bool = False
    kernels: Kernels = "auto"
    trust_remote_code: bool = False

    def settled(self) -> Backbone:
        """The same, with the dtype that `auto` means on this computer."""
        return replace(self, dtype=native_dtype()) if self.dtype == "auto" else self


class TreeModel(nn.Module):
    """A causal language model that reads token trees and gives back hidden states.

    Args:
        model: a `transformers` causal language model, with or without PEFT adapters.
        config: how it was made, settled.

    Raises:
        ValueError: the model cannot read trees.
    """

    def __init__(self, model: Any, config: Backbone) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.compiled = False
        text_config = self._text_config
        self.hidden_size = int(text_config.hidden_size)
        self.context = attention.context_of(text_config)  # most tokens that a path may have
        # Length beyond which a path needs forward passes of its own; None for most models.
        self.rope_switch = attention.rope_switch(text_config)
        self.reading = speed_up(self.causal_lm)

    @property
    def _text_config(self) -> Any:
        return self.causal_lm.config.get_text_config()

    @property
    def causal_lm(self) -> Any:
        """The language model below the adapters."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def precision(self) -> AbstractContextManager[None]:
        """Computes in the backbone's dtype; trained float32 weights are cast on the way."""
        low = self.config.dtype == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        subtree_end: Tensor,
        read: Tensor | None = None,
    ) -> Tensor:
        """Hidden states after the last norm.

        Args:
            input_ids: ``(R, T)`` int64, see `StepBatch`, as `position_ids` and `subtree_end`.
            read: int64 of any shape, flat indices into R*T of the nodes whose hidden states are
                read; None is all. On a CPU most of the last layer is computed for them alone.

        Returns:
            ``(R, T, H)`` in the backbone's dtype; values at nodes that are not read mean nothing.
        """
        mask = attention.tree_masks(self._text_config, subtree_end, position_ids)
        if self.compiled or self.config.gradient_checkpointing:  # which computes once more later
            read = None
        with self.precision(), self.reading(read, input_ids.shape):
            # A cache would make transformers ignore how trees lie side by side in a row.
            out = self.causal_lm.base_model(
                input_ids=input_ids,
                position_ids=position_ids,
                attention_mask=mask,
                use_cache=False,
            )
        return out.last_hidden_state  # type: ignore[no-any-return]

    def extend(self, input_ids: Tensor, depths: Tensor, sees: Tensor, cache: Any) -> Tensor:
        """``(Q, H)`` hidden states of nodes that come after those of a cache, which takes them up.

        Args:
            input_ids: ``(Q,)`` int64 of the new nodes.
            depths: see `attention.extended_masks`, as `sees`.
            cache: a `transformers` cache of N nodes, one batch row; it holds N + Q afterwards.
        """
        if self.config.attention != "sdpa":
            raise ValueError(
                f"backbone: attention={self.config.attention!r} cannot extend a cache, which needs "
                "a dense mask. Load the model with attention 'sdpa'."
            )
        with self.precision():
            out = self.causal_lm.base_model(
                input_ids=input_ids[None],
                position_ids=depths[None, -len(input_ids) :],
                attention_mask=attention.extended_masks(self._text_config, sees, depths),
                past_key_values=cache,
                use_cache=True,
            )
        return out.last_hidden_state[0]  # type: ignore[no-any-return]

    @property
    def lm_head(self) -> Tensor:
        """``(V, H)``, the output embeddings, which the LM loss and the head `likelihood` need.

        Raises:
            ValueError: the model has none, or changes its logits after them.
        """
        head, config = self.causal_lm.get_output_embeddings(), self._text_config
        changed = [name for name in LOGIT_CHANGES if getattr(config, name, None) not in (None, 1.0)]
        weight: Tensor | None = getattr(head, "weight", None)
        if weight is None or not weight.is_floating_point() or changed:
            why = f"its config sets {changed[0]}" if changed else "it has no plain LM head"
            raise ValueError(
                f"model.lm_loss: {self.config.name!r} gives no probabilities of tokens: {why}. "
                "Set model.lm_loss to 0, and model.head to scalar if it is likelihood."
            )
        return weight

    def lm_head_rows(self, ids: list[int]) -> Tensor:
        """``(len(ids), H)`` float32, rows of the LM head."""
        weight: Tensor = self.causal_lm.get_output_embeddings().weight
        return weight[ids].detach().float()


@quiet_libraries()
def load_backbone(
    config: Backbone,
    *,
    trained_tokens: list[int] | None = None,
    saved: Path | None = None,
    device: str | torch.device | None = None,
) -> TreeModel:
    """The language model of `config`, ready to train.

    Args:
        trained_tokens: ids whose embedding is trained, if `config.lora` asks for it.
        saved: a model folder whose adapters, or full weights, take the place of fresh ones.
        device: where weights are read to; None takes the CPU, and for quantized ones the current
            GPU if there is one.

    Raises:
        ValueError: the model cannot be found or read, or the settings do not go together.
    """
    config = config.settled()
    full = saved is not None and config.lora is None
    # Full fine-tuning needs float32 weights: bf16 loses small updates.
    dtype = torch.float32 if config.lora is None else None
    model = load_language_model(config, weights=saved if full else None, dtype=dtype, device=device)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.lora is not None and saved is not None:
        from peft import PeftModel

        with explained(str(saved)):
            model = PeftModel.from_pretrained(model, saved, is_trainable=True)
    else:
        model = _add_lora(model, config.lora, trained_tokens)
    for module in model.modules():
        if hasattr(module, "lora_A"):  # PEFT would copy its input in float32 for the same bits
            module.cast_input_dtype_enabled = False
    return TreeModel(model, config)


def load_language_model(
    config: Backbone,
    *,
    weights: Path | None = None,
    adapters: Path | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    kind: str = "AutoModelForCausalLM",
) -> Any:
    """A model of `transformers` as `config` says, without fresh adapters.

    Args:
        weights: a folder whose full weights take the place of those of ``config.name``.
        adapters: a folder of PEFT, merged into the weights, or added to quantized ones.
        dtype: of the weights; None takes that of the computation.
        device: see `load_backbone`.
        kind: the class of `transformers` that reads the weights.

    Raises:
        ValueError: the model cannot be found or read.
    """
    config = config.settled()
    dtype = dtype or getattr(torch, config.dtype)
    with explained(config.name):
        import transformers

        quantization = None
        if config.quantize != "none":
            quantization = transformers.BitsAndBytesConfig(  # type: ignore[no-untyped-call]
                load_in_8bit=config.quantize == "int8",
                load_in_4bit=config.quantize == "nf4",
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=getattr(torch, config.dtype),
            )
        model: Any = getattr(transformers, kind).from_pretrained(
            str(weights or locate(config.name, dtype)),
            revision=config.revision,
            dtype=dtype,
            # None is sdpa, or eager for the few models that have no sdpa.
            attn_implementation="flex_attention" if config.attention == "flex" else None,
            trust_remote_code=config.trust_remote_code,
            token=hub_token(),
            quantization_config=quantization,
            device_map=None if device is None else {"": str(device)},
        )
        _use_plain_nf4_layout(model)
        if adapters is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapters)
            if config.quantize == "none":
                model = model.merge_and_unload()
    return model


@lru_cache
def native_dtype() -> Dtype:
    """The dtype to compute in: bfloat16 where the GPU, or else the processor, multiplies in it.

    Elsewhere it is emulated, which takes several times as long as float32.
    """
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = torch.cpu.get_capabilities()
        native = any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bfloat16" if native else "float32"


def pick_device(device: str | torch.device | None) -> str:
    """The device to compute on; None takes the first GPU if there is one, else the CPU.

    Raises:
        ValueError: this machine, or this build of torch, has no such device.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: got {device!r}, expected cpu, cuda or cuda:1.") from None
    count = torch.cuda.device_count()
    if wanted.type == "cuda" and (wanted.index or 0) >= count:
        raise ValueError(
            f"device: {str(device)!r} is not there: CUDA finds {count} GPUs on this machine. Give "
            "cpu, or leave the device out."
        )
    return str(device)


def _use_plain_nf4_layout(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights in eval mode.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks a layer's weight at its first forward in
    eval mode and reads the repacked bytes as if they were plain ones in every later backward pass
    and dequantization: gradients and merges are garbage, without an error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _add_lora(model: Any, lora: Lora | None, trained_tokens: list[int] | None) -> Any:
    if lora is None:
        if getattr(model, "is_quantized", False):
            raise ValueError(
                "backbone: a quantized model cannot be trained in full. "
                "Set model.backbone.lora, or model.backbone.quantize: none."
            )
        if not model.config.get_text_config().tie_word_embeddings:
            model.get_output_embeddings().requires_grad_(False)  # not read: DDP would wait for it
        return model
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        trainable_token_indices=trained_tokens if lora.train_step_end else None,
    )
    return get_peft_model(model, adapters)
