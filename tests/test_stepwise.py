"""Stepwise rows: what is read, what is dropped with which message, what is an error."""

import json
import logging
import subprocess
import sys

import pytest
from conftest import dev_data
from hypothesis import given
from hypothesis import strategies as st

from prm_lightning.sources.stepwise import Stepwise
from prm_lightning.types import Dropped, Solution, Source

GOOD = {"prompt": "2 + 3?", "completions": ["2 + 3 = 5", "#### 5"], "labels": [True, False]}


@pytest.fixture
def write(tmp_path):
    """Writes rows (objects, or lines as they are) to a file and returns its path."""

    def write(*rows, name="rows.jsonl"):
        lines = [
            row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows
        ]
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        return str(path)

    return write


def read(path, **options):
    return list(Stepwise(path, **options).read())


def labels(solution):
    return [step.label for step in solution.steps]


def texts(solution):
    return [step.text for step in solution.steps]


def test_a_row_becomes_a_solution(write):
    (solution,) = read(write(GOOD))
    assert isinstance(Stepwise(""), Source)
    assert (solution.problem, solution.source, solution.id) == ("2 + 3?", "rows", "rows:0")
    assert texts(solution) == ["2 + 3 = 5", "#### 5"]
    assert labels(solution) == [1.0, 0.0]
    assert solution.answer is None


def test_the_name_and_the_answer_column_are_taken(write):
    path = write({**GOOD, "answer": 5}, GOOD)
    first, second = read(path, name="mine")
    assert (first.source, first.id, first.answer) == ("mine", "mine:0", "5")
    assert (second.id, second.answer) == ("mine:1", None)


def test_every_kind_of_label_survives(write):
    row = {"prompt": "p", "completions": list("abcde"), "labels": [True, 0.25, None, 1, False]}
    (solution,) = read(write(row))
    assert labels(solution) == [1.0, 0.25, None, 1.0, 0.0]


def test_the_question_is_cut_out_and_steps_are_cleaned(write):
    (solution,) = read(
        write(
            {
                "prompt": "<|user|>\n2 * 3?<|end|>\n<|assistant|>\n",
                "completions": [" 2*3=<<2*3=6>>6\r\n\r\nso", "", " \t", "<<6=6>>", "#### 6"],
                "labels": [True, False, 0.5, 0.75, False],
            }
        )
    )
    assert solution.problem == "2 * 3?"
    assert texts(solution) == ["2*3=6\nso", "<<6=6>>", "#### 6"]  # only blank lines are no steps
    assert labels(solution) == [1.0, 0.75, 0.0]


def test_calculator_marks_can_be_kept(write):
    path = write({**GOOD, "completions": ["<<2+3=5>>5", "x"]})
    assert texts(read(path, calculator_marks="keep")[0]) == ["<<2+3=5>>5", "x"]


def test_lines_end_at_newlines_alone_and_odd_characters_survive(write):
    odd = "a\u2028b\u2029c\x85d\x0be\x00f"
    path = write({**GOOD, "prompt": odd, "completions": [odd, odd]}, "", GOOD)
    first, second = read(path)
    assert (first.problem, texts(first)) == (odd, [odd, odd])
    assert second.id == "rows:1"  # a blank line is no row


