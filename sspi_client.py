# sspi_client: Windows SSPI authentication, client side, in one file.
# SPDX-License-Identifier: MIT
# Copyright (c) 2026 the sspi_client authors
# Version 0.2.0. Keep this block in vendored copies.
# mypy: disable-error-code="valid-type,empty-body"
# pyright: reportInvalidTypeForm=false
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

`context = sspi_client.drive(flow, exchange)` is that loop. Use the context in a `with`
block, or close() it: it owns handles inside Windows.

What it promises:
- Every token that must be sent is yielded, the last one too. `token.final` means that
  SSPI expects no reply.
- Every handle and every buffer is released exactly once, however the flow ends:
  return, error, close(), throw(), or a flow that is dropped. The context goes before
  its credential. What Ctrl-C can still leak is written at _release(); nothing is ever
  released twice.
- A password is copied into one buffer of ours, which is wiped before the call that
  needed it returns. No message, repr or warning contains a password or the bytes of a
  token, and no traceback of ours shows them among its locals.
- An error names the function that refused, the status, the package, the target and the
  leg, and says what to check.
- What a provider claims is not proof. MUTUAL_AUTH counts only if the package that was
  negotiated can keep it: NTLM cannot.

What it touches: secur32.dll, loaded from System32 by the first call that needs it,
never at import. It opens no socket and no file, reads no environment, starts no
thread, logs nothing and makes no ctypes callback; of the command line, `diagnose`
reads this one file to hash it. SSPI itself may ask a domain controller, and then a leg
blocks; other Python threads run meanwhile. One flow serves one connection, in one
thread at a time.

Out of scope: servers, transports, keytabs, smart cards, Schannel.

Sections 3 to 10 are all that a logon runs: 3 vocabulary, 4 the flow, 5 identities, 6
the context, 7 bindings, 8 the steps, 9 the binding, 10 the ABI. Calls go down the
page. Behind them stands what serves people and protocols: 11 what a status means, 12
names of services and tokens, 13 HTTP, 14 packages and the command line. A copy that is
cut at the line starting with a comment sign and 8< is complete.
"""

# -- 2. Imports ----------------------------------------------------------------
# May touch: the standard library. typing is for checkers alone: importing it would cost
# more time than all the rest of this file, so typing.get_type_hints() fails on it.

from __future__ import annotations

import ctypes
import sys
from ctypes import POINTER, Structure, addressof, byref, memset, sizeof, string_at
from ctypes import c_int32, c_size_t, c_ubyte, c_uint16, c_uint32, c_void_p
from enum import IntFlag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from datetime import datetime
    from typing import Any, NoReturn, TypeVar, Union

    Buffer = Union[bytes, bytearray, memoryview]
    Flow = Generator["Token", Union[bytes, None], "Context"]
    Challenges = Union[None, str, list[str], tuple[str, ...]]
    HttpFlow = Generator[str, tuple[int, Challenges], Union["Context", None]]
    Sent, Reply, Result = TypeVar("Sent"), TypeVar("Reply"), TypeVar("Result")
    Owner = TypeVar("Owner", bound="_Owner")

__version__ = "0.2.0"
__all__ = [
    "DEFAULT_FLAGS", "ISC_REQ", "ISC_RET", "KERBEROS", "NEGOTIATE", "NTLM",
    "Context", "Credential", "Identity", "Message", "Package", "SspiError", "Token",
    "authenticate", "drive", "http_authenticate", "main", "mechanism", "packages",
    "spn", "tls_server_end_point",
]

# -- 3. Vocabulary -------------------------------------------------------------
# May touch: nothing. The words that every other section uses.

NEGOTIATE = "Negotiate"
KERBEROS = "Kerberos"
NTLM = "NTLM"


class _Bits(IntFlag):
    def __str__(self) -> str:
        names = [bit.name or "" for bit in type(self) if bit & self]
        unknown = int(self) & ~sum(map(int, type(self)))
        return " | ".join(names + [f"0x{unknown:X}"] * bool(unknown or not names))

    def __format__(self, spec: str) -> str:
        return format(int(self), spec) if spec else str(self)


class ISC_REQ(_Bits):
    """What a flow may ask SSPI for: sspi.h, ISC_REQ_*. Other bits may be added."""

    DELEGATE, MUTUAL_AUTH, REPLAY_DETECT, SEQUENCE_DETECT = 0x1, 0x2, 0x4, 0x8
    CONFIDENTIALITY, USE_SESSION_KEY, ALLOCATE_MEMORY = 0x10, 0x20, 0x100
    USE_DCE_STYLE, CONNECTION, EXTENDED_ERROR = 0x200, 0x800, 0x4000
    INTEGRITY, IDENTIFY, NO_INTEGRITY = 0x10000, 0x20000, 0x800000


class ISC_RET(_Bits):
    """What SSPI granted: sspi.h, ISC_RET_*. Unknown bits are kept."""

    DELEGATE, MUTUAL_AUTH, REPLAY_DETECT, SEQUENCE_DETECT = 0x1, 0x2, 0x4, 0x8
    CONFIDENTIALITY, USE_SESSION_KEY, ALLOCATED_MEMORY = 0x10, 0x20, 0x100
    USED_DCE_STYLE, CONNECTION, EXTENDED_ERROR = 0x200, 0x800, 0x4000
    INTEGRITY, IDENTIFY, NULL_SESSION = 0x10000, 0x20000, 0x40000


#: MUTUAL_AUTH, REPLAY_DETECT, SEQUENCE_DETECT, CONFIDENTIALITY, INTEGRITY
DEFAULT_FLAGS = ISC_REQ(0x0001001E)

# The same bits as plain integers: arithmetic on an IntFlag is ten times slower.
_DELEGATE, _MUTUAL_AUTH, _CONFIDENTIALITY = 0x1, 0x2, 0x10
_INTEGRITY, _NULL_SESSION = 0x10000, 0x40000


class Token(bytes):
    """Bytes for the peer; `.final` is True if SSPI expects no reply to them.

    False promises nothing: the peer may send a reply or none. The repr gives the
    length and never the bytes, so that no traceback or log shows them.
    """

    final: bool

    def __new__(cls, value: bytes, final: bool = False) -> Token:
        token = super().__new__(cls, value)
        token.final = final
        return token

    def __repr__(self) -> str:
        return f"<Token, {len(self)} bytes{', final' if self.final else ''}>"

    __str__ = __repr__  # bytes has a __str__ of its own, which shows the content


class Message(bytes):
    """What unwrap() returns; `.encrypted` tells whether the peer encrypted it."""

    encrypted: bool

    def __new__(cls, value: bytes, encrypted: bool = False) -> Message:
        message = super().__new__(cls, value)
        message.encrypted = encrypted
        return message


class SspiError(Exception):
    """Secur32 refused, or we did on its behalf.

    Not an OSError: retry loops catch those, and a refused logon that is tried
    again and again locks the account. Misuse is TypeError, ValueError or
    RuntimeError instead.

    status: unsigned, 0x8009030C rather than -2146893044.
    function: the SDK function that refused; a function of ours if SSPI was
        content and a rule of ours was not.
    package, target, leg: where it happened, None if unknown. Legs count from 1.
    token: what SSPI put out along with the refusal [bytes], usually b"". From
        InitializeSecurityContextW it is meant for the peer.
    """

    def __init__(
        self, status: int, function: str, token: bytes = b"", hint: str = "", *,
        package: str | None = None, target: str | None = None, leg: int | None = None,
    ) -> None:
        super().__init__(status, function)  # these two only: args get printed
        self.status = status & 0xFFFFFFFF
        self.function, self.token, self._hint = function, token, hint
        self.package, self.target, self.leg = package, target, leg

    @property
    def name(self) -> str:
        """The SDK's name of the status; hexadecimal if it has none."""
        return _STATUS_NAMES.get(self.status, f"0x{self.status:08X}")

    @property
    def hint(self) -> str:
        """What it usually means and what to check; else the system's text, or ""."""
        return self._hint or _explanation(self.status) or _system_text(self.status)

    def __str__(self) -> str:
        facts = [("package", self.package), ("target", self.target), ("leg", self.leg)]
        where = ", ".join(f"{name} {fact}" for name, fact in facts if fact is not None)
        head = f"{self.function}: {self.name} (0x{self.status:08X})"
        head += f" [{where}]" if where else ""
        return _printable(f"{head}: {self.hint}" if self.hint else head)


def _annotate(error: BaseException, package: str, *where: Any) -> None:
    """Tell an SspiError its package, target and leg, unless it knows them."""
    if isinstance(error, SspiError) and error.package is None:
        error.package, (error.target, error.leg) = package, [*where, None, None][:2]


class _NotCopied:
    """Base of what holds a secret or a handle, which a copy would share."""

    __slots__ = ()
    _reason = "it owns handles of SSPI"

    def __reduce__(self) -> NoReturn:
        kind = type(self).__name__
        raise TypeError(f"{kind} cannot be copied or pickled: {self._reason}")


class _Owner(_NotCopied):
    """Base of the public objects that own handles."""

    _handles: _Handles
    _where: tuple[str, ...]  # package and target, for errors

    @property
    def expires(self) -> datetime | None:
        """When it expires [local time], None for never or unknown."""
        return _local_time(self._handles.expiry)

    def close(self) -> None:
        """Release what it owns. Closing again does nothing."""
        self._handles.close()

    def _check_open(self) -> None:
        if not self._handles.open:
            raise RuntimeError(f"this {type(self).__name__} is closed")

    def _ask(self, step: Callable[..., Result], handle: Any, *facts: Any) -> Result:
        self._check_open()
        try:
            return step(self._handles.secur32, handle, *facts)
        except SspiError as refused:
            _annotate(refused, *self._where)
            raise

    def __enter__(self: Owner) -> Owner:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


# MS-NLMP 2.2.1: every NTLM message starts with this, whatever wraps it. In Kerberos
# ciphertext these eight bytes occur by chance once in 2**64.
_NTLMSSP = b"NTLMSSP\0"


def _same_package(package: str, known: str) -> bool:
    return package.lower() == known.lower()  # SSPI ignores case too


def _printable(text: str) -> str:
    """Escape what a terminal or a log must not get: line ends, ESC, surrogates."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _check_name(label: str, name: str) -> None:
    flaw = _flaw(name, label)
    if flaw:
        raise ValueError(flaw)


def _expect(label: str, value: object, kind: str, right: bool) -> None:
    if not right:
        raise TypeError(f"{label} must be {kind}, not {type(value).__name__}")


# -- 4. The flow ---------------------------------------------------------------
# May touch: bytes and the objects below; never a pointer.
#
# A leg is one InitializeSecurityContextW: the peer's last reply goes in, our next
# token comes out. The first leg has no reply. SSPI says when it has had enough
# (SEC_E_OK); until then each token needs a reply.
#
# Who owns what: the flow, from its first next() on. It owns a context handle and
# a share of a credential handle, both in one _Handles (section 6). At SEC_E_OK
# they move to the Context, which is made then and not before. However a flow ends
# without a Context, it releases them first.


def authenticate(
    target: str, identity: Identity | None = None, *, package: str = NEGOTIATE,
    flags: int = DEFAULT_FLAGS, require: int = 0, channel_bindings: bytes | None = None,
    allow_ntlm: bool = True, secur32: object = None,
) -> Generator[Token, bytes | None, Context]:
    """Authenticate to *target* and return the established Context.

    This checks its arguments and returns a generator; next() makes the first
    call to SSPI. *identity* None means the user who is logged on. *require* names
    the ISC_RET bits without which the flow must fail; MUTUAL_AUTH there also keeps
    every NTLM token from leaving. *channel_bindings* is application data as in RFC
    5929, b"tls-server-end-point:" + a digest. With *allow_ntlm* False, Negotiate
    is told not to use NTLM, and no token that carries NTLM leaves the flow.

    Yields: each Token [bytes] to send to the peer.
    Accepts: the peer's reply to it [bytes], or None if it sent none. A reply to a
        final token is not looked at.
    Returns: the Context, as StopIteration.value.
    Raises: TypeError, ValueError or, off Windows without *secur32*, OSError here;
        SspiError from the generator, and TypeError for a reply that is not bytes.
    Owns: the generator owns every handle until it returns; then you do.
    Blocks: while SSPI asks a domain controller; use a thread if you cannot wait.
    """
    _check_credential(identity, package, allow_ntlm)
    request = _Request(target, package, flags, require, channel_bindings, allow_ntlm)
    handles = _Handles(_SharedCredential(_backend(secur32)))
    wanted = handles.credential, package, identity, allow_ntlm
    return handles.watch(_flow(request, handles, _acquire, *wanted))


def drive(
    flow: Generator[Sent, Reply, Result], exchange: Callable[[Sent], Reply]
) -> Result:
    """Run a fresh *flow* to its end and return what it returns.

    exchange(token) sends the token and returns the peer's reply, or None if there
    was none. After a final token it need not wait for one. For a flow of
    http_authenticate() it sends a header and returns (status, challenges).

    Raises: what the flow raises; what *exchange* raises, after closing the flow;
        RuntimeError for a flow that has already ended.
    """
    _expect("exchange", exchange, "callable", callable(exchange))
    _expect("flow", flow, "a generator", hasattr(flow, "send"))
    if getattr(flow, "gi_frame", flow) is None:
        raise RuntimeError("this flow has already ended")
    held: list[Any] = [None]  # what goes on is popped: no traceback shows it
    try:
        while True:
            try:
                held.append(flow.send(held.pop()))
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            held.append(exchange(held.pop()))
    finally:
        flow.close()


class Credential(_Owner):
    """A credential handle for many logons, from any number of threads.

    Raises: SspiError if SSPI refuses; otherwise as authenticate().
    Frees: close() forbids new flows. The handle is released when the last flow or
        context that uses it closes.
    """

    def __init__(
        self, identity: Identity | None = None, *, package: str = NEGOTIATE,
        allow_ntlm: bool = True, secur32: object = None,
    ) -> None:
        _check_credential(identity, package, allow_ntlm)
        self.package, self._allow_ntlm, self._where = package, allow_ntlm, (package,)
        self._shared = _SharedCredential(_backend(secur32))
        self._handles = _Handles(self._shared)  # the share that close() gives up
        self._handles.watch(self)
        try:
            self._handles.join()
            self._handles.expiry = _acquire(self._shared, package, identity, allow_ntlm)
        except BaseException as reason:
            self.close()
            _annotate(reason, package)
            raise

    def authenticate(
        self, target: str, *, flags: int = DEFAULT_FLAGS, require: int = 0,
        channel_bindings: bytes | None = None,
    ) -> Generator[Token, bytes | None, Context]:
        """As authenticate(). RuntimeError, here or from next(), if it is closed."""
        options = flags, require, channel_bindings, self._allow_ntlm
        request = _Request(target, self.package, *options)
        self._check_open()
        handles = _Handles(self._shared)
        return handles.watch(_flow(request, handles, self._check_open))

    @property
    def user(self) -> str:
        """Who this is, in SSPI's words: "CORP\\alice". Raises: SspiError."""
        share = _Handles(self._shared)  # so that close() in a thread has to wait
        try:
            share.join()
            facts = SECPKG_CRED_ATTR_NAMES, "QueryCredentialsAttributesW"
            return self._ask(_user_name, self._shared.handle, *facts)
        finally:
            share.close()

    def __repr__(self) -> str:
        state = "" if self._handles.open else ", closed"
        return f"<Credential {_printable(self.package)}{state}>"


