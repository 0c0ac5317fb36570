r"""One table of outcomes for all HTTP adapters, so that they cannot drift apart.

A case is a server's behaviour on loopback, what is asked of it, and the outcome, in
words that no library owns:

    PAGE        the page of whoever logged on, whole
    REFUSED     the library's own error, whose __cause__ is an SspiError; nothing that
                a retry of the library catches
    BROKEN      the library's own error for a connection that broke
    a number    the answer with this status, as the server gave it: nothing is raised

A test file has a driver for its adapter, and feeds it:

    @pytest.mark.parametrize("case", http_outcomes.cases(DRIVER), ids=str)
    def test_outcome(case):
        case.play(DRIVER)

The driver
    .name       str
    .can        a set of the words below: what the library has. A case that needs what
                the library has not is not made.
    .open(origins, *, retries=0, proxy=None, **sspi) -> client
                *origins*: who gets tokens, such as ["http://localhost:8080"]. Other
                URLs are asked without. *sspi*: http_authenticate()'s keywords by name
                (identity, target, package, flags, require, allow_ntlm, credential,
                secur32) and the adapters' own: preemptive=True, bindings=False,
                keep_context=True. *retries*: how often the library itself tries again
                when a connection breaks or 503 is answered. *proxy*: a URL. https
                trusts PEM. Follows redirects, and waits at most PATIENCE for a byte.
    .kind(error) -> "refused", "broken" or "other"
                what it is for a user of the library; looks at its type alone
The client
    .ask(method, url, body=None, headers=None, stream=False) -> Answer
                *body*: bytes or a Body. *stream*: read by pieces, where the library
                can. Raises what the library raises. Called from one thread.
    .many(urls, workers, stream) -> [Answer or the exception, one for each URL]
                GET, *workers* at a time: threads, or tasks
    .cookies() -> {name: value} of the session
    .context(answer) -> the Context that was kept for it, see keep_context
    .close()    every connection is closed when it returns

What a library may lack (`can`):
    "keep-alive"    a connection serves many requests
    "redirects"     it follows them
    "cookies"       there is a session that keeps them
    "retries"       it retries by itself
    "threads"       many() exists
    "proxy"         proxy= is served
    "context"       keep_context= and context()
    "multipart"     Body("multipart", ...)
    "generator"     Body("generator", ...)
    "file"          Body("file", ...)
    "any host"      names are resolved with socket.getaddrinfo
"""

import base64
import contextlib
import gc
import os
import re
import socket
import ssl
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

import sspi_client
from sspi_client import ISC_RET, FakeDomain, FakeSecur32, FakeServer, SspiError

PEM = Path(__file__).resolve().parent / "data" / "localhost.pem"
CERTIFICATE = ssl.PEM_cert_to_DER_cert(
    re.search("-+BEGIN CERT.*END CERTIFICATE-+", PEM.read_text(), re.DOTALL).group()
)
BOUND = sspi_client.tls_server_end_point(CERTIFICATE)
MUTUAL = ISC_RET.MUTUAL_AUTH

PAGE, REFUSED, BROKEN = "the page", "refused", "broken"
THE_PAGE = b"the page of somebody we know\n"
PATIENCE = 15  # [s] the longest that anything here may wait; nothing comes near it

Headers = List[Tuple[str, str]]


class Answer(NamedTuple):
    """What a driver makes of its library's answer; *headers* in lower case."""

    status: int
    headers: Dict[str, str]
    body: bytes
    url: str
    raw: Any = None  # the library's own answer


class Body(NamedTuple):
    """A body that is no bytes.

    "generator": yields the content in pieces (an async generator, where only that is
    streamed). "file": a file at an offset, behind which the content is. "multipart":
    a form with the content as a file named a.bin.
    """

    kind: str
    content: bytes

    def pieces(self):
        return [self.content[i : i + 7000] for i in range(0, len(self.content), 7000)]


def open_at_offset(body):
    """Return the file of Body("file", ...), for the driver to close."""
    file = tempfile.TemporaryFile()
    file.write(b"not this" + body.content)
    file.seek(8)
    return file


def in_threads(ask, urls, workers, stream):
    """A many() for libraries that are used from threads."""

    def one(url):
        try:
            return ask("GET", url, stream=stream)
        except Exception as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, urls))


# -- The server ----------------------------------------------------------------


