"""examples/requests_auth.py: the table of outcomes, and what is requests' own."""

import copy
import http.client
import importlib
import importlib.util
import os
import pickle
import ssl
import threading
from pathlib import Path

import http_outcomes
import pytest
from http_outcomes import PATIENCE, PEM, Answer

if os.environ.get("SSPI_CLIENT_EXAMPLES") == "required":
    requests = importlib.import_module("requests")
else:
    requests = pytest.importorskip("requests", reason="this example is for requests")
urllib3 = importlib.import_module("urllib3")

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "requests_auth.py"


def load():
    spec = importlib.util.spec_from_file_location("requests_auth", str(EXAMPLE))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


requests_auth = load()


class Client:
    def __init__(self, origins, retries=0, proxy=None, **sspi):
        retry = urllib3.util.Retry(retries, status_forcelist=[503], backoff_factor=0)
        if not retries:
            retry = 0
        self.session = requests.Session()
        self.session.verify = str(PEM)
        self.session.proxies = {"http": proxy, "https": proxy} if proxy else {}
        for origin in origins:
            adapter = requests_auth.SspiAdapter(max_retries=retry, **sspi)
            # A mount is compared with prepared URLs: names in their xn-- form.
            prepared = requests.Request("GET", origin + "/").prepare()
            self.session.mount(prepared.url, adapter)

    def ask(self, method, url, body=None, headers=None, stream=False):
        kind, how = getattr(body, "kind", "bytes"), {"data": body}
        if kind == "generator":
            how = {"data": iter(body.pieces())}
        elif kind == "file":
            how = {"data": http_outcomes.open_at_offset(body)}
        elif kind == "multipart":
            how = {"files": {"f": ("a.bin", body.content)}}
        try:
            answer = self.session.request(
                method, url, headers=headers, timeout=PATIENCE, stream=stream, **how
            )
        finally:
            if kind == "file":
                how["data"].close()
        page = b"".join(answer.iter_content(1000))
        named = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.status_code, named, page, answer.url, answer)

    def many(self, urls, workers, stream):
        return http_outcomes.in_threads(self.ask, urls, workers, stream)

    def cookies(self):
        return dict(self.session.cookies)

    def context(self, answer):
        return answer.raw.sspi_context

    def close(self):
        for adapter in self.session.adapters.values():
            if type(adapter) is requests.adapters.HTTPAdapter:  # it waits for gc
                for key in adapter.poolmanager.pools.keys():
                    adapter.poolmanager.pools[key].close()
        self.session.close()


class Driver:
    name = f"requests {requests.__version__}, urllib3 {urllib3.__version__}"
    can = {"keep-alive", "redirects", "cookies", "retries", "threads", "proxy"}
    can |= {"context", "multipart", "generator", "file", "307", "any host"}
    open = staticmethod(Client)

    @staticmethod
    def kind(error):
        if isinstance(error, requests_auth.LogonError):
            return "refused"
        if isinstance(error, (requests.ConnectionError, requests.Timeout)):
            return "broken"
        return "other"


@pytest.mark.parametrize("driver", [Driver], ids=[Driver.name])
@pytest.mark.parametrize("case", http_outcomes.cases(Driver), ids=str)
def test_outcome(case, driver):
    case.play(driver)


# -- What is requests' own -----------------------------------------------------


def test_the_answers_request_has_no_token_and_its_body():
    with http_outcomes.world(Driver, kerberos=False) as here:
        site = here.serve(http_outcomes.Acceptor())
        client = here.open(site)
        body = http_outcomes.Body("generator", b"x" * 20000)
        answer = client.ask("POST", site.url, body).raw
        assert "Authorization" not in answer.request.headers
        assert answer.request.body == body.content
        assert "Transfer-Encoding" not in answer.request.headers
        assert answer.history == []


