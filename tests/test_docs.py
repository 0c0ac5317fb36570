"""Every Python block of README.md and docs/testing.md runs, on the fake."""

import inspect
import json
import re
from pathlib import Path

import pytest

import sspi_client

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^## ([^\n]+)|^```python\n(.*?)^```", README, re.M | re.S)
CERTIFICATES = json.loads((ROOT / "tests" / "data" / "certificates.json").read_text())


def blocks():
    """Yield (id, source): the heading above a block, or the title of the page."""
    heading = "the-promise"
    for title, source in BLOCKS:
        if title:
            heading = re.sub(r"\W+", "-", title.lower()).strip("-")
        else:
            yield pytest.param(source, id=heading)


@pytest.mark.parametrize("source", list(blocks()))
def test_readme_block_runs(source, mocker):
    spn = "HTTP/intranet.example.com"
    domain = sspi_client.FakeDomain("CORP", {"alice": "Secret123!"}, [spn])
    fake = sspi_client.FakeSecur32(domain, logon="alice")
    mocker.patch.object(sspi_client, "Secur32", lambda: fake)
    server = sspi_client.FakeServer(domain)
    names = {
        "exchange": server.accept,
        "secur32": fake,
        "certificate": bytes.fromhex(CERTIFICATES["certificates"][0]["der"]),
    }
    exec(compile(source, "README.md", "exec"), names)
    names["secur32"].assert_clean()
    fake.assert_clean()
    assert fake.calls or names["secur32"].calls


def test_testing_page_runs():
    # One page, one world: its blocks build on those before them.
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    sources = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    names = {}
    for source in sources:
        exec(compile(source, "docs/testing.md", "exec"), names)
    assert len(sources) == 8


def test_testing_page_names_every_knob():
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    for kind in (sspi_client.FakeSecur32, sspi_client.FakeServer):
        knobs = inspect.signature(kind).parameters.values()
        for knob in knobs:
            if knob.kind is knob.KEYWORD_ONLY:
                assert f"{knob.name}=" in page, knob.name


def test_readme_is_short():
    assert len(README.splitlines()) <= 250


def test_readme_shows_statuses_as_they_are():
    rows = re.findall(r"^\| `(SEC_E_\w+)` (0x[0-9A-F]{8}) \|", README, re.M)
    assert len(rows) > 8
    for name, value in rows:
        assert getattr(sspi_client, name) == int(value, 16)


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
