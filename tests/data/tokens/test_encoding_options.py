import pytest

from data.errors import ConfigurationError
from data.tokens.options import encoder_settings, encoding_request, parse_template_args
from student_training.options import TrainOptions
from teacher_scoring.options import SampleOptions, ScoreOptions


def test_template_arguments_are_read_as_json_where_they_are():
    pairs = (
        "enable_thinking=false",
        "budget=12",
        "effort=high",
        'dates=["1", 2]',
        "python=False",
        "empty=",
        "a=b=c",
    )
    assert parse_template_args(pairs) == {
        "enable_thinking": False,
        "budget": 12,
        "effort": "high",
        "dates": ["1", 2],
        "python": False,
        "empty": "",
        "a": "b=c",
    }


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("x",), "'x' is not KEY=VALUE"),
        (("=1",), "'=1' is not KEY=VALUE"),
        (("a=1", "a=2"), "a is given twice"),
    ],
)
def test_template_arguments_that_are_none_are_refused(pairs, message):
    with pytest.raises(ConfigurationError, match=f"--template-arg: {message}"):
        parse_template_args(pairs)


@pytest.mark.parametrize(
    "options",
    [
        ScoreOptions(teacher="t", data="d"),
        SampleOptions(student="s", data="d"),
        TrainOptions(student="s", data="d", method="sft", out="o"),
    ],
    ids=["score-teacher", "sample-student", "train-student"],
)
def test_every_command_with_data_has_the_options_and_defaults_determine_nothing_new(options):
    assert encoding_request(options) == {}
    assert encoder_settings(options)["thinking"] == "auto"


def test_options_that_change_the_ids_determine_the_dataset():
    options = ScoreOptions(
        teacher="t",
        data="d",
        template_arg=("enable_thinking=true",),
        train_on="last",
        store_conversations=True,
    )
    assert encoding_request(options) == {
        "template_args": {"enable_thinking": True},
        "train_on": "last",
        "store_conversations": True,
    }
