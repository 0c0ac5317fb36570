r"""Let aiohttp log on with Windows, Negotiate or NTLM: connector and middleware in one.

    sspi = SspiConnector("https://intranet.example.com")
    async with ClientSession(connector=sspi, middlewares=[sspi]) as session:
        async with session.get("https://intranet.example.com/") as answer:
            page = await answer.text()

    python aiohttp_auth.py https://intranet.example.com/ [--user 'CORP\alice']

Only the origins that it is given get tokens. It is the last of the middlewares.

1. A lane is one connection, lent to one exchange at a time: NTLM authenticates the
   connection. While a logon lasts, the pool does not get it back.
2. The logon stands below redirects, cookies and retries: a redirected request is a new
   one, and `answer.request_info` shows no token.
3. On https every token is bound to the certificate of the lane's connection.
4. Legs never leave their connection. If it closes in between, that is an
   aiohttp.ClientConnectionError; a refusal is a LogonError. aiohttp retries neither.
5. The legs run in threads, since a domain controller may be slow. A cancelled request
   does not wait for one: it ends in its thread, which cleans up.

aiohttp 3.12.2 or later. Test what uses it with sspi_client's FakeSecur32 and a server
on loopback: a mocked handler has no connection.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import functools
import getpass
import io
import sys
import threading
import weakref
from typing import Any, Awaitable, Callable, TypeVar

import aiohttp
from aiohttp import payload
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from yarl import URL

import sspi_client

PAGE = 1 << 20  # so much of a page nobody will see is read to keep a connection
NOTHING_TO_BIND_TO = "no certificate to bind to; bindings=False goes without"
MOCKED = (
    "the answer came without a connection, so it is a mocked one: SSPI needs a real "
    "one; test with FakeSecur32 and a server on loopback")
T = TypeVar("T")


class LogonError(aiohttp.ClientError):
    """There was no logon; `__cause__` is the SspiError. Nothing retries this one."""


class _Facts:
    """What is known of a connection, for as long as it lives."""

    def __init__(self, connection: Connection) -> None:
        transport = connection.transport
        # Read at once: a closed transport forgets its ssl_object.
        tls = transport and transport.get_extra_info("ssl_object")
        self.certificate: bytes | None = tls.getpeercert(True) if tls else None
        self.proven = False  # a logon on it granted what is required
        self.lasting = False  # ... and it was NTLM's, of more than one leg: it stays
        self.context: sspi_client.Context | None = None

    def keep(self, context: sspi_client.Context | None) -> None:
        """Own *context* instead of the one before."""
        before, self.context = self.context, context
        if before is not None:
            before.close()


class _Lane:
    """One exchange, and the connection that is lent to it."""

    def __init__(self) -> None:
        self.key: Any = None
        self.protocol: ResponseHandler | None = None  # None: not yet, or closed
        self.facts: _Facts | None = None  # of the connection, closed since or not
        self.parked = False  # between two requests: the answer has let go of it
        self.sent = 0  # legs; after the first no other connection will do
        self.begin: Callable[[], Awaitable[None]] | None = None  # before the first
        self.bound: bytes | None = None  # the certificate that the tokens are bound to
        self.legs: _Legs | None = None
        self.header: str | None = None


class _Legs:
    """A flow whose legs run in threads. It can be left while one does: the leg then
    ends in its thread, and the flow is closed there."""

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


class SspiConnector(aiohttp.TCPConnector):
    """A TCPConnector that logs on, for one ClientSession or more of one user.

    origins: who gets tokens, as "https://intranet.example.com", with a port if it is
        not the scheme's own, or "https://.corp.example.com" for all subdomains.
    preemptive: send the first token unasked, with every request of a Kerberos logon.
    bindings: False leaves out the channel bindings.
    keep_context: the connection's Context stays open, as context_of(answer), for as
        long as the connection does.
    The other keywords are those of http_authenticate() and of aiohttp.TCPConnector.

    Raises: RuntimeError outside of a running event loop, TypeError or ValueError for
        a wrong argument.
    """

    def __init__(
        self, *origins: str, identity: sspi_client.Identity | None = None,
        target: str | None = None, package: str | None = None,
        flags: int = sspi_client.DEFAULT_FLAGS, require: int = 0,
        allow_ntlm: bool = True, credential: sspi_client.Credential | None = None,
        secur32: Any = None, preemptive: bool = False, bindings: bool = True,
        keep_context: bool = False, **connector: Any,
    ) -> None:  # fmt: skip
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError("make an SspiConnector inside of a coroutine: it "
                               "belongs to the event loop that runs") from None
        if not origins:
            raise ValueError("name at least one origin: it is who gets tokens")
        self._origins = {_origin(URL(name), name) for name in origins}
        self._require, self._preemptive = require, preemptive
        self._bindings, self._keep_context = bindings, keep_context
        self._options: dict[str, Any] = dict(
            identity=identity, target=target, package=package, flags=flags,
            require=require, allow_ntlm=allow_ntlm, credential=credential,
            secur32=secur32)  # fmt: skip
        # A wrong argument is told of here, not by the first request.
        sspi_client.http_authenticate("localhost", 401, None, **self._options).close()
        self._facts: dict[ResponseHandler, _Facts] = {}
        self._contexts: weakref.WeakKeyDictionary[
            aiohttp.ClientResponse, sspi_client.Context] = weakref.WeakKeyDictionary()
        self._lanes: weakref.WeakKeyDictionary[aiohttp.ClientRequest, _Lane] = (
            weakref.WeakKeyDictionary())
        self._lent: dict[ResponseHandler, _Lane] = {}
        super().__init__(**connector)

    # -- The middleware --------------------------------------------------------

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if request.session is not None and request.session.connector is not self:
            raise RuntimeError("give the session connector=sspi as well: a middleware "
                               "alone cannot keep the legs on one connection")
        if not self._gets_tokens(request.url):
            return await handler(request)
        await _make_repeatable(request)
        lane = self._lanes[request] = _Lane()
        before = request.headers.getall("Authorization", [])
        try:
            answer = await self._exchange(lane, request, handler)
        except sspi_client.SspiError as reason:
            self._end(lane, alive=False)
            raise LogonError(str(reason)) from reason
        except BaseException:
            self._end(lane, alive=False)
            raise
        finally:
            request.headers.popall("Authorization", None)
            request.headers.extend(("Authorization", value) for value in before)
        self._end(lane, alive=True)
        return answer

    async def _exchange(
        self, lane: _Lane, request: aiohttp.ClientRequest,
        handler: aiohttp.ClientHandlerType,
    ) -> aiohttp.ClientResponse:  # fmt: skip
        answer = None
        try:
            if self._preemptive:  # the connector begins, when it has a connection
                lane.begin = functools.partial(
                    self._begin, lane, request, 401, ["Negotiate"])
            answer = await self._leg(lane, request, handler)
            if lane.legs is not None:
                await self._take(lane, request, answer)
            else:
                proven = lane.facts is not None and lane.facts.proven
                if answer.status != 401 and (proven or not self._require):
                    return self._tell(lane, answer)
                await self._begin(lane, request, answer.status, _challenges(answer))
            while lane.header is not None:
                if lane.facts is None:
                    raise LogonError(MOCKED)
                self._check_bound(lane, request)
                await _read(answer)
                _carry_cookies(request, answer)
                answer = await self._leg(lane, request, handler)
                await self._take(lane, request, answer)
            assert lane.legs is not None
            await self._end_logon(lane, lane.legs)
            return self._tell(lane, answer)
        except BaseException:
            if answer is not None:
                answer.close()
            raise
        finally:
            if lane.legs is not None:
                lane.legs.leave()

    async def _begin(
        self, lane: _Lane, request: aiohttp.ClientRequest, status: int,
        challenges: list[str],
    ) -> None:  # fmt: skip
        """Make the first header. The certificate must be known by then."""
        lane.begin, lane.bound = None, self._certificate(lane, request)
        # Who the Host header names; a caller may have set it, and the SPN follows.
        host = URL(f"http://{request.headers['Host']}").raw_host or ""
        lane.legs = _Legs(sspi_client.http_authenticate(
            host, status, challenges, **self._options,
            certificate=lane.bound if self._bindings else None))
        lane.header = await _in_thread(lane.legs.send, None)

    async def _take(
        self, lane: _Lane, request: aiohttp.ClientRequest,
        answer: aiohttp.ClientResponse,
    ) -> None:  # fmt: skip
        if self._certificate(lane, request) != lane.bound:
            what = "another certificate in the middle of the logon"
            raise aiohttp.ClientConnectionError(what)
        assert lane.legs is not None
        said = answer.status, _challenges(answer)
        lane.header = await _in_thread(lane.legs.send, said)

    async def _leg(
        self, lane: _Lane, request: aiohttp.ClientRequest,
        handler: aiohttp.ClientHandlerType,
    ) -> aiohttp.ClientResponse:  # fmt: skip
        if lane.header is not None:
            request.headers["Authorization"] = lane.header
            lane.sent += 1
        if request.session is not None and request.session.closed:  # during a leg
            raise aiohttp.ClientConnectionError("the session is closed")
        try:
            return await handler(request)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as reason:
            if lane.sent < 2:
                raise
            # These aiohttp retries: a wrong password would count twice.
            raise aiohttp.ClientConnectionError(f"{CLOSED}: {reason}") from reason

    async def _end_logon(self, lane: _Lane, legs: _Legs) -> None:
        facts = lane.facts
        if facts is not None:
            if legs.context is not None:
                facts.proven, facts.lasting = True, lane.sent > 1
            if self._keep_context:
                facts.keep(legs.context)
                legs.context = None
        await _in_thread(legs.leave)

    def _tell(
        self, lane: _Lane, answer: aiohttp.ClientResponse
    ) -> aiohttp.ClientResponse:
        facts = lane.facts
        if facts is not None and facts.context is not None:
            self._contexts[answer] = facts.context
        return answer

    def context_of(
        self, answer: aiohttp.ClientResponse
    ) -> sspi_client.Context | None:
        """Return the Context of the connection that *answer* came on, if it is kept."""
        return self._contexts.get(answer)

    def _gets_tokens(self, url: URL) -> bool:
        scheme, host, port = _origin(url)
        suffixes = [host[at:] for at, letter in enumerate(host) if letter == "."]
        return any((scheme, name, port) in self._origins for name in [host, *suffixes])

    # -- The connector ---------------------------------------------------------

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: Any
    ) -> Connection:
        lane = self._lanes.get(req)
        if lane is None:
            if self._gets_tokens(req.url):
                raise RuntimeError("give the session middlewares=[sspi] as well, and "
                                   "sspi the last of them: it is who logs on")
            return await self._connect(req, traces, timeout)
        if lane.protocol is not None and lane.parked and lane.protocol.is_connected():
            lane.parked = False
            return Connection(self, lane.key, lane.protocol, self._loop)
        self._end(lane, alive=False)
        if lane.sent > 1:
            raise aiohttp.ClientConnectionError(CLOSED)
        connection = await self._connect(req, traces, timeout)
        self._lend(lane, connection)
        if lane.begin is not None and not (lane.facts and lane.facts.lasting):
            try:
                await lane.begin()
                self._check_bound(lane, req)
            except BaseException:
                connection.close()
                raise
            req.headers["Authorization"] = lane.header or ""
            lane.sent += 1
        return connection

    async def _connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: Any
    ) -> Connection:
        try:
            return await super().connect(req, traces, timeout)
        except aiohttp.ClientHttpProxyError as reason:
            if reason.status != 407:
                raise
            message = ("the proxy wants a logon of its own: let proxy_forward.py do "
                       "that, and name it as the proxy")
            raise aiohttp.ClientHttpProxyError(
                reason.request_info, reason.history, status=407, message=message,
                headers=reason.headers) from reason

    def _lend(self, lane: _Lane, connection: Connection) -> None:
        protocol = connection.protocol
        assert protocol is not None
        for other in [p for p in self._facts if not p.is_connected()]:
            self._facts.pop(other).keep(None)
        if protocol not in self._facts:
            self._facts[protocol] = _Facts(connection)
        lane.key, lane.protocol, lane.parked = connection._key, protocol, False
        lane.facts = self._facts[protocol]
        self._lent[protocol] = lane

    def _release(
        self, key: Any, protocol: ResponseHandler, *, should_close: bool = False
    ) -> None:
        """Keep what is lent out of the pool. (Private in aiohttp, and the one place
        where every connection comes back.)"""
        lane = self._lent.get(protocol)
        if lane is None:
            super()._release(key, protocol, should_close=should_close)
        elif should_close or protocol.should_close or self.force_close:
            self._end(lane, alive=False)
        else:
            lane.parked = True

    def _end(self, lane: _Lane, alive: bool) -> None:
        """The lane is no longer lent. If *alive*, its answer may go on with it."""
        protocol, lane.protocol = lane.protocol, None
        if protocol is not None:
            self._lent.pop(protocol, None)
            if lane.parked or not alive:
                super()._release(lane.key, protocol, should_close=not alive)

    def close(self, **options: Any) -> Any:
        """As TCPConnector.close(). The contexts that were kept are closed too."""
        for facts in self._facts.values():
            facts.keep(None)
        self._facts.clear()
        return super().close(**options)

    def _check_bound(self, lane: _Lane, request: aiohttp.ClientRequest) -> None:
        if self._bindings and lane.bound is None and request.is_ssl():
            raise LogonError(NOTHING_TO_BIND_TO)

    def _certificate(
        self, lane: _Lane, request: aiohttp.ClientRequest
    ) -> bytes | None:
        facts = lane.facts if request.is_ssl() else None
        return facts.certificate if facts is not None else None


CLOSED = "the server closed the connection in the middle of the logon"


def _origin(url: URL, name: str | None = None) -> tuple[str, str, int | None]:
    """Return scheme, host and port. *name*: what a caller wrote, to be checked."""
    if name is not None and (
            url.scheme not in ("http", "https") or not url.raw_host
            or url.raw_path not in ("", "/") or url.query_string or url.user):
        raise ValueError(f"{name!r} is no origin, such as 'https://intranet.example.com'")
    scheme = {"ws": "http", "wss": "https"}.get(url.scheme, url.scheme)
    return scheme, (url.raw_host or "").lower(), url.port


def _challenges(answer: aiohttp.ClientResponse) -> list[str]:
    return answer.headers.getall("WWW-Authenticate", [])


async def _read(answer: aiohttp.ClientResponse) -> None:
    """Read a page that nobody will see. One without end costs the connection."""
    size = 0
    try:
        while size <= PAGE:
            part = await answer.content.readany()
            if not part:
                await answer.wait_for_close()  # until the request is written, too
                return
            size += len(part)
    except aiohttp.ClientPayloadError:
        pass  # cut off, or compressed badly
    answer.close()


def _carry_cookies(
    request: aiohttp.ClientRequest, answer: aiohttp.ClientResponse
) -> None:
    """What an answer sets on the way goes to the session and along with the leg."""
    if answer.cookies:
        jar = request.session.cookie_jar
        jar.update_cookies(answer.cookies, answer.url)
        request.update_cookies(jar.filter_cookies(request.url))


class _Memory:
    """Where a body is written that can be written once only."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    async def write(self, chunk: Any) -> None:
        self.parts.append(bytes(chunk))


