"""README: short, no number of its own, and no link that leads nowhere."""

import re

import pytest
from support import ROOT

TEXT = (ROOT / "README.md").read_text("utf-8")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "tflite/**/*.md")
    for path in ROOT.glob(pattern)
    if "_build" not in path.parts
)


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 150


def test_every_number_is_between_comments():
    """Of results: percents, decimals, thousands."""
    text = re.sub(r"<!-- (\w+): `.*?<!-- \1: to here -->", "", TEXT, flags=re.S)
    text = re.sub(
        r"```.*?```|^    .*?$|`[^`]*`|\(.*?\)", "", text, flags=re.S | re.M
    )
    text = re.sub(r"Python 3\.\d+ to 3\.\d+|arXiv [\d.]+|Apache-2.0", "", text)
    numbers = re.findall(r"\d+(?:\.\d+)? ?%|\d+\.\d+|\d{1,3}(?:,\d{3})+", text)
    assert numbers == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = ROOT / page
    for link in LINK.findall(path.read_text("utf-8")):
        if link.startswith("api/"):  # written by `make docs`
            continue
        assert (path.parent / link).exists(), link
