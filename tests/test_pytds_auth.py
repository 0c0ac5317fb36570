"""examples/pytds_auth.py on the fake, and python-tds against a replayed server.

No SQL Server takes part, and no other server of TDS that knows integrated security
was found in PyPI or Debian: FreeTDS's tdspool wants a SQL Server behind it.
"""

import pytest
from loopback import (
    PATIENCE,
    HangUp,
    asked_password,
    example,
    ipv6_loopback,
    needs,
    never_finish,
    one_line,
    serve,
)

import sspi_client
from sspi_client import FakeServer, Identity, SspiError

__all__ = ["asked_password", "ipv6_loopback", "serve"]  # fixtures
NEEDS_PYTDS = needs("pytds")
TDS_SPN = "MSSQLSvc/localhost:1433"


def sspi_auth(fake, **more):
    return example("pytds_auth").SspiAuth(TDS_SPN, secur32=fake, **more)


@pytest.mark.parametrize("package", ["Kerberos", "NTLM"])
def test_sspi_auth_is_complete_when_the_server_has_answered(
    package, domain, fake, server
):
    if package == "Kerberos":
        domain.services.append(TDS_SPN)
    auth = sspi_auth(fake)
    token = auth.create_packet()
    while not auth.complete:
        assert type(token) is bytes
        token = auth.handle_next(server.accept(token))
    auth.close()
    auth.close()
    assert (server.user, server.package) == ("CORP\\alice", package)
    assert server.target == TDS_SPN


def test_sspi_auth_uses_the_credentials_when_they_have_no_domain(fake, server):
    # python-tds' own SspiAuth would log on as whoever is logged on.
    auth = sspi_auth(fake, identity=Identity("bob", "Pä55wörd€"))
    token = auth.create_packet()
    while not auth.complete:
        token = auth.handle_next(server.accept(token))
    auth.close()
    assert server.user == "CORP\\bob"


def test_sspi_auth_is_bound_when_the_server_asks_for_it(domain, fake):
    bindings = b"tls-server-end-point:" + bytes(32)
    auth = sspi_auth(fake, channel_bindings=bindings)
    server = FakeServer(domain, bindings)
    token = auth.create_packet()
    while not auth.complete:
        token = auth.handle_next(server.accept(token))
    auth.close()
    assert server.complete


def test_sspi_auth_gives_all_back_when_closed_in_the_middle(fake):
    auth = sspi_auth(fake)
    auth.close()
    auth.create_packet()
    auth.create_packet()  # python-tds tries again with the same object
    auth.close()
    assert not auth.complete


def test_sspi_auth_raises_when_the_server_speaks_out_of_turn(fake):
    auth = sspi_auth(fake)
    with pytest.raises(ConnectionError, match="out of turn"):
        auth.handle_next(b"token")
    never_finish(fake)
    auth.create_packet()
    with pytest.raises(ConnectionError, match="out of turn"):
        for _ in range(100):
            auth.handle_next(b"more")


def test_sspi_auth_raises_when_the_token_is_garbage(fake):
    auth = sspi_auth(fake)
    auth.create_packet()
    with pytest.raises(SspiError):
        auth.handle_next(b"HTTP/1.1 400 Bad")


TDS_LOGIN7, TDS_SSPI, TDS_REPLY = 0x10, 0x11, 0x04  # MS-TDS 2.2.3.1.1
DONE = b"\xfd" + bytes(12)  # 2.2.7.6
# 2.2.7.14: length, interface 1, TDS 7.4, a name, a version.
LOGINACK = b"\xad\x0e\0\1\x74\0\0\4\2S\0Q\0\x10\0\0\0"


def tds_packet(kind, payload):
    return bytes([kind, 1]) + (len(payload) + 8).to_bytes(2, "big") + bytes(4) + payload


def read_tds(stream):
    """Return (type of the first packet, all that came until end of message)."""
    kind, payload, last = None, b"", False
    while not last:
        head = stream.read(8)  # 2.2.3.1
        kind, last = kind or head[0], head[1] & 1
        payload += stream.read(int.from_bytes(head[2:4], "big") - 8)
    return kind, payload


def login7_token(login):
    """Return the SSPI blob of a LOGIN7 message, whose options must announce it."""
    assert int.from_bytes(login[:4], "little") == len(login)
    assert login[25] & 0x80  # 2.2.6.4, OptionFlags2.fIntSecurity
    at, length = (int.from_bytes(login[n : n + 2], "little") for n in (78, 80))
    return login[at : at + length]


def tds_server(server, seen, refusal=b""):
    def handler(stream):
        kind, prelogin = read_tds(stream)
        assert kind == 0x12
        options = bytes.fromhex("00000b0006 0100110001 ff 100000000000 02")
        stream.write(tds_packet(TDS_REPLY, options))  # 02: no encryption here
        kind, login = read_tds(stream)
        token = login7_token(login)
        seen.append((kind, token))
        while not server.complete:
            reply = server.accept(token)
            if reply is not None:
                told = b"\xed" + len(reply).to_bytes(2, "little") + reply  # 2.2.7.22
                extra = LOGINACK + DONE if server.complete else b""
                stream.write(tds_packet(TDS_REPLY, told + extra))
            if not server.complete:
                kind, token = read_tds(stream)
                seen.append((kind, token))
        if reply is None:
            stream.write(tds_packet(TDS_REPLY, LOGINACK + DONE))
        while True:
            read_tds(stream)
            stream.write(tds_packet(TDS_REPLY, DONE))

    return handler


