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
import gzip
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
from sspi_client import ISC_REQ, ISC_RET, FakeDomain, FakeSecur32, FakeServer, SspiError

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
        deadline = time.monotonic() + 5  # [s]
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

    def spent(self):
        """Return the tokens that must not come twice: NTLM's first is a constant."""
        return [t for t in self.tokens() if "NTLM NEG" not in sspi_client.mechanism(t)]


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
        self.site = self.line = None

    def __call__(self, request, line):
        self.line = line  # of the last request
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

class OnlyPlainNtlm(Acceptor):
    """Negotiate is Kerberos alone there, and its keytab is wrong; NTLM is served."""

    def __init__(self):
        super().__init__(offers=["Negotiate", "NTLM"])

    def __call__(self, request, line):
        if request.scheme == "Negotiate":
            return Reply(401, authenticate(self.offers))
        return super().__call__(request, line)


class EndlessFirst(Acceptor):
    """The page of the first 401 never ends."""

    def __call__(self, request, line):
        reply = super().__call__(request, line)
        if request.token:
            return reply

        def pour(connection, stream):
            headers = reply.headers + [("Transfer-Encoding", "chunked")]
            connection.sendall(reply._replace(headers=headers).octets("HEAD"))
            while True:  # until the client hangs up, which is an OSError here
                connection.sendall(b"1000\r\n" + b"?" * 0x1000 + b"\r\n")

        return pour


def for_ever(request, line):
    """Answer every token with the same challenge."""
    if not request.token:
        return Reply(401, authenticate(["Negotiate"]))
    if not line.user:
        line.user = base64.b64encode(line.peer.accept(request.token)).decode()
    return Reply(401, authenticate(["Negotiate " + line.user]))


def echo(request, line):
    word = base64.b64encode(request.token).decode()
    return Reply(401, authenticate([f"Negotiate {word}".strip()]))


def refuse(request, line):
    return Reply(401, authenticate(["Negotiate"]), b"no")


def refuse_and_close(request, line):
    closing = [("Connection", "close")] if request.token else []
    return Reply(401, authenticate(["Negotiate"]) + closing, b"no")


def proven_once(request, line):
    """Log the first connection on, and close it; serve others without."""
    if line.number > 1:
        return Reply(200, [], THE_PAGE)
    if not request.token:
        return Reply(401, authenticate(["Negotiate"]))
    word = base64.b64encode(line.peer.accept(request.token)).decode()
    headers = authenticate(["Negotiate " + word]) + [("Connection", "close")]
    return Reply(200, headers, THE_PAGE)


def at_most(bound, log):
    assert len(log) <= bound, log


def tells_no_secret(site, error):
    """Nothing that an error shows, and no frame of ours in it, holds a secret."""
    secrets = {b64 for t in site.tokens() for b64 in [base64.b64encode(t).decode()]}
    chain = [error, error.__cause__]
    for shown in (str(e) + repr(e) for e in chain):
        assert "mistyped" not in shown
        assert not any(secret in shown for secret in secrets)
    for link in chain:
        trace = link.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename.endswith("_auth.py"):
                for value in trace.tb_frame.f_locals.values():
                    text = value if isinstance(value, str) else ""
                    assert not any(secret in text for secret in secrets)
            trace = trace.tb_next


def body_on_every_leg(here, site, answer):
    """Every leg had the whole body; and no request has been cut short."""
    body = site.log[-1].body
    assert all(len(request.body) == len(body) for request in site.log), [
        len(request.body) for request in site.log
    ]


GET = ("GET", None, None)
CHUNKED = [("Transfer-Encoding", "chunked")]

