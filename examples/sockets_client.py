"""Log on over a plain TCP socket, then talk encrypted.

    python sockets_client.py                          both ends, on this machine
    python sockets_client.py HOST PORT [--spn SPN] [--user USER]

What Microsoft's "Using SSPI with a Windows Sockets Client" shows. Tokens and
messages travel behind their length, 4 bytes little-endian. A server that is
satisfied by a final token sends nothing, and so nothing is read.

1. Connect.
2. Send each token, and read the reply unless the token is final.
3. Tell what was negotiated.
4. Send an encrypted message and read the encrypted answer.
"""

import argparse
import getpass
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import sspi_client

LIMIT = 0x10000  # [bytes] Windows makes no token that is longer than 65,535
LEGS = 10  # three are usual, and a server must not keep us for ever
PATIENCE = 30  # [s] for each answer
NEED = sspi_client.ISC_RET.CONFIDENTIALITY  # else step 4 is impossible


def log_on(connection, target, identity=None, secur32=None):
    """Authenticate on a connected socket and return the Context.

    Raises: SspiError; OSError if the server leaves, announces more than LIMIT
        bytes, or does not come to an end.
    """
    legs = iter(range(LEGS))

    def exchange(token):
        if next(legs, None) is None:
            raise ConnectionError(f"the server wants more than {LEGS} legs")
        send(connection, token)
        return None if token.final else receive(connection)

    flow = sspi_client.authenticate(target, identity, require=NEED, secur32=secur32)
    return sspi_client.drive(flow, exchange)


def send(connection, payload):
    connection.sendall(len(payload).to_bytes(4, "little") + payload)


def receive(connection):
    length = int.from_bytes(read_exactly(connection, 4), "little")
    if length > LIMIT:  # before memory is spent on it
        raise ConnectionError(f"the server announces {length} bytes; too many")
    return read_exactly(connection, length)


def read_exactly(connection, length):
    parts = b""
    while len(parts) < length:
        part = connection.recv(length - len(parts))
        if not part:  # how most servers say no to a final token
            raise ConnectionError("the server closed the connection; refused us?")
        parts += part
    return parts


def talk(address, target, identity=None, secur32=None):
    with socket.create_connection(address, PATIENCE) as connection:  # 1
        with log_on(connection, target, identity, secur32) as context:  # 2
            print(f"{context.package} to {target}")  # 3
            print(f"granted: {context.flags!r}, until {context.expires}")
            send(connection, context.wrap(b"hello"))  # 4
            answer = context.unwrap(receive(connection))
            print(f"encrypted answer ({answer.encrypted}): {bytes(answer)!r}")


def serve_once(listener, domain):
    server, (connection, _) = sspi_client.FakeServer(domain), listener.accept()
    connection.settimeout(PATIENCE)
    with connection:
        while not server.complete:
            reply = server.accept(receive(connection))
            if reply is not None:
                send(connection, reply)
        send(connection, server.wrap(server.unwrap(receive(connection))))


def loopback():
    """Be both ends: this machine's secur32, or the fake one, and FakeServer."""
    domain = sspi_client.FakeDomain("CORP", {"alice": "Secret123!"})
    secur32 = None if sys.platform == "win32" else sspi_client.FakeSecur32(domain)
    print("FakeSecur32" if secur32 else "secur32.dll", "logs on to a FakeServer")
    identity = sspi_client.Identity("CORP\\alice", "Secret123!")
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as on:
        on.submit(serve_once, listener, domain)
        talk(listener.getsockname(), "demo/localhost", identity, secur32)


def main(argv=None, secur32=None):
    """Return None, or the one line that says what went wrong."""
    parser = argparse.ArgumentParser(description="Log on over a plain TCP socket.")
    parser.add_argument("host", nargs="?", help="without one: loopback")
    parser.add_argument("port", nargs="?", type=int, default=0)
    parser.add_argument("--spn", help="default: host/HOST")
    parser.add_argument("--user", help="default: who is logged on")
    told = parser.parse_args(argv)
    try:
        if not told.host:
            return loopback()
        identity = told.user and sspi_client.Identity(told.user, getpass.getpass())
        target = told.spn or sspi_client.spn("host", told.host)
        return talk((told.host, told.port), target, identity or None, secur32)
    except (sspi_client.SspiError, EOFError, OSError, OverflowError, ValueError) as e:
        return f"sockets_client: {e}"


if __name__ == "__main__":
    sys.exit(main())