@NEEDS_PYTDS
@pytest.mark.parametrize("package", ["Kerberos", "NTLM"])
def test_pytds_sends_our_tokens_when_it_logs_on(package, domain, fake, server, serve):
    """Let python-tds log on to a replayed server, and read its bytes by MS-TDS.

    No SQL Server takes part: the server here is FakeServer in TDS packets. Of what
    python-tds 1.17 writes, LOGIN7 is as 2.2.6.4 says; the next token should come
    in a packet of type 0x11 (2.2.6.8), and python-tds leaves LOGIN7's type on it.
    """
    module = example("pytds_auth")
    import pytds

    if package == "Kerberos":
        domain.services.append(TDS_SPN)
    auth, seen = module.SspiAuth(TDS_SPN, secur32=fake), []
    port = serve(tds_server(server, seen))
    pytds.connect("localhost", port=port, auth=auth, timeout=PATIENCE).close()
    assert auth.complete
    assert (server.user, server.package) == ("CORP\\alice", package)
    kinds = [kind for kind, _ in seen]
    assert kinds[0] == TDS_LOGIN7 and set(kinds[1:]) <= {TDS_LOGIN7, TDS_SSPI}
    names = [sspi_client.mechanism(token) for _, token in seen]
    assert names[0].startswith("SPNEGO NegTokenInit")
    assert [name.rpartition(": ")[2] for name in names] == (
        ["Kerberos AP-REQ"] if package == "Kerberos"
        else ["NTLM NEGOTIATE", "NTLM AUTHENTICATE"]
    )  # fmt: skip


@NEEDS_PYTDS
def test_pytds_leaves_nothing_when_the_server_closes(fake, serve):
    module = example("pytds_auth")
    import pytds

    def handler(stream):
        read_tds(stream)
        raise HangUp

    auth = module.SspiAuth(TDS_SPN, secur32=fake)
    with pytest.raises((pytds.Error, OSError, EOFError)):
        pytds.connect(
            "localhost", port=serve(handler), auth=auth, login_timeout=1, timeout=1
        )
    assert not auth.complete


@NEEDS_PYTDS
@pytest.mark.parametrize("written", ["{}", "[{}]"], ids=["bare", "brackets"])
def test_command_asks_for_the_right_spn_when_host_is_an_ipv6_address(
    written, domain, fake, server, serve, ipv6_loopback
):
    seen = []
    port = serve(tds_server(server, seen), host=ipv6_loopback)
    domain.services.append(f"MSSQLSvc/[{ipv6_loopback}]:{port}")
    command = [written.format(ipv6_loopback), "--port", str(port), "--timeout", "2"]
    said = example("pytds_auth").main(command, fake)
    assert server.package == "Kerberos" and len(seen) == 1
    # The replayed server knows no SELECT, and says so by an empty answer.
    assert said is None or one_line(said, "pytds_auth")


def test_target_names_port_or_instance_when_given():
    target_of = example("pytds_auth").target_of
    assert target_of("db01") == "MSSQLSvc/db01:1433"
    assert target_of("db01", 1500) == "MSSQLSvc/db01:1500"
    assert target_of("db01", None, "SALES") == "MSSQLSvc/db01:SALES"
    assert target_of("db01", 1500, "SALES$1") == "MSSQLSvc/db01:SALES$1"


@pytest.mark.parametrize(
    "host, instance",
    [("db01\\SALES", ""), ("db01,1433", ""), ("tcp:db01", ""), ("db01", "a b"),
     ("db01", "a:1"), ("db01", "a/b")],
)  # fmt: skip
def test_target_is_refused_when_it_would_silently_be_ntlm(host, instance):
    with pytest.raises(ValueError):
        example("pytds_auth").target_of(host, None, instance)


@NEEDS_PYTDS
@pytest.mark.parametrize("host", ["db01\\SQLEXPRESS", "db01,1433"])
def test_command_says_one_line_when_the_host_is_more_than_a_host(host, fake):
    assert one_line(example("pytds_auth").main([host], fake), "pytds_auth")


@NEEDS_PYTDS
def test_command_asks_the_browser_when_an_instance_is_named(fake, mocker):
    import pytds

    seen = mocker.patch.object(pytds, "connect", side_effect=OSError("no such host"))
    main = example("pytds_auth").main
    assert main(["db01", "--instance", "SALES"], fake) == "pytds_auth: no such host"
    (server,), options = seen.call_args
    assert (server, options["port"]) == ("db01\\SALES", None)
    assert options["auth"]._who[0] == "MSSQLSvc/db01:SALES"
    main(["db01", "--instance", "SALES", "--port", "1500"], fake)
    (server,), options = seen.call_args
    assert (server, options["port"]) == ("db01", 1500)


def test_command_explains_every_option_when_asked():
    for action in example("pytds_auth").options()._actions:
        assert action.help, action.dest
