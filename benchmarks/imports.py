"""What importing costs beyond `concurrent.futures.thread`: median milliseconds of new interpreters, bytecode cached.

python benchmarks/imports.py [--repeat N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

CASES = {
    "import poolscope": "import poolscope",
    "first drop-in pool": "from poolscope import ThreadPoolExecutor; ThreadPoolExecutor()",
    "first standard pool": "from concurrent.futures import ThreadPoolExecutor; ThreadPoolExecutor()",
}
TIMED = "import time, concurrent.futures.thread\nt = time.perf_counter()\n{}\nprint(time.perf_counter() - t)"


def milliseconds(code: str) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    words = [sys.executable, "-c", TIMED.format(code)]
    return float(subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=31)
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, {options.repeat} repetitions")
    for code in CASES.values():
        milliseconds(code)  # writes the bytecode
    took: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(options.repeat):
        for name, code in CASES.items():
            took[name].append(milliseconds(code))
    for name, found in took.items():
        print(f"  {name:<20} min {min(found):.2f}  median {statistics.median(found):.2f}  max {max(found):.2f} ms")


if __name__ == "__main__":
    main()
