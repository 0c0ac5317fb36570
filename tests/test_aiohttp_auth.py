"""examples/aiohttp_auth.py: the table of outcomes, and what only aiohttp does."""

import asyncio
import contextlib
import gc
import importlib
import io
import os
import ssl
import threading

import http_outcomes
import http_particulars
import pytest
from http_outcomes import MUTUAL, PATIENCE, THE_PAGE, Acceptor, Answer, Reply, world

import sspi_client
from sspi_client import SspiError

if os.environ.get("SSPI_CLIENT_EXAMPLES") == "required":
    aiohttp = importlib.import_module("aiohttp")
else:
    aiohttp = pytest.importorskip("aiohttp", reason="this adapter is for aiohttp")

EXAMPLES = http_outcomes.Path(__file__).resolve().parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, str(EXAMPLES / f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


aiohttp_auth = load("aiohttp_auth")


# -- The driver ----------------------------------------------------------------


class Driver:
    name = "aiohttp"
    can = {"keep-alive", "redirects", "cookies", "threads", "proxy", "context",
           "multipart", "generator", "file", "any host"}

    def open(self, origins, *, retries=0, proxy=None, **sspi):
        return Client(origins, proxy, sspi)

    def kind(self, error):
        if isinstance(error, aiohttp_auth.LogonError):
            return "refused"
        library = (aiohttp.ClientError, asyncio.TimeoutError)
        return "broken" if isinstance(error, library) else "other"


class Client:
    """A session in an event loop of its own, which runs while something is asked."""

    def __init__(self, origins, proxy, sspi):
        self.loop = asyncio.new_event_loop()
        try:
            self.loop.run_until_complete(self.start(origins, proxy, sspi))
        except BaseException:
            self.loop.close()
            raise

    async def start(self, origins, proxy, sspi):
        trust = ssl.create_default_context(cafile=str(http_outcomes.PEM))
        self.sspi = aiohttp_auth.SspiConnector(*origins, ssl=trust, **sspi)
        self.proxy = proxy
        self.session = aiohttp.ClientSession(
            connector=self.sspi, middlewares=[self.sspi],
            timeout=aiohttp.ClientTimeout(total=PATIENCE * 2, sock_read=PATIENCE))

    def ask(self, *arguments, **options):
        return self.loop.run_until_complete(self.aask(*arguments, **options))

    async def aask(self, method, url, body=None, headers=None, stream=False):
        request = self.session.request(
            method, url, data=data_of(body), headers=headers, proxy=self.proxy)
        async with request as answer:
            if stream:
                parts = [part async for part in answer.content.iter_any()]
                page = b"".join(parts)
            else:
                page = await answer.read()
            names = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, names, page, str(answer.url), answer)

    def many(self, urls, workers, stream):
        left, done = list(urls), []

        async def work():
            while left:
                try:
                    done.append(await self.aask("GET", left.pop(), stream=stream))
                except Exception as error:
                    done.append(error)

        async def run():
            await asyncio.gather(*(work() for _ in range(workers)))

        self.loop.run_until_complete(run())
        return done

    def cookies(self):
        return {cookie.key: cookie.value for cookie in self.session.cookie_jar}

    def context(self, answer):
        return self.sspi.context_of(answer.raw)

    def close(self):
        if not self.loop.is_closed():
            self.loop.run_until_complete(end(self.session))
            self.loop.close()


async def end(session):
    await session.close()
    # TLS says goodbye in its own time, and no aiohttp before 3.12.4 waits for that.
    sockets = asyncio.get_running_loop()._selector.get_map()
    for _ in range(1000):
        if len(sockets) > 1:  # besides the loop's own
            await asyncio.sleep(0.002)


def data_of(body):
    if body is None:
        return None
    if isinstance(body, bytes):  # aiohttp warns of more than 1 MiB of them
        return io.BytesIO(body) if len(body) > 2**20 else body
    if body.kind == "multipart":
        form = aiohttp.FormData()
        form.add_field("file", body.content, filename="a.bin")
        return form
    if body.kind == "generator":
        return pieces_of(body)
    file = io.BytesIO(b"skipped" + body.content)
    file.seek(len(b"skipped"))
    return file


