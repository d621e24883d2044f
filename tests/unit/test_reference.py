"""What the user calls an image: every transport, every reading, every refusal."""

import pickle
import subprocess
import sys

import pytest

from composefs.errors import UsageError
from composefs.reference import (
    ArchiveReference,
    DaemonReference,
    DirReference,
    DockerArchiveReference,
    OciArchiveReference,
    OciReference,
    OtherReference,
    RegistryName,
    StorageReference,
    Store,
    Transport,
    parse_name,
    parse_reference,
)

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"
FEDORA = RegistryName("docker.io", "library/fedora", "latest", None)


def parsed(text, *, directories=(), files=()):
    """Return what *text* means where these directories and files are there, and nothing else."""
    found = parse_reference(
        text, exists=lambda path: path in directories or path in files, is_directory=lambda path: path in directories
    )
    assert found.text == text
    return found


def refusal(text, **there):
    with pytest.raises(UsageError) as caught:
        parsed(text, **there)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("fedora", "docker.io/library/fedora:latest"),
        ("docker.io/fedora:42", "docker.io/library/fedora:42"),
        ("index.docker.io/fedora", "docker.io/library/fedora:latest"),
        ("index.docker.io/a/b", "docker.io/a/b:latest"),
        ("a/b", "docker.io/a/b:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
        ("host:5000/a", "host:5000/a:latest"),
        ("Quay.IO/a", "quay.io/a:latest"),
        ("quay.io/a/b/c__d/e-----f.g:T_1.2-x", "quay.io/a/b/c__d/e-----f.g:T_1.2-x"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("10.0.0.1/a", "10.0.0.1/a:latest"),
        (f"quay.io/{HEX}", f"quay.io/{HEX}:latest"),
        (f"quay.io/a@{DIGEST}", f"quay.io/a@{DIGEST}"),
        (f"quay.io/a:b@{DIGEST}", f"quay.io/a:b@{DIGEST}"),
        (f"a@sha384:{HEX}{HEX[:32]}", f"docker.io/library/a@sha384:{HEX}{HEX[:32]}"),
        (f"a@sha512:{HEX}{HEX}", f"docker.io/library/a@sha512:{HEX}{HEX}"),
    ],
)
def test_registry(text, wanted):
    """The name is had in full, whichever prefix is written."""
    found = parsed(f"docker://{text}")

    assert str(found) == f"docker://{wanted}"
    assert found == parsed(f"registry:{text}") == parsed(f"registry://{text}")
    assert found.name == parse_name(text).versioned()


def test_tag_and_digest_mean_the_digest():
    """The tag beside a digest is kept, and asked for by nobody."""
    name = parse_name(f"localhost:5000/a:b@{DIGEST}")

    assert name == RegistryName("localhost:5000", "a", "b", DIGEST)
    assert name.wanted == DIGEST
    assert name.without_version == "localhost:5000/a"
    assert parse_name("a:b").wanted == "b"
    assert parse_name("a").wanted == "latest"
    assert parse_name("a").tag is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the name is empty"),
        ("quay.io/", "the name is empty"),
        (":tag", "the name is empty"),
        (f"@{DIGEST}", "the name is empty"),
        ("Fedora", "'Fedora' is not all lower case"),
        ("Localhost/a", "'Localhost/a' is not all lower case"),
        ("quay.io/a//b", "'a//b' is no path of letters, digits, and single '.', '_' or '-' between them"),
        ("quay.io/a..b", "'a..b' is no path of letters, digits, and single '.', '_' or '-' between them"),
        ("quay.io/-a", "'-a' is no path of letters, digits, and single '.', '_' or '-' between them"),
        ("a b", "'a b' is no path of letters, digits, and single '.', '_' or '-' between them"),
        ("quay.io/é", "'é' is no path of letters, digits, and single '.', '_' or '-' between them"),
        ("quay.io/a\n", "'a\\n' is no path of letters, digits, and single '.', '_' or '-' between them"),
        (HEX, "64 hexadecimal digits are an ID or a digest (NAME@sha256:DIGITS)"),
        ("-x.y/a", "'-x.y' is no HOST[:PORT]"),
        ("a_b.c/d", "'a_b.c' is no HOST[:PORT]"),
        ("./d", "'.' is no HOST[:PORT]"),
        ("a:/d", "'a:' is no HOST[:PORT]"),
        ("::1/d", "'::1' is no HOST[:PORT]"),
        ("quay.io:0/d", "there is no port 0"),
        ("quay.io:65536/d", "there is no port 65536"),
        ("quay.io/a:", "the tag is empty"),
        ("quay.io/a:-b", "'-b' is no tag"),
        ("quay.io/a:b c", "'b c' is no tag"),
        (f"quay.io/a:{'t' * 129}", f"'{'t' * 129}' is no tag"),
        ("quay.io/a@", "'' is no digest; wanted sha256, sha384, sha512, a colon and the digits"),
        (f"quay.io/a@md5:{HEX}", f"'md5:{HEX}' is no digest; wanted sha256, sha384, sha512, a colon and the digits"),
        ("quay.io/a@sha256:abc", "'sha256:abc' is no digest; sha256 has 64 hexadecimal digits, in lower case"),
        (
            f"quay.io/a@sha256:{HEX.upper()}",
            f"'sha256:{HEX.upper()}' is no digest; sha256 has 64 hexadecimal digits, in lower case",
        ),
        (f"quay.io/a@sha384:{HEX}", f"'sha384:{HEX}' is no digest; sha384 has 96 hexadecimal digits, in lower case"),
        (f"quay.io/{'a' * 248}", "more than 255 characters"),
    ],
)
def test_no_name(text, why):
    """What is no name is refused, with the reason."""
    wanted = f"{text!r} is no name of an image in a registry: {why}"

    assert refusal(f"docker://{text}") == wanted
    with pytest.raises(UsageError) as caught:
        parse_name(text)
    assert str(caught.value) == wanted