class _Request:
    """What one flow asks for, checked."""

    def __init__(
        self, target: str, package: str, flags: int, require: int,
        channel_bindings: bytes | None, allow_ntlm: bool,
    ) -> None:
        _check_target(target)
        _check_bits("flags", flags)
        _check_bits("require", require)
        _check_bindings(channel_bindings)
        self.target, self.package = target, package
        self.channel_bindings = channel_bindings
        self.flags, self.require = int(flags), int(require)
        if self.flags & _DELEGATE:
            self.flags |= _MUTUAL_AUTH  # or the delegate may be anybody
        # NTLM cannot keep MUTUAL_AUTH, so not even its first token may leave.
        self.refuses_ntlm = not allow_ntlm or bool(self.require & _MUTUAL_AUTH)
        if self.refuses_ntlm and _same_package(package, NTLM):
            why = "NTLM cannot prove who the server is"
            raise ValueError(f"package NTLM, allow_ntlm=False or MUTUAL_AUTH: {why}")


def _flow(
    request: _Request, handles: _Handles, acquire: Callable[..., object], *wanted: Any
) -> Flow:
    leg, reply = 0, None
    try:
        handles.join()
        acquire(*wanted)
        while True:
            leg += 1
            token = _initialize(handles, request, reply)
            if request.refuses_ntlm and token.count(_NTLMSSP):
                hint = _NTLM_FORBIDDEN
                raise SspiError(SEC_E_SECURITY_QOS_FAILED, "authenticate", hint=hint)
            if token.final:
                break
            reply = _checked_reply((yield token), token)
        _check_granted(handles, request)
        if token:
            yield token
        return Context(handles, request)
    except BaseException as reason:  # GeneratorExit and KeyboardInterrupt too
        handles.report_if_dropped()
        handles.close()
        _annotate(reason, request.package, request.target, leg or None)
        if isinstance(reason, SspiError):
            if reply is not None:
                reason._hint = _refusal(reply, reason.hint)
            if request.refuses_ntlm and _NTLMSSP in reason.token:
                reason.token = b""
        raise


def _checked_reply(reply: bytes | None, token: bytes) -> bytes:
    """Return *reply* as bytes, or say what is wrong with it before SSPI does."""
    if isinstance(reply, str):
        raise TypeError("the reply is str; did you forget base64.b64decode()?")
    right = reply is None or isinstance(reply, (bytes, bytearray, memoryview))
    _expect("the reply", reply, "bytes", right)
    reply = Token(reply or b"")  # as such, no traceback shows it
    if reply and reply != token:
        return reply
    hint, reply = _ECHO if reply else _NO_REPLY, None
    raise SspiError(SEC_E_INVALID_TOKEN, "authenticate", hint=hint)


_NTLM_FORBIDDEN = (
    "NTLM was about to be used, and allow_ntlm=False or require=MUTUAL_AUTH forbids "
    "it; no NTLM was sent. Kerberos was unavailable: check the SPN (setspn -Q SPN) and "
    "the ticket (klist)."
)
_ECHO = (
    "The reply is our own last token: the transport echoed it, or the wrong variable "
    "was sent back."
)
_NO_REPLY = (
    "The peer sent no token, and the handshake is not finished: it refused us (with "
    "NTLM usually the password), or it does not speak this package. Or next() was "
    "called twice, or drive() got a flow that had begun."
)


def _check_granted(handles: _Handles, request: _Request) -> None:
    """Raise unless SSPI granted what the flow requires."""
    if not request.require:
        return
    missing = request.require & ~handles.granted(request.require)
    if handles.attributes() & _NULL_SESSION:  # nobody is logged on
        hint = f"{ISC_RET(request.require)} was required; this is a null session."
    elif missing:
        package = _printable(handles.negotiated() or request.package)
        hint = f"{package} did not grant {ISC_RET(missing)}, which was required."
    else:
        return
    raise SspiError(SEC_E_SECURITY_QOS_FAILED, "authenticate", hint=hint)


# -- 5. Identities -------------------------------------------------------------
# May touch: nothing. What a caller may say, checked before SSPI hears it. No
# function of this section that can raise has a password in a local of another name.


class Identity(_NotCopied):
    """Explicit credentials: who to log on as, instead of the current user.

    str is passed as UTF-16 with the UNICODE flag; bytes are passed as they are
    with the ANSI flag, all of them or none. With *domain* None, "DOMAIN\\user" is
    split at the first backslash, and "user@suffix" stays whole with an empty
    domain. No domain is invented: "" leaves the choice to Windows. Python cannot wipe
    a str or bytes; the copy that SSPI reads is ours and is wiped.

    Raises: TypeError for a wrong type or a mixture. ValueError for an empty user,
        a NUL, a control character, a name longer than 32,766 [UTF-16 code units],
        and for a domain given twice: in *user* and as *domain*.
    """

    __slots__ = ("_password", "domain", "user")
    _reason = "it holds a password"

    user: str | bytes
    domain: str | bytes

    def __init__(
        self, user: str | bytes, password: str | bytes,
        domain: str | bytes | None = None,
    ) -> None:
        self.user = self.domain = ""  # for a repr, should the checks raise
        _check_kinds(type(user), type(password), type(domain))
        shown = _ascii(user)
        if domain is None:
            domain, user = _split_user(user)
        elif ("\\" in shown and "\ufffd" not in shown) or (domain and "@" in shown):
            raise ValueError(
                "the user name has a domain of its own: leave out domain for "
                "'CORP\\alice' and for 'alice@corp.example.com'"
            )
        flaw = "" if user else "the user name is empty"
        flaw = flaw or _flaw(user, "user") or _flaw(domain, "domain")
        flaw = flaw or _flaw(password, "password")
        if flaw:
            raise ValueError(flaw)
        self.user, self.domain, self._password = user, domain, password

    @classmethod
    def from_ansi(
        cls, user: bytes, password: bytes, domain: bytes | None = None,
        code_page: int = 0,
    ) -> Identity:
        """Convert bytes of a code page as MultiByteToWideChar does.

        *code_page*: 0 is the ANSI page of this machine (CP_ACP), 1 its OEM page
        (CP_OEMCP), others are themselves. Off Windows, 0 stands for 1252 and 1 for
        437, as on an English Windows.

        Raises: ValueError for bytes that mean nothing in that page and for a page
            that this machine does not have; otherwise as Identity().
        """
        _expect("code_page", code_page, "int", type(code_page) is int)
        for kind in type(user), type(password), type(b"" if domain is None else domain):
            if not issubclass(kind, bytes):
                raise TypeError(f"each part must be bytes, not {kind.__name__}")
        if _decode_ansi(b"x", code_page) is None:
            raise ValueError(f"this machine has no code page {code_page}")
        name, realm = (_decode_ansi(part or b"", code_page) for part in (user, domain))
        if None in (name, realm, _decode_ansi(password, code_page)):
            raise ValueError(f"bytes that mean nothing in code page {code_page}")
        realm = None if domain is None else realm
        return cls(name or "", _decode_ansi(password, code_page) or "", realm)

    def __repr__(self) -> str:
        return f"Identity({self.user!r}, ..., {self.domain!r})"


def _split_user(user: str | bytes) -> tuple[str | bytes, str | bytes]:
    """Return (domain, user) of a logon name."""
    if isinstance(user, str):
        domain, backslash, rest = user.partition("\\")
        return (domain, rest) if backslash else ("", user)
    head, mark, tail = user.partition(b"\\")
    if mark and not head.isascii():  # in a double-byte code page
        raise ValueError(
            "a backslash behind non-ASCII bytes may be half a character: give the "
            "domain as an argument of its own"
        )
    return (head, tail) if mark else (b"", user)


def _check_kinds(user: type, password: type, domain: type) -> None:
    """Check the types of what Identity() was given; the values stay there."""
    if password is type(None):
        raise TypeError(
            "a user name without a password: Windows has no kinit. Give both, or pass "
            "no Identity for the user who is logged on"
        )
    domain = user if domain is type(None) else domain
    for label, given in ("user", user), ("password", password), ("domain", domain):
        if not issubclass(given, (str, bytes)):
            raise TypeError(f"{label} must be str or bytes, not {given.__name__}")
        if issubclass(given, bytes) != issubclass(user, bytes):
            raise TypeError("user, password and domain must be all str or all bytes")


def _decode_ansi(password: Any, code_page: int) -> str | None:
    """Decode, or return None. Never raises: an exception would hold the bytes."""
    import codecs
    try:
        if sys.platform == "win32":
            return codecs.code_page_decode(code_page, password, "strict", True)[0]
        names = {0: "cp1252", 1: "cp437", 65001: "utf-8"}
        codec = names.get(code_page, f"cp{code_page}")
        # Python leaves holes in some pages; from 0x80 to 0x9F Windows fills them with
        # the C1 control of that number.
        holes = {0xDC00 + octet: octet for octet in range(0x80, 0xA0)}
        errors = "surrogateescape" if codec.startswith("cp125") else "strict"
        password = password.decode(codec, errors).translate(holes)
        return None if any("\ud800" <= c <= "\udfff" for c in password) else password
    except (LookupError, OSError, OverflowError, ValueError):  # UnicodeError is one
        return None


def _check_target(target: str) -> None:
    _expect("target", target, "str", isinstance(target, str))
    if "://" in target:
        raise ValueError("target is a URL; spn('HTTP', host) makes an SPN of its host")
    if not target or target.endswith("/") or target != target.strip():
        raise ValueError("target must be an SPN such as 'HTTP/intranet.example.com'")
    _check_name("target", target)


def _check_credential(identity: object, package: str, allow_ntlm: bool) -> None:
    known = identity is None or isinstance(identity, Identity)
    _expect("identity", identity, "Identity", known)
    _expect("package", package, "str", isinstance(package, str))
    _expect("allow_ntlm", allow_ntlm, "bool", isinstance(allow_ntlm, bool))
    if not package:
        raise ValueError("package must be a name such as 'Negotiate'")
    _check_name("package", package)
    if not (allow_ntlm or package.lower() in ("negotiate", "kerberos")):
        only = "only Negotiate and Kerberos can keep that"
        raise ValueError(f"package {_printable(package)} with allow_ntlm=False: {only}")


def _check_bits(label: str, bits: int) -> None:
    _expect(label, bits, "int", isinstance(bits, int) and not isinstance(bits, bool))
    if not 0 <= bits <= 0xFFFFFFFF:
        raise ValueError(f"{label} must fit in 32 bits")


_LONGEST_NAME = 32766  # [UTF-16 code units]: what a UNICODE_STRING holds beside NUL
_CONTROLS = frozenset(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029]))


def _flaw(password: str | bytes, label: str) -> str:
    """Say what is wrong with a string for SSPI, or return "". Never raises: it may be
    a password, hence its name here. That may hold any character but NUL."""
    if _count_units(password) > _LONGEST_NAME:
        return f"{label} is longer than {_LONGEST_NAME} UTF-16 code units"
    if 0 in password if isinstance(password, bytes) else "\0" in password:
        return f"{label} holds a NUL, at which SSPI would cut it"
    if label == "password" or _CONTROLS.isdisjoint(_ascii(password)):
        return ""
    advice = "in Python source a backslash is written twice, as in 'CORP\\\\alice'"
    return f"{label} holds a control character; {advice}"


def _ascii(name: str | bytes) -> str:
    """A string as it is, bytes with U+FFFD for what is not ASCII."""
    return name if isinstance(name, str) else name.decode("ascii", "replace")


# -- 6. The context ------------------------------------------------------------
# May touch: handles and message frames, as opaque values. What holds a handle is
# defined here; a Credential (section 4) holds its own through a _Handles.
#
# A handle is 16 bytes of ours that SSPI fills in (8 on 32 bits), so the memory
# itself tells whether there is something to release: it stays true when an
# interrupt comes between SSPI's return and our next line.
#
# A context handle has one owner: a flow until SEC_E_OK, then the Context that
# the flow returns. A credential handle may have several: the Credential object,
# and every flow and Context made from it. Each of them holds a _Handles; closing
# that deletes its context handle and gives up its share of the credential. The
# credential handle is released when no share is left, and so always after the
# contexts that use it.
#
# Closing twice, from two threads, or again after an interrupt is safe: every step
# of close() can be repeated, and _release() is the one place where a handle goes.
# A weakref.finalize closes what its owner forgot: when the owner is collected, or
# at exit.


