"""What an SspiError says, where it comes from, and what a status means."""

import copy
import pickle
import re

import pytest
from world import KERBEROS_SPN, NTLM_SPN

import sspi_client
from sspi_client import ISC_REQ, ISC_RET, Identity, SspiError

TOKEN = b"NTLMSSP\0" + b"hidden-content"
ISC = "InitializeSecurityContextW"

# winerror.h, transcribed by hand.
STATUSES = """
00000000 SEC_E_OK
80090300 SEC_E_INSUFFICIENT_MEMORY
80090301 SEC_E_INVALID_HANDLE
80090302 SEC_E_UNSUPPORTED_FUNCTION
80090303 SEC_E_TARGET_UNKNOWN
80090304 SEC_E_INTERNAL_ERROR
80090305 SEC_E_SECPKG_NOT_FOUND
80090306 SEC_E_NOT_OWNER
80090307 SEC_E_CANNOT_INSTALL
80090308 SEC_E_INVALID_TOKEN
80090309 SEC_E_CANNOT_PACK
8009030A SEC_E_QOP_NOT_SUPPORTED
8009030B SEC_E_NO_IMPERSONATION
8009030C SEC_E_LOGON_DENIED
8009030D SEC_E_UNKNOWN_CREDENTIALS
8009030E SEC_E_NO_CREDENTIALS
8009030F SEC_E_MESSAGE_ALTERED
80090310 SEC_E_OUT_OF_SEQUENCE
80090311 SEC_E_NO_AUTHENTICATING_AUTHORITY
00090312 SEC_I_CONTINUE_NEEDED
00090313 SEC_I_COMPLETE_NEEDED
00090314 SEC_I_COMPLETE_AND_CONTINUE
00090315 SEC_I_LOCAL_LOGON
00090316 SEC_I_GENERIC_EXTENSION_RECEIVED
80090316 SEC_E_BAD_PKGID
80090317 SEC_E_CONTEXT_EXPIRED
00090317 SEC_I_CONTEXT_EXPIRED
80090318 SEC_E_INCOMPLETE_MESSAGE
80090320 SEC_E_INCOMPLETE_CREDENTIALS
80090321 SEC_E_BUFFER_TOO_SMALL
00090320 SEC_I_INCOMPLETE_CREDENTIALS
00090321 SEC_I_RENEGOTIATE
80090322 SEC_E_WRONG_PRINCIPAL
00090323 SEC_I_NO_LSA_CONTEXT
80090324 SEC_E_TIME_SKEW
80090325 SEC_E_UNTRUSTED_ROOT
80090326 SEC_E_ILLEGAL_MESSAGE
80090327 SEC_E_CERT_UNKNOWN
80090328 SEC_E_CERT_EXPIRED
80090329 SEC_E_ENCRYPT_FAILURE
80090330 SEC_E_DECRYPT_FAILURE
80090331 SEC_E_ALGORITHM_MISMATCH
80090332 SEC_E_SECURITY_QOS_FAILED
80090333 SEC_E_UNFINISHED_CONTEXT_DELETED
80090334 SEC_E_NO_TGT_REPLY
80090335 SEC_E_NO_IP_ADDRESSES
80090336 SEC_E_WRONG_CREDENTIAL_HANDLE
80090337 SEC_E_CRYPTO_SYSTEM_INVALID
80090338 SEC_E_MAX_REFERRALS_EXCEEDED
80090339 SEC_E_MUST_BE_KDC
8009033A SEC_E_STRONG_CRYPTO_NOT_SUPPORTED
8009033B SEC_E_TOO_MANY_PRINCIPALS
8009033C SEC_E_NO_PA_DATA
8009033D SEC_E_PKINIT_NAME_MISMATCH
8009033E SEC_E_SMARTCARD_LOGON_REQUIRED
8009033F SEC_E_SHUTDOWN_IN_PROGRESS
80090340 SEC_E_KDC_INVALID_REQUEST
80090341 SEC_E_KDC_UNABLE_TO_REFER
80090342 SEC_E_KDC_UNKNOWN_ETYPE
80090343 SEC_E_UNSUPPORTED_PREAUTH
80090345 SEC_E_DELEGATION_REQUIRED
80090346 SEC_E_BAD_BINDINGS
80090347 SEC_E_MULTIPLE_ACCOUNTS
80090348 SEC_E_NO_KERB_KEY
80090349 SEC_E_CERT_WRONG_USAGE
80090350 SEC_E_DOWNGRADE_DETECTED
80090351 SEC_E_SMARTCARD_CERT_REVOKED
80090352 SEC_E_ISSUING_CA_UNTRUSTED
80090353 SEC_E_REVOCATION_OFFLINE_C
80090354 SEC_E_PKINIT_CLIENT_FAILURE
80090355 SEC_E_SMARTCARD_CERT_EXPIRED
80090356 SEC_E_NO_S4U_PROT_SUPPORT
80090357 SEC_E_CROSSREALM_DELEGATION_FAILURE
80090358 SEC_E_REVOCATION_OFFLINE_KDC
80090359 SEC_E_ISSUING_CA_UNTRUSTED_KDC
8009035A SEC_E_KDC_CERT_EXPIRED
8009035B SEC_E_KDC_CERT_REVOKED
0009035C SEC_I_SIGNATURE_NEEDED
8009035D SEC_E_INVALID_PARAMETER
8009035E SEC_E_DELEGATION_POLICY
8009035F SEC_E_POLICY_NLTM_ONLY
00090360 SEC_I_NO_RENEGOTIATION
80090361 SEC_E_NO_CONTEXT
80090362 SEC_E_PKU2U_CERT_FAILURE
80090363 SEC_E_MUTUAL_AUTH_FAILED
00090364 SEC_I_MESSAGE_FRAGMENT
80090365 SEC_E_ONLY_HTTPS_ALLOWED
00090366 SEC_I_CONTINUE_NEEDED_MESSAGE_OK
80090367 SEC_E_APPLICATION_PROTOCOL_MISMATCH
00090368 SEC_I_ASYNC_CALL_PENDING
80090369 SEC_E_INVALID_UPN_NAME
8009036A SEC_E_EXT_BUFFER_TOO_SMALL
8009036B SEC_E_INSUFFICIENT_BUFFERS
"""
VALUES = {
    name: int(value, 16)
    for value, name in (line.split() for line in STATUSES.strip().splitlines())
}
ALIASES = {
    "SEC_E_NO_SPM": "SEC_E_INTERNAL_ERROR",
    "SEC_E_NOT_SUPPORTED": "SEC_E_UNSUPPORTED_FUNCTION",
}


