"""http_authenticate: the table of answers, the choice of scheme, headers, errors.

The servers here are FakeServer behind a few lines that speak headers; no sockets.
"""

import base64
import gc
import random
import time

import pytest
from world import BINDINGS, KERBEROS_SPN, NTLM_SPN

import sspi_client
from sspi_client import (
    ISC_RET,
    SEC_E_INVALID_TOKEN,
    SEC_E_LOGON_DENIED,
    SEC_E_MUTUAL_AUTH_FAILED,
    SEC_E_OK,
    SEC_E_SECURITY_QOS_FAILED,
    SEC_I_CONTINUE_NEEDED,
    Credential,
    Identity,
    SspiError,
    drive,
    http_authenticate,
)

ISC = "InitializeSecurityContextW"
WEB, PRINTER = "web.corp.test", "printer.corp.test"  # Kerberos; NTLM alone
MUTUAL = ISC_RET.MUTUAL_AUTH
SOME = "Negotiate c29tZQ=="  # a token, for scripted legs


def read(value):
    """Return (scheme, token [bytes]) of a header that we made."""
    scheme, _, word = value.partition(" ")
    return scheme, base64.b64decode(word, validate=True)


def write(scheme, token):
    return f"{scheme} {base64.b64encode(token).decode()}" if token else scheme


def answering(server, status=401, form="{}", log=None):
    """Return an exchange for drive(): *status* until the server is complete."""

    def exchange(value):
        scheme, token = read(value)
        if log is not None:
            log.append((scheme, sspi_client.mechanism(token)))
        try:
            reply = server.accept(token)
        except SspiError:
            return status, [scheme]
        header = write(scheme, reply)
        done = 200 if server.complete else status
        return done, [form.format(header)] if reply or done != 200 else []

    return exchange


def one_leg(fake):
    """Return a flow whose first token is final."""
    return http_authenticate(
        WEB, 401, "Negotiate", package="Kerberos", flags=0, secur32=fake
    )


def ended(flow, answer):
    with pytest.raises(StopIteration) as done:
        flow.send(answer)
    return done.value.value


def refused(flow, *answers):
    """Drive by hand: next(), then *answers*; return the SspiError."""
    with pytest.raises(SspiError) as caught:
        next(flow)
        for answer in answers:
            flow.send(answer)
    assert caught.value.function == "http_authenticate"
    assert flow.gi_frame is None
    return caught.value


# -- the table -----------------------------------------------------------------


def test_401_after_a_final_token_is_a_refusal_whatever_comes_with_it(fake):
    for header in ("Negotiate", "Negotiate " + base64.b64encode(b"x").decode(), ""):
        flow = one_leg(fake)
        error = refused(flow, (401, header))
        assert (error.status, error.leg) == (SEC_E_LOGON_DENIED, 1)
        assert (error.package, error.target) == ("Kerberos", KERBEROS_SPN)
        fake.assert_clean()


def test_401_after_a_final_token_is_not_read_for_base64(fake):
    flow = one_leg(fake)
    assert refused(flow, (401, "Negotiate !!!")).status == SEC_E_LOGON_DENIED


@pytest.mark.parametrize("challenges", ["Negotiate", None, [], (), "NTLM TlRM", ""])
def test_401_without_a_token_while_open_is_a_refusal(fake, challenges):
    flow = http_authenticate(WEB, 401, "Negotiate", secur32=fake)
    error = refused(flow, (401, challenges))
    assert (error.status, error.leg) == (SEC_E_LOGON_DENIED, 1)


@pytest.mark.parametrize("status", [401, 407])
def test_401_with_a_token_while_open_is_the_next_leg(fake, server, status):
    log = []
    flow = http_authenticate(PRINTER, status, ["Negotiate"], secur32=fake)
    with drive(flow, answering(server, status, log=log)) as context:
        assert context.target == "HTTP/" + PRINTER
    assert [kind.rpartition(": ")[2] for _, kind in log] == [
        "NTLM NEGOTIATE",
        "NTLM AUTHENTICATE",
    ]


def test_401_with_a_token_at_which_sspi_ends_is_a_refusal(fake, server):
    flow = http_authenticate(WEB, 401, "Negotiate", secur32=fake)
    scheme, token = read(next(flow))
    with pytest.raises(SspiError) as caught:
        flow.send((401, write(scheme, server.accept(token))))
    assert (caught.value.status, caught.value.leg) == (SEC_E_LOGON_DENIED, 1)
    assert "Kerberos AP-REQ" in caught.value.hint
    fake.assert_clean()  # the context was closed


