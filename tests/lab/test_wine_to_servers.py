"""Windows CPython on Wine's secur32, against servers that are not ours.

What Wine does otherwise than Windows (8.0 and 10.0), as far as it is met here:

- Kerberos ignores ISC_REQ_ALLOCATE_MEMORY before Wine 10; client.py makes up for it.
- Kerberos' EncryptMessage lays its messages out wrongly; client.py's RightLayout puts
  them right, byte for byte as they are. Where it is left out, Samba, which talks in
  no others after a bind by Kerberos, lets us in and no more.
- Kerberos answers SESSION_KEY since Wine 10.
- Kerberos always offers integrity and confidentiality, asked or not, so Samba
  refuses it inside TLS.
- Kerberos takes no ANSI credentials. It asks the KDC for a ticket as soon as
  explicit credentials are acquired, so a wrong password fails there.
- Whatever the KDC says comes out as SEC_E_INTERNAL_ERROR or STATUS_UNSUCCESSFUL.
- Negotiate sends Kerberos' and NTLM's tokens bare, without SPNEGO. Without a ticket
  and without a password Wine 10 sends NTLM's first token before it gives up.
- Channel bindings never reach the wire: see the tests of them.
- Without SEAL, NTLM's EncryptMessage makes signatures of NTLMv1. So what is signed
  and not sealed goes to gss-ntlmssp by MakeSignature; Samba's LDAP, which takes
  SIGN for SEAL, checks the signatures of sealed messages.
"""
import pytest
import servers
import windows

import sspi_client

SIGNING = 0x1000E           # INTEGRITY, REPLAY_DETECT, SEQUENCE_DETECT, MUTUAL_AUTH
BINDINGS = "tls-server-end-point:1"
OTHER_BINDINGS = "tls-server-end-point:2"
FAILED = "0xC0000001"       # ntstatus.h, STATUS_UNSUCCESSFUL
ALIKE = pytest.mark.parametrize("package", ["Kerberos", "Negotiate"])


def only(server, ccache):
    """Return the environment in which *ccache* is the logon."""
    return {"KRB5_CONFIG": str(server.krb5_config), "KRB5CCNAME": "FILE:%s" % ccache}


@pytest.fixture
def nobody(tmp_path):
    """For a server: the environment in which nobody is logged on."""
    return lambda server: only(server, tmp_path / "none")


@pytest.fixture
def ticket(tmp_path):
    """For a server and a user: the environment in which that user is logged on."""
    def logon(server, user, get=servers.kinit):
        get(server, user, tmp_path / user)
        return only(server, tmp_path / user)
    return logon


def to_samba(samba, **job):
    return dict({"to": "ldap", "port": samba.ldap_port, "target": samba.target}, **job)


def to_apache(apache, place, **job):
    return dict({"to": "http", "port": apache.port, "target": apache.target,
                 "path": "/%s/" % place}, **job)


def to_acceptor(acceptor, **job):
    return dict({"to": "frames", "port": acceptor.port, "target": acceptor.target},
                **job)


def named(server, user, password=None, domain=None):
    return [user, password or server.users[user], domain or server.netbios]


def kinds(tokens):
    return [kind for kind, _ in tokens]


AP_REQ, AP_REP = ["Kerberos AP-REQ"], ["Kerberos AP-REP"]
NTLM = ["NTLM NEGOTIATE", "NTLM AUTHENTICATE"]


# -- Kerberos ------------------------------------------------------------------

@ALIKE
def test_samba_accepts_kerberos_when_the_user_is_logged_on(wine, samba, ticket,
                                                           package):
    job = to_samba(samba, package=package, how="bind alone")
    [report] = wine([job], ticket(samba, "alice"))
    assert (kinds(report["sent"]), report["package"], report["proof"]) == (
        AP_REQ, "Kerberos", "bound")


@ALIKE
def test_apache_accepts_kerberos_when_the_user_is_logged_on(wine, apache, realm,
                                                            ticket, package):
    job = to_apache(apache, "krb", package=package)
    [report] = wine([job], ticket(realm, "alice"))
    assert (kinds(report["received"]), report["proof"]) == (
        AP_REP, [200, "alice@LAB.TEST"])


