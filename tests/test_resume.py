"""Runs that are killed, stopped or fail on a disk, and what they resume from."""

import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest
from chaos import command, draws, launch, make_model, make_rows, trained_batches
from compared_runs import differences, files_of, metric_rows
from test_training import fit, options  # noqa: F401  a fixture

from prm_lightning.training.checkpoints import (
    STOPPED,
    StepCheckpoints,
    WholeCheckpointIO,
    newest_whole,
)
from prm_lightning.training.cli import main
from prm_lightning.training.module import PRMModule
from prm_lightning.training.run_folder import cut_back, remove


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return make_model(folder / "model"), make_rows(folder / "rows.jsonl")


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    """`run("name", **changes)`: a run of this process with a trace, which is looked at later."""

    def start(name, **changes) -> Path:
        monkeypatch.setenv("CHAOS_TRACE", str(tmp_path / f"{name}.trace"))
        main(command(*tiny, tmp_path / name, **changes)[3:])
        return tmp_path / name

    return start


@pytest.fixture
def stop(monkeypatch):
    """`stop("step:3:0", "SIGTERM")`: send this process a signal at a moment, see `tracing`."""

    def at(moment, name):
        monkeypatch.setenv("CHAOS_KILL", moment)
        monkeypatch.setenv("CHAOS_SIGNAL", name)
        monkeypatch.setenv("CHAOS_ALONE", "1")

    before = signal.getsignal(signal.SIGTERM)  # Ray, in a test before, leaves one of its own
    yield at
    assert signal.getsignal(signal.SIGTERM) is before


SHORT = {"trainer.max_steps": 6, "checkpoint_every": 3}
NO_VALIDATION = {"trainer.max_steps": 14, "trainer.check_val_every_n_epoch": 3}
EPOCH_ENDS = {"trainer.max_epochs": 2, "checkpoint_every": 7}
IN_EPOCHS = {
    "data.solutions_per_step": "null",
    "data.tokens_per_batch": 192,
    "trainer.val_check_interval": 3,
    "checkpoint_every": 3,
    "trainer.max_epochs": 1,
}


def assert_same(whole: Path, part: Path):
    of_content = [x for x in differences(whole, part) if not x.startswith("checkpoints: ")]
    assert of_content == []  # one that was asked to stop has a checkpoint of its own
    expected, found = (trained_batches(path.with_suffix(".trace")) for path in (whole, part))
    assert found == expected


@pytest.mark.slow
def test_a_process_group_killed_while_it_writes_a_checkpoint_loses_nothing(run, tiny, tmp_path):
    dropout = {
        "model.backbone.lora": '{"r": 4, "alpha": 8, "dropout": 0.1}',
        "trainer.devices": 1,  # said, `launch` starts a Python of its own
    }
    whole = run("whole", **dropout)
    (epochs,) = {tuple(sorted(c.items())) for c in draws(
        trained_batches(whole.with_suffix(".trace"))
    ).values()}  # fmt: skip
    assert {count for _, count in epochs} == {1}  # every solution once an epoch
    killed = launch(
        command(*tiny, tmp_path / "part", **dropout, **{"data.num_workers": 1}),
        tmp_path / "part.trace",
        CHAOS_KILL="checkpoint:2:1",
    )
    assert killed.status == -signal.SIGKILL
    assert newest_whole(tmp_path / "part" / "checkpoints")
    assert_same(whole, run("part", **dropout))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "moment"),
    [
        ("SIGTERM", SHORT, "step:3:0"),
        ("SIGUSR1", IN_EPOCHS, "validation:1:0"),
        ("SIGTERM", NO_VALIDATION, "step:6:0"),
    ],
)
def test_a_run_that_is_asked_to_stop_resumes_later(run, stop, capsys, name, changes, moment):
    stop(moment, name)
    with pytest.raises(SystemExit) as stopped:
        run("part", **changes)
    assert stopped.value.code == STOPPED
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("fit: ")]
    assert f"stopped by {name} after optimizer step" in line
    stop("never:0:0", name)
    assert_same(run("whole", **changes), run("part", **changes))


@pytest.mark.slow
def test_a_data_worker_does_not_die_of_a_signal_to_the_job(run, monkeypatch):
    take_step = PRMModule.training_step

    def signal_workers(module, batch, batch_idx):
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGTERM)
        return take_step(module, batch, batch_idx)

    monkeypatch.setattr(PRMModule, "training_step", signal_workers)
    assert (run("run", **SHORT, **{"data.num_workers": 1}) / "final_model").is_dir()