async def pieces_of(body):
    for piece in body.pieces():
        yield piece


DRIVER = Driver()


# aiohttp decompresses and parses a page as it comes, and not only when it is read: of
# two kinds of broken page it never shows us the answer, or not the connection. What
# becomes of them is tested below, in test_page_that_aiohttp_cannot_read.
UNREADABLE = ("a 401 with a page that only claims to be compressed",
              "a first 401 with broken chunks")


# asyncio drops what it has received when it cannot go on writing, so that a 401 that
# comes while a long body is being sent may never be seen.
HUNG_UP = "a long body that a server hangs up on"


@pytest.mark.parametrize("case", [
    case for case in http_outcomes.cases(DRIVER)
    if not case.name.startswith((*UNREADABLE, HUNG_UP))], ids=str)
def test_outcome(case):
    case.play(DRIVER)


@pytest.mark.parametrize("case", [
    case for case in http_outcomes.cases(DRIVER) if case.name.startswith(HUNG_UP)],
    ids=str)
def test_long_body_that_a_server_hangs_up_on_is_a_page_or_a_connection_error(case):
    try:
        case.play(DRIVER)
    except AssertionError as other:
        assert "ClientOSError(" in str(other) or "ServerDisconnected" in str(other)


GZIP = [("Content-Encoding", "gzip")]
CHUNKED = [("Transfer-Encoding", "chunked")]


@pytest.mark.parametrize("page, outcome", [
    ({"first": Reply(401, GZIP, b"this is no gzip")}, http_outcomes.PAGE),
    ({"leg": Reply(401, GZIP, b"this is no gzip")}, http_outcomes.BROKEN),
    ({"first": Reply(401, CHUNKED, b"5\r\nwho a\r\nzz\r\n", close=True)},
     http_outcomes.BROKEN)], ids=["first no gzip", "no gzip", "broken chunks"])
def test_page_that_aiohttp_cannot_read(page, outcome):
    with world(DRIVER, kerberos=False) as here:
        site = here.serve(Acceptor(**page))
        word, result = here.outcome(here.open(site), "GET", site.url)
        assert word == outcome, result
        assert len(site.tokens()) <= 2


@pytest.mark.parametrize("driver", [DRIVER], ids=lambda driver: driver.name)
@pytest.mark.parametrize(
    "case", http_particulars.CASES, ids=lambda case: case.__name__)
def test_particular(driver, case):
    case(driver)


# -- What the tests below share ------------------------------------------------

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


def wait_in_thread(event):
    return asyncio.get_running_loop().run_in_executor(None, event.wait, PATIENCE)


@contextlib.asynccontextmanager
async def opened(*origins, **sspi):
    connector = aiohttp_auth.SspiConnector(*origins, **sspi)
    async with aiohttp.ClientSession(
            connector=connector, middlewares=[connector]) as session:
        yield session


# -- A logon below redirects ---------------------------------------------------


@PACKAGES
def test_redirect_from_http_to_https_logs_on_anew(kerberos):
    with world(DRIVER, kerberos=kerberos) as here:
        secure = here.serve(Acceptor(), tls=True)
        moved = Reply(302, [("Location", secure.url)])
        plain = here.serve(Acceptor(last=moved))
        client = here.open(plain, secure)
        assert client.ask("GET", plain.url).body == THE_PAGE
        assert len(plain.tokens()) == len(secure.tokens()) == (1 if kerberos else 2)
        assert plain.tokens()[-1] != secure.tokens()[-1]
        assert [r.token for r in secure.log][0] == b""


def test_redirect_to_an_origin_that_is_not_listed_carries_no_token():
    with world(DRIVER) as here:
        other = here.serve(http_outcomes.plain(Reply(200, body=b"other")))
        away = here.serve(Acceptor(last=Reply(302, [("Location", other.url)])))
        answer = here.open(away).ask("GET", away.url)
        assert answer.body == b"other" and other.tokens() == []
        assert [r.headers.get("authorization") for r in other.log] == [None]