@ALIKE
def test_kerberos_is_mutual_when_asked(wine, apache, realm, ticket, package):
    job = to_apache(apache, "krb", package=package)
    [report] = wine([job], ticket(realm, "alice"))
    assert report["granted"] & sspi_client.ISC_RET.MUTUAL_AUTH


@pytest.mark.parametrize("user", sorted(servers.USERS))
def test_samba_accepts_kerberos_when_credentials_are_explicit(wine, samba, nobody,
                                                              user):
    job = to_samba(samba, package="Kerberos", how="bind alone",
                   identity=named(samba, user, domain=samba.realm))
    [report] = wine([job], nobody(samba))
    assert (kinds(report["sent"]), report["proof"]) == (AP_REQ, "bound")


@pytest.mark.parametrize("user", sorted(servers.USERS))
def test_apache_accepts_kerberos_when_credentials_are_explicit(wine, apache, realm,
                                                               nobody, user):
    job = to_apache(apache, "krb", package="Kerberos",
                    identity=named(realm, user, domain=realm.realm))
    [report] = wine([job], nobody(realm))
    assert report["proof"] == [200, user + "@LAB.TEST"]


@ALIKE
def test_samba_accepts_a_token_over_12000_bytes_when_the_user_is_in_many_groups(
        wine, samba, ticket, package):
    job = to_samba(samba, package=package, how="bind alone")
    [report] = wine([job], ticket(samba, samba.crowd))
    [(kind, length)] = report["sent"]
    assert (kind, report["proof"]) == ("Kerberos AP-REQ", "bound")
    assert 12000 < length < 16000


def test_kerberos_sends_nothing_when_the_ticket_has_expired(wine, samba, ticket):
    env = ticket(samba, "alice", servers.expired_ticket)
    [report] = wine([to_samba(samba, package="Kerberos")], env)
    assert (report["sent"], report["error"]) == (
        [], ["SEC_E_INTERNAL_ERROR", "InitializeSecurityContextW", 1])


def test_kerberos_sends_nothing_when_the_spn_is_unknown(wine, samba, ticket):
    job = to_samba(samba, package="Kerberos", target="ldap/nowhere.ad.test")
    [report] = wine([job], ticket(samba, "alice"))
    assert (report["sent"], report["error"]) == (
        [], ["SEC_E_INTERNAL_ERROR", "InitializeSecurityContextW", 1])


def test_kerberos_sends_nothing_when_nobody_is_logged_on(wine, samba, nobody):
    [report] = wine([to_samba(samba, package="Kerberos")], nobody(samba))
    assert (report["sent"], report["error"]) == (
        [], ["SEC_E_NO_CREDENTIALS", "AcquireCredentialsHandleW", None])


def test_kerberos_sends_nothing_when_the_password_is_wrong(wine, samba, nobody):
    job = to_samba(samba, package="Kerberos",
                   identity=named(samba, "alice", "wrong", samba.realm))
    [report] = wine([job], nobody(samba))
    assert (report["sent"], report["error"]) == (
        [], [FAILED, "AcquireCredentialsHandleW", None])


def test_wine_needs_our_buffer_when_kerberos_makes_a_token(wine, samba, ticket):
    # Wine 10 knows ISC_REQ_ALLOCATE_MEMORY: with Wine 8 CallersBuffer will go.
    job = to_samba(samba, package="Kerberos", bare=True, how="bind alone")
    [report] = wine([job], ticket(samba, "alice"))
    if windows.wine_version() >= (10,):
        assert report["proof"] == "bound"
    else:
        assert report["error"] == ["SEC_E_INCOMPLETE_MESSAGE",
                                   "InitializeSecurityContextW", 1]


# -- NTLM, and Negotiate that falls back to it ---------------------------------

@pytest.mark.parametrize("user", sorted(servers.USERS))
@pytest.mark.parametrize("ansi", [False, True, "convert"],
                         ids=["unicode", "ansi", "converted"])
