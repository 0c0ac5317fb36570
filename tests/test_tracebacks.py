"""What tracebacks hold: trackers, `pytest -l` and cgitb show the locals of each frame.

Each case makes a public call raise; then every frame of ours is walked, those of
__cause__ and __context__ too, into containers and objects. There may be no password
under any name but `password`, which trackers scrub, no plaintext, and no NTLM
AUTHENTICATE outside of a Token. Identity, Token, the fake and its server are closed
boxes: their repr shows nothing.
"""

import ctypes
import types
from collections import deque
from pathlib import Path

import pytest
from stub import ALL_GRANTED, TOKEN, Stub, scrambled, vouched
from world import BINDINGS, KERBEROS_SPN, NTLM_SPN

import sspi_client
from sspi_client import (
    ISC_REQ,
    ISC_RET,
    Credential,
    FakeDomain,
    FakeSecur32,
    FakeServer,
    Identity,
    SspiError,
    Token,
    authenticate,
    drive,
)

FILE = Path(sspi_client.__file__)
CUT = next(
    number
    for number, line in enumerate(FILE.read_text(encoding="utf-8").splitlines(), 1)
    if line.startswith("# 8<")
)
PASSWORD = "Xq7-Zebra-Quilt"
PLAIN = b"plain text of a walrus"
KEY = b"k" * 16  # what the stub tells as its session key
AUTHENTICATE = b"NTLMSSP\0\3\0\0\0"  # MS-NLMP 2.2.1.3
SECRETS = {
    "the password": [PASSWORD.encode(code) for code in ("ascii", "utf-16-le")],
    "plaintext": [PLAIN],
    "NTLM AUTHENTICATE": [AUTHENTICATE],
    "the session key": [KEY],
}
BOXES = Identity, FakeDomain, FakeSecur32, FakeServer
STEPS = 20000  # of a walk; none here takes a tenth of it


# -- the walk ------------------------------------------------------------------


def leaks(error, boxes=()):
    """Return "function, line: name holds what" of each frame of ours."""
    found = []
    for reason in chain_of(error):
        traceback = reason.__traceback__
        while traceback:
            code = traceback.tb_frame.f_code
            if Path(code.co_filename) == FILE and code.co_firstlineno < CUT:
                for name, value in list(traceback.tb_frame.f_locals.items()):
                    what = what_it_holds(name, value, boxes)
                    what += what_it_shows(name, value)
                    found += [
                        f"{code.co_name}, line {traceback.tb_lineno}: {name} holds {w}"
                        for w in what
                    ]
            traceback = traceback.tb_next
    return found


def chain_of(error):
    """Return the exception and all that hang on it, suppressed ones too."""
    chain, left = [], [error]
    while left:
        reason = left.pop()
        if reason is not None and reason not in chain:
            chain.append(reason)
            left += [reason.__cause__, reason.__context__]
    return chain


def what_it_holds(name, value, boxes):
    """Return the kinds of secrets that are reached from a local of that name."""
    found, seen, left = set(), set(), [(name, value)]
    while left:
        name, thing = left.pop()
        if id(thing) in seen or any(thing is box for box in boxes):
            continue
        seen.add(id(thing))
        assert len(seen) < STEPS, "the walk does not end"
        for kind, looks in SECRETS.items():
            shown = name == "password" and kind == "the password"
            if not shown and any(look in octets_of(thing) for look in looks):
                found.add(kind)
        left += inside(thing)
    return sorted(found)


def what_it_shows(name, value):
    """Return what a tracker would see that calls repr(), or that it cannot."""
    try:
        shown = repr(value)
    except Exception as error:
        return [f"what has no repr: {type(error).__name__}"]
    told = PASSWORD in shown and name != "password"
    return ["a repr of the password"] if told else []


