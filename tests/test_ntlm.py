"""NTLM below the cut: MS-NLMP's own examples, each message, and what is refused.

Section numbers are MS-NLMP's. Its example world is 4.2.1: User, Domain, Password,
the server challenge 0123456789abcdef, a client challenge of 0xaa, a random session
key of 0x55.
"""

import hashlib
import hmac
import struct

import pytest
from world import BINDINGS, NTLM_SPN

import sspi_client
from sspi_client import Identity, SspiError

SIGN, SEAL, ESS, KEY_EXCH = 0x10, 0x20, 0x00080000, 0x40000000
BITS_56, BITS_128 = 0x80000000, 0x20000000
FLAGS = 0xE28A8233  # 4.2.4: NTLMv2
ESS_FLAGS = 0x820A8233  # 4.2.3: extended session security, 56 bits, no key exchange
PLAINTEXT = "Plaintext".encode("utf-16-le")  # 4.2.1
SERVER_CHALLENGE = bytes.fromhex("0123456789abcdef")
AV_EOL, AV_FLAGS, AV_TIMESTAMP, AV_TARGET, AV_BINDINGS = 0, 6, 7, 9, 10

# 4.2.4.3, as printed there.
SPEC_CHALLENGE = bytes.fromhex(
    "4e544c4d53535000020000000c000c003800000033828ae20123456789abcdef"
    "00000000000000002400240044000000060070170000000f"
    "53006500720076006500720002000c0044006f006d00610069006e00"
    "01000c0053006500720076006500720000000000"
)
SPEC_AUTHENTICATE = bytes.fromhex(
    "4e544c4d5353500003000000180018006c00000054005400840000000c000c00"
    "480000000800080054000000100010005c00000010001000d8000000358288e2"
    "0501280a0000000f"
    "44006f006d00610069006e00550073006500720043004f004d00500055005400"
    "45005200"
    "86c35097ac9cec102554764a57cccc19aaaaaaaaaaaaaaaa"
    "68cd0ab851e51c96aabc927bebef6a1c"
    "01010000000000000000000000000000aaaaaaaaaaaaaaaa00000000"
    "02000c0044006f006d00610069006e0001000c00530065007200760065007200"
    "0000000000000000"
    "c5dad2544fc9799094ce1ce90bc9d03e"
)


def hmac_md5(key, *parts):
    return hmac.new(key, b"".join(parts), "md5").digest()


def utf16(text):
    return text.encode("utf-16-le", "surrogatepass")


def begin(fake, **options):
    """Return (flow, NEGOTIATE message) of package NTLM."""
    flow = sspi_client.authenticate(
        options.pop("target", NTLM_SPN), package="NTLM", secur32=fake, **options
    )
    return flow, next(flow)


def finish(flow, challenge):
    """Return the AUTHENTICATE message, and close everything."""
    token = flow.send(challenge)
    flow.close()
    return bytes(token)


def exchange(fake, server, **options):
    """Return the three messages; *server* has taken the first alone."""
    flow, negotiate = begin(fake, **options)
    challenge = server.accept(negotiate)
    return bytes(negotiate), challenge, finish(flow, challenge)


def refusal(server, token):
    with pytest.raises(SspiError) as caught:
        server.accept(token)
    assert not server.complete and server.user == ""
    return caught.value.name


def flags_of(negotiate):
    return struct.unpack_from("<I", negotiate, 12)[0]


def fields_of(message):
    """Read an AUTHENTICATE message by 2.2.1.3, not by the module's own reader."""
    fields = {}
    for place, name in enumerate(("lm", "nt", "domain", "user", "host", "key")):
        length, room, offset = struct.unpack_from("<HHI", message, 12 + 8 * place)
        assert length == room and offset >= 88 and offset + length <= len(message)
        fields[name] = message[offset : offset + length]
    fields["flags"] = struct.unpack_from("<I", message, 60)[0]
    fields["version"], fields["mic"] = message[64:72], message[72:88]
    return fields


def pairs_of(info):
    """Read AV pairs by 2.2.2.1; the end of the list must be there."""
    pairs, place = {}, 0
    while True:
        kind, length = struct.unpack_from("<HH", info, place)
        assert kind not in pairs
        pairs[kind] = info[place + 4 : place + 4 + length]
        place += 4 + length
        if kind == AV_EOL:
            return pairs, info[place:]


def client_pairs(message):
    return pairs_of(fields_of(message)["nt"][44:])[0]


def make_challenge(info, flags=FLAGS):
    """Lay out a CHALLENGE message with an empty target name: 2.2.1.2."""
    return (
        b"NTLMSSP\0" + struct.pack("<IHHI", 2, 0, 0, 56) + struct.pack("<I", flags)
        + SERVER_CHALLENGE + bytes(8) + struct.pack("<HHI", len(info), len(info), 56)
        + bytes(8) + info
    )  # fmt: skip


