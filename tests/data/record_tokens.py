"""Record tokens.json: what real implementations send, for tests of mechanism().

    unshare --uts sh -c 'hostname lab; python tests/data/record_tokens.py'

Needs root, tests/lab/servers.py --install and tests/wine/windows.py --setup-only.
The realm, its user and her password exist for the minute that this takes. The
name of the machine is in some tokens; unshare gives it one that says nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

DATA = Path(__file__).resolve().parent
TESTS = DATA.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS / "lab"), str(TESTS / "wine")]

import servers  # noqa: E402
import windows  # noqa: E402

import sspi_client  # noqa: E402

PASSWORD = servers.USERS["alice"]
ABOUT = "Tokens of real handshakes on Debian 12, made by record_tokens.py: see there."

# Both ends in one process, run by the system's Python, which has python3-gssapi.
# Prints the tokens of one handshake, and on a refusal the acceptor's last one.
# arguments: mechanism, what the initiator has, what the acceptor has, target.
GSSAPI = """\
import json, sys, gssapi
from gssapi.raw import acquire_cred_with_password
MECHS = {"krb5": "1.2.840.113554.1.2.2", "ntlmssp": "1.3.6.1.4.1.311.2.2.10",
         "spnego": "1.3.6.1.5.5.2"}
mech, has, target = [*map(MECHS.get, sys.argv[1:3]), sys.argv[3]]
mech, has = map(gssapi.OID.from_int_seq, (mech, has))
user = gssapi.Name("LAB\\\\alice", gssapi.NameType.user)
ours = acquire_cred_with_password(user, PASSWORD, mechs=[has, mech],
    usage="initiate").creds if "ntlmssp" in sys.argv[1:3] else None
theirs = gssapi.Credentials(usage="accept", mechs=[has, mech])
flags = gssapi.RequirementFlag
client = gssapi.SecurityContext(usage="initiate", mech=mech, creds=ours,
    name=gssapi.Name(target, gssapi.NameType.hostbased_service),
    flags=[flags.mutual_authentication, flags.integrity, flags.confidentiality])
server = gssapi.SecurityContext(usage="accept", creds=theirs)
client.__DEFER_STEP_ERRORS__ = server.__DEFER_STEP_ERRORS__ = False
tokens, token, turn = [], None, client
while True:
    try:
        token = turn.step(token)
    except gssapi.exceptions.GSSError as refused:
        tokens.append(refused.token.hex())
        break
    if not token:
        break
    tokens.append(token.hex())
    turn = client if turn is server else server
    if turn.complete:
        break
print(json.dumps(tokens))
"""

# Run by a Windows CPython. arguments: target, package, user and password or "".
WINE = """\
import json, sys
sys.path.insert(0, LAB)
import client, sspi_client
target, package, user, password = sys.argv[1:]
identity = sspi_client.Identity(user, password) if user else None
tokens, wine = [], sspi_client.Secur32()
flow = sspi_client.authenticate(target, identity, package=package,
    secur32=wine if user else client.CallersBuffer(wine))
server = sspi_client.FakeServer(sspi_client.FakeDomain("LAB", {"alice": password}))
token = next(flow)
tokens.append(token.hex())
if user:
    tokens.append(flow.send(server.accept(token)).hex())
