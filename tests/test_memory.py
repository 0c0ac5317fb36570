"""What messages are written to, and what never is: the same on every Python.

The provider of these tests really changes each byte, in place, as SSPI does. An
implementation of Python may keep bytes elsewhere than where ctypes points, may share
equal constants, may move what it likes: what comes out must be right all the same,
and nothing that is immutable may have changed.
"""

import array
import ctypes

import pytest
from stub import TOKEN, Stub, scrambled, vouched

from sspi_client import SspiError

KIB = 1024
LENGTHS = [
    0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 255, 256, 257, 4 * KIB - 1, 4 * KIB,
    64 * KIB, 64 * KIB + 1, KIB * KIB, 16 * KIB * KIB,
]  # fmt: skip
MAKE = {"bytes": bytes, "bytearray": bytearray, "view": lambda text: memoryview(text)}

packages = pytest.mark.parametrize("package", ["NTLM", "Kerberos"])
lengths = pytest.mark.parametrize("length", LENGTHS)


@pytest.fixture
def context(package):
    stub = Stub(package)
    with stub.context() as established:
        yield established
    stub.assert_clean()


def text_of(length):
    return (bytes(range(256)) * (length // 256 + 1))[:length]


@packages
@lengths
def test_seal_returns_what_sspi_wrote(context, length):
    text = text_of(length)
    token, ciphertext = context.seal(text)
    assert ciphertext == scrambled(text)
    assert token == vouched(text, 0)
    assert text == text_of(length)


@packages
@lengths
def test_wrap_returns_what_sspi_wrote(context, length):
    text = text_of(length)
    assert context.wrap(text) == vouched(text, 0) + scrambled(text)
    assert text == text_of(length)


@packages
@lengths
def test_unseal_returns_what_sspi_wrote(context, length):
    text = text_of(length)
    token, ciphertext = vouched(text, 0), scrambled(text)
    assert context.unseal(token, ciphertext) == text
    assert (token, ciphertext) == (vouched(text, 0), scrambled(text))


@packages
@lengths
def test_unwrap_returns_what_sspi_wrote(context, length):
    text = text_of(length)
    blob = vouched(text, 0) + scrambled(text)
    assert context.unwrap(blob) == text
    assert blob == vouched(text, 0) + scrambled(text)


@packages
@lengths
def test_sign_and_verify_are_about_the_whole_text(context, length):
    text = text_of(length)
    signature = context.sign(text)
    assert signature == vouched(text, 0)
    context.verify(text, signature)
    with pytest.raises(SspiError):
        context.verify(text + b"!", signature)
    assert text == text_of(length)


@packages
@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
@pytest.mark.parametrize("length", [1, 16, 4 * KIB])
def test_buffer_of_the_caller_is_as_it_was(context, make, length):
    text = text_of(length)
    given = make(text)
    context.seal(given)
    context.wrap(given)
    context.sign(given)
    assert bytes(given) == text
    token, ciphertext = make(vouched(text, 0)), make(scrambled(text))
    assert context.unseal(token, ciphertext) == text
    assert (bytes(token), bytes(ciphertext)) == (vouched(text, 0), scrambled(text))
    blob = make(vouched(text, 1) + scrambled(text))
    assert context.unwrap(blob) == text
    assert bytes(blob) == vouched(text, 1) + scrambled(text)


@packages
def test_constants_of_the_interpreter_are_as_they_were(context):
    """CPython has one empty bytes, and one of each single byte, for everybody."""
    for byte in range(256):
        text = bytes([byte])
        assert context.seal(text)[1] == scrambled(text)
        assert context.wrap(text)[TOKEN:] == scrambled(text)
    for _ in range(3):
        assert context.seal(b"")[1] == b""
        assert context.wrap(b"")[TOKEN:] == b""
    assert [bytes([byte])[0] for byte in range(256)] == list(range(256))
    assert [ord(chr(byte).encode("latin-1")) for byte in range(256)] == list(range(256))
    assert len(b"") == 0 and b"a" + b"" == bytes([97])


@packages
def test_constant_that_is_sealed_twice_is_sealed_the_same(context):
    text = b"a constant of this function, shared by both calls"
    first, second = context.seal(text)[1], context.seal(text)[1]
    assert first == second == scrambled(text)
    assert text == b"a constant of " + b"this function, shared by both calls"


@packages
def test_what_was_returned_does_not_change_with_the_next_message(context):
    kept = [context.seal(b"%03d" % number * 11) for number in range(100)]
    for number, (token, ciphertext) in enumerate(kept):
        text = b"%03d" % number * 11
        assert (token, ciphertext) == (vouched(text, number), scrambled(text))


@packages
def test_what_was_returned_hashes_as_equal_bytes_do(context):
    """A bytes object may remember its hash: it must be that of its last content."""
    text = text_of(100)
    assert {context.seal(text)[1]: 1}.get(scrambled(text)) == 1
    assert {context.unseal(vouched(text, 0), scrambled(text)): 1}.get(text) == 1


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 4 * KIB])
def test_padding_comes_behind_what_sspi_wrote(length):
    class Padding(Stub):
        def on_EncryptMessage(self, context, quality, message, number):
            super().on_EncryptMessage(context, quality, message, number)
            padding = self.buffers(message)[2]
            padding.cbBuffer = 8 - length % 8
            ctypes.memset(padding.pvBuffer, padding.cbBuffer, padding.cbBuffer)

    stub = Padding(block=8)
    with stub.context() as context:
        text, count = text_of(length), 8 - length % 8
        assert context.seal(text)[1] == scrambled(text) + bytes([count]) * count
    stub.assert_clean()


def test_array_of_any_items_is_sealed_byte_by_byte():
    stub = Stub("NTLM")
    with stub.context() as context:
        given = array.array("H", range(300))
        octets = given.tobytes()
        assert context.seal(given)[1] == scrambled(octets)
        assert given.tobytes() == octets
    stub.assert_clean()
