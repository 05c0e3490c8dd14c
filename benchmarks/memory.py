"""How much memory training takes, by part, from a model's configuration alone.

    python benchmarks/memory.py

prints a table for common models and cards. The formula was found by listing what PyTorch keeps
for the backward pass on a CPU, where a test still compares the two. Of the table one row was
measured on a GPU: docs/memory.md.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any, Literal

from prm_lightning.modeling.backbone import Dtype, Lora

GIB = 2**30
NF4_BLOCK = 64  # weights that share a scale
NF4_SCALES = 256  # scales that share a scale themselves: double quantization
NF4_TABLES = 4 * (16 + 256 + 1)  # bytes of both code books and of the offset, for every layer
TRAINED_BYTES = 4 + 4 + 8  # weight, gradient and AdamW's two moments of a float32 number
OVERHEAD = 0.1  # of what comes and goes: assumed for rounding and gaps in the allocator's blocks
USABLE = 0.9  # of a card: the CUDA context and the libraries' workspaces take the rest

CARDS = (8, 12, 16, 24, 40, 80)  # GiB
MOST_TOKENS = 65536
TOKEN_STEP = 1024

# Published dimensions, so that the table needs no download of gated configurations.
_QWEN3 = {"vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8}
MODELS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-0.6B": _QWEN3
    | {"hidden_size": 1024, "intermediate_size": 3072}
    | {"num_hidden_layers": 28, "num_attention_heads": 16, "tie_word_embeddings": True},
    "meta-llama/Llama-3.2-1B-Instruct": {"vocab_size": 128256, "head_dim": 64}
    | {"hidden_size": 2048, "intermediate_size": 8192, "num_key_value_heads": 8}
    | {"num_hidden_layers": 16, "num_attention_heads": 32, "tie_word_embeddings": True},
    "Qwen/Qwen3-1.7B": _QWEN3
    | {"hidden_size": 2048, "intermediate_size": 6144}
    | {"num_hidden_layers": 28, "num_attention_heads": 16, "tie_word_embeddings": True},
    "Qwen/Qwen3-4B": _QWEN3
    | {"hidden_size": 2560, "intermediate_size": 9728}
    | {"num_hidden_layers": 36, "num_attention_heads": 32, "tie_word_embeddings": True},
    "Qwen/Qwen3-8B": _QWEN3
    | {"hidden_size": 4096, "intermediate_size": 12288}
    | {"num_hidden_layers": 36, "num_attention_heads": 32, "tie_word_embeddings": False},
}


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes at the highest point of a training step.

    Args:
        weights: frozen ones, with the scales of quantized layers.
        trained: trained weights, their gradients and AdamW's state, all float32.
        activations: what all layers keep for the backward pass; with gradient checkpointing the
            input of each.
        recomputed: what one layer keeps while its backward pass runs; 0 without checkpointing.
        mask: the dense attention mask, and the additive copy that the attention kernel makes of
            it and keeps for every layer, with checkpointing for one.
        temporary: the largest short-lived tensors, around the down projection of an MLP.
        overhead: of the allocator.
    """

    weights: int
    trained: int
    activations: int
    recomputed: int
    mask: int
    temporary: int
    overhead: int

    @property
    def total(self) -> int:
        return sum(astuple(self))


