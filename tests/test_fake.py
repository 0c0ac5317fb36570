"""The fake secur32 itself: what it answers, and which crimes it sees.

The functions are called here as C callers call them, with structures of our own
making; the module's own calls never get this wrong. `lawless` is a fake that is
expected to be guilty; `fake`, of conftest, must be innocent at the end.
"""

import contextlib
import ctypes
import sys
from ctypes import byref
from types import SimpleNamespace

import pytest
from watched import WatchedSecur32
from world import BINDINGS, KERBEROS_SPN, NTLM_SPN, USERS

import sspi_client
from sspi_client import (
    SEC_CHANNEL_BINDINGS,
    SEC_WINNT_AUTH_IDENTITY_EXW,
    SEC_WINNT_AUTH_IDENTITY_W,
    SEC_E_OK,
    SEC_I_CONTINUE_NEEDED,
    SecBuffer,
    SecBufferDesc,
    SecHandle,
    SecPkgContext_NamesW,
    SecPkgContext_NegotiationInfoW,
    TimeStamp,
)

ALLOCATE = 0x100
DATA, TOKEN, CHANNEL_BINDINGS = 1, 2, 14
UNTOUCHED = 0xA5A5A5A5
FREES = {"credential": "FreeCredentialsHandle", "context": "DeleteSecurityContext"}


@pytest.fixture
def lawless(domain):
    """A secur32 with alice logged on that nobody judges at the end."""
    return WatchedSecur32(domain, logon="alice")


def name_of(status):
    """Name a status, as the module would."""
    return sspi_client.SspiError(status, "").name


