"""Wrong paths are named before anything heavy is imported."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from data.early_checks import check_inputs
from data.errors import ConfigurationError, DataError, ShardError
from data.model_identity import is_local_name
from small_world.options import DemoOptions

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["/nope", "./nope", "a/b/c", "~/nope"])
def test_is_local_name_knows_what_no_hub_name_can_be(name):
    assert is_local_name(name)


@pytest.mark.parametrize("name", ["gpt2", "my-org/model", "model/"])
def test_is_local_name_leaves_hub_names_to_the_hub(name):
    assert not is_local_name(name)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"teacher": "/nope"}, ConfigurationError, "--teacher: /nope: no such folder"),
        ({"model": ("gpt2", "./nope")}, ConfigurationError, "--model: ./nope: no such folder"),
        ({"signals": ("/nope",)}, ShardError, "no such dataset folder"),
        ({"data": "/nope.jsonl"}, DataError, "no such file or folder"),
        ({"annotations": ("/nope.json",)}, DataError, "--annotations: /nope.json: no such file"),
        (
            {"judge_reward_model": "./nope"},
            ConfigurationError,
            "--judge-reward-model: ./nope: no such folder",
        ),
        (
            {"teacher": "org/nope"},
            ConfigurationError,
            "--teacher: 'org/nope' is no folder here .* HF_HUB_OFFLINE is",
        ),
    ],
)
def test_check_inputs_names_what_is_not_there(options, error, text):
    with pytest.raises(error, match=text):
        check_inputs(SimpleNamespace(**options))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"student": "{file}"},
            ConfigurationError,
            "--student: .* is not a model folder: it has no config.json",
        ),
        ({"model": ("{folder}",)}, ConfigurationError, "--model: .* is not a model folder"),
        ({"signals": "{file}"}, ShardError, "a file, not a dataset folder"),
        ({"signals": "{folder}"}, ShardError, "no manifest.json, so the dataset is incomplete"),
        (
            {"judge_function": "nowhere:judge"},
            ConfigurationError,
            "--judge-function: nowhere:judge cannot be",
        ),
        ({"judge_function": "json:judge"}, ConfigurationError, "module 'json' has no 'judge'"),
        ({"method": "nowhere:METHOD"}, ConfigurationError, "--method: nowhere:METHOD cannot be imported"),
    ],
)
def test_check_inputs_names_what_is_there_and_something_else(options, error, text, tmp_path):
    file = tmp_path / "file"
    file.touch()
    found = {
        name: value.format(file=file, folder=tmp_path) if isinstance(value, str) else (str(tmp_path),)
        for name, value in options.items()
    }
    with pytest.raises(error, match=text):
        check_inputs(SimpleNamespace(**found))


@pytest.mark.parametrize(
    ("field", "other", "advice"),
    [
        ("teacher", "teacher_adapter", "give its base as --teacher and this folder as --teacher-adapter"),
        ("student", "adapter", "give its base as --student and this folder as --adapter"),
        ("student", "no_adapter", "merge it into its base first"),
        ("model", "other", "merge it into its base first"),
    ],
)
@pytest.mark.parametrize(
    "beside", [(), ("config.json", "adapter_model.safetensors", "optimizer.pt", "x.bin")]
)
def test_check_inputs_says_what_to_do_with_an_adapter_by_the_commands_options(
    field, other, advice, beside, tmp_path
):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    for name in beside:
        (tmp_path / name).write_text("{}")
    options = SimpleNamespace(**{field: str(tmp_path), other: None})
    with pytest.raises(
        ConfigurationError, match=f"is a LoRA adapter for org/base, not a whole model; {advice}"
    ):
        check_inputs(options)


@pytest.mark.parametrize("field", ["teacher", "student", "model"])
def test_check_inputs_refuses_a_whole_model_with_an_adapter_beside_it(field, tmp_path):
    for name in ("config.json", "adapter_config.json", "adapter_model.safetensors", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigurationError, match=f"--{field}: .* holds a whole model and a LoRA adapter"):
        check_inputs(SimpleNamespace(**{field: str(tmp_path)}))


@pytest.mark.parametrize("below", ["", "/deeper/still"])
def test_check_inputs_finds_a_file_in_the_way_of_an_output_folder(below, tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigurationError, match=f"--out: {file}{below}: no folder can be made there"):
        check_inputs(DemoOptions(out=f"{file}{below}"))


def test_check_inputs_lets_a_dataset_be_incomplete_where_that_is_the_question(tmp_path):
    check_inputs(SimpleNamespace(signals=str(tmp_path)), complete=False)


def test_check_inputs_leaves_what_is_there_or_elsewhere_alone(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    check_inputs(
        SimpleNamespace(teacher=str(tmp_path), model=("org/name",), signals=("s3://bucket/x",), data=None)
    )


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification by"),
        ({"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM by"),
        ({"architectures": ["InternLM2ForRewardModel"]}, "InternLM2ForRewardModel by"),
        ({"architectures": ["T5Model"], "is_encoder_decoder": True}, r"T5Model \(encoder and decoder\) by"),
    ],
)
def test_check_inputs_refuses_models_that_predict_no_next_token(config, kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigurationError, match=f"--reference: .* is a {kind} its config.json"):
        check_inputs(SimpleNamespace(reference=str(tmp_path)))


@pytest.mark.parametrize(
    "text",
    [
        '{"architectures": ["GPT2LMHeadModel"]}',
        '{"architectures": ["Gemma3ForConditionalGeneration"]}',
        "{}",
        "[",
    ],
)
def test_check_inputs_leaves_other_configurations_to_whoever_loads_them(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    check_inputs(SimpleNamespace(student=str(tmp_path)))


def test_check_inputs_refuses_an_adapter_from_the_hub_by_its_configuration_alone(tmp_path, monkeypatch):
    for name in ("config.json", "adapter_config.json"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **how: str(tmp_path))
    with pytest.raises(
        ConfigurationError, match="is a LoRA adapter, not a whole model; give its base as --teacher"
    ):
        check_inputs(SimpleNamespace(teacher="org/adapter", teacher_adapter=None))


def test_check_inputs_fetches_only_the_configuration_of_a_hub_model(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **how: asked.append((name, how)) or "/x"
    )
    check_inputs(SimpleNamespace(reference="org/name", reference_revision="v2"))
    assert asked == [
        ("org/name", {"revision": "v2", "allow_patterns": ["config.json", "adapter_config.json"]}),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["score-teacher --teacher", "train-student --method dpo --student"])
def test_a_wrong_path_is_named_without_loading_torch(command, tmp_path):
    program = (
        "import sys, cli\n"
        "try: cli.main()\n"
        "finally: print('loaded:', sorted({'torch', 'transformers', 'datasets', 'vllm'} & set(sys.modules)))"
    )
    (tmp_path / "d.jsonl").write_text("{}\n")
    arguments = [*command.split(), "/nope", "--data", str(tmp_path / "d.jsonl"), "--out", str(tmp_path / "o")]
    finished = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert finished.returncode == 2
    assert "/nope: no such folder" in finished.stderr
    assert finished.stdout == "loaded: []\n"
