"""python sspi_client.py diagnose: what it prints, on the fake and without a DLL."""

import base64
import gc
import hashlib
import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from world import KERBEROS_SPN, NTLM_SPN

import sspi_client
from sspi_client import main

FILE = Path(sspi_client.__file__)
ISC = "InitializeSecurityContextW"
OFF_WINDOWS = pytest.mark.skipif(
    sys.platform == "win32", reason="here diagnose has a secur32.dll to ask"
)

#: What every report begins with; the tests replace what differs by machine.
MACHINE = """\
system         {system}
Python         {python}, {bits} bits
sspi_client    {version}, SHA-256 {digest}
packages       Negotiate, tokens to 48000 bytes
               Kerberos, tokens to 48000 bytes
               NTLM, tokens to 2888 bytes
"""
KERBEROS = """\
logged on as   CORP\\alice
target         HTTP/web.corp.test
first token    SPNEGO NegTokenInit (MS-Kerberos, Kerberos, NEGOEX, NTLM): Kerberos AP-REQ
               {length} bytes
in a header    {encoded} characters of base64
               within 8190 (Apache, LimitRequestFieldSize)
               within 8192 (nginx, large_client_header_buffers; Tomcat, maxHttpHeaderSize)
               within 16384 (IIS, MaxFieldLength)
"""  # noqa: E501
NTLM = """\
logged on as   CORP\\alice
target         HTTP/printer.corp.test
first token    SPNEGO NegTokenInit (NTLM): NTLM NEGOTIATE
               74 bytes
in a header    100 characters of base64
               within 8190 (Apache, LimitRequestFieldSize)
               within 8192 (nginx, large_client_header_buffers; Tomcat, maxHttpHeaderSize)
               within 16384 (IIS, MaxFieldLength)
"""  # noqa: E501
NO_CREDENTIALS = """\
logged on as   not told: SEC_E_NO_CREDENTIALS
error          InitializeSecurityContextW: SEC_E_NO_CREDENTIALS (0x8009030E) [package \
Negotiate, target HTTP/web.corp.test, leg 1]: There is nothing to log on with. Check \
for tickets (klist; those of MIT Kerberos's kinit are not used), that a scheduled task \
stores its password, that allow_ntlm=False leaves a package; or pass an Identity.
"""
UNKNOWN_SPN = """\
logged on as   CORP\\alice
error          InitializeSecurityContextW: SEC_E_TARGET_UNKNOWN (0x80090303) [package \
Kerberos, target HTTP/printer.corp.test, leg 1]: The domain has no account for this \
SPN. Check its spelling (setspn -Q SPN): service/host, not service@host and not a URL; \
whether the host is an alias or an IP address; for a proxy, that it is the proxy's own \
name.
"""


@pytest.fixture
def nobody(domain):
    """A secur32 to which nobody is logged on."""
    secur32 = sspi_client.FakeSecur32(domain)
    yield secur32
    gc.collect()
    secur32.assert_clean()


@pytest.fixture
def diagnose(mocker, capsys):
    """A function that runs the command: diagnose(secur32, words) -> (status, text)."""

    def run(secur32, *words):
        mocker.patch.object(sspi_client, "Secur32", lambda: secur32)
        status = main(["diagnose", *words])
        printed = capsys.readouterr()
        assert printed.err == ""
        return status, printed.out

    return run


@pytest.fixture
def tokens(fake, mocker):
    """The first tokens that the fake makes from here on."""
    made = []
    real = sspi_client._initialize

    def noting(*arguments):
        answer = real(*arguments)
        made.append(answer)
        return answer

    mocker.patch.object(sspi_client, "_initialize", noting)
    return made


def report(text, **facts):
    return (MACHINE + text).format(
        system=system(),
        python=sys.version.split()[0],
        bits=8 * struct.calcsize("P"),
        version=sspi_client.__version__,
        digest=hashlib.sha256(FILE.read_bytes()).hexdigest(),
        **facts,
    )


def system():
    if sys.platform != "win32":
        return sys.platform
    return "Windows " + ".".join(map(str, sys.getwindowsversion()[:3]))


# -- in full -------------------------------------------------------------------


def test_report_in_full_when_kerberos_can_be_had(diagnose, fake, tokens):
    status, text = diagnose(fake, KERBEROS_SPN)
    length = len(tokens[0])
    encoded = len(base64.b64encode(tokens[0]))
    assert text == report(KERBEROS, length=length, encoded=encoded)
    assert status == 0


def test_report_in_full_when_ntlm_is_all_there_is(diagnose, fake):
    assert diagnose(fake, NTLM_SPN) == (0, report(NTLM))


def test_report_in_full_when_nobody_is_logged_on(diagnose, nobody):
    assert diagnose(nobody, KERBEROS_SPN) == (1, report(NO_CREDENTIALS))


def test_report_in_full_when_the_spn_is_unknown_to_kerberos(diagnose, fake):
    ran = diagnose(fake, NTLM_SPN, "--package", "Kerberos")
    assert ran == (1, report(UNKNOWN_SPN))


