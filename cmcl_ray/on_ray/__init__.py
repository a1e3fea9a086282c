"""Adapters to Ray: where work happens, and no science."""
