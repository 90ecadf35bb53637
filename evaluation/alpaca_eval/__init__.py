"""AlpacaEval 2: its file forms, its leaderboard's figures, and judging by its published structure."""
