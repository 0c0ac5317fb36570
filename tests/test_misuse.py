"""Wrong arguments and wrong moments: refused at the call, and nothing stays alive."""

import sys

import pytest
from world import BINDINGS, KERBEROS_SPN, NTLM_SPN, USERS

import sspi_client
from sspi_client import Credential, FakeDomain, FakeSecur32, FakeServer, Identity, spn

off_windows = pytest.mark.skipif(
    sys.platform == "win32", reason="there is a secur32.dll on Windows"
)


def row(call, exception, fragment, id):
    return pytest.param(call, exception, fragment, id=id)


TARGETS = [
    row(None, TypeError, "target must be str, not NoneType", "none"),
    row(b"HTTP/web", TypeError, "target must be str, not bytes", "bytes"),
    row(Identity("a", "b"), TypeError, "target must be str, not Identity", "identity"),
    row("https://web/", ValueError, "target is a URL; spn", "url"),
    row("", ValueError, "must be an SPN such as 'HTTP/", "empty"),
    row("HTTP/web\0", ValueError, "target holds a NUL", "nul"),
]
OPTIONS = [
    row({"flags": "MUTUAL_AUTH"}, TypeError, "flags must be .*int.*, not str", "flags"),
    row({"flags": None}, TypeError, "flags must be .*int", "no-flags"),
    row({"flags": True}, TypeError, "flags must be .*int.*, not bool", "flags-truth"),
    row({"flags": -1}, ValueError, "flags must fit in 32 bits", "flags-negative"),
    row({"flags": 2**32}, ValueError, "flags must fit in 32 bits", "flags-wide"),
    row({"require": "INTEGRITY"}, TypeError, "require must be .*int", "require"),
    row({"require": True}, TypeError, "require must be .*int", "require-truth"),
    row({"require": -1}, ValueError, "require must fit in 32 bits", "require-negative"),
    row({"require": 2**32}, ValueError, "require must fit", "require-wide"),
    row(
        {"channel_bindings": BINDINGS.decode("latin-1")}, TypeError,
        "channel_bindings must be bytes, not str", "bindings-text",
    ),
    row(
        {"channel_bindings": bytes(32)}, ValueError,
        "lack their prefix: .*tls-server-end-point:", "bindings-digest-alone",
    ),
    row(
        {"channel_bindings": b""}, ValueError, "lack their prefix", "bindings-empty",
    ),
    row(
        {"channel_bindings": b"tls-server-end-point:"}, ValueError,
        "lack what follows the prefix", "bindings-without-digest",
    ),
    row(
        {"channel_bindings": b":" + bytes(32)}, ValueError, "lack their prefix",
        "bindings-without-prefix",
    ),
]  # fmt: skip
CREDENTIALS = [
    row({"identity": "alice"}, TypeError, "identity must be Identity, not str", "name"),
    row({"identity": ("alice", "x")}, TypeError, "Identity, not tuple", "pair"),
    row({"identity": Identity}, TypeError, "identity must be Identity", "class"),
    row({"package": None}, TypeError, "package must be str, not NoneType", "package"),
    row({"package": b"NTLM"}, TypeError, "package must be str, not bytes", "bytes"),
    row({"package": ""}, ValueError, "a name such as 'Negotiate'", "package-empty"),
    row({"package": "NTLM\0"}, ValueError, "package holds a NUL", "package-nul"),
    row({"allow_ntlm": None}, TypeError, "allow_ntlm must be bool", "ntlm-none"),
    row({"allow_ntlm": 0}, TypeError, "allow_ntlm must be bool, not int", "ntlm-zero"),
    row(
        {"package": "NTLM", "allow_ntlm": False}, ValueError,
        "only Negotiate and Kerberos can keep that", "ntlm-without-ntlm",
    ),
    row(
        {"package": "ntlm", "allow_ntlm": False}, ValueError,
        "only Negotiate and Kerberos can keep that", "ntlm-in-other-case",
    ),
]  # fmt: skip


@pytest.mark.parametrize("target, exception, fragment", TARGETS)
def test_authenticate_refuses_a_target_at_the_call(fake, target, exception, fragment):
    with pytest.raises(exception, match=fragment):
        sspi_client.authenticate(target, secur32=fake)
    assert fake.calls == []