@given(
    rows=st.lists(
        st.lists(
            st.tuples(st.text(max_size=8), st.none() | st.booleans() | st.floats(0, 1)),
            max_size=4,
        ),
        min_size=1,
        max_size=5,
    )
)
def test_steps_and_labels_stay_together(rows, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "r.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            columns = {"completions": [t for t, _ in row], "labels": [y for _, y in row]}
            file.write(json.dumps({"prompt": "p", **columns}, ensure_ascii=False) + "\n")
    for row, solution in zip(rows, read(str(path), calculator_marks="keep"), strict=True):
        expected = [None if y is None else float(y) for t, y in row if t.strip()]
        if expected:
            assert labels(solution) == expected
        else:
            assert solution.reason == "no steps"


@pytest.mark.parametrize(
    ("row", "reason", "words"),
    [
        ({**GOOD, "labels": [True]}, "steps and labels differ in number", "2 completions but 1"),
        ({**GOOD, "completions": ["a", 3]}, "step is not text", "completions[1] is 3"),
        ({**GOOD, "completions": ["a", None]}, "step is not text", "completions[1] is None"),
        (json.dumps({**GOOD, "completions": ["a", "\ud800"]}), "step is not text", "'\\ud800'"),
        ({**GOOD, "labels": [True, 1.5]}, "label outside [0, 1]", "labels[1] is 1.5"),
        ({**GOOD, "labels": [-1, 1]}, "label outside [0, 1]", "labels[0] is -1"),
        ({**GOOD, "labels": [True, float("nan")]}, "label outside [0, 1]", "labels[1] is nan"),
        ({**GOOD, "labels": [True, "+"]}, "label outside [0, 1]", "labels[1] is '+'"),
        ({**GOOD, "labels": None}, "labels are not a list", "labels is None"),
        ({**GOOD, "completions": "abc"}, "completions are not a list", "'abc'"),
        ({**GOOD, "prompt": " \n"}, "no prompt", "prompt is ' \\n'"),
        ({**GOOD, "prompt": None}, "no prompt", "prompt is None"),
        ({**GOOD, "prompt": "<|user|>\n<|end|>\n"}, "no prompt", "<|user|>"),
        ({**GOOD, "completions": [], "labels": []}, "no steps", "completions is []"),
        ({**GOOD, "completions": ["", " "]}, "no steps", "not blank"),
        ({"prompt": "p", "labels": []}, "missing column", "no completions among prompt, labels"),
        ("{nope", "not a JSON object", "'{nope' is not JSON"),
        ("[1]", "not a JSON object", "[1] is of type list"),
        ("\x00\x00", "not a JSON object", "'\\x00\\x00'"),
        ('{"a":"\udcff"}', "not a JSON object", "utf-8"),
        ("[" * 100_000, "not a JSON object", "recursion"),
    ],
)
def test_a_bad_row_is_dropped_with_its_line_and_its_value(write, row, reason, words):
    path = write(GOOD, row, GOOD)
    first, dropped, last = read(path)
    assert isinstance(first, Solution)
    assert last.id == "rows:2"
    assert isinstance(dropped, Dropped)
    assert dropped.place == f"{path}:2"
    assert dropped.reason == reason
    assert dropped.message.startswith(dropped.place)
    assert words in dropped.message
    assert len(dropped.message.splitlines()) == 1


@pytest.mark.parametrize(
    ("path", "words"),
    [("missing.jsonl", "no such file"), ("data/missing.jsonl", "no such file"), ("a/b/c", "Hub")],
)
def test_a_missing_file_is_named(path, words):
    with pytest.raises(FileNotFoundError, match=f"(?s){path}.*{words}") as error:
        read(path)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_an_empty_file_is_an_error(write, lines):
    with pytest.raises(ValueError, match=r"rows\.jsonl: empty, expected at least one row"):
        read(write(*lines))


def test_a_file_of_another_layout_names_the_columns_found_and_expected(write):
    path = write({"question": "q", "answer": "a"}, {"question": "q", "steps": []})
    with pytest.raises(ValueError, match="columns answer, question, steps, expected prompt, compl"):
        read(path)
    with pytest.raises(ValueError, match=r"columns \(none\), expected prompt"):
        read(write("no json", name="text.jsonl"))


def test_a_json_array_is_read_and_a_broken_one_names_its_line(write):
    first, dropped, last = read(write([GOOD, 3, GOOD], name="a.json"))
    assert (first.id, dropped.place[-9:], last.id) == ("a:0", "a.json[1]", "a:2")
    assert [s.id for s in read(write(GOOD, GOOD, name="lines.json"))] == ["lines:0", "lines:1"]
    with pytest.raises(ValueError, match=r"b\.json: not valid JSON .*line 2"):
        read(write("[{},", "{", name="b.json"))


def test_a_parquet_file_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "p.parquet"
    rows = [GOOD, {**GOOD, "labels": [None, True]}, {**GOOD, "labels": [True]}]
    datasets.Dataset.from_list(rows).to_parquet(path)
    first, second, dropped = read(str(path))
    assert (labels(first), labels(second)) == ([1.0, 0.0], [None, 1.0])
    assert dropped.place == f"{path}[2]"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match=r"p\.parquet: not a readable Parquet file"):
        read(str(path))


def test_a_folder_is_read_by_split(write, tmp_path):
    write(GOOD, "{bad", name="set/prm_train.jsonl")
    write(GOOD, name="set/prm_val.jsonl")
    folder = str(tmp_path / "set")
    good, bad = read(folder)
    assert (good.id, bad.place) == ("set:0", f"{folder}/prm_train.jsonl:2")
    assert len(read(folder, split="validation")) == 1
    with pytest.raises(ValueError, match="no split 'dev', only train, validation"):
        read(folder, split="dev")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"none: no data files found"):
        read(str(tmp_path / "none"))


