"""Who owns what, and that it is freed once, in order, on every way out."""

import gc
import sys
import threading
import warnings

import pytest
from world import KERBEROS_SPN, NTLM_SPN, pointee

import sspi_client
from sspi_client import Credential, SspiError, authenticate, drive

ISC = "InitializeSecurityContextW"
FREES = ("DeleteSecurityContext", "FreeCredentialsHandle")


def frees(fake):
    return [name for name in fake.calls if name in FREES]


def test_nothing_is_freed_when_nothing_was_acquired(fake):
    authenticate(NTLM_SPN, secur32=fake).close()
    assert fake.calls == []


def test_flow_frees_context_before_credential_when_closed(fake):
    flow = authenticate(NTLM_SPN, secur32=fake)
    next(flow)
    flow.close()
    assert frees(fake) == list(FREES)


def test_flow_frees_when_something_is_thrown_into_it(fake):
    flow = authenticate(NTLM_SPN, secur32=fake)
    next(flow)
    with pytest.raises(KeyboardInterrupt):
        flow.throw(KeyboardInterrupt())
    assert frees(fake) == list(FREES)


def test_flow_frees_when_closed_at_its_final_token(fake, server):
    flow = authenticate(NTLM_SPN, package="NTLM", secur32=fake)
    flow.send(server.accept(next(flow)))
    flow.close()
    assert frees(fake) == list(FREES)


def test_flow_frees_only_the_credential_when_the_first_leg_fails(fake):
    flow = authenticate("HTTP/unknown", package="Kerberos", secur32=fake)
    with pytest.raises(SspiError):
        next(flow)
    assert frees(fake) == ["FreeCredentialsHandle"]


def test_flow_deletes_nothing_when_a_failed_first_leg_wrote_a_handle(fake, mocker):
    real = getattr(fake, ISC)

    def failing(*arguments):
        real(*arguments)
        handle = pointee(arguments[8])
        fake.DeleteSecurityContext(arguments[8])
        handle.dwLower = handle.dwUpper = 0x0BAD  # what SSPI leaves means nothing
        return sspi_client.SEC_E_INTERNAL_ERROR

    mocker.patch.object(fake, ISC, failing)
    with pytest.raises(SspiError):
        next(authenticate(NTLM_SPN, secur32=fake))
    fake.assert_clean()


def test_flow_deletes_the_context_when_a_later_leg_fails(fake):
    flow = authenticate(NTLM_SPN, secur32=fake)
    next(flow)
    with pytest.raises(SspiError):
        flow.send(b"rubbish")
    assert frees(fake) == list(FREES)


def test_flow_deletes_a_context_that_came_with_an_odd_positive_status(fake):
    fake.inject(ISC, 0x00090321, b"")
    with pytest.raises(SspiError, match="SEC_I_RENEGOTIATE"):
        next(authenticate(NTLM_SPN, secur32=fake))
    assert frees(fake) == list(FREES)


def test_credential_that_came_with_an_odd_positive_status_is_released(fake, mocker):
    real = fake.AcquireCredentialsHandleW

    def odd(*arguments):
        real(*arguments)
        return sspi_client.SEC_I_RENEGOTIATE

    mocker.patch.object(fake, "AcquireCredentialsHandleW", odd)
    with pytest.raises(SspiError, match="SEC_I_RENEGOTIATE"):
        sspi_client.Credential(secur32=fake)
    with pytest.raises(SspiError, match="SEC_I_RENEGOTIATE"):
        next(authenticate(NTLM_SPN, secur32=fake))
    assert frees(fake) == ["FreeCredentialsHandle"] * 2


def test_context_frees_on_close_and_only_once(fake, server):
    context = drive(authenticate(NTLM_SPN, secur32=fake), server.accept)
    assert frees(fake) == []
    context.close()
    context.close()
    assert frees(fake) == list(FREES)


def test_context_frees_at_the_end_of_its_with_block(fake, server):
    with drive(authenticate(NTLM_SPN, secur32=fake), server.accept):
        pass
    assert frees(fake) == list(FREES)


