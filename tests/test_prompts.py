"""Prompt files are parsed exactly; the bundled ones keep the rules that they were written under."""

import csv
import hashlib
import io
import itertools
import json
import re
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
from factories import MODEL, fails_with, messages, unchanged, write_feature_file
from hypothesis import assume, given
from hypothesis import strategies as st
from shell import fails, ok, rows

from clipkit import datasets, embedding, read
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.datasets.registry import REGISTRY
from clipkit.features import similarity
from clipkit.features.provenance import provenance
from clipkit.prompts import bundled as bundled_files
from clipkit.prompts import class_index
from clipkit.prompts import formats as prompt_files
from clipkit.prompts import texts as prompts

FOLDER = Path(__file__).parents[1] / "prompts"
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.txt"))


def words(text):
    return re.findall(r"[a-z_-]+", text.lower())  # "man-made" is one word


CIFAR10 = words("airplane automobile bird cat deer dog frog horse ship truck")
IRREGULAR = words(
    "men women mice wolves babies butterflies poppies cars planes fish tree trees pepper peppers"
)


def parse(text):
    return prompts.parse(text.encode() if isinstance(text, str) else text, "mine.txt")


def digest(texts):
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def bundled(name):
    return prompts.parse((FOLDER / name).read_bytes(), name).texts


# Parsing

EDGES = st.sampled_from(["", " ", "\t", "  ", "\u3000", "\ufeff"])
ODD = "\t\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029\u00a0\u3000\ufeff#{}é漢😀 "
CHARACTERS = st.one_of(st.sampled_from(ODD), st.characters(blacklist_categories=("Cc", "Cs")))
TEXTS = st.text(CHARACTERS, min_size=1).map(lambda text: text.strip(prompts.STRIPPED)).filter(bool)


@given(st.lists(st.tuples(EDGES, TEXTS | st.just(""), EDGES), min_size=1), st.booleans())
def test_lines_are_parsed_back_whatever_their_ends_and_outer_whitespace(rows, is_windows):
    numbered = [(number, text) for number, (_, text, _) in enumerate(rows, 1) if text]
    assume(numbered)
    mark, end = ("\ufeff", "\r\n") if is_windows else ("", "\n")
    parsed = parse(mark + "".join(f"{before}{text}{after}{end}" for before, text, after in rows))
    assert list(zip(parsed.lines, parsed.texts, strict=True)) == numbered
    assert parsed.blank == len(rows) - len(numbered)
    first = {}
    pairs = [(first.setdefault(text, number), number) for number, text in numbered]
    assert parsed.duplicates == [pair for pair in pairs if pair[0] != pair[1]]


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


LONG = "a" * (prompts.MAX_CHARACTERS + 1)
MANY = b"a\n" * (prompts.MAX_PROMPTS + 1)
TOO_LONG = "expected at most 10,000 characters, got 10,001"
TOO_MANY = "expected at most 1,048,576 prompts, got "


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parse(f"a\n{LONG}\n"), f"mine.txt, line 2: {TOO_LONG}"),
        (lambda: parse(MANY), f"mine.txt: {TOO_MANY}1,048,577"),
        (lambda: prompts.parse_templates(f"{{}}{LONG[2:]}".encode(), "t"), f"line 1: {TOO_LONG}"),
        (lambda: prompts.fill("{}", LONG), f"aaaaaa ...': {TOO_LONG}"),
        (lambda: prompts.fill("{}" * 5000, "abc"), "at most 10,000 characters, got 15,000"),
        (lambda: prompts.from_classes(["a"] * 10**4, ["{}"] * 10**4), f"{TOO_MANY}100,000,000"),
    ],
)
def test_prompts_are_bounded_before_they_are_made(call, message):
    with fails_with(message):
        call()
    assert parse(LONG[1:]).texts == [LONG[1:]]


def test_duplicates_are_kept_with_a_warning():
    parsed = parse("a\n\nb\n a \nb\na")
    assert parsed.texts == ["a", "b", "a", "b", "a"]
    pairs = "line 4 repeats line 1, line 5 repeats line 3, line 6 repeats line 1"
    blank, duplicates = parsed.warnings()
    assert blank == "mine.txt: 1 blank line dropped"
    assert duplicates == f"mine.txt: 3 duplicates kept: {pairs}"


