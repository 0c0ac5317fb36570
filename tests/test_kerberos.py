"""The stand-in Kerberos: the frames, the legs and the refusals of the real one.

Frames are RFC 4120's and RFC 4121's, written out here by hand; the cryptography is
the module's own and says so: encryption type -128.
"""

import pytest
from world import BINDINGS, KERBEROS_SPN, NTLM_SPN, USERS

import sspi_client
from sspi_client import ISC_REQ, ISC_RET, Identity, SspiError

OID = bytes.fromhex("06092a864886f712010202")  # 1.2.840.113554.1.2.2
DEFAULT = sspi_client.DEFAULT_FLAGS
ONE_WAY = DEFAULT & ~ISC_REQ.MUTUAL_AUTH
DCE = DEFAULT | ISC_REQ.USE_DCE_STYLE
PACKAGES = ["Kerberos", "Negotiate"]


def elements(content):
    """Return the elements of a constructed one, in order: (tag, content)."""
    found = []
    while content:
        length, start = content[1], 2
        if length & 0x80:
            start = 2 + (length & 0x7F)
            length = int.from_bytes(content[2:start], "big")
        found.append((content[0], content[start : start + length]))
        content = content[start + length :]
    return found


def inside(token, *path):
    """Follow tags inwards: each must be there once."""
    for tag in path:
        (token,) = [content for found, content in elements(token) if found == tag]
    return token


def begin(fake, target=KERBEROS_SPN, **options):
    options.setdefault("package", "Kerberos")
    flow = sspi_client.authenticate(target, secur32=fake, **options)
    return flow, bytes(next(flow))


def first_token(fake, **options):
    flow, token = begin(fake, **options)
    flow.close()
    return token


def refusal(flow, reply=None):
    with pytest.raises(SspiError) as caught:
        next(flow) if reply is None else flow.send(reply)
    return caught.value.name


def server_refusal(server, token):
    with pytest.raises(SspiError) as caught:
        server.accept(token)
    assert not server.complete and server.user == ""
    return caught.value.name


def ladder(fake, server, **options):
    """Run a handshake and return [(token, final, reply)]."""
    rungs = []

    def exchange(token):
        reply = server.accept(token)
        rungs.append((bytes(token), token.final, reply))
        return reply

    options.setdefault("package", "Kerberos")
    flow = sspi_client.authenticate(KERBEROS_SPN, secur32=fake, **options)
    sspi_client.drive(flow, exchange).close()
    assert server.complete
    return rungs


def flip(octets, place):
    place %= len(octets)
    return octets[:place] + bytes([octets[place] ^ 1]) + octets[place + 1 :]


# Shapes


def test_first_token_has_the_gss_header(fake):
    content = inside(first_token(fake), 0x60)
    assert content.startswith(OID + b"\1\0" + b"\x6e")  # TOK_ID 01 00, APPLICATION 14


def ap_req(token):
    return inside(inside(token, 0x60)[len(OID) + 2 :], 0x6E, 0x30)


def test_ap_req_says_version_five_and_type_fourteen(fake):
    request = ap_req(first_token(fake))
    assert (inside(request, 0xA0), inside(request, 0xA1)) == (b"\2\1\5", b"\2\1\x0e")


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        pytest.param(DEFAULT, "20", id="mutual"),
        pytest.param(ONE_WAY, "00", id="one-way"),
    ],
)
def test_ap_req_asks_for_mutual_authentication_when(fake, flags, options):
    request = ap_req(first_token(fake, flags=flags))
    assert inside(request, 0xA2) == bytes.fromhex("030500" + options + "000000")


def test_ap_req_carries_a_ticket_of_the_realm(fake):
    ticket = inside(ap_req(first_token(fake)), 0xA3, 0x61, 0x30)
    assert inside(ticket, 0xA1) == b"\x1b\x09CORP.TEST"


def test_ticket_is_for_the_service_that_was_named(fake):
    ticket = inside(ap_req(first_token(fake)), 0xA3, 0x61, 0x30)
    name = inside(ticket, 0xA2, 0x30)
    assert name == (
        b"\xa0\3\2\1\2"  # NT-SRV-INST
        b"\xa1\x17\x30\x15" + b"\x1b\x04HTTP" + b"\x1b\x0dweb.corp.test"
    )


