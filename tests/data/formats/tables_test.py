"""Tables as text: the same columns from both formats, and one line for a table that cannot be read."""

import pyarrow as pa
import pytest
from pyarrow import parquet

from kdmlc_jax.data.formats.tables import read_columns
from kdmlc_jax.errors import UserError
from kdmlc_jax.storage import files

WANTED = {"path": ("path", "file"), "label": ("label",), "note": ("note",)}


def read(path):
    return read_columns(path, WANTED, required=("path", "label"))


def refused(path):
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def test_both_formats_give_the_same_text(tmp_path):
    """Protects ids from being read as numbers, names of columns in any case, blanks, and what is absent or null."""
    (tmp_path / "a.csv").write_text("\ufeffFile,other, LABEL \n007,x, cat \n\nb,y,\n", encoding="utf-8")
    columns = {"File": ["007", "b"], "other": ["x", "y"], " LABEL ": [" cat ", None]}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    expected = {"path": ["007", "b"], "label": ["cat", ""], "note": ["", ""]}
    assert read(tmp_path / "a.csv") == read(tmp_path / "a.parquet") == expected


def test_the_first_known_name_is_read(tmp_path):
    """Protects tables that have two of the names: the order of the names decides, not that of the columns."""
    (tmp_path / "a.csv").write_text("file,label,path\nwrong,1,right\n")
    assert read(tmp_path / "a.csv")["path"] == ["right"]


@pytest.mark.parametrize(
    "raw",
    [
        b"path;label\na/1.png;cat,dog\n",
        b"path\tlabel\na/1.png\tcat,dog\n",
        b"sep=;\r\npath;label\r\na/1.png;cat,dog\r\n",
        'path,label\na/1.png,"cat,dog"\n'.encode("utf-16"),
        b'path,label\na/1.png,"cat,dog"\n,\n',
    ],
    ids=["semicolon", "tab", "sep", "utf-16", "empty last row"],
)
def test_dialects(tmp_path, raw):
    """Protects tables as spreadsheets write them."""
    (tmp_path / "a.csv").write_bytes(raw)
    assert read(tmp_path / "a.csv") == {"path": ["a/1.png"], "label": ["cat,dog"], "note": [""]}


def test_tables_that_are_none(tmp_path):
    """Protects from tracebacks and guesses: the file, the line, and what was found."""
    path = tmp_path / "a.csv"
    assert refused(path) == ": no such file"
    assert refused(tmp_path / "a.doc") == ": ends in neither .csv nor .parquet, nor in .tsv, .txt, .lst, .list"
    for text, message in (
        ("", ": no rows, expected one per image"),
        ("path,label\n", ": no rows, expected one per image"),
        ("path,lable\na,1\n", ': no column "label", found path, lable (did you mean "lable"?)'),
        ("label\n1\n", ': no column "path" (or file), found label'),
        ("path,label,label\na,1,2\n", ': 2 columns "label", expected one'),
        ("path,label\na,1\nb,1,2\n", " line 3: 3 fields, expected 2 as in the header"),
        ('path,label\na,"1\n', ": cannot be read (unexpected end of data)"),
    ):
        path.write_text(text)
        assert refused(path) == message
    path.write_bytes(b"path,label\na,\xff\n")
    assert " is not utf-8 text, expected UTF-8 (line 2, 0xff: it may be another encoding than" in refused(path)
    for raw in (b"", b"PAR1PAR1"):
        (tmp_path / "a.parquet").write_bytes(raw)
        assert refused(tmp_path / "a.parquet").startswith(": cannot be read (")


BOMBS = {
    "one cell": lambda: (pa.table({"path": ["x" * (100 << 20)], "label": ["a"]}), "unpack to 1048"),
    "nothing": lambda: (
        pa.table({"path": pa.nulls(9 << 20, pa.string()), "label": pa.nulls(9 << 20)}),
        "rows in a",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_parquet_file_that_claims_too_much(tmp_path, name):
    """Protects memory from kilobytes that unpack to gigabytes: what the file says of itself is asked first."""
    table, message = BOMBS[name]()
    parquet.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=name != "one cell")
    assert message in refused(tmp_path / "a.parquet")


def test_a_text_in_all_rows_is_there_once(tmp_path):
    """Protects memory from a dictionary that a few bytes repeat: the table is read, its cells are one object."""
    table = pa.table({"path": ["x" * 1000] * 300_000, "label": pa.array(["a"] * 300_000, pa.large_string())})
    parquet.write_table(table, tmp_path / "a.parquet")
    paths = read(tmp_path / "a.parquet")["path"]
    assert len(paths) == 300_000 and len({id(cell) for cell in paths}) < 10


@pytest.mark.parametrize("cell", ["=1+1", "+a", "-a", "@a", "'=a", "''-a", "'a", "-5", "+1.5e3", "a"])
def test_cells_that_a_spreadsheet_would_calculate(tmp_path, cell):
    """Protects people who open our tables, and ids, which come back as they were; numbers are not touched."""
    files.write_csv(tmp_path / "a.csv", ("path", "label"), [(cell, "x")])
    written = (tmp_path / "a.csv").read_text().splitlines()[1].removesuffix(",x")
    assert written == cell if cell in ("'a", "-5", "+1.5e3", "a") else written == f"'{cell}"
    assert read(tmp_path / "a.csv")["path"] == [cell]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_that_pass_for_others(tmp_path, encoding):
    """Protects a person from "no column path, found p a t h": it decodes as another encoding, to text full of NUL."""
    (tmp_path / "a.csv").write_bytes("path,label\n1.png,cat\n".encode(encoding))
    assert "UTF-32, or UTF-16 without its mark; save it as UTF-8" in refused(tmp_path / "a.csv")
