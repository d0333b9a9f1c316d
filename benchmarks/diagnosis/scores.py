"""From subjects (a pool or a loop: what is right, what was reported) to the numbers of the board."""

from collections import Counter
from statistics import median


class Subject:
    """One pool or loop of one run. Seconds from the start of the program."""

    def __init__(self, family, seed, name, *, seconds):
        self.family, self.seed, self.name, self.seconds = family, seed, name, seconds
        self.findings = []
        self.unseen = self.doubtful = self.info = False
        self.patterns, self.causes = (), ()
        self.line = self.action = self.due = self.needed = self.size = self.limit = None
        #: Since when: of a trouble that comes again, each time.
        self.knees = ()

    def label(self, expected, patterns, doubtful, knees, due):
        self.patterns, self.doubtful, self.knees, self.due = patterns, doubtful, knees, due
        self.causes, self.line, self.action = expected.causes, expected.line, expected.action
        self.info, self.size = expected.info, expected.size

    @property
    def positive(self):
        return bool(self.patterns)

    @property
    def raised(self):
        return [finding for finding in self.findings if finding["severity"] != "info"]

    @property
    def told(self):
        """The finding to compare: the first right one, else the first of the right pattern, else the longest."""
        named = [finding for finding in self.findings if finding["pattern"] in self.patterns]
        for wanted in ([finding for finding in named if finding["cause"] in self.causes], named):
            if wanted:
                return min(wanted, key=lambda each: each["since_seconds"])
        others = self.raised or (self.findings if self.info else [])
        return max(
            others, key=lambda each: (each["until_seconds"] or self.seconds) - each["since_seconds"], default=None
        )

    @property
    def found(self):
        told = self.told
        return self.positive and told is not None and told["pattern"] in self.patterns

    @property
    def truth(self):
        return self.patterns[0] if self.patterns else "concurrent"

    @property
    def reported(self):
        if self.unseen:
            return "not seen"
        told = self.told if self.positive else next(iter(self.raised), None)
        return told["pattern"] if told else "concurrent"

    def misses(self):
        """What is wrong, in words."""
        told = self.told
        if not self.positive:
            return [] if self.doubtful else [f"false alarm: {_named(finding)}" for finding in self.raised]
        if self.unseen:
            return ["not seen"]
        if not self.found:
            got = f"{_named(told)}" if told else "nothing"
            return [f"{'/'.join(self.patterns)} ({'/'.join(self.causes)}) expected, {got} reported"]
        wrong = []
        if told["cause"] not in self.causes:
            wrong.append(f"cause {told['cause']}, not {'/'.join(self.causes)}")
        elif (told["severity"] == "info") != self.info:
            wrong.append(f"severity {told['severity']}")
        elif self.line and told["marked"] != self.line:
            wrong.append(f"line {told['marked']!r}, not {self.line!r}")
        if told["cause"] in self.causes and self.action and told["advice"]["action"] != self.action:
            wrong.append(f"action {told['advice']['action']}, not {self.action}")
        if self.holders not in (None, self.limit):
            wrong.append(f"{self.holders} at a time, not {self.limit}")
        if (off := self.knee_error) is not None and off > self.knee_allowed:
            wrong.append(f"knee {told['since_seconds']:.2f} s, not {self.knees[0]:.2f} s")
        if (late := self.delay) is not None and late > 1:
            wrong.append(f"told {late:.2f} s late")
        number = self.number
        if self.size == "replay" and told["cause"] in self.causes and self.size_error != 0:
            wrong.append(f"size {number}, not {self.needed}")
        if self.size == "none" and told["cause"] in self.causes and number is not None:
            wrong.append(f"size {number}, where none is right")
        others = [
            finding
            for finding in self.raised
            if finding is not told and not (finding["pattern"] in self.patterns and finding["cause"] in self.causes)
        ]
        return wrong + [f"beside it: {_named(finding)}" for finding in others]

    @property
    def knee_error(self):
        if not self.found or not self.knees:
            return None
        return min(abs(self.told["since_seconds"] - knee) for knee in self.knees)

    @property
    def knee_allowed(self):
        return max(0.3, 0.1 * self.knees[0])

    @property
    def delay(self):
        """Seconds from when the condition of the pattern (docs/concepts.md#patterns) held by the log to the report."""
        if not self.found or self.due is None:
            return None
        return self.told["since_seconds"] + self.told["detected_after_seconds"] - self.due

    @property
    def holders(self):
        """How many tasks at a time pass what the workers queue for, as the first right finding has it."""
        if self.limit is None or not self.found or self.told["cause"] != "shared_resource":
            return None
        numbers = self.told["evidence"]
        return round(numbers.get("resource_holders") or numbers.get("effective_parallelism") or 0)

    @property
    def number(self):
        """The size that the last right finding gives: it has seen most."""
        right = [each for each in self.findings if each["pattern"] in self.patterns and each["cause"] in self.causes]
        return right[-1]["advice"]["suggested_max_workers"] if right else None

    @property
    def size_error(self):
        """Relative; None without a number on one side."""
        number = self.number
        if number is None or self.needed is None:
            return 0 if number is None and self.needed is None and self.found else None
        return (number - self.needed) / self.needed


