"""Log on over a plain TCP socket, then talk encrypted.

    python sockets_client.py                          both ends, on this machine
    python sockets_client.py HOST PORT [--spn SPN] [--user USER]

What Microsoft's "Using SSPI with a Windows Sockets Client" shows. Tokens and
messages travel behind their length, 4 bytes little-endian. A server that is
satisfied by a final token sends nothing, and so nothing is read.

Both ends on this machine need the fake part of sspi_client.py, which a copy may
have been cut off. Standard library and sspi_client only.
"""

from __future__ import annotations

import argparse
import getpass
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional, Sequence, Tuple

import sspi_client

LIMIT = 0x10000  # [bytes] Windows makes no token that is longer than 65,535
LEGS = 10  # three are usual, and a server must not keep us for ever
PATIENCE = 30  # [s] for each answer
NEED = sspi_client.ISC_RET.CONFIDENTIALITY  # else nothing can be said encrypted


def log_on(
    connection: socket.socket,
    target: str,
    identity: Optional[sspi_client.Identity] = None,
    secur32: Any = None,
) -> sspi_client.Context:
    """Authenticate on a connected socket and return the Context.

    Raises: SspiError; OSError if the server leaves, announces more than LIMIT
        bytes, or does not come to an end.
    """
    legs = iter(range(LEGS))

    def exchange(token: sspi_client.Token) -> Optional[bytes]:
        if next(legs, None) is None:
            raise ConnectionError(f"the server wants more than {LEGS} legs")
        send(connection, token)
        return None if token.final else receive(connection)

    flow = sspi_client.authenticate(target, identity, require=NEED, secur32=secur32)
    return sspi_client.drive(flow, exchange)


def send(connection: socket.socket, payload: bytes) -> None:
    connection.sendall(len(payload).to_bytes(4, "little") + payload)


def receive(connection: socket.socket) -> bytes:
    length = int.from_bytes(read_exactly(connection, 4), "little")
    if length > LIMIT:  # before memory is spent on it
        raise ConnectionError(f"the server announces {length} bytes; too many")
    return read_exactly(connection, length)


def read_exactly(connection: socket.socket, length: int) -> bytes:
    parts = b""
    while len(parts) < length:
        part = connection.recv(length - len(parts))
        if not part:  # how most servers say no to a final token
            raise ConnectionError("the server closed the connection; refused us?")
        parts += part
    return parts


def talk(
    address: Tuple[str, int],
    target: str,
    identity: Optional[sspi_client.Identity] = None,
    secur32: Any = None,
) -> None:
    """Log on, tell what was negotiated, and exchange a message each way."""
    with socket.create_connection(address, PATIENCE) as connection:
        with log_on(connection, target, identity, secur32) as context:
            print(f"{context.package} to {target}")
            print(f"granted: {context.flags!r}, until {context.expires}")
            send(connection, context.wrap(b"hello"))
            answer = context.unwrap(receive(connection))
            print(f"encrypted answer ({answer.encrypted}): {bytes(answer)!r}")


def serve_once(listener: socket.socket, domain: Any) -> None:
    server, (connection, _) = sspi_client.FakeServer(domain), listener.accept()
    connection.settimeout(PATIENCE)
    with connection:
        while not server.complete:
            reply = server.accept(receive(connection))
            if reply is not None:
                send(connection, reply)
        send(connection, server.wrap(server.unwrap(receive(connection))))


def loopback() -> None:
    """Be both ends: this machine's secur32, or the fake one, and FakeServer."""
    if not hasattr(sspi_client, "FakeDomain"):
        raise ValueError("this copy of sspi_client has no fake part: name a HOST")
    domain = sspi_client.FakeDomain("CORP", {"alice": "Secret123!"})
    secur32 = None if sys.platform == "win32" else sspi_client.FakeSecur32(domain)
    print("FakeSecur32" if secur32 else "secur32.dll", "logs on to a FakeServer")
    identity = sspi_client.Identity("CORP\\alice", "Secret123!")
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as on:
        on.submit(serve_once, listener, domain)
        talk(listener.getsockname(), "demo/localhost", identity, secur32)


# -- For people ------------------------------------------------------------------


def printable(text: object) -> str:
    """Escape what a terminal would act upon."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
    encoding = sys.stdout.encoding or "ascii"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sockets_client", description="Log on over a plain TCP socket."
    )
    add = parser.add_argument
    add("host", nargs="?", help="a name, or an address of either kind; none: loopback")
    add("port", nargs="?", type=int, default=0, help="where it listens")
    add("--spn", help="default: host/HOST")
    add("--user", help="DOMAIN\\user or user@domain; default: who is logged on")
    return parser


def main(argv: Optional[Sequence[str]] = None, secur32: Any = None) -> Optional[str]:
    """Return None, or the one line that says what went wrong."""
    told = options().parse_args(argv)
    try:
        if not told.host:
            loopback()
            return None
        identity = None
        if told.user:
            identity = sspi_client.Identity(told.user, getpass.getpass())
        host = told.host.strip("[]")  # as addresses are written in a URL
        target = told.spn or sspi_client.spn("host", host)
        talk((host, told.port), target, identity, secur32)
    except (
        sspi_client.SspiError,
        EOFError,
        OSError,
        OverflowError,
        ValueError,
    ) as problem:
        return f"sockets_client: {printable(problem)}"
    return None


if __name__ == "__main__":
    sys.exit(main())
