"""The knobs of the fake: what Windows does only sometimes, and what it refuses then."""

import copy
import datetime
import pickle

import pytest
from world import BINDINGS, KERBEROS_SPN, NTLM_SPN, USERS

import sspi_client
from sspi_client import DEFAULT_FLAGS, ISC_REQ, ISC_RET, Identity, SspiError

MUTUAL = ISC_RET.MUTUAL_AUTH


@pytest.fixture
def make(domain):
    """Make fakes with knobs; each must be clean at the end."""
    made = []

    def secur32(**knobs):
        made.append(sspi_client.FakeSecur32(domain, "alice", **knobs))
        return made[-1]

    yield secur32
    for fake in made:
        fake.assert_clean()


def log_on(fake, server, target=KERBEROS_SPN, **options):
    """Return (context, tokens as mechanism() names them); the caller closes it."""
    tokens = []

    def exchange(token):
        tokens.append(sspi_client.mechanism(token))
        return server.accept(token)

    flow = sspi_client.authenticate(target, secur32=fake, **options)
    return sspi_client.drive(flow, exchange), tokens


def refusal(fake, server, target=KERBEROS_SPN, **options):
    with pytest.raises(SspiError) as caught:
        log_on(fake, server, target, **options)
    return caught.value


def client_refusal(fake, server, target=KERBEROS_SPN, **options):
    """Log on to a server that refuses with a token; return what the client says."""

    def exchange(token):
        try:
            return server.accept(token)
        except SspiError as refused:
            return refused.token

    flow = sspi_client.authenticate(target, secur32=fake, **options)
    with pytest.raises(SspiError) as caught:
        sspi_client.drive(flow, exchange)
    return caught.value


# FakeSecur32


@pytest.mark.parametrize(
    ("target", "options", "status"),
    [
        pytest.param(
            KERBEROS_SPN, {"package": "Kerberos"}, "SEC_E_NO_AUTHENTICATING_AUTHORITY",
            id="kerberos",
        ),
        pytest.param(
            KERBEROS_SPN, {"allow_ntlm": False}, "SEC_E_NO_AUTHENTICATING_AUTHORITY",
            id="negotiate-without-ntlm",
        ),
    ],
)  # fmt: skip
def test_no_controller_is_told(make, server, target, options, status):
    assert refusal(make(controller=False), server, target, **options).name == status


def test_no_controller_lets_negotiate_go_on_to_ntlm(make, server):
    context, _ = log_on(make(controller=False), server)
    with context:
        assert server.package == "NTLM"


@pytest.mark.parametrize("package", ["NTLM", "Negotiate"])
def test_forbidden_ntlm_is_unsupported(make, server, package):
    # MS-NLMP 3.1.5.1.1: STATUS_NOT_SUPPORTED, which is this status in SSPI.
    error = refusal(make(ntlm=False), server, NTLM_SPN, package=package)
    assert (error.name, error.leg) == ("SEC_E_UNSUPPORTED_FUNCTION", 1)


def test_forbidden_ntlm_is_not_offered_beside_kerberos(make, server):
    context, tokens = log_on(make(ntlm=False), server)
    with context:
        assert "NTLM" not in tokens[0] and server.package == "Kerberos"


def test_bare_ntlm_has_no_spnego_around_it(make, server):
    context, tokens = log_on(make(bare_ntlm=True), server, NTLM_SPN)
    with context:
        assert tokens == ["NTLM NEGOTIATE", "NTLM AUTHENTICATE"]


def test_bare_ntlm_leaves_kerberos_alone(make, server):
    context, tokens = log_on(make(bare_ntlm=True), server)
    with context:
        assert tokens[0].startswith("SPNEGO") and server.package == "Kerberos"


def test_ntlm_in_spnego_signs_only_when_asked_when_it_should_not(make, domain):
    server = sspi_client.FakeServer(domain)
    context, _ = log_on(make(spnego_signs=False), server, NTLM_SPN, flags=0)
    with context:
        assert server.user == "CORP\\alice"
        assert not server._mechanism.session.signs


def test_withheld_mutual_auth_is_not_negotiated(make, server):
    fake = make(withhold=MUTUAL)
    context, tokens = log_on(fake, server, package="Kerberos")
    with context:
        assert not context.flags & MUTUAL and tokens == ["Kerberos AP-REQ"]


def test_withheld_mutual_auth_fails_who_requires_it(make, server):
    error = refusal(make(withhold=MUTUAL), server, require=MUTUAL)
    assert error.name == "SEC_E_SECURITY_QOS_FAILED" and "MUTUAL_AUTH" in error.hint


