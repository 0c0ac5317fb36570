"""Real mail servers for the tests to log on to: Dovecot, and Exim for SMTP.

As the servers of servers.py. Dovecot asks for Kerberos by GSSAPI, with keys of its own
in the realm, and for NTLM through Samba's ntlm_auth, which is told one user's
password instead of asking a domain controller. Exim is an SMTP server that lets nobody
log on outside of TLS, and asks Dovecot about its clients. Neither looks at bindings.
"""
import collections
import contextlib
import os
import shutil

import servers

NTLM_USER = "alice"                 # the only one that NTLM knows here

PACKAGES = ("exim4-daemon-heavy",)  # beside servers.PACKAGES: it has `dovecot`

Mail = collections.namedtuple("Mail", "host port smtp_port target smtp_target domain "
                                      "imaps_port smtps_port certificate auth")
Smtp = collections.namedtuple("Smtp", "host port tls_port certificate domain log")


@contextlib.contextmanager
def dovecot(folder, realm, port, smtp_port):
    """Run Dovecot for *realm*, and for NTLM_USER by NTLM; yield its Mail.

    Whoever is let in has an empty mailbox, and may send no mail: there is no relay.
    """
    servers._require((port, smtp_port))
    folder = servers._folder(folder)
    (folder / "run").mkdir()
    (folder / "boxes").mkdir()
    shutil.chown(str(folder / "boxes"), "nobody", "nogroup")
    imaps_port, smtps_port = servers.free_port(), servers.free_port()
    certificate, key = servers._certificate(folder, "localhost")
    auth = folder / "auth"
    keytab = _keytab(folder, realm, ["imap/localhost", "smtp/localhost"])
    helper = folder / "ntlm_auth"
    helper.write_text(_HELPER.format(
        domain=realm.netbios, user=NTLM_USER, password=realm.users[NTLM_USER]))
    helper.chmod(0o755)
    config = folder / "dovecot.conf"
    config.write_text(_DOVECOT_CONF.format(
        folder=folder, keytab=keytab, helper=helper, port=port, smtp_port=smtp_port,
        imaps_port=imaps_port, smtps_port=smtps_port, certificate=certificate,
        key=key, auth=auth))
    env = dict(os.environ, KRB5_CONFIG=str(realm.krb5_config),
               KRB5RCACHEDIR=str(folder))
    argv = ["dovecot", "-F", "-c", str(config)]
    ports = [port, smtp_port, imaps_port, smtps_port]
    with servers._running("dovecot", argv, folder, ports, env=env):
        yield Mail("localhost", port, smtp_port, "imap/localhost", "smtp/localhost",
                   realm.netbios, imaps_port, smtps_port, certificate, auth)


@contextlib.contextmanager
def exim(folder, dovecot, port, tls_port):
    """Run Exim, which asks *dovecot* who may log on; yield its Smtp.

    It takes mail for everybody and throws it away.
    """
    servers._require((port, tls_port))
    if not shutil.which("exim4"):
        raise servers.LabError("the lab lacks packages (%s): apt-get install them"
                               % " ".join(PACKAGES))
    folder = servers._folder(folder)
    certificate, key = servers._certificate(folder, "localhost")
    (folder / "spool").mkdir()
    servers._give(folder, "Debian-exim")
    config = folder / "exim.conf"
    config.write_text(_EXIM_CONF.format(
        folder=folder, auth=dovecot.auth, port=port, tls_port=tls_port,
        certificate=certificate, key=key))
    argv = ["exim4", "-bdf", "-C", str(config)]
    with servers._running("exim4", argv, folder, [port, tls_port]):
        yield Smtp("localhost", port, tls_port, certificate, dovecot.domain,
                   folder / "mainlog")


def _keytab(folder, realm, services):
    """Give *services* keys in the realm, and return the file that holds them."""
    keytab = folder / "mail.keytab"
    env = dict(os.environ, KRB5_CONFIG=str(realm.krb5_config),
               KRB5_KDC_PROFILE=str(realm.krb5_config.parent / "kdc.conf"))
    for service in services:
        for command in ("addprinc -randkey " + service,
                        "ktadd -k %s %s" % (keytab, service)):
            servers._run(["kadmin.local", "-q", command], folder / "keys.log", env=env)
    return keytab


# Dovecot gives it the protocol; the rest makes it need no winbindd.
_HELPER = """\
#!/bin/sh
exec /usr/bin/ntlm_auth "$@" --configfile=/dev/null \
--domain={domain} --username={user} --password={password}
"""

# Debian's own configuration is not read. Everything runs as root or as Dovecot's
# own users; chroot would need a place of its own. The passdb says that whom a
# mechanism has let in may come in; no mechanism here takes a password as it is.
# $ALL lets a client name any key of the keytab: by itself Dovecot wants
# submission/localhost where the rest of the world says smtp.
_DOVECOT_CONF = """\
base_dir = {folder}/run
state_dir = {folder}/run
log_path = /dev/stderr
auth_verbose = yes
auth_failure_delay = 0
protocols = imap submission
listen = 127.0.0.1
hostname = localhost
ssl = yes
ssl_cert = <{certificate}
ssl_key = <{key}
auth_mechanisms = gssapi ntlm
auth_krb5_keytab = {keytab}
auth_gssapi_hostname = "$ALL"
auth_use_winbind = yes
auth_winbind_helper_path = {helper}
auth_username_format = %n
first_valid_uid = 1
mail_location = maildir:{folder}/boxes/%n
submission_relay_host = 127.0.0.1
submission_relay_port = 9
passdb {{
  driver = static
  args = nopassword=yes
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={folder}/boxes/%n allow_all_users=yes
}}
service auth {{
  user = root
  unix_listener {auth} {{
    mode = 0666
  }}
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = {imaps_port}
    ssl = yes
  }}
}}
service submission-login {{
  chroot =
  inet_listener submission {{
    port = {smtp_port}
  }}
  inet_listener submissions {{
    port = {smtps_port}
    ssl = yes
  }}
}}
"""

_EXIM_CONF = """\
spool_directory = {folder}/spool
log_file_path = {folder}/%slog
pid_file_path = {folder}/exim.pid
primary_hostname = localhost
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port} : {tls_port}
tls_on_connect_ports = {tls_port}
tls_advertise_hosts = *
tls_certificate = {certificate}
tls_privatekey = {key}
auth_advertise_hosts = ${{if eq{{$tls_in_cipher}}{{}}{{}}{{*}}}}
rfc1413_query_timeout = 0s
keep_environment =
acl_smtp_rcpt = known
begin acl
known:
  accept authenticated = *
  deny message = who are you
begin routers
away:
  driver = redirect
  data = :blackhole:
begin authenticators
gssapi:
  driver = dovecot
  public_name = GSSAPI
  server_socket = {auth}
  server_set_id = $auth1
ntlm:
  driver = dovecot
  public_name = NTLM
  server_socket = {auth}
  server_set_id = $auth1
"""
