"""Who to log on as: the names, what SSPI sees of them, what is left in memory."""

import ctypes
import gc
import struct
import sys
from collections import namedtuple

import pytest
from world import KERBEROS_SPN, NTLM_SPN, USERS

import sspi_client
from sspi_client import FakeDomain, FakeSecur32, FakeServer, Identity, SspiError

ANSI, UNICODE = 1, 2  # sspi.h, SEC_WINNT_AUTH_IDENTITY_*
SECRET = "Tr0ub4dor-" + "horse"  # in two parts: no line of source may look like it

Seen = namedtuple("Seen", "extended length flags user domain password package_list")


def read_identity(address):
    """Copy an identity out of memory, by sspi.h and not by the module."""
    if not address:
        return None
    extended = ctypes.c_uint32.from_address(address).value == 0x200
    layout = "@IIPIPIPIIPI" if extended else "@PIPIPII"
    fields = struct.unpack(layout, ctypes.string_at(address, struct.calcsize(layout)))
    length, listed = None, (0, 0)
    if extended:
        length, fields, listed = fields[1], fields[2:9], fields[9:]
    flags = fields[6]
    width = 1 if flags & ANSI else 2
    texts = [
        ctypes.string_at(place, units * width) if place else None
        for place, units in (fields[0:2], fields[2:4], fields[4:6], listed)
    ]
    return Seen(extended, length, flags, *texts)


@pytest.fixture
def seen(fake, mocker):
    """What each AcquireCredentialsHandleW was given as pAuthData, copied out."""
    acquire, notes = fake.AcquireCredentialsHandleW, []

    def noting(*arguments):
        address = ctypes.cast(arguments[4], ctypes.c_void_p).value
        notes.append(read_identity(address))
        return acquire(*arguments)

    mocker.patch.object(fake, "AcquireCredentialsHandleW", noting)
    return notes


def arrays_with(content):
    """Every ctypes array in this process that holds *content*."""
    arrays = (o for o in gc.get_objects() if issubclass(type(o), ctypes.Array))
    return [array for array in arrays if content in bytes(array)]


@pytest.fixture
def kept(fake, mocker):
    """The arrays that held SECRET while AcquireCredentialsHandleW ran, kept alive."""
    acquire, arrays = fake.AcquireCredentialsHandleW, []

    def keeping(*arguments):
        arrays.extend(arrays_with(wide(SECRET)))
        return acquire(*arguments)

    mocker.patch.object(fake, "AcquireCredentialsHandleW", keeping)
    return arrays


def wide(text):
    return text.encode("utf-16-le", "surrogatepass")


def acquire(fake, identity, **options):
    with sspi_client.Credential(identity, secur32=fake, **options):
        pass


def log_on(fake, server, identity, target=NTLM_SPN, package="Negotiate"):
    """Run a whole handshake and return who the server takes us for."""
    flow = sspi_client.authenticate(target, identity, package=package, secur32=fake)
    with sspi_client.drive(flow, server.accept):
        return server.user


def everything_said(error):
    """All texts of an exception, and of the exceptions behind it."""
    due, texts = [error], []
    while due:
        error = due.pop()
        if error is not None:
            texts += [str(error), repr(error), repr(error.args), repr(vars(error))]
            due += [error.__context__, error.__cause__]
    return "\n".join(texts)


# The names

