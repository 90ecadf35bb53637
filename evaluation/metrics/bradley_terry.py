"""Bradley-Terry strengths from a table of wins, by Newton's method on the log-likelihood."""

import numpy as np

# Half a draw for each pair that met: without it a model that never lost has no finite strength.
_PRIOR_GAMES = 0.5

_MAX_STEPS = 100


def strengths(wins: np.ndarray) -> np.ndarray | None:
    """Strengths whose difference is the log-odds that one beats the other.

    Each pair that met gets half a drawn game on top, which keeps strengths finite.

    Args:
        wins: wins of the row's model over the column's, draws as halves, shape (N, N); the diagonal is ignored.
    Returns:
        Shape (N,), mean 0; None where the pairs that met do not connect all models.
    """
    games = wins + wins.T
    np.fill_diagonal(games, 0)
    met = games > 0
    if not _is_connected(met):
        return None
    won = np.where(met, wins + _PRIOR_GAMES / 2, 0)
    np.fill_diagonal(won, 0)
    played = won + won.T
    theta = np.zeros(len(wins))
    for _ in range(_MAX_STEPS):
        expected = 1 / (1 + np.exp(theta[None, :] - theta[:, None]))
        gradient = (won - played * expected).sum(axis=1)
        curvature = played * expected * (1 - expected)
        hessian = np.diag(curvature.sum(axis=1)) - curvature
        # Strengths are free up to a constant; one of rank one makes the matrix invertible and keeps their mean 0.
        step = np.linalg.solve(hessian + 1 / len(wins), gradient)
        # Newton's steps may overshoot far from the optimum; the likelihood is concave, so short steps reach it.
        theta += step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-12:
            break
    return theta - theta.mean()


def _is_connected(met: np.ndarray) -> bool:
    reached = np.zeros(len(met), dtype=bool)
    reached[:1] = True
    while True:
        wider = reached | met[reached].any(axis=0)
        if (wider == reached).all():
            return bool(reached.all())
        reached = wider
