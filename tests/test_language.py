"""Docstrings and comments in plain English: a verb or the field's noun first, the field's words, none of our own."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import lightning_pbrl

ROOT = Path(lightning_pbrl.__file__).parent
NOUN_CLAUSE = re.compile(r"(What|How|Whether|Where|Which|Who|Whose|When|Why)\b")
ARTICLE = re.compile(r"(The|A|An)\b")
OWN_WORDS = re.compile(r"\b(albums?|lanes?|pieces|worth|paid|judged?|judging|sought|things?|laid end to end)\b", re.IGNORECASE)
CODE = re.compile(r"``[^`]*``|:\w+:`[^`]*`|`[^`]*`|^\s*[\w, *]+:(?=\s)", re.MULTILINE)  # literals, roles, names of arguments

FOLDERS = [".", *sorted(path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file())]


def documented(tree):
    """Yield every docstring, those of attributes included, with its line and the node that it stands in."""
    for node in ast.walk(tree):
        for statement in node.body if isinstance(getattr(node, "body", None), list) else ():
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value, statement.lineno, node


def is_property(node):
    return any("property" in ast.unparse(decorator) for decorator in getattr(node, "decorator_list", ()))


def faults(source, strict=True):
    """Return what is wrong with the language of a module, by line."""
    tree, found = ast.parse(source), []
    for text, line, node in documented(tree):
        if not strict and not (isinstance(node, ast.ClassDef) and not node.name.startswith("_")):
            continue
        if NOUN_CLAUSE.match(text):
            found.append((line, "begins with a noun clause", text))
        if strict and isinstance(node, ast.FunctionDef) and not is_property(node) and ARTICLE.match(text):
            found.append((line, "does not begin with a verb", text))
    if strict:
        prose = [(text, line) for text, line, _ in documented(tree)]
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        prose += [(token.string, token.start[0]) for token in tokens if token.type == tokenize.COMMENT]
        for text, line in prose:
            found += [(line, "has a word of our own", word) for word in OWN_WORDS.findall(CODE.sub(" ", text))]
    return [f"line {line} {fault}: {text.splitlines()[0]}" for line, fault, text in sorted(found)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_docstrings_have_a_verb_first_and_the_words_of_the_field(folder):
    paths = sorted((ROOT / folder).glob("*.py"))
    found = {path.relative_to(ROOT).as_posix(): faults(path.read_text(encoding="utf-8")) for path in paths}
    assert paths and {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ('"""What a file holds."""', "line 1 begins with a noun clause: What a file holds."),
        ('def f():\n    """The sum of both."""', "line 2 does not begin with a verb: The sum of both."),
        ('X = 1\n"""Rows of a lane."""', "line 2 has a word of our own: lane"),
        ("x = 1  # a question that nobody has judged", "line 1 has a word of our own: judged"),
    ],
)
def test_a_fault_is_found_and_named(source, fault):
    assert faults(source) == [fault]


def test_code_in_prose_is_no_prose():
    source = 'def f(lane):\n    """Return ``pieces`` of :class:`Worth`.\n\n    Args:\n        lane: number of rows.\n    """\n'
    assert faults(source) == []
    assert faults('class _Private:\n    """What it is."""\n', strict=False) == []
    assert len(faults('class Public:\n    """What it is."""\n', strict=False)) == 1
