import os
import sys
import sysconfig
from functools import partial
from typing import Any

import pytest

import poolscope
from poolscope.probe.interpreter import stacks
from poolscope.probe.interpreter.stacks import DEPTH_LIMIT, creation_site, is_user_file, user_lines, user_place

STDLIB = sysconfig.get_path("stdlib")
HERE = __file__


def function_in(filename, name="f", body="return call()", module="somebody"):
    """A function that seems to come from that file; it calls `call`."""
    namespace = {"__name__": module, "__file__": filename}
    code = compile(f"def {name}(call):\n    {body}\n", filename, "exec")
    exec(code, namespace)
    return namespace[name]


class TestIsUserFile:
    @pytest.mark.parametrize(
        "filename",
        [
            HERE,
            "/srv/app/main.py",
            "relative/app.py",
            "/venv/lib/python3.12/site-packages/poolscope/shipped/examples/hard_limit.py",
            "<stdin>",
            "<string>",
            "<ipython-input-3-ab>",
            "<python-input-0>",
        ],
    )
    def test_users(self, filename):
        assert is_user_file(filename)

    @pytest.mark.parametrize(
        "filename",
        [
            os.path.join(STDLIB, "threading.py"),
            os.path.join(STDLIB, "asyncio", "base_events.py"),
            os.path.join(STDLIB, "site-packages", "requests", "api.py"),
            "/venv/lib/python3.12/site-packages/requests/api.py",
            "/usr/lib/python3/dist-packages/requests/api.py",
            os.path.join(sys.prefix, "bin", "uvicorn"),
            stacks.__file__,
            "<frozen importlib._bootstrap>",
            "<attrs generated init app.User>",
            "",
        ],
    )
    def test_not_users(self, filename):
        assert not is_user_file(filename)

    def test_a_directory_that_only_begins_alike_is_the_users(self):
        assert is_user_file(os.path.dirname(poolscope.__file__) + "_demo/main.py")


class TestUserLines:
    def test_the_users_innermost_line_then_the_one_that_it_called(self):
        seen = []
        user = function_in("/srv/app.py", "user", "return call(1)")
        library = function_in("/x/site-packages/lib.py", "library", "return seen(1)")
        library.__globals__["seen"] = lambda _: seen.extend(user_lines(sys._getframe(1)))
        user(library)
        assert seen == [("/srv/app.py", 2, "user"), ("/x/site-packages/lib.py", 2, "library")]

    def test_the_instruction_tells_places_in_one_line_from_each_other(self):
        seen = []
        library = function_in("/x/site-packages/lib.py", "library", "return [seen(1), seen(1)]")
        library.__globals__["seen"] = lambda _: seen.append(user_place(sys._getframe(1)))
        function_in("/srv/app.py", "user", "return call(1)")(library)
        function_in("/srv/app.py", "user", "return [call(1), call(1)]")(
            lambda _: seen.append(user_place(sys._getframe(1)))
        )
        function_in("/x/site-packages/lib.py", "alone", "return [call(1), call(1)]")(
            lambda _: seen.append(user_place(sys._getframe(1), id(sys._getframe(2))))
        )
        called, called_again, here, here_again, alone, alone_again = seen
        assert called[0] == called_again[0] == [("/srv/app.py", 2, "user"), ("/x/site-packages/lib.py", 2, "library")]
        assert here[0] == here_again[0] == [("/srv/app.py", 2, "user")]
        assert alone[0] == alone_again[0] == [("/x/site-packages/lib.py", 2, "alone")]
        assert called[1] < called_again[1]
        assert here[1] < here_again[1]
        assert alone[1] < alone_again[1]

    def test_no_library_below(self):
        seen = []
        user = function_in("/srv/app.py", "user", "return call(1)")
        user(lambda _: seen.extend(user_lines(sys._getframe(1))))
        assert seen == [("/srv/app.py", 2, "user")]

    def test_innermost_only_without_a_line_of_the_users(self):
        seen = []
        bottom = function_in(os.path.join(STDLIB, "bottom.py"), "bottom", "return call(1)")
        library = function_in("/x/site-packages/lib.py", "library", "return seen(1)")

        def look(_):
            frame: Any = sys._getframe(1)
            seen.extend(user_lines(frame, stop=id(frame.f_back.f_back)))

        library.__globals__["seen"] = look
        bottom(library)
        assert seen == [("/x/site-packages/lib.py", 2, "library")]

    def test_nothing_outside_of_the_frame_to_stop_at(self):
        frame = sys._getframe()
        assert user_lines(frame, stop=id(frame)) == []

    def test_no_frame(self):
        assert user_lines(None) == []

    def test_generated_code_is_not_the_users(self):
        seen = []
        user = function_in("/srv/app.py", "user", "return call(1)")
        made = function_in("<string>", "__init__", "return seen(1)")
        made.__globals__["seen"] = lambda _: seen.extend(user_lines(sys._getframe(1)))
        user(made)
        assert seen == [("/srv/app.py", 2, "user"), ("<string>", 2, "__init__")]

    def test_the_program_of_the_command_line_is(self):
        seen = []
        main = function_in("<string>", "main", "return call(1)")
        del main.__globals__["__file__"]
        main(lambda _: seen.extend(user_lines(sys._getframe(1))))
        assert seen == [("<string>", 2, "main")]

    def test_bounded(self):
        seen = []
        library = function_in("/x/site-packages/lib.py", "library", "return call(depth - 1) if depth else seen(1)")
        code = compile(
            "def library(depth):\n    return library(depth - 1) if depth else seen(1)\n",
            "/x/site-packages/lib.py",
            "exec",
        )
        exec(code, library.__globals__)
        library.__globals__["seen"] = lambda _: seen.extend(user_lines(sys._getframe(1)))
        library.__globals__["library"](DEPTH_LIMIT + 50)
        # this test's line is farther out than anybody looks
        assert seen == [("/x/site-packages/lib.py", 2, "library")]


