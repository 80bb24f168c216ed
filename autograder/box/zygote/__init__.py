"""What the warm parent of all workers runs, as root or as the grader's user, until a fork of it is confined.

loop.py is the process; becoming.py, confine.py and the layers that it puts on are the last that a worker runs of ours before
it reads a byte of the student's.
"""
