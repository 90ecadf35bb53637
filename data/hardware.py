"""Accelerators that people score on: what each computes at most, and how much it holds."""

from dataclasses import dataclass

__all__ = ["CARDS", "UTILISATION", "Card"]


#: Share of the peak that a scoring pass is assumed to reach: prompts alone go through the model, in large batches.
UTILISATION = 0.4


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of accelerator.

    Attributes:
        name: as `--card` takes it.
        peak_tflops: dense bfloat16 with float32 accumulation, by its vendor's data sheet, 10^12 operations a second.
        memory_gib: its memory.
    """

    name: str
    peak_tflops: float
    memory_gib: int


CARDS = {
    card.name: card
    for card in (
        Card("a100-40gb", 312, 40),
        Card("a100-80gb", 312, 80),
        Card("a10", 125, 24),
        Card("b200", 2250, 180),
        Card("h100-pcie", 756, 80),
        Card("h100-sxm", 989, 80),
        Card("h200", 989, 141),
        Card("l4", 121, 24),
        Card("l40s", 362, 48),
        Card("mi300x", 1307, 192),
        Card("rtx-3090", 71, 24),
        Card("rtx-4090", 165, 24),
        Card("rtx-a6000", 155, 48),
    )
}