def test_cookies_of_a_leg_do_not_beat_those_of_the_page():
    setting = [("Set-Cookie", "a=leg"), ("Set-Cookie", "b=leg")]
    with http_outcomes.world(Driver) as here:
        last = http_outcomes.Reply(200, [("Set-Cookie", "a=page")], b"")
        first = http_outcomes.Reply(401, setting)
        site = here.serve(http_outcomes.Acceptor(first=first, last=last))
        client = here.open(site)
        answer = client.ask("GET", site.url).raw
        assert dict(answer.cookies) == client.cookies() == {"a": "page", "b": "leg"}


@pytest.mark.parametrize(
    "hosts, url, ours",
    [
        (None, "https://any.test/", True),
        ([], "https://any.test/", False),
        (["a.test"], "https://a.test/", True),
        (["A.test."], "https://a.TEST./", True),
        (["a.test"], "https://b.a.test/", False),
        (["a.test"], "https://a.test.evil/", False),
        ([".a.test"], "https://b.a.test/", True),
        ([".a.test"], "https://c.b.a.test/", True),
        ([".a.test"], "https://ba.test/", False),
        ([".a.test"], "https://a.test/", False),
        (["b\u00fccher.test"], "https://xn--bcher-kva.test/", True),
        (["::1"], "https://[::1]:8443/", True),
        (["a.test"], "https://a.test@evil.test/", False),
    ],
)
def test_hosts_are_whole_names(fake, hosts, url, ours):
    adapter = requests_auth.SspiAdapter(hosts=hosts, secur32=fake)
    assert adapter._logon.is_for(url) is ours
    adapter.close()


def test_hosts_are_names_in_a_list(fake):
    with pytest.raises(TypeError, match="list"):
        requests_auth.SspiAdapter(hosts="a.test", secur32=fake)
    for wrong in ("https://a.test", "a/b", "u@a", "", "."):
        with pytest.raises(ValueError, match="bare name"):
            requests_auth.SspiAdapter(hosts=[wrong], secur32=fake)


def mounted(here, prefix, **sspi):
    session = requests.Session()
    session.mount(prefix, requests_auth.SspiAdapter(secur32=here.fake, **sspi))
    return session


def test_hosts_decide_when_it_is_mounted_on_all():
    with http_outcomes.world(Driver) as here:
        site = here.serve(http_outcomes.Acceptor())
        with mounted(here, "http://", hosts=["localhost"]) as session:
            assert session.get(site.url, timeout=PATIENCE).status_code == 200
            elsewhere = site.url.replace("localhost", "127.0.0.1")
            sent = len(site.tokens())
            answer = session.get(elsewhere, timeout=PATIENCE)
            assert answer.status_code == 401 and len(site.tokens()) == sent
            assert answer.content == site.behave.first.body


def test_a_generator_goes_to_a_host_that_is_not_listed():
    """requests 2.28 sends its pieces by hand, past request()."""
    with http_outcomes.world(Driver) as here:
        site = here.serve(http_outcomes.Acceptor())
        with mounted(here, "http://", hosts=["localhost"]) as session:
            elsewhere = site.url.replace("localhost", "127.0.0.1")
            pieces = iter([b"some", b"body"])
            answer = session.put(elsewhere, data=pieces, timeout=PATIENCE)
            assert answer.status_code == 401 and site.tokens() == []
            assert site.log[0].body == b"somebody"


def test_hosts_decide_behind_a_proxy_that_forwards():
    """One pool, to the proxy, serves listed and unlisted hosts."""
    with http_outcomes.every_name_is_here(), http_outcomes.world(Driver) as here:
        site = here.serve(http_outcomes.Acceptor(per_request=True))
        proxy = here.serve(http_outcomes.Proxy(site))
        with mounted(here, "http://", hosts=["localhost"]) as session:
            session.proxies = {"http": proxy.origin}
            assert session.get(site.url, timeout=PATIENCE).status_code == 200
            sent = len(proxy.tokens())
            answer = session.get("http://other.test/", timeout=PATIENCE)
            assert answer.status_code == 401 and len(proxy.tokens()) == sent