REFUSALS = [
    Row(
        "a wrong password",
        None,
        REFUSED,
        kerberos=False,
        sspi={"identity": sspi_client.Identity("CORP\\alice", "mistyped")},
        name="SEC_E_LOGON_DENIED",
        says="password",
        trips=3,
        connections=1,
        also=lambda here, site, error: tells_no_secret(site, error),
    ),
    Row("NTLM alone is offered, and ruled out", {"offers": ["NTLM"]}, REFUSED,
        sspi={"allow_ntlm": False}, name="SEC_E_SECURITY_QOS_FAILED", trips=1,
        also=nothing_sent),
    Row("NTLM would be taken, and is ruled out", None, REFUSED, kerberos=False,
        sspi={"allow_ntlm": False}, trips=1, also=nothing_sent),
    Row("Negotiate is refused, NTLM is offered beside it",
        lambda: OnlyPlainNtlm(), REFUSED, kerberos=True, name="SEC_E_LOGON_DENIED",
        says="package=NTLM", trips=2),
    Row("the same with package=NTLM", lambda: OnlyPlainNtlm(), PAGE, kerberos=True,
        sspi={"package": "NTLM"}, trips=3, also=ntlm_alone),
    Row("a token that is not base64", {"form": lambda v: ["Negotiate !!!"]}, REFUSED,
        name="SEC_E_INVALID_TOKEN"),
    Row("a spoilt token", {"spoil": lambda t: t[:40] + b"\0\1\2\3" + t[44:]}, REFUSED),
    Row("a last token of zeros", {"spoil": lambda t: bytes(len(t))}, REFUSED,
        kerberos=True),
    Row("a server that asks for ever", lambda: for_ever, REFUSED, kerberos=False,
        also=lambda here, site, error: at_most(8, site.log)),
    Row("401 that repeats our token", lambda: echo, REFUSED, kerberos=False,
        trips=2),
    Row("bindings are demanded and left out", None, REFUSED, tls=True,
        sspi={"bindings": False}, name="SEC_E_LOGON_DENIED"),
]  # fmt: skip

PROOF = [
    Row("Kerberos proves the server", None, kerberos=True, sspi={"require": MUTUAL},
        tls=None, trips=2),
    Row("the proof is followed by schemes", {"form": behind(",Negotiate,NTLM")},
        kerberos=True, sspi={"require": MUTUAL}),
    Row("NTLM proves nothing", None, REFUSED, kerberos=False,
        sspi={"require": MUTUAL}, name="SEC_E_SECURITY_QOS_FAILED"),
    Row("a page without a proof", {"silent": True}, REFUSED, kerberos=True,
        sspi={"require": MUTUAL}, name="SEC_E_MUTUAL_AUTH_FAILED"),
    Row("a page without a proof, none required", {"silent": True}),
    Row("the connection was proven", {"per_request": False}, kerberos=True,
        sspi={"require": MUTUAL}, asks=(GET,) * 3, trips=4, connections=1,
        needs=("keep-alive",)),
    Row("every request is proven", {"per_request": True}, kerberos=True,
        sspi={"require": MUTUAL}, asks=(GET,) * 3, trips=6),
    Row("each new connection is judged anew", lambda: proven_once, REFUSED,
        kerberos=True, sspi={"require": MUTUAL}, asks=(GET,) * 2,
        name="SEC_E_MUTUAL_AUTH_FAILED"),
]  # fmt: skip

CLOSE = {
    "close": {"headers": [("Connection", "close")]},
    "Close": {"headers": [("Connection", "Close")]},
    "keep-alive, close": {"headers": [("Connection", "keep-alive, close")]},
    "close in a second line": {
        "headers": [("Connection", "keep-alive"), ("Connection", "close")]
    },
    "HTTP/1.0": {"version": "1.0"},
    "HTTP/1.0 with Keep-Alive, and closed": {
        "version": "1.0", "headers": [("Connection", "keep-alive")], "close": True
    },
    "in silence": {"close": True},
    "in the middle of the page": {
        "headers": [("Content-Length", "9999")], "close": True
    },
}  # fmt: skip
TOLD = [word for word in CLOSE if word not in (
    "in silence", "HTTP/1.0 with Keep-Alive, and closed")]  # fmt: skip