def test_longest_name():
    """Host and repository may have 255 characters, a tag 128, a port five digits."""
    assert parse_name(f"quay.io/{'a' * 247}:{'t' * 128}").tag == "t" * 128
    assert parse_name("quay.io:65535/a").host == "quay.io:65535"


@pytest.mark.parametrize(
    "text",
    [
        "docker://user:secret@quay.io/a",
        "docker:user:secret@quay.io/a",
        "registry:user:secret@quay.io/a",
        "https://user:secret@quay.io/a",
        "user:secret@quay.io/a",
        "docker-daemon:user:secret@quay.io/a:b",
        "containers-storage:user:secret@quay.io/a",
        "docker-archive:x.tar:user:secret@quay.io/a",
        "docker://user:secret@quay.io",
        "docker:user:secret@localhost",
        "https://user:secret@localhost:5000",
        "docker://user:sec/ret@quay.io/a",
        "docker://user:sec@ret@quay.io/a",
    ],
)
def test_credentials_are_not_shown(text):
    """Who writes a password into a reference is told where it goes; nobody else sees it."""
    assert refusal(text) == "a reference holds no credentials; give them by --creds or --authfile"


def test_docker_without_slashes():
    """The slashes are skopeo's."""
    assert refusal("docker:quay.io/a") == "'docker:quay.io/a' lacks the slashes; wanted docker://quay.io/a"
    assert refusal("docker:") == "'docker:' lacks the slashes; wanted docker://HOST/NAME[:TAG]"


@pytest.mark.parametrize(
    ("details", "directories", "path", "tag"),
    [
        ("/srv/os", [], "/srv/os", None),
        ("/srv/os:42", [], "/srv/os", "42"),
        ("os:latest", [], "os", "latest"),
        ("a:b/c", [], "a:b/c", None),
        ("a:b/c:d", [], "a:b/c", "d"),
        ("a:b:c", [], "a:b", "c"),
        ("//srv/os", [], "//srv/os", None),
        ("docker-archive:/x", [], "docker-archive:/x", None),
        # What is there decides: skopeo's reading before that of composefs-rs.
        ("d:localhost/a:b", ["d"], "d", "localhost/a:b"),
        ("d:localhost/a:b", ["d:localhost/a"], "d:localhost/a", "b"),
        ("d:localhost/a:b", ["d", "d:localhost/a"], "d", "localhost/a:b"),
        ("d:localhost/a:b", ["d:localhost/a:b"], "d:localhost/a:b", None),
        ("a:b/c", ["a"], "a", "b/c"),
        ("a:b:c:d", ["a:b"], "a:b", "c:d"),
    ],
)
def test_oci(details, directories, path, tag):
    """The path ends at the first colon where a directory is, else at the last that a tag may follow."""
    assert parsed(f"oci:{details}", directories=directories) == OciReference(path, tag, None, "")
    assert parsed(f"oci-archive:{details}", files=directories) == OciArchiveReference(path, tag, None, "")