class Request:
    """One request as it came over the wire."""

    def __init__(self, line, headers, body, connection):
        self.method, self.path = line.split(" ")[:2]
        self.headers, self.body, self.connection = headers, body, connection
        name = "proxy-authorization" if self.method == "CONNECT" else "authorization"
        self.scheme, _, word = headers.get(name, "").partition(" ")
        self.token = b""
        if self.scheme in ("Negotiate", "NTLM"):
            self.token = base64.b64decode(word, validate=True)

    def __repr__(self):
        kind = sspi_client.mechanism(self.token) if self.token else self.scheme
        return f"<{self.connection}: {self.method} {self.path} {kind}>"


class Reply(NamedTuple):
    """What a server says. *raw* stands for everything; b"" hangs up in silence."""

    status: int = 200
    headers: Headers = []
    body: bytes = b""
    version: str = "1.1"
    raw: Optional[bytes] = None
    close: bool = False  # after the answer, whatever the headers say

    def octets(self, method):
        if self.raw is not None:
            return self.raw
        headers, names = list(self.headers), [name.lower() for name, _ in self.headers]
        if not {"content-length", "transfer-encoding"} & set(names):
            if self.status not in (204, 304):
                headers.append(("Content-Length", str(len(self.body))))
        lines = [f"HTTP/{self.version} {self.status} As You Like"]
        lines += [f"{name}: {value}" for name, value in headers]
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        return head if method == "HEAD" else head + self.body

    def hangs_up(self):
        connection = [v.lower() for n, v in self.headers if n == "Connection"]
        return (
            self.close
            or (self.raw is not None)
            or any("close" in value for value in connection)
            or (self.version == "1.0" and "keep-alive" not in connection)
        )


class Line:
    """What a server knows of one connection."""

    def __init__(self, number, peer):
        self.number, self.new_peer = number, peer
        self.peer, self.user, self.package, self.served = peer(), "", "", 0

    def forget(self):
        self.peer, self.user = self.new_peer(), ""


