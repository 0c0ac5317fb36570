"""Authenticate to a server with sspi_client and report what came of it.

    python client.py < jobs.json        a list of jobs in, a list of reports out

Standard library and sspi_client only: it also runs with the Windows CPython on
Wine, which has nothing else. A job is a dict:

    to          "ldap", "http", "frames" (gss_acceptor.py), or "fake server"
    port        of the server, on localhost; cafile: TLS, and whom to trust in it
    target, package, flags, require, allow_ntlm     for authenticate()
    bindings    for authenticate(): text, or true: those of the server's certificate
    identity    [user, password, domain]; none: who is logged on
    ansi        True: as bytes of code page 1252; "convert": by Identity.from_ansi()
    fake        [name, {user: password}]: a FakeSecur32 of that domain instead of the
                DLL, or for "fake server" a FakeServer of it
    secur32     "sspi-rs": that instead of the DLL
    bare        True: the DLL's Kerberos as it is, see CallersBuffer
    layout      True: the DLL's Kerberos with its messages put right, see RightLayout
    keep        "key": report the context's session key in hex; "tokens": ours, in hex
    how         "seal", "sign": what messages to exchange; "bind alone": none by LDAP
    alter       "sent" or "received": messages that are changed on that way
    spoil       the kind of token, as mechanism() calls it, that is changed on its
                way to the server: the last byte, or the one at `at`
    path, scheme                            for "http"
    times       so many handshakes and nothing else, reported as soak.py does

The report says `package`, `granted` and what was `sent`; and then `proof`, what
the server said about us (ldap: the account's name; http: [status, user]), or
`refused` and `diagnosis`, or `error`: [status, function, leg].
"""
import base64
import contextlib
import ctypes
import http.client
import json
import socket
import ssl
import struct
import sys
from pathlib import Path

import sspi_client

PATIENCE = 20       # [s] for a server to answer


class Refused(Exception):
    """The server did not let us in, and gave this diagnosis."""

    def __init__(self, text, diagnosis=""):
        super().__init__(text)
        self.diagnosis = diagnosis


def main():
    print(json.dumps([run(job) for job in json.load(sys.stdin)]))


def run(job):
    return repeat(job) if "times" in job else once(job, backend(job))


def once(job, secur32):
    report = {"sent": [], "received": []}
    peer = PEERS[job["to"]](job)

    def exchange(token):
        kind = sspi_client.mechanism(token)
        report["sent"].append([kind, len(token)])
        if job.get("keep") == "tokens":
            report.setdefault("tokens", []).append(token.hex())
        octets = spoilt(token, job.get("at", -1)) if job.get("spoil") == kind else token
        reply = peer.exchange(octets, token.final)
        if reply:
            report["received"].append([sspi_client.mechanism(reply), len(reply)])
        return reply

    try:
        with sspi_client.drive(flow(job, secur32, peer), exchange) as context:
            report.update(package=context.package, granted=int(context.flags))
            if job.get("keep") == "key":
                report["key"] = context.session_key.hex()
            report["proof"] = peer.prove(context)
    except sspi_client.SspiError as error:
        report["error"] = [error.name, error.function, error.leg]
    except (Refused, OSError) as error:
        report["refused"] = str(error)
        report["diagnosis"] = getattr(error, "diagnosis", "")
    finally:
        peer.close()
    if isinstance(secur32, sspi_client.FakeSecur32):
        secur32.assert_clean()
    return report


def flow(job, secur32, peer=None):
    names = ("package", "flags", "require", "allow_ntlm")
    options = {name: job[name] for name in names if name in job}
    if job.get("bindings") is True:
        certificate = peer.socket.getpeercert(binary_form=True)
        options["channel_bindings"] = sspi_client.tls_server_end_point(certificate)
    elif "bindings" in job:
        options["channel_bindings"] = job["bindings"].encode()
    return sspi_client.authenticate(job["target"], identity(job), secur32=secur32,
                                    **options)


def backend(job):
    if "fake" in job and job["to"] != "fake server":
        return sspi_client.FakeSecur32(sspi_client.FakeDomain(*job["fake"]))
    if job.get("secur32") == "sspi-rs":
        sys.path.append(str(Path(__file__).resolve().parents[1]))
        import sspirs

        return sspirs.SspiRs()
    if job.get("layout"):
        return RightLayout(CallersBuffer(sspi_client.Secur32()))
    if job.get("bare") or job.get("package") == sspi_client.NTLM:
        return sspi_client.Secur32()
    return CallersBuffer(sspi_client.Secur32())


