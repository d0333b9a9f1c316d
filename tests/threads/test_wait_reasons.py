"""At what a thread is stopped: real threads, looked at once they are there."""

import logging
import queue
import subprocess
import sys
import threading
import time

import pytest

from poolscope.probe.sampling.wait_reasons import WaitReasons

gate = WaitReasons()


def take(lock):
    with lock:
        pass


def acquire(semaphore):
    semaphore.acquire()


def enter(semaphore):
    with semaphore:
        pass


def put(items):
    items.put(1)


def get(items):
    items.get()


def wait(event):
    event.wait()


def taken(lock):
    lock.acquire()
    return lock


def full():
    items = queue.Queue(1)
    items.put(0)
    return items


def held_handler():
    handler = logging.Handler()
    handler.acquire()
    return handler


def pass_on(handler):
    handler.acquire()
    handler.release()


def held_condition():
    condition = threading.Condition()
    condition.acquire()
    return condition


WAITING = threading.Condition.wait.__code__


@pytest.mark.parametrize(
    ("stop", "gated", "innermost", "go", "expected"),
    [
        (take, lambda: taken(threading.Lock()), take.__code__, lambda it: it.release(), "lock"),
        (take, lambda: taken(threading.RLock()), take.__code__, lambda it: it.release(), "lock"),
        (acquire, lambda: threading.Semaphore(0), WAITING, lambda it: it.release(), "semaphore"),
        (enter, lambda: taken(threading.BoundedSemaphore(1)), WAITING, lambda it: it.release(), "semaphore"),
        (pass_on, held_handler, logging.Handler.acquire.__code__, lambda it: it.release(), "lock"),
        (take, held_condition, threading.Condition.__enter__.__code__, lambda it: it.release(), "lock"),
        (put, full, WAITING, lambda it: it.get(), "queue"),
        (get, queue.Queue, WAITING, lambda it: it.put(1), ""),
        (wait, threading.Event, WAITING, lambda it: it.set(), ""),
    ],
)
def test_what_a_thread_is_stopped_at(stop, gated, innermost, go, expected):
    subject = gated()
    thread = threading.Thread(target=stop, args=(subject,))
    thread.start()
    try:
        # It gets there sooner or later, and then stays.
        while True:
            frame = sys._current_frames()[thread.ident]
            if frame.f_code is innermost and gate(frame) == expected:
                break
            time.sleep(0)
    finally:
        frame = None
        go(subject)
        thread.join()
    assert gate(sys._getframe()) == ""


@pytest.mark.parametrize(
    ("pipes", "wait"),
    [
        ({}, subprocess.Popen.wait),
        ({"stdout": subprocess.PIPE}, subprocess.Popen.communicate),
        ({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}, subprocess.Popen.communicate),
    ],
)
def test_who_waits_for_a_child_process(pipes, wait):
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, **pipes)
    # What it reads from stays open: to close it is the end of it.
    stdin, child.stdin = child.stdin, None
    thread = threading.Thread(target=wait, args=(child,))
    thread.start()
    try:
        while gate(sys._current_frames()[thread.ident]) != "child":
            time.sleep(0)
    finally:
        stdin.close()
        thread.join()
        child.__exit__(None, None, None)
