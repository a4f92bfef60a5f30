"""Fixtures of the slow tests."""

from small_project import ablation_project as project

__all__ = ["project"]
