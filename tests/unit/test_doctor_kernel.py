"""What is said of kernels, of made-up ones and of this one."""

import gzip
from dataclasses import replace

import pytest

from composefs.doctor import Job, Status, kernel
from composefs.doctor.kernel import Kernel, find_kernel, judge_kernel
from composefs.kernel import Features

ALL = {
    "erofs": True,
    "file_backed_erofs": True,
    "loop_devices": True,
    "overlay": True,
    "data_only_layers": True,
    "layer_options": True,
    "layer_descriptors": True,
    "detached_layers": True,
    "overlay_verity": True,
    "idmap": True,
}
CONFIG = dict.fromkeys(
    ("CONFIG_EROFS_FS", "CONFIG_EROFS_FS_BACKED_BY_FILE", "CONFIG_OVERLAY_FS", "CONFIG_FS_VERITY"), "y"
)


def tried(release="6.18.1", **but):
    """Return a kernel that a privileged process found to do everything but what is told."""
    return Kernel(Features(release, **ALL | but), may_mount=True, verity_seen=True)


def untried(release, **facts):
    """Return a kernel that a process without privileges looked at."""
    return Kernel(Features(release), may_mount=False, **facts)


def judge(facts, *, require_verity=False):
    return {finding.id: finding for finding in judge_kernel(facts, require_verity=require_verity)}


def statuses(findings):
    return {name.removeprefix("kernel."): finding.status.value for name, finding in findings.items()}


def test_everything():
    """A kernel that does everything is ok in every line, and nothing is to be done."""
    findings = judge(tried(), require_verity=True)

    assert set(statuses(findings).values()) == {"ok"}
    assert [finding.remedy for finding in findings.values() if finding.remedy] == []
    assert findings["kernel.version"].found == "Linux 6.18.1"
    assert list(findings) == [
        "kernel.version",
        "kernel.mount-api",
        "kernel.erofs",
        "kernel.erofs-file",
        "kernel.overlay",
        "kernel.redirect",
        "kernel.data-only-layers",
        "kernel.overlay-verity",
        "kernel.idmap",
        "kernel.verity",
    ]


@pytest.mark.parametrize(
    ("but", "name", "status", "prevents", "remedy"),
    [
        ({"erofs": False}, "erofs", Status.MISSING, True, "install the module erofs of this kernel"),
        ({"overlay": False}, "overlay", Status.MISSING, True, "install the module overlay of this kernel"),
        ({"file_backed_erofs": False}, "erofs-file", Status.DEGRADED, False, "CONFIG_EROFS_FS_BACKED_BY_FILE"),
        (
            {"file_backed_erofs": False, "loop_devices": False},
            "erofs-file",
            Status.MISSING,
            True,
            "composefs mount --fuse",
        ),
        ({"overlay_verity": False}, "overlay-verity", Status.DEGRADED, False, "CONFIG_OVERLAY_FS"),
        ({"idmap": False}, "idmap", Status.DEGRADED, False, "CONFIG_EROFS_FS"),
    ],
)
def test_without(but, name, status, prevents, remedy):
    """What a kernel lacks is said, with what to do, and whether images cannot be mounted for that."""
    found = judge(tried(**but))[f"kernel.{name}"]

    assert found.status is status
    assert found.prevents == ((Job.MOUNT,) if prevents else ())
    assert remedy in found.remedy


def test_sandbox():
    """What a kernel was configured with, and does not do, something else forbids."""
    facts = replace(tried(idmap=False), config={"CONFIG_EROFS_FS": "m"})

    assert judge(facts)["kernel.idmap"].remedy == "a sandbox may forbid it: run it outside"


def test_old_kernel():
    """Linux 6.1 has no data-only layers: later versions are named."""
    facts = tried("6.1.0-54-cloud-amd64", data_only_layers=False, file_backed_erofs=False, overlay_verity=False)

    findings = judge(facts)

    assert findings["kernel.data-only-layers"].status is Status.DEGRADED
    assert findings["kernel.data-only-layers"].remedy == "boot Linux 6.5 or later"
    assert "only images of the formats V0 and V1" in findings["kernel.data-only-layers"].found
    assert findings["kernel.erofs-file"].remedy == "boot Linux 6.12 or later"
    assert "loop devices" in findings["kernel.erofs-file"].found
    assert findings["kernel.redirect"].status is Status.OK
    assert findings["kernel.mount-api"].found == "works"


def test_required_verity():
    """Where digests must be enforced, a kernel that does not do that is good for nothing."""
    facts = Kernel(Features("6.18", **ALL | {"overlay_verity": False}), may_mount=True, verity_seen=False)

    findings = judge(facts, require_verity=True)

    assert findings["kernel.overlay-verity"].prevents == (Job.MOUNT,)
    assert findings["kernel.verity"].prevents == (Job.IMPORT, Job.MOUNT)
    assert judge(facts)["kernel.verity"].prevents == ()