def test_many_duplicates_are_one_short_message():
    (message,) = parse("a\n" * 1000).warnings()
    assert message.startswith("mine.txt: 999 duplicates kept: line 2 repeats line 1, ")
    assert message.endswith("line 6 repeats line 1, and 994 more")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "mine.txt: empty input"),
        (b" \r\n\t\n", "mine.txt: expected at least one prompt, got blank lines"),
        (b"\xef\xbb\xbf\n\xc2\xa0", "mine.txt: expected at least one prompt, got blank lines"),
        (b"\xff\xfea\0", "line 1: "),  # UTF-16
        (b"a\nb\r\ncaf\xe9\n", "line 3: "),
        (b"a\nb \xe2\x82", "line 2: "),
        (b"a\rb\r", "line 1: expected no control character, got U+000D"),
        (b"a\r\r\n", "line 1: "),
    ],
)
def test_a_refused_file_is_named_with_its_line_in_one_line(data, message):
    with fails_with(message):
        parse(data)


def test_a_hint_says_how_to_save_the_file():
    for data, hint in ((b"\xff", "as plain text in UTF-8"), (b"a\rb", r"\n or \r\n")):
        with fails_with("mine.txt, line 1: ") as caught:
            parse(data)
        assert hint in caught.value.hint


@pytest.mark.parametrize("code", [0x00, 0x07, 0x08, 0x0E, 0x1B, 0x7F, 0x80, 0x84, 0x86, 0x9F])
def test_control_characters_are_refused_anywhere_in_a_line(code):
    for place in ("{}a", "a{}", "a{}b", "{}"):
        with fails_with(f"line 3: expected no control character, got U+{code:04X}"):
            parse(f"fine\r\n\n{place.format(chr(code))}\nfine\n")


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
    assert prompts.fill("a {} or no {}", "fox") == "a fox or no fox"


@pytest.mark.parametrize("template", ["a photo", "{0} { } {C}", "{} and {c}"])
def test_a_template_needs_one_kind_of_placeholder(template):
    message = f"expected either {{}} or {{c}} in a template, got {template!r}"
    with fails_with(message, UsageError):
        prompts.fill(template, "fox")
    with fails_with(f"mine.txt, line 3: {message}", UsageError):
        prompts.parse_templates(f"a {{}}\n\n{template}\n".encode(), "mine.txt")


def test_templates_are_parsed_as_prompts_are():
    data = b"\xef\xbb\xbfa {}\r\n\r\n a {} \r\n"
    assert prompts.parse_templates(data, "mine.txt") == parse(data)
    assert parse(data).texts == ["a {}", "a {}"]


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
    with fails_with(f"expected at least one {missing}, got none", UsageError):
        prompts.from_classes(class_names, templates)


# The bundled files


def runs_of_words(text):
    split = words(text)
    return {" ".join(split[i:j]) for i, j in itertools.combinations(range(len(split) + 1), 2)}


def test_the_prompts_of_the_thesis_are_the_thesis_s():
    assert bundled("templates/thesis.txt") == ["a photo of a {}"]
    assert digest(bundled("generic32.txt")) == "64db6f00752d7e66"


@pytest.mark.parametrize(("smaller", "larger"), [(32, 99), (99, 205), (205, 415)])
def test_each_generic_set_begins_with_the_smaller_one(smaller, larger):
    texts = bundled(f"generic{larger}.txt")
    assert len(texts) == larger
    assert texts[:smaller] == bundled(f"generic{smaller}.txt")


@pytest.mark.parametrize("size", [16, 415])  # the other generic sets are parts of the largest
def test_no_generic_prompt_names_a_class_of_cifar(size):
    names = {prompts.readable(name) for name in [*CIFAR10, *REGISTRY["cifar100"].class_names()]}
    names |= {name + ending for name in names for ending in ("s", "es")} | set(IRREGULAR)
    for text in bundled(f"generic{size}.txt"):
        assert names.isdisjoint(runs_of_words(text)), text


def test_no_food_prompt_names_a_dish_of_food101():
    dishes = {prompts.readable(name) for name in REGISTRY["food101"].class_names()}
    dishes |= {name.removesuffix("s") for name in dishes} | {f"{name}s" for name in dishes}
    for text in bundled("food32.txt"):
        assert dishes.isdisjoint(runs_of_words(text)), text


@pytest.mark.parametrize(("name", "size"), [("generic16.txt", 16), ("food32.txt", 32)])
def test_the_other_sets_share_no_prompt_with_the_generic_ones(name, size):
    assert len(bundled(name)) == size
    assert set(bundled(name)).isdisjoint(bundled("generic415.txt"))


@pytest.mark.parametrize("name", FILES)
def test_a_bundled_file_is_clean(name):
    texts = bundled(name)
    # LF, no byte order mark, no blank line, no whitespace at the ends
    assert (FOLDER / name).read_bytes() == "".join(f"{text}\n" for text in texts).encode()
    assert all(text.isascii() and text.isprintable() for text in texts)
    # no duplicates but for case, articles and punctuation
    bare = [re.sub(r"\b(an?|the)\b|[^a-z ]", "", text.lower()).split() for text in texts]
    if "openai" not in name:  # which varies the article
        assert len(set(map(tuple, bare))) == len(texts)
    if name.startswith("templates/"):
        assert prompts.parse_templates((FOLDER / name).read_bytes(), name).texts == texts
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


