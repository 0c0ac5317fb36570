r"""Let urllib.request and xmlrpc.client log on with Windows: Negotiate or NTLM.

    web = build_opener(SspiHandler("https://intranet.example.com"))
    page = web.open("https://intranet.example.com/page").read()

    calls = SspiTransport("https://intranet.example.com")
    proxy = ServerProxy("https://intranet.example.com/rpc", transport=calls)

The logon happens inside of a connection (SspiConnection below), because NTLM
authenticates the connection: no leg can end up on another one. urllib.request closes
its connection after each answer, so each open() logs on; xmlrpc.client keeps its own.
Redirects, cookies and proxies are the business of the opener, as ever.
"""

import argparse
import contextlib
import functools
import getpass
import http.client
import re
import socket
import sys
import urllib.request
import xmlrpc.client
from http.cookiejar import CookieJar
from typing import Any, Dict, Iterator, List, Optional, Tuple
from urllib.error import URLError
from urllib.parse import urljoin, urlsplit

import sspi_client

#: [bytes] of a 401 page that we read to go on with its connection.
LONGEST_PAGE = 1 << 20


class LogonError(URLError):
    """We are refused, or the server is: __cause__ is the SspiError, if there is one."""

    def __str__(self) -> str:
        return str(self.reason)


class Logon:
    """Who logs on, and how: for all connections of one user.

    The keywords are those of sspi_client.http_authenticate(), and:
    preemptive: send a token with the first request already, unasked. It saves a round
        trip of each Kerberos logon. For servers that are known to want one.
    bindings: False leaves out the TLS channel bindings, for a server behind something
        that ends TLS before it.
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
        preemptive: bool = False,
        bindings: bool = True,
    ) -> None:
        self.keywords: Dict[str, Any] = {
            "identity": identity,
            "target": target,
            "package": package,
            "flags": flags,
            "require": require,
            "allow_ntlm": allow_ntlm,
            "credential": credential,
            "secur32": secur32,
        }
        self.require, self.preemptive, self.bindings = require, preemptive, bindings
        chosen = credential.package if credential else package or ""
        self.scheme = "NTLM" if chosen.lower() == "ntlm" else "Negotiate"
        self.start("localhost", 200, []).close()  # a wrong keyword is an error here

    def start(
        self, host: str, status: int, challenges: List[str], der: Optional[bytes] = None
    ) -> "sspi_client.HttpFlow":
        return sspi_client.http_authenticate(
            host, status, challenges, certificate=der, **self.keywords
        )


class SspiConnection(http.client.HTTPConnection):
    """An HTTPConnection that answers a 401 by itself.

    request() and getresponse() are used as ever; in between the request is sent again
    with each leg. *page*: a URL of the site, since a proxy may be who we connect to.
    Raises: SspiError, besides what http.client raises.
    """

    def __init__(self, host: str, *, logon: Logon, page: str, **options: Any) -> None:
        super().__init__(host, **options)
        self.logon, self.page = logon, page
        self._flow: "Optional[sspi_client.HttpFlow]" = None  # begun by request()
        self._proven = self._logged_on_for_good = False

    def connect(self) -> None:
        self._proven = self._logged_on_for_good = False  # a new one is judged anew
        super().connect()

    def request(
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Any = None,
        *,
        encode_chunked: bool = False,
    ) -> None:
        body, self._offset = _repeatable(body)
        self._asked = (method, url, body, encode_chunked)
        # urllib says "close", which would end an NTLM logon after its first leg.
        self._headers = {
            name: value
            for name, value in dict(headers or {}).items()
            if (name.lower(), str(value).lower()) != ("connection", "close")
        }
        self._host = _host(self._headers, self.page)
        # Not urljoin() for a path: "//evil.test/" would be a host to it.
        whole = urljoin(self.page, "/")[:-1] + url if url.startswith("/") else url
        self._cookies = _LegCookies(whole)
        if self.logon.preemptive and not self._logged_on_for_good:
            self._flow = self._start(401, [self.logon.scheme])
            self._send(next(self._flow))
        else:
            self._send(None)

    def getresponse(self) -> http.client.HTTPResponse:
        begun, self._flow = self._flow, None
        if begun is not None:
            with contextlib.closing(begun):
                return self._log_on(begun, super().getresponse(), legs=1)
        answer = super().getresponse()
        if answer.status == 401 or (self.logon.require and not self._proven):
            flow = self._start(answer.status, _challenges(answer))
            with contextlib.closing(flow):
                return self._log_on(flow, answer, legs=0)
        return answer

    def close(self) -> None:
        if self._flow is not None:
            self._flow.close()
        super().close()

    def _start(self, status: int, challenges: List[str]) -> "sspi_client.HttpFlow":
        ours = any(re.search("(?i)negotiate|ntlm", value) for value in challenges)
        asked = ours and status == 401
        self._certificate = self._peer_certificate() if asked else None
        return self.logon.start(self._host, status, challenges, self._certificate)

    def _log_on(
        self, flow: "sspi_client.HttpFlow", answer: http.client.HTTPResponse, legs: int
    ) -> http.client.HTTPResponse:
        """Send leg by leg, *legs* of which are sent; return the answer to the last."""
        reply: Any = (answer.status, _challenges(answer)) if legs else None
        while True:
            try:
                held = [flow.send(reply)]
            except sspi_client.SspiError:
                answer.close()
                raise
            except StopIteration as done:
                self._end(done.value, legs)
                self._cookies.hand_over(answer)
                return answer
            try:
                self._make_free(answer, first=legs == 0)
                self._cookies.take(answer)
            except BaseException:
                held.clear()  # or this frame would show a token
                raise
            self._send(held.pop())  # if that raises, this frame holds no token
            answer, legs = super().getresponse(), legs + 1
            reply = answer.status, _challenges(answer)

    def _end(self, context: Optional[sspi_client.Context], legs: int) -> None:
        if context is not None:
            context.close()
            self._proven = True
            # More than one leg is NTLM, which authenticates the connection.
            self._logged_on_for_good = legs > 1

    def _make_free(self, answer: http.client.HTTPResponse, first: bool) -> None:
        """Make the connection ready for the next leg, which must go over this one."""
        if answer.will_close:
            answer.close()  # and http.client has closed its connection
        elif not _read_to_its_end(answer):
            self.close()
        if self.sock is not None:
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
        method, url, body, encode_chunked = self._asked
        headers = dict(self._headers)
        host = str(_find(headers, "Host") or "")
        if not host.isascii():  # urllib would send an IDN as Latin-1
            _replace(headers, "Host", host.encode("idna").decode("ascii"))
        self._cookies.add_to(headers)
        if authorization:
            _replace(headers, "Authorization", authorization)
        if self._offset is not None:
            body.seek(self._offset)
        if self.sock is None:
            self.connect()
        try:
            super().request(method, url, body, headers, encode_chunked=encode_chunked)
        except (BrokenPipeError, ConnectionResetError):
            pass  # a server may answer, and hang up, before it has read all of a body
        finally:
            headers.clear()  # if it raises, this frame holds no token
            del authorization

    def _peer_certificate(self) -> Optional[bytes]:
        if not self.logon.bindings or urlsplit(self.page).scheme != "https":
            return None
        if self.sock is None:
            self.connect()  # a 401 may have closed the one that it came on
        tls: Any = self.sock
        certificate: Optional[bytes] = tls.getpeercert(True)
        if not certificate:
            raise sspi_client.SspiError(
                sspi_client.SEC_E_BAD_BINDINGS,
                "SspiConnection",
                hint="No certificate to bind to; bindings=False goes without.",
            )
        return certificate


class SspiHTTPSConnection(SspiConnection, http.client.HTTPSConnection):
    """The same over TLS, bound to the certificate of this connection."""


class SspiHandler(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """A handler for build_opener(): it logs on to *origins* and to nobody else.

    An origin is "https://intranet.example.com", with its port if that is not the usual
    one; "https://.corp.example.com" is each host whose name ends in these labels.
    context: an ssl.SSLContext. *logon*: the keywords of Logon.
    Raises, from open(): LogonError. A 401 that asks for another logon is urllib's
        HTTPError, as ever.
    """

    def __init__(self, *origins: str, context: Any = None, **logon: Any) -> None:
        super().__init__(context=context)
        if not origins:
            raise TypeError("give the origins that get tokens, as https://host")
        self._origins, self._tls = [_origin(o) for o in origins], context
        self._logon = Logon(**logon)

    def http_open(self, req: urllib.request.Request) -> Any:
        if not self._listed(req.full_url):
            return super().http_open(req)
        with _library_errors():
            kind = functools.partial(
                SspiConnection, logon=self._logon, page=req.full_url
            )
            return self.do_open(kind, req)

    def https_open(self, req: urllib.request.Request) -> Any:
        if not self._listed(req.full_url):
            return super().https_open(req)
        with _library_errors():
            kind = functools.partial(
                SspiHTTPSConnection, logon=self._logon, page=req.full_url
            )
            return self.do_open(kind, req, context=self._tls)

    def _listed(self, url: str) -> bool:
        scheme, host, port = _parts(url)
        return any(
            (scheme, port) == (s, p)
            and (host == h or (h.startswith(".") and host.endswith(h)))
            for s, h, p in self._origins
        )


class SspiTransport(xmlrpc.client.Transport):
    """A transport for xmlrpc.client.ServerProxy(url, transport=...).

    origin: that of the URL, such as "https://intranet.example.com"; no other host is
        called. timeout: [s]. *logon*: the keywords of Logon.
    Raises, from each call: LogonError; xmlrpc.client.ProtocolError as ever.
    """

    def __init__(
        self, origin: str, *, context: Any = None, timeout: float = 60, **logon: Any
    ) -> None:
        super().__init__()
        self._origin, self._tls, self._timeout = origin, context, timeout
        self._logon = Logon(**logon)
        _origin(origin)

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        if self._connection and self._connection[0] == host and self._connection[1]:
            return self._connection[1]
        name, self._extra_headers, _ = self.get_host_info(host)
        scheme, *_ = parts = _parts(self._origin)
        if _parts(f"{scheme}://{name}") != parts:
            raise ValueError(f"this transport is for {self._origin}, not for {name}")
        options: Dict[str, Any] = {"timeout": self._timeout, "logon": self._logon}
        kind = SspiConnection
        if scheme == "https":
            kind, options["context"] = SspiHTTPSConnection, self._tls
        made = kind(name, page=self._origin, **options)
        self._connection = host, made
        return made

    def send_request(
        self, host: Any, handler: str, request_body: Any, debug: bool
    ) -> http.client.HTTPConnection:
        connection = self.make_connection(host)
        headers = dict(self._extra_headers or {})
        headers.update({"Content-Type": "text/xml", "User-Agent": self.user_agent})
        headers.update(getattr(self, "_headers", ()))  # ServerProxy's headers=
        if self.accept_gzip_encoding:
            headers["Accept-Encoding"] = "gzip"
        connection.set_debuglevel(int(debug))
        connection.request("POST", handler, request_body, headers)
        return connection

    def single_request(self, *arguments: Any, **options: Any) -> Any:
        with _library_errors():
            return super().single_request(*arguments, **options)


@contextlib.contextmanager
def _library_errors() -> Iterator[None]:
    """Make the errors of a logon urllib's own."""
    try:
        yield
    except sspi_client.SspiError as refusal:
        raise LogonError(str(refusal)) from refusal
    except (URLError, OSError) as problem:
        if "Tunnel connection failed: 407" in str(problem):  # http.client's words
            raise LogonError(
                "the proxy wants a logon of its own before it opens a tunnel (407): "
                "use proxy_forward as the proxy"
            ) from problem
        raise


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


