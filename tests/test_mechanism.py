"""mechanism() on what real implementations sent, and on everything else.

data/tokens.json holds tokens of whole handshakes and who made them; what is made
up here, since nobody sent it to us, says so.
"""

import json
import random
import time
from pathlib import Path

import pytest
from world import KERBEROS_SPN, NTLM_SPN

import sspi_client
from sspi_client import DEFAULT_FLAGS, ISC_REQ, mechanism

RECORDED = json.loads((Path(__file__).parent / "data/tokens.json").read_text("ascii"))
TOKENS = {entry["name"]: bytes.fromhex(entry["hex"]) for entry in RECORDED["tokens"]}
recorded = pytest.mark.parametrize(
    "entry", RECORDED["tokens"], ids=[entry["name"] for entry in RECORDED["tokens"]]
)
MUTATIONS = 100000  # two seconds

NTLM_KINDS = {"NTLM NEGOTIATE", "NTLM CHALLENGE", "NTLM AUTHENTICATE"}
KERBEROS_KINDS = {"Kerberos AP-REQ", "Kerberos AP-REP"}
NAMES = {"MS-Kerberos", "Kerberos", "NTLM", "NEGOEX", "Kerberos user-to-user"}
STATES = {"accept-completed", "accept-incomplete", "reject", "request-mic"}

SPNEGO = "2b0601050502"
KERBEROS = "2a864886f712010202"
MS_KERBEROS = "2a864882f712010202"
NTLM = "2b06010401823702020a"
NEGOEX = "2b06010401823702021e"
USER_TO_USER = "2a864886f71201020203"


def der(tag, *contents):
    content = b"".join(contents)
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    return bytes([tag, 0x84]) + length.to_bytes(4, "big") + content


def init(*oids, token=None, mech_list=None):
    """Make up a NegTokenInit in its GSS frame: RFC 4178 4.2.1."""
    if mech_list is None:
        mech_list = der(0x30, *(der(0x06, bytes.fromhex(oid)) for oid in oids))
    fields = [der(0xA0, mech_list)]
    if token is not None:
        fields.append(der(0xA2, der(0x04, token)))
    return der(
        0x60, der(0x06, bytes.fromhex(SPNEGO)), der(0xA0, der(0x30, *fields))
    )


def resp(state=None, token=None):
    """Make up a NegTokenResp: RFC 4178 4.2.2."""
    fields = []
    if state is not None:
        fields.append(der(0xA0, der(0x0A, state)))
    if token is not None:
        fields.append(der(0xA2, der(0x04, token)))
    return der(0xA1, der(0x30, *fields))


def krb_error(code, framed=True):
    """Make up a KRB-ERROR that has its error code alone: RFC 4120 5.9.1."""
    message = der(0x7E, der(0x30, der(0xA6, der(0x02, code))))
    if not framed:
        return message
    return der(0x60, der(0x06, bytes.fromhex(KERBEROS)), b"\3\0", message)


def sane(text):
    """Is *text* one of the things that mechanism() may say?"""
    head, colon, carried = text.partition(": ")
    if colon and not head.startswith("SPNEGO"):
        return False
    if colon and not (simple(carried) or carried == "unknown"):
        return False
    return spnego(head) if head.startswith("SPNEGO") else simple(head)


def simple(text):
    kind, _, code = text.rpartition(" ")
    if kind == "Kerberos KRB-ERROR":
        return code.lstrip("-").isdigit() and len(code) <= 11  # 32 bits, signed
    return text in NTLM_KINDS | KERBEROS_KINDS | {"unknown", "Kerberos KRB-ERROR"}


def spnego(text):
    what, parenthesis, inside = text.partition(" (")
    if what == "SPNEGO NegTokenInit":
        names = set(inside[:-1].split(", "))
        return parenthesis and names <= NAMES | {"another", ""}
    known = not parenthesis or inside[:-1] in STATES
    return what == "SPNEGO NegTokenResp" and known


# -- what it says --------------------------------------------------------------


@recorded
def test_recorded_token_is_named(entry):
    assert mechanism(bytes.fromhex(entry["hex"])) == entry["is"]


