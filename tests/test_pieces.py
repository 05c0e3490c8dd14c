"""Pieces of a data set, read apart, are the data set."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from prm_lightning.scoring.pieces import cut, read_piece
from prm_lightning.sources.rows import read_rows

ROWS = [{"id": i, "text": "\u2028\n" * (i % 3)} for i in range(23)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def write_lines(folder):
    (folder / "a.jsonl").write_text("\ufeff" + LINES + "\n\nno json\n" + LINES.rstrip("\n"))
    (folder / "b.jsonl").write_text(LINES)


def write_parquet(folder):
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), folder / "a.parquet", row_group_size=9)


def write_whole(folder):
    (folder / "a.json").write_text(json.dumps(ROWS))
    (folder / "b.json").write_text(LINES)


def write_compressed(folder):
    with gzip.open(folder / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(LINES)


@pytest.mark.parametrize("rows", [1, 4, 5, 1000])
@pytest.mark.parametrize("write", [write_lines, write_parquet, write_whole, write_compressed])
def test_pieces_are_the_whole_in_order(tmp_path, write, rows):
    write(tmp_path)
    pieces = cut(str(tmp_path), rows)
    found = [list(read_piece(piece)) for piece in pieces]
    assert [row for piece in found for row in piece] == list(read_rows(str(tmp_path)))
    if write in (write_lines, write_parquet):
        assert max(map(len, found)) <= rows
        assert len(pieces) >= 23 / rows


def test_one_file_is_read_under_its_own_name(tmp_path, monkeypatch):
    write_lines(tmp_path)
    monkeypatch.chdir(tmp_path)
    (piece, *_) = cut("b.jsonl", 7)
    assert next(read_piece(piece)).place == "b.jsonl:1"
    assert cut("b.jsonl", 7)[1].first == 8


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="'owner/name': no such file or folder"):
        cut("owner/name", 7)
