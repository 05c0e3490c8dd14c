"""Imported models score as the public ones they come from, or are refused."""

import json
import math
import shutil

import pytest
import torch
from conftest import tiny_config
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_public_prms import PROBLEM, SOLUTIONS, adapt, flat, manifest, naive, noisy, save
from transformers import (
    AutoModelForTokenClassification,
    LlamaForCausalLM,
    LlamaForTokenClassification,
)

from prm_lightning.__main__ import call
from prm_lightning.interop import ExportOptions
from prm_lightning.interop.export import export
from prm_lightning.interop.formats import write_weights
from prm_lightning.interop.importing import moved_threshold, shift_of
from prm_lightning.modeling.backbone import Backbone
from prm_lightning.modeling.prm import PRM
from prm_lightning.scoring.scorers import load_scorer
from prm_lightning.training.module import PRMModule


@pytest.fixture(scope="module")
def trl(tokenizer, tmp_path_factory):
    """A token classification model as TRL leaves it, its bias untrained."""
    model = noisy(LlamaForTokenClassification(tiny_config()))
    return save(model, tokenizer, tmp_path_factory.mktemp("trl"))


def run_to(model, output, *options):
    call("import", ["--model", str(model), "--output", str(output), "--dtype", "fp32", *options])
    return output


def run(model, output, *options):
    return PRM.from_pretrained(run_to(model, output, *options))


def require_equal(prm, scorer):
    ours, theirs = (flat(model.score(PROBLEM, SOLUTIONS)) for model in (prm, scorer))
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert max(theirs) - min(theirs) > 0.01  # else anything would be close


def test_a_trl_model_scores_as_trl_reads_it(trl, tmp_path):
    """The prompt, then each step and separator, every piece tokenized on its own; LABEL_1."""
    prm = run(trl, tmp_path / "ours")
    model = AutoModelForTokenClassification.from_pretrained(trl)
    expected = [naive("trl", (trl, model, {}), steps).tolist() for steps in SOLUTIONS]
    assert flat(prm.score(PROBLEM, SOLUTIONS)) == pytest.approx(flat(expected), abs=1e-6)
    assert prm.manifest.head == "classes"
    record = json.loads((tmp_path / "ours" / "import.json").read_text())
    assert record["encoding"] == "exact"
    assert record["parity"]["largest"] <= 1e-6


def test_the_row_called_correct_becomes_the_second(trl, tmp_path):
    swapped = shutil.copytree(trl, tmp_path / "swapped")
    record = json.loads((swapped / "config.json").read_text())
    record |= {"id2label": {"0": "CORRECT", "1": "INCORRECT"}}
    (swapped / "config.json").write_text(json.dumps(record))
    plain, named = (
        flat(run(folder, tmp_path / f"{folder.name} prm").score(PROBLEM, SOLUTIONS))
        for folder in (trl, swapped)
    )
    assert plain == pytest.approx([1 - score for score in named], abs=1e-6)


def test_an_adapter_with_a_head_is_merged(trl, tmp_path):
    adapted = adapt(AutoModelForTokenClassification.from_pretrained(trl), "TOKEN_CLS")
    adapted.save_pretrained(tmp_path / "adapter")
    file = manifest(tmp_path, model="adapter", like="trl")
    require_equal(run(file, tmp_path / "ours"), load_scorer(file))


@pytest.mark.parametrize(
    ("extra", "fields"),
    [
        (True, {"like": "skywork"}),
        (False, {"like": "openr", "layout": "pieces", "prompt": "{problem}", "step_end": "\n\n"}),
        (False, {"like": "math-shepherd", "layout": "chat", "step": "{step}", "step_end": "\n\n"}),
    ],
    ids=["value head", "LM logits", "LM logits in a chat"],
)
def test_heads_of_other_kinds_are_exact(tokenizer, tmp_path, extra, fields):
    value = {"v_head.summary.weight": torch.randn(1, 32), "v_head.summary.bias": torch.zeros(1)}
    model = noisy(LlamaForCausalLM(tiny_config(tie_word_embeddings=False)))
    save(model, tokenizer, tmp_path / "public", value if extra else None)
    file = manifest(tmp_path, model="public", **fields)
    prm = run(file, tmp_path / "ours")
    require_equal(prm, load_scorer(file))
    assert prm.manifest.head == ("scalar" if extra else "token")


@pytest.fixture
def biased(trl, tmp_path):
    """The same with a bias of 0.3 log-odds, as training leaves one."""
    folder = shutil.copytree(trl, tmp_path / "biased")
    tensors = load_file(folder / "model.safetensors")
    tensors["score.bias"] = torch.tensor([0.1, 0.4])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_bias_is_kept_and_trained_further(biased, trl, tmp_path):
    """Everything that `model.init_from` compares comes from the folder itself."""
    prm = run(biased, tmp_path / "ours")
    require_equal(prm, load_scorer(manifest(tmp_path, model=str(biased), like="trl")))
    assert prm.head.bias.tolist() == pytest.approx([0.1, 0.4])
    assert "bias" not in load_file(run_to(trl, tmp_path / "plain") / "head.safetensors")
    folder = str(tmp_path / "ours")
    backbone = Backbone(folder, dtype="float32", lora=None)
    module = PRMModule(backbone, head="classes", init_from=folder, step_end="\n")
    module.configure_model()
    names = {name for name, p in module.named_parameters() if p.requires_grad}
    assert "prm.head.bias" in names
    assert module.model.score(PROBLEM, SOLUTIONS) == prm.score(PROBLEM, SOLUTIONS)
    assert module.encoder.encode(PROBLEM, SOLUTIONS[0]) == prm.encode(PROBLEM, SOLUTIONS[0])
    for format in ("sequence-classification", "causal-lm"):
        with pytest.raises(ValueError, match=rf"{format} (has no place for the bias|needs a tok)"):
            export(ExportOptions(folder, str(tmp_path / "out"), format))


