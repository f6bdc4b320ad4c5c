"""Arm's compiler takes the published files, and leaves nothing to the CPU."""

import pytest
from support import ROOT

from gnsmall_keras.devices import ethosu
from gnsmall_keras.devices.ethosu import ACCELERATORS, find_vela, map_to_ethosu

pytestmark = pytest.mark.export
FILES = sorted((ROOT / "tflite").glob("*-micro.tflite"))
TABLE = (ROOT / "tflite/ethos-u/README.md").read_text("utf-8")


def _skip_without_vela():
    if find_vela() is None:
        pytest.skip("no Vela; pip install 'gnsmall-keras[vela]'")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_operator_of_a_published_file_is_left_to_the_cpu(file):
    _skip_without_vela()
    for accelerator in ACCELERATORS:
        report = map_to_ethosu(file, accelerator)
        assert report.cpu_operators == []
        assert report.npu_operators > 140
        assert 0 < report.sram_bytes < 256 * 1024
        assert report.inferences_per_second > 100
        row = (
            f"| {accelerator} | {report.npu_operators} | 0 "
            f"| {report.sram_bytes:,} | {report.cycles:,} "
            f"| {report.inferences_per_second:,.0f} |"
        )
        assert row in TABLE, "call: python benchmarks/ethosu.py"


def test_every_file_is_in_the_table():
    assert all(f"| {file.stem} | ethos-u55-128 |" in TABLE for file in FILES)


def test_a_file_that_vela_refuses_is_an_error(tmp_path):
    _skip_without_vela()
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(FILES[0].read_bytes()[:20_000])
    with pytest.raises(ValueError, match="Vela must take the file"):
        map_to_ethosu(broken, "ethos-u55-128")


def test_unknown_accelerators_and_a_missing_vela_are_errors(monkeypatch):
    with pytest.raises(ValueError, match="Received: 'ethos-u42'"):
        map_to_ethosu(FILES[0], "ethos-u42")
    monkeypatch.setattr(ethosu, "find_vela", lambda: None)
    with pytest.raises(ValueError, match=r"gnsmall-keras\[vela\]"):
        map_to_ethosu(FILES[0], "ethos-u55-128")


def test_cards_and_reports_have_a_line_an_accelerator():
    report = ethosu.EthosUReport(
        accelerator="ethos-u55-128",
        system="Ethos_U55_High_End_Embedded",
        npu_operators=203,
        cpu_operators=["MEAN"],
        sram_bytes=41_360,
        cycles=688_938,
        inferences_per_second=725.8,
        version="5.2.0",
    )
    assert "203 operators on the NPU, 1 on the CPU" in str(report)
    assert "726 inferences/s (Vela 5.2.0's model" in str(report)
