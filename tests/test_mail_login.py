"""examples/mail_login.py on the fake, against mail servers of its own on loopback.

The same example meets Dovecot and Exim in lab/test_examples.py.
"""

from base64 import b64decode, b64encode

import pytest
from loopback import (
    BINDINGS,
    PEM,
    HangUp,
    asked_password,
    example,
    ipv6_loopback,
    never_finish,
    one_line,
    serve,
)

import sspi_client
from sspi_client import FakeDomain, FakeServer, SspiError

__all__ = ["asked_password", "ipv6_loopback", "serve"]  # fixtures
SPN = "host/localhost"
MAIL = pytest.mark.parametrize("protocol", ["imap", "smtp"])


@pytest.fixture
def domain():
    users = {"alice": "Secret123!", "bob": "Pä55wörd€"}
    return FakeDomain("CORP", users, [SPN, "imap/localhost", "smtp/localhost"])


def mail_server(protocol, converse, starttls=None, no="no\x1b[31m"):
    """Speak *protocol* until the client authenticates; converse(ask) does that.

    ask(challenge) sends bytes, or text as it is, and returns the response; a list
    of texts is a reply of several lines. starttls: None: there is none; else it is
    answered with "OK" or "NO", and without it nobody may log on.
    """

    def handler(stream):
        def say(text):
            stream.write(text.encode() + b"\r\n")

        def greet_imap():
            while True:
                tag, command = stream.read_line().decode().split(" ", 1)
                if command == "STARTTLS":
                    say(f"{tag} {starttls} go")
                    stream.start_tls() if starttls == "OK" else None
                elif command.startswith("AUTHENTICATE"):
                    return tag
                else:
                    say("* CAPABILITY IMAP4rev1" + " STARTTLS" * bool(starttls))
                    say(f"{tag} OK done")

        def greet_smtp():
            while True:
                command = stream.read_line()
                if command == b"STARTTLS":
                    say("220 go" if starttls == "OK" else "454 4.7.0 \x9bnot now")
                    stream.start_tls() if starttls == "OK" else None
                elif command.startswith(b"AUTH "):
                    return
                else:
                    say("250-localhost")
                    secret = starttls and not stream.tls
                    say("250 STARTTLS" if secret else "250 AUTH NTLM")

        if protocol == "imap":
            say("* OK ready")
            tag = greet_imap()
            go_on, yes = "+ ", f"{tag} OK in"
            refusal = f"{tag} NO [AUTHENTICATIONFAILED] {no}"
        else:
            say("220 ready")
            greet_smtp()
            go_on, yes, refusal = "334 ", "235 in", f"535 5.7.8 {no}"
        if starttls and not stream.tls:
            say(refusal.replace(no, "Must issue a STARTTLS command first"))
            raise HangUp

        def ask(challenge):
            if isinstance(challenge, bytes):
                challenge = b64encode(challenge).decode()
            *before, last = [challenge] if isinstance(challenge, str) else challenge
            for line in before:
                say("334-" + line)
            say(go_on + last)
            return b64decode(stream.read_line(), validate=True)

        try:
            converse(ask)
        except SspiError:
            say(refusal)
        else:
            say(yes)

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
    command = [protocol, "localhost", str(port), "--mechanism", mechanism]
    plain = [] if protocol[4:] or "--ca" in more else ["--no-starttls"]
    return [*command, *plain, *more]


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
    # Exchange's first word is text, though base64 is due.
    asked_password("Pä55wörd€")
    first = "NTLM supported"
    port = serve(mail_server(protocol, ntlm(server, first)))
    command = mail_command(protocol, port, "NTLM", "--user", "CORP\\bob")
    assert example("mail_login").main(command, fake) is None
    assert server.user == "CORP\\bob"


@MAIL
@pytest.mark.parametrize("starttls", [False, True], ids=["implicit", "STARTTLS"])
def test_mail_login_binds_to_the_certificate_when_inside_tls(
    starttls, protocol, domain, fake, serve, capsys
):
    server = FakeServer(domain, BINDINGS)
    handler = mail_server(protocol, gssapi(server), "OK" if starttls else None)
    port = serve(handler, tls=not starttls)
    command = mail_command(protocol + "s" * (not starttls), port, "GSSAPI", "--ca", PEM)
    assert example("mail_login").main(list(map(str, command)), fake) is None
    assert server.complete
    assert capsys.readouterr().out == "localhost lets us in, inside TLS\n"


