r"""Let requests log on with Windows: Negotiate or NTLM.

    session = requests.Session()
    session.mount("https://intranet.example.com/", SspiAdapter())
    session.get("https://intranet.example.com/page")

What an adapter is mounted on gets tokens, and nothing else does. Mind the slash: a
mount is a prefix, and "https://intranet.example.com" is one of "...com.evil.test" too.
Write an IDN in its xn-- form. For many hosts:

    session.mount("https://", SspiAdapter(hosts=[".corp.example.com"]))

The logon happens inside of a connection (SspiConnection below), because NTLM
authenticates the connection: no leg can end up on another one, and urllib3's pool lends
a connection to one request at a time. Redirects, cookies, retries and proxies are the
session's, as ever. One adapter is for one user.
"""

import argparse
import contextlib
import getpass
import http.client
import re
import socket
import sys
import urllib.request
from http.cookiejar import CookieJar
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional
from urllib.parse import urljoin, urlsplit

import requests
import requests.adapters

import sspi_client

if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection as Base
else:
    Base = object

#: [bytes] of a 401 page that we read to go on with its connection.
LONGEST_PAGE = 1 << 20


class LogonError(requests.RequestException):
    """We are refused, or the server is: __cause__ is the SspiError, if there is one.

    No ConnectionError: a retry would lock the account.
    """


class Logon:
    """Who logs on, how and where: for all connections of one user."""

    def __init__(
        self,
        keywords: Dict[str, Any],
        hosts: Optional[Iterable[str]],
        preemptive: bool,
        bindings: bool,
        keep_context: bool,
    ) -> None:
        self.keywords, self.require = keywords, keywords["require"]
        self.preemptive, self.bindings = preemptive, bindings
        self.keep_context = keep_context
        if isinstance(hosts, str):
            raise TypeError("hosts is a list of names")
        self._hosts = None if hosts is None else [_plain_name(host) for host in hosts]
        package, credential = keywords["package"], keywords["credential"]
        chosen = credential.package if credential else package or ""
        self.scheme = "NTLM" if chosen.lower() == "ntlm" else "Negotiate"
        self.start("localhost", 200, []).close()  # a wrong keyword is an error here

    def start(
        self, host: str, status: int, challenges: List[str], der: Optional[bytes] = None
    ) -> "sspi_client.HttpFlow":
        return sspi_client.http_authenticate(
            host, status, challenges, certificate=der, **self.keywords
        )

    def is_for(self, url: str) -> bool:
        if self._hosts is None:
            return True  # the mount has decided
        host = _plain_name(urlsplit(url).hostname or "")
        return any(
            host == listed or (listed.startswith(".") and host.endswith(listed))
            for listed in self._hosts
        )


