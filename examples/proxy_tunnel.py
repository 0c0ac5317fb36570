r"""Open a tunnel through a proxy that wants a Windows logon (407), and a page in it.

    python proxy_tunnel.py PROXY:PORT HOST [--user 'CORP\alice']

1. CONNECT without a token; http.client's own tunnel would give up at the 407.
2. Read each 407 page to its end, and not a byte behind a 200: that is the tunnel's.
3. The SPN is the proxy's, whatever host the tunnel leads to.
4. All legs go over one socket, since NTLM authenticates the connection.
5. A 200 ends it. A token that comes with it proves who the proxy is.
6. TLS to the host goes through the tunnel, and http.client on top of that.
"""

import argparse
import contextlib
import getpass
import re
import socket
import ssl
import sys
from base64 import b64decode, b64encode
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from types import SimpleNamespace

import sspi_client


class ProxyError(Exception):
    """The proxy did not open the tunnel, or sent what we do not follow."""


def open_tunnel(proxy, host, port, *, require=0, timeout=30, **logon):
    """Return a socket to *host* through *proxy*, "name:port". logon: authenticate()'s.

    require: ISC_RET bits; with any, a proxy that wants no logon is refused.
    Raises: ProxyError, SspiError, OSError, HTTPException; ValueError for a bad name.
    """
    name, _, number = proxy.rpartition(":")
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not number.isdigit() or "/" in name or not re.fullmatch("[!-~]+", place):
        raise ValueError("give the proxy as NAME:PORT, and a host in ASCII")
    link = socket.create_connection((name, number), timeout)
    try:
        status, offers, kept = _ask(link, place)  # 1.
        if status == 407:
            if not offers:
                raise ProxyError(f"{name} offers no Windows logon")
            if not kept:
                link.close()  # as it wishes; no leg is lost yet
                link = socket.create_connection((name, number), timeout)
            scheme = "Negotiate" if "negotiate" in offers else "NTLM"
            flow = sspi_client.authenticate(  # 3.
                sspi_client.spn("HTTP", name), package=scheme, require=require, **logon)
            status = _log_on(link, place, scheme, require, flow)
        elif require:
            raise ProxyError(f"{name} wants no logon")
        if not 200 <= status < 300:
            raise ProxyError(f"{name} opened no tunnel to {place} (status {status})")
    except BaseException:
        link.close()
        raise
    return link


def _log_on(link, place, scheme, require, flow):
    with contextlib.closing(flow):
        token = next(flow)
        for _ in range(6):  # NTLM takes two, Kerberos one, SPNEGO now and then one more
            text = f"Proxy-Authorization: {scheme} {b64encode(token).decode()}\r\n"
            status, offers, kept = _ask(link, place, text)  # 4.
            reply, denied = offers.get(scheme.lower()), status == 407
            if denied and not (reply and kept) or not (denied or reply or require):
                return status  # refused, or let in by somebody without a name
            try:
                token = flow.send(reply)  # 5.
            except StopIteration as done:
                done.value.close()
                return status
    raise ProxyError("the proxy keeps asking for more")


def _ask(link, place, logon=""):
    """Return the status, scheme -> token, and whether the connection is kept."""
    link.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{logon}\r\n".encode())
    exact = SimpleNamespace(makefile=lambda mode: link.makefile(mode, 1))  # 2. a byte
    with contextlib.closing(HTTPResponse(exact, method="CONNECT")) as answer:
        answer.begin()
        if answer.status == 407:
            answer.read()
    header = ", ".join(answer.headers.get_all("Proxy-Authenticate", ()))
    header = re.sub(r'"[^"]*"', "", header)  # a Digest's realm has commas
    found = re.findall(r"(?i)(?:^|,)\s*(Negotiate|NTLM)\b[ \t]*([^\s,]*)", header)
    try:
        tokens = {name.lower(): b64decode(text, validate=True) for name, text in found}
    except ValueError:
        raise ProxyError("the proxy's token is not base64") from None
    return answer.status, tokens, not answer.will_close


def main(argv=None, secur32=None):
    """Print the host's page; return None, or the one line that says why not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("proxy")
    parser.add_argument("host")
    parser.add_argument("--port", type=int, default=443)
    parser.add_argument("--user")
    to = parser.parse_args(argv)
    try:
        who = sspi_client.Identity(to.user, getpass.getpass()) if to.user else None
        link = open_tunnel(to.proxy, to.host, to.port, identity=who, secur32=secur32)
        with contextlib.closing(HTTPSConnection(to.host, to.port)) as connection:
            tls = ssl.create_default_context()  # 6.
            connection.sock = tls.wrap_socket(link, server_hostname=to.host)
            connection.request("GET", "/")
            sys.stdout.buffer.write(connection.getresponse().read())
    except (ProxyError, sspi_client.SspiError, OSError, HTTPException, ValueError) as e:
        return f"proxy_tunnel: {' '.join(str(e).split()) or repr(e)}"


if __name__ == "__main__":
    sys.exit(main())
