"""Modules beside a program that have the names of the standard library's, and that it never imports: nor do we."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli_support import python, script, watched

#: What a program may well call a module of its own, and what we have imported once, or import elsewhere.
NAMES = [
    "__future__",
    "_opcode_metadata",
    "array",
    "ast",
    "bisect",
    "calendar",
    "code",
    "codeop",
    "contextvars",
    "copy",
    "csv",
    "datetime",
    "decimal",
    "dis",
    "email",
    "fcntl",
    "fnmatch",
    "fractions",
    "gettext",
    "glob",
    "hashlib",
    "heapq",
    "html",
    "http",
    "inspect",
    "json",
    "locale",
    "marshal",
    "mmap",
    "numbers",
    "opcode",
    "operator",
    "optparse",
    "pickle",
    "pkgutil",
    "platform",
    "pprint",
    "queue",
    "random",
    "resource",
    "runpy",
    "secrets",
    "select",
    "shutil",
    "signal",
    "socket",
    "statistics",
    "string",
    "struct",
    "subprocess",
    "symtable",
    "tempfile",
    "textwrap",
    "token",
    "tokenize",
    "traceback",
    "types",
    "uuid",
    "warnings",
    "weakref",
    "zipfile",
]

PROGRAMS = {
    "threads": """
        import sys
        import time
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(2, "mine") as pool:
            print(list(pool.map(abs, range(4))), list(pool.map(time.sleep, [0.3] * 6)))
    """,
    "loop": """
        import asyncio
        import sys
        import time

        async def main():
            await asyncio.sleep(0.1)
            time.sleep(0.3)
            await asyncio.to_thread(time.sleep, 0.1)

        asyncio.run(main())
    """,
    "pools": """
        import sys
        import time
        from multiprocessing.pool import ThreadPool

        with ThreadPool(2) as pool:
            print(pool.map(abs, range(4)), pool.map(time.sleep, [0.2] * 4))
    """,
}
#: Prints what was imported, at the end of each.
IMPORTED = """
    if "names" in sys.argv:
        print(*sys.modules)
"""
#: A rule for a pool is looked up by a pattern.
CONFIG = """
pools:
  - match: "min*"
    max_workers: 2
"""


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_module_beside_a_program_is_imported(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    ran = tmp_path / "ran"
    folder = tmp_path / "program"
    program = script(folder, PROGRAMS[name])
    program.write_text(program.read_text() + script(tmp_path, IMPORTED, "imported.py").read_text())
    own = set(python(program, "names", cwd=folder).out.split())
    shadows = [each for each in NAMES if each not in own]
    assert len(shadows) >= 27, shadows
    for each in shadows:
        (folder / f"{each}.py").write_text(f"open({str(ran)!r}, 'a').write({each + ' '!r})\n")
    alone = python(program, cwd=folder)
    assert not ran.exists()
    outcome, report = watched("--config", tmp_path / "config.yaml", program, cwd=tmp_path)
    assert not ran.exists(), ran.read_text()
    assert outcome == alone
    assert report["notices"] == []
    assert report["event_loops"] if name == "loop" else report["pools"]


def test_a_module_of_the_programs_own_is_the_one_that_it_imports(tmp_path: Path) -> None:
    """Also where the standard library has one of that name, and we have used it by then."""
    # Those that are built in come before any module beside a program.
    names = [name for name in ("array", "fcntl", "fnmatch", "resource") if name not in sys.builtin_module_names]
    for name in names:
        (tmp_path / f"{name}.py").write_text(f"mine = {name!r}\n")
    text = PROGRAMS["threads"] + "".join(f"\n        import {name}\n        print({name}.mine)" for name in names)
    program = script(tmp_path, text)
    alone = python(program, cwd=tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text(CONFIG)
    outcome, report = watched("--config", "config/config.yaml", program, cwd=tmp_path)
    assert outcome == alone
    assert outcome.out.splitlines()[1:] == names
    assert report["notices"] == []
