"""The generated pages are current."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_reference_is_current(generate):
    assert generate.CLI_REFERENCE.read_text() == generate.render_reference(), "run `make docs`"


def test_the_table_of_templates_says_what_becomes_of_each(generate):
    assert generate.TEMPLATES.read_text() == generate.render_templates(), "run `make docs`"


def test_the_file_tree_gives_every_file_its_role(generate):
    assert generate.ARCHITECTURE.read_text() == generate.render_architecture(), "run `make docs`"


def test_the_page_on_methods_is_current(generate):
    assert generate.METHODS_PAGE.read_text() == generate.render_methods(), "run `make docs`"


def test_the_table_of_forms_is_current(generate):
    assert generate.DATA.read_text() == generate.render_data(), "run `make docs`"


def test_the_page_on_metrics_is_current(generate):
    assert generate.METRICS_PAGE.read_text() == generate.render_metrics(), "run `make docs`"