def test_a_word_salad_has_the_words_and_lengths_of_its_prompts():
    def salad(seed):
        line = ["awk", "-v", f"seed={seed}", "-f", "word-salad.awk", "generic32.txt"]
        run = subprocess.run(line, cwd=FOLDER, capture_output=True, text=True, check=True)
        return [prompt.split() for prompt in run.stdout.splitlines()]

    expected = [prompt.split() for prompt in bundled("generic32.txt")]
    assert salad(1) == salad(1) != salad(2)
    for seed in (1, 2, 42):
        assert list(map(len, salad(seed))) == list(map(len, expected))
        assert sorted(itertools.chain(*salad(seed))) == sorted(itertools.chain(*expected))
        assert salad(seed) != expected


# Prompts as JSON, CSV and TSV

TINY = ("--model", "tiny", "--precision", "fp32")
CUPL = {"ball": ["a ball is round", "a ball rolls", "a toy"], "box": ["a box has corners"]}
TEXT = st.text(st.characters(blacklist_categories=("Cc", "Cs")), min_size=1).filter(
    lambda text: text == text.strip(prompts.STRIPPED)
)


def json_file(content):
    return prompt_files.parse_json(json.dumps(content).encode(), "mine.json")


def table(text, column=None):
    return prompt_files.parse_table(text.encode(), "mine.csv", column)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def embed(folder, *words, stdin=None):
    """Return the file that textembed makes with tiny."""
    ok("textembed", *words, *TINY, "-f", "-o", folder / "out.h5", stdin=stdin)
    return read(folder / "out.h5")


@given(st.dictionaries(TEXT, st.lists(TEXT, min_size=1, max_size=4), min_size=1, max_size=5))
def test_descriptions_in_json_are_read_back_in_the_order_of_the_file(content):
    keys = list(content)
    assume(not all(map(class_index.NUMBER.fullmatch, keys)))
    assume(content.keys().isdisjoint(prompt_files.DATASETS))
    classes = json_file(content)
    assert classes.names == keys
    pairs = [(keys.index(key), text) for key, texts in content.items() for text in texts]
    assert list(zip(classes.class_index, classes.wordings, strict=True)) == pairs


@given(st.lists(TEXT, min_size=1))
def test_a_list_in_json_is_read_back_as_prompts(texts):
    parsed = json_file(texts)
    assert parsed.texts == texts
    assert parsed.places() == [f"mine.json, prompt {i + 1}" for i in range(len(texts))]


@given(st.lists(TEXT, min_size=1), st.lists(TEXT, min_size=1))
def test_a_column_that_python_s_csv_writes_is_read_back(texts, others):
    sink = io.StringIO(newline="")
    writer = csv.writer(sink)
    writer.writerow(["other", "text"])
    writer.writerows(zip(itertools.cycle(others), texts, strict=False))
    assert table(sink.getvalue()).texts == texts


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.long
@given(JSON_VALUES.map(json.dumps).map(str.encode) | st.binary())
def test_any_json_or_bytes_give_prompts_or_an_error(data):
    for parse_file in (prompt_files.parse_json, prompt_files.parse_table):
        try:
            parsed = parse_file(data, "mine.x")
        except ClipkitError:
            continue
        texts = parsed.texts if isinstance(parsed, prompts.Prompts) else parsed.wordings
        assert texts
        assert all(texts)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "mine.json: empty input"),
        ('{"a": ["b",\n]}', "mine.json, line 2: expected JSON (Expecting value, column 1)"),
        ("7", "mine.json: expected a list or an object, got a number"),
        ("[]", "mine.json: expected at least one prompt, got an empty list"),
        ('["", " "]', "mine.json: expected at least one prompt, got blank prompts"),
        ('["a", ["b"]]', "mine.json, prompt 2: expected a text, got a list"),
        ('{"a": {"b": "c"}}', "mine.json, 'a': expected a list of prompts, got an object"),
        ('{"a": [true]}', "mine.json, 'a', prompt 1: "),
        ('{"a": ["b"], "c": [" "]}', "mine.json, 'c': "),
        ('{"a": ["b"], "c": []}', "mine.json, 'c': "),
        ('{"": ["b"]}', "mine.json, '': expected the name of a class, got an empty one"),
        ('{"a": ["b"], " a": ["c"]}', "mine.json: expected each class once, got 'a' again"),
        (r'["a\u0007"]', "mine.json, prompt 1: "),
        (r'["a\ud800"]', "mine.json: expected text, got half a surrogate pair, U+D800"),
        (r'{"\udfff": ["a"]}', r"mine.json: expected text, got half a surrogate pair, U+DFFF"),
        ("[" * 100_000, "mine.json: expected lists and objects, got deeper nesting"),
        ("[" + "1" * 5000 + "]", "mine.json: expected texts, got a very long number"),
        (json.dumps([LONG]), f"mine.json, prompt 1: {TOO_LONG}"),
        (json.dumps(["a"] * (2**20 + 1)), f"mine.json: {TOO_MANY}1,048,577"),
        ('{"0": "a", "1": ""}', "mine.json: expected a name for each class, got an empty one"),
    ],
)
def test_a_refused_json_file_is_named_with_its_place_in_one_line(data, message):
    with fails_with(message):
        prompt_files.parse_json(data.encode(), "mine.json")