@pytest.mark.parametrize(
    "path",
    [
        pytest.param((0xA3, 0x61, 0x30, 0xA3, 0x30), id="ticket"),
        pytest.param((0xA4, 0x30), id="authenticator"),
    ],
)
def test_encryption_type_is_the_private_one(fake, path):
    encrypted = inside(ap_req(first_token(fake)), *path)
    assert inside(encrypted, 0xA0) == b"\2\1\x80"  # -128: RFC 3961, local use


def test_ap_rep_is_framed_when_mutual(fake, server):
    (_, _, reply), *_ = ladder(fake, server)
    content = inside(reply, 0x60)
    assert content.startswith(OID + b"\2\0" + b"\x6f")  # TOK_ID 02 00, APPLICATION 15


def test_ap_rep_says_version_five_and_type_fifteen(fake, server):
    (_, _, reply), *_ = ladder(fake, server)
    message = inside(inside(reply, 0x60)[len(OID) + 2 :], 0x6F, 0x30)
    assert (inside(message, 0xA0), inside(message, 0xA1)) == (b"\2\1\5", b"\2\1\x0f")


def test_dce_style_has_no_gss_header(fake, server):
    rungs = ladder(fake, server, flags=DCE)
    tags = [part[0] for token, _, reply in rungs for part in (token, reply) if part]
    assert tags == [0x6E, 0x6F, 0x6F]


def test_password_is_nowhere_in_the_tokens(fake, server):
    whole = b"".join(token for token, _, _ in ladder(fake, server))
    assert USERS["alice"].encode() not in whole and b"alice" not in whole


def test_tokens_differ_from_logon_to_logon(fake):
    assert first_token(fake) != first_token(fake)


# Legs


@pytest.mark.parametrize(
    ("flags", "shape"),
    [
        pytest.param(ONE_WAY, [(True, False)], id="one-without-mutual-auth"),
        pytest.param(DEFAULT, [(False, True)], id="two-with-mutual-auth"),
        pytest.param(DCE, [(False, True), (True, False)], id="three-in-dce-style"),
        pytest.param(
            ONE_WAY | ISC_REQ.USE_DCE_STYLE,
            [(False, True), (True, False)],
            id="three-in-dce-style-alone",
        ),
    ],
)
def test_kerberos_takes_as_many_legs_as_flags_say(fake, server, flags, shape):
    rungs = ladder(fake, server, flags=flags)
    assert [(final, reply is not None) for _, final, reply in rungs] == shape


@pytest.mark.parametrize(
    ("flags", "rounds"),
    [
        pytest.param(ONE_WAY, 1, id="without-mutual-auth"),
        pytest.param(DEFAULT, 1, id="with-mutual-auth"),
        pytest.param(DCE, 2, id="dce-style"),
    ],
)
def test_negotiate_answers_every_token_of_kerberos(fake, server, flags, rounds):
    rungs = ladder(fake, server, package="Negotiate", flags=flags)
    told = [(final, reply is not None) for _, final, reply in rungs]
    assert told == [(False, True)] * rounds


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("flags", [ONE_WAY, DEFAULT, DCE], ids=["one", "two", "dce"])
def test_server_tells_user_package_and_target(fake, server, flags, package):
    ladder(fake, server, flags=flags, package=package)
    told = (server.user, server.package, server.target)
    assert told == ("CORP\\alice", "Kerberos", KERBEROS_SPN)


@pytest.mark.parametrize("package", PACKAGES)
def test_context_tells_kerberos(fake, server, package):
    flow = sspi_client.authenticate(KERBEROS_SPN, package=package, secur32=fake)
    with sspi_client.drive(flow, server.accept) as context:
        assert context.package == "Kerberos"


