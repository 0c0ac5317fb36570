"""The HTTP examples against a server on loopback whose acceptor is FakeServer."""

import base64
import contextlib
import gc
import http.server
import importlib.util
import os
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


def need(library):
    if os.environ.get("SSPI_CLIENT_EXAMPLES") == "required":
        return importlib.import_module(library)
    return pytest.importorskip(library, reason=f"this example is for {library}")


class HttpGet:
    def __init__(self):
        self.module = load("http_get")

    def __call__(self, url, method="GET", body=None, hosts=("localhost",), **logon):
        return self.module.fetch(url, method, body, hosts=hosts, **logon)[::2]

    def command(self, url, secur32, *options, host="localhost"):
        return self.module.main(["--allow", host, url, *options], secur32)


class Requests(HttpGet):
    def __init__(self):
        self.library = need("requests")
        self.module = load("requests_auth")

    def __call__(self, url, method="GET", body=None, hosts=("localhost",), **logon):
        with self.library.Session() as session:
            session.auth = self.module.SspiAuth(hosts, **logon)
            session.mount(url, self.library.adapters.HTTPAdapter(1, 1))
            answer = session.request(method, url, data=body, timeout=10)
            return answer.status_code, answer.content

    def command(self, url, secur32, *options, host="localhost"):
        return self.module.main([host, url, *options], secur32)


@pytest.fixture(params=[HttpGet, Requests])
def client(request):
    return request.param()


@pytest.fixture
def tunnel():
    return load("proxy_tunnel")


# -- Pages ---------------------------------------------------------------------


def test_client_gets_the_page_with_kerberos(client, web, fake):
    assert client(web.url, secur32=fake, require=MUTUAL) == (200, PAGE)
    assert web.users == [("Kerberos", "CORP\\alice")]
    assert web.connections == 1 and web.seen == [None, "Negotiate"]


def test_client_gets_the_page_with_ntlm(client, web, fake, ntlm_only):
    who = sspi_client.Identity("CORP\\bob", "Pä55wörd€")
    assert client(web.url, secur32=fake, identity=who) == (200, PAGE)
    assert web.users == [("NTLM", "CORP\\bob")]
    assert web.connections == 1 and set(web.paths) == {"/page?a=b"}


@pytest.mark.parametrize("offers", [["NTLM"], ["nTlM"], ["Basic realm=x,  NTLM"]])
def test_client_takes_ntlm_when_nothing_else_is_offered(client, web, fake, offers):
    web.offers = offers
    assert client(web.url, secur32=fake) == (200, PAGE)
    assert web.seen == [None, "NTLM", "NTLM"] and web.connections == 1


@pytest.mark.parametrize("services", [["HTTP/localhost"], []])
def test_client_binds_to_the_certificate(client, tls_web, fake, domain, services):
    domain.services[:] = services  # the server refuses whoever is bound otherwise
    assert client(tls_web.url, secur32=fake) == (200, PAGE)
    assert tls_web.users == [("Kerberos" if services else "NTLM", "CORP\\alice")]


def test_client_sends_the_body_with_each_leg(client, web, fake, ntlm_only):
    assert client(web.url, "POST", b"body" * 50, secur32=fake) == (
        200, b"body" * 50 + PAGE)


def test_client_is_served_when_nobody_asks_it(client, web, fake):
    web.play = "open"
    assert client(web.url, secur32=fake) == (200, PAGE)
    assert fake.calls == []


def test_client_reconnects_when_the_first_401_closes(client, web, fake):
    web.play = "hang up first"
    assert client(web.url, secur32=fake) == (200, PAGE)
    assert web.connections == 2


def test_client_forgives_a_server_without_a_name(client, web, fake):
    web.play = "anonymous"
    assert client(web.url, secur32=fake) == (200, PAGE)


# -- What is refused -----------------------------------------------------------


def refused(client, *arguments, **options):
    error = getattr(client.module, "LogonError", None)
    with pytest.raises((error, sspi_client.SspiError)) as caught:
        client(*arguments, **options)
    return caught.value


@pytest.mark.parametrize("play", ["open", "anonymous"])
def test_client_refuses_a_server_that_proves_nothing(client, web, fake, play):
    web.play = play
    refused(client, web.url, secur32=fake, require=MUTUAL)


def test_client_refuses_ntlm_when_it_requires_proof(client, web, fake, ntlm_only):
    reason = refused(client, web.url, secur32=fake, require=MUTUAL)
    assert reason.name == "SEC_E_SECURITY_QOS_FAILED"


