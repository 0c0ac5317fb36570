"""Is the lab sane? Asked with clients that are not ours: OpenLDAP, curl, GSSAPI."""
import json
import os
import subprocess

import pytest
import servers

# A GSSAPI client of gss_acceptor.py, run by the system's Python: it prints what
# the first two echoes gave. arguments: port, mech, target, user, password, bindings.
INITIATOR = """\
import socket, struct, sys, gssapi
from gssapi.raw import ChannelBindings, acquire_cred_with_password
port, mech, target, user, password, bindings = sys.argv[1:]
mech = gssapi.OID.from_int_seq(
    {"krb5": "1.2.840.113554.1.2.2", "ntlmssp": "1.3.6.1.4.1.311.2.2.10"}[mech])
credential = acquire_cred_with_password(
    gssapi.Name(user, gssapi.NameType.user), password.encode(), mechs=[mech],
    usage="initiate").creds if password else None
stream = socket.create_connection(("127.0.0.1", int(port))).makefile("rwb")
def exchange(message, answer=True):
    stream.write(struct.pack("<I", len(message)) + message)
    stream.flush()
    if answer:
        return stream.read(struct.unpack("<I", stream.read(4))[0])
context = gssapi.SecurityContext(
    name=gssapi.Name(target, gssapi.NameType.hostbased_service), mech=mech,
    creds=credential, usage="initiate", channel_bindings=ChannelBindings(
        application_data=bytes.fromhex(bindings)) if bindings else None,
    flags=[gssapi.RequirementFlag.mutual_authentication,
           gssapi.RequirementFlag.confidentiality])
token = context.step()
while token:
    token = context.step(exchange(token)) if not context.complete else exchange(
        token, answer=False)
for message in (b"one", b"two"):
    print(context.unwrap(exchange(context.wrap(message, True).message)).message)
"""

# Asks a URL with NTLM on one connection, prints [status, X-Remote-User] as JSON.
# Not curl: its NEGOTIATE_MESSAGE ends before the Version field, at 32 bytes, and
# gss-ntlmssp 1.2.0 refuses less than 40.
# arguments: port, certificate or "", user, password.
NTLM_GET = """\
import base64, http.client, json, ssl, sys, gssapi
from gssapi.raw import acquire_cred_with_password
port, certificate, user, password = sys.argv[1:]
mech = gssapi.OID.from_int_seq("1.3.6.1.4.1.311.2.2.10")
context = gssapi.SecurityContext(
    name=gssapi.Name("HTTP@localhost", gssapi.NameType.hostbased_service), mech=mech,
    creds=acquire_cred_with_password(gssapi.Name(user, gssapi.NameType.user),
        password.encode(), mechs=[mech], usage="initiate").creds, usage="initiate")
web = http.client.HTTPSConnection("localhost", int(port),
    context=ssl.create_default_context(cafile=certificate)
    ) if certificate else http.client.HTTPConnection("localhost", int(port))
reply = None
while not context.complete:
    token = base64.b64encode(context.step(reply)).decode()
    web.request("GET", "/ntlm/", headers={"Authorization": "NTLM " + token})
    answer = web.getresponse()
    answer.read()
    reply = base64.b64decode(answer.headers.get("WWW-Authenticate", "NTLM ")[5:])
print(json.dumps([answer.status, answer.headers.get("X-Remote-User")]))
"""

# Prints the length of the first Kerberos token. argument: target.
FIRST_TOKEN = """\
import sys, gssapi
name = gssapi.Name(sys.argv[1], gssapi.NameType.kerberos_principal)
print(len(gssapi.SecurityContext(name=name, usage="initiate").step()))
"""


