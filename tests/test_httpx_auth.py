"""examples/httpx_auth.py: the table of outcomes, and what is particular to httpx."""

import asyncio
import contextlib
import gc
import importlib
import io
import os
import threading

import http_outcomes
import http_particulars
import pytest
from http_outcomes import MUTUAL, PATIENCE, THE_PAGE, Acceptor, Answer, Reply, world

import sspi_client
from sspi_client import SspiError

if os.environ.get("SSPI_CLIENT_EXAMPLES") == "required":
    httpx = importlib.import_module("httpx")
    anyio = importlib.import_module("anyio")
    trio = importlib.import_module("trio")
else:
    httpx = pytest.importorskip("httpx", reason="this adapter is for httpx")
    anyio = pytest.importorskip("anyio", reason="httpx's event loops")
    trio = pytest.importorskip("trio", reason="an event loop of httpx's")
from anyio import from_thread  # noqa: E402

EXAMPLES = http_outcomes.Path(__file__).resolve().parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, str(EXAMPLES / f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


httpx_auth = load("httpx_auth")


# -- The drivers ---------------------------------------------------------------


def answer_of(response, body):
    return Answer(response.status_code, dict(response.headers), body,
                  str(response.url), response)


def body_of(body, is_async):
    """Return the keywords that make httpx send *body*."""
    if body is None or isinstance(body, bytes):
        return {"content": body}
    if body.kind == "multipart":
        return {"files": {"file": ("a.bin", body.content)}}
    if body.kind == "generator":
        return {"content": pieces_of(body) if is_async else iter(body.pieces())}
    return {"content": file_of(body)}


async def pieces_of(body):
    for piece in body.pieces():
        yield piece


def file_of(body):
    file = io.BytesIO(b"skipped" + body.content)
    file.seek(len(b"skipped"))
    return file


def how(origins, sspi, transport, proxy):
    if proxy is not None:
        sspi["proxy"] = httpx.Proxy(proxy)
    return {"mounts": dict.fromkeys(origins, transport(**sspi)),
            "follow_redirects": True, "timeout": PATIENCE}


class Sync:
    name = "httpx"
    can = {"keep-alive", "redirects", "cookies", "threads", "proxy", "context",
           "multipart", "generator", "file", "any host"}

    def open(self, origins, *, retries=0, proxy=None, **sspi):
        return SyncClient(how(origins, sspi, httpx_auth.SspiTransport, proxy))

    def kind(self, error):
        if isinstance(error, httpx_auth.LogonError):
            return "refused"
        return "broken" if isinstance(error, httpx.TransportError) else "other"


class SyncClient:
    def __init__(self, options):
        self.client = httpx.Client(**options)

    def ask(self, method, url, body=None, headers=None, stream=False):
        options = dict(body_of(body, False), headers=headers)
        if not stream:
            response = self.client.request(method, url, **options)
            return answer_of(response, response.content)
        with self.client.stream(method, url, **options) as response:
            return answer_of(response, b"".join(response.iter_bytes()))

    def many(self, urls, workers, stream):
        left, done = list(urls), []

        def work():
            with contextlib.suppress(IndexError):
                while True:
                    url = left.pop()
                    try:
                        done.append(self.ask("GET", url, stream=stream))
                    except Exception as error:
                        done.append(error)

        threads = [threading.Thread(target=work) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return done

    def cookies(self):
        return dict(self.client.cookies)

    def context(self, answer):
        return answer.raw.extensions.get("sspi_context")

    def close(self):
        self.client.close()


class Async(Sync):
    can = Sync.can - {"file"}  # httpx itself refuses one in an AsyncClient

    def __init__(self, backend):
        self.backend, self.name = backend, f"httpx on {backend}"

    def open(self, origins, *, retries=0, proxy=None, **sspi):
        options = how(origins, sspi, httpx_auth.AsyncSspiTransport, proxy)
        return AsyncClient(self.backend, options)


class AsyncClient(SyncClient):
    def __init__(self, backend, options):
        self.stack = contextlib.ExitStack()
        portal = from_thread.start_blocking_portal(backend)
        self.portal = self.stack.enter_context(portal)
        self.client = httpx.AsyncClient(**options)  # outside of any loop
        self.stack.callback(self.portal.call, self.client.aclose)

    def ask(self, *arguments, **options):
        return self.portal.call(lambda: self.aask(*arguments, **options))

    async def aask(self, method, url, body=None, headers=None, stream=False):
        options = dict(body_of(body, True), headers=headers)
        if not stream:
            response = await self.client.request(method, url, **options)
            return answer_of(response, response.content)
        async with self.client.stream(method, url, **options) as response:
            parts = [part async for part in response.aiter_bytes()]
            return answer_of(response, b"".join(parts))

    def many(self, urls, workers, stream):
        left, done = list(urls), []

        async def work():
            while left:
                try:
                    done.append(await self.aask("GET", left.pop(), stream=stream))
                except Exception as error:
                    done.append(error)

        async def run():
            async with anyio.create_task_group() as group:
                for _ in range(workers):
                    group.start_soon(work)

        self.portal.call(run)
        return done

    def close(self):
        self.stack.close()


SYNC, ASYNCIO, TRIO = Sync(), Async("asyncio"), Async("trio")
DRIVERS = [SYNC, ASYNCIO, TRIO]


# asyncio drops what it has received when it cannot go on writing, so that a 401 that
# comes while a long body is being sent may never be seen.
HUNG_UP = "a long body that a server hangs up on"
CASES = [
    pytest.param(driver, case, id=f"{driver.name}, {case}")
    for driver in DRIVERS for case in http_outcomes.cases(driver)]


def loses_the_answer(driver, case):
    return "asyncio" in driver.name and case.name.startswith(HUNG_UP)


@pytest.mark.parametrize(
    "driver, case", [c for c in CASES if not loses_the_answer(*c.values)])
def test_outcome(driver, case):
    case.play(driver)


@pytest.mark.parametrize(
    "driver, case", [c for c in CASES if loses_the_answer(*c.values)])
def test_long_body_that_a_server_hangs_up_on_is_a_page_or_a_transport_error(
        driver, case):
    try:
        case.play(driver)
    except AssertionError as other:
        assert "ReadError(" in str(other) or "WriteError(" in str(other)


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
@pytest.mark.parametrize(
    "case", http_particulars.CASES, ids=lambda case: case.__name__)
def test_particular(driver, case):
    case(driver)


# -- What the tests below share ------------------------------------------------

EACH = pytest.mark.parametrize("driver", DRIVERS, ids=lambda driver: driver.name)
ASYNC = pytest.mark.parametrize("backend", ["asyncio", "trio"])
PACKAGES = pytest.mark.parametrize("kerberos", [True, False], ids=["Kerberos", "NTLM"])


class Held:
    """A secur32 whose InitializeSecurityContextW blocks until `go` is set. `entered`
    says that *legs* threads are in it."""

    def __init__(self, fake, legs=1):
        for name in sspi_client.PROTOTYPES:
            setattr(self, name, getattr(fake, name))
        self.legs = threading.Semaphore(legs - 1)
        self.entered, self.go, self.freed = (threading.Event() for _ in range(3))
        self.InitializeSecurityContextW = self.wait_for(fake.InitializeSecurityContextW)
        self.FreeCredentialsHandle = self.tell_of(fake.FreeCredentialsHandle)

    def wait_for(self, function):
        def initialize(*arguments):
            if not self.legs.acquire(blocking=False):
                self.entered.set()
            assert self.go.wait(PATIENCE)
            return function(*arguments)

        return initialize

    def tell_of(self, function):
        def free(*arguments):
            status = function(*arguments)
            self.freed.set()
            return status

        return free


def mounted(site, **sspi):
    return {site.origin: httpx_auth.AsyncSspiTransport(**sspi)}


# -- A logon below redirects ---------------------------------------------------


@EACH
@PACKAGES
def test_redirect_from_http_to_https_logs_on_anew(driver, kerberos):
    with world(driver, kerberos=kerberos) as here:
        secure = here.serve(Acceptor(), tls=True)
        moved = Reply(302, [("Location", secure.url)])
        plain = here.serve(Acceptor(last=moved))
        client = here.open(plain, secure)
        assert client.ask("GET", plain.url).body == THE_PAGE
        assert len(plain.tokens()) == len(secure.tokens()) == (1 if kerberos else 2)
        assert plain.tokens()[-1] != secure.tokens()[-1]
        assert [r.token for r in secure.log][0] == b""


@EACH
def test_redirect_to_a_host_that_is_not_listed_carries_no_token(driver):
    with world(driver) as here:
        other = here.serve(http_outcomes.plain(Reply(200, body=b"other")))
        away = here.serve(Acceptor(last=Reply(302, [("Location", other.url)])))
        answer = here.open(away).ask("GET", away.url)
        assert answer.body == b"other" and other.tokens() == []
        assert [r.headers.get("authorization") for r in other.log] == [None]


@EACH
def test_request_that_the_caller_sees_has_no_token(driver):
    with world(driver) as here:
        site = here.serve(Acceptor())
        answer = here.open(site).ask("GET", site.url)
        assert site.tokens() and "Authorization" not in answer.raw.request.headers
        for before in answer.raw.history:
            assert "Authorization" not in before.request.headers


@pytest.mark.parametrize("options", [{"http2": True}, {"http1": False, "http2": True},
                                     {"http1": False}])
@pytest.mark.parametrize("name", ["SspiTransport", "AsyncSspiTransport"])
def test_http2_is_refused(name, options):
    with pytest.raises(ValueError, match="HTTP/2"):
        getattr(httpx_auth, name)(**options)


# -- Cancellation --------------------------------------------------------------


def hold_flows(mocker):
    """Return the list of flows that are made. Being in it, none ends by itself."""
    flows, make = [], sspi_client.http_authenticate

    def made(host, status, *arguments, **options):
        flow = make(host, status, *arguments, **options)
        if arguments[0] is not None:  # as it is when an adapter tries its arguments
            flows.append(flow)
        return flow

    mocker.patch("sspi_client.http_authenticate", made)
    return flows


def cancelled_while_a_leg_blocks(mocker, backend, cancel):
    """*cancel*(request, entered) cancels request() once *entered* says so."""
    with world(SYNC) as here:
        site = here.serve(Acceptor())
        open_to_all = here.serve(http_outcomes.plain(Reply(200, body=b"open")))
        held = Held(here.fake)
        flows = hold_flows(mocker)

        async def main():
            mounts = mounted(site, secur32=held)
            async with httpx.AsyncClient(mounts=mounts, timeout=PATIENCE) as client:
                async def entered():
                    await anyio.to_thread.run_sync(held.entered.wait, PATIENCE)

                await cancel(lambda: client.get(site.url), entered)
                assert not held.go.is_set()  # the leg blocks still
                # ... and nobody else is held up by that.
                assert (await client.get(open_to_all.url)).content == b"open"
            assert not held.go.is_set()

        anyio.run(main, backend=backend)
        held.go.set()
        assert held.freed.wait(PATIENCE)  # the leg's own thread has closed the flow
        assert len(flows) == 1


@ASYNC
def test_cancel_scope_ends_a_request_while_a_leg_blocks(backend, mocker):
    async def cancel(request, entered):
        async def run():
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                await request()
            assert scope.cancelled_caught

        scopes = []
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await entered()
            scopes[0].cancel()

    cancelled_while_a_leg_blocks(mocker, backend, cancel)


@ASYNC
def test_timeout_ends_a_request_while_a_leg_blocks(backend, mocker):
    async def cancel(request, entered):
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.2):
                await request()
        await entered()

    cancelled_while_a_leg_blocks(mocker, backend, cancel)


def test_task_of_asyncio_is_cancelled_while_a_leg_blocks(mocker):
    async def cancel(request, entered):
        task = asyncio.ensure_future(request())
        await entered()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    cancelled_while_a_leg_blocks(mocker, "asyncio", cancel)


def test_trio_moves_on_while_a_leg_blocks(mocker):
    async def cancel(request, entered):
        with trio.move_on_after(0.2) as scope:
            await request()
        assert scope.cancelled_caught
        await entered()

    cancelled_while_a_leg_blocks(mocker, "trio", cancel)


def test_cancelling_between_two_legs_closes_the_flow():
    """The server never answers the first leg; the flow is open, no leg is running."""
    with world(SYNC, kerberos=False) as here:
        reached, let_go = threading.Event(), threading.Event()

        def behave(request, line):
            if not request.token:
                return Acceptor().first._replace(
                    headers=[("WWW-Authenticate", "NTLM")])
            reached.set()
            assert let_go.wait(PATIENCE)
            return Reply(raw=b"")

        site = here.serve(behave)

        async def main():
            mounts = mounted(site, secur32=here.fake)
            async with httpx.AsyncClient(mounts=mounts, timeout=PATIENCE) as client:
                task = asyncio.ensure_future(client.get(site.url))
                await anyio.to_thread.run_sync(reached.wait, PATIENCE)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            here.fake.assert_clean()  # at once

        try:
            asyncio.run(main())
        finally:
            let_go.set()


def test_forty_blocked_legs_hold_up_no_other_thread():
    """anyio has 40 threads for everybody, and they are not for waiting."""
    with world(SYNC) as here:
        site = here.serve(Acceptor())
        held = Held(here.fake, legs=45)

        async def main():
            mounts = mounted(site, secur32=held)
            async with httpx.AsyncClient(mounts=mounts, timeout=PATIENCE) as client:
                tasks = [asyncio.ensure_future(client.get(site.url)) for _ in range(45)]
                assert await anyio.to_thread.run_sync(held.entered.wait, PATIENCE)
                with anyio.fail_after(PATIENCE):
                    assert await anyio.to_thread.run_sync(lambda: "free") == "free"
                held.go.set()
                for answer in await asyncio.gather(*tasks):
                    assert answer.content == THE_PAGE

        asyncio.run(main())


@ASYNC
def test_transports_of_two_users_share_no_connection_in_one_loop(backend):
    with world(SYNC) as here:
        site = here.serve(Acceptor())
        users = [
            mounted(site, secur32=here.fake, identity=sspi_client.Identity(*names))
            for names in (("CORP\\alice", "Secret123!"), ("CORP\\alice", "wrong"))
        ]

        async def main():
            async with httpx.AsyncClient(mounts=users[0]) as right:
                async with httpx.AsyncClient(mounts=users[1]) as wrong:
                    assert (await right.get(site.url)).content == THE_PAGE
                    with pytest.raises(httpx_auth.LogonError):
                        await wrong.get(site.url)

        anyio.run(main, backend=backend)


# -- Bodies --------------------------------------------------------------------


@ASYNC
@PACKAGES
def test_async_generator_is_sent_whole_with_every_leg(backend, kerberos):
    with world(SYNC, kerberos=kerberos) as here:
        site = here.serve(Acceptor())
        body = http_outcomes.Body("generator", b"x" * 30000)
        client = Async(backend).open([site.origin], secur32=here.fake)
        here.clients.append(client)
        answer = client.ask("POST", site.url, body)
        assert answer.body == THE_PAGE + body.content
        assert [request.body for request in site.log] == [body.content] * len(site.log)
        assert len(site.log) == (2 if kerberos else 3)


def test_file_goes_out_from_where_it_stands():
    with world(SYNC, kerberos=False) as here:
        site = here.serve(Acceptor())
        body = http_outcomes.Body("file", b"behind the offset" * 500)
        assert here.open(site).ask("PUT", site.url, body).body == (
            THE_PAGE + body.content)
        assert {request.body for request in site.log} == {body.content}


# -- Many at once --------------------------------------------------------------


@EACH
@PACKAGES
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_96_requests_on_16_workers_all_succeed(driver, kerberos, stream):
    with world(driver, kerberos=kerberos) as here:
        site = here.serve(Acceptor(per_request=kerberos))
        answers = here.open(site).many([site.url] * 96, 16, stream)
        assert [getattr(a, "body", a) for a in answers] == [THE_PAGE] * 96
        assert site.connections <= 16


@ASYNC
def test_answer_that_is_read_slowly_blocks_nobody(backend):
    with world(SYNC, kerberos=False) as here:
        site = here.serve(Acceptor(last=Reply(200, body=b"long" * 500000)))

        async def main():
            mounts = mounted(site, secur32=here.fake)
            async with httpx.AsyncClient(mounts=mounts, timeout=PATIENCE) as client:
                async with client.stream("GET", site.url) as slow:
                    for _ in range(5):
                        assert (await client.get(site.url)).status_code == 200
                    assert len(await slow.aread()) == 2000000
            assert site.connections == 2

        anyio.run(main, backend=backend)


def test_answer_that_is_read_slowly_blocks_no_thread():
    with world(SYNC, kerberos=False) as here:
        site = here.serve(Acceptor(last=Reply(200, body=b"long" * 500000)))
        client = here.open(site).client
        with client.stream("GET", site.url) as slow:
            for _ in range(5):
                assert client.get(site.url).status_code == 200
            assert len(slow.read()) == 2000000
        assert site.connections == 2


@EACH
def test_limits_are_kept_and_waiting_ends_in_a_pool_timeout(driver):
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor())
        client = here.open(site, limits=httpx.Limits(max_connections=3))
        answers = client.many([site.url] * 12, 6, False)
        assert [getattr(a, "body", a) for a in answers] == [THE_PAGE] * 12
        assert site.connections <= 3


