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
    Challenges = Union[None, str, List[str], Tuple[str, ...]]
    HttpFlow = Generator[str, Tuple[int, Challenges], Optional["Context"]]
    HttpStep = Tuple["Token", Optional["Context"]]
    T = TypeVar("T")
    Out, In = TypeVar("Out"), TypeVar("In")  # of a flow: what it yields and accepts

__version__ = "0.1.0"
__all__ = [
    "DEFAULT_FLAGS", "ISC_REQ", "ISC_RET", "KERBEROS", "NEGOTIATE", "NTLM",
    "Context", "Credential", "Identity", "Message", "Package", "SspiError", "Token",
    "authenticate", "drive", "http_authenticate", "main", "mechanism", "packages",
    "spn", "tls_server_end_point",
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


def drive(flow: "Generator[Out, In, T]", exchange: "Callable[[Out], In]") -> "T":
    """Run a fresh *flow* to its end with *exchange* and return what it returns: the
    Context, or None if a flow for HTTP ends without one.

    exchange(token) sends the token and returns the peer's answer, or None if
    there was none; after a token that is final it need not wait for one. For HTTP
    it sends a header, and returns (status, challenges).

    Raises: what the flow raises, and what *exchange* raises, after closing the
        flow; RuntimeError for a flow that has ended before.
    """
    _expect("exchange", exchange, "callable", callable(exchange))
    _expect("flow", flow, "a generator", hasattr(flow, "send"))
    if getattr(flow, "gi_frame", flow) is None:
        raise RuntimeError("this flow has ended before")
    reply: Any = None
    try:
        while True:
            try:
                held = [flow.send(reply)]
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            reply = exchange(held.pop())  # if it raises, our frame holds no token
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
        return ISC_RET(self._granted())

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


# -- HTTP ----------------------------------------------------------------------
# May touch: str and bytes. RFC 4559 without a socket, a user of the log-on: it calls
# up. What it reads comes from the network: not trusted.


def http_authenticate(
    host: str, status: int, challenges: "Challenges",
    identity: "Optional[Identity]" = None, *, target: "Optional[str]" = None,
    package: "Optional[str]" = None, certificate: "Optional[Buffer]" = None,
    flags: int = DEFAULT_FLAGS, require: int = 0, allow_ntlm: bool = True,
    credential: "Optional[Credential]" = None, secur32: "Any" = None,
) -> "HttpFlow":  # fmt: skip
    """Log on to the HTTP server, or proxy, that answered *status*: 401, or 407.

    *challenges*: the values of WWW-Authenticate, or Proxy-Authenticate. The SPN is
    *target*, else HTTP/*host*. *package* None: Negotiate if offered, else NTLM.
    *certificate* [DER] is the server's, on the connection that all legs must use.
    *credential* stands for *identity*. The rest is as in authenticate().

    Yields: the value of the next Authorization, or Proxy-Authorization [str].
    Accepts: (status, challenges) of the answer to it.
    Returns: the Context, as StopIteration.value; None if no logon of ours is asked
        for, or if we are let in before the handshake is through.
    Owns, Blocks, Raises: as authenticate(). SEC_E_LOGON_DENIED: we are refused.
        SEC_E_MUTUAL_AUTH_FAILED: let in, with *require* unproven.
        SEC_E_SECURITY_QOS_FAILED: only NTLM is offered, and is ruled out.
    """
    status, values = _http_answer((status, challenges))
    _check_credential(identity, NEGOTIATE if package is None else package, allow_ntlm)
    _check_bits("require", require)
    _expect("host", host, "str", isinstance(host, str))
    target = _http_spn(host) if target is None else target
    bindings = None if certificate is None else tls_server_end_point(certificate)
    if credential is not None:
        _check_shared(credential, identity, package, allow_ntlm, secur32)
        package, allow_ntlm = credential.package, credential._allow_ntlm
    asked = status in (401, 407)
    offered = [s for s in (NEGOTIATE, NTLM) if asked and _http_entries(values, s)]
    ntlm = allow_ntlm and not require & ISC_REQ.MUTUAL_AUTH  # which NTLM cannot do
    if package is None:
        package = NTLM if ntlm and offered == [NTLM] else NEGOTIATE
    if package.lower() not in ("negotiate", "kerberos", "ntlm"):
        raise ValueError(f"package {package}: HTTP has Negotiate, Kerberos and NTLM")
    scheme = NTLM if _is(package, NTLM) and NTLM in offered else NEGOTIATE
    options: Any = dict(flags=flags, require=require, channel_bindings=bindings)
    if credential is None:
        options.update(package=package, allow_ntlm=allow_ntlm, secur32=secur32)
        flow = authenticate(target, identity, **options)
    else:
        flow = credential.authenticate(target, **options)
    return _http_flow(flow, status, offered, require, ntlm, (scheme, package, target))


def _http_flow(
    flow: "Flow", first: int, offered: "List[str]", require: int, ntlm: bool,
    names: "Tuple[str, str, str]",
) -> "HttpFlow":  # fmt: skip
    import base64

    leg, context, (scheme, package, target) = 0, None, names
    try:
        if scheme not in offered:
            if offered:
                raise SspiError(SEC_E_SECURITY_QOS_FAILED, _HTTP, hint=_ONLY_NTLM)
            if require and first not in (401, 407):
                raise SspiError(SEC_E_MUTUAL_AUTH_FAILED, _HTTP, hint=_UNPROVEN)
            return None
        token, context = _http_step(flow, None)
        sent = token
        while context is None and leg < _HTTP_LEGS:
            leg, sent = leg + 1, token
            answer = yield f"{scheme} {base64.b64encode(token).decode()}".rstrip()
            status, values = _http_answer(answer)
            reply = b"" if token.final else _http_token(values, scheme)
            if reply:
                token, context = _http_step(flow, reply)
            if status != first:  # we are let in
                if context is None and token.final:  # nobody is left to send it to
                    _, context = _http_step(flow, None)
                if require and context is None:
                    raise SspiError(SEC_E_MUTUAL_AUTH_FAILED, _HTTP, hint=_UNPROVEN)
                return context
            if not reply:
                break
        if context is not None:
            context.close()
        raise _http_refusal(first, sent, ntlm and scheme != offered[-1])
    except SspiError as reason:
        _note(reason, package, target, leg or None)
        raise
    finally:
        flow.close()


def _http_step(flow: "Flow", reply: "Optional[bytes]") -> "HttpStep":
    """Return (token, None), or once SSPI is done (no token, the Context)."""
    try:
        return flow.send(reply), None
    except StopIteration as done:
        return Token(b"", final=True), done.value


def _http_refusal(status: int, sent: Token, ntlm_is_left: bool) -> SspiError:
    what = mechanism(sent)
    kind = next(kind for kind in _HTTP_REFUSALS if kind in what)
    hint = f"The answer to {what} was {status} again. {_HTTP_REFUSALS[kind]}"
    if ntlm_is_left and kind != "NTLM AUTHENTICATE":
        hint += " NTLM is offered as well: package=NTLM tries it."
    return SspiError(SEC_E_LOGON_DENIED, _HTTP, hint=hint)


_HTTP = "http_authenticate"
_HTTP_LEGS = 6  # NTLM takes two, Kerberos one, SPNEGO now and then one more
_ONLY_NTLM = "Only NTLM is offered, and is ruled out; package=NTLM would use it."
_UNPROVEN = "The server did not prove who it is: no logon, or none to its end."
#: What mechanism() says of our last token -> what its refusal means.
_HTTP_REFUSALS = {
    "NTLM NEGOTIATE": "It was refused before the user was seen: NTLM is switched off, "
    "or the legs did not share one connection (a proxy, a load balancer).",
    "NTLM AUTHENTICATE": "The password is wrong, the account is locked, or the server "
    "demands channel bindings (over TLS: give certificate=).",
    "Kerberos AP-REQ": "Check who holds the SPN (setspn -Q SPN), the service's keytab, "
    "the clocks, and what the user may do there.",
    "": "Check that the server speaks this package, and what it logs.",
}


def _check_shared(
    credential: Credential, identity: "Any", package: "Optional[str]",
    allow_ntlm: bool, secur32: "Any",
) -> None:  # fmt: skip
    _expect("credential", credential, "Credential", isinstance(credential, Credential))
    never = not credential._allow_ntlm or _is(credential.package, KERBEROS)
    for what, contradicts in (
        ("identity", identity is not None),
        ("package", package is not None and not _is(package, credential.package)),
        ("allow_ntlm", not (allow_ntlm or never)),
        ("secur32", secur32 not in (None, credential._shared.secur32)),
    ):
        if contradicts:
            raise ValueError(f"{what} contradicts the credential, which has its own")


def _http_spn(host: str) -> str:
    try:  # the A-label, RFC 5890
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("host is no name that IDNA can encode") from None
    name = name.lower()
    if any(c in name for c in ":[]"):  # until spn() takes an address itself
        import ipaddress

        inside = name[1:-1] if name[:1] + name[-1:] == "[]" else name
        address = inside.partition("%")[0]  # without its zone
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            expected = "a bare name, no URL and no port, or one IPv6 address"
            raise ValueError(f"host must be {expected}") from None
        return f"HTTP/{address}"
    return spn("HTTP", name[:-1] if name.endswith(".") else name)


def _http_answer(answer: "Any") -> "Tuple[int, List[str]]":
    pair = isinstance(answer, (list, tuple)) and len(answer) == 2
    _expect("the answer", answer, "(status, challenges)", pair)
    status, values = answer
    number = isinstance(status, int) and not isinstance(status, bool)
    _expect("status", status, "int", number)
    if not 100 <= status <= 999:
        raise ValueError(f"status must have three digits, not be {status}")
    values = [values or ""] if values is None or isinstance(values, str) else values
    several = isinstance(values, (list, tuple))
    _expect("challenges", values, "str, or a list or tuple of str", several)
    for value in values:
        _expect("each challenge", value, "str", isinstance(value, str))
    return status, values


def _http_token(values: "List[str]", scheme: str) -> bytes:
    import base64

    word = next(filter(None, _http_entries(values, scheme)), "")
    try:
        return base64.b64decode(word, validate=True)
    except ValueError:
        hint = "The server's token is not base64."
        raise SspiError(SEC_E_INVALID_TOKEN, _HTTP, hint=hint) from None


def _http_entries(values: "List[str]", scheme: str) -> "List[str]":
    """Return the token of each entry of *scheme*, "" where it has none."""
    entries = []
    for value in values:
        plain = value.replace("\\\\", "").replace('\\"', "")  # RFC 9110 5.6.4
        plain += '"' * (plain.count('"') % 2)  # never closed: up to the end
        for item in '""'.join(plain.split('"')[::2]).split(","):
            name, word, *_ = item.split() + ["", ""]
            if _is(name, scheme):  # an "=" inside a word is a parameter's
                bare = word.rstrip("=")
                entries.append(word if bare and "=" not in bare else "")
    return entries


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
# on any machine. It is never chosen by itself; hand it over as secur32=. Its
# NTLM and its SPNEGO are real, its Kerberos is a stand-in.

# -- 13. The fake domain and its server ----------------------------------------
# May touch: bytes only.

__all__ += ["FakeDomain", "FakeSecur32", "FakeServer"]


class FakeDomain:
    """The world: who there is, and what has a Kerberos key.

    name: "CORP", or "corp.example.com" whose first label is the short name.
    users: user name -> password. services: SPNs, as "HTTP/intranet.corp.test".
    """

    def __init__(
        self, name: str, users: "Dict[str, str]", services: "Sequence[str]" = ()
    ) -> None:
        several = hasattr(services, "__iter__")
        several &= not isinstance(services, (bytes, str))
        _expect("services", services, "a sequence of SPNs", several)
        _expect("users", users, "a dict, name -> password", isinstance(users, dict))
        _expect("name", name, "str", isinstance(name, str))
        self.services = list(services)
        for service in self.services:
            _check_target(service)
        for user, password in users.items():
            _check_kinds(user, password, "")
            if "\\" in user or "@" in user:
                raise ValueError(f"users are bare names, 'alice' and not {user!r}")
        self.name = name.partition(".")[0].upper()
        self.dns_name = name.lower() if "." in name else f"{name.lower()}.test"
        self.users = dict(users)
        self._key = _random(16)

    def find(self, user: str, domain: str) -> "Optional[str]":
        """Return the user as *users* spells it, or None. Case does not matter."""
        if not domain and "@" in user:
            user, _, domain = user.rpartition("@")
        if domain.lower() not in ("", self.name.lower(), self.dns_name):
            return None
        return next((name for name in self.users if name.lower() == user.lower()), None)

    def service_key(self, target: str) -> "Optional[bytes]":
        """Return the stand-in Kerberos key of an SPN, or None if it has none."""
        known = [service.lower() for service in self.services]
        if target.lower() not in known:
            return None
        return _hmac_md5(self._key, target.lower().encode())

    def __repr__(self) -> str:
        return f"<FakeDomain {self.name}: {len(self.users)} users>"


class FakeServer:
    """The peer: a genuine NTLM and SPNEGO acceptor, one per connection.

    It takes raw NTLM, SPNEGO, and the stand-in Kerberos. With *channel_bindings*
    (application data, as authenticate() takes it) it refuses a client that has
    others or none.
    """

    def __init__(
        self, domain: FakeDomain, channel_bindings: "Optional[bytes]" = None
    ) -> None:
        _expect("domain", domain, "FakeDomain", isinstance(domain, FakeDomain))
        _check_bindings(channel_bindings)
        self.domain = domain
        self.complete = self._over = False
        self._channel_bindings = channel_bindings
        self._mechanism: "Any" = None

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
            reply: "Optional[bytes]" = self._mechanism.step(token)
        except (ValueError, OverflowError) as problem:  # what the parsers below raise
            raise SspiError(
                SEC_E_INVALID_TOKEN, "AcceptSecurityContext", hint=f"{problem}."
            ) from None
        self.complete = self._over = self._mechanism.complete
        return reply

    def _choose(self, token: bytes) -> "Any":
        if token.startswith(_NTLMSSP):
            return _NtlmServer(self.domain, self._channel_bindings)
        if _gss_mechanism(token) == _OID_SPNEGO:
            return _SpnegoServer(self.domain, self._channel_bindings)
        return _KerberosServer(self.domain, self._channel_bindings)

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
        self._session()
        return bytes(self._mechanism.session_key)

    def _session(self) -> "Any":
        if not self.complete:
            raise RuntimeError("this FakeServer is not complete")
        return self._mechanism.session

    @property
    def user(self) -> str:
        """Who the client is, "CORP\\alice"; "" before it is complete."""
        return f"{self.domain.name}\\{self._mechanism.user}" if self.complete else ""

    @property
    def package(self) -> str:
        """NTLM or Kerberos; "" before it is complete."""
        return str(self._mechanism.package) if self.complete else ""

    @property
    def target(self) -> str:
        """The SPN that the client named; "" before it is complete."""
        return str(self._mechanism.target) if self.complete else ""


# -- 14. The fake secur32 ------------------------------------------------------
# May touch: raw memory; the only ctypes callbacks of the file are made here. It
# answers as Windows does and judges apart from that, in `crimes`.


class FakeSecur32:
    """A secur32 for `secur32=`: real C calls through the prototypes above.

    logon: the user of *domain* who is logged on to this machine; None: nobody.
    calls: the functions that were called, in order.
    crimes: what Windows would let pass or crash on: a handle or buffer freed
        twice, a foreign one, one used after its time, NULL where none may be, a
        credential freed before its contexts, bindings left out of a leg, a
        password that was not wiped.
    """

    def __init__(self, domain: FakeDomain, logon: "Optional[str]" = None) -> None:
        _expect("domain", domain, "FakeDomain", isinstance(domain, FakeDomain))
        _expect("logon", logon, "str", logon is None or isinstance(logon, str))
        user = None if logon is None else domain.find(logon, "")
        if logon is not None and user is None:
            raise ValueError(f"{domain!r} has no user {logon!r}; write 'alice'")
        self.domain, self.logon = domain, user
        self.calls: "List[str]" = []
        self.crimes: "List[str]" = []
        self._credentials: "Dict[Tuple[int, int], _FakeCredential]" = {}
        self._contexts: "Dict[Tuple[int, int], _FakeContext]" = {}
        self._buffers: "Dict[int, Any]" = {}
        self._dead: "List[Any]" = []  # the last of what is gone, kept to know it again
        self._serials = iter(range(0x5EC0, sys.maxsize))  # next() is atomic
        self._plans: "Dict[Tuple[str, int], Tuple[int, Optional[bytes]]]" = {}
        self._passwords: "Dict[int, List[Tuple[int, bytes]]]" = {}  # by thread
        for name in PROTOTYPES:
            setattr(self, name, self._trampoline(name))

    def plan(
        self, function: str, status: int, token: "Optional[bytes]" = None, call: int = 1
    ) -> None:
        """Let the *call*-th call of *function*, from now, answer *status*.

        With *token*, InitializeSecurityContextW hands it out, b"" as an empty
        buffer; without, no buffer at all. A status that is no error makes or
        keeps a context. What a planned release reports, it releases all the same. A
        plan that is never reached is not complained about: look at `calls`.
        """
        if function not in PROTOTYPES:
            raise ValueError(f"secur32 has no function {function!r}; see PROTOTYPES")
        _check_bits("status", status)
        _expect("token", token, "bytes", token is None or isinstance(token, bytes))
        _expect("call", call, "a count from 1", type(call) is int and call > 0)
        self._plans[function, self.calls.count(function) + call] = (status, token)

    def assert_clean(self) -> None:
        """Raise AssertionError if anything is alive or was misused."""
        self._check_wiped()
        alive = [
            f"{len(live)} {what} alive"
            for what, live in (
                ("credentials", self._credentials),
                ("contexts", self._contexts),
                ("buffers", self._buffers),
            )
            if live
        ]
        if alive or self.crimes:
            raise AssertionError("; ".join(alive + self.crimes))

    def _trampoline(self, name: str) -> "Any":
        restype, *argtypes = PROTOTYPES[name]
        behave = getattr(self, "_" + name)

        def entry(*arguments: "Any") -> int:
            try:
                return self._enter(name, behave, arguments)
            except BaseException as crime:  # ctypes would print it and answer 0
                # A UnicodeError holds what it could not read: perhaps a password.
                what = type(crime) if isinstance(crime, UnicodeError) else repr(crime)
                self.crimes.append(f"{name} met {what}")
                return SEC_E_INTERNAL_ERROR

        if sys.platform == "win32":
            return ctypes.WINFUNCTYPE(restype, *argtypes)(entry)
        return ctypes.CFUNCTYPE(restype, *argtypes)(entry)

    def _enter(self, name: str, behave: "Any", arguments: "Tuple[Any, ...]") -> int:
        if name != "AcquireCredentialsHandleW":  # the next identity may lie there now
            self._check_wiped()
        self.calls.append(name)
        plan = None
        if self._plans:  # counting costs, and most tests plan nothing
            plan = self._plans.pop((name, self.calls.count(name)), None)
        try:
            if name == "InitializeSecurityContextW":
                status = behave(*arguments, plan)
            elif plan is None:
                status = behave(*arguments)
            else:
                status = plan[0]
                if name in _RELEASES:
                    behave(*arguments)
        except SspiError as refused:
            return refused.status
        return SEC_E_OK if status is None else int(status)

    # Credentials

    def _AcquireCredentialsHandleW(
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
        if fCredentialUse != SECPKG_CRED_OUTBOUND:
            raise SspiError(SEC_E_UNSUPPORTED_FUNCTION, "")  # we fake clients alone
        credential = _FakeCredential(package)
        if self.logon is not None:
            password = self.domain.users[self.logon]
            credential.login = (self.logon, self.domain.name, password)
        if pAuthData:
            self._read_identity(pAuthData, credential)
        self._write_handle(phCredential, self._credentials, credential)
        self._write_expiry(ptsExpiry, _NEVER)

    def _read_identity(self, address: int, credential: "_FakeCredential") -> None:
        auth: "Any" = SEC_WINNT_AUTH_IDENTITY_EXW.from_address(address)
        if auth.Version == SEC_WINNT_AUTH_IDENTITY_VERSION:
            listed = self._read_text(auth, "PackageList")
            credential.package_list = [i.strip().lower() for i in listed.split(",")]
        else:
            auth = SEC_WINNT_AUTH_IDENTITY_W.from_address(address)
        if auth.User:
            user, domain, password = (
                self._read_text(auth, field) for field in ("User", "Domain", "Password")
            )
            credential.login = (user, domain, password)
            width = 1 if auth.Flags & SEC_WINNT_AUTH_IDENTITY_ANSI else 2
            secret = _bytes_at(auth.Password, auth.PasswordLength * width)
            marks = [(auth.Password, secret)]
            if len(secret) < 8:  # it may stand there by chance: then the name tells
                marks.append((auth.User, _bytes_at(auth.User, auth.UserLength * width)))
            self._passwords[_thread_id()] = marks if secret else []

    def _read_text(self, auth: "Any", field: str) -> str:
        address, length = getattr(auth, field), getattr(auth, field + "Length")
        kind = auth.Flags & 3
        if kind == SEC_WINNT_AUTH_IDENTITY_UNICODE:
            return _bytes_at(address, 2 * length).decode("utf-16-le", "surrogatepass")
        if kind == SEC_WINNT_AUTH_IDENTITY_ANSI:
            return _decode_ansi(_bytes_at(address, length), 0)
        raise SspiError(SEC_E_INVALID_PARAMETER, "")

    def _check_wiped(self) -> None:
        # The buffer may be freed by now; freed memory of this size stays mapped
        # in practice, and is looked at once only, at the next call.
        # By the thread that called: another's may be on its way to the wiping.
        marks = self._passwords.pop(_thread_id(), [])
        if marks and all(string_at(at, len(text)) == text for at, text in marks):
            self.crimes.append("the password was not wiped")

    def _FreeCredentialsHandle(self, phCredential: "Any") -> None:
        credential = self._find(phCredential, self._credentials, "credential")
        if any(context.credential is credential for context in self._contexts.values()):
            self.crimes.append("a credential was freed before its context")
        self._bury(self._credentials, phCredential)

    def _QueryCredentialsAttributesW(
        self, phCredential: "Any", ulAttribute: int, pBuffer: int
    ) -> None:
        credential = self._find(phCredential, self._credentials, "credential")
        if ulAttribute != SECPKG_CRED_ATTR_NAMES:
            raise SspiError(SEC_E_UNSUPPORTED_FUNCTION, "")
        self._write_text(pBuffer, credential.name())

    # Contexts

    def _InitializeSecurityContextW(
        self, phCredential: "Any", phContext: "Any", pszTargetName: "Any",
        fContextReq: int, Reserved1: int, TargetDataRep: int, pInput: "Any",
        Reserved2: int, phNewContext: "Any", pOutput: "Any", pfContextAttr: "Any",
        ptsExpiry: "Any", plan: "Optional[Tuple[int, Optional[bytes]]]",
    ) -> int:  # fmt: skip
        if not phNewContext:
            self._crime("NULL phNewContext", SEC_E_INVALID_HANDLE)
        reply, bindings = self._read_inputs(pInput)
        if phContext:  # it wins over a credential that is given as well
            context = self._find(phContext, self._contexts, "context")
            context.judge(self.crimes, reply, bindings)
        else:
            credential = self._find(phCredential, self._credentials, "credential")
            target = _text(pszTargetName)
            context = _FakeContext(credential, target, fContextReq, bindings)
            if reply:
                self.crimes.append("a token went into the first leg")
        status, token = plan or context.step(self.domain, reply)
        if status & _ERROR_BIT:
            if token is not None:
                self._write_token(pOutput, fContextReq, token)
            return status
        self._write_token(pOutput, fContextReq, token)
        if phContext:
            self._bury(self._contexts, phContext)  # handles rotate, as Wine's do
        self._write_handle(phNewContext, self._contexts, context)
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
                    self.crimes.append("the token was not the first input buffer")
            elif buffer.BufferType == SECBUFFER_CHANNEL_BINDINGS:
                header = SEC_CHANNEL_BINDINGS.from_buffer_copy(content)
                start = header.dwApplicationDataOffset
                bindings = content[start : start + header.cbApplicationDataLength]
                if not any(content):
                    self.crimes.append("channel bindings of zeros")
        return reply, bindings

    def _write_token(
        self, pOutput: "Any", request: int, token: "Optional[bytes]"
    ) -> None:
        """Hand out a token by the rules of ALLOCATE_MEMORY or of caller buffers."""
        if not pOutput:
            raise SspiError(SEC_E_BUFFER_TOO_SMALL, "")
        buffers = pOutput.contents.pBuffers[: pOutput.contents.cBuffers]
        for output in buffers:
            if output.BufferType == SECBUFFER_TOKEN:
                break
        else:
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

    def _CompleteAuthToken(self, phContext: "Any", pToken: "Any") -> None:
        context = self._find(phContext, self._contexts, "context")
        if not pToken or addressof(pToken.contents) != context.descriptor:
            self._crime("CompleteAuthToken on another descriptor", SEC_E_INVALID_TOKEN)

    def _DeleteSecurityContext(self, phContext: "Any") -> None:
        self._find(phContext, self._contexts, "context")
        self._bury(self._contexts, phContext)

    def _QueryContextAttributesW(
        self, phContext: "Any", ulAttribute: int, pBuffer: int
    ) -> None:
        context = self._find(phContext, self._contexts, "context")
        package = context.negotiated()
        if ulAttribute == SECPKG_ATTR_NAMES:
            self._write_text(pBuffer, context.credential.name())
        elif ulAttribute == SECPKG_ATTR_SIZES:
            sizes = SecPkgContext_Sizes(*_FAKE_SIZES[package])
            ctypes.memmove(pBuffer, byref(sizes), sizeof(sizes))
        elif ulAttribute == SECPKG_ATTR_FLAGS:
            ULONG.from_address(pBuffer).value = context.granted()
        elif ulAttribute == SECPKG_ATTR_SESSION_KEY:
            key = context.session().key
            answer = SecPkgContext_SessionKey.from_address(pBuffer)
            answer.SessionKey, answer.SessionKeyLength = self._allocate(key), len(key)
        elif ulAttribute in (SECPKG_ATTR_PACKAGE_INFO, SECPKG_ATTR_NEGOTIATION_INFO):
            info = SecPkgContext_NegotiationInfoW.from_address(pBuffer)
            block = self._package_block([package])
            info.PackageInfo = ctypes.cast(block, PSecPkgInfoW)
            if ulAttribute == SECPKG_ATTR_NEGOTIATION_INFO:
                info.NegotiationState = 0  # SECPKG_NEGOTIATION_COMPLETE
        else:
            raise SspiError(SEC_E_UNSUPPORTED_FUNCTION, "")

    def _EnumerateSecurityPackagesW(
        self, pcPackages: "Any", ppPackageInfo: "Any"
    ) -> None:
        block = self._package_block(list(_FAKE_PACKAGES))
        ppPackageInfo[0] = ctypes.cast(block, PSecPkgInfoW)
        pcPackages[0] = len(_FAKE_PACKAGES)

    # Messages

    def _MakeSignature(
        self, phContext: "Any", fQOP: int, pMessage: "Any", MessageSeqNo: int
    ) -> None:
        session = self._find(phContext, self._contexts, "context").session()
        found = self._message_buffers(pMessage)
        data, token = found[SECBUFFER_DATA], found[SECBUFFER_TOKEN]
        self._fill(token, session.sign(_bytes_at(data.pvBuffer, data.cbBuffer)))

    def _VerifySignature(
        self, phContext: "Any", pMessage: "Any", MessageSeqNo: int, pfQOP: "Any"
    ) -> None:
        session = self._find(phContext, self._contexts, "context").session()
        found = self._message_buffers(pMessage)
        data, signature = (
            _bytes_at(found[kind].pvBuffer, found[kind].cbBuffer)
            for kind in (SECBUFFER_DATA, SECBUFFER_TOKEN)
        )
        session.verify(data, signature)

    def _EncryptMessage(
        self, phContext: "Any", fQOP: int, pMessage: "Any", MessageSeqNo: int
    ) -> None:
        session = self._find(phContext, self._contexts, "context").session()
        found = self._message_buffers(pMessage)
        data, token = found[SECBUFFER_DATA], found[SECBUFFER_TOKEN]
        plain = _bytes_at(data.pvBuffer, data.cbBuffer)
        trailer, text = session.seal(plain, fQOP != SECQOP_WRAP_NO_ENCRYPT)
        self._fill(token, trailer)
        self._fill(data, text)
        if SECBUFFER_PADDING in found:
            found[SECBUFFER_PADDING].cbBuffer = 0  # nothing pads, since RC4 and AES

    def _DecryptMessage(
        self, phContext: "Any", pMessage: "Any", MessageSeqNo: int, pfQOP: "Any"
    ) -> None:
        session = self._find(phContext, self._contexts, "context").session()
        found = self._message_buffers(pMessage, SECBUFFER_STREAM)
        data = found[SECBUFFER_DATA]
        if SECBUFFER_STREAM in found:  # where the text is inside of it is told
            stream = found[SECBUFFER_STREAM]
            blob = _bytes_at(stream.pvBuffer, stream.cbBuffer)
            split = session.trailer(blob)
            data.pvBuffer = (stream.pvBuffer or 0) + split
            data.cbBuffer = len(blob) - split
            trailer, text = blob[:split], blob[split:]
        else:
            token = found[SECBUFFER_TOKEN]
            trailer = _bytes_at(token.pvBuffer, token.cbBuffer)
            text = _bytes_at(data.pvBuffer, data.cbBuffer)
        plain, encrypted = session.unseal(trailer, text)
        self._fill(data, plain)
        if pfQOP:
            pfQOP[0] = 0 if encrypted else SECQOP_WRAP_NO_ENCRYPT

    def _message_buffers(
        self, pMessage: "Any", instead: int = SECBUFFER_TOKEN
    ) -> "Dict[int, Any]":
        """Return the buffers by type; without a TOKEN or its stead: INVALID_TOKEN."""
        found: "Dict[int, Any]" = {}
        for place in range(pMessage.contents.cBuffers if pMessage else 0):
            buffer = pMessage.contents.pBuffers[place]
            found[buffer.BufferType] = buffer
        if SECBUFFER_DATA not in found or not found.keys() & {SECBUFFER_TOKEN, instead}:
            raise SspiError(SEC_E_INVALID_TOKEN, "")
        return found

    def _fill(self, buffer: "Any", content: bytes) -> None:
        if buffer.cbBuffer < len(content):
            raise SspiError(SEC_E_BUFFER_TOO_SMALL, "")
        if content:
            ctypes.memmove(buffer.pvBuffer, content, len(content))
        buffer.cbBuffer = len(content)

    # Memory

    def _FreeContextBuffer(self, pvContextBuffer: "Optional[int]") -> None:
        memory = self._buffers.pop(pvContextBuffer or 0, None)
        if memory is None:
            dead = any(
                addressof(gone) == pvContextBuffer
                for gone in self._dead
                if not isinstance(gone, tuple)
            )
            what = "twice" if dead else "that is not ours"
            self._crime(f"a buffer freed {what}", SEC_E_INVALID_HANDLE)
        memset(memory, 0xDD, sizeof(memory))  # a read after this shows
        self._remember(memory)

    def _allocate(self, content: bytes) -> int:
        memory = (c_ubyte * max(len(content), 1))()
        memory[: len(content)] = list(content)
        self._buffers[addressof(memory)] = memory
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
        self.crimes.append(what)
        raise SspiError(status, "")


_NEVER = 0x7FFFFFFFFFFFFFFF
#: name -> capabilities, RPC id, longest token [bytes], comment: Windows' numbers.
_FAKE_PACKAGES = {
    NEGOTIATE: (0x00083BB3, 9, 48000, "Microsoft Package Negotiator"),
    KERBEROS: (0x000F3BBF, 16, 48000, "Microsoft Kerberos V1.0"),
    NTLM: (0x00082B37, 10, 2888, "NTLM Security Package"),
}


#: package -> the numbers of SECPKG_ATTR_SIZES. Kerberos' signature is announced as
#: 37 bytes, from the days of RC4, and is 28 with AES.
_FAKE_SIZES = {
    NEGOTIATE: (48000, 16, 0, 16),
    KERBEROS: (48000, 37, 1, 60),
    NTLM: (2888, 16, 0, 16),
}


class _FakeCredential:
    def __init__(self, package: str) -> None:
        self.package = package
        self.package_list: "List[str]" = []
        self.login: "Optional[Tuple[str, str, str]]" = None  # user, domain, password

    def allows(self, package: str) -> bool:
        named = [item for item in self.package_list if item and item[0] != "!"]
        name = package.lower()
        return "!" + name not in self.package_list and (not named or name in named)

    def name(self) -> str:
        if self.login is None:
            raise SspiError(SEC_E_NO_CREDENTIALS, "")
        user, domain, _ = self.login
        return f"{domain}\\{user}" if domain else user


class _FakeContext:
    """A context handle's other side: the client's half of a mechanism."""

    def __init__(
        self, credential: _FakeCredential, target: str, request: int,
        bindings: "Optional[bytes]",
    ) -> None:  # fmt: skip
        self.credential, self.target = credential, target
        self.request, self.bindings = request, bindings
        self.mechanism: "Any" = None
        self.descriptor = 0

    def judge(
        self, crimes: "List[str]", reply: "Optional[bytes]", bindings: "Optional[bytes]"
    ) -> None:
        if bindings != self.bindings:
            crimes.append("the channel bindings changed between legs")
        if reply is None:
            crimes.append("a later leg without a token")
        if self.mechanism is not None and self.mechanism.complete:
            crimes.append("a leg after SEC_E_OK")

    def step(
        self, domain: FakeDomain, reply: "Optional[bytes]"
    ) -> "Tuple[int, Optional[bytes]]":
        try:
            if self.mechanism is None:
                if reply is not None:
                    raise ValueError("a planned context has no mechanism to go on with")
                self.mechanism = self._start(domain)
            token = self.mechanism.step(reply)
        except SspiError as refused:
            return refused.status, refused.token or None
        except (ValueError, OverflowError):
            return SEC_E_INVALID_TOKEN, None
        return SEC_E_OK if self.mechanism.complete else SEC_I_CONTINUE_NEEDED, token

    def _start(self, domain: FakeDomain) -> "Any":
        credential = self.credential
        if credential.login is None:
            raise SspiError(SEC_E_NO_CREDENTIALS, "")
        facts = (domain, credential.login, self.target, self.request, self.bindings)
        if credential.package == KERBEROS:
            return _KerberosClient(*facts)
        if credential.package == NTLM:
            return _NtlmClient(*facts)
        offers: "List[Any]" = []
        if credential.allows(KERBEROS):
            # As Windows: an unknown SPN or user makes Negotiate go on to NTLM, a
            # wrong password that the controller has seen does not.
            user, of, _ = credential.login
            if domain.service_key(self.target) and domain.find(user, of):
                offers.append(_KerberosClient(*facts))
            elif not credential.allows(NTLM):
                raise SspiError(SEC_E_TARGET_UNKNOWN, "")
        if credential.allows(NTLM):
            offers.append(_NtlmClient(*facts, inside=True))
        if not offers:
            raise SspiError(SEC_E_NO_CREDENTIALS, "")
        return _SpnegoClient(offers)

    def session(self) -> "Any":
        if self.mechanism is None or not self.mechanism.complete:
            raise SspiError(SEC_E_INVALID_HANDLE, "")
        return self.mechanism.session

    def negotiated(self) -> str:
        """The package in use; Negotiate itself while that is open."""
        return self.mechanism.package if self.mechanism else self.credential.package

    def granted(self) -> int:
        granted = self.mechanism.granted if self.mechanism else self.request
        return int(granted | self.request & ISC_REQ.ALLOCATE_MEMORY.value)

    def expiry(self) -> int:
        if self.negotiated() != KERBEROS:
            return _NEVER
        import time  # [100 ns since 1601-01-01 local time], ten hours from now

        local = time.time() - time.timezone + 10 * 3600
        return int((local + 11644473600) * 10**7)


# -- 15. NTLM ------------------------------------------------------------------
# May touch: bytes only. MS-NLMP, NTLMv2 with extended session security; section
# numbers below are that document's.

NTLMSSP_NEGOTIATE_UNICODE = 0x00000001  # 2.2.2.5
NTLMSSP_REQUEST_TARGET = 0x00000004
NTLMSSP_NEGOTIATE_SIGN = 0x00000010
NTLMSSP_NEGOTIATE_SEAL = 0x00000020
NTLMSSP_NEGOTIATE_NTLM = 0x00000200
NTLMSSP_NEGOTIATE_ALWAYS_SIGN = 0x00008000
NTLMSSP_TARGET_TYPE_DOMAIN = 0x00010000
NTLMSSP_NEGOTIATE_EXTENDED_SESSIONSECURITY = 0x00080000
NTLMSSP_NEGOTIATE_TARGET_INFO = 0x00800000
NTLMSSP_NEGOTIATE_VERSION = 0x02000000
NTLMSSP_NEGOTIATE_128 = 0x20000000
NTLMSSP_NEGOTIATE_KEY_EXCH = 0x40000000
NTLMSSP_NEGOTIATE_56 = 0x80000000
_NTLM_NEEDED = NTLMSSP_NEGOTIATE_UNICODE | NTLMSSP_NEGOTIATE_EXTENDED_SESSIONSECURITY
_NTLM_OFFER = (
    _NTLM_NEEDED | NTLMSSP_REQUEST_TARGET | NTLMSSP_NEGOTIATE_NTLM
    | NTLMSSP_NEGOTIATE_ALWAYS_SIGN | NTLMSSP_NEGOTIATE_VERSION
    | NTLMSSP_NEGOTIATE_128 | NTLMSSP_NEGOTIATE_56
)  # fmt: skip
_NTLM_VERSION = bytes.fromhex("0a00614a0000000f")  # 2.2.2.10: 10.0.19041, revision 15

_AV_EOL, _AV_NB_COMPUTER, _AV_NB_DOMAIN, _AV_DNS_COMPUTER = 0, 1, 2, 3  # 2.2.2.1
_AV_DNS_DOMAIN, _AV_FLAGS, _AV_TIMESTAMP, _AV_TARGET_NAME = 4, 6, 7, 9
_AV_CHANNEL_BINDINGS = 10
_AV_FLAG_MIC = 2
_MIC_AT = 72  # 2.2.1.3: where the MIC stands in an AUTHENTICATE message
_SIGNING = 0x0001000C  # INTEGRITY, REPLAY_DETECT, SEQUENCE_DETECT


class _NtlmClient:
    package = NTLM

    def __init__(
        self, domain: FakeDomain, login: "Tuple[str, str, str]", target: str,
        request: int, bindings: "Optional[bytes]", inside: bool = False,
    ) -> None:  # fmt: skip
        self.complete = False
        self.granted = 0
        self.session_key = b""
        self.session: "Any" = None
        self._login, self._target, self._request = login, target, request
        self._bindings = bindings
        self._negotiate = b""
        # Inside SPNEGO it signs, asked to or not: the mechListMIC needs the key.
        self._signs = inside or request & _SIGNING

    def step(self, reply: "Optional[bytes]") -> bytes:
        if reply is None:
            flags = _NTLM_OFFER
            if self._signs:
                flags |= NTLMSSP_NEGOTIATE_SIGN | NTLMSSP_NEGOTIATE_KEY_EXCH
            if self._request & ISC_REQ.CONFIDENTIALITY.value:
                flags |= NTLMSSP_NEGOTIATE_SEAL | NTLMSSP_NEGOTIATE_KEY_EXCH
                flags |= NTLMSSP_NEGOTIATE_SIGN
            self._negotiate = (
                _NTLMSSP + _le(1) + _le(flags) + bytes(16) + _NTLM_VERSION
            )
            return self._negotiate
        return self._authenticate(reply)

    def _authenticate(self, challenge: bytes) -> bytes:
        """Answer a CHALLENGE_MESSAGE: 3.1.5.1.2."""
        _ntlm_expect(challenge, 2, 48)
        offered = _from_le(self._negotiate[12:16])
        flags = _from_le(challenge[20:24]) & (offered | NTLMSSP_NEGOTIATE_TARGET_INFO)
        if flags & _NTLM_NEEDED != _NTLM_NEEDED:
            raise ValueError("the server lacks Unicode or extended session security")
        pairs = _av_pairs(_ntlm_field(challenge, 40))
        stamp = pairs.get(_AV_TIMESTAMP)
        if stamp is not None:
            given = _from_le(pairs.get(_AV_FLAGS, bytes(4)))
            pairs[_AV_FLAGS] = _le(given | _AV_FLAG_MIC)
        pairs[_AV_TARGET_NAME] = self._target.encode("utf-16-le", "surrogatepass")
        pairs[_AV_CHANNEL_BINDINGS] = _bindings_hash(self._bindings)
        user, domain, password = self._login
        key = _ntowf_v2(user, domain, password)
        ours = _random(8)
        response, base_key = _ntlm_v2_response(
            key, challenge[24:32], ours, stamp or _file_time(), _av_bytes(pairs)
        )
        lm = bytes(24) if stamp else _hmac_md5(key, challenge[24:32], ours) + ours
        exported, wrapped = base_key, b""
        if flags & NTLMSSP_NEGOTIATE_KEY_EXCH:
            exported = _random(16)
            wrapped = _RC4(base_key).process(exported)
        texts = [t.encode("utf-16-le", "surrogatepass") for t in (domain, user, "FAKE")]
        message = _ntlm_pack([lm, response, *texts, wrapped], flags)
        if stamp is not None:
            mic = _hmac_md5(exported, self._negotiate, challenge, message)
            message = message[:_MIC_AT] + mic + message[_MIC_AT + 16 :]
        self.session_key = exported
        self.session = _NtlmSession(exported, flags, client=True)
        self.granted = _ntlm_granted(self._request, flags)
        self.complete = True
        return message


class _NtlmServer:
    package = NTLM

    def __init__(self, domain: FakeDomain, bindings: "Optional[bytes]") -> None:
        self.complete = False
        self.announces_mic = False
        self.user = self.target = ""
        self.session_key = b""
        self.session: "Any" = None
        self._domain, self._bindings = domain, bindings
        self._negotiate = self._challenge = b""

    def step(self, token: bytes) -> "Optional[bytes]":
        if not self._challenge:
            return self._answer_negotiate(token)
        self._check_authenticate(token)
        return None

    def _answer_negotiate(self, negotiate: bytes) -> bytes:
        _ntlm_expect(negotiate, 1, 16)
        asked = _from_le(negotiate[12:16])
        if asked & _NTLM_NEEDED != _NTLM_NEEDED:
            raise ValueError("the client lacks Unicode or extended session security")
        allowed = _NTLM_OFFER | NTLMSSP_NEGOTIATE_SIGN | NTLMSSP_NEGOTIATE_SEAL
        allowed |= NTLMSSP_NEGOTIATE_KEY_EXCH
        flags = asked & allowed | NTLMSSP_NEGOTIATE_TARGET_INFO
        flags |= NTLMSSP_TARGET_TYPE_DOMAIN
        name = self._domain.name.encode("utf-16-le")
        dns = self._domain.dns_name
        info = _av_bytes({
            _AV_NB_DOMAIN: name,
            _AV_NB_COMPUTER: "SERVER".encode("utf-16-le"),
            _AV_DNS_DOMAIN: dns.encode("utf-16-le"),
            _AV_DNS_COMPUTER: f"server.{dns}".encode("utf-16-le"),
            _AV_TIMESTAMP: _file_time(),
        })  # fmt: skip
        self._negotiate = negotiate
        self._challenge = (
            _NTLMSSP + _le(2) + _ntlm_header(len(name), 56) + _le(flags)
            + _random(8) + bytes(8) + _ntlm_header(len(info), 56 + len(name))
            + _NTLM_VERSION + name + info
        )  # fmt: skip
        return self._challenge

    def _check_authenticate(self, message: bytes) -> None:
        """Take an AUTHENTICATE_MESSAGE or refuse it: 3.2.5.1.2."""
        _ntlm_expect(message, 3, 64)
        response, wrapped = _ntlm_field(message, 20), _ntlm_field(message, 52)
        domain, user = (
            _ntlm_field(message, at).decode("utf-16-le", "surrogatepass")
            for at in (28, 36)
        )
        flags = _from_le(message[60:64])
        name = self._domain.find(user, domain)
        if name is None or len(response) < 44:  # shorter is NTLMv1 or anonymous
            raise SspiError(SEC_E_LOGON_DENIED, "AcceptSecurityContext")
        key = _ntowf_v2(user, domain, self._domain.users[name])
        proof, blob = response[:16], response[16:]
        if _hmac_md5(key, self._challenge[24:32], blob) != proof:
            raise SspiError(SEC_E_LOGON_DENIED, "AcceptSecurityContext")
        exported = _hmac_md5(key, proof)
        if flags & NTLMSSP_NEGOTIATE_KEY_EXCH:
            if len(wrapped) != 16:
                raise ValueError("the wrapped session key is not 16 bytes")
            exported = _RC4(exported).process(wrapped)
        pairs = _av_pairs(blob[28:])
        self._check_mic(message, pairs, exported)
        self._check_bindings(pairs)
        self.user, self.session_key = name, exported
        target = pairs.get(_AV_TARGET_NAME, b"")
        self.target = target.decode("utf-16-le", "surrogatepass")
        self.session = _NtlmSession(exported, flags, client=False)
        self.complete = True

    def _check_mic(self, message: bytes, pairs: "Dict[int, bytes]", key: bytes) -> None:
        if _from_le(pairs.get(_AV_FLAGS, b"")) & _AV_FLAG_MIC:
            bare = message[:_MIC_AT] + bytes(16) + message[_MIC_AT + 16 :]
            expected = _hmac_md5(key, self._negotiate, self._challenge, bare)
            if message[_MIC_AT : _MIC_AT + 16] != expected:
                raise SspiError(SEC_E_MESSAGE_ALTERED, "AcceptSecurityContext")
            self.announces_mic = True

    def _check_bindings(self, pairs: "Dict[int, bytes]") -> None:
        if self._bindings is not None:
            given = pairs.get(_AV_CHANNEL_BINDINGS, bytes(16))
            if given != _bindings_hash(self._bindings):
                raise SspiError(SEC_E_BAD_BINDINGS, "AcceptSecurityContext")


class _NtlmSession:
    """Signing and sealing in both directions: 3.4."""

    def __init__(self, key: bytes, flags: int, client: bool) -> None:
        ways = ("client-to-server", "server-to-client")
        ours, theirs = ways if client else reversed(ways)
        self.key = key
        self._out = _NtlmStream(key, ours, flags)
        self._in = _NtlmStream(key, theirs, flags)
        self._signs = bool(flags & (NTLMSSP_NEGOTIATE_SIGN | NTLMSSP_NEGOTIATE_SEAL))

    def sign(self, data: bytes) -> bytes:
        # Without session security Windows makes a dummy, and takes any: Wine's tests.
        return self._out.signature(data) if self._signs else _le(1) + bytes(12)

    def verify(self, data: bytes, signature: bytes) -> None:
        if self._signs:
            self._in.check(data, signature)

    def trailer(self, blob: bytes) -> int:
        return min(16, len(blob))

    def seal(self, data: bytes, encrypt: bool) -> "Tuple[bytes, bytes]":
        if not (self._signs and encrypt):
            # A receiver of NTLM cannot tell a message that is not encrypted, and
            # encrypts even where only SIGN was negotiated (Samba, Wine).
            raise SspiError(SEC_E_QOP_NOT_SUPPORTED, "EncryptMessage")
        ciphertext = self._out.rc4.process(data)
        return self._out.signature(data), ciphertext

    def unseal(self, signature: bytes, ciphertext: bytes) -> "Tuple[bytes, bool]":
        before = self._in.rc4.copy()
        data = self._in.rc4.process(ciphertext)
        try:
            self._in.check(data, signature)
        except SspiError:
            self._in.rc4 = before
            raise
        return data, True

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

    def __init__(self, key: bytes, way: str, flags: int) -> None:
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
            out_of_turn = len(signature) == 16 and signature[12:] != _le(number)
            raise SspiError(
                SEC_E_OUT_OF_SEQUENCE if out_of_turn else SEC_E_MESSAGE_ALTERED,
                "VerifySignature",
            )


def _ntowf_v2(user: str, domain: str, password: str) -> bytes:
    """The key of NTLMv2: 3.3.2, NTOWFv2."""
    secret = _md4(password.encode("utf-16-le", "surrogatepass"))
    name = (user.upper() + domain).encode("utf-16-le", "surrogatepass")
    return _hmac_md5(secret, name)


def _ntlm_v2_response(
    key: bytes, theirs: bytes, ours: bytes, stamp: bytes, info: bytes
) -> "Tuple[bytes, bytes]":
    """Return (NtChallengeResponse, SessionBaseKey): 3.3.2, ComputeResponse."""
    blob = b"\1\1" + bytes(6) + stamp + ours + bytes(4) + info + bytes(4)
    proof = _hmac_md5(key, theirs, blob)
    return proof + blob, _hmac_md5(key, proof)


def _ntlm_granted(request: int, flags: int) -> int:
    keep = ISC_REQ.CONNECTION | ISC_REQ.IDENTIFY | ISC_REQ.EXTENDED_ERROR
    granted = request & keep.value
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


def _file_time() -> bytes:
    import time

    return int((time.time() + 11644473600) * 10**7).to_bytes(8, "little")


def _le(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _from_le(octets: bytes) -> int:
    return int.from_bytes(octets, "little")


# -- 16. SPNEGO ----------------------------------------------------------------
# May touch: bytes only. RFC 4178, and MS-SPNG for what Windows adds.

_MECHANISMS = {
    _OID_MS_KERBEROS: KERBEROS,
    _OID_KERBEROS: KERBEROS,
    _OID_NTLM: NTLM,
}
_ACCEPT_COMPLETED, _ACCEPT_INCOMPLETE, _REJECT, _REQUEST_MIC = 0, 1, 2, 3  # 4.2.2


class _SpnegoClient:
    """The initiator. *offers*: mechanisms to offer, the preferred one first."""

    def __init__(self, offers: "List[Any]") -> None:
        self.complete = False
        self._offers = offers
        self._mechanism: "Any" = offers[0]
        self._mech_types = _der(
            0x30,
            *(
                _der(0x06, oid)
                for offer in offers
                for oid, package in _MECHANISMS.items()
                if package == offer.package
            ),
        )
        self._first_reply = True
        self._mic_due = self._mic_sent = self._mic_seen = False

    @property
    def package(self) -> str:
        return str(self._mechanism.package)

    granted = property(lambda self: self._mechanism.granted)
    session = property(lambda self: self._mechanism.session)

    def step(self, reply: "Optional[bytes]") -> bytes:
        if reply is None:
            token = _der(0xA2, _der(0x04, self._mechanism.step(None)))
            body = _der(0xA0, _der(0x30, _der(0xA0, self._mech_types), token))
            return _gss_frame(_OID_SPNEGO, body)
        state, chosen, token, mic = _neg_token_resp(reply)
        if state == _REJECT:
            # Not verified on Windows: which status it gives to a bare reject.
            raise SspiError(SEC_E_LOGON_DENIED, "InitializeSecurityContextW")
        response = self._answer(chosen, token)
        self._mic_due = self._mic_due or state == _REQUEST_MIC
        return self._finish(state, response, mic)

    def _answer(self, chosen: bytes, token: bytes) -> bytes:
        """Feed the mechanism, or start the one that the server has chosen."""
        first, self._first_reply = self._first_reply, False
        package = _MECHANISMS.get(chosen, "") if chosen else self.package
        if package != self.package:
            others = [offer for offer in self._offers[1:] if offer.package == package]
            if not first or not others or token:
                raise ValueError("the server chose what was not offered")
            self._mechanism, self._mic_due = others[0], True
            return bytes(self._mechanism.step(None))
        if self._mechanism.complete:
            if token:
                raise ValueError("a token for a mechanism that is complete")
            return b""
        if not token:
            raise ValueError("the server owes a token")
        return bytes(self._mechanism.step(token))

    def _finish(self, state: "Optional[int]", response: bytes, mic: bytes) -> bytes:
        session = self._mechanism.session
        out = b""
        if mic:
            if not session:
                raise ValueError("a mechListMIC before there is a key for it")
            session.check_mech_list_mic(self._mech_types, mic)
            self._mic_seen = True
        # NTLM signs the list always, as Windows does; Kerberos when it must.
        wanted = self._mic_due or mic or self.package == NTLM
        if self._mechanism.complete and wanted and not self._mic_sent:
            out, self._mic_sent = session.mech_list_mic(self._mech_types), True
        if state == _ACCEPT_COMPLETED:
            unsure = self._mic_due and not self._mic_seen
            if response or unsure or not self._mechanism.complete:
                raise ValueError("the server ended the negotiation too early")
            self.complete = True
        if not response and not out:
            return b""
        return _neg_token_resp_bytes(None, b"", response, out)


class _SpnegoServer:
    """The acceptor: Kerberos where its domain has any service, and NTLM."""

    def __init__(self, domain: FakeDomain, bindings: "Optional[bytes]") -> None:
        self.complete = False
        self._domain, self._bindings = domain, bindings
        self._mechanism: "Any" = None
        self._mech_types = b""
        self._mic_due = self._mic_sent = self._mic_seen = False

    user = property(lambda self: self._mechanism.user)
    package = property(lambda self: self._mechanism.package)
    target = property(lambda self: self._mechanism.target)
    session = property(lambda self: self._mechanism.session)
    session_key = property(lambda self: self._mechanism.session_key)

    def step(self, token: bytes) -> "Any":
        try:
            if self._mechanism is None:
                return self._begin(token)
            _, _, response, mic = _neg_token_resp(token)
            return self._advance(response, mic, b"")
        except SspiError as refused:
            refused.token = _neg_token_resp_bytes(_REJECT, b"", b"", b"")
            raise

    def _begin(self, token: bytes) -> "Any":
        self._mech_types, oids, optimistic = _neg_token_init(token)
        usable = [oid for oid in oids if self._supports(oid)]
        if not usable:
            raise SspiError(SEC_E_INVALID_TOKEN, "AcceptSecurityContext")
        chosen = usable[0]
        make = _NtlmServer if chosen == _OID_NTLM else _KerberosServer
        self._mechanism = make(self._domain, self._bindings)
        if _MECHANISMS.get(oids[0]) == self._mechanism.package and optimistic:
            return self._advance(optimistic, b"", chosen)
        self._mic_due = True
        return _neg_token_resp_bytes(_REQUEST_MIC, chosen, b"", b"")

    def _supports(self, oid: bytes) -> bool:
        package = _MECHANISMS.get(oid)
        return package == NTLM or bool(package and self._domain.services)

    def _advance(self, token: bytes, mic: bytes, chosen: bytes) -> "Any":
        mechanism, response, out = self._mechanism, None, b""
        if not mechanism.complete:
            response = mechanism.step(token)
            # MS-SPNG: a MIC inside NTLM announces the one outside of it.
            self._mic_due = self._mic_due or mechanism.announces_mic
        elif token:
            raise ValueError("a token for a mechanism that is complete")
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
    chosen = _der_only(fields[0xA1], 0x06) if 0xA1 in fields else b""
    response = _der_only(fields[0xA2], 0x04) if 0xA2 in fields else b""
    mic = _der_only(fields[0xA3], 0x04) if 0xA3 in fields else b""
    return state[0] if state else None, chosen, response, mic


def _neg_token_resp_bytes(
    state: "Optional[int]", chosen: bytes, response: bytes, mic: bytes
) -> bytes:
    fields = []
    if state is not None:
        fields.append(_der(0xA0, _der(0x0A, bytes([state]))))
    if chosen:
        fields.append(_der(0xA1, _der(0x06, chosen)))
    if response:
        fields.append(_der(0xA2, _der(0x04, response)))
    if mic:
        fields.append(_der(0xA3, _der(0x04, mic)))
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


def _der(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content


# -- 17. The stand-in Kerberos -------------------------------------------------
# May touch: bytes only. Frames and legs are those of RFC 4120 and RFC 4121; the
# cryptography is NOT Kerberos: encryption type -128 (RFC 3961: negative numbers
# are for local use) is ours, and only FakeServer understands it.

_ETYPE = -128
_USED_DCE_STYLE = ISC_RET.USED_DCE_STYLE.value
_MUTUAL_AUTH = ISC_RET.MUTUAL_AUTH.value


class _KerberosClient:
    package = KERBEROS

    def __init__(
        self, domain: FakeDomain, login: "Tuple[str, str, str]", target: str,
        request: int, bindings: "Optional[bytes]",
    ) -> None:  # fmt: skip
        self.complete = False
        no_integrity = request & ISC_REQ.NO_INTEGRITY.value
        self.granted = request & ~(ISC_REQ.DELEGATE | ISC_REQ.ALLOCATE_MEMORY).value
        if no_integrity:
            self.granted &= ~(_SIGNING | ISC_REQ.CONFIDENTIALITY.value)
        self.session_key = b""
        self.session: "Any" = None
        self._domain, self._login, self._target = domain, login, target
        self._bindings = bindings

    def step(self, reply: "Optional[bytes]") -> bytes:
        if reply is None:
            return self._request()
        _kerberos_check_reply(reply, self.granted, self.session_key)
        self._finish()
        if self.granted & _USED_DCE_STYLE:
            return _kerberos_ap_rep(self.session_key, b"client")
        return b""

    def _request(self) -> bytes:
        """Ask the "controller" for a ticket and present it."""
        user, of, password = self._login
        service_key = self._domain.service_key(self._target)
        name = self._domain.find(user, of)
        if service_key is None:
            raise SspiError(SEC_E_TARGET_UNKNOWN, "InitializeSecurityContextW")
        if name is None or self._domain.users[name] != password:
            raise SspiError(SEC_E_LOGON_DENIED, "InitializeSecurityContextW")
        self.session_key = _random(16)
        if not self.granted & (_MUTUAL_AUTH | _USED_DCE_STYLE):
            self._finish()
        service, _, host = self._target.partition("/")
        ticket = _der(0x61, _der(0x30, _der(0xA0, _der_int(5)),
            _der(0xA1, _der(0x1B, self._domain.dns_name.upper().encode())),
            _der(0xA2, _der(0x30, _der(0xA0, _der_int(2)), _der(0xA1, _der(
                0x30, _der(0x1B, service.encode()), _der(0x1B, host.encode()))))),
            _der(0xA3, _encrypted(service_key, self.session_key + name.encode())),
        ))  # fmt: skip
        # RFC 4121 4.1.1: the checksum of an authenticator is Lgth, Bnd, Flags.
        checksum = _le(16) + _bindings_hash(self._bindings) + _le(self.granted)
        mutual = bool(self.granted & (_MUTUAL_AUTH | _USED_DCE_STYLE))
        options = bytes([0, 0x20 if mutual else 0, 0, 0, 0])  # bit 2: mutual-required
        request = _der(0x6E, _der(0x30, _der(0xA0, _der_int(5)),
            _der(0xA1, _der_int(14)), _der(0xA2, _der(0x03, options)),
            _der(0xA3, ticket), _der(0xA4, _encrypted(self.session_key, checksum)),
        ))  # fmt: skip
        if self.granted & _USED_DCE_STYLE:
            return request  # RFC 4757 7.3: DCE style has no GSS frame
        return _gss_frame(_OID_KERBEROS, b"\1\0" + request)

    def _finish(self) -> None:
        self.session = _KerberosSession(self.session_key, client=True)
        self.complete = True


class _KerberosServer:
    package = KERBEROS
    announces_mic = False

    def __init__(self, domain: FakeDomain, bindings: "Optional[bytes]") -> None:
        self.complete = False
        self.user = self.target = ""
        self.session_key = b""
        self.session: "Any" = None
        self._domain, self._bindings = domain, bindings
        self._dce = False

    def step(self, token: bytes) -> "Optional[bytes]":
        if self.session_key:  # the third leg of DCE style
            _kerberos_check_reply(token, _USED_DCE_STYLE, self.session_key, b"client")
            self.complete = True
            return None
        self._dce = token[:1] != b"\x60"
        request = token if self._dce else _kerberos_unframe(token, b"\1\0")
        granted = self._open(request)
        self.session = _KerberosSession(self.session_key, client=False)
        self.complete = not self._dce
        if not granted & (_MUTUAL_AUTH | _USED_DCE_STYLE):
            return None
        reply = _kerberos_ap_rep(self.session_key, b"server")
        return reply if self._dce else _gss_frame(_OID_KERBEROS, b"\2\0" + reply)

    def _open(self, request: bytes) -> int:
        """Open an AP-REQ, check what it says, and return the granted flags."""
        fields = _kerberos_message(request, 0x6E, 14)
        ticket = _Fields(_der_items(_der_only(_der_only(fields[0xA3], 0x61), 0x30)))
        sname = _Fields(_der_items(_der_only(ticket[0xA2], 0x30)))
        parts = [part for _, part in _der_items(_der_only(sname[0xA1], 0x30))]
        target = b"/".join(parts).decode()
        key = self._domain.service_key(target)
        if key is None:
            raise SspiError(SEC_E_WRONG_PRINCIPAL, "AcceptSecurityContext")
        secret = _decrypted(key, ticket[0xA3])
        checksum = _decrypted(secret[:16], fields[0xA4])
        if len(checksum) != 24:
            raise ValueError("an authenticator without its checksum")
        expected = _bindings_hash(self._bindings)
        if self._bindings is not None and checksum[4:20] != expected:
            raise SspiError(SEC_E_BAD_BINDINGS, "AcceptSecurityContext")
        granted = _from_le(checksum[20:])
        if self._dce != bool(granted & _USED_DCE_STYLE):
            raise ValueError("DCE style on one side only")
        self.session_key, self.user = secret[:16], secret[16:].decode()
        self.target = target
        return granted


class _KerberosSession:
    """Per-message tokens in the shape and length of RFC 4121 with AES."""

    def __init__(self, key: bytes, client: bool) -> None:
        self.key = key
        self._ours, self._theirs = (0, 1) if client else (1, 0)  # SentByAcceptor
        self._sent = self._received = 0

    def sign(self, data: bytes) -> bytes:
        """A MIC token: 4.2.6.1, 28 bytes."""
        header = b"\4\4" + bytes([self._ours]) + b"\xff" * 5 + _be8(self._sent)
        self._sent += 1
        return header + self._checksum(data, header)

    def verify(self, data: bytes, signature: bytes) -> None:
        number = signature[8:16]
        header = b"\4\4" + bytes([self._theirs]) + b"\xff" * 5 + number
        self._receive(signature == header + self._checksum(data, header), number)

    mech_list_mic = sign
    check_mech_list_mic = verify

    def seal(self, data: bytes, encrypt: bool) -> "Tuple[bytes, bytes]":
        """A wrap token: 4.2.6.2, rotated so that its text stays in one piece.

        Sealed: header, checksum, copy of the header, confounder: 60 bytes apart
        from the text. Else: header, checksum: 28 bytes.
        """
        flags = bytes([self._ours | (2 if encrypt else 0)])
        number = _be8(self._sent)
        bare = b"\5\4" + flags + b"\xff" + bytes(4) + number
        self._sent += 1
        if not encrypt:
            header = bare[:4] + b"\0\x0c\0\x0c" + number  # EC and RRC
            return header + self._checksum(data, bare), data
        confounder = _random(16)
        plain = confounder + data + bare
        cipher = _mask(self.key + bare, plain)
        tail = self._checksum(plain, bare) + cipher[-16:]
        header = bare[:4] + b"\0\0\0\x1c" + number
        return header + tail + cipher[:16], cipher[16:-16]

    def trailer(self, blob: bytes) -> int:
        return min(60 if blob[2:3] and blob[2] & 2 else 28, len(blob))

    def unseal(self, token: bytes, text: bytes) -> "Tuple[bytes, bool]":
        encrypt, number = len(token) == 60, token[8:16]
        flags = bytes([self._theirs | (2 if encrypt else 0)])
        bare = b"\5\4" + flags + b"\xff" + bytes(4) + number
        sizes, plain, whole = b"\0\x0c\0\x0c", text, text
        if encrypt:
            sizes = b"\0\0\0\x1c"
            whole = _mask(self.key + bare, token[44:60] + text + token[28:44])
            plain = whole[16:-16]
        expected = bare[:4] + sizes + number + self._checksum(whole, bare)
        intact = token[:28] == expected and (not encrypt or whole[-16:] == bare)
        self._receive(intact and len(token) in (28, 60), number)
        return plain, encrypt

    def _receive(self, intact: bool, number: bytes) -> None:
        if not intact:
            raise SspiError(SEC_E_MESSAGE_ALTERED, "DecryptMessage")
        if int.from_bytes(number, "big") != self._received:
            raise SspiError(SEC_E_OUT_OF_SEQUENCE, "DecryptMessage")
        self._received += 1

    def _checksum(self, data: bytes, header: bytes) -> bytes:
        return _hmac_md5(self.key, data, header)[:12]


def _kerberos_ap_rep(key: bytes, who: bytes) -> bytes:
    return _der(0x6F, _der(0x30, _der(0xA0, _der_int(5)), _der(0xA1, _der_int(15)),
        _der(0xA2, _encrypted(key, who)),
    ))  # fmt: skip


def _kerberos_check_reply(
    reply: bytes, granted: int, key: bytes, who: bytes = b"server"
) -> None:
    dce = granted & _USED_DCE_STYLE
    message = reply if dce else _kerberos_unframe(reply, b"\2\0")
    fields = _kerberos_message(message, 0x6F, 15)
    if _decrypted(key, fields[0xA2]) != who:
        raise SspiError(SEC_E_MUTUAL_AUTH_FAILED, "InitializeSecurityContextW")


def _kerberos_unframe(token: bytes, kind: bytes) -> bytes:
    oid, body = _gss_unframe(token)
    if oid != _OID_KERBEROS or body[:2] != kind:
        raise ValueError("another Kerberos token is due")
    return body[2:]


def _kerberos_message(message: bytes, tag: int, kind: int) -> "Dict[int, bytes]":
    """Return the fields of an AP-REQ (14) or AP-REP (15) by their tags."""
    fields = _Fields(_der_items(_der_only(_der_only(message, tag), 0x30)))
    if fields[0xA0] != _der_int(5) or fields[0xA1] != _der_int(kind):
        raise ValueError("not version 5 of Kerberos, or another message")
    return fields


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


def _encrypted(key: bytes, data: bytes) -> bytes:
    """EncryptedData (RFC 4120 5.2.9) of our own making: nonce, text, HMAC."""
    nonce = _random(16)
    text = _mask(key + nonce, data)
    cipher = nonce + text + _hmac_md5(key, nonce, data)[:12]
    return _der(0x30, _der(0xA0, _der_int(_ETYPE)), _der(0xA2, _der(0x04, cipher)))


def _decrypted(key: bytes, field: bytes) -> bytes:
    fields = _Fields(_der_items(_der_only(field, 0x30)))
    cipher = _der_only(fields[0xA2], 0x04)
    if fields[0xA0] != _der_int(_ETYPE) or len(cipher) < 28:
        raise ValueError("encrypted with something else")
    nonce, text, tag = cipher[:16], cipher[16:-12], cipher[-12:]
    data = _mask(key + nonce, text)
    if _hmac_md5(key, nonce, data)[:12] != tag:
        raise SspiError(SEC_E_MESSAGE_ALTERED, "AcceptSecurityContext")
    return data


def _der_int(number: int) -> bytes:
    return _der(0x02, number.to_bytes(1, "big", signed=True))


def _be8(number: int) -> bytes:
    return number.to_bytes(8, "big")


# -- 18. MD4 and RC4 -----------------------------------------------------------
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


def _md4_block(
    block: "List[int]", a: int, b: int, c: int, d: int
) -> "Tuple[int, int, int, int]":
    for step in range(48):
        place, turn = step % 16, step % 4
        if step < 16:
            mixed = (b & c | ~b & d) + block[place]
            shift = (3, 7, 11, 19)[turn]
        elif step < 32:
            order = place % 4 * 4 + place // 4
            mixed = (b & c | b & d | c & d) + block[order] + 0x5A827999
            shift = (3, 5, 9, 13)[turn]
        else:
            order = (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15)[place]
            mixed = (b ^ c ^ d) + block[order] + 0x6ED9EBA1
            shift = (3, 9, 11, 15)[turn]
        word = a + mixed & 0xFFFFFFFF
        a, b, c, d = d, (word << shift | word >> 32 - shift) & 0xFFFFFFFF, b, c
    return a, b, c, d


class _RC4:
    """A key stream that goes on from call to call."""

    def __init__(self, key: bytes) -> None:
        state, j = list(range(256)), 0
        for i in range(256):
            j = (j + state[i] + key[i % len(key)]) & 0xFF
            state[i], state[j] = state[j], state[i]
        self._state, self._i, self._j = state, 0, 0

    def copy(self) -> "_RC4":
        twin = _RC4.__new__(_RC4)
        twin._state, twin._i, twin._j = self._state[:], self._i, self._j
        return twin

    def process(self, data: bytes) -> bytes:
        """Encrypt or decrypt, which is the same. Takes about 0.1 us per byte."""
        state, i, j = self._state, self._i, self._j
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


def _thread_id() -> int:
    import threading

    return threading.get_ident()


def _random(length: int) -> bytes:
    import os

    return os.urandom(length)