def test_a_prefix_without_a_slash_is_the_callers_trap():
    """Why the docstring says to mind the slash."""
    with requests.Session() as session:
        session.mount("http://a.test", requests.adapters.HTTPAdapter())
        session.mount("http://b.test/", requests.adapters.HTTPAdapter())
        adapters = session.adapters
        assert session.get_adapter("http://a.test.evil/") is adapters["http://a.test"]
        assert session.get_adapter("http://b.test.evil/") is adapters["http://"]


@pytest.mark.parametrize("require", [0, http_outcomes.MUTUAL])
def test_a_mock_that_asks_for_a_logon_is_named(mocker, require):
    def mock_send(self, request, *_, **__):
        answer = requests.Response()
        answer.status_code, answer.request = (200 if require else 401), request
        answer.headers["WWW-Authenticate"] = "Negotiate, NTLM"
        return answer

    mocker.patch("requests.adapters.HTTPAdapter.send", mock_send)
    with http_outcomes.world(Driver) as here:
        with mounted(here, "http://a.test/", require=require) as session:
            with pytest.raises(requests_auth.LogonError, match="mock"):
                session.get("http://a.test/")
        with mounted(here, "http://a.test/") as session:
            if require:
                assert session.get("http://a.test/").status_code == 200


def test_a_mock_of_the_socket_drops_no_bindings(mocker):
    """Over https without a certificate to bind to there is an error, no logon."""
    with http_outcomes.world(Driver) as here:
        site = here.serve(http_outcomes.Acceptor(), tls=True)
        session = here.open(site).session
        mocker.patch("ssl.SSLSocket.getpeercert", return_value=None)
        with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
            with pytest.raises(requests_auth.LogonError, match="bindings=False"):
                session.get(site.url, timeout=PATIENCE, verify=False)
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
        with pytest.raises(requests.ConnectionError, match="another certificate"):
            client.ask("GET", site.url)
        assert site.tokens() == [] and len(seen) == 2


def test_no_verification_still_binds():
    with http_outcomes.world(Driver) as here:
        site = here.serve(http_outcomes.Acceptor(), tls=True)
        session = here.open(site).session
        with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
            answer = session.get(site.url, timeout=PATIENCE, verify=False)
        assert answer.status_code == 200


def test_an_adapter_is_not_pickled(fake):
    adapter = requests_auth.SspiAdapter(secur32=fake)
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="mount a new one"):
            copied(adapter)
    adapter.close()


def test_an_answer_that_is_not_read_to_its_end_is_no_harm():
    with http_outcomes.world(Driver, kerberos=False) as here:
        long = http_outcomes.Reply(200, body=b"x" * 1000000)
        site = here.serve(http_outcomes.Acceptor(last=long))
        session = here.open(site).session
        for _ in range(3):
            with session.get(site.url, stream=True, timeout=PATIENCE) as answer:
                assert answer.raw.read(10) == b"x" * 10


def test_a_streamed_answer_keeps_its_connection_to_itself():
    with http_outcomes.world(Driver, kerberos=False) as here:
        long = http_outcomes.Reply(200, body=b"x" * 1000000)
        site = here.serve(http_outcomes.Acceptor(last=long))
        session = here.open(site).session
        with session.get(site.url, stream=True, timeout=PATIENCE) as first:
            second = session.get(site.url, timeout=PATIENCE)
            assert first.content == second.content == long.body
        assert site.connections == 2


