"""`python -m benchmarks.diagnosis`: runs the labelled programs and the simulated traces, and prints the board.

The simulation is that of the tests; the programs need nothing but poolscope.
"""

import argparse
import contextlib
import io
import re
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.diagnosis import programs, scores, simulated
from common import headline, print_table, save, starting

#: More misses than this are shown in kinds.
LISTED = 50
NUMBER = re.compile(r"\d+(\.\d+)?")
#: Between these lines of a page is the board.
BEGIN, END = "<!-- board -->", "<!-- end of the board -->"


def seeds(text):
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def run_programs(names, numbers, jobs, folder, obtain):
    """Subjects and failures. The programs that must be alone come after all others. `obtain` gives report and log."""
    work = [(name, seed) for seed in numbers for name in names]

    def one(name, seed):
        try:
            report, log = obtain(name, seed, folder)
            return programs.compare(name, seed, report, log), None
        except Exception as error:
            return [], f"{name} {seed}: {error!r}"

    outcomes = []
    shared = [each for each in work if not programs.FAMILIES[each[0]].alone]
    with ThreadPoolExecutor(jobs) as pool:
        outcomes += pool.map(lambda each: one(*each), shared)
    outcomes += [one(*each) for each in work if programs.FAMILIES[each[0]].alone]
    return [subject for found, _ in outcomes for subject in found], [error for _, error in outcomes if error]


def show(title, subjects):
    """Prints one board; returns it."""
    found = scores.board(subjects)
    print(f"\n### {title}\n")
    print_table(["", "measured"], [[name, _worded(value)] for name, value in found.items()])
    patterns = scores.pattern_confusion(subjects)
    causes = scores.cause_confusion(subjects)
    for what, counts in (("pattern", patterns), ("cause of the found", causes)):
        if counts:
            print()
            _print_confusion(what, counts)
    misses = [(each, wrong) for each in subjects for wrong in each.misses()]
    listed = [f"{each.family} {each.seed}, {each.name!r}: {wrong}" for each, wrong in misses]
    shown = listed
    if len(listed) > LISTED:
        kinds = Counter(f"{each.family}: {NUMBER.sub('n', wrong)}" for each, wrong in misses)
        shown = [f"{count} of {kind}" for kind, count in kinds.most_common()]
    print(f"\n{len(listed)} misses\n" + "".join(f"\n- {miss}" for miss in shown))
    return {
        "board": found,
        "patterns": [[*key, count] for key, count in sorted(patterns.items())],
        "causes": [[*key, count] for key, count in sorted(causes.items())],
        "misses": listed,
    }


def _worded(value):
    if not isinstance(value, dict):
        return str(value)
    if "share" in value:
        return "-" if value["share"] is None else f"{value['share']:.3f} of {value['of']}"
    return f"{value['median']} (p95 {value['p95']}, max {value['max']}) of {value['of']}"


def _print_confusion(what, counts):
    rows = sorted({truth for truth, _ in counts})
    columns = sorted({report for _, report in counts})
    table = [[row, *(str(counts[row, column] or "") for column in columns)] for row in rows]
    print_table([f"{what}: right, reported", *columns], table)


def measure(names, options):
    """(results, failures), printed as they are known."""
    results, failures = {}, []
    if names:
        with tempfile.TemporaryDirectory() as folder:
            if options.keep:
                Path(options.keep).mkdir(parents=True, exist_ok=True)
            obtain = programs.kept if options.again else programs.run
            subjects, failures = run_programs(names, options.seeds, options.jobs, options.keep or folder, obtain)
        results["programs"] = show("Programs", subjects)
    if options.simulated:
        results["simulated"] = show("Simulated traces", simulated.subjects(options.simulated, options.seeds.start))
    return results, failures


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.diagnosis", description=__doc__)
    parser.add_argument("--seeds", type=seeds, default=range(1, 6), metavar="1-5")
    parser.add_argument("--families", type=lambda text: text.split(","), metavar="NAME,...")
    parser.add_argument("--jobs", type=int, default=2, help="programs at once; those that compute run alone")
    parser.add_argument("--simulated", type=int, default=0, metavar="N", help="simulated traces")
    parser.add_argument("--keep", metavar="DIR", help="where reports and logs are left")
    parser.add_argument("--again", action="store_true", help="compare what --keep has left, and run nothing")
    parser.add_argument("--docs", metavar="FILE", help="a page whose board is replaced")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    names = list(programs.FAMILIES) if options.families is None else [name for name in options.families if name]
    for name in names:
        if name not in programs.FAMILIES:
            parser.error(f"{name}: not one of {', '.join(programs.FAMILIES)}")
    started, begin = starting(), time.monotonic()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        headline(f"{len(names)} families, seeds {options.seeds.start} to {options.seeds.stop - 1}")
        results, failures = measure(names, options)
    print(printed.getvalue(), end="")
    print(f"\n{time.monotonic() - begin:.0f} s" + "".join(f"\nfailed: {failure}" for failure in failures))
    if options.docs:
        page = Path(options.docs)
        before, _, rest = page.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{BEGIN}\n{printed.getvalue()}{END}{after}")
    if options.json:
        options.seeds = list(options.seeds)
        save(options.json, "diagnosis", options, started, results)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