def octets_of(thing):
    """Return the content of what is text, bytes or memory."""
    if isinstance(thing, Token):
        return b""
    if isinstance(thing, str):
        return thing.encode("utf-8", "surrogatepass")
    if isinstance(thing, memoryview):
        try:
            return thing.tobytes()
        except ValueError:  # released, as it should be
            return b""
    if isinstance(thing, (bytes, bytearray, ctypes.Array, ctypes.Structure)):
        return bytes(thing)
    if isinstance(thing, list) and thing and all(type(i) is int for i in thing):
        return b"".join(bytes([i]) for i in thing if i < 256)
    return b""


def inside(thing):
    """Return (name, value) of what a container or an object holds."""
    if isinstance(thing, (*BOXES, type, types.ModuleType, str, bytes, bytearray)):
        return []
    if isinstance(thing, dict):
        return [(str(key), value) for key, value in thing.items()] + [
            ("key", key) for key in thing
        ]
    if isinstance(thing, (list, tuple, set, frozenset, deque)):
        return [("item", value) for value in thing]
    if isinstance(thing, types.MethodType):
        return [("self", thing.__self__), ("function", thing.__func__)]
    if isinstance(thing, types.FunctionType):
        cells = thing.__closure__ or ()
        return list(zip(thing.__code__.co_freevars, map(content_of, cells)))
    if isinstance(thing, types.GeneratorType):
        return list(thing.gi_frame.f_locals.items()) if thing.gi_frame else []
    if isinstance(thing, BaseException):
        return [("args", thing.args), *vars(thing).items()]
    if type(thing).__module__ == sspi_client.__name__:
        slots = [
            name for kind in type(thing).__mro__
            for name in getattr(kind, "__slots__", ())
        ]  # fmt: skip
        kept = [(name, getattr(thing, name, None)) for name in slots]
        return kept + list(getattr(thing, "__dict__", {}).items())
    return []


def content_of(cell):
    try:
        return cell.cell_contents
    except ValueError:  # empty by now
        return None


def test_walk_finds_what_is_there():
    """Or all of the tests below would pass with no walk at all."""
    identity, text = Identity("alice", PASSWORD), PLAIN
    assert what_it_holds("x", [{"a": (PASSWORD,)}], ()) == ["the password"]
    assert what_it_holds("password", PASSWORD, ()) == []
    assert what_it_holds("x", PASSWORD.encode("utf-16-le"), ()) == ["the password"]
    assert what_it_holds("x", list(PASSWORD.encode()), ()) == ["the password"]
    assert what_it_holds("x", lambda: text, ()) == ["plaintext"]
    assert what_it_holds("x", memoryview(PLAIN), ()) == ["plaintext"]
    assert what_it_holds("x", Token(AUTHENTICATE, True), ()) == []
    assert what_it_holds("x", bytes(Token(AUTHENTICATE, True)), ()) != []
    assert what_it_holds("x", SspiError(1, "", AUTHENTICATE), ()) != []
    assert what_it_holds("x", identity, ()) == []
    memory = ctypes.create_string_buffer(PLAIN)
    assert what_it_holds("x", memory, ()) == ["plaintext"]


# -- the cases -----------------------------------------------------------------


class Interrupted:
    """A secur32 of which one function raises, before or after its work."""

    def __init__(self, secur32, function, when, reason=KeyboardInterrupt, call=1):
        self._secur32, self._left = secur32, call
        real = getattr(secur32, function)

        def interrupted(*arguments):
            self._left -= 1
            if self._left:
                return real(*arguments)
            if when == "after":
                real(*arguments)
            raise reason

        setattr(self, function, interrupted)

    def __getattr__(self, name):
        return getattr(self._secur32, name)


def new_world(channel_bindings=None):
    world = FakeDomain("CORP", {"alice": PASSWORD}, [KERBEROS_SPN])
    return FakeSecur32(world, logon="alice"), FakeServer(world, channel_bindings)


def alice():
    return Identity("alice", PASSWORD, "CORP")


def check(call, *errors, boxes=()):
    """Make the call, which must raise one of *errors*, and walk what it raised."""
    try:
        call()
    except errors as error:
        assert leaks(error, boxes) == []
        return
    pytest.fail("nothing was raised")