@pytest.mark.parametrize("options, exception, fragment", OPTIONS + CREDENTIALS)
def test_authenticate_refuses_an_option_at_the_call(fake, options, exception, fragment):
    with pytest.raises(exception, match=fragment):
        sspi_client.authenticate(KERBEROS_SPN, secur32=fake, **options)
    assert fake.calls == []


@pytest.mark.parametrize("options, exception, fragment", CREDENTIALS)
def test_credential_refuses_at_the_call(fake, options, exception, fragment):
    with pytest.raises(exception, match=fragment):
        Credential(secur32=fake, **options)
    assert fake.calls == []


@pytest.fixture
def credential(fake):
    with Credential(secur32=fake) as credential:
        fake.calls.clear()
        yield credential


@pytest.mark.parametrize("target, exception, fragment", TARGETS)
def test_credentials_flow_refuses_a_target_at_the_call(
    fake, credential, target, exception, fragment
):
    with pytest.raises(exception, match=fragment):
        credential.authenticate(target)
    assert fake.calls == []


@pytest.mark.parametrize("options, exception, fragment", OPTIONS)
def test_credentials_flow_refuses_an_option_at_the_call(
    fake, credential, options, exception, fragment
):
    with pytest.raises(exception, match=fragment):
        credential.authenticate(KERBEROS_SPN, **options)
    assert fake.calls == []


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(
            lambda fake: sspi_client.authenticate(NTLM_SPN, None, "NTLM", secur32=fake),
            id="authenticate",
        ),
        pytest.param(lambda fake: Credential(None, "NTLM", secur32=fake), id="new"),
    ],
)
def test_options_are_keywords_alone(fake, call):
    with pytest.raises(TypeError, match="positional argument"):
        call(fake)


def test_authenticate_calls_nothing_before_next(fake):
    flow = sspi_client.authenticate(KERBEROS_SPN, secur32=fake)
    flow.close()
    assert fake.calls == []


# secur32=

NEEDS_SECUR32 = [
    pytest.param(lambda **o: sspi_client.authenticate(NTLM_SPN, **o), id="flow"),
    pytest.param(lambda **o: Credential(**o), id="credential"),
    pytest.param(lambda **o: sspi_client.packages(**o), id="packages"),
]


@off_windows
@pytest.mark.parametrize("call", NEEDS_SECUR32)
def test_secur32_must_be_given_off_windows(call):
    with pytest.raises(OSError, match="part of Windows; .* pass secur32="):
        call()


@pytest.mark.parametrize("call", NEEDS_SECUR32)
@pytest.mark.parametrize(
    "secur32", [object(), "secur32.dll", FakeSecur32], ids=["object", "name", "class"]
)
def test_secur32_is_refused_when_it_has_no_functions(call, secur32):
    with pytest.raises(TypeError, match="secur32 lacks AcquireCredentialsHandleW, "):
        call(secur32=secur32)


@pytest.mark.parametrize("name", sorted(sspi_client.PROTOTYPES))
def test_secur32_is_refused_when_one_function_is_missing(fake, mocker, name):
    mocker.patch.object(fake, name, None)
    with pytest.raises(TypeError, match=f"^secur32 lacks {name}$"):
        sspi_client.authenticate(NTLM_SPN, secur32=fake)


# Identity, spn


@pytest.mark.parametrize(
    "parts, fragment",
    [
        pytest.param((None, "x"), "user must be str or bytes, not NoneType", id="none"),
        pytest.param((5, "x"), "user must be str or bytes, not int", id="number"),
        pytest.param(("a", 5), "password must be str or bytes, not int", id="pin"),
        pytest.param(("a", bytearray()), "password .* not bytearray", id="bytearray"),
        pytest.param(("a", "x", 5), "domain must be str or bytes", id="domain"),
        pytest.param(("a", b"x"), "all str or all bytes", id="mixture"),
    ],
)
def test_identity_refuses_a_wrong_type(parts, fragment):
    with pytest.raises(TypeError, match=fragment):
        Identity(*parts)


