"""sspi-rs against the JDK's acceptor of Kerberos, which demands channel bindings.

Of all acceptors here the JDK alone takes sspi-rs' right bindings of Kerberos, and it
refuses a client that gives none, where MIT's library would let it in. Then sspi-rs
stumbles over the JDK's AP-REP, so it is the JDK who says whom it saw.
"""
import contextlib
import tempfile

import jdk
import pytest
import servers

BINDINGS = "tls-server-end-point:1"
OTHER_BINDINGS = "tls-server-end-point:2"
PACKAGES = pytest.mark.parametrize("package", ["Kerberos", "Negotiate"],
                                   ids=["raw", "spnego"])
KERBEROS = "1.2.840.113554.1.2.2"
FIRST = {"Kerberos": "Kerberos AP-REQ", "Negotiate": "SPNEGO NegTokenInit"}


@pytest.fixture
def jdk_acceptor(program, samba):
    """A function that starts the JDK's acceptor for what sspi-rs' Kerberos needs."""
    program("java")
    with contextlib.ExitStack() as stack:
        def start(bindings=None):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-"))
            try:
                return stack.enter_context(jdk.acceptor(
                    folder, samba, servers.free_port(), bindings))
            except servers.LabError as error:
                pytest.fail(str(error), pytrace=False)
        yield start


def to_jdk(server, samba, package, **job):
    return dict({"to": "frames", "port": server.port, "target": server.target,
                 "package": package,
                 "identity": ["bob", samba.users["bob"], samba.realm]}, **job)


@PACKAGES
def test_jdk_compares_bindings_of_kerberos(sspi_rs, jdk_acceptor, samba, package):
    server = jdk_acceptor(BINDINGS)
    job = to_jdk(server, samba, package)
    reports = sspi_rs([dict(job, bindings=BINDINGS), dict(job, bindings=OTHER_BINDINGS),
                       job], samba)
    assert reports[0]["sent"][0][0].startswith(FIRST[package])
    right, wrong, none = jdk.results(server, 3)
    assert right == "accepted bob@AD.TEST %s" % KERBEROS
    assert wrong.startswith("refused ") and "Bytes mismatch" in wrong
    assert none.startswith("refused ") and "Token missing ChannelBinding" in none

