"""The examples on sockets, LDAP, mail and TDS, on the fake, against loopback servers.

Each server here speaks just enough of its protocol, with FakeServer behind it. The
same examples meet servers that are not ours in lab/test_examples.py.

What needs a library of others is skipped without it, unless
SSPI_CLIENT_EXAMPLES=required is set: then it fails.
"""

import asyncio
import contextlib
import getpass
import importlib.util
import os
import socket
import ssl
import sys
import threading
import time
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sspi_client
from sspi_client import FakeDomain, FakeSecur32, FakeServer, Identity, SspiError

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SPN, NTLM_SPN = "host/localhost", "host/printer"
SERVICES = [SPN, "imap/localhost", "smtp/localhost", "ldap/localhost"]
PATIENCE = 20  # [s]

FRAMED = pytest.mark.parametrize("name", ["sockets_client", "asyncio_stream"])
MAIL = pytest.mark.parametrize("protocol", ["imap", "smtp"])


def needs(library):
    """Skip without *library*, unless examples are required: then it fails."""
    absent = importlib.util.find_spec(library) is None
    required = os.environ.get("SSPI_CLIENT_EXAMPLES") == "required"
    return pytest.mark.skipif(
        absent and not required, reason=f"{library} is not installed"
    )


NEEDS_LDAP3, NEEDS_PYTDS = needs("ldap3"), needs("pytds")
# ldap3 2.9 and pyasn1 warn about each other.
OLD_LDAP3 = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# For show, and valid until 2120; it names localhost.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg0+w/8PmPdTjpnBeX
075HhutUYrhJXWe9zt/r0YVgdeWhRANCAAT8hZD+4nqx2L0GJeNLURqf+7uuZTtG
9QokenO7bE/gNseOZqhY3Yb6MznEMD5m79PRVTSU+MVSELpQuUcwBMjC
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBdjCCAR2gAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABPyFkP7ierHYvQYl
40tRGp/7u65lO0b1CiR6c7tsT+A2x45mqFjdhvozOcQwPmbv09FVNJT4xVIQulC5
RzAEyMKjXjBcMA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgKEMB0GA1Ud
DgQWBBRSvlqKQfBLaMVZGyAZE0/24ObtujAaBgNVHREEEzARgglsb2NhbGhvc3SH
BH8AAAEwCgYIKoZIzj0EAwIDRwAwRAIgJKirSOP9yRf7+8hAU0q0Y3Ft5e6HRZiX
txvBCMBFE64CIBNHXP7GlL2/jvOCyLT5Yk1UgWv35rIUDRNRzBqYJWaW
-----END CERTIFICATE-----
"""


def example(name):
    """Import an example anew."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", _path(name))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _path(name):
    return EXAMPLES / f"{name}.py"


@pytest.fixture
def domain():
    users = {"alice": "Secret123!", "bob": "Pä55wörd€"}
    return FakeDomain("CORP", users, SERVICES)


@pytest.fixture
def asked_password(mocker):
    """A function that sets what getpass() will answer."""
    return lambda word: mocker.patch.object(getpass, "getpass", return_value=word)


class HangUp(Exception):
    """Raised by a handler that wants to close the connection first."""


@pytest.fixture
def serve(tmp_path):
    """A function that lets *handler* serve one client in a thread; returns the port.

    At the end the client must have closed its socket, and the handler not failed.
    """
    tls_context = None

    def attend(listener, handler, tls):
        connection, _ = listener.accept()
        connection.settimeout(PATIENCE)
        if tls:
            try:
                connection = tls_context.wrap_socket(connection, server_side=True)
            except OSError:  # the client does not trust us
                return
        with connection, connection.makefile("rwb", 0) as stream:
            try:
                handler(stream)
                while stream.read(65536):  # until the client closes
                    pass
            except (HangUp, ConnectionError, ssl.SSLError):
                pass

    with contextlib.ExitStack() as stack:

        def start(handler, tls=False):
            nonlocal tls_context
            if tls:
                tls_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                tls_context.load_cert_chain(str(certificate_file(tmp_path)))
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(PATIENCE)
            pool = stack.enter_context(ThreadPoolExecutor(1, "server"))
            outcome = pool.submit(attend, listener, handler, tls)
            stack.callback(outcome.result, PATIENCE)
            return listener.getsockname()[1]

        yield start


def certificate_file(folder):
    path = folder / "certificate.pem"
    path.write_text(CERTIFICATE)
    return path


def read_exactly(stream, length):
    octets = b""
    while len(octets) < length:
        part = stream.read(length - len(octets))
        if not part:
            raise HangUp
        octets += part
    return octets


def read_line(stream):
    line = b""
    while not line.endswith(b"\n"):
        line += read_exactly(stream, 1)
    return line.rstrip()


