"""The process group of `student.on(ranks=n)`, on the grader's side: who waits for whom, what was sent, what it adds up to."""
