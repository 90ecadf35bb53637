"""The prices of the recipes: shapes of the models, and a table for every step."""

from pathlib import Path

import pytest

from benchmarks.recipe_costs import SHAPES, Models

ROOT = Path(__file__).parent.parent

#: Parameters by the models' cards, where they give them exactly, else by their safetensors.
PARAMETERS = {
    "Llama-2-7b-hf": 6_738_415_616,
    "Llama-2-13b-hf": 13_015_864_320,
    "Llama-3.1-8B-Instruct": 8_030_261_248,
    "Llama-3.2-1B-Instruct": 1_235_814_400,
    "Mistral-7B-v0.1": 7_241_732_096,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-8B": 8_190_735_360,
    "SmolLM2-360M-Instruct": 361_821_120,
    "SmolLM2-1.7B-Instruct": 1_711_376_384,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_have_the_parameters_of_the_models_that_they_stand_for(name):
    assert sum(value.numel() for value in Models().student(name).parameters()) == PARAMETERS[name]


def test_the_page_prices_every_step_of_every_recipe():
    page = (ROOT / "docs" / "recipes.md").read_text()
    tables = page.split("<!-- costs:")[1].split("<!-- end of costs -->")[0].split("`recipes/")[1:]
    priced = {table.partition("`")[0]: table for table in tables}
    recipes = [path for path in (ROOT / "recipes").iterdir() if path.is_dir()]
    assert priced.keys() == {path.name for path in recipes}
    for path in recipes:
        rows = [
            line.split("|")[1].strip() for line in priced[path.name].splitlines() if line.startswith("| ")
        ]
        assert rows == ["step", "---", *sorted(step.stem for step in path.glob("*.toml")), "all"]


def test_a_trained_model_has_the_shape_of_what_it_was_trained_from():
    models = Models(
        started_from={"runs/a/teacher": "runs/a/reference", "runs/a/reference": "models/Llama-2-7b-hf"}
    )
    assert models.configuration("runs/a/teacher").hidden_size == SHAPES["Llama-2-7b-hf"]["hidden_size"]