def wide(text):
    encoded = (text + "\0").encode("utf-16-le")
    return (ctypes.c_uint16 * (len(encoded) // 2)).from_buffer_copy(encoded)


def untouched():
    return SecHandle(UNTOUCHED, UNTOUCHED)


def is_untouched(handle):
    return (handle.dwLower, handle.dwUpper) == (UNTOUCHED, UNTOUCHED)


def acquire_status(fake, handle, package="NTLM", use=2, auth=None, expiry=None):
    return fake.AcquireCredentialsHandleW(
        None, wide(package), use, None, auth, None, None, handle, expiry
    )


def acquire(fake, package="NTLM", auth=None):
    handle = SecHandle()
    assert acquire_status(fake, byref(handle), package, auth=auth) == SEC_E_OK
    return handle


def make_output(size=None, kind=TOKEN):
    """Make an output buffer and its descriptor; without a size SSPI allocates."""
    memory = None if size is None else ctypes.create_string_buffer(b"", size)
    address = None if size is None else ctypes.addressof(memory)
    buffer = SecBuffer(size or 0, kind, address)
    descriptor = SecBufferDesc(0, 1, ctypes.pointer(buffer))
    return SimpleNamespace(memory=memory, buffer=buffer, descriptor=descriptor)


def token_of(output):
    if not output.buffer.pvBuffer:
        return None
    return ctypes.string_at(output.buffer.pvBuffer, output.buffer.cbBuffer)


def make_input(token=None, bindings=None):
    """Make the input buffers: the token, then the bindings; either may be missing.

    b"" for the bindings is 32 bytes of zeros, which mean nothing and look like some.
    """
    contents = []
    if token is not None:
        contents.append((TOKEN, token))
    if bindings is not None:
        header = SEC_CHANNEL_BINDINGS()
        if bindings:
            header.cbApplicationDataLength = len(bindings)
            header.dwApplicationDataOffset = 32
        contents.append((CHANNEL_BINDINGS, bytes(header) + bindings))
    memory = [ctypes.create_string_buffer(c, len(c)) for _, c in contents]
    buffers = (SecBuffer * len(contents))()
    for buffer, (kind, content), block in zip(buffers, contents, memory):
        buffer.cbBuffer, buffer.BufferType = len(content), kind
        buffer.pvBuffer = ctypes.addressof(block)
    descriptor = SecBufferDesc(0, len(contents), buffers)
    return SimpleNamespace(memory=memory, buffers=buffers, descriptor=descriptor)


def initialize(
    fake, credential, context, new, output, given=None, target=NTLM_SPN,
    flags=ALLOCATE, attributes=None, expiry=None,
):  # fmt: skip
    return fake.InitializeSecurityContextW(
        None if credential is None else byref(credential),
        None if context is None else byref(context),
        wide(target),
        flags,
        0,
        0x10,
        None if given is None else byref(given.descriptor),
        0,
        None if new is None else byref(new),
        None if output is None else byref(output.descriptor),
        attributes,
        expiry,
    )


def first_leg(fake, credential, target=NTLM_SPN, bindings=None):
    """Return (context handle, output) after a first leg that went well."""
    context, output = SecHandle(), make_output()
    given = None if bindings is None else make_input(None, bindings)
    status = initialize(fake, credential, None, context, output, given, target)
    assert status == SEC_I_CONTINUE_NEEDED
    return context, output


def free(fake, output):
    assert fake.FreeContextBuffer(output.buffer.pvBuffer) == SEC_E_OK


def end(fake, credential, context, *outputs):
    """Give everything back, in the right order."""
    for output in outputs:
        free(fake, output)
    assert fake.DeleteSecurityContext(byref(context)) == SEC_E_OK
    assert fake.FreeCredentialsHandle(byref(credential)) == SEC_E_OK


def guilty_of(fake):
    """Return the crimes; assert_clean() must raise for them too."""
    with pytest.raises(AssertionError) as caught:
        fake.assert_clean()
    assert all(crime in str(caught.value) for crime in fake.crimes)
    return fake.crimes


def handle_of(fake, what):
    """Make a credential or a context; return (its handle, what else is alive)."""
    credential = acquire(fake)
    if what == "credential":
        return credential
    context, output = first_leg(fake, credential)
    free(fake, output)
    return context


# Innocence


def test_fake_is_clean_when_nothing_was_called(fake):
    fake.assert_clean()


def test_fake_is_clean_after_a_leg_that_was_given_back(fake):
    credential = acquire(fake)
    context, output = first_leg(fake, credential)
    end(fake, credential, context, output)
    fake.assert_clean()


def test_fake_keeps_the_calls_in_order(fake):
    credential = acquire(fake)
    context, output = first_leg(fake, credential)
    end(fake, credential, context, output)
    assert fake.calls == [
        "AcquireCredentialsHandleW",
        "InitializeSecurityContextW",
        "FreeContextBuffer",
        "DeleteSecurityContext",
        "FreeCredentialsHandle",
    ]


def test_fake_has_every_function_of_the_table(fake):
    assert all(callable(getattr(fake, name)) for name in sspi_client.PROTOTYPES)


# Crimes


@pytest.mark.parametrize(
    ("keep", "told"),
    [
        pytest.param("credential", "1 credentials alive", id="credential"),
        pytest.param("context", "1 contexts alive", id="context"),
        pytest.param("buffer", "1 buffers alive", id="buffer"),
    ],
)
def test_fake_tells_what_was_left_alive(lawless, keep, told):
    credential = acquire(lawless)
    context, output = first_leg(lawless, credential)
    if keep != "buffer":
        free(lawless, output)
    if keep != "context":
        lawless.DeleteSecurityContext(byref(context))
    if keep != "credential":
        lawless.FreeCredentialsHandle(byref(credential))
    with pytest.raises(AssertionError, match=told):
        lawless.assert_clean()


def test_buffer_freed_twice_is_a_crime(lawless):
    credential = acquire(lawless)
    _, output = first_leg(lawless, credential)
    free(lawless, output)
    status = lawless.FreeContextBuffer(output.buffer.pvBuffer)
    assert name_of(status) == "SEC_E_INVALID_HANDLE"
    assert guilty_of(lawless) == ["a buffer freed twice"]


@pytest.mark.parametrize("where", ["foreign", "inside"])
def test_buffer_that_was_never_allocated_is_a_crime_when_freed(lawless, where):
    memory = ctypes.create_string_buffer(16)
    address = ctypes.addressof(memory)
    if where == "inside":
        _, output = first_leg(lawless, acquire(lawless))
        address = output.buffer.pvBuffer + 1
    assert name_of(lawless.FreeContextBuffer(address)) == "SEC_E_INVALID_HANDLE"
    assert guilty_of(lawless) == ["a buffer freed that is not ours"]


@pytest.mark.parametrize("what", ["credential", "context"])
def test_handle_freed_twice_is_a_crime(lawless, what):
    handle = handle_of(lawless, what)
    assert getattr(lawless, FREES[what])(byref(handle)) == SEC_E_OK
    status = getattr(lawless, FREES[what])(byref(handle))
    assert name_of(status) == "SEC_E_INVALID_HANDLE"
    assert guilty_of(lawless) == [f"an old handle for a {what}"]


@pytest.mark.parametrize("what", ["credential", "context"])
@pytest.mark.parametrize(
    "value", [0, 1, 2**64 - 1 & sys.maxsize * 2 + 1], ids=["zero", "one", "invalid"]
)
def test_foreign_handle_is_a_crime_when_freed(lawless, what, value):
    status = getattr(lawless, FREES[what])(byref(SecHandle(value, value)))
    assert name_of(status) == "SEC_E_INVALID_HANDLE"
    assert guilty_of(lawless) == [f"a foreign handle for a {what}"]


@pytest.mark.parametrize("what", ["credential", "context"])
def test_null_is_a_crime_when_freed(lawless, what):
    status = getattr(lawless, FREES[what])(None)
    assert name_of(status) == "SEC_E_INVALID_HANDLE"
    assert guilty_of(lawless) == [f"NULL for a {what}"]


def test_handle_of_the_other_kind_is_a_crime(lawless):
    credential = acquire(lawless)
    lawless.DeleteSecurityContext(byref(credential))
    assert guilty_of(lawless) == ["a foreign handle for a context"]


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        pytest.param("QueryContextAttributesW", 1, id="query"),
        pytest.param("CompleteAuthToken", None, id="complete"),
        pytest.param("DeleteSecurityContext", None, id="delete"),
    ],
)
def test_context_used_after_its_end_is_a_crime(lawless, function, arguments):
    context = handle_of(lawless, "context")
    lawless.DeleteSecurityContext(byref(context))
    if function == "QueryContextAttributesW":
        answer = SecPkgContext_NamesW()
        status = lawless.QueryContextAttributesW(byref(context), 1, byref(answer))
    elif function == "CompleteAuthToken":
        output = make_output()
        status = lawless.CompleteAuthToken(byref(context), byref(output.descriptor))
    else:
        status = lawless.DeleteSecurityContext(byref(context))
    assert name_of(status) == "SEC_E_INVALID_HANDLE"
    assert guilty_of(lawless) == ["an old handle for a context"]


