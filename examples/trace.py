"""See what a log-on says: each leg, without a byte of any token.

    python trace.py [PACKAGE]

    context = sspi_client.drive(trace(flow), exchange)

1. Pass what the flow yields on, and what it is sent back to it.
2. Tell the direction, what the token is, its length, and what SSPI said.
3. Close the flow whenever this ends: it holds handles.
"""

import sys

import sspi_client


def trace(flow, tell=print):
    """Do what *flow* does, and tell a line for each leg and its reply.

    Yields, accepts, returns, raises: as the flow.
    Owns: the flow; closing this closes it.
    """
    leg, token, reply = 0, None, None
    try:
        while True:
            leg += 1
            try:
                token = flow.send(reply)  # 1
            except StopIteration as done:
                if not (token and token.final):
                    tell(f"{leg}    SEC_E_OK, nothing to send")
                return done.value
            status = "SEC_E_OK" if token.final else "SEC_I_CONTINUE_NEEDED"
            tell(f"{leg} -> {describe(token)}, {status}")  # 2
            reply = yield token
            tell(f"{leg} <- {describe(reply)}")
    except sspi_client.SspiError as refused:
        tell(f"{leg} !! {refused.name} from {refused.function}")
        raise
    finally:
        flow.close()  # 3


def describe(token):
    if token is None:
        return "no token"
    return f"{sspi_client.mechanism(token)}, {len(token)} bytes"


def main(argv=None):
    """Trace a log-on to a server in this process, which Windows' secur32 can do too.

    Return None, or the one line that says what went wrong.
    """
    package = (sys.argv[1:] if argv is None else argv)[:1] or ["Negotiate"]
    domain = sspi_client.FakeDomain("CORP", {"alice": "Secret123!"})
    secur32 = None if sys.platform == "win32" else sspi_client.FakeSecur32(domain)
    identity = sspi_client.Identity("CORP\\alice", "Secret123!")
    try:
        flow = sspi_client.authenticate(
            "demo/localhost", identity, package=package[0], secur32=secur32
        )
        sspi_client.drive(trace(flow), sspi_client.FakeServer(domain).accept).close()
    except (sspi_client.SspiError, ValueError) as problem:
        return f"trace: {problem}"


if __name__ == "__main__":
    sys.exit(main())