@pytest.mark.parametrize(
    ("flags", "granted", "refused"),
    [
        pytest.param(DEFAULT, ISC_RET.MUTUAL_AUTH, ISC_RET.DELEGATE, id="mutual"),
        pytest.param(DCE, ISC_RET.USED_DCE_STYLE, 0, id="dce-style"),
        pytest.param(
            DEFAULT | ISC_REQ.NO_INTEGRITY,
            ISC_RET.MUTUAL_AUTH,
            ISC_RET.INTEGRITY | ISC_RET.CONFIDENTIALITY,
            id="no-integrity",
        ),
        pytest.param(
            DEFAULT | ISC_REQ.DELEGATE, ISC_RET.INTEGRITY, ISC_RET.DELEGATE,
            id="delegation-that-nobody-may",
        ),
    ],
)  # fmt: skip
def test_granted_flags_follow_what_was_asked_for(fake, server, flags, granted, refused):
    flow = sspi_client.authenticate(
        KERBEROS_SPN, package="Kerberos", flags=flags, secur32=fake
    )
    with sspi_client.drive(flow, server.accept) as context:
        assert context.flags & granted == granted
        assert not context.flags & refused


@pytest.mark.parametrize(
    ("spelling", "of"),
    [
        pytest.param("alice@corp.test", None, id="principal-name"),
        pytest.param("ALICE", "corp", id="other-case"),
        pytest.param("alice", "", id="no-domain"),
    ],
)
def test_kerberos_knows_the_user_when_spelled(fake, server, spelling, of):
    ladder(fake, server, identity=Identity(spelling, USERS["alice"], of))
    assert server.user == "CORP\\alice"


def test_kerberos_knows_the_target_in_another_case(fake, server):
    flow = sspi_client.authenticate(
        KERBEROS_SPN.upper(), package="Kerberos", secur32=fake
    )
    with sspi_client.drive(flow, server.accept):
        assert server.complete


# What a client refuses


def test_client_refuses_a_target_that_nobody_knows(fake):
    flow = sspi_client.authenticate(NTLM_SPN, package="Kerberos", secur32=fake)
    assert refusal(flow) == "SEC_E_TARGET_UNKNOWN"


def test_negotiate_refuses_an_unknown_target_when_ntlm_is_not_allowed(fake):
    flow = sspi_client.authenticate(NTLM_SPN, allow_ntlm=False, secur32=fake)
    assert refusal(flow) == "SEC_E_TARGET_UNKNOWN"


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("password", ["wrong", ""], ids=["wrong", "none"])
def test_client_is_denied_when_the_password_is(fake, package, password):
    identity = Identity("alice", password, "CORP")
    flow = sspi_client.authenticate(
        KERBEROS_SPN, identity, package=package, secur32=fake
    )
    assert refusal(flow) == "SEC_E_LOGON_DENIED"


@pytest.mark.parametrize(
    ("user", "of"),
    [pytest.param("mallory", "CORP", id="user"), pytest.param("alice", "X", id="of")],
)
def test_client_is_denied_when_nobody_has_the_name(fake, user, of):
    identity = Identity(user, USERS["alice"], of)
    flow = sspi_client.authenticate(
        KERBEROS_SPN, identity, package="Kerberos", secur32=fake
    )
    assert refusal(flow) == "SEC_E_LOGON_DENIED"


def test_client_refuses_the_answer_to_another_request(fake, domain):
    (_, _, stale), *_ = ladder(fake, sspi_client.FakeServer(domain))
    flow, _ = begin(fake)
    assert refusal(flow, stale) == "SEC_E_MESSAGE_ALTERED"


def test_client_refuses_its_own_proof_in_dce_style(fake):
    # A reflection: what the third leg says is not what the second must say.
    flow, _ = begin(fake, flags=DCE)
    (context,) = fake._raw.contexts.values()
    key = context.mechanism._key
    forged = sspi_client._kerberos_ap_rep(key, b"client")
    assert refusal(flow, forged) == "SEC_E_MUTUAL_AUTH_FAILED"


def test_client_refuses_an_answer_that_was_altered(fake, server):
    flow, token = begin(fake)
    assert refusal(flow, flip(server.accept(token), -1)) == "SEC_E_MESSAGE_ALTERED"


def test_client_refuses_a_framed_answer_in_dce_style(fake, server):
    flow, token = begin(fake, flags=DCE)
    reply = sspi_client._gss_frame(OID[2:], b"\2\0" + server.accept(token))
    assert refusal(flow, reply) == "SEC_E_INVALID_TOKEN"


