"""What read() refuses in paths, options and tables, and in what words."""

import datetime
import gzip
import pickle

import numpy as np
import pandas as pd
import pytest


def test_missing_file_suggests_the_nearest(refuses, tmp_path):
    (tmp_path / "penguins.csv").write_text("a\n1\n")
    refuses(
        tmp_path / "pengiuns.csv", r"no file '.*pengiuns\.csv'; did you mean 'penguins\.csv'\?", error=FileNotFoundError
    )
    refuses(tmp_path / "zzz.npy", r"no file '.*zzz\.npy'\. Looked in '", error=FileNotFoundError)


def test_missing_folder(refuses, tmp_path):
    refuses(tmp_path / "no" / "a.csv", r"no file '.*a\.csv': there is no folder '.*no'\.", error=FileNotFoundError)


def test_folder(refuses, tmp_path):
    refuses(tmp_path, "'path' must be a file; got the folder '")


@pytest.mark.parametrize(
    ("path", "got"), [(3, "int"), (None, "NoneType"), (b"a.csv", "bytes"), (np.zeros(3), "ndarray")]
)
def test_path_of_another_type(refuses, path, got):
    refuses(path, f"'path' must be the path of a file; got {got}", error=TypeError)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"label_column": 2}, TypeError, "'label_column' must be a column's name; got int"),
        ({"columns": "a"}, TypeError, r"must be a list of names; got the string 'a'\. Pass columns=\['a'\]"),
        ({"columns": [0, 1]}, TypeError, r"'columns' must be a list of names; got \[0, 1\]"),
        ({"columns": 3}, TypeError, r"'columns' must be a list of names; got 3"),
        ({"columns": []}, ValueError, r"'columns' must name at least one column, each once; got \[\]"),
        ({"columns": ["a", "a"]}, ValueError, r"each once; got \['a', 'a'\]"),
        ({"columns": ["a", "b"], "label_column": "b"}, ValueError, "'columns' must not hold the label column 'b'"),
        ({"columns": ["A1"]}, ValueError, r"has no column 'A1'; did you mean 'a1'\? Its columns: a1, b, kind"),
        ({"label_column": "zzz"}, ValueError, r"has no column 'zzz'\. Its columns: a1, b, kind"),
    ],
)
def test_options(refuses, csv, options, error, message):
    refuses(csv("a1,b,kind\n1,2,x\n"), message, error=error, **options)


@pytest.mark.parametrize("option", [{"label_column": "y"}, {"columns": ["x_0"]}])
def test_named_columns_of_an_array(refuses, npy, option):
    refuses(npy(np.zeros((2, 2))), f"'{next(iter(option))}' needs a CSV or Parquet file; got '.*a.npy'", **option)


def test_unknown_suffix(refuses, tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"PK\3\4 something")
    refuses(tmp_path / "a.xlsx", r"unknown format of '.*a\.xlsx': got suffix '\.xlsx'; expected \.csv, \.parquet")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(np.zeros(3)))
    refuses(tmp_path / "a.pkl", r"unknown format of '.*a\.pkl'")
    (tmp_path / "a").write_text("1,2\n")
    refuses(tmp_path / "a", "unknown format of '.*a': got suffix ''")


@pytest.mark.parametrize("name", ["a.csv", "a.npy", "a.npz", "a.parquet", "a.idx", "a.csv.gz", "a"])
def test_empty_file(refuses, tmp_path, name):
    (tmp_path / name).touch()
    refuses(tmp_path / name, f"'.*{name}' is empty; expected rows of numbers")


def test_gzip_of_nothing(refuses, tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b""))
    refuses(tmp_path / "a.csv.gz", "is empty; expected rows of numbers")


def test_corrupt_gzip(refuses, tmp_path):
    path, packed = tmp_path / "a.csv.gz", gzip.compress(b"a,b\n" + bytes(range(48, 58)) * 50)
    for broken in (packed[:-10], packed[:20] + b"\xff\xff\xff" + packed[23:], packed[:-8] + bytes(8), packed + b"junk"):
        path.write_bytes(broken)
        refuses(path, r"cannot read '.*a\.csv\.gz' as gzip: .+\. Fetch or pack the file again")