def test_recorded_tokens_are_of_four_implementations_and_all_kinds():
    makers = " ".join(entry["made_by"] for entry in RECORDED["tokens"])
    for maker in ("Wine", "gss-ntlmssp", "MIT Kerberos", "Samba", "the fake"):
        assert maker in makers
    said = " ".join(entry["is"] for entry in RECORDED["tokens"])
    for kind in NTLM_KINDS | KERBEROS_KINDS | {"KRB-ERROR", "NegTokenInit"}:
        assert kind in said


@pytest.mark.parametrize(
    "package, target, flags, said",
    [
        pytest.param("NTLM", NTLM_SPN, 0, [
            "NTLM NEGOTIATE", "NTLM CHALLENGE", "NTLM AUTHENTICATE",
        ], id="ntlm"),
        pytest.param("Kerberos", KERBEROS_SPN, 0, [
            "Kerberos AP-REQ", "Kerberos AP-REP",
        ], id="kerberos"),
        pytest.param("Kerberos", KERBEROS_SPN, ISC_REQ.USE_DCE_STYLE, [
            "Kerberos AP-REQ", "Kerberos AP-REP", "Kerberos AP-REP",
        ], id="dce-style"),
        pytest.param("Negotiate", NTLM_SPN, 0, [
            "SPNEGO NegTokenInit (NTLM): NTLM NEGOTIATE",
            "SPNEGO NegTokenResp (accept-incomplete): NTLM CHALLENGE",
            "SPNEGO NegTokenResp (accept-incomplete): NTLM AUTHENTICATE",
            "SPNEGO NegTokenResp (accept-completed)",
        ], id="negotiate-ntlm"),
        pytest.param("Negotiate", KERBEROS_SPN, 0, [
            "SPNEGO NegTokenInit (MS-Kerberos, Kerberos, NEGOEX, NTLM): "
            "Kerberos AP-REQ",
            "SPNEGO NegTokenResp (accept-completed): Kerberos AP-REP",
        ], id="negotiate-kerberos"),
    ],
)  # fmt: skip
def test_every_token_of_a_handshake_is_named(
    fake, server, package, target, flags, said
):
    heard = []

    def exchange(token):
        reply = server.accept(token)
        heard.extend(mechanism(part) for part in (token, reply) if part)
        return reply

    flow = sspi_client.authenticate(
        target, package=package, flags=DEFAULT_FLAGS | flags, secur32=fake
    )
    sspi_client.drive(flow, exchange).close()
    assert heard == said


@pytest.mark.parametrize(
    "oids, names",
    [
        pytest.param([], "", id="none"),
        pytest.param([NTLM], "NTLM", id="ntlm"),
        pytest.param(
            [MS_KERBEROS, KERBEROS, NEGOEX, NTLM],
            "MS-Kerberos, Kerberos, NEGOEX, NTLM",
            id="as-windows",
        ),
        pytest.param([USER_TO_USER], "Kerberos user-to-user", id="user-to-user"),
        pytest.param(["2a0304"], "another", id="unknown"),
        pytest.param([NTLM, "2a0304", NTLM], "NTLM, another, NTLM", id="order-is-kept"),
    ],
)
def test_init_names_the_mechanisms_that_it_offers(oids, names):
    assert mechanism(init(*oids)) == f"SPNEGO NegTokenInit ({names})"


@pytest.mark.parametrize(
    "state, name",
    [
        pytest.param(b"\0", " (accept-completed)", id="completed"),
        pytest.param(b"\1", " (accept-incomplete)", id="incomplete"),
        pytest.param(b"\2", " (reject)", id="reject"),
        pytest.param(b"\3", " (request-mic)", id="mic"),
        pytest.param(None, "", id="absent"),
        pytest.param(b"\4", "", id="undefined"),
        pytest.param(b"", "", id="empty"),
        pytest.param(b"\0\0", "", id="two-bytes"),
    ],
)
def test_resp_names_its_state(state, name):
    assert mechanism(resp(state)) == "SPNEGO NegTokenResp" + name


@pytest.mark.parametrize("framed", [True, False], ids=["framed", "bare"])
@pytest.mark.parametrize(
    "code, number",
    [
        pytest.param(b"\7", 7, id="server-unknown"),  # KDC_ERR_S_PRINCIPAL_UNKNOWN
        pytest.param(b"\x25", 37, id="skew"),  # KRB_AP_ERR_SKEW
        pytest.param(b"\x3c", 60, id="generic"),
        pytest.param(b"\0\x80", 128, id="two-bytes"),
    ],
)
def test_krb_error_tells_its_code(code, number, framed):
    assert mechanism(krb_error(code, framed)) == f"Kerberos KRB-ERROR {number}"