NAMES = [
    pytest.param("alice", None, "", "alice", id="bare"),
    pytest.param("alice@corp.test", None, "", "alice@corp.test", id="upn"),
    pytest.param("CORP\\alice", None, "CORP", "alice", id="backslash"),
    pytest.param("CORP\\a\\b\\c", None, "CORP", "a\\b\\c", id="several-backslashes"),
    pytest.param("CORP\\a@b.test", None, "CORP", "a@b.test", id="backslash-and-at"),
    pytest.param("\\alice", None, "", "alice", id="nothing-before-backslash"),
    pytest.param(".\\alice", None, ".", "alice", id="this-machine"),
    pytest.param("alice", "CORP", "CORP", "alice", id="domain"),
    pytest.param("alice", "", "", "alice", id="empty-domain"),
    pytest.param("KÖLN\\jörg", None, "KÖLN", "jörg", id="umlauts"),
    pytest.param("\u30bd\\\U0001f600", None, "\u30bd", "\U0001f600", id="emoji"),
    pytest.param("C\ud800\\a\udc00", None, "C\ud800", "a\udc00", id="lone-surrogates"),
    pytest.param(" alice ", None, "", " alice ", id="spaces"),
]
ANSI_NAMES = [
    pytest.param(b"alice", None, b"", b"alice", id="bare"),
    pytest.param(b"alice@corp.test", None, b"", b"alice@corp.test", id="upn"),
    pytest.param(b"CORP\\alice", None, b"CORP", b"alice", id="backslash"),
    pytest.param(b"CORP\\a\\b", None, b"CORP", b"a\\b", id="several-backslashes"),
    pytest.param(b"CORP\\\xe4\\b", None, b"CORP", b"\xe4\\b", id="ascii-domain"),
    pytest.param(b"j\xf6rg", None, b"", b"j\xf6rg", id="non-ascii"),
    pytest.param(b"\x83\\\\a", b"", b"", b"\x83\\\\a", id="empty-domain-wins"),
    pytest.param(b"alice", b"K\xd6LN", b"K\xd6LN", b"alice", id="domain"),
]


@pytest.mark.parametrize("given, given_domain, realm, user", NAMES + ANSI_NAMES)
def test_identity_splits_the_name(given, given_domain, realm, user):
    password = b"" if isinstance(given, bytes) else ""
    identity = Identity(given, password, given_domain)
    assert (identity.domain, identity.user) == (realm, user)


@pytest.mark.parametrize("given, given_domain, realm, user", NAMES)
def test_sspi_sees_utf_16(fake, seen, given, given_domain, realm, user):
    acquire(fake, Identity(given, "päss", given_domain))
    [identity] = seen
    assert identity[2:6] == (UNICODE, wide(user), wide(realm), wide("päss"))


@pytest.mark.parametrize("given, given_domain, realm, user", ANSI_NAMES)
def test_sspi_sees_bytes_as_they_are(fake, seen, given, given_domain, realm, user):
    acquire(fake, Identity(given, b"p\xe4ss", given_domain))
    [identity] = seen
    assert identity[2:6] == (ANSI, user, realm, b"p\xe4ss")


@pytest.mark.parametrize(
    "user, domain",
    [("CORP\\alice", "CORP"), ("CORP\\alice", ""), ("alice@corp.test", "CORP"),
     (b"CORP\\alice", b"LAB"), (b"alice@corp.test", b"LAB")],
)  # fmt: skip
def test_identity_refuses_a_domain_that_is_given_twice(user, domain):
    with pytest.raises(ValueError, match="has a domain of its own: leave out domain"):
        Identity(user, b"x" if isinstance(user, bytes) else "x", domain)


def test_identity_refuses_a_missing_password():
    with pytest.raises(TypeError, match="without a password: Windows has no kinit"):
        Identity("alice", None)


@pytest.mark.parametrize(
    "user",
    ["", "CORP\\", "\\", b"", b"CORP\\"],
    ids=["nothing", "domain-alone", "backslash-alone", "no-bytes", "domain-in-bytes"],
)
def test_identity_refuses_an_empty_user(user):
    with pytest.raises(ValueError, match="the user name is empty"):
        Identity(user, b"x" if isinstance(user, bytes) else "x")


@pytest.mark.parametrize("kind", [str, str.encode], ids=["text", "bytes"])
@pytest.mark.parametrize("part", ["user", "password", "domain"])
def test_identity_refuses_an_embedded_nul(kind, part):
    parts = {"user": kind("alice"), "password": kind("x"), "domain": kind("CORP")}
    parts[part] = kind("al\0ice")
    with pytest.raises(ValueError, match=f"{part} holds a NUL"):
        Identity(**parts)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(("alice", b"x", None), id="bytes-password"),
        pytest.param((b"alice", "x", None), id="text-password"),
        pytest.param(("alice", "x", b"CORP"), id="bytes-domain"),
        pytest.param((b"alice", b"x", "CORP"), id="text-domain"),
        pytest.param((b"alice", b"x", ""), id="empty-text-domain"),
    ],
)
def test_identity_refuses_a_mixture(parts):
    with pytest.raises(TypeError, match="must be all str or all bytes"):
        Identity(*parts)


