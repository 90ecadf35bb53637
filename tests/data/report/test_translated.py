"""The report of signals on another tokenizer's ids."""

import re
from xml.etree import ElementTree

import pytest

from data.report.translated import tokenizations_svg, translation_section

EXAMPLE = {
    "pair_id": "p<0>",
    "role": "chosen",
    "teacher": [["In", 2], [" autumn", 7], [" tre", 4], ["es", 2]],
    "student": [["In", 2], [" aut", 4], ["umn", 3], [" trees", 6]],
    "aligned": [True, True, False, True],
}

TRANSLATION = {
    "rows": 2,
    "dropped": {"the two renderings do not spell the same bytes": 3},
    "positions": 40,
    "source_positions": 38,
    "aligned_share": 0.75,
    "placed_mass": 0.9876,
    "exact_mass": 0.25,
    "unplaced_tokens": [["<|tool|>", 0.123]],
    "example": EXAMPLE,
}


def boxes(svg):
    """Left edge, width and row of each box, in bytes of text and from the top."""
    found = [(float(box.get("x")), float(box.get("width")), float(box.get("y"))) for box in rectangles(svg)]
    left = min(x for x, _, _ in found)
    column = (found[0][1] + 1) / 2  # the first token has two bytes
    return [(round((x - left) / column), round((width + 1) / column), y) for x, width, y in found]


def rectangles(svg):
    return [item for item in ElementTree.fromstring(svg).iter() if item.tag.endswith("rect")]


def test_the_drawing_puts_each_token_over_its_bytes():
    found = boxes(tokenizations_svg(EXAMPLE))
    rows = sorted({y for _, _, y in found})
    assert len(rows) == 2
    assert [box[:2] for box in found if box[2] == rows[0]] == [(0, 2), (2, 7), (9, 4), (13, 2)]
    assert [box[:2] for box in found if box[2] == rows[1]] == [(0, 2), (2, 4), (6, 3), (9, 6)]


def test_the_drawing_tells_tokens_without_a_distribution_from_others():
    dashed = [box.get("stroke-dasharray") is not None for box in rectangles(tokenizations_svg(EXAMPLE))]
    assert dashed == [False] * 4 + [not aligned for aligned in EXAMPLE["aligned"]]


def test_the_drawing_shows_control_characters_as_pictures():
    odd = [["a\x00", 2], ["\r\n", 2], ["\x1b", 1]]
    svg = tokenizations_svg({"teacher": odd, "student": odd, "aligned": [True] * 3})
    texts = [item.text for item in ElementTree.fromstring(svg).iter() if item.tag.endswith("text")]
    assert texts[2:5] == ["a␀", "␍⏎", "␛"]


def test_the_drawing_breaks_lines_only_where_both_tokenizations_have_a_boundary():
    teacher = [["ab", 2], ["cd", 2]] * 60
    student = [["abcd", 4]] * 60
    svg = tokenizations_svg({"teacher": teacher, "student": student, "aligned": [True] * 60})
    found = boxes(svg)
    assert len({y for _, _, y in found}) > 2
    for start, width, _ in found:
        assert start % 4 + width <= 4


@pytest.mark.parametrize(
    "said",
    [
        "75.0%",
        "98.76%",
        "25.0%",
        "38",
        "&lt;|tool|&gt;",
        "0.123",
        "do not spell the same bytes",
        "p&lt;0&gt;",
    ],
)
def test_the_section_says_what_a_translation_kept(said):
    assert said in translation_section(TRANSLATION)


def test_the_section_of_datasets_of_earlier_versions_has_no_drawing():
    without = {name: value for name, value in TRANSLATION.items() if name != "example"}
    assert "<svg" not in translation_section(without)
    assert not re.search("Responses that were left out", translation_section({**without, "dropped": {}}))
