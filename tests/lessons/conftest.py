"""`pytest tests/lessons/NN-name` runs a suite on the lesson's solution, or on --submission FOLDER: docs/authors.md, section 5.

For an author's eyes and debugger. Grading does not read this file, and no zip holds it.
"""

from autograder.author.plain import *  # noqa: F403
