"""Dumps, and the ids of the images that composefs-rs (V0, V1, V2) and libcomposefs (V0, V1) make of them."""

from typing import NamedTuple


class Case(NamedTuple):
    """A dump, its lines without newlines, and the fs-verity digests (SHA-256) of its images, by version."""

    name: str
    lines: list[str]
    by_rust: tuple[str, ...]  # none: the dump is refused
    by_c: tuple[str, ...]


_ROOT = "/ 0 40755 2 0 0 0 1.0 - - -"
_REST = "0 100644 1 0 0 0 1.0 - - -"  # of the line of an empty file


def _object(number: int) -> tuple[str, str]:
    digest = f"{number:064x}"
    return f"{digest[:2]}/{digest[2:]}", digest


def _chunked_files() -> list[str]:
    sizes = (1, 4096, 4097, 1 << 33, 1 << 43, (1 << 43) + 1, 1 << 50, 1 << 53)
    objects = [(index, size, *_object(index + 1)) for index, size in enumerate(sizes)]
    return [f"/f{index:02} {size} 100644 1 0 0 0 1.0 {path} - {digest}" for index, size, path, digest in objects]


def _files_with_xattrs() -> list[str]:
    own = [("\\x00\\x00" if index % 2 == 0 else "\\xee", index % 3, index) for index in range(6)]
    common = "user.b=\\xee security.selinux=lbl\\x00 lustre.l=1"
    return [f"/f{i} {_REST} user.a={a} trusted.overlay.x={b} {common} plain={i}" for a, b, i in own]


def _inline_files() -> list[str]:
    sizes = enumerate((512, 511, 500, 300, 64, 1, 512, 512, 512, 512, 400, 512))
    return [f"/f{index:02} {size} 100644 1 0 0 0 1.0 - {chr(97 + index % 26) * size} -" for index, size in sizes]


_DIGEST = f"{7:064x}"
_PATH = f"{_DIGEST[:2]}/{_DIGEST[2:]}"
_OBJECT = f"5 100644 1 0 0 0 1.0 {_PATH} - {_DIGEST}"
_MANY = " ".join(f"user.{number:03}=v" for number in range(140))

