"""`score --engine ray`: the rows of the local engine, whatever happens to the workers."""

import json
import os
import signal

import pyarrow as pa
import pyarrow.parquet
import pytest
from test_prm import tiny_prm
from test_scorers import STEPS

from prm_lightning.scoring.score import main
from prm_lightning.scoring.score_ray import RayJob, score_on_ray

FILES = 50


def rows_of(file):
    rows = [
        {"id": f"{file}-{i}", "problem": f"How many {file}?", "steps": STEPS[: 1 + (file + i) % 5]}
        for i in range(3)
    ]
    if file == 7:
        rows[1]["steps"] = []
    return rows


@pytest.fixture(scope="module")
def model(tiny_model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray") / "model"
    tiny_prm(tiny_model_folder("llama"), template="plain").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for file in range(FILES):
        lines = [json.dumps(row) for row in rows_of(file)]
        if file == 9:
            lines.append("no json")
        (tmp_path / "in" / f"{file:03d}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "in"


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def parts(folder):
    return [row for path in sorted(folder.glob("part-*.jsonl")) for row in lines(path)]


def workers_of(name):
    """Process ids of the actors of a class."""
    import psutil

    return [
        process.pid
        for process in psutil.Process().children(recursive=True)
        if name in " ".join(process.cmdline())
    ]


def same(found, expected):
    """Equal up to the rounding of batches of other rows."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        numbers = ("scores", "score")
        assert {k: v for k, v in a.items() if k not in numbers} == {
            k: v for k, v in b.items() if k not in numbers
        }
        for name in numbers:
            assert a[name] == (b[name] and pytest.approx(b[name], abs=1e-6))


@pytest.mark.slow
def test_ray_writes_the_rows_of_the_local_engine_also_if_a_worker_is_killed(
    model, folder, tmp_path
):
    ray = pytest.importorskip("ray")
    common = ["--model", model, "--input", str(folder), "--device", "cpu"]
    main([*common, "--output", str(tmp_path / "local.jsonl")])
    expected = lines(tmp_path / "local.jsonl")

    output = tmp_path / "ray"
    killed = None
    try:
        job = RayJob(model, str(folder), output, device="cpu", workers=2)
        for outcomes, done, total in score_on_ray(job):
            counts = outcomes
            assert total == FILES
            if done and killed is None:
                written = len(list((tmp_path / ".ray.partial").glob("part-*")))
                assert written < FILES
                assert not output.exists()
                killed, *_ = workers_of("PieceScorer")
                os.kill(killed, signal.SIGKILL)
        assert killed
        assert counts == {"scored": 3 * FILES - 1, "no steps": 1, "not a JSON object": 1}
        same(parts(output), expected)
        assert len(list(output.iterdir())) == FILES + 1  # and the record

        table = pa.Table.from_pylist([row for file in range(FILES) for row in rows_of(file)])
        (tmp_path / "parquet").mkdir()
        pa.parquet.write_table(table, tmp_path / "parquet" / "a.parquet", row_group_size=20)
        common[3] = str(tmp_path / "parquet")
        main([*common, "--output", str(tmp_path / "out"), "--engine", "ray", "--workers", "1"])
        found = pa.parquet.read_table(tmp_path / "out")
        assert found.schema.field("steps").type == table.schema.field("steps").type
        of_json = [row for row in expected if "id" in row]
        same([row | {"message": ""} for row in found.to_pylist()],
             [row | {"message": ""} for row in of_json])  # fmt: skip
    finally:
        ray.shutdown()


def test_a_job_that_was_cut_off_goes_on_with_what_is_missing(model, folder, tmp_path):
    """Without Ray: everything is there but what makes the folder complete."""
    job = RayJob(model, str(folder), tmp_path / "out", device="cpu")
    start = score_on_ray(job)
    assert next(start)[1:] == (0, FILES)
    start.close()
    record = tmp_path / ".out.partial" / "..parts.jsonl.partial"
    with record.open("a") as file:
        for part in range(FILES):
            file.write(json.dumps({"part": part, "rows": {"scored": 3}}) + "\n")
    assert [done for _, done, _ in score_on_ray(job)] == [FILES]
    assert (tmp_path / "out").is_dir()
    assert not (tmp_path / ".out.partial").exists()
    with pytest.raises(FileExistsError, match="out exists"):
        next(score_on_ray(job))


def test_another_job_does_not_go_on_with_it(model, folder, tmp_path):
    next(score_on_ray(RayJob(model, str(folder), tmp_path / "out")))
    other = RayJob(model, str(folder), tmp_path / "out", threshold=0.9)
    with pytest.raises(ValueError, match=r"another job .*threshold"):
        next(score_on_ray(other))
    (tmp_path / ".out.partial" / "part-000099.jsonl").touch()
    assert next(score_on_ray(other, overwrite=True))[1] == 0
    assert not list((tmp_path / ".out.partial").glob("part-*"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--workers", "2"], "--workers 2 goes with --engine ray"),
        (["--engine", "ray", "--workers", "0"], "--workers is 0"),
        (["--engine", "ray", "--cache", "c"], "without --cache"),
    ],
)
def test_options_that_do_not_go_together_are_named(folder, tmp_path, extra, message):
    with pytest.raises(ValueError, match=message):
        main(["--model", "m", "--input", str(folder), "--output", str(tmp_path / "o"), *extra])


def test_nothing_to_score_is_an_error(model, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"problem": "x"}\n')
    with pytest.raises(ValueError, match=r"no row of .*in\.jsonl can be scored"):
        next(score_on_ray(RayJob(model, str(tmp_path / "in.jsonl"), tmp_path / "out")))
