"""What cannot be copied says so: a handle has one owner, a password no business in a
pickle, and two contexts that count the same messages break both.
"""

import copy
import pickle

import pytest
from world import KERBEROS_SPN

import sspi_client
from sspi_client import Credential, Identity, Message, SspiError, Token

WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle protocol {protocol}": lambda thing, protocol=protocol: pickle.dumps(
            thing, protocol
        )
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
PASSWORD = "Xq7-Zebra-Quilt"


def refused(way, thing, name):
    with pytest.raises(TypeError) as caught:
        way(thing)
    text = str(caught.value)
    assert name in text and PASSWORD not in text
    assert len(text.split()) >= 6, f"no reason: {text!r}"


@ways
def test_identity_refuses_to_be_copied(way):
    refused(way, Identity("alice", PASSWORD, "CORP"), "Identity")


@ways
def test_identity_inside_of_a_container_refuses(way):
    if way is copy.copy:
        pytest.skip("a shallow copy copies the container alone")
    refused(way, {"as": [Identity("alice", PASSWORD, "CORP")]}, "Identity")


@ways
def test_credential_refuses_to_be_copied(way, fake):
    with Credential(secur32=fake) as credential:
        refused(way, credential, "Credential")
    refused(way, credential, "Credential")  # a closed one as well


@ways
def test_context_refuses_to_be_copied(way, fake, server):
    flow = sspi_client.authenticate(KERBEROS_SPN, secur32=fake)
    with sspi_client.drive(flow, server.accept) as context:
        refused(way, context, "Context")
        assert server.unwrap(context.wrap(b"after that")) == b"after that"
    refused(way, context, "Context")


#: PyPy says it with an exception of pickle's.
REFUSED = (TypeError, pickle.PicklingError)


@ways
def test_flow_refuses_to_be_copied(way, fake):
    flow = sspi_client.authenticate(KERBEROS_SPN, secur32=fake)
    with pytest.raises(REFUSED, match="generator"):
        way(flow)
    next(flow)
    with pytest.raises(REFUSED, match="generator"):
        way(flow)
    flow.close()


@ways
def test_fake_refuses_to_be_copied(way, domain):
    refused(way, sspi_client.FakeSecur32(domain), "FakeSecur32")


@ways
def test_what_is_plain_data_can_be_copied(way):
    error = SspiError(0x8009030C, "InitializeSecurityContextW")
    for thing in (Token(b"token", final=True), Message(b"text", encrypted=True), error):
        copied = way(thing)
        again = pickle.loads(copied) if type(copied) is bytes else copied
        assert type(again) is type(thing)
        assert getattr(again, "final", None) == getattr(thing, "final", None)
        assert getattr(again, "encrypted", None) == getattr(thing, "encrypted", None)
        assert getattr(again, "status", None) == getattr(thing, "status", None)
