"""What read() returns for each format."""

import gzip
import struct

import numpy as np
import pandas as pd
import pytest

from pyrolvm.datasets import faithful, read

X = np.array([[1.5, 2.0], [3.0, -4.25], [0.0, 1e6]])
CSV = "a,b,kind\n1.5,2,wren\n3,-4.25,owl\n0,1e6,wren\n"


def write_idx(path, array, code=0x08):
    """Write an IDX file as its definition says: 0, 0, type, dimensions, big-endian sizes, big-endian data."""
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(array.dtype.newbyteorder(">")).tobytes())
    return path


def pack(path):
    """Write a gzip copy beside a file."""
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return packed


@pytest.fixture
def frame():
    return pd.DataFrame({"a": X[:, 0], "b": X[:, 1], "kind": ["wren", "owl", "wren"]})


def test_csv_with_text_labels(tmp_path):
    path = tmp_path / "birds.csv"
    path.write_text(CSV)
    for file in (path, str(path), pack(path)):
        data = read(file, label_column="kind")
        assert (data.x == X).all()
        assert data.x.dtype == np.float64
        assert data.columns == ("a", "b")
        assert data.labels.tolist() == [1, 0, 1]
        assert data.labels.dtype == np.int64
        assert data.label_names == ("owl", "wren")
        assert data.name == "birds"
        assert data.source == f"file {file}"


def test_csv_columns_choose_and_order(tmp_path):
    path = tmp_path / "birds.csv"
    path.write_text(CSV)
    data = read(path, columns=["b", "a"])
    assert data.columns == ("b", "a")
    assert (data.x == X[:, ::-1]).all()
    assert data.labels is None
    data = read(path, columns=("b",), label_column="kind")
    assert data.x.shape == (3, 1)
    assert data.label_names == ("owl", "wren")