@pytest.mark.parametrize("status", [200, 204, 302, 403, 404, 500, 999])
@pytest.mark.parametrize("challenges", [None, "Negotiate !!!", "Basic"])
def test_any_other_status_after_a_final_token_gives_the_context(
    fake, status, challenges
):
    flow = one_leg(fake)
    next(flow)
    ended(flow, (status, challenges)).close()


def test_407_in_answer_to_401_is_any_other_status(fake):
    flow = one_leg(fake)
    next(flow)
    ended(flow, (407, "Negotiate")).close()


def test_any_other_status_with_a_token_that_ends_it_gives_the_context(fake, server):
    flow = http_authenticate(WEB, 401, "Negotiate", require=MUTUAL, secur32=fake)
    scheme, token = read(next(flow))
    with ended(flow, (200, write(scheme, server.accept(token)))) as context:
        assert context.package == "Kerberos" and context.flags & MUTUAL


def test_any_other_status_whose_token_makes_a_final_one_gives_the_context(fake):
    fake.plan(ISC, SEC_I_CONTINUE_NEEDED, b"one")
    fake.plan(ISC, SEC_E_OK, b"not sent", call=2)
    flow = http_authenticate(WEB, 401, "Negotiate", secur32=fake)
    next(flow)
    ended(flow, (200, SOME)).close()


@pytest.mark.parametrize("challenges", [None, "Negotiate", SOME])
@pytest.mark.parametrize("require", [0, ISC_RET.INTEGRITY, MUTUAL])
def test_any_other_status_while_open_stays_unproven(fake, challenges, require):
    fake.plan(ISC, SEC_I_CONTINUE_NEEDED, b"one")
    fake.plan(ISC, SEC_I_CONTINUE_NEEDED, b"two", call=2)
    flow = http_authenticate(WEB, 401, "Negotiate", require=require, secur32=fake)
    if not require:
        next(flow)
        assert ended(flow, (200, challenges)) is None
    else:
        error = refused(flow, (200, challenges))
        assert (error.status, error.leg) == (SEC_E_MUTUAL_AUTH_FAILED, 1)
        assert error.target == "HTTP/" + WEB


def test_a_last_token_that_sspi_refuses_is_its_error(fake):
    flow = http_authenticate(WEB, 401, "Negotiate", secur32=fake)
    next(flow)
    with pytest.raises(SspiError) as caught:
        flow.send((200, SOME))
    assert (caught.value.function, caught.value.leg) == (ISC, 2)


def test_sspi_that_is_done_without_a_token_has_nothing_to_say(fake):
    fake.plan(ISC, SEC_E_OK)
    error = refused(http_authenticate(WEB, 401, "Negotiate", secur32=fake))
    assert (error.status, error.leg) == (SEC_E_LOGON_DENIED, None)


def test_an_empty_token_is_the_scheme_alone(fake):
    fake.plan(ISC, SEC_I_CONTINUE_NEEDED, b"")
    flow = http_authenticate(WEB, 401, "Negotiate", secur32=fake)
    assert next(flow) == "Negotiate"
    flow.close()


# -- nothing to do -------------------------------------------------------------


@pytest.mark.parametrize("challenges", [None, "", [], 'Basic realm="x", Digest a=b'])
@pytest.mark.parametrize("require", [0, MUTUAL])
def test_a_401_that_offers_nothing_of_ours_is_the_callers(fake, challenges, require):
    flow = http_authenticate(WEB, 401, challenges, require=require, secur32=fake)
    assert ended(flow, None) is None and fake.calls == []


@pytest.mark.parametrize("status", [200, 302, 403, 500])
def test_an_answer_that_asks_for_no_logon_yields_nothing(fake, status):
    flow = http_authenticate(WEB, status, "Negotiate", secur32=fake)
    assert drive(flow, pytest.fail) is None and fake.calls == []


@pytest.mark.parametrize("require", [ISC_RET.INTEGRITY, MUTUAL])
def test_an_answer_that_asks_for_no_logon_proves_nothing(fake, require):
    flow = http_authenticate(WEB, 200, None, require=require, secur32=fake)
    error = refused(flow)
    assert (error.status, error.leg) == (SEC_E_MUTUAL_AUTH_FAILED, None)
    assert fake.calls == []


# -- package and scheme --------------------------------------------------------