def test_report_in_full_when_no_spn_is_given(diagnose, fake):
    assert diagnose(fake) == (0, report("logged on as   CORP\\alice\n"))
    assert ISC not in fake.calls


def test_report_without_a_spn_says_that_nobody_is_logged_on(diagnose, nobody):
    due = report("logged on as   not told: SEC_E_NO_CREDENTIALS\n")
    assert diagnose(nobody) == (0, due)


def test_report_in_full_as_json(diagnose, fake, tokens):
    status, text = diagnose(fake, NTLM_SPN, "--json")
    assert status == 0 and list(json.loads(text).items()) == [
        ("system", system()),
        (
            "Python",
            f"{sys.version.split()[0]}, {8 * struct.calcsize('P')} bits",
        ),
        (
            "sspi_client",
            f"{sspi_client.__version__}, SHA-256 "
            + hashlib.sha256(FILE.read_bytes()).hexdigest(),
        ),
        (
            "packages",
            [
                "Negotiate, tokens to 48000 bytes",
                "Kerberos, tokens to 48000 bytes",
                "NTLM, tokens to 2888 bytes",
            ],
        ),
        ("logged on as", "CORP\\alice"),
        ("target", NTLM_SPN),
        ("first token", ["SPNEGO NegTokenInit (NTLM): NTLM NEGOTIATE", "74 bytes"]),
        (
            "in a header",
            [
                "100 characters of base64",
                "within 8190 (Apache, LimitRequestFieldSize)",
                "within 8192 (nginx, large_client_header_buffers; Tomcat, "
                "maxHttpHeaderSize)",
                "within 16384 (IIS, MaxFieldLength)",
            ],
        ),
    ]


def test_json_tells_the_error_and_exits_with_one(diagnose, fake):
    status, text = diagnose(fake, NTLM_SPN, "--package", "Kerberos", "--json")
    facts = json.loads(text)
    assert (status, facts["logged on as"]) == (1, "CORP\\alice")
    assert facts["error"].startswith(f"{ISC}: SEC_E_TARGET_UNKNOWN (0x80090303)")
    assert "first token" not in facts


# -- what it shows -------------------------------------------------------------


@pytest.mark.parametrize(
    "package, target, said",
    [
        pytest.param("NTLM", NTLM_SPN, "NTLM NEGOTIATE", id="ntlm"),
        pytest.param("Kerberos", KERBEROS_SPN, "Kerberos AP-REQ", id="kerberos"),
        pytest.param("kerberos", KERBEROS_SPN, "Kerberos AP-REQ", id="lower-case"),
    ],
)
def test_package_may_be_named(diagnose, fake, package, target, said):
    status, text = diagnose(fake, target, "--package", package)
    assert status == 0 and f"first token    {said}\n" in text


@pytest.mark.parametrize(
    "length, verdicts",
    [
        pytest.param(6141, ["within", "within", "within"], id="6141"),  # 8188
        pytest.param(6142, ["over", "within", "within"], id="6142"),  # 8192
        pytest.param(6145, ["over", "over", "within"], id="6145"),  # 8196
        pytest.param(12288, ["over", "over", "within"], id="12288"),  # 16384
        pytest.param(12289, ["over", "over", "over"], id="12289"),  # 16388
    ],
)
def test_long_token_is_measured_against_what_servers_take(
    diagnose, fake, length, verdicts
):
    fake.inject(ISC, sspi_client.SEC_I_CONTINUE_NEEDED, bytes(length))
    _, text = diagnose(fake, KERBEROS_SPN, "--json")
    encoded, *limits = json.loads(text)["in a header"]
    assert encoded == f"{len(base64.b64encode(bytes(length)))} characters of base64"
    assert [limit.split()[0] for limit in limits] == verdicts


@pytest.mark.parametrize("target", [KERBEROS_SPN, NTLM_SPN])
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_report_shows_nothing_of_the_token(diagnose, fake, tokens, target, form):
    _, text = diagnose(fake, target, *form)
    [token] = tokens
    shown = text.lower()
    for start in range(len(token) - 6):
        piece = token[start : start + 6]
        assert piece.hex() not in shown
        assert base64.b64encode(piece).decode() not in text


def test_error_token_is_not_shown(diagnose, fake):
    fake.inject(ISC, sspi_client.SEC_E_INVALID_TOKEN, b"hidden-error-token")
    status, text = diagnose(fake, KERBEROS_SPN)
    assert status == 1 and "hidden" not in text
    assert b"hidden".hex() not in text


def test_report_tells_the_name_whatever_the_console_can_show(mocker, domain):
    domain.users["日本"] = "x"
    fake = sspi_client.FakeSecur32(domain, logon="日本")
    mocker.patch.object(sspi_client, "Secur32", lambda: fake)
    out = io.TextIOWrapper(io.BytesIO(), "cp1252")
    mocker.patch.object(sys, "stdout", out)
    assert main(["diagnose", NTLM_SPN]) == 0
    out.flush()
    assert b"logged on as   CORP\\" in out.buffer.getvalue()
    fake.assert_clean()