def test_no_place_within_the_pool_timeout_is_a_pool_timeout():
    with world(SYNC, kerberos=False) as here:
        site = here.serve(Acceptor(last=Reply(200, body=b"long" * 500000)))
        client = here.open(site, limits=httpx.Limits(max_connections=1)).client
        with client.stream("GET", site.url):
            with pytest.raises(httpx.PoolTimeout):
                client.get(site.url, timeout=httpx.Timeout(PATIENCE, pool=0.05))
        assert client.get(site.url).status_code == 200


# -- Clients, their loops and their ends ---------------------------------------


@ASYNC
def test_client_is_used_in_two_event_loops(backend):
    with world(SYNC, kerberos=False) as here:
        site = here.serve(Acceptor())
        transport = httpx_auth.AsyncSspiTransport(secur32=here.fake)
        client = httpx.AsyncClient(mounts={site.origin: transport}, timeout=PATIENCE)

        async def once():
            assert (await client.get(site.url)).content == THE_PAGE
            await transport.aclose()  # its connections are of this loop

        anyio.run(once, backend=backend)
        anyio.run(once, backend=backend)
        assert site.connections == 2


@EACH
def test_transport_serves_two_clients_and_a_closed_one_closes_no_door(driver):
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor())
        first = here.open(site)
        assert first.ask("GET", site.url).body == THE_PAGE
        (transport,) = first.client._mounts.values()
        assert first.ask("GET", site.url).body == THE_PAGE
        close = getattr(transport, "aclose", None)
        first.portal.call(close) if close else transport.close()
        assert first.ask("GET", site.url).body == THE_PAGE
        assert site.connections == 2


