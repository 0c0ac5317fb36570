"""Channel bindings: of a certificate, as an argument, and before a server.

data/certificates.json holds certificates by OpenSSL and the digests that are due,
computed by OpenSSL after cryptography and asn1crypto said which.
"""

import hashlib
import json
import ssl
from pathlib import Path

import pytest
from world import BINDINGS, KERBEROS_SPN, NTLM_SPN, describe, pointee

import sspi_client
from sspi_client import (
    SECBUFFER_CHANNEL_BINDINGS,
    ISC_REQ,
    Credential,
    FakeServer,
    SspiError,
    tls_server_end_point,
)

FILE = Path(__file__).parent / "data" / "certificates.json"
LISTED = json.loads(FILE.read_text("ascii"))["certificates"]
CERTIFICATES = {entry["name"]: bytes.fromhex(entry["der"]) for entry in LISTED}
certificates = pytest.mark.parametrize(
    "entry", LISTED, ids=[entry["name"] for entry in LISTED]
)
ISC = "InitializeSecurityContextW"
PREFIX = b"tls-server-end-point:"
OTHER = PREFIX + bytes(32)

#: What RFC 5929 4.1 says, written down by hand beside what OpenSSL was asked for.
HASHES = {
    "rsa-md5": "sha256",
    "rsa-sha1": "sha256",
    "rsa-sha224": "sha224",
    "rsa-sha256": "sha256",
    "rsa-sha384": "sha384",
    "rsa-sha512": "sha512",
    "ecdsa-sha1": "sha256",
    "ecdsa-sha224": "sha224",
    "ecdsa-sha256": "sha256",
    "ecdsa-sha384": "sha384",
    "ecdsa-sha512": "sha512",
    "pss-default-sha1": "sha256",
    "pss-sha224": "sha224",
    "pss-sha256": "sha256",
    "pss-sha384": "sha384",
    "pss-sha512": "sha512",
    "pss-sha512-mgf1-sha256": "sha512",
    "pss-sha1-mgf1-sha512": "sha256",
    "ed25519": "sha256",
    "ed448": "sha256",
    "unknown-ripemd160": "sha256",
    "dsa-sha1": "sha256",
    "dsa-sha224": "sha224",
    "dsa-sha256": "sha256",
    "dsa-sha384": "sha384",
    "dsa-sha512": "sha512",
    "dsa-sha3-224": "sha3_224",
    "dsa-sha3-256": "sha3_256",
    "dsa-sha3-384": "sha3_384",
    "dsa-sha3-512": "sha3_512",
    "rsa-sha3-224": "sha3_224",
    "rsa-sha3-256": "sha3_256",
    "rsa-sha3-384": "sha3_384",
    "rsa-sha3-512": "sha3_512",
    "ecdsa-sha3-224": "sha3_224",
    "ecdsa-sha3-256": "sha3_256",
    "ecdsa-sha3-384": "sha3_384",
    "ecdsa-sha3-512": "sha3_512",
}


# -- of a certificate ----------------------------------------------------------


@certificates
def test_certificate_is_hashed_as_independent_implementations_do(entry):
    made = tls_server_end_point(bytes.fromhex(entry["der"]))
    assert made == PREFIX + bytes.fromhex(entry["digest"])


@certificates
def test_certificate_is_hashed_as_the_rule_says(entry):
    der = bytes.fromhex(entry["der"])
    due = hashlib.new(HASHES[entry["name"]], der).digest()
    assert tls_server_end_point(der) == PREFIX + due


def test_every_signature_has_its_certificate():
    assert CERTIFICATES.keys() == HASHES.keys()


