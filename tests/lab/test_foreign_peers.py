"""The fake's NTLM and SPNEGO with peers that are not ours, each way, counted.

pyspnego with every combination of the flags that it can ask for, sspi-rs (in PyPI's
sspilib for Linux) as initiator and as acceptor, gss-ntlmssp as initiator (as acceptor
it is in test_fake_to_servers.py), curl's --ntlm. Each test prints how
many pairs it tried and how many of them were refused as they should be. A rule that
both halves of the fake share is one that only such a peer can see.
"""

import base64
import http.server
import itertools
import os
import shutil
import struct
import subprocess
import threading
from pathlib import Path

import pytest

import sspi_client
from sspi_client import ISC_REQ, Identity, SspiError

USERS = {"alice": "Secret123!", "bob": "Pä55wörd€!"}
SPN = "HTTP/web"
BINDINGS = b"tls-server-end-point:1"
OTHER = b"tls-server-end-point:2"
TEXTS = (b"a", b"some text", bytes(3000))


def missing(what):
    if os.environ.get("SSPI_CLIENT_LAB") == "required":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


@pytest.fixture
def corp():
    return sspi_client.FakeDomain("CORP", USERS)


@pytest.fixture
def fake(corp):
    secur32 = sspi_client.FakeSecur32(corp)
    yield secur32
    secur32.assert_clean()


@pytest.fixture
def tell(capsys):
    def show(who, tried, refused):
        with capsys.disabled():
            print(f"\n{who}: {tried} pairs tried, {refused} refused as they should be")

    return show


# pyspnego

#: Bits that mean the same for ISC_REQ and for pyspnego's ContextReq.
BITS = {
    "mutual_auth": 0x2, "replay_detect": 0x4, "sequence_detect": 0x8,
    "confidentiality": 0x10, "integrity": 0x20, "identify": 0x2000,
}  # fmt: skip
OURS = dict(zip(BITS, (
    ISC_REQ.MUTUAL_AUTH, ISC_REQ.REPLAY_DETECT, ISC_REQ.SEQUENCE_DETECT,
    ISC_REQ.CONFIDENTIALITY, ISC_REQ.INTEGRITY, ISC_REQ.IDENTIFY,
)))  # fmt: skip
COMBINATIONS = [
    names
    for length in range(len(BITS) + 1)
    for names in itertools.combinations(BITS, length)
]
PROTOCOLS = [("ntlm", "NTLM"), ("negotiate", "Negotiate")]


@pytest.fixture
def spnego(tmp_path, monkeypatch):
    try:
        import spnego
    except ImportError:
        missing("pyspnego is not installed: pip install pyspnego")
    path = tmp_path / "users"
    path.write_text("".join("CORP:%s:%s\n" % user for user in USERS.items()), "utf-8")
    monkeypatch.setenv("NTLM_USER_FILE", str(path))
    return spnego


def their_options(spnego, protocol, names):
    forced = spnego.NegotiateOptions.use_ntlm
    if protocol == "negotiate":  # use_ntlm alone would make it bare
        forced |= spnego.NegotiateOptions.use_negotiate
    flags = spnego.ContextReq(0)
    for name in names:
        flags |= getattr(spnego.ContextReq, name)
    return {"protocol": protocol, "options": forced, "context_req": flags}


def exchange_messages(ours, theirs, names):
    """Sign and seal each way, as far as it was negotiated; return what went well."""
    done = 0
    for text in TEXTS:
        if "confidentiality" in names:
            assert theirs.unwrap(ours.wrap(text)).data == text
            assert ours.unwrap(theirs.wrap(text).data) == text
            done += 2
        if "integrity" in names:
            theirs.verify(text, ours.sign(text))
            ours.verify(text, theirs.sign(text))
            done += 2
    return done


@pytest.mark.parametrize("protocol, package", PROTOCOLS)
def test_pyspnego_is_our_client_with_every_combination(
    spnego, corp, tell, protocol, package
):
    refused = 0
    for names in COMBINATIONS:
        for password in (USERS["bob"], "wrong"):
            server = sspi_client.FakeServer(corp)
            theirs = spnego.client(
                "CORP\\bob", password, hostname="web", service="HTTP",
                **their_options(spnego, protocol, names),
            )  # fmt: skip
            reply = None
            try:
                while not server.complete or reply:
                    token = theirs.step(reply)
                    reply = server.accept(token) if token else None
            except SspiError as denied:
                assert password == "wrong" and denied.name == "SEC_E_LOGON_DENIED"
                refused += 1
                continue
            assert password != "wrong" and theirs.complete, names
            assert (server.user, server.target) == ("CORP\\bob", SPN)
            exchange_messages(server, theirs, names)
    tell(f"pyspnego to FakeServer, {package}", 2 * len(COMBINATIONS), refused)
    assert refused == len(COMBINATIONS) == 64