class CallersBuffer:
    """A secur32 that needs no ISC_REQ_ALLOCATE_MEMORY, made of one on Wine.

    Wine 8.0's Kerberos does not know that flag: it writes its token to a buffer of
    the caller or nowhere, and then answers SEC_E_INCOMPLETE_MESSAGE. So it gets
    one, without the flag. Neither Wine's NTLM nor Wine 10 nor Windows needs this.
    """

    def __init__(self, secur32):
        for name in sspi_client.PROTOTYPES:
            setattr(self, name, getattr(secur32, name))
        self.secur32 = secur32
        self.memory = ctypes.create_string_buffer(0x10000)
        self.InitializeSecurityContextW = self.initialize
        self.FreeContextBuffer = self.free

    def initialize(self, *arguments):
        arguments = list(arguments)
        arguments[3] &= ~sspi_client.ISC_REQ.ALLOCATE_MEMORY
        output = pointed_at(arguments[9]).pBuffers[0]
        output.pvBuffer = ctypes.addressof(self.memory)
        output.cbBuffer = len(self.memory)
        status = self.secur32.InitializeSecurityContextW(*arguments)
        if status & 0x80000000:             # then it left the length alone
            output.cbBuffer = 0
        return status

    def free(self, address):
        if address == ctypes.addressof(self.memory):
            return sspi_client.SEC_E_OK
        return self.secur32.FreeContextBuffer(address)


class RightLayout:
    """A secur32 whose Kerberos lays its messages out as Windows does, made of Wine's.

    Wine's EncryptMessage makes the right bytes of gss_wrap, but puts the first of them
    into DATA and the rest into TOKEN, and the rest is longer than the trailer that its
    SIZES announce. Its DecryptMessage wants the same two pieces, and knows no STREAM.
    """

    TRAILER = 60    # [bytes] that gss_wrap adds: RFC 4121, AES of 256 bits, sealed
    SIZES = 0       # sspi.h: SECPKG_ATTR_SIZES, then three SECBUFFER_ kinds
    DATA, TOKEN, STREAM = 1, 2, 10

    def __init__(self, secur32):
        for name in sspi_client.PROTOTYPES:
            setattr(self, name, getattr(secur32, name))
        self.secur32 = secur32
        self.QueryContextAttributesW = self.query
        self.EncryptMessage = self.encrypt
        self.DecryptMessage = self.decrypt

    def query(self, context, attribute, memory):
        status = self.secur32.QueryContextAttributesW(context, attribute, memory)
        if attribute == self.SIZES and status == 0:
            sizes = pointed_at(memory)
            sizes.cbBlockSize, sizes.cbSecurityTrailer = 1, self.TRAILER
        return status

    def encrypt(self, context, quality, message, number):
        status = self.secur32.EncryptMessage(context, quality, message, number)
        if status == 0:
            parts = self.parts(message)
            token, data = parts[self.TOKEN], parts[self.DATA]
            octets = content(data) + content(token)
            fill(token, octets[:token.cbBuffer])
            fill(data, octets[token.cbBuffer:])
            for kind, part in parts.items():
                if kind not in (self.TOKEN, self.DATA):
                    part.cbBuffer = 0       # padding, of which there is none
        return status

    def decrypt(self, context, message, number, quality):
        parts = self.parts(message)
        data = parts[self.DATA]
        if self.STREAM in parts:
            octets = content(parts[self.STREAM])
            data.pvBuffer = parts[self.STREAM].pvBuffer
        else:
            octets = content(parts[self.TOKEN]) + content(data)
        memory = ctypes.create_string_buffer(octets, len(octets))
        size, address = len(octets) - self.TRAILER, ctypes.addressof(memory)
        described = pointed_at(message)
        pieces = (type(data) * 2)((size, self.DATA, address),
                                  (self.TRAILER, self.TOKEN, address + size))
        status = self.secur32.DecryptMessage(
            context, ctypes.byref(type(described)(0, 2, pieces)), number, quality)
        if status == 0:
            data.cbBuffer = pieces[0].cbBuffer
            fill(data, content(pieces[0]))
        return status

    def parts(self, message):
        described = pointed_at(message)
        buffers = [described.pBuffers[i] for i in range(described.cBuffers)]
        return {part.BufferType & 0xFF: part for part in buffers}


def pointed_at(argument):
    """Return the structure that an argument of a call is, or refers to by byref()."""
    return getattr(argument, "_obj", argument)