def test_client_refuses_an_answer_without_its_frame(fake, server):
    flow, token = begin(fake)
    reply = inside(server.accept(token), 0x60)[len(OID) + 2 :]
    assert refusal(flow, reply) == "SEC_E_INVALID_TOKEN"


def test_client_refuses_the_error_token_of_kerberos(fake):
    flow, _ = begin(fake)
    reply = sspi_client._gss_frame(OID[2:], b"\3\0\x7e\x02\x30\x00")  # KRB-ERROR
    assert refusal(flow, reply) == "SEC_E_INVALID_TOKEN"


# What a server refuses


def test_server_refuses_a_ticket_of_another_domain(fake):
    twin = sspi_client.FakeDomain("CORP", USERS, [KERBEROS_SPN])  # other keys
    server = sspi_client.FakeServer(twin)
    assert server_refusal(server, first_token(fake)) == "SEC_E_MESSAGE_ALTERED"


def test_server_refuses_a_ticket_for_a_service_it_is_not(fake):
    other = sspi_client.FakeDomain("CORP", USERS, ["HTTP/other.corp.test"])
    server = sspi_client.FakeServer(other)
    assert server_refusal(server, first_token(fake)) == "SEC_E_WRONG_PRINCIPAL"


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(
    ("ours", "theirs", "status"),
    [
        pytest.param(None, None, None, id="none-at-all"),
        pytest.param(BINDINGS, None, None, id="server-without"),
        pytest.param(BINDINGS, BINDINGS, None, id="equal"),
        pytest.param(None, BINDINGS, "SEC_E_BAD_BINDINGS", id="client-without"),
        pytest.param(BINDINGS, BINDINGS + b"x", "SEC_E_BAD_BINDINGS", id="different"),
    ],
)
def test_server_compares_the_bindings(fake, domain, package, ours, theirs, status):
    server = sspi_client.FakeServer(domain, channel_bindings=theirs)
    token = first_token(fake, package=package, channel_bindings=ours)
    if status is None:
        assert server.accept(token)
    else:
        assert server_refusal(server, token) == status


@pytest.mark.parametrize("flags", [DEFAULT, DCE], ids=["framed", "dce-style"])
def test_server_refuses_a_request_that_was_altered(fake, server, flags):
    token = flip(first_token(fake, flags=flags), -1)
    assert server_refusal(server, token) == "SEC_E_MESSAGE_ALTERED"


def test_server_refuses_a_framed_request_that_speaks_of_dce_style(fake, server):
    token = sspi_client._gss_frame(OID[2:], b"\1\0" + first_token(fake, flags=DCE))
    assert server_refusal(server, token) == "SEC_E_INVALID_TOKEN"


def test_server_refuses_an_unframed_request_without_dce_style(fake, server):
    token = inside(first_token(fake), 0x60)[len(OID) + 2 :]
    assert server_refusal(server, token) == "SEC_E_INVALID_TOKEN"


def test_server_refuses_its_own_proof_as_the_third_leg(fake, server):
    flow, token = begin(fake, flags=DCE)
    reply = server.accept(token)
    assert server_refusal(server, reply) == "SEC_E_MUTUAL_AUTH_FAILED"
    flow.close()


def test_server_is_not_complete_before_the_third_leg(fake, server):
    server.accept(first_token(fake, flags=DCE))
    assert (server.complete, server.user) == (False, "")


@pytest.mark.parametrize("flags", [ONE_WAY, DEFAULT], ids=["one-way", "mutual"])
def test_server_refuses_a_token_after_the_last(fake, server, flags):
    token = first_token(fake, flags=flags)
    server.accept(token)
    with pytest.raises(SspiError) as caught:
        server.accept(token)
    assert caught.value.name == "SEC_E_INVALID_TOKEN"


# Messages


def pair():
    key = bytes(range(16))
    return (
        sspi_client._KerberosSession(key, client=True),
        sspi_client._KerberosSession(key, client=False),
    )


def verify_refusal(session, data, signature):
    with pytest.raises(SspiError) as caught:
        session.verify(data, signature)
    return caught.value.name


