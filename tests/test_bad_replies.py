"""Every reply, and every token, bent: refused or harmless, never anything worse.

An attempt ends in one of four ways. "client": our flow raised SspiError. "server":
the server refused with SspiError. "type": our flow raised TypeError. "well": both
sides are satisfied, which only a change that carries no meaning may lead to. Any
other exception fails the test, and so does a handle that is still alive.
"""

import collections
import random

import pytest
from world import KERBEROS_SPN, NTLM_SPN, USERS

import sspi_client
from sspi_client import DEFAULT_FLAGS, ISC_REQ, SspiError

#: kind -> package, target, flags
KINDS = {
    "ntlm": ("NTLM", NTLM_SPN, DEFAULT_FLAGS),
    "negotiate-ntlm": ("Negotiate", NTLM_SPN, DEFAULT_FLAGS),
    "negotiate-kerberos": ("Negotiate", KERBEROS_SPN, DEFAULT_FLAGS),
    "negotiate-fallback": ("Negotiate", KERBEROS_SPN, DEFAULT_FLAGS),
    "kerberos-mutual": ("Kerberos", KERBEROS_SPN, DEFAULT_FLAGS),
    "kerberos-dce": ("Kerberos", KERBEROS_SPN, DEFAULT_FLAGS | ISC_REQ.USE_DCE_STYLE),
}
#: kind -> how many replies and tokens its handshake has
REPLIES = {
    "ntlm": 1,
    "negotiate-ntlm": 2,
    "negotiate-kerberos": 1,
    "negotiate-fallback": 3,
    "kerberos-mutual": 1,
    "kerberos-dce": 1,
}
TOKENS = dict(REPLIES, **{"ntlm": 2, "kerberos-dce": 2})
NUMBERS = ("first", "second", "third")
NOISE = random.Random(4178).getrandbits(8 << 20).to_bytes(1 << 20, "big")
MOST_TURNS = 6
CHALLENGE = (
    b"NTLMSSP\0\2\0\0\0" + bytes(4) + b"\x38\0\0\0" + b"\x35\x82\x88\xe2"
    + b"\1\2\3\4\5\6\7\x08" + bytes(8) + b"\4\0\4\0\x38\0\0\0" + bytes(8) + bytes(4)
)  # fmt: skip

OTHER_REPLIES = {
    "SPNEGO reject": bytes.fromhex("a1073005a0030a0102"),
    "one byte": b"\0",
    "TLS alert": b"\x15\3\3\0\2\2\x28",
    "web page": b"<html>401 Unauthorized</html>",
    "base64": b"TlRMTVNTUAACAAAA",
    "NEGOTIATE": b"NTLMSSP\0\1\0\0\0" + bytes(28),
    "AUTHENTICATE": b"NTLMSSP\0\3\0\0\0" + bytes(76),
    "Kerberos error": bytes.fromhex("7e023000"),
    "noise": NOISE,
    "noise as CHALLENGE": b"NTLMSSP\0\2\0\0\0" + NOISE,
    "noise as SPNEGO": b"\xa1\x83\x10\0\0" + NOISE,
    "noise as GSS": b"\x60\x83\x10\0\0" + NOISE,
    "noise as Kerberos": b"\x6f\x83\x10\0\0" + NOISE,
}
OTHER_TOKENS = {
    "nothing": b"",
    "one byte": b"\0",
    "TLS hello": b"\x16\3\1\0\5\1\0\0\1\0",
    "web request": b"GET / HTTP/1.1\r\n\r\n",
    "CHALLENGE": CHALLENGE,
    "noise": NOISE,
    "noise as NEGOTIATE": b"NTLMSSP\0\1\0\0\0" + NOISE,
    "noise as AUTHENTICATE": b"NTLMSSP\0\3\0\0\0" + NOISE,
    "noise as GSS": b"\x60\x83\x10\0\0" + NOISE,
    "noise as SPNEGO": b"\xa1\x83\x10\0\0" + NOISE,
    "noise as Kerberos": b"\x6e\x83\x10\0\0" + NOISE,
}
#: How many flips may end well, where more than a handful do: the realm and other
#: clear parts of a ticket, a mechanism list that no MIC covers, an optimistic token
#: for a mechanism that is not taken.
HARMLESS = {
    ("kerberos-mutual", 0): 40,
    ("kerberos-dce", 0): 40,
    ("negotiate-kerberos", 0): 64,
    ("negotiate-fallback", 0): 240,
}
HANDFUL = 5


def rungs(counts, *without):
    return pytest.mark.parametrize(
        ("kind", "turn"),
        [
            pytest.param(kind, turn, id=f"{kind}-{NUMBERS[turn]}")
            for kind, count in counts.items()
            for turn in range(count)
            if (kind, turn) not in without
        ],
    )