def test_answer_that_outlives_its_client_is_an_error_of_httpx():
    with world(SYNC, kerberos=False) as here:
        site = here.serve(Acceptor(last=Reply(200, body=b"long" * 500000)))
        client = here.open(site).client
        with client.stream("GET", site.url) as late:
            client.close()
            with pytest.raises((httpx.TransportError, httpx.StreamError)):
                late.read()


# -- Errors --------------------------------------------------------------------


@EACH
def test_wrong_password_costs_one_logon_and_is_a_transport_error(driver):
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor())
        who = sspi_client.Identity("CORP\\alice", "Hunter2!")
        client = here.open(site, identity=who)
        with pytest.raises(httpx.TransportError) as caught:
            client.ask("GET", site.url)
        assert isinstance(caught.value, httpx_auth.LogonError)
        retried = (httpx.NetworkError, httpx.TimeoutException, httpx.ProtocolError)
        assert not isinstance(caught.value, retried)
        assert isinstance(caught.value.__cause__, SspiError)
        assert caught.value.__cause__.name == "SEC_E_LOGON_DENIED"
        assert caught.value.request.url == site.url
        assert len(site.tokens()) == 2 and "Hunter2" not in str(caught.value)


@EACH
@pytest.mark.parametrize("goodbye", [
    Reply(401, [("Connection", "close")], b"bye"), Reply(401, version="1.0"),
    Reply(401, [("connection", "Keep-Alive, CLOSE")]), Reply(401, close=True)],
    ids=["close", "HTTP/1.0", "CLOSE in a list", "silent"])
