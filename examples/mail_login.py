"""Log on to a mail server: IMAP or SMTP, AUTH GSSAPI (Kerberos) or NTLM.

    python mail_login.py smtp mail.corp.example          STARTTLS on port 587
    python mail_login.py imap mail.corp.example          STARTTLS on port 143
    python mail_login.py smtps|imaps mail.corp.example   TLS on port 465 or 993

`log_on` works on a connection of imaplib or smtplib that a program has made, and
leaves it ready for use:

    with smtplib.SMTP("mail.corp.example", 587) as smtp:
        smtp.starttls(context=ssl.create_default_context())
        log_on(smtp, "GSSAPI", "smtp/mail.corp.example")
        smtp.send_message(message)

Inside TLS the logon is bound to the server's certificate (RFC 5929), whether TLS
was there from the start or came with STARTTLS. GSSAPI is SASL's (RFC 4752): after
Kerberos the two agree that no further layer follows. Exchange asks for NTLM.

smtplib's auth() answers in text only, hence docmd().
Standard library and sspi_client only.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import imaplib
import smtplib
import socket
import ssl
import sys
from base64 import b64decode, b64encode
from typing import Any, Generator, Optional, Sequence, Union

import sspi_client

Server = Union[imaplib.IMAP4, smtplib.SMTP]
Talk = Generator[bytes, Optional[bytes], None]

PACKAGES = {"GSSAPI": sspi_client.KERBEROS, "NTLM": sspi_client.NTLM}
PORTS = {"imap": 143, "imaps": 993, "smtp": 587, "smtps": 465}
PATIENCE = 30  # [s] for each answer
NO_LAYER, LEGS = 1, 10  # RFC 4752 3.3; 2 is integrity, 4 confidentiality


class Refused(ConnectionError):
    """The server does not let us in; the message has its own words."""


def sasl(mechanism: str, flow: Any) -> Talk:
    """Say the client's part of SASL, in mail, LDAP or elsewhere.

    Yields: b"", then each response [bytes]. Accepts: the server's first word, each
        challenge [bytes], None when the server lets us in; there it ends.
    Raises: SspiError; ConnectionError if the server wants more than there is.
    """
    try:
        yield b""  # the server says nothing, or Exchange's "NTLM supported"
        reply: Optional[bytes] = None
        for _ in range(LEGS):
            token = flow.send(reply)
            reply = yield token
        raise ConnectionError(f"the server wants more than {LEGS} legs")
    except StopIteration as done:
        context = done.value
    finally:
        flow.close()
    with context:
        if not token.final:  # the server spoke last, and waits for a word
            reply = yield b""
        if mechanism == "GSSAPI":
            reply = yield no_layer(context, reply or b"")
        if reply is not None:
            raise ConnectionError("the server wants more than there is to say")


def no_layer(
    context: sspi_client.Context, challenge: bytes, authzid: bytes = b""
) -> bytes:
    """Answer the wrapped offer of security layers: none, please. Raises: as sasl()."""
    offer = context.unwrap(challenge)  # layers, then the server's maximum size
    if len(offer) != 4 or not offer[0] & NO_LAYER:
        raise ConnectionError("the server insists on a security layer")
    return context.wrap(bytes([NO_LAYER, 0, 0, 0]) + authzid, encrypt=False)


def log_on(
    server: Server,
    mechanism: str,
    target: str,
    identity: Optional[sspi_client.Identity] = None,
    *,
    require: int = 0,
    secur32: Any = None,
) -> None:
    """Log on to a connected server, which must have TLS by now if it is to have it.

    Raises: SspiError, Refused, ValueError for what is not base64, imaplib's and
        smtplib's errors, OSError.
    """
    certificate = None
    if isinstance(server.sock, ssl.SSLSocket):
        certificate = server.sock.getpeercert(True)
    bindings = certificate and sspi_client.tls_server_end_point(certificate)
    flow = sspi_client.authenticate(
        target,
        identity,
        package=PACKAGES[mechanism],
        require=require,
        channel_bindings=bindings,
        secur32=secur32,
    )
    with contextlib.closing(sasl(mechanism, flow)) as talk:
        next(talk)
        if isinstance(server, imaplib.IMAP4):
            converse_imap(server, mechanism, talk)
        else:
            converse_smtp(server, mechanism, talk)
        for _ in talk:  # it ends here, or knows why not
            raise ConnectionError("the server lets us in before we said a word")


class Responder:
    """What imaplib asks for each response. It wants a bound method for that.

    Its own authenticate() takes every challenge for base64, and the first word of
    Exchange is text: "+ NTLM supported".
    """

    def __init__(self, talk: Talk) -> None:
        self.talk, self.first = talk, True

    def respond(self, challenge: bytes) -> bytes:
        said = b"" if self.first else b64decode(challenge, validate=True)
        self.first = False
        return b64encode(self.talk.send(said))


def converse_imap(imap: Any, mechanism: str, talk: Talk) -> None:
    imap.literal = Responder(talk).respond
    try:
        answer, said = imap._simple_command("AUTHENTICATE", mechanism)
    except imaplib.IMAP4.abort:
        raise  # the connection broke
    except imaplib.IMAP4.error as error:
        raise Refused(f"the server says: {words(*error.args)}") from None
    if answer != "OK":
        raise Refused(f"the server says: {answer} {words(*said)}")
    imap.state = "AUTH"


def converse_smtp(smtp: smtplib.SMTP, mechanism: str, talk: Talk) -> None:
    smtp.ehlo_or_helo_if_needed()
    # No token in the first line: it may be too long for a command.
    code, text = smtp.docmd("AUTH", mechanism)
    challenge = b""
    while code == 334:
        code, text = smtp.docmd(b64encode(talk.send(challenge)).decode("ascii"))
        if code == 334:  # of more than one line, too, RFC 5321 4.2.1
            challenge = b64decode(b"".join(text.split()), validate=True)
    if code != 235:
        raise Refused(f"the server says: {code} {words(text)}")


def words(*said: object) -> str:
    """Make text of what a server said."""
    parts = [
        each.decode("utf-8", "backslashreplace") if isinstance(each, bytes) else each
        for each in said
    ]
    return " ".join(" ".join(map(str, parts)).split("\n"))


def connect(
    protocol: str,
    host: str,
    port: Optional[int] = None,
    *,
    tls: Optional[ssl.SSLContext] = None,
    starttls: bool = True,
    timeout: float = PATIENCE,
) -> Server:
    """Connect, and start TLS where the protocol does not begin with it.

    Raises: OSError, imaplib's and smtplib's errors; ssl.SSLError among them.
    """
    port = port or PORTS[protocol]
    tls = tls or ssl.create_default_context()
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)  # IMAP4 has no timeout of its own in 3.8
    try:
        if protocol == "imaps":
            return imaplib.IMAP4_SSL(host, port, ssl_context=tls)
        if protocol == "smtps":
            return smtplib.SMTP_SSL(host, port, context=tls)
        server: Server
        if protocol == "imap":
            server = imaplib.IMAP4(host, port)
        else:
            server = smtplib.SMTP(host, port)
        if starttls:
            try:
                start_tls(server, tls)
            except BaseException:
                hang_up(server)
                raise
        return server
    finally:
        socket.setdefaulttimeout(before)


def start_tls(server: Server, tls: ssl.SSLContext) -> None:
    if isinstance(server, imaplib.IMAP4):
        server.starttls(tls)
        return
    server.ehlo_or_helo_if_needed()
    code, text = server.starttls(context=tls)
    if code != 220:
        raise Refused(f"the server starts no TLS: {code} {words(text)}")


def hang_up(server: Server) -> None:
    """Close without another word: the server may not listen any more."""
    with contextlib.suppress(OSError):
        server.shutdown() if isinstance(server, imaplib.IMAP4) else server.close()


# -- For people ------------------------------------------------------------------


def printable(text: object) -> str:
    """Escape what a terminal would act upon: a server chose these characters."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
    encoding = sys.stdout.encoding or "ascii"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mail_login", description="Log on to a mail server, and no more."
    )
    add = parser.add_argument
    add("protocol", choices=list(PORTS), help="imaps, smtps: TLS from the first byte")
    add("host", help="the server, by the name that its certificate and its SPN have")
    add("port", nargs="?", type=int, help="default: 143, 993, 587, 465")
    add(
        "--mechanism",
        choices=list(PACKAGES),
        default="GSSAPI",
        help="GSSAPI is Kerberos (default); Exchange has NTLM",
    )
    add(
        "--no-starttls",
        action="store_true",
        help="with imap or smtp: log on without TLS, where anybody may read along",
    )
    add("--ca", metavar="PEM", help="whom to trust in TLS; default: as the system does")
    add("--user", help="DOMAIN\\user or user@domain; default: who is logged on")
    add("--spn", help="default: imap/HOST or smtp/HOST")
    add("--timeout", type=float, default=PATIENCE, help="of an answer [s], %(default)s")
    return parser