class Site:
    """A server: behave(request, line) -> Reply. Every connection has its thread."""

    def __init__(self, domain, behave, *, tls=False, address="127.0.0.1", name=None):
        self.domain, self.behave = domain, behave
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.listener = socket.create_server((address, 0), family=family, backlog=200)
        self.port = self.listener.getsockname()[1]
        self.scheme, self.tls = "https" if tls else "http", None
        if tls:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(str(PEM))
        self.origin = f"{self.scheme}://{name or 'localhost'}:{self.port}"
        self.url = self.origin + "/page?a=b"
        self.log: List[Request] = []
        self.users: List[str] = []  # package, user and SPN of every logon
        self.faults: List[BaseException] = []
        self.connections = self.open = 0
        self.lock, self.threads = threading.Lock(), []
        self.spawn(self.listen)

    def spawn(self, function, *arguments):
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()

    def listen(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.spawn(self.serve, connection, self.connections)

    def serve(self, connection, number):
        with self.lock:
            self.open += 1
        try:
            connection.settimeout(PATIENCE * 2)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            line = Line(number, self.peer)
            with connection.makefile("rb") as stream:
                self.talk(connection, stream, line)
        except (OSError, ValueError) as problem:
            # A client may hang up at any time; but it may not be forgotten.
            if isinstance(problem, socket.timeout):
                self.faults.append(problem)
        except BaseException as fault:
            self.faults.append(fault)
        finally:
            self.hang_up(connection)
            with self.lock:
                self.open -= 1

    def talk(self, connection, stream, line):
        while True:
            request = self.read(stream, line.number)
            if request is None:
                return
            with self.lock:
                self.log.append(request)
            reply = self.behave(request, line)
            line.served += 1
            if callable(reply):  # it does as it likes with the socket
                return reply(connection, stream)
            connection.sendall(reply.octets(request.method))
            if reply.hangs_up():
                return

    def read(self, stream, number):
        first = stream.readline().decode("latin-1").strip()
        if not first:
            return None
        headers: Dict[str, str] = {}
        for octets in iter(stream.readline, b"\r\n"):
            if not octets:
                return None
            name, _, value = octets.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        request = Request(first, headers, b"", number)
        if self.behave_early(request):
            return request
        if headers.get("transfer-encoding", "").lower() == "chunked":
            request.body = b"".join(iter(lambda: read_chunk(stream), b""))
        else:
            request.body = stream.read(int(headers.get("content-length", 0)))
        return request

    def behave_early(self, request):
        """Whether to answer before the body is read."""
        return getattr(self.behave, "early", False) and not request.token

    def peer(self):
        return FakeServer(self.domain, BOUND if self.tls else None)

    @staticmethod
    def hang_up(connection):
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(2)
            while connection.recv(65536):  # or the client's kernel drops our answer
                pass
        connection.close()

    def close(self):
        """Every client must have closed its connections."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        deadline = time.monotonic() + PATIENCE
        for thread in list(self.threads):
            thread.join(max(0.0, deadline - time.monotonic()))
        assert self.open == 0, f"{self.open} connections were left open"
        assert self.faults == []

    # What happened, in words.

    def legs(self):
        """Return the kind of token of each request, "" for none."""
        return [sspi_client.mechanism(r.token) if r.token else "" for r in self.log]

    def tokens(self):
        return [r.token for r in self.log if r.token]


def read_chunk(stream):
    size = int(stream.readline().strip() or b"0", 16)
    octets = stream.read(size)
    stream.readline()
    return octets


class Acceptor:
    """A server that wants a logon, with its habits as attributes.

    offers: the values of WWW-Authenticate on a first 401
    form: how a reply is written: a function of the header's value, to the values
    first, leg, last: Replies whose status, headers (more of them), body, version,
        raw and close are taken for the first 401, a leg's 401, the page
    per_request: every request logs on (Apache's Kerberos), else the connection
    expires: after so many requests a logged-on connection is asked again
    """

    def __init__(self, **habits):
        self.offers = ["Negotiate"]
        self.form = lambda value: [value]
        self.first = self.leg = Reply(401, body=b"who are you? " * 300)
        self.last = Reply(200, body=THE_PAGE)
        self.per_request, self.expires, self.early = False, 0, False
        self.spoil = lambda reply: reply
        self.silent = False  # no token comes with the page
        self.last_offers = []  # what the page itself carries besides
        for name, habit in habits.items():
            assert hasattr(self, name), name
            setattr(self, name, habit)
        self.site = None

    def __call__(self, request, line):
        if not request.token:
            expired = self.expires and line.served >= self.expires
            if line.user and not expired and not self.per_request:
                return self.page(request, line, [])
            line.forget()
            return self.first._replace(
                headers=authenticate(self.offers) + self.first.headers
            )
        if line.peer.complete or line.user:
            line.forget()
        try:
            reply = line.peer.accept(request.token)
        except SspiError:
            line.forget()
            return self.leg._replace(headers=authenticate(self.offers))
        value = request.scheme
        if reply:
            value += " " + base64.b64encode(self.spoil(reply)).decode()
        if not line.peer.complete:
            headers = authenticate(self.form(value)) + self.leg.headers
            return self.leg._replace(headers=headers)
        line.user, line.package, line.served = line.peer.user, line.peer.package, 0
        who = f"{line.package} {line.user} {line.peer.target}"
        self.site.users.append(who)
        shown = self.form(value) if reply and not self.silent else self.last_offers
        return self.page(request, line, authenticate(shown))

    def page(self, request, line, headers):
        body = self.last.body + (request.body if request.method != "GET" else b"")
        headers = headers + self.last.headers + [("X-User", line.user)]
        if self.last.status in (204, 304):
            body = b""
        return self.last._replace(headers=headers, body=body)


def authenticate(values):
    return [("WWW-Authenticate", value) for value in values]


def plain(reply):
    """Return a server that wants no logon."""
    return lambda request, line: reply


# -- The world -----------------------------------------------------------------


class World:
    """A domain, a machine on which alice is logged on, and what a case opens."""

    def __init__(self, driver, kerberos=True, services=()):
        users = {"alice": "Secret123!", "bob": "Pä55wörd€"}
        services = list(services) or (["HTTP/localhost"] if kerberos else [])
        self.driver = driver
        self.domain = FakeDomain("CORP", users, services)
        self.fake = FakeSecur32(self.domain, logon="alice")
        self.clients, self.sites = [], []

    def serve(self, behave, **how):
        site = Site(self.domain, behave, **how)
        if isinstance(behave, Acceptor):
            behave.site = site
        self.sites.append(site)
        return site

    def open(self, *origins, **how):
        how.setdefault("secur32", self.fake)
        client = self.driver.open([getattr(o, "origin", o) for o in origins], **how)
        self.clients.append(client)
        return client

    def outcome(self, client, method, url, *arguments, **options):
        """Ask, and return (the outcome's word, the Answer or the error)."""
        try:
            answer = client.ask(method, url, *arguments, **options)
        except AssertionError:
            raise
        except Exception as error:
            return self.kind(error), error
        if answer.status == 200:
            return PAGE, answer
        return answer.status, answer

    def kind(self, error):
        """Return the word for an error. A refusal has an SspiError as its cause."""
        kind = self.driver.kind(error)
        if kind == "refused":
            assert isinstance(error.__cause__, SspiError), repr(error.__cause__)
            assert error.__cause__.name in str(error), str(error)
        if kind == "other":
            raise AssertionError(f"not an error of the library: {error!r}") from error
        return kind

    def close(self):
        for client in self.clients:
            client.close()
        gc.collect()
        for site in self.sites:
            site.close()
        self.fake.assert_clean()


@contextlib.contextmanager
def world(driver, **how):
    """A World whose end is judged: sockets closed, ledger clean. No proxies."""
    names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    names += tuple(name.upper() for name in names)
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    trust = {n: os.environ.get(n) for n in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")}
    os.environ.update({name: str(PEM) for name in trust})
    made = World(driver, **how)
    try:
        yield made
        made.close()
    except BaseException:
        with contextlib.suppress(Exception):
            made.close()
        raise
    finally:
        os.environ.update(kept)
        for name, value in trust.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def every_name_is_here():
    """Let names that end in .test mean loopback."""
    real = socket.getaddrinfo

    def getaddrinfo(host, *arguments, **options):
        name = host.decode() if isinstance(host, bytes) else host or ""
        known = name.lower().rstrip(".").endswith(".test")
        return real("127.0.0.1" if known else host, *arguments, **options)

    socket.getaddrinfo = getaddrinfo
    try:
        yield
    finally:
        socket.getaddrinfo = real


# -- Cases ---------------------------------------------------------------------


class Case:
    """A row of the table, or a scenario: a function of (driver)."""

    def __init__(self, name, play, needs=()):
        self.name, self.play, self.needs = name, play, frozenset(needs)

    def __str__(self):
        return self.name


class Row(NamedTuple):
    """One server, one or more requests, one outcome for all of them.

    habits: of the Acceptor, or a function that behaves by itself
    sspi: keywords of the adapter
    asks: (method, body, headers) of each request
    want: the outcome's word, of the last request; those before must give PAGE
    name, says: of the SspiError, and a part of the message
    trips: how many requests the server sees, where that is the point
    connections: likewise
    also: a function of (world, site, the Answer or the error) for what is left
    """

    title: str
    habits: Any = None
    want: Union[str, int] = PAGE
    kerberos: Optional[bool] = None  # None: both are played
    tls: Optional[bool] = False  # None: both
    sspi: Dict[str, Any] = {}
    asks: Tuple[Any, ...] = (("GET", None, None),)
    name: str = ""
    says: str = ""
    trips: Any = None
    connections: Any = None
    needs: Tuple[str, ...] = ()
    also: Optional[Callable[..., None]] = None

    def cases(self):
        for kerberos in (True, False) if self.kerberos is None else (self.kerberos,):
            for tls in (False, True) if self.tls is None else (self.tls,):
                words = [self.title]
                words += ["Kerberos" if kerberos else "NTLM"] * (self.kerberos is None)
                words += ["https" if tls else "http"] * (self.tls is None)
                yield Case(", ".join(words), self.player(kerberos, tls), self.needs)

    def player(self, kerberos, tls):
        return lambda driver: self.play(driver, kerberos, tls)

    def play(self, driver, kerberos, tls):
        with world(driver, kerberos=kerberos) as here:
            made = self.habits() if callable(self.habits) else self.habits
            behave = Acceptor(**made) if isinstance(made, dict) else made
            site = here.serve(behave or Acceptor(), tls=tls)
            client = here.open(site, **self.sspi)
            for number, (method, body, headers) in enumerate(self.asks, 1):
                word, result = here.outcome(client, method, site.url, body, headers)
                if number < len(self.asks):
                    assert word == PAGE, result
            self.judge(here, site, kerberos, word, result, (method, body))

    def judge(self, here, site, kerberos, word, result, asked):
        assert word == self.want, (result, site.log)
        method, body = asked
        if word == PAGE and isinstance(site.behave, Acceptor):
            sent = getattr(body, "content", body) or b""
            if method == "HEAD":
                assert result.body == b""
            elif getattr(body, "kind", "") != "multipart":
                assert result.body == site.behave.last.body + sent
            else:
                assert sent in result.body
        if self.name:
            assert result.__cause__.name == self.name, str(result)
        assert self.says in str(result) or word == PAGE
        for wanted, seen in (
            (self.trips, len(site.log)),
            (self.connections, site.connections),
        ):
            if isinstance(wanted, dict):
                wanted = wanted["Kerberos" if kerberos else "NTLM"]
            assert wanted is None or wanted == seen, site.log
        if self.also:
            self.also(here, site, result)


def cases(driver):
    """Return the cases for *driver*: those that its library has all for."""
    return [case for case in CASES if case.needs <= set(driver.can)]


LEGS = {"Kerberos": 2, "NTLM": 3}  # requests of a page: the 401, and one for each leg


def behind(suffix):
    return lambda value: [value + suffix]


def no_calls(here, site, result):
    assert here.fake.calls == []


def nothing_sent(here, site, result):
    assert site.tokens() == []


def ntlm_alone(here, site, result):
    assert {r.scheme for r in site.log if r.token} == {"NTLM"}


DIGEST = 'Digest realm="a, NTLM b, Negotiate", qop="auth", nonce="1\\", NTLM"'

HEADERS = [
    Row("a page behind a logon", tls=None, trips=LEGS, connections=1),
    Row(
        "the scheme is repeated behind the token",
        {"offers": ["Negotiate,NTLM"], "form": behind(",Negotiate,NTLM")},
        trips=LEGS,
    ),
    Row(
        "the schemes are repeated in lines behind the token",
        {"form": lambda value: [value, "Negotiate", "NTLM"]},
        trips=LEGS,
    ),
    Row(
        "the schemes are repeated in lines before the token",
        {"form": lambda value: ["NTLM", "Negotiate", value]},
        trips=LEGS,
    ),
    Row("the scheme is NEGOTIATE", {"offers": ["NEGOTIATE"], "form": lambda v: [
        v.replace("Negotiate", "NEGOTIATE")]}, trips=LEGS),
    Row("the scheme is negotiate", {"offers": ["negotiate"], "form": lambda v: [
        v.replace("Negotiate", "negotiate")]}, trips=LEGS),
    Row("two blanks before the token", {"form": lambda v: [v.replace(" ", "  ")]}),
    Row("a tab before the token", {"form": lambda v: [v.replace(" ", "\t")]}),
    Row("a folded line", {"form": lambda v: [v.replace(" ", "\r\n  ")]}),
    Row("blanks behind the token", {"form": behind("   ")}),
    Row(
        "a Digest whose realm speaks of NTLM",
        {"offers": [DIGEST + ", Negotiate", 'Basic realm="NTLM"']},
        trips=LEGS,
    ),
    Row("NTLM alone is offered", {"offers": ["NTLM"]}, kerberos=False, trips=3,
        also=ntlm_alone),
    Row("nTlM alone is offered", {"offers": ["nTlM"]}, kerberos=False, trips=3),
    Row("Basic and NTLM in one line", {"offers": ["Basic realm=x,  NTLM"]},
        kerberos=False, trips=3, also=ntlm_alone),
]  # fmt: skip

SOMETHING = [("WWW-Authenticate", 'Basic realm="x"')]

NOT_OURS = [
    Row("401 that offers Basic alone", lambda: plain(Reply(401, SOMETHING, b"no")), 401,
        also=no_calls, kerberos=True),
    Row("401 that offers nothing", lambda: plain(Reply(401, [], b"no")), 401,
        also=no_calls, kerberos=True),
    Row("a page for anybody", lambda: plain(Reply(200, [], THE_PAGE)),
        also=no_calls, kerberos=True),
    Row("403", lambda: plain(Reply(403, [], b"no")), 403, also=no_calls, kerberos=True),
    Row("500", lambda: plain(Reply(500, [], b"no")), 500, also=no_calls, kerberos=True),
    Row("403 behind a logon", {"last": Reply(403, [], b"no")}, 403, trips=LEGS),
    Row("500 behind a logon", {"last": Reply(500, [], b"no")}, 500, trips=LEGS),
    Row(
        "a page for anybody, with proof required",
        lambda: plain(Reply(200, [], THE_PAGE)),
        REFUSED,
        kerberos=True,
        sspi={"require": MUTUAL},
        name="SEC_E_MUTUAL_AUTH_FAILED",
    ),
]  # fmt: skip

ROWS = HEADERS + NOT_OURS

SCENARIOS: List[Case] = []


def scenario(*needs):
    """Take a function of (driver) into the table; its name is the case's."""

    def take(function):
        name = function.__name__.replace("_", " ")
        SCENARIOS.append(Case(name, function, needs))
        return function

    return take


CASES = [case for row in ROWS for case in row.cases()] + SCENARIOS
