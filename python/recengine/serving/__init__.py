"""Answers while events arrive."""

from recengine.serving.sessions import Sessions

__all__ = ["Sessions"]
