import yaml

from data.signals.card import write_card
from data.signals.manifest import read_manifest


def test_the_card_counts_responses_and_names_what_determined_them(tmp_path, make_dataset):
    make_dataset(tmp_path, scored=("chosen",))
    write_card(tmp_path, read_manifest(tmp_path))
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| rejected | 15 | 0 | 0 |" in card
    assert "- `teacher.source`: tiny" in card
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "shard-*.parquet"}]
    assert header["size_categories"] == ["n<1K"]


def test_a_card_that_people_edited_is_kept(tmp_path, make_rollouts):
    make_rollouts(tmp_path)
    (tmp_path / "README.md").write_text("my words")
    write_card(tmp_path, read_manifest(tmp_path))
    assert (tmp_path / "README.md").read_text() == "my words"