def main(argv: Optional[Sequence[str]] = None, secur32: Any = None) -> Optional[str]:
    """Return None, or the one line that says what went wrong."""
    told = options().parse_args(argv)
    told.host = told.host.strip("[]")  # as addresses are written in a URL
    try:
        identity = None
        if told.user:
            identity = sspi_client.Identity(told.user, getpass.getpass())
        target = told.spn or sspi_client.spn(told.protocol[:4], told.host)
        server = connect(
            told.protocol,
            told.host,
            told.port,
            tls=ssl.create_default_context(cafile=told.ca),
            starttls=not told.no_starttls,
            timeout=told.timeout,
        )
        secured = ", inside TLS" if isinstance(server.sock, ssl.SSLSocket) else ""
        try:
            log_on(server, told.mechanism, target, identity, secur32=secur32)
        finally:
            hang_up(server)
    except smtplib.SMTPResponseException as problem:
        said = f"{problem.smtp_code} {words(problem.smtp_error)}"
        return f"mail_login: the server says: {printable(said)}"
    except (
        sspi_client.SspiError,
        OSError,
        OverflowError,
        ValueError,
        imaplib.IMAP4.error,
    ) as problem:
        return f"mail_login: {printable(problem)}"
    print(f"{printable(told.host)} lets us in{secured}")
    return None


if __name__ == "__main__":
    sys.exit(main())
