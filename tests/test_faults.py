"""Whatever fails, and wherever: nothing stays alive and the right error comes out."""

import gc
import itertools

import pytest
from world import BINDINGS, KERBEROS_SPN, NTLM_SPN, USERS

import sspi_client
from sspi_client import DEFAULT_FLAGS, ISC_REQ, SspiError

DCE = DEFAULT_FLAGS | ISC_REQ.USE_DCE_STYLE
HANDSHAKES = {
    "negotiate-ntlm": (NTLM_SPN, "Negotiate", DEFAULT_FLAGS),
    "negotiate-kerberos": (KERBEROS_SPN, "Negotiate", DEFAULT_FLAGS),
    "kerberos-one-leg": (KERBEROS_SPN, "Kerberos", 0),
    "kerberos-two-legs": (KERBEROS_SPN, "Kerberos", DEFAULT_FLAGS),
    "kerberos-three-legs": (KERBEROS_SPN, "Kerberos", DCE),
    "ntlm": (NTLM_SPN, "NTLM", DEFAULT_FLAGS),
}
#: What the SDK's pages list for each function, and what they do not.
ODD = (0x8009FFFF, 0xC0000022, 0x0009FFFF, 1)  # unknown ones, an NTSTATUS, positive
STATUSES = {
    "AcquireCredentialsHandleW": (
        "SEC_E_INSUFFICIENT_MEMORY SEC_E_INTERNAL_ERROR SEC_E_NO_CREDENTIALS "
        "SEC_E_NOT_OWNER SEC_E_SECPKG_NOT_FOUND SEC_E_UNKNOWN_CREDENTIALS"
    ),
    "InitializeSecurityContextW": (
        "SEC_E_INSUFFICIENT_MEMORY SEC_E_INTERNAL_ERROR SEC_E_INVALID_HANDLE "
        "SEC_E_INVALID_TOKEN SEC_E_LOGON_DENIED SEC_E_NO_AUTHENTICATING_AUTHORITY "
        "SEC_E_NO_CREDENTIALS SEC_E_TARGET_UNKNOWN SEC_E_UNSUPPORTED_FUNCTION "
        "SEC_E_WRONG_PRINCIPAL SEC_I_INCOMPLETE_CREDENTIALS SEC_E_INCOMPLETE_MESSAGE "
        "SEC_E_TIME_SKEW SEC_E_BAD_BINDINGS SEC_I_RENEGOTIATE SEC_I_LOCAL_LOGON"
    ),
    "CompleteAuthToken": (
        "SEC_E_INVALID_HANDLE SEC_E_INVALID_TOKEN SEC_E_OUT_OF_SEQUENCE "
        "SEC_E_MESSAGE_ALTERED SEC_E_INTERNAL_ERROR SEC_E_UNSUPPORTED_FUNCTION"
    ),
}
RELEASES = {
    "DeleteSecurityContext": "SEC_E_INVALID_HANDLE",
    "FreeCredentialsHandle": "SEC_E_INVALID_HANDLE",
    "FreeContextBuffer": "SEC_E_INVALID_HANDLE",
}


class World:
    """One handshake that can be broken: a fake, a server, and the flow."""

    def __init__(self, kind, secur32=None):
        self.domain = sspi_client.FakeDomain("CORP", USERS, [KERBEROS_SPN])
        self.fake = sspi_client.FakeSecur32(self.domain, logon="alice")
        self.server = sspi_client.FakeServer(self.domain, BINDINGS)
        target, package, flags = HANDSHAKES[kind]
        self.flow = sspi_client.authenticate(
            target,
            package=package,
            flags=flags,
            channel_bindings=BINDINGS,
            secur32=secur32(self.fake) if secur32 else self.fake,
        )

    def run(self):
        sspi_client.drive(self.flow, self.server.accept).close()


def statuses(names):
    return [getattr(sspi_client, name) for name in names.split()] + list(ODD)


@pytest.mark.parametrize("kind", HANDSHAKES)
@pytest.mark.parametrize("function", [name for name in STATUSES if name[0] != "C"])
@pytest.mark.parametrize("token", [None, b"", b"error"], ids=["null", "empty", "some"])
def test_whichever_call_fails_with_whatever_status_nothing_leaks(kind, function, token):
    calls = 0
    for status in statuses(STATUSES[function]):
        for nth in itertools.count(1):
            world = World(kind)
            world.fake.inject(function, status, token, call=nth)
            try:
                world.run()
            except SspiError as refused:
                assert (refused.status, refused.function) == (status, function)
                asked = function == "InitializeSecurityContextW"
                assert refused.token == (token or b"" if asked else b"")
                calls += 1
            else:
                assert world.fake.calls.count(function) < nth
                break
            world.fake.assert_clean()
    assert calls >= len(statuses(STATUSES[function]))


@pytest.mark.parametrize(
    "first", ["SEC_I_COMPLETE_NEEDED", "SEC_I_COMPLETE_AND_CONTINUE"]
)
def test_whatever_completing_fails_with_nothing_leaks(first):
    for status in statuses(STATUSES["CompleteAuthToken"]):
        world = World("ntlm")
        completing = getattr(sspi_client, first)
        world.fake.inject("InitializeSecurityContextW", completing, b"t")
        world.fake.inject("CompleteAuthToken", status)
        with pytest.raises(SspiError) as caught:
            world.run()
        assert (caught.value.status, caught.value.function) == (
            status,
            "CompleteAuthToken",
        )
        assert caught.value.token == b"t"
        world.fake.assert_clean()


