"""Names from peers: what never reaches a file system, and what must."""

from __future__ import annotations

import posixpath
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkq.errors import UnsafeName
from chunkq.protocol import names
from chunkq.protocol.names import (
    check_link_target,
    check_name,
    check_path,
    find_collisions,
    fold_key,
)

GOOD_NAMES = [
    "a",
    "a.txt",
    ".hidden",
    "..data",
    "with space",
    "naïve",
    "日本語",
    "👩‍👩‍👧",
    "-rf",
    "a*b?",
    '"quoted"',
    "CONSOLE",
    "con1",
    "COM",
    "COM10",
    "LPT",
    "xNUL",
    "a.NUL",
    "x" * 255,
    "é" * 127,
]

BAD_NAMES = [
    pytest.param("", id="empty"),
    pytest.param(".", id="dot"),
    pytest.param("..", id="dot-dot"),
    pytest.param("/", id="slash"),
    pytest.param("a\\b", id="backslash"),
    pytest.param("a:b", id="colon-stream"),
    pytest.param("C:", id="colon-drive"),
    pytest.param("a\0b", id="NUL"),
    pytest.param("a\nb", id="line-feed"),
    pytest.param("a\x1bb", id="escape"),
    pytest.param("a\x7f", id="DEL"),
    pytest.param("a\x85b", id="C1"),
    pytest.param("a\u2028b", id="line-separator"),
    pytest.param("a\u2029b", id="paragraph-separator"),
    *(
        pytest.param(f"a{chr(point)}b", id=f"bidi-{point:04X}")
        for point in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    ),
    pytest.param("\udc80", id="surrogate"),
    pytest.param("x" * 256, id="256-bytes"),
    pytest.param("é" * 128, id="256-bytes-of-utf-8"),
    pytest.param("trailing.", id="trailing-dot"),
    pytest.param("trailing ", id="trailing-space"),
    pytest.param("...", id="three-dots"),
    pytest.param(" ", id="space"),
    *(
        pytest.param(name, id=f"device-{name}")
        for name in ("CON", "con", "CON.txt", "nul.tar.gz", "PRN", "aux.c", "COM1", "com9.x")
    ),
    *(
        pytest.param(name, id=f"device-{name}")
        for name in ("LPT1", "lpt9.log", "COM¹", "LPT³.x", "CONIN$", "CON .txt", "COM0")
    ),
    pytest.param(".chunkq", id="staging"),
    pytest.param(".ChunkQ", id="staging-in-capitals"),
]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_ordinary_names_are_taken_as_they_are(name: str) -> None:
    """Names that people use pass unchanged, whatever script they are in."""
    assert name == check_name(name)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_unsafe_name_is_refused(name: str) -> None:
    """Every name that is more than a name is refused, by itself and inside a path."""
    with pytest.raises(UnsafeName):
        check_name(name)
    with pytest.raises(UnsafeName):
        check_path(f"dir/{name}")


def test_path_is_no_name() -> None:
    """A slash inside makes two names of one."""
    with pytest.raises(UnsafeName, match="a slash"):
        check_name("a/b")


@pytest.mark.parametrize("name", ["a\u202egpj.exe", "a\nb", "\udc80", "a\x1b[2J", "x" * 5000])
def test_message_is_safe_to_print(name: str) -> None:
    """The message shows the name without doing to the terminal what the name would."""
    with pytest.raises(UnsafeName) as caught:
        check_name(name)
    message = caught.value.message
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 200


@pytest.mark.parametrize(
    ("expected", "path"),
    [((), ""), (("a",), "a"), (("a", "b", "c.txt"), "a/b/c.txt"), ((".x", "..y"), ".x/..y")],
)
def test_path_is_split_into_names(expected: tuple[str, ...], path: str) -> None:
    """A good path is its names; the empty one is the share's root."""
    assert expected == check_path(path)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/", id="root"),
        pytest.param("/etc/passwd", id="absolute"),
        pytest.param("//server/share", id="network"),
        pytest.param("C:/x", id="drive"),
        pytest.param("\\\\server\\share", id="backslashes"),
        pytest.param("..", id="dot-dot"),
        pytest.param("../x", id="dot-dot-first"),
        pytest.param("a/../b", id="dot-dot-inside"),
        pytest.param("a/..", id="dot-dot-last"),
        pytest.param("./a", id="dot-first"),
        pytest.param("a/./b", id="dot-inside"),
        pytest.param("a//b", id="empty-inside"),
        pytest.param("a/", id="empty-last"),
        pytest.param(" /a", id="space"),
        pytest.param("a/CON/b", id="device-inside"),
        pytest.param("dir/.chunkq/x.state", id="staging-inside"),
        pytest.param("/".join(["a"] * 129), id="129-deep"),
        pytest.param("/".join(["x" * 255] * 17), id="over-4096-bytes"),
        pytest.param("a/\udc80", id="surrogate"),
        pytest.param("a/" * 1_000_000 + "a", id="two-million-characters"),
    ],
)
def test_unsafe_path_is_refused(path: str) -> None:
    """No path leads out of the root, to a device, or anywhere twice."""
    with pytest.raises(UnsafeName):
        check_path(path)


def test_deepest_and_longest_paths_are_taken() -> None:
    """The limits themselves are inside."""
    assert len(check_path("/".join(["a"] * 128))) == 128
    longest = "/".join(["x" * 255] * 16)
    assert len(longest) == 4095
    assert len(check_path(longest)) == 16


