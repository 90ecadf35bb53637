"""Which method wins where: teachers from weak to strong by chosen answers from poor to excellent, on two toy worlds."""