class SspiAdapter(requests.adapters.HTTPAdapter):
    """An adapter to mount on what gets tokens.

    identity, target, package, flags, require, allow_ntlm, credential, secur32: as in
        sspi_client.http_authenticate().
    hosts: names that get tokens, when this is mounted on "https://"; ".example.com" is
        each host whose name ends in these labels. Others are asked without.
    preemptive: send a token with each request, unasked, to servers that are known to
        want one. It saves a round trip of each Kerberos logon.
    bindings: False leaves out the TLS channel bindings, for a server behind something
        that ends TLS before it.
    keep_context: each response gets an attribute sspi_context: the Context of the
        logon of its connection, to wrap what is sent next. It closes with that.
    options: those of requests.adapters.HTTPAdapter; pool_maxsize is how many
        connections keep their logon.

    Raises, from send(): LogonError. A 401 that asks for another logon is returned.
    """

    def __init__(
        self,
        identity: Optional[sspi_client.Identity] = None,
        *,
        target: Optional[str] = None,
        package: Optional[str] = None,
        flags: int = sspi_client.DEFAULT_FLAGS,
        require: int = 0,
        allow_ntlm: bool = True,
        credential: Optional[sspi_client.Credential] = None,
        secur32: Any = None,
        hosts: Optional[Iterable[str]] = None,
        preemptive: bool = False,
        bindings: bool = True,
        keep_context: bool = False,
        **options: Any,
    ) -> None:
        keywords = {
            "identity": identity,
            "target": target,
            "package": package,
            "flags": flags,
            "require": require,
            "allow_ntlm": allow_ntlm,
            "credential": credential,
            "secur32": secur32,
        }
        self._logon = Logon(keywords, hosts, preemptive, bindings, keep_context)
        super().__init__(**options)

    def get_connection_with_tls_context(self, *arguments: Any, **options: Any) -> Any:
        pool = super().get_connection_with_tls_context(*arguments, **options)
        return self._logging_on(pool)

    def get_connection(self, *arguments: Any, **options: Any) -> Any:
        """What requests before 2.32 asks for a pool."""
        return self._logging_on(super().get_connection(*arguments, **options))

    def _logging_on(self, pool: Any) -> Any:
        """Let the connections of a urllib3 pool, of whatever kind, be ours."""
        kind = pool.ConnectionCls
        if not issubclass(kind, SspiConnection):
            name, bases = "Sspi" + kind.__name__, (SspiConnection, kind)
            ours = {"logon": self._logon, "scheme": pool.scheme}
            pool.ConnectionCls = type(name, bases, ours)
        return pool

    def send(
        self, request: requests.PreparedRequest, *arguments: Any, **options: Any
    ) -> requests.Response:
        ours = self._logon.is_for(request.url or "")
        if ours:
            _make_repeatable(request)
        try:
            response = super().send(request, *arguments, **options)
        except sspi_client.SspiError as refusal:
            raise LogonError(str(refusal), request=request) from refusal
        except requests.exceptions.ProxyError as problem:
            if "Tunnel connection failed: 407" not in str(problem):  # http.client's
                raise
            raise LogonError(
                "the proxy wants a logon of its own before it opens a tunnel (407): "
                "use proxy_forward as the proxy",
                request=request,
            ) from problem
        answer = getattr(response.raw, "_original_response", None)
        if ours and not hasattr(answer, "sspi_context"):
            self._is_no_connection_of_ours(response)
        context = getattr(answer, "sspi_context", None)
        vars(response)["sspi_context"] = context
        return response

    def _is_no_connection_of_ours(self, response: requests.Response) -> None:
        """Be clear about a mock that answers in our place: it can log nobody on."""
        said = response.headers.get("WWW-Authenticate", "")
        asked = response.status_code == 401 and _is_ours([said])
        if asked or self._logon.require:
            raise LogonError(
                "this answer did not come over a connection of SspiAdapter, but from a "
                "mock or a patch: nobody was logged on. Test with a server on loopback "
                "and secur32=FakeSecur32(...)",
                request=response.request,
            )

    def close(self) -> None:
        """Close all connections, and their logons with them."""
        managers: List[Any] = [self.poolmanager, *self.proxy_manager.values()]
        for manager in managers:
            for key in manager.pools.keys():
                manager.pools[key].close()  # urllib3 2 would wait for the collector
        super().close()

    def __getstate__(self) -> Dict[str, Any]:
        raise TypeError("an SspiAdapter cannot be pickled or copied: mount a new one")


