"""One contract, each secur32: the fake everywhere, the DLL where there is one.

The DLL gets explicit credentials and talks to FakeServer: no domain is needed.
"""

import gc
import subprocess
import sys

import pytest

import sspi_client

pytest.register_assert_rewrite("contract")  # its failures are to show values
import contract  # noqa: E402
import wine_differences  # noqa: E402

CHECKS = {check.__name__: check for check in contract.checks()}
DIFFERENCES = wine_differences.here()
WITHOUT_DLL = pytest.mark.skipif(
    sys.platform != "win32", reason="secur32.dll is a part of Windows"
)
ON_DLL = [name for name in CHECKS if name not in DIFFERENCES]
APART = """\
import sys
sys.path[:0] = sys.argv[2:]
import contract, sspi_client
connect = lambda bindings=None: sspi_client.FakeServer(contract.domain(), bindings)
getattr(contract, sys.argv[1])(sspi_client.Secur32(), connect)
"""


def connect(channel_bindings=None):
    return sspi_client.FakeServer(contract.domain(), channel_bindings)


@pytest.fixture
def dll():
    """The DLL; at the end nothing that we took from it may be in use."""
    ledger = contract.Ledger(sspi_client.Secur32())
    yield ledger
    gc.collect()
    ledger.assert_clean()


@pytest.mark.parametrize("name", CHECKS)
def test_contract_is_kept_by_fake(name):
    fake = sspi_client.FakeSecur32(contract.domain())
    ledger = contract.Ledger(fake)
    CHECKS[name](ledger, connect)
    gc.collect()
    ledger.assert_clean()
    if CHECKS[name] in contract.CRIMINAL:
        assert fake.crimes
        fake.crimes.clear()
    fake.assert_clean()


@WITHOUT_DLL
@pytest.mark.parametrize("name", ON_DLL)
def test_contract_is_kept_by_dll(dll, name):
    CHECKS[name](dll, connect)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_wine_still_differs_from_contract(dll, name):
    difference = DIFFERENCES[name]
    report = _failure_apart(name) if difference.apart else _failure(dll, name)
    assert report, f"Wine has caught up, remove the difference: {difference.reason}"
    assert difference.proof in report, f"not why Wine differs: {difference.reason}"


def test_every_difference_of_wine_names_a_check_once():
    names = [difference.check for difference in wine_differences.DIFFERENCES]
    assert set(names) <= set(CHECKS) and len(names) == len(set(names))


def _failure(dll, name):
    try:
        CHECKS[name](dll, connect)
    except Exception as error:
        return str(error)
    return ""


def _failure_apart(name):
    paths = [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, "-c", APART, name, *paths], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
    )
    return done.stderr.decode(errors="replace") if done.returncode else ""
