"""SPNEGO below the cut: RFC 4178 on the wire, and MS-SPNG where Windows adds to it.

The DER here is written out by hand; only the handshakes take their mechanism's
tokens from the fake.
"""

import hmac

import pytest
from world import BINDINGS, KERBEROS_SPN, NTLM_SPN, USERS

import sspi_client
from sspi_client import SspiError

NTLM_OID = bytes.fromhex("060a2b06010401823702020a")  # 1.3.6.1.4.1.311.2.2.10
KERBEROS_OID = bytes.fromhex("06092a864886f712010202")  # 1.2.840.113554.1.2.2
MS_KERBEROS_OID = bytes.fromhex("06092a864882f712010202")  # 1.2.840.48018.1.2.2
SPNEGO_OID = bytes.fromhex("06062b0601050502")  # 1.3.6.1.5.5.2
NEGOEX_OID = bytes.fromhex("060a2b06010401823702021e")  # 1.3.6.1.4.1.311.2.2.30
# In the order of FreeRDP#8274.
BOTH = bytes.fromhex("302e") + MS_KERBEROS_OID + KERBEROS_OID + NEGOEX_OID + NTLM_OID
NTLM_ALONE = bytes.fromhex("300c") + NTLM_OID
KERBEROS_ALONE = bytes.fromhex("3022") + MS_KERBEROS_OID + KERBEROS_OID + NEGOEX_OID
COMPLETED, INCOMPLETE, REJECT, REQUEST_MIC = 0, 1, 2, 3
ACCEPTED = bytes.fromhex("a1073005a0030a0100")  # base64: oQcwBaADCgEA
REJECTED = bytes.fromhex("a1073005a0030a0102")
WITHOUT_MUTUAL = sspi_client.DEFAULT_FLAGS & ~sspi_client.ISC_REQ.MUTUAL_AUTH


def der(tag, *contents):
    content = b"".join(contents)
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    if len(content) < 256:
        return bytes([tag, 0x81, len(content)]) + content
    return bytes([tag, 0x82]) + len(content).to_bytes(2, "big") + content


def resp(state=None, oid=b"", token=None, mic=None):
    """Write a NegTokenResp; what is None is left out."""
    fields = b""
    if state is not None:
        fields += bytes([0xA0, 3, 0x0A, 1, state])
    if oid:
        fields += der(0xA1, oid)
    if token is not None:
        fields += der(0xA2, der(0x04, token))
    if mic is not None:
        fields += der(0xA3, der(0x04, mic))
    return der(0xA1, der(0x30, fields))


def elements(content):
    """Return the elements of a constructed one, by tag."""
    found = {}
    while content:
        length, start = content[1], 2
        if length & 0x80:
            start = 2 + (length & 0x7F)
            length = int.from_bytes(content[2:start], "big")
        assert content[0] not in found
        found[content[0]] = content[start : start + length]
        assert len(found[content[0]]) == length
        content = content[start + length :]
    return found


def parts(token):
    """Return (negState, supportedMech, responseToken, mechListMIC) or Nones."""
    fields = elements(elements(elements(token)[0xA1])[0x30])
    state = fields[0xA0][2] if 0xA0 in fields else None
    token, mic = (
        elements(fields[tag])[0x04] if tag in fields else None for tag in (0xA2, 0xA3)
    )
    return state, fields.get(0xA1), token, mic


def begin(fake, target=NTLM_SPN, **options):
    flow = sspi_client.authenticate(target, secur32=fake, **options)
    return flow, bytes(next(flow))


def refusal(flow, reply):
    with pytest.raises(SspiError) as caught:
        flow.send(reply)
    return caught.value.name


def server_refusal(server, token):
    with pytest.raises(SspiError) as caught:
        server.accept(token)
    assert not server.complete
    return caught.value


def finished(flow, reply):
    """Send the last reply and return the context."""
    with pytest.raises(StopIteration) as done:
        flow.send(reply)
    return done.value.value


def ladder(fake, server, target=NTLM_SPN, **options):
    """Run a handshake and return its tokens, ours and theirs, as bytes."""
    tokens = []

    def exchange(token):
        tokens.append(bytes(token))
        reply = server.accept(token)
        tokens.append(reply)
        return reply

    flow = sspi_client.authenticate(target, secur32=fake, **options)
    sspi_client.drive(flow, exchange).close()
    assert server.complete
    return tokens