def test_connection_that_closes_in_mid_logon_is_no_refusal(driver, goodbye):
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor(leg=goodbye))
        with pytest.raises(httpx.TransportError) as caught:
            here.open(site).ask("GET", site.url)
        assert driver.kind(caught.value) == "broken"
        assert len(site.tokens()) == 1  # the second leg went nowhere else


@EACH
def test_require_is_judged_by_connection(driver):
    """IIS asks once a connection; a new connection has proven nothing."""
    with world(driver) as here:
        site = here.serve(Acceptor())
        client = here.open(site, require=MUTUAL)
        for _ in range(3):
            assert client.ask("GET", site.url).body == THE_PAGE
        assert len(site.log) == 4 and site.connections == 1
        site.behave = http_outcomes.plain(Reply(200, [("Connection", "close")], b"?"))
        assert client.ask("GET", site.url).body == b"?"  # proven by the connection
        with pytest.raises(httpx_auth.LogonError, match="SEC_E_MUTUAL_AUTH_FAILED"):
            client.ask("GET", site.url)


def test_proxy_that_wants_a_logon_is_told_of_by_the_forwarders_name():
    with world(SYNC) as here:
        asks = Reply(407, [("Proxy-Authenticate", "Negotiate")], b"no")
        proxy = here.serve(http_outcomes.plain(asks))
        site = here.serve(Acceptor(), tls=True)
        client = here.open(site, proxy=proxy.origin)
        with pytest.raises(httpx.ProxyError, match="proxy_forward"):
            client.ask("GET", site.url)