@pytest.mark.parametrize(
    ("data", "column", "message"),
    [
        ("", None, "mine.csv: empty input"),
        ("a,b\n1,2\n", None, "mine.csv: expected a column prompt, text, class or name, got a, b"),
        ("a,b\n1,2\n", "c", "unknown column of mine.csv 'c'"),
        ("a,a\n1,2\n", "a", "mine.csv: expected different names of columns, got 'a' again"),
        ("a,text\n1\n", None, "mine.csv, line 2: expected 2 cells, got 1"),
        ('text\n"a\n', None, "mine.csv, line 2: expected a row of a table, got unexpected end"),
        ("text\n", None, "mine.csv: expected at least one prompt, got blank lines"),
        ("class,prompt\n,b\n", None, "mine.csv, line 2: "),
        ("class,prompt\na,b\nc,\n", None, "mine.csv, line 3: expected at least one prompt of 'c'"),
        ("text\na\x07\n", None, "mine.csv, line 2: "),
    ],
)
def test_a_refused_table_is_named_with_its_line_in_one_line(data, column, message):
    with fails_with(message):
        table(data, column)


@pytest.mark.parametrize(
    ("header", "column", "chosen"),
    [
        ("class,text,prompt", None, "prompt"),
        ("id,class,text", None, "text"),
        ("id,name", None, "name"),
        ("id,name,class", None, "class"),
        ("caption", None, "caption"),
        ("id,caption,text", "caption", "caption"),
    ],
)
def test_the_column_of_a_table_is_the_named_one_or_the_first_known_one(header, column, chosen):
    parsed = table(f"{header}\n{header}\n", column)
    texts = parsed.texts if isinstance(parsed, prompts.Prompts) else parsed.wordings
    assert texts == [chosen]


def test_a_column_that_is_the_only_one_is_noted(tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("cat\ndog\n")
    assert embedding.read_prompts(str(tmp_path / "mine.csv")).texts == ["dog"]
    assert (
        "mine.csv: the first line, 'cat', is taken as the header; hint:" in capsys.readouterr().err
    )


INDEX = {"0": ["n01440764", "tench"], "10": ["n01443537", "goldfish"], "2": ["n01484850", "shark"]}


@pytest.mark.parametrize(
    ("content", "column", "names", "wordings"),
    [
        (INDEX, None, ["tench", "shark", "goldfish"], None),  # by number
        (INDEX, "wnid", ["n01440764", "n01484850", "n01443537"], ["tench", "shark", "goldfish"]),
        ({"1": "goldfish", "0": "tench"}, None, ["tench", "goldfish"], None),
        ({"0": "crane", "1": "crane"}, None, ["crane", "crane"], None),  # two of ImageNet's
    ],
)
def test_a_class_index_gives_names_in_the_order_of_its_numbers(content, column, names, wordings):
    data = json.dumps(content).encode()
    classes = prompt_files.parse_json(data, "class_index.json", column)
    assert classes.names == names
    assert classes.wordings == (wordings or names)
    assert classes.template == embedding.DEFAULT_TEMPLATE


@pytest.mark.parametrize(
    "content",
    [
        {"0": ["a zero", "an oval"], "1": ["a one", "a bar"]},  # the classes of digits
        {"1": "tench", "2": "goldfish"},
        {"tench": "a fish", "goldfish": "a golden fish"},
    ],
)
def test_an_object_that_only_resembles_a_class_index_holds_descriptions(content):
    classes = json_file(content)
    assert classes.names == list(content)
    assert classes.template == "{}"


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        (INDEX, "nme", "unknown column of x.json 'nme'"),
        ({"0": "tench"}, "wnid", "x.json: expected WordNet ids, got names alone"),
        (CUPL, "wnid", "unknown data set of x.json 'wnid'"),
        (
            ["a"],
            "text",
            "x.json: expected a class index or an object of data sets with --column, got",
        ),
    ],
)
def test_a_column_of_json_is_a_part_of_a_class_index(content, column, message):
    with fails_with(message):
        prompt_files.parse_json(json.dumps(content).encode(), "x.json", column)


