"""The examples with Windows CPython on Wine, against servers that are not ours.

What stands in the way on Wine 8.0, beside what test_wine_to_servers.py lists:

- Kerberos can neither seal nor wrap. So LDAP by Kerberos shows the bind alone, and
  mail by GSSAPI is given wrap() and unwrap() for what Wine makes, see WRAP.
- Kerberos inside TLS is refused by Samba, and NTLM takes no bindings. So LDAP
  inside TLS, and mail by NTLM, is shown by the fake's NTLM, which is real, on this
  machine's CPython (Samba 4.17 does not look at bindings), and on Wine without.
- Samba 4.17 knows no "who am I?", so whoami() hears its refusal, sealed; and
  after bind() the connection finds its own account, which Samba shows to
  nobody anonymous. Active Directory was not there to ask.
"""
import contextlib
import importlib.util
import os
from pathlib import Path

import ldap_bind
import mail
import pytest
import servers
import windows

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# What each program begins with: the examples, and the DLL with client.py's buffer.
PRELUDE = """\
import getpass, os, sys
sys.modules["_wmi"] = None          # Wine 8.0 dies of platform.system() since 3.12
sys.path[:0] = os.environ["EXAMPLES"].split(";")
import sspi_client
import client
def secur32(package="Negotiate"):
    return client.backend({"to": "", "package": package})
def account(connection):            # tokenGroups of the rootDSE begins with ours
    def read(base, name):
        connection.search(base, "(objectClass=*)", "BASE", attributes=[name])
        return connection.response[0]["raw_attributes"][name][0]
    return read("<SID=%s>" % read("", "tokenGroups").hex(), "sAMAccountName").decode()
def run(example, secur32, *argv, password=None):
    getpass.getpass = lambda *prompt: password
    print("said:", example.main(list(argv), secur32))
"""

# A Context whose wrap() and unwrap() fit Wine's Kerberos: EncryptMessage fills DATA
# first and needs more room for its TOKEN than it announces; DecryptMessage wants the
# same two pieces. The bytes are those of gss_wrap, always encrypted.
WRAP = """\
from ctypes import addressof, byref, create_string_buffer, string_at
from sspi_client import SECBUFFER_DATA, SECBUFFER_TOKEN, Context, Message
def pieces(first, second):
    a, b = create_string_buffer(first, len(first)), create_string_buffer(second)
    parts = (sspi_client.SecBuffer * 2)((len(first), SECBUFFER_DATA, addressof(a)),
                                        (len(second), SECBUFFER_TOKEN, addressof(b)))
    return a, b, sspi_client.SecBufferDesc(0, 2, parts), parts
def wrap(self, data, encrypt=True):
    a, b, message, parts = pieces(data, bytes(256))
    context = byref(self._handles.context)
    status = self._handles.secur32.EncryptMessage(context, 0, byref(message), 0)
    assert status == 0, hex(status & 0xFFFFFFFF)
    return a.raw + b.raw[:parts[1].cbBuffer]
def unwrap(self, blob):
    a, b, message, parts = pieces(blob[:4], blob[4:])
    context = byref(self._handles.context)
    status = self._handles.secur32.DecryptMessage(context, byref(message), 0, None)
    assert status == 0, hex(status & 0xFFFFFFFF)
    return Message(string_at(parts[0].pvBuffer, parts[0].cbBuffer), False)
Context.wrap, Context.unwrap = wrap, unwrap
"""


@pytest.fixture
def wine_python(wine):
    """A function that runs a program after PRELUDE on Wine, and returns its output."""
    wine([])                        # skips, or fails, if there is no Wine

    def run(program, env=None, libraries=()):
        folders = [EXAMPLES, Path(__file__).parent, *libraries]
        here = {"EXAMPLES": ";".join(map(windows.windows_path, folders))}
        done = windows.python("3.13").run(
            ["-W", "ignore::DeprecationWarning", "-c", PRELUDE + program],
            dict(env or {}, **here), timeout=100)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        return done.stdout

    return run