@pytest.mark.parametrize("name", ["SspiTransport", "AsyncSspiTransport"])
@pytest.mark.parametrize("wrong, error", [
    ({"identity": "alice"}, TypeError), ({"package": "Digest"}, ValueError),
    ({"hosts": "localhost"}, TypeError), ({"targets": "HTTP/x"}, TypeError),
    ({"package": "NTLM", "allow_ntlm": False}, ValueError)], ids=str)
def test_wrong_argument_is_told_of_at_the_call(name, wrong, error):
    with world(SYNC) as here, pytest.raises(error):
        getattr(httpx_auth, name)(secur32=here.fake, **wrong)


def test_mocked_transport_is_told_from_a_server(mocker):
    mocked = httpx.Response(401, headers={"WWW-Authenticate": "Negotiate"},
                            stream=httpx.ByteStream(b""))
    mocker.patch("httpx.HTTPTransport.handle_request", return_value=mocked)
    with world(SYNC) as here:
        client = here.open("https://localhost")
        with pytest.raises(httpx_auth.LogonError, match="mocked"):
            client.ask("GET", "https://localhost/")


@EACH
@pytest.mark.parametrize("preemptive", [False, True])
def test_bindings_are_never_dropped_in_silence(driver, preemptive, mocker):
    """As if something between us and the wire showed no certificate."""
    def notice(self, stream):
        self.stream = stream

    mocker.patch.object(httpx_auth._Lane, "notice", notice)
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor(), tls=True)
        client = here.open(site, preemptive=preemptive)
        with pytest.raises(httpx_auth.LogonError, match="bindings=False"):
            client.ask("GET", site.url)
        assert site.tokens() == []


