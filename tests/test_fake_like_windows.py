"""Where captures and threads show what Windows does on the wire, the fake does it.

Each test names its source. Section numbers are MS-NLMP's.
"""

import struct

import pytest
from raw_calls import acquire, first_leg, initialize, make_output
from test_ntlm import (
    client_pairs, exchange, fields_of, finish, flags_of, make_challenge,
)  # fmt: skip
from test_ntlm import begin as begin_ntlm
from test_spnego import (
    COMPLETED, INCOMPLETE, KERBEROS_OID, MS_KERBEROS_OID, begin, finished, ladder,
    parts, refusal, resp,
)  # fmt: skip
from world import KERBEROS_SPN, NTLM_SPN, USERS

import sspi_client
from sspi_client import DEFAULT_FLAGS, ISC_REQ, ISC_RET, Identity, SspiError

SIGN, SEAL, KEY_EXCH, ESS = 0x10, 0x20, 0x40000000, 0x80000
FLAGS = 0xE28A8233


# NTLM


@pytest.mark.parametrize(
    ("user", "upper"),
    [
        # 3.3.2, UpperCase. Wine and Samba leave these three as they are.
        pytest.param("stra\u00dfe", "STRA\u00dfE", id="sharp-s"),
        pytest.param("\ufb01n", "\ufb01N", id="ligature"),
        pytest.param("\u0131x", "\u0131X", id="dotless-i"),
        pytest.param("j\u00f6rg", "J\u00d6RG", id="umlaut"),
        pytest.param("\u01c6", "\u01c4", id="digraph"),
        pytest.param("\U00010428", "\U00010428", id="beyond-one-unit"),
        pytest.param("na\u00efve-\u00ff", "NA\u00cfVE-\u0178", id="latin"),
    ],
)
def test_names_are_raised_one_unit_to_one_unit(user, upper):
    key = sspi_client._ntowf_v2(user, "D", "p")
    plain = sspi_client._md4("p".encode("utf-16-le"))
    name = (upper + "D").encode("utf-16-le", "surrogatepass")
    assert key == sspi_client._hmac_md5(plain, name)


@pytest.mark.parametrize("asked", [0x88206, 0xA2088206], ids=["curl", "all-else"])
def test_server_goes_on_in_unicode_with_who_offers_oem_alone(server, asked):
    # curl 7.88 and 8.14 send 0x88206; servers answer in Unicode.
    reply = server.accept(b"NTLMSSP\0\1\0\0\0" + struct.pack("<I", asked) + bytes(16))
    assert struct.unpack_from("<I", reply, 20)[0] & 3 == 1


def test_logon_of_curl_goes_through(server):
    # No 128 bits, no version, no MIC: an AUTHENTICATE message of 64 bytes of head.
    asked = struct.pack("<I", 0x88206)
    challenge = server.accept(b"NTLMSSP\0\1\0\0\0" + asked + bytes(16))
    key = sspi_client._ntowf_v2("alice", "", USERS["alice"])
    length, _, offset = struct.unpack_from("<HHI", challenge, 40)
    response, _ = sspi_client._ntlm_v2_response(
        key, challenge[24:32], b"c" * 8, bytes(8), challenge[offset : offset + length]
    )
    payload, heads = b"", b""
    for field in (bytes(24), response, b"", "alice".encode("utf-16-le"), b"", b""):
        heads += struct.pack("<HHI", len(field), len(field), 64 + len(payload))
        payload += field
    message = b"NTLMSSP\0\3\0\0\0" + heads + challenge[20:24] + payload
    assert server.accept(message) is None
    assert server.user == "CORP\\alice"


@pytest.mark.parametrize(
    ("flags", "sent"),
    [
        # Captures of Server 2019: plain NTLM, and what SPNEGO adds.
        pytest.param(0, 0xA2088207, id="plain"),
        pytest.param(ISC_REQ.INTEGRITY, 0xE2088297, id="signing"),
        pytest.param(DEFAULT_FLAGS, 0xE20882B7, id="sealing"),
    ],
)
def test_negotiate_flags_are_those_of_captures(fake, flags, sent):
    flow, token = begin_ntlm(fake, flags=flags)
    flow.close()
    assert flags_of(token) == sent