@pytest.mark.parametrize(
    "parts, fragment",
    [
        pytest.param(("a", b"x"), "bytes, not str", id="user"),
        pytest.param((b"a", "x"), "bytes, not str", id="password"),
        pytest.param((b"a", b"x", "D"), "bytes, not str", id="domain"),
        pytest.param((b"a", b"x", ""), "bytes, not str", id="empty-domain"),
        pytest.param((None, b"x"), "not NoneType", id="no-user"),
        pytest.param((b"a", b"x", None, "cp1252"), "code_page must be int", id="page"),
        pytest.param((b"a", b"x", None, None), "code_page must be int", id="no-page"),
        pytest.param((b"a", b"x", None, True), "code_page must be int", id="truth"),
    ],
)
def test_from_ansi_refuses_a_wrong_type(parts, fragment):
    with pytest.raises(TypeError, match=fragment):
        Identity.from_ansi(*parts)


@pytest.mark.parametrize(
    "parts, exception, fragment",
    [
        row((b"HTTP", "h"), TypeError, "service must be str, not bytes", "service"),
        row(("HTTP", None), TypeError, "host must be str, not NoneType", "host"),
        row(("HTTP", ("h", 80)), TypeError, "host must be str, not tuple", "address"),
        row(("HTTP", "https://h/"), ValueError, "host is a URL; give its", "url"),
        row(("https://", "h"), ValueError, "service is a URL", "url-as-service"),
        row(("HTTP", ""), ValueError, "host must be a bare name", "empty-host"),
        row(("", "h"), ValueError, "service must be a bare name", "empty-service"),
        row(("HTTP/h", "h"), ValueError, "service must be a bare", "whole-spn"),
        row(("HTTP", "h/path"), ValueError, "host must be a bare name", "path"),
        row(("HTTP", "h:80"), ValueError, "host must be a bare name", "port-in-host"),
        row(("HTTP", "h@REALM"), ValueError, "host must be a bare name", "realm"),
        row(("HTTP", "a b"), ValueError, "host must be a bare name", "space"),
        row(("HTTP", "h\n"), ValueError, "host must be a bare name", "newline"),
        row(("HTTP", "h\0"), ValueError, "host must be a bare name", "nul"),
        row(("HTTP", "h", "80"), TypeError, "port must be int, not str", "port-text"),
        row(("HTTP", "h", True), TypeError, "port must be int, not bool", "truth"),
        row(("HTTP", "h", 0), ValueError, "port must be 1 to 65535, not 0", "zero"),
        row(("HTTP", "h", -1), ValueError, "port must be 1 to 65535", "negative"),
        row(("HTTP", "h", 65536), ValueError, "port must be 1 to 65535", "too-large"),
    ],
)
def test_spn_refuses(parts, exception, fragment):
    with pytest.raises(exception, match=fragment):
        spn(*parts)


# What is closed


def test_closed_credential_starts_no_flow(fake):
    credential = Credential(secur32=fake)
    credential.close()
    with pytest.raises(RuntimeError, match="this Credential is closed"):
        credential.authenticate(KERBEROS_SPN)


def test_closed_credential_tells_no_user(fake):
    credential = Credential(secur32=fake)
    credential.close()
    with pytest.raises(RuntimeError, match="this Credential is closed"):
        credential.user  # noqa: B018


def test_closed_credential_stops_a_flow_that_has_not_begun(fake):
    credential = Credential(secur32=fake)
    flow = credential.authenticate(KERBEROS_SPN)
    credential.close()
    with pytest.raises(RuntimeError, match="this Credential is closed"):
        next(flow)


def test_closed_credential_calls_nothing(fake):
    credential = Credential(secur32=fake)
    credential.close()
    fake.calls.clear()
    with pytest.raises(RuntimeError):
        credential.authenticate(KERBEROS_SPN)
    credential.close()
    assert fake.calls == []


def test_closed_credential_says_so(fake):
    credential = Credential(secur32=fake)
    credential.close()
    assert repr(credential) == "<Credential Negotiate, closed>"


@pytest.fixture
def closed_context(fake, server):
    flow = sspi_client.authenticate(KERBEROS_SPN, secur32=fake)
    context = sspi_client.drive(flow, server.accept)
    context.close()
    fake.calls.clear()
    return context


@pytest.mark.parametrize("attribute", ["package", "user"])
def test_closed_context_refuses_what_sspi_must_tell(closed_context, attribute):
    with pytest.raises(RuntimeError, match="this Context is closed"):
        getattr(closed_context, attribute)