@EACH
def test_another_certificate_in_mid_logon_is_a_broken_connection(driver, mocker):
    """The first 401 closes; the node that answers next has a certificate of its own."""
    notice, streams = httpx_auth._Lane.notice, []

    def another(self, stream):
        notice(self, stream)
        streams.append(stream)
        if stream is not streams[0]:
            self.certificate = b"another"

    mocker.patch.object(httpx_auth._Lane, "notice", another)
    with world(driver, kerberos=False) as here:
        closes = Reply(401, [("Connection", "close")])
        site = here.serve(Acceptor(first=closes), tls=True)
        with pytest.raises(httpx.RemoteProtocolError, match="another certificate"):
            here.open(site).ask("GET", site.url)
        assert len(site.tokens()) == 1


# -- Who gets tokens -----------------------------------------------------------


@pytest.mark.parametrize("url, listed", [
    ("https://intranet.test/", True), ("https://INTRANET.test/", True),
    ("http://intranet.test/", True), ("https://intranet.test:8443/", False),
    ("https://other.test:8443/", True), ("https://other.test/", False),
    ("https://web.corp.test/", True), ("https://a.b.corp.test/", True),
    ("https://corp.test/", False), ("https://evilcorp.test/", False),
    ("https://web.corp.test.evil/", False)])
