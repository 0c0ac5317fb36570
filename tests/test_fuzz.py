"""The fuzzer finds nothing in a short run, is repeatable, and would find something."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parent / "fuzz.py"
BROKEN = """
import sys
sys.path[:0] = [{tests!r}]
import fuzz, sspi_client
{damage}
sys.exit(fuzz.main({arguments!r}))
"""


def fuzz(*arguments, damage=""):
    # In a process of its own: it replaces the fake's random numbers.
    script = BROKEN.format(
        tests=str(FUZZ.parent), arguments=list(arguments), damage=damage
    )
    return subprocess.run(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )


def test_fuzzer_finds_nothing():
    done = fuzz("--cases", "1000", "--seed", "2026")
    assert done.returncode == 0, done.stdout
    assert "1,000 cases on the fake, seed 2026: no finding" in done.stdout


def test_fuzzer_does_the_same_again_when_the_seed_is_the_same():
    digests = {
        re.search("digest: (.*)", fuzz("--cases", "100", "--seed", seed).stdout).group(
            1
        )
        for seed in ("5", "5", "6")
    }
    assert len(digests) == 2


@pytest.mark.parametrize("bound", [["--bytes", "20000"], ["--seconds", "0.3"]])
def test_fuzzer_ends_at_a_bound(bound):
    done = fuzz(*bound)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "damage, told",
    [
        ("sspi_client._free_buffer = lambda *_: None", "buffers alive"),
        ("sspi_client._Handles.close = lambda *_: None", "contexts alive"),
        (
            "sspi_client._from_le = lambda octets: sum(\n"
            "    octets[i] << 8 * i for i in range(len(octets) or 1))",
            "IndexError",
        ),
        (
            "sspi_client._NtlmStream.check = lambda *_: None",
            "a damaged message was accepted",
        ),
        (
            "sspi_client.SspiError.__str__ = lambda self: fuzz_last[0].hex()\n"
            "real, fuzz_last = fuzz.damage, [b'']\n"
            "def damage(*rest):\n"
            "    fuzz_last[0] = real(*rest)\n"
            "    return fuzz_last[0]\n"
            "fuzz.damage = damage",
            "shows what is in a token",
        ),
    ],
)
def test_fuzzer_finds_a_defect_that_is_put_in(damage, told):
    done = fuzz("--cases", "3000", damage=damage)
    assert done.returncode == 1
    assert told in done.stdout