async def _make_repeatable(request: aiohttp.ClientRequest) -> None:
    body = request.body
    if not isinstance(body, payload.Payload) or isinstance(body, payload.BytesPayload):
        return
    if isinstance(body, payload.IOBasePayload) and body.size is not None:
        return  # a file that can be wound back, which aiohttp does
    memory: Any = _Memory()
    await body.write(memory)
    await request.update_body(io.BytesIO(b"".join(memory.parts)))


async def _in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Await a call that may block, in a thread of its own. Not the loop's: asyncio.run
    waits for those, and they are few."""
    done: concurrent.futures.Future[T] = concurrent.futures.Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            outcome = function(*arguments)
        except BaseException as reason:
            done.set_exception(reason)
        else:
            done.set_result(outcome)

    threading.Thread(target=run, name="SSPI", daemon=True).start()
    return await asyncio.wrap_future(done)


def main(argv: list[str] | None = None, secur32: Any = None) -> str | None:
    parser = argparse.ArgumentParser(description="Get a page with a Windows logon.")
    parser.add_argument("url", help="its origin alone gets tokens")
    parser.add_argument("--user", help=r"CORP\alice: another than who is logged on; "
                        "the password is asked for")
    parser.add_argument("--package", help="Negotiate, Kerberos or NTLM; without it "
                        "what the server offers, Negotiate first")
    parser.add_argument("--no-ntlm", action="store_true", help="Kerberos or nothing")
    parser.add_argument("--mutual", action="store_true",
                        help="the server must prove who it is")
    told = parser.parse_args(argv)

    async def get(**options: Any) -> tuple[int, str]:
        sspi = SspiConnector(str(URL(told.url).origin()), **options)
        how = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(
                connector=sspi, middlewares=[sspi], timeout=how) as session:
            async with session.get(told.url) as answer:
                return answer.status, await answer.text()

    try:
        who = sspi_client.Identity(told.user, getpass.getpass()) if told.user else None
        status, page = asyncio.run(get(
            identity=who, package=told.package, allow_ntlm=not told.no_ntlm,
            require=sspi_client.ISC_RET.MUTUAL_AUTH if told.mutual else 0,
            secur32=secur32))
    except (aiohttp.ClientError, OSError, ValueError) as reason:
        return f"aiohttp_auth: {' '.join(str(reason).split()) or repr(reason)}"
    print(page)
    return None if status < 300 else f"aiohttp_auth: status {status}"


if __name__ == "__main__":
    sys.exit(main())
