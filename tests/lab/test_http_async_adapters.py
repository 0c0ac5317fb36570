"""The adapters for httpx and aiohttp with Windows CPython on Wine, against Apache.

Apache's /krb logs on every request, its /ntlm every connection. What Wine does
otherwise than Windows is evened out in http_jobs.py. Wine's NTLM knows no channel
bindings and Apache looks at none: over https this is about the rest.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import servers
import windows

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parents[1] / "examples"
LIBRARIES = ("httpx", "aiohttp", "anyio", "colorama")
ADAPTERS = ["httpx", "httpx async", "aiohttp"]

EACH = pytest.mark.parametrize("adapter", ADAPTERS)
BOTH = pytest.mark.parametrize("scheme", ["http", "https"])
PACKAGES = pytest.mark.parametrize("kerberos", [True, False], ids=["Kerberos", "NTLM"])


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("libraries")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder),
         "--platform", "win_amd64", "--python-version", "3.13",
         "--only-binary=:all:", "--no-compile", *LIBRARIES],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        check=False)
    if done.returncode:
        give_up("pip cannot fetch %s for Windows" % ", ".join(LIBRARIES))
    return folder


@pytest.fixture
def run(apache, libraries):
    """A function that has http_jobs.py do one job: run(job, env) -> its report."""
    try:
        interpreter = windows.python("3.13")
    except windows.Missing as missing:
        give_up(str(missing))
    folders = (windows.ROOT, HERE, EXAMPLES, libraries)

    def one(job, env):
        job = dict(job, cafile=windows.windows_path(apache.certificate))
        env = dict(env, PYTHONPATH=";".join(map(windows.windows_path, folders)))
        script = windows.windows_path(HERE / "http_jobs.py")
        # A handle or a socket that nobody closed is a warning, and not wanted here.
        done = interpreter.run(
            ["-W", "always::ResourceWarning", script], env, json.dumps([job]),
            timeout=100)
        assert (done.returncode, done.stderr) == (0, "")
        (report,) = json.loads(done.stdout)
        return report

    return one


def give_up(reason):
    if os.environ.get("SSPI_CLIENT_LAB") == "required":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def logon(realm, apache, tmp_path):
    """A function: logon(kerberos) -> (env, identity, whom Apache sees)."""

    def logon(kerberos):
        ccache = tmp_path / "ccache"
        env = {"KRB5_CONFIG": str(realm.krb5_config), "KRB5CCNAME": "FILE:%s" % ccache}
        if kerberos:
            servers.kinit(realm, "alice", ccache)
            return env, None, "alice@LAB.TEST"
        return env, ["LAB\\bob", apache.users["bob"]], "LAB\\bob"

    return logon


def job(apache, adapter, scheme, kerberos, identity, **more):
    port = {"http": apache.port, "https": apache.tls_port}[scheme]
    origin = "%s://localhost:%d" % (scheme, port)
    place = "krb" if kerberos else "ntlm"
    more.setdefault("url", "%s/%s/index.html" % (origin, place))
    return dict(adapter=adapter, origin=origin, kerberos=kerberos, identity=identity,
                **more)


def served(kerberos, who):
    return [200, "krb\n" if kerberos else "ntlm\n", who]


@EACH
@BOTH
@PACKAGES
def test_page_behind_a_logon(run, apache, logon, adapter, scheme, kerberos):
    env, identity, who = logon(kerberos)
    report = run(job(apache, adapter, scheme, kerberos, identity, times=3), env)
    assert report == [served(kerberos, who)] * 3


@EACH
@BOTH
def test_apache_proves_itself(run, apache, logon, adapter, scheme):
    env, identity, who = logon(True)
    report = run(job(apache, adapter, scheme, True, identity, times=2,
                     sspi={"require": 2}), env)
    assert report == [served(True, who)] * 2


@EACH
def test_body_is_posted_with_every_leg(run, apache, logon, adapter):
    env, identity, who = logon(False)
    report = run(job(apache, adapter, "https", False, identity, method="POST",
                     body="body" * 5000), env)
    assert report == [served(False, who)]


@EACH
@PACKAGES
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_96_requests_on_16_workers(run, apache, logon, adapter, kerberos, stream):
    env, identity, who = logon(kerberos)
    report = run(job(apache, adapter, "http", kerberos, identity, times=96, workers=16,
                     stream=stream), env)
    assert report == [served(kerberos, who)] * 96


@EACH
def test_wrong_password_is_a_refusal(run, apache, logon, adapter):
    env, _, _ = logon(False)
    report = run(job(apache, adapter, "http", False, ["LAB\\bob", "Hunter2!"]), env)
    ((error, kinds, cause, text),) = report
    assert (error, cause) == ("error", "SEC_E_LOGON_DENIED")
    library = "ClientError" if adapter == "aiohttp" else "TransportError"
    assert kinds[:2] == ["LogonError", library] and "Hunter2" not in text


@EACH
def test_no_ticket_is_a_refusal(run, apache, logon, adapter):
    env, _, _ = logon(False)
    report = run(job(apache, adapter, "http", True, None), env)
    ((error, kinds, cause, _),) = report
    assert error == "error" and kinds[0] == "LogonError" and cause.startswith("SEC_E_")


@pytest.mark.parametrize("adapter", ["httpx async", "aiohttp"])
def test_cancelled_while_a_leg_blocks(run, apache, logon, adapter):
    """The leg goes on in its thread, and the next request gets its page."""
    env, identity, who = logon(False)
    report = run(job(apache, adapter, "http", False, identity, cancel=True), env)
    assert report == [["cancelled", True], served(False, who)]
