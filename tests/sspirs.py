"""sspi-rs as the secur32 of sspi_client: a real SSPI, written in Rust, on Linux.

    pip install sspilib
    authenticate(target, Identity("CORP\\alice", password), secur32=sspirs.SspiRs())

PyPI's sspilib for Linux (0.6.0) ships it as sspilib.libs/libsspi-*.so, which exports
the whole C interface of secur32.dll. No module of sspilib is imported: the library
is loaded by its path and typed by the same prototypes as the DLL.

There is nobody who is logged on. Kerberos finds its KDC by SSPI_KDC_URL, such as
tcp://127.0.0.1:88, and takes REALM\\name as the user. What it does unlike Windows
stands in sspirs_differences.py.
"""

import ctypes
import importlib.util
import os
from pathlib import Path

import sspi_client

#: With this in the environment a missing sspi-rs is a failure, not a skipped test.
SWITCH = "SSPI_CLIENT_SSPIRS"


class Missing(Exception):
    """There is no sspi-rs here; the text says why and what to install."""


class SspiRs:
    """The functions of sspi-rs by name, each bound when it is first asked for.

    Raises: Missing.
    """

    def __init__(self):
        # RTLD_LOCAL, as always with CDLL: its exports shadow nobody else's.
        self._library = ctypes.CDLL(str(library()))

    def __getattr__(self, name):
        if name not in sspi_client.PROTOTYPES:
            raise AttributeError(name)
        function = self._library[name]
        function.restype, *function.argtypes = sspi_client.PROTOTYPES[name]
        setattr(self, name, function)
        return function


def library():
    """Return the path of the shared library. Raises: Missing."""
    found = importlib.util.find_spec("sspilib")
    if found is None or not found.origin:
        raise Missing("sspilib is not installed here: pip install sspilib")
    folder = Path(found.origin).parent.with_name("sspilib.libs")
    libraries = sorted(folder.glob("libsspi-*.so"))
    if len(libraries) != 1:
        # On Windows sspilib takes the system's; one built from source has none.
        raise Missing(
            f"{len(libraries)} libsspi-*.so in {folder}: only sspilib's wheels for "
            "Linux ship sspi-rs"
        )
    return libraries[0]


def why_missing():
    """Say why there is no sspi-rs, or "" if there is one."""
    try:
        library()
    except Missing as missing:
        return str(missing)
    return ""


def required():
    return os.environ.get(SWITCH) == "required"