@pytest.mark.parametrize(
    ("format", "head", "bias"),
    [("token-classification", "linear", [0.1, 0.4]), ("qwen-prm", "two_layer", [0.3])],
)
def test_a_bias_is_exported_and_comes_back(biased, tmp_path, format, head, bias):
    prm = run(biased, tmp_path / "ours")
    record = {"step_end_id": prm.manifest.step_end_id, "branch": ()}
    out = tmp_path / "out"
    options = ExportOptions("", str(out), format, "fp32")
    write_weights(PRM.from_pretrained(tmp_path / "ours"), tmp_path / "ours", out, options, record)
    prm.encoder.tokenizer.save_pretrained(out)
    file = manifest(tmp_path, model=str(out), like="trl", head=head)
    require_equal(prm, load_scorer(file))
    again = run(file, tmp_path / "again")
    require_equal(again, load_scorer(manifest(tmp_path, model=str(biased), like="trl")))
    assert again.head.bias.tolist() == pytest.approx(bias)


def test_a_bias_is_dropped_with_the_threshold(biased, tmp_path, capsys):
    prm = run(biased, tmp_path / "ours", "--bias", "drop")
    assert "BIAS of +0.3 log-odds dropped" in capsys.readouterr().out
    assert prm.threshold == pytest.approx(1 / (1 + math.exp(0.3)))
    scorer = load_scorer(manifest(tmp_path, model=str(biased), like="trl"))
    ours, theirs = (flat(model.score(PROBLEM, SOLUTIONS)) for model in (prm, scorer))
    shifted = torch.logit(torch.tensor(ours, dtype=torch.float64)) + 0.3
    assert shifted.sigmoid().tolist() == pytest.approx(theirs, abs=1e-6)


@given(p=st.floats(0.001, 0.999), threshold=st.floats(0.01, 0.99), bias=st.floats(-3, 3))
def test_the_moved_threshold_flags_the_same_steps(p, threshold, bias):
    assume(abs(p - threshold) > 1e-6)
    without = 1 / (1 + math.exp(bias) * (1 - p) / p)
    assert (without < moved_threshold(threshold, bias)) == (p < threshold)
    assert abs(without - p) <= shift_of(bias) + 1e-9


def test_another_encoding_is_refused_or_measured(trl, tmp_path, capsys):
    file = manifest(
        tmp_path, model=str(trl), like="trl", layout="text", prompt="{problem} ", between=" "
    )
    with pytest.raises(ValueError, match=r"builds its tokens as this project does not.*score --mo"):
        run(file, tmp_path / "ours")
    assert [str(path) for path in tmp_path.iterdir()] == [file]
    run(file, tmp_path / "ours", "--encoding", "nearest")
    assert "NEAREST ENCODING" in capsys.readouterr().out
    record = json.loads((tmp_path / "ours" / "import.json").read_text())
    assert record["encoding"].startswith("nearest")
    assert record["parity"]["largest"] > 1e-3


def test_two_layers_stay_two_layers(tokenizer, tmp_path):
    model = noisy(LlamaForCausalLM(tiny_config()))
    rows = {"score.0.weight": (32, 32), "score.0.bias": (32,), "score.2.weight": (2, 32)}
    head = {name: 0.3 * torch.randn(shape) for name, shape in rows.items()}
    save(model, tokenizer, tmp_path / "public", head | {"score.2.bias": torch.randn(2)})
    file = manifest(tmp_path, model="public", like="qwen-math-prm", step_end="\n")
    prm = run(file, tmp_path / "ours")
    require_equal(prm, load_scorer(file))
    assert prm.manifest.head == "two_layers"
    with pytest.raises(ValueError, match=r"has two layers.* Leave --bias drop out"):
        run_to(file, tmp_path / "dropped", "--bias", "drop")
    with pytest.raises(ValueError, match="nothing holds a head of two layers on a backbone"):
        export(ExportOptions(str(tmp_path / "ours"), str(tmp_path / "out")))


def test_what_cannot_be_imported_is_one_line(trl, tmp_path):
    run(trl, tmp_path / "ours")
    with pytest.raises(FileExistsError, match="ours exists"):
        run(trl, tmp_path / "ours")
    with pytest.raises(ValueError, match="is a model of prm_lightning already"):
        run(tmp_path / "ours", tmp_path / "again")
    with pytest.raises(ValueError, match="cannot load 'nowhere/at-all'"):
        run("nowhere/at-all", tmp_path / "again")
    file = manifest(tmp_path, model=str(trl), like="trl", step_end=" + 12 apples")
    with pytest.raises(ValueError, match="expected exactly one"):
        run(file, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "ours")
    run(trl, link, "--overwrite")
    assert link.is_symlink()
    assert (tmp_path / "ours" / "import.json").is_file()
    (tmp_path / "ours" / "import.json").unlink()  # as if somebody else had made the folder
    with pytest.raises(FileExistsError, match=r"is not replaced: it holds"):
        run(trl, tmp_path / "ours", "--overwrite")
