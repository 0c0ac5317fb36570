"""Log on over asyncio streams, without holding up the event loop.

    python asyncio_stream.py HOST PORT [--spn SPN] [--user USER]

SSPI may ask a domain controller, and then a leg blocks: so each leg runs in a
thread, and what it holds when the task is cancelled is given back there. Tokens and
messages travel behind their length, 4 bytes little-endian.

Standard library and sspi_client only.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, List, Optional, Sequence

import sspi_client

LIMIT = 0x10000  # [bytes] Windows makes no token that is longer than 65,535
LEGS = 10
PATIENCE = 30  # [s] for each answer


async def log_on(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    target: str,
    identity: Optional[sspi_client.Identity] = None,
    secur32: Any = None,
) -> sspi_client.Context:
    """Authenticate on connected streams and return the Context.

    Raises: SspiError; EOFError if the server leaves; OSError if it announces more
        than LIMIT bytes or does not come to an end; asyncio.TimeoutError.
    """
    need = sspi_client.ISC_RET.CONFIDENTIALITY
    flow = sspi_client.authenticate(target, identity, require=need, secur32=secur32)
    contexts: List[sspi_client.Context] = []

    def leg(reply: Optional[bytes]) -> Any:
        try:
            return flow.send(reply)
        except StopIteration as done:  # a future cannot carry this one
            contexts.append(done.value)

    def give_up() -> None:
        flow.close()
        for context in contexts:
            context.close()

    # One thread for one flow: giving up waits its turn behind a leg that blocks.
    thread, loop = ThreadPoolExecutor(1), asyncio.get_running_loop()
    try:
        reply = None
        for _ in range(LEGS):
            token = await loop.run_in_executor(thread, leg, reply)
            if contexts:
                return contexts[0]
            await send(writer, token)
            reply = None if token.final else await receive(reader)
        raise ConnectionError(f"the server wants more than {LEGS} legs")
    except BaseException:  # CancelledError too
        thread.submit(give_up)
        raise
    finally:
        thread.shutdown(wait=False)


async def send(writer: asyncio.StreamWriter, payload: bytes) -> None:
    writer.write(len(payload).to_bytes(4, "little") + payload)
    await asyncio.wait_for(writer.drain(), PATIENCE)


async def receive(reader: asyncio.StreamReader) -> bytes:
    head = await asyncio.wait_for(reader.readexactly(4), PATIENCE)
    length = int.from_bytes(head, "little")
    if length > LIMIT:  # before memory is spent on it
        raise ConnectionError(f"the server announces {length} bytes; too many")
    return await asyncio.wait_for(reader.readexactly(length), PATIENCE)


async def talk(
    host: str,
    port: int,
    target: str,
    identity: Optional[sspi_client.Identity] = None,
    secur32: Any = None,
) -> str:
    """Log on, exchange a message each way, and return what came of it."""
    connecting = asyncio.open_connection(host, port)
    reader, writer = await asyncio.wait_for(connecting, PATIENCE)
    try:
        with await log_on(reader, writer, target, identity, secur32) as context:
            await send(writer, context.wrap(b"hello"))
            answer = context.unwrap(await receive(reader))
            return f"{context.package} to {target}: {bytes(answer)!r}"
    finally:
        writer.close()


# -- For people ------------------------------------------------------------------


def printable(text: object) -> str:
    """Escape what a terminal would act upon."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
    encoding = sys.stdout.encoding or "ascii"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asyncio_stream", description="Log on over asyncio streams."
    )
    add = parser.add_argument
    add("host", help="a name, or an address of either kind")
    add("port", type=int, help="where it listens")
    add("--spn", help="default: host/HOST")
    add("--user", help="DOMAIN\\user or user@domain; default: who is logged on")
    return parser


def main(argv: Optional[Sequence[str]] = None, secur32: Any = None) -> Optional[str]:
    """Return None, or the one line that says what went wrong."""
    told = options().parse_args(argv)
    try:
        identity = None
        if told.user:
            identity = sspi_client.Identity(told.user, getpass.getpass())
        host = told.host.strip("[]")  # as addresses are written in a URL
        target = told.spn or sspi_client.spn("host", host)
        print(asyncio.run(talk(host, told.port, target, identity, secur32)))
    except asyncio.TimeoutError:
        return f"asyncio_stream: no answer for {PATIENCE} s"
    except (
        sspi_client.SspiError,
        EOFError,
        OSError,
        OverflowError,
        ValueError,
    ) as problem:
        return f"asyncio_stream: {printable(problem)}"
    return None


if __name__ == "__main__":
    sys.exit(main())
