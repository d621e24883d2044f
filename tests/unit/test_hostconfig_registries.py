"""registries.conf: which files count, what they say, and where an image is fetched from."""

import logging

import pytest

from composefs.errors import FormatError, PolicyError
from composefs.hostconfig.registries import Alias, Registries, read_registries
from composefs.reference import parse_name
from composefs.registry.endpoint import Credentials, Tls
from tests.hosts import SECRET, auth

CONF = "etc/containers/registries.conf"
DIGEST = "sha256:" + "0123456789abcdef" * 4


def sources(host, name):
    """Return what is tried for *name*, in order: names, with a `!` behind those that are insecure."""
    found = host.config().network.registries.sources(parse_name(name))
    return [f"{source.name}{'!' if source.insecure else ''}" for source in found]


def refused(host, content):
    """Return why the registries.conf *content* is refused."""
    path = host.write(CONF, content)
    with pytest.raises(FormatError) as caught:
        read_registries(host.config().network.places.registries())
    assert caught.value.source == str(path)
    return caught.value.what


# Which files


def search(host):
    return host.config().network.registries.search


def test_files(host):
    """That of the user makes those of the host void; drop-ins count by name, the user's last."""

    def says(name):
        return f'unqualified-search-registries = ["{name}.example"]'

    assert host.config().network.registries == Registries()
    for path in (CONF, f"{CONF}.d/1.conf", f"{CONF}.d/2.conf", "~/.config/containers/registries.conf.d/0.conf"):
        host.write(path, says(f"host{path[-6]}"))
        assert search(host) == (f"host{path[-6]}.example",)
    host.write(f"{CONF}.d/9.txt", "no toml")
    host.write(f"{CONF}.d/9.conf/9.conf", "no toml")
    assert search(host) == ("host0.example",)

    user = host.write("~/.config/containers/registries.conf", says("user"))
    assert search(host) == ("host0.example",)
    (host.home / ".config/containers/registries.conf.d/0.conf").unlink()
    assert search(host) == ("user.example",)
    assert host.config().network.registries.files == (str(user),)


@pytest.mark.parametrize("variable", ["CONTAINERS_REGISTRIES_CONF", "REGISTRIES_CONFIG_PATH"])
def test_file_by_variable(host, variable):
    """A variable names the file, which has to be there; drop-ins are those of host and user."""
    host.write(CONF, "no toml")
    host.write("~/.config/containers/registries.conf", "no toml")
    host.write(f"{CONF}.d/a.conf", 'credential-helpers = ["a"]')
    path = host.write("own.conf", 'unqualified-search-registries = ["own.example"]')
    host.environ[variable] = str(path)

    assert search(host) == ("own.example",)
    assert host.config().network.registries.credential_helpers == ("a",)
    path.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        search(host)
    assert caught.value.filename == str(path)


def test_later_files_replace(host):
    """Lists as a whole, and registries of the same prefix; other registries stay."""
    host.write(
        CONF,
        """
        unqualified-search-registries = ["a.example", "b.example"]
        credential-helpers = ["one", "two"]
        [[registry]]
        location = "quay.io"
        blocked = true
        [[registry]]
        location = "old.example"
        insecure = true
        [aliases]
        fedora = "old.example/fedora"
        """,
    )
    drop_in = host.write(
        f"{CONF}.d/a.conf",
        """
        unqualified-search-registries = []
        credential-helpers = ["three"]
        [[registry]]
        prefix = "quay.io"
        location = "new.example/quay"
        [aliases]
        fedora = "new.example/fedora"
        """,
    )

    found = host.config().network.registries

    assert found.search == ()
    assert (found.credential_helpers, found.helpers_source) == (("three",), str(drop_in))
    assert sources(host, "quay.io/x:1") == ["new.example/quay/x:1"]
    assert sources(host, "old.example/x:1") == ["old.example/x:1!"]
    assert [str(name) for name in found.full_names("fedora:42")] == ["new.example/fedora:42"]


def test_no_helpers(host):
    """An empty list of helpers is none: the files count."""
    host.write(CONF, "credential-helpers = []")

    assert host.config().network.registries.credential_helpers == ("containers-auth.json",)


# Where from