def make_authenticate(user, domain, lm, nt, flags=FLAGS):
    """Lay out an AUTHENTICATE message without a MIC: 2.2.1.3."""
    payload, headers = b"", b""
    for field in (lm, nt, utf16(domain), utf16(user), b"", b""):
        headers += struct.pack("<HHI", len(field), len(field), 88 + len(payload))
        payload += field
    head = b"NTLMSSP\0" + struct.pack("<I", 3) + headers + struct.pack("<I", flags)
    return head + bytes(8 + 16) + payload


def pair(flags=FLAGS, key=b"\x55" * 16):
    """Return both ends of a session: client, server."""
    return (
        sspi_client._NtlmSession(key, flags, client=True),
        sspi_client._NtlmSession(key, flags, client=False),
    )


def open_sealed(session, sealed):
    return session.unseal(*sealed)[0]


def verify_refusal(session, data, signature):
    with pytest.raises(SspiError) as caught:
        session.verify(data, signature)
    return caught.value.name


def flip(octets, place, bit=0):
    return octets[:place] + bytes([octets[place] ^ 1 << bit]) + octets[place + 1 :]


# The primitives


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        pytest.param("", "31d6cfe0d16ae931b73c59d7e0c089c0", id="empty"),
        pytest.param("a", "bde52cb31de33e46245e05fbdbd6fb24", id="one"),
        pytest.param("abc", "a448017aaf21d8525fc10ae87aa6729d", id="three"),
        pytest.param("message digest", "d9130a8164549fe818874806e1c7014b", id="phrase"),
        pytest.param(
            "abcdefghijklmnopqrstuvwxyz",
            "d79e1c308aa5bbcdeea8ed63df412da9",
            id="alphabet",
        ),
        pytest.param(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            "043f8582f241db351ce627e153e7f0e4",
            id="alphanumeric",
        ),
        pytest.param("1234567890" * 8, "e33b4ddc9c38f2199c3e7b164fcc0536", id="digits"),
    ],
)
def test_md4_matches_rfc_1320(text, digest):
    assert sspi_client._md4(text.encode()).hex() == digest


@pytest.mark.parametrize(
    ("key", "stream"),
    [
        pytest.param(
            "0102030405",
            "b2396305f03dc027ccc3524a0a1118a86982944f18fc82d589c403a47a0d0919",
            id="forty-bits",
        ),
        pytest.param(
            "01020304050607",
            "293f02d47f37c9b633f2af5285feb46be620f1390d19bd84e2e0fd752031afc1",
            id="fifty-six-bits",
        ),
        pytest.param(
            "0102030405060708090a0b0c0d0e0f10",
            "9ac7cc9a609d1ef7b2932899cde41b975248c4959014126a6e8a84f11d1a9e1c",
            id="hundred-twenty-eight-bits",
        ),
    ],
)
def test_rc4_matches_rfc_6229(key, stream):
    rc4 = sspi_client._RC4(bytes.fromhex(key))
    assert rc4.process(bytes(32)).hex() == stream


def test_rc4_matches_rfc_6229_when_far_into_the_stream():
    rc4 = sspi_client._RC4(bytes.fromhex("0102030405060708090a0b0c0d0e0f10"))
    rc4.process(bytes(768))
    assert rc4.process(bytes(16)).hex() == "eccbe13de1fcc91c11a0b26c0bc8fa4d"


def test_rc4_goes_on_when_called_in_pieces():
    whole = sspi_client._RC4(b"key").process(bytes(300))
    pieces = sspi_client._RC4(b"key")
    assert b"".join(pieces.process(bytes(n)) for n in (0, 1, 255, 44)) == whole


def test_rc4_copy_leaves_the_original_alone():
    rc4 = sspi_client._RC4(b"key")
    rc4.copy().process(bytes(10))
    assert rc4.process(bytes(10)) == sspi_client._RC4(b"key").process(bytes(10))


@pytest.mark.parametrize(
    ("key", "data", "digest"),
    [
        pytest.param(
            b"\x0b" * 16, b"Hi There", "9294727a3638bb1c13f48ef8158bfc9d", id="short"
        ),
        pytest.param(
            b"Jefe",
            b"what do ya want for nothing?",
            "750c783e6ab0b503eaa86e310a5db738",
            id="text",
        ),
        pytest.param(
            b"\xaa" * 16, b"\xdd" * 50, "56be34521d144c88dbb8c733f0e8b3f6", id="long"
        ),
    ],
)
def test_hmac_md5_matches_rfc_2104(key, data, digest):
    assert sspi_client._hmac_md5(key, data[:3], data[3:]).hex() == digest


# The examples of 4.2


def test_ntowf_v2_matches_the_specification():
    key = sspi_client._ntowf_v2("User", "Domain", "Password")
    assert key.hex() == "0c868a403bfd7a93a3001ef22ef02e3f"


def test_ntowf_v2_ignores_case_of_the_user():
    ours = sspi_client._ntowf_v2("uSER", "Domain", "Password")
    assert ours == sspi_client._ntowf_v2("User", "Domain", "Password")


def test_ntowf_v2_respects_case_of_the_domain():
    ours = sspi_client._ntowf_v2("User", "DOMAIN", "Password")
    assert ours != sspi_client._ntowf_v2("User", "Domain", "Password")


