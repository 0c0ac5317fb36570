"""The flow by hand: next, send, throw, close, one rung of the ladder per test."""

import inspect

import pytest
from world import BINDINGS, KERBEROS_SPN, NTLM_SPN, pointee

import sspi_client
from sspi_client import (
    DEFAULT_FLAGS,
    ISC_REQ,
    ISC_RET,
    SEC_E_OK,
    SEC_I_COMPLETE_AND_CONTINUE,
    SEC_I_COMPLETE_NEEDED,
    SEC_I_CONTINUE_NEEDED,
    SspiError,
    authenticate,
    drive,
)

ISC = "InitializeSecurityContextW"


def finish(flow, reply):
    """Send the last reply and return the context."""
    with pytest.raises(StopIteration) as done:
        flow.send(reply)
    return done.value.value


class Recorder:
    """A secur32 that notes the arguments of one function and calls on."""

    def __init__(self, secur32, function, note):
        self._secur32, self.seen = secur32, []
        real = getattr(secur32, function)

        def noting(*arguments):
            before = note(*arguments)
            status = real(*arguments)
            self.seen.append(before)
            return status

        setattr(self, function, noting)

    def __getattr__(self, name):
        return getattr(self._secur32, name)


# -- the ladder ----------------------------------------------------------------


def test_flow_is_a_generator_that_has_called_nothing_before_next(fake):
    flow = authenticate(NTLM_SPN, secur32=fake)
    assert inspect.isgenerator(flow) and fake.calls == []


def test_flow_acquires_and_makes_the_first_token_at_next(fake):
    flow = authenticate(NTLM_SPN, secur32=fake)
    token = next(flow)
    assert fake.calls == ["AcquireCredentialsHandleW", ISC, "FreeContextBuffer"]
    assert type(token) is sspi_client.Token and token and not token.final
    flow.close()


def test_flow_yields_the_last_ntlm_token_as_final_and_then_returns(fake, server):
    flow = authenticate(NTLM_SPN, package="NTLM", secur32=fake)
    last = flow.send(server.accept(next(flow)))
    assert last.final and server.accept(last) is None and server.complete
    finish(flow, None).close()


def test_flow_returns_at_once_when_the_last_leg_has_no_token(fake, server):
    flow = authenticate(KERBEROS_SPN, package="Kerberos", secur32=fake)
    with finish(flow, server.accept(next(flow))) as context:
        assert context.package == "Kerberos"


def test_flow_yields_a_final_token_on_the_first_leg_when_one_is_enough(fake, server):
    flow = authenticate(KERBEROS_SPN, package="Kerberos", flags=0, secur32=fake)
    token = next(flow)
    assert token.final and server.accept(token) is None
    finish(flow, None).close()


def test_flow_makes_three_tokens_in_dce_style(fake, server):
    flags = DEFAULT_FLAGS | ISC_REQ.USE_DCE_STYLE
    flow = authenticate(KERBEROS_SPN, package="Kerberos", flags=flags, secur32=fake)
    third = flow.send(server.accept(next(flow)))
    assert third.final and server.accept(third) is None and server.complete
    finish(flow, None).close()


def test_flow_ignores_a_reply_to_a_final_token(fake, server):
    flow = authenticate(NTLM_SPN, package="NTLM", secur32=fake)
    flow.send(server.accept(next(flow)))
    calls = len(fake.calls)
    context = finish(flow, "not even bytes")
    assert len(fake.calls) == calls
    context.close()


def test_flow_yields_an_empty_token_when_sspi_wants_an_answer_to_nothing(fake):
    fake.inject(ISC, SEC_I_CONTINUE_NEEDED, b"")
    flow = authenticate("x", secur32=fake)
    token = next(flow)
    assert token == b"" and not token.final
    flow.close()