def test_image_by_its_number():
    """Skopeo's `@N` is the number of an image."""
    assert parsed("oci:/srv/os:@0") == OciReference("/srv/os", None, 0, "")
    assert parsed("oci-archive:x:@12") == OciArchiveReference("x", None, 12, "")
    assert parsed("docker-archive:x:@3") == DockerArchiveReference("x", None, 3, "")
    assert str(parsed("oci:/srv/os:@00")) == "oci:/srv/os:@0"
    for digits in ("", "x", "-1", "²", "1" * 10):
        wanted = f"'oci:os:@{digits}': wanted the number of an image after '@', from 0 on, not {digits!r}"
        assert refusal(f"oci:os:@{digits}") == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("oci:", "'oci:' names no directory; wanted oci:PATH[:TAG]"),
        ("oci::tag", "'oci::tag' names no directory; wanted oci:PATH[:TAG]"),
        ("oci:/srv/os:", "'oci:/srv/os:' has an empty tag; wanted oci:PATH[:TAG]"),
        ("oci-archive:", "'oci-archive:' names no file; wanted oci-archive:PATH[:TAG]"),
        ("oci-archive:x:", "'oci-archive:x:' has an empty tag; wanted oci-archive:PATH[:TAG]"),
        ("docker-archive:", "'docker-archive:' names no file; wanted docker-archive:PATH[:NAME[:TAG]]"),
        ("docker-archive:x:", "'docker-archive:x:' has an empty tag; wanted docker-archive:PATH[:NAME[:TAG]]"),
        ("dir:", "'dir:' names no directory; wanted dir:PATH"),
        ("ostree:", "'ostree:' names no image; wanted ostree:DETAILS"),
        ("oci:a\0b", "'oci:a\\x00b' holds a NUL byte, which no name of an image or file does"),
        (
            f"docker-archive:x:a@{DIGEST}",
            f"'docker-archive:x:a@{DIGEST}': images of a docker-archive have names and tags, no digests",
        ),
        ("docker-archive:x:A", "'A' is no name of an image in a registry: 'A' is not all lower case"),
    ],
)
def test_no_path(text, wanted):
    """What names no file is refused, with what was wanted."""
    assert refusal(text) == wanted


def test_docker_archive():
    """The name is had in full, as those in the archive are to be compared."""
    assert parsed("docker-archive:/srv/x.tar") == DockerArchiveReference("/srv/x.tar", None, None, "")
    assert parsed("docker-archive:x.tar:fedora") == DockerArchiveReference("x.tar", FEDORA, None, "")
    found = parsed("docker-archive:x.tar:localhost:5000/a:b")
    assert found == DockerArchiveReference("x.tar", parse_name("localhost:5000/a:b"), None, "")
    colon = parsed("docker-archive:x:1.tar:fedora", files=["x:1.tar"])
    assert colon == DockerArchiveReference("x:1.tar", FEDORA, None, "")


def test_standard_input():
    """A dash is standard input where an archive is named, and by itself."""
    assert parsed("oci-archive:-:tag") == OciArchiveReference("/dev/stdin", "tag", None, "")
    assert parsed("docker-archive:-") == DockerArchiveReference("/dev/stdin", None, None, "")
    assert parsed("-") == ArchiveReference("/dev/stdin", None, "")
    assert parsed("oci-archive:./-").path == "./-"


def test_dir():
    """A path in `dir:` holds what it holds."""
    assert parsed("dir:/srv/a:b", directories=["/srv/a"]) == DirReference("/srv/a:b", "")


@pytest.mark.parametrize(
    ("details", "store", "image", "name", "image_id"),
    [
        ("fedora", None, "fedora", FEDORA, None),
        ("abc123", None, "abc123", parse_name("abc123:latest"), None),
        (f"@{HEX}", None, "", None, HEX),
        (HEX, None, "", None, HEX),
        (DIGEST, None, "", None, HEX),
        (f"fedora@{HEX}", None, "fedora", FEDORA, HEX),
        (f"a:b@{DIGEST}", None, f"a:b@{DIGEST}", parse_name(f"a:b@{DIGEST}"), None),
        (f"a@{DIGEST}@{HEX}", None, f"a@{DIGEST}", parse_name(f"a@{DIGEST}"), HEX),
        ("[/srv/store]fedora", Store(None, "/srv/store", None, ()), "fedora", FEDORA, None),
        ("[overlay@/a+/b]fedora", Store("overlay", "/a", "/b", ()), "fedora", FEDORA, None),
        ("[overlay@/a+/b:x=1,y]fedora", Store("overlay", "/a", "/b", ("x=1", "y")), "fedora", FEDORA, None),
        ("[vfs@/a:x=[1]fedora", Store("vfs", "/a", None, ("x=[1",)), "fedora", FEDORA, None),
    ],
)
def test_containers_storage(details, store, image, name, image_id):
    """A store, an image by name, by ID, or by both."""
    found = parsed(f"containers-storage:{details}")

    assert found == StorageReference(store, image, name, image_id, "")


