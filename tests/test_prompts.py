"""Prompt files are parsed exactly; the bundled ones keep the rules that they were written under."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clipkit import prompts, similarity
from clipkit.errors import ClipkitError, UsageError

FOLDER = Path(__file__).parents[1] / "prompts"
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.txt"))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z_-]+", text.lower())  # "man-made" is one word


GENERIC32 = """a photo of an object · a photo of something natural · a photo of something man-made
· a blurry photo · a close-up photo · a photo taken during the day · a photo taken outdoors · a
photo taken indoors · a small object · a large object · an animal · a machine · a thing that moves
· a stationary object · a photo of a living thing · a photo of a synthetic thing · a colorful
object · a grayscale image · a smooth surface · a textured object · a plastic object · a metallic
object · a flying thing · a photo of something round · a rectangular object · a noisy image · an
object with wheels · an object with wings · an underwater object · a photo from a low angle · a
photo from a top view · a centered object""".replace("\n", " ").split(" · ")
CIFAR10 = words("airplane automobile bird cat deer dog frog horse ship truck")
FOOD101 = words("""apple_pie baby_back_ribs baklava beef_carpaccio beef_tartare beet_salad beignets
bibimbap bread_pudding breakfast_burrito bruschetta caesar_salad cannoli caprese_salad carrot_cake
ceviche cheesecake cheese_plate chicken_curry chicken_quesadilla chicken_wings chocolate_cake
chocolate_mousse churros clam_chowder club_sandwich crab_cakes creme_brulee croque_madame
cup_cakes deviled_eggs donuts dumplings edamame eggs_benedict escargots falafel filet_mignon
fish_and_chips foie_gras french_fries french_onion_soup french_toast fried_calamari fried_rice
frozen_yogurt garlic_bread gnocchi greek_salad grilled_cheese_sandwich grilled_salmon guacamole
gyoza hamburger hot_and_sour_soup hot_dog huevos_rancheros hummus ice_cream lasagna lobster_bisque
lobster_roll_sandwich macaroni_and_cheese macarons miso_soup mussels nachos omelette onion_rings
oysters pad_thai paella pancakes panna_cotta peking_duck pho pizza pork_chop poutine prime_rib
pulled_pork_sandwich ramen ravioli red_velvet_cake risotto samosa sashimi scallops seaweed_salad
shrimp_and_grits spaghetti_bolognese spaghetti_carbonara spring_rolls steak strawberry_shortcake
sushi tacos takoyaki tiramisu tuna_tartare waffles""")
IRREGULAR = words(
    "men women mice wolves babies butterflies poppies cars planes fish tree trees pepper peppers"
)


def parse(text: str | bytes) -> prompts.Prompts:
    return prompts.parse(text.encode() if isinstance(text, str) else text, "mine.txt")


def bundled(name: str) -> list[str]:
    return prompts.parse((FOLDER / name).read_bytes(), name).texts


# Parsing

EDGES = st.sampled_from(["", " ", "\t", "  ", "\u3000", "\ufeff"])
ODD = "\t\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029\u00a0\u3000\ufeff#{}é漢😀 "
CHARACTERS = st.one_of(st.sampled_from(ODD), st.characters(blacklist_categories=("Cc", "Cs")))
TEXTS = st.text(CHARACTERS, min_size=1).map(lambda text: text.strip(prompts.STRIPPED)).filter(bool)


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1))
def test_prompts_that_are_written_line_by_line_are_parsed_back(texts):
    parsed = parse("\n".join(texts))
    assert parsed.texts == texts
    assert parsed.lines == list(range(1, len(texts) + 1))
    assert parsed.blank == 0
    later = [i for i, text in enumerate(texts) if text in texts[:i]]
    assert parsed.duplicates == [(texts.index(texts[i]) + 1, i + 1) for i in later]


@settings(deadline=None)
@given(st.lists(st.tuples(EDGES, TEXTS | st.just(""), EDGES), min_size=1), st.booleans())
def test_byte_order_marks_crlf_and_outer_whitespace_change_nothing(rows, has_last_newline):
    clean = [text for _, text, _ in rows]
    assume(any(clean))
    end = "\n" if has_last_newline or not clean[-1] else ""
    plain = parse("\n".join(clean) + end)
    windows = "\r\n".join(map("".join, rows)) + end.replace("\n", "\r\n")
    assert parse("\ufeff" + windows) == plain
    assert len(plain.texts) + plain.blank == len(rows)


@settings(deadline=None)
@given(st.binary() | st.text("a \r\n\t\0\x85\u2028\ufeff{}").map(str.encode))
def test_any_bytes_give_prompts_or_an_error_of_one_line(data):
    try:
        parsed = parse(data)
    except ClipkitError as error:
        message = error.message
    else:
        message = f"mine.txt: {parsed.texts!r}"
        assert parsed.texts
        assert all(parsed.texts)
        assert len(parsed.texts) + parsed.blank == data.count(b"\n") + (not data.endswith(b"\n"))
    assert re.fullmatch("mine.txt.+", message)


@pytest.mark.parametrize("character", list("\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\t"))
def test_only_line_feeds_end_a_line(character):
    parsed = parse(f"a{character}b\nc\n")
    assert parsed.texts == [f"a{character}b", "c"]
    assert parsed.lines == [1, 2]


LONG = "a" * (prompts.MAX_CHARACTERS + 1)
MANY = b"a\n" * (prompts.MAX_PROMPTS + 1)
TOO_LONG = "expected at most 10,000 characters, got 10,001"
TOO_MANY = "expected at most 1,048,576 prompts, got "


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parse(f"a\n{LONG}\n"), f"^mine.txt, line 2: {TOO_LONG}"),
        (lambda: parse(MANY), f"^mine.txt: {TOO_MANY}1,048,577"),
        (
            lambda: prompts.parse_templates(f"{{}}{LONG[2:]}".encode(), "t"),
            f"t, line 1: {TOO_LONG}",
        ),
        (lambda: prompts.fill("{}", LONG), f"a prompt for the class 'a{{40}}': {TOO_LONG}"),
        (
            lambda: prompts.fill("{}" * 5000, "abc"),
            "expected at most 10,000 characters, got 15,000",
        ),
        (lambda: prompts.from_classes(["a"] * 10**4, ["{}"] * 10**4), f"{TOO_MANY}100,000,000"),
    ],
)
def test_prompts_are_bounded_before_they_are_made(call, message):
    with pytest.raises(ClipkitError, match=message):
        call()


def test_a_prompt_of_the_largest_length_is_read():
    assert parse(LONG[1:]).texts == [LONG[1:]]


BLANK = "mine.txt: 1 blank line dropped"
PAIRS = "line 4 repeats line 1, line 5 repeats line 3, line 6 repeats line 1"


@pytest.mark.parametrize(
    ("text", "texts", "lines", "duplicates", "warnings"),
    [
        ("a\nA\nb", ["a", "A", "b"], [1, 2, 3], [], []),
        ("# a hash\n// strokes\n", ["# a hash", "// strokes"], [1, 2], [], []),  # no comments
        ("\n  \t\na\n\nb\n\n", ["a", "b"], [3, 5], [], ["mine.txt: 4 blank lines dropped"]),
        (
            "a\n\nb\n a \nb\na",
            ["a", "b", "a", "b", "a"],
            [1, 3, 4, 5, 6],
            [(1, 4), (3, 5), (1, 6)],
            [BLANK, f"mine.txt: 3 duplicates kept: {PAIRS}"],
        ),
    ],
)
def test_only_blank_lines_are_dropped(text, texts, lines, duplicates, warnings):
    parsed = parse(text)
    assert (parsed.texts, parsed.lines, parsed.duplicates) == (texts, lines, duplicates)
    assert parsed.warnings() == warnings


def test_many_duplicates_are_one_short_message():
    (message,) = parse("a\n" * 1000).warnings()
    assert message.startswith("mine.txt: 999 duplicates kept: line 2 repeats line 1, ")
    assert message.endswith("line 6 repeats line 1, and 994 more")


NO_PROMPT = "mine.txt: expected at least one prompt, got blank lines"
NOT_UTF8 = "mine.txt, line {}: expected UTF-8 text, got the byte {}"
CONTROL = "mine.txt, line {}: expected no control character, got U+{:04X}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "mine.txt: empty input"),
        (b"\n", NO_PROMPT),
        (b"\r\n", NO_PROMPT),
        (b" \n\t\n", NO_PROMPT),
        (b"\xef\xbb\xbf", NO_PROMPT),
        (b"\xef\xbb\xbf\n\xc2\xa0", NO_PROMPT),
        (b"\xff\xfea\0", NOT_UTF8.format(1, "0xff")),  # UTF-16, as some Windows shells write it
        (b"a\nb\r\ncaf\xe9\n", NOT_UTF8.format(3, "0xe9")),
        (b"a\n\n\xed\xa0\x80", NOT_UTF8.format(3, "0xed")),  # a surrogate
        (b"a\nb \xe2\x82", NOT_UTF8.format(2, "0xe2")),  # cut inside a character
        (b"\xc0\x80", NOT_UTF8.format(1, "0xc0")),  # an overlong NUL
        (b"\x89HDF\r\n\x1a\n", NOT_UTF8.format(1, "0x89")),
        (b"a\rb\r", CONTROL.format(1, 0x0D)),
        (b"a\r", CONTROL.format(1, 0x0D)),
        (b"a\r\r\n", CONTROL.format(1, 0x0D)),
        (b"\ra\n", CONTROL.format(1, 0x0D)),
    ],
)
def test_a_refused_file_is_named_with_its_line_in_one_line(data, message):
    with pytest.raises(ClipkitError) as caught:
        parse(data)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("data", "hint"), [(b"\xff", "save the file as plain text in UTF-8"), (b"a\r", r"\n or \r\n")]
)
def test_a_refused_file_comes_with_a_hint(data, hint):
    with pytest.raises(ClipkitError) as caught:
        parse(data)
    assert hint in caught.value.hint


@pytest.mark.parametrize("code", [0x00, 0x07, 0x08, 0x0E, 0x1B, 0x7F, 0x80, 0x84, 0x86, 0x9F])
def test_control_characters_are_refused_anywhere_in_a_line(code):
    for place in ("{}a", "a{}", "a{}b", "{}"):
        with pytest.raises(ClipkitError) as caught:
            parse(f"fine\r\n\n{place.format(chr(code))}\nfine\n")
        assert caught.value.message == CONTROL.format(3, code)


# Templates


@pytest.mark.parametrize(
    ("template", "before", "after"),
    [
        ("a {}", "a ", ""),
        ("{c} b", "", " b"),
        ("{0} {{}} {x}", "{0} {", "} {x}"),
        ("%s \\1 {c}}", "%s \\1 ", "}"),
    ],
)
def test_only_the_placeholder_is_replaced(template, before, after):
    for name in ("fox", "pickup_truck", "{}", "{c}", "{0.__class__}", "%s", r"\1", "é"):
        assert prompts.fill(template, name) == before + name + after


def test_a_placeholder_may_repeat():
    assert prompts.fill("a {} or no {}", "fox") == "a fox or no fox"


@pytest.mark.parametrize("template", ["a photo", "{0} { } {C}", "{} and {c}"])
def test_a_template_needs_one_kind_of_placeholder(template):
    message = f"expected either {{}} or {{c}} in a template, got {template!r}"
    with pytest.raises(UsageError) as caught:
        prompts.fill(template, "fox")
    assert caught.value.message == message
    with pytest.raises(UsageError) as caught:
        prompts.parse_templates(f"a {{}}\n\n{template}\n".encode(), "mine.txt")
    assert caught.value.message == f"mine.txt, line 3: {message}"


def test_templates_are_parsed_as_prompts_are():
    data = b"\xef\xbb\xbfa {}\r\n\r\n a {} \r\n"
    assert prompts.parse_templates(data, "mine.txt") == parse(data)
    assert parse(data).texts == ["a {}", "a {}"]


@settings(deadline=None)
@given(
    st.lists(st.text(), min_size=1, max_size=5),
    st.lists(st.sampled_from(["a {}", "{c}", "{} on {}", "b {}"]), min_size=1, max_size=5),
)
def test_class_prompts_are_ordered_by_class_then_template(class_names, templates):
    texts, class_index = prompts.from_classes(class_names, templates)
    pairs = list(itertools.product(range(len(class_names)), range(len(templates))))
    assert class_index.tolist() == [c for c, _ in pairs]
    assert texts == [prompts.fill(templates[t], class_names[c]) for c, t in pairs]
    assert class_index.dtype == np.int64


@pytest.mark.parametrize(
    ("class_names", "templates", "missing"),
    [([], ["a {}"], "class name"), (["fox"], [], "template")],
)
def test_class_prompts_need_classes_and_templates(class_names, templates, missing):
    with pytest.raises(UsageError, match=f"expected at least one {missing}, got none"):
        prompts.from_classes(class_names, templates)


# The bundled files


def runs_of_words(text: str) -> set[str]:
    split = words(text)
    return {" ".join(split[i:j]) for i, j in itertools.combinations(range(len(split) + 1), 2)}


def test_the_prompts_of_the_thesis_are_the_thesis_s():
    assert bundled("templates/thesis.txt") == ["a photo of a {}"]
    assert bundled("generic32.txt") == GENERIC32


@pytest.mark.parametrize(("smaller", "larger"), [(32, 99), (99, 205), (205, 415)])
def test_each_generic_set_begins_with_the_smaller_one(smaller, larger):
    texts = bundled(f"generic{larger}.txt")
    assert len(texts) == larger
    assert texts[:smaller] == bundled(f"generic{smaller}.txt")


@pytest.mark.parametrize("size", [16, 415])  # the other generic sets are parts of the largest
def test_no_generic_prompt_names_a_class_of_cifar(size):
    cifar100 = [text.split("\t")[0] for text in bundled("groups/cifar100-superclasses.tsv")]
    assert len(set(cifar100)) == 100
    names = {prompts.readable(name) for name in [*CIFAR10, *cifar100]}
    names |= {name + ending for name in names for ending in ("s", "es")} | set(IRREGULAR)
    for text in bundled(f"generic{size}.txt"):
        assert names.isdisjoint(runs_of_words(text)), text


def test_no_food_prompt_names_a_dish_of_food101():
    dishes = {prompts.readable(name) for name in FOOD101}
    assert len(dishes) == 101
    dishes |= {name.removesuffix("s") for name in dishes} | {f"{name}s" for name in dishes}
    for text in bundled("food32.txt"):
        assert dishes.isdisjoint(runs_of_words(text)), text


@pytest.mark.parametrize(("name", "size"), [("generic16.txt", 16), ("food32.txt", 32)])
def test_the_other_sets_share_no_prompt_with_the_generic_ones(name, size):
    assert len(bundled(name)) == size
    assert set(bundled(name)).isdisjoint(bundled("generic415.txt"))


@pytest.mark.parametrize("name", FILES)
def test_a_bundled_file_is_clean(name):
    data = (FOLDER / name).read_bytes()
    texts = bundled(name)
    # LF, no byte order mark, no blank line, no whitespace at the ends
    assert data == "".join(f"{text}\n" for text in texts).encode()
    assert all(text.isascii() and text.isprintable() for text in texts)
    # no duplicates but for case, articles and punctuation
    bare = [re.sub(r"\b(an?|the)\b|[^a-z ]", "", text.lower()).split() for text in texts]
    assert len(set(map(tuple, bare))) == len(texts)
    if name.startswith("templates/"):
        assert prompts.parse_templates(data, name).texts == texts
    # a byte-pair token is at least a byte, and start and end take 2 of CLIP's 77
    assert max(map(len, texts)) <= 75


def test_the_readme_lists_every_file_with_its_size():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+)` \| (\d+) \|", readme, re.MULTILINE)
    assert {name: int(size) for name, size in rows} == {name: len(bundled(name)) for name in FILES}
    assert len(rows) == len(FILES)


@pytest.mark.parametrize("size", [1e-30, 1e20])
def test_the_length_of_embeddings_does_not_overflow(size):
    rows = np.array([[3, 4], [1, 0]], np.float32)
    assert np.allclose(similarity.normalize(rows * np.float32(size)), [[0.6, 0.8], [1, 0]])


def test_a_normalised_row_depends_on_no_other_row_of_its_block() -> None:
    rows = np.random.default_rng(0).standard_normal((200, 512)).astype(np.float32)
    alone = similarity.normalize(rows)
    with_a_long_one = similarity.normalize(np.concatenate([rows, rows[:1] * np.float32(1e20)]))
    assert alone.dtype == np.float32
    np.testing.assert_array_equal(with_a_long_one[:-1], alone)


def test_a_word_salad_has_the_words_and_lengths_of_its_prompts() -> None:
    folder = Path(__file__).parents[1] / "prompts"

    def words_of(lines: list[list[str]]) -> list[str]:
        return sorted(word for words in lines for word in words)

    def salad(seed: int) -> list[list[str]]:
        line = ["awk", "-v", f"seed={seed}", "-f", "word-salad.awk", "generic32.txt"]
        run = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=True)
        return [prompt.split() for prompt in run.stdout.splitlines()]

    prompts = [prompt.split() for prompt in (folder / "generic32.txt").read_text().splitlines()]
    assert salad(1) == salad(1) != salad(2)
    for seed in (1, 2, 42):
        assert [len(words) for words in salad(seed)] == [len(words) for words in prompts]
        assert words_of(salad(seed)) == words_of(prompts)
        assert salad(seed) != prompts
