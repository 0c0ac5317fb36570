"""Samba demands channel bindings inside TLS: the fake's NTLM, and the LDAP example.

sspi-rs is asked the same in test_sspi_rs_to_servers.py. Bare NTLM alone: in SPNEGO the
fake offers to sign, for the sake of mechListMIC, and Samba refuses that inside TLS.
"""
import getpass
import importlib
import os
from pathlib import Path

import client
import pytest
import servers

import sspi_client

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EXAMPLE = "ldap_search"  # the example that logs on to LDAP

OTHER_BINDINGS = "tls-server-end-point:2"
# winerror.h, SEC_E_BAD_BINDINGS: so Samba's diagnosis begins.
UNBOUND = "80090346: "
USERS = pytest.mark.parametrize("user", sorted(servers.USERS))


def inside_tls(samba, user="bob", **job):
    return dict({"to": "ldap", "port": samba.ldaps_port, "target": samba.target,
                 "cafile": str(samba.certificate), "package": "NTLM", "flags": 0,
                 "fake": [samba.netbios, samba.users],
                 "identity": [user, samba.users[user], samba.netbios]}, **job)


# -- The fake ------------------------------------------------------------------

@USERS
def test_samba_lets_the_fake_in_when_the_bindings_are_right(samba, user):
    # Old Samba, too: it does not look at them.
    assert client.run(inside_tls(samba, user, bindings=True))["proof"] == user


@pytest.mark.parametrize("wrong", [{}, {"bindings": OTHER_BINDINGS}],
                         ids=["none", "other"])
def test_samba_refuses_the_fake_when_the_bindings_are(binding_samba, wrong):
    report = client.run(inside_tls(binding_samba, **wrong))
    assert report["refused"] == "LDAP result 49"
    assert report["diagnosis"].startswith(UNBOUND)


def test_samba_says_otherwise_when_it_is_the_password(binding_samba):
    job = inside_tls(binding_samba, bindings=True)
    job["identity"][1] = "wrong"
    report = client.run(job)
    assert report["refused"] == "LDAP result 49"
    assert not report["diagnosis"].startswith(UNBOUND)


# -- The example ---------------------------------------------------------------

@pytest.fixture(params=["ldaps", "start"])
def example(request, samba, monkeypatch, capsys):
    """A function that runs the example as bob; bindings(right) returns what it gives.

    It returns the example's word, None if all went well, and what it printed.
    """
    monkeypatch.syspath_prepend(str(EXAMPLES))
    try:
        module = importlib.import_module(EXAMPLE)
    except ImportError as error:
        reason = "%s cannot be imported: %s" % (EXAMPLE, error)
        if os.environ.get("SSPI_CLIENT_EXAMPLES") == "required":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    monkeypatch.setattr(getpass, "getpass", lambda: samba.users["bob"])
    authenticate = sspi_client.authenticate

    def run(bindings):
        def by_ntlm(*arguments, channel_bindings, **more):
            more.update(package="NTLM", channel_bindings=bindings(channel_bindings))
            return authenticate(*arguments, **more)

        monkeypatch.setattr(sspi_client, "authenticate", by_ntlm)
        fake = sspi_client.FakeSecur32(
            sspi_client.FakeDomain(samba.netbios, samba.users))
        said = module.main(
            ["localhost", "--user", samba.netbios + "\\bob", "--tls", request.param,
             "--package", "NTLM", "--ca", str(samba.certificate)], fake)
        fake.assert_clean()
        return said, capsys.readouterr().out

    return run


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_samba_lets_the_example_in_when_the_bindings_are_right(binding_samba, example):
    said, printed = example(lambda right: right)
    assert (said, printed.strip()) == (None, "u:ADT\\bob")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wrong", [None, OTHER_BINDINGS.encode()],
                         ids=["none", "other"])
def test_samba_refuses_the_example_when_the_bindings_are(binding_samba, example, wrong):
    said, _ = example(lambda right: wrong)
    assert "invalidCredentials" in said and UNBOUND.strip() in said
