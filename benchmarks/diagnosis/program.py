"""Runs one labelled program: `python -m benchmarks.diagnosis.program FAMILY SEED LOG`."""

import sys

from benchmarks.diagnosis import (  # noqa: F401 - they register their families
    batches,
    computing,
    connections,
    gates,
    handing,
    healthy,
    held,
    in_turn,
    loop_work,
    looping,
    queueing,
    waiting,
    work_queues,
)
from benchmarks.diagnosis.recording import FAMILIES, Recording


def main(name, seed, log):
    recording = Recording(f"{name} {seed}")
    FAMILIES[name].run(recording)
    recording.write(log)


if __name__ == "__main__":
    main(*sys.argv[1:])