def without_kerberos():
    """The same people in a domain that has no service: its server lacks Kerberos."""
    return sspi_client.FakeServer(sspi_client.FakeDomain("CORP", USERS))


def to_last_leg(fake, server, **options):
    """Fall back to NTLM; return (flow, its token with AUTHENTICATE and MIC)."""
    flow, token = begin(fake, KERBEROS_SPN, **options)
    token = flow.send(server.accept(token))
    return flow, bytes(flow.send(server.accept(token)))


# The bytes


@pytest.mark.parametrize(
    ("length", "header"),
    [
        pytest.param(0, "0400", id="empty"),
        pytest.param(0x7F, "047f", id="longest-short-form"),
        pytest.param(0x80, "048180", id="shortest-long-form"),
        pytest.param(0xFF, "0481ff", id="one-octet"),
        pytest.param(0x100, "04820100", id="two-octets"),
        pytest.param(0x10000, "0483010000", id="three-octets"),
    ],
)
def test_der_length_is_encoded_when(length, header):
    encoded = sspi_client._der(0x04, bytes(length))
    assert encoded == bytes.fromhex(header) + bytes(length)


@pytest.mark.parametrize(
    "length", [0, 1, 0x7F, 0x80, 0x100, 0x10000], ids="none one 7f 80 100 10000".split()
)
def test_der_is_split_as_it_was_encoded(length):
    encoded = sspi_client._der(0x30, bytes(length)) + b"rest"
    assert sspi_client._der_split(encoded) == (0x30, bytes(length), b"rest")


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param("", id="nothing"),
        pytest.param("30", id="no-length"),
        pytest.param("3001", id="no-content"),
        pytest.param("3080", id="indefinite-length"),
        pytest.param("3081", id="no-long-length"),
        pytest.param("308101", id="no-long-content"),
        pytest.param("3085000000000100", id="five-octets-of-length"),
        pytest.param("3084ffffffff00", id="four-gigabytes"),
        pytest.param("30ff" + "00" * 127, id="reserved-length"),
    ],
)
def test_der_that_is_broken_is_refused(encoded):
    with pytest.raises(ValueError):
        sspi_client._der_split(bytes.fromhex(encoded))


def test_init_token_is_as_written_by_hand_when_ntlm_is_all_there_is(fake):
    flow, token = begin(fake)
    flow.close()
    assert token == (
        bytes.fromhex("6048") + SPNEGO_OID  # APPLICATION 0
        + bytes.fromhex("a03e303c")  # negTokenInit
        + bytes.fromhex("a00e") + NTLM_ALONE  # mechTypes
        + bytes.fromhex("a22a0428")  # mechToken
        + bytes.fromhex("4e544c4d5353500001000000b78208e2")
        + bytes(16) + bytes.fromhex("0a00614a0000000f")
    )  # fmt: skip


def init_fields(token):
    frame = elements(token)[0x60]
    assert frame.startswith(SPNEGO_OID)
    return elements(elements(elements(frame[len(SPNEGO_OID) :])[0xA0])[0x30])


def test_init_token_offers_kerberos_and_ntlm_when_the_target_has_a_key(fake):
    flow, token = begin(fake, KERBEROS_SPN)
    flow.close()
    assert init_fields(token)[0xA0] == BOTH


def test_init_token_offers_kerberos_alone_when_ntlm_is_not_allowed(fake):
    flow, token = begin(fake, KERBEROS_SPN, allow_ntlm=False)
    flow.close()
    assert init_fields(token)[0xA0] == KERBEROS_ALONE


def test_init_token_carries_an_optimistic_token_of_the_first_mechanism(fake):
    flow, token = begin(fake, KERBEROS_SPN)
    flow.close()
    mech_token = elements(init_fields(token)[0xA2])[0x04]
    assert elements(mech_token)[0x60].startswith(KERBEROS_OID)


def test_init_token_holds_nothing_else(fake):
    flow, token = begin(fake, KERBEROS_SPN)
    flow.close()
    assert init_fields(token).keys() == {0xA0, 0xA2}