def test_csv_numeric_labels_stay_as_they_are(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,target\n1,7\n2,3\n3,7\n")
    data = read(path, label_column="target")
    assert data.labels.tolist() == [7, 3, 7]
    assert data.label_names is None
    assert data.columns == ("a",)
    path.write_text("a,target\n1,True\n2,False\n3,True\n")
    assert read(path, label_column="target").labels.tolist() == [1, 0, 1]


def test_csv_label_like_column_kept_on_purpose(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,target\n1,7\n2,3\n3,7\n")
    assert read(path, columns=["a", "target"]).x.tolist() == [[1, 7], [2, 3], [3, 7]]


def test_csv_measurements_named_y_are_data(tmp_path):
    path = tmp_path / "schools.csv"
    path.write_text("y,sigma\n28,15\n8,10\n-3,16\n")  # whole numbers, none twice
    assert read(path).columns == ("y", "sigma")
    path.write_text("y,sigma\n0.5,15\n0.5,10\n1,16\n")
    assert read(path).columns == ("y", "sigma")


def test_csv_details(tmp_path):
    path = tmp_path / "my.data.CSV"
    path.write_bytes("\ufeffa, b\r\n1, 2\r\n\r\n3, True\r\n".replace("True", "4").encode())  # BOM, spaces, CRLF, gap
    data = read(path)
    assert data.columns == ("a", "b")
    assert data.x.tolist() == [[1, 2], [3, 4]]
    assert data.name == "my.data"
    path.write_text("0,1\n5,6\n7,8\n")  # what pandas writes for unnamed columns
    assert read(path).x.tolist() == [[5, 6], [7, 8]]
    path.write_text("a,b\nTrue,1\nFalse,2\n")
    assert read(path).x.tolist() == [[1, 1], [0, 2]]


@pytest.mark.skipif(int(pd.__version__.split(".")[0]) < 3, reason="older pandas reads such integers as text")
def test_csv_integers_beyond_64_bits(tmp_path):
    path = tmp_path / "big.csv"
    path.write_text(f"a,b\n1,2\n1{'0' * 30},3\n")
    assert read(path).x.tolist() == [[1, 2], [1e30, 3]]


def test_csv_row_numbers_can_be_left_out(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text('"","eruptions"\n"1",3.6\n"2",1.8\n')
    assert read(path, columns=["eruptions"]).x.tolist() == [[3.6], [1.8]]


def test_csv_round_trip_of_real_data(tmp_path):
    path = tmp_path / "faithful.csv"
    pd.DataFrame(faithful().x, columns=list(faithful().columns)).to_csv(path, index=False)
    assert (read(path).x == faithful().x).all()


@pytest.mark.parametrize("suffix", [".parquet", ".pq", ".data"])  # the last is known by its first bytes
def test_parquet(tmp_path, frame, suffix):
    path = tmp_path / f"birds{suffix}"
    frame.to_parquet(path)
    for file in (path, pack(path)):
        data = read(file, label_column="kind")
        assert (data.x == X).all()
        assert data.columns == ("a", "b")
        assert data.labels.tolist() == [1, 0, 1]
        assert data.label_names == ("owl", "wren")


def test_parquet_column_types(tmp_path, frame):
    path = tmp_path / "birds.parquet"
    frame["kind"] = frame["kind"].astype("category")
    frame["count"] = pd.array([1, 2, 3], dtype="Int64")
    frame["small"] = np.array([1, 2, 3], np.uint8)
    frame["seen"] = [True, False, True]
    frame.to_parquet(path)
    data = read(path, label_column="kind")
    assert data.columns == ("a", "b", "count", "small", "seen")
    assert data.label_names == ("owl", "wren")
    assert data.x[:, 2:].tolist() == [[1, 1, 1], [2, 2, 0], [3, 3, 1]]
    assert read(path, label_column="count", columns=["a"]).labels.tolist() == [1, 2, 3]


def test_parquet_in_a_folder_that_looks_like_a_partition(tmp_path, frame):
    folder = tmp_path / "year=2020"
    folder.mkdir()
    frame.to_parquet(folder / "birds.parquet")
    assert read(folder / "birds.parquet", columns=["a", "b"]).columns == ("a", "b")
    assert read(folder / "birds.parquet", label_column="kind").columns == ("a", "b")


@pytest.mark.parametrize("dtype", ["float64", "float32", "int8", "uint16", "bool", ">f4", "float16"])
def test_npy(tmp_path, dtype):
    array = np.array([[0, 1], [1, 1], [1, 0]]).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    for file in (tmp_path / "a.npy", pack(tmp_path / "a.npy")):
        data = read(file)
        assert data.x.dtype == np.float64
        assert (data.x == array.astype(float)).all()
        assert data.columns == ("x_0", "x_1")
        assert data.labels is None
        assert data.name == "a"


def test_npy_of_other_shapes(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3))
    data = read(tmp_path / "a.npy")
    assert data.x.tolist() == [[0], [1], [2]]
    assert data.columns == ("x",)
    images = np.arange(24).reshape(2, 3, 4)
    np.save(tmp_path / "a.npy", np.asfortranarray(images))
    data = read(tmp_path / "a.npy")
    assert (data.x == images.reshape(2, 12)).all()
    assert data.columns[5] == "x_1_1"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, save):
    path = tmp_path / "a.npz"
    save(path, x=X, y=np.array([2, 0, 2]), noise=np.zeros(7))
    for file in (path, pack(path)):
        data = read(file)
        assert (data.x == X).all()
        assert data.labels.tolist() == [2, 0, 2]
        assert data.label_names is None


def test_npz_names(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X)
    assert (read(path).x == X).all()
    assert read(path).labels is None
    np.savez(path, images=X, labels=np.array(["b", "a", "b"]))
    assert read(path).labels.tolist() == [1, 0, 1]
    assert read(path).label_names == ("a", "b")
    np.savez(path, x=X, labels=np.array([1.0, 2.0, 1.0]), y=X[:, 0])
    assert read(path).labels.tolist() == [1, 2, 1]


def test_npz_leaves_objects_beside_the_data_alone(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, notes=np.array([{"not": "read"}], dtype=object))
    assert (read(tmp_path / "a.npz").x == X).all()


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(0x08, "uint8"), (0x09, "int8"), (0x0B, "int16"), (0x0C, "int32"), (0x0D, "float32"), (0x0E, "float64")],
)
def test_idx_types(tmp_path, code, dtype):
    array = (np.arange(24).reshape(2, 3, 4) * 5).astype(dtype)
    data = read(write_idx(tmp_path / "a.idx", array, code))
    assert data.x.shape == (2, 12)
    assert (data.x == array.reshape(2, 12)).all()
    assert data.columns[-1] == "x_2_3"


@pytest.mark.parametrize(
    ("file_name", "name"),
    [("train-images-idx3-ubyte", "train-images-idx3-ubyte"), ("train-images.idx3-ubyte", "train-images"), ("a.b", "a")],
)
def test_idx_as_mnist_is_published(tmp_path, file_name, name):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28)).astype(np.uint8)
    path = write_idx(tmp_path / file_name, images)
    for file in (path, pack(path)):
        data = read(file)
        assert data.x.shape == (5, 784)
        assert (data.x == images.reshape(5, 784)).all()
        assert data.name == name


def test_idx_labels(tmp_path):
    path = pack(write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([5, 0, 4], np.uint8)))
    assert read(path).x.tolist() == [[5], [0], [4]]


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "a.npy", X)
    assert (read("~/a.npy").x == X).all()
