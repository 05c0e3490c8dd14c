"""Exported folders score as the model does, read by plain transformers, or are not there."""

import json
import math
import re
import resource
import shutil
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file
from test_prm import LINEAR_HEADS, TEMPLATES, tiny_prm
from transformers import AutoConfig

from prm_lightning.__main__ import call
from prm_lightning.interop import ExportOptions
from prm_lightning.interop.card import read_encoding, scoring_code, write_card
from prm_lightning.interop.formats import write_weights
from prm_lightning.interop.parity import PROBES, compare, probes_for, require_parity
from prm_lightning.modeling.backbone import Lora
from prm_lightning.modeling.prm import PRM
from prm_lightning.scoring.scorers import load_scorer

WIDE = {"hidden_size": 64, "intermediate_size": 128}  # what 4 bits need
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def trained(folder, path, head="scalar", template="chat", **backbone):
    """A model folder of which every trained weight says something."""
    prm = tiny_prm(folder, head, template, **backbone)
    torch.manual_seed(2)
    with torch.no_grad():
        prm.head.weight.normal_(std=0.3)
        if head == "likelihood":
            prm.head.likelihood.fill_(0.1)
            prm.head.bias.fill_(0.4)
        for name, parameter in prm.named_parameters():
            if "trainable_tokens" in name and parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    prm.save_pretrained(path)
    return path


def test_a_likelihood_is_left_out_and_the_threshold_moves(tiny_model_folder, tmp_path, capsys):
    place = trained(tiny_model_folder("llama"), tmp_path / "best_model", "likelihood", "plain")
    asked = ["--model", str(place), "--out", str(tmp_path / "out"), "--dtype", "fp32"]
    call("export", asked)
    assert "likelihood of numbers is left out" in capsys.readouterr().err
    assert "likelihood of numbers is left out" in (tmp_path / "out" / "README.md").read_text()
    exported, prm = load_scorer(str(tmp_path / "out")), PRM.from_pretrained(place, "cpu")
    assert exported.threshold == pytest.approx(1 / (1 + math.exp(0.4 - 2.1)), abs=1e-3)
    prm.head.likelihood = None
    with torch.no_grad():
        prm.head.bias.zero_()
    for ours, theirs in zip(probe(prm), probe(exported), strict=True):
        assert theirs == pytest.approx(ours, abs=1e-4)


def probe(prm):
    return [prm.score(problem, [steps])[0] for problem, steps in PROBES]


def run_card(code):
    """What the lines of a model card say of the probes."""
    names = {}
    exec(code, names)
    return [names["score"](problem, steps) for problem, steps in PROBES]


def write(place, folder, format="token-classification", dtype="fp32", into="dequantized"):
    """An export without the fresh process, and the lines that score with it."""
    prm = PRM.from_pretrained(place, "cpu")
    encoding = read_encoding(prm, format)
    folder.mkdir()
    probe(prm)  # in eval mode, after which some processors dequantize garbage
    options = ExportOptions(str(place), str(folder), format, dtype, merge_into=into)
    write_weights(prm, place, folder, options, asdict(encoding))
    prm.encoder.tokenizer.save_pretrained(folder)
    return scoring_code(str(folder), format, prm, encoding, dtype)


def exported(place, folder, **options):
    """How far apart a model and its export are."""
    ours = probe(PRM.from_pretrained(place, "cpu"))
    flat = [score for row in ours for score in row]
    assert max(flat) - min(flat) > 0.1  # else anything would be close
    return compare(ours, run_card(write(place, folder, **options)), 0.5)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    ("format", "kind", "head"),
    [
        *[("token-classification", "llama", head) for head in LINEAR_HEADS],
        ("token-classification", "qwen3", "scalar"),
        ("sequence-classification", "llama", "token"),
        ("sequence-classification", "qwen3", "token"),
        ("causal-lm", "llama", "token"),
    ],
)
def test_plain_transformers_score_alike(tiny_model_folder, tmp_path, format, kind, head, template):
    place = trained(tiny_model_folder(kind), tmp_path / "best_model", head, template)
    assert exported(place, tmp_path / "out", format=format).largest < 1e-5
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    name = {"llama": "Llama", "qwen3": "Qwen3"}[kind]
    suffix = {"token-classification": "ForTokenClassification", "causal-lm": "ForCausalLM"}
    assert config["architectures"] == [name + suffix.get(format, "ForSequenceClassification")]
    assert "quantization_config" not in config
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    if format == "causal-lm":  # two rows of a head of its own, whose others are the embeddings
        differ = (tensors["lm_head.weight"] != tensors["model.embed_tokens.weight"]).any(dim=1)
        assert differ.sum() == 2
        assert not config["tie_word_embeddings"]
        return
    assert config["id2label"] == {"0": "INCORRECT", "1": "CORRECT"}
    # SGLang fills a missing bias of its Qwen classes at random.
    assert ("score.bias" in tensors) == (format == "sequence-classification" and kind == "qwen3")
    assert not tensors.get("score.bias", torch.zeros(2)).any()


