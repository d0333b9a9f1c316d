"""What the benchmarks share: options, the machine, a table, the record, and children that measure alone."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
from concurrent.futures import wait
from datetime import UTC, datetime
from importlib import metadata

#: Distributions whose version goes into the record.
PEERS = ("executor-exporter", "opentelemetry-instrumentation-threading", "prometheus-client")


def nothing(*_):
    pass


def integers(text):
    return [int(part) for part in text.split(",")]


def names(known):
    def chosen(text):
        parts = text.split(",")
        unknown = [part for part in parts if part not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return parts

    return chosen


def start_workers(pool, workers):
    """All worker threads of the pool, before anything is measured."""
    barrier = threading.Barrier(workers)
    wait([pool.submit(barrier.wait) for _ in range(workers)])


def spread(samples):
    return {"min": min(samples), "median": statistics.median(samples), "max": max(samples)}


def to_standard(samples):
    """Ratio of each other contestant's samples to those of the standard one beside them."""
    base = samples["standard"]
    return {
        contestant: [took / standard for took, standard in zip(found, base, strict=True)]
        for contestant, found in samples.items()
        if contestant != "standard"
    }


def shown(samples, form=".2f"):
    """`median (min..max)`; a reason as it is."""
    if isinstance(samples, str):
        return samples
    found = spread(samples)
    return f"{found['median']:{form}} ({found['min']:{form}}..{found['max']:{form}})"


def print_table(headers, rows):
    widths = [max(len(row[column]) for row in (headers, *rows)) for column in range(len(headers))]
    for row in (headers, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def in_child(script, *words):
    """What `script`, run with these words in an interpreter of its own, prints as JSON."""
    command = [sys.executable, script, *map(str, words)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def machine():
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def _processor():
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def versions():
    found = {"python": platform.python_version(), "implementation": platform.python_implementation()}
    for package in ("poolscope", *PEERS):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def headline(text):
    facts = machine()
    load = f", load average {facts['load_average'][0]:.1f} at the start" if facts["load_average"] else ""
    print(f"Python {platform.python_version()}, {facts['cpus_usable']} of {facts['cpus']} CPUs{load}; {text}")


def save(path, benchmark, options, started, results):
    """The record: the facts of the run and every sample of it."""
    record = {
        "benchmark": benchmark,
        "started_at": started["at"],
        "machine": started["machine"],
        "versions": versions(),
        "options": {name: value for name, value in vars(options).items() if name != "json" and value is not None},
        "results": results,
    }
    with open(path, "w") as file:
        json.dump(record, file, indent=1)
        file.write("\n")


def starting():
    return {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
