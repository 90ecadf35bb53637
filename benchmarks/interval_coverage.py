"""Coverage of the 95% intervals of win rates by simulation: how often they hold the true value."""

import argparse
from collections.abc import Callable

import numpy as np

from evaluation.metrics.statistics import mean_estimate

# Each draws n prompts' preferences, and says their true mean.
Draw = Callable[[np.random.Generator, int], np.ndarray]

WORLDS: dict[str, tuple[float, Draw]] = {
    "one verdict a prompt, 50%": (0.5, lambda g, n: (g.random(n) < 0.5).astype(float)),
    "one verdict a prompt, 20%": (0.2, lambda g, n: (g.random(n) < 0.2).astype(float)),
    "one verdict a prompt, 5%": (0.05, lambda g, n: (g.random(n) < 0.05).astype(float)),
    "two orders, half of them ties": (0.55, lambda g, n: g.choice([0.0, 0.5, 1.0], n, p=[0.2, 0.5, 0.3])),
    "probabilities, decided": (0.25, lambda g, n: g.beta(0.1, 0.3, n)),
    "probabilities, undecided": (0.5, lambda g, n: g.beta(4, 4, n)),
    "differences of two models": (
        0.1,
        lambda g, n: g.choice([-1.0, -0.5, 0.0, 0.5, 1.0], n, p=[0.1, 0.1, 0.4, 0.3, 0.1]),
    ),
}


def coverage(
    true_mean: float, draw: Draw, *, num_prompts: int, rounds: int, resamples: int, seed: int
) -> float:
    """Share of simulated evaluations whose interval holds the true mean."""
    generator = np.random.default_rng(seed)
    held = 0
    for number in range(rounds):
        values = draw(generator, num_prompts)
        bounds = (0.0, 1.0) if values.min() >= 0 else (-1.0, 1.0)
        estimate = mean_estimate(values, bounds=bounds, seed=number, resamples=resamples)
        held += estimate.low <= true_mean <= estimate.high
    return held / rounds


def main() -> None:
    """Print a table: worlds by numbers of prompts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4000, help="simulated evaluations for each cell")
    parser.add_argument("--resamples", type=int, default=1000, help="of each bootstrap")
    parser.add_argument("--prompts", type=int, nargs="+", default=[20, 50, 100, 500])
    arguments = parser.parse_args()
    print("| preferences | " + " | ".join(f"n = {n}" for n in arguments.prompts) + " |")
    print("| --- |" + " --- |" * len(arguments.prompts))
    for name, (true_mean, draw) in WORLDS.items():
        cells = [
            coverage(
                true_mean,
                draw,
                num_prompts=n,
                rounds=arguments.rounds,
                resamples=arguments.resamples,
                seed=n,
            )
            for n in arguments.prompts
        ]
        print(f"| {name} | " + " | ".join(f"{cell:.1%}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
