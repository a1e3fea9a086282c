"""Dual encoders, their losses, and the gather that gives a rank the negatives of all ranks."""
