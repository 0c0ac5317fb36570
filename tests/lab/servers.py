"""Real servers for the tests to authenticate to, on loopback, as root on Debian.

    python tests/lab/servers.py --install    install the packages that this needs
    python tests/lab/servers.py              start everything, print where it is

Each server is a context manager: it writes into the folder that it is given and
nowhere else, yields plain data once its ports accept, and leaves no process
behind. Whatever goes wrong is one LabError of one line.

Seen on Debian 12, 13 and sid; chroot.py has the newer ones on an older machine.

All keys and passwords here are for show. Apache and Squid run as users of their
own, so these users must be able to reach the folder: one made in /tmp with mode
0755 will do, one below /root will not.
"""
import atexit
import collections
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKAGES = (
    "apache2-bin",                  # httpd without Debian's site and service
    "curl",
    "dovecot-gssapi",               # the three of mail.py
    "dovecot-imapd",
    "dovecot-submissiond",
    "exim4-daemon-heavy",           # mail.py's SMTP server
    "gss-ntlmssp",
    "krb5-admin-server",            # kadmin.local
    "krb5-kdc",
    "krb5-user",                    # kinit, klist
    "ldap-utils",
    "libapache2-mod-auth-gssapi",
    "libsasl2-modules-gssapi-mit",
    "openssl",
    "postgresql",
    "python3-gssapi",
    "python3-samba",
    "samba",
    "samba-ad-provision",
    "samba-dsdb-modules",
    "samba-vfs-modules",            # provisioning stores ACLs through one of them
    "squid",
    "winbind",                      # ntlm_auth, for mail.py and for Wine
)

CONTROLLER = "samba-ad-dc"          # Debian 12 has it in "samba", later ones apart

PATIENCE = 30                       # [s] for a server to accept on all its ports
HERE = Path(__file__).resolve().parent
SYSTEM_PYTHON = "/usr/bin/python3"  # the one that python3-samba, -gssapi belong to

# LDAP, LDAPS and the global catalogue are built into Samba; 464 changes passwords.
SAMBA_PORTS = (88, 389, 464, 636, 3268, 3269)

# The first Samba that compares channel bindings.
BINDING_SAMBA = (4, 21)

# One password that fits any code page, and one that fits neither ASCII nor Latin-1.
USERS = {"alice": "Secret123!", "bob": "Pä55wörd€!"}

# Samba spends 8 bytes of the ticket on a group: with 1,400 of them the first
# Kerberos token of `crowd` is 12.5 KB, more than the 12,000 bytes that Windows 7
# and Wine call the maximum.
CROWD = "crowd"
CROWD_GROUPS = 1400

Domain = collections.namedtuple(
    "Domain", "realm netbios host target ldap_port ldaps_port certificate "
              "krb5_config keytab users crowd binds")
Realm = collections.namedtuple(
    "Realm", "realm netbios kdc_port krb5_config keytab users")
Web = collections.namedtuple(
    "Web", "host port tls_port target certificate domain users")
Proxy = collections.namedtuple("Proxy", "host port target")
Acceptor = collections.namedtuple("Acceptor", "host port target log")


class LabError(Exception):
    """A server did not come up, or this machine cannot run it: one line."""


# -- The servers ---------------------------------------------------------------

@contextlib.contextmanager
def samba_domain(folder):
    """Run a domain controller of AD.TEST and yield its Domain.

    LDAPS shows a certificate of our own making, which names localhost. SASL is
    allowed inside TLS, without signing and sealing, which Samba always refuses there;
    `binds` tells whether it then demands the channel bindings, as Samba does since
    4.21. The keytab holds the keys of host/ and HTTP/localhost, for other servers.
    """
    _require(SAMBA_PORTS)
    folder = _folder(folder)
    users = dict(USERS, **{CROWD: "Secret123!"})
    certificate, key = _certificate(folder, "dc1.ad.test")
    binds = samba_version() >= BINDING_SAMBA
    config = _provision(folder, certificate, key, binds)
    services = [kind + "/localhost" for kind in ("ldap", "host", "HTTP")]
    _run([SYSTEM_PYTHON, str(HERE / "samba_accounts.py"), str(config)],
         folder / "accounts.log",
         stdin=json.dumps({"users": users, "crowd": CROWD, "groups": CROWD_GROUPS,
                           "services": [*services, "ldap/dc1.ad.test"]}))
    keytab = folder / "services.keytab"
    for service in services[1:]:
        _run(["samba-tool", "domain", "exportkeytab", str(keytab), "-s", str(config),
              "--principal=" + service], folder / "keytab.log")
    krb5_config = _krb5_config(folder, "AD.TEST", 88, [".ad.test"])
    with _running("samba", ["samba", "-s", str(config), "-i", "--debug-stdout"],
                  folder, SAMBA_PORTS):
        yield Domain("AD.TEST", "ADT", "localhost", "ldap/localhost", 389, 636,
                     certificate, krb5_config, keytab, users, CROWD, binds)


