"""The HTTP adapters with Windows CPython on Wine, against Apache.

What the libraries need is fetched for Windows into a folder of this run. What Wine does
otherwise than Windows is told in test_wine_to_servers.py; here it matters that
Negotiate falls back to bare NTLM, that Kerberos needs a buffer of its caller, and that
NTLM refuses its first leg if it is given anything, so it gets no bindings there.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import http_client
import pytest
import servers
import windows

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"
MUTUAL = 2  # ISC_RET.MUTUAL_AUTH


def give_up(reason):
    if os.environ.get("SSPI_CLIENT_LAB") == "required":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("libraries")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder)]
    pip += ["--platform", "win_amd64", "--python-version", "3.13"]
    pip += ["--only-binary=:all:", "--no-compile", "requests"]
    done = subprocess.run(pip, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        give_up("pip cannot fetch requests for Windows")
    return folder


@pytest.fixture
def ask(apache, libraries):
    """A function that has http_client.py do a job, and returns its report."""
    try:
        interpreter = windows.python("3.13")
    except windows.Missing as missing:
        give_up(str(missing))
    folders = (windows.ROOT, HERE, EXAMPLES, libraries)

    def run(env, **job):
        job["cafile"] = windows.windows_path(apache.certificate)
        env = dict(env, PYTHONPATH=";".join(map(windows.windows_path, folders)))
        # A handle or a socket that nobody closed is a warning of sspi_client's kind.
        script = windows.windows_path(http_client.__file__)
        options = ["-W", "always::ResourceWarning"]
        done = interpreter.run([*options, script], env, json.dumps([job]), timeout=100)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)[0]

    return run


def only(realm, ccache):
    return {"KRB5_CONFIG": str(realm.krb5_config), "KRB5CCNAME": f"FILE:{ccache}"}


@pytest.fixture
def ticket(realm, tmp_path):
    """The environment in which alice is logged on."""
    servers.kinit(realm, "alice", tmp_path / "ccache")
    return only(realm, tmp_path / "ccache")


@pytest.fixture
def nobody(realm, tmp_path):
    return only(realm, tmp_path / "none")


def place(apache, name, scheme):
    port = {"http": apache.port, "https": apache.tls_port}[scheme]
    return f"{scheme}://localhost:{port}/{name}/"


EACH = pytest.mark.parametrize("adapter", sorted(http_client.ADAPTERS))
BOTH = pytest.mark.parametrize("scheme", ["http", "https"])
KRB = [200, "alice@LAB.TEST", "krb\n"]
NTLM = [200, "LAB\\bob", "ntlm\n"]


@EACH
@BOTH
def test_kerberos_gets_the_page_with_a_ticket(ask, apache, ticket, adapter, scheme):
    url = place(apache, "krb", scheme)
    assert ask(ticket, adapter=adapter, url=url, kerberos=True) == [KRB]


@EACH
@BOTH
def test_apache_proves_itself_on_each_request(ask, apache, ticket, adapter, scheme):
    url = place(apache, "krb", scheme)
    job = {"adapter": adapter, "url": url, "kerberos": True, "require": MUTUAL}
    assert ask(ticket, times=3, **job) == [KRB] * 3


@EACH
@BOTH
def test_ntlm_gets_the_page_with_a_password(ask, apache, nobody, adapter, scheme):
    url, who = place(apache, "ntlm", scheme), ["bob", apache.users["bob"], "LAB"]
    pages = ask(nobody, adapter=adapter, url=url, identity=who, times=3)
    assert pages == [NTLM] * 3


@EACH
def test_ntlm_posts_the_whole_body(ask, apache, nobody, adapter):
    url = place(apache, "ntlm", "https") + "index.html"
    who = ["bob", apache.users["bob"], "LAB"]
    job = {"url": url, "identity": who, "method": "POST", "body": "body" * 9999}
    assert ask(nobody, adapter=adapter, **job) == [NTLM]


@EACH
@pytest.mark.parametrize("package", ["krb", "ntlm"])
def test_many_at_a_time_get_their_pages(ask, apache, ticket, adapter, package):
    job = {"adapter": adapter, "url": place(apache, package, "http"), "times": 24}
    if package == "krb":
        job.update(kerberos=True)
    else:
        job.update(identity=["bob", apache.users["bob"], "LAB"])
    assert ask(ticket, threads=8, **job) == [KRB if package == "krb" else NTLM] * 24


@EACH
def test_a_wrong_password_is_refused(ask, apache, nobody, adapter):
    job = {"url": place(apache, "ntlm", "http"), "identity": ["bob", "wrong", "LAB"]}
    refused = ["LogonError", "SEC_E_LOGON_DENIED"]
    assert ask(nobody, adapter=adapter, **job) == [refused]


@EACH
def test_ntlm_is_no_proof(ask, apache, nobody, adapter):
    url, who = place(apache, "ntlm", "http"), ["bob", apache.users["bob"], "LAB"]
    ((kind, status),) = ask(
        nobody, adapter=adapter, url=url, identity=who, require=MUTUAL
    )
    assert (kind, status) == ("LogonError", "SEC_E_SECURITY_QOS_FAILED")


@EACH
def test_without_a_ticket_there_is_one_error(ask, apache, nobody, adapter):
    url = place(apache, "krb", "http")
    ((kind, status),) = ask(nobody, adapter=adapter, url=url, kerberos=True)
    assert kind == "LogonError" and status.startswith("SEC_E_")
