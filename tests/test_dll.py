"""How the module binds secur32.dll; each in a Windows process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "win32", reason="secur32.dll is a part of Windows"
)
ROOT = str(Path(__file__).resolve().parents[1])
START = """\
import ctypes, sys
sys.path.insert(0, sys.argv[1])
kernel32 = ctypes.WinDLL("kernel32.dll")
kernel32.GetModuleHandleW.restype = ctypes.c_void_p
def module(name="secur32.dll"):
    return kernel32.GetModuleHandleW(name)
assert not module(), "secur32.dll is there before us, this shows nothing"
"""


def test_import_loads_no_secur32():
    _run("import sspi_client", "assert not module()")


def test_secur32_comes_from_system32():
    _run(
        "import sspi_client",
        "sspi_client.packages()",
        "name = ctypes.create_unicode_buffer(300)",
        "handle = ctypes.c_void_p(module())",
        "kernel32.GetModuleFileNameW(handle, name, 300)",
        "lower = name.value.lower()",
        r"assert lower.endswith('\\system32\\secur32.dll'), lower",
    )


def test_file_in_working_directory_is_not_taken_for_secur32(tmp_path):
    (tmp_path / "secur32.dll").write_bytes(b"not a DLL at all")
    _run("import sspi_client", "assert sspi_client.packages()", cwd=str(tmp_path))


def test_hostile_types_on_windll_do_not_reach_us():
    _run(
        "def refuse(*_): raise SystemError('somebody else set this')",
        "import sspi_client",
        "for name in sspi_client.PROTOTYPES:",
        "    function = getattr(ctypes.windll.secur32, name)",
        "    function.argtypes, function.restype = [ctypes.c_int], ctypes.c_double",
        "    function.errcheck = refuse",
        "assert sspi_client.packages()",
        "identity = sspi_client.Identity('alice', 'x', 'CORP')",
        "sspi_client.Credential(identity, package='NTLM').close()",
    )


def test_types_on_windll_stay_as_they_were():
    _run(
        "import sspi_client",
        "sspi_client.packages()",
        "for name in sspi_client.PROTOTYPES:",
        "    function = getattr(ctypes.windll.secur32, name)",
        "    assert function.argtypes is None and function.restype is ctypes.c_int",
    )


def _run(*lines, cwd=None):
    code = START + "\n".join(lines)
    done = subprocess.run(
        [sys.executable, "-c", code, ROOT], stdin=subprocess.PIPE, cwd=cwd,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