BOTH, NEG, NT, NONE = ["Negotiate", "NTLM"], ["Negotiate"], ["NTLM"], ["Basic"]
CHOICES = [
    # package, offered, the scheme that is used and the package asked for, or neither
    (None, BOTH, "Negotiate", "Negotiate"),
    (None, BOTH[::-1], "Negotiate", "Negotiate"),
    (None, NEG, "Negotiate", "Negotiate"),
    (None, NT, "NTLM", "NTLM"),
    (None, NONE, None, None),
    ("Negotiate", BOTH, "Negotiate", "Negotiate"),
    ("Negotiate", NEG, "Negotiate", "Negotiate"),
    ("Negotiate", NT, "error", "Negotiate"),
    ("Negotiate", NONE, None, None),
    ("Kerberos", BOTH, "Negotiate", "Kerberos"),
    ("Kerberos", NEG, "Negotiate", "Kerberos"),
    ("Kerberos", NT, "error", "Kerberos"),
    ("Kerberos", NONE, None, None),
    ("NTLM", BOTH, "NTLM", "NTLM"),
    ("NTLM", NEG, "Negotiate", "NTLM"),
    ("NTLM", NT, "NTLM", "NTLM"),
    ("NTLM", NONE, None, None),
    ("ntlm", BOTH, "NTLM", "ntlm"),
]


@pytest.mark.parametrize("package, offered, scheme, asked", CHOICES)
def test_package_and_offers_decide_the_scheme(fake, package, offered, scheme, asked):
    flow = http_authenticate(WEB, 401, offered, package=package, secur32=fake)
    judge_choice(flow, scheme, asked)


@pytest.mark.parametrize("package, offered, scheme, asked", CHOICES[5:])
def test_package_of_a_credential_decides_too(fake, package, offered, scheme, asked):
    with Credential(package=package, secur32=fake) as credential:
        flow = http_authenticate(WEB, 401, offered, credential=credential)
        judge_choice(flow, scheme, asked)


def judge_choice(flow, scheme, asked):
    if scheme is None:
        assert ended(flow, None) is None
    elif scheme == "error":
        error = refused(flow)
        assert error.status == SEC_E_SECURITY_QOS_FAILED and error.package == asked
        assert "package=NTLM" in error.hint
    else:
        used, token = read(next(flow))
        assert used == scheme
        assert (token[:8] == b"NTLMSSP\0") == (asked.upper() == "NTLM")
        with pytest.raises(SspiError) as caught:
            flow.send((401, None))
        assert caught.value.package == asked


@pytest.mark.parametrize("kind", ["allow_ntlm", "require", "credential"])
def test_ntlm_alone_is_offered_and_ruled_out(fake, kind):
    with Credential(allow_ntlm=False, secur32=fake) as credential:
        given = {
            "allow_ntlm": {"allow_ntlm": False, "secur32": fake},
            "require": {"require": MUTUAL, "secur32": fake},
            "credential": {"credential": credential},
        }[kind]
        before = list(fake.calls)
        error = refused(http_authenticate(WEB, 401, "NTLM", **given))
        assert error.status == SEC_E_SECURITY_QOS_FAILED and error.leg is None
        assert fake.calls == before


def test_allow_ntlm_false_stops_ntlm_inside_negotiate(fake):
    flow = http_authenticate(PRINTER, 401, BOTH, allow_ntlm=False, secur32=fake)
    with pytest.raises(SspiError):
        next(flow)


def test_logon_before_any_answer(fake, server):
    flow = http_authenticate(WEB, 401, "Negotiate", secur32=fake)
    drive(flow, answering(server)).close()


def test_identity_and_a_shared_credential_log_on(fake, domain):
    bob = Identity("CORP\\bob", "Pä55wörd€")
    with Credential(bob, secur32=fake) as credential:
        for given in ({"identity": bob, "secur32": fake}, {"credential": credential}):
            peer = sspi_client.FakeServer(domain)
            flow = http_authenticate(PRINTER, 401, "Negotiate", **given)
            drive(flow, answering(peer)).close()
            assert peer.user == "CORP\\bob"


def test_bindings_of_the_certificate_reach_every_leg(fake, domain, mocker):
    made = mocker.patch.object(sspi_client, "tls_server_end_point", autospec=True)
    made.return_value = BINDINGS
    peer = sspi_client.FakeServer(domain, BINDINGS)
    flow = http_authenticate(PRINTER, 401, "NTLM", certificate=b"der", secur32=fake)
    drive(flow, answering(peer)).close()
    made.assert_called_once_with(b"der")


