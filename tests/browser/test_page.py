"""The report's page in Chromium, opened as a file."""

import dataclasses
import time

import pytest
from support import ROOT

from gnsmall_keras.records.run import read_records
from gnsmall_keras.report.pages.build import write_report
from gnsmall_keras.report.reading import read_runs

pytestmark = pytest.mark.browser
INDEX = ROOT / "papermill_runs/index.jsonl"
RUNS, MOST_BYTES = 200, 3_000_000
# What makes the body wider than the window, and text that is cut off.
OVERFLOW = """() => ({
  wider: document.scrollingElement.scrollWidth - innerWidth,
  cut: [...document.querySelectorAll("h1, h2, p, li, figcaption, label, td")]
    .filter((one) => one.scrollWidth > one.clientWidth + 1)
    .map((one) => one.textContent),
})"""


@pytest.fixture(scope="module", params=["shipped", "many"])
def report(request, tmp_path_factory):
    """The page of the shipped records, or of 200 made from them."""
    folder = tmp_path_factory.mktemp(request.param)
    index, out = INDEX, folder / "report.html"
    if request.param == "many":
        index = folder / "index.jsonl"
        index.write_text("".join(f"{one.to_json()}\n" for one in _many()))
    began = time.perf_counter()
    write_report(read_runs(index), name="index.jsonl", out=out)
    seconds = time.perf_counter() - began
    print(f"{request.param}: {out.stat().st_size:,} bytes, {seconds:.1f} s")
    return request.param, out


def _many():
    """Records of other seeds and widths, with all else as it was."""
    real = list(read_records(INDEX))
    for number in range(RUNS):
        record = real[number % len(real)]
        turn = number // len(real)
        config = {
            **record.config,
            "seed": turn % 3,
            "width": 0.25 + 0.25 * (turn // 3),
        }
        yield dataclasses.replace(
            record,
            config=config,
            slug=f"{record.slug}-{number}",
            digest=f"{number:06x}",
            deployed_parameters=record.deployed_parameters + 20_000 * turn,
            deployed_macs=record.deployed_macs + 400_000 * turn,
            test_accuracy=record.test_accuracy + 0.001 * (turn % 7),
        )


@pytest.fixture
def open_page(chromium, report):
    """Opens the page; afterwards nothing was asked for and nothing failed."""
    asked, told, pages = [], [], []

    def open_at(width):
        page = chromium.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.goto(report[1].as_uri())
        return page

    yield open_at
    for page in pages:
        page.close()
    assert told == []
    # The file itself and what stands in it.
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
    assert {url for url in asked if url.startswith("file:")} == {
        report[1].as_uri()
    }


@pytest.mark.parametrize("width", [360, 1440])
def test_fits_the_window(open_page, keep_screenshot, report, width):
    page = open_page(width)
    keep_screenshot(page, f"report-{report[0]}-{width}", full_page=True)
    assert page.evaluate(OVERFLOW) == {"wider": 0, "cut": []}
    for image in page.locator("img").all():
        assert image.evaluate("one => one.complete && one.naturalWidth > 0")


def test_is_small(report):
    assert report[1].stat().st_size < MOST_BYTES


def test_a_click_sorts_by_numbers_both_ways(open_page):
    page = open_page(1440)
    table = page.locator("section:has(input)").last
    column = table.locator("th").all_inner_texts().index("seconds")
    head = table.locator("th").nth(column)
    cells = table.locator(f"tbody tr td:nth-child({column + 1})")
    for order, up in (("ascending", True), ("descending", False)):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == order
        texts = cells.all_inner_texts()  # "999" comes before "1,000"
        values = [int(text.replace(",", "")) for text in texts]
        assert values == sorted(values, reverse=not up)
        assert len(set(values)) > 1


def test_a_filter_leaves_rows_with_all_words(open_page):
    page = open_page(1440)
    table = page.locator("section:has(input)").last
    rows = table.locator("tbody tr")
    everything = rows.count()
    table.get_by_role("searchbox").fill("ASSISTANT gns")
    shown = [row.inner_text() for row in rows.all() if row.is_visible()]
    assert 0 < len(shown) < everything
    assert all("assistant" in text for text in shown)
    said = table.locator("output").inner_text()
    assert said == f"{len(shown)} of {everything}"
    table.get_by_role("searchbox").fill("no such run")
    assert not any(row.is_visible() for row in rows.all())