def test_flow_yields_an_empty_token_when_sspi_gives_no_buffer_at_all(fake):
    fake.inject(ISC, SEC_I_CONTINUE_NEEDED)
    flow = authenticate("x", secur32=fake)
    assert next(flow) == b""
    flow.close()


@pytest.mark.parametrize("token", [None, b""], ids=["no-buffer", "empty-buffer"])
def test_flow_returns_without_a_token_when_the_first_leg_is_ok_and_empty(fake, token):
    fake.inject(ISC, SEC_E_OK, token)
    with pytest.raises(StopIteration) as done:
        next(authenticate("x", secur32=fake))
    done.value.value.close()


def test_flow_completes_on_the_same_descriptor_and_is_done(fake):
    fake.inject(ISC, SEC_I_COMPLETE_NEEDED, b"digest")
    flow = authenticate("x", secur32=fake)
    token = next(flow)  # the fake calls another descriptor a crime
    assert token == b"digest" and token.final
    assert fake.calls[1:4] == [ISC, "CompleteAuthToken", "FreeContextBuffer"]
    finish(flow, None).close()


def test_flow_completes_and_continues(fake):
    fake.inject(ISC, SEC_I_COMPLETE_AND_CONTINUE, b"one")
    flow = authenticate("x", secur32=fake)
    token = next(flow)
    assert token == b"one" and not token.final
    fake.inject(ISC, SEC_E_OK, b"two")
    assert flow.send(b"reply").final
    finish(flow, None).close()


def test_flow_reads_the_token_after_it_was_completed(fake, mocker):
    fake.inject(ISC, SEC_I_COMPLETE_NEEDED, b"before")
    real = fake.CompleteAuthToken

    def complete(context, descriptor):
        output = pointee(descriptor).pBuffers[0]
        sspi_client.ctypes.memmove(output.pvBuffer, b"AFTER!", 6)
        return real(context, descriptor)

    mocker.patch.object(fake, "CompleteAuthToken", complete)
    flow = authenticate("x", secur32=fake)
    assert next(flow) == b"AFTER!"
    flow.close()


# -- what each leg passes to SSPI ----------------------------------------------


def inputs(argument):
    """Return the (type, length) pairs of pInput, None for NULL."""
    descriptor = pointee(argument)
    if descriptor is None:
        return None
    buffers = descriptor.pBuffers[: descriptor.cBuffers]
    return [(buffer.BufferType, buffer.cbBuffer) for buffer in buffers]


def test_first_leg_passes_no_input_and_no_context_when_there_are_no_bindings(fake):
    seen = Recorder(fake, ISC, lambda *a: (pointee(a[1]), inputs(a[6])))
    flow = authenticate(NTLM_SPN, secur32=seen)
    next(flow)
    assert seen.seen == [(None, None)]
    flow.close()


def test_first_leg_passes_the_bindings_alone(fake):
    seen = Recorder(fake, ISC, lambda *a: inputs(a[6]))
    flow = authenticate(NTLM_SPN, channel_bindings=BINDINGS, secur32=seen)
    next(flow)
    assert seen.seen == [[(sspi_client.SECBUFFER_CHANNEL_BINDINGS, 32 + len(BINDINGS))]]
    flow.close()


def test_later_legs_pass_the_reply_and_then_the_bindings(fake, server):
    seen = Recorder(fake, ISC, lambda *a: inputs(a[6]))
    flow = authenticate(NTLM_SPN, channel_bindings=BINDINGS, secur32=seen)
    reply = server.accept(next(flow))
    flow.send(reply)
    assert seen.seen[1] == [
        (sspi_client.SECBUFFER_TOKEN, len(reply)),
        (sspi_client.SECBUFFER_CHANNEL_BINDINGS, 32 + len(BINDINGS)),
    ]
    flow.close()


def test_each_leg_starts_with_attributes_and_expiry_of_zero(fake, server):
    def note(*arguments):
        return pointee(arguments[10]).value, pointee(arguments[11]).value

    seen = Recorder(fake, ISC, note)
    drive(authenticate(NTLM_SPN, secur32=seen), server.accept).close()
    assert seen.seen == [(0, 0)] * 3


