"""GPUs: peak speed and memory, and hours for people."""

import re
from dataclasses import dataclass

#: Share of the peak that a scoring pass is assumed to reach: prompts alone go through the model, in large batches.
UTILISATION = 0.4


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of accelerator.

    All rates are dense, by the vendor's data sheet, in 10^12 operations a second.

    Attributes:
        name: as `--card` takes it.
        peak_tflops: bfloat16 or float16 with float32 accumulation.
        memory_gib: its memory.
        float32_tflops: float32 without TF32, as torch multiplies by default.
        float8_tflops: 8-bit floats with float32 accumulation; None where the card has none and computes in 16 bits.
    """

    name: str
    peak_tflops: float
    memory_gib: int
    float32_tflops: float
    float8_tflops: float | None = None

    def tflops(self, dtype: str) -> float:
        """The most that it computes with weights of a dtype, as torch names it, such as `bfloat16`."""
        if dtype == "float32":
            return self.float32_tflops
        if dtype.startswith("float8"):
            return self.float8_tflops or self.peak_tflops
        return self.peak_tflops


CARDS = {
    card.name: card
    for card in (
        Card("a100-40gb", 312, 40, 19.5),
        Card("a100-80gb", 312, 80, 19.5),
        Card("a10", 125, 24, 31.2),
        Card("a10g", 70, 24, 31.5),
        Card("b200", 2250, 180, 75, 4500),
        Card("h100-pcie", 756, 80, 51, 1513),
        Card("h100-sxm", 989, 80, 67, 1979),
        Card("h200", 989, 141, 67, 1979),
        Card("l4", 121, 24, 30.3, 242),
        Card("l40", 181, 48, 90.5, 362),
        Card("l40s", 362, 48, 91.6, 733),
        Card("mi300x", 1307, 192, 163.4, 2615),
        Card("rtx-3090", 71, 24, 35.6),
        Card("rtx-4090", 165, 24, 82.6, 330),
        Card("rtx-a6000", 155, 48, 38.7),
    )
}

#: A large card of a data centre, a consumer's, and a small one that is rented by the hour: what every --dry-run prices.
PRICED_CARDS = ("h100-sxm", "rtx-4090", "l4")


def find_card(device_name: str) -> Card | None:
    """The card that a driver's name for a device means, such as "NVIDIA A100-SXM4-80GB"; None for one not in the table.

    Of the cards with its number, the one whose name has most words in common with it; of several, the fastest.
    """
    words = set(re.findall(r"[a-z0-9]+", device_name.lower()))
    shared = {card: set(card.name.split("-")) & words for card in CARDS.values()}
    known = [card for card, common in shared.items() if any(map(_has_digit, common - {"40gb", "80gb"}))]
    return max(known, key=lambda card: (len(shared[card]), card.peak_tflops), default=None)


def describe_hours(hours: float) -> str:
    """Hours for people, in minutes or seconds where they are few."""
    if hours >= 2:
        return f"{hours:,.1f} hours"
    return f"{60 * hours:.1f} minutes" if hours >= 1 / 60 else f"{3600 * hours:.2g} seconds"


def _has_digit(word: str) -> bool:
    return any(map(str.isdigit, word))
