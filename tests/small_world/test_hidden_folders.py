"""Folders come back, however the work without them ends."""

from pathlib import Path

import pytest

from small_world.demo import hidden_folders, unhide_folders


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "teacher", tmp_path / "reference"]
    for folder in made:
        folder.mkdir()
        (folder / "config.json").write_text(folder.name)
    return made


def are_whole(folders: list[Path]) -> bool:
    return all((folder / "config.json").read_text() == folder.name for folder in folders)


def test_nothing_lies_at_their_names_meanwhile(folders: list[Path]) -> None:
    with hidden_folders(*folders):
        assert not any(folder.exists() for folder in folders)
    assert are_whole(folders)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_they_come_back_after_an_error(folders: list[Path], error: type[BaseException]) -> None:
    with pytest.raises(error), hidden_folders(*folders):
        raise error
    assert are_whole(folders)


def test_those_already_moved_come_back_when_another_cannot_be(folders: list[Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), hidden_folders(*folders, tmp_path / "missing"):
        pytest.fail("entered without having moved all")
    assert are_whole(folders)


def test_what_a_killed_process_left_aside_is_brought_back(folders: list[Path]) -> None:
    killed = hidden_folders(*folders)
    killed.__enter__()  # and no exit, as after SIGKILL
    assert not any(folder.exists() for folder in folders)
    unhide_folders(*folders)
    assert are_whole(folders)
    unhide_folders(*folders)
    assert are_whole(folders)
