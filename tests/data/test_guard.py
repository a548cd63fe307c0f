"""The guard: whatever a parser raises becomes a sentence with file, reason and cure, and its cause is kept."""

from __future__ import annotations

import json
import zlib

import pytest
import yaml

from lightning_pbrl.data.guard import FREE, RATIO, declared, parse_json, reading, reason
from lightning_pbrl.errors import UserError


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("bad\n  header."), "a.npz: key 'x' is damaged (bad header): copy it again."),
        (KeyError("obs"), "a.npz: key 'x' is damaged (KeyError: 'obs'): copy it again."),
        (zlib.error("Error -3"), "a.npz: key 'x' is damaged (Error -3): copy it again."),
        (AssertionError(), "a.npz: key 'x' is damaged (AssertionError): copy it again."),
        (RecursionError("maximum"), "a.npz: key 'x' is damaged (nested too deeply): copy it again."),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), "a.npz: key 'x' is damaged ('utf-8' codec can't decode byte 0xff in"),
        (MemoryError("9 EiB"), "a.npz: key 'x' needs more memory than there is (9 EiB): free some memory, or copy it again."),
        (FileNotFoundError(), "There is no file a.npz: key 'x': check the path."),
    ],
)
def test_what_a_parser_raises_becomes_a_sentence(error: Exception, sentence: str):
    with pytest.raises(UserError) as caught, reading("a.npz: key 'x'", "is damaged", "copy it again"):
        raise error
    assert str(caught.value).startswith(sentence)
    assert caught.value.__cause__ is error


def test_a_sentence_passes_as_it_is():
    mine = UserError("a.npz is empty: give another.")
    with pytest.raises(UserError) as caught, reading("a.npz", "is damaged", "copy it again"):
        raise mine
    assert caught.value is mine
    with pytest.raises(KeyboardInterrupt), reading("a.npz", "is damaged", "copy it again"):
        raise KeyboardInterrupt


def test_a_reason_is_one_short_printable_line():
    assert reason(ValueError("a\x00\n\tb" + "é")) == "a? b?"
    assert reason(ValueError("x" * 500)) == "x" * 197 + "..."
    with pytest.raises(yaml.YAMLError) as caught:
        yaml.safe_load("a: [1\nb: 2")
    assert "line 2, column 2" in reason(caught.value)


def test_declared_sizes():
    declared(FREE, 1, "a: key 'x'", "copy it")
    declared(1000 * FREE, 1000 * FREE // RATIO, "a: key 'x'", "copy it")
    with pytest.raises(UserError, match=r"a: key 'x' declares 268,435,457 bytes and the file holds 1 for it: copy it\."):
        declared(FREE + 1, 1, "a: key 'x'", "copy it")


def test_json_of_others():
    assert parse_json('{"a": {"b": 1}}') == {"a": {"b": 1}}
    with pytest.raises(ValueError, match="a key is named twice"):
        parse_json('{"a": {"b": 1, "b": 2}}')
    for text in ("[" * 100_000, "1" * 5000, '"\\x"'):
        with pytest.raises((ValueError, RecursionError)):
            parse_json(text)
    assert issubclass(json.JSONDecodeError, ValueError)
