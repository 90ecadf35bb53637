"""One declaration of a setting is its option, help, check and preset, its entry in run.toml and in the docs."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from data.errors import ConfigurationError
from student_training.methods import METHODS, MethodSettings, MethodSpec, build_method, setting
from student_training.methods.describe import describe_method, methods_table, presets_table, settings_tables
from student_training.methods.settings import fill_settings, preset_settings, settings_options
from student_training.options import TrainOptions, resolve_method

ROOT = Path(__file__).parents[3]


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmthSettings(MethodSettings):
    warmth: float = setting(0.5, help="how warm", minimum=0, aliases=("--heat",), presets={"paper": 2.0})
    alpha: float = setting(7.0, help="weight of the KL terms", minimum=-1)
    careful: bool = setting(False, help="whether to be careful")


WARM = MethodSpec(name="warm", summary="NLL + warmth", settings=WarmthSettings, build=METHODS["sft"].build)


def options(method, **changes):
    return TrainOptions(method=method, student="s", out="o", signals=("a",), **changes)


def test_a_new_field_of_a_method_becomes_an_option_with_help_and_range():
    made = {name: (kind, field) for name, kind, field in settings_options([*METHODS.values(), WARM])}
    kind, field = made["warmth"]
    assert kind == (float | None)
    assert field.default is None
    assert field.metadata["help"] == "how warm [warm: 0.5]"
    assert (field.metadata["minimum"], field.metadata["aliases"]) == (0, ("--heat",))
    # The option takes what any of its methods takes, and says what it is to each.
    assert made["alpha"][1].metadata["minimum"] == -1
    assert (
        "[vanilla-kd, dckd: 5, abd, hybrid, opd, exopd, w2s: 1, aligndistil: 0.1, warm: 7]"
        in made["alpha"][1].metadata["help"]
    )


def test_a_new_field_of_a_method_is_described_in_help_and_documentation():
    assert "--warmth, --heat FLOAT >= 0  how warm  [default: 0.5]" in describe_method(WARM)
    assert "with --preset paper: 2" in describe_method(WARM)
    assert "`--warmth` 0.5, `--alpha` 7, `--careful` off |" in methods_table([WARM])
    assert "| `--warmth`, `--heat` FLOAT >= 0 | 0.5 | how warm |" in settings_tables([WARM])
    assert "| `paper` | `warm` | `--warmth` 2, `--normalize` sequence |" in presets_table([WARM])
    assert preset_settings("paper", WARM, [WARM]) == {"warmth": 2.0, "normalize": "sequence"}


def test_settings_given_as_text_are_read_as_their_types():
    assert fill_settings(WARM, {"warmth": "1e-1", "careful": "on"}) == WarmthSettings(
        warmth=0.1, careful=True
    )
    with pytest.raises(ConfigurationError, match="--warmth: 'hot' is not of type float"):
        fill_settings(WARM, {"warmth": "hot"})
    with pytest.raises(ConfigurationError, match="--careful: 'perhaps' is not of type bool"):
        fill_settings(WARM, {"careful": "perhaps"})


def test_each_method_checks_the_range_of_its_own_setting():
    with pytest.raises(ConfigurationError, match=r"--warmth: -1\.0 is out of range; it must be at least 0"):
        build_method(WARM, {"warmth": -1.0})
    with pytest.raises(ConfigurationError, match=r"--alpha: -0\.5 is out of range"):
        options("dckd", alpha=-0.5)


def test_options_record_defaults_and_given_values_of_their_method_alone():
    _, settings = resolve_method(options("abd", boost=0.5))
    assert settings == {
        "boost": 0.5, "clip": "1", "alpha": 1.0, "on": "pairs", "divergence": "by-role", "jsd_weight": 0.5,
        "nll_weight": 1.0, "advantage_power": 0.0, "advantage": "teacher", "constant_advantage": 0.5,
        "unlikely_mass": 0.2, "normalize": "token"
    }  # fmt: skip


def test_set_names_a_setting_as_its_option_does():
    assert (
        resolve_method(options("dckd", set=("alpha=0.5", "nll-weight=2")))[1]
        == (resolve_method(options("dckd", alpha=0.5, nll_weight=2.0))[1])
    )
    with pytest.raises(ConfigurationError, match="--set: 'alpha' is not NAME=VALUE"):
        options("dckd", set=("alpha",))
    with pytest.raises(ConfigurationError, match="--gamma: method dckd does not read it"):
        options("dckd", set=("gamma=1",))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_builds_from_its_defaults(method):
    built, settings = build_method(METHODS[method], {})
    assert built.name == method
    assert isinstance(settings, METHODS[method].settings)
    assert METHODS[method].defaults == dataclasses.asdict(settings)


def test_help_on_a_method_lists_its_settings_without_importing_torch():
    program = (
        "import sys\n"
        "from student_training.methods import find_method\n"
        "from student_training.methods.describe import describe_method\n"
        "print(describe_method(find_method('abd')))\n"
        "print('loaded:', sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert finished.stdout.endswith("loaded: []\n"), finished.stderr
    for flags in ("--boost, --abd-lambda FLOAT", "--on, --abd-rows pairs|chosen", "--clip STR"):
        assert flags in finished.stdout
    assert "gamma" not in finished.stdout


@pytest.mark.parametrize(
    ("alias", "value", "name"),
    [("--abd-rows", "student", "on"), ("--abd-lambda", "0.25", "boost"),
     ("--reference-implementation", "published", "formula")],
)  # fmt: skip
def test_old_and_new_spellings_of_an_option_are_the_same_option(alias, value, name):
    click_options = pytest.importorskip("data.options.click_options")

    method = "dckd" if name == "formula" else "abd"
    for flag in (alias, f"--{name}"):
        seen = []
        command = click_options.command_from(TrainOptions, seen.append, "train-student")
        words = ["--method", method, "--student", "s", "--out", "o", "--signals", "a", flag, value]
        command.main(words, standalone_mode=False)
        assert str(getattr(seen[0], name)) == value
