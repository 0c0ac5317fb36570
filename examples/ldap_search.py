"""Search a directory as the user who is logged on: LDAP through the ldap3 library.

    python ldap_search.py dc1.corp.example                       who are we?
    python ldap_search.py dc1.corp.example --filter "(sAMAccountName=alice)"
    python ldap_search.py dc1.corp.example --tls start --attributes cn,mail \\
        --filter "(objectClass=user)" --format json

`SspiConnection` is an ldap3.Connection whose bind() logs on by GSS-SPNEGO:

    server = ldap3.Server("dc1.corp.example", get_info=ldap3.NONE)
    with SspiConnection(server) as connection:
        for entry in search(connection, "DC=corp,DC=example", "(cn=a*)"):
            print(entry.dn)

On port 389 all that follows the logon is sealed (RFC 4422 3.7). Inside TLS, which
is port 636 or start_tls() before bind(), the logon is bound to the server's
certificate (RFC 5929) instead, and nothing is sealed: servers refuse both at once.

ldap3's strategies SYNC, ASYNC and RESTARTABLE work, and the two SAFE_ ones. The
log-on itself is always made by SYNC: RESTARTABLE would send a token again on
another connection, and ASYNC's thread would read on while the socket is replaced.
When RESTARTABLE restarts, it logs on and seals again; a refused logon ends it at
once, since thirty more tries would lock the account. An open connection that is not
logged on carries nothing but the logon, so nothing is ever asked anonymously.

It needs ldap3 2.9 and pyasn1, both pure Python.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import getpass
import json
import ssl
import sys
import threading
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, NoReturn
from typing import Optional, Sequence

import ldap3
from ldap3.core.exceptions import LDAPBindError, LDAPException, LDAPStartTLSError
from ldap3.protocol.sasl.sasl import send_sasl_negotiation
from ldap3.strategy.restartable import RestartableStrategy
from ldap3.strategy.safeRestartable import SafeRestartableStrategy
from ldap3.strategy.sync import SyncStrategy

import sspi_client
from sspi_client import ISC_REQ, ISC_RET

SUCCESS, BIND_IN_PROGRESS = 0, 14  # RFC 4511 4.1.9, resultCode
LEGS = 10  # three are usual, and a server must not keep us for ever
FRAME_LIMIT = 16 << 20  # [bytes] Active Directory sends 10 MB in one piece at most
READ_SIZE = 1 << 16  # [bytes] of one recv()
PATIENCE = 30  # [s] for each answer
PAGE_SIZE = 500  # [entries] Active Directory gives 1,000 at most
PAGED_RESULTS = "1.2.840.113556.1.4.319"  # RFC 2696
STRATEGIES = (
    ldap3.SYNC,
    ldap3.SAFE_SYNC,
    ldap3.ASYNC,
    ldap3.RESTARTABLE,
    ldap3.SAFE_RESTARTABLE,
)

# What may leave an open connection before bind() is through.
BEFORE_LOGON = ("bindRequest", "unbindRequest", "extendedReq")

# No public way leads to a bindRequest with a mechanism that ldap3 does not know.
negotiate: Any = send_sasl_negotiation

HINTS: Dict[object, str] = {  # by what the server's words begin with, or by result code
    "80090346": "it wants channel bindings, or those of another certificate",
    "80090308": "it refuses the token; `data 52e` means a wrong password",
    8: "it wants the connection sealed or inside TLS",
}


class SspiConnection(ldap3.Connection):
    """An ldap3.Connection that logs on with SSPI, or not at all.

    target: default "ldap/HOST" of the server that is connected, also from a pool.
    identity: default: who is logged on to this machine.
    package, allow_ntlm, require, secur32: as sspi_client.authenticate() has them.
    options: what ldap3.Connection takes, except for what concerns other logons.

    `negotiated` is the package of the last logon, "Kerberos" or "NTLM".
    Raises, in bind(): SspiError, LDAPException. In a restart: LDAPException.
    """

    def __init__(
        self,
        server: Any,
        target: Optional[str] = None,
        identity: Optional[sspi_client.Identity] = None,
        *,
        package: str = sspi_client.NEGOTIATE,
        allow_ntlm: bool = True,
        require: int = 0,
        secur32: Any = None,
        client_strategy: Any = ldap3.SYNC,
        auto_bind: Any = ldap3.AUTO_BIND_DEFAULT,
        **options: Any,
    ) -> None:
        if client_strategy not in STRATEGIES:
            raise ValueError(f"client_strategy must be one of {', '.join(STRATEGIES)}")
        unwanted = {"user", "password", "authentication", "auto_referrals", "lazy"}
        for name in sorted(unwanted & options.keys()):
            raise ValueError(f"{name}= belongs to ldap3's own logons; leave it out")
        self.negotiated: Optional[str] = None
        self._target, self._identity, self._require = target, identity, require
        self._how = {"package": package, "allow_ntlm": allow_ntlm, "secur32": secur32}
        self._wants_tls = False
        super().__init__(
            server,
            auto_bind=ldap3.AUTO_BIND_NONE,
            client_strategy=client_strategy,
            # A referral would be followed by a Connection that is none of ours.
            auto_referrals=False,
            **options,
        )
        if client_strategy == ldap3.RESTARTABLE:
            self._use(_Restartable(self))
        elif client_strategy == ldap3.SAFE_RESTARTABLE:
            self._use(_SafeRestartable(self))
        else:
            self._use(self.strategy)
        self.auto_bind = auto_bind
        if auto_bind not in (False, ldap3.AUTO_BIND_NONE, ldap3.AUTO_BIND_DEFAULT):
            if auto_bind == ldap3.AUTO_BIND_TLS_BEFORE_BIND:
                self._wants_tls = True
            self.bind()

    def bind(self, read_server_info: bool = True, controls: Any = None) -> Any:
        """Log on, on a connection that is not logged on yet, else on a new one."""
        if self.bound or not self.strategy.sync:
            self._hang_up()
        with self.connection_lock:
            with self._sync_strategy():
                try:
                    if self.closed:
                        self.open(read_server_info=False)
                    if self._wants_tls:
                        super().start_tls(read_server_info=False)
                        if not self.tls_started:
                            raise LDAPStartTLSError("TLS was not started")
                    self._log_on(controls)
                except BaseException:
                    self.strategy.close()
                    raise
            self.bound = True
            if not self.strategy.sync:
                self.listening = False
                self.strategy._start_listen()
            self._entries: List[Any] = []
            answer = self.result
            if read_server_info:
                self.refresh_server_info()
            return self._prepare_return_value(True, answer)  # type: ignore[attr-defined]

    def rebind(self, *arguments: Any, **options: Any) -> Any:
        raise LDAPBindError("one connection, one user: make another SspiConnection")

    def start_tls(self, read_server_info: bool = True) -> Any:
        """Let bind() start TLS before it logs on, now and after every restart."""
        if self.bound:
            raise LDAPStartTLSError("TLS must start before the logon")
        self._wants_tls = True
        return self._prepare_return_value(True)  # type: ignore[attr-defined]

    def refresh_server_info(self) -> None:
        if self.bound:  # else ldap3 would read it anonymously
            super().refresh_server_info()

    def unbind(self, controls: Any = None) -> Any:
        answer = super().unbind(controls)
        self._hang_up()
        return answer

    def __enter__(self) -> SspiConnection:
        if not self.bound:
            self.bind()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(LDAPException):  # the server may be gone by now
            self.unbind()
        self._hang_up()

    def _log_on(self, controls: Any) -> None:
        """Exchange tokens until both sides are content, and seal if it is due."""
        target = self._target or sspi_client.spn("ldap", self.server.host)
        how = dict(self._how, require=self._require)
        inside_tls = isinstance(self.socket, ssl.SSLSocket)
        if inside_tls:
            how["flags"] = ISC_REQ.MUTUAL_AUTH | ISC_REQ.NO_INTEGRITY
            certificate = self.socket.getpeercert(True)
            how["channel_bindings"] = sspi_client.tls_server_end_point(certificate)
        else:
            how["require"] = self._require | ISC_RET.CONFIDENTIALITY
        self.sasl_mechanism = "GSS-SPNEGO"
        results: List[Dict[str, Any]] = []

        def exchange(token: sspi_client.Token) -> Optional[bytes]:
            if results and results[-1]["result"] == SUCCESS:
                raise LDAPBindError("the server let us in before SSPI was content")
            if len(results) == LEGS:
                raise LDAPBindError(f"the server wants more than {LEGS} legs")
            results.append(negotiate(self, controls, bytes(token)))
            if results[-1]["result"] not in (SUCCESS, BIND_IN_PROGRESS):
                raise LDAPBindError(refusal(results[-1]))
            return results[-1]["saslCreds"] or None

        flow = sspi_client.authenticate(target, self._identity, **how)
        context: sspi_client.Context = sspi_client.drive(flow, exchange)
        with contextlib.ExitStack() as unless_sealed:
            unless_sealed.callback(context.close)
            if results[-1]["result"] != SUCCESS:
                raise LDAPBindError("the server wants more than SSPI has to say")
            with contextlib.suppress(sspi_client.SspiError):  # it need not tell
                self.negotiated = context.package
            if not inside_tls:
                self.socket = SealedSocket(self.socket, context)
                unless_sealed.pop_all()

    @contextlib.contextmanager
    def _sync_strategy(self) -> Iterator[None]:
        """Let SYNC make the logon, whatever the strategy; errors come out as ours."""
        usual = self.strategy
        self._use(SyncStrategy(self))
        self.strategy._outstanding = {}
        try:
            yield
        except (sspi_client.SspiError, LDAPBindError) as error:
            if getattr(usual, "_restarting", False):
                raise _Refused(error) from None
            raise
        finally:
            self._use(usual)
            usual._outstanding = {}
            usual._responses, usual._requests = {}, {}  # ASYNC's

    def _use(self, strategy: Any) -> None:
        self.strategy = strategy
        self.open = strategy.open
        self.get_response = strategy.get_response
        self.post_send_single_response = strategy.post_send_single_response
        self.post_send_search = strategy.post_send_search

        def send(message_type: str, request: Any, controls: Any = None) -> Any:
            if not self.bound and not self.closed and message_type not in BEFORE_LOGON:
                raise LDAPBindError("not logged on: call bind() first")
            return strategy.send(message_type, request, controls)

        self.send = send

    def _hang_up(self) -> None:
        """Close, and see ASYNC's thread end: it would read from the next socket."""
        self.strategy.close()
        receiver = getattr(self.strategy, "receiver", None)
        if receiver is not None and receiver is not threading.current_thread():
            self.socket = _Ended()
            receiver.join()
            self.socket = None