class Context(_Owner):
    """An established security context: what a flow returns.

    target, requested_package: as they were asked for.
    Messages may be any bytes-like objects, which are not modified. Use a context
    from one thread at a time: messages are numbered in each direction.

    Raises: SspiError from each that asks SSPI, and RuntimeError after close().
    Owns: the context handle and its share of the credential, until close() or the
        end of a `with` block. Forgetting to close is a ResourceWarning.
    """

    def __init__(self, handles: _Handles, request: _Request) -> None:
        self.target, self.requested_package = request.target, request.package
        self._handles, self._where = handles, (request.package, request.target)
        self._sent = self._received = 0  # messages in each direction
        self._frames: list[_Frame] = []  # to be used again
        handles.watch(self)

    @property
    def package(self) -> str:
        """The package that was negotiated."""
        return self._ask(_negotiated_package, self._handles.context)

    @property
    def user(self) -> str:
        """Who we are to the peer: "CORP\\alice"."""
        facts = SECPKG_ATTR_NAMES, "QueryContextAttributesW"
        return self._ask(_user_name, self._handles.context, *facts)

    @property
    def flags(self) -> ISC_RET:
        """What SSPI granted. MUTUAL_AUTH is among it only if the negotiated package
        can keep it; what was not asked before close() counts as one that cannot."""
        return ISC_RET(self._handles.granted(0xFFFFFFFF))

    @property
    def sizes(self) -> SecPkgContext_Sizes:
        """cbMaxToken, cbMaxSignature, cbBlockSize, cbSecurityTrailer [bytes]."""
        sizes = SecPkgContext_Sizes()
        self._ask(_query, self._handles.context, SECPKG_ATTR_SIZES, sizes)
        return sizes

    @property
    def session_key(self) -> bytes:
        """The key that both sides share [bytes]."""
        return self._ask(_session_key, self._handles.context)

    def wrap(self, data: Buffer, encrypt: bool = True) -> bytes:
        """Protect *data* and return one blob: token, text, padding. With *encrypt*
        False it is signed and stays readable, if the package can do that."""
        data = _view(data)
        return b"".join(self._encrypt(data, encrypt))

    def unwrap(self, blob: Buffer) -> Message:
        """Open what the peer's wrap() made. If that fails, it was not received."""
        blob = _view(blob)
        with self._message(_INTEGRITY | _CONFIDENTIALITY, blob) as frame:
            length = len(blob)
            if frame.is_ntlm:  # it does not look for its token inside a message
                token, text = blob[: frame.trailer], blob[frame.trailer :]
                frame.views += token, text
                frame.check_length("token", token, frame.trailer)
                frame.lay_out((SECBUFFER_TOKEN, token), (SECBUFFER_DATA, text))
            else:
                frame.check_length("message", blob, length)
                frame.lay_out((SECBUFFER_STREAM, blob), (SECBUFFER_DATA, b""))
                frame.parts[1].pvBuffer = None  # SSPI will point into the stream
            encrypted = frame.open("DecryptMessage", self._received)
            self._received += 1
            return Message(frame.read(1, length), encrypted)

    def seal(self, data: Buffer) -> tuple[bytes, bytes]:
        """Encrypt *data* and return (token, ciphertext)."""
        data = _view(data)
        return self._encrypt(data, True)

    def unseal(self, token: Buffer, ciphertext: Buffer) -> bytes:
        """Decrypt what the peer sealed. SspiError also if it was only signed."""
        token, ciphertext = _view(token), _view(ciphertext)
        with self._message(_CONFIDENTIALITY, token, ciphertext) as frame:
            frame.check_length("token", token, frame.trailer)
            frame.lay_out((SECBUFFER_TOKEN, token), (SECBUFFER_DATA, ciphertext))
            encrypted = frame.open("DecryptMessage", self._received)
            self._received += 1
            if not encrypted:
                hint = "The peer signed it in clear text."
                raise SspiError(SEC_E_QOP_NOT_SUPPORTED, "Context", hint=hint)
            return frame.read(1, len(ciphertext))

    def sign(self, data: Buffer) -> bytes:
        """Return the signature of *data*, as long as SSPI made it [bytes]."""
        data = _view(data)
        with self._message(_INTEGRITY, data) as frame:
            room = bytes(frame.signature)
            frame.lay_out((SECBUFFER_DATA, data), (SECBUFFER_TOKEN, room))
            frame.protect("MakeSignature", 0, self._sent)
            self._sent += 1
            return frame.read(1, len(room))

    def verify(self, data: Buffer, signature: Buffer) -> None:
        """Return if *signature* is the peer's over *data*, the next in turn. Else
        SspiError, SEC_E_MESSAGE_ALTERED or SEC_E_OUT_OF_SEQUENCE."""
        data, signature = _view(data), _view(signature)
        with self._message(_INTEGRITY, data, signature) as frame:
            frame.check_length("signature", signature, frame.signature)
            frame.lay_out((SECBUFFER_DATA, data), (SECBUFFER_TOKEN, signature))
            frame.open("VerifySignature", self._received)
            self._received += 1

    def _encrypt(self, data: Any, encrypt: bool) -> tuple[bytes, bytes]:
        needed = _CONFIDENTIALITY if encrypt else _INTEGRITY
        with self._message(needed, data) as frame:
            token = SECBUFFER_TOKEN, bytes(frame.trailer)
            frame.lay_out(token, (SECBUFFER_DATA, data), *frame.padding)
            quality = 0 if encrypt else SECQOP_WRAP_NO_ENCRYPT
            frame.protect("EncryptMessage", quality, self._sent)
            self._sent += 1
            text = frame.read(1, len(data)) + frame.read(2, frame.block)
            return frame.read(0, frame.trailer), text

    def _message(self, needed: int, *views: Any) -> _Frame:
        """Return a frame for one message, an old one if there is one.

        pop() is atomic: two threads never get the same. However the `with` block
        ends, the caller's buffers are let go and our copy of the message is
        dropped, so that no traceback keeps either.
        """
        try:
            self._check_open()
            for view in views:
                if view is None:
                    raise TypeError("a message must be bytes-like, in one piece")
            if not self._handles.attributes() & needed:
                hint = f"{ISC_RET(needed)} was not granted, and this needs it."
                raise SspiError(SEC_E_QOP_NOT_SUPPORTED, "Context", hint=hint)
            try:
                frame = self._frames.pop()
            except IndexError:
                frame = _Frame(self._handles, self.package, self.sizes)
        except BaseException as reason:
            for view in views:
                if view is not None:
                    view.release()
            _annotate(reason, *self._where)
            raise
        frame.views, frame.pool, frame.where = views, self._frames, self._where
        return frame

    def __repr__(self) -> str:
        package = self._handles.negotiated() or self.requested_package
        state = "" if self._handles.open else ", closed"
        return f"<Context {_printable(package)} {_printable(self.target)}{state}>"


class _Handles(_NotCopied):
    """What one owner holds: a context handle, perhaps not filled yet, and a share
    of a credential. close() gives both up."""

    def __init__(self, credential: _SharedCredential) -> None:
        self.credential, self.secur32 = credential, credential.secur32
        self.context = _no_handle()
        self._held = [self.context]  # _release() takes it out
        self.expiry = self._attributes = 0
        self._package = ""
        self._net: Any = None

    @property
    def open(self) -> bool:
        return bool(self._held)

    def join(self) -> None:
        # Whoever joins looks afterwards whether the credential is still open. If
        # it was closed in between, our share decides when it goes: no lock needed.
        self.credential.shares.add(self)

    def attributes(self) -> int:
        """The ISC_RET bits as SSPI granted them."""
        # ALLOCATED_MEMORY is always granted: a provider that wrote nothing at all
        # is asked again (Wine's NTLM).
        if not self._attributes and self.open:
            flags = ULONG(0)  # SecPkgContext_Flags has this one member
            try:
                _query(self.secur32, self.context, SECPKG_ATTR_FLAGS, flags)
                self._attributes = flags.value
            except SspiError:
                pass
        return self._attributes

    def negotiated(self) -> str:
        """The package that was negotiated; "" if SSPI will not say."""
        if not self._package and self.open:
            try:
                self._package = _negotiated_package(self.secur32, self.context)
            except SspiError:
                pass
        return self._package

    def granted(self, wanted: int) -> int:
        """Those of the *wanted* bits that were granted and are worth something.

        Windows grants MUTUAL_AUTH to NTLM too, which cannot prove who the server is
        (dotnet/runtime#131192). "Negotiate" names no package that could.
        """
        granted = self.attributes() & wanted
        if granted & _MUTUAL_AUTH:
            if self.negotiated().lower() in ("", "ntlm", "negotiate"):
                granted &= ~_MUTUAL_AUTH
        return granted

    def watch(self, owner: Result) -> Result:
        """Make *owner* the one owner of this, who is reported if it forgets it."""
        import weakref  # not at the top: importing us would take a tenth longer

        if self._net is not None:
            self._net.detach()
        self._net = weakref.finalize(owner, _close_forgotten, self, type(owner))
        return owner

    def report_if_dropped(self) -> None:
        """Close with a warning if the owner is gone. CPython's finalize comes before
        a dropped generator is closed; PyPy's comes after, if we do not call it."""
        if self._net.peek() is None:
            self._net()

    def close(self) -> None:
        try:
            _release(self._held, self.secur32.DeleteSecurityContext)
        finally:
            if not _is_valid(self.context):  # it goes first, whatever interrupts us
                self.credential.leave(self)


class _SharedCredential(_NotCopied):
    """A credential handle, released when the last share of it is given up."""

    def __init__(self, secur32: Any) -> None:
        self.secur32 = secur32
        self.handle = _no_handle()
        self.shares: set[_Handles] = set()
        self._held = [self.handle]

    def leave(self, share: _Handles) -> None:
        self.shares.discard(share)
        if not self.shares:
            _release(self._held, self.secur32.FreeCredentialsHandle)


def _close_forgotten(handles: _Handles, kind: type) -> None:
    forgotten = handles in handles.credential.shares
    handles.close()
    if forgotten:
        import warnings
        what = f"a {kind.__name__} was never closed"
        if not issubclass(kind, _Owner):
            what = "a flow was dropped in the middle of its handshake"
        warnings.warn(f"sspi_client: {what}", ResourceWarning, 2)


