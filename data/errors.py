"""Errors that users can fix: one base class, and a subclass for each part that can fail."""

__all__ = [
    "AdpaError",
    "ConfigurationError",
    "DataError",
    "EvaluationError",
    "ScoringError",
    "ShardError",
    "TrainingError",
]


class AdpaError(Exception):
    """Something the user can fix. The message names the subject, the value seen, the value allowed and what to do."""


class ConfigurationError(AdpaError):
    """An option, a configuration file or a combination of options that cannot work."""


class DataError(AdpaError):
    """Preference rows, rollouts, models' tokenizers or chat templates that cannot be used."""


class ShardError(AdpaError):
    """A signal or rollout dataset on disk that is incomplete, damaged or not the one asked for."""


class ScoringError(AdpaError):
    """An engine that gave no answer, or one that fails the checks."""


class TrainingError(AdpaError):
    """Training that cannot start or must not go on."""


class EvaluationError(AdpaError):
    """A judge, a benchmark, judgments or other tools' result files that cannot be used."""