_ALIKE = [
    (
        "empty",
        ["/ 0 40755 2 0 0 0 0.0 - - -"],
        (
            "8f589e8f57ecb88823736b0d857ddca1e1068a23e264fad164b28f7038eb3682",
            "14a26c957c84f6eb774b91205476adc13196c7c33b9dd97d08d43725ecb90b63",
            "086b702a519b57d6ef5aea6f8b3f2be24355cd1fb835cd80fb4e3d388b24d5a5",
        ),
    ),
    (
        "directory-blocks",
        [_ROOT, "/big 0 40755 2 0 0 0 1.0 - - -", *(f"/big/entry-{i:04}-{'x' * 20} {_REST}" for i in range(400))],
        (
            "cbb8a8396c7d89f8017b68204cbe0815ad5a1f20ca3880f70f9de522af11214c",
            "e1d56223ad8c17d3bd21edcaae28eec2ddcee2d52a4e1e22bb9f2cea9d2374f4",
            "748c23a72772c0ae1bd4c099375a183d6493221ead42c207bbf85423dc5080df",
        ),
    ),
    (
        "link-in-block",
        [_ROOT, f"/l 1000 120777 1 0 0 0 1.0 {'a' * 1000} - - user.big={'v' * 3200}"],
        (
            "5de72e62467e0e46bcdba70a654d46e4668250f12cdc14da4bcdedc6f0a1af22",
            "0436bfc303c5d4307e81a888d9f03284ea441aa1b0cbb0d9f1dcc6b9a65a9ce8",
            "a7d02f17807d31e5819c4ce5809060a845b0b2c560df7cd4809e7991c60b5cc6",
        ),
    ),
    (
        "chunks",
        [_ROOT, *_chunked_files()],
        (
            "c016bf5164f4664dfb185dfe165f38a638a9f7131402cf013c44f2bc2b6a324a",
            "c2693af49350abca2a5b7a4d37c261785463172380c4dd44c9f101628f03c70e",
            "dec77920b05549094514938d38375ff44520b82c310340c010f62049c023c339",
        ),
    ),
    (
        "shared-xattrs",
        [_ROOT, *_files_with_xattrs()],
        (
            "f15690f2d1c853954565029828f57797d290fdbf8f3415e130946b66395ad084",
            "e90404560576b42fd9eaa753cb896887b20de8442dbb119a61318772013668e1",
            "26354532bf82a8bc874187666e3201206a37d2e2c603e27e14bb2f223d05ddd9",
        ),
    ),
    (
        "whiteouts",
        [
            "/ 0 40755 2 7 8 0 1.0 - - - security.selinux=lbl user.r=1",
            "/00 3 100644 1 0 0 0 1.0 - abc -",
            "/d 0 40755 2 0 0 0 1.0 - - -",
            "/d/w1 0 20644 1 0 0 0 1.0 - - -",
            "/d/w2 0 20600 1 0 0 0 2.0 - - - user.k=v",
            "/w 0 20644 1 0 0 0 1.0 - - -",
        ],
        (
            "1d2da8e88dd85a5df3514d697f0603f4305a2f4a849e9229dfe17fba5bc99413",
            "0a33b1b2aa89a6af4c123e7c1dd266465d41489eabda836166e8207de8ed95df",
            "9c52fa4b27dcc351004aeeee019fbf54a5d9d7603aea207f86634b16af033aba",
        ),
    ),
    (
        "inline",
        [_ROOT, *_inline_files()],
        (
            "3eafbe48cea123d0b950eda8b959dc508410e176ab971e1d62db62199f4f462e",
            "5db07adefe1a6e31a028873abb0d7e72a86dcf21b0252730f2077589a83c0766",
            "b51e6cd3def82eeedc5d0e15e826c526cd8e4ddb64d4d9cb0dca3537889d660a",
        ),
    ),
    (
        "compact",
        [
            "/ 0 40755 2 0 0 0 5.5 - - -",
            "/a 0 100644 1 0 0 0 5.5 - - -",
            "/b 0 100644 1 65536 0 0 5.5 - - -",
            "/c 0 100644 1 0 65535 0 5.5 - - -",
            "/d 0 100644 1 0 0 0 5.6 - - -",
            "/e 0 100644 1 0 0 0 9.0 - - -",
            f"/f 4294967296 100644 1 0 0 0 5.5 {_object(9)[0]} - {_object(9)[1]}",
            "/g 0 60660 1 0 0 2049 5.5 - - -",
            "/h 0 10644 1 0 0 0 5.5 - - -",
            "/i 0 140755 1 0 0 0 5.5 - - -",
        ],
        (
            "0878663055a3d63d699238450058ee02af3c8825eed9e1553e155a52d1a5bd94",
            "69322cddd5d7f05716cbf793543a9e7bcbb0e6e0435b7448e55eb74557aface1",
            "227de1bc47824dd368ffbfff4deac10d1410a216b753af9b475444398a6605ec",
        ),
    ),
    (
        "hard-links",
        [
            "/ 0 40755 4 0 0 0 1.0 - - -",
            "/a 0 40755 2 0 0 0 1.0 - - -",
            f"/a/k {_REST}",
            "/a/l 3 100644 3 0 0 0 1.0 - abc - user.x=1",
            f"/a/m {_REST}",
            "/b 3 @100644 3 0 0 0 1.0 /a/l - -",
            "/z 0 40755 2 0 0 0 1.0 - - -",
            f"/z/s {_REST}",
            "/z/t 3 @100644 3 0 0 0 1.0 /a/l - -",
        ],
        (
            "22b695ce91744022731f93b245e748fdfb4686e3bce271f4c5574de74b645661",
            "4b0a3fafb2cbbe6cd0b5596309335d40fb96f960705be05f52aec02b640da183",
            "4a37cebc0ec36e2f410ce24a45e1255d0ed911f08581ae1fe2d049951092300f",
        ),
    ),
    (
        "without-digest",
        [
            _ROOT,
            f"/nv 100 100644 1 0 0 0 1.0 {_object(3)[0]} - -",
            "/sp 100 100644 1 0 0 0 1.0 - - -",
            "/z 3 100644 1 0 0 0 1.0 - abc -",
        ],
        (
            "bca549eb898ee5fb30571207e26067d8ab7abb8a283a0bc9dda9203843f0d677",
            "ed96706fb0300409bc931c9bd55dd7178ab9114845fda396c29117ee5000d67a",
            "4b78fecd643774e408b987bc6fd300a35cc315761f26f5812a0745cc612e1075",
        ),
    ),
    (
        "objects-twice",
        [
            _ROOT,
            f"/a {_OBJECT}",
            f"/b {_OBJECT} security.capability=x",
            f"/c {_OBJECT} user.z=1 security.capability=x",
            f"/d {_OBJECT} trusted.overlay.opaque=y",
            f"/e {_OBJECT} trusted.overlay.opaque=y user.z=1",
        ],
        (
            "6baa5797e1e0e85c9ddaed4d663d94cc6bb2c6b5d902af570b10b48448d7b72a",
            "8bfc1ef55a7fb913ba455e0012f697c11a799f9ae39ad4f0e9a90ee1ae10e93a",
        ),
    ),
]

