"""Keys and prompts are taken out of what a provider says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_connect.engine.scrub import Scrubber

from .spelled import SPELLINGS

KEY = "sk-proj-Zq8Lw2XnVb7TfRk4Hs9JdPyGm3Cc5Ae"
GEMINI_KEY = "AIza" + "SyD4x9KqLw2XnVb7TfRk4Hs9JdPyGm3Cc5"
PROMPT = "Tell me all about the secret merger of Alpha and Beta."
#: Around what is echoed, as providers say it.
BEFORE, AFTER = "Incorrect API key provided: ", " (request failed)."
#: Of a key, and of a prompt, less than this many characters may be readable.
KEY_RUN, PROMPT_RUN = 8, 12


def clean(value: Any, *prompts: str | None) -> Any:
    return Scrubber([KEY], prompts).clean(value)


def shared(spelled: str, shown: str) -> int:
    """The length of the longest part of `spelled` that `shown` has."""
    longest = 0
    for start in range(len(spelled)):
        while start + longest < len(spelled) and spelled[start : start + longest + 1] in shown:
            longest += 1
    return longest


def is_readable(secret: str, spelled: str, shown: str, run: int) -> bool:
    """Whether `shown` has as much of `spelled` as says `run` characters of the secret, and one at either edge."""
    return shared(spelled, shown) >= len(spelled) / len(secret) * (run + 2)


@pytest.mark.slow
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("before", "after"), [(BEFORE, AFTER), ("", ""), ("{'key': '", "'}")])
def test_a_key_is_hidden_in_every_spelling(spelling: str, before: str, after: str) -> None:
    """However a provider spells the key that it echoes, no eight characters of it can be read. (ERROR-5)"""
    spelled = SPELLINGS[spelling](KEY)
    assert not is_readable(KEY, spelled, clean(before + spelled + after), KEY_RUN)


@pytest.mark.parametrize("spelling", sorted(SPELLINGS.keys() - {"words between"}))
def test_a_prompt_is_hidden_in_every_spelling(spelling: str) -> None:
    """However a provider spells the prompt that it echoes, no twelve letters of it can be read. (ERROR-5)"""
    spelled = SPELLINGS[spelling](PROMPT)
    assert not is_readable(PROMPT, spelled, clean(BEFORE + spelled + AFTER, PROMPT), PROMPT_RUN)


@pytest.mark.parametrize("spelling", ["base64 in lines", "base64 in words"])
def test_a_prompt_in_base64_is_hidden_even_when_its_case_is_lost(spelling: str) -> None:
    """Base64 that became lower case on its way can be guessed, and is hidden. (ERROR-5)"""
    spelled = SPELLINGS[spelling](PROMPT).lower()
    assert not is_readable(PROMPT, spelled, clean(BEFORE + spelled + AFTER, PROMPT), PROMPT_RUN)


def test_a_prompt_with_rare_characters_is_hidden_in_json() -> None:
    """JSON escapes such a character by two numbers, between which its prompt would be readable. (ERROR-5)"""
    prompt = PROMPT[:-1].replace(" ", "\U00020001 ")
    assert clean(BEFORE + json.dumps(prompt) + AFTER, prompt) == BEFORE + '"[prompt]"' + AFTER


#: Ways that a second server, or a log, may add.
OUTER = (
    "JSON",
    "repr",
    "HTML where needed",
    "percent where needed",
    "plus",
    "base64",
    "hex",
    "backwards",
    "upper case",
)


@pytest.mark.slow
@pytest.mark.parametrize("outer", OUTER)
@pytest.mark.parametrize("inner", SPELLINGS)
def test_a_key_is_hidden_in_a_spelling_of_a_spelling(inner: str, outer: str) -> None:
    """A key that was spelled twice on its way is not readable either. (ERROR-5)"""
    spelled = SPELLINGS[outer](SPELLINGS[inner](KEY))
    assert not is_readable(KEY, spelled, clean(BEFORE + spelled + AFTER), KEY_RUN)


def test_the_table_of_spellings_is_long() -> None:
    """More than 441 spellings of a key are tried."""
    assert len(SPELLINGS) * (3 + len(OUTER)) >= 441


@pytest.mark.slow
@pytest.mark.scales
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize(("secret", "run"), [(KEY, 8), (GEMINI_KEY, 8), (PROMPT, 12)])
def test_secrets_are_hidden_in_all_pairs_of_spellings(secret: str, run: int, nightly: bool) -> None:
    """Each spelling of each spelling of keys and of a prompt is hidden; in the gate some of them. (ERROR-5)"""
    scrubber = Scrubber([KEY, GEMINI_KEY], [PROMPT])
    pairs = [(inner, outer) for inner in SPELLINGS for outer in SPELLINGS]
    readable = []
    for inner, outer in pairs[:: 1 if nightly else 131]:
        if secret == PROMPT and "words between" in (inner, outer):
            continue
        spelled = SPELLINGS[outer](SPELLINGS[inner](secret))[:1_500]
        if is_readable(secret, spelled, scrubber.clean(BEFORE + spelled + AFTER), run):
            readable.append((inner, outer))
    assert readable == []


def test_a_key_is_hidden_wherever_it_stands() -> None:
    """Each whole key is replaced, and the rest is kept. (ERROR-5)"""
    assert clean(f"bad key {KEY}, {KEY}!") == "bad key [key]!"


@pytest.mark.parametrize("length", range(8, len(KEY) - 2, 3))
def test_a_part_of_a_key_is_hidden_too(length: int) -> None:
    """A message that was cut within the key, at either end, shows no long part of it. (ERROR-5)"""
    assert "Zq8Lw" not in clean(f"bad key {KEY[: length + 2]}")
    assert clean(f"{KEY[-length:]} is bad") == "[key] is bad"


@pytest.mark.parametrize("before", range(13))
def test_a_part_of_a_key_is_found_at_any_place(before: int) -> None:
    """The shortest part that counts is found wherever in a message it stands. (ERROR-5)"""
    for start in range(8, len(KEY) - 7):
        assert clean("?" * before + KEY[start : start + 8]) == "?" * before + "[key]"


@pytest.mark.parametrize(
    "said",
    [
        "Incorrect API key provided: sk-proj-************************************5Ae.",
        "Incorrect API key provided: sk-pr***************5Ae.",
        "bad key sk-...c5Ae",
        "bad key sk-proj-Zq\u2026",
        "bad key sk-xxxxxxxxxxxxxxc5Ae",
        "bad key \u2022\u2022\u2022\u2022\u2022c5Ae",
        "the key that ends with c5Ae is not known",
    ],
)
def test_of_a_shortened_key_no_character_stays(said: str) -> None:
    """Providers show the first and the last characters of a key, and even these are hidden. (ERROR-5)"""
    cleaned = clean(said)
    assert "5Ae" not in cleaned
    assert "Zq" not in cleaned
    assert "[key]" in cleaned


def test_pieces_that_make_up_half_of_a_key_are_hidden() -> None:
    """A key in pieces with words between them is a key; a few of its letters in a word are none. (ERROR-5)"""
    pieces = [KEY[at : at + 5] for at in range(8, len(KEY) - 1, 5)]
    cleaned = clean("; next comes ".join(pieces))
    assert not any(piece in cleaned for piece in pieces)
    marked = ["".join(f"{c}\u0301" for c in piece) for piece in pieces]
    assert not any(piece in clean("; next comes ".join(marked)) for piece in marked)
    assert clean(f"see {pieces[0]} in the list") == f"see {pieces[0]} in the list"


def test_what_all_keys_begin_with_may_be_shown() -> None:
    """Advice on the form of keys stays readable."""
    assert clean("a key begins with sk-proj-") == "a key begins with sk-proj-"


def test_a_short_key_is_hidden_whole_and_a_stand_in_is_not() -> None:
    """Local servers take keys such as `x`, which must not blank out the letters of a message."""
    assert Scrubber(["secret9"]).clean("key SECRET9 is bad") == "key [key] is bad"
    assert Scrubber(["x", ""]).clean("an extra box") == "an extra box"


def test_an_echo_of_the_prompt_is_hidden() -> None:
    """A whole prompt, and a long enough part of it, are replaced."""
    assert clean(f"refused: '{PROMPT}'", PROMPT) == "refused: '[prompt].'"
    assert clean("refused: about the secret me", PROMPT) == "refused: [prompt]"
    assert "secret merger" not in clean(PROMPT[:30] + " (cut)", None, PROMPT)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (PROMPT.replace(" ", "\n\t"), "Tell me all about the secret merger"),
        ('{"question": "tell me all\\nabout the merger"}', "tell me all about the merger"),
        ("caf\u00e9 au lait, s'il vous pla\u00eet, monsieur", "CAFE\u0301 AU LAIT, S'IL VOUS PLAI\u0302T"),
        ("Stra\u00dfenbahnhaltestelle im Westen", "STRASSENBAHNHALTESTELLE"),
        (
            "\u03ba\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1 \u03ba\u03cc\u03c3\u03bc\u03b5",
            "\u039a\u0391\u039b\u0397\u039c\u0395\u03a1\u0391 \u039a\u039f\u03a3\u039c\u0395",
        ),
        ("\uff34\uff45\uff4c\uff4c me all about it", "tell me all about"),
        ("4111 1111 1111 1111 expires soon", "4111-1111-1111-1111"),
    ],
)
def test_case_spaces_escapes_and_marks_do_not_hide_an_echo(prompt: str, said: str) -> None:
    """Prompt and message are compared by their letters and digits, without escapes, case and marks. (ERROR-5)"""
    assert clean(f"no: {said}!", prompt) == "no: [prompt]!"


def test_common_words_are_no_echo() -> None:
    """Short runs that message and prompt share stay, so that the message stays readable."""
    message = "the merger of all is not supported"
    assert clean(message, PROMPT) == message


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("merger", "the [prompt] of x"),
        ("the", "the merger of x"),
        ("", "the merger of x"),
        (None, "the merger of x"),
    ],
)
def test_a_short_prompt_is_hidden_whole_unless_it_is_a_word_of_any_text(prompt: str | None, cleaned: str) -> None:
    """From six letters on a prompt is replaced; shorter ones would blank out ordinary words. (ERROR-5)"""
    assert clean("the merger of x", prompt) == cleaned


def test_dicts_and_lists_are_cleaned_at_any_depth_and_other_values_kept() -> None:
    """Texts in dicts and lists are cleaned; numbers and None are as they were."""
    before = {"a": {"b": [KEY, 7]}, "n": 5, "none": None}
    assert clean(before) == {"a": {"b": ["[key]", 7]}, "n": 5, "none": None}
    assert before["a"] == {"b": [KEY, 7]}


def test_what_nobody_can_read_is_no_part_of_a_message() -> None:
    """A long run without a word may be a key in an unknown spelling: it goes, the words stay. (ERROR-5)"""
    assert clean("the token gAAAAABn7kQ2Zx9vLr3TmYw8Hs5Jd1Pc4Bf6Nq0 is bad") == "the token [encoded] is bad"
    assert clean("codes 17 99 23 54 11 09 88 76 31 42 65 10 77") == "codes [encoded]"


def test_a_text_that_is_made_to_take_long_is_withheld() -> None:
    """Readings within readings without end are not followed; the text is not shown then. (ERROR-5)"""
    text = "%2525u0041&amp;\\u0026#x41;=3D" * 100
    started = time.process_time()
    assert clean(text) == "[withheld]"
    assert time.process_time() - started < 5


@pytest.mark.parametrize("name", ["req_011CSHoEeqs5C35K2UUqR7Fy", "gen-1758910000-AbCdEfGhIjKlMnOpQrSt", "0f" * 16, ""])
def test_ids_are_kept(name: str) -> None:
    """A request id looks like an encoding, and is needed to ask the provider. (CALL-11)"""
    assert Scrubber([KEY]).name(name) == name
    assert Scrubber([KEY], [PROMPT]).name(name) == name
    assert Scrubber([KEY]).name(None) is None


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_id_shows_no_key_in_any_spelling(spelling: str) -> None:
    """A request id or the name of a model that echoes the key is cleaned like a text. (ERROR-5)"""
    spelled = SPELLINGS[spelling](KEY)[:190]
    shown = Scrubber([KEY]).name(f"req_{spelled}")
    assert not is_readable(KEY, SPELLINGS[spelling](KEY), shown, KEY_RUN)


def test_ids_and_texts_are_cut_before_they_are_looked_at() -> None:
    """200 characters of an id and 4,096 of a text are kept at most."""
    assert len(Scrubber([KEY]).name("a" * 9_000)) == 200
    assert len(clean("not, " * 5_000)) == 4_096


@pytest.mark.parametrize(
    "prompt",
    [
        "word and another word, " * 220_000,
        "ab" * 150_000,
        "\\" * 300_000,
        "&amp;%25" * 40_000,
        "\u00e9t\u00e9 " * 70_000,
    ],
    ids=["words", "two letters", "backslashes", "entities", "marks"],
)
def test_a_large_prompt_does_not_hold_up_the_error(prompt: str) -> None:
    """Whatever a prompt is made of, it is searched in a time linear in its length."""
    half = prompt[: len(prompt) // 2]
    said = (prompt[:19] + "!") * 20
    took = []
    for text in (half, prompt):
        started = time.process_time()
        Scrubber([KEY], [text]).clean(said)
        took.append(time.process_time() - started)
    assert took[1] < 3 * took[0] + 0.5
    assert took[1] < 10


@settings(max_examples=150, deadline=None, database=None)
@given(
    before=st.text(max_size=40),
    after=st.text(max_size=40),
    start=st.integers(0, 30),
    size=st.integers(20, 40),
)
def test_no_long_part_of_a_prompt_stays(before: str, after: str, start: int, size: int) -> None:
    """Whatever stands around it, no part of twenty characters of the prompt is left. (ERROR-5)"""
    cleaned = clean(before + PROMPT[start : start + size] + after, PROMPT)
    assert not any(PROMPT[i : i + 20] in cleaned for i in range(len(PROMPT) - 19))


@pytest.mark.parametrize("octets", ["e08080", "eda080", "f0808080", "f4908080"])
def test_octets_that_are_no_text_are_passed_over(octets: str) -> None:
    """Hex that stands for invalid UTF-8 is cleaned like any other, and raises nothing. (ERROR-5)"""
    said = b"request ".hex() + octets * 8 + KEY.encode().hex() + octets * 8
    assert not is_readable(KEY, KEY.encode().hex(), clean(f"bad {said}"), KEY_RUN)


def test_a_text_that_cannot_be_read_is_withheld(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the search for keys hides the text, and does not replace the provider's error. (ERROR-5)"""
    monkeypatch.setattr("llm_connect.engine.scrub.readings_of", lambda text: [][len(text)])
    assert clean(f"bad key {KEY}") == "[withheld]"


