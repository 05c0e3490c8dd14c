"""The page says what the files say, and shows text of models without ever obeying it."""

from __future__ import annotations

import base64
import json
import math
import random
import re
import shutil
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest
from raw_rows import write_lines

import prm_lightning.evaluation.report as report
from prm_lightning.evaluation.figures import draw_curves
from prm_lightning.evaluation.report import main, write_report
from prm_lightning.evaluation.report_data import ScoredSet, ShownSolution, read_folder
from prm_lightning.evaluation.report_page import make_pool_tiles, make_tiles, pack_solutions

HOSTILE = [
    "</script><script>document.title = 'pwned'</script>",
    "<img src=x onerror=\"document.title='pwned'\"><svg onload=alert(1)>",
    "<!-- <script> ]]> &lt; &amp; \u2028 \u2029 \x00 \x1b[31m",
    "$\\foo$ {{ 7 * 7 }} {% include 'x' %} `\" ' onclick=1 x='",
    "a \u202e reversed \u2066 isolated \u202a and never closed",
    "\ud800 alone",
]
LONG = "".join(f"{n} + 1 = {n + 1}. " for n in range(700))[:10_000]


def row(steps, labels, scores, **more) -> dict:
    return {
        "id": "a", "source": "shop", "problem": "How many?", "steps": steps, "labels": labels,
        "scores": scores, "first_error": -2, **more,
    }  # fmt: skip


ROWS = [
    row(["right, high", "wrong, high"], [1.0, 0.0], [0.9, 0.8], id="missed", first_error=1),
    row(["right, low"], [1.0], [0.2], id="alarm", first_error=-1, source="ages"),
    row(["wrong, low", "behind"], [0.0, None], [0.1, 0.7], id="found", first_error=0),
    row(["right, high"], [1.0], [0.95], id="passed", first_error=-1),
]


def write_run(folder: Path, rows=ROWS, **data) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(
        "seed_everything: 17\nmonitor: processbench_f1\n"
        "model: {backbone: {name: tiny/model}, head: token, loss: focal}\n"
    )
    counts = {"read": 5, "kept": 4, "solutions": 4, "problems": 1, "wrong_share": 0.4}
    dropped = {"not JSON": {"count": 7, "first": ["rows.jsonl:3: <b>bold</b> is not JSON"]}}
    sources = {"shop": {**counts, "dropped": dropped}}
    (folder / "data.json").write_text(json.dumps({"sources": sources, **data}))
    (folder / "metrics.csv").write_text(
        "step,train/loss,val/loss,val/auroc,val/processbench_f1\n"
        "0,0.9,,,\n1,,0.8,0.5,0.25\n2,0.6,,,\n3,,0.7,0.75,0.125\n4,nan,,,\n"
    )
    (folder / "untrained.json").write_text(json.dumps({"auroc": 0.4375, "loss": 0.75}))
    (folder / "best_model").mkdir()
    manifest = {"threshold": 0.375, "threshold_fitted_on": "validation data", "step_end": "\n\n"}
    (folder / "best_model" / "prm.json").write_text(json.dumps(manifest))
    write_lines(folder / "val_scores.jsonl", *map(json.dumps, rows))
    return folder


def best_of_n_rows() -> list[dict]:
    def figure(method, n, value, model=None, how=None):
        kind, chosen = "model" if model else "baseline", how == "min"
        about = {"model": model or method, "kind": kind, "part": f"n/{n}", "source": "pool", "n": n}
        estimate = {"value": value, "low": value - 0.1, "high": value + 0.1}
        metrics = {"accuracy": estimate, "minus_majority": estimate | {"value": value - 0.4}}
        return {**about, "method": method, "aggregation": how, "chosen": chosen, "metrics": metrics}

    fixed = [figure(m, n, 0.4) for m in ("pass@1", "majority", "oracle") for n in (1, 2, 4)]
    model = "outputs/<b>&co"
    return fixed + [
        figure("best", n, 0.5, model, how) for n in (1, 2, 4) for how in ("min", "prod")
    ]