def test_challenge_is_wrapped_as_written_by_hand(fake, server):
    flow, token = begin(fake)
    flow.close()
    reply = server.accept(token)
    challenge = reply[reply.index(b"NTLMSSP\0") :]
    inner = b"\xa0\3\x0a\1\1" + b"\xa1\x0c" + NTLM_OID
    assert reply == der(0xA1, der(0x30, inner, der(0xA2, der(0x04, challenge))))


def test_later_tokens_of_the_client_have_a_state_and_no_mechanism(fake, server):
    authenticate = ladder(fake, server)[2]  # as captures of Windows have it
    assert parts(authenticate)[:2] == (INCOMPLETE, None)


# The ladders


def test_kerberos_is_accepted_in_one_round_when_optimistic(fake, server):
    _, reply = ladder(fake, server, KERBEROS_SPN)
    assert parts(reply)[:2] == (COMPLETED, MS_KERBEROS_OID)
    assert server.package == "Kerberos"


def test_kerberos_needs_no_mechanism_token_back_when_not_mutual(fake, server):
    _, reply = ladder(fake, server, KERBEROS_SPN, flags=WITHOUT_MUTUAL)
    assert parts(reply) == (COMPLETED, MS_KERBEROS_OID, None, None)


def test_kerberos_needs_two_rounds_when_in_dce_style(fake, server):
    flags = sspi_client.DEFAULT_FLAGS | sspi_client.ISC_REQ.USE_DCE_STYLE
    tokens = ladder(fake, server, KERBEROS_SPN, flags=flags)
    assert [parts(t)[0] for t in tokens[1::2]] == [INCOMPLETE, COMPLETED]


def test_kerberos_alone_is_enough_when_ntlm_is_not_allowed(fake, server):
    ladder(fake, server, KERBEROS_SPN, allow_ntlm=False)
    assert server.package == "Kerberos"


def test_ntlm_takes_two_rounds_when_it_is_all_there_is(fake, server):
    states = [parts(reply)[0] for reply in ladder(fake, server)[1::2]]
    assert states == [INCOMPLETE, COMPLETED]


def test_ntlm_sends_a_mech_list_mic_in_both_directions(fake, server):
    tokens = ladder(fake, server)
    assert [len(parts(token)[3]) for token in tokens[2:]] == [16, 16]


def test_ntlm_sends_a_mech_list_mic_when_integrity_was_not_asked_for(fake, server):
    # As Windows: inside SPNEGO its NEGOTIATE sets NTLMSSP_NEGOTIATE_SIGN always
    # (flags 0xE2088297, where plain NTLM has 0xA2088207).
    tokens = ladder(fake, server, flags=0)
    assert [len(parts(token)[3]) for token in tokens[2:]] == [16, 16]


def test_server_without_kerberos_asks_for_ntlm_and_a_mic(fake):
    _, reply, *_ = ladder(fake, without_kerberos(), KERBEROS_SPN)
    assert reply == resp(REQUEST_MIC, NTLM_OID)


def test_fallback_to_ntlm_takes_three_rounds(fake):
    replies = ladder(fake, without_kerberos(), KERBEROS_SPN)[1::2]
    assert [parts(r)[0] for r in replies] == [REQUEST_MIC, INCOMPLETE, COMPLETED]


def test_fallback_to_ntlm_starts_it_in_the_second_token(fake):
    second = ladder(fake, without_kerberos(), KERBEROS_SPN)[2]
    state, oid, token, mic = parts(second)
    assert (state, oid, mic) == (INCOMPLETE, None, None)
    assert token.startswith(b"NTLMSSP\0\1\0\0\0")


def test_fallback_to_ntlm_is_what_the_context_tells(fake):
    server = without_kerberos()
    flow = sspi_client.authenticate(KERBEROS_SPN, secur32=fake)
    with sspi_client.drive(flow, server.accept) as context:
        assert context.package == server.package == "NTLM"


def test_fallback_needs_no_mic_when_integrity_was_not_asked_for(fake):
    # RFC 4178 5: only where the mechanism offers integrity; else nobody can sign.
    server = without_kerberos()
    ladder(fake, server, KERBEROS_SPN, flags=0)
    assert server.user == "CORP\\alice"


