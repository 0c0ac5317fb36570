r"""Let httpx log on with Windows, Negotiate or NTLM, in Client and in AsyncClient.

    intranet = SspiTransport()
    with httpx.Client(mounts={"https://intranet.example.com": intranet}) as client:
        page = client.get("https://intranet.example.com/")

    python httpx_auth.py https://intranet.example.com/ [--user 'CORP\alice']

What the client sends here may get a token: the mount is the list of who gets one. A
mount without a port matches every port of its host; hosts= narrows that down. Never
give it as `Client(transport=...)`: then every server on the way is on that list.

1. A lane is one connection, lent to one exchange at a time: NTLM authenticates the
   connection. It is free again when the answer is read to its end, or closed.
2. The logon stands below redirects, cookies and retries. No token of one request is
   in another, and `response.request` is the request as it was, without any.
3. On https every token is bound to the certificate of the lane's connection.
4. Legs never leave their connection. If it closes in between, that is an
   httpx.RemoteProtocolError; a refusal is a LogonError.
5. In an AsyncClient the legs run in threads, since a domain controller may be slow. A
   cancelled request does not wait for one: it ends in its thread, which cleans up.

httpx 0.25 or later, anyio 4.1 or later. Test what uses it with sspi_client's
FakeSecur32 and a server on loopback: a mocked transport has no connection.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import getpass
import sys
import threading
import uuid
from typing import (
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Generic,
    Iterator,
    Optional,
    Tuple,
    TypeVar,
    Union,
)

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx

import sspi_client

PAGE = 1 << 20  # so much of a page nobody will see is read to keep a connection
LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20)  # httpx's own
UNLIMITED = 1 << 30
NOTHING_TO_BIND_TO = "no certificate to bind to; bindings=False goes without"
MOCKED = (
    "the answer names no connection, so it is a mocked one: SSPI needs a real one; "
    "test with FakeSecur32 and a server on loopback")


class LogonError(httpx.TransportError):
    """There was no logon; `__cause__` is the SspiError. Nothing retries this one."""


# A request to send, an answer to read to its end, or a call that may block in SSPI.
Step = Union[httpx.Request, httpx.Response, Callable[[], Any]]
Steps = Generator[Step, Any, httpx.Response]
# What sees httpcore's events before they happen. It may return a call to make first.
Watch = Callable[[str, Any], Optional[Callable[[], Any]]]
# Makes a trace extension of one, beside the trace that the caller may have set.
Tracer = Callable[[httpx.Request, Watch], httpx.Request]
T = TypeVar("T", httpx.HTTPTransport, httpx.AsyncHTTPTransport)


class _Lane(Generic[T]):
    """One connection of a transport of its own, and what is known of that."""

    def __init__(self, transport: T, origin: tuple[str, str, int | None]) -> None:
        self.transport: T = transport
        self.origin = origin
        self.stream: Any = None
        self.certificate: bytes | None = None
        self.proven = False  # a logon on this connection granted what is required
        self.lasting = False  # ... and it was NTLM's, of more than one leg: it stays
        self.context: sspi_client.Context | None = None

    def notice(self, stream: Any) -> None:
        """See which connection this is: a new one is judged anew."""
        if stream is None or stream is not self.stream:
            self.forget()
            self.stream = stream
            tls = stream and stream.get_extra_info("ssl_object")
            self.certificate = tls.getpeercert(True) if tls else None

    def keep(self, context: sspi_client.Context | None) -> None:
        """Own *context* instead of the one before."""
        before, self.context = self.context, context
        if before is not None:
            before.close()

    def tell(self, answer: httpx.Response) -> httpx.Response:
        if self.context is not None:
            answer.extensions["sspi_context"] = self.context
        return answer

    def forget(self) -> None:
        self.stream, self.certificate = None, None
        self.proven = self.lasting = False
        self.keep(None)


class _Lanes(Generic[T]):
    """All lanes of a transport. Locked for its lists alone, never during I/O."""

    def __init__(
        self, transport: type[T], options: dict[str, Any], limits: httpx.Limits
    ) -> None:
        self._open: Callable[[], T] = functools.partial(transport, **options)
        self._keep = limits.max_keepalive_connections
        self._lock = threading.Lock()
        self._all: set[_Lane[T]] = set()
        self._free: list[_Lane[T]] = []

    def take(self, url: httpx.URL) -> _Lane[T]:
        origin = url.scheme, url.host, url.port
        with self._lock:
            for lane in reversed(self._free):  # the warmest first
                if lane.origin == origin:
                    self._free.remove(lane)
                    return lane
        lane = _Lane(self._open(), origin)
        with self._lock:
            self._all.add(lane)
            return lane

    def give_back(self, lane: _Lane[T], alive: bool) -> list[_Lane[T]]:
        """Return the lanes to close: this one if it is of no use, those too many."""
        with self._lock:
            if not alive or lane not in self._all:  # cleared meanwhile
                self._all.discard(lane)
                return [lane]
            self._free.append(lane)
            over = len(self._free) - (UNLIMITED if self._keep is None else self._keep)
            surplus = self._free[: max(0, over)]
            del self._free[: len(surplus)]
            self._all.difference_update(surplus)
            return surplus

    def clear(self) -> list[_Lane[T]]:
        with self._lock:
            lanes = list(self._all)
            self._all.clear()
            self._free.clear()
            return lanes


class _Legs:
    """A flow whose legs may run in threads. It can be left while one does: the leg
    then ends in its thread, and the flow is closed there."""

    def __init__(self, flow: Any) -> None:
        self._flow, self._turn, self._left = flow, threading.Lock(), False
        self.context: sspi_client.Context | None = None

    def send(self, answer: tuple[int, list[str]] | None) -> str | None:
        """Return the next header, None at the end. Blocks while SSPI does."""
        try:
            with self._turn:
                return str(self._flow.send(answer))
        except StopIteration as done:
            self.context = done.value
            return None
        finally:
            if self._left:
                self.leave()

    def leave(self) -> None:
        """Close what is open, now or when the leg under way has ended."""
        self._left = True
        if self._turn.acquire(blocking=False):
            try:
                self._flow.close()
                context, self.context = self.context, None
                if context is not None:
                    context.close()
            finally:
                self._turn.release()


class _Logon:
    """What both transports are made of: the policy, and how to open a lane.

    hosts: who gets tokens of those that the client sends here, as "host" (on the
        scheme's own port), "host:port" or ".suffix" (its subdomains); None: all.
    preemptive: send the first token unasked, with every request of a Kerberos logon.
    bindings: False leaves out the channel bindings.
    keep_context: the Context of the connection stays open, in the answer's
        extensions["sspi_context"], for as long as the connection does.
    The other keywords are those of http_authenticate() and of httpx.HTTPTransport,
    whose limits and timeouts hold.
    """

    def __init__(
        self, *, identity: sspi_client.Identity | None = None,
        target: str | None = None, package: str | None = None,
        flags: int = sspi_client.DEFAULT_FLAGS, require: int = 0,
        allow_ntlm: bool = True, credential: sspi_client.Credential | None = None,
        secur32: Any = None, hosts: Collection[str] | None = None,
        preemptive: bool = False, bindings: bool = True, keep_context: bool = False,
        limits: httpx.Limits = LIMITS, verify: Any = True, cert: Any = None,
        **transport: Any,
    ) -> None:  # fmt: skip
        if isinstance(hosts, str):
            raise TypeError("hosts must be a collection of names, not one str")
        if transport.get("http2") or not transport.get("http1", True):
            raise ValueError("HTTP/2 cannot carry this logon: leave http2 out")
        self._hosts = None if hosts is None else {
            host.lower().translate({ord(c): None for c in "[]"}) for host in hosts}
        self._require, self._preemptive = require, preemptive
        self._bindings, self._keep_context = bindings, keep_context
        self._options: dict[str, Any] = dict(
            identity=identity, target=target, package=package, flags=flags,
            require=require, allow_ntlm=allow_ntlm, credential=credential,
            secur32=secur32)  # fmt: skip
        # A wrong argument is told of here and below, not by the first request.
        sspi_client.http_authenticate("localhost", 401, None, **self._options).close()
        self._limits, self._transport = limits, transport
        # Made once: to load the system's certificates takes longer than a logon.
        transport["verify"] = httpx.create_ssl_context(
            verify=verify, cert=cert, trust_env=transport.get("trust_env", True))
        transport["limits"] = httpx.Limits(
            max_connections=1, keepalive_expiry=limits.keepalive_expiry)
        httpx.HTTPTransport(**transport).close()

    # The exchange without I/O: the transports below do what it yields.

    def _exchange(
        self, lane: _Lane[T], request: httpx.Request, traced: Tracer
    ) -> Steps:
        if not self._gets_tokens(request.url):
            return (yield request)  # type: ignore[no-any-return]
        begin = _Begin(self, lane, request)
        ready = request.url.scheme == "http" or lane.certificate is not None
        answer: httpx.Response | None = None
        try:
            if not self._preemptive or lane.lasting:
                answer = yield request
            elif not ready:  # a certificate to bind to comes with the connection
                answer = yield traced(request, begin.watch)
            if answer is not None:
                lane.notice(answer.extensions.get("network_stream"))
            if begin.legs is None:
                said = 401, ["Negotiate"]
                if answer is not None:
                    said = answer.status_code, _challenges(answer)
                    if said[0] != 401 and (lane.proven or not self._require):
                        return lane.tell(answer)
                begin.legs = self._legs(lane, request, *said)
            answer = yield from self._log_on(lane, request, begin, answer, traced)
            return lane.tell(answer)
        finally:
            if begin.legs is not None:
                begin.legs.leave()

    def _log_on(
        self, lane: _Lane[T], request: httpx.Request, begin: _Begin,
        answer: httpx.Response | None, traced: Tracer,
    ) -> Steps:  # fmt: skip
        legs, sent = begin.legs, int(begin.sent)
        assert legs is not None
        cookies, bound = _Cookies(request), lane.certificate
        said = None
        if begin.sent and answer is not None:
            said = answer.status_code, _challenges(answer)
        header = yield functools.partial(legs.send, said)
        while header is not None:
            if answer is not None:
                if lane.stream is None:
                    raise LogonError(MOCKED)
                if bound is None and self._binds(request):
                    raise LogonError(NOTHING_TO_BIND_TO)
                cookies.take(answer)
                yield answer
            leg = _copy(request, cookies.put(request.headers.copy()))
            leg.headers["Authorization"] = header
            answer = yield traced(leg, _refuse_to_connect) if sent else leg
            assert answer is not None
            sent += 1
            lane.notice(answer.extensions.get("network_stream"))
            if lane.certificate != bound:
                raise httpx.RemoteProtocolError("another certificate, in mid-logon")
            said = answer.status_code, _challenges(answer)
            header = yield functools.partial(legs.send, said)
        if answer is None:
            raise LogonError("a logon without a token")
        if legs.context is not None:
            lane.proven, lane.lasting = True, sent > 1
        if self._keep_context:
            lane.keep(legs.context)
            legs.context = None
        yield legs.leave
        cookies.show(answer)
        return answer

    def _legs(
        self, lane: _Lane[T], request: httpx.Request, status: int, challenges: list[str]
    ) -> _Legs:
        # Who the Host header names; a caller may have set it, and the SPN follows.
        host = httpx.URL(f"http://{request.headers['Host']}").raw_host.decode("ascii")
        certificate = lane.certificate if self._binds(request) else None
        return _Legs(sspi_client.http_authenticate(
            host, status, challenges, certificate=certificate, **self._options))

    def _binds(self, request: httpx.Request) -> bool:
        return self._bindings and request.url.scheme == "https"

    def _gets_tokens(self, url: httpx.URL) -> bool:
        if self._hosts is None:
            return True
        host = url.raw_host.decode("ascii").lower()
        port = f":{url.port}" if url.port else ""
        suffixes = [host[at:] for at, letter in enumerate(host) if letter == "."]
        return any(name + port in self._hosts for name in [host, *suffixes])


class _Begin:
    """The first token, unasked, for a connection that is only made meanwhile. httpcore
    shows its trace the certificate, and then the headers that it is about to send."""

    def __init__(self, logon: _Logon, lane: _Lane[Any], request: httpx.Request) -> None:
        self._logon, self._lane, self._request = logon, lane, request
        self.legs: _Legs | None = None
        self.sent = False

    def watch(self, event: str, info: Any) -> Callable[[], Any] | None:
        if event.endswith(".start_tls.complete"):
            self._lane.notice(info["return_value"])
        elif event == "http11.send_request_headers.started":
            if info["request"].method != b"CONNECT" and self._lane.certificate:
                return functools.partial(self._add, info["request"].headers)
        return None

    def _add(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.legs = self._logon._legs(self._lane, self._request, 401, ["Negotiate"])
        header = self.legs.send(None) or ""
        others = [pair for pair in headers if pair[0].lower() != b"authorization"]
        headers[:] = [*others, (b"Authorization", header.encode())]
        self.sent = True


class SspiTransport(_Logon, httpx.BaseTransport):
    __doc__ = _Logon.__doc__

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._lanes = _Lanes(httpx.HTTPTransport, self._transport, self._limits)
        self._places = threading.Semaphore(self._limits.max_connections or UNLIMITED)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        sent = _buffered(request, request.read())
        patience = request.extensions.get("timeout", {}).get("pool")
        if not self._places.acquire(timeout=patience):
            raise httpx.PoolTimeout("all connections are in use", request=request)
        lane = self._lanes.take(request.url)
        try:
            with _as_transport_errors(request):
                answer = self._run(lane, self._exchange(lane, sent, _traced))
        except BaseException:
            self._give_back(lane, False)
            raise
        assert isinstance(answer.stream, httpx.SyncByteStream)
        answer.stream = _Lent(answer.stream, functools.partial(self._give_back, lane))
        return answer

    def _run(self, lane: _Lane[httpx.HTTPTransport], steps: Steps) -> httpx.Response:
        held: list[Any] = [None]  # popped as it goes on: no traceback shows a token
        with contextlib.closing(steps):
            while True:
                try:
                    step = steps.send(held.pop())
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                if isinstance(step, httpx.Request):
                    held.append(lane.transport.handle_request(step))
                elif isinstance(step, httpx.Response):
                    _read(step)
                    held.append(None)
                else:
                    held.append(step())

    def _give_back(self, lane: _Lane[httpx.HTTPTransport], alive: bool) -> None:
        self._places.release()
        for over in self._lanes.give_back(lane, alive):
            over.forget()
            over.transport.close()

    def close(self) -> None:
        """Close every connection, also those that answers are still read from."""
        for lane in self._lanes.clear():
            lane.forget()
            lane.transport.close()


class _Lent(httpx.SyncByteStream):
    """An answer's stream. When it lets go of the connection, so does the lane."""

    def __init__(
        self, stream: httpx.SyncByteStream, give_back: Callable[[bool], None]
    ) -> None:
        self._stream, self._give_back = stream, give_back
        self._whole = self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream
        self._whole = True

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                self._stream.close()
            finally:
                self._give_back(self._whole)


def _read(answer: httpx.Response) -> None:
    """Read a page that nobody will see. One without end costs the connection."""
    assert isinstance(answer.stream, httpx.SyncByteStream)
    size = 0
    try:
        for part in answer.stream:
            size += len(part)
            if size > PAGE:
                break
    except (httpx.RemoteProtocolError, httpx.ReadError):
        pass  # it is closed; the next leg sees that
    finally:
        answer.stream.close()


def _traced(request: httpx.Request, watch: Watch) -> httpx.Request:
    theirs = request.extensions.get("trace")

    def trace(event: str, info: Any) -> None:
        step = watch(event, info)
        if step is not None:
            step()
        if theirs is not None:
            theirs(event, info)

    return _copy(request, request.headers, trace=trace)


class AsyncSspiTransport(_Logon, httpx.AsyncBaseTransport):
    __doc__ = _Logon.__doc__

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Connections are of no use outside of their event loop. anyio before 4.10 knows
        # a RunVar by its name: with one name, transports would share their connections.
        self._of_loop: anyio.lowlevel.RunVar[_AsyncLanes] = anyio.lowlevel.RunVar(
            f"lanes {uuid.uuid4()}")

    def _here(self) -> _AsyncLanes:
        try:
            return self._of_loop.get()
        except LookupError:
            lanes = _Lanes(httpx.AsyncHTTPTransport, self._transport, self._limits)
            most = self._limits.max_connections or UNLIMITED
            self._of_loop.set((lanes, anyio.Semaphore(most)))
            return self._of_loop.get()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        sent = _buffered(request, await request.aread())
        lanes, places = self._here()
        patience = request.extensions.get("timeout", {}).get("pool")
        try:
            with anyio.fail_after(patience):
                await places.acquire()
        except TimeoutError:
            reason = "all connections are in use"
            raise httpx.PoolTimeout(reason, request=request) from None
        lane = lanes.take(request.url)

        async def give_back(alive: bool) -> None:
            places.release()
            await _aclose(lanes.give_back(lane, alive))

        try:
            with _as_transport_errors(request):
                steps = self._exchange(lane, sent, _async_traced)
                answer = await self._run(lane, steps)
        except BaseException:
            await give_back(False)
            raise
        assert isinstance(answer.stream, httpx.AsyncByteStream)
        answer.stream = _AsyncLent(answer.stream, give_back)
        return answer

    async def _run(
        self, lane: _Lane[httpx.AsyncHTTPTransport], steps: Steps
    ) -> httpx.Response:
        held: list[Any] = [None]  # popped as it goes on: no traceback shows a token
        with contextlib.closing(steps):
            while True:
                try:
                    step = steps.send(held.pop())
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                if isinstance(step, httpx.Request):
                    held.append(await lane.transport.handle_async_request(step))
                elif isinstance(step, httpx.Response):
                    await _aread(step)
                    held.append(None)
                else:
                    held.append(await _in_thread(step))

    async def aclose(self) -> None:
        """Close every connection of this event loop, also those still read from."""
        await _aclose(self._here()[0].clear())


async def _aclose(lanes: list[_Lane[httpx.AsyncHTTPTransport]]) -> None:
    with anyio.CancelScope(shield=True):
        for lane in lanes:
            lane.forget()
            await lane.transport.aclose()


_AsyncLanes = Tuple[_Lanes[httpx.AsyncHTTPTransport], anyio.Semaphore]


class _AsyncLent(httpx.AsyncByteStream):
    """As _Lent."""

    def __init__(
        self,
        stream: httpx.AsyncByteStream,
        give_back: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._stream, self._give_back = stream, give_back
        self._whole = self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part
        self._whole = True

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            with anyio.CancelScope(shield=True):
                try:
                    await self._stream.aclose()
                finally:
                    await self._give_back(self._whole)


async def _aread(answer: httpx.Response) -> None:
    """As _read()."""
    assert isinstance(answer.stream, httpx.AsyncByteStream)
    size = 0
    try:
        async for part in answer.stream:
            size += len(part)
            if size > PAGE:  # to break would leave trio httpcore's open generators
                await answer.extensions["network_stream"].aclose()
    except (httpx.RemoteProtocolError, httpx.ReadError):
        pass  # it is closed; the next leg sees that
    finally:
        await answer.stream.aclose()


def _async_traced(request: httpx.Request, watch: Watch) -> httpx.Request:
    theirs = request.extensions.get("trace")

    async def trace(event: str, info: Any) -> None:
        step = watch(event, info)
        if step is not None:
            await _in_thread(step)
        if theirs is not None:
            await theirs(event, info)

    return _copy(request, request.headers, trace=trace)


async def _in_thread(step: Callable[[], Any]) -> Any:
    """With a place of its own: nobody else's threads have to wait."""
    return await anyio.to_thread.run_sync(
        step, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))


def _refuse_to_connect(event: str, info: Any) -> None:
    """Half a logon is of no use on another connection, and no business of it."""
    if event.endswith((".connect_tcp.started", ".connect_unix_socket.started")):
        raise httpx.RemoteProtocolError(
            "the server closed the connection in the middle of the logon")


@contextlib.contextmanager
def _as_transport_errors(request: httpx.Request) -> Iterator[None]:
    try:
        yield
    except sspi_client.SspiError as reason:
        raise LogonError(str(reason), request=request) from reason
    except httpx.ProxyError as reason:
        if not str(reason).startswith("407"):
            raise
        raise httpx.ProxyError(
            f"the proxy wants a logon of its own ({reason}): let proxy_forward.py do "
            "that, and name it as the proxy", request=request) from reason


class _Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A whole body in one part.

    Not httpx.ByteStream: as an asynchronous one it is a generator, and a server that
    hangs up in mid-body leaves it unfinished, of which asyncio and trio complain.
    """

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return iter([self._body])

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Parts([self._body])


class _Parts:
    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    def __aiter__(self) -> _Parts:
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()


def _buffered(request: httpx.Request, body: bytes) -> httpx.Request:
    """Return a copy that can be sent again, and again, whatever the body was."""
    headers = request.headers.copy()
    if "Content-Length" in headers:  # httpx says the whole of a file that is half read
        headers["Content-Length"] = str(len(body))
    whole = _copy(request, headers)
    whole.stream = _Body(body)
    return whole


def _copy(request: httpx.Request, headers: httpx.Headers, **more: Any) -> httpx.Request:
    return httpx.Request(
        request.method, request.url, headers=headers, stream=request.stream,
        extensions={**request.extensions, **more})


def _challenges(answer: httpx.Response) -> list[str]:
    return answer.headers.get_list("WWW-Authenticate")


class _Cookies:
    """What answers set on the way goes along with the next leg, and to the client."""

    def __init__(self, request: httpx.Request) -> None:
        self._request, self._jar = request, httpx.Cookies()
        self._set: list[tuple[bytes, bytes]] = []

    def take(self, answer: httpx.Response) -> None:
        answer.request = self._request  # the jar asks for it
        self._jar.extract_cookies(answer)
        self._set += [(name, value) for name, value in answer.headers.raw
                      if name.lower() == b"set-cookie"]

    def put(self, headers: httpx.Headers) -> httpx.Headers:
        bare = httpx.Request("GET", self._request.url)
        self._jar.set_cookie_header(bare)
        if "Cookie" in bare.headers:
            new = bare.headers["Cookie"].split("; ")
            names = {cookie.partition("=")[0] for cookie in new}
            old = [cookie for cookie in headers.get("Cookie", "").split("; ")
                   if cookie and cookie.partition("=")[0] not in names]
            headers["Cookie"] = "; ".join(old + new)
        return headers

    def show(self, answer: httpx.Response) -> None:
        answer.headers = httpx.Headers(self._set + answer.headers.raw)


def main(argv: list[str] | None = None, secur32: Any = None) -> str | None:
    parser = argparse.ArgumentParser(description="Get a page with a Windows logon.")
    parser.add_argument("url", help="its host alone gets tokens, on its port")
    parser.add_argument("--user", help=r"CORP\alice: another than who is logged on; "
                        "the password is asked for")
    parser.add_argument("--package", help="Negotiate, Kerberos or NTLM; without it "
                        "what the server offers, Negotiate first")
    parser.add_argument("--no-ntlm", action="store_true", help="Kerberos or nothing")
    parser.add_argument("--mutual", action="store_true",
                        help="the server must prove who it is")
    told = parser.parse_args(argv)
    try:
        who = sspi_client.Identity(told.user, getpass.getpass()) if told.user else None
        url = httpx.URL(told.url)
        host = url.netloc.decode("ascii")
        sspi = SspiTransport(
            identity=who, package=told.package, allow_ntlm=not told.no_ntlm,
            require=sspi_client.ISC_RET.MUTUAL_AUTH if told.mutual else 0,
            hosts=[host], secur32=secur32)
        mounts = {f"{url.scheme}://{host}": sspi}
        with httpx.Client(mounts=mounts, timeout=30) as client:
            answer = client.get(url, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as reason:
        return f"httpx_auth: {' '.join(str(reason).split()) or repr(reason)}"
    print(answer.text)
    return None if answer.is_success else f"httpx_auth: status {answer.status_code}"


if __name__ == "__main__":
    sys.exit(main())