BAD_IDENTITIES = {
    "NUL": ("alice", PASSWORD + "\0", "CORP"),
    "mixture": (b"alice", PASSWORD, b"CORP"),
    "mixture, bytes": ("alice", PASSWORD.encode(), "CORP"),
    "no user": ("", PASSWORD, "CORP"),
    "control": ("CORP\alice", PASSWORD, None),
    "domain of an odd type": ("alice", PASSWORD, 5),
    "user of an odd type": (5, PASSWORD, "CORP"),
    "user None": (None, PASSWORD, None),
    "non-ASCII before the backslash": (b"\x83\\alice", PASSWORD.encode(), None),
    "password of an odd type": ("alice", [PASSWORD], "CORP"),
    "password of an odd type, bytearray": (
        b"alice", bytearray(PASSWORD.encode()), b"CORP",
    ),
}  # fmt: skip


@pytest.mark.parametrize("parts", BAD_IDENTITIES.values(), ids=BAD_IDENTITIES)
def test_refused_identity_shows_no_password(parts):
    check(lambda: Identity(*parts), TypeError, ValueError)


SECRET = PASSWORD.encode()
BAD_ANSI = {
    "bytes of no character": (b"alice", SECRET + b"\x81", b"CORP", 932),
    "UTF-8 that is none": (b"alice", SECRET + b"\xff", b"CORP", 65001),
    "user of no character": (b"al\xffice", SECRET, b"CORP", 65001),
    "domain of no character": (b"alice", SECRET, b"CO\xffRP", 65001),
    "unknown page": (b"alice", SECRET, b"CORP", 4),
    "page of an odd type": (b"alice", SECRET, b"CORP", "cp1252"),
    "str": (b"alice", PASSWORD, b"CORP", 1252),
    "user str": ("alice", SECRET, b"CORP", 1252),
    "domain str": (b"alice", SECRET, "CORP", 1252),
    "NUL": (b"alice", SECRET + b"\0", b"CORP", 1252),
    "no user": (b"", SECRET, b"CORP", 1252),
    "control": (b"al\aice", SECRET, b"CORP", 1252),
}


@pytest.mark.parametrize("parts", BAD_ANSI.values(), ids=BAD_ANSI)
def test_refused_bytes_of_a_code_page_show_no_password(parts):
    check(lambda: Identity.from_ansi(*parts), TypeError, ValueError)


@pytest.mark.parametrize(
    "options",
    [
        {"target": 5}, {"target": "http://a"}, {"target": ""}, {"package": 5},
        {"package": ""}, {"flags": "x"}, {"flags": -1}, {"require": 1 << 40},
        {"channel_bindings": 5}, {"channel_bindings": b"x"}, {"allow_ntlm": 1},
        {"secur32": object()}, {"package": "NTLM", "allow_ntlm": False},
    ],
    ids=str,
)  # fmt: skip
def test_refused_argument_of_authenticate_shows_no_password(options):
    fake, _ = new_world()
    arguments = {"target": NTLM_SPN, "secur32": fake, **options}
    target = arguments.pop("target")
    check(
        lambda: authenticate(target, alice(), **arguments),
        TypeError, ValueError, boxes=[fake],
    )  # fmt: skip


IDENTITIES = {
    "str": lambda: Identity("alice", PASSWORD, "CORP"),
    "bytes": lambda: Identity(b"alice", PASSWORD.encode(), b"CORP"),
}


@pytest.mark.parametrize("identity", IDENTITIES.values(), ids=IDENTITIES)
@pytest.mark.parametrize("allow_ntlm", [True, False], ids=["plain", "EX"])
@pytest.mark.parametrize("function", ["AcquireCredentialsHandleW", "Init"])
@pytest.mark.parametrize("through", ["flow", "credential"])
@pytest.mark.parametrize("how", ["refused", "before", "after"])
def test_failed_first_leg_shows_no_password(
    identity, allow_ntlm, function, through, how
):
    fake, server = new_world()
    function = {"Init": "InitializeSecurityContextW"}.get(function, function)
    secur32 = fake
    if how == "refused":
        fake.plan(function, sspi_client.SEC_E_INTERNAL_ERROR)
    else:
        secur32 = Interrupted(fake, function, how)

    def start():
        options = {"allow_ntlm": allow_ntlm, "secur32": secur32}
        if through == "flow":
            next(authenticate(KERBEROS_SPN, identity(), **options))
        else:
            with Credential(identity(), **options) as credential:
                next(credential.authenticate(KERBEROS_SPN))

    check(start, SspiError, KeyboardInterrupt, boxes=[fake, secur32])