def one_line(said, name):
    """Whether a command ended with a line, and not with a traceback."""
    said = said or ""
    return said.startswith(f"{name}: ") and len(said.splitlines()) == 1


# -- Every example ---------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["sockets_client", "ldap_whoami", "mail_login", "asyncio_stream"]
    + ["pytds_auth", "trace"],
)  # fmt: skip
def test_example_stays_short_and_has_its_steps(name):
    text = _path(name).read_text("utf-8")
    head, _, body = text[3:].partition('"""')
    assert len(text.splitlines()) <= 120
    steps = [line[0] for line in head.splitlines() if line[1:3] == ". "]
    assert steps == [str(n) for n in range(1, len(steps) + 1)] != []
    assert all(f"# {step}" in body for step in steps)


# -- Frames: sockets_client and asyncio_stream -------------------------------------


def frame(octets):
    return len(octets).to_bytes(4, "little") + octets


def read_frame(stream):
    return read_exactly(stream, int.from_bytes(read_exactly(stream, 4), "little"))


def framed(server, refusal=b""):
    """Authenticate the client, then send one message back, encrypted."""

    def handler(stream):
        try:
            while not server.complete:
                reply = server.accept(read_frame(stream))
                if reply is not None:
                    stream.write(frame(reply))
        except SspiError as refused:
            stream.write(frame(refused.token) if refused.token else b"")
            raise HangUp from None
        message = server.unwrap(read_frame(stream))
        assert message.encrypted
        stream.write(frame(server.wrap(message)))

    return handler


def answering(octets, then=None):
    """Read a token, write *octets*, and stay or raise *then*."""

    def handler(stream):
        read_frame(stream)
        stream.write(octets)
        if then:
            raise then

    return handler


def log_on(name, port, target, identity, secur32):
    """Call the log_on() of either example on a connection that it does not own."""
    module = example(name)
    if name == "sockets_client":
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            return module.log_on(connection, target, identity, secur32)

    async def run():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await module.log_on(reader, writer, target, identity, secur32)
        finally:
            writer.close()

    try:
        return asyncio.run(run())
    finally:
        let_threads_end()


def let_threads_end():
    """Wait for the threads in which asyncio_stream gives things back."""
    deadline = time.monotonic() + PATIENCE
    while any(t.name.startswith("ThreadPoolExecutor") for t in threading.enumerate()):
        assert time.monotonic() < deadline, "a thread of the example does not end"
        time.sleep(0.01)


def test_sockets_client_talks_to_itself_when_it_has_no_address(capsys):
    # On Windows this is the real secur32 against FakeServer.
    assert example("sockets_client").main([]) is None
    first, second, *_, last = capsys.readouterr().out.splitlines()
    kind = "secur32.dll" if sys.platform == "win32" else "FakeSecur32"
    assert first == f"{kind} logs on to a FakeServer"
    assert second == "NTLM to demo/localhost"
    assert last == "encrypted answer (True): b'hello'"


@FRAMED
@pytest.mark.parametrize("target, package", [(SPN, "Kerberos"), (NTLM_SPN, "NTLM")])
def test_framed_client_logs_on_when_negotiated(
    name, target, package, fake, server, serve, capsys
):
    port = serve(framed(server))
    command = ["localhost", str(port), "--spn", target]
    assert example(name).main(command, fake) is None
    let_threads_end()
    assert (server.user, server.package) == ("CORP\\alice", package)
    told = capsys.readouterr().out
    assert package in told and "b'hello'" in told


@FRAMED
def test_framed_client_asks_for_the_password_when_user_is_given(
    name, fake, server, serve, asked_password
):
    asked_password("Pä55wörd€")
    command = ["localhost", str(serve(framed(server))), "--user", "CORP\\bob"]
    assert example(name).main(command, fake) is None
    let_threads_end()
    assert server.user == "CORP\\bob"


@FRAMED
@pytest.mark.parametrize("target", [SPN, NTLM_SPN])
def test_framed_client_says_one_line_when_password_is_wrong(
    name, target, fake, server, serve, asked_password
):
    asked_password("wrong")
    port = serve(framed(server))
    command = ["localhost", str(port), "--spn", target, "--user", "CORP\\bob"]
    said = example(name).main(command, fake)
    let_threads_end()
    assert one_line(said, name)
    assert "SEC_E_LOGON_DENIED" in said


def test_sockets_client_says_one_line_when_refused_after_final_token(
    mocker, fake, serve, asked_password
):
    # Raw NTLM ends with our token: the refusal is a connection that closes.
    module = example("sockets_client")
    ntlm = sspi_client.authenticate
    mocker.patch.object(
        sspi_client, "authenticate", lambda *a, **k: ntlm(*a, package="NTLM", **k)
    )
    asked_password("wrong")
    port = serve(framed(FakeServer(fake.domain)))
    said = module.main(["localhost", str(port), "--user", "CORP\\bob"], fake)
    assert one_line(said, "sockets_client")