@pytest.mark.parametrize("protocol, package", PROTOCOLS)
def test_pyspnego_is_our_server_with_every_combination(
    spnego, fake, tell, protocol, package
):
    refused = 0
    for names in COMBINATIONS:
        flags = 0
        for name in names:
            flags |= OURS[name]
        for password in (USERS["bob"], "wrong"):
            theirs = spnego.server(**their_options(spnego, protocol, ()))
            flow = sspi_client.authenticate(
                SPN, Identity("CORP\\bob", password), package=package, flags=flags,
                secur32=fake,
            )  # fmt: skip
            try:
                context = sspi_client.drive(flow, theirs.step)
            except spnego.exceptions.SpnegoError:
                assert password == "wrong", names
                refused += 1
                continue
            with context:
                assert password != "wrong" and theirs.complete, names
                exchange_messages(context, theirs, names)
    tell(f"FakeSecur32 to pyspnego, {package}", 2 * len(COMBINATIONS), refused)
    assert refused == len(COMBINATIONS) == 64


# sspi-rs


@pytest.fixture
def sspirs():
    try:
        import sspirs

        sspirs.library()
    except ImportError:
        missing("tests/sspirs.py is not here")
    except sspirs.Missing as reason:
        missing(str(reason))
    return sspirs


def pairs_of_bindings():
    """Yield (the server's, the client's, whether they agree)."""
    yield None, None, True
    yield None, BINDINGS, True
    yield BINDINGS, BINDINGS, True
    yield BINDINGS, OTHER, False
    yield BINDINGS, None, False


@pytest.mark.parametrize("package", ["NTLM", "Negotiate"])
def test_sspi_rs_is_our_client(sspirs, corp, tell, package):
    tried = refused = 0
    for user, right in itertools.product(USERS, (True, False)):
        for theirs, ours, agree in pairs_of_bindings():
            server = sspi_client.FakeServer(corp, theirs)
            password = USERS[user] if right else "wrong"
            flow = sspi_client.authenticate(
                SPN, Identity("CORP\\" + user, password), package=package,
                channel_bindings=ours, secur32=sspirs.SspiRs(),
            )  # fmt: skip
            tried += 1
            try:
                context = sspi_client.drive(flow, server.accept)
            except SspiError as denied:
                assert not (right and agree)
                expected = "SEC_E_BAD_BINDINGS" if right else "SEC_E_LOGON_DENIED"
                assert (denied.name, denied.function) == (
                    expected, "AcceptSecurityContext",
                )  # fmt: skip
                refused += 1
                continue
            with context:
                assert right and agree and server.user == "CORP\\" + user
                for text in TEXTS:
                    token, ciphertext = context.seal(text)
                    assert server.unseal(token, ciphertext) == text
                    assert context.unseal(*server.seal(text)) == text
    tell(f"sspi-rs to FakeServer, {package}", tried, refused)
    assert (tried, refused) == (20, 14)


def test_sspi_rs_is_our_server(sspirs, fake, tell):
    # Its SPNEGO acceptor (0.6.0) asks an LSA where NTLM's AUTHENTICATE comes, and
    # ends with SEC_E_INTERNAL_ERROR whoever the client is: NTLM alone can be tried.
    import sspilib

    package = "NTLM"

    tried = refused = 0
    for user, right in itertools.product(USERS, (True, False)):
        for theirs, ours, agree in pairs_of_bindings():
            # Its acceptor compares with the one user that it is given.
            credential = sspilib.UserCredential(
                "CORP\\" + user, USERS[user], protocol=package
            )
            bound = theirs and sspilib.SecChannelBindings(application_data=theirs)
            server = sspilib.ServerSecurityContext(credential, channel_bindings=bound)

            def exchange(token, server=server):
                return server.step(in_token=bytes(token)) or None

            password = USERS[user] if right else "wrong"
            flow = sspi_client.authenticate(
                SPN, Identity("CORP\\" + user, password), package=package,
                channel_bindings=ours, secur32=fake,
            )  # fmt: skip
            tried += 1
            try:
                context = sspi_client.drive(flow, exchange)
            except OSError:
                assert not (right and agree)
                refused += 1
                continue
            with context:
                assert right and agree and server.complete
                for text in TEXTS:
                    assert server.unwrap(context.wrap(text)).data == text
                    assert context.unwrap(server.wrap(text)) == text
    tell(f"FakeSecur32 to sspi-rs, {package}", tried, refused)
    assert refused == 14


