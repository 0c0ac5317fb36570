"""examples/ldap_search.py on the fake, against a directory of its own on loopback.

The directory speaks just enough LDAP, with FakeServer behind it. The same example
meets Samba in lab/test_examples.py.
"""

import contextlib
import json
import threading
import time

import pytest
from loopback import (
    BINDINGS,
    PEM,
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
from sspi_client import FakeDomain, FakeServer, SspiError

__all__ = ["asked_password", "ipv6_loopback", "serve"]  # fixtures
pytestmark = [
    needs("ldap3"),
    # ldap3 2.9 and pyasn1 warn about each other.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

TARGET = "ldap/localhost"
START_TLS, WHO_AM_I = b"1.3.6.1.4.1.1466.20037", b"1.3.6.1.4.1.4203.1.11.3"
PAGED = b"1.2.840.113556.1.4.319"
PACKAGES = pytest.mark.parametrize("package", ["Kerberos", "NTLM"])
STRATEGY = pytest.mark.parametrize(
    "strategy", ["SYNC", "SAFE_SYNC", "ASYNC", "RESTARTABLE", "SAFE_RESTARTABLE"]
)
PLACE = pytest.mark.parametrize("tls", ["no", "start", "ldaps"])


@pytest.fixture
def domain():
    users = {"alice": "Secret123!", "bob": "Pä55wörd€"}
    return FakeDomain("CORP", users, [TARGET, "ldap/::1"])


@pytest.fixture
def ldap_search():
    return example("ldap_search")


@pytest.fixture(autouse=True)
def impatient():
    """Let RESTARTABLE not sleep between its tries, and make three of them."""
    import ldap3

    names = {"RESTARTABLE_SLEEPTIME": 0, "RESTARTABLE_TRIES": 3}
    before = {name: ldap3.get_config_parameter(name) for name in names}
    for name, value in names.items():
        ldap3.set_config_parameter(name, value)
    yield
    for name, value in before.items():
        ldap3.set_config_parameter(name, value)


# -- A directory -----------------------------------------------------------------


def ber(tag, *contents):
    content = b"".join(contents)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    return bytes([tag, 0x84]) + len(content).to_bytes(4, "big") + content


def number(value, tag=0x02):
    return ber(tag, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def items(content):
    found, at = [], 0
    while at < len(content):
        length, start = content[at + 1], at + 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(content[at + 2 : start], "big")
        found.append((content[at], content[start : start + length]))
        at = start + length
    return found


def result(tag, code, text=b"", *more):
    return ber(tag, ber(0x0A, bytes([code])), ber(0x04), ber(0x04, text), *more)


def entry(dn, **attributes):
    listed = [
        ber(0x30, ber(0x04, name.encode()), ber(0x31, *(ber(0x04, v) for v in values)))
        for name, values in attributes.items()
    ]
    return ber(0x64, ber(0x04, dn.encode()), ber(0x30, *listed))


class Directory:
    """A directory whose clients log on to FakeServers, one after the other.

    entries: encoded SearchResultEntries that every search finds, in pages.
    plays: for each connection in turn, what to do instead of behaving well.
    seen: for each logon [package, user, "sealed" or "bound"].
    anonymous: what was asked by somebody who was not logged on.
    """

    def __init__(self, domain, entries=(), plays=(), refuses=None, bindings=BINDINGS):
        self.domain, self.entries, self.plays = domain, list(entries), list(plays)
        self.refuses = refuses or {}  # bindRequest's place -> bindResponse
        self.bindings = bindings
        self.seen, self.anonymous, self.searches = [], [], []
        self.binds, self.together = 0, False

    def __call__(self, stream):
        play = self.plays.pop(0) if self.plays else None
        server = FakeServer(self.domain, self.bindings if stream.tls else None)
        sealed, logged_on = False, False
        while True:
            if sealed:
                length = int.from_bytes(stream.read(4), "big")
                message = server.unwrap(stream.read(length))
                assert message.encrypted
                (_, pdu), = items(message)
            else:
                pdu = self.read(stream)
            (_, ident), (tag, content), *controls = items(pdu)
            answers = []
            if tag == 0x60:
                self.binds += 1
                (mechanism, token) = items(dict(items(content))[0xA3])
                assert mechanism[1] == b"GSS-SPNEGO"
                answers, logged_on = self.bind(server, token[1], play)
            elif tag == 0x42:
                return
            elif tag == 0x77:
                (_, name) = items(content)[0]
                if name == START_TLS:
                    assert not stream.tls and not logged_on
                    if play == "no TLS":
                        answers = [result(0x78, 2, b"no TLS here")]
                    else:
                        stream.write(self.pdu(ident, result(0x78, 0)))
                        stream.start_tls()
                        server = FakeServer(self.domain, self.bindings)
                        continue
                elif play == "knows nobody":
                    answers = [result(0x78, 2, b"unknown \x1b[31mrequest\n")]
                else:
                    who = ber(0x8B, b"u:" + server.user.encode())
                    answers = [result(0x78, 0, b"", who)]
            elif tag == 0x63:
                if not logged_on:
                    self.anonymous.append(content)
                if play == "hangs up in a search":
                    raise HangUp
                answers = self.search(content, controls)
            self.write(stream, server if sealed else None, ident, answers, play)
            if logged_on and len(self.seen[-1]) == 2:
                sealed = not stream.tls
                self.seen[-1].append("sealed" if sealed else "bound")
                if play == "hangs up after the logon":
                    raise HangUp

    @staticmethod
    def read(stream):
        head = stream.read(2)
        if head[1] & 0x80:
            head += stream.read(head[1] & 0x7F)
            return stream.read(int.from_bytes(head[2:], "big"))
        return stream.read(head[1])

    @staticmethod
    def pdu(ident, operation, *controls):
        return ber(0x30, ber(0x02, ident), operation, *controls)

    def bind(self, server, token, play):
        """Return (answers, whether the client is logged on)."""
        refused = self.refuses.get(self.binds)
        if refused:
            return [refused], False
        if play == "hangs up in the logon":
            raise HangUp
        try:
            reply = server.accept(token)
        except SspiError as error:
            creds = ber(0x87, error.token) if error.token else b""
            text = b"80090308: LdapErr: data 52e"
            return [result(0x61, 49, text, creds)], False
        creds = ber(0x87, reply) if reply else b""
        done = server.complete and play != "is not content"
        if done:
            self.seen.append([server.package, server.user])
        return [result(0x61, 0 if done else 14, b"", creds)], done

    def search(self, content, controls):
        """Return one page of the entries, and its SearchResultDone."""
        (_, base), (_, scope) = items(content)[:2]
        self.searches.append((base.decode(), scope[0], items(content)[7][1]))
        if base == b"" and scope == b"\0":
            return [entry("", defaultNamingContext=[b"DC=corp"]), result(0x65, 0)]
        if base == b"DC=nowhere":
            return [result(0x65, 32, b"no such \x9bobject")]
        size, start = len(self.entries) or 1, 0
        for _, control in items(controls[0][1]) if controls else ():
            fields = items(control)
            assert fields[0][1] == PAGED
            (_, wanted), (_, cookie) = items(items(fields[-1][1])[0][1])
            size, start = int.from_bytes(wanted, "big"), int(cookie or b"0")
        page = self.entries[start : start + size]
        rest = b"%d" % (start + size) if start + size < len(self.entries) else b""
        value = ber(0x04, ber(0x30, number(0), ber(0x04, rest)))
        done = ber(0xA0, ber(0x30, ber(0x04, PAGED), value)) if controls else b""
        return page + [(result(0x65, 0), done)]

    def write(self, stream, server, ident, answers, play):
        pdus = [
            self.pdu(ident, *(each if isinstance(each, tuple) else (each,)))
            for each in answers
        ]
        if self.together:
            pdus = [b"".join(pdus)]
        for pdu in pdus:
            if server:
                blob = server.wrap(pdu, encrypt=play != "signs only")
                if play == "seals wrongly":
                    blob = blob[:-1] + bytes([blob[-1] ^ 1])
                pdu = len(blob).to_bytes(4, "big") + blob
                if play == "announces 2 GB":
                    pdu = b"\x7f" * 4
                if play == "hangs up in a frame":
                    stream.write(pdu[:-1])
                    raise HangUp
            stream.write(pdu)


PEOPLE = [
    entry(f"CN=person {n},DC=corp", cn=[b"person %d" % n], objectSid=[b"\1\5\0\xff"])
    for n in range(2500)
]


def command(port, *more, host="localhost"):
    return [host, "--port", str(port), "--timeout", "10", *more]


def where(tls):
    return ["--tls", tls, "--ca", str(PEM)]


# -- The command -----------------------------------------------------------------


@PLACE
@PACKAGES
def test_command_tells_who_we_are_when_logged_on(
    package, tls, ldap_search, domain, fake, serve, capsys
):
    if package == "NTLM":
        domain.services.remove(TARGET)
    directory = Directory(domain)
    port = serve(directory, tls=tls == "ldaps")
    assert ldap_search.main(command(port, *where(tls)), fake) is None
    assert capsys.readouterr().out == "u:CORP\\alice\n"
    how = "sealed" if tls == "no" else "bound"
    assert directory.seen == [[package, "CORP\\alice", how]]


@PLACE
def test_command_refuses_a_server_when_its_bindings_are_others(
    tls, ldap_search, domain, fake, serve
):
    # Somebody in the middle, with a certificate that the client trusts.
    others = b"tls-server-end-point:" + bytes(32)
    directory = Directory(domain, bindings=others)
    port = serve(directory, tls=tls == "ldaps")
    said = ldap_search.main(command(port, *where(tls)), fake)
    if tls == "no":
        assert said is None
    else:
        assert one_line(said, "ldap_search") and directory.seen == []


def test_command_logs_on_as_another_when_user_is_given(
    ldap_search, domain, fake, serve, asked_password
):
    asked_password("Pä55wörd€")
    directory = Directory(domain)
    command_line = command(serve(directory), "--user", "CORP\\bob")
    assert ldap_search.main(command_line, fake) is None
    assert directory.seen[0][1] == "CORP\\bob"


def test_command_wants_kerberos_when_told_no_ntlm(
    ldap_search, domain, fake, serve, capsys
):
    directory = Directory(domain)
    assert ldap_search.main(command(serve(directory), "--no-ntlm"), fake) is None
    assert directory.seen[0][0] == "Kerberos"
    domain.services.remove(TARGET)
    port = serve(lambda stream: None)
    said = ldap_search.main(command(port, "--no-ntlm"), fake)
    assert one_line(said, "ldap_search")


def test_command_logs_on_when_host_is_an_ipv6_address(
    ldap_search, domain, fake, serve, ipv6_loopback, capsys
):
    directory = Directory(domain)
    port = serve(directory, host=ipv6_loopback)
    assert ldap_search.main(command(port, host=ipv6_loopback), fake) is None
    assert directory.seen == [["Kerberos", "CORP\\alice", "sealed"]]


def test_command_pages_through_thousands_when_searching(
    ldap_search, domain, fake, serve, capsys
):
    directory = Directory(domain, PEOPLE)
    more = ["--filter", "(cn=*)", "--attributes", "cn,objectSid", "--page-size", "100"]
    assert ldap_search.main(command(serve(directory), *more), fake) is None
    told = capsys.readouterr().out
    assert told.startswith("version: 1\n\ndn: CN=person 0,DC=corp\n")
    assert told.count("\ndn: ") == 2500 == told.count("\nobjectSid:: AQUA/w==")
    base, scope, names = directory.searches[-1]
    assert (base, scope) == ("DC=corp", 2) and len(directory.searches) == 26
    assert [name for _, name in items(names)] == [b"cn", b"objectSid"]


def test_command_prints_json_when_told(ldap_search, domain, fake, serve, capsys):
    directory = Directory(domain, PEOPLE[:2])
    more = ["--filter", "(cn=*)", "--format", "json", "--base", "DC=x"]
    more += ["--scope", "level"]
    assert ldap_search.main(command(serve(directory), *more), fake) is None
    assert json.loads(capsys.readouterr().out)[1] == {
        "dn": "CN=person 1,DC=corp",
        "attributes": {"cn": ["person 1"], "objectSid": [{"base64": "AQUA/w=="}]},
    }
    assert directory.searches == [("DC=x", 1, ber(0x04, b"*"))]


@pytest.mark.parametrize("format", ["ldif", "json"])
def test_command_escapes_entries_when_they_hold_control_characters(
    format, ldap_search, domain, fake, serve, capsys
):
    bad = entry("CN=a\x1b[31m\x7f\x9b", **{"c\x1bn": [b"\x1b]0;pwned\x07\x7f", b" a "]})
    more = ["--filter", "(cn=*)", "--base", "DC=x", "--format", format]
    port = serve(Directory(domain, [bad, entry("CN=empty")]))
    assert ldap_search.main(command(port, *more), fake) is None
    told = capsys.readouterr().out
    assert [c for c in told if c != "\n" and not " " <= c < "\x7f"] == []
    assert ": IGEg" in told or '" a "' in told


def test_ldif_folds_its_lines_when_they_are_long(ldap_search):
    long = ldap_search.Entry("CN=a", {"cn": [b"x" * 200, b": no", b"", b"\xc3\xa4"]})
    first, *rest = list(ldap_search.ldif([long]))[3:]
    assert [len(line) for line in [first, *rest[:2]]] == [76, 76, 54]
    assert first == "cn: " + "x" * 72 and rest[0] == " " + "x" * 75
    assert rest[2:] == ["cn:: OiBubw==", "cn: ", "cn:: w6Q="]


def test_json_is_an_empty_array_when_nothing_is_found(ldap_search):
    assert list(ldap_search.as_json([])) == ["[]"]


@pytest.mark.parametrize(
    "more",
    [
        ["--filter", "(cn=*"],
        ["--filter", "(cn=*)", "--base", "DC=nowhere"],
        ["--user", "CORP\\alice"],
    ],
    ids=["no filter at all", "no such base", "wrong password"],
)
def test_command_says_one_line_when_it_cannot(
    more, ldap_search, domain, fake, serve, asked_password
):
    asked_password("wrong")
    said = ldap_search.main(command(serve(Directory(domain)), *more), fake)
    assert one_line(said, "ldap_search")
    assert all(c.isprintable() for c in said)


def test_command_says_what_is_wrong_when_the_password_is(
    ldap_search, domain, fake, serve, asked_password
):
    asked_password("wrong")
    domain.services.remove(TARGET)
    directory = Directory(domain)
    said = ldap_search.main(command(serve(directory), "--user", "CORP\\bob"), fake)
    assert "wrong password" in said and directory.binds == 2


def test_command_escapes_the_servers_words_when_it_refuses(
    ldap_search, domain, fake, serve
):
    port = serve(Directory(domain, [], ["knows nobody"]))
    said = ldap_search.main(command(port), fake)
    assert "\\x1b[31mrequest\\n" in said and one_line(said, "ldap_search")


@pytest.mark.parametrize("tls", ["start", "ldaps"])
def test_command_says_one_line_when_certificate_is_not_trusted(
    tls, ldap_search, domain, fake, serve
):
    directory = Directory(domain)
    port = serve(directory, tls=tls == "ldaps")
    said = ldap_search.main(command(port, "--tls", tls), fake)
    assert one_line(said, "ldap_search") and "certificate" in said.lower()
    assert directory.binds == 0


def test_command_says_one_line_when_server_has_no_tls(ldap_search, domain, fake, serve):
    directory = Directory(domain, [], ["no TLS"])
    said = ldap_search.main(command(serve(directory), *where("start")), fake)
    assert one_line(said, "ldap_search") and directory.binds == 0


def first_answer(*octets):
    """Answer the first bindRequest with *octets*; None hangs up."""

    def handler(stream):
        (_, ident), *_ = items(Directory.read(stream))
        for part in octets:
            if part is None:
                raise HangUp
            stream.write(Directory.pdu(ident, part) if part[:1] == b"\x61" else part)

    return handler


BAD = {
    "closes": lambda domain: first_answer(None),
    "closes in a message": lambda domain: first_answer(b"\x30\x84\0\0\1\0abc", None),
    "sends no token": lambda domain: first_answer(result(0x61, 14)),
    "sends another protocol": lambda domain: first_answer(
        result(0x61, 14, b"", ber(0x87, b"HTTP/1.1"))
    ),
    "is content too early": lambda domain: first_answer(result(0x61, 0)),
    "wants a signature": lambda domain: first_answer(result(0x61, 8)),
    "is not content": lambda domain: Directory(domain, [], ["is not content"]),
    "announces 2 GB": lambda domain: Directory(domain, [], ["announces 2 GB"]),
    "seals wrongly": lambda domain: Directory(domain, [], ["seals wrongly"]),
    "signs only": lambda domain: Directory(domain, [], ["signs only"]),
    "hangs up in it": lambda domain: Directory(domain, [], ["hangs up in a frame"]),
}


@pytest.mark.parametrize("case", BAD)
def test_command_says_one_line_when_server(case, ldap_search, domain, fake, serve):
    said = ldap_search.main(command(serve(BAD[case](domain))), fake)
    assert one_line(said, "ldap_search")


def test_command_says_one_line_when_server_never_finishes(
    ldap_search, domain, fake, serve
):
    never_finish(fake)

    def handler(stream):
        for _ in range(100):
            (_, ident), *_ = items(Directory.read(stream))
            more = result(0x61, 14, b"", ber(0x87, b"more"))
            stream.write(Directory.pdu(ident, more))
        raise AssertionError("the client went on for 100 legs")

    said = ldap_search.main(command(serve(handler)), fake)
    assert said == "ldap_search: the server wants more than 10 legs"
    fake.assert_clean()


def test_command_explains_every_option_when_asked(ldap_search):
    for action in ldap_search.options()._actions:
        assert action.help, action.dest


# -- The connection --------------------------------------------------------------


def connection_to(port, module, fake, strategy="SYNC", tls=None, **more):
    import ldap3

    trust = ldap3.Tls(validate=2, ca_certs_file=str(PEM))
    server = ldap3.Server(
        "localhost", port, use_ssl=tls == "ldaps", tls=trust, get_info=ldap3.NONE
    )
    connection = module.SspiConnection(
        server, secur32=fake, client_strategy=strategy, receive_timeout=10, **more
    )
    if tls == "start":
        connection.start_tls()
    return connection


def names(module, connection):
    return [found.dn for found in module.search(connection, "DC=x", page_size=2)]


FIVE = [f"CN=person {n},DC=corp" for n in range(5)]


@STRATEGY
@PLACE
def test_connection_finds_all_when_strategy_is(
    tls, strategy, ldap_search, domain, fake, serve
):
    directory = Directory(domain, PEOPLE[:5])
    port = serve(directory, tls=tls == "ldaps")
    with connection_to(port, ldap_search, fake, strategy, tls) as connection:
        assert connection.negotiated == "Kerberos"
        assert names(ldap_search, connection) == FIVE
        assert ldap_search.whoami(connection) == "u:CORP\\alice"
        assert connection.tls_started == (tls == "start")
    fake.assert_clean()
    how = "sealed" if tls == "no" else "bound"
    assert [seen[2] for seen in directory.seen] == [how] and not directory.anonymous
    no_thread_of_ldap3()


def no_thread_of_ldap3():
    names = [type(thread).__name__ for thread in threading.enumerate()]
    assert "ReceiverSocketThread" not in names


@STRATEGY
@pytest.mark.parametrize("tls", ["no", "start", "ldaps"])
def test_connection_logs_on_anew_when_bound_again(
    tls, strategy, ldap_search, domain, fake, serve
):
    directory = Directory(domain, PEOPLE[:5])
    port = serve(directory, tls=tls == "ldaps", clients=3)
    connection = connection_to(port, ldap_search, fake, strategy, tls)
    connection.bind()
    assert names(ldap_search, connection) == FIVE
    connection.bind()  # on a new connection
    assert names(ldap_search, connection) == FIVE
    connection.unbind()
    connection.bind()
    assert names(ldap_search, connection) == FIVE
    connection.unbind()
    fake.assert_clean()
    how = "sealed" if tls == "no" else "bound"
    assert directory.seen == [["Kerberos", "CORP\\alice", how]] * 3
    assert not directory.anonymous
    no_thread_of_ldap3()


@pytest.mark.parametrize("strategy", ["RESTARTABLE", "SAFE_RESTARTABLE"])
@pytest.mark.parametrize("play", ["hangs up in a search", "hangs up after the logon"])
@PLACE
def test_restart_logs_on_and_protects_again_when_server_hangs_up(
    tls, play, strategy, ldap_search, domain, fake, serve
):
    directory = Directory(domain, PEOPLE[:5], [play, "hangs up in the logon", play])
    # Two that hang up in a search, one in a logon that is tried again, and a good one.
    port = serve(directory, tls=tls == "ldaps", clients=4)
    connection = connection_to(port, ldap_search, fake, strategy, tls)
    connection.bind()
    for _ in range(3):
        with contextlib.suppress(ldap_search.LDAPException):
            assert names(ldap_search, connection) == FIVE
            break
    else:
        raise AssertionError("no search came through")
    connection.unbind()
    fake.assert_clean()
    how = "sealed" if tls == "no" else "bound"
    assert directory.seen == [["Kerberos", "CORP\\alice", how]] * 3
    assert not directory.anonymous


@pytest.mark.parametrize("strategy", ["RESTARTABLE", "SAFE_RESTARTABLE"])
def test_restart_is_refused_once_when_the_password_is_wrong_by_now(
    strategy, ldap_search, domain, fake, serve
):
    # Kerberos takes two legs, and the third bindRequest is the restart's.
    refused = result(0x61, 49, b"80090308: LdapErr: data 52e")
    directory = Directory(domain, PEOPLE, ["hangs up in a search"], {2: refused})
    port = serve(directory, clients=2)
    connection = connection_to(port, ldap_search, fake, strategy)
    connection.bind()
    with pytest.raises(ldap_search.LDAPBindError, match="wrong password"):
        names(ldap_search, connection)
    assert connection.closed and not connection.bound
    assert directory.binds == 2 and not directory.anonymous
    fake.assert_clean()


@STRATEGY
def test_connection_asks_nothing_when_it_is_not_logged_on(
    strategy, ldap_search, domain, fake, serve
):
    directory = Directory(domain, PEOPLE[:5])
    connection = connection_to(serve(directory), ldap_search, fake, strategy)
    connection.open()
    with pytest.raises(ldap_search.LDAPBindError, match="not logged on"):
        names(ldap_search, connection)
    connection.unbind()
    assert not directory.anonymous and directory.binds == 0
    no_thread_of_ldap3()


@STRATEGY
def test_connection_is_closed_when_the_logon_fails(
    strategy, ldap_search, domain, fake, serve
):
    wrong = sspi_client.Identity("CORP\\bob", "wrong")
    port = serve(Directory(domain))
    connection = connection_to(port, ldap_search, fake, strategy, identity=wrong)
    with pytest.raises((SspiError, ldap_search.LDAPException)):
        connection.bind()
    assert connection.closed and not connection.bound
    no_thread_of_ldap3()
    fake.assert_clean()


@STRATEGY
def test_connection_raises_ldapexception_when_a_sealed_message_was_changed(
    strategy, ldap_search, domain, fake, serve
):
    import ldap3

    before = ldap3.get_config_parameter("RESPONSE_WAITING_TIMEOUT")
    directory = Directory(domain, PEOPLE[:5], ["seals wrongly"] * 2)
    port = serve(directory, clients=2 if "RESTART" in strategy else 1)
    connection = connection_to(port, ldap_search, fake, strategy)
    connection.receive_timeout = 1  # ASYNC's get_response() waits that long
    connection.bind()
    with pytest.raises(ldap_search.LDAPException):
        names(ldap_search, connection)
    connection.unbind()
    fake.assert_clean()
    no_thread_of_ldap3()
    assert ldap3.get_config_parameter("RESPONSE_WAITING_TIMEOUT") == before


@pytest.mark.parametrize("strategy", ["SYNC", "ASYNC"])
@pytest.mark.parametrize("together", [False, True], ids=["one big", "many in one"])
def test_ten_megabytes_cost_linear_time_when_sealed(
    together, strategy, ldap_search, domain, fake, serve, mocker
):
    """ldap3 reads by 4 KB and would copy what it has for each; ours hands it all."""
    if together:  # 10,000 messages in one sealed frame
        found = [entry("CN=%05d" % n, cn=[bytes(1000)]) for n in range(10000)]
    else:
        found = [entry("CN=big", member=[b"x" * 1000] * 10000)]
    directory = Directory(domain, found)
    directory.together = together
    connection = connection_to(serve(directory), ldap_search, fake, strategy)
    sizes, received = [], ldap_search.SealedSocket.recv

    def recv(self, size):
        message = received(self, size)
        sizes.append((len(message), ldap_search.message_length(message[:10])))
        return message

    mocker.patch.object(ldap_search.SealedSocket, "recv", recv)
    with connection:
        asked = connection.search("DC=x", "(cn=*)", attributes=["*"])
        entries, _ = ldap_search.answer(connection, asked)
    assert len(entries) == len(found)
    assert sum(size for size, _ in sizes) > 10_000_000
    assert all(size == whole for size, whole in sizes if size)
    assert len(sizes) <= len(found) + 3


def test_sealed_socket_copies_little_when_bytes_trickle_in(ldap_search):
    # As TCP gives them, in small pieces.
    class Plain:
        def wrap(self, message):
            return message

        def unwrap(self, blob):
            return sspi_client.Message(blob, True)

        def close(self):
            pass

    class Trickle:
        def __init__(self, size):
            clear = ber(0x30, bytes(size))
            self.left = memoryview(len(clear).to_bytes(4, "big") + clear)

        def recv(self, size):
            part, self.left = self.left[:1400], self.left[1400:]
            return part

    def cost(size):
        began = time.process_time()
        sealed = ldap_search.SealedSocket(Trickle(size), Plain())
        assert len(sealed.recv(4096)) > size
        return time.process_time() - began

    # To copy all for each piece would be 37 GB, many seconds.
    assert min(cost(10 << 20) for _ in range(3)) < 1.0


def test_sealed_socket_keeps_a_part_when_receiving_times_out(ldap_search):
    class Slow:
        parts = [b"\0\0", TimeoutError(), b"\0\5\x30\x03", TimeoutError(), b"abc", b""]

        def recv(self, size):
            part = self.parts.pop(0)
            if isinstance(part, Exception):
                raise part
            return part

    class Plain:
        def unwrap(self, blob):
            return sspi_client.Message(blob, True)

    sealed = ldap_search.SealedSocket(Slow(), Plain())
    for _ in range(2):
        with pytest.raises(TimeoutError):
            sealed.recv(4096)
    assert sealed.recv(1) == b"\x30\x03abc"
    assert sealed.recv(1) == b""


def test_connection_refuses_options_when_they_are_of_other_logons(ldap_search):
    for options in (
        {"user": "x"},
        {"password": "x"},
        {"auto_referrals": True},
        {"lazy": True},
        {"client_strategy": "REUSABLE"},
        {"client_strategy": "LDIF"},
    ):
        with pytest.raises(ValueError):
            ldap_search.SspiConnection("localhost", **options)


def test_connection_refuses_another_user_when_it_has_one(ldap_search, fake):
    connection = ldap_search.SspiConnection("localhost", secur32=fake)
    with pytest.raises(ldap_search.LDAPBindError, match="another SspiConnection"):
        connection.rebind("bob", "password")


@pytest.mark.parametrize("auto_bind", [True, "NO_TLS", "TLS_BEFORE_BIND"])
def test_connection_logs_on_at_once_when_auto_bind_says_so(
    auto_bind, ldap_search, domain, fake, serve
):
    directory = Directory(domain)
    connection = connection_to(
        serve(directory), ldap_search, fake, auto_bind=auto_bind
    )
    assert connection.bound
    connection.unbind()
    how = "bound" if auto_bind == "TLS_BEFORE_BIND" else "sealed"
    assert directory.seen[0][2] == how


def test_connection_asks_for_the_spn_of_the_server_when_pool_chose_it(
    ldap_search, domain, fake, serve
):
    import ldap3

    directory = Directory(domain)
    server = ldap3.Server("localhost", serve(directory), get_info=ldap3.NONE)
    pool = ldap3.ServerPool([server], ldap3.FIRST, active=False)
    with ldap_search.SspiConnection(pool, secur32=fake) as connection:
        assert connection.negotiated == "Kerberos"