def test_withheld_confidentiality_is_not_negotiated(make, server):
    context, _ = log_on(make(withhold=ISC_RET.CONFIDENTIALITY), server, NTLM_SPN)
    with context:
        assert not context.flags & ISC_RET.CONFIDENTIALITY
        assert context.flags & ISC_RET.INTEGRITY


def test_granted_bits_are_told_though_nobody_asked(make, server):
    context, _ = log_on(make(grant=ISC_RET.NULL_SESSION), server, NTLM_SPN)
    with context:
        assert context.flags & ISC_RET.NULL_SESSION


def test_ntlm_grants_mutual_auth_when_it_was_asked_for(make, server):
    # dotnet/runtime#131192; alexbrainman/sspi, TestFlagVerification.
    fake = make()
    context, _ = log_on(fake, server, NTLM_SPN, package="NTLM")
    with context:
        (other_side,) = fake._raw.contexts.values()
        assert other_side.granted() & MUTUAL
        assert not context.flags & MUTUAL  # and nobody may believe it


def test_expiry_is_the_one_that_was_given(make, server):
    moment = datetime.datetime(2031, 4, 5, 6, 7, 8, 901)
    context, _ = log_on(make(expires=moment), server, NTLM_SPN)
    with context:
        assert context.expires == moment


def test_longest_token_is_told_and_kept(make, server):
    fake = make(max_token=100)
    assert {p.max_token for p in sspi_client.packages(fake)} == {100}
    assert refusal(fake, server).name == "SEC_E_BUFFER_TOO_SMALL"


def test_tokens_within_the_longest_pass(make, server):
    context, _ = log_on(make(max_token=12000), server)
    with context:
        assert context.sizes.cbMaxToken == 12000


# FakeServer


def test_server_that_demands_signing_denies_who_does_not_sign(make, domain):
    server = sspi_client.FakeServer(domain, require=ISC_RET.INTEGRITY)
    error = refusal(make(), server, NTLM_SPN, package="NTLM", flags=0)
    assert (error.name, server.complete) == ("SEC_E_LOGON_DENIED", False)


@pytest.mark.parametrize("target", [NTLM_SPN, KERBEROS_SPN], ids=["ntlm", "kerberos"])
def test_server_that_demands_sealing_denies_who_signs_alone(make, domain, target):
    flags = DEFAULT_FLAGS & ~ISC_REQ.CONFIDENTIALITY
    server = sspi_client.FakeServer(domain, require=ISC_RET.CONFIDENTIALITY)
    error = client_refusal(make(), server, target, flags=flags)
    assert error.name == "SEC_E_LOGON_DENIED"


@pytest.mark.parametrize("target", [NTLM_SPN, KERBEROS_SPN], ids=["ntlm", "kerberos"])
def test_server_is_content_with_what_it_demands(make, domain, target):
    demands = ISC_RET.CONFIDENTIALITY | ISC_RET.INTEGRITY
    server = sspi_client.FakeServer(domain, require=demands, require_128=True)
    context, _ = log_on(make(), server, target)
    with context:
        assert server.complete


def test_server_that_demands_mutual_auth_takes_no_ntlm(make, domain):
    server = sspi_client.FakeServer(domain, require=MUTUAL)
    assert refusal(make(), server, NTLM_SPN).name == "SEC_E_LOGON_DENIED"


def test_server_that_demands_128_bits_refuses_less(domain):
    # MS-NLMP 3.2.5.1.1; these are curl's flags.
    server = sspi_client.FakeServer(domain, require_128=True)
    with pytest.raises(SspiError) as caught:
        server.accept(b"NTLMSSP\0\1\0\0\0" + bytes.fromhex("06820800") + bytes(16))
    assert caught.value.name == "SEC_E_UNSUPPORTED_FUNCTION"


@pytest.mark.parametrize("package", ["NTLM", "Negotiate"])
def test_server_without_ntlm_refuses_it(make, domain, package):
    server = sspi_client.FakeServer(domain, ntlm=False)
    error = refusal(make(), server, NTLM_SPN, package=package)
    expected = {"NTLM": "UNSUPPORTED_FUNCTION", "Negotiate": "INVALID_TOKEN"}
    assert error.name == "SEC_E_" + expected[package]


