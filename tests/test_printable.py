"""Names: what may come in, how long it may be, and that what is shown is printable.

A newline in a name forges a line of a log, ESC speaks to the terminal, a lone
surrogate breaks print(). The first kind is refused where it comes in; the rest is
legal, logs on, and is escaped wherever we show it.
"""

import ctypes
import io

import pytest
from stub import ALL_GRANTED, TOKEN, Stub, scrambled, vouched
from world import KERBEROS_SPN, NTLM_SPN

import sspi_client
from sspi_client import (
    ISC_RET,
    Credential,
    FakeDomain,
    FakeSecur32,
    FakeServer,
    Identity,
    SspiError,
    authenticate,
    drive,
    tls_server_end_point,
)

#: C0, DEL and C1 controls, and the two separators which end a line.
CONTROLS = [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029]
#: Not printable by str.isprintable(), and legal all the same.
UNPRINTABLE = {
    "no-break space": "\xa0",
    "soft hyphen": "\xad",
    "zero width space": "\u200b",
    "right-to-left override": "\u202e",
    "isolate": "\u2066",
    "byte order mark": "\ufeff",
    "private use": "\ue000",
    "noncharacter": "\uffff",
    "high surrogate": "\ud800",
    "low surrogate": "\udfff",
    "tag": "\U000e0001",
    "last": "\U0010ffff",
}
controls = pytest.mark.parametrize("point", CONTROLS, ids=hex)
unprintable = pytest.mark.parametrize("odd", UNPRINTABLE.values(), ids=UNPRINTABLE)
LONGEST = 32766  # UTF-16 units; UNICODE_STRING counts its bytes in 16 bits
ESC = "\x1b[31m"


@pytest.fixture
def stub():
    secur32 = Stub()
    yield secur32
    secur32.assert_clean()


def shown(text, odd):
    """Assert that text can be printed, and tells of what it may not show."""
    assert text.isprintable(), ascii(text)
    text.encode("utf-8")
    assert f"{ord(odd):x}" in text.lower()


# -- what may not come in ------------------------------------------------------


@controls
def test_control_character_in_the_target_is_a_value_error(stub, point):
    with pytest.raises(ValueError):
        authenticate(f"HTTP/a{chr(point)}b", secur32=stub)
    assert stub.calls == []


@controls
def test_control_character_in_the_target_of_a_credential_is_a_value_error(stub, point):
    with Credential(secur32=stub) as credential:
        with pytest.raises(ValueError):
            credential.authenticate(f"HTTP/a{chr(point)}b")


@controls
def test_control_character_in_the_package_is_a_value_error(stub, point):
    with pytest.raises(ValueError):
        authenticate(NTLM_SPN, package=f"Ke{chr(point)}rberos", secur32=stub)
    with pytest.raises(ValueError):
        Credential(package=f"Ke{chr(point)}rberos", secur32=stub)
    assert stub.calls == []


@controls
@pytest.mark.parametrize("names", ["user", "domain", "both in one", "UPN"])
def test_control_character_in_a_name_is_a_value_error(names, point):
    odd = f"a{chr(point)}b"
    given = {
        "user": (odd, "CORP"),
        "domain": ("alice", odd),
        "both in one": (f"{odd}\\alice", None),
        "UPN": (f"alice@{odd}", None),
    }
    user, domain = given[names]
    with pytest.raises(ValueError):
        Identity(user, "password", domain)


@pytest.mark.parametrize("point", range(1, 0x20), ids=hex)
def test_control_character_in_a_password_is_a_part_of_it(point):
    password = f"a{chr(point)}b"
    world = FakeDomain("CORP", {"alice": password})
    fake, server = FakeSecur32(world), FakeServer(world)
    identity = Identity("alice", password, "CORP")
    drive(authenticate(NTLM_SPN, identity, secur32=fake), server.accept).close()
    assert server.user == "CORP\\alice"
    fake.assert_clean()


@pytest.mark.parametrize("point", [0x07, 0x0A, 0x1B, 0x7F, 0x9B, 0x2028], ids=hex)
def test_refusal_of_a_control_character_does_not_show_it(stub, point):
    for call in (
        lambda odd: authenticate(f"HTTP/{odd}", secur32=stub),
        lambda odd: authenticate(NTLM_SPN, package=odd, secur32=stub),
        lambda odd: Identity(odd, "password", "CORP"),
        lambda odd: Identity("alice", "password", odd),
    ):
        with pytest.raises(ValueError) as caught:
            call(f"a{chr(point)}b")
        assert str(caught.value).isprintable()


