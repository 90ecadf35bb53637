"""Settings that reproduce the paper's formulas, or what its published code computes."""

from typing import Any

from data.errors import ConfigurationError

__all__ = ["PRESETS", "preset_settings"]

_PAPER_KD = {"formula": "exact", "kl_tail": "bucket", "normalize": "sequence"}
_PUBLISHED_KD = {"formula": "published", "kl_tail": "bucket", "normalize": "token"}

#: Preset -> method -> settings, `normalize` among them. docs/methods.md writes both down as formulas.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {
        "vanilla-kd": _PAPER_KD,
        "dckd": _PAPER_KD,
        "adpa": {"formula": "exact", "clip": "none", "advantage_tail": "zero", "normalize": "sequence"},
    },
    "published-code": {
        "vanilla-kd": _PUBLISHED_KD,
        "dckd": _PUBLISHED_KD,
        "adpa": {"formula": "published", "clip": "0:1", "advantage_tail": "zero", "normalize": "token"},
    },
}


def preset_settings(preset: str | None, method: str) -> dict[str, Any]:
    """What a preset sets for a method; nothing without one.

    Raises:
        ConfigurationError: for a method that the preset says nothing about.
    """
    if preset is None:
        return {}
    if method not in PRESETS[preset]:
        known = ", ".join(PRESETS[preset])
        raise ConfigurationError(f"--preset {preset}: says nothing about {method}; it is for {known}")
    return dict(PRESETS[preset][method])