class _Refused(BaseException):
    """Carries a refusal out of RESTARTABLE's loop, which retries after an Exception."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class _Restartable(RestartableStrategy):
    def send(self, message_type: Any, request: Any, controls: Any = None) -> Any:
        try:
            return super().send(message_type, request, controls)
        except _Refused as refused:
            self._restarting = False
            error = refused.error
        raise LDAPBindError(f"restart: {error}") from error


class _SafeRestartable(_Restartable, SafeRestartableStrategy):
    pass


class _Ended:
    """What a thread reads from that is to end."""

    def recv(self, size: int) -> bytes:
        return b""


class SealedSocket:
    """A socket whose messages are sealed behind a length, 4 bytes big-endian.

    recv() returns one whole LDAPMessage, however long, or b"" at the end: ldap3
    would add up small pieces in quadratic time. What cannot be opened, or is too
    long, is a ConnectionError, and then the connection is done for.

    Owns: the socket and the context; close() closes both. One thread may send
    while another receives.
    """

    def __init__(self, connected: Any, context: sspi_client.Context) -> None:
        self._socket, self._context = connected, context
        self._sealed, self._clear = bytearray(), bytearray()
        self._lock = threading.Lock()  # for the context and for _ended
        self._ended = False

    def sendall(self, message: bytes) -> None:
        with self._lock:
            if self._ended:
                raise ConnectionError("the sealed connection is closed")
            try:
                blob = self._context.wrap(message)
            except sspi_client.SspiError as error:
                raise ConnectionError(f"message not sealed: {error}") from error
            self._socket.sendall(len(blob).to_bytes(4, "big") + blob)

    def recv(self, size: int) -> bytes:
        while not self._ended:
            length = message_length(self._clear)
            if length is not None and length <= len(self._clear):
                message = bytes(self._clear[:length])
                del self._clear[:length]
                return message
            if length is not None and length > FRAME_LIMIT:
                self._give_up(f"the server announces a message of {length} bytes")
            if not self._open_frame():
                received = self._socket.recv(READ_SIZE)
                if not received:
                    break
                self._sealed += received
        return b""

    def _open_frame(self) -> bool:
        """Open the next frame, if all of it is there."""
        if len(self._sealed) < 4:
            return False
        length = int.from_bytes(self._sealed[:4], "big")
        if length > FRAME_LIMIT:  # before memory is spent on it
            self._give_up(f"the server announces {length} sealed bytes")
        if len(self._sealed) < 4 + length:
            return False
        blob = bytes(self._sealed[4 : 4 + length])
        del self._sealed[: 4 + length]
        try:
            with self._lock:
                message = None if self._ended else self._context.unwrap(blob)
        except sspi_client.SspiError as error:
            self._give_up(f"message not opened: {error}")
        if message is not None and not message.encrypted:
            self._give_up("the server sent what is signed and not sealed")
        self._clear += message or b""
        return message is not None

    def _give_up(self, problem: str) -> NoReturn:
        self.close()
        raise ConnectionError(problem)

    def close(self) -> None:
        with self._lock:
            self._ended = True
            self._context.close()
        self._socket.close()

    def __getattr__(self, name: str) -> Any:  # settimeout(), shutdown() and all else
        return getattr(self._socket, name)


def message_length(clear: bytearray) -> Optional[int]:
    """Return how many bytes the LDAPMessage at the front has; None: not known yet."""
    if len(clear) < 2:
        return None
    if clear[1] < 0x80:  # X.690 8.1.3: the short form
        return 2 + clear[1]
    head = 2 + (clear[1] & 0x7F)
    if len(clear) < head:
        return None
    return head + int.from_bytes(clear[2:head], "big")


def refusal(result: Dict[str, Any]) -> str:
    """Put an LDAPResult into words."""
    message = result.get("message") or ""
    hint = HINTS.get(message[:8], HINTS.get(result["result"]))
    said = f"{result['description']}: {message}" if message else result["description"]
    return f"{said} ({hint})" if hint else str(said)


# -- Asking ----------------------------------------------------------------------


class Entry(NamedTuple):
    dn: str
    attributes: Dict[str, List[bytes]]


def answer(connection: ldap3.Connection, asked: Any) -> Any:
    """Return (entries, result) of what was asked, by whatever strategy."""
    if connection.strategy.thread_safe:  # SAFE_SYNC, SAFE_RESTARTABLE
        _, result, entries, _ = asked
        return entries, result
    if connection.strategy.sync:
        return connection.response, connection.result
    return connection.get_response(asked, connection.receive_timeout or PATIENCE)


def search(
    connection: ldap3.Connection,
    base: str,
    filter: str = "(objectClass=*)",
    attributes: Optional[Iterable[str]] = None,
    *,
    scope: Any = ldap3.SUBTREE,
    page_size: int = PAGE_SIZE,
) -> Iterator[Entry]:
    """Yield what is found, page by page (RFC 2696). Raises: LDAPException."""
    names = list(attributes) if attributes is not None else [ldap3.ALL_ATTRIBUTES]
    cookie: Any = None
    while True:
        paged: Dict[str, Any] = {"paged_size": page_size, "paged_cookie": cookie}
        if scope == ldap3.BASE:
            paged = {}
        asked = connection.search(base, filter, scope, attributes=names, **paged)
        entries, result = answer(connection, asked)
        for entry in entries or ():
            if entry["type"] == "searchResEntry":
                yield Entry(entry["dn"], entry["raw_attributes"])
        if result["result"] != SUCCESS:
            raise LDAPException(f"search: {refusal(result)}")
        control = result.get("controls", {}).get(PAGED_RESULTS)
        cookie = control and control["value"]["cookie"]
        if not cookie:
            return


def whoami(connection: ldap3.Connection) -> str:
    """Return the name that the server has for us (RFC 4532). Raises: LDAPException.

    Samba before 4.22 does not know this request.
    """
    _, result = answer(connection, connection.extended("1.3.6.1.4.1.4203.1.11.3"))
    if result["result"] != SUCCESS:
        raise LDAPException(f"who am I: {refusal(result)}")
    return (result["responseValue"] or b"").decode("utf-8", "backslashreplace")


def naming_context(connection: ldap3.Connection) -> str:
    """Return where this directory begins, as its rootDSE says (RFC 4512 5.1)."""
    names = ["defaultNamingContext", "namingContexts"]
    for entry in search(connection, "", attributes=names, scope=ldap3.BASE):
        for name in names:
            for value in entry.attributes.get(name, ()):
                return value.decode("utf-8")
    raise LDAPException("the server does not say where its directory begins: --base")


# -- Telling ---------------------------------------------------------------------


def printable(text: object) -> str:
    """Escape what a terminal would act upon: a server chose these characters."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
    encoding = sys.stdout.encoding or "ascii"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def ldif(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield the lines of RFC 2849; what is not plain ASCII is in base64."""
    yield "version: 1"
    for entry in entries:
        yield ""
        yield from ldif_lines("dn", entry.dn.encode("utf-8", "surrogatepass"))
        for name, values in entry.attributes.items():
            for value in values:
                yield from ldif_lines(printable(name), value)


def ldif_lines(name: str, value: bytes) -> Iterator[str]:
    plain = all(0x20 <= octet < 0x7F for octet in value)
    if plain and value[:1] not in (b" ", b":", b"<") and value[-1:] != b" ":
        line = f"{name}: {value.decode('ascii')}"
    else:
        line = f"{name}:: {base64.b64encode(value).decode('ascii')}"
    yield line[:76]
    for start in range(76, len(line), 75):
        yield " " + line[start : start + 75]


def as_json(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield the lines of a JSON array; what is not UTF-8 is {"base64": ...}."""
    before = "["
    for entry in entries:
        values = {
            name: [json_value(value) for value in values]
            for name, values in entry.attributes.items()
        }
        told = json.dumps({"dn": entry.dn, "attributes": values})
        yield before + told.replace("\x7f", "\\u007f")  # json.dumps lets it pass
        before = ","
    yield "]" if before == "," else "[]"


def json_value(value: bytes) -> Any:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode("ascii")}