def refusal(fake, replies=(), target=NTLM_SPN, **options):
    """Run a flow that must fail with an SspiError, and return that."""
    due = list(replies)
    flow = sspi_client.authenticate(target, secur32=fake, **options)
    with pytest.raises(SspiError) as caught:
        sspi_client.drive(flow, lambda token: due.pop(0))
    return caught.value


def ntlm_challenge(server):
    """A reply that makes a second leg: what a server says to NTLM's first token."""
    flags = "358288e2"  # Unicode, extended session security, and what goes with it
    return server.accept(b"NTLMSSP\0" + bytes.fromhex("01000000" + flags) + bytes(24))


# Exact texts


def test_text_when_there_is_no_such_package(fake):
    error = refusal(fake, package="Kerberros")
    assert str(error) == (
        "AcquireCredentialsHandleW: SEC_E_SECPKG_NOT_FOUND (0x80090305) "
        "[package Kerberros, target HTTP/printer.corp.test]: There is no such "
        "security package. packages() lists those there are."
    )


def test_text_when_sspi_refuses_the_first_leg(fake):
    fake.inject(ISC, sspi_client.SEC_E_NO_AUTHENTICATING_AUTHORITY)
    assert str(refusal(fake)) == (
        "InitializeSecurityContextW: SEC_E_NO_AUTHENTICATING_AUTHORITY (0x80090311) "
        "[package Negotiate, target HTTP/printer.corp.test, leg 1]: No domain "
        "controller answers. Check the network or VPN, and whether a controller can be "
        "found (nltest /dsgetdc:DOMAIN)."
    )


def test_text_when_the_peer_answers_without_a_token(fake):
    assert str(refusal(fake, [None])) == (
        "authenticate: SEC_E_INVALID_TOKEN (0x80090308) [package Negotiate, target "
        "HTTP/printer.corp.test, leg 1]: The peer sent no token, and the handshake is "
        "not finished: it refused us (with NTLM usually the password), or it does not "
        "speak this package. Or next() was called twice, or drive() got a flow that "
        "had begun."
    )


