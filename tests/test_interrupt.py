"""A short run of interrupt.py: Ctrl-C and MemoryError here and there in the client."""

import interrupt
import pytest

STRIDE = 23 if interrupt.GRAIN == "opcode" else 3

@pytest.mark.parametrize("reason", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(
    "scenario", interrupt.SCENARIOS, ids=lambda scenario: scenario.__name__
)
def test_interrupted_client_frees_nothing_twice_and_loses_nothing(scenario, reason):
    points, _, losses, crimes = interrupt.attack(scenario, reason, STRIDE)
    assert points > 20, "the trace function was not called"
    assert not crimes
    assert not +losses


@pytest.mark.parametrize("depth", range(1, 60, 3))
def test_close_near_the_recursion_limit_is_made_good_by_the_next(depth):
    assert interrupt.near_the_limit(depth) == 0


def test_trace_raises_where_it_is_told_to():
    first, *_ = interrupt.interrupted(interrupt.whole_flow, MemoryError, 1)
    later, *_ = interrupt.interrupted(interrupt.whole_flow, MemoryError, 200)
    never, _, left, crimes = interrupt.interrupted(
        interrupt.whole_flow, MemoryError, 10**9
    )
    assert first.startswith("authenticate") and later and later != first
    assert (never, left, crimes) == (None, 0, [])
