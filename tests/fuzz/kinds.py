"""Kinds of files that are damaged at random, and what reads them."""

import io
import itertools
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
_TFLITE = "gns-w0.25-h320-cifar10-micro.tflite"
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
_WIDE = b"\x00\xff\x7f\x80[{\"'=,.e-9"  # bytes that mean something somewhere

Trial = Callable[[np.random.Generator], object]


def damaged(
    data: bytes,
    generator: np.random.Generator,
    *,
    places: int = 3,
    longest: int = 64,
    in_place: bool = False,
) -> bytes:
    """The data with bytes changed at some places, cut, moved, or repeated.

    Of flatbuffers little is whole once a byte has moved: `in_place` moves none.
    """
    if not data:
        return data
    values = bytearray(data)
    for _ in range(generator.integers(1, places + 1)):
        place = int(generator.integers(len(values) or 1))
        length = int(generator.integers(1, 1 + min(longest, len(values) or 1)))
        part = values[place : place + length]
        match generator.integers(3 if in_place else 6):
            case 0:  # anything
                values[place : place + length] = generator.bytes(len(part))
            case 1:  # one bit
                if part:
                    values[place] ^= 1 << int(generator.integers(8))
            case 2:  # what means something
                chosen = generator.choice(list(_WIDE), len(part))
                values[place : place + length] = bytes(chosen.tolist())
            case 3:  # a hole
                del values[place : place + length]
            case 4:  # again, many times
                values[place:place] = part * int(generator.integers(1, 50))
            case _:  # an end
                del values[place:]
    return bytes(values)


def tflite(folder: Path, runtime: str) -> Trial:
    """A .tflite file on one of the runtimes."""
    from gnsmall_keras.devices.runtime import TFLiteModel

    whole = (ROOT / "tflite" / _TFLITE).read_bytes()
    black = np.zeros((1, 32, 32, 3), np.uint8)
    numbers = itertools.count()

    def run(generator):
        path = folder / f"{next(numbers)}.tflite"
        # The identifier of its kind is kept; most bytes are weights.
        few = generator.random() < 0.8
        options = {"longest": 3, "in_place": True} if few else {}
        rest = damaged(whole[8:], generator, places=20, **options)
        path.write_bytes(whole[:8] + rest)
        try:
            TFLiteModel(path, runtime=runtime).predict(black)
        finally:
            path.unlink()

    return run


def records(folder: Path) -> Trial:
    """Lines of an index; each bad one is told, and no more."""
    from gnsmall_keras.records.run import scan_records

    index = ROOT / "papermill_runs/index.jsonl"
    lines = index.read_bytes().splitlines(keepends=True)
    path = folder / "index.jsonl"

    def run(generator):
        line = lines[generator.integers(len(lines))]
        path.write_bytes(lines[0] + damaged(line, generator))
        (_, first), *others = scan_records(path)
        if isinstance(first, ValueError):
            raise AssertionError("a whole line was refused")
        for _, record in others:
            if isinstance(record, ValueError):
                raise record
            record.to_json()

    return run


def sweeps(folder: Path) -> Trial:
    """Sweep files."""
    from gnsmall_keras.sweeps.plan import read_sweep

    files = sorted((ROOT / "papermill_runs/sweeps").glob("*.toml"))
    texts = [file.read_bytes() for file in files]
    path = folder / "sweep.toml"

    def run(generator):
        path.write_bytes(
            damaged(texts[generator.integers(len(texts))], generator)
        )
        _ = read_sweep(path).configs

    return run


def _network():
    import keras

    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(4, 3, name="first"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    model.compile("sgd", loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


def checkpoints(folder: Path) -> Trial:
    """Checkpoints of a training, the newest one damaged."""
    from gnsmall_keras.training.checkpoint import (
        Progress,
        previous_of,
        restore_checkpoint,
        save_checkpoint,
    )

    model, path, identity = _network(), folder / "checkpoint.npz", {"seed": 0}
    progress = Progress(1, {"loss": [1.0]}, 1.0)
    for _ in range(2):
        save_checkpoint(model, progress, path, identity=identity)
    whole = path.read_bytes()

    def run(generator):
        path.write_bytes(damaged(whole, generator))
        found = restore_checkpoint(model, path, identity=identity)
        if found.epochs != 1 or not previous_of(path).is_file():
            raise AssertionError("the one before was not taken")

    return run


def caches(folder: Path) -> Trial:
    """Teacher logits: their description or a view's header is damaged."""
    from gnsmall_keras.distill.cache import cache_teacher
    from gnsmall_keras.distill.stored_teacher import CachedTeacher

    pixels = np.zeros((9, 32, 32, 3), np.uint8)
    labels = np.arange(9)
    options = {"views": 2, "seed": 0, "augment": True, "flip": True}
    teacher = _network()
    cache_teacher(
        teacher, pixels, labels, path=folder, progress=False, **options
    )
    whole = {path: path.read_bytes() for path in sorted(folder.iterdir())}

    def run(generator):
        for path, data in whole.items():
            path.write_bytes(data)
        path = generator.choice(list(whole))
        data = whole[path]
        path.write_bytes(damaged(data[:128], generator) + data[128:])
        CachedTeacher.load(folder, images=pixels, labels=labels)

    return run


def images(folder: Path) -> Trial:
    """Images of all formats."""
    del folder
    from gnsmall_keras.data.decoding import decode, strict_warnings

    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    files = []
    for name in _FORMATS:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, name)
        files.append(out.getvalue())

    def run(generator):
        data = damaged(files[generator.integers(len(files))], generator)
        with strict_warnings():
            decode(data, image_size=32, channels=3, aspect="crop")

    return run


def archives(folder: Path) -> Trial:
    """Tars and zips of images, packed and not."""
    from gnsmall_keras.data.sources import load_data

    files = {}
    generator = np.random.default_rng(0)
    for number in range(24):
        pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        files[f"{'cat' if number % 2 else 'dog'}/{number}.png"] = out.getvalue()
    whole = {}
    for suffix, mode in (("tar", "w"), ("tar.gz", "w:gz"), ("tar.xz", "w:xz")):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode) as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        whole[suffix] = out.getvalue()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    whole["zip"] = out.getvalue()

    def run(generator):
        suffix = str(generator.choice(list(whole)))
        path = folder / f"photos.{suffix}"
        path.write_bytes(damaged(whole[suffix], generator))
        load_data(str(path))

    return run


def networks(folder: Path) -> Trial:
    """.keras files; of every second one a file inside is damaged."""
    from gnsmall_keras.models.saving.files import load_model

    path = folder / "model.keras"
    _network().save(path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def run(generator):
        if generator.integers(2):
            path.write_bytes(damaged(whole, generator))
        else:
            chosen = generator.choice(list(members))
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in members.items():
                    changed = damaged(data, generator)
                    archive.writestr(name, changed if name == chosen else data)
        load_model(path)

    return run


def kinds() -> dict[str, Callable[[Path], Trial]]:
    """All kinds by their names; .tflite files once for each runtime."""
    from gnsmall_keras.devices.runtime import installed_runtimes

    runtimes = {
        f"tflite on {name}": lambda folder, name=name: tflite(folder, name)
        for name in installed_runtimes()
    }
    return {
        **runtimes,
        "records": records,
        "sweep files": sweeps,
        "checkpoints": checkpoints,
        "caches": caches,
        "images": images,
        "archives": archives,
        ".keras": networks,
    }


def quiet() -> None:
    """Warnings of damaged files are wanted ones."""
    warnings.simplefilter("ignore")