@pytest.mark.parametrize("mine", [{}, {"Authorization": "Bearer mine"}])
def test_request_that_the_caller_sees_has_no_token(mine):
    with world(DRIVER) as here:
        site = here.serve(Acceptor())
        answer = here.open(site).ask("GET", site.url, None, mine)
        assert site.tokens() and answer.body == THE_PAGE
        seen = answer.raw.request_info.headers
        assert seen.get("Authorization") == mine.get("Authorization")


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


def cancelled_while_a_leg_blocks(mocker, cancel):
    """*cancel*(request, entered) cancels request once *entered* says so."""
    with world(DRIVER) as here:
        site = here.serve(Acceptor())
        open_to_all = here.serve(http_outcomes.plain(Reply(200, body=b"open")))
        held = Held(here.fake)
        flows = hold_flows(mocker)

        async def main():
            async with opened(site.origin, secur32=held) as session:
                async def get(url, **options):
                    async with session.get(url, **options) as answer:
                        return await answer.read()

                await cancel(
                    lambda **options: get(site.url, **options),
                    lambda: wait_in_thread(held.entered))
                assert not held.go.is_set()  # the leg blocks still
                # ... and nobody else is held up by that.
                assert await get(open_to_all.url) == b"open"

        asyncio.run(main())  # ends, though the thread has not
        assert not held.go.is_set()
        held.go.set()
        assert held.freed.wait(PATIENCE)  # the leg's own thread has closed the flow
        assert len(flows) == 1


def test_task_is_cancelled_while_a_leg_blocks(mocker):
    async def cancel(request, entered):
        task = asyncio.ensure_future(request())
        await entered()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    cancelled_while_a_leg_blocks(mocker, cancel)


def test_total_timeout_ends_a_request_while_a_leg_blocks(mocker):
    async def cancel(request, entered):
        with pytest.raises(asyncio.TimeoutError):
            await request(timeout=aiohttp.ClientTimeout(total=0.2))
        await entered()

    cancelled_while_a_leg_blocks(mocker, cancel)


def test_wait_for_ends_a_request_while_a_leg_blocks(mocker):
    async def cancel(request, entered):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(request(), 0.2)
        await entered()

    cancelled_while_a_leg_blocks(mocker, cancel)


def test_cancelling_between_two_legs_closes_the_flow():
    with world(DRIVER, kerberos=False) as here:
        reached, let_go = threading.Event(), threading.Event()

        def behave(request, line):
            if not request.token:
                return Reply(401, [("WWW-Authenticate", "NTLM")])
            reached.set()
            assert let_go.wait(PATIENCE)
            return Reply(raw=b"")

        site = here.serve(behave)

        async def main():
            async with opened(site.origin, secur32=here.fake) as session:
                task = asyncio.ensure_future(session.get(site.url))
                await wait_in_thread(reached)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert session.connector._lent == {}
            here.fake.assert_clean()  # at once

        try:
            asyncio.run(main())
        finally:
            let_go.set()


def test_blocked_legs_hold_up_no_other_thread():
    with world(DRIVER) as here:
        site = here.serve(Acceptor())
        held = Held(here.fake, legs=45)

        async def main():
            async with opened(site.origin, secur32=held) as session:
                async def get():
                    async with session.get(site.url) as answer:
                        return await answer.read()

                tasks = [asyncio.ensure_future(get()) for _ in range(45)]
                assert await wait_in_thread(held.entered)
                loop = asyncio.get_running_loop()
                call = loop.run_in_executor(None, lambda: "free")
                assert await asyncio.wait_for(call, PATIENCE) == "free"
                held.go.set()
                assert await asyncio.gather(*tasks) == [THE_PAGE] * 45

        asyncio.run(main())


# -- Bodies --------------------------------------------------------------------


@PACKAGES
@pytest.mark.parametrize("kind", ["generator", "file", "multipart"])
def test_body_is_sent_whole_with_every_leg(kerberos, kind):
    with world(DRIVER, kerberos=kerberos) as here:
        site = here.serve(Acceptor())
        body = http_outcomes.Body(kind, b"x" * 30000)
        answer = here.open(site).ask("POST", site.url, body)
        assert answer.status == 200 and len(site.log) == (2 if kerberos else 3)
        bodies = {request.body for request in site.log}
        assert len(bodies) == 1 and body.content in bodies.pop()
        types = {request.headers["content-type"] for request in site.log}
        assert len(types) == 1


