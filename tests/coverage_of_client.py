"""Branch coverage of the part above the cut: python tests/coverage_of_client.py

Runs the test suite under coverage.py (pip install coverage) and fails unless every
line and branch of the client was run. What a machine without Windows cannot run is
left out below, each with its reason.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = (ROOT / "sspi_client.py").read_text(encoding="utf-8").splitlines()
CUT = next(n for n, line in enumerate(SOURCE, 1) if line.startswith("# 8<"))

#: The first line of each block that is not counted -> why.
EXCLUDED = {
    r"if TYPE_CHECKING:": "for type checkers, never run",
    r"-> SECURITY_STATUS: \.\.\.": "declarations, never called",
    r"if sys.platform == .win32.:": "needs Windows; run by the suite under Wine",
    r"dll = ctypes.WinDLL": "needs the DLL; run by the suite under Wine",
    r"for name, .restype, .argtypes. in PROTOTYPES.items": "needs the DLL, as above",
    r"text = ctypes.FormatError": "needs Windows, as above",
    r"return .. if text == ": "needs Windows, as above",
    r"if not statuses:": "false between two opcodes alone, as interrupt.py shows",
    r"if __name__ == .__main__.:": "run in a process of its own by test_shape.py",
}


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        config, data = Path(folder, "rc"), Path(folder, "data")
        lines = "\n".join(f"    {pattern}" for pattern in EXCLUDED)
        config.write_text(f"[report]\nexclude_lines =\n{lines}\n")
        coverage = [sys.executable, "-m", "coverage"]
        where = [f"--data-file={data}", f"--rcfile={config}"]
        run = [*where, "--branch", f"--include={ROOT / 'sspi_client.py'}"]
        # Tests that bound the time a hostile token takes: tracing takes far longer.
        suite = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not to_hurt"]
        suite += ["--ignore=tests/test_interrupt.py"]  # it traces for itself
        subprocess.run([*coverage, "run", *run, *suite], cwd=ROOT, check=True)
        report = Path(folder, "json")
        subprocess.run([*coverage, "json", "-q", *where, "-o", report], check=True)
        found = next(iter(json.loads(report.read_text())["files"].values()))
    lines = [n for n in found["missing_lines"] if n < CUT]
    branches = [b for b in found["missing_branches"] if b[0] < CUT]
    for number in sorted({*lines, *(b[0] for b in branches)}):
        print(f"not run: {number}: {SOURCE[number - 1].strip()}")
    print(f"client: {len(lines)} lines and {len(branches)} branches not run")
    return 1 if lines or branches else 0


if __name__ == "__main__":
    sys.exit(main())
