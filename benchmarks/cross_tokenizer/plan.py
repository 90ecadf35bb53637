"""How much of everything the training comparison makes, and which students it compares."""

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.real_text.sizes import ABD_ON_CHOSEN, W2S_ON_CHOSEN


def _size(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything; each field is a flag of the command."""

    seed: int = _size(0, "of prompts, sampling and training")
    train_prompts: int = _size(400, "prompts whose answers models are trained on")
    tuning_prompts: int = _size(320, "prompts of the pairs on which settings were chosen")
    teacher_prompts: int = _size(250, "further prompts, whose answers the teacher alone is trained on")
    held_out_prompts: int = _size(600, "prompts of the pairs that the table is about")
    samples: int = _size(6, "answers of the reference to each prompt")
    max_new_tokens: int = _size(40, "longest answer, tokens; a cut one is in no pair")
    common_tokens: int = _size(8000, "most frequent tokens that a vocabulary keeps beside those of the texts")
    teacher_steps: int = _size(76, "of the teacher's DPO, 8 pairs each")
    teacher_rate: float = _size(3e-5, "peak learning rate of the teacher's DPO")
    heal_steps: int = _size(100, "of SFT on the reference's answers, 16 each, after a student was cut out")
    heal_rate: float = _size(1e-3, "peak learning rate of that")
    steps: int = _size(40, "of every student's training, 8 pairs each")
    rate: float = _size(2e-4, "peak learning rate of every student's training")
    orders: int = _size(
        2, "orders of the rows in which every student is trained; figures are means over them"
    )
    gemma_layers: tuple[int, ...] = _size((0, 1, 17), "layers of Gemma that its student keeps")
    own_layers: tuple[int, ...] = _size((0, 1, 2, 28, 29), "layers of the reference that its student keeps")

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        """Flags of all sizes, on a parser."""
        for one in dataclasses.fields(cls):
            several = isinstance(one.default, tuple)
            parser.add_argument(
                f"--{one.name.replace('_', '-')}",
                type=int if several else type(one.default),
                nargs="+" if several else None,
                default=one.default,
                help=f"{one.metadata['help']} (default: {one.default})",
            )

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Plan":
        """The sizes that a command line gave."""
        given: dict[str, Any] = {}
        for one in dataclasses.fields(cls):
            value = getattr(options, one.name)
            given[one.name] = tuple(value) if isinstance(value, list) else value
        return cls(**given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A student before training, and where it comes from.

    Attributes:
        name: in the table.
        source: checkpoint that its layers are cut out of.
        layers: those that it keeps.
        translated: whether the teacher's signals are put on its token ids.
    """

    name: str
    source: Path
    layers: tuple[int, ...]
    translated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A row of the table: a student that was trained further, once in each order of the rows.

    Attributes:
        name: in the table.
        on_signals: whether it learns the teacher's signals, or the texts of the pairs.
        settings: fields of `TrainOptions`, the method among them.
    """

    name: str
    on_signals: bool
    settings: dict[str, Any]


#: Equal steps, batches and rates for all. Settings were chosen on the tuning pairs.
STUDENTS = (
    Trained(name="SFT on chosen", on_signals=False, settings={"method": "sft"}),
    Trained(name="boosted KD", on_signals=True, settings=ABD_ON_CHOSEN),
    Trained(name="w2s", on_signals=True, settings=W2S_ON_CHOSEN),
)

#: Which of them are compared with which.
COMPARED = (("w2s", "SFT on chosen"), ("boosted KD", "SFT on chosen"), ("w2s", "boosted KD"))