def test_text_when_a_required_flag_is_not_granted(fake, server):
    error = refusal(
        fake, [ntlm_challenge(server)], package="NTLM",
        require=ISC_RET.IDENTIFY | ISC_RET.DELEGATE,
    )  # fmt: skip
    assert str(error) == (
        "authenticate: SEC_E_SECURITY_QOS_FAILED (0x80090332) [package NTLM, target "
        "HTTP/printer.corp.test, leg 2]: NTLM did not grant DELEGATE | IDENTIFY, "
        "which was required."
    )


def test_text_when_the_status_is_unknown(fake):
    fake.inject(ISC, 0x8009FFFF)
    assert str(refusal(fake)) == (
        "InitializeSecurityContextW: 0x8009FFFF (0x8009FFFF) [package Negotiate, "
        "target HTTP/printer.corp.test, leg 1]"
    )


def test_text_when_nothing_is_known_but_the_status():
    error = SspiError(sspi_client.SEC_E_NOT_OWNER, "FreeCredentialsHandle")
    assert str(error) == "FreeCredentialsHandle: SEC_E_NOT_OWNER (0x80090306)"


def test_text_names_no_target_when_a_credential_fails(fake):
    with pytest.raises(SspiError) as caught:
        sspi_client.Credential(package="Foo", secur32=fake)
    assert str(caught.value) == (
        "AcquireCredentialsHandleW: SEC_E_SECPKG_NOT_FOUND (0x80090305) "
        "[package Foo]: There is no such security package. packages() lists those "
        "there are."
    )


# Attributes

WHERE = ("status", "function", "package", "target", "leg", "token")


def facts(error):
    return tuple(getattr(error, name) for name in WHERE)


def test_error_tells_where_when_acquiring_fails(fake):
    fake.inject("AcquireCredentialsHandleW", 0x8009030E)
    assert facts(refusal(fake)) == (
        0x8009030E, "AcquireCredentialsHandleW", "Negotiate", NTLM_SPN, None, b"",
    )  # fmt: skip


def test_error_knows_no_target_when_a_credential_fails(fake):
    fake.inject("AcquireCredentialsHandleW", 0x8009030E)
    with pytest.raises(SspiError) as caught:
        sspi_client.Credential(Identity("alice", "x"), package="NTLM", secur32=fake)
    assert facts(caught.value) == (
        0x8009030E, "AcquireCredentialsHandleW", "NTLM", None, None, b"",
    )  # fmt: skip


def test_error_tells_where_when_the_first_leg_fails(fake):
    error = refusal(fake, package="Kerberos")
    assert facts(error) == (0x80090303, ISC, "Kerberos", NTLM_SPN, 1, b"")


def test_error_tells_where_when_the_second_leg_fails(fake):
    error = refusal(fake, [b"no NTLM message"], package="NTLM")
    assert facts(error) == (0x80090308, ISC, "NTLM", NTLM_SPN, 2, b"")


def test_error_tells_where_when_a_later_leg_fails(fake):
    for leg in (1, 2, 3):
        fake.inject(ISC, sspi_client.SEC_I_CONTINUE_NEEDED, b"more %d" % leg, call=leg)
    fake.inject(ISC, 0x80090317, call=4)
    assert refusal(fake, [b"one", b"two", b"three"]).leg == 4


@pytest.mark.parametrize(
    "status",
    [sspi_client.SEC_I_COMPLETE_NEEDED, sspi_client.SEC_I_COMPLETE_AND_CONTINUE],
    ids=["complete", "complete-and-continue"],
)
def test_error_tells_where_when_completing_fails(fake, status):
    fake.inject(ISC, status, TOKEN)
    fake.inject("CompleteAuthToken", 0x80090302)
    error = refusal(fake)
    assert facts(error)[:5] == (
        0x80090302, "CompleteAuthToken", "Negotiate", NTLM_SPN, 1,
    )  # fmt: skip


def test_error_brings_the_error_token(fake):
    fake.inject(ISC, 0x8009030C, TOKEN)
    assert refusal(fake).token == TOKEN


def test_error_brings_an_empty_token_when_sspi_gives_an_empty_buffer(fake):
    fake.inject(ISC, 0x8009030C, b"")
    assert refusal(fake).token == b""


def test_error_tells_where_when_the_reply_is_missing(fake):
    error = refusal(fake, [None])
    assert facts(error) == (0x80090308, "authenticate", "Negotiate", NTLM_SPN, 1, b"")


