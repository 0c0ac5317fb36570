"""Feed damaged tokens to the client, seeded: python tests/fuzz.py --cases 200000

    python tests/fuzz.py --seconds 60 --seed 7   # or --cases, or --bytes
    python tests/fuzz.py --seed 7 --only 123456  # one case again, with its traceback
    python tests/fuzz.py --dll --cases 2000      # on Windows: against secur32.dll
    python tests/fuzz.py --wine --cases 2000     # on Linux: the same, on Wine's

Each case is one handshake in which one token is damaged: the server's reply of
some leg, or a message after the handshake; sometimes the client's token, which
the fake's server must survive, or a certificate. Damage knows the structure:
fields, flags and AV pairs of NTLM, the DER elements of SPNEGO and Kerberos with
their lengths, negState, supportedMech, mechListMIC; and plain bytes.

What must hold, whatever comes: a flow ends in a Context or an SspiError and in
nothing else; both sides then have the same key; nothing stays alive in the fake
and no crime is noted; no NTLM leaves a flow that forbids it; a damaged message
is refused, and the genuine one is still accepted after it; no error tells bytes
of a token.

A case is decided by the seed and its number alone, the fake's random numbers and
clock included, so the digest at the end is the same on every machine (not with
the DLL, which has random numbers of its own). The exit status is 1 when there is
a finding; it says how to run that case again.
"""

import argparse
import collections
import faulthandler
import hashlib
import random
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import contract  # noqa: E402

import sspi_client  # noqa: E402
from sspi_client import DEFAULT_FLAGS, ISC_REQ, Identity, SspiError  # noqa: E402

USERS = {"alice": "Secret123!", "bob": "P\xe4\xdfw\xf6rd"}
KERBEROS_SPN, NTLM_SPN = "HTTP/web.corp.test", "HTTP/printer.corp.test"
BINDINGS = b"tls-server-end-point:" + bytes(range(32))
DCE = DEFAULT_FLAGS | ISC_REQ.USE_DCE_STYLE
PATIENCE = 120  # [s] for CHECKED cases; more than that is a hang
CHECKED = 500

#: name -> target, package, flags, allow_ntlm
HANDSHAKES = {
    "ntlm": (NTLM_SPN, "NTLM", DEFAULT_FLAGS, True),
    "ntlm-unprotected": (NTLM_SPN, "NTLM", 0, True),
    "negotiate-ntlm": (NTLM_SPN, "Negotiate", DEFAULT_FLAGS, True),
    "negotiate-kerberos": (KERBEROS_SPN, "Negotiate", DEFAULT_FLAGS, True),
    "negotiate-kerberos-only": (KERBEROS_SPN, "Negotiate", DEFAULT_FLAGS, False),
    "negotiate-dce": (KERBEROS_SPN, "Negotiate", DCE, True),
    "kerberos": (KERBEROS_SPN, "Kerberos", DEFAULT_FLAGS, True),
    "kerberos-dce": (KERBEROS_SPN, "Kerberos", DCE, True),
}
#: Without a controller, and with what Wine's NTLM can do.
DLL_HANDSHAKES = ("ntlm", "ntlm-unprotected", "negotiate-ntlm")


class Finding(Exception):
    """A promise that was broken."""


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, help="end after so many")
    parser.add_argument("--seconds", type=float, help="end after this time")
    parser.add_argument("--bytes", type=int, help="end after so much was damaged")
    parser.add_argument("--only", type=int, help="run the case of this number alone")
    parser.add_argument("--dll", action="store_true", help="against secur32.dll")
    parser.add_argument("--wine", action="store_true", help="--dll, on Wine")
    options = parser.parse_args(arguments)
    if options.wine:
        return on_wine(sys.argv[1:] if arguments is None else arguments)
    if not (options.cases or options.seconds or options.bytes):
        options.cases = 10000
    fuzzer = Fuzzer(options.seed, options.dll)
    if options.only is not None:
        return fuzzer.run([options.only])
    return fuzzer.run(
        range(options.cases or sys.maxsize), options.seconds, options.bytes
    )