def test_a_line_break_inside_a_prompt_becomes_a_space():
    assert json_file([" \n\nA bird\r\n flies.\n"]).texts == ["A bird flies."]
    assert table('text\n"A bird\n flies."\n').texts == ["A bird flies."]


def test_rows_of_a_name_are_one_class_only_where_there_are_wordings():
    classes, _ = prompt_files.parse_class_lines(b"crane\ncrane\n", "x.txt")
    assert classes.names == ["crane", "crane"]
    classes, _ = prompt_files.parse_class_lines(b"crane\ta bird\nfox\ncrane\ta neck\n", "x.tsv")
    assert (classes.names, classes.class_index) == (["crane", "fox"], [0, 0, 1])
    assert classes.wordings == ["a bird", "a neck", "fox"]


@pytest.mark.parametrize("line", ["\tb", " \tb", "\t\tb"])
def test_a_wording_without_a_name_of_a_class_is_refused(line):
    with fails_with("x.tsv, line 2: expected the name of a class before the tab"):
        prompt_files.parse_class_lines(f"a\n{line}\n".encode(), "x.tsv")


def test_a_name_without_a_wording_and_a_blank_line_are_no_wording_without_a_name():
    classes, _ = prompt_files.parse_class_lines(b"a\t\n\t\nb\n", "x.tsv")
    assert classes.wordings == ["a", "b"]


def test_a_blank_row_of_a_table_of_one_column_is_warned_about(capsys):
    assert table('text\na\n\nb\n""\n').texts == ["a", "b"]
    assert "mine.csv: 2 blank rows left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "names", "wordings"),
    [
        ("x.tsv", "class\tprompt\ncat\ta cat\ndog\ta dog\n", ["cat", "dog"], ["a cat", "a dog"]),
        ("x.tsv", "\ufeffName\tWording\ncat\tkitty\n", ["cat"], ["kitty"]),
        ("x.tsv", "id\tname\n1\tcat\n2\tdog\n", ["cat", "dog"], ["cat", "dog"]),
        ("x.tsv", "name\ncat\ndog\n", ["cat", "dog"], ["cat", "dog"]),
        ("x.tsv", "crane\ta bird\nfox\n", ["crane", "fox"], ["a bird", "fox"]),
        ("x.csv", "class;prompt\ncat;a cat, asleep\n", ["cat"], ["a cat, asleep"]),
        ("x.csv", "id\tname\n1\tcat\n", ["cat"], ["cat"]),
    ],
)
def test_a_table_of_classes_is_read_by_its_header(tmp_path, capsys, name, content, names, wordings):
    (tmp_path / name).write_text(content)
    classes = embedding.read_class_names(str(tmp_path / name))
    assert (classes.names, classes.wordings) == (names, wordings)
    has_note = "the first line is taken as the header" in capsys.readouterr().err
    assert has_note == (name == "x.tsv" and names[0] != "crane")


def test_a_table_of_classes_without_a_known_header_is_refused(tmp_path):
    (tmp_path / "x.tsv").write_text("id\tlabel\tcount\n1\tcat\t5\n")
    with fails_with("x.tsv, line 1: expected a name, a tab and a wording, got 3 c") as caught:
        embedding.read_class_names(str(tmp_path / "x.tsv"))
    assert caught.value.hint == "choose a column of a table with --column"


CSV = "class,prompt\n" + "".join(f"{name},{text}\n" for name, ts in CUPL.items() for text in ts)
TSV = "".join(f"{name}\t{text}\n" for name, texts in CUPL.items() for text in texts)


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("cupl.json", json.dumps(CUPL), ()),
        ("cupl.csv", CSV, ()),
        ("cupl.tsv", TSV, ("--template", "{}")),
        ("cupl.tsv", CSV.replace(",", "\t"), ("--column", "prompt")),
        ("-", json.dumps(CUPL), ()),
        ("-", CSV, ("--column", "prompt")),
        ("-", TSV, ("--template", "{}")),
    ],
)
@pytest.mark.long
def test_descriptions_of_a_class_are_normalised_averaged_and_normalised(
    tmp_path, monkeypatch, name, content, options
):
    monkeypatch.chdir(tmp_path)
    if name != "-":
        Path(name).write_text(content)
    file = embed(tmp_path, "--classes", name, *options, stdin=content.encode())
    alone = embed(tmp_path, stdin="\n".join(itertools.chain(*CUPL.values())).encode())
    expected = [unit(unit(alone.features[:3]).mean(0)), unit(alone.features[3])]
    np.testing.assert_allclose(file.features, expected, atol=1e-6)
    assert (file.class_names, file.class_index.tolist()) == (["ball", "box"], [0, 1])
    assert file.texts == ["ball (3 prompts)", "box (1 prompt)"]