@pytest.fixture(scope="module")
def ldap3():
    """The folder of ldap3 and pyasn1, which Windows' CPython can use as they are."""
    spec = importlib.util.find_spec("ldap3")
    if spec is None:
        reason = "ldap3 is not installed"
        if os.environ.get("SSPI_CLIENT_EXAMPLES") == "required":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return Path(spec.origin).parents[1]


@pytest.fixture(scope="module")
def mailer(lab_folder, realm):
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(mail.dovecot(
                lab_folder / "mail", realm, servers.free_port(), servers.free_port()))
        except servers.LabError as error:
            if os.environ.get("SSPI_CLIENT_LAB") == "required":
                pytest.fail(str(error), pytrace=False)
            pytest.skip(str(error))
        yield server


@pytest.fixture
def ticket(tmp_path):
    """For a server: the environment in which alice is logged on."""
    def logon(server):
        env = servers.kinit(server, "alice", tmp_path / "alice")
        return {name: env[name] for name in ("KRB5_CONFIG", "KRB5CCNAME")}
    return logon


@pytest.fixture
def nobody(tmp_path):
    return {"KRB5CCNAME": "FILE:%s" % (tmp_path / "none")}


# -- Frames ----------------------------------------------------------------------

@pytest.mark.parametrize("name", ["sockets_client", "asyncio_stream"])
@pytest.mark.parametrize("user", sorted(servers.USERS))
def test_framed_client_talks_to_gss_ntlmssp_when_it_is(wine_python, acceptor, realm,
                                                       nobody, name, user):
    server = acceptor("ntlmssp", echo="wrap")
    said = wine_python("""\
import %s as example
run(example, None, "localhost", "%d", "--user", %r, password=%r)
""" % (name, server.port, "LAB\\" + user, realm.users[user]), nobody)
    assert "b'hello'" in said and said.endswith("said: None\n")
    assert servers.results(server, 1) == [
        {"user": "LAB\\" + user, "mech": "ntlmssp", "bound": False, "echoed": 1}]


@pytest.mark.parametrize("name", ["sockets_client", "asyncio_stream"])
def test_framed_client_says_one_line_when_gss_ntlmssp_refuses(
        wine_python, acceptor, nobody, name):
    server = acceptor("ntlmssp", echo="wrap")
    said = wine_python("""\
import %s as example
run(example, None, "localhost", "%d", "--user", r"LAB\\bob", password="wrong")
""" % (name, server.port), nobody)
    assert said.splitlines()[-1].startswith("said: %s: " % name)
    assert "error" in servers.results(server, 1)[0]


def test_framed_log_on_is_kerberos_when_logged_on(wine_python, acceptor, realm, ticket):
    server = acceptor("krb5")
    said = wine_python("""\
import asyncio, socket
import sockets_client, asyncio_stream
at, spn = ("localhost", %d), "host/localhost"
with socket.create_connection(at) as connection:
    with sockets_client.log_on(connection, spn, None, secur32()) as context:
        print(context.package)
async def go():
    reader, writer = await asyncio.open_connection(*at)
    with await asyncio_stream.log_on(reader, writer, spn, None, secur32()) as context:
        print(context.package)
    writer.close()
asyncio.run(go())
""" % server.port, ticket(realm))
    assert said.split() == ["Kerberos"] * 2
    assert [result["user"] for result in servers.results(server, 2)] == [
        "alice@LAB.TEST"] * 2


TRACE = """\
import socket, sockets_client, flow_trace
identity = %s
flow = sspi_client.authenticate("host/localhost", identity, package=%r,
                                secur32=secur32(%r))
with socket.create_connection(("localhost", %d)) as connection:
    def exchange(token):
        sockets_client.send(connection, token)
        return None if token.final else sockets_client.receive(connection)
    sspi_client.drive(flow_trace.trace(flow), exchange).close()
"""