def test_each_leg_passes_the_newest_handle(fake, server):
    def note(*arguments):
        context = pointee(arguments[1])
        return None if context is None else (context.dwLower, context.dwUpper)

    seen = Recorder(fake, ISC, note)
    drive(authenticate(NTLM_SPN, secur32=seen), server.accept).close()
    assert seen.seen[0] is None and len(set(seen.seen)) == 3  # the fake rotates them


def test_each_leg_asks_for_allocated_memory_and_what_the_caller_asked(fake, server):
    seen = Recorder(fake, ISC, lambda *a: a[3])
    flow = authenticate(NTLM_SPN, flags=ISC_REQ.CONNECTION, secur32=seen)
    drive(flow, server.accept).close()
    assert set(seen.seen) == {ISC_REQ.CONNECTION | ISC_REQ.ALLOCATE_MEMORY}


def test_flow_never_asks_for_delegation_by_itself(fake):
    seen = Recorder(fake, ISC, lambda *a: a[3] & ISC_REQ.DELEGATE)
    flow = authenticate(KERBEROS_SPN, secur32=seen)
    next(flow)
    assert seen.seen == [0]
    flow.close()


def test_delegation_brings_mutual_authentication(fake):
    seen = Recorder(fake, ISC, lambda *a: a[3] & 3)
    flow = authenticate(KERBEROS_SPN, flags=ISC_REQ.DELEGATE, secur32=seen)
    next(flow)
    assert seen.seen == [ISC_REQ.DELEGATE | ISC_REQ.MUTUAL_AUTH]
    flow.close()


def test_flow_does_not_let_sspi_write_into_the_reply(fake, server, mocker):
    real = getattr(fake, ISC)

    def scribble(*arguments):
        descriptor = pointee(arguments[6])
        status = real(*arguments)
        if descriptor is not None:
            token = descriptor.pBuffers[0]
            sspi_client.ctypes.memset(token.pvBuffer, 0xEE, token.cbBuffer)
        return status

    mocker.patch.object(fake, ISC, scribble)
    flow = authenticate(NTLM_SPN, secur32=fake)
    reply = bytearray(server.accept(next(flow)))
    before = bytes(reply)
    flow.send(reply)
    assert reply == before
    flow.close()


# -- wrong replies -------------------------------------------------------------


def test_str_reply_is_a_type_error_that_mentions_base64(fake):
    flow = authenticate(NTLM_SPN, secur32=fake)
    next(flow)
    with pytest.raises(TypeError, match="base64"):
        flow.send("TlRMTVNTUAACAAAA")


@pytest.mark.parametrize("reply", [None, b""], ids=["none", "empty"])
def test_missing_reply_is_refused_before_sspi_sees_it(fake, reply):
    flow = authenticate(NTLM_SPN, secur32=fake)
    next(flow)
    with pytest.raises(SspiError) as caught:
        flow.send(reply)
    assert caught.value.name == "SEC_E_INVALID_TOKEN"
    assert "sent no token" in caught.value.hint
    assert fake.calls.count(ISC) == 1


def test_own_token_as_reply_is_refused_before_sspi_sees_it(fake):
    flow = authenticate(NTLM_SPN, secur32=fake)
    token = next(flow)
    with pytest.raises(SspiError, match="our own last token") as caught:
        flow.send(bytes(token))
    assert caught.value.name == "SEC_E_INVALID_TOKEN"
    assert fake.calls.count(ISC) == 1


def test_own_token_is_noticed_however_it_is_looked_at(fake):
    flow = authenticate(NTLM_SPN, package="NTLM", secur32=fake)
    token = next(flow)
    assert len(token) % 4 == 0
    with pytest.raises(SspiError, match="our own last token"):
        flow.send(memoryview(token).cast("I"))