def _challenges(answer: http.client.HTTPResponse) -> List[str]:
    return answer.headers.get_all("WWW-Authenticate", [])


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


def _repeatable(body: Any) -> Tuple[Any, Optional[int]]:
    """Return (a body that each leg can send, the offset to send it from)."""
    if body is None or isinstance(body, (str, bytes, bytearray)):
        return body, None
    if hasattr(body, "read"):
        try:
            return body, body.seek(body.tell())
        except (AttributeError, OSError):  # a pipe
            return body.read(), None
    try:
        return bytes(memoryview(body)), None
    except TypeError:
        pieces = [p.encode("latin-1") if isinstance(p, str) else p for p in body]
        return b"".join(pieces), None


def _host(headers: Dict[str, Any], page: str) -> str:
    """Return the host that the SPN names: the Host header's, as the server sees it."""
    name = str(_find(headers, "Host") or urlsplit(page).netloc)
    return urlsplit("//" + name.rpartition("@")[2]).hostname or ""


def _find(headers: Dict[str, Any], name: str) -> Any:
    return next((v for k, v in headers.items() if k.lower() == name.lower()), None)


def _replace(headers: Dict[str, Any], name: str, value: str) -> None:
    for present in [k for k in headers if k.lower() == name.lower()]:
        del headers[present]
    if value:
        headers[name] = value