@FRAMED
def test_framed_client_says_one_line_when_spn_is_unknown(name, domain, serve, mocker):
    # Nobody has a password to fall back on, and Kerberos knows no such service.
    nobody = FakeSecur32(domain)
    port = serve(lambda stream: None)
    command = ["localhost", str(port), "--spn", "host/nowhere"]
    said = example(name).main(command, nobody)
    let_threads_end()
    assert one_line(said, name)
    assert "host/nowhere" in said
    nobody.assert_clean()


BAD_FRAMES = {
    "closes": (answering(b"", HangUp()), (OSError, EOFError)),
    "closes in the length": (answering(b"\5\0", HangUp()), (OSError, EOFError)),
    "closes in the token": (answering(b"\5\0\0\0abc", HangUp()), (OSError, EOFError)),
    "announces 2 GB": (answering(b"\xff\xff\xff\x7f"), OSError),
    "announces 64 KB + 1": (answering(b"\1\0\1\0"), OSError),
    "sends no token": (answering(frame(b"")), SspiError),
    "sends another protocol": (answering(frame(b"HTTP/1.1 400 Bad")), SspiError),
}


@FRAMED
@pytest.mark.parametrize("case", BAD_FRAMES)
def test_framed_client_gives_up_when_server(name, case, fake, serve):
    handler, error = BAD_FRAMES[case]
    with pytest.raises(error):
        log_on(name, serve(handler), SPN, None, fake)
    said = example(name).main(["localhost", str(serve(handler)), "--spn", SPN], fake)
    let_threads_end()
    assert one_line(said, name)


@FRAMED
def test_framed_client_gives_up_when_server_never_finishes(name, fake, serve):
    never_finish(fake)

    def handler(stream):
        for _ in range(100):
            read_frame(stream)
            stream.write(frame(b"more"))
        raise AssertionError("the client went on for 100 legs")

    with pytest.raises(OSError, match="more than 10 legs"):
        log_on(name, serve(handler), SPN, None, fake)


def never_finish(fake):
    for call in range(1, 110):
        status, token = sspi_client.SEC_I_CONTINUE_NEEDED, b"leg %d" % call
        fake.inject("InitializeSecurityContextW", status, token, call)


@pytest.mark.parametrize("argv", [["localhost"], ["localhost", "99999"]])
def test_sockets_client_says_one_line_when_address_is_bad(argv, fake):
    assert one_line(example("sockets_client").main(argv, fake), "sockets_client")


class Slow:
    """A secur32 whose legs wait, as for a domain controller."""

    def __init__(self, secur32, wait):
        for function in sspi_client.PROTOTYPES:
            setattr(self, function, getattr(secur32, function))

        def slowly(*arguments):
            wait()
            return secur32.InitializeSecurityContextW(*arguments)

        self.InitializeSecurityContextW = slowly


def test_asyncio_stream_gives_back_all_when_cancelled_in_a_leg(fake):
    entered, go_on = threading.Event(), threading.Event()
    slow = Slow(fake, lambda: (entered.set(), go_on.wait(PATIENCE)))

    async def cancelled():
        task = asyncio.ensure_future(
            example("asyncio_stream").log_on(None, None, SPN, None, slow)
        )
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, entered.wait, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    go_on.set()
    let_threads_end()
    fake.assert_clean()


def test_asyncio_stream_leaves_the_loop_free_when_a_leg_blocks(fake, server, serve):
    slow, port, ticks = Slow(fake, lambda: time.sleep(0.2)), serve(framed(server)), []

    async def tick():
        while True:
            ticks.append(1)
            await asyncio.sleep(0.01)

    async def both():
        ticking = asyncio.ensure_future(tick())
        said = await example("asyncio_stream").talk("127.0.0.1", port, SPN, None, slow)
        ticking.cancel()
        return said

    assert "b'hello'" in asyncio.run(both())
    let_threads_end()
    assert len(ticks) > 5


# -- Mail ------------------------------------------------------------------------


def mail_server(protocol, converse):
    """Speak *protocol* until the client authenticates; converse(ask) does that.

    ask(challenge) sends bytes, or text as it is, and returns the response.
    """

    def handler(stream):
        def say(text):
            stream.write(text.encode() + b"\r\n")

        def next_command():
            """Return (tag, command) of IMAP; clients ask for CAPABILITY at any time."""
            while True:
                tag, command = read_line(stream).decode().split(" ", 1)
                if command != "CAPABILITY":
                    return tag, command
                say("* CAPABILITY IMAP4rev1")
                say(f"{tag} OK done")

        if protocol == "imap":
            say("* OK ready")
            tag, _ = next_command()
            go_on, yes, no = "+ ", f"{tag} OK in", f"{tag} NO [AUTHENTICATIONFAILED]"
        else:
            say("220 ready")
            read_line(stream)
            say("250 localhost")
            assert read_line(stream).startswith(b"AUTH ")
            go_on, yes, no = "334 ", "235 in", "535 5.7.8 no"

        def ask(challenge):
            if isinstance(challenge, bytes):
                challenge = b64encode(challenge).decode()
            say(go_on + challenge)
            return b64decode(read_line(stream), validate=True)

        try:
            converse(ask)
        except SspiError:
            say(no)
        else:
            say(yes)
            if protocol == "imap":  # imaplib of 3.14 asks once more, being in
                next_command()

    return handler


