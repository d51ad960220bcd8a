"""Data sets: the contract on every example, and what is special to each."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from flowkit.core.build import build
from flowkit.core.errors import ConfigError, DataError, UnknownNameError
from flowkit.core.registry import DATA
from flowkit.data import CIFAR10, MNIST, UCI, Checkerboard, Dataset, Digits, File, SklearnTable, Split, Table, TwoMoons, _fetch, read_table
from flowkit.data._fetch import PublicFile, fetch
from flowkit.data._pixels import dequantized_pixels
from flowkit.data._tabular import dequantized, split_rows, without_discrete
from flowkit.data._uci_files import TABLES
from flowkit.data.cifar10 import _binary

EXAMPLES = [pytest.param(example, id=f"{name}-{label}") for name in DATA for label, example in DATA[name].examples()]
PLANAR = ["two_moons", "circles", "rings", "checkerboard", "pinwheel", "swiss_roll", "two_spirals", "eight_gaussians"]


def loaded(example: Dataset) -> Dataset:
    if not example.at_hand:
        pytest.skip(f"{example!r} needs its file under $FLOWKIT_DATA")
    return example


# -- the contract -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES)
def test_three_splits_of_finite_float32(example: Dataset) -> None:
    data = loaded(example)
    for part in (data.train, data.validation, data.test):
        assert isinstance(part, Split)
        assert part.x.dtype == torch.float32
        assert part.x.shape[1:] == data.event_shape
        assert len(part.x) > 0
        assert torch.isfinite(part.x).all()
        assert (part.context is None) == (data.context_shape is None)
        if part.context is not None:
            assert part.context.shape == (len(part.x), *data.context_shape)
    assert data.features == math.prod(data.event_shape)
    assert data.names is None or len(data.names) == data.features
    assert data.license
    assert data.source


@pytest.mark.parametrize("example", EXAMPLES)
def test_described_and_built_again_gives_the_same_rows(example: Dataset) -> None:
    data = loaded(example)
    again = build(data.describe(), Dataset)
    assert again.describe() == data.describe()
    torch.testing.assert_close(again.train.x, data.train.x, rtol=0, atol=0)
    torch.testing.assert_close(again.test.x, data.test.x, rtol=0, atol=0)


@pytest.mark.parametrize("example", EXAMPLES)
def test_seed_changes_the_rows(example: Dataset) -> None:
    data = loaded(example)
    other = build({**data.describe(), "seed": 1}, Dataset)
    assert not torch.equal(other.train.x, data.train.x)


def test_loading_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    _ = TwoMoons(train_size=10).train, Digits().train, SklearnTable().train
    assert torch.equal(before, torch.get_rng_state())


# -- the plane --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANAR)
def test_planar_sets_are_planar_and_bounded(name: str) -> None:
    data = DATA[name]()
    assert data.train.x.shape == (10_000, 2)
    assert data.train.x.abs().max() < 6
    assert data.train.x.std() > 0.5
    assert data.sample(7, torch.Generator().manual_seed(0)).x.shape == (7, 2)


@pytest.mark.parametrize(("name", "classes"), [("two_moons", 2), ("circles", 2), ("rings", 4), ("pinwheel", 5), ("two_spirals", 2), ("eight_gaussians", 8)])
def test_planar_labels(name: str, classes: int) -> None:
    data = DATA[name](classes=True, train_size=500)
    assert data.class_count == classes
    assert data.context_shape == ()
    assert data.train.context is not None
    assert data.train.context.dtype == torch.int64


def test_sizes_of_one_split_do_not_change_another() -> None:
    torch.testing.assert_close(TwoMoons(train_size=10).test.x, TwoMoons(train_size=999).test.x)


def test_checkerboard_fills_the_black_squares_evenly() -> None:
    cells = ((Checkerboard().train.x + 4) / 2).floor().long()
    assert ((cells.sum(-1) % 2) == 0).all()
    counts = torch.bincount(cells[:, 0] * 4 + cells[:, 1], minlength=16)
    assert (counts > 0).sum() == 8
    assert (counts[counts > 0] - 1250).abs().max() < 6 * math.sqrt(1250)


def test_planar_refuses_bad_sizes() -> None:
    with pytest.raises(ConfigError, match="train_size"):
        TwoMoons(train_size=0)
    with pytest.raises(ConfigError, match="noise"):
        TwoMoons(noise=-1.0)


def test_alias() -> None:
    assert DATA["spirals"] is DATA["two_spirals"]


# -- tables -----------------------------------------------------------------------------------------------------


def test_standardised_by_the_train_rows_and_restored() -> None:
    data, raw = SklearnTable("wine"), SklearnTable("wine", standardize=False)
    assert raw.scale is None
    assert raw.log_det_per_row == 0
    assert data.scale is not None
    torch.testing.assert_close(data.train.x.mean(0), torch.zeros(13), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.train.x.std(0, correction=0), torch.ones(13), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.scale.restore(data.test.x), raw.test.x, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(data.scale.standardize(raw.test.x), data.test.x, rtol=1e-4, atol=1e-4)


def test_log_det_per_row_refers_densities_to_raw_units() -> None:
    data = SklearnTable("iris")
    scale = data.scale
    assert scale is not None
    raw = scale.restore(data.test.x.double())
    standard = torch.distributions.Normal(torch.zeros(4, dtype=torch.float64), 1.0)
    direct = torch.distributions.Normal(scale.loc, scale.scale).log_prob(raw).sum(-1)
    torch.testing.assert_close(standard.log_prob(data.test.x.double()).sum(-1) + data.log_det_per_row, direct)


def test_classes_of_a_table() -> None:
    assert SklearnTable("breast_cancer", classes=True).class_count == 2
    with pytest.raises(ConfigError, match="no classes"):
        SklearnTable("diabetes", classes=True)


@pytest.mark.parametrize(("name", "columns"), [("iris", 4), ("wine", 13), ("breast_cancer", 30), ("diabetes", 10)])
def test_sklearn_tables(name: str, columns: int) -> None:
    assert SklearnTable(name).features == columns  # diabetes: sex is discrete, the target is a column


def test_splits_are_disjoint_and_complete() -> None:
    train, validation, test = split_rows(1000, 3, "test")
    assert [len(part) for part in (train, validation, test)] == [810, 90, 100]
    assert sorted(np.concatenate([train, validation, test])) == list(range(1000))


def test_dequantised_by_less_than_half_a_step() -> None:
    values = np.round(np.random.default_rng(0).normal(size=(500, 2)), 1)
    noisy = dequantized(values, np.random.default_rng(1))
    assert np.abs(noisy - values).max() <= 0.05 + 1e-12
    assert len(np.unique(noisy)) == noisy.size
    np.testing.assert_array_equal(np.round(noisy, 1), np.round(values, 1))


def test_discrete_columns_are_dropped() -> None:
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.normal(size=2000), rng.integers(0, 10, 2000), rng.integers(0, 110, 2000)])
    assert without_discrete(Table(values, ("x0", "x1", "x2"))).names == ("x0", "x2")


# -- digits -----------------------------------------------------------------------------------------------------


def test_digits_keep_their_levels() -> None:
    from sklearn.datasets import load_digits

    data = Digits(form="vector", classes=True)
    assert data.event_shape == (64,)
    assert data.class_count == 10
    assert len(data.train.x) + len(data.validation.x) + len(data.test.x) == 1797
    x = data.train.x
    assert x.min() >= 0
    assert x.max() < 1
    rows = torch.from_numpy(split_rows(1797, 0, "digits")[0])
    assert torch.equal((x * 17).floor(), torch.from_numpy(load_digits().data).float()[rows])


def test_digits_as_images_without_noise() -> None:
    data = Digits(dequantize=False)
    assert data.event_shape == (1, 8, 8)
    torch.testing.assert_close((data.test.x * 17) % 1, torch.full_like(data.test.x, 0.5), atol=1e-4, rtol=0)


# -- MNIST, CIFAR-10 --------------------------------------------------------------------------------------------


def test_pixels_keep_their_levels_inside_the_open_interval() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(4000)
    x = dequantized_pixels(pixels, 0, noise=True)
    assert x.min() > 0 and x.max() < 1
    assert torch.equal((256 * x).floor(), pixels.float())
    assert abs(float((256 * x.double()).frac().mean()) - 0.5) < 0.002
    torch.testing.assert_close(dequantized_pixels(pixels[:256], 0, noise=False) * 256, pixels[:256] + 0.5)


def test_mnist_reads_idx_files(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    contents, whole = {}, {}
    for name, count in (("t10k", 10), ("train", 30)):
        pixels, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8)
        whole[name] = pixels
        contents[f"{name}-images-idx3-ubyte.gz"] = gzip.compress(np.array([2051, count, 28, 28], ">i4").tobytes() + pixels.tobytes())
        contents[f"{name}-labels-idx1-ubyte.gz"] = gzip.compress(np.array([2049, count], ">i4").tobytes() + labels.tobytes())
    monkeypatch.setattr("flowkit.data.mnist.fetch", lambda file, who: contents[file.file])
    data = MNIST(classes=True, dequantize=False)
    assert (len(data.train.x), len(data.validation.x), len(data.test.x)) == (27, 3, 10)
    assert torch.equal((256 * data.test.x[:, 0]).floor(), torch.from_numpy(whole["t10k"]).float())
    assert data.train.context is not None and len(data.train.context) == 27
    small = MNIST("test")
    assert (len(small.train.x), len(small.validation.x), len(small.test.x)) == (8, 1, 1)
    with pytest.raises(ConfigError, match="'all' or 'test'"):
        MNIST("half")  # type: ignore[arg-type]


def test_cifar10_reads_binary_records(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (60_000, 8), np.uint8).repeat(385, axis=1)[:, :3073]
    records[:, 0] %= 10
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as archive:
        for i, name in enumerate([*(f"data_batch_{j}.bin" for j in range(1, 6)), "test_batch.bin"]):
            content = records[10_000 * i : 10_000 * (i + 1)].tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    pixels, labels = _binary(stream.getvalue())
    assert torch.equal(labels, torch.from_numpy(records[:, 0].astype(np.int64)))
    assert torch.equal(pixels[-1].flatten(), torch.from_numpy(records[-1, 1:]))
    assert pixels.shape == (60_000, 3, 32, 32)


def test_cifar10_as_jpeg_has_a_thousand_of_each_kind() -> None:
    data = loaded(CIFAR10("test_jpeg", classes=True))
    labels = torch.cat([part.context for part in (data.train, data.validation, data.test) if part.context is not None])
    assert torch.equal(torch.bincount(labels), torch.full((10,), 1000))
    assert data.event_shape == (3, 32, 32)


# -- UCI --------------------------------------------------------------------------------------------------------

ROWS = {
    "abalone": (4177, 4),
    "concrete": (1030, 8),
    "energy": (768, 1),
    "kin8nm": (8192, 9),
    "miniboone": (1523, 43),
    "naval-propulsion-plant": (11934, 10),
    "power-plant": (9568, 5),
    "wine-quality-red": (1599, 9),
    "winequality-white": (4898, 3),
    "yacht": (308, 2),
}


@pytest.mark.parametrize("name", list(ROWS))
def test_uci_tables(name: str) -> None:
    data = loaded(UCI(name))
    assert (len(data.train.x) + len(data.validation.x) + len(data.test.x), data.features) == ROWS[name]
    assert len(data.test.x) == int(0.1 * ROWS[name][0])
    torch.testing.assert_close(data.train.x.mean(0), torch.zeros(data.features), atol=1e-5, rtol=0)
    assert loaded(UCI(name, drop_discrete=False)).features >= data.features


def test_every_published_table_is_tested() -> None:
    assert set(ROWS) == set(TABLES)
    with pytest.raises(UnknownNameError, match="power-plant"):
        UCI("powerplant")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLOWKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FLOWKIT_DATA", raising=False)
    return tmp_path


def published(folder: Path, content: bytes = b"1 2\n3 4\n", sha256: str | None = None) -> PublicFile:
    (folder / "there.txt").write_bytes(content + b"what follows is not used")
    url = (folder / "there.txt").as_uri()
    return PublicFile("uci", "here.txt", url, len(content), sha256 or hashlib.sha256(content).hexdigest())


def test_fetch_downloads_once(elsewhere: Path) -> None:
    wanted = published(elsewhere)
    assert fetch(wanted, "test") == b"1 2\n3 4\n"
    (elsewhere / "there.txt").unlink()
    assert fetch(wanted, "test") == b"1 2\n3 4\n"
    assert [path.name for path in (elsewhere / "cache" / "uci").iterdir()] == ["here.txt"]


def test_fetch_prefers_the_local_folder(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = published(elsewhere)
    (elsewhere / "uci").mkdir()
    (elsewhere / "uci" / "here.txt").write_bytes(b"1 2\n3 4\n")
    (elsewhere / "there.txt").unlink()
    monkeypatch.setenv("FLOWKIT_DATA", str(elsewhere))
    assert fetch(wanted, "test") == b"1 2\n3 4\n"
    assert _fetch.find(wanted) == elsewhere / "uci" / "here.txt"


def test_fetch_refuses_another_file(elsewhere: Path) -> None:
    with pytest.raises(DataError, match="expected SHA-256 0000"):
        fetch(published(elsewhere, sha256="0" * 64), "test")
    assert not (elsewhere / "cache").exists()


def test_fetch_refuses_a_damaged_cache(elsewhere: Path) -> None:
    wanted = published(elsewhere)
    fetch(wanted, "test")
    (elsewhere / "cache" / "uci" / "here.txt").write_bytes(b"damaged")
    with pytest.raises(DataError, match="Remove the file"):
        fetch(wanted, "test")


def test_fetch_without_a_source_says_where_to_put_the_file(elsewhere: Path) -> None:
    wanted = published(elsewhere)
    (elsewhere / "there.txt").unlink()
    with pytest.raises(DataError, match=r"cannot download.*FLOWKIT_DATA/uci/here.txt"):
        fetch(wanted, "test")


def test_fetch_without_a_writable_cache(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "a_file").write_text("")
    monkeypatch.setenv("FLOWKIT_CACHE", str(elsewhere / "a_file"))
    with pytest.raises(DataError, match="FLOWKIT_CACHE"):
        fetch(published(elsewhere), "test")


def test_uci_is_not_loaded_until_looked_at(elsewhere: Path) -> None:
    data = UCI("yacht")
    assert not data.at_hand
    assert not (elsewhere / "cache").exists()
    assert os.environ["FLOWKIT_CACHE"]


# -- the user's own file ----------------------------------------------------------------------------------------


def write(folder: Path, text: str, name: str = "table.csv") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("comma.csv", "a,b\n1,2\n3,4\n"),
        ("semicolon.csv", "a;b\n1;2\n3;4\n"),
        ("tabs.tsv", "a\tb\n1\t2\n3\t4\n"),
        ("blanks.txt", "a b\n1  2\n3 4\n\n"),
        ("quoted.csv", '"a","b"\r\n"1","2"\r\n"3","4"\r\n'),
        ("saved.txt", "# a b\n1.0e0 2.0e0\n3.0e0 4.0e0\n"),
        ("noted.txt", "# measured on a Monday\na b\n1 2\n# a pause\n3 4\n"),
        ("bom.csv", "\ufeffa,b\n1,2\n3,4\n"),
    ],
)
def test_text_tables(tmp_path: Path, name: str, text: str) -> None:
    table = read_table(write(tmp_path, text, name))
    assert table.names == ("a", "b")
    np.testing.assert_array_equal(table.values, [[1, 2], [3, 4]])


def test_text_without_header(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "1,2\n3,4\n"), columns=["x1"])
    assert table.names == ("x1",)
    np.testing.assert_array_equal(table.values, [[2], [4]])


def test_a_table_saved_by_numpy_comes_back_exactly(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(20_000, 5))
    np.savetxt(tmp_path / "big.csv", values, delimiter=",", header="a,b,c,d,e")
    table = read_table(tmp_path / "big.csv")
    assert table.names == ("a", "b", "c", "d", "e")
    np.testing.assert_array_equal(table.values, values)


def test_columns_by_name_and_position(tmp_path: Path) -> None:
    path = write(tmp_path, "id,a,b\nu1,1,2\nu2,3,4\n")
    table = read_table(path, columns=["b", 1])
    assert table.names == ("b", "a")
    np.testing.assert_array_equal(table.values, [[2, 1], [4, 3]])
    with pytest.raises(DataError, match="no column 'c'"):
        read_table(path, columns=["c"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("a,b\n", "empty"),
        ("a,b\n1,2\n3,\n", "column 'b' is not numeric.*line 3.*empty"),
        ("a,b\n1,x\n3,4\n", "column 'b' is not numeric.*line 2.*'x'"),
        ("a,b\n1,2\n3,nan\n", "column 'b' has 1 values that are NaN or infinite, the first in row 2"),
        ("a,b\n1,2\n3,inf\n", "column 'b'"),
        ("a,b\n1,2\n3,4,5\n", "line 3 has 3 cells; expected 2"),
    ],
)
def test_what_is_wrong_in_a_text_table(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, text))


def test_numpy_tables(tmp_path: Path) -> None:
    values = np.arange(6.0, dtype=np.float32).reshape(3, 2)
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "b.npz", x=values, log_prob=np.zeros(3))
    np.savez(tmp_path / "c.npz", first=values, second=values)
    np.save(tmp_path / "line.npy", np.arange(4))
    np.testing.assert_array_equal(read_table(tmp_path / "a.npy").values, values)
    np.testing.assert_array_equal(read_table(tmp_path / "b.npz").values, values)
    np.testing.assert_array_equal(read_table(tmp_path / "c.npz", array="second").values, values)
    assert read_table(tmp_path / "line.npy").values.shape == (4, 1)
    with pytest.raises(DataError, match="first, second"):
        read_table(tmp_path / "c.npz")


def test_numpy_files_that_are_no_tables(tmp_path: Path) -> None:
    np.save(tmp_path / "cube.npy", np.zeros((2, 3, 4)))
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "broken.npy").write_bytes(b"no")
    for name, message in (("cube", "rows and columns"), ("words", "real numbers"), ("objects", "not a readable"), ("broken", "not a readable")):
        with pytest.raises(DataError, match=message):
            read_table(tmp_path / f"{name}.npy")


def test_parquet(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pd.DataFrame({"a": [1.0, 2.0], "b": [3, 4], "c": ["u", "v"]}).to_parquet(tmp_path / "t.parquet")
    np.testing.assert_array_equal(read_table(tmp_path / "t.parquet", columns=["a", "b"]).values, [[1, 3], [2, 4]])
    with pytest.raises(DataError, match="column 'c' is not numeric"):
        read_table(tmp_path / "t.parquet")


def test_parquet_without_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(DataError, match="needs pandas and pyarrow"):
        read_table(tmp_path / "t.parquet")


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(DataError, match=r"cannot read a \.xlsx file"):
        read_table(write(tmp_path, "", "t.xlsx"))


def test_file_splits_and_conditions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = "\n".join(",".join(f"{v:.4f}" for v in row) for row in rng.normal(5, 2, (100, 3)))
    path = write(tmp_path, "a,b,c\n" + rows)
    data = File(path, context=["b"])
    assert data.names == ("a", "c")
    assert data.context_shape == (1,)
    assert [len(part.x) for part in (data.train, data.validation, data.test)] == [81, 9, 10]
    torch.testing.assert_close(data.train.context.mean(0), torch.zeros(1), atol=1e-5, rtol=0)  # type: ignore[union-attr]
    whole = File(path, validation_fraction=0.0, test_fraction=0.0)
    assert [len(part.x) for part in (whole.train, whole.validation, whole.test)] == [100, 0, 0]
    assert File(path, columns=["c"], context=["a", "b"]).train.context.shape == (81, 2)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "at least 3 rows"),
        ("a,b\n" + "\n".join(f"{i},7" for i in range(20)), "column 'b' is constant"),
        ("a,b\n" + "\n".join(f"{i},word" for i in range(20)), "column 'b' is not numeric"),
    ],
)
def test_file_refuses_what_has_no_density(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _ = File(write(tmp_path, text)).train


def test_file_refuses_bad_fractions() -> None:
    with pytest.raises(ConfigError, match="test_fraction"):
        File("table.csv", test_fraction=1.0)