def spec_response():
    key = sspi_client._ntowf_v2("User", "Domain", "Password")
    info = SPEC_CHALLENGE[68:]
    return sspi_client._ntlm_v2_response(
        key, SERVER_CHALLENGE, b"\xaa" * 8, bytes(8), info
    )


def test_nt_proof_matches_the_specification():
    assert spec_response()[0][:16].hex() == "68cd0ab851e51c96aabc927bebef6a1c"


def test_nt_response_matches_the_printed_message_whole():
    assert spec_response()[0] == SPEC_AUTHENTICATE[0x84:0xD8]


def test_session_base_key_matches_the_specification():
    assert spec_response()[1].hex() == "8de40ccadbc14a82f15cb0ad0de95ca3"


def test_encrypted_session_key_matches_the_specification():
    wrapped = sspi_client._RC4(spec_response()[1]).process(b"\x55" * 16)
    assert wrapped.hex() == "c5dad2544fc9799094ce1ce90bc9d03e"


def test_client_answers_the_challenge_of_the_specification(fake, mocker):
    mocker.patch.object(sspi_client, "_random", side_effect=[b"\xaa" * 8, b"\x55" * 16])
    identity = Identity("User", "Password", "Domain")
    fields = fields_of(finish(begin(fake, identity=identity)[0], SPEC_CHALLENGE))
    # Its example has no timestamp, hence a genuine LMv2 response.
    assert fields["lm"].hex() == "86c35097ac9cec102554764a57cccc19" + "aa" * 8


def test_server_accepts_the_message_of_the_specification(mocker):
    world = sspi_client.FakeDomain("Domain", {"User": "Password"})
    server = sspi_client.FakeServer(world)
    mocker.patch.object(sspi_client, "_random", return_value=SERVER_CHALLENGE)
    server.accept(b"NTLMSSP\0" + struct.pack("<II", 1, FLAGS) + bytes(24))
    assert server.accept(SPEC_AUTHENTICATE) is None
    assert server.session_key == b"\x55" * 16


@pytest.mark.parametrize(
    ("flags", "key", "signing", "sealing"),
    [
        pytest.param(
            FLAGS, "55" * 16, "4788dc861b4782f35d43fd98fe1a2d39",
            "59f600973cc4960a25480a7c196e4c58", id="ntlm-v2",
        ),
        pytest.param(
            ESS_FLAGS, "eb93429a8bd952f8b89c55b87f475edc",
            "60e799be5c72fc92922ae8ebe961fb8d", "04dd7f014d8504d265a25cc86a3a7c06",
            id="extended-session-security",
        ),
    ],
)  # fmt: skip
def test_client_keys_match_the_specification(flags, key, signing, sealing):
    stream = pair(flags, bytes.fromhex(key))[0]._out
    assert (stream.sign_key.hex(), stream.seal_key.hex()) == (signing, sealing)


@pytest.mark.parametrize(
    ("flags", "key", "signature", "ciphertext"),
    [
        pytest.param(
            FLAGS, "55" * 16, "010000007fb38ec5c55d497600000000",
            "54e50165bf1936dc996020c1811b0f06fb5f", id="ntlm-v2",
        ),
        pytest.param(
            ESS_FLAGS, "eb93429a8bd952f8b89c55b87f475edc",
            "01000000ff2aeb52f681793a00000000", "a02372f6530273f3aa1eb90190ce5200c99d",
            id="extended-session-security",
        ),
    ],
)  # fmt: skip
def test_sealed_message_matches_the_specification(flags, key, signature, ciphertext):
    sealed = pair(flags, bytes.fromhex(key))[0].seal(PLAINTEXT, True)
    assert tuple(part.hex() for part in sealed) == (signature, ciphertext)


@pytest.mark.parametrize("client", [True, False], ids=["client", "server"])
@pytest.mark.parametrize(
    ("flags", "length"),
    [
        pytest.param(BITS_128 | BITS_56, 16, id="both-strengths"),
        pytest.param(BITS_128, 16, id="strong"),
        pytest.param(BITS_56, 7, id="export"),
        pytest.param(0, 5, id="weak"),
    ],
)
def test_sealing_key_is_cut_to_the_negotiated_strength(flags, length, client):
    key = bytes(range(16))
    session = sspi_client._NtlmSession(key, flags | ESS | SEAL, client=client)
    way = "client-to-server" if client else "server-to-client"
    magic = f"session key to {way} sealing key magic constant\0".encode()
    expected = hashlib.md5(key[:length] + magic).digest()
    assert session._out.seal_key == expected


def test_signing_key_is_never_cut():
    key = bytes(range(16))
    magic = b"session key to server-to-client signing key magic constant\0"
    session = sspi_client._NtlmSession(key, ESS | SIGN, client=False)
    assert session._out.sign_key == hashlib.md5(key + magic).digest()