def attempt(fake, kind, bend_reply=None, bend_token=None, turn=0):
    """Run a handshake and bend what is exchanged at *turn*; tell how it ended."""
    package, target, flags = KINDS[kind]
    known = fake.domain
    if kind == "negotiate-fallback":
        known = sspi_client.FakeDomain("CORP", USERS)  # no service, so no Kerberos
    server = sspi_client.FakeServer(known)
    turns = []

    def exchange(token):
        at, sent = len(turns), bytes(token)
        turns.append("token")
        assert at < MOST_TURNS
        if at == turn and bend_token is not None:
            turns[at] = "bent"
            sent = bend_token(sent)
        try:
            reply = server.accept(sent)
        except SspiError as refused:
            assert refused.name.startswith("SEC_E_")
            turns.append("refused")
            raise
        if at == turn and bend_reply is not None:
            turns[at] = "bent"
            reply = bend_reply(reply, bytes(token))
        return reply

    flow = sspi_client.authenticate(target, package=package, flags=flags, secur32=fake)
    try:
        sspi_client.drive(flow, exchange).close()
        assert server.complete and server.user == "CORP\\alice"
        ended = "well"
    except TypeError:
        ended = "type"
    except SspiError as refused:
        assert refused.name in known_names() and refused.status & 0x80000000
        ended = "server" if turns[-1] == "refused" else "client"
    assert "bent" in turns or bend_reply is bend_token is None
    fake.assert_clean()
    return ended


def known_names():
    return vars(sspi_client)  # a name that is no attribute is a status without name


def attempt_reply(fake, kind, turn, reply):
    return attempt(fake, kind, bend_reply=lambda *_: reply, turn=turn)


def flip(octets, place):
    """Flip one bit of one byte; which one rotates with the place."""
    bent = octets[place] ^ 1 << place % 8
    return octets[:place] + bytes([bent]) + octets[place + 1 :]


def length_of(fake, kind, turn, what):
    """Return the length of a reply or token of the honest handshake."""
    seen = []

    def watch(*octets):
        seen.append(len(octets[0]))
        return octets[0]

    assert attempt(fake, kind, turn=turn, **{f"bend_{what}": watch}) == "well"
    return seen[0]


# Replies


@rungs(REPLIES)
def test_reply_never_reaches_sspi_when_it_is_plainly_wrong(fake, kind, turn):
    def legs(bend):
        before = fake.calls.count("InitializeSecurityContextW")
        attempt(fake, kind, bend, turn=turn)
        return fake.calls.count("InitializeSecurityContextW") - before

    wrong = [lambda _, token: token, lambda *_: None, lambda *_: b"", lambda *_: "str"]
    assert [legs(bend) for bend in wrong] == [turn + 1] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_handshake_ends_well_when_nothing_is_bent(fake, kind):
    assert attempt(fake, kind) == "well"


@rungs(REPLIES)
def test_reply_is_refused_when_there_is_none(fake, kind, turn):
    ends = [attempt_reply(fake, kind, turn, reply) for reply in (b"", None)]
    assert ends == ["client"] * 2


@rungs(REPLIES)
def test_reply_is_a_type_error_when_it_is_no_bytes(fake, kind, turn):
    others = ("oQcwBaADCgEA", "", 7, 0, ["a1"], True)
    ends = [attempt_reply(fake, kind, turn, reply) for reply in others]
    assert ends == ["type"] * len(others)


@rungs(REPLIES)
@pytest.mark.parametrize("kind_of_bytes", [bytearray, memoryview])
def test_reply_is_taken_when_it_is_another_kind_of_bytes(
    fake, kind, turn, kind_of_bytes
):
    ended = attempt(fake, kind, lambda reply, _: kind_of_bytes(reply), turn=turn)
    assert ended == "well"


@rungs(REPLIES)
def test_reply_is_refused_when_it_is_our_own_token(fake, kind, turn):
    assert attempt(fake, kind, lambda _, token: token, turn=turn) == "client"


@rungs(REPLIES)
def test_reply_is_refused_when_it_is_something_else(fake, kind, turn):
    ends = {
        what: attempt_reply(fake, kind, turn, reply)
        for what, reply in OTHER_REPLIES.items()
    }
    assert ends == dict.fromkeys(OTHER_REPLIES, "client")


@rungs(REPLIES, ("ntlm", 0))
def test_reply_is_refused_when_it_is_a_challenge_that_is_not_due(fake, kind, turn):
    assert attempt_reply(fake, kind, turn, CHALLENGE) == "client"