CONNECTIONS = [
    Row(f"the first 401 closes: {word}",
        {"first": Reply(401, body=b"who?", **CLOSE[word])}, tls=None, trips=LEGS,
        connections=2)
    for word in TOLD
] + [
    Row(f"a leg's 401 closes: {word}",
        {"leg": Reply(401, body=b"go on", **how)}, BROKEN, kerberos=False, tls=None,
        trips=2)
    for word, how in CLOSE.items()
] + [
    Row("a leg gets no answer", {"leg": Reply(raw=b"")}, BROKEN, kerberos=False),
    Row("a leg gets half an answer", {"leg": Reply(raw=b"HTTP/1.1 40")}, BROKEN,
        kerberos=False),
    Row("a refusal closes", lambda: refuse_and_close, REFUSED, trips=2,
        name="SEC_E_LOGON_DENIED"),
    Row("the page closes", {"last": Reply(200, [("Connection", "close")], THE_PAGE)},
        asks=(GET,) * 2, connections=2),
    Row("ten requests", None, asks=(GET,) * 10, kerberos=False, trips=12,
        connections=1, needs=("keep-alive",)),
    Row("ten requests, each with a logon", {"per_request": True}, kerberos=True,
        asks=(GET,) * 10, trips=20),
    Row("ten requests, unasked tokens", {"per_request": True}, kerberos=True,
        asks=(GET,) * 10, trips=10, sspi={"preemptive": True}),
    Row("unasked tokens over https", {"per_request": True}, kerberos=True, tls=True,
        asks=(GET,) * 3, trips=3, sspi={"preemptive": True}),
    Row("an unasked token, refused", lambda: refuse, REFUSED, kerberos=True,
        sspi={"preemptive": True}, trips=1),
    Row("unasked tokens of NTLM", None, kerberos=False, asks=(GET,) * 3,
        sspi={"preemptive": True}, trips=4, needs=("keep-alive",)),
    Row("unasked tokens of package NTLM", {"offers": ["NTLM"]}, kerberos=False,
        sspi={"preemptive": True, "package": "NTLM"}, trips=2),
    Row("a session that expires", {"expires": 2}, asks=(GET,) * 6),
]  # fmt: skip

LONG = b"0123456789abcdef" * 5000
BODIES = [
    Row(f"a body of kind {getattr(body, 'kind', 'bytes')}",
        None, asks=(("POST", body, None),), also=body_on_every_leg,
        needs=needs, tls=False)
    for body, needs in (
        (LONG, ()), (b"", ()),
        (Body("file", LONG), ("file",)), (Body("generator", LONG), ("generator",)),
        (Body("multipart", LONG), ("multipart",)),
    )
] + [
    Row(f"the first 401 closes upon a body of kind {getattr(body, 'kind', 'bytes')}",
        {"first": Reply(401, [("Connection", "close")])}, asks=(("PUT", body, None),),
        needs=needs, also=body_on_every_leg)
    for body, needs in (
        (LONG, ()), (Body("file", LONG), ("file",)),
        (Body("generator", LONG), ("generator",)),
    )
] + [
    Row("a long body that a server hangs up on",
        {"early": True, "first": Reply(401, [("Connection", "close")])},
        asks=(("POST", LONG * 40, None),)),
]  # fmt: skip

GZIP = [("Content-Encoding", "gzip")]
PAGES = [
    Row(f"a 401 with {what}", {"first": Reply(401, headers, page),
        "leg": Reply(401, headers, page)}, trips=LEGS, connections=1)
    for what, headers, page in (
        ("no page", [], b""),
        ("a compressed page", GZIP, gzip.compress(b"who are you?")),
        ("a page that only claims to be compressed", GZIP, b"who are you?"),
        ("a chunked page", CHUNKED, b"5\r\nwho a\r\n7\r\nre you?\r\n0\r\n\r\n"),
        ("half a megabyte", [], b"?" * (1 << 19)),
    )
] + [
    Row("a first 401 with ten megabytes", {"first": Reply(401, [], b"?" * 10_000_000)},
        also=lambda here, site, answer: at_most(LEGS["NTLM"] + 1, site.log)),
    Row("a first 401 without end", lambda: EndlessFirst()),
    Row("a first 401 with broken chunks", {
        "first": Reply(401, CHUNKED, b"5\r\nwho a\r\nzz\r\n", close=True)}),
    Row("HEAD", None, asks=(("HEAD", None, None),), trips=LEGS),
    Row("HEAD, the first 401 closes", {
        "first": Reply(401, [("Connection", "close")], b"who?")},
        asks=(("HEAD", None, None),), tls=None),
    Row("204", {"last": Reply(204)}, 204, trips=LEGS),
    Row("OPTIONS", None, asks=(("OPTIONS", None, None),), trips=LEGS),
]  # fmt: skip

ROWS = HEADERS + NOT_OURS + REFUSALS + PROOF + CONNECTIONS + BODIES + PAGES

SCENARIOS: List[Case] = []


