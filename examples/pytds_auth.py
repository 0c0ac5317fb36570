"""Give python-tds a correct SSPI: pytds.connect(..., auth=SspiAuth(target)).

    python pytds_auth.py HOST [--port PORT] [--user USER]

python-tds calls three methods. Unlike its own SspiAuth this one takes explicit
credentials of any form, tokens of any length and channel bindings, notices when
SSPI refuses, and gives every handle back.

1. create_packet(): the first token, for the LOGIN7 message (MS-TDS 2.2.6.4).
2. handle_next(packet): the server's SSPI token (0xED) in, our answer out.
3. close(): after LOGINACK, and when the connection ends for whatever reason.
"""

import argparse
import getpass
import sys

import sspi_client

LEGS = 10


class SspiAuth:
    """For one connection at a time; a new LOGIN7 starts over.

    target: "MSSQLSvc/db.corp.test:1433", or with an instance's name after the
        colon. No DNS is asked: write the name that the server is registered by.
    complete: whether SSPI is satisfied with the server, which MUTUAL_AUTH makes
        more than a formality. Look at it after connecting.
    """

    def __init__(self, target, identity=None, *, channel_bindings=None, secur32=None):
        self.complete = False
        self._how = {"channel_bindings": channel_bindings, "secur32": secur32}
        self._who = (target, identity)
        self._flow = None
        self._legs = 0

    def create_packet(self):  # 1
        """Return the first token. Raises: SspiError."""
        self.close()  # python-tds tries again with the same object
        self.complete, self._legs = False, 0
        flags = sspi_client.DEFAULT_FLAGS | sspi_client.ISC_REQ.CONNECTION
        self._flow = sspi_client.authenticate(*self._who, flags=flags, **self._how)
        return self._advance(None)

    def handle_next(self, packet):  # 2
        """Return our answer, or None if there is none. Raises: SspiError."""
        self._legs += 1
        if self._flow is None or self._legs > LEGS:
            self.close()
            raise ConnectionError("the server sent an SSPI token out of turn")
        return self._advance(packet)

    def close(self):  # 3
        """Give back what is held; closing twice is closing once."""
        if self._flow is not None:
            self._flow.close()
        self._flow = None

    def _advance(self, reply):
        try:
            token = self._flow.send(reply)
        except StopIteration as done:
            done.value.close()  # TDS uses it for the log-on alone
            self.complete = True
            return None
        self.complete = token.final
        return bytes(token)


def main(argv=None):
    """Return None, or the one line that says what went wrong."""
    import pytds

    parser = argparse.ArgumentParser(description="Ask SQL Server who we are.")
    parser.add_argument("host")
    parser.add_argument("--port", type=int, default=1433)
    parser.add_argument("--user", help="default: who is logged on")
    told = parser.parse_args(argv)
    try:
        identity = told.user and sspi_client.Identity(told.user, getpass.getpass())
        target = sspi_client.spn("MSSQLSvc", told.host, told.port)
        auth = SspiAuth(target, identity or None)
        with pytds.connect(told.host, port=told.port, auth=auth) as connection:
            with connection.cursor() as cursor:
                cursor.execute("SELECT SUSER_SNAME()")
                print(cursor.fetchone()[0])
        print("the server proved itself" if auth.complete else "unproven server")
    except (sspi_client.SspiError, pytds.Error, OSError, ValueError) as problem:
        return f"pytds_auth: {str(problem) or repr(problem)}"


if __name__ == "__main__":
    sys.exit(main())
