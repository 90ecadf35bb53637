"""`signals verify --deep`: a sample scored again with the models that the dataset names."""

import dataclasses
import shutil

import pytest
from click.testing import CliRunner

import cli
from data.commands.options import SignalsVerifyOptions
from data.errors import ConfigurationError, ShardError
from teacher_scoring import rescoring as verify_deep
from teacher_scoring.rescoring import rescore_sample
from teacher_scoring.score import ScoreOptions, score_teacher


@pytest.fixture(scope="module")
def dataset(tiny_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deep")
    return score_teacher(
        ScoreOptions(
            teacher=str(tiny_world.teacher),
            reference=str(tiny_world.reference),
            data=str(tiny_world.pairs),
            out=str(folder / "signals"),
            pass_cache=str(folder / "passes"),
            engine="transformers",
            top_k=8,
        )
    ).open()


def verify(dataset, **changed):
    options = SignalsVerifyOptions(**{"signals": str(dataset.path), "deep": 4, **changed})
    return rescore_sample(dataset.path, options)


def test_an_intact_dataset_differs_from_its_models_by_its_rounding_alone(dataset):
    result = verify(dataset)
    assert result.responses == 4
    assert result.positions > 4
    # The same engine in other batches: float32 sums in another order. Rounding itself shows in the nats.
    assert result.differences["probability"] < 1e-5
    assert result.differences["teacher_logprobs"] > 1e-3
    assert str(result).startswith(
        f"4 responses ({result.positions} positions) scored again with transformers; largest"
    )


def test_it_is_a_command_and_the_models_may_have_moved(dataset, tiny_world, tmp_path):
    for name in ("teacher", "reference"):
        shutil.copytree(getattr(tiny_world, name), tmp_path / name)
    command = ["signals", "verify", "--signals", str(dataset.path), "--deep", "2",
               "--teacher", str(tmp_path / "teacher"), "--reference", str(tmp_path / "reference")]  # fmt: skip
    finished = CliRunner().invoke(cli.commands, command, catch_exceptions=False)
    again, verdict = finished.output.splitlines()
    assert again.startswith("2 responses (")
    assert verdict == f"{dataset.path}: valid"


def test_other_weights_than_the_manifests_are_refused_before_anything_is_scored(dataset, tiny_world):
    with pytest.raises(
        ConfigurationError, match=r"--teacher: .*student has weights .* was made with .*say where"
    ):
        verify(dataset, teacher=str(tiny_world.student))
    with pytest.raises(ConfigurationError, match=r"--reference-adapter: the reference of .* had none"):
        verify(dataset, reference_adapter=str(tiny_world.student))
    with pytest.raises(ConfigurationError, match="are for --deep N"):
        verify(dataset, deep=0, teacher="x")


@pytest.mark.parametrize("name", ["--teacher", "--reference"])
def test_numbers_that_are_not_the_models_are_found_and_the_worst_pair_is_named(
    dataset, tiny_world, monkeypatch, name
):
    """As if the engine had served other weights than it was told to, for one of the models."""
    find = verify_deep.find_model

    def swapped(option, *arguments, **settings):
        found = find(option, *arguments, **settings)
        return dataclasses.replace(found, folder=tiny_world.student) if option == name else found

    monkeypatch.setattr(verify_deep, "find_model", swapped)
    with pytest.raises(ShardError, match=r"\d of 4 responses differ .* pair [0-9a-f]{24}: .* in probability"):
        verify(dataset)