@pytest.mark.parametrize("head", ["classes", "two_layers"])
def test_a_head_becomes_two_layers_and_comes_back(tiny_model_folder, tmp_path, head):
    place = trained(tiny_model_folder("qwen2"), tmp_path / "best_model", head)
    prm = PRM.from_pretrained(place)
    assert exported(place, tmp_path / "out", format="qwen-prm").largest < 1e-5
    if head == "two_layers":
        with pytest.raises(ValueError, match=r"has no place for a head of .*--format qwen-prm"):
            cut(place, out=tmp_path / "other")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForProcessRewardModel"]
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    shapes = {name: tuple(t.shape) for name, t in tensors.items() if name.startswith("score.")}
    assert shapes == {
        "score.0.weight": (32, 32), "score.0.bias": (32,),
        "score.2.weight": (2, 32), "score.2.bias": (2,),
    }  # fmt: skip
    manifest = {"model": ".", "layout": "prm-chat", "head": "two_layer", "step_end": "\n\n"}
    (tmp_path / "out" / "scorer.json").write_text(json.dumps(manifest))
    line = ["--model", str(tmp_path / "out"), "--out", str(tmp_path / "in"), "--dtype=fp32"]
    call("import", line)
    assert compare(probe(prm), probe(PRM.from_pretrained(tmp_path / "in")), 0.5).largest < 1e-6


