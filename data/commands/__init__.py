"""The `signals` commands: their options, what they do, and what they return."""

from data.commands.options import (
    SignalsInspectOptions,
    SignalsListOptions,
    SignalsPruneOptions,
    SignalsPullOptions,
    SignalsPushOptions,
    SignalsReportOptions,
    SignalsVerifyOptions,
)

__all__ = [
    "SignalsInspectOptions",
    "SignalsListOptions",
    "SignalsPruneOptions",
    "SignalsPullOptions",
    "SignalsPushOptions",
    "SignalsReportOptions",
    "SignalsVerifyOptions",
]