def test_credential_used_after_its_end_is_a_crime(lawless):
    credential = acquire(lawless)
    lawless.FreeCredentialsHandle(byref(credential))
    status = initialize(lawless, credential, None, SecHandle(), make_output())
    assert name_of(status) == "SEC_E_INVALID_HANDLE"
    assert guilty_of(lawless) == ["an old handle for a credential"]


def test_first_leg_without_a_credential_is_a_crime(lawless):
    status = initialize(lawless, None, None, SecHandle(), make_output())
    assert name_of(status) == "SEC_E_INVALID_HANDLE"
    assert guilty_of(lawless) == ["NULL for a credential"]


def test_leg_without_a_place_for_the_handle_is_a_crime(lawless):
    status = initialize(lawless, acquire(lawless), None, None, make_output())
    assert name_of(status) == "SEC_E_INVALID_HANDLE"
    assert guilty_of(lawless) == ["NULL phNewContext"]


def test_acquiring_without_a_place_for_the_handle_is_a_crime(lawless):
    assert name_of(acquire_status(lawless, None)) == "SEC_E_INVALID_HANDLE"
    assert guilty_of(lawless) == ["NULL phCredential"]


def test_credential_freed_before_its_context_is_a_crime(lawless):
    credential = acquire(lawless)
    first_leg(lawless, credential)
    lawless.FreeCredentialsHandle(byref(credential))
    assert guilty_of(lawless) == ["a credential was freed before its context"]


def second_leg(fake, server, bindings, later):
    """Make two legs of NTLM; return what went in and out of the second."""
    credential = acquire(fake)
    old, output = first_leg(fake, credential, bindings=bindings)
    given = make_input(server.accept(token_of(output)), later)
    context, last = SecHandle(), make_output()
    status = initialize(fake, credential, old, context, last, given)
    return status, credential, old, context, output, last


@pytest.mark.parametrize(
    ("first", "later"),
    [
        pytest.param(BINDINGS, None, id="left-out"),
        pytest.param(None, BINDINGS, id="added"),
        pytest.param(BINDINGS, BINDINGS + b"x", id="changed"),
    ],
)
def test_bindings_that_change_between_legs_are_a_crime(lawless, server, first, later):
    second_leg(lawless, server, first, later)
    assert guilty_of(lawless) == ["the channel bindings changed between legs"]


def test_bindings_that_stay_are_no_crime(fake, server):
    status, credential, _, context, *outputs = second_leg(
        fake, server, BINDINGS, BINDINGS
    )
    assert status == SEC_E_OK
    end(fake, credential, context, *outputs)


def test_bindings_of_zeros_are_a_crime(lawless):
    first_leg(lawless, acquire(lawless), bindings=b"")
    assert guilty_of(lawless) == ["channel bindings of zeros"]


def test_token_behind_the_bindings_is_a_crime(lawless, server):
    # The kinds are swapped, the contents too: bindings first, then the token.
    credential = acquire(lawless)
    old, output = first_leg(lawless, credential, bindings=BINDINGS)
    given = make_input(server.accept(token_of(output)), BINDINGS)
    given.buffers[0], given.buffers[1] = (
        SecBuffer.from_buffer_copy(given.buffers[1]),
        SecBuffer.from_buffer_copy(given.buffers[0]),
    )
    initialize(lawless, credential, old, SecHandle(), make_output(), given)
    assert guilty_of(lawless) == ["the token was not the first input buffer"]


def test_token_in_the_first_leg_is_a_crime(lawless):
    given = make_input(b"token")
    initialize(lawless, acquire(lawless), None, SecHandle(), make_output(), given)
    assert guilty_of(lawless) == ["a token went into the first leg"]


def test_later_leg_without_a_token_is_a_crime(lawless):
    credential = acquire(lawless)
    old, _ = first_leg(lawless, credential)
    initialize(lawless, credential, old, SecHandle(), make_output())
    assert "a later leg without a token" in guilty_of(lawless)


def test_leg_after_the_end_is_a_crime(lawless, server):
    _, credential, _, context, _, _ = second_leg(lawless, server, None, None)
    initialize(
        lawless, credential, context, SecHandle(), make_output(), make_input(b"more")
    )
    assert "a leg after SEC_E_OK" in guilty_of(lawless)


