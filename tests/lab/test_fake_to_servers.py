"""FakeSecur32's NTLM, bare and in SPNEGO, against servers that are not ours.

Samba answers by LDAP, mod_auth_gssapi by HTTP, gss-ntlmssp through the acceptor.
gss-ntlmssp compares channel bindings, but it lets in a client that gives none; the
application is told by GSS_C_CHANNEL_BOUND_FLAG, and it is up to that to refuse.

Under Debian 13's MIT Kerberos (1.21) gss-ntlmssp cannot talk SPNEGO even to itself: it
makes no mechListMIC there. What needs one is tested on Debian 12 alone.
"""
import platform

import client
import pytest
import servers

import sspi_client

SIGNING = 0x1000E           # INTEGRITY, REPLAY_DETECT, SEQUENCE_DETECT, MUTUAL_AUTH
BINDINGS = "tls-server-end-point:1"
OTHER_BINDINGS = "tls-server-end-point:2"

# What the last token is called, and where in it to strike: bare, at the MIC of the
# AUTHENTICATE message; in SPNEGO at the end, which is the mechListMIC's.
WRAPPINGS = pytest.mark.parametrize("package, last, mic", [
    ("NTLM", "NTLM AUTHENTICATE", 72),
    ("Negotiate", "SPNEGO NegTokenResp (accept-incomplete): NTLM AUTHENTICATE", -1)],
    ids=["bare", "spnego"])
USERS = pytest.mark.parametrize("user", sorted(servers.USERS))


@pytest.fixture
def spnego_of_gss(package):
    """Leaves out SPNEGO where gss-ntlmssp cannot talk it to itself."""
    glibc = tuple(int(n) for n in platform.libc_ver()[1].split(".")[:2])
    if package == "Negotiate" and glibc > (2, 36):      # Debian 12 has 2.36
        pytest.skip("gss-ntlmssp under MIT 1.21 makes no mechListMIC")


def to_samba(samba, user, password=None, **job):
    return dict({"to": "ldap", "port": samba.ldap_port, "target": samba.target,
                 "fake": [samba.netbios, samba.users],
                 "identity": [user, password or samba.users[user], samba.netbios]},
                **job)


def to_apache(apache, user, password=None, **job):
    return dict({"to": "http", "port": apache.port, "target": apache.target,
                 "path": "/ntlm/", "fake": [apache.domain, apache.users],
                 "identity": [user, password or apache.users[user], apache.domain]},
                **job)


def to_acceptor(acceptor, realm, password=None, **job):
    return dict({"to": "frames", "port": acceptor.port, "target": acceptor.target,
                 "fake": [realm.netbios, realm.users],
                 "identity": ["bob", password or realm.users["bob"], realm.netbios]},
                **job)


# -- Samba ---------------------------------------------------------------------

@WRAPPINGS
@pytest.mark.parametrize("user", sorted(servers.USERS) + [servers.CROWD])
def test_samba_accepts_the_token_and_sealed_messages_when_the_user_is(
        samba, package, last, mic, user):
    report = client.run(to_samba(samba, user, package=package))
    assert (report["sent"][-1][0], report["proof"]) == (last, user)


@WRAPPINGS
def test_samba_refuses_when_the_password_is_wrong(samba, package, last, mic):
    report = client.run(to_samba(samba, "bob", "wrong", package=package))
    assert (report["sent"][-1][0], report["refused"]) == (last, "LDAP result 49")


@WRAPPINGS
def test_samba_refuses_when_the_mic_is_wrong(samba, package, last, mic):
    job = to_samba(samba, "bob", package=package, spoil=last, at=mic)
    assert client.run(job)["refused"] == "LDAP result 49"


def test_samba_signs_the_mechanism_list_when_it_accepts(samba):
    # FakeSecur32 checks the mechListMIC, of 16 bytes; without one there are 9 in all.
    report = client.run(to_samba(samba, "bob", package="Negotiate"))
    assert report["received"][-1] == ["SPNEGO NegTokenResp (accept-completed)", 29]


@WRAPPINGS
def test_samba_hangs_up_when_a_sealed_message_was_altered(samba, package, last, mic):
    job = to_samba(samba, "bob", package=package, alter="sent")
    assert client.run(job)["refused"] == "LDAP server hung up"


