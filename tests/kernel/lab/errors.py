"""What keeps the lab from working."""


class LabError(Exception):
    """A guest or what it was made for failed: one line of why, and perhaps the end of a log below it."""


class UnavailableError(LabError):
    """The lab cannot be had on this machine; only where all tools are demanded is that a failure."""
