"""What leaves this tree: the handout that students get, the zip that Otter and Gradescope grade with, and its rehearsal."""
