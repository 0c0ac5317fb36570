"""A secur32 that is as simple as can be, of real C calls, to test the client alone.

    stub = Stub(package="Kerberos")
    context = stub.context()

Where the fake behaves like Windows, this one does as a test says: override a method,
or change what `answers` has. One leg makes a context. Messages are really changed:
each byte is XORed, and a token of 16 bytes vouches for text and number. What it gave
out is in `alive` until it is given back.
"""

import ctypes
import hashlib

import sspi_client

XOR = 0x5A
TABLE = bytes(byte ^ XOR for byte in range(256))
TOKEN = 16  # [bytes], of a message's token
ALL_GRANTED = 0x0001001E  # as DEFAULT_FLAGS
NEVER = 0x7FFFFFFFFFFFFFFF
_HANDLES = {"AcquireCredentialsHandleW": 7, "InitializeSecurityContextW": 8}


def scrambled(data):
    """What data looks like encrypted; and the other way round."""
    return bytes(data).translate(TABLE)


def vouched(data, number):
    """The token of 16 bytes that goes with a message."""
    return hashlib.sha256(b"%d:" % number + bytes(data)).digest()[:TOKEN]


class Stub:
    """Each method named in sspi_client.PROTOTYPES is called as the DLL would be.

    package: what NEGOTIATION_INFO tells. granted: what is written to pfContextAttr.
    answers: attribute -> a function that fills its structure, or a status.
    problems: exceptions that came up in here; ctypes would lose them.
    targets: what legs were asked for. identity: the last pAuthData: field -> the
    UTF-16 units of it (bytes, if it is ANSI), Flags -> what it is.
    """

    def __init__(self, package="Kerberos", granted=ALL_GRANTED, block=0):
        self.package, self.granted, self.block = package, granted, block
        self.token = b"token of a stub"
        self.alive, self.calls, self.problems = {}, [], []
        self.targets, self.identity = [], None
        self._names = {}
        self._serials = iter(range(0x1000, 1 << 20))
        for name in sspi_client.PROTOTYPES:
            setattr(self, name, self._entry(name))

    def context(self, target="HTTP/web.corp.test", **options):
        """Log on and return the context."""
        package = options.pop("package", self.package)
        flow = sspi_client.authenticate(
            target, package=package, secur32=self, **options
        )
        return sspi_client.drive(flow, lambda token: None)

    def assert_clean(self):
        assert (self.alive, self.problems) == ({}, [])

    def _entry(self, name):
        restype, *argtypes = sspi_client.PROTOTYPES[name]
        behave = getattr(self, "on_" + name)

        def entry(*arguments):
            self.calls.append(name)
            try:
                return behave(*arguments) or 0
            except BaseException as problem:
                self.problems.append(problem)
                return sspi_client.SEC_E_INTERNAL_ERROR

        return ctypes.CFUNCTYPE(restype, *argtypes)(entry)

    def _hand_out(self, handle, what):
        serial = next(self._serials)
        handle.contents.dwLower = handle.contents.dwUpper = serial
        self.alive[what, serial] = None

    def _allocate(self, memory):
        self.alive[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    # Credentials and legs

    def on_AcquireCredentialsHandleW(self, *arguments):
        handle, expiry = arguments[7:]
        self.identity = arguments[4] and self._read_identity(arguments[4])
        self._hand_out(handle, "credential")
        self._write_time(expiry, NEVER)

    def on_InitializeSecurityContextW(self, *arguments):
        context, handle, output = arguments[1], arguments[8], arguments[9]
        self.targets.append(self._read_text(arguments[2]))
        if not context:
            self._hand_out(handle, "context")
        buffer = output.contents.pBuffers[0]
        memory = ctypes.create_string_buffer(self.token, len(self.token) or 1)
        buffer.pvBuffer, buffer.cbBuffer = self._allocate(memory), len(self.token)
        arguments[10][0] = self.granted
        self._write_time(arguments[11], NEVER)

    def on_CompleteAuthToken(self, context, token):
        return sspi_client.SEC_E_UNSUPPORTED_FUNCTION

    def on_FreeCredentialsHandle(self, handle):
        del self.alive["credential", handle.contents.dwLower]

    def on_DeleteSecurityContext(self, handle):
        del self.alive["context", handle.contents.dwLower]

    def on_FreeContextBuffer(self, address):
        del self.alive[ctypes.cast(address, ctypes.c_void_p).value]

    @staticmethod
    def _write_time(stamp, value):
        stamp.contents.LowPart = value & 0xFFFFFFFF
        stamp.contents.HighPart = value >> 32

    @staticmethod
    def _read_identity(address):
        auth = sspi_client.SEC_WINNT_AUTH_IDENTITY_EXW.from_address(address)
        if auth.Version != sspi_client.SEC_WINNT_AUTH_IDENTITY_VERSION:
            auth = sspi_client.SEC_WINNT_AUTH_IDENTITY_W.from_address(address)
        unit = ctypes.c_uint16
        if auth.Flags & sspi_client.SEC_WINNT_AUTH_IDENTITY_ANSI:
            unit = ctypes.c_ubyte
        read = {"Flags": auth.Flags}
        for field in ("User", "Domain", "Password"):
            if getattr(auth, field):
                kind = unit * getattr(auth, field + "Length")
                read[field] = list(kind.from_address(getattr(auth, field)))
        return read

    @staticmethod
    def _read_text(wide):
        units = []
        while wide[len(units)]:
            units.append(wide[len(units)])
        octets = b"".join(unit.to_bytes(2, "little") for unit in units)
        return octets.decode("utf-16-le", "surrogatepass")

    # Queries

    def on_QueryContextAttributesW(self, handle, attribute, address):
        answer = {
            sspi_client.SECPKG_ATTR_SIZES: self.tell_sizes,
            sspi_client.SECPKG_ATTR_NEGOTIATION_INFO: self.tell_package,
            sspi_client.SECPKG_ATTR_NAMES: self.tell_user,
            sspi_client.SECPKG_ATTR_SESSION_KEY: self.tell_key,
        }.get(attribute)
        if answer is None:
            return sspi_client.SEC_E_UNSUPPORTED_FUNCTION
        return answer(address)

    def on_QueryCredentialsAttributesW(self, handle, attribute, address):
        return self.tell_user(address)

    def tell_sizes(self, address):
        sizes = sspi_client.SecPkgContext_Sizes.from_address(address)
        sizes.cbMaxToken, sizes.cbBlockSize = 12000, self.block
        sizes.cbMaxSignature = sizes.cbSecurityTrailer = TOKEN

    def tell_package(self, address):
        answer = sspi_client.SecPkgContext_NegotiationInfoW.from_address(address)
        info = self._package_info(self.package)
        self._allocate(info)
        answer.PackageInfo = ctypes.pointer(info)

    def tell_user(self, address):
        answer = sspi_client.SecPkgContext_NamesW.from_address(address)
        text = self._text("CORP\\alice")
        self._allocate(text)
        answer.sUserName = ctypes.cast(text, type(answer.sUserName))

    def tell_key(self, address):
        answer = sspi_client.SecPkgContext_SessionKey.from_address(address)
        key = ctypes.create_string_buffer(b"k" * 16, 16)
        answer.SessionKeyLength, answer.SessionKey = 16, self._allocate(key)

    def on_EnumerateSecurityPackagesW(self, count, first):
        info = self._package_info(self.package)
        self._allocate(info)
        count[0] = 1
        first[0] = ctypes.pointer(info)

    def _package_info(self, name):
        info = sspi_client.SecPkgInfoW()
        info.cbMaxToken = 12000
        self._names[name] = text = self._text(name)
        info.Name = info.Comment = ctypes.cast(text, type(info.Name))
        return info

    @staticmethod
    def _text(text):
        encoded = text.encode("utf-16-le", "surrogatepass") + b"\0\0"
        return (ctypes.c_uint16 * (len(encoded) // 2)).from_buffer_copy(encoded)

    # Messages

    def on_EncryptMessage(self, context, quality, message, number):
        token, data = self.buffers(message)[:2]
        text = ctypes.string_at(data.pvBuffer, data.cbBuffer)
        ctypes.memmove(data.pvBuffer, scrambled(text), len(text))
        ctypes.memmove(token.pvBuffer, vouched(text, number), TOKEN)

    def on_DecryptMessage(self, context, message, number, quality):
        head, data = self.buffers(message)
        if head.BufferType == sspi_client.SECBUFFER_STREAM:
            data.pvBuffer = head.pvBuffer + TOKEN
            data.cbBuffer = head.cbBuffer - TOKEN
        text = scrambled(ctypes.string_at(data.pvBuffer, data.cbBuffer))
        if ctypes.string_at(head.pvBuffer, TOKEN) != vouched(text, number):
            return sspi_client.SEC_E_MESSAGE_ALTERED
        ctypes.memmove(data.pvBuffer, text, len(text))
        quality[0] = 0
        return sspi_client.SEC_E_OK

    def on_MakeSignature(self, context, quality, message, number):
        data, token = self.buffers(message)
        text = ctypes.string_at(data.pvBuffer, data.cbBuffer)
        ctypes.memmove(token.pvBuffer, vouched(text, number), TOKEN)
        token.cbBuffer = TOKEN

    def on_VerifySignature(self, context, message, number, quality):
        data, token = self.buffers(message)
        text = ctypes.string_at(data.pvBuffer, data.cbBuffer)
        if ctypes.string_at(token.pvBuffer, TOKEN) != vouched(text, number):
            return sspi_client.SEC_E_MESSAGE_ALTERED
        return sspi_client.SEC_E_OK

    @staticmethod
    def buffers(message):
        """Return the buffers themselves, not copies: what is written is written."""
        return [
            message.contents.pBuffers[place]
            for place in range(message.contents.cBuffers)
        ]