def test_error_says_so_when_the_reply_is_our_own_token(fake):
    flow = sspi_client.authenticate(NTLM_SPN, secur32=fake)
    with pytest.raises(SspiError, match="our own last token") as caught:
        sspi_client.drive(flow, bytes)
    assert facts(caught.value) == (
        0x80090308, "authenticate", "Negotiate", NTLM_SPN, 1, b"",
    )  # fmt: skip


def test_error_names_the_package_that_was_negotiated_when_a_flag_is_missing(
    fake, server
):
    flow = sspi_client.authenticate(NTLM_SPN, require=ISC_RET.DELEGATE, secur32=fake)
    with pytest.raises(SspiError, match="NTLM did not grant DELEGATE") as caught:
        sspi_client.drive(flow, server.accept)
    assert caught.value.package == "Negotiate"


def test_error_names_a_missing_bit_that_has_no_name(fake, server):
    flow = sspi_client.authenticate(KERBEROS_SPN, require=0x40000000, secur32=fake)
    with pytest.raises(SspiError, match="did not grant 0x40000000, "):
        sspi_client.drive(flow, server.accept)


def test_error_says_so_when_ntlm_is_not_allowed(fake):
    fake.inject(ISC, sspi_client.SEC_I_CONTINUE_NEEDED, TOKEN)
    error = refusal(fake, allow_ntlm=False)
    assert facts(error) == (0x80090332, "authenticate", "Negotiate", NTLM_SPN, 1, b"")
    assert "allow_ntlm=False" in error.hint


def test_error_of_a_credentials_flow_tells_where(fake):
    with sspi_client.Credential(package="Kerberos", secur32=fake) as credential:
        flow = credential.authenticate(NTLM_SPN)
        with pytest.raises(SspiError) as caught:
            next(flow)
    assert facts(caught.value) == (0x80090303, ISC, "Kerberos", NTLM_SPN, 1, b"")


def test_hint_of_ours_wins():
    error = SspiError(sspi_client.SEC_E_LOGON_DENIED, "authenticate", hint="Because.")
    assert error.hint == "Because."


def test_hint_is_empty_when_the_status_has_no_explanation():
    assert SspiError(0x8009FFFF, ISC).hint == ""


@pytest.mark.parametrize(
    "given, status, name",
    [
        pytest.param(-2146893044, 0x8009030C, "SEC_E_LOGON_DENIED", id="negative"),
        pytest.param(0x8009030C, 0x8009030C, "SEC_E_LOGON_DENIED", id="unsigned"),
        pytest.param(-1, 0xFFFFFFFF, "0xFFFFFFFF", id="minus-one"),
        pytest.param(5, 5, "0x00000005", id="small"),
    ],
)
def test_status_is_unsigned(given, status, name):
    error = SspiError(given, ISC)
    assert (error.status, error.name) == (status, name)


@pytest.mark.parametrize(
    "status, name",
    [
        pytest.param(0x8009FFFF, "0x8009FFFF", id="negative"),
        pytest.param(0xC000006D, "0xC000006D", id="ntstatus"),
        pytest.param(0x00091234, "0x00091234", id="positive"),
        pytest.param(1, "0x00000001", id="one"),
        pytest.param(0x00090315, "SEC_I_LOCAL_LOGON", id="positive-with-a-name"),
    ],
)
@pytest.mark.parametrize("function", ["AcquireCredentialsHandleW", ISC])
def test_odd_status_survives(fake, function, status, name):
    fake.inject(function, status)
    error = refusal(fake)
    assert (error.status, error.name, error.function) == (status, name, function)


def test_error_is_not_an_os_error():
    assert not issubclass(SspiError, OSError)


@pytest.mark.parametrize(
    "show",
    [str, repr, lambda error: repr(error.args), lambda error: error.hint],
    ids=["str", "repr", "args", "hint"],
)
def test_error_shows_no_token(fake, show):
    fake.inject(ISC, 0x8009030C, TOKEN)
    shown = show(refusal(fake))
    assert "NTLMSSP" not in shown and "hidden" not in shown