# -- require, allow_ntlm -------------------------------------------------------


def test_require_passes_when_granted(fake, server):
    flow = authenticate(KERBEROS_SPN, require=ISC_RET.MUTUAL_AUTH, secur32=fake)
    with drive(flow, server.accept) as context:
        assert context.flags & ISC_RET.MUTUAL_AUTH


def test_require_names_what_is_missing_and_the_negotiated_package(fake, server):
    flow = authenticate(
        NTLM_SPN, require=ISC_RET.DELEGATE | ISC_RET.INTEGRITY, secur32=fake
    )
    with pytest.raises(SspiError) as caught:
        drive(flow, server.accept)
    assert caught.value.name == "SEC_E_SECURITY_QOS_FAILED"
    assert caught.value.hint == "NTLM did not grant DELEGATE, which was required."


def test_mutual_authentication_required_lets_no_ntlm_leave(fake):
    flow = authenticate(NTLM_SPN, require=ISC_RET.MUTUAL_AUTH, secur32=fake)
    with pytest.raises(SspiError, match="no NTLM was sent") as caught:
        next(flow)
    assert (caught.value.name, caught.value.leg) == ("SEC_E_SECURITY_QOS_FAILED", 1)


@pytest.mark.parametrize("package", ["NTLM", "ntlm"])
def test_mutual_authentication_cannot_be_required_of_ntlm(fake, package):
    with pytest.raises(ValueError, match="NTLM cannot prove who the server is"):
        authenticate(
            NTLM_SPN, package=package, require=ISC_RET.MUTUAL_AUTH, secur32=fake
        )
    with sspi_client.Credential(package=package, secur32=fake) as credential:
        with pytest.raises(ValueError, match="NTLM cannot prove who the server is"):
            credential.authenticate(NTLM_SPN, require=ISC_RET.MUTUAL_AUTH)


@pytest.mark.parametrize("target, shown", [(KERBEROS_SPN, True), (NTLM_SPN, False)])
def test_flags_show_mutual_authentication_of_kerberos_alone(
    fake, server, target, shown
):
    with drive(authenticate(target, secur32=fake), server.accept) as context:
        assert context._handles.attributes() & ISC_RET.MUTUAL_AUTH  # SSPI says so
        assert bool(context.flags & ISC_RET.MUTUAL_AUTH) is shown


def test_mutual_authentication_counts_not_when_sspi_names_no_package(
    fake, server, mocker
):
    mocker.patch.object(
        sspi_client, "_negotiated_package", side_effect=SspiError(0x80090302, "Query")
    )
    flow = authenticate(KERBEROS_SPN, require=ISC_RET.MUTUAL_AUTH, secur32=fake)
    with pytest.raises(SspiError, match="Negotiate did not grant MUTUAL_AUTH"):
        drive(flow, server.accept)


@pytest.mark.parametrize("answer", ["Negotiate", "NEGOTIATE", "NTLM"])
def test_mutual_authentication_counts_not_for_a_package_that_cannot_keep_it(
    fake, server, mocker, answer
):
    mocker.patch.object(sspi_client, "_negotiated_package", return_value=answer)
    with drive(authenticate(KERBEROS_SPN, secur32=fake), server.accept) as context:
        assert not context.flags & ISC_RET.MUTUAL_AUTH


def test_flags_after_close_leave_out_what_was_never_asked(fake, server):
    with drive(authenticate(KERBEROS_SPN, secur32=fake), server.accept) as context:
        pass
    assert not context.flags & ISC_RET.MUTUAL_AUTH
    assert context.flags & ISC_RET.INTEGRITY


def test_require_fails_before_the_last_token_leaves(fake, server):
    flow = authenticate(
        NTLM_SPN, package="NTLM", require=ISC_RET.DELEGATE, secur32=fake
    )
    with pytest.raises(SspiError):
        flow.send(server.accept(next(flow)))
    assert not server.complete


