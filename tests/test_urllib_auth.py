"""examples/urllib_auth.py: the table of outcomes, and what is urllib's own."""

import http.client
import importlib.util
import ssl
import sys
import urllib.error
import urllib.request
import xmlrpc.client
from http.client import HTTPException
from http.cookiejar import CookieJar
from pathlib import Path

import http_outcomes
import pytest
from http_outcomes import PATIENCE, PEM, Answer

import sspi_client

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "urllib_auth.py"


def load():
    spec = importlib.util.spec_from_file_location("urllib_auth", str(EXAMPLE))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


urllib_auth = load()


class Client:
    def __init__(self, origins, retries=0, proxy=None, **sspi):
        assert retries == 0
        self.jar = CookieJar()
        proxies = {"http": proxy, "https": proxy} if proxy else {}
        trust = ssl.create_default_context(cafile=str(PEM))
        self.web = urllib.request.build_opener(
            urllib_auth.SspiHandler(*origins, context=trust, **sspi),
            urllib.request.HTTPCookieProcessor(self.jar),
            urllib.request.ProxyHandler(proxies),
        )

    def ask(self, method, url, body=None, headers=None, stream=False):
        kind = getattr(body, "kind", "bytes")
        if kind == "generator":
            body = iter(body.pieces())
        elif kind == "file":
            body = http_outcomes.open_at_offset(body)
        request = urllib.request.Request(url, body, headers or {}, method=method)
        try:
            answer = self.web.open(request, timeout=PATIENCE)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            if hasattr(body, "close"):
                body.close()
            page = b"".join(iter(lambda: answer.read(1000), b""))
            named = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.code, named, page, answer.geturl(), answer)

    def many(self, urls, workers, stream):
        return http_outcomes.in_threads(self.ask, urls, workers, stream)

    def cookies(self):
        return {cookie.name: cookie.value for cookie in self.jar}

    def close(self):
        self.web.close()


class Driver:
    name = "urllib"
    can = {"redirects", "cookies", "threads", "proxy", "generator", "file", "any host"}
    open = staticmethod(Client)

    @staticmethod
    def kind(error):
        if isinstance(error, urllib_auth.LogonError):
            return "refused"
        if isinstance(error, (urllib.error.URLError, HTTPException, OSError)):
            return "broken"
        return "other"


@pytest.mark.parametrize("case", http_outcomes.cases(Driver), ids=str)
def test_outcome(case):
    case.play(Driver)


# -- What is urllib's own ------------------------------------------------------


def opener(*origins, **sspi):
    return urllib.request.build_opener(urllib_auth.SspiHandler(*origins, **sspi))


def test_a_401_that_is_not_ours_is_urllibs_http_error():
    nothing = http_outcomes.Reply(401, [("WWW-Authenticate", "Basic realm=x")], b"no")
    with http_outcomes.world(Driver) as here:
        site = here.serve(http_outcomes.plain(nothing))
        web = opener(site.origin, secur32=here.fake)
        with pytest.raises(urllib.error.HTTPError) as caught:
            web.open(site.url, timeout=PATIENCE)
        with caught.value as answer:
            assert (answer.code, answer.read()) == (401, b"no")


def test_other_handlers_answer_what_is_not_ours():
    """Basic, in the same opener, works beside us."""

    def basic(request, line):
        if "authorization" not in request.headers:
            offers = [("WWW-Authenticate", 'Basic realm="x"')]
            return http_outcomes.Reply(401, offers)
        return http_outcomes.Reply(200, [], request.headers["authorization"].encode())

    with http_outcomes.world(Driver) as here:
        site = here.serve(basic)
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        passwords.add_password(None, site.origin, "a", "b")
        web = urllib.request.build_opener(
            urllib_auth.SspiHandler(site.origin, secur32=here.fake),
            urllib.request.HTTPBasicAuthHandler(passwords),
        )
        with web.open(site.url, timeout=PATIENCE) as answer:
            assert answer.read() == b"Basic YTpi"