def scenario(*needs):
    """Take a function of (driver) into the table; its name is the case's."""

    def take(function):
        name = function.__name__.replace("_", " ")
        SCENARIOS.append(Case(name, function, needs))
        return function

    return take


# Redirects: they are the library's, and above the logon.


def moved(place):
    return plain(Reply(302, [("Location", place)]))


class Moves(Acceptor):
    """A page that has moved: to whom logged on, it says where."""

    def __init__(self, place):
        super().__init__()
        self.place = place

    def page(self, request, line, headers):
        if request.path == "/page?a=b":
            return Reply(302, headers + [("Location", self.place)])
        return super().page(request, line, headers)


@scenario("redirects")
def a_redirect_on_the_same_host(driver):
    for kerberos in (True, False):
        with world(driver, kerberos=kerberos) as here:
            site = here.serve(Moves("/elsewhere"))
            word, answer = here.outcome(here.open(site), "GET", site.url)
            assert (word, answer.body) == (PAGE, THE_PAGE)
            assert len(set(site.spent())) == len(site.spent()), "a token was replayed"


@scenario("redirects")
def a_redirect_to_another_listed_port_logs_on_there(driver):
    for kerberos in (True, False):
        with world(driver, kerberos=kerberos) as here:
            other = here.serve(Acceptor())
            site = here.serve(Moves(other.url))
            word, answer = here.outcome(here.open(site, other), "GET", site.url)
            assert (word, answer.body) == (PAGE, THE_PAGE)
            assert other.spent() and not set(site.spent()) & set(other.spent())


@scenario("redirects")
def a_redirect_to_an_unlisted_port_gets_no_token(driver):
    for tls in (False, True):
        with world(driver) as here:
            other = here.serve(Acceptor(), tls=tls)
            site = here.serve(Moves(other.url))
            word, answer = here.outcome(here.open(site), "GET", site.url)
            assert word == 401 and other.legs() == [""]
            assert "authorization" not in other.log[0].headers


@scenario("redirects")
def a_redirect_from_http_to_https_is_bound_there(driver):
    for kerberos in (True, False):
        with world(driver, kerberos=kerberos) as here:
            other = here.serve(Acceptor(), tls=True)
            site = here.serve(moved(other.url))
            word, answer = here.outcome(here.open(site, other), "GET", site.url)
            assert (word, answer.body) == (PAGE, THE_PAGE)
            assert site.tokens() == []


@scenario()
def a_host_that_is_not_listed_gets_no_token(driver):
    with world(driver) as here:
        site, listed = here.serve(Acceptor()), here.serve(Acceptor())
        word, answer = here.outcome(here.open(listed), "GET", site.url)
        assert word == 401 and site.tokens() == [] and here.fake.calls == []
        assert answer.body == site.behave.first.body


# Cookies.


class Pinned(Acceptor):
    """A load balancer: each leg must name the node that the first 401 chose."""

    def __init__(self):
        super().__init__(first=Reply(401, [("Set-Cookie", "node=n1; Path=/")]))

    def __call__(self, request, line):
        cookies = request.headers.get("cookie", "").split("; ")
        if request.token and "node=n1" not in cookies:
            return Reply(401, authenticate(self.offers), b"another node")
        return super().__call__(request, line)


@scenario()
def a_cookie_of_the_first_401_is_on_each_leg(driver):
    for kerberos in (True, False):
        with world(driver, kerberos=kerberos) as here:
            site = here.serve(Pinned())
            client = here.open(site)
            word, answer = here.outcome(client, "GET", site.url)
            assert word == PAGE, answer
            if "cookies" in driver.can:
                assert client.cookies() == {"node": "n1"}
            here.outcome(client, "GET", site.url)
            if "cookies" in driver.can:
                assert site.log[-1].headers["cookie"] == "node=n1"


@scenario()
def a_cookie_of_a_leg_stands_beside_the_callers(driver):
    with world(driver, kerberos=False) as here:
        set_it = [("Set-Cookie", "node=n2; Path=/"), ("Set-Cookie", "b=no; Path=/no")]
        site = here.serve(Acceptor(leg=Reply(401, set_it)))
        headers = {"Cookie": "mine=1; node=old"}
        word, _ = here.outcome(here.open(site), "GET", site.url, None, headers)
        assert word == PAGE
        sent = site.log[-1].headers["cookie"].split("; ")
        assert sorted(sent) == ["mine=1", "node=n2"]
        assert site.log[1].headers["cookie"] == "mine=1; node=old"