def gssapi(server, offer=b"\1\0\x40\0"):
    """The server's part of RFC 4752 3.1; *offer* is its layers and its size."""

    def converse(ask):
        reply = server.accept(ask(b""))
        assert ask(reply) == b""  # the client has nothing to say, and says so
        answer = server.unwrap(ask(server.wrap(offer, encrypt=False)))
        assert (answer, answer.encrypted) == (b"\1\0\0\0", False)

    return converse


def ntlm(server, first=b""):
    def converse(ask):
        assert server.accept(ask(server.accept(ask(first)))) is None

    return converse


def mail_command(protocol, port, mechanism, *more):
    return [protocol, "localhost", str(port), "--mechanism", mechanism, *more]


@MAIL
def test_mail_login_logs_on_when_it_is_gssapi(protocol, fake, server, serve):
    port = serve(mail_server(protocol, gssapi(server)))
    command = mail_command(protocol, port, "GSSAPI")
    assert example("mail_login").main(command, fake) is None
    assert (server.user, server.target) == ("CORP\\alice", f"{protocol}/localhost")


@MAIL
def test_mail_login_logs_on_when_it_is_ntlm(
    protocol, fake, server, serve, asked_password
):
    # Exchange's first word in SMTP is text, though base64 is due.
    asked_password("Pä55wörd€")
    first = "NTLM supported" if protocol == "smtp" else b""
    port = serve(mail_server(protocol, ntlm(server, first)))
    command = mail_command(protocol, port, "NTLM", "--user", "CORP\\bob")
    assert example("mail_login").main(command, fake) is None
    assert server.user == "CORP\\bob"


@MAIL
def test_mail_login_binds_to_the_certificate_when_inside_tls(
    protocol, domain, fake, serve, tmp_path
):
    module = example("mail_login")
    der = ssl.PEM_cert_to_DER_cert(CERTIFICATE[CERTIFICATE.index("-----BEGIN CERT") :])
    server = FakeServer(domain, sspi_client.tls_server_end_point(der))
    module.TLS.load_verify_locations(str(certificate_file(tmp_path)))
    port = serve(mail_server(protocol, gssapi(server)), tls=True)
    command = mail_command(protocol + "s", port, "GSSAPI")
    assert module.main(command, fake) is None
    assert server.complete


def test_sasl_skips_the_empty_response_when_our_token_is_final(domain, fake):
    # Without mutual authentication the server's next word is its offer of layers.
    flow = sspi_client.authenticate(
        SPN, package="Kerberos", flags=sspi_client.ISC_REQ.INTEGRITY, secur32=fake
    )
    server = FakeServer(domain)
    talk = example("mail_login").sasl("GSSAPI", flow)
    assert next(talk) == b""
    token = talk.send(b"")
    assert token.final and server.accept(token) is None
    answer = talk.send(server.wrap(b"\7\0\x40\0", encrypt=False))
    assert server.unwrap(answer) == b"\1\0\0\0"
    with pytest.raises(StopIteration):
        talk.send(None)


def test_no_layer_names_whom_to_act_for_when_asked(domain, fake):
    server = FakeServer(domain)
    flow = sspi_client.authenticate(SPN, package="Kerberos", secur32=fake)
    with sspi_client.drive(flow, server.accept) as context:
        challenge = server.wrap(b"\1\0\0\0", encrypt=False)
        answer = example("mail_login").no_layer(context, challenge, b"dn:cn=bob")
        assert server.unwrap(answer) == b"\1\0\0\0dn:cn=bob"


@MAIL
@pytest.mark.parametrize("mechanism", ["GSSAPI", "NTLM"])
def test_mail_login_says_one_line_when_password_is_wrong(
    protocol, mechanism, fake, server, serve, asked_password
):
    asked_password("wrong")
    converse = {"GSSAPI": gssapi, "NTLM": ntlm}[mechanism](server)
    port = serve(mail_server(protocol, converse))
    command = mail_command(protocol, port, mechanism, "--user", "CORP\\bob")
    assert one_line(example("mail_login").main(command, fake), "mail_login")


