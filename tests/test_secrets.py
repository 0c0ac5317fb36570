"""No secret is left in our memory: a process reads all of its own and looks.

The secur32 of these tests are functions of libc that take any arguments and do
nothing, and scripted answers: the fake keeps passwords on purpose. Each test is
a process of its own, whose passwords are ASCII, so that their str is not UTF-16.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(
    # Wine shows the files of its Linux; tests/wine/test_windows.py looks there.
    sys.platform == "win32" or not Path("/proc/self/mem").exists(),
    reason="only Linux shows a process its memory",
)

LOOK = r'''
import ctypes, gc, sys
import sspi_client
from sspi_client import Credential, Identity, SspiError

# Long, for freed memory is soon written to; any of its words that is left counts.
PASSWORD = "".join(f"<{word} battery staple>" for word in range(100, 116))
UTF_16 = [
    (PASSWORD[at : at + 16].encode("ascii"), bytes(16)) for at in (0, 115, 230, 300)
]


def places(secrets):
    """Return where secrets are in our memory: the even and the odd bytes of each.

    In halves, or what we look for would be found where we keep it.
    """
    found = []
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps.read().splitlines():
            area, rights = line.split()[:2]
            if not rights.startswith("rw") or line.endswith(("[vvar]", "[vsyscall]")):
                continue
            start, end = (int(number, 16) for number in area.split("-"))
            try:
                memory.seek(start)
                content = memory.read(end - start)
            except (OSError, OverflowError):
                continue
            for shift in (0, 1):
                half = content[shift::2]
                for even, odd in secrets:
                    at = half.find(even)
                    while at >= 0:
                        first = 2 * at + shift + 1
                        if content[first : first + 2 * len(odd) : 2] == odd:
                            found.append(start + 2 * at + shift)
                        at = half.find(even, at + 1)
    return sorted(found)


class Nothing:
    """A secur32 of C functions: each returns what its first argument makes of it."""

    def __init__(self, acquire="abs"):
        for name, (restype, *argtypes) in sspi_client.PROTOTYPES.items():
            # abs(NULL) is 0, SEC_E_OK; isascii(NULL) is 1, a status that is not.
            called = acquire if name.startswith("Acquire") else "abs"
            function = ctypes.CDLL(None)[called]
            function.restype, function.argtypes = restype, argtypes
            setattr(self, name, function)


def acquire(secur32, **options):
    identity = Identity("alice", PASSWORD, "CORP")
    return Credential(identity, secur32=secur32, **options)
'''


def run(script):
    # By standard input: the interpreter keeps the text of -c as UTF-32, every second
    # byte of which is UTF-16.
    done = subprocess.run(
        [sys.executable, "-"],
        input=LOOK + script,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.split()


def test_password_is_found_when_it_is_there():
    assert run("""
kept = ctypes.create_string_buffer(1 + 2 * len(PASSWORD) + 1)
for place, letter in enumerate(PASSWORD):
    kept[1 + 2 * place] = ord(letter)  # at an odd address, for once
start = ctypes.addressof(kept) + 1
print(places(UTF_16) == [start + 2 * at for at in (0, 115, 230, 300)])
encoded = PASSWORD.encode("utf-16-le")
print(len(places(UTF_16)) >= 8)
""") == ["True", "True"]


def test_password_is_there_when_acquisition_sees_it():
    """Or the tests below would pass without a password at all."""
    assert run("""
class Looking(Nothing):
    def AcquireCredentialsHandleW(self, *arguments):
        print(len(places(UTF_16)))
        return 0

    def __init__(self):
        super().__init__()
        del self.__dict__["AcquireCredentialsHandleW"]

acquire(Looking())
print(len(places(UTF_16)))
""") == ["4", "0"]


@pytest.mark.parametrize("options", ["", "allow_ntlm=False", "package='NTLM'"])
def test_password_is_nowhere_after_acquisition(options):
    assert run(f"""
credential = acquire(Nothing(), {options})
print(credential, places(UTF_16))
credential.close()
print(places(UTF_16))
""")[-1] == "[]"


def test_password_is_nowhere_after_a_failed_acquisition():
    assert run("""
try:
    acquire(Nothing("isascii"))
except SspiError as refused:
    error = refused  # with its traceback, and so with every frame
    print(error.status, places(UTF_16))
""") == ["1", "[]"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_password_is_nowhere_after_an_interrupted_acquisition(when):
    assert run(f"""
secur32 = Nothing()
real = secur32.AcquireCredentialsHandleW

def interrupted(*arguments):
    if {when!r} == "after":
        real(*arguments)
    raise KeyboardInterrupt

secur32.AcquireCredentialsHandleW = interrupted
try:
    acquire(secur32)
except KeyboardInterrupt as reason:
    kept = reason
    print(places(UTF_16))
""") == ["[]"]


def test_password_is_nowhere_whichever_line_is_interrupted():
    # A trace function stands in for Ctrl-C.
    stride = 5 if os.environ.get("SSPI_CLIENT_THOROUGH") else 71
    count, left = run(f"STRIDE = {stride}" + """
STEPS = ("_acquire", "_identity_memory", "_write_identity", "_identity_strings")
for name in STEPS:
    assert hasattr(sspi_client, name), name