class SspiConnection(Base):
    """What makes a urllib3 connection answer a 401 by itself: a base beside its class.

    request() and getresponse() are used as ever; in between the request is sent again
    with each leg. Raises: SspiError, besides what urllib3 raises.
    """

    logon: Logon
    scheme: str
    _flow: "Optional[sspi_client.HttpFlow]" = None  # begun by request()
    _context: Optional[sspi_client.Context] = None
    _proven = _logged_on_for_good = _answering = False
    _through: Any = None  # set_tunnel()'s arguments
    _page = ""  # the URL of the request that is under way
    _origin: Any = None  # scheme and host of the last one, through a proxy any

    def connect(self) -> None:
        self._forget()  # a new connection is judged anew
        super().connect()

    def close(self) -> None:
        if not self._answering:  # else the last answer is still to be unwrapped
            self._forget()
        super().close()

    def set_tunnel(
        self, host: str, port: Optional[int] = None, *arguments: Any, **options: Any
    ) -> None:
        # urllib3 2 forgets it when it closes.
        self._through = (host, port, *arguments), options
        super().set_tunnel(host, port, *arguments, **options)

    def request(
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Any = None,
        **options: Any,
    ) -> None:
        self._asked = (method, url, body, dict(headers or {}), options)
        self._offset = body.tell() if _can_seek(body) else None
        self._page = self._url(url)
        origin = urlsplit(self._page)[:2]
        if origin != self._origin:  # a forward proxy's connection serves many hosts
            self._forget()
            self._origin = origin
        self._host = _host(headers or {}, self._page)
        self._cookies = _LegCookies(self._page)
        at_once = self.logon.preemptive and self.logon.is_for(self._page)
        if at_once and not self._logged_on_for_good:
            self._connect_if_need_be()
            self._flow = self._start(401, [self.logon.scheme])
            self._send(next(self._flow))
        else:
            self._send(None)

    def getresponse(self) -> Any:
        self._answering = True
        try:
            answer = self._last_answer()
        finally:
            self._answering, self._page = False, ""
        _inner(answer).sspi_context = self._context
        return answer

    def _last_answer(self) -> Any:
        patience = self.sock.gettimeout()  # [s] for reading, which legs are to keep
        begun, self._flow = self._flow, None
        if begun is not None:
            with contextlib.closing(begun):
                return self._log_on(begun, super().getresponse(), patience, legs=1)
        answer = super().getresponse()
        # Without request(), the pieces were sent by hand: requests 2.28 does so with a
        # generator, for a host that is not listed.
        ours = bool(self._page) and self.logon.is_for(self._page)
        unproven = self.logon.require and not self._proven
        if ours and (answer.status == 401 or unproven):
            flow = self._start(answer.status, _challenges(answer))
            with contextlib.closing(flow):
                return self._log_on(flow, answer, patience, legs=0)
        return answer

    def _log_on(
        self,
        flow: "sspi_client.HttpFlow",
        answer: Any,
        patience: Optional[float],
        legs: int,
    ) -> Any:
        """Send leg by leg, *legs* of which are sent; return the answer to the last."""
        reply: Any = (answer.status, _challenges(answer)) if legs else None
        while True:
            try:
                held = [flow.send(reply)]
            except sspi_client.SspiError:
                _inner(answer).close()
                raise
            except StopIteration as done:
                self._end(done.value, legs)
                self._cookies.hand_over(_inner(answer))
                return answer
            try:
                self._make_free(_inner(answer), first=legs == 0)
                self._cookies.take(_inner(answer))
            except BaseException:
                held.clear()  # or this frame would show a token
                raise
            self._send(held.pop())  # if that raises, this frame holds no token
            self.sock.settimeout(patience)
            answer, legs = super().getresponse(), legs + 1
            reply = answer.status, _challenges(answer)

    def _start(self, status: int, challenges: List[str]) -> "sspi_client.HttpFlow":
        ours = status == 401 and _is_ours(challenges)
        self._certificate = self._peer_certificate() if ours else None
        return self.logon.start(self._host, status, challenges, self._certificate)

    def _end(self, context: Optional[sspi_client.Context], legs: int) -> None:
        if context is None:
            return
        if self._context is not None:
            self._context.close()
        if self.logon.keep_context:
            self._context = context
        else:
            context.close()
        self._proven = True
        # More than one leg is NTLM, which authenticates the connection.
        self._logged_on_for_good = legs > 1

    def _forget(self) -> None:
        self._proven = self._logged_on_for_good = False
        for ended in (self._flow, self._context):
            if ended is not None:
                ended.close()
        self._flow = self._context = None

    def _make_free(self, inner: http.client.HTTPResponse, first: bool) -> None:
        """Make the connection ready for the next leg, which must go over this one."""
        if inner.will_close:
            inner.close()  # and http.client has closed its connection
        elif not _read_to_its_end(inner):
            self.close()
        if getattr(self, "sock", None) is not None:
            return
        if not first:
            raise http.client.RemoteDisconnected(
                "the server closed the connection in mid-logon"
            )
        if self._peer_certificate() != self._certificate:
            raise http.client.RemoteDisconnected(
                "the server has another certificate on another connection"
            )

    def _send(self, authorization: Optional[str]) -> None:
        method, url, body, asked, options = self._asked
        headers = dict(asked)
        self._cookies.add_to(headers)
        if authorization:
            _replace(headers, "Authorization", authorization)
        if self._offset is not None:
            body.seek(self._offset)
        self._connect_if_need_be()
        try:
            super().request(method, url, body, headers, **options)
        except (BrokenPipeError, ConnectionResetError):
            pass  # a server may answer, and hang up, before it has read all of a body
        finally:
            headers.clear()  # if it raises, this frame holds no token
            del authorization

    def _connect_if_need_be(self) -> None:
        if getattr(self, "sock", None) is None:
            if self._through is not None:
                arguments, options = self._through
                super().set_tunnel(*arguments, **options)
            self.connect()

    def _peer_certificate(self) -> Optional[bytes]:
        """Return what to bind to. A 401 may have closed the connection: make one."""
        if not self.logon.bindings or urlsplit(self._page).scheme != "https":
            return None
        self._connect_if_need_be()
        tls: Any = self.sock
        certificate: Optional[bytes] = tls.getpeercert(True)
        if not certificate:
            raise sspi_client.SspiError(
                sspi_client.SEC_E_BAD_BINDINGS,
                "SspiConnection",
                hint="No certificate to bind to; bindings=False goes without.",
            )
        return certificate

    def _url(self, url: str) -> str:
        """Return the whole URL: a proxy gets that, a tunnel leads to its host."""
        host, port = self.host, self.port
        if self._through is not None:
            host, port = self._through[0][:2]
        name = f"[{host.strip('[]')}]" if ":" in host else host
        # Not urljoin() for a path: "//evil.test/" would be a host to it.
        origin = f"{self.scheme}://{name}:{port}"
        return origin + url if url.startswith("/") else urljoin(origin, url)


