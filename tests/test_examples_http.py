"""The HTTP examples against a server on loopback whose acceptor is FakeServer."""

import base64
import contextlib
import gc
import http.server
import importlib.util
import ssl
import threading
from pathlib import Path

import pytest

import sspi_client

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PEM = Path(__file__).resolve().parent / "data" / "localhost.pem"
BOUND = sspi_client.tls_server_end_point(
    ssl.PEM_cert_to_DER_cert(PEM.read_text().partition("-----BEGIN PRIVATE")[0][76:])
)
MUTUAL = sspi_client.ISC_RET.MUTUAL_AUTH
PAGE = b"the page\n"


# -- The server ----------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection. `web.play` says what to do instead of behaving well."""

    protocol_version = "HTTP/1.1"
    # [s] A test that forgets a socket must not hang; and a tunnel's head is read byte
    # by byte, which takes Wine ten seconds for the longest line that http.client takes.
    timeout = 60

    def setup(self):
        super().setup()
        self.web = self.server.web
        self.web.connections += 1
        tls = isinstance(self.request, ssl.SSLSocket)
        self.peer = sspi_client.FakeServer(self.web.domain, BOUND if tls else None)

    def do_CONNECT(self):
        self.answer(407, "Proxy-Authorization", "Proxy-Authenticate")

    def do_GET(self):
        self.answer(401, "Authorization", "WWW-Authenticate")

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def answer(self, refusal, ours, theirs):
        play, said = self.web.play, self.headers.get(ours)
        self.web.seen.append(said and said.partition(" ")[0])
        self.web.paths.append(self.path)
        if said is None:
            if play == "open":
                return self.let_in()
            if play == "redirect":
                place = [("Location", self.web.elsewhere)]
                return self.reply(302, place)
            if play == "endless":
                return self.reply(refusal, [(theirs, "Negotiate " + "A" * 300000)])
            if play == "hang up first":
                self.close_connection = True
            close = [("Connection", "close")] * (play == "hang up first")
            offers = [(theirs, value) for value in self.web.offers]
            return self.reply(refusal, offers + close, b"who are you?" * 900)
        scheme, _, text = said.partition(" ")
        if play == "hang up":
            self.close_connection = True
            return None
        if play == "not base64":
            return self.reply(refusal, [(theirs, scheme + " !!!")])
        if play == "for ever":
            challenge = self.web.last or self.accept(text)
            self.web.last = challenge
            return self.reply(refusal, [(theirs, scheme + " " + challenge)])
        try:
            token = self.accept(text)
        except sspi_client.SspiError:
            return self.reply(refusal, [(theirs, value) for value in self.web.offers])
        if play == "spoil":
            other = "BBBB" if token[40:44] == "AAAA" else "AAAA"
            token = token[:40] + other + token[44:]
        headers = [(theirs, scheme + " " + token)] if token else []
        if not self.peer.complete:
            return self.reply(refusal, headers, b"go on" * 500, chunked=True)
        return self.let_in([] if play == "anonymous" else headers)

    def accept(self, text):
        reply = self.peer.accept(base64.b64decode(text))
        return base64.b64encode(reply or b"").decode()

    def let_in(self, headers=()):
        self.web.users.append((self.peer.package, self.peer.user))
        if self.command != "CONNECT":
            return self.reply(200, headers, getattr(self, "body", b"") + PAGE)
        self.send_response(200)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.web.inner is None:
            self.wfile.write(b"tunnel")  # the host speaks first: nothing may be lost
        self.wfile.flush()
        if self.web.inner is not None:
            self.relay(self.web.inner)
        self.close_connection = True
        return None

    def relay(self, port):
        import socket

        with socket.create_connection(("127.0.0.1", port), 10) as far:
            back = threading.Thread(target=pump, args=(far, self.connection))
            back.start()
            pump(self.connection, far)
            back.join()

    def reply(self, status, headers, page=b"", chunked=False):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
            page = b"%x\r\n%s\r\n0\r\n\r\n" % (len(page), page)
        else:
            self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_error(self, *_):  # a timeout: the client forgot its socket
        self.web.forgotten += 1

    def log_message(self, *_):
        pass


def pump(source, sink):
    with contextlib.suppress(OSError):
        for piece in iter(lambda: source.recv(65536), b""):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(1)


class Web:
    """A server in a thread: how it behaves, and what it has seen."""

    def __init__(self, domain, tls):
        self.domain, self.play, self.last = domain, "", ""
        self.offers = ["Negotiate", 'Digest realm="a, NTLM b", nonce="1", NTLM']
        self.connections, self.seen, self.paths, self.users = 0, [], [], []
        self.elsewhere, self.inner = "http://elsewhere.test/", None
        self.forgotten = 0
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.web, self.server.daemon_threads = self, False
        self.server.handle_error = lambda *_: None  # a client that hangs up is fine
        self.port = self.server.server_port
        self.scheme = "https" if tls else "http"
        self.url = f"{self.scheme}://localhost:{self.port}/page?a=b"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(str(PEM))
            plain = self.server.socket
            self.server.socket = context.wrap_socket(plain, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.02,)).start()

    def close(self):
        # urllib3 2 closes the idle connections of a pool when the pool is collected,
        # and the traceback of what a test has caught keeps it in a cycle till then.
        gc.collect()
        self.server.shutdown()
        self.server.server_close()  # waits until all connections have ended
        assert self.forgotten == 0