@contextlib.contextmanager
def mit_realm(folder, port):
    """Run an MIT KDC of LAB.TEST with users and service keys; yield its Realm."""
    _require([port])
    folder = _folder(folder)
    krb5_config = _krb5_config(folder, "LAB.TEST", port, ["localhost"])
    profile = folder / "kdc.conf"
    profile.write_text(_KDC_CONF.format(folder=folder, port=port))
    keytab = folder / "services.keytab"
    env = dict(os.environ, KRB5_CONFIG=str(krb5_config),
               KRB5_KDC_PROFILE=str(profile))
    log = folder / "database.log"
    _run(["kdb5_util", "create", "-s", "-r", "LAB.TEST", "-P", "master"], log, env=env)
    services = [kind + "/localhost" for kind in ("HTTP", "ldap", "host")]
    commands = ["addprinc -randkey " + service for service in services]
    commands += ["ktadd -k %s %s" % (keytab, service) for service in services]
    commands += ['addprinc -pw "%s" %s' % (password, user)
                 for user, password in USERS.items()]
    for command in commands:
        _run(["kadmin.local", "-q", command], log, env=env)
    keytab.chmod(0o644)             # Apache and Squid read it as their own users
    with _running("krb5kdc", ["krb5kdc", "-n"], folder, [port], env=env):
        yield Realm("LAB.TEST", "LAB", port, krb5_config, keytab, dict(USERS))


@contextlib.contextmanager
def apache(folder, realm, port, tls_port):
    """Run Apache with /krb for *realm* and /ntlm for its users; yield its Web.

    Both exist on both ports, and so does /open for everybody. The answer names
    the user in X-Remote-User. Channel bindings are not looked at.
    """
    _require([port, tls_port])
    folder = _folder(folder)
    certificate, key = _certificate(folder, "localhost")
    for place in ("krb", "ntlm", "open"):
        (folder / "www" / place).mkdir(parents=True)
        (folder / "www" / place / "index.html").write_text(place + "\n")
    users = folder / "ntlm-users"
    users.write_text("".join("%s:%s:%s\n" % (realm.netbios, user, password)
                             for user, password in realm.users.items()), "utf-8")
    config = folder / "httpd.conf"
    config.write_text(_HTTPD_CONF.format(
        folder=folder, port=port, tls_port=tls_port, keytab=realm.keytab,
        certificate=certificate, key=key))
    env = dict(os.environ, KRB5_CONFIG=str(realm.krb5_config),
               KRB5RCACHEDIR=str(folder), NTLM_USER_FILE=str(users))
    argv = ["apache2", "-D", "FOREGROUND", "-f", str(config)]
    with _running("apache2", argv, folder, [port, tls_port], "www-data", env):
        yield Web("localhost", port, tls_port, "HTTP/localhost", certificate,
                  realm.netbios, dict(realm.users))


@contextlib.contextmanager
def squid(folder, realm, port):
    """Run a proxy that wants Negotiate (Kerberos of *realm*); yield its Proxy."""
    _require([port])
    folder = _folder(folder)
    config = folder / "squid.conf"
    config.write_text(_SQUID_CONF.format(folder=folder, port=port, keytab=realm.keytab))
    env = dict(os.environ, KRB5_CONFIG=str(realm.krb5_config),
               KRB5RCACHEDIR=str(folder))
    argv = ["squid", "-N", "-f", str(config)]
    with _running("squid", argv, folder, [port], "proxy", env):
        yield Proxy("localhost", port, "HTTP/localhost")


