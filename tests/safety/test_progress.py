"""One protocol of progress: a bar for what takes long, silence, or the caller's own callable."""

import time

import pytest

from symspec.safety.progress import be_silent, describe_news, show_progress


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr("symspec.safety.progress.SECONDS_BEFORE", 0.0)
    monkeypatch.setenv("COLUMNS", "200")


def test_nothing_shows_of_what_is_over_before_three_seconds(capsys):
    with show_progress(True) as show:
        show("kronecker factors", 5, 10)
    assert capsys.readouterr() == ("", "")


def test_a_bar_shows_stages_counts_and_news_on_stderr(capsys, at_once):
    with show_progress(True) as show:
        show("kronecker factors", 5, 10)
        show("newton steps", 1_234, None, decrement=0.25)
    out, err = capsys.readouterr()
    assert out == ""
    for words in ("kronecker factors", "5/10", "newton steps", "1,234", "decrement 0.25"):
        assert words in err


def test_a_bar_shows_within_a_long_first_step(capsys, monkeypatch):
    monkeypatch.setattr("symspec.safety.progress.SECONDS_BEFORE", 0.2)
    with show_progress(True) as show:
        show("factorising", 0, None)
        time.sleep(0.6)  # three times as long as the bar waits
    assert "factorising" in capsys.readouterr().err


def test_after_the_block_nothing_is_followed_any_more(capsys, at_once):
    calls = []
    for progress in (True, lambda *step: calls.append(step)):
        with show_progress(progress) as show:
            show("early", 1, 2)
        capsys.readouterr()
        show("too late", 2, 2)
        assert capsys.readouterr() == ("", "")
    assert calls == [("early", 1, 2)]


def test_false_is_silence(capsys, at_once):
    with show_progress(False) as show:
        assert show("stage", 5, 10, loss=1.0) is None
    assert be_silent("stage", 5, None, loss=1.0) is None
    assert capsys.readouterr() == ("", "")


def test_a_callable_is_called_with_all_that_is_known_and_may_stop_the_work():
    calls = []

    def follow(stage, done, total, /, **news):
        calls.append((stage, done, total, news))
        if done == 2:
            raise KeyboardInterrupt

    with show_progress(follow) as show, show_progress(show) as inner:
        show("stage", 1, 2, loss=0.5)
        with pytest.raises(KeyboardInterrupt):
            inner("inside", 2, None)
    assert calls == [("stage", 1, 2, {"loss": 0.5}), ("inside", 2, None, {})]


def test_news_are_short_numbers_under_plain_names():
    news = {"log_evidence": -12345.678, "learning_rate": 1e-3, "structure": "kronecker"}
    expected = "log evidence -12,345.7  learning rate 0.001  structure kronecker"
    assert describe_news(news) == expected
    assert describe_news({}) == ""