def test_identity_refuses_a_backslash_behind_bytes_that_are_not_ascii():
    katakana_so = b"\x83\x5c"  # code page 932: its second half is a backslash
    with pytest.raises(ValueError, match="may be half a character"):
        Identity(katakana_so + b"alice", b"x")


# What SSPI sees of it


@pytest.mark.parametrize(
    "password, units",
    [
        pytest.param("", 0, id="empty"),
        pytest.param("abc", 3, id="ascii"),
        pytest.param("Pä55wörd€", 9, id="euro"),
        pytest.param("pass\U0001f600word", 10, id="emoji"),
        pytest.param("\U0001d11e\U0010ffff", 4, id="beyond-the-bmp"),
        pytest.param("a\ud800", 2, id="lone-surrogate"),
        pytest.param("\ud83d\ude00", 2, id="two-halves"),
        pytest.param("e\u0301", 2, id="combining"),
    ],
)
def test_password_length_counts_utf_16_code_units(fake, seen, password, units):
    acquire(fake, Identity("alice", password))
    [identity] = seen
    assert len(identity.password) == 2 * units


def test_empty_password_and_domain_are_not_null(fake, seen):
    acquire(fake, Identity("alice", ""))
    [identity] = seen
    assert (identity.domain, identity.password) == (b"", b"")


def test_explicit_identity_is_plain_when_ntlm_is_allowed(fake, seen):
    acquire(fake, Identity("alice", "x"))
    [identity] = seen
    assert not identity.extended


def test_explicit_identity_is_plain_when_the_package_is_kerberos(fake, seen):
    acquire(fake, Identity("alice", "x"), package="Kerberos", allow_ntlm=False)
    [identity] = seen
    assert not identity.extended


def test_current_logon_is_null_when_ntlm_is_allowed(fake, seen):
    acquire(fake, None)
    assert seen == [None]


def test_current_logon_is_null_when_the_package_is_kerberos(fake, seen):
    acquire(fake, None, package="Kerberos", allow_ntlm=False)
    assert seen == [None]


SIZE_OF_EX = 72 if ctypes.sizeof(ctypes.c_void_p) == 8 else 44


def test_explicit_identity_carries_the_list_when_ntlm_is_not_allowed(fake, seen):
    acquire(fake, Identity("CORP\\alice", "x"), allow_ntlm=False)
    assert seen == [
        Seen(
            True, SIZE_OF_EX, UNICODE,
            wide("alice"), wide("CORP"), wide("x"), wide("!ntlm"),
        )
    ]  # fmt: skip


def test_ansi_identity_carries_an_ansi_list_when_ntlm_is_not_allowed(fake, seen):
    acquire(fake, Identity(b"CORP\\alice", b"x"), allow_ntlm=False)
    assert seen == [Seen(True, SIZE_OF_EX, ANSI, b"alice", b"CORP", b"x", b"!ntlm")]


def test_current_logon_carries_the_list_alone_when_ntlm_is_not_allowed(fake, seen):
    acquire(fake, None, allow_ntlm=False)
    assert seen == [Seen(True, SIZE_OF_EX, UNICODE, None, None, None, wide("!ntlm"))]


def test_list_is_carried_when_negotiate_is_spelled_otherwise(fake, seen):
    acquire(fake, None, package="NEGOTIATE", allow_ntlm=False)
    [identity] = seen
    assert identity.package_list == wide("!ntlm")


def test_authenticate_shows_sspi_the_identity_that_it_was_given(fake, seen):
    flow = sspi_client.authenticate(NTLM_SPN, Identity("CORP\\bob", "x"), secur32=fake)
    next(flow)
    flow.close()
    [identity] = seen
    assert (identity.domain, identity.user) == (wide("CORP"), wide("bob"))


def test_password_lies_in_one_buffer_when_sspi_reads_it(fake, kept):
    acquire(fake, Identity("CORP\\alice", SECRET))
    assert len(kept) == 1


def test_password_is_terminated_when_sspi_reads_it(fake, mocker):
    acquire_handle, ends = fake.AcquireCredentialsHandleW, []

    def noting(*arguments):
        [array] = arrays_with(wide(SECRET))
        content = bytes(array)
        end = content.index(wide(SECRET)) + len(wide(SECRET))
        ends.append(content[end : end + 2])
        return acquire_handle(*arguments)

    mocker.patch.object(fake, "AcquireCredentialsHandleW", noting)
    acquire(fake, Identity("alice", SECRET))
    assert ends == [b"\0\0"]