def test_without_privileges():
    """What files of the kernel say is taken, and that it was not tried is said."""
    findings = judge(untried("6.18.44", file_systems=frozenset(["erofs"]), modules=frozenset(["overlay"])))

    assert findings["kernel.erofs"].found == "known to the kernel (not tried)"
    assert findings["kernel.overlay"].found == "there as a module (not tried)"
    assert findings["kernel.data-only-layers"].found == "in kernels since 6.5 (not tried)"
    assert set(statuses(findings).values()) == {"ok", "unknown"}
    assert findings["kernel.verity"].status is Status.UNKNOWN
    assert all(finding.prevents == () for finding in findings.values())


def test_version_alone_proves_no_lack():
    """Distributions bring features to old kernels: without privileges that stays unknown."""
    findings = judge(untried("5.14.0-503.el9", config=CONFIG))

    found = findings["kernel.data-only-layers"]
    assert (found.status, found.remedy) == (Status.UNKNOWN, "run it as root, which can try it")
    assert findings["kernel.erofs"].status is Status.OK


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("CONFIG_EROFS_FS", "erofs"),
        ("CONFIG_EROFS_FS_BACKED_BY_FILE", "erofs-file"),
        ("CONFIG_OVERLAY_FS", "data-only-layers"),
        ("CONFIG_FS_VERITY", "verity"),
    ],
)
def test_configuration(option, name):
    """What a kernel is configured without it does not have, whatever its version; who may not mount can use FUSE."""
    config = {key: value for key, value in CONFIG.items() if key != option}

    found = judge(untried("7.3.4", config=config))[f"kernel.{name}"]

    assert option in found.found
    assert found.status in {Status.MISSING, Status.DEGRADED}
    assert found.prevents == ()
    assert found.remedy


@pytest.mark.parametrize("release", ["", "linux", "7"])
def test_strange_release(release):
    """A release that is no number is older than everything."""
    assert untried(release).version == (0, 0)


def write(directory, files):
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A machine of files; the value gives the arguments that say where they are."""
    monkeypatch.setattr(kernel, "probe", lambda: Features("6.12.1"))
    monkeypatch.setattr(kernel, "may_mount", lambda: False)
    return {name: str(tmp_path / name) for name in ("proc", "sys", "boot", "modules")}


def test_facts(places, tmp_path):
    """Facts are read from where kernels and distributions put them."""
    write(
        tmp_path,
        {
            "proc/filesystems": b"nodev\tsysfs\n\text4\n\terofs\n",
            "modules/6.12.1/modules.dep": b"kernel/fs/overlayfs/overlay.ko.xz: kernel/lib/a.ko\nkernel/b/btrfs.ko:\n",
            "modules/6.12.1/modules.builtin": b"kernel/fs/fuse/fuse.ko\n",
            "modules/6.12.1/config": b"CONFIG_FS_VERITY=y\n# CONFIG_EROFS_FS is not set\nCONFIG_A=7\nCONFIG_B=m\n",
            "sys/fs/ext4/features/encryption": b"supported\n",
            "sys/module/overlay/parameters/metacopy": b"N\n",
        },
    )

    found = find_kernel(**places)

    assert found.file_systems == {"sysfs", "ext4", "erofs"}
    assert found.modules == {"overlay", "btrfs", "fuse"}
    assert found.config == {"CONFIG_FS_VERITY": "y", "CONFIG_B": "m"}
    assert found.parameters == {"metacopy"}
    assert found.verity_seen is False  # which weighs more than any file of a configuration
    assert found.has_verity is False
    assert found.may_mount is False
    assert judge(found)["kernel.redirect"].found == "overlayfs has the parameter metacopy"


def test_running_configuration(places, tmp_path):
    """The configuration that the kernel itself gives comes before those of files."""
    write(
        tmp_path,
        {
            "proc/config.gz": gzip.compress(b"CONFIG_EROFS_FS=m\n"),
            "boot/config-6.12.1": b"CONFIG_OVERLAY_FS=y\n",
            "sys/fs/btrfs/features/verity": b"0\n",
        },
    )

    found = find_kernel(**places)

    assert found.config == {"CONFIG_EROFS_FS": "m"}
    assert found.has_verity is True


def test_no_facts(places):
    """Where nothing can be read, nothing is known, and nothing fails."""
    found = find_kernel(**places)

    assert (found.has_verity, found.config, found.modules) == (None, {}, frozenset())
    assert statuses(judge(found))["erofs"] == "ok"  # by its version


def test_broken_configuration(places, tmp_path):
    """A configuration that is cut off is as good as none."""
    write(
        tmp_path, {"proc/config.gz": gzip.compress(b"CONFIG_EROFS_FS=m\n")[:-9], "boot/config-6.12.1": b"CONFIG_B=y\n"}
    )

    assert find_kernel(**places).config == {"CONFIG_B": "y"}


def test_this_kernel():
    """The kernel that runs is known."""
    found = find_kernel()

    assert found.version >= (4, 18)
    assert {"proc", "tmpfs"} <= found.file_systems