def run(*argv, env=None):
    done = subprocess.run([str(word) for word in argv], env=env, timeout=60,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout.decode("utf-8", "replace")


# -- The domain ----------------------------------------------------------------

# OpenLDAP takes "localhost" for what the machine calls itself, a name that no
# certificate of ours holds.
NAME_UNCHECKED = {"LDAPTLS_REQCERT": "never"}


def find_alice(*options, env):
    """Ask for alice's entry, which Samba shows to nobody anonymous."""
    status, text = run("ldapsearch", "-LLL", "-Q", "-N", "-b", "DC=ad,DC=test",
                       *options, "(sAMAccountName=alice)", "dn", env=env)
    return status, text.splitlines()[:1]


ALICE = (0, ["dn: CN=alice,CN=Users,DC=ad,DC=test"])


@pytest.mark.parametrize("mechanism", ["GSSAPI", "GSS-SPNEGO"])
def test_samba_takes_a_ticket(samba, tmp_path, mechanism):
    url = "ldap://localhost:%d" % samba.ldap_port
    env = servers.kinit(samba, "alice", tmp_path / "ccache")
    assert find_alice("-H", url, "-Y", mechanism, env=env) == ALICE


def test_samba_takes_a_ticket_inside_tls(samba, tmp_path):
    url = "ldaps://localhost:%d" % samba.ldaps_port
    env = servers.kinit(samba, "alice", tmp_path / "ccache")
    env.update(NAME_UNCHECKED)
    options = ["-H", url, "-Y", "GSS-SPNEGO", "-O", "maxssf=0"]
    assert find_alice(*options, env=env) == ALICE


@pytest.mark.parametrize("user", sorted(servers.USERS))
def test_samba_takes_the_password_and_no_other(samba, user):
    env = dict(os.environ, **NAME_UNCHECKED)
    bind = ["ldapsearch", "-x", "-H", "ldaps://localhost:%d" % samba.ldaps_port,
            "-b", "DC=ad,DC=test", "-s", "base", "-D", user + "@ad.test", "-w"]
    status, text = run(*bind, samba.users[user], env=env)
    assert status == 0, text
    assert "Invalid credentials (49)" in run(*bind, "wrong", env=env)[1]


def test_the_token_of_crowd_is_larger_than_12000_bytes(samba, tmp_path):
    env = servers.kinit(samba, samba.crowd, tmp_path / "ccache")
    status, text = run(servers.SYSTEM_PYTHON, "-c", FIRST_TOKEN,
                       "%s@%s" % (samba.target, samba.realm), env=env)
    assert status == 0 and 12000 < int(text) < 16000


# -- The realm -----------------------------------------------------------------

@pytest.mark.parametrize("user", sorted(servers.USERS))
def test_the_realm_takes_the_password_and_no_other(realm, tmp_path, user):
    servers.kinit(realm, user, tmp_path / "ccache")
    wrong = realm._replace(users={user: "wrong"})
    with pytest.raises(servers.LabError, match="^kinit failed"):
        servers.kinit(wrong, user, tmp_path / "ccache2")


def test_an_expired_ticket_has_expired(realm, tmp_path):
    good = servers.kinit(realm, "alice", tmp_path / "good")
    late = servers.expired_ticket(realm, "alice", tmp_path / "late")
    assert run("klist", "-s", env=good)[0] == 0
    assert run("klist", "-s", env=late)[0] == 1
    assert "Ticket expired" in run("kvno", "HTTP/localhost", env=late)[1]


# -- HTTP ----------------------------------------------------------------------

def curl(*options, env=None):
    """Return the last status and the user that the server saw."""
    status, text = run("curl", "-sS", "-o", os.devnull, "-w",
                       "%{http_code} %header{x-remote-user}", *options, env=env)
    return tuple(text.split(" ")) if status == 0 else (status, text)


def url(web, place, scheme="http"):
    port = {"http": web.port, "https": web.tls_port}[scheme]
    return "%s://%s:%d/%s/" % (scheme, web.host, port, place)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_apache_krb_wants_a_ticket(apache, realm, tmp_path, scheme):
    options = ["--cacert", apache.certificate, "--negotiate", "-u", ":",
               url(apache, "krb", scheme)]
    env = servers.kinit(realm, "alice", tmp_path / "ccache")
    assert curl(*options, env=env) == ("200", "alice@LAB.TEST")
    env["KRB5CCNAME"] = str(tmp_path / "none")
    assert curl(*options, env=env) == ("401", "")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("user", sorted(servers.USERS))
def test_apache_ntlm_takes_the_password_and_no_other(apache, scheme, user):
    def get(password):
        place = {"http": (apache.port, ""),
                 "https": (apache.tls_port, apache.certificate)}[scheme]
        status, text = run(servers.SYSTEM_PYTHON, "-c", NTLM_GET, *place,
                           "LAB\\" + user, password)
        return json.loads(text) if status == 0 else text

    assert get(apache.users[user]) == [200, "LAB\\" + user]
    assert get("wrong") == [401, None]


def test_squid_opens_a_tunnel_for_a_ticket(squid, apache, realm, tmp_path):
    options = ["--cacert", apache.certificate, "--proxy",
               "http://%s:%d" % (squid.host, squid.port), "--proxy-negotiate",
               "-U", ":", url(apache, "open", "https")]
    env = servers.kinit(realm, "alice", tmp_path / "ccache")
    assert curl(*options, env=env) == ("200", "")
    env["KRB5CCNAME"] = str(tmp_path / "none")
    assert "407" in curl(*options, env=env)[1]


# -- Channel bindings ----------------------------------------------------------

def client(acceptor, mech, bindings, env=None, user="", password=""):
    return run(servers.SYSTEM_PYTHON, "-c", INITIATOR, acceptor.port, mech,
               "host@localhost", user, password, bindings.hex(), env=env)


def test_acceptor_compares_bindings_of_kerberos(acceptor, realm, tmp_path):
    server = acceptor("krb5", b"tls-server-end-point:1", "wrap")
    env = servers.kinit(realm, "alice", tmp_path / "ccache")
    for bindings in (b"tls-server-end-point:1", b"tls-server-end-point:2", b""):
        client(server, "krb5", bindings, env)
    same, other, none = servers.results(server, 3)
    assert same == {"user": "alice@LAB.TEST", "mech": "krb5", "bound": True,
                    "echoed": 2}
    assert "Incorrect channel bindings" in other["error"]
    assert none == dict(same, bound=False)


@pytest.mark.parametrize("user", sorted(servers.USERS))
def test_acceptor_compares_bindings_of_ntlm(acceptor, realm, user):
    server = acceptor("ntlmssp", b"tls-server-end-point:1", "wrap")
    name, password = "LAB\\" + user, realm.users[user]
    for bindings, secret in ((b"tls-server-end-point:1", password),
                             (b"tls-server-end-point:2", password),
                             (b"", password),
                             (b"tls-server-end-point:1", "wrong")):
        client(server, "ntlmssp", bindings, user=name, password=secret)
    same, other, none, stranger = servers.results(server, 4)
    assert same == {"user": name, "mech": "ntlmssp", "bound": True, "echoed": 2}
    assert "Permission denied" in other["error"]        # how gss-ntlmssp says it
    assert none == dict(same, bound=False)
    assert "error" in stranger