# What is left of it


def test_password_is_wiped_when_the_credential_is_acquired(fake, kept):
    acquire(fake, Identity("CORP\\alice", SECRET))
    assert [bytes(array).strip(b"\0") for array in kept] == [b""]


def test_password_is_wiped_when_the_list_is_carried(fake, kept):
    acquire(fake, Identity("CORP\\alice", SECRET), allow_ntlm=False)
    assert [bytes(array).strip(b"\0") for array in kept] == [b""]


def test_password_is_wiped_when_sspi_refuses(fake, kept):
    fake.inject("AcquireCredentialsHandleW", sspi_client.SEC_E_UNKNOWN_CREDENTIALS)
    with pytest.raises(SspiError):
        acquire(fake, Identity("CORP\\alice", SECRET))
    assert [bytes(array).strip(b"\0") for array in kept] == [b""]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_password_is_wiped_when_interrupted(fake, kept, mocker, before):
    acquire_handle = fake.AcquireCredentialsHandleW

    def interrupted(*arguments):
        if before:
            kept.extend(arrays_with(wide(SECRET)))
        else:
            acquire_handle(*arguments)
        raise KeyboardInterrupt

    mocker.patch.object(fake, "AcquireCredentialsHandleW", interrupted)
    with pytest.raises(KeyboardInterrupt):
        acquire(fake, Identity("CORP\\alice", SECRET))
    assert [bytes(array).strip(b"\0") for array in kept] == [b""]


def test_password_is_wiped_when_the_first_token_comes(fake, kept):
    flow = sspi_client.authenticate(
        NTLM_SPN, Identity("CORP\\alice", SECRET), secur32=fake
    )
    next(flow)
    remains = [bytes(array).strip(b"\0") for array in kept]
    flow.close()
    assert remains == [b""]


def test_no_array_holds_the_password_when_the_flow_is_made(fake):
    flow = sspi_client.authenticate(
        NTLM_SPN, Identity("CORP\\alice", SECRET), secur32=fake
    )
    assert arrays_with(wide(SECRET)) == []
    flow.close()


def test_ansi_password_is_wiped_when_the_credential_is_acquired(fake, mocker):
    acquire_handle, kept = fake.AcquireCredentialsHandleW, []

    def keeping(*arguments):
        kept.extend(arrays_with(SECRET.encode()))
        return acquire_handle(*arguments)

    mocker.patch.object(fake, "AcquireCredentialsHandleW", keeping)
    acquire(fake, Identity(b"alice", SECRET.encode()))
    assert [bytes(array).strip(b"\0") for array in kept] == [b""]


@pytest.mark.parametrize(
    "show",
    [repr, str, "{}".format, "%s".__mod__, "%r".__mod__],
    ids=["repr", "str", "format", "percent", "percent-repr"],
)
@pytest.mark.parametrize("kind", [str, str.encode], ids=["text", "bytes"])
def test_identity_shows_no_password(show, kind):
    assert SECRET not in show(Identity(kind("CORP\\alice"), kind(SECRET)))


def test_identity_shows_whose_it_is():
    assert repr(Identity("CORP\\alice", SECRET)) == "Identity('alice', ..., 'CORP')"


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(lambda: Identity("", SECRET), id="empty-user"),
        pytest.param(lambda: Identity("alice", SECRET + "\0"), id="nul"),
        pytest.param(lambda: Identity(b"alice", SECRET), id="mixture"),
        pytest.param(lambda: Identity("alice", bytearray(SECRET, "ascii")), id="type"),
        pytest.param(lambda: Identity("alice", [SECRET]), id="list"),
        pytest.param(
            lambda: Identity.from_ansi(b"a", SECRET.encode() + b"\xff", None, 65001),
            id="invalid-bytes",
        ),
        pytest.param(
            lambda: Identity.from_ansi(b"a", SECRET.encode() + b"\x81", None, 932),
            id="half-a-character",
        ),
        pytest.param(
            lambda: Identity.from_ansi(b"a", SECRET.encode() + b"\0", None, 1252),
            id="nul-in-bytes",
        ),
        pytest.param(
            lambda: Identity.from_ansi(b"a", SECRET.encode(), None, 99999),
            id="unknown-page",
        ),
        pytest.param(lambda: Identity.from_ansi(b"a", SECRET), id="text-for-bytes"),
        pytest.param(
            lambda: Identity.from_ansi(b"\xff", SECRET.encode(), None, 65001),
            id="another-part",
        ),
    ],
)
def test_refused_identity_tells_no_password(refused):
    with pytest.raises((TypeError, ValueError)) as caught:
        refused()
    assert SECRET not in everything_said(caught.value)


