"""The contract on sspi-rs: a third secur32 beside the fake and the DLL (sspirs.py).

It talks to FakeServer, whose other half is ours: what both halves of the fake have
misunderstood alike shows here. Skipped without PyPI's sspilib, unless
SSPI_CLIENT_SSPIRS=required is set: then that is a failure.
"""

import gc
import subprocess
import sys
import warnings

import pytest

import sspi_client
from sspi_client import ISC_RET, KERBEROS, NEGOTIATE, NTLM, SspiError

pytest.register_assert_rewrite("contract")  # its failures are to show values
import contract  # noqa: E402
import sspirs  # noqa: E402
import sspirs_differences  # noqa: E402

CHECKS = {check.__name__: check for check in contract.checks()}
DIFFERENCES = {d.check: d for d in sspirs_differences.DIFFERENCES}
# Misuse that sspi-rs does not survive takes its process along, not ours.
APART = """\
import sys
sys.path[:0] = sys.argv[2:]
import contract, sspi_client, sspirs
connect = lambda bindings=None: sspi_client.FakeServer(contract.domain(), bindings)
getattr(contract, sys.argv[1])(sspirs.SspiRs(), connect)
"""


def connect(channel_bindings=None):
    return sspi_client.FakeServer(contract.domain(), channel_bindings)


@pytest.fixture
def rust():
    """sspi-rs; at the end nothing that we took from it may be in use."""
    reason = sspirs.why_missing()
    if reason and sspirs.required():
        pytest.fail(reason, pytrace=False)
    if reason:
        pytest.skip(reason)
    ledger = contract.Ledger(sspirs.SspiRs())
    yield ledger
    gc.collect()
    ledger.assert_clean()


@pytest.mark.parametrize("name", [name for name in CHECKS if name not in DIFFERENCES])
def test_contract_is_kept_by_sspi_rs(rust, name):
    CHECKS[name](rust, connect)


@pytest.mark.parametrize("name", DIFFERENCES)
def test_sspi_rs_still_differs_from_contract(rust, name):
    difference = DIFFERENCES[name]
    report = _failure_apart(name) if difference.apart else _failure(rust, name)
    assert report, f"sspi-rs has caught up, remove the difference: {difference.reason}"
    assert difference.proof in report, f"not why it differs: {difference.reason}"


def test_every_difference_of_sspi_rs_names_a_check_once():
    names = [difference.check for difference in sspirs_differences.DIFFERENCES]
    assert set(names) <= set(CHECKS) and len(names) == len(set(names))


# -- MUTUAL_AUTH: sspi-rs grants it to NTLM, as Windows is said to --------------


def test_sspi_rs_writes_mutual_auth_for_ntlm(rust):
    """The premise of the tests below; without it they would prove nothing."""
    granted = []
    initialize = rust.InitializeSecurityContextW

    def watched(*arguments):
        status = initialize(*arguments)
        attributes = getattr(arguments[10], "_obj", arguments[10])  # of byref()
        granted.append(attributes.value)
        return status

    rust.InitializeSecurityContextW = watched
    with contract._logged_on(rust, connect):
        assert granted[-1] & int(ISC_RET.MUTUAL_AUTH)


@pytest.mark.parametrize("package", [NTLM, NEGOTIATE])
def test_flags_of_ntlm_lack_mutual_auth(rust, package):
    with contract._logged_on(rust, connect, package=package) as (context, server, _):
        assert server.package == NTLM
        assert not context.flags & ISC_RET.MUTUAL_AUTH
        assert context.flags & ISC_RET.CONFIDENTIALITY


def test_ntlm_that_must_prove_the_server_is_a_value_error(rust):
    with pytest.raises(ValueError, match="MUTUAL_AUTH"):
        contract._flow(rust, package=NTLM, require=ISC_RET.MUTUAL_AUTH)
    assert not any(rust.calls.values())


def test_negotiate_that_must_prove_the_server_sends_no_ntlm(rust):
    """There is no KDC, so Negotiate takes NTLM, and no byte of that may leave."""
    sent = []
    flow = contract._flow(rust, package=NEGOTIATE, require=ISC_RET.MUTUAL_AUTH)

    def exchange(token):
        sent.append(bytes(token))
        return server.accept(token)

    server = connect()
    with pytest.raises(SspiError) as caught:
        sspi_client.drive(flow, exchange).close()
    assert caught.value.name == "SEC_E_SECURITY_QOS_FAILED"
    assert not any(b"NTLMSSP" in token for token in sent)
    assert b"NTLMSSP" not in caught.value.token


def test_kerberos_without_a_kdc_sends_nothing(rust):
    flow = contract._flow(rust, package=KERBEROS, require=ISC_RET.MUTUAL_AUTH)
    with pytest.raises(SspiError) as caught:
        next(flow)
    assert (caught.value.leg, caught.value.token) == (1, b"")


def _failure(rust, name):
    with warnings.catch_warnings():
        # A check that fails may drop the flows which it has begun.
        warnings.simplefilter("ignore", ResourceWarning)
        report = ""
        try:
            CHECKS[name](rust, connect)
        except Exception as error:
            report = str(error)
        gc.collect()
    return report


def _failure_apart(name):
    paths = [path for path in sys.path if path]
    done = subprocess.run(
        # faulthandler names the signal that a crash would keep to itself.
        [sys.executable, "-X", "faulthandler", "-c", APART, name, *paths],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        timeout=60,
    )  # fmt: skip
    return done.stderr.decode(errors="replace") if done.returncode else ""
