"""Log on to a domain controller with examples/ldap_search.py and the fake's NTLM."""
import getpass

import loopback

import sspi_client


def bind_and_search(certificate, tls, password, host="localhost", port=None,
                    package="NTLM"):
    """Let the fake log bob on to a domain controller and look himself up.

    tls: "no", "start", "ldaps". Inside TLS the bindings of *certificate* go along,
    which Samba 4.22 can enforce. Raises: AssertionError with what went wrong.
    """
    ldap_search = loopback.example("ldap_search")
    fake = sspi_client.FakeSecur32(sspi_client.FakeDomain("ADT", {"bob": password}))
    command = [host, "--user", "ADT\\bob", "--tls", tls, "--ca", str(certificate),
               "--package", package, "--filter", "(sAMAccountName=bob)",
               "--attributes", "sAMAccountName"]
    command += ["--port", str(port)] if port else []
    asked, getpass.getpass = getpass.getpass, lambda *prompt: password
    try:
        assert ldap_search.main(command, fake) is None
    finally:
        getpass.getpass = asked
    fake.assert_clean()