@pytest.mark.parametrize(
    ("prefix", "name", "found"),
    [
        ("a.example", "a.example/x:1", "new/p/x:1"),
        ("a.example/x", "a.example/x:1", "new/p:1"),
        ("a.example/x", "a.example/x/y:1", "new/p/y:1"),
        ("a.example/x", "a.example/xy:1", None),
        ("a.example", "a.example.com/x:1", None),
        ("a.example", "b.a.example/x:1", None),
        ("a.example:5000", "a.example:5000/x:1", "new/p/x:1"),
        ("a.example:5000", "a.example/x:1", None),
        ("*.example", "a.example/x:1", "new/p/x:1"),
        ("*.example", "a.b.example/x:1", "new/p/x:1"),
        ("*.example", "example/x:1", None),
        ("*.example", "a.example.com/x.example:1", None),
        ("docker.io/library", "fedora:1", "new/p/fedora:1"),
        ("docker.io/fedora", "fedora:1", None),
        ("docker.io", f"x/y@{DIGEST}", f"new/p/x/y@{DIGEST}"),
    ],
)
def test_rewriting(host, prefix, name, found):
    """What the prefix matches is replaced, and it ends where a name can be cut."""
    host.write(CONF, f'[[registry]]\nprefix = "{prefix}/"\nlocation = "new.example/p//"\n')
    wanted = str(parse_name(name)) if found is None else found.replace("new", "new.example")

    assert sources(host, name) == [wanted]


def test_wildcard_without_location(host):
    """Names stay as they are; the longer prefix counts."""
    host.write(
        CONF,
        """
        [[registry]]
        prefix = "*.example"
        insecure = true
        [[registry]]
        prefix = "*.b.example"
        [[registry]]
        location = "c.b.example/x"
        insecure = true
        """,
    )

    assert sources(host, "a.example:5000/x:1") == ["a.example:5000/x:1!"]
    assert sources(host, "a.b.example/x:1") == ["a.b.example/x:1"]
    assert sources(host, "c.b.example/x:1") == ["c.b.example/x:1!"]


MIRRORS = """
[[registry]]
prefix = "a.example"
location = "b.example"
{registry}
[[registry.mirror]]
location = "m1.example"
{mirror}
[[registry.mirror]]
location = "m2.example/deep"
insecure = true
"""


@pytest.mark.parametrize(
    ("registry", "mirror", "by_tag", "by_digest"),
    [
        ("", "", "m1 m2 b", "m1 m2 b"),
        ("", 'pull-from-mirror = "all"', "m1 m2 b", "m1 m2 b"),
        ("", 'pull-from-mirror = "digest-only"', "m2 b", "m1 m2 b"),
        ("", 'pull-from-mirror = "tag-only"', "m1 m2 b", "m2 b"),
        ("mirror-by-digest-only = true", "", "b", "m1 m2 b"),
    ],
)
def test_mirrors(host, registry, mirror, by_tag, by_digest):
    """They come before the place itself, if they are for what is pulled."""
    host.write(CONF, MIRRORS.format(registry=registry, mirror=mirror))
    places = {"m1": "m1.example/x", "m2": "m2.example/deep/x", "b": "b.example/x"}

    def wanted(short, version):
        return [f"{places[each]}{version}{'!' if each == 'm2' else ''}" for each in short.split()]

    assert sources(host, "a.example/x:1") == wanted(by_tag, ":1")
    assert sources(host, f"a.example/x@{DIGEST}") == wanted(by_digest, f"@{DIGEST}")
    assert sources(host, f"a.example/x:1@{DIGEST}") == wanted(by_digest, f":1@{DIGEST}")


def test_blocked(host):
    """It is said by whom, before anything is tried, and holds for pushing, too."""
    path = host.write(CONF, '[[registry]]\nlocation = "a.example/x"\nblocked = true\n')

    for call in (host.config().endpoints, host.config().endpoint_to_push):
        with pytest.raises(PolicyError) as caught:
            call(parse_name("a.example/x/y:1"))
        assert str(caught.value) == f"docker://a.example/x/y:1: blocked, by registry a.example/x in {path}"
    assert len(list(host.config().endpoints(parse_name("a.example/y:1")))) == 1


def test_first_of_the_same_prefix(host):
    """Within a file the first counts."""
    host.write(
        CONF,
        '[[registry]]\nprefix = "a.example"\nlocation = "b.example"\n'
        '[[registry]]\nprefix = "a.example"\nlocation = "c.example"\n',
    )

    assert sources(host, "a.example/x:1") == ["b.example/x:1"]


# Endpoints


def test_endpoints(host):
    """Each has its own credentials and certificates; what is insecure is neither checked, nor in need of TLS."""
    host.write(CONF, MIRRORS.format(registry="", mirror=""))
    host.write("~/.docker/config.json", {"auths": {"m2.example/deep": auth("m2"), "b.example": auth("b")}})
    ca = host.write("etc/containers/certs.d/m1.example/ca.crt", "")

    first, second, last = host.config().endpoints(parse_name("a.example/x:1"))

    assert [(each.host, each.repository) for each in (first, second, last)] == [
        ("m1.example", "x"),
        ("m2.example", "deep/x"),
        ("b.example", "x"),
    ]
    assert [each.plain_http for each in (first, second, last)] == [False, True, False]
    assert first.tls == Tls(authorities=(str(ca),))
    assert second.tls == Tls(verify=False)
    assert [each.credentials for each in (first, second, last)] == [
        None,
        Credentials("m2", SECRET),
        Credentials("b", SECRET),
    ]