def test_message_of_samba_is_refused_when_altered(samba):
    report = client.run(to_samba(samba, "bob", package="NTLM", alter="received"))
    assert report["error"][0] == "SEC_E_MESSAGE_ALTERED"


# -- mod_auth_gssapi -----------------------------------------------------------

@WRAPPINGS
@USERS
def test_apache_accepts_the_password_and_no_other_when_the_user_is(apache, package,
                                                                   last, mic, user):
    assert client.run(to_apache(apache, user, package=package))["proof"] == [
        200, "LAB\\" + user]
    report = client.run(to_apache(apache, user, "wrong", package=package))
    assert "error" in report or report["proof"] == [401, None]


# -- gss-ntlmssp ---------------------------------------------------------------

@pytest.mark.usefixtures("spnego_of_gss")
@WRAPPINGS
@pytest.mark.parametrize("how, flags", [
    ("seal", sspi_client.DEFAULT_FLAGS), ("sign", sspi_client.DEFAULT_FLAGS),
    ("sign", SIGNING)], ids=["sealed", "signed", "signed-without-sealing"])
def test_gss_ntlmssp_takes_and_makes_messages_when(acceptor, realm, package, last, mic,
                                                   how, flags):
    server = acceptor("ntlmssp", echo={"seal": "wrap", "sign": "mic"}[how])
    job = to_acceptor(server, realm, package=package, how=how, flags=int(flags))
    assert client.run(job)["proof"] == 3
    assert servers.results(server, 1) == [
        {"user": "LAB\\bob", "mech": "ntlmssp", "bound": False, "echoed": 3}]


@pytest.mark.usefixtures("spnego_of_gss")
@WRAPPINGS
@pytest.mark.parametrize("how", ["seal", "sign"])
def test_message_is_refused_on_both_sides_when_altered(acceptor, realm, package, last,
                                                       mic, how):
    server = acceptor("ntlmssp", echo={"seal": "wrap", "sign": "mic"}[how])
    job = to_acceptor(server, realm, package=package, how=how)
    client.run(dict(job, alter="sent"))
    report = client.run(dict(job, alter="received"))
    assert "BadMICError" in servers.results(server, 2)[0]["error"]
    assert report["error"][0] in ("SEC_E_MESSAGE_ALTERED", "SEC_E_OUT_OF_SEQUENCE")


@pytest.mark.usefixtures("spnego_of_gss")
@WRAPPINGS
def test_gss_ntlmssp_refuses_when_password_or_mic_is_wrong(acceptor, realm, package,
                                                           last, mic):
    server = acceptor("ntlmssp")
    client.run(to_acceptor(server, realm, "wrong", package=package))
    client.run(to_acceptor(server, realm, package=package, spoil=last, at=mic))
    assert ["error" in result for result in servers.results(server, 2)] == [True] * 2


@WRAPPINGS
def test_gss_ntlmssp_compares_bindings_when_it_has_some(acceptor, realm, package, last,
                                                        mic):
    server = acceptor("ntlmssp", BINDINGS.encode())
    job = to_acceptor(server, realm, package=package)
    client.run(dict(job, bindings=BINDINGS))
    client.run(dict(job, bindings=OTHER_BINDINGS))
    client.run(job)
    same, other, none = servers.results(server, 3)
    assert same == {"user": "LAB\\bob", "mech": "ntlmssp", "bound": True, "echoed": 0}
    assert "Permission denied" in other["error"]        # how gss-ntlmssp says it
    assert none == dict(same, bound=False)


@WRAPPINGS
def test_gss_ntlmssp_refuses_a_client_without_bindings_when_it_demands_them(
        acceptor, realm, package, last, mic):
    server = acceptor("ntlmssp", BINDINGS.encode(), demand=True)
    job = to_acceptor(server, realm, package=package)
    client.run(dict(job, bindings=BINDINGS))
    client.run(dict(job, bindings=OTHER_BINDINGS))
    client.run(job)
    same, other, none = servers.results(server, 3)
    assert same["bound"] is True
    assert "Permission denied" in other["error"]
    assert none == {"error": "the client gave no channel bindings"}