@pytest.mark.parametrize("place, bits", [(7, 224), (8, 256), (9, 384), (10, 512)])
def test_sha3_as_a_parameter_of_rsassa_pss_is_the_hash(place, bits):
    """OpenSSL 3.0 makes none: the hash that a certificate names is exchanged.

    NIST, hashAlgs: id-sha256 is 2.16.840.1.101.3.4.2.1, id-sha3-224 is ...2.7.
    """
    sha256 = bytes.fromhex("608648016503040201")
    der = CERTIFICATES["pss-sha256"].replace(sha256, sha256[:-1] + bytes([place]))
    assert der != CERTIFICATES["pss-sha256"]
    due = hashlib.new(f"sha3_{bits}", der).digest()
    assert tls_server_end_point(der) == PREFIX + due


PSS_SHA512 = bytes.fromhex("0609608648016503040203")


@pytest.mark.parametrize(
    "name, old, new",
    [
        pytest.param("rsa-sha512", "010d", "017f", id="rsa-and-something"),
        pytest.param("ecdsa-sha384", "040303", "040379", id="ecdsa-and-something"),
        pytest.param("pss-sha384", "040202", "040210", id="pss-of-something"),
    ],
)
def test_unknown_signature_is_hashed_with_sha256(name, old, new):
    der = CERTIFICATES[name]
    changed = der.replace(bytes.fromhex(old), bytes.fromhex(new))
    assert changed != der and len(changed) == len(der)
    due = hashlib.sha256(changed).digest()
    assert tls_server_end_point(changed) == PREFIX + due


@pytest.mark.parametrize(
    "make", [bytes, bytearray, memoryview], ids=["bytes", "bytearray", "memoryview"]
)
def test_certificate_may_be_anything_like_bytes(make):
    der = CERTIFICATES["rsa-sha256"]
    assert tls_server_end_point(make(der)) == tls_server_end_point(der)


@certificates
def test_bindings_of_a_certificate_are_what_authenticate_takes(fake, entry):
    made = tls_server_end_point(bytes.fromhex(entry["der"]))
    flow = sspi_client.authenticate(NTLM_SPN, channel_bindings=made, secur32=fake)
    assert next(flow)
    flow.close()


# -- of what is no certificate -------------------------------------------------


@pytest.mark.parametrize("name", ["rsa-sha256", "ecdsa-sha384", "pss-sha512"])
def test_certificate_is_refused_when_cut_at_any_byte(name):
    der = CERTIFICATES[name]
    for length in range(len(der)):
        with pytest.raises(ValueError, match="^not one whole DER certificate: "):
            tls_server_end_point(der[:length])


@certificates
@pytest.mark.parametrize("more", [b"\0", b"\n", b"\x30\0"], ids=["nul", "line", "item"])
def test_certificate_is_refused_when_something_follows_it(entry, more):
    problem = f"^not one whole DER certificate: {len(more)} bytes too many$"
    with pytest.raises(ValueError, match=problem):
        tls_server_end_point(bytes.fromhex(entry["der"]) + more)


def test_two_certificates_are_refused():
    with pytest.raises(ValueError, match="^not one whole DER certificate: "):
        tls_server_end_point(CERTIFICATES["rsa-md5"] + CERTIFICATES["rsa-sha1"])


@pytest.mark.parametrize("name", ["rsa-sha256", "ed25519"])
@pytest.mark.parametrize(
    "before", [b"", b" \r\n", b"subject=CN = web\n", b"\xef\xbb\xbf"],
    ids=["bare", "blank", "words", "mark"],
)  # fmt: skip
def test_pem_is_refused_and_the_way_out_is_named(name, before):
    pem = before + ssl.DER_cert_to_PEM_cert(CERTIFICATES[name]).encode()
    with pytest.raises(ValueError, match=r"PEM; ssl\.PEM_cert_to_DER_cert\(\)"):
        tls_server_end_point(pem)


