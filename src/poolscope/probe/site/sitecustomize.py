"""Runs first in each Python process under `poolscope run`, whose PYTHONPATH leads here.

Whatever interpreter that is: this must parse, start nothing it cannot, fail silently, and leave the process
as it would have been without it.
"""

import os
import sys


def _start():
    if "POOLSCOPE_RUN" not in os.environ:
        return
    if sys.version_info < (3, 11):
        _say("it is Python %d.%d, and only 3.11 or later is" % (sys.version_info[0], sys.version_info[1]))
        return
    if not _is_main_interpreter():
        return  # a worker of a pool of interpreters: that pool is watched from the one that made it
    if "poolscope" not in sys.modules:
        # By path, and not by a longer sys.path: the program may live in another environment than poolscope,
        # and must find none of our neighbours. The frozen modules are what importlib.util hands out, without
        # the milliseconds of importing that.
        from _frozen_importlib import module_from_spec
        from _frozen_importlib_external import spec_from_file_location

        package = os.path.dirname(os.path.dirname(_here))
        spec = spec_from_file_location(
            "poolscope", os.path.join(package, "__init__.py"), submodule_search_locations=[package]
        )
        module = module_from_spec(spec)
        sys.modules["poolscope"] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules["poolscope"]
            raise
    from poolscope.probe.startup.bootstrap import start

    start()


def _is_main_interpreter():
    """Whether this is the process's own interpreter: others may not touch what handles signals, which is asked here in
    a way that changes nothing."""
    from _signal import set_wakeup_fd

    try:
        before = set_wakeup_fd(-1)
    except ValueError:
        return False
    if before != -1:
        set_wakeup_fd(before)
    return True


def _say(reason):
    """Send the parent one frame (see probe/transport/channel.py) that says that no more will come, and why."""
    import _socket

    command = " ".join(getattr(sys, "orig_argv", getattr(sys, "argv", [])))
    try:
        with open("/proc/self/cmdline", "rb") as file:
            command = file.read().rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    except Exception:
        pass  # another system
    process = "%d (%s)" % (os.getpid(), _short(command))
    frame = ('["unwatched","%s","%s"]' % (process, _plain(reason)[:200])).encode("ascii")
    path = os.environ["POOLSCOPE_RUN"].split(":", 1)[1]  # see probe/startup/handover.py
    parent = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
    try:
        parent.settimeout(1.0)
        parent.connect(path)
        parent.send(bytes(bytearray([0, 0, len(frame) >> 8, len(frame) & 255, 0, 0, 0, 0])) + frame)
    finally:
        parent.close()


def _plain(text):
    """Return what of it can stand in JSON as it is."""
    return "".join([char if " " <= char <= "~" and char not in '"\\' else "?" for char in text])


def _short(command):
    command = _plain(command)
    command = command[command.rfind("/", 0, command.find(" ")) + 1 :] if " " in command else command
    return command if len(command) <= 60 else command[:57] + "..."


_here = os.path.dirname(os.path.abspath(__file__))
# The environment keeps us, for the processes that this one starts.
sys.path[:] = [entry for entry in sys.path if entry != _here]
sys.path_importer_cache.pop(_here, None)
try:
    try:
        _start()
    except Exception:
        _say("our part in it failed: %s: %s" % (sys.exc_info()[0].__name__, sys.exc_info()[1]))
except Exception:
    pass  # whatever fails of ours, the program starts as without us

# Now the one that would have run without us. If there is none, the ImportError below is what `site` expects,
# and leaves no trace of this module.
_self = sys.modules.pop("sitecustomize", None)  # held: old interpreters empty a module that is not referred to
import sitecustomize  # noqa: E402, F401