@MAIL
def test_mail_login_says_one_line_when_spn_is_unknown(protocol, fake, server, serve):
    port = serve(mail_server(protocol, gssapi(server)))
    command = mail_command(protocol, port, "GSSAPI", "--spn", "imap/nowhere")
    said = example("mail_login").main(command, fake)
    assert one_line(said, "mail_login") and "SEC_E_TARGET_UNKNOWN" in said


def _close(ask):
    ask(b"")
    raise HangUp


def _endless_line(ask):
    ask(b"")
    ask("A" * 1000001)  # imaplib's limit; smtplib's is 8,192


def _not_base64(ask):
    ask(b"")
    ask("this is not base64!")


def _another_protocol(ask):
    ask(b"")
    ask(b"HTTP/1.1 400 Bad")


def _empty_challenge(ask):
    ask(b"")
    ask(b"")


BAD_MAIL = {
    "closes": _close,
    "lets us in at once": lambda ask: None,
    "lets us in too early": lambda ask: ask(b""),
    "sends a line without end": _endless_line,
    "sends what is not base64": _not_base64,
    "sends another protocol": _another_protocol,
    "sends an empty challenge": _empty_challenge,
}


@MAIL
@pytest.mark.parametrize("case", BAD_MAIL)
def test_mail_login_says_one_line_when_server(protocol, case, fake, serve):
    port = serve(mail_server(protocol, BAD_MAIL[case]))
    said = example("mail_login").main(mail_command(protocol, port, "GSSAPI"), fake)
    assert one_line(said, "mail_login")


@MAIL
@pytest.mark.parametrize("offer", [b"\4\0\x40\0", b"", b"\1\0\0"])
def test_mail_login_says_one_line_when_layer_is_a_must(
    protocol, offer, fake, server, serve
):
    port = serve(mail_server(protocol, gssapi(server, offer)))
    said = example("mail_login").main(mail_command(protocol, port, "GSSAPI"), fake)
    assert said == "mail_login: the server insists on a security layer"


@MAIL
def test_mail_login_says_one_line_when_server_wants_more(protocol, fake, server, serve):
    def converse(ask):
        gssapi(server)(ask)
        ask(b"one more")

    port = serve(mail_server(protocol, converse))
    said = example("mail_login").main(mail_command(protocol, port, "GSSAPI"), fake)
    assert said == "mail_login: the server wants more than there is to say"


@MAIL
def test_mail_login_says_one_line_when_server_never_finishes(protocol, fake, serve):
    never_finish(fake)

    def converse(ask):
        for _ in range(100):
            ask(b"more")
        raise AssertionError("the client went on for 100 legs")

    port = serve(mail_server(protocol, converse))
    said = example("mail_login").main(mail_command(protocol, port, "GSSAPI"), fake)
    assert said == "mail_login: the server wants more than 10 legs"


# -- LDAP ------------------------------------------------------------------------


def ber(tag, *contents):
    content = b"".join(contents)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    return bytes([tag, 0x84]) + len(content).to_bytes(4, "big") + content


def items(content):
    found = []
    while content:
        length, start = content[1], 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(content[2:start], "big")
        found.append((content[0], content[start : start + length]))
        content = content[start + length :]
    return found


def read_pdu(stream):
    head = read_exactly(stream, 2)
    if head[1] & 0x80:
        head += read_exactly(stream, head[1] & 0x7F)
        return read_exactly(stream, int.from_bytes(head[2:], "big"))
    return read_exactly(stream, head[1])


def operation(pdu):
    """Return (message id as it came, tag, content) of an LDAPMessage."""
    (_, number), (tag, content) = items(pdu)[:2]
    return ber(0x02, number), tag, content


def bind_result(code, reply=None, text=b""):
    creds = ber(0x87, reply) if reply else b""
    return ber(0x61, ber(0x0A, bytes([code])), ber(0x04), ber(0x04, text), creds)


def bind_token(content):
    (_, mechanism), (_, token) = items(dict(items(content))[0xA3])
    assert mechanism == b"GSS-SPNEGO"
    return token


def ldap_server(server, sealed=True, last_code=0, reply_frame=None):
    """Bind with *server*, then tell the client its name, as RFC 4532 does."""

    def handler(stream):
        while not server.complete:
            number, tag, content = operation(read_pdu(stream))
            assert tag == 0x60
            try:
                reply = server.accept(bind_token(content))
            except SspiError as refused:
                result = bind_result(49, refused.token, b"80090308: data 52e")
                stream.write(ber(0x30, number, result))
                continue
            code = last_code if server.complete else 14
            stream.write(ber(0x30, number, bind_result(code, reply)))
        if not sealed:
            number, tag, _ = operation(read_pdu(stream))
        else:
            blob = read_exactly(stream, int.from_bytes(read_exactly(stream, 4), "big"))
            pdu = server.unwrap(blob)
            assert pdu.encrypted
            number, tag, _ = operation(items(pdu)[0][1])
        assert tag == 0x77
        name = ber(0x8B, b"u:" + server.user.encode())
        answer = ber(
            0x30, number, ber(0x78, ber(0x0A, b"\0"), ber(0x04), ber(0x04), name)
        )
        if sealed:
            blob = server.wrap(answer)
            answer = len(blob).to_bytes(4, "big") + blob
        stream.write(reply_frame or answer)

    return handler


