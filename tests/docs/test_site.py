"""The site builds without a warning, and asks for nothing."""

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from support import ROOT

pytest.importorskip("sphinx", reason="the extra docs is not installed")
pytest.importorskip("pydata_sphinx_theme")
pytest.importorskip("myst_nb")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"),
            *("-b", "html", "-c", "docs", "-d", out / "doctrees", "."),
            out / "html",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out / "html"


class _Asked(HTMLParser):
    """What a page loads by itself."""

    def __init__(self, text):
        super().__init__()
        self.urls = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag in ("script", "img", "iframe"):
            self.urls.append(attrs.get("src") or "")
        if tag == "link" and "stylesheet" in (attrs.get("rel") or ""):
            self.urls.append(attrs.get("href") or "")


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        for url in _Asked(page.read_text("utf-8")).urls:
            assert not re.match(r"(https?:)?//", url), f"{page.name}: {url}"


def test_every_public_name_has_a_page(site):
    import gnsmall_keras

    pages = {path.stem for path in (site / "docs/api").glob("*.html")}
    assert {*gnsmall_keras.__all__} <= pages


def test_every_command_has_its_help(site):
    from gnsmall_keras.cli import COMMANDS

    text = (site / "docs/commands.html").read_text("utf-8")
    for name in COMMANDS:
        assert f'id="gnsmall-{name}"' in text


def test_the_first_page_leads_to_the_site(site):
    assert "docs/index.html" in (site / "index.html").read_text("utf-8")
