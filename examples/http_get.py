r"""Get a page that wants a Windows logon, with the standard library alone.

    python http_get.py URL [--allow HOST] [--user 'CORP\alice'] [--no-ntlm]

1. One connection: NTLM authenticates that, and urllib.request would close it.
2. Ask without a token. A 401 names the schemes; only listed hosts get tokens.
3. On https the flow is bound to the server's certificate, from its first leg on.
4. Each leg repeats the whole request, and each 401 page is read to its end.
5. Any other status ends it. A token that comes with it proves who the server is.
6. A redirect is an error: fetch its URL, if you would send tokens there too.
"""

import argparse
import contextlib
import getpass
import re
import sys
from base64 import b64decode, b64encode
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit, urlunsplit

import sspi_client


class LogonError(Exception):
    """The server did not let us in, or sent what we do not follow."""


def fetch(url, method="GET", body=None, *, hosts, require=0, timeout=30, **logon):
    """Return (status, headers, page [bytes]) of *url*; *logon* is for authenticate().

    body: bytes, since each leg sends it. hosts: where tokens may go, in lower case.
    require: ISC_RET bits; with any, an answer that came without a logon is refused.
    Raises: LogonError, SspiError; OSError, HTTPException (transport); ValueError (URL).
    """
    parts = urlsplit(url)
    host, tls = parts.hostname, parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("give a URL that starts with http:// or https://")
    kind = HTTPSConnection if tls else HTTPConnection  # 1.
    path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    with contextlib.closing(kind(host, parts.port, timeout=timeout)) as connection:
        def ask(**headers):
            connection.request(method, path, body, headers)  # 4.
            answer = connection.getresponse()
            return answer, answer.read()

        answer, page = ask()  # 2.
        if answer.status == 401:
            scheme = next(iter(_offers(answer)), None)
            if host not in hosts or not scheme:
                raise LogonError(f"{host} is not listed, or offers no Windows logon")
            if connection.sock is None:
                connection.connect()  # closed after the page, before the first leg
            connection.auto_open = 0  # from now on a new connection would know nothing
            der = connection.sock.getpeercert(True) if tls else None  # 3.
            flow = sspi_client.authenticate(
                sspi_client.spn("HTTP", host), package=scheme, require=require, **logon,
                channel_bindings=sspi_client.tls_server_end_point(der) if der else None)
            with contextlib.closing(flow):
                answer, page = _log_on(flow, scheme, require, ask)
        elif require:
            raise LogonError(f"{host} answered without a logon")
    if answer.status == 401:
        raise LogonError(f"{host} refused the logon (401)")
    if answer.status in (301, 302, 303, 307, 308):  # 6.
        raise LogonError(f"{host} redirects to {answer.headers['Location']}")
    return answer.status, answer.headers, page


def _log_on(flow, scheme, require, ask):
    token = next(flow)
    for _ in range(6):  # NTLM takes two, Kerberos one, SPNEGO now and then one more
        answer, page = ask(Authorization=f"{scheme} {b64encode(token).decode()}")
        reply, denied = _offers(answer).get(scheme), answer.status == 401
        if not reply and (denied or not require):
            return answer, page  # refused, or let in by somebody without a name
        try:
            token = flow.send(reply)  # 5.
        except StopIteration as done:
            done.value.close()
            return answer, page
    raise LogonError("the server keeps asking for more")


def _offers(answer):
    """Map the schemes that the server offers, the best first, to its tokens."""
    header = ", ".join(answer.headers.get_all("WWW-Authenticate", ()))
    header = re.sub(r'"(\\.|[^"\\])*"', "", header)  # a Digest's realm has commas
    found = re.findall(r"(?i)(?:^|,)\s*(Negotiate|NTLM)\b[ \t]*([^\s,]*)", header)
    tokens = {name.lower(): text for name, text in found}
    try:
        return {name: b64decode(tokens[name.lower()], validate=True)
                for name in ("Negotiate", "NTLM") if name.lower() in tokens}
    except ValueError:
        raise LogonError("the server's token is not base64") from None


def main(argv=None, secur32=None):
    """Print the page; return None, or the one line that says why not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--allow", action="append", default=[], type=str.lower)
    parser.add_argument("--user")
    parser.add_argument("--no-ntlm", action="store_true")
    told = parser.parse_args(argv)
    try:
        if told.url.startswith("https:"):  # over http, anybody may answer for the host
            told.allow.append(urlsplit(told.url).hostname)
        who = sspi_client.Identity(told.user, getpass.getpass()) if told.user else None
        status, _, page = fetch(told.url, hosts=told.allow, identity=who,
                                allow_ntlm=not told.no_ntlm, secur32=secur32)
    except (LogonError, sspi_client.SspiError, OSError, ValueError, HTTPException) as e:
        return f"http_get: {' '.join(str(e).split()) or repr(e)}"
    sys.stdout.buffer.write(page)
    return f"http_get: status {status}" if status >= 400 else None


if __name__ == "__main__":
    sys.exit(main())
