"""Servers on loopback for the tests of the examples: one handler for each client.

What needs a library of others is skipped without it, unless
SSPI_CLIENT_EXAMPLES=required is set: then it fails.
"""

import contextlib
import getpass
import importlib.util
import os
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sspi_client

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PEM = Path(__file__).resolve().parent / "data" / "localhost.pem"  # for show
CERTIFICATE = PEM.read_text()[PEM.read_text().index("-----BEGIN CERTIFICATE") :]
BINDINGS = sspi_client.tls_server_end_point(
    ssl.PEM_cert_to_DER_cert(CERTIFICATE.partition("-----BEGIN PRIVATE")[0])
)
PATIENCE = 20  # [s]


def needs(library):
    """Skip without *library*, unless examples are required: then it fails."""
    absent = importlib.util.find_spec(library) is None
    required = os.environ.get("SSPI_CLIENT_EXAMPLES") == "required"
    return pytest.mark.skipif(
        absent and not required, reason=f"{library} is not installed"
    )


def example(name):
    """Import an example anew."""
    path = EXAMPLES / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_line(said, name):
    """Whether a command ended with a line, and not with a traceback."""
    said = said or ""
    return said.startswith(f"{name}: ") and len(said.splitlines()) == 1


def never_finish(fake):
    """Let SSPI go on for ever."""
    plan = getattr(fake, "inject", None) or fake.plan
    for call in range(1, 110):
        status, token = sspi_client.SEC_I_CONTINUE_NEEDED, b"leg %d" % call
        plan("InitializeSecurityContextW", status, token, call)


class HangUp(Exception):
    """Raised by a handler that wants to close the connection first."""


class Stream:
    """A server's end of a connection, which may start TLS at any time."""

    def __init__(self, connection):
        self.connection, self.tls = connection, False

    def start_tls(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(str(PEM))
        try:
            self.connection = context.wrap_socket(self.connection, server_side=True)
        except OSError:  # the client does not trust us
            raise HangUp from None
        self.tls = True

    def read(self, length):
        """Return exactly *length* bytes. Raises: HangUp if the client has gone."""
        octets = bytearray()
        while len(octets) < length:
            part = self.connection.recv(min(length - len(octets), 1 << 16))
            if not part:
                raise HangUp
            octets += part
        return bytes(octets)

    def read_line(self):
        line = b""
        while not line.endswith(b"\n"):
            line += self.read(1)
        return line.rstrip(b"\r\n")

    def write(self, octets):
        self.connection.sendall(octets)

    def drain(self):
        """Read until the client closes."""
        while self.connection.recv(1 << 16):
            pass


@pytest.fixture
def serve():
    """A function that lets *handler* serve clients in a thread; returns the port.

    At the end the clients must have closed their sockets, and no handler failed.
    """

    def attend(listener, handler, tls, clients):
        for _ in range(clients):
            connection, _ = listener.accept()
            connection.settimeout(PATIENCE)
            stream = Stream(connection)
            try:
                if tls:
                    stream.start_tls()
                handler(stream)
                stream.drain()
            except (HangUp, ConnectionError, ssl.SSLError):
                pass
            finally:
                stream.connection.close()

    with contextlib.ExitStack() as stack:

        def start(handler, tls=False, clients=1, host="127.0.0.1"):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = stack.enter_context(
                socket.create_server((host, 0), family=family)
            )
            listener.settimeout(PATIENCE)
            pool = stack.enter_context(ThreadPoolExecutor(1, "server"))
            outcome = pool.submit(attend, listener, handler, tls, clients)
            stack.callback(outcome.result, PATIENCE)
            return listener.getsockname()[1]

        yield start


@pytest.fixture
def ipv6_loopback():
    """The address ::1, where this machine has it."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return "::1"
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")


@pytest.fixture
def asked_password(mocker):
    """A function that sets what getpass() will answer."""
    return lambda word: mocker.patch.object(getpass, "getpass", return_value=word)
