"""The kernel: what it can do, as tried, or else as its files, its configuration and its version say."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from composefs.cpus import read_lines
from composefs.doctor.finding import Finding, Job, Status
from composefs.kernel import Features, probe
from composefs.privileges import may_mount

_VERITY = "CONFIG_FS_VERITY"
_AS_ROOT = "run it as root, which can try it"


@dataclass(frozen=True, slots=True)
class Kernel:
    """What is known about the kernel.

    Attributes:
        features: what was found by trying.
        may_mount: whether this process has the privileges to mount images.
        machine: the architecture.
        file_systems: that are known now, as in /proc/filesystems.
        modules: that could be loaded, or are built in, by name.
        config: how the kernel was configured, as far as that can be read: the options that are set, "y" or "m".
        parameters: of the module overlay, if it is loaded.
        verity_seen: whether the file systems that are loaded say that there is fs-verity; None: they do not say.
    """

    features: Features
    may_mount: bool
    machine: str = ""
    file_systems: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()
    config: Mapping[str, str] = field(default_factory=dict)
    parameters: frozenset[str] = frozenset()
    verity_seen: bool | None = None

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor number of the release; zeros if it does not begin with them."""
        match = re.match(r"(\d+)\.(\d+)", self.features.kernel)
        return (int(match[1]), int(match[2])) if match else (0, 0)

    @property
    def has_verity(self) -> bool | None:
        """Whether it has fs-verity; None: nothing says."""
        if self.verity_seen is not None:
            return self.verity_seen
        return _VERITY in self.config if self.config else None


@dataclass(frozen=True, slots=True)
class _Ability:
    """Something that a kernel has since a version.

    Attributes:
        name: the end of the id.
        title: for people.
        attribute: of `Features`; None: it is not tried by itself.
        since: first version of the kernel.
        config: option that it depends on; None: none.
        module: that has it, also the name of the file system.
        parameter: of overlayfs, which comes with it.
        implied_by: attribute of `Features` that there is not without it.
        without: what is worse without it; None: images cannot be mounted.
    """

    name: str
    title: str
    attribute: str | None
    since: tuple[int, int]
    config: str | None
    module: str | None = None
    parameter: str | None = None
    implied_by: str | None = None
    without: str | None = None


_EROFS, _OVERLAY = "CONFIG_EROFS_FS", "CONFIG_OVERLAY_FS"
_ABILITIES = (
    _Ability("mount-api", "mount API", None, (5, 2), None, implied_by="overlay"),
    _Ability("erofs", "EROFS", "erofs", (5, 4), _EROFS, "erofs"),
    _Ability(
        "erofs-file",
        "EROFS of files",
        "file_backed_erofs",
        (6, 12),
        "CONFIG_EROFS_FS_BACKED_BY_FILE",
        without="images are mounted through loop devices",
    ),
    _Ability("overlay", "overlayfs", "overlay", (4, 0), _OVERLAY, "overlay"),
    _Ability(
        "redirect", "overlay redirects", None, (4, 19), _OVERLAY, parameter="metacopy", implied_by="data_only_layers"
    ),
    _Ability(
        "data-only-layers",
        "data-only layers",
        "data_only_layers",
        (6, 5),
        _OVERLAY,
        without="only images of the formats V0 and V1 can be mounted, which hide the directories of objects",
    ),
    _Ability(
        "overlay-verity",
        "overlay verity",
        "overlay_verity",
        (6, 6),
        _OVERLAY,
        without="contents of objects are not checked when they are read",
    ),
    _Ability("idmap", "id mapping", "idmap", (5, 19), _EROFS, without="images cannot be mounted id-mapped"),
)


def find_kernel(proc: str = "/proc", sys: str = "/sys", boot: str = "/boot", modules: str = "/lib/modules") -> Kernel:
    """Return what is known about the kernel; the arguments are where its files are."""
    features = probe()
    own_modules = f"{modules}/{features.kernel}"
    return Kernel(
        features=features,
        may_mount=may_mount(),
        machine=os.uname().machine,
        file_systems=frozenset(line.split()[-1] for line in read_lines(f"{proc}/filesystems") if line.strip()),
        modules=_find_modules(own_modules),
        config=_find_config(f"{proc}/config.gz", f"{own_modules}/config", f"{boot}/config-{features.kernel}"),
        parameters=_names(f"{sys}/module/overlay/parameters"),
        verity_seen=_see_verity(sys),
    )


def judge_kernel(kernel: Kernel, *, require_verity: bool) -> list[Finding]:
    """Return what *kernel* is good for.

    Args:
        kernel: what is known about it.
        require_verity: whether the kernel must enforce digests.
    """
    release = f"Linux {kernel.features.kernel}" + (f", {kernel.machine}" if kernel.machine else "")
    findings = [Finding("kernel.version", "version", Status.OK, release)]
    findings += [_judge(ability, kernel, require_verity=require_verity) for ability in _ABILITIES]
    findings.append(_judge_verity(kernel, require_verity=require_verity))
    return findings


