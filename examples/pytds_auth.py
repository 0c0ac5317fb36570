"""Give python-tds a correct SSPI: pytds.connect(..., auth=SspiAuth(target)).

    python pytds_auth.py db.corp.example
    python pytds_auth.py db.corp.example --instance SALES

python-tds calls three methods: create_packet() for the token in LOGIN7 (MS-TDS
2.2.6.4), handle_next() with each token of the server (0xED), and close(). Unlike its
own SspiAuth this one takes explicit credentials of any form, tokens of any length
and channel bindings, notices when SSPI refuses, and gives every handle back.

The target is "MSSQLSvc/HOST:PORT", or "MSSQLSvc/HOST:INSTANCE" for a named instance
that registered itself by name. No DNS is asked: write the name that the server is
registered by.

What it cannot do, since python-tds has no hook for it:
- Routing (ENVCHANGE 20, as read-only replicas and Azure have it) leads to a second
  server, and python-tds re-makes the SPN for its own SspiAuth only: ours still
  names the gateway, so the second server refuses the ticket, or lets NTLM in.
  Connect to the second server itself, or use NTLM knowingly.
- Channel bindings must be given by hand: python-tds does not show the certificate
  of its TLS before it asks for the first token. A server with Extended Protection
  set to "required" needs them.

It needs python-tds (1.17 was tried).
"""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import Any, Optional, Sequence

import sspi_client

LEGS = 10
PORT = 1433
PATIENCE = 30  # [s]


class SspiAuth:
    """For one connection at a time; a new LOGIN7 starts over.

    complete: whether SSPI is satisfied with the server, which MUTUAL_AUTH makes
        more than a formality. Look at it after connecting.
    """

    def __init__(
        self,
        target: str,
        identity: Optional[sspi_client.Identity] = None,
        *,
        package: str = sspi_client.NEGOTIATE,
        allow_ntlm: bool = True,
        require: int = 0,
        channel_bindings: Optional[bytes] = None,
        secur32: Any = None,
    ) -> None:
        self.complete = False
        self._who = (target, identity)
        self._how = {
            "package": package,
            "allow_ntlm": allow_ntlm,
            "require": require,
            "channel_bindings": channel_bindings,
            "flags": sspi_client.DEFAULT_FLAGS | sspi_client.ISC_REQ.CONNECTION,
            "secur32": secur32,
        }
        self._flow: Any = None
        self._legs = 0

    def create_packet(self) -> bytes:
        """Return the first token. Raises: SspiError."""
        self.close()  # python-tds tries again with the same object
        self.complete, self._legs = False, 0
        self._flow = sspi_client.authenticate(*self._who, **self._how)
        return self._advance(None) or b""

    def handle_next(self, packet: bytes) -> Optional[bytes]:
        """Return our answer, or None if there is none. Raises: SspiError."""
        self._legs += 1
        if self._flow is None or self._legs > LEGS:
            self.close()
            raise ConnectionError("the server sent an SSPI token out of turn")
        return self._advance(packet)

    def close(self) -> None:
        """Give back what is held; closing twice is closing once."""
        if self._flow is not None:
            self._flow.close()
        self._flow = None

    def _advance(self, reply: Optional[bytes]) -> Optional[bytes]:
        try:
            token = self._flow.send(reply)
        except StopIteration as done:
            done.value.close()  # TDS uses it for the log-on alone
            self.complete = True
            return None
        self.complete = token.final
        return bytes(token)


def target_of(host: str, port: Optional[int] = None, instance: str = "") -> str:
    r"""Return the SPN of a SQL Server. Raises: ValueError, for HOST\INSTANCE too."""
    if not instance:
        return sspi_client.spn("MSSQLSvc", host, port or PORT)
    if not instance.replace("_", "").replace("$", "").isalnum():
        raise ValueError(f"no instance is called {instance!r}")
    return f"{sspi_client.spn('MSSQLSvc', host)}:{instance}"


# -- For people ------------------------------------------------------------------


def printable(text: object) -> str:
    """Escape what a terminal would act upon: a server chose these characters."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
    encoding = sys.stdout.encoding or "ascii"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pytds_auth", description="Ask a SQL Server who we are."
    )
    add = parser.add_argument
    add("host", help="the server, by the name that its SPN has")
    add("--port", type=int, help=f"default: {PORT}, or what the instance listens on")
    add("--instance", default="", help="a named instance, looked up by UDP 1434")
    add("--spn", help="default: MSSQLSvc/HOST:PORT or MSSQLSvc/HOST:INSTANCE")
    add("--user", help="DOMAIN\\user or user@domain; default: who is logged on")
    add("--no-ntlm", action="store_true", help="Kerberos or nothing, mutually proven")
    add("--timeout", type=int, default=PATIENCE, help="for an answer [s], %(default)s")
    return parser


def main(argv: Optional[Sequence[str]] = None, secur32: Any = None) -> Optional[str]:
    """Return None, or the one line that says what went wrong."""
    told = options().parse_args(argv)
    told.host = told.host.strip("[]")  # as addresses are written in a URL
    import pytds  # type: ignore[import-untyped]

    try:
        identity = None
        if told.user:
            identity = sspi_client.Identity(told.user, getpass.getpass())
        auth = SspiAuth(
            told.spn or target_of(told.host, told.port, told.instance),
            identity,
            allow_ntlm=not told.no_ntlm,
            require=sspi_client.ISC_RET.MUTUAL_AUTH if told.no_ntlm else 0,
            secur32=secur32,
        )
        server, port = told.host, told.port or PORT
        if told.instance and not told.port:  # python-tds asks where it listens
            server, port = f"{told.host}\\{told.instance}", None
        with pytds.connect(
            server,
            port=port,
            auth=auth,
            timeout=told.timeout,
            login_timeout=told.timeout,
        ) as connection:
            with connection.cursor() as cursor:
                cursor.execute("SELECT SUSER_SNAME()")
                row = cursor.fetchone()
        print(printable(row[0] if row else None))
        print("the server proved itself" if auth.complete else "unproven server")
    except (sspi_client.SspiError, pytds.Error, OSError, ValueError) as problem:
        return f"pytds_auth: {printable(str(problem) or repr(problem))}"
    return None


if __name__ == "__main__":
    sys.exit(main())