def test_hosts_narrows_a_mount_down(url, listed):
    with world(SYNC) as here:
        transport = httpx_auth.SspiTransport(
            hosts=["Intranet.test", "other.test:8443", ".corp.test"],
            secur32=here.fake)
        assert transport._gets_tokens(httpx.URL(url)) is listed


@EACH
def test_preemptive_logon_takes_one_request_a_page(driver):
    with world(driver) as here:
        site = here.serve(Acceptor(per_request=True))
        client = here.open(site, preemptive=True, package="Kerberos")
        for _ in range(10):
            assert client.ask("GET", site.url).body == THE_PAGE
        assert len(site.log) == 10


@EACH
def test_preemptive_logon_is_bound_to_the_certificate(driver):
    with world(driver) as here:
        site = here.serve(Acceptor(per_request=True), tls=True)
        client = here.open(site, preemptive=True)
        for _ in range(10):
            assert client.ask("GET", site.url).body == THE_PAGE
        assert len(site.log) == 10


@EACH
def test_kept_context_lives_as_long_as_its_connection(driver):
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor())
        client = here.open(site, keep_context=True)
        first = client.context(client.ask("GET", site.url))
        assert client.context(client.ask("GET", site.url)) is first
        assert first.user and len(first.wrap(b"hello")) > 5
        client.close()
        with pytest.raises(RuntimeError):
            first.wrap(b"hello")


# -- As a command --------------------------------------------------------------


def test_command_prints_the_page(capsys):
    with world(SYNC) as here:
        site = here.serve(Acceptor(), tls=True)
        assert httpx_auth.main([site.url, "--mutual"], here.fake) is None
        assert capsys.readouterr().out.strip().encode() == THE_PAGE.strip()


def test_command_takes_an_ipv6_literal(capsys):
    with world(SYNC, kerberos=False) as here:
        site = here.serve(Acceptor(), address="::1", name="[::1]")
        assert httpx_auth.main([site.url], here.fake) is None
        assert capsys.readouterr().out.strip().encode() == THE_PAGE.strip()


def test_command_says_in_one_line_what_went_wrong(mocker):
    mocker.patch("getpass.getpass", return_value="Hunter2!")
    with world(SYNC, kerberos=False) as here:
        site = here.serve(Acceptor())
        line = httpx_auth.main([site.url, "--user", "CORP\\bob"], here.fake)
        assert line.startswith("httpx_auth: ") and "\n" not in line
        assert "SEC_E_LOGON_DENIED" in line and "Hunter2" not in line
        gc.collect()


def test_command_has_help_for_every_option(capsys):
    with pytest.raises(SystemExit):
        httpx_auth.main(["--help"])
    told = capsys.readouterr().out
    for option in ("url", "--user", "--package", "--no-ntlm", "--mutual"):
        assert option in told