def test_krb_error_tells_a_negative_code_as_such():
    assert mechanism(krb_error(b"\xff")) == "Kerberos KRB-ERROR -1"


def test_krb_error_tells_no_code_of_more_than_32_bits():
    assert mechanism(krb_error(b"\x7f" * 100)) in ("unknown", "Kerberos KRB-ERROR")


def test_krb_error_without_a_code_is_one_all_the_same():
    assert mechanism(der(0x7E, der(0x30))) == "Kerberos KRB-ERROR"


@pytest.mark.parametrize("oid", [KERBEROS, MS_KERBEROS], ids=["kerberos", "microsoft"])
def test_kerberos_is_named_in_the_frame_of_either_oid(oid):
    token = TOKENS["mit-ap-req"]
    frame = der(0x60, der(0x06, bytes.fromhex(oid)), token[token.index(b"\1\0\x6e") :])
    assert mechanism(frame) == "Kerberos AP-REQ"
    assert mechanism(init(NTLM, token=frame)) == (
        "SPNEGO NegTokenInit (NTLM): Kerberos AP-REQ"
    )


@pytest.mark.parametrize(
    "carried",
    [
        b"", b"junk", b"NEGOEXTS" + bytes(88), resp(b"\0"), init(NTLM),
        b"NTLMSSP\0\4\0\0\0",
    ],
    ids=["empty", "junk", "negoex", "resp", "init", "ntlm-type-four"],
)  # fmt: skip
def test_spnego_carries_an_unknown_when_that_is_no_token(carried):
    said = [mechanism(init(NTLM, token=carried)), mechanism(resp(b"\1", carried))]
    assert said == [
        "SPNEGO NegTokenInit (NTLM): unknown",
        "SPNEGO NegTokenResp (accept-incomplete): unknown",
    ]


# -- what it does not know -----------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"\0",
        b"NTLMSSP",
        b"NTLMSSP\0",
        b"NTLMSSP\0\0\0\0\0",
        b"NTLMSSP\0\4\0\0\0",
        b"NTLMSSP\0\1\0\0\1",
        b"ntlmssp\0\1\0\0\0",
        b"TlRMTVNTUAABAAAA",
        b"Negotiate TlRMTVNTUAABAAAA",
        b"\x60",
        b"\x60\x80\0\0",
        b"\x60\x85\0\0\0\0\0",
        b"\x60\xff" + b"\xff" * 200,
        b"\x60\x84\xff\xff\xff\xff" + b"\x06\6",
        der(0x60, b""),
        der(0x60, der(0x06, bytes.fromhex(KERBEROS))),
        der(0x60, der(0x06, bytes.fromhex(KERBEROS)), b"\1\0"),
        der(0x60, der(0x06, bytes.fromhex(KERBEROS)), b"\4\0" + der(0x6E, der(0x30))),
        der(0x60, der(0x06, bytes.fromhex("2a0304")), b"\1\0" + der(0x6E, der(0x30))),
        der(0xA1, b""),
        der(0x6E, b"junk"),
        der(0x61, der(0x30)),
        init(NTLM)[:-1],
        init(NTLM) + b"\0",
        resp(b"\0") + b"\0",
    ],
    ids=[
        "empty", "one-byte", "no-nul", "no-type", "type-zero", "type-four",
        "type-of-four-bytes", "lower-case", "base64", "header", "no-length",
        "indefinite", "five-byte-length", "length-of-127-bytes", "four-gib",
        "empty-frame", "oid-alone", "no-message", "unknown-token-id", "unknown-oid",
        "empty-resp", "junk-inside", "a-ticket", "init-cut", "init-and-more",
        "resp-and-more",
    ],
)  # fmt: skip
def test_everything_else_is_unknown(token):
    assert mechanism(token) == "unknown"


@pytest.mark.parametrize(
    "thing",
    [None, "NTLMSSP\0\1\0\0\0", 5, [b"NTLMSSP\0"], object()],
    ids=["none", "str", "int", "list", "object"],
)
def test_what_is_not_bytes_is_unknown(thing):
    assert mechanism(thing) == "unknown"


def test_released_view_is_unknown():
    view = memoryview(TOKENS["mit-ap-req"])
    view.release()
    assert mechanism(view) == "unknown"


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_token_may_be_anything_like_bytes(make):
    assert mechanism(make(TOKENS["wine-kerberos-ap-req"])) == "Kerberos AP-REQ"


