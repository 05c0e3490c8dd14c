"""Adapters fused with their layers compute what PEFT's own forward and backward pass do."""

import copy
import pickle

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.testing import assert_close

from prm_lightning.modeling.backbone import Backbone, Lora, load_backbone
from prm_lightning.modeling.cpu import fuse_adapters


def adapted(dtype=torch.float32, **settings):
    """Layers with and without a bias, and their adapters."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(24, 40), nn.Tanh(), nn.Linear(40, 24, bias=False))
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["0", "2"], **settings)
    model = get_peft_model(layers.to(dtype), config, autocast_adapter_dtype=True)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def outcome(model, x, dtype):
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = model(x)
    out.float().pow(2).sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"out": out, "x": x.grad, **grads}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_output_and_gradients_are_those_of_peft(dtype, tolerance):
    plain = adapted(dtype)
    fused = copy.deepcopy(plain)
    assert fuse_adapters(fused) == 2
    x = torch.randn(3, 5, 24, dtype=dtype)
    expected, found = outcome(plain, x, dtype), outcome(fused, x, dtype)
    assert found.keys() == expected.keys() and len(found) == 6
    for name, theirs in expected.items():
        scale = theirs.float().abs().max().item()
        assert_close(found[name], theirs, rtol=0, atol=tolerance * scale, msg=name)


def test_adapters_can_still_be_switched_off_pickled_and_merged():
    model = adapted()
    x = torch.randn(2, 24)
    with model.disable_adapter():
        bare = model(x)
    fuse_adapters(model)
    with model.disable_adapter():
        assert torch.equal(model(x), bare)
    whole = model(x)
    assert not torch.allclose(whole, bare)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), whole)
    assert_close(model.merge_and_unload()(x), whole)


def test_other_adapters_are_left_to_peft():
    for settings in ({"lora_dropout": 0.1}, {"use_dora": True}):
        assert fuse_adapters(adapted(**settings)) == 0


@pytest.mark.parametrize(("quantize", "fused"), [("none", True), ("nf4", False)])
def test_a_backbone_runs_fused_unless_it_is_quantized(tiny_model_folder, quantize, fused):
    folder = str(tiny_model_folder("qwen3", hidden_size=64, intermediate_size=128))
    model = load_backbone(Backbone(folder, quantize=quantize, lora=Lora(r=4)))
    adapters = [m for m in model.modules() if hasattr(m, "lora_A")]
    assert ["forward" in vars(m) for m in adapters] == [fused] * 14
