"""Every exception of the package.

    ComposefsError
    ├── UsageError            an argument that no repository or image could satisfy
    ├── FormatError           input that breaks its format, at an offset
    │   └── LimitError        input that is more than is taken, see `composefs.limits`
    ├── TreeError             a file system that cannot be had as asked, or not as an image
    ├── IntegrityError        a digest or size that is not the promised one
    ├── NotFoundError         a name that leads nowhere
    ├── RepositoryError       a repository that cannot be used as asked
    │   ├── BusyError         one that others have open, see `composefs.repository.locks`
    │   └── RoomError         one that is on a disk without room for what is to be stored
    ├── RegistryError         a registry that does not answer, or not as it should
    │   ├── AuthenticationError  one that wants other credentials, or more rights
    │   ├── ConnectionLostError  one whose connection ended, or came to a stop
    │   └── RangeError        one that gives no ranges of a blob
    ├── PolicyError           an image that the configuration of this host forbids
    ├── MountError            a mount that the kernel refuses, or cannot do; also an OSError
    └── CancelledError        work given up because other work failed

The system's own failures stay `OSError`, with the path.  All of these unpickle, since they cross process borders.
"""

import os


class ComposefsError(Exception):
    """Base of all errors that this package raises by itself."""


class UsageError(ComposefsError):
    """An argument that makes no sense, whatever the repository: *what*."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class FormatError(ComposefsError):
    """Input breaks its format: *what* at byte *offset* of *source*, in the entry named *entry* if there is one."""

    def __init__(self, source: str, offset: int, what: str, entry: str | None = None) -> None:
        super().__init__(source, offset, what, entry)  # all of them: unpickling calls FormatError(*args)
        self.source, self.offset, self.what, self.entry = source, offset, what, entry

    def __str__(self) -> str:
        entry = f", entry {self.entry}" if self.entry is not None else ""
        return f"{self.source}{entry}, offset {self.offset}: {self.what}"


class LimitError(FormatError):
    """Input is more than is taken of any: it has *got* of *what*, and *limit* is the most.

    Attributes:
        limit: the most that is taken; its unit is in *what*.
        got: how much there is, or None: more, but nobody looked how much.
        raised_by: the argument that raises the limit, if one does, such as of `composefs.import_image`.
    """

    def __init__(
        self,
        source: str,
        offset: int,
        what: str,
        limit: int,
        got: int | None = None,
        *,
        entry: str | None = None,
        raised_by: str | None = None,
    ) -> None:
        text = f"more than {limit} {what}" if got is None else f"{got} {what}, more than {limit}"
        super().__init__(source, offset, text, entry)
        self.args = (source, offset, what, limit, got)
        self.limit, self.got, self.raised_by = limit, got, raised_by


class TreeError(ComposefsError):
    """*what* is wrong with the file system at *path*, which is bytes or text."""

    def __init__(self, path: bytes | str, what: str) -> None:
        super().__init__(path, what)
        self.path = path.decode("utf-8", "backslashreplace") if isinstance(path, bytes) else path
        self.what = what

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


class IntegrityError(ComposefsError):
    """*subject* is not what it was promised to be: *wanted* against *got*, both readable text."""

    def __init__(self, subject: str, wanted: str, got: str) -> None:
        super().__init__(subject, wanted, got)
        self.subject, self.wanted, self.got = subject, wanted, got

    def __str__(self) -> str:
        return f"{self.subject}: wanted {self.wanted}, got {self.got}"


class NotFoundError(ComposefsError):
    """*what* does not exist."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class RepositoryError(ComposefsError):
    """The repository at *path* cannot be used as asked: *what*."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(path, what)
        self.path, self.what = path, what

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


class BusyError(RepositoryError):
    """The repository at *path* is in use.

    Attributes:
        holders: who has it open, for people, as far as that can be found out.
    """

    def __init__(self, path: str, holders: tuple[str, ...]) -> None:
        super().__init__(path, f"is in use by {', '.join(holders) or 'a process that is not shown'}")
        self.args = (path, holders)
        self.holders = holders


class RoomError(RepositoryError):
    """What is to be stored in the repository at *path* certainly does not fit on its disk.

    Attributes:
        needed: at least so many.
        free: so many there are.
        unit: of both: "bytes" or "inodes".
    """

    def __init__(self, path: str, needed: int, free: int, unit: str) -> None:
        super().__init__(path, f"has no room: needs at least {needed:,} {unit}, and {free:,} are free")
        self.args = (path, needed, free, unit)
        self.needed, self.free, self.unit = needed, free, unit


class RegistryError(ComposefsError):
    """A registry, or a server that it sends us to, does not give what was asked for: *what*.

    Attributes:
        what: what went wrong and what was asked for; holds no secret.
        host: host[:port] of the server that answered, or did not.
        status: of the HTTP answer; None: there was none.
        code: of the registry API, such as MANIFEST_UNKNOWN, if the server said one.
    """

    def __init__(self, what: str, host: str, status: int | None = None, code: str | None = None) -> None:
        super().__init__(what, host, status, code)
        self.what, self.host, self.status, self.code = what, host, status, code

    def __str__(self) -> str:
        return f"{self.host}: {self.what}"


class AuthenticationError(RegistryError):
    """A registry wants other credentials than it was shown, or knows them and grants less than what was asked for."""


class ConnectionLostError(RegistryError):
    """The connection ended, or nothing came in time: what may go well the next time."""


class RangeError(RegistryError):
    """The server gives no single ranges of this blob, though perhaps all of it."""


class PolicyError(ComposefsError):
    """*reference* is *what*, says the configuration of this host.

    Attributes:
        reference: the image that is refused.
        what: such as "rejected".
        scope: the entry of the file that says so, such as "docker:quay.io/example".
        source: the file.
        remedy: what to do about it, if that is known.
    """

    def __init__(self, reference: str, what: str, scope: str, source: str, *, remedy: str | None = None) -> None:
        super().__init__(reference, what, scope, source)
        self.reference, self.what, self.scope, self.source, self.remedy = reference, what, scope, source, remedy

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy is not None else ""
        return f"{self.reference}: {self.what}, by {self.scope} in {self.source}{remedy}"


class MountError(ComposefsError, OSError):
    """Nothing is mounted: *step* failed, or the kernel lacks what it needs.

    Attributes:
        errno: what the kernel said; EOPNOTSUPP if it was not asked.
        step: a call and what it was for, such as "fsconfig verity=require".
        messages: what the kernel said about it, a line each.
        feature: what the kernel lacks, with the version that has it, if that is the cause.
        remedy: what to do about it, if that is known.
    """

    def __init__(
        self,
        step: str,
        errno: int,
        *,
        messages: tuple[str, ...] = (),
        feature: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(errno, os.strerror(errno))
        self.step, self.messages, self.feature, self.remedy = step, messages, feature, remedy

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickle_mount_error, (self.step, self.errno), vars(self)  # OSError would call it with its own two

    def __str__(self) -> str:
        if self.feature is not None:
            what = f"this kernel lacks {self.feature}"
        else:
            what = "; ".join([self.strerror or "", *self.messages])
        remedy = f"; {self.remedy}" if self.remedy is not None else ""
        return f"{self.step}: {what}{remedy}"


def _unpickle_mount_error(step: str, errno: int) -> MountError:
    return MountError(step, errno)


class CancelledError(ComposefsError):
    """Work was given up because other work of the same import failed or was interrupted."""
