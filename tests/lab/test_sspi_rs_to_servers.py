"""sspi-rs, a second real SSPI, against servers that are not ours.

It does what Wine's secur32 does not: SPNEGO, SEC_WINNT_AUTH_IDENTITY_EXW with its
package list, channel bindings, sealed Kerberos. What is in the way (0.6.0):

- Kerberos speaks to Samba's KDC, not to MIT's, and cannot open what MIT's library
  wrapped. With the right bindings it is refused by MIT's library and by Samba, with
  others for the bindings' sake; the JDK accepts it, see test_jdk_acceptor.py.
- It can neither MakeSignature nor VerifySignature.
- It says "Negotiate" for whatever SPNEGO has chosen.
"""
import pytest
import servers

import sspi_client

BINDINGS = "tls-server-end-point:1"
OTHER_BINDINGS = "tls-server-end-point:2"
NTLM = ["NTLM NEGOTIATE", "NTLM AUTHENTICATE"]
# MS-NLMP 1.9, 1.3.6.1.4.1.311.2.2.10, and MS-KILE 3.1.5.2, 1.2.840.48018.1.2.2: in DER.
NTLM_OID = bytes.fromhex("060a2b06010401823702020a")
KERBEROS_OID = bytes.fromhex("06092a864882f712010202")
USERS = pytest.mark.parametrize("user", sorted(servers.USERS))


def to_samba(samba, user="bob", password=None, **job):
    # Kerberos knows the realm, NTLM the short name, and Negotiate should try both.
    ntlm = job.get("package") == "NTLM"
    return dict({"to": "ldap", "port": samba.ldap_port, "target": samba.target,
                 "identity": [user, password or samba.users[user],
                              samba.netbios if ntlm else samba.realm]}, **job)


def inside_tls(samba, **job):
    # Samba refuses inside TLS whoever offers to sign or seal.
    return to_samba(samba, port=samba.ldaps_port, cafile=str(samba.certificate),
                    flags=0, **job)


def kinds(tokens):
    return [kind for kind, _ in tokens]


# -- NTLM ----------------------------------------------------------------------

@USERS
def test_samba_accepts_ntlm_and_sealed_messages_when_the_user_is(sspi_rs, samba, user):
    [report] = sspi_rs([to_samba(samba, user, package="NTLM")])
    assert (kinds(report["sent"]), report["package"], report["proof"]) == (
        NTLM, "NTLM", user)


def test_samba_refuses_ntlm_when_the_password_is_wrong(sspi_rs, samba):
    [report] = sspi_rs([to_samba(samba, "bob", "wrong", package="NTLM")])
    assert (kinds(report["sent"]), report["refused"]) == (NTLM, "LDAP result 49")


# -- SPNEGO --------------------------------------------------------------------

def test_samba_accepts_ntlm_in_spnego_when_there_is_no_kdc(sspi_rs, samba):
    # The last reply carries Samba's mechListMIC, 16 bytes of 29, which sspi-rs checks.
    good, bad = sspi_rs([
        to_samba(samba, identity=["bob", password, samba.netbios], package="Negotiate")
        for password in (samba.users["bob"], "wrong")])
    assert kinds(good["sent"])[-1].startswith("SPNEGO NegTokenResp")
    assert kinds(good["sent"])[-1].endswith(": NTLM AUTHENTICATE")
    assert good["received"][-1] == ["SPNEGO NegTokenResp (accept-completed)", 29]
    assert good["proof"] == "bob"
    assert bad["refused"] == "LDAP result 49"


def test_samba_accepts_kerberos_in_spnego_when_ntlm_is_not_allowed(sspi_rs, samba):
    jobs = [to_samba(samba, keep="tokens", allow_ntlm=allowed, package="Negotiate")
            for allowed in (False, True)]
    without, with_ntlm = sspi_rs(jobs, samba)
    assert without["proof"] == with_ntlm["proof"] == "bob"
    first, allowed = (bytes.fromhex(r["tokens"][0]) for r in (without, with_ntlm))
    assert KERBEROS_OID in first and NTLM_OID not in first
    assert KERBEROS_OID in allowed and NTLM_OID in allowed  # it would show
    assert not any(b"NTLMSSP" in bytes.fromhex(t) for t in without["tokens"])


def test_nothing_that_is_ntlm_is_sent_when_it_is_not_allowed_and_there_is_no_kdc(
        sspi_rs, samba):
    [report] = sspi_rs([to_samba(samba, keep="tokens", allow_ntlm=False)])
    assert "proof" not in report and "error" in report
    sent = b"".join(map(bytes.fromhex, report.get("tokens", [])))
    assert NTLM_OID not in sent and b"NTLMSSP" not in sent


