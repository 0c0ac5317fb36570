"""Foreign NTLM clients log on to FakeServer by HTTP: Chromium, the JDK, curl.

None of them is told anything about FakeServer, so each checks what both halves of the
fake might believe wrongly together.
"""
import os
import ssl
import subprocess
from urllib.parse import quote

import fake_web
import jdk
import pytest
import servers

import sspi_client

USERS = pytest.mark.parametrize("user", sorted(servers.USERS))
NTLM = ["NTLM NEGOTIATE", "NTLM AUTHENTICATE"]
OTHER_BINDINGS = b"tls-server-end-point:" + bytes(32)


@pytest.fixture
def domain():
    return sspi_client.FakeDomain("CORP", servers.USERS)


@pytest.fixture
def web(domain):
    with fake_web.serve(domain) as server:
        yield server


@pytest.fixture(scope="module")
def tls(lab_folder):
    """The files of a certificate and its key, and the bindings that belong to it."""
    files = servers._certificate(servers._folder(lab_folder / "tls"), "localhost")
    certificate = ssl.PEM_cert_to_DER_cert(files[0].read_text())
    return files, sspi_client.tls_server_end_point(certificate)


# -- Chromium ------------------------------------------------------------------

@pytest.fixture
def chromium(program, tmp_path):
    """A function that has Chromium show a page, and returns its text."""
    path = program("chromium")

    def show(scheme, port, user, password):
        url = "%s://%s:%s@localhost:%d/" % (
            scheme, quote("CORP\\" + user), quote(password), port)
        # Alone in its folder, and it asks nobody but our server.
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
                   "--disable-background-networking", "--disable-dev-shm-usage",
                   "--ignore-certificate-errors", "--auth-server-allowlist=localhost",
                   "--user-data-dir=%s" % (tmp_path / "profile")]
        done = subprocess.run(
            [path, *options, url], env=dict(os.environ, HOME=str(tmp_path)),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            timeout=60, check=False)
        return done.stdout.decode("utf-8", "replace")

    return show


@USERS
def test_chromium_is_let_in_when_the_user_is(chromium, web, user):
    page = chromium("http", web.port, user, servers.USERS[user])
    assert "hello CORP\\%s<" % user in page
    assert (web.legs, web.refused) == (NTLM, [])


def test_chromium_is_refused_when_the_password_is_wrong(chromium, web):
    assert "hello" not in chromium("http", web.port, "bob", "wrong")
    assert web.legs[:2] == NTLM and set(web.refused) == {"SEC_E_LOGON_DENIED"}


def test_chromium_gives_the_bindings_of_its_connection_when_inside_tls(chromium, domain,
                                                                       tls):
    files, bindings = tls
    with fake_web.serve(domain, tls=files, bindings=bindings) as web:
        page = chromium("https", web.port, "bob", servers.USERS["bob"])
    assert "hello CORP\\bob<" in page
    assert (web.legs, web.refused) == (NTLM, [])


def test_chromium_is_refused_when_the_bindings_are_of_another_connection(
        chromium, domain, tls):
    files, _ = tls
    with fake_web.serve(domain, tls=files, bindings=OTHER_BINDINGS) as web:
        page = chromium("https", web.port, "bob", servers.USERS["bob"])
    assert "hello" not in page
    assert web.legs[:2] == NTLM and set(web.refused) == {"SEC_E_BAD_BINDINGS"}


# -- The JDK -------------------------------------------------------------------

@USERS
def test_jdk_is_let_in_when_the_user_is(program, web, user):
    program("java")
    said, status = jdk.get("http://localhost:%d/" % web.port, "CORP\\" + user,
                           servers.USERS[user])
    assert (said.split(), status) == (["200", "<p>hello", "CORP\\%s</p>" % user], 0)
    assert (web.legs, web.refused) == (NTLM, [])


def test_jdk_is_refused_when_the_password_is_wrong(program, web):
    program("java")
    said, status = jdk.get("http://localhost:%d/" % web.port, "CORP\\bob", "wrong")
    assert "hello" not in said
    assert web.legs[:2] == NTLM and set(web.refused) == {"SEC_E_LOGON_DENIED"}


# -- curl ----------------------------------------------------------------------

def curl(program, web, user, password):
    done = subprocess.run(
        [program("curl"), "-sS", "--ntlm", "--config", "-", "http://localhost:%d/"
         % web.port], input=('user = "CORP\\\\%s:%s"' % (user, password)).encode(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False)
    return done.stdout.decode("utf-8", "replace")


def test_curl_is_let_in_when_it_offers_no_unicode(program, web):
    assert curl(program, web, "alice", servers.USERS["alice"]) == (
        "<p>hello CORP\\alice</p>")
    assert (web.legs, web.refused) == (NTLM, [])


def test_curl_is_refused_when_the_password_is_wrong(program, web):
    assert curl(program, web, "alice", "wrong") == ""
    assert (web.legs, web.refused) == (NTLM, ["SEC_E_LOGON_DENIED"])
