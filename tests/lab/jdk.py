"""The JDK for the tests: its Kerberos acceptor and its HTTP client.

As the servers of servers.py. Java runs a program of one file from its source, so
nothing is compiled to a folder. Package: default-jdk-headless (seen: 17 and 21).
"""
import collections
import contextlib
import os
import subprocess
from pathlib import Path

import servers

HERE = Path(__file__).resolve().parent
# The only public way to bindings without addresses leads through LDAP.
INTERNAL = "java.security.jgss/sun.security.jgss.krb5.internal=ALL-UNNAMED"

Acceptor = collections.namedtuple("Acceptor", "host port target log")


@contextlib.contextmanager
def acceptor(folder, domain, port, bindings=None):
    """Run JdkAcceptor.java for host/localhost of *domain*; yield its Acceptor.

    *bindings*: text that it demands of its clients as their application data.
    """
    folder = servers._folder(folder)
    login = folder / "login.conf"
    login.write_text(_LOGIN.format(keytab=domain.keytab, realm=domain.realm))
    argv = ["java", "--add-exports", INTERNAL, *_FRUGAL,
            "-Djava.security.krb5.conf=%s" % domain.krb5_config,
            "-Djava.security.auth.login.config=%s" % login,
            "-Djavax.security.auth.useSubjectCredsOnly=false",
            str(HERE / "JdkAcceptor.java"), str(port)]
    argv += [bindings] if bindings else []
    env = dict(os.environ)
    with servers._running("jdk_acceptor", argv, folder, [port], env=env):
        yield Acceptor("localhost", port, "host/localhost",
                       folder / "jdk_acceptor.log")


def results(acceptor, count):
    """Return *count* lines that *acceptor* has said of its clients, once it has."""
    return servers.lines(acceptor.log, ("accepted ", "refused "), count)


def get(url, user, password, *more):
    """Ask HttpURLConnection for *url*; return its output and its exit status."""
    done = subprocess.run(
        ["java", *_FRUGAL, *more, str(HERE / "JdkClient.java"), url, user],
        input=password.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=60, check=False)
    return done.stdout.decode("utf-8", "replace"), done.returncode


# It lives for seconds: one collector thread and the quick compiler start faster.
_FRUGAL = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]

_LOGIN = """\
com.sun.security.jgss.krb5.accept {{
    com.sun.security.auth.module.Krb5LoginModule required
    isInitiator=false useKeyTab=true storeKey=true keyTab="{keytab}"
    principal="host/localhost@{realm}";
}};
"""
