"""Prompts that no model has been trained or tuned on: the friendly world's questions about other events and tasks."""

from benchmarks.real_text.worlds.friendly import friendly_world

_EVENTS = (
    "won a small prize",
    "started to paint",
    "burned the soup",
    "passed a driving test",
    "lost an umbrella",
    "got a new puppy",
    "broke an arm",
    "retired last week",
    "sang on a stage",
    "is learning Spanish",
    "had an argument with a friend",
    "finished a long project",
    "baked a first cake",
    "slept badly",
    "bought an old house",
    "came back from a trip",
)
_TASKS = (
    "swim faster",
    "write a short poem",
    "plan a picnic",
    "make good tea",
    "wake up early",
    "grow tomatoes",
    "take better photos",
    "learn a few words of French",
    "pack a small suitcase",
    "speak in front of others",
    "tidy a desk",
    "paint a wall",
    "ride a bicycle",
    "eat more vegetables",
)

#: The friendly world has 1,144 different prompts; so has this one.
HELD_OUT = friendly_world("held-out", _EVENTS, _TASKS)
