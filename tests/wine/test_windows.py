"""What only a Windows process can show, on the secur32.dll of Wine."""

import json
import shutil
import subprocess

import pytest
import windows


PASSWORD = "Xq7-Zebra-Quilt"  # ASCII: a str of it is no UTF-16 in CPython
GROWTH = 1 << 20  # [bytes] that 900 handshakes may add to the working set
COMPILER = "x86_64-w64-mingw32-gcc"
PLANT = r"""
#include <windows.h>
BOOL WINAPI DllMain(HINSTANCE dll, DWORD why, void *reserved)
{
    (void)dll; (void)why; (void)reserved;
    CloseHandle(CreateFileA(MARKER, GENERIC_WRITE, 0, 0, CREATE_ALWAYS, 0, 0));
    return TRUE;
}
"""
# Wine takes a file of a system DLL's name for its own DLL unless it is told not to.
NATIVE_FIRST = {"WINEDLLOVERRIDES": "winedbg.exe,mscoree=d;secur32=native,builtin"}
USE = "import sspi_client; print(len(sspi_client.packages()))"
HOLDER = """\
import ctypes, os, sys
from sspi_client import Credential, Identity, SspiError, authenticate

password = sys.stdin.buffer.readline().strip().decode()
kept = []
try:
    {code}
except SspiError as error:
    print(error.name, end=" ")
print(os.getpid(), flush=True)
sys.stdin.readline()  # stay until we have been looked at
"""
ACQUIRE = "kept.append(Credential(Identity('alice', password, 'CORP'), package={}))"
LOOK = str(windows.ROOT / "tests" / "wine" / "find_in_memory.py")


@pytest.fixture
def plant(mingw, tmp_path):
    """A secur32.dll that leaves a file, tmp_path/loaded, when it is loaded."""
    marker = windows.windows_path(tmp_path / "loaded").replace("\\", "\\\\")
    dll = tmp_path / "planted" / "secur32.dll"
    dll.parent.mkdir()
    command = [mingw(COMPILER), f'-DMARKER="{marker}"', "-shared", "-o", str(dll)]
    subprocess.run(
        [*command, "-xc", "-"], input=PLANT, universal_newlines=True, check=True
    )
    return dll


@pytest.fixture
def program(windows_python, plant, tmp_path):
    """A CPython of which the folder holds the planted secur32.dll."""
    folder = tmp_path / "program"
    shutil.copytree(str(windows_python.folder), str(folder))
    shutil.copy(str(plant), str(folder))
    return windows_python._replace(folder=folder)


def test_planted_secur32_is_loaded_by_plain_windll(program, tmp_path):
    # So the tests below would notice: this is what everybody else's code does.
    code = "import ctypes; ctypes.WinDLL('secur32.dll')"
    done = program.run(["-c", code], NATIVE_FIRST, timeout=60)
    assert (tmp_path / "loaded").exists(), done.stderr


def test_secur32_beside_program_is_not_loaded(program, tmp_path):
    done = program.run(["-c", USE], NATIVE_FIRST, timeout=60)
    assert int(done.stdout or 0) > 2, done.stderr
    assert not (tmp_path / "loaded").exists()


def test_secur32_beside_script_is_not_loaded(windows_python, plant, tmp_path):
    script = plant.parent / "script.py"
    script.write_text(USE)
    name = windows.windows_path(script)
    done = windows_python.run([name], NATIVE_FIRST, timeout=60)
    assert int(done.stdout or 0) > 2, done.stderr
    assert not (tmp_path / "loaded").exists()


def test_secur32_in_working_directory_is_not_loaded(windows_python, plant, tmp_path):
    code = f"import os; os.chdir({windows.windows_path(plant.parent)!r}); {USE}"
    done = windows_python.run(["-c", code], NATIVE_FIRST, timeout=60)
    assert int(done.stdout or 0) > 2, done.stderr
    assert not (tmp_path / "loaded").exists()


