"""Prompt files are read to the letter; the shipped ones keep the constraints that they were written under."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clipkit import prompts
from clipkit.errors import ClipkitError, UsageError

FOLDER = Path(__file__).parents[1] / "prompts"
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.txt"))

GENERIC32 = """a photo of an object · a photo of something natural · a photo of something man-made · a blurry photo ·
a close-up photo · a photo taken during the day · a photo taken outdoors · a photo taken indoors · a small object ·
a large object · an animal · a machine · a thing that moves · a stationary object · a photo of a living thing ·
a photo of a synthetic thing · a colorful object · a grayscale image · a smooth surface · a textured object ·
a plastic object · a metallic object · a flying thing · a photo of something round · a rectangular object ·
a noisy image · an object with wheels · an object with wings · an underwater object · a photo from a low angle ·
a photo from a top view · a centered object""".replace("\n", " ").split(" · ")


def words(text: str) -> list[str]:
    return re.findall(r"[a-z_-]+", text.lower())  # man-made is a word of its own


CIFAR10 = words("airplane automobile bird cat deer dog frog horse ship truck")
CIFAR100 = words("""apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain
plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm""")
FOOD101 = words("""apple_pie baby_back_ribs baklava beef_carpaccio beef_tartare beet_salad beignets bibimbap
bread_pudding breakfast_burrito bruschetta caesar_salad cannoli caprese_salad carrot_cake ceviche cheesecake
cheese_plate chicken_curry chicken_quesadilla chicken_wings chocolate_cake chocolate_mousse churros clam_chowder
club_sandwich crab_cakes creme_brulee croque_madame cup_cakes deviled_eggs donuts dumplings edamame eggs_benedict
escargots falafel filet_mignon fish_and_chips foie_gras french_fries french_onion_soup french_toast fried_calamari
fried_rice frozen_yogurt garlic_bread gnocchi greek_salad grilled_cheese_sandwich grilled_salmon guacamole gyoza
hamburger hot_and_sour_soup hot_dog huevos_rancheros hummus ice_cream lasagna lobster_bisque lobster_roll_sandwich
macaroni_and_cheese macarons miso_soup mussels nachos omelette onion_rings oysters pad_thai paella pancakes panna_cotta
peking_duck pho pizza pork_chop poutine prime_rib pulled_pork_sandwich ramen ravioli red_velvet_cake risotto samosa
sashimi scallops seaweed_salad shrimp_and_grits spaghetti_bolognese spaghetti_carbonara spring_rolls steak
strawberry_shortcake sushi tacos takoyaki tiramisu tuna_tartare waffles""")
IRREGULAR = words(
    "men women mice wolves babies butterflies poppies cars planes fish tree trees pepper peppers"
)


def shipped(name: str) -> list[str]:
    return prompts.read((FOLDER / name).read_bytes(), name).texts


def runs(text: str) -> set[str]:
    """Every run of consecutive words."""
    found = words(text)
    return {" ".join(found[i:j]) for i, j in itertools.combinations(range(len(found) + 1), 2)}


def refused(data: bytes, name: str = "mine.txt") -> ClipkitError:
    with pytest.raises(ClipkitError) as caught:
        prompts.read(data, name)
    assert "\n" not in caught.value.message
    return caught.value


EDGES_OF_A_LINE = st.sampled_from(["", " ", "\t", "  ", "\u3000", "\ufeff"])
ODD = "\t\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029\u00a0\u3000\ufeff#{}é漢😀 "
CHARACTERS = st.one_of(st.sampled_from(ODD), st.characters(blacklist_categories=("Cc", "Cs")))
TEXTS = st.text(CHARACTERS, min_size=1).map(lambda text: text.strip(prompts.EDGES)).filter(bool)


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1))
def test_what_is_written_line_by_line_is_read_back(texts: list[str]) -> None:
    found = prompts.read("\n".join(texts).encode(), "mine.txt")
    assert found.texts == texts
    assert found.lines == list(range(1, len(texts) + 1))
    assert found.blank == 0
    later = [i for i, text in enumerate(texts) if text in texts[:i]]
    assert found.duplicates == [(texts.index(texts[i]) + 1, i + 1) for i in later]


@settings(deadline=None)
@given(
    st.lists(st.tuples(EDGES_OF_A_LINE, TEXTS | st.just(""), EDGES_OF_A_LINE), min_size=1),
    st.booleans(),
)
def test_bom_crlf_and_outer_whitespace_change_nothing(
    rows: list[tuple[str, str, str]], ended: bool
) -> None:
    clean = [text for _, text, _ in rows]
    assume(any(clean))
    end = "\n" if ended or not clean[-1] else ""
    plain = prompts.read(("\n".join(clean) + end).encode(), "mine.txt")
    windows = "\r\n".join(map("".join, rows)) + end.replace("\n", "\r\n")
    assert prompts.read(b"\xef\xbb\xbf" + windows.encode(), "mine.txt") == plain
    assert len(plain.texts) + plain.blank == len(rows)


@settings(deadline=None)
@given(st.binary() | st.text("a \r\n\t\0\x85\u2028\ufeff{}").map(str.encode))
def test_any_bytes_give_prompts_or_one_line_of_error(data: bytes) -> None:
    try:
        found = prompts.read(data, "mine.txt")
    except ClipkitError as error:
        outcome = error.message
    else:
        outcome = f"mine.txt {found.texts!r}"
        assert found.texts
        assert all(found.texts)
        assert len(found.texts) + found.blank == data.count(b"\n") + (not data.endswith(b"\n"))
    assert re.fullmatch("mine.txt.+", outcome)


@pytest.mark.parametrize(
    "character", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\t"]
)
def test_only_line_feeds_split_a_line(character: str) -> None:
    found = prompts.read(f"a{character}b\nc\n".encode(), "mine.txt")
    assert found.texts == [f"a{character}b", "c"]
    assert found.lines == [1, 2]


def test_there_are_no_comments() -> None:
    assert prompts.read(b"# a hash\n// strokes\n", "mine.txt").texts == ["# a hash", "// strokes"]


def test_blank_lines_are_dropped_and_counted_and_lines_keep_their_numbers() -> None:
    found = prompts.read(b"\n  \t\na\n\nb\n\n", "mine.txt")
    assert (found.texts, found.lines, found.blank) == (["a", "b"], [3, 5], 4)
    assert found.warnings() == ["mine.txt: 4 blank lines dropped"]


def test_a_clean_file_warns_about_nothing() -> None:
    assert prompts.read(b"a\nA\nb", "mine.txt").warnings() == []


def test_duplicates_are_kept_and_named_by_line() -> None:
    found = prompts.read(b"a\n\nb\n a \nb\na", "mine.txt")
    assert found.texts == ["a", "b", "a", "b", "a"]
    assert found.duplicates == [(1, 4), (3, 5), (1, 6)]
    assert found.warnings() == [
        "mine.txt: 1 blank line dropped",
        "mine.txt: 3 duplicates kept: line 4 repeats line 1, line 5 repeats line 3, line 6 repeats line 1",
    ]


def test_many_duplicates_are_one_short_message() -> None:
    (message,) = prompts.read(b"a\n" * 1000, "mine.txt").warnings()
    assert message.startswith("mine.txt: 999 duplicates kept: line 2 repeats line 1, ")
    assert message.endswith("line 6 repeats line 1, and 994 more")


@pytest.mark.parametrize("name", ["-", "stdin"])
def test_empty_standard_input_asks_for_the_command_before(name: str) -> None:
    assert refused(b"", name).message == "empty input: did the command before it fail?"
    assert (
        refused(b"\n", name).message
        == "standard input must hold at least one prompt; got blank lines"
    )


@pytest.mark.parametrize(
    "data", [b"\n", b"\r\n", b" \n\t\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n\xc2\xa0"]
)
def test_nothing_but_blanks_is_refused(data: bytes) -> None:
    assert refused(b"").message == "mine.txt must hold at least one prompt; got an empty file"
    assert refused(data).message == "mine.txt must hold at least one prompt; got blank lines"


@pytest.mark.parametrize(
    ("data", "line", "byte"),
    [
        (b"\xff\xfea\0", 1, "0xff"),  # UTF-16, as some Windows shells write it
        (b"a\nb\r\ncaf\xe9\n", 3, "0xe9"),
        (b"a\n\n\xed\xa0\x80", 3, "0xed"),  # a surrogate
        (b"a\nb \xe2\x82", 2, "0xe2"),  # cut off inside a character
        (b"\xc0\x80", 1, "0xc0"),  # an overlong NUL
        (b"\x89HDF\r\n\x1a\n", 1, "0x89"),
    ],
)
def test_invalid_utf8_names_file_line_and_byte(data: bytes, line: int, byte: str) -> None:
    error = refused(data)
    assert error.message == f"mine.txt, line {line} must be UTF-8 text; got the byte {byte}"
    assert error.hint


@pytest.mark.parametrize("code", [0x00, 0x07, 0x08, 0x0E, 0x1B, 0x7F, 0x80, 0x84, 0x86, 0x9F])
@pytest.mark.parametrize("place", ["{}a", "a{}", "a{}b", "{}"])
def test_control_characters_name_file_and_line(code: int, place: str) -> None:
    error = refused(f"fine\r\n\n{place.format(chr(code))}\nfine\n".encode())
    assert error.message == f"mine.txt, line 3 must hold no control character; got U+{code:04X}"


@pytest.mark.parametrize("data", [b"a\rb\r", b"a\r", b"a\r\r\n", b"\ra\n"])
def test_a_lone_carriage_return_is_neither_split_nor_kept(data: bytes) -> None:
    error = refused(data)
    assert error.message == "mine.txt, line 1 must hold no control character; got U+000D"
    assert error.hint == r"end lines in \n or \r\n"


@pytest.mark.parametrize(
    "name", ["fox", "pickup_truck", "{}", "{c}", "{0.__class__}", "%s", r"\1", "é"]
)
@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        ("a {}", "a ", ""),
        ("{c} b", "", " b"),
        ("{0} {{}} {x}", "{0} {", "} {x}"),
        ("%s \\1 {c}}", "%s \\1 ", "}"),
    ],
)
def test_only_the_placeholder_is_replaced(
    template: str, before: str, after: str, name: str
) -> None:
    assert prompts.fill(template, name) == before + name + after


def test_a_placeholder_may_repeat() -> None:
    assert prompts.fill("a {} or no {}", "fox") == "a fox or no fox"


@pytest.mark.parametrize(
    ("template", "got"),
    [("a photo", "neither"), ("{0} { } {C}", "neither"), ("{} and {c}", "both")],
)
def test_a_template_needs_one_kind_of_placeholder(template: str, got: str) -> None:
    with pytest.raises(UsageError) as caught:
        prompts.fill(template, "fox")
    assert caught.value.message == f"a template must hold {{}} or {{c}}; {template!r} holds {got}"
    with pytest.raises(UsageError) as caught:
        prompts.read_templates(f"a {{}}\n\n{template}\n".encode(), "mine.txt")
    assert caught.value.message.startswith("mine.txt, line 3: a template must hold")


def test_templates_are_read_as_prompts_are() -> None:
    found = prompts.read_templates(b"\xef\xbb\xbfa {}\r\n\r\n a {} \r\n", "mine.txt")
    assert (found.texts, found.lines, found.blank, found.duplicates) == (
        ["a {}", "a {}"],
        [1, 3],
        1,
        [(1, 3)],
    )


NAMES = st.lists(st.text(), min_size=1, max_size=5)


@settings(deadline=None)
@given(
    NAMES, st.lists(st.sampled_from(["a {}", "{c}", "{} on {}", "b {}"]), min_size=1, max_size=5)
)
def test_class_prompts_are_ordered_by_class_then_template(
    class_names: list[str], templates: list[str]
) -> None:
    texts, class_index, template_index = prompts.from_classes(class_names, templates)
    pairs = list(itertools.product(range(len(class_names)), range(len(templates))))
    assert list(zip(class_index.tolist(), template_index.tolist(), strict=True)) == pairs
    assert texts == [prompts.fill(templates[t], class_names[c]) for c, t in pairs]
    assert class_index.dtype == template_index.dtype == np.int64


@pytest.mark.parametrize(("class_names", "templates"), [([], ["a {}"]), (["fox"], [])])
def test_class_prompts_need_classes_and_templates(
    class_names: list[str], templates: list[str]
) -> None:
    with pytest.raises(UsageError, match="at least one"):
        prompts.from_classes(class_names, templates)


def test_what_the_thesis_gives_is_the_thesis_s() -> None:
    assert shipped("templates/thesis.txt") == ["a photo of a {}"]
    assert shipped("generic32.txt") == GENERIC32


@pytest.mark.parametrize(("smaller", "larger"), [(32, 99), (99, 205), (205, 415)])
def test_each_generic_set_begins_with_the_smaller_one(smaller: int, larger: int) -> None:
    texts = shipped(f"generic{larger}.txt")
    assert len(texts) == larger
    assert texts[:smaller] == shipped(f"generic{smaller}.txt")


@pytest.mark.parametrize("size", [16, 32, 99, 205, 415])
def test_no_generic_prompt_names_a_class(size: int) -> None:
    names = {prompts.readable(name) for name in CIFAR10 + CIFAR100}
    names |= {name + ending for name in names for ending in ("s", "es")} | set(IRREGULAR)
    for text in shipped(f"generic{size}.txt"):
        assert names.isdisjoint(runs(text)), text


def test_no_food_prompt_names_a_dish_of_food101() -> None:
    dishes = {prompts.readable(name) for name in FOOD101}
    dishes |= {name.removesuffix("s") for name in dishes} | {f"{name}s" for name in dishes}
    for text in shipped("food32.txt"):
        assert dishes.isdisjoint(runs(text)), text


def test_the_embedded_class_lists_are_whole() -> None:
    assert [len(set(names)) for names in (CIFAR10, CIFAR100, FOOD101)] == [10, 100, 101]


@pytest.mark.parametrize(("name", "size"), [("generic16.txt", 16), ("food32.txt", 32)])
def test_the_other_sets_have_their_size_and_no_prompt_of_the_nested_ones(
    name: str, size: int
) -> None:
    assert len(shipped(name)) == size
    assert set(shipped(name)).isdisjoint(shipped("generic415.txt"))


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_file_is_clean(name: str) -> None:
    data = (FOLDER / name).read_bytes()
    texts = shipped(name)
    assert (
        data == "".join(f"{text}\n" for text in texts).encode()
    )  # LF, no BOM, no blank line, no stray space
    assert all(text.isascii() and text.isprintable() for text in texts)
    bare = [re.sub(r"\b(an?|the)\b|[^a-z ]", "", text.lower()).split() for text in texts]
    assert len({" ".join(words) for words in bare}) == len(
        texts
    )  # alike but for case, articles and punctuation
    if name.startswith("templates/"):
        assert prompts.read_templates(data, name).texts == texts
    # a byte-pair token is at least a byte, and start and end take 2 of CLIP's 77
    assert max(map(len, texts)) <= 75


def test_the_readme_lists_every_file_with_its_size() -> None:
    rows = re.findall(
        r"^\| `(\S+)` \| (\d+) \|", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {name: int(size) for name, size in rows} == {name: len(shipped(name)) for name in FILES}
    assert len(rows) == len(FILES)