def _local_time(stamp: int) -> datetime | None:
    """Convert [100 ns since 1601-01-01 local time]; None for never and for 0."""
    from datetime import datetime, timedelta
    if stamp <= 0:
        return None
    try:
        return datetime(1601, 1, 1) + timedelta(microseconds=stamp // 10)
    except OverflowError:  # "never" is 0x7FFFFFFFFFFFFFFF, beyond the year 9999
        return None


# -- 7. Bindings ---------------------------------------------------------------
# May touch: bytes only. A certificate comes from the network and is not trusted.

#: The hash of a signature algorithm: the arcs above its OID, in hexadecimal -> its
#: last arc. RFC 5929 4.1: MD5 and SHA-1 are replaced by SHA-256, which also serves
#: whatever is not listed.
_SHA2 = {1: "sha256", 2: "sha384", 3: "sha512", 4: "sha224"}
_SHA2_SHIFTED = {1: "sha224", 2: "sha256", 3: "sha384", 4: "sha512"}
_SHA3 = ("sha3_224", "sha3_256", "sha3_384", "sha3_512")
_SIGNATURE_HASHES = {
    "2a864886f70d0101": {10 + arc: name for arc, name in _SHA2.items()},  # RFC 4055
    "2a8648ce3d0403": _SHA2_SHIFTED,  # ECDSA, RFC 5758
    "6086480165030402": {**_SHA2, **dict(enumerate(_SHA3, 7))},  # parameters of PSS
    # NIST's: DSA with SHA-2 (RFC 5758), then DSA, ECDSA and RSA with SHA-3
    "6086480165030403": {**_SHA2_SHIFTED, **dict(enumerate(3 * _SHA3, 5))},
}
_RSASSA_PSS = bytes.fromhex("2a864886f70d01010a")  # RFC 4055; its hash is a parameter


def tls_server_end_point(certificate: Buffer) -> bytes:
    """Make `channel_bindings` of a server's certificate, as RFC 5929 says.

    *certificate*: DER, as SSLSocket.getpeercert(True) returns it.

    Returns: b"tls-server-end-point:" + its hash, by the function of its signature.
    Raises: TypeError; ValueError if it is not one whole DER certificate.
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
        raise ValueError("its length is written longer than necessary")
    parts = list(_der_items(content))
    if [tag for tag, _ in parts] != [0x30, 0x30, 0x03]:
        raise ValueError("it has another shape")
    tag, oid, parameters = _der_split(parts[1][1])
    if tag == 0x06 and oid == _RSASSA_PSS and parameters:
        fields = dict(_der_items(_der_only(parameters, 0x30)))
        if 0xA0 in fields:  # hashAlgorithm; SHA-1 if it is left out
            _, oid, _ = _der_split(_der_only(fields[0xA0], 0x30))
    arcs = _SIGNATURE_HASHES.get(oid[:-1].hex(), {})
    return arcs.get(oid[-1] if oid else 0, "sha256")


def _check_bindings(channel_bindings: bytes | None) -> None:
    if channel_bindings is None:
        return
    shape = 'application data such as b"tls-server-end-point:" + digest (RFC 5929)'
    if not isinstance(channel_bindings, bytes):
        kind = type(channel_bindings).__name__
        raise TypeError(f"channel_bindings must be bytes, not {kind}: {shape}")
    prefix, colon, digest = channel_bindings.partition(b":")
    if not colon or not prefix.replace(b"-", b"").isalnum():
        raise ValueError(f"channel_bindings lack their prefix: {shape}")
    if not digest:
        raise ValueError(f"channel_bindings lack what follows the prefix: {shape}")


def _der_only(data: bytes, tag: int) -> bytes:
    """Return the content of the one element that *data* is."""
    found, content, rest = _der_split(data)
    if found != tag:
        raise ValueError(f"DER element 0x{tag:02X} is due")
    if rest:
        raise ValueError(f"{len(rest)} bytes too many")
    return content


def _der_split(data: bytes) -> tuple[int, bytes, bytes]:
    """Return (tag, content, rest) of the first element of *data*."""
    start, end = _der_bounds(data, 0)
    return data[0], data[start:end], data[end:]


def _der_items(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0  # by index: cutting the rest off each time would be quadratic
    while at < len(data):
        start, end = _der_bounds(data, at)
        yield data[at], data[start:end]
        at = end


def _der_bounds(data: bytes, at: int) -> tuple[int, int]:
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
# that complete it or release what it gave. Nothing above this line sees a pointer.


def _acquire(
    shared: _SharedCredential, package: str, identity: Identity | None, allow_ntlm: bool
) -> int:
    """Fill the handle with an outbound credential and return its expiry."""
    handle, expiry = shared.handle, TimeStamp()
    plain = allow_ntlm or not _same_package(package, NEGOTIATE)
    package_list = None if plain else "!ntlm"
    memory = _identity_memory(identity, package_list)
    try:
        try:
            auth = _write_identity(memory, identity, package_list) if memory else None
            status = shared.secur32.AcquireCredentialsHandleW(
                None, _wide(package), SECPKG_CRED_OUTBOUND,  # pszPrincipal
                None, None if auth is None else byref(auth),  # pvLogonId
                None, None, handle, expiry,  # pGetKeyFn, pvGetKeyArgument
            )
        finally:
            memset(memory, 0, sizeof(memory))
    finally:  # again: Ctrl-C may have come just before
        memset(memory, 0, sizeof(memory))
    if status & _ERROR_BIT:
        _invalidate(handle)  # nothing to release, whatever SSPI left in it
    _check(status, "AcquireCredentialsHandleW")
    return expiry.value


def _initialize(handles: _Handles, request: _Request, reply: bytes | None) -> Token:
    """Make one leg: the token, and what SSPI says along with it.

    The context is invalid before the first leg and holds the newest handle after
    each. attributes and expiry start from zero: some providers write neither. The
    output buffer is freed whatever the status; an SspiError has the error token.
    """
    secur32, context = handles.secur32, handles.context
    inputs = _inputs(reply, request.channel_bindings)
    output = _Buffers((SECBUFFER_TOKEN, b""))  # SSPI allocates
    given = output.parts[0]
    attributes, expiry = ULONG(0), TimeStamp()
    function = "InitializeSecurityContextW"
    try:
        status = secur32.InitializeSecurityContextW(
            handles.credential.handle, None if reply is None else context,
            _wide(request.target), request.flags | ISC_REQ_ALLOCATE_MEMORY, 0,
            SECURITY_NATIVE_DREP, None if inputs is None else inputs.descriptor, 0,
            context, output.descriptor, attributes, expiry,
        )
        if reply is None and status & _ERROR_BIT:
            _invalidate(context)  # nothing to delete, whatever SSPI left in it
        done = status in (SEC_E_OK, SEC_I_COMPLETE_NEEDED)
        if status in (SEC_I_COMPLETE_NEEDED, SEC_I_COMPLETE_AND_CONTINUE):
            function = "CompleteAuthToken"
            status = secur32.CompleteAuthToken(context, output.descriptor)
        elif status == SEC_I_CONTINUE_NEEDED:
            status = SEC_E_OK
        token = Token(_bytes_at(given.pvBuffer, given.cbBuffer), done)
        _check(status, function, token)
        _expect_answer(given.pvBuffer or not given.cbBuffer, function)
    finally:
        _free_buffer(secur32, given.pvBuffer)
    handles._attributes, handles.expiry = attributes.value, expiry.value
    return token


def _inputs(reply: bytes | None, channel_bindings: bytes | None) -> _Buffers | None:
    """Build pInput: the reply, then the bindings; None if there is neither."""
    parts = [] if reply is None else [(SECBUFFER_TOKEN, reply)]
    if channel_bindings is not None:
        header = SEC_CHANNEL_BINDINGS()
        header.cbApplicationDataLength = len(channel_bindings)
        header.dwApplicationDataOffset = sizeof(header)
        parts.append((SECBUFFER_CHANNEL_BINDINGS, bytes(header) + channel_bindings))
    return _Buffers(*parts) if parts else None


class _Buffers:
    """Memory of ours, and the descriptor that tells SSPI where its parts lie.

    SSPI works in place, so the parts are copied, one behind the other, into a
    bytearray that nobody else has, and what SSPI leaves there is copied out.
    Nothing immutable is ever written to.
    """

    def __init__(self, *parts: tuple[int, Any]) -> None:
        buffers = (SecBuffer * 3)()
        self.parts = tuple(buffers)
        self.descriptor = SecBufferDesc(SECBUFFER_VERSION, 0, buffers)
        self.function = ""  # the one that was called last
        self.lay_out(*parts)

    def lay_out(self, *parts: tuple[int, Any]) -> None:
        """Copy and describe *parts*: BufferType, and bytes-like content or room. The
        memory is never resized from here on: SSPI has its address."""
        contents = [content for _, content in parts]
        lengths = list(map(len, contents))
        total = sum(lengths)
        if total > 0xFFFFFFFF:
            raise ValueError(f"a message of {total} bytes; SSPI counts in 32 bits")
        memory = bytearray().join(contents)
        # Of one byte, not of an array: ctypes would make a type for every length.
        address = addressof(c_ubyte.from_buffer(memory)) if memory else 0
        self.memory: bytearray | None = memory
        self._address = address
        self.descriptor.cBuffers = len(parts)
        for buffer, (kind, _), length in zip(self.parts, parts, lengths):
            buffer.BufferType, buffer.cbBuffer, buffer.pvBuffer = kind, length, address
            address += length

    def read(self, index: int, room: int) -> bytes:
        """Return what SSPI left in a part, clipped to the *room* it had [bytes]. SSPI
        may move a part, as DecryptMessage does in a STREAM, but not out of these."""
        part = self.parts[index]
        length = min(part.cbBuffer, room)
        if not length:
            return b""
        start = (part.pvBuffer or 0) - self._address
        memory = memoryview(self.memory or b"")
        _expect_answer(0 <= start <= len(memory), self.function)
        return bytes(memory[start : start + length])


class _Frame(_Buffers):
    """Where messages of one context are protected and opened, one after the other.

    It serves again because making one takes a third of the time of a short message.
    Its memory does not: that holds plaintext.
    """

    views: tuple[Any, ...]  # of the caller's buffers, to be released
    pool: list[_Frame]  # where it goes back to
    where: tuple[str, ...]  # package and target, for errors

    def __init__(self, handles: _Handles, package: str, sizes: SecPkgContext_Sizes):
        super().__init__()
        self.secur32, self.context = handles.secur32, handles.context
        self.is_ntlm = _same_package(package, NTLM)
        self.signature, self.trailer = sizes.cbMaxSignature, sizes.cbSecurityTrailer
        self.block: int = sizes.cbBlockSize
        self.padding = ((SECBUFFER_PADDING, bytes(self.block)),) if self.block else ()

    def check_length(self, what: str, view: Buffer, longest: int) -> None:
        # Before SSPI sees it: NTLM's tokens have one length, and it would read as
        # many bytes; those of Kerberos may be shorter than announced.
        length = len(view)
        if not 0 < length <= longest or (self.is_ntlm and length != longest):
            due = longest if self.is_ntlm else f"1 to {longest}"
            hint = f"A {what} of {length} bytes, where {due} are due."
            raise SspiError(SEC_E_MESSAGE_ALTERED, "Context", hint=hint)

    def protect(self, function: str, quality: int, sequence: int) -> None:
        """Call EncryptMessage or MakeSignature."""
        self.function, call = function, getattr(self.secur32, function)
        _check(call(self.context, quality, self.descriptor, sequence), function)

    def open(self, function: str, sequence: int) -> bool:
        """Call DecryptMessage or VerifySignature; return whether it was encrypted."""
        quality = ULONG(0)
        self.function, call = function, getattr(self.secur32, function)
        _check(call(self.context, self.descriptor, sequence, quality), function)
        return quality.value != SECQOP_WRAP_NO_ENCRYPT

    def __enter__(self) -> _Frame:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        for view in self.views:
            view.release()
        self.memory, self.views = None, ()
        if error is not None:
            _annotate(error, *self.where)
        self.pool.append(self)
        del self.pool  # or we would own each other


def _view(data: Buffer) -> Any:
    """Look at a bytes-like object byte by byte; None for anything else.

    _message() complains about None, not we: our caller still has *data* under that
    name, which may be a message in clear text, and a traceback would show it.
    """
    try:
        return memoryview(data).cast("B")
    except TypeError:  # a view with gaps cannot be cast
        return None


def _session_key(secur32: Any, context: SecHandle) -> bytes:
    answer = SecPkgContext_SessionKey()
    try:
        _query(secur32, context, SECPKG_ATTR_SESSION_KEY, answer)
        _expect_answer(answer.SessionKey and answer.SessionKeyLength)
        return _bytes_at(answer.SessionKey, answer.SessionKeyLength)
    finally:
        if answer.SessionKey:
            memset(answer.SessionKey, 0, answer.SessionKeyLength)
        _free_buffer(secur32, answer.SessionKey)


def _negotiated_package(secur32: Any, context: SecHandle) -> str:
    """Ask for the package in use: NEGOTIATION_INFO, else PACKAGE_INFO."""
    answer = SecPkgContext_NegotiationInfoW()  # SecPkgContext_PackageInfoW begins alike
    try:
        try:
            _query(secur32, context, SECPKG_ATTR_NEGOTIATION_INFO, answer)
        except SspiError as refused:
            if refused.status != SEC_E_UNSUPPORTED_FUNCTION:
                raise
            _query(secur32, context, SECPKG_ATTR_PACKAGE_INFO, answer)
        _expect_answer(answer.PackageInfo)
        return _text(answer.PackageInfo.contents.Name)
    finally:
        _free_buffer(secur32, answer.PackageInfo)


def _user_name(secur32: Any, handle: SecHandle, attribute: int, function: str) -> str:
    names = SecPkgContext_NamesW()  # SecPkgCredentials_NamesW is the same
    try:
        _query(secur32, handle, attribute, names, function)
        _expect_answer(names.sUserName, function)
        return _text(names.sUserName)
    finally:
        _free_buffer(secur32, names.sUserName)


def _query(
    secur32: Any, handle: SecHandle, attribute: int, answer: Any,
    function: str = "QueryContextAttributesW",
) -> None:
    status = getattr(secur32, function)(handle, attribute, byref(answer))
    if status != SEC_E_OK:
        memset(byref(answer), 0, sizeof(answer))  # nothing in it is ours
        raise SspiError(status, function)


def _check(status: int, function: str, token: bytes = b"") -> None:
    if status != SEC_E_OK:
        raise SspiError(status, function, token)


def _expect_answer(answer: Any, function: str = "QueryContextAttributesW") -> None:
    if not answer:
        hint = "SSPI reported success and returned nothing, or what is not its own."
        raise SspiError(SEC_E_INTERNAL_ERROR, function, hint=hint)


def _free_buffer(secur32: Any, memory: Any) -> None:
    if memory:
        secur32.FreeContextBuffer(memory)


def _release(held: list[SecHandle], free: Callable[[SecHandle], int]) -> None:
    """Release the handle in *held*, if it is still there and was ever filled.

    pop() is the claim, and it is atomic: of two threads one gets the handle, and
    it counts as released once its memory is invalid. map() takes it from *calls*,
    makes the call and notes its status in one step, which Ctrl-C cannot split. What
    was not called goes back for the next close(); so does what ctypes refused with
    MemoryError or RecursionError, before the DLL was reached. Ctrl-C in the lines
    before map() and in the last ones is what can still leak a handle; one between
    SSPI's return and FreeContextBuffer, a buffer.
    """
    statuses: list[int] = []
    try:
        handle = held.pop()
    except IndexError:
        return
    calls = iter([handle])
    try:
        if _is_valid(handle):
            statuses.extend(map(free, calls))
        else:
            next(calls)
    except (MemoryError, RecursionError):
        if not statuses:
            calls = iter([handle])
        raise
    finally:
        if next(calls, None) is None:
            handle.dwLower = handle.dwUpper = _INVALID
        else:
            held.append(handle)


def _no_handle() -> SecHandle:
    return SecHandle(_INVALID, _INVALID)


def _is_valid(handle: SecHandle) -> bool:
    # sspi.h's SecIsValidHandle wants both halves; sspi-rs writes dwLower alone, and
    # a call that fails leaves both invalid, or we see to it.
    return bool(handle.dwLower != _INVALID or handle.dwUpper != _INVALID)


def _invalidate(handle: SecHandle) -> None:
    handle.dwLower = handle.dwUpper = _INVALID  # sspi.h: SecInvalidateHandle


def _identity_memory(identity: Identity | None, package_list: str | None) -> Any:
    """Return memory for the strings of pAuthData, each with a NUL. Still empty."""
    strings = _identity_strings(identity, package_list)
    units = sum(_count_units(password) + 1 for _, password in strings)
    ansi = identity is not None and isinstance(identity.user, bytes)
    return ((c_ubyte if ansi else SEC_WCHAR) * units)()


def _write_identity(
    memory: Any, identity: Identity | None, package_list: str | None
) -> Any:
    """Fill *memory*, which the caller wipes, and return what pAuthData points at.

    The plain structure of sspi.h, or the EX one for a package list; that exists for
    the current logon too, with NULL for its strings. Lengths are in [UTF-16 code
    units], or [bytes] for an ANSI identity; the list is then ANSI as well, which the
    SDK does not spell out. Unit by unit: encode() would leave a second copy of the
    password that nobody wipes.
    """
    auth: Any = SEC_WINNT_AUTH_IDENTITY_W()
    if package_list is not None:
        auth = SEC_WINNT_AUTH_IDENTITY_EXW(SEC_WINNT_AUTH_IDENTITY_VERSION)
        auth.Length = sizeof(auth)
    auth.Flags = SEC_WINNT_AUTH_IDENTITY_UNICODE
    if memory._type_ is c_ubyte:
        auth.Flags = SEC_WINNT_AUTH_IDENTITY_ANSI
    place = 0
    for field, password in _identity_strings(identity, package_list):
        setattr(auth, field, addressof(memory) + place * sizeof(memory._type_))
        setattr(auth, field + "Length", _count_units(password))
        for character in password:
            point = character if isinstance(character, int) else ord(character)
            if point > 0xFFFF:  # a surrogate pair
                memory[place] = 0xD800 + ((point - 0x10000) >> 10)
                point = 0xDC00 + (point & 0x3FF)
                place += 1
            memory[place] = point
            place += 1
        place += 1  # the NUL
    return auth


def _identity_strings(
    identity: Identity | None, package_list: str | None
) -> Iterator[tuple[str, str | bytes]]:
    if identity is not None:
        yield "User", identity.user
        yield "Domain", identity.domain
        yield "Password", identity._password
    if package_list is not None:
        yield "PackageList", package_list


def _count_units(password: str | bytes) -> int:
    if isinstance(password, bytes) or password.isascii():
        return len(password)
    return len(password) + sum(c > "\uffff" for c in password)


def _bytes_at(address: int | None, length: int) -> bytes:
    return string_at(address, length) if address else b""


def _wide(text: str) -> Any:
    """Return LPCWSTR for *text*: the first unit of NUL-terminated UTF-16."""
    units = text.encode("utf-16-le", "surrogatepass") + b"\0\0"
    return SEC_WCHAR.from_buffer(bytearray(units))


def _text(wide: Any) -> str:
    """Read a NUL-terminated UTF-16 string that SSPI allocated; NULL is ""."""
    if not wide:
        return ""
    length = 0
    while wide[length]:
        length += 1
    return string_at(wide, 2 * length).decode("utf-16-le", "surrogatepass")


# -- 9. The binding ------------------------------------------------------------
# May touch: the DLL; this is the only place that loads it.

_loaded: list[Secur32] = []  # the one Secur32 of this process


def _backend(secur32: Any) -> Any:
    """Return *secur32* if it has every function of Secur32, or the DLL's."""
    if secur32 is None:
        if not _loaded:  # threads that race here each get a whole one
            _loaded.append(Secur32())
        return _loaded[0]
    missing = [n for n in PROTOTYPES if not callable(getattr(secur32, n, None))]
    if missing:
        raise TypeError(f"secur32 lacks {', '.join(missing)}")
    return secur32


class Secur32:
    """The functions of secur32.dll. The stubs below are their prototypes, with the
    SDK's parameter names; an instance replaces each with the DLL's function."""

    def __init__(self) -> None:
        if sys.platform != "win32":
            raise OSError(
                "secur32.dll is a part of Windows; on this platform pass secur32=, "
                "an object that stands in for it"
            )
        # Private, never ctypes.windll: its argtypes are shared by the process.
        # 0x800 is LOAD_LIBRARY_SEARCH_SYSTEM32: a secur32.dll beside the script or
        # in the working directory is not looked at.
        dll = ctypes.WinDLL("secur32.dll", winmode=0x800)
        for name, (restype, *argtypes) in PROTOTYPES.items():
            function = dll[name]
            function.restype, function.argtypes = restype, argtypes
            setattr(self, name, function)

    def AcquireCredentialsHandleW(
        self, pszPrincipal: LPCWSTR, pszPackage: LPCWSTR, fCredentialUse: ULONG,
        pvLogonId: PVOID, pAuthData: PVOID, pGetKeyFn: PVOID, pvGetKeyArgument: PVOID,
        phCredential: PSecHandle, ptsExpiry: PTimeStamp,
    ) -> SECURITY_STATUS: ...
    def FreeCredentialsHandle(self, phCredential: PSecHandle) -> SECURITY_STATUS: ...
    def InitializeSecurityContextW(
        self, phCredential: PSecHandle, phContext: PSecHandle, pszTargetName: LPCWSTR,
        fContextReq: ULONG, Reserved1: ULONG, TargetDataRep: ULONG,
        pInput: PSecBufferDesc, Reserved2: ULONG, phNewContext: PSecHandle,
        pOutput: PSecBufferDesc, pfContextAttr: PULONG, ptsExpiry: PTimeStamp,
    ) -> SECURITY_STATUS: ...
    def CompleteAuthToken(
        self, phContext: PSecHandle, pToken: PSecBufferDesc
    ) -> SECURITY_STATUS: ...
    def DeleteSecurityContext(self, phContext: PSecHandle) -> SECURITY_STATUS: ...
    def FreeContextBuffer(self, pvContextBuffer: PVOID) -> SECURITY_STATUS: ...
    def EncryptMessage(
        self, phContext: PSecHandle, fQOP: ULONG, pMessage: PSecBufferDesc,
        MessageSeqNo: ULONG,
    ) -> SECURITY_STATUS: ...
    MakeSignature = EncryptMessage  # the same parameters
    def DecryptMessage(
        self, phContext: PSecHandle, pMessage: PSecBufferDesc, MessageSeqNo: ULONG,
        pfQOP: PULONG,
    ) -> SECURITY_STATUS: ...
    VerifySignature = DecryptMessage
    def QueryContextAttributesW(
        self, phContext: PSecHandle, ulAttribute: ULONG, pBuffer: PVOID
    ) -> SECURITY_STATUS: ...
    def QueryCredentialsAttributesW(
        self, phCredential: PSecHandle, ulAttribute: ULONG, pBuffer: PVOID
    ) -> SECURITY_STATUS: ...
    def EnumerateSecurityPackagesW(
        self, pcPackages: PULONG, ppPackageInfo: PPSecPkgInfoW
    ) -> SECURITY_STATUS: ...


# -- 10. The ABI ---------------------------------------------------------------
# May touch: nothing; declarations only, spelled as in sspi.h. Fixed widths, not
# ctypes.wintypes: its ULONG is 8 bytes on Linux, and every layout test there would
# measure a machine that does not exist.

ULONG, USHORT, ULONG_PTR, PVOID = c_uint32, c_uint16, c_size_t, c_void_p
SEC_WCHAR, LPCWSTR = c_uint16, POINTER(c_uint16)
SECURITY_STATUS = c_uint32  # LONG in the SDK; unsigned, so 0x8009030C stays itself

ISC_REQ_ALLOCATE_MEMORY = 0x100
SECPKG_CRED_OUTBOUND, SECPKG_CRED_ATTR_NAMES = 2, 1
SECPKG_ATTR_SIZES, SECPKG_ATTR_NAMES, SECPKG_ATTR_SESSION_KEY = 0, 1, 9
SECPKG_ATTR_PACKAGE_INFO, SECPKG_ATTR_NEGOTIATION_INFO, SECPKG_ATTR_FLAGS = 10, 12, 14
SECBUFFER_VERSION, SECURITY_NATIVE_DREP = 0, 0x10
SECBUFFER_DATA, SECBUFFER_TOKEN, SECBUFFER_PADDING, SECBUFFER_STREAM = 1, 2, 9, 10
SECBUFFER_CHANNEL_BINDINGS, SECQOP_WRAP_NO_ENCRYPT = 14, 0x80000001
SEC_WINNT_AUTH_IDENTITY_ANSI, SEC_WINNT_AUTH_IDENTITY_UNICODE = 1, 2
SEC_WINNT_AUTH_IDENTITY_VERSION = 0x200

# winerror.h: the statuses that a logon looks at; section 11 has the others.
SEC_E_OK, SEC_I_CONTINUE_NEEDED = 0x00000000, 0x00090312
SEC_I_COMPLETE_NEEDED, SEC_I_COMPLETE_AND_CONTINUE = 0x00090313, 0x00090314
SEC_E_UNSUPPORTED_FUNCTION, SEC_E_INTERNAL_ERROR = 0x80090302, 0x80090304
SEC_E_INVALID_TOKEN, SEC_E_QOP_NOT_SUPPORTED = 0x80090308, 0x8009030A
SEC_E_MESSAGE_ALTERED, SEC_E_SECURITY_QOS_FAILED = 0x8009030F, 0x80090332

_INVALID = ULONG_PTR(-1).value
_ERROR_BIT = 0x80000000  # winerror.h, SEVERITY_ERROR


class SecHandle(Structure):
    _fields_ = [("dwLower", ULONG_PTR), ("dwUpper", ULONG_PTR)]

class SecBuffer(Structure):
    _fields_ = [("cbBuffer", ULONG), ("BufferType", ULONG), ("pvBuffer", PVOID)]

PSecBuffer = POINTER(SecBuffer)

class SecBufferDesc(Structure):
    _fields_ = [("ulVersion", ULONG), ("cBuffers", ULONG), ("pBuffers", PSecBuffer)]

class TimeStamp(Structure):
    """[100 ns since 1601-01-01 local time]; sspi.h has it as LARGE_INTEGER too."""

    _fields_ = [("LowPart", ULONG), ("HighPart", c_int32)]

    @property
    def value(self) -> int:
        return int(self.HighPart) << 32 | int(self.LowPart)

class SecPkgInfoW(Structure):
    _fields_ = [
        ("fCapabilities", ULONG), ("wVersion", USHORT), ("wRPCID", USHORT),
        ("cbMaxToken", ULONG), ("Name", LPCWSTR), ("Comment", LPCWSTR),
    ]

_IDENTITY_FIELDS: list[Any] = [
    ("User", PVOID), ("UserLength", ULONG), ("Domain", PVOID), ("DomainLength", ULONG),
    ("Password", PVOID), ("PasswordLength", ULONG), ("Flags", ULONG),
]

class SEC_WINNT_AUTH_IDENTITY_W(Structure):
    _fields_ = _IDENTITY_FIELDS

class SEC_WINNT_AUTH_IDENTITY_EXW(Structure):
    _fields_ = [
        ("Version", ULONG), ("Length", ULONG), *_IDENTITY_FIELDS,
        ("PackageList", PVOID), ("PackageListLength", ULONG),
    ]

class SEC_CHANNEL_BINDINGS(Structure):
    _fields_ = [
        ("dwInitiatorAddrType", ULONG), ("cbInitiatorLength", ULONG),
        ("dwInitiatorOffset", ULONG), ("dwAcceptorAddrType", ULONG),
        ("cbAcceptorLength", ULONG), ("dwAcceptorOffset", ULONG),
        ("cbApplicationDataLength", ULONG), ("dwApplicationDataOffset", ULONG),
    ]

class SecPkgContext_Sizes(Structure):
    _fields_ = [
        ("cbMaxToken", ULONG), ("cbMaxSignature", ULONG),
        ("cbBlockSize", ULONG), ("cbSecurityTrailer", ULONG),
    ]

class SecPkgContext_NamesW(Structure):
    _fields_ = [("sUserName", LPCWSTR)]

class SecPkgContext_SessionKey(Structure):
    _fields_ = [("SessionKeyLength", ULONG), ("SessionKey", PVOID)]

class SecPkgContext_NegotiationInfoW(Structure):
    _fields_ = [("PackageInfo", POINTER(SecPkgInfoW)), ("NegotiationState", ULONG)]

PULONG, PTimeStamp = POINTER(ULONG), POINTER(TimeStamp)
PSecHandle, PSecBufferDesc = POINTER(SecHandle), POINTER(SecBufferDesc)
PSecPkgInfoW = POINTER(SecPkgInfoW)
PPSecPkgInfoW = POINTER(PSecPkgInfoW)


def _prototypes(stubs: type) -> dict[str, tuple[Any, ...]]:
    """Read the stubs of Secur32: name -> (restype, *argtypes)."""
    table = {}
    for name, stub in vars(stubs).items():
        if not name.startswith("_"):
            types = [globals()[kind] for kind in stub.__annotations__.values()]
            table[name] = (types[-1], *types[:-1])  # "return" is the last
    return table


#: What the DLL's functions, the fake's and the tests' are made from.
PROTOTYPES = _prototypes(Secur32)


# -- 11. What a status means ---------------------------------------------------
# May touch: FormatMessageW, for what is not explained here. The numbers are
# winerror.h's, the sentences are ours.

SEC_E_INSUFFICIENT_MEMORY, SEC_E_INVALID_HANDLE = 0x80090300, 0x80090301
SEC_E_TARGET_UNKNOWN, SEC_E_SECPKG_NOT_FOUND = 0x80090303, 0x80090305
SEC_E_NO_IMPERSONATION, SEC_E_LOGON_DENIED = 0x8009030B, 0x8009030C
SEC_E_UNKNOWN_CREDENTIALS, SEC_E_NO_CREDENTIALS = 0x8009030D, 0x8009030E
SEC_E_OUT_OF_SEQUENCE, SEC_E_NO_AUTHENTICATING_AUTHORITY = 0x80090310, 0x80090311
SEC_E_CONTEXT_EXPIRED, SEC_E_INCOMPLETE_MESSAGE = 0x80090317, 0x80090318
SEC_E_BUFFER_TOO_SMALL, SEC_E_WRONG_PRINCIPAL = 0x80090321, 0x80090322
SEC_E_TIME_SKEW, SEC_E_NO_IP_ADDRESSES = 0x80090324, 0x80090335
SEC_E_SMARTCARD_LOGON_REQUIRED, SEC_E_KDC_UNKNOWN_ETYPE = 0x8009033E, 0x80090342
SEC_E_DELEGATION_REQUIRED, SEC_E_BAD_BINDINGS = 0x80090345, 0x80090346
SEC_E_NO_KERB_KEY, SEC_E_DOWNGRADE_DETECTED = 0x80090348, 0x80090350
SEC_E_INVALID_PARAMETER, SEC_E_DELEGATION_POLICY = 0x8009035D, 0x8009035E
SEC_E_POLICY_NLTM_ONLY, SEC_E_NO_CONTEXT = 0x8009035F, 0x80090361
SEC_E_MUTUAL_AUTH_FAILED, SEC_E_NO_SPM = 0x80090363, SEC_E_INTERNAL_ERROR
SEC_E_NOT_SUPPORTED = SEC_E_UNSUPPORTED_FUNCTION

# The rest of winerror.h's, which few people meet.
SEC_E_NOT_OWNER, SEC_E_CANNOT_INSTALL = 0x80090306, 0x80090307
SEC_E_CANNOT_PACK, SEC_I_LOCAL_LOGON = 0x80090309, 0x00090315
SEC_I_GENERIC_EXTENSION_RECEIVED, SEC_E_BAD_PKGID = 0x00090316, 0x80090316
SEC_I_CONTEXT_EXPIRED, SEC_E_INCOMPLETE_CREDENTIALS = 0x00090317, 0x80090320
SEC_I_INCOMPLETE_CREDENTIALS, SEC_I_RENEGOTIATE = 0x00090320, 0x00090321
SEC_I_NO_LSA_CONTEXT, SEC_E_UNTRUSTED_ROOT = 0x00090323, 0x80090325
SEC_E_ILLEGAL_MESSAGE, SEC_E_CERT_UNKNOWN = 0x80090326, 0x80090327
SEC_E_CERT_EXPIRED, SEC_E_ENCRYPT_FAILURE = 0x80090328, 0x80090329
SEC_E_DECRYPT_FAILURE, SEC_E_ALGORITHM_MISMATCH = 0x80090330, 0x80090331
SEC_E_UNFINISHED_CONTEXT_DELETED, SEC_E_NO_TGT_REPLY = 0x80090333, 0x80090334
SEC_E_WRONG_CREDENTIAL_HANDLE, SEC_E_CRYPTO_SYSTEM_INVALID = 0x80090336, 0x80090337
SEC_E_MAX_REFERRALS_EXCEEDED, SEC_E_MUST_BE_KDC = 0x80090338, 0x80090339
SEC_E_STRONG_CRYPTO_NOT_SUPPORTED, SEC_E_TOO_MANY_PRINCIPALS = 0x8009033A, 0x8009033B
SEC_E_NO_PA_DATA, SEC_E_PKINIT_NAME_MISMATCH = 0x8009033C, 0x8009033D
SEC_E_SHUTDOWN_IN_PROGRESS, SEC_E_KDC_INVALID_REQUEST = 0x8009033F, 0x80090340
SEC_E_KDC_UNABLE_TO_REFER, SEC_E_UNSUPPORTED_PREAUTH = 0x80090341, 0x80090343
SEC_E_MULTIPLE_ACCOUNTS, SEC_E_CERT_WRONG_USAGE = 0x80090347, 0x80090349
SEC_E_SMARTCARD_CERT_REVOKED, SEC_E_ISSUING_CA_UNTRUSTED = 0x80090351, 0x80090352
SEC_E_REVOCATION_OFFLINE_C, SEC_E_PKINIT_CLIENT_FAILURE = 0x80090353, 0x80090354
SEC_E_SMARTCARD_CERT_EXPIRED, SEC_E_NO_S4U_PROT_SUPPORT = 0x80090355, 0x80090356
SEC_E_CROSSREALM_DELEGATION_FAILURE = 0x80090357
SEC_E_REVOCATION_OFFLINE_KDC, SEC_E_ISSUING_CA_UNTRUSTED_KDC = 0x80090358, 0x80090359
SEC_E_KDC_CERT_EXPIRED, SEC_E_KDC_CERT_REVOKED = 0x8009035A, 0x8009035B
SEC_I_SIGNATURE_NEEDED, SEC_I_NO_RENEGOTIATION = 0x0009035C, 0x00090360
SEC_E_PKU2U_CERT_FAILURE, SEC_I_MESSAGE_FRAGMENT = 0x80090362, 0x00090364
SEC_E_ONLY_HTTPS_ALLOWED, SEC_I_CONTINUE_NEEDED_MESSAGE_OK = 0x80090365, 0x00090366
SEC_E_APPLICATION_PROTOCOL_MISMATCH, SEC_I_ASYNC_CALL_PENDING = 0x80090367, 0x00090368
SEC_E_INVALID_UPN_NAME, SEC_E_EXT_BUFFER_TOO_SMALL = 0x80090369, 0x8009036A
SEC_E_INSUFFICIENT_BUFFERS = 0x8009036B

#: value -> name; the first name wins, so an alias is never shown.
_STATUS_NAMES: dict[int, str] = {}
for _name, _value in list(globals().items()):
    if _name.startswith(("SEC_E_", "SEC_I_")):
        _STATUS_NAMES.setdefault(_value, _name)
        __all__.append(_name)

#: What usually happened, and what to check, the likeliest cause first.
_EXPLANATIONS = r"""
SEC_E_INSUFFICIENT_MEMORY: Not enough memory; or the token belongs to another package,
 such as Negotiate's given to Kerberos. Check that both sides use the same package.
SEC_E_INVALID_HANDLE: The handle is not, or no longer, one of SSPI's. Check that nothing
 else in the process releases handles of secur32.
SEC_E_UNSUPPORTED_FUNCTION: The package cannot do this, or a policy forbids it. Check
 the flags that were asked for, and whether NTLM is blocked (gpresult /h report.html).
SEC_E_TARGET_UNKNOWN: The domain has no account for this SPN. Check its spelling (setspn
 -Q SPN): service/host, not service@host and not a URL; whether the host is an alias or
 an IP address; for a proxy, that it is the proxy's own name.
SEC_E_INTERNAL_ERROR: The local security authority failed. Check the System event log,
 and whether the trust with the domain holds (nltest /sc_query:DOMAIN).
SEC_E_SECPKG_NOT_FOUND: There is no such security package. packages() lists those there
 are.
SEC_E_INVALID_TOKEN: A token is malformed, or belongs to another package or handshake.
 Check that the reply is decoded (base64), complete, from this connection, and that the
 server speaks this package.
SEC_E_QOP_NOT_SUPPORTED: The package does not offer this protection. Check that the
 flags asked for CONFIDENTIALITY or INTEGRITY.
SEC_E_NO_IMPERSONATION: The thread impersonates somebody whose credentials cannot be
 used. Check the impersonation level, or revert first.
SEC_E_LOGON_DENIED: The user name or password was refused, or the server demands channel
 bindings (Extended Protection) and got none. Check the domain (DOMAIN\user or
 user@suffix); that the account is not locked, disabled or expired; what the Credential
 Manager has for the target (cmdkey /list); on the server itself, the loopback check
 (BackConnectionHostNames).
SEC_E_UNKNOWN_CREDENTIALS: The package does not understand these credentials. Check the
 user name, and that it is not empty.
SEC_E_NO_CREDENTIALS: There is nothing to log on with. Check for tickets (klist; those
 of MIT Kerberos's kinit are not used), that a scheduled task stores its password, that
 allow_ntlm=False leaves a package; or pass an Identity.
SEC_E_MESSAGE_ALTERED: The message was changed on its way, or belongs to another
 context. Check that each message reaches its own context complete and once.
SEC_E_OUT_OF_SEQUENCE: The message is a repetition or came out of turn. Check that
 messages are read in the order in which they were sent, each once.
SEC_E_NO_AUTHENTICATING_AUTHORITY: No domain controller answers. Check the network or
 VPN, and whether a controller can be found (nltest /dsgetdc:DOMAIN).
SEC_E_CONTEXT_EXPIRED: The context or its ticket has expired. Authenticate again (klist
 shows the times of tickets).
SEC_E_INCOMPLETE_MESSAGE: The reply is cut off. Check that the transport read all of it.
SEC_E_BUFFER_TOO_SMALL: A buffer is too small for what the package writes. Check the
 length of what was passed in.
SEC_E_WRONG_PRINCIPAL: The server is not the expected one: another account holds the
 SPN. Check for duplicates (setspn -X) and for a host name that changed hands.
SEC_E_TIME_SKEW: The clocks differ too much; Kerberos allows five minutes. Check them
 (w32tm /query /status).
SEC_E_SECURITY_QOS_FAILED: The context is weaker than required. Check what was granted,
 and whether Kerberos is available (klist get SPN).
SEC_E_NO_IP_ADDRESSES: No address of a domain controller was found. Check DNS (nltest
 /dsgetdc:DOMAIN).
SEC_E_SMARTCARD_LOGON_REQUIRED: The account must log on with a smart card, not a
 password.
SEC_E_KDC_UNKNOWN_ETYPE: Client, server and controller share no encryption type. Check
 the account's msDS-SupportedEncryptionTypes, and whether RC4 was switched off.
SEC_E_DELEGATION_REQUIRED: The server demands delegation. Ask for DELEGATE, if it may
 act for you.
SEC_E_BAD_BINDINGS: The channel bindings are not the server's. Check that they come from
 the certificate of this very connection; a proxy that opens TLS changes it.
SEC_E_NO_KERB_KEY: The account has no Kerberos key for this. Check that its password was
 set after the domain began to support the encryption type.
SEC_E_DOWNGRADE_DETECTED: No controller could be reached safely, or somebody is
 weakening the logon. Check the network (nltest /dsgetdc:DOMAIN) and the clock.
SEC_E_INVALID_PARAMETER: A parameter is wrong. Check the flags, and names of unusual
 length.
SEC_E_DELEGATION_POLICY: A policy forbids delegation to this server. Check Credential
 Guard, Protected Users and the account's delegation settings.
SEC_E_POLICY_NLTM_ONLY: A policy allows only NTLM here. Check it (gpresult /h
 report.html).
SEC_E_NO_CONTEXT: The security authority has no such context. Authenticate again.
SEC_E_MUTUAL_AUTH_FAILED: The server did not prove who it is. Check the SPN (setspn -Q
 SPN) and who holds it (setspn -X).
"""


def _explanation(status: int) -> str:
    _, found, rest = _EXPLANATIONS.partition(f"\n{_STATUS_NAMES.get(status)}: ")
    return rest.partition("\nSEC_")[0].replace("\n", "").strip() if found else ""


def _system_text(status: int) -> str:
    """What the system says about it, in its own language; "" if nothing."""
    if sys.platform != "win32" or status == SEC_E_OK:
        return ""
    text = " ".join(ctypes.FormatError(c_int32(status).value).split())
    return "" if text == "<no description>" else text


# -- 12. Names of services and tokens ------------------------------------------
# May touch: str and bytes only. Tokens come from the network and are not trusted.


def spn(service: str, host: str, port: int | None = None) -> str:
    """Compose a service principal name: "HTTP/host" or "MSSQLSvc/host:1433".

    The host is taken as it is, without a DNS lookup, which an attacker could
    answer. An international name becomes its A-label (RFC 3490). An IPv6 address
    may have brackets, and loses its zone.

    Raises: TypeError; ValueError for a URL, a part that is no bare name, a port
        outside 1..65535.
    """
    for label, part in (("service", service), ("host", host)):
        _expect(label, part, "str", isinstance(part, str))
        if "://" in part:
            raise ValueError(f"{label} is a URL; give its host name alone")
    address = _ipv6_address(host)
    try:
        name = address or (host if host.isascii() else host.encode("idna").decode())
    except UnicodeError:
        raise ValueError("host is no name that DNS could have") from None
    for label, part in ("service", service), ("host", name):
        marks = "/@\\,[]" + ("" if part is address else ":")
        if not part or any(c in marks or c.isspace() or c == "\0" for c in part):
            raise ValueError(f"{label} must be a bare name, without / @ : \\ , blanks")
        _check_name(label, part)
    if port is None:
        return f"{service}/{name}"
    _expect("port", port, "int", type(port) is int)
    if not 0 < port < 65536:
        raise ValueError(f"port must be 1 to 65535, not {port}")
    return f"{service}/[{name}]:{port}" if address else f"{service}/{name}:{port}"


def _ipv6_address(host: str) -> str:
    """Return an IPv6 literal without brackets and zone; "" for any other host."""
    import ipaddress
    bare = host[1:-1] if host[:1] + host[-1:] == "[]" else host
    address = bare.partition("%")[0]
    try:
        ipaddress.IPv6Address(address)
        return address
    except ValueError:
        return ""


#: RFC 4120 7.5.9, what people meet -> what it means.
_KERBEROS_ERRORS = {
    "7": "the server does not know this SPN", "32": "the ticket has expired",
    "35": "the ticket is for another service", "37": "the clocks differ too much",
    "41": "the message was changed",
}


def _refusal(reply: bytes, hint: str) -> str:
    """Add to *hint* what the server said, if its reply was a refusal."""
    said = mechanism(reply)
    if "(reject)" not in said and "KRB-ERROR" not in said:
        return hint
    meaning = _KERBEROS_ERRORS.get(said.rpartition("KRB-ERROR ")[2], "")
    said += f", {meaning}" if meaning else ""
    return f"The server refused: {said}. {hint}".rstrip()


def mechanism(token: Buffer) -> str:
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
    _OID_MS_KERBEROS: "MS-Kerberos", _OID_KERBEROS: KERBEROS, _OID_NTLM: NTLM,
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


def _carried(fields: dict[int, bytes]) -> str:
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


# -- 13. HTTP ------------------------------------------------------------------
# May touch: str and bytes. RFC 4559 without a socket, a user of the log-on: it calls
# up. What it reads comes from the network: not trusted.


def http_authenticate(
    host: str, status: int, challenges: Challenges, identity: Identity | None = None, *,
    target: str | None = None, package: str | None = None,
    certificate: Buffer | None = None, flags: int = DEFAULT_FLAGS, require: int = 0,
    allow_ntlm: bool = True, credential: Credential | None = None, secur32: Any = None,
) -> HttpFlow:
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
    if target is None:
        target = spn("HTTP", host.lower()[: -1 if host.endswith(".") else None])
    bindings = None if certificate is None else tls_server_end_point(certificate)
    if credential is not None:
        _check_shared(credential, identity, package, allow_ntlm, secur32)
        package, allow_ntlm = credential.package, credential._allow_ntlm
    asked = status in (401, 407)
    offered = [s for s in (NEGOTIATE, NTLM) if asked and _http_entries(values, s)]
    ntlm = allow_ntlm and not require & _MUTUAL_AUTH  # which NTLM cannot do
    package = package or (NTLM if ntlm and offered == [NTLM] else NEGOTIATE)
    if package.lower() not in ("negotiate", "kerberos", "ntlm"):
        raise ValueError(f"package {package}: HTTP has Negotiate, Kerberos and NTLM")
    scheme = NTLM if _same_package(package, NTLM) and NTLM in offered else NEGOTIATE
    options: Any = dict(flags=flags, require=require, channel_bindings=bindings)
    if credential is None:
        options.update(package=package, allow_ntlm=allow_ntlm, secur32=secur32)
        flow = authenticate(target, identity, **options)
    else:
        flow = credential.authenticate(target, **options)
    return _http_flow(flow, status, offered, require, ntlm, (scheme, package, target))


def _http_flow(
    flow: Flow, first: int, offered: list[str], require: int, ntlm: bool,
    names: tuple[str, str, str],
) -> HttpFlow:
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
        _annotate(reason, package, target, leg or None)
        raise
    finally:
        flow.close()


def _http_step(flow: Flow, reply: bytes | None) -> tuple[Token, Context | None]:
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
    credential: Credential, identity: Any, package: str | None,
    allow_ntlm: bool, secur32: Any,
) -> None:
    _expect("credential", credential, "Credential", isinstance(credential, Credential))
    never = not credential._allow_ntlm or _same_package(credential.package, KERBEROS)
    for what, contradicts in (
        ("identity", identity is not None),
        ("package", package and not _same_package(package, credential.package)),
        ("allow_ntlm", not (allow_ntlm or never)),
        ("secur32", secur32 not in (None, credential._shared.secur32)),
    ):
        if contradicts:
            raise ValueError(f"{what} contradicts the credential, which has its own")


