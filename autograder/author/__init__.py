"""For authors of lessons: cutting starters, a new lesson's skeleton, samples, and what a suite is worth. Nothing here grades."""
