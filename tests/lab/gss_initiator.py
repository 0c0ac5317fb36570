"""A GSSAPI initiator, run by the system's python3: gss-ntlmssp as a client.

    python3 gss_initiator.py ntlmssp|spnego FLAGS <frames >frames

The first frame that comes in is "user NUL password". Then tokens go out and come in,
each behind its length. "done" ends the handshake; from then on each frame that comes
in is unwrapped, wrapped again and sent back.
"""

import struct
import sys

import gssapi
from gssapi.raw import acquire_cred_with_password

OIDS = {"ntlmssp": "1.3.6.1.4.1.311.2.2.10", "spnego": "1.3.6.1.5.5.2"}


def receive():
    head = sys.stdin.buffer.read(4)
    if len(head) < 4:
        return None
    return sys.stdin.buffer.read(struct.unpack("<I", head)[0])


def send(frame):
    sys.stdout.buffer.write(struct.pack("<I", len(frame)) + frame)
    sys.stdout.buffer.flush()


def main(mech, flags):
    mechs = {name: gssapi.OID.from_int_seq(oid) for name, oid in OIDS.items()}
    user, _, password = receive().partition(b"\0")
    name = gssapi.Name(user.decode(), gssapi.NameType.user)
    credential = acquire_cred_with_password(
        name, password, mechs=list(mechs.values()), usage="initiate"
    ).creds
    context = gssapi.SecurityContext(
        name=gssapi.Name("HTTP@web", gssapi.NameType.hostbased_service),
        creds=gssapi.Credentials(credential), mech=mechs[mech], usage="initiate",
        flags=int(flags),
    )  # fmt: skip
    reply = None
    while True:
        token = context.step(reply)
        if token:
            send(token)
        if context.complete:
            break
        reply = receive()
    send(b"done")
    while True:
        sealed = receive()
        if not sealed:
            return
        send(context.wrap(context.unwrap(sealed).message, True).message)


main(*sys.argv[1:])
