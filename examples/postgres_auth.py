"""Log on to PostgreSQL with GSS or SSPI authentication, through the pg8000 library.

    python postgres_auth.py db.corp.example --role alice@CORP.EXAMPLE

    with postgres_auth.connect("alice", "db.corp.example", database="sales") as db:
        cursor = db.cursor()
        cursor.execute("select current_user")

pg8000 refuses the authentication messages 7 (GSS), 8 (its continuation) and 9
(SSPI), and has no hook. `Connection` and `NativeConnection` are its dbapi and its
native connection with one method overridden. They log on by GSS or SSPI, or not at
all: a server that asks for a password gets none, and one that lets everybody in
(`trust`) is refused too, since it proved nothing and asked for nothing.

For message 7 the package is Kerberos, for message 9 Negotiate, as in libpq. The
SPN is postgres/HOST, libpq's krbsrvname; a server on Windows may have POSTGRES/HOST.
With ssl_context= all of it travels inside TLS; without, newer releases of pg8000 use
TLS if the server has it, and check no certificate. PostgreSQL looks at no channel
bindings here, and protects nothing with the context, so it is closed after the
logon. Encryption by GSS (hostgssenc) is not spoken.

It needs pg8000 1.17 or later, which began to have both connections. To copy that
beside this file, copy what it imports as well: scramp, with asn1crypto since scramp
1.3, and python-dateutil for newer releases.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import ssl
import struct
import sys
from typing import Any, Optional, Sequence

import pg8000.dbapi  # type: ignore[import-untyped]
import pg8000.native  # type: ignore[import-untyped]
from pg8000.dbapi import Error, InterfaceError

import sspi_client
from sspi_client import ISC_RET

PATIENCE = 30  # [s] for each answer
LEGS = 10
PORT = 5432

# PostgreSQL's protocol, "Message Formats": what follows an R, and their answer.
OK, GSS, GSS_CONTINUE, SSPI = 0, 7, 8, 9
ANSWER = b"p"
OTHERS = {
    2: "Kerberos V5",
    3: "a password in clear",
    5: "a password's MD5",
    6: "SCM credentials",
    10: "a password by SCRAM",
}


class SspiLogon:
    """What both connections have before pg8000's own: the logon.

    target: the SPN; default postgres/HOST. identity: default: who is logged on.
    package: default Kerberos for GSS, Negotiate for SSPI. The others are as
    sspi_client.authenticate() has them; all else is pg8000's.
    Raises: SspiError, pg8000's Error, OSError.
    """

    def __init__(
        self,
        user: str,
        host: str = "localhost",
        *arguments: Any,
        target: Optional[str] = None,
        identity: Optional[sspi_client.Identity] = None,
        package: Optional[str] = None,
        allow_ntlm: bool = True,
        require: int = 0,
        secur32: Any = None,
        **options: Any,
    ) -> None:
        if options.get("password") is not None:
            raise ValueError("this connection knows no password: identity= is for SSPI")
        self._target = target or sspi_client.spn("postgres", host)
        self._identity, self._package = identity, package
        self._how = {"allow_ntlm": allow_ntlm, "require": require, "secur32": secur32}
        self._flow: Any = None
        self._proven, self._legs = False, 0
        self._usock: Any = None
        self._sock: Any = None
        try:
            super().__init__(user, host, *arguments, **options)  # type: ignore
        except BaseException as error:
            parts: Any = (self._sock, self._usock)
            for part in filter(None, parts):
                with contextlib.suppress(OSError):
                    part.close()
            if isinstance(error, struct.error):  # the first releases, at the end
                raise InterfaceError("the server closed the connection") from error
            raise
        finally:
            if self._flow is not None:
                self._flow.close()

    def handle_AUTHENTICATION_REQUEST(self, data: bytes, context: Any) -> None:
        method, reply = int.from_bytes(data[:4], "big"), bytes(data[4:])
        if method in (GSS, SSPI) and self._flow is None:
            usual = sspi_client.KERBEROS if method == GSS else sspi_client.NEGOTIATE
            self._flow = sspi_client.authenticate(
                self._target,
                self._identity,
                package=self._package or usual,
                **self._how,
            )
            self._advance(None)
        elif method == GSS_CONTINUE and self._flow is not None and not self._proven:
            self._advance(reply)
        elif method == OK:
            if not self._proven:
                raise InterfaceError(self._unproven())
        else:
            wanted = OTHERS.get(method, f"authentication by message {method}")
            raise InterfaceError(
                f"the server wants {wanted}, not GSS or SSPI; its pg_hba.conf decides"
                if method not in (GSS, GSS_CONTINUE, SSPI)
                else "the server sent an authentication message out of turn"
            )

    def _advance(self, reply: Optional[bytes]) -> None:
        """Feed the server's token to SSPI, and send ours if there is one."""
        self._legs += 1
        if self._legs > LEGS:
            raise InterfaceError(f"the server wants more than {LEGS} legs")
        try:
            token = self._flow.send(reply)
            self._send(token)
            if token.final:  # the server has nothing to answer
                self._flow.send(None)
        except StopIteration as done:
            done.value.close()  # PostgreSQL uses it for the logon alone
            self._proven = True

    def _send(self, token: bytes) -> None:
        # Not pg8000's _send_message(): its first releases add a Flush message.
        self._sock.write(ANSWER + (len(token) + 4).to_bytes(4, "big") + bytes(token))
        self._sock.flush()

    def _unproven(self) -> str:
        if self._flow is None:
            return "the server asks for no logon (`trust` in its pg_hba.conf?)"
        return "the server let us in before it proved itself"