def test_context_is_the_callers_to_close(fake, server):
    flow = http_authenticate(WEB, 401, "Negotiate", secur32=fake)
    context = drive(flow, answering(server))
    assert context.package == "Kerberos"
    with pytest.raises(AssertionError):
        fake.assert_clean()
    context.close()


# -- arguments -----------------------------------------------------------------

TYPES = [
    ({"host": None}, "host must be str"),
    ({"host": b"web"}, "host must be str"),
    ({"status": "401"}, "status must be int"),
    ({"status": True}, "status must be int"),
    ({"status": None}, "status must be int"),
    ({"challenges": {"www-authenticate": "NTLM"}}, "challenges must be str"),
    ({"challenges": b"NTLM"}, "challenges must be str"),
    ({"challenges": iter(["NTLM"])}, "challenges must be str"),
    ({"challenges": [b"NTLM"]}, "each challenge must be str"),
    ({"challenges": [("WWW-Authenticate", "NTLM")]}, "each challenge must be str"),
    ({"identity": "alice"}, "identity must be Identity"),
    ({"target": b"HTTP/web"}, "target must be str"),
    ({"package": 1}, "package must be str"),
    ({"certificate": "PEM"}, "certificate must be DER bytes"),
    ({"flags": "MUTUAL_AUTH"}, "flags must be int"),
    ({"require": None}, "require must be int"),
    ({"allow_ntlm": 0}, "allow_ntlm must be bool"),
    ({"credential": "alice"}, "credential must be Credential"),
    ({"secur32": object()}, "secur32 lacks"),
]
VALUES = [
    ({"host": ""}, "bare name"),
    ({"host": "."}, "bare name"),
    ({"host": "web:80"}, "bare name"),
    ({"host": "http://web/"}, "URL"),
    ({"host": "[::1]:80"}, "IPv6"),
    ({"host": "[web]"}, "IPv6"),
    ({"host": "[::1"}, "IPv6"),
    ({"host": "web/x"}, "bare name"),
    ({"host": "u@web"}, "bare name"),
    ({"host": "we b"}, "bare name"),
    ({"host": "b\u00fccher..test"}, "IDNA"),
    ({"host": "\u2100.test"}, "bare name"),  # a/c, once IDNA has prepared it
    ({"status": 0}, "three digits"),
    ({"status": 4010}, "three digits"),
    ({"target": "https://web"}, "URL"),
    ({"target": ""}, "SPN"),
    ({"package": ""}, "package must be a name"),
    ({"package": "CredSSP"}, "HTTP has Negotiate"),
    ({"package": "NTLM", "allow_ntlm": False}, "allow_ntlm=False"),
    ({"certificate": b""}, "DER certificate"),
    ({"flags": -1}, "32 bits"),
    ({"require": 1 << 32}, "32 bits"),
]


@pytest.mark.parametrize("challenges", ["Negotiate", "Basic"], ids=["ours", "not-ours"])
@pytest.mark.parametrize("given, words", TYPES + VALUES)
def test_arguments_are_checked_at_the_call(fake, given, words, challenges):
    kind = TypeError if (given, words) in TYPES else ValueError
    full = {"host": WEB, "status": 401, "challenges": challenges, "secur32": fake}
    with pytest.raises(kind, match=words):
        http_authenticate(**{**full, **given})
    assert fake.calls == []


CONTRADICTIONS = [
    ({}, {"identity": Identity("alice", "x")}, "identity"),
    ({}, {"package": "NTLM"}, "package"),
    ({"package": "NTLM"}, {"package": "Negotiate"}, "package"),
    ({}, {"allow_ntlm": False}, "allow_ntlm"),
    ({"package": "NTLM"}, {"allow_ntlm": False}, "allow_ntlm"),
]


@pytest.mark.parametrize("made, given, word", CONTRADICTIONS)
def test_credential_that_contradicts_the_arguments(fake, made, given, word):
    with Credential(secur32=fake, **made) as credential:
        with pytest.raises(ValueError, match=f"{word} contradicts the credential"):
            http_authenticate(WEB, 401, "Negotiate", credential=credential, **given)


def test_credential_of_another_secur32_contradicts(fake, domain):
    with Credential(secur32=fake) as credential:
        other = sspi_client.FakeSecur32(domain)
        with pytest.raises(ValueError, match="secur32 contradicts"):
            http_authenticate(WEB, 401, None, credential=credential, secur32=other)


