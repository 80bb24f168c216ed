print("REACHED: torch.py was imported")