# Headers of the caller.


@scenario()
def the_callers_headers_are_on_each_leg(driver):
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor())
        headers = {"X-Mine": "yes", "User-Agent": "me/1", "Accept": "text/x"}
        word, _ = here.outcome(here.open(site), "GET", site.url, None, headers)
        assert word == PAGE
        for request in site.log:
            for name, value in headers.items():
                assert request.headers[name.lower()] == value


@scenario()
def the_callers_authorization_gives_way_to_ours(driver):
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor())
        headers = {"authorization": "Bearer mine"}
        word, _ = here.outcome(here.open(site), "GET", site.url, None, headers)
        assert word == PAGE and site.log[0].headers["authorization"] == "Bearer mine"
        assert len(site.tokens()) == 2


# Whom the SPN names.

NAMES = ["HTTP/intranet.test", "HTTP/xn--bcher-kva.test", "HTTP/other.test:5000"]


def spn_seen(driver, host, wanted, headers=None, **sspi):
    with every_name_is_here(), world(driver, services=NAMES) as here:
        site = here.serve(Acceptor(), name=host)
        client = here.open(site, **sspi)
        word, answer = here.outcome(client, "GET", site.url, None, headers)
        assert word == PAGE, answer
        assert site.users == [f"Kerberos CORP\\alice {wanted}"]
        return site.log[-1].headers["host"].partition(":")[0]


@scenario("any host")
def the_spn_names_the_host_in_lower_case(driver):
    spn_seen(driver, "IntraNet.Test", NAMES[0])


@scenario("any host")
def the_spn_is_without_the_last_dot(driver):
    spn_seen(driver, "intranet.test.", NAMES[0])


@scenario("any host")
def the_spn_of_an_idn_is_its_a_label(driver):
    assert spn_seen(driver, "bücher.test", NAMES[1]) == "xn--bcher-kva.test"


@scenario()
def the_host_header_names_the_spn(driver):
    spn_seen(driver, "localhost", NAMES[0], {"Host": "intranet.test"})
    spn_seen(driver, "localhost", NAMES[0], {"Host": "intranet.test:8080"})


@scenario()
def target_names_the_spn(driver):
    spn_seen(driver, "localhost", NAMES[2], target=NAMES[2])


@scenario()
def an_address_is_its_own_name(driver):
    for address, name in (("::1", "[::1]"), ("127.0.0.1", "127.0.0.1")):
        with world(driver, kerberos=False) as here:
            site = here.serve(Acceptor(), address=address, name=name)
            word, answer = here.outcome(here.open(site), "GET", site.url)
            assert word == PAGE, answer
            assert site.users == [f"NTLM CORP\\alice HTTP/{address}"]


# Who logs on.


@scenario()
def an_identity_is_who_logs_on(driver):
    who = sspi_client.Identity("CORP\\bob", "Pä55wörd€")
    for kerberos in (True, False):
        with world(driver, kerberos=kerberos) as here:
            site = here.serve(Acceptor())
            word, _ = here.outcome(here.open(site, identity=who), "GET", site.url)
            assert word == PAGE and "CORP\\bob" in site.users[0]


@scenario()
def two_users_share_no_connection(driver):
    bob = sspi_client.Identity("CORP\\bob", "Pä55wörd€")
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor())
        for client in (here.open(site), here.open(site, identity=bob)):
            assert here.outcome(client, "GET", site.url)[0] == PAGE
        assert site.connections == 2
        assert [user.split()[1] for user in site.users] == ["CORP\\alice", "CORP\\bob"]


@scenario()
def a_credential_serves_many_logons(driver):
    for kerberos in (True, False):
        with world(driver, kerberos=kerberos) as here:
            site = here.serve(Acceptor(per_request=True))
            with sspi_client.Credential(secur32=here.fake) as credential:
                client = here.open(site, credential=credential, secur32=None)
                for _ in range(3):
                    assert here.outcome(client, "GET", site.url)[0] == PAGE
                client.close()
            assert here.fake.calls.count("AcquireCredentialsHandleW") == 1