# -- Kerberos ------------------------------------------------------------------

@pytest.mark.parametrize("package", ["Kerberos", "Negotiate"])
@pytest.mark.parametrize("user", [*sorted(servers.USERS), servers.CROWD])
def test_samba_accepts_kerberos_and_sealed_messages_when_the_user_is(
        sspi_rs, samba, package, user):
    job = to_samba(samba, user, package=package)
    [report] = sspi_rs([job], samba)
    if "granted" not in report:
        # Seen once in some fifty logons, on a machine that was busy, cause unknown: the
        # logon itself failed. Once more; a second failure shows the report.
        [report] = sspi_rs([job], samba)
    assert "granted" in report, report
    assert report["granted"] & sspi_client.ISC_RET.CONFIDENTIALITY
    assert report["proof"] == user


def test_kerberos_is_mutual_when_it_is_required(sspi_rs, samba):
    job = to_samba(samba, package="Kerberos",
                   require=int(sspi_client.ISC_RET.MUTUAL_AUTH))
    [report] = sspi_rs([job], samba)
    assert report["granted"] & sspi_client.ISC_RET.MUTUAL_AUTH
    assert report["proof"] == "bob"


def test_samba_hangs_up_when_a_message_that_kerberos_sealed_was_altered(sspi_rs, samba):
    sent, received = sspi_rs([to_samba(samba, package="Kerberos", alter=way)
                              for way in ("sent", "received")], samba)
    assert sent["refused"] == "LDAP server hung up"
    assert received["error"][1] == "DecryptMessage"


def test_session_key_of_kerberos_is_the_acceptors(sspi_rs, samba, acceptor):
    server = acceptor("krb5", domain=samba, key=True)
    job = to_samba(samba, to="frames", port=server.port, target=server.target,
                   package="Kerberos", keep="key")
    [report] = sspi_rs([job], samba)
    [seen] = servers.results(server, 1)
    assert len(report["key"]) == 64 and seen["key"] == report["key"]
    assert seen["user"] == "bob@AD.TEST"


# -- Channel bindings ----------------------------------------------------------

# winerror.h, SEC_E_BAD_BINDINGS: so Samba's diagnosis begins.
UNBOUND = "80090346: "


def with_each_bindings(job):
    return [dict(job, bindings=True), dict(job, bindings=OTHER_BINDINGS), job]


def test_samba_lets_ntlm_in_when_the_bindings_are_right(sspi_rs, binding_samba):
    right, wrong, none = sspi_rs(
        with_each_bindings(inside_tls(binding_samba, package="NTLM")))
    assert right["proof"] == "bob"
    assert wrong["diagnosis"].startswith(UNBOUND)
    assert none["diagnosis"].startswith(UNBOUND)


def test_samba_lets_ntlm_in_spnego_in_when_the_bindings_are_right(sspi_rs,
                                                                  binding_samba):
    # Without signing Samba makes no mechListMIC, and sspi-rs then waits for one.
    identity = ["bob", binding_samba.users["bob"], binding_samba.netbios]
    job = inside_tls(binding_samba, package="Negotiate", identity=identity)
    right, wrong, none = sspi_rs(with_each_bindings(job))
    assert kinds(right["received"])[1] == "SPNEGO NegTokenResp (accept-completed)"
    assert wrong["diagnosis"].startswith(UNBOUND)
    assert none["diagnosis"].startswith(UNBOUND)


def test_samba_wants_bindings_when_it_is_kerberos(sspi_rs, binding_samba):
    # Right ones too fail in sspi-rs' Authenticator. When they are let in, say so.
    right, _, none = sspi_rs(with_each_bindings(
        inside_tls(binding_samba, package="Kerberos")), binding_samba)
    assert none["diagnosis"].startswith(UNBOUND)
    assert right["refused"] and not right["diagnosis"].startswith(UNBOUND)


def test_gss_ntlmssp_compares_bindings_when_they_come_in_the_structure(
        sspi_rs, acceptor, realm):
    server = acceptor("ntlmssp", BINDINGS.encode())
    job = {"to": "frames", "port": server.port, "target": server.target,
           "package": "NTLM", "identity": ["bob", realm.users["bob"], realm.netbios]}
    sspi_rs([dict(job, bindings=BINDINGS), dict(job, bindings=OTHER_BINDINGS), job])
    same, other, none = servers.results(server, 3)
    assert same == {"user": "LAB\\bob", "mech": "ntlmssp", "bound": True, "echoed": 0}
    assert "Permission denied" in other["error"]        # how gss-ntlmssp says it
    assert none == dict(same, bound=False)