@pytest.mark.parametrize(
    "copied",
    [
        pytest.param(copy.copy, id="copy"),
        pytest.param(lambda e: pickle.loads(pickle.dumps(e)), id="pickle"),
        pytest.param(lambda e: pickle.loads(pickle.dumps(e, 0)), id="oldest-pickle"),
    ],
)
def test_error_stays_itself_when_copied(fake, copied):
    fake.inject(ISC, 0x8009030C, TOKEN)
    error = refusal(fake)
    twin = copied(error)
    assert (type(twin), str(twin), vars(twin)) == (SspiError, str(error), vars(error))


def test_hint_of_ours_survives_pickling(fake):
    error = refusal(fake, [None])
    assert pickle.loads(pickle.dumps(error)).hint == error.hint


# The tables

DECLARED = sorted(
    name for name in vars(sspi_client) if name.startswith(("SEC_E_", "SEC_I_"))
)


def test_statuses_are_those_of_the_sdk():
    declared = {name: getattr(sspi_client, name) for name in DECLARED}
    aliases = {name: VALUES[target] for name, target in ALIASES.items()}
    assert declared == {**VALUES, **aliases}


def test_every_status_is_shown_by_its_name_and_exported_once():
    shown = {n: SspiError(getattr(sspi_client, n), ISC).name for n in DECLARED}
    assert shown == {name: ALIASES.get(name, name) for name in DECLARED}
    counts = {name: sspi_client.__all__.count(name) for name in DECLARED}
    assert counts == dict.fromkeys(DECLARED, 1) and len(counts) > 90


EXPLAINED = [
    name for name in DECLARED if sspi_client._explanation(getattr(sspi_client, name))
]


def test_every_explanation_is_made_of_sentences_and_spaced_well():
    hints = {n: SspiError(getattr(sspi_client, n), ISC).hint for n in EXPLAINED}
    sentence = re.compile(r"[A-Z][ -~]* [ -~]*[A-Za-z)0-9]\.\Z")
    odd = re.compile(r"  | [.,;:)]|\( |[a-z][,;][A-Za-z]|\.\.")
    assert [n for n, hint in hints.items() if not sentence.match(hint)] == []
    assert [n for n, hint in hints.items() if odd.search(hint)] == []
    assert len(hints) > 30


@pytest.mark.parametrize(
    "name",
    [
        "SEC_E_INVALID_TOKEN", "SEC_E_LOGON_DENIED", "SEC_E_NO_CREDENTIALS",
        "SEC_E_TARGET_UNKNOWN", "SEC_E_WRONG_PRINCIPAL", "SEC_E_TIME_SKEW",
        "SEC_E_NO_AUTHENTICATING_AUTHORITY", "SEC_E_SECPKG_NOT_FOUND",
        "SEC_E_BAD_BINDINGS", "SEC_E_MUTUAL_AUTH_FAILED", "SEC_E_INTERNAL_ERROR",
        "SEC_E_UNSUPPORTED_FUNCTION", "SEC_E_MESSAGE_ALTERED",
    ],
)  # fmt: skip
def test_status_that_users_meet_is_explained(name):
    assert name in EXPLAINED


# explain


@pytest.mark.parametrize(
    "word",
    [
        pytest.param("2148074252", id="decimal"),
        pytest.param("-2146893044", id="negative"),
        pytest.param("0x8009030C", id="hex"),
        pytest.param("0X8009030c", id="hex-in-other-case"),
        pytest.param("SEC_E_LOGON_DENIED", id="symbol"),
        pytest.param("sec_e_logon_denied", id="symbol-in-lower-case"),
    ],
)
def test_explain_takes_any_spelling(capsys, word):
    assert sspi_client.main(["explain", word]) == 0
    heading, sentence = capsys.readouterr().out.splitlines()
    assert heading == "SEC_E_LOGON_DENIED (0x8009030C, -2146893044)"
    assert sentence.startswith("The user name or password was refused, ")


def test_explain_resolves_an_alias(capsys):
    assert sspi_client.main(["explain", "SEC_E_NOT_SUPPORTED"]) == 0
    heading = capsys.readouterr().out.splitlines()[0]
    assert heading == "SEC_E_UNSUPPORTED_FUNCTION (0x80090302, -2146893054)"


def test_explain_shows_a_positive_status(capsys):
    assert sspi_client.main(["explain", "SEC_I_CONTINUE_NEEDED"]) == 0
    heading = capsys.readouterr().out.splitlines()[0]
    assert heading == "SEC_I_CONTINUE_NEEDED (0x00090312, 590610)"


