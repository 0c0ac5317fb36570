"""examples/sockets_client.py and asyncio_stream.py against servers on loopback.

The same examples meet gss-ntlmssp and MIT Kerberos in lab/test_examples.py.
"""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from loopback import (
    EXAMPLES,
    PATIENCE,
    HangUp,
    asked_password,
    example,
    ipv6_loopback,
    never_finish,
    one_line,
    serve,
)

import sspi_client
from sspi_client import FakeDomain, FakeSecur32, FakeServer, SspiError

__all__ = ["asked_password", "ipv6_loopback", "serve"]  # fixtures
SPN, NTLM_SPN = "host/localhost", "host/printer"
FRAMED = pytest.mark.parametrize("name", ["sockets_client", "asyncio_stream"])


@pytest.fixture
def domain():
    users = {"alice": "Secret123!", "bob": "Pä55wörd€"}
    return FakeDomain("CORP", users, [SPN, "host/::1"])


def frame(octets):
    return len(octets).to_bytes(4, "little") + octets


def read_frame(stream):
    return stream.read(int.from_bytes(stream.read(4), "little"))


def framed(server, refusal=b""):
    """Authenticate the client, then send one message back, encrypted."""

    def handler(stream):
        try:
            while not server.complete:
                reply = server.accept(read_frame(stream))
                if reply is not None:
                    stream.write(frame(reply))
        except SspiError as refused:
            stream.write(frame(refused.token) if refused.token else b"")
            raise HangUp from None
        message = server.unwrap(read_frame(stream))
        assert message.encrypted
        stream.write(frame(server.wrap(message)))

    return handler


def answering(octets, then=None):
    """Read a token, write *octets*, and stay or raise *then*."""

    def handler(stream):
        read_frame(stream)
        stream.write(octets)
        if then:
            raise then

    return handler


def log_on(name, port, target, identity, secur32):
    """Call the log_on() of either example on a connection that it does not own."""
    module = example(name)
    if name == "sockets_client":
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            return module.log_on(connection, target, identity, secur32)

    async def run():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            return await module.log_on(reader, writer, target, identity, secur32)
        finally:
            writer.close()

    try:
        return asyncio.run(run())
    finally:
        let_threads_end()


def let_threads_end():
    """Wait for the threads in which asyncio_stream gives things back."""
    deadline = time.monotonic() + PATIENCE
    while any(t.name.startswith("ThreadPoolExecutor") for t in threading.enumerate()):
        assert time.monotonic() < deadline, "a thread of the example does not end"
        time.sleep(0.01)


def test_sockets_client_talks_to_itself_when_it_has_no_address(capsys):
    # On Windows this is the real secur32 against FakeServer.
    assert example("sockets_client").main([]) is None
    first, second, *_, last = capsys.readouterr().out.splitlines()
    kind = "secur32.dll" if sys.platform == "win32" else "FakeSecur32"
    assert first == f"{kind} logs on to a FakeServer"
    assert second == "NTLM to demo/localhost"
    assert last == "encrypted answer (True): b'hello'"


@FRAMED
@pytest.mark.parametrize("target, package", [(SPN, "Kerberos"), (NTLM_SPN, "NTLM")])
def test_framed_client_logs_on_when_negotiated(
    name, target, package, fake, server, serve, capsys
):
    port = serve(framed(server))
    command = ["localhost", str(port), "--spn", target]
    assert example(name).main(command, fake) is None
    let_threads_end()
    assert (server.user, server.package) == ("CORP\\alice", package)
    told = capsys.readouterr().out
    assert package in told and "b'hello'" in told


@FRAMED
def test_framed_client_asks_for_the_password_when_user_is_given(
    name, fake, server, serve, asked_password
):
    asked_password("Pä55wörd€")
    command = ["localhost", str(serve(framed(server))), "--user", "CORP\\bob"]
    assert example(name).main(command, fake) is None
    let_threads_end()
    assert server.user == "CORP\\bob"


@FRAMED
@pytest.mark.parametrize("target", [SPN, NTLM_SPN])
def test_framed_client_says_one_line_when_password_is_wrong(
    name, target, fake, server, serve, asked_password
):
    asked_password("wrong")
    port = serve(framed(server))
    command = ["localhost", str(port), "--spn", target, "--user", "CORP\\bob"]
    said = example(name).main(command, fake)
    let_threads_end()
    assert one_line(said, name)
    assert "SEC_E_LOGON_DENIED" in said


def test_sockets_client_says_one_line_when_refused_after_final_token(
    mocker, fake, serve, asked_password
):
    # Raw NTLM ends with our token: the refusal is a connection that closes.
    module = example("sockets_client")
    ntlm = sspi_client.authenticate
    mocker.patch.object(
        sspi_client, "authenticate", lambda *a, **k: ntlm(*a, package="NTLM", **k)
    )
    asked_password("wrong")
    port = serve(framed(FakeServer(fake.domain)))
    said = module.main(["localhost", str(port), "--user", "CORP\\bob"], fake)
    assert one_line(said, "sockets_client")