def test_closed_context_calls_nothing(fake, closed_context):
    with pytest.raises(RuntimeError):
        closed_context.package  # noqa: B018
    closed_context.close()
    assert fake.calls == []


def test_closed_context_keeps_what_it_knows(closed_context):
    known = (closed_context.target, closed_context.requested_package)
    assert known == (KERBEROS_SPN, "Negotiate")


def test_closed_context_says_so(closed_context):
    assert repr(closed_context) == f"<Context Negotiate {KERBEROS_SPN}, closed>"


# drive()


@pytest.fixture
def flow(fake):
    flow = sspi_client.authenticate(NTLM_SPN, secur32=fake)
    yield flow
    flow.close()


@pytest.mark.parametrize("exchange", [None, b"token", 5], ids=["none", "bytes", "int"])
def test_drive_refuses_an_exchange_that_cannot_be_called(fake, flow, exchange):
    with pytest.raises(TypeError, match="exchange must be callable, not "):
        sspi_client.drive(flow, exchange)
    assert fake.calls == []


@pytest.mark.parametrize(
    "given, fragment",
    [
        pytest.param(NTLM_SPN, "flow must be a generator, not str", id="target"),
        pytest.param(None, "flow must be a generator, not NoneType", id="none"),
        pytest.param(iter([b"x"]), "flow must be a generator, not ", id="iterator"),
        pytest.param(
            sspi_client.authenticate, "must be a generator, not function", id="function"
        ),
    ],
)
def test_drive_refuses_what_is_no_flow(given, fragment):
    with pytest.raises(TypeError, match=fragment):
        sspi_client.drive(given, bytes)


def test_drive_refuses_a_flow_that_has_returned(fake, flow, server):
    sspi_client.drive(flow, server.accept).close()
    with pytest.raises(RuntimeError, match="this flow has already ended"):
        sspi_client.drive(flow, server.accept)


def test_drive_refuses_a_flow_that_was_closed(flow, server):
    next(flow)
    flow.close()
    with pytest.raises(RuntimeError, match="this flow has already ended"):
        sspi_client.drive(flow, server.accept)


def test_drive_refuses_a_flow_that_has_failed(fake, flow, server):
    fake.inject("InitializeSecurityContextW", sspi_client.SEC_E_INTERNAL_ERROR)
    with pytest.raises(sspi_client.SspiError):
        next(flow)
    with pytest.raises(RuntimeError, match="this flow has already ended"):
        sspi_client.drive(flow, server.accept)


ACCIDENTS = [
    ConnectionError, ValueError, StopIteration, KeyboardInterrupt, SystemExit,
    GeneratorExit,
]  # fmt: skip


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_drive_passes_on_what_exchange_raises(flow, mocker, accident):
    raised = accident("mine")
    with pytest.raises(accident) as caught:
        sspi_client.drive(flow, mocker.Mock(side_effect=raised))
    assert caught.value is raised


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_drive_closes_the_flow_when_exchange_raises(fake, flow, mocker, accident):
    with pytest.raises(accident):
        sspi_client.drive(flow, mocker.Mock(side_effect=accident))
    assert flow.gi_frame is None
    fake.assert_clean()


def test_drive_closes_the_flow_when_exchange_raises_later(fake, flow, server):
    def exchange(token):
        reply = server.accept(token)
        if server.complete:
            raise ConnectionError
        return reply

    with pytest.raises(ConnectionError):
        sspi_client.drive(flow, exchange)
    fake.assert_clean()


def test_drive_closes_the_flow_when_the_reply_is_text(fake, flow):
    with pytest.raises(TypeError, match="base64"):
        sspi_client.drive(flow, lambda token: "TlRMTVNTUAAC")
    fake.assert_clean()


@pytest.mark.parametrize("reply", [5, ["x"], object()], ids=["int", "list", "object"])
def test_drive_closes_the_flow_when_the_reply_is_no_bytes(fake, flow, reply):
    with pytest.raises(TypeError, match="the reply must be bytes, not "):
        sspi_client.drive(flow, lambda token: reply)
    fake.assert_clean()


# The generator itself


def test_flow_refuses_a_reply_before_its_first_token(fake, flow):
    with pytest.raises(TypeError, match="just-started generator"):
        flow.send(b"too early")
    assert fake.calls == []


