"""What client-side SSPI promises us: checks for any secur32, the DLL or a fake.

    contract.check_ntlm_logs_on(secur32, connect)

secur32: what `secur32=` takes. connect(channel_bindings=None) returns a new
FakeServer, or what behaves so, in a domain like contract.domain(). A check
returns nothing and raises AssertionError or what the module raised. Each is
written after what Windows documents or Wine's tests saw on it; where a secur32
is known to differ is not written here (wine_differences.py).

No check asks who is logged on, and none needs a domain controller: the domain
has no Kerberos keys, so Negotiate takes NTLM.
"""

import contextlib
import ctypes
import threading

from world import describe, pointee

import sspi_client
from sspi_client import ISC_REQ, ISC_RET, KERBEROS, NEGOTIATE, NTLM, Identity

USERS = {
    "alice": "Secret123!",
    "bob": "Pä55wörd€",
    "emoji": "pass\U0001f600word",
    "empty": "",
}
ALICE = Identity("alice", USERS["alice"], "CORP")
TARGET = "HTTP/web.corp.test"
BINDINGS = b"tls-server-end-point:" + bytes(range(32))
OTHER_BINDINGS = b"tls-server-end-point:" + bytes(32)
LONG = bytes(range(256)) * 300  # more than 65,536 bytes


def domain():
    return sspi_client.FakeDomain("CORP", USERS)


def checks():
    """Return every check of this file, in the order of the file."""
    return [f for name, f in globals().items() if name.startswith("check_")]


# -- Packages and credentials --------------------------------------------------


def check_packages_are_listed(secur32, connect):
    found = {p.name: p for p in sspi_client.packages(secur32)}
    assert {NEGOTIATE, KERBEROS, NTLM} <= set(found)
    assert all(p.max_token > 1000 and p.comment for p in found.values())
    # sspi.h, SECPKG_FLAG_INTEGRITY, PRIVACY, CONNECTION
    assert found[NTLM].capabilities & 0x13 == 0x13


def check_unknown_package_is_refused_at_acquisition(secur32, connect):
    error = _refused(sspi_client.Credential, ALICE, package="Nope", secur32=secur32)
    assert (error.name, error.function) == (
        "SEC_E_SECPKG_NOT_FOUND", "AcquireCredentialsHandleW",
    )


def check_credential_tells_its_user(secur32, connect):
    with sspi_client.Credential(ALICE, package=NTLM, secur32=secur32) as credential:
        assert credential.user == "CORP\\alice"


def check_credential_of_password_does_not_expire(secur32, connect):
    with sspi_client.Credential(ALICE, secur32=secur32) as credential:
        assert credential.expires is None


def check_kerberos_credential_needs_no_controller(secur32, connect):
    sspi_client.Credential(ALICE, package=KERBEROS, secur32=secur32).close()


def check_credential_serves_two_contexts_at_once(secur32, connect):
    with sspi_client.Credential(ALICE, package=NTLM, secur32=secur32) as credential:
        servers = connect(), connect()
        flows = [credential.authenticate(TARGET) for _ in servers]
        replies = [s.accept(next(f)) for s, f in zip(servers, flows)]
        for server, flow, reply in zip(servers, flows, replies):
            server.accept(flow.send(reply))
            with _end(flow) as context:
                server.verify(b"text", context.sign(b"text"))