@pytest.mark.parametrize(
    "made, given",
    [
        ({}, {"package": "negotiate"}),
        ({"package": "Kerberos"}, {"allow_ntlm": False}),
        ({"allow_ntlm": False}, {"allow_ntlm": False}),
        ({"allow_ntlm": False}, {}),
    ],
)
def test_credential_that_says_the_same(fake, server, made, given):
    with Credential(secur32=fake, **made) as shared:
        flow = http_authenticate(
            WEB, 401, BOTH, credential=shared, secur32=fake, **given
        )
        drive(flow, answering(server)).close()


def test_credential_that_is_closed(fake):
    with Credential(secur32=fake) as credential:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        http_authenticate(WEB, 401, "Negotiate", credential=credential)


@pytest.mark.parametrize(
    "answer, kind, words",
    [
        (None, TypeError, "the answer must be"),
        ("ab", TypeError, "the answer must be"),
        ((200,), TypeError, "the answer must be"),
        (("200", None), TypeError, "status must be int"),
        ((200, {"a": "b"}), TypeError, "challenges must be"),
        ((0, None), ValueError, "three digits"),
    ],
)
def test_answers_are_checked_and_the_inner_flow_is_closed(fake, answer, kind, words):
    flow = http_authenticate(WEB, 401, "Negotiate", secur32=fake)
    next(flow)
    with pytest.raises(kind, match=words):
        flow.send(answer)
    fake.assert_clean()


# -- SPN -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "host, target",
    [
        ("WEB.Corp.Test", "HTTP/web.corp.test"),
        ("web.corp.test.", "HTTP/web.corp.test"),
        ("b\u00fccher.test", "HTTP/xn--bcher-kva.test"),
        ("B\u00dcCHER.test.", "HTTP/xn--bcher-kva.test"),
        ("b\u00fccher\u3002test", "HTTP/xn--bcher-kva.test"),
        ("xn--bcher-kva.test", "HTTP/xn--bcher-kva.test"),
        ("127.0.0.1", "HTTP/127.0.0.1"),
        ("::1", "HTTP/::1"),
        ("[::1]", "HTTP/::1"),
        ("[2001:DB8::1]", "HTTP/2001:db8::1"),
        ("::1:80", "HTTP/::1:80"),
        ("fe80::1%eth0", "HTTP/fe80::1"),
        ("[fe80::1%25eth0]", "HTTP/fe80::1"),
        ("under_score", "HTTP/under_score"),
    ],
)
def test_spn_is_made_of_the_host(fake, host, target):
    flow = http_authenticate(host, 401, "NTLM", secur32=fake)
    assert refused(flow, (401, None)).target == target


def test_target_goes_as_it_is_and_the_host_is_then_no_matter(fake, server):
    spn = "HTTP/Web.CORP.test"
    flow = http_authenticate("127.0.0.1:80", 401, NEG, target=spn, secur32=fake)
    with drive(flow, answering(server)) as context:
        assert context.target == spn and context.package == "Kerberos"


# -- errors --------------------------------------------------------------------


def test_ntlm_refused_before_the_user_was_seen(fake):
    flow = http_authenticate(PRINTER, 401, BOTH, secur32=fake)
    error = refused(flow, (401, BOTH))
    assert error.leg == 1 and error.target == NTLM_SPN
    assert "NTLM NEGOTIATE" in error.hint and "before the user" in error.hint
    assert "package=NTLM" in error.hint


def test_ntlm_answer_refused(fake, domain):
    peer, wrong = sspi_client.FakeServer(domain), Identity("CORP\\alice", "wrong")
    flow = http_authenticate(PRINTER, 401, BOTH, wrong, secur32=fake)
    with pytest.raises(SspiError) as caught:
        drive(flow, answering(peer))
    hint = caught.value.hint
    assert caught.value.leg == 2 and "NTLM AUTHENTICATE" in hint
    assert "password" in hint and "bindings" in hint and "package=NTLM" not in hint


def test_kerberos_refused(fake):
    flow = http_authenticate(WEB, 401, BOTH, secur32=fake)
    error = refused(flow, (401, "Negotiate"))
    assert "Kerberos AP-REQ" in error.hint and "setspn" in error.hint
    assert "package=NTLM" in error.hint and KERBEROS_SPN in str(error)