def test_options_of_endpoints(host):
    """--tls-verify goes before what the files say; --creds are for the registry that was named, not for others."""
    host.write(
        CONF, '[[registry]]\nlocation = "a.example"\ninsecure = true\n[[registry.mirror]]\nlocation = "m.example"\n'
    )
    host.write("~/.docker/config.json", {"auths": {"a.example": auth("file")}})
    given = Credentials("given", SECRET)
    name = parse_name("a.example/x:1")

    mirror, itself = host.config(credentials=given, tls_verify=True).endpoints(name)
    assert (mirror.credentials, itself.credentials) == (None, given)
    assert (itself.plain_http, itself.tls.verify) == (False, True)
    mirror, itself = host.config(tls_verify=False).endpoints(name)
    assert [(each.plain_http, each.tls.verify) for each in (mirror, itself)] == [(True, False)] * 2
    assert itself.credentials == Credentials("file", SECRET)


def test_helpers_are_asked_when_it_is_their_turn(host, caplog):
    """A mirror that serves keeps the registry's helper from being asked; one whose helper fails is left out."""
    host.write(CONF, '[[registry]]\nlocation = "a.example"\n[[registry.mirror]]\nlocation = "m.example"\n')
    host.write("~/.docker/config.json", {"credHelpers": {"m.example": "m", "a.example": "a"}})
    for name in ("m", "a"):
        host.helper(name, f'touch {host.root}/{name}; echo \'{{"Username": "u", "Secret": "s"}}\'')

    endpoints = host.config().endpoints(parse_name("a.example/x:1"))
    assert next(endpoints).host == "m.example"
    assert [(host.root / name).exists() for name in ("m", "a")] == [True, False]
    assert next(endpoints).host == "a.example"

    host.helper("m", "exit 1")
    with caplog.at_level(logging.WARNING):
        (only,) = host.config().endpoints(parse_name("a.example/x:1"))
    assert only.host == "a.example"
    assert "the mirror m.example/x:1 is left out: docker-credential-m get, for m.example: exit status 1" in caplog.text


def test_blocked_mirror(host):
    """A mirror that is blocked itself is left out."""
    host.write(
        CONF,
        '[[registry]]\nlocation = "a.example"\n[[registry.mirror]]\nlocation = "m.example"\n'
        '[[registry]]\nlocation = "m.example"\nblocked = true\n',
    )

    assert [each.host for each in host.config().endpoints(parse_name("a.example/x:1"))] == ["a.example"]


def test_places_are_logged(host, caplog):
    """Whoever wants to know sees which servers are meant, and no secret."""
    host.write(CONF, '[[registry]]\nlocation = "a.example"\n[[registry.mirror]]\nlocation = "m.example"\n')
    caplog.set_level(logging.DEBUG)

    list(host.config(credentials=Credentials("user", SECRET)).endpoints(parse_name("a.example/x:1")))

    places = [line for line in caplog.messages if line.startswith("a place")]
    assert places == ["a place for a.example/x:1: m.example/x", "a place for a.example/x:1: a.example/x"]
    assert SECRET not in caplog.text


def test_endpoint_to_push(host):
    """Mirrors and rewriting are for pulls, insecure is for both."""
    host.write(CONF, MIRRORS.format(registry="insecure = true", mirror=""))

    endpoint = host.config().endpoint_to_push(parse_name("a.example/x:1"))

    assert (endpoint.host, endpoint.repository, endpoint.plain_http) == ("a.example", "x", True)


# Short names


def test_short_names(host):
    """An alias gives one name, that which podman noted before those of the files; otherwise registries are searched."""
    host.write(
        CONF,
        'unqualified-search-registries = ["a.example", "docker.io"]\n'
        '[aliases]\nfedora = "b.example/fedora"\n"x/y" = "b.example/z"\nvoid = ""\n',
    )

    def names(short):
        return [str(name) for name in host.config().full_names(short)]

    assert names("fedora:42") == ["b.example/fedora:42"]
    assert names(f"x/y@{DIGEST}") == [f"b.example/z@{DIGEST}"]
    assert names("other:1") == ["a.example/other:1", "docker.io/library/other:1"]
    assert names("void") == ["a.example/void", "docker.io/library/void"]
    host.write("~/.cache/containers/short-name-aliases.conf", '[aliases]\nfedora = "c.example/fedora"\n')
    assert names("fedora") == ["c.example/fedora"]
    host.uid = 0
    assert names("fedora") == ["b.example/fedora"]
    host.write("var/cache/containers/short-name-aliases.conf", '[aliases]\nfedora = "d.example/fedora"\n')
    assert names("fedora") == ["d.example/fedora"]