@pytest.mark.parametrize("reason", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "package, call", [("NTLM", 1), ("NTLM", 2)] + [("Negotiate", n) for n in (1, 2, 3)]
)
def test_interrupted_leg_shows_no_ntlm_response(package, when, reason, call):
    fake, server = new_world(BINDINGS)
    secur32 = Interrupted(fake, "InitializeSecurityContextW", when, reason, call)
    flow = authenticate(
        NTLM_SPN, alice(), package=package, channel_bindings=BINDINGS, secur32=secur32
    )
    check(lambda: drive(flow, server.accept), reason, boxes=[fake, secur32])


@pytest.mark.parametrize("package", ["NTLM", "Negotiate"])
@pytest.mark.parametrize("leg", [1, 2])
def test_exchange_that_raises_shows_no_ntlm_response(package, leg):
    fake, server = new_world()
    flow = authenticate(NTLM_SPN, alice(), package=package, secur32=fake)
    sent = []

    def exchange(token):
        sent.append(token)
        if len(sent) == leg:
            raise ConnectionError("reset by peer")
        return server.accept(token)

    check(lambda: drive(flow, exchange), ConnectionError, boxes=[fake])


@pytest.mark.parametrize(
    "package, leg", [("NTLM", 1), ("Negotiate", 1), ("Negotiate", 2)]
)
@pytest.mark.parametrize(
    "reply", ["text", 5, None, b"", b"junk", "echo"], ids=lambda reply: repr(reply)
)
def test_bad_reply_shows_no_ntlm_response(package, reply, leg):
    fake, server = new_world()
    flow = authenticate(NTLM_SPN, alice(), package=package, secur32=fake)
    token = next(flow)
    if leg == 2:
        token = flow.send(server.accept(token))
    given = bytes(token) if reply == "echo" else reply
    check(lambda: flow.send(given), SspiError, TypeError, boxes=[fake])


@pytest.mark.parametrize("package", ["NTLM", "Negotiate"])
@pytest.mark.parametrize("leg", [1, 2])
def test_thrown_exception_shows_no_ntlm_response(package, leg):
    fake, server = new_world()
    flow = authenticate(NTLM_SPN, alice(), package=package, secur32=fake)
    token = next(flow)
    if leg == 2:
        flow.send(server.accept(token))
    check(lambda: flow.throw(OSError("late")), OSError, boxes=[fake])


@pytest.mark.parametrize("package", ["NTLM", "Negotiate"])
def test_unmet_requirement_shows_no_ntlm_response(package):
    """NTLM's last token is made, and must not leave."""
    fake, server = new_world()
    flow = authenticate(
        NTLM_SPN, alice(), package=package, require=ISC_RET.USED_DCE_STYLE,
        flags=sspi_client.DEFAULT_FLAGS, secur32=fake,
    )  # fmt: skip
    check(lambda: drive(flow, server.accept), SspiError, boxes=[fake])


@pytest.mark.parametrize("options", [{"allow_ntlm": False}, {"require": 2}], ids=str)
@pytest.mark.parametrize("kind", [1, 3], ids=["NEGOTIATE", "AUTHENTICATE"])
def test_refused_ntlm_token_is_not_shown(options, kind):
    stub = Stub("Negotiate")
    stub.token = b"NTLMSSP\0" + bytes([kind, 0, 0, 0]) + bytes(60)
    check(
        lambda: stub.context(package="Negotiate", identity=alice(), **options).close(),
        SspiError, boxes=[stub],
    )  # fmt: skip
    stub.assert_clean()