flow.close()
print(json.dumps(tokens))
"""


def main():
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        os.chmod(folder, 0o755)
        with servers.mit_realm(Path(folder) / "realm", servers.free_port()) as realm:
            recorded = list(record(realm, Path(folder)))
    tokens = [
        {"name": name, "made_by": made_by, "is": meant, "hex": token}
        for name, made_by, meant, token in recorded
    ]
    text = json.dumps({"about": ABOUT, "tokens": tokens}, indent=1)
    (DATA / "tokens.json").write_text(text + "\n", "ascii")


def record(realm, folder):
    env = servers.kinit(realm, "alice", folder / "ccache")
    users = folder / "ntlm-users"
    users.write_text(f"LAB:alice:{PASSWORD}\n")
    env.update(KRB5_KTNAME=str(realm.keytab), KRB5RCACHEDIR=str(folder),
               NTLM_USER_FILE=str(users), NETBIOS_COMPUTER_NAME="LAB")
    mit = version("libgssapi-krb5-2", "MIT Kerberos")
    ntlm = version("gss-ntlmssp", "gss-ntlmssp")

    yield from zip(
        ("mit-ap-req", "mit-ap-rep"), (mit, mit),
        ("Kerberos AP-REQ", "Kerberos AP-REP"),
        gssapi(env, "krb5", "krb5", "HTTP@localhost"),
    )
    yield from zip(
        ("mit-init-kerberos", "mit-resp-kerberos"), (mit, mit),
        ("SPNEGO NegTokenInit (Kerberos, NTLM): Kerberos AP-REQ",
         "SPNEGO NegTokenResp (accept-completed): Kerberos AP-REP"),
        gssapi(env, "spnego", "krb5", "HTTP@localhost"),
    )
    yield from zip(
        ("ntlmssp-negotiate", "ntlmssp-challenge", "ntlmssp-authenticate"),
        (ntlm,) * 3, ("NTLM NEGOTIATE", "NTLM CHALLENGE", "NTLM AUTHENTICATE"),
        gssapi(env, "ntlmssp", "ntlmssp", "HTTP@localhost"),
    )
    kinds = (
        "SPNEGO NegTokenInit (NTLM): NTLM NEGOTIATE",
        "SPNEGO NegTokenResp (accept-incomplete): NTLM CHALLENGE",
        "SPNEGO NegTokenResp (accept-incomplete): NTLM AUTHENTICATE",
        "SPNEGO NegTokenResp (accept-completed)",
    )
    names = [f"mit-{end}-ntlm-{leg}" for leg in (1, 2) for end in ("init", "resp")]
    inside = f"{ntlm}, in the SPNEGO of {mit}"
    yield from zip(names, (inside,) * 4, kinds,
                   gssapi(env, "spnego", "ntlmssp", "HTTP@localhost"))

    # The acceptor has the key of another service alone: KRB_AP_ERR_NOT_US, 35.
    other = folder / "other.keytab"
    subprocess.run(["kadmin.local", "-q", f"ktadd -k {other} ldap/localhost"], env=dict(
        env, KRB5_KDC_PROFILE=str(folder / "realm" / "kdc.conf")), check=True,
        stdout=subprocess.DEVNULL)
    wrong = dict(env, KRB5_KTNAME=str(other))
    _, error = gssapi(wrong, "krb5", "krb5", "HTTP@localhost")
    yield "mit-krb-error", mit, "Kerberos KRB-ERROR 35", error
    _, error = gssapi(wrong, "spnego", "krb5", "HTTP@localhost")
    meant = "SPNEGO NegTokenResp (reject): Kerberos KRB-ERROR 35"
    yield "mit-resp-krb-error", mit, meant, error

    wine = version("wine", "Wine")
    samba = f"{wine}, by {version('winbind', 'ntlm_auth of Samba')}"
    for package in ("NTLM", "Negotiate"):
        legs = ("negotiate", "authenticate")
        names = [f"wine-{package.lower()}-{leg}" for leg in legs]
        yield from zip(
            names,
            (samba,) * 2, ("NTLM NEGOTIATE", "NTLM AUTHENTICATE"),
            on_wine({"KRB5CCNAME": str(folder / "none")}, "HTTP/printer.lab.test",
                    package, "LAB\\alice", PASSWORD),
        )
    ticket = {name: env[name] for name in ("KRB5_CONFIG", "KRB5CCNAME")}
    for package in ("Kerberos", "Negotiate"):
        [token] = on_wine(ticket, "HTTP/localhost", package, "", "")
        yield (f"wine-{package.lower()}-ap-req", f"{wine}, by {mit}",
               "Kerberos AP-REQ", token)

    yield from fake()


def fake():
    """Handshakes of the fake in all its forms."""
    made_by = f"the fake of sspi_client {sspi_client.__version__}"
    dce_style = sspi_client.ISC_REQ.USE_DCE_STYLE
    ntlm = ("NTLM NEGOTIATE", "NTLM CHALLENGE", "NTLM AUTHENTICATE")
    kerberos = ("Kerberos AP-REQ", "Kerberos AP-REP")
    for label, target, package, flags, kinds in (
        ("ntlm", "HTTP/printer.lab.test", "NTLM", 0, ntlm),
        ("kerberos", "HTTP/web.lab.test", "Kerberos", 0, kerberos),
        ("dce", "HTTP/web.lab.test", "Kerberos", dce_style,
         (*kerberos, "Kerberos AP-REP")),
        ("spnego-ntlm", "HTTP/printer.lab.test", "Negotiate", 0, (
            "SPNEGO NegTokenInit (NTLM): NTLM NEGOTIATE",
            "SPNEGO NegTokenResp (accept-incomplete): NTLM CHALLENGE",
            "SPNEGO NegTokenResp (accept-incomplete): NTLM AUTHENTICATE",
            "SPNEGO NegTokenResp (accept-completed)")),
        ("spnego-kerberos", "HTTP/web.lab.test", "Negotiate", 0, (
            "SPNEGO NegTokenInit (MS-Kerberos, Kerberos, NEGOEX, NTLM): "
            "Kerberos AP-REQ",
            "SPNEGO NegTokenResp (accept-completed): Kerberos AP-REP")),
    ):
        world = sspi_client.FakeDomain("LAB", {"alice": PASSWORD},
                                       ["HTTP/web.lab.test"])
        server, seen = sspi_client.FakeServer(world), []

        def exchange(token, server=server, seen=seen):
            seen.extend([token, server.accept(token)])
            return seen[-1]

        flow = sspi_client.authenticate(
            target, package=package, flags=sspi_client.DEFAULT_FLAGS | flags,
            secur32=sspi_client.FakeSecur32(world, logon="alice"))
        sspi_client.drive(flow, exchange).close()
        tokens = list(filter(None, seen))
        if len(tokens) != len(kinds):
            sys.exit(f"{label}: {len(tokens)} tokens, where {len(kinds)} are due")
        for leg, (kind, token) in enumerate(zip(kinds, tokens), 1):
            yield f"fake-{label}-{leg}", made_by, kind, token.hex()


def gssapi(env, *arguments):
    code = GSSAPI.replace("PASSWORD", repr(PASSWORD.encode()))
    return ask([servers.SYSTEM_PYTHON, "-c", code, *arguments], env)


def on_wine(env, *arguments):
    code = WINE.replace("LAB)", repr(windows.windows_path(TESTS / "lab")) + ")")
    done = windows.python("3.13").run(["-c", code, *arguments], env, timeout=120)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def ask(command, env):
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def version(package, name):
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", package],
        stdout=subprocess.PIPE, check=True, universal_newlines=True).stdout
    return f"{name} {asked}"


if __name__ == "__main__":
    main()