@contextlib.contextmanager
def acceptor(folder, realm, port, mech, bindings=None, echo=None, demand=False,
             key=False):
    """Run gss_acceptor.py for *mech*, "krb5" or "ntlmssp"; yield its Acceptor.

    *realm*: a Realm or a Domain.
    *bindings*: the application data [bytes] that it passes to
    gss_accept_sec_context; with *demand* a client must give them. results() reads
    what became of each client.
    """
    _require([port])
    folder = _folder(folder)
    users = folder / "ntlm-users"
    users.write_text("".join("%s:%s:%s\n" % (realm.netbios, user, password)
                             for user, password in realm.users.items()), "utf-8")
    env = dict(os.environ, KRB5_CONFIG=str(realm.krb5_config),
               KRB5_KTNAME=str(realm.keytab), KRB5RCACHEDIR=str(folder),
               NTLM_USER_FILE=str(users))
    argv = [SYSTEM_PYTHON, "-u", str(HERE / "gss_acceptor.py"), str(port), mech]
    argv += ["--bindings", bindings.hex()] if bindings is not None else []
    argv += ["--echo", echo] if echo else []
    argv += ["--demand"] if demand else []
    argv += ["--key"] if key else []
    with _running("gss_acceptor", argv, folder, [port], env=env):
        yield Acceptor("localhost", port, "host/localhost",
                       folder / "gss_acceptor.log")


def results(acceptor, count):
    """Return what *acceptor* reported, a list of dicts, once there are *count*."""
    return [json.loads(line) for line in lines(acceptor.log, "{", count)]


def lines(log, start, count):
    """Return the lines of the file *log* that so start, once there are *count*."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = [line for line in log.read_text("utf-8").splitlines()
                 if line.startswith(start)]
        if len(found) >= count:
            return found
        time.sleep(0.02)
    raise LabError("%s did not report %d clients: see %s" % (log.stem, count, log))


# -- Tickets -------------------------------------------------------------------

def kinit(server, user, ccache, lifetime="1h"):
    """Put a ticket of *user* into the file *ccache* and return its environment.

    *server* is a Domain or a Realm. The environment is for programs that should
    see this ticket as "the current logon".
    """
    env = dict(os.environ, KRB5_CONFIG=str(server.krb5_config),
               KRB5CCNAME="FILE:%s" % ccache)
    _run(["kinit", "-l", lifetime, "%s@%s" % (user, server.realm)],
         Path("%s.log" % ccache), env=env, stdin=server.users[user] + "\n")
    return env


def expired_ticket(server, user, ccache):
    """Like kinit(), but the ticket is no longer valid. Blocks: two seconds."""
    env = kinit(server, user, ccache, lifetime="1s")
    time.sleep(2)
    return env


def free_port():
    """Return a TCP port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# -- Their configuration -------------------------------------------------------

# Nothing may depend on DNS, nor on what this machine calls itself.
_KRB5_CONF = """\
[libdefaults]
    default_realm = {realm}
    default_ccache_name = FILE:{folder}/ccache
    dns_lookup_kdc = false
    dns_lookup_realm = false
    dns_canonicalize_hostname = false
    rdns = false
[realms]
    {realm} = {{
        kdc = 127.0.0.1:{port}
    }}
[domain_realm]
{hosts}
"""

_KDC_CONF = """\
[kdcdefaults]
    kdc_listen = 127.0.0.1:{port}
    kdc_tcp_listen = 127.0.0.1:{port}
[realms]
    LAB.TEST = {{
        database_name = {folder}/principal
        key_stash_file = {folder}/stash
        acl_file = {folder}/acl
        max_renewable_life = 7d
    }}
[logging]
    default = STDERR
"""

_SMB_CONF = """\
[global]
    netbios name = DC1
    realm = AD.TEST
    workgroup = ADT
    server role = active directory domain controller
    server services = ldap cldap kdc
    interfaces = lo
    bind interfaces only = yes
    vfs objects = dfs_samba4 acl_xattr xattr_tdb
    ldap server require strong auth = {strong}
    tls certfile = {certificate}
    tls keyfile = {key}
    tls cafile = {certificate}
    private dir = {folder}/private
    state directory = {folder}/state
    cache directory = {folder}/cache
    lock directory = {folder}/lock
    pid directory = {folder}/run
    ncalrpc dir = {folder}/ncalrpc
    binddns dir = {folder}/bind-dns
    log file = {folder}/log.%m
[sysvol]
    path = {folder}/state/sysvol
[netlogon]
    path = {folder}/state/sysvol/ad.test/scripts
"""