def test_explain_admits_that_it_has_no_explanation(capsys):
    assert sspi_client.main(["explain", "0x8009FFFF"]) == 0
    heading, sentence = capsys.readouterr().out.splitlines()
    assert heading == "0x8009FFFF (0x8009FFFF, -2146828289)"
    assert sentence.startswith("Not explained here")


@pytest.mark.parametrize(
    "word",
    [
        pytest.param("SEC_E_NONSENSE", id="no-such-symbol"),
        pytest.param("LOGON_DENIED", id="half-a-symbol"),
        pytest.param("SEC_WINNT_AUTH_IDENTITY_ANSI", id="another-constant"),
        pytest.param("hello", id="word"),
        pytest.param("", id="empty"),
        pytest.param("0x18009030C", id="too-large"),
        pytest.param("-2147483649", id="too-small"),
    ],
)
def test_explain_exits_with_two_when_nobody_knows_the_status(capsys, word):
    assert sspi_client.main(["explain", word]) == 2
    assert "no such status" in "".join(capsys.readouterr())


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_explain_helps(capsys, word):
    with pytest.raises(SystemExit) as caught:
        sspi_client.main(["explain", word])
    assert caught.value.code == 0


@pytest.mark.parametrize(
    "words", [[], ["explain"], ["nonsense"]], ids=["nothing", "no-status", "nonsense"]
)
def test_command_line_exits_with_two_when_misused(capsys, words):
    with pytest.raises(SystemExit) as caught:
        sspi_client.main(words)
    assert caught.value.code == 2


def test_command_line_reads_argv_when_given_none(capsys, mocker):
    mocker.patch.object(
        sspi_client.sys, "argv", ["sspi_client", "explain", "-2146893044"]
    )
    assert sspi_client.main() == 0
    assert capsys.readouterr().out.startswith("SEC_E_LOGON_DENIED ")


def test_command_line_tells_the_version(capsys):
    with pytest.raises(SystemExit) as caught:
        sspi_client.main(["--version"])
    shown = capsys.readouterr().out.strip()
    assert (caught.value.code, shown) == (0, sspi_client.__version__)


def test_asked_and_granted_bits_are_named_alike(fake, server):
    # A require= of ISC_REQ bits must be named as ISC_RET names them.
    flow = sspi_client.authenticate(
        NTLM_SPN, require=ISC_REQ.USE_DCE_STYLE, secur32=fake
    )
    with pytest.raises(SspiError, match="did not grant USED_DCE_STYLE, "):
        sspi_client.drive(flow, server.accept)


@pytest.mark.parametrize(
    "word",
    ["8009030c", "SEC_E_LOGON_DENIED (0x8009030C)", " sec_e_logon_denied"],
    ids=["as-logs-have-it", "as-we-print-it", "lower-case"],
)
def test_explain_takes_a_status_as_it_is_found(capsys, word):
    assert sspi_client.main(["explain", word]) == 0
    assert capsys.readouterr().out.startswith("SEC_E_LOGON_DENIED (0x8009030C, ")


def test_explain_says_that_zero_is_success(capsys):
    assert sspi_client.main(["explain", "0"]) == 0
    assert capsys.readouterr().out == "SEC_E_OK (0x00000000, 0)\nSuccess.\n"


# What the server said


def reject(inner=b""):
    """A NegTokenResp that rejects, RFC 4178 4.2.2, with a responseToken."""
    state = bytes.fromhex("a0030a0102")
    token = b"\xa2" + bytes([len(inner) + 2, 4, len(inner)]) + inner if inner else b""
    body = state + token
    return b"\xa1" + bytes([len(body) + 2, 0x30, len(body)]) + body


KRB_ERROR = bytes.fromhex("7e11300fa003020105a10302011ea603020125")  # 37


@pytest.mark.parametrize(
    "reply, told",
    [
        (reject(), "SPNEGO NegTokenResp (reject). "),
        (reject(KRB_ERROR), "SPNEGO NegTokenResp (reject): Kerberos KRB-ERROR 37, the "
         "clocks differ too much. "),
    ],
    ids=["bare", "with-an-error"],
)  # fmt: skip
def test_hint_tells_that_the_server_refused(fake, reply, told):
    error = refusal(fake, [reply])
    assert error.hint.startswith(f"The server refused: {told}")


def test_hint_of_a_reply_that_is_no_refusal_says_nothing_of_it(fake):
    assert "refused: " not in refusal(fake, [b"rubbish"]).hint