@pytest.mark.parametrize("ahead", [301, -301, 86400.5])
@pytest.mark.parametrize("package", ["Negotiate", "Kerberos"])
def test_clock_that_is_wrong_reaches_the_client_as_time_skew(
    make, domain, package, ahead
):
    server = sspi_client.FakeServer(domain, clock_ahead=ahead)
    error = client_refusal(make(), server, package=package)
    assert (error.name, error.leg) == ("SEC_E_TIME_SKEW", 2)
    assert error.hint.startswith("The server refused: ")
    assert "Kerberos KRB-ERROR 37, the clocks differ too much. " in error.hint


@pytest.mark.parametrize("ahead", [0, 300, -299.5])
def test_clock_within_five_minutes_is_right(make, domain, ahead):
    server = sspi_client.FakeServer(domain, clock_ahead=ahead)
    log_on(make(), server)[0].close()
    assert server.complete


@pytest.mark.parametrize("package", ["Negotiate", "Kerberos"])
def test_refusals_of_kerberos_carry_its_error(make, domain, package):
    server = sspi_client.FakeServer(domain, clock_ahead=999)
    error = refusal(make(), server, package=package)
    assert sspi_client.mechanism(error.token).endswith("Kerberos KRB-ERROR 37")


@pytest.mark.parametrize(
    ("services", "code"),
    [
        pytest.param(["HTTP/other.corp.test"], 35, id="not-this-service"),
        pytest.param([KERBEROS_SPN], 41, id="another-key"),
    ],
)
def test_server_with_another_account_is_the_wrong_principal(make, services, code):
    server = sspi_client.FakeServer(sspi_client.FakeDomain("CORP", USERS, services))
    flow = sspi_client.authenticate(KERBEROS_SPN, secur32=make())
    with pytest.raises(SspiError) as refused:
        server.accept(next(flow))
    reject = refused.value.token
    assert sspi_client.mechanism(reject) == (
        f"SPNEGO NegTokenResp (reject): Kerberos KRB-ERROR {code}"
    )
    with pytest.raises(SspiError) as caught:
        flow.send(reject)
    assert caught.value.name == "SEC_E_WRONG_PRINCIPAL"


@pytest.mark.parametrize("target", [NTLM_SPN, KERBEROS_SPN], ids=["ntlm", "kerberos"])
def test_demanded_bindings_reach_the_client_as_a_denied_logon(make, domain, target):
    server = sspi_client.FakeServer(domain, BINDINGS)
    assert client_refusal(make(), server, target).name == "SEC_E_LOGON_DENIED"


def test_wrong_password_reaches_the_client_as_a_denied_logon(make, server):
    identity = Identity("CORP\\alice", "wrong")
    error = client_refusal(make(), server, NTLM_SPN, identity=identity)
    assert (error.name, error.leg) == ("SEC_E_LOGON_DENIED", 3)


def test_service_may_be_named_with_its_realm(make, server):
    # dotnet/runtime#126979
    context, _ = log_on(make(), server, KERBEROS_SPN + "@CORP.TEST")
    with context:
        assert (server.package, server.target) == ("Kerberos", KERBEROS_SPN)


def test_service_of_another_realm_is_another(make, server):
    error = refusal(make(), server, KERBEROS_SPN + "@OTHER", package="Kerberos")
    assert error.name == "SEC_E_TARGET_UNKNOWN"


# Wrong arguments

SOON = datetime.datetime(2030, 1, 1)
ABROAD = SOON.replace(tzinfo=datetime.timezone.utc)
WRONG = [
    *(("secur32", {knob: wrong}, TypeError)
      for knob in ("controller", "ntlm", "bare_ntlm", "spnego_signs")
      for wrong in (None, 1, "yes")),
    *(("secur32", {knob: wrong}, kind)
      for knob in ("withhold", "grant", "max_token")
      for wrong, kind in (("2", TypeError), (True, TypeError), (2.0, TypeError),
                          (-1, ValueError), (2**32, ValueError))),
    ("secur32", {"withhold": None}, TypeError),
    ("secur32", {"grant": None}, TypeError),
    ("secur32", {"expires": 5}, TypeError),
    ("secur32", {"expires": "2030"}, TypeError),
    ("secur32", {"expires": SOON.date()}, TypeError),
    ("secur32", {"expires": ABROAD}, ValueError),
    ("secur32", {"expires": datetime.datetime(1, 1, 1)}, ValueError),
    *(("server", {knob: wrong}, TypeError)
      for knob in ("require_128", "ntlm") for wrong in (None, 1, "yes")),
    *(("server", {"require": wrong}, kind)
      for wrong, kind in (("2", TypeError), (None, TypeError), (True, TypeError),
                          (-1, ValueError), (2**32, ValueError))),
    *(("server", {"clock_ahead": wrong}, kind)
      for wrong, kind in (("300", TypeError), (None, TypeError), (True, TypeError),
                          (float("nan"), ValueError), (float("inf"), ValueError),
                          (10**10, ValueError))),
    ("server", {"channel_bindings": b"x"}, ValueError),
    ("domain", {"name": "a\nb"}, ValueError),
    ("domain", {"name": "A\\B"}, ValueError),
    ("domain", {"users": {"al\x1bice": "x"}}, ValueError),
    ("domain", {"users": {"": "x"}}, ValueError),
    ("domain", {"users": {"a@b": "x"}}, ValueError),
    ("inject", {"function": 5, "status": 0}, TypeError),
    ("inject", {"function": "x", "status": 0}, ValueError),
    ("inject", {"function": "CompleteAuthToken", "status": None}, TypeError),
    ("inject", {"function": "CompleteAuthToken", "status": 0, "token": "x"}, TypeError),
    ("inject", {"function": "CompleteAuthToken", "status": 0, "call": 0}, TypeError),
]  # fmt: skip


