"""Make many handshakes with the fake, and see that nothing grows: python tests/soak.py

    python tests/soak.py                                 # 100,000 and 10,000
    python tests/soak.py --handshakes 5000 --faults 500  # shorter
    python tests/wine/soak.py                            # on Windows: with the DLL

Handshakes are NTLM, Kerberos and Negotiate in turn, each with a wrapped message;
those with faults have one call fail at random (seeded), or are closed or dropped
half way. Printed on the way: resident memory, objects that the collector knows,
blocks that the allocator gave out. The exit status is 1 if any of them grew
between the first tenth and the end: memory by more than 1 MiB, the others by more
than 100.
"""

import argparse
import gc
import random
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import sspi_client  # noqa: E402
from sspi_client import SspiError  # noqa: E402

KERBEROS_SPN, NTLM_SPN = "HTTP/web.corp.test", "HTTP/printer.corp.test"
KINDS = (
    ("NTLM", NTLM_SPN),
    ("Kerberos", KERBEROS_SPN),
    ("Negotiate", KERBEROS_SPN),
    ("Negotiate", NTLM_SPN),
)
FUNCTIONS = (
    "AcquireCredentialsHandleW", "InitializeSecurityContextW", "FreeContextBuffer",
    "DeleteSecurityContext", "FreeCredentialsHandle", "QueryContextAttributesW",
    "EncryptMessage",
)  # fmt: skip
STATUSES = (0x80090308, 0x8009030C, 0x80090304, 0x00090321, 0xC0000022)
SPARE = {"resident": 2**20, "objects": 100, "blocks": 100}


def figures():
    gc.collect()
    return {
        "resident": resident(),
        "objects": len(gc.get_objects()),
        "blocks": sys.getallocatedblocks(),
    }


def resident():
    """Return the resident memory of this process [bytes]."""
    if sys.platform == "win32":
        sys.path.insert(0, str(ROOT / "tests"))
        import bench

        return bench.working_set()
    import resource

    try:
        with open("/proc/self/statm") as statistics:
            return int(statistics.read().split()[1]) * resource.getpagesize()
    except OSError:  # not Linux: the highest that it ever was
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def handshake(domain, fake, number):
    package, target = KINDS[number % len(KINDS)]
    server = sspi_client.FakeServer(domain)
    flow = sspi_client.authenticate(target, package=package, secur32=fake)
    with sspi_client.drive(flow, server.accept) as context:
        assert server.unwrap(context.wrap(b"ping")) == b"ping"


def broken(domain, fake, number, rng):
    """Make a handshake in which something goes wrong, most of the time."""
    way = rng.randrange(4)
    if way < 2:
        token = rng.choice((None, b"", b"error"))
        function, status = rng.choice(FUNCTIONS), rng.choice(STATUSES)
        fake.inject(function, status, token, rng.randint(1, 3))
        try:
            handshake(domain, fake, number)
        except SspiError:
            pass
    else:
        package, target = KINDS[number % len(KINDS)]
        flow = sspi_client.authenticate(target, package=package, secur32=fake)
        next(flow)
        if way == 2:
            flow.close()
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                del flow  # a ResourceWarning, seen in test_ownership.py
    fake._injected.clear()  # those that were not met


def soak(title, rounds, work):
    """Do work(fake, number) often; return whether nothing grew."""
    domain = sspi_client.FakeDomain("CORP", {"alice": "Secret123!"}, [KERBEROS_SPN])
    fake = sspi_client.FakeSecur32(domain, logon="alice")
    step, start, first, last = max(rounds // 10, 1), time.perf_counter(), None, None
    print(f"{title:<18}{'resident MiB':>14}{'objects':>10}{'blocks':>10}{'per s':>8}")
    for number in range(1, rounds + 1):
        work(domain, fake, number)
        fake.assert_clean()
        fake.calls.clear()
        if number % step == 0:
            last = figures()
            first = first or last
            rate = number / (time.perf_counter() - start)
            print(
                f"{number:<18,}{last['resident'] / 2**20:>14.2f}{last['objects']:>10,}"
                f"{last['blocks']:>10,}{rate:>8.0f}",
                flush=True,
            )
    grown = {what: last[what] - first[what] for what in SPARE}
    flat = all(grown[what] <= spare for what, spare in SPARE.items())
    signed = ", ".join(f"{what} {number:+,}" for what, number in grown.items())
    print(f"{title}: {'flat' if flat else 'GROWN'}, since the first tenth: {signed}\n")
    return flat


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--handshakes", type=int, default=100000)
    parser.add_argument("--faults", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    flat = soak("handshakes", options.handshakes, handshake)
    flat &= soak(
        "with faults",
        options.faults,
        lambda domain, fake, number: broken(domain, fake, number, rng),
    )
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
