"""Make many handshakes in one Windows process, and see what stays behind.

    python soak.py [ROUNDS]           # NTLM against FakeServer; prints JSON

For another package or server, call it from a script of your own:

    import soak
    report = soak.soak(new_flow, new_exchange, rounds=1000)

new_flow(secur32) returns a flow, new_exchange() the function that drive() wants.
Of handles we count what was taken and given back, in the table of bound
functions: Wine's GetProcessHandleCount always answers with success and nothing.
"""

import ctypes
import gc
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import contract  # noqa: E402

import sspi_client  # noqa: E402

SETTLE = 100  # handshakes until caches and heaps have their size


def soak(new_flow, new_exchange, rounds=1000):
    """Make that many handshakes, close each context, and return a dict.

    growth: of the working set since the first 100 [bytes]. holes: what the heap
    had free then, and we filled [bytes]. calls: function -> how often. alive:
    handles and token buffers never given back, to be []. seconds: for all of it.
    """
    secur32 = contract.Ledger(sspi_client.Secur32())
    start = time.perf_counter()
    settled, holes = working_set(), []
    for made in range(rounds):
        if made == SETTLE:
            holes = _filled_holes()
            settled = working_set()
        sspi_client.drive(new_flow(secur32), new_exchange()).close()
    growth = working_set() - settled
    return {
        "rounds": rounds,
        "growth": growth,
        "holes": sum(map(len, holes)),
        "calls": {name: count for name, count in secur32.calls.items() if count},
        "alive": sorted(map(str, secur32.alive)) + sorted(map(str, secur32.wrong)),
        "seconds": round(time.perf_counter() - start, 1),
    }


class _Counters(ctypes.Structure):  # psapi.h, PROCESS_MEMORY_COUNTERS
    _fields_ = [("cb", ctypes.c_uint32), ("PageFaultCount", ctypes.c_uint32)] + [
        (name, ctypes.c_size_t)
        for name in (
            "PeakWorkingSetSize", "WorkingSetSize", "QuotaPeakPagedPoolUsage",
            "QuotaPagedPoolUsage", "QuotaPeakNonPagedPoolUsage",
            "QuotaNonPagedPoolUsage", "PagefileUsage", "PeakPagefileUsage",
        )
    ]


def working_set():
    """Return the working set of this process [bytes]."""
    gc.collect()
    kernel32 = ctypes.WinDLL("kernel32.dll", winmode=0x800)
    counters = _Counters(cb=ctypes.sizeof(_Counters))
    arguments = (ctypes.c_void_p(-1), ctypes.byref(counters), counters.cb)  # ourselves
    if not kernel32.K32GetProcessMemoryInfo(*arguments):
        raise OSError("K32GetProcessMemoryInfo failed")
    return counters.WorkingSetSize


def _filled_holes():
    """Take what the heap has free, so that whatever is not freed makes it grow.

    Compiling the module leaves megabytes; 900 leaks of a kilobyte fit in there.
    """
    taken = []
    for size in (1 << 16, 1 << 12, 256):
        before = working_set()
        while working_set() < before + (1 << 17) and len(taken) < 1 << 17:
            taken += [bytearray(b".") * size for _ in range((1 << 16) // size)]
    return taken


def ntlm(secur32):
    return sspi_client.authenticate(
        contract.TARGET, contract.ALICE, package=sspi_client.NTLM, secur32=secur32
    )


def fake_server():
    return sspi_client.FakeServer(contract.domain()).accept


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(json.dumps(soak(ntlm, fake_server, rounds)))