def test_fallback_never_happens_when_ntlm_is_not_allowed(fake):
    flow, token = begin(fake, KERBEROS_SPN, allow_ntlm=False)
    flow.close()
    error = server_refusal(without_kerberos(), token)
    assert (error.name, error.token) == ("SEC_E_INVALID_TOKEN", REJECTED)


@pytest.mark.parametrize("target", [KERBEROS_SPN, NTLM_SPN], ids=["kerberos", "ntlm"])
def test_bindings_reach_the_mechanism(fake, domain, target):
    server = sspi_client.FakeServer(domain, channel_bindings=BINDINGS)
    ladder(fake, server, target, channel_bindings=BINDINGS)
    assert server.complete


@pytest.mark.parametrize("target", [KERBEROS_SPN, NTLM_SPN], ids=["kerberos", "ntlm"])
def test_server_rejects_when_the_bindings_are_missing(fake, domain, target):
    server = sspi_client.FakeServer(domain, channel_bindings=BINDINGS)
    flow, token = begin(fake, target)
    if target == NTLM_SPN:
        token = flow.send(server.accept(token))
    error = server_refusal(server, token)
    assert (error.name, error.token) == ("SEC_E_BAD_BINDINGS", REJECTED)
    flow.close()


def test_server_tells_user_and_target_from_inside_the_mechanism(fake, server):
    ladder(fake, server, KERBEROS_SPN)
    assert (server.user, server.target) == ("CORP\\alice", KERBEROS_SPN)


def test_bare_completion_is_taken_as_the_last_word(fake, server):
    flow, token = begin(fake, KERBEROS_SPN, flags=WITHOUT_MUTUAL)
    server.accept(token)
    finished(flow, ACCEPTED).close()


# What a client refuses


def test_client_reports_a_denied_logon_when_the_server_rejects(fake, server):
    flow, _ = begin(fake)
    assert refusal(flow, REJECTED) == "SEC_E_LOGON_DENIED"


def test_client_refuses_a_rejection_that_carries_the_token_of_success(fake, server):
    flow, token = begin(fake, KERBEROS_SPN)
    _, oid, answer, _ = parts(server.accept(token))
    assert refusal(flow, resp(REJECT, oid, answer)) == "SEC_E_LOGON_DENIED"


@pytest.mark.parametrize("target", [KERBEROS_SPN, NTLM_SPN], ids=["mutual", "ntlm"])
def test_client_refuses_a_completion_before_its_mechanism_is_complete(fake, target):
    flow, _ = begin(fake, target)
    assert refusal(flow, ACCEPTED) == "SEC_E_INVALID_TOKEN"


def test_client_refuses_a_completion_when_it_still_owes_a_token(fake, server):
    # RFC 4178 4.2.2: accept-completed expects no further message of the peer, and
    # here AUTHENTICATE would have to follow it.
    flow, token = begin(fake)
    _, oid, challenge, _ = parts(server.accept(token))
    try:
        assert refusal(flow, resp(COMPLETED, oid, challenge)) == "SEC_E_INVALID_TOKEN"
    finally:
        flow.close()


def test_client_refuses_a_completion_when_its_mic_was_not_answered(fake):
    server = without_kerberos()
    flow, token = to_last_leg(fake, server)
    server.accept(token)
    assert refusal(flow, ACCEPTED) == "SEC_E_INVALID_TOKEN"


def test_client_demands_a_mic_after_a_fallback_that_did_not_ask_for_one(fake):
    # RFC 4178 5: whenever the mechanism is not the preferred one.
    server = without_kerberos()
    flow, token = begin(fake, KERBEROS_SPN)
    server.accept(token)
    token = flow.send(resp(INCOMPLETE, NTLM_OID))
    token = flow.send(server.accept(token))
    server.accept(token)
    assert refusal(flow, ACCEPTED) == "SEC_E_INVALID_TOKEN"


def test_client_refuses_a_mic_that_is_wrong(fake):
    server = without_kerberos()
    flow, token = to_last_leg(fake, server)
    mic = bytearray(parts(server.accept(token))[3])
    mic[4] ^= 1
    assert refusal(flow, resp(COMPLETED, mic=bytes(mic))) == "SEC_E_MESSAGE_ALTERED"


