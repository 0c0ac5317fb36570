"""Many threads on one credential, and no state of the module that they could share."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from world import KERBEROS_SPN, NTLM_SPN

import sspi_client
from sspi_client import Credential, drive

ROOT = Path(__file__).resolve().parent.parent
THREADS = 32
HANDSHAKES = 100 if os.environ.get("SSPI_CLIENT_THOROUGH") else 4


@pytest.fixture
def impatient():
    """Let the interpreter switch threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work, count=THREADS):
    """Run work(number) in threads that start together; return what they raised."""
    failures, start = [], threading.Barrier(count)

    def run(number):
        try:
            start.wait(30)
            work(number)
        except BaseException as failure:  # the caller shows it
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


@pytest.mark.parametrize("package", ["Negotiate", "NTLM", "Kerberos"])
def test_threads_share_one_credential(fake, domain, impatient, package):
    def work(number):
        target = KERBEROS_SPN if package == "Kerberos" or number % 2 else NTLM_SPN
        for _ in range(HANDSHAKES):
            server = sspi_client.FakeServer(domain)
            with drive(credential.authenticate(target), server.accept) as context:
                assert server.unwrap(context.wrap(b"%d" % number)) == b"%d" % number
                assert context.session_key == server.session_key

    with Credential(package=package, secur32=fake) as credential:
        assert in_threads(work) == []
    assert fake.calls.count("AcquireCredentialsHandleW") == 1
    assert fake.calls.count("DeleteSecurityContext") == THREADS * HANDSHAKES


def test_threads_race_with_close_and_the_handle_is_freed_once(fake, domain, impatient):
    for _ in range(HANDSHAKES):
        credential = Credential(secur32=fake)

        def work(number, credential=credential):
            if number == 0:
                credential.close()
                return
            try:
                server = sspi_client.FakeServer(domain)
                drive(credential.authenticate(NTLM_SPN), server.accept).close()
            except RuntimeError as closed:
                assert "closed" in str(closed)

        assert in_threads(work, 8) == []
    assert fake.calls.count("FreeCredentialsHandle") == HANDSHAKES


def test_threads_that_close_one_context_close_it_once_and_in_order(domain, impatient):
    fake = sspi_client.FakeSecur32(domain, logon="alice")
    for _ in range(10 * HANDSHAKES):
        server = sspi_client.FakeServer(domain)
        context = drive(sspi_client.authenticate(NTLM_SPN, secur32=fake), server.accept)
        assert in_threads(lambda _, context=context: context.close(), 8) == []
    assert fake.calls.count("DeleteSecurityContext") == 10 * HANDSHAKES
    fake.assert_clean()


# A process of its own: other tests must not have filled what would be filled here.
STATE = '''
import enum, types
import sspi_client as module
from sspi_client import FakeDomain, FakeSecur32, FakeServer

# The standard library keeps a member there for each combination that was met.
EXCEPTED = ("_value2member_map_", "_unhashable_values_", "_hashable_values_")


def content(thing, path, seen):
    """Yield (path, what is there) for all that the module's own objects hold."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    parts = {}
    if isinstance(thing, types.FunctionType):
        if thing.__module__ != module.__name__:
            return
        parts = {"dict": thing.__dict__, "defaults": thing.__defaults__,
                 "keywords": thing.__kwdefaults__, "code": thing.__code__,
                 **{f"cell {place}": cell.cell_contents
                    for place, cell in enumerate(thing.__closure__ or ())}}
    elif isinstance(thing, type):
        if thing.__module__ != module.__name__:
            return
        parts = dict(vars(thing))
        if issubclass(thing, enum.Enum):
            for name in EXCEPTED:
                parts.pop(name, None)
    elif isinstance(thing, property):
        parts = {"get": thing.fget}
    elif isinstance(thing, (classmethod, staticmethod)):
        parts = {"function": thing.__func__}
    elif isinstance(thing, dict):
        yield path + ".keys", repr(list(thing))
        parts = {repr(key): value for key, value in thing.items()}
    elif isinstance(thing, (list, tuple)):
        parts = dict(enumerate(thing))
    elif isinstance(thing, (set, frozenset)):
        yield path, repr(sorted(map(repr, thing)))
    if not isinstance(thing, (types.FunctionType, types.CodeType, types.ModuleType)):
        yield path, (type(thing), repr(thing) if not isinstance(thing, dict) else "")
    for name, part in parts.items():
        yield f"{path}.{name}", id(part)
        yield from content(part, f"{path}.{name}", seen)


def state():
    own = {n: v for n, v in vars(module).items() if n != "__builtins__"}
    return dict(content(own, "sspi_client", set()))


def handshakes():
    domain = FakeDomain("CORP", {"alice": "Secret123!"}, ["HTTP/web.corp.test"])
    fake = FakeSecur32(domain, logon="alice")
    for target in ("HTTP/web.corp.test", "HTTP/printer.corp.test"):
        for package in ("Negotiate", "NTLM", "Kerberos"):
            flow = module.authenticate(
                target, package=package, require=module.ISC_RET.INTEGRITY, secur32=fake,
                flags=module.DEFAULT_FLAGS | module.ISC_REQ.CONNECTION,
                channel_bindings=b"tls-server-end-point:" + bytes(32))
            server = FakeServer(domain)
            try:
                context = module.drive(flow, server.accept)
            except module.SspiError as refused:
                assert refused.name == "SEC_E_TARGET_UNKNOWN", refused
                continue
            with context:
                server.unwrap(context.wrap(b"x" * 100))
                context.unseal(*server.seal(b"y"))
                server.verify(b"z", context.sign(b"z"))
                str((context.flags, context.expires, context.user, context.session_key))
    identity = module.Identity("alice", "wrong", "CORP")
    try:
        module.drive(module.authenticate("HTTP/x", identity, secur32=fake),
                     FakeServer(domain).accept)
    except module.SspiError as refused:
        str(refused)
    module.packages(fake), module.mechanism(b""), module.main(["explain", "1"])
    fake.assert_clean()


before = state()
handshakes()
after = state()
assert len(before) > 1000, len(before)
for path in sorted(before.keys() | after.keys()):
    if before.get(path) != after.get(path):
        print("CHANGED", path, before.get(path), after.get(path))
'''


def run(script):
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_module_writes_no_state_after_import():
    assert "CHANGED" not in run(STATE)


@pytest.mark.parametrize(
    "code",
    [
        "module._cache = {}",
        "module._STATUS_NAMES[1] = 'ONE'",
        "module.Context.last = 1",
        "module.__all__.append('x')",
        "module._acquire.calls = 1",
        "module.PROTOTYPES.clear()",
    ],
)
def test_state_that_is_written_is_noticed(code):
    assert "CHANGED" in run(
        STATE.replace("after = state()", f"{code}\nafter = state()")
    )


def test_one_secur32_serves_the_whole_process(fake, mocker):
    made = mocker.patch.object(sspi_client, "Secur32", side_effect=lambda: fake)
    for _ in range(3):
        sspi_client.packages()
        flow = sspi_client.authenticate(KERBEROS_SPN)
        next(flow)
        flow.close()
    assert made.call_count == 1
