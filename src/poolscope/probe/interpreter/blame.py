"""Whether an exception that leaves our code on a thread of the program is ours or the program's.

The rule above every place where such code runs: a failure of ours is caught there, reported once, and never reaches a
task. An exception of the program's passes through as if we were not there, and costs us no more than the record at
hand. It comes up in the midst of our code where a signal handler raises (the timeouts of RQ, Celery or pytest-timeout),
where another thread sets one (`PyThreadState_SetAsyncExc`), or with Ctrl-C. So no place catches `Exception` for good:

    except Exception as exc:
        if not is_ours(exc):
            raise
        ...

And no record is torn: the interpreter lets such an exception in behind a call, at the begin of a function and at a jump
back, so that what must happen together is written with at most one call in it, the last.

What is no Exception (KeyboardInterrupt, SystemExit, GeneratorExit) is never ours.
"""

from __future__ import annotations

import os

#: Frames of these folders, of installed packages and of frozen modules are ours, or of what we call.
_OURS = os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + os.sep
_STANDARD = os.path.dirname(os.__file__) + os.sep
#: Programs that come with us are users'.
_SHIPPED = _OURS + "shipped" + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")

#: The getter of `type` itself: no metaclass of the program's is asked.
_module_of = type.__dict__["__module__"].__get__


def is_ours(exc: BaseException) -> bool:
    """Whether `exc`, which was just caught in a function of ours, is a failure of ours.

    It is if all frames of its traceback are of poolscope, the standard library or an installed package, which we may
    have called, and its class is one that a mistake or a lack of resources raises: a builtin one, but no timeout and
    not `Exception` itself. A handler of the program's leaves its own frame. One of a library (RQ, Celery), or an
    exception that was set from another thread, is known by its class only.
    """
    if not isinstance(exc, Exception) or isinstance(exc, TimeoutError) or type(exc) is Exception:
        return False
    traceback = exc.__traceback__
    while traceback is not None:
        if not _is_known(traceback.tb_frame.f_code.co_filename):
            return False
        traceback = traceback.tb_next
    module = _module_of(type(exc))
    return module == "builtins" or (type(module) is str and module.startswith("poolscope."))


def _is_known(file: str) -> bool:
    if file.startswith(_OURS):
        return not file.startswith(_SHIPPED)
    return file.startswith(("<frozen ", _STANDARD)) or any(part in file for part in _INSTALLED)
