"""Files and folders appear when they are complete, and a failure leaves what was there before."""

from __future__ import annotations

import pytest

from trvae_scvi._files import finished_at_end, write_text


def test_a_file_appears_at_the_end(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    with finished_at_end(path) as unfinished:
        assert (unfinished.parent, unfinished.suffix) == (tmp_path, ".csv")
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error), finished_at_end(path) as unfinished:
            unfinished.write_text("half")
            raise error
    with pytest.raises(FileNotFoundError), finished_at_end(path):
        pass  # nothing was written
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folders(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(OSError, match="disk full"), finished_at_end(path) as unfinished:
        unfinished.mkdir()
        (unfinished / "model.pt").touch()
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []
    with finished_at_end(path) as unfinished:
        unfinished.mkdir()
        (unfinished / "model.pt").touch()
    assert [file.name for file in path.iterdir()] == ["model.pt"]


def test_text_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "report.html", "half of a character: \ud800")
    assert list(tmp_path.iterdir()) == []
    write_text(tmp_path / "report.html", "γδ T\r\n")
    assert (tmp_path / "report.html").read_bytes() == "γδ T\r\n".encode()