@pytest.fixture
def domain():
    users = {"alice": "Secret123!", "bob": "Pä55wörd€"}
    return sspi_client.FakeDomain("CORP", users, ["HTTP/localhost"])


@pytest.fixture
def ntlm_only(domain):
    domain.services.clear()  # as if nobody had registered the SPN


@pytest.fixture(autouse=True)
def trust(monkeypatch):
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(PEM))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def web(domain):
    with contextlib.closing(Web(domain, tls=False)) as web:
        yield web


@pytest.fixture
def tls_web(domain):
    with contextlib.closing(Web(domain, tls=True)) as web:
        yield web


# -- The clients ---------------------------------------------------------------


def load(name):
    spec = importlib.util.spec_from_file_location(name, str(EXAMPLES / f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tunnel():
    return load("proxy_tunnel")


# -- Tunnels -------------------------------------------------------------------


def open_tunnel(tunnel, web, **logon):
    link = tunnel.open_tunnel(f"localhost:{web.port}", "far.test", 443, **logon)
    with contextlib.closing(link):
        return link.recv(100)


@pytest.mark.parametrize("package", ["Kerberos", "NTLM"])
@pytest.mark.parametrize("play", ["", "hang up first", "anonymous"])
def test_tunnel_opens_on_one_socket(tunnel, web, fake, domain, package, play):
    domain.services[:] = ["HTTP/localhost"] if package == "Kerberos" else []
    web.play = play
    assert open_tunnel(tunnel, web, secur32=fake) == b"tunnel"
    assert web.users == [(package, "CORP\\alice")]
    assert web.connections == (2 if play == "hang up first" else 1)
    assert set(web.paths) == {"far.test:443"}


def test_tunnel_opens_when_ntlm_alone_is_offered(tunnel, web, fake):
    web.offers = ["NTLM"]
    assert open_tunnel(tunnel, web, secur32=fake) == b"tunnel"
    assert web.seen == [None, "NTLM", "NTLM"]


def test_tunnel_opens_when_the_proxy_wants_no_logon(tunnel, web, fake):
    web.play = "open"
    assert open_tunnel(tunnel, web, secur32=fake) == b"tunnel"
    assert fake.calls == []


@pytest.mark.parametrize("play", ["open", "anonymous"])
def test_tunnel_refuses_a_proxy_that_proves_nothing(tunnel, web, fake, play):
    web.play = play
    with pytest.raises((tunnel.ProxyError, sspi_client.SspiError)):
        open_tunnel(tunnel, web, secur32=fake, require=MUTUAL)


@pytest.mark.parametrize("play", ["hang up", "endless", "not base64", "for ever",
                                  "spoil", "redirect"])
def test_tunnel_fails_in_one_line(tunnel, web, fake, play):
    web.play = play
    line = tunnel.main([f"localhost:{web.port}", "localhost"], fake)
    assert line.startswith("proxy_tunnel: ") and "\n" not in line


def test_tunnel_refuses_a_wrong_password(tunnel, web, fake, ntlm_only):
    who = sspi_client.Identity("CORP\\alice", "wrong")
    with pytest.raises(tunnel.ProxyError, match="407"):
        open_tunnel(tunnel, web, secur32=fake, identity=who)


def test_tunnel_refuses_an_unknown_spn_without_ntlm(tunnel, web, fake, ntlm_only):
    with pytest.raises(sspi_client.SspiError):
        open_tunnel(tunnel, web, secur32=fake, allow_ntlm=False)


@pytest.mark.parametrize("names", [("localhost", "far.test"), ("p:x", "far.test"),
                                   ("p:1", "far.test\r\nX: y"), ("p:1", "b c"),
                                   ("http://p:1", "far.test")])
def test_tunnel_refuses_bad_names(tunnel, names):
    with pytest.raises(ValueError):
        tunnel.open_tunnel(names[0], names[1], 443)


def test_tunnel_carries_tls(tunnel, web, tls_web, fake, capsys):
    web.inner, tls_web.play = tls_web.port, "open"
    line = tunnel.main(
        [f"localhost:{web.port}", "localhost", "--port", str(tls_web.port)], fake)
    assert line is None
    assert capsys.readouterr().out == PAGE.decode()


# -- What they look like -------------------------------------------------------

NAMES = ["proxy_tunnel"]


@pytest.mark.parametrize("name", NAMES)
def test_example_is_short_and_its_steps_are_marked(name):
    text = (EXAMPLES / f"{name}.py").read_text("utf-8")
    docstring, _, body = text[5:].partition('"""')
    steps = [line[:2] for line in docstring.splitlines() if line[1:3] == ". "]
    assert len(text.splitlines()) <= 120 and len(steps) >= 5
    assert [step for step in steps if f"# {step}" not in body] == []