def test_client_refuses_a_mic_for_another_list(fake):
    server = without_kerberos()
    flow, token = to_last_leg(fake, server)
    mic = server_session(fake).mech_list_mic(NTLM_ALONE)
    assert refusal(flow, resp(COMPLETED, mic=mic)) == "SEC_E_MESSAGE_ALTERED"


def server_session(fake):
    """Make the other end of the only NTLM session there is."""
    (context,) = fake._raw.contexts.values()
    key = context.mechanism._mechanism.session.key
    return sspi_client._NtlmSession(key, 0xE2088235, client=False)


def test_client_accepts_a_mic_for_its_own_list_when_made_by_hand(fake):
    # The counterpart of the test above: the list alone makes the difference.
    server = without_kerberos()
    flow, token = to_last_leg(fake, server)
    mic = server_session(fake).mech_list_mic(BOTH)
    finished(flow, resp(COMPLETED, mic=mic)).close()


def test_client_refuses_a_mic_when_there_is_no_key_yet(fake):
    flow, _ = begin(fake, KERBEROS_SPN)
    reply = resp(REQUEST_MIC, NTLM_OID, mic=bytes(16))
    assert refusal(flow, reply) == "SEC_E_INVALID_TOKEN"


def test_client_refuses_its_own_mic_back(fake):
    server = without_kerberos()
    flow, token = to_last_leg(fake, server)
    reply = resp(COMPLETED, mic=parts(token)[3])
    assert refusal(flow, reply) == "SEC_E_MESSAGE_ALTERED"


@pytest.mark.parametrize(
    ("target", "allow_ntlm", "oid"),
    [
        pytest.param(NTLM_SPN, True, KERBEROS_OID, id="kerberos"),
        pytest.param(NTLM_SPN, True, SPNEGO_OID, id="spnego-itself"),
        pytest.param(KERBEROS_SPN, False, NTLM_OID, id="ntlm"),
    ],
)
def test_client_refuses_a_mechanism_it_did_not_offer(fake, target, allow_ntlm, oid):
    flow, _ = begin(fake, target, allow_ntlm=allow_ntlm)
    reply = resp(INCOMPLETE, oid)
    assert refusal(flow, reply) == "SEC_E_INVALID_TOKEN"


def test_client_refuses_a_change_of_mechanism_in_a_later_reply(fake, server):
    flags = sspi_client.DEFAULT_FLAGS | sspi_client.ISC_REQ.USE_DCE_STYLE
    flow, token = begin(fake, KERBEROS_SPN, flags=flags)
    flow.send(server.accept(token))
    assert refusal(flow, resp(INCOMPLETE, NTLM_OID)) == "SEC_E_INVALID_TOKEN"


def test_client_refuses_a_token_of_a_mechanism_that_was_just_chosen(fake, server):
    flow, token = begin(fake)
    _, _, challenge, _ = parts(server.accept(token))
    other, _ = begin(fake, KERBEROS_SPN)
    reply = resp(REQUEST_MIC, NTLM_OID, challenge)
    assert refusal(other, reply) == "SEC_E_INVALID_TOKEN"
    flow.close()


def test_client_refuses_a_token_after_its_mechanism_is_complete(fake, server):
    flow, token = begin(fake, KERBEROS_SPN, flags=WITHOUT_MUTUAL)
    server.accept(token)
    assert refusal(flow, resp(COMPLETED, token=b"more")) == "SEC_E_INVALID_TOKEN"


def test_client_refuses_a_second_challenge(fake, server):
    flow, token = begin(fake)
    reply = server.accept(token)
    flow.send(reply)
    assert refusal(flow, reply) == "SEC_E_INVALID_TOKEN"


def test_client_refuses_a_reply_without_the_token_that_is_due(fake):
    flow, _ = begin(fake)
    assert refusal(flow, resp(INCOMPLETE, NTLM_OID)) == "SEC_E_INVALID_TOKEN"


def test_client_refuses_a_raw_challenge_inside_negotiate(fake, server):
    flow, token = begin(fake)
    _, _, challenge, _ = parts(server.accept(token))
    assert refusal(flow, challenge) == "SEC_E_INVALID_TOKEN"