@pytest.mark.parametrize(
    "listed, url, ours",
    [
        ("https://a.test", "https://a.test/x", True),
        ("https://A.test.", "https://a.TEST./x", True),
        ("https://a.test", "https://a.test:443/x", True),
        ("https://a.test", "https://a.test:444/x", False),
        ("https://a.test", "http://a.test/x", False),
        ("https://a.test", "https://a.test.evil/x", False),
        ("https://a.test", "https://b.a.test/x", False),
        ("https://.a.test", "https://b.a.test/x", True),
        ("https://.a.test", "https://c.b.a.test/x", True),
        ("https://.a.test", "https://ba.test/x", False),
        ("https://.a.test", "https://a.test/x", False),
        ("https://b\u00fccher.test", "https://xn--bcher-kva.test/x", True),
        ("http://[::1]:80", "http://[::1]/x", True),
        ("https://a.test", "https://a.test@evil.test/x", False),
    ],
)
def test_an_origin_is_a_whole_name(fake, listed, url, ours):
    handler = urllib_auth.SspiHandler(listed, secur32=fake)
    assert handler._listed(url) is ours


@pytest.mark.parametrize(
    "origin",
    ["a.test", "ftp://a.test", "https://", "https://.", "https://a/x", "https://u@a"],
)
def test_an_origin_is_a_scheme_and_a_host(fake, origin):
    with pytest.raises(ValueError, match="origin"):
        urllib_auth.SspiHandler(origin, secur32=fake)
    with pytest.raises(TypeError, match="origins"):
        urllib_auth.SspiHandler(secur32=fake)


def test_a_mock_of_the_socket_drops_no_bindings(mocker):
    """Over https without a certificate to bind to there is an error, no logon."""
    with http_outcomes.world(Driver) as here:
        site = here.serve(http_outcomes.Acceptor(), tls=True)
        mocker.patch("ssl.SSLSocket.getpeercert", return_value=None)
        trust = ssl.create_default_context(cafile=str(PEM))
        web = opener(site.origin, secur32=here.fake, context=trust)
        with pytest.raises(urllib_auth.LogonError, match="bindings=False"):
            web.open(site.url, timeout=PATIENCE)
        assert site.tokens() == []


def test_no_leg_goes_to_a_connection_with_another_certificate(mocker):
    """The token was bound to the first one's: nodes may have their own."""
    with http_outcomes.world(Driver) as here:
        closing = [("Connection", "keep-alive"), ("Connection", "close")]
        first = http_outcomes.Reply(401, closing)
        site = here.serve(http_outcomes.Acceptor(first=first), tls=True)
        client, seen = here.open(site), []
        real = ssl.SSLSocket.getpeercert

        def getpeercert(self, binary_form=False):
            der = real(self, binary_form)
            if binary_form:
                seen.append(der)
                der = der[:-1] + bytes([len(seen)])
            return der

        mocker.patch("ssl.SSLSocket.getpeercert", getpeercert)
        with pytest.raises(ConnectionError, match="another certificate"):
            client.ask("GET", site.url)
        assert site.tokens() == [] and len(seen) == 2


def test_no_frame_of_ours_holds_a_token_when_sending_fails(mocker):
    with http_outcomes.world(Driver, kerberos=False) as here:
        site = here.serve(http_outcomes.Acceptor())
        web, sent = opener(site.origin, secur32=here.fake), []
        real = http.client.HTTPConnection.endheaders

        def endheaders(self, *arguments, **options):
            head = b"".join(self._buffer)
            if b"Authorization" in head:
                sent.append(head.partition(b"Authorization: Negotiate ")[2][:60])
                raise OSError("the network is down")
            return real(self, *arguments, **options)

        mocker.patch("http.client.HTTPConnection.endheaders", endheaders)
        with pytest.raises(OSError, match="down") as caught:
            web.open(site.url, timeout=PATIENCE)
        assert len(sent) == 1
        http_outcomes.frames_hold_no_secret(caught.value, [sent[0].decode()])


# -- xmlrpc.client -------------------------------------------------------------

CALLED = xmlrpc.client.dumps(("done",), methodresponse=True).encode()


class Rpc(http_outcomes.Acceptor):
    """A server of calls: each gets the same answer."""

    def page(self, request, line, headers):
        self.calls = getattr(self, "calls", [])
        if request.token:
            self.calls.append(xmlrpc.client.loads(request.body.decode()))
        headers = headers + [("Content-Type", "text/xml")]
        return http_outcomes.Reply(200, headers, CALLED)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("kerberos", [False, True])
