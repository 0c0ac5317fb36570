"""sspi-rs (tests/sspirs.py) with a real domain: Samba's KDC and its LDAP server.

It is the one secur32 here that reports NTLM as MUTUAL_AUTH and has Kerberos as well,
so what `require` is worth shows: Kerberos may prove the server, NTLM may not.
"""
import client
import pytest
import sspirs

import sspi_client
from sspi_client import ISC_RET, Identity, SspiError

MUTUAL = ISC_RET.MUTUAL_AUTH


@pytest.fixture
def rust(samba, monkeypatch):
    reason = sspirs.why_missing()
    if reason and sspirs.required():
        pytest.fail(reason, pytrace=False)
    if reason:
        pytest.skip(reason)
    monkeypatch.setenv("SSPI_KDC_URL", "tcp://127.0.0.1:88")
    monkeypatch.setenv("KRB5_CONFIG", str(samba.krb5_config))
    return sspirs.SspiRs()


def log_on(samba, rust, package, **options):
    """Bind to Samba; return (granted, the user that Samba saw, what was sent)."""
    job = {"port": samba.ldap_port, "target": samba.target, "package": package}
    domain = samba.netbios if package == "NTLM" else samba.realm
    identity = Identity("bob", samba.users["bob"], domain)
    peer, sent = client.PEERS["ldap"](job), []

    def exchange(token):
        sent.append(sspi_client.mechanism(token))
        return peer.exchange(bytes(token), token.final)

    try:
        flow = sspi_client.authenticate(
            samba.target, identity, package=package, secur32=rust, **options)
        with sspi_client.drive(flow, exchange) as context:
            return context.flags, peer.prove(context), sent
    finally:
        peer.close()


def test_kerberos_that_must_prove_the_server_logs_on(samba, rust):
    granted, user, sent = log_on(samba, rust, "Kerberos", require=MUTUAL)
    assert (granted & MUTUAL, user) == (MUTUAL, "bob")
    assert sent[0] == "Kerberos AP-REQ"


def test_ntlm_logs_on_and_proves_nothing(samba, rust):
    granted, user, sent = log_on(samba, rust, "NTLM")
    assert (granted & MUTUAL, user) == (0, "bob")
    assert sent == ["NTLM NEGOTIATE", "NTLM AUTHENTICATE"]


def test_negotiate_that_must_prove_the_server_is_refused(samba, rust):
    """NEGOTIATION_INFO of sspi-rs says Negotiate, for Kerberos too: unlike Windows,
    which says Kerberos. What was chosen is not known, so nothing is proven.
    """
    with pytest.raises(SspiError) as caught:
        log_on(samba, rust, "Negotiate", require=MUTUAL)
    assert caught.value.name == "SEC_E_SECURITY_QOS_FAILED"


def test_negotiate_takes_kerberos_and_its_flags_prove_nothing(samba, rust):
    granted, user, sent = log_on(samba, rust, "Negotiate")
    assert (granted & MUTUAL, user) == (0, "bob")
    assert "Kerberos" in sent[0]