@PACKAGES
def test_form_with_a_generator_is_sent_whole_with_every_leg(kerberos):
    with world(DRIVER, kerberos=kerberos) as here:
        site = here.serve(Acceptor())
        client = here.open(site)
        content = http_outcomes.Body("generator", b"y" * 30000)

        async def post():
            form = aiohttp.FormData()
            form.add_field("file", pieces_of(content), filename="a.bin")
            async with client.session.post(site.url, data=form) as answer:
                return answer.status

        assert client.loop.run_until_complete(post()) == 200
        assert [content.content in r.body for r in site.log] == [True] * len(site.log)


# -- Many at once --------------------------------------------------------------


@PACKAGES
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("limit", [100, 5])
def test_96_requests_on_16_tasks_all_succeed(kerberos, stream, limit):
    with world(DRIVER, kerberos=kerberos) as here:
        site = here.serve(Acceptor(per_request=kerberos))
        answers = here.open(site, limit=limit).many([site.url] * 96, 16, stream)
        assert [getattr(a, "body", a) for a in answers] == [THE_PAGE] * 96
        assert site.connections <= min(16, limit)


def test_answer_that_is_read_slowly_blocks_nobody():
    with world(DRIVER, kerberos=False) as here:
        site = here.serve(Acceptor(last=Reply(200, body=b"long" * 500000)))

        async def main():
            async with opened(site.origin, secur32=here.fake) as session:
                async with session.get(site.url) as slow:
                    for _ in range(5):
                        async with session.get(site.url) as answer:
                            assert len(await answer.read()) == 2000000
                    assert len(await slow.read()) == 2000000

        asyncio.run(main())
        assert site.connections == 2


# -- Sessions, their loops and their ends --------------------------------------


def test_connector_made_outside_of_a_loop_says_where_it_belongs():
    with world(DRIVER) as here, pytest.raises(RuntimeError, match="coroutine"):
        aiohttp_auth.SspiConnector("https://localhost", secur32=here.fake)
    gc.collect()


def test_connector_serves_two_sessions():
    with world(DRIVER, kerberos=False) as here:
        site = here.serve(Acceptor())

        async def main():
            sspi = aiohttp_auth.SspiConnector(site.origin, secur32=here.fake)
            for _ in range(2):
                async with aiohttp.ClientSession(
                        connector=sspi, middlewares=[sspi],
                        connector_owner=False) as session:
                    async with session.get(site.url) as answer:
                        assert await answer.read() == THE_PAGE
            await sspi.close()
            await sspi.close()  # late, and once more
            async with aiohttp.ClientSession(
                    connector=sspi, middlewares=[sspi]) as session:
                with pytest.raises((aiohttp.ClientError, RuntimeError)) as caught:
                    await session.get(site.url)
                assert "closed" in str(caught.value)

        asyncio.run(main())
        assert site.connections == 1


def test_closing_while_a_leg_blocks_is_an_error_of_aiohttp():
    with world(DRIVER, kerberos=False) as here:
        site = here.serve(Acceptor())
        held = Held(here.fake)

        async def main():
            async with opened(site.origin, secur32=held) as session:
                task = asyncio.ensure_future(session.get(site.url))
                await wait_in_thread(held.entered)
                await session.close()
                held.go.set()
                with pytest.raises((aiohttp.ClientError, RuntimeError)):
                    await task

        asyncio.run(main())


def test_half_of_the_pair_is_told_of_the_other():
    with world(DRIVER) as here:
        site = here.serve(Acceptor())

        async def main():
            sspi = aiohttp_auth.SspiConnector(site.origin, secur32=here.fake)
            async with aiohttp.ClientSession(connector=sspi) as session:
                with pytest.raises(RuntimeError, match=r"middlewares=\[sspi\]"):
                    await session.get(site.url)
                async with aiohttp.ClientSession(middlewares=[sspi]) as other:
                    with pytest.raises(RuntimeError, match="connector=sspi"):
                        await other.get(site.url)

        asyncio.run(main())


# -- Errors --------------------------------------------------------------------


