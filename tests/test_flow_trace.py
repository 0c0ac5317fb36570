"""examples/flow_trace.py on the fake."""

import gc
from base64 import b64encode

import pytest
from loopback import example, one_line

import sspi_client
from sspi_client import FakeDomain, SspiError

SPN, NTLM_SPN = "host/localhost", "host/printer"


@pytest.fixture
def domain():
    return FakeDomain("CORP", {"alice": "Secret123!"}, [SPN])


def test_trace_tells_each_leg_when_it_is_ntlm(fake, server):
    told = []
    flow = sspi_client.authenticate(SPN, package="NTLM", secur32=fake)
    traced = example("flow_trace").trace(flow, told.append)
    sspi_client.drive(traced, server.accept).close()
    assert [line.split(" bytes")[0].rstrip("0123456789") for line in told] == [
        "1 -> NTLM NEGOTIATE, ", "1 <- NTLM CHALLENGE, ",
        "2 -> NTLM AUTHENTICATE, ", "2 <- no token",
    ]  # fmt: skip
    assert told[0].endswith("SEC_I_CONTINUE_NEEDED") and told[2].endswith("SEC_E_OK")


def test_trace_tells_each_leg_when_it_is_kerberos(fake, server):
    told = []
    flow = sspi_client.authenticate(SPN, secur32=fake)
    traced = example("flow_trace").trace(flow, told.append)
    sspi_client.drive(traced, server.accept).close()
    assert "Kerberos AP-REQ" in told[0] and "Kerberos AP-REP" in told[1]
    assert told[2] == "2    SEC_E_OK, nothing to send"


def test_trace_shows_no_token_when_it_tells(fake, server):
    told, tokens = [], []

    def exchange(token):
        tokens.append(bytes(token))
        return server.accept(token)

    flow = sspi_client.authenticate(NTLM_SPN, secur32=fake)
    sspi_client.drive(example("flow_trace").trace(flow, told.append), exchange).close()
    everything = "\n".join(told)
    for token in tokens:
        for shown in (token.hex(), repr(token)[2:-1], b64encode(token).decode()):
            assert shown[20:40] not in everything


@pytest.mark.parametrize("end", ["close", "throw", "drop"])
def test_trace_closes_the_flow_when_it_ends_early(end, fake):
    flow = sspi_client.authenticate(SPN, secur32=fake)
    traced = example("flow_trace").trace(flow, lambda line: None)
    next(traced)
    if end == "close":
        traced.close()
    elif end == "throw":
        with pytest.raises(KeyError):
            traced.throw(KeyError("transport"))
    else:
        del traced
        gc.collect()  # PyPy has no reference counts
    with pytest.raises(StopIteration):
        next(flow)


def test_trace_tells_the_status_when_sspi_refuses(fake):
    told = []
    flow = sspi_client.authenticate("host/nowhere", package="Kerberos", secur32=fake)
    with pytest.raises(SspiError):
        next(example("flow_trace").trace(flow, told.append))
    assert told == ["1 !! SEC_E_TARGET_UNKNOWN from InitializeSecurityContextW"]


@pytest.mark.parametrize("argv", [[], ["--package", "NTLM"]])
def test_trace_command_traces_a_logon_when_alone(argv, capsys):
    assert example("flow_trace").main(argv) is None
    assert "NTLM AUTHENTICATE" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["Nonsense", "", "a\0b"])
def test_trace_command_says_one_line_when_package_is_unknown(package):
    assert one_line(example("flow_trace").main(["--package", package]), "flow_trace")
