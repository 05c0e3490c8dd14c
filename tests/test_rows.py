"""Raw rows: files, compressed files, folders and Hub data sets; which are read, and when."""

import bz2
import gzip
import json
import lzma

import pytest
from raw_rows import write_lines

from prm_lightning.sources.rows import name_of, read_rows

ROWS = [{"a": 1, "b": "x\u2028y"}, {"a": None, "b": "\x85\x1e"}]
OPENERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def values(path, **options):
    return [row.values for row in read_rows(str(path), **options)]


@pytest.mark.parametrize("packed", OPENERS)
def test_compressed_files_are_read_like_plain_ones(tmp_path, packed):
    lines, array = tmp_path / f"r.jsonl{packed}", tmp_path / f"r.json{packed}"
    with OPENERS[packed](lines, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    with OPENERS[packed](array, "wt", encoding="utf-8") as file:
        json.dump(ROWS, file, ensure_ascii=False, indent=1)
    assert values(lines) == values(array) == ROWS
    assert [row.place for row in read_rows(str(lines))] == [f"{lines}:1", f"{lines}:2"]
    assert (name_of(str(lines)), name_of(str(array))) == ("r", "r")


@pytest.mark.parametrize("packed", OPENERS)
def test_a_broken_compressed_file_is_one_clear_line_behind_the_rows_before_it(tmp_path, packed):
    path = tmp_path / f"r.jsonl{packed}"
    with OPENERS[packed](path, "wb") as file:
        file.write(b"".join(b'{"a": %d}\n' % number for number in range(20_000)))
    whole = path.read_bytes()
    damaged = whole[: len(whole) // 2] + bytes(64) + whole[len(whole) // 2 + 64 :]
    for broken in (whole[:-20], damaged, b"not packed" * 9):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=rf"r\.jsonl{packed}: not a readable {packed}") as e:
            list(read_rows(str(path)))
        assert len(str(e.value).splitlines()) == 1
    if packed == ".gz":  # read as it is needed
        path.write_bytes(whole[:-20])
        assert next(read_rows(str(path))).values == {"a": 0}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/phase2_train.jsonl", "phase2_train"),
        ("x.json", "x"),
        ("a.b.parquet", "a.b"),
        ("owner/some-set.v2", "some-set.v2"),
        ("data/set/", "set"),
        (".jsonl", ".jsonl"),
    ],
)
def test_a_data_set_is_called_after_its_file_folder_or_id(path, name):
    assert name_of(path) == name


def test_files_of_no_split_or_another_kind_are_named(tmp_path, monkeypatch, caplog):
    for name in ("train.jsonl", "more.jsonl"):
        write_lines(tmp_path / "json" / name, {"a": 1})
    monkeypatch.chdir(tmp_path)
    assert values("json") == [{"a": 1}]  # the folder, and no format of `datasets`
    assert "json: not read, of no split: more.jsonl" in caplog.text
    write_lines(tmp_path / "json" / "other.csv", {"a": 1})
    with pytest.raises(ValueError, match=r"several kinds, .*, without other\.csv"):
        values("json")


def test_a_streamed_data_set_is_read_as_it_is_needed(monkeypatch):
    import datasets

    asked, drawn = [], []

    def rows():
        for number in range(5):
            drawn.append(number)
            if number == 3:
                raise ConnectionError("cable\ncut")
            yield {"a": number}

    def load_dataset(path, split, streaming):
        asked.append((path, split, streaming))
        return rows()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = read_rows("owner/name", "test", streaming=True)
    assert not asked
    assert next(found).place == "owner/name[0]"
    assert (asked, drawn) == ([("owner/name", "test", True)], [0])
    with pytest.raises(FileNotFoundError, match=r"\(owner/name\[2\]: ConnectionError: cable"):
        list(found)


@pytest.mark.parametrize(
    ("path", "words"),
    [("missing.jsonl", "no such file"), ("data/missing.jsonl", "no such file"), ("a/b/c", "Hub")],
)
def test_a_missing_file_is_named(path, words):
    with pytest.raises(FileNotFoundError, match=f"(?s){path}.*{words}") as error:
        values(path)
    assert len(str(error.value).splitlines()) == 1


def test_a_json_array_is_read(tmp_path):
    path = write_lines(tmp_path / "a.json", json.dumps([ROWS[0], 3, ROWS[0]]))
    first, dropped, last = read_rows(path)
    assert (first.place[-9:], dropped.place[-9:]) == ("a.json[0]", "a.json[1]")
    assert first.values == last.values == ROWS[0]
    assert values(write_lines(tmp_path / "lines.json", *ROWS)) == ROWS


def test_lists_in_cells_of_a_csv_file_are_json_or_python(tmp_path):
    path = tmp_path / "r.csv.gz"
    cells = 'text,list,number,flag\n"[a], ""b""","[""x"", null]",5,true\n,"[\'x\', None]",,False\n'
    path.write_bytes(gzip.compress(cells.encode(), mtime=0))
    first, second = values(path)
    assert first == {"text": '[a], "b"', "list": ["x", None], "number": 5, "flag": True}
    assert second == {"text": None, "list": ["x", None], "number": None, "flag": False}
    assert name_of(str(path)) == "r"


