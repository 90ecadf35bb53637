"""What a wrong command line says: the whole of it, and its exit code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cli

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def adpa(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "cli.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


USAGE = [
    (["train-studnet"], "Usage: cli.py [OPTIONS] COMMAND [ARGS]...\nTry 'cli.py --help' for help.\n\n"
                        "Error: No such command 'train-studnet'. Did you mean 'adpa train-student'?\n"),
    (["train-student", "--method", "rlhf", "--student", "s", "--data", "d.jsonl", "--out", "o"],
     "error: --method: 'rlhf' is not one of {methods}; module:ATTRIBUTE names a method of your own\n"),
    (["train-student", "--method", "sft", "--student", "s", "--data", "d.jsonl", "--out", "o", "--gamma", "2"],
     "error: --gamma: method sft does not read it; its own settings are: {sft}\n"),
    (["train-student", "--method", "sft", "--student", "s", "--out", "o"],
     "error: nothing to train on: give --signals, or --data for a method without a teacher\n"),
    (["train-student"],
     "error: --student, --method, --out and --signals (or --data) are required (as options or in --config)\n"),
    (["sample-student", "--teacher", "t"],
     "Usage: cli.py sample-student [OPTIONS]\nTry 'cli.py sample-student --help' for help.\n\n"
     "Error: No such option '--teacher'. It is an option of 'adpa score-teacher', 'adpa signals verify'.\n"),
    (["score-teacher", "--top-k", "3"], "error: --teacher and --data are required (as options or in --config)\n"),
    (["signals", "merge", "a", "b"], "Usage: cli.py signals merge [OPTIONS] [DATASET]\n"
                                     "Try 'cli.py signals merge --help' for help.\n\n"
                                     "Error: unexpected argument 'b'; quote what belongs together\n"),
    (["inspect", "signals/pairs"], "Usage: cli.py [OPTIONS] COMMAND [ARGS]...\nTry 'cli.py --help' for help.\n\n"
                                   "Error: No such command 'inspect'. Did you mean 'adpa signals inspect'?\n"),
    (["score-teacher", "--teacher", "t", "--out", "o"], "error: --data is required (as an option or in --config)\n"),
    (["score-teacher", "--teacher", "t", "--data", "d", "--out", "o", "--top-k", "0"],
     "error: --top-k: 0 is out of range; it must be between 1 and 65535\n"),
    (["score-teacher", "--teacher", "t", "--data", "d", "--out", "o", "--score", "chosen,best"],
     "error: --score: 'best' is not one of chosen, rejected, student\n"),
    (["score-teacher", "--teacher", "t", "--data", "", "--out", "o"],
     "error: --data: an empty text; give a value or leave the option out\n"),
    (["score-teacher", "--teacher", "t", "--data", "d", "--out", "o", "--top-k", "1000000"],
     "error: --top-k: 1000000 is out of range; it must be between 1 and 65535\n"),
    (["sample-student", "--student", "s", "--data", "d", "--out", "o", "--temperature", "inf"],
     "error: --temperature: inf is not a finite number\n"),
    (["score-teacher", "--config", "options.toml"],
     "error: options.toml: unknown key 'topk'; did you mean top_k?\n"),
    (["score-teacher", "--config", "broken.yaml"], None),
    (["sample-student", "--student", "nowhere/at/all", "--data", "d", "--out", "o"],
     "error: --student: nowhere/at/all: no such folder\n"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "expected"), USAGE, ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_a_wrong_command_line_ends_with_one_message_and_code_2(arguments, expected, tmp_path):
    from student_training.methods import METHODS

    (tmp_path / "options.toml").write_text('topk = 3\nteacher = "t"\n')
    (tmp_path / "broken.yaml").write_text("teacher: [")
    before = sorted(tmp_path.iterdir())
    finished = adpa(*arguments, cwd=tmp_path)
    assert finished.returncode == 2, finished.stderr
    assert finished.stdout == ""
    if expected is None:
        assert finished.stderr.startswith("error: --config: broken.yaml is neither TOML nor YAML: ")
    else:
        sft = ", ".join("--" + name.replace("_", "-") for name in METHODS["sft"].defaults) or "none"
        said = re.sub(r"^[\w -]+: loading libraries\n", "", finished.stderr)
        assert said == expected.format(methods=", ".join(METHODS), sft=sft)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", [[], ["train-student"], ["score-teacher"], ["signals"]])
def test_help_comes_without_loading_what_takes_seconds_to_load(command):
    program = (
        "import sys, cli\n"
        "try: cli.main()\n"
        "finally: print('loaded:', sorted({'torch', 'transformers', 'datasets', 'vllm', 'ray'} & set(sys.modules)))"
    )
    arguments = [sys.executable, "-c", program, *command, "--help"]
    finished = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, check=False)
    assert finished.stdout.startswith("Usage: ")
    assert finished.stdout.endswith("loaded: []\n"), finished.stderr


def test_help_gives_the_default_of_every_option_that_has_one():
    from click.testing import CliRunner

    import cli

    text = " ".join(CliRunner().invoke(cli.commands, ["train-student", "--help-all"]).output.split())
    for option, default in (("seed INTEGER", "0"), ("learning-rate FLOAT", "1e-05"), ("weight-decay FLOAT", "0"),
                            ("packing / --no-packing", "off"), ("check-shards / --no-check-shards", "on")):  # fmt: skip
        description = text.partition(f"--{option} ")[2].partition(" --")[0]
        assert f"[default: {default}]" in description, (option, description)


def help_of(*command: str) -> str:
    from click.testing import CliRunner

    import cli

    return CliRunner().invoke(cli.commands, [*command], catch_exceptions=False).output


@pytest.mark.parametrize(
    ("command", "at_most"), [("score-teacher", 15), ("sample-student", 15), ("train-student", 25)]
)
def test_short_help_shows_common_options_and_names_the_page_with_all(command, at_most):
    short, whole = help_of(command, "--help"), help_of(command, "--help-all")

    def flags(text: str) -> set[str]:
        own = text.partition("Every command:")[0]
        return set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", own, re.MULTILINE))

    assert flags(short) < flags(whole)
    assert 5 <= len(flags(short)) <= at_most
    assert f"{len(flags(whole)) - len(flags(short))} more options: " in short
    assert "more options" not in whole
    assert f"Examples:\n  adpa {command} " in short


def test_help_method_lists_the_settings_of_that_method_alone():
    assert "--gamma " in help_of("train-student", "--help-method", "adpa")
    assert "--beta " not in help_of("train-student", "--help-method", "adpa")


def test_the_whole_path_typed_by_hand(tiny_world, tmp_path):
    """Ten conversations in dpo-mix-7k's form: score, train, and every command again finds its work done."""
    models = ["--teacher", str(tiny_world.teacher), "--reference", str(tiny_world.reference)]
    score = ["score-teacher", *models, "--data", str(tiny_world.pairs), "--top-k", "8", "--engine", "transformers",
             "--out", "signals"]  # fmt: skip
    first = adpa(*score, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("signals: 20 responses of 10 pairs, ")
    assert "chosen and rejected as whole conversations; 10 rows, 10 kept" in first.stderr
    again = adpa(*score, cwd=tmp_path)
    assert again.returncode == 0
    assert "nothing to do" in again.stderr

    train = ["train-student", "--signals", "signals", "--student", str(tiny_world.student), "--method", "dckd",
             "--max-steps", "3", "--out", "student"]  # fmt: skip
    trained = adpa(*train, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "student" / "model.safetensors").exists()
    assert "nothing to do" in adpa(*train, cwd=tmp_path).stderr
    assert "nothing to do" in adpa("train-student", "--config", "student/run.toml", cwd=tmp_path).stderr
    other = adpa(*train, "--learning-rate", "0.5", cwd=tmp_path)
    assert other.returncode == 1
    assert "options.learning_rate" in other.stderr

    adpa_needs_rows = adpa(*[*train[:5], "--method", "adpa", "--out", "other"], cwd=tmp_path)
    assert adpa_needs_rows.returncode == 1
    assert "method adpa needs student responses" in adpa_needs_rows.stderr
    assert not (tmp_path / "other").exists()


def test_a_configuration_file_fills_in_what_the_flags_leave_out(tiny_world, tmp_path):
    config = tmp_path / "score.toml"
    config.write_text(
        f'teacher = "{tiny_world.teacher}"\ndata = "{tiny_world.pairs}"\ntop-k = 3\nscore = ["chosen"]\n'
    )
    finished = adpa(
        "score-teacher",
        "--config",
        str(config),
        "--top-k",
        "4",
        "--engine",
        "transformers",
        "--out",
        "o",
        cwd=tmp_path,
    )
    assert finished.returncode == 0, finished.stderr
    from data.signals.dataset import SignalDataset

    request = SignalDataset.open(tmp_path / "o").manifest.request
    assert (request["top_k"], request["roles"], request["reference"]) == (4, ["chosen"], None)


def test_function_imports_late_and_hands_on_named_arguments_too():
    assert cli.function("json:dumps")([1], separators=("", ":")) == "[1]"
    with pytest.raises(ModuleNotFoundError):
        cli.function("no_such_module:f")()


def test_commands_that_load_for_seconds_say_so_after_their_quick_checks(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("")
    line = [
        "train-student",
        "--student",
        "./model",
        "--data",
        "pairs.jsonl",
        "--method",
        "sft",
        "--out",
        "run",
    ]
    assert adpa(*line, cwd=tmp_path).stderr == "error: --student: ./model: no such folder\n"
    (tmp_path / "model").mkdir()
    assert adpa(*line, cwd=tmp_path).stderr.startswith("error: --student: ./model is not a model folder")
    (tmp_path / "model" / "config.json").write_text("{}")
    assert adpa(*line, cwd=tmp_path).stderr.startswith("train-student: loading libraries\nerror: --student: ")