def test_client_refuses_a_state_that_does_not_exist(fake):
    flow, _ = begin(fake)
    assert refusal(flow, resp(4, NTLM_OID)) == "SEC_E_INVALID_TOKEN"


def test_client_refuses_what_follows_the_reply(fake, server):
    flow, token = begin(fake, KERBEROS_SPN)
    assert refusal(flow, server.accept(token) + b"\0") == "SEC_E_INVALID_TOKEN"


def test_client_goes_on_when_a_reply_has_no_state(fake, server):
    flow, token = begin(fake, KERBEROS_SPN)
    _, oid, answer, _ = parts(server.accept(token))
    assert flow.send(resp(None, oid, answer)) == b""  # not the end: nobody said so
    finished(flow, ACCEPTED).close()


def test_client_sends_a_mic_when_kerberos_is_asked_for_one(fake, server):
    flow, token = begin(fake, KERBEROS_SPN)
    _, oid, answer, _ = parts(server.accept(token))
    token = flow.send(resp(REQUEST_MIC, oid, answer))
    server._mechanism._mechanism.session.verify(BOTH, parts(token)[3])
    mic = server._mechanism._mechanism.session.sign(BOTH)
    finished(flow, resp(COMPLETED, mic=mic)).close()


def test_client_refuses_completion_when_kerberos_was_asked_for_a_mic(fake, server):
    flow, token = begin(fake, KERBEROS_SPN)
    _, oid, answer, _ = parts(server.accept(token))
    flow.send(resp(REQUEST_MIC, oid, answer))
    assert refusal(flow, ACCEPTED) == "SEC_E_INVALID_TOKEN"


# What a server refuses


def test_server_waits_for_the_mic_when_it_asked_for_one(fake):
    server = without_kerberos()
    flow, token = to_last_leg(fake, server)
    reply = server.accept(resp(token=parts(token)[2]))
    assert parts(reply)[0] == INCOMPLETE
    assert (server.complete, server.user) == (False, "")
    flow.close()


def test_server_never_completes_when_the_mic_never_comes(fake):
    server = without_kerberos()
    flow, token = to_last_leg(fake, server)
    server.accept(resp(token=parts(token)[2]))
    server.accept(resp())
    assert not server.complete
    flow.close()


def test_server_completes_without_a_word_when_the_mic_comes_last(fake):
    server = without_kerberos()
    flow, token = to_last_leg(fake, server)
    _, _, authenticate, mic = parts(token)
    server.accept(resp(token=authenticate))
    assert server.accept(resp(mic=mic)) is None
    assert server.complete
    flow.close()


def test_server_demands_the_mic_when_the_client_made_one_inside_ntlm(fake, server):
    # RFC 4178 would let it go, Windows does not: where AUTHENTICATE holds a MIC, the
    # mechListMIC is mandatory (MS-SPNG; MIT and pyspnego say so too).
    flow, token = begin(fake)
    token = flow.send(server.accept(token))
    flow.close()
    server.accept(resp(token=parts(token)[2]))
    assert not server.complete


@pytest.mark.parametrize("place", [0, 4, 12], ids=["version", "checksum", "number"])
def test_server_refuses_a_mic_that_is_wrong(fake, place):
    server = without_kerberos()
    flow, token = to_last_leg(fake, server)
    flow.close()
    _, _, authenticate, mic = parts(token)
    mic = mic[:place] + bytes([mic[place] ^ 1]) + mic[place + 1 :]
    error = server_refusal(server, resp(token=authenticate, mic=mic))
    assert error.name in ("SEC_E_MESSAGE_ALTERED", "SEC_E_OUT_OF_SEQUENCE")
    assert error.token == REJECTED


def test_server_notices_when_kerberos_was_struck_from_the_list(fake, server):
    # The attack that the MIC is there for: a downgrade by whoever is in between.
    flow, _ = begin(fake, KERBEROS_SPN)
    struck = der(0x60, SPNEGO_OID, der(0xA0, der(0x30, der(0xA0, NTLM_ALONE))))
    token = flow.send(server.accept(struck))
    token = flow.send(server.accept(token))
    assert server_refusal(server, token).name == "SEC_E_MESSAGE_ALTERED"
    flow.close()


