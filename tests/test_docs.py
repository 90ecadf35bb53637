"""The generated pages are current."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_command_reference_is_current():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.CLI_REFERENCE.read_text() == module.render_reference(), "run `make docs`"
