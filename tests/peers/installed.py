"""Runs a program after `poolscope.install()`: `installed.py COUNT (-m MODULE | SCRIPT) ARGUMENT...`.

At the end COUNT, a file, has how many tasks were recorded.
"""

import atexit
import os
import sys


def main():
    count, *rest = sys.argv[1:]
    sys.path[0] = os.getcwd()
    import poolscope

    poolscope.install()
    pid = os.getpid()

    @atexit.register
    def told():
        if os.getpid() == pid:
            with open(count, "w") as file:
                file.write(str(sum(pool.tasks.submitted for pool in poolscope.report().pools)))

    import runpy

    if rest[0] == "-m":
        sys.argv[:] = rest[1:]
        runpy._run_module_as_main(rest[1])  # what `python -m` calls
    else:
        sys.argv[:] = rest
        sys.path[0] = os.path.dirname(os.path.abspath(rest[0]))
        runpy.run_path(rest[0], run_name="__main__")


if __name__ == "__main__":
    main()
