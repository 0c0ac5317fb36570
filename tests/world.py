"""The small world that the tests live in, for `from world import ...`."""

import sspi_client

USERS = {
    "alice": "Secret123!",
    "bob": "Pä55wörd€",
    "emoji": "pass\U0001f600word",
    "empty": "",
}
KERBEROS_SPN = "HTTP/web.corp.test"  # the domain has a key for it
NTLM_SPN = "HTTP/printer.corp.test"  # the domain has none: Negotiate takes NTLM
BINDINGS = b"tls-server-end-point:" + bytes(range(32))


def pointee(argument):
    """What an argument of an SSPI function points at: the structure itself, or what
    byref() was given."""
    return getattr(argument, "_obj", argument)


def describe(*parts):
    """Build a descriptor of (length [bytes], type, address) buffers; return both."""
    buffers = (sspi_client.SecBuffer * len(parts))(*parts)
    version = sspi_client.SECBUFFER_VERSION
    return sspi_client.SecBufferDesc(version, len(parts), buffers), buffers