def test_a_parquet_file_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "p.parquet"
    datasets.Dataset.from_list([{"a": [True, None]}, {"a": [False]}]).to_parquet(path)
    first, second = read_rows(str(path))
    assert (first.values, second.place) == ({"a": [True, None]}, f"{path}[1]")


def test_a_bad_text_in_a_parquet_file_costs_its_row_alone(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    texts = pyarrow.array([b"a", b"\xed\xa0\xbd", b"c"])
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 3, texts.buffers())
    pytest.importorskip("pyarrow.parquet").write_table(
        pyarrow.table({"a": texts}), tmp_path / "p.parquet"
    )
    first, bad, last = read_rows(str(tmp_path / "p.parquet"))
    assert (first.values, bad.reason, last.values) == ({"a": "a"}, "not a JSON object", {"a": "c"})


def test_a_folder_is_read_by_split(tmp_path):
    write_lines(tmp_path / "set" / "prm_train.jsonl", ROWS[0], "{bad")
    write_lines(tmp_path / "set" / "prm_val.jsonl", ROWS[1])
    folder = str(tmp_path / "set")
    _, bad = read_rows(folder)
    assert bad.place == f"{folder}/prm_train.jsonl:2"
    assert values(folder, split="validation") == ROWS[1:]
    with pytest.raises(ValueError, match="no split 'dev', only train, validation"):
        values(folder, split="dev")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"none: no data files found"):
        values(str(tmp_path / "none"))


def test_an_unreachable_hub_id_says_how_it_was_taken(monkeypatch):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"'owner/name'.*taken for a Hub id.*HF_TOKEN") as e:
        values("owner/name")
    assert len(str(e.value).splitlines()) == 1


def test_rows_in_memory_are_read_like_those_of_a_file():
    rows = [*ROWS, {"a": ["\ud800"]}]
    first, second, dropped = read_rows(rows)
    assert [first.values, second.values] == ROWS
    assert (name_of(rows), dropped.place) == ("rows", "rows[2]")
    assert second.filled == {"b": "\x85\x1e"}
    with pytest.raises(ValueError, match="empty, expected at least one row"):
        list(read_rows([]))


@pytest.mark.parametrize("value", ["a \ud83d b", {"x": ["\udc00"]}, {"\ud83d": 1}])
@pytest.mark.parametrize("form", ["escaped", "raw", "array"])
def test_a_row_with_half_a_character_is_dropped_wherever_it_is(tmp_path, value, form):
    """JSON can hold it, and nothing that is written as UTF-8 can."""
    rows = [ROWS[0], {"unused": value}, {"whole": "\U0001f600"}]
    lines = [json.dumps(row, ensure_ascii=form == "escaped") for row in rows]
    path = write_lines(tmp_path / "r.json", *([json.dumps(rows)] if form == "array" else lines))
    first, dropped, last = read_rows(path)
    assert (first.values, last.values) == (rows[0], rows[2])
    assert dropped.reason == "text with half a character"
    assert dropped.message.isprintable()


LINE = json.dumps(ROWS[0]) + "\n"
UTF_16 = "is not UTF-8, but perhaps utf-16"
UNREADABLE = [
    ("r.jsonl", b"", "empty, expected at least one row"),
    ("r.jsonl", b"\n  \n", "empty, expected at least one row"),
    ("r.json", b"[{}\n{", "not valid JSON .*line 2"),
    ("r.jsonl", LINE.encode("utf-16"), UTF_16),
    ("r.jsonl", LINE.encode("utf-16-le"), UTF_16),
    ("r.json.gz", gzip.compress(LINE.encode("utf-16"), mtime=0), UTF_16),
    ("r.json.gz", gzip.compress(LINE.encode("utf-16-be"), mtime=0), UTF_16),
    ("r.jsonl", LINE.replace("\n", "\r").encode() * 2, "its lines end in CR alone"),
    ("r.csv.gz", gzip.compress(b"a\n1,2,3\n4\n", mtime=0)[:-9], "not a readable CSV file"),
    ("r.parquet", b"PAR1 not really", "not a readable Parquet file"),
]


@pytest.mark.parametrize(("name", "content", "message"), UNREADABLE)
def test_what_is_wrong_with_a_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: {message}"):
        values(tmp_path / name)


def test_lines_may_end_in_cr_and_lf(tmp_path):
    (tmp_path / "crlf.jsonl").write_bytes((LINE * 2).replace("\n", "\r\n").encode())
    assert values(tmp_path / "crlf.jsonl") == [ROWS[0]] * 2


def test_a_line_of_absurd_length_in_a_compressed_file_is_refused(tmp_path):
    path = tmp_path / "r.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"a": 1}\n{"a": "')
        for _ in range(70):
            file.write(b" " * 2**20)
        file.write(b'"}\n')
    rows = read_rows(str(path))
    assert next(rows).values == {"a": 1}
    with pytest.raises(ValueError, match=r":2: a line of more than 64 MiB"):
        next(rows)
