"""Our NTLM against that of pyspnego, an independent one in Python, in both roles.

pyspnego is made to use its own NTLM and SPNEGO, and not GSSAPI, in every test.
"""
import os

import client
import pytest

import sspi_client
from sspi_client import ISC_REQ

try:
    import spnego
    from spnego.channel_bindings import GssChannelBindings
    from spnego.exceptions import SpnegoError
except ImportError:
    spnego = None

USERS = {"alice": "Secret123!", "bob": "Pä55wörd€!"}
BINDINGS = b"tls-server-end-point:1"
OTHER_BINDINGS = b"tls-server-end-point:2"
SIZES = (0, 1, 100, 20000)          # [bytes]
SIGNING = ISC_REQ.INTEGRITY | ISC_REQ.REPLAY_DETECT | ISC_REQ.SEQUENCE_DETECT
SEALING = SIGNING | ISC_REQ.CONFIDENTIALITY

# The protocol as pyspnego calls it, the package as we do.
WRAPPINGS = pytest.mark.parametrize("protocol, package", [
    ("ntlm", "NTLM"), ("negotiate", "Negotiate")], ids=["bare", "spnego"])


@pytest.fixture(autouse=True)
def user_file(tmp_path, monkeypatch):
    """What pyspnego's server reads the users from."""
    if spnego is None:
        reason = "pyspnego is not installed: pip install pyspnego"
        if os.environ.get("SSPI_CLIENT_LAB") == "required":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    path = tmp_path / "users"
    path.write_text("".join("CORP:%s:%s\n" % user for user in USERS.items()), "utf-8")
    monkeypatch.setenv("NTLM_USER_FILE", str(path))


@pytest.fixture
def corp():
    return sspi_client.FakeDomain("CORP", USERS)


@pytest.fixture
def fake(corp):
    secur32 = sspi_client.FakeSecur32(corp)
    yield secur32
    secur32.assert_clean()


def options(protocol):
    forced = spnego.NegotiateOptions.use_ntlm
    if protocol == "negotiate":         # use_ntlm alone would make it bare
        forced |= spnego.NegotiateOptions.use_negotiate
    return {"protocol": protocol, "options": forced}


def bound_to(application_data):
    return application_data and GssChannelBindings(application_data=application_data)


# -- Their client, our server --------------------------------------------------

def their_client(protocol, user="bob", password=None, bindings=None):
    return spnego.client(
        "CORP\\" + user, password or USERS[user], hostname="web", service="HTTP",
        channel_bindings=bound_to(bindings), **options(protocol))


def log_on(theirs, server, spoil=lambda token: token):
    reply = None
    while not server.complete or reply:
        token = theirs.step(reply)
        reply = server.accept(spoil(token)) if token else None
    assert theirs.complete


@WRAPPINGS
@pytest.mark.parametrize("user", sorted(USERS))
def test_fake_server_accepts_their_client_when_the_user_is(corp, protocol, package,
                                                           user):
    server = sspi_client.FakeServer(corp)
    log_on(their_client(protocol, user), server)
    assert (server.user, server.package, server.target) == (
        "CORP\\" + user, "NTLM", "HTTP/web")


@WRAPPINGS
@pytest.mark.parametrize("user", ["bob", "eve"], ids=["password", "user"])
def test_fake_server_refuses_their_client_when_this_is_wrong(corp, protocol, package,
                                                             user):
    with pytest.raises(sspi_client.SspiError) as refused:
        log_on(their_client(protocol, user, "wrong"), sspi_client.FakeServer(corp))
    assert refused.value.status == sspi_client.SEC_E_LOGON_DENIED


# Where in the last token the MIC is: bare, that of the AUTHENTICATE message; in
# SPNEGO the mechListMIC, which ends it.
@pytest.mark.parametrize("protocol, at", [("ntlm", 72), ("negotiate", -5)],
                         ids=["bare", "spnego"])
