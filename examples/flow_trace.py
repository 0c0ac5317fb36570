"""See what a log-on says: each leg, without a byte of any token.

    python flow_trace.py                       a log-on to a server in this process
    python flow_trace.py --package NTLM

    context = sspi_client.drive(trace(flow), exchange)

The command needs the fake part of sspi_client.py, which a copy may have been cut
off; trace() does not. Standard library and sspi_client only.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, Callable, Generator, Optional, Sequence

import sspi_client


def trace(
    flow: Any, tell: Callable[[str], object] = print
) -> Generator[sspi_client.Token, Optional[bytes], sspi_client.Context]:
    """Do what *flow* does, and tell a line for each leg and its reply.

    Yields, accepts, returns, raises: as the flow.
    Owns: the flow; closing this closes it.
    """
    leg, token, reply = 0, None, None
    try:
        while True:
            leg += 1
            try:
                token = flow.send(reply)
            except StopIteration as done:
                if not (token and token.final):
                    tell(f"{leg}    SEC_E_OK, nothing to send")
                context: sspi_client.Context = done.value
                return context
            status = "SEC_E_OK" if token.final else "SEC_I_CONTINUE_NEEDED"
            tell(f"{leg} -> {describe(token)}, {status}")
            reply = yield token
            tell(f"{leg} <- {describe(reply)}")
    except sspi_client.SspiError as refused:
        tell(f"{leg} !! {refused.name} from {refused.function}")
        raise
    finally:
        flow.close()


def describe(token: Optional[bytes]) -> str:
    if token is None:
        return "no token"
    return f"{sspi_client.mechanism(token)}, {len(token)} bytes"


# -- For people ------------------------------------------------------------------


def printable(text: object) -> str:
    """Escape what a terminal would act upon."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
    encoding = sys.stdout.encoding or "ascii"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flow_trace", description="Trace a log-on to a server in this process."
    )
    parser.add_argument(
        "--package",
        default=sspi_client.NEGOTIATE,
        help="the security package, as Negotiate (default) or NTLM",
    )
    return parser


def main(argv: Optional[Sequence[str]] = None) -> Optional[str]:
    """Trace a log-on that Windows' own secur32 can do too, where there is one.

    Return None, or the one line that says what went wrong.
    """
    told = options().parse_args(argv)
    if not hasattr(sspi_client, "FakeDomain"):
        return "flow_trace: this copy of sspi_client has no fake part to log on to"
    domain = sspi_client.FakeDomain("CORP", {"alice": "Secret123!"})
    secur32 = None if sys.platform == "win32" else sspi_client.FakeSecur32(domain)
    identity = sspi_client.Identity("CORP\\alice", "Secret123!")
    try:
        flow = sspi_client.authenticate(
            "demo/localhost", identity, package=told.package, secur32=secur32
        )
        server = sspi_client.FakeServer(domain)
        context: sspi_client.Context
        context = sspi_client.drive(trace(flow, show), server.accept)
        context.close()
    except (sspi_client.SspiError, ValueError) as problem:
        return f"flow_trace: {printable(problem)}"
    return None


def show(line: str) -> None:
    print(printable(line))


if __name__ == "__main__":
    sys.exit(main())
