r"""Let httpx log on with Windows: Negotiate or NTLM, in Client and AsyncClient.

    python httpx_auth.py HOST URL [--user 'CORP\alice']         only HOST gets tokens

1. One connection in the pool, and no HTTP/2: NTLM authenticates the connection. So
   one client for one user, and one request at a time.
2. A 401 names the schemes. Only listed hosts get tokens, and none after a redirect to
   another host.
3. On https the flow is bound to the server's certificate.
4. Each leg is the request again: httpx reads the last page and sends what we yield.
5. Any other status ends it. A token that comes with it proves who the server is.
6. In an AsyncClient the legs run in a thread: a domain controller may be slow.
"""

import argparse
import contextlib
import getpass
import re
import sys
from base64 import b64decode, b64encode

import anyio
import httpx

import sspi_client

PINNED = httpx.Limits(max_connections=1)  # 1.


class LogonError(httpx.HTTPError):
    """The server did not let us in, or it is none that gets tokens."""


class SspiAuth(httpx.Auth):
    """hosts: where tokens may go, in lower case. *logon* is for authenticate().

    require: ISC_RET bits; with any, an answer that came without a logon is refused.
    Raises, from each request: LogonError, SspiError.
    """

    requires_request_body = True  # or it cannot be sent again

    def __init__(self, hosts, *, require=0, **logon):
        self.hosts, self.require, self.logon = hosts, require, logon

    def auth_flow(self, request):
        answer = yield request
        if answer.status_code != 401 and not self.require:
            return
        offers, host, start = _offers(answer), answer.url.host, request.url.join("/")
        if not offers or answer.url.join("/") != start or host not in self.hosts:  # 2.
            raise LogonError(f"{host} wants no logon of ours, or is not listed")
        tls = answer.extensions["network_stream"].get_extra_info("ssl_object")
        der = tls.getpeercert(True) if tls else None  # 3.
        scheme = "Negotiate" if "negotiate" in offers else "NTLM"
        flow = sspi_client.authenticate(
            sspi_client.spn("HTTP", host), require=self.require, package=scheme,
            channel_bindings=sspi_client.tls_server_end_point(der) if der else None,
            **self.logon)
        with contextlib.closing(flow):
            token = next(flow)
            for _ in range(6):  # NTLM takes two, Kerberos one, SPNEGO rarely three
                text = f"{scheme} {b64encode(token).decode()}"
                request.headers["Authorization"] = text
                answer = yield request  # 4.
                reply = _offers(answer).get(scheme.lower())
                if not reply and (answer.status_code == 401 or not self.require):
                    break  # refused, or let in by somebody without a name
                try:
                    token = flow.send(reply)  # 5.
                except StopIteration as done:
                    token = done.value.close()
                    break
        if answer.status_code == 401 or (self.require and token is not None):
            raise LogonError(f"{host} refused the logon")

    async def async_auth_flow(self, request):  # 6.
        await request.aread()
        flow, answer = self.auth_flow(request), None
        with contextlib.closing(flow):
            while True:
                request = await anyio.to_thread.run_sync(_leg, flow, answer)
                if request is None:
                    return
                answer = yield request


def _leg(flow, answer):
    with contextlib.suppress(StopIteration):  # which no thread can hand on
        return flow.send(answer)


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
        auth = SspiAuth({told.host.lower()}, identity=who, secur32=secur32)
        with httpx.Client(auth=auth, limits=PINNED, timeout=30) as web:
            answer = web.get(told.url)
    except (sspi_client.SspiError, httpx.HTTPError, OSError, ValueError) as e:
        return f"httpx_auth: {' '.join(str(e).split()) or repr(e)}"
    print(answer.text)
    return None if answer.status_code < 300 else f"httpx_auth: {answer}"


if __name__ == "__main__":
    sys.exit(main())