@scenario()
def a_wrong_keyword_is_an_error_at_once(driver):
    with world(driver) as here:
        for wrong, kind in (
            ({"package": "Basic"}, ValueError),
            ({"target": "https://x/"}, ValueError),
            ({"identity": "alice"}, TypeError),
            ({"require": "all"}, TypeError),
        ):
            try:
                here.open("http://localhost:1", **wrong)
            except kind:
                continue
            raise AssertionError(f"no {kind.__name__} for {wrong}")


@scenario("context")
def a_context_is_kept_to_wrap_what_comes(driver):
    for kerberos in (True, False):
        with world(driver, kerberos=kerberos) as here:
            site = here.serve(Acceptor())
            client = here.open(site, keep_context=True)
            flags = []
            for _ in range(2):
                word, answer = here.outcome(client, "GET", site.url)
                assert word == PAGE
                context = client.context(answer)
                flags.append(context.flags)
                peer = site.behave.line.peer
                assert peer.unwrap(context.wrap(b"sealed")) == b"sealed"
            assert len(site.users) == 1
            client.close()
            try:
                context.wrap(b"late")
            except Exception:
                continue
            raise AssertionError("the context outlived its connection")


@scenario()
def delegation_is_asked_for_by_flags_alone(driver):
    for flags, delegated in (
        (sspi_client.DEFAULT_FLAGS, False),
        (sspi_client.DEFAULT_FLAGS | ISC_REQ.DELEGATE, True),
    ):
        with world(driver) as here:
            asked, initialize = [], here.fake.InitializeSecurityContextW

            def initialize_and_tell(*arguments, asked=asked, initialize=initialize):
                asked.append(bool(arguments[3] & ISC_REQ.DELEGATE))
                return initialize(*arguments)

            here.fake.InitializeSecurityContextW = initialize_and_tell
            site = here.serve(Acceptor())
            client = here.open(site, flags=flags)
            assert here.outcome(client, "GET", site.url)[0] == PAGE
            assert asked and set(asked) == {delegated}


# Retries: the library's, above the logon.


@scenario("retries")
def retries_cost_one_logon_for_a_wrong_password(driver):
    who = sspi_client.Identity("CORP\\alice", "mistyped")
    for kerberos in (True, False):
        with world(driver, kerberos=kerberos) as here:
            site = here.serve(refuse if kerberos else Acceptor())
            client = here.open(site, identity=None if kerberos else who, retries=3)
            assert here.outcome(client, "GET", site.url)[0] == REFUSED
            assert len(site.log) == (2 if kerberos else 3)


class Busy(Acceptor):
    """The first logon ends in 503, the second in the page."""

    def page(self, request, line, headers):
        if len(self.site.users) == 1 and request.token:
            return Reply(503, headers, b"busy")
        return super().page(request, line, headers)


@scenario("retries")
def a_retry_after_503_is_a_whole_request(driver):
    for kerberos in (True, False):
        with world(driver, kerberos=kerberos) as here:
            site = here.serve(Busy(per_request=True))
            client = here.open(site, retries=2)
            word, answer = here.outcome(client, "GET", site.url)
            assert (word, answer.body) == (PAGE, THE_PAGE)
            assert len(site.users) == 2
            assert len(set(site.spent())) == len(site.spent()), "a token was replayed"


# Many at a time.


@scenario("threads")
def ninety_six_requests_sixteen_at_a_time(driver):
    for kerberos, per_request in ((True, True), (True, False), (False, False)):
        for stream in (False, True):
            with world(driver, kerberos=kerberos) as here:
                long = Reply(200, body=THE_PAGE * 3000)
                site = here.serve(Acceptor(per_request=per_request, last=long))
                client = here.open(site)
                results = client.many([site.url] * 96, 16, stream)
                wrong = [r for r in results if getattr(r, "body", r) != long.body]
                assert wrong == [], (len(wrong), wrong[0])


@scenario("threads")
def refusals_among_many_are_each_their_own(driver):
    who = sspi_client.Identity("CORP\\alice", "mistyped")
    with world(driver, kerberos=False) as here:
        site = here.serve(Acceptor())
        client = here.open(site, identity=who)
        results = client.many([site.url] * 8, 4, False)
        assert [here.kind(error) for error in results] == [REFUSED] * 8
        del results


