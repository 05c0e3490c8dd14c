"""`score --engine ray`: the rows of the local engine, whatever happens to the workers."""

import gzip
import json
import os
import signal

import pyarrow as pa
import pyarrow.parquet
import pytest
from test_prm import tiny_prm
from test_scorers import STEPS

from prm_lightning.scoring.on_ray import cut, read_piece, score_on_ray
from prm_lightning.scoring.rows import ScoreOptions
from prm_lightning.scoring.score import main
from prm_lightning.sources.rows import read_rows

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
        job = score_on_ray(model, str(folder), output, ScoreOptions(), "cpu", workers=2)
        for outcomes, done, total in job:
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


def test_a_job_that_was_cut_off_resumes_with_what_is_missing(model, folder, tmp_path):
    """Without Ray: everything is there but what makes the folder complete."""

    def job(output=tmp_path / "out", **options):
        overwrite = options.pop("overwrite", False)
        options = ScoreOptions(**options)
        return score_on_ray(model, str(folder), output, options, "cpu", overwrite=overwrite)

    start = job()
    assert next(start)[1:] == (0, FILES)
    start.close()
    partial = tmp_path / ".out.partial"
    with (partial / "..parts.jsonl.partial").open("a") as file:
        file.write(json.dumps({"part": 0, "rows": {"scored": 3}}) + "\n")
    with pytest.raises(ValueError, match=r"another job .*threshold"):
        next(job(threshold=0.9))
    (partial / "part-000099.jsonl").touch()
    assert next(job(threshold=0.9, overwrite=True))[1] == 0
    assert not list(partial.glob("part-*"))
    with (partial / "..parts.jsonl.partial").open("a") as file:
        for part in range(FILES):
            file.write(json.dumps({"part": part, "rows": {"scored": 3}}) + "\n")
    assert [done for _, done, _ in job(threshold=0.9)] == [FILES]
    assert (tmp_path / "out").is_dir()
    assert not partial.exists()
    with pytest.raises(FileExistsError, match="out exists"):
        next(job())
    assert next(job(overwrite=True))[1] == 0
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match=r"holds 'mine\.txt'"):
        next(job(overwrite=True))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--workers", "2"], "--workers 2 goes with --engine ray"),
        (["--engine", "ray", "--workers", "0"], "--workers is 0"),
    ],
)
def test_options_that_do_not_go_together_are_named(folder, tmp_path, extra, message):
    with pytest.raises(ValueError, match=message):
        main(["--model", "m", "--input", str(folder), "--output", str(tmp_path / "o"), *extra])


def test_nothing_to_score_is_an_error(model, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"problem": "x"}\n')
    with pytest.raises(ValueError, match=r"no row of .*in\.jsonl can be scored"):
        next(score_on_ray(model, str(tmp_path / "in.jsonl"), tmp_path / "out", ScoreOptions()))


@pytest.mark.parametrize("rows", [1, 4, 5, 1000])
@pytest.mark.parametrize("kind", ["lines", "array", "compressed", "parquet"])
def test_pieces_are_the_whole_in_order(tmp_path, rows, kind):
    values = [{"id": i, "text": "\u2028\n" * (i % 3)} for i in range(23)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in values)
    if kind == "lines":
        (tmp_path / "a.jsonl").write_text("\ufeff" + text + "\n\nno json\n" + text.rstrip("\n"))
        (tmp_path / "b.jsonl").write_text(text)
    elif kind == "array":
        (tmp_path / "a.json").write_text(json.dumps(values))
        (tmp_path / "b.json").write_text(text)
    elif kind == "compressed":
        with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
            file.write(text)
    else:
        pa.parquet.write_table(pa.Table.from_pylist(values), tmp_path / "a.parquet", rows)
    pieces = cut(str(tmp_path), rows)
    found = [list(read_piece(piece)) for piece in pieces]
    assert [row for piece in found for row in piece] == list(read_rows(str(tmp_path)))
    if kind in ("lines", "parquet"):
        assert max(map(len, found)) <= rows
        assert len(pieces) >= 23 / rows


def test_what_is_no_file_is_named():
    with pytest.raises(FileNotFoundError, match="'owner/name': no such file or folder"):
        cut("owner/name")
