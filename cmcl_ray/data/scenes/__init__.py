"""Procedurally drawn scenes with composed captions: integer arithmetic only, so bytes are the same on any machine."""