@pytest.mark.parametrize("status", [0x8009030C, 0x00090321], ids=["error", "odd"])
def test_error_token_is_a_token_from_its_beginning(status):
    fake, server = new_world()
    fake.plan("InitializeSecurityContextW", status, AUTHENTICATE + bytes(60))
    flow = authenticate(NTLM_SPN, alice(), package="NTLM", secur32=fake)
    check(lambda: next(flow), SspiError, boxes=[fake])


@pytest.mark.parametrize("how", ["refused", "before", "after"])
def test_failed_completion_shows_no_ntlm_response(how):
    fake, server = new_world()
    needed = sspi_client.SEC_I_COMPLETE_NEEDED
    fake.plan("InitializeSecurityContextW", needed, AUTHENTICATE + bytes(60))
    secur32 = fake
    if how == "refused":
        fake.plan("CompleteAuthToken", sspi_client.SEC_E_INTERNAL_ERROR)
    else:
        secur32 = Interrupted(fake, "CompleteAuthToken", how)
    flow = authenticate(NTLM_SPN, alice(), package="NTLM", secur32=secur32)
    check(
        lambda: next(flow), SspiError, KeyboardInterrupt, boxes=[fake, secur32],
    )  # fmt: skip


def test_interrupted_freeing_shows_no_ntlm_response():
    fake, server = new_world()
    secur32 = Interrupted(fake, "FreeContextBuffer", "after", call=2)
    flow = authenticate(NTLM_SPN, alice(), package="NTLM", secur32=secur32)
    check(
        lambda: drive(flow, server.accept), KeyboardInterrupt, boxes=[fake, secur32],
    )  # fmt: skip


# -- messages ------------------------------------------------------------------

CALLS = {
    "seal": lambda context: context.seal(PLAIN),
    "seal, bytearray": lambda context: context.seal(bytearray(PLAIN)),
    "seal, view": lambda context: context.seal(memoryview(PLAIN)),
    "wrap": lambda context: context.wrap(PLAIN),
    "wrap, readable": lambda context: context.wrap(PLAIN, encrypt=False),
    "sign": lambda context: context.sign(PLAIN),
    "verify": lambda context: context.verify(PLAIN, vouched(PLAIN, 0)),
    "unseal": lambda context: context.unseal(vouched(PLAIN, 0), scrambled(PLAIN)),
    "unwrap": lambda context: context.unwrap(vouched(PLAIN, 0) + scrambled(PLAIN)),
}
FUNCTIONS = {
    "seal": "EncryptMessage", "wrap": "EncryptMessage", "sign": "MakeSignature",
    "verify": "VerifySignature", "unseal": "DecryptMessage", "unwrap": "DecryptMessage",
}  # fmt: skip
calls = pytest.mark.parametrize("name", CALLS)
packages = pytest.mark.parametrize("package", ["NTLM", "Kerberos"])


@calls
@packages
@pytest.mark.parametrize("how", ["refused", "before", "after"])
def test_failed_message_shows_no_plaintext(name, package, how):
    stub = Stub(package)
    function = FUNCTIONS[name.split(",")[0]]
    if how == "refused":
        kind = type(getattr(stub, function))
        setattr(stub, function, kind(lambda *_: sspi_client.SEC_E_INTERNAL_ERROR))
        secur32 = stub
    else:
        secur32 = Interrupted(stub, function, how)
    flow = authenticate(KERBEROS_SPN, package=package, secur32=secur32)
    with drive(flow, lambda token: None) as context:
        check(
            lambda: CALLS[name](context), SspiError, KeyboardInterrupt,
            boxes=[stub, secur32],
        )  # fmt: skip
    stub.assert_clean()


@calls
@packages
def test_message_of_a_weak_context_shows_no_plaintext(name, package):
    stub = Stub(package, granted=0)
    with stub.context() as context:
        check(lambda: CALLS[name](context), SspiError, boxes=[stub])
    stub.assert_clean()


@calls
@packages
def test_message_of_a_closed_context_shows_no_plaintext(name, package):
    stub = Stub(package)
    context = stub.context()
    context.close()
    check(lambda: CALLS[name](context), RuntimeError, boxes=[stub])