# Proxies.


class Proxy:
    """Answers a CONNECT with *status*, or relays; forwards the rest to *site*."""

    def __init__(self, site, status=200):
        self.site, self.status, self.asked = site, status, []

    def __call__(self, request, line):
        self.asked.append(f"{request.method} {request.path}")
        if request.method != "CONNECT":
            return self.site.behave(request, line)
        if self.status != 200:
            offers = [("Proxy-Authenticate", "Negotiate"), ("Connection", "close")]
            return Reply(self.status, offers, b"who are you?")

        def relay(connection, stream):
            connection.sendall(b"HTTP/1.1 200 Go on\r\n\r\n")
            with socket.create_connection(("127.0.0.1", self.site.port)) as far:
                back = threading.Thread(target=pump, args=(far, connection))
                back.start()
                pump(connection, far)
                back.join()

        return relay


def pump(source, sink):
    with contextlib.suppress(OSError):
        for piece in iter(lambda: source.recv(65536), b""):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@scenario("proxy")
def a_tunnel_that_wants_a_logon_names_proxy_forward(driver):
    with world(driver) as here:
        site = here.serve(Acceptor(), tls=True)
        proxy = here.serve(Proxy(site, 407))
        client = here.open(site, proxy=proxy.origin)
        try:
            client.ask("GET", site.url)
        except AssertionError:
            raise
        except Exception as error:
            assert "proxy_forward" in str(error)
            assert driver.kind(error) != "other"
        else:
            raise AssertionError("nothing was raised")
        assert site.log == [] and here.fake.calls == []


@scenario("proxy")
def a_logon_goes_through_a_tunnel_and_is_bound_to_its_far_end(driver):
    for kerberos in (True, False):
        for habits in ({}, {"first": Reply(401, [("Connection", "close")])}):
            with world(driver, kerberos=kerberos) as here:
                site = here.serve(Acceptor(**habits), tls=True)
                proxy = here.serve(Proxy(site))
                client = here.open(site, proxy=proxy.origin)
                word, answer = here.outcome(client, "GET", site.url)
                assert word == PAGE, answer
                connect = f"CONNECT localhost:{site.port}"
                assert proxy.behave.asked == [connect] * (1 + bool(habits))


@scenario("proxy")
def a_logon_goes_over_a_proxy_that_forwards(driver):
    for kerberos in (True, False):
        with world(driver, kerberos=kerberos) as here:
            site = here.serve(Acceptor())
            proxy = here.serve(Proxy(site))
            client = here.open(site, proxy=proxy.origin)
            word, answer = here.outcome(client, "GET", site.url)
            assert word == PAGE, answer
            assert set(proxy.behave.asked) == {f"GET {site.url}"}
            assert site.users[0].endswith("HTTP/localhost")


# What is left.


@scenario()
def a_server_that_says_nothing_is_a_broken_connection(driver):
    with world(driver) as here:
        site = here.serve(lambda request, line: Reply(raw=b""))
        word, error = here.outcome(here.open(site), "GET", site.url)
        assert word == BROKEN, error


@scenario()
def a_long_page_is_read_by_pieces(driver):
    for kerberos in (True, False):
        with world(driver, kerberos=kerberos) as here:
            long = THE_PAGE * 50000
            site = here.serve(Acceptor(last=Reply(200, body=long)), tls=True)
            client = here.open(site)
            word, answer = here.outcome(client, "GET", site.url, stream=True)
            assert (word, answer.body) == (PAGE, long)


@scenario()
def a_compressed_page_is_the_librarys(driver):
    with world(driver) as here:
        page = Reply(200, [("Content-Encoding", "gzip")], gzip.compress(THE_PAGE))
        site = here.serve(Acceptor(last=page))
        word, answer = here.outcome(here.open(site), "GET", site.url)
        assert word == PAGE and answer.body in (THE_PAGE, page.body)


@scenario()
def tls_1_2_and_1_3_are_bound_alike(driver):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with world(driver, kerberos=False) as here:
            site = here.serve(Acceptor(), tls=True)
            site.tls.minimum_version = site.tls.maximum_version = version
            client = here.open(site)
            assert here.outcome(client, "GET", site.url)[0] == PAGE


CASES = [case for row in ROWS for case in row.cases()] + SCENARIOS