def test_a_trained_step_end_is_in_the_embeddings(tiny_model_folder, tmp_path):
    lora = Lora(r=4, train_step_end=True)
    place = trained(tiny_model_folder("qwen3"), tmp_path / "best_model", lora=lora)
    prm = PRM.from_pretrained(place)
    assert exported(place, tmp_path / "out").largest < 1e-5
    before = load_file(tiny_model_folder("qwen3") / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    name = "model.embed_tokens.weight"
    changed = (before[name] != after[name]).any(dim=1).nonzero()[:, 0].tolist()
    assert changed == [prm.manifest.step_end_id]


def test_a_full_model_is_rounded_once(tiny_model_folder, tmp_path):
    place = trained(tiny_model_folder(), tmp_path / "best_model", lora=None)
    assert exported(place, tmp_path / "full").largest < 1e-5
    require_parity(exported(place, tmp_path / "half", dtype="bf16"), False, None, "export")
    full, half = (load_file(tmp_path / n / "model.safetensors") for n in ("full", "half"))
    assert all(torch.equal(half[name], full[name].bfloat16()) for name in full)


@pytest.mark.parametrize("quantize", ["nf4", pytest.param("int8", marks=pytest.mark.slow)])
def test_quantized_bases_are_dequantized_and_then_merged(tiny_model_folder, tmp_path, quantize):
    base = tiny_model_folder("qwen3", **WIDE)
    place = trained(base, tmp_path / "m", "classes", quantize=quantize, dtype="bfloat16")
    dequantized = exported(place, tmp_path / "a", dtype="bf16")
    original = exported(place, tmp_path / "b", dtype="bf16", into="original")
    require_parity(dequantized, False, None, "export")
    if quantize == "nf4":  # 8 bits are near the original
        assert dequantized.mean < original.mean / 5


def test_large_differences_and_broken_scores_are_refused():
    parity = compare([[0.5, 0.2]], [[0.5, 0.2001]], 0.5)
    assert (parity.steps, parity.flips) == (2, 0)
    require_parity(parity, False, None, "export")
    require_parity(parity, True, 0.001, "export")
    with pytest.raises(ValueError, match="allowed 1e-05"):
        require_parity(parity, True, None, "export")
    broken = compare([[0.5, 0.2, 0.3]], [[0.5, float("nan"), 0.3]], 0.5)
    with pytest.raises(ValueError, match="largest difference nan"):
        require_parity(broken, False, 1.0, "export")
    with pytest.raises(ValueError, match="another number of scores"):
        compare([[0.5]], [[0.5, 0.2]], 0.5)


def test_the_card_tells_what_was_trained_and_how_to_serve(tiny_model_folder, tmp_path):
    place = trained(tiny_model_folder(), tmp_path / "run" / "best_model")
    prm = PRM.from_pretrained(place)
    counts = {"solutions": 7, "problems": 3, "supervised_steps": 21, "wrong_share": 0.25}
    sources = {"gsm": counts, "own": counts | {"license": "CC-BY-4.0"}}
    (tmp_path / "run" / "data.json").write_text(
        json.dumps({"sources": sources, "fingerprint": "f00"})
    )
    rows = [
        {"problem": p, "labels": labels, "scores": [0.9, last], "first_error": error}
        for p, doubtful in (("Ann?", 0.8), ("Bob?", 0.4), ("Cid?", 0.4))
        for labels, last, error in (([1.0, None], doubtful, -1), ([1.0, 0.0], 0.1, 1))
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "run" / "val_scores.jsonl").write_text(lines)
    encoding = read_encoding(prm, "token-classification")
    parity = compare([[0.5]], [[0.51]], 0.5)

    def card(format):
        run = tmp_path / "run"
        return write_card(prm, run, "prm 4b", format, encoding, "pass", parity)

    text = card("token-classification")
    assert "| gsm | 7 | 3 | 21 | 25.0% | not stated |" in text
    assert "| own | 7 | 3 | 21 | 25.0% | CC-BY-4.0 |" in text
    assert "6 validation solutions (9 labelled steps, 3 problems)" in text
    assert "| AUROC of steps | 1.000 [1.000, 1.000] |" in text
    assert "no flag in right solutions | 0.333 [0.000, 1.000] |" in text
    step = json.dumps({"tok_pooling_type": "STEP", "step_tag_id": prm.manifest.step_end_id})
    assert f"vllm serve 'prm 4b' --runner pooling --pooler-config '{step}'" in text
    assert '--pooler-config \'{"task": "classify"}\'' in text
    bodies = [json.loads(body) for body in re.findall(r"curl .* -d '(.*)'", text)]
    ids = list(prm.encode("What is 2 + 3 * 4?", ["3 * 4 = 12.", "2 + 12 = 14."]).input_ids)
    assert [body["input"] for body in bodies] == [ids, ids]
    assert "sglang.launch_server" in card("sequence-classification")
    assert "--enable-lora --max-lora-rank 4" in card("adapter")


def cut(run, *options, out):
    call("export", ["--model", str(run), "--out", str(out), *options])


def test_what_cannot_be_exported_is_one_line(tiny_model_folder, tmp_path):
    base = shutil.copytree(tiny_model_folder(), tmp_path / "base")
    place = trained(base, tmp_path / "run" / "best_model")
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    full = trained(base, tmp_path / "full", lora=None)
    olmo = trained(tiny_model_folder("olmo"), tmp_path / "olmo")
    cases = [
        (tmp_path / "run", [], r"is a run\. Give its model: --model .*best_model"),
        (tmp_path / "empty", [], r"holds no prm\.json.* resume it with fit"),
        (place, ["--format", "causal-lm"], "needs a token head, this one is scalar"),
        (place, ["--format", "qwen-prm"], "holds Qwen2 and Qwen2.5 backbones, this one is llama"),
        (place, ["--format", "onnx"], "onnx"),
        (full, ["--format", "adapter"], "needs LoRA adapters, this model was trained in full"),
        (olmo, [], r"no token classification class.* OlmoForCausalLM"),
    ]
    for model, options, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            cut(model, *options, out=out)
        assert "\n" not in str(caught.value)
    (tmp_path / "taken").mkdir()
    with pytest.raises(FileExistsError, match="taken exists"):
        cut(place, out=tmp_path / "taken")
    for name in ("notes.txt", "config.json"):  # of somebody's, or of a model from elsewhere
        (tmp_path / "taken" / name).write_text("{}")
        with pytest.raises(FileExistsError, match=r"taken is not replaced: it holds"):
            cut(place, "--overwrite", out=tmp_path / "taken")
        (tmp_path / "taken" / name).unlink()
    shutil.rmtree(base)
    with pytest.raises(ValueError, match=r"there is no folder or file .*base"):
        cut(place, out=out)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_a_probe_is_longer_than_a_sliding_window(tiny_model_folder, tmp_path):
    """A fault of the attention beyond the window shows in no other probe."""
    base = shutil.copytree(tiny_model_folder("mistral", sliding_window=256), tmp_path / "base")
    place = trained(base, tmp_path / "best_model")
    prm = PRM.from_pretrained(place, "cpu")
    *usual, (problem, steps) = probes_for(prm)
    assert usual == PROBES
    assert 1.2 * 256 <= len(prm.encode(problem, steps).input_ids) <= prm.backbone.context
    AutoConfig.from_pretrained(base, sliding_window=None).save_pretrained(base)
    assert probes_for(PRM.from_pretrained(place, "cpu")) == PROBES


def test_a_full_disk_leaves_nothing(tiny_model_folder, tmp_path):
    place = trained(tiny_model_folder(), tmp_path / "run" / "best_model")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))  # bytes a file may have
    try:
        with pytest.raises(OSError, match=r"out cannot be written .* Free some space") as caught:
            cut(place, out=tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "options", "backbone"),
    [
        ("token-classification", ["--dtype", "fp32", "--labels", "LABEL_0/LABEL_1"], {}),
        ("token-classification", [], {"quantize": "nf4", "dtype": "bfloat16"}),
        ("sequence-classification", [], {"dtype": "bfloat16"}),
        ("causal-lm", ["--dtype", "fp32"], {}),
        ("adapter", ["--dtype", "fp32"], {"lora": Lora(r=4, train_step_end=True)}),
    ],
    ids=["labels", "nf4", "bf16", "causal-lm", "adapter"],
)
def test_the_verb_checks_in_a_fresh_process(
    tiny_model_folder, tmp_path, capsys, format, options, backbone
):
    """The lines of the card run as they are, and our own scorer reads the folder too."""
    base = tiny_model_folder("qwen3", **WIDE)
    place = trained(base, tmp_path / "run" / "best_model", "token", **backbone)
    ours = probe(PRM.from_pretrained(place))
    out = tmp_path / "out"
    cut(place, "--format", format, *options, out=out)
    assert "largest difference" in capsys.readouterr().out
    record = json.loads((out / "export.json").read_text())
    limit = 1e-5 if "fp32" in options else 0.1
    assert record["parity"]["largest"] <= limit
    (code,) = CODE.findall((out / "README.md").read_text())
    assert str(out) in code
    assert compare(ours, run_card(code), 0.5).largest <= limit
    assert compare(ours, probe(load_scorer(str(out))), 0.5).largest <= limit
    if "LABEL_0/LABEL_1" in options:
        assert AutoConfig.from_pretrained(out).id2label == {0: "LABEL_0", 1: "LABEL_1"}


@pytest.mark.slow
def test_a_difference_that_is_too_large_leaves_nothing(tiny_model_folder, tmp_path, capsys):
    base = tiny_model_folder("qwen3", **WIDE)
    place = trained(base, tmp_path / "run" / "best_model", quantize="nf4", dtype="bfloat16")
    with pytest.raises(ValueError, match=r"does not score as the model does.*--tolerance"):
        cut(place, "--merge_into", "original", out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    cut(place, "--merge_into", "original", "--tolerance", "1", out=tmp_path / "out")
    assert "bf16, adapters added to the original weights\n" in capsys.readouterr().out
    parity = json.loads((tmp_path / "out" / "export.json").read_text())["parity"]
    assert parity["mean"] > 0.01
