"""Raw rows: files, compressed files, folders and Hub data sets; which are read, and when."""

import bz2
import gzip
import json
import logging
import lzma

import pytest
from raw_rows import write_lines

from prm_lightning.sources.rows import name_of, read_rows
from prm_lightning.types import Dropped

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
    middle = len(whole) // 2
    damaged = whole[:middle] + bytes(64) + whole[middle + 64 :]
    for broken, readable in (
        (whole[:-20], 100 * (packed == ".gz")),
        (damaged, 0),
        (b"not packed" * 9, 0),
    ):
        path.write_bytes(broken)
        rows = read_rows(str(path))
        count = 0
        with pytest.raises(ValueError, match=rf"r\.jsonl{packed}: not a readable {packed}") as e:
            for count, row in enumerate(rows, start=1):  # noqa: B007
                assert not isinstance(row, Dropped) or broken is damaged
        assert count >= readable
        assert len(str(e.value).splitlines()) == 1


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


def test_a_folder_called_like_a_format_is_still_a_folder(tmp_path, monkeypatch):
    write_lines(tmp_path / "json" / "train.jsonl", {"a": 1})
    write_lines(tmp_path / "elsewhere" / "train.jsonl", {"a": 2})
    monkeypatch.chdir(tmp_path)
    assert values("json") == [{"a": 1}]


def test_a_folder_of_two_kinds_of_files_is_refused_and_says_what_would_be_left_out(tmp_path):
    datasets = pytest.importorskip("datasets")
    write_lines(tmp_path / "a.jsonl", {"a": 1})
    datasets.Dataset.from_list([{"a": 2}]).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"Parquet and JSON Lines .* without a\.jsonl"):
        values(tmp_path)


def test_files_of_no_split_are_named(tmp_path, caplog):
    write_lines(tmp_path / "train.jsonl", {"a": 1})
    write_lines(tmp_path / "more.jsonl", {"a": 2})
    with caplog.at_level(logging.WARNING, logger="prm_lightning"):
        assert values(tmp_path) == [{"a": 1}]
    assert "not read, of no split: more.jsonl" in caplog.text


def test_compressed_files_in_a_folder_are_read_by_split(tmp_path):
    for split in ("train", "test"):
        with gzip.open(tmp_path / f"{split}.jsonl.gz", "wt") as file:
            file.write(json.dumps({"split": split}))
    assert values(tmp_path, split="test") == [{"split": "test"}]


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
    with pytest.raises(FileNotFoundError, match=r"behind owner/name\[2\] \(ConnectionError: cable"):
        list(found)


def test_files_are_read_as_they_are_needed(tmp_path):
    path = tmp_path / "r.jsonl.gz"
    with gzip.open(path, "wb") as file:
        file.write(b'{"a": 1}\n' * 50_000)
    path.write_bytes(path.read_bytes()[:-50])  # an error, but not before it is reached
    assert next(read_rows(str(path))).values == {"a": 1}
