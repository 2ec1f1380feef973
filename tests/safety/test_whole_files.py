"""A file is replaced as a whole or not at all, and one that others wrote is kept."""

import os

import pytest

from symspec.cli.shared.options import check_output
from symspec.errors import FileKeptError
from symspec.safety.whole_files import check_target, replace_when_complete


def interrupted(path):
    with replace_when_complete(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt


def test_an_interrupt_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "x")
    assert not os.listdir(tmp_path)


def test_a_failed_renaming_leaves_the_old_file_alone(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"old")

    def fail(source, target):
        raise PermissionError("not yours")

    monkeypatch.setattr(os, "replace", fail)
    with (
        pytest.raises(PermissionError),
        replace_when_complete(tmp_path / "x", overwrite=True) as temporary,
    ):
        temporary.write_bytes(b"new")
    assert (tmp_path / "x").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def overtaken(path):
    with replace_when_complete(path) as temporary:
        temporary.write_bytes(b"ours")
        path.write_bytes(b"theirs")


def test_a_file_that_appears_while_writing_is_kept(tmp_path):
    with pytest.raises(FileKeptError):
        overtaken(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["x"]


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with replace_when_complete(tmp_path / "link", overwrite=True) as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_link_that_leads_back_to_itself_is_refused(tmp_path):
    (tmp_path / "one").symlink_to("other")
    (tmp_path / "other").symlink_to("one")
    with pytest.raises(FileKeptError, match="link that leads back to itself: remove it"):
        check_target(tmp_path / "one", overwrite=True)
    with pytest.raises(FileKeptError, match="link that leads back to itself: remove it"):
        check_output(tmp_path / "one", True, ("one",), tmp_path / "other")


def test_folders_are_refused_and_missing_ones_are_named(tmp_path):
    with (
        pytest.raises(FileKeptError, match="add a file name"),
        replace_when_complete(tmp_path, overwrite=True),
    ):
        pass
    with (
        pytest.raises(FileNotFoundError, match="create it first"),
        replace_when_complete(tmp_path / "no" / "x"),
    ):
        pass