def _named(finding):
    return f"{finding['pattern']} ({finding['cause']}, {finding['severity']}) at {finding['since_seconds']:.1f} s"


def board(subjects):
    """All numbers, by name."""
    positive = [each for each in subjects if each.positive]
    negative = [each for each in subjects if not each.positive and not each.doubtful]
    undecided = [each for each in subjects if not each.positive and each.doubtful]
    found = [each for each in positive if each.found]
    lined = [each for each in found if each.line and each.told["cause"] in each.causes]
    caused = [each for each in found if each.told["cause"] in each.causes]
    knees = [each for each in found if each.knee_error is not None]
    delays = [each.delay for each in found if each.delay is not None]
    sized = [each for each in caused if each.size == "replay"]
    sizes = [abs(each.size_error) for each in sized if each.size_error is not None]
    limited = [each for each in found if each.holders is not None]
    hours = sum(each.seconds for each in negative) / 3600
    alarms = sum(len(each.raised) for each in negative)
    return {
        "subjects": len(subjects),
        "positive": len(positive),
        "healthy": len(negative),
        "undecided by the log": len(undecided),
        "undecided, something told": sum(bool(each.raised) for each in undecided),
        "recall": _share(len(found), len(positive)),
        "something told": _share(sum(bool(each.told) for each in positive), len(positive)),
        "false alarms": alarms,
        "healthy hours": round(hours, 3),
        "cause right": _share(len(caused), len(found)),
        "line right": _share(sum(each.told["marked"] == each.line for each in lined), len(lined)),
        "k right": _share(sum(each.holders == each.limit for each in limited), len(limited)),
        "delay, s": _spread(delays),
        "delay within 1 s": _share(sum(delay <= 1 for delay in delays), len(delays)),
        "knee error, s": _spread([each.knee_error for each in knees]),
        "knee within 0.3 s or 10 %": _share(sum(each.knee_error <= each.knee_allowed for each in knees), len(knees)),
        "size exact": _share(sum(each.size_error == 0 for each in sized), len(sized)),
        "size within 10 %": _share(sum(off <= 0.1 for off in sizes), len(sized)),
        "size error": _spread(sizes),
    }


def confusion(subjects, of_truth, of_report):
    """Counts by (truth, report)."""
    return Counter((of_truth(each), of_report(each)) for each in subjects)


def pattern_confusion(subjects):
    return confusion(
        (each for each in subjects if each.positive or not each.doubtful),
        lambda each: each.truth,
        lambda each: each.truth if each.found else each.reported,
    )


def cause_confusion(subjects):
    return confusion(
        (each for each in subjects if each.found and each.causes),
        lambda each: each.causes[0],
        lambda each: each.causes[0] if each.told["cause"] in each.causes else each.told["cause"],
    )


def _share(part, whole):
    return {"of": whole, "share": round(part / whole, 4) if whole else None}


def _spread(values):
    if not values:
        return None
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {"of": len(values), "median": round(median(values), 3), "p95": round(p95, 3), "max": round(ordered[-1], 3)}
