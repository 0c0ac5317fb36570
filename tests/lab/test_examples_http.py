"""A tunnel through Squid with Windows CPython on Wine, to Apache.

test_wine_to_servers.py says what Wine does otherwise than Windows. It matters here that
Negotiate falls back to bare NTLM, that Kerberos needs a buffer of its caller, and that
NTLM refuses its first leg if it is given anything, so it gets no bindings there.
"""
import json
import os
from pathlib import Path

import pytest
import servers
import windows

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"

# Run by Windows: Wine's Kerberos wants CallersBuffer, its NTLM must not have it.
# Without _wmi, platform does not ask Wine's WMI, which ends the process.
PROLOGUE = """\
import getpass, json, sys
sys.modules["_wmi"] = None
import ssl, client, sspi_client
class NoInputFirst:
    def __init__(self, secur32):
        for name in sspi_client.PROTOTYPES:
            setattr(self, name, getattr(secur32, name))
        def initialize(*arguments):
            if arguments[1] is None:
                arguments = (*arguments[:6], None, *arguments[7:])
            return secur32.InitializeSecurityContextW(*arguments)
        self.InitializeSecurityContextW = initialize
def backend(kerberos):
    secur32 = sspi_client.Secur32()
    return client.CallersBuffer(secur32) if kerberos else NoInputFirst(secur32)
def report(*facts):
    print("report", json.dumps(facts))
def command(name, kerberos, password, *argv):
    getpass.getpass = lambda: password
    line = __import__(name).main(argv, backend(kerberos))
    sys.stdout.flush()
    report(line)
"""


@pytest.fixture
def wine_python(apache):
    """A function that runs code: wine_python(code, env) -> (what it said, report)."""
    try:
        interpreter = windows.python("3.13")
    except windows.Missing as missing:
        give_up(str(missing))
    folders = (windows.ROOT, HERE, EXAMPLES)
    certificate = windows.windows_path(apache.certificate)

    def run(code, env):
        env = dict(env, PYTHONPATH=";".join(map(windows.windows_path, folders)),
                   SSL_CERT_FILE=certificate, REQUESTS_CA_BUNDLE=certificate)
        # A handle or a socket that nobody closed is a warning of sspi_client's kind.
        done = interpreter.run(["-W", "always::ResourceWarning", "-c", PROLOGUE + code],
                               env, timeout=100)
        assert (done.returncode, done.stderr) == (0, "")
        said, _, facts = done.stdout.rpartition("report ")
        return said.strip(), json.loads(facts)

    return run


def give_up(reason):
    if os.environ.get("SSPI_CLIENT_LAB") == "required":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def ticket(realm, tmp_path):
    """The environment in which alice is logged on."""
    servers.kinit(realm, "alice", tmp_path / "ccache")
    return only(realm, tmp_path / "ccache")


@pytest.fixture
def nobody(realm, tmp_path):
    return only(realm, tmp_path / "none")


def only(realm, ccache):
    return {"KRB5_CONFIG": str(realm.krb5_config), "KRB5CCNAME": "FILE:%s" % ccache}


# -- Tunnels -------------------------------------------------------------------

TUNNEL = """\
import http.client, proxy_tunnel
link = proxy_tunnel.open_tunnel(%r, "localhost", %d, require=%d, secur32=backend(True))
web = http.client.HTTPSConnection("localhost")
web.sock = ssl.create_default_context().wrap_socket(link, server_hostname="localhost")
for _ in range(2):
    web.request("GET", "/open/")
    answer = web.getresponse()
    page = answer.read().decode()
web.close()
report(answer.status, page)
"""


def test_squid_opens_a_tunnel_for_a_ticket(wine_python, apache, squid, ticket):
    proxy = "localhost:%d" % squid.port
    _, facts = wine_python(TUNNEL % (proxy, apache.tls_port, 0), ticket)
    assert facts == [200, "open\n"]


def test_squid_is_refused_when_it_must_prove_itself(wine_python, squid, ticket):
    code = """\
import proxy_tunnel
try:
    proxy_tunnel.open_tunnel(%r, "localhost", %d, require=2, secur32=backend(True))
except sspi_client.SspiError as reason:
    report(reason.name, reason.leg)
""" % ("localhost:%d" % squid.port, 443)
    # It answers a CONNECT with 200 or 503, and with no token either way.
    _, facts = wine_python(code, ticket)
    assert facts == ["SEC_E_INVALID_TOKEN", 1]


def test_squid_opens_no_tunnel_without_a_ticket(wine_python, apache, squid, nobody):
    argv = ("localhost:%d" % squid.port, "localhost", "--port", str(apache.tls_port))
    said, (line,) = wine_python(
        "command('proxy_tunnel', True, '', *%r)" % (argv,), nobody)
    assert said == "" and line.startswith("proxy_tunnel: ")
