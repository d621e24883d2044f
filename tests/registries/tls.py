"""A certificate authority for one test, and certificates of it, made by openssl."""

import ipaddress
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.tools import require_tool

_DAYS = "2"  # that a certificate is good for
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Certificate:
    """A certificate and its private key, both PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """A private CA in *directory*, whose *certificate* is what clients have to trust."""

    directory: Path
    certificate: Path
    key: Path

    def issue(self, name: str, *hosts: str) -> Certificate:
        """Return a new certificate *name* of a server called *hosts* (names or addresses), or of a client: no hosts."""
        made = Certificate(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        request, extensions = self.directory / f"{name}.csr", self.directory / f"{name}.ext"
        usage = "serverAuth" if hosts else "clientAuth"
        alternatives = ",".join(f"{'IP' if _is_address(host) else 'DNS'}:{host}" for host in hosts)
        extensions.write_text(
            f"extendedKeyUsage={usage}\n" + (f"subjectAltName={alternatives}\n" if hosts else ""), encoding="ascii"
        )
        _openssl("req", "-new", *_KEY, "-keyout", made.key, "-out", request, "-subj", f"/CN={name}")
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial"),
            *("-days", _DAYS, "-extfile", extensions, "-out", made.certificate),
        )
        return made


def make_authority(directory: Path) -> Authority:
    """Make a CA in *directory*, which is made if it is not there."""
    directory.mkdir(parents=True, exist_ok=True)
    made = Authority(directory, directory / "ca.crt", directory / "ca.key")
    _openssl(
        *("req", "-x509", *_KEY, "-keyout", made.key, "-out", made.certificate, "-days", _DAYS),
        *("-subj", "/CN=CA of a test"),
        *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"),
    )
    return made


def _openssl(*arguments: object) -> None:
    command = [require_tool("openssl"), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
