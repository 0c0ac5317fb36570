# sspi_client: Windows SSPI authentication, client side, in one file.
# SPDX-License-Identifier: MIT
# Copyright (c) 2026 the sspi_client authors
# Version 0.1.0. Keep this block in vendored copies.
# mypy: disable-error-code="valid-type,empty-body"
"""Log on to a server with Windows SSPI, one token at a time.

    flow = sspi_client.authenticate("HTTP/intranet.example.com")
    token = next(flow)                       # bytes for the peer
    while True:
        reply = exchange(token)              # your transport; bytes, or None
        try:
            token = flow.send(reply)
        except StopIteration as done:
            context = done.value
            break

`context = sspi_client.drive(flow, exchange)` is that loop. Use the context
with `with`, or close() it: it owns handles inside Windows.

What it promises:
- Every token that must be sent is yielded, the last one too; `Token.final`
  tells when SSPI needs no answer to it.
- Whatever happens (return, error, close(), throw(), a flow that is dropped),
  each handle and each buffer is given back once, the context first. Ctrl-C
  in the midst of the freeing may lose what it was freeing; nothing is freed twice.
- A password lives in one buffer of ours and is wiped before the call that
  needed it returns. Neither passwords nor tokens enter a message or a repr.
- An error says which function refused, its symbolic name, the package, the
  target, the leg, and what to check.

What it touches: secur32.dll, loaded from System32 by the first call that needs
it, never at import. It opens no socket and no file, reads no environment,
starts no thread, logs nothing and makes no ctypes callback; `diagnose` alone
reads a file, this one, to hash it. SSPI itself may ask a domain controller, and
then a leg blocks; the GIL is free meanwhile. One flow belongs to one connection
and to one thread at a time.

What it is not: a server, an HTTP library, a keytab reader, a Schannel client.

The map: 3 vocabulary, 4 the flow, 5 identities and names, 6 the context,
7 bindings and tokens, 8 the steps, 9 the binding, 10 the ABI, 11 what a status
means, 12 the command line. Calls go down the page. A copy that is cut at the
line which starts with a comment sign and 8< is whole.
"""

# -- 2. Imports ----------------------------------------------------------------
# May touch: the standard library. Annotations stay real objects here: section
# 10 reads them, so `from __future__ import annotations` must not come in.

import ctypes
import sys
from ctypes import POINTER, Structure, addressof, byref, memset, sizeof, string_at
from ctypes import c_int32, c_size_t, c_ubyte, c_uint16, c_uint32, c_void_p
from enum import IntFlag

TYPE_CHECKING = False  # true for type checkers; importing typing would cost us
if TYPE_CHECKING:
    from datetime import datetime
    from typing import Any, Callable, Dict, Generator, Iterator, List
    from typing import NoReturn, Optional, Sequence, Tuple, TypeVar, Union

    Text = Union[str, bytes]
    Buffer = Union[bytes, bytearray, memoryview]  # anything with a buffer will do
    Flow = Generator["Token", Optional[bytes], "Context"]
    Frame = Tuple["SecBufferDesc", "SecBuffer", "SecBuffer", "SecBuffer"]
    Owned = List[List[Callable[[], None]]]  # one stack, or none once it is claimed
    T = TypeVar("T")

__version__ = "0.1.0"
__all__ = [
    "DEFAULT_FLAGS", "ISC_REQ", "ISC_RET", "KERBEROS", "NEGOTIATE", "NTLM",
    "Context", "Credential", "Identity", "Message", "Package", "SspiError", "Token",
    "authenticate", "drive", "main", "mechanism", "packages", "spn",
    "tls_server_end_point",
]  # fmt: skip

# -- 3. Vocabulary -------------------------------------------------------------
# May touch: nothing. The words that every other section may use.

NEGOTIATE = "Negotiate"
KERBEROS = "Kerberos"
NTLM = "NTLM"


class ISC_REQ(IntFlag):
    """What a flow may ask of SSPI: sspi.h, ISC_REQ_*. Any other bit may be added."""

    DELEGATE = 0x00000001
    MUTUAL_AUTH = 0x00000002
    REPLAY_DETECT = 0x00000004
    SEQUENCE_DETECT = 0x00000008
    CONFIDENTIALITY = 0x00000010
    USE_SESSION_KEY = 0x00000020
    ALLOCATE_MEMORY = 0x00000100
    USE_DCE_STYLE = 0x00000200
    CONNECTION = 0x00000800
    EXTENDED_ERROR = 0x00004000
    INTEGRITY = 0x00010000
    IDENTIFY = 0x00020000
    NO_INTEGRITY = 0x00800000


class ISC_RET(IntFlag):
    """What SSPI granted: sspi.h, ISC_RET_*. Unknown bits are kept."""

    DELEGATE = 0x00000001
    MUTUAL_AUTH = 0x00000002
    REPLAY_DETECT = 0x00000004
    SEQUENCE_DETECT = 0x00000008
    CONFIDENTIALITY = 0x00000010
    USE_SESSION_KEY = 0x00000020
    ALLOCATED_MEMORY = 0x00000100
    USED_DCE_STYLE = 0x00000200
    CONNECTION = 0x00000800
    EXTENDED_ERROR = 0x00004000
    INTEGRITY = 0x00010000
    IDENTIFY = 0x00020000
    NULL_SESSION = 0x00040000


#: MUTUAL_AUTH, REPLAY_DETECT, SEQUENCE_DETECT, CONFIDENTIALITY, INTEGRITY
DEFAULT_FLAGS = ISC_REQ(0x0001001E)


class Token(bytes):
    """Bytes for the peer; `.final` is True when SSPI needs no answer to them.

    False promises nothing: a provider may want an answer and get none. The
    repr tells the length, never the bytes.
    """

    final: bool

    def __new__(cls, value: bytes, final: bool) -> "Token":
        token = super().__new__(cls, value)
        token.final = final
        return token

    def __getnewargs__(self) -> "Any":  # to copy and to pickle
        return bytes(self), self.final

    def __repr__(self) -> str:
        return f"<Token, {len(self)} bytes{', final' if self.final else ''}>"

    __str__ = __repr__  # bytes has a str of its own, which shows the content


class Message(bytes):
    """What unwrap() returns; `.encrypted` tells whether the peer encrypted it."""

    encrypted: bool

    def __new__(cls, value: bytes, encrypted: bool) -> "Message":
        message = super().__new__(cls, value)
        message.encrypted = encrypted
        return message

    def __getnewargs__(self) -> "Any":
        return bytes(self), self.encrypted


class SspiError(Exception):
    """Secur32 refused, or we did on its behalf.

    Not an OSError: retry loops catch those, and retrying a refused logon locks
    accounts. Misuse is TypeError, ValueError or RuntimeError instead.

    status: unsigned, 0x8009030C rather than -2146893044.
    function: the SDK function that refused; "authenticate" when SSPI was fine
        and a rule of ours was not.
    package, target, leg: what was going on, None where it is not known; legs
        count from 1.
    token: what SSPI put out along with the refusal [bytes], mostly b"". With an
        error of InitializeSecurityContextW it is for the peer.
    """

    def __init__(
        self, status: int, function: str, token: bytes = b"", hint: str = ""
    ) -> None:
        super().__init__(status, function)  # these two alone: args are printed
        self.status = status & 0xFFFFFFFF
        self.function = function
        self.token = token
        self.package: "Optional[str]" = None
        self.target: "Optional[str]" = None
        self.leg: "Optional[int]" = None
        self._hint = hint

    @property
    def name(self) -> str:
        """The SDK's name of the status; hexadecimal where it has none."""
        return _STATUS_NAMES.get(self.status, f"0x{self.status:08X}")

    @property
    def hint(self) -> str:
        """What it usually means and what to check; else the system's own text, in
        its language, or an empty string."""
        explained = self._hint or _EXPLANATIONS.get(self.status)
        return explained or _system_text(self.status)

    def __str__(self) -> str:
        where = [
            f"{label} {fact}"
            for label, fact in (
                ("package", self.package),
                ("target", self.target),
                ("leg", self.leg),
            )
            if fact is not None
        ]
        head = f"{self.function}: {self.name} (0x{self.status:08X})"
        if where:
            head += f" [{', '.join(where)}]"
        return f"{head}: {self.hint}" if self.hint else head


class Package:
    """A security package: what packages() tells about one."""

    def __init__(
        self, name: str, comment: str, max_token: int, capabilities: int
    ) -> None:
        self.name = name
        self.comment = comment
        self.max_token = max_token  # [bytes]
        self.capabilities = capabilities  # sspi.h, SECPKG_FLAG_*

    def __repr__(self) -> str:
        return f"<Package {self.name}, tokens to {self.max_token} bytes>"


# MS-NLMP 2.2.1: each NTLM message starts so, whatever it is wrapped in. Kerberos
# ciphertext holds these eight bytes by chance once in 2**64.
_NTLMSSP = b"NTLMSSP\0"


def _note(
    reason: BaseException,
    package: str,
    target: "Optional[str]" = None,
    leg: "Optional[int]" = None,
) -> None:
    """Tell an SspiError what was going on; other exceptions pass as they are."""
    if isinstance(reason, SspiError) and reason.package is None:
        reason.package, reason.target, reason.leg = package, target, leg


def _is(package: str, known: str) -> bool:
    return package.lower() == known.lower()  # SSPI does not mind the case either


# -- 4. The flow ---------------------------------------------------------------
# May touch: bytes and the objects below; never a pointer.


def authenticate(
    target: str,
    identity: "Optional[Identity]" = None,
    *,
    package: str = NEGOTIATE,
    flags: int = DEFAULT_FLAGS,
    require: int = 0,
    channel_bindings: "Optional[bytes]" = None,
    allow_ntlm: bool = True,
    secur32: "Any" = None,
) -> "Flow":
    """Authenticate to *target* and return the established Context.

    This checks its arguments and returns a generator; SSPI is first called by
    next(). *identity* None means the user who is logged on. *require* names
    ISC_RET bits without which the flow must fail. *channel_bindings* is
    application data as RFC 5929 has it, b"tls-server-end-point:" + a digest.
    With *allow_ntlm* False, Negotiate is told not to use NTLM, and no token
    that carries NTLM leaves the flow.

    Yields: each Token [bytes] to send to the peer.
    Accepts: the peer's answer to it [bytes], or None when it sent no token. An
        answer to a final token is not looked at.
    Returns: the Context, as StopIteration.value.
    Raises: TypeError or ValueError here for a wrong argument, OSError here off
        Windows without *secur32*; SspiError from the generator; TypeError from
        the generator for a reply that is not bytes.
    Owns: the generator owns every handle until it returns; then you do.
    Blocks: while SSPI asks a domain controller; run it in a thread if you must
        not wait.
    """
    _check_target(target)
    _check_credential(identity, package, allow_ntlm)
    shared = _SharedHandle(_backend(secur32))  # by the context alone

    def acquire(owned: "Owned") -> "_SharedHandle":
        shared.join(owned)
        shared.acquire(package, identity, allow_ntlm)
        return shared

    context = Context(shared.secur32, target, package)
    return _begin(context, acquire, flags, require, channel_bindings, allow_ntlm)


def drive(flow: "Flow", exchange: "Callable[[Token], Optional[bytes]]") -> "Context":
    """Run a fresh *flow* to its end with *exchange* and return the Context.

    exchange(token) sends the token and returns the peer's answer, or None if
    there was none; after a token that is final it need not wait for one.

    Raises: what the flow raises, and what *exchange* raises, after closing the
        flow; RuntimeError for a flow that has ended before.
    """
    _expect("exchange", exchange, "callable", callable(exchange))
    _expect("flow", flow, "a generator", hasattr(flow, "send"))
    reply: Optional[bytes] = None
    try:
        while True:
            try:
                token = flow.send(reply)
            except StopIteration as done:
                if done.value is None:
                    raise RuntimeError("this flow has ended before") from None
                return done.value  # type: ignore[no-any-return]
            reply = exchange(token)
    finally:
        flow.close()


class Credential:
    """A credential handle, to authenticate many times, from many threads.

    *identity* None means the user who is logged on.

    Raises: SspiError if it cannot be acquired; TypeError or ValueError for a
        wrong argument; OSError off Windows without *secur32*.
    Frees: close() forbids new flows; the handle is given back when the last
        context that uses it closes.
    """

    def __init__(
        self,
        identity: "Optional[Identity]" = None,
        *,
        package: str = NEGOTIATE,
        allow_ntlm: bool = True,
        secur32: "Any" = None,
    ) -> None:
        _check_credential(identity, package, allow_ntlm)
        self.package = package
        self._allow_ntlm = allow_ntlm
        self._shared = _SharedHandle(_backend(secur32))
        self._owned: "Owned" = [[]]
        _watch(self, self._owned, "a Credential was never closed")
        try:
            self._shared.join(self._owned)
            self._shared.acquire(package, identity, allow_ntlm)
        except BaseException as reason:
            self.close()
            _note(reason, package)
            raise

    def authenticate(
        self,
        target: str,
        *,
        flags: int = DEFAULT_FLAGS,
        require: int = 0,
        channel_bindings: "Optional[bytes]" = None,
    ) -> "Flow":
        """As the module's authenticate(), with this credential.

        Raises: RuntimeError, here or at the first next(), if it is closed.
        """
        _check_target(target)
        self._check_open()
        context = Context(self._shared.secur32, target, self.package)
        return _begin(
            context, self._join, flags, require, channel_bindings, self._allow_ntlm
        )

    @property
    def user(self) -> str:
        """Who this is, as SSPI tells it: "CORP\\alice". Raises: SspiError."""
        owned: Owned = [[]]
        try:
            shared = self._join(owned)  # or somebody may close it meanwhile
            return _credential_user(shared.secur32, shared.handle)
        except SspiError as refused:
            _note(refused, self.package)
            raise
        finally:
            _release(owned)

    @property
    def expires(self) -> "Optional[datetime]":
        """When it expires [local time], None for never or not told."""
        return _local_time(self._shared.expiry)

    def close(self) -> None:
        """Let go of the handle; closing twice is closing once."""
        _release(self._owned)

    def _check_open(self) -> None:
        if not self._owned:
            raise RuntimeError("this Credential is closed")

    def _join(self, owned: "Owned") -> "_SharedHandle":
        # Join first and look afterwards: whoever closes in between then leaves
        # the freeing to us, and no lock is needed.
        self._shared.join(owned)
        self._check_open()
        return self._shared

    def __enter__(self) -> "Credential":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Credential {self.package}{'' if self._owned else ', closed'}>"


def _begin(
    context: "Context",
    join: "Callable[[Owned], _SharedHandle]",
    flags: int,
    require: int,
    channel_bindings: "Optional[bytes]",
    allow_ntlm: bool,
) -> "Flow":
    _check_bits("flags", flags)
    _check_bits("require", require)
    _check_bindings(channel_bindings)
    flags, require = int(flags), int(require)  # IntFlag arithmetic is slow
    if flags & ISC_REQ.DELEGATE.value:
        flags |= ISC_REQ.MUTUAL_AUTH.value  # else the delegate may be anybody
    flow = _flow(context, join, flags, require, channel_bindings, allow_ntlm)
    context._watch_flow(flow)
    return flow


def _flow(
    context: "Context",
    join: "Callable[[Owned], _SharedHandle]",
    flags: int,
    require: int,
    channel_bindings: "Optional[bytes]",
    allow_ntlm: bool,
) -> "Flow":
    leg, reply = 0, None
    try:
        credential = join(context._owned)
        while True:
            leg += 1
            done, token = context._step(credential, flags, reply, channel_bindings)
            if not allow_ntlm:
                _refuse_ntlm(token)
            if done:
                context._check_granted(require)
                if token:
                    yield Token(token, final=True)
                return context  # and with it everything that it owns
            reply = _checked_reply((yield Token(token, final=False)), token)
    except BaseException as reason:  # GeneratorExit and KeyboardInterrupt too
        context._abandon()
        _note(reason, context.requested_package, context.target, leg or None)
        if isinstance(reason, SspiError) and not allow_ntlm:
            reason.token = b"" if _NTLMSSP in reason.token else reason.token
        raise


def _checked_reply(reply: "Optional[bytes]", token: bytes) -> bytes:
    """Return *reply* as bytes, or say what is wrong with it before SSPI does."""
    if isinstance(reply, str):
        raise TypeError("the reply is str; did you forget base64.b64decode()?")
    right = reply is None or isinstance(reply, (bytes, bytearray, memoryview))
    _expect("the reply", reply, "bytes", right)
    reply = bytes(reply or b"")
    if not reply:
        hint = (
            "The peer answered without a token, and the handshake is not finished: it "
            "refused (with NTLM often a wrong password), or it does not speak this "
            "package; or next() was called twice, or drive() got a flow that had begun."
        )
    elif reply == token:
        hint = (
            "The reply is our own last token: the transport echoed it, or the wrong "
            "variable was sent back."
        )
    else:
        return reply
    raise SspiError(SEC_E_INVALID_TOKEN, "authenticate", hint=hint)


def _refuse_ntlm(token: bytes) -> None:
    if _NTLMSSP in token:
        hint = (
            "NTLM was about to be used, and allow_ntlm is False; no NTLM was sent. "
            "Kerberos could not be had: check the SPN (setspn -Q SPN) and the ticket "
            "(klist)."
        )
        raise SspiError(SEC_E_SECURITY_QOS_FAILED, "authenticate", hint=hint)


def packages(secur32: "Any" = None) -> "List[Package]":
    """List the security packages of this machine.

    Raises: SspiError; OSError off Windows without *secur32*.
    """
    return _enumerate(_backend(secur32))


# -- 5. Identities and names ---------------------------------------------------
# May touch: nothing. What a caller may say, checked before SSPI hears of it.


class Identity:
    """Explicit credentials: who to log on as, instead of who is logged on.

    str is passed as UTF-16 and flagged UNICODE; bytes are passed as they are
    and flagged ANSI, all of them or none. With *domain* None, "DOMAIN\\user" is
    split at the first backslash and "user@suffix" stays whole with an empty
    domain. No domain is made up: "" leaves the choice to Windows.

    Python cannot wipe a str; the copy that SSPI reads is ours and is wiped.

    Raises: TypeError for a wrong type or a mixture; ValueError for a missing
        password, an empty user, or a NUL, at which SSPI would cut.
    """

    __slots__ = ("_password", "domain", "user")

    user: "Text"
    domain: "Text"

    def __init__(
        self, user: "Text", password: "Text", domain: "Optional[Text]" = None
    ) -> None:
        if password is None:
            raise ValueError(
                "a user name without a password: Windows has no kinit; give both, or "
                "no Identity at all for the user who is logged on"
            )
        self.user = self.domain = ""  # what a repr may ask for, should we raise
        _check_kinds(user, password, domain)
        if domain is None:
            domain, user = _split_user(user)
        if not user:
            raise ValueError("the user name is empty")
        for name in (user, domain):
            if any((c if isinstance(c, int) else ord(c)) < 0x20 for c in name):
                raise ValueError(
                    "a control character in the user name or domain: a backslash is "
                    "written twice, as in 'CORP\\\\alice'"
                )
        self.user, self.domain, self._password = user, domain, password

    @classmethod
    def from_ansi(
        cls,
        user: bytes,
        password: bytes,
        domain: "Optional[bytes]" = None,
        code_page: int = 0,
    ) -> "Identity":
        """Convert bytes of a code page as MultiByteToWideChar does.

        *code_page*: 0 is the ANSI page of this machine (CP_ACP), 1 its OEM page
        (CP_OEMCP), others are themselves. Off Windows 0 is taken for 1252 and 1
        for 437, as on an English Windows.

        Raises: ValueError for bytes that mean nothing in that page, and for a
            page that this machine does not have; and as Identity() does.
        """
        _expect("code_page", code_page, "int", type(code_page) is int)
        texts = []
        for part in (user, password, domain):
            right = part is None or isinstance(part, bytes)
            _expect("each part", part, "bytes", right)
            texts.append(None if part is None else _decode_ansi(part, code_page))
        return cls(*texts)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"Identity({self.user!r}, ..., {self.domain!r})"


def spn(service: str, host: str, port: "Optional[int]" = None) -> str:
    """Compose a service principal name: "HTTP/host" or "MSSQLSvc/host:1433".

    The host is taken as it is: no DNS look-up, which an attacker could answer.

    Raises: TypeError; ValueError for a URL, a name that has parts already, an
        empty part, a port outside 1..65535.
    """
    for label, part in (("service", service), ("host", host)):
        _expect(label, part, "str", isinstance(part, str))
        if "://" in part:
            raise ValueError(f"{label} is a URL; give its host name alone")
        if not part or any(c in "/@:\0" or c.isspace() for c in part):
            raise ValueError(f"{label} must be a bare name, without / : @ or blanks")
    if port is None:
        return f"{service}/{host}"
    _expect("port", port, "int", type(port) is int)
    if not 0 < port < 65536:
        raise ValueError(f"port must be 1 to 65535, not {port}")
    return f"{service}/{host}:{port}"


def _split_user(user: "Text") -> "Tuple[Text, Text]":
    """Return (domain, user) of a logon name."""
    if isinstance(user, str):
        domain, backslash, rest = user.partition("\\")
        return (domain, rest) if backslash else ("", user)
    head, mark, tail = user.partition(b"\\")
    if not mark:
        return b"", user
    # In a double-byte code page 0x5C may be the second half of a character;
    # behind ASCII alone it cannot be.
    if any(byte > 0x7F for byte in head):
        raise ValueError(
            "a backslash behind non-ASCII bytes may be half a character: give the "
            "domain as an argument of its own"
        )
    return head, tail


def _check_kinds(user: "Text", password: "Text", domain: "Optional[Text]") -> None:
    kind = bytes if isinstance(user, bytes) else str
    for label, part in (("user", user), ("password", password), ("domain", domain)):
        if label == "domain" and part is None:
            continue
        _expect(label, part, "str or bytes", isinstance(part, (str, bytes)))
        if not isinstance(part, kind):
            raise TypeError("user, password and domain must be all str or all bytes")
        if ("\0" if isinstance(part, str) else b"\0") in part:  # type: ignore[operator]
            raise ValueError(f"{label} holds a NUL, at which SSPI would cut it")


def _decode_ansi(part: bytes, code_page: int) -> str:
    """Decode without ever letting the bytes into an exception."""
    import codecs

    try:
        if sys.platform == "win32":
            return codecs.code_page_decode(code_page, part, "strict", True)[0]
        return _decode_elsewhere(part, {0: 1252, 1: 437}.get(code_page, code_page))
    except UnicodeError:
        problem = f"bytes that mean nothing in code page {code_page}"
    except (LookupError, OSError, OverflowError, ValueError):
        problem = f"this machine has no code page {code_page}"
    # Raised out here: a UnicodeDecodeError in __context__ would hold the password.
    raise ValueError(problem)


def _decode_elsewhere(part: bytes, code_page: int) -> str:
    codec = "utf-8" if code_page == 65001 else f"cp{code_page}"
    if codec.startswith("cp125"):
        # Python calls the holes of these pages undefined; those from 0x80 to 0x9F
        # Windows maps to the C1 control of that number.
        return "".join(
            byte.decode(codec, "ignore" if b"\x80" <= byte <= b"\x9f" else "strict")
            or chr(byte[0])
            for byte in (part[i : i + 1] for i in range(len(part)))
        )
    return part.decode(codec)