def test_secur32_of_added_dll_directory_is_not_loaded(windows_python, plant, tmp_path):
    folder = windows.windows_path(plant.parent)
    code = f"import os; os.add_dll_directory({folder!r}); {USE}"
    done = windows_python.run(["-c", code], NATIVE_FIRST, timeout=60)
    assert int(done.stdout or 0) > 2, done.stderr
    assert not (tmp_path / "loaded").exists()


# What Wine itself keeps is 8 bits wide: NTLM's password for ntlm_auth, as long as
# the credential lives; and a str of ASCII is so in CPython. UTF-16 was in nobody's
# hands but ours. An earlier life of the password shows too: nothing is zeroed when
# it is freed. What Windows' own LSA client keeps, these tests do not tell.


def test_password_in_utf16_is_found_while_it_is_there(windows_python):
    _, found = _look(windows_python, "wide = [i for c in password for i in (ord(c), 0)]"
                     "; kept.append((ctypes.c_ubyte * len(wide))(*wide))")
    assert "UTF-16" in found


@pytest.mark.parametrize("package", ["NTLM", "Negotiate"])
def test_password_in_utf16_is_gone_after_acquisition(windows_python, package):
    said, found = _look(windows_python, ACQUIRE.format(repr(package)))
    assert (said, set(found)) == ([], {"8 bits"})


@pytest.mark.parametrize("package", ["Nope", "Kerberos"])
def test_password_in_utf16_is_gone_after_failed_acquisition(windows_python, package):
    # Kerberos has no KDC here, which its AcquireCredentialsHandleW would ask.
    said, found = _look(windows_python, ACQUIRE.format(repr(package)))
    assert len(said) == 1, "the acquisition was to fail"
    assert set(found) == {"8 bits"}


def test_password_in_utf16_is_gone_after_first_leg(windows_python):
    flow = "authenticate('HTTP/a', Identity('alice', password, 'CORP'), package='NTLM')"
    said, found = _look(windows_python, f"kept.append({flow}); next(kept[0])")
    assert (said, set(found)) == ([], {"8 bits"})


def test_password_kept_by_wine_is_gone_after_close(windows_python):
    copies = [
        len(_look(windows_python, code)[1])
        for code in (
            "pass",
            ACQUIRE.format("'NTLM'"),
            ACQUIRE.format("'NTLM'") + "; kept.pop().close()",
        )
    ]
    before, open_, closed = copies
    assert before == closed < open_


def test_thousand_ntlm_handshakes_leave_nothing_behind(windows_python):
    report = _soak(windows_python, "soak.fake_server", 1000)
    calls = report["calls"]
    assert report["alive"] == []
    assert calls["AcquireCredentialsHandleW"] == calls["FreeCredentialsHandle"] == 1000
    assert calls["DeleteSecurityContext"] == 1000
    assert calls["InitializeSecurityContextW"] == calls["FreeContextBuffer"] == 2000
    assert report["growth"] < GROWTH


def test_soak_sees_growth_when_each_handshake_leaves_some(windows_python):
    leak = "lambda: (kept.append(bytearray(b'.') * 20000), soak.fake_server())[1]"
    assert _soak(windows_python, leak, 200)["growth"] > GROWTH


def _look(windows_python, code):
    """Run code in HOLDER; return (what it said, how PASSWORD stands in its memory)."""
    with windows_python.popen(["-c", HOLDER.format(code=code)]) as holder:
        try:
            holder.stdin.write(f"{PASSWORD}\n".encode())
            holder.stdin.flush()
            *said, pid = holder.stdout.readline().decode().split()
            looked = windows_python.run(
                [windows.windows_path(LOOK), pid], input=f"{PASSWORD}\n", timeout=60
            )
        finally:
            holder.kill()
    assert looked.returncode == 0, looked.stderr
    return said, list(json.loads(looked.stdout).values())


def _soak(windows_python, new_exchange, rounds):
    folder = windows.windows_path(windows.ROOT / "tests" / "wine")
    code = (
        f"import sys; sys.path.insert(0, {folder!r}); import json, soak; kept = []; "
        f"print(json.dumps(soak.soak(soak.ntlm, {new_exchange}, {rounds})))"
    )
    done = windows_python.run(["-c", code], timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