def on_wine(arguments):
    sys.path.insert(0, str(ROOT / "tests" / "wine"))
    import windows

    words = ["--dll" if word == "--wine" else word for word in arguments]
    script = windows.windows_path(__file__)
    try:
        done = windows.python("3.13").run([script, *words])
    except windows.Missing as missing:
        print(f"fuzz.py: {missing}", file=sys.stderr)
        return 2
    print(done.stdout + done.stderr, end="")
    return done.returncode


class Fuzzer:
    def __init__(self, seed, dll=False):
        self.seed, self.dll = seed, dll
        self.names = DLL_HANDSHAKES if dll else tuple(HANDSHAKES)
        self.outcomes = collections.Counter()
        self.damaged = 0  # [bytes]
        self.digest = hashlib.sha256()
        self.domain = sspi_client.FakeDomain("CORP", USERS, [KERBEROS_SPN])
        if dll:
            self.secur32 = contract.Ledger(sspi_client.Secur32())
        else:
            self.secur32 = sspi_client.FakeSecur32(self.domain, logon="alice")
        self.rng = random.Random(0)
        # Its own random numbers and clock would make each run another one.
        sspi_client._random = lambda length: bytes(
            self.rng.getrandbits(8) for _ in range(length)
        )
        sspi_client._file_time = lambda: (0x01D9_0000_0000_0000).to_bytes(8, "little")
        self.corpus = self.genuine_replies()

    def genuine_replies(self):
        """Return handshake -> the server's replies when nothing is damaged."""
        corpus = {}
        for name in self.names:
            replies = []
            server = sspi_client.FakeServer(self.domain)

            def exchange(token, server=server, replies=replies):
                replies.append(server.accept(token))
                return replies[-1]

            sspi_client.drive(self.flow(name, None), exchange).close()
            corpus[name] = [reply for reply in replies if reply]
        return corpus

    def flow(self, name, bindings):
        target, package, flags, allow_ntlm = HANDSHAKES[name]
        identity = Identity("alice", USERS["alice"], "CORP") if self.dll else None
        return sspi_client.authenticate(
            target, identity, package=package, flags=flags, allow_ntlm=allow_ntlm,
            channel_bindings=bindings, secur32=self.secur32,
        )  # fmt: skip

    def run(self, numbers, seconds=None, limit=None):
        """Run cases until a bound is met, say how it went; return the exit status."""
        start, count, slowest = time.perf_counter(), 0, (0.0, 0)
        for number in numbers:
            began = time.perf_counter()
            if seconds and began - start > seconds or limit and self.damaged >= limit:
                break
            if count % CHECKED == 0:
                faulthandler.dump_traceback_later(PATIENCE, exit=True)
            try:
                outcome = self.case(number)
            except BaseException as problem:
                faulthandler.cancel_dump_traceback_later()
                if isinstance(problem, KeyboardInterrupt):
                    break
                self.report(number)
                return 1
            slowest = max(slowest, (time.perf_counter() - began, number))
            count += 1
            self.outcomes[outcome] += 1
            self.digest.update(f"{number} {outcome}\n".encode())
        faulthandler.cancel_dump_traceback_later()
        took = time.perf_counter() - start
        what = "secur32.dll" if self.dll else "the fake"
        print(
            f"{count:,} cases on {what}, seed {self.seed}: no finding "
            f"({self.damaged:,} damaged bytes, {took:.1f} s)"
        )
        for outcome, times in sorted(self.outcomes.items()):
            print(f"  {times:9,}  {outcome}")
        print(f"slowest case: number {slowest[1]}, {1000 * slowest[0]:.0f} ms")
        if not self.dll:
            print(f"digest: {self.digest.hexdigest()[:16]}")
        return 0

    def report(self, number):
        traceback.print_exc()
        again = f"python tests/fuzz.py --seed {self.seed} --only {number}"
        print(f"FINDING in case {number}; again with: {again}{' --dll' * self.dll}")

    # One case

    def case(self, number):
        """Run one case and name its outcome; raises whatever must not happen."""
        self.rng = rng = random.Random(f"{self.seed} {number}")
        self.last = b""
        if not self.dll and rng.random() < 0.02:
            return self.certificate(rng)
        name = rng.choice(self.names)
        bindings = BINDINGS if rng.random() < 0.2 and not self.dll else None
        legs = len(self.corpus[name])
        side = "client" if rng.random() < 0.15 and not self.dll else "server"
        # One leg more than there are replies: a message after the handshake.
        victim = rng.randrange(1, legs + 2)
        server = sspi_client.FakeServer(self.domain, bindings)
        sent = []

        def exchange(token):
            sent.append(token)
            if len(sent) > 12:
                raise Finding("a handshake that does not end")
            if not HANDSHAKES[name][3] and b"NTLMSSP" in token:
                raise Finding("NTLM left a flow that forbids it")
            if side == "client" and len(sent) == victim:
                token = self.damage(token, rng, name)
            reply = server.accept(token)
            if side == "server" and len(sent) == victim:
                reply = self.damage(reply or b"", rng, name)
            return reply

        try:
            context = sspi_client.drive(self.flow(name, bindings), exchange)
            with context:
                outcome = self.after(context, server, rng, side, victim > legs)
        except SspiError as refused:
            self.check_error(refused)
            outcome = f"refused, {refused.name}"
        self.check_clean()
        return f"{side} {'message' if victim > legs else f'leg {victim}'}: {outcome}"

    def damage(self, token, rng, name):
        damaged = damage(token, rng, self.corpus)
        self.damaged += len(damaged)
        self.last = damaged
        said = sspi_client.mechanism(damaged)
        if not (said.isascii() and said.isprintable()) or len(said) > 400:
            raise Finding(f"mechanism() says {said!r}")
        return damaged

    def after(self, context, server, rng, side, messages):
        """Look at a handshake that went through in spite of the damage."""
        if not server.complete:
            return "accepted by the client alone"  # the server's last word is lost
        protected = sspi_client.ISC_RET.INTEGRITY | sspi_client.ISC_RET.CONFIDENTIALITY
        if context.flags & protected != protected:
            return "accepted, unprotected"
        if not self.dll and context.session_key != server.session_key:
            raise Finding("both sides have ended, with different keys")
        if messages and side == "server":
            return self.message(context, server, rng)
        if server.unwrap(context.wrap(b"ping")) != b"ping":
            raise Finding("what the client wraps is not what the server unwraps")
        return "accepted, keys agree"

    def message(self, context, server, rng):
        """Hand a damaged message over, and then the genuine one."""
        text = bytes(rng.getrandbits(8) for _ in range(rng.choice((0, 1, 16, 300))))
        way = rng.choice(("wrap", "seal", "sign"))
        if way == "wrap":
            blob = server.wrap(text)
            damaged = self.damage(blob, rng, None)
            wrong, right = (
                (lambda: context.unwrap(damaged)),
                lambda: context.unwrap(blob),
            )
            same = damaged == blob
        elif way == "seal":
            token, cipher = server.seal(text)
            one, two = token, cipher
            if rng.random() < 0.5 or not cipher:
                one = self.damage(token, rng, None)
            else:
                two = self.damage(cipher, rng, None)
            wrong = lambda: context.unseal(one, two)  # noqa: E731
            right = lambda: context.unseal(token, cipher)  # noqa: E731
            same = (one, two) == (token, cipher)
        else:
            signature = server.sign(text)
            damaged = self.damage(signature, rng, None)
            wrong = lambda: context.verify(text, damaged)  # noqa: E731
            right = lambda: context.verify(text, signature)  # noqa: E731
            same = damaged == signature
        try:
            wrong()
        except SspiError as refused:
            self.check_error(refused)
            outcome = f"{way} refused, {refused.name}"
        else:
            if self.dll:  # Wine compares half of a signature: wine_differences.py
                return f"{way} accepted"
            if not same:
                raise Finding(f"a damaged message was accepted ({way})")
            return f"{way} accepted, the damage changed nothing"
        if not self.dll and right() not in (text, None):
            raise Finding("the genuine message opens to something else")
        return outcome

    def certificate(self, rng):
        damaged = damage(CERTIFICATE, rng, self.corpus)
        self.damaged += len(damaged)
        try:
            bindings = sspi_client.tls_server_end_point(damaged)
        except ValueError:
            return "certificate: refused"
        sspi_client.authenticate("x", channel_bindings=bindings, secur32=self.secur32)
        return "certificate: accepted"

    def check_error(self, refused):
        told = str(refused) + repr(refused)
        for at in range(0, len(self.last) - 7, 8):
            part = self.last[at : at + 8]
            shown = part.hex() in told or repr(part)[2:-1] in told
            if shown and repr(part)[2:-1] not in KERBEROS_SPN + NTLM_SPN:
                raise Finding(f"an error shows what is in a token: {told}")
        if not told.isascii():
            raise Finding(f"an error of strange characters: {told!a}")

    def check_clean(self):
        self.secur32.assert_clean()
        if not self.dll:
            self.secur32.calls.clear()