def check_credential_serves_threads(secur32, connect):
    users = []

    def log_on(credential):
        server = connect()
        sspi_client.drive(credential.authenticate(TARGET), server.accept).close()
        users.append(server.user)

    with sspi_client.Credential(ALICE, package=NTLM, secur32=secur32) as credential:
        threads = [
            threading.Thread(target=log_on, args=(credential,)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert users == ["CORP\\alice"] * 4


def check_context_outlives_its_closed_credential(secur32, connect):
    credential = sspi_client.Credential(ALICE, package=NTLM, secur32=secur32)
    server = connect()
    with sspi_client.drive(credential.authenticate(TARGET), server.accept) as context:
        credential.close()
        server.verify(b"text", context.sign(b"text"))


# -- The handshake -------------------------------------------------------------


def check_ntlm_logs_on(secur32, connect):
    with _logged_on(secur32, connect) as (_, server, tokens):
        kinds = [sspi_client.mechanism(token) for token in tokens]
        assert kinds == ["NTLM NEGOTIATE", "NTLM AUTHENTICATE"]
        assert [token.final for token in tokens] == [False, True]
        assert (server.user, server.package) == ("CORP\\alice", NTLM)


def check_negotiate_logs_on(secur32, connect):
    with _logged_on(secur32, connect, package=NEGOTIATE) as (context, server, _):
        assert (server.user, server.package) == ("CORP\\alice", NTLM)
        assert context.package == NTLM


def check_negotiate_speaks_spnego(secur32, connect):
    with _logged_on(secur32, connect, package=NEGOTIATE) as (_, _, tokens):
        assert sspi_client.mechanism(tokens[0]).startswith("SPNEGO NegTokenInit")


def check_package_name_may_be_in_any_case(secur32, connect):
    with _logged_on(secur32, connect, package="ntlm") as (_, server, _):
        assert server.user == "CORP\\alice"


def check_password_beyond_ascii_logs_on(secur32, connect):
    with _logged_on(secur32, connect, _user("bob")) as (_, server, _):
        assert server.user == "CORP\\bob"


def check_password_with_surrogate_pair_logs_on(secur32, connect):
    with _logged_on(secur32, connect, _user("emoji")) as (_, server, _):
        assert server.user == "CORP\\emoji"


def check_empty_password_logs_on(secur32, connect):
    with _logged_on(secur32, connect, _user("empty")) as (_, server, _):
        assert server.user == "CORP\\empty"


def check_ansi_identity_logs_on(secur32, connect):
    alice = Identity(b"alice", USERS["alice"].encode(), b"CORP")
    with _logged_on(secur32, connect, alice) as (_, server, _):
        assert server.user == "CORP\\alice"


def check_ansi_password_beyond_ascii_logs_on(secur32, connect):
    bob = Identity(b"bob", USERS["bob"].encode("cp1252"), b"CORP")
    with _logged_on(secur32, connect, bob) as (_, server, _):
        assert server.user == "CORP\\bob"


def check_user_principal_name_logs_on(secur32, connect):
    alice = Identity("alice@corp.test", USERS["alice"])
    with _logged_on(secur32, connect, alice) as (_, server, _):
        assert server.user == "CORP\\alice"


def check_wrong_password_is_refused_by_server_alone(secur32, connect):
    mallory = Identity("alice", "wrong", "CORP")
    error = _refused(_log_on, secur32, connect, mallory)
    assert (error.name, error.function) == (
        "SEC_E_LOGON_DENIED", "AcceptSecurityContext",
    )


def check_unknown_user_is_refused_by_server_alone(secur32, connect):
    error = _refused(_log_on, secur32, connect, Identity("mallory", "x", "CORP"))
    assert (error.name, error.function) == (
        "SEC_E_LOGON_DENIED", "AcceptSecurityContext",
    )


def check_server_learns_the_target(secur32, connect):
    with _logged_on(secur32, connect) as (_, server, _):
        assert server.target == TARGET


def check_equal_channel_bindings_log_on(secur32, connect):
    server = connect(BINDINGS)
    with _logged_on(secur32, lambda: server, channel_bindings=BINDINGS):
        assert server.user == "CORP\\alice"


def check_channel_bindings_alone_make_a_first_token(secur32, connect):
    flow = _flow(secur32, channel_bindings=BINDINGS)
    with contextlib.closing(flow):
        assert sspi_client.mechanism(next(flow)) == "NTLM NEGOTIATE"


def check_other_channel_bindings_are_refused_by_server(secur32, connect):
    error = _refused(
        _log_on, secur32, lambda: connect(BINDINGS), channel_bindings=OTHER_BINDINGS
    )
    assert error.name == "SEC_E_BAD_BINDINGS"


def check_missing_channel_bindings_are_refused_by_server(secur32, connect):
    error = _refused(_log_on, secur32, lambda: connect(BINDINGS))
    assert error.name == "SEC_E_BAD_BINDINGS"


def check_garbage_is_refused_in_the_second_leg(secur32, connect):
    for package in (NTLM, NEGOTIATE):
        flow = _flow(secur32, package=package)
        next(flow)
        error = _refused(flow.send, b"garbage")
        assert (error.name, error.leg) == ("SEC_E_INVALID_TOKEN", 2)


def check_challenge_that_is_cut_off_is_refused(secur32, connect):
    flow = _flow(secur32)
    challenge = connect().accept(next(flow))
    error = _refused(flow.send, challenge[:20])
    assert (error.name, error.leg) == ("SEC_E_INVALID_TOKEN", 2)


def check_message_of_wrong_number_is_refused(secur32, connect):
    flow = _flow(secur32)
    negotiate = next(flow)
    error = _refused(flow.send, negotiate + bytes(8))
    assert (error.name, error.leg) == ("SEC_E_INVALID_TOKEN", 2)


def check_flow_may_be_closed_in_the_middle(secur32, connect):
    flow = _flow(secur32)
    assert next(flow)
    flow.close()


def check_refused_ntlm_never_leaves_the_flow(secur32, connect):
    # There is no Kerberos here, so without NTLM there is nothing left.
    flow = _flow(secur32, package=NEGOTIATE, allow_ntlm=False)
    assert b"NTLMSSP" not in _refused(next, flow).token


def check_refused_ntlm_never_leaves_the_flow_of_current_logon(secur32, connect):
    flow = sspi_client.authenticate(TARGET, allow_ntlm=False, secur32=secur32)
    assert b"NTLMSSP" not in _refused(next, flow).token


# -- What is granted -----------------------------------------------------------


def check_ntlm_negotiate_asks_for_what_flags_say(secur32, connect):
    # MS-NLMP 2.2.2.5, and what Wine's tests saw on Windows.
    sign, seal = 0x10, 0x20
    for flags, asked in (
        (ISC_REQ.CONNECTION, 0),
        (ISC_REQ.EXTENDED_ERROR, 0),
        (ISC_REQ.MUTUAL_AUTH, 0),
        (ISC_REQ.INTEGRITY, sign),
        (ISC_REQ.REPLAY_DETECT, sign),
        (ISC_REQ.SEQUENCE_DETECT, sign),
        (ISC_REQ.CONFIDENTIALITY, seal),
    ):
        flow = _flow(secur32, flags=flags)
        with contextlib.closing(flow):
            wanted = next(flow)[12] & (sign | seal)
        assert wanted & seal == asked & seal, flags
        assert asked == seal or wanted == asked, flags


def check_default_flags_grant_signing_and_sealing(secur32, connect):
    wanted = ISC_RET.INTEGRITY | ISC_RET.CONFIDENTIALITY
    with _logged_on(secur32, connect, require=wanted) as (context, _, _):
        assert context.flags & wanted == wanted


def check_default_flags_grant_detection(secur32, connect):
    with _logged_on(secur32, connect) as (context, _, _):
        wanted = int(ISC_RET.REPLAY_DETECT | ISC_RET.SEQUENCE_DETECT)
        assert int(context.flags) & wanted == wanted


def check_attributes_are_written_by_the_handshake(secur32, connect):
    with _logged_on(secur32, connect) as (context, _, _):
        # Not context.flags, which asks again if nothing was written.
        assert context._handles._attributes & ISC_RET.INTEGRITY


def check_expiry_is_written_by_the_handshake(secur32, connect):
    with _logged_on(secur32, connect) as (context, _, _):
        assert context._handles.expiry


def check_ntlm_does_not_show_mutual_authentication(secur32, connect):
    with _logged_on(secur32, connect, flags=ISC_REQ.MUTUAL_AUTH) as (context, _, _):
        assert not context.flags & ISC_RET.MUTUAL_AUTH


def check_no_ntlm_leaves_where_mutual_authentication_is_required(secur32, connect):
    flow = _flow(secur32, package=NEGOTIATE, require=ISC_RET.MUTUAL_AUTH)
    assert _refused(next, flow).name == "SEC_E_SECURITY_QOS_FAILED"


def check_no_flags_grant_no_protection(secur32, connect):
    with _logged_on(secur32, connect, flags=0) as (context, _, _):
        assert not context.flags & (ISC_RET.INTEGRITY | ISC_RET.CONFIDENTIALITY)
        assert _refused(context.sign, b"text").name == "SEC_E_QOP_NOT_SUPPORTED"


def check_context_tells_its_package(secur32, connect):
    with _logged_on(secur32, connect) as (context, _, _):
        assert context.package == NTLM


def check_context_tells_its_user(secur32, connect):
    with _logged_on(secur32, connect) as (context, _, _):
        assert context.user == "CORP\\alice"


def check_context_tells_its_sizes(secur32, connect):
    with _logged_on(secur32, connect) as (context, _, _):
        sizes = context.sizes
        assert sizes.cbMaxToken in (1904, 2888)
        assert (sizes.cbMaxSignature, sizes.cbSecurityTrailer) == (16, 16)
        assert sizes.cbBlockSize == 0


def check_context_tells_the_session_key_of_server(secur32, connect):
    with _logged_on(secur32, connect) as (context, server, _):
        assert context.session_key == server.session_key


# -- Messages ------------------------------------------------------------------


def check_messages_are_signed_both_ways(secur32, connect):
    with _logged_on(secur32, connect) as (context, server, _):
        for text in (b"one", b"", LONG):
            signature = context.sign(text)
            assert len(signature) == 16
            server.verify(text, signature)
            context.verify(text, server.sign(text))


def check_messages_are_sealed_both_ways(secur32, connect):
    with _logged_on(secur32, connect) as (context, server, _):
        for text in (b"one", b"", LONG):
            token, ciphertext = context.seal(text)
            assert len(token) == 16
            assert text == b"" or ciphertext != text
            assert server.unseal(token, ciphertext) == text
            assert context.unseal(*server.seal(text)) == text


def check_messages_are_wrapped_both_ways(secur32, connect):
    with _logged_on(secur32, connect) as (context, server, _):
        for text in (b"one", b"", LONG):
            received = server.unwrap(context.wrap(text))
            assert (received, received.encrypted) == (text, True)
            received = context.unwrap(server.wrap(text))
            assert (received, received.encrypted) == (text, True)


def check_messages_of_negotiate_are_wrapped_both_ways(secur32, connect):
    with _logged_on(secur32, connect, package=NEGOTIATE) as (context, server, _):
        for text in (b"one", b"two"):
            assert server.unwrap(context.wrap(text)) == text
            assert context.unwrap(server.wrap(text)) == text


def check_signed_and_sealed_messages_may_alternate(secur32, connect):
    with _logged_on(secur32, connect) as (context, server, _):
        for text in (b"one", b"two", b"three"):
            server.verify(text, context.sign(text))
            assert server.unwrap(context.wrap(text)) == text
            context.verify(text, server.sign(text))
            assert context.unwrap(server.wrap(text)) == text


def check_signing_works_without_sealing(secur32, connect):
    with _logged_on(secur32, connect, flags=ISC_REQ.INTEGRITY) as (context, server, _):
        for text in (b"one", b"two"):
            server.verify(text, context.sign(text))
            context.verify(text, server.sign(text))


def check_wrapping_without_sealing_is_refused_or_understood(secur32, connect):
    # Which of the two Windows' NTLM does, no document says; not verified there.
    with _logged_on(secur32, connect, flags=ISC_REQ.INTEGRITY) as (context, server, _):
        try:
            blob = context.wrap(b"text", encrypt=False)
        except sspi_client.SspiError as error:
            assert error.name == "SEC_E_QOP_NOT_SUPPORTED"
        else:
            assert server.unwrap(blob) == b"text"


def check_altered_text_is_refused(secur32, connect):
    with _logged_on(secur32, connect) as (context, server, _):
        signature = server.sign(b"text")
        error = _refused(context.verify, b"tixt", signature)
        assert error.name == "SEC_E_MESSAGE_ALTERED"


def check_altered_signature_is_refused(secur32, connect):
    with _logged_on(secur32, connect) as (context, server, _):
        signature = bytearray(server.sign(b"text"))
        signature[9] ^= 1  # MS-NLMP 2.2.2.9.2: the checksum is bytes 4 to 11
        error = _refused(context.verify, b"text", bytes(signature))
        assert error.name == "SEC_E_MESSAGE_ALTERED"


def check_whole_checksum_of_signature_is_compared(secur32, connect):
    for place in range(4, 12):
        with _logged_on(secur32, connect) as (context, server, _):
            signature = bytearray(server.sign(b"text"))
            signature[place] ^= 1
            error = _refused(context.verify, b"text", bytes(signature))
            assert error.name == "SEC_E_MESSAGE_ALTERED"


def check_altered_ciphertext_is_refused(secur32, connect):
    with _logged_on(secur32, connect) as (context, server, _):
        token, ciphertext = server.seal(b"text")
        error = _refused(context.unseal, token, bytes([ciphertext[0] ^ 1]) + b"ext")
        assert error.name == "SEC_E_MESSAGE_ALTERED"


def check_repeated_message_is_refused(secur32, connect):
    with _logged_on(secur32, connect) as (context, server, _):
        signature = server.sign(b"text")
        context.verify(b"text", signature)
        error = _refused(context.verify, b"text", signature)
        assert error.name in ("SEC_E_OUT_OF_SEQUENCE", "SEC_E_MESSAGE_ALTERED")


def check_stream_buffer_opens_a_message(secur32, connect):
    with _logged_on(secur32, connect) as (context, server, _):
        blob = server.wrap(b"text")
        memory = ctypes.create_string_buffer(blob, len(blob))
        message, buffers = describe(
            (len(blob), sspi_client.SECBUFFER_STREAM, ctypes.addressof(memory)),
            (0, sspi_client.SECBUFFER_DATA, None),
        )
        status = secur32.DecryptMessage(
            context._handles.context, message, 0, sspi_client.ULONG()
        )
        assert _name(status) == "SEC_E_OK"
        assert ctypes.string_at(buffers[1].pvBuffer, buffers[1].cbBuffer) == b"text"


# -- Calls as such: what the fake answers, another secur32 must answer too -----


def check_no_output_is_a_buffer_too_small(secur32, connect):
    assert _first_leg(secur32, None)[0] == "SEC_E_BUFFER_TOO_SMALL"


def check_output_of_no_bytes_is_a_buffer_too_small(secur32, connect):
    status, _, written = _first_leg(secur32, (0, sspi_client.SECBUFFER_TOKEN))
    assert (status, written) == ("SEC_E_BUFFER_TOO_SMALL", b"")


def check_output_of_data_is_a_buffer_too_small(secur32, connect):
    status, _, _ = _first_leg(secur32, (2888, sspi_client.SECBUFFER_DATA))
    assert status == "SEC_E_BUFFER_TOO_SMALL"


def check_output_of_ours_is_filled(secur32, connect):
    status, kind, written = _first_leg(secur32, (2888, sspi_client.SECBUFFER_TOKEN))
    assert (status, kind) == ("SEC_I_CONTINUE_NEEDED", sspi_client.SECBUFFER_TOKEN)
    assert sspi_client.mechanism(written) == "NTLM NEGOTIATE"


def check_handle_of_zeros_is_invalid(secur32, connect):
    answer = sspi_client.SecPkgContext_Sizes()
    zeros = sspi_client.SecHandle()
    query = (sspi_client.SECPKG_ATTR_SIZES, ctypes.byref(answer))
    for function, arguments in (
        (secur32.FreeCredentialsHandle, ()),
        (secur32.DeleteSecurityContext, ()),
        (secur32.QueryContextAttributesW, query),
    ):
        status = function(ctypes.byref(zeros), *arguments)
        assert _name(status) == "SEC_E_INVALID_HANDLE"


def check_signature_needs_a_token_buffer(secur32, connect):
    with _logged_on(secur32, connect) as (context, _, _):
        text = ctypes.create_string_buffer(b"text")
        message, _buffers = describe(
            (4, sspi_client.SECBUFFER_DATA, ctypes.addressof(text))
        )
        status = secur32.MakeSignature(
            ctypes.byref(context._handles.context), 0, ctypes.byref(message), 0
        )
        assert _name(status) == "SEC_E_INVALID_TOKEN"


def check_unknown_attribute_is_unsupported(secur32, connect):
    with _logged_on(secur32, connect) as (context, _, _):
        answer = ctypes.create_string_buffer(64)
        stream_sizes = 4  # sspi.h, SECPKG_ATTR_STREAM_SIZES: for Schannel alone
        status = secur32.QueryContextAttributesW(
            ctypes.byref(context._handles.context), stream_sizes, ctypes.byref(answer)
        )
        assert _name(status) == "SEC_E_UNSUPPORTED_FUNCTION"


def check_context_handles_come_back_from_each_leg(secur32, connect):
    flow = _flow(secur32)
    server = connect()
    with contextlib.closing(flow):
        reply = server.accept(next(flow))
        handles = flow.gi_frame.f_locals["handles"]
        assert sspi_client._is_valid(handles.context)
        flow.send(reply)
        assert sspi_client._is_valid(handles.context)


#: Misuse on purpose: a fake that judges its callers will say so.
CRIMINAL = [check_handle_of_zeros_is_invalid]


# -- What the checks share -----------------------------------------------------


class Ledger:
    """A secur32 around another: it counts, and knows the handles that are alive.

    calls: function -> how often. alive: handles and token buffers in use.
    wrong: handles and buffers that were given back without being in use.
    """

    def __init__(self, secur32):
        self.calls = dict.fromkeys(sspi_client.PROTOTYPES, 0)
        self.alive, self.wrong = set(), []
        self._lock = threading.Lock()
        for name in sspi_client.PROTOTYPES:
            after = getattr(self, "_after_" + name, lambda *_: None)
            before = getattr(self, "_before_" + name, lambda *_: None)
            function = getattr(secur32, name)
            setattr(self, name, self._watched(name, function, before, after))

    def assert_clean(self):
        assert (self.alive, self.wrong) == (set(), [])

    def _watched(self, name, function, before, after):
        def call(*arguments):
            with self._lock:
                self.calls[name] += 1
                noted = before(*arguments)
            status = function(*arguments)
            with self._lock:
                after(status, noted, *arguments)
            return status

        return call

    def _after_AcquireCredentialsHandleW(self, status, noted, *arguments):
        if status == sspi_client.SEC_E_OK:
            self.alive.add(_known("credential", arguments[7]))

    def _before_InitializeSecurityContextW(self, *arguments):
        return arguments[1] and _known("context", arguments[1])

    def _after_InitializeSecurityContextW(self, status, used, *arguments):
        output = arguments[9] and pointee(arguments[9]).pBuffers[0]
        if output and output.pvBuffer and arguments[3] & ISC_REQ.ALLOCATE_MEMORY:
            self.alive.add(("buffer", output.pvBuffer))
        if not status & 0x80000000:
            self.alive.discard(used)  # handles may change from leg to leg
            self.alive.add(_known("context", arguments[8]))

    def _before_FreeCredentialsHandle(self, handle):
        self._give_back(_known("credential", handle))

    def _before_DeleteSecurityContext(self, handle):
        self._give_back(_known("context", handle))

    def _before_FreeContextBuffer(self, buffer):
        # Answers of queries come here too, and those we do not follow.
        self.alive.discard(("buffer", ctypes.cast(buffer, ctypes.c_void_p).value))

    def _give_back(self, thing):
        if thing in self.alive:
            self.alive.remove(thing)
        elif thing[1:] != (0, 0):  # zeros are handed in on purpose above
            self.wrong.append(thing)


def _known(what, reference):
    handle = pointee(reference)
    return what, handle.dwLower, handle.dwUpper


def _user(name):
    return Identity(name, USERS[name], "CORP")


def _flow(secur32, identity=ALICE, package=NTLM, **options):
    return sspi_client.authenticate(
        TARGET, identity, package=package, secur32=secur32, **options
    )


def _log_on(secur32, connect, identity=ALICE, **options):
    flow = _flow(secur32, identity, **options)
    sspi_client.drive(flow, connect().accept).close()


@contextlib.contextmanager
def _logged_on(secur32, connect, identity=ALICE, **options):
    """Log on; yield (context, server, tokens), and close the context."""
    server, tokens = connect(), []

    def exchange(token):
        tokens.append(token)
        return server.accept(token)

    flow = _flow(secur32, identity, **options)
    with sspi_client.drive(flow, exchange) as context:
        yield context, server, tokens


def _end(flow):
    try:
        token = flow.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError(f"the flow goes on with {token!r}")


def _refused(function, *arguments, **options):
    """Call and return the SspiError that must come of it."""
    try:
        outcome = function(*arguments, **options)
    except sspi_client.SspiError as error:
        return error
    raise AssertionError(f"no SspiError, but {outcome!r}")


def _first_leg(secur32, shape):
    """Call InitializeSecurityContextW with an output buffer of our own.

    shape: (length [bytes], type), or None for no output at all.
    Returns: (name of the status, type of the output buffer, its bytes).
    """
    credential = sspi_client.Credential(ALICE, package=NTLM, secur32=secur32)
    context = sspi_client._no_handle()
    memory = ctypes.create_string_buffer(max(shape[0], 1) if shape else 1)
    output, buffers = describe(
        (*(shape or (0, 0)), ctypes.addressof(memory))
    )
    attributes, expiry = sspi_client.ULONG(), sspi_client.TimeStamp()
    with credential:
        status = secur32.InitializeSecurityContextW(
            ctypes.byref(credential._shared.handle), None, sspi_client._wide(TARGET),
            int(ISC_REQ.CONNECTION), 0, sspi_client.SECURITY_NATIVE_DREP, None, 0,
            ctypes.byref(context), ctypes.byref(output) if shape else None,
            ctypes.byref(attributes), ctypes.byref(expiry),
        )
        if not status & 0x80000000:
            secur32.DeleteSecurityContext(context)
    return _name(status), buffers[0].BufferType, memory.raw[: buffers[0].cbBuffer]


def _name(status):
    return sspi_client.SspiError(status, "").name