def _parts(url: str) -> Tuple[str, str, Optional[int]]:
    """Return (scheme, host as an A-label, port) of a URL."""
    split = urlsplit(url)
    host, dot = (split.hostname or "").rstrip("."), ""
    if host.startswith("."):
        host, dot = host[1:], "."
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    usual = {"http": 80, "https": 443}.get(split.scheme)
    return split.scheme, dot + host, split.port or usual


def _origin(text: str) -> Tuple[str, str, Optional[int]]:
    parts = _parts(text)
    if parts[0] not in ("http", "https") or not parts[1].strip("."):
        raise ValueError("an origin is written https://host, or https://host:port")
    if urlsplit(text).path not in ("", "/") or "@" in text:
        raise ValueError("an origin has no path and no user: https://host")
    return parts


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
        handler = SspiHandler(
            urljoin(told.url, "/"),
            identity=user or None,
            target=told.target,
            require=sspi_client.ISC_RET.MUTUAL_AUTH if told.mutual else 0,
            allow_ntlm=not told.no_ntlm,
            secur32=secur32,
        )
        with urllib.request.build_opener(handler).open(told.url, timeout=30) as answer:
            sys.stdout.buffer.write(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as problem:
        return f"urllib_auth: {' '.join(str(problem).split()) or repr(problem)}"
    return None


if __name__ == "__main__":
    sys.exit(main())
