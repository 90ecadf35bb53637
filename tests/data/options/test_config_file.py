import dataclasses

import pytest

from data.errors import ConfigurationError
from data.options.config_file import read_config
from data.options.fields import check_options, option


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    name: str = option("none", help="a text")
    clip: str | None = option(None, help="a text that often looks like a number")
    top_k: int = option(5, help="a count")
    learning_rate: float = option(0.1, help="a rate")
    fast: bool = option(False, help="a switch")
    signals: tuple[str, ...] = option((), help="repeated")
    weights: tuple[float, ...] = option((), help="repeated numbers")
    score: tuple[str, ...] = option((), help="with commas", commas=True)

    def __post_init__(self) -> None:
        check_options(self)


def read(folder, name, text, command=None):
    (folder / name).write_text(text)
    return Options(**read_config(str(folder / name), Options, command=command))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.yaml",
            "name: 7\nclip: 0:1\ntop-k: 8\nlearning_rate: 1e-4\nfast: yes\nsignals: [a, 'b,c']\nweights: [1, 5e-1]\n"
            "score: chosen, student\n",
        ),
        (
            "a.toml",
            'name = 7\nclip = "0:1"\ntop_k = 8\nlearning-rate = 1e-4\nfast = true\nsignals = ["a", "b,c"]\n'
            'weights = [1, 0.5]\nscore = "chosen, student"\n',
        ),
        (
            "a.json",
            '{"name": 7, "clip": "0:1", "top_k": 8, "learning_rate": 1e-4, "fast": true, "signals": ["a", "b,c"],\n'
            ' "weights": [1, 0.5], "score": ["chosen", "student"]}',
        ),
    ],
)
def test_values_are_read_as_the_types_that_the_options_have(tmp_path, name, text):
    assert read(tmp_path, name, text) == Options(
        name="7",
        clip="0:1",
        top_k=8,
        learning_rate=1e-4,
        fast=True,
        signals=("a", "b,c"),
        weights=(1.0, 0.5),
        score=("chosen", "student"),
    )


def test_one_value_stands_for_a_list_of_one_and_null_for_nothing(tmp_path):
    assert read(tmp_path, "a.yaml", "signals: a,b\nclip: null\n") == Options(signals=("a,b",), clip=None)
    assert (
        read(tmp_path, "b.yaml", "clip: 1\n") == read(tmp_path, "b.toml", "clip = 1\n") == Options(clip="1")
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top_k: ten", "--top-k: 'ten' is not of type int"),
        ("top_k: 5.5", "--top-k: '5.5' is not of type int"),
        ("fast: perhaps", "--fast: 'perhaps' is not of type bool"),
        ("learning_rate: [1, 2]", r"--learning-rate: \['1', '2'\] is not of type float"),
        ("weights: [1, two]", "--weights: 'two' is not of type float"),
        ("name:", "--name is required"),
        ("topk: 3", r"unknown key 'topk'; did you mean top_k\?"),
        (
            "zzz: 3",
            "unknown key 'zzz'; known keys: clip, fast, learning_rate, name, score, signals, top_k, weights",
        ),
        ("score-teacher: {top_k: 3}", "has tables for score-teacher, none for sample-student"),
        ("- a", "holds no options"),
        ("a: [", "neither TOML nor YAML"),
        ("!!python/object/apply:os.system [true]", "neither TOML nor YAML"),
    ],
)
def test_what_no_option_can_take_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigurationError, match=message):
        read(tmp_path, "a.yaml", text, command="sample-student")


def test_config_file_with_a_table_for_each_command_is_read_for_one(tmp_path):
    text = "[sample-student]\ntop_k = 3\n[score_teacher]\ntop_k = 4\n"
    assert read(tmp_path, "a.toml", text, command="sample-student").top_k == 3
    assert read(tmp_path, "a.toml", text, command="score-teacher").top_k == 4


def test_config_file_run_toml_gives_the_options_and_paths_of_its_run(tmp_path):
    text = (
        '[options]\ntop_k = 3\nsignals = []\n[paths]\nsignals = ["/a", "/b"]\n'
        '[inputs]\nsignals = ["f00"]\n[versions]\npython = "3.11.7"\n'
    )
    assert read(tmp_path, "run.toml", text) == Options(top_k=3, signals=("/a", "/b"))


def test_config_file_run_toml_means_its_own_folder_and_hands_a_users_settings_to_set(tmp_path):
    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class RunOptions:
        out: str = option(help="a folder")
        set: tuple[str, ...] = option((), help="NAME=VALUE")

    (tmp_path / "run.toml").write_text(
        '[options]\nsharpness = 0.5\ncareful = true\n[paths]\n[versions]\npython = "3.11.7"\n'
    )
    read_as_run = RunOptions(**read_config(str(tmp_path / "run.toml"), RunOptions, command="train-student"))
    assert read_as_run == RunOptions(out=str(tmp_path), set=("sharpness=0.5", "careful=true"))
