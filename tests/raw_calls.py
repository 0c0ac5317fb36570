"""The functions of secur32 as C callers call them, with structures of our own."""

import ctypes
from ctypes import byref
from types import SimpleNamespace

from world import NTLM_SPN

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
)

ALLOCATE = 0x100
DATA, TOKEN, CHANNEL_BINDINGS = 1, 2, 14
UNTOUCHED = 0xA5A5A5A5


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