def test_bindings_hash_matches_the_published_example():
    # "NTLM and Channel Binding Hash", open specifications blog of Microsoft, 2013.
    digest = "e3ca49271e5089cc48ce82109f1324f41dbeddc29a777410c738f7868c4ff405"
    bindings = b"tls-server-end-point:" + bytes.fromhex(digest)
    assert sspi_client._bindings_hash(bindings).hex() == (
        "6ea19df066da4622051f9c4f92c6df74"
    )


# The NEGOTIATE message


def test_negotiate_message_is_as_laid_out_byte_by_byte(fake):
    flow, token = begin(fake)
    flow.close()
    assert bytes(token) == bytes.fromhex(
        "4e544c4d53535000"  # NTLMSSP and a NUL
        "01000000"
        "b78208e2"  # as Server 2019: OEM and LM_KEY too; and 0x20 for sealing
        "00000000000000000000000000000000"  # no domain, no workstation
        "0a00614a0000000f"  # 10.0.19041, revision 15
    )


@pytest.mark.parametrize(
    ("asked", "set_bits"),
    [
        pytest.param(0, 0, id="nothing"),
        pytest.param(0x800, 0, id="connection"),
        pytest.param(0x4000, 0, id="extended-error"),
        pytest.param(0x2, 0, id="mutual-auth"),
        pytest.param(0x200, 0, id="dce-style"),
        pytest.param(0x1, 0, id="delegate"),
        pytest.param(0x10000, SIGN, id="integrity"),
        pytest.param(0x4, SIGN, id="replay-detect"),
        pytest.param(0x8, SIGN, id="sequence-detect"),
        pytest.param(0x10, SIGN | SEAL, id="confidentiality"),
        pytest.param(0x10010, SIGN | SEAL, id="integrity-and-confidentiality"),
    ],
)
def test_negotiate_flags_follow_what_was_asked_for(fake, asked, set_bits):
    flow, token = begin(fake, flags=asked)
    flow.close()
    assert flags_of(token) & (SIGN | SEAL) == set_bits


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        pytest.param(0, False, id="no-protection"),
        pytest.param(0x10000, True, id="integrity"),
        pytest.param(0x10, True, id="confidentiality"),
    ],
)
def test_key_exchange_is_asked_for_when_messages_are_protected(fake, asked, wanted):
    flow, token = begin(fake, flags=asked)
    flow.close()
    assert bool(flags_of(token) & KEY_EXCH) is wanted


# The CHALLENGE message


def test_challenge_message_is_as_laid_out_byte_by_byte(fake, server, mocker):
    mocker.patch.object(sspi_client, "_random", return_value=SERVER_CHALLENGE)
    mocker.patch.object(sspi_client, "_file_time", return_value=b"\x11" * 8)
    flow, negotiate = begin(fake)
    flow.close()
    info = (
        b"\2\0\x08\0" + utf16("CORP") + b"\1\0\x0c\0" + utf16("SERVER")
        + b"\4\0\x12\0" + utf16("corp.test") + b"\3\0\x20\0"
        + utf16("server.corp.test") + b"\7\0\x08\0" + b"\x11" * 8 + bytes(4)
    )  # fmt: skip
    assert server.accept(negotiate) == (
        b"NTLMSSP\0\2\0\0\0"
        b"\x08\0\x08\0\x38\0\0\0"  # the target name: 8 bytes at 56
        b"\x35\x82\x89\xe2"  # Unicode for OEM, no LM_KEY, and now: target information, target is a domain
        + SERVER_CHALLENGE + bytes(8)
        + struct.pack("<HHI", len(info), len(info), 64)
        + bytes.fromhex("0a00614a0000000f") + utf16("CORP") + info
    )  # fmt: skip


def test_challenge_offers_no_more_than_was_asked_for(fake, server):
    flow, negotiate = begin(fake, flags=0)
    flow.close()
    answered = struct.unpack_from("<I", server.accept(negotiate), 20)[0]
    assert not answered & (SIGN | SEAL | KEY_EXCH)


def test_server_challenges_differ(fake, domain):
    flow, negotiate = begin(fake)
    flow.close()
    replies = [sspi_client.FakeServer(domain).accept(negotiate) for _ in range(4)]
    assert len({reply[24:32] for reply in replies}) == 4


# The AUTHENTICATE message


def test_authenticate_message_names_who_is_logged_on(fake, server):
    fields = fields_of(exchange(fake, server)[2])
    named = [fields[name].decode("utf-16-le") for name in ("domain", "user", "host")]
    assert named == ["CORP", "alice", "FAKE"]


def test_authenticate_message_starts_with_signature_and_type(fake, server):
    assert exchange(fake, server)[2].startswith(b"NTLMSSP\0\3\0\0\0")


def test_authenticate_message_carries_the_version(fake, server):
    fields = fields_of(exchange(fake, server)[2])
    assert fields["version"].hex() == "0a00614a0000000f"


def test_lm_response_is_zeros_when_there_is_a_timestamp(fake, server):
    assert fields_of(exchange(fake, server)[2])["lm"] == bytes(24)