def test_wrong_password_costs_one_logon_and_is_a_client_error():
    with world(DRIVER, kerberos=False) as here:
        site = here.serve(Acceptor())
        who = sspi_client.Identity("CORP\\alice", "Hunter2!")
        with pytest.raises(aiohttp.ClientError) as caught:
            here.open(site, identity=who).ask("GET", site.url)
        assert isinstance(caught.value, aiohttp_auth.LogonError)
        retried = (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)
        assert not isinstance(caught.value, retried)
        assert isinstance(caught.value.__cause__, SspiError)
        assert caught.value.__cause__.name == "SEC_E_LOGON_DENIED"
        assert len(site.tokens()) == 2 and "Hunter2" not in str(caught.value)


@pytest.mark.parametrize("goodbye", [
    Reply(401, [("Connection", "close")], b"bye"), Reply(401, version="1.0"),
    Reply(401, [("connection", "CLOSE")]), Reply(401, close=True)],
    ids=["close", "HTTP/1.0", "CLOSE", "silent"])
def test_connection_that_closes_in_mid_logon_is_no_refusal(goodbye):
    with world(DRIVER, kerberos=False) as here:
        site = here.serve(Acceptor(leg=goodbye))
        with pytest.raises(aiohttp.ClientConnectionError, match="middle") as caught:
            here.open(site).ask("GET", site.url)
        assert not isinstance(caught.value, aiohttp_auth.LogonError)
        assert len(site.tokens()) == 1  # and aiohttp has not tried again


def test_require_is_judged_by_connection():
    """IIS asks once a connection; a new connection has proven nothing."""
    with world(DRIVER) as here:
        site = here.serve(Acceptor())
        client = here.open(site, require=MUTUAL)
        for _ in range(3):
            assert client.ask("GET", site.url).body == THE_PAGE
        assert len(site.log) == 4 and site.connections == 1
        site.behave = http_outcomes.plain(Reply(200, [("Connection", "close")], b"?"))
        assert client.ask("GET", site.url).body == b"?"  # proven by the connection
        with pytest.raises(aiohttp_auth.LogonError, match="SEC_E_MUTUAL_AUTH_FAILED"):
            client.ask("GET", site.url)


def test_proxy_that_wants_a_logon_is_told_of_by_the_forwarders_name():
    with world(DRIVER) as here:
        asks = Reply(407, [("Proxy-Authenticate", "Negotiate")], b"no")
        proxy = here.serve(http_outcomes.plain(asks))
        site = here.serve(Acceptor(), tls=True)
        client = here.open(site, proxy=proxy.origin)
        with pytest.raises(aiohttp.ClientHttpProxyError, match="proxy_forward"):
            client.ask("GET", site.url)


@pytest.mark.parametrize("origins, wrong, error", [
    (["https://a.test"], {"identity": "alice"}, TypeError),
    (["https://a.test"], {"package": "Digest"}, ValueError),
    (["https://a.test"], {"targets": "HTTP/x"}, TypeError),
    (["https://a.test"], {"package": "NTLM", "allow_ntlm": False}, ValueError),
    ([], {}, ValueError), (["a.test"], {}, ValueError), ([""], {}, ValueError),
    (["https://a.test/page"], {}, ValueError), (["ftp://a.test"], {}, ValueError),
    (["https://me@a.test"], {}, ValueError), ([5], {}, TypeError)], ids=str)
def test_wrong_argument_is_told_of_at_the_call(origins, wrong, error):
    async def make(fake):
        aiohttp_auth.SspiConnector(*origins, secur32=fake, **wrong)

    with world(DRIVER) as here, pytest.raises(error):
        asyncio.run(make(here.fake))


def test_mocked_handler_is_told_from_a_server(mocker):
    with world(DRIVER) as here:
        client = here.open("https://localhost")
        answer = mocker.Mock(status=401, headers=mocker.Mock(
            getall=lambda name, default: ["Negotiate"]))

        async def handler(request):
            return answer

        async def ask():
            request = aiohttp.ClientRequest(
                "GET", aiohttp_auth.URL("https://localhost/"), loop=client.loop,
                session=client.session)
            await client.sspi(request, handler)

        with pytest.raises(aiohttp_auth.LogonError, match="mocked"):
            client.loop.run_until_complete(ask())