def interrupted_at(nth):
    passed = 0
    def trace(frame, event, argument):
        nonlocal passed
        if frame.f_code.co_name not in STEPS:
            return None
        if event == "line":
            passed += 1
            if passed == nth:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace
    secur32, identity = Nothing(), Identity("alice", PASSWORD[:40], "CORP")
    sys.settrace(trace)
    try:
        Credential(identity, secur32=secur32).close()
    except KeyboardInterrupt as reason:
        return reason
    finally:
        sys.settrace(None)
    return passed

lines = interrupted_at(0)
left = scans = 0
# One by one up to the writing and from its end on; in between here and there.
for nth in {*range(1, 40), *range(40, lines, STRIDE), *range(lines - 20, lines + 1)}:
    reason = interrupted_at(nth)
    assert isinstance(reason, KeyboardInterrupt)
    scans += 1
    left += bool(places([(PASSWORD[24:40].encode("ascii"), bytes(16))]))
print(scans, left)
""")
    assert int(count) > 60
    assert left == "0"


# -- Keys ----------------------------------------------------------------------

SCRIPTED = '''
class Scripted:
    """A secur32 that plays recorded NTLM tokens back, and knows a session key."""

    def __init__(self, tokens, key):
        self.tokens, self.key, self.kept = list(tokens), key, []
        for name in sspi_client.PROTOTYPES:
            if not hasattr(self, name):
                setattr(self, name, lambda *arguments: 0)

    def AcquireCredentialsHandleW(self, *arguments):
        arguments[7].dwLower = arguments[7].dwUpper = 1
        return 0

    def InitializeSecurityContextW(self, *arguments):
        token = self.tokens.pop(0)
        output = arguments[9].pBuffers[0]
        self.kept.append(ctypes.create_string_buffer(token))
        output.pvBuffer, output.cbBuffer = ctypes.addressof(self.kept[-1]), len(token)
        arguments[8].dwLower = arguments[8].dwUpper = 2
        arguments[10].value = 0x0001001E
        return 0x00090312 if self.tokens else 0

    def QueryContextAttributesW(self, context, attribute, answer):
        key = ctypes.create_string_buffer(16)
        for place in range(16):
            key[place] = self.key[place % 2][place // 2]  # it comes in halves too
        self.kept.append(key)
        answer._obj.SessionKey = ctypes.addressof(key)
        answer._obj.SessionKeyLength = 16
        return 0
'''


@pytest.fixture(scope="module")
def handshake():
    """Tokens of a real NTLM handshake with the fake, its NT hash and its keys."""
    import sspi_client

    domain = sspi_client.FakeDomain("CORP", {"alice": "correct horse battery staple"})
    fake = sspi_client.FakeSecur32(domain, logon="alice")
    server = sspi_client.FakeServer(domain)
    tokens, replies = [], []

    def exchange(token):
        tokens.append(bytes(token))
        replies.append(server.accept(token))
        return replies[-1]

    flow = sspi_client.authenticate("HTTP/x", package="NTLM", secur32=fake)
    with sspi_client.drive(flow, exchange) as context:
        exported = context.session_key
    fake.assert_clean()
    secret = "correct horse battery staple".encode("utf-16-le")
    nt_hash = sspi_client._md4(secret)
    ntlm_v2 = sspi_client._ntowf_v2("alice", "CORP", "correct horse battery staple")
    response = sspi_client._ntlm_field(tokens[1], 20)
    base = sspi_client._hmac_md5(ntlm_v2, response[:16])
    keys = [nt_hash, ntlm_v2, base, exported]
    halves = [(key[0::2], key[1::2]) for key in keys]
    return f"TOKENS, REPLIES, KEYS = {tokens!r}, {replies!r}, {halves!r}\n"


def test_no_hash_and_no_key_is_anywhere_after_a_handshake(handshake):
    # The secur32 plays tokens back, so whatever key there is the client has made.
    assert run(handshake + SCRIPTED + """
secur32 = Scripted(TOKENS, KEYS[-1])
flow = sspi_client.authenticate(
    "HTTP/x", Identity("alice", PASSWORD, "CORP"), package="NTLM", secur32=secur32)
context = sspi_client.drive(flow, lambda token: REPLIES.pop(0))
print(*(len(places(look)) for look in (KEYS, UTF_16)))
context.close()
print(*(len(places(look)) for look in (KEYS, UTF_16)))
""") == ["0"] * 4


def test_session_key_is_in_what_the_caller_got_alone(handshake):
    before, after, at_key = run(handshake + SCRIPTED + """
secur32 = Scripted(TOKENS, KEYS[-1])
flow = sspi_client.authenticate("HTTP/x", package="NTLM", secur32=secur32)
context = sspi_client.drive(flow, lambda token: REPLIES.pop(0))
print(len(places(KEYS[-1:])))
key = context.session_key
found = places(KEYS[-1:])
# Only CPython tells where an object is; elsewhere it may move, and leave copies.
told = sys.implementation.name == "cpython"
at_key = not told or id(key) < found[0] < id(key) + sys.getsizeof(key)
print(len(found) if told else min(len(found), 1), at_key)
context.close()  # no second look: reading our memory has copied what is there
""")
    assert (before, after, at_key) == ("0", "1", "True")
