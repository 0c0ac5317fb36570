"""A real PostgreSQL for the tests to log on to: GSS authentication by MIT Kerberos.

As the servers of servers.py. Each database wants another method, whoever asks.
"""
import collections
import contextlib
import os
from pathlib import Path

import mail
import servers

PACKAGES = ("postgresql",)
USER = "postgres"                   # Debian's, who may own a cluster
PROGRAMS = "/usr/lib/postgresql"

# The database and its method in pg_hba.conf.
METHODS = {
    "gss": "gss include_realm=1",           # the role is alice@LAB.TEST
    "short": "gss include_realm=0",         # the role is alice
    "elsewhere": "gss include_realm=1 krb_realm=OTHER.TEST",
    "scram": "scram-sha-256",
    "md5": "md5",
    "clear": "password",
    "trust": "trust",
    "reject": "reject",
}

Database = collections.namedtuple(
    "Database", "host port target certificate realm roles")


@contextlib.contextmanager
def postgresql(folder, realm, port):
    """Run PostgreSQL for *realm*, with TLS and without; yield its Database."""
    servers._require([port])
    folder = servers._folder(folder)
    programs = _programs()
    certificate, key = servers._certificate(folder, "localhost")
    keytab = mail._keytab(folder, realm, ["postgres/localhost"])
    cluster = folder / "cluster"
    servers._give(folder, USER)
    key.chmod(0o600)
    as_user = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"]
    env = dict(os.environ, KRB5_CONFIG=str(realm.krb5_config),
               KRB5RCACHEDIR=str(folder), LC_ALL="C.UTF-8")
    log = folder / "made.log"
    servers._run(as_user + [str(programs / "initdb"), "-D", str(cluster), "-A", "trust",
                            "-U", USER, "--no-sync"], log, env=env)
    (cluster / "pg_hba.conf").write_text("".join(
        "host %s all 127.0.0.1/32 %s\n" % pair for pair in METHODS.items()))
    with (cluster / "postgresql.conf").open("a") as settings:
        settings.write(_SETTINGS.format(
            folder=folder, port=port, keytab=keytab, certificate=certificate, key=key))
    roles = ["alice", "alice@" + realm.realm]
    commands = ['create role "%s" login password \'x\';\n' % role for role in roles]
    commands += ["create database %s;\n" % name for name in METHODS]
    for command in commands:        # the server is not up yet
        servers._run(as_user + [str(programs / "postgres"), "--single", "-D",
                                str(cluster), "postgres"], log, command, env)
    argv = [str(programs / "postgres"), "-D", str(cluster)]
    with servers._running("postgres", argv, folder, [port], USER, env):
        yield Database("localhost", port, "postgres/localhost", certificate,
                       realm.realm, roles)


def _programs():
    found = sorted(Path(PROGRAMS).glob("*/bin/initdb"))
    if not found:
        raise servers.LabError("the lab lacks packages (%s): apt-get install it"
                               % " ".join(PACKAGES))
    return found[-1].parent


# Nothing is listened on but loopback, and no socket lies in a folder of the system.
_SETTINGS = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
krb_server_keyfile = 'FILE:{keytab}'
ssl = on
ssl_cert_file = '{certificate}'
ssl_key_file = '{key}'
fsync = off
logging_collector = off
"""