FORMATS = {"ldif": ldif, "json": as_json}


# -- For people ------------------------------------------------------------------


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ldap_search",
        description="Search a directory as who is logged on; without a filter: ask"
        " the directory who we are.",
    )
    add = parser.add_argument
    add("host", help="the server, by the name that its SPN has")
    add("--port", type=int, help="default: 389, and 636 with --tls ldaps")
    add(
        "--tls",
        choices=["no", "start", "ldaps"],
        default="no",
        help="no: everything is sealed by SSPI (default); start: StartTLS on port"
        " 389; ldaps: TLS from the first byte on port 636",
    )
    add("--ca", metavar="PEM", help="whom to trust in TLS; default: as the system does")
    add("--user", help="DOMAIN\\user or user@domain; default: who is logged on")
    add("--spn", help="default: ldap/HOST")
    add(
        "--package",
        choices=[sspi_client.NEGOTIATE, sspi_client.KERBEROS, sspi_client.NTLM],
        default=sspi_client.NEGOTIATE,
        help="default: Negotiate, which is Kerberos if it can be and else NTLM",
    )
    add("--no-ntlm", action="store_true", help="Kerberos or nothing, mutually proven")
    add("--filter", help='what to search for, as "(sAMAccountName=alice)"')
    add("--base", metavar="DN", help="where to search; default: the whole directory")
    add(
        "--scope",
        choices=["base", "level", "subtree"],
        default="subtree",
        help="the entry --base, its children, or all below it (default)",
    )
    add("--attributes", metavar="A,B", help="default: all that are not operational")
    add("--page-size", type=int, default=PAGE_SIZE, help="in an answer, %(default)s")
    add("--format", choices=FORMATS, default="ldif", help="default: %(default)s")
    add("--timeout", type=int, default=PATIENCE, help="for an answer [s], %(default)s")
    return parser