# -- what may, and is escaped where it is shown --------------------------------


@unprintable
def test_unprintable_target_reaches_sspi_as_it_is(stub, odd):
    stub.context(f"HTTP/a{odd}b").close()
    assert stub.targets == [f"HTTP/a{odd}b"]


@unprintable
def test_unprintable_target_is_escaped_in_an_error(stub, odd):
    refusing(stub, "InitializeSecurityContextW")
    with pytest.raises(SspiError) as caught:
        stub.context(f"HTTP/a{odd}b")
    shown(str(caught.value), odd)
    assert repr(caught.value).isprintable()
    assert caught.value.target == f"HTTP/a{odd}b"  # for programs: as it is


@unprintable
def test_unprintable_package_is_escaped_in_an_error(stub, odd):
    refusing(stub, "AcquireCredentialsHandleW")
    with pytest.raises(SspiError) as caught:
        Credential(package=f"Ker{odd}beros", secur32=stub)
    shown(str(caught.value), odd)


@unprintable
def test_unprintable_name_is_escaped_in_the_repr_of_a_context(stub, odd):
    with stub.context(f"HTTP/a{odd}b", package=f"Ker{odd}beros") as context:
        shown(repr(context), odd)
        shown(str(context), odd)


@unprintable
def test_unprintable_name_is_escaped_in_the_repr_of_a_credential(stub, odd):
    with Credential(package=f"Ker{odd}beros", secur32=stub) as credential:
        shown(repr(credential), odd)


@unprintable
def test_unprintable_name_is_escaped_in_the_repr_of_an_identity(odd):
    shown(repr(Identity(f"al{odd}ice", "password", "CORP")), odd)
    shown(repr(Identity("alice", "password", f"CO{odd}RP")), odd)
    shown(repr(Identity(f"alice@co{odd}rp.test", "password")), odd)


@unprintable
def test_unprintable_name_of_sspi_is_escaped_in_the_repr_of_a_package(stub, odd):
    stub.package = f"Ker{odd}beros"
    (found,) = sspi_client.packages(stub)
    assert found.name == f"Ker{odd}beros"
    shown(repr(found), odd)


def test_text_of_sspi_is_escaped_in_an_error():
    """A provider's own name for itself, in the hint about what it did not grant."""
    stub = Stub(package=f"Evil{ESC}\nPackage", granted=0)
    with pytest.raises(SspiError) as caught:
        stub.context(package="Negotiate", require=ISC_RET.CONFIDENTIALITY)
    assert str(caught.value).isprintable()
    assert caught.value.hint.isprintable()
    stub.assert_clean()


@unprintable
def test_user_with_an_unprintable_name_logs_on(odd):
    world = FakeDomain("CORP", {f"al{odd}ice": "password"})
    fake, server = FakeSecur32(world), FakeServer(world)
    identity = Identity(f"al{odd}ice", "password", "CORP")
    drive(authenticate(NTLM_SPN, identity, secur32=fake), server.accept).close()
    assert server.user == f"CORP\\al{odd}ice"
    fake.assert_clean()


@unprintable
def test_user_with_an_unprintable_password_logs_on(odd):
    world = FakeDomain("CORP", {"alice": f"pass{odd}word"})
    fake, server = FakeSecur32(world), FakeServer(world)
    identity = Identity("alice", f"pass{odd}word", "CORP")
    drive(authenticate(NTLM_SPN, identity, secur32=fake), server.accept).close()
    assert server.user == "CORP\\alice"
    fake.assert_clean()


# -- the command line ----------------------------------------------------------


@pytest.mark.parametrize("odd", ["\u202e", "\ud800", "\u200b"], ids=ascii)
def test_diagnose_escapes_the_target(stub, odd, mocker, capsys):
    mocker.patch.object(sspi_client, "Secur32", lambda: stub)
    assert sspi_client.main(["diagnose", f"HTTP/a{odd}b"]) == 0
    text = capsys.readouterr().out
    assert all(line.isprintable() for line in text.split("\n"))
    assert f"{ord(odd):x}" in text