def der(tag, *contents):
    content = b"".join(contents)
    assert len(content) < 0x80
    return bytes([tag, len(content)]) + content


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0", id="nul"),
        pytest.param(der(0x30), id="empty-sequence"),
        pytest.param(der(0x30, der(0x30)), id="one-part"),
        pytest.param(der(0x30, der(0x30), der(0x30), der(0x03)), id="no-algorithm"),
        pytest.param(der(0x30, der(0x30), der(0x30), der(0x04)), id="no-signature"),
        pytest.param(der(0x30, der(0x30), der(0x03), der(0x30)), id="another-order"),
        pytest.param(der(0x31, der(0x30), der(0x30), der(0x03)), id="a-set"),
        pytest.param(b"\x30\x80" + der(0x30) * 2 + b"\0\0", id="indefinite-length"),
        pytest.param(b"\x30\x85\0\0\0\0\0", id="length-of-five-bytes"),
        pytest.param(b"\x30\x84\xff\xff\xff\xff", id="four-gib"),
        pytest.param(b"PK\3\4" + bytes(40), id="a-zip-file"),
        pytest.param(bytes(1000), id="zeros"),
    ],
)
def test_what_is_no_certificate_is_refused(octets):
    with pytest.raises(ValueError, match="^not one whole DER certificate: "):
        tls_server_end_point(octets)


def test_broken_parameters_of_pss_are_refused():
    broken = CERTIFICATES["pss-sha512"].replace(PSS_SHA512, b"\x06\x89" + bytes(9))
    with pytest.raises(ValueError, match="^not one whole DER certificate: "):
        tls_server_end_point(broken)


def test_length_that_is_not_minimal_is_refused_for_it_is_no_der():
    whole = CERTIFICATES["ecdsa-sha256"]  # its outer length has two bytes
    assert whole[:2] == b"\x30\x82"
    longer = b"\x30\x83\0" + whole[2:]
    with pytest.raises(ValueError, match="^not one whole DER certificate: "):
        tls_server_end_point(longer)


def test_pem_as_text_is_a_type_error_that_names_the_way_out():
    pem = ssl.DER_cert_to_PEM_cert(CERTIFICATES["rsa-sha256"])
    with pytest.raises(TypeError, match=r"DER bytes; ssl\.PEM_cert_to_DER_cert"):
        tls_server_end_point(pem)


@pytest.mark.parametrize("thing", [None, 5, {}], ids=["none", "int", "dict"])
def test_what_is_not_like_bytes_is_a_type_error(thing):
    with pytest.raises(TypeError, match="bytes"):
        tls_server_end_point(thing)


@pytest.mark.parametrize("given", [{"subject": ()}, {}, None])
def test_what_getpeercert_gives_without_true_is_refused_with_the_remedy(given):
    with pytest.raises(TypeError, match=r"getpeercert\(True\)"):
        tls_server_end_point(given)


# -- as an argument ------------------------------------------------------------

DIGEST = hashlib.sha256(b"").digest()
WRONG = [
    pytest.param(PREFIX.decode() + "digest", "must be bytes, not str", id="str"),
    pytest.param(bytearray(BINDINGS), "must be bytes, not bytearray", id="bytearray"),
    pytest.param(memoryview(BINDINGS), "must be bytes, not memoryview", id="view"),
    pytest.param(5, "must be bytes, not int", id="int"),
    pytest.param(("tls-unique", b"x"), "must be bytes, not tuple", id="tuple"),
    pytest.param(True, "must be bytes, not bool", id="bool"),
    pytest.param(DIGEST, "lack their prefix", id="digest-alone"),
    pytest.param(b"", "lack their prefix", id="empty"),
    pytest.param(b":" + DIGEST, "lack their prefix", id="no-name"),
    pytest.param(b"-:" + DIGEST, "lack their prefix", id="no-letter"),
    pytest.param(DIGEST[:4] + b":" + DIGEST, "lack their prefix", id="colon-in-digest"),
    pytest.param(bytes(32), "lack their prefix", id="zeros"),
    pytest.param(b"tls-server-end-point", "lack their prefix", id="no-colon"),
    pytest.param(PREFIX, "lack what follows the prefix", id="prefix-alone"),
]