@pytest.mark.parametrize(
    ("end", "flags"),
    [pytest.param(0, "00", id="client"), pytest.param(1, "01", id="server")],
)
def test_mic_token_is_laid_out_as_rfc_4121_has_it(end, flags):
    session = pair()[end]
    session.sign(b"first")
    token = session.sign(b"second")
    # TOK_ID, flags (SentByAcceptor), filler, the number
    assert token[:16].hex() == "0404" + flags + "ff" * 5 + "0000000000000001"


def test_mic_token_has_twenty_eight_bytes():
    assert len(pair()[0].sign(b"data")) == 28


def test_mic_tokens_verify_in_both_directions():
    client, server = pair()
    for data in (b"one", b"", b"three"):
        server.verify(data, client.sign(data))
        client.verify(data, server.sign(data))


def test_mic_token_is_refused_when_it_comes_twice():
    client, server = pair()
    token = client.sign(b"data")
    server.verify(b"data", token)
    assert verify_refusal(server, b"data", token) == "SEC_E_OUT_OF_SEQUENCE"


def test_mic_token_is_refused_when_one_before_it_is_missing():
    client, server = pair()
    client.sign(b"lost")
    token = client.sign(b"data")
    assert verify_refusal(server, b"data", token) == "SEC_E_OUT_OF_SEQUENCE"


def test_mic_token_is_refused_when_it_is_our_own():
    client, _ = pair()
    assert verify_refusal(client, b"data", client.sign(b"data")) == (
        "SEC_E_MESSAGE_ALTERED"
    )


@pytest.mark.parametrize("place", range(28))
def test_mic_token_is_refused_when_a_byte_of_it_was_altered(place):
    client, server = pair()
    token = flip(client.sign(b"data"), place)
    assert verify_refusal(server, b"data", token) == "SEC_E_MESSAGE_ALTERED"


@pytest.mark.parametrize("length", [0, 8, 15, 27, 29], ids="0 8 15 27 29".split())
def test_mic_token_is_refused_when_it_has_another_length(length):
    client, server = pair()
    token = (client.sign(b"data") + bytes(1))[:length]
    assert verify_refusal(server, b"data", token) == "SEC_E_MESSAGE_ALTERED"


def test_mic_token_is_refused_when_the_data_was_altered():
    client, server = pair()
    token = client.sign(b"data")
    assert verify_refusal(server, b"Data", token) == "SEC_E_MESSAGE_ALTERED"


def test_verifying_goes_on_after_a_refused_mic_token():
    client, server = pair()
    token = client.sign(b"data")
    verify_refusal(server, b"Data", token)
    server.verify(b"data", token)
    server.verify(b"next", client.sign(b"next"))


def test_wrap_token_is_laid_out_as_rfc_4121_has_it_when_sealed():
    token, ciphertext = pair()[0].seal(b"plaintext", True)
    # TOK_ID, Sealed, filler, EC 0, RRC 28, the number
    assert token[:16].hex() == "050402ff0000001c0000000000000000"
    assert (len(token), len(ciphertext)) == (60, 9)


def test_wrap_token_is_laid_out_as_rfc_4121_has_it_when_not_sealed():
    token, text = pair()[0].seal(b"plaintext", False)
    assert token[:16].hex() == "050400ff000c000c0000000000000000"
    assert (len(token), text) == (28, b"plaintext")


@pytest.mark.parametrize("encrypt", [True, False], ids=["sealed", "not-sealed"])
@pytest.mark.parametrize("text", [b"", b"a", bytes(300)], ids=["empty", "one", "long"])
def test_wrapped_messages_open_in_both_directions(encrypt, text):
    client, server = pair()
    assert server.unseal(*client.seal(text, encrypt)) == (text, encrypt)
    assert client.unseal(*server.seal(text, encrypt)) == (text, encrypt)


@pytest.mark.parametrize("encrypt", [True, False], ids=["sealed", "not-sealed"])
def test_wrapped_message_is_refused_when_any_byte_was_altered(encrypt):
    client, server = pair()
    token, text = client.seal(b"text", encrypt)
    refused = 0
    for place in range(len(token) + len(text)):
        altered = flip(token + text, place)
        with pytest.raises(SspiError):
            server.unseal(altered[: len(token)], altered[len(token) :])
        refused += 1
    assert refused == (64 if encrypt else 32)
    assert server.unseal(token, text) == (b"text", encrypt)
