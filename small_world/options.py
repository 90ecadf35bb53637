"""The options of demo."""

import dataclasses

from data.options.fields import check_options, option


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DemoOptions:
    """Run the whole pipeline on a small world. It makes that itself: no network, no GPU."""

    out: str = option(
        "runs/demo",
        folder=True,
        help="folder for everything that it makes; finished steps are not done again",
    )
    seed: int = option(0, help="seed of the world and of all training", minimum=0)
    fast: bool = option(False, help="fewer steps and samples, the same path")
    workers: int = option(
        2, help="steps to run side by side, one CPU thread each", minimum=1, determining=False
    )

    def __post_init__(self) -> None:
        check_options(self)
