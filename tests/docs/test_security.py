"""SECURITY.md names parsers that are there, with the limits they have."""

import re

import pytest
from support import ROOT

from gnsmall_keras.data import cifar, decoding
from gnsmall_keras.data.files import archives, links, listing
from gnsmall_keras.devices import trial
from gnsmall_keras.models.saving import archive
from gnsmall_keras.records import jsonl
from gnsmall_keras.sweeps import plan

TEXT = (ROOT / "SECURITY.md").read_text("utf-8")
ROWS = {
    cells[0].strip(): cells[-1]
    for cells in re.findall(
        r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", TEXT, re.M
    )
}


def test_files_are_there():
    names = re.findall(r"`([\w/]+\.(?:py|ipynb))`", TEXT)
    assert len(names) > 10
    for name in names:
        assert (ROOT / name).exists() or (
            ROOT / "gnsmall_keras" / name
        ).exists()


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("images", f"{decoding.MAX_PIXELS:,} pixels"),
        ("images", f"{decoding.MAX_FILE_BYTES // 2**20} MiB"),
        ("images", ", ".join(decoding.FORMATS)),
        ("folders", f"{listing.MAX_FILES:,} files"),
        ("folders", f"depth {listing.MAX_DEPTH}"),
        ("folders", f"{links.MAX_HOPS} links"),
        ("tar, zip", f"{archives.BOMB_BYTES // 2**30} GiB"),
        ("tar, zip", f"{archives.BOMB_RATIO} times"),
        ("CIFAR", f"{cifar.MAX_BYTES // 2**20} MiB"),
        (".keras", f"{archive.MAX_BYTES // 2**30} GiB"),
        (".keras", f"{archive._MAX_CONFIG_BYTES // 2**20} MiB"),
        (".tflite", f"{trial._SECONDS:g} s"),
        (".tflite", f"{trial._MAX_BYTES // 2**30} GiB"),
        ("records", f"{jsonl._MAX_LINE_BYTES // 2**20} MiB"),
        ("sweep files", f"{plan.MAX_RUNS:,} runs"),
        ("sweep files", f"chains of {plan.MAX_CHAIN}"),
    ],
)
def test_limits_are_those_of_the_code(row, told):
    assert told in ROWS[row]
