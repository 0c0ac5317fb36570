"""Log on over asyncio streams, without holding up the event loop.

    python asyncio_stream.py HOST PORT [--spn SPN] [--user USER]

SSPI may ask a domain controller, and then a leg blocks: so each leg runs in a
thread. Tokens and messages travel behind their length, 4 bytes little-endian.

1. Connect.
2. Let a thread make each token; send it; read the reply unless it was final.
3. Send an encrypted message and read the encrypted answer.
4. Cancelled or failed: what the thread still holds is given back there.
"""

import argparse
import asyncio
import getpass
import sys
from concurrent.futures import ThreadPoolExecutor

import sspi_client

LIMIT = 0x10000  # [bytes] Windows makes no token that is longer than 65,535
LEGS = 10
PATIENCE = 30  # [s] for each answer


async def log_on(reader, writer, target, identity=None, secur32=None):
    """Authenticate on connected streams and return the Context.

    Raises: SspiError; EOFError if the server leaves; OSError if it announces more
        than LIMIT bytes or does not come to an end; asyncio.TimeoutError.
    """
    need = sspi_client.ISC_RET.CONFIDENTIALITY
    flow = sspi_client.authenticate(target, identity, require=need, secur32=secur32)
    contexts = []

    def leg(reply):
        try:
            return flow.send(reply)
        except StopIteration as done:  # a future cannot carry this one
            contexts.append(done.value)

    def give_up():
        flow.close()
        for context in contexts:
            context.close()

    # One thread for one flow: giving up waits its turn behind a leg that blocks.
    thread, loop = ThreadPoolExecutor(1), asyncio.get_running_loop()
    try:
        reply = None
        for _ in range(LEGS):
            token = await loop.run_in_executor(thread, leg, reply)  # 2
            if contexts:
                return contexts[0]
            await send(writer, token)
            reply = None if token.final else await receive(reader)
        raise ConnectionError(f"the server wants more than {LEGS} legs")
    except BaseException:  # CancelledError too
        thread.submit(give_up)  # 4
        raise
    finally:
        thread.shutdown(wait=False)


async def send(writer, payload):
    writer.write(len(payload).to_bytes(4, "little") + payload)
    await asyncio.wait_for(writer.drain(), PATIENCE)


async def receive(reader):
    head = await asyncio.wait_for(reader.readexactly(4), PATIENCE)
    length = int.from_bytes(head, "little")
    if length > LIMIT:  # before memory is spent on it
        raise ConnectionError(f"the server announces {length} bytes; too many")
    return await asyncio.wait_for(reader.readexactly(length), PATIENCE)


async def talk(host, port, target, identity=None, secur32=None):
    connecting = asyncio.open_connection(host, port)  # 1
    reader, writer = await asyncio.wait_for(connecting, PATIENCE)
    try:
        with await log_on(reader, writer, target, identity, secur32) as context:
            await send(writer, context.wrap(b"hello"))  # 3
            answer = context.unwrap(await receive(reader))
            return f"{context.package} to {target}: {bytes(answer)!r}"
    finally:
        writer.close()


def main(argv=None, secur32=None):
    """Return None, or the one line that says what went wrong."""
    parser = argparse.ArgumentParser(description="Log on over asyncio streams.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--spn", help="default: host/HOST")
    parser.add_argument("--user", help="default: who is logged on")
    told = parser.parse_args(argv)
    try:
        identity = told.user and sspi_client.Identity(told.user, getpass.getpass())
        target = told.spn or sspi_client.spn("host", told.host)
        print(
            asyncio.run(talk(told.host, told.port, target, identity or None, secur32))
        )
    except asyncio.TimeoutError:
        return f"asyncio_stream: no answer for {PATIENCE} s"
    except (sspi_client.SspiError, OSError, EOFError, ValueError) as problem:
        return f"asyncio_stream: {problem}"


if __name__ == "__main__":
    sys.exit(main())