def test_server_refuses_a_list_without_anything_it_knows(server):
    listed = der(0x30, SPNEGO_OID)
    token = der(0x60, SPNEGO_OID, der(0xA0, der(0x30, der(0xA0, listed))))
    error = server_refusal(server, token)
    assert (error.name, error.token) == ("SEC_E_INVALID_TOKEN", REJECTED)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(der(0xA0, der(0x30)), id="no-list"),
        pytest.param(der(0xA0, der(0x30, der(0xA0, der(0x30)))), id="empty-list"),
        pytest.param(der(0xA1, der(0x30, der(0xA0, NTLM_ALONE))), id="another-tag"),
    ],
)
def test_server_refuses_an_init_token_of_another_shape(server, body):
    error = server_refusal(server, der(0x60, SPNEGO_OID, body))
    assert error.name == "SEC_E_INVALID_TOKEN"


def test_server_starts_over_when_there_is_no_optimistic_token(server):
    token = der(0x60, SPNEGO_OID, der(0xA0, der(0x30, der(0xA0, NTLM_ALONE))))
    assert server.accept(token) == resp(REQUEST_MIC, NTLM_OID)


def test_server_takes_the_first_mechanism_that_it_knows(server):
    listed = der(0x30, SPNEGO_OID, NTLM_OID, KERBEROS_OID)
    token = der(0x60, SPNEGO_OID, der(0xA0, der(0x30, der(0xA0, listed))))
    assert parts(server.accept(token))[1] == NTLM_OID


def test_server_refuses_a_second_init_token(fake, server):
    flow, token = begin(fake)
    flow.close()
    server.accept(token)
    assert server_refusal(server, token).name == "SEC_E_INVALID_TOKEN"


def test_server_refuses_a_token_after_its_mechanism_is_complete(fake):
    server = without_kerberos()
    flow, token = to_last_leg(fake, server)
    _, _, authenticate, mic = parts(token)
    server.accept(resp(token=authenticate))
    error = server_refusal(server, resp(token=authenticate, mic=mic))
    assert error.name == "SEC_E_INVALID_TOKEN"
    flow.close()


def test_server_refuses_a_mic_when_there_is_no_key_yet(fake, server):
    flow, token = begin(fake)
    flow.close()
    server.accept(token)
    error = server_refusal(server, resp(mic=bytes(16)))
    assert error.name == "SEC_E_INVALID_TOKEN"


# NTLM's state after the MIC


def sessions(fake, server):
    """Complete a fallback to NTLM and return both sessions, the flow still open."""
    flow, token = to_last_leg(fake, server)
    (context,) = fake._raw.contexts.values()
    reply = server.accept(token)
    finished(flow, reply).close()
    return context.mechanism._mechanism.session, server._mechanism._mechanism.session


def test_first_message_after_the_mic_has_number_one(fake):
    client, server = sessions(fake, without_kerberos())
    assert client.sign(b"first")[12:] == server.sign(b"first")[12:] == b"\1\0\0\0"


@pytest.mark.parametrize("way", [0, 1], ids=["client", "server"])
def test_rc4_stream_begins_anew_after_the_mic(fake, way):
    # MS-SPNG 3.3.5.1: the same key state for the MIC and for the first message.
    session = sessions(fake, without_kerberos())[way]
    stream = sspi_client._RC4(session._out.seal_key)
    bare = hmac.new(session._out.sign_key, b"\1\0\0\0first", "md5").digest()[:8]
    assert session.sign(b"first")[4:12] == stream.process(bare)


def test_mic_itself_has_number_zero(fake):
    flow, token = to_last_leg(fake, without_kerberos())
    flow.close()
    assert parts(token)[3][12:] == bytes(4)


def test_messages_are_understood_in_both_directions_after_the_mic(fake):
    client, server = sessions(fake, without_kerberos())
    assert server.unseal(*client.seal(b"ask", True))[0] == b"ask"
    assert client.unseal(*server.seal(b"answer", True))[0] == b"answer"
    server.verify(b"signed", client.sign(b"signed"))