@pytest.mark.parametrize(
    ("details", "wanted"),
    [
        ("", " names no image; wanted containers-storage:NAME[:TAG] or @ID"),
        ("[/a]", " names no image; wanted containers-storage:NAME[:TAG] or @ID"),
        ("@abc", ": 'abc' is no ID of an image, which has 64 hexadecimal digits"),
        ("[abc", ": wanted [[DRIVER@]ROOT[+RUNROOT][:OPTION,...]] before the image"),
        ("[]abc", ": wanted [[DRIVER@]ROOT[+RUNROOT][:OPTION,...]] before the image"),
        ("[vfs@]abc", ": the paths of a store start with a slash"),
        ("[vfs@rel]abc", ": the paths of a store start with a slash"),
        ("[/a+rel]abc", ": the paths of a store start with a slash"),
    ],
)
def test_no_stored_image(details, wanted):
    """What names no image of a store is refused."""
    assert refusal(f"containers-storage:{details}") == f"'containers-storage:{details}'{wanted}"


def test_docker_daemon():
    """An image of Docker has a tag, a digest, or an ID in full."""
    assert parsed("docker-daemon:fedora:42") == DaemonReference(parse_name("fedora:42"), None, "")
    assert parsed(f"docker-daemon:fedora@{DIGEST}") == DaemonReference(parse_name(f"fedora@{DIGEST}"), None, "")
    assert parsed(f"docker-daemon:{DIGEST}") == DaemonReference(None, HEX, "")
    assert refusal("docker-daemon:fedora") == "'docker-daemon:fedora' has no tag; wanted docker-daemon:fedora:TAG"
    assert refusal(f"docker-daemon:{HEX}") == f"'docker-daemon:{HEX}' is a bare ID; wanted docker-daemon:{DIGEST}"
    wanted = "'docker-daemon:sha256:abc': an ID of an image has 64 hexadecimal digits, not 'abc'"
    assert refusal("docker-daemon:sha256:abc") == wanted


@pytest.mark.parametrize("prefix", ["ostree", "sif", "tarball"])
def test_others(prefix):
    """What skopeo alone can bring is passed on as it is."""
    assert parsed(f"{prefix}:/srv/x:y@z") == OtherReference(prefix, "/srv/x:y@z", "")


@pytest.mark.parametrize(
    ("text", "there", "wanted"),
    [
        ("./os", {}, OciReference("./os", None, None, "")),
        ("../os:42", {}, OciReference("../os", "42", None, "")),
        ("/srv/os:42", {}, OciReference("/srv/os", "42", None, "")),
        ("/", {}, OciReference("/", None, None, "")),
        (".", {}, OciReference(".", None, None, "")),
        ("os", {"directories": ["os"]}, OciReference("os", None, None, "")),
        ("os:42", {"directories": ["os"]}, OciReference("os", "42", None, "")),
        ("os:@1", {"directories": ["os"]}, OciReference("os", None, 1, "")),
        ("os:42", {"directories": ["os", "os:42"]}, OciReference("os:42", None, None, "")),
        ("./os:localhost/a:b", {"directories": ["./os"]}, OciReference("./os", "localhost/a:b", None, "")),
        ("OS", {"directories": ["OS"], "files": ["OS/manifest.json"]}, DirReference("OS", "")),
        ("o", {"directories": ["o"], "files": ["o/manifest.json", "o/index.json"]}, OciReference("o", None, None, "")),
        ("os.tar", {"files": ["os.tar"]}, ArchiveReference("os.tar", None, "")),
        ("os.tar:a:b", {"files": ["os.tar"]}, ArchiveReference("os.tar", "a:b", "")),
        ("a@b/os.tar", {"files": ["a@b/os.tar"]}, ArchiveReference("a@b/os.tar", None, "")),
        ("a://b", {"files": ["a://b"]}, ArchiveReference("a://b", None, "")),
    ],
)  # fmt: skip
def test_bare_path(text, there, wanted):
    """A path is one by how it begins, or since it is there; what lies there tells what it is."""
    assert parsed(text, **there) == wanted


def test_kinds_of_archives():
    """An archive that was looked into has a reference of its kind."""
    found = parsed("os.tar:a:b", files=["os.tar"])
    assert found.as_oci_archive() == OciArchiveReference("os.tar", "a:b", None, "")
    assert found.as_docker_archive() == DockerArchiveReference("os.tar", parse_name("a:b"), None, "")
    assert str(found.as_docker_archive()) == "docker-archive:os.tar:docker.io/library/a:b"
    with pytest.raises(UsageError, match="^'B' is no name of an image in a registry: 'B' is not all lower case$"):
        parsed("os.tar:B", files=["os.tar"]).as_docker_archive()