def test_old_handle_is_a_crime_when_it_has_rotated_away(lawless, server):
    _, credential, old, _, _, _ = second_leg(lawless, server, None, None)
    status = initialize(
        lawless, credential, old, SecHandle(), make_output(), make_input(b"more")
    )
    assert name_of(status) == "SEC_E_INVALID_HANDLE"
    assert guilty_of(lawless) == ["an old handle for a context"]


def test_completing_another_descriptor_is_a_crime(lawless):
    context, _ = first_leg(lawless, acquire(lawless))
    other = make_output()
    status = lawless.CompleteAuthToken(byref(context), byref(other.descriptor))
    assert name_of(status) == "SEC_E_INVALID_TOKEN"
    assert guilty_of(lawless) == ["CompleteAuthToken on another descriptor"]


def test_completing_no_descriptor_is_a_crime(lawless):
    context, _ = first_leg(lawless, acquire(lawless))
    lawless.CompleteAuthToken(byref(context), None)
    assert guilty_of(lawless) == ["CompleteAuthToken on another descriptor"]


def test_completing_the_same_descriptor_is_no_crime(fake):
    credential = acquire(fake)
    context, output = first_leg(fake, credential)
    status = fake.CompleteAuthToken(byref(context), byref(output.descriptor))
    assert status == SEC_E_OK
    end(fake, credential, context, output)


@pytest.mark.parametrize("function", list(sspi_client.PROTOTYPES))
def test_exception_in_a_callback_is_kept(domain, mocker, function):
    mocker.patch.object(
        sspi_client._FakeCalls, function, side_effect=KeyError("lost")
    )
    guilty = sspi_client.FakeSecur32(domain)
    _, *kinds = sspi_client.PROTOTYPES[function]
    arguments = [0 if kind is ctypes.c_uint32 else None for kind in kinds]
    status = getattr(guilty, function)(*arguments)
    assert name_of(status) == "SEC_E_INTERNAL_ERROR"
    assert guilty_of(guilty) == [f"{function} met KeyError('lost')"]


def test_freed_buffer_is_overwritten(fake):
    credential = acquire(fake)
    context, output = first_leg(fake, credential)
    address, length = output.buffer.pvBuffer, output.buffer.cbBuffer
    end(fake, credential, context, output)
    assert ctypes.string_at(address, length) == b"\xdd" * length


# Passwords