def test_a_leg_waits_as_long_as_the_timeout_says():
    """The read timeout is for each leg, also where the first 401 has closed."""
    with http_outcomes.world(Driver, kerberos=False) as here:
        event = threading.Event()

        def wait(connection, stream):
            event.wait(PATIENCE)

        def behave(request, line):
            if request.token:
                return wait
            closing = [("WWW-Authenticate", "Negotiate"), ("Connection", "close")]
            return http_outcomes.Reply(401, closing)

        site = here.serve(behave)
        session = here.open(site).session
        with pytest.raises(requests.ReadTimeout):
            session.get(site.url, timeout=(PATIENCE, 0.2))
        event.set()


def test_no_frame_of_ours_holds_a_token_when_sending_fails(mocker):
    with http_outcomes.world(Driver, kerberos=False) as here:
        site = here.serve(http_outcomes.Acceptor())
        session, sent = here.open(site).session, []
        real = http.client.HTTPConnection.endheaders

        def endheaders(self, *arguments, **options):
            head = b"".join(self._buffer)
            if b"Authorization" in head:
                sent.append(head.partition(b"Authorization: Negotiate ")[2][:60])
                raise OSError("the network is down")
            return real(self, *arguments, **options)

        mocker.patch("http.client.HTTPConnection.endheaders", endheaders)
        with pytest.raises(requests.ConnectionError) as caught:
            session.get(site.url, timeout=PATIENCE)
        assert len(sent) == 1
        http_outcomes.frames_hold_no_secret(caught.value, [sent[0].decode()])


# -- As a command --------------------------------------------------------------


def test_command_prints_the_page(capsysbinary):
    with http_outcomes.world(Driver) as here:
        site = here.serve(http_outcomes.Acceptor())
        assert requests_auth.main([site.url, "--mutual"], here.fake) is None
        assert capsysbinary.readouterr().out == http_outcomes.THE_PAGE


def test_command_says_in_one_line_what_went_wrong(mocker):
    mocker.patch("getpass.getpass", return_value="mistyped")
    with http_outcomes.world(Driver, kerberos=False) as here:
        site = here.serve(http_outcomes.Acceptor())
        line = requests_auth.main([site.url, "--user", "CORP\\bob"], here.fake)
        assert line.startswith("requests_auth: ") and "\n" not in line
        assert "SEC_E_LOGON_DENIED" in line and "mistyped" not in line
        line = requests_auth.main([site.url, "--no-ntlm"], here.fake)
        assert line.startswith("requests_auth: ") and site.users == []


def test_command_has_help_for_every_option(capsys):
    with pytest.raises(SystemExit):
        requests_auth.main(["--help"])
    said = capsys.readouterr().out
    for option in ("url", "--user", "--target", "--no-ntlm", "--mutual"):
        lines = said.partition("\n\n")[2].splitlines()  # behind the usage
        line = next(line for line in lines if line.strip().startswith(option))
        assert len(line.split()) > 2, line


@pytest.mark.parametrize("first", [True, False], ids=["proven-host-first", "alone"])
def test_proof_of_one_host_does_not_serve_another_behind_one_proxy(first):
    """urllib3 sends the requests for all http hosts over one connection of a proxy."""
    wants_a_logon = http_outcomes.Acceptor()

    def behave(request, line):
        if "b.test" in request.path:
            return http_outcomes.Reply(200, body=b"nothing was proven")
        return wants_a_logon(request, line)

    with http_outcomes.world(Driver, services=["HTTP/a.test"]) as here:
        proxy = wants_a_logon.site = here.serve(behave)
        adapter = requests_auth.SspiAdapter(
            secur32=here.fake, hosts=["a.test", "b.test"],
            require=2,  # ISC_RET.MUTUAL_AUTH
        )  # fmt: skip
        with requests.Session() as session:
            session.trust_env = False
            session.proxies = {"http": proxy.origin}
            session.mount("http://", adapter)
            if first:
                answer = session.get("http://a.test/", timeout=PATIENCE)
                assert answer.status_code == 200
            with pytest.raises(requests_auth.LogonError, match="MUTUAL_AUTH_FAILED"):
                session.get("http://b.test/", timeout=PATIENCE)
