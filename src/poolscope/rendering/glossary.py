"""What the words of a report mean, in a sentence each: patterns, causes and terms. In full: docs/concepts.md."""

from __future__ import annotations

from collections.abc import Mapping

PATTERNS: Mapping[str, str] = {
    "deadlock": "workers wait for tasks that can only start once one of those workers is free; this is proven",
    "stalled": "all workers are held, tasks are queued, and none has finished for long",
    "stuck_workers": "some workers are held far longer than tasks of their function take",
    "batch": "all tasks were submitted at once and were worked off, which is the normal life of map()",
    "serial": "tasks wait for one another to end, and only about one worker's worth of work gets done at once",
    "async_then_serial": "tasks started when they were submitted, then each had to wait for another one to end",
    "not_concurrent": "nothing was full, and yet each result was waited for before the next one was asked for",
    "burst": "the pool was full for a short time, or its tasks waited only briefly",
    "loop_blocked": "one callback or coroutine held the event loop, and everything else on it waited",
    "loop_full": "no callback was long, and yet the event loop had no rest and ran late what was due",
}

CAUSES: Mapping[str, str] = {
    "nested_wait": "tasks wait for other tasks of the same full pools",
    "workers_gone": "tasks are queued, and no worker is left to take them",
    "leaked": "what took a connection has ended without giving it back",
    "long_lived": "tasks that stay on purpose, such as streams and consumers, hold the workers",
    "abandoned_calls": "nothing waits any more for the calls that hold the workers",
    "stuck_tasks": "calls do not come back",
    "worker_start": "worker processes are replaced more often than they work",
    "single_worker": "the pool has one worker",
    "held_across_wait": "what holds a lock waits for something else meanwhile",
    "downstream_pool": "the workers wait for tasks of another pool, or for an event loop",
    "results_not_taken": "finished results wait for what takes them, or callbacks take the workers' time",
    "transfer": "the time goes into handing arguments and results to other processes",
    "cpu_bound": "the work computes, and the CPU that it can have is used up",
    "shared_resource": "the workers queue for something scarcer than they are: a lock, a connection, a full queue",
    "slow_tasks": "few slow tasks hold the workers while many quick ones wait",
    "limit_reached": "more wants to pass a semaphore, or a connection, than it lets through",
    "blocking_io": "the workers wait for something outside of the program, and there are too few of them",
    "awaited_in_turn": "a loop waits for each thing before it starts the next, which does not need it",
    "waits_for_slowest": "work goes in batches, and each waits for its slowest task",
    "one_chunk": "nearly all items were handed to one worker in a large chunk",
    "called_not_passed": "what was submitted is the result of a call, not the function",
    "blocking_call": "a call that waits (a sleep, a synchronous client, a lock) was made in the event loop",
    "gil_contention": "other threads of the process held the interpreter's lock",
    "gc": "the garbage collector held the event loop",
    "host_descheduled": "the process did not get its CPU; no line is to blame",
    "many_callbacks": "very many short callbacks fill the event loop",
    "unknown": "the cause is not established, and is not guessed",
}

TERMS: Mapping[str, str] = {
    "wait": "from the submission of a task to its start",
    "run": "from the start of a task to its end",
    "saturated": "no worker is idle, and tasks are queued",
    "p50, p95": "half of the tasks, or 95 of 100, took at most that long",
}
