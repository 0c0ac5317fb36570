"""What Wine's secur32 does otherwise than Windows: the one list of it.

Each difference is proved by a check of contract.py that fails on Wine, and fails
for that reason. test_contract.py runs them all: when Wine learns what it lacks
here, the test fails and the line must go, or say until which Wine it is so. Nothing
is skipped.

Seen on Wine 8.0 (Debian 12, where ntlm_auth of Samba 4.17 speaks NTLM) and on
Wine 10.0 (Debian 13, Samba 4.22).
"""

import ctypes
import sys
from typing import NamedTuple


class Difference(NamedTuple):
    check: str  # the name of a function in contract.py
    proof: str  # what the report of its failure says
    reason: str
    apart: bool = False  # in a process of its own, because it may not survive it
    until: int = 0  # the first Wine, by its major version, that is like Windows here


_UNSUPPORTED = "SEC_E_UNSUPPORTED_FUNCTION"
DIFFERENCES = [
    Difference(
        "check_credential_tells_its_user",
        f"QueryCredentialsAttributesW: {_UNSUPPORTED}",
        "NTLM's QueryCredentialsAttributesW knows no attribute, NAMES neither",
    ),
    Difference(
        "check_credential_of_password_does_not_expire",
        "datetime.datetime(2",
        "Negotiate writes the present moment where Windows writes never",
    ),
    Difference(
        "check_kerberos_credential_needs_no_controller",
        "AcquireCredentialsHandleW: ",
        "Kerberos asks the KDC for a ticket at once, not when a context needs it, "
        "and lets its NTSTATUS out",
    ),
    Difference(
        "check_negotiate_speaks_spnego",
        "NTLM NEGOTIATE",
        "without a ticket Negotiate sends NTLM's messages bare",
    ),
    Difference(
        "check_empty_password_logs_on",
        "InitializeSecurityContextW: SEC_E_INVALID_TOKEN",
        "ntlm_auth takes an empty password for none and makes no AUTHENTICATE",
    ),
    Difference(
        "check_server_learns_the_target",
        "assert '' == 'HTTP/",
        "ntlm_auth is not told the target, so no AV pair names it",
    ),
    Difference(
        "check_equal_channel_bindings_log_on",
        "leg 1]",
        "NTLM wants a TOKEN in whatever pInput there is, in the first leg too, and "
        "ntlm_auth has no way to be told of bindings",
    ),
    Difference(
        "check_channel_bindings_alone_make_a_first_token",
        "InitializeSecurityContextW: SEC_E_INVALID_TOKEN",
        "as above",
    ),
    Difference(
        "check_other_channel_bindings_are_refused_by_server",
        "'SEC_E_INVALID_TOKEN' == 'SEC_E_BAD_BINDINGS'",
        "as above: the first leg fails, and no server ever sees the bindings",
    ),
    Difference(
        "check_refused_ntlm_never_leaves_the_flow",
        "access violation reading ",  # ctypes' word; the address is nobody's business
        "SEC_WINNT_AUTH_IDENTITY_EXW is taken for the plain structure",
        apart=True,
    ),
    Difference(
        "check_default_flags_grant_detection",
        "assert (65552 & 12) == 12",
        "SECPKG_ATTR_FLAGS tells of INTEGRITY and CONFIDENTIALITY alone",
    ),
    Difference(
        "check_attributes_are_written_by_the_handshake",
        "assert (0 & ",
        "NTLM's InitializeSecurityContextW leaves pfContextAttr as it was",
    ),
    Difference(
        "check_expiry_is_written_by_the_handshake",
        "assert 0 > 0",
        "NTLM's InitializeSecurityContextW leaves ptsExpiry as it was",
    ),
    Difference(
        "check_context_tells_its_user",
        f"QueryContextAttributesW: {_UNSUPPORTED}",
        "NTLM's QueryContextAttributesW does not know NAMES",
    ),
    Difference(
        "check_context_tells_the_session_key_of_server",
        f"QueryContextAttributesW: {_UNSUPPORTED}",
        "NTLM's QueryContextAttributesW does not know SESSION_KEY",
        until=10,
    ),
    Difference(
        "check_wrapping_without_sealing_is_refused_or_understood",
        "VerifySignature: SEC_E_OUT_OF_SEQUENCE",
        "without SEAL EncryptMessage falls back to the signature of NTLMv1 and "
        "encrypts, though NTLM2 session security was negotiated",
    ),
    Difference(
        "check_whole_checksum_of_signature_is_compared",
        "no SspiError",
        "VerifySignature compares bytes 8 to 15 alone, half of the checksum",
    ),
    Difference(
        "check_stream_buffer_opens_a_message",
        "'SEC_E_INVALID_TOKEN' == 'SEC_E_OK'",
        "NTLM's DecryptMessage knows TOKEN and DATA, not STREAM",
    ),
]


def wine_version():
    """Return Wine's major version, or 0 where this is not Wine."""
    if sys.platform != "win32":
        return 0
    try:
        tell = ctypes.WinDLL("ntdll.dll", winmode=0x800).wine_get_version
    except AttributeError:
        return 0
    tell.restype = ctypes.c_char_p
    return int(tell().split(b".")[0])


def here():
    """Return the differences of the Wine that runs this, by the names of the checks."""
    version = wine_version()
    return {
        difference.check: difference
        for difference in DIFFERENCES
        if version and (not difference.until or version < difference.until)
    }
