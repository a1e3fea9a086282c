"""One continual run: what it is (the loop), against where it happens (the engine)."""