def ldap(fake, port, *more):
    return example("ldap_whoami").main(["localhost", "--port", str(port), *more], fake)


@NEEDS_LDAP3
@OLD_LDAP3
@pytest.mark.parametrize("package", ["Kerberos", "NTLM"])
def test_ldap_whoami_seals_when_negotiated(
    package, domain, fake, server, serve, capsys
):
    if package == "NTLM":
        domain.services.remove("ldap/localhost")
    assert ldap(fake, serve(ldap_server(server))) is None
    assert server.package == package
    assert capsys.readouterr().out == "u:CORP\\alice\n"


@NEEDS_LDAP3
@OLD_LDAP3
@pytest.mark.parametrize("package", ["Kerberos", "NTLM"])
def test_ldap_whoami_binds_to_the_certificate_when_inside_tls(
    package, domain, fake, serve, tmp_path, capsys
):
    if package == "NTLM":
        domain.services.remove("ldap/localhost")
    der = ssl.PEM_cert_to_DER_cert(CERTIFICATE[CERTIFICATE.index("-----BEGIN CERT") :])
    server = FakeServer(domain, sspi_client.tls_server_end_point(der))
    port = serve(ldap_server(server, sealed=False), tls=True)
    trust = ["--tls", "--ca", str(certificate_file(tmp_path))]
    assert ldap(fake, port, *trust) is None
    assert capsys.readouterr().out == "u:CORP\\alice\n"


@NEEDS_LDAP3
@OLD_LDAP3
def test_ldap_whoami_says_one_line_when_certificate_is_not_trusted(fake, server, serve):
    said = ldap(fake, serve(ldap_server(server, False), tls=True), "--tls")
    assert one_line(said, "ldap_whoami") and "certificate" in said.lower()


@NEEDS_LDAP3
@OLD_LDAP3
@pytest.mark.parametrize("package", ["Kerberos", "NTLM"])
def test_ldap_whoami_says_one_line_when_password_is_wrong(
    package, domain, fake, server, serve, asked_password
):
    if package == "NTLM":
        domain.services.remove("ldap/localhost")
    asked_password("wrong")
    said = ldap(fake, serve(ldap_server(server)), "--user", "CORP\\bob")
    assert one_line(said, "ldap_whoami")
    assert ("SEC_E_LOGON_DENIED" if package == "Kerberos" else "52e") in said


def _bind_then(*octets):
    """Answer the first bindRequest; None hangs up."""

    def handler(stream):
        number, _, _ = operation(read_pdu(stream))
        for part in octets:
            if part is None:
                raise HangUp
            stream.write(part if part[:1] != b"\x61" else ber(0x30, number, part))

    return handler


BAD_LDAP = {
    "closes": lambda server: _bind_then(None),
    "closes in a message": lambda server: _bind_then(b"\x30\x84\0\0\1\0abc", None),
    "sends no token": lambda server: _bind_then(bind_result(14)),
    "sends another protocol": lambda server: _bind_then(bind_result(14, b"HTTP/1.1")),
    "is content too early": lambda server: _bind_then(bind_result(0)),
    "is not content": lambda server: ldap_server(server, last_code=14),
    "announces 2 GB": lambda server: ldap_server(server, reply_frame=b"\x7f" * 4),
    "seals wrongly": lambda server: ldap_server(
        server, reply_frame=b"\0\0\0\x50" + bytes(80)
    ),
}


@NEEDS_LDAP3
@OLD_LDAP3
@pytest.mark.parametrize("case", BAD_LDAP)
def test_ldap_whoami_says_one_line_when_server(case, fake, server, serve):
    said = ldap(fake, serve(BAD_LDAP[case](server)))
    assert one_line(said, "ldap_whoami")


@NEEDS_LDAP3
@OLD_LDAP3
def test_ldap_whoami_says_one_line_when_server_never_finishes(fake, serve):
    never_finish(fake)

    def handler(stream):
        for _ in range(100):
            number, _, _ = operation(read_pdu(stream))
            stream.write(ber(0x30, number, bind_result(14, b"more")))
        raise AssertionError("the client went on for 100 legs")

    said = ldap(fake, serve(handler))
    assert said == "ldap_whoami: the server wants more than 10 legs"


# -- TDS -------------------------------------------------------------------------

TDS_SPN = "MSSQLSvc/localhost:1433"


def sspi_auth(fake, **more):
    return example("pytds_auth").SspiAuth(TDS_SPN, secur32=fake, **more)


