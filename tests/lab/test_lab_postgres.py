"""examples/postgres_auth.py with Windows CPython on Wine, against PostgreSQL.

Wine's Kerberos logs on with the ticket of this machine; the newest pg8000 with
CPython 3.13, the oldest that the example supports with 3.8.
"""
import contextlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import postgres
import pytest
import servers
import windows

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# pg8000 with what it imports, and the CPython that runs it. 1.17 wants distutils.
RELEASES = {
    "oldest": ("3.8", ["pg8000==1.17.0", "scramp==1.2.0"]),
    "newest": ("3.13", ["pg8000", "scramp", "asn1crypto", "python-dateutil", "six"]),
}
PRELUDE = """\
import os, sys
sys.modules["_wmi"] = None          # Wine 8.0 dies of platform.system() since 3.12
sys.path[:0] = os.environ["EXAMPLES"].split(";")
import client, postgres_auth
secur32 = client.backend({"to": "", "package": "Kerberos"})
"""


@pytest.fixture(scope="module")
def database(lab_folder, realm):
    with contextlib.ExitStack() as stack:
        try:
            yield stack.enter_context(postgres.postgresql(
                lab_folder / "postgres", realm, servers.free_port()))
        except servers.LabError as error:
            give_up(str(error))


@pytest.fixture(scope="module", params=sorted(RELEASES))
def python(request, tmp_path_factory):
    """A function that runs a program on Wine with one release of pg8000."""
    version, wanted = RELEASES[request.param]
    folder = tmp_path_factory.mktemp("pg8000")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target",
         str(folder), "--only-binary=:all:", *wanted],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        give_up("%s cannot be had" % " ".join(wanted))
    found = importlib.metadata.distributions(path=[str(folder)])
    assert "pg8000" in {each.metadata["Name"] for each in found}

    def run(program, env):
        folders = [folder, EXAMPLES, Path(__file__).parent]
        here = {"EXAMPLES": ";".join(map(windows.windows_path, folders))}
        done = windows.python(version).run(
            ["-W", "ignore::DeprecationWarning", "-c", PRELUDE + program],
            dict(env, **here), timeout=100)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        return done.stdout

    return run


@pytest.fixture
def ticket(realm, tmp_path):
    return environment(servers.kinit(realm, "alice", tmp_path / "alice"))


def environment(env):
    return {name: env[name] for name in ("KRB5_CONFIG", "KRB5CCNAME")}


def give_up(reason):
    if os.environ.get("SSPI_CLIENT_LAB") == "required":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


COMMAND = """\
def run(*more):
    print("said:", postgres_auth.main(["localhost", "--port", "%d", *more], secur32))
"""


def test_command_tells_the_principal_when_logged_on(python, wine, database, ticket):
    wine([])
    trust = windows.windows_path(database.certificate)
    said = python(COMMAND % database.port + """\
who = ["--database", "gss", "--role", "alice@LAB.TEST"]
run(*who)
run(*who, "--tls", "--ca", %r)
run(*who, "--query", "select ssl from pg_stat_ssl where pid = pg_backend_pid()",
    "--tls", "--ca", %r)
run("--database", "short", "--role", "alice")
""" % (trust, trust), ticket)
    assert said.splitlines() == [
        "alice@LAB.TEST", "said: None", "alice@LAB.TEST", "said: None", "True",
        "said: None", "alice", "said: None"]


def test_native_connection_logs_on_when_it_has_a_ticket(python, wine, database, ticket):
    wine([])
    said = python("""\
with postgres_auth.NativeConnection("alice@LAB.TEST", "localhost", port=%d,
                                    database="gss", secur32=secur32) as native:
    print(native.run("select current_user, 1 + 1"))
""" % database.port, ticket)
    assert said.strip() == "[['alice@LAB.TEST', 2]]"


WORDS = {                           # database and role -> what the line says
    ("elsewhere", "alice@LAB.TEST"): "GSSAPI authentication failed",
    ("gss", "bob@LAB.TEST"): "GSSAPI authentication failed",
    ("scram", "alice"): "a password by SCRAM, not GSS",
    ("clear", "alice"): "a password in clear, not GSS",
    ("trust", "alice"): "asks for no logon",
    ("reject", "alice"): "rejects connection",
}


def test_command_says_one_line_when_server_will_not(python, wine, database, ticket):
    wine([])
    lines = ["run('--database', %r, '--role', %r)\n" % pair for pair in WORDS]
    said = python(COMMAND % database.port + "".join(lines), ticket).splitlines()
    assert len(said) == len(WORDS)
    for line, words in zip(said, WORDS.values()):
        assert line.startswith("said: postgres_auth: ") and words in line


def test_command_says_one_line_when_ticket_is_no_good(python, wine, database, realm,
                                                      tmp_path):
    wine([])
    program = COMMAND % database.port + "run('--database', 'gss')\n"
    expired = environment(servers.expired_ticket(realm, "alice", tmp_path / "old"))
    nobody = dict(expired, KRB5CCNAME="FILE:%s" % (tmp_path / "none"))
    for env in (expired, nobody):
        said = python(program, env)
        assert said.startswith("said: postgres_auth: ") and "SEC_E_" in said
        assert len(said.splitlines()) == 1
