"""What sspi-rs does otherwise than Windows: the one list of it.

Each difference is proved by a check of contract.py that fails on sspi-rs, and fails
for that reason; test_sspirs.py runs them all. When sspi-rs learns what it lacks here
the test fails, and the line must go. Nothing is skipped.

Seen on sspi-rs as sspilib 0.6.0 ships it, on Linux.
"""

from wine_differences import Difference


_UNSUPPORTED = "SEC_E_UNSUPPORTED_FUNCTION"
_NO_SIGNATURES = "MakeSignature and VerifySignature are not implemented"
DIFFERENCES = [
    Difference(
        "check_packages_are_listed",
        "(0 & 19) == 19",
        "fCapabilities of NTLM is 0; Negotiate's and Kerberos' are not",
    ),
    Difference(
        "check_credential_tells_its_user",
        f"QueryCredentialsAttributesW: {_UNSUPPORTED}",
        "QueryCredentialsAttributesW does not know NAMES",
    ),
    Difference(
        "check_package_name_may_be_in_any_case",
        "AcquireCredentialsHandleW: SEC_E_SECPKG_NOT_FOUND",
        "names of packages are compared with their case",
    ),
    Difference(
        "check_negotiate_logs_on",
        "'Negotiate' == 'NTLM'",
        "NEGOTIATION_INFO says Negotiate, whatever Negotiate has chosen",
    ),
    Difference(
        "check_ansi_password_beyond_ascii_logs_on",
        "AcquireCredentialsHandleW: SEC_E_INTERNAL_ERROR",
        "strings of an ANSI identity are taken for UTF-8, since Linux has no code page",
    ),
    Difference(
        "check_server_learns_the_target",
        "'' == 'HTTP/",
        "NTLM's AUTHENTICATE has no AV pair for the target",
    ),
    Difference(
        "check_garbage_is_refused_in_the_second_leg",
        "'SEC_E_INTERNAL_ERROR'",
        "a token that cannot be parsed is an internal error",
    ),
    Difference(
        "check_challenge_that_is_cut_off_is_refused",
        "'SEC_E_INTERNAL_ERROR'",
        "as above",
    ),
    Difference(
        "check_ntlm_negotiate_asks_for_what_flags_say",
        "0 == 16",
        "REPLAY_DETECT and SEQUENCE_DETECT alone ask for no SIGN",
    ),
    Difference(
        "check_expiry_is_written_by_the_handshake",
        "assert 0 == 9223372036854775807",
        "ptsExpiry is left as it was",
    ),
    Difference(
        "check_context_tells_its_user",
        "QueryContextAttributesW: SEC_E_NO_CREDENTIALS",
        "NTLM's context forgets who it was made for, and says that nobody was",
    ),
    Difference(
        "check_context_tells_its_sizes",
        "2010 in (1904, 2888)",
        "cbMaxToken of NTLM is a figure of sspi-rs' own",
    ),
    *(
        Difference(check, _UNSUPPORTED, _NO_SIGNATURES)
        for check in (
            "check_credential_serves_two_contexts_at_once",
            "check_context_outlives_its_closed_credential",
            "check_messages_are_signed_both_ways",
            "check_signed_and_sealed_messages_may_alternate",
            "check_signing_works_without_sealing",
            "check_altered_text_is_refused",
            "check_altered_signature_is_refused",
            "check_whole_checksum_of_signature_is_compared",
            "check_repeated_message_is_refused",
            "check_signature_needs_a_token_buffer",
        )
    ),
    Difference(
        "check_no_output_is_a_buffer_too_small",
        "'SEC_E_INVALID_PARAMETER'",
        "pOutput NULL is refused as such, before anybody looks for room in it",
    ),
    Difference(
        "check_output_of_no_bytes_is_a_buffer_too_small",
        "Segmentation fault",
        "cbBuffer of the caller's own output buffer is not looked at: it writes on",
        apart=True,
    ),
    Difference(
        "check_output_of_data_is_a_buffer_too_small",
        "'SEC_E_INVALID_TOKEN'",
        "an output without TOKEN is a malformed one, not one that is too small",
    ),
    Difference(
        "check_handle_of_zeros_is_invalid",
        "'SEC_E_INVALID_PARAMETER'",
        "a handle of zeros is taken for a NULL",
    ),
]