def _check_target(target: str) -> None:
    _expect("target", target, "str", isinstance(target, str))
    if "://" in target:
        raise ValueError("target is a URL; spn('HTTP', host) makes an SPN of its host")
    if not target or "\0" in target or target.endswith("/") or target != target.strip():
        raise ValueError("target must be an SPN such as 'HTTP/intranet.example.com'")


def _check_credential(
    identity: "Optional[Identity]", package: str, allow_ntlm: bool
) -> None:
    known = identity is None or isinstance(identity, Identity)
    _expect("identity", identity, "Identity", known)
    _expect("package", package, "str", isinstance(package, str))
    _expect("allow_ntlm", allow_ntlm, "bool", isinstance(allow_ntlm, bool))
    if not package or "\0" in package:
        raise ValueError("package must be a name such as 'Negotiate'")
    if not (allow_ntlm or _is(package, NEGOTIATE) or _is(package, KERBEROS)):
        raise ValueError(
            f"package {package} with allow_ntlm=False: that can be kept with Negotiate "
            "and Kerberos alone"
        )


def _check_bits(label: str, bits: int) -> None:
    _expect(label, bits, "int", isinstance(bits, int) and not isinstance(bits, bool))
    if not 0 <= bits <= 0xFFFFFFFF:
        raise ValueError(f"{label} must fit in 32 bits")


def _expect(label: str, value: object, kind: str, right: bool) -> None:
    if not right:
        raise TypeError(f"{label} must be {kind}, not {type(value).__name__}")


# -- 6. The context ------------------------------------------------------------
# May touch: handles and message descriptors, as opaque values. Whoever owns one
# is in this section.


class Context:
    """An established security context: what a flow returns.

    target, requested_package: as they were asked for.
    Messages may be any bytes-like object, which is not modified; use a context
    from one thread at a time, since messages are numbered in each direction.

    Raises: RuntimeError for whatever would ask SSPI, once it is closed.
    Owns: the context handle, and its share of the credential; close() or a
        `with` block gives them back. Forgetting to is a ResourceWarning.
    """

    def __init__(self, secur32: "Any", target: str, package: str) -> None:
        self.target = target
        self.requested_package = package
        self._secur32 = secur32
        self._handle = _no_handle()
        self._attributes = self._expiry = 0
        self._sent = self._received = 0  # messages, each way
        self._spare: "List[Frame]" = []  # for _encrypt_message()
        self._layout: "Optional[Tuple[bool, int, int, int]]" = None
        self._owned: "Owned" = [[]]  # what close() calls, the last first
        _watch(self, self._owned, "a Context was never closed, or " + _DROPPED)

    @property
    def package(self) -> str:
        """The package that was negotiated. Raises: SspiError."""
        return self._do(_negotiated_package)

    @property
    def user(self) -> str:
        """Who we are to the peer: "CORP\\alice". Raises: SspiError."""
        return self._do(_context_user)

    @property
    def flags(self) -> ISC_RET:
        """What SSPI granted."""
        return ISC_RET(self._granted() & ~self._unproven())

    @property
    def expires(self) -> "Optional[datetime]":
        """When it expires [local time], None for never or not told."""
        return _local_time(self._expiry)

    @property
    def sizes(self) -> "SecPkgContext_Sizes":
        """cbMaxToken, cbMaxSignature, cbBlockSize, cbSecurityTrailer [bytes]."""
        return self._do(_context_sizes)

    @property
    def session_key(self) -> bytes:
        """The key that both sides share [bytes]. Raises: SspiError."""
        return self._do(_session_key)

    def wrap(self, data: "Buffer", encrypt: bool = True) -> bytes:
        """Protect *data* and return one blob: token, text, padding.

        With *encrypt* False it is signed and stays readable, where the package
        can do that. Raises: SspiError.
        """
        return b"".join(self._seal(data, encrypt))

    def unwrap(self, blob: "Buffer") -> Message:
        """Open what the peer's wrap() made.

        Raises: SspiError; the message then counts as not received.
        """
        ntlm, _, trailer, _ = self._message_layout(_INTEGRITY | _CONFIDENTIALITY)
        token, text = None, _view(blob)
        if not text:
            self._refuse(SEC_E_MESSAGE_ALTERED, "A message of 0 bytes.")
        if ntlm:
            token, text = text[:trailer], text[trailer:]
            self._check_length("token", token, trailer, ntlm)
        plain, quality = self._do(_open_message, self._received, token, text)
        self._received += 1
        return Message(plain, quality != SECQOP_WRAP_NO_ENCRYPT)

    def seal(self, data: "Buffer") -> "Tuple[bytes, bytes]":
        """Encrypt *data* and return (token, ciphertext). Raises: SspiError."""
        return self._seal(data, True)

    def unseal(self, token: "Buffer", ciphertext: "Buffer") -> bytes:
        """Decrypt what the peer sealed.

        Raises: SspiError, also if the peer signed it and did not encrypt it.
        """
        ntlm, _, trailer, _ = self._message_layout(_CONFIDENTIALITY)
        self._check_length("token", token, trailer, ntlm)
        plain, quality = self._do(_open_message, self._received, token, ciphertext)
        self._received += 1
        if quality == SECQOP_WRAP_NO_ENCRYPT:
            self._refuse(SEC_E_QOP_NOT_SUPPORTED, "The peer signed it in clear text.")
        return plain

    def sign(self, data: "Buffer") -> bytes:
        """Return the signature of *data*, as long as SSPI made it [bytes]."""
        _, longest, _, _ = self._message_layout(_INTEGRITY)
        signature = self._do(_make_signature, self._sent, data, longest)
        self._sent += 1
        return signature

    def verify(self, data: "Buffer", signature: "Buffer") -> None:
        """Return if *signature* is the peer's over *data*, the next in turn.

        Raises: SspiError, SEC_E_MESSAGE_ALTERED or SEC_E_OUT_OF_SEQUENCE.
        """
        ntlm, longest, _, _ = self._message_layout(_INTEGRITY)
        self._check_length("signature", signature, longest, ntlm)
        self._do(_verify_signature, self._received, data, signature)
        self._received += 1

    def close(self) -> None:
        """Give everything back; closing twice is closing once."""
        _release(self._owned)

    def _watch_flow(self, flow: "Flow") -> None:
        import weakref

        self._flow = weakref.ref(flow)

    def _abandon(self) -> None:
        """Close, and complain if nobody has closed the flow: it was dropped."""
        if self._flow() is None:
            _release_forgotten(self._owned, _DROPPED)
        self.close()

    def _do(self, step: "Callable[..., T]", *facts: "Any") -> "T":
        """Make one step on our handle; an error learns package and target."""
        self._check_open()
        try:
            return step(self._secur32, self._handle, *facts)
        except SspiError as refused:
            _note(refused, self.requested_package, self.target)
            raise

    def _unproven(self) -> int:
        # NTLM echoes MUTUAL_AUTH without being able to keep it.
        try:
            return 0 if _is(self.package, KERBEROS) else _MUTUAL
        except (RuntimeError, SspiError):
            return _MUTUAL

    def _granted(self) -> int:
        # ALLOCATED_MEMORY is always granted: a provider that wrote nothing at all
        # is asked again (Wine's NTLM).
        if not self._attributes and self._owned:
            self._attributes = self._do(_context_flags)
        return self._attributes

    def _seal(self, data: "Buffer", encrypt: bool) -> "Tuple[bytes, bytes]":
        needed = _CONFIDENTIALITY if encrypt else _INTEGRITY
        _, _, trailer, block = self._message_layout(needed)
        quality = 0 if encrypt else SECQOP_WRAP_NO_ENCRYPT
        sealed = self._do(
            _encrypt_message, self._sent, data, quality, trailer, block, self._spare
        )
        self._sent += 1
        return sealed

    def _message_layout(self, needed: int) -> "Tuple[bool, int, int, int]":
        """Return (is NTLM, signature, trailer, block), the last three [bytes].

        Asked once: the package decides how messages look. NTLM's tokens have one
        length, while those of Kerberos may be shorter than announced.
        """
        self._check_open()
        if not self._granted() & needed:
            hint = f"{_bit_names(needed)} was not granted, and this needs it."
            self._refuse(SEC_E_QOP_NOT_SUPPORTED, hint)
        if self._layout is None:
            ntlm, sizes = _is(self.package, NTLM), self.sizes
            lengths = sizes.cbMaxSignature, sizes.cbSecurityTrailer, sizes.cbBlockSize
            self._layout = (ntlm, *lengths)
        return self._layout

    def _check_length(
        self, what: str, part: "Buffer", longest: int, exact: bool
    ) -> None:
        # Before SSPI sees it: NTLM would read as many bytes as it expects.
        length = len(_view(part))
        if not 0 < length <= longest or (exact and length != longest):
            due = longest if exact else f"1 to {longest}"
            hint = f"A {what} of {length} bytes, where {due} are due."
            self._refuse(SEC_E_MESSAGE_ALTERED, hint)

    def _check_open(self) -> None:
        if not self._owned:
            raise RuntimeError("this Context is closed")

    def _refuse(self, status: int, hint: str) -> "NoReturn":
        refused = SspiError(status, "Context", hint=hint)
        _note(refused, self.requested_package, self.target)
        raise refused

    def _step(
        self, credential: "_SharedHandle", flags: int, reply: "Optional[bytes]",
        channel_bindings: "Optional[bytes]",
    ) -> "Tuple[bool, bytes]":  # fmt: skip
        if reply is None:  # the first leg: own the handle before it exists
            secur32, handle = self._secur32, self._handle
            self._owned[0].append(lambda: _delete_context(secur32, handle))
        done, token, self._attributes, self._expiry = _initialize(
            self._secur32, credential.handle, self._handle, self.target,
            flags, reply, channel_bindings,
        )  # fmt: skip
        return done, token

    def _check_granted(self, require: int) -> None:
        missing = require and require & ~self._granted()
        if require & _MUTUAL:
            missing |= require & self._unproven()
        if missing:
            try:
                package = self.package
            except SspiError:
                package = self.requested_package
            hint = f"{package} did not grant {_bit_names(missing)}, which was required."
            raise SspiError(SEC_E_SECURITY_QOS_FAILED, "authenticate", hint=hint)

    def __enter__(self) -> "Context":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self._owned else ", closed"
        return f"<Context {self.requested_package} {self.target}{state}>"


class _SharedHandle:
    """A credential handle, freed when the last of its users lets go."""

    def __init__(self, secur32: "Any") -> None:
        self.secur32 = secur32
        self.handle = _no_handle()
        self.expiry = 0
        self._users: "Dict[int, Owned]" = {}
        handle = self.handle
        self._owned: "Owned" = [[lambda: _free_credential(secur32, handle)]]

    def join(self, owned: "Owned") -> None:
        owned[0].append(lambda: self._leave(id(owned)))
        self._users[id(owned)] = owned

    def acquire(
        self, package: str, identity: "Optional[Identity]", allow_ntlm: bool
    ) -> None:
        package_list = None if allow_ntlm or not _is(package, NEGOTIATE) else "!ntlm"
        self.expiry = _acquire(
            self.secur32, self.handle, package, identity, package_list
        )

    def _leave(self, user: int) -> None:
        self._users.pop(user, None)
        if not self._users:
            _release(self._owned)


_DROPPED = "a flow was dropped in the middle of its handshake"


def _watch(thing: object, owned: "Owned", what: str) -> None:
    """Release *owned* when *thing* goes away, or at exit at the latest."""
    import weakref  # not at the top: importing us would take a tenth longer

    weakref.finalize(thing, _release_forgotten, owned, what)


def _release_forgotten(owned: "Owned", what: str) -> None:
    if any(owned):
        _release(owned)
        import warnings

        warnings.warn(f"sspi_client: {what}", ResourceWarning, 2)


def _release(owned: "Owned") -> None:
    """Free all, each once and in reverse: the first pop() claims the whole stack,
    whichever threads call."""
    try:
        stack = owned.pop()
    except IndexError:
        return
    _unwind(stack)


def _unwind(stack: "List[Callable[[], None]]") -> None:
    try:
        while stack:
            stack[-1]()
            stack.pop()
    finally:  # interrupted: once more, since each does nothing when it is done
        if stack:
            _unwind(stack)


_INTEGRITY, _CONFIDENTIALITY = ISC_RET.INTEGRITY.value, ISC_RET.CONFIDENTIALITY.value
_MUTUAL = ISC_RET.MUTUAL_AUTH.value


def _bit_names(bits: int) -> str:
    names = [flag.name or "" for flag in ISC_RET if flag & bits]
    unknown = bits & ~sum(ISC_RET)
    return " | ".join(names + [f"0x{unknown:08X}"] * bool(unknown))


