"""What every test may ask for: a small world, and a fake that is judged at the end."""

import gc
import os
import sys

import pytest
from watched import WatchedSecur32
from world import KERBEROS_SPN, USERS

import sspi_client

if sys.platform == "win32":
    collect_ignore = ["lab", "wine"]  # they start servers and a Windows on Linux


DEEP = {"lab": "SSPI_CLIENT_LAB", "wine": "SSPI_CLIENT_WINE"}


def pytest_collection_modifyitems(items):
    """The deeper tiers take minutes, root and downloads: they run when asked to."""
    for item in items:
        switch = DEEP.get(item.path.parent.name)
        if switch and switch not in os.environ:
            reason = f"a deeper tier: {switch}=required runs it, see .ci/run"
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish(session):
    gc.collect()
    if hasattr(gc, "freeze"):  # CPython's: PyPy's collector moves and has ages
        gc.freeze()  # the collections below then look at what a test made alone


@pytest.fixture(autouse=True)
def no_secur32_is_loaded():
    sspi_client._loaded.clear()  # a test may have put one of its own there
    yield
    sspi_client._loaded.clear()


@pytest.fixture
def domain():
    return sspi_client.FakeDomain("CORP", USERS, [KERBEROS_SPN])


@pytest.fixture
def fake(domain):
    """A secur32 with alice logged on; at the end nothing may be alive or misused."""
    secur32 = WatchedSecur32(domain, logon="alice")
    yield secur32
    if secur32._raw.alive():
        gc.collect()  # what a test left in a cycle; collecting always would cost
    secur32.assert_clean()


@pytest.fixture
def server(domain):
    return sspi_client.FakeServer(domain)