# -- what it leaves behind -----------------------------------------------------


@pytest.mark.parametrize(
    "words, status",
    [
        pytest.param([KERBEROS_SPN], 0, id="kerberos"),
        pytest.param([NTLM_SPN], 0, id="ntlm"),
        pytest.param([NTLM_SPN, "--package", "Kerberos"], 1, id="refused"),
        pytest.param([KERBEROS_SPN, "--package", "Kerberos", "--json"], 0, id="json"),
        pytest.param([], 0, id="no-spn"),
        pytest.param(["--package", "Kerberros"], 1, id="no-such-package"),
    ],
)
def test_nothing_is_alive_afterwards(diagnose, fake, words, status):
    assert diagnose(fake, *words)[0] == status
    fake.assert_clean()  # at once: no garbage collection has to come first


@pytest.mark.parametrize("function", ["AcquireCredentialsHandleW", ISC])
def test_refusal_of_sspi_is_reported_and_exits_with_one(diagnose, fake, function):
    fake.inject(function, sspi_client.SEC_E_NO_AUTHENTICATING_AUTHORITY)
    status, text = diagnose(fake, KERBEROS_SPN)
    assert status == 1
    line = f"error          {function}: SEC_E_NO_AUTHENTICATING_AUTHORITY (0x80090311)"
    assert text.splitlines()[-1].startswith(line)
    fake.assert_clean()


def test_refusal_to_list_packages_is_reported_and_exits_with_one(diagnose, fake):
    fake.inject("EnumerateSecurityPackagesW", sspi_client.SEC_E_INSUFFICIENT_MEMORY)
    status, text = diagnose(fake, KERBEROS_SPN)
    assert status == 1
    assert "EnumerateSecurityPackagesW: SEC_E_INSUFFICIENT_MEMORY" in text


def test_user_that_is_not_told_does_not_hinder(diagnose, fake):
    fake.inject("QueryCredentialsAttributesW", sspi_client.SEC_E_UNSUPPORTED_FUNCTION)
    status, text = diagnose(fake, NTLM_SPN)
    assert status == 0 and "first token    SPNEGO" in text
    assert "logged on as   not told: SEC_E_UNSUPPORTED_FUNCTION\n" in text


def test_nothing_is_sent_and_one_leg_is_made(diagnose, fake):
    diagnose(fake, KERBEROS_SPN)
    assert fake.calls.count(ISC) == 1
    assert fake.calls[-2:] == ["DeleteSecurityContext", "FreeCredentialsHandle"]


# -- wrong usage ---------------------------------------------------------------


@OFF_WINDOWS
@pytest.mark.parametrize("words", [[], [NTLM_SPN]], ids=["bare", "spn"])
def test_off_windows_it_says_so_in_one_line_and_exits_with_two(capsys, words):
    assert main(["diagnose", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        "sspi_client: secur32.dll is a part of Windows; on this platform pass "
        "secur32=, an object that stands in for it\n"
    )


@OFF_WINDOWS
def test_file_that_is_run_off_windows_exits_with_two():
    done = subprocess.run(
        [sys.executable, str(FILE), "diagnose", NTLM_SPN],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words, complaint",
    [
        pytest.param(["http://web.corp.test/"], "target is a URL", id="url"),
        pytest.param([""], "target must be an SPN", id="empty-target"),
        pytest.param([NTLM_SPN, "--package", ""], "package must be", id="no-package"),
    ],
)
def test_wrong_argument_is_one_line_and_exits_with_two(
    mocker, capsys, fake, words, complaint
):
    mocker.patch.object(sspi_client, "Secur32", lambda: fake)
    assert main(["diagnose", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith(f"sspi_client: {complaint}")
    assert fake.calls == []


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["diagnose", NTLM_SPN, "and more"],
        ["diagnose", "--package"],
        ["diagnose", "--jsonn"],
        ["diagnoze"],
    ],
    ids=["nothing", "two-spns", "no-package", "unknown-option", "misspelt"],
)
def test_wrong_usage_exits_with_two(mocker, capsys, fake, words):
    mocker.patch.object(sspi_client, "Secur32", lambda: fake)
    with pytest.raises(SystemExit) as left:
        main(words)
    printed = capsys.readouterr()
    assert (left.value.code, printed.out) == (2, "")
    assert printed.err.startswith("usage: sspi_client")
    assert fake.calls == []


def test_diagnose_reports_without_a_hash_when_the_file_is_inside_a_zip(
    fake, diagnose, mocker
):
    mocker.patch.object(sspi_client, "__file__", "bundle.zip/sspi_client.py")
    status, printed = diagnose(fake)
    assert status == 0 and ", SHA-256 unavailable\n" in printed
