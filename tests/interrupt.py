"""Interrupt the client at every opcode, and see that nothing is freed twice or lost.

    python tests/interrupt.py                # every opcode of every scenario
    python tests/interrupt.py --stride 37    # every 37th, as the fast test does

A trace function stands in for Ctrl-C and for an allocation that fails: it raises
KeyboardInterrupt or MemoryError before the Nth opcode of our own code, for each N, in
scenarios on the fake. The fake judges: a handle or a buffer that is freed twice, or
that is not its own, is a crime, and fails the run. What is alive afterwards must be
freed by the next close(), or when the last name of it goes.

Printed for each scenario: the opcodes that were interrupted; how often the next close()
had something left to free; and how often something was lost for good, with the lines
where it was. A loss is not a failure unless it is more than --losses allow.
"""

import argparse
import gc
import sys
import warnings
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import sspi_client  # noqa: E402
from sspi_client import Credential, Identity, authenticate, drive  # noqa: E402

KERBEROS_SPN, NTLM_SPN = "HTTP/web.corp.test", "HTTP/printer.corp.test"
DOMAIN = sspi_client.FakeDomain("CORP", {"alice": "Secret123!"}, [KERBEROS_SPN])
FILE = sspi_client.__file__
CUT = next(
    number
    for number, line in enumerate(Path(FILE).read_text(encoding="utf-8").splitlines(), 1)
    if line.startswith("# 8<")
)


# -- scenarios: each gets a fake and a list for what is to be closed afterwards --


def credential(fake, opened):
    made = Credential(Identity("alice", "Secret123!", "CORP"), secur32=fake)
    opened.append(made)
    made.close()


def whole_flow(fake, opened):
    server = sspi_client.FakeServer(DOMAIN)
    flow = authenticate(NTLM_SPN, package="NTLM", secur32=fake)
    opened.append(flow)
    context = drive(flow, server.accept)
    opened.append(context)
    context.close()


def dropped_flow(fake, opened):
    flow = authenticate(KERBEROS_SPN, secur32=fake)
    next(flow)
    del flow


def messages(fake, opened):
    server = sspi_client.FakeServer(DOMAIN)
    flow = authenticate(KERBEROS_SPN, package="Kerberos", secur32=fake)
    context = drive(flow, server.accept)
    opened.append(context)
    context.unseal(*server.seal(b"text"))
    server.unseal(*context.seal(b"text"))
    context.close()


def exchange_that_raises(fake, opened):
    def exchange(token):
        raise ConnectionError

    flow = authenticate(KERBEROS_SPN, secur32=fake)
    opened.append(flow)
    try:
        drive(flow, exchange)
    except ConnectionError:
        pass


SCENARIOS = [credential, whole_flow, dropped_flow, messages, exchange_that_raises]


# -- the interruption ----------------------------------------------------------


class Trace:
    """Raise *reason* before the *nth* opcode of the client's own code."""

    def __init__(self, reason, nth):
        self.reason, self.left, self.place = reason, nth, None

    def __call__(self, frame, event, argument):
        code = frame.f_code
        if code.co_filename != FILE or code.co_firstlineno >= CUT:
            return None  # nobody interrupts the fake: Windows is not Python
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self.watch

    def watch(self, frame, event, argument):
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                self.place = f"{frame.f_code.co_name}, line {frame.f_lineno}"
                raise self.reason
        return self.watch


def interrupted(scenario, reason, nth):
    """Run it once; return (where, whether close() had work, what was lost)."""
    fake = sspi_client.FakeSecur32(DOMAIN, logon="alice")
    opened, trace = [], Trace(reason, nth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # dropped, on purpose
        sys.settrace(trace)
        try:
            scenario(fake, opened)
        except (reason, RuntimeError):  # a finalizer that was interrupted is no news
            pass
        finally:
            sys.settrace(None)
        before = alive(fake)
        for thing in reversed(opened):
            thing.close()
        opened.clear()
        gc.collect()
    if fake.crimes:
        raise AssertionError(f"{scenario.__name__}, {trace.place}: {fake.crimes}")
    return trace.place, before > alive(fake), alive(fake)


def alive(fake):
    return len(fake._credentials) + len(fake._contexts) + len(fake._buffers)


def attack(scenario, reason, stride=1):
    """Interrupt at every stride-th opcode; return (opcodes, closings, losses)."""
    opcodes, closings, losses, nth = 0, 0, Counter(), 1
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        while True:
            place, closed, lost = interrupted(scenario, reason, nth)
            if place is None:
                return opcodes, closings, losses
            opcodes += 1
            closings += closed
            losses[place] += bool(lost)
            nth += stride
    finally:
        sys.unraisablehook = hook


# -- the recursion limit -------------------------------------------------------


def near_the_limit(depth):
    """Close a context with *depth* frames left; return what is alive after a second
    close() that has room."""
    fake = sspi_client.FakeSecur32(DOMAIN, logon="alice")
    server = sspi_client.FakeServer(DOMAIN)
    context = drive(authenticate(KERBEROS_SPN, secur32=fake), server.accept)

    def dive(left):
        if left:
            return dive(left - 1)
        return context.close()

    limit, here = sys.getrecursionlimit(), len(frames())
    try:
        sys.setrecursionlimit(here + 200)
        dive(200 - depth)
    except RecursionError:
        pass
    finally:
        sys.setrecursionlimit(limit)
    context.close()
    gc.collect()
    if fake.crimes:
        raise AssertionError(f"{depth} frames left: {fake.crimes}")
    return alive(fake)


def frames():
    found, frame = [], sys._getframe(1)
    while frame:
        found.append(frame)
        frame = frame.f_back
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--losses", type=int, default=0, help="allowed; default: none")
    options = parser.parse_args(arguments)
    total, lost = 0, 0
    for reason in (KeyboardInterrupt, MemoryError):
        for scenario in SCENARIOS:
            opcodes, closings, losses = attack(scenario, reason, options.stride)
            total += opcodes
            here = sum(losses.values())
            lost += here
            print(
                f"{scenario.__name__:<22}{reason.__name__:<18}{opcodes:>7,} opcodes, "
                f"{closings:>5,} freed by the next close(), {here:>3} lost",
                flush=True,
            )
            for place, times in (+losses).items():
                print(f"    lost: {place}" + (f" ({times})" if times > 1 else ""))
    depths = {depth: near_the_limit(depth) for depth in range(1, 60)}
    stuck = [depth for depth, left in depths.items() if left]
    print(f"close() with 1 to 59 frames left: {len(stuck)} times lost {stuck or ''}")
    print(f"{total:,} opcodes interrupted: nothing freed twice, {lost} times lost")
    return 1 if lost > options.losses or stuck else 0


if __name__ == "__main__":
    sys.exit(main())