def connect(told: argparse.Namespace, secur32: Any) -> SspiConnection:
    """Return the connection that the command line describes; it is not open yet."""
    identity = None
    if told.user:
        identity = sspi_client.Identity(told.user, getpass.getpass())
    inside_tls = told.tls == "ldaps"
    server = ldap3.Server(
        told.host,
        told.port or (636 if inside_tls else 389),
        use_ssl=inside_tls,
        tls=ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=told.ca),
        get_info=ldap3.NONE,
        connect_timeout=told.timeout,
    )
    connection = SspiConnection(
        server,
        told.spn or sspi_client.spn("ldap", told.host),
        identity,
        package=told.package,
        allow_ntlm=not told.no_ntlm,
        require=ISC_RET.MUTUAL_AUTH if told.no_ntlm else 0,
        secur32=secur32,
        receive_timeout=told.timeout,
        check_names=False,
    )
    if told.tls == "start":
        connection.start_tls()
    return connection


def report(connection: SspiConnection, told: argparse.Namespace) -> Iterator[str]:
    """Yield the lines to print."""
    if told.filter is None:
        yield printable(whoami(connection))
        return
    attributes = told.attributes.split(",") if told.attributes else None
    base = told.base if told.base is not None else naming_context(connection)
    entries = search(
        connection,
        base,
        told.filter,
        attributes,
        scope=told.scope.upper(),
        page_size=told.page_size,
    )
    yield from FORMATS[told.format](entries)


def main(argv: Optional[Sequence[str]] = None, secur32: Any = None) -> Optional[str]:
    """Return None, or what went wrong in one line."""
    told = options().parse_args(argv)
    told.host = told.host.strip("[]")  # as addresses are written in a URL
    connection = None
    try:
        connection = connect(told, secur32)
        connection.bind(read_server_info=False)
        for line in report(connection, told):
            print(line)
    except (sspi_client.SspiError, LDAPException, OSError, ValueError) as problem:
        return f"ldap_search: {printable(problem)}"
    finally:
        if connection is not None:
            connection.strategy.close()
    return None


if __name__ == "__main__":
    sys.exit(main())