def test_servers_accept_ntlm_when_credentials_are(wine, samba, apache, nobody, ansi,
                                                  user):
    common = {"package": "NTLM", "ansi": ansi}
    at_samba, at_apache, by_ntlm = wine([
        to_samba(samba, identity=named(samba, user), **common),
        to_apache(apache, "ntlm", identity=[user, apache.users[user], "LAB"], **common),
        to_apache(apache, "ntlm", identity=[user, apache.users[user], "LAB"],
                  scheme="NTLM", **common)], nobody(samba))
    assert (kinds(at_samba["sent"]), at_samba["proof"]) == (NTLM, user)
    assert at_apache["proof"] == by_ntlm["proof"] == [200, "LAB\\" + user]


@pytest.mark.parametrize("ansi", [False, True], ids=["unicode", "ansi"])
def test_servers_refuse_ntlm_when_the_password_is_wrong(wine, samba, apache, nobody,
                                                        ansi):
    at_samba, at_apache = wine([
        to_samba(samba, package="NTLM", ansi=ansi,
                 identity=named(samba, "bob", "wrong")),
        to_apache(apache, "ntlm", package="NTLM", ansi=ansi,
                  identity=["bob", "wrong", "LAB"])], nobody(samba))
    assert (kinds(at_samba["sent"]), at_samba["refused"]) == (NTLM, "LDAP result 49")
    assert (kinds(at_apache["sent"]), at_apache["proof"]) == (NTLM, [401, None])


def test_negotiate_falls_back_to_ntlm_when_the_spn_is_unknown(wine, samba, apache,
                                                              ticket):
    at_samba, at_apache = wine([
        to_samba(samba, target="ldap/nowhere.ad.test", identity=named(samba, "bob")),
        to_apache(apache, "ntlm", target="HTTP/nowhere.ad.test",
                  identity=["bob", apache.users["bob"], "LAB"])],
        ticket(samba, "alice"))
    assert (kinds(at_samba["sent"]), at_samba["package"], at_samba["proof"]) == (
        NTLM, "NTLM", "bob")
    assert (at_apache["package"], at_apache["proof"]) == ("NTLM", [200, "LAB\\bob"])


def test_negotiate_falls_back_to_ntlm_when_the_ticket_has_expired(wine, samba, ticket):
    env = ticket(samba, "alice", servers.expired_ticket)
    [report] = wine([to_samba(samba, identity=named(samba, "alice"))], env)
    assert (report["package"], report["proof"]) == ("NTLM", "alice")


def test_negotiate_sends_nothing_when_there_is_no_password_to_fall_back_on(
        wine, samba, ticket):
    job = to_samba(samba, target="ldap/nowhere.ad.test")
    [report] = wine([job], ticket(samba, "alice"))
    if windows.wine_version() >= (10,):     # it gives up when it needs the password
        assert (kinds(report["sent"]), report["error"]) == (
            NTLM[:1], ["SEC_E_INVALID_TOKEN", "InitializeSecurityContextW", 2])
    else:
        assert (report["sent"], report["error"]) == (
            [], ["SEC_E_NO_CREDENTIALS", "InitializeSecurityContextW", 1])


def test_oldest_python_is_accepted_when_it_asks(wine, samba, ticket):
    kerberos, ntlm = wine([to_samba(samba, package="Kerberos", how="bind alone"),
                           to_samba(samba, package="NTLM",
                                    identity=named(samba, "bob"))],
                          ticket(samba, "alice"), version="3.8")
    assert (kerberos["proof"], ntlm["proof"]) == ("bound", "bob")


# -- Messages ------------------------------------------------------------------

def test_ntlm_seals_for_samba_when_the_answer_is_long(wine, samba, nobody):
    # The account's 1,400 groups make 40 KB in one sealed message.
    job = to_samba(samba, package="NTLM", identity=named(samba, samba.crowd))
    [report] = wine([job], nobody(samba))
    assert report["granted"] & sspi_client.ISC_RET.CONFIDENTIALITY
    assert report["proof"] == samba.crowd


