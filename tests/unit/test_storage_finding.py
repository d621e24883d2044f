"""Finding container storage: what a reference, variables and storage.conf say, in order."""

import pytest

from composefs.errors import FormatError
from composefs.oci.sources.storage import finding
from composefs.oci.sources.storage.finding import SYSTEM_ROOT, find_candidates
from composefs.reference.values import Store


@pytest.fixture
def system(tmp_path, monkeypatch):
    """The storage.conf of the system, which is not written."""
    path = tmp_path / "etc/storage.conf"
    path.parent.mkdir()
    monkeypatch.setattr(finding, "SYSTEM_CONFIGURATIONS", (str(path), str(tmp_path / "usr/storage.conf")))
    return path


def roots(environ, uid=0, named=None):
    return list(find_candidates(named, environ, uid).roots)


def test_a_store_that_is_named_is_the_only_one(system):
    """What the host has elsewhere does not count, but what the options of the driver add."""
    options = ("overlay.imagestore=/added", "additionalimagestore=/more", "overlay.mountopt=nodev", "imagestore=")

    found = find_candidates(Store("vfs", "/named", "/run", options), {"CONTAINERS_STORAGE_ROOT": "/other"}, 0)

    assert found == (("/named", "/added", "/more"), "vfs")


def test_nothing_said(system):
    """Without any word the store of the system is left."""
    assert roots({}) == [SYSTEM_ROOT]
    assert roots({}, uid=1000) == [SYSTEM_ROOT]


def test_the_order_of_variables(system):
    """That of podman's user goes before that of the system, and what is named before both."""
    environ = {
        "CONTAINERS_STORAGE_ROOT": "/root-named",
        "XDG_DATA_HOME": "/data",
        "HOME": "/home/u",
        "STORAGE_OPTS": "overlay.additionalimagestore=/added,x=y",
    }
    user = ["/data/containers/storage", "/home/u/.local/share/containers/storage"]

    assert roots(environ, uid=1000) == ["/root-named", *user, SYSTEM_ROOT, "/added"]
    assert roots(environ) == ["/root-named", SYSTEM_ROOT, *user, "/added"]


def test_storage_conf_of_the_system(system, tmp_path):
    """Its root is that of root; users have theirs where it says so; image stores are added for all."""
    system.write_text(
        '[storage]\ngraphroot = "/graph"\nrootless_storage_path = "/users/$UID/${USER}/$NOBODY"\n'
        'imagestore = "/images"\n[storage.options]\nadditionalimagestores = ["/one", "/two"]\n'
    )

    assert roots({}) == ["/graph", "/images", SYSTEM_ROOT, "/one", "/two"]
    assert roots({"USER": "u"}, uid=1000) == ["/users/1000/u/$NOBODY", "/graph", SYSTEM_ROOT, "/one", "/two"]
    assert roots({"_CONTAINERS_ROOTLESS_UID": "7", "USER": "u"})[0] == "/users/7/u/$NOBODY"


def test_storage_conf_of_a_user(system, tmp_path):
    """It goes before what the system says, and root does not read it."""
    own = tmp_path / "home/.config/containers/storage.conf"
    own.parent.mkdir(parents=True)
    own.write_text('[storage]\ngraphroot = "/mine"\n[storage.options]\nadditionalimagestores = ["/mine-added"]\n')
    home = f"{tmp_path}/home/.local/share/containers/storage"

    assert roots({"HOME": f"{tmp_path}/home"}, uid=1000) == ["/mine", home, SYSTEM_ROOT, "/mine-added"]
    assert "/mine" not in roots({"HOME": f"{tmp_path}/home"})
    assert roots({"XDG_CONFIG_HOME": f"{tmp_path}/home/.config"}, uid=1000)[0] == "/mine"


def test_storage_conf_of_a_variable(system, tmp_path):
    """It takes the place of the user's."""
    (tmp_path / "conf").write_text('[storage]\ngraphroot = "/chosen"\n')

    assert roots({"CONTAINERS_STORAGE_CONF": f"{tmp_path}/conf"}, uid=1000)[0] == "/chosen"
    assert roots({"CONTAINERS_STORAGE_CONF": f"{tmp_path}/missing"}) == [SYSTEM_ROOT]


def test_no_directory_twice(system, tmp_path):
    """Two names of one directory are one store."""
    (tmp_path / "link").symlink_to(tmp_path)

    assert roots({"CONTAINERS_STORAGE_ROOT": f"{tmp_path}/link", "STORAGE_OPTS": f"imagestore={tmp_path}"}) == [
        f"{tmp_path}/link",
        SYSTEM_ROOT,
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[storage\n", "broken TOML"),
        ('storage = "x"\n', "storage is no table"),
        ("[storage]\ngraphroot = 7\n", "storage.graphroot is no text"),
        ("[storage]\noptions = 7\n", "options is no table"),
        ('[storage.options]\nadditionalimagestores = "x"\n', "no list of texts"),
    ],
)
def test_broken_storage_conf(system, text, what):
    """The file and what is wrong with it are named."""
    system.write_text(text)

    with pytest.raises(FormatError, match=what) as caught:
        roots({})

    assert caught.value.source == str(system)


def test_storage_conf_that_is_no_text(system):
    """Bytes that are no UTF-8 are no TOML."""
    system.write_bytes(b"\xff")

    with pytest.raises(FormatError, match="broken TOML"):
        roots({})
