"""Gallery policies, one file each: what happens to the old gallery when the model moves, and how queries meet it."""