@pytest.mark.parametrize(
    "offered, given",
    [
        (NEG, {}),
        (BOTH, {"allow_ntlm": False}),
        (BOTH, {"require": MUTUAL}),
        (BOTH, {"package": "NTLM"}),
        (NT, {}),
    ],
)
def test_hint_names_ntlm_only_where_it_is_left_to_try(fake, offered, given):
    flow = http_authenticate(WEB, 401, offered, secur32=fake, **given)
    assert "package=NTLM" not in refused(flow, (401, offered)).hint


def test_token_of_no_known_kind_refused(fake):
    fake.plan(ISC, SEC_I_CONTINUE_NEEDED, b"digest")
    flow = http_authenticate(WEB, 407, "Negotiate", secur32=fake)
    hint = refused(flow, (407, "Negotiate")).hint
    assert "unknown was 407 again" in hint and "digest" not in hint


def test_no_token_is_in_an_error_or_its_frames(fake, domain):
    wrong, sent = Identity("CORP\\alice", "wrong"), []
    exchange = answering(sspi_client.FakeServer(domain))

    def noting(value):
        sent.append(value)
        return exchange(value)

    with pytest.raises(SspiError) as caught:
        drive(http_authenticate(PRINTER, 401, NT, wrong, secur32=fake), noting)
    secret, frames, step = sent[-1].split()[1], [], caught.value.__traceback__
    while step:
        if step.tb_frame.f_code.co_filename == sspi_client.__file__:
            frames.append(step.tb_frame.f_code.co_name)
            assert secret not in repr(step.tb_frame.f_locals), frames
        step = step.tb_next
    assert "_http_flow" in frames
    assert secret not in str(caught.value)


# -- bounded, and closed on every way out --------------------------------------


def test_legs_are_six_at_most(fake):
    for call in range(1, 9):
        fake.plan(ISC, SEC_I_CONTINUE_NEEDED, b"leg %d" % call, call=call)
    sent = []

    def asking_for_more(value):
        sent.append(value)
        return 401, SOME

    with pytest.raises(SspiError) as caught:
        drive(http_authenticate(WEB, 401, NEG, secur32=fake), asking_for_more)
    assert (caught.value.status, caught.value.leg) == (SEC_E_LOGON_DENIED, 6)
    assert len(sent) == 6 and read(sent[-1]) == ("Negotiate", b"leg 6")


def test_the_sixth_leg_may_still_succeed(fake):
    for call in range(1, 7):
        status = SEC_E_OK if call == 6 else SEC_I_CONTINUE_NEEDED
        fake.plan(ISC, status, b"leg %d" % call, call=call)
    answers = iter([(401, SOME)] * 5 + [(200, None)])
    flow = http_authenticate(WEB, 401, NEG, secur32=fake)
    drive(flow, lambda _: next(answers)).close()


@pytest.mark.parametrize("legs", [0, 1, 2])
@pytest.mark.parametrize("way", ["close", "throw", "interrupt", "drop"])
def test_inner_flow_is_closed_on_every_way_out(fake, server, legs, way):
    flow = http_authenticate(PRINTER, 401, NT, secur32=fake)
    if legs:
        value = next(flow)
    if legs == 2:
        flow.send(answering(server)(value))
    if way == "close":
        flow.close()
    elif way == "drop":
        del flow
        gc.collect()
    else:
        kind = ConnectionError if way == "throw" else KeyboardInterrupt
        with pytest.raises(kind):
            flow.throw(kind())
    fake.assert_clean()


def test_inner_flow_is_closed_when_exchange_raises(fake):
    with pytest.raises(ConnectionError):
        drive(
            http_authenticate(WEB, 401, NEG, secur32=fake),
            lambda _: (_ for _ in ()).throw(ConnectionError()),
        )
    fake.assert_clean()


def test_inner_error_keeps_package_target_and_leg(fake):
    fake.plan(ISC, sspi_client.SEC_E_TARGET_UNKNOWN)
    with pytest.raises(SspiError) as caught:
        next(http_authenticate(WEB, 401, NEG, secur32=fake))
    error = caught.value
    assert (error.package, error.target, error.leg) == ("Negotiate", KERBEROS_SPN, 1)


# -- drive ---------------------------------------------------------------------


def test_drive_passes_on_none(fake):
    flow = http_authenticate(WEB, 401, NEG, secur32=fake)
    assert drive(flow, lambda value: (200, None)) is None


def test_drive_knows_an_ended_flow_for_http(fake):
    flow = http_authenticate(WEB, 200, None, secur32=fake)
    assert drive(flow, pytest.fail) is None
    with pytest.raises(RuntimeError, match="ended before"):
        drive(flow, pytest.fail)