def test_require_names_unknown_bits_in_hexadecimal(fake, server):
    flow = authenticate(KERBEROS_SPN, require=0x20000002, secur32=fake)
    with pytest.raises(SspiError, match="did not grant 0x20000000,"):
        drive(flow, server.accept)


def test_require_names_the_requested_package_when_the_other_cannot_be_had(fake, server):
    fake.inject("QueryContextAttributesW", sspi_client.SEC_E_INTERNAL_ERROR)
    flow = authenticate(NTLM_SPN, require=ISC_RET.DELEGATE, secur32=fake)
    with pytest.raises(SspiError, match="Negotiate did not grant DELEGATE"):
        drive(flow, server.accept)


def test_without_ntlm_a_wrong_spn_fails_before_any_token(fake):
    flow = authenticate(NTLM_SPN, allow_ntlm=False, secur32=fake)
    with pytest.raises(SspiError) as caught:
        next(flow)
    assert caught.value.name == "SEC_E_TARGET_UNKNOWN"


def test_without_ntlm_kerberos_works(fake, server):
    flow = authenticate(KERBEROS_SPN, allow_ntlm=False, secur32=fake)
    with drive(flow, server.accept) as context:
        assert context.package == "Kerberos"


def test_without_ntlm_no_ntlm_is_offered(fake):
    flow = authenticate(KERBEROS_SPN, allow_ntlm=False, secur32=fake)
    assert sspi_client.mechanism(next(flow)) == (
        "SPNEGO NegTokenInit (MS-Kerberos, Kerberos, NEGOEX): Kerberos AP-REQ"
    )
    flow.close()


@pytest.mark.parametrize("wrapped", [b"", b"\x60\x30"], ids=["raw", "wrapped"])
def test_without_ntlm_a_token_that_carries_it_never_leaves(fake, wrapped):
    fake.inject(ISC, SEC_I_CONTINUE_NEEDED, wrapped + b"NTLMSSP\0\1\0\0\0")
    flow = authenticate(KERBEROS_SPN, allow_ntlm=False, secur32=fake)
    with pytest.raises(SspiError, match="allow_ntlm=False") as caught:
        next(flow)
    assert caught.value.name == "SEC_E_SECURITY_QOS_FAILED"
    assert caught.value.token == b""


def test_without_ntlm_an_error_token_that_carries_it_is_dropped(fake):
    fake.inject(ISC, sspi_client.SEC_E_INTERNAL_ERROR, b"NTLMSSP\0\1\0\0\0")
    flow = authenticate(KERBEROS_SPN, allow_ntlm=False, secur32=fake)
    with pytest.raises(SspiError) as caught:
        next(flow)
    assert caught.value.token == b""


# -- the context ---------------------------------------------------------------


def test_context_tells_what_was_asked_and_what_came_of_it(fake, server):
    with drive(authenticate(NTLM_SPN, secur32=fake), server.accept) as context:
        assert (context.target, context.requested_package) == (NTLM_SPN, "Negotiate")
        assert (context.package, context.user) == ("NTLM", "CORP\\alice")
        assert context.flags & DEFAULT_FLAGS == DEFAULT_FLAGS & ~ISC_REQ.MUTUAL_AUTH


@pytest.mark.parametrize("target", [NTLM_SPN, KERBEROS_SPN], ids=["ntlm", "kerberos"])
def test_context_expires_in_hours(fake, server, target):
    with drive(authenticate(target, secur32=fake), server.accept) as context:
        now = type(context.expires).now()
        assert 9 < (context.expires - now).total_seconds() / 3600 < 11


def test_context_expiry_that_was_not_written_is_not_told(fake, server, mocker):
    mocker.patch.object(sspi_client._FakeCalls, "_write_expiry")
    with drive(authenticate(KERBEROS_SPN, secur32=fake), server.accept) as context:
        assert context.expires is None


