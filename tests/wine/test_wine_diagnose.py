"""python sspi_client.py diagnose on a real secur32.dll: Wine's, with a realm.

The names that Kerberos gives to Wine come from the host: a ticket of kinit is
"who is logged on".
"""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import pytest
import windows

ROOT = windows.ROOT
LAB = str(ROOT / "tests" / "lab")
if LAB not in sys.path:
    sys.path.append(LAB)

import servers  # noqa: E402

SPN = "HTTP/localhost"  # the realm has a key for it
UNKNOWN = "HTTP/nobody.lab.test"
PACKAGES = {"Kerberos", "NTLM", "Negotiate"}
LIMITS = [
    "within 8190 (Apache, LimitRequestFieldSize)",
    "within 8192 (nginx, large_client_header_buffers; Tomcat, maxHttpHeaderSize)",
    "within 16384 (IIS, MaxFieldLength)",
]

# Wine 8.0 writes Kerberos tokens to the caller's memory or nowhere: see there.
WITH_CALLERS_BUFFER = """\
import sys
sys.path.append({lab!r})
import client, sspi_client
wine = sspi_client.Secur32()
sspi_client.Secur32 = lambda: client.CallersBuffer(wine)
sys.exit(sspi_client.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def realm():
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-")))
        folder.chmod(0o755)
        try:
            made = servers.mit_realm(folder / "realm", servers.free_port())
            yield stack.enter_context(made)
        except servers.LabError as error:
            if os.environ.get("SSPI_CLIENT_WINE") == "required":
                pytest.fail(str(error), pytrace=False)
            pytest.skip(str(error))


@pytest.fixture
def ticket(realm, tmp_path):
    """The environment in which alice is logged on."""
    env = servers.kinit(realm, "alice", tmp_path / "ccache")
    return {name: env[name] for name in ("KRB5_CONFIG", "KRB5CCNAME")}


@pytest.fixture
def no_ticket(realm, tmp_path):
    return {
        "KRB5_CONFIG": str(realm.krb5_config),
        "KRB5CCNAME": f"FILE:{tmp_path / 'none'}",
    }


@pytest.fixture
def diagnose(windows_python):
    """A function that runs the command and returns (exit status, facts)."""

    def run(env, *words, bare=True):
        program = [windows.windows_path(ROOT / "sspi_client.py")]
        if not bare:
            code = WITH_CALLERS_BUFFER.format(lab=windows.windows_path(LAB))
            program = ["-c", code]
        done = windows_python.run([*program, "diagnose", *words], env, timeout=120)
        assert done.stderr == ""
        return done.returncode, facts_of(done.stdout)

    return run


def facts_of(text):
    facts = {}
    for line in text.splitlines():
        if line[:15].strip():
            label = line[:15].strip()
        facts.setdefault(label, []).append(line[15:])
    return facts


def check_machine(facts, windows_python):
    [python] = facts["Python"]
    assert facts["system"][0].startswith("Windows 10.0.")
    assert python.startswith(windows_python.version + ".") and "64 bits" in python
    assert PACKAGES <= {line.split(",")[0] for line in facts["packages"]}
    assert len(facts["sspi_client"][0].partition("SHA-256 ")[2]) == 64


def test_it_tells_about_the_machine_when_no_spn_is_given(
    diagnose, windows_python, no_ticket
):
    status, facts = diagnose(no_ticket)
    check_machine(facts, windows_python)
    assert (status, "error" in facts, "target" in facts) == (0, False, False)


@pytest.mark.parametrize("package", ["Kerberos", "Negotiate"])
def test_it_shows_kerberos_when_there_is_a_ticket(
    diagnose, windows_python, ticket, package
):
    status, facts = diagnose(ticket, SPN, "--package", package, bare=False)
    check_machine(facts, windows_python)
    kind, length = facts["first token"]
    encoded, *limits = facts["in a header"]
    assert (status, kind, facts["target"]) == (0, "Kerberos AP-REQ", [SPN])
    octets = int(length.partition(" bytes")[0])
    assert 500 < octets < 2000
    assert encoded == f"{(octets + 2) // 3 * 4} characters of base64"
    assert limits == LIMITS


def test_it_says_that_there_is_no_ticket(diagnose, windows_python, no_ticket):
    status, facts = diagnose(no_ticket, SPN, "--package", "Kerberos", bare=False)
    check_machine(facts, windows_python)
    [error] = facts["error"]
    assert status == 1 and "SEC_E_NO_CREDENTIALS (0x8009030E)" in error
    assert "klist" in error and "first token" not in facts


def test_it_says_that_nobody_is_logged_on_for_negotiate(diagnose, no_ticket):
    status, facts = diagnose(no_ticket, SPN)
    if windows.wine_version() >= (10,):  # it notices in the second leg, never made here
        assert (status, facts["first token"][0][:14]) == (0, "NTLM NEGOTIATE")
        return
    [error] = facts["error"]
    assert status == 1 and "SEC_E_NO_CREDENTIALS (0x8009030E)" in error
    assert f"[package Negotiate, target {SPN}, leg 1]" in error


def test_it_refuses_a_spn_that_kerberos_does_not_know(diagnose, ticket):
    status, facts = diagnose(ticket, UNKNOWN, "--package", "Kerberos", bare=False)
    [error] = facts["error"]
    # Windows says SEC_E_TARGET_UNKNOWN; Wine 8.0 has no word for it.
    assert error.startswith("InitializeSecurityContextW: SEC_E_")
    assert f"[package Kerberos, target {UNKNOWN}, leg 1]" in error
    assert status == 1 and "first token" not in facts


def test_wrong_usage_exits_with_two(windows_python, no_ticket):
    program = windows.windows_path(ROOT / "sspi_client.py")
    done = windows_python.run(
        [program, "diagnose", "http://localhost/"], no_ticket, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("sspi_client: target is a URL")
    assert len(done.stderr.splitlines()) == 1