@pytest.mark.long
def test_several_descriptions_fill_several_templates(tmp_path):
    (tmp_path / "cupl.json").write_text(json.dumps(CUPL))
    options = ("--template", "photo: {}", "--template", "{}, drawn")
    file = embed(tmp_path, "--classes", tmp_path / "cupl.json", *options)
    texts = [f"photo: {text}\n{text}, drawn" for text in CUPL["ball"]]
    alone = embed(tmp_path, stdin="\n".join(texts).encode())
    np.testing.assert_allclose(file.features[0], unit(unit(alone.features).mean(0)), atol=1e-6)
    assert file.texts == ["ball (6 prompts)", "box (2 prompts)"]


def test_prompts_of_a_json_object_are_embedded_one_by_one_with_a_note(tmp_path):
    (tmp_path / "cupl.json").write_text(json.dumps(CUPL))
    result = ok("textembed", tmp_path / "cupl.json", *TINY, "-o", tmp_path / "o.h5")
    assert "each of its 4 prompts is embedded by itself; --classes averages " in result.stderr
    file = read(tmp_path / "o.h5")
    assert file.texts == list(itertools.chain(*CUPL.values()))
    assert not file.class_names


def test_lines_of_a_table_among_prompts_and_prompts_among_wordings_are_warned_about(tmp_path):
    table = tmp_path / "two.tsv"
    table.write_text("cat\ta kitty\ncat\ta tabby cat\ndog\tpuppy\n")
    out = ["-m", "tiny", "-f", "-o", tmp_path / "x.h5"]
    message = ok("textembed", table, *out).stderr
    assert "two.tsv, line 1: the prompt holds a tab (3 of 3 do); hint: --classes reads" in message
    message = ok("textembed", "--classes", table, *out).stderr
    assert "as in 'a photo of a a kitty'; hint: if they are complete prompts" in message
    assert "wordings" not in ok("textembed", "--classes", table, "--template", "{}", *out).stderr


@pytest.mark.long
def test_a_json_list_on_standard_input_is_prompts_and_other_lines_are_text(tmp_path):
    assert embed(tmp_path, stdin=b'["a dot", "a line"]').texts == ["a dot", "a line"]
    assert embed(tmp_path, stdin=b"[a dot]\n{}\n").texts == ["[a dot]", "{}"]


# Several files, and prompts that are no file


@pytest.mark.long
def test_several_files_give_what_each_gives_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("a dot\n")
    Path("b.json").write_text('["a line", "a box"]')
    ok("textembed", "a.txt", "b.json", "generic16", *TINY, "-o", "txt-{name}.h5")
    for source, name in (("a.txt", "a"), ("b.json", "b"), ("generic16", "generic16")):
        embed(tmp_path, source)
        assert Path(f"txt-{name}.h5").read_bytes() == Path("out.h5").read_bytes()
        assert provenance(read("out.h5")).prompts == name


@pytest.mark.parametrize(
    ("sources", "output", "message"),
    [
        ("a.txt b.txt", "x.h5", "expected an output with {name} for 2 prompt files, got x.h5"),
        ("a.txt b.txt", "-", "cat a.txt b.txt | clipkit textembed -"),
        ("a.txt s/a.txt", "{name}.h5", "different names, got a.h5 for a.txt and s/a.txt"),
        ("a.txt -", "{name}.h5", "expected a file for {name} in {name}.h5, got standard input"),
        ("a.txt b.txt", "{name}.json", "expected an output that ends in .h5, got a.json"),
        ("a.txt b.txt", "s/{name}.h5", "the output s/b.h5 exists"),
        ("a.txt s/b.h5", "s/{name}.h5", "the output s/b.h5 is an input"),
    ],
)
def test_outputs_of_several_files_are_checked_before_any_work(
    tmp_path, monkeypatch, sources, output, message
):
    monkeypatch.chdir(tmp_path)
    Path("s").mkdir()
    for name in ("a.txt", "b.txt", "s/a.txt", "s/b.h5"):
        Path(name).write_text("a dot\n")
    with unchanged(tmp_path):
        options = ("--model", "no/model", "-o", output)
        assert message in fails("textembed", *sources.split(), *options, exit_code=2)


def test_nothing_is_written_if_one_of_the_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("a dot\n")
    Path("b.txt").write_text("a dot " * 80)
    with unchanged(tmp_path):
        assert "b.txt, line 1: " in fails("textembed", "a.txt", "b.txt", *TINY, "-o", "{name}.h5")