def test_spnego_negotiates_signing_though_nobody_asked(fake):
    flow, token = begin(fake, flags=0)  # the same captures
    flow.close()
    assert flags_of(token[token.index(b"NTLMSSP\0") :]) == 0xE2088297


def test_authenticate_message_holds_single_host_data(fake, server):
    pairs = client_pairs(exchange(fake, server)[2])  # 2.2.2.2, and captures
    assert pairs[8][:8] == struct.pack("<II", 48, 0) and len(pairs[8]) == 48


def test_key_is_not_wrapped_when_nothing_is_protected(fake):
    # 3.2.5.1.2: KEY_EXCH counts together with SIGN or SEAL.
    flow, _ = begin_ntlm(fake, flags=DEFAULT_FLAGS)
    challenge = make_challenge(bytes(4), FLAGS & ~(SIGN | SEAL))
    fields = fields_of(finish(flow, challenge))
    assert fields["key"] == b"" and not fields["flags"] & KEY_EXCH


@pytest.mark.parametrize("wrapped", [b"", b"x" * 16], ids=["absent", "ignored"])
def test_server_wants_no_key_when_nothing_is_protected(wrapped):
    domain = sspi_client.FakeDomain("CORP", USERS)
    server = sspi_client.FakeServer(domain)
    flags = struct.pack("<I", (FLAGS | KEY_EXCH) & ~(SIGN | SEAL))
    challenge = server.accept(b"NTLMSSP\0\1\0\0\0" + flags + bytes(24))
    key = sspi_client._ntowf_v2("alice", "CORP", USERS["alice"])
    response, base = sspi_client._ntlm_v2_response(
        key, challenge[24:32], b"c" * 8, bytes(8), bytes(4)
    )
    texts = [t.encode("utf-16-le") for t in ("CORP", "alice", "")]
    fields = [bytes(24), response, *texts, wrapped]
    server.accept(sspi_client._ntlm_pack(fields, struct.unpack("<I", flags)[0]))
    assert server.session_key == base


def test_old_signatures_match_the_specification():
    # 4.2.2.4, GSS_WrapEx without extended session security.
    flags = 0xE2028233
    session = sspi_client._NtlmSession(b"\x55" * 16, flags, client=True)
    token, text = session.seal("Plaintext".encode("utf-16-le"), True)
    assert text.hex() == "56fe04d861f9319af0d7238a2e3b4d457fb8"
    assert token.hex() == "010000000000000009dcd1df2e459d36"


def test_signature_is_a_dummy_when_sealing_alone_was_negotiated():
    # pyspnego's own NTLM does so, since its authors saw SSPI do it.
    session = sspi_client._NtlmSession(b"k" * 16, FLAGS & ~SIGN, client=True)
    token, text = session.seal(b"text", True)
    assert token == b"\1" + bytes(15) == session.sign(b"text")
    assert text != b"text"


def test_old_signatures_are_understood_and_altered_ones_refused():
    flags = 0xE2028233
    ends = [sspi_client._NtlmSession(b"k" * 16, flags, client=c) for c in (True, False)]
    client, server = ends
    assert server.unseal(*client.seal(b"ask", True))[0] == b"ask"
    assert client.unseal(*server.seal(b"answer", True))[0] == b"answer"
    signature = client.sign(b"signed")
    with pytest.raises(SspiError, match="SEC_E_MESSAGE_ALTERED"):
        server.verify(b"Signed", signature)
    server.verify(b"signed", signature)


@pytest.mark.parametrize("flags", [FLAGS & ~ESS, FLAGS & ~ESS & ~1 | 2])
def test_client_grants_protection_without_extended_session_security(fake, flags):
    flow, _ = begin_ntlm(fake)
    flow.send(make_challenge(bytes(4), flags))
    with pytest.raises(StopIteration) as done:
        flow.send(None)
    with done.value.value as context:
        assert context.flags & ISC_RET.CONFIDENTIALITY