def _inner(answer: Any) -> Any:
    """Return http.client's answer, which urllib3 2 wraps in its own."""
    return getattr(answer, "_original_response", None) or answer


def _is_ours(challenges: List[str]) -> bool:
    return any(re.search("(?i)negotiate|ntlm", value) for value in challenges)


def _make_repeatable(request: requests.PreparedRequest) -> None:
    """Buffer a body that can be read once only: each leg sends it again."""
    body: Any = request.body
    if body is None or isinstance(body, (str, bytes)):
        return
    if "Content-Length" in request.headers and _can_seek(body):
        return
    octets = body.read() if hasattr(body, "read") else b"".join(map(_octets, body))
    request.body = _octets(octets)
    request.headers.pop("Transfer-Encoding", None)
    request.headers["Content-Length"] = str(len(request.body))


def _octets(piece: Any) -> bytes:
    return piece.encode() if isinstance(piece, str) else bytes(piece)


def _can_seek(body: Any) -> bool:
    try:
        body.seek(body.tell())
    except (AttributeError, OSError):
        return False
    return True


def _plain_name(host: str) -> str:
    """Return a host as names are compared: an A-label, in lower case, without dot."""
    if re.search("[/@]", host) or not host.strip("."):
        raise ValueError("a host is a bare name, or '.example.com' for all in a domain")
    host = host.lower().rstrip(".").strip("[]")
    dot = "." if host.startswith(".") else ""
    if host.isascii():
        return host
    return dot + host.lstrip(".").encode("idna").decode("ascii")


