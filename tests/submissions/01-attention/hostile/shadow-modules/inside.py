print("REACHED: inside.py was imported")
