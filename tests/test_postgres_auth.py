"""examples/postgres_auth.py on the fake, against a server of its own on loopback.

The same example meets PostgreSQL with MIT Kerberos in lab/test_lab_postgres.py;
message 9 is what only a PostgreSQL on Windows sends, so it is shown here alone.
"""

import ssl

import pytest
from loopback import (
    PEM,
    HangUp,
    asked_password,
    example,
    ipv6_loopback,
    needs,
    never_finish,
    one_line,
    serve,
)

import sspi_client
from sspi_client import FakeDomain, SspiError

__all__ = ["asked_password", "ipv6_loopback", "serve"]  # fixtures
pytestmark = needs("pg8000")

GSS, SSPI = 7, 9
KINDS = pytest.mark.parametrize("name", ["Connection", "NativeConnection"])


@pytest.fixture
def domain():
    users = {"alice": "Secret123!", "bob": "Pä55wörd€"}
    return FakeDomain("CORP", users, ["postgres/localhost"])


def message(kind, content=b""):
    return kind + (len(content) + 4).to_bytes(4, "big") + content


def request(method, token=b""):
    return message(b"R", method.to_bytes(4, "big") + token)


def text(*fields):
    return b"".join(field + b"\0" for field in fields) + b"\0"


READY = message(b"K", bytes(8)) + message(b"Z", b"I")


def database(server, method, refusal=b"no\x1b[31m such role", seen=None, has_tls=True):
    """Log a client on by messages 7 or 9, and 8; then answer its Terminate."""

    def handler(stream):
        begin(stream, seen, has_tls)
        stream.write(request(method))
        while True:
            kind = stream.read(1)
            if kind == b"X":  # Terminate: SSPI refused on the client's side
                raise HangUp
            assert kind == b"p"  # and no Flush behind it
            token = stream.read(int.from_bytes(stream.read(4), "big") - 4)
            try:
                reply = server.accept(token)
            except SspiError:
                failed = text(b"SFATAL", b"C28000", b"M" + refusal)
                stream.write(message(b"E", failed))
                raise HangUp from None
            if reply is not None:
                stream.write(request(8, reply))
            if server.complete:
                break
        stream.write(request(0) + READY)

    return handler


def begin(stream, seen=None, has_tls=True):
    """Read the StartupMessage, inside TLS if the client asks for it and we have it."""
    start = stream.read(int.from_bytes(stream.read(4), "big") - 4)
    if start == (80877103).to_bytes(4, "big"):  # SSLRequest
        stream.write(b"S" if has_tls else b"N")
        stream.start_tls() if has_tls else None
        start = stream.read(int.from_bytes(stream.read(4), "big") - 4)
    if seen is not None:
        seen.append((stream.tls, start[4:].split(b"\0")))
    return start


def logged_on(module, name, port, fake, **options):
    kind = getattr(module, name)
    kind("alice", "localhost", port=port, timeout=10, secur32=fake, **options).close()


@KINDS
@pytest.mark.parametrize("method", [GSS, SSPI])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_connection_logs_on_when_server_wants(
    tls, method, name, fake, server, serve
):
    seen, options = [], {}
    if tls:
        options["ssl_context"] = ssl.create_default_context(cafile=str(PEM))
    port = serve(database(server, method, seen=seen, has_tls=tls))
    logged_on(example("postgres_auth"), name, port, fake, **options)
    assert (server.user, server.package) == ("CORP\\alice", "Kerberos")
    assert server.target == "postgres/localhost"
    ((inside, parameters),) = seen
    assert inside == tls and parameters[:2] == [b"user", b"alice"]


@KINDS
def test_connection_logs_on_by_ntlm_when_sspi_has_no_kerberos(
    name, domain, fake, server, serve
):
    domain.services.clear()
    logged_on(example("postgres_auth"), name, serve(database(server, SSPI)), fake)
    assert (server.user, server.package) == ("CORP\\alice", "NTLM")


@KINDS
@pytest.mark.parametrize("package", ["NTLM", "Negotiate"])
def test_connection_uses_the_package_when_it_is_given(
    package, name, domain, fake, server, serve
):
    domain.services.clear()
    port = serve(database(server, SSPI))
    logged_on(example("postgres_auth"), name, port, fake, package=package)
    assert server.package == "NTLM"


@pytest.mark.parametrize("method", [GSS, SSPI])
def test_command_says_the_servers_words_when_it_refuses(
    method, domain, fake, server, serve, asked_password
):
    asked_password("wrong")
    if method == SSPI:
        domain.services.clear()
    port = str(serve(database(server, method)))
    command = ["localhost", "--port", port, "--user", "CORP\\bob"]
    said = example("postgres_auth").main(command, fake)
    assert one_line(said, "postgres_auth")
    if method == SSPI:
        assert said == "postgres_auth: FATAL: no\\x1b[31m such role"