def test_gzip_suffix_on_a_plain_file(refuses, tmp_path):
    (tmp_path / "a.csv.gz").write_text("a,b\n1,2\n")
    refuses(tmp_path / "a.csv.gz", r"as gzip: it does not start with the bytes 1f 8b\. If it is unpacked already, drop")


# Tables.


def test_text_column(refuses, csv):
    path = csv("a,species\n1,setosa\n2,virginica\n")
    refuses(
        path,
        r"^column 'species' holds text, e\.g\. 'setosa' in data row 0 of '.*a\.csv' \(counted from 0\); pass "
        r"label_column='species' to split it off, or columns=\[\.\.\.\] to leave it out\.$",
    )


def test_text_among_numbers_is_named_with_its_row(refuses, csv):
    refuses(csv("a,power\n1,130\n2,\n3,?\n4,90\n"), r"column 'power' holds text, e\.g\. '\?' in data row 2")


def test_other_things_in_parquet(refuses, tmp_path):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"a": [1.0, 2.0], "day": [datetime.datetime(2020, 1, 1)] * 2}).to_parquet(path)
    refuses(path, r"column 'day' holds Timestamp values, e\.g\. 2020-01-01 .* columns=\[\.\.\.\] to leave it out")
    pd.DataFrame({"a": [1.0, 2.0], "list": [[1, 2], [3]]}).to_parquet(path)
    refuses(path, "column 'list' holds ndarray values")
    pd.DataFrame({"a": ["1", "2"]}).to_parquet(path)
    refuses(path, r"column 'a' holds text, e\.g\. '1' in data row 0")
    pd.DataFrame({"a": [1.0, 2.0], "b": [True, None]}).to_parquet(path)
    refuses(path, r"missing value \(NaN\) in data row 1 .* column 'b'")
    refuses(path, r"label column 'b' .* missing one in data row 1", label_column="b")
    pd.DataFrame({"a": [1.0, 2.0], "b": [None, None]}).to_parquet(path)
    refuses(path, r"missing value \(NaN\) in data row 0 .* column 'b'")


@pytest.mark.parametrize("name", ["label", "labels", "class", "target", "y", "species", "Class", "TARGET"])
def test_numbers_that_look_like_labels(refuses, csv, name):
    refuses(
        csv(f"a,{name}\n1,0\n2,1\n3,0\n"),
        rf"column '{name}' of '.*' looks like labels: 2 whole numbers in 3 rows; pass label_column='{name}' to split "
        r"it off, or columns=\[\.\.\.\] to keep it on purpose",
    )


@pytest.mark.parametrize(("value", "got"), [("", r"a missing value \(NaN\)"), ("NA", "a missing"), ("-inf", "-inf")])
def test_values_that_are_not_finite(refuses, csv, value, got):
    refuses(
        csv(f"a,b\n1,2\n3,{value}\n4,5\n6,{value}\n"),
        rf"must hold finite numbers; got {got}.* in data row 1 \(counted from 0, header left out\), column 'b'\. "
        "Fill in or drop the 2 rows",
    )


@pytest.mark.skipif(int(pd.__version__.split(".")[0]) < 3, reason="older pandas reads such integers as text")
def test_integers_too_large_for_a_float(refuses, csv):
    refuses(csv(f"a,b\n1,2\n{'9' * 400},4\n"), "must hold finite numbers; got inf in data row 1")


@pytest.mark.skipif(int(pd.__version__.split(".")[0]) < 3, reason="older pandas reads such integers as text")
def test_labels_too_large(refuses, csv):
    refuses(csv(f"a,b\n1,2\n1,{'9' * 19}\n"), "whole numbers or text; got 1e\\+19 in data row 1", label_column="b")
    refuses(csv(f"a,b\n1,2\n1,{'9' * 30}\n"), "whole numbers or text; got object values", label_column="b")