def test_trace_tells_the_legs_of_kerberos_with_mit(wine_python, acceptor, realm,
                                                   ticket):
    server = acceptor("krb5")
    said = wine_python(TRACE % (None, "Kerberos", "Kerberos", server.port),
                       ticket(realm)).splitlines()
    assert [line.partition(",")[0] for line in said] == [
        "1 -> Kerberos AP-REQ", "1 <- Kerberos AP-REP", "2    SEC_E_OK"]
    assert servers.results(server, 1)[0]["user"] == "alice@LAB.TEST"


def test_trace_tells_the_legs_of_ntlm_with_gss_ntlmssp(wine_python, acceptor, realm,
                                                       nobody):
    server = acceptor("ntlmssp")
    identity = "sspi_client.Identity(%r, %r)" % ("LAB\\alice", realm.users["alice"])
    said = wine_python(TRACE % (identity, "NTLM", "NTLM", server.port),
                       nobody).splitlines()
    assert [line.partition(",")[0] for line in said] == [
        "1 -> NTLM NEGOTIATE", "1 <- NTLM CHALLENGE", "2 -> NTLM AUTHENTICATE",
        "2 <- no token"]
    assert servers.results(server, 1)[0]["user"] == "LAB\\alice"


def test_sockets_client_talks_to_itself_when_alone(wine_python):
    said = wine_python("import sockets_client\nrun(sockets_client, None)\n")
    assert said.startswith("secur32.dll logs on to a FakeServer\n")
    assert said.endswith("encrypted answer (True): b'hello'\nsaid: None\n")


# -- LDAP ------------------------------------------------------------------------

UNKNOWN = "ldap_search: who am I: protocolError"    # how Samba 4.17 refuses that

# Binds, and tells the package and the account that the server has for us.
BIND = """\
import ssl, ldap3, ldap_search
ldap3.set_config_parameter("RESTARTABLE_SLEEPTIME", 0)
def bind(secur32, identity=None, cafile=None, tls="no", strategy="SYNC", ask=account):
    trust = ldap3.Tls(validate=ssl.CERT_REQUIRED, ca_certs_file=cafile)
    inside = tls == "ldaps"
    server = ldap3.Server("localhost", 636 if inside else 389, inside, tls=trust,
                          get_info=ldap3.NONE)
    connection = ldap_search.SspiConnection(
        server, "ldap/localhost", identity, secur32=secur32, receive_timeout=30,
        check_names=False, client_strategy=strategy)
    if tls == "start":
        connection.start_tls()
    with connection:
        print(connection.negotiated,
              connection.negotiated == "Kerberos" or ask(connection))
def found(connection, base, scope="SUBTREE", attributes=()):
    which = "(&(cn=group*)(!(cn=*policy*)))"  # Samba has one of its own
    return list(ldap_search.search(connection, base, which, attributes, scope=scope,
                                   page_size=300))
"""


@pytest.mark.parametrize("user", ["alice", "crowd"])
def test_ldap_bind_is_sealed_when_it_is_ntlm(wine_python, samba, nobody, ldap3, user):
    # The answer to crowd is longer than 40 KB, in one sealed message.
    said = wine_python(BIND + """\
bind(None, sspi_client.Identity(%r, "Secret123!"))
""" % ("ADT\\" + user), nobody, [ldap3])
    assert said.split() == ["NTLM", user]


@pytest.mark.parametrize("strategy", ["SYNC", "ASYNC", "RESTARTABLE"])
def test_ldap_search_pages_through_all_groups_when_sealed(
        wine_python, samba, nobody, ldap3, strategy):
    said = wine_python(BIND + """\
def count(connection):
    entries = found(connection, "CN=Users,DC=ad,DC=test", attributes=["cn", "member"])
    return len({entry.dn for entry in entries}), min(map(len, entries[0].attributes))
bind(None, sspi_client.Identity(r"ADT\\alice", "Secret123!"), strategy=%r, ask=count)
""" % strategy, nobody, [ldap3])
    assert said.split("NTLM ")[1].startswith("(%d, " % servers.CROWD_GROUPS)