# One Location with both mechanisms does not work: without GssapiCredStore there
# is no Kerberos, and with it no NTLM. NTLM authenticates the connection, hence
# GssapiConnectionBound.
_HTTPD_CONF = """\
ServerRoot {folder}
ServerName localhost
DefaultRuntimeDir {folder}
PidFile {folder}/httpd.pid
ErrorLog {folder}/error.log
LogLevel info
Mutex pthread
Listen 127.0.0.1:{port}
Listen 127.0.0.1:{tls_port}
KeepAlive On
KeepAliveTimeout 60
DocumentRoot {folder}/www
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authn_core_module /usr/lib/apache2/modules/mod_authn_core.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule authz_user_module /usr/lib/apache2/modules/mod_authz_user.so
LoadModule auth_gssapi_module /usr/lib/apache2/modules/mod_auth_gssapi.so
LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
LoadModule headers_module /usr/lib/apache2/modules/mod_headers.so
LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
<Location /krb>
    AuthType GSSAPI
    AuthName krb
    GssapiCredStore keytab:{keytab}
    GssapiAllowedMech krb5
    Require valid-user
    Header set X-Remote-User expr=%{{REMOTE_USER}}
</Location>
<Location /ntlm>
    AuthType GSSAPI
    AuthName ntlm
    GssapiAllowedMech ntlmssp
    GssapiConnectionBound On
    Require valid-user
    Header set X-Remote-User expr=%{{REMOTE_USER}}
</Location>
<VirtualHost 127.0.0.1:{tls_port}>
    SSLEngine on
    SSLCertificateFile {certificate}
    SSLCertificateKeyFile {key}
</VirtualHost>
"""

_SQUID_CONF = """\
http_port 127.0.0.1:{port}
visible_hostname localhost
auth_param negotiate program /usr/lib/squid/negotiate_kerberos_auth \
-k {keytab} -s GSS_C_NO_NAME
auth_param negotiate children 2 startup=1 idle=1
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
access_log stdio:{folder}/access.log
cache_log {folder}/cache.log
coredump_dir {folder}
pid_filename none
netdb_filename none
cache deny all
memory_cache_shared off
pinger_enable off
max_filedescriptors 1024
shutdown_lifetime 0 seconds
"""


def _krb5_config(folder, realm, port, hosts):
    path = folder / "krb5.conf"
    lines = "\n".join("    %s = %s" % (host, realm) for host in hosts)
    path.write_text(_KRB5_CONF.format(folder=folder, realm=realm, port=port,
                                      hosts=lines))
    return path


def _certificate(folder, name):
    """Make a self-signed certificate for *name* and localhost; return both files."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    _run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
          "-subj", "/CN=" + name, "-keyout", str(key), "-out", str(certificate),
          "-addext", "subjectAltName=DNS:%s,DNS:localhost,IP:127.0.0.1" % name],
         folder / "openssl.log")
    return certificate, key


def _provision(folder, certificate, key, binds):
    """Fill *folder* with an empty domain and return the path of its smb.conf."""
    # Older Samba takes "yes" for: no SASL inside TLS at all. Newer takes the other
    # word for: SASL inside TLS without bindings, and warns that it is deprecated.
    strong = "yes" if binds else "allow_sasl_over_tls"
    (folder / "run").mkdir()
    (folder / "etc").mkdir()
    config = folder / "etc" / "smb.conf"
    config.write_text(_SMB_CONF.format(folder=folder, certificate=certificate, key=key,
                                       strong=strong))
    _run(["samba-tool", "domain", "provision", "-s", str(config),
          "--realm=AD.TEST", "--domain=ADT", "--server-role=dc",
          "--dns-backend=NONE", "--adminpass=Secret123!", "--host-name=dc1",
          "--host-ip=127.0.0.1"], folder / "provision.log")
    return config


# -- Processes -----------------------------------------------------------------

_alive = []                         # what the net below has to catch


@contextlib.contextmanager
def _running(name, argv, folder, ports, user=None, env=None):
    """Run *argv* in the foreground until the block ends, then end all of it."""
    log = folder / (name + ".log")
    # The kernel ends the server when we die without a chance to clean up.
    wrapper = ["setpriv", "--pdeathsig", "TERM"]
    if user:
        _give(folder, user)
        wrapper += ["--reuid", user, "--regid", user, "--clear-groups"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            wrapper + argv, env=env, cwd=str(folder), start_new_session=True,
            stdin=subprocess.PIPE,  # Samba ends when its standard input does
            stdout=output, stderr=subprocess.STDOUT)
    _alive.append(process)
    try:
        _wait(name, process, ports, log)
        yield
    finally:
        _end(process)


def _wait(name, process, ports, log):
    deadline = time.monotonic() + PATIENCE
    for port in ports:
        while not _accepts(port):
            if process.poll() is not None:
                raise LabError("%s ended with status %d before it listened on port "
                               "%d: see %s" % (name, process.returncode, port, log))
            if time.monotonic() > deadline:
                raise LabError("%s does not listen on port %d after %d s: see %s"
                               % (name, port, PATIENCE, log))
            time.sleep(0.05)


def _accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _end(process):
    """End the process and everything that it started."""
    if process not in _alive:
        return
    _alive.remove(process)
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 5
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
            while time.monotonic() < deadline:
                process.poll()      # or it stays a zombie, and the group with it
                os.killpg(process.pid, 0)
                time.sleep(0.02)
    process.stdin.close()
    process.wait()


@atexit.register
def _end_all():
    for process in list(_alive):
        _end(process)


def _run(argv, log, stdin="", env=None):
    """Run a command that ends by itself; what it says goes to the file *log*."""
    with log.open("ab") as output:
        try:
            status = subprocess.run(
                argv, env=env, input=stdin.encode(), stdout=output,
                stderr=subprocess.STDOUT, timeout=120, check=False).returncode
        except subprocess.TimeoutExpired:
            status = "none after 120 s"
    if status != 0:
        raise LabError("%s failed (status %s): see %s" % (argv[0], status, log))


def _folder(folder):
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    return folder


def _give(folder, user):
    shutil.chown(str(folder), user, user)
    for path in folder.rglob("*"):
        shutil.chown(str(path), user, user)


# -- What the machine must have ------------------------------------------------

def samba_version():
    """Return Samba's version, (4, 22) for instance; () without a domain controller."""
    if not shutil.which("samba"):
        return ()
    said = subprocess.run(["samba", "--version"], stdout=subprocess.PIPE, check=True)
    return tuple(map(int, said.stdout.split()[1].split(b".")[:2]))