@pytest.mark.parametrize(
    ("source", "exit_code", "message"),
    [
        ("it's a dog", 2, "hint: echo 'it'\"'\"'s a dog' | clipkit textembed -\n"),
        ("a dog " * 1000, 2, "hint: echo 'a dog "),
        ("generic3", 2, "unknown prompt file or bundled set 'generic3'; hint: did you mean gene"),
        ("dog", 2, "neutral; to embed it as a prompt: echo dog | clipkit textembed -\n"),
        (
            "a/dog",
            1,
            "a/dog: there is no such file; hint: there is no folder a either\n",
        ),
        ("prompts/generic32.txt", 1, "; hint: the bundled file is called generic32\n"),
        ("", 2, "expected the name of a prompt file, got ''"),
    ],
)
def test_prompts_that_are_no_file_are_refused_with_what_to_type(
    tmp_path, monkeypatch, source, exit_code, message
):
    monkeypatch.chdir(tmp_path)
    assert message in fails("textembed", source, "-o", "x.h5", exit_code=exit_code)


# Bundled sets, words and groups in an installed package


def test_bundled_files_are_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert embedding.read_prompts("generic32").texts == bundled("generic32.txt")
    words = bundled("attributes/shapes.tsv")
    for name in ("attributes/shapes", "attributes/shapes.tsv"):
        assert embedding.read_class_names(name).names == [line.split("\t")[0] for line in words]
    templates = bundled("templates/small-images.txt")
    for name in ("small-images", "templates/small-images", "templates/small-images.txt"):
        assert embedding.read_templates([name, "{}"]) == [*templates, "{}"]
    for name in ("shapes-outlines", "groups/shapes-outlines.tsv"):
        assert bundled_files.locate(name, "groups") == str(FOLDER / "groups/shapes-outlines.tsv")
    Path("generic32").write_text("a dot\n")  # a local file wins
    assert embedding.read_prompts("generic32").texts == ["a dot"]


@pytest.mark.parametrize(
    "name",
    ["../prompts/generic32", "templates/../generic32", "README", "/", "s3://a/generic32.txt"],
)
def test_nothing_else_is_taken_for_a_bundled_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for kind in ("", "templates", "groups"):
        assert bundled_files.locate(name, kind) == name


@pytest.mark.parametrize(
    ("source", "kind", "hint"),
    [
        ("prompts/generic32.txt", "", "generic32"),
        ("generic32.txt", "", "generic32"),
        ("prompts/attributes/shapes.tsv", "attributes", "attributes/shapes"),
        ("prompts/templates/small-images.txt", "templates", "templates/small-images"),
        ("../prompts/groups/shapes-outlines.tsv", "groups", "groups/shapes-outlines"),
    ],
)
def test_the_path_of_a_bundled_file_elsewhere_is_refused_with_its_name(
    tmp_path, monkeypatch, source, kind, hint
):
    monkeypatch.chdir(tmp_path)
    with fails_with(f"cannot read {source}: there is no such file") as refused:
        bundled_files.locate(source, kind)
    assert refused.value.hint == f"the bundled file is called {hint}"
    assert bundled_files.locate(hint, kind) != hint


ROOT = FOLDER.parent


def test_each_file_of_the_folder_is_packaged():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packaged = set()
    for pattern in setup["package-data"]["clipkit.prompt_sets"]:
        packaged |= set(FOLDER.glob(pattern))
    assert packaged == {path for path in FOLDER.rglob("*") if path.is_file()}


# Class names of data sets


def test_class_names_of_data_sets_need_no_data():
    from torchvision.datasets import FashionMNIST, Imagenette

    imagenette = sorted(Imagenette._WNID_TO_CLASS.items())
    groups = bundled("groups/cifar100-superclasses.tsv")
    expected = {
        "cifar10": CIFAR10,
        "cifar100": sorted(line.split("\t")[0] for line in groups),
        "digits": [str(i) for i in range(10)],
        "fashion-mnist": FashionMNIST.classes,
        "imagenette": [names[0] for _, names in imagenette],
        "shapes": datasets.load("shapes").class_names,
    }
    with_names = {name for name, data in REGISTRY.items() if data.class_names}
    assert {"food101", *expected} == with_names
    for name, names in expected.items():
        classes = embedding.read_class_names(name)
        assert classes.names == names
        assert classes.source == {"classes": name}
    assert len(set(expected["cifar100"])) == 100
    food = REGISTRY["food101"].class_names()
    assert food == sorted(food)  # as torchvision sorts them
    assert digest(food) == "efe7060c0e6aa88c"


@pytest.mark.long
def test_a_root_belongs_to_a_named_data_set(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "names.txt").write_text("fox\n")
    words = ("--root", tmp_path, "-o", tmp_path / "o.h5")
    line = fails("textembed", "--classes", "cifar10", *words)
    assert f"cannot read cifar10 in {tmp_path}" in line
    line = fails("textembed", tmp_path / "names.txt", *words, exit_code=2)
    assert "expected --classes with --root, got none" in line
    line = fails("textembed", "--classes", tmp_path / "names.txt", *words, exit_code=2)
    assert "root: expected a named data set, got" in line


