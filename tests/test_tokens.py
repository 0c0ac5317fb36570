"""The words that every other part uses: tokens, names, packages, flags."""

import copy
import pickle

import pytest

import sspi_client
from sspi_client import ISC_REQ, ISC_RET, SspiError, Token, spn

CONTENT = b"NTLMSSP\0hidden"


@pytest.mark.parametrize("final", [True, False], ids=["final", "open"])
def test_token_remembers_whether_it_is_final(final):
    assert Token(CONTENT, final).final is final


def test_token_is_equal_to_its_bytes():
    assert Token(CONTENT, True) == CONTENT


def test_token_has_the_hash_of_its_bytes():
    assert {CONTENT: "found"}[Token(CONTENT, True)] == "found"


def test_token_is_bytes():
    assert isinstance(Token(CONTENT, True), bytes)


def test_token_gives_its_bytes_when_asked():
    assert b"%b" % Token(CONTENT, True) == CONTENT


def test_token_may_be_empty():
    assert Token(b"", False) == b""


@pytest.mark.parametrize(
    "final, text",
    [
        pytest.param(True, "<Token, 14 bytes, final>", id="final"),
        pytest.param(False, "<Token, 14 bytes>", id="open"),
    ],
)
@pytest.mark.parametrize(
    "show",
    [
        pytest.param(repr, id="repr"),
        pytest.param(str, id="str"),
        pytest.param(lambda token: f"{token}", id="format"),
        pytest.param(lambda token: f"{token!r}", id="format-repr"),
        pytest.param(lambda token: "%s" % token, id="percent"),
        pytest.param(lambda token: "%r" % token, id="percent-repr"),
        pytest.param(lambda token: repr([token])[1:-1], id="in-a-list"),
    ],
)
def test_token_shows_its_length_and_no_bytes(show, final, text):
    assert show(Token(CONTENT, final)) == text


@pytest.mark.parametrize(
    "copied",
    [
        pytest.param(copy.copy, id="copy"),
        pytest.param(copy.deepcopy, id="deepcopy"),
        pytest.param(lambda token: pickle.loads(pickle.dumps(token)), id="pickle"),
    ],
)
def test_token_stays_itself_when_copied(copied):
    token = copied(Token(CONTENT, True))
    assert (token, token.final) == (CONTENT, True)


# spn()


@pytest.mark.parametrize(
    "parts, name",
    [
        pytest.param(("HTTP", "web.corp.test"), "HTTP/web.corp.test", id="web"),
        pytest.param(("MSSQLSvc", "db", 1433), "MSSQLSvc/db:1433", id="sql"),
        pytest.param(("HTTP", "h", 1), "HTTP/h:1", id="first-port"),
        pytest.param(("HTTP", "h", 65535), "HTTP/h:65535", id="last-port"),
        pytest.param(("ldap", "DC1"), "ldap/DC1", id="case-is-kept"),
        pytest.param(("HTTP", "bücher.test"), "HTTP/xn--bcher-kva.test", id="umlaut"),
        pytest.param(("HTTP", "web.corp.test."), "HTTP/web.corp.test.", id="dot"),
        pytest.param(("HTTP", "10.0.0.7"), "HTTP/10.0.0.7", id="address"),
    ],
)
def test_spn_composes(parts, name):
    assert spn(*parts) == name


def test_spn_is_what_authenticate_takes(fake, server):
    target = spn("HTTP", "web.corp.test")
    flow = sspi_client.authenticate(target, secur32=fake)
    sspi_client.drive(flow, server.accept).close()
    assert server.target == target


# packages()


def test_packages_names_what_there_is(fake):
    names = [package.name for package in sspi_client.packages(fake)]
    assert sorted(names) == ["Kerberos", "NTLM", "Negotiate"]


def test_packages_tells_the_facts_of_each(fake):
    [ntlm] = [p for p in sspi_client.packages(fake) if p.name == sspi_client.NTLM]
    facts = (ntlm.comment, ntlm.max_token, ntlm.capabilities)
    assert facts == ("NTLM Security Package", 2888, 0x00082B37)


def test_package_shows_its_name_and_longest_token(fake):
    [ntlm] = [p for p in sspi_client.packages(fake) if p.name == sspi_client.NTLM]
    assert repr(ntlm) == "<Package NTLM, tokens to 2888 bytes>"


def test_packages_raises_when_secur32_refuses(fake):
    fake.inject("EnumerateSecurityPackagesW", sspi_client.SEC_E_INSUFFICIENT_MEMORY)
    with pytest.raises(SspiError) as caught:
        sspi_client.packages(fake)
    assert caught.value.function == "EnumerateSecurityPackagesW"


def test_packages_gives_its_memory_back(fake):
    sspi_client.packages(fake)
    assert fake.calls == ["EnumerateSecurityPackagesW", "FreeContextBuffer"]


def test_package_names_are_those_of_windows():
    names = (sspi_client.NEGOTIATE, sspi_client.KERBEROS, sspi_client.NTLM)
    assert names == ("Negotiate", "Kerberos", "NTLM")


# Flags


def test_default_flags_are_five():
    assert sspi_client.DEFAULT_FLAGS == (
        ISC_REQ.MUTUAL_AUTH | ISC_REQ.REPLAY_DETECT | ISC_REQ.SEQUENCE_DETECT
        | ISC_REQ.CONFIDENTIALITY | ISC_REQ.INTEGRITY
    )  # fmt: skip


def test_default_flags_are_isc_req():
    assert type(sspi_client.DEFAULT_FLAGS) is ISC_REQ


def test_default_flags_do_not_delegate():
    assert not sspi_client.DEFAULT_FLAGS & ISC_REQ.DELEGATE


@pytest.mark.parametrize("flags", [ISC_REQ, ISC_RET])
def test_flags_keep_bits_that_have_no_name(flags):
    assert int(flags(0x80000001)) == 0x80000001


@pytest.mark.parametrize("flags", [ISC_REQ, ISC_RET])
def test_flags_are_ints(flags):
    assert flags.DELEGATE | 0x10000 == 0x10001


@pytest.mark.parametrize("flags", [ISC_REQ, ISC_RET])
def test_flags_have_one_bit_each(flags):
    assert all(bin(flag).count("1") == 1 for flag in flags.__members__.values())


def test_context_flags_are_isc_ret(fake, server):
    flow = sspi_client.authenticate("HTTP/web.corp.test", secur32=fake)
    with sspi_client.drive(flow, server.accept) as context:
        assert type(context.flags) is ISC_RET


@pytest.mark.parametrize("encrypted", [True, False], ids=["sealed", "signed"])
def test_message_stays_itself_when_copied(encrypted):
    twin = copy.copy(sspi_client.Message(b"text", encrypted))
    assert (twin, twin.encrypted) == (b"text", encrypted)


def test_spn_never_repeats_what_it_refuses():
    with pytest.raises(ValueError) as caught:
        spn("HTTP", "alice:Secret123@host")
    assert "Secret123" not in str(caught.value)