def make_identity(password="Secret123!", kind=2, package_list=None):
    """Make an identity in memory of our own, which wipe() wipes or nobody does."""
    codec, width = ("utf-16-le", 2) if kind == 2 else ("cp1252", 1)
    fields = {"User": "alice", "Domain": "CORP", "Password": password}
    auth = SEC_WINNT_AUTH_IDENTITY_W()
    if package_list is not None:
        auth = SEC_WINNT_AUTH_IDENTITY_EXW()
        auth.Version, auth.Length = 0x200, ctypes.sizeof(auth)
        fields["PackageList"] = package_list
    auth.Flags = kind
    blocks = []
    for field, text in fields.items():
        encoded = text.encode(codec)
        blocks.append(ctypes.create_string_buffer(encoded, len(encoded) + 2))
        setattr(auth, field, ctypes.addressof(blocks[-1]))
        setattr(auth, field + "Length", len(encoded) // width)
    return SimpleNamespace(auth=auth, blocks=blocks)


def wipe(identity):
    for block in identity.blocks:
        ctypes.memset(block, 0, ctypes.sizeof(block))


KINDS = pytest.mark.parametrize("kind", [1, 2], ids=["ansi", "unicode"])
LISTS = pytest.mark.parametrize("package_list", [None, "ntlm"], ids=["plain", "ex"])


@KINDS
@LISTS
def test_password_that_is_not_wiped_is_a_crime(lawless, kind, package_list):
    identity = make_identity(kind=kind, package_list=package_list)
    credential = acquire(lawless, auth=byref(identity.auth))
    lawless.FreeCredentialsHandle(byref(credential))
    assert guilty_of(lawless) == ["the password was not wiped"]


@KINDS
@LISTS
def test_password_that_is_wiped_is_no_crime(fake, kind, package_list):
    identity = make_identity(kind=kind, package_list=package_list)
    credential = acquire(fake, auth=byref(identity.auth))
    wipe(identity)
    fake.FreeCredentialsHandle(byref(credential))
    fake.assert_clean()


@KINDS
def test_short_password_that_is_not_wiped_is_a_crime(lawless, kind):
    identity = make_identity("x", kind=kind)
    credential = acquire(lawless, auth=byref(identity.auth))
    lawless.FreeCredentialsHandle(byref(credential))
    assert guilty_of(lawless) == ["the password was not wiped"]


@KINDS
def test_letter_that_comes_to_stand_where_a_password_was_is_no_crime(fake, kind):
    identity = make_identity("x", kind=kind)
    credential = acquire(fake, auth=byref(identity.auth))
    wipe(identity)
    identity.blocks[2][0] = b"x"  # as if its memory were somebody else's by now
    fake.FreeCredentialsHandle(byref(credential))
    fake.assert_clean()


@pytest.mark.parametrize("length", range(0, 200, 7))
def test_next_identity_in_the_same_memory_is_no_crime(fake, length):
    identity = sspi_client.Identity("CORP\\alice", "S" * length)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(sspi_client.Credential(identity, secur32=fake))
    fake.assert_clean()


def test_password_that_is_not_wiped_is_found_when_nothing_else_was_called(lawless):
    identity = make_identity()
    acquire(lawless, auth=byref(identity.auth))
    with pytest.raises(AssertionError, match="the password was not wiped"):
        lawless.assert_clean()


@KINDS
@LISTS
def test_identity_is_read_when_it_is(fake, kind, package_list):
    identity = make_identity(kind=kind, package_list=package_list)
    credential = acquire(fake, auth=byref(identity.auth))
    wipe(identity)
    answer = SecPkgContext_NamesW()
    fake.QueryCredentialsAttributesW(byref(credential), 1, byref(answer))
    assert sspi_client._text(answer.sUserName) == "CORP\\alice"
    fake.FreeContextBuffer(ctypes.cast(answer.sUserName, ctypes.c_void_p))
    fake.FreeCredentialsHandle(byref(credential))


def test_identity_without_a_kind_is_refused(fake):
    identity = make_identity()
    identity.auth.Flags = 0
    handle = untouched()
    status = acquire_status(fake, byref(handle), auth=byref(identity.auth))
    assert name_of(status) == "SEC_E_INVALID_PARAMETER"
    assert is_untouched(handle)


def test_identity_without_a_user_is_who_is_logged_on(fake):
    auth = SEC_WINNT_AUTH_IDENTITY_W()
    auth.Flags = 2
    credential = acquire(fake, auth=byref(auth))
    context, output = first_leg(fake, credential)
    end(fake, credential, context, output)


# The rules of the output buffer


def refused_leg(fake, output, flags=0):
    """Make a first leg that must fail; return its status. Nothing may be written."""
    credential, context = acquire(fake), untouched()
    attributes, expiry = ctypes.c_uint32(UNTOUCHED), TimeStamp(UNTOUCHED, 0x5A5A5A5A)
    status = initialize(
        fake, credential, None, context, output, flags=flags,
        attributes=byref(attributes), expiry=byref(expiry),
    )  # fmt: skip
    assert is_untouched(context)
    assert attributes.value == UNTOUCHED
    assert (expiry.LowPart, expiry.HighPart) == (UNTOUCHED, 0x5A5A5A5A)
    fake.FreeCredentialsHandle(byref(credential))
    return name_of(status)


@pytest.mark.parametrize("flags", [0, ALLOCATE], ids=["ours", "allocated"])
def test_leg_without_any_output_is_too_small(fake, flags):
    assert refused_leg(fake, None, flags) == "SEC_E_BUFFER_TOO_SMALL"


@pytest.mark.parametrize("flags", [0, ALLOCATE], ids=["ours", "allocated"])
def test_output_without_a_token_buffer_is_too_small(fake, flags):
    output = make_output(4096, kind=DATA)
    assert refused_leg(fake, output, flags) == "SEC_E_BUFFER_TOO_SMALL"


def test_output_without_memory_is_an_internal_error(fake):
    output = make_output()
    output.buffer.cbBuffer = 4096
    assert refused_leg(fake, output) == "SEC_E_INTERNAL_ERROR"


@pytest.mark.parametrize("size", [0, 1, 39], ids=["zero", "one", "one-byte-short"])
def test_output_that_is_too_small_stays_as_it_is(fake, size):
    output = make_output(64)
    output.buffer.cbBuffer = size
    assert refused_leg(fake, output) == "SEC_E_BUFFER_TOO_SMALL"
    assert (output.buffer.cbBuffer, output.memory.raw) == (size, bytes(64))


@pytest.mark.parametrize("size", [40, 4096], ids=["just-enough", "plenty"])
def test_output_of_the_caller_is_filled_when_large_enough(fake, size):
    credential, context, output = acquire(fake), SecHandle(), make_output(size)
    status = initialize(fake, credential, None, context, output, flags=0)
    assert status == SEC_I_CONTINUE_NEEDED
    assert (output.buffer.cbBuffer, output.buffer.BufferType) == (40, TOKEN)
    assert token_of(output).startswith(b"NTLMSSP\0\1\0\0\0")
    end(fake, credential, context)


def test_output_is_found_behind_another_buffer(fake):
    credential, context, output = acquire(fake), SecHandle(), make_output(4096)
    buffers = (SecBuffer * 2)(SecBuffer(0, DATA, None), output.buffer)
    output.descriptor = SecBufferDesc(0, 2, buffers)
    status = initialize(fake, credential, None, context, output, flags=0)
    assert (status, buffers[1].cbBuffer) == (SEC_I_CONTINUE_NEEDED, 40)
    end(fake, credential, context)


def test_output_is_allocated_when_asked_for(fake):
    credential = acquire(fake)
    context, output = first_leg(fake, credential)
    assert token_of(output).startswith(b"NTLMSSP\0\1\0\0\0")
    end(fake, credential, context, output)


def test_two_legs_go_well_in_buffers_of_the_caller(fake, server):
    credential, handle = acquire(fake), SecHandle()
    output, last = make_output(4096), make_output(4096)
    initialize(fake, credential, None, handle, output, flags=0)
    given = make_input(server.accept(token_of(output)))
    status = initialize(fake, credential, handle, handle, last, given, flags=0)
    assert status == SEC_E_OK
    server.accept(token_of(last))
    assert server.complete
    end(fake, credential, handle)


# What it answers


@pytest.mark.parametrize(
    ("package", "use", "status"),
    [
        pytest.param("Nonsense", 2, "SEC_E_SECPKG_NOT_FOUND", id="unknown-package"),
        pytest.param("", 2, "SEC_E_SECPKG_NOT_FOUND", id="empty-package"),
        pytest.param("NTLM", 0, "SEC_E_UNSUPPORTED_FUNCTION", id="no-direction"),
    ],
)
def test_acquiring_is_refused_and_writes_nothing_when(fake, package, use, status):
    handle, expiry = untouched(), TimeStamp(UNTOUCHED, 0x5A5A5A5A)
    answered = acquire_status(fake, byref(handle), package, use, expiry=byref(expiry))
    assert name_of(answered) == status
    assert is_untouched(handle) and expiry.LowPart == UNTOUCHED


@pytest.mark.parametrize("package", ["ntlm", "NEGOTIATE", "kerberos"])
def test_package_is_found_in_any_case(fake, package):
    credential = acquire(fake, package)
    fake.FreeCredentialsHandle(byref(credential))


def test_acquiring_tells_that_a_credential_never_expires(fake):
    handle, expiry = SecHandle(), TimeStamp()
    acquire_status(fake, byref(handle), expiry=byref(expiry))
    assert expiry.value == 0x7FFFFFFFFFFFFFFF
    fake.FreeCredentialsHandle(byref(handle))


@pytest.mark.parametrize("package", ["Negotiate", "NTLM", "Kerberos"])
def test_nobody_logged_on_fails_at_the_first_leg(domain, package):
    fake = sspi_client.FakeSecur32(domain)
    credential, context = acquire(fake, package), untouched()
    status = initialize(
        fake, credential, None, context, make_output(), target=KERBEROS_SPN
    )
    assert name_of(status) == "SEC_E_NO_CREDENTIALS"
    assert is_untouched(context)
    fake.FreeCredentialsHandle(byref(credential))
    fake.assert_clean()


@pytest.mark.parametrize(
    "package_list",
    [
        pytest.param("NegoExtender", id="nego-extender-only"),
        pytest.param("!ntlm,!kerberos", id="nothing-left"),
        pytest.param("ntlm,!ntlm", id="contradiction"),
    ],
)
def test_package_list_that_leaves_nothing_fails_at_the_first_leg(fake, package_list):
    identity = make_identity(package_list=package_list)
    credential = acquire(fake, "Negotiate", auth=byref(identity.auth))
    wipe(identity)
    status = initialize(fake, credential, None, SecHandle(), make_output())
    assert name_of(status) == "SEC_E_NO_CREDENTIALS"
    fake.FreeCredentialsHandle(byref(credential))


@pytest.mark.parametrize(
    ("package_list", "kerberos", "ntlm"),
    [
        pytest.param("!ntlm", True, False, id="not-ntlm"),
        pytest.param("!Kerberos", False, True, id="not-kerberos"),
        pytest.param("kerberos", True, False, id="kerberos"),
        pytest.param("kerberos, ntlm", True, True, id="both"),
        pytest.param("", True, True, id="empty"),
    ],
)
def test_package_list_decides_what_is_offered(fake, package_list, kerberos, ntlm):
    identity = make_identity(package_list=package_list)
    credential = acquire(fake, "Negotiate", auth=byref(identity.auth))
    wipe(identity)
    context, output = SecHandle(), make_output()
    initialize(fake, credential, None, context, output, target=KERBEROS_SPN)
    offered = token_of(output)[:72]
    assert (b"\x2a\x86\x48\x86\xf7\x12\1\2\2" in offered) is kerberos
    assert (b"\x2b\6\1\4\1\x82\x37\2\2\x0a" in offered) is ntlm
    end(fake, credential, context, output)


@pytest.mark.parametrize(
    ("logon", "named"),
    [pytest.param("ALICE", "alice", id="case"), pytest.param("bob", "bob", id="plain")],
)
def test_logon_is_found_in_the_domain(domain, logon, named):
    assert sspi_client.FakeSecur32(domain, logon=logon).logon == named


def test_services_of_a_domain_may_come_from_a_generator():
    domain = sspi_client.FakeDomain("CORP", USERS, (name for name in [KERBEROS_SPN]))
    assert domain.services == [KERBEROS_SPN]


@pytest.mark.parametrize("facts", [
    (None, {}), (b"CORP", {}), ("CORP", {"alice": b"x"}), ("CORP", {"alice": 5}),
    ("CORP", {"alice": None}), ("CORP", {1: "x"}), ("CORP", {b"alice": "x"}),
    ("CORP", {b"alice": b"x"}), ("CORP", {}, None), ("CORP", {}, 5),
    ("CORP", {}, "HTTP/x"), ("CORP", {}, b"HTTP/x"), ("CORP", {}, [5]), ("CORP", []),
])  # fmt: skip
def test_domain_of_other_things_than_text_is_refused(facts):
    with pytest.raises(TypeError, match="must be|without a password"):
        sspi_client.FakeDomain(*facts)


@pytest.mark.parametrize("logon", [5, b"alice"])
def test_logon_that_is_no_text_is_refused(domain, logon):
    with pytest.raises(TypeError, match="logon must be str"):
        sspi_client.FakeSecur32(domain, logon=logon)


def test_logon_of_a_stranger_is_refused(domain):
    with pytest.raises(ValueError, match="mallory"):
        sspi_client.FakeSecur32(domain, logon="mallory")


def test_domain_tells_no_password_in_its_repr(domain):
    assert not any(word in repr(domain) for word in USERS.values() if word)


# Handles


def test_handles_rotate_with_every_leg(fake, server):
    status, credential, old, context, *outputs = second_leg(fake, server, None, None)
    assert status == SEC_E_OK
    assert (old.dwLower, old.dwUpper) != (context.dwLower, context.dwUpper)
    end(fake, credential, context, *outputs)


def test_handles_differ_while_they_live(fake):
    credentials = [acquire(fake) for _ in range(8)]
    assert len({(h.dwLower, h.dwUpper) for h in credentials}) == 8
    for credential in credentials:
        fake.FreeCredentialsHandle(byref(credential))


def test_one_credential_serves_two_contexts(fake, domain):
    credential = acquire(fake)
    first, output = first_leg(fake, credential)
    second, other = first_leg(fake, credential)
    for handle, given in ((first, output), (second, other)):
        server = sspi_client.FakeServer(domain)
        last = make_output()
        challenge = make_input(server.accept(token_of(given)))
        assert initialize(fake, credential, handle, handle, last, challenge) == 0
        server.accept(token_of(last))
        assert server.user == "CORP\\alice"
        free(fake, last)
    fake.DeleteSecurityContext(byref(second))
    end(fake, credential, first, output, other)


def test_later_leg_needs_no_credential(fake, server):
    credential = acquire(fake)
    context, output = first_leg(fake, credential)
    last, given = make_output(), make_input(server.accept(token_of(output)))
    assert initialize(fake, None, context, context, last, given) == SEC_E_OK
    end(fake, credential, context, output, last)


def test_context_survives_a_leg_that_failed(fake):
    credential = acquire(fake)
    context, output = first_leg(fake, credential)
    new, last = untouched(), make_output()
    status = initialize(fake, credential, context, new, last, make_input(b"nonsense"))
    assert name_of(status) == "SEC_E_INVALID_TOKEN"
    assert is_untouched(new) and token_of(last) is None
    end(fake, credential, context, output)


# Plans


def test_injection_makes_the_next_call_fail(fake):
    fake.inject("AcquireCredentialsHandleW", 0x80090304)
    handle = untouched()
    status = acquire_status(fake, byref(handle))
    assert name_of(status) == "SEC_E_INTERNAL_ERROR"
    assert is_untouched(handle)


def test_injection_holds_for_one_call_alone(fake):
    fake.inject("AcquireCredentialsHandleW", 0x80090304)
    acquire_status(fake, byref(SecHandle()))
    fake.FreeCredentialsHandle(byref(acquire(fake)))


def test_injection_waits_for_the_call_that_it_names(fake):
    fake.FreeCredentialsHandle(byref(acquire(fake)))
    fake.inject("AcquireCredentialsHandleW", 0x80090304, call=2)
    fake.FreeCredentialsHandle(byref(acquire(fake)))
    status = acquire_status(fake, byref(SecHandle()))
    assert name_of(status) == "SEC_E_INTERNAL_ERROR"


def test_injection_refuses_a_function_that_is_not_there(fake):
    with pytest.raises(ValueError, match="AcceptSecurityContext"):
        fake.inject("AcceptSecurityContext", 0)


@pytest.mark.parametrize(
    ("token", "given"),
    [
        pytest.param(None, None, id="no-buffer"),
        pytest.param(b"", b"", id="empty-buffer"),
        pytest.param(b"scripted", b"scripted", id="token"),
    ],
)
@pytest.mark.parametrize(
    "status",
    [0, 0x90312, 0x90313, 0x90314, 0x90399],
    ids=["ok", "continue", "complete", "complete-and-continue", "unknown"],
)
def test_injection_scripts_a_leg_that_makes_a_context(fake, status, token, given):
    fake.inject("InitializeSecurityContextW", status, token)
    credential, context, output = acquire(fake), SecHandle(), make_output()
    assert initialize(fake, credential, None, context, output) == status
    assert token_of(output) == given
    if given is not None:
        free(fake, output)
    end(fake, credential, context)


@pytest.mark.parametrize("token", [None, b"error token"], ids=["bare", "error-token"])
def test_injection_scripts_a_leg_that_fails(fake, token):
    fake.inject("InitializeSecurityContextW", 0x8009030C, token)
    credential, context, output = acquire(fake), untouched(), make_output()
    status = initialize(fake, credential, None, context, output)
    assert (name_of(status), token_of(output)) == ("SEC_E_LOGON_DENIED", token)
    assert is_untouched(context)
    if token is not None:
        free(fake, output)
    fake.FreeCredentialsHandle(byref(credential))


def test_injection_of_a_later_leg_keeps_the_context(fake):
    fake.inject("InitializeSecurityContextW", 0x8009030C, call=2)
    credential = acquire(fake)
    context, output = first_leg(fake, credential)
    status = initialize(fake, None, context, context, make_output(), make_input(b"x"))
    assert name_of(status) == "SEC_E_LOGON_DENIED"
    end(fake, credential, context, output)


def test_injected_context_has_nothing_to_go_on_with(fake):
    fake.inject("InitializeSecurityContextW", SEC_I_CONTINUE_NEEDED, b"x")
    credential, context, output = acquire(fake), SecHandle(), make_output()
    initialize(fake, credential, None, context, output)
    status = initialize(fake, None, context, context, make_output(), make_input(b"y"))
    assert name_of(status) == "SEC_E_INVALID_TOKEN"
    end(fake, credential, context, output)


@pytest.mark.parametrize("what", ["credential", "context"])
def test_injected_release_reports_and_releases_all_the_same(fake, what):
    credential = acquire(fake)
    context, output = first_leg(fake, credential)
    free(fake, output)
    fake.inject(FREES[what], 0x80090304)
    statuses = [
        fake.DeleteSecurityContext(byref(context)),
        fake.FreeCredentialsHandle(byref(credential)),
    ]
    assert sorted(map(name_of, statuses)) == ["SEC_E_INTERNAL_ERROR", "SEC_E_OK"]
    fake.assert_clean()


def test_injected_release_of_a_buffer_reports_and_releases_all_the_same(fake):
    credential = acquire(fake)
    context, output = first_leg(fake, credential)
    fake.inject("FreeContextBuffer", 0x80090304)
    status = fake.FreeContextBuffer(output.buffer.pvBuffer)
    assert name_of(status) == "SEC_E_INTERNAL_ERROR"
    end(fake, credential, context)


# Queries


def test_packages_come_in_one_block_that_is_freed_once(fake):
    count, first = ctypes.c_uint32(), sspi_client.PSecPkgInfoW()
    assert fake.EnumerateSecurityPackagesW(byref(count), byref(first)) == SEC_E_OK
    named = {sspi_client._text(first[i].Name) for i in range(count.value)}
    assert named == {"Negotiate", "Kerberos", "NTLM"}
    address = ctypes.cast(first, ctypes.c_void_p)
    assert fake.FreeContextBuffer(address) == SEC_E_OK
    fake.assert_clean()


def test_negotiation_info_is_as_windows_tells_it(fake):
    credential = acquire(fake)
    context, output = first_leg(fake, credential)
    info = SecPkgContext_NegotiationInfoW(None, 99)
    assert fake.QueryContextAttributesW(byref(context), 12, byref(info)) == SEC_E_OK
    package = info.PackageInfo.contents
    told = (sspi_client._text(package.Name), package.wVersion, package.wRPCID)
    assert told == ("NTLM", 1, 10)
    assert info.NegotiationState == 2  # SECPKG_NEGOTIATION_IN_PROGRESS
    fake.FreeContextBuffer(ctypes.cast(info.PackageInfo, ctypes.c_void_p))
    end(fake, credential, context, output)


@pytest.mark.parametrize("attribute", [3, 4, 0x5E], ids=["life", "stream", "unknown"])
def test_unknown_attribute_is_refused_and_writes_nothing(fake, attribute):
    credential = acquire(fake)
    context, output = first_leg(fake, credential)
    answer = ctypes.create_string_buffer(b"\xa5" * 64, 64)
    status = fake.QueryContextAttributesW(byref(context), attribute, answer)
    assert name_of(status) == "SEC_E_UNSUPPORTED_FUNCTION"
    assert answer.raw == b"\xa5" * 64
    end(fake, credential, context, output)


def test_unknown_attribute_of_a_credential_is_refused(fake):
    credential = acquire(fake)
    answer = ctypes.create_string_buffer(b"\xa5" * 64, 64)
    status = fake.QueryCredentialsAttributesW(byref(credential), 99, answer)
    assert name_of(status) == "SEC_E_UNSUPPORTED_FUNCTION"
    assert answer.raw == b"\xa5" * 64
    fake.FreeCredentialsHandle(byref(credential))