def test_refused_acquisition_tells_no_password(fake):
    fake.inject("AcquireCredentialsHandleW", sspi_client.SEC_E_UNKNOWN_CREDENTIALS)
    with pytest.raises(SspiError) as caught:
        acquire(fake, Identity("alice", SECRET))
    assert SECRET not in everything_said(caught.value)


def test_refused_logon_tells_no_password(fake, server):
    with pytest.raises(SspiError) as caught:
        log_on(fake, server, Identity("CORP\\alice", SECRET), target=KERBEROS_SPN)
    assert SECRET not in everything_said(caught.value)


def test_credential_and_context_show_no_password(fake, domain, server):
    domain.users["alice"] = SECRET
    identity = Identity("CORP\\alice", SECRET)
    with sspi_client.Credential(identity, secur32=fake) as credential:
        flow = credential.authenticate(NTLM_SPN)
        with sspi_client.drive(flow, server.accept) as context:
            shown = repr((credential, context, flow, vars(credential), vars(context)))
    assert SECRET not in shown


# Code pages

off_windows = pytest.mark.skipif(
    sys.platform == "win32", reason="pages 0 and 1 are the machine's on Windows"
)


@pytest.mark.parametrize(
    "page, given, text",
    [
        pytest.param(0, b"plain", "plain", id="ansi-ascii"),
        pytest.param(0, b"\x80\xe4\x8e", "€äŽ", id="ansi", marks=off_windows),
        pytest.param(1, b"plain", "plain", id="oem-ascii"),
        pytest.param(1, b"\x84\x9b\xe1", "ä¢ß", id="oem", marks=off_windows),
        pytest.param(1252, b"\x80\xe4\xff", "€äÿ", id="western"),
        pytest.param(1252, b"\x81\x8d\x8f\x90\x9d", "\x81\x8d\x8f\x90\x9d", id="holes"),
        pytest.param(1252, b"a\x81\xe4", "a\x81ä", id="hole-in-a-word"),
        pytest.param(437, b"\x81\x8e\xe1", "üÄß", id="dos"),
        pytest.param(932, b"\x83\x5c\x93\xfa\xb1", "ソ日ｱ", id="japanese"),
        pytest.param(65001, b"P\xc3\xa455\xe2\x82\xac", "Pä55€", id="utf-eight"),
        pytest.param(65001, b"\xf0\x9f\x98\x80", "\U0001f600", id="utf-eight-emoji"),
        pytest.param(65001, b"", "", id="utf-eight-empty"),
    ],
)
def test_from_ansi_gives_sspi_unicode(fake, seen, page, given, text):
    acquire(fake, Identity.from_ansi(b"alice", given, b"CORP", page))
    [identity] = seen
    assert (identity.flags, identity.password) == (UNICODE, wide(text))


def test_from_ansi_takes_the_ansi_page_when_none_is_given(mocker):
    decode = mocker.spy(sspi_client, "_decode_ansi")
    Identity.from_ansi(b"alice", b"x")
    assert {call.args[1] for call in decode.call_args_list} == {0}


def test_from_ansi_converts_every_part():
    identity = Identity.from_ansi(b"j\x94rg", b"x", b"K\x99LN", 437)
    assert (identity.user, identity.domain) == ("jörg", "KÖLN")


def test_from_ansi_splits_behind_the_conversion():
    identity = Identity.from_ansi(b"\x83\x5c\\alice", b"x", code_page=932)
    assert (identity.domain, identity.user) == ("ソ", "alice")