def test_flow_takes_a_next_for_a_missing_reply(fake, flow):
    next(flow)
    with pytest.raises(sspi_client.SspiError, match="sent no token"):
        next(flow)
    fake.assert_clean()


def test_flow_refuses_text_with_a_word_about_base64(fake, flow):
    next(flow)
    with pytest.raises(TypeError, match="did you forget base64.b64decode"):
        flow.send("TlRMTVNTUAAC")
    fake.assert_clean()


def test_flow_that_has_failed_is_over(fake, flow):
    next(flow)
    with pytest.raises(TypeError):
        flow.send("text")
    with pytest.raises(StopIteration):
        flow.send(b"reply")


# The fake


def test_fake_domain_refuses_services_that_are_one_text():
    # "HTTP/web" would be eight services of one letter each, and Kerberos gone.
    with pytest.raises(TypeError, match="services"):
        FakeDomain("CORP", USERS, "HTTP/web.corp.test")


def test_fake_domain_shows_no_password(domain):
    assert repr(domain) == f"<FakeDomain CORP: {len(USERS)} users>"


def test_fake_secur32_refuses_a_logon_that_the_domain_lacks(domain):
    with pytest.raises(ValueError, match="has no user 'mallory'"):
        FakeSecur32(domain, logon="mallory")


@pytest.mark.parametrize("logon", [None, "alice"], ids=["nobody", "alice"])
def test_fake_secur32_refuses_what_is_no_domain(logon):
    with pytest.raises(TypeError, match="domain must be"):
        FakeSecur32("CORP", logon)


def test_fake_secur32_refuses_an_injection_for_an_unknown_function(fake):
    with pytest.raises(ValueError, match="no function 'AcceptSecurityContext'"):
        fake.inject("AcceptSecurityContext", 0)


def test_fake_server_refuses_what_is_no_domain():
    with pytest.raises(TypeError, match="domain must be"):
        FakeServer("CORP")


@pytest.mark.parametrize("bindings", ["tls-unique:x", 5], ids=["text", "number"])
def test_fake_server_refuses_bindings_that_are_no_bytes(domain, bindings):
    with pytest.raises((TypeError, ValueError), match="channel_bindings must be bytes"):
        FakeServer(domain, bindings)


@pytest.mark.parametrize(
    "token", [None, "TlRMTVNTUAAB", 5], ids=["none", "text", "number"]
)
def test_fake_server_refuses_a_token_that_is_no_bytes(server, token):
    with pytest.raises(TypeError, match="must be bytes, not "):
        server.accept(token)


@pytest.mark.parametrize("target", ["HTTP/", " HTTP/x", "HTTP/x\n"])
def test_authenticate_refuses_a_target_that_lacks_its_host(fake, target):
    with pytest.raises(ValueError, match="must be an SPN such as"):
        sspi_client.authenticate(target, secur32=fake)


@pytest.mark.parametrize(
    "parts",
    [("CORP\alice", "x"), (b"CORP\alice", b"x"), ("alice", "x", "CORP\n")],
    ids=["user", "bytes", "domain"],
)
def test_identity_refuses_a_backslash_that_python_ate(parts):
    with pytest.raises(ValueError, match="a backslash is written twice"):
        Identity(*parts)


@pytest.mark.parametrize("user", ["CORP\\alice", "alice@corp.test"])
def test_fake_domain_refuses_users_that_are_no_bare_names(user):
    with pytest.raises(ValueError, match="bare names"):
        FakeDomain("CORP", {user: "x"})


def test_fake_domain_refuses_users_without_passwords():
    with pytest.raises(TypeError, match="users must be a dict"):
        FakeDomain("CORP", ["alice"])


def test_fake_domain_refuses_a_url_as_a_service():
    with pytest.raises(ValueError, match="is a URL"):
        FakeDomain("CORP", {}, ["https://web.corp.test"])


@pytest.mark.parametrize(
    "arguments",
    [("SEC_E_OK",), (None,), (0, "token"), (0, b"", 0), (0, b"", True)],
    ids=["name", "nothing", "text", "zeroth", "bool"],
)
def test_injection_refuses_what_it_could_not_answer(fake, arguments):
    with pytest.raises(TypeError):
        fake.inject("InitializeSecurityContextW", *arguments)