def test_long_text_is_shortened(refuses, csv):
    refuses(csv("a,b\n1," + "word " * 100 + "\n"), r"holds text, e\.g\. '(word ){11}w\.\.\. in data row 0")


def test_no_rows(refuses, csv, tmp_path):
    refuses(csv("a,b\n"), "has no rows; expected at least one below the 2 column names")
    pd.DataFrame({"a": []}).to_parquet(tmp_path / "a.parquet")
    refuses(tmp_path / "a.parquet", "has no rows; expected at least one below the 1 column names")


def test_only_blank_lines(refuses, csv):
    refuses(csv("\n\n"), "is empty; expected a line of column names and then rows")


def test_no_column_beside_the_labels(refuses, csv):
    refuses(csv("kind\na\nb\n"), "no column left beside the labels 'kind'", label_column="kind")


def test_header(refuses, csv):
    refuses(csv("3.6,79\n1.8,54\n"), r"must begin with a line of column names; got numbers: 3\.6, 79\. Add such a line")
    refuses(csv("0,0,0\n1,2,3\n"), "must begin with a line of column names; got numbers: 0, 0, 0")
    refuses(csv("a,b,a\n1,2,3\n"), r"must name each column once; got 'a' 2 times\. Rename")
    refuses(csv(",a\n1,2.5\n2,3.5\n"), r"no name for column 0 \(counted from 0; row numbers, perhaps\)")
    refuses(csv(",a,k\n1,2.5,u\n2,3.5,v\n"), "no name for column 0", label_column="k")


@pytest.mark.parametrize(("mark", "shown"), [(";", "';'"), ("\t", r"'\\t'"), ("|", r"'\|'")])
def test_other_separators(refuses, csv, mark, shown):
    refuses(csv(f"a{mark}b\n1{mark}2\n"), rf"must be separated by commas; got {shown} in its first line")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n1,2\n3,4,5\n", "Expected 2 fields in line 3, saw 3"),
        ("a,b\n0,2,3\n1,5,6\n", "Expected 2 fields in line 2, saw 3"),
        ("a,b\n1,2,3\n4,5,6\n", "Expected 2 fields in line 2, saw 3"),
        (b"a,b\n1,\xff\xfe\n", "'utf-8' codec can't decode"),
        ('a,b\n1,"2\n3,4\n', "EOF inside string"),
    ],
)
def test_corrupt_csv(refuses, csv, text, reason):
    refuses(csv(text), rf"cannot read '.*a\.csv' as CSV: .*{reason}.*\. Save it as comma-separated UTF-8 text")


@pytest.mark.parametrize("keep", [6, 40, -3])
def test_corrupt_parquet(refuses, tmp_path, keep):
    path = tmp_path / "a.parquet"
    pd.DataFrame({"a": [1.0, 2.0]}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:keep])
    refuses(path, r"cannot read '.*a\.parquet' as Parquet: .+\. Write the file again")


def test_text_in_a_parquet_file(refuses, tmp_path):
    (tmp_path / "a.parquet").write_text("a,b\n1,2\n")
    refuses(tmp_path / "a.parquet", "cannot read '.*' as Parquet: ")


def test_labels_of_a_table(refuses, csv, tmp_path):
    path = csv("a,k\n1,x\n2,\n3,y\n")
    refuses(
        path,
        r"label column 'k' of '.*' must have a label in each row; got a missing one in data row 1",
        label_column="k",
    )
    refuses(csv("a,k\n1,1\n2,0.5\n"), r"whole numbers or text; got 0\.5 in data row 1", label_column="k")
    refuses(csv("a,k\n1,1\n2,inf\n"), "whole numbers or text; got inf in data row 1", label_column="k")
    pd.DataFrame({"a": [1.0], "k": [datetime.date(2020, 1, 1)]}).to_parquet(tmp_path / "a.parquet")
    refuses(tmp_path / "a.parquet", "label column 'k' .* must hold whole numbers or text; got object", label_column="k")