def test_an_unreachable_hub_id_says_how_it_was_taken(monkeypatch):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"'owner/name'.*taken for a Hub id.*HF_TOKEN") as e:
        read("owner/name")
    assert len(str(e.value).splitlines()) == 1


def test_gsm8k_gen_stepwise_is_compared_with_what_is_documented(write, tmp_path, caplog):
    write({**GOOD, "labels": [1, True], "extra": 1}, name="gsm8k-gen-stepwise/train.jsonl")
    with caplog.at_level(logging.WARNING, logger="prm_lightning"):
        assert len(read(str(tmp_path / "gsm8k-gen-stepwise"))) == 1
    columns, rows = [record.getMessage() for record in caplog.records]
    assert "extra int, labels list[bool|int], prompt str, documented are" in columns
    assert "found 1 rows, documented are 50916 rows" in rows


def test_importing_sources_stays_light():
    code = (
        "import sys, prm_lightning.sources.mixture, prm_lightning.sources.stepwise;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("file", "solutions", "steps", "wrong", "all_right"),
    [
        ("trl_stepwise_train.jsonl", 993, 3680, 564, 429),
        ("trl_stepwise_test.jsonl", 231, 905, 139, 92),
        ("trl_zen_stepwise.jsonl", 19, 32, 16, 6),
        ("gsm8k_gen_stepwise_format.jsonl", 979, 4547, 532, 861),
    ],
)
def test_development_files_are_read_whole(file, solutions, steps, wrong, all_right):
    rows = read(str(dev_data(file)))
    assert len(rows) == solutions
    assert all(isinstance(row, Solution) for row in rows)
    found = [step for row in rows for step in row.steps]
    assert (len(found), sum(step.label == 0 for step in found)) == (steps, wrong)
    assert sum(all(step.label == 1 for step in row.steps) for row in rows) == all_right
    assert not any("<|" in row.problem for row in rows)
    assert not any("<<" in step.text for step in found)


def test_attempts_become_solutions_whose_lines_are_steps(write):
    row = {
        "prompt": "2 + 3?",
        "completions": [" 2+3=<<2+3=5>>5\r\n\n#### 5", "2+3=6\n#### 6", "one\ntwo", " \n", "x\ny"],
        "labels": [True, False, 0.75, True, None],
    }
    found = read(write(row), completions="attempts")
    assert [texts(s) for s in found] == [
        *[["2+3=5", "#### 5"], ["2+3=6", "#### 6"]],
        *[["one", "two"], ["x", "y"]],
    ]
    assert [labels(s) for s in found] == [[1.0, 1.0], [None, 0.0], [None, 0.75], [None, None]]
    assert [s.id for s in found] == ["rows:0.0", "rows:0.1", "rows:0.2", "rows:0.4"]
    assert {s.problem for s in found} == {"2 + 3?"}


def test_attempts_need_one_label_each(write):
    path = write(GOOD, {**GOOD, "labels": [True]}, {**GOOD, "completions": ["", "\n"]})
    *_, short, blank = read(path, completions="attempts")
    assert (short.reason, blank.reason) == ("steps and labels differ in number", "no steps")


def test_an_attempt_that_is_right_to_the_end_gives_the_answer_of_its_problem(write):
    def row(prompt, last, *labels):
        return {"prompt": prompt, "completions": ["so", last], "labels": labels}

    path = write(
        row("p", "#### 1,200", True, True),
        row("p", "#### 7", True, False),
        row("q", "#### 7", True, False),
        row("q", "#### 8", True, True),
        {**row("q", "#### 9", False, False), "answer": "9"},
    )
    assert [s.answer for s in read(path)] == ["1,200", "1,200", None, "8", "9"]


def test_a_full_size_file_takes_seconds_and_is_never_held(write, tmp_path):
    import time
    import tracemalloc

    steps = [f"line {k}: {k} + {k} = <<{k}+{k}={2 * k}>>{2 * k}" for k in range(4)]
    lines = "".join(
        json.dumps({"prompt": f"problem {k}", "completions": steps, "labels": [True] * 4}) + "\n"
        for k in range(2_000)
    )
    (tmp_path / "big.jsonl").write_text(lines)
    start = time.process_time()
    assert sum(len(solution.steps) for solution in Stepwise(str(tmp_path / "big.jsonl")).read())
    assert time.process_time() - start < 2  # a 25th of the full set
    tracemalloc.start()
    assert sum(1 for _ in Stepwise(str(tmp_path / "big.jsonl")).read()) == 2_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(lines) / 4
