"""How a student's work comes in. Theory of operation.

What students hand in is the first thing of theirs that the grader touches, and the only one that it touches as itself.
So nothing here runs, imports or unpacks it: work comes in as bytes in memory, each file under a harmless name.

    class folder ──classes.py──▶ Source: one student's paths       what belongs to no student is named
    Source ──gather.py──▶ entries: names, kinds, bytes             folders.py walks, archives.py asks a reader
    entries ──gather.py──▶ Gathered                                noise off, names checked, limits, one prefix off
    Gathered ──choose.py──▶ the files, which is which module       notes for each choice
                           └─missing.py──▶ a sentence for each module that is not there

Two processes. Archives are parsed by a **reader** (reader.py), started for this one archive: the standard library alone,
limits on memory, CPU and wall time. It gets the archive as its standard input and writes frames of names and bytes, which
the grader reads with caps of its own and without pickle. So a crash, a bomb or an endless header costs one submission.
The reader is not a border of trust: it is the grader's user, and parses with the standard library what the grader would
otherwise parse itself.

Three kinds of answer:

    files          what is graded
    notes          for the instructor: what was left out, and each choice that was made
    problem, missing   for the student: why all rows, or a module's rows, fail, and what to do

Whatever the files do, the answer is one of these and no exception. Only wrong use (a path that does not exist) raises.
The doors are in submission.py; the command line, `--each`, Otter and `replay` all go through them.
"""
