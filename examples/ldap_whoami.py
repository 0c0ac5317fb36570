"""Ask a domain controller who we are: LDAP through the ldap3 library.

    python ldap_whoami.py HOST [--tls [--ca PEM]] [--user USER]

1. Connect. Inside TLS, take bindings from the server's certificate.
2. Bind with GSS-SPNEGO, one bindRequest for each token.
3. Without TLS, on port 389, seal all that follows (RFC 4422 3.7).
4. Ask for our name (RFC 4532).
"""

import argparse
import getpass
import ssl
import sys

import ldap3
from ldap3.core.exceptions import LDAPBindError, LDAPException
from ldap3.protocol.sasl.sasl import send_sasl_negotiation  # no public way in

import sspi_client

LIMIT = 10 << 20  # [bytes] what Active Directory takes in one piece, by default
LEGS, PATIENCE = 10, 30  # PATIENCE in [s]


class SealedSocket:
    """A socket whose messages are sealed behind a length, 4 bytes big-endian."""

    def __init__(self, connected, context):
        self._socket, self._context, self._clear = connected, context, b""

    def sendall(self, message):
        blob = self._context.wrap(message)
        self._socket.sendall(len(blob).to_bytes(4, "big") + blob)

    def recv(self, size):
        if not self._clear:
            length = int.from_bytes(self._read(4), "big")
            if length > LIMIT:  # before memory is spent on it
                raise ConnectionError(f"the server announces {length} bytes")
            self._clear = bytes(self._context.unwrap(self._read(length)))
        part, self._clear = self._clear[:size], self._clear[size:]
        return part

    def _read(self, length):
        parts = b""
        while len(parts) < length:
            part = self._socket.recv(length - len(parts))
            if not part:
                raise ConnectionError("the server closed the connection")
            parts += part
        return parts

    def __getattr__(self, name):  # close() and all else: as it was
        return getattr(self._socket, name)


def bind(connection, target, identity=None, secur32=None):
    """Bind an open connection, return the Context. Raises: SspiError, LDAPException."""
    how = {"require": sspi_client.ISC_RET.CONFIDENTIALITY}
    if connection.server.ssl:  # 1; and servers refuse to seal inside TLS
        bindings = sspi_client.tls_server_end_point(connection.socket.getpeercert(True))
        flags = sspi_client.ISC_REQ.MUTUAL_AUTH | sspi_client.ISC_REQ.NO_INTEGRITY
        how = {"flags": flags, "channel_bindings": bindings}
    connection.sasl_mechanism, results = "GSS-SPNEGO", []

    def exchange(token):  # 2
        if len(results) == LEGS:
            raise LDAPBindError(f"the server wants more than {LEGS} legs")
        results.append(send_sasl_negotiation(connection, None, bytes(token)))
        if results[-1]["result"] not in (0, 14):  # RFC 4511: saslBindInProgress
            raise LDAPBindError("{description}: {message}".format(**results[-1]))
        return results[-1]["saslCreds"] or None

    flow = sspi_client.authenticate(target, identity, secur32=secur32, **how)
    context = sspi_client.drive(flow, exchange)
    if results[-1]["result"] != 0:
        context.close()
        raise LDAPBindError("the server wants more than SSPI has to say")
    if not connection.server.ssl:  # 3
        connection.socket = SealedSocket(connection.socket, context)
    connection.bound = True
    return context


def whoami(host, port=389, tls=None, identity=None, secur32=None):
    """Return the name that the server has for us. *tls*: an ldap3.Tls or None."""
    server = ldap3.Server(host, port, bool(tls), tls=tls, get_info=ldap3.NONE)
    connection = ldap3.Connection(server, receive_timeout=PATIENCE)
    try:
        connection.open()  # 1
        with bind(connection, sspi_client.spn("ldap", host), identity, secur32):
            name = connection.extend.standard.who_am_i()  # 4
            if name is None:  # Samba 4.17 does not know this request
                raise LDAPException(f"who am I: {connection.result['description']}")
            return name
    finally:
        connection.strategy.close()


def main(argv=None, secur32=None):
    """Return None, or what went wrong in one line."""
    parser = argparse.ArgumentParser(description="Ask LDAP who we are.")
    parser.add_argument("host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--ca", metavar="PEM", help="default: whom the system trusts")
    parser.add_argument("--user", help="default: who is logged on")
    told = parser.parse_args(argv)
    try:
        identity = told.user and sspi_client.Identity(told.user, getpass.getpass())
        tls = told.tls and ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=told.ca)
        port = told.port or (636 if tls else 389)
        print(whoami(told.host, port, tls, identity or None, secur32))
    except (sspi_client.SspiError, LDAPException, OSError, ValueError) as problem:
        return f"ldap_whoami: {problem}"


if __name__ == "__main__":
    sys.exit(main())
