"""The lab's servers, one of each for the whole run.

Without the packages or without root a test is skipped and says so, unless
SSPI_CLIENT_LAB=required is set: then it fails, so that a run which should have
had the lab cannot pass without it. What needs software that is newer than the
machine's is skipped and says so, unless SSPI_CLIENT_DEBIAN=required is set: chroot.py
does that, in whose chroots all of it is there.
"""
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import client
import pytest
import servers

sys.path.append(str(Path(__file__).resolve().parents[1] / "wine"))
import windows  # noqa: E402


@pytest.fixture(scope="session")
def lab_folder():
    # Not pytest's tmp_path: only its owner can enter that, and Apache and Squid
    # run as users of their own.
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def samba(lab_folder):
    yield from _serve(servers.samba_domain, lab_folder / "samba")


@pytest.fixture(scope="session")
def realm(lab_folder):
    yield from _serve(servers.mit_realm, lab_folder / "realm", servers.free_port())


@pytest.fixture(scope="session")
def apache(lab_folder, realm):
    yield from _serve(servers.apache, lab_folder / "apache", realm,
                      servers.free_port(), servers.free_port())


@pytest.fixture(scope="session")
def squid(lab_folder, realm):
    yield from _serve(servers.squid, lab_folder / "squid", realm, servers.free_port())


@pytest.fixture
def acceptor(realm):
    """A function that starts a GSSAPI acceptor, with the arguments of servers.py's.

    It belongs to the MIT realm, or to the *domain* that it is given.
    """
    with contextlib.ExitStack() as stack:
        def start(mech, *options, domain=realm, **more):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-"))
            return stack.enter_context(servers.acceptor(
                folder, domain, servers.free_port(), mech, *options, **more))
        yield start


@pytest.fixture(scope="session")
def wine():
    """A function that has client.py do jobs with a Windows CPython on Wine.

    wine(jobs, env) returns their reports; *env* says whose tickets there are.
    """
    def run(jobs, env=None, version="3.13"):
        folders = (windows.PREFIX, windows.CACHE / ("python-" + version))
        # A test run must not download and build all that unless it was asked to.
        if not _required() and not all((f / windows.STAMP).exists() for f in folders):
            _give_up("Windows CPython %s is not made yet: "
                     "python tests/wine/windows.py --setup-only" % version)
        try:
            interpreter = windows.python(version)
        except windows.Missing as missing:
            _give_up(str(missing))
        # A handle or a socket that nobody closed is a warning, and not wanted here.
        done = interpreter.run(
            ["-W", "always", windows.windows_path(client.__file__)], env,
            json.dumps(jobs), timeout=100)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def binding_samba(samba):
    """A domain controller that demands channel bindings inside TLS."""
    _need(samba.binds, "this Samba compares no channel bindings")
    return samba


@pytest.fixture(scope="session")
def sspi_rs():
    """A function that has client.py do jobs with sspi-rs, in a process of its own.

    sspi_rs(jobs, samba) returns their reports; Kerberos asks the KDC of *samba*.
    """
    _need(importlib.util.find_spec("sspilib"), "sspilib is not installed")

    def run(jobs, samba=None):
        kdc = {"SSPI_KDC_URL": "tcp://127.0.0.1:88"} if samba else {}
        jobs = [dict(job, secur32="sspi-rs") for job in jobs]
        done = subprocess.run(
            [sys.executable, "-W", "always", client.__file__],
            env=dict(os.environ, PYTHONPATH=str(windows.ROOT), **kdc),
            input=json.dumps(jobs), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            universal_newlines=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="session")
def program():
    """A function that finds a foreign program by its name."""
    def find(name):
        _need(shutil.which(name), name + " is not installed")
        return shutil.which(name)

    return find


def _need(there, lack):
    """Skip a test that wants what a newer Debian has, and this machine has not."""
    if there:
        return
    if os.environ.get("SSPI_CLIENT_DEBIAN") == "required":
        pytest.fail(lack, pytrace=False)
    pytest.skip(lack + ": python tests/lab/chroot.py trixie python -m pytest tests/lab")


def _serve(start, *arguments):
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(start(*arguments))
        except servers.LabError as error:
            _give_up(str(error))
        yield server


def _give_up(reason):
    if _required():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _required():
    return os.environ.get("SSPI_CLIENT_LAB") == "required"