def test_every_wrong_argument_is_told_at_the_call(domain):
    makers = {
        "secur32": lambda **wrong: sspi_client.FakeSecur32(domain, **wrong),
        "server": lambda **wrong: sspi_client.FakeServer(domain, **wrong),
        "domain": lambda **wrong: sspi_client.FakeDomain(
            **{"name": "CORP", "users": {}, **wrong}
        ),
        "inject": sspi_client.FakeSecur32(domain).inject,
    }
    for which, wrong, kind in WRONG:
        with pytest.raises(kind) as caught:
            makers[which](**wrong)
        assert str(caught.value), (which, wrong)
        assert type(caught.value) is kind, (which, wrong)
    assert len(WRONG) > 50


# Secrets


def test_nothing_of_the_fake_is_copied_or_pickled(domain):
    secur32, server = sspi_client.FakeSecur32(domain), sspi_client.FakeServer(domain)
    for thing in (domain, secur32, server):
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="neither pickled nor copied"):
                attempt(thing)


def test_representations_are_printable_and_tell_no_secret(domain):
    users = {"m\u00fcller": "hidden", "\ud800": "hidden", "ali\u00adce": "hidden"}
    strange = sspi_client.FakeDomain("c\u200bo\ud800rp", users)
    for kind in (sspi_client.FakeSecur32, sspi_client.FakeServer, lambda same: same):
        thing = kind(strange)
        assert repr(thing).isprintable() and "hidden" not in repr(thing)


@pytest.mark.parametrize("service", ["HTTP/h\ud800st", "HTTP/other"])
def test_names_that_cannot_be_printed_log_on_all_the_same(service):
    world = sspi_client.FakeDomain("C\u200b\ud800", {"\udfff\u00ad": "p"}, [service])
    server = sspi_client.FakeServer(world)
    for target in (service, NTLM_SPN):
        server = sspi_client.FakeServer(world)
        fake = sspi_client.FakeSecur32(world, "\udfff\u00ad")
        log_on(fake, server, target)[0].close()
        assert server.user == "C\u200b\ud800\\\udfff\u00ad"
        fake.assert_clean()


def frames_of(error):
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == sspi_client.__file__:
            yield trace.tb_frame.f_locals
        trace = trace.tb_next


@pytest.mark.parametrize(
    "make_error",
    [
        lambda: sspi_client.FakeDomain("CORP", {"al\nice": "S3cretWord"}),
        lambda: sspi_client.FakeDomain("CORP", {"alice": "S3cretWord"}, ["http://x"]),
        lambda: sspi_client.FakeDomain("", {"alice": "S3cretWord"}),
        lambda: sspi_client.FakeDomain("CORP", {"alice": "S3cretWord\0"}),
        lambda: sspi_client.FakeSecur32(
            sspi_client.FakeDomain("CORP", {"alice": "S3cretWord"}), "mallory"
        ),
    ],
    ids=["user", "service", "name", "password", "logon"],
)
def test_no_frame_of_an_error_shows_a_password_under_another_name(make_error):
    with pytest.raises((TypeError, ValueError)) as caught:
        make_error()
    frames = list(frames_of(caught.value))
    assert frames
    for frame in frames:
        for name, value in frame.items():
            assert name == "password" or "S3cretWord" not in repr(value), name