# -- headers -------------------------------------------------------------------

HEADERS = [
    # name, challenges, schemes of ours that are offered
    ("iis", ["Negotiate", "NTLM"], "Negotiate"),
    ("iis, one line", "Negotiate, NTLM", "Negotiate"),
    ("iis, ntlm first", ["NTLM", "Negotiate"], "Negotiate"),
    ("iis, basic too", ["Negotiate", "NTLM", 'Basic realm="intranet"'], "Negotiate"),
    ("exchange", ["Negotiate", "NTLM", 'Bearer realm="a,b", error="x"'], "Negotiate"),
    ("mod_auth_gssapi", ["Negotiate", 'Basic realm="Kerberos, please"'], "Negotiate"),
    ("mod_auth_gssapi, one line", 'Basic realm="K", Negotiate', "Negotiate"),
    ("squid", ["Negotiate", "NTLM", 'Basic realm="Squid proxy, 3.5"'], "Negotiate"),
    ("squid, ntlm alone", ["NTLM"], "NTLM"),
    ("bluecoat", ["NEGOTIATE", "NTLM", 'BASIC realm="BlueCoat"'], "Negotiate"),
    ("bluecoat, lower", "negotiate", "Negotiate"),
    ("f5 apm", ['Negotiate', 'Basic realm="/Common/ap"'], "Negotiate"),
    ("f5 apm, ntlm", ["nTLM"], "NTLM"),
    ("RFC 9110 11.6.1", 'Basic realm="simple", Newauth realm="apps", type=1,'
     ' title="Login to \\"apps\\""', None),
    ("RFC 9110 11.6.1, and ours", 'Newauth realm="apps", type=1, title="Login to'
     ' \\"apps\\"", Basic realm="simple", Negotiate', "Negotiate"),
    ("RFC 9110 11.3", 'Basic realm="http, Negotiate", NTLM', "NTLM"),
    ("digest beside it", 'Digest realm="a, NTLM", qop="auth, auth-int", nonce="x=="'
     ', Negotiate', "Negotiate"),
    ("quoted only", 'Basic realm="Negotiate, NTLM"', None),
    ("escaped quote", 'Basic realm="a\\", Negotiate, \\"b", NTLM', "NTLM"),
    ("escaped backslash", 'Basic realm="a\\\\", Negotiate', "Negotiate"),
    ("unbalanced spoils its own", ['Basic realm="oops, Negotiate', "NTLM"], "NTLM"),
    ("unbalanced spoils no other", ['Basic realm="oops', "Negotiate"], "Negotiate"),
    ("empty elements", ", ,Negotiate,,", "Negotiate"),
    ("tabs", "\tNTLM\t,\tBasic", "NTLM"),
    ("folded list", "Basic realm=x,\r\n Negotiate", "Negotiate"),
    ("parameter of ours", 'Negotiate realm="x"', "Negotiate"),
    ("longer name", "NegotiateX, NTLMv2", None),
    ("name as a parameter", "Basic NTLM=1, negotiate=2", None),
    ("kerberos is no scheme", "Kerberos", None),
]  # fmt: skip


@pytest.mark.parametrize(
    "challenges, scheme", [row[1:] for row in HEADERS], ids=[row[0] for row in HEADERS]
)
def test_offers_seen_in_the_wild(fake, challenges, scheme):
    flow = http_authenticate(WEB, 401, challenges, secur32=fake)
    if scheme is None:
        assert ended(flow, None) is None
    else:
        assert read(next(flow))[0] == scheme
        flow.close()


#: Forms of the answer that carries the token; {} is the scheme and its token.
FORMS = [
    ["{}"],
    ["{},Negotiate,NTLM"],
    ["{}", "Negotiate", "NTLM"],
    ["Negotiate", "NTLM", "{}"],
    ["Negotiate,NTLM,{}"],
    ['Basic realm="a, \\"b\\"", {}, Digest qop="auth,auth-int"'],
    ['Basic realm="never closed', "{}"],
    ["  {}  "],
    ['{}, realm="x"'],
    ["{} , NTLM"],
]
BLANKS = ["{} {}", "{}  {}", "{}\t{}", "{}\r\n  {}", "{}\n\t{}"]


