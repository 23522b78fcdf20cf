"""What read() refuses in NPY, NPZ and IDX files, and in what words."""

import pickle
import struct

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.zeros(3, complex), "complex128"),
        (np.array(["a", "b"]), "<U1"),
        (np.array([b"a"]), r"\|S1"),
        (np.zeros(3, "datetime64[D]"), "datetime64"),
        (np.zeros(3, [("a", float)]), r"\[\('a', '<f8'\)\]"),
    ],
)
def test_dtypes(refuses, npy, array, kind):
    refuses(npy(array), rf"'.*a\.npy' must hold real numbers; got dtype {kind}.*\. Save array\.astype\(float\)")


def test_shapes(refuses, npy):
    refuses(npy(np.array(3.5)), r"must hold an array of shape \(N,\) or \(N, D\); got the single number 3\.5")
    refuses(npy(np.zeros((0, 2))), r"must hold at least one row and column; got shape \(0, 2\), no rows")
    refuses(npy(np.zeros((2, 0))), r"must hold at least one row and column; got shape \(2, 0\)")


def test_array_values_that_are_not_finite(refuses, npy):
    array = np.zeros((4, 2, 2))
    array[2, 1, 0] = np.nan
    refuses(npy(array), r"got a missing value \(NaN\) in data row 2 .*, column 'x_1_0'\. Fill in or drop the 1 rows")
    if np.finfo(np.longdouble).max > np.finfo(float).max:
        refuses(npy(np.full((2, 2), np.finfo(np.longdouble).max)), "got inf in data row 0")


class Trap:
    """An object whose unpickling would raise."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_nothing_is_unpickled(refuses, npy, tmp_path):
    trap = np.array([Trap()], dtype=object)
    never = "Python objects are never unpickled"
    refuses(npy(trap), rf"cannot read '.*a\.npy' as NPY: .*numpy\.save; {never}")
    np.savez(tmp_path / "a.npz", x=trap)
    refuses(tmp_path / "a.npz", rf"cannot read '.*a\.npz' as NPZ: .*numpy\.savez; {never}")
    np.savez(tmp_path / "a.npz", x=np.zeros(1), labels=trap)
    refuses(tmp_path / "a.npz", rf"cannot read '.*a\.npz' as NPZ: .*; {never}")
    for name in ("a.npy", "a.npz", "a.parquet", "a.idx"):
        (tmp_path / name).write_bytes(pickle.dumps(trap))
        refuses(tmp_path / name, f"cannot read '.*{name}' as ")


@pytest.mark.parametrize("broken", [slice(0, 9), slice(0, 60), slice(0, 140)])
def test_corrupt_npy(refuses, npy, broken):
    path = npy(np.zeros((5, 3)))
    path.write_bytes(path.read_bytes()[broken])
    refuses(path, r"cannot read '.*a\.npy' as NPY: .+\. Save a numeric array with numpy\.save")


def test_npy_with_an_absurd_header(refuses, npy):
    path = npy(np.zeros((5, 3)))
    path.write_bytes(path.read_bytes().replace(b"(5, 3), }" + b" " * 13, b"(5" + b"0" * 13 + b", 3), }"))
    refuses(path, r"cannot read '.*a\.npy' as NPY: ")


def test_corrupt_npz(refuses, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(100.0))
    whole = path.read_bytes()
    for broken in (whole[:-30], whole[:400] + b"\1" + whole[401:], b"not a zip archive"):
        path.write_bytes(broken)
        refuses(path, r"cannot read '.*a\.npz' as NPZ: .+\. Save a numeric array with numpy\.savez")


def test_npz_that_does_not_name_its_data(refuses, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, sigma=np.zeros(2), y=np.zeros(2))
    refuses(path, r"must hold an array named 'x', or a single array; got 'sigma', 'y'\. Save it with numpy\.savez")
    np.savez(path)
    refuses(path, "or a single array; got none")


def test_npz_labels(refuses, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros((3, 2)), labels=np.array([0, 1]))
    refuses(path, "must hold a label for each row; got 2 labels for 3 rows")
    np.savez(path, x=np.zeros((3, 2)), labels=np.eye(3))
    refuses(path, r"labels of '.*a\.npz' must be one-dimensional, .*; got shape \(3, 3\)")
    np.savez(path, x=np.zeros((3, 2)), labels=np.zeros(3, complex))
    refuses(path, "labels of '.*' must hold whole numbers or text; got complex128 values")
    np.savez(path, x=np.zeros((3, 2)), y=np.array([0.0, 1.5, 2.0]))
    refuses(path, r"labels of '.*' must hold whole numbers or text; got 1\.5 in data row 1")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\1\2\3\4\0\0\0\1", "it must start with 0, 0, type, dimensions; got bytes 01 02 03 04"),
        (b"\0\0\x0a\1\0\0\0\1x", "it must start with 0, 0, type, dimensions; got bytes 00 00 0a 01"),
        (b"\0\0\x08\0x", "got bytes 00 00 08 00"),
        (b"\0\0", "got bytes 00 00"),
        (b"\0\0\x08\3\0\0\0\2", "its header must have 16 bytes; got 8"),
        (b"\0\0\x08\1\0\0\0\3ab", r"shape \(3,\) of uint8 must have 3 bytes of data; got 2"),
        (b"\0\0\x08\1\0\0\0\1ab", r"shape \(1,\) of uint8 must have 1 bytes of data; got 2"),
        (b"\0\0\x0e\2" + struct.pack(">2I", 2**31, 2**31), "must have 36893488147419103232 bytes of data; got 0"),
    ],
)
def test_corrupt_idx(refuses, tmp_path, content, reason):
    for name in ("a.idx", "train-images-idx3-ubyte"):
        (tmp_path / name).write_bytes(content)
        refuses(tmp_path / name, rf"cannot read '.*{name}' as IDX: .*{reason}.*\. Fetch or write the file again")


def test_idx_without_rows(refuses, tmp_path):
    (tmp_path / "a.idx").write_bytes(b"\0\0\x08\2" + struct.pack(">2I", 0, 4))
    refuses(tmp_path / "a.idx", r"at least one row and column; got shape \(0, 4\)")