def _http_answer(answer: Any) -> tuple[int, list[str]]:
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


def _http_token(values: list[str], scheme: str) -> bytes:
    import base64
    word = next(filter(None, _http_entries(values, scheme)), "")
    try:
        return base64.b64decode(word, validate=True)
    except ValueError:
        hint = "The server's token is not base64."
        raise SspiError(SEC_E_INVALID_TOKEN, _HTTP, hint=hint) from None


def _http_entries(values: list[str], scheme: str) -> list[str]:
    """Return the token of each entry of *scheme*, "" where it has none."""
    entries = []
    for value in values:
        plain = value.replace("\\\\", "").replace('\\"', "")  # RFC 9110 5.6.4
        plain += '"' * (plain.count('"') % 2)  # never closed: up to the end
        for item in '""'.join(plain.split('"')[::2]).split(","):
            name, word, *_ = item.split() + ["", ""]
            if _same_package(name, scheme):  # an "=" inside a word is a parameter's
                bare = word.rstrip("=")
                entries.append(word if bare and "=" not in bare else "")
    return entries


# -- 14. Packages and the command line -----------------------------------------
# May touch: argv, stdout, stderr, and this file, to hash it. It is a user of the
# rest, and calls up.


class Package:
    """A security package: its name, what the system says about it, the length of its
    longest token [bytes], and its capabilities: sspi.h, SECPKG_FLAG_*."""

    def __init__(self, name: str, comment: str, max_token: int, capabilities: int):
        self.name, self.comment = name, comment
        self.max_token, self.capabilities = max_token, capabilities

    def __repr__(self) -> str:
        return f"<Package {_printable(self.name)}, tokens to {self.max_token} bytes>"