def test_ntlm_signature_is_checked_when_a_sealed_message_was_altered(wine, samba,
                                                                     nobody):
    # To Samba, which hangs up, and on the way back.
    job = to_samba(samba, package="NTLM", identity=named(samba, "bob"))
    sent, received = wine([dict(job, alter="sent"), dict(job, alter="received")],
                          nobody(samba))
    assert sent["refused"] == "LDAP server hung up"
    assert received["error"][:2] == ["SEC_E_MESSAGE_ALTERED", "DecryptMessage"]


@pytest.mark.parametrize("how, flags", [
    ("seal", sspi_client.DEFAULT_FLAGS), ("sign", sspi_client.DEFAULT_FLAGS),
    ("sign", SIGNING)], ids=["sealed", "signed", "signed-without-sealing"])
def test_gss_ntlmssp_takes_and_makes_ntlm_messages_when(wine, acceptor, realm, nobody,
                                                        how, flags):
    server = acceptor("ntlmssp", echo={"seal": "wrap", "sign": "mic"}[how])
    job = to_acceptor(server, package="NTLM", how=how, flags=int(flags),
                      identity=named(realm, "bob"))
    [report] = wine([job], nobody(realm))
    assert report["proof"] == 3
    assert servers.results(server, 1) == [
        {"user": "LAB\\bob", "mech": "ntlmssp", "bound": False, "echoed": 3}]


@ALIKE
def test_mit_takes_and_makes_kerberos_signatures_when_logged_on(
        wine, acceptor, realm, ticket, package):
    server = acceptor("krb5", echo="mic")
    job = to_acceptor(server, package=package, how="sign")
    [report] = wine([job], ticket(realm, "alice"))
    assert report["proof"] == 3
    assert servers.results(server, 1) == [
        {"user": "alice@LAB.TEST", "mech": "krb5", "bound": False, "echoed": 3}]


@pytest.mark.parametrize("package, mech", [("Kerberos", "krb5"), ("NTLM", "ntlmssp")],
                         ids=["kerberos", "ntlm"])
def test_signature_is_refused_when_altered(wine, acceptor, realm, ticket, package,
                                           mech):
    server = acceptor(mech, echo="mic")
    job = to_acceptor(server, package=package, how="sign")
    if package == "NTLM":
        job["identity"] = named(realm, "bob")
    sent, received = wine([dict(job, alter="sent"), dict(job, alter="received")],
                          ticket(realm, "alice"))
    assert "proof" not in sent
    assert "BadMICError" in servers.results(server, 2)[0]["error"]
    assert received["error"][1] == "VerifySignature"


def test_mit_takes_and_makes_messages_that_kerberos_sealed_when_laid_out_right(
        wine, acceptor, realm, ticket):
    server = acceptor("krb5", echo="wrap")
    job = to_acceptor(server, package="Kerberos", how="seal", layout=True)
    [report] = wine([job], ticket(realm, "alice"))
    assert report["proof"] == 3
    assert servers.results(server, 1) == [
        {"user": "alice@LAB.TEST", "mech": "krb5", "bound": False, "echoed": 3}]


@pytest.mark.parametrize("user", ["alice", servers.CROWD])
def test_samba_takes_and_makes_messages_that_kerberos_sealed_when_laid_out_right(
        wine, samba, ticket, user):
    job = to_samba(samba, package="Kerberos", layout=True)
    [report] = wine([job], ticket(samba, user))
    assert (report["package"], report["proof"]) == ("Kerberos", user)


def test_message_that_kerberos_sealed_is_refused_when_altered(wine, samba, ticket):
    job = to_samba(samba, package="Kerberos", layout=True)
    sent, received = wine([dict(job, alter="sent"), dict(job, alter="received")],
                          ticket(samba, "alice"))
    assert sent["refused"] == "LDAP server hung up"
    assert received["error"][1] == "DecryptMessage"


def test_session_key_of_kerberos_is_the_acceptors(wine, acceptor, realm, ticket):
    server = acceptor("krb5", key=True)
    job = to_acceptor(server, package="Kerberos", keep="key")
    [report] = wine([job], ticket(realm, "alice"))
    [seen] = servers.results(server, 1)
    assert seen["user"] == "alice@LAB.TEST"
    if windows.wine_version() >= (10,):
        assert len(report["key"]) == 64 and seen["key"] == report["key"]
    else:
        assert report["error"][:2] == ["SEC_E_UNSUPPORTED_FUNCTION",
                                       "QueryContextAttributesW"]