def test_nt_response_begins_as_laid_out(fake, server):
    _, challenge, message = exchange(fake, server)
    offset = struct.unpack_from("<I", challenge, 44)[0]
    stamp = pairs_of(challenge[offset:])[0][AV_TIMESTAMP]
    blob = fields_of(message)["nt"][16:]
    assert blob[:16] == b"\1\1" + bytes(6) + stamp  # 2.2.2.7
    assert blob[24:28] == bytes(4)


def test_nt_response_ends_with_four_zeros_after_its_pairs(fake, server):
    message = exchange(fake, server)[2]
    assert pairs_of(fields_of(message)["nt"][44:])[1] == bytes(4)


def test_authenticate_pairs_repeat_those_of_the_challenge(fake, server):
    _, challenge, message = exchange(fake, server)
    theirs = pairs_of(challenge[struct.unpack_from("<I", challenge, 44)[0] :])[0]
    ours = client_pairs(message)
    assert {kind: ours[kind] for kind in theirs} == theirs


def test_authenticate_pairs_announce_the_mic(fake, server):
    assert client_pairs(exchange(fake, server)[2])[AV_FLAGS] == b"\2\0\0\0"


def test_authenticate_pairs_keep_the_flags_that_the_server_set(fake):
    info = b"\6\0\4\0\1\0\0\0" + b"\7\0\x08\0" + bytes(8) + bytes(4)
    flow, _ = begin(fake)
    message = finish(flow, make_challenge(info))
    assert client_pairs(message)[AV_FLAGS] == b"\3\0\0\0"


def test_authenticate_pairs_name_the_target(fake, server):
    pairs = client_pairs(exchange(fake, server, target="cifs/files.corp.test")[2])
    assert pairs[AV_TARGET].decode("utf-16-le") == "cifs/files.corp.test"


def test_authenticate_pairs_carry_zeros_when_there_are_no_bindings(fake, server):
    assert client_pairs(exchange(fake, server)[2])[AV_BINDINGS] == bytes(16)


def test_authenticate_pairs_carry_the_hash_of_the_bindings(fake, server):
    message = exchange(fake, server, channel_bindings=BINDINGS)[2]
    whole = bytes(16) + struct.pack("<I", len(BINDINGS)) + BINDINGS
    assert client_pairs(message)[AV_BINDINGS] == hashlib.md5(whole).digest()


def session_key_of(challenge, message):
    """Compute the exported session key as a server does: 3.2.5.1.2."""
    key = sspi_client._ntowf_v2("alice", "CORP", "Secret123!")
    fields = fields_of(message)
    proof = hmac_md5(key, challenge[24:32], fields["nt"][16:])
    assert proof == fields["nt"][:16]
    return sspi_client._RC4(hmac_md5(key, proof)).process(fields["key"])


def test_mic_covers_the_three_messages(fake, server):
    negotiate, challenge, message = exchange(fake, server)
    bare = message[:72] + bytes(16) + message[88:]
    key = session_key_of(challenge, message)
    assert fields_of(message)["mic"] == hmac_md5(key, negotiate, challenge, bare)


def test_session_key_is_the_wrapped_one(fake, server):
    _, challenge, message = exchange(fake, server)
    server.accept(message)
    assert server.session_key == session_key_of(challenge, message)


def test_session_key_is_not_wrapped_when_no_message_is_protected(fake, server):
    assert fields_of(exchange(fake, server, flags=0)[2])["key"] == b""


def test_random_parts_differ_from_logon_to_logon(fake, domain):
    seen = set()
    for _ in range(4):
        fields = fields_of(exchange(fake, sspi_client.FakeServer(domain))[2])
        seen |= {fields["nt"][32:40], fields["key"]}
    assert len(seen) == 8


def test_client_makes_no_mic_when_there_is_no_timestamp(fake):
    flow, _ = begin(fake)
    message = finish(flow, make_challenge(bytes(4)))
    assert fields_of(message)["mic"] == bytes(16)
    assert AV_FLAGS not in client_pairs(message)


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        # 2.2.2.5: neither Unicode nor OEM cannot be spoken.
        pytest.param(FLAGS & ~3, "SEC_E_INVALID_TOKEN", id="neither-charset"),
        # 3.1.5.1.2, and Windows' default NTLMMinClientSec: 128 bits or nothing.
        pytest.param(FLAGS & ~BITS_128, "SEC_E_UNSUPPORTED_FUNCTION", id="56-bits"),
        pytest.param(
            FLAGS & ~(BITS_128 | BITS_56), "SEC_E_UNSUPPORTED_FUNCTION", id="40-bits"
        ),
    ],
)
def test_client_refuses_a_challenge_that_lacks_what_it_needs(fake, flags, status):
    flow, _ = begin(fake)
    with pytest.raises(SspiError) as caught:
        flow.send(make_challenge(bytes(4), flags))
    assert caught.value.name == status


@pytest.mark.parametrize(
    "info",
    [
        pytest.param(b"\7\0\x08\0\0\0\0\0", id="pair-cut-off"),
        pytest.param(b"\2\0\xff\xff", id="pair-too-long"),
        pytest.param(b"\2\0", id="pair-without-length"),
        pytest.param(b"\2\0\0\0", id="list-without-end"),
    ],
)
def test_client_refuses_a_challenge_with_a_broken_pair(fake, info):
    flow, _ = begin(fake)
    with pytest.raises(SspiError) as caught:
        flow.send(make_challenge(info))
    assert caught.value.name == "SEC_E_INVALID_TOKEN"


