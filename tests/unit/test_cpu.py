import pytest
from runtime_support import SECOND

from poolscope.probe.interpreter import cpu
from poolscope.probe.interpreter.cpu import CpuClocks, cgroup_quota

V2_MOUNT = "30 23 0:26 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "33 29 0:29 {root} {mount} rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
OTHERS = "22 1 0:20 / /proc rw - proc proc rw\n31 29 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def quota(files):
    return cgroup_quota(files.get)


def v2(group, files, root="/", mount="/sys/fs/cgroup"):
    return quota(
        {
            "/proc/self/cgroup": f"0::{group}\n",
            "/proc/self/mountinfo": OTHERS + V2_MOUNT.format(root=root, mount=mount),
            **{f"{mount}{path}/cpu.max": text for path, text in files.items()},
        }
    )


def v1(group, files, root="/", mount="/sys/fs/cgroup/cpu,cpuacct"):
    contents = {
        "/proc/self/cgroup": f"5:memory:/elsewhere\n4:cpu,cpuacct:{group}\n",
        "/proc/self/mountinfo": OTHERS + V1_MOUNT.format(root=root, mount=mount),
    }
    for path, (limit, period) in files.items():
        contents[f"{mount}{path}/cpu.cfs_quota_us"] = limit
        contents[f"{mount}{path}/cpu.cfs_period_us"] = period
    return quota(contents)


def test_version_2_takes_the_least_quota_on_the_way_to_the_root():
    files = {"/a/b": "300000 100000\n", "/a": "150000 100000\n", "": "max 100000\n"}
    assert v2("/a/b", files) == 1.5
    assert v2("/a/b/c", files) == 1.5
    assert v2("/other", files) is None


def test_version_2_in_a_container_that_sees_its_own_group_as_the_root():
    assert v2("/", {"": "50000 100000\n"}) == 0.5


def test_a_container_that_sees_its_path_on_the_host():
    path = "/docker/0123"
    assert v2(path, {"": "200000 100000\n"}, root=path) == 2.0
    # Not mounted here at all: the mount is still the nearest that we know.
    assert v2(path, {"": "200000 100000\n"}, root="/docker/4567") == 2.0
    assert v2("/../outside", {"": "200000 100000\n"}) == 2.0


def test_version_1():
    assert v1("/a", {"/a": ("50000\n", "100000\n"), "": ("-1\n", "100000\n")}) == 0.5
    assert v1("/a", {"/a": ("-1\n", "100000\n")}) is None


def test_both_versions_side_by_side():
    files = {
        "/proc/self/cgroup": "1:cpu:/\n0::/\n",
        "/proc/self/mountinfo": V1_MOUNT.format(root="/", mount="/c1") + V2_MOUNT.format(root="/", mount="/c2"),
        "/c1/cpu.cfs_quota_us": "300000",
        "/c1/cpu.cfs_period_us": "100000",
        "/c2/cpu.max": "max 100000",
    }
    assert quota(files) == 3.0


@pytest.mark.parametrize("text", ["", "garbage", "0 100000", "100000 0", "100000"])
def test_an_unreadable_quota_is_none(text):
    assert v2("/", {"": text}) is None


def test_no_cgroups_at_all():
    assert quota({}) is None
    assert quota({"/proc/self/cgroup": "nonsense", "/proc/self/mountinfo": "a b c\n - \n"}) is None


def test_the_quota_counts_only_below_the_affinity(monkeypatch):
    monkeypatch.setattr(cpu, "sched_getaffinity", lambda pid: {0, 1})
    for limit, expected in ((None, 2.0), (8.0, 2.0), (0.5, 0.5)):
        monkeypatch.setattr(cpu, "cgroup_quota", lambda read, limit=limit: limit)
        assert cpu.allowed_cpus() == expected


def test_the_limits_are_read_every_five_seconds_at_most(monkeypatch):
    readings = iter([2.0, 4.0])
    monkeypatch.setattr(cpu, "allowed_cpus", lambda: next(readings))
    clocks = CpuClocks()
    assert [clocks.allowed(at * SECOND) for at in (100, 101, 104, 105, 106)] == [2.0, 2.0, 2.0, 4.0, 4.0]


def test_a_thread_that_is_not_there_has_no_clock():
    assert CpuClocks().thread(2**22 + 1) is None
    assert cpu.allowed_cpus() > 0
