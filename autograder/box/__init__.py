"""The border of trust. sandbox.py (grader) asks zygote.py, which forks and confines worker.py (student)."""