@FRAMED
def test_framed_client_says_one_line_when_spn_is_unknown(name, domain, serve, mocker):
    # Nobody has a password to fall back on, and Kerberos knows no such service.
    nobody = FakeSecur32(domain)
    port = serve(lambda stream: None)
    command = ["localhost", str(port), "--spn", "host/nowhere"]
    said = example(name).main(command, nobody)
    let_threads_end()
    assert one_line(said, name)
    assert "host/nowhere" in said
    nobody.assert_clean()


BAD_FRAMES = {
    "closes": (answering(b"", HangUp()), (OSError, EOFError)),
    "closes in the length": (answering(b"\5\0", HangUp()), (OSError, EOFError)),
    "closes in the token": (answering(b"\5\0\0\0abc", HangUp()), (OSError, EOFError)),
    "announces 2 GB": (answering(b"\xff\xff\xff\x7f"), OSError),
    "announces 64 KB + 1": (answering(b"\1\0\1\0"), OSError),
    "sends no token": (answering(frame(b"")), SspiError),
    "sends another protocol": (answering(frame(b"HTTP/1.1 400 Bad")), SspiError),
}


@FRAMED
@pytest.mark.parametrize("case", BAD_FRAMES)
def test_framed_client_gives_up_when_server(name, case, fake, serve):
    handler, error = BAD_FRAMES[case]
    with pytest.raises(error):
        log_on(name, serve(handler), SPN, None, fake)
    said = example(name).main(["localhost", str(serve(handler)), "--spn", SPN], fake)
    let_threads_end()
    assert one_line(said, name)


@FRAMED
def test_framed_client_gives_up_when_server_never_finishes(name, fake, serve):
    never_finish(fake)

    def handler(stream):
        for _ in range(100):
            read_frame(stream)
            stream.write(frame(b"more"))
        raise AssertionError("the client went on for 100 legs")

    with pytest.raises(OSError, match="more than 10 legs"):
        log_on(name, serve(handler), SPN, None, fake)


@pytest.mark.parametrize("argv", [["localhost"], ["localhost", "99999"]])
def test_sockets_client_says_one_line_when_address_is_bad(argv, fake):
    assert one_line(example("sockets_client").main(argv, fake), "sockets_client")


class Slow:
    """A secur32 whose legs wait, as for a domain controller."""

    def __init__(self, secur32, wait):
        for function in sspi_client.PROTOTYPES:
            setattr(self, function, getattr(secur32, function))

        def slowly(*arguments):
            wait()
            return secur32.InitializeSecurityContextW(*arguments)

        self.InitializeSecurityContextW = slowly


def test_asyncio_stream_gives_back_all_when_cancelled_in_a_leg(fake):
    entered, go_on = threading.Event(), threading.Event()
    slow = Slow(fake, lambda: (entered.set(), go_on.wait(PATIENCE)))

    async def cancelled():
        task = asyncio.ensure_future(
            example("asyncio_stream").log_on(None, None, SPN, None, slow)
        )
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, entered.wait, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    go_on.set()
    let_threads_end()
    fake.assert_clean()


def test_asyncio_stream_leaves_the_loop_free_when_a_leg_blocks(fake, server, serve):
    slow, port, ticks = Slow(fake, lambda: time.sleep(0.2)), serve(framed(server)), []

    async def tick():
        while True:
            ticks.append(1)
            await asyncio.sleep(0.01)

    async def both():
        ticking = asyncio.ensure_future(tick())
        said = await example("asyncio_stream").talk("127.0.0.1", port, SPN, None, slow)
        ticking.cancel()
        return said

    assert "b'hello'" in asyncio.run(both())
    let_threads_end()
    assert len(ticks) > 5


@FRAMED
@pytest.mark.parametrize("written", ["{}", "[{}]"], ids=["bare", "brackets"])
def test_framed_client_logs_on_when_host_is_an_ipv6_address(
    written, name, fake, server, serve, ipv6_loopback
):
    port = serve(framed(server), host=ipv6_loopback)
    command = [written.format(ipv6_loopback), str(port)]
    assert example(name).main(command, fake) is None
    let_threads_end()
    assert (server.package, server.target) == ("Kerberos", "host/::1")


@pytest.mark.parametrize("name", ["sockets_client", "flow_trace"])
def test_command_says_one_line_when_the_fake_part_was_cut_off(name, tmp_path):
    whole = Path(sspi_client.__file__).read_text("utf-8")
    cut = whole[: whole.index("\n# 8<") + 1]
    (tmp_path / "sspi_client.py").write_text(cut, "utf-8")
    program = (EXAMPLES / f"{name}.py").read_text("utf-8")
    (tmp_path / f"{name}.py").write_text(program, "utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / f"{name}.py")],
        # The embeddable Windows Python does not look beside its script.
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    assert one_line(done.stderr, name) and "no fake part" in done.stderr


@FRAMED
def test_command_explains_every_option_when_asked(name):
    for action in example(name).options()._actions:
        assert action.help, action.dest
