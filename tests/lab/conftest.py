"""The lab's servers, one of each for the whole run.

Without the packages or without root a test is skipped and says so, unless
SSPI_CLIENT_LAB=required is set: then it fails, so that a run which should have
had the lab cannot pass without it.
"""
import contextlib
import json
import os
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
    """A function that starts a GSSAPI acceptor, with the arguments of servers.py's."""
    with contextlib.ExitStack() as stack:
        def start(mech, bindings=None, echo=None, demand=False):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lab-"))
            return stack.enter_context(servers.acceptor(
                folder, realm, servers.free_port(), mech, bindings, echo, demand))
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
