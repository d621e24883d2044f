"""certs.d: which directory counts, and what its files are."""

import os

import pytest

from composefs.errors import NotFoundError
from composefs.reference import parse_name
from composefs.registry.endpoint import Tls

PLACES = ["~/.config/containers/certs.d", "etc/containers/certs.d", "etc/docker/certs.d"]


def tls(host, name="a.example:5000/x", **options):
    """Return what counts for *name*, with paths from the host's root on."""
    found = next(host.config(**options).endpoints(parse_name(name))).tls
    root = f"{host.root}/"
    return Tls(
        found.verify,
        tuple(path.removeprefix(root) for path in found.authorities),
        tuple((path.removeprefix(root), key.removeprefix(root)) for path, key in found.certificates),
    )


@pytest.mark.parametrize("first", range(3))
def test_first_directory(host, first):
    """The first that exists counts alone, by host and port."""
    for place in PLACES[first:]:
        host.write(f"{place}/a.example:5000/ca.crt", "")
        host.write(f"{place}/a.example/other.crt", "")

    place = PLACES[first].replace("~", "home")
    assert tls(host) == Tls(authorities=(f"{place}/a.example:5000/ca.crt",))
    assert tls(host, "b.example/x") == Tls()


def test_empty_directory(host):
    """It hides those behind it."""
    host.write("etc/docker/certs.d/a.example:5000/ca.crt", "")
    (host.root / "etc/containers/certs.d/a.example:5000").mkdir(parents=True)

    assert tls(host) == Tls()


def test_docker_hub(host):
    """Its directory has the name that references have."""
    host.write("etc/docker/certs.d/docker.io/ca.crt", "")

    assert tls(host, "fedora:42").authorities == ("etc/docker/certs.d/docker.io/ca.crt",)


def test_files(host):
    """Authorities are *.crt; a client's certificate has its key beside it; others are nothing to us."""
    for name in ("b.crt", "a.crt", "y.cert", "y.key", "x.cert", "x.key", "README", "cert", ".crt.swp"):
        host.write(f"certs/{name}", "")

    assert tls(host, cert_dir=str(host.root / "certs")) == Tls(
        authorities=("certs/a.crt", "certs/b.crt"),
        certificates=(("certs/x.cert", "certs/x.key"), ("certs/y.cert", "certs/y.key")),
    )


@pytest.mark.parametrize(
    ("name", "what"),
    [("x.cert", "/certs/x.cert has no x.key beside it (an authority's ends in .crt)"), ("x.key", "has no x.cert")],
)
def test_halves(host, name, what):
    """A certificate without its key, and a key without its certificate, are told."""
    host.write(f"certs/{name}", "")

    with pytest.raises(NotFoundError) as caught:
        tls(host, cert_dir=str(host.root / "certs"))
    assert what in str(caught.value)


def test_missing_directory(host):
    """One that was chosen has to be there, and what is in it is for all."""
    with pytest.raises(FileNotFoundError) as caught:
        tls(host, cert_dir="/nonexistent/certs")
    assert caught.value.filename == "/nonexistent/certs"


def test_directory_of_others(host, monkeypatch):
    """One that this user may not read is not for this user; one that was chosen is."""
    host.write("etc/docker/certs.d/a.example:5000/ca.crt", "")

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert tls(host) == Tls()
    with pytest.raises(PermissionError):
        tls(host, cert_dir=str(host.root))