@dataclass(frozen=True, slots=True)
class _Shape:
    """Sizes of a decoder with gated MLPs; `normed` are the outputs of q and k norms, 0 or both."""

    vocabulary: int
    hidden: int
    mlp: int
    layers: int
    heads: int
    queries: int
    keys: int
    normed: int
    tied: bool

    @property
    def linears(self) -> list[tuple[int, int]]:
        """Inputs and outputs of a layer's q, k, v, o, gate, up and down projections."""
        h, a, k, m = self.hidden, self.queries, self.keys, self.mlp
        return [(h, a), (h, k), (h, k), (a, h), (h, m), (h, m), (m, h)]

    @property
    def unquantized(self) -> int:
        """Numbers in embeddings, norms and an LM head of its own."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        q_and_k_norms = 2 * (self.queries // self.heads) if self.normed else 0
        return embeddings + self.layers * (2 * self.hidden + q_and_k_norms) + self.hidden

    @property
    def parameters(self) -> int:
        return self.unquantized + self.linear_parameters

    @property
    def linear_parameters(self) -> int:
        return self.layers * sum(i * o for i, o in self.linears)


def estimate_memory(
    config: Any,
    *,
    tokens_per_batch: int,
    row_tokens: int | None = None,
    quantize: Literal["none", "nf4"] = "none",
    lora_rank: int | None = Lora.r,
    gradient_checkpointing: bool = False,
    dtype: Dtype = "bfloat16",
) -> MemoryEstimate:
    """Memory of training a PRM whose backbone is a decoder like Llama or Qwen3.

    With e bytes a number in `dtype`, hidden size H, MLP size M, A outputs of the queries, K of
    the keys and h heads, a layer keeps for every token

    - its MLP: gate, activated gate and up, ``3 M e``;
    - attention: queries, repeated keys and values, outputs, ``4 A e``, and ``4 h``;
    - inputs of its norms in float32, ``8 H``, and ``4 (A + K)`` for norms of queries and keys;
    - inputs of its linear layers, one for all that share it, ``(2 H + M) e``;
    - the adapters' inner values, ``7 r e``.

    Full fine-tuning keeps normalised hidden states too, and in bf16 a copy of them for each linear
    layer that reads them. bf16 adds bf16
    copies of the trained weights. There are no logits over the vocabulary. On a CPU, attention
    of `modeling.cpu` keeps other amounts, which are not counted.

    Args:
        config: a `transformers` configuration.
        tokens_per_batch: rows times row length, >= 1.
        row_tokens: length of a row, <= `tokens_per_batch`; None is one row, the worst case.
        quantize: of all linear layers but the LM head; embeddings, norms and LM head stay.
        lora_rank: of adapters on all linear layers but the LM head; None trains all weights.
        gradient_checkpointing: keep the inputs of layers alone, recompute the rest.
        dtype: of frozen weights and of the computation.

    Raises:
        ValueError: the configuration lacks a size, or quantized weights shall be trained.

    Source: tensors that PyTorch 2 keeps on a CPU, where test_memory.py compares total and parts;
    NF4 with double quantization as in Dettmers et al. 2023, arXiv:2305.14314.
    """
    if lora_rank is None and quantize != "none":
        raise ValueError(
            f"estimate_memory: quantize={quantize!r} with lora_rank=None, but quantized weights "
            "cannot be trained. Give a lora_rank, or quantize='none'."
        )
    shape = _read_shape(config)
    size = 2 if dtype == "bfloat16" else 4
    adapters = shape.layers * sum(i + o for i, o in shape.linears) * (lora_rank or 0)
    fused = lora_rank is not None and quantize == "none"
    kept = tokens_per_batch * _layer_bytes(shape, size, lora_rank)
    casts = (adapters or shape.linear_parameters) * (2 if dtype == "bfloat16" else 0)
    # Behind the last layer: the input of the last norm and, if its weight is trained, its output.
    last = tokens_per_batch * shape.hidden * (8 if lora_rank is None else 4)
    if gradient_checkpointing:
        layers_at_once = 1
        stream = shape.hidden * (4 if lora_rank is None else size)
        activations = shape.layers * tokens_per_batch * stream + last
        # The forward pass holds all casts but those of fused adapters, and no layer; the backward
        # pass one layer with its own.
        recomputed = max(0 if fused else casts, kept + casts // shape.layers)
    else:
        layers_at_once = shape.layers
        activations, recomputed = shape.layers * kept + casts + last, 0
    mask = tokens_per_batch * (row_tokens or tokens_per_batch) * (1 + size * layers_at_once)
    temporary = tokens_per_batch * 2 * size * (shape.mlp + (0 if fused else shape.hidden))
    if quantize == "nf4":
        temporary += size * max(i * o for i, o in shape.linears)  # dequantized while it is used
    return MemoryEstimate(
        weights=0 if lora_rank is None else _frozen_bytes(shape, quantize, size),
        trained=TRAINED_BYTES * (adapters or shape.parameters),
        activations=activations,
        recomputed=recomputed,
        mask=mask,
        temporary=temporary,
        overhead=round(OVERHEAD * (activations + recomputed + mask + temporary)),
    )


def largest_batch(config: Any, card: float, **settings: Any) -> int:
    """Most `tokens_per_batch` that a card holds, at most `MOST_TOKENS`; 0 if not even 1024.

    Args:
        config: see `estimate_memory`.
        card: GiB, of which `USABLE` may be filled.
        settings: the other arguments of `estimate_memory`.
    """
    sizes = range(TOKEN_STEP, MOST_TOKENS + 1, TOKEN_STEP)
    fitting = (
        tokens
        for tokens in reversed(sizes)
        if estimate_memory(config, tokens_per_batch=tokens, **settings).total <= USABLE * card * GIB
    )
    return next(fitting, 0)


def model_config(name: str) -> Any:
    """The `transformers` configuration of one of `MODELS`, without a download."""
    from transformers import LlamaConfig, Qwen3Config

    return (Qwen3Config if "Qwen3" in name else LlamaConfig)(**MODELS[name])


def memory_table() -> str:
    """Markdown: for each of `MODELS` and `CARDS` the largest batch of the shipped settings."""
    settings: dict[str, Any] = {"quantize": "nf4", "gradient_checkpointing": True}
    head = ["model", "weights", "trained", *(f"{card} GB" for card in CARDS)]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name in MODELS:
        config = model_config(name)
        parts = estimate_memory(config, tokens_per_batch=TOKEN_STEP, **settings)
        batches = [largest_batch(config, card, **settings) for card in CARDS]
        fixed = [f"{part / GIB:.2f} GiB" for part in (parts.weights, parts.trained)]
        rows.append([name, *fixed, *(str(tokens or "–") for tokens in batches)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _read_shape(config: Any) -> _Shape:
    text = config.get_text_config()
    try:
        heads = text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // heads
        queries, keys = heads * width, text.num_key_value_heads * width
        return _Shape(
            vocabulary=text.vocab_size,
            hidden=text.hidden_size,
            mlp=text.intermediate_size,
            layers=text.num_hidden_layers,
            heads=heads,
            queries=queries,
            keys=keys,
            normed=queries + keys if text.model_type == "qwen3" else 0,
            tied=text.tie_word_embeddings,
        )
    except AttributeError as error:
        raise ValueError(
            f"estimate_memory: a configuration of type {text.model_type!r} is no decoder like "
            f"Llama or Qwen3 ({error}). Measure such a model instead."
        ) from error


def _frozen_bytes(shape: _Shape, quantize: Literal["none", "nf4"], size: int) -> int:
    per_layer = sum(_linear_bytes(i, o, quantize, size) for i, o in shape.linears)
    return shape.unquantized * size + shape.layers * per_layer


def _linear_bytes(inputs: int, outputs: int, quantize: Literal["none", "nf4"], size: int) -> int:
    count = inputs * outputs
    if quantize == "none":
        return count * size
    scales = -(-count // NF4_BLOCK)
    return -(-count // 2) + scales + 4 * -(-scales // NF4_SCALES) + NF4_TABLES


def _layer_bytes(shape: _Shape, size: int, lora_rank: int | None) -> int:
    """What a layer keeps of a token, see `estimate_memory`."""
    h, a, m = shape.hidden, shape.queries, shape.mlp
    attention = 4 * a * size + 4 * shape.heads
    norms = 4 * (2 * h + shape.normed)
    copied = size == 2 and lora_rank is None
    inputs = ((5 * h if copied else 2 * h) + m) * size
    if lora_rank is None:
        return 3 * m * size + attention + norms + 8 * h + shape.normed * size + inputs
    return 3 * m * size + attention + norms + inputs + 7 * lora_rank * size


if __name__ == "__main__":
    print(memory_table())
