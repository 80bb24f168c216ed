"""The process group of `student.on(ranks=n)`, on the grader's side: which rank waits for which, what was sent, what it adds up to."""