def content(part):
    return ctypes.string_at(part.pvBuffer, part.cbBuffer)


def fill(part, octets):
    ctypes.memmove(part.pvBuffer, octets, len(octets))


def identity(job):
    parts = job.get("identity")
    if not parts:
        return None
    if not job.get("ansi"):
        return sspi_client.Identity(*parts)
    octets = [part.encode("cp1252") for part in parts]
    if job["ansi"] == "convert":
        return sspi_client.Identity.from_ansi(*octets)
    return sspi_client.Identity(*octets)


def spoilt(octets, at=-1):
    changed = bytearray(octets)
    changed[at] ^= 1
    return bytes(changed)


def altering(job):
    """Return a function that alters messages on the way that job["alter"] names."""
    return lambda way, octets: spoilt(octets) if job.get("alter") == way else octets


def connect(job):
    connection = socket.create_connection(("localhost", job["port"]), PATIENCE)
    if "cafile" not in job:
        return connection
    trust = ssl.create_default_context(cafile=job["cafile"])
    return trust.wrap_socket(connection, server_hostname="localhost")


def hang_up(*connection):
    for part in connection:
        with contextlib.suppress(OSError):  # the stream may hold what nobody reads
            part.close()


# -- LDAP: a SASL bind with GSS-SPNEGO, then: who am I? ------------------------

class Ldap:
    """RFC 4511. Once integrity is granted, every message is protected and framed."""

    def __init__(self, job):
        self.socket = connect(job)
        self.stream = self.socket.makefile("rwb")
        self.alter = altering(job)
        self.how, self.context = job.get("how"), None
        self.number, self.pending = 0, b""

    def exchange(self, token, final):
        credentials = ber(0xA3, ber(0x04, b"GSS-SPNEGO"), ber(0x04, token))
        self.send(ber(0x60, ber(0x02, b"\3"), ber(0x04), credentials))
        _, answer = self.receive()
        parts = list(items(answer))
        code = parts[0][1][0]
        if code not in (0, 14):             # success, saslBindInProgress
            raise Refused("LDAP result %d" % code, parts[2][1].decode())
        return dict(parts).get(0x87)        # serverSaslCreds

    def prove(self, context):
        """Return our account's name: what tokenGroups begins with, looked up."""
        if self.how == "bind alone":
            return "bound"
        if context.flags & (sspi_client.ISC_RET.INTEGRITY
                            | sspi_client.ISC_RET.CONFIDENTIALITY):
            self.context = context
        sid = self.read(b"", b"tokenGroups")
        return self.read(b"<SID=%s>" % sid.hex().encode(), b"sAMAccountName").decode()

    def read(self, base, attribute):
        """Return the first value of an attribute of the entry *base*."""
        self.send(ber(0x63, ber(0x04, base), ber(0x0A, b"\0"), ber(0x0A, b"\0"),
                      ber(0x02, b"\0"), ber(0x02, b"\0"), ber(0x01, b"\0"),
                      ber(0x87, b"objectClass"), ber(0x30, ber(0x04, attribute))))
        value = None
        while True:
            tag, answer = self.receive()
            if tag == 0x64:                 # SearchResultEntry: name, attributes
                (_, _), (_, attributes) = items(answer)
                for _, content in items(attributes):
                    (_, name), (_, values) = items(content)
                    value = next(items(values))[1]
            elif tag == 0x65:               # SearchResultDone
                code = next(items(answer))[1][0]
                if code or value is None:
                    raise Refused("LDAP search result %d" % code)
                return value

    def send(self, operation):
        self.number += 1
        message = ber(0x30, ber(0x02, bytes([self.number])), operation)
        if self.context:
            message = self.alter("sent", self.context.wrap(message))
            message = struct.pack(">I", len(message)) + message
        self.stream.write(message)
        self.stream.flush()

    def receive(self):
        if self.context:
            if not self.pending:
                frame = self.read_exactly(struct.unpack(">I", self.read_exactly(4))[0])
                self.pending = self.context.unwrap(self.alter("received", frame))
            _, message, self.pending = split(self.pending)      # several may share it
        else:
            head = self.read_exactly(2)
            if head[1] & 0x80:
                head += self.read_exactly(head[1] & 0x7F)
            length = int.from_bytes(head[2:], "big") if head[2:] else head[1]
            message = self.read_exactly(length)
        (_, _), (tag, content) = list(items(message))[:2]
        return tag, content

    def read_exactly(self, length):
        octets = self.stream.read(length)
        if len(octets) < length:
            raise Refused("LDAP server hung up")
        return octets

    def close(self):
        hang_up(self.socket, self.stream)


