import pytest

from data.errors import ConfigurationError
from data.tokens.options import parse_template_args


def test_template_arguments_are_json_where_they_are_json_and_text_elsewhere():
    arguments = (
        "enable_thinking=false",
        "budget=512",
        "date=26 July 2024",
        'quoted="7"',
        "empty=",
        'list=["a"]',
    )
    assert parse_template_args(arguments) == {
        "enable_thinking": False,
        "budget": 512,
        "date": "26 July 2024",
        "quoted": "7",
        "empty": "",
        "list": ["a"],
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("thinking",), "'thinking' is not KEY=VALUE"),
        (("=1",), "'=1' is not KEY=VALUE"),
        (("a=1", "a=2"), "a is given twice"),
    ],
)
def test_what_is_no_template_argument_is_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_template_args(arguments)