@calls
@packages
@pytest.mark.parametrize("attribute", ["sizes", "package"])
def test_message_without_sizes_or_package_shows_no_plaintext(name, package, attribute):
    stub = Stub(package)
    refuse = {"sizes": "tell_sizes", "package": "tell_package"}[attribute]
    with stub.context() as context:
        setattr(stub, refuse, lambda address: sspi_client.SEC_E_INTERNAL_ERROR)
        check(lambda: CALLS[name](context), SspiError, boxes=[stub])
    stub.assert_clean()


@packages
@pytest.mark.parametrize(
    "call",
    [
        lambda context: context.seal(PLAIN.decode()),
        lambda context: context.wrap(PLAIN.decode()),
        lambda context: context.wrap(PLAIN.decode(), encrypt=False),
        lambda context: context.sign(PLAIN.decode()),
        lambda context: context.verify(PLAIN.decode(), bytes(TOKEN)),
        lambda context: context.verify(PLAIN, "signature"),
        lambda context: context.verify(PLAIN, b"short"),
        lambda context: context.verify(PLAIN, bytes(TOKEN + 1)),
        lambda context: context.seal([PLAIN]),
        lambda context: context.seal(memoryview(PLAIN * 2)[::2]),
    ],
    ids="seal wrap readable sign verify signature short long list gaps".split(),
)
def test_message_of_a_wrong_kind_shows_no_plaintext(package, call):
    stub = Stub(package)
    with stub.context() as context:
        check(
            lambda: call(context), TypeError, SspiError, BufferError, boxes=[stub],
        )  # fmt: skip
    stub.assert_clean()


@packages
def test_text_that_came_readable_is_not_shown(package):
    """unseal() refuses what the peer only signed: after it has been opened."""

    class Readable(Stub):
        def on_DecryptMessage(self, context, message, number, quality):
            status = super().on_DecryptMessage(context, message, number, quality)
            quality[0] = sspi_client.SECQOP_WRAP_NO_ENCRYPT
            return status

    stub = Readable(package)
    with stub.context() as context:
        check(
            lambda: context.unseal(vouched(PLAIN, 0), scrambled(PLAIN)),
            SspiError, boxes=[stub],
        )  # fmt: skip
    stub.assert_clean()


# -- queries -------------------------------------------------------------------

ALLOCATED = "package", "user", "session_key"  # sizes need no freeing


@pytest.mark.parametrize(
    "what, function",
    [(what, "QueryContextAttributesW") for what in ("sizes", *ALLOCATED)]
    + [(what, "FreeContextBuffer") for what in ALLOCATED],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupted_query_shows_no_key(what, function, when):
    stub = Stub()
    secur32 = Interrupted(stub, function, when, call=2 if function[0] == "F" else 1)
    flow = authenticate(KERBEROS_SPN, alice(), package="Kerberos", secur32=secur32)
    with drive(flow, lambda token: None) as context:
        check(
            lambda: getattr(context, what), KeyboardInterrupt, boxes=[stub, secur32],
        )  # fmt: skip


@pytest.mark.parametrize("what", ["package", "user", "sizes", "session_key"])
def test_refused_query_shows_nothing(what):
    stub = Stub()
    flow = authenticate(KERBEROS_SPN, alice(), package="Kerberos", secur32=stub)
    with drive(flow, lambda token: None) as context:
        for name in ("tell_sizes", "tell_package", "tell_user", "tell_key"):
            setattr(stub, name, lambda address: sspi_client.SEC_E_INTERNAL_ERROR)
        check(lambda: getattr(context, what), SspiError, boxes=[stub])
    stub.assert_clean()


def test_granted_flags_are_all_that_the_stub_grants():
    """The stub and DEFAULT_FLAGS have not drifted apart."""
    assert ALL_GRANTED == int(sspi_client.DEFAULT_FLAGS)
    assert ALL_GRANTED & int(ISC_REQ.INTEGRITY)