@pytest.mark.parametrize("text", ["quay.io/a/b:c", "localhost/a", "h:5000/a", f"quay.io/a@{DIGEST}"])
def test_bare_name(text):
    """A name that starts with a host is one in a registry."""
    assert parsed(text) == parsed(f"docker://{text}")


@pytest.mark.parametrize(
    ("text", "there", "wanted"),
    [
        ("", {}, "'' names no image; wanted a path, HOST/NAME[:TAG], or TRANSPORT:DETAILS"),
        (":tag", {}, "':tag' names no image; wanted a path, HOST/NAME[:TAG], or TRANSPORT:DETAILS"),
        (
            "fedora:42",
            {},
            "'fedora:42' is ambiguous: there is no such path, and before a slash no host of a registry; "
            "write ./fedora:42 for a file or directory, docker://docker.io/library/fedora:42 for Docker Hub",
        ),
        (
            "a/b",
            {},
            "'a/b' is ambiguous: there is no such path, and before a slash no host of a registry; "
            "write ./a/b for a file or directory, docker://docker.io/a/b:latest for Docker Hub",
        ),
        (
            "build.d/os",
            {"directories": ["build.d/os"]},
            "'build.d/os' is ambiguous: there is such a path, and it is a name in a registry; "
            "write ./build.d/os for the path, docker://build.d/os for the registry",
        ),
        (
            "quay.io/A",
            {},
            "'quay.io/A' is no name of an image in a registry: 'A' is not all lower case; "
            "and there is no such path, for which write ./quay.io/A",
        ),
        (
            "os:",
            {},
            "'os:' is no name of an image in a registry: the tag is empty; "
            "and there is no such path, for which write ./os:",
        ),
        ("os:", {"directories": ["os"]}, "'os:' has an empty tag; wanted PATH[:TAG]"),
        (
            "https://quay.io/a",
            {},
            "'https' is no transport; for an image in a registry write docker://quay.io/a",
        ),
        (
            "./d:t",
            {"directories": ["./d"], "files": ["./d/manifest.json"]},
            "'./d:t' holds a single image (dir:), which has no tag; wanted dir:./d",
        ),
    ],
)
def test_ambiguous(text, there, wanted):
    """What may be a path or a name is refused, with both readings and what to write."""
    assert refusal(text, **there) == wanted


def test_the_file_system_is_asked(tmp_path, monkeypatch):
    """Without arguments it is the file system that tells what is there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layout:1").mkdir()
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "manifest.json").touch()
    (tmp_path / "os.tar").touch()

    assert parse_reference("layout:1") == OciReference("layout:1", None, None, "")
    assert parse_reference("copy") == DirReference("copy", "")
    assert parse_reference("os.tar:x") == ArchiveReference("os.tar", "x", "")
    with pytest.raises(UsageError, match="^'\\\\ud800' is no name"):
        parse_reference("\ud800")


@pytest.mark.parametrize(
    ("text", "transport"),
    [
        ("quay.io/a", Transport.REGISTRY),
        ("oci:x", Transport.OCI),
        ("oci-archive:x", Transport.OCI_ARCHIVE),
        ("docker-archive:x", Transport.DOCKER_ARCHIVE),
        ("-", Transport.ARCHIVE),
        ("dir:x", Transport.DIR),
        ("containers-storage:x", Transport.CONTAINERS_STORAGE),
        ("docker-daemon:x:y", Transport.DOCKER_DAEMON),
        ("sif:x", Transport.OTHER),
    ],
)
def test_values(text, transport):
    """References tell their transport, are equal whatever was typed, pickle, and do not change."""
    found = parsed(text)

    assert found.transport is transport
    other = pickle.loads(pickle.dumps(found))
    object.__setattr__(other, "text", "other")
    assert other == found
    assert pickle.loads(pickle.dumps(found)) == found
    with pytest.raises(AttributeError, match="does not change"):
        found.text = ""


def test_imports_little():
    """To read a reference takes expressions and values: no network, no codecs."""
    code = "import sys, composefs.reference; print(*sorted(m for m in sys.modules if m.startswith('composefs')))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    wanted = [
        "",
        ".errors",
        ".reference",
        ".reference.names",
        ".reference.parsing",
        ".reference.value",
        ".reference.values",
    ]
    assert done.stdout.split() == [f"composefs{name}" for name in wanted]