@pytest.mark.parametrize("registry", ["do[cker.io", "https://a.example", "a.example/UPPER", "registry"])
def test_search_in_what_is_none(host, registry):
    """A registry that is none is told with the file, when it would be used; a single word is not one at Docker Hub."""
    path = host.write(CONF, f'unqualified-search-registries = ["{registry}"]\n')

    assert sources(host, "a.example/x:1") == ["a.example/x:1"]
    with pytest.raises(FormatError, match="unqualified-search-registries: ") as caught:
        host.config().full_names("fedora")
    assert caught.value.source == str(path)


def test_alias_that_is_no_name():
    """The file that says so is named."""
    registries = Registries(aliases=(Alias("fedora", "b.example/UPPER", "a.conf"),))

    with pytest.raises(FormatError, match="a.conf, offset 0: the alias fedora: "):
        registries.full_names("fedora")


# What is refused


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("[registries.search]\nregistries = ['a.example']", "is of version 1, which is not read"),
        ("[registries.block]\nregistries = []", "is of version 1"),
        ("a = ", "broken TOML: "),
        (b"a = '\xff'", "broken TOML: not UTF-8"),
        ("registry = 1", "registry is no list"),
        ("registry = [1]", "registry is no list of tables [[registry]]"),
        ("[[registry]]", "a registry has neither prefix nor location"),
        ("[[registry]]\nlocation = 1", "location is no text"),
        ("[[registry]]\nlocation = 'a'\ninsecure = 'true'", "insecure is no true or false"),
        ("[[registry]]\nlocation = 'https://a'", "the location https://a has a scheme"),
        ("[[registry]]\nprefix = 'a'", "the registry a has no location"),
        ("[[registry]]\nprefix = '*.a/b'\nlocation = 'c'", "the prefix *.a/b has more than *. and a domain"),
        ("[[registry]]\nlocation = 'a'\npull-from-mirror = 'all'", "has pull-from-mirror, which is for its mirrors"),
        ("[[registry]]\nlocation = 'a'\n[[registry.mirror]]", "a mirror of a has no location"),
        (
            "[[registry]]\nlocation = 'a'\n[[registry.mirror]]\nlocation = 'b'\npull-from-mirror = 'never'",
            "the mirror b has pull-from-mirror = 'never', which is unknown",
        ),
        (
            "[[registry]]\nlocation = 'a'\nmirror-by-digest-only = true\n"
            "[[registry.mirror]]\nlocation = 'b'\npull-from-mirror = 'all'",
            "a has mirror-by-digest-only, and its mirror b pull-from-mirror",
        ),
        (
            "[[registry]]\nprefix = 'a'\nlocation = 'c'\n[[registry]]\nprefix = 'b'\nlocation = 'c'\nblocked = true",
            "c stands twice, once insecure or blocked, and once not",
        ),
        ("unqualified-search-registries = [1]", "unqualified-search-registries is no list of texts"),
        ("credential-helpers = 'a'", "credential-helpers is no list"),
        ("[aliases]\na = 1", "an alias is no text"),
    ],
)
def test_refused(host, content, what):
    """What is not understood is not guessed; unknown keys are podman's, and pass."""
    assert what in refused(host, content)


def test_unknown_keys(host):
    """They are podman's."""
    host.write(CONF, 'short-name-mode = "enforcing"\nadditional-layer-store-auth-helper = "x"\n[later]\na = 1\n')

    assert sources(host, "a.example/x:1") == ["a.example/x:1"]


def test_location_with_tag(host):
    """A location is a place, not an image."""
    host.write(CONF, "[[registry]]\nprefix = 'a.example/x'\nlocation = 'b.example/x:1'\n")

    with pytest.raises(FormatError, match="the location b.example/x:1 has a tag or digest"):
        sources(host, "a.example/x:2")


def test_location_without_host(host):
    """It is not taken for a name at Docker Hub."""
    host.write(CONF, "[[registry]]\nprefix = 'a.example'\nlocation = 'mirror'\n")

    with pytest.raises(FormatError, match="the location mirror for a.example: mirror/x begins with no host"):
        sources(host, "a.example/x:1")


@pytest.mark.parametrize(
    ("location", "what"),
    [("b.example/UPPER", "not all lower case"), ("b.example/x:1", "is no name"), ("b.example@", "")],
)
def test_location_that_makes_no_name(host, location, what):
    """It is told when it would be used, with file and prefix."""
    host.write(CONF, f"[[registry]]\nprefix = 'a.example'\nlocation = '{location}'\n")
    with pytest.raises(FormatError) as caught:
        sources(host, "a.example/x:1")
    assert caught.value.what.startswith(f"the location {location}")
    assert what in caught.value.what