# -- it trusts nothing ---------------------------------------------------------


@recorded
def test_every_prefix_of_a_token_is_unknown_or_ntlm(entry):
    token = bytes.fromhex(entry["hex"])
    said = {mechanism(token[:length]) for length in range(len(token))}
    if entry["is"] in NTLM_KINDS:  # the head alone says what it is
        assert said == {"unknown", entry["is"]}
    else:
        assert said == {"unknown"}


@recorded
def test_every_suffix_of_a_token_is_named_sanely(entry):
    token = bytes.fromhex(entry["hex"])
    for start in range(len(token)):
        assert sane(mechanism(token[start:]))


@recorded
def test_token_is_unknown_or_ntlm_when_something_follows_it(entry):
    said = mechanism(bytes.fromhex(entry["hex"]) + b"\0")
    assert said == (entry["is"] if entry["is"] in NTLM_KINDS else "unknown")


def mutated(token, dice):
    """Return *token* with one to four wounds."""
    changed = bytearray(token)
    for _ in range(dice.randrange(1, 5)):
        place = dice.randrange(len(changed) + 1)
        wound = dice.randrange(6)
        if wound == 0:
            changed[place : place + 1] = bytes([dice.randrange(256)])
        elif wound == 1:  # a length or a tag, most of which are in the head
            changed[place % 40 : place % 40 + 1] = bytes([dice.choice(BAD_BYTES)])
        elif wound == 2:
            del changed[place : place + dice.randrange(1, 9)]
        elif wound == 3:
            changed[place:place] = changed[: dice.randrange(1, 40)]
        elif wound == 4:
            del changed[place:]
        else:
            changed[place:place] = bytes(dice.randrange(1, 9))
    return bytes(changed)


BAD_BYTES = [0, 1, 2, 4, 6, 0x30, 0x60, 0x6E, 0x7E, 0x7F, 0x80, 0x81, 0x84, 0x85,
             0xA0, 0xA1, 0xA2, 0xA6, 0xFF]  # fmt: skip


def test_mutated_tokens_are_named_sanely_and_soon():
    dice, tokens = random.Random(4178), list(TOKENS.values())
    slowest, heard = 0.0, set()
    for number in range(MUTATIONS):
        token = mutated(tokens[number % len(tokens)], dice)
        began = time.perf_counter()
        said = mechanism(token)
        slowest = max(slowest, time.perf_counter() - began)
        heard.add(said)
        assert sane(said), (said, token.hex())
    assert len(heard) > 30  # or the wounds were all deadly
    assert slowest < 1


def test_random_bytes_are_named_sanely():
    dice = random.Random(2743)
    for _ in range(2000):
        token = bytes(dice.getrandbits(8) for _ in range(dice.randrange(80)))
        for head in (b"", b"\x60", b"\xa1", b"NTLMSSP\0"):
            assert sane(mechanism(head + token))


MANY = 512 * 1024
HOSTILE = {
    "empty-mechanisms": lambda: init(mech_list=der(0x30, b"\x06\0" * MANY)),
    "empty-fields": lambda: der(0xA1, der(0x30, b"\xa3\0" * MANY)),
    "empty-kerberos-fields": lambda: der(0x6E, der(0x30, b"\xa0\0" * MANY)),
    "long-error-code": lambda: krb_error(b"\x7f" * 2 * MANY),
    "frames-in-frames": lambda: nested(init, 2000),
    "answers-in-answers": lambda: nested(resp, 2000),
    "zeros": lambda: bytes(2 * MANY),
    "sequences": lambda: b"\x30\x80" * MANY,
}


def nested(wrap, depth):
    token = b"NTLMSSP\0\1\0\0\0"
    for _ in range(depth):
        token = wrap(token=token)
    return token


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_token_of_a_mebibyte_made_to_hurt_takes_no_second(make):
    token = make()
    began = time.process_time()
    said = mechanism(token)
    assert time.process_time() - began < 1
    assert len(said) < 1000  # it goes into logs


def test_nothing_of_the_token_is_in_its_name():
    for token in (
        init("2a0304", token=b"secret"),
        resp(b"\1", token=b"secret"),
        b"NTLMSSP\0\3\0\0\0secret",
    ):
        assert "secret" not in mechanism(token)