# -- Damage --------------------------------------------------------------------

NUMBERS = (0, 1, 2, 3, 7, 8, 15, 16, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFE,
           0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)  # fmt: skip
OIDS = [sspi_client._OID_SPNEGO, *sspi_client._MECHANISM_NAMES, b"", b"\x2a", b"\x80"]
TAGS = (0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0A, 0x1B, 0x30, 0x60, 0x61, 0x6E,
        0x6F, 0x7E, 0x80, 0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0xA6, 0xBF, 0xFF)  # fmt: skip


def damage(token, rng, corpus):
    """Return *token* damaged in one of the ways below, now and then in two."""
    for _ in range(1 if rng.random() < 0.8 else 2):
        ways = [damage_bytes, damage_bytes, substitute]
        if b"NTLMSSP\0" in token:
            ways += [damage_ntlm] * 4
        if token[:1] in (b"\x60", b"\xa1", b"\x6e", b"\x6f", b"\x30"):
            ways += [damage_der] * 5
        token = rng.choice(ways)(token, rng, corpus)
    return token


def damage_bytes(token, rng, corpus):
    result = bytearray(token)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(result) + 1)
        end = min(len(result), at + rng.choice((1, 1, 2, 4, 16, 100)))
        way = rng.randrange(8)
        if way == 0 and at < len(result):
            result[at] ^= 1 << rng.randrange(8)
        elif way == 1 and at < len(result):
            result[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif way == 2:
            del result[at:]  # cut off
        elif way == 3:
            result += bytes(rng.getrandbits(8) for _ in range(rng.choice((1, 2, 40))))
        elif way == 4:
            del result[at:end]
        elif way == 5:
            result[at:at] = result[at:end]  # twice
        elif way == 6:
            result[at:end] = bytes(end - at)
        else:
            number = rng.choice(NUMBERS)
            size = rng.choice((2, 4)) if number < 0x10000 else 4
            order = rng.choice(("little", "big"))
            result[at : at + size] = number.to_bytes(size, order)
    return bytes(result)


def substitute(token, rng, corpus):
    """Put another token in its place: of another handshake, or of none."""
    replies = [reply for found in corpus.values() for reply in found]
    way = rng.randrange(4)
    if way == 0:
        return rng.choice(replies)
    if way == 1:
        other = rng.choice(replies)
        at = rng.randrange(len(token) + 1)
        return token[:at] + other[min(at, len(other)) :]
    if way == 2:
        return bytes(rng.getrandbits(8) for _ in range(rng.choice((0, 1, 2, 16, 500))))
    return rng.choice(
        (b"\0", b"\0" * 48, b"NTLMSSP\0", b"\xa1\0", b"\x60\x80", b"TlRM")
    )


def damage_ntlm(token, rng, corpus):
    """Damage the NTLM message in *token*, and mend the DER around it if any."""
    nodes = parse(token)
    for node in every(nodes):
        if isinstance(node.content, bytes) and node.content[:8] == b"NTLMSSP\0":
            node.content = _ntlm(node.content, rng)
            return encode(nodes)
    return _ntlm(token, rng)


#: Where the (length, maximum, offset) of fields are: CHALLENGE and AUTHENTICATE.
NTLM_FIELDS = {2: (12, 40), 3: (12, 20, 28, 36, 44, 52)}
NTLM_FLAGS = {1: 12, 2: 20, 3: 60}


def _ntlm(message, rng):
    kind = message[8] if len(message) > 8 else 0
    result = bytearray(message)
    way = rng.randrange(7)
    if way == 0 and kind in NTLM_FIELDS:
        at = rng.choice(NTLM_FIELDS[kind]) + rng.choice((0, 2, 4))
        size = 2 if at % 8 == 4 or at % 8 == 6 else 4
        number = rng.choice(
            (*NUMBERS, len(message), len(message) - 1, len(message) + 1)
        )
        result[at : at + size] = (number & (1 << 8 * size) - 1).to_bytes(size, "little")
    elif way == 1 and kind in NTLM_FLAGS:
        at = NTLM_FLAGS[kind]
        flags = int.from_bytes(result[at : at + 4], "little")
        for _ in range(rng.choice((1, 1, 2, 8))):
            flags ^= 1 << rng.randrange(32)
        result[at : at + 4] = flags.to_bytes(4, "little")
    elif way == 2:
        result[8:12] = rng.choice(NUMBERS).to_bytes(4, "little")  # another message
    elif way == 3:
        del result[
            rng.choice((8, 11, 12, 16, 20, 24, 32, 40, 47, 48, 55, 56, 64, 88)) :
        ]
    elif way == 4:
        at = rng.randrange(8)
        result[at] ^= 1 << rng.randrange(8)  # the signature
    elif kind == 2:
        return _av_list(message, rng)
    else:
        return damage_bytes(message, rng, {})
    return bytes(result)


def _av_list(message, rng):
    """Rebuild a CHALLENGE with another list of AV pairs at its end."""
    length = int.from_bytes(message[40:42], "little")
    offset = int.from_bytes(message[44:48], "little")
    info, pairs, at = message[offset : offset + length], [], 0
    while at + 4 <= len(info):
        size = int.from_bytes(info[at + 2 : at + 4], "little")
        pairs.append([int.from_bytes(info[at : at + 2], "little"), size,
                      info[at + 4 : at + 4 + size]])  # fmt: skip
        at += 4 + size
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not pairs:
            break
        place, way = rng.randrange(len(pairs)), rng.randrange(8)
        pair = pairs[place]
        if way == 0:
            del pairs[place]
        elif way == 1:
            pairs.insert(rng.randrange(len(pairs)), list(pair))
        elif way == 2:
            pair[0] = rng.choice((*range(12), 0x7FFF, 0xFFFF))
        elif way == 3:
            pair[1] = rng.choice(NUMBERS) & 0xFFFF  # a length that lies
        elif way == 4:
            pair[1:] = 0, b""
        elif way == 5:
            value = bytes(rng.getrandbits(8) for _ in range(rng.choice((1, 3, 8, 60))))
            pair[1:] = len(value), value
        elif way == 6:
            pair[1:] = 60000, bytes(60000)
        else:
            rng.shuffle(pairs)
    info = b"".join(
        kind.to_bytes(2, "little") + size.to_bytes(2, "little") + value
        for kind, size, value in pairs
    )
    head = message[:40] + (len(info) & 0xFFFF).to_bytes(2, "little") * 2
    return head + offset.to_bytes(4, "little") + message[48:offset] + info


class Node:
    """A DER element; content is bytes, or the nodes inside. tag None: raw bytes."""

    def __init__(self, tag, content):
        self.tag, self.content = tag, content
        self.length = None  # the octets of a length that lies


def parse(data, depth=0):
    """Parse as far as it goes; what is no DER becomes a node without a tag."""
    nodes = []
    while data:
        try:
            tag, content, rest = sspi_client._der_split(data)
        except ValueError:
            nodes.append(Node(None, data))
            break
        inside = tag & 0x20 and depth < 20
        nodes.append(Node(tag, parse(content, depth + 1) if inside else content))
        data = rest
    return nodes


def encode(nodes):
    parts = []
    for node in nodes:
        inside = node.content
        content = inside if isinstance(inside, bytes) else encode(inside)
        if node.tag is None:
            parts.append(content)
        elif node.length is None:
            parts.append(sspi_client._der(node.tag, content))
        else:
            parts.append(bytes([node.tag]) + node.length + content)
    return b"".join(parts)


def every(nodes):
    for node in nodes:
        yield node
        if not isinstance(node.content, bytes):
            yield from every(node.content)


def damage_der(token, rng, corpus):
    nodes = parse(token)
    node = rng.choice(list(every(nodes)))
    size = len(encode([node]))
    way = rng.randrange(10)
    if node.tag == 0x0A and rng.random() < 0.7:  # negState
        node.content = rng.choice((b"\0", b"\1", b"\2", b"\3", b"\4", b"\xff", b"",
                                   b"\0\0", b"\0\1"))  # fmt: skip
    elif node.tag == 0x06 and rng.random() < 0.7:  # supportedMech, mechTypes
        node.content = rng.choice(OIDS)
    elif node.tag == 0x04 and rng.random() < 0.5:  # responseToken, mechListMIC
        inner = node.content if isinstance(node.content, bytes) else b""
        node.content = damage_bytes(inner, rng, corpus)
    elif way == 0:
        node.tag = rng.choice(TAGS)
    elif way == 1:
        node.content = b""
    elif way == 2:
        node.content = bytes(rng.getrandbits(8) for _ in range(rng.choice((1, 9, 200))))
    elif way == 3:  # longer, shorter, of another form, or of no end
        node.length = rng.choice((
            b"\x80", b"\x81" + bytes([size & 0x7F]), b"\x82\0" + bytes([size & 0xFF]),
            b"\x84\xff\xff\xff\xff", b"\x85\0\0\0\0\1", b"\xff", b"\0", b"\x7f",
            bytes([max(0, size - 3) & 0x7F]), bytes([size + 1 & 0x7F]),
        ))  # fmt: skip
    elif way == 4:
        node.content = [Node(node.tag, node.content)]  # in itself
    elif way == 5:
        depth = rng.choice((2, 30, 400))
        for _ in range(depth):
            node.content = (
                encode([Node(rng.choice((0x30, 0xA1, 0x60)), node.content)])
                if isinstance(node.content, bytes)
                else encode(node.content)
            )
    else:
        _rearrange(nodes, rng)
    return encode(nodes)


def _rearrange(nodes, rng):
    """Delete, repeat, swap or add an element among its brothers."""
    families = [nodes] + [
        n.content for n in every(nodes) if isinstance(n.content, list)
    ]
    family = rng.choice([f for f in families if f] or [nodes])
    place, way = rng.randrange(len(family)), rng.randrange(4)
    if way == 0:
        del family[place]
    elif way == 1:
        family.insert(place, family[rng.randrange(len(family))])
    elif way == 2:
        rng.shuffle(family)
    else:
        family.insert(place, Node(rng.choice(TAGS), rng.choice((b"", b"\0", b"\4\1x"))))


def _certificate():
    """A certificate as far as its signature algorithm, RSASSA-PSS, is read."""
    der = sspi_client._der
    sha256 = der(0x30, der(0x06, bytes.fromhex("608648016503040201")))
    pss = der(0x06, sspi_client._RSASSA_PSS)
    algorithm = der(0x30, pss, der(0x30, der(0xA0, sha256)))
    return der(0x30, der(0x30, b"\2\1\1"), algorithm, der(0x03, bytes(65)))


CERTIFICATE = _certificate()

if __name__ == "__main__":
    sys.exit(main())