class _LegCookies:
    """The cookies that 401s set: load balancers know by them where a logon is."""

    def __init__(self, url: str) -> None:
        self._url, self._jar, self._set = url, CookieJar(), []  # type: Any, Any, Any

    def take(self, answer: http.client.HTTPResponse) -> None:
        self._set += answer.headers.get_all("Set-Cookie", [])
        self._jar.extract_cookies(answer, urllib.request.Request(self._url))

    def add_to(self, headers: Dict[str, Any]) -> None:
        if not self._set:
            return
        asking = urllib.request.Request(self._url)
        self._jar.add_cookie_header(asking)
        new = {value.partition("=")[0].strip() for value in self._set}
        pairs = str(_find(headers, "Cookie") or "").split(";")
        kept = [p.strip() for p in pairs if p.strip().partition("=")[0] not in new]
        cookies = [text for text in (*kept, asking.get_header("Cookie", "")) if text]
        _replace(headers, "Cookie", "; ".join(cookies))

    def hand_over(self, answer: http.client.HTTPResponse) -> None:
        """Let the last answer set them as well, so that a session hears of them."""
        own = answer.headers.get_all("Set-Cookie", [])
        del answer.headers["Set-Cookie"]
        for value in self._set + own:
            answer.headers["Set-Cookie"] = value


def _challenges(answer: Any) -> List[str]:
    return list(_inner(answer).headers.get_all("WWW-Authenticate", []))


def _read_to_its_end(answer: http.client.HTTPResponse) -> bool:
    """Read the page of a 401; return whether its connection can go on."""
    left = LONGEST_PAGE
    try:
        while left > 0:
            piece = answer.read(min(left, 1 << 16))
            if not piece:
                break
            left -= len(piece)
    except socket.timeout:
        raise
    except (http.client.HTTPException, OSError, ValueError):
        return False
    spelled = ",".join(answer.headers.get_all("Connection", [])).lower()
    return answer.isclosed() and not answer.length and "close" not in spelled


def _host(headers: Any, page: str) -> str:
    """Return the host that the SPN names: the Host header's, as the server sees it."""
    name = str(_find(headers, "Host") or urlsplit(page).netloc)
    return urlsplit("//" + name.rpartition("@")[2]).hostname or ""


def _find(headers: Any, name: str) -> Any:
    return next((v for k, v in headers.items() if k.lower() == name.lower()), None)


def _replace(headers: Dict[str, Any], name: str, value: str) -> None:
    for present in [k for k in headers if k.lower() == name.lower()]:
        del headers[present]
    if value:
        headers[name] = value


def main(argv: Optional[List[str]] = None, secur32: Any = None) -> Optional[str]:
    """Print a page; return None, or the one line that says why not."""
    parser = argparse.ArgumentParser(description="Print a page behind a Windows logon.")
    parser.add_argument("url", help="its host, and no other, gets tokens")
    parser.add_argument("--user", help=r"CORP\alice, say; default: who is logged on")
    parser.add_argument("--target", help="the SPN, if it is not HTTP/host")
    parser.add_argument("--no-ntlm", action="store_true", help="Kerberos or nothing")
    parser.add_argument("--mutual", action="store_true", help="the server must prove "
                        "who it is, which Kerberos alone can do")  # fmt: skip
    told = parser.parse_args(argv)
    try:
        user = told.user and sspi_client.Identity(told.user, getpass.getpass())
        adapter = SspiAdapter(
            identity=user or None,
            target=told.target,
            require=sspi_client.ISC_RET.MUTUAL_AUTH if told.mutual else 0,
            allow_ntlm=not told.no_ntlm,
            secur32=secur32,
        )
        with requests.Session() as session:
            session.mount(urljoin(told.url, "/"), adapter)
            answer = session.get(told.url, timeout=30)
            answer.raise_for_status()
            sys.stdout.buffer.write(answer.content)
    except (OSError, ValueError) as problem:
        return f"requests_auth: {' '.join(str(problem).split()) or repr(problem)}"
    return None


if __name__ == "__main__":
    sys.exit(main())