def missing():
    """Return the packages that are needed and not installed."""
    absent = _not_installed()
    if "samba" not in absent and not shutil.which("samba"):
        absent.append(CONTROLLER)
    return absent


def _not_installed():
    if not shutil.which("dpkg-query"):
        return list(PACKAGES)
    known = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"] + list(PACKAGES),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    there = known.stdout.decode().splitlines()
    return [package for package in PACKAGES if package + " installed" not in there]


def _require(ports):
    absent = missing()
    if absent:
        raise LabError("the lab lacks packages (%s): run `python tests/lab/servers.py "
                       "--install` as root on Debian" % " ".join(absent))
    _require_root()
    for port in ports:
        if _accepts(port):
            raise LabError("port %d on 127.0.0.1 is in use: `ss -ltnp` tells by whom"
                           % port)


def _require_root():
    if os.geteuid() != 0:
        raise LabError("the lab needs root: its servers run as users of their own")


def install():
    """Install what is missing, without letting Debian start any of it."""
    absent = missing()
    if not absent:
        return
    if not shutil.which("apt-get"):
        raise LabError("no apt-get here: the lab is made of Debian's packages")
    _require_root()
    apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300"]
    with _no_services():
        _insist(apt + ["update"])
        apt += ["install", "--no-install-recommends"]
        _insist(apt + absent)
        if missing() == [CONTROLLER]:       # which Debian 12 does not know
            _insist(apt + [CONTROLLER])


def _insist(argv):
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    for pause in (5, 15, 0):        # mirrors have bad moments
        if subprocess.run(argv, env=env, stdin=subprocess.DEVNULL,
                          check=False).returncode == 0:
            return
        time.sleep(pause)
    raise LabError("`%s` failed three times: its output is above" % " ".join(argv))


@contextlib.contextmanager
def _no_services():
    """Forbid package scripts to start services: they would hold our ports."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():             # somebody else's, who knows better
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


# -- For people ----------------------------------------------------------------

def _show(title, server):
    print("\n%s" % title)
    for field, value in zip(server._fields, server):
        print("  %-12s %s" % (field, value))


def _stay(folder):
    with contextlib.ExitStack() as stack:
        realm = stack.enter_context(mit_realm(folder / "realm", free_port()))
        _show("MIT realm", realm)
        _show("Apache", stack.enter_context(
            apache(folder / "apache", realm, free_port(), free_port())))
        _show("Squid", stack.enter_context(
            squid(folder / "squid", realm, free_port())))
        domain = stack.enter_context(samba_domain(folder / "samba"))
        _show("Samba domain", domain)
        print("\nexport KRB5_CONFIG=%s   (or %s)"
              % (realm.krb5_config, domain.krb5_config))
        print("Ctrl-C ends everything.", flush=True)
        signal.pause()


def _main(arguments):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        if arguments == ["--install"]:
            install()
        elif arguments:
            sys.exit(__doc__)
        else:
            with tempfile.TemporaryDirectory(prefix="lab-") as folder:
                os.chmod(folder, 0o755)
                _stay(Path(folder))
    except LabError as error:
        sys.exit("servers.py: %s" % error)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    _main(sys.argv[1:])
