import os

import pytest

from data.errors import ShardError
from data.files import atomic_output, make_folder, remove_leftovers, sha256_file, write_atomic


def test_a_finished_file_replaces_the_old_one_and_leaves_no_other(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    write_atomic(path, "neu €")
    assert path.read_text(encoding="utf-8") == "neu €"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_an_interrupted_write_leaves_the_old_file_untouched(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write_half():
        with atomic_output(path) as file:
            file.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_refused_write_names_the_file_the_reason_and_the_next_step(tmp_path):
    path = tmp_path / "no such folder" / "a.bin"
    with pytest.raises(ShardError) as caught:
        write_atomic(path, b"x")
    assert str(caught.value) == (
        f"{path}: cannot be written: No such file or directory; nothing was changed;"
        " fix this and rerun the command"
    )


@pytest.mark.parametrize("place", ["file", "file/folder", "link/folder"])
def test_a_folder_that_cannot_be_made_is_named_with_the_reason(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "unmounted" / "disk")
    with pytest.raises(ShardError, match=f"{place}: no folder can be made there: .*; choose another place"):
        make_folder(tmp_path / place)
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_only_leftovers_of_killed_writers_are_removed(tmp_path):
    with atomic_output(tmp_path / "a.parquet") as file:
        left = os.path.basename(file.name)
        # What a SIGKILL at this moment would leave on disk.
        os.link(file.name, tmp_path / ".b.parquet.1-00.partial")
    (tmp_path / "notes.txt").write_text("mine")
    assert left.endswith(".partial")
    assert remove_leftovers(tmp_path) == [".b.parquet.1-00.partial"]
    assert sorted(os.listdir(tmp_path)) == ["a.parquet", "notes.txt"]


def test_checksum_of_a_file_longer_than_one_read(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"a" * 1_000_000 + b"b" * 1_000_000)
    # From coreutils' sha256sum.
    assert sha256_file(path) == os.popen(f"sha256sum '{path}'").read().split()[0]