# gss-ntlmssp

GSS_CONFIDENTIALITY = 0x10  # RFC 2744, GSS_C_CONF_FLAG
#: GSS_C_INTEG_FLAG, then with sealing, then with all that NTLM knows.
GSS_FLAGS = (0x20, 0x30, 0x3E)


def gss_frames(process):
    """Return (send, receive) for frames behind their length."""

    def send(frame):
        process.stdin.write(struct.pack("<I", len(frame)) + frame)
        process.stdin.flush()

    def receive():
        head = process.stdout.read(4)
        if len(head) < 4:
            return None
        return process.stdout.read(struct.unpack("<I", head)[0])

    return send, receive


def gss_logs_on(server, mech, flags, user, password):
    """Let gss-ntlmssp log on to *server*, and seal a text there and back."""
    script = str(Path(__file__).with_name("gss_initiator.py"))
    with subprocess.Popen(
        ["/usr/bin/python3", script, mech, str(flags)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        clock = threading.Timer(60, process.kill)
        clock.start()
        try:
            send, receive = gss_frames(process)
            send(f"CORP\\{user}\0{password}".encode())
            while True:
                token = receive()
                if token in (None, b"done"):
                    break
                reply = server.accept(token)
                if reply:
                    send(reply)
            assert token == b"done"
            if flags & GSS_CONFIDENTIALITY:
                for text in TEXTS:
                    send(server.wrap(text))
                    assert server.unwrap(receive()) == text
        finally:
            clock.cancel()
            process.kill()


@pytest.mark.parametrize("mech", ["ntlmssp", "spnego"])
def test_gss_ntlmssp_is_our_client(corp, tell, mech):
    probe = ["/usr/bin/python3", "-c", "import gssapi"]
    found = shutil.which(probe[0]) and subprocess.run(
        probe, stderr=subprocess.DEVNULL
    ).returncode == 0  # fmt: skip
    if not found or not list(Path("/usr/lib").glob("*/gssntlmssp/gssntlmssp.so")):
        missing("apt-get install gss-ntlmssp python3-gssapi")
    tried = refused = 0
    for user, flags, right in itertools.product(USERS, GSS_FLAGS, (True, False)):
        server = sspi_client.FakeServer(corp)
        tried += 1
        try:
            gss_logs_on(server, mech, flags, user, USERS[user] if right else "wrong")
        except SspiError as denied:
            assert not right and denied.name == "SEC_E_LOGON_DENIED"
            refused += 1
        else:
            assert right and server.user == "CORP\\" + user
    tell(f"gss-ntlmssp to FakeServer, {mech}", tried, refused)
    assert (tried, refused) == (12, 6)


# curl


@pytest.fixture
def web(corp):
    """A page behind FakeServer's NTLM: (port, users that were let in)."""
    let_in = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_side = None

        def do_GET(self):
            scheme, _, token = self.headers.get("Authorization", "").partition(" ")
            status, challenge = 401, "NTLM"
            if scheme == "NTLM" and token:
                peer = self.server_side or sspi_client.FakeServer(corp)
                self.server_side = peer
                try:
                    reply = peer.accept(base64.b64decode(token))
                except SspiError:
                    reply, self.server_side = None, None
                if peer.complete:
                    let_in.append(peer.user)
                    status = 200
                elif reply:
                    challenge += " " + base64.b64encode(reply).decode()
            self.send_response(status)
            if status == 401:
                self.send_header("WWW-Authenticate", challenge)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1], let_in
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_curl_logs_on_with_ntlm(web, tell):
    curl = shutil.which("curl")
    if not curl:
        missing("curl is not installed: apt-get install curl")
    port, let_in = web
    refused, pairs = 0, [("alice", "Secret123!"), ("alice", "wrong"), ("eve", "x")]
    pairs += [("CORP\\alice", "Secret123!"), ("CORP\\alice", ""), ("OTHER\\alice", "x")]
    for user, password in pairs:
        # A configuration on stdin: a password is no word of a command line.
        done = subprocess.run(
            [curl, "--silent", "--output", os.devnull, "--write-out", "%{http_code}",
             "--max-time", "20", "--noproxy", "*", "--ntlm", "--config", "-",
             f"http://127.0.0.1:{port}/"],
            input=("user = \"%s:%s\"\n" % (user, password)).replace("\\", "\\\\"),
            stdout=subprocess.PIPE, universal_newlines=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0
        right = password == "Secret123!"
        assert done.stdout == ("200" if right else "401"), (user, right)
        refused += not right
    tell("curl --ntlm to FakeServer", len(pairs), refused)
    assert let_in == ["CORP\\alice"] * 2 and refused == 4