def test_ldap_restart_logs_on_and_seals_again_when_samba_is_cut_off(
        wine_python, samba, nobody, ldap3):
    said = wine_python(BIND + """\
def cut_off(connection):
    before = connection.socket
    before.shutdown(2)
    name = account(connection)
    return name, type(connection.socket).__name__, connection.socket is not before
bind(None, sspi_client.Identity(r"ADT\\alice", "Secret123!"), strategy="RESTARTABLE",
     ask=cut_off)
""", nobody, [ldap3])
    assert said.strip() == "NTLM ('alice', 'SealedSocket', True)"


def test_ldap_search_command_prints_what_it_finds_when_told(
        wine_python, samba, nobody, ldap3):
    said = wine_python("""\
import ldap_search
command = ["localhost", "--user", r"ADT\\alice", "--filter", "(cn=group7)"]
run(ldap_search, None, *command, "--attributes", "sAMAccountName,objectSid",
    password="Secret123!")
run(ldap_search, None, *command, "--attributes", "member", "--format", "json",
    password="Secret123!")
run(ldap_search, None, *command, "--base", "DC=nowhere", password="Secret123!")
""", nobody, [ldap3])
    assert "dn: CN=group7,CN=Users,DC=ad,DC=test\n" in said.replace("\r", "")
    assert "sAMAccountName: group7" in said and "objectSid:: " in said
    assert '"member": ["CN=crowd,CN=Users,DC=ad,DC=test"]' in said
    assert said.splitlines()[-1].startswith("said: ldap_search: search: ")


def test_ldap_whoami_hears_a_sealed_refusal_when_samba_knows_no_such_question(
        wine_python, samba, nobody, ldap3):
    said = wine_python("""\
import ldap_search
run(ldap_search, None, "localhost", "--user", r"ADT\\alice", password="Secret123!")
run(ldap_search, None, "localhost", "--user", r"ADT\\alice", password="wrong")
""", nobody, [ldap3])
    question, logon = said.splitlines()
    assert question.startswith("said: " + UNKNOWN)
    assert logon.startswith("said: ldap_search: invalidCredentials")


def test_ldap_bind_is_let_in_when_it_is_kerberos(wine_python, samba, ticket, ldap3):
    said = wine_python(BIND + "bind(secur32())\n", ticket(samba), [ldap3])
    assert said.split() == ["Kerberos", "True"]


@pytest.mark.parametrize("strategy", ["SYNC", "ASYNC", "RESTARTABLE"])
@pytest.mark.parametrize("tls", ["start", "ldaps"])
def test_ldap_bind_is_let_in_when_inside_tls(wine_python, samba, nobody, ldap3, tls,
                                             strategy):
    # Bindings left out: Wine's NTLM refuses them before anything is sent.
    said = wine_python(BIND + """\
authenticate = sspi_client.authenticate
def unbound(*arguments, channel_bindings, **more):
    assert channel_bindings.startswith(b"tls-server-end-point:")
    return authenticate(*arguments, **more)
sspi_client.authenticate = unbound
def whole(connection):
    _, result = ldap_search.answer(
        connection, connection.search("", "(objectClass=*)", "BASE"))
    return result["result"], type(connection.socket).__name__
bind(None, sspi_client.Identity(r"ADT\\alice", "Secret123!"), %r, %r, %r, ask=whole)
""" % (windows.windows_path(samba.certificate), tls, strategy), nobody, [ldap3])
    assert said.strip() == "NTLM (0, 'SSLSocket')"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("tls", ["no", "start", "ldaps"])
def test_ldap_search_is_let_in_when_the_fake_speaks_ntlm(samba, ldap3, capsys, tls):
    # Inside TLS with NTLM alone: in SPNEGO it offers to sign, which Samba refuses.
    ldap_bind.bind_and_search(samba.certificate, tls, samba.users["bob"])
    found = capsys.readouterr().out
    assert "sAMAccountName: bob" in found


# -- Mail ------------------------------------------------------------------------

