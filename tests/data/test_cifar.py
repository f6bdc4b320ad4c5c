"""CIFAR files: real ones where they are at hand, and everything but."""

import pickle
import shutil
import tarfile
from pathlib import Path

import keras
import numpy as np
import pytest
from support import cifar10_folder

from gnsmall_keras.data import cifar
from gnsmall_keras.data.sources import load_data

needs_cifar10 = pytest.mark.skipif(
    cifar10_folder() is None, reason="GNSMALL_DATA does not name CIFAR-10"
)


@pytest.fixture(scope="module")
def real():
    return cifar.find("cifar10", Path(cifar10_folder()))


@needs_cifar10
def test_real_files_load(real):
    dataset = load_data("cifar10")
    assert dataset.train_images.shape == (50_000, 32, 32, 3)
    assert dataset.test_images.shape == (10_000, 32, 32, 3)
    assert np.all(np.bincount(dataset.train_labels) == 5_000)
    assert np.all(np.bincount(dataset.test_labels) == 1_000)
    assert dataset.class_names[dataset.train_labels[0]] == "frog"
    # Per-channel mean of the training split, as published.
    mean = dataset.train_images.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(mean, (0.4914, 0.4822, 0.4465), atol=1e-4)
    assert load_data(real).digest == dataset.digest


@pytest.mark.slow
@needs_cifar10
def test_tar_gz_equals_the_folder(real, tmp_path):
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(real, "cifar-10-batches-py")
    assert load_data(archive).digest == load_data(real).digest


@needs_cifar10
def test_truncated_file_is_refused(real, tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file in real.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "test_batch").unlink()
    (folder / "test_batch").write_bytes(
        (real / "test_batch").read_bytes()[:1000]
    )
    with pytest.raises(ValueError, match="test_batch .* not the published"):
        load_data(folder)


def test_pickle_that_is_not_cifar_is_never_unpickled(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return marker.touch, ()

    for name in cifar.PUBLISHED["cifar10"].train_files:
        (folder / name).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ValueError, match="MD5 is .*, not c99cafc"):
        load_data(folder)
    assert not marker.exists()


def test_missing_file_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"")
    monkeypatch.setattr(
        cifar, "_checked", lambda path, _, file, __: cifar._read(path, _, file)
    )
    monkeypatch.setattr(cifar.pickle, "loads", lambda *args, **kwargs: {})
    with pytest.raises(ValueError, match="data_batch_2 is missing"):
        load_data(folder)


def test_truncated_archive_is_refused(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    noise = np.random.default_rng(0).bytes(100_000)
    (folder / "data_batch_1").write_bytes(noise)
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    shutil.rmtree(folder)
    archive.write_bytes(archive.read_bytes()[:50_000])
    with pytest.raises(ValueError, match="truncated|not a readable tar"):
        load_data(archive)


def test_variable_that_names_another_place_is_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("GNSMALL_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="cifar10 is not there"):
        load_data("cifar10")


def test_failed_download_says_what_to_do(monkeypatch):
    monkeypatch.delenv("GNSMALL_DATA", raising=False)

    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(keras.utils, "get_file", fail)
    with pytest.raises(ValueError, match=r"no network.*Set GNSMALL_DATA"):
        load_data("cifar100")


def test_cifar100_files_load(tmp_path, monkeypatch):
    """With files of the published form, since the real ones are not here."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name, count in (("train", 200), ("test", 100)):
        batch = {
            b"data": generator.integers(0, 256, (count, 3072), np.uint8),
            b"fine_labels": [i % 100 for i in range(count)],
        }
        (folder / name).write_bytes(pickle.dumps(batch))
    names = [f"name {i}".encode() for i in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": names}))
    monkeypatch.setattr(
        cifar, "_checked", lambda p, f, n, _: cifar._read(p, f, n)
    )
    dataset = load_data(folder)
    assert dataset.name == "cifar100"
    assert dataset.classes == 100
    assert dataset.class_names[7] == "name 7"
    assert dataset.train_images.shape == (200, 32, 32, 3)
    archive = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    assert load_data(archive).digest == dataset.digest