def test_context_asks_for_flags_again_when_a_provider_wrote_none(fake, server, mocker):
    real = getattr(fake, ISC)

    def silent(*arguments):
        return real(*arguments[:10], None, arguments[11])

    mocker.patch.object(fake, ISC, silent)
    with drive(authenticate(NTLM_SPN, secur32=fake), server.accept) as context:
        assert context.flags & ISC_RET.CONFIDENTIALITY


def test_context_has_no_flags_when_nobody_tells_them(fake, server, mocker):
    real = getattr(fake, ISC)
    mocker.patch.object(fake, ISC, lambda *a: real(*a[:10], None, a[11]))
    with drive(authenticate(NTLM_SPN, secur32=fake), server.accept) as context:
        fake.inject("QueryContextAttributesW", sspi_client.SEC_E_UNSUPPORTED_FUNCTION)
        assert context.flags == 0


def test_context_asks_for_the_package_another_way_when_the_first_is_unknown(
    fake, server
):
    with drive(authenticate(NTLM_SPN, secur32=fake), server.accept) as context:
        fake.inject("QueryContextAttributesW", sspi_client.SEC_E_UNSUPPORTED_FUNCTION)
        assert context.package == "NTLM"


def test_context_query_that_fails_costs_nothing_else(fake, server):
    with drive(authenticate(NTLM_SPN, secur32=fake), server.accept) as context:
        fake.inject("QueryContextAttributesW", sspi_client.SEC_E_UNSUPPORTED_FUNCTION)
        with pytest.raises(SspiError) as caught:
            _ = context.user
        assert (caught.value.target, caught.value.package) == (NTLM_SPN, "Negotiate")
        assert context.user == "CORP\\alice"


@pytest.mark.parametrize("name", ["package", "user", "session_key"])
def test_success_without_an_answer_is_an_error(fake, server, name):
    with drive(authenticate(NTLM_SPN, secur32=fake), server.accept) as context:
        fake.inject("QueryContextAttributesW", SEC_E_OK)
        with pytest.raises(SspiError, match="returned nothing"):
            getattr(context, name)


def test_packages_is_empty_when_sspi_answers_with_nothing(fake):
    fake.inject("EnumerateSecurityPackagesW", SEC_E_OK)
    assert sspi_client.packages(fake) == []


def test_session_key_is_wiped_in_the_memory_that_sspi_gave(fake, server, mocker):
    with drive(authenticate(NTLM_SPN, secur32=fake), server.accept) as context:
        seen = []
        real = fake.FreeContextBuffer

        def freeing(address):
            seen.append(sspi_client.string_at(address, 16))
            return real(address)

        mocker.patch.object(fake, "FreeContextBuffer", freeing)
        assert context.session_key == server.session_key
        assert seen == [bytes(16)]


# -- delegating ----------------------------------------------------------------


def test_flow_works_under_yield_from(fake, server):
    def wrapper():
        context = yield from authenticate(NTLM_SPN, secur32=fake)
        return context

    drive(wrapper(), server.accept).close()


def test_credential_makes_many_contexts(fake, domain):
    with sspi_client.Credential(secur32=fake) as credential:
        for target in (KERBEROS_SPN, NTLM_SPN):
            server = sspi_client.FakeServer(domain)
            drive(credential.authenticate(target), server.accept).close()
    assert fake.calls.count("AcquireCredentialsHandleW") == 1


def test_credential_tells_its_user_package_and_expiry(fake):
    with sspi_client.Credential(secur32=fake) as credential:
        assert (credential.user, credential.package) == ("CORP\\alice", "Negotiate")
        assert credential.expires is None


@pytest.mark.parametrize("package", ["CREDSSP", "Schannel"])
def test_without_ntlm_only_packages_that_can_keep_it_are_taken(fake, package):
    with pytest.raises(ValueError, match="only Negotiate and Kerberos can keep that"):
        sspi_client.Credential(package=package, allow_ntlm=False, secur32=fake)
