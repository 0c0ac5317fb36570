"""Names and passwords as SSPI sees them: UTF-16 code units, or bytes as they are.

RFC 2781 2.1: a code point from U+10000 on is written as two units, 0xD800 plus the
upper ten bits of what is beyond 0x10000, and 0xDC00 plus the lower ten.
"""

import pytest
from stub import Stub

from sspi_client import Credential, Identity

#: Where the arithmetic has its edges -> the units, written down by hand.
UNITS = [
    ("\xff", [0xFF]),
    ("\u0100", [0x100]),
    ("\ud7ff", [0xD7FF]),
    ("\ud800", [0xD800]),
    ("\udc00", [0xDC00]),
    ("\udfff", [0xDFFF]),
    ("\ue000", [0xE000]),
    ("\uffff", [0xFFFF]),
    ("\U00010000", [0xD800, 0xDC00]),
    ("\U00010001", [0xD800, 0xDC01]),
    ("\U000103ff", [0xD800, 0xDFFF]),
    ("\U00010400", [0xD801, 0xDC00]),
    ("\U0001f600", [0xD83D, 0xDE00]),
    ("\U000fffff", [0xDBBF, 0xDFFF]),
    ("\U00100000", [0xDBC0, 0xDC00]),
    ("\U0010ffff", [0xDBFF, 0xDFFF]),
]
points = pytest.mark.parametrize("text, units", UNITS, ids=ascii)
lists = pytest.mark.parametrize("allow_ntlm", [True, False], ids=["plain", "EX"])


def seen_by_sspi(identity, **options):
    stub = Stub()
    Credential(identity, secur32=stub, **options).close()
    stub.assert_clean()
    return stub.identity


def letters(text):
    return [ord(letter) for letter in text]


@points
@lists
def test_password_is_written_in_units(text, units, allow_ntlm):
    identity = Identity("alice", f"a{text}b", "CORP")
    seen = seen_by_sspi(identity, allow_ntlm=allow_ntlm)
    assert seen["Password"] == [0x61, *units, 0x62]
    assert (seen["User"], seen["Domain"]) == (letters("alice"), letters("CORP"))
    assert seen["Flags"] == 2  # sspi.h, SEC_WINNT_AUTH_IDENTITY_UNICODE


@points
@lists
def test_user_and_domain_are_written_in_units(text, units, allow_ntlm):
    identity = Identity(f"{text}ice", "password", f"CO{text}")
    seen = seen_by_sspi(identity, allow_ntlm=allow_ntlm)
    assert seen["User"] == [*units, *letters("ice")]
    assert seen["Domain"] == [*letters("CO"), *units]
    assert seen["Password"] == letters("password")


def test_several_pairs_in_a_row_keep_their_order():
    text = "\U00010000\U0010ffffx\U000103ff\U00010400"
    seen = seen_by_sspi(Identity(text, text, text))
    due = [0xD800, 0xDC00, 0xDBFF, 0xDFFF, 0x78, 0xD800, 0xDFFF, 0xD801, 0xDC00]
    assert [seen[field] for field in ("User", "Domain", "Password")] == [due] * 3


def test_units_are_those_of_python():
    text = "".join(text for text, _ in UNITS)
    octets = text.encode("utf-16-le", "surrogatepass")
    due = [low | high << 8 for low, high in zip(octets[::2], octets[1::2])]
    assert seen_by_sspi(Identity("alice", text, ""))["Password"] == due


@lists
def test_bytes_are_written_as_they_are(allow_ntlm):
    password = bytes(range(1, 256))
    identity = Identity(b"al\xefce", password, b"C\xd6RP")
    seen = seen_by_sspi(identity, allow_ntlm=allow_ntlm)
    assert seen == {
        "User": list(b"al\xefce"),
        "Domain": list(b"C\xd6RP"),
        "Password": list(password),
        "Flags": 1,  # sspi.h, SEC_WINNT_AUTH_IDENTITY_ANSI
    }


# -- code pages: on Windows by MultiByteToWideChar, elsewhere by Python's codecs -


@pytest.mark.parametrize(
    "octets, code_page",
    [
        (b"pass\x81", 932),  # ends in the middle of a character
        (b"\x81", 932),
        (b"pass\xff", 65001),
        (b"pass\xe2\x82", 65001),
        (b"\xed\xa0\x80", 65001),  # a surrogate, which UTF-8 has none of
        (b"pass\x80\x20word", 936),
    ],
    ids=lambda value: repr(value),
)
@pytest.mark.parametrize("place", ["user", "password", "domain"])
def test_bytes_that_are_no_character_of_the_page_are_a_value_error(
    octets, code_page, place
):
    parts = {"user": b"alice", "password": b"password", "domain": b"CORP"}
    parts[place] = octets
    with pytest.raises(ValueError, match=f"code page {code_page}"):
        Identity.from_ansi(**parts, code_page=code_page)


@pytest.mark.parametrize(
    "octets, code_page, text",
    [
        (b"p\xe4ss", 1252, "p\xe4ss"),
        (b"\x80", 1252, "\u20ac"),
        (b"p\x84ss", 437, "p\xe4ss"),
        (b"\x83\x5c", 932, "\u30bd"),  # its second half is a backslash
        (b"\xe2\x82\xac", 65001, "\u20ac"),
        (b"\xf0\x90\x80\x80", 65001, "\U00010000"),
    ],
    ids=lambda value: ascii(value),
)
def test_bytes_of_a_code_page_become_units(octets, code_page, text):
    identity = Identity.from_ansi(b"alice", octets, b"CORP", code_page)
    encoded = text.encode("utf-16-le")
    due = [low | high << 8 for low, high in zip(encoded[::2], encoded[1::2])]
    assert seen_by_sspi(identity)["Password"] == due