@settings(max_examples=150, deadline=None, database=None)
@given(st.text(max_size=400))
def test_any_text_can_be_cleaned(text: str) -> None:
    """Whatever a provider writes, cleaning it ends in a text. (ERROR-5)"""
    assert isinstance(clean(text, PROMPT), str)


def test_escapes_that_stand_for_no_character_hide_nothing() -> None:
    """A code beyond the last character, and a line that quoted-printable breaks, are passed over. (ERROR-5)"""
    spelled = f"{KEY[:14]}\\UFFFFFFFF{KEY[14:26]}=\n{KEY[26:]}"
    assert clean(f"bad key {spelled}") == "bad key [key]"
    assert clean("bad \\UFFFFFFFF key") == "bad \\UFFFFFFFF key"


def _in_keys(pieces: list[str]) -> str:
    return json.dumps(dict(zip(pieces, range(len(pieces)), strict=True)))


@pytest.mark.parametrize("spell", [lambda pieces: " ".join(f"{n}:{p}" for n, p in enumerate(pieces)), _in_keys])
def test_a_prompt_with_figures_between_its_pieces_is_hidden(spell: Callable[[list[str]], str]) -> None:
    """A prompt in numbered pieces, or in the keys of an object, is a prompt all the same. (CALL-11)"""
    prompt = "The quarterly revenue of the northern branch fell by nine percent"
    for size in (3, 8):
        shown = spell([prompt[at : at + size] for at in range(0, len(prompt), size)])
        cleaned = Scrubber((), [prompt]).clean(shown)
        letters = "".join(filter(str.isalpha, cleaned)).lower()
        assert "revenue" not in letters
        assert "branch" not in letters


def test_names_are_remembered_up_to_a_number() -> None:
    """Each is looked at, however many a server makes up, and one with a key in it is hidden every time. (ERROR-5)"""
    scrubber = Scrubber([KEY])
    for number in range(250):
        assert scrubber.name(f"model-{number}") == f"model-{number}"
    for _ in range(2):
        assert KEY not in scrubber.name(f"model-{KEY}")
