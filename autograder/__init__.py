"""Grades lessons in which students write a language model themselves.

The package's parts and how a submission flows through them: docs/architecture.md.
"""

__version__ = "0.1.0"