# The model of the images whose classes are named


def history(name, **details):
    entry = {"command": "embed", "model": {**MODEL, "name": name, **details}}
    return {"history": [entry]}


@pytest.mark.parametrize(
    ("details", "options", "variable", "model", "note"),
    [
        ({}, (), "", "tiny", "tiny, as in {}"),
        ({"untrained": 7}, (), "", "untrained tiny", "tiny, untrained with seed 7, as in {}"),
        ({}, ("--untrained", 8), "", "untrained tiny", "tiny, untrained with seed 8, as in {}"),
        ({"untrained": 7}, ("--model", "tiny"), "", "tiny", ""),
        ({"untrained": 7}, (), "tiny", "tiny", ""),
    ],
)
@pytest.mark.long
def test_classes_of_images_are_embedded_by_the_model_of_the_images(
    tmp_path, monkeypatch, details, options, variable, model, note
):
    monkeypatch.setenv("CLIPKIT_MODEL", variable)
    images = write_feature_file(tmp_path / "img.h5", attributes=history("tiny", **details))
    output = tmp_path / "o.h5"
    result = ok("textembed", "--classes", images, *options, "-o", output)
    shown = f"clipkit: model: {note.format(images)}\n" if note else ""
    assert messages(result.stderr) == shown
    assert provenance(read(output)).model == model


@pytest.mark.parametrize("entry", [{}, {"model": {**MODEL, "name": ""}}])
def test_a_file_that_names_no_model_leaves_the_default(tmp_path, entry):
    attributes = {"history": [{"command": "convert", **entry}]}
    images = write_feature_file(tmp_path / "img.h5", attributes=attributes)
    classes = embedding.read_class_names(str(images))
    assert embedding.choose_model(classes.model, "img.h5", "default", None) == ("default", None)


# The history names the prompts


@pytest.mark.long
def test_the_history_names_a_prompt_file_and_not_a_pipe(tmp_path):
    (tmp_path / "mine.txt").write_text("a dot\n")
    assert embed(tmp_path, tmp_path / "mine.txt").history[0]["prompts"] == "mine"
    assert "prompts" not in embed(tmp_path, stdin=b"a dot\n").history[0]
    (tmp_path / "cupl.json").write_text(json.dumps(CUPL))
    file = embed(tmp_path, "--classes", tmp_path / "cupl.json")
    assert provenance(file).prompts == "cupl"
    assert file.history[0]["inputs"]["classes"].startswith("sha256:")


# ---- Lists ---------------------------------------------------------------------------------------


def test_list_names_what_commands_understand():
    printed = rows(ok("list").stdout)
    listed = {(row["list"], row["name"]) for row in printed}
    assert {("prompts", name) for name in bundled_files.list_files()} <= listed
    assert {("datasets", name) for name in REGISTRY} <= listed
    assert ("questions", "zeroshot") in listed
    assert ("pictures", "confusion") in listed
    assert ("models", "tiny") in listed
    assert ("attributes", "colour") in listed
    assert all(row["about"] for row in printed)


@pytest.mark.parametrize("what", ["prompts", "templates", "datasets", "models", "pictures"])
def test_one_list_is_the_rows_of_all_lists_that_have_its_name(what):
    of_all = [row for row in rows(ok("list").stdout) if row.pop("list") == what]
    assert rows(ok("list", what).stdout) == of_all


def test_another_list_is_refused_with_the_nearest_name():
    assert "hint: did you mean templates?" in fails("list", "template", exit_code=2)


@pytest.mark.parametrize(("name", "count"), [("openai-imagenet", 80), ("openai-cifar", 18)])
def test_the_templates_of_openai_are_complete_and_different(name, count):
    templates = bundled_files.list_files("templates")[name].read_text().splitlines()
    assert len(templates) == len(set(templates)) == count
    assert all(template.count("{}") == 1 and template.endswith(".") for template in templates)
    about = {row["name"]: row["about"] for row in rows(ok("list", "templates").stdout)}
    assert about[name] == f"{count} templates"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "dog", "cat"], "expected different names, got 'cat' twice"),
        (["café", "cafe\u0301"], "expected different names, got 'café' twice"),
        (["cat", "c\u200bat"], "expected different names, got 'cat' twice"),
        (["cat\nB. all", "dog"], "expected names of one line, got"),
    ],
)
def test_choices_are_different_names_of_one_line(names, message):
    from clipkit.embedding.textembed import ClassNames, list_choices

    with pytest.raises(ClipkitError) as error:
        list_choices("What is it?", ClassNames(names))
    assert message in error.value.message