def test_context_frees_the_credential_when_deleting_is_interrupted(
    fake, server, mocker
):
    context = drive(authenticate(NTLM_SPN, secur32=fake), server.accept)
    real = fake.DeleteSecurityContext

    def interrupted(handle):
        real(handle)
        raise KeyboardInterrupt

    mocker.patch.object(fake, "DeleteSecurityContext", interrupted)
    with pytest.raises(KeyboardInterrupt):
        context.close()
    assert frees(fake) == list(FREES)


def test_close_that_is_interrupted_is_finished_by_the_next(fake, server, mocker):
    context = drive(authenticate(NTLM_SPN, secur32=fake), server.accept)
    mocker.patch.object(sspi_client, "_release", side_effect=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        context.close()
    mocker.stopall()
    assert frees(fake) == []
    context.close()
    assert frees(fake) == list(FREES)


@pytest.mark.parametrize("reason", [MemoryError, RecursionError])
@pytest.mark.parametrize("function", FREES)
def test_handle_that_could_not_be_passed_to_sspi_is_released_by_the_next_close(
    fake, server, mocker, function, reason
):
    # ctypes raises these before it calls the DLL.
    context = drive(authenticate(NTLM_SPN, secur32=fake), server.accept)
    patch = mocker.patch.object(fake, function, side_effect=reason)
    with pytest.raises(reason):
        context.close()
    mocker.stop(patch)
    context.close()
    context.close()
    assert frees(fake) == list(FREES)


# -- shared credentials --------------------------------------------------------


def test_credential_is_freed_at_the_end_of_its_with_block(fake):
    with Credential(secur32=fake):
        pass
    assert frees(fake) == ["FreeCredentialsHandle"]


def test_credential_lives_until_its_last_context_closes(fake, domain):
    credential = Credential(secur32=fake)
    contexts = [
        drive(credential.authenticate(NTLM_SPN), sspi_client.FakeServer(domain).accept)
        for _ in range(2)
    ]
    credential.close()
    credential.close()
    assert frees(fake) == []
    contexts.pop(0).close()
    assert frees(fake) == ["DeleteSecurityContext"]
    contexts.pop().close()
    assert frees(fake)[1:] == list(FREES)


def test_credential_that_is_closed_starts_no_flow(fake):
    credential = Credential(secur32=fake)
    credential.close()
    with pytest.raises(RuntimeError, match="closed"):
        credential.authenticate(NTLM_SPN)


def test_credential_that_closes_before_next_fails_the_flow_cleanly(fake):
    credential = Credential(secur32=fake)
    flow = credential.authenticate(NTLM_SPN)
    credential.close()
    with pytest.raises(RuntimeError, match="closed"):
        next(flow)
    assert frees(fake) == ["FreeCredentialsHandle"]


def test_credential_that_closes_in_the_middle_lets_the_flow_end(fake, server):
    credential = Credential(secur32=fake)
    flow = credential.authenticate(NTLM_SPN)
    token = next(flow)
    credential.close()
    reply = server.accept(token)
    while True:
        try:
            reply = server.accept(flow.send(reply))
        except StopIteration as done:
            done.value.close()
            break
    assert frees(fake) == list(FREES)


def test_credential_that_cannot_be_acquired_frees_nothing(fake):
    with pytest.raises(SspiError, match="SEC_E_SECPKG_NOT_FOUND"):
        Credential(package="Nonesuch", secur32=fake)
    assert frees(fake) == []


def test_credential_is_freed_when_acquiring_is_interrupted_on_its_way_back(
    fake, mocker
):
    real = fake.AcquireCredentialsHandleW

    def interrupted(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    mocker.patch.object(fake, "AcquireCredentialsHandleW", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Credential(secur32=fake)
    assert frees(fake) == ["FreeCredentialsHandle"]


def test_credential_that_is_closed_while_it_says_its_name_is_freed_afterwards(
    fake, mocker
):
    credential = Credential(secur32=fake)
    real = fake.QueryCredentialsAttributesW

    def asked(*arguments):
        credential.close()  # as another thread might
        return real(*arguments)

    mocker.patch.object(fake, "QueryCredentialsAttributesW", asked)
    assert credential.user == "CORP\\alice"
    query, given_back, freed = fake.calls[-3:]
    assert (query, freed) == ("QueryCredentialsAttributesW", "FreeCredentialsHandle")
    assert given_back == "FreeContextBuffer"
    with pytest.raises(RuntimeError, match="closed"):
        credential.user  # noqa: B018
    assert frees(fake) == ["FreeCredentialsHandle"]


def test_credential_serves_many_threads(fake, domain):
    failures = []

    def work():
        try:
            for _ in range(5):
                server = sspi_client.FakeServer(domain)
                drive(credential.authenticate(NTLM_SPN), server.accept).close()
        except BaseException as failure:  # shown by the assertion below
            failures.append(failure)

    with Credential(secur32=fake) as credential:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


# -- the net -------------------------------------------------------------------


def test_flow_that_is_dropped_is_freed_and_complained_about(fake):
    flow = authenticate(NTLM_SPN, secur32=fake)
    next(flow)
    with pytest.warns(ResourceWarning, match="middle of its handshake"):
        del flow
        gc.collect()
    assert frees(fake) == list(FREES)


def test_flow_that_is_dropped_in_a_cycle_is_freed_and_complained_about(fake):
    flow = authenticate(NTLM_SPN, secur32=fake)
    next(flow)
    cycle = [flow]
    cycle.append(cycle)
    with pytest.warns(ResourceWarning, match="middle of its handshake"):
        del flow, cycle
        gc.collect()
    assert frees(fake) == list(FREES)


def test_flow_that_is_dropped_before_it_starts_is_no_complaint(fake):
    flow = authenticate(NTLM_SPN, secur32=fake)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del flow
        gc.collect()
    assert fake.calls == []


def test_context_that_is_dropped_is_freed_and_complained_about(fake, server):
    context = drive(authenticate(NTLM_SPN, secur32=fake), server.accept)
    with pytest.warns(ResourceWarning, match="a Context was never closed"):
        del context
        gc.collect()
    assert frees(fake) == list(FREES)


def test_context_outlives_its_flow(fake, server):
    flow = authenticate(NTLM_SPN, secur32=fake)
    context = drive(flow, server.accept)
    del flow
    gc.collect()
    assert context.package == "NTLM"
    context.close()


def test_credential_that_is_dropped_is_freed_and_complained_about(fake):
    credential = Credential(secur32=fake)
    with pytest.warns(ResourceWarning, match="a Credential was never closed"):
        del credential
        gc.collect()
    assert frees(fake) == ["FreeCredentialsHandle"]


def test_closing_what_was_closed_is_no_complaint(fake, server):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        context = drive(authenticate(NTLM_SPN, secur32=fake), server.accept)
        context.close()
        del context
        gc.collect()


def test_context_that_is_open_at_exit_is_freed(tmp_path):
    script = """
import sspi_client
domain = sspi_client.FakeDomain("CORP", {"alice": "x"})
fake = sspi_client.FakeSecur32(domain, logon="alice")
server = sspi_client.FakeServer(domain)
context = sspi_client.drive(
    sspi_client.authenticate("HTTP/x", secur32=fake), server.accept)
import atexit, weakref
weakref.finalize(domain, lambda: None)
atexit.register(lambda: None)
real = fake.DeleteSecurityContext
def deleting(handle):
    print("deleted")
    return real(handle)
fake.DeleteSecurityContext = deleting
"""
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        cwd=str(sspi_client.__file__).rpartition("sspi_client.py")[0] or ".",
    )
    assert (done.stdout.split(), done.returncode) == (["deleted"], 0), done.stderr


def test_two_threads_on_one_flow_get_a_clear_error(fake, mocker):
    inside, go_on = threading.Event(), threading.Event()
    real = getattr(fake, ISC)

    def slow(*arguments):
        inside.set()
        go_on.wait(10)
        return real(*arguments)

    mocker.patch.object(fake, ISC, slow)
    flow = authenticate(KERBEROS_SPN, secur32=fake)
    thread = threading.Thread(target=next, args=(flow,))
    thread.start()
    inside.wait(10)
    with pytest.raises(ValueError, match="already executing"):
        next(flow)
    go_on.set()
    thread.join()
    flow.close()