def write_evaluation(folder: Path, scored=ROWS, **more) -> Path:
    folder.mkdir()
    models = [{"name": "m", "threshold": 0.5, "threshold_from": "val.jsonl"}]
    cells = [["x|y", "0.5"], ["<b>z</b>", "0.25"]]
    table = {"title": "Of a | b", "header": ["", "n = 1 | 2"], "rows": cells}
    notes = ["Ties <i>count</i>."]
    record = {"benchmark": "steps", "models": models, "notes": notes, "tables": [table], **more}
    (folder / "results.json").write_text(json.dumps(record))
    write_lines(folder / "scores.jsonl", *(json.dumps({"model": "m", **each}) for each in scored))
    return folder


ROW, CELL, END = "\x01", "\x02", "\x03"  # in no text


class Page(HTMLParser):
    """What a browser's parser sees of a page, without running anything."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.texts.append({"tr": ROW, "td": CELL, "th": CELL}.get(tag, ""))

    def handle_endtag(self, tag):
        self.texts.append(END if tag in ("td", "th") else "")

    def handle_data(self, data):
        self.texts.append(data)
        if self.tags and self.tags[-1][0] == "script" and data.strip():
            self.scripts.append(data)

    def row(self, *beginning: str) -> list[str]:
        """The other cells of the first row that begins so."""
        for row in "".join(self.texts).split(ROW)[1:]:
            cells = [cell.split(END)[0] for cell in row.split(CELL)[1:]]
            if cells[: len(beginning)] == list(beginning):
                return cells[len(beginning) :]
        raise KeyError(beginning)

    @property
    def text(self) -> str:
        return re.sub(r"[\s\x01-\x03]+", " ", "".join(self.texts))

    @property
    def sets(self) -> list[dict]:
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def run_page(tmp_path_factory) -> Page:
    folder = write_run(tmp_path_factory.mktemp("report") / "run")
    return Page(write_report([str(folder)]))


def test_a_page_says_what_the_files_of_a_run_say(run_page):
    tiles = run_page.text.split("Solutions", 1)[0]
    for part in ("ProcessBench F1 0.500", "AUROC of steps 0.833", "Errors found 0.500"):
        assert part in tiles
    tags = [tag for tag, attrs in run_page.tags if attrs.get("id") == "solutions" or tag == "table"]
    assert tags[0] == "section"  # solutions come before any table
    assert run_page.row("AUROC of steps") == ["0.833", "0.750", "0.438", "0.500"]
    assert run_page.row("labelled steps") == ["5", "–", "–", "5"]
    assert run_page.row("accuracy of steps, at 0.5") == ["0.600", "–", "–", "0.600"]
    # At 0.375: the second error is found, the first is missed; one right solution passes of two.
    for metric in (
        "ProcessBench F1, fitted threshold",
        "· errors found",
        "· right solutions passed",
    ):
        assert run_page.row(metric)[0] == "0.500"
    assert "Flagged if P(correct) < 0.375, fitted on validation data" in run_page.text
    assert run_page.row("wrong") == ["1", "1 missed"]
    assert run_page.row("right") == ["1 false alarms", "2"]
    for part, steps in (("1", "4"), ("2", "1"), ("ages", "1")):  # by position and by source
        assert run_page.row(part)[0] == steps
    for part in ("tiny/model", "focal", "token", "not JSON", "7 ×", "<b>bold</b> is not JSON"):
        assert part in run_page.text
    assert run_page.row("shop", "5") == ["4", "4", "1", "–", "–", "0.400"]


def test_curves_name_what_they_show_and_mark_the_best_validation(run_page):
    labels = [attrs.get("aria-label") or "" for tag, attrs in run_page.tags if tag == "svg"]
    (loss,) = [label for label in labels if label.startswith("training")]
    assert loss == (
        "training: 0.9 at 1 to 0.6 at 3; validation: 0.8 at 2 to 0.7 at 4; "
        "validation, before training: 0.75 at 1 to 0.75 at 4"
    )
    assert any("AUROC, before training: 0.438 at 2 to 0.438 at 4" in label for label in labels)
    assert "best_model was chosen by val/processbench_f1 at step 2." in run_page.text
    assert all(attrs.get("role") == "img" for tag, attrs in run_page.tags if tag == "svg")
    assert "head: " not in " ".join(label.replace("before training: ", "") for label in labels)


def test_one_validation_is_a_point_next_to_the_level_of_the_untrained_head():
    (chart,) = draw_curves([{"step": 9, "val/loss": 3.0}], {"loss": 3.25}, best_step=9)
    ((point,), level) = (line["points"] for line in chart["lines"])
    assert level[1][0] - level[0][0] > 200
    assert 0 < level[0][1] == level[1][1] < point[1]  # 3.25 is above 3
    ticks = [float(text) for _, text in chart["y_ticks"]]
    assert max(ticks) - min(ticks) > 0.25  # the axis is not as narrow as the values


def scored_set(skill: float, count: int = 60) -> ScoredSet:
    """Solutions of four steps, every other one wrong at its third, which scores lower."""
    rng = random.Random(0)
    solutions = []
    for i in range(count):
        wrong = i % 2 == 0
        scores = [0.7 + 0.1 * rng.random() for _ in range(4)]
        scores[2] -= skill * wrong
        labels = [1.0, 1.0, 0.0 if wrong else 1.0, None if wrong else 1.0]
        first = 2 if wrong else -1
        solutions.append(ShownSolution(str(i), ["s"] * 4, scores, labels, first, "x", str(i)))
    return ScoredSet("m", "model", 0.6, "val", solutions)


def test_a_verdict_says_better_only_if_the_interval_is_above_the_best_baseline():
    baselines = {"weak": {"processbench_f1": 0.2, "auroc": 0.5}, "x": {"auroc": math.nan}}
    strong, weak = (make_tiles(scored_set(skill), baselines) for skill in (0.4, 0.0))
    assert [(tile.verdict, tile.good) for tile in strong[:2]] == [("better than weak", True)] * 2
    assert strong[0].change == "+0.800 to weak"
    assert weak[0].verdict == "no better than weak" and weak[0].change == "−0.200 to weak"
    assert weak[1].verdict.startswith(("perhaps better than weak", "no better than weak"))
    assert not weak[0].good and not weak[1].good
    (alone, *_) = make_tiles(scored_set(0.4), {})
    assert alone.verdict == "no baseline to compare with"


def test_best_of_n_shows_the_aggregations_that_count(tmp_path):
    rows = best_of_n_rows()
    folder = write_evaluation(tmp_path / "bon", benchmark="best-of-n", rows=rows)
    page = Page(write_report([str(folder)]))
    (chart,) = [a["aria-label"] for tag, a in page.tags if tag == "svg"]
    assert "outputs/<b>&co (best, min): 0.5 at 0 to 0.5 at 2" in chart  # of log2 n
    assert "majority: 0.4 at 0" in chart and "prod" not in chart
    assert page.row("outputs/<b>&co", "n/4")[1:] == ["accuracy", "0.500", "0.400", "0.600"]
    tiles = make_pool_tiles(rows, "outputs/<b>&co")
    assert [(tile.label, tile.value, tile.change) for tile in tiles] == [
        ("Best of 4", 0.5, "+0.100 to majority")
    ]


def test_a_run_and_an_evaluation_share_a_page(tmp_path):
    folders = [write_run(tmp_path / "a"), write_evaluation(tmp_path / "b")]
    main([*map(str, folders), "--output", str(tmp_path / "both.html")])
    page = Page(tmp_path / "both.html")
    assert [packed["name"] for packed in page.sets] == ["a: best_model", "b: m"]
    assert [len(packed["solutions"]) for packed in page.sets] == [4, 4]
    assert page.row("x|y") == ["0.5"]
    assert page.row("<b>z</b>") == ["0.25"]
    assert "Of a | b" in page.text and "Ties <i>count</i>." in page.text


def test_text_of_models_is_never_markup(tmp_path):
    texts = [*HOSTILE, LONG]
    hostile = [
        row([text, text], [1.0, 0.0], [0.5, 0.25], id=text, source=text, problem=text)
        for text in texts
    ]
    dropped = {text: {"count": 1, "first": [text]} for text in texts}
    folder = write_run(tmp_path / "run", hostile, val_sources={HOSTILE[0]: {"dropped": dropped}})
    page = Page(write_report([str(folder)]))
    assert [tag for tag, _ in page.tags].count("script") == len(page.scripts) == 2
    assert not {"img", "iframe", "object", "embed", "link", "base"} & {t for t, _ in page.tags}
    for tag, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        assert all((attrs.get(name) or "#").startswith("#") for name in ("href", "src", "action"))
    assert HOSTILE[3] in page.text
    (packed,) = page.sets
    kept = sorted(packed["solutions"], key=lambda solution: texts.index(solution["id"]))
    readable = [text for text in texts if "\ud800" not in text]
    assert [solution["steps"] for solution in kept] == [[text, text] for text in readable]
    assert packed["problems"] == packed["sources"] == readable


def test_only_the_pages_own_script_may_run_and_nothing_is_fetched(run_page):
    (policy,) = [a["content"] for _, a in run_page.tags if "http-equiv" in a]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    digest = base64.b64encode(sha256(run_page.scripts[1].encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert set(rules) == {"default-src", "script-src", "style-src", "base-uri", "form-action"}
    source = (Path(report.__file__).parent / "report.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", source)


def test_lines_that_cannot_be_used_are_counted(tmp_path):
    broken = [
        row(["a", "b"], [1.0, 0.0], [0.5]),
        row(["a"], [1.0], [1.5]),
        row(["a"], [1.0], [float("nan")]),
        row([], [], []),
        row(["a"], [1.0], None, failure="too long"),
    ]
    folder = write_run(tmp_path / "run", [*ROWS, *broken])
    with (folder / "val_scores.jsonl").open("a") as file:
        file.write("{cut off\n")
    text = Page(write_report([str(folder)])).text
    for reason in (
        "2 × left out: steps, labels and scores differ in number.",
        "2 × left out: scores outside [0, 1].",
        "1 × left out: could not be scored.",
    ):
        assert reason in text


def test_of_too_many_solutions_those_with_the_largest_errors_are_kept(tmp_path):
    (scored,) = read_folder(write_run(tmp_path / "run")).sets
    packed = pack_solutions("run", scored, most=2)
    assert [solution["id"] for solution in packed["solutions"]] == ["missed", "alarm"]
    assert packed["total"] == 4
    assert pack_solutions("run", scored, most=4)["solutions"][3]["id"] == "passed"


@pytest.mark.parametrize("left", ["config.yaml", "metrics.csv", "data.json"])
def test_a_run_that_left_little_still_has_a_page(tmp_path, left):
    folder = write_run(tmp_path / "run")
    for path in folder.iterdir():
        if path.name != left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = Page(write_report([str(folder)]))
    assert "nothing to browse" in page.text
    assert page.sets == []


def test_bad_input_is_named(tmp_path):
    folder = write_run(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        main([str(tmp_path / "nowhere")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds neither a run"):
        main([str(tmp_path / "empty")])
    with pytest.raises(ValueError, match="got 2 folders"):
        main([str(folder), str(tmp_path / "empty")])
    with pytest.raises(ValueError, match="--solutions is 0"):
        main([str(folder), "--solutions", "0"])
    main([str(folder)])
    with pytest.raises(FileExistsError, match=r"report\.html exists"):
        main([str(folder)])
    (folder / "data.json").write_text("{")
    with pytest.raises(ValueError, match=r"data\.json cannot be read"):
        main([str(folder), "--overwrite"])
    assert (folder / "report.html").stat().st_size > 10_000  # the old page is still whole
    assert not list(folder.glob(".*"))


def test_a_report_that_fails_does_not_fail_the_run(tmp_path, capsys):
    from prm_lightning.__main__ import report_run

    folder = write_run(tmp_path / "run")
    (folder / "data.json").write_text("{")
    report_run(folder)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("warning: no report was written (ValueError: report: ")
    assert captured.err.count("\n") == 1