def test_fake_server_refuses_their_client_when_the_mic_is_wrong(corp, protocol, at):
    def spoil(token):
        last = b"NTLMSSP\0\3" in token
        return client.spoilt(token, at) if last else token

    with pytest.raises(sspi_client.SspiError) as refused:
        log_on(their_client(protocol), sspi_client.FakeServer(corp), spoil)
    assert refused.value.status == sspi_client.SEC_E_MESSAGE_ALTERED


@WRAPPINGS
def test_fake_server_accepts_their_bindings_when_equal(corp, protocol, package):
    server = sspi_client.FakeServer(corp, BINDINGS)
    log_on(their_client(protocol, bindings=BINDINGS), server)
    assert server.complete


@WRAPPINGS
@pytest.mark.parametrize("given", [OTHER_BINDINGS, None], ids=["other", "none"])
def test_fake_server_refuses_their_bindings_when(corp, protocol, package, given):
    with pytest.raises(sspi_client.SspiError) as refused:
        log_on(their_client(protocol, bindings=given),
               sspi_client.FakeServer(corp, BINDINGS))
    assert refused.value.status == sspi_client.SEC_E_BAD_BINDINGS


# -- Our client, their server --------------------------------------------------

def their_server(protocol, bindings=None):
    return spnego.server(hostname="web", service="HTTP",
                         channel_bindings=bound_to(bindings), **options(protocol))


def our_context(fake, package, exchange, password=USERS["bob"], **wishes):
    identity = sspi_client.Identity("bob", password, "CORP")
    return sspi_client.drive(
        sspi_client.authenticate("HTTP/web", identity, package=package, secur32=fake,
                                 **wishes), exchange)


@WRAPPINGS
def test_their_server_accepts_our_client_when_all_is_right(fake, protocol, package):
    server = their_server(protocol)
    with our_context(fake, package, server.step):
        assert (server.complete, server.client_principal) == (True, "CORP\\bob")


@WRAPPINGS
def test_their_server_refuses_our_client_when_the_password_is_wrong(fake, protocol,
                                                                    package):
    with pytest.raises(SpnegoError, match="Invalid NTLM response"):
        our_context(fake, package, their_server(protocol).step, "wrong")


@pytest.mark.parametrize("protocol, package, at", [
    ("ntlm", "NTLM", 72), ("negotiate", "Negotiate", -5)], ids=["bare", "spnego"])
def test_their_server_refuses_our_client_when_the_mic_is_wrong(fake, protocol, package,
                                                               at):
    server = their_server(protocol)

    def exchange(token):
        last = b"NTLMSSP\0\3" in token
        return server.step(client.spoilt(token, at) if last else bytes(token))

    with pytest.raises(SpnegoError, match="MIC"):
        our_context(fake, package, exchange)


def test_our_client_refuses_their_server_when_its_mechanism_list_mic_is_wrong(fake):
    server = their_server("negotiate")

    def exchange(token):
        reply = server.step(bytes(token))
        return client.spoilt(reply, -5) if server.complete else reply

    with pytest.raises(sspi_client.SspiError) as refused:
        our_context(fake, "Negotiate", exchange)
    assert refused.value.status == sspi_client.SEC_E_MESSAGE_ALTERED


@WRAPPINGS
def test_their_server_accepts_our_bindings_when_equal(fake, protocol, package):
    server = their_server(protocol, BINDINGS)
    with our_context(fake, package, server.step, channel_bindings=BINDINGS):
        assert server.complete


@WRAPPINGS
def test_their_server_refuses_our_bindings_when_other(fake, protocol, package):
    # None at all it lets in, as gss-ntlmssp does.
    server = their_server(protocol, BINDINGS)
    with pytest.raises(SpnegoError, match="bindings do not match"):
        our_context(fake, package, server.step, channel_bindings=OTHER_BINDINGS)


# -- Messages, both ways, in both roles ----------------------------------------

