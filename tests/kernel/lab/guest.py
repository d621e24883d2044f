"""One virtual machine: qemu, which emulates it without KVM, and virtiofsd, which shows it the host's files."""

import os
import selectors
import shlex
import socket
import subprocess
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

from . import initramfs
from .disks import RESULTS, RESULTS_SIZE, Disk, RawDisk, make_sparse
from .errors import LabError
from .kernels import Kernel
from .tools import Tools

_HERE = Path(__file__).parent
_HIDDEN = ("/tmp", "/run", "/mnt")  # where a guest has file systems of its own
_INITRAMFS, _LOG, _SOCKET = "initramfs", "serial.log", "fs.sock"
_LOG_LINES = 40  # of the end of a serial log, for people


@dataclass(frozen=True, slots=True)
class Job:
    """What a guest is to do, as root, with standard output and standard error together."""

    command: Sequence[str]
    environment: Mapping[str, str]
    directory: str
    shown: Sequence[Path] = ()  # files of the host that must be there, even those below /tmp, /run or /mnt


@dataclass(slots=True)
class Guest:
    """A virtual machine that boots *kernel*, does *job*, and switches itself off.

    `start()`, then `wait()`; or `kill()`, which is a power cut: the disks are then as the guest has left them.
    As a context manager it leaves no process behind.
    """

    tools: Tools
    kernel: Kernel
    job: Job
    disks: Sequence[Disk | RawDisk]
    directory: Path  # for files of this guest alone
    cpus: int = 1
    memory: int = 2048  # MiB
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)  # those that run, the machine last

    @property
    def log(self) -> Path:
        """The file with what the kernel says on its serial line, and with what the file server complains of."""
        return self.directory / _LOG

    def start(self) -> None:
        """Switch the machine on."""
        (self.directory / _INITRAMFS).write_bytes(self._initramfs())
        make_sparse(self._results, RESULTS_SIZE)
        with self.log.open("wb") as log, socket.socket(socket.AF_UNIX) as listening:
            # qemu is not to come before the server listens, so that gets a socket that does.
            listening.bind(str(self.directory / _SOCKET))
            listening.listen()
            fd = listening.fileno()
            share = ["--fd", str(fd), "--shared-dir", "/", "--readonly", "--cache", "always", "--sandbox", "none"]
            self._start(self.tools.file_server(*share, "--log-level", "error"), pass_fds=[fd], stderr=log)
        self._start(self.tools.emulator(*self._options()), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def wait(self, output: BinaryIO, timeout: float) -> int:
        """Copy what the command writes to *output* until the machine is off, and return its exit status.

        Raises:
            LabError: the command did not end within *timeout* seconds, or the kernel or qemu died before.
        """
        qemu = self.processes[-1]
        try:
            self._copy_output(qemu, output, time.monotonic() + timeout)
            qemu.wait()
        finally:
            self.kill()
        try:
            with tarfile.open(self._results, "r:") as archive:
                status = archive.extractfile("./status")
                assert status is not None
                return int(status.read())
        except (tarfile.ReadError, KeyError):
            raise LabError(
                f"the guest died before its command ended; its kernel said last:\n{self.log_end()}"
            ) from None

    def kill(self) -> None:
        """Cut the power."""
        for process in reversed(self.processes):
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        self.processes.clear()

    def extract_results(self, target: Path) -> None:
        """Copy the files that the command left in /lab/results to the directory *target*; the machine is off."""
        with tarfile.open(self._results, "r:") as archive:
            for member in archive:
                if (file := archive.extractfile(member)) is not None:
                    (target / Path(member.name).name).write_bytes(file.read())

    def log_end(self) -> str:
        """Return the last lines of the serial log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def _results(self) -> Path:
        return self.directory / "results.tar"

    def _initramfs(self) -> bytes:
        """Return the first file system: a shell, the modules, and the two programs that prepare and do the job."""
        files = [("busybox", self.tools.busybox.read_bytes()), ("init", (_HERE / "init.sh").read_bytes())]
        modules = enumerate(self.kernel.load_order())
        files += [(f"modules/{number:02}-{name}.ko", contents) for number, (name, contents) in modules]
        exports = [f"export {name}={shlex.quote(value)}" for name, value in self.job.environment.items()]
        start = [f"cd {shlex.quote(self.job.directory)}", f"exec {shlex.join(self.job.command)}"]
        shown = [str(path) for path in self.job.shown if any(path.is_relative_to(hidden) for hidden in _HIDDEN)]
        files += [
            ("lab/start", (_HERE / "start.sh").read_bytes()),
            ("lab/command", "\n".join([*exports, *start, ""]).encode()),
            ("lab/shown", "".join(f"{path}\n" for path in shown).encode()),
        ]
        return initramfs.pack(files)

    def _options(self) -> list[str]:
        """Return the machine as qemu's options; their paths are relative to the guest's directory."""
        # Guarding against the guest's own programs would cost a fifth of its time.
        arguments = "console=ttyS0 panic=-1 oops=panic mitigations=off"
        options = f"""
            -nodefaults -no-user-config -no-reboot -display none -machine q35 -accel tcg,thread=multi
            -cpu qemu64 -smp {self.cpus} -m {self.memory}M
            -object memory-backend-memfd,id=ram,size={self.memory}M,share=on -numa node,memdev=ram
            -chardev socket,id=fs,path={_SOCKET} -device vhost-user-fs-pci,chardev=fs,tag=host
            -chardev file,id=log,path={_LOG},append=on -serial chardev:log
            -chardev file,id=output,path=/dev/stdout -device virtio-serial -device virtserialport,chardev=output
            -device virtio-rng-pci
        """.split()
        for disk in [*self.disks, Disk(RESULTS, self._results)]:
            options += [*disk.drive(), "-device", f"virtio-blk-pci,drive={disk.name},serial={disk.name}"]
        return [*options, "-kernel", str(self.kernel.image), "-initrd", _INITRAMFS, "-append", arguments]

    def _start(self, command: Sequence[str], **streams: Any) -> None:
        # The kernel ends them should this thread die without a word; so no guest ever stays behind.
        bound = ["setpriv", "--pdeathsig", "KILL", *command]
        environment = {**os.environ, **self.tools.environment}
        process = subprocess.Popen(
            bound, stdin=subprocess.DEVNULL, cwd=self.directory, env=environment, start_new_session=True, **streams
        )
        self.processes.append(process)

    def _copy_output(self, qemu: subprocess.Popen[bytes], output: BinaryIO, end: float) -> None:
        assert qemu.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(qemu.stdout, selectors.EVENT_READ)
            while selector.select(max(0.0, end - time.monotonic())):
                chunk = os.read(qemu.stdout.fileno(), 1 << 16)
                if not chunk:
                    return
                output.write(chunk)
                output.flush()
        raise LabError(f"the guest was not done in time; its kernel said last:\n{self.log_end()}")
