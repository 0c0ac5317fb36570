"""Log on to a mail server: IMAP or SMTP, AUTH GSSAPI (Kerberos) or NTLM.

    python mail_login.py imap|imaps|smtp|smtps HOST PORT [--mechanism NTLM]

imaplib lets us answer in bytes. smtplib's auth() takes text only, so use docmd().

1. Let the server's first word pass, and answer with tokens until SSPI is done.
2. GSSAPI: agree that no security layer follows (RFC 4752 3.1).
3. When the server lets us in, see that we too are satisfied with the server.
"""

import argparse
import contextlib
import getpass
import imaplib
import smtplib
import socket
import ssl
import sys
from base64 import b64decode, b64encode

import sspi_client

PACKAGES = {"GSSAPI": sspi_client.KERBEROS, "NTLM": sspi_client.NTLM}
CONNECT = {
    "imap": imaplib.IMAP4,  # port 143
    "imaps": lambda *at: imaplib.IMAP4_SSL(*at, ssl_context=TLS),  # 993
    "smtp": smtplib.SMTP,  # 587
    "smtps": lambda *at: smtplib.SMTP_SSL(*at, context=TLS),  # 465
}
TLS = ssl.create_default_context()
NO_LAYER, LEGS = 1, 10  # RFC 4752 3.3; 2 is integrity, 4 confidentiality


def sasl(mechanism, flow):
    """Say the client's part of SASL, in mail, LDAP or elsewhere.

    Yields: b"", then each response [bytes]. Accepts: the server's first word, each
        challenge [bytes], None when the server lets us in; there it ends.
    Raises: SspiError; ConnectionError if the server wants more than there is.
    """
    try:
        yield b""  # 1: it says nothing, or Exchange's "NTLM supported"
        reply = None
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
            reply = yield no_layer(context, reply or b"")  # 2
        if reply is not None:
            raise ConnectionError("the server wants more than there is to say")


def no_layer(context, challenge, authzid=b""):
    """Answer the wrapped offer of security layers: none, please. Raises: as sasl()."""
    offer = context.unwrap(challenge)  # layers, then the server's maximum size
    if len(offer) != 4 or not offer[0] & NO_LAYER:
        raise ConnectionError("the server insists on a security layer")
    return context.wrap(bytes([NO_LAYER, 0, 0, 0]) + authzid, encrypt=False)


def smtp_say(smtp, mechanism, talk):
    smtp.ehlo_or_helo_if_needed()
    # No token in the first line: it may be too long for a command.
    (code, _), challenge = smtp.docmd("AUTH", mechanism), b""
    while code == 334:
        code, text = smtp.docmd(b64encode(talk.send(challenge)).decode())
        challenge = b64decode(text, validate=True) if code == 334 else b""
    if code != 235:
        raise smtplib.SMTPAuthenticationError(code, "the server refuses us")


def log_on(server, mechanism, target, identity=None, secur32=None):
    """Log on. Raises: as sasl(); ValueError for bad base64; IMAP4.error, OSError."""
    certificate = getattr(server.sock, "getpeercert", lambda binary: None)(True)
    bindings = certificate and sspi_client.tls_server_end_point(certificate)
    how = {"package": PACKAGES[mechanism], "channel_bindings": bindings}
    flow = sspi_client.authenticate(target, identity, secur32=secur32, **how)
    with contextlib.closing(sasl(mechanism, flow)) as talk:
        next(talk)
        if isinstance(server, imaplib.IMAP4):
            server.authenticate(mechanism, talk.send)
        else:
            smtp_say(server, mechanism, talk)
        for _ in talk:  # 3: it ends here, or knows why not
            raise ConnectionError("the server lets us in before we said a word")


def main(argv=None, secur32=None):
    """Return None, or the one line that says what went wrong."""
    parser = argparse.ArgumentParser(description="Log on to a mail server.")
    parser.add_argument("protocol", choices=CONNECT)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--mechanism", choices=PACKAGES, default="GSSAPI")
    parser.add_argument("--spn", help="default: imap/HOST, smtp/HOST")
    parser.add_argument("--user", help="default: who is logged on")
    told = parser.parse_args(argv)
    target = told.spn or f"{told.protocol[:4]}/{told.host}"
    socket.setdefaulttimeout(30)  # [s]; IMAP4 has no timeout of its own in 3.8
    try:
        who = told.user and sspi_client.Identity(told.user, getpass.getpass())
        server = CONNECT[told.protocol](told.host, told.port)
        with contextlib.closing(server.sock):
            log_on(server, told.mechanism, target, who or None, secur32)
    except (sspi_client.SspiError, OSError, ValueError, imaplib.IMAP4.error) as problem:
        return f"mail_login: {problem}"
    print(f"{told.host} lets us in")


if __name__ == "__main__":
    sys.exit(main())
