"""examples/requests_auth.py: the table of outcomes, and what is requests' own."""

import importlib
import importlib.util
import os
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
    name = "requests"
    can = {"keep-alive", "redirects", "cookies", "retries", "threads", "proxy"}
    can |= {"context", "multipart", "generator", "file", "any host"}
    open = staticmethod(Client)

    @staticmethod
    def kind(error):
        if isinstance(error, requests_auth.LogonError):
            return "refused"
        if isinstance(error, (requests.ConnectionError, requests.Timeout)):
            return "broken"
        return "other"


@pytest.mark.parametrize("case", http_outcomes.cases(Driver), ids=str)
def test_outcome(case):
    case.play(Driver)
