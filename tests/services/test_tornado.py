"""Tornado, whose handlers call blocking code in an executor of the loop's: driven into saturation and back."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from cli_support import script
from load_support import check_knee
from service_support import serving

SERVER = """
import asyncio, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from tornado.concurrent import run_on_executor
from tornado.ioloop import IOLoop
from tornado.web import Application, RequestHandler

def read(number):
    time.sleep(0.05)
    return f"page {number}"

class Pages(RequestHandler):
    async def get(self, number):
        self.write(await IOLoop.current().run_in_executor(None, read, int(number)))

class Counts(RequestHandler):
    executor = ThreadPoolExecutor(2)

    @run_on_executor
    def count(self, number):
        return str(number + 1)

    async def get(self, number):
        self.write(await self.count(int(number)))

async def main(port):
    IOLoop.current().set_default_executor(ThreadPoolExecutor(4, thread_name_prefix="blocking"))
    server = Application([(r"/pages/([0-9]+)", Pages), (r"/counts/([0-9]+)", Counts)]).listen(port, "127.0.0.1")
    stop = asyncio.Event()
    IOLoop.current().asyncio_loop.add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    server.stop()
    await server.close_all_connections()
    print("stopped")

asyncio.run(main(int(sys.argv[1])))
"""


def test_handlers_that_block(tmp_path: Path) -> None:
    program = script(tmp_path, SERVER, "server.py")
    command = (sys.executable, program, "{port}")
    with serving(*command, folder=tmp_path, watched=False) as server:
        plain = server.drive("/pages/{}", clients=2, requests=10)
        alone = server.stop(signal.SIGTERM)
    with serving(*command, folder=tmp_path) as server:
        before = server.drive("/pages/{}", clients=2, requests=10)
        crowd = server.drive("/pages/{}", clients=40, requests=4)
        after = server.drive("/pages/{}", clients=2, requests=10)
        counts = server.drive("/counts/{}", clients=2, requests=3)
        ended = server.stop(signal.SIGTERM)
    assert before == after == plain
    assert [answer.body for answer in crowd] == [b"page %d" % number for number in range(160)]
    assert [answer.body for answer in counts] == [b"%d" % number for number in range(1, 7)]
    assert ended[:3] == alone[:3] == (0, "stopped\n", "")
    check_knee(ended, "blocking", "server.py", "time.sleep(0.05)", gentle_seconds=10 * 0.05)
    pool = ended.pool("blocking")
    assert (pool["max_workers"], pool["peak_active"]) == (4, 4)
    assert [function["name"] for function in pool["functions"]] == ["__main__.read"]
    assert pool["tasks"]["succeeded"] == 200
    [function] = ended.pool("__main__:Counts.executor")["functions"]
    assert (function["name"], function["started"]) == ("__main__.Counts.count", 6)
    [loop] = ended.report["event_loops"]
    assert loop["kind"] == "asyncio"