def test_wine_cannot_seal_when_it_is_kerberos(wine, acceptor, realm, ticket):
    # When Wine can, this fails, and RightLayout may go.
    server = acceptor("krb5", echo="wrap")
    job = to_acceptor(server, package="Kerberos", how="seal")
    [report] = wine([job], ticket(realm, "alice"))
    assert report["error"] == ["SEC_E_BUFFER_TOO_SMALL", "EncryptMessage", None]


# -- Channel bindings ----------------------------------------------------------

def test_wine_drops_bindings_when_it_is_kerberos(wine, acceptor, realm, ticket):
    # Its unixlib passes GSS_C_NO_CHANNEL_BINDINGS to gss_init_sec_context: not even
    # wrong ones are refused. test_fake_to_servers.py has the proof instead.
    server = acceptor("krb5", BINDINGS.encode())
    job = to_acceptor(server, package="Kerberos")
    wine([dict(job, bindings=BINDINGS), dict(job, bindings=OTHER_BINDINGS), job],
         ticket(realm, "alice"))
    assert [result["bound"] for result in servers.results(server, 3)] == [False] * 3


def test_wine_takes_no_bindings_when_it_is_ntlm(wine, acceptor, realm, nobody):
    # It wants a TOKEN in the first pInput, and ntlm_auth has no way to be told.
    server = acceptor("ntlmssp", BINDINGS.encode())
    job = to_acceptor(server, package="NTLM", identity=named(realm, "bob"))
    with_bindings, without = wine([dict(job, bindings=BINDINGS), job], nobody(realm))
    assert with_bindings["error"] == ["SEC_E_INVALID_TOKEN",
                                      "InitializeSecurityContextW", 1]
    assert with_bindings["sent"] == []
    assert without["proof"] == 0


# -- FakeServer, which is ours, with a client that is not ----------------------

@pytest.mark.parametrize("how, flags", [
    ("seal", sspi_client.DEFAULT_FLAGS), ("sign", sspi_client.DEFAULT_FLAGS),
    ("sign", SIGNING), (None, 0)],
    ids=["sealed", "signed", "signed-without-sealing", "bare"])
@pytest.mark.parametrize("user", sorted(servers.USERS))
def test_fake_server_accepts_wine_when_messages_are(wine, how, flags, user):
    job = {"to": "fake server", "fake": ["LAB", servers.USERS], "target": "HTTP/web",
           "package": "NTLM", "identity": [user, servers.USERS[user], "LAB"],
           "how": how, "flags": int(flags)}
    [report] = wine([job])
    assert report["proof"] == "LAB\\" + user


def test_fake_server_refuses_wine_when_the_logon_is_wrong(wine):
    job = {"to": "fake server", "fake": ["LAB", servers.USERS], "target": "HTTP/web",
           "package": "NTLM"}
    password, user = wine([dict(job, identity=["bob", "wrong", "LAB"]),
                           dict(job, identity=["eve", servers.USERS["bob"], "LAB"])])
    assert password["refused"] == user["refused"] == "SEC_E_LOGON_DENIED"


# -- Figures -------------------------------------------------------------------

def test_memory_stays_when_kerberos_shakes_hands_1000_times(wine, acceptor, realm,
                                                            ticket):
    server = acceptor("krb5")
    job = to_acceptor(server, package="Kerberos", times=1000)
    [report] = wine([job], ticket(realm, "alice"))
    print(report)
    assert len(servers.results(server, 1000)) == 1000
    assert report["growth"] < 2 ** 20 and report["alive"] == []
    calls = report["calls"]
    assert [calls[name] for name in (
        "AcquireCredentialsHandleW", "FreeCredentialsHandle",
        "DeleteSecurityContext")] == [1000] * 3
    assert calls["InitializeSecurityContextW"] == 2000          # two legs each