@pytest.mark.parametrize("blank", BLANKS)
@pytest.mark.parametrize("case", [str, str.upper, str.lower])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("host", [WEB, PRINTER])
def test_token_is_found_in_every_form(fake, server, form, case, blank, host):
    def exchange(value):
        scheme, token = read(value)
        reply = base64.b64encode(server.accept(token) or b"").decode()
        header = blank.format(case(scheme), reply)
        return (200 if server.complete else 401), [line.format(header) for line in form]

    with drive(http_authenticate(host, 401, BOTH, secur32=fake), exchange):
        assert server.complete


@pytest.mark.parametrize("pad", ["", "=", "=="])
def test_token68_with_and_without_padding(fake, pad):
    fake.plan(ISC, SEC_I_CONTINUE_NEEDED, b"one")
    fake.plan(ISC, SEC_I_CONTINUE_NEEDED, b"two", call=2)
    token = {"": b"abc", "=": b"ab", "==": b"a"}[pad]
    word = base64.b64encode(token).decode()
    assert word.endswith(pad)
    flow = http_authenticate(WEB, 401, NEG, secur32=fake)
    next(flow)
    assert read(flow.send((401, f"Negotiate {word}")))[1] == b"two"
    flow.close()


@pytest.mark.parametrize("word", ["!!!", "abc", "YQ", "a-b_", "YQ===", 4 * "\xe9"])
@pytest.mark.parametrize("status", [401, 200])
def test_what_is_no_base64_where_a_token_is_due(fake, word, status):
    flow = http_authenticate(WEB, 401, NEG, secur32=fake)
    error = refused(flow, (status, f"Negotiate {word}"))
    assert (error.status, error.leg) == (SEC_E_INVALID_TOKEN, 1)
    assert error.target == KERBEROS_SPN and word not in str(error)
    fake.assert_clean()


@pytest.mark.parametrize("first", ["Negotiate !!!", "Negotiate abc", SOME.upper()])
def test_no_token_is_read_from_the_first_answer(fake, server, first):
    flow = http_authenticate(WEB, 401, first, secur32=fake)
    drive(flow, answering(server)).close()


def test_a_parameter_is_no_token(fake):
    for word in ('realm="x"', "realm=x", "=", "a=b=", 'realm="open'):
        flow = http_authenticate(WEB, 401, NEG, secur32=fake)
        assert refused(flow, (401, f"Negotiate {word}")).status == SEC_E_LOGON_DENIED


# -- hostile headers -----------------------------------------------------------

PIECES = [
    "Negotiate", "NTLM", "negotiate ", "NTLM ", "Basic", " ", ",", '"', "\\", '\\"',
    "=", "==", "\t", "\r\n ", "realm=", "TlRMTVNTUAACAAAA", "YQ==", "!!!", "\x00",
    "\xa0", "\u0130", "\ud800", "a" * 50, "c29tZQ==", ",,,", "\x85",
]  # fmt: skip


def test_fuzzed_headers_meet_documented_errors_alone(fake):
    chance, ends = random.Random(9110), {}
    for _ in range(4000):
        first, second = (
            ["".join(chance.choices(PIECES, k=chance.randrange(12))) for _ in range(3)]
            for _ in range(2)
        )
        status = chance.choice([200, 401])
        flow = http_authenticate(WEB, 401, first, secur32=fake)
        end = "context"
        try:
            next(flow)
            flow.send((status, second))
            flow.close()
            end = "another leg"
        except StopIteration as done:
            end = "none" if done.value is None else "context"
            if done.value:
                done.value.close()
        except SspiError as error:
            end = error.name
            assert error.target == KERBEROS_SPN
        ends[end] = ends.get(end, 0) + 1
        assert not fake._contexts and not fake._credentials
    wanted = {"none", "SEC_E_LOGON_DENIED", "SEC_E_INVALID_TOKEN"}
    assert wanted <= set(ends) and min(ends[end] for end in wanted) > 20


@pytest.mark.parametrize(
    "unit", ['"', "\\", '\\"', ",", " ", "=", "a", "a,", 'a="b",', "Negotiate,",
             "NTLM YQ==,", "\r\n ", "Negotiate ", '"a', "== "]
)  # fmt: skip
def test_a_megabyte_of_header_takes_no_time_to_hurt(fake, unit):
    header = unit * (1_000_000 // len(unit))
    started = time.perf_counter()
    flow = http_authenticate(WEB, 401, ["Negotiate", header], secur32=fake)
    next(flow)
    with pytest.raises(SspiError):
        flow.send((401, [header, "Negotiate !!!"]))
    assert time.perf_counter() - started < 5  # quadratic: minutes