def _local_time(stamp: int) -> "Optional[datetime]":
    """Convert [100 ns since 1601-01-01 local time]; None for never and for 0."""
    from datetime import datetime, timedelta

    if stamp <= 0:
        return None
    try:
        return datetime(1601, 1, 1) + timedelta(microseconds=stamp // 10)
    except OverflowError:  # "never" is 0x7FFFFFFFFFFFFFFF, beyond the year 9999
        return None


# -- 7. Bindings and tokens ----------------------------------------------------
# May touch: bytes only. What is read here comes from the network: not trusted.

#: The content of a signature algorithm's OID, in hexadecimal -> its hash. RFC 5929
#: 4.1: MD5 and SHA-1 are replaced by SHA-256, which serves unknown ones as well.
_SIGNATURE_HASHES = {
    "2a864886f70d01010b": "sha256",  # sha256WithRSAEncryption, RFC 4055
    "2a864886f70d01010c": "sha384",
    "2a864886f70d01010d": "sha512",
    "2a864886f70d01010e": "sha224",
    "2a8648ce3d040301": "sha224",  # ecdsa-with-SHA224, RFC 5758
    "2a8648ce3d040302": "sha256",
    "2a8648ce3d040303": "sha384",
    "2a8648ce3d040304": "sha512",
    "608648016503040201": "sha256",  # id-sha256, as a parameter of RSASSA-PSS
    "608648016503040202": "sha384",
    "608648016503040203": "sha512",
    "608648016503040204": "sha224",
}
_RSASSA_PSS = "2a864886f70d01010a"  # RFC 4055; its hash is a parameter


def tls_server_end_point(certificate: "Buffer") -> bytes:
    """Make `channel_bindings` of a server's certificate, as RFC 5929 says.

    *certificate*: DER, as SSLSocket.getpeercert(True) gives it.

    Returns: b"tls-server-end-point:" + the hash of the whole certificate, by the
        hash function of its signature.
    Raises: TypeError if it is not bytes; ValueError if it is not one whole DER
        certificate.
    """
    try:
        der = bytes(memoryview(certificate))
    except TypeError:
        raise TypeError(
            "certificate must be DER bytes; ssl.PEM_cert_to_DER_cert() makes them of "
            f"PEM, getpeercert(True) gives them; not {type(certificate).__name__}"
        ) from None
    if b"-----BEGIN CERTIFICATE" in der:
        raise ValueError("this is PEM; ssl.PEM_cert_to_DER_cert() makes DER of it")
    import hashlib

    try:
        name = _signature_hash(der)
    except ValueError as problem:
        raise ValueError(f"not one whole DER certificate: {problem}") from None
    return b"tls-server-end-point:" + hashlib.new(name, der).digest()


def _signature_hash(der: bytes) -> str:
    """Name the hash to use: RFC 5280 4.1, Certificate.signatureAlgorithm."""
    content = _der_only(der, 0x30)
    octets = (len(content).bit_length() + 7) // 8 if len(content) > 0x7F else 0
    if len(der) != 2 + octets + len(content):
        raise ValueError("its length is written longer than it need be")
    parts = list(_der_items(content))
    if [tag for tag, _ in parts] != [0x30, 0x30, 0x03]:
        raise ValueError("it has another shape")
    tag, oid, parameters = _der_split(parts[1][1])
    if tag == 0x06 and oid.hex() == _RSASSA_PSS and parameters:
        fields = dict(_der_items(_der_only(parameters, 0x30)))
        if 0xA0 in fields:  # hashAlgorithm; SHA-1 if it is left out
            _, oid, _ = _der_split(_der_only(fields[0xA0], 0x30))
    return _SIGNATURE_HASHES.get(oid.hex(), "sha256")



def _check_bindings(channel_bindings: "Optional[bytes]") -> None:
    shape = 'application data such as b"tls-server-end-point:" + digest (RFC 5929)'
    if channel_bindings is None:
        return
    if not isinstance(channel_bindings, bytes):
        kind = type(channel_bindings).__name__
        raise ValueError(f"channel_bindings must be bytes, not {kind}: {shape}")
    prefix, colon, digest = channel_bindings.partition(b":")
    if not colon or not prefix.replace(b"-", b"").isalnum():
        raise ValueError(f"channel_bindings lack their prefix: {shape}")
    if not digest:
        raise ValueError(f"channel_bindings lack what follows the prefix: {shape}")


def mechanism(token: "Buffer") -> str:
    """Say what a token is, and what it carries: "NTLM CHALLENGE", or "unknown".

    Other words: "NTLM NEGOTIATE", "NTLM AUTHENTICATE", "Kerberos AP-REQ",
    "Kerberos AP-REP", "Kerberos KRB-ERROR 37", "SPNEGO NegTokenInit (Kerberos,
    NTLM): Kerberos AP-REQ", "SPNEGO NegTokenResp (accept-completed)". For eyes
    and logs: it trusts nothing, and nothing in it is secret.
    """
    try:
        return _mechanism(bytes(memoryview(token)))
    except (TypeError, ValueError):
        return "unknown"


_OID_SPNEGO = bytes.fromhex("2b0601050502")  # 1.3.6.1.5.5.2
_OID_NTLM = bytes.fromhex("2b06010401823702020a")  # 1.3.6.1.4.1.311.2.2.10
_OID_KERBEROS = bytes.fromhex("2a864886f712010202")  # 1.2.840.113554.1.2.2
_OID_MS_KERBEROS = bytes.fromhex("2a864882f712010202")  # 1.2.840.48018.1.2.2, a slip
_MECHANISM_NAMES = {
    _OID_MS_KERBEROS: "MS-Kerberos",
    _OID_KERBEROS: KERBEROS,
    _OID_NTLM: NTLM,
    bytes.fromhex("2b06010401823702021e"): "NEGOEX",  # 1.3.6.1.4.1.311.2.2.30
    bytes.fromhex("2a864886f71201020203"): "Kerberos user-to-user",
}
_NEG_STATES = ("accept-completed", "accept-incomplete", "reject", "request-mic")
_NTLM_KINDS = {1: "NEGOTIATE", 2: "CHALLENGE", 3: "AUTHENTICATE"}
_KERBEROS_KINDS = {0x6E: "AP-REQ", 0x6F: "AP-REP", 0x7E: "KRB-ERROR"}  # RFC 4120 5.10


def _mechanism(token: bytes) -> str:
    if token[:8] == _NTLMSSP:
        kind = _NTLM_KINDS.get(int.from_bytes(token[8:12], "little"))
        return f"NTLM {kind}" if kind else "unknown"
    tag, content, rest = _der_split(token)
    if rest:
        return "unknown"
    if tag == 0xA1:
        return _describe_resp(content)
    if tag != 0x60:
        return _describe_kerberos(token)
    _, oid, body = _der_split(content)
    if oid == _OID_SPNEGO:
        return _describe_init(body)
    kerberos = oid in (_OID_KERBEROS, _OID_MS_KERBEROS)
    if kerberos and body[:2] in (b"\1\0", b"\2\0", b"\3\0"):  # RFC 4121 4.1
        return _describe_kerberos(body[2:])
    return "unknown"


def _describe_init(body: bytes) -> str:
    fields = dict(_der_items(_der_only(_der_only(body, 0xA0), 0x30)))
    oids = _der_items(_der_only(fields.get(0xA0, b""), 0x30))
    names = [_MECHANISM_NAMES.get(oid, "another") for _, oid in oids]
    more = [f"{len(names) - 16} more"] if len(names) > 16 else []
    return f"SPNEGO NegTokenInit ({', '.join(names[:16] + more)}){_carried(fields)}"


def _describe_resp(content: bytes) -> str:
    fields = dict(_der_items(_der_only(content, 0x30)))
    state = _der_only(fields[0xA0], 0x0A) if 0xA0 in fields else b""
    known = len(state) == 1 and state[0] < len(_NEG_STATES)
    name = f" ({_NEG_STATES[state[0]]})" if known else ""
    return f"SPNEGO NegTokenResp{name}{_carried(fields)}"


def _carried(fields: "Dict[int, bytes]") -> str:
    if 0xA2 not in fields:
        return ""
    try:
        inner = _der_only(fields[0xA2], 0x04)
        nested = inner[:1] == b"\xa1" or _OID_SPNEGO in inner[:24]
        return f": {'unknown' if nested else _mechanism(inner)}"  # it nests no deeper
    except ValueError:
        return ": unknown"  # what is around it is known all the same


def _describe_kerberos(message: bytes) -> str:
    tag, content, _ = _der_split(message)
    kind = _KERBEROS_KINDS.get(tag)
    if kind is None:
        return "unknown"
    fields = dict(_der_items(_der_only(content, 0x30)))
    if kind == "KRB-ERROR" and 0xA6 in fields:  # error-code, RFC 4120 5.9.1
        code = _der_only(fields[0xA6], 0x02)
        if not 0 < len(code) <= 4:  # Int32, RFC 4120 5.2.4
            return "unknown"
        kind += f" {int.from_bytes(code, 'big', signed=True)}"
    return f"Kerberos {kind}"


def _der_only(data: bytes, tag: int) -> bytes:
    """Return the content of the one element that *data* is."""
    found, content, rest = _der_split(data)
    if found != tag:
        raise ValueError(f"DER element 0x{tag:02X} is due")
    if rest:
        raise ValueError(f"{len(rest)} bytes too many")
    return content


def _der_split(data: bytes) -> "Tuple[int, bytes, bytes]":
    """Return (tag, content, rest) of the first element of *data*."""
    start, end = _der_bounds(data, 0)
    return data[0], data[start:end], data[end:]


def _der_items(data: bytes) -> "Iterator[Tuple[int, bytes]]":
    at = 0  # by index: cutting the rest off each time would be quadratic
    while at < len(data):
        start, end = _der_bounds(data, at)
        yield data[at], data[start:end]
        at = end


def _der_bounds(data: bytes, at: int) -> "Tuple[int, int]":
    """Return where the content of the element at *at* starts and ends."""
    if len(data) < at + 2:
        raise ValueError("DER that is cut off")
    length, start = data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 4:
            raise ValueError("a DER length of a form that is not allowed")
        length = int.from_bytes(data[start : start + count], "big")
        start += count
    if start + length > len(data):
        raise ValueError("DER that is cut off")
    return start, start + length


# -- 8. The steps --------------------------------------------------------------
# May touch: raw memory, through ctypes. One SSPI call per function, and the calls
# that complete it or free what it gave; nothing above this line sees a pointer.


def _acquire(
    secur32: "Any",
    handle: "SecHandle",
    package: str,
    identity: "Optional[Identity]",
    package_list: "Optional[str]",
) -> int:
    """Fill *handle* with an outbound credential and return its expiry.

    Raises: SspiError; *handle* is then invalid, as it was.
    """
    expiry = TimeStamp()
    auth, memory = _lay_out_identity(identity, package_list)
    try:
        try:
            _write_units(memory, identity, package_list)
            status = secur32.AcquireCredentialsHandleW(
                None,  # pszPrincipal
                _wide(package),
                SECPKG_CRED_OUTBOUND,
                None,  # pvLogonId
                None if auth is None else byref(auth),
                None,  # pGetKeyFn
                None,  # pvGetKeyArgument
                byref(handle),
                byref(expiry),
            )
        finally:
            memset(memory, 0, sizeof(memory))
    finally:  # once more: Ctrl-C may have come just before
        memset(memory, 0, sizeof(memory))
    if status != SEC_E_OK:
        _invalidate(handle)
    _check(status, "AcquireCredentialsHandleW")
    return expiry.value


def _initialize(
    secur32: "Any",
    credential: "SecHandle",
    context: "SecHandle",
    target: str,
    flags: int,
    reply: "Optional[bytes]",
    channel_bindings: "Optional[bytes]",
) -> "Tuple[bool, bytes, int, int]":
    """Make one leg and return (done, token, attributes, expiry).

    *context* is invalid before the first leg; it holds the newest handle after
    each. attributes and expiry start from zero: some providers write neither.

    Raises: SspiError, with the error token if there is one.
    Frees: the output buffer, whatever the status.
    """
    first = reply is None
    output = SecBuffer(0, SECBUFFER_TOKEN, None)
    descriptor = SecBufferDesc(SECBUFFER_VERSION, 1, ctypes.pointer(output))
    inputs, _memory = _pack_inputs(reply, channel_bindings)
    attributes, expiry = ULONG(0), TimeStamp()
    function = "InitializeSecurityContextW"
    try:
        status = secur32.InitializeSecurityContextW(
            byref(credential),
            None if first else byref(context),
            _wide(target),
            flags | ISC_REQ.ALLOCATE_MEMORY.value,
            0,  # Reserved1
            SECURITY_NATIVE_DREP,
            None if inputs is None else byref(inputs),
            0,  # Reserved2
            byref(context),
            byref(descriptor),
            byref(attributes),
            byref(expiry),
        )
        if first and status & _ERROR_BIT:
            _invalidate(context)  # there is nothing to delete, whatever it holds
        done = status in (SEC_E_OK, SEC_I_COMPLETE_NEEDED)
        if status in (SEC_I_COMPLETE_NEEDED, SEC_I_COMPLETE_AND_CONTINUE):
            function = "CompleteAuthToken"
            status = secur32.CompleteAuthToken(byref(context), byref(descriptor))
        elif status == SEC_I_CONTINUE_NEEDED:
            status = SEC_E_OK
        token = _bytes_at(output.pvBuffer, output.cbBuffer)
    finally:
        _free_buffer(secur32, output.pvBuffer)
    _check(status, function, token)
    return done, token, attributes.value, expiry.value


def _encrypt_message(
    secur32: "Any", context: "SecHandle", sequence: int, data: "Buffer",
    quality: int, trailer: int, block: int, spare: "List[Frame]",
) -> "Tuple[bytes, bytes]":  # fmt: skip
    """EncryptMessage; return (token, text with its padding).

    SSPI encrypts in place, and that place is what we return: new bytes that hold
    a copy of *data*. Bytes are immutable once somebody has seen them; these nobody
    has, and their hash was not asked for. A bytearray would be copied again at the
    end, a fifth of the time of NTLM. Not verified outside of CPython.
    """
    view = _view(data)
    length = len(view)
    _check_size(trailer + length + block, length)
    # CPython shares its empty and one-byte bytes objects: ours has two at least.
    room = max(block, 2 - length)
    text = b"".join((view, bytes(room))) if room > 0 else view.tobytes()
    address: Any = PVOID.from_buffer(ctypes.c_char_p(text)).value  # cast() is slow
    token = ctypes.create_string_buffer(trailer)
    frame = message, head, body, tail = _frame(spare)
    message.cBuffers = 3 if block else 2
    head.cbBuffer, head.pvBuffer = trailer, addressof(token)
    body.cbBuffer, body.pvBuffer = length, address
    tail.cbBuffer, tail.pvBuffer = block, address + length
    status = secur32.EncryptMessage(byref(context), quality, byref(message), sequence)
    _check(status, "EncryptMessage")
    used = body.cbBuffer
    cipher = text if used == len(text) else text[:used]
    if block:
        cipher += text[length : length + tail.cbBuffer]
    sealed = token.raw[: head.cbBuffer], cipher
    spare.append(frame)
    return sealed


def _frame(spare: "List[Frame]") -> "Frame":
    """Return a descriptor and its TOKEN, DATA and PADDING, of which lengths and
    addresses are to be written: a spare one, since making one takes a third of the
    time of a short message. pop() is atomic, so two threads never have the same.
    """
    try:
        return spare.pop()
    except IndexError:
        kinds = SECBUFFER_TOKEN, SECBUFFER_DATA, SECBUFFER_PADDING
        message, buffers = _describe(*((0, kind, None) for kind in kinds))
        return (message, *buffers)


def _open_message(
    secur32: "Any", context: "SecHandle", sequence: int,
    token: "Optional[Buffer]", text: "Buffer",
) -> "Tuple[bytes, int]":  # fmt: skip
    """DecryptMessage; return (plain text, quality of protection).

    With *token*, TOKEN and DATA are passed; without, SSPI finds the token at the
    head of *text*: STREAM and DATA.
    """
    if token is None:
        memory, address, length = _room(0, text)
        message, buffers = _describe(
            (length, SECBUFFER_STREAM, address), (0, SECBUFFER_DATA, None)
        )
    else:
        head = _view(token)
        memory, address, length = _room(len(head), text)
        memory[: len(head)] = head
        message, buffers = _describe(
            (len(head), SECBUFFER_TOKEN, address),
            (length, SECBUFFER_DATA, address + len(head)),
        )
    quality = ULONG(0)
    status = secur32.DecryptMessage(
        byref(context), byref(message), sequence, byref(quality)
    )
    _check(status, "DecryptMessage")
    plain = _bytes_at(buffers[1].pvBuffer, buffers[1].cbBuffer)
    del memory  # the text was in it
    return plain, quality.value


def _make_signature(
    secur32: "Any", context: "SecHandle", sequence: int, data: "Buffer", longest: int
) -> bytes:
    memory, address, length = _room(longest, data)
    message, buffers = _describe(
        (length, SECBUFFER_DATA, address + longest), (longest, SECBUFFER_TOKEN, address)
    )
    status = secur32.MakeSignature(byref(context), 0, byref(message), sequence)
    _check(status, "MakeSignature")
    return bytes(memory[: buffers[1].cbBuffer])


def _verify_signature(
    secur32: "Any", context: "SecHandle", sequence: int, data: "Buffer",
    signature: "Buffer",
) -> None:  # fmt: skip
    head = _view(signature)
    memory, address, length = _room(len(head), data)
    memory[: len(head)] = head
    message, _buffers = _describe(
        (length, SECBUFFER_DATA, address + len(head)),
        (len(head), SECBUFFER_TOKEN, address),
    )
    quality = ULONG(0)
    status = secur32.VerifySignature(
        byref(context), byref(message), sequence, byref(quality)
    )
    _check(status, "VerifySignature")


def _context_sizes(secur32: "Any", context: "SecHandle") -> "SecPkgContext_Sizes":
    sizes = SecPkgContext_Sizes()
    _query(secur32, context, SECPKG_ATTR_SIZES, sizes)
    return sizes


def _context_flags(secur32: "Any", context: "SecHandle") -> int:
    flags = ULONG(0)  # SecPkgContext_Flags has this one member
    try:
        _query(secur32, context, SECPKG_ATTR_FLAGS, flags)
    except SspiError:
        return 0
    return flags.value


def _session_key(secur32: "Any", context: "SecHandle") -> bytes:
    answer = SecPkgContext_SessionKey()
    try:
        _query(secur32, context, SECPKG_ATTR_SESSION_KEY, answer)
        key = _bytes_at(answer.SessionKey, answer.SessionKeyLength)
        if key:
            memset(answer.SessionKey, 0, len(key))
        return key
    finally:
        _free_buffer(secur32, answer.SessionKey)


def _query(secur32: "Any", context: "SecHandle", attribute: int, answer: "Any") -> None:
    status = secur32.QueryContextAttributesW(byref(context), attribute, byref(answer))
    if status != SEC_E_OK:
        memset(byref(answer), 0, sizeof(answer))  # nothing in it is ours
        raise SspiError(status, "QueryContextAttributesW")


def _negotiated_package(secur32: "Any", context: "SecHandle") -> str:
    """Ask for the package in use: NEGOTIATION_INFO, else PACKAGE_INFO."""
    answer = SecPkgContext_NegotiationInfoW()  # SecPkgContext_PackageInfoW begins alike
    try:
        return _ask_context(secur32, context, SECPKG_ATTR_NEGOTIATION_INFO, answer)
    except SspiError as refused:
        if refused.status != SEC_E_UNSUPPORTED_FUNCTION:
            raise
    return _ask_context(secur32, context, SECPKG_ATTR_PACKAGE_INFO, answer)


def _context_user(secur32: "Any", context: "SecHandle") -> str:
    return _ask_context(secur32, context, SECPKG_ATTR_NAMES, SecPkgContext_NamesW())


def _ask_context(
    secur32: "Any", context: "SecHandle", attribute: int, answer: "Any"
) -> str:
    return _ask(secur32, "QueryContextAttributesW", context, attribute, answer)


def _credential_user(secur32: "Any", credential: "SecHandle") -> str:
    return _ask(
        secur32,
        "QueryCredentialsAttributesW",
        credential,
        SECPKG_CRED_ATTR_NAMES,
        SecPkgContext_NamesW(),  # SecPkgCredentials_NamesW is the same
    )


def _ask(
    secur32: "Any", function: str, handle: "SecHandle", attribute: int, answer: "Any"
) -> str:
    """Query an attribute whose answer leads to a name, and return the name.

    Frees: the block that SSPI allocated for it, once.
    """
    field = answer._fields_[0][0]
    try:
        status = getattr(secur32, function)(byref(handle), attribute, byref(answer))
        if status != SEC_E_OK:
            setattr(answer, field, None)
            raise SspiError(status, function)
        found = getattr(answer, field)
        if found and field == "PackageInfo":
            found = found.contents.Name
        return _text(found)
    finally:
        _free_buffer(secur32, getattr(answer, field))


def _enumerate(secur32: "Any") -> "List[Package]":
    count, first = ULONG(0), PSecPkgInfoW()
    try:
        status = secur32.EnumerateSecurityPackagesW(byref(count), byref(first))
        if status != SEC_E_OK:
            first = PSecPkgInfoW()  # nothing in it is ours
        _check(status, "EnumerateSecurityPackagesW")
        return [
            Package(_text(p.Name), _text(p.Comment), p.cbMaxToken, p.fCapabilities)
            for p in (first[: count.value] if first else [])
        ]
    finally:
        _free_buffer(secur32, first)


def _check(status: int, function: str, token: bytes = b"") -> None:
    if status != SEC_E_OK:
        raise SspiError(status, function, token)


def _free_buffer(secur32: "Any", memory: "Any") -> None:
    if memory:
        secur32.FreeContextBuffer(memory)


def _free_credential(secur32: "Any", handle: "SecHandle") -> None:
    if _is_valid(handle):
        secur32.FreeCredentialsHandle(byref(_take(handle)))


def _delete_context(secur32: "Any", handle: "SecHandle") -> None:
    if _is_valid(handle):
        secur32.DeleteSecurityContext(byref(_take(handle)))


def _no_handle() -> "SecHandle":
    return SecHandle(_INVALID, _INVALID)


def _is_valid(handle: "SecHandle") -> bool:
    # The memory itself is the state: an interrupt between SSPI's return and our
    # next line still leaves the truth here. sspi.h: SecIsValidHandle.
    return bool(handle.dwLower != _INVALID and handle.dwUpper != _INVALID)


def _take(handle: "SecHandle") -> "SecHandle":
    taken = SecHandle(handle.dwLower, handle.dwUpper)
    _invalidate(handle)
    return taken


def _invalidate(handle: "SecHandle") -> None:
    handle.dwLower = handle.dwUpper = _INVALID  # sspi.h: SecInvalidateHandle


def _lay_out_identity(
    identity: "Optional[Identity]", package_list: "Optional[str]"
) -> "Tuple[Any, Any]":
    """Build what pAuthData points at, and the one memory block that it points
    into, still empty: _write_units() fills it, and the caller wipes it.

    The plain structure, or with a package list the EX one, which exists for the
    current logon too (NULL strings, only the list). Lengths are in [UTF-16 code
    units], or bytes for an ANSI identity; the list is then ANSI as well, which
    the SDK does not spell out.

    Source: sspi.h, SEC_WINNT_AUTH_IDENTITY_W, SEC_WINNT_AUTH_IDENTITY_EXW.
    """
    if identity is None and package_list is None:
        return None, (c_ubyte * 1)()
    ansi = identity is not None and isinstance(identity.user, bytes)
    unit = c_ubyte if ansi else SEC_WCHAR
    auth: Any = SEC_WINNT_AUTH_IDENTITY_W()
    if package_list is not None:
        auth = SEC_WINNT_AUTH_IDENTITY_EXW()
        auth.Version, auth.Length = SEC_WINNT_AUTH_IDENTITY_VERSION, sizeof(auth)
    auth.Flags = (
        SEC_WINNT_AUTH_IDENTITY_ANSI if ansi else SEC_WINNT_AUTH_IDENTITY_UNICODE
    )
    lengths = [
        (field, sum(1 for _ in _units(text)))
        for field, text in _identity_parts(identity, package_list)
    ]
    memory = (unit * sum(length + 1 for _, length in lengths))()  # a NUL behind each
    start = addressof(memory)
    for field, length in lengths:
        setattr(auth, field, start)
        setattr(auth, field + "Length", length)
        start += (length + 1) * sizeof(unit)
    return auth, memory


def _write_units(
    memory: "Any", identity: "Optional[Identity]", package_list: "Optional[str]"
) -> None:
    place = 0
    for _, text in _identity_parts(identity, package_list):
        for value in _units(text):
            memory[place] = value
            place += 1
        place += 1  # the NUL


def _identity_parts(
    identity: "Optional[Identity]", package_list: "Optional[str]"
) -> "Iterator[Tuple[str, Text]]":
    # A generator, so that _acquire(), which refusals come out of, never holds them.
    if identity is not None:
        yield "User", identity.user
        yield "Domain", identity.domain
        yield "Password", identity._password
    if package_list is not None:
        yield "PackageList", package_list


def _units(text: "Text") -> "Iterator[int]":
    """Yield the UTF-16 code units of str, or the bytes of bytes, one by one.

    Not encode(): it would leave a second copy of the password that nobody wipes.
    """
    for character in text:
        point = character if isinstance(character, int) else ord(character)
        if point > 0xFFFF:
            yield 0xD800 + ((point - 0x10000) >> 10)
            point = 0xDC00 + (point & 0x3FF)
        yield point


def _pack_inputs(
    reply: "Optional[bytes]", channel_bindings: "Optional[bytes]"
) -> "Tuple[Optional[SecBufferDesc], List[Any]]":
    """Build pInput: the reply, then the bindings; None when there is neither.

    Returns the memory as well, which must live as long as the call. The reply
    is copied: SSPI may write into its input.
    """
    if reply is None and channel_bindings is None:
        return None, []
    parts = []
    if reply is not None:
        parts.append((SECBUFFER_TOKEN, reply))
    if channel_bindings is not None:
        header = SEC_CHANNEL_BINDINGS()
        header.cbApplicationDataLength = len(channel_bindings)
        header.dwApplicationDataOffset = sizeof(header)
        parts.append((SECBUFFER_CHANNEL_BINDINGS, bytes(header) + channel_bindings))
    rooms = [(kind, *_room(0, part)) for kind, part in parts]
    message, buffers = _describe(
        *((length, kind, address) for kind, _, address, length in rooms)
    )
    return message, [rooms, buffers]


def _room(before: int, data: "Buffer") -> "Tuple[bytearray, int, int]":
    """Return (memory, its address, length of data): a copy of *data* behind some
    room, for SSPI to write to."""
    view = _view(data)
    length = len(view)
    _check_size(before + length, length)
    memory = bytearray().join((bytes(before), view))
    # Of one byte, not of an array: ctypes would make a type for every length.
    return memory, addressof(c_ubyte.from_buffer(memory)) if memory else 0, length


def _check_size(total: int, length: int) -> None:
    if total > 0xFFFFFFFF:
        raise ValueError(f"a message of {length} bytes; SSPI counts in 32 bits")


def _view(data: "Buffer") -> memoryview:
    """Look at any bytes-like object byte by byte; a str or a gap is a TypeError."""
    try:
        view = memoryview(data)
    except TypeError:
        kind = type(data).__name__
        raise TypeError(f"a message must be bytes-like, not {kind}") from None
    return view.cast("B") if view.nbytes else memoryview(b"")


def _describe(*parts: "Any") -> "Tuple[SecBufferDesc, Any]":
    """Build a descriptor of (length [bytes], type, address) buffers."""
    buffers = (SecBuffer * len(parts))(*parts)
    return SecBufferDesc(SECBUFFER_VERSION, len(parts), buffers), buffers


def _bytes_at(address: "Optional[int]", length: int) -> bytes:
    return string_at(address, length) if address else b""


def _wide(text: str) -> "Any":
    encoded = text.encode("utf-16-le", "surrogatepass") + b"\0\0"
    return (SEC_WCHAR * (len(encoded) // 2)).from_buffer_copy(encoded)


def _text(wide: "Any") -> str:
    """Read a NUL-terminated UTF-16 string that SSPI allocated; NULL is ""."""
    if not wide:
        return ""
    length = 0
    while wide[length]:
        length += 1
    return string_at(wide, 2 * length).decode("utf-16-le", "surrogatepass")


# -- 9. The binding ------------------------------------------------------------
# May touch: the DLL; this is the only place that loads it.


def _backend(secur32: "Any") -> "Any":
    """Return *secur32* if it has every function of section 10, or the DLL."""
    if secur32 is None:
        return Secur32()
    missing = [n for n in PROTOTYPES if not callable(getattr(secur32, n, None))]
    if missing:
        raise TypeError(f"secur32 lacks {', '.join(missing)}")
    return secur32


class Secur32:
    """The functions of secur32.dll, each bound from its prototype (section 10) when
    it is first asked for: a flow needs five, and binding is most of the work here.
    Those that give back are there before anything is taken."""

    _dll: "Any"

    def __init__(self) -> None:
        if sys.platform != "win32":
            raise OSError(
                "secur32.dll is a part of Windows; on this platform pass secur32=, "
                "an object that stands in for it"
            )
        # Private, never ctypes.windll: its argtypes are shared by the process.
        # 0x800 is LOAD_LIBRARY_SEARCH_SYSTEM32: a secur32.dll that lies beside
        # the script or in the working directory is not looked at.
        self._dll = ctypes.WinDLL("secur32.dll", winmode=0x800)
        for name in _RELEASES:
            getattr(self, name)

    def __getattr__(self, name: str) -> "Any":
        if name not in PROTOTYPES:
            raise AttributeError(name)
        function = self._dll[name]  # a new one each time: no thread sees it half bound
        function.restype, *function.argtypes = PROTOTYPES[name]
        setattr(self, name, function)
        return function


# -- 10. The ABI ---------------------------------------------------------------
# May touch: nothing; declarations only, spelled as in sspi.h. Fixed widths, not
# ctypes.wintypes: its ULONG is 8 bytes on Linux, and then every layout test
# there would measure a machine that does not exist.

ULONG = c_uint32
USHORT = c_uint16
ULONG_PTR = c_size_t
PVOID = c_void_p
SEC_WCHAR = c_uint16
SECURITY_STATUS = c_uint32  # LONG in the SDK; unsigned, so 0x8009030C stays itself

SECPKG_CRED_OUTBOUND = 2
SECPKG_CRED_ATTR_NAMES = 1
SECPKG_ATTR_SIZES = 0
SECPKG_ATTR_NAMES = 1
SECPKG_ATTR_SESSION_KEY = 9
SECPKG_ATTR_PACKAGE_INFO = 10
SECPKG_ATTR_NEGOTIATION_INFO = 12
SECPKG_ATTR_FLAGS = 14
SECBUFFER_VERSION = 0
SECBUFFER_DATA = 1
SECBUFFER_TOKEN = 2
SECBUFFER_PADDING = 9
SECBUFFER_STREAM = 10
SECBUFFER_CHANNEL_BINDINGS = 14
SECURITY_NATIVE_DREP = 0x10
SECQOP_WRAP_NO_ENCRYPT = 0x80000001
SEC_WINNT_AUTH_IDENTITY_ANSI = 1
SEC_WINNT_AUTH_IDENTITY_UNICODE = 2
SEC_WINNT_AUTH_IDENTITY_VERSION = 0x200

_INVALID = ULONG_PTR(-1).value
_ERROR_BIT = 0x80000000  # winerror.h, SEVERITY_ERROR


class SecHandle(Structure):
    _fields_ = [("dwLower", ULONG_PTR), ("dwUpper", ULONG_PTR)]


class SecBuffer(Structure):
    _fields_ = [("cbBuffer", ULONG), ("BufferType", ULONG), ("pvBuffer", PVOID)]


class SecBufferDesc(Structure):
    _fields_ = [
        ("ulVersion", ULONG), ("cBuffers", ULONG), ("pBuffers", POINTER(SecBuffer)),
    ]  # fmt: skip


class TimeStamp(Structure):
    """[100 ns since 1601-01-01 local time]; sspi.h has it as LARGE_INTEGER too."""

    _fields_ = [("LowPart", ULONG), ("HighPart", c_int32)]

    @property
    def value(self) -> int:
        return int(self.HighPart) << 32 | int(self.LowPart)


class SecPkgInfoW(Structure):
    _fields_ = [
        ("fCapabilities", ULONG), ("wVersion", USHORT), ("wRPCID", USHORT),
        ("cbMaxToken", ULONG), ("Name", POINTER(SEC_WCHAR)),
        ("Comment", POINTER(SEC_WCHAR)),
    ]  # fmt: skip


class SEC_WINNT_AUTH_IDENTITY_W(Structure):
    _fields_ = [
        ("User", PVOID), ("UserLength", ULONG), ("Domain", PVOID),
        ("DomainLength", ULONG), ("Password", PVOID), ("PasswordLength", ULONG),
        ("Flags", ULONG),
    ]  # fmt: skip


class SEC_WINNT_AUTH_IDENTITY_EXW(Structure):
    _fields_ = [
        ("Version", ULONG), ("Length", ULONG), ("User", PVOID), ("UserLength", ULONG),
        ("Domain", PVOID), ("DomainLength", ULONG), ("Password", PVOID),
        ("PasswordLength", ULONG), ("Flags", ULONG), ("PackageList", PVOID),
        ("PackageListLength", ULONG),
    ]  # fmt: skip


class SEC_CHANNEL_BINDINGS(Structure):
    _fields_ = [
        ("dwInitiatorAddrType", ULONG), ("cbInitiatorLength", ULONG),
        ("dwInitiatorOffset", ULONG), ("dwAcceptorAddrType", ULONG),
        ("cbAcceptorLength", ULONG), ("dwAcceptorOffset", ULONG),
        ("cbApplicationDataLength", ULONG), ("dwApplicationDataOffset", ULONG),
    ]  # fmt: skip


class SecPkgContext_Sizes(Structure):
    _fields_ = [
        ("cbMaxToken", ULONG), ("cbMaxSignature", ULONG), ("cbBlockSize", ULONG),
        ("cbSecurityTrailer", ULONG),
    ]  # fmt: skip


class SecPkgContext_NamesW(Structure):
    _fields_ = [("sUserName", POINTER(SEC_WCHAR))]


class SecPkgContext_SessionKey(Structure):
    _fields_ = [("SessionKeyLength", ULONG), ("SessionKey", PVOID)]


class SecPkgContext_NegotiationInfoW(Structure):
    _fields_ = [("PackageInfo", POINTER(SecPkgInfoW)), ("NegotiationState", ULONG)]


LPCWSTR = POINTER(SEC_WCHAR)
PULONG = POINTER(ULONG)
PSecHandle = POINTER(SecHandle)
PSecBufferDesc = POINTER(SecBufferDesc)
PTimeStamp = POINTER(TimeStamp)
PSecPkgInfoW = POINTER(SecPkgInfoW)
PPSecPkgInfoW = POINTER(PSecPkgInfoW)

#: What gives back.
_RELEASES = ("FreeCredentialsHandle", "DeleteSecurityContext", "FreeContextBuffer")

#: name -> (restype, *argtypes), gathered from the stubs below.
PROTOTYPES: "Dict[str, Tuple[Any, ...]]" = {}


def _prototype(stub: "Callable[..., Any]") -> "Callable[..., Any]":
    types = dict(stub.__annotations__)
    PROTOTYPES[stub.__name__] = (types.pop("return"), *types.values())
    return stub


@_prototype
def AcquireCredentialsHandleW(
    pszPrincipal: LPCWSTR, pszPackage: LPCWSTR, fCredentialUse: ULONG,
    pvLogonId: PVOID, pAuthData: PVOID, pGetKeyFn: PVOID,
    pvGetKeyArgument: PVOID, phCredential: PSecHandle, ptsExpiry: PTimeStamp,
) -> SECURITY_STATUS: ...  # fmt: skip

@_prototype
def FreeCredentialsHandle(phCredential: PSecHandle) -> SECURITY_STATUS: ...

@_prototype
def InitializeSecurityContextW(
    phCredential: PSecHandle, phContext: PSecHandle, pszTargetName: LPCWSTR,
    fContextReq: ULONG, Reserved1: ULONG, TargetDataRep: ULONG,
    pInput: PSecBufferDesc, Reserved2: ULONG, phNewContext: PSecHandle,
    pOutput: PSecBufferDesc, pfContextAttr: PULONG, ptsExpiry: PTimeStamp,
) -> SECURITY_STATUS: ...  # fmt: skip

@_prototype
def CompleteAuthToken(
    phContext: PSecHandle, pToken: PSecBufferDesc
) -> SECURITY_STATUS: ...

@_prototype
def DeleteSecurityContext(phContext: PSecHandle) -> SECURITY_STATUS: ...

@_prototype
def FreeContextBuffer(pvContextBuffer: PVOID) -> SECURITY_STATUS: ...

@_prototype
def EncryptMessage(
    phContext: PSecHandle, fQOP: ULONG, pMessage: PSecBufferDesc, MessageSeqNo: ULONG
) -> SECURITY_STATUS: ...

@_prototype
def DecryptMessage(
    phContext: PSecHandle, pMessage: PSecBufferDesc, MessageSeqNo: ULONG, pfQOP: PULONG
) -> SECURITY_STATUS: ...

@_prototype
def MakeSignature(
    phContext: PSecHandle, fQOP: ULONG, pMessage: PSecBufferDesc, MessageSeqNo: ULONG
) -> SECURITY_STATUS: ...

@_prototype
def VerifySignature(
    phContext: PSecHandle, pMessage: PSecBufferDesc, MessageSeqNo: ULONG, pfQOP: PULONG
) -> SECURITY_STATUS: ...

@_prototype
def QueryContextAttributesW(
    phContext: PSecHandle, ulAttribute: ULONG, pBuffer: PVOID
) -> SECURITY_STATUS: ...

@_prototype
def QueryCredentialsAttributesW(
    phCredential: PSecHandle, ulAttribute: ULONG, pBuffer: PVOID
) -> SECURITY_STATUS: ...

@_prototype
def EnumerateSecurityPackagesW(
    pcPackages: PULONG, ppPackageInfo: PPSecPkgInfoW
) -> SECURITY_STATUS: ...


# -- 11. What a status means ---------------------------------------------------
# May touch: FormatMessageW, for what is not explained here. The numbers are
# winerror.h's, the sentences are ours.

SEC_E_OK = 0x00000000
SEC_E_INSUFFICIENT_MEMORY = 0x80090300
SEC_E_INVALID_HANDLE = 0x80090301
SEC_E_UNSUPPORTED_FUNCTION = 0x80090302
SEC_E_TARGET_UNKNOWN = 0x80090303
SEC_E_INTERNAL_ERROR = 0x80090304
SEC_E_SECPKG_NOT_FOUND = 0x80090305
SEC_E_NOT_OWNER = 0x80090306
SEC_E_CANNOT_INSTALL = 0x80090307
SEC_E_INVALID_TOKEN = 0x80090308
SEC_E_CANNOT_PACK = 0x80090309
SEC_E_QOP_NOT_SUPPORTED = 0x8009030A
SEC_E_NO_IMPERSONATION = 0x8009030B
SEC_E_LOGON_DENIED = 0x8009030C
SEC_E_UNKNOWN_CREDENTIALS = 0x8009030D
SEC_E_NO_CREDENTIALS = 0x8009030E
SEC_E_MESSAGE_ALTERED = 0x8009030F
SEC_E_OUT_OF_SEQUENCE = 0x80090310
SEC_E_NO_AUTHENTICATING_AUTHORITY = 0x80090311
SEC_I_CONTINUE_NEEDED = 0x00090312
SEC_I_COMPLETE_NEEDED = 0x00090313
SEC_I_COMPLETE_AND_CONTINUE = 0x00090314
SEC_I_LOCAL_LOGON = 0x00090315
SEC_I_GENERIC_EXTENSION_RECEIVED = 0x00090316
SEC_E_BAD_PKGID = 0x80090316
SEC_E_CONTEXT_EXPIRED = 0x80090317
SEC_I_CONTEXT_EXPIRED = 0x00090317
SEC_E_INCOMPLETE_MESSAGE = 0x80090318
SEC_E_INCOMPLETE_CREDENTIALS = 0x80090320
SEC_E_BUFFER_TOO_SMALL = 0x80090321
SEC_I_INCOMPLETE_CREDENTIALS = 0x00090320
SEC_I_RENEGOTIATE = 0x00090321
SEC_E_WRONG_PRINCIPAL = 0x80090322
SEC_I_NO_LSA_CONTEXT = 0x00090323
SEC_E_TIME_SKEW = 0x80090324
SEC_E_UNTRUSTED_ROOT = 0x80090325
SEC_E_ILLEGAL_MESSAGE = 0x80090326
SEC_E_CERT_UNKNOWN = 0x80090327
SEC_E_CERT_EXPIRED = 0x80090328
SEC_E_ENCRYPT_FAILURE = 0x80090329
SEC_E_DECRYPT_FAILURE = 0x80090330
SEC_E_ALGORITHM_MISMATCH = 0x80090331
SEC_E_SECURITY_QOS_FAILED = 0x80090332
SEC_E_UNFINISHED_CONTEXT_DELETED = 0x80090333
SEC_E_NO_TGT_REPLY = 0x80090334
SEC_E_NO_IP_ADDRESSES = 0x80090335
SEC_E_WRONG_CREDENTIAL_HANDLE = 0x80090336
SEC_E_CRYPTO_SYSTEM_INVALID = 0x80090337
SEC_E_MAX_REFERRALS_EXCEEDED = 0x80090338
SEC_E_MUST_BE_KDC = 0x80090339
SEC_E_STRONG_CRYPTO_NOT_SUPPORTED = 0x8009033A
SEC_E_TOO_MANY_PRINCIPALS = 0x8009033B
SEC_E_NO_PA_DATA = 0x8009033C
SEC_E_PKINIT_NAME_MISMATCH = 0x8009033D
SEC_E_SMARTCARD_LOGON_REQUIRED = 0x8009033E
SEC_E_SHUTDOWN_IN_PROGRESS = 0x8009033F
SEC_E_KDC_INVALID_REQUEST = 0x80090340
SEC_E_KDC_UNABLE_TO_REFER = 0x80090341
SEC_E_KDC_UNKNOWN_ETYPE = 0x80090342
SEC_E_UNSUPPORTED_PREAUTH = 0x80090343
SEC_E_DELEGATION_REQUIRED = 0x80090345
SEC_E_BAD_BINDINGS = 0x80090346
SEC_E_MULTIPLE_ACCOUNTS = 0x80090347
SEC_E_NO_KERB_KEY = 0x80090348
SEC_E_CERT_WRONG_USAGE = 0x80090349
SEC_E_DOWNGRADE_DETECTED = 0x80090350
SEC_E_SMARTCARD_CERT_REVOKED = 0x80090351
SEC_E_ISSUING_CA_UNTRUSTED = 0x80090352
SEC_E_REVOCATION_OFFLINE_C = 0x80090353
SEC_E_PKINIT_CLIENT_FAILURE = 0x80090354
SEC_E_SMARTCARD_CERT_EXPIRED = 0x80090355
SEC_E_NO_S4U_PROT_SUPPORT = 0x80090356
SEC_E_CROSSREALM_DELEGATION_FAILURE = 0x80090357
SEC_E_REVOCATION_OFFLINE_KDC = 0x80090358
SEC_E_ISSUING_CA_UNTRUSTED_KDC = 0x80090359
SEC_E_KDC_CERT_EXPIRED = 0x8009035A
SEC_E_KDC_CERT_REVOKED = 0x8009035B
SEC_I_SIGNATURE_NEEDED = 0x0009035C
SEC_E_INVALID_PARAMETER = 0x8009035D
SEC_E_DELEGATION_POLICY = 0x8009035E
SEC_E_POLICY_NLTM_ONLY = 0x8009035F
SEC_I_NO_RENEGOTIATION = 0x00090360
SEC_E_NO_CONTEXT = 0x80090361
SEC_E_PKU2U_CERT_FAILURE = 0x80090362
SEC_E_MUTUAL_AUTH_FAILED = 0x80090363
SEC_I_MESSAGE_FRAGMENT = 0x00090364
SEC_E_ONLY_HTTPS_ALLOWED = 0x80090365
SEC_I_CONTINUE_NEEDED_MESSAGE_OK = 0x00090366
SEC_E_APPLICATION_PROTOCOL_MISMATCH = 0x80090367
SEC_I_ASYNC_CALL_PENDING = 0x00090368
SEC_E_INVALID_UPN_NAME = 0x80090369
SEC_E_EXT_BUFFER_TOO_SMALL = 0x8009036A
SEC_E_INSUFFICIENT_BUFFERS = 0x8009036B
SEC_E_NO_SPM = SEC_E_INTERNAL_ERROR
SEC_E_NOT_SUPPORTED = SEC_E_UNSUPPORTED_FUNCTION

#: value -> name; the first name wins, an alias above is never shown.
_STATUS_NAMES: "Dict[int, str]" = {}
for _name, _value in list(globals().items()):
    if _name.startswith(("SEC_E_", "SEC_I_")):
        _STATUS_NAMES.setdefault(_value, _name)
        __all__.append(_name)

#: What users meet, and what to check, the likeliest cause first.
_EXPLANATIONS: "Dict[int, str]" = {
    SEC_E_INSUFFICIENT_MEMORY:
        "Not enough memory, or a token of another package was handed in, as "
        "Negotiate's to Kerberos. Check that both sides use the same package.",
    SEC_E_INVALID_HANDLE:
        "The handle is not, or no longer, one of SSPI's. Check that nothing else in "
        "the process frees handles of secur32.",
    SEC_E_UNSUPPORTED_FUNCTION:
        "The package cannot do this, or a policy forbids it. Check the flags that were "
        "asked for, and whether NTLM is blocked (gpresult /h report.html).",
    SEC_E_TARGET_UNKNOWN:
        "The domain knows no account for this SPN. Check its spelling, service/host "
        "and not service@host nor a URL (setspn -Q SPN); whether the host is an alias "
        "or an IP address; that a proxy's own name is used for a proxy.",
    SEC_E_INTERNAL_ERROR:
        "The local security authority failed. Check the System event log, and whether "
        "the trust with the domain holds (nltest /sc_query:DOMAIN).",
    SEC_E_SECPKG_NOT_FOUND:
        "There is no such security package. packages() lists what there is.",
    SEC_E_INVALID_TOKEN:
        "A token is malformed, or belongs to another package or handshake. Check that "
        "the reply is decoded (base64), whole, from this connection, and that the "
        "server speaks this package.",
    SEC_E_QOP_NOT_SUPPORTED:
        "The package does not offer this quality of protection. Check that the flags "
        "asked for CONFIDENTIALITY or INTEGRITY.",
    SEC_E_NO_IMPERSONATION:
        "The thread impersonates nobody whose credentials could be used. Check the "
        "impersonation level; without it, revert first.",
    SEC_E_LOGON_DENIED:
        "The user name or the password was refused. Check the domain (DOMAIN\\user or "
        "user@suffix); that the account is not locked, disabled or expired; entries of "
        "the Credential Manager for the target (cmdkey /list); on the server itself, "
        "the loopback check (BackConnectionHostNames).",
    SEC_E_UNKNOWN_CREDENTIALS:
        "The package does not understand these credentials. Check the user name, and "
        "that it is not left empty.",
    SEC_E_NO_CREDENTIALS:
        "There is nothing to log on with. Check for tickets (klist; a kinit of MIT "
        "Kerberos is not seen), that a scheduled task stores its password, that "
        "allow_ntlm=False leaves a package; or give an Identity.",
    SEC_E_MESSAGE_ALTERED:
        "The message was changed on its way, or is not for this context. Check that "
        "each message is passed on whole, once, by the context that it belongs to.",
    SEC_E_OUT_OF_SEQUENCE:
        "The message is a repetition or came out of turn. Check that messages are read "
        "in the order they were sent, each once.",
    SEC_E_NO_AUTHENTICATING_AUTHORITY:
        "No domain controller answers. Check the network or VPN, and whether it can be "
        "found (nltest /dsgetdc:DOMAIN).",
    SEC_E_CONTEXT_EXPIRED:
        "The context or its ticket has expired. Authenticate again (klist shows the "
        "times of tickets).",
    SEC_E_INCOMPLETE_MESSAGE:
        "The reply is cut off. Check that the transport read all of it.",
    SEC_E_BUFFER_TOO_SMALL:
        "A buffer is too small for what the package writes. Check the length of what "
        "was passed in.",
    SEC_E_WRONG_PRINCIPAL:
        "The server is not who it was taken for: another account holds the SPN. Check "
        "for doubles (setspn -X) and for a host name that changed hands.",
    SEC_E_TIME_SKEW:
        "The clocks differ too much, Kerberos allows five minutes. Check them (w32tm "
        "/query /status).",
    SEC_E_SECURITY_QOS_FAILED:
        "The context is weaker than was required. Check what was granted, and whether "
        "Kerberos could be had (klist get SPN).",
    SEC_E_NO_IP_ADDRESSES:
        "No address of a domain controller was found. Check DNS (nltest "
        "/dsgetdc:DOMAIN).",
    SEC_E_SMARTCARD_LOGON_REQUIRED:
        "The account must log on with a smart card. A password cannot serve it.",
    SEC_E_KDC_UNKNOWN_ETYPE:
        "Client, server and controller share no encryption type. Check the account's "
        "msDS-SupportedEncryptionTypes, and RC4 that was switched off.",
    SEC_E_DELEGATION_REQUIRED:
        "The server demands delegation. Ask for DELEGATE, if it may act for you.",
    SEC_E_BAD_BINDINGS:
        "The channel bindings differ from the server's. Check that they come from the "
        "certificate of this very connection; a proxy that opens TLS changes it.",
    SEC_E_NO_KERB_KEY:
        "The account has no Kerberos key for this. Check that its password was set "
        "since the domain supports the encryption type.",
    SEC_E_DOWNGRADE_DETECTED:
        "The system could not reach a controller safely, or somebody is weakening the "
        "logon. Check the network (nltest /dsgetdc:DOMAIN) and the clock.",
    SEC_E_INVALID_PARAMETER:
        "A parameter is wrong. Check the flags, and names of unusual length.",
    SEC_E_DELEGATION_POLICY:
        "A policy forbids delegation to this server. Check Credential Guard, Protected "
        "Users and the account's delegation settings.",
    SEC_E_POLICY_NLTM_ONLY:
        "A policy allows only NTLM here. Check it (gpresult /h report.html).",
    SEC_E_NO_CONTEXT:
        "There is no such context in the security authority. Authenticate again.",
    SEC_E_MUTUAL_AUTH_FAILED:
        "The server did not prove who it is. Check the SPN (setspn -Q SPN) and who "
        "holds it (setspn -X).",
}


def _system_text(status: int) -> str:
    """What the system says to it, in its own language; "" where it has nothing."""
    if sys.platform != "win32" or status == SEC_E_OK:
        return ""
    text = ctypes.FormatError(c_int32(status).value).strip()
    return "" if text == "<no description>" else text


# -- 12. The command line ------------------------------------------------------
# May touch: argv, stdout, stderr, and this file, to hash it. It calls up, being a
# user of the rest.


def main(argv: "Optional[Sequence[str]]" = None) -> int:
    """Run the command line: diagnose [SPN], or explain STATUS.

    Returns: the exit status. 0; 1 when diagnose could not make a token; 2 for what
        is no status, for wrong usage, and for diagnose off Windows.
    """
    import argparse

    parser = argparse.ArgumentParser(
        prog="sspi_client", description="Windows SSPI authentication, client side."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    explain = commands.add_parser("explain", help="say what a status means")
    explain.add_argument("status", help="decimal, negative, hexadecimal or symbolic")
    diagnose = commands.add_parser(
        "diagnose", help="show what SSPI has, and try a first token; nothing is sent"
    )
    diagnose.add_argument("spn", nargs="?", help="such as HTTP/intranet.example.com")
    diagnose.add_argument("--package", default=NEGOTIATE, help="default: Negotiate")
    diagnose.add_argument("--json", action="store_true", help="for programs")
    # A negative status would be taken for an option: argparse needs "--" before it.
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) == 2 and words[0] == "explain" and words[1][1:2].isdigit():
        words.insert(1, "--")
    options = parser.parse_args(words)
    if options.command == "explain":
        return _explain(options.status)
    return _diagnose(options.spn, options.package, options.json)


def _explain(word: str) -> int:
    status = _status_number(word)
    if status is None:
        hint = "give 0x8009030C, -2146893044 or SEC_E_LOGON_DENIED"
        print(f"no such status: {hint}", file=sys.stderr)
        return 2
    reason = SspiError(status, "")
    print(f"{reason.name} (0x{status:08X}, {status - (status >> 31 << 32)})")
    unknown = "Not explained here; look it up in winerror.h of the Windows SDK."
    print(reason.hint or ("Success." if status == SEC_E_OK else unknown))
    return 0


def _diagnose(target: "Optional[str]", package: str, as_json: bool) -> int:
    try:
        backend = Secur32()
        if target is not None:
            _check_target(target)
        _check_credential(None, package, True)
    except (OSError, ValueError) as problem:
        print(f"sspi_client: {problem}", file=sys.stderr)
        return 2
    facts: Dict[str, Any] = {}
    exit_status = 0
    try:
        facts.update(_machine_facts(backend))
        with Credential(package=package, secur32=backend) as credential:
            try:
                facts["logged on as"] = credential.user
            except SspiError as refused:
                facts["logged on as"] = f"not told: {refused.name}"
            if target is not None:
                facts.update(_first_leg(credential, target))
    except SspiError as refused:
        facts["error"] = str(refused)
        exit_status = 1
    if as_json:
        import json

        print(json.dumps(facts, indent=2))
        return exit_status
    encoding = sys.stdout.encoding or "ascii"
    for label, fact in facts.items():
        for line in fact if isinstance(fact, list) else [fact]:
            shown = f"{label:<15}{line}".encode(encoding, "backslashreplace")
            print(shown.decode(encoding))
            label = ""
    return exit_status


def _machine_facts(backend: "Any") -> "Dict[str, Any]":
    import hashlib

    try:
        with open(__file__, "rb") as own:
            digest = hashlib.sha256(own.read()).hexdigest()
    except OSError:  # inside a zip
        digest = "not to be had"
    system = sys.platform
    if sys.platform == "win32":
        system = "Windows {}.{}.{}".format(*sys.getwindowsversion()[:3])
    return {
        "system": system,
        "Python": f"{sys.version.split()[0]}, {8 * sizeof(PVOID)} bits",
        "sspi_client": f"{__version__}, SHA-256 {digest}",
        "packages": [
            f"{found.name}, tokens to {found.max_token} bytes"
            for found in packages(backend)
        ],
    }


def _first_leg(credential: Credential, target: str) -> "Dict[str, Any]":
    """Make the first token and describe it; it goes nowhere."""
    with Context(credential._shared.secur32, target, credential.package) as context:
        shared = credential._join(context._owned)
        try:
            _, token = context._step(shared, DEFAULT_FLAGS.value, None, None)
        except SspiError as refused:
            _note(refused, credential.package, target, 1)
            raise
        encoded = (len(token) + 2) // 3 * 4
        limits = [
            f"{'over' if encoded > limit else 'within'} {limit} ({whose})"
            for limit, whose in _HEADER_LIMITS
        ]
        return {
            "target": target,
            "first token": [mechanism(token), f"{len(token)} bytes"],
            "in a header": [f"{encoded} characters of base64", *limits],
            "granted so far": _bit_names(context._attributes) or "nothing yet",
        }


#: What common servers take in one header line by default, [bytes].
_HEADER_LIMITS = (
    (8190, "Apache, LimitRequestFieldSize"),
    (8192, "nginx, large_client_header_buffers; Tomcat, maxHttpHeaderSize"),
    (16384, "IIS, MaxFieldLength"),
)


def _status_number(word: str) -> "Optional[int]":
    """Read a status however it was written, our own messages included."""
    word = word.strip().split(" ")[0].upper()
    if word.startswith(("SEC_E_", "SEC_I_")):
        return globals().get(word)  # aliases too
    if len(word) == 8 and word.startswith(("8009", "0009", "C0")):
        word = "0X" + word  # as logs have it
    try:
        number = int(word, 0)
    except ValueError:
        return None
    return number & 0xFFFFFFFF if -(2**31) <= number < 2**32 else None


if __name__ == "__main__":
    sys.exit(main())


# 8< -- Cut here: the client above is whole without what follows. --------------
#
# The fake part: a secur32 in Python and the peer to talk to, so that tests run
# on any machine. It is never chosen by itself; hand it over as secur32=.
#
# Three classes are for tests, and they come first. NTLM (16) and SPNEGO (17) are
# real, Kerberos (18) is a stand-in; what a mechanism is stands in 15. The answers
# are those of Windows as MS-NLMP, captures and other projects' suites show them.
# Where nothing shows it, the answer is one that a careless client fails on, and a
# comment says "not verified".

# -- 13. The fake domain, secur32 and server -----------------------------------
# May touch: bytes only.

__all__ += ["FakeDomain", "FakeSecur32", "FakeServer"]


class _Whole:
    """What holds passwords or keys is neither copied nor pickled."""

    def __reduce__(self) -> "NoReturn":
        kind = type(self).__name__
        raise TypeError(f"a {kind} holds secrets and can be neither pickled nor copied")


class FakeDomain(_Whole):
    """The world: who there is, and what has a Kerberos key.

    name: "CORP", or "corp.example.com" whose first label is the short name.
    users: user name -> password. services: SPNs, as "HTTP/intranet.corp.test".

    Raises: TypeError; ValueError for a name with a control character or a
        backslash, a user written user@suffix, and what is no SPN.
    """

    def __init__(
        self, name: str, users: "Dict[str, str]", services: "Sequence[str]" = ()
    ) -> None:
        # Not in a frame from here on: error trackers show what stands there.
        self.users, self.name = users, ""
        del users
        if not isinstance(self.users, dict):
            raise TypeError("users must be a dict, name -> password")
        _expect("name", name, "str", isinstance(name, str))
        several = hasattr(services, "__iter__")
        several &= not isinstance(services, (bytes, str))
        _expect("services", services, "a sequence of SPNs", several)
        self.services = list(services)
        for service in self.services:
            _check_target(service)
        for user, password in self.users.items():
            if not isinstance(user, str) or not isinstance(password, str):
                raise TypeError("users must be a dict of str, name -> password")
            if "\0" in password:
                raise ValueError(f"the password of {user!r} holds a NUL")
            if "\\" in user or "@" in user:
                raise ValueError(f"users are bare names, 'alice' and not {user!r}")
        for text in (name, *self.users):
            if "\\" in text or not text or any(map(_is_control, text)):
                raise ValueError(f"{text!r} cannot be the name of a domain or a user")
        self.name = name.partition(".")[0].upper()
        self.dns_name = name.lower() if "." in name else f"{name.lower()}.test"
        self.users = dict(self.users)
        self._key = _random(16)

    def find(self, user: str, domain: str) -> "Optional[str]":
        """Return the user as *users* spells it, or None. Case does not matter."""
        if not domain and "@" in user:
            user, _, domain = user.rpartition("@")
        if domain.lower() not in ("", self.name.lower(), self.dns_name):
            return None
        return next((name for name in self.users if name.lower() == user.lower()), None)

    def service_key(self, target: str) -> "Optional[bytes]":
        """Return the stand-in Kerberos key of an SPN, or None if it has none.

        "HTTP/host@REALM" names the service "HTTP/host" of that realm.
        """
        target, _, realm = target.lower().partition("@")
        known = [service.lower().partition("@")[0] for service in self.services]
        if target not in known or realm not in ("", self.dns_name):
            return None
        return _hmac_md5(self._key, _utf8(target))

    def __repr__(self) -> str:
        return f"<FakeDomain {repr(self.name)[1:-1]}: {len(self.users)} users>"


class FakeSecur32(_Whole):
    """A secur32 for `secur32=`: real C calls through the prototypes above.

    logon: the user of *domain* who is logged on to this machine; None: nobody.
    What Windows does only sometimes can be asked for:

    controller: False if this machine reaches no domain controller. Kerberos is
        refused (SEC_E_NO_AUTHENTICATING_AUTHORITY), Negotiate goes on to NTLM.
    ntlm: False if a policy forbids outgoing NTLM (SEC_E_UNSUPPORTED_FUNCTION).
    bare_ntlm: Negotiate sends NTLM without SPNEGO where it cannot use Kerberos.
    spnego_signs: False if NTLM inside of SPNEGO negotiates signing only when
        INTEGRITY was asked for; LDAPS servers may refuse it otherwise.
    withhold, grant: ISC_RET bits that SSPI never grants, or says that it granted.
        Withheld ones are not negotiated at all.
    expires: when contexts expire, a naive local datetime; else in ten hours.
    max_token: the longest token [bytes]; a longer one is SEC_E_BUFFER_TOO_SMALL.

    calls: the functions that were called, in order.
    crimes: what Windows would let pass or crash on: a handle or buffer freed
        twice, a foreign one, one used after its time, NULL where none may be, a
        credential freed before its contexts, bindings left out of a leg, a
        message with a number that is not due, an exception inside of the fake.
    """

    def __init__(
        self, domain: FakeDomain, logon: "Optional[str]" = None, *,
        controller: bool = True, ntlm: bool = True, bare_ntlm: bool = False,
        spnego_signs: bool = True, withhold: int = 0, grant: int = 0,
        expires: "Optional[datetime]" = None, max_token: "Optional[int]" = None,
    ) -> None:  # fmt: skip
        self.domain = domain
        self.calls: "List[str]" = []
        self.crimes: "List[str]" = []
        _expect("domain", domain, "FakeDomain", isinstance(domain, FakeDomain))
        _expect("logon", logon, "str", logon is None or isinstance(logon, str))
        user = None if logon is None else domain.find(logon, "")
        if logon is not None and user is None:
            raise ValueError(f"{domain!r} has no user {logon!r}; write 'alice'")
        for label, knob in (
            ("controller", controller), ("ntlm", ntlm), ("bare_ntlm", bare_ntlm),
            ("spnego_signs", spnego_signs),
        ):  # fmt: skip
            _expect(label, knob, "bool", isinstance(knob, bool))
        _check_bits("withhold", withhold)
        _check_bits("grant", grant)
        if max_token is not None:
            _check_bits("max_token", max_token)
        self.logon = user
        self.controller, self.ntlm, self.bare_ntlm = controller, ntlm, bare_ntlm
        self.spnego_signs, self.max_token = spnego_signs, max_token
        self.withhold, self.grant = int(withhold), int(grant)
        self.expires = None if expires is None else _check_expiry(expires)
        self._injected: "Dict[Tuple[str, int], Tuple[int, Optional[bytes]]]" = {}
        self._raw = _FakeCalls(self)
        for name in PROTOTYPES:
            setattr(self, name, self._raw.trampoline(name))

    def inject(
        self, function: str, status: int, token: "Optional[bytes]" = None, call: int = 1
    ) -> None:
        """Let the *call*-th call of *function*, from now, answer *status*.

        With *token*, InitializeSecurityContextW hands it out, b"" as an empty
        buffer; without, no buffer at all. A status that is no error makes or
        keeps a context. A release that is told to fail releases all the same. What is
        never reached is not complained about: look at `calls`.
        """
        _expect("function", function, "str", isinstance(function, str))
        if function not in PROTOTYPES:
            raise ValueError(f"secur32 has no function {function!r}; see PROTOTYPES")
        _check_bits("status", status)
        _expect("token", token, "bytes", token is None or isinstance(token, bytes))
        _expect("call", call, "a count from 1", type(call) is int and call > 0)
        self._injected[function, self.calls.count(function) + call] = (status, token)

    def assert_clean(self) -> None:
        """Raise AssertionError if anything is alive or was misused."""
        found = self._raw.alive() + self.crimes
        if found:
            raise AssertionError("; ".join(found))

    def __repr__(self) -> str:
        return f"<FakeSecur32 of {self.domain!r}, {len(self.calls)} calls>"


class FakeServer(_Whole):
    """The peer: a genuine NTLM and SPNEGO acceptor, one per connection.

    It takes raw NTLM, SPNEGO, and the stand-in Kerberos. With *channel_bindings*
    (application data, as authenticate() takes it) it refuses a client that has
    others or none.

    require: ISC_RET bits that the client must have negotiated, such as INTEGRITY
        (the server demands signing) or CONFIDENTIALITY (sealing); without them
        the logon is denied.
    require_128: NTLM with less than 128 bits is SEC_E_UNSUPPORTED_FUNCTION.
    ntlm: False if a policy forbids incoming NTLM: it is not chosen, and refused.
    clock_ahead: of the domain's clock [s]; beyond 300 s Kerberos refuses.

    A refusal is an SspiError whose token, if any, tells the client of it.
    """

    def __init__(
        self, domain: FakeDomain, channel_bindings: "Optional[bytes]" = None, *,
        require: int = 0, require_128: bool = False, ntlm: bool = True,
        clock_ahead: float = 0,
    ) -> None:  # fmt: skip
        self.domain, self.complete, self._over = domain, False, False
        _expect("domain", domain, "FakeDomain", isinstance(domain, FakeDomain))
        _check_bindings(channel_bindings)
        _check_bits("require", require)
        _expect("require_128", require_128, "bool", isinstance(require_128, bool))
        _expect("ntlm", ntlm, "bool", isinstance(ntlm, bool))
        number = isinstance(clock_ahead, (int, float))
        number &= not isinstance(clock_ahead, bool)
        _expect("clock_ahead", clock_ahead, "a number [s]", number)
        if not abs(clock_ahead) < 10**9:  # a NaN neither
            raise ValueError("clock_ahead is some seconds, not decades")
        self.channel_bindings = channel_bindings
        self.require, self.require_128 = int(require), require_128
        self.ntlm, self.clock_ahead = ntlm, clock_ahead
        self._mechanism: "Optional[_Mechanism]" = None

    def accept(self, token: bytes) -> "Optional[bytes]":
        """Take the client's token and return the reply, None if there is none.

        Raises: SspiError. Its token, if any, tells the client of the refusal.
        """
        if not isinstance(token, (bytes, bytearray, memoryview)):
            raise TypeError(f"a token must be bytes, not {type(token).__name__}")
        token = bytes(token)
        over, self._over = self._over, True  # until all has gone well
        try:
            if over:
                raise ValueError(
                    "this server is complete, or it has refused before; one FakeServer "
                    "serves one connection"
                )
            if self._mechanism is None:
                self._mechanism = self._choose(token)
            reply = self._mechanism.step(token)
        except (ValueError, OverflowError) as problem:  # what the parsers below raise
            raise SspiError(SEC_E_INVALID_TOKEN, _ASC, hint=f"{problem}.") from None
        self.complete = self._over = self._mechanism.complete
        return reply

    def _choose(self, token: bytes) -> "_Mechanism":
        if token.startswith(_NTLMSSP):
            return _NtlmServer(self)
        if _gss_mechanism(token) == _OID_SPNEGO:
            return _SpnegoServer(self)
        return _KerberosServer(self)

    def wrap(self, data: bytes, encrypt: bool = True) -> bytes:
        """As Context.wrap()."""
        return b"".join(self._session().seal(bytes(data), encrypt))

    def unwrap(self, blob: bytes) -> Message:
        """As Context.unwrap()."""
        session, blob = self._session(), bytes(blob)
        split = session.trailer(blob)
        return Message(*session.unseal(blob[:split], blob[split:]))

    def seal(self, data: bytes) -> "Tuple[bytes, bytes]":
        """As Context.seal()."""
        return self._session().seal(bytes(data), True)  # type: ignore[no-any-return]

    def unseal(self, token: bytes, ciphertext: bytes) -> bytes:
        """As Context.unseal()."""
        return bytes(self._session().unseal(bytes(token), bytes(ciphertext))[0])

    def sign(self, data: bytes) -> bytes:
        """As Context.sign()."""
        return bytes(self._session().sign(bytes(data)))

    def verify(self, data: bytes, signature: bytes) -> None:
        """As Context.verify()."""
        self._session().verify(bytes(data), bytes(signature))

    @property
    def session_key(self) -> bytes:
        """As Context.session_key."""
        return bytes(self._session().key)

    def _session(self) -> "Any":
        if not self.complete or self._mechanism is None or not self._mechanism.session:
            raise RuntimeError("this FakeServer is not complete")
        return self._mechanism.session

    @property
    def user(self) -> str:
        """Who the client is, "CORP\\alice"; "" before it is complete."""
        user = self._told("user")
        return f"{self.domain.name}\\{user}" if user else ""

    @property
    def package(self) -> str:
        """NTLM or Kerberos; "" before it is complete."""
        return self._told("package")

    @property
    def target(self) -> str:
        """The SPN that the client named; "" before it is complete."""
        return self._told("target")

    def _told(self, fact: str) -> str:
        return str(getattr(self._mechanism, fact)) if self.complete else ""

    def __repr__(self) -> str:
        state = "complete" if self.complete else "not complete"
        return f"<FakeServer of {self.domain!r}, {state}>"


def _is_control(c: str) -> bool:
    return c < " " or "\x7f" <= c <= "\x9f" or c in "\u2028\u2029"


def _check_expiry(expires: "datetime") -> int:
    """Convert to [100 ns since 1601-01-01 local time]."""
    from datetime import datetime, timedelta

    _expect("expires", expires, "a datetime", isinstance(expires, datetime))
    if expires.tzinfo is not None or expires.year < 1602:
        raise ValueError("expires must be a naive local datetime after 1601")
    return (expires - datetime(1601, 1, 1)) // timedelta(microseconds=1) * 10


# -- 14. The fake secur32's functions ------------------------------------------
# May touch: raw memory; the only ctypes callbacks of the file are made here. It
# answers as Windows does and judges apart from that, in `crimes`.

_NEVER = 0x7FFFFFFFFFFFFFFF
_NO_CONTROLLER = SEC_E_NO_AUTHENTICATING_AUTHORITY
_ISC, _ASC = "InitializeSecurityContextW", "AcceptSecurityContext"
_CREDENTIAL_USES = {1: False, 2: True, 3: True}  # sspi.h: INBOUND, OUTBOUND, BOTH
_SECPKG_ATTR_KEY_INFO = 5
_SECPKG_NEGOTIATION_IN_PROGRESS = 2
_SECBUFFER_READONLY = 0x80000000  # neither encrypted nor signed
_SECBUFFER_READONLY_WITH_CHECKSUM = 0x10000000  # signed alone

#: name -> capabilities, RPC id, longest token [bytes], comment: Windows' numbers.
_FAKE_PACKAGES = {
    NEGOTIATE: (0x00083BB3, 9, 48000, "Microsoft Package Negotiator"),
    KERBEROS: (0x000F3BBF, 16, 48000, "Microsoft Kerberos V1.0"),
    NTLM: (0x00082B37, 10, 2888, "NTLM Security Package"),
}
#: package -> signature, block and trailer of SECPKG_ATTR_SIZES. Kerberos' signature
#: is announced as 37 bytes, from the days of RC4, and is 28 with AES.
_FAKE_SIZES = {NEGOTIATE: (16, 0, 16), KERBEROS: (37, 1, 60), NTLM: (16, 0, 16)}


class SecPkgContext_KeyInfoW(Structure):
    _fields_ = [
        ("sSignatureAlgorithmName", POINTER(SEC_WCHAR)),
        ("sEncryptAlgorithmName", POINTER(SEC_WCHAR)), ("KeySize", ULONG),
        ("SignatureAlgorithm", ULONG), ("EncryptAlgorithm", ULONG),
    ]  # fmt: skip


class _FakeCalls:
    """The functions of one FakeSecur32, and the ledger of what they gave away."""

    def __init__(self, fake: FakeSecur32) -> None:
        self.fake = fake
        self.credentials: "Dict[Tuple[int, int], _FakeCredential]" = {}
        self.contexts: "Dict[Tuple[int, int], _FakeContext]" = {}
        self.buffers: "Dict[int, Any]" = {}
        self._dead: "List[Any]" = []  # the last of what is gone, kept to know it again
        self._serials = iter(range(0x5EC0, sys.maxsize))  # next() is atomic

    def alive(self) -> "List[str]":
        tables: "Dict[str, Any]" = {
            "credentials": self.credentials, "contexts": self.contexts,
            "buffers": self.buffers,
        }  # fmt: skip
        return [f"{len(live)} {what} alive" for what, live in tables.items() if live]

    def trampoline(self, name: str) -> "Any":
        restype, *argtypes = PROTOTYPES[name]
        behave = getattr(self, name)

        def entry(*arguments: "Any") -> int:
            try:
                return self._enter(name, behave, arguments)
            except BaseException as crime:  # ctypes would print it and answer 0
                # A UnicodeError holds what it could not read: perhaps a password.
                what = type(crime) if isinstance(crime, UnicodeError) else repr(crime)
                self.fake.crimes.append(f"{name} met {what}")
                return SEC_E_INTERNAL_ERROR

        if sys.platform == "win32":
            return ctypes.WINFUNCTYPE(restype, *argtypes)(entry)
        return ctypes.CFUNCTYPE(restype, *argtypes)(entry)

    def _enter(self, name: str, behave: "Any", arguments: "Tuple[Any, ...]") -> int:
        fake, injected = self.fake, None
        fake.calls.append(name)
        if fake._injected:  # counting costs, and most tests inject nothing
            injected = fake._injected.pop((name, fake.calls.count(name)), None)
        try:
            if name == _ISC:
                status = behave(*arguments, injected)
            elif injected is None:
                status = behave(*arguments)
            else:
                status = injected[0]
                if name in _RELEASES:
                    behave(*arguments)
        except SspiError as refused:
            return refused.status
        return SEC_E_OK if status is None else int(status)

    # Credentials

    def AcquireCredentialsHandleW(
        self, pszPrincipal: "Any", pszPackage: "Any", fCredentialUse: int,
        pvLogonId: "Any", pAuthData: "Any", pGetKeyFn: "Any",
        pvGetKeyArgument: "Any", phCredential: "Any", ptsExpiry: "Any",
    ) -> None:  # fmt: skip
        if not phCredential:
            self._crime("NULL phCredential", SEC_E_INVALID_HANDLE)
        named = _text(pszPackage)
        package = next((p for p in _FAKE_PACKAGES if _is(p, named)), None)
        if package is None:
            raise SspiError(SEC_E_SECPKG_NOT_FOUND, "")
        if fCredentialUse not in _CREDENTIAL_USES:
            raise SspiError(SEC_E_UNSUPPORTED_FUNCTION, "")  # not verified
        credential = _FakeCredential(package, _CREDENTIAL_USES[fCredentialUse])
        fake = self.fake
        if fake.logon is not None:
            password = fake.domain.users[fake.logon]
            credential.login = _Login(fake.logon, fake.domain.name, password)
        if pAuthData:
            self._read_identity(pAuthData, credential)
        self._write_handle(phCredential, self.credentials, credential)
        self._write_expiry(ptsExpiry, _NEVER)

    def _read_identity(self, address: int, credential: "_FakeCredential") -> None:
        auth: "Any" = SEC_WINNT_AUTH_IDENTITY_EXW.from_address(address)
        if auth.Version == SEC_WINNT_AUTH_IDENTITY_VERSION:
            listed = self._read_text(auth, "PackageList")
            credential.package_list = [i.strip().lower() for i in listed.split(",")]
        else:
            auth = SEC_WINNT_AUTH_IDENTITY_W.from_address(address)
        if auth.User:
            credential.login = _Login(
                *(self._read_text(auth, field) for field in _Login.__slots__)
            )

    def _read_text(self, auth: "Any", field: str) -> str:
        address, length = getattr(auth, field), getattr(auth, field + "Length")
        kind = auth.Flags & 3
        if kind == SEC_WINNT_AUTH_IDENTITY_UNICODE:
            return _bytes_at(address, 2 * length).decode("utf-16-le", "surrogatepass")
        if kind == SEC_WINNT_AUTH_IDENTITY_ANSI:
            return _decode_ansi(_bytes_at(address, length), 0)
        raise SspiError(SEC_E_INVALID_PARAMETER, "")

    def FreeCredentialsHandle(self, phCredential: "Any") -> None:
        credential = self._find(phCredential, self.credentials, "credential")
        if any(context.credential is credential for context in self.contexts.values()):
            self.fake.crimes.append("a credential was freed before its context")
        self._bury(self.credentials, phCredential)

    def QueryCredentialsAttributesW(
        self, phCredential: "Any", ulAttribute: int, pBuffer: int
    ) -> None:
        credential = self._find(phCredential, self.credentials, "credential")
        if ulAttribute != SECPKG_CRED_ATTR_NAMES:
            raise SspiError(SEC_E_UNSUPPORTED_FUNCTION, "")
        self._write_text(pBuffer, credential.name())

    # Contexts

    def InitializeSecurityContextW(
        self, phCredential: "Any", phContext: "Any", pszTargetName: "Any",
        fContextReq: int, Reserved1: int, TargetDataRep: int, pInput: "Any",
        Reserved2: int, phNewContext: "Any", pOutput: "Any", pfContextAttr: "Any",
        ptsExpiry: "Any", injected: "Optional[Tuple[int, Optional[bytes]]]",
    ) -> int:  # fmt: skip
        if not phNewContext:
            self._crime("NULL phNewContext", SEC_E_INVALID_HANDLE)
        reply, bindings = self._read_inputs(pInput)
        if phContext:  # it wins over a credential that is given as well
            context = self._find(phContext, self.contexts, "context")
            context.judge(self.fake.crimes, reply, bindings)
        else:
            credential = self._find(phCredential, self.credentials, "credential")
            target = _text(pszTargetName)
            context = _FakeContext(self.fake, credential, target, fContextReq, bindings)
            if reply:
                self.fake.crimes.append("a token went into the first leg")
        status, token = injected or context.step(reply)
        if status & _ERROR_BIT:
            if token is not None:
                self._write_token(pOutput, fContextReq, token)
            return status
        self._write_token(pOutput, fContextReq, token, context.longest())
        if phContext:
            self._bury(self.contexts, phContext)  # handles rotate, as Wine's do
        self._write_handle(phNewContext, self.contexts, context)
        context.descriptor = addressof(pOutput.contents)
        if pfContextAttr:
            pfContextAttr[0] = context.granted()
        self._write_expiry(ptsExpiry, context.expiry())
        return status

    def _read_inputs(self, pInput: "Any") -> "Tuple[Optional[bytes], Optional[bytes]]":
        reply = bindings = None
        count = pInput.contents.cBuffers if pInput else 0
        for place in range(count):
            buffer = pInput.contents.pBuffers[place]
            content = _bytes_at(buffer.pvBuffer, buffer.cbBuffer)
            if buffer.BufferType == SECBUFFER_TOKEN:
                reply = content
                if place:
                    self.fake.crimes.append("the token was not the first input buffer")
            elif buffer.BufferType == SECBUFFER_CHANNEL_BINDINGS:
                header = SEC_CHANNEL_BINDINGS.from_buffer_copy(content)
                start = header.dwApplicationDataOffset
                bindings = content[start : start + header.cbApplicationDataLength]
                if not any(content):
                    self.fake.crimes.append("channel bindings of zeros")
        return reply, bindings

    def _write_token(
        self, pOutput: "Any", request: int, token: "Optional[bytes]",
        longest: int = 0xFFFFFFFF,
    ) -> None:  # fmt: skip
        """Hand out a token by the rules of ALLOCATE_MEMORY or of caller buffers."""
        if not pOutput:
            raise SspiError(SEC_E_BUFFER_TOO_SMALL, "")
        buffers = pOutput.contents.pBuffers[: pOutput.contents.cBuffers]
        output = next((b for b in buffers if b.BufferType == SECBUFFER_TOKEN), None)
        if output is None or len(token or b"") > longest:
            raise SspiError(SEC_E_BUFFER_TOO_SMALL, "")
        if request & ISC_REQ.ALLOCATE_MEMORY.value:
            if token is not None:
                output.pvBuffer, output.cbBuffer = self._allocate(token), len(token)
            return
        if not output.pvBuffer:
            raise SspiError(SEC_E_INTERNAL_ERROR, "")
        token = token or b""
        if output.cbBuffer < max(len(token), 1):
            raise SspiError(SEC_E_BUFFER_TOO_SMALL, "")
        ctypes.memmove(output.pvBuffer, token, len(token))
        output.cbBuffer = len(token)

    def CompleteAuthToken(self, phContext: "Any", pToken: "Any") -> None:
        context = self._find(phContext, self.contexts, "context")
        if not pToken or addressof(pToken.contents) != context.descriptor:
            self._crime("CompleteAuthToken on another descriptor", SEC_E_INVALID_TOKEN)

    def DeleteSecurityContext(self, phContext: "Any") -> None:
        self._find(phContext, self.contexts, "context")
        self._bury(self.contexts, phContext)

    def QueryContextAttributesW(
        self, phContext: "Any", ulAttribute: int, pBuffer: int
    ) -> None:
        context = self._find(phContext, self.contexts, "context")
        package = context.negotiated()
        if ulAttribute == SECPKG_ATTR_NAMES:
            self._write_text(pBuffer, context.credential.name())
        elif ulAttribute == SECPKG_ATTR_SIZES:
            sizes = SecPkgContext_Sizes(context.longest(), *_FAKE_SIZES[package])
            ctypes.memmove(pBuffer, byref(sizes), sizeof(sizes))
        elif ulAttribute == SECPKG_ATTR_FLAGS:
            ULONG.from_address(pBuffer).value = context.granted()
        elif ulAttribute == SECPKG_ATTR_SESSION_KEY:
            key = context.session().key
            answer = SecPkgContext_SessionKey.from_address(pBuffer)
            answer.SessionKey, answer.SessionKeyLength = self._allocate(key), len(key)
        elif ulAttribute == _SECPKG_ATTR_KEY_INFO and package == NTLM:
            self._write_key_info(pBuffer, context.session())
        elif ulAttribute in (SECPKG_ATTR_PACKAGE_INFO, SECPKG_ATTR_NEGOTIATION_INFO):
            info = SecPkgContext_NegotiationInfoW.from_address(pBuffer)
            block = self._package_block([package])
            info.PackageInfo = ctypes.cast(block, PSecPkgInfoW)
            if ulAttribute == SECPKG_ATTR_NEGOTIATION_INFO:
                done = context.mechanism and context.mechanism.complete
                info.NegotiationState = 0 if done else _SECPKG_NEGOTIATION_IN_PROGRESS
        else:
            raise SspiError(SEC_E_UNSUPPORTED_FUNCTION, "")

    def _write_key_info(self, pBuffer: int, session: "_Session") -> None:
        # Numbers of Wine's tests, which pass on Windows: KERB_CHECKSUM_HMAC_MD5,
        # KERB_CHECKSUM_REAL_CRC32's own pair of NTLM, and CALG_RC4.
        name, number = "HMAC-MD5", 0xFFFFFF76
        if not session.extended:
            name, number = "RSADSI RC4-CRC32", 0xFFFFFF7C
        info = SecPkgContext_KeyInfoW.from_address(pBuffer)
        for field, text in (("sSignature", name), ("sEncrypt", "RSADSI RC4")):
            address = self._allocate((text + "\0").encode("utf-16-le"))
            setattr(info, field + "AlgorithmName", ctypes.cast(address, LPCWSTR))
        info.KeySize = 8 * len(session.key)
        info.SignatureAlgorithm, info.EncryptAlgorithm = number, 0x6801

    def EnumerateSecurityPackagesW(
        self, pcPackages: "Any", ppPackageInfo: "Any"
    ) -> None:
        block = self._package_block(list(_FAKE_PACKAGES))
        ppPackageInfo[0] = ctypes.cast(block, PSecPkgInfoW)
        pcPackages[0] = len(_FAKE_PACKAGES)

    # Messages

    def MakeSignature(
        self, phContext: "Any", fQOP: int, pMessage: "Any", MessageSeqNo: int
    ) -> None:
        context = self._find(phContext, self.contexts, "context")
        message = _FakeMessage(pMessage)
        signature = context.session().sign(message.signed(message.text()))
        message.fill(message.token, signature)
        context.count(self.fake.crimes, "sent", MessageSeqNo)

    def VerifySignature(
        self, phContext: "Any", pMessage: "Any", MessageSeqNo: int, pfQOP: "Any"
    ) -> None:
        context = self._find(phContext, self.contexts, "context")
        message = _FakeMessage(pMessage)
        session = context.session()
        session.verify(message.signed(message.text()), message.head())
        context.count(self.fake.crimes, "received", MessageSeqNo)
        if pfQOP and session.tells_quality:
            pfQOP[0] = 0

    def EncryptMessage(
        self, phContext: "Any", fQOP: int, pMessage: "Any", MessageSeqNo: int
    ) -> None:
        context = self._find(phContext, self.contexts, "context")
        if fQOP not in (0, SECQOP_WRAP_NO_ENCRYPT):
            raise SspiError(SEC_E_QOP_NOT_SUPPORTED, "")
        message = _FakeMessage(pMessage)
        encrypt = fQOP != SECQOP_WRAP_NO_ENCRYPT
        plain = message.text()
        trailer, text = context.session().seal(plain, encrypt, message.signed)
        message.fill(message.token, trailer)
        message.write(text)
        context.count(self.fake.crimes, "sent", MessageSeqNo)

    def DecryptMessage(
        self, phContext: "Any", pMessage: "Any", MessageSeqNo: int, pfQOP: "Any"
    ) -> None:
        context = self._find(phContext, self.contexts, "context")
        message, session = _FakeMessage(pMessage, SECBUFFER_STREAM), context.session()
        trailer, text = message.head(), message.text()
        if message.token.BufferType == SECBUFFER_STREAM:
            split = session.trailer(trailer)  # where the text is inside of it is told
            data = message.data[0]
            data.pvBuffer = (message.token.pvBuffer or 0) + split
            data.cbBuffer = len(trailer) - split
            trailer, text = trailer[:split], trailer[split:]
        plain, encrypted = session.unseal(trailer, text, message.signed)
        message.write(plain)
        context.count(self.fake.crimes, "received", MessageSeqNo)
        if pfQOP and session.tells_quality:
            pfQOP[0] = 0 if encrypted else SECQOP_WRAP_NO_ENCRYPT

    # Memory

    def FreeContextBuffer(self, pvContextBuffer: "Optional[int]") -> None:
        if not pvContextBuffer:  # Wine answers so; Windows not verified
            self._crime("NULL given to FreeContextBuffer", SEC_E_OK)
        memory = self.buffers.pop(pvContextBuffer, None)
        if memory is None:
            gone = [addressof(g) for g in self._dead if not isinstance(g, tuple)]
            what = "twice" if pvContextBuffer in gone else "that is not ours"
            self._crime(f"a buffer freed {what}", SEC_E_INVALID_HANDLE)
        memset(memory, 0xDD, sizeof(memory))  # a read after this shows
        self._remember(memory)

    def _allocate(self, content: bytes) -> int:
        memory = (c_ubyte * max(len(content), 1))()
        memory[: len(content)] = list(content)
        self.buffers[addressof(memory)] = memory
        return addressof(memory)

    def _package_block(self, names: "List[str]") -> int:
        """Allocate an array of SecPkgInfoW with its strings in the same block."""
        strings = [
            (text + "\0").encode("utf-16-le")
            for name in names
            for text in (name, _FAKE_PACKAGES[name][3])
        ]
        size = len(names) * sizeof(SecPkgInfoW)
        address = self._allocate(bytes(size) + b"".join(strings))
        place = address + size
        for index, name in enumerate(names):
            info = SecPkgInfoW.from_address(address + index * sizeof(SecPkgInfoW))
            info.fCapabilities, info.wRPCID, info.cbMaxToken, _ = _FAKE_PACKAGES[name]
            info.cbMaxToken = _longest_token(self.fake, name)
            info.wVersion = 1
            for field in ("Name", "Comment"):
                setattr(info, field, ctypes.cast(place, LPCWSTR))
                place += len(strings.pop(0))
        return address

    def _write_text(self, pBuffer: int, text: str) -> None:
        names = SecPkgContext_NamesW.from_address(pBuffer)
        address = self._allocate((text + "\0").encode("utf-16-le", "surrogatepass"))
        names.sUserName = ctypes.cast(address, LPCWSTR)

    def _write_expiry(self, ptsExpiry: "Any", value: int) -> None:
        if ptsExpiry:
            ptsExpiry.contents.LowPart = value & 0xFFFFFFFF
            ptsExpiry.contents.HighPart = value >> 32

    def _write_handle(
        self, pHandle: "Any", table: "Dict[Any, Any]", thing: object
    ) -> None:
        key = (next(self._serials), 0)  # a half that is zero is as good as any other
        pHandle.contents.dwLower, pHandle.contents.dwUpper = key
        table[key] = thing

    def _find(self, pHandle: "Any", table: "Dict[Any, Any]", what: str) -> "Any":
        if not pHandle:
            self._crime(f"NULL for a {what}", SEC_E_INVALID_HANDLE)
        key = (pHandle.contents.dwLower, pHandle.contents.dwUpper)
        if key not in table:
            old = "an old handle" if key in self._dead else "a foreign handle"
            self._crime(f"{old} for a {what}", SEC_E_INVALID_HANDLE)
        return table[key]

    def _bury(self, table: "Dict[Any, Any]", pHandle: "Any") -> None:
        key = (pHandle.contents.dwLower, pHandle.contents.dwUpper)
        del table[key]
        self._remember(key)

    def _remember(self, gone: object) -> None:
        self._dead.append(gone)
        del self._dead[:-64]

    def _crime(self, what: str, status: int) -> "NoReturn":
        self.fake.crimes.append(what)
        raise SspiError(status, "")


class _FakeMessage:
    """The buffers of one message: a TOKEN or what stands for it, and DATA.

    DATA may come in pieces, some of them READONLY_WITH_CHECKSUM (signed and not
    encrypted, as DCE/RPC has its headers) or READONLY (neither).
    """

    def __init__(self, pMessage: "Any", instead: int = SECBUFFER_TOKEN) -> None:
        self.data: "List[Any]" = []
        token = None
        for place in range(pMessage.contents.cBuffers if pMessage else 0):
            buffer = pMessage.contents.pBuffers[place]
            kind = buffer.BufferType & 0x0FFFFFFF  # sspi.h, SECBUFFER_ATTRMASK
            if kind == SECBUFFER_DATA:
                self.data.append(buffer)
            elif kind in (SECBUFFER_TOKEN, instead):
                token = buffer
            elif kind == SECBUFFER_PADDING:
                buffer.cbBuffer = 0  # nothing pads, since RC4 and AES
        if token is None or not self.data:
            raise SspiError(SEC_E_INVALID_TOKEN, "")
        self.token: "Any" = token

    def head(self) -> bytes:
        return _bytes_at(self.token.pvBuffer, self.token.cbBuffer)

    def _writable(self) -> "List[Any]":
        return [b for b in self.data if b.BufferType == SECBUFFER_DATA]

    def text(self) -> bytes:
        """Return what is to be encrypted or decrypted."""
        parts = [_bytes_at(b.pvBuffer, b.cbBuffer) for b in self._writable()]
        return b"".join(parts)

    def signed(self, text: bytes) -> bytes:
        """Return what is signed if *text* is what the message says in clear."""
        parts, place = [], 0
        for buffer in self.data:
            if buffer.BufferType == SECBUFFER_DATA:
                parts.append(text[place : place + buffer.cbBuffer])
                place += buffer.cbBuffer
            elif buffer.BufferType & _SECBUFFER_READONLY_WITH_CHECKSUM:
                parts.append(_bytes_at(buffer.pvBuffer, buffer.cbBuffer))
        return b"".join(parts)

    def write(self, text: bytes) -> None:
        """Put *text* where the DATA was, each piece as long as before."""
        writable = self._writable()
        for buffer in writable[:-1]:
            self.fill(buffer, text[: buffer.cbBuffer])
            text = text[buffer.cbBuffer :]
        for buffer in writable[-1:]:
            self.fill(buffer, text)

    def fill(self, buffer: "Any", content: bytes) -> None:
        if buffer.cbBuffer < len(content):
            raise SspiError(SEC_E_BUFFER_TOO_SMALL, "")
        if content:
            ctypes.memmove(buffer.pvBuffer, content, len(content))
        buffer.cbBuffer = len(content)


class _Login:
    """Who logs on; an object, so that no repr of a frame shows the password."""

    __slots__ = ("User", "Domain", "Password")  # as the SDK's identity has them

    def __init__(self, user: str, domain: str, password: str) -> None:
        self.User, self.Domain, self.Password = user, domain, password


class _FakeCredential:
    def __init__(self, package: str, outbound: bool) -> None:
        self.package, self.outbound = package, outbound
        self.package_list: "List[str]" = []
        self.login: "Optional[_Login]" = None

    def allows(self, package: str) -> bool:
        named = [item for item in self.package_list if item and item[0] != "!"]
        name = package.lower()
        return "!" + name not in self.package_list and (not named or name in named)

    def name(self) -> str:
        if self.login is None:
            raise SspiError(SEC_E_NO_CREDENTIALS, "")
        user, domain = self.login.User, self.login.Domain
        return f"{domain}\\{user}" if domain else user


class _FakeContext:
    """A context handle's other side: the client's half of a mechanism."""

    def __init__(
        self, fake: FakeSecur32, credential: _FakeCredential, target: str,
        request: int, bindings: "Optional[bytes]",
    ) -> None:  # fmt: skip
        self.fake, self.credential, self.target = fake, credential, target
        self.asked, self.request = request, request & ~fake.withhold
        self.bindings = bindings
        self.mechanism: "Optional[_Mechanism]" = None
        self.descriptor = 0
        self.counts = {"sent": 0, "received": 0}

    def judge(
        self, crimes: "List[str]", reply: "Optional[bytes]", bindings: "Optional[bytes]"
    ) -> None:
        if bindings != self.bindings:
            crimes.append("the channel bindings changed between legs")
        if reply is None:
            crimes.append("a later leg without a token")
        if self.mechanism is not None and self.mechanism.complete:
            crimes.append("a leg after SEC_E_OK")

    def count(self, crimes: "List[str]", way: str, number: int) -> None:
        """Look at MessageSeqNo: 0 from who keeps no count, else one each way."""
        due = self.counts[way]
        if number not in (0, due):
            crimes.append(f"message {number} {way}, while {due} was due")
        self.counts[way] = due + 1

    def step(self, reply: "Optional[bytes]") -> "Tuple[int, Optional[bytes]]":
        try:
            if self.mechanism is None:
                if reply is not None:
                    raise ValueError("an injected context has no mechanism")
                self.mechanism = self._start()
            token = self.mechanism.step(reply)
        except SspiError as refused:
            return refused.status, refused.token or None
        except (ValueError, OverflowError):
            return SEC_E_INVALID_TOKEN, None
        return SEC_E_OK if self.mechanism.complete else SEC_I_CONTINUE_NEEDED, token

    def _start(self) -> "_Mechanism":
        credential, fake = self.credential, self.fake
        if credential.login is None or not credential.outbound:
            raise SspiError(SEC_E_NO_CREDENTIALS, "")  # of an inbound one not verified
        if credential.package == KERBEROS:
            return _KerberosClient(self)
        if credential.package == NTLM:
            return self._start_ntlm()
        offers: "List[_Mechanism]" = []
        if credential.allows(KERBEROS):
            # As Windows: an unknown SPN or user, or no controller, makes Negotiate go
            # on to NTLM; a wrong password that the controller has seen does not.
            user, of = credential.login.User, credential.login.Domain
            known = fake.domain.service_key(self.target) and fake.domain.find(user, of)
            if known and fake.controller:
                offers.append(_KerberosClient(self))
            elif not credential.allows(NTLM):
                unknown = SEC_E_TARGET_UNKNOWN if fake.controller else _NO_CONTROLLER
                raise SspiError(unknown, "")
        if credential.allows(NTLM) and (fake.ntlm or not offers):
            ntlm = self._start_ntlm(inside=True)
            # A list of NTLM alone makes no SPNEGO: sspilib's tests on Windows.
            if not offers and (fake.bare_ntlm or "ntlm" in credential.package_list):
                return self._start_ntlm()
            offers.append(ntlm)
        if not offers:
            raise SspiError(SEC_E_NO_CREDENTIALS, "")
        return _SpnegoClient(offers, credential.allows("NegoExtender"))

    def _start_ntlm(self, inside: bool = False) -> "_Mechanism":
        if not self.fake.ntlm:  # STATUS_NOT_SUPPORTED in MS-NLMP 3.1.5.1.1
            raise SspiError(SEC_E_UNSUPPORTED_FUNCTION, "")
        return _NtlmClient(self, inside and self.fake.spnego_signs)

    def session(self) -> "Any":
        mechanism = self.mechanism
        if mechanism is None or not mechanism.complete or mechanism.session is None:
            raise SspiError(SEC_E_INVALID_HANDLE, "")
        return mechanism.session

    def negotiated(self) -> str:
        """The package in use; Negotiate itself while that is open."""
        return self.mechanism.package if self.mechanism else self.credential.package

    def granted(self) -> int:
        granted = self.mechanism.granted if self.mechanism else self.request
        granted = granted & ~self.fake.withhold | self.fake.grant
        return granted | self.asked & ISC_REQ.ALLOCATE_MEMORY.value

    def longest(self) -> int:
        return _longest_token(self.fake, self.credential.package)

    def expiry(self) -> int:
        """[100 ns since 1601-01-01 local time]: Go's suite wants some hours ahead."""
        if self.fake.expires is not None:
            return self.fake.expires
        import time

        local = time.time() - time.timezone + 10 * 3600
        return int((local + _SINCE_1601) * 10**7)


def _longest_token(fake: FakeSecur32, package: str) -> int:
    longest = _FAKE_PACKAGES[package][2]
    return longest if fake.max_token is None else fake.max_token


# -- 15. What a mechanism is ---------------------------------------------------
# May touch: nothing. The two classes that every mechanism below fills in.


class _Mechanism:
    """One side of one handshake: NTLM's, Kerberos', or SPNEGO's around them.

    package: what is negotiated, NTLM or Kerberos.
    complete: no further token of the peer is due.
    granted: the ISC_RET bits that hold, whichever side this is.
    session: the protection of messages, from the moment there is a key.
    user, target: of the client and as the client named it; on the server's side.
    announces_mic: the client's message says that a mechListMIC will follow.
    """

    package = ""
    complete = announces_mic = False
    granted = 0
    session: "Optional[_Session]" = None
    user = target = ""

    def step(self, token: "Any") -> "Optional[bytes]":
        """Take the peer's token, None to begin, and return ours, None or b"".

        Raises: SspiError, with the token that tells the peer; ValueError for a
            token that is malformed.
        """
        raise NotImplementedError


class _Session:
    """Messages under one key, numbered in each direction.

    sign(data) -> signature; verify(data, signature).
    seal(text, encrypt, signed) -> (token, text as it travels); unseal(token, text,
    signed) -> (clear text, whether it was encrypted); trailer(blob) -> how long the
    token at its head is. *signed* makes what is signed of the clear text: a message
    may have headers that are not encrypted. What is refused leaves the state alone.

    signs: there is integrity at all. extended: NTLM's newer signatures.
    tells_quality: DecryptMessage writes pfQOP; NTLM's does not (Wine's tests).
    """

    signs = extended = tells_quality = True
    key = b""
    sign: "Any"
    verify: "Any"

    def mech_list_mic(self, mech_types: bytes) -> bytes:
        return bytes(self.sign(mech_types))

    def check_mech_list_mic(self, mech_types: bytes, mic: bytes) -> None:
        self.verify(mech_types, mic)


def _check_demands(server: FakeServer, granted: int) -> None:
    if server.require & ~granted:
        raise SspiError(SEC_E_LOGON_DENIED, _ASC)


# -- 16. NTLM ------------------------------------------------------------------
# May touch: bytes only. MS-NLMP, NTLMv2; section numbers are that document's.

NTLMSSP_NEGOTIATE_UNICODE = 0x00000001  # 2.2.2.5
NTLMSSP_NEGOTIATE_OEM = 0x00000002
NTLMSSP_REQUEST_TARGET = 0x00000004
NTLMSSP_NEGOTIATE_SIGN = 0x00000010
NTLMSSP_NEGOTIATE_SEAL = 0x00000020
NTLMSSP_NEGOTIATE_LM_KEY = 0x00000080
NTLMSSP_NEGOTIATE_NTLM = 0x00000200
NTLMSSP_NEGOTIATE_ALWAYS_SIGN = 0x00008000
NTLMSSP_TARGET_TYPE_DOMAIN = 0x00010000
NTLMSSP_NEGOTIATE_EXTENDED_SESSIONSECURITY = 0x00080000
NTLMSSP_NEGOTIATE_TARGET_INFO = 0x00800000
NTLMSSP_NEGOTIATE_VERSION = 0x02000000
NTLMSSP_NEGOTIATE_128 = 0x20000000
NTLMSSP_NEGOTIATE_KEY_EXCH = 0x40000000
NTLMSSP_NEGOTIATE_56 = 0x80000000
_NTLM_TEXTS = NTLMSSP_NEGOTIATE_UNICODE | NTLMSSP_NEGOTIATE_OEM
_NTLM_PROTECTED = NTLMSSP_NEGOTIATE_SIGN | NTLMSSP_NEGOTIATE_SEAL
#: What Windows always asks for: 0xA2088207 in captures of Server 2019.
_NTLM_OFFER = (
    _NTLM_TEXTS | NTLMSSP_REQUEST_TARGET | NTLMSSP_NEGOTIATE_NTLM
    | NTLMSSP_NEGOTIATE_ALWAYS_SIGN | NTLMSSP_NEGOTIATE_EXTENDED_SESSIONSECURITY
    | NTLMSSP_NEGOTIATE_VERSION | NTLMSSP_NEGOTIATE_128 | NTLMSSP_NEGOTIATE_56
)  # fmt: skip
#: What it adds for signing: 0xE2088297 in the same captures.
_NTLM_SIGNING = (
    NTLMSSP_NEGOTIATE_SIGN | NTLMSSP_NEGOTIATE_LM_KEY | NTLMSSP_NEGOTIATE_KEY_EXCH
)
_NTLM_VERSION = bytes.fromhex("0a00614a0000000f")  # 2.2.2.10: 10.0.19041, revision 15

_AV_EOL, _AV_NB_COMPUTER, _AV_NB_DOMAIN, _AV_DNS_COMPUTER = 0, 1, 2, 3  # 2.2.2.1
_AV_DNS_DOMAIN, _AV_FLAGS, _AV_TIMESTAMP, _AV_SINGLE_HOST = 4, 6, 7, 8
_AV_TARGET_NAME, _AV_CHANNEL_BINDINGS = 9, 10
_AV_FLAG_MIC = 2
_MACHINE_ID = bytes(range(32))  # a random number of the machine's last boot
_MIC_AT = 72  # 2.2.1.3: where the MIC stands in an AUTHENTICATE message
_SIGNING = 0x0001000C  # INTEGRITY, REPLAY_DETECT, SEQUENCE_DETECT


class _NtlmClient(_Mechanism):
    package = NTLM

    def __init__(self, context: _FakeContext, signs: bool = False) -> None:
        self._context = context
        self._negotiate = b""
        # Inside SPNEGO it signs, asked to or not: the mechListMIC needs the key.
        self._signs = signs or context.request & _SIGNING

    def step(self, token: "Optional[bytes]") -> bytes:
        if token is not None:
            return self._authenticate(token)
        flags = _NTLM_OFFER
        if self._signs:
            flags |= _NTLM_SIGNING
        if self._context.request & ISC_REQ.CONFIDENTIALITY.value:
            flags |= _NTLM_SIGNING | NTLMSSP_NEGOTIATE_SEAL
        self._negotiate = _NTLMSSP + _le(1) + _le(flags) + bytes(16) + _NTLM_VERSION
        return self._negotiate

    def _authenticate(self, challenge: bytes) -> bytes:
        """Answer a CHALLENGE_MESSAGE: 3.1.5.1.2."""
        _ntlm_expect(challenge, 2, 32)
        _ntlm_field(challenge, 12)  # the target name must be in there
        flags = self._agree(challenge)
        pairs, stamp = self._answer_pairs(challenge)
        login: "Any" = self._context.credential.login
        key = _ntowf_v2(login.User, login.Domain, login.Password)
        ours = _random(8)
        response, exported = _ntlm_v2_response(
            key, challenge[24:32], ours, stamp or _file_time(), _av_bytes(pairs)
        )
        lm = bytes(24) if stamp else _hmac_md5(key, challenge[24:32], ours) + ours
        wrapped = b""
        if flags & NTLMSSP_NEGOTIATE_KEY_EXCH:
            base, exported = exported, _random(16)
            wrapped = _RC4(base).process(exported)
        texts = [_ntlm_text(t, flags) for t in (login.Domain, login.User, "FAKE")]
        message = _ntlm_pack([lm, response, *texts, wrapped], flags)
        if stamp is not None:
            mic = _hmac_md5(exported, self._negotiate, challenge, message)
            message = message[:_MIC_AT] + mic + message[_MIC_AT + 16 :]
        self.session = _NtlmSession(exported, flags, client=True)
        self.granted = _ntlm_granted(self._context.request, flags)
        self.complete = True
        return message

    def _agree(self, challenge: bytes) -> int:
        offered = _from_le(self._negotiate[12:16]) | NTLMSSP_NEGOTIATE_TARGET_INFO
        flags = _from_le(challenge[20:24]) & offered & ~NTLMSSP_NEGOTIATE_LM_KEY
        if not flags & _NTLM_TEXTS:
            raise ValueError("the server speaks neither Unicode nor OEM")
        if flags & NTLMSSP_NEGOTIATE_UNICODE:
            flags &= ~NTLMSSP_NEGOTIATE_OEM
        if not flags & _NTLM_PROTECTED:
            return flags & ~NTLMSSP_NEGOTIATE_KEY_EXCH
        if not flags & NTLMSSP_NEGOTIATE_128:
            # Windows' default policy (NTLMMinClientSec) wants 128 bits for session
            # security, and 3.1.5.1.2 names this status.
            raise SspiError(SEC_E_UNSUPPORTED_FUNCTION, _ISC)
        return flags

    def _answer_pairs(
        self, challenge: bytes
    ) -> "Tuple[Dict[int, bytes], Optional[bytes]]":
        """Return the pairs to send back, and the server's time if it told it."""
        told = _from_le(challenge[20:24]) & NTLMSSP_NEGOTIATE_TARGET_INFO
        _ntlm_expect(challenge, 2, 48 if told else 32)
        pairs = _av_pairs(_ntlm_field(challenge, 40) if told else b"")
        stamp = pairs.get(_AV_TIMESTAMP)
        if stamp is not None:
            given = _from_le(pairs.get(_AV_FLAGS, bytes(4)))
            pairs[_AV_FLAGS] = _le(given | _AV_FLAG_MIC)
        # 2.2.2.2, Single_Host_Data: its length, four zeros, nothing more, a machine.
        pairs[_AV_SINGLE_HOST] = _le(48) + bytes(12) + _MACHINE_ID
        pairs[_AV_TARGET_NAME] = _utf16(self._context.target)
        pairs[_AV_CHANNEL_BINDINGS] = _bindings_hash(self._context.bindings)
        return pairs, stamp


class _NtlmServer(_Mechanism):
    package = NTLM

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._negotiate = self._challenge = b""
        if not server.ntlm:  # 3.2.5.1.1: STATUS_NOT_SUPPORTED
            raise SspiError(SEC_E_UNSUPPORTED_FUNCTION, _ASC)

    def step(self, token: bytes) -> "Optional[bytes]":
        if not self._challenge:
            return self._answer_negotiate(token)
        self._check_authenticate(token)
        return None

    def _answer_negotiate(self, negotiate: bytes) -> bytes:
        _ntlm_expect(negotiate, 1, 16)
        asked = _from_le(negotiate[12:16])
        if not asked & _NTLM_TEXTS:
            raise ValueError("the client speaks neither Unicode nor OEM")
        if self._server.require_128 and not asked & NTLMSSP_NEGOTIATE_128:
            raise SspiError(SEC_E_UNSUPPORTED_FUNCTION, _ASC)  # 3.2.5.1.1
        allowed = _NTLM_OFFER | _NTLM_PROTECTED | NTLMSSP_NEGOTIATE_KEY_EXCH
        flags = asked & allowed & ~NTLMSSP_NEGOTIATE_OEM
        # curl offers OEM alone, and Windows goes on in Unicode.
        flags |= NTLMSSP_NEGOTIATE_UNICODE | NTLMSSP_NEGOTIATE_TARGET_INFO
        flags |= NTLMSSP_TARGET_TYPE_DOMAIN
        name, dns = self._server.domain.name, self._server.domain.dns_name
        info = _av_bytes({
            _AV_NB_DOMAIN: _utf16(name),
            _AV_NB_COMPUTER: _utf16("SERVER"),
            _AV_DNS_DOMAIN: _utf16(dns),
            _AV_DNS_COMPUTER: _utf16(f"server.{dns}"),
            _AV_TIMESTAMP: _file_time(),
        })  # fmt: skip
        target = _utf16(name)
        self._negotiate = negotiate
        self._challenge = (
            _NTLMSSP + _le(2) + _ntlm_header(len(target), 56) + _le(flags)
            + _random(8) + bytes(8) + _ntlm_header(len(info), 56 + len(target))
            + _NTLM_VERSION + target + info
        )  # fmt: skip
        return self._challenge

    def _check_authenticate(self, message: bytes) -> None:
        """Take an AUTHENTICATE_MESSAGE or refuse it: 3.2.5.1.2."""
        _ntlm_expect(message, 3, 64)
        response, wrapped = _ntlm_field(message, 20), _ntlm_field(message, 52)
        flags, people = _from_le(message[60:64]), self._server.domain
        domain, user = (
            _ntlm_read(_ntlm_field(message, at), flags) for at in (28, 36)
        )
        name = people.find(user, domain)
        if name is None or len(response) < 44:  # shorter is NTLMv1 or anonymous
            raise SspiError(SEC_E_LOGON_DENIED, _ASC)
        key = _ntowf_v2(user, domain, people.users[name])
        proof, blob = response[:16], response[16:]
        if _hmac_md5(key, self._challenge[24:32], blob) != proof:
            raise SspiError(SEC_E_LOGON_DENIED, _ASC)
        exported = _hmac_md5(key, proof)
        if flags & NTLMSSP_NEGOTIATE_KEY_EXCH and flags & _NTLM_PROTECTED:
            if len(wrapped) != 16:
                raise ValueError("the wrapped session key is not 16 bytes")
            exported = _RC4(exported).process(wrapped)
        pairs = _av_pairs(blob[28:])
        self._check_mic(message, pairs, exported)
        self._check_bindings(pairs)
        self.granted = _ntlm_granted(_SIGNING, flags)
        _check_demands(self._server, self.granted)
        target = pairs.get(_AV_TARGET_NAME, b"")
        self.user, self.target = name, target.decode("utf-16-le", "surrogatepass")
        self.session = _NtlmSession(exported, flags, client=False)
        self.complete = True

    def _check_mic(self, message: bytes, pairs: "Dict[int, bytes]", key: bytes) -> None:
        if _from_le(pairs.get(_AV_FLAGS, b"")) & _AV_FLAG_MIC:
            bare = message[:_MIC_AT] + bytes(16) + message[_MIC_AT + 16 :]
            expected = _hmac_md5(key, self._negotiate, self._challenge, bare)
            if message[_MIC_AT : _MIC_AT + 16] != expected:
                raise SspiError(SEC_E_MESSAGE_ALTERED, _ASC)
            self.announces_mic = True

    def _check_bindings(self, pairs: "Dict[int, bytes]") -> None:
        if self._server.channel_bindings is not None:
            given = pairs.get(_AV_CHANNEL_BINDINGS, bytes(16))
            if given != _bindings_hash(self._server.channel_bindings):
                raise SspiError(SEC_E_BAD_BINDINGS, _ASC)


class _NtlmSession(_Session):
    """Signing and sealing in both directions: 3.4."""

    tells_quality = False

    def __init__(self, key: bytes, flags: int, client: bool) -> None:
        self.key = key
        self.extended = bool(flags & NTLMSSP_NEGOTIATE_EXTENDED_SESSIONSECURITY)
        self.signs = bool(flags & NTLMSSP_NEGOTIATE_SIGN)
        self._protects = bool(flags & _NTLM_PROTECTED)
        if self.extended:
            ways = ("client-to-server", "server-to-client")
            ours, theirs = ways if client else reversed(ways)
            self._out = _NtlmStream(key, flags, ours)
            self._in = _NtlmStream(key, flags, theirs)
        else:  # one stream and one number serve both directions, as in Samba
            self._out = self._in = _NtlmOldStream(key, flags)

    def sign(self, data: bytes) -> bytes:
        # Without SIGN Windows makes a dummy, with SEAL alone too: Wine's
        # test_Signature, and what pyspnego's authors saw.
        return self._out.signature(data) if self.signs else _le(1) + bytes(12)

    def verify(self, data: bytes, signature: bytes) -> None:
        if self.signs:
            self._in.check(data, signature)
        elif signature != self.sign(data):
            raise SspiError(SEC_E_MESSAGE_ALTERED, "VerifySignature")

    def trailer(self, blob: bytes) -> int:
        return min(16, len(blob))

    def seal(
        self, text: bytes, encrypt: bool, signed: "Callable[[bytes], bytes]" = bytes
    ) -> "Tuple[bytes, bytes]":
        # *encrypt* changes nothing: a receiver of NTLM cannot tell, and pyspnego's
        # tests on Windows and gss-ntlmssp#77 see the text sealed all the same. Where
        # SIGN alone was negotiated we do as Samba and Wine; Windows not verified.
        self._check_protected("EncryptMessage")
        ciphertext = self._out.rc4.process(text)
        return self.sign(signed(text)), ciphertext

    def unseal(
        self, token: bytes, text: bytes, signed: "Callable[[bytes], bytes]" = bytes
    ) -> "Tuple[bytes, bool]":
        self._check_protected("DecryptMessage")
        before = self._in.rc4.copy()
        data = self._in.rc4.process(text)
        try:
            self.verify(signed(data), token)
        except SspiError:
            self._in.rc4 = before
            raise
        return data, True

    def _check_protected(self, function: str) -> None:
        if not self._protects:  # Wine's tests: Vista and later
            raise SspiError(SEC_E_UNSUPPORTED_FUNCTION, function)

    def mech_list_mic(self, mech_types: bytes) -> bytes:
        """Sign for SPNEGO; the RC4 state is as before, the number is not.

        Source: MS-SPNG 3.3.5.1.
        """
        before = self._out.rc4.copy()
        mic = self.sign(mech_types)
        self._out.rc4 = before
        return mic

    def check_mech_list_mic(self, mech_types: bytes, mic: bytes) -> None:
        before = self._in.rc4.copy()
        self.verify(mech_types, mic)
        self._in.rc4 = before


class _NtlmStream:
    """One direction: its keys (3.4.5), its RC4 state, its sequence number."""

    def __init__(self, key: bytes, flags: int, way: str) -> None:
        def derive(part: bytes, purpose: str) -> bytes:
            magic = f"session key to {way} {purpose} key magic constant\0"
            return _md5(part + magic.encode())

        strength = 16 if flags & NTLMSSP_NEGOTIATE_128 else 7
        if not flags & (NTLMSSP_NEGOTIATE_128 | NTLMSSP_NEGOTIATE_56):
            strength = 5
        self.sign_key = derive(key, "signing")
        self.seal_key = derive(key[:strength], "sealing")
        self.rc4 = _RC4(self.seal_key)
        self.sequence = 0
        self._encrypts_checksum = bool(flags & NTLMSSP_NEGOTIATE_KEY_EXCH)

    def signature(self, data: bytes) -> bytes:
        """MAC() of 3.4.4.2."""
        number = _le(self.sequence)
        checksum = _hmac_md5(self.sign_key, number, data)[:8]
        if self._encrypts_checksum:
            checksum = self.rc4.process(checksum)
        self.sequence = self.sequence + 1 & 0xFFFFFFFF
        return _le(1) + checksum + number

    def check(self, data: bytes, signature: bytes) -> None:
        """Verify and go on, or raise and stay: 3.4.4 leaves the number alone."""
        before, number = self.rc4.copy(), self.sequence
        if self.signature(data) != signature:
            self.rc4, self.sequence = before, number
            raise SspiError(self._blame(signature, number), "VerifySignature")

    def _blame(self, signature: bytes, number: int) -> int:
        out_of_turn = len(signature) == 16 and signature[12:] != _le(number)
        return SEC_E_OUT_OF_SEQUENCE if out_of_turn else SEC_E_MESSAGE_ALTERED


class _NtlmOldStream(_NtlmStream):
    """Without extended session security: one key and a CRC, 3.4.4.1."""

    def __init__(self, key: bytes, flags: int) -> None:
        super().__init__(key, flags, "")
        self.rc4 = _RC4(key)  # 3.4.5.3, without LM_KEY

    def signature(self, data: bytes) -> bytes:
        import zlib

        words = bytes(4) + _le(zlib.crc32(data)) + _le(self.sequence)
        self.sequence = self.sequence + 1 & 0xFFFFFFFF
        return _le(1) + bytes(4) + self.rc4.process(words)[4:]

    def check(self, data: bytes, signature: bytes) -> None:
        super().check(data, signature[:4] + bytes(4) + signature[8:])  # RandomPad

    def _blame(self, signature: bytes, number: int) -> int:
        return SEC_E_MESSAGE_ALTERED  # the number is encrypted


def _ntowf_v2(user: str, domain: str, password: str) -> bytes:
    """The key of NTLMv2: 3.3.2, NTOWFv2."""
    secret = _md4(_utf16(password))
    name = "".join(map(_upper, user)) + domain
    return _hmac_md5(secret, _utf16(name))


def _upper(character: str) -> str:
    """UpperCase() of 3.3.2: one UTF-16 unit for one unit, and only if it has a lower
    case that leads back. Wine and Samba leave the others alone (U+00DF, U+0131)."""
    upper = character.upper()
    single = len(upper) == 1 and character <= "\uffff"
    return upper if single and upper.lower() == character else character


def _ntlm_v2_response(
    key: bytes, theirs: bytes, ours: bytes, stamp: bytes, info: bytes
) -> "Tuple[bytes, bytes]":
    """Return (NtChallengeResponse, SessionBaseKey): 3.3.2, ComputeResponse."""
    blob = b"\1\1" + bytes(6) + stamp + ours + bytes(4) + info + bytes(4)
    proof = _hmac_md5(key, theirs, blob)
    return proof + blob, _hmac_md5(key, proof)


def _ntlm_granted(request: int, flags: int) -> int:
    # MUTUAL_AUTH is echoed, though NTLM cannot keep it: dotnet/runtime#131192, and
    # TestFlagVerification of alexbrainman/sspi. A client must not believe it.
    keep = ISC_REQ.CONNECTION | ISC_REQ.IDENTIFY | ISC_REQ.EXTENDED_ERROR
    granted = request & (keep | ISC_REQ.MUTUAL_AUTH | ISC_REQ.USE_SESSION_KEY).value
    if flags & NTLMSSP_NEGOTIATE_SIGN:
        granted |= request & _SIGNING
    if flags & NTLMSSP_NEGOTIATE_SEAL:
        granted |= ISC_RET.CONFIDENTIALITY.value
    return granted


def _ntlm_expect(message: bytes, kind: int, least: int) -> None:
    if message[:8] != _NTLMSSP or len(message) < least:
        raise ValueError("not a whole NTLM message")
    if _from_le(message[8:12]) != kind:
        raise ValueError(f"NTLM message {kind} is due")


def _ntlm_header(length: int, offset: int) -> bytes:
    return length.to_bytes(2, "little") * 2 + _le(offset)


def _ntlm_field(message: bytes, at: int) -> bytes:
    length, offset = _from_le(message[at : at + 2]), _from_le(message[at + 4 : at + 8])
    if offset + length > len(message):
        raise ValueError("an NTLM field points outside of its message")
    return message[offset : offset + length]


def _ntlm_text(text: str, flags: int) -> bytes:
    if flags & NTLMSSP_NEGOTIATE_UNICODE:
        return _utf16(text)
    return text.encode("cp437", "replace")  # OEM, as on an English Windows


def _ntlm_read(field: bytes, flags: int) -> str:
    if flags & NTLMSSP_NEGOTIATE_UNICODE:
        return field.decode("utf-16-le", "surrogatepass")
    return field.decode("cp437")


def _ntlm_pack(fields: "List[bytes]", flags: int) -> bytes:
    """Lay out an AUTHENTICATE_MESSAGE with an empty MIC: 2.2.1.3."""
    offset = _MIC_AT + 16
    headers = payload = b""
    for field in fields:
        headers += _ntlm_header(len(field), offset + len(payload))
        payload += field
    head = _NTLMSSP + _le(3) + headers + _le(flags) + _NTLM_VERSION
    return head + bytes(16) + payload


def _av_pairs(info: bytes) -> "Dict[int, bytes]":
    pairs: "Dict[int, bytes]" = {}
    at = 0
    while info:  # a message without target information has no pairs at all
        kind, length = _from_le(info[at : at + 2]), _from_le(info[at + 2 : at + 4])
        value = info[at + 4 : at + 4 + length]
        if at + 4 + length > len(info):
            raise ValueError("an AV pair points outside of its list")
        if kind == _AV_EOL:
            break
        pairs[kind] = value
        at += 4 + length
    return pairs


def _av_bytes(pairs: "Dict[int, bytes]") -> bytes:
    listed = [*pairs.items(), (_AV_EOL, b"")]
    return b"".join(
        kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value
        for kind, value in listed
    )


def _bindings_hash(bindings: "Optional[bytes]") -> bytes:
    """MD5 over a gss_channel_bindings_struct, zeros for none: 3.1.5.1.2."""
    if bindings is None:
        return bytes(16)
    return _md5(bytes(16) + _le(len(bindings)) + bindings)


_SINCE_1601 = 11644473600  # from 1601-01-01 to 1970-01-01 [s]


def _file_time() -> bytes:
    import time

    return int((time.time() + _SINCE_1601) * 10**7).to_bytes(8, "little")


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _le(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _from_le(octets: bytes) -> int:
    return int.from_bytes(octets, "little")


# -- 17. SPNEGO ----------------------------------------------------------------
# May touch: bytes only. RFC 4178, and MS-SPNG for what Windows adds.

_OID_NEGOEX = bytes.fromhex("2b06010401823702021e")  # 1.3.6.1.4.1.311.2.2.30
#: In the order in which Windows lists them (FreeRDP#8274); NEGOEX is never chosen.
_MECHANISMS = {
    _OID_MS_KERBEROS: KERBEROS,
    _OID_KERBEROS: KERBEROS,
    _OID_NEGOEX: "",
    _OID_NTLM: NTLM,
}
_ACCEPT_COMPLETED, _ACCEPT_INCOMPLETE, _REJECT, _REQUEST_MIC = 0, 1, 2, 3  # 4.2.2


class _SpnegoClient(_Mechanism):
    """The initiator. *offers*: mechanisms to offer, the preferred one first."""

    def __init__(self, offers: "List[_Mechanism]", negoex: bool) -> None:
        self._offers = offers
        self._mechanism = offers[0]
        listed = {offer.package for offer in offers}
        if negoex and KERBEROS in listed:  # captures of NTLM alone do not have it
            listed.add("")
        self._oids = [oid for oid, package in _MECHANISMS.items() if package in listed]
        self._mech_types = _der(0x30, *(_der(0x06, oid) for oid in self._oids))
        self._first_reply = True
        self._mic_due = self._mic_sent = self._mic_seen = False

    package = property(lambda self: self._mechanism.package)
    granted = property(lambda self: self._mechanism.granted)
    session = property(lambda self: self._mechanism.session)

    def step(self, token: "Optional[bytes]") -> bytes:
        if token is None:
            first = _der(0xA2, _der(0x04, self._mechanism.step(None) or b""))
            body = _der(0xA0, _der(0x30, _der(0xA0, self._mech_types), first))
            return _gss_frame(_OID_SPNEGO, body)
        state, chosen, inner, mic = _neg_token_resp(token)
        if state == _REJECT:
            # Not verified on Windows: which status it gives to a bare reject.
            raise SspiError(_kerberos_refusal(inner) or SEC_E_LOGON_DENIED, _ISC)
        response = self._answer(chosen, inner)
        self._mic_due = self._mic_due or state == _REQUEST_MIC
        # Old Windows servers repeat their token where the MIC belongs; MIT and
        # pyspnego ignore that too.
        return self._finish(state, response, b"" if mic == inner else mic)

    def _answer(self, chosen: bytes, token: bytes) -> bytes:
        """Feed the mechanism, or start the one that the server has chosen."""
        first, self._first_reply = self._first_reply, False
        package = _MECHANISMS.get(chosen, "") if chosen else self.package
        if package != self.package:
            others = [offer for offer in self._offers[1:] if offer.package == package]
            if not first or not others or token:
                raise ValueError("the server chose what was not offered")
            self._mechanism, self._mic_due = others[0], True
            return self._mechanism.step(None) or b""
        if package == KERBEROS and chosen not in (b"", self._oids[0]):
            # Windows refuses the second spelling of Kerberos: pyspnego says so.
            raise ValueError("the server chose what was not offered first")
        if self._mechanism.complete:
            if token:
                raise ValueError("a token for a mechanism that is complete")
            return b""
        if not token:
            raise ValueError("the server owes a token")
        return self._mechanism.step(token) or b""

    def _finish(self, state: "Optional[int]", response: bytes, mic: bytes) -> bytes:
        session, out = self._mechanism.session, b""
        if mic:
            if not session:
                raise ValueError("a mechListMIC before there is a key for it")
            session.check_mech_list_mic(self._mech_types, mic)
            self._mic_seen = True
        # NTLM signs the list always, as Windows does. With Kerberos a MIC that comes
        # with the completion has no answer: Windows closes then (dittofs#1582).
        asked = mic and state != _ACCEPT_COMPLETED
        wanted = self._mic_due or asked or self.package == NTLM
        if self._mechanism.complete and wanted and not self._mic_sent:
            if session and session.signs:  # RFC 4178 5: else nobody can sign
                out, self._mic_sent = session.mech_list_mic(self._mech_types), True
        if state == _ACCEPT_COMPLETED:
            unsure = self._mic_due and not self._mic_seen and session and session.signs
            if response or unsure or not self._mechanism.complete:
                raise ValueError("the server ended the negotiation too early")
            self.complete = True
        if not response and not out:
            return b""
        return _neg_token_resp_bytes(_ACCEPT_INCOMPLETE, b"", response, out)


class _SpnegoServer(_Mechanism):
    """The acceptor: Kerberos where its domain has any service, and NTLM."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._mechanism: "Any" = None
        self._mech_types = b""
        self._mic_due = self._mic_sent = self._mic_seen = False

    user = property(lambda self: self._mechanism.user)
    package = property(lambda self: self._mechanism.package)
    target = property(lambda self: self._mechanism.target)
    session = property(lambda self: self._mechanism.session)

    def step(self, token: bytes) -> "Optional[bytes]":
        try:
            if self._mechanism is None:
                return self._begin(token)
            _, _, response, mic = _neg_token_resp(token)
            return self._advance(response, mic, b"")
        except SspiError as refused:  # its token, if any, is a KRB-ERROR
            refused.token = _neg_token_resp_bytes(_REJECT, b"", refused.token, b"")
            raise

    def _begin(self, token: bytes) -> "Optional[bytes]":
        self._mech_types, oids, optimistic = _neg_token_init(token)
        usable = [oid for oid in oids if self._supports(oid)]
        if not usable:
            raise SspiError(SEC_E_INVALID_TOKEN, _ASC)
        chosen = usable[0]
        make = _NtlmServer if chosen == _OID_NTLM else _KerberosServer
        self._mechanism = make(self._server)
        if _MECHANISMS.get(oids[0]) == self._mechanism.package and optimistic:
            return self._advance(optimistic, b"", chosen)
        self._mic_due = True
        return _neg_token_resp_bytes(_REQUEST_MIC, chosen, b"", b"")

    def _supports(self, oid: bytes) -> bool:
        package = _MECHANISMS.get(oid)
        if package == NTLM:
            return self._server.ntlm
        return package == KERBEROS and bool(self._server.domain.services)

    def _advance(self, token: bytes, mic: bytes, chosen: bytes) -> "Optional[bytes]":
        mechanism, response, out = self._mechanism, None, b""
        if not mechanism.complete:
            response = mechanism.step(token)
            # MS-SPNG: a MIC inside NTLM announces the one outside of it.
            self._mic_due = self._mic_due or mechanism.announces_mic
        elif token:
            raise ValueError("a token for a mechanism that is complete")
        if mechanism.complete and not mechanism.session.signs:
            self._mic_due, mic = False, b""  # RFC 4178 5: nobody can sign
        if mic:
            if not mechanism.complete:
                raise ValueError("a mechListMIC before there is a key for it")
            mechanism.session.check_mech_list_mic(self._mech_types, mic)
            self._mic_seen = True
        if mechanism.complete and (mic or self._mic_due) and not self._mic_sent:
            out = mechanism.session.mech_list_mic(self._mech_types)
            self._mic_sent = True
        self.complete = mechanism.complete and (self._mic_seen or not self._mic_due)
        if self.complete and not (response or out or chosen or token):
            return None  # the client's MIC came alone and was the last word
        state = _ACCEPT_COMPLETED if self.complete else _ACCEPT_INCOMPLETE
        return _neg_token_resp_bytes(state, chosen, response or b"", out)


def _neg_token_init(token: bytes) -> "Tuple[bytes, List[bytes], bytes]":
    """Return (mechTypes as DER, its OIDs, mechToken) of a NegTokenInit."""
    oid, body = _gss_unframe(token)
    if oid != _OID_SPNEGO:
        raise ValueError("not SPNEGO")
    fields = _Fields(_der_items(_der_only(_der_only(body, 0xA0), 0x30)))
    mech_types = fields.get(0xA0, b"")
    listed = _der_items(_der_only(mech_types, 0x30))
    oids = [content for tag, content in listed if tag == 0x06]
    if not oids:
        raise ValueError("no mechanism is offered")
    optimistic = _der_only(fields[0xA2], 0x04) if 0xA2 in fields else b""
    return mech_types, oids, optimistic


def _neg_token_resp(token: bytes) -> "Tuple[Optional[int], bytes, bytes, bytes]":
    """Return (negState, supportedMech, responseToken, mechListMIC)."""
    fields = _Fields(_der_items(_der_only(_der_only(token, 0xA1), 0x30)))
    state = _der_only(fields[0xA0], 0x0A) if 0xA0 in fields else None
    if state is not None and (len(state) != 1 or state[0] > _REQUEST_MIC):
        raise ValueError("no such negState")
    chosen, response, mic = (
        _der_only(fields[tag], kind) if tag in fields else b""
        for tag, kind in ((0xA1, 0x06), (0xA2, 0x04), (0xA3, 0x04))
    )
    return state[0] if state else None, chosen, response, mic


def _neg_token_resp_bytes(
    state: int, chosen: bytes, response: bytes, mic: bytes
) -> bytes:
    fields = [_der(0xA0, _der(0x0A, bytes([state])))]
    for tag, kind, content in (
        (0xA1, 0x06, chosen), (0xA2, 0x04, response), (0xA3, 0x04, mic),
    ):  # fmt: skip
        if content:
            fields.append(_der(tag, _der(kind, content)))
    return _der(0xA1, _der(0x30, *fields))


def _gss_frame(oid: bytes, body: bytes) -> bytes:
    """The frame of a first token: RFC 2743 3.1."""
    return _der(0x60, _der(0x06, oid), body)


def _gss_unframe(token: bytes) -> "Tuple[bytes, bytes]":
    content = _der_only(token, 0x60)
    tag, oid, rest = _der_split(content)
    if tag != 0x06:
        raise ValueError("a GSS token without its mechanism")
    return oid, rest


def _gss_mechanism(token: bytes) -> bytes:
    return _gss_unframe(token)[0] if token[:1] == b"\x60" else b""


class _Fields(dict):  # type: ignore[type-arg]
    """Tagged fields; one that is missing is malformed input, not a KeyError, and
    so is one that comes twice."""

    def __init__(self, items: "Iterator[Tuple[int, bytes]]") -> None:
        super().__init__()
        for tag, content in items:
            if tag in self:
                raise ValueError(f"field 0x{tag:02X} comes twice")
            self[tag] = content

    def __missing__(self, tag: int) -> bytes:
        raise ValueError(f"field 0x{tag:02X} is missing")


def _der(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


# -- 18. The stand-in Kerberos -------------------------------------------------
# May touch: bytes only. Frames and legs are those of RFC 4120 and RFC 4121; the
# cryptography is NOT Kerberos: encryption type -128 (RFC 3961: negative numbers
# are for local use) is ours, and only FakeServer understands it.

_MUTUAL_AUTH, _DCE = ISC_RET.MUTUAL_AUTH.value, ISC_RET.USED_DCE_STYLE.value
#: error-code of a KRB-ERROR (RFC 4120 7.5.9) -> what Windows says. 41 is known from
#: many threads about doubled SPNs; the others follow their meaning, not verified.
_KRB_ERRORS = {
    7: SEC_E_TARGET_UNKNOWN, 32: SEC_E_CONTEXT_EXPIRED, 35: SEC_E_WRONG_PRINCIPAL,
    37: SEC_E_TIME_SKEW, 41: SEC_E_WRONG_PRINCIPAL,
}  # fmt: skip


class _KerberosClient(_Mechanism):
    package = KERBEROS

    def __init__(self, context: _FakeContext) -> None:
        self._context = context
        refused = ISC_REQ.DELEGATE | ISC_REQ.ALLOCATE_MEMORY
        if context.request & ISC_REQ.NO_INTEGRITY.value:
            refused |= ISC_REQ.CONFIDENTIALITY | ISC_REQ(_SIGNING)
        self.granted = context.request & ~refused.value
        self._key = b""

    def step(self, token: "Optional[bytes]") -> bytes:
        if token is None:
            return self._request()
        _check_ap_rep(token, self.granted & _DCE, self._key, b"server")
        self._finish()
        return _kerberos_ap_rep(self._key, b"client") if self.granted & _DCE else b""

    def _request(self) -> bytes:
        """Ask the "controller" for a ticket and present it."""
        fake, login = self._context.fake, self._context.credential.login
        if login is None or not fake.controller:
            raise SspiError(_NO_CONTROLLER, _ISC)
        service_key = fake.domain.service_key(self._context.target)
        name = fake.domain.find(login.User, login.Domain)
        if service_key is None:
            raise SspiError(SEC_E_TARGET_UNKNOWN, _ISC)
        if name is None or fake.domain.users[name] != login.Password:
            raise SspiError(SEC_E_LOGON_DENIED, _ISC)
        self._key = _random(16)
        mutual = self.granted & (_MUTUAL_AUTH | _DCE)
        if not mutual:
            self._finish()
        target = self._context.target.partition("@")[0]
        ticket = _der(0x61, _der(0x30, _der(0xA0, _der_int(5)),
            *_kerberos_names(0xA1, fake.domain, target),
            _der(0xA3, _encrypted(service_key, self._key + _utf8(name))),
        ))  # fmt: skip
        # RFC 4121 4.1.1: the checksum of an authenticator is Lgth, Bnd, Flags.
        checksum = _le(16) + _bindings_hash(self._context.bindings) + _le(self.granted)
        options = bytes([0, 0x20 if mutual else 0, 0, 0, 0])  # bit 2: mutual-required
        request = _kerberos_message(
            0x6E, 14, _der(0xA2, _der(0x03, options)), _der(0xA3, ticket),
            _der(0xA4, _encrypted(self._key, checksum)),
        )  # fmt: skip
        if self.granted & _DCE:
            return request  # RFC 4757 7.3: DCE style has no GSS frame
        return _gss_frame(_OID_KERBEROS, b"\1\0" + request)

    def _finish(self) -> None:
        self.session = _KerberosSession(self._key, True, self.granted)
        self.complete = True


class _KerberosServer(_Mechanism):
    package = KERBEROS

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._framed = True

    def step(self, token: bytes) -> "Optional[bytes]":
        if self.session:  # the third leg of DCE style
            _check_ap_rep(token, _DCE, self.session.key, b"client")
            self.complete = True
            return None
        self._framed = token[:1] == b"\x60"
        self._open(_kerberos_unframe(token, b"\1\0") if self._framed else token)
        self.complete = self._framed
        if not self.session or not self.granted & (_MUTUAL_AUTH | _DCE):
            return None
        reply = _kerberos_ap_rep(self.session.key, b"server")
        return _gss_frame(_OID_KERBEROS, b"\2\0" + reply) if self._framed else reply

    def _open(self, request: bytes) -> None:
        """Open an AP-REQ and check what it says."""
        fields = _kerberos_fields(request, 0x6E, 14)
        ticket = _Fields(_der_items(_der_only(_der_only(fields[0xA3], 0x61), 0x30)))
        sname = _Fields(_der_items(_der_only(ticket[0xA2], 0x30)))
        parts = [part for _, part in _der_items(_der_only(sname[0xA1], 0x30))]
        target = b"/".join(parts).decode("utf-8", "surrogatepass")
        key = self._server.domain.service_key(target)
        if key is None:
            raise self._refusal(SEC_E_WRONG_PRINCIPAL, 35, target)
        try:
            secret = _decrypted(key, ticket[0xA3])
            checksum = _decrypted(secret[:16], fields[0xA4])
        except SspiError:
            raise self._refusal(SEC_E_MESSAGE_ALTERED, 41, target) from None
        if len(checksum) != 24:
            raise ValueError("an authenticator without its checksum")
        if abs(self._server.clock_ahead) > 300:  # RFC 4120 3.2.3: five minutes
            raise self._refusal(SEC_E_TIME_SKEW, 37, target)
        bindings, granted = self._server.channel_bindings, _from_le(checksum[20:])
        if bindings is not None and checksum[4:20] != _bindings_hash(bindings):
            raise SspiError(SEC_E_BAD_BINDINGS, _ASC)
        if self._framed == bool(granted & _DCE):
            raise ValueError("DCE style on one side only")
        _check_demands(self._server, granted)
        self.session = _KerberosSession(secret[:16], False, granted)
        self.granted, self.target = granted, target
        self.user = secret[16:].decode("utf-8", "surrogatepass")

    def _refusal(self, status: int, code: int, target: str) -> SspiError:
        """Build an error with the KRB-ERROR for it: RFC 4120 5.9.1."""
        error = _kerberos_message(0x7E, 30,
            _der(0xA4, _der(0x18, b"19700101000000Z")), _der(0xA5, _der_int(0)),
            _der(0xA6, _der_int(code)),
            *_kerberos_names(0xA9, self._server.domain, target))  # fmt: skip
        return SspiError(status, _ASC, _gss_frame(_OID_KERBEROS, b"\3\0" + error))


class _KerberosSession(_Session):
    """Per-message tokens in the shape and length of RFC 4121 with AES."""

    def __init__(self, key: bytes, client: bool, granted: int = 0x10) -> None:
        self.key = key
        self._ours, self._theirs = (0, 1) if client else (1, 0)  # SentByAcceptor
        self._confidential = granted & ISC_RET.CONFIDENTIALITY.value
        self._sent = self._received = 0

    def sign(self, data: bytes) -> bytes:
        """A MIC token: 4.2.6.1, 28 bytes."""
        self._sent += 1
        return self._token(4, self._ours, b"\xff" * 4, _be8(self._sent - 1), data)

    def verify(self, data: bytes, signature: bytes) -> None:
        number = signature[8:16]
        due = self._token(4, self._theirs, b"\xff" * 4, number, data)
        self._receive(signature == due, number)

    def seal(
        self, text: bytes, encrypt: bool, signed: "Callable[[bytes], bytes]" = bytes
    ) -> "Tuple[bytes, bytes]":
        """A wrap token, 4.2.6.2, of 28 bytes; sealed, 32 more, which stand for the
        confounder and the encrypted header. The text stays in one piece."""
        if encrypt and not self._confidential:  # winkerberos' test_confidentiality
            raise SspiError(SEC_E_QOP_NOT_SUPPORTED, "EncryptMessage")
        self._sent += 1
        nonce = _random(32) if encrypt else b""
        token = self._wrapped(self._ours, nonce, _be8(self._sent - 1), signed(text))
        return token, _mask(self.key + token[16:], text) if encrypt else text

    def unseal(
        self, token: bytes, text: bytes, signed: "Callable[[bytes], bytes]" = bytes
    ) -> "Tuple[bytes, bool]":
        encrypted, number = len(token) == 60, token[8:16]
        plain = _mask(self.key + token[16:], text) if encrypted else text
        due = self._wrapped(self._theirs, token[28:], number, signed(plain))
        self._receive(token == due, number)
        return plain, encrypted

    def trailer(self, blob: bytes) -> int:
        return min(60 if blob[2:3] and blob[2] & 2 else 28, len(blob))

    def _wrapped(self, sender: int, nonce: bytes, number: bytes, data: bytes) -> bytes:
        sealed = len(nonce) == 32
        sizes = b"\0\0\0\x1c" if sealed else b"\0\x0c\0\x0c"  # EC and RRC
        sender |= 2 if sealed else 0
        return self._token(5, sender, sizes, number, nonce + data) + nonce

    def _token(
        self, kind: int, flags: int, sizes: bytes, number: bytes, data: bytes
    ) -> bytes:
        header = bytes([kind, 4, flags, 0xFF]) + sizes + number
        return header + _hmac_md5(self.key, data, header)[:12]

    def _receive(self, intact: bool, number: bytes) -> None:
        if not intact:
            raise SspiError(SEC_E_MESSAGE_ALTERED, "DecryptMessage")
        if int.from_bytes(number, "big") != self._received:
            raise SspiError(SEC_E_OUT_OF_SEQUENCE, "DecryptMessage")
        self._received += 1


def _kerberos_message(tag: int, kind: int, *fields: bytes) -> bytes:
    head = _der(0xA0, _der_int(5)), _der(0xA1, _der_int(kind))
    return _der(tag, _der(0x30, *head, *fields))


def _kerberos_fields(message: bytes, tag: int, kind: int) -> "Dict[int, bytes]":
    """Return the fields of an AP-REQ (14), AP-REP (15) or KRB-ERROR (30) by tag."""
    fields = _Fields(_der_items(_der_only(_der_only(message, tag), 0x30)))
    if fields[0xA0] != _der_int(5) or fields[0xA1] != _der_int(kind):
        raise ValueError("not version 5 of Kerberos, or another message")
    return fields


def _kerberos_names(tag: int, domain: FakeDomain, target: str) -> "List[bytes]":
    """Return a realm and the name of a service (NT-SRV-INST) under the next tag."""
    parts = [_der(0x1B, _utf8(part)) for part in target.split("/", 1)]
    name = _der(0x30, _der(0xA0, _der_int(2)), _der(0xA1, _der(0x30, *parts)))
    return [
        _der(tag, _der(0x1B, _utf8(domain.dns_name.upper()))), _der(tag + 1, name),
    ]  # fmt: skip


def _kerberos_ap_rep(key: bytes, who: bytes) -> bytes:
    return _kerberos_message(0x6F, 15, _der(0xA2, _encrypted(key, who)))


def _check_ap_rep(reply: bytes, dce: int, key: bytes, who: bytes) -> None:
    refused = _kerberos_refusal(reply)
    if refused:
        raise SspiError(refused, _ISC)
    message = reply if dce else _kerberos_unframe(reply, b"\2\0")
    if _decrypted(key, _kerberos_fields(message, 0x6F, 15)[0xA2]) != who:
        raise SspiError(SEC_E_MUTUAL_AUTH_FAILED, _ISC)


def _kerberos_refusal(token: bytes) -> int:
    """Return the status of a KRB-ERROR in its frame, 0 if the token is none."""
    try:
        error = _kerberos_unframe(token, b"\3\0")
        code = _der_only(_kerberos_fields(error, 0x7E, 30)[0xA6], 0x02)
    except ValueError:
        return 0
    number = int.from_bytes(code, "big", signed=True)
    return _KRB_ERRORS.get(number, SEC_E_LOGON_DENIED)


def _kerberos_unframe(token: bytes, kind: bytes) -> bytes:
    oid, body = _gss_unframe(token)
    if oid != _OID_KERBEROS or body[:2] != kind:
        raise ValueError("another Kerberos token is due")
    return body[2:]


def _encrypted(key: bytes, data: bytes) -> bytes:
    """EncryptedData (RFC 4120 5.2.9) of our own making: nonce, text, HMAC."""
    nonce = _random(16)
    cipher = nonce + _mask(key + nonce, data) + _hmac_md5(key, nonce, data)[:12]
    return _der(0x30, _der(0xA0, _der_int(-128)), _der(0xA2, _der(0x04, cipher)))


def _decrypted(key: bytes, field: bytes) -> bytes:
    fields = _Fields(_der_items(_der_only(field, 0x30)))
    cipher = _der_only(fields[0xA2], 0x04)
    if fields[0xA0] != _der_int(-128) or len(cipher) < 28:
        raise ValueError("encrypted with something else")
    nonce, text, tag = cipher[:16], cipher[16:-12], cipher[-12:]
    data = _mask(key + nonce, text)
    if _hmac_md5(key, nonce, data)[:12] != tag:
        raise SspiError(SEC_E_MESSAGE_ALTERED, _ASC)
    return data


def _der_int(number: int) -> bytes:
    return _der(0x02, number.to_bytes(1, "big", signed=True))


def _be8(number: int) -> bytes:
    return number.to_bytes(8, "big")


# -- 19. MD4 and RC4 -----------------------------------------------------------
# May touch: bytes only. What NTLM needs and hashlib may lack: OpenSSL 3 keeps
# MD4 in its legacy provider, and RC4 never was in the standard library.


def _md4(message: bytes) -> bytes:
    """RFC 1320."""
    state = [0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476]
    padded = message + b"\x80" + bytes(-(len(message) + 9) % 64)
    padded += (8 * len(message)).to_bytes(8, "little")
    for start in range(0, len(padded), 64):
        block = [_from_le(padded[i : i + 4]) for i in range(start, start + 64, 4)]
        state = [
            total + part & 0xFFFFFFFF
            for total, part in zip(state, _md4_block(block, *state))
        ]
    return b"".join(_le(word) for word in state)


#: The shifts of each round, its constant, and the order of its words.
_MD4_ROUNDS = (
    ((3, 7, 11, 19), 0, tuple(range(16))),
    ((3, 5, 9, 13), 0x5A827999, tuple(n % 4 * 4 + n // 4 for n in range(16))),
    ((3, 9, 11, 15), 0x6ED9EBA1, tuple(int(f"{n:04b}"[::-1], 2) for n in range(16))),
)


def _md4_block(
    block: "List[int]", a: int, b: int, c: int, d: int
) -> "Tuple[int, int, int, int]":
    for number, (shifts, constant, order) in enumerate(_MD4_ROUNDS):
        for step, place in enumerate(order):
            mixed = (b & c | ~b & d, b & c | b & d | c & d, b ^ c ^ d)[number]
            word = a + mixed + block[place] + constant & 0xFFFFFFFF
            shift = shifts[step % 4]
            a, b, c, d = d, (word << shift | word >> 32 - shift) & 0xFFFFFFFF, b, c
    return a, b, c, d


class _RC4:
    """A key stream that goes on from call to call."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._state: "List[int]" = []  # made when it is needed: half of a handshake
        self._i = self._j = 0

    def copy(self) -> "_RC4":
        twin = _RC4(self._key)
        twin._state, twin._i, twin._j = self._state[:], self._i, self._j
        return twin

    def _schedule(self) -> "List[int]":
        state, j = list(range(256)), 0
        for i, octet in enumerate((self._key * (256 // len(self._key) + 1))[:256]):
            x = state[i]
            j = (j + x + octet) & 0xFF
            state[i], state[j] = state[j], x
        return state

    def process(self, data: bytes) -> bytes:
        """Encrypt or decrypt, which is the same. Takes about 0.1 us per byte."""
        state = self._state = self._state or self._schedule()
        i, j = self._i, self._j
        out = bytearray(len(data))
        for place, byte in enumerate(data):
            i = (i + 1) & 0xFF
            x = state[i]
            j = (j + x) & 0xFF
            y = state[i] = state[j]
            state[j] = x
            out[place] = byte ^ state[(x + y) & 0xFF]
        self._i, self._j = i, j
        return bytes(out)


def _md5(data: bytes) -> bytes:
    import hashlib  # not at the top: it would double the time that importing takes

    return hashlib.md5(data).digest()


def _hmac_md5(key: bytes, *parts: bytes) -> bytes:
    import hmac

    return hmac.new(key, b"".join(parts), "md5").digest()


def _mask(key: bytes, data: bytes) -> bytes:
    """XOR with a stream of SHAKE-256: the stand-in's cipher, fast without C."""
    import hashlib

    stream = int.from_bytes(hashlib.shake_256(key).digest(len(data)), "big")
    return (int.from_bytes(data, "big") ^ stream).to_bytes(len(data), "big")


def _random(length: int) -> bytes:
    import os

    return os.urandom(length)
