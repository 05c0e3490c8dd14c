"""Faster forward passes: the same gradients, and the plain path where they are not."""

import shutil
from importlib.util import find_spec
from unittest.mock import Mock

import pytest
import torch
from lightning import Trainer
from test_prm import batches_of, gradients, rollouts, tiny_prm, tolerance
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from prm_lightning.modeling.kernels import switch, use_kernels
from prm_lightning.modeling.losses import reward_weighted_loss
from prm_lightning.training.module import PRMModule

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"
)


def gradients_of(prm):
    """Of batches of several shapes."""
    for batch in batches_of(prm, rollouts(6, seed=3), tokens_per_batch=512):
        assert len(batch.input_ids) > 1
        loss = reward_weighted_loss(prm(batch), batch.labels, batch.weights, batch.total_weight)
        loss.backward()
    found = gradients(prm)
    prm.zero_grad()
    return found


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_give_the_same_gradients(tiny_model_folder, checkpointing):
    prm = tiny_prm(tiny_model_folder("qwen3"), gradient_checkpointing=checkpointing).train()
    expected = gradients_of(prm)
    torch._dynamo.utils.counters.clear()
    assert use_kernels(prm, "compiled") == "compiled"
    found = gradients_of(prm)
    assert 0 < torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 4
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert_close(gradient, expected[name], rtol=0, atol=tolerance(expected[name]), msg=name)


def wrong(module):
    """A kernel whose gradient is half as much again."""
    plain = module.forward

    def forward(x):
        out = plain(x)
        return out + 0.5 * (out - out.detach())

    return forward


def failing(module):
    def forward(x):
        raise RuntimeError("no such instruction")

    return forward


@pytest.mark.parametrize(
    ("kernel", "dtype", "said"),
    [
        (wrong, "float32", "differ by"),
        (wrong, "bfloat16", "differ by"),
        (failing, "float32", "RuntimeError: no such instruction"),
        (None, "float32", "no layer of this model"),
    ],
)
def test_a_broken_kernel_is_not_used(tiny_model_folder, kernel, dtype, said):
    prm = tiny_prm(tiny_model_folder("qwen3"), dtype=dtype).train()
    expected = gradients_of(prm)
    layers = prm.backbone.causal_lm.model.layers if kernel else []
    forwards = {layer.mlp: kernel(layer.mlp) for layer in layers}
    with pytest.warns(UserWarning, match=said) as warned:
        assert not switch(prm, forwards, "broken")
    assert len(warned) == 1 and "The plain path is used." in str(warned[0].message)
    assert all(p.grad is None for p in prm.parameters())
    for name, gradient in gradients_of(prm).items():
        assert torch.equal(gradient, expected[name]), name


def test_a_right_kernel_is_used_and_leaves_fresh_adapters_as_they_were(tiny_model_folder):
    prm = tiny_prm(tiny_model_folder("qwen3")).train()
    weights = {name: p.detach().clone() for name, p in prm.named_parameters()}
    mlps = [layer.mlp for layer in prm.backbone.causal_lm.model.layers]
    counted = {mlp: Mock(side_effect=mlp.forward) for mlp in mlps}
    assert switch(prm, counted, "counted")
    before = counted[mlps[-1]].call_count
    gradients_of(prm)
    assert before and counted[mlps[-1]].call_count > before
    assert all(torch.equal(p, weights[name]) for name, p in prm.named_parameters())


def test_auto_is_plain_on_a_cpu(tiny_model_folder):
    prm = tiny_prm(tiny_model_folder()).train()
    assert use_kernels(prm, "auto") == use_kernels(prm, "plain") == "plain"
    with pytest.raises(ValueError, match="needs a CUDA device and the package liger-kernel"):
        use_kernels(prm, "liger")


@pytest.mark.gpu
@pytest.mark.skipif(find_spec("liger_kernel") is None, reason="liger-kernel is not installed")
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_liger_kernels_give_the_same_gradients(tiny_model_folder, kind):
    prm = tiny_prm(tiny_model_folder(kind)).to("cuda").train()
    assert use_kernels(prm, "liger") == "liger"


def test_nf4_adapters_need_no_copy_of_their_input_in_float32(tiny_model_folder):
    folder = tiny_model_folder("qwen3", hidden_size=64, intermediate_size=128)
    prm = tiny_prm(folder, quantize="nf4", dtype="bfloat16").train()
    adapted = [m for m in prm.modules() if hasattr(m, "lora_A")]
    assert len(adapted) == 14 and not any(m.cast_input_dtype_enabled for m in adapted)
    found = gradients_of(prm)
    for module in adapted:
        module.cast_input_dtype_enabled = True
    for name, gradient in gradients_of(prm).items():
        assert torch.equal(gradient, found[name]), name


@pytest.mark.parametrize("fused", [(True, None), (None, True)])
def test_a_run_resumes_from_the_other_kind_of_adamw(fused):
    """A GPU's optimizer is fused; a CPU's, and that of earlier releases, is not."""
    alone, resumed = (torch.nn.Parameter(torch.linspace(-2, 2, 50)) for _ in range(2))
    whole = torch.optim.AdamW([alone], lr=0.1)
    first, second = (torch.optim.AdamW([resumed], lr=0.1, fused=kind) for kind in fused)
    for step in range(6):
        if step == 3:
            second.load_state_dict(first.state_dict())
        for weight, optimizer in ((alone, whole), (resumed, first if step < 3 else second)):
            weight.grad = torch.sin(weight.detach() * (step % 3 + 2))
            optimizer.step()
    assert_close(resumed, alone)


class Reads(TorchDispatchMode):
    """Counts what makes a processor wait for a GPU: tensors read, or sizes that depend on them."""

    names = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal")
    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found += str(func).startswith(self.names)
        return func(*args, **(kwargs or {}))


def test_a_training_step_waits_for_nothing(tiny_model_folder):
    # On a CPU, checkpointing leaves the last layer as it is on a GPU.
    prm = tiny_prm(tiny_model_folder("qwen3"), gradient_checkpointing=True).train()
    batch = batches_of(prm, rollouts(), tokens_per_batch=256)[0]
    module = PRMModule(prm.manifest.backbone, lm_loss=0.5)
    module.prm = prm
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module.trainer.accumulate_grad_batches = 2
    with Reads() as reads:
        module.training_step(batch, 0).backward()
    assert reads.found == 0
    with reads:
        batch.weights.sum().item()
    assert reads.found == 1