@pytest.mark.parametrize(
    "page, given",
    [
        pytest.param(65001, b"\xff", id="utf-eight-never"),
        pytest.param(65001, b"\xc3", id="utf-eight-cut"),
        pytest.param(65001, b"\xed\xa0\x80", id="utf-eight-surrogate"),
        pytest.param(932, b"a\x81", id="japanese-cut"),
    ],
)
@pytest.mark.parametrize("part", ["user", "password", "domain"])
def test_from_ansi_refuses_bytes_that_mean_nothing(page, given, part):
    parts = {"user": b"alice", "password": b"x", "domain": b"CORP", part: given}
    with pytest.raises(ValueError, match=f"mean nothing in code page {page}"):
        Identity.from_ansi(code_page=page, **parts)


@pytest.mark.skipif(sys.platform == "win32", reason="not verified on Windows")
@pytest.mark.parametrize(
    "page, hole", [(1253, b"\xaa"), (1255, b"\xd9"), (1257, b"\xa1")],
    ids=["greek", "hebrew", "baltic"],
)  # fmt: skip
def test_from_ansi_refuses_a_hole_that_is_no_control(page, hole):
    # MultiByteToWideChar has U+F8F9, U+F88D, U+F8FC there: surely not U+00AA.
    with pytest.raises(ValueError, match=f"mean nothing in code page {page}"):
        Identity.from_ansi(b"alice", hole, code_page=page)


@pytest.mark.parametrize("page", [99999, -1, 2**40], ids=["unused", "negative", "huge"])
def test_from_ansi_refuses_an_unknown_page(page):
    with pytest.raises(ValueError, match=f"no code page {page}"):
        Identity.from_ansi(b"alice", b"x", code_page=page)


def test_from_ansi_refuses_a_missing_password():
    with pytest.raises(TypeError, match="bytes, not NoneType"):
        Identity.from_ansi(b"alice", None)


# Whole handshakes


@pytest.mark.parametrize(
    "package, target",
    [
        pytest.param("NTLM", NTLM_SPN, id="ntlm"),
        pytest.param("Negotiate", NTLM_SPN, id="negotiate-ntlm"),
        pytest.param("Negotiate", KERBEROS_SPN, id="negotiate-kerberos"),
    ],
)
@pytest.mark.parametrize("user", USERS)
def test_server_knows_the_user(fake, server, user, package, target):
    identity = Identity("CORP\\" + user, USERS[user])
    assert log_on(fake, server, identity, target, package) == "CORP\\" + user


@pytest.mark.parametrize(
    "identity",
    [
        pytest.param(Identity("bob@corp.test", USERS["bob"]), id="upn"),
        pytest.param(Identity("bob", USERS["bob"]), id="no-domain"),
        pytest.param(Identity("bob", USERS["bob"], "CORP"), id="domain"),
        pytest.param(
            Identity.from_ansi(b"bob", USERS["bob"].encode("cp1252"), b"CORP", 1252),
            id="from-ansi",
        ),
        pytest.param(
            Identity(b"CORP\\bob", USERS["bob"].encode("cp1252")),
            id="bytes",
            marks=off_windows,
        ),
    ],
)
def test_server_knows_the_user_by_any_spelling(fake, server, identity):
    assert log_on(fake, server, identity) == "CORP\\bob"


def test_server_knows_a_password_with_a_lone_surrogate():
    domain = FakeDomain("CORP", {"odd": "a\ud800b"})
    fake = FakeSecur32(domain)
    assert log_on(fake, FakeServer(domain), Identity("odd", "a\ud800b")) == "CORP\\odd"


def test_server_knows_the_explicit_user_when_another_is_logged_on(fake, server):
    assert fake.logon == "alice"
    assert log_on(fake, server, Identity("empty", "")) == "CORP\\empty"


@pytest.mark.parametrize("package", ["NTLM", "Negotiate"])
@pytest.mark.parametrize(
    "wrong",
    ["Secret123", "secret123!", "", "Secret123!\u200b"],
    ids=["short", "lower-case", "empty", "longer"],
)
def test_wrong_password_fails_at_the_server(fake, server, package, wrong):
    with pytest.raises(SspiError) as caught:
        log_on(fake, server, Identity("CORP\\alice", wrong), package=package)
    error = caught.value
    assert (error.name, error.function) == (
        "SEC_E_LOGON_DENIED", "AcceptSecurityContext",
    )  # fmt: skip


def test_password_is_not_cut_when_it_holds_an_emoji(fake, server):
    cut = USERS["emoji"][:-1]  # what a length in code points would leave of it
    with pytest.raises(SspiError):
        log_on(fake, server, Identity("CORP\\emoji", cut))