@pytest.mark.parametrize("package", ["Kerberos", "NTLM"])
def test_sspi_auth_is_complete_when_the_server_has_answered(
    package, domain, fake, server
):
    if package == "Kerberos":
        domain.services.append(TDS_SPN)
    auth = sspi_auth(fake)
    token = auth.create_packet()
    while not auth.complete:
        assert type(token) is bytes
        token = auth.handle_next(server.accept(token))
    auth.close()
    auth.close()
    assert (server.user, server.package) == ("CORP\\alice", package)
    assert server.target == TDS_SPN


def test_sspi_auth_uses_the_credentials_when_they_have_no_domain(fake, server):
    # python-tds' own SspiAuth would log on as whoever is logged on.
    auth = sspi_auth(fake, identity=Identity("bob", "Pä55wörd€"))
    token = auth.create_packet()
    while not auth.complete:
        token = auth.handle_next(server.accept(token))
    auth.close()
    assert server.user == "CORP\\bob"


def test_sspi_auth_is_bound_when_the_server_asks_for_it(domain, fake):
    bindings = b"tls-server-end-point:" + bytes(32)
    auth = sspi_auth(fake, channel_bindings=bindings)
    server = FakeServer(domain, bindings)
    token = auth.create_packet()
    while not auth.complete:
        token = auth.handle_next(server.accept(token))
    auth.close()
    assert server.complete


def test_sspi_auth_gives_all_back_when_closed_in_the_middle(fake):
    auth = sspi_auth(fake)
    auth.close()
    auth.create_packet()
    auth.create_packet()  # python-tds tries again with the same object
    auth.close()
    assert not auth.complete


def test_sspi_auth_raises_when_the_server_speaks_out_of_turn(fake):
    auth = sspi_auth(fake)
    with pytest.raises(ConnectionError, match="out of turn"):
        auth.handle_next(b"token")
    never_finish(fake)
    auth.create_packet()
    with pytest.raises(ConnectionError, match="out of turn"):
        for _ in range(100):
            auth.handle_next(b"more")


def test_sspi_auth_raises_when_the_token_is_garbage(fake):
    auth = sspi_auth(fake)
    auth.create_packet()
    with pytest.raises(SspiError):
        auth.handle_next(b"HTTP/1.1 400 Bad")


TDS_LOGIN7, TDS_SSPI, TDS_REPLY = 0x10, 0x11, 0x04  # MS-TDS 2.2.3.1.1
DONE = b"\xfd" + bytes(12)  # 2.2.7.6
# 2.2.7.14: length, interface 1, TDS 7.4, a name, a version.
LOGINACK = b"\xad\x0e\0\1\x74\0\0\4\2S\0Q\0\x10\0\0\0"


def tds_packet(kind, payload):
    return bytes([kind, 1]) + (len(payload) + 8).to_bytes(2, "big") + bytes(4) + payload


def read_tds(stream):
    """Return (type of the first packet, all that came until end of message)."""
    kind, payload, last = None, b"", False
    while not last:
        head = read_exactly(stream, 8)  # 2.2.3.1
        kind, last = kind or head[0], head[1] & 1
        payload += read_exactly(stream, int.from_bytes(head[2:4], "big") - 8)
    return kind, payload


def login7_token(login):
    """Return the SSPI blob of a LOGIN7 message, whose options must announce it."""
    assert int.from_bytes(login[:4], "little") == len(login)
    assert login[25] & 0x80  # 2.2.6.4, OptionFlags2.fIntSecurity
    at, length = (int.from_bytes(login[n : n + 2], "little") for n in (78, 80))
    return login[at : at + length]


def tds_server(server, seen, refusal=b""):
    def handler(stream):
        kind, prelogin = read_tds(stream)
        assert kind == 0x12
        options = bytes.fromhex("00000b0006 0100110001 ff 100000000000 02")
        stream.write(tds_packet(TDS_REPLY, options))  # 02: no encryption here
        kind, login = read_tds(stream)
        token = login7_token(login)
        seen.append((kind, token))
        while not server.complete:
            reply = server.accept(token)
            if reply is not None:
                told = b"\xed" + len(reply).to_bytes(2, "little") + reply  # 2.2.7.22
                extra = LOGINACK + DONE if server.complete else b""
                stream.write(tds_packet(TDS_REPLY, told + extra))
            if not server.complete:
                kind, token = read_tds(stream)
                seen.append((kind, token))
        if reply is None:
            stream.write(tds_packet(TDS_REPLY, LOGINACK + DONE))
        while True:
            read_tds(stream)
            stream.write(tds_packet(TDS_REPLY, DONE))

    return handler