@pytest.mark.parametrize("preemptive", [False, True])
def test_bindings_are_never_dropped_in_silence(preemptive, mocker):
    """As if something between us and the wire showed no certificate."""
    mocker.patch("ssl.SSLObject.getpeercert", return_value=None)
    with world(DRIVER, kerberos=False) as here:
        site = here.serve(Acceptor(), tls=True)
        client = here.open(site, preemptive=preemptive)
        with pytest.raises(aiohttp_auth.LogonError, match="bindings=False"):
            client.ask("GET", site.url)
        assert site.tokens() == []


def test_another_certificate_in_mid_logon_is_a_broken_connection(mocker):
    """The first 401 closes; the node that answers next has a certificate of its own."""
    real, seen = ssl.SSLObject.getpeercert, []

    def another(self, binary_form=False):
        certificate = real(self, binary_form)
        seen.extend([certificate] if binary_form else [])
        return b"another" if binary_form and len(seen) > 1 else certificate

    mocker.patch("ssl.SSLObject.getpeercert", another)
    with world(DRIVER, kerberos=False) as here:
        closes = Reply(401, [("Connection", "close")])
        site = here.serve(Acceptor(first=closes), tls=True)
        wrong = aiohttp.ClientConnectionError
        with pytest.raises(wrong, match="another certificate"):
            here.open(site).ask("GET", site.url)
        assert len(site.tokens()) == 1


# -- Who gets tokens -----------------------------------------------------------


@pytest.mark.parametrize("url, listed", [
    ("https://intranet.test/", True), ("https://INTRANET.test/x?y", True),
    ("https://intranet.test:443/", True), ("wss://intranet.test/", True),
    ("http://intranet.test/", False), ("https://intranet.test:8443/", False),
    ("https://other.test:8443/", True), ("https://other.test/", False),
    ("https://web.corp.test/", True), ("https://a.b.corp.test/", True),
    ("https://corp.test/", False), ("https://evilcorp.test/", False),
    ("https://web.corp.test.evil/", False)])
def test_origins_are_the_list_of_who_gets_tokens(url, listed):
    with world(DRIVER) as here:
        client = here.open(
            "https://Intranet.test", "https://other.test:8443", "https://.corp.test")
        assert client.sspi._gets_tokens(aiohttp_auth.URL(url)) is listed


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_preemptive_logon_takes_one_request_a_page(tls):
    with world(DRIVER) as here:
        site = here.serve(Acceptor(per_request=True), tls=tls)
        client = here.open(site, preemptive=True, package="Kerberos")
        for _ in range(10):
            assert client.ask("GET", site.url).body == THE_PAGE
        assert len(site.log) == 10


def test_kept_context_lives_as_long_as_its_connection():
    with world(DRIVER, kerberos=False) as here:
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
    with world(DRIVER) as here:
        site = here.serve(Acceptor())
        assert aiohttp_auth.main([site.url, "--mutual"], here.fake) is None
        assert capsys.readouterr().out.strip().encode() == THE_PAGE.strip()


def test_command_takes_an_ipv6_literal(capsys):
    with world(DRIVER, kerberos=False) as here:
        site = here.serve(Acceptor(), address="::1", name="[::1]")
        assert aiohttp_auth.main([site.url], here.fake) is None
        assert capsys.readouterr().out.strip().encode() == THE_PAGE.strip()


def test_command_says_in_one_line_what_went_wrong(mocker):
    mocker.patch("getpass.getpass", return_value="Hunter2!")
    with world(DRIVER, kerberos=False) as here:
        site = here.serve(Acceptor())
        line = aiohttp_auth.main([site.url, "--user", "CORP\\bob"], here.fake)
        assert line.startswith("aiohttp_auth: ") and "\n" not in line
        assert "SEC_E_LOGON_DENIED" in line and "Hunter2" not in line
        gc.collect()


def test_command_has_help_for_every_option(capsys):
    with pytest.raises(SystemExit):
        aiohttp_auth.main(["--help"])
    told = capsys.readouterr().out
    for option in ("url", "--user", "--package", "--no-ntlm", "--mutual"):
        assert option in told