@pytest.mark.parametrize("bindings, complaint", WRONG)
def test_wrong_bindings_are_refused_at_the_call(fake, bindings, complaint):
    kind = ValueError if isinstance(bindings, bytes) else TypeError
    with pytest.raises(kind, match=complaint) as caught:
        sspi_client.authenticate(NTLM_SPN, channel_bindings=bindings, secur32=fake)
    assert 'such as b"tls-server-end-point:" + digest (RFC 5929)' in str(caught.value)
    assert fake.calls == []


@pytest.mark.parametrize("bindings, complaint", WRONG)
def test_credentials_flow_refuses_wrong_bindings_at_the_call(
    fake, bindings, complaint
):
    kind = ValueError if isinstance(bindings, bytes) else TypeError
    with Credential(secur32=fake) as credential:
        with pytest.raises(kind, match=complaint):
            credential.authenticate(NTLM_SPN, channel_bindings=bindings)


def test_complaint_shows_no_digest(fake):
    with pytest.raises(ValueError) as caught:
        sspi_client.authenticate(
            NTLM_SPN, channel_bindings=b"hidden-digest", secur32=fake
        )
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "bindings",
    [BINDINGS, b"tls-unique:" + bytes(12), b"tls-exporter:x", PREFIX + b":"],
    ids=["end-point", "unique", "exporter", "colon-is-the-digest"],
)
def test_bindings_of_any_kind_reach_the_server(fake, domain, bindings):
    server = FakeServer(domain, bindings)
    flow = sspi_client.authenticate(NTLM_SPN, channel_bindings=bindings, secur32=fake)
    sspi_client.drive(flow, server.accept).close()
    assert server.complete


# -- in every leg --------------------------------------------------------------

FORMS = {
    "ntlm": ("NTLM", NTLM_SPN, 0, 2),
    "negotiate-ntlm": ("Negotiate", NTLM_SPN, 0, 3),
    "kerberos": ("Kerberos", KERBEROS_SPN, 0, 2),
    "kerberos-dce-style": ("Kerberos", KERBEROS_SPN, ISC_REQ.USE_DCE_STYLE, 2),
    "negotiate-kerberos": ("Negotiate", KERBEROS_SPN, 0, 2),
}
forms = pytest.mark.parametrize("form", FORMS)


class Listener:
    """A secur32 that notes the bindings which each leg was given, whole."""

    def __init__(self, secur32):
        self._secur32, self.heard = secur32, []
        self._real = getattr(secur32, ISC)
        setattr(self, ISC, self._listen)

    def __getattr__(self, name):
        return getattr(self._secur32, name)

    def _listen(self, *arguments):
        descriptor = pointee(arguments[6])
        buffers = descriptor.pBuffers[: descriptor.cBuffers] if descriptor else []
        self.heard.append([
            sspi_client.string_at(buffer.pvBuffer, buffer.cbBuffer)
            for buffer in buffers
            if buffer.BufferType == SECBUFFER_CHANNEL_BINDINGS
        ])
        return self._real(*arguments)


def log_on(secur32, form, server, bindings):
    package, target, flags, _ = FORMS[form]
    flow = sspi_client.authenticate(
        target,
        package=package,
        flags=sspi_client.DEFAULT_FLAGS | flags,
        channel_bindings=bindings,
        secur32=secur32,
    )
    sspi_client.drive(flow, server.accept).close()
    return server


@forms
def test_bindings_go_into_every_leg_as_sspi_wants_them(fake, domain, form):
    listener = Listener(fake)
    log_on(listener, form, FakeServer(domain, BINDINGS), BINDINGS)
    # SEC_CHANNEL_BINDINGS: six zeros, the length, the offset; then the data.
    header = bytes(24) + bytes([len(BINDINGS), 0, 0, 0, 32, 0, 0, 0])
    assert listener.heard == [[header + BINDINGS]] * FORMS[form][3]