def make_here(*, depth=0):
    return creation_site(depth)


class Maker:
    def make(self):
        return creation_site()


class TestCreationSite:
    def test_the_caller(self):
        place, name, variable = creation_site()
        file, _, line = place.rpartition(":")
        assert file == "unit/test_stacks.py"
        assert name == f"{__name__}:TestCreationSite.test_the_caller:{line}"
        assert variable == ""

    def test_the_variable(self):
        self.made = creation_site()
        made = creation_site()
        function = f"{__name__}:TestCreationSite.test_the_variable"
        assert [made[1:], self.made[1:]] == [(f"{function}.made", "made"), (f"{function}.made", "made")]

    def test_what_is_stored_of_a_pool_that_is_used_is_no_name_for_it(self):
        submit = function_in("/lib/thread.py", "submit", "return call()", module="concurrent.futures.thread")
        future = submit(creation_site)
        assert future[2] == ""
        assert future[1].startswith(f"{__name__}:TestCreationSite.")

    def test_depth(self):
        line = make_here.__code__.co_firstlineno + 1
        assert make_here()[1] == f"{__name__}:make_here:{line}"
        assert make_here(depth=1)[1].startswith(f"{__name__}:TestCreationSite.test_depth:")

    def test_methods_have_their_class(self):
        assert Maker().make()[1].startswith(f"{__name__}:Maker.make:")

    @pytest.mark.parametrize(
        "module",
        ["poolscope", "poolscope.probe.runtime", "concurrent.futures.thread", "asyncio.base_events", "threading"],
    )
    def test_those_who_make_pools_for_others_are_skipped(self, module):
        def user(maker):
            return maker(creation_site)

        maker = function_in("/lib/maker.py", "maker", "return call()", module=module)
        assert user(maker)[1].rpartition(":")[0].endswith(".<locals>.user")

    def test_others_of_similar_names_are_not(self):
        maker = function_in("/lib/maker.py", "maker", "return call()", module="poolscope_demo")
        assert maker(creation_site) == ("lib/maker.py:2", "poolscope_demo:maker:2", "")

    def test_what_a_library_makes_was_made_at_the_line_that_calls_it(self):
        make = function_in("/x/site-packages/lib/pools.py", "make", "return call()", module="lib.pools")
        helper = function_in("/x/site-packages/lib/api.py", "helper", "return call()", module="lib.api")
        start = function_in("/srv/app/user.py", "start", "\n\n    return call()", module="user")
        site = start(lambda: helper(lambda: make(creation_site)))
        assert site[1] == "lib.pools:make"
        assert site[0].startswith("unit/test_stacks.py:")
        assert start(partial(helper, partial(make, creation_site))) == ("app/user.py:4", "lib.pools:make", "")

    def test_module_level(self):
        namespace = {"__name__": "__main__", "creation_site": creation_site}
        exec(compile("\nsite = creation_site()\n", "/srv/work/script.py", "exec"), namespace)
        assert namespace["site"] == ("work/script.py:2", "__main__:<module>.site", "site")

    def test_nobody(self):
        assert creation_site(10_000) == ("", "unknown", "")
