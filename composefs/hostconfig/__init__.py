"""What the host says of registries: credentials, mirrors, certificates, proxies, and which images it takes.

Nothing is written, and nothing read before it is needed.
"""

from composefs.hostconfig.config import HostConfig
from composefs.hostconfig.options import NO_POLICY, AccessOptions

__all__ = ["NO_POLICY", "AccessOptions", "HostConfig"]