_UNLIKE = [
    Case(
        "link-count",
        [_ROOT, "/a 0 100644 5 0 0 0 1.0 - - -", "/b 0 100644 70000 0 0 0 1.0 - - -", "/c 0 100644 0 0 0 0 1.0 - - -"],
        (
            "a63a1ea66076e2f1d7924f6e3500a4bf3f992beb7e6053fc57e313f684155ebe",
            "624d4239f9f4a8430dc5e54e50a7275c415ad64880472505c587b3b40108df15",
        ),
        (
            "2659014030fd24a25bd0cb330f436a84686c37db4a5454f640455a1ca22081e6",
            "970ca1733f57acf446e385a048ef25ed42b29b866df0fee38db4ecd529b3faa5",
        ),
    ),
    Case(
        "home-of-links",
        [
            _ROOT,
            "/a 0 40755 2 0 0 0 1.0 - - -",
            "/z 0 40755 2 0 0 0 1.0 - - -",
            f"/z/s {_REST}",
            "/z/t 3 100644 2 0 0 0 1.0 - abc -",
            f"/z/u {_REST}",
            "/a/l 0 @100644 2 0 0 0 1.0 /z/t - -",
        ],
        (
            "15e44eec948c19a783f6b40c9274c4b5f84038ebb7099a16bd1440d94f8c7c3e",
            "73aa90d6c9b0a77de319534ddc9510730a7f46d721ce112879705c2db6e90efa",
        ),
        (
            "2cee0df734ef09f94804356258bd0d5a1b8bbd546edc4fa933e7a324d1ebc45f",
            "3af9f9fedab3d47ad89d0a0e816e752bc2f4445fa9f2cbf227bbad57250a6246",
        ),
    ),
    Case(
        "looks-like-stub",
        [_ROOT, "/aa 0 20644 1 0 0 0 1.0 - - -", "/ab 0 20600 1 0 0 0 1.0 - - -"],
        (
            "2cbadd01b15668ced3b858b666e8c64d9da3c78d86a37473bfe2b111bcf91ecd",
            "0c34b923181ada9ad2c3215fe237f386583bfb287897cefedf207229988b2766",
        ),
        (
            "e5272956cacc957e4dc1d2ff194f0fb7350ffa95e1e6f3eb80836b8da86d74fe",
            "f727c87e8abc011ada8f582716caf1b258241970a5879006efb98b11697c5d8d",
        ),
    ),
    Case(
        "marks",
        [
            f"{_ROOT} user.overlay.whiteouts= user.overlay.opaque=x",
            "/w 0 20644 1 0 0 0 1.0 - - - user.overlay.whiteout=",
            "/x 0 20644 1 0 0 0 1.0 - - - trusted.overlay.whiteout= user.other=1",
        ],
        (
            "fc819677deff929cb2a7b531736f86af1aebbf3ccd8d9a3f1a63456f35a1ba8e",
            "78337d8491a6a84b7fa54e12f09abbf7710376a58fe5e3180b56f158ff40de85",
        ),
        (
            "00c9082b5f8fcaeb4f804992c64608733a8ac40e335352123ad40c7b9a072b86",
            "eebe9dd96d180131e79d02aa4fc19b5ecc5872110c5a6121604ff2ce47ccc22d",
        ),
    ),
    Case(
        "many-shared",
        [_ROOT, f"/a {_REST} {_MANY}", f"/b {_REST} {_MANY}"],
        (
            "bd2d715ec97fc63ed46f23a9577b4608637a0bb26a0e007edf00283a7dbf391c",
            "20830e485df00cc148ffd85f617e277d1e5de7f259794aa3579d0a47745ea376",
        ),
        (
            "7e99bc3281b45ac398ba4c740179790f35f94872fdecf822b7cc017ccda9bf7d",
            "39c718c3e90656242d87c81c2f548f8fe90ce33d3bd273037da86d1283b1ee12",
        ),
    ),
    Case(
        "acl-prefix",
        [_ROOT, f"/a {_REST} system.posix_acl_access_x=1"],
        (
            "4718182b89b9bb9755ed8e905707bcd6788192fdd2ae15f30b3696de493d66f2",
            "4c90e275961101ee2d48fd12388d24f83b9bf7abb5cce9ce5aa896ce8e56a0cd",
        ),
        (
            "e7ebf08457213890d85696f29fa3e924e8691befeaf4423a81a2b5a35d42f372",
            "fe80ace5874bc593452e55b9a56d2c6eb4839be5082cf817a3c2d536b905f8c6",
        ),
    ),
    Case(
        "external-empty",
        [_ROOT, f"/a 0 100644 1 0 0 0 1.0 {_PATH} - {_DIGEST}"],
        (
            "3cd26a7c3289977bfc42ac2fdb49536a48c2b520ff3a944360af788048dfa4bd",
            "66275296cf811a6b8b11db3ed7a23910c0d582d13754fc614c25958d08efa766",
        ),
        (
            "9b09f0c3cf1c8045d6b44e313890fbabc05b897b2f5bd53edabb2239f4fe0c79",
            "575cbeba0ee25220ae8d638c059e38cd8ced85acf454d23961bec569de8913a1",
        ),
    ),
    Case(
        "payload",
        [_ROOT, f"/a 5 100644 1 0 0 0 1.0 else/where - {_DIGEST}", f"/b {_OBJECT}"],
        (
            "ba0f78556f2227bd23391275647663341e72b8346fde303e633c93bffeda2f40",
            "32bd67bcd7bbe50dfe808cf37c9491b5320ee981112cc20b06b4df5c6ac6fb63",
        ),
        (
            "1a61e99359888c3c9eff833b1d55893ff4fbc0daac1dea1ecf1685adfe012553",
            "c50067f0d00b369255558380182e8946352df82ac353249b49fd53884e6e89ef",
        ),
    ),
    Case(
        "before-1970",
        [
            "/ 0 40755 2 0 0 0 18446744073709551615.5 - - -",
            "/a 0 100644 1 0 0 0 18446744073709551615.5 - - -",
            "/b 0 100644 1 0 0 0 3.0 - - -",
        ],
        (
            "37bfccb44f03af1c4c4cc04330982fe5780bf2043d3f8af20d38b87d0fea3c58",
            "7f292fa2650e59c3c724dc307671db8e98ba72c1e890f8e48a37dedf260300a6",
        ),
        (
            "c29410939de8299d2e06c476e4e91d4a3f17a3efa43aa5bbd0bab5cb392dee83",
            "2c589b7be235d68794b70d5a55d77a356e6efee0a26748748e5c17dde4f5a6b9",
        ),
    ),
    Case(
        "inline-blocks",
        [_ROOT, *(f"/f{n} {n} 100644 1 0 0 0 1.0 - {'c' * n} -" for n in (2047, 2048, 2049, 4095, 4096, 4097, 5000))],
        (),
        (
            "4867bc50b3b8ee02c780d53e83786dde6999ed9f06e2817a58a56a17c832d1f2",
            "e69b3bf752f141b6bb699606bc64cd4733d3b76da6fadb98d2b23ec63b0b4f31",
        ),
    ),
    Case(
        "linked-whiteout",
        [
            _ROOT,
            "/a 0 40755 2 0 0 0 1.0 - - -",
            "/a/w 0 20644 2 0 0 0 1.0 - - -",
            "/b 0 40755 2 0 0 0 1.0 - - -",
            "/b/w 0 @20644 2 0 0 0 1.0 /a/w - -",
        ],
        (),
        (
            "10bdb89b70991cbd52015ba28f8abd29372218ed24cf485df91ffa5207b1a059",
            "30b770f22b0d50f040df389d4ed6a71af404edba912fc767d2938ef7979acfbb",
        ),
    ),
]

CASES = [*(Case(name, lines, ids, ids[:2]) for name, lines, ids in _ALIKE), *_UNLIKE]