@MAIL
@pytest.mark.parametrize("starttls", [False, True], ids=["implicit", "STARTTLS"])
def test_mail_login_is_refused_when_the_bindings_are_others(
    starttls, protocol, domain, fake, serve
):
    server = FakeServer(domain, b"tls-server-end-point:" + bytes(32))
    handler = mail_server(protocol, ntlm(server), "OK" if starttls else None)
    port = serve(handler, tls=not starttls)
    command = mail_command(protocol + "s" * (not starttls), port, "NTLM", "--ca", PEM)
    said = example("mail_login").main(list(map(str, command)), fake)
    assert one_line(said, "mail_login") and not server.complete


@MAIL
def test_mail_login_starts_tls_when_not_told_otherwise(protocol, fake, serve):
    # What a server says that wants STARTTLS first is shown, and STARTTLS is default.
    port = serve(mail_server(protocol, ntlm(None), "OK"))
    said = example("mail_login").main(mail_command(protocol, port, "NTLM"), fake)
    assert "Must issue a STARTTLS command first" in said
    port = serve(mail_server(protocol, ntlm(None), "NO"))
    said = example("mail_login").main([protocol, "localhost", str(port)], fake)
    assert one_line(said, "mail_login") and "\x9b" not in said
    port = serve(mail_server(protocol, ntlm(None)))
    said = example("mail_login").main([protocol, "localhost", str(port)], fake)
    assert one_line(said, "mail_login") and "TLS" in said


@MAIL
def test_mail_login_says_one_line_when_certificate_is_not_trusted(
    protocol, fake, serve
):
    port = serve(mail_server(protocol, ntlm(None), "OK"))
    said = example("mail_login").main([protocol, "localhost", str(port)], fake)
    assert one_line(said, "mail_login") and "certificate" in said.lower()


@MAIL
def test_connection_goes_on_when_logged_on(protocol, fake, server, serve):
    module = example("mail_login")
    converse = gssapi(server)

    def handler(stream):
        mail_server(protocol, converse)(stream)
        line = stream.read_line()
        tag, command = line.split() if protocol == "imap" else (b"250", line.upper())
        assert command == b"NOOP"
        stream.write(tag + b" OK done\r\n")

    connection = module.connect(protocol, "localhost", serve(handler), starttls=False)
    module.log_on(connection, "GSSAPI", f"{protocol}/localhost", secur32=fake)
    assert connection.noop()[0] in ("OK", 250)
    if protocol == "imap":
        assert connection.state == "AUTH"
    module.hang_up(connection)


def test_mail_login_logs_on_when_a_challenge_has_two_lines(fake, server, serve):
    def converse(ask):
        challenge = b64encode(server.accept(ask(["NTLM", "supported"]))).decode()
        half = len(challenge) // 2
        assert server.accept(ask([challenge[:half], challenge[half:]])) is None

    port = serve(mail_server("smtp", converse))
    said = example("mail_login").main(mail_command("smtp", port, "NTLM"), fake)
    assert said is None and server.user == "CORP\\alice"


@MAIL
def test_mail_login_shows_the_servers_words_when_it_refuses(
    protocol, fake, server, serve, asked_password
):
    asked_password("wrong")
    port = serve(mail_server(protocol, ntlm(server)))
    command = mail_command(protocol, port, "NTLM", "--user", "CORP\\bob")
    said = example("mail_login").main(command, fake)
    word = "AUTHENTICATIONFAILED" if protocol == "imap" else "535 5.7.8"
    assert word in said and said.endswith("no\\x1b[31m")


@MAIL
def test_mail_login_logs_on_when_host_is_an_ipv6_address(
    protocol, fake, server, serve, ipv6_loopback
):
    port = serve(mail_server(protocol, ntlm(server)), host=ipv6_loopback)
    command = mail_command(protocol, port, "NTLM")
    command[1] = ipv6_loopback
    assert example("mail_login").main(command, fake) is None
    assert server.target in (None, "", f"{protocol}/::1")


def test_command_explains_every_option_when_asked():
    for action in example("mail_login").options()._actions:
        assert action.help, action.dest


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