def test_client_refuses_a_spoilt_token(client, web, fake):
    web.play = "spoil"
    refused(client, web.url, secur32=fake)


def test_client_refuses_a_wrong_password(client, web, fake, ntlm_only):
    who = sspi_client.Identity("CORP\\alice", "wrong")
    reason = refused(client, web.url, secur32=fake, identity=who)
    assert "refused" in str(reason) and "wrong" not in str(reason)


def test_client_refuses_an_unknown_spn_without_ntlm(client, web, fake, ntlm_only):
    refused(client, web.url, secur32=fake, allow_ntlm=False)
    assert web.seen == [None]


@pytest.mark.parametrize("play", ["not base64", "for ever"])
@pytest.mark.parametrize("offer", ["Negotiate", "NTLM"])
def test_client_refuses_bad_replies(client, web, fake, ntlm_only, play, offer):
    web.play, web.offers = play, [offer]
    refused(client, web.url, secur32=fake)
    assert len(web.seen) < 8


@pytest.mark.parametrize("play", ["hang up", "endless"])
def test_client_fails_when_the_transport_does(client, web, fake, play):
    web.play = play
    with pytest.raises(Exception) as caught:  # noqa: B017  each library has its own
        client(web.url, secur32=fake)
    assert not isinstance(caught.value, (AssertionError, TypeError, AttributeError))


def test_client_sends_nothing_to_a_host_that_is_not_listed(client, web, fake):
    refused(client, web.url, hosts=["other.test"], secur32=fake)
    assert web.seen == [None] and fake.calls == []


def test_client_sends_nothing_to_where_it_is_redirected(client, web, fake, domain):
    with contextlib.closing(Web(domain, tls=False)) as other:
        web.play = "redirect"
        web.elsewhere = other.url.replace("localhost", "127.0.0.1")
        refused(client, web.url, secur32=fake)
        assert set(other.seen) <= {None} and fake.calls == []


# -- As commands ---------------------------------------------------------------


def test_command_prints_the_page(client, web, fake, capsys):
    assert client.command(web.url, fake) is None
    assert capsys.readouterr().out.strip() == PAGE.decode().strip()


def test_command_asks_for_the_password(client, web, fake, ntlm_only, mocker, capsys):
    mocker.patch("getpass.getpass", return_value="wrong")
    line = client.command(web.url, fake, "--user", "CORP\\bob")
    assert "refused" in line and "\n" not in line and "wrong" not in line


@pytest.mark.parametrize(
    "play", ["redirect", "hang up", "endless", "not base64", "for ever"]
)
def test_command_says_in_one_line_what_went_wrong(client, web, fake, play):
    web.play = play
    line = client.command(web.url, fake)
    assert line.startswith(client.module.__name__ + ": ") and "\n" not in line


def test_command_lists_a_host_however_it_is_spelled(client, web, fake):
    assert client.command(web.url, fake, host="LOCALHOST") is None


def test_command_says_so_when_the_host_is_not_listed(client, web, fake):
    line = client.command(web.url.replace("localhost", "127.0.0.1"), fake)
    assert "127.0.0.1" in line and fake.calls == []


def test_http_get_lists_the_host_of_an_https_url(tls_web, fake, capsys):
    assert load("http_get").main([tls_web.url], fake) is None


def test_http_get_refuses_ntlm_when_told_to(web, fake, ntlm_only):
    options = ["--allow", "localhost", "--no-ntlm", web.url]
    assert "SEC_E_TARGET_UNKNOWN" in load("http_get").main(options, fake)
    web.offers = ["NTLM"]
    assert "NTLM" in load("http_get").main(options, fake)
    assert web.seen == [None, None]


@pytest.mark.parametrize("url", ["ftp://localhost/", "localhost", "http:///x"])
def test_http_get_refuses_what_is_no_url(url, fake):
    with pytest.raises(ValueError):
        load("http_get").fetch(url, hosts=["localhost"], secur32=fake)


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

NAMES = ["http_get", "proxy_tunnel", "requests_auth"]


@pytest.mark.parametrize("name", NAMES)
def test_example_is_short_and_its_steps_are_marked(name):
    text = (EXAMPLES / f"{name}.py").read_text("utf-8")
    docstring, _, body = text[5:].partition('"""')
    steps = [line[:2] for line in docstring.splitlines() if line[1:3] == ". "]
    assert len(text.splitlines()) <= 120 and len(steps) >= 5
    assert [step for step in steps if f"# {step}" not in body] == []