@pytest.mark.parametrize(
    "info",
    [
        pytest.param(
            b"\6\0\x08\0" + b"\xff" * 8 + b"\7\0\x08\0" + bytes(8) + bytes(4),
            id="flags-of-eight-bytes",
        ),
        pytest.param(
            b"\2\0\xf0\xff" + bytes(0xFFF0) + bytes(4), id="no-room-for-our-pairs"
        ),
    ],
)
def test_client_refuses_pairs_that_it_cannot_repeat(fake, info):
    flow, _ = begin(fake)
    with pytest.raises(SspiError) as caught:
        flow.send(make_challenge(info))
    assert caught.value.name == "SEC_E_INVALID_TOKEN"


def test_granted_flags_lack_what_the_server_took_away(fake):
    flow, _ = begin(fake)
    flow.send(make_challenge(bytes(4), FLAGS & ~(SIGN | SEAL | KEY_EXCH)))
    with pytest.raises(StopIteration) as done:
        flow.send(None)
    with done.value.value as context:
        assert not context.flags & (0x10000 | 0x10)


# The server


def test_server_completes_without_a_reply_when_the_password_is_right(fake, server):
    assert server.accept(exchange(fake, server)[2]) is None
    assert server.complete


def test_server_tells_user_package_and_target(fake, server):
    server.accept(exchange(fake, server)[2])
    told = (server.user, server.package, server.target)
    assert told == ("CORP\\alice", "NTLM", NTLM_SPN)


def test_server_tells_nothing_before_it_is_complete(fake, server):
    exchange(fake, server)
    assert (server.user, server.package, server.target) == ("", "", "")


@pytest.mark.parametrize(
    ("user", "password", "of"),
    [
        pytest.param("alice", "Secret123!", "CORP", id="plain"),
        pytest.param("ALICE", "Secret123!", "corp", id="other-case"),
        pytest.param("alice", "Secret123!", "", id="no-domain"),
        pytest.param("alice", "Secret123!", "corp.test", id="dns-domain"),
        pytest.param("alice@corp.test", "Secret123!", None, id="principal-name"),
        pytest.param("CORP\\alice", "Secret123!", None, id="backslash"),
        pytest.param("bob", "Pä55wörd€", "CORP", id="non-ascii-password"),
        pytest.param("emoji", "pass\U0001f600word", "CORP", id="astral-password"),
        pytest.param("empty", "", "CORP", id="empty-password"),
    ],
)
def test_server_accepts_the_user_when_spelled(fake, server, user, password, of):
    message = exchange(fake, server, identity=Identity(user, password, of))[2]
    server.accept(message)
    assert server.complete


@pytest.mark.parametrize(
    ("user", "password", "of"),
    [
        pytest.param("alice", "secret123!", "CORP", id="wrong-password"),
        pytest.param("alice", "", "CORP", id="no-password"),
        pytest.param("empty", "x", "CORP", id="password-for-an-empty-one"),
        pytest.param("mallory", "Secret123!", "CORP", id="unknown-user"),
        pytest.param("bob", "Secret123!", "CORP", id="password-of-another"),
        pytest.param("alice", "Secret123!", "OTHER", id="unknown-domain"),
        pytest.param("alice@other.test", "Secret123!", None, id="unknown-suffix"),
    ],
)
def test_server_alone_denies_the_logon_when(fake, server, user, password, of):
    message = exchange(fake, server, identity=Identity(user, password, of))[2]
    assert refusal(server, message) == "SEC_E_LOGON_DENIED"


@pytest.mark.parametrize(
    ("user", "lm", "nt"),
    [
        pytest.param("", b"\0", b"", id="anonymous"),
        pytest.param("alice", bytes(24), b"", id="no-response"),
        pytest.param("alice", bytes(24), bytes(24), id="version-one"),
        pytest.param("alice", bytes(24), bytes(43), id="one-byte-short"),
        pytest.param("alice", bytes(24), bytes(60), id="zeros"),
    ],
)
def test_server_denies_a_response_that_is_not_version_two(fake, server, user, lm, nt):
    exchange(fake, server)
    message = make_authenticate(user, "CORP", lm, nt)
    assert refusal(server, message) == "SEC_E_LOGON_DENIED"


def test_server_denies_a_short_response_even_when_it_is_genuine(fake, server):
    challenge = exchange(fake, server)[1]
    key = sspi_client._ntowf_v2("alice", "CORP", "Secret123!")
    nt = hmac_md5(key, challenge[24:32], bytes(8)) + bytes(8)  # as LMv2 has it
    message = make_authenticate("alice", "CORP", nt, nt, FLAGS & ~KEY_EXCH)
    assert refusal(server, message) == "SEC_E_LOGON_DENIED"