def _judge(ability: _Ability, kernel: Kernel, *, require_verity: bool) -> Finding:
    without = ability.without
    if _is_needed(ability, kernel, require_verity=require_verity):
        without = None
    has, found = _evidence(ability, kernel)
    status, remedy = Status.OK, None
    if has is None:
        status, remedy = Status.UNKNOWN, _AS_ROOT
    elif not has:
        status = Status.MISSING if without is None else Status.DEGRADED
        remedy = _newer(ability, kernel)
        if without is None:
            remedy = f"{remedy}; until then composefs mount --fuse"
        else:
            found = f"{found}: {without}"
    # Who may not mount uses FUSE, and does without all this.
    needed_for = (Job.MOUNT,) if without is None and kernel.may_mount else ()
    return Finding(f"kernel.{ability.name}", ability.title, status, found, remedy, needed_for)


def _is_needed(ability: _Ability, kernel: Kernel, *, require_verity: bool) -> bool:
    """Tell whether images cannot be mounted without *ability* as things are, though they can be elsewhere."""
    if ability.attribute == "file_backed_erofs":
        return kernel.features.loop_devices is False
    return ability.attribute == "overlay_verity" and require_verity


def _evidence(ability: _Ability, kernel: Kernel) -> tuple[bool | None, str]:
    """Return whether the kernel has it, or None, and what tells so."""
    tried: bool | None = getattr(kernel.features, ability.attribute or "", None)
    if ability.implied_by is not None and getattr(kernel.features, ability.implied_by):
        tried = True
    since = ".".join(map(str, ability.since))
    is_left_out = kernel.config and ability.config is not None and ability.config not in kernel.config
    has: bool | None
    if tried is not None:
        has, found = tried, "works" if tried else "tried, and this kernel does not have it"
    elif ability.module in kernel.file_systems:
        has, found = True, "known to the kernel (not tried)"
    elif ability.module in kernel.modules:
        has, found = True, "there as a module (not tried)"
    elif ability.parameter in kernel.parameters:
        has, found = True, f"overlayfs has the parameter {ability.parameter}"
    elif is_left_out:
        has, found = False, f"the kernel is configured without {ability.config}"
    elif kernel.version >= ability.since:
        has, found = True, f"in kernels since {since} (not tried)"
    else:
        has, found = None, f"in kernels since {since}, and in some older ones of distributions"
    return has, found


def _newer(ability: _Ability, kernel: Kernel) -> str:
    if kernel.version < ability.since:
        return f"boot Linux {'.'.join(map(str, ability.since))} or later"
    if ability.module is not None:
        return f"install the module {ability.module} of this kernel (modprobe {ability.module} says why it fails)"
    if ability.config in kernel.config:
        return "a sandbox may forbid it: run it outside"
    return f"boot a kernel with {ability.config}"


def _judge_verity(kernel: Kernel, *, require_verity: bool) -> Finding:
    remedy = None
    if kernel.has_verity is None:
        # Whether it matters is said by the file system, which was asked itself.
        status, found = Status.UNKNOWN, f"no file system and no configuration of this kernel tells of {_VERITY}"
    elif kernel.has_verity:
        status, found = Status.OK, "this kernel has it"
    else:
        status, found = Status.MISSING, f"the kernel is configured without {_VERITY}"
        remedy = f"boot a kernel with {_VERITY}, as those of distributions are"
    needed_for = (Job.IMPORT, Job.MOUNT) if require_verity else ()
    return Finding("kernel.verity", "fs-verity", status, found, remedy, needed_for)


def _see_verity(sys: str) -> bool | None:
    """Return whether file systems that are loaded have fs-verity; ext4 always says."""
    features = {kind: _names(f"{sys}/fs/{kind}/features") for kind in ("ext4", "btrfs", "f2fs")}
    if any("verity" in names for names in features.values()):
        return True
    return False if features["ext4"] else None


def _names(directory: str) -> frozenset[str]:
    """Return the names in *directory*, none if it cannot be read."""
    try:
        return frozenset(os.listdir(directory))
    except OSError:
        return frozenset()


def _find_modules(directory: str) -> frozenset[str]:
    """Return the names of the modules in *directory*, whether they are files or built in."""
    lines = read_lines(f"{directory}/modules.dep") + read_lines(f"{directory}/modules.builtin")
    paths = (line.partition(":")[0] for line in lines)
    return frozenset(os.path.basename(path).partition(".ko")[0] for path in paths)


def _find_config(compressed: str, *plain: str) -> dict[str, str]:
    """Return the options that are set, of the first file that can be read."""
    try:
        with gzip.open(compressed, "rt", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except (OSError, EOFError):
        lines = next(filter(None, map(read_lines, plain)), [])
    options = (line.partition("=") for line in lines if line.startswith("CONFIG_"))
    return {name: value for name, _, value in options if value in {"y", "m"}}
