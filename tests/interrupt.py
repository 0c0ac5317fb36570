"""Interrupt the client at every opcode, and see that nothing is freed twice or lost.

    python tests/interrupt.py                # every opcode of every scenario
    python tests/interrupt.py --stride 37    # every 37th, as the fast test does

A trace function stands in for Ctrl-C and for an allocation that fails: it raises
KeyboardInterrupt or MemoryError before the Nth opcode of our own code, for each N, in
scenarios on the fake. The fake judges: what is freed twice, or a credential before its
context, is a crime. What is alive afterwards must be freed by the next close(), or when
the last name of it goes.

Printed for each scenario: the opcodes that were interrupted; how often the next close()
had something left to free; and how often something was lost for good, with the lines
where it was. A crime or a loss is a failure, but for losses in MAY_LOSE.
"""

import argparse
import contextlib
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
LINES = Path(FILE).read_text(encoding="utf-8").splitlines()
CUT = next(number for number, line in enumerate(LINES, 1) if line.startswith("# 8<"))


#: Functions in which an interruption may lose something for good. Each needs a reason.
MAY_LOSE = (
    "_release",  # between taking the handle and the call, and where it is put back
    "_initialize", "_negotiated_package",  # a buffer of SSPI's, on its way to
    "_free_buffer",  # the call that gives it back
    "drive",  # the Context, between the flow's end and the caller
)  # fmt: skip
# PyPy traces lines alone; CPython before 3.10 crashes (seen on 3.9.18, and on Windows'
# 3.8.10) when a trace function raises between the opcodes that end an except block.
LINES_ALONE = sys.implementation.name != "cpython" or sys.version_info < (3, 10)
GRAIN = "line" if LINES_ALONE else "opcode"


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
        if frame.f_code.co_filename != FILE or for_the_fake(frame):
            return None  # nobody interrupts the fake: Windows is not Python
        if GRAIN == "opcode":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self.watch

    def watch(self, frame, event, argument):
        if event == GRAIN:
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                self.place = f"{frame.f_code.co_name}, line {frame.f_lineno}"
                raise self.reason
        return self.watch


def for_the_fake(frame):
    """Tell whether the fake runs, or a function of ours that the fake called."""
    while frame:
        if frame.f_code.co_filename == FILE and frame.f_code.co_firstlineno >= CUT:
            return True
        frame = frame.f_back
    return False


def interrupted(scenario, reason, nth):
    """Run it once; return (where, if close() had work, what was lost, crimes)."""
    fake = sspi_client.FakeSecur32(DOMAIN, logon="alice")
    opened, trace = [], Trace(reason, nth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # dropped, on purpose
        if GRAIN == "opcode":
            # From 3.12 on settrace() looks whether anybody has ever wanted opcodes.
            sys._getframe().f_trace_opcodes = True
        before_us = sys.gettrace()
        sys.settrace(trace)
        try:
            scenario(fake, opened)
        except (reason, RuntimeError):  # a finalizer that was interrupted is no news
            pass
        finally:
            sys.settrace(before_us)
        before = alive(fake)
        while opened:
            opened.pop().close()
        gc.collect()
    return trace.place, before > alive(fake), alive(fake), fake.crimes


def alive(fake):
    ledger = fake._raw
    return len(ledger.credentials) + len(ledger.contexts) + len(ledger.buffers)


def attack(scenario, reason, stride=1):
    """Interrupt at every stride-th opcode.

    Returns: (opcodes, closings, place -> losses, (place, crime) -> how often).
    """
    opcodes, closings, losses, crimes, nth = 0, 0, Counter(), Counter(), 1
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        while True:
            place, closed, lost, judged = interrupted(scenario, reason, nth)
            crimes.update((place, crime) for crime in judged)
            if place is None:
                return opcodes, closings, losses, crimes
            opcodes += 1
            closings += closed
            losses[place] += bool(lost and place.split(",")[0] not in MAY_LOSE)
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
    for name in ("DeleteSecurityContext", "FreeCredentialsHandle", "FreeContextBuffer"):
        setattr(fake, name, with_room(getattr(fake, name)))

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


def with_room(function):
    """The function, which needs no frames of Python: as with a DLL."""

    def call(*arguments):
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + 100)
        try:
            return function(*arguments)
        finally:
            # Where it can no longer be as low as before, it stays: raising behind
            # the call is what no DLL does.
            with contextlib.suppress(RecursionError):
                sys.setrecursionlimit(limit)

    return call


def frames():
    found, frame = [], sys._getframe(1)
    while frame:
        found.append(frame)
        frame = frame.f_back
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stride", type=int, default=1)
    options = parser.parse_args(arguments)
    total, lost, guilty = 0, 0, 0
    for reason in (KeyboardInterrupt, MemoryError):
        for scenario in SCENARIOS:
            opcodes, closings, losses, crimes = attack(
                scenario, reason, options.stride
            )
            total += opcodes
            guilty += sum(crimes.values())
            here = sum(losses.values())
            lost += here
            print(
                f"{scenario.__name__:<22}{reason.__name__:<18}{opcodes:>7,} opcodes, "
                f"{closings:>5,} freed by the next close(), {here:>3} lost",
                flush=True,
            )
            for place, times in (+losses).items():
                print(f"    lost: {place}" + (f" ({times})" if times > 1 else ""))
            for (place, crime), times in crimes.items():
                print(f"    CRIME: {place}: {crime} ({times})")
    depths = {depth: near_the_limit(depth) for depth in range(1, 60)}
    stuck = [depth for depth, left in depths.items() if left]
    print(f"close() with 1 to 59 frames left: {len(stuck)} times lost {stuck or ''}")
    print(f"{total:,} opcodes interrupted: {guilty} crimes, {lost} times lost")
    return 1 if guilty or lost or stuck else 0


if __name__ == "__main__":
    sys.exit(main())
