"""examples/urllib_auth.py: the table of outcomes, and what is urllib's own."""

import importlib.util
import ssl
import urllib.error
import urllib.request
from http.client import HTTPException
from http.cookiejar import CookieJar
from pathlib import Path

import http_outcomes
import pytest
from http_outcomes import PATIENCE, PEM, Answer

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