def rising(size):
    return bytes(i % 251 for i in range(size))


@pytest.fixture(params=["client", "server"])
def pair(request, corp, fake):
    """A function: an established (ours, theirs), where ours is the client or server."""
    contexts = []

    def established(protocol, package, flags=SEALING):
        if request.param == "client":
            theirs = their_server(protocol)
            contexts.append(our_context(fake, package, theirs.step, flags=flags))
            return contexts[0], theirs
        ours = sspi_client.FakeServer(corp)
        wanted = spnego.ContextReq.integrity
        if flags & ISC_REQ.CONFIDENTIALITY:
            wanted |= spnego.ContextReq.confidentiality
        theirs = spnego.client("CORP\\bob", USERS["bob"], hostname="web",
                               service="HTTP", context_req=wanted, **options(protocol))
        log_on(theirs, ours)
        return ours, theirs

    yield established
    for context in contexts:
        context.close()


@WRAPPINGS
def test_sealed_messages_are_opened_when_sent_both_ways(pair, protocol, package):
    ours, theirs = pair(protocol, package)
    for message in map(rising, SIZES):
        assert theirs.unwrap(ours.wrap(message)).data == message
        opened = ours.unwrap(theirs.wrap(message).data)
        assert (opened, opened.encrypted) == (message, True)
        assert theirs.unwrap(b"".join(ours.seal(message))).data == message
        blob = theirs.wrap(message).data
        assert ours.unseal(blob[:16], blob[16:]) == message


@WRAPPINGS
@pytest.mark.parametrize("flags", [SEALING, SIGNING], ids=["sealing", "signing-alone"])
def test_signatures_are_verified_when_sent_both_ways(pair, protocol, package, flags):
    ours, theirs = pair(protocol, package, flags)
    for message in map(rising, SIZES):
        theirs.verify(message, ours.sign(message))
        ours.verify(message, theirs.sign(message))


@WRAPPINGS
def test_kinds_of_messages_may_be_mixed_when_numbers_go_on(pair, protocol, package):
    ours, theirs = pair(protocol, package)
    for message in map(rising, SIZES):
        theirs.verify(message, ours.sign(message))
        assert theirs.unwrap(ours.wrap(message)).data == message
        assert ours.unwrap(theirs.wrap(message).data) == message
        ours.verify(message, theirs.sign(message))


# pyspnego compares whole signatures, ours tells apart number and checksum.
@WRAPPINGS
@pytest.mark.parametrize("at", [4, 11, 12, -1],
                         ids=["checksum", "end-of-checksum", "number", "text"])
def test_sealed_message_is_refused_by_us_when_altered(pair, protocol, package, at):
    ours, theirs = pair(protocol, package)
    with pytest.raises(sspi_client.SspiError) as refused:
        ours.unwrap(client.spoilt(theirs.wrap(rising(100)).data, at))
    assert refused.value.status == (
        sspi_client.SEC_E_OUT_OF_SEQUENCE if at == 12
        else sspi_client.SEC_E_MESSAGE_ALTERED)


@WRAPPINGS
@pytest.mark.parametrize("at", [4, 11, 12, -1],
                         ids=["checksum", "end-of-checksum", "number", "text"])
def test_sealed_message_is_refused_by_them_when_altered(pair, protocol, package, at):
    ours, theirs = pair(protocol, package)
    with pytest.raises(SpnegoError, match="[Ss]ign|MIC"):
        theirs.unwrap(client.spoilt(ours.wrap(rising(100)), at))


@WRAPPINGS
def test_message_is_refused_by_us_when_it_comes_twice(pair, protocol, package):
    ours, theirs = pair(protocol, package)
    signature = theirs.sign(b"once")
    ours.verify(b"once", signature)
    with pytest.raises(sspi_client.SspiError) as refused:
        ours.verify(b"once", signature)
    assert refused.value.status == sspi_client.SEC_E_OUT_OF_SEQUENCE