@pytest.mark.parametrize("kind", HANDSHAKES)
@pytest.mark.parametrize("function", RELEASES)
def test_a_release_that_reports_failure_changes_nothing(kind, function):
    for status in statuses(RELEASES[function]):
        for nth in itertools.count(1):
            world = World(kind)
            world.fake.inject(function, status, call=nth)
            world.run()
            assert world.server.complete
            world.fake.assert_clean()
            if world.fake.calls.count(function) < nth:
                break


class Interrupting:
    """A secur32 whose *nth* call returns, and then the user presses Ctrl-C."""

    def __init__(self, secur32, nth):
        self._secur32, self._left = secur32, nth
        self.interrupted = False

    def __getattr__(self, name):
        real = getattr(self._secur32, name)

        def call(*arguments):
            status = real(*arguments)
            self._left -= 1
            if self._left == 0:
                self.interrupted = True
                raise KeyboardInterrupt
            return status

        return call


@pytest.mark.parametrize("kind", HANDSHAKES)
def test_whichever_call_is_interrupted_nothing_leaks(kind):
    for nth in itertools.count(1):
        wrapper = []

        def wrap(fake, nth=nth, wrapper=wrapper):
            wrapper.append(Interrupting(fake, nth))
            return wrapper[0]

        world = World(kind, secur32=wrap)
        try:
            world.run()
        except KeyboardInterrupt:
            pass
        gc.collect()
        world.fake.assert_clean()
        if not wrapper[0].interrupted:
            assert nth > 5
            break


@pytest.mark.parametrize("kind", HANDSHAKES)
@pytest.mark.parametrize(
    "failing", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)]
)
def test_whatever_is_thrown_at_whichever_token_nothing_leaks(kind, failing):
    for nth in itertools.count(1):
        world = World(kind)
        tokens = 0

        def exchange(token, world=world, nth=nth):
            nonlocal tokens
            tokens += 1
            if tokens == nth:
                raise failing
            return world.server.accept(token)

        try:
            sspi_client.drive(world.flow, exchange).close()
        except type(failing) as caught:
            assert caught is failing
        world.fake.assert_clean()
        if tokens < nth:
            break


@pytest.mark.parametrize("kind", HANDSHAKES)
@pytest.mark.parametrize("way", ["throw", "close", "drop"])
def test_whichever_token_is_the_last_one_nothing_leaks(kind, way):
    for nth in itertools.count(1):
        world = World(kind)
        flow, reply, world.flow = world.flow, None, None
        try:
            for _ in range(nth):
                token = flow.send(reply)
                reply = world.server.accept(token)
        except StopIteration as done:
            done.value.close()
            break
        if way == "close":
            flow.close()
        elif way == "throw":
            with pytest.raises(RuntimeError, match="enough"):
                flow.throw(RuntimeError("enough"))
        else:
            with pytest.warns(ResourceWarning):
                del flow
                gc.collect()
        world.fake.assert_clean()
    assert nth > 1


QUERIES = {
    "package": lambda context: context.package,
    "user": lambda context: context.user,
    "sizes": lambda context: context.sizes,
    "session_key": lambda context: context.session_key,
    "sign": lambda context: context.sign(b"data"),
    "verify": lambda context: context.verify(b"data", bytes(16)),
    "wrap": lambda context: context.wrap(b"data"),
    "unwrap": lambda context: context.unwrap(bytes(20)),
    "seal": lambda context: context.seal(b"data"),
    "unseal": lambda context: context.unseal(bytes(16), b"data"),
}
MESSAGES = (
    "QueryContextAttributesW EncryptMessage DecryptMessage MakeSignature "
    "VerifySignature"
).split()


@pytest.mark.parametrize("what", QUERIES)
@pytest.mark.parametrize("function", MESSAGES)
def test_whichever_call_on_a_context_fails_nothing_leaks(what, function):
    for status in (sspi_client.SEC_E_INTERNAL_ERROR, *ODD):
        world = World("ntlm")
        with sspi_client.drive(world.flow, world.server.accept) as context:
            before = world.fake.calls.count(function)
            world.fake.inject(function, status)
            try:
                QUERIES[what](context)
            except SspiError as refused:
                expected = status if world.fake.calls.count(function) > before else None
                allowed = {expected, sspi_client.SEC_E_MESSAGE_ALTERED}
                assert refused.status in allowed
                assert refused.target == NTLM_SPN
        world.fake.assert_clean()


def test_credential_user_that_fails_leaks_nothing():
    world = World("ntlm")
    with sspi_client.Credential(secur32=world.fake) as credential:
        nobody = sspi_client.SEC_E_NO_CREDENTIALS
        world.fake.inject("QueryCredentialsAttributesW", nobody)
        with pytest.raises(SspiError, match="QueryCredentialsAttributesW") as caught:
            _ = credential.user
        assert caught.value.package == "Negotiate"
    world.fake.assert_clean()


def test_packages_that_fails_leaks_nothing():
    world = World("ntlm")
    world.fake.inject("EnumerateSecurityPackagesW", sspi_client.SEC_E_INTERNAL_ERROR)
    with pytest.raises(SspiError, match="EnumerateSecurityPackagesW"):
        sspi_client.packages(world.fake)
    world.fake.assert_clean()
