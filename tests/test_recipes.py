"""The accelerate configurations in recipes/ load, and say what they promise."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_multi_gpu_env

RECIPES = Path(__file__).parent.parent / "recipes"
KINDS = {
    "ddp": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
    "zero2": DistributedType.DEEPSPEED,
}


def test_every_recipe_is_known_here():
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_the_recipe_and_leaves_precision_to_train_student(name):
    # Refuses unknown keys.
    config = load_config_from_file(str(RECIPES / f"{name}.yaml"))
    assert config.distributed_type == KINDS[name]
    assert config.mixed_precision == "no"


def test_the_sharding_recipe_wraps_layers_and_gathers_whole_checkpoints(monkeypatch):
    # As `accelerate launch` does it: the recipe into arguments, those into the environment of every process.
    given = launch_command_parser().parse_args(["--config_file", str(RECIPES / "fsdp2.yaml"), "cli.py"])
    arguments, _, _ = _validate_launch_command(given)
    for key, value in prepare_multi_gpu_env(arguments).items():
        if key.startswith("FSDP_"):
            monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert str(plugin.state_dict_type).endswith("FULL_STATE_DICT")
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
