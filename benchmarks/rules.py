"""What the recording and alerting rules cost a Prometheus: evaluation time and series for fleets of several sizes.

Each fleet is N instances of POOLS pools, of which one is serial. Its history is backfilled (`promtool tsdb
create-blocks-from openmetrics`) up to some minutes ahead; then a real Prometheus with the shipped rules evaluates
them over it, and says itself how long each group took. Nothing is scraped.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import yaml
from common import headline, integers, print_table, save, starting

from poolscope.config import Settings

SHIPPED = Path(__file__).resolve().parents[1] / "config" / "prometheus"
BUCKETS = [*map(str, Settings().metrics.wait_buckets), "+Inf"]
RULES = ("recording.yml", "alerts.yml")
#: Seconds between two evaluations where a group does not say: Prometheus' own default, as in the shipped configuration.
EVALUATION_INTERVAL = 60
#: Seconds of history that every rule has before it is first evaluated; those that look back further find no more.
HISTORY = 330
#: Metrics of a pool that the rules read: value per second, or a constant.
COUNTERS = {
    "poolscope_pool_busy_seconds": 3,
    "poolscope_pool_queued_seconds": 6,
    "poolscope_pool_saturated_seconds": 0.5,
    "poolscope_pool_tasks_submitted": 20,
}
GAUGES = {
    "poolscope_pool_max_workers": 4,
    "poolscope_pool_queue_depth": 7,
    "poolscope_pool_oldest_queued_seconds": 1,
    "poolscope_pool_longest_running_seconds": 1,
}


def families(instances, pools):
    """(family, type, [(sample without its value, growth per second, start)]), as `poolscope` exposes them."""
    where = [f'job="fleet",instance="host-{number}:9464"' for number in range(instances)]
    keys = [f'{at},pool="pool-{number}"' for at in where for number in range(pools)]
    yield "up", "gauge", [(f"up{{{at}}}", 0, 1) for at in where]
    yield (
        "poolscope_build_info",
        "gauge",
        [(f'poolscope_build_info{{{at},version="0",python="3"}}', 0, 1) for at in where],
    )
    for name, value in GAUGES.items():
        yield name, "gauge", [(f"{name}{{{key}}}", 0, value) for key in keys]
    for name, growth in COUNTERS.items():
        yield name, "counter", [(f"{name}_total{{{key}}}", growth, 0) for key in keys]
    name = "poolscope_pool_tasks_finished"
    outcomes = {"succeeded": 19, "failed": 1, "cancelled": 0}
    yield (
        name,
        "counter",
        [(f'{name}_total{{{key},outcome="{of}"}}', growth, 0) for key in keys for of, growth in outcomes.items()],
    )
    for name in ("poolscope_task_wait_seconds", "poolscope_task_run_seconds"):
        yield from histogram(name, keys)
    yield from histogram("poolscope_loop_lag_seconds", [f'{at},loop="MainThread"' for at in where])
    blocked = "poolscope_loop_blocked_seconds"
    yield blocked, "counter", [(f'{blocked}_total{{{at},loop="MainThread"}}', 0.01, 0) for at in where]
    serial = 'kind="pool",name="pool-0",pattern="async_then_serial",cause="blocking_io",severity="warning"'
    yield "poolscope_finding", "gauge", [(f"poolscope_finding{{{at},{serial}}}", 0, 1) for at in where]


def histogram(name, keys):
    samples = []
    for key in keys:
        samples += [(f'{name}_bucket{{{key},le="{le}"}}', number + 1, 0) for number, le in enumerate(BUCKETS)]
        samples += [(f"{name}_count{{{key}}}", len(BUCKETS), 0), (f"{name}_sum{{{key}}}", 5, 0)]
    # Backfilling only reads samples: as a histogram it would ask for every bucket at each time, in order.
    yield name, "unknown", samples


def backfill(folder, instances, pools, interval, ahead):
    """Blocks in `folder` with a history from HISTORY seconds ago to `ahead` seconds from now; the series."""
    end = int(time.time()) + ahead
    times = range(end - ahead - HISTORY, end + 1, interval)
    series = 0
    source = folder / "openmetrics.txt"
    with source.open("w") as file:
        for name, kind, samples in families(instances, pools):
            file.write(f"# TYPE {name} {kind}\n" if kind != "unknown" else "")
            series += len(samples)
            for sample, growth, start in samples:
                file.write("".join(f"{sample} {start + growth * (at - times[0])} {at}\n" for at in times))
        file.write("# EOF\n")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(source), str(folder / "data")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    source.unlink()
    return series


def get(url, **query):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}?{urllib.parse.urlencode(query)}", timeout=60) as answer:
        return answer.read().decode()


def cpu_seconds(address):
    """What the Prometheus has used so far."""
    return float(re.search(r"^process_cpu_seconds_total (\S+)$", get(f"http://{address}/metrics"), re.MULTILINE)[1])


def hurried(folder, every):
    """Copies of the rules whose groups are all evaluated every few seconds; paths."""
    copies = []
    for name in RULES:
        groups = yaml.safe_load((SHIPPED / name).read_text())["groups"]
        copies.append(folder / name)
        copies[-1].write_text(yaml.safe_dump({"groups": [{**group, "interval": f"{every}s"} for group in groups]}))
    return copies


def evaluated(folder, evaluations, every, seconds):
    """{group: seconds of each evaluation}, CPU seconds of a round of all groups, and the series that the rules gave.

    The first evaluation, which opens the blocks, counts for neither.
    """
    config = {
        "rule_files": [str(path) for path in hurried(folder, every)],
        # What is recorded now is older than the end of the history.
        "storage": {"tsdb": {"out_of_order_time_window": "1h"}},
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        found = {}
        seen = {}
        first_cpu = None
        deadline = time.monotonic() + seconds
        while not found or any(len(durations) <= evaluations for durations in found.values()):
            if time.monotonic() > deadline:
                raise SystemExit("the history came to its end before all was evaluated: raise --ahead")
            time.sleep(0.2)
            if process.poll() is not None:
                raise SystemExit((folder / "log").read_text())
            try:
                groups = json.loads(get(f"http://{address}/api/v1/rules"))["data"]["groups"]
            except OSError:
                continue
            for group in groups:
                for rule in group["rules"]:
                    if rule["health"] == "err":
                        raise SystemExit(f"{rule['name']}: {rule['lastError']}")
                name = f"{Path(group['file']).stem}: {group['name']}"
                at = group["lastEvaluation"]
                found.setdefault(name, [])
                if seen.get(name) != at and not at.startswith("0001"):
                    seen[name] = at
                    found[name].append(group["evaluationTime"])
            if first_cpu is None and found and all(found.values()):
                first_cpu, first_count = cpu_seconds(address), sum(map(len, found.values()))
        rounds = (sum(map(len, found.values())) - first_count) / len(found)
        cpu = (cpu_seconds(address) - first_cpu) / rounds
        metrics = get(f"http://{address}/metrics")
        counted = sum(
            int(float(value))
            for value in re.findall(r"^prometheus_rule_group_last_evaluation_samples\S* (\S+)$", metrics, re.MULTILINE)
        )
        return {name: durations[1:] for name, durations in found.items()}, cpu, counted
    finally:
        process.terminate()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=integers, default=[50, 500])
    parser.add_argument("--pools", type=int, default=10)
    parser.add_argument("--interval", type=int, default=30, help="seconds between two scrapes of the history")
    parser.add_argument("--ahead", type=int, default=420, help="seconds of history ahead of now, in which all is done")
    parser.add_argument("--evaluations", type=int, default=3)
    parser.add_argument("--every", type=int, default=30, help="seconds between two evaluations while it measures")
    parser.add_argument("--json", help="keep the record")
    options = parser.parse_args()
    started = starting()
    headline(f"{options.pools} pools an instance, median of {options.evaluations} evaluations, milliseconds")
    results = []
    for instances in options.instances:
        with tempfile.TemporaryDirectory() as place:
            begin = time.monotonic()
            series = backfill(Path(place), instances, options.pools, options.interval, options.ahead)
            left = options.ahead - (time.monotonic() - begin)
            groups, cpu, recorded = evaluated(Path(place), options.evaluations, options.every, left)
            results.append(
                {"instances": instances, "series": series, "recorded": recorded, "cpu_seconds": cpu, "seconds": groups}
            )
    rows = []
    for name in results[0]["seconds"]:
        medians = [statistics.median(result["seconds"][name]) * 1000 for result in results]
        rows.append([name, *(f"{median:.1f}" for median in medians), f"{medians[-1] / medians[0]:.1f}x"])
    sums = [sum(statistics.median(each) for each in result["seconds"].values()) * 1000 for result in results]
    rows.append(["all groups", *(f"{total:.1f}" for total in sums), f"{sums[-1] / sums[0]:.1f}x"])
    cpus = [result["cpu_seconds"] for result in results]
    rows.append(["CPU of a round of all", *(f"{cpu * 1000:.1f}" for cpu in cpus), f"{cpus[-1] / cpus[0]:.1f}x"])
    cores = [f"{cpu / EVALUATION_INTERVAL:.3f}" for cpu in cpus]
    rows.append(["cores at one round a minute", *cores, ""])
    for label, key in (("series read", "series"), ("series recorded, alerts", "recorded")):
        counts = [result[key] for result in results]
        rows.append([label, *(f"{count:,}" for count in counts), f"{counts[-1] / counts[0]:.1f}x"])
    print_table(["group", *(f"{result['instances']} instances" for result in results), "growth"], rows)
    if options.json:
        save(options.json, "rules", options, started, results)


if __name__ == "__main__":
    main()
