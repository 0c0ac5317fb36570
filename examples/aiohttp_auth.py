r"""Let aiohttp (3.12 or later) log on with Windows, Negotiate or NTLM: a middleware.

    python aiohttp_auth.py HOST URL [--user 'CORP\alice']       only HOST gets tokens

1. One connection, since NTLM authenticates that, and one request at a time on it.
2. A 401 names the schemes; only listed hosts get tokens, redirected to or not.
3. On https the flow is bound to the server's certificate: the connector keeps it.
4. Each leg, and closing after it, runs in one thread: domain controllers are slow.
5. Another status ends it; a token that comes with it proves who the server is.
"""

import argparse
import asyncio
import getpass
import re
import sys
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import sspi_client


class LogonError(aiohttp.ClientError):
    """The server did not let us in, or it is none that gets tokens."""


class OneConnection(aiohttp.TCPConnector):
    async def connect(self, *arguments, **options):
        connection = await super().connect(*arguments, **options)
        tls = connection.transport.get_extra_info("ssl_object")  # 3.
        self.bound = tls and sspi_client.tls_server_end_point(tls.getpeercert(True))
        return connection


class SspiAuth:
    """hosts: where tokens may go, in lower case. logon: authenticate() takes it.
    require: ISC_RET bits, to refuse an answer that comes without a logon as well."""

    def __init__(self, hosts, *, require=0, **logon):
        self.hosts, self.require, self.logon = hosts, require, logon
        self.connector = OneConnection(limit=1)  # 1.
        self._lock, self._thread = asyncio.Lock(), ThreadPoolExecutor(1)

    async def __call__(self, request, handler):
        async with self._lock:
            answer = await handler(request)
            if answer.status != 401 and not self.require:
                return answer
            await answer.read()  # to its end, it lets go of the connection
            offers, host = _offers(answer), request.url.host
            if not offers or host not in self.hosts:  # 2.
                raise LogonError(f"{host} wants no logon of ours, or is not listed")
            scheme = "Negotiate" if "negotiate" in offers else "NTLM"
            flow = sspi_client.authenticate(
                sspi_client.spn("HTTP", host), package=scheme, require=self.require,
                channel_bindings=self.connector.bound, **self.logon)
            run, legs = asyncio.get_running_loop().run_in_executor, 6  # two, or three
            try:
                token = await run(self._thread, _leg, flow, None)  # 4.
                while token is not None and legs:
                    await answer.read()
                    text, legs = f"{scheme} {b64encode(token).decode()}", legs - 1
                    request.headers["Authorization"] = text
                    answer = await handler(request)
                    reply = _offers(answer).get(scheme.lower())
                    if not reply and (answer.status == 401 or not self.require):
                        break  # refused, or let in by somebody without a name
                    token = await run(self._thread, _leg, flow, reply)  # 5.
                if answer.status == 401 or (self.require and token is not None):
                    raise LogonError(f"{host} refused the logon")
                return answer
            except BaseException:
                answer.close()
                raise
            finally:
                await run(self._thread, flow.close)


def _leg(flow, reply):
    try:
        return flow.send(reply)
    except StopIteration as done:  # which no thread can hand on
        done.value.close()


def _offers(answer):
    """Map the schemes that the server offers, in lower case, to its tokens."""
    headers = answer.headers.getall("WWW-Authenticate", ())
    header = re.sub(r'"[^"]*"', "", ", ".join(headers))  # a Digest's realm has commas
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
    async def get(**logon):
        auth = SspiAuth({told.host.lower()}, **logon)
        how = {"connector": auth.connector, "middlewares": [auth]}
        async with aiohttp.ClientSession(**how) as web:
            answer = await web.get(told.url, allow_redirects=False)
            return answer.status, await answer.text()

    try:
        who = sspi_client.Identity(told.user, getpass.getpass()) if told.user else None
        status, page = asyncio.run(get(identity=who, secur32=secur32))
    except (sspi_client.SspiError, aiohttp.ClientError, OSError, ValueError) as e:
        return f"aiohttp_auth: {' '.join(str(e).split()) or repr(e)}"
    print(page)
    return None if status < 300 else f"aiohttp_auth: status {status}"


if __name__ == "__main__":
    sys.exit(main())