def test_challenge_is_taken_by_the_client_when_it_is_due(fake):
    # The counterpart: it is well-formed, and only its server does not know it.
    assert attempt_reply(fake, "ntlm", 0, CHALLENGE) == "server"


@rungs(REPLIES)
def test_reply_is_refused_when_it_is_cut_at_any_byte(fake, kind, turn):
    length = length_of(fake, kind, turn, "reply")
    ends = collections.Counter(
        attempt(fake, kind, lambda reply, _, n=n: reply[:n], turn=turn)
        for n in range(length)
    )
    assert ends == {"client": length}


@rungs(REPLIES)
def test_reply_is_refused_when_anything_follows_it(fake, kind, turn):
    ended = attempt(fake, kind, lambda reply, _: reply + b"\0", turn=turn)
    # Behind NTLM's fields there may be anything; its MIC covers that too.
    assert ended == ("server" if kind == "ntlm" else "client")


@rungs(REPLIES)
def test_reply_is_refused_or_harmless_when_any_bit_is_flipped(fake, kind, turn):
    length = length_of(fake, kind, turn, "reply")
    ends = collections.Counter(
        attempt(fake, kind, lambda reply, _, n=n: flip(reply, n), turn=turn)
        for n in range(length)
    )
    assert sum(ends.values()) == length
    assert ends["well"] <= HANDFUL and not ends["type"]


# Tokens


@rungs(TOKENS)
def test_token_is_refused_when_it_is_cut_at_any_byte(fake, kind, turn):
    length = length_of(fake, kind, turn, "token")
    ends = collections.Counter(
        attempt(fake, kind, bend_token=lambda token, n=n: token[:n], turn=turn)
        for n in range(length)
    )
    assert ends == {"server": length}


@rungs(TOKENS)
def test_token_is_refused_or_harmless_when_any_bit_is_flipped(fake, kind, turn):
    length = length_of(fake, kind, turn, "token")
    ends = collections.Counter(
        attempt(fake, kind, bend_token=lambda token, n=n: flip(token, n), turn=turn)
        for n in range(length)
    )
    assert sum(ends.values()) == length
    assert ends["well"] <= HARMLESS.get((kind, turn), HANDFUL) and not ends["type"]


@rungs(TOKENS)
def test_token_is_refused_when_it_is_something_else(fake, kind, turn):
    ends = {
        what: attempt(fake, kind, bend_token=lambda _, token=token: token, turn=turn)
        for what, token in OTHER_TOKENS.items()
    }
    # The noise may ask for raw NTLM and get a challenge, which our side refuses.
    if turn == 0 and ends["noise as NEGOTIATE"] == "client":
        ends["noise as NEGOTIATE"] = "server"
    assert ends == dict.fromkeys(OTHER_TOKENS, "server")


@pytest.mark.parametrize(
    "token", ["YIIB", None, 7, ["a1"]], ids=["str", "none", "int", "list"]
)
def test_server_raises_type_error_when_a_token_is_no_bytes(server, token):
    with pytest.raises(TypeError):
        server.accept(token)


@pytest.mark.parametrize("kind_of_bytes", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("kind", KINDS)
def test_token_is_taken_when_it_is_another_kind_of_bytes(fake, kind, kind_of_bytes):
    assert attempt(fake, kind, bend_token=kind_of_bytes) == "well"


@pytest.mark.parametrize("kind", KINDS)
def test_server_refuses_any_token_after_it_is_complete(fake, domain, kind):
    if kind == "negotiate-fallback":
        domain = sspi_client.FakeDomain("CORP", USERS)
    package, target, flags = KINDS[kind]
    server = sspi_client.FakeServer(domain)
    tokens = []

    def exchange(token):
        tokens.append(bytes(token))
        return server.accept(token)

    flow = sspi_client.authenticate(target, package=package, flags=flags, secur32=fake)
    sspi_client.drive(flow, exchange).close()
    assert server.complete
    for token in [*tokens, b"", b"more"]:
        with pytest.raises(SspiError, match="SEC_E_INVALID_TOKEN"):
            server.accept(token)


@rungs(REPLIES)
def test_reply_is_refused_or_harmless_when_spliced_at_random(fake, kind, turn):
    chance = random.Random(f"{kind} {turn}")

    def splice(reply, _):
        at, length = chance.randrange(len(reply)), chance.randrange(1, 9)
        piece = bytes(chance.choice(b"\0\1\x7f\x80\xff\xa0\x30") for _ in range(length))
        return reply[:at] + piece + reply[at + chance.randrange(9) :]

    ends = collections.Counter(
        attempt(fake, kind, splice, turn=turn) for _ in range(100)
    )
    assert sum(ends.values()) == 100
    assert ends["client"] + ends["server"] > 50 and not ends["type"]