@NEEDS_PYTDS
@pytest.mark.parametrize("package", ["Kerberos", "NTLM"])
def test_pytds_sends_our_tokens_when_it_logs_on(package, domain, fake, server, serve):
    """Let python-tds log on to a replayed server, and read its bytes by MS-TDS.

    No SQL Server takes part: the server here is FakeServer in TDS packets. Of what
    python-tds 1.17 writes, LOGIN7 is as 2.2.6.4 says; the next token should come
    in a packet of type 0x11 (2.2.6.8), and python-tds leaves LOGIN7's type on it.
    """
    module = example("pytds_auth")
    import pytds

    if package == "Kerberos":
        domain.services.append(TDS_SPN)
    auth, seen = module.SspiAuth(TDS_SPN, secur32=fake), []
    port = serve(tds_server(server, seen))
    pytds.connect("localhost", port=port, auth=auth, timeout=PATIENCE).close()
    assert auth.complete
    assert (server.user, server.package) == ("CORP\\alice", package)
    kinds = [kind for kind, _ in seen]
    assert kinds[0] == TDS_LOGIN7 and set(kinds[1:]) <= {TDS_LOGIN7, TDS_SSPI}
    names = [sspi_client.mechanism(token) for _, token in seen]
    assert names[0].startswith("SPNEGO NegTokenInit")
    assert [name.rpartition(": ")[2] for name in names] == (
        ["Kerberos AP-REQ"] if package == "Kerberos"
        else ["NTLM NEGOTIATE", "NTLM AUTHENTICATE"]
    )  # fmt: skip


@NEEDS_PYTDS
def test_pytds_leaves_nothing_when_the_server_closes(fake, serve):
    module = example("pytds_auth")
    import pytds

    def handler(stream):
        read_tds(stream)
        raise HangUp

    auth = module.SspiAuth(TDS_SPN, secur32=fake)
    with pytest.raises((pytds.Error, OSError, EOFError)):
        pytds.connect(
            "localhost", port=serve(handler), auth=auth, login_timeout=1, timeout=1
        )
    assert not auth.complete


# -- Trace -------------------------------------------------------------------------


def test_trace_tells_each_leg_when_it_is_ntlm(fake, server):
    told = []
    flow = sspi_client.authenticate(SPN, package="NTLM", secur32=fake)
    traced = example("trace").trace(flow, told.append)
    sspi_client.drive(traced, server.accept).close()
    assert [line.split(" bytes")[0].rstrip("0123456789") for line in told] == [
        "1 -> NTLM NEGOTIATE, ", "1 <- NTLM CHALLENGE, ",
        "2 -> NTLM AUTHENTICATE, ", "2 <- no token",
    ]  # fmt: skip
    assert told[0].endswith("SEC_I_CONTINUE_NEEDED") and told[2].endswith("SEC_E_OK")


def test_trace_tells_each_leg_when_it_is_kerberos(fake, server):
    told = []
    flow = sspi_client.authenticate(SPN, secur32=fake)
    sspi_client.drive(example("trace").trace(flow, told.append), server.accept).close()
    assert "Kerberos AP-REQ" in told[0] and "Kerberos AP-REP" in told[1]
    assert told[2] == "2    SEC_E_OK, nothing to send"


def test_trace_shows_no_token_when_it_tells(fake, server):
    told, tokens = [], []

    def exchange(token):
        tokens.append(bytes(token))
        return server.accept(token)

    flow = sspi_client.authenticate(NTLM_SPN, secur32=fake)
    sspi_client.drive(example("trace").trace(flow, told.append), exchange).close()
    everything = "\n".join(told)
    for token in tokens:
        for shown in (token.hex(), repr(token)[2:-1], b64encode(token).decode()):
            assert shown[20:40] not in everything


@pytest.mark.parametrize("end", ["close", "throw", "drop"])
def test_trace_closes_the_flow_when_it_ends_early(end, fake):
    flow = sspi_client.authenticate(SPN, secur32=fake)
    traced = example("trace").trace(flow, lambda line: None)
    next(traced)
    if end == "close":
        traced.close()
    elif end == "throw":
        with pytest.raises(KeyError):
            traced.throw(KeyError("transport"))
    else:
        del traced
    with pytest.raises(StopIteration):
        next(flow)


def test_trace_tells_the_status_when_sspi_refuses(fake):
    told = []
    flow = sspi_client.authenticate("host/nowhere", package="Kerberos", secur32=fake)
    with pytest.raises(SspiError):
        next(example("trace").trace(flow, told.append))
    assert told == ["1 !! SEC_E_TARGET_UNKNOWN from InitializeSecurityContextW"]


@pytest.mark.parametrize("argv", [[], ["NTLM"]])
def test_trace_command_traces_a_logon_when_alone(argv, capsys):
    assert example("trace").main(argv) is None
    assert "NTLM AUTHENTICATE" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["Nonsense", "", "a\0b"])
def test_trace_command_says_one_line_when_package_is_unknown(package):
    assert one_line(example("trace").main([package]), "trace")
