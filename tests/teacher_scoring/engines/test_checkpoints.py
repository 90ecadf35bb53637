import pytest

from data.errors import AdpaError, ConfigurationError, ScoringError
from teacher_scoring.engines.contract import EngineOptions, parse_engine_args
from teacher_scoring.engines.open import open_engine, resolve_engine

# vLLM is not imported before the folder has been looked at, so that these need no engine to start.
ENGINES = ["transformers", "vllm"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def refusal(kind, **options):
    with pytest.raises(AdpaError) as error:
        open_engine(kind, EngineOptions(**options))
    assert "\n" not in str(error.value)
    return error.value


@pytest.mark.parametrize("kind", ENGINES)
class TestNotAModel:
    def test_a_folder_that_does_not_exist_is_refused(self, kind, tmp_path):
        error = refusal(kind, model=str(tmp_path / "nowhere"))
        assert isinstance(error, ConfigurationError)
        assert "nowhere: no such folder; expected a model folder" in str(error)

    def test_a_folder_without_configuration_is_refused(self, kind, folder):
        assert "not a model folder, it has no config.json" in str(refusal(kind, model=str(folder)))

    def test_a_file_is_refused(self, kind, tmp_path):
        (tmp_path / "file").write_text("text")
        assert "not a model folder" in str(refusal(kind, model=str(tmp_path / "file")))

    def test_a_damaged_configuration_is_refused(self, kind, folder):
        (folder / "config.json").write_text("{")
        assert "config.json: not readable as JSON" in str(refusal(kind, model=str(folder)))
        (folder / "config.json").write_text("[]")
        assert "config.json: list instead of a JSON object" in str(refusal(kind, model=str(folder)))

    def test_a_folder_without_weights_is_refused(self, kind, folder):
        (folder / "config.json").write_text('{"model_type": "llama"}')
        assert "model: no weights" in str(refusal(kind, model=str(folder)))

    def test_an_adapter_that_is_none_is_refused(self, kind, folder, make_checkpoint):
        error = refusal(kind, model=str(make_checkpoint()), adapter=str(folder))
        assert "not a LoRA adapter folder, it has no adapter_config.json" in str(error)


@pytest.mark.parametrize("kind", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_an_engine_argument_that_the_library_does_not_have_is_named(kind, make_checkpoint):
    error = refusal(kind, model=str(make_checkpoint()), engine_args=("no-such-thing=3",))
    assert isinstance(error, ConfigurationError)
    assert "engine_arg: " in str(error)
    assert "has no argument 'no_such_thing'" in str(error)


def test_an_unknown_architecture_is_one_line_of_error(folder):
    (folder / "config.json").write_text('{"model_type": "unheard-of"}')
    (folder / "model.safetensors").write_bytes(b"")
    error = refusal("transformers", model=str(folder))
    assert isinstance(error, ScoringError)
    assert "unheard-of" in str(error)


def test_damaged_weights_are_one_line_of_error(make_checkpoint, folder):
    for file in make_checkpoint().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    assert "transformers cannot load this model" in str(refusal("transformers", model=str(folder)))


def test_an_unknown_engine_is_refused():
    with pytest.raises(ConfigurationError, match="engine: 'sglang' is not one of auto, vllm, transformers"):
        resolve_engine("sglang")


def test_auto_takes_vllm_only_where_it_is_installed(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert resolve_engine("auto") == "transformers"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert resolve_engine("auto") == "vllm"


def test_engine_arguments_are_json_where_possible():
    pairs = ("max-num-seqs=4", "enforce_eager=true", "kv_cache_dtype=fp8", 'hf_overrides={"a": [1]}', "x=a=b")
    assert parse_engine_args(pairs) == {
        "max_num_seqs": 4,
        "enforce_eager": True,
        "kv_cache_dtype": "fp8",
        "hf_overrides": {"a": [1]},
        "x": "a=b",
    }


@pytest.mark.parametrize("pair", ["swap_space", "=4"])
def test_an_engine_argument_without_key_or_value_is_refused(pair):
    with pytest.raises(ConfigurationError, match="is not KEY=VALUE"):
        parse_engine_args([pair])


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ConfigurationError, match="dtype: 'int8' is not one of auto, float32"):
        EngineOptions(model="model", dtype="int8")
