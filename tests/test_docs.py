"""The generated pages are current."""

import ast
import importlib.util
import re
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


@pytest.mark.slow
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


def messages_in_the_code() -> list[str]:
    """Every text in the code, with "…" for what is filled in when the program runs."""

    def text(node: ast.expr) -> str:
        if isinstance(node, ast.JoinedStr):
            return "".join(map(text, node.values))
        if isinstance(node, ast.BinOp):
            return text(node.left) + text(node.right)
        return re.sub(r"%[-+.\d]*[sdgf]", "…", str(node.value)) if isinstance(node, ast.Constant) else "…"

    packages = ("data", "teacher_scoring", "student_training", "evaluation")
    files = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    return [text(node) for node in nodes if isinstance(node, ast.JoinedStr | ast.Constant | ast.BinOp)]


def test_troubleshooting_quotes_messages_that_the_code_has():
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^(?:.* and )?\*\*`(.+)`\*\*", page, re.MULTILINE)
    assert len(quoted) > 30
    known = messages_in_the_code()
    for message in (part for line in quoted for part in line.split("`** and **`")):
        # Each piece between what is filled in, in this order, in one text of the code.
        pieces = [re.escape(piece.strip()) for piece in message.split("…") if piece.strip(" .;:()")]
        pattern = re.compile(".*?".join(pieces), re.DOTALL)
        assert any(pattern.search(text) for text in known), message


def test_docs_name_benchmarks_and_recipes_that_are_there():
    # Lab notes are left out: they name scripts that are gone, with the commit that has them. So are the generated
    # tree, whose paths begin in their folder, and placeholders in capitals.
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "results").glob("*.md")]
    named = re.compile(
        r"(?:python -m |from |import )(benchmarks(?:\.\w+)+)|\b((?:benchmarks|recipes)/[\w./-]+\.\w+)"
    )
    missing = []
    for page in pages:
        if page.name == "architecture.md":
            continue
        for match in named.finditer(page.read_text()):
            path = match[2] or match[1].replace(".", "/")
            if path == path.lower() and not any((ROOT / found).exists() for found in (path, f"{path}.py")):
                missing.append(f"{page.name}: {match[0]}")
    assert missing == []


def long_lines(page: Path) -> list[str]:
    """Lines over 120 characters, but for code, tables, generated parts and quoted messages (one line each)."""
    found = []
    is_code = is_generated = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        is_code ^= line.lstrip().startswith("```")
        if line.startswith("<!--"):
            is_generated = not line.startswith("<!-- end")
        if len(line) > 120 and not (is_code or is_generated or line.startswith(("|", "**`"))):
            found.append(f"{page.relative_to(ROOT)}:{number}: {len(line)} characters")
    return found


def test_prose_is_wrapped_at_120_characters():
    # Results are written by programs, with answers of models as they are.
    pages = {*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")} - set(
        (ROOT / "docs" / "results").glob("*.md")
    )
    assert [line for page in sorted(pages) for line in long_lines(page)] == []