def test_names_travel_in_oem_when_unicode_was_not_agreed(fake):
    identity = Identity("j\u00f6rg", "p", "CORP")
    flow, _ = begin_ntlm(fake, identity=identity)
    fields = fields_of(finish(flow, make_challenge(bytes(4), FLAGS & ~1 | 2)))
    assert (fields["user"], fields["domain"]) == (b"j\x94rg", b"CORP")


# SPNEGO


def test_mech_list_mic_that_repeats_the_token_is_ignored(fake, server):
    # Old Windows servers; MIT Kerberos and pyspnego ignore it too.
    flow, token = begin(fake, KERBEROS_SPN)
    state, oid, answer, _ = parts(server.accept(token))
    context = finished(flow, resp(state, oid, answer, answer))
    context.close()


def test_second_spelling_of_kerberos_is_refused(fake, server):
    # pyspnego: Windows refuses what was not listed first.
    flow, token = begin(fake, KERBEROS_SPN)
    state, oid, answer, _ = parts(server.accept(token))
    assert oid == MS_KERBEROS_OID
    assert refusal(flow, resp(state, KERBEROS_OID, answer)) == "SEC_E_INVALID_TOKEN"


def test_mech_list_mic_that_completes_kerberos_has_no_answer(fake, server):
    flow, token = begin(fake, KERBEROS_SPN)  # dittofs#1582
    _, oid, answer, _ = parts(server.accept(token))
    mic = server._mechanism.session.sign(server._mechanism._mech_types)
    context = finished(flow, resp(COMPLETED, oid, answer, mic))
    context.close()


def test_mech_list_mic_that_is_wrong_is_refused_all_the_same(fake, server):
    flow, token = begin(fake, KERBEROS_SPN)
    _, oid, answer, _ = parts(server.accept(token))
    reply = resp(COMPLETED, oid, answer, bytes(28))
    assert refusal(flow, reply) == "SEC_E_MESSAGE_ALTERED"


def test_authenticate_leg_says_that_it_is_incomplete(fake, server):
    assert parts(ladder(fake, server)[2])[0] == INCOMPLETE  # captures


# The raw calls


def whole_context(fake, server, target=NTLM_SPN):
    flow = sspi_client.authenticate(target, secur32=fake)
    return sspi_client.drive(flow, server.accept)


@pytest.mark.parametrize("target", [NTLM_SPN, KERBEROS_SPN], ids=["ntlm", "kerberos"])
def test_message_with_a_number_that_is_not_due_is_a_crime(domain, server, target):
    fake = sspi_client.FakeSecur32(domain, "alice")
    with whole_context(fake, server, target) as context:
        context.sign(b"one")
        context._sent = 5
        context.sign(b"two")
    assert fake.crimes == ["message 5 sent, while 1 was due"]


def test_message_numbers_count_each_way(domain, server):
    fake = sspi_client.FakeSecur32(domain, "alice")
    with whole_context(fake, server) as context:
        for _ in range(3):
            server.verify(b"a", context.sign(b"a"))
            context.verify(b"b", server.sign(b"b"))
            context.unwrap(server.wrap(b"c"))
            server.unwrap(context.wrap(b"d"))
    fake.assert_clean()


def test_inbound_credential_starts_no_context(fake):
    credential = acquire(fake)  # the outbound one does
    first_leg(fake, credential)
    fake._raw.credentials[credential.dwLower, 0].outbound = False
    context = sspi_client.SecHandle()
    status = initialize(fake, credential, None, context, make_output())
    assert status == sspi_client.SEC_E_NO_CREDENTIALS
    for handle in list(fake._raw.contexts):
        fake.DeleteSecurityContext(sspi_client.SecHandle(*handle))
    for buffer in list(fake._raw.buffers):
        fake.FreeContextBuffer(buffer)
    fake.FreeCredentialsHandle(credential)


def test_null_given_to_free_context_buffer_is_fine_and_a_crime(domain):
    fake = sspi_client.FakeSecur32(domain)  # Wine answers SEC_E_OK
    assert fake.FreeContextBuffer(None) == sspi_client.SEC_E_OK
    assert fake.crimes == ["NULL given to FreeContextBuffer"]
