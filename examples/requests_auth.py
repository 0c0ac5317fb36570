r"""Let requests log on with Windows: Negotiate or NTLM, on one pinned connection.

    python requests_auth.py HOST URL [--user 'CORP\alice']      only HOST gets tokens

1. One connection in the pool: NTLM authenticates that. One thread, for that reason.
2. A 401 names the schemes. Only listed hosts get tokens, and none in a redirection.
3. On https the flow is bound to the server's certificate. Once the page is read, the
   connection is back in the pool and the certificate out of reach.
4. Each leg is a copy of the request, sent by the adapter that sent the first.
5. Any other status ends it. A token that comes with it proves who the server is.
"""

import argparse
import contextlib
import functools
import getpass
import re
import sys
from base64 import b64decode, b64encode
from urllib.parse import urlsplit

import requests

import sspi_client


class LogonError(requests.RequestException):
    """The server did not let us in, or it is none that gets tokens."""


class SspiAuth(requests.auth.AuthBase):
    """hosts: where tokens may go, in lower case. *logon* is for authenticate().

    require: ISC_RET bits; with any, an answer that came without a logon is refused.
    Raises, from each request: LogonError, SspiError.
    """

    def __init__(self, hosts, *, require=0, **logon):
        self.hosts, self.require, self.logon = hosts, require, logon

    def __call__(self, request):
        origin = urlsplit(request.url)[:2]
        request.register_hook("response", functools.partial(self._answer, origin))
        return request

    def _answer(self, origin, answer, **options):
        if answer.status_code != 401 and not self.require:
            return answer
        parts, der = urlsplit(answer.url), None
        try:
            offers, host = _offers(answer), parts.hostname  # 2.
            if not offers or parts[:2] != origin or host not in self.hosts:
                raise LogonError(f"{host} wants no logon of ours, or is not listed")
            if parts.scheme == "https":
                der = answer.raw.connection.sock.getpeercert(True)  # 3.
            scheme = "Negotiate" if "negotiate" in offers else "NTLM"
            flow = sspi_client.authenticate(
                sspi_client.spn("HTTP", host), require=self.require, package=scheme,
                channel_bindings=sspi_client.tls_server_end_point(der) if der else None,
                **self.logon)
            with contextlib.closing(flow):
                token = next(flow)
                while token is not None and len(answer.history) < 6:  # two, or three
                    answer = _send_again(answer, scheme, token, options)
                    reply = _offers(answer).get(scheme.lower())
                    if not reply and (answer.status_code == 401 or not self.require):
                        break  # refused, or let in by somebody without a name
                    try:
                        token = flow.send(reply)  # 5.
                    except StopIteration as done:
                        token = done.value.close()
            if answer.status_code == 401 or (self.require and token is not None):
                raise LogonError(f"{host} refused the logon")
            return answer
        except BaseException:
            answer.close()
            answer.connection.close()  # half a logon is of no use to the next request
            raise


def _send_again(answer, scheme, token, options):  # 4.
    bytes(answer.content)  # read to its end, it frees the connection
    request = answer.request.copy()
    if not isinstance(request.body, (str, bytes, type(None))):
        requests.utils.rewind_body(request)
    request.headers["Authorization"] = f"{scheme} {b64encode(token).decode()}"
    following = answer.connection.send(request, **options)
    following.history = [*answer.history, answer]
    return following


def _offers(answer):
    """Map the schemes that the server offers, in lower case, to its tokens."""
    header = re.sub(r'"[^"]*"', "", answer.headers.get("WWW-Authenticate", ""))
    found = re.findall(r"(?i)(?:^|,)\s*(Negotiate|NTLM)\b[ \t]*([^\s,]*)", header)
    try:
        return {name.lower(): b64decode(text, validate=True) for name, text in found}
    except ValueError:
        raise LogonError("the server's token is not base64") from None


def main(argv=None, secur32=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("host", "url", "--user"):
        parser.add_argument(name)
    told = parser.parse_args(argv)
    try:
        who = sspi_client.Identity(told.user, getpass.getpass()) if told.user else None
        with requests.Session() as web:
            web.auth = SspiAuth({told.host.lower()}, identity=who, secur32=secur32)
            web.mount(told.url, requests.adapters.HTTPAdapter(1, 1))  # 1.
            answer = web.get(told.url, timeout=30, allow_redirects=False)
    except (sspi_client.SspiError, OSError, ValueError) as e:
        return f"requests_auth: {' '.join(str(e).split()) or repr(e)}"
    print(answer.text)
    return None if answer.status_code < 300 else f"requests_auth: {answer}"


if __name__ == "__main__":
    sys.exit(main())
