"""How many CPUs this process may use."""

import os

import pytest

from composefs import cpus
from composefs.cpus import available_cpus, cpu_quota


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "wanted"),
    [
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"cpu.max": "max 100000\n", "a/b/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "50000 100000\n", "a/b/cpu.max": "max 100000\n"}, 0.5),
        ("0::/../x\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("2:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "20000\n", "cpu/a/cpu.cfs_period_us": "10000\n"}, 2.0),
        ("2:cpu:/\n1:cpuset:/b\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "10000\n"}, None),
    ],
)
def test_quota(tmp_path, groups, files, wanted):
    """The limits of control groups of both versions are found, those further up, too."""
    write(tmp_path, {"proc/self/cgroup": groups})
    write(tmp_path / "cgroup", files)

    assert cpu_quota(str(tmp_path / "proc"), str(tmp_path / "cgroup")) == wanted


@pytest.mark.parametrize(("quota", "wanted"), [(None, 8), (0.5, 1), (2.5, 3), (64.0, 8)])
def test_available_cpus(monkeypatch, quota, wanted):
    """A quota of control groups counts, rounded up, where there are more CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(cpus, "cpu_quota", lambda: quota)

    assert available_cpus() == wanted
