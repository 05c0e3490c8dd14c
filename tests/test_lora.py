"""Adapters fused with their layers compute what PEFT's own forward and backward pass do."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.testing import assert_close

from prm_lightning.modeling.backbone import Backbone, Lora, load_backbone, native_dtype
from prm_lightning.modeling.lora import FusedLinear, fuse_adapters


class Two(nn.Module):
    """A layer with and one without a bias."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(24, 40), nn.Linear(40, 24, bias=False)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def adapted(dtype=torch.float32, **settings):
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["first", "second"], **settings)
    model = get_peft_model(Two().to(dtype), config, autocast_adapter_dtype=True)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model


def outcome(model, x, dtype=torch.float32):
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = model(x)
    out.float().pow(2).sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return out, x.grad, grads


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_output_and_gradients_are_those_of_peft(dtype, tolerance):
    plain = adapted(dtype)
    fused = copy.deepcopy(plain)
    assert fuse_adapters(fused) == 2
    x = torch.randn(3, 5, 24, dtype=dtype)
    expected, found = outcome(plain, x, dtype), outcome(fused, x, dtype)
    assert found[0].dtype == expected[0].dtype
    assert found[2].keys() == expected[2].keys() and len(found[2]) == 4
    pairs = [*zip(found[:2], expected[:2], strict=True)]
    pairs += [(found[2][name], expected[2][name]) for name in expected[2]]
    for mine, theirs in pairs:
        assert mine.dtype == theirs.dtype
        scale = theirs.float().abs().max().item()
        assert_close(mine.float(), theirs.float(), rtol=0, atol=tolerance * scale)


def test_the_gradient_is_that_of_finite_differences():
    model = adapted().double()
    fuse_adapters(model)
    x = torch.randn(4, 24, dtype=torch.float64, requires_grad=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert torch.autograd.gradcheck(lambda x, *_: model(x), (x, *trained))


def test_adapters_can_still_be_switched_off_and_merged():
    model = adapted()
    x = torch.randn(2, 24)
    with model.disable_adapter():
        bare = model(x)
    fuse_adapters(model)
    with model.disable_adapter():
        assert torch.equal(model(x), bare)
    whole = model(x)
    assert not torch.allclose(whole, bare)
    assert_close(model.merge_and_unload()(x), whole)


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.1}, {"use_dora": True}])
def test_other_adapters_are_left_to_peft(settings):
    assert fuse_adapters(adapted(**settings)) == 0


@pytest.mark.parametrize(("quantize", "fused"), [("none", True), ("nf4", False)])
def test_a_backbone_runs_fused_unless_it_is_quantized(tiny_model_folder, quantize, fused):
    folder = str(tiny_model_folder("qwen3", hidden_size=64, intermediate_size=128))
    model = load_backbone(Backbone(folder, quantize=quantize, lora=Lora(r=4)))
    adapters = [m for m in model.modules() if hasattr(m, "lora_A")]
    assert len(adapters) == 14
    assert all(isinstance(m, FusedLinear) == fused for m in adapters)
    assert fused or not any(type(m) is Linear for m in adapters)


def test_auto_is_float32_where_a_processor_emulates_bfloat16(monkeypatch):
    for has, dtype in (({"avx2": True}, "float32"), ({"avx512_bf16": True}, "bfloat16")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has)
        native_dtype.cache_clear()
        assert Backbone("x").settled().dtype == dtype
        assert Backbone("x", dtype="bfloat16").settled().dtype == "bfloat16"
    native_dtype.cache_clear()
