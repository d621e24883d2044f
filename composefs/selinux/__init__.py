"""Label a file system tree by the SELinux policy that lies in it, as composefs-rs 0.9.4 does.

Expressions are matched by an automaton and not by Python's `re`: some policies, made to harm, would take `re` years.
"""

from composefs.selinux.policy import WHITE_SPACE, Policy
from composefs.selinux.relabel import XATTR, relabel, strip

__all__ = ["WHITE_SPACE", "XATTR", "Policy", "relabel", "strip"]