def ber(tag, *contents):
    content = b"".join(contents)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    return bytes([tag, 0x84]) + struct.pack(">I", len(content)) + content


def split(data):
    """Return (tag, content, rest) of the first element of *data*."""
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    return data[0], data[start:start + length], data[start + length:]


def items(data):
    while data:
        tag, content, data = split(data)
        yield tag, content


# -- HTTP: Negotiate or NTLM on one connection ---------------------------------

class Http:
    def __init__(self, job):
        self.web = http.client.HTTPConnection("localhost", job["port"],
                                              timeout=PATIENCE)
        self.path, self.scheme = job["path"], job.get("scheme", "Negotiate")
        self.seen = None

    def exchange(self, token, final):
        credentials = "%s %s" % (self.scheme, base64.b64encode(token).decode())
        self.web.request("GET", self.path, headers={"Authorization": credentials})
        response = self.web.getresponse()
        response.read()
        self.seen = [response.status, response.headers.get("X-Remote-User")]
        for offer in response.headers.get_all("WWW-Authenticate", []):
            scheme, _, reply = offer.partition(" ")
            if scheme == self.scheme and reply:
                return base64.b64decode(reply)
        return None

    def prove(self, context):
        return self.seen

    def close(self):
        self.web.close()


# -- gss_acceptor.py: frames on a socket ---------------------------------------

class Frames:
    def __init__(self, job):
        self.socket = connect(job)
        self.stream = self.socket.makefile("rwb")
        self.how, self.alter = job.get("how"), altering(job)

    def exchange(self, token, final):
        self.send(token)
        return None if final else self.receive()

    def prove(self, context):
        """Have messages echoed and return how many came back unharmed."""
        count = 0
        for size in (1, 100, 20000) if self.how else ():    # gss-ntlmssp: not 0
            message = bytes(i % 251 for i in range(size))
            if self.how == "seal":
                self.send(self.alter("sent", context.wrap(message)))
                echo = context.unwrap(self.alter("received", self.receive()))
                count += echo == message and echo.encrypted
            else:
                self.send(message)
                self.send(self.alter("sent", context.sign(message)))
                echo = self.receive()
                context.verify(echo, self.alter("received", self.receive()))
                count += echo == message
        return count

    def send(self, message):
        self.stream.write(struct.pack("<I", len(message)) + message)
        self.stream.flush()

    def receive(self):
        head = self.stream.read(4)
        if len(head) < 4:
            raise Refused("the acceptor hung up")
        return self.stream.read(struct.unpack("<I", head)[0])

    def close(self):
        hang_up(self.socket, self.stream)


# -- FakeServer, in this process -----------------------------------------------

class InProcess:
    def __init__(self, job):
        self.server = sspi_client.FakeServer(sspi_client.FakeDomain(*job["fake"]))
        self.how = job.get("how")

    def exchange(self, token, final):
        try:
            return self.server.accept(token)
        except sspi_client.SspiError as error:
            raise Refused(error.name) from error

    def prove(self, context):
        """Send messages both ways and return whom the server took us for."""
        server = self.server
        for size in (0, 1, 100, 20000):
            message = bytes(i % 251 for i in range(size))
            if self.how == "seal":
                pair = [server.unwrap(context.wrap(message)),
                        context.unwrap(server.wrap(message)),
                        server.unseal(*context.seal(message)),
                        context.unseal(*server.seal(message))]
                assert pair == [message] * 4, "a message came out changed"
            elif self.how == "sign":
                server.verify(message, context.sign(message))
                context.verify(message, server.sign(message))
        return server.user

    def close(self):
        pass


PEERS = {"ldap": Ldap, "http": Http, "frames": Frames, "fake server": InProcess}


# -- Many times ----------------------------------------------------------------

def repeat(job):
    """Make job["times"] handshakes and return what soak.py has to say of them."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "wine"))
    import soak

    peers, backends = [], []

    def new_flow(ledger):
        if not backends:        # its buffer is to be the same all the time
            backends.append(CallersBuffer(ledger))
        return flow(job, backends[0])

    def new_exchange():
        while peers:
            peers.pop().close()
        peers.append(PEERS[job["to"]](job))
        return lambda token: peers[0].exchange(token, token.final)

    report = soak.soak(new_flow, new_exchange, job["times"])
    peers.pop().close()
    return report


if __name__ == "__main__":
    main()