def test_command_knows_no_such_service_when_it_has_no_key(domain, fake, serve):
    domain.services.clear()
    port = serve(lambda stream: begin(stream) and stream.write(request(GSS)))
    said = example("postgres_auth").main(["localhost", "--port", str(port)], fake)
    assert one_line(said, "postgres_auth") and "SEC_E_TARGET_UNKNOWN" in said


def answering(*octets):
    def handler(stream):
        if begin(stream) is None:
            return
        for part in octets:
            if part is None:
                raise HangUp
            stream.write(part)

    return handler


def token_then(*octets):
    def handler(stream):
        begin(stream)
        stream.write(request(GSS))
        stream.read(1)
        stream.read(int.from_bytes(stream.read(4), "big") - 4)
        for part in octets:
            if part is None:
                raise HangUp
            stream.write(part)

    return handler


BAD = {
    "trusts everybody": (answering(request(0) + READY), "no logon"),
    "wants a password": (answering(request(3)), "a password in clear"),
    "wants an MD5": (answering(request(5, b"salt")), "MD5"),
    "wants SCRAM": (answering(request(10, b"SCRAM-SHA-256\0\0")), "SCRAM"),
    "wants what is not known": (answering(request(99)), "message 99"),
    "goes on before it began": (answering(request(8, b"token")), "out of turn"),
    "begins twice": (token_then(request(GSS)), "out of turn"),
    "lets us in unproven": (token_then(request(0) + READY), "proved itself"),
    "sends no token": (token_then(request(8)), "INVALID_TOKEN"),
    "sends another protocol": (token_then(request(8, b"HTTP/1.1 400")), "SEC_E_"),
    "closes": (answering(None), ""),
    "closes behind the token": (token_then(None), ""),
    "closes in a message": (token_then(request(8, b"abc")[:-1], None), ""),
}


@pytest.mark.parametrize("case", BAD)
def test_command_says_one_line_when_server(case, fake, serve):
    handler, words = BAD[case]
    command = ["localhost", "--port", str(serve(handler)), "--timeout", "10"]
    said = example("postgres_auth").main(command, fake)
    assert one_line(said, "postgres_auth") and words in said
    fake.assert_clean()


@KINDS
@pytest.mark.parametrize("case", BAD)
def test_connection_closes_its_socket_when_server(case, name, fake, serve):
    # serve() waits for the client to close, and the fake judges its handles.
    with pytest.raises((Exception,)):  # noqa: B017  pg8000 has many kinds
        logged_on(example("postgres_auth"), name, serve(BAD[case][0]), fake)


def test_command_says_one_line_when_server_never_finishes(fake, serve):
    never_finish(fake)

    def handler(stream):
        begin(stream)
        stream.write(request(SSPI))
        for _ in range(100):
            stream.read(1)
            stream.read(int.from_bytes(stream.read(4), "big") - 4)
            stream.write(request(8, b"more"))
        raise AssertionError("the client went on for 100 legs")

    command = ["localhost", "--port", str(serve(handler))]
    said = example("postgres_auth").main(command, fake)
    assert said == "postgres_auth: the server wants more than 10 legs"


def test_command_wants_kerberos_when_told_no_ntlm(domain, fake, server, serve):
    domain.services.clear()
    port = serve(lambda stream: begin(stream) and stream.write(request(SSPI)))
    command = ["localhost", "--port", str(port), "--no-ntlm"]
    assert one_line(example("postgres_auth").main(command, fake), "postgres_auth")


@KINDS
def test_connection_is_proven_when_our_own_token_is_the_last(
    name, fake, server, serve, mocker
):
    # Without mutual authentication Kerberos is done with its first token.
    authenticate = sspi_client.authenticate
    mocker.patch.object(
        sspi_client, "authenticate", lambda *a, **k: authenticate(*a, flags=0x800, **k)
    )
    port = serve(database(server, GSS))
    logged_on(example("postgres_auth"), name, port, fake)
    assert server.complete


def test_connection_refuses_a_password_when_one_is_given(fake):
    with pytest.raises(ValueError, match="knows no password"):
        example("postgres_auth").connect("alice", password="x", secur32=fake)


def test_connection_logs_on_when_host_is_an_ipv6_address(
    domain, fake, server, serve, ipv6_loopback
):
    domain.services.append("postgres/::1")
    port = serve(database(server, GSS), host=ipv6_loopback)
    module = example("postgres_auth")
    module.connect("alice", ipv6_loopback, port=port, secur32=fake).close()
    assert server.target == "postgres/::1"


def test_command_explains_every_option_when_asked():
    for action in example("postgres_auth").options()._actions:
        assert action.help, action.dest