class Connection(SspiLogon, pg8000.dbapi.Connection):  # type: ignore[misc]
    """pg8000.dbapi.Connection that logs on with SSPI."""


class NativeConnection(SspiLogon, pg8000.native.Connection):  # type: ignore[misc]
    """pg8000.native.Connection that logs on with SSPI."""


def connect(user: str, host: str = "localhost", **options: Any) -> Connection:
    """Return a dbapi connection. *user* is the role to be, with its realm if any."""
    return Connection(user, host, **options)


# -- For people ------------------------------------------------------------------


def printable(text: object) -> str:
    """Escape what a terminal would act upon: a server chose these characters."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
    encoding = sys.stdout.encoding or "ascii"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def words(problem: BaseException) -> str:
    """Return the server's message, which pg8000 keeps in a dict, or the error's own."""
    told = problem.args[0] if problem.args else ""
    if isinstance(told, dict):
        told = ": ".join(filter(None, (told.get("S"), told.get("M"))))
    elif isinstance(told, bytes):
        told = told.decode("utf-8", "backslashreplace")
    return str(told) or repr(problem)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="postgres_auth", description="Ask PostgreSQL something, as who we are."
    )
    add = parser.add_argument
    add("host", help="the server, by the name that its SPN has")
    add("--port", type=int, default=PORT, help="default: %(default)s")
    add("--database", default="postgres", help="default: %(default)s")
    add(
        "--role",
        help="whom to be in the database, with the realm if the server includes it;"
        " default: the user's name alone",
    )
    add("--user", help="DOMAIN\\user or user@domain; default: who is logged on")
    add("--spn", help="default: postgres/HOST")
    add(
        "--package",
        choices=[sspi_client.NEGOTIATE, sspi_client.KERBEROS, sspi_client.NTLM],
        help="default: Kerberos for GSS, Negotiate for SSPI",
    )
    add("--no-ntlm", action="store_true", help="Kerberos or nothing, mutually proven")
    add("--tls", action="store_true", help="demand TLS, and the server's certificate")
    add("--ca", metavar="PEM", help="whom to trust in TLS; default: as the system does")
    add("--query", default="select current_user", help="default: %(default)s")
    add("--timeout", type=int, default=PATIENCE, help="for an answer [s], %(default)s")
    return parser


def run(told: argparse.Namespace, secur32: Any) -> None:
    identity = None
    if told.user:
        identity = sspi_client.Identity(told.user, getpass.getpass())
    role = told.role or (told.user or getpass.getuser()).split("\\")[-1].split("@")[0]
    connection = connect(
        role,
        told.host,
        port=told.port,
        database=told.database,
        target=told.spn,
        identity=identity,
        package=told.package,
        allow_ntlm=not told.no_ntlm,
        require=ISC_RET.MUTUAL_AUTH if told.no_ntlm else 0,
        ssl_context=ssl.create_default_context(cafile=told.ca) if told.tls else None,
        timeout=told.timeout,
        secur32=secur32,
    )
    with contextlib.closing(connection):
        cursor = connection.cursor()
        cursor.execute(told.query)
        for row in cursor.fetchall() if cursor.description else ():
            print(printable("\t".join(map(str, row))))


def main(argv: Optional[Sequence[str]] = None, secur32: Any = None) -> Optional[str]:
    """Return None, or what went wrong in one line."""
    told = options().parse_args(argv)
    told.host = told.host.strip("[]")  # as addresses are written in a URL
    try:
        run(told, secur32)
    except Error as problem:
        return f"postgres_auth: {printable(words(problem))}"
    except (sspi_client.SspiError, OSError, ValueError) as problem:
        return f"postgres_auth: {printable(problem)}"
    return None


if __name__ == "__main__":
    sys.exit(main())