def test_server_denies_the_response_to_another_challenge(fake, domain, server):
    message = exchange(fake, server)[2]
    other = sspi_client.FakeServer(domain)
    exchange(fake, other)
    assert refusal(other, message) == "SEC_E_LOGON_DENIED"


@pytest.mark.parametrize("place", [72, 80, 87], ids=["first", "middle", "last"])
def test_server_refuses_a_mic_with_a_wrong_byte(fake, server, place):
    message = exchange(fake, server)[2]
    assert refusal(server, flip(message, place)) == "SEC_E_MESSAGE_ALTERED"


def test_server_refuses_a_mic_that_was_blanked(fake, server):
    message = exchange(fake, server)[2]
    message = message[:72] + bytes(16) + message[88:]
    assert refusal(server, message) == "SEC_E_MESSAGE_ALTERED"


@pytest.mark.parametrize(
    "place", [15, 16, 32, 39], ids=["flags", "domain", "version", "last"]
)
def test_mic_tells_when_the_negotiate_message_was_altered(fake, server, place):
    flow, negotiate = begin(fake)
    bit = 7 if place == 15 else 0  # of the flags: 56 bits
    message = finish(flow, server.accept(flip(bytes(negotiate), place, bit)))
    assert refusal(server, message) == "SEC_E_MESSAGE_ALTERED"


@pytest.mark.parametrize(
    ("place", "bit"),
    [
        pytest.param(22, 0, id="target-type"),
        pytest.param(23, 7, id="strength"),
        pytest.param(32, 0, id="reserved"),
        pytest.param(48, 0, id="version"),
        pytest.param(56, 0, id="target-name"),
    ],
)
def test_mic_tells_when_the_challenge_message_was_altered(fake, server, place, bit):
    flow, negotiate = begin(fake)
    message = finish(flow, flip(server.accept(negotiate), place, bit))
    assert refusal(server, message) == "SEC_E_MESSAGE_ALTERED"


@pytest.mark.parametrize("place", [12, 61, 64], ids=["lm-length", "flags", "version"])
def test_mic_tells_when_the_authenticate_message_was_altered(fake, server, place):
    message = flip(exchange(fake, server)[2], place)
    assert refusal(server, message) == "SEC_E_MESSAGE_ALTERED"


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
def test_server_compares_the_bindings(fake, domain, ours, theirs, status):
    server = sspi_client.FakeServer(domain, channel_bindings=theirs)
    message = exchange(fake, server, channel_bindings=ours)[2]
    if status is None:
        assert server.accept(message) is None
    else:
        assert refusal(server, message) == status


def test_server_refuses_an_authenticate_message_when_it_comes_first(
    fake, domain, server
):
    message = exchange(fake, server)[2]
    assert refusal(sspi_client.FakeServer(domain), message) == "SEC_E_INVALID_TOKEN"


def test_server_refuses_a_negotiate_message_when_it_comes_twice(fake, server):
    negotiate = exchange(fake, server)[0]
    assert refusal(server, negotiate) == "SEC_E_INVALID_TOKEN"


def test_server_refuses_its_own_challenge(fake, server):
    challenge = exchange(fake, server)[1]
    assert refusal(server, challenge) == "SEC_E_INVALID_TOKEN"


def test_server_refuses_a_message_after_the_last(fake, server):
    message = exchange(fake, server)[2]
    server.accept(message)
    with pytest.raises(SspiError) as caught:
        server.accept(message)
    assert caught.value.name == "SEC_E_INVALID_TOKEN"


def test_server_refuses_a_client_that_speaks_neither_unicode_nor_oem(server):
    message = b"NTLMSSP\0\1\0\0\0" + struct.pack("<I", FLAGS & ~3) + bytes(24)
    assert refusal(server, message) == "SEC_E_INVALID_TOKEN"  # 2.2.2.5


@pytest.mark.parametrize(
    "place", [16, 24, 32, 40, 48, 56], ids="lm nt domain user host key".split()
)
def test_server_refuses_a_field_outside_of_its_message(fake, server, place):
    message = bytearray(exchange(fake, server)[2])
    message[place : place + 4] = b"\xff\xff\xff\x7f"
    with pytest.raises(SspiError):
        server.accept(bytes(message))
    assert not server.complete


def test_server_refuses_a_wrapped_key_of_another_length(fake, server):
    message = bytearray(exchange(fake, server)[2])
    message[52:56] = b"\x0f\0\x0f\0"
    assert refusal(server, bytes(message)) == "SEC_E_INVALID_TOKEN"


# Signing and sealing


def test_signature_is_as_laid_out_when_the_checksum_is_not_encrypted():
    flags = ESS_FLAGS & ~SEAL
    client, _ = pair(flags)
    key = client._out.sign_key
    client.sign(b"first")
    assert client.sign(b"second") == (
        b"\1\0\0\0" + hmac_md5(key, b"\1\0\0\0", b"second")[:8] + b"\1\0\0\0"
    )


