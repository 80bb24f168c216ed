"""What shares a process with student code: it imports the wire and nothing else of ours, and holds no secret."""
