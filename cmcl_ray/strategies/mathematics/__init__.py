"""Mathematics shared by strategies, as pure functions."""