@pytest.mark.parametrize("odd", [ESC, "\u202e", "\ud800", "\u2028", "\x9b"], ids=ascii)
def test_diagnose_escapes_what_sspi_says(odd, mocker, capsys):
    class Named(Stub):
        def tell_user(self, address):
            answer = sspi_client.SecPkgContext_NamesW.from_address(address)
            text = self._text(f"CORP\\al{odd}ice")
            self._allocate(text)
            answer.sUserName = ctypes.cast(text, type(answer.sUserName))

    stub = Named(package=f"Pack{odd}age")
    mocker.patch.object(sspi_client, "Secur32", lambda: stub)
    sspi_client.main(["diagnose", NTLM_SPN])
    lines = capsys.readouterr().out.split("\n")
    assert all(line.isprintable() for line in lines)
    assert sum("ice" in line or "age" in line for line in lines) >= 2
    stub.assert_clean()


@pytest.mark.parametrize("odd", [ESC, "\n", "\u202e", "\ud800"], ids=ascii)
def test_diagnose_escapes_what_it_refuses(stub, odd, mocker, capsys):
    mocker.patch.object(sspi_client, "Secur32", lambda: stub)
    sspi_client.main(["diagnose", NTLM_SPN, "--package", f"a{odd}b\0"])
    said = capsys.readouterr()
    assert all(line.isprintable() for line in (said.out + said.err).split("\n"))


@pytest.mark.parametrize("odd", [ESC, "\n", "\u202e", "\ud800"], ids=ascii)
def test_explain_escapes_what_it_does_not_know(odd, capsys):
    assert sspi_client.main(["explain", f"SEC_E_{odd}"]) == 2
    said = capsys.readouterr()
    assert all(line.isprintable() for line in (said.out + said.err).split("\n"))


@pytest.mark.parametrize("encoding, name", [("utf-8", "bób"), ("ascii", "b\\xf3b")])
def test_diagnose_writes_what_standard_output_can_take(encoding, name, mocker):
    fake = FakeSecur32(FakeDomain("CORP", {"bób": "password"}), logon="bób")
    mocker.patch.object(sspi_client, "Secur32", lambda: fake)
    written = io.BytesIO()
    mocker.patch("sys.stdout", io.TextIOWrapper(written, encoding, write_through=True))
    sspi_client.main(["diagnose"])
    assert f"CORP\\{name}" in written.getvalue().decode(encoding)
    fake.assert_clean()


# -- how long a name may be ----------------------------------------------------


