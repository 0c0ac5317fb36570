"""Accept GSSAPI contexts on a socket and report each as a line of JSON.

Run by the system's Python, which has python3-gssapi. Messages are framed by a
4-byte little-endian length. Clients come one after the other; for each it prints,
after the client has gone,

    {"user": ..., "mech": ..., "bound": ..., "echoed": N}    or    {"error": ...}

Bindings that differ from ours are an error, but a client that gives none is let
in, by Kerberos and NTLM alike: "bound" tells. With --demand such a client is refused
too, by the library's own word (GSS_C_CHANNEL_BOUND_FLAG), as a server does that
requires Extended Protection. With --key the report has the session key, "key" in hex.
With --echo wrap it then unwraps each message and sends it back wrapped; with --echo
mic the client sends a message and its MIC, each in a frame, and gets the message back
with a MIC of ours.

    gss_acceptor.py PORT krb5|ntlmssp [--bindings HEX [--demand]] [--echo wrap|mic]
                    [--key]

Keys come from KRB5_KTNAME, NTLM's users from NTLM_USER_FILE.
"""
import argparse
import json
import socket
import struct

import gssapi
import gssapi.raw
from gssapi.raw import ChannelBindings, GSSError

MECHS = {"krb5": "1.2.840.113554.1.2.2", "ntlmssp": "1.3.6.1.4.1.311.2.2.10"}
# gssapi_ext.h, GSS_C_INQ_SSPI_SESSION_KEY
SESSION_KEY = gssapi.OID.from_int_seq("1.2.840.113554.1.2.2.5.5")
CHANNEL_BOUND = 0x800               # gssapi_ext.h, GSS_C_CHANNEL_BOUND_FLAG


def main():
    options = parse()
    mechs = [gssapi.OID.from_int_seq(MECHS[options.mech]),
             gssapi.OID.from_int_seq("1.3.6.1.5.5.2")]
    credential = gssapi.Credentials(usage="accept", mechs=mechs)
    with socket.create_server(("127.0.0.1", options.port)) as listener:
        while True:
            client, _ = listener.accept()
            with client, client.makefile("rwb") as stream:
                report = serve(stream, credential, options)
            if report is not None:
                print(json.dumps(report), flush=True)


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("mech", choices=sorted(MECHS))
    parser.add_argument("--bindings", type=bytes.fromhex)
    parser.add_argument("--demand", action="store_true")
    parser.add_argument("--key", action="store_true")
    parser.add_argument("--echo", choices=["wrap", "mic"])
    return parser.parse_args()


def serve(stream, credential, options):
    bindings = None
    if options.bindings is not None:
        bindings = ChannelBindings(application_data=options.bindings)
    try:
        context = accept(stream, credential, bindings)
        if context is None:         # somebody only looked whether we listen
            return None
        bound = bool(int(context.actual_flags) & CHANNEL_BOUND)
        if options.demand and not bound:
            return {"error": "the client gave no channel bindings"}
        report = {"user": str(context.initiator_name).rstrip("\0"),
                  "mech": name(context.mech), "bound": bound}
        if options.key:
            report["key"] = gssapi.raw.inquire_sec_context_by_oid(
                context, SESSION_KEY)[0].hex()
        return dict(report, echoed=echo(stream, context, options.echo))
    except (GSSError, OSError, EOFError) as error:
        return {"error": "%s: %s" % (type(error).__name__, error)}


def accept(stream, credential, bindings):
    context = gssapi.SecurityContext(creds=credential, usage="accept",
                                     channel_bindings=bindings)
    token = receive(stream)
    if token is None:
        return None
    while True:
        answer = context.step(token)
        if answer:
            send(stream, answer)
        if context.complete:
            return context
        token = receive(stream)
        if token is None:
            raise EOFError("the client left in the middle")


def echo(stream, context, how):
    count = 0
    while True:
        message = receive(stream)
        if message is None:
            return count
        if how == "wrap":
            plain, encrypted, _ = context.unwrap(message)
            send(stream, context.wrap(plain, encrypted).message)
        elif how == "mic":
            context.verify_signature(message, receive(stream))
            send(stream, message)
            send(stream, context.get_signature(message))
        count += 1


def name(mech):
    return {oid: mech for mech, oid in MECHS.items()}.get(mech.dotted_form,
                                                         mech.dotted_form)


def receive(stream):
    """Return the next frame, or None when the client has gone."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    return stream.read(struct.unpack("<I", head)[0])


def send(stream, message):
    stream.write(struct.pack("<I", len(message)) + message)
    stream.flush()


main()
