"""The README keeps its word: its script prints what it shows, commands exist, links lead on."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from symspec.cli.app import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
MAX_LINES, MAX_WORDS, MAX_COLUMNS = 130, 1400, 100


def as_number(word):
    try:
        return float(word)
    except ValueError:
        return None


def test_the_script_prints_what_the_readme_shows(tmp_path, monkeypatch, capsys):
    [script] = [text for language, text in BLOCKS if language == "python"]
    shown = BLOCKS[BLOCKS.index(("python", script)) + 1][1]
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == len(shown.splitlines())
    for word, expected in zip(printed.split(), shown.split(), strict=True):
        if (number := as_number(expected)) is None:
            assert word == expected
        else:
            # `tune` stops within 0.14 of the standard deviation of a hyperparameter, 2 % of the
            # noise from 900 labels, so that rounding on another machine may move the last digits
            assert as_number(word) == pytest.approx(number, rel=0.02, abs=0.02)
    assert (tmp_path / "catalogue.fits").is_file()


def test_every_command_is_shown_and_every_command_shown_exists():
    shown = set(re.findall(r"^symspec (\w+)", README, flags=re.MULTILINE))
    assert shown == set(get_command(app).commands)


def test_links_lead_to_files():
    places = re.findall(r"\]\(([^)]+)\)", README)
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_the_readme_is_short():
    assert len(README.splitlines()) <= MAX_LINES
    assert len(README.split()) <= MAX_WORDS
    wide = [
        line
        for language, text in BLOCKS
        if language in ("python", "bash")
        for line in text.splitlines()
        if len(line) > MAX_COLUMNS
    ]
    assert wide == []
