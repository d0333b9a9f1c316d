"""A gRPC server with two workers: driven into saturation by a real client and back."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import grpc
from cli_support import PATIENCE, script
from load_support import check_knee
from service_support import Server, serving

SERVER = """
import signal, sys, threading, time
from concurrent import futures
import grpc

class Greeter:
    def greet(self, request, context):
        time.sleep(0.05)
        return b"Hello, " + request

    def count(self, request, context):
        for number in range(int(request)):
            time.sleep(0.05)
            yield b"%d" % number

    def refuse(self, requests, context):
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no " + " ".join(map(bytes.decode, requests)))

def main(port):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    greeter = Greeter()
    methods = {
        "Greet": grpc.unary_unary_rpc_method_handler(greeter.greet),
        "Count": grpc.unary_stream_rpc_method_handler(greeter.count),
        "Refuse": grpc.stream_unary_rpc_method_handler(greeter.refuse),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Greeter", methods),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server.start()
    print("serving", flush=True)
    stop.wait()
    server.stop(5).wait()
    print("stopped")

main(sys.argv[1])
"""


def drive(server: Server, crowd: int) -> list[object]:
    """Gently, with so many calls at once, and gently again: all answers."""
    answers: list[object] = []
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        greet = channel.unary_unary("/Greeter/Greet")

        def gently() -> None:
            answers.extend(greet(b"%d" % number, timeout=PATIENCE) for number in range(10))

        gently()
        answers.append(list(channel.unary_stream("/Greeter/Count")(b"3", timeout=PATIENCE)))
        try:
            channel.stream_unary("/Greeter/Refuse")(iter([b"one", b"two"]), timeout=PATIENCE)
        except grpc.RpcError as error:
            answers.append((error.code(), error.details()))
        calls = [greet.future(b"%d" % number, timeout=PATIENCE) for number in range(crowd)]
        answers.extend(call.result() for call in calls)
        gently()
    return answers


def test_a_server_with_two_workers(tmp_path: Path) -> None:
    program = script(tmp_path, SERVER, "server.py")
    command = (sys.executable, program, "{port}")
    with serving(*command, folder=tmp_path, watched=False) as server:
        plain = drive(server, 10)
        alone = server.stop(signal.SIGTERM)
    with serving(*command, folder=tmp_path) as server:
        watched = drive(server, 60)
        ended = server.stop(signal.SIGTERM)
    assert watched[:12] + watched[-10:] == plain[:12] + plain[-10:]
    assert watched[12:-10] == [b"Hello, %d" % number for number in range(60)]
    assert ended[:3] == alone[:3] == (0, "serving\nstopped\n", "")
    # It is passed on and not stored: its name has the line.
    lines = program.read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "futures.ThreadPoolExecutor(" in text)
    name = f"__main__:main:{line}"
    check_knee(ended, name, "server.py", "time.sleep(0.05)", gentle_seconds=13 * 0.05)
    pool = ended.pool(name)
    assert (pool["max_workers"], pool["peak_active"], pool["created_at"].rpartition(":")[0]) == (
        2,
        2,
        f"{tmp_path.name}/server.py",
    )
    started = {function["name"]: function["started"] for function in pool["functions"]}
    assert started == {"__main__.Greeter.greet": 80, "__main__.Greeter.count": 1, "__main__.Greeter.refuse": 1}
    assert pool["tasks"]["succeeded"] == 82