def test_signature_is_encrypted_when_a_key_was_exchanged():
    client, _ = pair(FLAGS & ~SEAL)
    plain = hmac_md5(client._out.sign_key, bytes(4), b"data")[:8]
    stream = sspi_client._RC4(client._out.seal_key)
    assert client.sign(b"data")[4:12] == stream.process(plain)


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(FLAGS, id="strong"),
        pytest.param(FLAGS & ~BITS_128, id="export"),
        pytest.param(FLAGS & ~(BITS_128 | BITS_56), id="weak"),
        pytest.param(FLAGS & ~KEY_EXCH, id="no-key-exchange"),
        pytest.param(FLAGS & ~SEAL, id="signing-alone"),
    ],
)
def test_signatures_verify_in_both_directions(flags):
    client, server = pair(flags)
    for data in (b"one", b"two", b"three"):
        server.verify(data, client.sign(data))
        client.verify(data, server.sign(data))


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(FLAGS, id="strong"),
        pytest.param(FLAGS & ~BITS_128, id="export"),
        pytest.param(FLAGS & ~(BITS_128 | BITS_56), id="weak"),
        pytest.param(FLAGS & ~KEY_EXCH, id="no-key-exchange"),
    ],
)
def test_sealed_messages_open_in_both_directions(flags):
    client, server = pair(flags)
    for text in (b"", b"a", bytes(1000)):
        assert open_sealed(server, client.seal(text, True)) == text
        assert open_sealed(client, server.seal(text, True)) == text


def test_sealed_messages_and_signatures_share_one_stream():
    client, server = pair()
    server.verify(b"one", client.sign(b"one"))
    assert open_sealed(server, client.seal(b"two", True)) == b"two"
    server.verify(b"three", client.sign(b"three"))


def test_equal_messages_never_look_equal_when_sealed():
    client, _ = pair()
    assert client.seal(b"same", True)[1] != client.seal(b"same", True)[1]


def test_signature_is_refused_when_it_comes_twice():
    client, server = pair()
    signature = client.sign(b"data")
    server.verify(b"data", signature)
    assert verify_refusal(server, b"data", signature) == "SEC_E_OUT_OF_SEQUENCE"


def test_signature_is_refused_when_one_before_it_is_missing():
    client, server = pair()
    client.sign(b"lost")
    signature = client.sign(b"data")
    assert verify_refusal(server, b"data", signature) == "SEC_E_OUT_OF_SEQUENCE"


def test_signature_is_refused_when_it_is_our_own():
    client, _ = pair()
    signature = client.sign(b"data")
    assert verify_refusal(client, b"data", signature) == "SEC_E_MESSAGE_ALTERED"


def test_signature_is_refused_when_the_data_was_altered():
    client, server = pair()
    signature = client.sign(b"data")
    assert verify_refusal(server, b"Data", signature) == "SEC_E_MESSAGE_ALTERED"


@pytest.mark.parametrize("place", [0, 4, 11], ids=["version", "first", "last"])
def test_signature_is_refused_when_it_was_altered(place):
    client, server = pair()
    signature = flip(client.sign(b"data"), place)
    assert verify_refusal(server, b"data", signature) == "SEC_E_MESSAGE_ALTERED"


@pytest.mark.parametrize("length", [0, 15, 17], ids=["empty", "short", "long"])
def test_signature_is_refused_when_it_has_another_length(length):
    client, server = pair()
    signature = (client.sign(b"data") + bytes(1))[:length]
    assert verify_refusal(server, b"data", signature) == "SEC_E_MESSAGE_ALTERED"


def test_verifying_goes_on_after_a_refused_signature():
    client, server = pair()
    signature = client.sign(b"data")
    verify_refusal(server, b"altered", signature)
    server.verify(b"data", signature)
    server.verify(b"next", client.sign(b"next"))


def test_unsealing_goes_on_after_a_refused_message():
    client, server = pair()
    signature, ciphertext = client.seal(b"data", True)
    with pytest.raises(SspiError):
        server.unseal(signature, flip(ciphertext, 0))
    assert open_sealed(server, (signature, ciphertext)) == b"data"
    assert open_sealed(server, client.seal(b"next", True)) == b"next"


@pytest.mark.parametrize(
    ("part", "place"),
    [pytest.param(0, 11, id="signature"), pytest.param(1, 3, id="ciphertext")],
)
def test_sealed_message_is_refused_when_altered(part, place):
    client, server = pair()
    sealed = list(client.seal(b"data", True))
    sealed[part] = flip(sealed[part], place)
    with pytest.raises(SspiError) as caught:
        server.unseal(*sealed)
    assert caught.value.name == "SEC_E_MESSAGE_ALTERED"


def test_sealed_message_is_refused_when_it_comes_twice():
    client, server = pair()
    sealed = client.seal(b"data", True)
    server.unseal(*sealed)
    with pytest.raises(SspiError) as caught:
        server.unseal(*sealed)
    assert caught.value.name == "SEC_E_OUT_OF_SEQUENCE"


def test_sessions_of_other_keys_do_not_understand_each_other():
    client, _ = pair()
    _, server = pair(key=b"\x54" * 16)
    signature = client.sign(b"data")
    assert verify_refusal(server, b"data", signature) == "SEC_E_MESSAGE_ALTERED"