def test_names_of_32766_units_are_taken(stub):
    long = "a" * LONGEST
    Identity(long, "password", "CORP")
    Identity("alice", "password", long)
    Identity("\U0001f600" * (LONGEST // 2), "password", "CORP")
    Identity(f"CORP\\{long}", "password")
    stub.context("HTTP/" + long[5:]).close()
    with Credential(package=long, secur32=stub):
        pass


@pytest.mark.parametrize(
    "long", ["a" * (LONGEST + 1), "\U0001f600" * (LONGEST // 2) + "a"], ids=["a", "😀"]
)
def test_name_of_more_units_is_a_value_error(stub, long):
    for call in (
        lambda: Identity(long, "password", "CORP"),
        lambda: Identity("alice", "password", long),
        lambda: Identity(f"CORP\\{long}", "password"),
        lambda: Identity(f"{long}\\alice", "password"),
        lambda: authenticate(long, secur32=stub),
        lambda: authenticate(NTLM_SPN, package=long, secur32=stub),
        lambda: Credential(package=long, secur32=stub),
    ):
        with pytest.raises(ValueError, match="32,?766"):
            call()
    assert stub.calls == []


def test_refusal_of_a_long_name_does_not_repeat_it(stub):
    with pytest.raises(ValueError) as caught:
        authenticate("HTTP/" + "a" * LONGEST, secur32=stub)
    assert len(str(caught.value)) < 500


# -- a domain that is given twice ----------------------------------------------


@pytest.mark.parametrize("user", ["CORP\\bob", "OTHER\\bob", "bob@corp.test"])
@pytest.mark.parametrize("domain", ["CORP", "corp.test"])
@pytest.mark.parametrize("kind", [str, bytes])
def test_domain_that_is_given_twice_is_a_value_error(user, domain, kind):
    parts = (user, "password", domain)
    if kind is bytes:
        parts = tuple(part.encode() for part in parts)
    with pytest.raises(ValueError, match="domain"):
        Identity(*parts)


def test_domain_that_is_given_twice_is_a_value_error_of_from_ansi():
    with pytest.raises(ValueError, match="domain"):
        Identity.from_ansi(b"CORP\\bob", b"password", b"CORP", 1252)


def test_principal_name_with_an_empty_domain_is_taken():
    identity = Identity("bob@corp.test", "password", "")
    assert (identity.user, identity.domain) == ("bob@corp.test", "")


# -- lengths that a provider tells ---------------------------------------------

HUGE = 0xFFFFFFFF


class Boasting(Stub):
    """A provider that tells 4 GiB wherever it tells a length."""

    def on_EncryptMessage(self, context, quality, message, number):
        super().on_EncryptMessage(context, quality, message, number)
        self._boast(message)

    def on_DecryptMessage(self, context, message, number, quality):
        status = super().on_DecryptMessage(context, message, number, quality)
        self._boast(message)
        return status

    def on_MakeSignature(self, context, quality, message, number):
        super().on_MakeSignature(context, quality, message, number)
        self._boast(message)

    def _boast(self, message):
        for buffer in self.buffers(message):
            buffer.cbBuffer = HUGE


@pytest.mark.parametrize("package", ["NTLM", "Kerberos"])
@pytest.mark.parametrize("length", [0, 1, 2, 100])
def test_length_of_a_provider_is_cut_to_what_it_was_given(package, length):
    stub, text = Boasting(package), bytes(range(length))
    with stub.context() as context:
        assert context.seal(text) == (vouched(text, 0), scrambled(text))
        assert context.wrap(text) == vouched(text, 1) + scrambled(text)
        assert context.sign(text) == vouched(text, 2)
        assert context.unseal(vouched(text, 0), scrambled(text)) == text
        assert context.unwrap(vouched(text, 1) + scrambled(text)) == text
    stub.assert_clean()


@pytest.mark.parametrize("package", ["NTLM", "Kerberos"])
def test_padding_of_a_provider_is_cut_to_a_block(package):
    stub = Boasting(package, block=8)
    with stub.context() as context:
        token, ciphertext = context.seal(b"text")
        assert (token, ciphertext[:4]) == (vouched(b"text", 0), scrambled(b"text"))
        assert len(ciphertext) <= 4 + 8
    stub.assert_clean()


@pytest.mark.parametrize("shift", [-4096, -1, TOKEN + 5, 4096])
def test_text_outside_of_the_message_is_not_read(shift):
    class Astray(Stub):
        def on_DecryptMessage(self, context, message, number, quality):
            stream, data = self.buffers(message)
            data.pvBuffer, data.cbBuffer = stream.pvBuffer + shift, 64

    stub = Astray("Kerberos")
    blob = bytes(range(TOKEN + 4))
    with stub.context() as context:
        try:
            assert context.unwrap(blob) in blob
        except SspiError as refused:
            assert refused.function == "DecryptMessage"
    stub.assert_clean()


class Pointless(Stub):
    """A provider that says SEC_E_OK, and points at nothing."""

    def on_DecryptMessage(self, context, message, number, quality):
        data = self.buffers(message)[1]
        data.pvBuffer, data.cbBuffer = None, 5

    def on_EncryptMessage(self, context, quality, message, number):
        data = self.buffers(message)[1]
        data.pvBuffer, data.cbBuffer = None, 5

    def tell_package(self, address):
        return sspi_client.SEC_E_OK

    tell_user = tell_key = tell_package

    def on_EnumerateSecurityPackagesW(self, count, first):
        count[0] = 3


@pytest.mark.parametrize(
    "ask, function",
    [
        (lambda context: context.package, "QueryContextAttributesW"),
        (lambda context: context.user, "QueryContextAttributesW"),
        (lambda context: context.session_key, "QueryContextAttributesW"),
    ],
    ids=["package", "user", "session_key"],
)
def test_answer_of_null_is_an_error(ask, function):
    stub = Pointless()
    with stub.context() as context:
        with pytest.raises(SspiError) as caught:
            ask(context)
        assert caught.value.function == function
    stub.assert_clean()


def test_user_of_a_credential_that_is_null_is_an_error():
    stub = Pointless()
    with Credential(secur32=stub) as credential:
        with pytest.raises(SspiError):
            _ = credential.user
    stub.assert_clean()


def test_list_of_packages_that_is_null_is_an_error():
    with pytest.raises(SspiError):
        sspi_client.packages(Pointless())


def test_text_that_is_null_is_an_error():
    class Late(Pointless):
        tell_package = Stub.tell_package  # or no message would be tried

    for package in ("NTLM", "Kerberos"):
        stub = Late(package)
        with stub.context() as context:
            for call in (
                lambda: context.unwrap(bytes(TOKEN + 5)),
                lambda: context.unseal(bytes(TOKEN), b"hello"),
            ):
                with pytest.raises(SspiError) as caught:
                    call()
                assert caught.value.function == "DecryptMessage"
        stub.assert_clean()


# -- what the caller keeps -----------------------------------------------------


def refusing(stub, function, status=0x80090304):
    _, *argtypes = sspi_client.PROTOTYPES[function]

    def refuse(*arguments):
        return status

    kind = ctypes.CFUNCTYPE(ctypes.c_uint32, *argtypes)
    setattr(stub, function, kind(refuse))


@pytest.mark.parametrize("package", ["NTLM", "Kerberos"])
@pytest.mark.parametrize(
    "call",
    [
        lambda context, data: context.seal(data),
        lambda context, data: context.wrap(data),
        lambda context, data: context.wrap(data, encrypt=False),
        lambda context, data: context.sign(data),
        lambda context, data: context.unwrap(data),
        lambda context, data: context.unseal(data, b"text"),
        lambda context, data: context.unseal(bytes(TOKEN), data),
        lambda context, data: context.verify(data, bytes(TOKEN)),
        lambda context, data: context.verify(b"text", data),
    ],
    ids="seal wrap readable sign unwrap token ciphertext signed signature".split(),
)
@pytest.mark.parametrize("length", [TOKEN, 3, 0])
@pytest.mark.parametrize("refused_by", ["sspi", "grants", "closing"])
def test_bytearray_can_be_resized_while_the_error_lives(
    package, call, length, refused_by
):
    stub = Stub(package, granted=0 if refused_by == "grants" else ALL_GRANTED)
    for function in (
        "EncryptMessage", "DecryptMessage", "MakeSignature", "VerifySignature",
    ):
        refusing(stub, function)
    given = bytearray(length)
    with stub.context() as context:
        if refused_by == "closing":
            context.close()
        try:
            call(context, given)
        except (SspiError, RuntimeError) as error:
            given.extend(b"more")  # BufferError, if a view of it is alive
            assert error.__traceback__ is not None
        else:
            pytest.fail("nothing was refused")
    stub.assert_clean()


def test_reply_can_be_resized_while_the_error_lives():
    flow = authenticate(NTLM_SPN, package="NTLM", secur32=two_legs())
    echo = bytearray(next(flow))
    with pytest.raises(SspiError) as caught:
        flow.send(echo)
    echo.extend(b"more")
    assert caught.value.__traceback__ is not None


def two_legs():
    world = FakeDomain("CORP", {"alice": "password"}, [KERBEROS_SPN])
    return FakeSecur32(world, logon="alice")


@pytest.mark.parametrize("junk", [b"", b"junk", b"-----BEGIN CERTIFICATE-----"])
def test_certificate_can_be_resized_while_the_error_lives(junk):
    given = bytearray(junk)
    with pytest.raises(ValueError) as caught:
        tls_server_end_point(given)
    given.extend(b"more")
    assert caught.value.__traceback__ is not None


# -- a null session ------------------------------------------------------------


def test_null_session_has_its_name():
    """sspi.h: ISC_RET_NULL_SESSION."""
    assert ISC_RET.NULL_SESSION == 0x40000


@pytest.mark.parametrize("package", ["NTLM", "Negotiate", "Kerberos"])
@pytest.mark.parametrize(
    "require",
    [
        ISC_RET.CONFIDENTIALITY,
        ISC_RET.INTEGRITY,
        ISC_RET.REPLAY_DETECT | ISC_RET.SEQUENCE_DETECT,
        0x40000,
    ],
    ids=["confidentiality", "integrity", "detection", "null session"],
)
def test_null_session_satisfies_no_require(package, require):
    stub = Stub(package, granted=ALL_GRANTED | 0x40000)
    with pytest.raises(SspiError) as caught:
        stub.context(require=require).close()
    assert caught.value.name == "SEC_E_SECURITY_QOS_FAILED"
    stub.assert_clean()


@pytest.mark.parametrize("package", ["Negotiate", "Kerberos"])
def test_null_session_proves_no_server(package):
    stub = Stub("Kerberos", granted=ALL_GRANTED | 0x40000)
    with pytest.raises(SspiError) as caught:
        stub.context(package=package, require=ISC_RET.MUTUAL_AUTH).close()
    assert caught.value.name == "SEC_E_SECURITY_QOS_FAILED"
    stub.assert_clean()


def test_null_session_is_told_by_the_flags():
    stub = Stub(granted=ALL_GRANTED | 0x40000)
    with stub.context() as context:
        assert int(context.flags) & 0x40000
    stub.assert_clean()