@forms
def test_no_buffer_goes_into_any_leg_without_bindings(fake, domain, form):
    listener = Listener(fake)
    log_on(listener, form, FakeServer(domain), None)
    assert listener.heard == [[]] * FORMS[form][3]


def test_bindings_are_passed_by_a_credential_as_well(fake, domain):
    listener, server = Listener(fake), FakeServer(domain, BINDINGS)
    with Credential(secur32=listener) as credential:
        flow = credential.authenticate(KERBEROS_SPN, channel_bindings=BINDINGS)
        sspi_client.drive(flow, server.accept).close()
    assert len(listener.heard) == 2 and all(listener.heard)


def test_fake_judges_bindings_of_zeros(domain):
    fake = sspi_client.FakeSecur32(domain, logon="alice")
    credential, context = sspi_client.SecHandle(), sspi_client.SecHandle()
    byref = sspi_client.byref
    fake.AcquireCredentialsHandleW(
        None, sspi_client._wide("NTLM"), 2, None, None, None, None, byref(credential),
        None,
    )  # fmt: skip
    memory = (sspi_client.c_ubyte * 32)()
    zeros, _kept = describe(
        (32, SECBUFFER_CHANNEL_BINDINGS, sspi_client.addressof(memory))
    )
    output, _kept_too = describe((0, sspi_client.SECBUFFER_TOKEN, None))
    fake.InitializeSecurityContextW(
        byref(credential), None, None, ISC_REQ.ALLOCATE_MEMORY, 0, 0x10, byref(zeros),
        0, byref(context), byref(output), None, None,
    )  # fmt: skip
    with pytest.raises(AssertionError, match="channel bindings of zeros"):
        fake.assert_clean()


# -- before a server -----------------------------------------------------------


@forms
def test_server_that_requires_bindings_takes_the_right_ones(fake, domain, form):
    server = log_on(fake, form, FakeServer(domain, BINDINGS), BINDINGS)
    assert (server.complete, server.user) == (True, "CORP\\alice")


@forms
@pytest.mark.parametrize("bindings", [OTHER, None], ids=["others", "none"])
def test_server_that_requires_bindings_refuses(fake, domain, form, bindings):
    server = FakeServer(domain, BINDINGS)
    with pytest.raises(SspiError) as caught:
        log_on(fake, form, server, bindings)
    assert caught.value.name == "SEC_E_BAD_BINDINGS"
    assert (server.complete, server.user) == (False, "")


@forms
@pytest.mark.parametrize("bindings", [BINDINGS, None], ids=["some", "none"])
def test_server_that_requires_no_bindings_takes_any(fake, domain, form, bindings):
    assert log_on(fake, form, FakeServer(domain), bindings).complete


@forms
def test_server_refuses_bindings_that_differ_in_the_last_bit(fake, domain, form):
    nearly = BINDINGS[:-1] + bytes([BINDINGS[-1] ^ 1])
    with pytest.raises(SspiError, match="SEC_E_BAD_BINDINGS"):
        log_on(fake, form, FakeServer(domain, BINDINGS), nearly)


@pytest.mark.parametrize("form", ["negotiate-ntlm", "negotiate-kerberos"])
def test_server_rejects_in_spnego_when_bindings_are_wrong(fake, domain, form):
    with pytest.raises(SspiError) as caught:
        log_on(fake, form, FakeServer(domain, BINDINGS), OTHER)
    said = sspi_client.mechanism(caught.value.token)
    assert said == "SPNEGO NegTokenResp (reject)"


@certificates
def test_bindings_of_one_certificate_are_refused_for_another(fake, domain, entry):
    ours = tls_server_end_point(bytes.fromhex(entry["der"]))
    proxy = next(der for name, der in CERTIFICATES.items() if name != entry["name"])
    log_on(fake, "ntlm", FakeServer(domain, ours), ours)
    with pytest.raises(SspiError, match="a proxy that opens TLS changes it"):
        log_on(fake, "ntlm", FakeServer(domain, ours), tls_server_end_point(proxy))