@given(st.text())
def test_accepted_paths_stay_inside(path: str) -> None:
    """Whatever is accepted is what normalising it gives, relative, and never goes up."""
    try:
        parts = check_path(path)
    except UnsafeName:
        return
    assert path == "/".join(parts)
    if parts:
        assert path == posixpath.normpath(path)
        assert not path.startswith(("/", ".."))


# ---------------------------------------------------------------- collisions


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("A", "a", id="A-a"),
        pytest.param("README", "ReadMe", id="case"),
        pytest.param("é", "e\u0301", id="NFC-NFD"),
        pytest.param("É", "e\u0301", id="case-and-form"),
        pytest.param("straße", "STRASSE", id="sharp-s"),
        pytest.param("\u212b", "å", id="angstrom-sign"),
        pytest.param("Σ", "ς", id="final-sigma"),
        pytest.param("\u1f80\u0301", "\u03b1\u0313\u0301\u0345", id="iota-below-and-an-accent"),
    ],
)
def test_names_that_meet_on_some_file_system(one: str, other: str) -> None:
    """Two names that differ only in case or Unicode form collide."""
    assert fold_key(one) == fold_key(other)
    assert {fold_key(one): [one, other]} == find_collisions(["x", one, "y", other])


def test_names_that_do_not_meet() -> None:
    """Different names do not collide, however much alike they look; the same one twice does."""
    assert find_collisions(["a", "b", "o", "0", "l", "1", "e", "é"]) == {}
    assert find_collisions(["a", "a"]) == {"a": ["a", "a"]}


@given(st.text())
def test_fold_key_is_the_same_for_all_forms(name: str) -> None:
    """Both canonical Unicode forms of a name have the same key."""
    forms = {fold_key(unicodedata.normalize(form, name)) for form in ("NFC", "NFD")}
    assert {fold_key(name)} == forms


# ---------------------------------------------------------------- links


@pytest.mark.parametrize(
    ("parts", "target"),
    [
        (("link",), "file"),
        (("link",), "dir/file"),
        (("link",), "./file"),
        (("link",), "dir/"),
        (("link",), "."),
        (("a", "link"), ".."),
        (("a", "link"), "../b"),
        (("a", "b", "link"), "../../c/d"),
        (("a", "b", "link"), ".././../c"),
    ],
)
def test_link_inside_the_tree(parts: tuple[str, ...], target: str) -> None:
    """A relative link that stays inside is taken."""
    check_link_target(parts, target)


@pytest.mark.parametrize(
    ("parts", "target"),
    [
        pytest.param(("link",), "", id="empty"),
        pytest.param(("link",), "/etc/passwd", id="absolute"),
        pytest.param(("link",), "..", id="out-by-one"),
        pytest.param(("link",), "../x", id="out-by-one-and-in"),
        pytest.param(("a", "link"), "../../x", id="out-from-a-directory"),
        pytest.param(("a", "link"), "./.././../x", id="out-with-dots"),
        pytest.param(("link",), "a/../../x", id="down-and-out"),
        pytest.param(("p", "q", "link"), "other/../x", id="climbs-through-another-link"),
        pytest.param(("link",), "a\\b", id="backslash"),
        pytest.param(("link",), "C:x", id="drive"),
        pytest.param(("link",), "a\0", id="NUL"),
        pytest.param(("link",), "CON", id="device"),
        pytest.param(("link",), ".chunkq/x.state", id="staging"),
        pytest.param(("link",), "\udc80", id="surrogate"),
        pytest.param(("link",), "x/" * 3000, id="over-4096-bytes"),
        pytest.param((), "..", id="no-link-path"),
    ],
)
def test_link_out_of_the_tree_is_refused(parts: tuple[str, ...], target: str) -> None:
    """A link that leads out, could by way of another link, or names the unsafe is refused."""
    with pytest.raises(UnsafeName):
        check_link_target(parts, target)


_STEPS = st.lists(st.sampled_from(["a", "b", ".", "..", ""]), min_size=1, max_size=7)


@given(st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=4), _STEPS)
def test_accepted_links_stay_inside(parts: list[str], steps: list[str]) -> None:
    """Resolved by the letter, an accepted target is at or below the root."""
    target = "/".join(steps)
    try:
        check_link_target(parts, target)
    except UnsafeName:
        return
    resolved = posixpath.normpath(posixpath.join("/root", *parts[:-1], target))
    assert resolved == "/root" or resolved.startswith("/root/")


@given(st.text(alphabet="aZ9-_. :\\\n\x7fé\u202e", max_size=12))
def test_the_quick_look_refuses_what_the_slow_one_does(name: str) -> None:
    """Plain names are taken without looking at each character; the verdict is the same."""

    def verdict() -> bool:
        try:
            names.check_name(name)
        except UnsafeName:
            return False
        return True

    quick = verdict()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(names, "_PLAIN", re.compile("(?!)"))
        slow = verdict()

    assert slow is quick


def test_a_name_made_to_be_looked_at_for_long() -> None:
    """Whatever a peer sends, a look takes about as long as the name: here it comes to an end."""
    for part in ("a-", "a.", "a ", "-", "a"):
        with pytest.raises(UnsafeName):
            names.check_name((part * 127)[:250] + ":")