# Wine's NTLM takes no channel bindings: here they are seen to be there, and left out.
UNBOUND = """\
authenticate = sspi_client.authenticate
def unbound(*arguments, channel_bindings, **more):
    if inside_tls:
        assert channel_bindings.startswith(b"tls-server-end-point:")
    return authenticate(*arguments, **more)
sspi_client.authenticate = unbound
import mail_login
inside_tls = %r
command = [%r, "localhost", "%d", "--mechanism", %r, "--ca", %r]
command += [] if inside_tls else ["--no-starttls"]
"""
WAYS = ["imap", "imap+TLS", "imaps", "smtp", "smtp+TLS", "smtps", "exim+TLS", "exims"]


@pytest.fixture(scope="module")
def exim(lab_folder, mailer):
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(mail.exim(
                lab_folder / "exim", mailer, servers.free_port(), servers.free_port()))
        except servers.LabError as error:
            if os.environ.get("SSPI_CLIENT_LAB") == "required":
                pytest.fail(str(error), pytrace=False)
            pytest.skip(str(error))


@pytest.fixture(params=WAYS)
def way(request, mailer, exim):
    """What UNBOUND needs to know to get there, without the mechanism."""
    name = request.param
    port = {"imap": mailer.port, "imap+TLS": mailer.port, "imaps": mailer.imaps_port,
            "smtp": mailer.smtp_port, "smtp+TLS": mailer.smtp_port,
            "smtps": mailer.smtps_port, "exim+TLS": exim.port,
            "exims": exim.tls_port}[name]
    server = exim if name.startswith("exim") else mailer
    protocol = name.replace("exim", "smtp").replace("+TLS", "")
    trust = windows.windows_path(server.certificate)
    return lambda mechanism: (name not in ("imap", "smtp"), protocol, port, mechanism,
                              trust)


def test_mail_login_is_let_in_when_it_is_ntlm(wine_python, way, nobody):
    said = wine_python(UNBOUND % way("NTLM") + """\
command += ["--user", r"LAB\\alice"]
run(mail_login, None, *command, password="Secret123!")
run(mail_login, None, *command, password="wrong")
""", nobody)
    good, _, bad = said.splitlines()
    assert good.startswith("localhost lets us in")
    assert bad.startswith("said: mail_login: the server says: ")


def test_mail_login_is_let_in_when_it_is_gssapi(wine_python, way, realm, ticket):
    said = wine_python(WRAP + UNBOUND % way("GSSAPI") + """\
run(mail_login, secur32(), *command)
run(mail_login, secur32(), *command, "--spn", "imap/nowhere")
""", ticket(realm))
    good, *_, bad = said.splitlines()
    assert good.startswith("localhost lets us in"), said
    assert bad.startswith("said: mail_login: InitializeSecurityContextW: ")


def test_mail_login_says_what_exim_says_when_tls_was_forgotten(wine_python, exim,
                                                               nobody):
    said = wine_python("""\
import mail_login
run(mail_login, None, "smtp", "localhost", "%d", "--no-starttls", "--mechanism", "NTLM",
    "--user", r"LAB\\alice", password="Secret123!")
""" % exim.port, nobody)
    assert said.startswith("said: mail_login: the server says: 503 ")


def test_mail_is_sent_when_logged_on_to_exim(wine_python, exim, nobody):
    said = wine_python(UNBOUND % (True, "smtp", exim.port, "NTLM", "") + """\
import ssl
trust = ssl.create_default_context(cafile=%r)
smtp = mail_login.connect("smtp", "localhost", %d, tls=trust)
identity = sspi_client.Identity(r"LAB\\alice", "Secret123!")
mail_login.log_on(smtp, "NTLM", "smtp/localhost", identity)
print(smtp.sendmail("alice@localhost", ["bob@localhost"], "Subject: hello\\r\\n\\r\\n"))
smtp.quit()
""" % (windows.windows_path(exim.certificate), exim.port), nobody)
    assert said.strip() == "{}"
