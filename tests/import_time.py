"""Time `import sspi_client` beside `import ctypes, enum`: python tests/import_time.py

Prints the best of 15 fresh processes each (-I -S, taken in turns, the compiled
file cached), timed inside the process around the import alone, and their ratio.
"""

import subprocess
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent)
IMPORTS = ("import ctypes, enum", "import sspi_client")
TIMED = """
import sys, time
sys.path.append({root!r})
start = time.perf_counter()
{code}
print(time.perf_counter() - start)
"""


def seconds(code: str) -> float:
    timed = TIMED.format(root=ROOT, code=code)
    command = [sys.executable, "-I", "-S", "-c", timed]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    rows = {code: [] for code in IMPORTS}
    for code in rows:
        seconds(code)  # write the .pyc, warm the disk
    for _ in range(15):
        for code, times in rows.items():
            times.append(seconds(code))
    base, ours = (1000 * min(times) for times in rows.values())
    print(f"import ctypes, enum: {base:.2f} ms")
    print(f"import sspi_client:  {ours:.2f} ms")
    print(f"ratio: {ours / base:.2f}")


if __name__ == "__main__":
    main()