def test_calls_log_on_once_for_a_connection(tls, kerberos):
    with http_outcomes.world(Driver, kerberos=kerberos) as here:
        site = here.serve(Rpc(), tls=tls)
        trust = ssl.create_default_context(cafile=str(PEM))
        transport = urllib_auth.SspiTransport(
            site.origin, context=trust, secur32=here.fake
        )
        with xmlrpc.client.ServerProxy(site.origin + "/rpc", transport) as proxy:
            assert [proxy.do(1, "x") for _ in range(10)] == ["done"] * 10
        assert len(site.log) == 10 + (1 if kerberos else 2)
        assert site.connections == 1 and site.behave.calls == [((1, "x"), "do")]


def test_unasked_tokens_of_ntlm_stop_once_the_connection_is_logged_on():
    with http_outcomes.world(Driver, kerberos=False) as here:
        site = here.serve(Rpc())
        transport = urllib_auth.SspiTransport(
            site.origin, preemptive=True, secur32=here.fake
        )
        with xmlrpc.client.ServerProxy(site.origin + "/rpc", transport) as proxy:
            assert [proxy.do() for _ in range(3)] == ["done"] * 3
        assert len(site.log) == 4 and len(site.users) == 1


def test_a_refused_call_is_one_logon():
    who = sspi_client.Identity("CORP\\alice", "mistyped")
    with http_outcomes.world(Driver, kerberos=False) as here:
        site = here.serve(Rpc())
        transport = urllib_auth.SspiTransport(
            site.origin, identity=who, secur32=here.fake
        )
        with xmlrpc.client.ServerProxy(site.origin + "/rpc", transport) as proxy:
            with pytest.raises(urllib_auth.LogonError) as caught:
                proxy.do()
        assert isinstance(caught.value.__cause__, sspi_client.SspiError)
        assert len(site.log) == 3


def test_a_call_that_is_not_ours_is_a_protocol_error():
    nothing = http_outcomes.Reply(401, [], b"no")
    with http_outcomes.world(Driver) as here:
        site = here.serve(http_outcomes.plain(nothing))
        transport = urllib_auth.SspiTransport(site.origin, secur32=here.fake)
        with xmlrpc.client.ServerProxy(site.origin + "/rpc", transport) as proxy:
            with pytest.raises(xmlrpc.client.ProtocolError) as caught:
                proxy.do()
        assert caught.value.errcode == 401


def test_a_transport_calls_no_other_host(fake):
    transport = urllib_auth.SspiTransport("https://a.test", secur32=fake)
    with xmlrpc.client.ServerProxy("https://b.test/rpc", transport) as proxy:
        with pytest.raises(ValueError, match="b.test"):
            proxy.do()


# -- As a command --------------------------------------------------------------


def test_command_prints_the_page(capsysbinary):
    with http_outcomes.world(Driver) as here:
        site = here.serve(http_outcomes.Acceptor())
        assert urllib_auth.main([site.url, "--mutual"], here.fake) is None
        assert capsysbinary.readouterr().out == http_outcomes.THE_PAGE


def test_command_says_in_one_line_what_went_wrong(mocker):
    mocker.patch("getpass.getpass", return_value="mistyped")
    with http_outcomes.world(Driver, kerberos=False) as here:
        site = here.serve(http_outcomes.Acceptor())
        line = urllib_auth.main([site.url, "--user", "CORP\\bob"], here.fake)
        assert line.startswith("urllib_auth: ") and "\n" not in line
        assert "SEC_E_LOGON_DENIED" in line and "mistyped" not in line
        assert "--no-ntlm" not in line
        line = urllib_auth.main([site.url, "--no-ntlm"], here.fake)
        assert line.startswith("urllib_auth: ") and site.users == []


def test_command_has_help_for_every_option(capsys):
    with pytest.raises(SystemExit):
        urllib_auth.main(["--help"])
    said = capsys.readouterr().out
    for option in ("url", "--user", "--target", "--no-ntlm", "--mutual"):
        lines = said.partition("\n\n")[2].splitlines()  # behind the usage
        line = next(line for line in lines if line.strip().startswith(option))
        assert len(line.split()) > 2, line


# -- What the README of the examples shows -------------------------------------


def test_readme_shows_how_to_test_code_that_uses_an_adapter(monkeypatch):
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "urllib_auth", urllib_auth)
    text = (EXAMPLE.parent / "README.md").read_text("utf-8")
    _, block, _ = text.replace("```python", "```").split("```")
    exec(compile(block, "examples/README.md", "exec"), {"__name__": "shown"})