@pytest.mark.slow
def test_all_ranks_stop_at_one_step(tiny, tmp_path):
    changes = {"trainer.devices": 2, "trainer.strategy": "ddp"}
    output, trace = tmp_path / "ddp", tmp_path / "ddp.trace"
    heard = {"CHAOS_KILL": "step:3:0", "CHAOS_SIGNAL": "SIGTERM", "CHAOS_ALONE": "1"}
    stopped = launch(command(*tiny, output, **changes), trace, **heard)  # by the first rank alone
    assert stopped.status == STOPPED, stopped.stderr
    assert stopped.stderr.count("fit: stopped by SIGTERM") == 1
    assert "Traceback" not in stopped.stderr
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    last = {r: [x["step"] for x in rows if x["rank"] == r and "step" in x][-1] for r in (0, 1)}
    assert last[0] == last[1]
    path = newest_whole(output / "checkpoints")
    assert WholeCheckpointIO().load_checkpoint(path)["global_step"] == last[0] + 1


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "dies_at"), [(IN_EPOCHS, 4), (EPOCH_ENDS, 9)])
def test_validation_that_is_due_at_a_checkpoint_is_not_skipped(run, monkeypatch, changes, dies_at):
    whole = run("whole", **changes)
    take_step = PRMModule.training_step

    def die(module, batch, batch_idx):
        if module.global_step == dies_at:
            raise KeyError("dies")
        return take_step(module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(PRMModule, "training_step", die)
        with pytest.raises(KeyError, match="dies"):
            run("part", **changes)
    assert_same(whole, run("part", **changes))


@pytest.mark.slow
def test_a_run_that_was_stopping_early_stops(run, monkeypatch):
    early = {"monitor": "val/loss", "mode": "max", "patience": 1}
    callbacks = [
        {"class_path": "tracing.Trace"},
        {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": early},
    ]
    changes = {"trainer.callbacks": json.dumps(callbacks), "checkpoint_every": 7}
    whole = run("whole", **changes, **{"trainer.max_epochs": 5})
    assert len(trained_batches(whole.with_suffix(".trace"))[0]) == 2 * 7

    def die(callback, trainer, module):
        if trainer.should_stop:
            raise KeyError("dies")

    with monkeypatch.context() as patch:
        patch.setattr(StepCheckpoints, "on_train_end", die)
        with pytest.raises(KeyError, match="dies"):
            run("part", **changes, **{"trainer.max_epochs": 5})
    part = run("part", **changes, **{"trainer.max_epochs": 5})
    assert files_of(part / "final_model") == files_of(whole / "final_model")
    assert metric_rows(part) == metric_rows(whole)


@pytest.mark.slow
@pytest.mark.parametrize(("keep", "steps"), [(1, [6]), (0, []), (-1, [2, 4, 6])])
def test_so_many_step_checkpoints_are_kept_and_always_the_last(run, keep, steps):
    output = run("run", keep=keep, **{"trainer.max_steps": 6})
    names = sorted(path.name for path in (output / "checkpoints").iterdir())
    assert names == ["last.ckpt", *(f"step-{step:06d}.ckpt" for step in steps)]
    last = WholeCheckpointIO().load_checkpoint(output / "checkpoints" / "last.ckpt")
    assert last["global_step"] == 6
    assert (output / "best_model" / "prm.json").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard
def test_a_disk_that_fills_up_is_one_line_and_leaves_earlier_checkpoints(run, monkeypatch):
    whole = run("whole", **SHORT)
    take_step = PRMModule.training_step
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(module, batch, batch_idx):
        if module.global_step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        return take_step(module, batch, batch_idx)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(PRMModule, "training_step", fill)
            with pytest.raises(OSError, match=r"(part|ckpt) cannot be written") as caught:
                run("part", **SHORT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    path = newest_whole(whole.with_name("part") / "checkpoints")
    assert WholeCheckpointIO().load_checkpoint(path)["global_step"] == 3
    assert_same(whole, run("part", **SHORT))


@pytest.mark.parametrize("where", ["file/run", "/proc/run"])
def test_a_folder_that_cannot_be_written_is_named_before_the_work(run, tmp_path, where):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=rf"fit: nothing can be written to .*{where} .*--output"):
        run(where)


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_clean(run):
    whole = run("whole", **SHORT)
    part = run("part", **SHORT)
    for path in (part / "checkpoints").iterdir():
        path.unlink()
    for name in (".config.yaml.partial", "checkpoints/.step-000003.ckpt.partial"):
        (part / name).touch()
    part.with_suffix(".trace").unlink()
    assert_same(whole, run("part", **SHORT))
    assert not list(part.rglob(".*"))


def test_a_row_that_was_cut_off_is_dropped(tmp_path):
    metrics, record = tmp_path / "metrics.csv", tmp_path / "record.jsonl"
    metrics.write_text("a,step\n1,0\n2,1\n3,2\n4")
    record.write_text('{"step": 0}\n{"step": 2}\n{"st')
    cut_back(metrics, 2)
    cut_back(record, 2)
    assert metrics.read_text().split() == ["a,step", "1,0", "2,1"]
    assert record.read_text() == '{"step": 0}\n'


def test_a_link_to_a_folder_of_checkpoints_stays_when_a_run_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    for name in ("step-000001.ckpt", "notes.txt"):
        (tmp_path / "disk" / name).touch()
    (tmp_path / "checkpoints").symlink_to(tmp_path / "disk")
    remove([tmp_path / "checkpoints"])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_overwriting_and_resuming_means_resuming(run, tiny, tmp_path):
    output = run("run", **{"trainer.max_steps": 2})
    path = output / "checkpoints" / "step-000002.ckpt"
    before = path.stat().st_mtime_ns
    arguments = command(*tiny, output, **{"trainer.max_steps": 2})[3:]
    main([*arguments, "--overwrite"])
    assert path.stat().st_mtime_ns == before