def packages(secur32: object = None) -> list[Package]:
    """List the security packages of this machine.

    Raises: SspiError; OSError off Windows without *secur32*.
    """
    backend, function = _backend(secur32), "EnumerateSecurityPackagesW"
    count, first = ULONG(0), PSecPkgInfoW()
    try:
        status = backend.EnumerateSecurityPackagesW(count, first)
        if status != SEC_E_OK:
            first = PSecPkgInfoW()  # nothing in it is ours
        _check(status, function)
        _expect_answer(first or not count.value, function)
        return [
            Package(_text(p.Name), _text(p.Comment), p.cbMaxToken, p.fCapabilities)
            for p in (first[: count.value] if first else [])
        ]
    finally:
        _free_buffer(backend, first)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: diagnose [SPN], or explain STATUS.

    Returns: 0; 1 if diagnose could not make a token; 2 for what is no status, for
        wrong usage, and for diagnose off Windows.
    """
    import argparse
    about = "Windows SSPI authentication, client side."
    parser = argparse.ArgumentParser("sspi_client", description=about)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    explain = commands.add_parser("explain", help="say what a status means")
    explain.add_argument("status", help="decimal, negative, hexadecimal or symbolic")
    about = "show what SSPI has, and make a first token; nothing is sent"
    diagnose = commands.add_parser("diagnose", help=about)
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
        forms = "0x8009030C, -2146893044 or SEC_E_LOGON_DENIED"
        print(f"no such status: give {forms}", file=sys.stderr)
        return 2
    reason = SspiError(status, "")
    print(f"{reason.name} (0x{status:08X}, {status - (status >> 31 << 32)})")
    unknown = "Not explained here; look it up in winerror.h of the Windows SDK."
    print(reason.hint or ("Success." if status == SEC_E_OK else unknown))
    return 0


def _status_number(word: str) -> int | None:
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


def _diagnose(target: str | None, package: str, as_json: bool) -> int:
    try:
        backend = _backend(None)
        if target is not None:
            _check_target(target)
        _check_credential(None, package, True)
    except (OSError, ValueError) as problem:
        print(f"sspi_client: {problem}", file=sys.stderr)
        return 2
    facts: dict[str, Any] = {}
    try:
        facts.update(_machine_facts(backend))
        with Credential(package=package, secur32=backend) as credential:
            try:
                facts["logged on as"] = credential.user
            except SspiError as refused:
                facts["logged on as"] = f"not told: {refused.name}"
            if target is not None:
                facts.update(_first_token_facts(credential, target))
    except SspiError as refused:
        facts["error"] = str(refused)
    if as_json:
        import json
        print(json.dumps(facts, indent=2))
    else:
        _print_facts(facts)
    return int("error" in facts)


def _machine_facts(backend: Any) -> dict[str, Any]:
    import hashlib
    try:
        with open(__file__, "rb") as own:
            digest = hashlib.sha256(own.read()).hexdigest()
    except OSError:  # inside a zip
        digest = "unavailable"
    system = sys.platform
    if sys.platform == "win32":
        system = "Windows {}.{}.{}".format(*sys.getwindowsversion()[:3])
    found = [f"{p.name}, tokens to {p.max_token} bytes" for p in packages(backend)]
    return {
        "system": system,
        "Python": f"{sys.version.split()[0]}, {8 * sizeof(PVOID)} bits",
        "sspi_client": f"{__version__}, SHA-256 {digest}",
        "packages": found,
    }


#: What common servers take in one header line by default, [bytes].
_HEADER_LIMITS = (
    (8190, "Apache, LimitRequestFieldSize"),
    (8192, "nginx, large_client_header_buffers; Tomcat, maxHttpHeaderSize"),
    (16384, "IIS, MaxFieldLength"),
)


def _first_token_facts(credential: Credential, target: str) -> dict[str, Any]:
    """Make the first token and describe it; it goes nowhere."""
    flow = credential.authenticate(target)
    try:
        token = next(flow)
    finally:
        flow.close()
    encoded = (len(token) + 2) // 3 * 4
    header = [f"{encoded} characters of base64"]
    for limit, whose in _HEADER_LIMITS:
        header.append(f"{'over' if encoded > limit else 'within'} {limit} ({whose})")
    described = [mechanism(token), f"{len(token)} bytes"]
    return {"target": target, "first token": described, "in a header": header}


def _print_facts(facts: dict[str, Any]) -> None:
    encoding = sys.stdout.encoding or "ascii"
    for label, fact in facts.items():
        for line in fact if isinstance(fact, list) else [fact]:
            shown = f"{label:<15}{_printable(line)}"
            print(shown.encode(encoding, "backslashreplace").decode(encoding))
            label = ""


if __name__ == "__main__":
    sys.exit(main())


# 8< -- Cut here: the client above is whole without what follows. --------------
#
# The fake part: a secur32 in Python and the peer to talk to, so that tests run
# on any machine. It is never chosen by itself; hand it over as secur32=.
#
# Three classes are for tests, and they come first. NTLM (18) and SPNEGO (19) are
# real, Kerberos (20) is a stand-in; what a mechanism is stands in 17. The answers
# are those of Windows as MS-NLMP, captures and other projects' suites show them.
# Where nothing shows it, the answer is one that a careless client fails on, and a
# comment says "not verified".

# -- 15. The fake domain, secur32 and server -----------------------------------
# May touch: bytes only.

__all__ += ["FakeDomain", "FakeSecur32", "FakeServer"]

#: What gives back.
_RELEASES = ("FreeCredentialsHandle", "DeleteSecurityContext", "FreeContextBuffer")


class _Whole:
    """What holds passwords or keys is neither copied nor pickled."""

    def __reduce__(self) -> NoReturn:
        kind = type(self).__name__
        raise TypeError(f"a {kind} holds secrets and can be neither pickled nor copied")


class FakeDomain(_Whole):
    """The world: who there is, and what has a Kerberos key.

    name: CORP, or "corp.example.com" whose first label is the short name.
    users: user name -> password. services: SPNs, as "HTTP/intranet.corp.test".

    Raises: TypeError; ValueError for a name with a control character or a
        backslash, a user written user@suffix, and what is no SPN.
    """

    def __init__(
        self, name: str, users: dict[str, str], services: Sequence[str] = ()
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

    def find(self, user: str, domain: str) -> str | None:
        """Return the user as *users* spells it, or None. Case does not matter."""
        if not domain and "@" in user:
            user, _, domain = user.rpartition("@")
        if domain.lower() not in ("", self.name.lower(), self.dns_name):
            return None
        return next((name for name in self.users if name.lower() == user.lower()), None)

    def service_key(self, target: str) -> bytes | None:
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
        self, domain: FakeDomain, logon: str | None = None, *,
        controller: bool = True, ntlm: bool = True, bare_ntlm: bool = False,
        spnego_signs: bool = True, withhold: int = 0, grant: int = 0,
        expires: datetime | None = None, max_token: int | None = None,
    ) -> None:  # fmt: skip
        self.domain = domain
        self.calls: list[str] = []
        self.crimes: list[str] = []
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
        self._injected: dict[tuple[str, int], tuple[int, bytes | None]] = {}
        self._raw = _FakeCalls(self)
        for name in PROTOTYPES:
            setattr(self, name, self._raw.trampoline(name))

    def inject(
        self, function: str, status: int, token: bytes | None = None, call: int = 1
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
        self, domain: FakeDomain, channel_bindings: bytes | None = None, *,
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
        self._mechanism: _Mechanism | None = None

    def accept(self, token: bytes) -> bytes | None:
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

    def _choose(self, token: bytes) -> _Mechanism:
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

    def seal(self, data: bytes) -> tuple[bytes, bytes]:
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

    def _session(self) -> Any:
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


def _check_expiry(expires: datetime) -> int:
    """Convert to [100 ns since 1601-01-01 local time]."""
    from datetime import datetime, timedelta

    _expect("expires", expires, "a datetime", isinstance(expires, datetime))
    if expires.tzinfo is not None or expires.year < 1602:
        raise ValueError("expires must be a naive local datetime after 1601")
    return (expires - datetime(1601, 1, 1)) // timedelta(microseconds=1) * 10


# -- 16. The fake secur32's functions ------------------------------------------
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
        self.credentials: dict[tuple[int, int], _FakeCredential] = {}
        self.contexts: dict[tuple[int, int], _FakeContext] = {}
        self.buffers: dict[int, Any] = {}
        self._dead: list[Any] = []  # the last of what is gone, kept to know it again
        self._serials = iter(range(0x5EC0, sys.maxsize))  # next() is atomic

    def alive(self) -> list[str]:
        tables: dict[str, Any] = {
            "credentials": self.credentials, "contexts": self.contexts,
            "buffers": self.buffers,
        }  # fmt: skip
        return [f"{len(live)} {what} alive" for what, live in tables.items() if live]

    def trampoline(self, name: str) -> Any:
        restype, *argtypes = PROTOTYPES[name]
        behave = getattr(self, name)

        def entry(*arguments: Any) -> int:
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

    def _enter(self, name: str, behave: Any, arguments: tuple[Any, ...]) -> int:
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
        self, pszPrincipal: Any, pszPackage: Any, fCredentialUse: int,
        pvLogonId: Any, pAuthData: Any, pGetKeyFn: Any,
        pvGetKeyArgument: Any, phCredential: Any, ptsExpiry: Any,
    ) -> None:  # fmt: skip
        if not phCredential:
            self._crime("NULL phCredential", SEC_E_INVALID_HANDLE)
        named = _text(pszPackage)
        package = next((p for p in _FAKE_PACKAGES if _same_package(p, named)), None)
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

    def _read_identity(self, address: int, credential: _FakeCredential) -> None:
        auth: Any = SEC_WINNT_AUTH_IDENTITY_EXW.from_address(address)
        if auth.Version == SEC_WINNT_AUTH_IDENTITY_VERSION:
            listed = self._read_text(auth, "PackageList")
            credential.package_list = [i.strip().lower() for i in listed.split(",")]
        else:
            auth = SEC_WINNT_AUTH_IDENTITY_W.from_address(address)
        if auth.User:
            credential.login = _Login(
                *(self._read_text(auth, field) for field in _Login.__slots__)
            )

    def _read_text(self, auth: Any, field: str) -> str:
        address, length = getattr(auth, field), getattr(auth, field + "Length")
        kind = auth.Flags & 3
        if kind == SEC_WINNT_AUTH_IDENTITY_UNICODE:
            return _bytes_at(address, 2 * length).decode("utf-16-le", "surrogatepass")
        if kind == SEC_WINNT_AUTH_IDENTITY_ANSI:
            return _decode_ansi(_bytes_at(address, length), 0) or ""
        raise SspiError(SEC_E_INVALID_PARAMETER, "")

    def FreeCredentialsHandle(self, phCredential: Any) -> None:
        credential = self._find(phCredential, self.credentials, "credential")
        contexts = self.contexts.copy().values()  # other threads go on
        if any(context.credential is credential for context in contexts):
            self.fake.crimes.append("a credential was freed before its context")
        self._bury(self.credentials, phCredential)

    def QueryCredentialsAttributesW(
        self, phCredential: Any, ulAttribute: int, pBuffer: int
    ) -> None:
        credential = self._find(phCredential, self.credentials, "credential")
        if ulAttribute != SECPKG_CRED_ATTR_NAMES:
            raise SspiError(SEC_E_UNSUPPORTED_FUNCTION, "")
        self._write_text(pBuffer, credential.name())

    # Contexts

    def InitializeSecurityContextW(
        self, phCredential: Any, phContext: Any, pszTargetName: Any,
        fContextReq: int, Reserved1: int, TargetDataRep: int, pInput: Any,
        Reserved2: int, phNewContext: Any, pOutput: Any, pfContextAttr: Any,
        ptsExpiry: Any, injected: tuple[int, bytes | None] | None,
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

    def _read_inputs(self, pInput: Any) -> tuple[bytes | None, bytes | None]:
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
        self, pOutput: Any, request: int, token: bytes | None,
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

    def CompleteAuthToken(self, phContext: Any, pToken: Any) -> None:
        context = self._find(phContext, self.contexts, "context")
        if not pToken or addressof(pToken.contents) != context.descriptor:
            self._crime("CompleteAuthToken on another descriptor", SEC_E_INVALID_TOKEN)

    def DeleteSecurityContext(self, phContext: Any) -> None:
        self._find(phContext, self.contexts, "context")
        self._bury(self.contexts, phContext)

    def QueryContextAttributesW(
        self, phContext: Any, ulAttribute: int, pBuffer: int
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

    def _write_key_info(self, pBuffer: int, session: _Session) -> None:
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
        self, pcPackages: Any, ppPackageInfo: Any
    ) -> None:
        block = self._package_block(list(_FAKE_PACKAGES))
        ppPackageInfo[0] = ctypes.cast(block, PSecPkgInfoW)
        pcPackages[0] = len(_FAKE_PACKAGES)

    # Messages

    def MakeSignature(
        self, phContext: Any, fQOP: int, pMessage: Any, MessageSeqNo: int
    ) -> None:
        context = self._find(phContext, self.contexts, "context")
        message = _FakeMessage(pMessage)
        signature = context.session().sign(message.signed(message.text()))
        message.fill(message.token, signature)
        context.count(self.fake.crimes, "sent", MessageSeqNo)

    def VerifySignature(
        self, phContext: Any, pMessage: Any, MessageSeqNo: int, pfQOP: Any
    ) -> None:
        context = self._find(phContext, self.contexts, "context")
        message = _FakeMessage(pMessage)
        session = context.session()
        session.verify(message.signed(message.text()), message.head())
        context.count(self.fake.crimes, "received", MessageSeqNo)
        if pfQOP and session.tells_quality:
            pfQOP[0] = 0

    def EncryptMessage(
        self, phContext: Any, fQOP: int, pMessage: Any, MessageSeqNo: int
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
        self, phContext: Any, pMessage: Any, MessageSeqNo: int, pfQOP: Any
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

    def FreeContextBuffer(self, pvContextBuffer: int | None) -> None:
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

    def _package_block(self, names: list[str]) -> int:
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

    def _write_expiry(self, ptsExpiry: Any, value: int) -> None:
        if ptsExpiry:
            ptsExpiry.contents.LowPart = value & 0xFFFFFFFF
            ptsExpiry.contents.HighPart = value >> 32

    def _write_handle(
        self, pHandle: Any, table: dict[Any, Any], thing: object
    ) -> None:
        key = (next(self._serials), 0)  # a half that is zero is as good as any other
        pHandle.contents.dwLower, pHandle.contents.dwUpper = key
        table[key] = thing

    def _find(self, pHandle: Any, table: dict[Any, Any], what: str) -> Any:
        if not pHandle:
            self._crime(f"NULL for a {what}", SEC_E_INVALID_HANDLE)
        key = (pHandle.contents.dwLower, pHandle.contents.dwUpper)
        if key not in table:
            old = "an old handle" if key in self._dead else "a foreign handle"
            self._crime(f"{old} for a {what}", SEC_E_INVALID_HANDLE)
        return table[key]

    def _bury(self, table: dict[Any, Any], pHandle: Any) -> None:
        key = (pHandle.contents.dwLower, pHandle.contents.dwUpper)
        del table[key]
        self._remember(key)

    def _remember(self, gone: object) -> None:
        self._dead.append(gone)
        del self._dead[:-64]

    def _crime(self, what: str, status: int) -> NoReturn:
        self.fake.crimes.append(what)
        raise SspiError(status, "")


class _FakeMessage:
    """The buffers of one message: a TOKEN or what stands for it, and DATA.

    DATA may come in pieces, some of them READONLY_WITH_CHECKSUM (signed and not
    encrypted, as DCE/RPC has its headers) or READONLY (neither).
    """

    def __init__(self, pMessage: Any, instead: int = SECBUFFER_TOKEN) -> None:
        self.data: list[Any] = []
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
        self.token: Any = token

    def head(self) -> bytes:
        return _bytes_at(self.token.pvBuffer, self.token.cbBuffer)

    def _writable(self) -> list[Any]:
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

    def fill(self, buffer: Any, content: bytes) -> None:
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
        self.package_list: list[str] = []
        self.login: _Login | None = None

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
        request: int, bindings: bytes | None,
    ) -> None:  # fmt: skip
        self.fake, self.credential, self.target = fake, credential, target
        self.asked, self.request = request, request & ~fake.withhold
        self.bindings = bindings
        self.mechanism: _Mechanism | None = None
        self.descriptor = 0
        self.counts = {"sent": 0, "received": 0}

    def judge(
        self, crimes: list[str], reply: bytes | None, bindings: bytes | None
    ) -> None:
        if bindings != self.bindings:
            crimes.append("the channel bindings changed between legs")
        if reply is None:
            crimes.append("a later leg without a token")
        if self.mechanism is not None and self.mechanism.complete:
            crimes.append("a leg after SEC_E_OK")

    def count(self, crimes: list[str], way: str, number: int) -> None:
        """Look at MessageSeqNo: 0 from who keeps no count, else one each way."""
        due = self.counts[way]
        if number not in (0, due):
            crimes.append(f"message {number} {way}, while {due} was due")
        self.counts[way] = due + 1

    def step(self, reply: bytes | None) -> tuple[int, bytes | None]:
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

    def _start(self) -> _Mechanism:
        credential, fake = self.credential, self.fake
        if credential.login is None or not credential.outbound:
            raise SspiError(SEC_E_NO_CREDENTIALS, "")  # of an inbound one not verified
        if credential.package == KERBEROS:
            return _KerberosClient(self)
        if credential.package == NTLM:
            return self._start_ntlm()
        offers: list[_Mechanism] = []
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

    def _start_ntlm(self, inside: bool = False) -> _Mechanism:
        if not self.fake.ntlm:  # STATUS_NOT_SUPPORTED in MS-NLMP 3.1.5.1.1
            raise SspiError(SEC_E_UNSUPPORTED_FUNCTION, "")
        return _NtlmClient(self, inside and self.fake.spnego_signs)

    def session(self) -> Any:
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


# -- 17. What a mechanism is ---------------------------------------------------
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
    session: _Session | None = None
    user = target = ""

    def step(self, token: Any) -> bytes | None:
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
    sign: Any
    verify: Any

    def mech_list_mic(self, mech_types: bytes) -> bytes:
        return bytes(self.sign(mech_types))

    def check_mech_list_mic(self, mech_types: bytes, mic: bytes) -> None:
        self.verify(mech_types, mic)


def _check_demands(server: FakeServer, granted: int) -> None:
    if server.require & ~granted:
        raise SspiError(SEC_E_LOGON_DENIED, _ASC)


# -- 18. NTLM ------------------------------------------------------------------
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

    def step(self, token: bytes | None) -> bytes:
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
        login: Any = self._context.credential.login
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
    ) -> tuple[dict[int, bytes], bytes | None]:
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

    def step(self, token: bytes) -> bytes | None:
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

    def _check_mic(self, message: bytes, pairs: dict[int, bytes], key: bytes) -> None:
        if _from_le(pairs.get(_AV_FLAGS, b"")) & _AV_FLAG_MIC:
            bare = message[:_MIC_AT] + bytes(16) + message[_MIC_AT + 16 :]
            expected = _hmac_md5(key, self._negotiate, self._challenge, bare)
            if message[_MIC_AT : _MIC_AT + 16] != expected:
                raise SspiError(SEC_E_MESSAGE_ALTERED, _ASC)
            self.announces_mic = True

    def _check_bindings(self, pairs: dict[int, bytes]) -> None:
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
        self, text: bytes, encrypt: bool, signed: Callable[[bytes], bytes] = bytes
    ) -> tuple[bytes, bytes]:
        # *encrypt* changes nothing: a receiver of NTLM cannot tell, and pyspnego's
        # tests on Windows and gss-ntlmssp#77 see the text sealed all the same. Where
        # SIGN alone was negotiated we do as Samba and Wine; Windows not verified.
        self._check_protected("EncryptMessage")
        ciphertext = self._out.rc4.process(text)
        return self.sign(signed(text)), ciphertext

    def unseal(
        self, token: bytes, text: bytes, signed: Callable[[bytes], bytes] = bytes
    ) -> tuple[bytes, bool]:
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
) -> tuple[bytes, bytes]:
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


def _ntlm_pack(fields: list[bytes], flags: int) -> bytes:
    """Lay out an AUTHENTICATE_MESSAGE with an empty MIC: 2.2.1.3."""
    offset = _MIC_AT + 16
    headers = payload = b""
    for field in fields:
        headers += _ntlm_header(len(field), offset + len(payload))
        payload += field
    head = _NTLMSSP + _le(3) + headers + _le(flags) + _NTLM_VERSION
    return head + bytes(16) + payload


def _av_pairs(info: bytes) -> dict[int, bytes]:
    pairs: dict[int, bytes] = {}
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


def _av_bytes(pairs: dict[int, bytes]) -> bytes:
    listed = [*pairs.items(), (_AV_EOL, b"")]
    return b"".join(
        kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value
        for kind, value in listed
    )


def _bindings_hash(bindings: bytes | None) -> bytes:
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


# -- 19. SPNEGO ----------------------------------------------------------------
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

    def __init__(self, offers: list[_Mechanism], negoex: bool) -> None:
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

    def step(self, token: bytes | None) -> bytes:
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

    def _finish(self, state: int | None, response: bytes, mic: bytes) -> bytes:
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
        self._mechanism: Any = None
        self._mech_types = b""
        self._mic_due = self._mic_sent = self._mic_seen = False

    user = property(lambda self: self._mechanism.user)
    package = property(lambda self: self._mechanism.package)
    target = property(lambda self: self._mechanism.target)
    session = property(lambda self: self._mechanism.session)

    def step(self, token: bytes) -> bytes | None:
        try:
            if self._mechanism is None:
                return self._begin(token)
            _, _, response, mic = _neg_token_resp(token)
            return self._advance(response, mic, b"")
        except SspiError as refused:  # its token, if any, is a KRB-ERROR
            refused.token = _neg_token_resp_bytes(_REJECT, b"", refused.token, b"")
            raise

    def _begin(self, token: bytes) -> bytes | None:
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

    def _advance(self, token: bytes, mic: bytes, chosen: bytes) -> bytes | None:
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


def _neg_token_init(token: bytes) -> tuple[bytes, list[bytes], bytes]:
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


def _neg_token_resp(token: bytes) -> tuple[int | None, bytes, bytes, bytes]:
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


def _gss_unframe(token: bytes) -> tuple[bytes, bytes]:
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

    def __init__(self, items: Iterator[tuple[int, bytes]]) -> None:
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


# -- 20. The stand-in Kerberos -------------------------------------------------
# May touch: bytes only. Frames and legs are those of RFC 4120 and RFC 4121; the
# cryptography is NOT Kerberos: encryption type -128 (RFC 3961: negative numbers
# are for local use) is ours, and only FakeServer understands it.

_MUTUAL_AUTH, _DCE = _MUTUAL_AUTH, ISC_RET.USED_DCE_STYLE.value
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

    def step(self, token: bytes | None) -> bytes:
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

    def step(self, token: bytes) -> bytes | None:
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
        self, text: bytes, encrypt: bool, signed: Callable[[bytes], bytes] = bytes
    ) -> tuple[bytes, bytes]:
        """A wrap token, 4.2.6.2, of 28 bytes; sealed, 32 more, which stand for the
        confounder and the encrypted header. The text stays in one piece."""
        if encrypt and not self._confidential:  # winkerberos' test_confidentiality
            raise SspiError(SEC_E_QOP_NOT_SUPPORTED, "EncryptMessage")
        self._sent += 1
        nonce = _random(32) if encrypt else b""
        token = self._wrapped(self._ours, nonce, _be8(self._sent - 1), signed(text))
        return token, _mask(self.key + token[16:], text) if encrypt else text

    def unseal(
        self, token: bytes, text: bytes, signed: Callable[[bytes], bytes] = bytes
    ) -> tuple[bytes, bool]:
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


def _kerberos_fields(message: bytes, tag: int, kind: int) -> dict[int, bytes]:
    """Return the fields of an AP-REQ (14), AP-REP (15) or KRB-ERROR (30) by tag."""
    fields = _Fields(_der_items(_der_only(_der_only(message, tag), 0x30)))
    if fields[0xA0] != _der_int(5) or fields[0xA1] != _der_int(kind):
        raise ValueError("not version 5 of Kerberos, or another message")
    return fields


def _kerberos_names(tag: int, domain: FakeDomain, target: str) -> list[bytes]:
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


# -- 21. MD4 and RC4 -----------------------------------------------------------
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
    block: list[int], a: int, b: int, c: int, d: int
) -> tuple[int, int, int, int]:
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
        self._state: list[int] = []  # made when it is needed: half of a handshake
        self._i = self._j = 0

    def copy(self) -> _RC4:
        twin = _RC4(self._key)
        twin._state, twin._i, twin._j = self._state[:], self._i, self._j
        return twin

    def _schedule(self) -> list[int]:
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
