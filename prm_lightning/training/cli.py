"""LightningCLI of `fit`, `validate`, `test` and `predict`.

In: a command line or a YAML file. Out: the folder of a run. Read next: `module.py`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from textwrap import wrap
from typing import Any

from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.utilities import rank_zero_only

from prm_lightning.batching.datamodule import PRMDataModule
from prm_lightning.command import OneLineParser
from prm_lightning.files import disk_faults_named, near_path, write_json, write_rows
from prm_lightning.sources.rows import DATA_SUFFIXES
from prm_lightning.terminal import quieten_libraries
from prm_lightning.training.callbacks import (
    KeepModels,
    RunProgress,
    RunReport,
    Throughput,
    defined,
)
from prm_lightning.training.checkpoints import StepCheckpoints, WholeCheckpointIO, newest_whole
from prm_lightning.training.guards import FiniteSteps, Guards
from prm_lightning.training.module import PRMModule
from prm_lightning.training.pictures import Pictures
from prm_lightning.training.run_folder import (
    CutBackLogs,
    RunCSVLogger,
    RunTensorBoard,
    check_folder,
    locked,
    log_lightning,
    prepare_folder,
    quiet_lightning,
    remove,
    run_record,
)

for _name in ("fsdp2", "modelparallelstrategy"):  # Lightning looks names up in small letters
    StrategyRegistry.register(_name, ModelParallelStrategy, override=True)

SEED = 17
SHOWN = (  # what `--help` lists
    "config", "output", "overwrite", "ckpt_path", "checkpoint_every", "monitor",
    "data.sources", "data.val_sources", "data.test_sources", "data.predict_sources",
    "data.val_ratio", "data.balance", "data.template", "data.max_tokens", "data.tokens_per_batch",
    "data.solutions_per_step", "model.backbone.name", "model.backbone.quantize",
    "model.backbone.lora", "model.head", "model.loss", "model.lm_loss", "model.lr",
    "model.schedule", "model.init_from", "trainer.max_epochs", "trainer.max_steps",
    "trainer.val_check_interval", "trainer.devices", "trainer.precision",
)  # fmt: skip
OWN = {"data.test_sources": "test", "data.predict_sources": "predict"}  # shown by that verb alone
HELP = {  # in place of words that say less
    "ckpt_path": "`last`: the run's newest whole checkpoint; or a checkpoint file",
    "data.template": "`chat`, `plain` or `guide`: the text around problem and steps",
    "trainer.val_check_interval": "share of an epoch (1.0) or number of batches (100) in between",
    "trainer.precision": "`32-true`, `bf16-mixed` or `16-mixed`",
}


class Parser(OneLineParser, LightningArgumentParser):
    """Options of a Lightning verb; its help shows those that matter."""

    def format_help(self, *args: Any) -> str:
        """The options of `SHOWN`; `HelpAll` shows the others too."""
        program = self.prog.replace(" [options]", "")
        lines = [f"usage: {program} --config FILE [options]"]
        group = None
        for name in SHOWN:
            action = self._option_string_actions.get(f"--{name}")
            if action is None or not program.endswith(OWN.get(name, "")):  # of another verb
                continue
            section = name.rpartition(".")[0].partition(".")[0]
            if section != group:
                group = section
                lines.append("")
            said = " ".join((action.help or "").split()).partition(". ")[0].rstrip(".")
            text = HELP.get(name) or said
            if action.default not in (None, False, argparse.SUPPRESS):
                text += f" (default: {action.default})"
            lines += wrap(f"  --{name:27} {text}", 98, subsequent_indent=" " * 32)
        return "\n".join([*lines, "", "--help_all lists the rest, such as Lightning's.", ""])


class HelpAll(argparse.Action):
    """``--help_all``: every option."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        """Print them, and end."""
        print(LightningArgumentParser.format_help(parser))  # type: ignore[arg-type]
        parser.exit()


class PRMCLI(LightningCLI):
    """Links model and data, and keeps everything of a run in one folder.

    Args:
        held: what the run holds until it ends, such as the lock of its folder.
        kwargs: see `LightningCLI`.
    """

    def __init__(self, held: ExitStack, **kwargs: Any) -> None:
        self.held = held
        self.verb_parsers: list[LightningArgumentParser] = []  # fit, validate, test, predict
        super().__init__(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Top-level options and what one part needs to know of the other."""
        self.verb_parsers.append(parser)
        add, suppress = parser.add_argument, argparse.SUPPRESS
        output = "folder of the run (default: outputs/ and the name of the config file)"
        add("--output", "--out", "--output_dir", type=str, default=None, help=output)
        add("--overwrite", action="store_true", help="replace what a run left in the folder")
        sources = parser._option_string_actions["--data.sources"]
        sources.required, sources.default = False, []  # `test` and `predict` have their own
        models = "optimizer steps between models that stay, in checkpoint-500 and so on; 0: none"
        metric = "validation metric, without val/, that chooses best_model"
        for name, default, text in (
            ("keep", 2, "step checkpoints that are kept (-1: all, 0: last.ckpt alone)"),
            ("checkpoint_every", 500, "optimizer steps between checkpoints"),
            ("monitor", "processbench_f1", metric),
            ("save_models_every", 0, models),
        ):
            add(f"--{name}", type=type(default), default=default, help=text)
        add("--help_all", action=HelpAll, nargs=0, default=suppress, help="show them all")
        parser.link_arguments("data.template", "model.template")
        parser.link_arguments("data.step_end", "model.step_end")
        parser.link_arguments("model.reward_as", "data.reward_as")
        parser.link_arguments("seed_everything", "data.seed", data_seed)
        parser.link_arguments("model", "data.encoder", lambda m: m.encoder, apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Nothing: a checkpoint holds no settings; Lightning would read all of it to find out."""

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.config[self.subcommand].output)

    def before_instantiate_classes(self) -> None:
        """Name the run's folder, and refuse to mix two runs in it."""
        config = self.config[self.subcommand]
        config.data.seed = data_seed(config.seed_everything)  # `true` is a number by now
        require_files(config.data.as_dict())
        if (name := config.get("ckpt_path")) not in (None, "last") and not Path(name).exists():
            raise ValueError(
                f"checkpoint: there is none at {name!r}.{near_path(name)} Give `last`."
            )
        if config.output is None:
            files = config.get("config") or []
            name = Path(str(files[-1])).stem if files else "run"
            config.output = str(Path("outputs") / name)
        if self.subcommand == "fit" and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            self.record = run_record(self.verb_parsers[0].dump(config, skip_unset=False))
            self.held.enter_context(locked(self.folder))
            self.replaced = check_folder(
                self.folder, self.record, overwrite=config.overwrite, resume=bool(config.ckpt_path)
            )
            log_lightning(self.folder, self.held)

    def instantiate_classes(self) -> None:
        """Build what the configuration names."""
        try:
            super().instantiate_classes()
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            absent = re.search("Requirement '(.+?)' not met", str(error))  # as loggers put it
            if isinstance(error, ValueError) and absent is None:
                raise
            if absent is None:
                raise ValueError(f"{self.subcommand}: {' '.join(str(error).split())}") from error
            raise ValueError(
                f"{self.subcommand}: the configuration names a class that needs {absent[1]}, which "
                f"is not installed. Install it: pip install '{absent[1]}'."
            ) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer of the configuration, with the run's loggers and callbacks."""
        config = self.config_init[self.subcommand].trainer
        kwargs["reload_dataloaders_every_n_epochs"] = 1  # every epoch has its own plan
        if self.subcommand != "fit":
            return super().instantiate_trainer(logger=False, **kwargs)
        if config.logger is not False:
            others = [] if config.logger is True else as_list(config.logger)
            events = RunTensorBoard(self.folder, name="", version="", default_hp_metric=False)
            kwargs["logger"] = [events, RunCSVLogger(self.folder), *others]
        kwargs["callbacks"] = self._run_callbacks() + (config.callbacks or [])
        kwargs["plugins"] = [*as_list(config.plugins), WholeCheckpointIO()]
        return super().instantiate_trainer(**kwargs)

    def before_fit(self) -> None:
        """Write config.yaml, and the hyper-parameters to the loggers."""
        if self.trainer.is_global_zero:
            self.datamodule.setup("fit")  # a run is not removed for one whose data cannot be read
            remove(self.replaced)
        self.resumed = self.config_init[self.subcommand].ckpt_path
        if self.resumed == "last":
            self.resumed = newest_whole(self.folder / "checkpoints")
        if self.trainer.is_global_zero:
            prepare_folder(self.folder, self.record, resumed=bool(self.resumed))
        settings = self.config["fit"].model.as_dict()
        for logger in self.trainer.loggers:
            if not (self.resumed and isinstance(logger, TensorBoardLogger)):  # has them already
                logger.log_hyperparams(settings)

    def fit(self, **kwargs: Any) -> None:
        """Train; ``--ckpt_path last`` takes the newest whole checkpoint, or starts without any."""
        if self.resumed:
            self.trainer.num_sanity_val_steps = 0  # its metrics would replace those of the run
        with disk_faults_named(self.folder):
            self.trainer.fit(**{**kwargs, "ckpt_path": self.resumed})

    def after_test(self) -> None:
        """Write test.json, every metric that the test data define."""
        path = self.folder / "test.json"
        write_json(path, defined(self.model.last_metrics))
        print(f"metrics  {path}")

    def predict(self, **kwargs: Any) -> None:
        """Write predictions.jsonl."""
        devices = self.trainer.world_size
        if devices > 1:
            raise ValueError(f"predict: runs on one device, got {devices}: --trainer.devices 1.")
        found = self.trainer.predict(**kwargs) or []
        names = self.datamodule.sides["predict"].data.solution_names
        rows = sorted({i: scores for batch in found for i, scores in batch}.items())
        path = self.folder / "predictions.jsonl"
        write_rows(path, ({"id": names[i], "scores": scores} for i, scores in rows))
        print(f"predictions  {path}")

    def _run_callbacks(self) -> list[Any]:
        config = self.config["fit"]
        callbacks: list[Any] = [
            Guards(),
            CutBackLogs(self.folder),
            FiniteSteps(self.folder),
            Throughput(),
            KeepModels(self.folder, config.monitor, config.save_models_every),
            Pictures(),
            RunReport(self.folder),
        ]
        if config.trainer.enable_progress_bar is not False:
            callbacks.append(RunProgress())
        if config.trainer.enable_checkpointing is not False:
            folder = self.folder / "checkpoints"
            callbacks.append(StepCheckpoints(folder, config.checkpoint_every, config.keep))
        return callbacks


def data_seed(seed_everything: bool | int) -> int:
    """The seed of the split and of the order of batches, which always have one."""
    return SEED if isinstance(seed_everything, bool) else seed_everything


def require_files(data: Any) -> None:
    """Refuse settings that name a file of rows that is not there before a backbone is fetched."""
    if isinstance(data, str) and data.endswith(DATA_SUFFIXES) and not Path(data).exists():
        raise FileNotFoundError(
            f"data: there is no file {data!r}.{near_path(data)} Give a file, a folder or a Hub id "
            "that exists."
        )
    if isinstance(data, Mapping):
        data = list(data.values())
    for value in data if isinstance(data, list) else ():
        require_files(value)


def as_list(value: Any) -> list[Any]:
    """None, one thing or several as a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def name_sources(args: Sequence[str]) -> list[str]:
    """A command line in which ``--data rows.jsonl`` is ``--data.sources rows.jsonl``.

    `test` and `predict` have sources of their own. With a YAML or JSON file, `--data` stays what it
    is for Lightning: options of the data module.
    """
    named = list(args)
    own = f"{args[0]}_" if args[:1] in (["test"], ["predict"]) else ""
    for k, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        value = value if equals else next(iter(args[k + 1 : k + 2]), "")
        if option == "--data" and not value.endswith((".yaml", ".yml", ".json", "}")):
            named[k] = f"--data.{own}sources{equals}{value if equals else ''}"
    return named


def main(args: list[str] | None = None) -> Path | None:
    """Run one of Lightning's verbs.

    Returns:
        The folder of a run that `fit` has ended, in the one process that writes it; else None.
    """
    quieten_libraries()
    if args is None:
        sys.argv[1:] = name_sources(sys.argv[1:])
    with quiet_lightning(), ExitStack() as held:
        try:
            cli = PRMCLI(
                held,
                model_class=PRMModule,
                datamodule_class=PRMDataModule,
                save_config_callback=None,
                seed_everything_default=SEED,
                trainer_defaults={
                    "use_distributed_sampler": False,  # plans are sharded already
                    "gradient_clip_val": 1.0,
                    "log_every_n_steps": 10,
                    "enable_model_summary": False,  # `RunReport` says what is trained
                },
                load_from_checkpoint_support=False,
                auto_configure_optimizers=False,  # `PRMModule.configure_optimizers` makes them
                parser_class=Parser,
                parser_kwargs={"prog": "python -m prm_lightning"},
                args=args if args is None else name_sources(args),
            )
        except MisconfigurationException as error:
            said = " ".join(str(error).split())
            if "gpu backend" in said:
                said += " Take --trainer.accelerator cpu, or install a torch that suits the GPU."
            raise ValueError(f"trainer: {said}") from error
    return cli.folder if cli.subcommand == "fit" and cli.trainer.is_global_zero else None
